//! What the project promises in seconds and bytes, measured and printed, never asserted.

mod budget;
mod datapath;
mod labs;
mod measured;
mod promises;
mod table;
mod workshop;

use std::process::ExitCode;

use super::cargo::Cargo;
use workshop::Workshop;
pub(crate) use workshop::{PEAK, run_and_weigh};

/// Prints the budget table; where nothing of it was chosen also what small fleets take, and the benches of each crate. Fails only
/// if something of this project does not build or start.
pub(crate) fn run(cargo: &Cargo, rows: Option<&str>, sizes: &[usize]) -> ExitCode {
    match measure(cargo, rows, sizes) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("gate: {error}");
            ExitCode::FAILURE
        }
    }
}

fn measure(cargo: &Cargo, rows: Option<&str>, sizes: &[usize]) -> Result<(), String> {
    let program = cargo.build_released("tui", "floaterctl")?;
    let workshop = Workshop::new(&program)?;
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let wanted = budget::Wanted { rows, sizes };
    let lines = budget::measure(cargo, &workshop, &wanted)?;
    println!(
        "Fleets of gateway clusters of two nodes, IPv4; release, {cores} cores, load {} at the start. Every row and size is a process of \
         its own: `peak` is its VmHWM, `before` what it had before the work with all its input, `planes` the verdicts' clusters² bytes \
         (MiB), `KiB/one` the peak without planes for each cluster or context, `further` the same for each one more than the size before.",
        load.split_whitespace().next().unwrap_or("unknown")
    );
    print!("{}", table::text(&lines));
    if rows.is_some() || !sizes.is_empty() {
        return Ok(());
    }
    promises::print(&workshop)?;
    datapath::print(cargo, &workshop)?;
    drop(workshop);
    cargo.run(&[
        "bench",
        "--package",
        "datapath",
        "--package",
        "floater",
        "--bench",
        "diff",
        "--bench",
        "engine",
        "--bench",
        "plan",
        "--bench",
        "walk",
        "--quiet",
    ])
}
