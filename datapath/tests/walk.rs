//! The walk over hand-built tables: the paths of the datapath's own drawings, and what each fault does to them.
#![allow(missing_docs, reason = "a test")]

#[path = "walk/chance.rs"]
mod chance;
#[path = "walk/faults.rs"]
mod faults;
#[path = "walk/fleet.rs"]
mod fleet;
#[path = "walk/nonsense.rs"]
mod nonsense;

use std::net::IpAddr;

use datapath::state::Family;
use datapath::walk::{self, End, Packet, Walk, World};
use fleet::{ip, node, tables, trusted, wired};

fn pods(world: &World, from: &str, to: &str) -> (Walk, Option<Walk>) {
    let packet = Packet::udp(node(from).pod(5), node(to).pod(7), 8889);
    walk::round_trip(world, from, Some("pod"), packet)
}

fn pods6(world: &World, from: &str, to: &str) -> (Walk, Option<Walk>) {
    let packet = Packet::udp(node(from).pod6(5), node(to).pod6(7), 8889);
    walk::round_trip(world, from, Some("pod"), packet)
}

/// The nodes that routed the packet itself.
fn path(walk: &Walk) -> Vec<&str> {
    walk.hops
        .iter()
        .filter(|hop| hop.depth == 0)
        .map(|hop| hop.node.as_str())
        .collect()
}

/// The tunnels that took it, as (node, VNI, port, remote VTEP).
fn tunnels(walk: &Walk) -> Vec<(&str, u32, u16, IpAddr)> {
    walk.hops
        .iter()
        .filter_map(|hop| {
            let tunnel = hop.tunnel.as_ref()?;
            Some((hop.node.as_str(), tunnel.vni, tunnel.port, tunnel.to))
        })
        .collect()
}

fn left_to_pod(walk: &Walk, at: &str) {
    assert!(
        matches!(&walk.end, End::Left { node, link, .. } if node == at && link == "pod"),
        "{walk}"
    );
}

#[test]
fn gateway_to_gateway() {
    for world in [wired(tables()), trusted(tables())] {
        let (asked, answered) = pods(&world, "a2", "c2");
        left_to_pod(&asked, "c2");
        assert_eq!(path(&asked)[..3], ["a2", "a1", "c1"], "{asked}");
        assert_eq!(path(&asked).last(), Some(&"c2"), "{asked}");
        assert_eq!(
            tunnels(&asked),
            [
                ("a2", 55, 4877, ip("192.168.1.11")),
                ("a1", 54, 4876, ip("192.168.3.31")),
            ],
            "{asked}"
        );
        let answered = answered.expect("an answer");
        left_to_pod(&answered, "a2");
        assert_eq!(
            tunnels(&answered),
            [
                ("c2", 55, 4877, ip("192.168.3.31")),
                ("c1", 54, 4876, ip("192.168.1.11")),
            ],
            "{answered}"
        );
    }
}

#[test]
fn p2p_to_p2p_takes_two_hops() {
    let world = wired(tables());
    let (asked, answered) = pods(&world, "b2", "d1");
    left_to_pod(&asked, "d1");
    assert_eq!(path(&asked), ["b2", "d1"]);
    assert_eq!(tunnels(&asked), [("b2", 54, 4876, ip("192.168.4.41"))]);
    let End::Left { packet, .. } = &asked.end else {
        panic!("{asked}");
    };
    assert_eq!(packet.ttl, 62);
    assert_eq!(packet.len, 84);
    left_to_pod(&answered.expect("an answer"), "b2");
}

#[test]
fn p2p_to_gateway_comes_back_another_way() {
    let world = wired(tables());
    let (asked, answered) = pods(&world, "b2", "a2");
    left_to_pod(&asked, "a2");
    assert_eq!(path(&asked), ["b2", "a1", "a2"], "{asked}");
    let answered = answered.expect("an answer");
    left_to_pod(&answered, "b2");
    // Directly to b2, not by way of b1.
    assert_eq!(path(&answered), ["a2", "a1", "b2"], "{answered}");
    assert_eq!(tunnels(&answered)[1].3, ip("192.168.2.22"));
}

#[test]
fn ipv6_goes_the_same_ways() {
    for world in [wired(tables()), trusted(tables())] {
        for (from, to) in [("a2", "c2"), ("b2", "d1"), ("b2", "a2")] {
            let (asked, answered) = pods6(&world, from, to);
            left_to_pod(&asked, to);
            left_to_pod(&answered.expect("an answer"), from);
        }
    }
}

#[test]
fn a_host_asks_a_pod_and_nat_is_undone() {
    let world = wired(tables());
    let packet = Packet::udp(ip("0.0.0.0"), node("c2").pod(7), 8889);
    let (asked, answered) = walk::round_trip(&world, "a2", None, packet);
    let End::Left { packet, .. } = &asked.end else {
        panic!("{asked}");
    };
    // a2's own tunnel address, then a1's, then what c1 has on the way to c2.
    assert_eq!(packet.src, node("c1").underlay(Family::Ipv4), "{asked}");
    let answered = answered.expect("an answer");
    assert!(
        matches!(&answered.end, End::Delivered { node, .. } if node == "a2"),
        "{answered}"
    );
}

#[test]
fn the_underlay_is_walked_too() {
    let world = wired(tables());
    let packet = Packet::udp(
        node("a2").underlay(Family::Ipv4),
        node("b2").underlay(Family::Ipv4),
        8889,
    );
    let (asked, answered) = walk::round_trip(&world, "a2", None, packet);
    assert_eq!(path(&asked), ["a2", "wan", "b2"], "{asked}");
    assert!(!answered.expect("an answer").is_stopped());
}

#[test]
fn every_pair_of_nodes_reaches_the_other() {
    for world in [wired(tables()), trusted(tables())] {
        for from in fleet::NODES {
            for to in fleet::NODES {
                if from.name == to.name {
                    continue;
                }
                for (asked, answered) in [
                    pods(&world, from.name, to.name),
                    pods6(&world, from.name, to.name),
                ] {
                    left_to_pod(&asked, to.name);
                    left_to_pod(&answered.expect("an answer"), from.name);
                }
            }
        }
    }
}
