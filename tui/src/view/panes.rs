//! Everything around the matrix.

use orchestrator::matrix::LEGEND;
use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Paragraph, Wrap};

use super::{of_run, of_severity, of_verdict};
use crate::app::{KEYS, Model};

pub(super) fn head(frame: &mut Frame<'_>, area: Rect, model: &Model) {
    let report = &model.report;
    let summary = Line::from(vec![
        Span::styled(report.verdict.word().to_owned(), of_run(report.verdict)),
        Span::raw(format!(
            "  {} clusters, {} cells, {} findings, {} probes in {:.1} s",
            report.clusters.len(),
            report.coverage.cells,
            report.findings.len(),
            report.coverage.probes_sent,
            report.run.seconds
        )),
    ]);
    let mut tabs = Vec::new();
    for (index, plane) in model.matrix.planes.iter().enumerate() {
        let here = index == model.plane;
        let mut style = plane.worst(report).map_or(Style::new(), of_verdict);
        if here {
            style = style.add_modifier(Modifier::BOLD);
        }
        let (before, after) = if here { ("[", "] ") } else { (" ", "  ") };
        tabs.push(Span::raw(before));
        tabs.push(Span::styled(plane.title(), style));
        tabs.push(Span::raw(after));
    }
    frame.render_widget(Paragraph::new(vec![summary, Line::from(tabs)]), area);
}

pub(super) fn foot(frame: &mut Frame<'_>, area: Rect) {
    let keys = "? help  q end  ";
    let room = usize::from(area.width).saturating_sub(keys.len());
    let mut legend = String::new();
    for sign in LEGEND.split_inclusive("  ") {
        if legend.len() + sign.trim_end().len() > room {
            break;
        }
        legend.push_str(sign);
    }
    let dim = Style::new().add_modifier(Modifier::DIM);
    frame.render_widget(Paragraph::new(format!("{keys}{legend}")).style(dim), area);
}

pub(super) fn details(frame: &mut Frame<'_>, area: Rect, model: &Model, scroll: u16) {
    let mut lines = model
        .matrix
        .details(&model.report, model.plane, model.src, model.dst)
        .into_iter()
        .map(Line::from)
        .collect::<Vec<_>>();
    if let (Some(cell), Some(line)) = (model.cell(), lines.get_mut(1)) {
        line.style = of_verdict(cell.verdict);
    }
    if lines.is_empty() {
        lines.push(Line::from("not part of this report"));
    }
    text(frame, area, " cell ", lines, scroll);
}

pub(super) fn findings(frame: &mut Frame<'_>, area: Rect, model: &Model, scroll: u16) {
    let report = &model.report;
    let mut lines = Vec::new();
    for finding in &report.findings {
        lines.push(Line::from(vec![
            Span::styled(finding.code.clone(), of_severity(finding.severity)),
            Span::raw(format!(" at {}  {}", finding.element.place(), finding.id)),
        ]));
        lines.push(Line::from(format!("  {}", finding.summary)));
        lines.push(Line::from(format!("  fix: {}", finding.fix)));
    }
    if report.findings.is_empty() {
        lines.push(Line::from("none"));
    }
    if !report.unjudged.is_empty() {
        lines.push(Line::from(""));
        lines.push(Line::from("Could not be judged:"));
        lines.extend(
            report
                .unjudged
                .iter()
                .map(|text| Line::from(format!("  {text}"))),
        );
    }
    text(frame, area, " findings ", lines, scroll);
}

pub(super) fn help(frame: &mut Frame<'_>, area: Rect) {
    let mut lines: Vec<Line<'_>> = KEYS
        .iter()
        .map(|(key, meaning)| Line::from(format!("{key:<18}{meaning}")))
        .collect();
    lines.push(Line::from(""));
    lines.extend(LEGEND.split("  ").map(Line::from));
    text(frame, area, " help ", lines, 0);
}

/// A bordered pane of wrapped lines, scrolled at most to its last page.
fn text(frame: &mut Frame<'_>, area: Rect, title: &str, lines: Vec<Line<'_>>, scroll: u16) {
    let block = Block::bordered().title(title.to_owned());
    let inner = block.inner(area);
    let rows: usize = lines
        .iter()
        .map(|line| {
            line.width()
                .max(1)
                .div_ceil(usize::from(inner.width.max(1)))
        })
        .sum();
    let last_page = rows.saturating_sub(usize::from(inner.height));
    let scroll = scroll.min(u16::try_from(last_page).unwrap_or(u16::MAX));
    let paragraph = Paragraph::new(lines)
        .wrap(Wrap { trim: false })
        .scroll((scroll, 0))
        .block(block);
    frame.render_widget(paragraph, area);
}
