//! What the packets say about each pair of nodes that was probed.
//!
//! The kernel answers echo requests and the floater answers connections; each may be silent for reasons of its own. What was lost is
//! held against chance by [`crate::sequential`], and losses towards or from a floater that was starved by its own report count for
//! nothing; what then is neither passed nor accused could not be told.

use std::collections::BTreeMap;
use std::net::IpAddr;

use datapath::state::Family;
use floater::wire::{Failure, Layer, Protocol, Rtt};

use super::scope::Scope;
use super::usual;
use crate::evidence::{Ask, NodeRef, ProbeRecord};
use crate::probe_plan::LARGE_BYTES;
use crate::report::{CellId, layer_word};
use crate::sequential::{Decision, Losses};

/// A pair of nodes on a layer, in a family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct PairKey {
    pub(super) src: NodeRef,
    pub(super) dst: NodeRef,
    pub(super) layer: Layer,
    pub(super) family: Family,
}

impl PairKey {
    fn of(record: &ProbeRecord) -> Self {
        Self {
            src: record.src,
            dst: record.dst,
            layer: record.layer,
            family: record.family,
        }
    }

    pub(super) fn cell(self) -> CellId {
        CellId {
            src: place(self.src.cluster),
            dst: place(self.dst.cluster),
            layer: self.layer,
            family: self.family,
        }
    }
}

/// A position of a cluster as it stands in a cell; there are never more clusters than 2³².
pub(super) fn place(cluster: usize) -> u32 {
    u32::try_from(cluster).unwrap_or(u32::MAX)
}

/// What became of a pair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fate {
    /// Echoes pass, connections do not.
    Half,
    /// Small packets pass, large ones do not.
    Large,
    /// Some packets are lost, beyond chance.
    Lossy,
    /// Nothing comes back, or somebody else answers.
    Lost,
    /// Somebody answers for the destination.
    Passes,
    /// Nobody can tell, and why.
    Unknown(String),
}

impl Fate {
    /// Whether something is wrong with the pair.
    pub(super) fn suffers(&self) -> bool {
        matches!(self, Self::Half | Self::Large | Self::Lossy | Self::Lost)
    }
}

/// In so many rounds somebody else has to answer before it is believed.
const IMPOSTOR_ROUNDS: u32 = 2;

/// What one protocol saw.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Tally<'a> {
    /// Packets or connections tried, in all rounds.
    pub(super) sent: u64,
    /// Those that were answered.
    pub(super) received: u64,
    /// The same without the losses of starved floaters.
    pub(super) losses: Losses,
    failure: Option<&'a Failure>,
    /// Rounds in which somebody else answered.
    impostors: u32,
}

impl Tally<'_> {
    /// None where the protocol was not used.
    fn decision(&self) -> Option<Decision> {
        (self.sent > 0).then(|| self.losses.decision())
    }

    fn is_refused(&self) -> bool {
        self.failure == Some(&Failure::Refused)
    }
}

/// One pair with what its probes saw.
#[derive(Debug, Clone)]
pub(super) struct Pair<'a> {
    pub(super) key: PairKey,
    pub(super) target: IpAddr,
    pub(super) icmp: Tally<'a>,
    /// Echoes of [`LARGE_BYTES`].
    pub(super) large: Tally<'a>,
    pub(super) tcp: Tally<'a>,
    pub(super) fate: Fate,
    rtts: Vec<(Protocol, &'a Rtt)>,
    unknown: Vec<&'a str>,
    excused: Option<&'a str>,
    /// Whether nobody knows the outcome of its last round.
    silent: bool,
    /// Whether nobody expects it to work.
    is_excused: bool,
}

impl<'a> Pair<'a> {
    fn new(key: PairKey, target: IpAddr) -> Self {
        Self {
            key,
            target,
            icmp: Tally::default(),
            large: Tally::default(),
            tcp: Tally::default(),
            fate: Fate::Unknown(String::new()),
            rtts: Vec::new(),
            unknown: Vec::new(),
            excused: None,
            silent: false,
            is_excused: false,
        }
    }

    fn add(&mut self, protocol: Protocol, is_large: bool, ask: &'a Ask) {
        self.silent = ask.outcome.is_err();
        let outcome = match &ask.outcome {
            Ok(outcome) => outcome,
            Err(reason) => {
                self.unknown.push(reason);
                return;
            }
        };
        let tally = match protocol {
            Protocol::Icmp if is_large => &mut self.large,
            Protocol::Icmp => &mut self.icmp,
            Protocol::Tcp => &mut self.tcp,
        };
        let undecided = match &outcome.failure {
            Some(failure @ Failure::Local { error }) if !failure.is_about_the_network() => {
                Some(error)
            }
            Some(
                Failure::Forbidden { rule: reason }
                | Failure::Undecided { reason }
                | Failure::Unsupported { what: reason },
            ) => Some(reason),
            _ => None,
        };
        if let Some(reason) = undecided
            && outcome.received == 0
        {
            self.unknown.push(reason);
            return;
        }
        // A node on the way that says what it takes loses nothing without a word: connections heed it.
        if is_large && outcome.failure.as_ref().is_some_and(is_too_big) {
            return;
        }
        let received = u64::from(outcome.received);
        let sent = match undecided {
            // Of what was not answered nothing is known but that some of it says nothing.
            Some(_) => received,
            None => u64::from(outcome.sent.saturating_sub(outcome.undecided)),
        };
        tally.sent += sent;
        tally.received += received;
        match &ask.excused {
            Some(reason) if received < sent => {
                self.excused = Some(reason);
                tally.losses.add(received, received);
            }
            _ => tally.losses.add(sent, received),
        }
        if let Some(failure) = &outcome.failure {
            tally.impostors += u32::from(matches!(failure, Failure::WrongIdentity { .. }));
            tally.failure = Some(failure);
        }
        if let Some(rtt) = outcome.rtt.as_ref().filter(|_| !is_large) {
            self.rtts.push((protocol, rtt));
        }
    }

    pub(super) fn sent(&self) -> u64 {
        self.icmp.sent + self.large.sent + self.tcp.sent
    }

    pub(super) fn received(&self) -> u64 {
        self.icmp.received + self.large.received + self.tcp.received
    }

    /// Whether somebody else answers for the destination.
    pub(super) fn has_impostor(&self) -> bool {
        self.tcp.impostors >= IMPOSTOR_ROUNDS
    }

    /// Whether connections pass, which an accusation of a protocol has to reckon with.
    pub(super) fn connects(&self) -> bool {
        self.tcp.decision() == Some(Decision::Passes)
    }

    /// Whether large packets pass.
    pub(super) fn takes_large(&self) -> bool {
        self.large.decision() == Some(Decision::Passes)
    }

    /// Whether some of it is lost and some is not, so that a network which loses a little everywhere may be all that is wrong.
    pub(super) fn may_be_chance(&self) -> bool {
        let is_partial = self.received() > 0 && self.received() < self.sent();
        let is_told = !self.silent && !self.is_excused && self.excused.is_none();
        let is_of_it = matches!(self.fate, Fate::Lossy | Fate::Unknown(_));
        is_partial && is_told && is_of_it && self.tcp.impostors == 0
    }

    /// By flow: packets or connections tried, and those of them that were lost.
    pub(super) fn flows(&self) -> [(u64, u64); 3] {
        [&self.icmp, &self.large, &self.tcp].map(|tally| {
            let losses = &tally.losses;
            (losses.sent, losses.sent.saturating_sub(losses.received))
        })
    }

    /// Takes its losses for chance.
    pub(super) fn pass(&mut self) {
        self.fate = Fate::Passes;
    }

    /// Whether nothing came back of what was sent, and packets alone do not tell why.
    pub(super) fn asks_the_tables(&self) -> bool {
        matches!(self.fate, Fate::Unknown(_))
            && self.sent() > 0
            && self.received() == 0
            && !self.is_excused
    }

    /// Round-trip times: of echoes where there are any, since a connection takes longer than a packet.
    pub(super) fn rtts(&self) -> impl Iterator<Item = &'a Rtt> + use<'_, 'a> {
        let echoes = self.icmp.received > 0;
        self.rtts
            .iter()
            .filter(move |(protocol, _)| (*protocol == Protocol::Icmp) == echoes)
            .map(|&(_, rtt)| rtt)
    }

    /// What the failing packets have in common, for a person.
    pub(super) fn reason(&self) -> Option<String> {
        if let Fate::Unknown(reason) = &self.fate {
            return Some(reason.clone());
        }
        if self.has_impostor() {
            return Some(IMPOSTOR.to_owned());
        }
        self.losses()
    }

    /// What was lost, by protocol; none where nothing was.
    fn losses(&self) -> Option<String> {
        let mut words = Vec::new();
        let size = format!("icmp of {LARGE_BYTES} bytes");
        // That large packets are lost where small ones are is no news.
        let large = (self.icmp.received > 0).then_some((size.as_str(), &self.large));
        let tallies = [("icmp", &self.icmp)].into_iter().chain(large);
        for (protocol, tally) in tallies.chain([("tcp", &self.tcp)]) {
            if tally.received < tally.sent {
                let why = tally.failure.map_or_else(String::new, |failure| {
                    format!(" ({})", failure_words(failure))
                });
                words.push(format!(
                    "{protocol} {} of {} answered{why}",
                    tally.received, tally.sent
                ));
            }
        }
        (!words.is_empty()).then(|| words.join(", "))
    }

    /// `unwell`: why the responder's silence proves nothing. `excuse`: why nobody expects the pair to work.
    fn judge(&mut self, unwell: Option<&str>, excuse: Option<String>) {
        let passes = |decision| matches!(decision, Some(Decision::Passes | Decision::Lossy));
        let (icmp, tcp) = (self.icmp.decision(), self.tcp.decision());
        let fate = if self.has_impostor() {
            Fate::Lost
        } else {
            match (tcp, icmp) {
                (None, None) => Fate::Unknown(
                    self.unknown
                        .first()
                        .copied()
                        .unwrap_or("no probe was sent")
                        .to_owned(),
                ),
                // Echo requests may be filtered on a path that is sound (the other way round is a fault).
                (Some(Decision::Passes), Some(Decision::Lossy)) => Fate::Lossy,
                (Some(Decision::Passes), _) | (None, Some(Decision::Passes)) => Fate::Passes,
                (Some(Decision::Lossy), _)
                | (Some(Decision::Undecided) | None, Some(Decision::Lossy)) => Fate::Lossy,
                (Some(Decision::Undecided), _) | (_, Some(Decision::Undecided)) => {
                    Fate::Unknown(self.undecided())
                }
                (Some(Decision::Lost), icmp) => match unwell {
                    // The host answers and its floater is gone: its network is not.
                    Some(_) if passes(icmp) => Fate::Passes,
                    Some(reason) => {
                        Fate::Unknown(format!("the responder could not be asked itself: {reason}"))
                    }
                    // A refusal comes back by the path that the connection took: something there decides against connections.
                    None if passes(icmp) || self.tcp.is_refused() => Fate::Half,
                    None => Fate::Lost,
                },
                (None, Some(Decision::Lost)) => match unwell {
                    Some(reason) => {
                        Fate::Unknown(format!("the responder could not be asked itself: {reason}"))
                    }
                    None => Fate::Lost,
                },
            }
        };
        // Where echo requests are filtered those of any size are.
        let small_pass = fate == Fate::Passes && icmp == Some(Decision::Passes);
        let fate = match self.large.decision() {
            Some(Decision::Lost) if small_pass => Fate::Large,
            Some(Decision::Lossy) if small_pass => Fate::Lossy,
            _ => fate,
        };
        self.is_excused = excuse.is_some();
        self.fate = match excuse {
            Some(reason) if fate.suffers() => Fate::Unknown(reason),
            _ => fate,
        };
    }

    fn undecided(&self) -> String {
        let losses = self.losses().unwrap_or_default();
        match self.excused {
            Some(reason) => format!("{losses}, which proves nothing: {reason}"),
            None => format!("{losses}: too few to tell a fault from chance"),
        }
    }

    /// Whether more packets could tell what these do not.
    fn is_open(&self) -> bool {
        let undecided = |tally: &Tally<'_>| {
            tally.decision() == Some(Decision::Undecided) || tally.impostors == 1
        };
        self.silent
            || [&self.icmp, &self.large, &self.tcp]
                .into_iter()
                .any(undecided)
    }
}

/// What is said of a stranger's answer; its own words are not repeated.
const IMPOSTOR: &str =
    "somebody else answered, without the proof that only the right floater can give";

/// Whether somebody on the way says that the packet is larger than the next link takes (RFC 1191, RFC 4443 section 3.2).
fn is_too_big(failure: &Failure) -> bool {
    matches!(
        failure,
        Failure::IcmpError {
            kind: 3,
            code: 4,
            ..
        } | Failure::IcmpError { kind: 2, .. }
    )
}

/// A failure for a person.
fn failure_words(failure: &Failure) -> String {
    match failure {
        Failure::IcmpError { from, kind, code } => {
            format!("{from} answered with ICMP type {kind} code {code}")
        }
        Failure::Forbidden { rule: reason } => format!("not sent: {reason}"),
        Failure::Local { error } => format!("could not send: {error}"),
        Failure::Undecided { reason } => reason.clone(),
        Failure::Unsupported { what } => format!("not sent: its floater does not know {what}"),
        Failure::Refused => "refused".to_owned(),
        Failure::Timeout => "no answer".to_owned(),
        Failure::WrongIdentity { .. } => "somebody else answered".to_owned(),
    }
}

/// The probes of those pairs that are wanted put together by pair, sorted, not judged yet.
fn gather<'a>(scope: &Scope<'a>, is_wanted: impl Fn(&[&'a ProbeRecord]) -> bool) -> Vec<Pair<'a>> {
    let mut records: Vec<&ProbeRecord> = scope.gathered.probes.iter().collect();
    // What was added to the plan later may concern a pair that it had before.
    records.sort_by_key(|record| PairKey::of(record));
    let of_pairs = records.chunk_by(|left, right| PairKey::of(left) == PairKey::of(right));
    let mut pairs = Vec::new();
    for records in of_pairs.filter(|records| is_wanted(records)) {
        let [first, ..] = records else { continue };
        let mut pair = Pair::new(PairKey::of(first), first.target);
        for record in records {
            for ask in &record.asks {
                pair.add(record.protocol, record.payload_bytes >= LARGE_BYTES, ask);
            }
        }
        pairs.push(pair);
    }
    pairs
}

/// Whether everything came back whenever it was asked for, so that nothing is left to ask.
fn is_whole(record: &ProbeRecord) -> bool {
    record.asks.iter().all(|ask| match &ask.outcome {
        Ok(outcome) => outcome.received == outcome.sent && outcome.failure.is_none(),
        Err(_) => false,
    })
}

/// The pairs of which more packets would tell more, sorted.
pub(super) fn open(scope: &Scope<'_>) -> Vec<PairKey> {
    let pairs = gather(scope, |records| {
        !records.iter().all(|record| is_whole(record))
    });
    let open = pairs.iter().filter(|pair| pair.is_open());
    open.map(|pair| pair.key).collect()
}

/// The pairs that were probed, sorted; sentences about those of which nobody knows are added to `unjudged`.
pub(super) fn judge<'a>(scope: &Scope<'a>, unjudged: &mut Vec<String>) -> Vec<Pair<'a>> {
    let mut pairs = gather(scope, |_| true);
    let unwell = unwell(scope, &pairs);
    for pair in &mut pairs {
        let at = (pair.key.dst, pair.key.layer);
        // The kernel answers for a node whatever becomes of its floater; for a pod only while the pod lives.
        let reason = match pair.key.layer {
            Layer::Pod => unwell.get(&at).map(String::as_str),
            Layer::Host => unwell
                .get(&at)
                .map(String::as_str)
                .filter(|_| pair.icmp.sent == 0 || pair.icmp.received > 0),
        };
        let excuse = [pair.key.src, pair.key.dst]
            .into_iter()
            .find_map(|at| scope.excuse(at));
        pair.judge(reason, excuse);
    }
    usual::excuse(scope, &mut pairs);
    for ((node, layer), reason) in unwell {
        if scope.silent(node, layer).is_none() {
            unjudged.push(format!(
                "the {} floater of {} fell silent during the run: {reason}",
                layer_word(layer),
                scope.place(node)
            ));
        }
    }
    unjudged.extend(undecided(scope, &pairs));
    pairs
}

/// So many pairs that could not be told are named; the others are counted.
const NAMED: usize = 5;

/// Pairs whose packets were answered in part or excused, one sentence each.
fn undecided(scope: &Scope<'_>, pairs: &[Pair<'_>]) -> Vec<String> {
    let open: Vec<&Pair<'_>> = pairs
        .iter()
        .filter(|pair| matches!(pair.fate, Fate::Unknown(_)) && pair.received() < pair.sent())
        .collect();
    let mut sentences: Vec<String> = open
        .iter()
        .take(NAMED)
        .map(|pair| {
            format!(
                "{} to {} on {} {}: {}",
                scope.place(pair.key.src),
                scope.place(pair.key.dst),
                layer_word(pair.key.layer),
                pair.key.family,
                pair.reason().unwrap_or_default()
            )
        })
        .collect();
    if open.len() > NAMED {
        sentences.push(format!(
            "and {} more node pairs could not be told",
            open.len() - NAMED
        ));
    }
    sentences
}

/// Floaters that could not be asked, or that did not say what came of their last probes.
fn unwell(scope: &Scope<'_>, pairs: &[Pair<'_>]) -> BTreeMap<(NodeRef, Layer), String> {
    let mut unwell = BTreeMap::new();
    for node in scope.all_nodes() {
        for layer in [Layer::Host, Layer::Pod] {
            if let Some(reason) = scope.silent(node, layer) {
                unwell.insert((node, layer), reason.to_owned());
            }
        }
    }
    for pair in pairs.iter().filter(|pair| pair.silent) {
        if let Some(reason) = pair.unknown.last() {
            unwell
                .entry((pair.key.src, pair.key.layer))
                .or_insert_with(|| (*reason).to_owned());
        }
    }
    unwell
}
