//! Every cause, put into the tables of a healthy fleet.

use datapath::api::NetworkType;
use datapath::mac::Mac;
use datapath::state::{Family, NeighbourState, NodeState, RouteKind};
use orchestrator::diagnose::diagnose;
use orchestrator::evidence::Gathered;
use orchestrator::probe_plan::What;
use orchestrator::report::{CellVerdict, RunVerdict, Severity};

use super::fleet::{
    BOTH, IPV4, IPV6, Spec, affected, at, gateway, healthy, judged, only, p2p, pods, probe, tables,
    titles, underlay,
};

/// Fleets that every fault is tried in, each with a node that holds rows for the peer west/n1 on the tunnel and family.
pub(crate) fn fleets() -> Vec<(Gathered, &'static str, Family)> {
    let mut all = Vec::new();
    for families in [IPV4, IPV6, BOTH] {
        for &family in families {
            let tunnel = match family {
                Family::Ipv4 => "vx-bridge",
                Family::Ipv6 => "vx-bridge-6",
            };
            for mode in [gateway, p2p] {
                all.push((
                    healthy(&[
                        mode("east", families),
                        mode("north", families),
                        mode("west", families),
                    ]),
                    tunnel,
                    family,
                ));
            }
            all.push((
                healthy(&[
                    gateway("east", families),
                    gateway("north", families),
                    p2p("west", families),
                ]),
                tunnel,
                family,
            ));
        }
    }
    all
}

fn overlay(gathered: &Gathered, place: &str, tunnel: &str) -> std::net::IpAddr {
    let at = at(gathered, place);
    let tables = gathered.clusters[at.cluster].nodes[at.node]
        .tables
        .as_ref()
        .expect("readable");
    tables
        .addresses
        .iter()
        .find(|row| row.link == tunnel)
        .expect("an overlay address")
        .net
        .addr()
}

fn mac(gathered: &Gathered, place: &str, tunnel: &str) -> Mac {
    let at = at(gathered, place);
    let tables = gathered.clusters[at.cluster].nodes[at.node]
        .tables
        .as_ref()
        .expect("readable");
    tables
        .links
        .get(tunnel)
        .and_then(|link| link.mac)
        .expect("a MAC")
}

/// Checks that the only finding is this one, that cells of its family alone suffer, and that all of them cross the two clusters.
pub(crate) fn expect(gathered: &mut Gathered, code: &str, place: &str, kind: &str, family: Family) {
    let judged = judged(gathered);
    let finding = only(&judged);
    let (cluster, node) = place.split_once('/').expect("a place");
    assert_eq!(finding.code.word(), code, "{:?}", titles(&judged));
    assert_eq!(finding.element.cluster.as_deref(), Some(cluster));
    assert_eq!(finding.element.node.as_deref(), Some(node));
    assert_eq!(finding.element.kind.word(), kind);
    assert_eq!(finding.severity, Severity::Error, "{finding:#?}");
    assert_eq!(judged.verdict, RunVerdict::Fault);
    assert!(
        finding.affects.iter().all(|cell| cell.family == family),
        "{finding:#?}"
    );
    assert!(
        affected(&judged, finding)
            .iter()
            .all(|cell| cell.src == cluster || cell.dst == cluster)
    );
    for cell in judged.cells() {
        let suffers = finding.affects.contains(&cell.id);
        assert_eq!(suffers, cell.verdict != CellVerdict::Pass, "{cell:?}");
        assert_eq!(cell.findings.is_empty(), !suffers);
    }
}

#[test]
fn fdb_missing() {
    for (mut gathered, tunnel, family) in fleets() {
        let peer = underlay(2, 0, family);
        tables(&mut gathered, "east/n1")
            .fdb
            .retain(|row| row.link != tunnel || row.dst != Some(peer));
        expect(&mut gathered, "FDB-MISSING", "east/n1", "fdb", family);
    }
}

#[test]
fn one_of_two_forwarding_rows_is_a_warning() {
    for flood in [false, true] {
        let (mut gathered, tunnel, family) = fleets().remove(0);
        let peer = underlay(2, 0, family);
        tables(&mut gathered, "east/n1").fdb.retain(|row| {
            row.link != tunnel || row.dst != Some(peer) || row.mac.is_zero() != flood
        });
        let judged = judged(&mut gathered);
        let finding = only(&judged);
        assert_eq!(finding.code.word(), "FDB-MISSING");
        assert_eq!(finding.severity, Severity::Warning);
        assert!(finding.affects.is_empty());
        assert_eq!(judged.verdict, RunVerdict::Degraded);
    }
}

#[test]
fn fdb_wrong_vtep() {
    for (mut gathered, tunnel, family) in fleets() {
        let (right, wrong) = (underlay(2, 0, family), underlay(9, 9, family));
        let to = mac(&gathered, "west/n1", tunnel);
        let fdb = &mut tables(&mut gathered, "east/n1").fdb;
        let mut row = fdb
            .iter()
            .find(|row| row.link == tunnel && row.mac == to)
            .expect("a row")
            .clone();
        assert_eq!(row.dst, Some(right));
        fdb.retain(|other| *other != row);
        row.dst = Some(wrong);
        fdb.insert(row);
        expect(&mut gathered, "FDB-WRONG-VTEP", "east/n1", "fdb", family);
    }
}

#[test]
fn neigh_missing_is_a_warning_while_floods_heal_it() {
    for (mut gathered, tunnel, family) in fleets() {
        let peer = overlay(&gathered, "west/n1", tunnel);
        tables(&mut gathered, "east/n1")
            .neighbours
            .retain(|row| row.link != tunnel || row.ip != peer);
        let judged = judged(&mut gathered);
        let finding = only(&judged);
        assert_eq!(finding.code.word(), "NEIGH-MISSING");
        assert_eq!(finding.severity, Severity::Warning, "{finding:#?}");
        assert_eq!(finding.element.kind.word(), "neighbour");
        assert!(
            finding
                .evidence
                .iter()
                .any(|evidence| evidence.text.contains("still pass")),
            "{family} {finding:#?}"
        );
    }
}

#[test]
fn neigh_missing_and_fdb_missing_are_two() {
    for (mut gathered, tunnel, family) in fleets() {
        let (peer, dst) = (
            overlay(&gathered, "west/n1", tunnel),
            underlay(2, 0, family),
        );
        let tables = tables(&mut gathered, "east/n1");
        tables
            .neighbours
            .retain(|row| row.link != tunnel || row.ip != peer);
        tables
            .fdb
            .retain(|row| row.link != tunnel || row.dst != Some(dst));
        let judged = judged(&mut gathered);
        let mut codes: Vec<&str> = judged
            .findings
            .iter()
            .map(|finding| finding.code.word())
            .collect();
        codes.sort_unstable();
        assert_eq!(codes, ["FDB-MISSING", "NEIGH-MISSING"]);
        assert!(
            judged
                .findings
                .iter()
                .all(|finding| finding.severity == Severity::Error)
        );
    }
}

#[test]
fn a_neighbour_that_is_not_permanent_is_missing() {
    let (mut gathered, tunnel, _) = fleets().remove(0);
    let peer = overlay(&gathered, "west/n1", tunnel);
    let row = tables(&mut gathered, "east/n1")
        .neighbours
        .get_mut(&(tunnel.to_owned(), peer))
        .expect("a row");
    row.state = NeighbourState::Dynamic;
    let judged = judged(&mut gathered);
    assert_eq!(
        titles(&judged),
        ["warning NEIGH-MISSING at east/n1 neighbour"]
    );
}

#[test]
fn neigh_stale_mac_at_the_holder() {
    for (mut gathered, tunnel, family) in fleets() {
        let peer = overlay(&gathered, "west/n1", tunnel);
        let row = tables(&mut gathered, "east/n1")
            .neighbours
            .get_mut(&(tunnel.to_owned(), peer))
            .expect("a row");
        row.mac = Some(Mac([2, 9, 9, 9, 9, 9]));
        let stale = Mac([2, 9, 9, 9, 9, 9]);
        // The forwarding row of the former MAC, as it stands where the peer has changed its own.
        let mut fdb = tables(&mut gathered, "east/n1")
            .fdb
            .iter()
            .find(|row| {
                row.link == tunnel && row.dst == Some(underlay(2, 0, family)) && !row.mac.is_zero()
            })
            .expect("a row")
            .clone();
        fdb.mac = stale;
        tables(&mut gathered, "east/n1").fdb.insert(fdb);
        expect(
            &mut gathered,
            "NEIGH-STALE-MAC",
            "east/n1",
            "neighbour",
            family,
        );
    }
}

#[test]
fn neigh_stale_mac_of_a_tunnel() {
    for (mut gathered, tunnel, family) in fleets() {
        let tables = tables(&mut gathered, "west/n1");
        tables.links.get_mut(tunnel).expect("a tunnel").mac = Some(Mac([2, 9, 9, 9, 9, 9]));
        // The kernel flushes the neighbours of a link whose MAC changes, permanent ones too.
        tables.neighbours.retain(|row| row.link != tunnel);
        expect(&mut gathered, "NEIGH-STALE-MAC", "west/n1", "link", family);
    }
}

#[test]
fn route_missing() {
    for (mut gathered, _, family) in fleets() {
        let prefixes = [pods(2, None, family), pods(2, Some(0), family)];
        let tables = tables(&mut gathered, "east/n1");
        let before = tables.routes.len();
        tables
            .routes
            .retain(|row| row.table != 200 || !prefixes.contains(&row.dst));
        assert_eq!(tables.routes.len(), before - 1);
        expect(&mut gathered, "ROUTE-MISSING", "east/n1", "route", family);
    }
}

#[test]
fn route_wrong_dev() {
    for (mut gathered, _, family) in fleets() {
        let prefixes = [pods(2, None, family), pods(2, Some(0), family)];
        let router = underlay(0, 250, family);
        let tables = tables(&mut gathered, "east/n1");
        let mut row = tables
            .routes
            .iter()
            .find(|row| row.table == 200 && prefixes.contains(&row.dst))
            .expect("a route")
            .clone();
        row.hops[0].link = "eth0".to_owned();
        row.hops[0].via = Some(router);
        tables.routes.insert(row);
        expect(&mut gathered, "ROUTE-WRONG-DEV", "east/n1", "route", family);
    }
}

#[test]
fn route_blackhole() {
    let (mut gathered, _, family) = fleets().remove(0);
    let prefix = pods(2, None, family);
    let tables = tables(&mut gathered, "east/n1");
    let mut row = tables
        .routes
        .iter()
        .find(|row| row.table == 200 && row.dst == prefix)
        .expect("a route")
        .clone();
    row.hops.clear();
    row.kind = RouteKind::Blackhole;
    tables.routes.insert(row);
    expect(&mut gathered, "ROUTE-BLACKHOLE", "east/n1", "route", family);
}

fn forwarding_off(tables: &mut NodeState, family: Family) {
    let start = match family {
        Family::Ipv4 => "net.ipv4.conf.",
        Family::Ipv6 => "net.ipv6.conf.",
    };
    let names: Vec<String> = tables
        .sysctls
        .iter()
        .filter(|row| row.name.starts_with(start) && row.name.ends_with(".forwarding"))
        .map(|row| row.name.clone())
        .collect();
    for name in names {
        tables.sysctls.get_mut(&name).expect("a setting").value = 0;
    }
}

#[test]
fn forward_off() {
    for (mut gathered, _, family) in fleets() {
        forwarding_off(tables(&mut gathered, "west/n1"), family);
        expect(&mut gathered, "FORWARD-OFF", "west/n1", "sysctl", family);
    }
}

fn underlay_down(tables: &mut NodeState) {
    let link = tables.links.get_mut("eth0").expect("a link");
    link.up = false;
    link.carrier = false;
    tables
        .routes
        .retain(|row| row.hops.iter().all(|hop| hop.link != "eth0"));
    tables
        .addresses
        .retain(|row| row.link != "eth0" || row.net.addr().is_ipv4());
}

#[test]
fn gateway_down() {
    for mode in [NetworkType::Gateway, NetworkType::P2p] {
        for families in [IPV4, IPV6, BOTH] {
            let spec = |name| Spec {
                name,
                mode,
                families,
                nodes: 2,
                map: &[],
            };
            let mut gathered = healthy(&[spec("east"), spec("north"), spec("west")]);
            underlay_down(tables(&mut gathered, "west/n1"));
            let judged = judged(&mut gathered);
            assert_eq!(titles(&judged), ["error GATEWAY-DOWN at west/n1 node"]);
            let finding = only(&judged);
            for cell in judged.cells() {
                assert_eq!(
                    finding.affects.contains(&cell.id),
                    cell.src == "west" || cell.dst == "west"
                );
            }
            let whole = judged
                .cells()
                .find(|cell| cell.name().to_string().starts_with("east -> west pod"))
                .expect("a cell");
            let expected = match mode {
                NetworkType::Gateway => CellVerdict::Fail,
                NetworkType::P2p => CellVerdict::Degraded,
            };
            assert_eq!(whole.verdict, expected);
        }
    }
}

#[test]
fn a_gateway_whose_tables_cannot_be_read_is_down_by_its_silence() {
    let mut gathered = healthy(&[
        gateway("east", IPV4),
        gateway("north", IPV4),
        gateway("west", IPV4),
    ]);
    underlay_down(tables(&mut gathered, "west/n1"));
    super::fleet::probe(&mut gathered, &orchestrator::probe_plan::What::default());
    let here = at(&gathered, "west/n1");
    let node = &mut gathered.clusters[here.cluster].nodes[here.node];
    node.tables = Err("no answer".to_owned());
    node.host_floater = Some("no answer".to_owned());
    node.pod_floater = Some("no answer".to_owned());
    for probe in &mut gathered.probes {
        if probe.src == here {
            super::fleet::forget(probe, "no answer");
        }
    }
    let judged =
        orchestrator::diagnose::diagnose(&gathered, &orchestrator::probe_plan::What::default());
    super::fleet::consistent(&gathered, &judged);
    assert_eq!(
        titles(&judged),
        ["error GATEWAY-DOWN at west/n1 node"],
        "{:#?}",
        judged.findings
    );
}

#[test]
fn a_node_that_is_no_gateway_is_down() {
    let mut gathered = healthy(&[gateway("east", IPV4), gateway("west", IPV4)]);
    underlay_down(tables(&mut gathered, "west/n2"));
    let judged = judged(&mut gathered);
    assert_eq!(titles(&judged), ["error NODE-DOWN at west/n2 node"]);
}

#[test]
fn rows_of_a_rule_and_a_translation() {
    let mut gathered = healthy(&[gateway("east", IPV4), gateway("west", IPV4)]);
    tables(&mut gathered, "east/n1")
        .rules
        .retain(|row| row.priority != 200);
    expect(
        &mut gathered,
        "POLICY-ROUTE-HIJACK",
        "east/n1",
        "rule",
        Family::Ipv4,
    );

    let mut gathered = healthy(&[gateway("east", IPV4), gateway("west", IPV4)]);
    let nat = tables(&mut gathered, "east/n1")
        .nat
        .iter()
        .next()
        .expect("a translation")
        .clone();
    tables(&mut gathered, "east/n1")
        .nat
        .retain(|row| *row != nat);
    assert_eq!(
        titles(&judged(&mut gathered)),
        ["warning NAT-MISSING at east/n1 nat"]
    );
}

/// The kernel takes the routes to a pod away with its link, of both families.
#[test]
fn a_pod_whose_link_is_down_is_one_finding() {
    let mut gathered = healthy(&[gateway("east", BOTH), gateway("west", BOTH)]);
    for (up, carrier, routes) in [
        (true, false, true),
        (false, true, true),
        (false, true, false),
    ] {
        let tables = tables(&mut gathered, "east/n2");
        let link = tables.links.get_mut("pod").expect("a link");
        (link.up, link.carrier) = (up, carrier);
        if !routes {
            tables
                .routes
                .retain(|row| row.hops.iter().all(|hop| hop.link != "pod"));
        }
        let mut probed = gathered.clone();
        probe(&mut probed, &What::default());
        for record in &mut probed.probes {
            let is_there =
                |node: orchestrator::evidence::NodeRef| (node.cluster, node.node) == (0, 1);
            if record.layer == floater::wire::Layer::Pod
                && record.src != record.dst
                && (is_there(record.src) || is_there(record.dst))
            {
                super::traps::lose(record);
            }
        }
        let judged = diagnose(&probed, &What::default());
        assert_eq!(titles(&judged), ["error POD-NIC-DOWN at east/n2 link"]);
        assert_eq!(only(&judged).element.name, "pod");
    }
}

/// A floater without `CAP_NET_ADMIN` sees no translation: that is no finding, and worth a word only where pods depend on one.
#[test]
fn translations_that_could_not_be_looked_at_are_not_missing() {
    let blind = |map: &'static [(&'static str, &'static str)]| {
        let east = Spec {
            map,
            ..gateway("east", IPV4)
        };
        let mut gathered = healthy(&[east, gateway("west", IPV4)]);
        probe(&mut gathered, &What::default());
        for facts in gathered
            .clusters
            .iter_mut()
            .flat_map(|cluster| &mut cluster.nodes)
        {
            let tables = facts.tables.as_mut().expect("readable");
            tables.nat.retain(|_| false);
            facts.nat_unread = Some("nat: it takes CAP_NET_ADMIN".to_owned());
        }
        diagnose(&gathered, &What::default())
    };
    let masquerades = blind(&[]);
    assert_eq!(titles(&masquerades), [""; 0]);
    assert_eq!(masquerades.unjudged, [""; 0]);

    let mapped = blind(&[("10.20.0.0/16", "10.220.0.0/16")]);
    assert_eq!(titles(&mapped), [""; 0]);
    assert!(
        mapped.unjudged.iter().any(|told| {
            told.starts_with("whether east/n1 translates addresses as planned is not known")
        }),
        "{:?}",
        mapped.unjudged
    );
}

#[test]
fn strict_reverse_path_check() {
    let mut gathered = healthy(&[gateway("east", IPV4), gateway("west", IPV4)]);
    let name = "net.ipv4.conf.eth0.rp_filter";
    tables(&mut gathered, "west/n2")
        .sysctls
        .get_mut(name)
        .expect("a setting")
        .value = 1;
    let judged = judged(&mut gathered);
    let finding = only(&judged);
    assert_eq!(finding.code.word(), "RPFILTER");
}

#[test]
fn a_nodeconfig_that_is_old_and_followed_is_one_finding() {
    let mut gathered = healthy(&[gateway("east", IPV4), gateway("west", IPV4)]);
    let prefix = pods(1, None, Family::Ipv4);
    let object = gathered
        .intent
        .fleet
        .node_configs
        .iter_mut()
        .find(|object| object.metadata.name == "east-n1")
        .expect("a config");
    object
        .spec
        .routes
        .retain(|route| route.cidr != prefix.to_string());
    tables(&mut gathered, "east/n1")
        .routes
        .retain(|row| row.table != 200 || row.dst != prefix);
    expect(
        &mut gathered,
        "INTENT-STALE",
        "east/n1",
        "nodeconfig",
        Family::Ipv4,
    );
}

#[test]
fn without_a_control_plane_the_other_nodes_tell() {
    for mode in [gateway, p2p] {
        let mut gathered = healthy(&[mode("east", BOTH), mode("north", BOTH), mode("west", BOTH)]);
        gathered.intent = orchestrator::evidence::Intent::default();
        assert_eq!(titles(&judged(&mut gathered)), Vec::<String>::new());
        let tunnel = "vx-bridge";
        let peer = overlay(&gathered, "west/n1", tunnel);
        let row = tables(&mut gathered, "east/n1")
            .neighbours
            .get_mut(&(tunnel.to_owned(), peer))
            .expect("a row");
        row.mac = Some(Mac([2, 9, 9, 9, 9, 9]));
        tables(&mut gathered, "east/n1")
            .fdb
            .retain(|row| !row.mac.is_zero());
        let judged = judged(&mut gathered);
        assert!(
            judged
                .findings
                .iter()
                .any(|finding| finding.code.word() == "NEIGH-STALE-MAC"
                    && finding.element.node.as_deref() == Some("n1")),
            "{:#?}",
            titles(&judged)
        );
        assert!(
            judged
                .findings
                .iter()
                .all(|finding| finding.element.cluster.as_deref() == Some("east"))
        );
    }
}

/// Where only the nodes themselves say which pods they have, the others' routes for all of a cluster are as planned.
#[test]
fn without_a_control_plane_the_shares_of_nodes_are_no_prefix_of_the_cluster() {
    let mut gathered = healthy(&[
        p2p("east", BOTH),
        gateway("north", BOTH),
        gateway("west", BOTH),
    ]);
    gathered.intent = orchestrator::evidence::Intent::default();
    for (at, cluster) in gathered.clusters.iter_mut().enumerate() {
        cluster.mode = None;
        cluster.pod_prefixes = (0..cluster.nodes.len())
            .flat_map(|node| BOTH.iter().map(move |&family| pods(at, Some(node), family)))
            .collect();
    }
    assert_eq!(titles(&judged(&mut gathered)), Vec::<String>::new());
    let gone = pods(2, None, Family::Ipv4);
    tables(&mut gathered, "east/n1")
        .routes
        .retain(|row| row.dst != gone);
    let judged = judged(&mut gathered);
    assert_eq!(
        titles(&judged),
        ["error ROUTE-MISSING at east/n1 route"],
        "{:#?}",
        judged.findings
    );
    assert_eq!(judged.findings[0].element.name, "10.22.0.0/16 table 200");
}

#[test]
fn what_an_unplanned_row_does_is_told_by_the_walk() {
    let mut gathered = healthy(&[gateway("east", IPV4), gateway("west", IPV4)]);
    let mut row = super::fleet::route(200, "10.21.0.0/25".parse().expect("a prefix"), None, "eth0");
    row.kind = RouteKind::Blackhole;
    row.hops.clear();
    tables(&mut gathered, "east/n1").routes.insert(row);
    let judged = judged(&mut gathered);
    let finding = only(&judged);
    assert_eq!(finding.code.word(), "ROUTE-BLACKHOLE");
    assert_eq!(finding.element.node.as_deref(), Some("n1"));
    assert_eq!(finding.severity, Severity::Error);
    let told: Vec<&str> = finding
        .evidence
        .iter()
        .map(|told| told.text.as_str())
        .collect();
    assert!(
        told.iter()
            .any(|text| text.starts_with("the tables say that the packet is stopped at east/n1")),
        "{told:?}"
    );
}
