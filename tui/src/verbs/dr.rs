//! `dr`, alias `check`, and `analyse`.

use std::path::Path;
use std::sync::Arc;

use datapath::state::Family;
use floater::wire::{Layer, Protocol};
use orchestrator::inventory::InventoryOptions;
use orchestrator::matrix::badness;
use orchestrator::probe_plan;
use orchestrator::report::{self, Report, layer_word};
use orchestrator::run::{self, RunOptions};
use simulator::control;

use crate::cli::diagnosis::{How, Inventory, IpFamily, Judge, LayerChoice, ProtocolChoice, What};
use crate::cli::{Analyse, Dr};
use crate::exit::{Failure, OK, Outcome};
use crate::progress::{self, Progress};
use crate::signals::Interrupt;
use crate::{output, render};

/// `dr --schema`: needs no cluster.
pub(super) fn schema() -> Outcome {
    output::print(&format!("{:#}\n", report::schema()))?;
    Ok(OK)
}

pub(super) async fn run(
    arguments: &Dr,
    color: bool,
    progress: Progress,
    interrupt: &Interrupt,
) -> Outcome {
    let Dr {
        inventory,
        what,
        how,
        judge,
        ..
    } = arguments;
    output::check(&judge.output)?;
    let options = options(of(inventory)?, what, how, judge, progress);
    if arguments.sweep {
        let swept = run::sweep(options, false, interrupt.clone().come()).await?;
        for sentence in &swept.removed {
            output::print(&format!("removed {sentence}\n"))?;
        }
        if swept.removed.is_empty() {
            output::print("nothing that runs left has expired\n")?;
        }
        for sentence in &swept.staying {
            output::print(&format!("{sentence}\n"))?;
        }
        return Ok(OK);
    }
    printed(options, what, judge, color, interrupt).await
}

pub(super) async fn analyse(
    arguments: &Analyse,
    color: bool,
    progress: Progress,
    interrupt: &Interrupt,
) -> Outcome {
    let Analyse {
        inventory,
        what,
        how,
        judge,
    } = arguments;
    output::check(&judge.output)?;
    let mut options = options(of(inventory)?, what, how, judge, progress);
    options.probe = false;
    printed(options, what, judge, color, interrupt).await
}

async fn printed(
    options: RunOptions,
    what: &What,
    judge: &Judge,
    color: bool,
    interrupt: &Interrupt,
) -> Outcome {
    let report = diagnose(options, interrupt).await?;
    render::write(&report, judge, !what.nodes.is_empty(), color)?;
    if interrupt.has_come() {
        return Err(Failure::Interrupted { left: Vec::new() });
    }
    Ok(render::exit_code(
        &report,
        judge.fail_on.unwrap_or_default(),
    ))
}

/// A run; everything that it has made is gone when this returns.
pub(super) async fn diagnose(
    mut options: RunOptions,
    interrupt: &Interrupt,
) -> Result<Report, Failure> {
    let (tell, noted) = (options.progress, interrupt.clone());
    options.progress = Arc::new(move |event| {
        if let run::Progress::Deploying { name } = &event {
            noted.made(
                format!("what was deployed in {name}"),
                "`floaterctl dr --sweep --force` with the same inventory removes it",
            );
        }
        tell(event);
    });
    let ended = run::run(options, interrupt.clone().come()).await;
    interrupt.removed_all();
    match ended {
        // An interruption that came while nothing could be done any more still is one.
        Err(error)
            if interrupt.has_come()
                && !matches!(error, orchestrator::Error::Interrupted { .. }) =>
        {
            Err(Failure::Interrupted { left: Vec::new() })
        }
        ended => Ok(ended?),
    }
}

/// A run over a fleet that is taken down next, whatever comes of it: an interruption waits for no removal through its API.
pub(super) async fn diagnose_own(
    options: RunOptions,
    interrupt: &Interrupt,
) -> Result<Report, Failure> {
    tokio::select! {
        biased;
        () = interrupt.clone().come() => Err(Failure::Interrupted { left: Vec::new() }),
        report = run::run(options, std::future::pending()) => Ok(report?),
    }
}

/// The inventory that the command line names.
pub(super) fn of(inventory: &Inventory) -> Result<InventoryOptions, Failure> {
    if let Some(name) = &inventory.sim {
        // A killed lab still has a kubeconfig, of servers that nobody serves any more; its status knows.
        let kubeconfig = control::kubeconfig(Some(name))
            .and_then(|kubeconfig| control::status(Some(name)).map(|_| kubeconfig))
            .map_err(|error| match error {
                // The simulator names its own option; here it is this one.
                simulator::Error::Input { rule, .. } => Failure::input("--sim", None, rule),
                other => other.into(),
            })?;
        let mut options = of_kubeconfig(&kubeconfig);
        options.contexts.clone_from(&inventory.contexts);
        return Ok(options);
    }
    Ok(InventoryOptions {
        src_kubeconfig: inventory.src_kubeconfig.clone(),
        src_context: inventory.src_context.clone(),
        dst_kubeconfig: inventory.dst_kubeconfig.clone(),
        dst_context: inventory.dst_context.clone(),
        kubeconfigs: inventory.kubeconfig.clone(),
        contexts: inventory.contexts.clone(),
        kubeconfig_dir: inventory.kubeconfig_dir.clone(),
        fleet: inventory.fleet.clone(),
        all_contexts: false,
    })
}

/// Every context of one file.
pub(super) fn of_kubeconfig(path: &Path) -> InventoryOptions {
    InventoryOptions {
        kubeconfigs: vec![path.to_owned()],
        ..InventoryOptions::default()
    }
}

/// A run as the command line describes it.
pub(super) fn options(
    inventory: InventoryOptions,
    what: &What,
    how: &How,
    judge: &Judge,
    progress: Progress,
) -> RunOptions {
    let standard = RunOptions::default();
    RunOptions {
        inventory,
        what: probe_plan::What {
            layers: layers(what),
            families: what
                .families
                .iter()
                .map(|family| family_of(*family))
                .collect(),
            protocols: what
                .protocols
                .iter()
                .map(|protocol| protocol_of(*protocol))
                .collect(),
            nodes: what.nodes.clone(),
            sources: what.sources.clone(),
            destinations: what.destinations.clone(),
            full: how.full,
            tables_only: false,
            node_rows: render::wants_node_rows(judge) || !what.nodes.is_empty(),
        },
        namespace: how.namespace.clone().unwrap_or(standard.namespace),
        image_repository: how
            .image_repository
            .clone()
            .unwrap_or(standard.image_repository),
        dst_image_repository: how.dst_image_repository.clone(),
        version: how.version.clone().unwrap_or(standard.version),
        port: how.port.unwrap_or(standard.port),
        pod_wait: how.pod_wait_time.unwrap_or(standard.pod_wait),
        budget_pps: how.budget.unwrap_or(standard.budget_pps),
        rounds: how.rounds.unwrap_or(standard.rounds),
        timeout: how.timeout.or(standard.timeout),
        keep: how.keep,
        seed: how.seed.unwrap_or(standard.seed),
        progress: Arc::new(move |event| told(progress, event)),
        ..standard
    }
}

fn layers(what: &What) -> Vec<Layer> {
    if what.host_network {
        return vec![Layer::Host];
    }
    let layer = |choice: &LayerChoice| match choice {
        LayerChoice::Host => Layer::Host,
        LayerChoice::Pod => Layer::Pod,
    };
    what.layers.iter().map(layer).collect()
}

fn family_of(family: IpFamily) -> Family {
    match family {
        IpFamily::Ipv4 => Family::Ipv4,
        IpFamily::Ipv6 => Family::Ipv6,
    }
}

fn protocol_of(protocol: ProtocolChoice) -> Protocol {
    match protocol {
        ProtocolChoice::Icmp => Protocol::Icmp,
        ProtocolChoice::Tcp => Protocol::Tcp,
    }
}

/// A row as it appears.
fn told(progress: Progress, event: run::Progress) {
    match event {
        run::Progress::Warning(text) => progress::warn(text),
        other => {
            if let Some(sentence) = sentence(&other) {
                progress.say(sentence);
            }
        }
    }
}

/// An event in words; none where it is no news.
pub(super) fn sentence(event: &run::Progress) -> Option<String> {
    use run::Progress as Event;
    Some(match event {
        Event::Cell {
            src,
            dst,
            layer,
            family,
            sent,
            received,
            verdict,
        } => {
            // Thousands of cells that pass are no news.
            if badness(*verdict) == 0 && *sent > 64 {
                return None;
            }
            format!(
                "{src} -> {dst} {} {family}: {}, {received} of {sent} answered",
                layer_word(*layer),
                verdict.word()
            )
        }
        Event::Cluster {
            name,
            nodes,
            state,
            reason,
        } => {
            let nodes = output::counted(*nodes, "node");
            let reason = reason.as_ref().map(|reason| format!(": {reason}"));
            let reason = reason.unwrap_or_default();
            format!("{name}: {nodes}, {}{reason}", state.word())
        }
        Event::Deploying { name } => format!("{name}: deploying floaters"),
        Event::Diagnosing => "diagnosing".to_owned(),
        Event::Finding(finding) => {
            format!("found {} at {}", finding.code, finding.element.place())
        }
        Event::Probing { floaters, probes } => {
            format!("{floaters} floaters send {probes} probes")
        }
        Event::Removing => "removing the floaters".to_owned(),
        Event::Started { run, clusters } => {
            format!("run {run} over {}", output::counted(*clusters, "cluster"))
        }
        Event::Swept { cluster, object } => {
            format!("{cluster}: removed {object} of an expired run")
        }
        Event::Warning(text) => text.clone(),
    })
}
