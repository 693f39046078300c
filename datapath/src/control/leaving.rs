//! A cluster that leaves: first its nodes give up their rows, then its objects go.
//!
//! ```text
//!   deletion asked for, or not enabled ──► waiting: every NodeConfig is without rows, until its agent says that the node is, too,
//!                                             │     or has said nothing for a minute
//!                                             ▼
//!                                          removing: NodeConfigs, then ClusterNodes, then the finalizer
//! ```
//!
//! Only a Cluster with [`ROWS_FINALIZER`] leaves in this way: whoever put it there wants to know when the nodes are bare. Other clusters that
//! take no part lose their NodeConfigs at once, and their ClusterNodes are not touched. No clock, no API.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::{Value, json};

use super::conditions::Condition;
use super::configs::Order;
use crate::api::{CLUSTER_LABEL, ROWS_FINALIZER};

/// Of a Cluster that leaves: whether every node gave up its rows.
pub const REMOVED: &str = "RowsRemoved";

/// How long a node may say nothing before it counts as dead.
const SILENCE: Duration = Duration::from_secs(60);
/// Until what failed is tried again.
const RETRY: Duration = Duration::from_secs(2);
/// The most nodes that a message names.
const NAMED: usize = 5;
/// The type of the condition by which an agent confirms.
const APPLIED: &str = "Applied";

/// What is to be done besides NodeConfigs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Deed {
    /// This ClusterNode is to be gone.
    RemoveNode {
        /// Its name.
        name: String,
        /// Its `uid`.
        uid: String,
    },
    /// This Cluster is to lose the finalizer.
    Release {
        /// Its name.
        name: String,
        /// The merge patch, with the version that it is made for.
        patch: Value,
    },
}

impl Deed {
    /// The object's name.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::RemoveNode { name, .. } | Self::Release { name, .. } => name,
        }
    }

    /// What it is, for people.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Self::RemoveNode { .. } => "the ClusterNode of a cluster that leaves is removed",
            Self::Release { .. } => "the cluster left",
        }
    }
}

/// What is known of a NodeConfig.
#[derive(Debug, Default)]
struct Config {
    uid: String,
    generation: i64,
    /// Whether it is without rows.
    is_bare: bool,
    /// Whether its agent says that the kernel holds what it says.
    is_applied: bool,
}

/// A Cluster that leaves.
#[derive(Debug)]
struct Going {
    version: Value,
    /// Its finalizers but ours.
    others: Vec<Value>,
    /// When each NodeConfig was first seen without rows.
    bare: BTreeMap<String, Duration>,
    /// The nodes that did not confirm, once nobody is waited for any more, and how many there were.
    ended: Option<(Vec<String>, usize)>,
}

/// The clusters that leave. Times are since any one moment.
#[derive(Debug, Default)]
pub struct Leaving {
    going: BTreeMap<String, Going>,
    /// Cluster and `uid` of every ClusterNode.
    nodes: BTreeMap<String, (String, String)>,
    members: BTreeMap<String, BTreeSet<String>>,
    configs: BTreeMap<String, Config>,
    /// Those NodeConfigs that somebody else than the plan decides about, and those of them that are new.
    orders: BTreeMap<String, Order>,
    busy: BTreeSet<String>,
    retry: Option<Duration>,
}

/// Whether a Cluster wants to take no part: it is to be deleted, or switched off. One whose spec is missing says nothing about that.
#[must_use]
pub fn leaves(cluster: &Value) -> bool {
    let is_off = cluster["spec"].as_object().is_some_and(|spec| {
        let options = spec
            .get("clusterLinkOptions")
            .filter(|options| !options.is_null());
        options.is_none_or(|options| options["enable"] == false)
    });
    is_off || is_deleted(cluster)
}

/// Whether the deletion of an object was asked for.
#[must_use]
pub fn is_deleted(object: &Value) -> bool {
    object["metadata"]["deletionTimestamp"].is_string()
}

impl Leaving {
    /// Takes a Cluster in; none where there is none.
    pub fn cluster(&mut self, name: &str, object: Option<&Value>) {
        let metadata = object.map(|object| &object["metadata"]);
        let finalizers = metadata.and_then(|metadata| metadata["finalizers"].as_array());
        let is_ours = |finalizer: &Value| finalizer == ROWS_FINALIZER;
        match (object, finalizers) {
            (Some(object), Some(finalizers))
                if leaves(object) && finalizers.iter().any(is_ours) =>
            {
                let version = object["metadata"]["resourceVersion"].clone();
                let others = finalizers.iter().filter(|one| !is_ours(one));
                let others = others.cloned().collect();
                match self.going.get_mut(name) {
                    Some(going) => (going.version, going.others) = (version, others),
                    None => {
                        let going = Going {
                            version,
                            others,
                            bare: BTreeMap::new(),
                            ended: None,
                        };
                        self.going.insert(name.to_owned(), going);
                    }
                }
            }
            _ => drop(self.going.remove(name)),
        }
    }

    /// Takes a ClusterNode in; none where there is none.
    pub fn node(&mut self, name: &str, object: Option<&Value>) {
        if let Some((cluster, _)) = self.nodes.remove(name)
            && let Some(members) = self.members.get_mut(&cluster)
        {
            members.remove(name);
            if members.is_empty() {
                self.members.remove(&cluster);
            }
        }
        let Some(object) = object else { return };
        let own = object["spec"]["clusterName"].as_str();
        let own = own.filter(|name| !name.is_empty());
        let label = || object["metadata"]["labels"][CLUSTER_LABEL].as_str();
        if let Some(cluster) = own.or_else(label) {
            let uid = object["metadata"]["uid"].as_str().unwrap_or_default();
            let of = (cluster.to_owned(), uid.to_owned());
            self.nodes.insert(name.to_owned(), of);
            let members = self.members.entry(cluster.to_owned()).or_default();
            members.insert(name.to_owned());
        }
    }

    /// Takes a NodeConfig in; none where there is none. Whether its spec may be another than it was.
    pub fn config(&mut self, name: &str, object: Option<&Value>) -> bool {
        let Some(object) = object else {
            return self.configs.remove(name).is_some();
        };
        let (metadata, status) = (&object["metadata"], &object["status"]);
        let generation = metadata["generation"].as_i64().unwrap_or_default();
        let conditions = status["conditions"].as_array().into_iter().flatten();
        let mut applied = conditions.filter(|one| one["type"] == APPLIED);
        let is_true = applied.any(|one| one["status"] == "True");
        let observed = status["observedGeneration"].as_i64();
        let lists = object["spec"].as_object();
        let now = Config {
            uid: metadata["uid"].as_str().unwrap_or_default().to_owned(),
            generation,
            is_bare: lists.is_some_and(|lists| {
                let mut lists = lists.values();
                lists.all(|list| list.is_null() || list.as_array().is_some_and(Vec::is_empty))
            }),
            is_applied: is_true && observed.is_some_and(|observed| observed >= generation),
        };
        let before = self.configs.get(name);
        let is_same = before.is_some_and(|before| {
            generation > 0 && (before.generation, &before.uid) == (generation, &now.uid)
        });
        self.configs.insert(name.to_owned(), now);
        !is_same
    }

    /// Goes as far as what is known allows. What is to be done about NodeConfigs that is new; none where the plan decides again.
    pub fn step(&mut self, now: Duration) -> Vec<(String, Option<Order>)> {
        let mut orders = BTreeMap::new();
        for (name, going) in &mut self.going {
            let nodes = self.members.get(name).into_iter().flatten();
            let nodes: Vec<&String> = nodes.collect();
            if going.ended.is_none() {
                let mut silent = Vec::new();
                let mut is_over = true;
                for node in &nodes {
                    let config = self.configs.get(*node).filter(|config| config.is_bare);
                    let Some(config) = config else {
                        is_over = false;
                        continue;
                    };
                    let since = *going.bare.entry((*node).clone()).or_insert(now);
                    if !config.is_applied {
                        is_over &= now >= since + SILENCE;
                        silent.push((*node).clone());
                    }
                }
                if is_over {
                    going.ended = Some((silent, nodes.len()));
                }
            }
            let order = if going.ended.is_some() {
                Order::Gone
            } else {
                Order::Bare
            };
            orders.extend(nodes.into_iter().map(|node| (node.clone(), order)));
        }
        let mut new = Vec::new();
        for name in self
            .orders
            .keys()
            .filter(|name| !orders.contains_key(*name))
        {
            new.push((name.clone(), None));
        }
        for (name, order) in &orders {
            if self.orders.get(name) != Some(order) {
                new.push((name.clone(), Some(*order)));
            }
        }
        self.orders = orders;
        new
    }

    /// What to do next. `is_told` says whether a Cluster shows what is said about it. What is given out has to be [reported](Self::done).
    pub fn next(&mut self, now: Duration, is_told: impl Fn(&str) -> bool) -> Option<Deed> {
        if self.retry.is_some_and(|retry| now < retry) {
            return None;
        }
        self.retry = None;
        let deed = self.going.iter().find_map(|(name, going)| {
            going.ended.as_ref()?;
            let mut nodes = self.members.get(name).into_iter().flatten().peekable();
            if nodes.peek().is_none() {
                let patch = json!({"metadata": {"resourceVersion": going.version, "finalizers": going.others}});
                let release = Deed::Release { name: name.clone(), patch };
                return (!self.busy.contains(name) && is_told(name)).then_some(release);
            }
            let mut free = nodes.filter(|node| !self.configs.contains_key(*node) && !self.busy.contains(*node));
            let node = free.next()?;
            let (_, uid) = self.nodes.get(node)?;
            Some(Deed::RemoveNode { name: node.clone(), uid: uid.clone() })
        })?;
        self.busy.insert(deed.name().to_owned());
        Some(deed)
    }

    /// What came of a deed; the object as it is now comes from elsewhere.
    pub fn done(&mut self, deed: &Deed, is_done: bool, now: Duration) {
        self.busy.remove(deed.name());
        if !is_done {
            self.retry = Some(now + RETRY);
            return;
        }
        match deed {
            Deed::RemoveNode { name, .. } => self.node(name, None),
            Deed::Release { name, .. } => drop(self.going.remove(name)),
        }
    }

    /// When to ask again, unless something comes in.
    #[must_use]
    pub fn deadline(&self) -> Option<Duration> {
        let waiting = self.going.values().filter(|going| going.ended.is_none());
        let silent = waiting.flat_map(|going| {
            let is_silent = |node: &str| {
                let config = self.configs.get(node);
                config.is_some_and(|config| !config.is_applied)
            };
            let since = going.bare.iter().filter(move |(node, _)| is_silent(node));
            since.map(|(_, since)| *since + SILENCE)
        });
        silent.chain(self.retry).min()
    }

    /// What every Cluster that leaves says about that.
    pub fn conditions(&self) -> impl Iterator<Item = (&str, Condition)> {
        self.going.iter().map(|(name, going)| {
            let condition = match &going.ended {
                None => Condition::bad(
                    REMOVED,
                    "Waiting",
                    "the agents of its nodes are removing their rows",
                ),
                Some((silent, _)) if silent.is_empty() => Condition::good(REMOVED, "Removed"),
                Some((silent, count)) => {
                    let mut names = silent[..silent.len().min(NAMED)].join(", ");
                    if silent.len() > NAMED {
                        names += &format!(" and {} more", silent.len() - NAMED);
                    }
                    let message = format!(
                        "{} of {count} nodes did not confirm within {} s that their rows are gone: {names}",
                        silent.len(),
                        SILENCE.as_secs()
                    );
                    Condition::bad(REMOVED, "NotConfirmed", &message)
                }
            };
            (name.as_str(), condition)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn cluster(finalizers: &[&str], is_deleted: bool) -> Value {
        let mut object = json!({"metadata": {"name": "a", "resourceVersion": "7", "finalizers": finalizers},
            "spec": {"clusterLinkOptions": {}}});
        if is_deleted {
            object["metadata"]["deletionTimestamp"] = json!("2027-01-01T00:00:00Z");
        }
        object
    }

    fn node(cluster: &str) -> Value {
        json!({"metadata": {"uid": "u"}, "spec": {"clusterName": cluster}})
    }

    fn config(is_bare: bool, generation: i64, observed: i64, status: &str) -> Value {
        let spec = if is_bare {
            json!({"routes": null, "fdbs": []})
        } else {
            json!({"routes": [{}]})
        };
        json!({"metadata": {"uid": "c", "generation": generation}, "spec": spec,
            "status": {"observedGeneration": observed, "conditions": [{"type": "Applied", "status": status}]}})
    }

    fn said(leaving: &Leaving) -> Vec<(String, bool, String)> {
        let all = leaving.conditions();
        all.map(|(name, one)| (name.to_owned(), one.is_true, one.reason))
            .collect()
    }

    /// A cluster of two nodes and one of one node.
    fn fleet() -> Leaving {
        let mut leaving = Leaving::default();
        for (name, of) in [("a-n1", "a"), ("a-n2", "a"), ("b-n1", "b")] {
            leaving.node(name, Some(&node(of)));
            assert!(leaving.config(name, Some(&config(false, 3, 3, "True"))));
        }
        leaving
    }

    #[test]
    fn a_cluster_goes_once_its_nodes_are_bare() {
        let mut leaving = fleet();
        leaving.cluster("b", Some(&cluster(&[ROWS_FINALIZER], false)));
        leaving.cluster("a", Some(&cluster(&["kosmos.io/other"], true)));
        assert!(leaving.step(seconds(0)).is_empty() && said(&leaving).is_empty());
        leaving.cluster(
            "a",
            Some(&cluster(&["kosmos.io/other", ROWS_FINALIZER], true)),
        );
        let bare = |name: &str| (name.to_owned(), Some(Order::Bare));
        assert_eq!(leaving.step(seconds(1)), [bare("a-n1"), bare("a-n2")]);
        assert_eq!(said(&leaving), [("a".into(), false, "Waiting".into())]);
        // An agent that speaks of the former state has not confirmed this one.
        leaving.config("a-n1", Some(&config(true, 4, 3, "True")));
        leaving.config("a-n2", Some(&config(true, 4, 4, "True")));
        assert!(leaving.step(seconds(2)).is_empty());
        assert_eq!(leaving.deadline(), Some(seconds(62)));
        assert_eq!(leaving.next(seconds(2), |_| true), None);
        assert!(
            !leaving.config("a-n1", Some(&config(true, 4, 4, "True"))),
            "the spec is the same"
        );
        let gone = |name: &str| (name.to_owned(), Some(Order::Gone));
        assert_eq!(leaving.step(seconds(3)), [gone("a-n1"), gone("a-n2")]);
        assert_eq!(said(&leaving), [("a".into(), true, "Removed".into())]);
        assert_eq!(leaving.deadline(), None);
        // A ClusterNode goes after its NodeConfig.
        assert_eq!(leaving.next(seconds(3), |_| true), None);
        leaving.config("a-n2", None);
        let deed = leaving.next(seconds(3), |_| true).expect("a ClusterNode");
        assert_eq!(
            deed,
            Deed::RemoveNode {
                name: "a-n2".into(),
                uid: "u".into()
            }
        );
        assert_eq!(leaving.next(seconds(3), |_| true), None);
        leaving.done(&deed, false, seconds(3));
        assert_eq!(
            (leaving.next(seconds(4), |_| true), leaving.deadline()),
            (None, Some(seconds(5)))
        );
        let deed = leaving.next(seconds(5), |_| true).expect("another attempt");
        leaving.done(&deed, true, seconds(5));
        assert_eq!(leaving.step(seconds(5)), [("a-n2".to_owned(), None)]);
        leaving.config("a-n1", None);
        let deed = leaving
            .next(seconds(6), |_| true)
            .expect("the last ClusterNode");
        leaving.node("a-n1", None);
        leaving.done(&deed, true, seconds(6));
        // The finalizer goes last, with those of others left, and after everybody could hear why.
        assert_eq!(leaving.next(seconds(6), |_| false), None);
        let deed = leaving.next(seconds(6), |_| true).expect("the finalizer");
        let patch =
            json!({"metadata": {"resourceVersion": "7", "finalizers": ["kosmos.io/other"]}});
        assert_eq!(
            deed,
            Deed::Release {
                name: "a".into(),
                patch
            }
        );
        leaving.done(&deed, true, seconds(6));
        assert_eq!(leaving.next(seconds(6), |_| true), None);
        assert!(said(&leaving).is_empty());
    }

    #[test]
    fn nobody_waits_for_the_dead_for_longer_than_a_minute() {
        let mut leaving = fleet();
        leaving.cluster("a", Some(&cluster(&[ROWS_FINALIZER], true)));
        leaving.step(seconds(0));
        leaving.config("a-n1", Some(&config(true, 4, 4, "True")));
        // Alive, and refusing.
        leaving.config("a-n2", Some(&config(true, 4, 4, "False")));
        leaving.step(seconds(10));
        assert_eq!(leaving.deadline(), Some(seconds(70)));
        leaving.step(seconds(69));
        assert_eq!(said(&leaving)[0].2, "Waiting");
        leaving.step(seconds(70));
        let (_, condition) = leaving.conditions().next().expect("a condition");
        assert_eq!(
            (condition.is_true, condition.reason.as_str()),
            (false, "NotConfirmed")
        );
        assert!(
            condition.message.starts_with("1 of 2 nodes") && condition.message.ends_with(": a-n2"),
            "{}",
            condition.message
        );
    }

    #[test]
    fn one_that_changes_its_mind_is_planned_again() {
        let mut leaving = fleet();
        let mut off = cluster(&[ROWS_FINALIZER], false);
        off["spec"]["clusterLinkOptions"]["enable"] = json!(false);
        leaving.cluster("a", Some(&off));
        assert_eq!(leaving.step(seconds(0)).len(), 2);
        leaving.cluster("a", Some(&cluster(&[ROWS_FINALIZER], false)));
        assert_eq!(
            leaving.step(seconds(1)),
            [("a-n1".to_owned(), None), ("a-n2".to_owned(), None)]
        );
    }

    #[test]
    fn switched_off_is_something_else_than_unreadable() {
        for (spec, is_so) in [
            (json!({"clusterLinkOptions": {"enable": true}}), false),
            (json!({"clusterLinkOptions": {}}), false),
            (json!({"clusterLinkOptions": {"enable": false}}), true),
            (json!({"clusterLinkOptions": null}), true),
            (json!({}), true),
            (Value::Null, false),
            (json!(7), false),
        ] {
            assert_eq!(
                leaves(&json!({"metadata": {}, "spec": spec})),
                is_so,
                "{spec}"
            );
        }
        assert!(!leaves(&json!({"metadata": {}})));
    }
}
