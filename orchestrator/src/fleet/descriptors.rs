//! File descriptors: every connection takes one, and a process has so many.
//!
//! The soft limit of most systems is 1024, far less than what the process may have for the asking. So it is raised, and
//! work is bounded by what there is: "too many open files" would look like a cluster that does not answer.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Descriptors for files, the terminal, name resolution, credential plugins.
const RESERVE: u64 = 128;
/// Connections that one cluster takes while it is worked on.
const OF_A_CLUSTER: u64 = 8;

/// How descriptors are shared out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Descriptors {
    /// How many clusters are worked on at a time.
    pub(crate) clusters: usize,
    /// How many floaters are asked at a time, over all clusters.
    pub(crate) floaters: usize,
    /// How many idle connections are kept for each cluster.
    pub(crate) idle: usize,
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

impl Descriptors {
    /// A quarter each for clusters that are worked on and for floaters, half for idle connections.
    pub(crate) fn shared(limit: u64, clusters: usize) -> Self {
        let left = limit.saturating_sub(RESERVE).max(64);
        let bounded = |count: u64, least: usize, most: usize| {
            usize::try_from(count)
                .unwrap_or(usize::MAX)
                .clamp(least, most)
        };
        Self {
            clusters: bounded(left / 4 / OF_A_CLUSTER, 2, 256),
            floaters: bounded(left / 4, 8, super::FLOATERS_AT_ONCE),
            idle: bounded(left / 2 / clusters.max(1) as u64, 0, 8),
        }
    }

    /// What a run over so many clusters takes where nothing bounds it.
    pub(crate) fn need(clusters: usize) -> u64 {
        let clusters = clusters as u64;
        let at_once = clusters.min(256) * OF_A_CLUSTER + super::FLOATERS_AT_ONCE as u64;
        RESERVE + at_once + clusters * OF_A_CLUSTER
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shared_out_is_there() {
        for limit in [0, 64, 256, 1024, 20_000, 1 << 20] {
            for clusters in [0, 1, 2, 300, 5000] {
                let shared = Descriptors::shared(limit, clusters);
                assert!(shared.clusters >= 2 && shared.floaters >= 8, "{shared:?}");
                let taken = (shared.clusters as u64 * OF_A_CLUSTER)
                    + shared.floaters as u64
                    + (shared.idle * clusters) as u64;
                if limit >= 256 {
                    assert!(taken + RESERVE <= limit, "{limit} {clusters}: {shared:?}");
                }
            }
        }
        assert_eq!(Descriptors::shared(1 << 20, 2).idle, 8);
    }

    #[test]
    fn the_soft_limit_is_raised() {
        let limit = raise();
        let (soft, _) = getrlimit(Resource::RLIMIT_NOFILE).expect("every process has one");
        assert_eq!(limit, soft);
    }
}
