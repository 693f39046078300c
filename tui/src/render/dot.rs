//! Graphviz: the paths of what is wrong, element by element, or the whole fleet folded where nothing is.
//!
//! What is drawn is [`Picture`]'s; here are words, colours and quotes. Names are only ever in labels, so that no name of a cluster can
//! be taken for anything else.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use orchestrator::graph::picture::{Carried, Group, Picture, Spot, Vertex};
use orchestrator::matrix::badness;
use orchestrator::report::{CellVerdict, Observation, Report, Severity, layer_word, table};

use crate::output::counted;

/// The most characters of one line of a label.
const LONGEST: usize = 100;
/// So many members of a fold and findings of an element are named.
const NAMED: usize = 3;

/// The report as a graph.
#[must_use]
pub fn render(report: &Report) -> String {
    let picture = Picture::of(report);
    let mut title = vec![table::sentence(report)];
    if picture.left_out() > 0 {
        let has_errors = report
            .findings
            .iter()
            .any(|finding| finding.severity == Severity::Error);
        let severity = if has_errors {
            Severity::Error
        } else {
            Severity::Warning
        };
        title.push(format!(
            "{} of severity {} left out: those that affect fewer pairs",
            counted(picture.left_out(), "finding"),
            severity.word()
        ));
    }
    let mut dot = format!(
        "digraph floater {{\n  graph [rankdir=LR, labelloc=t, label={}];\n  node [shape=box];\n",
        label(&title)
    );
    let mut groups: BTreeMap<Group, Vec<(usize, &Vertex)>> = BTreeMap::new();
    for (at, vertex) in picture.vertices() {
        if let Some(group) = vertex.spot.group() {
            groups.entry(group).or_default().push((at, vertex));
        }
    }
    for (number, (group, vertices)) in groups.iter().enumerate() {
        let style = match state_of(report, &picture, *group) {
            Some(Observation::Partly) => " style=dashed;",
            Some(Observation::Unobserved) => " style=dotted;",
            Some(Observation::Observed) | None => "",
        };
        let title = label(&title_of(report, &picture, *group));
        let _ = writeln!(dot, "  subgraph cluster_{number} {{");
        let _ = writeln!(dot, "    label={title};{style}");
        for (at, vertex) in vertices {
            let _ = writeln!(dot, "    {}", declared(report, *at, vertex));
        }
        dot.push_str("  }\n");
    }
    for (at, vertex) in picture.vertices() {
        if vertex.spot.group().is_none() {
            let _ = writeln!(dot, "  {}", declared(report, at, vertex));
        }
    }
    for (from, to, carried) in picture.edges() {
        let _ = writeln!(dot, "  v{from} -> v{to} {};", drawn(carried));
    }
    dot.push_str("}\n");
    dot
}

/// The statement of a vertex.
fn declared(report: &Report, at: usize, vertex: &Vertex) -> String {
    let mut lines: Vec<String> = Vec::new();
    let findings = vertex.findings.iter();
    let codes = findings.filter_map(|&at| report.findings.get(at));
    lines.extend(codes.take(NAMED).map(|finding| finding.code.to_string()));
    if vertex.findings.len() > NAMED {
        lines.push(format!("and {} more", vertex.findings.len() - NAMED));
    }
    lines.push(match &vertex.spot {
        // Its cluster and node are around it and before it.
        Spot::Element(Some(_), element) => format!("{} {}", element.kind.word(), element.name),
        Spot::Element(None, element) => element.place(),
        Spot::Gateway(_) => "gateway".to_owned(),
        Spot::Hosts(_) => "nodes' network".to_owned(),
        Spot::Node(_, name) => format!("node {name}"),
        Spot::Pods(_) => "pods".to_owned(),
        Spot::Tunnel(_, name) => (*name).to_owned(),
        Spot::Underlay(family) => format!("underlay {family}"),
    });
    let shape = match &vertex.spot {
        Spot::Underlay(_) => ", shape=ellipse",
        Spot::Tunnel(..) => ", shape=cds",
        _ => "",
    };
    let worst = vertex.findings.iter();
    let worst = worst.filter_map(|&at| report.findings.get(at));
    let look = match worst.map(|finding| finding.severity).min() {
        None => "",
        Some(Severity::Error) => ", style=filled, fillcolor=mistyrose, color=red, penwidth=2",
        Some(_) => ", style=filled, fillcolor=lightyellow, color=orange, penwidth=2",
    };
    format!("v{at} [label={}{shape}{look}];", label(&lines))
}

/// The attributes of an edge.
fn drawn(carried: &Carried) -> String {
    let Some(worst) = carried
        .values()
        .copied()
        .max_by_key(|verdict| badness(*verdict))
    else {
        return "[style=dotted, arrowhead=none]".to_owned();
    };
    let color = match worst {
        CellVerdict::Degraded => "orange",
        CellVerdict::Fail => "red",
        CellVerdict::Pass => "green",
        CellVerdict::Unknown => "gray",
    };
    let lines: Vec<String> = carried
        .iter()
        .map(|((layer, family), verdict)| {
            format!("{} {family} {}", layer_word(*layer), verdict.word())
        })
        .collect();
    format!("[color={color}, label={}]", label(&lines))
}

/// The cluster of a group that stands for the others.
fn first(picture: &Picture, group: Group) -> Option<usize> {
    match group {
        Group::Fold(at) => picture.folds().get(at)?.clusters.first().copied(),
        Group::One(at) => Some(at),
    }
}

fn state_of(report: &Report, picture: &Picture, group: Group) -> Option<Observation> {
    Some(report.clusters.get(first(picture, group)?)?.state)
}

/// What a group of vertices is called.
fn title_of(report: &Report, picture: &Picture, group: Group) -> Vec<String> {
    let cluster = first(picture, group).and_then(|at| report.clusters.get(at));
    let Some(cluster) = cluster else {
        return Vec::new();
    };
    let mode = cluster.mode.as_deref().unwrap_or("mode unknown");
    match group {
        Group::One(_) => vec![
            cluster.name.clone(),
            format!("{mode}, {}", counted(cluster.nodes, "node")),
        ],
        Group::Fold(at) => {
            let members = picture.folds().get(at);
            let members = members.map_or(&[][..], |fold| &fold.clusters);
            let names = members.iter().filter_map(|&at| report.clusters.get(at));
            let names: Vec<&str> = names.take(NAMED).map(|one| one.name.as_str()).collect();
            let more = match members.len().saturating_sub(NAMED) {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            let nodes = members.iter().filter_map(|&at| report.clusters.get(at));
            let nodes = counted(nodes.map(|one| one.nodes).sum(), "node");
            vec![
                format!(
                    "{}: {mode}, {}, {nodes}",
                    counted(members.len(), "cluster"),
                    cluster.state.word()
                ),
                format!("{}{more}", names.join(", ")),
            ]
        }
    }
}

/// Lines as one quoted label. In it a backslash and an ampersand begin something, and a quote ends it; whatever else a terminal or
/// a parser could take for a command becomes a blank.
fn label(lines: &[String]) -> String {
    let mut text = String::from("\"");
    for (at, line) in lines.iter().enumerate() {
        if at > 0 {
            text.push_str("\\n");
        }
        for (count, c) in line.chars().enumerate() {
            if count == LONGEST {
                text.push('…');
                break;
            }
            match c {
                '"' => text.push_str("\\\""),
                '&' => text.push_str("&amp;"),
                '\\' => text.push_str("\\\\"),
                c if c.is_control() => text.push(' '),
                c => text.push(c),
            }
        }
    }
    text.push('"');
    text
}
