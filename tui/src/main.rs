//! `floaterctl`, also as `kubectl-floater`. Hidden first words make it the process of a lab or a node's program instead;
//! they are looked at before the command line is parsed and before any thread starts, because such a process may have to
//! enter a namespace first and has to start fast.

#![forbid(unsafe_code)]

use std::ffi::{OsStr, OsString};
use std::process::ExitCode;

use mimalloc::MiMalloc;
use tui::lab::{HIDDEN_CLUSTERLINK, HIDDEN_FLOATER, HIDDEN_LAB};

/// A run and a lab of thousands of clusters make and drop millions of small values on all cores; a quarter of the lab's time was the C
/// library's allocator.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    let mut words = std::env::args_os();
    let _program = words.next();
    match words.next().as_deref().and_then(OsStr::to_str) {
        Some(HIDDEN_CLUSTERLINK) => datapath::cli::main(words),
        Some(HIDDEN_FLOATER) => floater::agent::cli::main(words),
        Some(HIDDEN_LAB) => simulator::control::serve(words),
        _ => tui::main(std::env::args_os().collect::<Vec<OsString>>()),
    }
}
