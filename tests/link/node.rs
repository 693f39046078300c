//! A node with a kernel of its own, and its agent.

use datapath::diff::{Change, ChangeSet};
use datapath::kernel::LinuxKernel;
use datapath::mac::Mac;
use datapath::rbac::Rights;
use datapath::reconcile::Kernel as _;
use datapath::state::{Address, Link, LinkKind, Row, Vxlan};
use netns_harness::namespace::Netns;

use super::process::Program;
use super::world::World;

/// Runs a test in a network namespace of its own, with a loopback and a link `eth0` for the underlay.
pub(crate) fn on_a_node(test: impl FnOnce(&mut LinuxKernel) + Send) {
    let netns = Netns::create().unwrap();
    let ran = netns.run(|| {
        let mut kernel = LinuxKernel::open().unwrap();
        let state = kernel.observe().unwrap();
        let loopback = state.links.get("lo").unwrap().clone();
        let up = Link {
            up: true,
            ..loopback.clone()
        };
        let underlay = Link {
            name: "eth0".into(),
            index: 0,
            mac: Some(Mac([2, 0, 0, 0, 9, 1])),
            mtu: 1500,
            up: true,
            carrier: true,
            kind: LinkKind::Vxlan(Vxlan {
                vni: 9,
                port: 9999,
                local: None,
                lower: None,
                learning: false,
            }),
            master: None,
            tx_dropped: 0,
            rx_dropped: 0,
        };
        let address = Address {
            link: "eth0".into(),
            net: "100.64.1.1/16".parse().unwrap(),
        };
        let changes = vec![
            Change::Replace {
                from: Row::Link(loopback),
                to: Row::Link(up),
            },
            Change::Add(Row::Link(underlay)),
            Change::Add(Row::Address(address)),
        ];
        kernel.apply(&ChangeSet::ordered(changes)).unwrap();
        test(&mut kernel);
    });
    ran.unwrap();
}

/// Starts the agent of the node with these options and rights beside those of every agent.
pub(crate) fn agent(world: &World, options: &[&str], more: Rights) -> Program {
    let kubeconfig = world.as_agent("a", more);
    let kubeconfig = kubeconfig.to_str().unwrap();
    let words = ["--cluster", "a", "--node", "n1", "--kubeconfig", kubeconfig];
    let words = [&words[..], options].concat();
    let words: Vec<String> = words.into_iter().map(str::to_owned).collect();
    Program::start("agent", &words)
}
