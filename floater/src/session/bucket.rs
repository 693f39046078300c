//! The token bucket that paces a plan.

use std::time::Duration;

use crate::wire::CEILING_PPS;

/// Probes in one wake-up that are worth it: fewer wakes cost less, more than this gains nothing.
const BURST: u32 = 16;
/// A burst never takes more than this of the allowance's time.
const TICK_MIN: Duration = Duration::from_millis(10);

/// A bucket that starts empty, is never fuller than one burst and so never catches up after a pause.
///
/// In any second, half open, at most the allowance is taken: refilling is slower than the allowance by one burst.
#[derive(Debug, Clone)]
pub struct Bucket {
    interval: Duration,
    burst: u32,
    credit: Duration,
    seen: Option<Duration>,
    halvings: u32,
}

impl Bucket {
    /// A bucket for so many packets per second: at least 1, at most [`CEILING_PPS`], whatever is asked for.
    #[must_use]
    pub fn new(allowance_pps: u32) -> Self {
        let allowance = allowance_pps.clamp(1, CEILING_PPS);
        let in_a_tick = u64::from(allowance) * TICK_MIN.as_millis() as u64 / 1000;
        let burst = (in_a_tick as u32).max(BURST.min(allowance / 20)).max(1);
        let refill = allowance - burst + 1;
        Self {
            // Rounded up: a nanosecond too slow rather than one too fast.
            interval: Duration::from_nanos(1_000_000_000_u64.div_ceil(u64::from(refill))),
            burst,
            credit: Duration::ZERO,
            seen: None,
            halvings: 0,
        }
    }

    /// Another allowance from now on. What was saved up under the former one is not kept beyond the new burst, and what
    /// the system's shortage has slowed down stays slow.
    pub fn set_allowance(&mut self, now: Duration, allowance_pps: u32) {
        self.fill(now);
        let next = Self::new(allowance_pps);
        self.interval = next.interval * (1 << self.halvings);
        self.burst = next.burst;
        self.credit = self.credit.min(self.interval * self.burst);
    }

    /// The most that can be taken at once.
    #[must_use]
    pub fn burst(&self) -> u32 {
        self.burst
    }

    /// Takes one token if there is one.
    pub fn take(&mut self, now: Duration) -> bool {
        self.fill(now);
        let taken = self.credit >= self.interval;
        if taken {
            self.credit -= self.interval;
        }
        taken
    }

    /// When `wanted` tokens, or a burst if that is less, will be there.
    pub fn ready_at(&mut self, now: Duration, wanted: usize) -> Duration {
        self.fill(now);
        let wanted = u32::try_from(wanted)
            .unwrap_or(u32::MAX)
            .clamp(1, self.burst);
        now + (self.interval * wanted).saturating_sub(self.credit)
    }

    /// The system ran out of something: empty the bucket and halve the rate, at most eight times.
    pub fn brake(&mut self, now: Duration) {
        self.fill(now);
        self.credit = Duration::ZERO;
        if self.halvings < 8 {
            self.halvings += 1;
            self.interval *= 2;
        }
    }

    fn fill(&mut self, now: Duration) {
        let since = now.saturating_sub(self.seen.unwrap_or(now));
        self.seen = Some(self.seen.map_or(now, |seen| seen.max(now)));
        self.credit = (self.credit + since).min(self.interval * self.burst);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_second_holds_more_than_the_allowance(
            allowance in prop_oneof![1_u32..200, 200_u32..60_000],
            steps in prop::collection::vec(0_u64..400_000, 1..100),
        ) {
            let mut bucket = Bucket::new(allowance);
            let mut now = Duration::from_secs(3);
            let mut taken: Vec<Duration> = Vec::new();
            for step in steps {
                now += Duration::from_micros(step);
                while bucket.take(now) {
                    taken.push(now);
                }
            }
            let allowance = allowance.min(CEILING_PPS) as usize;
            let mut first = 0;
            for (last, at) in taken.iter().enumerate() {
                while taken[first] + Duration::from_secs(1) <= *at {
                    first += 1;
                }
                prop_assert!(last - first < allowance, "{} of {allowance} in a second", last - first + 1);
            }
        }

        #[test]
        fn what_is_promised_is_there(allowance in 1_u32..30_000, wanted in 1_usize..50, start in 0_u64..1_000_000) {
            let mut bucket = Bucket::new(allowance);
            let ready = bucket.ready_at(Duration::from_micros(start), wanted);
            for _ in 0..wanted.min(bucket.burst() as usize) {
                prop_assert!(bucket.take(ready));
            }
        }
    }

    #[test]
    fn a_pause_saves_nothing_up() {
        let mut bucket = Bucket::new(1000);
        assert!(!bucket.take(Duration::ZERO));
        let after = Duration::from_secs(60);
        let taken = std::iter::from_fn(|| bucket.take(after).then_some(())).count();
        assert_eq!(taken, bucket.burst() as usize);
    }

    #[test]
    fn it_nearly_reaches_its_allowance() {
        for allowance in [1_u32, 10, 100, 1000, 20_000] {
            let mut bucket = Bucket::new(allowance);
            let mut taken = 0;
            for ms in 0..=10_000 {
                while bucket.take(Duration::from_millis(ms)) {
                    taken += 1;
                }
            }
            assert!(
                taken * 100 >= allowance * 10 * 95,
                "{taken} at {allowance} pps in 10 s"
            );
        }
    }
}
