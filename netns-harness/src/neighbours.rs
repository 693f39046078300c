//! How many neighbours the kernel keeps that it learned: one number for all network namespaces of the machine together.
//!
//! Beyond the second threshold it forgets some within seconds, beyond the third it learns none, and packets to them are lost.
//! Permanent neighbours do not count.

use std::fs;
use std::io;

use serde::{Deserialize, Serialize};

use crate::Error;

const FAMILIES: [&str; 2] = ["ipv4", "ipv6"];

/// `net.FAMILY.neigh.default.gc_thresh1` to `gc_thresh3`, IPv4 first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Thresholds([[u32; 3]; 2]);

/// What the kernel starts with; nobody says where it cannot be read.
impl Default for Thresholds {
    fn default() -> Self {
        Self([[128, 512, 1024]; 2])
    }
}

fn file(family: &str, level: usize) -> String {
    format!("/proc/sys/net/{family}/neigh/default/gc_thresh{level}")
}

impl Thresholds {
    /// What is set now. Only the machine's first network namespace shows it; elsewhere it is what kernels start with.
    #[must_use]
    pub fn current() -> Self {
        let mut current = Self::default();
        for (family, levels) in FAMILIES.into_iter().zip(&mut current.0) {
            for (level, value) in (1..).zip(levels) {
                let text = fs::read_to_string(file(family, level));
                if let Some(read) = text.ok().and_then(|text| text.trim().parse().ok()) {
                    *value = read;
                }
            }
        }
        current
    }

    /// Whether so many neighbours of each family are kept.
    #[must_use]
    pub fn keep(&self, neighbours: u32) -> bool {
        self.0.iter().all(|[_, kept, _]| *kept >= neighbours)
    }

    /// The least that keep so many neighbours of each family; none is lower than now.
    #[must_use]
    pub fn keeping(&self, neighbours: u32) -> Self {
        let least = [1, 1, 2].map(|times| neighbours.saturating_mul(times));
        let mut raised = *self;
        for levels in &mut raised.0 {
            for (level, least) in levels.iter_mut().zip(least) {
                *level = (*level).max(least);
            }
        }
        raised
    }

    /// Sets them, which only the machine's own root may. Where one cannot be set the others may have been.
    ///
    /// # Errors
    /// The first that cannot be set; none of a family that the kernel does not have.
    pub fn set(&self) -> Result<(), Error> {
        let mut first = Ok(());
        for (family, levels) in FAMILIES.into_iter().zip(self.0) {
            for (level, value) in (1..).zip(levels) {
                let file = file(family, level);
                let is_same = |text: String| text.trim() == value.to_string();
                if fs::read_to_string(&file).is_ok_and(is_same) {
                    continue;
                }
                match fs::write(&file, value.to_string()) {
                    Err(error) if family == "ipv6" && error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) if first.is_ok() => {
                        first = Err(Error::new(format!("write {file}"), error));
                    }
                    _ => {}
                }
            }
        }
        first
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_raised_keeps_as_many_as_it_should_and_lowers_nothing() {
        let usual = Thresholds::default();
        assert!(usual.keep(512) && !usual.keep(513));
        let raised = usual.keeping(2000);
        assert!(raised.keep(2000) && !raised.keep(2001));
        assert_eq!(raised.0[0], [2000, 2000, 4000]);
        assert_eq!(usual.keeping(100), usual);
        assert_eq!(raised.keeping(100), raised);
        assert!(usual.keeping(u32::MAX).keep(u32::MAX));
    }

    #[test]
    fn what_is_set_already_needs_no_right() {
        // Reads the machine's own, or the usual where it has none to show.
        let current = Thresholds::current();
        if fs::metadata(file("ipv4", 1)).is_ok() {
            current.set().expect("nothing to do");
        }
        assert_eq!(Thresholds::current(), current);
    }
}
