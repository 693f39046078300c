//! The probes of a run: one plan for each floater and round, results as they come.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use datapath::state::Family;
use floater::wire::{
    Expect, Layer, MAX_PROBES, Outcome, PORT, Plan, Probe, Protocol, Rtt, hex, proof,
};
use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Deserializer, Serializer as _, V2Serializer};

use super::assemble::Agents;
use super::{Context, Progress};
use crate::Error;
use crate::evidence::{Gathered, NodeRef, ProbeRecord};
use crate::fleet::agents::VERSION;
use crate::fleet::{FLOATERS_AT_ONCE, concurrently};
use crate::probe_plan::PlannedProbe;
use crate::report::CellVerdict;

/// How long after its last packet a probe may still be answered.
const TIMEOUT_MS: u32 = 1000;
/// Payload of an echo request, as `ping` has it.
const PAYLOAD_BYTES: u16 = 56;

/// Sends every planned probe in every round.
///
/// # Errors
/// Where the system gives no random numbers.
pub(super) async fn probe(
    context: &Context,
    gathered: &Gathered,
    agents: &Agents,
    planned: Vec<PlannedProbe>,
) -> Result<Vec<ProbeRecord>, Error> {
    let mut records: Vec<ProbeRecord> = Vec::with_capacity(planned.len());
    let mut by_sender: BTreeMap<(NodeRef, Layer), Vec<usize>> = BTreeMap::new();
    for (at, planned) in planned.iter().enumerate() {
        by_sender
            .entry((planned.src, planned.layer))
            .or_default()
            .push(at);
        records.push(ProbeRecord {
            src: planned.src,
            dst: planned.dst,
            layer: planned.layer,
            family: planned.family,
            protocol: planned.protocol,
            target: planned.target,
            outcome: Err("its floater was not asked".to_owned()),
        });
    }
    context.tell(Progress::Probing {
        floaters: by_sender.len(),
        probes: planned.len(),
    });
    let tally = Arc::new(Tally::new(context, gathered, &planned));
    for _ in 0..context.options.rounds {
        let mut plans = Vec::new();
        for (sender, probes) in &by_sender {
            let Some(agent) = agents.get(sender) else {
                continue;
            };
            for chunk in probes.chunks(MAX_PROBES) {
                let plan = Plan {
                    version: VERSION,
                    run: context.run.clone(),
                    budget_pps: context.options.budget_pps,
                    timeout_ms: TIMEOUT_MS,
                    probes: chunk
                        .iter()
                        .map(|&at| wire_probe(at, &planned[at], gathered, agents))
                        .collect::<Result<_, _>>()?,
                };
                plans.push((agent.clone(), plan, chunk.to_vec()));
            }
        }
        let asked: Vec<Vec<usize>> = plans.iter().map(|(_, _, chunk)| chunk.clone()).collect();
        let results = concurrently(plans, FLOATERS_AT_ONCE, |(agent, plan, _)| {
            let tally = Arc::clone(&tally);
            let deadline = context.deadline;
            async move {
                let mut outcomes: Vec<Outcome> = Vec::with_capacity(plan.probes.len());
                let ended = agent
                    .probe(&plan, deadline, |outcome| {
                        tally.add(&outcome);
                        outcomes.push(outcome);
                    })
                    .await;
                (outcomes, ended)
            }
        })
        .await;
        for (chunk, result) in asked.into_iter().zip(results) {
            let (outcomes, ended) = result.unwrap_or_else(|| {
                let why = "asking its floater failed within this program".to_owned();
                (Vec::new(), Err(why))
            });
            take(&mut records, &chunk, outcomes, ended);
        }
    }
    Ok(records)
}

/// One round's results of one plan. A floater may only speak about what it was asked.
fn take(
    records: &mut [ProbeRecord],
    chunk: &[usize],
    outcomes: Vec<Outcome>,
    ended: Result<(), String>,
) {
    let mut told: HashMap<usize, Outcome> = outcomes
        .into_iter()
        .map(|mut outcome| {
            // More answers than questions are no better than as many.
            outcome.received = outcome.received.min(outcome.sent);
            (outcome.id as usize, outcome)
        })
        .collect();
    for &at in chunk {
        let record = &mut records[at];
        match (told.remove(&at), &mut record.outcome) {
            (Some(new), Ok(earlier)) => merge(earlier, new),
            (Some(new), outcome @ Err(_)) => *outcome = Ok(new),
            // What an earlier round has learned stays.
            (None, Ok(_)) => {}
            (None, Err(reason)) => {
                *reason = match &ended {
                    Ok(()) => "its floater said nothing about it".to_owned(),
                    Err(why) => why.clone(),
                };
            }
        }
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
            Some(Expect {
                proof: proof(agent.run_key(), &nonce, &cluster.id, &node.name),
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
        payload_bytes: PAYLOAD_BYTES,
        expect,
    })
}

/// Adds a later round's outcome.
fn merge(earlier: &mut Outcome, new: Outcome) {
    earlier.sent = earlier.sent.saturating_add(new.sent);
    earlier.received = earlier.received.saturating_add(new.received);
    if new.failure.is_some() {
        earlier.failure = new.failure;
    }
    earlier.rtt = match (earlier.rtt.take(), new.rtt) {
        (Some(a), Some(b)) => Some(merged(a, &b)),
        (a, b) => a.or(b),
    };
}

/// The round-trip times of two rounds, by their histograms; without them, the bounds that are certain.
fn merged(a: Rtt, b: &Rtt) -> Rtt {
    let bounds = Rtt {
        min_us: a.min_us.min(b.min_us),
        p50_us: a.p50_us.max(b.p50_us),
        p99_us: a.p99_us.max(b.p99_us),
        max_us: a.max_us.max(b.max_us),
        histogram: a.histogram.clone(),
    };
    let both = || -> Option<Rtt> {
        let mut sum = decode(&a.histogram)?;
        sum.add(decode(&b.histogram)?).ok()?;
        let mut bytes = Vec::new();
        V2Serializer::new().serialize(&sum, &mut bytes).ok()?;
        Some(Rtt {
            min_us: bounds.min_us,
            p50_us: sum.value_at_quantile(0.5),
            p99_us: sum.value_at_quantile(0.99),
            max_us: bounds.max_us,
            histogram: STANDARD.encode(bytes),
        })
    };
    both().unwrap_or(bounds)
}

fn decode(histogram: &str) -> Option<Histogram<u64>> {
    let bytes = STANDARD.decode(histogram).ok()?;
    Deserializer::new().deserialize(&mut &bytes[..]).ok()
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
                verdict: match (cell.sent, cell.received) {
                    (0, _) => CellVerdict::Unknown,
                    (_, 0) => CellVerdict::Fail,
                    (sent, received) if received >= sent => CellVerdict::Pass,
                    _ => CellVerdict::Degraded,
                },
            })
        };
        if let Some(progress) = told {
            self.context.tell(progress);
        }
    }
}
