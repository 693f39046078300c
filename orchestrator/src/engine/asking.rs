//! Every cluster's floaters are asked, a bounded number of clusters at a time.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use datapath::digest::Digester;
use datapath::printable::Printable;

use super::assemble::{self, Found, Prepared};
use super::expected::{self, Expectations};
use super::messages::{Ask, Asked, Command};
use super::probing::Probing;
use super::{Engine, Phase, Purpose, claims, refuse};
use crate::Error;
use crate::report::Observation;
use crate::run::Progress;

/// The clusters whose floaters are being asked.
pub(super) struct Asking {
    queue: VecDeque<usize>,
    under_way: BTreeSet<usize>,
    /// What nodes should hold; none where nobody plans anything.
    expected: Option<Expectations>,
    /// Members that no cluster of the run is, and why.
    unreached: Vec<(String, String)>,
}

impl Engine {
    /// Names and intent are known.
    pub(super) fn begin_asking(&mut self, now: Duration) {
        let notes = self.notes.iter();
        let warnings = notes.map(|note| format!("{}: {}", note.code, note.text));
        let warnings = warnings.collect();
        self.warn(warnings);
        let unreached = match self.settings.purpose {
            Purpose::Diagnose => self.unreached(),
            Purpose::Plan | Purpose::Sweep => Vec::new(),
        };
        if self.settings.purpose != Purpose::Sweep
            && let Err(rule) = self.matched(&unreached)
        {
            return self.fail(Error::Usage(rule));
        }
        let expected = match self.settings.purpose {
            Purpose::Diagnose => Expectations::new(&self.believed.fleet, self.settings.key),
            Purpose::Plan | Purpose::Sweep => None,
        };
        let silent: Vec<Progress> = self
            .kept
            .iter()
            .filter_map(|&at| {
                let cluster = &self.clusters[at];
                Some(self.unobserved(&cluster.name, cluster.silent()?))
            })
            .chain(
                unreached
                    .iter()
                    .map(|(name, why)| self.unobserved(name, why)),
            )
            .collect();
        self.tell(silent);
        self.phase = Phase::Asking(Box::new(Asking {
            queue: self.open().into(),
            under_way: BTreeSet::new(),
            expected,
            unreached,
        }));
        self.go_on_asking(now);
    }

    /// Members that the control plane names and that no cluster of the run is, with the reason. Where the operator chose some
    /// contexts of many the others were not asked for.
    fn unreached(&mut self) -> Vec<(String, String)> {
        if self.settings.chosen {
            return Vec::new();
        }
        let unreached = claims::unreached(&self.names(), &self.believed.fleet);
        let count = unreached.len();
        let why =
            "the control plane names it as a member, and no context of the inventory reaches it";
        let listed = unreached.into_iter().take(claims::UNREACHED);
        let listed = listed
            .map(|name| (name.to_owned(), why.to_owned()))
            .collect();
        if count > claims::UNREACHED {
            self.warn(vec![format!(
                "{} more members of the control plane are reached by no context of the inventory",
                count - claims::UNREACHED
            )]);
        }
        listed
    }

    /// Whether every pattern chooses something, before anything is made anywhere.
    fn matched(&self, unreached: &[(String, String)]) -> Result<(), String> {
        let what = &self.settings.what;
        let mut names = self.names();
        names.extend(unreached.iter().map(|(name, _)| name.as_str()));
        for (option, patterns) in [
            ("--sources", &what.sources),
            ("--destinations", &what.destinations),
        ] {
            for pattern in patterns {
                if !names.iter().any(|name| pattern.matches(name)) {
                    let pattern = quoted(pattern.as_str());
                    return Err(format!("{option} {pattern} matches no cluster"));
                }
            }
        }
        let open = self.open();
        for pattern in &what.nodes {
            let has = |&at: &usize| {
                let cluster = &self.clusters[at];
                let mut nodes = cluster.open().into_iter().flat_map(|looked| &looked.nodes);
                nodes.any(|node| {
                    let name = &node.name;
                    pattern.matches(name) || pattern.matches(&format!("{}/{name}", cluster.name))
                })
            };
            if !open.iter().any(has) {
                let pattern = quoted(pattern.as_str());
                return Err(format!("--nodes {pattern} matches no node"));
            }
        }
        Ok(())
    }

    pub(super) fn go_on_asking(&mut self, now: Duration) {
        if !matches!(self.phase, Phase::Asking(_)) {
            return;
        }
        let Phase::Asking(mut asking) = std::mem::replace(&mut self.phase, Phase::Waiting) else {
            return;
        };
        if let Some(why) = self.stopped.clone() {
            let late = std::mem::take(&mut asking.under_way);
            for cluster in late.into_iter().chain(asking.queue.drain(..)) {
                if self.clusters[cluster].asked.is_none() {
                    self.answer(cluster, |looked, layers| refuse(looked, layers, &why));
                }
                self.observed(cluster);
            }
        }
        while asking.under_way.len() < self.settings.clusters_at_once {
            let Some(cluster) = asking.queue.pop_front() else {
                break;
            };
            match self.question(cluster, asking.expected.as_mut()) {
                Some(ask) => {
                    asking.under_way.insert(cluster);
                    self.commands.push_back(Command::Ask(Box::new(ask)));
                }
                None => self.observed(cluster),
            }
        }
        let is_done = asking.under_way.is_empty() && asking.queue.is_empty();
        if is_done {
            return self.all_asked(now, *asking);
        }
        self.phase = Phase::Asking(asking);
    }

    fn answer(
        &mut self,
        cluster: usize,
        answer: impl FnOnce(&super::Looked, &[floater::wire::Layer]) -> Asked,
    ) {
        let layers = self.settings.layers();
        let asked = self.clusters[cluster]
            .open()
            .map(|looked| answer(looked, &layers));
        self.clusters[cluster].asked = asked;
    }

    /// What is asked of a cluster; none where it has been asked already or nobody wants to know.
    fn question(&mut self, at: usize, expected: Option<&mut Expectations>) -> Option<Ask> {
        let cluster = &self.clusters[at];
        // Whoever had to be asked for its name has said all that a diagnosis wants.
        if cluster.asked.is_some() && self.settings.purpose == Purpose::Diagnose {
            return None;
        }
        let looked = cluster.open()?;
        let name = cluster.name.clone();
        let what = &self.settings.what;
        let is_wanted = what.wants_source(&name) || what.wants_destination(&name);
        if !looked.standing && !is_wanted && self.settings.purpose == Purpose::Diagnose {
            self.answer(at, |looked, layers| {
                refuse(looked, layers, "it is not asked for")
            });
            return None;
        }
        let able = looked.nodes.iter().filter(|node| node.ready && node.linux);
        let able = able.map(|node| node.name.clone());
        let nodes = able
            .filter(|node| is_wanted && what.wants_node(&name, node))
            .collect();
        let digests = expected.map_or_else(BTreeMap::new, |expected| {
            let nodes = looked.nodes.iter();
            let digest = |node: &super::messages::Node| {
                Some((node.name.clone(), expected.of(&name, &node.name)?))
            };
            nodes.filter_map(digest).collect()
        });
        Some(Ask {
            cluster: at,
            standing_only: false,
            layers: self.settings.layers(),
            nodes,
            expected: digests,
            pod_ips: what.tables_only,
            name,
        })
    }

    pub(super) fn finished(&mut self, now: Duration, cluster: usize, mut asked: Asked) {
        let Phase::Asking(asking) = &mut self.phase else {
            return;
        };
        if !asking.under_way.remove(&cluster) {
            return;
        }
        let digester = asking.expected.as_ref().map(Expectations::digester);
        as_asked(digester, &mut asked);
        self.clusters[cluster].asked = Some(asked);
        self.observed(cluster);
        self.go_on_asking(now);
    }

    /// What is told of a cluster that cannot be asked.
    fn unobserved(&self, name: &str, why: &str) -> Progress {
        match self.settings.purpose {
            Purpose::Diagnose => Progress::Cluster {
                name: name.to_owned(),
                nodes: 0,
                state: Observation::Unobserved,
                reason: Some(why.to_owned()),
            },
            Purpose::Plan => Progress::Warning(format!("{name}: {why}")),
            Purpose::Sweep => Progress::Warning(format!("{name} is not swept: {why}")),
        }
    }

    /// Tells how far a cluster let itself be asked.
    fn observed(&mut self, at: usize) {
        if self.settings.purpose != Purpose::Diagnose {
            return;
        }
        let cluster = &self.clusters[at];
        let (Some(looked), Some(asked)) = (cluster.open(), &cluster.asked) else {
            return;
        };
        let floaters = asked.floaters.iter();
        let troubles: Vec<&String> = floaters
            .filter_map(|floater| floater.place.as_ref().err())
            .chain(asked.tables.values().filter_map(|read| read.as_ref().err()))
            .collect();
        let all = asked.floaters.len() + asked.tables.len();
        let progress = Progress::Cluster {
            name: cluster.name.clone(),
            nodes: looked.nodes.len(),
            state: match troubles.len() {
                0 if all > 0 => Observation::Observed,
                some if some < all => Observation::Partly,
                _ => Observation::Unobserved,
            },
            reason: troubles.first().map(|reason| (*reason).clone()),
        };
        self.tell([progress]);
    }

    fn all_asked(&mut self, now: Duration, asking: Asking) {
        if self.settings.purpose != Purpose::Diagnose {
            self.phase = Phase::Ended(Some(Ok(Box::default())));
            return;
        }
        let control_plane = self.believed.holder.map(|holder| {
            let root = self.believed.root.clone();
            root.unwrap_or_else(|| self.clusters[holder].name.clone())
        });
        let mut clusters: Vec<Prepared> = Vec::with_capacity(self.kept.len());
        for &at in &self.kept {
            let cluster = &mut self.clusters[at];
            let asked = cluster.asked.take().unwrap_or_default();
            let looked = cluster.looked.take();
            clusters.push(Prepared {
                name: cluster.name.clone(),
                target: Some(at),
                state: looked
                    .unwrap_or_else(|| Err("it was not asked".to_owned()))
                    .map(|looked| (looked, asked)),
            });
        }
        let unreached = asking.unreached.into_iter();
        clusters.extend(unreached.map(|(name, why)| Prepared {
            name,
            target: None,
            state: Err(why),
        }));
        let found = Found {
            clusters,
            fleet: std::mem::take(&mut self.believed.fleet),
            control_plane,
            notes: std::mem::take(&mut self.notes),
            digester: asking.expected.as_ref().map(Expectations::digester),
        };
        drop(asking.expected);
        let assembled = assemble::assemble(found, &self.settings.layers());
        let (mut probing, told) = Probing::new(assembled, &self.settings);
        self.tell(told);
        if let Some(why) = &self.stopped {
            probing.stop(why);
        }
        self.phase = Phase::Probing(Box::new(probing));
        self.go_on_probing(now);
    }
}

/// Takes tables as answers to what their floaters were told to expect. Differences that nobody can lay over a plan are no answer.
pub(super) fn as_asked(digester: Option<Digester>, asked: &mut Asked) {
    for read in asked.tables.values_mut() {
        let Ok(tables) = read else {
            continue;
        };
        let Some(differences) = &tables.differences else {
            continue;
        };
        match digester {
            Some(digester) if expected::are_from(&digester, differences) => {
                // What the digest counts it tells as differences, or not at all.
                digester.take_counted(&mut tables.state);
            }
            _ => {
                let why = "its differences are not from the tables that it was told of";
                *read = Err(why.to_owned());
            }
        }
    }
}

/// A pattern as it was typed, safe to print.
fn quoted(pattern: &str) -> String {
    format!("'{}'", Printable::new(pattern))
}

#[cfg(test)]
mod tests {
    use datapath::digest::{Differences, Key, Scope};
    use datapath::mac::Mac;
    use datapath::state::{Fdb, NodeState, Row};
    use floater::wire::{self, Tables};

    use super::*;

    #[test]
    fn differences_are_from_what_was_asked_or_no_answer() {
        let digester = Digester::new(Key([1; 16]), Scope::Tables, 4);
        let flood = Fdb {
            link: "vx-bridge".to_owned(),
            mac: Mac::ZERO,
            dst: Some([100, 64, 0, 1].into()),
            permanent: true,
        };
        let row = Row::Fdb(flood.clone());
        let bucket = digester.bucket(&row).expect("it counts");
        let said = |bits, buckets: &[(u32, Vec<Row>)]| {
            let mut state = NodeState::default();
            state.fdb.insert(flood.clone());
            Tables {
                version: wire::VERSION,
                node: "n1".to_owned(),
                state,
                differences: Some(Differences {
                    bits,
                    buckets: buckets.iter().cloned().collect(),
                }),
                missing: Vec::new(),
            }
        };
        let taken = |tables: &Tables, digester| {
            let mut asked = Asked::default();
            let node = "n1".to_owned();
            asked.tables.insert(node.clone(), Ok(tables.clone()));
            as_asked(digester, &mut asked);
            asked.tables.remove(&node).expect("it is there")
        };
        let good = said(4, &[(bucket, vec![row.clone()])]);
        let kept = taken(&good, Some(digester)).expect("as asked");
        assert_eq!(kept.differences, good.differences);
        assert_eq!(kept.state, NodeState::default(), "told twice");
        let local = Row::Fdb(Fdb {
            link: "cni0".to_owned(),
            ..flood.clone()
        });
        for (tables, digester) in [
            (good.clone(), None),
            (said(5, &[]), Some(digester)),
            (said(4, &[(16, Vec::new())]), Some(digester)),
            (said(4, &[(bucket ^ 1, vec![row])]), Some(digester)),
            (said(4, &[(bucket, vec![local])]), Some(digester)),
        ] {
            assert!(taken(&tables, digester).is_err(), "{tables:?}");
        }
        let whole = Tables {
            differences: None,
            ..good
        };
        assert_eq!(taken(&whole, Some(digester)), Ok(whole));
    }
}
