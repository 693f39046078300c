//! A network of its own for a test suite: the gate as the suite's parent.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

/// The hidden first argument that makes the gate enter a namespace and become the rest of its arguments.
pub(crate) const VERB: &str = "__enter";

/// Enters new user (unless root), mount and network namespaces, raises loopback, and becomes the given command.
pub(crate) fn run(command: &[OsString]) -> ExitCode {
    if let Err(error) = netns_harness::isolate() {
        eprintln!("gate: no namespaces for this suite: {error}");
        return ExitCode::FAILURE;
    }
    let Some((program, arguments)) = command.split_first() else {
        eprintln!("gate: nothing to run");
        return ExitCode::FAILURE;
    };
    let error = Command::new(program).args(arguments).exec();
    eprintln!("gate: {} does not start: {error}", program.display());
    ExitCode::FAILURE
}
