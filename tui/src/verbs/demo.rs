//! `demo`: simulate, link, break if asked to, diagnose, print, remove.

use datapath::code::Code;
use orchestrator::report::Report;
use simulator::codes::is_about_a_peer;
use simulator::control;

use super::dr;
use crate::cli::Demo;
use crate::cli::diagnosis::{How, Probes, What};
use crate::exit::{Failure, Outcome};
use crate::lab::{self, OwnLab};
use crate::progress::{self, Progress};
use crate::signals::Interrupt;
use crate::{output, render};

/// How many clusters without `--clusters`.
const CLUSTERS: u32 = 3;

pub(super) async fn run(
    arguments: &Demo,
    color: bool,
    progress: Progress,
    interrupt: &Interrupt,
) -> Outcome {
    output::check(&arguments.judge.output)?;
    let fault = arguments.fault.as_deref();
    let fault = fault.map(super::sim::injectable).transpose()?;
    let mut topology = lab::generated(&arguments.shape, CLUSTERS)?;
    // The run deploys its own floaters, through every cluster's API.
    topology.floater = false;
    let names: Vec<String> = topology
        .clusters
        .iter()
        .map(|cluster| cluster.name.clone())
        .collect();
    if let Some(code) = fault {
        let each = topology
            .clusters
            .first()
            .map_or(0, |cluster| cluster.nodes.len());
        fits(code, names.len(), each)?;
    }
    let mut lab = OwnLab::up("demo", topology, interrupt, progress).await?;
    let judged = diagnose(arguments, fault, &lab, &names, interrupt, progress).await;
    lab.tell_removal(interrupt, progress);
    let removed = lab.down().await;
    if let (Err(_), Err(failure)) = (&judged, &removed) {
        // Of two failures the first is the exit code, but this one has to be known.
        progress::warn(failure);
    }
    let report = judged?;
    render::write(&report, &arguments.judge, false, color, progress)?;
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
    fault: Option<Code>,
    lab: &OwnLab,
    clusters: &[String],
    interrupt: &Interrupt,
    progress: Progress,
) -> Result<Report, Failure> {
    if let Some(code) = fault {
        let at = place(code, clusters);
        progress.say(format_args!("breaking {code} at {at}"));
        let injected = lab.with(move |name| {
            control::freeze(Some(name), None)?;
            control::fault_inject(Some(name), code, &at)
        });
        injected.await.map_err(|failure| match failure {
            // The place was chosen here, so it is the fault that does not fit.
            Failure::Input { rule, .. } => Failure::Usage(format!("--fault {code}: {rule}")),
            other => other,
        })?;
    }
    let inventory = dr::of_kubeconfig(&lab.kubeconfig());
    let options = dr::options(
        inventory,
        &What::default(),
        &Probes::default(),
        &How::default(),
        &arguments.judge,
        progress,
    );
    dr::diagnose_own(options, interrupt).await
}

/// The gateway node of the first cluster, or another node where the code is not about gateways; and what it cannot reach any more where the
/// code concerns a peer: the second cluster.
fn place(code: Code, clusters: &[String]) -> String {
    match clusters {
        [first, second, ..] if is_about_a_peer(code) => format!("{first}/n1,{second}"),
        [first, ..] if code == Code::NodeDown => format!("{first}/n2"),
        [first, ..] => format!("{first}/n1"),
        [] => String::new(),
    }
}

/// Whether a fault would break anything in such a fleet, of clusters with `each` nodes.
fn fits(code: Code, clusters: usize, each: usize) -> Result<(), Failure> {
    let is_of_a_node = matches!(code, Code::ForwardOff | Code::GatewayDown | Code::NodeDown);
    // Without another cluster there is no tunnel, and nothing that leads to one.
    if clusters < 2 && !is_of_a_node {
        return Err(Failure::Usage(format!(
            "--fault {code} is about another cluster, so it needs --clusters 2 at least"
        )));
    }
    if each < 2 && code == Code::NodeDown {
        return Err(Failure::Usage(format!(
            "--fault {code} is about a node that is no gateway, so it needs --nodes 2 at least"
        )));
    }
    if clusters * each < 2 {
        return Err(Failure::Usage(format!(
            "--fault {code} is about another node, so it needs --nodes 2 or --clusters 2 at least"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{Code, fits, place};

    #[test]
    fn faults_are_put_where_they_hurt() {
        let clusters = ["c1", "c2", "c3"].map(str::to_owned);
        assert_eq!(place(Code::FdbMissing, &clusters), "c1/n1,c2");
        assert_eq!(place(Code::GatewayDown, &clusters), "c1/n1");
        assert_eq!(place(Code::NodeDown, &clusters), "c1/n2");
        assert_eq!(place(Code::FdbMissing, &clusters[..1]), "c1/n1");
    }

    #[test]
    fn faults_that_would_break_nothing_are_refused() {
        for (code, clusters, nodes, good) in [
            (Code::FdbMissing, 2, 2, true),
            (Code::FdbMissing, 1, 2, false),
            (Code::TunnelDevDown, 1, 2, false),
            (Code::ForwardOff, 1, 2, true),
            (Code::GatewayDown, 1, 1, false),
            (Code::GatewayDown, 2, 1, true),
            (Code::NodeDown, 1, 2, true),
            (Code::NodeDown, 2, 1, false),
            (Code::VniMismatch, 1, 2, false),
        ] {
            let refused = fits(code, clusters, nodes);
            assert_eq!(refused.is_ok(), good, "{code} {clusters} {nodes}");
        }
    }
}
