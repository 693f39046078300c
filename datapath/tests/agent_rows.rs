//! A NodeConfig with one malformed part, given to the agent over the kernel in memory: rows of every kind stay as they were.
#![cfg(feature = "kernel")]
#![allow(clippy::expect_used, reason = "a test")]

use std::time::Duration;

use datapath::agent::{Event, Keeper, Timing, settle};
use datapath::api::{Arp, Device, Fdb, Iptables, NodeConfigSpec, Route};
use datapath::diff::{ChangeSet, diff};
use datapath::error::Error;
use datapath::mac::Mac;
use datapath::memory::MemoryKernel;
use datapath::reconcile::Kernel;
use datapath::state::{Address, Link, LinkKind, NodeState};
use proptest::prelude::*;

/// The kernel in memory, and how often it was read.
struct Counted {
    kernel: MemoryKernel,
    looks: usize,
}

impl Kernel for Counted {
    fn observe(&mut self) -> Result<NodeState, Error> {
        self.looks += 1;
        self.kernel.observe()
    }

    fn apply(&mut self, set: &ChangeSet) -> Result<(), Vec<Error>> {
        self.kernel.apply(set)
    }
}

/// A node before the datapath comes.
fn bare() -> Counted {
    let mut state = NodeState::default();
    state.links.insert(Link {
        name: "eth0".into(),
        index: 2,
        mac: Some(Mac([2, 0, 0, 0, 0, 2])),
        mtu: 1500,
        up: true,
        carrier: true,
        kind: LinkKind::Veth { peer_index: 9 },
        master: None,
        tx_dropped: 0,
        rx_dropped: 0,
    });
    state.addresses.insert(Address {
        link: "eth0".into(),
        net: "100.64.0.1/16".parse().expect("an address"),
    });
    Counted {
        kernel: MemoryKernel::new(state),
        looks: 0,
    }
}

fn device(name: &str, pool: u8, mac: u8) -> Device {
    Device {
        kind: "vxlan".into(),
        name: name.into(),
        addr: format!("{pool}.64.0.1/8"),
        mac: format!("02:00:00:00:0b:{mac:02x}"),
        bind_dev: "eth0".into(),
        id: i32::from(pool),
        port: 4876,
    }
}

/// A config with rows of every kind towards some peers.
fn config(own_mac: u8, peers: &[u8]) -> NodeConfigSpec {
    NodeConfigSpec {
        devices: vec![
            device("vx-bridge", 220, own_mac),
            device("vx-local", 210, own_mac),
        ],
        routes: peers.iter().map(|peer| route(*peer)).collect(),
        iptables: peers.iter().map(|peer| translation(*peer)).collect(),
        fdbs: peers.iter().map(|peer| fdb(*peer)).collect(),
        arps: peers.iter().map(|peer| arp(*peer)).collect(),
        ..NodeConfigSpec::default()
    }
}

fn route(peer: u8) -> Route {
    Route {
        cidr: format!("10.{peer}.0.0/16"),
        gw: format!("220.64.0.{peer}"),
        dev: "vx-bridge".into(),
    }
}

fn translation(peer: u8) -> Iptables {
    Iptables {
        table: "nat".into(),
        chain: "POSTROUTING".into(),
        rule: format!("-s 10.{peer}.0.0/16 -o vx-bridge -j MASQUERADE"),
    }
}

fn fdb(peer: u8) -> Fdb {
    Fdb {
        ip: format!("100.64.0.{peer}"),
        mac: format!("02:00:00:00:0c:{peer:02x}"),
        dev: "vx-bridge".into(),
    }
}

fn arp(peer: u8) -> Arp {
    Arp {
        ip: format!("220.64.0.{peer}"),
        mac: format!("02:00:00:00:0c:{peer:02x}"),
        dev: "vx-bridge".into(),
    }
}

/// One part of a config made unusable: which field, and what stands in it.
fn spoil(config: &mut NodeConfigSpec, field: usize, at: usize, text: &str) {
    let text = text.to_owned();
    let peer = at % config.routes.len();
    let device = at % config.devices.len();
    match field {
        0 => config.devices[device].addr = text,
        1 => config.devices[device].mac = text,
        2 => config.devices[device].bind_dev = text,
        3 => config.devices[device].kind = text,
        4 => config.routes[peer].cidr = text,
        5 => config.routes[peer].gw = text,
        6 => config.routes[peer].dev = text,
        7 => config.fdbs[peer].ip = text,
        8 => config.fdbs[peer].mac = text,
        9 => config.arps[peer].ip = text,
        10 => config.arps[peer].mac = text,
        11 => config.iptables[peer].rule = text,
        12 => config.iptables[peer].chain = text,
        _ => config.iptables[peer].table = text,
    }
}

const FIELDS: usize = 14;

fn keeper() -> Keeper {
    Keeper::new(Timing::default())
}

/// One turn with a new config; the problems that it had.
fn turn(kernel: &mut Counted, keeper: &mut Keeper, config: &NodeConfigSpec) -> Vec<String> {
    keeper.event(Event::Wanted(config.clone()), Duration::ZERO);
    let settled = settle(kernel, keeper);
    keeper.settled(settled.is_true, Duration::ZERO);
    assert_eq!(
        settled.is_true,
        keeper.candidate().is_none() && settled.problems.is_empty()
    );
    settled.problems
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn a_malformed_part_leaves_rows_of_every_kind(
        before in prop::collection::btree_set(2_u8..250, 1..6),
        after in prop::collection::btree_set(2_u8..250, 1..6),
        field in 0..FIELDS,
        at in 0_usize..100,
        text in "[a-z!:/. ]{0,12}|10\\.0\\.0\\.0/99|\\PC{0,6}",
    ) {
        // Nothing but malformed text: anything that parses would be another config, not a broken one.
        prop_assume!(text.parse::<std::net::IpAddr>().is_err() && !text.ends_with("vx-local"));
        let (mut kernel, mut keeper) = (bare(), keeper());
        let former = config(1, &before.into_iter().collect::<Vec<_>>());
        prop_assert_eq!(turn(&mut kernel, &mut keeper, &former), Vec::<String>::new());
        let held = kernel.kernel.state().clone();
        for (kind, rows) in [
            ("links", held.links.len()), ("addresses", held.addresses.len()), ("routes", held.routes.len()),
            ("rules", held.rules.len()), ("neighbours", held.neighbours.len()), ("FDB", held.fdb.len()),
            ("translations", held.nat.len()),
        ] {
            prop_assert!(rows > 0, "no {}", kind);
        }

        let good = config(2, &after.into_iter().collect::<Vec<_>>());
        let mut bad = good.clone();
        spoil(&mut bad, field, at, &text);
        prop_assert!(!turn(&mut kernel, &mut keeper, &bad).is_empty());
        prop_assert_eq!(kernel.kernel.state(), &held);
        prop_assert_eq!(keeper.adopted(), Some(&former));

        // An agent that starts anew keeps what it finds.
        let mut fresh = Keeper::new(Timing::default());
        prop_assert!(!turn(&mut kernel, &mut fresh, &bad).is_empty());
        prop_assert_eq!(kernel.kernel.state(), &held);

        prop_assert_eq!(turn(&mut kernel, &mut keeper, &good), Vec::<String>::new());
        let (wanted, _) = datapath::nodeconfig::desired(&good, kernel.kernel.state());
        prop_assert!(diff(&wanted, kernel.kernel.state()).is_empty());
    }
}

#[test]
fn a_bare_node_gets_what_can_be_made() {
    let (mut kernel, mut keeper) = (bare(), keeper());
    let mut config = config(1, &[2, 3]);
    config.routes[0].gw = "nobody".into();
    keeper.event(Event::Wanted(config.clone()), Duration::ZERO);
    let settled = settle(&mut kernel, &mut keeper);
    assert!(settled.is_true);
    assert_eq!(settled.problems.len(), 1, "{:?}", settled.problems);
    assert_eq!(kernel.kernel.state().routes.len(), 1);
    assert_eq!(kernel.kernel.state().fdb.len(), 2);
}

#[test]
fn of_two_rows_with_one_key_the_first_is_adopted() {
    let (mut kernel, mut keeper) = (bare(), keeper());
    assert!(turn(&mut kernel, &mut keeper, &config(1, &[2, 3])).is_empty());
    let mut config = config(1, &[3, 4]);
    config.routes.push(Route {
        gw: "220.64.0.3".into(),
        ..route(4)
    });
    keeper.event(Event::Wanted(config.clone()), Duration::ZERO);
    let settled = settle(&mut kernel, &mut keeper);
    assert!(settled.is_true);
    assert_eq!(settled.problems.len(), 1, "{:?}", settled.problems);
    assert_eq!(keeper.adopted(), Some(&config));
}

#[test]
fn a_turn_without_a_change_reads_the_kernel_once() {
    let (mut kernel, mut keeper) = (bare(), keeper());
    let first = config(1, &[2, 3]);
    assert!(turn(&mut kernel, &mut keeper, &first).is_empty());
    // Before the changes, and after them.
    assert_eq!(kernel.looks, 2);
    assert!(turn(&mut kernel, &mut keeper, &first).is_empty());
    assert_eq!(kernel.looks, 3);
}
