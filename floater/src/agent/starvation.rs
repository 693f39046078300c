//! How much the kernel kept this process waiting.

use std::fs;
use std::io;

/// Threads whose figures are added up: a floater has a handful.
const THREADS: usize = 64;

/// How long the threads of this process were ready to run and waited for a processor since they started, microseconds;
/// none where the kernel does not say.
pub(super) fn run_queue_delay_us() -> Option<u64> {
    let threads = fs::read_dir("/proc/self/task").ok()?;
    threads
        .flatten()
        .take(THREADS)
        // A thread may end in between.
        .filter_map(|thread| fs::read_to_string(thread.path().join("schedstat")).ok())
        .map(|text| waited_us(&text))
        .reduce(|sum, one| Some(sum?.saturating_add(one?)))?
}

/// The second figure of a thread's `schedstat`, nanoseconds there.
fn waited_us(schedstat: &str) -> Option<u64> {
    let nanos: u64 = schedstat.split_whitespace().nth(1)?.parse().ok()?;
    Some(nanos / 1000)
}

/// Connections that the calling thread's network has dropped because a queue of connections to be accepted was full.
pub(super) fn accept_queue_overflows() -> io::Result<u64> {
    let text = fs::read_to_string("/proc/thread-self/net/netstat")?;
    counter(&text, "TcpExt:", "ListenOverflows")
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no ListenOverflows"))
}

/// One figure of `/proc/net/netstat`, which has a line of names and a line of figures for each group.
fn counter(text: &str, group: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix(group));
    let (names, figures) = (lines.next()?, lines.next()?);
    let at = names.split_whitespace().position(|word| word == name)?;
    figures.split_whitespace().nth(at)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_found_by_their_names() {
        let text = "TcpExt: SyncookiesSent ListenOverflows ListenDrops\nTcpExt: 1 22 3\nIpExt: InNoRoutes\nIpExt: 4\n";
        assert_eq!(counter(text, "TcpExt:", "ListenOverflows"), Some(22));
        assert_eq!(counter(text, "IpExt:", "InNoRoutes"), Some(4));
        for (text, name) in [
            (text, "Nothing"),
            ("", "x"),
            ("TcpExt: a\n", "a"),
            ("TcpExt: a b\nTcpExt: 1\n", "b"),
        ] {
            assert_eq!(counter(text, "TcpExt:", name), None);
        }
        assert_eq!(waited_us("1000 2500000 3\n"), Some(2500));
        assert_eq!(waited_us("1000"), None);
        assert_eq!(waited_us("1000 x 3"), None);
    }

    #[test]
    fn this_kernel_tells() {
        let before = run_queue_delay_us();
        assert!(run_queue_delay_us() >= before);
        assert!(accept_queue_overflows().is_ok());
    }
}
