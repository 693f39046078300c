//! The report as JSON, and back.
//!
//! `floater.report/v1` writes every cell in full. Above [`PACK_ABOVE`] clusters `cells` would be most of the file, so that such a report
//! is a `floater.report/v2`: the same, but `cells` is empty and `cells_packed` has each plane as rows of run-length coded letters with
//! the counts of probed cells beside them; findings that affect more than [`NAMED_AFFECTS`] cells have `affects` empty and
//! `affects_packed` in its place.
//!
//! Compatible means: within a version fields are added and never change their meaning or go away, and readers ignore fields that they do
//! not know. What a reader of a version could not do without is a new version. A report is written in the lowest version that can hold
//! it; this program reads both, and refuses any other.

mod outline;
mod packed;
mod read;
mod written;

use std::io::{self, Write};

use serde::Serialize;
use serde_json::Serializer;
use serde_json::ser::PrettyFormatter;

use super::Report;
pub use read::{MOST_AFFECTED, MOST_PLACES, Unreadable, parse};

/// The schema of a report with every cell in full.
pub const SCHEMA: &str = "floater.report/v1";
/// The schema of a report with packed cells.
pub const SCHEMA_PACKED: &str = "floater.report/v2";
/// Up to so many clusters every cell is written in full.
pub const PACK_ABOVE: usize = 300;
/// Up to so many affected cells of a finding are written by name in a packed report.
pub const NAMED_AFFECTS: usize = 100;

/// The schema that a report is written in.
#[must_use]
pub fn schema_of(report: &Report) -> &'static str {
    if report.clusters.len() > PACK_ABOVE {
        SCHEMA_PACKED
    } else {
        SCHEMA
    }
}

/// Writes a report as human-readable JSON with a newline at its end, without holding the text. `node_rows`: with the rows per pair of
/// nodes, where there are any.
///
/// # Errors
/// The writer's.
pub fn write(report: &Report, node_rows: bool, mut to: impl Write) -> io::Result<()> {
    let form = written::Form::new(report, node_rows);
    if schema_of(report) == SCHEMA_PACKED {
        let mut json = Serializer::with_formatter(&mut to, outline::Outline::default());
        form.serialize(&mut json)?;
    } else {
        let mut json = Serializer::with_formatter(&mut to, PrettyFormatter::new());
        form.serialize(&mut json)?;
    }
    to.write_all(b"\n")
}

impl Serialize for Report {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        written::Form::new(self, true).serialize(serializer)
    }
}

/// As [`write()`], with all rows, as text.
#[must_use]
pub fn text(report: &Report) -> String {
    let mut bytes = Vec::new();
    // Neither memory nor the report's own types refuse anything.
    let _ = write(report, true, &mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}
