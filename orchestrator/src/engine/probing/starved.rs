//! What floaters say of their own health in a round, and which losses it explains.

use std::collections::HashMap;

use floater::wire::{Health, Layer, Protocol};

use crate::evidence::NodeRef;
use crate::probe_plan::PlannedProbe;

/// The health of the floaters that sent something in one round.
#[derive(Default)]
pub(super) struct Starved {
    by_floater: HashMap<(NodeRef, Layer), Health>,
}

impl Starved {
    /// Adds what a floater says at the end of one of its plans.
    pub(super) fn add(&mut self, floater: (NodeRef, Layer), health: Health) {
        let known = self.by_floater.entry(floater).or_default();
        known.worst_lateness_us = known.worst_lateness_us.max(health.worst_lateness_us);
        known.receive_drops = known.receive_drops.saturating_add(health.receive_drops);
        let overflows = [known.accept_queue_overflows, health.accept_queue_overflows];
        known.accept_queue_overflows = overflows.into_iter().flatten().max();
    }

    /// Why a loss of this probe says nothing about the network; none where both ends were well enough, or said nothing.
    ///
    /// What both ends were late by together is held against the time that an answer is waited for: less than half of it cannot have
    /// made an answer late by the whole.
    pub(super) fn excuse(&self, probe: &PlannedProbe, timeout_ms: u32) -> Option<String> {
        let of = |node| self.by_floater.get(&(node, probe.layer)).copied();
        let sender = of(probe.src).unwrap_or_default();
        let responder = of(probe.dst).unwrap_or_default();
        if sender.receive_drops > 0 {
            return Some(format!(
                "its floater dropped {} packets that had arrived",
                sender.receive_drops
            ));
        }
        let overflows = responder.accept_queue_overflows.unwrap_or_default();
        if probe.protocol == Protocol::Tcp && overflows > 0 {
            return Some(format!(
                "the responder's queue of connections overflowed {overflows} times"
            ));
        }
        let late = sender
            .worst_lateness_us
            .saturating_add(responder.worst_lateness_us);
        (late >= u64::from(timeout_ms) * 500).then(|| {
            format!(
                "the floaters at its ends woke up to {} ms too late",
                late / 1000
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(node: usize) -> NodeRef {
        NodeRef { cluster: 0, node }
    }

    fn probe(protocol: Protocol) -> PlannedProbe {
        PlannedProbe {
            src: node(0),
            dst: node(1),
            layer: Layer::Pod,
            family: datapath::state::Family::Ipv4,
            protocol,
            target: [10, 0, 0, 1].into(),
            count: 1,
            payload_bytes: 56,
        }
    }

    fn excuse(of: usize, health: Health, protocol: Protocol) -> Option<String> {
        let mut starved = Starved::default();
        starved.add((node(of), Layer::Pod), health);
        starved.excuse(&probe(protocol), 1000)
    }

    #[test]
    fn a_loss_is_excused_by_either_end_that_was_starved_and_by_nothing_else() {
        let late = |us| Health {
            missed_ticks: 9,
            worst_lateness_us: us,
            ..Health::default()
        };
        for of in [0, 1] {
            assert!(excuse(of, late(500_000), Protocol::Icmp).is_some());
            assert_eq!(excuse(of, late(499_000), Protocol::Icmp), None);
            assert!(excuse(of, late(u64::MAX), Protocol::Tcp).is_some());
        }
        assert_eq!(
            excuse(2, late(u64::MAX), Protocol::Icmp),
            None,
            "a third one"
        );
        let overflowed = Health {
            accept_queue_overflows: Some(3),
            ..Health::default()
        };
        assert!(excuse(1, overflowed, Protocol::Tcp).is_some());
        assert_eq!(excuse(1, overflowed, Protocol::Icmp), None);
        assert_eq!(excuse(0, overflowed, Protocol::Tcp), None);
        let dropped = Health {
            receive_drops: 1,
            ..Health::default()
        };
        assert!(excuse(0, dropped, Protocol::Icmp).is_some());
        assert_eq!(excuse(1, dropped, Protocol::Icmp), None);
    }

    #[test]
    fn lateness_of_both_ends_adds_up() {
        let mut starved = Starved::default();
        for of in [0, 1] {
            let health = Health {
                worst_lateness_us: 300_000,
                ..Health::default()
            };
            starved.add((node(of), Layer::Pod), health);
        }
        assert!(starved.excuse(&probe(Protocol::Tcp), 1000).is_some());
        assert_eq!(starved.excuse(&probe(Protocol::Tcp), 1500), None);
    }
}
