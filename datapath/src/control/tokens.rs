//! When the token of a Secret is renewed. No clock, no API.

use std::time::Duration;

use crate::rbac::TOKEN_LIFETIME;

/// Between looks at a Secret that nothing is due for, so that somebody else's change of it is noticed.
const LONGEST: Duration = Duration::from_secs(3600);
/// Between looks, however short a server makes its tokens.
const SHORTEST: Duration = Duration::from_secs(60);
/// The longest pause after a failure.
const PATIENCE: Duration = Duration::from_secs(600);

/// What to do with a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// Nothing, for so long.
    In(Duration),
    /// It is to be renewed.
    Now,
}

/// The token of one Secret.
#[derive(Debug)]
pub struct Renewal {
    /// How long the last one was made to last, seconds: a server may give less than is asked for.
    lifetime: i64,
    failures: u32,
}

impl Default for Renewal {
    fn default() -> Self {
        Self {
            lifetime: TOKEN_LIFETIME,
            failures: 0,
        }
    }
}

impl Renewal {
    /// What to do with a token that expires then; none where nobody can say when. Times are seconds since 1970.
    #[must_use]
    pub fn due(&self, expires: Option<i64>, now: i64) -> Due {
        let Some(expires) = expires else {
            return Due::Now;
        };
        let spare = expires
            .saturating_sub(now)
            .saturating_sub(self.lifetime / 2);
        match u64::try_from(spare) {
            Ok(spare) => Due::In(Duration::from_secs(spare).clamp(SHORTEST, LONGEST)),
            Err(_) => Due::Now,
        }
    }

    /// It was renewed, and expires then. How long to wait until the next look.
    pub fn renewed(&mut self, expires: i64, now: i64) -> Duration {
        self.failures = 0;
        self.lifetime = expires.saturating_sub(now).max(0);
        match self.due(Some(expires), now) {
            Due::In(wait) => wait,
            Due::Now => SHORTEST,
        }
    }

    /// It could not be renewed. How long to wait until the next attempt.
    pub fn failed(&mut self) -> Duration {
        let wait = Duration::from_secs(10 << self.failures.min(6)).min(PATIENCE);
        self.failures = self.failures.saturating_add(1);
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 24 * 3600;

    #[test]
    fn a_token_is_renewed_at_half_of_its_life() {
        let renewal = Renewal::default();
        assert_eq!(renewal.due(Some(30 * DAY), 0), Due::In(LONGEST));
        assert_eq!(
            renewal.due(Some(30 * DAY), 15 * DAY - 120),
            Due::In(Duration::from_secs(120))
        );
        assert_eq!(renewal.due(Some(30 * DAY), 15 * DAY + 1), Due::Now);
        assert_eq!(renewal.due(Some(30 * DAY), 31 * DAY), Due::Now);
        assert_eq!(renewal.due(None, 0), Due::Now);
        assert_eq!(renewal.due(Some(i64::MIN), i64::MAX), Due::Now);
    }

    #[test]
    fn a_server_that_gives_less_is_not_asked_all_the_time() {
        let mut renewal = Renewal::default();
        assert_eq!(renewal.renewed(3600, 0), Duration::from_secs(1800));
        assert_eq!(
            renewal.due(Some(3600), 1700),
            Due::In(Duration::from_secs(100))
        );
        assert_eq!(renewal.due(Some(3600), 1801), Due::Now);
        // Even where its clock is an hour off.
        assert_eq!(renewal.renewed(-3600, 0), SHORTEST);
    }

    #[test]
    fn failures_are_retried_less_and_less_often() {
        let mut renewal = Renewal::default();
        let waits: Vec<u64> = (0..8).map(|_| renewal.failed().as_secs()).collect();
        assert_eq!(waits, [10, 20, 40, 80, 160, 320, 600, 600]);
        renewal.renewed(30 * DAY, 0);
        assert_eq!(renewal.failed().as_secs(), 10);
    }
}
