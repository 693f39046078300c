//! What a lab and its callers say to each other, and over what: the caller writes an [`Order`] to the lab's standard input and
//! reads a [`Ready`]; later callers write a [`Request`] to the control socket and read an [`Answer`].

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use datapath::code::Code;
use serde::{Deserialize, Serialize};
use socket2::{Domain, SockAddr, Socket, Type};

use crate::Error;
use crate::topology::Topology;

/// The environment variable of lab processes that says where their state will be.
pub(crate) const ROOT: &str = "FLOATER_LAB_ROOT";

/// Who starts a lab, and what its processes are made of.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Caller {
    /// The executable that has the hidden verbs.
    pub program: PathBuf,
    /// The verb of a lab's process: it ends up in [`serve`](crate::control::serve).
    pub lab_verb: Vec<OsString>,
    /// The verb of a floater.
    pub floater_verb: Vec<OsString>,
    /// The verb of a program of the datapath.
    pub clusterlink_verb: Vec<OsString>,
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
    /// Whether it has no kernel.
    #[serde(rename = "virtual", default)]
    pub is_virtual: bool,
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
    /// The codes of the faults that were injected here and not cleared, in that order.
    #[serde(default)]
    pub faults: Vec<Code>,
    /// Whether its agent stands still, so that nobody looks at its kernel.
    #[serde(default)]
    pub frozen: bool,
    /// Its pods, as `namespace/name`, and whether each is ready.
    pub pods: Vec<(String, bool)>,
}

/// The line on a lab's standard input.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Order {
    pub(crate) topology: Topology,
    /// The lab ends when its standard input does.
    pub(crate) tied: bool,
    pub(crate) caller: Caller,
}

/// What a lab does while it comes up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Makes the APIs with their first objects; counted in clusters.
    Apis,
    /// Makes the planned rows in the kernels; counted in nodes.
    Fill,
    /// Makes network namespaces and wires; counted in clusters.
    Namespaces,
    /// Has the kernel keep more of the neighbours that it learns, until the lab is down; counted in these.
    Neighbours,
    /// Plans, and writes NodeConfigs; counted in nodes.
    Plan,
    /// Starts pods; counted in clusters.
    Pods,
    /// Has kernels become what is planned; counted in nodes.
    Settle,
}

impl std::fmt::Display for Phase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Apis => "APIs of clusters",
            Self::Fill => "nodes filled with rows",
            Self::Namespaces => "networks of clusters",
            Self::Neighbours => {
                "learned neighbours that this machine keeps (gc_thresh2, raised until the fleet is down)"
            }
            Self::Plan => "nodes planned",
            Self::Pods => "clusters with all pods ready",
            Self::Settle => "nodes as planned",
        })
    }
}

/// How far a lab is in a phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// The phase.
    pub phase: Phase,
    /// How much of it is done.
    pub done: usize,
    /// Of how much.
    pub of: usize,
}

/// The lines on a lab's standard output; all but the last are steps.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Ready {
    /// It is so far.
    Step(Step),
    /// It could not be built, and nothing is left of it.
    Failed(Error),
    /// Everything is ready.
    Up,
}

/// A line on the control socket; one per connection.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Request {
    Clear,
    Exec { place: String },
    Freeze { at: Option<String> },
    Inject { code: Code, at: String },
    Status,
    Thaw { at: Option<String> },
}

/// The answer, as `Ok` or `Err` of an [`Error`], after a byte that carries the descriptors.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Answer {
    Done,
    /// The network namespace came along, then the user namespace where the lab has one.
    Entered {
        /// The lab's mark.
        id: String,
    },
    Status(Box<Status>),
}

const SOCKET: &str = "control.sock";

/// A path through the folder's descriptor: the kernel allows no more than 107 bytes for a socket's.
fn short(folder: &Path) -> io::Result<(File, PathBuf)> {
    let opened = File::open(folder)?;
    let path = PathBuf::from(format!("/proc/self/fd/{}/{SOCKET}", opened.as_raw_fd()));
    Ok((opened, path))
}

/// Listens in a lab's folder.
pub(crate) fn listen(folder: &Path) -> io::Result<UnixListener> {
    let (_open, path) = short(folder)?;
    UnixListener::bind(path)
}

/// Connects to the lab of a folder. One that takes no connections lets them queue up, and then the next caller wait: at most
/// for so long.
pub(crate) fn connect(folder: &Path, patience: Duration) -> io::Result<UnixStream> {
    let (_open, path) = short(folder)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_write_timeout(Some(patience))?;
    socket.connect(&SockAddr::unix(path)?)?;
    Ok(UnixStream::from(socket))
}

/// How long all nodes of a fleet may take to become what their NodeConfigs say.
pub(crate) fn settling(clusters: usize) -> Duration {
    const ALL: Duration = Duration::from_secs(60);
    const EACH: Duration = Duration::from_millis(250);
    ALL + EACH * u32::try_from(clusters).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_may_lie_deeper_than_its_address_is_long() {
        let root = tempfile::tempdir().expect("tempdir");
        let deep = root.path().join("x".repeat(120)).join("y".repeat(60));
        std::fs::create_dir_all(&deep).expect("make");
        let listener = listen(&deep).expect("listen");
        connect(&deep, Duration::from_secs(5)).expect("connect");
        listener.accept().expect("accept");
    }

    #[test]
    fn a_full_queue_of_callers_is_not_waited_for_without_end() {
        let folder = tempfile::tempdir().expect("tempdir");
        let path = SockAddr::unix(folder.path().join(SOCKET)).expect("an address");
        let deaf = Socket::new(Domain::UNIX, Type::STREAM, None).expect("socket");
        deaf.bind(&path).expect("bind");
        deaf.listen(0).expect("listen");
        let refused = (0..8)
            .map(|_| connect(folder.path(), Duration::from_millis(20)))
            .collect::<Result<Vec<_>, _>>()
            .expect_err("nobody accepts");
        assert_eq!(refused.kind(), io::ErrorKind::WouldBlock);
    }
}
