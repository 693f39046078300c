//! What a container is made of: a process in a namespace, or a task of the lab's own process on sockets opened there.

use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use datapath::digest::Digester;
use datapath::state::{Family, NodeState};
use floater::agent::{Config, Counted, Floater, Here, Sockets, Stopper};
use netns_harness::namespace::Netns;
use netns_harness::process::{self, Child, Program, Root, Spawner};
use nix::sys::signal::Signal;
use tokio::time::timeout;

use super::status::Exit;
use crate::network::Network;
use crate::readable::Readable;

/// A container that was started.
pub(super) enum Workload {
    Process(Process),
    Shared {
        floater: Stopper,
        end: tokio::task::JoinHandle<()>,
    },
}

/// A process and the news of its end.
pub(super) struct Process {
    child: Child,
    end: Readable,
}

/// A namespace as a floater sees it: the opener goes there.
struct Inside {
    network: Arc<Network>,
    netns: Netns,
}

impl Inside {
    fn open<T: Send + 'static>(
        &self,
        open: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let opened = self.network.opener.open(&self.netns, open);
        opened.map_err(io::Error::other)?
    }
}

impl Sockets for Inside {
    fn tcp_listener(&self, port: u16) -> io::Result<std::net::TcpListener> {
        self.open(move || Here.tcp_listener(port))
    }

    fn tcp_socket(&self, family: Family) -> io::Result<socket2::Socket> {
        self.open(move || Here.tcp_socket(family))
    }

    fn icmp_socket(&self, family: Family) -> io::Result<socket2::Socket> {
        self.open(move || Here.icmp_socket(family))
    }

    fn udp_socket(&self, family: Family) -> io::Result<socket2::Socket> {
        self.open(move || Here.udp_socket(family))
    }

    fn raw_udp_socket(&self, family: Family) -> io::Result<socket2::Socket> {
        self.open(move || Here.raw_udp_socket(family))
    }

    fn has_vxlan(&self) -> Result<bool, String> {
        let asked = self.netns.run(|| Here.has_vxlan());
        asked.map_err(|error| crate::error::chain(&error))?
    }

    fn accept_queue_overflows(&self) -> io::Result<u64> {
        self.open(|| Here.accept_queue_overflows())
    }

    fn tables(&self) -> Result<NodeState, String> {
        self.inspect().map(|(state, _)| state)
    }

    fn inspect(&self) -> Result<(NodeState, Vec<String>), String> {
        // It takes too long for the opener, which all others wait for.
        let inspected = self.netns.run(|| Here.inspect());
        inspected.map_err(|error| crate::error::chain(&error))?
    }

    fn inspect_counting(&self, digester: &Digester) -> Result<Counted, String> {
        let inspected = self.netns.run(|| Here.inspect_counting(digester));
        inspected.map_err(|error| crate::error::chain(&error))?
    }
}

/// Starts a floater among the lab's own tasks.
pub(super) async fn shared(
    network: Arc<Network>,
    netns: &Netns,
    env: &[(String, String)],
) -> Result<Workload, String> {
    let variables = env
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()));
    let config = Config::from_environment(variables).map_err(|error| error.to_string())?;
    let sockets = Arc::new(Inside {
        network,
        netns: netns.clone(),
    });
    let floater = Floater::start(config, sockets)
        .await
        .map_err(|error| crate::error::chain(&error))?;
    Ok(Workload::Shared {
        floater: floater.stopper(),
        end: tokio::spawn(floater.stopped()),
    })
}

/// A container that is a process.
pub(super) struct Contained<'a> {
    pub(super) program: &'a Path,
    pub(super) args: Vec<OsString>,
    pub(super) env: Vec<(String, String)>,
    /// What every process of the lab has in its environment.
    pub(super) own: &'a [(String, OsString)],
    pub(super) hostname: String,
    /// What it sees of the machine's files; none for all.
    pub(super) root: Option<Root>,
}

/// Where a program is that has a root of its own.
const PROGRAM: &str = "/program";

/// Starts a process.
pub(super) async fn process(
    spawner: &Arc<Spawner>,
    container: Contained<'_>,
    netns: &Netns,
    log: &Path,
) -> Result<Workload, String> {
    let own = container.own.iter();
    let own = own.map(|(name, value)| (OsString::from(name), value.clone()));
    let given = container.env.into_iter();
    let given = given.map(|(name, value)| (name.into(), value.into()));
    let hostname = (
        OsString::from("HOSTNAME"),
        OsString::from(container.hostname),
    );
    let mut program = container.program.to_owned();
    let root = container.root.map(|mut root| {
        let outside = std::mem::replace(&mut program, PROGRAM.into());
        root.binds.push((outside, PROGRAM.into()));
        root
    });
    let program = Program {
        program,
        args: container.args,
        // The lab's mark comes last: no pod can take it off.
        env: [hostname].into_iter().chain(given).chain(own).collect(),
        log: log.to_owned(),
        netns: netns.clone(),
        root,
    };
    let spawner = spawner.clone();
    let child = tokio::task::spawn_blocking(move || spawner.spawn(program))
        .await
        .map_err(|error| error.to_string())?
        .map_err(|error| crate::error::chain(&error))?;
    // Our own child keeps its number until it is reaped, so there is a process.
    let end = process::pidfd(child.id())
        .and_then(|fd| fd.ok_or_else(|| std::io::Error::from_raw_os_error(libc::ESRCH)))
        .and_then(Readable::new)
        .map_err(|error| error.to_string())?;
    Ok(Workload::Process(Process { child, end }))
}

impl Workload {
    /// The number of its process, which is its own until its end has been waited for.
    pub(super) fn id(&self) -> Option<i32> {
        match self {
            Self::Process(process) => Some(process.child.id()),
            Self::Shared { .. } => None,
        }
    }

    /// Waits for its end. Dropping it midway loses nothing.
    pub(super) async fn ended(&mut self) -> Exit {
        match self {
            Self::Process(process) => process.ended().await,
            Self::Shared { end, .. } => match end.await {
                Ok(_) => Exit { code: 0 },
                // It panicked.
                Err(_) => Exit { code: 101 },
            },
        }
    }

    /// Asks it to end, and makes it after the grace.
    pub(super) async fn stop(mut self, grace: Duration) {
        match &mut self {
            Self::Process(process) => {
                process.child.signal(Signal::SIGTERM);
                // One that stands still takes no notice until it goes on.
                process.child.signal(Signal::SIGCONT);
                if timeout(grace, process.ended()).await.is_err() {
                    process.child.signal(Signal::SIGKILL);
                    process.ended().await;
                }
            }
            Self::Shared { floater, end } => {
                floater.stop();
                if timeout(grace, &mut *end).await.is_err() {
                    end.abort();
                }
            }
        }
    }
}

impl Process {
    async fn ended(&mut self) -> Exit {
        loop {
            match self.child.try_wait() {
                Ok(Some(code)) => return Exit { code },
                Ok(None) => {}
                // Somebody else took note of its end.
                Err(_) => return Exit { code: 255 },
            }
            // It stays readable once the process has ended.
            if self.end.wait().await.is_err() {
                return Exit { code: 255 };
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // One that was not waited for is of a lab that goes down.
        if matches!(self.child.try_wait(), Ok(None)) {
            self.child.signal(Signal::SIGKILL);
            let _ = self.child.wait();
        }
    }
}
