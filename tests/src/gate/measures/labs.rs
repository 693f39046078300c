//! Rows that are measured over a lab of virtual clusters by the program itself: `sim up`, `dr`, `sim down`.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use super::measured::Measured;
use super::table::Outcome;
use super::workshop::{Once, Workshop, last_line};

/// Building the lab; the memory is that of the lab's process.
pub(crate) const UP: &str = "virtual lab: up";
/// The first diagnosis of it; the memory is that of the process that diagnoses.
pub(crate) const DR: &str = "dr over it, cold";
/// Its end.
pub(crate) const DOWN: &str = "virtual lab: down";

/// Layers and families of the lab: hosts and pods, IPv4.
const PLANES: usize = 2;
/// The longest that a lab may take to come up or to go.
const LAB_LIMIT: Duration = Duration::from_secs(600);
/// The longest that a diagnosis may take.
const DR_LIMIT: Duration = Duration::from_secs(900);
/// The lab's name.
const NAME: &str = "virtual";

/// The outcomes of one size.
pub(crate) struct Outcomes {
    size: usize,
    up: Outcome,
    dr: Outcome,
    down: Outcome,
}

impl Outcomes {
    /// None of them, for one reason.
    pub(crate) fn not_run(why: &str) -> Self {
        let not_run = || Outcome::NotRun(why.to_owned());
        Self {
            size: 0,
            up: not_run(),
            dr: not_run(),
            down: not_run(),
        }
    }

    /// That of a row.
    pub(crate) fn of(&self, row: &str) -> Outcome {
        match row {
            UP => self.up.clone(),
            DR => self.dr.clone(),
            _ => self.down.clone(),
        }
    }

    /// What lab and diagnosis took together, for each cluster, KiB; none where they did not run.
    pub(crate) fn lab_kib_per_cluster(&self) -> Option<u64> {
        let peak = |outcome: &Outcome| match outcome {
            Outcome::Measured(measured) => measured.peak_kib.unwrap_or(0),
            Outcome::NotRun(_) => 0,
        };
        let both = peak(&self.up) + peak(&self.dr);
        (both > 0).then(|| both / (self.size as u64).max(1))
    }
}

/// What a lab and its diagnosis need at a size, KiB, by what each cluster took before; only to decide whether they are tried.
pub(crate) fn needed_kib(each_kib: u64, size: usize) -> u64 {
    let planes = if each_kib == 0 {
        0
    } else {
        planes(size) / 1024
    };
    each_kib * size as u64 + planes
}

fn planes(size: usize) -> u64 {
    (PLANES * size * size) as u64
}

/// Builds a lab, diagnoses it once and takes it down. The lab is gone afterwards, whatever happened.
pub(crate) fn measure(workshop: &Workshop, size: usize) -> Outcomes {
    let clusters = size.to_string();
    let up = workshop.succeed(
        &[
            "sim",
            "up",
            "--virtual",
            "--clusters",
            &clusters,
            "--nodes",
            "2",
            "--mode",
            "gateway",
            "--name",
            NAME,
        ],
        LAB_LIMIT,
    );
    let up = match up {
        Ok(up) => up,
        Err(why) => {
            // A start that was ended in the middle leaves something to take down.
            let down = workshop.run(&["sim", "down", "--all"], LAB_LIMIT);
            let cleared = match down {
                Ok(Once { code: Some(0), .. }) => "",
                _ => "; and what it left could not be taken down",
            };
            return Outcomes::not_run(&format!("{why}{cleared}"));
        }
    };
    let figure = |row: &str, once: &Once, peak_kib, remark| {
        Outcome::Measured(Measured {
            row: row.to_owned(),
            size,
            time: once.took,
            before_kib: None,
            peak_kib,
            planes: 0,
            written: None,
            remark,
        })
    };
    let up = figure(UP, &up, workshop.lab_peak_kib(NAME), String::new());
    let dr = diagnosed(workshop, size);
    let down = match workshop.succeed(&["sim", "down", "--name", NAME], LAB_LIMIT) {
        Ok(once) => figure(DOWN, &once, None, String::new()),
        Err(why) => Outcome::NotRun(why),
    };
    Outcomes { size, up, dr, down }
}

fn diagnosed(workshop: &Workshop, size: usize) -> Outcome {
    let file = workshop.folder().join("dr.json");
    let output = format!("json={}", file.display());
    let once = match workshop.run(&["dr", "--sim", NAME, "-o", &output], DR_LIMIT) {
        Ok(once) => once,
        Err(why) => return Outcome::NotRun(why),
    };
    let written = std::fs::metadata(&file).ok().map(|found| found.len());
    // What a run could not judge or found is an answer, and said; without a report it has failed.
    let said = last_line(&once.stderr).trim();
    let ended = match once.code {
        Some(code) => format!("exit {code}"),
        None => "ended by a signal".to_owned(),
    };
    if written.is_none() || !matches!(once.code, Some(0..=2)) {
        return Outcome::NotRun(format!("{ended}: {said}"));
    }
    let unjudged = match once.code {
        Some(2) => unjudged(&file).unwrap_or_default(),
        _ => String::new(),
    };
    let _ = std::fs::remove_file(&file);
    let lab = workshop.lab_peak_kib(NAME);
    let lab = lab.map_or(String::new(), |kib| {
        format!("; the lab then {} MiB", kib / 1024)
    });
    let verdict = said.split_once("Verdict: ").map_or(said, |(_, rest)| rest);
    Outcome::Measured(Measured {
        row: DR.to_owned(),
        size,
        time: once.took,
        before_kib: None,
        peak_kib: once.peak_kib,
        planes: planes(size),
        written,
        remark: format!("{ended}, {verdict}{unjudged}{lab}"),
    })
}

/// How much of a report's fleet could not be judged, and the first reason.
fn unjudged(file: &Path) -> Option<String> {
    let report: Value = serde_json::from_slice(&std::fs::read(file).ok()?).ok()?;
    let reasons = report["unjudged"].as_array()?;
    let first: String = reasons.first()?.as_str()?.chars().take(200).collect();
    Some(format!(
        " ({} of {} cells; {} reasons, the first: {first})",
        report["coverage"]["unobserved"],
        report["coverage"]["cells"],
        reasons.len()
    ))
}
