//! The matrix itself: in a terminal, where only the part around the cursor is drawn, and as plain text.

use std::fmt::Write as _;

use orchestrator::matrix::{Matrix, NO_CELL, glyph, legend};
use orchestrator::report::Report;
use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Paragraph};

use super::of_verdict;
use crate::app::Model;

/// As many characters of a name are written at least, however narrow the screen is.
const SHORTEST: usize = 16;
/// The columns of a matrix that is text.
const COLUMNS: usize = 80;

/// How rows and columns are labelled: by name where all names fit, else columns by number, and rows by number and as much of
/// the name as there is room for beside the columns.
struct Labels {
    rows: Vec<String>,
    columns: Vec<String>,
    row_width: usize,
    /// Without the space before it.
    column_width: usize,
}

impl Labels {
    /// Labels for a width in columns.
    fn new(names: &[String], width: usize) -> Self {
        let longest = names
            .iter()
            .map(|name| name.chars().count())
            .max()
            .unwrap_or(0);
        if longest + names.len() * (longest + 1) <= width {
            return Self {
                rows: names.to_vec(),
                columns: names.to_vec(),
                row_width: longest,
                column_width: longest,
            };
        }
        let digits = names.len().to_string().len();
        let columns = names.len() * (digits + 1);
        let longest = width
            .saturating_sub(digits + 1 + columns)
            .max(SHORTEST)
            .min(longest);
        Self {
            rows: (1..)
                .zip(names)
                .map(|(number, name)| format!("{number:>digits$} {}", shortened(name, longest)))
                .collect(),
            columns: (1..=names.len()).map(|number| number.to_string()).collect(),
            row_width: digits + 1 + longest,
            column_width: digits,
        }
    }
}

fn shortened(name: &str, longest: usize) -> String {
    if name.chars().count() <= longest {
        return name.to_owned();
    }
    let kept: String = name.chars().take(longest - 1).collect();
    kept + "…"
}

/// The page of a list that holds a position, so that moving within it scrolls nothing.
fn page(position: usize, size: usize, length: usize) -> std::ops::Range<usize> {
    let size = size.max(1);
    let start = position / size * size;
    start..(start + size).min(length)
}

pub(super) fn render(frame: &mut Frame<'_>, area: Rect, model: &Model) {
    let block = Block::bordered().title(" from \u{2193} to \u{2192} ");
    let inner = block.inner(area);
    let (width, height) = (usize::from(inner.width), usize::from(inner.height));
    let names = &model.matrix.names;
    let labels = Labels::new(names, width);
    let columns_that_fit = width.saturating_sub(labels.row_width) / (labels.column_width + 1);
    let columns = page(model.dst, columns_that_fit, names.len());
    let rows = page(model.src, height.saturating_sub(1), names.len());

    let bold = |on: bool| {
        if on {
            Style::new().add_modifier(Modifier::BOLD)
        } else {
            Style::new()
        }
    };
    let mut lines = Vec::with_capacity(rows.len() + 1);
    let mut head = vec![Span::raw(" ".repeat(labels.row_width))];
    for dst in columns.clone() {
        let text = format!(" {:>1$}", labels.columns[dst], labels.column_width);
        head.push(Span::styled(text, bold(dst == model.dst)));
    }
    lines.push(Line::from(head));
    for src in rows {
        let text = format!("{:<1$}", labels.rows[src], labels.row_width);
        let mut spans = vec![Span::styled(text, bold(src == model.src))];
        for dst in columns.clone() {
            let cell = model.cell_at(model.plane, src, dst);
            let sign = cell.map_or(NO_CELL, glyph);
            let mut style = cell.map_or(Style::new(), |cell| of_verdict(cell.verdict));
            if (src, dst) == (model.src, model.dst) {
                style = style.add_modifier(Modifier::REVERSED);
            }
            spans.push(Span::raw(" ".repeat(labels.column_width)));
            spans.push(Span::styled(sign.to_string(), style));
        }
        lines.push(Line::from(spans));
    }
    frame.render_widget(Paragraph::new(lines).block(block), area);
}

/// Every plane of a report as text, without a terminal: what `matrix --replay` writes into a pipe.
#[must_use]
pub fn plain(report: &Report) -> String {
    let matrix = Matrix::of(report);
    let mut text = String::new();
    for plane in &matrix.planes {
        let labels = Labels::new(&matrix.names, COLUMNS);
        let _ = writeln!(text, "{} (rows: from, columns: to)", plane.title());
        let _ = write!(text, "{:1$}", "", labels.row_width);
        for column in &labels.columns {
            let _ = write!(text, " {column:>0$}", labels.column_width);
        }
        text.push('\n');
        for (label, cells) in labels.rows.iter().zip(&plane.cells) {
            let _ = write!(text, "{label:<0$}", labels.row_width);
            for cell in cells {
                let sign = cell
                    .and_then(|at| report.cells.get(at))
                    .map_or(NO_CELL, glyph);
                let _ = write!(text, " {sign:>0$}", labels.column_width);
            }
            text.push('\n');
        }
        text.push('\n');
    }
    for line in legend(COLUMNS) {
        text.push_str(&line);
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_hold_the_cursor() {
        assert_eq!(page(0, 10, 3), 0..3);
        assert_eq!(page(12, 10, 30), 10..20);
        assert_eq!(page(29, 10, 30), 20..30);
        assert_eq!(page(5, 0, 30), 5..6, "no room is one row");
    }

    #[test]
    fn columns_become_numbers_when_names_do_not_fit() {
        let names: Vec<String> = (0..20).map(|n| format!("cluster-number-{n:02}")).collect();
        let labels = Labels::new(&names, 70);
        assert_eq!(labels.columns[19], "20");
        assert_eq!(labels.rows[0], " 1 cluster-number-…", "no room");
        let wider = Labels::new(&names, 80);
        assert_eq!(wider.rows[0], " 1 cluster-number-00", "room enough");
        let two = Labels::new(&names[..2], 80);
        assert_eq!(two.columns[1], "cluster-number-01");
    }
}
