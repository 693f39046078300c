//! Which cluster calls which prefix its own, inside and outside.

use ipnet::IpNet;

use super::members::{MemberCluster, Members};
use super::nat::{map_field, pair};
use super::objection::{Field, Object, Objection};
use super::overlay;
use crate::code::Code;
use crate::state::Family;

/// A prefix of a cluster.
pub(super) struct Claim<'a> {
    /// The place of the cluster in [`Members::clusters`].
    pub(super) cluster: usize,
    pub(super) net: IpNet,
    pub(super) source: Source<'a>,
    pub(super) scope: Scope,
    /// Whether other clusters get routes to it.
    pub(super) is_exported: bool,
    /// Whether the cluster's own nodes take no route that meets it.
    pub(super) is_shadow: bool,
}

/// Where a prefix stands.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Source<'a> {
    /// In `globalCIDRsMap`, as the name of this key.
    Global(&'a str),
    /// In the `podCIDRs` of a ClusterNode of a P2P cluster: the node's place in its cluster and the prefix's in the list.
    NodePods(usize, usize),
    /// In the Cluster's `podCIDRs`.
    Pods(usize),
    /// In the Cluster's `serviceCIDRs`.
    Services(usize),
}

/// Who sees a prefix under the name that it has.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Scope {
    /// The cluster's own nodes alone.
    Inside,
    /// Other clusters too.
    Outside,
}

/// Every readable prefix of every family that its cluster links, by cluster; those that cannot be read are objected to.
pub(super) fn of<'a>(members: &Members<'a>, objections: &mut Vec<Objection>) -> Vec<Claim<'a>> {
    let mut claims = Vec::new();
    for (place, cluster) in members.clusters.iter().enumerate() {
        let mut reader = Reader {
            place,
            cluster,
            claims: &mut claims,
            objections,
        };
        reader.read();
    }
    claims
}

struct Reader<'s, 'a> {
    /// The place of the cluster in [`Members::clusters`].
    place: usize,
    cluster: &'a MemberCluster,
    claims: &'s mut Vec<Claim<'a>>,
    objections: &'s mut Vec<Objection>,
}

impl<'a> Reader<'_, 'a> {
    fn read(&mut self) {
        let is_p2p = self.cluster.is_p2p();
        let has_gateway = self.cluster.gateway().is_some();
        let mut exported: Vec<&str> = Vec::new();
        if is_p2p {
            for (place, node) in self.cluster.nodes.iter().enumerate() {
                for (at, cidr) in node.spec.pod_cidrs.iter().enumerate() {
                    exported.push(cidr);
                    self.add(cidr, Source::NodePods(place, at), true, false);
                }
            }
        }
        let is_exported = !is_p2p && has_gateway;
        for (at, cidr) in self.cluster.object.pod_cidrs.iter().enumerate() {
            if is_exported {
                exported.push(cidr);
            }
            self.add(cidr, Source::Pods(at), is_exported, true);
        }
        for (at, cidr) in self.cluster.object.service_cidrs.iter().enumerate() {
            if has_gateway {
                exported.push(cidr);
            }
            self.add(cidr, Source::Services(at), has_gateway, true);
        }
        exported.sort_unstable();
        for (key, name) in &self.cluster.options.global_cidrs_map {
            // A pair that cannot be translated is objected to with the translations.
            let Ok((_, net)) = pair(key, name) else {
                continue;
            };
            if self.cluster.families.has(Family::of(net.addr())) {
                self.claims.push(Claim {
                    cluster: self.place,
                    net: net.trunc(),
                    source: Source::Global(key),
                    scope: Scope::Outside,
                    is_exported: exported.binary_search(&key.as_str()).is_ok(),
                    is_shadow: false,
                });
            }
        }
        if !is_p2p && !self.cluster.families.is_empty() && !self.has_pods() {
            let at = Source::Pods(0).field(self.cluster, false);
            let rule =
                "the cluster has no pod prefix of a family that it links: nobody reaches its pods";
            self.objections
                .push(Objection::new(Code::ObjectInvalid, at, rule));
        }
    }

    fn has_pods(&self) -> bool {
        self.cluster.object.pod_cidrs.iter().any(|cidr| {
            overlay::family_of_text(cidr).is_none_or(|family| self.cluster.families.has(family))
        })
    }

    fn add(&mut self, cidr: &str, source: Source<'a>, is_exported: bool, is_shadow: bool) {
        let cluster = self.cluster;
        if overlay::family_of_text(cidr).is_some_and(|family| !cluster.families.has(family)) {
            return;
        }
        let Ok(net) = cidr.parse::<IpNet>() else {
            let code = match source {
                Source::NodePods(..) => Code::ClusternodeIncomplete,
                _ => Code::ObjectInvalid,
            };
            let at = source.field(cluster, true);
            let rule = format!("`{cidr}` is not a prefix");
            self.objections
                .push(Objection::new(code, at, rule).leaving_out("routes to it"));
            return;
        };
        let is_mapped = cluster.options.global_cidrs_map.contains_key(cidr);
        let is_outside = !(is_mapped || cluster.is_p2p() && matches!(source, Source::Pods(_)));
        self.claims.push(Claim {
            cluster: self.place,
            net: net.trunc(),
            source,
            scope: if is_outside {
                Scope::Outside
            } else {
                Scope::Inside
            },
            is_exported: is_exported && !is_mapped,
            is_shadow,
        });
    }
}

impl Source<'_> {
    /// The field; the list as a whole unless `one` of it is meant.
    fn field(self, cluster: &MemberCluster, one: bool) -> Field {
        let (object, list, at) = match self {
            Source::Global(key) => return map_field(cluster, key),
            Source::NodePods(node, at) => {
                let node = &cluster.nodes[node];
                let object = Object::cluster_node(&node.name, &node.spec);
                (object, "spec.podCIDRs", at)
            }
            Source::Pods(at) => (
                Object::cluster(&cluster.name),
                "status.clusterLinkStatus.podCIDRs",
                at,
            ),
            Source::Services(at) => (
                Object::cluster(&cluster.name),
                "status.clusterLinkStatus.serviceCIDRs",
                at,
            ),
        };
        if one {
            Field::new(object, &format!("{list}[{at}]"))
        } else {
            Field::new(object, list)
        }
    }
}

impl Claim<'_> {
    pub(super) fn field(&self, members: &Members<'_>) -> Field {
        self.source.field(members.clusters[self.cluster], true)
    }
}
