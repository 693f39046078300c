//! Floaters that look around before anything is installed: on the nodes that are to be linked, in the nodes' own network, for as long as the
//! preflight takes.
//!
//! They are where the programs will be, in a namespace that is there, or in one of their own that goes with them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use datapath::state::NodeState;
use floater::wire::{Layer, Meeting, Met, hex};
use futures::StreamExt as _;
use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

use super::Settings;
use super::cluster::Cluster;
use crate::fleet::agents::{Agent, Gates, Turns};
use crate::fleet::deploy::{self, Unmade};
use crate::fleet::look;
use crate::fleet::objects::Pod;
use crate::fleet::remove::Ledger;
use crate::manifest::Spec;

/// The longest that they may take to be ready.
const READY: Duration = Duration::from_secs(30);
/// How long one may take to say what it sees.
const ANSWER: Duration = Duration::from_secs(20);
/// When they are nobody's any more, should this program end without removing them, seconds.
const LIFETIME: i64 = 600;
/// How often they are sent, with other ports where those of the first are taken.
const ATTEMPTS: u32 = 3;
/// How many of them are asked at a time.
const AT_ONCE: usize = 64;

/// Floaters of several clusters.
pub(super) struct Scouts {
    ledger: Arc<Ledger>,
    turns: Turns,
    run: String,
}

/// The floaters of one cluster.
#[derive(Default)]
pub(super) struct Sent {
    agents: BTreeMap<String, Agent>,
    /// The nodes that have none, and why.
    pub(super) absent: BTreeMap<String, String>,
}

/// The tables of a node, and what of them could not be read.
pub(super) struct Tables {
    pub(super) state: NodeState,
    pub(super) missing: Vec<String>,
}

impl Scouts {
    pub(super) fn new() -> Result<Self, crate::Error> {
        let turns = Turns::new(AT_ONCE);
        turns.serve(0, 2);
        let mut run = [0; 4];
        crate::run::random(&mut run)?;
        Ok(Self {
            ledger: Arc::default(),
            turns,
            run: hex(&run),
        })
    }

    /// Sends floaters to these nodes of a cluster.
    ///
    /// # Errors
    /// Why there is none.
    pub(super) async fn send(
        &self,
        settings: &Settings,
        cluster: &Cluster,
        nodes: &BTreeSet<String>,
    ) -> Result<Sent, String> {
        let api = &cluster.api;
        let seen = look::look(api, &settings.namespace, || {}).await?;
        seen.floaters.as_ref().map_err(Clone::clone)?;
        let is_wanted = |name: &&String| nodes.contains(*name);
        let names = seen.nodes.iter().map(|node| &node.metadata.name);
        let others: Vec<String> = names.filter(|name| !is_wanted(name)).cloned().collect();
        let wanted: Vec<String> = nodes.iter().cloned().collect();
        let namespace = match seen.namespace {
            true => settings.namespace.clone(),
            false => deploy::beside(&settings.namespace, &self.run),
        };
        let mut spec = Spec {
            run: String::new(),
            cluster_id: seen.id,
            namespace,
            layers: vec![Layer::Host],
            image_repository: settings.image_repository.clone(),
            version: settings.version.clone(),
            image_pull_secrets: settings.pull_secrets.clone(),
            service_account: None,
            run_key: vec![0; 32],
            port: 0,
            api_port: 0,
            expires: Timestamp::now() + SignedDuration::from_secs(LIFETIME),
            shared: false,
            excluded: seen.excluded.into_iter().chain(others).collect(),
        };
        let mut ready = Vec::new();
        let mut refused = None;
        for attempt in 0..ATTEMPTS {
            spec.run = format!("{}-{attempt}", self.run);
            crate::run::random(&mut spec.run_key).map_err(|error| error.to_string())?;
            let asked = floater::wire::PORT;
            (spec.port, spec.api_port) =
                deploy::free_ports(&seen.ports, asked, &self.run, attempt + 1);
            (ready, refused) = self.deployed(settings, cluster, &spec, &wanted).await?;
            if !ready.iter().any(Pod::lacks_ports) {
                break;
            }
        }
        Ok(self.sorted(cluster, &spec, &wanted, &ready, refused.as_deref()))
    }

    async fn deployed(
        &self,
        settings: &Settings,
        cluster: &Cluster,
        spec: &Spec,
        nodes: &[String],
    ) -> Result<(Vec<Pod>, Option<String>), String> {
        let (ledger, api) = (Arc::clone(&self.ledger), &cluster.api);
        let created = deploy::create(
            ledger,
            cluster.name.clone(),
            api.clone(),
            spec.clone(),
            nodes.to_vec(),
        );
        let refused = created.await.map_err(|unmade| match unmade {
            Unmade::Refused(why) => why,
            Unmade::Ending | Unmade::Stuck => {
                format!("namespace {} is being removed", spec.namespace)
            }
        })?;
        let deadline = Instant::now() + READY.min(settings.wait);
        let run_key: Arc<[u8]> = spec.run_key.clone().into();
        let gates = Gates::new(&self.turns);
        let ready = deploy::ready(api, spec, nodes, refused, deadline, &|pod| {
            let agent = Agent::new(
                api,
                &spec.namespace,
                &spec.cluster_id,
                pod,
                &run_key,
                &gates,
            );
            Box::pin(async move {
                match agent {
                    Some(agent) => agent.info(deadline).await.is_ok(),
                    None => false,
                }
            })
        })
        .await;
        Ok((ready.pods, ready.refused.into_values().next()))
    }

    fn sorted(
        &self,
        cluster: &Cluster,
        spec: &Spec,
        nodes: &[String],
        pods: &[Pod],
        refused: Option<&str>,
    ) -> Sent {
        let run_key: Arc<[u8]> = spec.run_key.clone().into();
        let gates = Gates::new(&self.turns);
        let mut sent = Sent::default();
        for node in nodes {
            let pod = pods
                .iter()
                .find(|pod| pod.node() == Some(node) && pod.run() == Some(&spec.run));
            let agent = pod.filter(|pod| pod.runs()).and_then(|pod| {
                Agent::new(
                    &cluster.api,
                    &spec.namespace,
                    &spec.cluster_id,
                    pod,
                    &run_key,
                    &gates,
                )
            });
            match agent {
                Some(agent) => drop(sent.agents.insert(node.clone(), agent)),
                None => {
                    let why = match (pod, refused) {
                        (_, Some(why)) => why.to_owned(),
                        (Some(pod), None) => pod.trouble(None),
                        (None, None) => "no floater was made there".to_owned(),
                    };
                    sent.absent.insert(node.clone(), why);
                }
            }
        }
        sent
    }

    /// Removes all of them; what could not be removed, one sentence each.
    pub(super) async fn recall(self) -> Vec<String> {
        self.ledger.remove().await
    }
}

impl Sent {
    /// The tables of every node that has a floater; a node whose floater does not answer is among the absent then.
    pub(super) async fn tables(&mut self) -> BTreeMap<String, Tables> {
        let deadline = Instant::now() + ANSWER;
        let asked = self.agents.iter().map(|(node, agent)| async move {
            let _turn = agent.turn().await;
            (node.clone(), agent.tables(None, deadline).await)
        });
        let answers: Vec<_> = futures::stream::iter(asked)
            .buffer_unordered(AT_ONCE)
            .collect()
            .await;
        let mut tables = BTreeMap::new();
        for (node, answer) in answers {
            match answer {
                Ok(answer) => {
                    let (state, missing) = (answer.state, answer.missing);
                    tables.insert(node, Tables { state, missing });
                }
                Err(why) => {
                    self.agents.remove(&node);
                    self.absent.insert(node, why);
                }
            }
        }
        tables
    }

    /// Has a node's floater meet others.
    ///
    /// # Errors
    /// Why nothing can be said.
    pub(super) async fn meet(&self, node: &str, meeting: &Meeting) -> Result<Met, String> {
        let Some(agent) = self.agents.get(node) else {
            let absent = self.absent.get(node).cloned();
            return Err(absent.unwrap_or_else(|| "it has no floater".to_owned()));
        };
        agent.meet(meeting, Instant::now() + ANSWER).await
    }
}
