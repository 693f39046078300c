//! The program `floater`.

use std::process::ExitCode;

fn main() -> ExitCode {
    floater::agent::cli::main(std::env::args_os().skip(1))
}
