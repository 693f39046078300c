//! A matrix of more clusters than fit a screen: groups of clusters that are alike, the worst first, with the counts of what is folded.

use std::fmt::Write as _;

use super::{LINES, Paint, columns, more, plural};
use crate::matrix::{Block, Groups, Matrix, group_name, verdict_of, verdict_word};
use crate::report::{CellId, CellName, Plane, Report};

/// Every plane, by groups where something does not pass, in one line where all does.
pub(super) fn planes(
    report: &Report,
    matrix: &Matrix,
    wide: bool,
    paint: Paint,
    text: &mut String,
) {
    let groups = &matrix.groups;
    if groups.groups.len() > 1 {
        text.push('\n');
        legend_of(report, groups, text);
    }
    for (at, plane) in report.cells.planes().iter().enumerate() {
        text.push('\n');
        plane_by_groups(report, &matrix.blocks[at], plane, paint, text);
        if wide && matrix.blocks[at].len() > 1 {
            cells(report, plane, paint, text);
        }
    }
}

/// The groups by letter with some of their members.
fn legend_of(report: &Report, groups: &Groups, text: &mut String) {
    let _ = writeln!(
        text,
        "{} in {}, the worst first",
        plural(report.clusters.len(), "cluster", "clusters"),
        plural(
            groups.groups.len(),
            "group that is alike",
            "groups that are alike"
        )
    );
    let rows: Vec<Vec<String>> = groups
        .lines(report)
        .into_iter()
        .map(|line| {
            let [name, count, members, troubles] = line;
            vec![format!("  {name}"), count, members, troubles]
        })
        .collect();
    columns(&rows, text);
}

fn plane_by_groups(
    report: &Report,
    blocks: &[Vec<Block>],
    plane: &Plane,
    paint: Paint,
    text: &mut String,
) {
    let title = plane.title();
    let cells: usize = blocks.iter().flatten().map(Block::cells).sum();
    let troubles: usize = blocks.iter().flatten().map(Block::troubles).sum();
    let _ = writeln!(text, "{title}: {} of {cells} cells pass", cells - troubles);
    if troubles == 0 {
        return;
    }
    // One group in which not all passes is told by its cells.
    if blocks.len() < 2 {
        return self::cells(report, plane, paint, text);
    }
    let mut rows = vec![vec!["  from \\ to".to_owned()]];
    rows[0].extend((0..blocks.len()).map(group_name));
    for (at, row) in blocks.iter().enumerate() {
        let mut words = vec![format!("  {}", group_name(at))];
        words.extend(row.iter().map(Block::word));
        rows.push(words);
    }
    let mut plain = String::new();
    columns(&rows, &mut plain);
    for (at, line) in plain.lines().enumerate() {
        let worst = at
            .checked_sub(1)
            .and_then(|at| blocks.get(at))
            .and_then(|row| row.iter().map(Block::worst).max())
            .and_then(verdict_of);
        let _ = match worst {
            Some(worst) => writeln!(text, "{}", paint.cell(worst, line)),
            None => writeln!(text, "{line}"),
        };
    }
}

/// Some of the cells that do not pass, the worst first.
fn cells(report: &Report, plane: &Plane, paint: Paint, text: &mut String) {
    let (mut bad, mut all): (Vec<(u8, CellId)>, usize) = (Vec::new(), 0);
    for (src, dst, mark) in plane.troubles() {
        all += 1;
        // As many as are written are kept, and the best of them goes for a worse one.
        let (Ok(src), Ok(dst)) = (u32::try_from(src), u32::try_from(dst)) else {
            continue;
        };
        let id = CellId {
            src,
            dst,
            layer: plane.layer,
            family: plane.family,
        };
        bad.push((mark.badness(), id));
        if bad.len() > 2 * LINES {
            bad.sort_by_key(|&(badness, id)| (std::cmp::Reverse(badness), id));
            bad.truncate(LINES);
        }
    }
    bad.sort_by_key(|&(badness, id)| (std::cmp::Reverse(badness), id));
    bad.truncate(LINES);
    for &(badness, id) in &bad {
        let Some(verdict) = verdict_of(badness) else {
            continue;
        };
        let name = CellName::new(&report.clusters, id);
        let _ = writeln!(
            text,
            "  {} {} -> {}",
            paint.cell(verdict, verdict_word(verdict)),
            name.src,
            name.dst
        );
    }
    more(all, bad.len(), "  ", text);
}
