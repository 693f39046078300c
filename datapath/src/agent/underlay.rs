//! Which link and addresses of a node are its underlay: what a Cluster says about that, judged on the node itself. No kernel, no API.
//!
//! Words of a Cluster, in this order: the first entry of `nicNodeNames` that names the node, `defaultNICName`, and where that is `*` or nothing
//! `autodetectionMethod`, which is `can-reach=ADDRESS` (8.8.8.8 where there is none). Where nothing leads there, as in a network without a
//! way out, the link is that of the address by which the cluster knows the node.
//!
//! A link has its own name and no other: what the other implementation takes as a pattern (`eth0` was `veth0`, too) is a name here.

use std::net::{IpAddr, Ipv4Addr};

use serde_json::{Map, Value, json};

use crate::control::nodes::Links;
use crate::nodeconfig::{TUNNELS, is_global};
use crate::state::{Family, NodeState};

/// What is asked for where a Cluster does not say.
const TARGET: IpAddr = IpAddr::V4(Ipv4Addr::new(8, 8, 8, 8));

/// What a Cluster says about a node's link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wish {
    /// It has this name.
    Named(String),
    /// It is the one by which this is reached: an address or the name of a host.
    Reaching(String),
}

impl Wish {
    /// Reads a Cluster.
    ///
    /// # Errors
    /// The rule that a field of it breaks.
    pub fn of(cluster: &Value, node: &str) -> Result<Self, String> {
        if let Some(name) = Links::of(cluster).link(node) {
            return Ok(Self::Named(name.to_owned()));
        }
        let method = cluster["spec"]["clusterLinkOptions"]["autodetectionMethod"].as_str();
        match method.filter(|method| !method.is_empty()) {
            None => Ok(Self::Reaching(TARGET.to_string())),
            Some(method) => match method.strip_prefix("can-reach=") {
                Some(target) if !target.is_empty() => Ok(Self::Reaching(target.to_owned())),
                _ => Err("autodetectionMethod has to be can-reach=ADDRESS".to_owned()),
            },
        }
    }
}

/// A node's underlay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Underlay {
    /// The link's name.
    pub link: String,
    /// Its address of each family; none where it has none.
    pub ip: Option<IpAddr>,
    /// See `ip`.
    pub ip6: Option<IpAddr>,
}

/// Finds the underlay on a node with these tables. `source` is the address by which the node would reach what the Cluster names; none where it
/// has no way there, or where nobody asked. `held` is the ClusterNode as it is.
///
/// # Errors
/// Why there is none.
pub fn find(
    wish: &Wish,
    observed: &NodeState,
    source: Option<IpAddr>,
    held: &Value,
) -> Result<Underlay, String> {
    let text = |field: &str| held["spec"][field].as_str();
    let known = |field: &str| text(field)?.parse::<IpAddr>().ok();
    let known = [known("ip"), known("ip6")];
    let holder = |ip: IpAddr| {
        let mut addresses = observed.addresses.iter();
        let address =
            addresses.find(|address| address.net.addr() == ip && !is_tunnel(&address.link));
        address.map(|address| address.link.as_str())
    };
    let link = match wish {
        Wish::Named(name) => observed
            .links
            .get(name)
            .map(|link| link.name.as_str())
            .ok_or_else(|| format!("there is no link `{name}`, which the Cluster names"))?,
        Wish::Reaching(target) => source
            .filter(|ip| !ip.is_loopback())
            .into_iter()
            .chain(known.into_iter().flatten())
            .find_map(holder)
            .ok_or_else(|| {
                format!("no link leads to {target}, and none has the address of this node")
            })?,
    };
    let address = |family: Family, known: Option<IpAddr>| {
        let on_link = observed.addresses.iter().filter(|one| one.link == link);
        let global: Vec<IpAddr> = on_link
            .map(|one| one.net.addr())
            .filter(|ip| Family::of(*ip) == family && is_global(*ip))
            .collect();
        // One that peers know already is as good as any, and costs nobody a tunnel.
        let same = global.iter().find(|ip| Some(**ip) == known);
        same.or(global.first()).copied()
    };
    let (ip, ip6) = (
        address(Family::Ipv4, known[0]),
        address(Family::Ipv6, known[1]),
    );
    if ip.is_none() && ip6.is_none() {
        return Err(format!("the link `{link}` has no global address"));
    }
    Ok(Underlay {
        link: link.to_owned(),
        ip,
        ip6,
    })
}

fn is_tunnel(link: &str) -> bool {
    TUNNELS.contains(&link)
}

impl Underlay {
    /// The merge patch that makes a ClusterNode say so, for the version that it was found of; none where it does. A family that the link
    /// lacks stays as it is.
    #[must_use]
    pub fn patch(&self, held: &Value) -> Option<Value> {
        let mut fields = Map::new();
        let text = |ip: Option<IpAddr>| ip.map(|ip| ip.to_string());
        let found = [
            ("interfaceName", Some(self.link.clone())),
            ("ip", text(self.ip)),
            ("ip6", text(self.ip6)),
        ];
        for (field, value) in found {
            if let Some(value) = value
                && !is_same(&held["spec"][field], &value)
            {
                fields.insert(field.to_owned(), value.into());
            }
        }
        let version = &held["metadata"]["resourceVersion"];
        (!fields.is_empty())
            .then(|| json!({"metadata": {"resourceVersion": version}, "spec": fields}))
    }
}

/// Whether a field says the same, in whatever spelling an address has.
fn is_same(held: &Value, found: &str) -> bool {
    let Some(held) = held.as_str() else {
        return false;
    };
    let address = |text: &str| text.parse::<IpAddr>().ok();
    held == found || address(held).is_some_and(|held| Some(held) == address(found))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mac::Mac;
    use crate::state::{Address, Link, LinkKind};

    fn node() -> NodeState {
        let mut state = NodeState::default();
        for (index, name) in ["lo", "eth0", "veth0", "stor.7", "vx-bridge"]
            .iter()
            .enumerate()
        {
            state.links.insert(Link {
                name: (*name).to_owned(),
                index: index as u32 + 1,
                mac: Some(Mac([2, 0, 0, 0, 0, 1])),
                mtu: 1500,
                up: true,
                carrier: true,
                kind: LinkKind::Veth { peer_index: 0 },
                master: None,
                tx_dropped: 0,
                rx_dropped: 0,
            });
        }
        for (link, net) in [
            ("lo", "127.0.0.1/8"),
            ("veth0", "10.244.0.1/24"),
            ("eth0", "169.254.1.1/16"),
            ("eth0", "192.168.1.11/24"),
            ("eth0", "192.168.1.250/32"),
            ("eth0", "fe80::1/64"),
            ("eth0", "fd00::11/64"),
            ("stor.7", "172.16.0.11/24"),
            ("vx-bridge", "220.168.1.11/8"),
        ] {
            state.addresses.insert(Address {
                link: link.to_owned(),
                net: net.parse().expect("a literal"),
            });
        }
        state
    }

    fn cluster(options: Value) -> Value {
        json!({"spec": {"clusterLinkOptions": options}})
    }

    fn ip(text: &str) -> Option<IpAddr> {
        Some(text.parse().expect("a literal"))
    }

    fn found(
        options: Value,
        source: Option<&str>,
        held: Value,
    ) -> Result<(String, Option<IpAddr>, Option<IpAddr>), String> {
        let wish = Wish::of(&cluster(options), "n1")?;
        let underlay = find(
            &wish,
            &node(),
            source.and_then(ip),
            &json!({ "spec": held }),
        )?;
        Ok((underlay.link, underlay.ip, underlay.ip6))
    }

    #[test]
    fn words_of_a_cluster_are_asked_in_their_order() {
        let override_ = json!([{"interfaceName": "stor.7", "nodeName": ["n2", "n1"]}, {"interfaceName": "eth0", "nodeName": ["n1"]}]);
        let own = Ok(("eth0".to_owned(), ip("192.168.1.11"), ip("fd00::11")));
        let storage = Ok(("stor.7".to_owned(), ip("172.16.0.11"), None));
        let none = json!({});
        for (options, expected) in [
            (
                json!({"nicNodeNames": override_, "defaultNICName": "eth0"}),
                &storage,
            ),
            (json!({"defaultNICName": "eth0"}), &own),
            (json!({"defaultNICName": "*"}), &own),
            (json!({}), &own),
            (json!({"autodetectionMethod": "can-reach=10.0.0.1"}), &own),
        ] {
            assert_eq!(
                &found(options, Some("192.168.1.11"), none.clone()),
                expected
            );
        }
        for options in [
            json!({"defaultNICName": "eth"}),
            json!({"defaultNICName": "lo"}),
            json!({"autodetectionMethod": "interface=eth0"}),
            json!({"autodetectionMethod": "can-reach="}),
        ] {
            assert!(
                found(options.clone(), Some("192.168.1.11"), none.clone()).is_err(),
                "{options}"
            );
        }
    }

    #[test]
    fn without_a_way_out_the_link_is_that_of_the_nodes_address() {
        let held = json!({"ip": "172.16.0.11"});
        assert_eq!(
            found(json!({}), None, held).map(|found| found.0),
            Ok("stor.7".to_owned())
        );
        // Nor does a way through a tunnel of ours, or to itself, say where the underlay is.
        let held = json!({"ip": "172.16.0.11"});
        assert_eq!(
            found(json!({}), Some("220.168.1.11"), held.clone()).map(|found| found.0),
            Ok("stor.7".to_owned())
        );
        assert_eq!(
            found(json!({}), Some("127.0.0.1"), held).map(|found| found.0),
            Ok("stor.7".to_owned())
        );
        assert!(found(json!({}), None, json!({"ip": "1.1.1.1"})).is_err());
    }

    #[test]
    fn an_address_that_peers_know_stays_and_only_news_is_written() {
        let held = json!({"ip": "192.168.1.250", "ip6": "fd00:0::11", "interfaceName": "eth0"});
        let wish = Wish::Named("eth0".into());
        let object = json!({"metadata": {"resourceVersion": "7"}, "spec": held});
        let underlay = find(&wish, &node(), None, &object).expect("an underlay");
        assert_eq!(underlay.ip, ip("192.168.1.250"));
        assert_eq!(underlay.patch(&object), None);
        let bare = json!({"metadata": {"resourceVersion": "7"}, "spec": {"ip6": "fd00::99"}});
        let underlay =
            find(&Wish::Named("stor.7".into()), &node(), None, &bare).expect("an underlay");
        let patch = json!({"metadata": {"resourceVersion": "7"}, "spec": {"interfaceName": "stor.7", "ip": "172.16.0.11"}});
        assert_eq!(underlay.patch(&bare), Some(patch));
    }
}
