//! The probes of a run: one plan for each floater and round, results as they come, and what fails asked again.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use floater::wire::{Health, Layer, Outcome, PORT, Protocol};

use super::Settings;
use super::assemble::{Assembled, Places};
use super::messages::{Command, FloaterId, Probe, ProbeOrder};
use crate::diagnose::open_pairs;
use crate::evidence::{Ask, Gathered, NodeRef, ProbeRecord};
use crate::fleet::deploy::PORTS;
use crate::probe_plan::{self, PlannedProbe, target_of};
use crate::run::Progress;

mod again;
mod intake;
mod starved;
mod tally;

use intake::Intake;
use starved::Starved;
use tally::Tally;

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

/// Who sends, by its place in the evidence.
type Sender = (NodeRef, Layer);

/// The phase in which packets are sent.
pub(super) struct Probing {
    gathered: Gathered,
    places: Places,
    targets: Vec<Option<usize>>,
    planned: Vec<PlannedProbe>,
    tally: Tally,
    round: Round,
    /// How many rounds have asked for everything.
    rounds: u32,
    /// How many rounds have asked again.
    agains: u32,
    /// What the next round asks for, and when it begins.
    next: Option<(Duration, Vec<usize>)>,
    budget: again::Budget,
    orders: u64,
    stopped: Option<String>,
    is_done: bool,
}

/// One round of probes.
#[derive(Default)]
struct Round {
    timeout_ms: u32,
    /// Whether all cells are probed in it.
    is_first: bool,
    queue: VecDeque<Chunk>,
    under_way: HashMap<u64, (Chunk, Intake)>,
    /// Those whose results are in the evidence, and how their floaters fared.
    done: Vec<(Chunk, Option<Health>)>,
}

/// The probes of one plan.
struct Chunk {
    sender: Sender,
    probes: Vec<usize>,
    /// So many plans of this sender run side by side and share what it may send.
    share: u32,
}

impl Probing {
    /// Plans the probes, and says what it will send.
    pub(super) fn new(assembled: Assembled, settings: &Settings) -> (Self, Vec<Progress>) {
        let Assembled {
            mut gathered,
            places,
            targets,
            warnings,
        } = assembled;
        let mut told: Vec<Progress> = warnings.into_iter().map(Progress::Warning).collect();
        let mut planned = Vec::new();
        if !settings.what.tables_only {
            let plan = probe_plan::plan(&gathered.clusters, &settings.what);
            gathered.refused = plan.refused;
            planned = plan.probes;
        }
        gathered.probes = planned.iter().map(record).collect();
        let tally = Tally::new(&gathered, &planned, settings.rounds);
        let all: Vec<usize> = (0..planned.len()).collect();
        if !settings.what.tables_only {
            told.push(Progress::Probing {
                cells: tally.len(),
                floaters: by_sender(&planned, &all).len(),
                probes: planned.len(),
            });
        }
        let mut probing = Self {
            gathered,
            places,
            targets,
            planned,
            tally,
            round: Round::default(),
            rounds: 0,
            agains: 0,
            next: None,
            budget: again::Budget::default(),
            orders: 0,
            stopped: None,
            is_done: settings.what.tables_only,
        };
        if !probing.is_done {
            probing.begin(all, settings);
        }
        (probing, told)
    }

    pub(super) fn is_done(&self) -> bool {
        self.is_done
    }

    pub(super) fn into_gathered(self) -> Gathered {
        self.gathered
    }

    /// When the next round begins, where one waits for its time.
    pub(super) fn wakes_at(&self) -> Option<Duration> {
        self.next.as_ref().map(|(at, _)| *at)
    }

    /// The orders that can be given now.
    pub(super) fn orders(&mut self, settings: &Settings) -> Vec<Command> {
        let mut orders = Vec::new();
        while self.round.under_way.len() < settings.floaters_at_once {
            let Some(chunk) = self.round.queue.pop_front() else {
                break;
            };
            let Some(order) = self.order(&chunk, settings) else {
                continue;
            };
            let intake = Intake::new(&order.probes);
            self.round.under_way.insert(order.order, (chunk, intake));
            orders.push(Command::Probe(Box::new(order)));
        }
        orders
    }

    /// Results have come: the cells of which nothing more will come in this round.
    pub(super) fn heard(&mut self, order: u64, outcomes: Vec<Outcome>) -> Vec<Progress> {
        let mut told = Vec::new();
        if let Some((_, intake)) = self.round.under_way.get_mut(&order) {
            for outcome in outcomes {
                if let Some(outcome) = intake.take(outcome)
                    && self.round.is_first
                {
                    told.extend(self.tally.add(outcome));
                }
            }
        }
        told
    }

    /// A floater has said all that it will: what it said is evidence.
    pub(super) fn ended(&mut self, order: u64, health: Result<Health, String>) {
        let Some((chunk, mut intake)) = self.round.under_way.remove(&order) else {
            return;
        };
        for &at in &chunk.probes {
            let outcome = intake.taken.remove(&at).ok_or_else(|| match &health {
                Ok(_) => "its floater said nothing about it".to_owned(),
                Err(why) => why.clone(),
            });
            // Both ends have to have spoken before anything is excused.
            self.note(at, outcome);
        }
        self.round.done.push((chunk, health.ok()));
    }

    /// Nothing more is sent; what was sent and not answered is unknown.
    pub(super) fn stop(&mut self, why: &str) {
        self.stopped = Some(why.to_owned());
        self.next = None;
        let late: Vec<u64> = self.round.under_way.keys().copied().collect();
        for order in late {
            self.ended(order, Err(why.to_owned()));
        }
        for chunk in std::mem::take(&mut self.round.queue) {
            for &at in &chunk.probes {
                self.unknown(at, why);
            }
        }
    }

    /// Goes on to the next round where one is over or the next one's time has come.
    pub(super) fn advance(&mut self, now: Duration, settings: &Settings) {
        while !self.is_done {
            if let Some((at, _)) = &self.next {
                if *at > now {
                    return;
                }
                let (_, asked) = self.next.take().unwrap_or_default();
                self.round.timeout_ms = AGAIN_TIMEOUT_MS;
                self.begin(asked, settings);
            }
            if !(self.round.queue.is_empty() && self.round.under_way.is_empty()) {
                return;
            }
            self.finish_round();
            self.plan_next(now, settings);
        }
    }

    fn plan_next(&mut self, now: Duration, settings: &Settings) {
        if self.stopped.is_some() {
            self.is_done = true;
        } else if self.rounds < settings.rounds && !self.planned.is_empty() {
            self.begin((0..self.planned.len()).collect(), settings);
        } else {
            self.next = self.again(now, settings);
            self.is_done = self.next.is_none();
        }
    }

    /// What is asked again, and when; none where everything is decided or nothing may be sent any more.
    fn again(&mut self, now: Duration, settings: &Settings) -> Option<(Duration, Vec<usize>)> {
        if self.agains == AGAIN_ROUNDS {
            return None;
        }
        self.agains += 1;
        let open = open_pairs(&self.gathered, &settings.what);
        if open.is_empty() {
            return None;
        }
        if self.agains == 1 {
            let clusters = &self.gathered.clusters;
            let others = again::others(clusters, &settings.what, &open, &self.planned);
            self.gathered.probes.extend(others.iter().map(record));
            self.planned.extend(others);
        }
        let probes = again::probes(&open, &mut self.planned);
        let asked = self.budget.take(probes, &self.planned);
        let begin = now + AGAIN_PAUSE * self.agains;
        (!asked.is_empty() && begin < settings.deadline).then_some((begin, asked))
    }

    fn begin(&mut self, asked: Vec<usize>, settings: &Settings) {
        let is_first = self.rounds < settings.rounds;
        if is_first {
            self.rounds += 1;
            self.round.timeout_ms = TIMEOUT_MS;
        }
        self.round.is_first = is_first;
        for (sender, probes) in by_sender(&self.planned, &asked) {
            if !self.places.contains_key(&sender) {
                for &at in &probes {
                    self.unknown(at, "its floater was not asked");
                }
                continue;
            }
            let (probes, strange): (Vec<usize>, Vec<usize>) = probes
                .into_iter()
                .partition(|&at| self.is_own_port(&self.planned[at], settings));
            for at in strange {
                self.unknown(at, "its floater claims a port that no run uses");
            }
            let plans = probes.len().div_ceil(PROBES_OF_A_PLAN).max(1);
            let share = u32::try_from(plans).unwrap_or(u32::MAX);
            for probes in probes.chunks(PROBES_OF_A_PLAN) {
                self.round.queue.push_back(Chunk {
                    sender,
                    probes: probes.to_vec(),
                    share,
                });
            }
        }
    }

    /// Excuses the losses of a round that say nothing about the network.
    fn finish_round(&mut self) {
        let done = std::mem::take(&mut self.round.done);
        let mut starved = Starved::default();
        for (chunk, health) in &done {
            if let Some(health) = health {
                starved.add(chunk.sender, *health);
            }
        }
        for at in done.into_iter().flat_map(|(chunk, _)| chunk.probes) {
            let excused = starved.excuse(&self.planned[at], self.round.timeout_ms);
            if let Some(ask) = self.gathered.probes[at].asks.last_mut() {
                ask.excused = excused;
            }
        }
    }

    fn unknown(&mut self, at: usize, why: &str) {
        self.note(at, Err(why.to_owned()));
    }

    fn note(&mut self, at: usize, outcome: Result<Outcome, String>) {
        let asks = &mut self.gathered.probes[at].asks;
        // Most are asked once, and a list that grows by itself has room for four.
        asks.reserve_exact(1);
        asks.push(Ask {
            outcome,
            excused: None,
        });
    }

    /// Whether a connection goes to a port that a run's responder can have. The pod that says so may be anybody's.
    fn is_own_port(&self, planned: &PlannedProbe, settings: &Settings) -> bool {
        let near = |from: u16, port: u16| port >= from && port - from < PORTS;
        match (
            planned.protocol,
            self.places.get(&(planned.dst, planned.layer)),
        ) {
            (Protocol::Tcp, Some(place)) => {
                near(PORT, place.port) || near(settings.port, place.port)
            }
            _ => true,
        }
    }

    fn floater(&self, (node, layer): Sender) -> Option<FloaterId> {
        Some(FloaterId {
            cluster: (*self.targets.get(node.cluster)?)?,
            node: self.gathered.clusters[node.cluster].nodes[node.node]
                .name
                .clone(),
            layer,
        })
    }

    /// The order for a chunk; none where nobody can be given it, which its probes then say.
    fn order(&mut self, chunk: &Chunk, settings: &Settings) -> Option<ProbeOrder> {
        let Some(sender) = self.floater(chunk.sender) else {
            for &at in &chunk.probes {
                self.unknown(at, "its floater was not asked");
            }
            return None;
        };
        self.orders += 1;
        Some(ProbeOrder {
            order: self.orders,
            sender,
            budget_pps: (settings.budget_pps / chunk.share).max(1),
            timeout_ms: self.round.timeout_ms,
            probes: chunk.probes.iter().map(|&at| self.probe(at)).collect(),
        })
    }

    #[expect(
        clippy::cast_possible_truncation,
        reason = "a run has far fewer probes than 2^32"
    )]
    fn probe(&self, at: usize) -> Probe {
        let planned = &self.planned[at];
        let place = self.places.get(&(planned.dst, planned.layer));
        let responder = match (planned.protocol, place) {
            (Protocol::Tcp, Some(place)) => {
                let node = &self.gathered.clusters[planned.dst.cluster].nodes[planned.dst.node];
                // Where the responder accepts it: behind a map that is another address than the one that is asked.
                let at = target_of(node, planned.layer, planned.family).unwrap_or(planned.target);
                let at = SocketAddr::new(at, place.port);
                self.floater((planned.dst, planned.layer))
                    .map(|floater| (floater, at))
            }
            _ => None,
        };
        Probe {
            id: at as u32,
            dst: planned.target,
            protocol: planned.protocol,
            port: place.map_or(PORT, |place| place.port),
            count: planned.count.max(1),
            payload_bytes: planned.payload_bytes,
            responder,
        }
    }
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

fn by_sender(planned: &[PlannedProbe], asked: &[usize]) -> BTreeMap<Sender, Vec<usize>> {
    let mut by_sender: BTreeMap<Sender, Vec<usize>> = BTreeMap::new();
    for &at in asked {
        let sender = (planned[at].src, planned[at].layer);
        by_sender.entry(sender).or_default().push(at);
    }
    by_sender
}
