//! `cargo gate`: every check of the project, one table, one verdict.

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().collect();
    // Before anything else: a namespace can only be entered by a process of one thread.
    if let Some((verb, rest)) = arguments.get(1..).and_then(<[_]>::split_first)
        && let Some(code) = tests::gate::hidden(verb, rest)
    {
        return code;
    }
    tests::gate::run(&tests::gate::Options::parse_from(arguments))
}
