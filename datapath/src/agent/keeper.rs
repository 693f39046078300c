//! When to look at the node, and what to make of it. No clock, no kernel, no API.
//!
//! ```text
//!   Wanted ───────► candidate ──adopt──► adopted ──┐
//!   Withdrawn ─(grace)─► adopted := nothing        ├─► due ─► settled(true)  ─► again at the next event or after `resync`
//!   KernelChanged ─(settle)────────────────────────┘       └► settled(false) ─► again after 1, 2, 4 … `retry_limit`
//! ```

use std::time::Duration;

use serde::Deserialize as _;
use serde_json::Value;
use tracing::{error, warn};

use crate::api::NodeConfigSpec;

/// How long the keeper waits for what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// From the first notice of a change to the look at it, so that one look serves many.
    pub settle: Duration,
    /// Between looks when nothing happens: for what gives no notice.
    pub resync: Duration,
    /// From the deletion of the NodeConfig to the withdrawal of its rows.
    pub grace: Duration,
    /// The longest delay between attempts at what fails.
    pub retry_limit: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            settle: Duration::from_millis(100),
            resync: Duration::from_secs(30),
            grace: Duration::from_secs(30),
            retry_limit: Duration::from_secs(30),
        }
    }
}

/// What a keeper acts on; `C` is what says which rows a node should have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event<C = NodeConfigSpec> {
    /// Somebody changed the kernel's tables.
    KernelChanged,
    /// The NodeConfig is there and not one.
    Unreadable(String),
    /// The NodeConfig is this.
    Wanted(C),
    /// The NodeConfig is not there.
    Withdrawn,
}

impl<C> Event<C> {
    /// The same of another kind of config.
    pub fn map<D>(self, change: impl FnOnce(C) -> D) -> Event<D> {
        match self {
            Self::KernelChanged => Event::KernelChanged,
            Self::Unreadable(rule) => Event::Unreadable(rule),
            Self::Wanted(config) => Event::Wanted(change(config)),
            Self::Withdrawn => Event::Withdrawn,
        }
    }
}

impl Event {
    /// What the `spec` of a NodeConfig says. An object without one says nothing about the node, and neither does `null`; a node
    /// without rows has an empty spec.
    #[must_use]
    pub fn of_spec(spec: Option<&Value>) -> Self {
        match spec.map(Option::<NodeConfigSpec>::deserialize) {
            Some(Ok(Some(spec))) => Self::Wanted(spec),
            None | Some(Ok(None)) => Self::Unreadable("it has no spec".to_owned()),
            Some(Err(error)) => Self::Unreadable(error.to_string()),
        }
    }
}

/// Decides when to reconcile and with which config. Times are since any one moment. The default of a config has no rows.
#[derive(Debug)]
pub struct Keeper<C = NodeConfigSpec> {
    timing: Timing,
    adopted: Option<C>,
    candidate: Option<C>,
    due: Option<Duration>,
    withdrawal: Option<Duration>,
    failures: u32,
}

impl<C: Default + PartialEq> Keeper<C> {
    /// Knows of no config; does nothing until it does.
    #[must_use]
    pub fn new(timing: Timing) -> Self {
        Self {
            timing,
            adopted: None,
            candidate: None,
            due: None,
            withdrawal: None,
            failures: 0,
        }
    }

    /// Takes an event in.
    pub fn event(&mut self, event: Event<C>, now: Duration) {
        match event {
            Event::KernelChanged => self.look_by(now + self.timing.settle),
            Event::Unreadable(rule) => {
                error!(
                    rule,
                    "the NodeConfig cannot be understood; the former one stays"
                );
                self.withdrawal = None;
            }
            Event::Wanted(config) => {
                self.withdrawal = None;
                self.failures = 0;
                self.candidate = (self.adopted.as_ref() != Some(&config)).then_some(config);
                self.look_by(now);
            }
            Event::Withdrawn => {
                // Also where nothing was adopted yet: the rows may be those of an earlier run of the agent.
                let is_withdrawn = self.adopted == Some(C::default());
                if self.withdrawal.is_none() && !is_withdrawn {
                    warn!(grace = ?self.timing.grace, "the NodeConfig is gone; its rows stay for a while");
                    self.withdrawal = Some(now + self.timing.grace);
                }
                self.candidate = None;
            }
        }
    }

    /// Changes what is kept and what may be kept, and has the kernel follow at once.
    pub fn revise(&mut self, change: impl Fn(&mut C), now: Duration) {
        for config in [&mut self.adopted, &mut self.candidate]
            .into_iter()
            .flatten()
        {
            change(config);
        }
        self.look_by(now);
    }

    /// When to ask [`Keeper::is_due`] again, unless an event comes first.
    #[must_use]
    pub fn deadline(&self) -> Option<Duration> {
        self.due.into_iter().chain(self.withdrawal).min()
    }

    /// Whether it is time to reconcile.
    pub fn is_due(&mut self, now: Duration) -> bool {
        if self.withdrawal.is_some_and(|at| at <= now) {
            self.withdrawal = None;
            self.adopted = Some(C::default());
            self.due = Some(now);
        }
        let has_work = self.adopted.is_some() || self.candidate.is_some();
        has_work && self.due.is_some_and(|at| at <= now)
    }

    /// A config that is newer than the adopted one and not judged yet, or judged unfit.
    #[must_use]
    pub fn candidate(&self) -> Option<&C> {
        self.candidate.as_ref()
    }

    /// Makes the candidate the config to keep.
    pub fn adopt(&mut self) {
        if let Some(config) = self.candidate.take() {
            self.adopted = Some(config);
        }
    }

    /// The config to keep; none before the first.
    #[must_use]
    pub fn adopted(&self) -> Option<&C> {
        self.adopted.as_ref()
    }

    /// Takes in whether the kernel now holds what it should.
    pub fn settled(&mut self, is_true: bool, now: Duration) {
        let wait = if is_true {
            self.failures = 0;
            self.timing.resync
        } else {
            self.failures = self.failures.saturating_add(1);
            let doubled = Duration::from_secs(1 << (self.failures - 1).min(16));
            doubled.min(self.timing.retry_limit)
        };
        self.due = Some(now + wait);
    }

    fn look_by(&mut self, at: Duration) {
        self.due = Some(self.due.map_or(at, |due| due.min(at)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Route;

    fn config(cidr: &str) -> NodeConfigSpec {
        NodeConfigSpec {
            routes: vec![Route {
                cidr: cidr.into(),
                gw: "220.0.0.1".into(),
                dev: "vx-bridge".into(),
            }],
            ..NodeConfigSpec::default()
        }
    }

    const fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn nothing_is_done_before_a_config_is_known() {
        let mut keeper: Keeper = Keeper::new(Timing::default());
        keeper.event(Event::KernelChanged, seconds(1));
        keeper.event(Event::Withdrawn, seconds(2));
        keeper.event(Event::Unreadable("no spec".into()), seconds(3));
        assert!(!keeper.is_due(seconds(3600)));
        assert_eq!(keeper.adopted(), None);
    }

    #[test]
    fn a_config_that_was_deleted_while_nobody_watched_is_withdrawn_after_the_grace() {
        let mut keeper: Keeper = Keeper::new(Timing::default());
        keeper.event(Event::Withdrawn, seconds(5));
        assert!(!keeper.is_due(seconds(34)));
        assert_eq!(keeper.deadline(), Some(seconds(35)));
        assert!(keeper.is_due(seconds(35)));
        assert_eq!(keeper.adopted(), Some(&NodeConfigSpec::default()));
        keeper.settled(true, seconds(35));
        // A relist that says the same again changes nothing.
        keeper.event(Event::Withdrawn, seconds(36));
        assert_eq!(keeper.deadline(), Some(seconds(65)));
        assert_eq!(keeper.withdrawal, None);
    }

    #[test]
    fn drift_is_looked_at_once_and_soon_and_not_put_off_by_more() {
        let mut keeper: Keeper = Keeper::new(Timing::default());
        keeper.event(Event::Wanted(config("10.0.0.0/8")), seconds(0));
        assert!(keeper.is_due(seconds(0)));
        keeper.adopt();
        keeper.settled(true, seconds(0));
        assert!(!keeper.is_due(seconds(10)));
        for step in 0..10 {
            keeper.event(
                Event::KernelChanged,
                seconds(10) + Duration::from_millis(step * 50),
            );
        }
        assert_eq!(
            keeper.deadline(),
            Some(seconds(10) + Duration::from_millis(100))
        );
        assert!(keeper.is_due(seconds(11)));
        keeper.settled(true, seconds(11));
        assert_eq!(keeper.deadline(), Some(seconds(41)));
    }

    #[test]
    fn failures_are_retried_with_growing_delays_up_to_a_limit() {
        let mut keeper: Keeper = Keeper::new(Timing::default());
        keeper.event(Event::Wanted(config("10.0.0.0/8")), seconds(0));
        let mut now = seconds(0);
        let mut waits = Vec::new();
        for _ in 0..7 {
            keeper.settled(false, now);
            let next = keeper.deadline().expect("another attempt");
            waits.push((next - now).as_secs());
            now = next;
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 30, 30]);
        keeper.event(Event::Wanted(config("11.0.0.0/8")), now);
        assert!(keeper.is_due(now));
    }

    #[test]
    fn a_config_that_is_gone_for_a_moment_costs_nothing() {
        let mut keeper: Keeper = Keeper::new(Timing::default());
        keeper.event(Event::Wanted(config("10.0.0.0/8")), seconds(0));
        keeper.adopt();
        keeper.settled(true, seconds(0));
        keeper.event(Event::Withdrawn, seconds(5));
        keeper.event(Event::Wanted(config("10.0.0.0/8")), seconds(20));
        assert!(keeper.is_due(seconds(36)));
        assert_eq!(keeper.adopted(), Some(&config("10.0.0.0/8")));
        assert_eq!(keeper.candidate(), None);
        keeper.settled(true, seconds(36));

        keeper.event(Event::Withdrawn, seconds(40));
        keeper.event(Event::Withdrawn, seconds(60));
        assert!(!keeper.is_due(seconds(65)));
        assert!(keeper.is_due(seconds(70)));
        assert_eq!(keeper.adopted(), Some(&NodeConfigSpec::default()));
    }

    #[test]
    fn an_unfit_candidate_leaves_the_adopted_one_and_is_judged_again() {
        let mut keeper: Keeper = Keeper::new(Timing::default());
        keeper.event(Event::Wanted(config("10.0.0.0/8")), seconds(0));
        keeper.adopt();
        keeper.event(Event::Wanted(config("11.0.0.0/8")), seconds(1));
        assert!(keeper.is_due(seconds(1)));
        keeper.settled(false, seconds(1));
        assert_eq!(keeper.adopted(), Some(&config("10.0.0.0/8")));
        assert!(keeper.is_due(seconds(2)));
        assert_eq!(keeper.candidate(), Some(&config("11.0.0.0/8")));
    }
}
