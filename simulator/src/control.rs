//! What callers do with labs. A lab is a process of its own; these functions start it, talk to it, and end it.

mod protocol;

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::ffi::OsString;
use std::io::{BufRead as _, BufReader, ErrorKind, Write as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{ChildStdin, Command, ExitCode, Stdio};
use std::time::Duration;

use netns_harness::namespace::Netns;
use netns_harness::process::Other;
use netns_harness::{handover, process};
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

pub(crate) use protocol::{Answer, Order, Ready, Request, listen};

use crate::state::{self, Folder, MARKER, Taken};
use crate::topology::{Topology, is_dns_label};
use crate::{Error, codes};

pub use crate::state::state_root;

/// How long a lab may take to come down before it is killed.
const PATIENCE: Duration = Duration::from_secs(60);
/// The environment variable of lab processes that says where their state will be.
pub(crate) const ROOT: &str = "FLOATER_LAB_ROOT";
/// The name of a lab that was given none.
const DEFAULT_NAME: &str = "lab";

/// Who starts a lab, and what its processes are made of.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Caller {
    /// The executable that has the hidden verbs.
    pub program: PathBuf,
    /// The verb of a lab's process: it ends up in [`serve`].
    pub lab_verb: Vec<OsString>,
    /// The verb of a floater.
    pub floater_verb: Vec<OsString>,
}

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

/// What is up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The lab's name.
    pub name: String,
    /// The path of its kubeconfig.
    pub kubeconfig: PathBuf,
    /// Its process.
    pub pid: i32,
    /// When it started, RFC 3339.
    pub started: String,
    /// The places that stand still: `all`, `CLUSTER` or `CLUSTER/NODE`.
    pub frozen: Vec<String>,
    /// The faults that were injected and not cleared, as `CODE at PLACE`.
    pub faults: Vec<String>,
    /// Its clusters, in the order of the topology.
    pub clusters: Vec<ClusterStatus>,
}

/// A cluster that is up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterStatus {
    /// Its name.
    pub name: String,
    /// `gateway` or `p2p`.
    pub mode: String,
    /// `ipv4`, `ipv6` or `all`.
    pub family: String,
    /// Its API server.
    pub server: String,
    /// Its nodes.
    pub nodes: Vec<NodeStatus>,
}

/// A node that is up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Its name.
    pub name: String,
    /// Its underlay addresses.
    pub ips: Vec<String>,
    /// Whether it is its cluster's gateway.
    pub gateway: bool,
    /// Why its kernel is not what its NodeConfig says.
    pub trouble: Option<String>,
    /// Its pods, as `namespace/name`, and whether each is ready.
    pub pods: Vec<(String, bool)>,
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
    let name = name.or(topology.name.as_deref()).unwrap_or(DEFAULT_NAME);
    let folder = checked(name)?;
    crate::lab::possible(topology)?;
    let doing = || format!("start lab {name}");
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
    let told = serde_json::to_vec(&order)
        .map_err(std::io::Error::from)
        .and_then(|mut line| {
            line.push(b'\n');
            stdin.write_all(&line)
        });
    let mut line = String::new();
    let heard = told.and_then(|()| BufReader::new(stdout).read_line(&mut line));
    let ready: Result<Ready, _> = serde_json::from_str(&line);
    let ended = |child: &mut std::process::Child| match child.wait() {
        Ok(status) => format!("its process ended early ({status})"),
        Err(error) => error.to_string(),
    };
    match (heard, ready) {
        (Ok(_), Ok(Ready::Up)) => {
            // Whoever lives as long as the lab has to take note of its end.
            std::thread::spawn(move || child.wait());
            Ok(Lab {
                name: name.to_owned(),
                kubeconfig: folder.kubeconfig(),
                tie: tied.then_some(stdin),
            })
        }
        (Ok(_), Ok(Ready::Failed(error))) => {
            ended(&mut child);
            Err(error)
        }
        (heard, _) => {
            drop(stdin);
            let why = ended(&mut child);
            Err(Error::Failed {
                doing: doing(),
                why: match heard {
                    Err(error) if line.is_empty() => format!("{error}; {why}"),
                    _ => why,
                },
            })
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

/// The lab that is meant, with a trace on disk.
fn named(name: Option<&str>) -> Result<Folder, Error> {
    if let Some(name) = name {
        let folder = checked(name)?;
        return if state::names()?.contains(&folder.name) {
            Ok(folder)
        } else {
            Err(Error::argument(
                "--name",
                format!("there is no lab `{name}`"),
            ))
        };
    }
    match state::names()?.as_slice() {
        [] => Err(Error::argument("--name", "no lab is up")),
        [only] => Ok(Folder::of(only)),
        several => Err(Error::argument(
            "--name",
            format!("there are several labs: {}; say which", several.join(", ")),
        )),
    }
}

/// Refuses a lab whose process is no more.
fn alive(folder: &Folder) -> Result<(), Error> {
    if folder.is_held() {
        return Ok(());
    }
    let name = &folder.name;
    Err(Error::argument(
        "--name",
        format!("lab `{name}` was killed; `sim down` removes what it left"),
    ))
}

/// Asks a lab something. What comes first is a byte with descriptors, then the answer, one JSON object.
fn ask(
    name: Option<&str>,
    request: &Request,
) -> Result<(Answer, Vec<std::os::fd::OwnedFd>), Error> {
    let folder = named(name)?;
    let name = &folder.name;
    let doing = || format!("talk to lab {name}");
    alive(&folder)?;
    let mut stream: UnixStream = match protocol::connect(folder.path()) {
        Ok(stream) => stream,
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::NotFound | ErrorKind::ConnectionRefused
            ) =>
        {
            return Err(Error::argument(
                "--name",
                format!("lab `{name}` is coming up or going down"),
            ));
        }
        Err(error) => return Err(Error::failed(doing())(error)),
    };
    let exchange = |stream: &mut UnixStream| {
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        stream.write_all(&line)?;
        let descriptors = handover::receive(stream)?;
        let mut text = String::new();
        BufReader::new(stream).read_line(&mut text)?;
        Ok::<_, std::io::Error>((serde_json::from_str(&text)?, descriptors))
    };
    let (answer, descriptors): (Result<Answer, Error>, _) =
        exchange(&mut stream).map_err(Error::failed(doing()))?;
    Ok((answer?, descriptors))
}

fn unexpected(name: Option<&str>) -> Error {
    Error::Failed {
        doing: format!("talk to lab {}", name.unwrap_or_default()),
        why: "it answered something else".to_owned(),
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

/// The names of all labs that left a trace, sorted; some may be coming up, going down, or killed.
#[must_use]
pub fn names() -> Vec<String> {
    // A folder that is not ours holds no lab of ours; whoever asks for one is told.
    state::names().unwrap_or_default()
}

/// The path of a lab's kubeconfig.
///
/// # Errors
/// There is no such lab.
pub fn kubeconfig(name: Option<&str>) -> Result<PathBuf, Error> {
    let folder = named(name)?;
    alive(&folder)?;
    let path = folder.kubeconfig();
    if path.is_file() {
        Ok(path)
    } else {
        Err(Error::argument(
            "--name",
            format!("lab `{}` is not up yet", folder.name),
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

/// The codes that can be injected.
#[must_use]
pub fn fault_list() -> Vec<&'static str> {
    codes::INJECTED.to_vec()
}

/// Breaks something at `CLUSTER[/NODE][,PEER]`; the node's agent is frozen first.
///
/// # Errors
/// There is no such lab, code or place, or there is nothing there to break.
pub fn fault_inject(name: Option<&str>, code: &str, at: &str) -> Result<(), Error> {
    if !codes::INJECTED.contains(&code) {
        return Err(Error::argument(
            "CODE",
            format!("`{code}` is none of {}", codes::INJECTED.join(", ")),
        ));
    }
    let request = Request::Inject {
        code: code.to_owned(),
        at: at.to_owned(),
    };
    ask(name, &request).map(drop)
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
            end_process(&process, "a lab that starts")?;
        }
    }
}

/// Ends a lab's process: it is asked first.
fn end_process(process: &Other, what: &str) -> Result<(), Error> {
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        process.signal(signal);
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
                    end_process(&process, &format!("lab {}", folder.name))?;
                }
            }
        }
    }
    // It removes its folder before it ends.
    if let Some(process) = process {
        end_process(&process, &format!("lab {}", folder.name))?;
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
