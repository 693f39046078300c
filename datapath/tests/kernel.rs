//! The kernel's tables against the model's, in namespaces of their own.
#![cfg(feature = "kernel")]
#![allow(clippy::expect_used, reason = "a test")]

#[path = "kernel/namespace.rs"]
mod namespace;
#[path = "kernel/underlay.rs"]
mod underlay;

use std::net::IpAddr;

use datapath::api::{Fleet, NodeConfigSpec};
use datapath::diff::{Change, ChangeSet, diff};
use datapath::kernel::{Followed, LinuxKernel, Monitor};
use datapath::mac::Mac;
use datapath::nodeconfig::{TABLE, desired};
use datapath::plan::plan;
use datapath::reconcile::{Kernel, reconcile};
use datapath::state::{
    Address, Fdb, Link, LinkKind, Nat, Neighbour, NeighbourState, NextHop, NodeState, Route,
    RouteKind, Row, Sysctl, TABLE_LOCAL, Vxlan,
};
use datapath::table::Table;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde_json::json;

use namespace::in_namespace;
use underlay::underlay;

fn parsed<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
    text.parse().expect("a literal")
}

/// Node n1 of cluster a, gateway of a gateway-mode cluster with one internal node, against a P2P cluster of `peers` nodes.
fn config(family: &str, peers: usize) -> NodeConfigSpec {
    let mut nodes = vec![
        json!({"metadata": {"name": "a-n1"}, "spec": {"clusterName": "a", "nodeName": "n1", "ip": "100.64.0.1", "ip6": "fd64::1",
            "roles": ["gateway"], "interfaceName": "und.1"}}),
        json!({"metadata": {"name": "a-n2"}, "spec": {"clusterName": "a", "nodeName": "n2", "ip": "100.64.0.2", "ip6": "fd64::2",
            "interfaceName": "und.1"}}),
    ];
    for peer in 0..peers {
        let (high, low) = (peer / 250, peer % 250 + 1);
        nodes.push(json!({"metadata": {"name": format!("b-n{peer}")}, "spec": {"clusterName": "b", "nodeName": format!("n{peer}"),
            "ip": format!("100.65.{high}.{low}"), "ip6": format!("fd64::1:{high:x}:{low:x}"), "interfaceName": "eth0",
            "podCIDRs": [format!("10.{}.{low}.0/24", 100 + high), format!("fd20:0:{high:x}:{low:x}::/64")]}}));
    }
    let fleet: Fleet = serde_json::from_value(json!({
        "clusters": [
            {"metadata": {"name": "a"}, "spec": {"clusterLinkOptions": {"networkType": "gateway", "ipFamily": family,
                "globalCIDRsMap": {"10.20.0.0/16": "10.220.0.0/16", "fd10::/48": "fd99::/48"}}},
             "status": {"clusterLinkStatus": {"podCIDRs": ["10.20.0.0/16", "fd10::/48"], "serviceCIDRs": ["10.96.0.0/16"]}}},
            {"metadata": {"name": "b"}, "spec": {"clusterLinkOptions": {"networkType": "p2p", "ipFamily": family}}}],
        "clusterNodes": nodes,
    }))
    .expect("a fleet");
    let plan = plan(&fleet);
    assert_eq!(plan.objections, []);
    plan.configs["a-n1"].clone()
}

fn prepared(family: &str) -> LinuxKernel {
    let mut kernel = LinuxKernel::open().expect("netlink sockets");
    let addresses: &[&str] = match family {
        "ipv4" => &["100.64.0.1/16"],
        "ipv6" => &["fd64::1/64"],
        _ => &["100.64.0.1/16", "fd64::1/64"],
    };
    kernel
        .apply(&underlay("und.1", addresses))
        .expect("an underlay");
    kernel
}

fn assert_verified(done: &datapath::reconcile::Reconciled) {
    assert_eq!(done.problems, []);
    assert!(done.left.is_empty(), "left:\n{}", done.left);
}

#[test]
#[ignore = "netns: needs vxlan, nft"]
fn a_plan_is_applied_verified_and_withdrawn_in_every_family() {
    for family in ["ipv4", "ipv6", "all"] {
        in_namespace(|| {
            let mut kernel = prepared(family);
            let before = kernel.observe().expect("an observation");
            let config = config(family, 3);
            let done = reconcile(&mut kernel, &config).expect("a reconciliation");
            assert_verified(&done);
            let first_round = diff(&desired(&config, &before).0, &before);
            assert_eq!(
                done.applied, first_round,
                "{family}: one round is enough:\n{}",
                done.applied
            );

            let state = kernel.observe().expect("an observation");
            let (wanted, _) = desired(&config, &state);
            for link in &wanted.links {
                let there = state.links.get(&link.name).expect("the tunnel");
                assert_eq!((there.mtu, &there.kind), (link.mtu, &link.kind));
            }
            assert_eq!(state.nat, wanted.nat, "{family}");
            assert!(kernel.is_nat_readable());

            let again = reconcile(&mut kernel, &config).expect("a reconciliation");
            assert!(again.applied.is_empty(), "{family}:\n{}", again.applied);

            let gone =
                reconcile(&mut kernel, &NodeConfigSpec::default()).expect("a reconciliation");
            assert_verified(&gone);
            let after = kernel.observe().expect("an observation");
            let names = |state: &NodeState| -> Vec<String> {
                state.links.iter().map(|link| link.name.clone()).collect()
            };
            assert_eq!(names(&after), names(&before), "{family}");
            // Forwarding, which stays on, adds an anycast address to the local table.
            let routes = |state: &NodeState| -> Vec<Route> {
                let rows = state.routes.iter();
                rows.filter(|row| row.table != TABLE_LOCAL)
                    .cloned()
                    .collect()
            };
            assert_eq!(routes(&after), routes(&before), "{family}");
            assert_eq!(after.rules, before.rules, "{family}");
            assert_eq!(after.nat, Table::default(), "{family}");
        });
    }
}

/// One administrator's act, and whether it is reported.
type Drift = (&'static str, Vec<Change>);

fn drifts(state: &NodeState) -> Vec<Drift> {
    let link = |name: &str| state.links.get(name).expect("a tunnel").clone();
    let replaced = |from: &Link, to: Link| {
        vec![Change::Replace {
            from: Row::Link(from.clone()),
            to: Row::Link(to),
        }]
    };
    let bridge = link("vx-bridge");
    let bridge_6 = link("vx-bridge-6");
    let on_bridge = |row: &Fdb| row.link == "vx-bridge" && !row.mac.is_zero();
    let unicast = state.fdb.iter().find(|row| on_bridge(row)).expect("a row");
    let flood = state
        .fdb
        .iter()
        .find(|row| row.mac.is_zero())
        .expect("a row");
    let neighbour = state
        .neighbours
        .iter()
        .find(|row| row.link == "vx-bridge-6" && row.state == NeighbourState::Permanent)
        .expect("a neighbour");
    let routes: Vec<_> = state
        .routes
        .iter()
        .filter(|row| row.table == TABLE)
        .collect();
    let (first, last) = (
        *routes.first().expect("an IPv4 route"),
        *routes.last().expect("an IPv6 route"),
    );
    let mut wrong = last.clone();
    wrong.hops = vec![NextHop {
        via: Some(parsed("9480::99")),
        link: "vx-local-6".into(),
        onlink: true,
        weight: 1,
        dead: false,
    }];
    let blackhole = Route {
        kind: RouteKind::Blackhole,
        hops: Vec::new(),
        ..first.clone()
    };
    let rule = state
        .rules
        .iter()
        .find(|row| row.priority == 200)
        .expect("our rule");
    let address = state
        .addresses
        .iter()
        .find(|row| row.link == "vx-bridge-6" && !row.net.to_string().starts_with("fe80"))
        .expect("an address");
    let shorter = Address {
        net: parsed(&format!("{}/32", address.net.addr())),
        ..address.clone()
    };
    vec![
        (
            "down",
            replaced(
                &bridge,
                Link {
                    up: false,
                    ..bridge.clone()
                },
            ),
        ),
        (
            "down, IPv6",
            replaced(
                &bridge_6,
                Link {
                    up: false,
                    ..bridge_6.clone()
                },
            ),
        ),
        (
            "another MAC",
            replaced(
                &bridge_6,
                Link {
                    mac: Some(Mac([2, 7, 7, 7, 7, 7])),
                    ..bridge_6.clone()
                },
            ),
        ),
        (
            "another MTU",
            replaced(
                &bridge,
                Link {
                    mtu: 1300,
                    ..bridge.clone()
                },
            ),
        ),
        (
            "too small an MTU for IPv6",
            replaced(
                &bridge_6,
                Link {
                    mtu: 1200,
                    ..bridge_6.clone()
                },
            ),
        ),
        ("gone", vec![Change::Remove(Row::Link(bridge_6.clone()))]),
        (
            "another VNI",
            replaced(
                &bridge,
                Link {
                    kind: LinkKind::Vxlan(Vxlan {
                        vni: 77,
                        port: 4876,
                        local: Some(parsed("100.64.0.1")),
                        lower: Some("und.1".into()),
                        learning: false,
                    }),
                    ..bridge.clone()
                },
            ),
        ),
        (
            "learning",
            replaced(
                &bridge,
                Link {
                    kind: match &bridge.kind {
                        LinkKind::Vxlan(vxlan) => LinkKind::Vxlan(Vxlan {
                            learning: true,
                            ..vxlan.clone()
                        }),
                        other => other.clone(),
                    },
                    ..bridge.clone()
                },
            ),
        ),
        (
            "FDB row gone",
            vec![Change::Remove(Row::Fdb(unicast.clone()))],
        ),
        (
            "FDB row to another VTEP",
            vec![Change::Replace {
                from: Row::Fdb(unicast.clone()),
                to: Row::Fdb(Fdb {
                    dst: Some(parsed("100.65.9.9")),
                    ..unicast.clone()
                }),
            }],
        ),
        (
            "flood row gone",
            vec![Change::Remove(Row::Fdb(flood.clone()))],
        ),
        (
            "another flood row",
            vec![Change::Add(Row::Fdb(Fdb {
                dst: Some(parsed("100.65.9.9")),
                ..flood.clone()
            }))],
        ),
        (
            "neighbour gone",
            vec![Change::Remove(Row::Neighbour(neighbour.clone()))],
        ),
        (
            "neighbour with another MAC",
            vec![Change::Add(Row::Neighbour(Neighbour {
                mac: Some(Mac([2, 6, 6, 6, 6, 6])),
                ..neighbour.clone()
            }))],
        ),
        (
            "route gone",
            vec![Change::Remove(Row::Route(first.clone()))],
        ),
        (
            "IPv6 route gone",
            vec![Change::Remove(Row::Route(last.clone()))],
        ),
        (
            "route over another link",
            vec![Change::Replace {
                from: Row::Route(last.clone()),
                to: Row::Route(wrong),
            }],
        ),
        (
            "route that drops",
            vec![Change::Replace {
                from: Row::Route(first.clone()),
                to: Row::Route(blackhole),
            }],
        ),
        (
            "IPv6 route that drops",
            vec![Change::Replace {
                from: Row::Route(last.clone()),
                to: Row::Route(Route {
                    kind: RouteKind::Unreachable,
                    hops: Vec::new(),
                    ..last.clone()
                }),
            }],
        ),
        (
            "route of somebody else in our table",
            vec![Change::Add(Row::Route(Route {
                dst: parsed("10.250.0.0/16"),
                ..first.clone()
            }))],
        ),
        ("rule gone", vec![Change::Remove(Row::Rule(rule.clone()))]),
        (
            "address gone",
            vec![Change::Remove(Row::Address(address.clone()))],
        ),
        (
            "address of another length",
            vec![Change::Replace {
                from: Row::Address(address.clone()),
                to: Row::Address(shorter),
            }],
        ),
        (
            "forwarding off",
            vec![Change::Add(Row::Sysctl(Sysctl {
                name: "net.ipv4.conf.all.forwarding".into(),
                value: 0,
            }))],
        ),
        (
            "forwarding off on a link with a dot",
            vec![Change::Add(Row::Sysctl(Sysctl {
                name: "net.ipv6.conf.und/1.forwarding".into(),
                value: 0,
            }))],
        ),
        (
            "strict reverse path",
            vec![Change::Add(Row::Sysctl(Sysctl {
                name: "net.ipv4.conf.vx-bridge.rp_filter".into(),
                value: 1,
            }))],
        ),
        (
            "translation gone",
            vec![Change::Remove(Row::Nat(
                state.nat.iter().next().expect("a translation").clone(),
            ))],
        ),
        (
            "another translation",
            vec![Change::Add(Row::Nat(Nat::Masquerade {
                src: parsed("11.0.0.0/8"),
                out: None,
            }))],
        ),
    ]
}

#[test]
#[ignore = "netns: needs vxlan, nft"]
fn every_drift_is_seen_noticed_and_repaired_in_one_round() {
    in_namespace(|| {
        let mut kernel = prepared("all");
        let config = config("all", 3);
        assert_verified(&reconcile(&mut kernel, &config).expect("a reconciliation"));
        let healthy = kernel.observe().expect("an observation");
        let (wanted, _) = desired(&config, &healthy);
        let mut monitor = Monitor::open().expect("a monitor");
        for (what, changes) in drifts(&healthy) {
            let mut tables = attended(&mut monitor, &mut kernel);
            kernel
                .apply(&ChangeSet::ordered(changes.clone()))
                .unwrap_or_else(|errors| panic!("{what}: {errors:?}"));
            let drifted = kernel.observe().expect("an observation");
            let set = diff(&wanted, &drifted);
            assert!(!set.is_empty(), "{what} is not seen");
            match monitor.follow(&mut tables) {
                Followed::Nothing => panic!("{what} is not noticed"),
                Followed::Rows => assert_eq!(diff(&wanted, &tables), set, "{what}"),
                Followed::Anything => assert!(
                    !changes.iter().all(is_removed_row),
                    "{what} is told row by row"
                ),
            }
            let mut tables = attended(&mut monitor, &mut kernel);
            kernel
                .apply(&set)
                .unwrap_or_else(|errors| panic!("{what}: {errors:?}\n{set}"));
            let repaired = kernel.observe().expect("an observation");
            let left = diff(&wanted, &repaired);
            assert!(left.is_empty(), "{what}:\n{set}\nleaves\n{left}");
            if monitor.follow(&mut tables) == Followed::Rows {
                let left = diff(&wanted, &tables);
                assert!(left.is_empty(), "{what} seems to leave\n{left}");
            }
        }
    });
}

/// The tables, to be kept up from now on.
fn attended(monitor: &mut Monitor, kernel: &mut LinuxKernel) -> NodeState {
    monitor.drain();
    let tables = kernel.observe().expect("an observation");
    let links = tables.links.iter();
    monitor.attend(links.map(|link| (link.name.clone(), Some(link.index))));
    tables
}

fn is_removed_row(change: &Change) -> bool {
    matches!(
        change,
        Change::Remove(Row::Fdb(_) | Row::Neighbour(_) | Row::Route(_))
    )
}

#[test]
#[ignore = "netns: needs vxlan, nft"]
fn an_address_that_came_first_does_not_take_ours_along() {
    in_namespace(|| {
        let mut kernel = prepared("ipv4");
        let config = config("ipv4", 3);
        assert_verified(&reconcile(&mut kernel, &config).expect("a reconciliation"));
        let ours = |net: &str| {
            Row::Address(Address {
                link: "vx-bridge".into(),
                net: parsed(net),
            })
        };
        // Ours goes, another of the same prefix comes: the one that comes second is secondary, and goes with the first.
        let address = kernel.observe().expect("an observation");
        let own = address.addresses.iter().find(|row| row.link == "vx-bridge");
        let own = own.expect("our address").net.to_string();
        let drift = vec![Change::Add(ours("220.9.9.9/8")), Change::Remove(ours(&own))];
        kernel
            .apply(&ChangeSet { changes: drift })
            .expect("a possible act");
        let done = reconcile(&mut kernel, &config).expect("a reconciliation");
        assert_verified(&done);
    });
}

#[test]
#[ignore = "netns: needs vxlan, nft"]
fn a_thousand_peers_are_programmed_in_batches() {
    in_namespace(|| {
        let mut kernel = prepared("all");
        let config = config("all", 1000);
        let done = reconcile(&mut kernel, &config).expect("a reconciliation");
        assert_verified(&done);
        assert!(
            done.applied.changes.len() > 8000,
            "{}",
            done.applied.changes.len()
        );
    });
}

#[test]
#[ignore = "netns: needs vxlan, nft"]
fn a_refusal_is_told_with_the_kernels_words_and_spares_the_rest() {
    in_namespace(|| {
        let mut kernel = prepared("ipv4");
        let address = |net: &str, link: &str| {
            Change::Add(Row::Address(Address {
                link: link.into(),
                net: parsed(net),
            }))
        };
        let mut changes = vec![
            address("10.9.0.1/24", "und.1"),
            address("10.9.0.2/24", "nowhere"),
            Change::Remove(Row::Address(Address {
                link: "und.1".into(),
                net: parsed("1.2.3.4/32"),
            })),
        ];
        for last in 0..300_u32 {
            // The router is on no connected prefix and the hop is not `onlink`.
            changes.push(Change::Add(Row::Route(Route {
                table: TABLE,
                dst: parsed(&format!("10.{}.{}.0/24", 100 + last / 250, last % 250)),
                metric: 0,
                kind: RouteKind::Unicast,
                hops: vec![NextHop {
                    via: Some(parsed("203.0.113.1")),
                    link: "und.1".into(),
                    onlink: last == 299,
                    weight: 1,
                    dead: false,
                }],
                src: None,
                protocol: 3,
                mtu: None,
            })));
        }
        let errors = kernel
            .apply(&ChangeSet::ordered(changes))
            .expect_err("most are refused");
        assert_eq!(errors.len(), 300);
        assert!(errors[0].is_already_gone(), "{:?}", errors[0]);
        let text = errors[1].to_string();
        assert_eq!(
            text,
            "cannot add route 10.100.0.0/24 table 200 (Nexthop has invalid gateway)"
        );
        let state = kernel.observe().expect("an observation");
        let addresses: Vec<IpAddr> = state.addresses.iter().map(|row| row.net.addr()).collect();
        assert!(addresses.contains(&parsed("10.9.0.1")));
        assert_eq!(
            state.routes.iter().filter(|row| row.table == TABLE).count(),
            1
        );
    });
}

#[test]
#[ignore = "netns: needs vxlan, nft"]
fn an_open_kernel_and_monitor_serve_their_namespace_from_any_thread() {
    let open = || {
        in_namespace(|| {
            (
                LinuxKernel::open().expect("sockets"),
                Monitor::open().expect("a monitor"),
            )
        })
    };
    let (mut first, mut first_monitor) = open();
    let (mut second, mut second_monitor) = open();
    first
        .apply(&underlay("und.1", &["100.64.0.1/16"]))
        .expect("an underlay");
    assert!(first_monitor.drain());
    assert!(!second_monitor.drain());
    second
        .apply(&underlay("und.1", &["100.64.0.2/16"]))
        .expect("an underlay");
    second_monitor.drain();

    let name = "net.ipv4.conf.und/1.forwarding";
    let forwarding = |kernel: &mut LinuxKernel| {
        let state = kernel.observe().expect("an observation");
        state.sysctls.get(name).map(|row| row.value)
    };
    let before = (forwarding(&mut first), forwarding(&mut second));
    let other = 1 - before.1.expect("the link's setting");
    let set = ChangeSet::ordered(vec![Change::Add(Row::Sysctl(Sysctl {
        name: name.into(),
        value: other,
    }))]);
    // Neither this thread nor the one that writes is in the namespace.
    std::thread::scope(|scope| {
        scope.spawn(|| second.apply(&set).expect("a setting"));
    });
    assert_eq!(forwarding(&mut second), Some(other));
    assert_eq!(forwarding(&mut first), before.0);
    assert!(!first_monitor.drain());
    let mut descriptors = [PollFd::new(
        std::os::fd::AsFd::as_fd(&second_monitor),
        PollFlags::POLLIN,
    )];
    assert_eq!(poll(&mut descriptors, PollTimeout::from(1000_u16)), Ok(1));
    assert!(second_monitor.drain());
    assert!(!second_monitor.drain());
}

#[test]
#[ignore = "netns: needs vxlan, nft"]
fn a_container_that_may_not_write_its_own_settings_writes_where_its_nodes_are_mounted() {
    use nix::mount::{MsFlags, mount};
    let folder = std::env::temp_dir().join(format!("settings-{}", std::process::id()));
    std::fs::create_dir(&folder).expect("a folder");
    let worker = std::thread::spawn({
        let folder = folder.clone();
        move || {
            use nix::sched::{CloneFlags, unshare};
            unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).expect("namespaces");
            let none = None::<&str>;
            let bind = |from: &str, to: &std::path::Path, flags: MsFlags| {
                mount(Some(from), to, none, flags, none)
            };
            let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
            mount(none, "/", none, private, none).expect("private mounts");
            bind("/proc/sys/net", &folder, MsFlags::MS_BIND).expect("the node's folder");
            let own = std::path::Path::new("/proc/sys");
            bind("/proc/sys", own, MsFlags::MS_BIND).expect("a mount to protect");
            let read_only = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
            let kept = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
            bind("/proc/sys", own, read_only | kept).expect("a read-only folder");

            let mut kernel = LinuxKernel::open().expect("sockets");
            kernel
                .apply(&underlay("und.1", &["100.64.0.1/16"]))
                .expect("an underlay");
            let name = "net.ipv4.conf.und/1.rp_filter";
            let set = ChangeSet::ordered(vec![Change::Add(Row::Sysctl(Sysctl {
                name: name.into(),
                value: 2,
            }))]);
            assert!(kernel.apply(&set).is_err(), "it is read-only");
            let mut kernel = kernel.with_settings_in(folder);
            kernel.apply(&set).expect("a setting");
            let state = kernel.observe().expect("an observation");
            assert_eq!(state.sysctls.get(name).map(|row| row.value), Some(2));
        }
    });
    let ended = worker.join();
    std::fs::remove_dir(&folder).expect("an empty folder");
    ended.expect("no panic in the namespace");
}
