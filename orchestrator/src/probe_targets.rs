//! To which addresses a run may send.
//!
//! Addresses come out of the clusters' own objects, which anybody may have written. A probe goes only to an address of the network
//! that it asks about, that no other cluster has better reason to call its own, and that is no special one.

use std::collections::HashMap;
use std::net::IpAddr;

use floater::wire::Layer;
use ipnet::IpNet;

use crate::evidence::{ClusterFacts, NodeFacts, NodeRef};

/// The addresses of all clusters by who claims them.
pub(crate) struct Targets<'a> {
    clusters: &'a [ClusterFacts],
    /// By cluster and address: how many of its nodes call it theirs, or their pod's.
    sharers: HashMap<(usize, IpAddr), usize>,
    /// By node address: the clusters that have it, and how well each shows it.
    nodes: HashMap<IpAddr, Vec<(usize, Proof)>>,
    /// By prefix of pods, inside and outside: the clusters that plan it.
    pods: HashMap<IpNet, Vec<usize>>,
    /// The lengths of these prefixes, longest first.
    lengths: Vec<u8>,
}

/// What shows that a node has an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Proof {
    /// The cluster says so.
    Claim,
    /// The node's own kernel says so.
    Kernel,
    /// The control plane says so.
    Plan,
}

impl<'a> Targets<'a> {
    pub(crate) fn new(clusters: &'a [ClusterFacts]) -> Self {
        let mut nodes: HashMap<IpAddr, Vec<(usize, Proof)>> = HashMap::new();
        let mut pods: HashMap<IpNet, Vec<usize>> = HashMap::new();
        let mut sharers: HashMap<(usize, IpAddr), usize> = HashMap::new();
        for (at, cluster) in clusters.iter().enumerate() {
            for node in &cluster.nodes {
                for &ip in node.ips.iter().chain(&node.pod_ips) {
                    *sharers.entry((at, ip)).or_default() += 1;
                }
                for &ip in &node.ips {
                    let proof = proof_of(node, ip);
                    let claims = nodes.entry(ip).or_default();
                    match claims.iter_mut().find(|(known, _)| *known == at) {
                        Some((_, known)) => *known = proof.max(*known),
                        None => claims.push((at, proof)),
                    }
                }
            }
            for prefix in prefixes(cluster) {
                let owners = pods.entry(prefix.trunc()).or_default();
                if !owners.contains(&at) {
                    owners.push(at);
                }
            }
        }
        let mut lengths: Vec<u8> = pods.keys().map(IpNet::prefix_len).collect();
        lengths.sort_unstable_by(|a, b| b.cmp(a));
        lengths.dedup();
        Self {
            clusters,
            sharers,
            nodes,
            pods,
            lengths,
        }
    }

    /// Why a probe to an address of a node is not sent; none where it may be.
    pub(crate) fn refusal(&self, dst: NodeRef, layer: Layer, ip: IpAddr) -> Option<String> {
        if let Some(kind) = special(ip) {
            return Some(format!("{ip} is {kind}"));
        }
        let named = |at: usize| self.clusters[at].name.as_str();
        // Who is reached there depends on who asks, as behind a translation that every node has of its own.
        let sharers = self.sharers.get(&(dst.cluster, ip)).copied();
        if let Some(count) = sharers.filter(|&count| count > 1) {
            return Some(format!(
                "{ip} is the address of {count} nodes of {}",
                named(dst.cluster)
            ));
        }
        match layer {
            Layer::Host => {
                let claims = self.nodes.get(&ip).map_or(&[][..], Vec::as_slice);
                let own = claims
                    .iter()
                    .find(|(at, _)| *at == dst.cluster)
                    .map(|&(_, proof)| proof);
                let better = claims
                    .iter()
                    .find(|&&(at, proof)| at != dst.cluster && Some(proof) > own);
                if let Some(&(at, _)) = better {
                    return Some(format!(
                        "{ip} is an address of {}, which shows better that it has it",
                        named(at)
                    ));
                }
                let owners = self.owners(ip);
                let other = owners.iter().find(|&&at| at != dst.cluster);
                match other {
                    Some(&at) if own != Some(Proof::Plan) && own != Some(Proof::Kernel) => Some(
                        format!("{ip} lies within the pod prefixes of {}", named(at)),
                    ),
                    _ => None,
                }
            }
            Layer::Pod => {
                let owners = self.owners(ip);
                if owners.contains(&dst.cluster) {
                    return None;
                }
                let claims = self.nodes.get(&ip).map_or(&[][..], Vec::as_slice);
                let host = claims
                    .iter()
                    .find(|&&(at, proof)| at != dst.cluster && proof > Proof::Claim)
                    .map(|(at, _)| at);
                if let Some(&at) = owners.first().or(host) {
                    return Some(format!("{ip} is an address of {}", named(at)));
                }
                let family = |prefix: &IpNet| prefix.addr().is_ipv4() == ip.is_ipv4();
                prefixes(&self.clusters[dst.cluster])
                    .any(|prefix| family(&prefix))
                    .then(|| {
                        format!(
                            "{ip} lies outside of the pod prefixes of {}",
                            named(dst.cluster)
                        )
                    })
            }
        }
    }

    /// The clusters that plan the longest prefix around an address.
    fn owners(&self, ip: IpAddr) -> &[usize] {
        self.lengths
            .iter()
            .filter_map(|&length| {
                let prefix = IpNet::new(ip, length).ok()?.trunc();
                self.pods.get(&prefix)
            })
            .next()
            .map_or(&[], Vec::as_slice)
    }
}

/// The prefixes of a cluster's pods by the plan; none without one.
fn prefixes(cluster: &ClusterFacts) -> impl Iterator<Item = IpNet> {
    cluster
        .pod_prefixes
        .iter()
        .filter(|_| cluster.plans_prefixes)
        .copied()
        .chain(cluster.mapped.iter().map(|&(_, global)| global))
}

fn proof_of(node: &NodeFacts, ip: IpAddr) -> Proof {
    if node.planned_ips.contains(&ip) {
        Proof::Plan
    } else if node
        .tables
        .as_ref()
        .is_ok_and(|tables| tables.has_address(ip))
    {
        Proof::Kernel
    } else {
        Proof::Claim
    }
}

/// What an address is that no node or pod of a fleet has.
fn special(ip: IpAddr) -> Option<&'static str> {
    let ip = ip.to_canonical();
    match ip {
        _ if ip.is_loopback() => Some("a loopback address"),
        _ if ip.is_unspecified() => Some("no address of a host"),
        _ if ip.is_multicast() => Some("a multicast address"),
        IpAddr::V4(ip) if ip.is_link_local() => Some("a link-local address"),
        IpAddr::V4(ip) if ip.is_broadcast() => Some("the broadcast address"),
        // RFC 1122 3.2.1.3: "this network"; RFC 1112: reserved.
        IpAddr::V4(ip) if ip.octets()[0] == 0 || ip.octets()[0] >= 240 => {
            Some("no address of a host")
        }
        IpAddr::V6(ip) if ip.is_unicast_link_local() => Some("a link-local address"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn special_addresses_are_told() {
        for ip in [
            "127.0.0.1",
            "::1",
            "::ffff:127.0.0.1",
            "0.0.0.0",
            "::",
            "169.254.169.254",
            "fe80::1",
            "224.0.0.1",
            "ff02::1",
            "255.255.255.255",
            "240.0.0.1",
            "0.1.2.3",
        ] {
            assert!(special(ip.parse().expect("an address")).is_some(), "{ip}");
        }
        for ip in ["10.0.0.1", "192.0.2.1", "fd00::1", "2001:db8::1"] {
            assert_eq!(special(ip.parse().expect("an address")), None, "{ip}");
        }
    }
}
