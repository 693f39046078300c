//! The pools of the tunnels' addresses, and the addresses out of them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::family::{Families, PerFamily};
use super::objection::{Field, Object, Objection};
use crate::api::ClusterLinkOptions;
use crate::code::Code;
use crate::state::Family;
use crate::tunnel::Tunnel;

/// The field of a Cluster that holds the pool of a tunnel.
pub(super) fn pool_field(tunnel: Tunnel) -> &'static str {
    match tunnel {
        Tunnel::Bridge => "spec.clusterLinkOptions.bridgeCIDRs.ip",
        Tunnel::Bridge6 => "spec.clusterLinkOptions.bridgeCIDRs.ip6",
        Tunnel::Local => "spec.clusterLinkOptions.localCIDRs.ip",
        Tunnel::Local6 => "spec.clusterLinkOptions.localCIDRs.ip6",
    }
}

/// A cluster's address pools; none where it has none or a bad one.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Pools {
    local: PerFamily<Option<IpNet>>,
    bridge: PerFamily<Option<IpNet>>,
}

impl Pools {
    pub(super) fn of(
        cluster: &str,
        options: &ClusterLinkOptions,
        families: Families,
        objections: &mut Vec<Objection>,
    ) -> Self {
        let mut pool = |tunnel: Tunnel| {
            let family = tunnel.family();
            let pools = if tunnel.is_bridge() {
                &options.bridge_cidrs
            } else {
                &options.local_cidrs
            };
            let text = match family {
                Family::Ipv4 => &pools.ip,
                Family::Ipv6 => &pools.ip6,
            };
            if text.is_empty() || !families.has(family) {
                return None;
            }
            match text.parse::<IpNet>() {
                Ok(net) if Family::of(net.addr()) == family => Some(net),
                _ => {
                    objections.push(
                        Objection::new(
                            Code::ObjectInvalid,
                            Field::new(Object::cluster(cluster), pool_field(tunnel)),
                            format!("`{text}` is not an {family} prefix"),
                        )
                        .leaving_out(format!("{tunnel} of its nodes")),
                    );
                    None
                }
            }
        };
        Self {
            local: PerFamily::of(|family| pool(Tunnel::local(family))),
            bridge: PerFamily::of(|family| pool(Tunnel::bridge(family))),
        }
    }

    pub(super) fn of_tunnel(&self, tunnel: Tunnel) -> Option<IpNet> {
        let pools = if tunnel.is_bridge() {
            &self.bridge
        } else {
            &self.local
        };
        *pools.get(tunnel.family())
    }
}

/// The family of an address or prefix, as the other implementation decides it: by the first dot or colon.
pub(super) fn family_of_text(text: &str) -> Option<Family> {
    text.bytes().find_map(|byte| match byte {
        b'.' => Some(Family::Ipv4),
        b':' => Some(Family::Ipv6),
        _ => None,
    })
}

/// The overlay address of a node, with the length of its pool: the pool's network bits joined to the host bits of the node's underlay
/// address. None where that is of the other family.
#[must_use]
pub fn address(pool: IpNet, underlay: IpAddr) -> Option<IpNet> {
    let joined = match (pool, underlay) {
        (IpNet::V4(pool), IpAddr::V4(ip)) => {
            let host = u32::from(ip) & u32::from(pool.hostmask());
            IpAddr::V4(Ipv4Addr::from(u32::from(pool.network()) | host))
        }
        (IpNet::V6(pool), IpAddr::V6(ip)) => {
            let host = u128::from(ip) & u128::from(pool.hostmask());
            IpAddr::V6(Ipv6Addr::from(u128::from(pool.network()) | host))
        }
        _ => return None,
    };
    IpNet::new(joined, pool.prefix_len()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_join_pool_and_host_bits() {
        let join = |pool: &str, ip: &str| {
            let pool = pool.parse().expect("a prefix");
            address(pool, ip.parse().expect("an address")).map(|net| net.to_string())
        };
        assert_eq!(
            join("220.0.0.0/8", "192.168.1.11"),
            Some("220.168.1.11/8".into())
        );
        assert_eq!(
            join("210.0.0.0/8", "100.10.10.1"),
            Some("210.10.10.1/8".into())
        );
        assert_eq!(
            join("100.64.0.0/10", "10.255.0.7"),
            Some("100.127.0.7/10".into())
        );
        assert_eq!(
            join("9480::/16", "2409:7c85:6200::a0e:1702"),
            Some("9480:7c85:6200::a0e:1702/16".into())
        );
        assert!(join("220.0.0.0/8", "fe80::1").is_none());
    }

    #[test]
    fn the_first_dot_or_colon_decides() {
        assert_eq!(family_of_text("10.0.0.0/8"), Some(Family::Ipv4));
        assert_eq!(family_of_text("::ffff:1.2.3.4"), Some(Family::Ipv6));
        assert_eq!(family_of_text("bogus"), None);
    }
}
