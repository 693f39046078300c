//! The control socket's side of the lab.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Weak};
use std::time::Duration;

use netns_harness::namespace::Netns;
use netns_harness::{handover, rootless};
use tokio::runtime::Handle;
use tracing::warn;

use super::fleet::{Fleet, Ground};
use crate::Error;
use crate::network::{Network, NodeNet};
use crate::objects;
use crate::protocol::{self, Answer, ClusterStatus, NodeStatus, Request, Status};

/// After a request that could not be taken: nothing reports when the cause is gone.
const PAUSE: Duration = Duration::from_millis(100);
/// How long a caller may take to say something, or to take what is said.
const PATIENCE: Duration = Duration::from_secs(30);
/// The longest request, bytes.
const LONGEST: u64 = 64 << 10;

/// Takes requests on threads of their own: they may wait, and descriptors are handed over with plain calls.
pub(super) fn listen(fleet: &Arc<Fleet>) -> Result<(), Error> {
    let listener =
        protocol::listen(fleet.folder.path()).map_err(Error::failed("listen for requests"))?;
    // The lab goes down although somebody may still ask for something.
    let (fleet, runtime) = (Arc::downgrade(fleet), Handle::current());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (fleet, runtime) = (fleet.clone(), runtime.clone());
            match stream {
                Ok(stream) => {
                    std::thread::spawn(move || {
                        if let Err(error) = answer(&stream, &fleet, &runtime) {
                            warn!(%error, "a request broke off");
                        }
                    });
                }
                Err(error) => {
                    // No descriptor is left, perhaps; the next may find one, and the lab has to answer it.
                    warn!(%error, "cannot take a request");
                    std::thread::sleep(PAUSE);
                }
            }
        }
    });
    Ok(())
}

fn answer(stream: &UnixStream, fleet: &Weak<Fleet>, runtime: &Handle) -> std::io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut line = String::new();
    BufReader::new(stream.take(LONGEST)).read_line(&mut line)?;
    let request: Request = serde_json::from_str(&line)?;
    let answered = match fleet.upgrade() {
        Some(fleet) => runtime.block_on(fleet.answer(request)),
        None => Err(Error::Failed {
            doing: "talk to the lab".to_owned(),
            why: "it is going down".to_owned(),
        }),
    };
    let (answer, descriptors) = match answered {
        Ok((answer, descriptors)) => (Ok(answer), descriptors),
        Err(error) => (Err(error), Vec::new()),
    };
    let borrowed: Vec<_> = descriptors.iter().map(OwnedFd::as_fd).collect();
    handover::send(stream, &borrowed)?;
    let mut line = serde_json::to_vec::<Result<Answer, Error>>(&answer)?;
    line.push(b'\n');
    let mut stream = stream;
    stream.write_all(&line)
}

impl Fleet {
    async fn answer(&self, request: Request) -> Result<(Answer, Vec<OwnedFd>), Error> {
        let done = (Answer::Done, Vec::new());
        match request {
            Request::Clear => self.clear().await.map(|()| done),
            Request::Exec { place } => self.enter(&place),
            Request::Freeze { at } => self.freeze(at.as_deref()).map(|()| done),
            Request::Inject { code, at } => self.inject(code, &at).await.map(|()| done),
            Request::Status => {
                let status = Answer::Status(Box::new(self.status().await));
                Ok((status, Vec::new()))
            }
            Request::Thaw { at } => self.thaw(at.as_deref()).await.map(|()| done),
        }
    }

    /// The namespaces of the lab.
    pub(crate) fn network(&self, doing: impl FnOnce() -> String) -> Result<&Arc<Network>, Error> {
        match &self.ground {
            Ground::Kernel { network, .. } => Ok(network),
            Ground::Virtual(_) => Err(Error::Missing {
                what: format!("cannot {}", doing()),
                why: "it is virtual and has no kernel (leave out `virtual` to have one)".to_owned(),
            }),
        }
    }

    /// Refuses a node that is not there.
    pub(crate) fn check_node(&self, cluster: &str, node: &str) -> Result<(), Error> {
        let unknown = |what: String| Error::argument("PLACE", what);
        let Some((_, known)) = self.member(cluster) else {
            let names: Vec<&str> = self
                .members
                .iter()
                .map(|member| member.name.as_str())
                .collect();
            return Err(unknown(format!(
                "there is no cluster `{cluster}`; there are {}",
                shortened(&names)
            )));
        };
        if known.nodes.iter().any(|known| known.name == node) {
            return Ok(());
        }
        let names: Vec<&str> = known.nodes.iter().map(|node| node.name.as_str()).collect();
        Err(unknown(format!(
            "cluster `{cluster}` has no node `{node}`; it has {}",
            shortened(&names)
        )))
    }

    /// A node's namespace by its place.
    pub(crate) fn node_at(&self, cluster: &str, node: &str) -> Result<&Arc<NodeNet>, Error> {
        self.check_node(cluster, node)?;
        let network = self.network(|| format!("enter {cluster}/{node}"))?;
        network.node(cluster, node).ok_or_else(|| Error::Failed {
            doing: format!("enter {cluster}/{node}"),
            why: "it has no namespace".to_owned(),
        })
    }

    fn netns_at(&self, place: &str) -> Result<Netns, Error> {
        if place == "underlay" {
            let network = self.network(|| "enter the underlay".to_owned())?;
            return Ok(network.underlay.clone());
        }
        let parts: Vec<&str> = place.split('/').collect();
        match parts.as_slice() {
            [cluster, node] => Ok(self.node_at(cluster, node)?.netns.clone()),
            [cluster, node, pod] => {
                let net = self.node_at(cluster, node)?;
                if let Some(pod) = net.pod_named(pod) {
                    return Ok(pod.netns.clone());
                }
                // A pod in its node's network has none of its own.
                let pods = self
                    .member(cluster)
                    .map(|(member, _)| member.pods())
                    .unwrap_or_default();
                let on_host = pods.iter().any(|object| {
                    object["metadata"]["name"] == *pod
                        && object["spec"]["nodeName"] == *node
                        && object["spec"]["hostNetwork"] == true
                });
                if on_host {
                    return Ok(net.netns.clone());
                }
                Err(Error::argument(
                    "PLACE",
                    format!("node `{cluster}/{node}` runs no pod `{pod}`"),
                ))
            }
            _ => Err(Error::argument(
                "PLACE",
                format!("`{place}` is none of CLUSTER/NODE, CLUSTER/NODE/POD and underlay"),
            )),
        }
    }

    fn enter(&self, place: &str) -> Result<(Answer, Vec<OwnedFd>), Error> {
        let doing = || format!("enter {place}");
        let netns = self.netns_at(place)?;
        let netns = netns
            .as_fd()
            .try_clone_to_owned()
            .map_err(Error::failed(doing()))?;
        let mut descriptors = vec![netns];
        if rootless::in_user_namespace() {
            let own = std::fs::File::open("/proc/self/ns/user").map_err(Error::failed(doing()))?;
            descriptors.push(own.into());
        }
        let id = self.record.id.clone();
        Ok((Answer::Entered { id }, descriptors))
    }

    /// Checks that a place is `CLUSTER` or `CLUSTER/NODE`.
    fn check_place(&self, at: &str) -> Result<(), Error> {
        let (cluster, node) = match at.split_once('/') {
            Some((cluster, node)) => (cluster, node.to_owned()),
            // Every cluster has a first node.
            None => (at, "n1".to_owned()),
        };
        self.check_node(cluster, &node)
    }

    fn freeze(&self, at: Option<&str>) -> Result<(), Error> {
        if let Some(at) = at {
            self.check_place(at)?;
        }
        self.freezer.change(|frozen| match at {
            Some(at) => {
                frozen.places.insert(at.to_owned());
            }
            None => frozen.all = true,
        });
        self.wait_idle();
        Ok(())
    }

    async fn thaw(&self, at: Option<&str>) -> Result<(), Error> {
        match at {
            Some(at) => {
                self.check_place(at)?;
                self.freezer.change(|frozen| {
                    frozen.places.remove(at);
                });
            }
            None => self.freezer.change(|frozen| {
                frozen.all = false;
                frozen.places.clear();
            }),
        }
        self.settle().await
    }

    /// What keeps a node from being settled; one without a kernel always is.
    fn trouble(&self, cluster: &str, node: &str) -> Option<String> {
        match &self.ground {
            Ground::Kernel { agents, .. } => agents.as_ref()?.trouble(cluster, node),
            Ground::Virtual(_) => None,
        }
    }

    async fn status(&self) -> Status {
        let gateways = self.gateways().await;
        let faults = self.faults();
        let clusters = self
            .members
            .iter()
            .zip(&self.topology.clusters)
            .map(|(member, cluster)| {
                let pods = member.pods();
                let nodes = cluster
                    .nodes
                    .iter()
                    .map(|node| NodeStatus {
                        name: node.name.clone(),
                        ips: node.ips().map(|ip| ip.to_string()).collect(),
                        gateway: gateways
                            .contains(&objects::cluster_node_name(&member.name, &node.name)),
                        trouble: self.trouble(&member.name, &node.name),
                        faults: faults.at(&member.name, &node.name),
                        frozen: self.freezer.node(&member.name, &node.name),
                        pods: pods
                            .iter()
                            .filter(|pod| pod["spec"]["nodeName"] == node.name.as_str())
                            .map(|pod| (crate::kubelet::key_of(pod), objects::is_pod_ready(pod)))
                            .collect(),
                    })
                    .collect();
                ClusterStatus {
                    name: member.name.clone(),
                    mode: cluster.mode.to_string(),
                    family: cluster.family.to_string(),
                    server: member.server.clone(),
                    is_virtual: cluster.is_virtual,
                    nodes,
                }
            })
            .collect();
        Status {
            name: self.folder.name.clone(),
            kubeconfig: self.folder.kubeconfig(),
            pid: self.record.pid,
            started: self.record.started.clone(),
            frozen: self.freezer.now().described(),
            faults: faults.described(),
            clusters,
        }
    }
}

/// The first few of many names.
fn shortened(names: &[&str]) -> String {
    const SHOWN: usize = 8;
    let shown = names
        .iter()
        .take(SHOWN)
        .copied()
        .collect::<Vec<_>>()
        .join(", ");
    match names.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}
