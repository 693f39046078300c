//! A network of its own for a test suite: the gate as the suite's parent.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode, Stdio};

use netns_harness::namespace::Netns;
use netns_harness::netlink::Netlink;
use netns_harness::wire::Wire as _;
use netns_harness::{Error, caps, rootless};

/// The hidden first argument that makes the gate enter a namespace and become the rest of its arguments.
pub(crate) const VERB: &str = "__enter";
/// This program, also after a build has put another in its place.
pub(crate) const ITSELF: &str = "/proc/self/exe";
/// The hidden first argument that makes the gate print what the machine can do.
pub(crate) const CAPABILITIES: &str = "__capabilities";

/// Becomes root of a user namespace (unless root already), enters a new network namespace, raises its loopback, and
/// becomes the given command.
pub(crate) fn run(command: &[OsString]) -> ExitCode {
    if let Err(error) = isolate() {
        eprintln!(
            "gate: no namespace for this suite: {error}: {}",
            error.source
        );
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

fn isolate() -> Result<(), Error> {
    rootless::enter()?;
    Netns::create()?.enter()?;
    let mut netlink = Netlink::open()?;
    netlink.up(1);
    netlink.flush()
}

/// Prints one line per capability: its name, and why it is missing where it is.
pub(crate) fn print_capabilities() -> ExitCode {
    // Without a user namespace the check still tells what is missing, and why.
    if let Err(error) = rootless::enter() {
        eprintln!("gate: {error}: {}", error.source);
    }
    for capability in caps::check() {
        println!(
            "{}\t{}",
            capability.name,
            capability.reason.unwrap_or_default()
        );
    }
    ExitCode::SUCCESS
}

/// What the machine can do: each capability with the reason of its absence, empty where it is there.
pub(crate) fn capabilities() -> BTreeMap<String, String> {
    let ask = || -> std::io::Result<String> {
        let output = Command::new(ITSELF)
            .arg(CAPABILITIES)
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .output()?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let text = ask().unwrap_or_else(|error| format!("netns\t{error}\n"));
    let mut found: BTreeMap<String, String> = text
        .lines()
        .filter_map(|line| line.split_once('\t'))
        .map(|(name, why)| (name.to_owned(), why.to_owned()))
        .collect();
    // Large fleets need nothing but time, which the whole gate has.
    found.insert("scale".to_owned(), String::new());
    for (capability, program) in [("iproute2", "ip"), ("kubectl", "kubectl")] {
        let is_there = std::env::var_os("PATH").is_some_and(|path| {
            std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
        });
        let why = if is_there {
            String::new()
        } else {
            format!("no `{program}` on the PATH")
        };
        found.insert(capability.to_owned(), why);
    }
    found
}
