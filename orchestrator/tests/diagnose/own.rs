//! Rows of a node's own network, which the datapath does not make: its way out, the cluster's ways to its pods, its neighbours.

use datapath::state::{LinkKind, TABLE_MAIN};
use orchestrator::diagnose::{Judged, diagnose};
use orchestrator::evidence::Gathered;
use orchestrator::probe_plan::What;
use orchestrator::report::{CellState, CellVerdict, EvidenceKind, RunVerdict, Severity};

use super::fleet::{
    IPV4, IPV6, Spec, consistent, gateway, healthy, judged, only, p2p, pods, tables, titles,
};

fn by_tables(gathered: &Gathered) -> Judged {
    let what = What {
        tables_only: true,
        ..What::default()
    };
    let judged = diagnose(gathered, &what);
    consistent(gathered, &judged);
    judged
}

#[test]
fn a_walk_that_stops_fails_a_cell_to_which_no_packet_was_sent() {
    let mut gathered = healthy(&[gateway("east", IPV4), gateway("west", IPV4)]);
    let prefix = pods(1, None, IPV4[0]);
    tables(&mut gathered, "east/n1")
        .routes
        .retain(|row| row.dst != prefix);
    let judged = by_tables(&gathered);
    assert_eq!(titles(&judged), ["error ROUTE-MISSING at east/n1 route"]);
    assert_eq!(judged.verdict, RunVerdict::Fault);
    for cell in judged.cells() {
        let fails = cell.name().to_string().contains("pod") && cell.src != cell.dst;
        let (verdict, state) = if fails {
            (CellVerdict::Fail, CellState::Proved)
        } else {
            (CellVerdict::Pass, CellState::Inferred)
        };
        assert_eq!((cell.verdict, cell.state), (verdict, state), "{cell:?}");
    }
    assert!(
        only(&judged)
            .evidence
            .iter()
            .all(|evidence| evidence.kind != EvidenceKind::Probe),
        "no probe was sent"
    );
}

#[test]
fn the_way_to_another_node_s_pods_is_named_where_it_is_gone() {
    for family in [IPV4, IPV6] {
        for nodes in [2, 3] {
            for spec in [gateway("east", family), p2p("east", family)] {
                let mut gathered = healthy(&[Spec { nodes, ..spec }, gateway("west", family)]);
                let prefix = pods(0, Some(0), family[0]);
                tables(&mut gathered, "east/n2")
                    .routes
                    .retain(|row| row.table != TABLE_MAIN || row.dst != prefix);
                for judged in [judged(&mut gathered), by_tables(&gathered)] {
                    assert_eq!(titles(&judged), ["error ROUTE-MISSING at east/n2 route"]);
                    let found = only(&judged);
                    assert_eq!(found.element.name.as_str(), format!("{prefix} table 254"));
                    assert!(
                        found
                            .evidence
                            .iter()
                            .any(|evidence| evidence.text.contains("the tables say")),
                        "{:#?}",
                        found.evidence
                    );
                }
            }
        }
    }
}

#[test]
fn a_way_out_that_is_gone_is_named_there_and_nowhere_else() {
    for (family, default) in [(IPV4, "0.0.0.0/0 table 254"), (IPV6, "::/0 table 254")] {
        let mut gathered = healthy(&[gateway("east", family), gateway("west", family)]);
        tables(&mut gathered, "east/n1")
            .routes
            .retain(|row| row.dst.prefix_len() > 0);
        for judged in [judged(&mut gathered), by_tables(&gathered)] {
            assert_eq!(titles(&judged), ["error ROUTE-MISSING at east/n1 route"]);
            let found = only(&judged);
            assert_eq!(found.element.name, default);
            assert_eq!(found.affects.len(), 4, "{:?}", found.affects);
        }
    }
}

#[test]
fn a_router_that_may_know_the_pods_is_not_called_a_missing_route() {
    // No node has a route to a peer's pods: the network outside of them takes care of it.
    let mut gathered = healthy(&[gateway("east", IPV4), gateway("west", IPV4)]);
    for (place, peer) in [("east/n1", 1), ("east/n2", 0)] {
        let prefix = pods(0, Some(peer), IPV4[0]);
        tables(&mut gathered, place)
            .routes
            .retain(|row| row.table != TABLE_MAIN || row.dst != prefix);
    }
    let judged = by_tables(&gathered);
    assert!(
        judged
            .findings
            .iter()
            .all(|finding| finding.severity != Severity::Error),
        "{:?}",
        titles(&judged)
    );
}

#[test]
fn a_tunnel_s_mtu_other_than_planned_is_a_warning_with_both_values() {
    for (mtu, code) in [(1200, "L2-MTU-MISMATCH"), (1500, "INNER-MTU-TOO-BIG")] {
        let mut gathered = healthy(&[gateway("east", IPV4), gateway("west", IPV4)]);
        let tables = tables(&mut gathered, "east/n1");
        let mut link = tables.links.get("vx-bridge").expect("a tunnel").clone();
        assert!(matches!(link.kind, LinkKind::Vxlan(_)));
        let planned = link.mtu;
        link.mtu = mtu;
        tables.links.insert(link);
        let judged = judged(&mut gathered);
        assert_eq!(
            titles(&judged),
            [format!("warning {code} at east/n1 link")],
            "{mtu}"
        );
        let found = only(&judged);
        assert_eq!(found.element.name, "vx-bridge");
        for value in [mtu, planned] {
            assert!(
                found.summary.contains(&value.to_string()),
                "{}",
                found.summary
            );
        }
        assert_eq!(judged.verdict, RunVerdict::Degraded);
    }
}
