//! What one node makes of a fleet's objects by itself: the rows that a NodeConfig would give it.
//!
//! It holds what the planner holds, which grows with the fleet's nodes and not with their pairs. No clock, no API.

use std::collections::BTreeSet;

use serde_json::Value;

use super::inventory::{Inventory, Kind};
use crate::api::NodeConfigSpec;
use crate::nodeconfig::spec_digest;

/// What is new about a node's rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It is to hold these.
    Rows(NodeConfigSpec),
    /// It has no part in the plan.
    NoPart,
}

/// The plan of one node.
#[derive(Debug)]
pub struct Local {
    node: String,
    inventory: Inventory,
    /// The kinds that are known completely.
    listed: BTreeSet<Kind>,
    /// The digest of the rows that were given out last, where any were.
    said: Option<Option<String>>,
}

impl Local {
    /// Knows of no object; `node` is the ClusterNode's name.
    #[must_use]
    pub fn new(node: &str) -> Self {
        Self {
            node: node.to_owned(),
            inventory: Inventory::default(),
            listed: BTreeSet::new(),
            said: None,
        }
    }

    /// Takes an object in as it is now.
    pub fn set(&mut self, kind: Kind, name: &str, object: &Value) {
        self.inventory.set(kind, name, object);
    }

    /// An object is not there any more.
    pub fn gone(&mut self, kind: Kind, name: &str) {
        self.inventory.remove(kind, name);
    }

    /// All objects of a kind have been told; these are their names.
    pub fn listed(&mut self, kind: Kind, names: &BTreeSet<String>) {
        let names: BTreeSet<&str> = names.iter().map(String::as_str).collect();
        let missing = match kind {
            Kind::Cluster => self.inventory.clusters().missing_in(&names),
            Kind::ClusterNode => self.inventory.nodes().missing_in(&names),
        };
        for name in missing {
            self.inventory.remove(kind, &name);
        }
        self.listed.insert(kind);
    }

    /// What is new about the node's rows; none while not everything is known, or where nobody can say.
    pub fn plan(&mut self) -> Option<Outcome> {
        if self.listed.len() < 2 || self.is_unknown() {
            return None;
        }
        let touched = self.inventory.plan();
        let is_touched = touched.is_all || touched.nodes.contains(self.node.as_str());
        if self.said.is_some() && !is_touched {
            return None;
        }
        let spec = self.inventory.planner().config(&self.node);
        let digest = spec.as_ref().map(spec_digest);
        if self.said.as_ref() == Some(&digest) {
            return None;
        }
        self.said = Some(digest);
        Some(spec.map_or(Outcome::NoPart, Outcome::Rows))
    }

    /// Whether the node's own object or its cluster's was never readable: then nobody knows what is planned.
    fn is_unknown(&self) -> bool {
        let nodes = self.inventory.nodes();
        if nodes.fault(&self.node).is_some_and(|(_, is_kept)| !is_kept) {
            return true;
        }
        let Some(node) = nodes.get(&self.node) else {
            return false;
        };
        let fault = self.inventory.clusters().fault(&node.spec.cluster_name);
        fault.is_some_and(|(_, is_kept)| !is_kept)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn cluster(name: &str) -> Value {
        json!({"metadata": {"name": name}, "spec": {"kubeconfig": "c2VjcmV0", "clusterLinkOptions": {"networkType": "p2p", "ipFamily": "ipv4"}}})
    }

    fn node(cluster: &str, host: u8) -> Value {
        json!({"metadata": {"name": format!("{cluster}-n{host}")}, "spec": {"clusterName": cluster, "nodeName": format!("n{host}"),
            "ip": format!("100.64.{}.{host}", cluster.len()), "interfaceName": "eth0", "podCIDRs": [format!("10.{}.{host}.0/24", cluster.len())]}})
    }

    fn fleet() -> Local {
        let mut local = Local::new("a-n1");
        for (name, host) in [("a", 1), ("bb", 2)] {
            local.set(Kind::Cluster, name, &cluster(name));
            local.set(
                Kind::ClusterNode,
                &format!("{name}-n{host}"),
                &node(name, host),
            );
        }
        local
    }

    fn names(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn routes(outcome: Option<Outcome>) -> Vec<String> {
        match outcome {
            Some(Outcome::Rows(spec)) => spec.routes.into_iter().map(|route| route.cidr).collect(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn nothing_is_said_before_everything_is_known_nor_twice() {
        let mut local = fleet();
        assert_eq!(local.plan(), None);
        local.listed(Kind::Cluster, &names(&["a", "bb"]));
        assert_eq!(local.plan(), None);
        local.listed(Kind::ClusterNode, &names(&["a-n1", "bb-n2"]));
        assert_eq!(routes(local.plan()), ["10.2.2.0/24"]);
        assert_eq!(local.plan(), None);
        local.set(Kind::ClusterNode, "bb-n2", &node("bb", 2));
        assert_eq!(local.plan(), None);
        local.set(Kind::ClusterNode, "bb-n3", &node("bb", 3));
        assert_eq!(routes(local.plan()).len(), 2);
        // A list without somebody is the end of somebody.
        local.listed(Kind::ClusterNode, &names(&["a-n1", "bb-n3"]));
        assert_eq!(routes(local.plan()), ["10.2.3.0/24"]);
        local.gone(Kind::ClusterNode, "a-n1");
        assert_eq!(local.plan(), Some(Outcome::NoPart));
        local.gone(Kind::ClusterNode, "bb-n3");
        assert_eq!(local.plan(), None);
    }

    #[test]
    fn what_never_could_be_read_says_nothing_about_the_node() {
        let mut local = Local::new("a-n1");
        local.set(
            Kind::Cluster,
            "a",
            &json!({"metadata": {"name": "a"}, "spec": 7}),
        );
        local.set(Kind::ClusterNode, "a-n1", &node("a", 1));
        for kind in [Kind::Cluster, Kind::ClusterNode] {
            local.listed(kind, &names(&["a", "a-n1"]));
        }
        assert_eq!(local.plan(), None);
        local.set(Kind::Cluster, "a", &cluster("a"));
        assert!(matches!(local.plan(), Some(Outcome::Rows(_))));
        local.set(
            Kind::Cluster,
            "a",
            &json!({"metadata": {"name": "a"}, "spec": 7}),
        );
        assert_eq!(local.plan(), None, "it counts as before");
    }
}
