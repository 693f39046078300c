//! The objects of a fleet as they count, and the plan that follows from them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::Value;

use super::kept::{Kept, News};
use crate::api::{Cluster, ClusterNode, Fleet, Metadata, NodeConfig, NodeConfigSpec};
use crate::plan::{Change, Planner};

/// The kinds that a plan is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// `clusters.kosmos.io`.
    Cluster,
    /// `clusternodes.kosmos.io`.
    ClusterNode,
}

impl Kind {
    /// As objects write it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Cluster => "Cluster",
            Self::ClusterNode => "ClusterNode",
        }
    }

    /// As paths write it.
    #[must_use]
    pub const fn plural(self) -> &'static str {
        match self {
            Self::Cluster => "clusters",
            Self::ClusterNode => "clusternodes",
        }
    }
}

/// Whose rows a plan changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Touched {
    /// Everybody's, as far as anybody knows.
    pub is_all: bool,
    /// Those of these nodes.
    pub nodes: BTreeSet<Arc<str>>,
}

impl Touched {
    /// Whether nobody's.
    #[must_use]
    pub fn is_none(&self) -> bool {
        !self.is_all && self.nodes.is_empty()
    }
}

/// Every Cluster and ClusterNode, and the planner that knows them.
#[derive(Debug, Default)]
pub struct Inventory {
    clusters: Kept<Cluster>,
    nodes: Kept<ClusterNode>,
    /// The MACs that tunnels have already.
    lent: BTreeMap<String, NodeConfig>,
    planner: Arc<Planner>,
    /// What the planner does not know yet.
    pending: BTreeSet<Pending>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Pending {
    Lent(String),
    Object(Kind, String),
}

/// With fewer objects than this to take in, planning anew is no faster.
const FEW: usize = 16;

impl Inventory {
    /// Takes an object in as it is now.
    pub fn set(&mut self, kind: Kind, name: &str, object: &Value) -> News {
        let news = match kind {
            Kind::Cluster => self.clusters.set(name, object),
            Kind::ClusterNode => self.nodes.set(name, object),
        };
        self.note(news, kind, name);
        news
    }

    /// An object is not there any more.
    pub fn remove(&mut self, kind: Kind, name: &str) -> News {
        let news = match kind {
            Kind::Cluster => self.clusters.remove(name),
            Kind::ClusterNode => self.nodes.remove(name),
        };
        self.note(news, kind, name);
        news
    }

    /// Takes in all objects of a kind: what is not among them is not there any more. Whether that is news.
    pub fn relist<'a>(
        &mut self,
        kind: Kind,
        objects: impl IntoIterator<Item = (&'a str, &'a Value)>,
    ) -> bool {
        let mut listed = BTreeSet::new();
        let mut is_news = false;
        for (name, object) in objects {
            is_news |= self.set(kind, name, object).is_any();
            listed.insert(name);
        }
        let missing = match kind {
            Kind::Cluster => self.clusters.missing_in(&listed),
            Kind::ClusterNode => self.nodes.missing_in(&listed),
        };
        for name in missing {
            is_news |= self.remove(kind, &name).is_any();
        }
        is_news
    }

    /// The rows that a node has, which lend the plan their MACs so that running tunnels keep them. None where it has no NodeConfig.
    pub fn lend(&mut self, name: &str, spec: Option<&NodeConfigSpec>) {
        let devices = spec.map(|spec| spec.devices.clone()).unwrap_or_default();
        let held = self.lent.get(name);
        if held.map_or(&[][..], |held| &held.spec.devices) == devices {
            return;
        }
        if devices.is_empty() {
            self.lent.remove(name);
        } else {
            let config = NodeConfig {
                metadata: Metadata {
                    name: name.to_owned(),
                    ..Metadata::default()
                },
                spec: NodeConfigSpec {
                    devices,
                    ..NodeConfigSpec::default()
                },
            };
            self.lent.insert(name.to_owned(), config);
        }
        self.pending.insert(Pending::Lent(name.to_owned()));
    }

    fn note(&mut self, news: News, kind: Kind, name: &str) {
        if news.is_other {
            self.pending.insert(Pending::Object(kind, name.to_owned()));
        }
    }

    /// The Clusters.
    #[must_use]
    pub fn clusters(&self) -> &Kept<Cluster> {
        &self.clusters
    }

    /// The ClusterNodes.
    #[must_use]
    pub fn nodes(&self) -> &Kept<ClusterNode> {
        &self.nodes
    }

    /// The plan as of the last [`plan`](Self::plan).
    #[must_use]
    pub fn planner(&self) -> &Arc<Planner> {
        &self.planner
    }

    /// Whether there is anything to plan.
    #[must_use]
    pub fn is_planned(&self) -> bool {
        self.pending.is_empty()
    }

    /// Plans what is new. A change costs what depends on it; many at once are planned anew together.
    pub fn plan(&mut self) -> Touched {
        let pending = std::mem::take(&mut self.pending);
        if pending.is_empty() {
            return Touched::default();
        }
        let known = self.clusters.len() + self.nodes.len();
        if pending.len() > FEW && pending.len() * 8 > known {
            self.planner = Arc::new(Planner::of(&self.fleet()));
            return Touched {
                is_all: true,
                nodes: BTreeSet::new(),
            };
        }
        let mut touched = Touched::default();
        let changes: Vec<Change> = pending.iter().map(|one| self.change(one)).collect();
        // Whoever still uses the former plan keeps it.
        let planner = Arc::make_mut(&mut self.planner);
        for change in changes {
            let applied = planner.apply(change);
            touched.is_all |= !applied.bundles.is_empty();
            touched.nodes.extend(applied.nodes);
        }
        touched
    }

    /// The objects that count, as the planner reads them.
    #[must_use]
    pub fn fleet(&self) -> Fleet {
        Fleet {
            clusters: self.clusters.iter().map(|(_, one)| one.clone()).collect(),
            cluster_nodes: self.nodes.iter().map(|(_, one)| one.clone()).collect(),
            node_configs: self.lent.values().cloned().collect(),
        }
    }

    fn change(&self, pending: &Pending) -> Change {
        match pending {
            Pending::Lent(name) => match self.lent.get(name) {
                Some(config) => Change::NodeConfigSet(config.clone()),
                None => Change::NodeConfigRemoved(name.clone()),
            },
            Pending::Object(Kind::Cluster, name) => match self.clusters.get(name) {
                Some(cluster) => Change::ClusterSet(cluster.clone()),
                None => Change::ClusterRemoved(name.clone()),
            },
            Pending::Object(Kind::ClusterNode, name) => match self.nodes.get(name) {
                Some(node) => Change::ClusterNodeSet(node.clone()),
                None => Change::ClusterNodeRemoved(name.clone()),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn cluster(name: &str, is_gateway: bool) -> Value {
        let mode = if is_gateway { "gateway" } else { "p2p" };
        json!({"metadata": {"name": name}, "spec": {"clusterLinkOptions": {"networkType": mode, "ipFamily": "ipv4"}},
               "status": {"clusterLinkStatus": {"podCIDRs": [format!("10.{}.0.0/16", name.len())]}}})
    }

    fn node(cluster: &str, at: u8, is_gateway: bool) -> Value {
        let roles = if is_gateway { vec!["gateway"] } else { vec![] };
        json!({"metadata": {"name": format!("{cluster}-n{at}")}, "spec": {
            "clusterName": cluster, "nodeName": format!("n{at}"), "ip": format!("100.64.{}.{at}", cluster.len()),
            "interfaceName": "eth0", "podCIDRs": [format!("10.{}.{at}.0/24", cluster.len())], "roles": roles,
        }})
    }

    /// A step of somebody's: which object becomes what.
    #[derive(Debug, Clone)]
    enum Step {
        Cluster(u8, u8),
        Node(u8, u8, u8),
        Plan,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            (0..3_u8, 0..5_u8).prop_map(|(at, what)| Step::Cluster(at, what)),
            (0..3_u8, 1..4_u8, 0..5_u8).prop_map(|(at, node, what)| Step::Node(at, node, what)),
            Just(Step::Plan),
        ];
        prop::collection::vec(step, 0..60)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        /// Whatever came in whatever order: the plan is that of the objects that count, whoever is not touched has the rows of before, and
        /// a second plan touches nobody.
        #[test]
        fn a_plan_of_changes_is_a_plan_of_the_whole(steps in steps()) {
            let names = ["a", "bb", "ccc"];
            let mut inventory = Inventory::default();
            let mut before: BTreeMap<String, NodeConfigSpec> = BTreeMap::new();
            for step in steps.into_iter().chain([Step::Plan]) {
                match step {
                    Step::Cluster(at, what) => {
                        let name = names[usize::from(at)];
                        match what {
                            0 => drop(inventory.remove(Kind::Cluster, name)),
                            1 => drop(inventory.set(Kind::Cluster, name, &json!({"metadata": {"name": name}, "spec": null}))),
                            2 => drop(inventory.set(Kind::Cluster, name, &json!({"metadata": {"name": name}, "spec": 7}))),
                            _ => drop(inventory.set(Kind::Cluster, name, &cluster(name, what == 3))),
                        }
                    }
                    Step::Node(at, node_at, what) => {
                        let (cluster, name) = (names[usize::from(at)], format!("{}-n{node_at}", names[usize::from(at)]));
                        match what {
                            0 => drop(inventory.remove(Kind::ClusterNode, &name)),
                            1 => drop(inventory.set(Kind::ClusterNode, &name, &json!({"metadata": {"name": name}}))),
                            _ => drop(inventory.set(Kind::ClusterNode, &name, &node(cluster, node_at, what == 2))),
                        }
                    }
                    Step::Plan => {
                        let touched = inventory.plan();
                        let planner = inventory.planner();
                        let whole = crate::plan::plan(&inventory.fleet()).configs;
                        let now: BTreeMap<String, NodeConfigSpec> = planner.nodes()
                            .filter_map(|name| Some((name.to_owned(), planner.config(name)?))).collect();
                        prop_assert_eq!(&now, &whole);
                        if !touched.is_all {
                            for name in now.keys().chain(before.keys()).filter(|name| !touched.nodes.contains(name.as_str())) {
                                prop_assert_eq!(now.get(name), before.get(name));
                            }
                        }
                        before = now;
                        prop_assert!(inventory.plan().is_none());
                    }
                }
            }
        }
    }
}
