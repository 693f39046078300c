//! What follows from the sessions: which gateway is used, and what this node says of itself.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use super::plan::{Gateway, Part};
use super::{End, Health, Kind, Path, Paths};
use crate::liveness::Diagnostic;
use crate::state::Family;
use crate::tunnel::Tunnel;

/// How often the time doubles before a gateway is used again.
const DOUBLINGS: u32 = 5;
/// After how long without a failure it begins anew, in multiples of the longest hold.
const FORGIVEN: u32 = 2 << DOUBLINGS;
/// How long a standby is used that was never up, as it is after a start of the agent.
const STRANGER: Duration = Duration::from_secs(10);

/// Which gateway is used of one cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Choice {
    /// Whether the standby is.
    pub(super) is_detoured: bool,
    since: Duration,
    failures: u32,
}

/// The gateways that are not used, and who stands in for each.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Detours {
    /// By the gateway's end: the overlay address of the standby.
    pub replaced: BTreeMap<End, IpAddr>,
    /// The families in which this node itself stands in for its cluster's gateway.
    pub taken_over: BTreeSet<Family>,
}

impl Detours {
    /// Whether every gateway is used as it is planned.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.replaced.is_empty() && self.taken_over.is_empty()
    }
}

/// What is known of an end where it counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reach {
    Gone,
    Unknown,
    Up(Duration),
}

impl Path {
    fn reach(&self) -> Reach {
        match self.health {
            Health::Lost => Reach::Gone,
            Health::Unknown => Reach::Unknown,
            Health::Up(_) if self.says(Diagnostic::ConcatenatedPathDown) => Reach::Gone,
            Health::Up(since) => Reach::Up(since),
        }
    }

    fn says(&self, word: Diagnostic) -> bool {
        matches!(self.health, Health::Up(_)) && self.session.remote().1 == word
    }
}

impl Paths {
    /// Which gateways are replaced now.
    #[must_use]
    pub fn detours(&self) -> Detours {
        let mut detours = Detours::default();
        for gateway in &self.plan.gateways {
            let end = (gateway.tunnel, gateway.active);
            let choice = self.choices.get(&end);
            if !choice.is_some_and(|choice| choice.is_detoured) {
                continue;
            }
            match (self.plan.part(gateway), gateway.standby) {
                (Part::Standby, _) => drop(detours.taken_over.insert(gateway.tunnel.family())),
                (Part::Inner | Part::Other, Some(standby)) => {
                    detours.replaced.insert(end, standby);
                }
                _ => {}
            }
        }
        detours
    }

    /// Whether this node is gateway or standby and has lost all other clusters.
    #[must_use]
    pub fn is_cut_off(&self) -> bool {
        self.is_cut_off
    }

    /// Keeps the choices of the gateways that are planned, and begins those of new ones.
    pub(super) fn keep_choices(&mut self, held: &Detours, now: Duration) {
        let mut choices = BTreeMap::new();
        for gateway in self
            .plan
            .gateways
            .iter()
            .filter(|one| one.standby.is_some())
        {
            let end = (gateway.tunnel, gateway.active);
            let is_held = match self.plan.part(gateway) {
                Part::Active => false,
                Part::Standby => held.taken_over.contains(&gateway.tunnel.family()),
                Part::Inner | Part::Other => held.replaced.get(&end) == gateway.standby.as_ref(),
            };
            let begun = || Choice {
                is_detoured: is_held,
                since: now,
                failures: u32::from(is_held),
            };
            let choice = self.choices.get(&end).copied().unwrap_or_else(begun);
            choices.insert(end, choice);
        }
        self.choices = choices;
    }

    /// Looks at everything once more. O(gateways + sessions).
    pub(super) fn decide(&mut self, now: Duration) {
        self.is_news = false;
        self.is_changed = true;
        self.review = None;
        self.is_cut_off = self.has_lost_all(now);
        let mut choices = std::mem::take(&mut self.choices);
        let mut taken_over = BTreeSet::new();
        for gateway in &self.plan.gateways {
            let Some(choice) = choices.get_mut(&(gateway.tunnel, gateway.active)) else {
                continue;
            };
            let part = self.plan.part(gateway);
            if part == Part::Active {
                choice.is_detoured = false;
                continue;
            }
            let review = self.choose(gateway, part, choice, now);
            self.review = self.review.into_iter().chain(review).min();
            if part == Part::Standby && choice.is_detoured {
                taken_over.insert(Tunnel::bridge(gateway.tunnel.family()));
            }
        }
        self.choices = choices;
        self.taken_over = taken_over;
        self.say(now);
    }

    /// One gateway; when to look at it again although nothing happens.
    fn choose(
        &self,
        gateway: &Gateway,
        part: Part,
        choice: &mut Choice,
        now: Duration,
    ) -> Option<Duration> {
        let active = self.active_of(gateway);
        let standby = match part {
            // This node itself.
            Part::Standby if self.is_cut_off => Reach::Gone,
            Part::Standby => Reach::Up(Duration::ZERO),
            _ => gateway
                .standby
                .map_or(Reach::Unknown, |ip| self.reach((gateway.tunnel, ip))),
        };
        let is_fit = matches!(standby, Reach::Up(_));
        if !choice.is_detoured {
            if active == Reach::Gone && is_fit {
                let longest = self.settings.hold.saturating_mul(FORGIVEN);
                let is_forgiven = now.saturating_sub(choice.since) > longest;
                choice.failures = if is_forgiven {
                    1
                } else {
                    choice.failures.saturating_add(1)
                };
                choice.is_detoured = true;
                choice.since = now;
            }
            return None;
        }
        let doublings = choice.failures.saturating_sub(1).min(DOUBLINGS);
        let hold = self.settings.hold.saturating_mul(1 << doublings);
        let (is_back, review) = match (active, standby) {
            (Reach::Up(_), Reach::Gone | Reach::Unknown) | (Reach::Unknown, Reach::Gone) => {
                (true, None)
            }
            (Reach::Up(since), Reach::Up(_)) => (since + hold <= now, Some(since + hold)),
            (Reach::Unknown, Reach::Unknown) => {
                let at = choice.since + STRANGER;
                (at <= now, Some(at))
            }
            _ => (false, None),
        };
        if is_back {
            choice.is_detoured = false;
            choice.since = now;
            return None;
        }
        review
    }

    fn reach(&self, end: End) -> Reach {
        self.paths.get(&end).map_or(Reach::Unknown, Path::reach)
    }

    /// What is known of a gateway, its standby's word included where nothing else is.
    fn active_of(&self, gateway: &Gateway) -> Reach {
        let reach = self.reach((gateway.tunnel, gateway.active));
        let standby = gateway
            .standby
            .and_then(|ip| self.paths.get(&(gateway.tunnel, ip)));
        let is_said = standby.is_some_and(|path| path.says(Diagnostic::PathDown));
        if reach == Reach::Unknown && is_said {
            Reach::Gone
        } else {
            reach
        }
    }

    /// A standby says that it stands in for its gateway: that is asked at once.
    pub(super) fn hear_word(&mut self, (tunnel, ip): End, now: Duration) {
        let gateways = self.plan.gateways.iter();
        let of_it = gateways.filter(|one| one.tunnel == tunnel && one.standby == Some(ip));
        let suspects: Vec<End> = of_it.map(|one| (tunnel, one.active)).collect();
        for end in suspects {
            if let Some(path) = self.paths.get_mut(&end) {
                path.session.suspect(now);
            }
            self.schedule(end);
        }
    }

    /// Whether this node is gateway or standby, has known other clusters, and knows none any more. Where the gateways of all are lost their standbys are
    /// asked at once: those sessions are slow.
    fn has_lost_all(&mut self, now: Duration) -> bool {
        let is_central = |one| matches!(self.plan.part(one), Part::Active | Part::Standby);
        if !self.plan.gateways.iter().any(is_central) {
            return false;
        }
        let (mut is_lost, mut is_up) = (false, false);
        let mut spare = Vec::new();
        for (end, path) in self.paths.iter().filter(|(_, path)| path.is_planned) {
            match (path.kind, path.health) {
                (Kind::Own, _) | (_, Health::Unknown) => {}
                (Kind::Peer | Kind::Spare, Health::Lost) => is_lost = true,
                (Kind::Peer, Health::Up(_)) => is_up = true,
                (Kind::Spare, Health::Up(_)) => spare.push(*end),
            }
        }
        if is_lost && !is_up {
            for end in &spare {
                if let Some(path) = self.paths.get_mut(end) {
                    path.session.suspect(now);
                }
                self.schedule(*end);
            }
        }
        is_lost && !is_up && spare.is_empty()
    }

    /// What this node says in a session while that is up.
    pub(super) fn word_to(&self, end: End) -> Diagnostic {
        match self.paths.get(&end).map(|path| path.kind) {
            Some(Kind::Own) if self.is_cut_off => Diagnostic::ConcatenatedPathDown,
            Some(Kind::Peer | Kind::Spare) if self.taken_over.contains(&end.0) => {
                Diagnostic::PathDown
            }
            _ => Diagnostic::None,
        }
    }

    fn say(&mut self, now: Duration) {
        let ends: Vec<End> = self.paths.keys().copied().collect();
        for end in ends {
            let word = self.word_to(end);
            if let Some(path) = self.paths.get_mut(&end) {
                path.session.say(word, now);
            }
            self.schedule(end);
        }
    }
}
