//! The rows of the budget table: what each measures, at which sizes, and what it may cost.

use std::path::Path;
use std::time::Duration;

use super::labs;
use super::measured::{self, SIZES};
use super::table::{Line, Outcome};
use super::workshop::{Workshop, last_line};
use crate::gate::cargo::{Built, Cargo};

/// What a row may cost at a size, as far as anybody has said.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Budget {
    /// The time.
    pub(crate) time: Option<Duration>,
    /// The peak of resident memory, MB.
    pub(crate) memory_mb: Option<u64>,
    /// What is written, MB.
    pub(crate) written_mb: Option<u64>,
}

/// Who measures a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum By {
    /// A bench: its package and its name.
    Bench(&'static str, &'static str),
    /// The program, over a lab of virtual clusters.
    Lab,
}

/// A row of the table.
#[derive(Debug)]
pub(crate) struct Row {
    /// Its name, by which the bench knows it too.
    pub(crate) name: &'static str,
    by: By,
    sizes: &'static [usize],
    /// By size.
    budgets: &'static [(usize, Budget)],
}

impl Row {
    /// What it may cost at a size.
    pub(crate) fn budget(&self, size: usize) -> Budget {
        let found = self.budgets.iter().find(|(of, _)| *of == size);
        found.map(|(_, budget)| *budget).unwrap_or_default()
    }
}

/// Milliseconds, megabytes resident, megabytes written; nought where nobody has said.
const fn most(time_ms: u64, memory_mb: u64, written_mb: u64) -> Budget {
    const fn said(number: u64) -> Option<u64> {
        if number == 0 { None } else { Some(number) }
    }
    Budget {
        time: match said(time_ms) {
            Some(ms) => Some(Duration::from_millis(ms)),
            None => None,
        },
        memory_mb: said(memory_mb),
        written_mb: said(written_mb),
    }
}

const PLANNER: By = By::Bench("datapath", "budget");
const DIAGNOSE: By = By::Bench("orchestrator", "diagnose");
const KUBECONFIG: By = By::Bench("orchestrator", "kubeconfig");
const MATRIX: By = By::Bench("tui", "matrix");
/// Contexts of a kubeconfig.
const CONTEXTS: &[usize] = &[100, 300, 1000, 5000, 10_000];

const fn row(name: &'static str, by: By, budgets: &'static [(usize, Budget)]) -> Row {
    Row {
        name,
        by,
        sizes: SIZES,
        budgets,
    }
}

const fn of_contexts(name: &'static str) -> Row {
    Row {
        name,
        by: KUBECONFIG,
        sizes: CONTEXTS,
        budgets: &[],
    }
}

/// All of them; a report has to be made before it is read.
const ROWS: &[Row] = &[
    row(
        "planner: build",
        PLANNER,
        &[(1000, most(20, 0, 0)), (5000, most(100, 60, 0))],
    ),
    row(
        "planner: one cluster changed",
        PLANNER,
        &[(1000, most(1, 0, 0)), (5000, most(1, 60, 0))],
    ),
    row(
        "planner: one node's rows",
        PLANNER,
        &[(1000, most(1, 0, 0)), (5000, most(5, 60, 0))],
    ),
    row("diagnose", DIAGNOSE, &[]),
    row(
        "report JSON: write",
        DIAGNOSE,
        &[(1000, most(0, 0, 3)), (5000, most(0, 0, 30))],
    ),
    row("report JSON: read", DIAGNOSE, &[]),
    row(
        "matrix: first frame",
        MATRIX,
        &[(1000, most(50, 0, 0)), (5000, most(200, 0, 0))],
    ),
    row(
        "matrix: a key",
        MATRIX,
        &[(1000, most(16, 0, 0)), (5000, most(16, 0, 0))],
    ),
    row(
        labs::UP,
        By::Lab,
        &[
            (300, most(1000, 0, 0)),
            (1000, most(4000, 400, 0)),
            (5000, most(20_000, 2000, 0)),
        ],
    ),
    row(
        labs::DR,
        By::Lab,
        &[
            (300, most(5000, 120, 0)),
            (1000, most(15_000, 300, 0)),
            (5000, most(45_000, 1000, 0)),
        ],
    ),
    row(labs::DOWN, By::Lab, &[]),
    of_contexts("kubeconfig: read, own servers"),
    of_contexts("kubeconfig: read, one proxy"),
    of_contexts("kubeconfig: every context selected, own servers"),
    of_contexts("kubeconfig: every context selected, one proxy"),
    of_contexts("kubeconfig: inventory, own servers"),
    of_contexts("kubeconfig: inventory, one proxy"),
    of_contexts("kubeconfig: clients, own servers"),
    of_contexts("kubeconfig: clients, one proxy"),
];

/// The longest that one bench may take.
const LIMIT: Duration = Duration::from_secs(600);

/// What is asked of the table.
pub(crate) struct Wanted<'a> {
    /// Rows whose name contains this.
    pub(crate) rows: Option<&'a str>,
    /// These sizes; all without.
    pub(crate) sizes: &'a [usize],
}

impl Wanted<'_> {
    fn has(&self, row: &Row) -> bool {
        self.rows.is_none_or(|part| row.name.contains(part))
    }

    fn sizes_of(&self, row: &Row) -> Vec<usize> {
        let all = row.sizes.iter().copied();
        all.filter(|size| self.sizes.is_empty() || self.sizes.contains(size))
            .collect()
    }
}

/// Measures every row that is wanted, one after the other.
///
/// # Errors
/// That a bench cannot be built. What cannot be measured is a line with its reason.
pub(crate) fn measure(
    cargo: &Cargo,
    workshop: &Workshop,
    wanted: &Wanted<'_>,
) -> Result<Vec<Line>, String> {
    let rows: Vec<&'static Row> = ROWS.iter().filter(|row| wanted.has(row)).collect();
    // All of them, whatever is wanted: with another choice of packages cargo builds their dependencies anew.
    let mut benches = Vec::new();
    for row in ROWS {
        if let By::Bench(package, name) = row.by
            && !benches.contains(&(package, name))
        {
            benches.push((package, name));
        }
    }
    let has_benches = rows.iter().any(|row| row.by != By::Lab);
    let built = match has_benches {
        true => cargo.build_benches(&benches)?,
        false => Vec::new(),
    };
    let mut lines: Vec<Line> = Vec::new();
    for row in &rows {
        let By::Bench(package, name) = row.by else {
            continue;
        };
        let found = built
            .iter()
            .find(|one| one.package == package && one.target == name);
        let Some(Built { executable, .. }) = found else {
            return Err(format!("the bench {name} of {package} is not built"));
        };
        for size in wanted.sizes_of(row) {
            eprintln!("gate: {} at {size}", row.name);
            let needed = needed_kib(&lines, row, size);
            let outcome = match too_little(needed) {
                Some(why) => Outcome::NotRun(why),
                None => of_bench(workshop, executable, row.name, size),
            };
            lines.push(Line { row, size, outcome });
        }
    }
    let labs: Vec<&'static Row> = rows
        .iter()
        .filter(|row| row.by == By::Lab)
        .copied()
        .collect();
    if let Some(first) = labs.first() {
        let mut largest = 0;
        for size in wanted.sizes_of(first) {
            eprintln!("gate: a lab of {size} virtual clusters");
            let outcomes = match too_little(labs::needed_kib(largest, size)) {
                Some(why) => labs::Outcomes::not_run(&why),
                None => labs::measure(workshop, size),
            };
            largest = outcomes.lab_kib_per_cluster().unwrap_or(largest);
            for row in &labs {
                let outcome = outcomes.of(row.name);
                lines.push(Line { row, size, outcome });
            }
        }
    }
    // By row as they stand in the table, then by size.
    lines.sort_by_key(|line| ROWS.iter().position(|row| row.name == line.row.name));
    Ok(lines)
}

fn of_bench(workshop: &Workshop, program: &Path, row: &str, size: usize) -> Outcome {
    let command = measured::command(program, row, size, workshop.folder());
    let once = match workshop.run_command(command, LIMIT) {
        Ok(once) => once,
        Err(why) => return Outcome::NotRun(why),
    };
    match measured::of_output(&once.stdout, once.code == Some(0)) {
        Ok(measured) => Outcome::Measured(measured),
        Err(why) => Outcome::NotRun(format!("{why}: {}", last_line(&once.stderr))),
    }
}

/// What a row needs at a size, KiB, by what it had at the last one; only to decide whether it is tried.
fn needed_kib(lines: &[Line], row: &Row, size: usize) -> u64 {
    let before = lines.iter().rfind(|line| line.row.name == row.name);
    let Some((of, Outcome::Measured(measured))) = before.map(|line| (line.size, &line.outcome))
    else {
        return 0;
    };
    let planes = |clusters: usize| match measured.planes {
        0 => 0,
        bytes => bytes / 1024 * (clusters * clusters) as u64 / (of * of).max(1) as u64,
    };
    let rest = measured.peak_kib.unwrap_or(0).saturating_sub(planes(of));
    rest * size as u64 / of.max(1) as u64 + 2 * planes(size)
}

/// Why something that needs so much memory is not tried; none where it is.
fn too_little(needed_kib: u64) -> Option<String> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let there: u64 = line.split_whitespace().next()?.parse().ok()?;
    (needed_kib > there / 10 * 9).then(|| {
        format!(
            "needs some {} MiB by what the last size took, and {} MiB are available",
            needed_kib / 1024,
            there / 1024
        )
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Some row.
    pub(crate) fn row() -> &'static Row {
        &ROWS[0]
    }

    #[test]
    fn rows_have_names_of_their_own_and_budgets_for_sizes_that_they_have() {
        for (at, row) in ROWS.iter().enumerate() {
            assert!(ROWS[..at].iter().all(|other| other.name != row.name));
            assert!(row.budgets.iter().all(|(size, _)| row.sizes.contains(size)));
        }
    }
}
