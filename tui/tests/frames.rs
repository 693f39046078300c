//! The terminal view, frame by frame: each is compared with a file in `tests/frames`. `UPDATE_FRAMES=1` writes them anew.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use datapath::state::Family;
use floater::wire::Layer;
use orchestrator::report::table::{self, Look};
use orchestrator::report::{
    CellId, CellState, CellVerdict, Cells, ClusterReport, Code, Counted, Coverage, Element,
    ElementKind, Evidence, EvidenceKind, Finding, Fix, Mark, NodeRow, Observation, Report,
    RttSummary, Run, RunVerdict, Severity,
};
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::Buffer;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use tui::app::{Live, Message, Model, Pane, message};
use tui::cli::diagnosis::{FailOn, Judge};
use tui::progress::Progress;
use tui::{render, view};

#[path = "frames/dot.rs"]
mod dot;

const SIZES: [(u16, u16); 3] = [(80, 24), (120, 40), (200, 60)];

/// `clusters` clusters that all reach each other, but the first does not reach the second in the pod layer.
fn report(clusters: usize) -> Report {
    let name = |n: usize| format!("c{n}");
    let number = |n: usize| u32::try_from(n).unwrap();
    let mut cells = Cells::new(clusters);
    for layer in [Layer::Host, Layer::Pod] {
        let plane = cells.plane_mut(layer, Family::Ipv4);
        let mut counts = Vec::new();
        for src in 0..clusters {
            for dst in 0..clusters {
                let broken = (src, dst, layer) == (0, 1, Layer::Pod);
                let verdict = if broken {
                    CellVerdict::Fail
                } else {
                    CellVerdict::Pass
                };
                plane.set(src, dst, Mark::new(CellState::Probed, verdict));
                counts.push(Counted {
                    src: number(src),
                    dst: number(dst),
                    sent: 8,
                    received: if broken { 0 } else { 8 },
                    rtt_us: (!broken).then_some(RttSummary {
                        p50: 210,
                        p99: 480,
                        max: 500,
                    }),
                });
            }
        }
        plane.count(counts);
    }
    let count = 2 * clusters * clusters;
    Report {
        run: Run {
            id: "r1".to_owned(),
            started: "2026-01-02T03:04:05Z".to_owned(),
            seconds: 0.9,
            seed: 7,
            tool: "0.1.0".to_owned(),
        },
        clusters: (1..=clusters)
            .map(|n| ClusterReport {
                name: name(n),
                mode: Some("gateway".to_owned()),
                families: vec![Family::Ipv4],
                nodes: 2,
                state: Observation::Observed,
                reason: None,
            })
            .collect(),
        coverage: Coverage {
            ordered_pairs: clusters * (clusters - 1),
            cells: count,
            probed: count,
            probes_sent: 8 * count as u64,
            ..Coverage::default()
        },
        findings: vec![Finding {
            id: "f1".to_owned(),
            code: Code::RouteMissing,
            severity: Severity::Error,
            element: Element {
                cluster: Some("c1".into()),
                node: Some("n1".into()),
                kind: ElementKind::Route,
                name: "10.21.0.0/16 table 200".into(),
            },
            summary: "Node n1 of c1 has no route to 10.21.0.0/16 in table 200.".into(),
            evidence: vec![Evidence {
                kind: EvidenceKind::Table,
                source: "c1/n1".into(),
                text: "no such row".into(),
            }],
            ambiguous_with: Vec::new(),
            affects: vec![CellId {
                src: 0,
                dst: 1,
                layer: Layer::Pod,
                family: Family::Ipv4,
            }],
            fix: Fix::advice(
                "ip route replace 10.21.0.0/16 via 220.64.1.1 dev vx-bridge onlink table 200",
            ),
        }],
        cells,
        verdict: RunVerdict::Fault,
        unjudged: Vec::new(),
        node_rows: Vec::new(),
    }
}

fn drawn(model: &Model, (width, height): (u16, u16)) -> Buffer {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| view::render(frame, model)).unwrap();
    terminal.backend().buffer().clone()
}

fn text(buffer: &Buffer) -> String {
    let mut text = String::new();
    for y in 0..buffer.area.height {
        let line: String = (0..buffer.area.width)
            .map(|x| buffer[(x, y)].symbol())
            .collect();
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn golden(name: &str, text: &str) {
    let file: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/frames")
        .join(name);
    if std::env::var_os("UPDATE_FRAMES").is_some() {
        fs::write(&file, text).unwrap();
    }
    let wanted = fs::read_to_string(&file).unwrap_or_default();
    assert!(
        wanted == text,
        "{name} differs; look at it, then UPDATE_FRAMES=1. Wanted:\n{wanted}\nDrawn:\n{text}"
    );
}

fn press(model: &mut Model, keys: &str) {
    for key in keys.chars() {
        let code = match key {
            '\n' => KeyCode::Enter,
            '\t' => KeyCode::Tab,
            '\u{1b}' => KeyCode::Esc,
            '<' => KeyCode::Left,
            '>' => KeyCode::Right,
            other => KeyCode::Char(other),
        };
        let message =
            message(KeyEvent::new(code, KeyModifiers::NONE)).expect("a key with a meaning");
        model.update(message);
    }
}

#[test]
fn the_matrix_in_every_size() {
    let model = Model::new(report(3));
    for (width, height) in SIZES {
        golden(
            &format!("matrix-{width}x{height}.txt"),
            &text(&drawn(&model, (width, height))),
        );
    }
}

#[test]
fn a_fleet_larger_than_the_screen_shows_the_part_around_the_cursor() {
    let mut model = Model::new(report(60));
    golden("large-first-80x24.txt", &text(&drawn(&model, (80, 24))));
    press(&mut model, "G");
    golden("large-last-80x24.txt", &text(&drawn(&model, (80, 24))));
}

#[test]
fn panes_of_text() {
    let mut model = Model::new(report(3));
    for (keys, name) in [("\n", "details"), ("f", "findings"), ("?", "help")] {
        press(&mut model, keys);
        golden(
            &format!("{name}-80x24.txt"),
            &text(&drawn(&model, (80, 24))),
        );
    }
}

#[test]
fn the_view_begins_at_the_first_trouble() {
    let model = Model::new(report(3));
    assert_eq!((model.src, model.dst), (0, 1));
    assert_eq!(model.front().unwrap().title(), "pod ipv4");
}

#[test]
fn keys_move_and_stay_inside() {
    let mut model = Model::new(report(3));
    press(&mut model, "gjjjjll");
    assert_eq!((model.src, model.dst), (2, 2));
    press(&mut model, "k<<<");
    assert_eq!((model.src, model.dst), (1, 0));
    press(&mut model, "n");
    assert_eq!((model.src, model.dst), (0, 1), "around to the only trouble");
    let plane = model.plane;
    press(&mut model, "\t");
    assert_ne!(model.plane, plane);
    press(&mut model, "\t");
    assert_eq!(model.plane, plane);
    press(&mut model, "\n");
    assert_eq!(model.pane, Pane::Details);
    press(&mut model, "jj\u{1b}");
    assert_eq!(
        (model.pane, model.src),
        (Pane::Matrix, 0),
        "a pane of text scrolls, the cursor stays"
    );
    press(&mut model, "?q");
    assert!(
        !model.done && model.pane == Pane::Matrix,
        "help closes only"
    );
    press(&mut model, "q");
    assert!(model.done && !model.interrupted);
}

#[test]
fn control_c_ends_and_other_keys_mean_nothing() {
    let key = |code, modifiers| message(KeyEvent::new(code, modifiers));
    let interrupt = key(KeyCode::Char('c'), KeyModifiers::CONTROL);
    assert_eq!(interrupt, Some(Message::Interrupt));
    assert!(key(KeyCode::Char('l'), KeyModifiers::CONTROL).is_none());
    assert!(key(KeyCode::F(5), KeyModifiers::NONE).is_none());
}

#[test]
fn nothing_is_too_small_or_too_empty_to_draw() {
    let mut empty = report(2);
    empty.cells = Cells::default();
    empty.clusters.clear();
    empty.findings.clear();
    let mut model = Model::new(empty);
    press(&mut model, "jlGg\tn");
    for size in [(1, 1), (5, 3), (20, 6), (300, 4)] {
        drawn(&model, size);
        drawn(&Model::new(report(40)), size);
    }
}

#[test]
fn without_a_terminal_it_is_text() {
    golden("plain-3.txt", &table::matrix(&report(3), Look::default()));
}

#[test]
fn reports_in_other_forms() {
    let directory = tempfile::tempdir().unwrap();
    for form in ["report.junit.xml", "report.dot"] {
        let file = directory.path().join(form);
        let name = form.split('.').nth(1).unwrap();
        let judge = Judge {
            output: vec![format!("{name}={}", file.display()).parse().unwrap()],
            ..Judge::default()
        };
        render::write(&report(3), &judge, false, false, Progress::new(0, true)).unwrap();
        golden(form, &fs::read_to_string(file).unwrap());
    }
}

#[test]
fn exit_codes_of_reports() {
    let with = |change: &dyn Fn(&mut Report)| {
        let mut report = report(2);
        change(&mut report);
        report
    };
    let severity = |severity| {
        with(&|report| {
            report.findings[0].severity = severity;
            report.verdict = match severity {
                Severity::Error => RunVerdict::Fault,
                Severity::Warning => RunVerdict::Degraded,
                Severity::Info => RunVerdict::Healthy,
            };
        })
    };
    let clean = with(&|report| {
        report.findings.clear();
        report.verdict = RunVerdict::Healthy;
    });
    let unjudged = with(&|report| {
        report.findings.clear();
        report
            .unjudged
            .push("c2: its API server does not answer".to_owned());
        report.verdict = RunVerdict::Unknown;
    });
    for (report, bar, code) in [
        (severity(Severity::Error), FailOn::Error, 1),
        (severity(Severity::Warning), FailOn::Error, 0),
        (severity(Severity::Warning), FailOn::Warning, 1),
        (severity(Severity::Info), FailOn::Warning, 0),
        (severity(Severity::Info), FailOn::Info, 1),
        (clean, FailOn::Info, 0),
        (unjudged, FailOn::Info, 2),
    ] {
        assert_eq!(render::exit_code(&report, bar), code);
    }
}

#[test]
fn reports_go_where_they_were_asked_to() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let judge = Judge {
        output: ["json=a.json", "junit=b.xml", "table=c.txt", "dot=d.dot"]
            .iter()
            .map(|text| {
                let mut output: tui::output::Output = text.parse().unwrap();
                output.file = output.file.map(|file| directory.path().join(file));
                output
            })
            .collect(),
        ..Judge::default()
    };
    let mut report = report(3);
    report.node_rows = vec![NodeRow {
        src: "c1/n1".to_owned(),
        dst: "c2/n1".to_owned(),
        layer: Layer::Host,
        family: Family::Ipv4,
        target: "100.64.1.1".to_owned(),
        verdict: CellVerdict::Pass,
        sent: 5,
        received: 5,
        rtt_us: None,
        reason: None,
    }];
    let quiet = Progress::new(0, true);
    render::write(&report, &judge, true, true, quiet).unwrap();
    let json = fs::read_to_string(at("a.json")).unwrap();
    assert!(json.contains("node_rows"), "{json}");
    render::write(&report, &judge, false, true, quiet).unwrap();
    // What another form needs is no part of the data.
    report.node_rows.clear();
    let json = fs::read_to_string(at("a.json")).unwrap();
    assert_eq!(
        orchestrator::report::parse(&json, "a.json").unwrap(),
        report
    );
    assert!(
        fs::read_to_string(at("b.xml"))
            .unwrap()
            .contains("<testsuites ")
    );
    let table = fs::read_to_string(at("c.txt")).unwrap();
    assert!(
        table.contains("ROUTE-MISSING") && !table.contains('\u{1b}'),
        "a file has no colour"
    );
    assert!(
        fs::read_to_string(at("d.dot"))
            .unwrap()
            .starts_with("digraph")
    );
}

#[test]
fn a_live_view_says_how_old_it_is_and_keeps_its_cursor() {
    let mut model = Model::waiting();
    model.live.as_mut().unwrap().doing = "3 floaters send 60 probes".to_owned();
    let head = |model: &Model| -> Vec<String> {
        let shown = text(&drawn(model, (80, 24)));
        shown
            .lines()
            .take(2)
            .map(|line| line.trim_end().to_owned())
            .collect()
    };
    assert_eq!(
        head(&model),
        [
            "the first run is going on",
            "running: 3 floaters send 60 probes"
        ]
    );
    model.replace(report(3));
    assert_eq!(
        (model.plane, model.src, model.dst),
        (1, 0, 1),
        "the first report is shown at its trouble"
    );
    press(&mut model, "jl");
    let mut fewer = report(3);
    fewer.clusters.remove(0);
    fewer.findings.clear();
    let mut cells = Cells::new(2);
    for layer in [Layer::Host, Layer::Pod] {
        let plane = cells.plane_mut(layer, Family::Ipv4);
        for (src, dst) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            plane.set(src, dst, Mark::new(CellState::Probed, CellVerdict::Pass));
        }
    }
    fewer.cells = cells;
    model.replace(fewer);
    assert_eq!(
        (model.plane, model.src, model.dst),
        (1, 0, 1),
        "still c2 to c3"
    );
    model.live = Some(Live {
        age: Some(Duration::from_secs(3)),
        next: Some(Duration::from_secs(2)),
        ..Live::default()
    });
    assert_eq!(head(&model)[1], "3 s old  next run in 2 s, r: now");
    press(&mut model, "r");
    assert!(model.run_now);
    let mut replayed = Model::new(report(2));
    press(&mut replayed, "r");
    assert!(!replayed.run_now, "a file gets no newer");
}

#[test]
fn a_large_fleet_opens_on_its_groups_and_is_seen_from_afar() {
    let mut model = Model::new(report(300));
    assert_eq!(model.pane, Pane::Groups);
    golden("groups-80x24.txt", &text(&drawn(&model, (80, 24))));
    press(&mut model, "\n");
    assert_eq!((model.pane, model.src, model.dst), (Pane::Matrix, 0, 1));
    press(&mut model, "---");
    assert_eq!(model.scale, 8);
    golden("afar-80x24.txt", &text(&drawn(&model, (80, 24))));
    press(&mut model, "jjl");
    assert_eq!((model.src, model.dst), (16, 9));
    press(&mut model, "G");
    assert_eq!((model.src, model.dst), (299, 299));
    press(&mut model, "n");
    assert_eq!((model.plane, model.src, model.dst), (1, 0, 1), "around");
    press(&mut model, "+++++");
    assert_eq!(model.scale, 1);
    press(&mut model, "--------------");
    assert_eq!(model.scale, 512, "one sign for all");
    drawn(&model, (80, 24));
}

#[test]
fn the_plane_in_front_is_always_whole() {
    let mut both = report(2);
    for layer in [Layer::Host, Layer::Pod] {
        let plane = both.cells.plane_mut(layer, Family::Ipv6);
        for (src, dst) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            plane.set(src, dst, Mark::new(CellState::Probed, CellVerdict::Pass));
        }
    }
    let mut model = Model::new(both);
    for _ in 0..4 {
        let title = format!("[{}]", model.front().unwrap().title());
        let shown = text(&drawn(&model, (40, 12)));
        assert!(shown.lines().nth(1).unwrap().contains(&title), "{shown}");
        press(&mut model, "\t");
    }
}

#[test]
fn a_terminal_that_is_too_small_is_told_so() {
    for (size, line) in [
        ((38, 20), "38x20 is too small, 40x12 needed"),
        ((30, 8), "needs 40x12"),
    ] {
        let shown = text(&drawn(&Model::new(report(3)), size));
        let lines: Vec<&str> = shown
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty())
            .collect();
        assert_eq!(lines, [line]);
    }
}
