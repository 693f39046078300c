//! What any node has without the datapath, for fleets of any kind.

use std::net::IpAddr;

use datapath::mac::Mac;
use datapath::state::{
    Family, Link, LinkKind, NextHop, NodeState, Route, RouteKind, Rule, RuleAction, TABLE_MAIN,
};
use ipnet::IpNet;

/// One end of a pair, up, with a MAC of its own.
pub(crate) fn veth(words: &[&str], name: &str) -> Link {
    Link {
        name: name.to_owned(),
        index: 0,
        mac: Some(Mac::derived(words)),
        mtu: 1500,
        up: true,
        carrier: true,
        kind: LinkKind::Veth { peer_index: 0 },
        master: None,
        tx_dropped: 0,
        rx_dropped: 0,
    }
}

/// A route with one next hop.
pub(crate) fn route(table: u32, dst: IpNet, via: Option<IpAddr>, link: &str) -> Route {
    Route {
        table,
        dst,
        metric: if dst.addr().is_ipv4() { 0 } else { 1024 },
        kind: RouteKind::Unicast,
        hops: vec![NextHop {
            via,
            link: link.to_owned(),
            onlink: via.is_some(),
            weight: 1,
            dead: false,
        }],
        src: None,
        protocol: 3,
        mtu: None,
    }
}

/// The rules that a kernel has of a family by itself, as far as a walk depends on them.
pub(crate) fn rules(state: &mut NodeState, family: Family) {
    for (priority, table) in [(0, 255), (32766, 254)] {
        state.rules.insert(Rule {
            family,
            priority,
            src: None,
            dst: None,
            iif: None,
            oif: None,
            mark: None,
            finer: None,
            invert: false,
            action: RuleAction::Lookup(table),
        });
    }
}

/// A state with the rows that an agent puts in, and the kernel's own routes to what is on its links.
pub(crate) fn merged(mut state: NodeState, desired: &NodeState) -> NodeState {
    state.links.extend(desired.links.iter().cloned());
    state.addresses.extend(desired.addresses.iter().cloned());
    state.neighbours.extend(desired.neighbours.iter().cloned());
    state.fdb.extend(desired.fdb.iter().cloned());
    state.rules.extend(desired.rules.iter().cloned());
    state.routes.extend(desired.routes.iter().cloned());
    state.nat.extend(desired.nat.iter().cloned());
    state.sysctls.extend(desired.sysctls.iter().cloned());
    for address in &desired.addresses {
        // The kernel's own route to what is on the link.
        state
            .routes
            .insert(route(TABLE_MAIN, address.net.trunc(), None, &address.link));
    }
    state
}
