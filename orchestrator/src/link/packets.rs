//! Whether packets pass between clusters that are linked: a diagnosis of these alone.

use std::sync::Arc;
use std::time::Duration;

use floater::wire::Layer;

use super::cluster::Cluster;
use super::{Context, Settings, Told};
use crate::Error;
use crate::inventory::{Role, Target};
use crate::probe_plan::What;
use crate::report::{Cell, CellVerdict, Report};
use crate::run::{self, RunOptions};

/// Between two diagnoses: a change that has just been made takes its time.
const PAUSE: Duration = Duration::from_secs(2);

/// Diagnoses until every cell between the clusters passes, or the time is over; the last report. `layers` are those that have to pass.
pub(super) async fn pass(
    settings: &Settings,
    clusters: &[&Cluster],
    layers: &[Layer],
    time: Duration,
    context: &Context,
) -> Result<Report, Error> {
    let names: Vec<&str> = clusters
        .iter()
        .map(|cluster| cluster.name.as_str())
        .collect();
    let deadline = tokio::time::Instant::now() + time;
    loop {
        let report = diagnosed(settings, clusters, layers, context).await?;
        let left = deadline.saturating_duration_since(tokio::time::Instant::now());
        if do_pass(&report, &names) || left.is_zero() {
            return Ok(report);
        }
        context.say(Told::Waiting(format!(
            "packets: {}",
            failing(&report, &names)
        )));
        context.pause(PAUSE.min(left)).await?;
    }
}

async fn diagnosed(
    settings: &Settings,
    clusters: &[&Cluster],
    layers: &[Layer],
    context: &Context,
) -> Result<Report, Error> {
    let targets = clusters.iter().map(|cluster| {
        Target::with_context(cluster.name.clone(), Role::Member, cluster.selected.clone())
    });
    let options = RunOptions {
        targets: targets.collect(),
        what: What {
            layers: layers.to_vec(),
            ..What::default()
        },
        namespace: settings.namespace.clone(),
        image_repository: settings.image_repository.clone(),
        version: settings.version.clone(),
        image_pull_secrets: settings.pull_secrets.clone(),
        pod_wait: settings.wait,
        progress: Arc::new(|_| {}),
        ..RunOptions::default()
    };
    run::run(options, context.stopped()).await
}

/// The cells between two of these clusters. The control plane names others, too, which nobody can ask here.
pub(super) fn between<'r>(report: &'r Report, names: &'r [&str]) -> impl Iterator<Item = Cell<'r>> {
    let is_named = |name: &str| names.contains(&name);
    let cells = report.cells();
    cells.filter(move |cell| cell.src != cell.dst && is_named(cell.src) && is_named(cell.dst))
}

/// Whether every cell between these clusters passes, and there is one.
pub(super) fn do_pass(report: &Report, names: &[&str]) -> bool {
    let mut between = between(report, names).peekable();
    between.peek().is_some() && between.all(|cell| cell.verdict == CellVerdict::Pass)
}

/// What does not pass, for people.
pub(super) fn failing(report: &Report, names: &[&str]) -> String {
    let failing = between(report, names).filter(|cell| cell.verdict != CellVerdict::Pass);
    let words: Vec<String> = failing
        .map(|cell| {
            let layer = crate::report::layer_word(cell.layer);
            format!("{} → {} ({layer} {})", cell.src, cell.dst, cell.family)
        })
        .collect();
    match words.len() {
        0 => "nothing was probed between clusters".to_owned(),
        1..=4 => words.join(", "),
        more => format!("{} and {} more", words[..3].join(", "), more - 3),
    }
}
