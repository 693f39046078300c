//! The matrix itself, of which only the part around the cursor is drawn, from as far as somebody wants.

use orchestrator::matrix::{NO_CELL, glyph, glyph_of, verdict_of};
use orchestrator::report::CellVerdict;
use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Paragraph};

use super::of_verdict;
use crate::app::Model;

/// As many characters of a name are written at least, however narrow the screen is.
const SHORTEST: usize = 16;

/// How rows and columns are labelled: by name where all names fit, else columns by number, and rows by number and as much of
/// the name as there is room for beside the columns. Only what is drawn is written.
struct Labels<'n> {
    names: &'n [&'n str],
    /// From one label to the next, clusters.
    step: usize,
    /// The columns of a number; none where names are written.
    digits: Option<usize>,
    row_width: usize,
    /// Without the space before it.
    column_width: usize,
}

impl<'n> Labels<'n> {
    /// Labels for a width in columns.
    fn new(names: &'n [&'n str], step: usize, width: usize) -> Self {
        let longest = names
            .iter()
            .map(|name| name.chars().count())
            .max()
            .unwrap_or(0);
        if longest + names.len() * (longest + 1) <= width {
            return Self {
                names,
                step,
                digits: None,
                row_width: longest,
                column_width: longest,
            };
        }
        let digits = (names.len() * step).to_string().len();
        let columns = names.len() * (digits + 1);
        let longest = width
            .saturating_sub(digits + 1 + columns)
            .max(SHORTEST)
            .min(longest);
        Self {
            names,
            step,
            digits: Some(digits),
            row_width: digits + 1 + longest,
            column_width: digits,
        }
    }

    fn number(&self, at: usize) -> usize {
        at * self.step + 1
    }

    fn column(&self, at: usize) -> String {
        match self.digits {
            Some(_) => self.number(at).to_string(),
            None => self.names[at].to_owned(),
        }
    }

    fn row(&self, at: usize) -> String {
        match self.digits {
            Some(digits) => format!(
                "{:>digits$} {}",
                self.number(at),
                shortened(self.names[at], self.row_width - digits - 1)
            ),
            None => self.names[at].to_owned(),
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
    let scale = model.scale;
    let title = match scale {
        1 => " from \u{2193} to \u{2192} ".to_owned(),
        _ => format!(" from \u{2193} to \u{2192}, a sign is the worst of {scale} by {scale} "),
    };
    let block = Block::bordered().title(title);
    let inner = block.inner(area);
    let (width, height) = (usize::from(inner.width), usize::from(inner.height));
    let names: Vec<&str> = model
        .report
        .clusters
        .iter()
        .step_by(scale)
        .map(|cluster| cluster.name.as_str())
        .collect();
    let labels = Labels::new(&names, scale, width);
    let columns_that_fit = width.saturating_sub(labels.row_width) / (labels.column_width + 1);
    let (row, column) = (model.src / scale, model.dst / scale);
    let columns = page(column, columns_that_fit, names.len());
    let rows = page(row, height.saturating_sub(1), names.len());

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
        let text = format!(" {:>1$}", labels.column(dst), labels.column_width);
        head.push(Span::styled(text, bold(dst == column)));
    }
    lines.push(Line::from(head));
    for src in rows {
        let text = format!("{:<1$}", labels.row(src), labels.row_width);
        let mut spans = vec![Span::styled(text, bold(src == row))];
        for dst in columns.clone() {
            let (sign, verdict) = sign(model, src, dst);
            let mut style = verdict.map_or(Style::new(), of_verdict);
            if (src, dst) == (row, column) {
                style = style.add_modifier(Modifier::REVERSED);
            }
            spans.push(Span::raw(" ".repeat(labels.column_width)));
            spans.push(Span::styled(sign.to_string(), style));
        }
        lines.push(Line::from(spans));
    }
    frame.render_widget(Paragraph::new(lines).block(block), area);
}

/// What is drawn at a place: a cell, or the worst of the block of cells that it stands for.
fn sign(model: &Model, row: usize, column: usize) -> (char, Option<CellVerdict>) {
    let (Some(plane), Some(pyramid)) = (model.front(), model.matrix.pyramids.get(model.plane))
    else {
        return (NO_CELL, None);
    };
    let scale = model.scale;
    if scale == 1 {
        let mark = plane.at(row, column);
        return (glyph(mark), mark.verdict());
    }
    let block = |at: usize| at * scale..(at + 1) * scale;
    let verdict = verdict_of(pyramid.worst_of(plane, block(row), block(column)));
    (verdict.map_or(NO_CELL, glyph_of), verdict)
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
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let labels = Labels::new(&names, 1, 70);
        assert_eq!(labels.column(19), "20");
        assert_eq!(labels.row(0), " 1 cluster-number-…", "no room");
        let wider = Labels::new(&names, 1, 80);
        assert_eq!(wider.row(0), " 1 cluster-number-00", "room enough");
        let two = Labels::new(&names[..2], 1, 80);
        assert_eq!(two.column(1), "cluster-number-01");
        let far = Labels::new(&names, 8, 80);
        assert_eq!(far.column(2), "17", "the first of the third block of eight");
    }
}
