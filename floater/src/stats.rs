//! Round-trip times that add up: recorded at one floater, merged over many.
//!
//! Up to [`FEW`] samples travel as they are. More travel as the filled buckets of an HdrHistogram of two significant
//! digits, so that a percentile is at most 1 % off and their size is bounded by the range of a round-trip time. Least and
//! greatest are exact. Reading an [`Rtt`] checks it: whoever holds one holds one that adds up.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// The greatest time that is told apart from greater ones, microseconds: one minute.
pub const GREATEST_US: u64 = 60_000_000;

/// The most samples that travel as they are.
pub const FEW: usize = 64;

/// The most buckets that [`GREATEST_US`] and two digits make.
const BUCKETS: usize = 3072;

/// Why round-trip times are not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No sample, or more samples or buckets than there can be.
    #[error("round-trip times of no sample, or of too many")]
    Count,
    /// Not in order.
    #[error("round-trip times that are not in order")]
    Order,
    /// Zero, or beyond [`GREATEST_US`].
    #[error("a round-trip time beyond a minute, or none at all")]
    Range,
}

/// Round-trip times of one probe or of several, microseconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Times", into = "Times")]
pub struct Rtt {
    /// The least.
    pub min_us: u64,
    /// The median.
    pub p50_us: u64,
    /// The 99th percentile.
    pub p99_us: u64,
    /// The greatest.
    pub max_us: u64,
    times: Times,
}

/// Round-trip times on the wire, microseconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Times {
    /// Many: the filled buckets of a histogram.
    Buckets {
        /// The least.
        min_us: u32,
        /// The greatest.
        max_us: u32,
        /// Each bucket's greatest value and how many samples it holds, in rising order.
        counts: Vec<(u32, u32)>,
    },
    /// Few: each of them, in rising order, at most [`FEW`].
    Samples(Vec<u32>),
}

impl Rtt {
    /// The round-trip times of these samples; none for none.
    #[must_use]
    pub fn of(samples: impl IntoIterator<Item = u64>) -> Option<Self> {
        let mut recorder = Recorder::default();
        samples
            .into_iter()
            .for_each(|sample| recorder.record(sample));
        recorder.rtt()
    }

    /// How many samples there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        match &self.times {
            Times::Buckets { counts, .. } => {
                counts.iter().map(|(_, count)| u64::from(*count)).sum()
            }
            Times::Samples(samples) => samples.len() as u64,
        }
    }
}

impl From<Rtt> for Times {
    fn from(rtt: Rtt) -> Self {
        rtt.times
    }
}

impl TryFrom<Times> for Rtt {
    type Error = Error;

    /// The one place where round-trip times from elsewhere are read.
    fn try_from(times: Times) -> Result<Self, Error> {
        let ranged = |value: u32| (1..=GREATEST_US).contains(&u64::from(value));
        match &times {
            Times::Samples(samples) => {
                if samples.is_empty() || samples.len() > FEW {
                    return Err(Error::Count);
                }
                if !samples.is_sorted() {
                    return Err(Error::Order);
                }
                if !samples.iter().all(|sample| ranged(*sample)) {
                    return Err(Error::Range);
                }
                Ok(few(samples.clone()))
            }
            Times::Buckets {
                min_us,
                max_us,
                counts,
            } => {
                let empty = counts.iter().any(|(_, count)| *count == 0);
                if counts.is_empty() || counts.len() > BUCKETS || empty {
                    return Err(Error::Count);
                }
                if !counts.is_sorted_by(|left, right| left.0 < right.0) || min_us > max_us {
                    return Err(Error::Order);
                }
                // A bucket's greatest value may be a little beyond the greatest sample.
                let within = |value: u32| value >= 1 && u64::from(value) <= GREATEST_US * 102 / 100;
                if !ranged(*min_us)
                    || !ranged(*max_us)
                    || !counts.iter().all(|(value, _)| within(*value))
                {
                    return Err(Error::Range);
                }
                // So few travel as they are, with bounds that are among them.
                let total: u64 = counts.iter().map(|(_, count)| u64::from(*count)).sum();
                if total <= FEW as u64 {
                    return Err(Error::Count);
                }
                let mut sum = empty_histogram();
                for (value, count) in counts {
                    sum.saturating_record_n(u64::from(*value).min(GREATEST_US), *count);
                }
                Ok(many(&sum, u64::from(*min_us), u64::from(*max_us)))
            }
        }
    }
}

/// The round-trip times of one probe as they come.
#[derive(Debug, Clone, Default)]
pub struct Recorder {
    few: Vec<u32>,
    many: Option<Box<Histogram<u32>>>,
    least: Option<u64>,
    greatest: u64,
}

impl Recorder {
    /// Adds one round-trip time. Nothing comes back in no time: 0 counts as 1.
    pub fn record(&mut self, rtt_us: u64) {
        self.record_many(rtt_us, 1);
        let rtt_us = clamped(rtt_us);
        self.least = Some(self.least.map_or(rtt_us, |least| least.min(rtt_us)));
        self.greatest = self.greatest.max(rtt_us);
    }

    /// Adds samples without regard to the extremes.
    fn record_many(&mut self, rtt_us: u64, count: u32) {
        let rtt_us = clamped(rtt_us);
        if self.many.is_none() && count == 1 && self.few.len() < FEW {
            // At most GREATEST_US, which fits.
            self.few.push(u32::try_from(rtt_us).unwrap_or(u32::MAX));
            return;
        }
        let few = std::mem::take(&mut self.few);
        self.many
            .get_or_insert_with(|| {
                let mut many = Box::new(empty_histogram());
                for sample in few {
                    many.saturating_record(u64::from(sample));
                }
                many
            })
            .saturating_record_n(rtt_us, count);
    }

    /// The times so far; none where there are none.
    #[must_use]
    pub fn rtt(&self) -> Option<Rtt> {
        let least = self.least?;
        Some(match &self.many {
            Some(histogram) => many(histogram, least, self.greatest),
            None => {
                let mut samples = self.few.clone();
                samples.sort_unstable();
                few(samples)
            }
        })
    }
}

/// One answer for several probes; none for none.
///
/// ```
/// use floater::stats::{Rtt, merge};
///
/// let (near, far) = (Rtt::of([200]), Rtt::of([40_000]));
/// let both = merge(near.iter().chain(&far)).unwrap();
/// assert_eq!((both.min_us, both.max_us, both.count()), (200, 40_000, 2));
/// ```
#[must_use]
pub fn merge<'a>(parts: impl IntoIterator<Item = &'a Rtt>) -> Option<Rtt> {
    let mut all = Recorder::default();
    for part in parts {
        match &part.times {
            Times::Samples(samples) => samples
                .iter()
                .for_each(|sample| all.record_many(u64::from(*sample), 1)),
            Times::Buckets { counts, .. } => {
                for (value, count) in counts {
                    all.record_many(u64::from(*value), *count);
                }
            }
        }
        all.least = Some(
            all.least
                .map_or(part.min_us, |least| least.min(part.min_us)),
        );
        all.greatest = all.greatest.max(part.max_us);
    }
    all.rtt()
}

fn clamped(rtt_us: u64) -> u64 {
    rtt_us.clamp(1, GREATEST_US)
}

fn empty_histogram() -> Histogram<u32> {
    Histogram::new_with_bounds(1, GREATEST_US, 2).expect("constant bounds that the crate allows")
}

/// Of sorted samples, at least one.
fn few(samples: Vec<u32>) -> Rtt {
    // The nearest rank, as the histogram counts.
    let at = |percent: usize| {
        let rank = (samples.len() * percent).div_ceil(100).max(1) - 1;
        samples.get(rank).copied().map_or(0, u64::from)
    };
    Rtt {
        min_us: at(0),
        p50_us: at(50),
        p99_us: at(99),
        max_us: at(100),
        times: Times::Samples(samples),
    }
}

fn many(histogram: &Histogram<u32>, least: u64, greatest: u64) -> Rtt {
    let within = |quantile| {
        histogram
            .value_at_quantile(quantile)
            .clamp(least.min(greatest), greatest)
    };
    let narrow = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
    let counts = histogram
        .iter_recorded()
        .map(|bucket| {
            (
                narrow(bucket.value_iterated_to()),
                narrow(bucket.count_since_last_iteration()),
            )
        })
        .collect();
    Rtt {
        min_us: least,
        p50_us: within(0.5),
        p99_us: within(0.99),
        max_us: greatest,
        times: Times::Buckets {
            min_us: narrow(least),
            max_us: narrow(greatest),
            counts,
        },
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(samples: &[u64]) -> Option<Rtt> {
        Rtt::of(samples.iter().copied())
    }

    fn read(times: Times) -> Result<Rtt, Error> {
        times.try_into()
    }

    #[test]
    fn extremes_are_exact_and_the_median_within_one_percent() {
        let samples: Vec<u64> = (1..=1001).map(|n| n * 137).collect();
        let rtt = of(&samples).expect("samples");
        assert_eq!((rtt.min_us, rtt.max_us), (137, 1001 * 137));
        let median = 501.0 * 137.0;
        assert!(
            (rtt.p50_us as f64 - median).abs() <= median / 100.0,
            "{rtt:?}"
        );
        let three = of(&[30, 10, 20]).expect("samples");
        let figures = (three.min_us, three.p50_us, three.p99_us, three.max_us);
        assert_eq!(figures, (10, 20, 30, 30));
    }

    #[test]
    fn nothing_has_no_times_and_no_time_is_not_zero() {
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[0]).map(|rtt| (rtt.min_us, rtt.max_us)), Some((1, 1)));
        assert_eq!(of(&[u64::MAX]).map(|rtt| rtt.max_us), Some(GREATEST_US));
    }

    #[test]
    fn twenty_probes_fit_in_two_kilobytes_and_any_number_of_samples_in_bounds() {
        let json = |rtt: &Rtt| serde_json::to_string(rtt).expect("plain data").len();
        let twenty: usize = (0..20)
            .filter_map(|probe| of(&[probe * 1000 + 1, 59_999_999, 60_000_000]))
            .map(|rtt| json(&rtt))
            .sum();
        assert!(twenty <= 2000, "{twenty}");
        let all: Vec<u64> = (0..200_000).map(|at| 1 + at * 300).collect();
        let everything = of(&all).expect("samples");
        assert!(json(&everything) <= 48 * 1024, "{}", json(&everything));
    }

    #[test]
    fn what_does_not_add_up_is_not_read() {
        let samples = |list: &[u32]| read(Times::Samples(list.to_vec())).err();
        assert_eq!(samples(&[]), Some(Error::Count));
        assert_eq!(samples(&[1; FEW + 1]), Some(Error::Count));
        assert_eq!(samples(&[2, 1]), Some(Error::Order));
        assert_eq!(samples(&[0]), Some(Error::Range));
        assert_eq!(samples(&[60_000_001]), Some(Error::Range));
        let buckets = |min_us, max_us, counts: &[(u32, u32)]| {
            read(Times::Buckets {
                min_us,
                max_us,
                counts: counts.to_vec(),
            })
            .err()
        };
        assert_eq!(buckets(1, 2, &[]), Some(Error::Count));
        assert_eq!(buckets(1, 2, &[(1, 0)]), Some(Error::Count));
        let long: Vec<(u32, u32)> = (1..=BUCKETS as u32 + 1).map(|at| (at, 1)).collect();
        assert_eq!(buckets(1, 2, &long), Some(Error::Count));
        assert_eq!(buckets(1, 2, &[(2, 1), (2, 1)]), Some(Error::Order));
        assert_eq!(buckets(2, 1, &[(1, 1)]), Some(Error::Order));
        assert_eq!(buckets(1, 60_000_001, &[(1, 1)]), Some(Error::Range));
        assert_eq!(buckets(1, 2, &[(u32::MAX, 1)]), Some(Error::Range));
        assert_eq!(buckets(1, 9, &[(3, u32::MAX), (9, u32::MAX)]), None);
    }

    proptest! {
        #[test]
        fn the_wire_keeps_everything(samples in prop::collection::vec(1..GREATEST_US, 1..200)) {
            let rtt = of(&samples).expect("samples");
            prop_assert_eq!(rtt.count(), samples.len() as u64);
            prop_assert!(rtt.min_us <= rtt.p50_us && rtt.p50_us <= rtt.p99_us && rtt.p99_us <= rtt.max_us);
            let text = serde_json::to_string(&rtt).expect("plain data");
            prop_assert_eq!(serde_json::from_str::<Rtt>(&text).expect("its own form"), rtt);
        }

        #[test]
        fn merging_is_recording_together(
            left in prop::collection::vec(1..GREATEST_US, 0..150),
            right in prop::collection::vec(1..GREATEST_US, 0..150),
        ) {
            let merged = merge(of(&left).iter().chain(of(&right).iter()));
            prop_assert_eq!(merged, of(&[left, right].concat()));
        }

        #[test]
        fn any_times_are_read_in_bounds_or_not_at_all(
            samples in prop::collection::vec(any::<u32>(), 0..80),
            counts in prop::collection::vec((0_u32..70_000_000, 0_u32..5), 0..40),
            min_us: u32,
            max_us in 0_u32..70_000_000,
            text in ".{0,80}",
        ) {
            let _ = serde_json::from_str::<Rtt>(&text);
            let mut sorted = counts.clone();
            sorted.sort_unstable();
            sorted.dedup_by_key(|bucket| bucket.0);
            for times in [
                Times::Samples(samples),
                Times::Buckets { min_us, max_us, counts },
                Times::Buckets { min_us: 1, max_us, counts: sorted },
            ] {
                if let Ok(rtt) = read(times) {
                    prop_assert!(rtt.count() > 0 && rtt.min_us <= rtt.max_us && rtt.max_us <= GREATEST_US);
                    prop_assert!(rtt.min_us <= rtt.p50_us && rtt.p50_us <= rtt.p99_us && rtt.p99_us <= rtt.max_us);
                    let again = merge([&rtt, &rtt]).expect("samples");
                    prop_assert_eq!((again.min_us, again.max_us), (rtt.min_us, rtt.max_us));
                }
            }
        }
    }
}
