//! For how long packets between two clusters find no way when a gateway node dies, and when the path between two gateways does, in fleets of 3, 50 and 300
//! clusters: every node has a kernel and an agent, and the API is away. Printed, and nothing is asserted.
//!
//! `--test` does a little of each; `--clusters N` measures one size.
#![allow(
    dead_code,
    reason = "it drives what the suite of the same programs drives, and needs a part of it"
)]
#![expect(clippy::unwrap_used, reason = "a measure that cannot go on has failed")]

#[path = "../link/fleet.rs"]
mod fleet;
#[path = "../link/process.rs"]
mod process;
#[path = "../link/underlay.rs"]
mod underlay;
#[path = "../link/world.rs"]
mod world;

use std::time::{Duration, Instant};

use underlay::{Stream, Underlay};

/// A gateway that is back is used again after this; each failure doubles it, so that a measure takes a new pair of clusters each time.
const HOLD: &str = "1";

fn main() {
    // Before anything else: a process of one thread may still become root of a namespace.
    if let Err(error) = netns_harness::rootless::enter() {
        println!("nothing is measured: no network namespaces: {error}");
        return;
    }
    let words: Vec<String> = std::env::args().collect();
    let is_test = words.iter().any(|word| word == "--test");
    let one = words.iter().position(|word| word == "--clusters");
    let one = one.and_then(|at| words.get(at + 1)?.parse().ok());
    let sizes = match (one, is_test) {
        (Some(clusters), _) => vec![clusters],
        (None, true) => vec![3],
        (None, false) => vec![3, 50, 300],
    };
    let rounds = if is_test { 1 } else { 10 };
    println!("clusters  what fails          p50       p95   (packets every 2 ms)");
    for clusters in sizes {
        measure(clusters, rounds);
    }
}

/// Two clusters of three nodes among others of one.
fn measure(clusters: usize, rounds: usize) {
    let mut sizes = vec![1; clusters];
    sizes[..2].fill(3);
    let began = Instant::now();
    let mut fleet = Underlay::new(&sizes, &["--session-hold", HOLD]);
    fleet.settled();
    eprintln!(
        "{clusters} clusters with all sessions up after {:?}",
        began.elapsed()
    );
    let (mut dead, mut cut) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        // In turns, and at another moment of the sessions' pace each time.
        let pause = Duration::from_millis(1000 + 37 * u64::try_from(round).unwrap());
        dead.push(gap(&mut fleet, pause, |fleet, is_dead| {
            fleet.plug(0, 1, !is_dead);
        }));
        cut.push(gap(&mut fleet, pause, |fleet, is_dead| {
            let place = |cluster: usize| {
                let is_it = |node: &underlay::Node| (node.cluster, node.host) == (cluster, 1);
                fleet.nodes.iter().position(is_it).unwrap()
            };
            fleet.nodes[place(0)].lose(&fleet.nodes[place(1)], is_dead);
        }));
    }
    for (what, gaps) in [("the gateway's node", dead), ("one path", cut)] {
        println!(
            "{clusters:>8}  {what:<18}  {:>5} ms  {:>5} ms",
            part(&gaps, 50),
            part(&gaps, 95)
        );
    }
}

/// How long a stream has no answer when something fails.
fn gap(fleet: &mut Underlay, pause: Duration, fail: impl Fn(&Underlay, bool)) -> Option<Duration> {
    fleet.settled();
    let stream: Stream = fleet.stream((0, 3), (1, 3));
    std::thread::sleep(pause);
    fail(fleet, true);
    std::thread::sleep(Duration::from_secs(8));
    let gap = stream.gap();
    fail(fleet, false);
    // Sessions notice the way back, and what they found is written, before anybody asks for it.
    std::thread::sleep(Duration::from_secs(5));
    gap
}

/// A percentile in milliseconds; `none` where packets did not pass again within eight seconds.
fn part(gaps: &[Option<Duration>], percent: usize) -> String {
    let mut gaps: Vec<u128> = gaps
        .iter()
        .map(|gap| gap.map_or(u128::MAX, |gap| gap.as_millis()))
        .collect();
    gaps.sort_unstable();
    let at = (gaps.len() * percent).div_ceil(100).saturating_sub(1);
    match gaps.get(at) {
        Some(&u128::MAX) | None => "none".to_owned(),
        Some(gap) => gap.to_string(),
    }
}
