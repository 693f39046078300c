//! One measured figure as a bench hands it to the gate, which prints the budget table.
//!
//! The benches of every crate include this file. Each row and size is measured in a process of its own, because the peak of
//! resident memory is that of a whole process.
#![allow(
    dead_code,
    reason = "the gate reads what the benches write; each uses its half"
)]

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::str::FromStr;
use std::time::{Duration, Instant};

/// The sizes of fleets, in clusters.
pub(crate) const SIZES: &[usize] = &[100, 300, 1000, 5000];
/// Names the row to the process that measures it.
pub(crate) const ROW: &str = "FLOATER_MEASURE_ROW";
/// Names the size to the same process.
pub(crate) const SIZE: &str = "FLOATER_MEASURE_SIZE";
/// Names the folder in which one row may leave a file for another.
pub(crate) const FOLDER: &str = "FLOATER_MEASURE_FOLDER";
/// How long a quick piece of work is repeated, so that its median says something.
const LONG_ENOUGH: Duration = Duration::from_millis(300);
/// The most repetitions.
const MOST: usize = 1000;

/// One row of the table at one size.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Measured {
    /// The row's name.
    pub(crate) row: String,
    /// How many clusters or contexts.
    pub(crate) size: usize,
    /// The time of the work.
    pub(crate) time: Duration,
    /// Resident memory before the work, its input included, KiB; none where another process did the work.
    pub(crate) before_kib: Option<u64>,
    /// The peak of resident memory of the whole process, KiB; none where it is not this row's business.
    pub(crate) peak_kib: Option<u64>,
    /// What the dense planes of verdicts take of it, bytes: clusters², a byte for every layer and family.
    pub(crate) planes: u64,
    /// The size of what was written, bytes.
    pub(crate) written: Option<u64>,
    /// What else there is to say.
    pub(crate) remark: String,
}

/// A line of `/proc/PID/status`, KiB.
pub(crate) fn status_kib(process: &str, field: &str) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let rest = status
        .lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    rest.split_whitespace().next()?.parse().ok()
}

/// The time of one piece of work.
pub(crate) fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let start = Instant::now();
    (work(), start.elapsed())
}

/// The median time of a piece of work that can be repeated; what it makes is dropped outside of the time.
pub(crate) fn median<T>(mut work: impl FnMut() -> T) -> Duration {
    let start = Instant::now();
    let mut times = Vec::new();
    while times.is_empty() || (start.elapsed() < LONG_ENOUGH && times.len() < MOST) {
        let (made, time) = timed(&mut work);
        times.push(time);
        drop(made);
    }
    times.sort();
    times[times.len() / 2]
}

/// What this process had before its work.
pub(crate) struct Before(Option<u64>);

impl Before {
    /// As it is now.
    pub(crate) fn now() -> Self {
        Self(status_kib("self", "VmRSS"))
    }

    /// A figure of this process, with its peak until now.
    pub(crate) fn until(self, row: &str, size: usize, time: Duration) -> Measured {
        Measured {
            row: row.to_owned(),
            size,
            time,
            before_kib: self.0,
            peak_kib: status_kib("self", "VmHWM"),
            planes: 0,
            written: None,
            remark: String::new(),
        }
    }
}

/// One line, its fields between tabs.
impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let or_none = |number: Option<u64>| number.map_or("-".to_owned(), |one| one.to_string());
        write!(
            f,
            "{}\t{}\t{}\t{}\t{}\t{}\t{}\t{}",
            self.row,
            self.size,
            self.time.as_nanos(),
            or_none(self.before_kib),
            or_none(self.peak_kib),
            self.planes,
            or_none(self.written),
            self.remark
        )
    }
}

impl FromStr for Measured {
    type Err = String;

    fn from_str(line: &str) -> Result<Self, String> {
        let wrong = || format!("`{line}` is no figure");
        let fields: Vec<&str> = line.split('\t').collect();
        let [row, size, nanos, before, peak, planes, written, remark] = fields[..] else {
            return Err(wrong());
        };
        let number = |text: &str| text.parse::<u64>().map_err(|_| wrong());
        let or_none = |text: &str| match text {
            "-" => Ok(None),
            _ => number(text).map(Some),
        };
        Ok(Self {
            row: row.to_owned(),
            size: size.parse().map_err(|_| wrong())?,
            time: Duration::from_nanos(number(nanos)?),
            before_kib: or_none(before)?,
            peak_kib: or_none(peak)?,
            planes: number(planes)?,
            written: or_none(written)?,
            remark: remark.to_owned(),
        })
    }
}

/// The whole of a bench. The gate asks for one row at one size in a process; a bench that is run by hand asks itself for all of
/// them, and with `--test` for the smallest size.
pub(crate) fn bench(rows: &[&str], sizes: &[usize], measure: fn(&str, usize, &Path) -> Measured) {
    let asked = (std::env::var(ROW), std::env::var(SIZE));
    if let (Ok(row), Ok(size)) = asked {
        let folder = PathBuf::from(std::env::var_os(FOLDER).unwrap_or_default());
        let Ok(size) = size.parse() else {
            panic!("`{size}` is no size");
        };
        println!("{}", measure(&row, size, &folder));
        return;
    }
    let is_test = std::env::args().any(|argument| argument == "--test");
    let sizes = if is_test { &sizes[..1] } else { sizes };
    let folder = std::env::temp_dir().join(format!("floater-measure-{}", std::process::id()));
    if let Err(error) = std::fs::create_dir_all(&folder) {
        panic!("{}: {error}", folder.display());
    }
    let _gone = Gone(&folder);
    for row in rows {
        for &size in sizes {
            match itself(row, size, &folder) {
                Ok(one) => println!(
                    "{row:<44} {size:>6} {:>12.3?} {:>8} KiB at most, {} KiB before; {}",
                    one.time,
                    one.peak_kib.unwrap_or(0),
                    one.before_kib.unwrap_or(0),
                    one.remark
                ),
                Err(why) => panic!("{row} at {size}: {why}"),
            }
        }
    }
}

fn itself(row: &str, size: usize, folder: &Path) -> Result<Measured, String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    of_program(&program, row, size, folder)
}

/// Runs a bench's program for one row at one size.
pub(crate) fn of_program(
    program: &Path,
    row: &str,
    size: usize,
    folder: &Path,
) -> Result<Measured, String> {
    let output = command(program, row, size, folder)
        .output()
        .map_err(|error| error.to_string())?;
    of_output(&output.stdout, output.status.success()).map_err(|why| {
        let said = String::from_utf8_lossy(&output.stderr);
        let last = said.lines().last().unwrap_or_default();
        format!("{why} ({}): {last}", output.status)
    })
}

/// The command of [`of_program`].
pub(crate) fn command(program: &Path, row: &str, size: usize, folder: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .arg("--bench")
        .env(ROW, row)
        .env(SIZE, size.to_string())
        .env(FOLDER, folder);
    command
}

/// The figure that a bench's process printed.
pub(crate) fn of_output(stdout: &[u8], success: bool) -> Result<Measured, String> {
    if !success {
        return Err("it failed".to_owned());
    }
    let text = String::from_utf8_lossy(stdout);
    text.lines().last().unwrap_or_default().parse()
}

/// The report that one bench leaves for others.
pub(crate) fn report_in(folder: &Path, size: usize) -> PathBuf {
    folder.join(format!("report-{size}.json"))
}

struct Gone<'a>(&'a Path);

impl Drop for Gone<'_> {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(self.0);
    }
}
