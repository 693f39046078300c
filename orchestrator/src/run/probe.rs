//! The probes of a run: one plan for each floater and round, results as they come, and what fails asked again.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use datapath::state::Family;
use floater::wire::{
    Expect, Failure, Layer, MAX_PORTS, Outcome, PORT, Plan, Probe, Protocol, VERSION, hex, proof,
};
use tokio::time::Instant;

use super::assemble::Agents;
use super::{Context, Progress};
use crate::Error;
use crate::diagnose::open_pairs;
use crate::evidence::{Ask, Gathered, NodeRef, ProbeRecord};
use crate::fleet::deploy::PORTS;
use crate::fleet::{FLOATERS_AT_ONCE, concurrently};
use crate::probe_plan::{PlannedProbe, target_of};
use crate::report::CellVerdict;

mod again;
mod starved;

use starved::Starved;

/// How long after its last packet a probe may still be answered.
const TIMEOUT_MS: u32 = 1000;
/// The same where something was lost before: what is late is not lost.
const AGAIN_TIMEOUT_MS: u32 = 1500;
/// The most probes of one plan: with what they expect they stay within [`floater::wire::MAX_BODY`].
const PROBES_OF_A_PLAN: usize = 8000;
/// So many rounds ask again for what failed, half-failed or was not answered for.
const AGAIN_ROUNDS: u32 = 6;
/// How long after a round the next one begins, times its number: losses of one moment have one reason.
const AGAIN_PAUSE: Duration = Duration::from_millis(150);

/// Sends every planned probe in every round, then asks again where the answers do not tell enough; what came of it is in
/// [`Gathered::probes`].
///
/// # Errors
/// Where the system gives no random numbers.
pub(super) async fn probe(
    context: &Context,
    gathered: &mut Gathered,
    agents: &Agents,
    mut planned: Vec<PlannedProbe>,
) -> Result<(), Error> {
    let tally = Arc::new(Tally::new(context, gathered, &planned));
    gathered.probes = planned.iter().map(record).collect();
    context.tell(Progress::Probing {
        cells: tally.len(),
        floaters: by_sender(&planned, &(0..planned.len()).collect::<Vec<_>>()).len(),
        probes: planned.len(),
    });
    let all: Vec<usize> = (0..planned.len()).collect();
    for _ in 0..context.options.rounds {
        let round = Round {
            planned: &planned,
            timeout_ms: TIMEOUT_MS,
        };
        round
            .ask(context, gathered, agents, &all, Some(&tally))
            .await?;
    }
    let what = &context.options.what;
    let mut budget = again::Budget::default();
    for number in 1..=AGAIN_ROUNDS {
        let open = open_pairs(gathered, what);
        if open.is_empty() {
            break;
        }
        if number == 1 {
            let others = again::others(&gathered.clusters, what, &open, &planned);
            gathered.probes.extend(others.iter().map(record));
            planned.extend(others);
        }
        let asked = budget.take(again::probes(&open, &mut planned), &planned);
        let begin = Instant::now() + AGAIN_PAUSE * number;
        if asked.is_empty() || begin >= context.deadline {
            break;
        }
        tokio::time::sleep_until(begin).await;
        let round = Round {
            planned: &planned,
            timeout_ms: AGAIN_TIMEOUT_MS,
        };
        round.ask(context, gathered, agents, &asked, None).await?;
    }
    Ok(())
}

fn record(planned: &PlannedProbe) -> ProbeRecord {
    ProbeRecord {
        src: planned.src,
        dst: planned.dst,
        layer: planned.layer,
        family: planned.family,
        protocol: planned.protocol,
        target: planned.target,
        payload_bytes: planned.payload_bytes,
        asks: Vec::new(),
    }
}

fn by_sender(planned: &[PlannedProbe], asked: &[usize]) -> BTreeMap<(NodeRef, Layer), Vec<usize>> {
    let mut by_sender: BTreeMap<(NodeRef, Layer), Vec<usize>> = BTreeMap::new();
    for &at in asked {
        let sender = (planned[at].src, planned[at].layer);
        by_sender.entry(sender).or_default().push(at);
    }
    by_sender
}

/// One round of probes.
struct Round<'p> {
    planned: &'p [PlannedProbe],
    timeout_ms: u32,
}

impl Round<'_> {
    /// Asks for some of the probes and adds what came of them.
    async fn ask(
        &self,
        context: &Context,
        gathered: &mut Gathered,
        agents: &Agents,
        asked: &[usize],
        tally: Option<&Arc<Tally>>,
    ) -> Result<(), Error> {
        let mut plans = Vec::new();
        let mut chunks = Vec::new();
        for (sender, probes) in by_sender(self.planned, asked) {
            let Some(agent) = agents.get(&sender) else {
                for &at in &probes {
                    let why = "its floater was not asked".to_owned();
                    gathered.probes[at].asks.push(unknown(why));
                }
                continue;
            };
            let (probes, strange): (Vec<usize>, Vec<usize>) = probes
                .into_iter()
                .partition(|&at| is_own_port(context, agents, &self.planned[at]));
            for at in strange {
                let why = "its floater claims a port that no run uses".to_owned();
                gathered.probes[at].asks.push(unknown(why));
            }
            // Plans of one floater run side by side and share what it may send.
            let plans_of_it = probes.len().div_ceil(PROBES_OF_A_PLAN).max(1);
            let share = u32::try_from(plans_of_it).unwrap_or(u32::MAX);
            for chunk in probes.chunks(PROBES_OF_A_PLAN) {
                let probes: Vec<Probe> = chunk
                    .iter()
                    .map(|&at| wire_probe(at, &self.planned[at], gathered, agents))
                    .collect::<Result<_, _>>()?;
                let plan = Plan {
                    version: VERSION,
                    run: context.run.clone(),
                    budget_pps: (context.options.budget_pps / share).max(1),
                    timeout_ms: self.timeout_ms,
                    ports: ports(&probes),
                    probes,
                };
                plans.push((agent.clone(), plan));
                chunks.push(chunk.to_vec());
            }
        }
        let results = concurrently(plans, FLOATERS_AT_ONCE, |(agent, plan)| {
            let tally = tally.map(Arc::clone);
            let deadline = context.deadline;
            async move {
                let mut intake = Intake::new(&plan);
                let ended = agent
                    .probe(&plan, deadline, |outcome| {
                        if let Some(outcome) = intake.take(outcome)
                            && let Some(tally) = &tally
                        {
                            tally.add(outcome);
                        }
                    })
                    .await;
                (intake.taken, ended)
            }
        })
        .await;
        let results: Vec<_> = results
            .into_iter()
            .map(|result| {
                result.unwrap_or_else(|| {
                    let why = "asking its floater failed within this program".to_owned();
                    (HashMap::new(), Err(why))
                })
            })
            .collect();
        let mut starved = Starved::default();
        for (chunk, (_, ended)) in chunks.iter().zip(&results) {
            if let (Some(&at), Ok(health)) = (chunk.first(), ended) {
                let floater = (self.planned[at].src, self.planned[at].layer);
                starved.add(floater, *health);
            }
        }
        for (chunk, (mut taken, ended)) in chunks.into_iter().zip(results) {
            for at in chunk {
                let outcome = taken.remove(&at).ok_or_else(|| match &ended {
                    Ok(_) => "its floater said nothing about it".to_owned(),
                    Err(why) => why.clone(),
                });
                let excused = starved.excuse(&self.planned[at], self.timeout_ms);
                gathered.probes[at].asks.push(Ask { outcome, excused });
            }
        }
        Ok(())
    }
}

fn unknown(why: String) -> Ask {
    Ask {
        outcome: Err(why),
        excused: None,
    }
}

/// Whether a connection goes to a port that a run's responder can have. The pod that says so may be anybody's.
fn is_own_port(context: &Context, agents: &Agents, planned: &PlannedProbe) -> bool {
    let near = |from: u16, port: u16| port >= from && port - from < PORTS;
    match (planned.protocol, agents.get(&(planned.dst, planned.layer))) {
        (Protocol::Tcp, Some(agent)) => {
            near(PORT, agent.port) || near(context.options.port, agent.port)
        }
        _ => true,
    }
}

/// The outcomes of one plan: only of what was asked, each once, no more than was asked. A floater may be anybody's.
struct Intake {
    /// By id: how many packets were asked for.
    asked: HashMap<usize, u16>,
    taken: HashMap<usize, Outcome>,
}

impl Intake {
    fn new(plan: &Plan) -> Self {
        Self {
            asked: plan
                .probes
                .iter()
                .map(|probe| (probe.id as usize, probe.count))
                .collect(),
            taken: HashMap::new(),
        }
    }

    /// The outcome as it is taken; none where it answers nothing that was asked.
    fn take(&mut self, mut outcome: Outcome) -> Option<&Outcome> {
        let id = outcome.id as usize;
        let count = u32::from(*self.asked.get(&id)?);
        if outcome.sent > count || !outcome.is_possible() || self.taken.contains_key(&id) {
            return None;
        }
        outcome.failure = outcome.failure.map(|failure| match failure {
            // What a stranger says is nobody's business.
            Failure::WrongIdentity { .. } => Failure::WrongIdentity {
                answered: String::new(),
            },
            other => other,
        });
        Some(self.taken.entry(id).or_insert(outcome))
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "a run has far fewer probes than 2^32"
)]
fn wire_probe(
    at: usize,
    planned: &PlannedProbe,
    gathered: &Gathered,
    agents: &Agents,
) -> Result<Probe, Error> {
    let responder = agents.get(&(planned.dst, planned.layer));
    let expect = match (planned.protocol, responder) {
        (Protocol::Tcp, Some(agent)) => {
            let cluster = &gathered.clusters[planned.dst.cluster];
            let node = &cluster.nodes[planned.dst.node];
            let mut nonce = [0; 16];
            super::random(&mut nonce)?;
            let nonce = hex(&nonce);
            // Where the responder accepts it: behind a map that is another address than the one that is asked.
            let at = target_of(node, planned.layer, planned.family).unwrap_or(planned.target);
            let at = SocketAddr::new(at, agent.port);
            Some(Expect {
                proof: proof(agent.run_key(), &nonce, &cluster.id, &node.name, at),
                nonce,
            })
        }
        _ => None,
    };
    Ok(Probe {
        id: at as u32,
        dst: planned.target,
        protocol: planned.protocol,
        port: responder.map_or(PORT, |agent| agent.port),
        count: planned.count.max(1),
        payload_bytes: planned.payload_bytes,
        timeout_ms: None,
        expect,
    })
}

/// The ports that a plan goes to, each the run's own: a floater goes to no other.
fn ports(probes: &[Probe]) -> Vec<u16> {
    let ports: BTreeSet<u16> = probes
        .iter()
        .filter(|probe| probe.protocol == Protocol::Tcp)
        .map(|probe| probe.port)
        .collect();
    ports.into_iter().take(MAX_PORTS).collect()
}

/// What is still to come of each cell, so that a cell is told as soon as its packets are judged.
struct Tally {
    context: Context,
    names: Vec<String>,
    /// The cell of every probe.
    cells: Vec<usize>,
    state: Mutex<Vec<CellTally>>,
}

struct CellTally {
    src: usize,
    dst: usize,
    layer: Layer,
    family: Family,
    left: u64,
    sent: u64,
    received: u64,
}

impl Tally {
    fn new(context: &Context, gathered: &Gathered, planned: &[PlannedProbe]) -> Self {
        let mut index = HashMap::new();
        let mut state: Vec<CellTally> = Vec::new();
        let cells = planned
            .iter()
            .map(|probe| {
                let (src, dst) = (probe.src.cluster, probe.dst.cluster);
                let at = *index
                    .entry((src, dst, probe.layer, probe.family))
                    .or_insert_with(|| {
                        state.push(CellTally {
                            src,
                            dst,
                            layer: probe.layer,
                            family: probe.family,
                            left: 0,
                            sent: 0,
                            received: 0,
                        });
                        state.len() - 1
                    });
                state[at].left += u64::from(context.options.rounds);
                at
            })
            .collect();
        Self {
            context: context.clone(),
            names: gathered
                .clusters
                .iter()
                .map(|cluster| cluster.name.clone())
                .collect(),
            cells,
            state: Mutex::new(state),
        }
    }

    /// The number of cells.
    fn len(&self) -> usize {
        self.state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .len()
    }

    fn add(&self, outcome: &Outcome) {
        let Some(&cell) = self.cells.get(outcome.id as usize) else {
            return;
        };
        let told = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            let cell = &mut state[cell];
            cell.sent += u64::from(outcome.sent);
            cell.received += u64::from(outcome.received);
            cell.left = cell.left.saturating_sub(1);
            (cell.left == 0).then(|| Progress::Cell {
                src: self.names[cell.src].clone(),
                dst: self.names[cell.dst].clone(),
                layer: cell.layer,
                family: cell.family,
                sent: cell.sent,
                received: cell.received,
                // What was lost is asked again before anything is said of it.
                verdict: if cell.sent > 0 && cell.received == cell.sent {
                    CellVerdict::Pass
                } else {
                    CellVerdict::Unknown
                },
            })
        };
        if let Some(progress) = told {
            self.context.tell(progress);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(id: u32, sent: u32, received: u32) -> Outcome {
        Outcome {
            id,
            sent,
            received,
            ..Outcome::default()
        }
    }

    #[test]
    fn outcomes_are_taken_of_what_was_asked_once_and_within_it() {
        let plan = Plan {
            version: VERSION,
            run: "r".to_owned(),
            budget_pps: 1,
            timeout_ms: 1,
            ports: Vec::new(),
            probes: vec![Probe {
                id: 7,
                dst: [127, 0, 0, 1].into(),
                protocol: Protocol::Icmp,
                port: 0,
                count: 3,
                payload_bytes: 0,
                timeout_ms: None,
                expect: None,
            }],
        };
        let mut intake = Intake::new(&plan);
        for nonsense in [
            outcome(8, 3, 3),
            outcome(7, 4, 3),
            outcome(7, 3, 4),
            outcome(u32::MAX, 0, 0),
        ] {
            assert_eq!(intake.take(nonsense), None);
        }
        let mut said = outcome(7, 3, 2);
        said.failure = Some(Failure::WrongIdentity {
            answered: "\u{1b}[2J".to_owned(),
        });
        let taken = intake.take(said).expect("what was asked");
        assert_eq!(
            taken.failure,
            Some(Failure::WrongIdentity {
                answered: String::new()
            })
        );
        assert_eq!(intake.take(outcome(7, 3, 3)), None);
        assert_eq!(intake.taken.len(), 1);
    }
}
