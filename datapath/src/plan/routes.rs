//! Which prefix is reached through whom.

use ipnet::IpNet;

use super::members::{Class, Member, MemberCluster, Members};
use super::overlay;
use crate::api::Route;
use crate::state::Family;

/// A prefix that a node offers to other clusters.
pub(super) struct Export {
    /// The place of the cluster that offers it.
    cluster: usize,
    /// The prefix as it is written, in its global form.
    text: String,
    net: IpNet,
    family: Family,
    /// The overlay address of the offering node.
    next_hop: String,
}

/// Every export of the fleet, services first. A prefix that cannot be read is objected to in `claims`, and offered by nobody.
pub(super) fn exports(members: &Members<'_>) -> Vec<Export> {
    let mut exports = Vec::new();
    for cluster in &members.clusters {
        if let Some(gateway) = cluster.gateway {
            let gateway = &members.nodes[gateway];
            offer(cluster, gateway, cluster.service_cidrs, &mut exports);
        }
        for place in &cluster.nodes {
            let node = &members.nodes[*place];
            if !node.is_in_mesh() {
                continue;
            }
            let cidrs = if cluster.is_p2p() {
                &node.spec.pod_cidrs
            } else {
                cluster.pod_cidrs
            };
            offer(cluster, node, cidrs, &mut exports);
        }
    }
    exports
}

fn offer(
    cluster: &MemberCluster<'_>,
    node: &Member<'_>,
    cidrs: &[String],
    exports: &mut Vec<Export>,
) {
    for cidr in cidrs {
        if overlay::family_of_text(cidr).is_some_and(|family| !cluster.families.has(family)) {
            continue;
        }
        let text = cluster.global_name(cidr);
        let Ok(net) = text.parse::<IpNet>() else {
            continue;
        };
        let family = Family::of(net.addr());
        let Some(tunnel) = node.bridge.get(family) else {
            continue;
        };
        exports.push(Export {
            cluster: cluster.index,
            text: text.to_owned(),
            net: net.trunc(),
            family,
            next_hop: tunnel.ip().to_string(),
        });
    }
}

/// The routes of one cluster's nodes. All internal nodes have the same, and so have all others.
pub(super) struct Reachable {
    bridge: Vec<Route>,
    local: Vec<Route>,
}

impl Reachable {
    pub(super) fn rows_of(&self, node: &Member<'_>) -> Vec<Route> {
        match node.class {
            Class::Endpoint | Class::Gateway => self.bridge.clone(),
            Class::Internal => self.local.clone(),
        }
    }
}

/// What the nodes of `cluster` reach: the exports of all others, in the families that it has, that do not touch its own prefixes.
pub(super) fn reachable(
    cluster: &MemberCluster<'_>,
    members: &Members<'_>,
    exports: &[Export],
) -> Reachable {
    // An unreadable prefix of its own shadows nothing.
    let own = Prefixes::of(
        cluster
            .pod_cidrs
            .iter()
            .chain(cluster.service_cidrs)
            .filter_map(|cidr| cidr.parse().ok()),
    );
    let reached = || {
        exports.iter().filter(|export| {
            export.cluster != cluster.index
                && cluster.families.has(export.family)
                && !own.touches(export.net)
        })
    };
    let bridge = reached()
        .map(|export| Route {
            cidr: export.text.clone(),
            gw: export.next_hop.clone(),
            dev: overlay::Kind::bridge(export.family).name.to_owned(),
        })
        .collect();
    let gateway = cluster
        .gateway
        .filter(|_| !cluster.is_p2p())
        .map(|place| &members.nodes[place]);
    let local = gateway.map_or_else(Vec::new, |gateway| {
        let through = |export: &Export| {
            let tunnel = gateway.local.get(export.family).as_ref()?;
            Some(Route {
                cidr: export.text.clone(),
                gw: tunnel.ip().to_string(),
                dev: tunnel.kind.name.to_owned(),
            })
        };
        reached().filter_map(through).collect()
    });
    Reachable { bridge, local }
}

/// Disjoint prefixes in order, for a logarithmic overlap test.
struct Prefixes(Vec<IpNet>);

impl Prefixes {
    fn of(nets: impl Iterator<Item = IpNet>) -> Self {
        let nets: Vec<IpNet> = nets.map(|net| net.trunc()).collect();
        // Sorted, and without those that another one contains.
        Self(IpNet::aggregate(&nets))
    }

    fn touches(&self, net: IpNet) -> bool {
        // Of disjoint prefixes in order, the only candidates are the last that starts at or before `net` and the first after it.
        let after = self.0.partition_point(|own| start(own) <= start(&net));
        let touching = |own: &IpNet| own.contains(&net) || net.contains(own);
        self.0[..after].last().is_some_and(touching) || self.0.get(after).is_some_and(touching)
    }
}

fn start(net: &IpNet) -> (bool, std::net::IpAddr) {
    (net.addr().is_ipv6(), net.network())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlap_is_found_in_both_directions_and_families_are_apart() {
        let set = Prefixes::of(
            [
                "10.20.0.0/16",
                "10.244.1.0/24",
                "fd10::/48",
                "10.244.0.0/16",
                "192.168.7.9/24",
            ]
            .into_iter()
            .filter_map(|net| net.parse().ok()),
        );
        for (net, expected) in [
            ("10.20.3.0/24", true),
            ("10.0.0.0/8", true),
            ("10.21.0.0/16", false),
            ("10.244.1.128/25", true),
            ("fd10:0:0:7::/64", true),
            ("fd11::/48", false),
            ("::/0", true),
            ("0.0.0.0/0", true),
            ("192.168.7.0/30", true),
            ("192.168.8.0/24", false),
        ] {
            assert_eq!(set.touches(net.parse().expect(net)), expected, "{net}");
        }
    }
}
