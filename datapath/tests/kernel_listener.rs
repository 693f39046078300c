//! One listener hears of the namespaces that it attends to, each under its own number, and of nobody else.
#![cfg(feature = "kernel")]
#![allow(missing_docs, clippy::expect_used, reason = "a test")]

use std::collections::BTreeSet;
use std::os::fd::AsFd as _;

use datapath::diff::{Change, ChangeSet};
use datapath::kernel::{LinuxKernel, Listener};
use datapath::mac::Mac;
use datapath::reconcile::Kernel as _;
use datapath::state::{Fdb, Link, LinkKind, Row, Vxlan};
use netns_harness::namespace::Netns;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

fn tunnel(name: &str, vni: u32) -> Row {
    Row::Link(Link {
        name: name.into(),
        index: 0,
        mac: Some(Mac([2, 0, 0, 0, 9, 1])),
        mtu: 1450,
        up: true,
        carrier: true,
        kind: LinkKind::Vxlan(Vxlan {
            vni,
            port: 4876,
            local: None,
            lower: None,
            learning: false,
        }),
        master: None,
        tx_dropped: 0,
        rx_dropped: 0,
    })
}

fn row(link: &str, last: u8) -> Row {
    Row::Fdb(Fdb {
        link: link.into(),
        mac: Mac([2, 0, 0, 0, 0, last]),
        dst: Some([100, 64, 0, last].into()),
        permanent: true,
    })
}

/// What is heard of a change in a namespace, which was told by the time that the change was made.
fn heard(listener: &mut Listener, kernel: &mut LinuxKernel, row: Row) -> BTreeSet<u32> {
    let set = ChangeSet {
        changes: vec![Change::Add(row)],
    };
    kernel.apply(&set).expect("a possible change");
    let heard = listener.drain();
    assert!(!heard.is_lossy);
    heard.changed
}

#[test]
#[ignore = "netns: needs vxlan"]
fn each_namespace_is_heard_under_its_own_number_and_strangers_are_not() {
    let spaces: Vec<Netns> = (0..4).map(|_| Netns::create().expect("create")).collect();
    let listener = spaces[0].run(Listener::open).expect("run");
    let mut listener = listener.expect("a listener");
    let mut kernels: Vec<LinuxKernel> = spaces[1..]
        .iter()
        .map(|netns| netns.run(LinuxKernel::open).expect("run").expect("open"))
        .collect();
    // Its tunnel is there before anybody listens.
    let set = ChangeSet {
        changes: vec![Change::Add(tunnel("vx-bridge", 54))],
    };
    kernels[0].apply(&set).expect("a tunnel");
    let index = kernels[0].tunnel_indices().expect("indices")["vx-bridge"];
    let mut attend = |at: usize, index: Option<u32>| {
        let links = [("vx-bridge".to_owned(), index)];
        listener
            .attend(spaces[at].as_fd(), links)
            .expect("a number")
    };
    let first = attend(1, Some(index));
    let second = attend(2, None);
    assert_ne!(first, second);
    assert_eq!(attend(1, Some(index)), first, "the same again");

    // Links settle by themselves meanwhile, which may be heard as well: so each is asked for alone.
    let changed = heard(&mut listener, &mut kernels[0], row("vx-bridge", 1));
    assert!(changed.contains(&first) && !changed.contains(&second));
    // A link that is nobody's business, then one that is, and a row on each.
    for stranger in [tunnel("foreign", 7), row("foreign", 1)] {
        let changed = heard(&mut listener, &mut kernels[1], stranger);
        assert!(!changed.contains(&second));
    }
    for ours in [tunnel("vx-bridge", 54), row("vx-bridge", 1)] {
        let changed = heard(&mut listener, &mut kernels[1], ours);
        assert!(changed.contains(&second));
    }
    // Nobody attends to the third.
    let changed = heard(&mut listener, &mut kernels[2], tunnel("vx-bridge", 54));
    assert!(changed.is_subset(&BTreeSet::from([first, second])));

    // It is readable when something waits.
    let set = ChangeSet {
        changes: vec![Change::Add(row("vx-bridge", 2))],
    };
    kernels[0].apply(&set).expect("a possible change");
    let mut polled = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
    assert_eq!(poll(&mut polled, PollTimeout::ZERO), Ok(1));
}
