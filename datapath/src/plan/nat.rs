//! Address translation: hosts' own traffic, and the global names of prefixes.

use ipnet::IpNet;

use super::members::{Class, Member, MemberCluster};
use super::{Problem, overlay};
use crate::api::Iptables;
use crate::state::Family;

/// The translations of one cluster's nodes.
pub(super) struct Translations {
    /// On the gateway of a gateway-mode cluster.
    host: Vec<Iptables>,
    /// On every node of the vx-bridge mesh.
    global: Vec<Iptables>,
}

impl Translations {
    pub(super) fn rows_of(&self, node: &Member<'_>) -> Vec<Iptables> {
        match node.class {
            Class::Endpoint => self.global.clone(),
            Class::Gateway => self.host.iter().chain(&self.global).cloned().collect(),
            Class::Internal => Vec::new(),
        }
    }
}

pub(super) fn of_cluster(cluster: &MemberCluster<'_>, problems: &mut Vec<Problem>) -> Translations {
    Translations {
        host: if cluster.is_p2p() {
            Vec::new()
        } else {
            host(cluster)
        },
        global: global(cluster, problems),
    }
}

/// A host's packets leave with the address of their tunnel; the gateway renames them on both sides, so that replies return to it.
fn host(cluster: &MemberCluster<'_>) -> Vec<Iptables> {
    let options = cluster.options;
    let mut rows = Vec::new();
    for (family, local, bridge) in [
        (
            Family::Ipv4,
            &options.local_cidrs.ip,
            &options.bridge_cidrs.ip,
        ),
        (
            Family::Ipv6,
            &options.local_cidrs.ip6,
            &options.bridge_cidrs.ip6,
        ),
    ] {
        if !cluster.families.has(family) {
            continue;
        }
        let link = overlay::Kind::bridge(family).name;
        // A bad pool is reported with the addresses that it should have lent.
        if is_prefix(local) {
            rows.push(row(
                "POSTROUTING",
                format!("-s {local} -o {link} -j MASQUERADE"),
            ));
        }
        if is_prefix(bridge) {
            rows.push(row("POSTROUTING", format!("-s {bridge} -j MASQUERADE")));
        }
    }
    rows
}

/// What comes in for the global name of a prefix is renamed one to one; what goes out takes the network's own address.
fn global(cluster: &MemberCluster<'_>, problems: &mut Vec<Problem>) -> Vec<Iptables> {
    let mut rows = Vec::new();
    for (inside, outside) in &cluster.options.global_cidrs_map {
        let (Ok(src), Ok(dst)) = (inside.parse::<IpNet>(), outside.parse::<IpNet>()) else {
            problems.push(Problem::new(
                format!("cluster {}", cluster.name),
                format!("`{inside}: {outside}` in globalCIDRsMap is not a pair of prefixes"),
            ));
            continue;
        };
        if Family::of(src.addr()) != Family::of(dst.addr()) {
            problems.push(Problem::new(
                format!("cluster {}", cluster.name),
                format!("`{inside}: {outside}` in globalCIDRsMap joins two families"),
            ));
            continue;
        }
        let link = overlay::Kind::bridge(Family::of(src.addr())).name;
        rows.push(row(
            "PREROUTING",
            format!("-d {outside} -i {link} -j NETMAP --to {inside}"),
        ));
        rows.push(row(
            "POSTROUTING",
            format!(
                "-s {inside} -o {link} -j SNAT --to-source {}",
                dst.network()
            ),
        ));
    }
    rows
}

fn is_prefix(text: &str) -> bool {
    text.parse::<IpNet>().is_ok()
}

fn row(chain: &str, rule: String) -> Iptables {
    Iptables {
        table: "nat".to_owned(),
        chain: chain.to_owned(),
        rule,
    }
}
