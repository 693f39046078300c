//! Small fleets and a lab in the kernel: what a person waits for, in seconds.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::workshop::Workshop;

/// The longest that one program may take.
const LIMIT: Duration = Duration::from_secs(600);

/// One measured figure.
struct Figure {
    what: String,
    median: Duration,
    spread: (Duration, Duration),
    remark: String,
}

/// Prints them.
///
/// # Errors
/// That something does not run.
pub(crate) fn print(workshop: &Workshop) -> Result<(), String> {
    let mut figures = vec![repeat(
        workshop,
        "demo, 3 clusters × 2 nodes, all in all (promise: 5 s)",
        3,
        &["demo"],
    )?];
    let fleet = |clusters, nodes, name| {
        [
            "sim",
            "up",
            "--clusters",
            clusters,
            "--nodes",
            nodes,
            "--mode",
            "gateway",
            "--name",
            name,
        ]
    };
    workshop.succeed(&fleet("3", "3", "small"), LIMIT)?;
    figures.push(repeat(
        workshop,
        "dr of 3 clusters × 3 nodes (promise: 1 s)",
        5,
        &["dr", "--sim", "small"],
    )?);
    workshop.succeed(&["sim", "down", "--name", "small"], LIMIT)?;

    let mut large = [Vec::new(), Vec::new(), Vec::new()];
    let mut memory = String::new();
    for _ in 0..3 {
        large[0].push(workshop.succeed(&fleet("100", "2", "large"), LIMIT)?.took);
        let dr = workshop.succeed(&["dr", "--sim", "large", "-o", "json"], LIMIT)?;
        memory = format!(
            "{} MiB resident at most; the lab's process {} MiB",
            dr.peak_kib.unwrap_or(0) / 1024,
            workshop.lab_peak_kib("large").unwrap_or(0) / 1024
        );
        large[1].push(dr.took);
        large[2].push(
            workshop
                .succeed(&["sim", "down", "--name", "large"], LIMIT)?
                .took,
        );
    }
    let [ups, drs, downs] = large;
    figures.push(figure(
        "lab of 100 clusters × 2 nodes, up with APIs and pods (promise: 5 s)",
        ups,
        String::new(),
    ));
    figures.push(figure("dr over it (promise: 10 s)", drs, memory));
    figures.push(figure(
        "its end (promise: 3 s as root)",
        downs,
        String::new(),
    ));

    println!(
        "{:<75} {:>9} {:>9} {:>9}",
        "measure", "median", "min", "max"
    );
    for Figure {
        what,
        median,
        spread: (least, most),
        remark,
    } in &figures
    {
        println!(
            "{what:<75} {:>8.2}s {:>8.2}s {:>8.2}s  {remark}",
            median.as_secs_f64(),
            least.as_secs_f64(),
            most.as_secs_f64()
        );
    }
    match peer() {
        Ok(peer) => {
            let ours = figures[2].median.as_secs_f64() / 400.0;
            let theirs = peer.as_secs_f64();
            println!(
                "a namespace with a link, an address and a route: {:.2} ms by ip(8), one process a step; \
                 {:.2} ms of a lab's start, its API, agents and floaters included; ratio {:.2}",
                theirs * 1e3,
                ours * 1e3,
                ours / theirs
            );
        }
        Err(why) => println!("no comparison with ip(8): {why}"),
    }
    Ok(())
}

fn repeat(
    workshop: &Workshop,
    what: &str,
    times: usize,
    arguments: &[&str],
) -> Result<Figure, String> {
    workshop.succeed(arguments, LIMIT)?;
    let runs: Result<Vec<_>, _> = (0..times)
        .map(|_| workshop.succeed(arguments, LIMIT).map(|once| once.took))
        .collect();
    Ok(figure(what, runs?, String::new()))
}

/// One namespace with a link, an address and a route, made and removed by ip(8).
fn peer() -> Result<Duration, String> {
    const TIMES: u32 = 20;
    let ip = |arguments: &str| {
        let status = Command::new("ip")
            .args(arguments.split(' '))
            .stdin(Stdio::null())
            .status();
        match status {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(format!("ip {arguments} ended with {status}")),
            Err(error) => Err(format!("ip does not start: {error}")),
        }
    };
    let started = Instant::now();
    for turn in 0..TIMES {
        let name = format!("floater-bench-{}-{turn}", std::process::id());
        ip(&format!("netns add {name}"))?;
        let made = ip(&format!("-n {name} link add v0 type veth peer name v1"))
            .and_then(|()| ip(&format!("-n {name} addr add 10.9.0.1/24 dev v0")))
            .and_then(|()| ip(&format!("-n {name} link set v0 up")))
            .and_then(|()| ip(&format!("-n {name} route add 10.10.0.0/16 via 10.9.0.2")));
        ip(&format!("netns del {name}"))?;
        made?;
    }
    Ok(started.elapsed() / TIMES)
}

fn figure(what: &str, mut runs: Vec<Duration>, remark: String) -> Figure {
    runs.sort();
    let spread = (
        runs.first().copied().unwrap_or_default(),
        runs.last().copied().unwrap_or_default(),
    );
    Figure {
        what: what.to_owned(),
        median: runs.get(runs.len() / 2).copied().unwrap_or_default(),
        spread,
        remark,
    }
}
