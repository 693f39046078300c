//! An underlay for kernels of tests.

use datapath::diff::{Change, ChangeSet};
use datapath::mac::Mac;
use datapath::state::{Address, Link, LinkKind, Row, Vxlan};

/// A link that stands for the underlay: a tunnel itself, because every kernel that this is for can make one and nothing else is needed.
pub(crate) fn underlay(name: &str, addresses: &[&str]) -> ChangeSet {
    let link = Link {
        name: name.into(),
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
    let addresses = addresses.iter().map(|net| {
        Change::Add(Row::Address(Address {
            link: name.into(),
            net: net.parse().expect("a literal"),
        }))
    });
    let link = std::iter::once(Change::Add(Row::Link(link)));
    ChangeSet::ordered(link.chain(addresses).collect())
}
