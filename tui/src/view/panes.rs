//! Everything around the matrix.

use orchestrator::matrix::{
    Block as Cells, GROUPS, LEGEND, details as details_of, group_name, legend, verdict_of,
};
use orchestrator::report::Plane;
use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Paragraph, Wrap};

use super::{of_run, of_severity, of_verdict};
use crate::app::{KEYS, Live, Model};
use crate::output::counted;

pub(super) fn head(frame: &mut Frame<'_>, area: Rect, model: &Model) {
    let report = &model.report;
    let waiting = matches!(&model.live, Some(live) if live.age.is_none());
    let summary = if waiting {
        Line::from("the first run is going on")
    } else {
        Line::from(vec![
            Span::styled(report.verdict.word().to_owned(), of_run(report.verdict)),
            Span::raw(format!(
                "  {}, {}, {}, {} in {:.1} s",
                counted(report.clusters.len(), "cluster"),
                counted(report.coverage.cells, "cell"),
                counted(report.findings.len(), "finding"),
                counted(
                    usize::try_from(report.coverage.probes_sent).unwrap_or(usize::MAX),
                    "probe"
                ),
                report.run.seconds
            )),
        ])
    };
    let mut lines = vec![summary];
    lines.extend(model.live.as_ref().map(freshness));
    lines.push(tabs(model, usize::from(area.width)));
    frame.render_widget(Paragraph::new(lines), area);
}

/// How old the report is, and what is done about it.
fn freshness(live: &Live) -> Line<'static> {
    let mut spans = Vec::new();
    if let Some(age) = live.age {
        spans.push(Span::raw(format!("{} s old  ", age.as_secs())));
    }
    spans.push(match live.next {
        Some(next) => Span::raw(format!("next run in {} s, r: now", next.as_secs())),
        None => Span::styled(
            format!("running: {}", live.doing),
            Style::new().fg(Color::Cyan),
        ),
    });
    if let Some(trouble) = &live.trouble {
        spans.push(Span::raw("  "));
        spans.push(Span::styled(
            trouble.clone(),
            Style::new().fg(Color::Yellow),
        ));
    }
    Line::from(spans)
}

/// The planes; where not all fit, those from which on the one in front is whole.
fn tabs(model: &Model, width: usize) -> Line<'static> {
    let titles: Vec<String> = model
        .report
        .cells
        .planes()
        .iter()
        .map(Plane::title)
        .collect();
    // Every tab has two columns for its brackets and one between it and the next.
    let wide = |title: &String| title.chars().count() + 3;
    let mut first = model.plane.min(titles.len());
    let mut taken = titles.get(first).map_or(0, wide);
    while first > 0 && taken + wide(&titles[first - 1]) + 2 <= width {
        first -= 1;
        taken += wide(&titles[first]);
    }
    let mut spans = Vec::new();
    if first > 0 {
        spans.push(Span::raw("\u{2039} "));
    }
    for (index, title) in titles.iter().enumerate().skip(first) {
        let here = index == model.plane;
        let worst = model.matrix.worst(index);
        let mut style = worst.map_or(Style::new(), of_verdict);
        if here {
            style = style.add_modifier(Modifier::BOLD);
        }
        let (before, after) = if here { ("[", "] ") } else { (" ", "  ") };
        spans.push(Span::raw(before));
        spans.push(Span::styled(title.clone(), style));
        spans.push(Span::raw(after));
    }
    Line::from(spans)
}

/// The two keys that lead everywhere else.
const KEYS_IN_SHORT: &str = "? help  q end  ";

/// The keys and what the signs mean, in as many lines as it takes.
pub(super) fn foot_lines(width: u16) -> Vec<String> {
    let room = usize::from(width).saturating_sub(KEYS_IN_SHORT.len());
    let mut lines = legend(room);
    for (at, line) in lines.iter_mut().enumerate() {
        let before = if at == 0 { KEYS_IN_SHORT } else { "" };
        *line = format!("{before:<0$}{line}", KEYS_IN_SHORT.len());
    }
    lines
}

pub(super) fn foot(frame: &mut Frame<'_>, area: Rect) {
    let dim = Style::new().add_modifier(Modifier::DIM);
    let lines: Vec<Line<'_>> = foot_lines(area.width).into_iter().map(Line::from).collect();
    frame.render_widget(Paragraph::new(lines).style(dim), area);
}

pub(super) fn details(frame: &mut Frame<'_>, area: Rect, model: &Model, scroll: u16) {
    let mut lines = details_of(&model.report, model.plane, model.src, model.dst)
        .into_iter()
        .map(Line::from)
        .collect::<Vec<_>>();
    if let (Some(verdict), Some(line)) = (model.mark().verdict(), lines.get_mut(1)) {
        line.style = of_verdict(verdict);
    }
    if lines.is_empty() {
        let waiting = matches!(&model.live, Some(live) if live.age.is_none());
        lines.push(Line::from(if waiting {
            "nothing yet"
        } else {
            "not part of this report"
        }));
    }
    text(frame, area, " cell ", lines, scroll);
}

pub(super) fn findings(frame: &mut Frame<'_>, area: Rect, model: &Model, scroll: u16) {
    let report = &model.report;
    let mut lines = Vec::new();
    for finding in &report.findings {
        lines.push(Line::from(vec![
            Span::styled(finding.code.word(), of_severity(finding.severity)),
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
    lines.extend(LEGEND.map(Line::from));
    text(frame, area, " help ", lines, 0);
}

/// The groups, and what those towards those do in the plane in front.
pub(super) fn groups(frame: &mut Frame<'_>, area: Rect, model: &Model) {
    let mut lines = Vec::new();
    for (at, [name, count, members, troubles]) in model
        .matrix
        .groups
        .lines(&model.report)
        .into_iter()
        .enumerate()
    {
        let mut style = model
            .matrix
            .groups
            .groups
            .get(at)
            .and_then(|group| verdict_of(group.worst))
            .map_or(Style::new(), of_verdict);
        if at == model.group.min(GROUPS) {
            style = style.add_modifier(Modifier::REVERSED);
        }
        lines.push(Line::styled(
            format!("{name:<5}{count:>6}  {members}  {troubles}"),
            style,
        ));
    }
    lines.push(Line::from(""));
    if let Some(blocks) = model.matrix.blocks.get(model.plane) {
        let words: Vec<Vec<String>> = blocks
            .iter()
            .map(|row| row.iter().map(Cells::word).collect())
            .collect();
        let width = words
            .iter()
            .flatten()
            .map(String::len)
            .max()
            .unwrap_or(0)
            .max(4);
        let head: String = (0..blocks.len())
            .map(|to| format!("  {:<width$}", group_name(to)))
            .collect();
        lines.push(Line::from(format!("     {head}")));
        for (from, (row, words)) in blocks.iter().zip(&words).enumerate() {
            let mut spans = vec![Span::raw(format!("{:<5}", group_name(from)))];
            for (block, word) in row.iter().zip(words) {
                let style = verdict_of(block.worst()).map_or(Style::new(), of_verdict);
                spans.push(Span::raw("  "));
                spans.push(Span::styled(format!("{word:<width$}"), style));
            }
            lines.push(Line::from(spans));
        }
    }
    lines.push(Line::from(""));
    lines.push(Line::from(
        "enter: the matrix at the group's first cell that does not pass",
    ));
    text(
        frame,
        area,
        " groups of clusters that are alike, the worst first ",
        lines,
        0,
    );
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
