//! Whose word is the fleet's intent, and which member each cluster is.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use datapath::api::Fleet;
use datapath::printable::is_object_name;

use super::claims;
use super::messages::{Ask, Asked, Command, Input};
use super::{Engine, Phase};
use crate::Error;
use crate::kubeconfig::Identity;

/// How long the control plane's objects may take.
const INTENT: Duration = Duration::from_secs(60);
/// So many clusters that are called otherwise than any member are asked who they are.
const NAMELESS: usize = 64;

/// The fleet's intent as it is believed.
#[derive(Default)]
pub(super) struct Believed {
    pub(super) fleet: Fleet,
    /// The cluster that holds it.
    pub(super) holder: Option<usize>,
    /// The member that is the holder itself, where it is one.
    pub(super) root: Option<String>,
}

/// What is waited for.
pub(super) enum Step {
    /// The objects of a control plane, until a time; `true` where its members are the inventory.
    Intent(usize, Duration, bool),
    /// The targets of its members.
    Enlisted,
    /// The answers of clusters that are called otherwise than any member.
    Met(BTreeSet<usize>),
    /// Which servers the kubeconfigs of members name, for these claims.
    Identified(BTreeMap<String, Vec<usize>>),
}

impl Step {
    pub(super) fn wakes_at(&self) -> Option<Duration> {
        match self {
            Self::Intent(_, until, _) => Some(*until),
            _ => None,
        }
    }
}

impl Engine {
    /// The only cluster that was given holds the inventory.
    pub(super) fn believe_inventory(&mut self, now: Duration) {
        let holder = &self.clusters[0];
        let name = &holder.name;
        let error = match &holder.looked {
            Some(Ok(looked)) if !looked.members.is_empty() => {
                return self.read_intent(now, 0, true);
            }
            Some(Ok(looked)) => Error::Missing {
                what: format!("the control plane {name} has no inventory"),
                why: looked
                    .members_unread
                    .clone()
                    .unwrap_or_else(|| "it has no clusters.kosmos.io object".to_owned()),
            },
            looked => Error::Missing {
                what: format!("the control plane {name} cannot be reached"),
                why: match looked {
                    Some(Err(why)) => why.clone(),
                    _ => "it could not be asked".to_owned(),
                },
            },
        };
        self.fail(error);
    }

    /// One of the clusters may hold the fleet's intent.
    pub(super) fn believe_clusters(&mut self, now: Duration) {
        if self.believed.holder.is_some() {
            return self.begin_asking(now);
        }
        let wanted = self.settings.control_plane.as_deref();
        match claims::holder(&self.clusters, &self.open(), wanted) {
            Err(rule) => self.fail(Error::Usage(rule)),
            Ok((Some(holder), _)) => self.read_intent(now, holder, false),
            Ok((None, note)) => {
                self.notes.extend(note);
                self.meet(now);
            }
        }
    }

    fn read_intent(&mut self, now: Duration, holder: usize, is_inventory: bool) {
        let until = self.settings.deadline.min(now + INTENT);
        self.phase = Phase::Believing(Step::Intent(holder, until, is_inventory));
        self.commands
            .push_back(Command::ReadIntent { cluster: holder });
        if self.stopped.is_some() {
            self.believing_is_over(now);
        }
    }

    pub(super) fn believe(&mut self, now: Duration, input: Input) {
        let Phase::Believing(step) = &self.phase else {
            return;
        };
        match (input, step) {
            (
                Input::Intent {
                    cluster,
                    fleet,
                    warnings,
                },
                &Step::Intent(holder, _, is_inventory),
            ) if cluster == holder => {
                self.intent(now, holder, is_inventory, fleet, warnings);
            }
            (Input::Enlisted { targets, warnings }, Step::Enlisted) => {
                self.warn(warnings);
                self.add(now, targets);
            }
            (Input::Identified { members }, Step::Identified(_)) => {
                self.identified(now, &members);
            }
            _ => {}
        }
    }

    fn intent(
        &mut self,
        now: Duration,
        holder: usize,
        is_inventory: bool,
        fleet: Fleet,
        warnings: Vec<String>,
    ) {
        let name = self.clusters[holder].name.clone();
        let warnings = warnings.into_iter();
        self.warn(
            warnings
                .map(|warning| format!("{name}: {warning}"))
                .collect(),
        );
        let root = fleet
            .clusters
            .iter()
            .find(|cluster| claims::is_root(cluster));
        let root = root.map(|root| root.metadata.name.clone());
        self.believed = Believed {
            fleet: usable(fleet),
            holder: Some(holder),
            root: None,
        };
        if !is_inventory {
            return self.meet(now);
        }
        if let Some(root) = &root {
            self.clusters[holder].name.clone_from(root);
        }
        self.believed.root.clone_from(&root);
        let reached = self.recognise(holder);
        self.phase = Phase::Believing(Step::Enlisted);
        self.commands.push_back(Command::Enlist {
            holder,
            root,
            reached,
        });
        if self.stopped.is_some() {
            self.stop_believing(now);
        }
    }

    /// Which members the clusters are that were given beside the control plane: by the uid that a Cluster was joined with, or else by name.
    fn recognise(&mut self, holder: usize) -> BTreeSet<String> {
        let fleet = &self.believed.fleet;
        let id = |at: usize| {
            let looked = self.clusters[at].open();
            looked.map(|looked| looked.id.clone())
        };
        let of_holder = id(holder);
        let (mut reached, mut warnings) = (BTreeMap::new(), Vec::new());
        for at in (0..self.clusters.len()).filter(|at| *at != holder) {
            let id = id(at);
            if id.is_some() && id == of_holder {
                self.left_out.insert(at);
                continue;
            }
            let name = &self.clusters[at].name;
            let member = claims::joined_as(fleet, id.as_deref(), name);
            match member.filter(|member| !reached.contains_key(*member)) {
                Some(member) => drop(reached.insert(member.to_owned(), at)),
                None => {
                    self.left_out.insert(at);
                    warnings.push(match member {
                        Some(member) => format!(
                            "{name} is {member}, which another context is already: it is left out"
                        ),
                        None => format!(
                            "{name} is no member of this control plane, by the uid of its namespace kube-system or by its name: it is left out"
                        ),
                    });
                }
            }
        }
        for (member, at) in &reached {
            self.clusters[*at].name.clone_from(member);
        }
        self.warn(warnings);
        reached.into_keys().collect()
    }

    /// A context that is called otherwise than any member is recognised by the addresses that its nodes' kernels have.
    fn meet(&mut self, now: Duration) {
        let members = claims::members(&self.believed.fleet);
        let nameless: BTreeSet<usize> = if members.is_empty() || self.stopped.is_some() {
            BTreeSet::new()
        } else {
            let is_nameless = |at: &usize| {
                let cluster = &self.clusters[*at];
                !members.contains(cluster.name.as_str())
                    && cluster.open().is_some_and(|looked| looked.standing)
            };
            self.open()
                .into_iter()
                .filter(is_nameless)
                .take(NAMELESS)
                .collect()
        };
        for &cluster in &nameless {
            self.commands.push_back(Command::Ask(Box::new(Ask {
                cluster,
                name: self.clusters[cluster].name.clone(),
                standing_only: true,
                layers: self.settings.layers(),
                nodes: Vec::new(),
                expected: BTreeMap::new(),
                pod_ips: self.settings.what.tables_only,
            })));
        }
        self.phase = Phase::Believing(Step::Met(nameless));
        self.all_met(now);
    }

    pub(super) fn met(&mut self, now: Duration, cluster: usize, mut asked: Asked) {
        if let Phase::Believing(Step::Met(waiting)) = &mut self.phase
            && waiting.remove(&cluster)
        {
            super::asking::as_asked(None, &mut asked);
            self.clusters[cluster].asked = Some(asked);
            self.all_met(now);
        }
    }

    fn all_met(&mut self, now: Duration) {
        if !matches!(&self.phase, Phase::Believing(Step::Met(waiting)) if waiting.is_empty()) {
            return;
        }
        let claims = claims::claims(&self.clusters, &self.open(), &self.believed.fleet);
        let members: Vec<String> = claims.keys().cloned().collect();
        self.phase = Phase::Believing(Step::Identified(claims));
        match self.believed.holder {
            Some(holder) if !members.is_empty() && self.stopped.is_none() => {
                self.commands
                    .push_back(Command::Identify { holder, members });
            }
            _ => self.identified(now, &BTreeMap::new()),
        }
    }

    fn identified(&mut self, now: Duration, named: &BTreeMap<String, Identity>) {
        let Phase::Believing(Step::Identified(claims)) =
            std::mem::replace(&mut self.phase, Phase::Waiting)
        else {
            return;
        };
        let fleet = &self.believed.fleet;
        let warnings = claims::rename(&mut self.clusters, &self.kept, claims, fleet, named);
        self.warn(warnings);
        self.begin_asking(now);
    }

    /// The time of what is waited for may be up.
    pub(super) fn believing_is_over(&mut self, now: Duration) {
        if let Phase::Believing(Step::Intent(holder, until, is_inventory)) = self.phase
            && (now >= until || self.stopped.is_some())
        {
            let why = "the control plane's objects could not be read in time".to_owned();
            self.intent(now, holder, is_inventory, Fleet::default(), vec![why]);
        }
    }

    pub(super) fn stop_believing(&mut self, now: Duration) {
        match &mut self.phase {
            Phase::Believing(Step::Intent(..)) => self.believing_is_over(now),
            Phase::Believing(Step::Enlisted) => self.add(now, Vec::new()),
            Phase::Believing(Step::Met(waiting)) => {
                waiting.clear();
                self.all_met(now);
            }
            Phase::Believing(Step::Identified(_)) => self.identified(now, &BTreeMap::new()),
            _ => {}
        }
    }
}

/// The objects whose names may be printed, matched and put into fixes.
fn usable(mut fleet: Fleet) -> Fleet {
    fleet
        .clusters
        .retain(|cluster| is_object_name(&cluster.metadata.name));
    fleet.cluster_nodes.retain(|node| {
        [
            &node.metadata.name,
            &node.spec.cluster_name,
            &node.spec.node_name,
        ]
        .iter()
        .all(|name| is_object_name(name))
    });
    fleet
        .node_configs
        .retain(|config| is_object_name(&config.metadata.name));
    fleet
}
