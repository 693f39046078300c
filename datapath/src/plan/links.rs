//! Links that ClusterNodes name against links that nodes have.

use std::collections::{BTreeMap, BTreeSet};

use super::objection::{Field, Object, Objection};
use crate::api::Fleet;
use crate::code::Code;

/// The names of all links of a node, by its ClusterNode's name. A node whose links nobody has seen is not in it.
pub type Observed = BTreeMap<String, BTreeSet<String>>;

/// Objects to every ClusterNode of a cluster that takes part whose `interfaceName` is no link of its node, sorted by name. A node
/// that is not in `observed` is not judged.
#[must_use]
pub fn check(fleet: &Fleet, observed: &Observed) -> Vec<Objection> {
    let taking_part: BTreeSet<&str> = fleet
        .clusters
        .iter()
        .filter(|cluster| cluster.part().is_some())
        .map(|cluster| cluster.metadata.name.as_str())
        .collect();
    let mut objections: Vec<Objection> = fleet
        .cluster_nodes
        .iter()
        .filter(|node| taking_part.contains(node.spec.cluster_name.as_str()))
        .filter_map(|node| {
            let (name, spec) = (&node.metadata.name, &node.spec);
            let link = spec.interface_name.as_str();
            let links = observed.get(name)?;
            // What is not a name is objected to without a look at the node.
            if matches!(link, "" | "*") || links.contains(link) {
                return None;
            }
            let at = Field::new(Object::cluster_node(name, spec), "spec.interfaceName");
            let rule = format!("the node has no link `{link}`");
            Some(Objection::new(Code::LinkUnknown, at, rule))
        })
        .collect();
    objections.sort();
    objections
}
