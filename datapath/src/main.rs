//! The program `clusterlink`.

use std::process::ExitCode;

fn main() -> ExitCode {
    datapath::cli::main(std::env::args_os().skip(1))
}
