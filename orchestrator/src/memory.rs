//! What a run takes of memory, and what there is.
//!
//! A run that is killed half-way has told nothing. So what is likely to be too little is said before anything is asked; whoever knows better
//! goes on.

use std::fs;

/// What a run takes whatever its size, KiB.
const BASE_KIB: u64 = 48 << 10;
/// What it takes of each cluster of two nodes: objects, tables without what is as planned, and the probes of `4 ln N` peers. Measured with
/// 300, 1000 and 5000.
const CLUSTER_KIB: u64 = 256;
/// Bytes of a cell: layers, families, and a quarter again for what a terminal zooms out to.
const CELL_BYTES: u64 = 5;

/// What a run over so many clusters is likely to take, KiB.
fn need(clusters: usize) -> u64 {
    let clusters = clusters as u64;
    BASE_KIB + clusters * CLUSTER_KIB + clusters * clusters * CELL_BYTES / 1024
}

/// What is to be said of a run over so many clusters where so much is free, KiB.
fn warning_of(clusters: usize, free: Option<u64>) -> Option<String> {
    let need = need(clusters);
    free.filter(|free| *free < need).map(|free| {
        format!(
            "a run over {clusters} clusters takes about {} MiB of memory, and {} MiB are free: it may be killed before it can report (--contexts chooses some of them)",
            need >> 10,
            free >> 10
        )
    })
}

/// What is to be said of a run over so many clusters in this process.
pub(crate) fn warning(clusters: usize) -> Option<String> {
    warning_of(clusters, free())
}

/// What this process may still take, KiB: of the machine, and of its control group where that is bounded. None where the kernel says
/// neither.
fn free() -> Option<u64> {
    let of_machine = fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|text| available(&text));
    of_machine.into_iter().chain(of_group()).min()
}

/// `MemAvailable` of `/proc/meminfo`, KiB.
fn available(meminfo: &str) -> Option<u64> {
    let mut lines = meminfo.lines();
    let line = lines.find(|line| line.starts_with("MemAvailable:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// What is left of `memory.max` of the process's own control group (version 2), KiB.
fn of_group() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let own = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
    let number = |file: &str| -> Option<u64> {
        let text = fs::read_to_string(format!("/sys/fs/cgroup{own}/{file}")).ok()?;
        text.trim().parse().ok()
    };
    Some(number("memory.max")?.saturating_sub(number("memory.current")?) >> 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_little_is_said_before_it_is_missed() {
        assert_eq!(warning_of(2, Some(1 << 20)), None);
        assert_eq!(warning_of(5000, None), None);
        assert_eq!(warning_of(5000, Some(4 << 20)), None);
        let said = warning_of(5000, Some(512 << 10)).expect("it is too little");
        assert!(
            said.starts_with(
                "a run over 5000 clusters takes about 1417 MiB of memory, and 512 MiB are free"
            ),
            "{said}"
        );
    }

    #[test]
    fn the_kernel_says_what_is_free() {
        let text =
            "MemTotal:       16303256 kB\nMemFree:         1234 kB\nMemAvailable:   987654 kB\n";
        assert_eq!(available(text), Some(987_654));
        assert_eq!(available("MemTotal: 1 kB\n"), None);
    }
}
