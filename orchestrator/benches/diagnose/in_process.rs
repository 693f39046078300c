//! Runs without clusters, connections or waiting: a machine that is driven by the tables of a fleet, in virtual time.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};
use std::net::IpAddr;
use std::time::Duration;

use datapath::digest::Key;
use floater::wire::{Failure, Health, Layer, Outcome, Rtt, Tables, VERSION};
use orchestrator::Error;
use orchestrator::engine::messages::{
    Asked, Command, FloaterFacts, Input, Looked, Member, Node, Place, ProbeOrder, TargetFacts,
};
use orchestrator::engine::{Engine, Purpose, Settings};
use orchestrator::evidence::Gathered;
use orchestrator::inventory::Role;
use orchestrator::probe_plan::What;
use rayon::prelude::*;

use super::fleet::{NODES, Network, Virtual, name, pod, underlay};

/// How a cluster's API behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Api {
    /// It answers after so long.
    Answers(Duration),
    /// It never answers.
    Hangs,
    /// It refuses at once.
    Refuses,
}

/// A run over a fleet in which time passes only where somebody waits for it.
pub(crate) struct InProcess<'f> {
    fleet: &'f Virtual,
    network: Network,
    /// By cluster.
    pub(crate) api: Box<dyn Fn(u32) -> Api + 'f>,
    /// Whether an answer to a probe is lost by chance.
    pub(crate) loses: Box<dyn FnMut() -> bool + 'f>,
    inputs: BinaryHeap<Reverse<(Duration, u64)>>,
    waiting: Vec<Option<Input>>,
    /// The most looks that were under way at a time.
    pub(crate) most_looks: usize,
    looks: BTreeSet<usize>,
    /// When the run ended.
    pub(crate) now: Duration,
}

/// A run's settings.
pub(crate) fn settings(what: What) -> Settings {
    Settings {
        run: "virtual".to_owned(),
        what,
        purpose: Purpose::Diagnose,
        rounds: 1,
        budget_pps: 1000,
        port: 8889,
        deadline: Duration::from_secs(600),
        cluster_timeout: None,
        control_plane: None,
        chosen: false,
        clusters_at_once: 256,
        floaters_at_once: 512,
        key: Key([7; 16]),
    }
}

impl<'f> InProcess<'f> {
    pub(crate) fn new(fleet: &'f Virtual) -> Self {
        Self {
            fleet,
            network: fleet.network(),
            api: Box::new(|_| Api::Answers(Duration::from_millis(20))),
            loses: Box::new(|| false),
            inputs: BinaryHeap::new(),
            waiting: Vec::new(),
            most_looks: 0,
            looks: BTreeSet::new(),
            now: Duration::ZERO,
        }
    }

    /// What the run gathers. A machine that waits for nothing and has not ended fails the test that asked.
    pub(crate) fn run(&mut self, settings: Settings) -> Result<Gathered, Error> {
        let mut engine = Engine::new(settings);
        let targets = (0..self.fleet.clusters()).map(|cluster| TargetFacts {
            name: name(cluster),
            role: Role::Member,
            server: None,
            identity: None,
        });
        engine.put(
            Duration::ZERO,
            Input::Targets {
                targets: targets.collect(),
                warnings: Vec::new(),
            },
        );
        loop {
            while let Some(command) = engine.command() {
                self.execute(command);
            }
            if let Some(end) = engine.end() {
                return end;
            }
            let comes = self.inputs.peek().map(|Reverse((at, _))| *at);
            let wakes = engine
                .wakes_at()
                .expect("a run that goes on ends by itself");
            let input = if comes.is_some_and(|at| at <= wakes) {
                let Reverse((at, number)) = self.inputs.pop().expect("it was seen");
                self.now = self.now.max(at);
                let place = usize::try_from(number).expect("few inputs");
                self.waiting[place].take().expect("once")
            } else {
                self.now = self.now.max(wakes);
                Input::Tick
            };
            if let Input::Looked { cluster, .. } = &input {
                self.looks.remove(cluster);
            }
            engine.put(self.now, input);
        }
    }

    fn after(&mut self, time: Duration, input: Input) {
        let number = self.waiting.len() as u64;
        self.waiting.push(Some(input));
        self.inputs.push(Reverse((self.now + time, number)));
    }

    fn execute(&mut self, command: Command) {
        match command {
            Command::Look { cluster } => {
                self.looks.insert(cluster);
                self.most_looks = self.most_looks.max(self.looks.len());
                self.look(cluster);
            }
            Command::Abandon { cluster } => {
                self.looks.remove(&cluster);
            }
            Command::ReadIntent { cluster } => {
                let fleet = self.fleet.gathered.intent.fleet.clone();
                let warnings = Vec::new();
                self.after(
                    Duration::from_millis(100),
                    Input::Intent {
                        cluster,
                        fleet,
                        warnings,
                    },
                );
            }
            Command::Ask(ask) => {
                let cluster = ask.cluster;
                let facts = &self.fleet.gathered.clusters[cluster];
                let mut asked = Asked::default();
                for node in &facts.nodes {
                    for (layer, ips) in [(Layer::Host, &node.ips), (Layer::Pod, &node.pod_ips)] {
                        asked.floaters.push(FloaterFacts {
                            node: node.name.clone(),
                            layer,
                            place: Ok(Place {
                                port: 8889,
                                ips: ips.clone(),
                            }),
                        });
                    }
                    let tables = Tables {
                        version: VERSION,
                        node: node.name.clone(),
                        state: node.tables.clone().expect("readable"),
                        differences: node.differences.clone(),
                        missing: Vec::new(),
                    };
                    // Whoever is told of no plan has to give the whole tables, which nobody keeps here.
                    let is_told = ask.expected.contains_key(&node.name);
                    let read = is_told.then_some(tables).ok_or("they are not here whole");
                    let read = read.map_err(str::to_owned);
                    asked.tables.insert(node.name.clone(), read);
                }
                let asked = Ok(asked);
                self.after(Duration::from_millis(30), Input::Asked { cluster, asked });
            }
            Command::Probe(order) => self.probe(&order),
            Command::Tell(_) => {}
            Command::Enlist { .. } | Command::Identify { .. } => {
                unreachable!("all clusters were given, by their members' names")
            }
        }
    }

    fn look(&mut self, cluster: usize) {
        let number = u32::try_from(cluster).expect("few clusters");
        let facts = &self.fleet.gathered.clusters[cluster];
        let node = |node: u32| Node {
            name: format!("n{}", node + 1),
            uid: format!("node-{number}-{node}"),
            ready: true,
            linux: true,
            ips: vec![underlay(number, node)],
            pod_prefixes: Vec::new(),
        };
        let objects = &self.fleet.gathered.intent.fleet.clusters;
        let members = objects.iter().filter(|_| cluster == 0);
        let looked = Looked {
            id: facts.id.clone(),
            nodes: (0..NODES).map(node).collect(),
            members: members
                .map(|object| Member {
                    name: object.metadata.name.clone(),
                    cluster: Ok(object.clone()),
                })
                .collect(),
            standing: true,
            ..Looked::default()
        };
        match (self.api)(number) {
            Api::Answers(time) => {
                self.after(time / 2, Input::Answered { cluster });
                let result = Ok(looked);
                self.after(time, Input::Looked { cluster, result });
            }
            Api::Hangs => {}
            Api::Refuses => {
                let result = Err("API server unreachable: connection refused".to_owned());
                self.after(Duration::from_millis(1), Input::Looked { cluster, result });
            }
        }
    }

    fn probe(&mut self, order: &ProbeOrder) {
        let src = place(order.sender.cluster, &order.sender.node);
        let layer = order.sender.layer;
        let passes: Vec<bool> = order
            .probes
            .par_iter()
            .map(|probe| {
                let dst = node_at(probe.dst, layer);
                dst.is_some_and(|dst| self.network.passes(src, layer, probe.dst, dst))
            })
            .collect();
        let mut outcomes = Vec::with_capacity(order.probes.len());
        for (probe, passes) in order.probes.iter().zip(passes) {
            let sent = u32::from(probe.count);
            let answered = (0..sent).filter(|_| passes && !(self.loses)()).count();
            let received = u32::try_from(answered).expect("few packets");
            outcomes.push(Outcome {
                id: probe.id,
                sent,
                received,
                failure: (received < sent).then_some(Failure::Timeout),
                rtt: if received > 0 {
                    Rtt::of((0..received).map(|at| 200 + 10 * u64::from(at)))
                } else {
                    None
                },
                ..Outcome::default()
            });
        }
        let order_number = order.order;
        let time = Duration::from_millis(u64::from(order.timeout_ms));
        self.after(
            time / 2,
            Input::Heard {
                order: order_number,
                outcomes,
            },
        );
        let health = Ok(Health::default());
        self.after(
            time,
            Input::Ended {
                order: order_number,
                health,
            },
        );
    }
}

fn place(cluster: usize, node: &str) -> (u32, u32) {
    let number: u32 = node[1..].parse().expect("n1, n2, ...");
    (u32::try_from(cluster).expect("few clusters"), number - 1)
}

/// The node that has an address, by the fleet's scheme.
fn node_at(address: IpAddr, layer: Layer) -> Option<(u32, u32)> {
    let IpAddr::V4(address) = address else {
        return None;
    };
    let address = u32::from(address);
    let (cluster, node) = match layer {
        Layer::Host => {
            let offset = address.checked_sub(0x6440_0000)?;
            (offset / 256, (offset % 256).checked_sub(1)?)
        }
        Layer::Pod => {
            let offset = address.checked_sub(0x0a00_0000)?;
            (offset / 2048, offset % 2048 / 256)
        }
    };
    let own = match layer {
        Layer::Host => underlay(cluster, node),
        Layer::Pod => pod(cluster, node),
    };
    (own == IpAddr::from(address.to_be_bytes())).then_some((cluster, node))
}
