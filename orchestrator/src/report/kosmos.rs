//! The five columns of Kosmos' own check, for scripts that read them.

use std::fmt::Write as _;

use super::{CellVerdict, Report};

/// One line per pair of nodes that was probed: `S/N SRC_NODE_NAME DST_NODE_NAME TARGET_IP RESULT`, tab-separated columns padded to a
/// table. The results are `SUCCEEDED`, `FAILED`, and `EXCEPTION` where nobody knows.
#[must_use]
pub fn kosmos_table(report: &Report) -> String {
    let head = [
        "S/N",
        "SRC_NODE_NAME",
        "DST_NODE_NAME",
        "TARGET_IP",
        "RESULT",
    ]
    .map(str::to_owned);
    let mut lines = vec![head];
    for (at, row) in report.node_rows.iter().enumerate() {
        lines.push([
            (at + 1).to_string(),
            row.src.clone(),
            row.dst.clone(),
            row.target.clone(),
            match row.verdict {
                CellVerdict::Pass => "SUCCEEDED",
                CellVerdict::Degraded | CellVerdict::Fail => "FAILED",
                CellVerdict::Unknown => "EXCEPTION",
            }
            .to_owned(),
        ]);
    }
    let widths: Vec<usize> = (0..5)
        .map(|column| {
            lines
                .iter()
                .map(|line| line[column].chars().count())
                .max()
                .unwrap_or(0)
        })
        .collect();
    let mut text = String::new();
    for line in &lines {
        let mut row = String::new();
        for (word, &width) in line.iter().zip(&widths) {
            let _ = write!(row, "{word:<width$}  ");
        }
        text.push_str(row.trim_end());
        text.push('\n');
    }
    text
}
