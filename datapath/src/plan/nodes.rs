//! Which ClusterNodes take part, and what the others lack.

use std::net::IpAddr;

use super::family::{FAMILIES, PerFamily, address_field, title};
use super::members::{MemberCluster, Named};
use super::objection::{Field, Object, Objection};
use super::overlay;
use crate::api::ClusterNodeSpec;
use crate::code::Code;
use crate::state::Family;

/// What the ClusterNodes of one cluster say together.
#[derive(Clone, Default)]
struct Census<'a> {
    nodes: usize,
    /// How many of them have an address.
    addressed: PerFamily<usize>,
    has_gateway: bool,
    first: Option<(&'a str, &'a ClusterNodeSpec)>,
}

/// Those of the ClusterNodes of one cluster that take part.
pub(super) fn taking_part<'p>(
    cluster: &MemberCluster,
    named: &[Named<'p>],
    objections: &mut Vec<Objection>,
) -> Vec<Named<'p>> {
    let mut census = Census::default();
    for (name, spec) in named {
        census.count(name, spec);
    }
    objections.extend(family_of_nobody(cluster, &census));
    objections.extend(no_gateway(cluster, &census));
    named
        .iter()
        .filter(|(name, spec)| !lacks(name, spec, cluster, &census, objections))
        .copied()
        .collect()
}

impl<'a> Census<'a> {
    fn count(&mut self, name: &'a str, spec: &'a ClusterNodeSpec) {
        self.first.get_or_insert((name, spec));
        self.nodes += 1;
        self.has_gateway |= spec.is_gateway();
        for family in FAMILIES {
            *self.addressed.get_mut(family) += usize::from(!spec.address(family).is_empty());
        }
    }

    /// Whether all nodes lack the family and at least one has the other: then the cluster asks for too much.
    fn lacks(&self, family: Family) -> bool {
        let have = |family: Family| *self.addressed.get(family);
        have(family) == 0 && FAMILIES.into_iter().any(|other| have(other) > 0)
    }
}

fn family_of_nobody(cluster: &MemberCluster, census: &Census<'_>) -> Vec<Objection> {
    cluster
        .families
        .iter()
        .filter(|family| census.lacks(*family))
        .map(|family| {
            let objection = Objection::new(
                Code::FamilyMissing,
                Field::new(
                    Object::cluster(&cluster.name),
                    "spec.clusterLinkOptions.ipFamily",
                ),
                format!(
                    "is `{}`, and none of the {} ClusterNodes of the cluster has an {} address",
                    cluster.options.ip_family,
                    census.nodes,
                    title(family),
                ),
            )
            .leaving_out("every node of the cluster");
            match census.first {
                Some((name, spec)) => objection.against(Field::new(
                    Object::cluster_node(name, spec),
                    &format!("spec.{}", address_field(family)),
                )),
                None => objection,
            }
        })
        .collect()
}

/// A cluster in gateway mode without gateway reaches nobody and is reached by nobody. In P2P mode the services are behind the
/// gateway, and nothing else.
fn no_gateway(cluster: &MemberCluster, census: &Census<'_>) -> Option<Objection> {
    if census.has_gateway {
        return None;
    }
    let linked = |cidr: &String| {
        overlay::family_of_text(cidr).is_some_and(|family| cluster.families.has(family))
    };
    let rule = if !cluster.is_p2p() {
        if census.nodes == 0 {
            "is in gateway mode and has no ClusterNode that could be elected"
        } else {
            "is in gateway mode, and none of its ClusterNodes has the gateway role"
        }
    } else if census.nodes > 0 && cluster.object.service_cidrs.iter().any(linked) {
        "has services, and none of its ClusterNodes has the gateway role"
    } else {
        return None;
    };
    let at = Field::new(
        Object::cluster(&cluster.name),
        "spec.clusterLinkOptions.networkType",
    );
    let objection = Objection::new(Code::GatewayNotElected, at, rule);
    Some(if cluster.is_p2p() {
        objection.leaving_out("routes to its services")
    } else {
        objection.leaving_out("routes to and from the cluster")
    })
}

/// Objects to a ClusterNode whose cluster is not known. One that is known and takes no part takes its nodes with it; that is no mistake.
pub(super) fn orphan(name: &str, spec: &ClusterNodeSpec) -> Objection {
    let at = Field::new(Object::cluster_node(name, spec), "spec.clusterName");
    let objection = if spec.cluster_name.is_empty() {
        Objection::new(Code::ClusternodeIncomplete, at, "is empty")
    } else {
        let rule = format!("there is no cluster `{}`", spec.cluster_name);
        Objection::new(Code::IntentStale, at, rule).warning()
    };
    objection.leaving_out("the node")
}

/// Objects to what a ClusterNode lacks; true where it cannot take part because of that.
fn lacks(
    name: &str,
    spec: &ClusterNodeSpec,
    cluster: &MemberCluster,
    census: &Census<'_>,
    objections: &mut Vec<Objection>,
) -> bool {
    let at = |path: &str| Field::new(Object::cluster_node(name, spec), path);
    let mut is_left_out = false;
    let incomplete =
        |path: &str, rule: &str| Objection::new(Code::ClusternodeIncomplete, at(path), rule);
    match spec.interface_name.as_str() {
        "" => {
            is_left_out = true;
            let rule = "the underlay link is not known";
            objections.push(incomplete("spec.interfaceName", rule).leaving_out("the node"));
        }
        "*" => objections.push(incomplete(
            "spec.interfaceName",
            "is `*`: the underlay link has not been detected",
        )),
        _ => {}
    }
    let has_any = FAMILIES
        .into_iter()
        .any(|family| !spec.address(family).is_empty());
    let mut said = false;
    for family in cluster.families.iter() {
        let path = format!("spec.{}", address_field(family));
        let text = spec.address(family);
        if text.is_empty() {
            is_left_out = true;
            if !has_any && !said {
                said = true;
                let rule = "the node has no underlay address";
                objections.push(incomplete(&path, rule).leaving_out("the node"));
            } else if has_any && !census.lacks(family) {
                let options = Field::new(
                    Object::cluster(&cluster.name),
                    "spec.clusterLinkOptions.ipFamily",
                );
                let rule = format!(
                    "the cluster links {} (ipFamily `{}`), and the node has no address of that family",
                    title(family),
                    cluster.options.ip_family
                );
                objections.push(
                    Objection::new(Code::FamilyMissing, at(&path), rule)
                        .against(options)
                        .leaving_out("the node"),
                );
            }
        } else if let Some(rule) = unusable(text, family) {
            let objection = incomplete(&path, &rule);
            let is_planned = text
                .parse::<IpAddr>()
                .is_ok_and(|ip| Family::of(ip) == family);
            objections.push(if is_planned {
                objection
            } else {
                objection.leaving_out(format!("{} tunnels of the node", title(family)))
            });
        }
    }
    if cluster.is_p2p() {
        let linked = |cidr: &String| {
            overlay::family_of_text(cidr).is_none_or(|family| cluster.families.has(family))
        };
        if !cluster.families.is_empty() && !spec.pod_cidrs.iter().any(linked) {
            objections.push(incomplete(
                "spec.podCIDRs",
                "the cluster is in P2P mode, and the node has no pod prefix of a family that it links: nobody reaches its pods",
            ));
        }
    }
    is_left_out
}

/// Why no tunnel can end at an address.
fn unusable(text: &str, family: Family) -> Option<String> {
    let Ok(ip) = text.parse::<IpAddr>() else {
        return Some(format!("`{text}` is not an IP address"));
    };
    if Family::of(ip) != family {
        return Some(format!("{ip} is not an {} address", title(family)));
    }
    let kind = match ip {
        _ if ip.is_unspecified() => "the unspecified address",
        _ if ip.is_loopback() => "a loopback address",
        _ if ip.is_multicast() => "a multicast address",
        IpAddr::V4(ip) if ip.is_link_local() => "a link-local address",
        IpAddr::V4(ip) if ip.is_broadcast() => "the broadcast address",
        IpAddr::V6(ip) if ip.is_unicast_link_local() => "a link-local address",
        IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some() => "an IPv4 address written as IPv6",
        _ => return None,
    };
    Some(format!("{ip} is {kind}, at which no tunnel can end"))
}
