//! The order of output: each list descending by the bytes of its elements' compact JSON, without that JSON ever being made.

use std::cmp::Ordering;

use crate::api::{Arp, Device, Fdb, Iptables, NodeConfigSpec, Route};

pub(super) fn sort(config: &mut NodeConfigSpec) {
    config.devices.sort_by(|left, right| device(right, left));
    config.routes.sort_by(|left, right| route(right, left));
    config.iptables.sort_by(|left, right| iptables(right, left));
    config.fdbs.sort_by(|left, right| fdb(right, left));
    config.arps.sort_by(|left, right| arp(right, left));
    config.takeover.sort_by(|left, right| route(right, left));
    // Kosmos does not know these.
    config.gateways.sort();
    config.multipath.sort();
    config.devices.dedup();
    config.routes.dedup();
    config.iptables.dedup();
    config.fdbs.dedup();
    config.arps.dedup();
    config.takeover.dedup();
    config.gateways.dedup();
    config.multipath.dedup();
}

fn device(left: &Device, right: &Device) -> Ordering {
    text(&left.kind, &right.kind)
        .then_with(|| text(&left.name, &right.name))
        .then_with(|| text(&left.addr, &right.addr))
        .then_with(|| text(&left.mac, &right.mac))
        .then_with(|| text(&left.bind_dev, &right.bind_dev))
        .then_with(|| left.id.cmp(&right.id))
        .then_with(|| left.port.cmp(&right.port))
}

fn route(left: &Route, right: &Route) -> Ordering {
    text(&left.cidr, &right.cidr)
        .then_with(|| text(&left.gw, &right.gw))
        .then_with(|| text(&left.dev, &right.dev))
}

fn iptables(left: &Iptables, right: &Iptables) -> Ordering {
    text(&left.table, &right.table)
        .then_with(|| text(&left.chain, &right.chain))
        .then_with(|| text(&left.rule, &right.rule))
}

fn fdb(left: &Fdb, right: &Fdb) -> Ordering {
    text(&left.ip, &right.ip)
        .then_with(|| text(&left.mac, &right.mac))
        .then_with(|| text(&left.dev, &right.dev))
}

fn arp(left: &Arp, right: &Arp) -> Ordering {
    text(&left.ip, &right.ip)
        .then_with(|| text(&left.mac, &right.mac))
        .then_with(|| text(&left.dev, &right.dev))
}

/// Compares two strings as they would stand in JSON, where a closing quote follows the last byte.
pub(super) fn text(left: &str, right: &str) -> Ordering {
    let (left, right) = (left.as_bytes(), right.as_bytes());
    let shared = left.len().min(right.len());
    left[..shared].cmp(&right[..shared]).then_with(|| {
        let next = |bytes: &[u8]| bytes.get(shared).copied().unwrap_or(b'"');
        next(left)
            .cmp(&next(right))
            .then_with(|| left.len().cmp(&right.len()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_is_that_of_the_json() {
        let rows: Vec<Iptables> = [
            "-s 220.0.0.0/8 -j MASQUERADE",
            "-s 220.0.0.0/8",
            "-s 220.0.0.0/80",
            "",
            "-s",
        ]
        .into_iter()
        .map(|rule| Iptables {
            table: "nat".into(),
            chain: "POSTROUTING".into(),
            rule: rule.into(),
        })
        .collect();
        for left in &rows {
            for right in &rows {
                let json = |row| serde_json::to_string(row).expect("plain text");
                assert_eq!(
                    iptables(left, right),
                    json(left).cmp(&json(right)),
                    "{left:?} {right:?}"
                );
            }
        }
    }
}
