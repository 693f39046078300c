//! What an agent makes of one NodeConfig after another, whatever they say: the rows that the last one names, and nothing of others.
#![allow(clippy::expect_used, reason = "a test")]

use datapath::api::{Arp, Device, Fdb, Iptables, NodeConfigSpec, Route};
use datapath::diff::diff;
use datapath::mac::Mac;
use datapath::memory::MemoryKernel;
use datapath::nodeconfig::desired;
use datapath::reconcile::Kernel as _;
use datapath::state::{Address, Link, LinkKind, NodeState};
use proptest::prelude::*;

/// How many runs of states; the corpus asks for more.
fn cases() -> u32 {
    let asked = std::env::var("CONFIG_CASES").ok();
    asked.map_or(512, |asked| asked.parse().expect("a number"))
}

/// A node that nobody has linked.
fn bare() -> NodeState {
    let mut state = NodeState::default();
    for (name, net) in [("eth0", "100.64.0.1/24"), ("eth1", "100.65.0.1/24")] {
        state.links.insert(Link {
            name: name.into(),
            index: 0,
            mac: Some(Mac([2, 0, 0, 0, 0, 9])),
            mtu: 1500,
            up: true,
            carrier: true,
            kind: LinkKind::Veth { peer_index: 1 },
            master: None,
            tx_dropped: 0,
            rx_dropped: 0,
        });
        let net = net.parse().expect("a prefix");
        state.addresses.insert(Address {
            link: name.into(),
            net,
        });
    }
    state
}

/// One of some texts, of which the last are no values of their field.
fn one_of(texts: &'static [&'static str]) -> impl Strategy<Value = String> {
    prop::sample::select(texts).prop_map(str::to_owned)
}

const LINKS: &[&str] = &["vx-bridge", "vx-local", "vx-bridge-6", "eth0", ""];
const MACS: &[&str] = &[
    "02:00:00:00:00:01",
    "02:00:00:00:00:02",
    "00:00:00:00:00:00",
    "02:00:00:00:00",
];
const OVERLAY: &[&str] = &["220.64.0.2", "220.64.0.3", "9470::2", "220.64.0"];

prop_compose! {
    fn device()(
        name in one_of(LINKS), addr in one_of(&["220.64.0.1/8", "220.64.0.9/8", "9470::1/16", "220.64.0.1"]),
        mac in one_of(MACS), bind_dev in one_of(&["eth0", "eth1", "eth9"]), id in 53_i32..56, port in prop::sample::select(vec![4876, 4877, 0, 70_000]),
        kind in one_of(&["vxlan", "vxlan", "vxlan", "geneve"]),
    ) -> Device {
        Device { kind, name, addr, mac, bind_dev, id, port }
    }
}

prop_compose! {
    fn config()(
        devices in prop::collection::vec(device(), 0..4),
        routes in prop::collection::vec((one_of(&["10.20.0.0/16", "10.21.0.0/24", "10.20.5.5/16", "fd20::/48", "10.20.0.0"]), one_of(OVERLAY), one_of(LINKS)), 0..5),
        fdbs in prop::collection::vec((one_of(&["100.64.1.1", "100.64.1.2", "fd64::1", "nowhere"]), one_of(MACS), one_of(LINKS)), 0..5),
        arps in prop::collection::vec((one_of(OVERLAY), one_of(MACS), one_of(LINKS)), 0..5),
        rules in prop::collection::vec((one_of(&["nat", "filter"]), one_of(&["POSTROUTING", "PREROUTING", "FORWARD"]), one_of(&[
            "-s 220.0.0.0/8 -j MASQUERADE", "-s 210.0.0.0/8 -o vx-bridge -j MASQUERADE", "-d 10.210.0.0/16 -i vx-bridge -j NETMAP --to 10.20.0.0/16",
            "-s 10.20.0.0/16 -o vx-bridge -j SNAT --to-source 10.210.0.0", "-j DROP", "",
        ])), 0..4),
    ) -> NodeConfigSpec {
        NodeConfigSpec {
            devices,
            routes: routes.into_iter().map(|(cidr, gw, dev)| Route { cidr, gw, dev }).collect(),
            iptables: rules.into_iter().map(|(table, chain, rule)| Iptables { table, chain, rule }).collect(),
            fdbs: fdbs.into_iter().map(|(ip, mac, dev)| Fdb { ip, mac, dev }).collect(),
            arps: arps.into_iter().map(|(ip, mac, dev)| Arp { ip, mac, dev }).collect(),
            ..NodeConfigSpec::default()
        }
    }
}

/// What an agent makes of a state: the changes that its NodeConfig asks for.
fn applied(config: &NodeConfigSpec, state: &NodeState) -> NodeState {
    let set = diff(&desired(config, state).0, state);
    let mut kernel = MemoryKernel::new(state.clone());
    kernel.apply(&set).expect("every change is possible");
    kernel.state().clone()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn each_config_is_reached_from_the_one_before_and_the_last_empty_one_leaves_the_node_bare(
        configs in prop::collection::vec(config(), 1..4),
    ) {
        let mut state = bare();
        for config in &configs {
            state = applied(config, &state);
            let left = diff(&desired(config, &state).0, &state);
            prop_assert!(left.is_empty(), "{left}");
            // A second look changes nothing.
            prop_assert_eq!(&applied(config, &state), &state);
            for link in bare().links.iter() {
                prop_assert_eq!(state.links.get(&link.name), Some(link));
            }
        }
        let mut state = applied(&NodeConfigSpec::default(), &state);
        // Settings of links that are gone went with them, and those of others are the node's.
        state.sysctls = bare().sysctls;
        prop_assert_eq!(state, bare());
    }
}
