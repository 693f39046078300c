//! The datapath, deployed: a control plane is installed, clusters join it and leave it.
//!
//! ```text
//!   reach ─► preflight ─► plan ─► apply ─► wait for programs, nodes, packets ─► linked
//!               │           │       └──────────── failed, interrupted ───────► undo what this deed did
//!               └ refusals  └ dry run: the objects
//! ```
//!
//! Everything that a deed makes carries this program's label, and nothing else is ever changed or removed. What is wanted of a cluster
//! that is linked already is compared with what it has, by its own server: doing a deed twice changes nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use datapath::api::NetworkType;
use datapath::manifests;
pub use datapath::manifests::AgentsPlan;
use serde_json::Value;
use tokio::sync::watch;

use crate::Error;
use crate::kubeconfig::Selected;
use crate::report::Report;

mod apply;
mod cluster;
mod deed;
mod join;
mod leave;
mod objects;
mod packets;
mod preflight;
mod scouts;
mod status;
mod tokens;
mod upgrade;
mod wait;
mod wanted;

pub use join::{Install, Join, install, join};
pub use leave::{Removed, Uninstall, Unjoin, uninstall, unjoin};
pub use status::{ClusterState, NodeState, Sessions, Status, status};
pub use upgrade::{Upgrade, upgrade};

/// What linked clusters have in common.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where the programs are, in every cluster.
    pub namespace: String,
    /// What the images' names begin with.
    pub image_repository: String,
    /// The images' tag.
    pub version: String,
    /// Names of Secrets of the namespace with credentials for the images' registry.
    pub pull_secrets: Vec<String>,
    /// How the cluster takes part.
    pub link: Link,
    /// Whether agents plan for themselves.
    pub plan: AgentsPlan,
    /// Whether a second node stands by for the gateway, so that nodes turn to it without the API.
    pub standby: bool,
    /// How many nodes are gateways at once and share the cluster's flows; at least one.
    pub gateways: u8,
    /// How long to wait for programs, nodes and packets.
    pub wait: Duration,
}

/// How a cluster takes part in the datapath (`.spec.clusterLinkOptions`).
#[derive(Debug, Clone)]
pub struct Link {
    /// Through one node, or each for itself.
    pub network_type: NetworkType,
    /// `ipv4`, `ipv6` or `all`.
    pub ip_family: String,
    /// The CNI plugin's name.
    pub cni: String,
    /// The link that the tunnels stand on; `*` for the one with the route to elsewhere.
    pub default_nic: String,
    /// Prefixes of the cluster and what they are called outside of it.
    pub global_cidrs: BTreeMap<String, String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            namespace: "kosmos-system".to_owned(),
            image_repository: "ghcr.io/kosmos-io".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pull_secrets: Vec::new(),
            link: Link {
                network_type: NetworkType::Gateway,
                ip_family: "ipv4".to_owned(),
                cni: "calico".to_owned(),
                default_nic: "*".to_owned(),
                global_cidrs: BTreeMap::new(),
            },
            plan: AgentsPlan::default(),
            standby: false,
            gateways: 1,
            wait: Duration::from_secs(120),
        }
    }
}

impl Settings {
    /// What the programs of a member are made with; of nobody for those of the control plane.
    fn made_with(
        &self,
        cluster: &str,
        labels: BTreeMap<String, String>,
        replicas: u16,
    ) -> manifests::Settings {
        manifests::Settings {
            namespace: self.namespace.clone(),
            image: format!("{}/clusterlink", self.image_repository),
            version: self.version.clone(),
            cluster: cluster.to_owned(),
            replicas,
            pull_secrets: self.pull_secrets.clone(),
            labels,
            plan: self.plan,
            standby: self.standby,
            gateways: self.gateways,
        }
    }
}

/// Something that happens in a deed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// It goes on to this.
    Phase(String),
    /// This was done.
    Done(String),
    /// This is still waited for.
    Waiting(String),
    /// The operator should know.
    Warning(String),
}

/// Who does a deed: what is told, and whether it is to end.
#[derive(Clone)]
pub struct Context {
    /// Told what happens.
    pub tell: Arc<dyn Fn(Told) + Send + Sync>,
    /// True once the deed is to end, and to take back what it did.
    pub stop: watch::Receiver<bool>,
}

impl Context {
    fn say(&self, told: Told) {
        (self.tell)(told);
    }

    fn is_stopped(&self) -> bool {
        *self.stop.borrow()
    }

    /// Returns once the deed is to end.
    async fn stopped(&self) {
        let mut stop = self.stop.clone();
        if stop.wait_for(|is_over| *is_over).await.is_err() {
            // Nobody can say so any more.
            std::future::pending().await
        }
    }

    /// Does something that changes nothing; an error where the deed is to end meanwhile.
    async fn during<T>(&self, work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        tokio::select! {
            biased;
            () = self.stopped() => Err(Error::Interrupted { left: Vec::new() }),
            done = work => done,
        }
    }

    /// Waits; an error where the deed is to end.
    async fn pause(&self, time: Duration) -> Result<(), Error> {
        tokio::select! {
            () = self.stopped() => Err(Error::Interrupted { left: Vec::new() }),
            () = tokio::time::sleep(time) => Ok(()),
        }
    }
}

/// What came of a deed that makes something.
#[derive(Debug)]
pub enum Outcome {
    /// Nothing was done: these objects would be made, by the cluster that they are in.
    Planned(Vec<(String, Vec<Value>)>),
    /// Packets pass.
    Linked {
        /// So many cells were probed between the new cluster and the control plane's, and pass; none where there is no other cluster.
        cells: usize,
    },
    /// Packets do not pass; what was done is taken back.
    Failing {
        /// What was found.
        report: Box<Report>,
        /// What could not be taken back, and why.
        left: Vec<String>,
    },
}

/// A cluster and the kubeconfig that reaches it.
#[derive(Debug, Clone)]
pub struct Place {
    /// How the operator reaches it.
    pub kubeconfig: Selected,
    /// How programs elsewhere reach it, where that is not the same.
    pub inner: Option<Selected>,
}

/// Refuses what can be the name of no Cluster.
///
/// # Errors
/// [`Error::Usage`] with the option and the rule.
pub fn check_name(option: &str, name: &str) -> Result<(), Error> {
    if datapath::printable::is_dns_label(name) {
        return Ok(());
    }
    Err(Error::Usage(format!(
        "{option} is not a DNS label (a-z, 0-9, inner -, at most 63)"
    )))
}
