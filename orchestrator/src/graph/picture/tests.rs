//! Small fleets with one finding each, as lists of what follows what.

use super::*;
use crate::report::{CellState, Cells, ClusterReport, Code, Coverage, Fix, Mark, Run, RunVerdict};

/// Clusters of these modes that all reach each other over IPv4.
fn fleet(modes: &[&str]) -> Report {
    let mut cells = Cells::new(modes.len());
    for layer in [Layer::Host, Layer::Pod] {
        let plane = cells.plane_mut(layer, Family::Ipv4);
        for src in 0..modes.len() {
            for dst in 0..modes.len() {
                plane.set(src, dst, Mark::new(CellState::Proved, CellVerdict::Pass));
            }
        }
    }
    let clusters = modes.iter().enumerate();
    Report {
        run: Run {
            id: String::new(),
            started: String::new(),
            seconds: 0.0,
            seed: 0,
            tool: String::new(),
        },
        clusters: clusters
            .map(|(at, mode)| ClusterReport {
                name: format!("c{at}"),
                mode: (!mode.is_empty()).then(|| (*mode).to_owned()),
                families: vec![Family::Ipv4],
                nodes: 2,
                state: Observation::Observed,
                reason: None,
            })
            .collect(),
        coverage: Coverage::default(),
        cells,
        findings: Vec::new(),
        verdict: RunVerdict::Fault,
        unjudged: Vec::new(),
        node_rows: Vec::new(),
    }
}

/// One more finding of severity error, which breaks these cells of the pod layer.
fn breaks(
    report: &mut Report,
    kind: ElementKind,
    name: &str,
    place: Option<(&str, &str)>,
    pairs: &[(u32, u32)],
) {
    let element = Element {
        cluster: place.map(|(cluster, _)| cluster.into()),
        node: place.map(|(_, node)| node.into()),
        kind,
        name: name.into(),
    };
    let plane = report.cells.plane_mut(Layer::Pod, Family::Ipv4);
    for &(src, dst) in pairs {
        let fail = Mark::new(CellState::Probed, CellVerdict::Fail);
        plane.set(src as usize, dst as usize, fail);
    }
    report.findings.push(Finding {
        id: Finding::id_of(Code::RouteMissing, &element),
        code: Code::RouteMissing,
        severity: Severity::Error,
        element,
        summary: "".into(),
        evidence: Vec::new(),
        ambiguous_with: Vec::new(),
        affects: pairs
            .iter()
            .map(|&(src, dst)| CellId {
                src,
                dst,
                layer: Layer::Pod,
                family: Family::Ipv4,
            })
            .collect(),
        fix: Fix::default(),
    });
}

fn word(picture: &Picture, at: usize) -> String {
    let (_, vertex) = picture.vertices().nth(at).expect("there is one");
    let group = |group: &Group| match group {
        Group::Fold(at) => format!("fold{at}"),
        Group::One(at) => format!("c{at}"),
    };
    let accused = if vertex.findings.is_empty() { "" } else { "!" };
    let word = match &vertex.spot {
        Spot::Element(_, element) => element.name.to_string(),
        Spot::Gateway(of) => format!("{} gateway", group(of)),
        Spot::Hosts(of) => format!("{} hosts", group(of)),
        Spot::Node(of, name) => format!("{} {name}", group(of)),
        Spot::Pods(of) => format!("{} pods", group(of)),
        Spot::Tunnel(of, name) => format!("{} {name}", group(of)),
        Spot::Underlay(family) => format!("underlay {family}"),
    };
    accused.to_owned() + &word
}

fn edges(picture: &Picture) -> Vec<String> {
    let all = picture.edges();
    all.map(|(from, to, carried)| {
        let verdicts: Vec<&str> = carried.values().map(|verdict| verdict.word()).collect();
        let (from, to) = (word(picture, from), word(picture, to));
        format!("{from} > {to}: {}", verdicts.join(" "))
    })
    .collect()
}

#[test]
fn a_missing_route_is_passed_on_the_way_out_and_not_on_the_way_back() {
    let mut report = fleet(&["gateway", "p2p", "gateway"]);
    breaks(
        &mut report,
        ElementKind::Route,
        "10.1.0.0/16",
        Some(("c0", "n1")),
        &[(0, 1), (2, 1)],
    );
    assert_eq!(
        edges(&Picture::of(&report)),
        [
            "c0 pods > c0 n1: fail",
            "c0 n1 > !10.1.0.0/16: fail",
            "!10.1.0.0/16 > c0 vx-bridge: fail",
            "c0 vx-bridge > underlay ipv4: fail",
            "underlay ipv4 > c1 vx-bridge: fail",
            "c1 vx-bridge > c1 pods: fail",
            "c1 pods > c1 vx-bridge: pass",
            "c1 vx-bridge > underlay ipv4: pass",
            "underlay ipv4 > c0 vx-bridge: pass",
            "c0 vx-bridge > c0 n1: pass",
            "c0 n1 > c0 pods: pass",
        ]
    );
}

#[test]
fn links_nodes_and_the_underlay_stand_where_packets_pass_them() {
    type Case<'a> = (
        ElementKind,
        &'a str,
        Option<(&'a str, &'a str)>,
        &'a [&'a str],
    );
    let cases: [Case<'_>; 5] = [
        (
            ElementKind::Link,
            "vx-bridge",
            Some(("c0", "n1")),
            &[
                "c0 n1 > !vx-bridge: fail",
                "!vx-bridge > underlay ipv4: fail",
            ],
        ),
        (
            ElementKind::Link,
            "eth0",
            Some(("c0", "n1")),
            &["c0 vx-bridge > !eth0: fail", "!eth0 > underlay ipv4: fail"],
        ),
        (
            ElementKind::Fdb,
            "02:00 dev vx-local",
            Some(("c0", "n2")),
            &["!02:00 dev vx-local > c0 gateway: fail"],
        ),
        (
            ElementKind::Node,
            "n1",
            Some(("c0", "n1")),
            &["c0 pods > !c0 n1: fail", "!c0 n1 > c0 vx-bridge: fail"],
        ),
        (
            ElementKind::Underlay,
            "between",
            None,
            &[
                "c0 vx-bridge > !between: fail",
                "!between > c1 vx-bridge: fail",
            ],
        ),
    ];
    for (kind, name, place, wanted) in cases {
        let mut report = fleet(&["gateway", "gateway"]);
        breaks(&mut report, kind, name, place, &[(0, 1)]);
        let drawn = edges(&Picture::of(&report));
        for edge in wanted {
            assert!(drawn.iter().any(|one| one == edge), "{edge} of {drawn:#?}");
        }
    }
}

/// Where a finding affects no cell, or its cluster is in no pair, it is drawn all the same.
#[test]
fn no_chosen_finding_is_without_its_element() {
    let mut report = fleet(&["gateway", "", "p2p"]);
    let place = Some(("c2", "n1"));
    breaks(&mut report, ElementKind::Sysctl, "idle", place, &[]);
    breaks(&mut report, ElementKind::Rule, "far", place, &[(0, 1)]);
    breaks(
        &mut report,
        ElementKind::Rule,
        "own",
        Some(("c1", "n1")),
        &[(1, 1)],
    );
    breaks(
        &mut report,
        ElementKind::Rule,
        "of nobody",
        Some(("x", "n1")),
        &[(0, 7)],
    );
    let picture = Picture::of(&report);
    let marked = picture.vertices();
    let marked: Vec<usize> = marked.flat_map(|(_, one)| one.findings.clone()).collect();
    assert_eq!(marked.iter().copied().collect::<HashSet<_>>().len(), 4);
    let drawn = edges(&picture);
    for edge in ["c2 n1 > !idle: ", "c2 n1 > !far: ", "c1 pods > c1 n1: fail"] {
        assert!(drawn.iter().any(|one| one == edge), "{edge} of {drawn:#?}");
    }
}

#[test]
fn the_worst_findings_are_drawn_and_the_others_counted() {
    let mut report = fleet(&["gateway", "gateway", "gateway"]);
    for at in 0..FINDINGS + 3 {
        let pairs: &[_] = if at == FINDINGS {
            &[(0, 1), (0, 2)]
        } else {
            &[(0, 1)]
        };
        breaks(
            &mut report,
            ElementKind::Route,
            &at.to_string(),
            Some(("c0", "n1")),
            pairs,
        );
    }
    let picture = Picture::of(&report);
    assert_eq!(picture.left_out(), 3);
    let all: Vec<String> = (0..picture.vertices().count())
        .map(|at| word(&picture, at))
        .collect();
    assert!(all.contains(&format!("!{FINDINGS}")), "{all:?}");
    assert!(!all.contains(&format!("!{}", FINDINGS - 1)), "{all:?}");
}

#[test]
fn a_fleet_without_errors_is_folded_by_what_its_clusters_are() {
    let few = Picture::of(&fleet(&["gateway", "p2p"]));
    assert!(few.folds().is_empty());
    assert!(
        edges(&few).contains(&"c0 gateway > c0 vx-bridge: pass".to_owned()),
        "{:?}",
        edges(&few)
    );
    let mut modes = vec!["gateway"; 40];
    modes.extend(["p2p"; 3]);
    let mut report = fleet(&modes);
    report.clusters[41].state = Observation::Unobserved;
    breaks(
        &mut report,
        ElementKind::Neighbour,
        "late",
        Some(("c5", "n1")),
        &[],
    );
    report.findings[0].severity = Severity::Warning;
    let picture = Picture::of(&report);
    let sizes = picture.folds().iter().map(|fold| fold.clusters.len());
    assert_eq!(sizes.collect::<Vec<_>>(), [40, 2, 1]);
    assert!(picture.vertices().count() < 20);
    assert!(edges(&picture).contains(&"c5 n1 > !late: ".to_owned()));
}
