//! What callers do with labs. A lab is a process of its own; these functions start it, talk to it, and end it.

mod client;

use datapath::printable::is_dns_label;
use std::collections::BTreeSet;
use std::convert::Infallible;
use std::ffi::OsString;
use std::io::{BufReader, Write as _};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{ChildStdin, Command, ExitCode, Stdio};
use std::time::Duration;

use datapath::code::Code;
use netns_harness::namespace::Netns;
use netns_harness::process;
use netns_harness::process::Other;
use nix::sys::signal::Signal;
use serde::Serialize;

use crate::protocol::{Answer, Order, ROOT, Ready, Request};
use crate::state::{self, Folder, MARKER, Taken};
use crate::topology::Topology;
use crate::{Error, codes, lab};

pub use crate::codes::Injection;
pub use crate::protocol::{Caller, ClusterStatus, NodeStatus, Phase, Status, Step};
pub use crate::state::state_root;

/// How long a lab may take to come down before it is killed.
const PATIENCE: Duration = Duration::from_secs(60);
/// The name of a lab that was given none.
const DEFAULT_NAME: &str = "lab";

/// A lab that is up.
#[derive(Debug, Serialize)]
pub struct Lab {
    /// Its name.
    pub name: String,
    /// One context per cluster, named as the cluster.
    pub kubeconfig: PathBuf,
    /// While this is open a tied lab lives.
    #[serde(skip)]
    tie: Option<ChildStdin>,
}

/// Builds a lab, and returns once every node's kernel equals its NodeConfig and all pods are ready.
///
/// # Errors
/// The name is no DNS label or taken, the kernel lacks something, or the lab failed; nothing is left of it then.
pub fn up(
    topology: &Topology,
    name: Option<&str>,
    caller: &Caller,
    tied: bool,
) -> Result<Lab, Error> {
    up_with(topology, name, caller, tied, |_| {})
}

/// As [`up`]; `on_step` hears how far the lab is.
///
/// # Errors
/// As [`up`].
pub fn up_with(
    topology: &Topology,
    name: Option<&str>,
    caller: &Caller,
    tied: bool,
    on_step: impl FnMut(&Step),
) -> Result<Lab, Error> {
    let name = name.or(topology.name.as_deref()).unwrap_or(DEFAULT_NAME);
    let folder = checked(name)?;
    crate::lab::possible(topology)?;
    has_programs(topology)?;
    let doing = || format!("start simulated fleet `{name}`");
    // Before a process of its own user namespace, which knows no other users, has to judge.
    state::names()?;
    let mut child = Command::new(&caller.program)
        .args(&caller.lab_verb)
        .arg(name)
        .env(ROOT, state_root())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(Error::failed(doing()))?;
    let (Some(mut stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
        return Err(Error::Failed {
            doing: doing(),
            why: "it has no pipes".to_owned(),
        });
    };
    let order = Order {
        topology: topology.clone(),
        tied,
        caller: caller.clone(),
    };
    let sent = serde_json::to_vec(&order)
        .map_err(std::io::Error::from)
        .and_then(|mut line| {
            line.push(b'\n');
            stdin.write_all(&line)
        });
    let mut line = String::new();
    let received = sent.and_then(|()| last_line(BufReader::new(stdout), &mut line, on_step));
    let ready: Result<Ready, _> = serde_json::from_str(&line);
    let ended = |child: &mut std::process::Child| match child.wait() {
        Ok(status) => format!("its process ended early ({status})"),
        Err(error) => error.to_string(),
    };
    match (received, ready) {
        (Ok(()), Ok(Ready::Up)) => {
            // Whoever lives as long as the lab has to take note of its end.
            std::thread::spawn(move || child.wait());
            Ok(Lab {
                name: name.to_owned(),
                kubeconfig: folder.kubeconfig(),
                tie: tied.then_some(stdin),
            })
        }
        (Ok(()), Ok(Ready::Failed(error))) => {
            ended(&mut child);
            Err(error)
        }
        (received, _) => {
            drop(stdin);
            let why = ended(&mut child);
            Err(Error::Failed {
                doing: doing(),
                why: match received {
                    Err(error) if line.is_empty() => format!("{error}; {why}"),
                    _ => why,
                },
            })
        }
    }
}

/// Reads lines up to the first that is no step.
fn last_line(
    mut lines: impl std::io::BufRead,
    line: &mut String,
    mut on_step: impl FnMut(&Step),
) -> std::io::Result<()> {
    loop {
        line.clear();
        lines.read_line(line)?;
        match serde_json::from_str(line) {
            Ok(Ready::Step(step)) => on_step(&step),
            _ => return Ok(()),
        }
    }
}

impl Lab {
    /// Takes the lab down and waits for it.
    ///
    /// # Errors
    /// As [`down`].
    pub fn down(mut self) -> Result<(), Error> {
        let ended = down(Some(&self.name));
        self.tie = None;
        ended
    }
}

fn checked(name: &str) -> Result<Folder, Error> {
    if is_dns_label(name) {
        Ok(Folder::of(name))
    } else {
        Err(Error::argument(
            "--name",
            format!("`{name}` is not a DNS label (a-z, 0-9, inner -, at most 63)"),
        ))
    }
}

/// What else could have been meant.
fn others() -> Result<String, Error> {
    let names = state::names()?;
    Ok(match names.as_slice() {
        [] => String::new(),
        names => format!("; running: {}", names.join(", ")),
    })
}

/// The lab that is meant, with a trace on disk.
fn named(name: Option<&str>) -> Result<Folder, Error> {
    if let Some(name) = name {
        let folder = checked(name)?;
        return if state::names()?.contains(&folder.name) {
            Ok(folder)
        } else {
            Err(Error::argument(
                "--name",
                format!("no simulated fleet named `{name}` is running{}", others()?),
            ))
        };
    }
    match state::names()?.as_slice() {
        [] => Err(Error::argument("--name", "no simulated fleet is running")),
        [only] => Ok(Folder::of(only)),
        several => Err(Error::argument(
            "--name",
            format!(
                "several simulated fleets are running; name one of {}",
                several.join(", ")
            ),
        )),
    }
}

/// Asks the lab that is meant.
fn ask(name: Option<&str>, request: &Request) -> Result<(Answer, Vec<OwnedFd>), Error> {
    client::ask(&named(name)?, request)
}

fn unexpected(name: Option<&str>) -> Error {
    Error::Failed {
        doing: format!("talk to simulated fleet `{}`", name.unwrap_or(DEFAULT_NAME)),
        why: "it answered something else than it was asked for".to_owned(),
    }
}

/// What a lab is made of and how it is.
///
/// # Errors
/// There is no such lab.
pub fn status(name: Option<&str>) -> Result<Status, Error> {
    match ask(name, &Request::Status)? {
        (Answer::Status(status), _) => Ok(*status),
        _ => Err(unexpected(name)),
    }
}

/// Whether a lab of this name has a process, be it starting, stopped or going down.
#[must_use]
pub fn is_running(name: &str) -> bool {
    checked(name).is_ok_and(|folder| folder.holder().is_some())
}

/// The names of all labs that left a trace, sorted; some may be coming up, going down, or killed.
#[must_use]
pub fn names() -> Vec<String> {
    // A folder that is not ours holds no lab of ours; asking for one is refused.
    state::names().unwrap_or_default()
}

/// The path of a lab's kubeconfig.
///
/// # Errors
/// There is no such lab.
pub fn kubeconfig(name: Option<&str>) -> Result<PathBuf, Error> {
    let folder = named(name)?;
    client::alive(&folder)?;
    let path = folder.kubeconfig();
    if path.is_file() {
        Ok(path)
    } else {
        Err(Error::argument(
            "--name",
            format!("simulated fleet `{}` is still starting", folder.name),
        ))
    }
}

/// Becomes a program in the network namespace of a place: `CLUSTER/NODE`, `CLUSTER/NODE/POD` or `underlay`. Returns only on
/// failure. In a rootless lab the calling process must have a single thread.
///
/// # Errors
/// There is no such lab or place, or the program cannot be started.
pub fn exec(name: Option<&str>, place: &str, argv: &[OsString]) -> Result<Infallible, Error> {
    let Some((program, args)) = argv.split_first() else {
        return Err(Error::argument("CMD", "there is no program to run"));
    };
    let request = Request::Exec {
        place: place.to_owned(),
    };
    let (Answer::Entered { id }, descriptors) = ask(name, &request)? else {
        return Err(unexpected(name));
    };
    let mut descriptors = descriptors.into_iter();
    let netns = descriptors.next().map(Netns::from_fd);
    let Some(netns) = netns else {
        return Err(unexpected(name));
    };
    let mut command = Command::new(program);
    command.args(args).env(MARKER, id);
    Err(process::exec(command, descriptors.next(), &netns).into())
}

/// Refuses what this machine or this version cannot build, as [`up`] would, and builds nothing. Upstream's programs are not looked for.
///
/// # Errors
/// [`Error::Missing`], which names it.
pub fn possible(topology: &Topology) -> Result<(), Error> {
    lab::possible(topology)
}

/// Refuses clusters of upstream's control planes whose programs are not there.
///
/// # Errors
/// [`Error::Input`] where nothing says where they are, [`Error::Missing`] where one is lacking.
pub fn has_programs(topology: &Topology) -> Result<(), Error> {
    lab::has_programs(topology)
}

/// Stops the datapath's controllers, elector and agents, everywhere or at `CLUSTER[/NODE]`.
///
/// # Errors
/// There is no such lab or place.
pub fn freeze(name: Option<&str>, at: Option<&str>) -> Result<(), Error> {
    let at = at.map(str::to_owned);
    ask(name, &Request::Freeze { at }).map(drop)
}

/// Lets them go on, and returns once every kernel is again what its NodeConfig says.
///
/// # Errors
/// There is no such lab or place, or a node does not settle.
pub fn thaw(name: Option<&str>, at: Option<&str>) -> Result<(), Error> {
    let at = at.map(str::to_owned);
    ask(name, &Request::Thaw { at }).map(drop)
}

/// The codes that can be injected, sorted.
#[must_use]
pub fn fault_list() -> Vec<Code> {
    codes::injectable().collect()
}

/// Whether a code can be injected, and why not.
#[must_use]
pub fn injection(code: Code) -> Injection {
    codes::injection(code)
}

/// Breaks something at `CLUSTER[/NODE][,PEER]`; the node's agent is frozen first.
///
/// # Errors
/// There is no such lab, code or place, or there is nothing there to break.
pub fn fault_inject(name: Option<&str>, code: Code, at: &str) -> Result<(), Error> {
    codes::check(code).map_err(|rule| Error::argument("CODE", rule))?;
    let at = at.to_owned();
    ask(name, &Request::Inject { code, at }).map(drop)
}

/// Repairs everything that was injected, and lets the nodes that were frozen for it go on.
///
/// # Errors
/// There is no such lab, or a node does not settle.
pub fn fault_clear(name: Option<&str>) -> Result<(), Error> {
    ask(name, &Request::Clear).map(drop)
}

/// Takes a lab down, waits for its end, and makes sure that nothing is left, also of one that was killed.
///
/// # Errors
/// There is no such lab, or something cannot be removed.
pub fn down(name: Option<&str>) -> Result<(), Error> {
    end(&named(name)?)
}

/// Takes all labs of this user down; the result is their names.
///
/// # Errors
/// The first failure, after all labs were tried.
pub fn down_all() -> Result<Vec<String>, Error> {
    let mut ended = BTreeSet::new();
    loop {
        let mut failed = None;
        for name in state::names()? {
            match end(&Folder::of(&name)) {
                Ok(()) => {
                    ended.insert(name);
                }
                Err(error) => {
                    failed.get_or_insert(error);
                }
            }
        }
        if let Some(error) = failed {
            return Err(error);
        }
        // A lab whose caller was killed may not have left a trace yet.
        let starting = process::held_marked(&format!("{ROOT}={}", state_root().display()))?;
        if starting.is_empty() {
            return Ok(ended.into_iter().collect());
        }
        for process in starting {
            end_process(&process, "a simulated fleet that is starting")?;
        }
    }
}

/// Ends a lab's process: it is asked first.
fn end_process(process: &Other, what: &str) -> Result<(), Error> {
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        process.signal(signal);
        // One that was stopped takes no signal until it goes on.
        process.signal(Signal::SIGCONT);
        if process.wait_for_end(PATIENCE)? {
            return Ok(());
        }
    }
    Err(Error::Failed {
        doing: format!("end {what}"),
        why: format!("process {} survives SIGKILL", process.id()),
    })
}

fn end(folder: &Folder) -> Result<(), Error> {
    let record = folder.record();
    let process = match &record {
        Some(record) => Other::find(record.pid)?.filter(|_| folder.is_held_by(record.pid)),
        None => None,
    };
    loop {
        match folder.take_there()? {
            Taken::Gone => break,
            Taken::Ours(lock) => folder.clean(&lock)?,
            Taken::Lab(pid) => {
                // Held first and asked for again, so that its number means it and nobody else.
                if let Some(process) = Other::find(pid)?
                    && folder.is_held_by(pid)
                {
                    end_process(&process, &format!("simulated fleet `{}`", folder.name))?;
                }
            }
        }
    }
    // It removes its folder before it ends.
    if let Some(process) = process {
        end_process(&process, &format!("simulated fleet `{}`", folder.name))?;
    }
    match record {
        Some(record) => state::end_marked(&record.marker()),
        None => Ok(()),
    }
}

/// The lab's process: what the hidden verb of [`Caller::lab_verb`] runs. It has to be called before the process starts a thread.
#[must_use]
pub fn serve(args: impl Iterator<Item = OsString>) -> ExitCode {
    crate::lab::serve(args)
}
