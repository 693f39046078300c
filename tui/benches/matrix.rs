//! The matrix view of a large fleet's report: the first frame of `matrix --replay`, from the text of the report on, and a key.
//! `cargo gate --bench` prints the rows beside those of the other crates, over the report that the diagnosis' bench has left.
#![allow(missing_docs, clippy::expect_used, reason = "a bench")]

use std::path::Path;

use datapath::state::Family;
use floater::wire::Layer;
use measured::{Before, Measured, SIZES, bench, median, report_in, timed};
use orchestrator::report::{
    CellState, CellVerdict, Cells, ClusterReport, Coverage, Mark, Observation, Report, Run,
    RunVerdict, json, parse,
};
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use tui::app::{Model, message};
use tui::view;

#[path = "../../tests/src/gate/measures/measured.rs"]
mod measured;

const FRAME: &str = "matrix: first frame";
const KEY: &str = "matrix: a key";
/// The largest terminal that frames are tested at.
const TERMINAL: (u16, u16) = (200, 60);

fn main() {
    bench(&[FRAME, KEY], SIZES, measure);
}

fn measure(row: &str, size: usize, folder: &Path) -> Measured {
    let file = report_in(folder, size);
    if !file.exists() {
        // Run alone, it makes a report of its own; in another process, so that its memory is not this one's.
        std::fs::write(&file, json::text(&made(size))).expect("the folder is there");
        return measured::of_program(
            &std::env::current_exe().expect("a program has a path"),
            row,
            size,
            folder,
        )
        .expect("it runs");
    }
    let text = std::fs::read_to_string(&file).expect("it is there");
    let mut terminal =
        Terminal::new(TestBackend::new(TERMINAL.0, TERMINAL.1)).expect("a made terminal");
    let mut draw = |model: &Model| {
        let drawn = terminal.draw(|frame| view::render(frame, model));
        drawn.map(drop).expect("a made terminal");
    };
    let before = Before::now();
    let (report, read) = timed(|| parse(&text, "report.json").expect("its own output"));
    let planes = report.cells.planes().iter();
    let planes = planes
        .map(|plane| (plane.side() * plane.side()) as u64)
        .sum();
    let (mut model, laid) = timed(|| Model::new(report));
    let ((), drawn) = timed(|| draw(&model));
    if row == FRAME {
        let ms = |time: std::time::Duration| time.as_secs_f64() * 1e3;
        return Measured {
            planes,
            remark: format!(
                "read {:.1} ms, laid out {:.1} ms, drawn {:.1} ms",
                ms(read),
                ms(laid),
                ms(drawn)
            ),
            ..before.until(row, size, read + laid + drawn)
        };
    }
    // To the next trouble, nearer, farther, and on: what moves most.
    let keys = "nl+n-j";
    let mut turns = keys.chars().cycle();
    let time = median(|| {
        let key = turns.next().map(KeyCode::Char).unwrap_or(KeyCode::Esc);
        if let Some(message) = message(KeyEvent::new(key, KeyModifiers::NONE)) {
            model.update(message);
        }
        draw(&model);
    });
    Measured {
        planes,
        ..before.until(row, size, time)
    }
}

/// A report in which every hundredth cluster does not reach the first.
fn made(clusters: usize) -> Report {
    let mut cells = Cells::new(clusters);
    for layer in [Layer::Host, Layer::Pod] {
        let plane = cells.plane_mut(layer, Family::Ipv4);
        for src in 0..clusters {
            for dst in 0..clusters {
                let verdict = match dst == 0 && src % 100 == 1 {
                    true => CellVerdict::Fail,
                    false => CellVerdict::Pass,
                };
                plane.set(src, dst, Mark::new(CellState::Proved, verdict));
            }
        }
    }
    Report {
        run: Run {
            id: "bench".to_owned(),
            started: "2026-01-01T00:00:00Z".to_owned(),
            seconds: 0.0,
            seed: 0,
            tool: String::new(),
        },
        clusters: (0..clusters)
            .map(|at| ClusterReport {
                name: format!("c{at:04}"),
                mode: Some("gateway".to_owned()),
                families: vec![Family::Ipv4],
                nodes: 2,
                state: Observation::Observed,
                reason: None,
            })
            .collect(),
        coverage: Coverage {
            ordered_pairs: clusters * (clusters - 1),
            cells: 2 * clusters * clusters,
            proved: 2 * clusters * clusters,
            ..Coverage::default()
        },
        cells,
        findings: Vec::new(),
        verdict: RunVerdict::Unknown,
        unjudged: vec!["made up".to_owned()],
        node_rows: Vec::new(),
    }
}
