//! Tunnels that are gone, down or other than planned.

use datapath::nodeconfig::TABLE;
use datapath::state::{Family, LinkKind, NodeState, Route, Vxlan};
use floater::wire::Layer;
use orchestrator::report::{CellId, Severity};

use super::faults::{expect, fleets};
use super::fleet::{BOTH, IPV4, IPV6, gateway, healthy, judged, only, tables, titles, underlay};
use super::traps::{look, lose, probed, three};

fn down(tables: &mut NodeState, tunnel: &str, family: Family) {
    tables.links.get_mut(tunnel).expect("a tunnel").up = false;
    tables.links.get_mut(tunnel).expect("a tunnel").carrier = false;
    tables
        .routes
        .retain(|row| row.hops.iter().all(|hop| hop.link != tunnel));
    tables.neighbours.retain(|row| row.link != tunnel);
    if family == Family::Ipv6 {
        tables.addresses.retain(|row| row.link != tunnel);
    }
}

#[test]
fn tunnel_dev_down() {
    for (mut gathered, tunnel, family) in fleets() {
        down(tables(&mut gathered, "west/n1"), tunnel, family);
        expect(&mut gathered, "TUNNEL-DEV-DOWN", "west/n1", "link", family);
    }
}

#[test]
fn dev_deleted() {
    for (mut gathered, tunnel, family) in fleets() {
        let tables = tables(&mut gathered, "west/n1");
        down(tables, tunnel, Family::Ipv6);
        tables.links.retain(|link| link.name != tunnel);
        tables.fdb.retain(|row| row.link != tunnel);
        tables
            .sysctls
            .retain(|row| !row.name.contains(&format!(".{tunnel}.")));
        expect(&mut gathered, "DEV-DELETED", "west/n1", "link", family);
    }
}

#[test]
fn local_tunnels_are_judged_as_well() {
    for family in [Family::Ipv4, Family::Ipv6] {
        let tunnel = match family {
            Family::Ipv4 => "vx-local",
            Family::Ipv6 => "vx-local-6",
        };
        let mut gathered = healthy(&[gateway("east", BOTH), gateway("west", BOTH)]);
        down(tables(&mut gathered, "east/n2"), tunnel, family);
        expect(&mut gathered, "TUNNEL-DEV-DOWN", "east/n2", "link", family);
    }
}

fn change(tables: &mut NodeState, tunnel: &str, change: impl FnOnce(&mut Vxlan)) {
    let link = tables.links.get_mut(tunnel).expect("a tunnel");
    if let LinkKind::Vxlan(vxlan) = &mut link.kind {
        change(vxlan);
    }
}

#[test]
fn tunnels_that_differ() {
    type Change = fn(&mut Vxlan);
    let changes: [(&str, Change); 2] = [
        ("VNI-MISMATCH", |vxlan| vxlan.vni = 99),
        ("TUNNEL-PORT-MISMATCH", |vxlan| vxlan.port = 4999),
    ];
    for (code, differ) in changes {
        for (mut gathered, tunnel, family) in fleets() {
            change(tables(&mut gathered, "east/n1"), tunnel, differ);
            expect(&mut gathered, code, "east/n1", "link", family);
        }
    }
}

/// A kernel refuses to send an IPv4 packet from an address that it does not have; it does not look at that of an IPv6 packet.
#[test]
fn a_tunnel_bound_to_an_address_that_the_node_lost() {
    for (mut gathered, tunnel, family) in fleets() {
        let lost = underlay(9, 9, family);
        change(tables(&mut gathered, "east/n1"), tunnel, |vxlan| {
            vxlan.local = Some(lost);
        });
        match family {
            Family::Ipv4 => expect(&mut gathered, "VTEP-LOCAL-STALE", "east/n1", "link", family),
            Family::Ipv6 => assert_eq!(
                titles(&judged(&mut gathered)),
                ["warning VTEP-LOCAL-STALE at east/n1 link"]
            ),
        }
    }
}

#[test]
fn tunnels_of_another_size_are_warnings() {
    for (mtu, code) in [(1500, "INNER-MTU-TOO-BIG"), (1300, "L2-MTU-MISMATCH")] {
        for (mut gathered, tunnel, _) in fleets() {
            let links = &mut tables(&mut gathered, "east/n1").links;
            links.get_mut(tunnel).expect("a tunnel").mtu = mtu;
            let title = format!("warning {code} at east/n1 link");
            assert_eq!(titles(&judged(&mut gathered)), [title]);
        }
    }
}

/// A tunnel that takes less than its peers send is what loses large packets, and nothing between the nodes is accused.
#[test]
fn large_packets_that_a_smaller_tunnel_loses_are_told_of_it() {
    let mut gathered = three();
    let links = &mut tables(&mut gathered, "west/n1").links;
    links.get_mut("vx-bridge").expect("a tunnel").mtu = 1300;
    let gathered = probed(gathered, |record| {
        let to_west = record.src.cluster != 2 && record.dst.cluster == 2;
        if record.payload_bytes > 1000 && to_west && record.layer == Layer::Pod {
            lose(record);
        }
    });
    let judged = look(&gathered);
    let finding = only(&judged);
    assert_eq!(titles(&judged), ["error L2-MTU-MISMATCH at west/n1 link"]);
    let suffers = |cell: &CellId| (cell.dst, cell.layer) == (2, Layer::Pod);
    assert!(finding.affects.iter().all(suffers), "{finding:#?}");
}

/// With its last IPv4 address a link loses its IPv4 routes and neighbours; of IPv6 nothing else goes, and packets pass.
#[test]
fn an_overlay_address_that_is_gone() {
    for (mut gathered, tunnel, family) in fleets() {
        let tables = tables(&mut gathered, "west/n1");
        tables.addresses.retain(|row| row.link != tunnel);
        if family == Family::Ipv6 {
            let title = "warning ADDRESS-MISSING at west/n1 address";
            assert_eq!(titles(&judged(&mut gathered)), [title]);
            continue;
        }
        let leads = |row: &Route| row.hops.iter().any(|hop| hop.link == tunnel);
        tables.routes.retain(|row| !leads(row));
        tables.neighbours.retain(|row| row.link != tunnel);
        expect(
            &mut gathered,
            "ADDRESS-MISSING",
            "west/n1",
            "address",
            family,
        );
    }
}

/// Addresses, routes and neighbours went with the setting, and nobody is told of them one by one. The fix puts them back.
#[test]
fn ipv6_that_is_switched_off_on_a_tunnel() {
    let of_ipv6 = fleets().into_iter();
    for (mut gathered, tunnel, family) in of_ipv6.filter(|fleet| fleet.2 == Family::Ipv6) {
        let tables = tables(&mut gathered, "west/n1");
        let name = format!("net.ipv6.conf.{tunnel}.disable_ipv6");
        tables.sysctls.get_mut(&name).expect("a setting").value = 1;
        let crosses = |row: &Route| row.hops.iter().any(|hop| hop.link == tunnel);
        let planned = tables.routes.iter().filter(|row| row.table == TABLE);
        let routes = planned.filter(|row| crosses(row)).count();
        tables.routes.retain(|row| !crosses(row));
        tables.neighbours.retain(|row| row.link != tunnel);
        tables.addresses.retain(|row| row.link != tunnel);
        expect(&mut gathered, "V6-FORWARD-OFF", "west/n1", "sysctl", family);
        let judged = judged(&mut gathered);
        let fix = only(&judged).fix.to_string();
        assert!(fix.contains(&format!("{name}=0")), "{fix}");
        assert!(fix.contains("ip address replace"), "{fix}");
        assert_eq!(fix.matches("route replace").count(), routes, "{fix}");
    }
}

/// Removing a tunnel costs all rows on it, so that a fix which does has to put them back.
#[test]
fn the_fix_of_a_tunnel_that_is_made_anew_puts_back_what_stood_on_it() {
    for families in [IPV4, IPV6] {
        let mut gathered = healthy(&[gateway("east", families), gateway("west", families)]);
        let tunnel = match families[0] {
            Family::Ipv4 => "vx-bridge",
            Family::Ipv6 => "vx-bridge-6",
        };
        let tables = tables(&mut gathered, "east/n1");
        change(tables, tunnel, |vxlan| vxlan.vni = 99);
        let neighbours = tables.neighbours.iter().filter(|row| row.link == tunnel);
        let fdb = tables.fdb.iter().filter(|row| row.link == tunnel);
        let routes = tables.routes.iter().filter(|row| row.table == TABLE);
        let expected = [neighbours.count(), fdb.count(), routes.count()];
        assert!(expected.iter().all(|count| *count > 0));
        let judged = judged(&mut gathered);
        let finding = only(&judged);
        assert_eq!(finding.severity, Severity::Error);
        let fix = finding.fix.to_string();
        let words = ["neighbour replace", "bridge fdb", "route replace"];
        let put_back = words.map(|word| fix.matches(word).count());
        assert_eq!(put_back, expected, "{fix}");
        assert!(fix.contains("ip address replace"), "{fix}");
    }
}
