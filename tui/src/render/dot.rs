//! Graphviz: clusters as boxes, an arrow where something does not pass, findings as notes.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use orchestrator::matrix::badness;
use orchestrator::report::{CellVerdict, Observation, Report};

use crate::output::counted;

/// Up to so many clusters pairs that pass have arrows, too; in a larger fleet only trouble can be read.
const SMALL: usize = 12;

/// The report as a graph.
#[must_use]
pub fn render(report: &Report) -> String {
    let mut dot = String::from("digraph floater {\n  rankdir=LR;\n  node [shape=box];\n");
    for cluster in &report.clusters {
        let mode = cluster.mode.as_deref().unwrap_or("mode unknown");
        let look = match cluster.state {
            Observation::Observed => "",
            Observation::Partly => ", style=dashed",
            Observation::Unobserved => ", style=dotted",
        };
        let label = quoted(&format!(
            "{}\n{mode}, {}",
            cluster.name,
            counted(cluster.nodes, "node")
        ));
        let _ = writeln!(dot, "  {} [label={label}{look}];", quoted(&cluster.name));
    }
    let mut pairs: BTreeMap<(usize, usize), (CellVerdict, Vec<String>)> = BTreeMap::new();
    let small = report.clusters.len() <= SMALL;
    for plane in report.cells.planes() {
        let everything = plane.cells().filter(|&(src, dst, mark)| {
            // A cluster within itself is worth an arrow only where it does not pass.
            mark.is_trouble() || (small && src != dst)
        });
        for (src, dst, mark) in everything {
            let Some(verdict) = mark.verdict() else {
                continue;
            };
            let label = format!("{} {}", plane.title(), verdict.word());
            let (worst, labels) = pairs.entry((src, dst)).or_insert((verdict, Vec::new()));
            if badness(verdict) > badness(*worst) {
                *worst = verdict;
            }
            labels.push(label);
        }
    }
    let name = |at: usize| report.clusters.get(at).map_or("", |cluster| &cluster.name);
    for ((src, dst), (worst, labels)) in pairs {
        let color = match worst {
            CellVerdict::Degraded => "orange",
            CellVerdict::Fail => "red",
            CellVerdict::Pass => "green",
            CellVerdict::Unknown => "gray",
        };
        let (src, dst, label) = (
            quoted(name(src)),
            quoted(name(dst)),
            quoted(&labels.join("\n")),
        );
        let _ = writeln!(dot, "  {src} -> {dst} [color={color}, label={label}];");
    }
    for finding in &report.findings {
        let id = quoted(&format!("finding {}", finding.id));
        let label = quoted(&format!("{}\n{}", finding.code, finding.element.place()));
        let _ = writeln!(dot, "  {id} [shape=note, label={label}];");
        if let Some(cluster) = &finding.element.cluster {
            let _ = writeln!(
                dot,
                "  {id} -> {} [style=dotted, arrowhead=none];",
                quoted(cluster)
            );
        }
    }
    dot.push_str("}\n");
    dot
}

fn quoted(text: &str) -> String {
    let text = text
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n");
    format!("\"{text}\"")
}
