//! The five columns of Kosmos' own check, for scripts that read them.

use super::table::columns;
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
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    rows.extend(report.node_rows.iter().enumerate().map(|(at, row)| {
        let result = match row.verdict {
            CellVerdict::Pass => "SUCCEEDED",
            CellVerdict::Degraded | CellVerdict::Fail => "FAILED",
            CellVerdict::Unknown => "EXCEPTION",
        };
        vec![
            (at + 1).to_string(),
            row.src.to_string(),
            row.dst.to_string(),
            row.target.to_string(),
            result.to_owned(),
        ]
    }));
    let mut text = String::new();
    columns(&rows, &mut text);
    text
}
