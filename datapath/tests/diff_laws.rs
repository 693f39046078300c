//! The laws of the difference of two states, over random pairs of them.
#![allow(clippy::expect_used, reason = "a test")]

use std::collections::BTreeSet;
use std::net::IpAddr;

use datapath::diff::{Change, ChangeSet, diff, name_of};
use datapath::mac::Mac;
use datapath::memory::MemoryKernel;
use datapath::nodeconfig::{METRIC_IPV6, PROTOCOL, TABLE, TUNNELS};
use datapath::reconcile::Kernel;
use datapath::state::{
    Address, Family, Fdb, Link, LinkKind, Nat, Neighbour, NeighbourState, NextHop, NodeState,
    Route, RouteKind, Row, Rule, RuleAction, Sysctl, TABLE_MAIN, Vxlan,
};
use ipnet::IpNet;
use proptest::prelude::*;

fn parsed<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
    text.parse().expect("a literal")
}

fn link(name: &str, kind: LinkKind) -> Link {
    Link {
        name: name.into(),
        index: 0,
        mac: Some(Mac([2, 0, 0, 0, 0, 9])),
        mtu: 1500,
        up: true,
        carrier: true,
        kind,
        master: None,
        tx_dropped: 0,
        rx_dropped: 0,
    }
}

/// What belongs to others and must survive everything.
fn foreign() -> NodeState {
    let mut state = NodeState::default();
    for name in ["eth0", "eth1"] {
        state
            .links
            .insert(link(name, LinkKind::Veth { peer_index: 1 }));
        for leaf in ["forwarding", "rp_filter"] {
            state.sysctls.insert(Sysctl {
                name: format!("net.ipv4.conf.{name}.{leaf}"),
                value: 0,
            });
        }
    }
    state.sysctls.insert(Sysctl {
        name: "net.ipv4.conf.all.forwarding".into(),
        value: 0,
    });
    state.addresses.insert(Address {
        link: "eth0".into(),
        net: parsed("100.64.0.1/24"),
    });
    state
        .routes
        .insert(route("0.0.0.0/0", "eth0", 1, TABLE_MAIN));
    state.rules.insert(rule(100, 99));
    state.neighbours.insert(neighbour("eth0", "100.64.0.2", 1));
    state
}

fn route(dst: &str, link: &str, hop: u8, table: u32) -> Route {
    let dst: IpNet = parsed(dst);
    let (via, metric) = match dst {
        IpNet::V4(_) => (IpAddr::from([220, 0, 0, hop]), 0),
        IpNet::V6(_) => (
            IpAddr::from([0x9470, 0, 0, 0, 0, 0, 0, u16::from(hop)]),
            METRIC_IPV6,
        ),
    };
    Route {
        table,
        dst,
        metric,
        kind: RouteKind::Unicast,
        hops: vec![NextHop {
            via: Some(via),
            link: link.into(),
            onlink: true,
            weight: 1,
            dead: false,
        }],
        src: None,
        protocol: PROTOCOL,
        mtu: None,
    }
}

fn rule(priority: u32, table: u32) -> Rule {
    Rule {
        family: Family::Ipv4,
        priority,
        src: None,
        dst: None,
        iif: None,
        oif: None,
        mark: None,
        finer: None,
        invert: false,
        action: RuleAction::Lookup(table),
    }
}

fn neighbour(link: &str, ip: &str, mac: u8) -> Neighbour {
    Neighbour {
        link: link.into(),
        ip: parsed(ip),
        mac: Some(Mac([2, 0, 0, 0, 1, mac])),
        state: NeighbourState::Permanent,
    }
}

prop_compose! {
    /// A tunnel and what is on it. Rows that a link which is down cannot have are left out.
    fn tunnel(name: &'static str)(
        there in any::<bool>(), mac in 1_u8..3, mtu in 1400_u32..1402, up in any::<bool>(), vni in 54_u32..56, lower in 0_usize..2,
        learning in any::<bool>(),
        addresses in prop::collection::btree_set(0_usize..5, 0..3),
        neighbours in prop::collection::btree_map(0_u8..4, 1_u8..4, 0..4),
        unicast in prop::collection::btree_map(1_u8..4, 1_u8..4, 0..4),
        floods in prop::collection::btree_set(1_u8..5, 0..4),
        routes in prop::collection::btree_map(0_usize..5, 1_u8..4, 0..5),
        filter in 0_i64..3,
    ) -> NodeState {
        let mut state = NodeState::default();
        if !there {
            return state;
        }
        state.links.insert(Link {
            mac: Some(Mac([2, 0, 0, 0, 0, mac])),
            mtu,
            up,
            ..link(name, LinkKind::Vxlan(Vxlan {
                vni,
                port: 4876,
                local: Some(parsed("100.64.0.1")),
                lower: Some(["eth0", "eth1"][lower].into()),
                learning,
            }))
        });
        for leaf in ["forwarding", "rp_filter"] {
            state.sysctls.insert(Sysctl { name: format!("net.ipv4.conf.{name}.{leaf}"), value: filter });
        }
        // At most one length for each address, as for IPv6.
        let mut taken = BTreeSet::new();
        for place in addresses {
            let net: IpNet = parsed(["220.0.0.1/8", "220.0.0.1/16", "220.0.0.2/8", "9470::1/16", "9470::1/64"][place]);
            if (up || net.addr().is_ipv4()) && taken.insert(net.addr()) {
                state.addresses.insert(Address { link: name.into(), net });
            }
        }
        for (mac, dst) in unicast {
            state.fdb.insert(Fdb {
                link: name.into(),
                mac: Mac([2, 0, 0, 0, 2, mac]),
                dst: Some(IpAddr::from([100, 64, 1, dst])),
                permanent: true,
            });
        }
        for dst in floods {
            state.fdb.insert(Fdb {
                link: name.into(),
                mac: Mac::ZERO,
                dst: Some(IpAddr::from([100, 64, 1, dst])),
                permanent: true,
            });
        }
        if up {
            for (ip, mac) in neighbours {
                state.neighbours.insert(neighbour(name, &format!("220.0.1.{ip}"), mac));
            }
            for (place, hop) in routes {
                let dst = ["10.20.0.0/16", "10.21.0.0/16", "10.21.0.0/24", "fd20::/48", "fd21::/48"][place];
                state.routes.insert(route(dst, name, hop, TABLE));
            }
        }
        state
    }
}

prop_compose! {
    fn state()(
        tunnels in (tunnel(TUNNELS[0]), tunnel(TUNNELS[1]), tunnel(TUNNELS[2])),
        has_rule in any::<bool>(),
        nat in prop::collection::btree_set(0_usize..3, 0..3),
        forwarding in 0_i64..2,
    ) -> NodeState {
        let mut state = foreign();
        for part in [tunnels.0, tunnels.1, tunnels.2] {
            state.links.extend(part.links.iter().cloned());
            state.addresses.extend(part.addresses.iter().cloned());
            state.neighbours.extend(part.neighbours.iter().cloned());
            state.fdb.extend(part.fdb.iter().cloned());
            state.routes.extend(part.routes.iter().cloned());
            state.sysctls.extend(part.sysctls.iter().cloned());
        }
        if has_rule {
            state.rules.insert(rule(200, TABLE));
        }
        for place in nat {
            state.nat.insert(match place {
                0 => Nat::Masquerade { src: parsed("220.0.0.0/8"), out: None },
                1 => Nat::Masquerade { src: parsed("210.0.0.0/8"), out: Some("vx-bridge".into()) },
                _ => Nat::Snat { src: parsed("10.0.0.0/8"), out: "vx-bridge".into(), to: parsed("11.0.0.0") },
            });
        }
        state.sysctls.insert(Sysctl { name: "net.ipv4.conf.all.forwarding".into(), value: forwarding });
        state
    }
}

fn applied(set: &ChangeSet, state: &NodeState) -> NodeState {
    let mut kernel = MemoryKernel::new(state.clone());
    kernel.apply(set).expect("every change is possible");
    kernel.state().clone()
}

fn untouched(state: &NodeState) -> bool {
    let reference = foreign();
    reference
        .addresses
        .iter()
        .all(|row| state.addresses.get(&(row.link.clone(), row.net)).is_some())
        && reference
            .routes
            .iter()
            .all(|row| state.routes.get(&(row.table, row.dst, row.metric)) == Some(row))
        && reference
            .rules
            .iter()
            .all(|row| state.rules.get(row).is_some())
        && state
            .neighbours
            .get(&("eth0".to_owned(), parsed::<IpAddr>("100.64.0.2")))
            .is_some()
}

/// Every link that a row stands on.
fn links_of(row: &Row) -> Vec<String> {
    match row {
        Row::Address(row) => vec![row.link.clone()],
        Row::Fdb(row) => vec![row.link.clone()],
        Row::Link(row) => match &row.kind {
            LinkKind::Vxlan(vxlan) => vxlan.lower.iter().cloned().collect(),
            _ => Vec::new(),
        },
        Row::Neighbour(row) => vec![row.link.clone()],
        Row::Route(row) => row.hops.iter().map(|hop| hop.link.clone()).collect(),
        Row::Sysctl(row) => row
            .name
            .split('.')
            .nth(3)
            .filter(|link| *link != "all")
            .map(str::to_owned)
            .into_iter()
            .collect(),
        Row::Nat(_) | Row::Rule(_) => Vec::new(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_difference_from_itself(state in state()) {
        prop_assert!(diff(&state, &state).is_empty());
    }

    #[test]
    fn application_reaches_the_desired_state_and_leaves_others_alone(desired in state(), observed in state()) {
        let after = applied(&diff(&desired, &observed), &observed);
        let left = diff(&desired, &after);
        prop_assert!(left.is_empty(), "{left}");
        prop_assert!(untouched(&after));
    }

    /// A batch whose answers were lost is made once more, so each row by itself can be; a link is made or refused.
    #[test]
    fn twice_is_once(desired in state(), observed in state()) {
        let set = diff(&desired, &observed);
        let once = applied(&set, &observed);
        let is_link = |change: &Change| matches!(change.row(), Row::Link(_));
        let rows = set.changes.into_iter().filter(|change| !is_link(change)).collect();
        prop_assert_eq!(applied(&ChangeSet { changes: rows }, &once), once);
    }

    #[test]
    fn the_reverse_undoes(desired in state(), observed in state()) {
        let set = diff(&desired, &observed);
        let after = applied(&set, &observed);
        let restored = applied(&set.reversed(), &after);
        // Only the settings that the desired state lists are the datapath's.
        let mut before = observed.clone();
        before.sysctls.retain(|row| desired.sysctls.get(&row.name).is_some());
        let left = diff(&before, &restored);
        prop_assert!(left.is_empty(), "{left}\nafter\n{set}\nthen\n{}", set.reversed());
        let lines = |set: &ChangeSet| -> BTreeSet<String> { set.to_string().lines().map(str::to_owned).collect() };
        prop_assert_eq!(lines(&set.reversed().reversed()), lines(&set));
    }

    #[test]
    fn nothing_is_named_before_it_exists_or_after_it_is_gone(desired in state(), observed in state()) {
        let mut there: BTreeSet<String> = observed.links.iter().map(|link| link.name.clone()).collect();
        for change in &diff(&desired, &observed).changes {
            for link in links_of(change.row()) {
                prop_assert!(there.contains(&link), "{} needs {link}", name_of(change.row()));
            }
            match change {
                Change::Add(Row::Link(link)) => drop(there.insert(link.name.clone())),
                Change::Remove(Row::Link(link)) => drop(there.remove(&link.name)),
                _ => {}
            }
        }
    }

    #[test]
    fn a_route_or_neighbour_that_changes_is_never_absent_between(desired in state(), observed in state()) {
        let set = diff(&desired, &observed);
        for change in &set.changes {
            let Change::Remove(row @ (Row::Neighbour(_) | Row::Route(_) | Row::Link(_))) = change else { continue };
            let comes_back = set.changes.iter().any(|other| {
                !matches!(other, Change::Remove(_)) && name_of(other.row()) == name_of(row)
                    && std::mem::discriminant(other.row()) == std::mem::discriminant(row)
            });
            prop_assert!(!comes_back, "{}", name_of(row));
        }
    }

    #[test]
    fn a_change_set_survives_json(desired in state(), observed in state()) {
        let set = diff(&desired, &observed);
        let text = serde_json::to_string(&set).expect("plain data");
        prop_assert_eq!(serde_json::from_str::<ChangeSet>(&text).expect("its own text"), set);
    }
}

#[test]
fn a_change_reads_as_an_administrator_would_say_it() {
    let mut observed = foreign();
    let bridge = Link {
        mtu: 1450,
        ..link(
            "vx-bridge",
            LinkKind::Vxlan(Vxlan {
                vni: 54,
                port: 4876,
                local: Some(parsed("100.64.0.1")),
                lower: Some("eth0".into()),
                learning: false,
            }),
        )
    };
    observed.links.insert(bridge.clone());
    observed
        .routes
        .insert(route("10.21.0.0/16", "vx-bridge", 4, TABLE));
    observed.fdb.insert(Fdb {
        link: "vx-bridge".into(),
        mac: Mac([2, 0, 0, 0, 0, 3]),
        dst: Some(parsed("100.64.0.9")),
        permanent: true,
    });
    let mut desired = foreign();
    desired.links.insert(Link {
        mac: Some(Mac([2, 0, 0, 0, 0, 8])),
        ..bridge
    });
    desired
        .neighbours
        .insert(neighbour("vx-bridge", "220.64.0.3", 3));
    desired
        .routes
        .insert(route("10.21.0.0/16", "vx-bridge", 3, TABLE));
    desired.fdb.insert(Fdb {
        link: "vx-bridge".into(),
        mac: Mac([2, 0, 0, 0, 0, 3]),
        dst: Some(parsed("100.64.0.3")),
        permanent: true,
    });
    desired.nat.insert(Nat::Masquerade {
        src: parsed("220.0.0.0/8"),
        out: None,
    });
    assert_eq!(
        diff(&desired, &observed).to_string(),
        "\
~ link vx-bridge vxlan id 54 port 4876 local 100.64.0.1 dev eth0 address 02:00:00:00:00:08 mtu 1450 up, was vxlan id 54 port 4876 local 100.64.0.1 dev eth0 address 02:00:00:00:00:09 mtu 1450 up
+ neighbour 220.64.0.3 dev vx-bridge lladdr 02:00:00:00:01:03 permanent
~ fdb 02:00:00:00:00:03 dst 100.64.0.3 dev vx-bridge, was 02:00:00:00:00:03 dst 100.64.0.9 dev vx-bridge
~ route 10.21.0.0/16 table 200 via 220.0.0.3 dev vx-bridge onlink, was via 220.0.0.4 dev vx-bridge onlink
+ nat POSTROUTING -s 220.0.0.0/8 -j MASQUERADE
"
    );
}
