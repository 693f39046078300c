//! What an earlier run was told, as far as a run that goes on with it needs not ask again.
//!
//! A cluster is known whose floaters were not that run's own and of which everything was answered; a probe is known that was answered. What
//! failed was not known and is asked again.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use datapath::api::Fleet;
use floater::wire::{Health, Layer, Outcome, Protocol};
use jiff::{Timestamp, ToSpan as _};

use super::record::{Header, Line, Reader};
use crate::Error;
use crate::engine::Engine;
use crate::engine::messages::{
    Asked, Command, FloaterId, Input, Looked, Probe, ProbeOrder, TargetFacts,
};

/// How old a run may be that is gone on with: what it saw may not hold any more.
const OLDEST_HOURS: i64 = 1;

/// What is known from a record.
pub(super) struct Memory {
    /// By the cluster's name.
    clusters: HashMap<String, (Looked, Asked)>,
    /// By the name of the cluster that holds them.
    fleets: HashMap<String, (Fleet, Vec<String>)>,
    probes: HashMap<ProbeKey, VecDeque<(u16, Outcome)>>,
    health: HashMap<SenderKey, Health>,
    /// The names of this run's targets, by position.
    names: Vec<String>,
    /// The sender of each order that is given on to others.
    senders: HashMap<u64, SenderKey>,
}

/// A floater, by the name of its cluster.
type SenderKey = (String, String, Layer);

/// A probe, by what it is and not by its number in one run's plan.
#[derive(PartialEq, Eq, Hash)]
struct ProbeKey {
    sender: SenderKey,
    dst: IpAddr,
    protocol: Protocol,
    payload_bytes: u16,
}

/// What becomes of a command.
pub(super) struct Recalled {
    /// What is known.
    pub(super) inputs: Vec<Input>,
    /// What still has to be done.
    pub(super) left: Option<Command>,
}

impl Memory {
    /// Reads a record: what it knows, and how its run was set.
    ///
    /// # Errors
    /// [`Error::Input`] where the file is no record or too old.
    pub(super) fn read(path: &Path) -> Result<(Self, Header), Error> {
        let mut reader = Reader::open(path)?;
        let header = reader.header.clone();
        fresh(path, &header.started)?;
        let mut memory = Self {
            clusters: HashMap::new(),
            fleets: HashMap::new(),
            probes: HashMap::new(),
            health: HashMap::new(),
            names: Vec::new(),
            senders: HashMap::new(),
        };
        let mut engine = Engine::new(header.settings.clone());
        let mut then = Then::default();
        let mut now = Duration::ZERO;
        while let Some(line) = reader.next()? {
            let Line::Input { at, input } = line else {
                break;
            };
            now = now.max(at);
            memory.learn(&mut then, &input);
            engine.put(now, *input);
            while let Some(command) = engine.command() {
                if let Command::Probe(order) = command {
                    then.orders.insert(order.order, *order);
                }
            }
        }
        Ok((memory, header))
    }

    fn learn(&mut self, then: &mut Then, input: &Input) {
        match input {
            Input::Targets { targets, .. } | Input::Enlisted { targets, .. } => {
                then.names.extend(names(targets));
            }
            Input::Looked {
                cluster,
                result: Ok(looked),
            } if looked.standing => {
                then.looked.insert(*cluster, looked.clone());
            }
            Input::Asked {
                cluster,
                asked: Ok(asked),
            } if is_whole(asked) => {
                let name = then.names.get(*cluster);
                if let Some((name, looked)) = name.zip(then.looked.remove(cluster)) {
                    let known = (looked, asked.clone());
                    self.clusters.insert(name.clone(), known);
                }
            }
            Input::Intent {
                cluster,
                fleet,
                warnings,
            } => {
                if let Some(name) = then.names.get(*cluster) {
                    let known = (fleet.clone(), warnings.clone());
                    self.fleets.insert(name.clone(), known);
                }
            }
            Input::Heard { order, outcomes } => {
                let Some(order) = then.orders.get(order) else {
                    return;
                };
                let Some(sender) = key_of(&then.names, &order.sender) else {
                    return;
                };
                let probes: HashMap<u32, &Probe> =
                    order.probes.iter().map(|probe| (probe.id, probe)).collect();
                for outcome in outcomes {
                    if let Some(probe) = probes.get(&outcome.id) {
                        let known = self.probes.entry(key(&sender, probe)).or_default();
                        known.push_back((probe.count, outcome.clone()));
                    }
                }
            }
            Input::Ended {
                order,
                health: Ok(health),
            } => {
                let order = then.orders.get(order);
                if let Some(sender) = order.and_then(|order| key_of(&then.names, &order.sender)) {
                    let known = self.health.entry(sender).or_default();
                    *known = worse(*known, *health);
                }
            }
            _ => {}
        }
    }

    /// The targets of this run, whose positions commands name.
    pub(super) fn targets(&mut self, targets: &[TargetFacts]) {
        self.names.extend(names(targets));
    }

    /// What of a command is known.
    pub(super) fn recall(&mut self, command: Command) -> Recalled {
        let known = |input| Recalled {
            inputs: vec![input],
            left: None,
        };
        match &command {
            Command::Look { cluster } => {
                let name = self.names.get(*cluster);
                if let Some((looked, _)) = name.and_then(|name| self.clusters.get(name)) {
                    let result = Ok(looked.clone());
                    return known(Input::Looked {
                        cluster: *cluster,
                        result,
                    });
                }
            }
            Command::Ask(ask) => {
                let cluster = ask.cluster;
                let name = self.names.get(cluster);
                if let Some((_, asked)) = name.and_then(|name| self.clusters.remove(name)) {
                    let asked = Ok(asked);
                    return known(Input::Asked { cluster, asked });
                }
            }
            Command::ReadIntent { cluster } => {
                // Only of a control plane that is not asked anew.
                let name = self
                    .names
                    .get(*cluster)
                    .filter(|name| self.clusters.contains_key(*name));
                if let Some((fleet, warnings)) = name.and_then(|name| self.fleets.remove(name)) {
                    return known(Input::Intent {
                        cluster: *cluster,
                        fleet,
                        warnings,
                    });
                }
            }
            Command::Probe(_) => {
                if let Command::Probe(order) = command {
                    return self.recall_probes(*order);
                }
            }
            _ => {}
        }
        Recalled {
            inputs: Vec::new(),
            left: Some(command),
        }
    }

    fn recall_probes(&mut self, mut order: ProbeOrder) -> Recalled {
        let Some(sender) = key_of(&self.names, &order.sender) else {
            let left = Some(Command::Probe(Box::new(order)));
            return Recalled {
                inputs: Vec::new(),
                left,
            };
        };
        let mut outcomes = Vec::new();
        order.probes.retain(|probe| {
            let asked = self.probes.get_mut(&key(&sender, probe));
            let known =
                asked.and_then(|asked| asked.pop_front_if(|(count, _)| *count == probe.count));
            let Some((_, mut outcome)) = known else {
                return true;
            };
            outcome.id = probe.id;
            outcomes.push(outcome);
            false
        });
        let number = order.order;
        let mut inputs = Vec::new();
        if !outcomes.is_empty() {
            inputs.push(Input::Heard {
                order: number,
                outcomes,
            });
        }
        if order.probes.is_empty() {
            let health = Ok(self.health.get(&sender).copied().unwrap_or_default());
            inputs.push(Input::Ended {
                order: number,
                health,
            });
            return Recalled { inputs, left: None };
        }
        if !inputs.is_empty() {
            self.senders.insert(number, sender);
        }
        Recalled {
            inputs,
            left: Some(Command::Probe(Box::new(order))),
        }
    }

    /// An answer to what was left, as it stands together with what is known.
    pub(super) fn joined(&mut self, input: Input) -> Input {
        match input {
            Input::Enlisted { targets, warnings } => {
                self.targets(&targets);
                Input::Enlisted { targets, warnings }
            }
            Input::Intent {
                cluster,
                fleet,
                warnings,
            } => {
                let name = self.names.get(cluster);
                let known = name.and_then(|name| self.fleets.get(name));
                if known.is_none_or(|(known, _)| *known != fleet) {
                    // What nodes said was an answer to another plan.
                    self.clusters.clear();
                }
                Input::Intent {
                    cluster,
                    fleet,
                    warnings,
                }
            }
            Input::Ended { order, health } => {
                let sender = self.senders.remove(&order);
                let known = sender.and_then(|sender| self.health.get(&sender));
                let health = match known {
                    Some(known) => health.map(|health| worse(health, *known)),
                    None => health,
                };
                Input::Ended { order, health }
            }
            input => input,
        }
    }
}

/// What the recorded run was told and is not yet known to be of use.
#[derive(Default)]
struct Then {
    names: Vec<String>,
    looked: HashMap<usize, Looked>,
    orders: HashMap<u64, ProbeOrder>,
}

fn names(targets: &[TargetFacts]) -> impl Iterator<Item = String> {
    targets.iter().map(|target| target.name.clone())
}

fn key_of(names: &[String], floater: &FloaterId) -> Option<SenderKey> {
    let cluster = names.get(floater.cluster)?.clone();
    Some((cluster, floater.node.clone(), floater.layer))
}

fn key(sender: &SenderKey, probe: &Probe) -> ProbeKey {
    ProbeKey {
        sender: sender.clone(),
        dst: probe.dst,
        protocol: probe.protocol,
        payload_bytes: probe.payload_bytes,
    }
}

/// Whether everything was answered, by floaters that were there before the run.
fn is_whole(asked: &Asked) -> bool {
    !asked.own
        && !asked.floaters.is_empty()
        && asked.floaters.iter().all(|floater| floater.place.is_ok())
        && asked.tables.values().all(Result::is_ok)
}

/// The worse of what a floater says of itself twice.
fn worse(a: Health, b: Health) -> Health {
    let most = |a: Option<u64>, b: Option<u64>| a.into_iter().chain(b).max();
    Health {
        missed_ticks: a.missed_ticks.max(b.missed_ticks),
        worst_lateness_us: a.worst_lateness_us.max(b.worst_lateness_us),
        run_queue_delay_us: most(a.run_queue_delay_us, b.run_queue_delay_us),
        accept_queue_overflows: most(a.accept_queue_overflows, b.accept_queue_overflows),
        receive_drops: a.receive_drops.max(b.receive_drops),
    }
}

fn fresh(path: &Path, started: &str) -> Result<(), Error> {
    let wrong = |rule: &str| Err(Error::input(path.display().to_string(), Some(1), rule));
    let Ok(started) = started.parse::<Timestamp>() else {
        return wrong("does not say when its run began");
    };
    let oldest = Timestamp::now() - OLDEST_HOURS.hours();
    if started < oldest {
        return wrong(
            "its run began more than an hour ago, and what it saw may not hold any more: begin anew",
        );
    }
    Ok(())
}
