//! Two nodes beside each other: the suite's own namespace is the first, which the control plane and the operator are on, too.
//!
//! ```text
//!   n1: this namespace, 100.64.1.2, pods 10.1.1.0/24 on bridge cni0 ─── veth ─── n2: 100.64.1.3, pods 10.1.2.0/24 on bridge cni0
//! ```

use std::net::Ipv4Addr;

use ipnet::IpNet;
use netns_harness::namespace::Netns;
use netns_harness::netlink::Netlink;
use netns_harness::sysctl;
use netns_harness::wire::{End, Route, Wire as _};

/// The index of the link between the nodes, and that of a node's bridge; both are free in a new namespace.
const UPLINK: u32 = 10;
const BRIDGE: u32 = 11;
/// The index of a pod's link in the pod; that in its node is 1000 and the address's last byte.
const POD: u32 = 10;
const MTU: u32 = 1500;
const MAIN: u32 = 254;

/// A node's network.
#[derive(Clone)]
pub(crate) struct Node {
    pub(crate) number: u8,
    pub(crate) netns: Netns,
}

impl Node {
    pub(crate) fn name(&self) -> String {
        format!("n{}", self.number)
    }

    pub(crate) fn ip(&self) -> Ipv4Addr {
        Ipv4Addr::new(100, 64, 1, 1 + self.number)
    }

    pub(crate) fn pod_prefix(&self) -> String {
        format!("10.1.{}.0/24", self.number)
    }

    /// A namespace for a pod at an address that ends so.
    pub(crate) fn pod(&self, last: u8) -> (Netns, Ipv4Addr) {
        let pod = Netns::create().unwrap();
        let ip = Ipv4Addr::new(10, 1, self.number, last);
        let (index, name) = (1000 + u32::from(last), format!("pod{last}"));
        let here = End {
            name: &name,
            index,
            mac: mac(self.number, last, 1),
            mtu: MTU,
            namespace: None,
            master: Some(BRIDGE),
        };
        let there = End {
            name: "eth0",
            index: POD,
            mac: mac(self.number, last, 2),
            mtu: MTU,
            namespace: Some(&pod),
            master: None,
        };
        inside(&self.netns, |netlink| netlink.veth(&here, &there));
        let router = Ipv4Addr::new(10, 1, self.number, 1);
        inside(&pod, |netlink| {
            netlink.up(1);
            netlink.up(POD);
            netlink.address(POD, net(ip, 24));
            netlink.route(&Route {
                dst: "0.0.0.0/0".parse().unwrap(),
                via: Some(router.into()),
                index: POD,
                table: MAIN,
            });
        });
        (pod, ip)
    }

    /// Removes a pod's link; its namespace goes with its last holder.
    pub(crate) fn unplug(&self, last: u8) {
        inside(&self.netns, |netlink| {
            netlink.remove_link(1000 + u32::from(last))
        });
    }
}

fn mac(node: u8, last: u8, end: u8) -> [u8; 6] {
    [2, 0, end, 1, node, last]
}

fn net(ip: Ipv4Addr, length: u8) -> IpNet {
    format!("{ip}/{length}").parse().unwrap()
}

fn inside(netns: &Netns, work: impl FnOnce(&mut Netlink) + Send) {
    let done = netns.run(|| {
        let mut netlink = Netlink::open()?;
        work(&mut netlink);
        netlink.flush()
    });
    done.unwrap().unwrap();
}

/// Makes both nodes.
pub(crate) fn nodes() -> [Node; 2] {
    let nodes = [
        Node {
            number: 1,
            netns: Netns::current().unwrap(),
        },
        Node {
            number: 2,
            netns: Netns::create().unwrap(),
        },
    ];
    let [first, second] = &nodes;
    let here = End {
        name: "eth0",
        index: UPLINK,
        mac: mac(1, 0, 0),
        mtu: MTU,
        namespace: None,
        master: None,
    };
    let there = End {
        mac: mac(2, 0, 0),
        namespace: Some(&second.netns),
        ..here.clone()
    };
    inside(&first.netns, |netlink| netlink.veth(&here, &there));
    for (node, other) in [(first, second), (second, first)] {
        let set = node.netns.run(|| sysctl::set("net.ipv4.ip_forward", "1"));
        set.unwrap().unwrap();
        inside(&node.netns, |netlink| {
            netlink.up(1);
            netlink.up(UPLINK);
            netlink.address(UPLINK, net(node.ip(), 24));
            netlink.bridge("cni0", BRIDGE, mac(node.number, 0, 3), MTU);
            netlink.address(BRIDGE, net(Ipv4Addr::new(10, 1, node.number, 1), 24));
            netlink.route(&Route {
                dst: other.pod_prefix().parse().unwrap(),
                via: Some(other.ip().into()),
                index: UPLINK,
                table: MAIN,
            });
        });
    }
    nodes
}
