//! `-o dot`: what is drawn of healthy and broken fleets of any size, and that any of it is Graphviz' language.

use std::collections::BTreeSet;

use datapath::state::Family;
use floater::wire::Layer;
use orchestrator::report::{
    CellId, CellState, CellVerdict, Element, ElementKind, Finding, Mark, Observation, Report,
    RunVerdict, Severity, json, parse,
};
use tui::render::dot::render;

use super::{golden, report};

/// The words of the language: a quoted text with its content, a bracket, a separator, or an identifier.
fn tokens(dot: &str) -> Vec<String> {
    let mut tokens = Vec::new();
    let mut chars = dot.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            c if c.is_whitespace() => {}
            '"' => {
                let mut text = String::from("\"");
                loop {
                    match chars.next() {
                        Some('"') => break,
                        Some('\\') => {
                            text.push('\\');
                            text.push(chars.next().expect("a backslash escapes something"));
                        }
                        Some('\n') | None => panic!("a quote is open: {text}"),
                        Some(c) => text.push(c),
                    }
                }
                tokens.push(text);
            }
            '-' if chars.peek() == Some(&'>') => {
                chars.next();
                tokens.push("->".to_owned());
            }
            '{' | '}' | '[' | ']' | ';' | ',' | '=' => tokens.push(c.to_string()),
            c if c.is_ascii_alphanumeric() || c == '_' => {
                let mut word = c.to_string();
                while let Some(c) = chars.next_if(|c| c.is_ascii_alphanumeric() || *c == '_') {
                    word.push(c);
                }
                tokens.push(word);
            }
            c => panic!("`{c}` is no part of the language"),
        }
    }
    tokens
}

/// Reads a graph as Graphviz would and gives its labels: brackets are balanced, every statement ends, every edge is between
/// vertices that were declared once.
#[track_caller]
fn labels(dot: &str) -> Vec<String> {
    let tokens = tokens(dot);
    assert_eq!(tokens[..3], ["digraph", "floater", "{"]);
    let (mut depth, mut in_list) = (0, false);
    let mut declared = BTreeSet::new();
    let mut used = Vec::new();
    let mut labels = Vec::new();
    for (at, token) in tokens.iter().enumerate() {
        let next = tokens.get(at + 1).map_or("", String::as_str);
        let before = at.checked_sub(1).map_or("", |at| tokens[at].as_str());
        match token.as_str() {
            "{" => depth += 1,
            "}" => depth -= 1,
            "[" => assert!(!std::mem::replace(&mut in_list, true)),
            "]" => {
                assert!(std::mem::replace(&mut in_list, false));
                assert_eq!(next, ";", "a statement ends");
            }
            "->" => used.extend([before, next]),
            "=" if before == "label" => {
                labels.push(
                    next.strip_prefix('"')
                        .expect("a label is quoted")
                        .to_owned(),
                );
            }
            word if !in_list
                && next == "["
                && before != "->"
                && word != "graph"
                && word != "node" =>
            {
                assert!(declared.insert(word), "{word} is declared twice");
            }
            _ => {}
        }
        assert!(depth >= 0);
    }
    assert!(depth == 0 && !in_list);
    for one in used {
        assert!(declared.contains(one), "{one} was never declared");
    }
    labels
}

fn healthy(clusters: usize) -> Report {
    let mut report = report(clusters);
    report.findings.clear();
    report.verdict = RunVerdict::Healthy;
    let passes = Mark::new(CellState::Probed, CellVerdict::Pass);
    report
        .cells
        .plane_mut(Layer::Pod, Family::Ipv4)
        .set(0, 1, passes);
    report
}

#[test]
fn healthy_fleets_are_folded() {
    golden("healthy-3.dot", &render(&healthy(3)));
    let mut large = healthy(40);
    for at in [7, 9] {
        large.clusters[at].mode = Some("p2p".to_owned());
    }
    large.clusters[20].mode = None;
    large.clusters[20].state = Observation::Unobserved;
    golden("healthy-40.dot", &render(&large));
    labels(&render(&large));
}

/// What a report says after it was written and read is what it said before.
#[test]
fn a_report_that_was_read_back_is_drawn_in_the_same_way() {
    for report in [report(3), healthy(40), report(301)] {
        let read = parse(&json::text(&report), "report.json").unwrap();
        assert_eq!(render(&read), render(&report));
    }
}

/// Names out of other people's objects are labels and nothing else, whatever is in them.
#[test]
fn no_name_breaks_out_of_its_label() {
    let names = [
        "\"]; evil [label=\"",
        "back\\",
        "\\\"",
        "two\nlines",
        "\\G \\N \\l",
        "<b>&lt;&amp;</b>",
        "}\r{",
        "\u{1b}[31m",
        "ünïcödé →",
        "",
        &"long".repeat(1000),
    ];
    for name in names {
        let mut one = report(2);
        one.clusters[0].name = name.to_owned();
        one.clusters[0].mode = Some(name.to_owned());
        one.findings[0].element = Element {
            cluster: Some(name.into()),
            node: Some(name.into()),
            kind: ElementKind::Route,
            name: name.into(),
        };
        let dot = render(&one);
        for label in labels(&dot) {
            assert!(label.chars().count() < 400, "{label}");
            let escapes = label.split('\\').skip(1).filter(|rest| !rest.is_empty());
            for rest in escapes {
                assert!(
                    rest.starts_with(['n', '"']) || label.contains("\\\\"),
                    "{label}"
                );
            }
        }
        assert!(!labels(&dot).iter().any(|label| label == "evil"), "{dot}");
    }
}

/// The picture of five thousand clusters with hundreds of findings is as large as that of a few.
#[test]
fn a_large_fleet_s_picture_is_small() {
    let clusters = 5000;
    let mut large = report(2);
    let one = large.clusters[0].clone();
    large.clusters = (0..clusters)
        .map(|at| orchestrator::report::ClusterReport {
            name: format!("c{at:04}"),
            ..one.clone()
        })
        .collect();
    let mut cells = orchestrator::report::Cells::new(clusters);
    let plane = cells.plane_mut(Layer::Pod, Family::Ipv4);
    let passes = Mark::new(CellState::Proved, CellVerdict::Pass);
    fill(plane, passes);
    let number = |at: usize| u32::try_from(at).unwrap();
    let finding = large.findings[0].clone();
    large.findings = (0..400)
        .map(|at| Finding {
            element: Element {
                cluster: Some(format!("c{at:04}").as_str().into()),
                ..finding.element.clone()
            },
            affects: (0..=at % 40)
                .map(|to| CellId {
                    src: number(at),
                    dst: number(1000 + to),
                    layer: Layer::Pod,
                    family: Family::Ipv4,
                })
                .collect(),
            ..finding.clone()
        })
        .collect();
    for finding in &large.findings {
        for id in &finding.affects {
            let fail = Mark::new(CellState::Probed, CellVerdict::Fail);
            plane.set(id.src as usize, id.dst as usize, fail);
        }
    }
    large.cells = cells;
    let dot = render(&large);
    assert!(dot.len() < 64 << 10, "{} bytes", dot.len());
    assert_eq!(dot, render(&large), "the same report is the same picture");
    let said = labels(&dot);
    assert!(
        said[0].contains("375 findings of severity error left out"),
        "{}",
        said[0]
    );
    // Those that affect most are drawn.
    assert!(said.iter().any(|label| label.starts_with("c0039")));
    assert!(!said.iter().any(|label| label.starts_with("c0000")));

    large
        .findings
        .iter_mut()
        .for_each(|one| one.severity = Severity::Warning);
    let dot = render(&large);
    assert!(dot.len() < 32 << 10, "{} bytes", dot.len());
    labels(&dot);
}

/// Every cell of a plane.
fn fill(plane: &mut orchestrator::report::Plane, mark: Mark) {
    for src in 0..plane.side() {
        for dst in 0..plane.side() {
            plane.set(src, dst, mark);
        }
    }
}
