//! The keystone: on random fleets with random faults, the walk over the tables that the kernel shows says of every packet
//! what the kernel does with it.
#![allow(missing_docs, reason = "a test")]
#![cfg(feature = "kernel")]

#[path = "walk/chance.rs"]
mod chance;
#[path = "walk/filters.rs"]
mod filters;
#[path = "walk/fleet.rs"]
#[allow(dead_code, reason = "the other test uses the rest")]
mod fleet;
#[path = "walk/lab.rs"]
mod lab;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use chance::Chance;
use datapath::kernel::LinuxKernel;
use datapath::mac::Mac;
use datapath::reconcile::Kernel as _;
use datapath::state::{Family, Nat};
use datapath::walk::{self, End, Packet, Walk, World};
use fleet::Spec;
use lab::{ANSWER, Ear, Lab};
use netns_harness::wire::{Route, Wire as _};

const CASES: u64 = 24;

/// How long a packet that should arrive may take: three unanswered questions for a MAC.
const LIMIT: Duration = Duration::from_secs(4);
/// The data of a short packet and of every answer, bytes.
const SHORT: usize = 4;
/// How long silence must last to be believed.
const GRACE: Duration = Duration::from_millis(150);

#[test]
#[ignore = "netns: needs vxlan"]
fn walk_says_what_the_kernel_does() {
    compare(break_something);
}

/// The same with rules of packet filters and of other people's translation: what may be decided by what nobody can know is left out.
#[test]
#[ignore = "netns: needs vxlan, nft"]
fn walk_says_what_filters_do() {
    compare(filters::put_somewhere);
}

fn compare(harm: fn(&mut Lab, &mut Chance) -> String) {
    // One seed, or how many from which on: `7`, `100+50`.
    let wanted = std::env::var("FLOATER_SEED").ok();
    let seeds = match wanted
        .as_deref()
        .map(|text| text.split_once('+').unwrap_or((text, "1")))
    {
        Some((first, count)) => {
            let first: u64 = first.parse().expect("a seed");
            first..first + count.parse::<u64>().expect("a count")
        }
        None => 0..CASES,
    };
    let mut wrong = Vec::new();
    let mut told = [0; 5];
    for seed in seeds {
        let known = wrong.len();
        let overflows = lab::neighbour_overflows();
        case(seed, harm, &mut told, &mut wrong);
        if wrong.len() > known && lab::neighbour_overflows() != overflows {
            // All namespaces of a machine share one limit, so that others can take the neighbours from under this fleet.
            eprintln!("SKIP seed {seed}: the machine's neighbour table was full");
            wrong.truncate(known);
        }
    }
    eprintln!(
        "as walked: {} packets arrived, {} did not; {} answers arrived, {} did not; {} could not be told",
        told[0], told[1], told[2], told[3], told[4]
    );
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    // A lab where everything or nothing works would prove little.
    assert!(told[..4].iter().all(|&count| count > 0) || wanted.is_some());
}

fn case(
    seed: u64,
    harm: fn(&mut Lab, &mut Chance) -> String,
    told: &mut [u32; 5],
    wrong: &mut Vec<String>,
) {
    let mut chance = Chance::new(seed);
    let nodes = topology(&mut chance);
    let mut lab = Lab::new(nodes, || chance.below(3) == 0);
    let mut faults = Vec::new();
    for _ in 0..1 + chance.below(4) {
        faults.push(harm(&mut lab, &mut chance));
    }
    lab.settle();
    let world = observe(&lab);
    let mut ears: Vec<Ear> = Vec::new();
    for own in &lab.nodes {
        for family in [Family::Ipv4, Family::Ipv6] {
            let pod = format!("{}/pod", own.name);
            ears.extend(Ear::open(&lab, &pod, lab::pod_ip(own, family)));
            ears.extend(Ear::open(&lab, own.name, own.underlay(family)));
        }
    }
    let asked = questions(&lab, &world, &mut chance);
    let mut expected = BTreeSet::new();
    for (number, one) in (0..).zip(&asked) {
        let (there, back) = one.ends;
        expected.extend(there.then(|| (one.to.clone(), number)));
        expected.extend(back.then(|| (one.from.clone(), number | ANSWER)));
        let ear = lab::say(
            &lab,
            &one.from,
            one.packet.src,
            one.packet.dst,
            number,
            one.payload,
            one.ttl,
        );
        ears.extend(ear);
    }
    let heard = lab::listen(&mut ears, &expected, LIMIT, GRACE);
    let mut taught = None;
    for (number, one) in (0..).zip(&asked) {
        let real = (
            heard.contains(&(one.to.clone(), number)),
            one.payload == SHORT && heard.contains(&(one.from.clone(), number | ANSWER)),
        );
        // A question that one packet raised may answer another's: then the tables say so afterwards.
        let more = real.0 && !one.ends.0 || real.1 && !one.ends.1;
        let as_walked = real == one.ends
            || more && real == one.walk(taught.get_or_insert_with(|| observe(&lab))).0;
        if as_walked {
            told[usize::from(!real.0)] += 1;
            told[2 + usize::from(!real.1)] += u32::from(real.0 && one.payload == SHORT);
            continue;
        }
        let nodes: Vec<_> = lab.nodes.iter().map(|own| own.name).collect();
        let (_, (there, back)) = one.walk(&world);
        let is_doubtful = |walk: &Walk| walk.hops.iter().any(|hop| !hop.doubts.is_empty());
        if is_doubtful(&there) || back.as_ref().is_some_and(is_doubtful) {
            told[4] += 1;
            continue;
        }
        let back = back
            .map(|walk| format!("\nand back\n{walk}"))
            .unwrap_or_default();
        wrong.push(format!(
            "FLOATER_SEED={seed}, nodes {nodes:?}, bridged {:?}, faults {faults:?}: {} bytes {} -> {} of {}, (arrived, \
             answered): {real:?}, but\n{there}{back}",
            lab.bridged, one.payload, one.packet.src, one.packet.dst, one.to,
        ));
    }
}

/// One packet to try.
struct Question {
    from: String,
    to: String,
    packet: Packet,
    /// The length of its data, bytes.
    payload: usize,
    ttl: Option<u8>,
    /// Whether it and its answer arrive, as walked.
    ends: (bool, bool),
}

impl Question {
    fn walk(&self, world: &World) -> ((bool, bool), (Walk, Option<Walk>)) {
        let (there, back) = walk::round_trip(world, &self.from, None, self.packet);
        let is_at = |walk: &Walk, place: &str| matches!(&walk.end, End::Delivered { node, .. } if node == place);
        let arrives = is_at(&there, &self.to);
        // Whoever got it answers, rightly or not; but shortly, so that a long question says nothing of its answer.
        let answered =
            self.payload == SHORT && back.as_ref().is_some_and(|back| is_at(back, &self.from));
        ((arrives, answered), (there, back))
    }
}

/// Every pair of pods, every pair of nodes, and every node with every pod; then one that fills or exceeds a tunnel for
/// every pair of pods. The large ones come last, since the kernel remembers the sizes that it was told.
fn questions(lab: &Lab, world: &World, chance: &mut Chance) -> Vec<Question> {
    let mut small = Vec::new();
    let mut large = Vec::new();
    for family in [Family::Ipv4, Family::Ipv6] {
        let (any, headers) = match family {
            Family::Ipv4 => (fleet::ip("0.0.0.0"), 28),
            Family::Ipv6 => (fleet::ip("::"), 48),
        };
        let ask = |from: String, src, to: String, dst, length: u32, ttl: Option<u8>| {
            let mut packet = Packet::udp(src, dst, lab::PORT);
            packet.len = length;
            // The kernel chooses it.
            packet.src_port = 0;
            // UDP sockets look for the path's MTU unless told otherwise.
            packet.dont_fragment = true;
            packet.ttl = ttl.unwrap_or(64);
            let mut question = Question {
                from,
                to,
                packet,
                payload: (length - headers) as usize,
                ttl,
                ends: (false, false),
            };
            question.ends = question.walk(world).0;
            question
        };
        for from in &lab.nodes {
            for to in &lab.nodes {
                if from.name == to.name {
                    continue;
                }
                let pod = |own: &Spec| (format!("{}/pod", own.name), lab::pod_ip(own, family));
                let host = |own: &Spec| (own.name.to_owned(), own.underlay(family));
                for ((from, src), (to, dst)) in [
                    (pod(from), pod(to)),
                    (host(from), host(to)),
                    ((from.name.to_owned(), any), pod(to)),
                ] {
                    small.push(ask(from, src, to, dst, headers + SHORT as u32, None));
                }
                if family == Family::Ipv4 {
                    let ((from, src), (to, dst)) = (pod(from), pod(to));
                    let ttl = *chance.pick(&[2, 3, 4]);
                    small.push(ask(from, src, to, dst, headers + SHORT as u32, Some(ttl)));
                }
                let length = *chance.pick(&[1300, 1400, 1430, 1431, 1450, 1451, 1500]);
                let ((from, src), (to, dst)) = (pod(from), pod(to));
                large.push(ask(from, src, to, dst, length, None));
            }
        }
    }
    small.extend(large);
    small
}

fn observe(lab: &Lab) -> World {
    let mut world = World::new();
    for own in &lab.nodes {
        let pod = format!("{}/pod", own.name);
        world.wire((own.name, "eth0"), ("wan", own.name));
        let port = if lab.bridged.contains(own.name) {
            "port"
        } else {
            "pod"
        };
        world.wire((own.name, port), (&pod, "eth0"));
    }
    for (name, place) in &lab.places {
        let state = place
            .netns
            .run(|| {
                let mut kernel = LinuxKernel::open().expect("netlink sockets");
                let mut state = kernel.observe().expect("observe");
                state.filters = kernel.filters().expect("filters").0;
                state
            })
            .expect("enter");
        world.insert(name.as_str(), state);
    }
    world
}

/// Two or three clusters of one to three nodes, each in either mode.
fn topology(chance: &mut Chance) -> Vec<Spec> {
    const NAMES: [[&str; 3]; 3] = [["a1", "a2", "a3"], ["b1", "b2", "b3"], ["c1", "c2", "c3"]];
    let mut nodes = Vec::new();
    for (cluster, names) in (1..).zip(&NAMES[..2 + chance.below(2)]) {
        let gateway = if chance.below(2) == 0 {
            cluster * 10 + 1
        } else {
            0
        };
        for (host, name) in (1..).zip(&names[..1 + chance.below(3)]) {
            nodes.push(Spec {
                name,
                cluster,
                host: cluster * 10 + host,
                gateway,
                pods: host - 1,
            });
        }
    }
    nodes
}

/// Breaks one thing somewhere; what it was.
fn break_something(lab: &mut Lab, chance: &mut Chance) -> String {
    let own = *chance.pick(&lab.nodes);
    let others: Vec<Spec> = lab
        .nodes
        .iter()
        .copied()
        .filter(|node| node.name != own.name)
        .collect();
    let peer = *chance.pick(&others);
    let third = *chance.pick(&others);
    let family = *chance.pick(&[Family::Ipv4, Family::Ipv6]);
    let layer = if own.cluster == peer.cluster {
        "local"
    } else {
        "bridge"
    };
    let link = fleet::tunnel_for(family, layer);
    let at = lab::index(&link);
    let peer_mac = fleet::mac(peer.name, &link).0;
    let vtep = peer.underlay(family);
    let prefix = if peer.gateway == 0 {
        peer.pod_prefix(family)
    } else {
        peer.cluster_prefix(family)
    };
    let route = |via: Option<IpAddr>, index: u32| Route {
        dst: prefix,
        via,
        index,
        table: fleet::TABLE,
    };
    let nodes = lab.nodes.clone();
    let place = lab.place(own.name);
    let netlink = &mut place.netlink;
    let what = match chance.below(33) {
        0 => {
            netlink.remove_forwarding(at, peer_mac, vtep);
            format!("fdb {} {link}", peer.name)
        }
        1 | 2 => {
            netlink.remove_forwarding(at, peer_mac, vtep);
            netlink.remove_forwarding(at, [0; 6], vtep);
            format!("fdb and flood {} {link}", peer.name)
        }
        3 | 4 => {
            netlink.remove_forwarding(at, peer_mac, vtep);
            netlink.forwarding(at, peer_mac, third.underlay(family));
            format!("vtep {} to {} {link}", peer.name, third.name)
        }
        5 => {
            let dead = fleet::ip(if family == Family::Ipv4 {
                "192.168.1.99"
            } else {
                "fd00:1::99"
            });
            netlink.remove_forwarding(at, peer_mac, vtep);
            netlink.forwarding(at, peer_mac, dead);
            format!("dead vtep {} {link}", peer.name)
        }
        6 | 7 => {
            netlink.remove_neighbour(at, peer.overlay(&link));
            format!("neighbour {} {link}", peer.name)
        }
        8 => {
            netlink.remove_neighbour(at, peer.overlay(&link));
            netlink.remove_forwarding(at, [0; 6], vtep);
            format!("neighbour and flood {} {link}", peer.name)
        }
        9 => {
            netlink.mac(at, Mac::derived(&["changed"]).0);
            format!("mac {link}")
        }
        10 => {
            netlink.remove_route(&route(Some(peer.overlay(&link)), at));
            format!("route {prefix}")
        }
        11 => {
            netlink.route(&route(Some(fleet::router(&own, family)), 2));
            format!("route {prefix} by eth0")
        }
        12 => {
            let kind = *chance.pick(&[6, 7, 8, 9]);
            netlink.queue(lab::refusal(kind, prefix, fleet::TABLE));
            format!("route {prefix} of type {kind}")
        }
        13 => {
            let scope = *chance.pick(&["all", "eth0", "pod"]);
            let stack = if family == Family::Ipv4 {
                "ipv4"
            } else {
                "ipv6"
            };
            place.set(&format!("net.{stack}.conf.{scope}.forwarding"), 0);
            format!("{stack} forwarding {scope}")
        }
        14 => {
            netlink.down(at);
            format!("down {link}")
        }
        15 => {
            netlink.down(2);
            "down eth0".to_owned()
        }
        16 => {
            let scope = *chance.pick(&["all", "eth0", "pod"]);
            let value = *chance.pick(&[1, 2]);
            place.set(&format!("net.ipv4.conf.{scope}.rp_filter"), value);
            format!("rp_filter {scope} {value}")
        }
        17 => {
            netlink.queue(lab::rule(
                lab::RTM_DELRULE,
                family,
                fleet::TABLE,
                fleet::TABLE,
            ));
            format!("rule {family}")
        }
        18 => {
            netlink.remove_link(at);
            format!("no {link}")
        }
        19 => {
            let length = if family == Family::Ipv4 { 24 } else { 64 };
            let net = ipnet::IpNet::new(own.underlay(family), length).expect("a length");
            netlink.queue(lab::without_address(2, net));
            format!("address {net}")
        }
        20 => {
            netlink.remove_route(&Route {
                dst: fleet::net(if family == Family::Ipv4 {
                    "0.0.0.0/0"
                } else {
                    "::/0"
                }),
                via: Some(fleet::router(&own, family)),
                index: 2,
                table: 254,
            });
            format!("default {family}")
        }
        21 => {
            let mtu = *chance.pick(&[1400, 1450, 1480]);
            netlink.queue(lab::mtu(2, mtu));
            format!("mtu eth0 {mtu}")
        }
        22 => {
            let iif = *chance.pick(&["eth0", "pod", "lo", "vx-bridge"]);
            let action = *chance.pick(&[6, 7, 8]);
            netlink.queue(lab::hijack(family, iif, action));
            format!("rule iif {iif} action {action}")
        }
        23 | 24 => {
            let mut state = fleet::state_among(&own, &nodes);
            if let Some(mut row) = state.links.remove(link.as_str())
                && let datapath::state::LinkKind::Vxlan(vxlan) = &mut row.kind
            {
                match chance.below(3) {
                    0 => vxlan.vni += 1,
                    1 => vxlan.port += 100,
                    _ => vxlan.learning = true,
                }
                netlink.remove_link(at);
                netlink.queue(lab::tunnel(&link, fleet::mac(own.name, &link), 1400, vxlan));
                // Its rows went with it.
                state.addresses.retain(|row| row.link == link);
                state.neighbours.retain(|row| row.link == link);
                state.fdb.retain(|row| row.link == link);
                state.routes.retain(|row| row.hops[0].link == link);
                state.rules = datapath::table::Table::default();
                lab::rows(netlink, &state);
            }
            format!("another {link}")
        }
        25 => {
            netlink.mac(at, peer_mac);
            format!("mac of {} {link}", peer.name)
        }
        26 => {
            let ways = [peer.overlay(&link), peer.overlay(&link)];
            netlink.queue(lab::two_ways(prefix, fleet::TABLE, at, ways));
            format!("two equal ways to {prefix}")
        }
        27 => {
            netlink.neighbour(2, third.underlay(family), [2, 9, 9, 9, 9, 9]);
            format!("underlay neighbour {}", third.name)
        }
        28 => {
            let src = own.cluster_prefix(Family::Ipv4);
            let out = Some("vx-bridge".to_owned());
            place.translate([Nat::Masquerade { src, out }].into_iter());
            format!("masquerade {src}")
        }
        29 => {
            let (src, out) = (own.cluster_prefix(Family::Ipv4), "vx-bridge".to_owned());
            let to = peer.overlay("vx-bridge");
            place.translate([Nat::Snat { src, out, to }].into_iter());
            format!("snat {src} to {to}")
        }
        30 => {
            // What comes for a peer's pods is for its own.
            let (dst, to) = (
                peer.cluster_prefix(Family::Ipv4),
                own.cluster_prefix(Family::Ipv4),
            );
            let input = chance
                .pick(&["pod", "eth0", "vx-bridge", "vx-local"])
                .to_string();
            let what = format!("netmap {dst} in by {input} to {to}");
            place.translate([Nat::Netmap { dst, input, to }].into_iter());
            what
        }
        31 => {
            let mtu = *chance.pick(&[1300, 1400, 1449]);
            netlink.queue(lab::mtu(at, mtu));
            format!("mtu {link} {mtu}")
        }
        _ => {
            netlink.route(&route(Some(third.overlay(&link)), at));
            format!("route {prefix} via {}", third.name)
        }
    };
    // A row that this node never had leaves nothing to break; the kernel says so.
    let refused = lab.place(own.name).netlink.flush_all();
    let word = if refused.is_empty() {
        ""
    } else {
        " (was not there)"
    };
    format!("{}: {what}{word}", own.name)
}
