//! A layered node is the same as one with all its rows: between all pairs, in both families, whatever differs from the plan.
#![allow(missing_docs, clippy::expect_used, reason = "a test")]

#[path = "plan/random.rs"]
mod random;

use std::net::IpAddr;
use std::sync::Arc;

use datapath::api::{Fleet, NetworkType};
use datapath::digest::{Digester, Expected, Key, Scope};
use datapath::mac::Mac;
use datapath::nodeconfig::TABLE;
use datapath::plan::Planner;
use datapath::state::{
    Address, Fdb, Link, LinkKind, Neighbour, NeighbourState, NextHop, NodeState, Route, RouteKind,
    Row, Sysctl,
};
use datapath::walk::{Layer, Packet, World, round_trip};
use ipnet::IpNet;
use proptest::prelude::*;
use proptest::sample::{Index, select};

/// A fleet in which paths work, unless a difference breaks them: cluster `c` has the nodes 100.64.c.n, the pods 10.c.0.0/16, and a
/// mode of its own.
fn fleet(modes: &[NetworkType]) -> Fleet {
    let mut clusters = Vec::new();
    let mut nodes = Vec::new();
    for (cluster, mode) in modes.iter().enumerate() {
        clusters.push(serde_json::json!({
            "metadata": {"name": format!("c{cluster}")},
            "spec": {"clusterLinkOptions": {"networkType": mode, "ipFamily": "all"}},
            "status": {"clusterLinkStatus": {
                "podCIDRs": [format!("10.{cluster}.0.0/16"), format!("fd10:{cluster}::/32")],
                "serviceCIDRs": [format!("10.{}.0.0/16", 100 + cluster)],
            }},
        }));
        for node in 0..2 {
            let roles: &[&str] = if node == 0 { &["gateway"] } else { &[] };
            nodes.push(serde_json::json!({
                "metadata": {"name": format!("c{cluster}-n{node}")},
                "spec": {
                    "clusterName": format!("c{cluster}"), "nodeName": format!("n{node}"), "interfaceName": "eth0", "roles": roles,
                    "ip": underlay(cluster, node, false), "ip6": underlay(cluster, node, true),
                    "podCIDRs": [format!("10.{cluster}.{node}.0/24"), format!("fd10:{cluster}:{node}::/48")],
                },
            }));
        }
    }
    serde_json::from_value(serde_json::json!({"clusters": clusters, "clusterNodes": nodes}))
        .expect("a fleet")
}

fn underlay(cluster: usize, node: usize, is_ipv6: bool) -> String {
    if is_ipv6 {
        format!("fd64:{cluster}::{}", node + 1)
    } else {
        format!("100.64.{cluster}.{}", node + 1)
    }
}

/// The node's own pods, and the way to those of the other node of its cluster.
fn add_pods(state: &mut NodeState, spec: &datapath::api::ClusterNodeSpec, fleet: &Fleet) {
    let name = || "cni0".to_owned();
    let template = state
        .links
        .iter()
        .next()
        .expect("the underlay link")
        .clone();
    state.links.insert(Link {
        name: name(),
        index: 3,
        kind: LinkKind::Bridge,
        ..template
    });
    let nets = |spec: &datapath::api::ClusterNodeSpec| -> Vec<IpNet> {
        let nets = spec.pod_cidrs.iter();
        nets.filter_map(|cidr| cidr.parse().ok()).collect()
    };
    for net in nets(spec) {
        let first = net.hosts().nth(usize::from(net.addr().is_ipv6()));
        let net = IpNet::new(first.expect("a host"), net.prefix_len()).expect("a length");
        state.addresses.insert(Address { link: name(), net });
    }
    for other in &fleet.cluster_nodes {
        let other = &other.spec;
        if other.cluster_name != spec.cluster_name || other.node_name == spec.node_name {
            continue;
        }
        for dst in nets(other) {
            let via = if dst.addr().is_ipv6() {
                &other.ip6
            } else {
                &other.ip
            };
            let Ok(via) = via.parse() else { continue };
            state.routes.insert(Route {
                table: 254,
                dst: dst.trunc(),
                metric: 0,
                kind: RouteKind::Unicast,
                hops: vec![NextHop {
                    via: Some(via),
                    link: "eth0".to_owned(),
                    onlink: true,
                    weight: 1,
                    dead: false,
                }],
                src: None,
                protocol: 3,
                mtu: None,
            });
        }
    }
}

/// What differs at one node.
#[derive(Debug, Clone)]
struct Faults {
    gone: Vec<Index>,
    added: Vec<Row>,
    /// A tunnel that was deleted, with its rows.
    deleted: Option<&'static str>,
}

fn added() -> impl Strategy<Value = Row> {
    let link =
        || select(vec!["vx-bridge", "vx-local", "vx-bridge-6", "eth0"]).prop_map(str::to_owned);
    let net = select(vec![
        "10.1.0.0/16",
        "10.2.0.0/17",
        "0.0.0.0/0",
        "10.0.0.0/8",
        "fd10:1::/32",
        "fd10:2::/40",
        "220.64.1.1/32",
    ]);
    let kind = select(vec![
        RouteKind::Unicast,
        RouteKind::Unicast,
        RouteKind::Blackhole,
        RouteKind::Throw,
    ]);
    let via = || {
        select(vec!["220.64.1.1", "220.64.2.1", "210.64.0.1", "9470:1::1"])
            .prop_map(|ip| ip.parse::<IpAddr>().expect("an address"))
    };
    let remote = select(vec!["100.64.1.1", "100.64.2.1", "100.64.9.9", "fd64:1::1"])
        .prop_map(|ip| ip.parse::<IpAddr>().expect("an address"));
    let mac = || {
        prop_oneof![
            Just(Mac::ZERO),
            (0..3_u8).prop_map(|cluster| Mac::derived(&[
                &format!("c{cluster}"),
                "n0",
                "vx-bridge"
            ])),
        ]
    };
    let route = (
        select(vec![TABLE, 254]),
        net,
        select(vec![0, 10, 1024, 2000]),
        kind,
        via(),
        link(),
        any::<bool>(),
    )
        .prop_map(|(table, dst, metric, kind, via, link, dead)| {
            let dst: IpNet = dst.parse().expect("a prefix");
            let hop = NextHop {
                via: Some(via),
                link,
                onlink: true,
                weight: 1,
                dead,
            };
            let hops = if kind == RouteKind::Unicast {
                vec![hop]
            } else {
                Vec::new()
            };
            Row::Route(Route {
                table,
                dst,
                metric,
                kind,
                hops,
                src: None,
                protocol: 3,
                mtu: None,
            })
        });
    let state = select(vec![
        NeighbourState::Permanent,
        NeighbourState::Failed,
        NeighbourState::Dynamic,
    ]);
    prop_oneof![
        route.clone(),
        route,
        (link(), via(), prop::option::of(mac()), state).prop_map(|(link, ip, mac, state)| {
            Row::Neighbour(Neighbour {
                link,
                ip,
                mac,
                state,
            })
        }),
        (link(), mac(), remote, any::<bool>()).prop_map(|(link, mac, dst, permanent)| Row::Fdb(
            Fdb {
                link,
                mac,
                dst: Some(dst),
                permanent
            }
        )),
        Just(Row::Sysctl(Sysctl {
            name: "net.ipv4.conf.vx-bridge.rp_filter".to_owned(),
            value: 1
        })),
    ]
}

fn faults() -> impl Strategy<Value = Faults> {
    let gone = prop::collection::vec(any::<Index>(), 0..4);
    let deleted = prop_oneof![
        8 => Just(None),
        1 => Just(Some("vx-bridge")),
        1 => Just(Some("vx-local")),
    ];
    (gone, prop::collection::vec(added(), 0..4), deleted).prop_map(|(gone, added, deleted)| {
        Faults {
            gone,
            added,
            deleted,
        }
    })
}

/// The same worlds: of whole states, of layers with hidden rows, and of layers out of digests.
struct Worlds {
    full: World,
    layered: World,
    digested: World,
}

fn worlds(fleet: &Fleet, faults: &[Faults]) -> Worlds {
    let planner = Arc::new(Planner::of(fleet));
    let digester = Digester::new(Key([3; 16]), Scope::Tables, 3);
    let mut expected = Expected::new(&planner, digester);
    let mut worlds = [World::new(), World::new(), World::new()];
    for world in &mut worlds {
        world.assume_underlay(true);
    }
    let [mut full, mut layered, mut digested] = worlds;
    for (at, node) in planner.nodes().enumerate() {
        let faults = &faults[at % faults.len()];
        let object = fleet
            .cluster_nodes
            .iter()
            .find(|object| object.metadata.name == node);
        let spec = &object.expect("its ClusterNode").spec;
        let addresses: Vec<String> = [(&spec.ip, 10), (&spec.ip6, 16)]
            .into_iter()
            .filter(|(ip, _)| ip.parse::<IpAddr>().is_ok())
            .map(|(ip, length)| format!("{ip}/{length}"))
            .collect();
        let mut bare = random::bare(&addresses.iter().map(String::as_str).collect::<Vec<_>>());
        add_pods(&mut bare, spec, fleet);
        let planned: Vec<_> = planner.rows(node).expect("a node").collect();
        let gone: Vec<_> = faults
            .gone
            .iter()
            .filter(|_| !planned.is_empty())
            .map(|at| planned[at.index(planned.len())])
            .collect();
        let differ = |wanted: NodeState| {
            let mut state = bare.clone();
            wanted.rows().for_each(|row| state.put(row));
            for row in &gone {
                match Row::from(*row) {
                    Row::Fdb(row) => state.fdb.retain(|held| *held != row),
                    Row::Nat(row) => state.nat.retain(|held| *held != row),
                    Row::Neighbour(row) => state.neighbours.retain(|held| *held != row),
                    Row::Route(row) => state.routes.retain(|held| *held != row),
                    _ => {}
                }
            }
            let has = |state: &NodeState, link: &str| state.links.get(link).is_some();
            if let Some(link) = faults.deleted {
                state.links.retain(|row| row.name != link);
                state.addresses.retain(|row| row.link != link);
                state.neighbours.retain(|row| row.link != link);
                state.fdb.retain(|row| row.link != link);
                state
                    .routes
                    .retain(|row| row.hops.iter().all(|hop| hop.link != link));
            }
            for row in &faults.added {
                let is_there = match row {
                    Row::Fdb(row) => has(&state, &row.link),
                    Row::Neighbour(row) => has(&state, &row.link),
                    Row::Route(row) => row.hops.iter().all(|hop| has(&state, &hop.link)),
                    _ => true,
                };
                if is_there {
                    state.put(row.clone());
                }
            }
            state
        };
        let whole = differ(planner.desired(node, &bare).expect("a node").0);
        let mut own = differ(planner.desired_own(node, &bare).expect("a node").0);
        // Which next hop a flow takes is set where routes have several, and these are the layer's: the node's own rows do not tell.
        let sticky = whole.sysctls.iter();
        let sticky = sticky.filter(|row| row.name.contains("fib_multipath_hash"));
        own.sysctls.extend(sticky.cloned());
        let layer = Layer::new(&planner, node)
            .expect("a node")
            .hiding(gone.iter().copied());
        assert_eq!(layer.over(&own), whole, "{node}");
        layered.insert_layered(node, &own, layer);

        let digest = expected.of(node).expect("a node");
        let answer = digester.differences(&whole, &digest).expect("alike");
        let mut local = whole.clone();
        // What the digest counts is not sent beside it.
        local
            .neighbours
            .retain(|row| digester.bucket(&Row::Neighbour(row.clone())).is_none());
        local
            .fdb
            .retain(|row| digester.bucket(&Row::Fdb(row.clone())).is_none());
        local
            .routes
            .retain(|row| digester.bucket(&Row::Route(row.clone())).is_none());
        local.nat.retain(|_| false);
        let (own, layer) =
            Layer::observed(&planner, node, local, digester, &answer).expect("a node");
        assert_eq!(layer.over(&own), whole, "{node}");
        digested.insert_layered(node, &own, layer);
        full.insert(node, whole);
    }
    Worlds {
        full,
        layered,
        digested,
    }
}

fn assert_same(worlds: &Worlds, targets: &[IpAddr]) -> usize {
    let nodes: Vec<String> = worlds.full.nodes().map(str::to_owned).collect();
    let mut answered = 0;
    for node in &nodes {
        for src in targets {
            for dst in targets
                .iter()
                .filter(|dst| dst.is_ipv4() == src.is_ipv4() && *dst != src)
            {
                for src in [
                    *src,
                    if dst.is_ipv4() {
                        [0; 4].into()
                    } else {
                        [0; 16].into()
                    },
                ] {
                    let packet = Packet::udp(src, *dst, 8889);
                    let full = round_trip(&worlds.full, node, None, packet);
                    assert_eq!(round_trip(&worlds.layered, node, None, packet), full);
                    assert_eq!(round_trip(&worlds.digested, node, None, packet), full);
                    answered += usize::from(full.1.is_some());
                }
            }
        }
    }
    answered
}

fn targets(count: usize) -> Vec<IpAddr> {
    let parse = |text: String| text.parse().expect("an address");
    (0..count)
        .flat_map(|cluster| {
            [
                parse(format!("10.{cluster}.0.1")),
                parse(format!("10.{cluster}.1.1")),
                parse(format!("fd10:{cluster}:1::1")),
            ]
        })
        .collect()
}

#[test]
fn a_layered_fleet_without_differences_works() {
    let modes = [NetworkType::Gateway, NetworkType::P2p, NetworkType::Gateway];
    let none = Faults {
        gone: Vec::new(),
        added: Vec::new(),
        deleted: None,
    };
    let answered = assert_same(&worlds(&fleet(&modes), &[none]), &targets(3));
    // Six nodes to the five others' IPv4 pods and, where they are not internal, to the IPv6 ones, with a source given and without.
    assert!(answered >= 80, "{answered}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn layered_nodes_of_a_fleet_in_order_walk_as_full_ones(
        modes in prop::collection::vec(select(vec![NetworkType::Gateway, NetworkType::P2p]), 2..4),
        faults in prop::collection::vec(faults(), 6),
    ) {
        assert_same(&worlds(&fleet(&modes), &faults), &targets(modes.len()));
    }

    #[test]
    fn layered_nodes_of_any_fleet_walk_as_full_ones(
        fleet in random::fleet(),
        faults in prop::collection::vec(faults(), 6),
    ) {
        let worlds = worlds(&fleet, &faults);
        let targets = ["10.1.2.9", "10.2.0.9", "10.9.9.9", "220.64.0.1", "100.64.0.2", "fd10:1::9", "fd10:2::9", "9470::1"];
        assert_same(&worlds, &targets.map(|ip| ip.parse().expect("an address")));
    }
}
