//! `demo`: simulate, link, break if asked to, diagnose, print, remove.

use orchestrator::report::Report;
use simulator::control;

use super::dr;
use crate::cli::Demo;
use crate::cli::diagnosis::{How, What};
use crate::exit::{Failure, Outcome};
use crate::lab::{self, OwnLab};
use crate::progress::{self, Progress};
use crate::signals::Interrupt;
use crate::{output, render};

/// How many clusters without `--clusters`.
const CLUSTERS: u32 = 3;

pub(super) async fn run(arguments: &Demo, color: bool, progress: Progress) -> Outcome {
    let interrupt = Interrupt::catch()?;
    output::check(&arguments.judge.output)?;
    if let Some(code) = &arguments.fault {
        super::sim::known(code)?;
    }
    let mut topology = lab::generated(&arguments.shape, CLUSTERS)?;
    // The run deploys its own floaters, through every cluster's API.
    topology.floater = false;
    let names: Vec<String> = topology
        .clusters
        .iter()
        .map(|cluster| cluster.name.clone())
        .collect();
    if let Some(code) = arguments.fault.as_deref()
        && concerns_a_peer(code)
        && names.len() < 2
    {
        return Err(Failure::Usage(format!(
            "--fault {code} is about another cluster, so it needs --clusters 2 at least"
        )));
    }
    let mut lab = OwnLab::up("demo", topology, &interrupt, progress).await?;
    let judged = diagnose(arguments, &lab, &names, &interrupt, progress).await;
    progress.say("removing everything");
    let removed = lab.down().await;
    if let (Err(_), Err(failure)) = (&judged, &removed) {
        // Of two failures the first is the exit code, but this one has to be known.
        progress::warn(failure);
    }
    let report = judged?;
    render::write(&report, &arguments.judge, color)?;
    removed?;
    if interrupt.has_come() {
        return Err(Failure::Interrupted { left: Vec::new() });
    }
    Ok(render::exit_code(
        &report,
        arguments.judge.fail_on.unwrap_or_default(),
    ))
}

async fn diagnose(
    arguments: &Demo,
    lab: &OwnLab,
    clusters: &[String],
    interrupt: &Interrupt,
    progress: Progress,
) -> Result<Report, Failure> {
    if let Some(code) = arguments.fault.clone() {
        let at = place(&code, clusters);
        progress.say(format_args!("breaking {code} at {at}"));
        lab.with(move |name| {
            control::freeze(Some(name), None)?;
            control::fault_inject(Some(name), &code, &at)
        })
        .await?;
    }
    let inventory = dr::of_kubeconfig(&lab.kubeconfig());
    let options = dr::options(
        inventory,
        &What::default(),
        &How::default(),
        &arguments.judge,
        progress,
    );
    dr::diagnose(options, interrupt).await
}

/// The gateway node of the first cluster, and what it cannot reach any more where the code concerns a peer: the second
/// cluster.
fn place(code: &str, clusters: &[String]) -> String {
    match clusters {
        [first, second, ..] if concerns_a_peer(code) => format!("{first}/n1,{second}"),
        [first, ..] => format!("{first}/n1"),
        [] => String::new(),
    }
}

fn concerns_a_peer(code: &str) -> bool {
    ["FDB-", "NEIGH-", "ROUTE-"]
        .iter()
        .any(|begin| code.starts_with(begin))
}

#[cfg(test)]
mod tests {
    use super::place;

    #[test]
    fn faults_are_put_where_they_hurt() {
        let clusters = ["c1", "c2", "c3"].map(str::to_owned);
        assert_eq!(place("FDB-MISSING", &clusters), "c1/n1,c2");
        assert_eq!(place("GATEWAY-DOWN", &clusters), "c1/n1");
        assert_eq!(place("FDB-MISSING", &clusters[..1]), "c1/n1");
    }
}
