use crate::api::{Arp, Fdb, Iptables, Route};

use super::*;

fn underlay() -> NodeState {
    let mut state = NodeState::default();
    state.links.insert(Link {
        name: "bond0.7".into(),
        index: 2,
        mac: Some(Mac([2, 0, 0, 0, 0, 1])),
        mtu: 1500,
        up: true,
        carrier: true,
        kind: LinkKind::Veth { peer_index: 0 },
        master: None,
        tx_dropped: 0,
        rx_dropped: 0,
    });
    for net in [
        "10.0.0.1/24",
        "192.168.1.11/24",
        "fe80::1/64",
        "2409:7c85:6200::a0e:1702/64",
    ] {
        state.addresses.insert(Address {
            link: "bond0.7".into(),
            net: net.parse().expect("an address"),
        });
    }
    state
}

fn device(name: &str, addr: &str) -> Device {
    Device {
        kind: "vxlan".into(),
        name: name.into(),
        addr: addr.into(),
        mac: "02:00:00:00:0a:01".into(),
        bind_dev: "bond0.7".into(),
        id: 54,
        port: 4876,
    }
}

#[test]
fn the_underlay_lends_mtu_and_source() {
    let config = NodeConfigSpec {
        devices: vec![
            device("vx-bridge", "220.168.1.11/8"),
            device("vx-bridge-6", "9470:7c85:6200::a0e:1702/16"),
        ],
        ..NodeConfigSpec::default()
    };
    let (state, problems) = desired(&config, &underlay());
    assert_eq!(problems, []);
    for (name, mtu, local) in [
        ("vx-bridge", 1450, "192.168.1.11"),
        ("vx-bridge-6", 1430, "2409:7c85:6200::a0e:1702"),
    ] {
        let link = state.links.get(name).expect(name);
        assert_eq!(link.mtu, mtu);
        let LinkKind::Vxlan(vxlan) = &link.kind else {
            panic!("{name} is {:?}", link.kind)
        };
        assert_eq!(vxlan.local, Some(local.parse().expect("an address")));
    }
    for (name, value) in [
        ("net.ipv4.conf.all.forwarding", 1),
        ("net.ipv4.conf.bond0/7.rp_filter", 2),
        ("net.ipv4.conf.vx-bridge.forwarding", 1),
        ("net.ipv6.conf.bond0/7.forwarding", 1),
        ("net.ipv6.conf.vx-bridge-6.disable_ipv6", 0),
    ] {
        assert_eq!(state.sysctls.get(name).map(|row| row.value), Some(value));
    }
    assert_eq!(state.rules.len(), 2);
}

#[test]
fn each_bad_part_is_left_out_alone() {
    let route = |cidr: &str, gw: &str, dev: &str| Route {
        cidr: cidr.into(),
        gw: gw.into(),
        dev: dev.into(),
    };
    let fdb = |ip: &str, mac: &str| Fdb {
        ip: ip.into(),
        mac: mac.into(),
        dev: "vx-bridge".into(),
    };
    let arp = |ip: &str, mac: &str| Arp {
        ip: ip.into(),
        mac: mac.into(),
        dev: "vx-bridge".into(),
    };
    let mut lost = device("vx-local", "210.168.1.11/8");
    lost.bind_dev = "eth9".into();
    let config = NodeConfigSpec {
        devices: vec![
            device("vx-bridge", "220.168.1.11/8"),
            lost,
            device("eth0", "1.2.3.4/8"),
        ],
        routes: vec![
            route("10.21.7.9/16", "220.0.0.3", "vx-bridge"),
            route("10.21.0.0/16", "220.0.0.4", "vx-bridge"),
            route("10.22.0.0/16", "fd00::1", "vx-bridge"),
            route("ten", "220.0.0.3", "vx-bridge"),
            route("10.23.0.0/16", "210.0.0.3", "vx-local"),
            route("10.24.0.0/16", "210.0.0.3", "vx-other"),
        ],
        fdbs: vec![
            fdb("100.64.0.3", "02:00:00:00:00:03"),
            fdb("100.64.0.4", "02:00:00:00:00:03"),
            fdb("100.64.0.3", "00:00:00:00:00:00"),
            fdb("100.64.0.4", "00:00:00:00:00:00"),
            // A tunnel over IPv4 has no way to it (`EAFNOSUPPORT`).
            fdb("fd64::4", "00:00:00:00:00:00"),
        ],
        arps: vec![
            arp("220.0.0.3", "02:00:00:00:00:03"),
            arp("220.0.0.3", "02:00:00:00:00:04"),
        ],
        ..NodeConfigSpec::default()
    };
    let (state, problems) = desired(&config, &underlay());
    let objects: Vec<_> = problems
        .iter()
        .map(|problem| problem.object.as_str())
        .collect();
    // Nothing is said about the routes of a tunnel that is itself reported.
    assert_eq!(
        objects,
        [
            "device vx-local",
            "device eth0",
            "arp 220.0.0.3",
            "fdb 02:00:00:00:00:03",
            "fdb 00:00:00:00:00:00",
            "route 10.21.0.0/16",
            "route 10.22.0.0/16",
            "route ten",
            "route 10.24.0.0/16",
        ]
    );
    assert_eq!(state.links.len(), 1);
    assert_eq!(state.routes.len(), 1);
    assert_eq!(state.fdb.len(), 3);
    assert_eq!(state.neighbours.len(), 1);
    let route = state.routes.iter().next().expect("one route");
    assert_eq!(route.dst.to_string(), "10.21.0.0/16");
    assert_eq!(
        route.hops[0].via,
        Some("220.0.0.3".parse().expect("an address"))
    );
}

#[test]
fn the_four_translations_are_read_and_nothing_else() {
    let net = |text: &str| text.parse::<IpNet>().expect("a prefix");
    let read = |chain: &str, rule: &str| {
        translation::parse(&Iptables {
            table: "nat".into(),
            chain: chain.into(),
            rule: rule.into(),
        })
    };
    use crate::state::Nat;
    assert_eq!(
        read("POSTROUTING", "-s 220.0.0.0/8 -j MASQUERADE"),
        Ok(Nat::Masquerade {
            src: net("220.0.0.0/8"),
            out: None
        })
    );
    assert_eq!(
        read("POSTROUTING", "-s 9480::0/16 -o vx-bridge-6 -j MASQUERADE"),
        Ok(Nat::Masquerade {
            src: net("9480::/16"),
            out: Some("vx-bridge-6".into())
        })
    );
    assert_eq!(
        read(
            "PREROUTING",
            "-d 10.210.0.0/16 -i vx-bridge -j NETMAP --to 10.244.0.0/16"
        ),
        Ok(Nat::Netmap {
            dst: net("10.210.0.0/16"),
            input: "vx-bridge".into(),
            to: net("10.244.0.0/16")
        })
    );
    assert_eq!(
        read(
            "POSTROUTING",
            "-s 10.244.0.0/16 -o vx-bridge -j SNAT --to-source 10.210.0.0"
        ),
        Ok(Nat::Snat {
            src: net("10.244.0.0/16"),
            out: "vx-bridge".into(),
            to: "10.210.0.0".parse().expect("an address")
        })
    );
    for (chain, rule) in [
        ("FORWARD", "-s 220.0.0.0/8 -j MASQUERADE"),
        ("PREROUTING", "-s 220.0.0.0/8 -j MASQUERADE"),
        ("POSTROUTING", "-s 220.0.0.0/8 -j ACCEPT"),
        ("POSTROUTING", "-s 220.0.0.0/8 -s 1.0.0.0/8 -j MASQUERADE"),
        ("POSTROUTING", "-s 220.0.0.0/8 -p tcp -j MASQUERADE"),
        ("POSTROUTING", "-s 220.0.0.0/8 -j"),
        (
            "POSTROUTING",
            "-s 10.244.0.0/16 -o vx-bridge -j SNAT --to-source fd00::1",
        ),
        (
            "PREROUTING",
            "-d fd00::/48 -i vx-bridge -j NETMAP --to 10.0.0.0/8",
        ),
        // The kernel's names have room for 15 octets, and no wildcards.
        (
            "POSTROUTING",
            "-s 220.0.0.0/8 -o vx-bridge-of-many -j MASQUERADE",
        ),
        ("POSTROUTING", "-s 220.0.0.0/8 -o vx-+ -j MASQUERADE"),
        (
            "PREROUTING",
            "-d 10.1.0.0/16 -i a/b -j NETMAP --to 10.2.0.0/16",
        ),
        ("POSTROUTING", ""),
    ] {
        assert!(read(chain, rule).is_err(), "{chain} {rule}");
    }
}

#[test]
fn a_digest_is_of_the_rows_and_not_of_their_order() {
    let route = |cidr: &str| Route {
        cidr: cidr.into(),
        gw: "220.0.0.1".into(),
        dev: "vx-bridge".into(),
    };
    let spec = |routes: &[&str]| NodeConfigSpec {
        routes: routes.iter().map(|cidr| route(cidr)).collect(),
        ..NodeConfigSpec::default()
    };
    let digest = |routes: &[&str]| spec_digest(&spec(routes));
    assert_eq!(
        digest(&["10.1.0.0/16", "10.2.0.0/16"]),
        digest(&["10.2.0.0/16", "10.1.0.0/16"])
    );
    assert_ne!(digest(&["10.1.0.0/16"]), digest(&["10.2.0.0/16"]));
    assert_ne!(
        digest(&["10.1.0.0/16"]),
        digest(&["10.1.0.0/16", "10.1.0.0/16"])
    );
    // The same words in another list are other rows.
    let arp = NodeConfigSpec {
        arps: vec![Arp {
            ip: "1.1.1.1".into(),
            mac: "02:00:00:00:00:01".into(),
            dev: "d".into(),
        }],
        ..NodeConfigSpec::default()
    };
    let fdb = NodeConfigSpec {
        fdbs: vec![Fdb {
            ip: "1.1.1.1".into(),
            mac: "02:00:00:00:00:01".into(),
            dev: "d".into(),
        }],
        ..NodeConfigSpec::default()
    };
    assert_ne!(spec_digest(&arp), spec_digest(&fdb));
    // Those of another version of this program are the same.
    assert_eq!(digest(&[]), "0000000000000000");
    assert_eq!(digest(&["10.1.0.0/16"]), "6b78b3eeba43c206");
}
