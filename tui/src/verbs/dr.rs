//! `dr`, which is also `check`, and `analyse`.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use datapath::state::Family;
use floater::wire::{Layer, Protocol};
use orchestrator::glob::Pattern;
use orchestrator::inventory::InventoryOptions;
use orchestrator::matrix::verdict_word;
use orchestrator::probe_plan;
use orchestrator::report::{self, Observation, Report, layer_word};
use orchestrator::run::record::Recorder;
use orchestrator::run::{self, RunOptions};
use simulator::control;

use crate::cli::diagnosis::{
    How, Inventory, IpFamily, Judge, LayerChoice, Probes, ProtocolChoice, What,
};
use crate::cli::{Analyse, Dr, SchemaVersion};
use crate::exit::{Failure, OK, Outcome};
use crate::output::{Format, Output};
use crate::progress::{self, Progress};
use crate::signals::Interrupt;
use crate::{output, render};

/// `dr --schema`: needs no cluster.
pub(super) fn schema(version: SchemaVersion) -> Outcome {
    let schema = match version {
        SchemaVersion::V1 => report::schema(),
        SchemaVersion::V2 => report::schema_packed(),
    };
    output::print(&format!("{schema:#}\n"))?;
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
        probes,
        how,
        judge,
        ..
    } = arguments;
    output::check(&judge.output)?;
    let records = Records {
        record: arguments.record.as_deref(),
        replay: arguments.replay.as_deref(),
        resume: arguments.resume.as_deref(),
    };
    if let Some(record) = records.replay {
        return replayed(record, judge, color, progress, interrupt).await;
    }
    let mut options = options(of(inventory)?, what, probes, how, judge, progress);
    options.control_plane.clone_from(&inventory.control_plane);
    if arguments.dry_run {
        return planned(options, interrupt).await;
    }
    if arguments.sweep {
        return swept(options, arguments.force, interrupt).await;
    }
    let recorder = records.apply(&mut options, judge)?;
    let printed = printed(options, what, judge, color, progress, interrupt).await;
    kept(recorder, &records, printed)
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
        record,
        replay,
        resume,
        dry_run,
    } = arguments;
    output::check(&judge.output)?;
    let records = Records {
        record: record.as_deref(),
        replay: replay.as_deref(),
        resume: resume.as_deref(),
    };
    if let Some(record) = records.replay {
        return replayed(record, judge, color, progress, interrupt).await;
    }
    let none = Probes::default();
    let mut options = options(of(inventory)?, what, &none, how, judge, progress);
    options.control_plane.clone_from(&inventory.control_plane);
    options.probe = false;
    if *dry_run {
        return planned(options, interrupt).await;
    }
    let recorder = records.apply(&mut options, judge)?;
    let printed = printed(options, what, judge, color, progress, interrupt).await;
    kept(recorder, &records, printed)
}

/// The files of runs that a command names.
struct Records<'a> {
    record: Option<&'a Path>,
    replay: Option<&'a Path>,
    resume: Option<&'a Path>,
}

impl Records<'_> {
    /// Puts them into a run's options; the record, which is there from now on.
    fn apply(
        &self,
        options: &mut RunOptions,
        judge: &Judge,
    ) -> Result<Option<Arc<Recorder>>, Failure> {
        options.resume = self.resume.map(Path::to_owned);
        let Some(file) = self.record else {
            return Ok(None);
        };
        let is_same = |other: &Path| other == file;
        let outputs = judge
            .output
            .iter()
            .filter_map(|output| output.file.as_deref());
        if self.resume.is_some_and(is_same) || outputs.into_iter().any(is_same) {
            return Err(Failure::Usage(
                "--record names a file that --resume or -o names, too".to_owned(),
            ));
        }
        let recorder = Recorder::create(file).map_err(|error| unwritten(file, &error))?;
        let recorder = Arc::new(recorder);
        options.record = Some(Arc::clone(&recorder));
        Ok(Some(recorder))
    }
}

fn unwritten(file: &Path, error: &std::io::Error) -> Failure {
    Failure::output(
        file.display().to_string(),
        datapath::printable::io_reason(error),
    )
}

/// Ends the record of a run; that it could not be written is told once everything else is.
fn kept(recorder: Option<Arc<Recorder>>, records: &Records<'_>, outcome: Outcome) -> Outcome {
    let (Some(recorder), Some(file)) = (recorder, records.record) else {
        return outcome;
    };
    match (recorder.finish(), outcome) {
        (Err(error), Ok(_)) => Err(unwritten(file, &error)),
        (_, outcome) => outcome,
    }
}

/// A recorded run, judged again.
async fn replayed(
    record: &Path,
    judge: &Judge,
    color: bool,
    progress: Progress,
    interrupt: &Interrupt,
) -> Outcome {
    let phases = Phases::default();
    let options = run::ReplayOptions {
        record: record.to_owned(),
        node_rows: render::wants_node_rows(judge),
        progress: Arc::new(move |event| phases.say(progress, event)),
    };
    let replay = tokio::task::spawn_blocking(move || run::replay(&options));
    let replayed = tokio::select! {
        biased;
        () = interrupt.clone().come() => return Err(Failure::Interrupted { left: Vec::new() }),
        replayed = replay => replayed.map_err(|error| Failure::Failed(error.to_string()))??,
    };
    let run::Replayed {
        report,
        names_nodes,
    } = replayed;
    render::write(&report, judge, names_nodes, color, progress)?;
    Ok(render::exit_code(
        &report,
        judge.fail_on.unwrap_or_default(),
    ))
}

async fn swept(options: RunOptions, force: bool, interrupt: &Interrupt) -> Outcome {
    let swept = run::sweep(options, force, interrupt.clone().come()).await?;
    let mut text = String::new();
    for sentence in &swept.removed {
        text += &format!("removed {sentence}\n");
    }
    for sentence in &swept.staying {
        text += &format!("{sentence}\n");
    }
    text += &match (swept.removed.len(), swept.staying.len()) {
        (0, 0) => "Nothing to remove: no run has left anything.\n".to_owned(),
        (0, staying) => format!(
            "Nothing to remove yet: {} (--force removes what a run has made now)\n",
            output::counted(staying, "object"),
        ),
        _ => String::new(),
    };
    output::print(&text)?;
    Ok(OK)
}

/// The manifests of what a run would make, as one stream of YAML documents for `kubectl apply -f -`.
async fn planned(options: RunOptions, interrupt: &Interrupt) -> Outcome {
    let planned = run::dry_run(options, interrupt.clone().come()).await?;
    let text = output::manifests(&planned)?;
    output::write(&Output::stdout(Format::Table), &text)?;
    Ok(OK)
}

async fn printed(
    options: RunOptions,
    what: &What,
    judge: &Judge,
    color: bool,
    progress: Progress,
    interrupt: &Interrupt,
) -> Outcome {
    let (keep, namespace) = (options.keep, options.namespace.clone());
    let report = diagnose(options, interrupt).await?;
    render::write(&report, judge, !what.nodes.is_empty(), color, progress)?;
    if interrupt.has_come() {
        return Err(Failure::Interrupted { left: Vec::new() });
    }
    if keep {
        progress::tell(format_args!(
            "kept: the floaters in namespace {namespace} of {}, until a day after {}; `dr --sweep` says what stays, \
             `dr --sweep --force` removes it now",
            output::counted(report.clusters.len(), "cluster"),
            report.run.started
        ));
    }
    Ok(render::exit_code(
        &report,
        judge.fail_on.unwrap_or_default(),
    ))
}

/// A run; everything that it has made is gone when this returns.
pub(super) async fn diagnose(
    options: RunOptions,
    interrupt: &Interrupt,
) -> Result<Report, Failure> {
    noted(options, interrupt, async |options, interrupt| {
        run::run(options, interrupt.come()).await
    })
    .await
}

/// Work that deploys floaters: whoever interrupts it twice is told where it did.
pub(super) async fn noted<T>(
    mut options: RunOptions,
    interrupt: &Interrupt,
    work: impl AsyncFnOnce(RunOptions, Interrupt) -> Result<T, orchestrator::Error>,
) -> Result<T, Failure> {
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
    let ended = work(options, interrupt.clone()).await;
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
        options.contexts = patterns(&inventory.contexts);
        return Ok(options);
    }
    Ok(InventoryOptions {
        src_kubeconfig: inventory.src_kubeconfig.clone(),
        src_context: inventory.src_context.clone(),
        dst_kubeconfig: inventory.dst_kubeconfig.clone(),
        dst_context: inventory.dst_context.clone(),
        kubeconfigs: inventory.kubeconfig.clone(),
        contexts: patterns(&inventory.contexts),
        kubeconfig_dir: inventory.kubeconfig_dir.clone(),
        fleet: inventory.fleet.clone(),
        all_contexts: inventory.all_contexts,
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
    probes: &Probes,
    how: &How,
    judge: &Judge,
    progress: Progress,
) -> RunOptions {
    let standard = RunOptions::default();
    let phases = Phases::default();
    RunOptions {
        inventory,
        what: probe_plan::What {
            layers: layers(what),
            families: what
                .families
                .iter()
                .map(|family| family_of(*family))
                .collect(),
            protocols: probes
                .protocols
                .iter()
                .map(|protocol| protocol_of(*protocol))
                .collect(),
            nodes: patterns(&what.nodes),
            sources: patterns(&what.sources),
            destinations: patterns(&what.destinations),
            full: probes.full,
            tables_only: false,
            node_rows: render::wants_node_rows(judge) || !what.nodes.is_empty(),
            seed: probes.seed.unwrap_or(standard.what.seed),
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
        budget_pps: probes.budget.unwrap_or(standard.budget_pps),
        rounds: probes.rounds.unwrap_or(standard.rounds),
        timeout: how.timeout.or(standard.timeout),
        cluster_timeout: how.cluster_timeout.or(standard.cluster_timeout),
        image_pull_secrets: how.image_pull_secret.clone(),
        service_account: how.service_account.clone(),
        keep: how.keep,
        progress: Arc::new(move |event| phases.say(progress, event)),
        ..standard
    }
}

fn patterns(texts: &[String]) -> Vec<Pattern> {
    texts.iter().map(|text| Pattern::from(&**text)).collect()
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

/// What a run does, in the few words that a person reads: its phases, how far they are and what they wait for. Thousands of clusters
/// and cells are details.
#[derive(Debug, Default)]
struct Phases {
    clusters: AtomicUsize,
    deploying: AtomicBool,
    /// Clusters that could not be asked and findings that were told.
    noted: AtomicUsize,
    /// Clusters that were asked and have not answered, the one that was asked first first.
    waiting: Mutex<Vec<String>>,
}

/// So many clusters that are waited for are named.
const SLOWEST: usize = 3;
/// So many clusters that could not be asked and findings are told while the run goes on; the report has them all.
const NOTED: usize = 20;

impl Phases {
    fn say(&self, progress: Progress, event: run::Progress) {
        use run::Progress as Event;
        match &event {
            Event::Warning(text) => return progress::warn(text),
            Event::Started { clusters, .. } => {
                return progress.phase(sentence(&event), Some(*clusters));
            }
            Event::Looking { name } => return self.wait(progress, Some(name), None),
            // More than a few that do not pass are in the report.
            Event::Cell { .. } => {
                progress.step();
                return progress.detail(sentence(&event));
            }
            Event::Cluster { name, state, .. } => {
                self.clusters.fetch_add(1, Ordering::Relaxed);
                progress.step();
                self.wait(progress, None, Some(name));
                let is_whole = *state == Observation::Observed;
                if is_whole || self.noted.fetch_add(1, Ordering::Relaxed) >= NOTED {
                    return progress.detail(sentence(&event));
                }
                return progress.note(sentence(&event));
            }
            Event::Deploying { .. } => {
                progress.detail(sentence(&event));
                if !self.deploying.swap(true, Ordering::Relaxed) {
                    progress.note("deploying floaters");
                }
                return;
            }
            Event::Probing { cells, .. } => {
                let clusters = self.clusters.load(Ordering::Relaxed);
                let clusters = output::counted(clusters, "cluster");
                let what = format!("{clusters} looked at; {}", sentence(&event));
                return progress.phase(what, Some(*cells));
            }
            Event::Finding(_) => {
                if self.noted.fetch_add(1, Ordering::Relaxed) >= NOTED {
                    return progress.detail(sentence(&event));
                }
                return progress.note(sentence(&event));
            }
            Event::Diagnosing | Event::Removing | Event::Swept { .. } => {}
        }
        progress.say(sentence(&event));
    }

    fn wait(&self, progress: Progress, asked: Option<&String>, answered: Option<&String>) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.extend(asked.cloned());
        if let Some(answered) = answered {
            waiting.retain(|name| name != answered);
        }
        let slowest: Vec<&str> = waiting.iter().take(SLOWEST).map(String::as_str).collect();
        match waiting.len() {
            0 => progress.waits(""),
            count if count <= SLOWEST => {
                progress.waits(format_args!("waiting for {}", slowest.join(", ")));
            }
            count => progress.waits(format_args!(
                "waiting for {} and {} more",
                slowest.join(", "),
                count - SLOWEST
            )),
        }
    }
}

/// An event in words.
pub(super) fn sentence(event: &run::Progress) -> String {
    use run::Progress as Event;
    match event {
        Event::Cell {
            src,
            dst,
            layer,
            family,
            sent,
            received,
            verdict,
        } => format!(
            "{src} -> {dst} {} {family}: {}, {received} of {sent} answered",
            layer_word(*layer),
            verdict_word(*verdict)
        ),
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
        Event::Looking { name } => format!("{name}: looking"),
        Event::Probing {
            floaters, probes, ..
        } => {
            format!("{floaters} floaters send {probes} probes")
        }
        Event::Removing => "removing what the run has made".to_owned(),
        Event::Started { run, clusters } => {
            format!("run {run} over {}", output::counted(*clusters, "cluster"))
        }
        Event::Swept { cluster, object } => {
            format!("{cluster}: removed {object} of an expired run")
        }
        Event::Warning(text) => text.clone(),
    }
}
