//! What a judgement looks like: as JSON and its schema, as a table, in the five columns, in words.

use orchestrator::diagnose::diagnose;
use orchestrator::explain;
use orchestrator::matrix::{self, Matrix};
use orchestrator::probe_plan::What;
use orchestrator::report::table::Look;
use orchestrator::report::{
    CellId, CellState, CellVerdict, Cells, ClusterReport, Counted, Finding, Mark, Observation,
    Report, RttSummary, Run, RunVerdict, json, kosmos_table, parse, schema, schema_packed, table,
};
use serde_json::Value;

use super::fleet::{BOTH, IPV4, gateway, healthy, many, p2p, probe, tables, underlay};
use datapath::state::Family;
use floater::wire::Layer;

const WIDE: Look = Look {
    wide: true,
    color: false,
    width: 80,
};
const COLORED: Look = Look {
    wide: false,
    color: true,
    width: 80,
};

pub(crate) fn run() -> Run {
    Run {
        id: "0123".to_owned(),
        started: "2026-01-01T00:00:00Z".to_owned(),
        seconds: 1.5,
        seed: 7,
        tool: "0.1.0".to_owned(),
    }
}

/// East's gateway does not know where west's is.
fn broken() -> Report {
    let mut gathered = healthy(&[
        gateway("east", BOTH),
        p2p("north", IPV4),
        gateway("west", BOTH),
    ]);
    let peer = underlay(2, 0, Family::Ipv4);
    tables(&mut gathered, "east/n1")
        .fdb
        .retain(|row| row.dst != Some(peer));
    let what = What {
        node_rows: true,
        ..What::default()
    };
    probe(&mut gathered, &what);
    diagnose(&gathered, &what).into_report(run())
}

#[test]
fn the_table_shows_matrix_findings_coverage_and_verdict() {
    let report = broken();
    let text = table::render(&report, Look::default());
    assert!(!text.contains('\u{1b}'));
    assert!(text.lines().all(|line| !line.ends_with(' ')), "{text}");
    for expected in [
        "host ipv4  east  north  west\neast       +     +      +\n",
        "pod ipv4  east  north  west\neast      +     +      X\nnorth     +     +      +\nwest      X     +      +\n",
        "1. error FDB-MISSING at east/n1 fdb ",
        "affects east -> west pod ipv4, west -> east pod ipv4",
        "fix     on east/n1: bridge fdb replace ",
        "Verdict: fault - 1 cause",
        "Coverage: 26 of 26 cells judged (26 probed),",
    ] {
        assert!(text.contains(expected), "no {expected:?} in\n{text}");
    }
    let colored = table::render(&report, COLORED);
    let mut plain = String::new();
    let mut inside = false;
    for sign in colored.chars() {
        match (inside, sign) {
            (false, '\u{1b}') => inside = true,
            (true, 'm') => inside = false,
            (true, _) => {}
            (false, sign) => plain.push(sign),
        }
    }
    assert_ne!(colored, text);
    assert_eq!(plain, text);
    let wide = table::render(&report, WIDE);
    assert!(wide.contains("+ 200 us"), "{wide}");
    assert!(wide.contains("east/n1"), "{wide}");
    assert!(wide.contains("icmp 0 of 12 answered (no answer)"), "{wide}");
}

#[test]
fn a_large_table_lists_only_what_does_not_pass() {
    let mut gathered = many(30, gateway("c", IPV4));
    tables(&mut gathered, "c-003/n1")
        .links
        .get_mut("vx-bridge")
        .expect("a tunnel")
        .up = false;
    probe(&mut gathered, &What::default());
    let report = diagnose(&gathered, &What::default()).into_report(run());
    let text = table::render(&report, Look::default());
    for expected in [
        "30 clusters in 2 groups that are alike, the worst first",
        "  A  1   c-003                                   58 cells do not pass",
        "host ipv4: 900 of 900 cells pass",
        "pod ipv4: 842 of 900 cells pass",
        "  from \\ to  A  B\n  A          +  X\n  B          X  +\n",
    ] {
        assert!(text.contains(expected), "no {expected:?} in\n{text}");
    }
    assert!(text.lines().count() < 60, "{text}");
}

#[test]
fn a_large_fleet_that_is_healthy_is_two_lines() {
    let mut gathered = many(30, gateway("c", IPV4));
    probe(&mut gathered, &What::default());
    let report = diagnose(&gathered, &What::default()).into_report(run());
    let text = table::render(&report, Look::default());
    assert_eq!(text.lines().count(), 2, "{text}");
    assert!(
        text.starts_with("Coverage: 1800 of 1800 cells judged"),
        "{text}"
    );
    assert!(text.contains("\nVerdict: healthy"), "{text}");
}

#[test]
fn five_columns_for_scripts() {
    let report = broken();
    let text = kosmos_table(&report);
    let mut lines = text.lines();
    let words =
        |line: &str| -> Vec<String> { line.split_whitespace().map(str::to_owned).collect() };
    assert_eq!(
        words(lines.next().expect("a head")),
        [
            "S/N",
            "SRC_NODE_NAME",
            "DST_NODE_NAME",
            "TARGET_IP",
            "RESULT"
        ]
    );
    assert_eq!(lines.clone().count(), report.node_rows.len());
    assert!(lines.clone().all(|line| words(line).len() == 5));
    assert!(lines.clone().any(|line| line.ends_with("FAILED")));
    assert!(lines.any(|line| line.ends_with("SUCCEEDED")));
}

#[test]
fn the_matrix_finds_cells_and_tells_about_them() {
    let report = broken();
    let matrix = Matrix::of(&report);
    let planes = report.cells.planes();
    let titles: Vec<String> = planes.iter().map(|plane| plane.title()).collect();
    assert_eq!(titles, ["host ipv4", "host ipv6", "pod ipv4", "pod ipv6"]);
    assert_eq!(matrix.worst(2), Some(CellVerdict::Fail));
    assert_eq!(planes[3].at(0, 1), Mark::NONE);
    let lines = matrix::details(&report, 2, 0, 2);
    assert_eq!(lines[..2], ["east -> west pod ipv4", "fails, probed"]);
    assert!(
        lines
            .iter()
            .any(|line| line.contains("FDB-MISSING at east/n1")),
        "{lines:?}"
    );
    assert!(matrix::details(&report, 9, 0, 0).is_empty());
    for (_, mark) in report.cells.ids() {
        let sign = matrix::glyph(mark).to_string();
        assert!(matrix::LEGEND.iter().any(|entry| entry.starts_with(&sign)));
    }
}

#[test]
fn a_finding_is_explained_by_its_id() {
    let report = broken();
    let id = &report.findings[0].id;
    let text = explain::finding(&report, id).expect("it is there");
    for expected in [
        "FDB-MISSING at east/n1",
        "Evidence",
        "Affects",
        "What proves it",
    ] {
        assert!(text.contains(expected), "{text}");
    }
    assert_eq!(explain::finding(&report, &id[..6]), Some(text));
    assert_eq!(explain::finding(&report, ""), None);
    assert_eq!(explain::finding(&report, "ffffffffff"), None);
}

/// As much of JSON Schema as the report's uses.
fn check(value: &Value, rule: &Value, root: &Value, at: &str) {
    if let Some(name) = rule["$ref"].as_str() {
        let name = name.strip_prefix("#/$defs/").expect("a local reference");
        return check(value, &root["$defs"][name], root, at);
    }
    if let Some(constant) = rule.get("const") {
        assert_eq!(value, constant, "{at}");
    }
    if let Some(words) = rule["enum"].as_array() {
        assert!(words.contains(value), "{at}: {value}");
    }
    let kinds: Vec<&str> = match &rule["type"] {
        Value::String(kind) => vec![kind],
        Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    if !kinds.is_empty() {
        let is = match value {
            Value::Null => "null",
            Value::Bool(_) => "boolean",
            Value::Number(number) if number.is_u64() && !kinds.contains(&"number") => "integer",
            Value::Number(_) => "number",
            Value::String(_) => "string",
            Value::Array(_) => "array",
            Value::Object(_) => "object",
        };
        assert!(kinds.contains(&is), "{at}: {value} is no {kinds:?}");
    }
    if let Value::Object(fields) = value {
        for name in rule["required"].as_array().into_iter().flatten() {
            assert!(
                fields.contains_key(name.as_str().expect("a name")),
                "{at}: no {name}"
            );
        }
        for (name, field) in fields {
            let known = rule["properties"].get(name);
            let known = known.unwrap_or_else(|| panic!("{at}: the schema does not know {name}"));
            check(field, known, root, &format!("{at}.{name}"));
        }
    }
    for (position, item) in value.as_array().into_iter().flatten().enumerate() {
        check(item, &rule["items"], root, &format!("{at}[{position}]"));
    }
}

#[test]
fn reports_keep_to_the_schema() {
    for (report, rules) in [(broken(), schema()), (large(301), schema_packed())] {
        let text = json::text(&report);
        assert!(text.ends_with("}\n"));
        let value: Value = serde_json::from_str(&text).expect("its own output");
        check(&value, &rules, &rules, "report");
    }
}

/// A report of so many clusters in which every kind of cell occurs, with the packets of some, and a finding that affects a column.
fn large(count: usize) -> Report {
    let marks: Vec<Mark> = Mark::all().collect();
    let number = |at: usize| u32::try_from(at).expect("small");
    let mut cells = Cells::new(count);
    let plane = cells.plane_mut(Layer::Pod, Family::Ipv4);
    let mut counts = Vec::new();
    for src in 0..count {
        for dst in 0..count {
            plane.set(src, dst, marks[(src + dst) / 8 % marks.len()]);
            if (src * 7 + dst) % 31 == 0 {
                counts.push(Counted {
                    src: number(src),
                    dst: number(dst),
                    sent: 6,
                    received: number(dst % 7),
                    rtt_us: (dst % 7 > 0).then(|| RttSummary {
                        p50: 200 + number(src),
                        p99: 300 + number(src),
                        max: 400 + number(dst),
                    }),
                });
            }
        }
    }
    plane.count(counts);
    let mut finding: Finding = broken().findings[0].clone();
    finding.affects = (0..count)
        .map(|src| CellId {
            src: number(src),
            dst: 5,
            layer: Layer::Pod,
            family: Family::Ipv4,
        })
        .collect();
    Report {
        run: run(),
        clusters: (0..count)
            .map(|at| ClusterReport {
                name: format!("c{at:04}"),
                mode: Some("p2p".to_owned()),
                families: vec![Family::Ipv4],
                nodes: 1,
                state: Observation::Observed,
                reason: None,
            })
            .collect(),
        coverage: orchestrator::report::Coverage::default(),
        cells,
        findings: vec![finding],
        verdict: RunVerdict::Fault,
        unjudged: Vec::new(),
        node_rows: Vec::new(),
    }
}

#[test]
fn above_three_hundred_clusters_cells_are_packed_and_unpacked() {
    let report = large(301);
    let text = json::text(&report);
    assert!(text.len() < 500_000, "{} bytes", text.len());
    let read = parse(&text, "r.json").expect("its own output");
    assert!(read == report, "it is not what was written");
    assert!(text.starts_with("{\n  \"schema\": \"floater.report/v2\""));
    assert!(text.contains("affects_packed"), "a column of 301 cells");
    let small = large(300);
    let text_of_small = json::text(&small);
    assert!(!text_of_small.contains("_packed"));
    assert!(parse(&text_of_small, "r.json").expect("its own output") == small);
    let row = text.find("\"marks\":\"h8I8").expect("the first row") + 9;
    for (instead, rule) in [
        ("h7", "fewer letters"),
        ("h9", "more letters"),
        ("z8", "'z'"),
    ] {
        let mut changed = text.clone();
        changed.replace_range(row..row + 2, instead);
        let error = parse(&changed, "r.json").expect_err(rule);
        assert!(error.rule.contains(rule), "{error}");
        assert!(error.line.is_some());
    }
    let mixed = text.replacen("floater.report/v2", "floater.report/v1", 1);
    let error = parse(&mixed, "r.json").expect_err("cells that v1 does not know");
    assert!(error.rule.contains("cells_packed"), "{error}");
}

/// What runs of a set say is bounded before it is written out.
#[test]
fn a_few_bytes_that_mean_billions_of_cells_are_refused() {
    let text = json::text(&large(301));
    let runs = text.find("[[5,0,301]]").expect("one column");
    let mut changed = text.clone();
    changed.replace_range(runs..runs + 11, "[[5,0,4294967295]]");
    let error = parse(&changed, "r.json").expect_err("too many");
    assert!(error.rule.contains("are the most that are read"), "{error}");
    changed = text;
    changed.replace_range(runs..runs + 11, "[[5,0,302]]");
    let error = parse(&changed, "r.json").expect_err("no such cluster");
    assert!(error.rule.contains("no position of a cluster"), "{error}");
}

#[test]
fn what_is_no_report_is_refused_with_place_and_rule() {
    let good = json::text(&broken());
    let id = broken().findings[0].id.clone();
    let cases: Vec<(String, &str)> = vec![
        (String::new(), "EOF"),
        ("{".to_owned(), "EOF"),
        ("[]".to_owned(), "invalid length"),
        ("{\"a\": 1}".to_owned(), "missing field `schema`"),
        (
            good.replace("floater.report/v1", "floater.report/v9"),
            "this program reads",
        ),
        (
            good.replace("\"verdict\": \"fault\"", "\"verdict\": \"perhaps\""),
            "unknown variant `perhaps`",
        ),
        (
            good.replacen("\"sent\": 12", "\"sent\": -1", 1),
            "invalid value",
        ),
        (
            good.replacen("\"seed\": 7", "\"seed\": \"x\"", 1),
            "invalid type",
        ),
        (
            good.replacen("\"code\":", "\"cod\":", 1),
            "missing field `code`",
        ),
        (
            good.replacen(&format!("\"id\": \"{id}\""), "\"id\": \"0000000000\"", 1),
            "does not hold",
        ),
    ];
    for (text, rule) in cases {
        let error = parse(&text, "dir/r.json").expect_err(rule);
        assert_eq!(error.file, "dir/r.json");
        assert!(error.rule.contains(rule), "{error} has no {rule:?}");
        assert!(!error.rule.contains(" at line "), "{error}");
        assert!(text.is_empty() || error.line.is_some(), "{error}");
        assert!(error.to_string().starts_with("dir/r.json"));
    }
}

/// Everything that a person may get to see of a report.
fn shown(report: &Report) -> String {
    let mut text = table::render(report, Look::default());
    text += &table::render(report, WIDE);
    text += &kosmos_table(report);
    for (plane, src, dst) in [(0, 0, 0), (2, 0, 2)] {
        text += &matrix::details(report, plane, src, dst).join("\n");
    }
    for finding in &report.findings {
        text += &explain::finding(report, &finding.id).unwrap_or_default();
    }
    text
}

fn texts(value: &Value, path: &str, found: &mut Vec<String>) {
    match value {
        Value::String(_) => found.push(path.to_owned()),
        Value::Array(items) => (0..)
            .zip(items)
            .for_each(|(at, item): (usize, _)| texts(item, &format!("{path}/{at}"), found)),
        Value::Object(fields) => fields
            .iter()
            .for_each(|(name, field)| texts(field, &format!("{path}/{name}"), found)),
        _ => {}
    }
}

#[test]
fn no_text_of_a_report_from_outside_reaches_a_terminal_raw() {
    let mut report = broken();
    report.unjudged.push("west/n2: no answer".to_owned());
    report.clusters[0].reason = Some("slow".to_owned());
    report.node_rows[0].reason = Some("no answer".to_owned());
    // Few pairs of nodes are as good as many.
    report.node_rows.truncate(3);
    let named = report.findings[0].affects.clone();
    let mut few = Cells::new(report.clusters.len());
    for id in named {
        let mark = Mark::new(CellState::Probed, CellVerdict::Fail);
        few.plane_mut(id.layer, id.family)
            .set(id.src as usize, id.dst as usize, mark);
    }
    report.cells = few;
    let whole: Value = serde_json::from_str(&json::text(&report)).expect("JSON");
    let hostile = format!("\u{1b}]0;x\u{7}\u{9b}2J\u{202e}\n{}", "w".repeat(70_000));
    let mut places = Vec::new();
    texts(&whole, "", &mut places);
    let mut taken = 0;
    for place in &places {
        let mut changed = whole.clone();
        *changed.pointer_mut(place).expect("it is there") = Value::from(hostile.as_str());
        let Ok(read) = parse(&changed.to_string(), "report.json") else {
            // A word of a set, or an id that something else names.
            continue;
        };
        taken += 1;
        let text = shown(&read) + &json::text(&read);
        let raw = |c: char| c != '\n' && datapath::printable::is_dangerous(c);
        assert!(!text.contains(raw), "{place}");
        assert!(
            !text.contains(&"w".repeat(600)),
            "{place} is as long as it came"
        );
    }
    assert!(taken > places.len() / 3, "{taken} of {}", places.len());
}

#[test]
fn a_report_larger_in_memory_than_in_its_file_is_refused() {
    let mut report = broken();
    let one = report.clusters[0].clone();
    report
        .clusters
        .extend((0..16_001).map(|number| ClusterReport {
            name: format!("c{number}"),
            ..one.clone()
        }));
    // As a report in full: a packed one would have a row for each cluster.
    let text = json::text(&report)
        .replacen("floater.report/v2", "floater.report/v1", 1)
        .replacen("cells_packed", "unknown", 1)
        .replacen(
            "\"cells\": []",
            r#""cells": [{"src": "east", "dst": "east", "layer": "pod", "family": "ipv4", "state": "probed", "verdict": "pass", "sent": 1, "received": 1, "rtt_us": null, "findings": []}]"#,
            1,
        );
    let refused = parse(&text, "report.json").expect_err("too large");
    assert!(
        refused.rule.contains("more than 256000000 places"),
        "{refused}"
    );
    assert!(refused.line.is_some());
}

#[test]
fn a_word_of_any_length_is_no_panic() {
    let mut report = broken();
    report.clusters[1].name = "n".repeat(70_000);
    report.node_rows[0].src = "s".repeat(70_000);
    assert!(shown(&report).len() > 140_000);
}

#[test]
fn a_matrix_wider_than_a_terminal_has_numbers_for_columns() {
    let report = diagnose(
        &many(12, gateway("a-cluster-with-a-long-name-", IPV4)),
        &What::default(),
    )
    .into_report(run());
    for look in [Look::default(), WIDE] {
        let text = table::render(&report, look);
        let matrix = text
            .lines()
            .skip_while(|line| !line.starts_with("host ipv4"));
        let matrix: Vec<&str> = matrix.take_while(|line| !line.is_empty()).collect();
        assert_eq!(matrix.len(), 13, "{text}");
        assert!(matrix[0].ends_with("11  12"), "{}", matrix[0]);
        assert!(
            matrix[1].starts_with(" 1 a-cluster-with-a-long-name-"),
            "{}",
            matrix[1]
        );
        assert!(
            matrix.iter().all(|line| line.chars().count() <= 80),
            "{text}"
        );
    }
}

#[test]
fn wide_shows_what_fails_first_and_counts_what_passes() {
    let mut report = broken();
    let pass = report
        .node_rows
        .iter()
        .find(|row| row.verdict == CellVerdict::Pass);
    let pass = pass.expect("most pass").clone();
    report.node_rows.extend(std::iter::repeat_n(pass, 200));
    let text = table::render(&report, WIDE);
    let rows: Vec<&str> = text
        .lines()
        .skip_while(|line| !line.starts_with("SRC"))
        .take_while(|line| !line.is_empty())
        .collect();
    assert!(rows[1].contains("fails") && rows.len() < 40, "{text}");
    assert!(!rows.iter().any(|row| row.contains(" passes ")), "{text}");
    assert!(
        text.contains("pairs of nodes pass (each one: -o json)"),
        "{text}"
    );
}
