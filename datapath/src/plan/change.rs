//! One object more, less or otherwise, and what follows from it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::members::{ClusterObject, Member, MemberCluster};
use super::{Bundle, Known, Lent, Object, Planner, name_of};
use crate::api::{Cluster, ClusterNode, NodeConfig};
use crate::element::ElementKind;

/// A change of one object of a fleet. Names are those of the objects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A ClusterNode is not there any more.
    ClusterNodeRemoved(String),
    /// A ClusterNode is this.
    ClusterNodeSet(ClusterNode),
    /// A Cluster is not there any more.
    ClusterRemoved(String),
    /// A Cluster is this. One without a name is none.
    ClusterSet(Cluster),
    /// A NodeConfig lends its MACs no more.
    NodeConfigRemoved(String),
    /// A NodeConfig lends these MACs.
    NodeConfigSet(NodeConfig),
}

/// What a change changes.
///
/// The rows of a node that is not in `nodes` change by the difference of each bundle before and after, as its
/// [`View`](super::View) has it, and that is the same for all nodes whose views differ by cluster, node and shadowed prefixes alone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Applied {
    /// The nodes whose devices, own rows or view changed, that are new or that are gone: each is planned anew.
    pub nodes: BTreeSet<Arc<str>>,
    /// The bundles that changed, at most two.
    pub bundles: Vec<Replaced>,
}

/// A bundle before and after a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replaced {
    /// The cluster whose bundle it is.
    pub cluster: Arc<str>,
    /// None where the cluster took no part.
    pub before: Option<Arc<Bundle>>,
    /// None where it takes no part any more.
    pub after: Option<Arc<Bundle>>,
    /// Whether two rows of these, or one of these and one of another bundle, have or had one key. That is a mistake in the fleet, by
    /// which the row that a node holds under the key depends on both: then compare [`Planner::rows`] before and after.
    pub is_contested: bool,
}

impl Applied {
    /// Whether nobody's rows changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty() && self.bundles.is_empty()
    }
}

impl Planner {
    /// Takes a change in; O(the cluster + log N) for N clusters.
    pub fn apply(&mut self, change: Change) -> Applied {
        let mut applied = Applied::default();
        match change {
            Change::ClusterNodeRemoved(name) => self.set_node(&name.into(), None, &mut applied),
            Change::ClusterNodeSet(node) => {
                self.set_node(&name_of(&node), Some(node), &mut applied);
            }
            Change::ClusterRemoved(name) => self.set_cluster(&name.into(), None, &mut applied),
            Change::ClusterSet(cluster) => {
                let name = cluster.metadata.name.as_str().into();
                self.set_cluster(&name, Some(ClusterObject::of(&cluster)), &mut applied);
            }
            Change::NodeConfigRemoved(name) => self.lend(&name, None, &mut applied),
            Change::NodeConfigSet(config) => {
                self.lend(&config.metadata.name, Some(Lent::of(&config)), &mut applied);
            }
        }
        applied
    }

    fn set_cluster(
        &mut self,
        name: &Arc<str>,
        object: Option<ClusterObject>,
        applied: &mut Applied,
    ) {
        self.forget_repeated(ElementKind::Cluster, name);
        let known = self.clusters.get(name);
        match object.filter(|_| !name.is_empty()) {
            None => {
                let former = self.clusters.remove(name).and_then(|known| known.member);
                self.replace(name, former, None, applied);
            }
            Some(object) if known.is_some_and(|known| *known.object == object) => {}
            Some(object) => {
                let object = Arc::new(object);
                let member = known.and_then(|known| known.member.clone());
                self.clusters.insert(name.clone(), Known { object, member });
                self.read_again(name, applied);
            }
        }
    }

    /// Of an object that is set there is one.
    fn forget_repeated(&mut self, kind: ElementKind, name: &str) {
        let is_it = |object: &Object| object.kind == kind && *object.name == *name;
        self.repeated
            .retain(|objection| !is_it(&objection.at.object));
    }

    fn set_node(&mut self, name: &Arc<str>, node: Option<ClusterNode>, applied: &mut Applied) {
        self.forget_repeated(ElementKind::ClusterNode, name);
        let former = self.specs.get(name).cloned();
        if former.as_deref() == node.as_ref().map(|node| &node.spec) {
            return;
        }
        let mut clusters: BTreeSet<Arc<str>> = BTreeSet::new();
        if let Some(former) = former {
            let cluster: Arc<str> = former.cluster_name.as_str().into();
            if let Some(nodes) = self.named.get_mut(&cluster) {
                nodes.remove(name);
                if nodes.is_empty() {
                    self.named.remove(&cluster);
                }
            }
            clusters.insert(cluster);
        }
        match node {
            None => drop(self.specs.remove(name)),
            Some(node) => {
                clusters.insert(node.spec.cluster_name.as_str().into());
                self.name_cluster(name, &node.spec.cluster_name);
                self.specs.insert(name.clone(), Arc::new(node.spec));
            }
        }
        for cluster in clusters {
            self.read_again(&cluster, applied);
        }
    }

    fn lend(&mut self, name: &str, lent: Option<Lent>, applied: &mut Applied) {
        let former = match lent {
            Some(lent) => self.lent.insert(name.into(), lent),
            None => self.lent.remove(name),
        };
        let macs = |lent: Option<&Lent>| lent.map(|lent| lent.macs.clone()).unwrap_or_default();
        if macs(former.as_ref()) == macs(self.lent.get(name)) {
            return;
        }
        if let Some(spec) = self.specs.get(name) {
            let cluster: Arc<str> = spec.cluster_name.as_str().into();
            self.read_again(&cluster, applied);
        }
    }

    /// Reads a cluster and its nodes again, if it is known.
    fn read_again(&mut self, name: &Arc<str>, applied: &mut Applied) {
        let Some(known) = self.clusters.get(name) else {
            return;
        };
        let member = self.member_of(name, &known.object);
        let known = self.clusters.get_mut(name);
        let former = known.and_then(|known| std::mem::replace(&mut known.member, member.clone()));
        self.replace(name, former, member, applied);
    }

    fn replace(
        &mut self,
        name: &Arc<str>,
        former: Option<Arc<MemberCluster>>,
        member: Option<Arc<MemberCluster>>,
        applied: &mut Applied,
    ) {
        applied
            .nodes
            .extend(changed(former.as_deref(), member.as_deref()));
        let bundle_of = |member: &Option<Arc<MemberCluster>>| {
            let member = member.as_ref()?;
            Some(member.bundle.clone())
        };
        let (before, after) = (bundle_of(&former), bundle_of(&member));
        let bundles = || before.iter().chain(&after);
        let mut is_contested = bundles().any(|bundle| self.slots.is_contested(bundle));
        if let Some(former) = &former {
            self.displace(former);
        }
        if let Some(member) = &member {
            self.place(member);
        }
        if before != after {
            is_contested |= bundles().any(|bundle| self.slots.is_contested(bundle));
            applied.bundles.push(Replaced {
                cluster: name.clone(),
                before,
                after,
                is_contested,
            });
        }
    }
}

/// The nodes of a cluster that hold other rows of their own than before, or see others of the bundles.
fn changed(before: Option<&MemberCluster>, after: Option<&MemberCluster>) -> Vec<Arc<str>> {
    let members = |cluster: Option<&'_ MemberCluster>| -> BTreeMap<Arc<str>, Member> {
        let nodes = cluster.into_iter().flat_map(|cluster| &cluster.nodes);
        nodes
            .map(|node| (node.name.clone(), node.clone()))
            .collect()
    };
    let (old, new) = (members(before), members(after));
    let names: BTreeSet<&Arc<str>> = old.keys().chain(new.keys()).collect();
    let is_same = |name: &Arc<str>| {
        let (Some(before), Some(after)) = (before, after) else {
            return false;
        };
        let (Some(old), Some(new)) = (old.get(name), new.get(name)) else {
            return false;
        };
        let has_same_view = before.families == after.families && before.shadow == after.shadow;
        let has_same_nat = before.translations == after.translations;
        // Who stands in for whom is in every node's NodeConfig.
        let central = |cluster: &MemberCluster| -> Vec<Arc<str>> {
            let nodes = cluster.gateways().chain(cluster.standby());
            nodes.map(|node| node.name.clone()).collect()
        };
        let has_same_standby = central(before) == central(after);
        let is_alike = (old.class, &old.local, &old.bridge, &old.spec.interface_name)
            == (new.class, &new.local, &new.bridge, &new.spec.interface_name);
        has_same_view
            && has_same_nat
            && has_same_standby
            && is_alike
            && before
                .local_peers(old)
                .map(|peer| &peer.local)
                .eq(after.local_peers(new).map(|peer| &peer.local))
    };
    names
        .into_iter()
        .filter(|name| !is_same(name))
        .cloned()
        .collect()
}
