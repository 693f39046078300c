//! Which gateway a node's packets take now: the sessions that it has with gateways and standbys, and what follows from them. No clock, no
//! socket, no API.
//!
//! ```text
//!   NodeConfig ──► Plan: own addresses, peers, gateways with their standbys ─┐
//!   packets, time ─────────────────────────────────────────────────────────► Paths ──► packets to send
//!                                                                              └─────► Detours: which gateway is replaced by whom
//! ```
//!
//! **Who has a session with whom.** The nodes of a gateway-mode cluster with its gateway and its standby; these two with each other, and with the
//! gateways and standbys of other clusters; nodes of P2P clusters with the gateways and standbys of others. Both ends know of each other by their
//! plans; whoever is no peer in the plan is not answered.
//!
//! **Budget.** A node sends so many packets a second and no more ([`Settings::budget`]). Sessions within its own cluster come first, ten packets a
//! second each where that fits; then the gateways of other clusters, then their standbys, of which it is enough to know that they are there. What does
//! not fit is slower, and where it would be slower than [`SLOWEST`] there are none with other clusters.
//!
//! **When a gateway is dead.** A session that was up and is not any more says so: of a gateway that never was up, because no agent of ours runs
//! there or a firewall is between, nothing is concluded. Neither is of one that was taken out of service, as an agent does that ends. Its routes lead
//! through its standby then, provided that the session with that is up.
//!
//! **Slow sessions.** The standby has a fast session with its gateway. When that is dead it says so to all others in its own sessions, and these ask the
//! gateway at once ([`Session::suspect`]). So what a death costs does not depend on the number of clusters.
//!
//! **Cut off.** A gateway or standby that has lost all other clusters says so to the nodes of its own ("concatenated path down"), which take it for dead.
//! Where both say so nothing is changed.
//!
//! **The way back.** A gateway is used again once it was up without a break for a while, twice as long after each failure.

mod decision;
mod plan;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use super::{Diagnostic, Packet, Session, State};
use crate::tunnel::Tunnel;
use decision::Choice;
pub use decision::Detours;
pub use plan::{Gateway, Plan};

/// An end of a tunnel, by its overlay address.
pub type End = (Tunnel, IpAddr);

/// The slowest pace of sessions with the gateways of other clusters; where the budget allows no faster one there are none.
pub const SLOWEST: Duration = Duration::from_secs(3);
/// The pace of sessions within a cluster, and the fastest of all others.
const FASTEST: Duration = Duration::from_millis(100);
/// The fastest pace of sessions with the standbys of other clusters: nobody waits for what these find.
const SPARE: Duration = Duration::from_secs(3);
/// The slowest pace of these.
const SLOWEST_SPARE: Duration = Duration::from_secs(10);
/// How long a session is kept that only the other end asked for, and that is not up.
const FORGOTTEN: Duration = Duration::from_secs(30);
/// The most sessions of a node, whatever its plan says.
const MOST: usize = 8192;

/// What a node may spend, and how careful it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Packets that it sends in a second.
    pub budget: u32,
    /// How long a gateway has to be up again before it is used again, the first time.
    pub hold: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            budget: 200,
            hold: Duration::from_secs(30),
        }
    }
}

/// What a session is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Kind {
    /// With the gateway or standby of another cluster's, or a node that watches this one.
    Peer,
    /// Within the cluster.
    Own,
    /// With the standby of another cluster.
    Spare,
}

/// What is known of the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Health {
    /// It was up, and is not.
    Lost,
    /// It never was, or it was taken out of service.
    Unknown,
    /// It is, since then.
    Up(Duration),
}

#[derive(Debug)]
struct Path {
    session: Session,
    kind: Kind,
    health: Health,
    /// Whether the plan asks for it; else the other end did.
    is_planned: bool,
    begun: Duration,
    /// Its place in the queue.
    at: Option<Duration>,
}

/// The sessions of one node. Times are since any one moment.
#[derive(Debug)]
pub struct Paths {
    settings: Settings,
    plan: Plan,
    paths: BTreeMap<End, Path>,
    /// When each has something to do.
    queue: BTreeSet<(Duration, End)>,
    /// How fast sessions of each kind are; none of which there are none.
    paces: BTreeMap<Kind, Duration>,
    choices: BTreeMap<End, Choice>,
    /// Whether this node has lost all other clusters.
    is_cut_off: bool,
    /// The tunnels to other clusters over which this node says that it stands in for its gateway.
    taken_over: BTreeSet<Tunnel>,
    /// When the choices have to be looked at although nothing happens.
    review: Option<Duration>,
    is_news: bool,
    /// Whether the summary may be another than when it was asked for last.
    is_changed: bool,
    last: u32,
    chance: u32,
}

/// How the sessions are, for people and machines.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// How many are up.
    pub up: usize,
    /// How many planned ones are not.
    pub down: usize,
    /// The longest time that an answer took last, of those that are up.
    pub round_trip: Option<Duration>,
    /// Those that were up and are not, at most [`Summary::MOST`]: each with its cluster.
    pub lost: Vec<(End, String)>,
    /// The gateways that are not used, and their standbys that are: each with its cluster.
    pub detours: Vec<Gateway>,
    /// Whether this node is gateway or standby and has lost all other clusters.
    pub is_cut_off: bool,
}

impl Summary {
    /// The most ends and detours that are named one by one.
    pub const MOST: usize = 20;
}

impl Paths {
    /// Without a plan there is no session. `seed` is any number, another one for each run of a node's agent.
    #[must_use]
    pub fn new(settings: Settings, seed: u32) -> Self {
        Self {
            settings,
            plan: Plan::default(),
            paths: BTreeMap::new(),
            queue: BTreeSet::new(),
            paces: BTreeMap::new(),
            choices: BTreeMap::new(),
            is_cut_off: false,
            taken_over: BTreeSet::new(),
            review: None,
            is_news: false,
            is_changed: true,
            last: seed,
            chance: seed,
        }
    }

    /// The plan that counts.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Takes another plan in. Sessions that are in both go on. `held` are detours that the node's routes take already: an earlier run of its agent
    /// found that out.
    pub fn planned(&mut self, plan: Plan, held: &Detours, now: Duration) {
        let kinds = plan.kinds();
        self.plan = plan;
        self.paces = self.paces_of(&kinds);
        let wanted: BTreeMap<End, Kind> = kinds
            .into_iter()
            .filter(|(_, kind)| self.paces.contains_key(kind))
            .collect();
        let plan = &self.plan;
        let paces = &self.paces;
        let gone: Vec<End> = self
            .paths
            .iter()
            .filter(|(end, path)| {
                let is_passive = plan.peers.contains(end) && paces.contains_key(&path.kind);
                !wanted.contains_key(end) && (path.is_planned || !is_passive)
            })
            .map(|(end, _)| *end)
            .collect();
        for end in gone {
            self.forget(end);
        }
        for (end, kind) in wanted {
            match self.paths.get_mut(&end) {
                Some(path) => (path.kind, path.is_planned) = (kind, true),
                None => self.begin(end, kind, true, now),
            }
        }
        let ends: Vec<End> = self.paths.keys().copied().collect();
        for end in ends {
            let settings = self.settings_of(end);
            if let (Some(path), Some(settings)) = (self.paths.get_mut(&end), settings) {
                path.session.repace(settings, now);
            }
            self.schedule(end);
        }
        self.keep_choices(held, now);
        self.decide(now);
    }

    /// Takes a packet in that came over a tunnel from an address. What no plan knows is nobody's.
    pub fn received(&mut self, end: End, packet: &Packet, now: Duration) {
        if !self.paths.contains_key(&end) {
            let kind = if end.0.is_bridge() {
                Kind::Spare
            } else {
                Kind::Own
            };
            let is_welcome = self.plan.peers.contains(&end) && self.plan.has_sessions();
            if !is_welcome || (kind == Kind::Spare && !self.paces.contains_key(&kind)) {
                return;
            }
            self.begin(end, kind, false, now);
        }
        let Some(path) = self.paths.get_mut(&end) else {
            return;
        };
        let before = path.session.remote();
        path.session.received(packet, now);
        let is_other = path.session.remote() != before;
        let was = path.health;
        path.judge(now);
        self.is_news |= is_other || was != path.health;
        let is_word = is_other && packet.diagnostic == Diagnostic::PathDown;
        self.schedule(end);
        if is_word {
            self.hear_word(end, now);
        }
    }

    /// Does what is due: judges silence, and says what is to be sent to whom.
    pub fn advance(&mut self, now: Duration, mut send: impl FnMut(End, Packet)) {
        while let Some((at, end)) = self.queue.first().copied() {
            if at > now {
                break;
            }
            self.queue.remove(&(at, end));
            let Some(path) = self.paths.get_mut(&end) else {
                continue;
            };
            path.at = None;
            let before = path.health;
            path.session.check(now);
            path.judge(now);
            self.is_news |= path.health != before;
            if path.is_forgotten(now) {
                self.forget(end);
                continue;
            }
            // Numbers of Numerical Recipes: enough to keep sessions from sending in step.
            self.chance = self
                .chance
                .wrapping_mul(1_664_525)
                .wrapping_add(1_013_904_223);
            while let Some(packet) = path.session.poll(now, self.chance >> 8) {
                send(end, packet);
            }
            self.schedule(end);
        }
        if self.is_news || self.review.is_some_and(|at| at <= now) {
            self.decide(now);
        }
    }

    /// When to ask [`Self::advance`] again, unless a packet or a plan comes first.
    #[must_use]
    pub fn deadline(&self) -> Option<Duration> {
        let first = self.queue.first().map(|(at, _)| *at);
        let news = self.is_news.then_some(Duration::ZERO);
        [first, self.review, news].into_iter().flatten().min()
    }

    /// Takes all sessions out of service: what the other ends hear then is no failure.
    pub fn end(&mut self, now: Duration, mut send: impl FnMut(End, Packet)) {
        for (end, path) in &mut self.paths {
            let was_up = path.session.state() == State::Up;
            path.session.administer(false, now);
            if was_up && let Some(packet) = path.session.poll(now, 0) {
                send(*end, packet);
            }
        }
        self.paths.clear();
        self.queue.clear();
    }

    /// Whether the [summary](Self::summary) may be another than at the last question.
    pub fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.is_changed)
    }

    /// How the sessions are.
    #[must_use]
    pub fn summary(&self) -> Summary {
        let planned = || self.paths.iter().filter(|(_, path)| path.is_planned);
        let is_up = |path: &Path| matches!(path.health, Health::Up(_));
        let lost = planned()
            .filter(|(_, path)| path.health == Health::Lost)
            .map(|(end, _)| (*end, self.plan.cluster_of(*end).to_owned()));
        let up = self.paths.values().filter(|path| is_up(path));
        let detours = self.plan.gateways.iter().filter(|gateway| {
            let choice = self.choices.get(&(gateway.tunnel, gateway.active));
            choice.is_some_and(|choice| choice.is_detoured)
        });
        Summary {
            up: up.clone().count(),
            down: planned().filter(|(_, path)| !is_up(path)).count(),
            round_trip: up.filter_map(|path| path.session.round_trip()).max(),
            lost: lost.take(Summary::MOST).collect(),
            detours: detours.take(Summary::MOST).cloned().collect(),
            is_cut_off: self.is_cut_off,
        }
    }

    /// How fast sessions of each kind may be, of so many.
    fn paces_of(&self, kinds: &BTreeMap<End, Kind>) -> BTreeMap<Kind, Duration> {
        let count = |kind: Kind| kinds.values().filter(|one| **one == kind).count() as f64;
        // Jitter makes pauses an eighth shorter.
        let rate = |count: f64, pace: Duration| count * 8.0 / 7.0 / pace.as_secs_f64();
        let pace = |count: f64, rate: f64| Duration::from_secs_f64(count * 8.0 / 7.0 / rate);
        // What is left is for answers and news.
        let budget = f64::from(self.settings.budget.max(1)) * 0.95;
        let own = pace(self.plan.own_sessions() as f64, budget).max(FASTEST);
        let mut paces = BTreeMap::from([(Kind::Own, own)]);
        // However many nodes the cluster has, a fifth is for all others.
        let left = (budget - rate(self.plan.own_sessions() as f64, own)).max(budget / 5.0);
        let spare = pace(count(Kind::Spare), left / 3.0).max(SPARE);
        let left = left - rate(count(Kind::Spare), spare);
        let peer = pace(count(Kind::Peer), left).max(FASTEST);
        if peer <= SLOWEST && spare <= SLOWEST_SPARE {
            paces.insert(Kind::Peer, peer);
            paces.insert(Kind::Spare, spare);
        }
        paces
    }

    fn settings_of(&self, end: End) -> Option<super::Settings> {
        let path = self.paths.get(&end)?;
        let pace = *self.paces.get(&path.kind)?;
        // As many packets as microseconds.
        let pace = Duration::from_millis(u64::try_from(pace.as_millis()).unwrap_or(u64::MAX));
        Some(super::Settings {
            send: pace,
            receive: pace,
            multiplier: 3,
            is_hasty: true,
        })
    }

    fn begin(&mut self, end: End, kind: Kind, is_planned: bool, now: Duration) {
        if self.paths.len() >= MOST {
            return;
        }
        self.last = self.last.wrapping_add(1);
        let number = NonZeroU32::new(self.last).unwrap_or(NonZeroU32::MIN);
        let session = Session::new(super::Settings::default(), number, now);
        let path = Path {
            session,
            kind,
            health: Health::Unknown,
            is_planned,
            begun: now,
            at: None,
        };
        self.paths.insert(end, path);
        let (settings, word) = (self.settings_of(end), self.word_to(end));
        if let (Some(path), Some(settings)) = (self.paths.get_mut(&end), settings) {
            path.session.repace(settings, now);
            path.session.say(word, now);
        }
        self.schedule(end);
    }

    fn forget(&mut self, end: End) {
        if let Some(path) = self.paths.remove(&end)
            && let Some(at) = path.at
        {
            self.queue.remove(&(at, end));
        }
        self.is_news = true;
    }

    fn schedule(&mut self, end: End) {
        let Some(path) = self.paths.get_mut(&end) else {
            return;
        };
        let at = path.session.deadline();
        if at == path.at {
            return;
        }
        if let Some(before) = std::mem::replace(&mut path.at, at) {
            self.queue.remove(&(before, end));
        }
        if let Some(at) = at {
            self.queue.insert((at, end));
        }
    }
}

impl Path {
    fn judge(&mut self, now: Duration) {
        let is_up = matches!(self.health, Health::Up(_));
        match self.session.state() {
            State::Up if !is_up => self.health = Health::Up(now),
            State::Down | State::AdminDown if is_up => {
                let (said, _) = self.session.remote();
                self.health = if said == State::AdminDown {
                    Health::Unknown
                } else {
                    Health::Lost
                };
            }
            _ => {}
        }
    }

    fn is_forgotten(&self, now: Duration) -> bool {
        let since = self.session.heard().unwrap_or(self.begun);
        !self.is_planned && self.session.state() != State::Up && since + FORGOTTEN <= now
    }
}

#[cfg(test)]
mod tests;
