//! The budget table as it is printed: a line for every row and size, and under each row how it grows.
//!
//! A cluster's share of memory is the peak of the process without the dense planes of verdicts, which are clusters² by nature and
//! are shown apart. Nothing is asserted: what is over its budget is said to be.

use std::fmt::Write as _;
use std::time::Duration;

use super::budget::{Budget, Row};
use super::measured::Measured;

/// How much more a cluster may cost in the largest fleet than in the smallest.
const GROWTH: f64 = 1.5;
const MB: u64 = 1_000_000;

/// What became of a row at a size.
#[derive(Debug, Clone)]
pub(crate) enum Outcome {
    /// Its figure.
    Measured(Measured),
    /// Why there is none.
    NotRun(String),
}

/// A row at a size.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) row: &'static Row,
    pub(crate) size: usize,
    pub(crate) outcome: Outcome,
}

/// The whole table; the lines of a row stand together, the smallest size first.
pub(crate) fn text(lines: &[Line]) -> String {
    let mut text = format!(
        "{:<49} {:>6} {:>10} {:>10} {:>10} {:>10} {:>8} {:>8} {:>8}  {:<26} {}\n",
        "row",
        "size",
        "time",
        "per one",
        "before MiB",
        "peak MiB",
        "planes",
        "KiB/one",
        "further",
        "budget",
        "remark"
    );
    for of_row in lines.chunk_by(|a, b| a.row.name == b.row.name) {
        let mut last = None;
        for line in of_row {
            match &line.outcome {
                Outcome::Measured(measured) => {
                    text += &figure(line, measured, last);
                    last = Some(measured);
                }
                Outcome::NotRun(why) => {
                    let _ = writeln!(
                        text,
                        "{:<49} {:>6} not run: {why}",
                        line.row.name, line.size
                    );
                }
            }
        }
        text += &growth(of_row);
    }
    text
}

fn figure(line: &Line, measured: &Measured, last: Option<&Measured>) -> String {
    let mib =
        |kib: Option<u64>| kib.map_or("-".to_owned(), |kib| format!("{:.1}", kib as f64 / 1024.0));
    let each = share_kib(measured).map(|kib| kib / measured.size.max(1) as f64);
    let further = last.and_then(|last| {
        let more = share_kib(measured)? - share_kib(last)?;
        Some(more / measured.size.saturating_sub(last.size).max(1) as f64)
    });
    let kib = |number: Option<f64>| number.map_or("-".to_owned(), |kib| format!("{kib:.1}"));
    let planes = match measured.planes {
        0 => "-".to_owned(),
        bytes => format!("{:.1}", bytes as f64 / f64::from(1 << 20)),
    };
    let mut remark = measured.written.map_or(String::new(), |bytes| {
        format!(
            "{:.2} MB of JSON, {:.0} bytes each; ",
            bytes as f64 / MB as f64,
            bytes as f64 / measured.size.max(1) as f64
        )
    });
    remark += &measured.remark;
    let each_time = measured.time / u32::try_from(measured.size.max(1)).unwrap_or(u32::MAX);
    format!(
        "{:<49} {:>6} {:>10} {:>10} {:>10} {:>10} {:>8} {:>8} {:>8}  {:<26} {}\n",
        line.row.name,
        line.size,
        duration(measured.time),
        duration(each_time),
        mib(measured.before_kib),
        mib(measured.peak_kib),
        planes,
        kib(each),
        kib(further),
        against(&line.row.budget(line.size), measured),
        remark.trim_end_matches("; ")
    )
}

/// The peak without the planes, KiB.
fn share_kib(measured: &Measured) -> Option<f64> {
    let planes = measured.planes / 1024;
    Some(measured.peak_kib?.saturating_sub(planes) as f64)
}

/// How the largest size compares with the smallest, for each cluster.
fn growth(of_row: &[Line]) -> String {
    let measured = |line: &'_ Line| match &line.outcome {
        Outcome::Measured(measured) => Some(measured.clone()),
        Outcome::NotRun(_) => None,
    };
    let mut all = of_row.iter().filter_map(measured);
    let (Some(first), Some(last)) = (all.next(), all.next_back()) else {
        return String::new();
    };
    let sizes = last.size as f64 / first.size.max(1) as f64;
    let ratio = |last: f64, first: f64| last / first.max(f64::MIN_POSITIVE) / sizes;
    let word = |ratio: f64| if ratio > GROWTH { " over" } else { "" };
    let time = ratio(last.time.as_secs_f64(), first.time.as_secs_f64());
    let mut text = format!("time ×{time:.2}{}", word(time));
    if let (Some(of_last), Some(of_first)) = (share_kib(&last), share_kib(&first)) {
        let memory = ratio(of_last, of_first);
        let _ = write!(text, ", memory ×{memory:.2}{}", word(memory));
    }
    if let (Some(of_last), Some(of_first)) = (last.written, first.written) {
        let _ = write!(
            text,
            ", bytes ×{:.2}",
            ratio(of_last as f64, of_first as f64)
        );
    }
    format!(
        "{:<49} {:>6} against {}, each: {text} (asked: at most ×{GROWTH})\n",
        "", last.size, first.size
    )
}

/// The budget, and what is over it.
fn against(budget: &Budget, measured: &Measured) -> String {
    let mut parts = Vec::new();
    let over = |is_over: bool| if is_over { " over" } else { "" };
    if let Some(time) = budget.time {
        parts.push(format!("{}{}", duration(time), over(measured.time > time)));
    }
    if let Some(mb) = budget.memory_mb {
        let is_over = measured.peak_kib.is_some_and(|kib| kib * 1024 > mb * MB);
        parts.push(format!("{mb} MB{}", over(is_over)));
    }
    if let Some(mb) = budget.written_mb {
        let is_over = measured.written.is_some_and(|bytes| bytes > mb * MB);
        parts.push(format!("{mb} MB written{}", over(is_over)));
    }
    parts.join(", ")
}

/// Three digits and a unit.
fn duration(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    let (number, unit) = if seconds >= 1.0 {
        (seconds, "s")
    } else if seconds >= 1e-3 {
        (seconds * 1e3, "ms")
    } else if seconds >= 1e-6 {
        (seconds * 1e6, "µs")
    } else {
        (seconds * 1e9, "ns")
    };
    let digits = if number >= 100.0 {
        0
    } else if number >= 10.0 {
        1
    } else {
        2
    };
    format!("{number:.digits$} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate::measures::budget::tests::row;

    fn measured(size: usize, time_ms: u64, peak_mib: u64, planes: u64) -> Measured {
        Measured {
            row: "r".to_owned(),
            size,
            time: Duration::from_millis(time_ms),
            before_kib: Some(1024),
            peak_kib: Some(peak_mib * 1024),
            planes,
            written: Some(2 * MB),
            remark: "said".to_owned(),
        }
    }

    #[test]
    fn a_figure_survives_the_way_from_its_process() {
        let mut one = measured(100, 3, 8, 20_000);
        assert_eq!(one.to_string().parse(), Ok(one.clone()));
        (one.before_kib, one.peak_kib, one.written) = (None, None, None);
        assert_eq!(one.to_string().parse(), Ok(one));
        for wrong in [
            "",
            "r\t1\t2",
            "r\tx\t1\t-\t-\t0\t-\t",
            "r\t1\t-\t-\t-\t0\t-\t",
        ] {
            assert!(wrong.parse::<Measured>().is_err(), "{wrong}");
        }
    }

    /// Planes are no cluster's share; what is over is said; a size that did not run has its reason and no ratio.
    #[test]
    fn growth_is_told_without_planes() {
        let line = |size, outcome| Line {
            row: row(),
            size,
            outcome,
        };
        let planes = 2 * 5000 * 5000;
        let lines = [
            line(100, Outcome::Measured(measured(100, 10, 1, 0))),
            line(300, Outcome::NotRun("too little memory".to_owned())),
            line(
                5000,
                Outcome::Measured(measured(5000, 1000, 50 + planes / (1 << 20), planes)),
            ),
        ];
        let text = text(&lines);
        let said: Vec<&str> = text.lines().skip(1).collect();
        assert!(said[1].ends_with("not run: too little memory"), "{text}");
        assert!(said[2].contains("1.00 s     200 µs"), "{text}");
        assert!(said[2].contains("100 ms over, 60 MB over"), "{text}");
        assert!(said[3].contains("5000 against 100"), "{text}");
        assert!(said[3].contains("time ×2.00 over, memory ×0.99"), "{text}");
    }

    #[test]
    fn times_have_three_digits() {
        for (micros, text) in [
            (0, "0.00 ns"),
            (7, "7.00 µs"),
            (16_000, "16.0 ms"),
            (999_000, "999 ms"),
            (45_000_000, "45.0 s"),
        ] {
            assert_eq!(duration(Duration::from_micros(micros)), text);
        }
    }
}
