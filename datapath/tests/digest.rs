//! Digests: equal exactly where the owned rows are, whatever the order; expected ones as sums of sums; tables out of a plan and
//! differences; and bytes that stay what they are.
#![allow(missing_docs, clippy::expect_used, reason = "a test")]

#[path = "plan/random.rs"]
#[expect(dead_code, reason = "other tests use the rest of it")]
mod random;

use std::collections::BTreeSet;
use std::sync::Arc;

use datapath::digest::{
    Differences, Digest, Digester, Expected, Gateways, Key, MOST_BITS, Scope, bits_for, canonical,
};
use datapath::nodeconfig::{PRIORITY, TABLE, TUNNELS};
use datapath::plan::Planner;
use datapath::state::{
    Address, Family, Fdb, Link, LinkKind, Nat, Neighbour, NeighbourState, NextHop, NodeState,
    Route, RouteKind, Row, Rule, RuleAction, Sysctl, Vxlan,
};
use proptest::prelude::*;
use proptest::sample::{Index, select};

const KEY: Key = Key([9; 16]);

fn all_of(state: &NodeState) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    rows.extend(state.links.iter().cloned().map(Row::Link));
    rows.extend(state.addresses.iter().cloned().map(Row::Address));
    rows.extend(state.neighbours.iter().cloned().map(Row::Neighbour));
    rows.extend(state.fdb.iter().cloned().map(Row::Fdb));
    rows.extend(state.rules.iter().cloned().map(Row::Rule));
    rows.extend(state.routes.iter().cloned().map(Row::Route));
    rows.extend(state.nat.iter().cloned().map(Row::Nat));
    rows.extend(state.sysctls.iter().cloned().map(Row::Sysctl));
    rows
}

/// The row without what is not compared, as text; none where the datapath does not own it. Written apart from the program's own notion.
fn owned(row: &Row, scope: Scope) -> Option<String> {
    let on_tunnel = |link: &str| TUNNELS.contains(&link);
    let is_whole = scope == Scope::Whole;
    let mut row = row.clone();
    let is_owned = match &mut row {
        Row::Address(row) => {
            let is_link_local = match row.net.addr() {
                std::net::IpAddr::V4(ip) => ip.is_link_local(),
                std::net::IpAddr::V6(ip) => ip.is_unicast_link_local(),
            };
            is_whole && on_tunnel(&row.link) && !is_link_local
        }
        Row::Fdb(row) => on_tunnel(&row.link) && row.permanent,
        Row::Link(row) => {
            (row.index, row.carrier, row.tx_dropped, row.rx_dropped) = (0, false, 0, 0);
            if let LinkKind::Veth { peer_index } = &mut row.kind {
                *peer_index = 0;
            }
            is_whole && on_tunnel(&row.name)
        }
        Row::Nat(_) => true,
        Row::Neighbour(row) => on_tunnel(&row.link) && row.state == NeighbourState::Permanent,
        Row::Route(row) => {
            row.protocol = 0;
            for hop in &mut row.hops {
                hop.dead = false;
            }
            row.table == TABLE
        }
        Row::Rule(row) => {
            is_whole && row.priority == PRIORITY && row.action == RuleAction::Lookup(TABLE)
        }
        Row::Sysctl(_) => false,
    };
    is_owned.then(|| serde_json::to_string(&row).expect("plain data"))
}

fn owned_rows(rows: impl IntoIterator<Item = Row>, scope: Scope) -> BTreeSet<String> {
    rows.into_iter()
        .filter_map(|row| owned(&row, scope))
        .collect()
}

fn link(name: &str, kind: LinkKind) -> Link {
    Link {
        name: name.to_owned(),
        index: 7,
        mac: Some(datapath::mac::Mac([2, 0, 0, 0, 0, 7])),
        mtu: 1450,
        up: true,
        carrier: true,
        kind,
        master: None,
        tx_dropped: 0,
        rx_dropped: 0,
    }
}

fn vxlan() -> LinkKind {
    LinkKind::Vxlan(Vxlan {
        vni: 54,
        port: 4876,
        local: Some([100, 64, 0, 1].into()),
        lower: Some("eth0".to_owned()),
        learning: false,
    })
}

/// A row of few values, so that two of them often have one key.
fn row() -> impl Strategy<Value = Row> {
    let name = || select(vec!["vx-bridge", "vx-local-6", "eth0"]).prop_map(str::to_owned);
    let ip = || {
        select(vec!["10.0.0.1", "10.0.0.2", "fd00::1"])
            .prop_map(|ip| ip.parse().expect("an address"))
    };
    let net = || {
        select(vec!["10.0.0.0/8", "10.0.0.1/16", "fd00::/16", "fe80::1/64"])
            .prop_map(|net| net.parse().expect("a prefix"))
    };
    let mac = || (0..2_u8).prop_map(|last| datapath::mac::Mac([2, 0, 0, 0, 0, last]));
    let hop = (
        prop::option::of(ip()),
        name(),
        any::<bool>(),
        1..3_u16,
        any::<bool>(),
    )
        .prop_map(|(via, link, onlink, weight, dead)| NextHop {
            via,
            link,
            onlink,
            weight,
            dead,
        });
    let kind = select(vec![
        RouteKind::Unicast,
        RouteKind::Blackhole,
        RouteKind::Throw,
    ]);
    let route = (
        select(vec![TABLE, 254]),
        net(),
        0..2_u32,
        kind,
        prop::collection::vec(hop, 0..3),
        prop::option::of(ip()),
        3..5_u8,
        prop::option::of(1300..1302_u32),
    )
        .prop_map(
            |(table, dst, metric, kind, hops, src, protocol, mtu): (
                _,
                ipnet::IpNet,
                _,
                _,
                _,
                _,
                _,
                _,
            )| {
                Row::Route(Route {
                    table,
                    dst: dst.trunc(),
                    metric,
                    kind,
                    hops,
                    src,
                    protocol,
                    mtu,
                })
            },
        );
    let state = select(vec![
        NeighbourState::Permanent,
        NeighbourState::Dynamic,
        NeighbourState::Failed,
    ]);
    let nat = prop_oneof![
        (net(), prop::option::of(name())).prop_map(|(src, out)| Nat::Masquerade { src, out }),
        (net(), name(), net()).prop_map(|(dst, input, to)| Nat::Netmap { dst, input, to }),
        (net(), name(), ip()).prop_map(|(src, out, to)| Nat::Snat { src, out, to }),
    ];
    let kinds = select(vec![
        LinkKind::Bridge,
        vxlan(),
        LinkKind::Veth { peer_index: 3 },
        LinkKind::Other {
            name: "dummy".to_owned(),
        },
    ]);
    let link = (
        name(),
        kinds,
        any::<bool>(),
        1..3_u32,
        prop::option::of(name()),
    )
        .prop_map(|(name, kind, up, index, master)| {
            Row::Link(Link {
                up,
                index,
                master,
                ..self::link(&name, kind)
            })
        });
    let rule = (
        select(vec![Family::Ipv4, Family::Ipv6]),
        select(vec![PRIORITY, 201]),
        (prop::option::of(net()), prop::option::of(net())),
        (prop::option::of(name()), prop::option::of(name())),
        prop::option::of((0..2_u32, 0..2_u32)),
        any::<bool>(),
        select(vec![
            RuleAction::Lookup(TABLE),
            RuleAction::Lookup(254),
            RuleAction::Other(3),
        ]),
    )
        .prop_map(
            |(family, priority, (src, dst), (iif, oif), mark, invert, action)| {
                Row::Rule(Rule {
                    family,
                    priority,
                    src,
                    dst,
                    iif,
                    oif,
                    mark,
                    finer: None,
                    invert,
                    action,
                })
            },
        );
    prop_oneof![
        (name(), net()).prop_map(|(link, net)| Row::Address(Address { link, net })),
        (name(), mac(), prop::option::of(ip()), any::<bool>()).prop_map(
            |(link, mac, dst, permanent)| Row::Fdb(Fdb {
                link,
                mac,
                dst,
                permanent
            })
        ),
        link,
        nat.prop_map(Row::Nat),
        (name(), ip(), prop::option::of(mac()), state).prop_map(|(link, ip, mac, state)| {
            Row::Neighbour(Neighbour {
                link,
                ip,
                mac,
                state,
            })
        }),
        route,
        rule,
        (0..2_i64).prop_map(|value| Row::Sysctl(Sysctl {
            name: "net.ipv4.conf.vx-bridge.rp_filter".to_owned(),
            value
        })),
    ]
}

fn state_of(rows: &[Row]) -> NodeState {
    let mut state = NodeState::default();
    for row in rows {
        state.put(row.clone());
    }
    state
}

fn scope() -> impl Strategy<Value = Scope> {
    select(vec![Scope::Tables, Scope::Whole])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn digests_are_equal_exactly_where_the_owned_rows_are(
        rows in prop::collection::vec(row(), 0..12),
        other in row(),
        at in any::<Index>(),
        how in 0..3_u8,
        scope in scope(),
        bits in 0..6_u8,
    ) {
        let mut changed = rows.clone();
        match how {
            0 => changed.push(other),
            1 if !changed.is_empty() => drop(changed.remove(at.index(rows.len()))),
            _ if !changed.is_empty() => changed[at.index(rows.len())] = other,
            _ => {}
        }
        let (left, right) = (state_of(&rows), state_of(&changed));
        let digester = Digester::new(KEY, scope, bits);
        prop_assert_eq!(
            digester.of(&left) == digester.of(&right),
            owned_rows(all_of(&left), scope) == owned_rows(all_of(&right), scope)
        );
    }

    #[test]
    fn sums_know_no_order_and_rows_come_and_go_one_by_one(
        rows in prop::collection::vec(row(), 0..12).prop_shuffle(),
        scope in scope(),
        bits in 0..6_u8,
    ) {
        let state = state_of(&rows);
        let digester = Digester::new(KEY, scope, bits);
        let whole = digester.of(&state);
        let mut sum = digester.empty();
        for row in all_of(&state).iter().rev() {
            digester.add(&mut sum, row);
        }
        prop_assert_eq!(&sum, &whole);
        for fewer in 0..=bits {
            prop_assert_eq!(whole.folded(fewer), Digester::new(KEY, scope, fewer).of(&state));
        }
        for row in all_of(&state) {
            digester.subtract(&mut sum, &row);
        }
        prop_assert_eq!(sum, digester.empty());
        let json = serde_json::to_string(&whole).expect("plain data");
        prop_assert_eq!(serde_json::from_str::<Digest>(&json).expect("a digest"), whole);
    }

    #[test]
    fn what_is_expected_is_the_sum_of_the_rows_of_the_plan(fleet in random::fleet(), bits in 0..6_u8) {
        let planner = Arc::new(Planner::of(&fleet));
        let digester = Digester::new(KEY, Scope::Tables, bits);
        let mut expected = Expected::new(&planner, digester);
        for node in planner.nodes() {
            let digest = expected.of(node).expect("a node");
            let digester = digester.with_gateways(digest.gateways());
            let mut sum = digester.empty();
            for row in planner.rows(node).expect("a node") {
                let row = Row::from(row);
                digester.add(&mut sum, &row);
            }
            prop_assert_eq!(digest, sum, "{}", node);
        }
        prop_assert_eq!(expected.of("nobody"), None);
    }

    #[test]
    fn the_plan_with_the_differences_laid_over_is_what_is_there(
        fleet in random::fleet(),
        others in prop::collection::vec(row(), 0..6),
        gone in prop::collection::vec(any::<Index>(), 0..6),
        bits in 0..6_u8,
    ) {
        let planner = Arc::new(Planner::of(&fleet));
        let digester = Digester::new(KEY, Scope::Tables, bits);
        let mut expected = Expected::new(&planner, digester);
        for node in planner.nodes() {
            let mut rows: Vec<Row> = planner.rows(node).expect("a node").map(Row::from).collect();
            for at in &gone {
                if !rows.is_empty() {
                    rows.remove(at.index(rows.len()));
                }
            }
            rows.extend(others.iter().cloned());
            let observed = state_of(&rows);
            let digest = expected.of(node).expect("a node");
            let answer = Digester::like(KEY, &digest).differences(&observed, &digest).expect("alike");
            let json = serde_json::to_string(&answer).expect("plain data");
            let answer: Differences = serde_json::from_str(&json).expect("differences");
            let digester = digester.with_gateways(digest.gateways());
            prop_assert_eq!(answer.is_empty(), digester.of(&observed) == digest);
            let built: Vec<Row> = expected.laid_over(node, &answer).expect("a node").collect();
            let count = built.len();
            let built = owned_rows(built, Scope::Tables);
            prop_assert_eq!(built.len(), count, "no row twice and none that is not owned");
            prop_assert_eq!(built, owned_rows(all_of(&observed), Scope::Tables));
        }
    }
}

fn through(gateway: u8, scope: Scope) -> Digester {
    let gateways = Gateways {
        ipv4: Some([10, 0, 0, gateway].into()),
        ipv6: None,
    };
    Digester::new(KEY, scope, 2).with_gateways(gateways)
}

#[test]
fn what_leads_through_ones_own_gateway_is_alike_wherever_that_is() {
    let route = |gateway: u8| {
        let mut state = NodeState::default();
        state.put(Row::Route(Route {
            table: TABLE,
            dst: "10.9.0.0/16".parse().expect("a prefix"),
            metric: 0,
            kind: RouteKind::Unicast,
            hops: vec![NextHop {
                via: Some([10, 0, 0, gateway].into()),
                link: "vx-local".to_owned(),
                onlink: true,
                weight: 1,
                dead: false,
            }],
            src: None,
            protocol: 0,
            mtu: None,
        }));
        state
    };
    let sums = |node: u8, via: u8| {
        let digest = through(node, Scope::Tables).of(&route(via));
        digest.sums().to_vec()
    };
    assert_eq!(sums(1, 1), sums(2, 2));
    assert_ne!(sums(1, 1), sums(1, 2));
    assert_ne!(sums(1, 2), sums(2, 1));
}

#[test]
fn digests_of_two_kinds_are_not_compared() {
    let tables = Digest::empty(Scope::Tables, 2);
    for (other, what) in [
        (Digest::empty(Scope::Whole, 2), "scope"),
        (Digest::empty(Scope::Tables, 3), "number of bits"),
        (through(1, Scope::Tables).empty(), "gateway"),
    ] {
        let error = tables.differing(&other).expect_err("two kinds");
        assert_eq!(error.what, what);
    }
    let state = NodeState::default();
    let digester = Digester::new(KEY, Scope::Whole, 2);
    assert!(digester.differences(&state, &tables).is_err());
}

#[test]
fn written_digests_are_held_to_their_form() {
    for json in [
        r#"{"version": 1, "scope": "tables", "bits": 0, "sums": "00000000000000000000000000000000"}"#,
        r#"{"version": 2, "scope": "tables", "bits": 0, "gateways": {"ipv4": "fd00::1"}, "sums": "00000000000000000000000000000000"}"#,
        r#"{"version": 2, "scope": "tables", "bits": 1, "sums": "00000000000000000000000000000000"}"#,
        r#"{"version": 2, "scope": "tables", "bits": 0, "sums": "+0000000000000000000000000000000"}"#,
        r#"{"version": 2, "scope": "tables", "bits": 200, "sums": ""}"#,
    ] {
        assert!(serde_json::from_str::<Digest>(json).is_err(), "{json}");
    }
}

#[test]
fn the_number_of_buckets_grows_with_the_root_of_the_rows() {
    let bits: Vec<u8> = [0, 1, 100, 20_000, 1 << 40].map(bits_for).into();
    assert_eq!(bits, [0, 1, 5, 9, MOST_BITS]);
}

/// One row of each kind and shape, its canonical bytes, and the sum of its digest under [`KEY`].
#[test]
fn bytes_and_hashes_are_those_of_the_second_version() {
    let ip = |text: &str| text.parse().expect("an address");
    let net = |text: &str| text.parse().expect("a prefix");
    let link_name = || "vx-bridge".to_owned();
    let mac = datapath::mac::Mac([2, 0, 0, 0, 0, 1]);
    let rows = [
        Row::Address(Address {
            link: link_name(),
            net: net("220.64.0.1/8"),
        }),
        Row::Fdb(Fdb {
            link: link_name(),
            mac,
            dst: Some(ip("100.64.1.1")),
            permanent: true,
        }),
        Row::Link(link("vx-bridge", vxlan())),
        Row::Neighbour(Neighbour {
            link: link_name(),
            ip: ip("fd00::1"),
            mac: Some(mac),
            state: NeighbourState::Permanent,
        }),
        Row::Route(Route {
            table: TABLE,
            dst: net("10.21.0.0/16"),
            metric: 0,
            kind: RouteKind::Unicast,
            hops: vec![NextHop {
                via: Some(ip("220.64.1.1")),
                link: link_name(),
                onlink: true,
                weight: 1,
                dead: false,
            }],
            src: None,
            protocol: 3,
            mtu: Some(1400),
        }),
        Row::Rule(Rule {
            family: Family::Ipv4,
            priority: PRIORITY,
            src: None,
            dst: Some(net("10.0.0.0/8")),
            iif: Some("eth0".to_owned()),
            oif: None,
            mark: Some((1, 255)),
            finer: None,
            invert: false,
            action: RuleAction::Lookup(TABLE),
        }),
        Row::Nat(Nat::Masquerade {
            src: net("220.0.0.0/8"),
            out: None,
        }),
        Row::Nat(Nat::Netmap {
            dst: net("10.201.0.0/16"),
            input: link_name(),
            to: net("10.21.0.0/16"),
        }),
        Row::Nat(Nat::Snat {
            src: net("10.21.0.0/16"),
            out: link_name(),
            to: ip("10.201.0.0"),
        }),
    ];
    let digester = Digester::new(KEY, Scope::Whole, 0);
    let told: Vec<(String, String)> = rows
        .iter()
        .map(|row| {
            let bytes = canonical(row).expect("an owned row");
            let hex = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            let mut digest = digester.empty();
            digester.add(&mut digest, row);
            (hex, format!("{:032x}", digest.sums()[0]))
        })
        .collect();
    let expected = VECTORS.map(|(bytes, sum)| (bytes.to_owned(), sum.to_owned()));
    assert_eq!(told, expected);
}

/// The hashes were also computed by another implementation of SipHash; the first eight bytes of its output are the low half, lowest byte
/// first.
const VECTORS: [(&str, &str); 9] = [
    (
        "01000976782d62726964676504dc40000108",
        "2dbdcee0104f2d23550e4978a11039d3",
    ),
    (
        "02000976782d627269646765020000000001010464400101",
        "6e6092a23835796eec7d88e38786bb1c",
    ),
    (
        "03000976782d62726964676501020000000007000005aa010500000036130c010464400001010004657468300000",
        "b72d2a4d5e44a267751583906afca261",
    ),
    (
        "04000976782d62726964676506fd00000000000000000000000000000101020000000001",
        "3e98f119bb34a91bf98c0551caaaed54",
    ),
    (
        "05000000c8040a15000010000000000500010000057800010104dc400101000976782d627269646765010001",
        "1e4ba219dc304f2e6ccfb1d5bb4b3314",
    ),
    (
        "0604000000c80001040a0000000801000465746830000100000001000000ff0002000000c8",
        "a8cca197dfbc943bd525f4e8a388da3d",
    ),
    ("070104dc0000000800", "3d53b6c8697c42e3d1be55240b98cab7"),
    (
        "0702040ac9000010000976782d627269646765040a15000010",
        "6531a69ecd0341aca5772e50f5363142",
    ),
    (
        "0703040a15000010000976782d627269646765040ac90000",
        "bf16b429bac5387e404fdbb6c97bb59d",
    ),
];
