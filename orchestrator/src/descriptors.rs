//! File descriptors: every connection takes one, and a process has so many.
//!
//! The soft limit of most systems is 1024, far less than what the process may have for the asking. So it is raised, and
//! work is bounded by what there is: "too many open files" would look like a cluster that does not answer.

use std::io;

use datapath::printable::io_reason;
use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Fewer are not enough for one cluster.
pub(crate) const LEAST: u64 = 64;
/// Descriptors for files, the terminal, name resolution, credential plugins.
const RESERVE: u64 = 128;
/// Connections that one cluster takes while it is worked on.
const OF_A_CLUSTER: u64 = 8;

/// Idle connections that are kept for an authority with many clusters behind it.
const IDLE_OF_MANY: u64 = 32;

/// How descriptors are shared out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Descriptors {
    /// How many clusters are worked on at a time.
    pub(crate) clusters: usize,
    /// How many floaters are asked at a time, over all clusters.
    pub(crate) floaters: usize,
}

/// Raises the soft limit to the hard one; what the limit is then.
pub(crate) fn raise() -> u64 {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return 1024;
    };
    match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
        Ok(()) => hard,
        Err(_) => soft,
    }
}

/// That an operation failed for want of descriptors, in words: no fault of whatever was to be opened or connected to.
pub(crate) fn shortage(error: &io::Error) -> Option<&'static str> {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EMFILE) => Some(
            "this program has used up its file descriptors (raise ulimit -Hn); the cluster is not at fault",
        ),
        Some(Errno::ENFILE) => Some(
            "this machine has used up its file descriptors (raise fs.file-max); the cluster is not at fault",
        ),
        _ => None,
    }
}

/// Why an operation failed, in words that hold nothing of its object.
pub(crate) fn words(error: &io::Error) -> String {
    shortage(error).map_or_else(|| io_reason(error), str::to_owned)
}

impl Descriptors {
    /// A quarter each for clusters that are worked on and for floaters, half for idle connections.
    pub(crate) fn shared(limit: u64) -> Self {
        let left = limit.saturating_sub(RESERVE).max(64);
        let bounded = |count: u64, least: usize, most: usize| {
            usize::try_from(count)
                .unwrap_or(usize::MAX)
                .clamp(least, most)
        };
        Self {
            clusters: bounded(left / 4 / OF_A_CLUSTER, 2, 256),
            floaters: bounded(left / 4, 8, crate::fleet::FLOATERS_AT_ONCE),
        }
    }

    /// How many idle connections are kept for each authority, of so many that have so many clusters behind them.
    pub(crate) fn idle(limit: u64, clusters: usize, authorities: usize) -> usize {
        let authorities = authorities.clamp(1, clusters.max(1)) as u64;
        let left = limit.saturating_sub(RESERVE).max(64);
        let wished = (OF_A_CLUSTER * clusters as u64 / authorities).min(IDLE_OF_MANY);
        usize::try_from((left / 2 / authorities).min(wished)).unwrap_or(0)
    }

    /// What a run over so many clusters may take where nothing bounds it.
    pub(crate) fn need(clusters: usize) -> u64 {
        let clusters = clusters as u64;
        let at_once = clusters.min(256) * OF_A_CLUSTER + crate::fleet::FLOATERS_AT_ONCE as u64;
        RESERVE + at_once + clusters * OF_A_CLUSTER
    }

    /// What is to be said of a run over so many clusters that gets less than it may take.
    pub(crate) fn warning(limit: u64, clusters: usize) -> Option<String> {
        let need = Self::need(clusters);
        let shared = Self::shared(limit);
        (need > limit).then(|| {
            format!(
                "{clusters} clusters may take {need} file descriptors, and {limit} are allowed (ulimit -Hn): at most {} clusters and {} floaters are asked at a time",
                shared.clusters, shared.floaters
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shared_out_is_there() {
        for limit in [0, 64, 256, 1024, 20_000, 1 << 20] {
            for clusters in [0, 1, 2, 300, 5000] {
                let shared = Descriptors::shared(limit);
                assert!(shared.clusters >= 2 && shared.floaters >= 8, "{shared:?}");
                let taken = (shared.clusters as u64 * OF_A_CLUSTER)
                    + shared.floaters as u64
                    + (Descriptors::idle(limit, clusters, clusters) * clusters) as u64;
                if limit >= 256 {
                    assert!(taken + RESERVE <= limit, "{limit} {clusters}: {shared:?}");
                }
            }
        }
        assert_eq!(Descriptors::idle(1 << 20, 2, 2), 8);
        // Many clusters behind one proxy.
        assert_eq!(Descriptors::idle(256, 5000, 1), 32);
        assert_eq!(Descriptors::idle(20_000, 5000, 5000), 1);
        assert_eq!(Descriptors::idle(256, 0, 0), 0);
    }

    #[test]
    fn the_soft_limit_is_raised_to_the_hard_one() {
        let limit = raise();
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("every process has one");
        assert_eq!((limit, soft), (hard, hard));
    }

    #[test]
    fn too_few_for_all_at_once_is_said() {
        assert_eq!(Descriptors::warning(1 << 20, 5000), None);
        assert_eq!(Descriptors::need(5000), 128 + 256 * 8 + 512 + 5000 * 8);
        let warning = Descriptors::warning(1024, 5000).expect("they need more");
        assert_eq!(
            warning,
            "5000 clusters may take 42688 file descriptors, and 1024 are allowed (ulimit -Hn): at most 28 clusters and 224 floaters are asked at a time"
        );
    }

    #[test]
    fn a_shortage_is_told_from_other_failures() {
        for (errno, rule) in [
            (Errno::EMFILE, Some("ulimit -Hn")),
            (Errno::ENFILE, Some("fs.file-max")),
            (Errno::ECONNREFUSED, None),
            (Errno::ENOENT, None),
        ] {
            let error = io::Error::from_raw_os_error(errno as i32);
            let said = shortage(&error);
            assert_eq!(said.is_some(), rule.is_some(), "{errno}");
            assert!(said.is_none_or(|said| said.contains(rule.unwrap_or_default())));
        }
        let absent = io::Error::from_raw_os_error(Errno::ENOENT as i32);
        assert_eq!(words(&absent), "no such file or directory");
    }
}
