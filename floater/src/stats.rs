//! Round-trip times that add up: recorded at one floater, merged over many.
//!
//! A probe of a few packets keeps them as they are; one of many keeps an HdrHistogram of two significant digits, so that
//! a percentile is at most 1 % off while a histogram on the wire is some tens of bytes. Least and greatest are exact.

use std::io::Cursor;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Deserializer, Serializer, V2Serializer};

use crate::wire::Rtt;

/// The greatest time that is told apart from greater ones, microseconds: one minute.
pub const GREATEST_US: u64 = 60_000_000;

/// Samples that are kept as they are before a histogram is worth its 10 KiB.
const FEW: usize = 128;

/// The longest histogram that is read, bytes of base64; a full one of two digits is below 10,000.
const LONGEST: usize = 64 * 1024;

/// Why a histogram could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Not base64, or too much of it.
    #[error("the histogram is not base64 of at most {LONGEST} characters")]
    Base64,
    /// Not an HdrHistogram V2.
    #[error("the histogram is not an HdrHistogram V2: {0}")]
    Histogram(String),
    /// A histogram whose range is beyond any round-trip time.
    #[error(
        "the histogram claims {digits} digits up to {greatest} µs: more than a round-trip time needs"
    )]
    Range {
        /// Significant digits.
        digits: u32,
        /// The greatest value that it tells apart.
        greatest: u64,
    },
}

/// The round-trip times of one probe.
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
        let rtt_us = rtt_us.clamp(1, GREATEST_US);
        self.least = Some(self.least.map_or(rtt_us, |least| least.min(rtt_us)));
        self.greatest = self.greatest.max(rtt_us);
        if let Some(many) = &mut self.many {
            many.saturating_record(rtt_us);
        } else if self.few.len() < FEW {
            // At most GREATEST_US, which fits.
            self.few.push(u32::try_from(rtt_us).unwrap_or(u32::MAX));
        } else {
            let mut many = Box::new(self.histogram());
            many.saturating_record(rtt_us);
            self.many = Some(many);
            self.few = Vec::new();
        }
    }

    /// The times so far in their form on the wire; none where there are none.
    #[must_use]
    pub fn rtt(&self) -> Option<Rtt> {
        let least = self.least?;
        Some(match &self.many {
            Some(many) => encode(many, least, self.greatest),
            None => encode(&self.histogram(), least, self.greatest),
        })
    }

    fn histogram(&self) -> Histogram<u32> {
        let mut histogram = empty();
        for sample in &self.few {
            histogram.saturating_record(u64::from(*sample));
        }
        histogram
    }
}

/// One answer for several probes; none for none.
///
/// ```
/// use floater::stats::{Recorder, merge};
///
/// let (mut near, mut far) = (Recorder::default(), Recorder::default());
/// near.record(200);
/// far.record(40_000);
/// let both = merge(near.rtt().iter().chain(far.rtt().iter())).unwrap().unwrap();
/// assert_eq!((both.min_us, both.max_us), (200, 40_000));
/// ```
///
/// # Errors
/// The first histogram that cannot be read.
pub fn merge<'a>(parts: impl IntoIterator<Item = &'a Rtt>) -> Result<Option<Rtt>, Error> {
    let mut whole: Option<(Histogram<u32>, u64, u64)> = None;
    for part in parts {
        let (sum, least, greatest) = whole.get_or_insert_with(|| (empty(), u64::MAX, 0));
        for bucket in decode(&part.histogram)?.iter_recorded() {
            let value = bucket.value_iterated_to().min(GREATEST_US);
            sum.saturating_record_n(
                value,
                u32::try_from(bucket.count_since_last_iteration()).unwrap_or(u32::MAX),
            );
        }
        *least = (*least).min(part.min_us);
        *greatest = (*greatest).max(part.max_us);
    }
    Ok(whole.map(|(sum, least, greatest)| encode(&sum, least, greatest)))
}

/// The histogram of a [`Rtt`].
///
/// # Errors
/// Where it is none, or one whose range no round-trip time needs: that costs memory by its header alone.
pub fn decode(histogram: &str) -> Result<Histogram<u64>, Error> {
    if histogram.len() > LONGEST {
        return Err(Error::Base64);
    }
    let bytes = STANDARD.decode(histogram).map_err(|_| Error::Base64)?;
    // The header of V2: cookie, payload length, normalising offset, digits (each u32), lowest, highest (each u64).
    if let (Some(digits), Some(highest)) = (number::<4>(&bytes, 12), number::<8>(&bytes, 24)) {
        let digits = u32::from_be_bytes(digits);
        let greatest = u64::from_be_bytes(highest);
        if digits > 3 || greatest > 60 * GREATEST_US {
            return Err(Error::Range { digits, greatest });
        }
    }
    Deserializer::new()
        .deserialize(&mut Cursor::new(bytes))
        .map_err(|error| Error::Histogram(error.to_string()))
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

fn empty() -> Histogram<u32> {
    Histogram::new_with_bounds(1, GREATEST_US, 2).expect("constant bounds that the crate allows")
}

fn encode(histogram: &Histogram<u32>, least: u64, greatest: u64) -> Rtt {
    let mut bytes = Vec::new();
    V2Serializer::new()
        .serialize(histogram, &mut bytes)
        .expect("a vector takes every byte and u32 counts fit the format");
    let within = |quantile| {
        histogram
            .value_at_quantile(quantile)
            .clamp(least.min(greatest), greatest)
    };
    Rtt {
        min_us: least,
        p50_us: within(0.5),
        p99_us: within(0.99),
        max_us: greatest,
        histogram: STANDARD.encode(bytes),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(samples: &[u64]) -> Option<Rtt> {
        let mut recorder = Recorder::default();
        samples.iter().for_each(|sample| recorder.record(*sample));
        recorder.rtt()
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
    }

    #[test]
    fn nothing_has_no_times_and_no_time_is_not_zero() {
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[0]).map(|rtt| (rtt.min_us, rtt.max_us)), Some((1, 1)));
        assert_eq!(of(&[u64::MAX]).map(|rtt| rtt.max_us), Some(GREATEST_US));
    }

    #[test]
    fn a_header_cannot_ask_for_memory() {
        let mut bytes = Vec::new();
        let wide = Histogram::<u64>::new_with_bounds(1, u64::MAX, 5).expect("allowed bounds");
        V2Serializer::new()
            .serialize(&wide, &mut bytes)
            .expect("vector");
        assert_eq!(
            decode(&STANDARD.encode(bytes)).err(),
            Some(Error::Range {
                digits: 5,
                greatest: u64::MAX
            })
        );
        assert_eq!(decode(&"A".repeat(LONGEST + 4)).err(), Some(Error::Base64));
    }

    proptest! {
        #[test]
        fn merging_is_recording_together(
            left in prop::collection::vec(1..GREATEST_US, 0..300),
            right in prop::collection::vec(1..GREATEST_US, 0..300),
        ) {
            let merged = merge(of(&left).iter().chain(of(&right).iter())).expect("own histograms");
            let together = of(&[left, right].concat());
            prop_assert_eq!(merged.is_some(), together.is_some());
            if let (Some(merged), Some(together)) = (merged, together) {
                prop_assert_eq!((merged.min_us, merged.max_us), (together.min_us, together.max_us));
                // Buckets are merged by their upper edge, which stays in the bucket.
                prop_assert_eq!(merged.histogram, together.histogram);
            }
        }

        #[test]
        fn any_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), text in ".{0,80}") {
            let _ = decode(&text);
            let _ = decode(&STANDARD.encode(&bytes));
            // With a header that gets past the cookie.
            let mut like = vec![0x1c, 0x84, 0x93, 0x13];
            like.extend(&bytes);
            let _ = decode(&STANDARD.encode(&like));
            let rtt = Rtt { min_us: 9, p50_us: 0, p99_us: 0, max_us: 3, histogram: STANDARD.encode(&like) };
            let _ = merge([&rtt]);
        }
    }
}
