//! Address translation: hosts' own traffic, and the global names of prefixes.

use ipnet::IpNet;

use super::members::{Class, Member, MemberCluster};
use super::objection::{Field, Object, Objection};
use super::overlay;
use crate::api::Iptables;
use crate::code::Code;
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

pub(super) fn of_cluster(
    cluster: &MemberCluster<'_>,
    objections: &mut Vec<Objection>,
) -> Translations {
    Translations {
        host: if cluster.is_p2p() {
            Vec::new()
        } else {
            host(cluster)
        },
        global: global(cluster, objections),
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
fn global(cluster: &MemberCluster<'_>, objections: &mut Vec<Objection>) -> Vec<Iptables> {
    let mut rows = Vec::new();
    for (inside, outside) in &cluster.options.global_cidrs_map {
        let (src, dst) = match pair(inside, outside) {
            Ok(pair) => pair,
            Err(rule) => {
                objections.push(
                    Objection::new(Code::ObjectInvalid, map_field(cluster, inside), rule)
                        .leaving_out("the translation, and routes to the prefix"),
                );
                continue;
            }
        };
        for rule in irregular(src, dst) {
            let at = map_field(cluster, inside);
            objections.push(Objection::new(Code::ObjectInvalid, at, rule));
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

/// One entry of a cluster's globalCIDRsMap, which its key names.
pub(super) fn map_field(cluster: &MemberCluster<'_>, key: &str) -> Field {
    Field::new(
        Object::cluster(cluster.name),
        &format!("spec.clusterLinkOptions.globalCIDRsMap[{key}]"),
    )
}

/// Both sides of an entry, where they can be translated into each other at all.
pub(super) fn pair(inside: &str, outside: &str) -> Result<(IpNet, IpNet), String> {
    let net = |text: &str| {
        text.parse::<IpNet>()
            .map_err(|_| format!("`{text}` is not a prefix"))
    };
    let (src, dst) = (net(inside)?, net(outside)?);
    if Family::of(src.addr()) == Family::of(dst.addr()) {
        Ok((src, dst))
    } else {
        Err(format!("{src} and {dst} are of two families"))
    }
}

/// What keeps the addresses of two prefixes from being renamed one to one.
fn irregular(src: IpNet, dst: IpNet) -> Vec<String> {
    let mut rules = Vec::new();
    if src.prefix_len() != dst.prefix_len() {
        rules.push(format!(
            "{src} and {dst} differ in length, so that their addresses cannot be translated one to one"
        ));
    }
    for net in [src, dst] {
        if net != net.trunc() {
            rules.push(format!(
                "{net} has host bits; the prefix is {}",
                net.trunc()
            ));
        }
    }
    rules
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
