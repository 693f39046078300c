//! What the project promises in seconds and bytes, measured and printed, never asserted.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use super::cargo::Cargo;
use super::enter;

/// One measured figure.
struct Figure {
    what: String,
    median: Duration,
    spread: (Duration, Duration),
    remark: String,
}

/// Runs every measure and the benches of each crate; fails only if something does not run.
pub(crate) fn run(cargo: &Cargo) -> ExitCode {
    let outcome = measure(cargo).and_then(|()| {
        cargo.run(&[
            "bench",
            "--package",
            "datapath",
            "--package",
            "floater",
            "--benches",
            "--quiet",
        ])
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("gate: {error}");
            ExitCode::FAILURE
        }
    }
}

fn measure(cargo: &Cargo) -> Result<(), String> {
    let built = cargo.build_suites()?;
    let program = built
        .iter()
        .find(|one| !one.is_suite && one.target == "floaterctl")
        .ok_or("floaterctl is not built")?;
    let bench = Bench::new(&program.executable)?;
    let mut figures = Vec::new();
    figures.push(bench.repeat(
        "demo, 3 clusters × 2 nodes, all in all (promise: 5 s)",
        3,
        &["demo"],
    )?);

    bench.once(&[
        "sim",
        "up",
        "--clusters",
        "3",
        "--nodes",
        "3",
        "--mode",
        "gateway",
        "--name",
        "small",
    ])?;
    figures.push(bench.repeat(
        "dr of 3 clusters × 3 nodes (promise: 1 s)",
        5,
        &["dr", "--sim", "small"],
    )?);
    bench.once(&["sim", "down", "--name", "small"])?;

    let up = [
        "sim",
        "up",
        "--clusters",
        "100",
        "--nodes",
        "2",
        "--mode",
        "gateway",
        "--name",
        "large",
    ];
    let mut large = [Vec::new(), Vec::new(), Vec::new()];
    let mut memory = String::new();
    for _ in 0..3 {
        large[0].push(bench.once(&up)?.took);
        let dr = bench.once(&["dr", "--sim", "large", "-o", "json"])?;
        memory = format!(
            "{} MiB resident at most; the lab's process {} MiB",
            dr.peak_mib,
            bench.lab_mib("large")
        );
        large[1].push(dr.took);
        large[2].push(bench.once(&["sim", "down", "--name", "large"])?.took);
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
    match bench.peer() {
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

/// A finished run.
struct Once {
    took: Duration,
    peak_mib: u64,
}

struct Bench {
    program: PathBuf,
    folder: PathBuf,
}

impl Bench {
    fn new(program: &Path) -> Result<Self, String> {
        let folder = std::env::temp_dir().join(format!("floater-bench-{}", std::process::id()));
        std::fs::create_dir_all(folder.join("home"))
            .map_err(|error| format!("{}: {error}", folder.display()))?;
        Ok(Self {
            program: program.to_owned(),
            folder,
        })
    }

    fn once(&self, arguments: &[&str]) -> Result<Once, String> {
        // A process of its own in between has no other child, so that the kernel's maximum over children is this one's.
        let started = Instant::now();
        let output = Command::new(enter::ITSELF)
            .arg(PEAK)
            .arg(&self.program)
            .args(arguments)
            .env("HOME", self.folder.join("home"))
            .env("XDG_RUNTIME_DIR", &self.folder)
            .stdin(Stdio::null())
            .output()
            .map_err(|error| error.to_string())?;
        let took = started.elapsed();
        let said = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() {
            return Err(format!(
                "floaterctl {} ended with {}: {said}",
                arguments.join(" "),
                output.status
            ));
        }
        let peak_kib: u64 = said
            .lines()
            .last()
            .and_then(|line| line.parse().ok())
            .unwrap_or(0);
        Ok(Once {
            took,
            peak_mib: peak_kib / 1024,
        })
    }

    fn repeat(&self, what: &str, times: usize, arguments: &[&str]) -> Result<Figure, String> {
        self.once(arguments)?;
        let runs: Result<Vec<_>, _> = (0..times)
            .map(|_| self.once(arguments).map(|once| once.took))
            .collect();
        Ok(figure(what, runs?, String::new()))
    }

    /// Resident memory of a lab's own process, floaters apart.
    fn lab_mib(&self, name: &str) -> u64 {
        let state = self.folder.join("floater").join(name).join("lab.json");
        let read = || -> Option<u64> {
            let state: serde_json::Value =
                serde_json::from_slice(&std::fs::read(state).ok()?).ok()?;
            let status =
                std::fs::read_to_string(format!("/proc/{}/status", state["pid"].as_u64()?)).ok()?;
            let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
            Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? / 1024)
        };
        read().unwrap_or(0)
    }

    /// One namespace with a link, an address and a route, made and removed by ip(8).
    fn peer(&self) -> Result<Duration, String> {
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
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = self.once(&["sim", "down", "--all"]);
        let _ = std::fs::remove_dir_all(&self.folder);
    }
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

/// The hidden first argument that makes the gate run the rest and print its peak memory.
pub(crate) const PEAK: &str = "__peak";

/// Runs a command; the last line on standard error is the greatest resident size of it and its children, KiB.
pub(crate) fn run_and_weigh(command: &[OsString]) -> ExitCode {
    let Some((program, arguments)) = command.split_first() else {
        return ExitCode::FAILURE;
    };
    let status = Command::new(program).args(arguments).status();
    let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_CHILDREN);
    eprintln!("{}", usage.map_or(0, |usage| usage.max_rss()));
    match status
        .ok()
        .and_then(|status| status.code())
        .and_then(|code| u8::try_from(code).ok())
    {
        Some(code) => ExitCode::from(code),
        None => ExitCode::FAILURE,
    }
}
