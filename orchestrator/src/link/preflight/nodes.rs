//! What a node's kernel has that the datapath would meet: links of the tunnels' names, their VNIs, table 200, rule 200, networks that are
//! connected where a route to another cluster is to be.

use std::net::IpAddr;

use datapath::nodeconfig::{PRIORITY, TABLE, TUNNELS};
use datapath::printable::printable;
use datapath::state::{
    Family, LinkKind, NodeState, Route, RouteKind, RuleAction, TABLE_LOCAL, Vxlan,
};
use ipnet::IpNet;

/// What VXLAN adds to a packet, bytes.
fn overhead(family: Family) -> u32 {
    match family {
        Family::Ipv4 => 50,
        Family::Ipv6 => 70,
    }
}

/// The least that a link has to carry, bytes (RFC 791, RFC 8200).
fn least(family: Family) -> u32 {
    match family {
        Family::Ipv4 => 576,
        Family::Ipv6 => 1280,
    }
}

/// What is in the way at a node.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Judged {
    pub(super) refusals: Vec<String>,
    pub(super) warnings: Vec<String>,
}

/// A node whose tables were read.
pub(super) struct Observed<'a> {
    /// For people: `west/n1`.
    pub(super) place: &'a str,
    pub(super) state: &'a NodeState,
    /// Prefixes of its own cluster's pods and services, which its CNI routes.
    pub(super) own: &'a [IpNet],
}

impl Observed<'_> {
    /// Judges it against what it is to have.
    pub(super) fn against(&self, desired: &NodeState) -> Judged {
        let mut judged = Judged::default();
        self.links(desired, &mut judged);
        self.rules(desired, &mut judged);
        self.routes(desired, &mut judged);
        judged.refusals.sort();
        judged.refusals.dedup();
        judged
    }

    /// The link that has an address.
    pub(super) fn link_of(&self, ip: IpAddr) -> Option<&str> {
        let mut addresses = self.state.addresses.iter();
        let own = addresses.find(|address| address.net.addr() == ip)?;
        Some(&own.link)
    }

    /// The MTU of the link that has an address.
    pub(super) fn mtu_of(&self, ip: IpAddr) -> Option<u32> {
        let link = self.link_of(ip)?;
        self.state.links.get(link).map(|link| link.mtu)
    }

    fn links(&self, desired: &NodeState, judged: &mut Judged) {
        let place = self.place;
        for wanted in desired.links.iter() {
            let LinkKind::Vxlan(tunnel) = &wanted.kind else {
                continue;
            };
            let name = wanted.name.as_str();
            if let Some(held) = self.state.links.get(name)
                && let Some(is) = otherwise(&held.kind, tunnel)
            {
                judged.refusals.push(format!(
                    "{place} has a link {name} already, and it is {is}, not the datapath's tunnel (VNI {}, UDP port {}): rename or remove it (ip link delete {name})",
                    tunnel.vni, tunnel.port
                ));
            }
            for held in self.state.links.iter().filter(|held| held.name != name) {
                if let LinkKind::Vxlan(other) = &held.kind
                    && other.vni == tunnel.vni
                    && other.port == tunnel.port
                {
                    let other = printable(&held.name, 16);
                    judged.refusals.push(format!(
                        "{place} has a VXLAN link {other} with the VNI {} and UDP port {} of {name}: the kernel makes no second one; give {other} another VNI or port, or remove it",
                        tunnel.vni, tunnel.port
                    ));
                }
            }
            let family = tunnel.local.map_or(Family::Ipv4, Family::of);
            if wanted.mtu < least(family) {
                let lower = tunnel.lower.as_deref().unwrap_or_default();
                judged.refusals.push(format!(
                    "{place}: link {lower} has an MTU of {}, and behind the {} bytes of a tunnel's headers {family} needs {}: raise it (ip link set {lower} mtu 1500), or name another with --default-nic",
                    wanted.mtu + overhead(family),
                    overhead(family),
                    least(family)
                ));
            }
        }
    }

    fn rules(&self, desired: &NodeState, judged: &mut Judged) {
        let place = self.place;
        let is_wanted = |family| desired.rules.iter().any(|rule| rule.family == family);
        for held in self
            .state
            .rules
            .iter()
            .filter(|rule| is_wanted(rule.family))
        {
            let is_ours = desired.rules.iter().any(|rule| rule == held);
            if is_ours {
                continue;
            }
            let family = held.family;
            if held.action == RuleAction::Lookup(TABLE) {
                judged.refusals.push(format!(
                    "{place} has an {family} rule of priority {} that asks routing table {TABLE}, which is the datapath's: whoever made it has to take another table (ip rule show table {TABLE})",
                    held.priority
                ));
            } else if held.priority == PRIORITY {
                judged.refusals.push(format!(
                    "{place} has an {family} rule of priority {PRIORITY}, which is the datapath's, and it does not ask table {TABLE}: whoever made it has to take another priority (ip rule show)"
                ));
            }
        }
    }

    fn routes(&self, desired: &NodeState, judged: &mut Judged) {
        let place = self.place;
        let is_tunnel = |link: &str| TUNNELS.contains(&link);
        let foreign = self.state.routes.iter().find(|route| {
            route.table == TABLE && route.hops.iter().all(|hop| !is_tunnel(&hop.link))
        });
        if let Some(route) = foreign {
            judged.refusals.push(format!(
                "{place} has a route to {} in routing table {TABLE}, which is the datapath's and would lose it: whoever made it has to take another table (ip route show table {TABLE})",
                route.dst
            ));
        }
        let tables = [TABLE, TABLE_LOCAL];
        let networks = self.state.routes.iter().filter(|route| {
            !tables.contains(&route.table)
                && route.kind == RouteKind::Unicast
                && route.dst.prefix_len() > 0
                && !route.hops.iter().any(|hop| is_tunnel(&hop.link))
                && !self.own.iter().any(|own| own.contains(&route.dst))
        });
        let pools = desired.addresses.iter();
        let pools = pools.map(|address| (address.net.trunc(), address.link.as_str()));
        let remote = desired.routes.iter().filter(|route| route.table == TABLE);
        let remote = remote.map(|route| (route.dst, "another cluster"));
        let wanted: Vec<(IpNet, &str)> = remote.chain(pools).collect();
        for network in networks {
            for (net, what) in &wanted {
                self.meet(network, *net, what, judged);
            }
        }
    }

    /// A network of the node and a prefix that is to lead elsewhere.
    fn meet(&self, network: &Route, net: IpNet, what: &str, judged: &mut Judged) {
        let (place, dst) = (self.place, network.dst);
        if !(net.contains(&dst) || dst.contains(&net)) {
            return;
        }
        let link = network.hops.first().map(|hop| hop.link.as_str());
        let link = printable(link.unwrap_or_default(), 16);
        let is_connected = network.hops.iter().any(|hop| hop.via.is_none());
        if is_connected {
            judged.refusals.push(format!(
                "{place} is connected to {dst} by {link}, and {net} of {what} would take its packets: give one of the two another prefix (--global-cidr PREFIX=PREFIX gives pods or services of a cluster other addresses outside of it)"
            ));
        } else if net.contains(&dst) {
            judged.warnings.push(format!(
                "{place} has a route to {dst} by {link} that loses its packets to {net} of {what}"
            ));
        }
    }
}

/// What a link is that is not this tunnel; none where it is.
fn otherwise(kind: &LinkKind, tunnel: &Vxlan) -> Option<String> {
    match kind {
        LinkKind::Vxlan(held) if held.vni == tunnel.vni && held.port == tunnel.port => None,
        LinkKind::Vxlan(held) => Some(format!(
            "VXLAN with VNI {} and UDP port {}",
            held.vni, held.port
        )),
        LinkKind::Bridge => Some("a bridge".to_owned()),
        LinkKind::Loopback => Some("the loopback".to_owned()),
        LinkKind::Veth { .. } => Some("an end of a veth pair".to_owned()),
        LinkKind::Other { name } => Some(format!("a link of kind {}", printable(name, 16))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use datapath::api::NodeConfigSpec;
    use serde_json::{Value, json};

    fn state(value: Value) -> NodeState {
        serde_json::from_value(value).expect("tables")
    }

    fn node(more: Value) -> NodeState {
        let mut all = json!({
            "links": [{"name": "eth0", "mac": null, "mtu": 1500, "up": true, "kind": {"kind": "veth"}}],
            "addresses": [{"link": "eth0", "net": "10.0.0.1/24"}],
            "routes": [{"table": 254, "dst": "10.0.0.0/24", "kind": "unicast", "hops": [{"link": "eth0", "via": null}], "protocol": 2}],
        });
        for (table, rows) in more.as_object().expect("tables") {
            for row in rows.as_array().expect("rows") {
                match all[table].as_array_mut() {
                    Some(held) => held.push(row.clone()),
                    None => all[table] = json!([row]),
                }
            }
        }
        state(all)
    }

    /// A gateway that has a tunnel to 10.2.0.0/16.
    fn judged(observed: &NodeState, own: &[IpNet]) -> Judged {
        let config: NodeConfigSpec = serde_json::from_value(json!({
            "devices": [{"type": "vxlan", "name": "vx-bridge", "addr": "220.0.0.1/8", "mac": "02:00:00:00:0b:01",
                         "bindDev": "eth0", "id": 54, "port": 4876}],
            "routes": [{"cidr": "10.2.0.0/16", "gw": "220.0.0.3", "dev": "vx-bridge"}],
        }))
        .expect("a NodeConfig");
        let (desired, _) = datapath::nodeconfig::desired(&config, observed);
        let observed = Observed {
            place: "west/n1",
            state: observed,
            own,
        };
        observed.against(&desired)
    }

    fn link(name: &str, kind: Value) -> Value {
        json!({"links": [{"name": name, "mac": null, "mtu": 1450, "up": true, "kind": kind}]})
    }

    #[test]
    fn a_node_as_it_was_installed_and_one_that_is_linked_are_fine() {
        let own = ["10.1.0.0/16".parse().expect("a prefix")];
        let route = |dst: &str, via: Option<&str>, dev: &str, table: u32| json!({"table": table, "dst": dst, "kind": "unicast", "hops": [{"link": dev, "via": via}], "protocol": 3});
        let plain = node(json!({"routes": [
            route("0.0.0.0/0", Some("10.0.0.254"), "eth0", 254),
            route("10.1.0.0/24", None, "cni0", 254),
            route("10.0.0.0/8", Some("10.0.0.254"), "eth0", 254)]}));
        assert_eq!(judged(&plain, &own), Judged::default());
        let mut linked = node(link(
            "vx-bridge",
            json!({"kind": "vxlan", "vni": 54, "port": 4876, "local": "10.0.0.1", "lower": "eth0", "learning": false}),
        ));
        linked.routes.insert(
            serde_json::from_value(route("10.2.0.0/16", Some("220.0.0.3"), "vx-bridge", 200))
                .expect("a route"),
        );
        linked.rules.insert(
            serde_json::from_value(
                json!({"family": "ipv4", "priority": 200, "action": {"lookup": 200}}),
            )
            .expect("a rule"),
        );
        assert_eq!(judged(&linked, &own), Judged::default());
    }

    #[test]
    fn each_thing_in_the_way_is_named_with_its_node_and_what_helps() {
        let vxlan = |vni: u32, port: u16| json!({"kind": "vxlan", "vni": vni, "port": port, "local": null, "lower": null, "learning": false});
        let rule = |priority: u32, table: u32| json!({"rules": [{"family": "ipv4", "priority": priority, "action": {"lookup": table}}]});
        let route = |dst: &str, table: u32| json!({"routes": [{"table": table, "dst": dst, "kind": "unicast", "hops": [{"link": "eth1", "via": null}], "protocol": 3}]});
        for (more, words) in [
            (
                link("vx-bridge", json!({"kind": "bridge"})),
                ["vx-bridge", "a bridge", "ip link delete"],
            ),
            (
                link("vx-bridge", vxlan(7, 4876)),
                ["vx-bridge", "VNI 7", "remove"],
            ),
            (
                link("corp", vxlan(54, 4876)),
                ["corp", "VNI 54", "another VNI"],
            ),
            (
                rule(200, 77),
                ["priority 200", "table 200", "another priority"],
            ),
            (rule(50, 200), ["priority 50", "table 200", "another table"]),
            (
                route("192.168.7.0/24", 200),
                ["192.168.7.0/24", "table 200", "another table"],
            ),
            (
                route("10.2.3.0/24", 254),
                ["10.2.3.0/24", "10.2.0.0/16", "--global-cidr"],
            ),
            (
                route("10.0.0.0/13", 254),
                ["10.0.0.0/13", "10.2.0.0/16", "--global-cidr"],
            ),
            (
                route("220.1.0.0/16", 254),
                ["220.1.0.0/16", "220.0.0.0/8", "another prefix"],
            ),
        ] {
            let judged = judged(&node(more.clone()), &[]);
            let [text] = &judged.refusals[..] else {
                panic!("{more}: {judged:?}");
            };
            assert!(text.contains("west/n1"), "{text}");
            for word in words {
                assert!(text.contains(word), "{word}: {text}");
            }
        }
        let mut small = node(json!({}));
        if let Some(link) = small.links.get("eth0").cloned() {
            small
                .links
                .insert(datapath::state::Link { mtu: 600, ..link });
        }
        let text = judged(&small, &[]).refusals.join("");
        assert!(
            text.contains("MTU of 600") && text.contains("--default-nic"),
            "{text}"
        );
    }

    #[test]
    fn a_route_through_a_router_is_a_warning_as_far_as_it_is_hidden() {
        let via = |dst: &str| {
            node(
                json!({"routes": [{"table": 254, "dst": dst, "kind": "unicast", "hops": [{"link": "eth0", "via": "10.0.0.254"}], "protocol": 3}]}),
            )
        };
        let hidden = judged(&via("10.2.9.0/24"), &[]);
        assert!(
            hidden.refusals.is_empty() && hidden.warnings.len() == 1,
            "{hidden:?}"
        );
        assert_eq!(judged(&via("10.0.0.0/8"), &[]), Judged::default());
    }
}
