//! The plans of a floater: how many run, what each may send, how they fared.

use std::sync::{Arc, Mutex, PoisonError};

use ring::rand::{SecureRandom as _, SystemRandom};

use crate::wire::{CEILING_PPS, Health, MAX_PLANS, Plan};

/// What nobody else knows of a plan's packets.
#[derive(Debug, Clone, Copy)]
pub(super) struct Secret {
    /// The identifier of its echoes: one of few, so that a node's connection tracking holds few entries per destination.
    pub(super) identifier: u16,
    /// Makes its echoes' cookies.
    pub(super) cookies: u64,
}

/// The places for plans.
#[derive(Debug, Clone)]
pub(super) struct Plans(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// The first of [`MAX_PLANS`] identifiers.
    identifier: u16,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    taken: [bool; MAX_PLANS],
    health: Health,
    /// The run whose plans were carried out last, and how many packets they have.
    run: (String, u64),
}

/// A plan's place; given back when it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    plans: Plans,
    at: usize,
    secret: Secret,
}

impl Plans {
    pub(super) fn new() -> Self {
        Self(Arc::new(Shared {
            identifier: u16::from_be_bytes(random()),
            state: Mutex::new(State::default()),
        }))
    }

    /// A place for another plan; none when all are taken.
    pub(super) fn place(&self) -> Option<Place> {
        let mut state = self.state();
        let at = state.taken.iter().position(|taken| !taken)?;
        state.taken[at] = true;
        Some(Place {
            plans: self.clone(),
            at,
            secret: Secret {
                identifier: self.0.identifier.wrapping_add(at as u16),
                // Another for each plan: answers to one never pass for another's.
                cookies: u64::from_be_bytes(random()),
            },
        })
    }

    /// How the plans have fared that have ended: missed ticks, lateness and drops.
    pub(super) fn health(&self) -> Health {
        self.state().health
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    pub(super) fn secret(&self) -> Secret {
        self.secret
    }

    /// Packets per second that this plan may send while so many run as do now: all together stay within the ceiling.
    pub(super) fn share_pps(&self) -> u32 {
        let running = self
            .plans
            .state()
            .taken
            .iter()
            .filter(|taken| **taken)
            .count();
        // At least this one, at most MAX_PLANS.
        CEILING_PPS / u32::try_from(running.max(1)).unwrap_or(1)
    }

    /// How many packets earlier plans of the run have, to which those of this one are added.
    pub(super) fn packets_before(&self, plan: &Plan) -> u64 {
        let (run, packets) = &mut self.plans.state().run;
        if *run != plan.run {
            run.clone_from(&plan.run);
            *packets = 0;
        }
        let before = *packets;
        *packets = before.saturating_add(plan.packets());
        before
    }

    /// Adds how this plan has fared.
    pub(super) fn fared(&self, health: Health) {
        let sum = &mut self.plans.state().health;
        sum.missed_ticks += health.missed_ticks;
        sum.receive_drops += health.receive_drops;
        sum.worst_lateness_us = sum.worst_lateness_us.max(health.worst_lateness_us);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.plans.state().taken[self.at] = false;
    }
}

/// Random bytes.
fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    if SystemRandom::new().fill(&mut bytes).is_err() {
        // Guessing needs the time to the nanosecond; without randomness nothing else here works either.
        let nanos = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap_or_default()
            .as_nanos()
            .to_be_bytes();
        let low = &nanos[nanos.len() - N.min(nanos.len())..];
        bytes[..low.len()].copy_from_slice(low);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plans_share_the_ceiling_and_give_their_share_back() {
        let plans = Plans::new();
        let first = plans.place().expect("room");
        assert_eq!(first.share_pps(), CEILING_PPS);
        let others: Vec<Place> = (1..MAX_PLANS).filter_map(|_| plans.place()).collect();
        assert_eq!(others.len(), MAX_PLANS - 1);
        assert!(plans.place().is_none());
        let sum: u32 = others.iter().chain([&first]).map(Place::share_pps).sum();
        assert!(sum <= CEILING_PPS && sum > CEILING_PPS * 9 / 10, "{sum}");
        drop(others);
        assert_eq!(first.share_pps(), CEILING_PPS);
    }

    #[test]
    fn plans_that_run_together_share_no_secret() {
        let plans = Plans::new();
        let (first, second) = (plans.place().expect("room"), plans.place().expect("room"));
        assert_ne!(first.secret().identifier, second.secret().identifier);
        assert_ne!(first.secret().cookies, second.secret().cookies);
    }

    #[test]
    fn the_health_of_ended_plans_adds_up() {
        let plans = Plans::new();
        let place = plans.place().expect("room");
        for worst_lateness_us in [7, 3] {
            place.fared(Health {
                missed_ticks: 2,
                worst_lateness_us,
                receive_drops: 1,
                ..Health::default()
            });
        }
        drop(place);
        let health = plans.health();
        let figures = (
            health.missed_ticks,
            health.worst_lateness_us,
            health.receive_drops,
        );
        assert_eq!(figures, (4, 7, 2));
    }
}
