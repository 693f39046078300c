//! What each fault makes of the walk: where it ends, why, and that the bad row is among those that the walk names.

use std::collections::BTreeMap;
use std::net::IpAddr;

use datapath::mac::Mac;
use datapath::state::{Address, Family, Nat, NodeState, RouteKind};
use datapath::walk::{self, End, Packet, Stop, Walk, World};

use super::fleet::{self, ip, mac, net, node, route, sysctl, tables, tunnel_for};

type Tables = BTreeMap<String, NodeState>;

const FAMILIES: [Family; 2] = [Family::Ipv4, Family::Ipv6];

fn broken(change: impl FnOnce(&mut Tables)) -> Tables {
    let mut all = tables();
    change(&mut all);
    all
}

fn of<'t>(tables: &'t mut Tables, node: &str) -> &'t mut NodeState {
    tables.get_mut(node).expect("a node")
}

fn pod(name: &str, number: u8, family: Family) -> IpAddr {
    match family {
        Family::Ipv4 => node(name).pod(number),
        Family::Ipv6 => node(name).pod6(number),
    }
}

fn ask(world: &World, family: Family, from: &str, to: &str) -> Walk {
    let packet = Packet::udp(pod(from, 5, family), pod(to, 7, family), 8889);
    let walk = walk::walk(world, from, Some("pod"), packet);
    assert_eq!(
        walk::verdict(world, from, Some("pod"), packet),
        walk.end,
        "with and without a record"
    );
    walk
}

fn stop<'w>(walk: &'w Walk, at: &str) -> &'w Stop {
    match &walk.end {
        End::Stopped { node, stop } if node == at => stop,
        _ => panic!("not stopped at {at}:\n{walk}"),
    }
}

fn left(walk: &Walk, at: &str) {
    assert!(
        matches!(&walk.end, End::Left { node, link, .. } if node == at && link == "pod"),
        "{walk}"
    );
}

fn names(walk: &Walk, at: &str, row: &str) {
    assert!(
        walk.rows().any(|(node, name)| node == at && name == row),
        "{at} {row} is not among {:#?}",
        walk.rows().collect::<Vec<_>>()
    );
}

fn bridge(family: Family) -> String {
    tunnel_for(family, "bridge")
}

/// Takes out the rows of one peer, flood row included or not.
fn without_fdb(tables: &mut Tables, at: &str, peer: &str, family: Family, flood: bool) {
    let link = bridge(family);
    let peer_mac = mac(peer, &link);
    let vtep = node(peer).underlay(family);
    of(tables, at).fdb.retain(|row| {
        row.link != link
            || row.dst != Some(vtep)
            || !(row.mac == peer_mac || flood && row.mac.is_zero())
    });
}

#[test]
fn fdb_missing_is_healed_by_its_flood_row_and_by_no_other() {
    for family in FAMILIES {
        for healed in [true, false] {
            let all = broken(|all| without_fdb(all, "b2", "d1", family, !healed));
            for world in [fleet::wired(all.clone()), fleet::trusted(all)] {
                let walk = ask(&world, family, "b2", "d1");
                if healed {
                    left(&walk, "d1");
                    assert!(
                        walk.hops[0]
                            .tunnel
                            .as_ref()
                            .is_some_and(|tunnel| tunnel.flooded)
                    );
                } else {
                    let link = bridge(family);
                    let mac = mac("d1", &link);
                    assert_eq!(stop(&walk, "b2"), &Stop::NoFdb { link, mac }, "{walk}");
                    names(&walk, "b2", &format!("{mac} dev {}", bridge(family)));
                }
                left(&ask(&world, family, "b1", "d1"), "d1");
            }
        }
    }
}

#[test]
fn fdb_with_no_row_at_all() {
    for family in FAMILIES {
        let link = bridge(family);
        let all = broken(|all| of(all, "b2").fdb.retain(|row| row.link != link));
        let walk = ask(&fleet::wired(all), family, "b2", "d1");
        let mac = mac("d1", &link);
        assert_eq!(stop(&walk, "b2"), &Stop::NoFdb { link, mac });
    }
}

fn wrong_vtep(family: Family, to: IpAddr) -> Tables {
    let link = bridge(family);
    broken(|all| {
        without_fdb(all, "b2", "d1", family, false);
        of(all, "b2")
            .fdb
            .insert(fleet::fdb(&link, mac("d1", &link), to));
    })
}

#[test]
fn fdb_wrong_vtep() {
    for family in FAMILIES {
        let link = bridge(family);
        let dead = match family {
            Family::Ipv4 => ip("192.168.4.99"),
            Family::Ipv6 => ip("fd00:4::99"),
        };
        let row = |to: IpAddr| format!("{} dst {to} dev {}", mac("d1", &link), link);
        // Nobody has the address: the router finds out.
        let walk = ask(&fleet::wired(wrong_vtep(family, dead)), family, "b2", "d1");
        assert!(
            matches!(stop(&walk, "wan"), Stop::NoNeighbour { .. }),
            "{walk}"
        );
        names(&walk, "b2", &row(dead));
        let walk = ask(
            &fleet::trusted(wrong_vtep(family, dead)),
            family,
            "b2",
            "d1",
        );
        assert!(matches!(stop(&walk, "b2"), Stop::VtepUnknown { to, .. } if *to == dead));
        names(&walk, "b2", &row(dead));
        // An innocent node without that tunnel.
        let innocent = node("a2").underlay(family);
        let walk = ask(
            &fleet::wired(wrong_vtep(family, innocent)),
            family,
            "b2",
            "d1",
        );
        assert_eq!(stop(&walk, "a2"), &Stop::NobodyListens { port: 4876 });
        names(&walk, "b2", &row(innocent));
        // A peer with that tunnel.
        let peer = node("c1").underlay(family);
        let walk = ask(&fleet::wired(wrong_vtep(family, peer)), family, "b2", "d1");
        assert!(matches!(stop(&walk, "c1"), Stop::NotForUs { .. }), "{walk}");
        names(&walk, "b2", &row(peer));
    }
}

#[test]
fn neigh_missing_is_healed_by_a_flood_row() {
    for family in FAMILIES {
        for healed in [true, false] {
            let link = bridge(family);
            let peer = node("d1").overlay(&link);
            let all = broken(|all| {
                of(all, "b2").neighbours.retain(|row| row.ip != peer);
                if !healed {
                    without_fdb(all, "b2", "d1", family, true);
                }
            });
            for world in [fleet::wired(all.clone()), fleet::trusted(all)] {
                let walk = ask(&world, family, "b2", "d1");
                if healed {
                    left(&walk, "d1");
                    assert!(walk.hops[0].asked);
                } else {
                    let stop = stop(&walk, "b2");
                    assert_eq!(stop.row(), format!("{peer} dev {link}"));
                    assert!(matches!(stop, Stop::NoNeighbour { .. }));
                }
            }
        }
    }
}

#[test]
fn the_answer_for_a_missing_neighbour_must_find_back() {
    let link = bridge(Family::Ipv4);
    let peer = node("d1").overlay(&link);
    let all = broken(|all| {
        of(all, "b2").neighbours.retain(|row| row.ip != peer);
        without_fdb(all, "d1", "b2", Family::Ipv4, true);
    });
    let walk = ask(&fleet::wired(all), Family::Ipv4, "b2", "d1");
    assert!(
        matches!(stop(&walk, "b2"), Stop::NoNeighbour { .. }),
        "{walk}"
    );
}

#[test]
fn neigh_stale_mac() {
    for family in FAMILIES {
        let link = bridge(family);
        let all = broken(|all| {
            let links = &mut of(all, "d1").links;
            links.get_mut(link.as_str()).expect("a tunnel").mac = Some(Mac([2, 9, 9, 9, 9, 9]));
        });
        for world in [fleet::wired(all.clone()), fleet::trusted(all)] {
            let walk = ask(&world, family, "b2", "d1");
            let mac = mac("d1", &link);
            let link = link.clone();
            assert_eq!(stop(&walk, "d1"), &Stop::NotForUs { link, mac }, "{walk}");
            let row = format!(
                "{} dev {}",
                node("d1").overlay(&bridge(family)),
                bridge(family)
            );
            names(&walk, "b2", &row);
        }
    }
}

#[test]
fn route_missing_falls_to_the_default_route() {
    for family in FAMILIES {
        let prefix = node("d1").pod_prefix(family);
        let all = broken(|all| of(all, "b2").routes.retain(|row| row.dst != prefix));
        let walk = ask(&fleet::wired(all.clone()), family, "b2", "d1");
        let dst = pod("d1", 7, family);
        assert_eq!(stop(&walk, "wan"), &Stop::NoRoute { dst });
        let walk = ask(&fleet::trusted(all), family, "b2", "d1");
        assert!(
            matches!(&walk.end, End::Left { node, link, .. } if node == "b2" && link == "eth0"),
            "{walk}"
        );
    }
}

#[test]
fn route_wrong_dev() {
    for family in FAMILIES {
        let prefix = node("d1").pod_prefix(family);
        let via = match family {
            Family::Ipv4 => ip("192.168.2.1"),
            Family::Ipv6 => ip("fd00:2::1"),
        };
        let wrong = route(fleet::TABLE, prefix, Some(via), "eth0");
        let all = broken(|all| {
            of(all, "b2").routes.insert(wrong);
        });
        let walk = ask(&fleet::wired(all), family, "b2", "d1");
        assert!(matches!(stop(&walk, "wan"), Stop::NoRoute { .. }));
        names(&walk, "b2", &format!("{prefix} table 200"));
    }
}

#[test]
fn route_of_each_kind_that_says_no() {
    let prefix = node("d1").pod_prefix(Family::Ipv4);
    let row = format!("{prefix} table 200");
    for (kind, expected) in [
        (RouteKind::Blackhole, Stop::Blackhole { row: row.clone() }),
        (RouteKind::Prohibit, Stop::Prohibited { row: row.clone() }),
        (
            RouteKind::Unreachable,
            Stop::Unreachable { row: row.clone() },
        ),
    ] {
        let mut refusing = route(fleet::TABLE, prefix, None, "eth0");
        refusing.kind = kind;
        refusing.hops.clear();
        let all = broken(|all| {
            of(all, "b2").routes.insert(refusing);
        });
        let walk = ask(&fleet::wired(all), Family::Ipv4, "b2", "d1");
        assert_eq!(stop(&walk, "b2"), &expected);
    }
    // Throw goes on with the next rule: here to the main table's default.
    let mut throwing = route(fleet::TABLE, prefix, None, "eth0");
    throwing.kind = RouteKind::Throw;
    let all = broken(|all| {
        of(all, "b2").routes.insert(throwing);
    });
    let walk = ask(&fleet::wired(all), Family::Ipv4, "b2", "d1");
    assert!(matches!(stop(&walk, "wan"), Stop::NoRoute { .. }));
}

#[test]
fn forward_off() {
    for (family, name) in [
        (Family::Ipv4, "net.ipv4.conf.vx-bridge.forwarding"),
        (Family::Ipv6, "net.ipv6.conf.all.forwarding"),
    ] {
        let all = broken(|all| {
            of(all, "d1").sysctls.insert(sysctl(name, 0));
        });
        for world in [fleet::wired(all.clone()), fleet::trusted(all)] {
            let walk = ask(&world, family, "b2", "d1");
            let stop = stop(&walk, "d1");
            assert!(matches!(stop, Stop::ForwardingOff { .. }));
            assert_eq!(stop.row(), name);
        }
    }
}

#[test]
fn tunnel_dev_down() {
    for family in FAMILIES {
        let link = bridge(family);
        let down = |all: &mut Tables, at: &str| {
            let state = of(all, at);
            state.links.get_mut(link.as_str()).expect("a tunnel").up = false;
            // What the kernel makes of it.
            let prefixes = if family == Family::Ipv4 { 32 } else { 128 };
            state.routes.retain(|row| {
                row.dst.max_prefix_len() != prefixes || row.hops.iter().all(|hop| hop.link != link)
            });
            state.neighbours.retain(|row| row.link != link);
        };
        let all = broken(|all| down(all, "d1"));
        for world in [fleet::wired(all.clone()), fleet::trusted(all)] {
            let walk = ask(&world, family, "b2", "d1");
            assert_eq!(
                stop(&walk, "d1"),
                &Stop::LinkDown { link: link.clone() },
                "{walk}"
            );
        }
        let all = broken(|all| down(all, "b2"));
        let walk = ask(&fleet::wired(all), family, "b2", "d1");
        assert!(matches!(stop(&walk, "wan"), Stop::NoRoute { .. }), "{walk}");
    }
}

#[test]
fn gateway_down() {
    for family in FAMILIES {
        let all = broken(|all| {
            of(all, "a1").links.get_mut("eth0").expect("an uplink").up = false;
            let port = of(all, "wan").links.get_mut("a1").expect("a port");
            // A real index, so that the lost carrier counts.
            port.index = 9;
            port.carrier = false;
        });
        for world in [fleet::wired(all.clone()), fleet::trusted(all)] {
            for (from, to) in [("b2", "a2"), ("c2", "a2"), ("a2", "d1")] {
                let walk = ask(&world, family, from, to);
                let end = &walk.end;
                let End::Stopped { node, stop } = end else {
                    panic!("{walk}");
                };
                // On the wire only the silence is seen, by whoever asks for a1's MAC.
                let named = node == "a1"
                    && *stop
                        == Stop::LinkDown {
                            link: "eth0".into(),
                        };
                let silent = matches!(stop, Stop::NoNeighbour { .. });
                assert!(named || silent, "{walk}");
            }
            left(&ask(&world, family, "b2", "d1"), "d1");
        }
    }
}

#[test]
fn vni_port_and_own_mac() {
    let link = "vx-bridge";
    let edit = |change: fn(&mut datapath::state::Vxlan)| {
        broken(|all| {
            let tunnel = of(all, "d1").links.get_mut(link).expect("a tunnel");
            let datapath::state::LinkKind::Vxlan(vxlan) = &mut tunnel.kind else {
                panic!("not a tunnel");
            };
            change(vxlan);
        })
    };
    let world = fleet::wired(edit(|vxlan| vxlan.vni = 99));
    let walk = ask(&world, Family::Ipv4, "b2", "d1");
    assert_eq!(
        stop(&walk, "d1"),
        &Stop::VniUnknown {
            vni: 54,
            port: 4876
        }
    );
    let world = fleet::wired(edit(|vxlan| vxlan.port = 9));
    let walk = ask(&world, Family::Ipv4, "b2", "d1");
    assert_eq!(stop(&walk, "d1"), &Stop::NobodyListens { port: 4876 });
    let all = broken(|all| {
        let tunnel = of(all, "d1").links.get_mut(link).expect("a tunnel");
        tunnel.mac = Some(mac("b2", link));
    });
    let walk = ask(&fleet::wired(all), Family::Ipv4, "b2", "d1");
    assert!(matches!(stop(&walk, "d1"), Stop::OwnMac { .. }), "{walk}");
}

#[test]
fn vtep_local_stale() {
    let all = broken(|all| {
        of(all, "b2")
            .addresses
            .retain(|row| row.net.addr() != ip("192.168.2.22"));
    });
    let walk = ask(&fleet::wired(all), Family::Ipv4, "b2", "d1");
    assert!(
        matches!(stop(&walk, "b2"), Stop::VtepLocalGone { .. }),
        "{walk}"
    );
}

#[test]
fn reverse_paths() {
    // Loose is content with any way back, strict is not: the answer to a gateway's cluster comes in by eth0.
    for (value, stops) in [(2, false), (1, true)] {
        let all = broken(|all| {
            of(all, "a2")
                .sysctls
                .insert(sysctl("net.ipv4.conf.eth0.rp_filter", value));
        });
        let walk = ask(&fleet::wired(all), Family::Ipv4, "b2", "a2");
        if stops {
            assert_eq!(stop(&walk, "a2").row(), "net.ipv4.conf.eth0.rp_filter");
        } else {
            left(&walk, "a2");
        }
    }
    let all = broken(|all| {
        of(all, "d1").addresses.insert(Address {
            link: "pod".to_owned(),
            net: net("10.245.1.5/32"),
        });
    });
    let packet = Packet::udp(node("b2").pod(5), node("d1").pod(9), 8889);
    let walk = walk::walk(&fleet::wired(all), "b2", Some("pod"), packet);
    assert!(
        matches!(stop(&walk, "d1"), Stop::MartianSource { .. }),
        "{walk}"
    );
}

#[test]
fn loops_and_hops() {
    let all = broken(|all| {
        // b2 and d1 send c's pods to each other.
        let link = "vx-bridge";
        let prefix = node("c1").cluster_prefix(Family::Ipv4);
        for (at, peer) in [("b2", "d1"), ("d1", "b2")] {
            let via = Some(node(peer).overlay(link));
            of(all, at)
                .routes
                .insert(route(fleet::TABLE, prefix, via, link));
        }
    });
    let world = fleet::wired(all);
    let walk = ask(&world, Family::Ipv4, "b2", "c2");
    let End::Stopped { stop: why, .. } = &walk.end else {
        panic!("{walk}");
    };
    assert!(matches!(why, Stop::Loop { .. }), "{walk}");
    assert_eq!(why.row(), "10.246.0.0/16 table 200");
    let mut packet = Packet::udp(node("b2").pod(5), node("d1").pod(7), 8889);
    packet.ttl = 2;
    let short = walk::walk(&fleet::wired(tables()), "b2", Some("pod"), packet);
    assert_eq!(stop(&short, "d1"), &Stop::TtlExpired);
}

/// A prefix of table 200 that covers the underlay sends a tunnel's own packets into it. Every copy of a flood comes back, so that a walk
/// that followed them would have 60 to the power of its depth.
#[test]
fn a_tunnel_over_itself_is_no_explosion() {
    for family in FAMILIES {
        let own = node("a1");
        let mut state = fleet::state(&own);
        let link = bridge(family);
        let cover = match family {
            Family::Ipv4 => net("192.168.0.0/16"),
            Family::Ipv6 => net("fd00::/16"),
        };
        let hop = own.overlay(&link);
        let hop = match hop {
            IpAddr::V4(ip) => IpAddr::from((u32::from(ip) + 90).to_be_bytes()),
            IpAddr::V6(ip) => IpAddr::from((u128::from(ip) + 90).to_be_bytes()),
        };
        let dst = pod("c2", 7, family);
        state
            .routes
            .insert(route(fleet::TABLE, cover, Some(hop), &link));
        state.neighbours.retain(|row| row.link != link);
        for peer in 100..160_u16 {
            let remote = match family {
                Family::Ipv4 => ip(&format!("192.168.7.{peer}")),
                Family::Ipv6 => ip(&format!("fd00:7::{peer}")),
            };
            state.fdb.insert(fleet::fdb(&link, Mac::ZERO, remote));
        }
        let mut world = World::new();
        world.insert("a1", state);
        let packet = Packet::udp(own.overlay(&link), dst, 8889);
        let walk = walk::walk(&world, "a1", None, packet);
        assert!(
            matches!(stop(&walk, "a1"), Stop::NoNeighbour { link: at, .. } if *at == link),
            "{walk}"
        );
    }
}

#[test]
fn sizes() {
    let world = fleet::wired(tables());
    for (family, mtu) in [(Family::Ipv4, 1450), (Family::Ipv6, 1430)] {
        let mut packet = Packet::udp(pod("b2", 5, family), pod("d1", 7, family), 8889);
        packet.dont_fragment = true;
        packet.len = mtu;
        left(&walk::walk(&world, "b2", Some("pod"), packet), "d1");
        packet.len = mtu + 1;
        let walk = walk::walk(&world, "b2", Some("pod"), packet);
        let link = bridge(family);
        assert_eq!(stop(&walk, "b2"), &Stop::TooBig { link, mtu });
    }
    // IPv4 without DF is cut.
    let mut packet = Packet::udp(node("b2").pod(5), node("d1").pod(7), 8889);
    packet.len = 1500;
    left(&walk::walk(&world, "b2", Some("pod"), packet), "d1");
}

#[test]
fn all_ways_of_a_multipath_route_are_judged() {
    let link = "vx-bridge";
    let prefix = node("d1").pod_prefix(Family::Ipv4);
    let with = |second: &str| {
        let mut several = route(fleet::TABLE, prefix, Some(node("d1").overlay(link)), link);
        let mut hop = several.hops[0].clone();
        hop.via = Some(ip(second));
        several.hops.push(hop);
        fleet::wired(broken(|all| {
            of(all, "b2").routes.insert(several);
        }))
    };
    left(&ask(&with("220.168.4.41"), Family::Ipv4, "b2", "d1"), "d1");
    let walk = ask(&with("220.168.4.99"), Family::Ipv4, "b2", "d1");
    assert!(
        matches!(stop(&walk, "b2"), Stop::NoNeighbour { .. }),
        "{walk}"
    );
}

#[test]
fn a_dead_route_does_not_hide_the_next() {
    let prefix = node("d1").pod_prefix(Family::Ipv4);
    let mut dead = route(fleet::TABLE, prefix, None, "gone");
    dead.hops[0].dead = true;
    let mut second = route(
        fleet::TABLE,
        prefix,
        Some(node("d1").overlay("vx-bridge")),
        "vx-bridge",
    );
    second.metric = 7;
    let all = broken(|all| {
        let state = of(all, "b2");
        state.routes.insert(dead);
        state.routes.insert(second);
    });
    let walk = ask(&fleet::wired(all), Family::Ipv4, "b2", "d1");
    left(&walk, "d1");
    names(&walk, "b2", &format!("{prefix} table 200 metric 7"));
}

#[test]
fn a_global_name_is_mapped_and_put_back() {
    let all = broken(|all| {
        let state = of(all, "a1");
        state.nat.insert(Nat::Netmap {
            dst: net("10.210.0.0/16"),
            input: "vx-bridge".to_owned(),
            to: net("10.244.0.0/16"),
        });
        let via = Some(node("a1").overlay("vx-bridge"));
        of(all, "b2")
            .routes
            .insert(route(fleet::TABLE, net("10.210.0.0/16"), via, "vx-bridge"));
    });
    let packet = Packet::udp(node("b2").pod(5), ip("10.210.1.7"), 8889);
    let (asked, answered) = walk::round_trip(&fleet::wired(all), "b2", Some("pod"), packet);
    left(&asked, "a2");
    let answered = answered.expect("an answer");
    let End::Left { node, packet, .. } = &answered.end else {
        panic!("{answered}");
    };
    assert_eq!(
        (node.as_str(), packet.src),
        ("b2", ip("10.210.1.7")),
        "{answered}"
    );
}

#[test]
fn unknown_starts() {
    let world = fleet::wired(tables());
    let packet = Packet::udp(ip("10.0.0.1"), ip("10.0.0.2"), 1);
    let walk = walk::walk(&world, "nowhere", None, packet);
    assert_eq!(stop(&walk, "nowhere"), &Stop::UnknownNode);
    let walk = walk::walk(&world, "a1", Some("nolink"), packet);
    assert!(matches!(stop(&walk, "a1"), Stop::LinkMissing { .. }));
}

#[test]
fn a_walk_reads_as_text_and_as_data() {
    let world = fleet::wired(tables());
    let walk = ask(&world, Family::Ipv4, "b2", "d1");
    let text = walk.to_string();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(
        lines[0],
        format!(
            "b2: 10.245.1.5 -> 10.247.0.7, in by pod, route 10.247.0.0/24 table 200 via 220.168.4.41 dev vx-bridge, \
             neighbour 220.168.4.41 dev vx-bridge, vxlan 54 to 192.168.4.41:4876"
        )
    );
    assert!(lines[1].starts_with("  b2: 192.168.2.22 -> 192.168.4.41, route 0.0.0.0/0 table 254"));
    assert_eq!(lines.last(), Some(&"left d1 by pod for 10.247.0.7"));
    let json = serde_json::to_string(&walk).expect("data");
    assert_eq!(serde_json::from_str::<Walk>(&json).expect("the same"), walk);
}
