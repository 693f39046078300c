//! How long the last of many are waited for, so that one that hangs does not cost all the others its whole time limit.

use std::time::Duration;

/// How long one of many may take. From the moment that half of them have answered, the others have as long as that took three times over,
/// and `least` at any rate.
#[derive(Debug)]
pub(crate) struct Patience {
    of: usize,
    least: Duration,
    /// When the run ends; of what is left at most a quarter is waited.
    deadline: Duration,
    answered: usize,
    /// How long the slowest of those took that have answered.
    slowest: Duration,
    /// How long one may take, known once half of them have answered.
    fair: Option<Duration>,
}

impl Patience {
    pub(crate) fn new(of: usize, least: Duration, deadline: Duration) -> Self {
        Self {
            of,
            least,
            deadline,
            answered: 0,
            slowest: Duration::ZERO,
            fair: None,
        }
    }

    /// One of them has answered after so long. Only those that answer say how long an answer takes: a refusal comes at once.
    pub(crate) fn answered(&mut self, now: Duration, took: Duration) {
        self.slowest = self.slowest.max(took);
        self.answered += 1;
        if self.answered * 2 >= self.of && self.fair.is_none() {
            let left = self.deadline.saturating_sub(now) / 4;
            // Whoever has begun when the first did has had `slowest` already.
            let fair = self.slowest + self.least.max(self.slowest * 3);
            self.fair = Some(fair.min(self.slowest + left));
        }
    }

    /// How long one may take from its own beginning: who waited for others to make room has lost nothing by that. None as long as nobody
    /// can tell.
    pub(crate) fn fair(&self) -> Option<Duration> {
        self.fair
    }

    /// Whether they are so few that none is slower than the others.
    pub(crate) fn is_of_few(&self) -> bool {
        self.of <= 2
    }
}

/// How long the first answer of a cluster may take: as long as none has given one `alone`, then `others` more. Who asks on a machine or a
/// network that is slow as a whole waits for it; who asks beside others does not keep them waiting.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FirstAnswer {
    pub(crate) alone: Duration,
    pub(crate) others: Duration,
    /// When one was heard.
    pub(crate) heard: Option<Duration>,
}

impl FirstAnswer {
    /// Until when one that began at `began` is waited for.
    pub(crate) fn until(&self, began: Duration) -> Duration {
        let alone = began + self.alone;
        self.heard
            .map_or(alone, |heard| alone.min(began.max(heard) + self.others))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn one_that_hangs_is_left_behind_once_the_others_have_answered() {
        let mut patience = Patience::new(4, millis(50), HOUR);
        patience.answered(millis(1), millis(1));
        assert_eq!(
            patience.fair(),
            None,
            "without half of them nobody is cut off"
        );
        patience.answered(millis(40), millis(40));
        // Three times the forty that half of them took, after them.
        assert_eq!(patience.fair(), Some(millis(160)));
        patience.answered(millis(100), millis(100));
        assert_eq!(patience.fair(), Some(millis(160)), "it is said once");
    }

    #[test]
    fn a_run_that_is_short_waits_for_a_quarter_of_what_is_left() {
        let mut patience = Patience::new(2, HOUR, Duration::from_secs(4));
        patience.answered(Duration::ZERO, Duration::ZERO);
        assert_eq!(patience.fair(), Some(Duration::from_secs(1)));
    }

    #[test]
    fn a_first_answer_hurries_the_others_and_without_one_there_is_time() {
        let mut first = FirstAnswer {
            alone: millis(400),
            others: millis(50),
            heard: None,
        };
        assert_eq!(first.until(millis(10)), millis(410));
        first.heard = Some(millis(20));
        assert_eq!(first.until(millis(10)), millis(70));
        assert_eq!(first.until(millis(100)), millis(150));
        first.heard = Some(millis(399));
        assert_eq!(
            first.until(millis(0)),
            millis(400),
            "never longer than alone"
        );
    }
}
