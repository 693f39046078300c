//! `floaterctl`, also as `kubectl-floater`: hands hidden verbs to the crates that own them, everything else to
//! [`tui::main`].

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    tui::main(std::env::args_os().collect())
}
