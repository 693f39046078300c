//! Address translation: hosts' own traffic, and the global names of prefixes.

use std::net::IpAddr;

use ipnet::IpNet;

use super::members::{Class, MemberCluster};
use super::objection::{Field, Object, Objection};
use crate::api::Iptables;
use crate::code::Code;
use crate::state::{Family, Nat};
use crate::tunnel::Tunnel;

/// One address translation. It is [`Nat`] of links that are tunnels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Translation {
    /// Post-routing: the source becomes the egress link's address.
    Masquerade {
        /// The sources it applies to.
        src: IpNet,
        /// The egress link it applies to; none for all.
        out: Option<Tunnel>,
    },
    /// Pre-routing: the destination's network bits are exchanged, its host bits kept.
    Netmap {
        /// The destinations it applies to.
        dst: IpNet,
        /// The ingress link it applies to.
        input: Tunnel,
        /// The network that replaces theirs.
        to: IpNet,
    },
    /// Post-routing: the source becomes one address.
    Snat {
        /// The sources it applies to.
        src: IpNet,
        /// The egress link it applies to.
        out: Tunnel,
        /// The address.
        to: IpAddr,
    },
}

impl From<Translation> for Nat {
    fn from(row: Translation) -> Self {
        let link = |tunnel: Tunnel| tunnel.name().to_owned();
        match row {
            Translation::Masquerade { src, out } => Self::Masquerade {
                src,
                out: out.map(link),
            },
            Translation::Netmap { dst, input, to } => Self::Netmap {
                dst,
                input: link(input),
                to,
            },
            Translation::Snat { src, out, to } => Self::Snat {
                src,
                out: link(out),
                to,
            },
        }
    }
}

/// The translations of one cluster's nodes, each with its words.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Translations {
    /// On gateway and standby of a gateway-mode cluster.
    host: Vec<Written>,
    /// On every node of the vx-bridge mesh.
    global: Vec<Written>,
}

/// A translation with its words. These hold prefixes as the Cluster writes them, so that they cannot be had from the row alone.
type Written = (Translation, Iptables);

impl Translations {
    pub(super) fn rows_of(&self, class: Class) -> impl Iterator<Item = &Written> {
        let (host, global): (&[Written], &[Written]) = match class {
            Class::Endpoint => (&[], &self.global),
            Class::Gateway | Class::Standby => (&self.host, &self.global),
            Class::Internal => (&[], &[]),
        };
        host.iter().chain(global)
    }
}

pub(super) fn of_cluster(cluster: &MemberCluster, objections: &mut Vec<Objection>) -> Translations {
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
fn host(cluster: &MemberCluster) -> Vec<Written> {
    let (local, bridge) = (&cluster.options.local_cidrs, &cluster.options.bridge_cidrs);
    let mut rows = Vec::new();
    for (family, local, bridge) in [
        (Family::Ipv4, &local.ip, &bridge.ip),
        (Family::Ipv6, &local.ip6, &bridge.ip6),
    ] {
        if !cluster.families.has(family) {
            continue;
        }
        // A bad pool is reported with the addresses that it should have lent.
        if let Ok(src) = local.parse::<IpNet>() {
            let out = Tunnel::bridge(family);
            let translation = Translation::Masquerade {
                src: src.trunc(),
                out: Some(out),
            };
            let rule = format!("-s {local} -o {out} -j MASQUERADE");
            rows.push((translation, words("POSTROUTING", rule)));
        }
        if let Ok(src) = bridge.parse::<IpNet>() {
            let translation = Translation::Masquerade {
                src: src.trunc(),
                out: None,
            };
            let rule = format!("-s {bridge} -j MASQUERADE");
            rows.push((translation, words("POSTROUTING", rule)));
        }
    }
    rows
}

/// What comes in for the global name of a prefix is renamed one to one; what goes out takes the network's own address.
fn global(cluster: &MemberCluster, objections: &mut Vec<Objection>) -> Vec<Written> {
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
        let link = Tunnel::bridge(Family::of(src.addr()));
        let netmap = Translation::Netmap {
            dst: dst.trunc(),
            input: link,
            to: src.trunc(),
        };
        let rule = format!("-d {outside} -i {link} -j NETMAP --to {inside}");
        rows.push((netmap, words("PREROUTING", rule)));
        let to = dst.network();
        let snat = Translation::Snat {
            src: src.trunc(),
            out: link,
            to,
        };
        let rule = format!("-s {inside} -o {link} -j SNAT --to-source {to}");
        rows.push((snat, words("POSTROUTING", rule)));
    }
    rows
}

/// One entry of a cluster's globalCIDRsMap, which its key names.
pub(super) fn map_field(cluster: &MemberCluster, key: &str) -> Field {
    Field::new(
        Object::cluster(&cluster.name),
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

fn words(chain: &str, rule: String) -> Iptables {
    Iptables {
        table: "nat".to_owned(),
        chain: chain.to_owned(),
        rule,
    }
}
