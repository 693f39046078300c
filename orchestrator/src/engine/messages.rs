//! What goes into a run's machine and what comes out of it: plain data, without clients, connections or secrets.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use datapath::api::{Cluster, Fleet};
use datapath::printable::{Printable, is_object_name};
use floater::wire::{Expectation, Health, Layer, Outcome, Protocol, Tables};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::inventory::Role;
use crate::kubeconfig::Identity;
use crate::run::Progress;

/// A cluster of the inventory, as far as the machine has to know it. It is spoken of by its position: the first target is 0.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TargetFacts {
    /// The name it is shown by, unique in the inventory.
    pub name: String,
    /// What it was given for.
    pub role: Role,
    /// Its server's URL without name, password and query; none where it is not known.
    pub server: Option<Printable>,
    /// What proves that another target reaches the same server; none where nothing does.
    pub identity: Option<Identity>,
}

/// A cluster that answers.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Looked {
    /// The uid of its kube-system namespace.
    pub id: String,
    /// Its nodes that run pods themselves, sorted by name.
    pub nodes: Vec<Node>,
    /// Its objects of `clusters.kosmos.io`, by which it claims to be the control plane.
    pub members: Vec<Member>,
    /// Why the members could not be listed, where they are there.
    pub members_unread: Option<String>,
    /// What could not be read of it, one sentence each.
    pub warnings: Vec<String>,
    /// Whether floaters stand ready on all of its nodes, so that none have to be deployed.
    pub standing: bool,
}

/// A node as its cluster describes it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// The object's uid.
    pub uid: String,
    /// Whether the API server believes that it is ready.
    pub ready: bool,
    /// Whether a floater's image can run on it.
    pub linux: bool,
    /// Its InternalIPs, in their order.
    pub ips: Vec<IpAddr>,
    /// The prefixes that it reports for its pods.
    pub pod_prefixes: Vec<IpNet>,
}

/// An object of `clusters.kosmos.io`; the kubeconfig that it holds stays where it was read.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Member {
    /// The object's name.
    pub name: String,
    /// The object, or why it cannot be understood.
    pub cluster: Result<Cluster, String>,
}

/// Where a floater that can be asked stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Where its responder listens.
    pub port: u16,
    /// The addresses of its pod.
    pub ips: Vec<IpAddr>,
}

/// A floater's place, or why it cannot be asked.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FloaterFacts {
    /// The name of its node.
    pub node: String,
    /// Its layer.
    pub layer: Layer,
    /// Where it is.
    pub place: Result<Place, String>,
}

/// What the floaters of a cluster said.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Asked {
    /// One entry per node and layer that was asked for.
    pub floaters: Vec<FloaterFacts>,
    /// By node.
    pub tables: BTreeMap<String, Result<Tables, String>>,
    /// Addresses in the pods' network by node, for walks where no packet is sent.
    pub pod_ips: BTreeMap<String, Vec<IpAddr>>,
    /// Whether these floaters are the run's own.
    pub own: bool,
}

/// Something that the machine is told.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Input {
    /// The first answer of a cluster has come; the rest of the look goes on.
    Answered {
        /// Which.
        cluster: usize,
    },
    /// Answers [`Command::Ask`].
    Asked {
        /// Which.
        cluster: usize,
        /// What its floaters said, or why nothing can be asked of the whole cluster.
        asked: Result<Asked, String>,
    },
    /// Ends [`Command::Probe`].
    Ended {
        /// The order's number.
        order: u64,
        /// How the floater fared, or why its results ended early.
        health: Result<Health, String>,
    },
    /// Answers [`Command::Enlist`]: further targets, whose positions follow those of the earlier ones.
    Enlisted {
        /// The members of the inventory.
        targets: Vec<TargetFacts>,
        /// What is left out and why.
        warnings: Vec<String>,
    },
    /// Results of [`Command::Probe`], as signed by the floater.
    Heard {
        /// The order's number.
        order: u64,
        /// Results, each of whose ids is a probe's.
        outcomes: Vec<Outcome>,
    },
    /// Answers [`Command::Identify`].
    Identified {
        /// By member, of those whose kubeconfig can be read.
        members: BTreeMap<String, Identity>,
    },
    /// Answers [`Command::ReadIntent`].
    Intent {
        /// Which.
        cluster: usize,
        /// The fleet's objects.
        fleet: Fleet,
        /// What of them could not be read.
        warnings: Vec<String>,
    },
    /// Answers [`Command::Look`].
    Looked {
        /// Which.
        cluster: usize,
        /// What it is, or why it cannot be asked.
        result: Result<Looked, String>,
    },
    /// No more answers are waited for: what is known by now is judged.
    Stop {
        /// Why, for everything that was asked and not answered.
        why: String,
    },
    /// The inventory; the first input of all.
    Targets {
        /// Its clusters.
        targets: Vec<TargetFacts>,
        /// What is left out and why.
        warnings: Vec<String>,
    },
    /// Time has passed.
    Tick,
}

/// Something that the machine wants done. [`Command::Tell`] and [`Command::Abandon`] need no answer; everything else is answered by the
/// input that names it, at any time and in any order.
#[derive(Debug, Clone)]
pub enum Command {
    /// The look at a cluster is no longer waited for.
    Abandon {
        /// Which.
        cluster: usize,
    },
    /// Ask the floaters of a cluster who they are and for the tables of their nodes.
    Ask(Box<Ask>),
    /// Make targets of the members of a control plane.
    Enlist {
        /// The control plane.
        holder: usize,
        /// The member that is the control plane itself and needs no target.
        root: Option<String>,
        /// The members that are reached already.
        reached: BTreeSet<String>,
    },
    /// Say which servers the kubeconfigs of members name.
    Identify {
        /// The control plane that holds them.
        holder: usize,
        /// The members' names.
        members: Vec<String>,
    },
    /// Look at a cluster: who it is, its nodes, its floaters, its claims. Changes nothing.
    Look {
        /// Which.
        cluster: usize,
    },
    /// Have a floater send probes.
    Probe(Box<ProbeOrder>),
    /// Read the fleet's objects of a control plane.
    ReadIntent {
        /// Which.
        cluster: usize,
    },
    /// Somebody may want to know.
    Tell(Box<Progress>),
}

/// What is asked of a cluster's floaters.
#[derive(Debug, Clone)]
pub struct Ask {
    /// Which cluster.
    pub cluster: usize,
    /// What it is called by now.
    pub name: String,
    /// Only floaters that stand ready are asked, and nothing is made.
    pub standing_only: bool,
    /// The layers that need floaters.
    pub layers: Vec<Layer>,
    /// The nodes on which own floaters are wanted.
    pub nodes: Vec<String>,
    /// What nodes should hold, by name; a node without an entry is asked for all of its tables.
    pub expected: BTreeMap<String, Expectation>,
    /// Whether addresses of pods are wanted besides those of floaters.
    pub pod_ips: bool,
}

/// A floater, by where it stands.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FloaterId {
    /// Position of the cluster's target.
    pub cluster: usize,
    /// The node's name.
    pub node: String,
    /// The layer.
    pub layer: Layer,
}

/// One plan for one floater.
#[derive(Debug, Clone)]
pub struct ProbeOrder {
    /// The number that results name.
    pub order: u64,
    /// Who sends.
    pub sender: FloaterId,
    /// The most packets that it sends in a second for this plan.
    pub budget_pps: u32,
    /// How long after its last packet a probe may be answered, milliseconds.
    pub timeout_ms: u32,
    /// What is sent.
    pub probes: Vec<Probe>,
}

/// One probe of an order.
#[derive(Debug, Clone)]
pub struct Probe {
    /// The id that its outcome has.
    pub id: u32,
    /// The address that is asked.
    pub dst: IpAddr,
    /// How.
    pub protocol: Protocol,
    /// The port of a connection.
    pub port: u16,
    /// How many packets or connections.
    pub count: u16,
    /// Payload of an echo request, bytes.
    pub payload_bytes: u16,
    /// Which floater has to prove that it is the one that answers a connection, and the address at which it takes it; none where nobody
    /// can.
    pub responder: Option<(FloaterId, SocketAddr)>,
}

impl Input {
    /// Makes what comes from a file as safe as what comes from a cluster: names are those of objects, texts can be printed.
    ///
    /// # Errors
    /// What is none.
    pub(crate) fn checked(mut self) -> Result<Self, String> {
        match &mut self {
            Self::Targets { targets, warnings } | Self::Enlisted { targets, warnings } => {
                for target in targets {
                    text(&mut target.name);
                }
                warnings.iter_mut().for_each(text);
            }
            Self::Looked { result, .. } => match result {
                Ok(looked) => check_looked(looked)?,
                Err(why) => text(why),
            },
            Self::Asked { asked, .. } => match asked {
                Ok(asked) => check_asked(asked)?,
                Err(why) => text(why),
            },
            Self::Ended { health, .. } => {
                if let Err(why) = health {
                    text(why);
                }
            }
            Self::Intent { warnings, .. } => warnings.iter_mut().for_each(text),
            Self::Stop { why } => text(why),
            Self::Answered { .. } | Self::Heard { .. } | Self::Identified { .. } | Self::Tick => {}
        }
        Ok(self)
    }
}

/// Makes a text one that can be printed.
fn text(text: &mut String) {
    *text = Printable::new(text).as_str().to_owned();
}

fn named(name: &str) -> Result<(), String> {
    if is_object_name(name) {
        Ok(())
    } else {
        Err("a name is none that Kubernetes gives to an object".to_owned())
    }
}

fn check_looked(looked: &mut Looked) -> Result<(), String> {
    text(&mut looked.id);
    for node in &looked.nodes {
        named(&node.name)?;
    }
    for member in &mut looked.members {
        named(&member.name)?;
        match &mut member.cluster {
            Ok(cluster) => named(&cluster.metadata.name)?,
            Err(why) => text(why),
        }
    }
    looked.members_unread.iter_mut().for_each(text);
    looked.warnings.iter_mut().for_each(text);
    Ok(())
}

fn check_asked(asked: &mut Asked) -> Result<(), String> {
    for floater in &mut asked.floaters {
        named(&floater.node)?;
        if let Err(why) = &mut floater.place {
            text(why);
        }
    }
    for (node, read) in &mut asked.tables {
        named(node)?;
        if let Err(why) = read {
            text(why);
        }
    }
    asked.pod_ips.keys().try_for_each(|node| named(node))
}
