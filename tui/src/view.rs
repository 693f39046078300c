//! The terminal view, drawn from [`Model`]. Each pane is one function of a rectangle and the model.
//!
//! ```text
//! wide, from 100 columns                          narrow
//! ┌ fault · 3 clusters · 12 cells ─────────┐      ┌ fault · … ────────┐
//! │  host ipv4  [pod ipv4]                 │      │  host… [pod…      │
//! ├ from ↓ to → ──────────┬ c1 → c2 ───────┤      ├ from ↓ to → ──────┤
//! │      c1  c2  c3       │ fail, probed   │      │      c1  c2  c3   │
//! │ c1   +   X   +        ├ findings ──────┤      │ c1   +   X   +    │
//! │ c2   +   +   +        │ FDB-MISSING …  │      ├ c1 → c2 ──────────┤
//! │ c3   +   +   +        │                │      │ fail, probed      │
//! └ + passes … ───────────┴ ? help ────────┘      └───────────────────┘
//! ```

mod grid;
mod panes;

use orchestrator::report::{CellVerdict, RunVerdict, Severity};
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::widgets::Paragraph;

use crate::app::{Model, Pane};

/// From how many columns the details stand beside the matrix.
const WIDE: u16 = 100;

/// From how many rows the legend may take two.
const TALL: u16 = 20;

/// The least columns and rows in which anything can be told.
const LEAST: (u16, u16) = (40, 12);

/// Draws everything.
pub fn render(frame: &mut Frame<'_>, model: &Model) {
    let area = frame.area();
    if area.width < LEAST.0 || area.height < LEAST.1 {
        return too_small(frame, area);
    }
    // What the signs mean is in the help as well, where there is no room for all of it.
    let most = if area.height < TALL { 1 } else { 2 };
    let foot = u16::try_from(panes::foot_lines(area.width).len()).map_or(most, |all| all.min(most));
    let [head, body, foot] = Layout::vertical([
        Constraint::Length(if model.live.is_some() { 3 } else { 2 }),
        Constraint::Min(3),
        Constraint::Length(foot),
    ])
    .areas(area);
    panes::head(frame, head, model);
    panes::foot(frame, foot);
    match model.pane {
        Pane::Details => panes::details(frame, body, model, model.scroll),
        Pane::Findings => panes::findings(frame, body, model, model.scroll),
        Pane::Groups => panes::groups(frame, body, model),
        Pane::Help => panes::help(frame, body),
        Pane::Matrix if body.width >= WIDE => {
            let side = (body.width / 2).min(80);
            let [left, right] =
                Layout::horizontal([Constraint::Min(20), Constraint::Length(side)]).areas(body);
            let [cell, findings] =
                Layout::vertical([Constraint::Percentage(45), Constraint::Percentage(55)])
                    .areas(right);
            grid::render(frame, left, model);
            panes::details(frame, cell, model, 0);
            panes::findings(frame, findings, model, 0);
        }
        Pane::Matrix => {
            let [top, bottom] =
                Layout::vertical([Constraint::Percentage(55), Constraint::Percentage(45)])
                    .areas(body);
            grid::render(frame, top, model);
            panes::details(frame, bottom, model, 0);
        }
    }
}

/// One line in the middle.
fn too_small(frame: &mut Frame<'_>, area: Rect) {
    let (width, height) = LEAST;
    let whole = format!(
        "{}x{} is too small, {width}x{height} needed",
        area.width, area.height
    );
    let text = if whole.len() <= usize::from(area.width) {
        whole
    } else {
        format!("needs {width}x{height}")
    };
    let middle = Rect {
        y: area.y + area.height / 2,
        height: 1,
        ..area
    };
    frame.render_widget(Paragraph::new(text).centered(), middle.intersection(area));
}

fn of_verdict(verdict: CellVerdict) -> Style {
    match verdict {
        CellVerdict::Degraded => Style::new().fg(Color::Yellow),
        CellVerdict::Fail => Style::new().fg(Color::Red).add_modifier(Modifier::BOLD),
        CellVerdict::Pass => Style::new().fg(Color::Green),
        CellVerdict::Unknown => Style::new().fg(Color::Magenta),
    }
}

fn of_run(verdict: RunVerdict) -> Style {
    of_verdict(match verdict {
        RunVerdict::Degraded => CellVerdict::Degraded,
        RunVerdict::Fault => CellVerdict::Fail,
        RunVerdict::Healthy => CellVerdict::Pass,
        RunVerdict::Unknown => CellVerdict::Unknown,
    })
}

fn of_severity(severity: Severity) -> Style {
    match severity {
        Severity::Error => of_verdict(CellVerdict::Fail),
        Severity::Warning => of_verdict(CellVerdict::Degraded),
        Severity::Info => Style::new().fg(Color::Cyan),
    }
}
