//! What the packets say about each pair of nodes that was probed.
//!
//! The kernel answers echo requests and the floater answers connections; each may be silent for reasons of its own, so a
//! pair fails only where nothing at all comes back.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use datapath::state::Family;
use floater::wire::{Failure, Layer, Outcome, Protocol, Rtt};

use super::scope::{CellKey, Scope};
use crate::evidence::NodeRef;

/// A pair of nodes on a layer, in a family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct PairKey {
    pub(super) src: NodeRef,
    pub(super) dst: NodeRef,
    pub(super) layer: Layer,
    pub(super) family: Family,
}

impl PairKey {
    pub(super) fn cell(self) -> CellKey {
        CellKey {
            src: self.src.cluster,
            dst: self.dst.cluster,
            layer: self.layer,
            family: self.family,
        }
    }
}

/// What became of a pair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fate {
    /// One protocol passes, another does not.
    Half,
    /// Nothing comes back, or somebody else answers.
    Lost,
    /// Somebody answers for the destination.
    Passes,
    /// Nobody can tell, and why.
    Unknown(String),
}

/// What one protocol saw.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) sent: u64,
    pub(super) received: u64,
    pub(super) failure: Option<Failure>,
}

/// One pair with what its probes saw.
#[derive(Debug, Clone)]
pub(super) struct Pair<'a> {
    pub(super) key: PairKey,
    pub(super) target: IpAddr,
    pub(super) icmp: Tally,
    pub(super) tcp: Tally,
    pub(super) fate: Fate,
    /// Who answered in the destination's place.
    pub(super) impostor: Option<String>,
    rtts: Vec<(Protocol, &'a Rtt)>,
    unknown: Vec<&'a str>,
}

impl<'a> Pair<'a> {
    fn new(key: PairKey, target: IpAddr) -> Self {
        Self {
            key,
            target,
            icmp: Tally::default(),
            tcp: Tally::default(),
            fate: Fate::Unknown(String::new()),
            impostor: None,
            rtts: Vec::new(),
            unknown: Vec::new(),
        }
    }

    fn add(&mut self, protocol: Protocol, outcome: &'a Result<Outcome, String>) {
        let outcome = match outcome {
            Ok(outcome) => outcome,
            Err(reason) => {
                self.unknown.push(reason);
                return;
            }
        };
        let tally = match protocol {
            Protocol::Icmp => &mut self.icmp,
            Protocol::Tcp => &mut self.tcp,
        };
        if let Some(Failure::Local { error }) = &outcome.failure
            && outcome.received == 0
            && !is_about_the_network(error)
        {
            self.unknown.push(error);
            return;
        }
        tally.sent += u64::from(outcome.sent);
        tally.received += u64::from(outcome.received);
        if let Some(failure) = &outcome.failure {
            if let Failure::WrongIdentity { answered } = failure {
                self.impostor = Some(answered.clone());
            }
            tally.failure = Some(failure.clone());
        }
        if let Some(rtt) = &outcome.rtt {
            self.rtts.push((protocol, rtt));
        }
    }

    pub(super) fn sent(&self) -> u64 {
        self.icmp.sent + self.tcp.sent
    }

    pub(super) fn received(&self) -> u64 {
        self.icmp.received + self.tcp.received
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
        if let Some(answered) = &self.impostor {
            return Some(format!("{answered} answered"));
        }
        if self.fate == Fate::Passes && self.received() == self.sent() {
            return None;
        }
        let mut words = Vec::new();
        for (protocol, tally) in [("icmp", &self.icmp), ("tcp", &self.tcp)] {
            if tally.received < tally.sent {
                let why = tally.failure.as_ref().map_or_else(String::new, |failure| {
                    format!(" ({})", failure_words(failure))
                });
                words.push(format!(
                    "{protocol} {} of {} answered{why}",
                    tally.received, tally.sent
                ));
            }
        }
        Some(words.join(", "))
    }

    fn judge(&mut self, agent_unwell: Option<&str>) {
        let refused = self.tcp.failure == Some(Failure::Refused);
        self.fate = if self.impostor.is_some() {
            Fate::Lost
        } else if self.sent() == 0 {
            Fate::Unknown(
                self.unknown
                    .first()
                    .copied()
                    .unwrap_or("no probe was sent")
                    .to_owned(),
            )
        } else if self.tcp.received > 0 {
            // Echo requests may be filtered on a path that is sound (the other way round is a fault).
            Fate::Passes
        } else if self.icmp.received > 0 {
            // A refusal is an answer of the host: its floater is gone, its network is not.
            if self.tcp.sent == 0 || refused || agent_unwell.is_some() {
                Fate::Passes
            } else {
                Fate::Half
            }
        } else if let Some(reason) = agent_unwell {
            Fate::Unknown(format!("the responder could not be asked itself: {reason}"))
        } else if refused && self.icmp.sent == 0 {
            Fate::Unknown("the connection was refused: no floater listens there".to_owned())
        } else if refused {
            Fate::Passes
        } else {
            Fate::Lost
        };
    }
}

/// Whether an error of the sending system tells of the network rather than of the sender.
fn is_about_the_network(error: &str) -> bool {
    let error = error.to_ascii_lowercase();
    [
        "unreachable",
        "no route",
        "timed out",
        "host is down",
        "network is down",
    ]
    .iter()
    .any(|word| error.contains(word))
}

/// A failure for a person.
pub(super) fn failure_words(failure: &Failure) -> String {
    match failure {
        Failure::IcmpError { from, kind, code } => {
            format!("{from} answered with ICMP type {kind} code {code}")
        }
        Failure::Local { error } => format!("could not send: {error}"),
        Failure::Refused => "refused".to_owned(),
        Failure::Timeout => "no answer".to_owned(),
        Failure::WrongIdentity { answered } => format!("{answered} answered instead"),
    }
}

/// The pairs that were probed, sorted; sentences about those of which nobody knows are added to `unjudged`.
pub(super) fn judge<'a>(scope: &Scope<'a>, unjudged: &mut Vec<String>) -> Vec<Pair<'a>> {
    let mut pairs: BTreeMap<PairKey, Pair<'a>> = BTreeMap::new();
    for record in &scope.gathered.probes {
        let key = PairKey {
            src: record.src,
            dst: record.dst,
            layer: record.layer,
            family: record.family,
        };
        pairs
            .entry(key)
            .or_insert_with(|| Pair::new(key, record.target))
            .add(record.protocol, &record.outcome);
    }
    let unwell = unwell(scope, &pairs);
    for pair in pairs.values_mut() {
        let at = (pair.key.dst, pair.key.layer);
        // The kernel answers for a node whatever becomes of its floater; for a pod only while the pod lives.
        let reason = match pair.key.layer {
            Layer::Pod => unwell.get(&at).map(String::as_str),
            Layer::Host => unwell
                .get(&at)
                .map(String::as_str)
                .filter(|_| pair.icmp.sent == 0 || pair.icmp.received > 0),
        };
        pair.judge(reason);
    }
    let mut pairs: Vec<Pair<'a>> = pairs.into_values().collect();
    forgive_chance(&mut pairs);
    excuse_the_sick(scope, &mut pairs, unjudged);
    for ((node, layer), reason) in unwell {
        if scope.silent(node, layer).is_none() {
            unjudged.push(format!(
                "the {} floater of {} fell silent during the run: {reason}",
                crate::report::layer_word(layer),
                scope.place(node)
            ));
        }
    }
    pairs
}

/// Floaters that could not be asked, or whose own probes nobody knows the outcome of.
fn unwell(
    scope: &Scope<'_>,
    pairs: &BTreeMap<PairKey, Pair<'_>>,
) -> BTreeMap<(NodeRef, Layer), String> {
    let mut unwell = BTreeMap::new();
    for node in scope.all_nodes() {
        for layer in [Layer::Host, Layer::Pod] {
            if let Some(reason) = scope.silent(node, layer) {
                unwell.insert((node, layer), reason.to_owned());
            }
        }
    }
    for pair in pairs.values() {
        if let Some(reason) = pair.unknown.first() {
            unwell
                .entry((pair.key.src, pair.key.layer))
                .or_insert_with(|| (*reason).to_owned());
        }
    }
    unwell
}

/// One lost connection is chance unless others say the same: where somebody else connects to the same floater, and the same asker to
/// somebody else, it is counted as a lost packet and no more.
fn forgive_chance(pairs: &mut [Pair<'_>]) {
    let mut tried: BTreeMap<(bool, NodeRef, Layer, Family), (usize, usize)> = BTreeMap::new();
    let ends = |key: PairKey| {
        [
            (false, key.src, key.layer, key.family),
            (true, key.dst, key.layer, key.family),
        ]
    };
    for pair in pairs.iter().filter(|pair| pair.tcp.sent > 0) {
        for end in ends(pair.key) {
            let (half, all) = tried.entry(end).or_default();
            *all += 1;
            *half += usize::from(pair.fate == Fate::Half);
        }
    }
    for pair in pairs
        .iter_mut()
        .filter(|pair| pair.fate == Fate::Half && pair.tcp.sent == 1)
    {
        let confirmed = ends(pair.key).iter().any(|end| {
            tried
                .get(end)
                .is_some_and(|&(half, all)| half == all && all > 1)
        });
        if !confirmed {
            pair.fate = Fate::Passes;
        }
    }
}

/// A floater whose own probes are all lost while others reach it both ways is a bad witness, not a bad network: an answer to
/// somebody else's probe crosses the same path as its own.
fn excuse_the_sick(scope: &Scope<'_>, pairs: &mut [Pair<'_>], unjudged: &mut Vec<String>) {
    let mut asks: BTreeMap<(NodeRef, Layer), (usize, usize)> = BTreeMap::new();
    let mut reached: BTreeSet<(NodeRef, NodeRef, Layer, Family)> = BTreeSet::new();
    for pair in pairs.iter().filter(|pair| pair.key.src != pair.key.dst) {
        let (lost, all) = asks.entry((pair.key.src, pair.key.layer)).or_default();
        *all += 1;
        *lost += usize::from(pair.fate == Fate::Lost && pair.impostor.is_none());
        if pair.fate == Fate::Passes {
            reached.insert((pair.key.dst, pair.key.src, pair.key.layer, pair.key.family));
        }
    }
    for ((node, layer), (lost, all)) in asks {
        if lost < all || all < 2 {
            continue;
        }
        let mut answered = pairs
            .iter()
            .filter(|pair| (pair.key.src, pair.key.layer) == (node, layer))
            .filter(|pair| pair.key.src != pair.key.dst)
            .map(|pair| reached.contains(&(node, pair.key.dst, layer, pair.key.family)));
        if !answered.all(|passes| passes) {
            continue;
        }
        let sentence = format!(
            "the {} floater of {} is a bad witness (paused or starved): its own probes are all lost, and everybody it asked \
             reaches it",
            crate::report::layer_word(layer),
            scope.place(node)
        );
        for pair in pairs
            .iter_mut()
            .filter(|pair| (pair.key.src, pair.key.layer) == (node, layer))
        {
            pair.fate = Fate::Unknown(sentence.clone());
        }
        unjudged.push(sentence);
    }
}
