//! What the rest of the fleet loses, and pairs that lose no more than that.
//!
//! A network that loses a few packets everywhere is no reason to accuse a pair of nodes, and no reason to say that nobody knows. What is
//! usual for a pair is what was lost when first asked between clusters that are not its own: asking again where something was lost
//! would count the unlucky ones several times.

use std::collections::HashMap;

use super::pairs::Pair;
use super::scope::Scope;
use crate::sequential::{BACKGROUND, is_acquitted, is_beyond};

/// Fewer packets of the rest say nothing.
const LEAST: u64 = 100;

/// Packets and those of them that were lost.
#[derive(Debug, Clone, Copy, Default)]
struct Sum {
    sent: u64,
    lost: u64,
}

impl Sum {
    fn add(&mut self, sent: u64, lost: u64) {
        self.sent += sent;
        self.lost += lost;
    }

    fn without(self, other: Self) -> Self {
        Self {
            sent: self.sent.saturating_sub(other.sent),
            lost: self.lost.saturating_sub(other.lost),
        }
    }
}

/// First losses of a run, by the clusters between which they were.
struct Usual {
    all: Sum,
    /// By cluster: what it takes part in.
    clusters: HashMap<usize, Sum>,
    /// By two clusters, the lower first.
    between: HashMap<(usize, usize), Sum>,
}

impl Usual {
    fn new(scope: &Scope<'_>) -> Self {
        let mut this = Self {
            all: Sum::default(),
            clusters: HashMap::new(),
            between: HashMap::new(),
        };
        for record in &scope.gathered.probes {
            let Some(Ok(outcome)) = record.asks.first().map(|ask| &ask.outcome) else {
                continue;
            };
            let sent = u64::from(outcome.sent.saturating_sub(outcome.undecided));
            let received = u64::from(outcome.received);
            // Where nothing comes back a path is cut: that is no loss by chance.
            if received == 0 || record.asks.iter().any(|ask| ask.excused.is_some()) {
                continue;
            }
            let lost = sent.saturating_sub(received);
            let (src, dst) = (record.src.cluster, record.dst.cluster);
            this.all.add(sent, lost);
            this.clusters.entry(src).or_default().add(sent, lost);
            if src != dst {
                this.clusters.entry(dst).or_default().add(sent, lost);
            }
            let ends = (src.min(dst), src.max(dst));
            this.between.entry(ends).or_default().add(sent, lost);
        }
        this
    }

    /// The rate at which clusters other than these two lose packets; that of a network in order where too few were sent.
    fn rate(&self, src: usize, dst: usize) -> f64 {
        let of = |cluster| self.clusters.get(&cluster).copied().unwrap_or_default();
        let mut rest = self.all.without(of(src));
        if src != dst {
            let ends = (src.min(dst), src.max(dst));
            let both = self.between.get(&ends).copied().unwrap_or_default();
            rest = rest.without(of(dst).without(both));
        }
        if rest.sent < LEAST {
            return BACKGROUND;
        }
        #[expect(
            clippy::cast_precision_loss,
            reason = "counts of packets of one run are far below 2^52"
        )]
        let rate = rest.lost as f64 / rest.sent as f64;
        rate
    }
}

/// Lets those pairs pass that lose no more than the rest of the fleet does.
pub(super) fn excuse(scope: &Scope<'_>, pairs: &mut [Pair<'_>]) {
    if !pairs.iter().any(Pair::may_be_chance) {
        return;
    }
    let usual = Usual::new(scope);
    for pair in pairs.iter_mut().filter(|pair| pair.may_be_chance()) {
        let rate = usual.rate(pair.key.src.cluster, pair.key.dst.cluster);
        if rate <= BACKGROUND {
            continue;
        }
        let flows = pair.flows();
        let is_usual = flows
            .iter()
            .all(|&(sent, lost)| !is_beyond(rate, sent, lost));
        let sent = flows.iter().map(|(sent, _)| sent).sum();
        let lost = flows.iter().map(|(_, lost)| lost).sum();
        if is_usual && is_acquitted(rate, sent, lost) {
            pair.pass();
        }
    }
}
