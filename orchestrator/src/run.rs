//! One run from the inventory to the report, and the promise that nothing of it stays behind.
//!
//! ```text
//! inventory ─► look ─► reuse or deploy ─► tables ─► plan ─► probe ─► diagnose ─► report
//!                └────────────── whatever ends it: removal ──────────────┘
//! ```
//! Everything that a cluster, node or floater refuses is evidence with a reason. Only four things end a run without a
//! report: bad files, contradicting options, no cluster at all, an interruption.

use std::collections::VecDeque;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use datapath::digest::Key;
use datapath::state::Family;
use floater::wire::{Layer, hex};
use futures::FutureExt as _;
use jiff::Timestamp;
use ring::rand::{SecureRandom as _, SystemRandom};
use tokio::time::Instant;

use crate::Error;
use crate::descriptors::{self, Descriptors};
use crate::diagnose::Judged;
use crate::diagnose::path::{self, Place, Traced};
use crate::engine::messages::Input;
use crate::engine::{Engine, Purpose, Settings};
use crate::evidence::Gathered;
use crate::fleet::agents::Turns;
use crate::fleet::remove::Ledger;
use crate::inventory::{self, Target};
use crate::probe_plan::What;
use crate::report::{CellVerdict, Finding, Observation, Report, Run, RunVerdict, Severity};

mod kube;
mod options;
pub mod record;
mod replay;
mod resume;

use kube::Kube;
pub use options::RunOptions;
use record::{Header, Recorder};
pub use replay::{ReplayOptions, Replayed, replay};
use resume::Memory;

/// Something that happened in a run.
#[derive(Debug, Clone)]
pub enum Progress {
    /// All probes of a cell are judged; its verdict may still be refined by the diagnosis.
    Cell {
        /// The source cluster.
        src: String,
        /// The destination cluster.
        dst: String,
        /// The layer.
        layer: Layer,
        /// The family.
        family: Family,
        /// Packets and connections tried.
        sent: u64,
        /// Those that were answered by the right one.
        received: u64,
        /// What the packets alone say.
        verdict: CellVerdict,
    },
    /// A cluster's floaters are ready and its tables are read, as far as that will go.
    Cluster {
        /// Its name.
        name: String,
        /// The number of its nodes.
        nodes: usize,
        /// How much of it can be asked.
        state: Observation,
        /// Why not all, where not.
        reason: Option<String>,
    },
    /// Floaters are being deployed in a cluster.
    Deploying {
        /// Its name.
        name: String,
    },
    /// The diagnosis has begun.
    Diagnosing,
    /// A cause was found.
    Finding(Box<Finding>),
    /// A cluster is being asked for the first time.
    Looking {
        /// Its name.
        name: String,
    },
    /// Probes are being sent.
    Probing {
        /// How many cells they tell of.
        cells: usize,
        /// How many floaters send.
        floaters: usize,
        /// How many probes they send in each round.
        probes: usize,
    },
    /// What the run has made is being removed.
    Removing,
    /// The run has begun.
    Started {
        /// Its id.
        run: String,
        /// The number of clusters in the inventory.
        clusters: usize,
    },
    /// Something that expired runs had left was removed.
    Swept {
        /// The cluster's name.
        cluster: String,
        /// The object.
        object: String,
    },
    /// Something that somebody should know and that changes no verdict.
    Warning(String),
}

/// What a run is made of besides its options.
#[derive(Clone)]
struct Context {
    options: Arc<RunOptions>,
    run: String,
    started: Timestamp,
    began: Instant,
    deadline: Instant,
    ledger: Arc<Ledger>,
    /// What dead runs left is removed beside everything else.
    sweeps: Arc<kube::Sweeps>,
    /// The process's limit of file descriptors.
    limit: u64,
    /// Bounds the floaters that are asked at a time.
    turns: Turns,
    /// What rows are hashed with.
    key: Key,
    /// What an earlier run was told.
    memory: Arc<Mutex<Option<Memory>>>,
}

impl Context {
    /// How long the run may still take.
    fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    fn tell(&self, progress: Progress) {
        (self.options.progress)(progress);
    }

    fn warn(&self, text: impl Into<String>) {
        self.tell(Progress::Warning(text.into()));
    }

    /// The layers that need floaters.
    fn layers(&self) -> Vec<Layer> {
        self.settings(Purpose::Diagnose).layers()
    }

    /// What the run's machine has to know.
    fn settings(&self, purpose: Purpose) -> Settings {
        let options = &self.options;
        let inventory = &options.inventory;
        let shared = Descriptors::shared(self.limit);
        Settings {
            run: self.run.clone(),
            what: options.what.clone(),
            purpose,
            rounds: options.rounds,
            budget_pps: options.budget_pps,
            port: options.port,
            deadline: self.deadline.saturating_duration_since(self.began),
            cluster_timeout: options.cluster_timeout,
            control_plane: options.control_plane.clone(),
            chosen: options.targets.is_empty()
                && inventory.kubeconfigs.is_empty()
                && inventory.kubeconfig_dir.is_none()
                && inventory.fleet.is_none()
                && !inventory.all_contexts
                || !inventory.contexts.is_empty(),
            clusters_at_once: shared.clusters,
            floaters_at_once: shared.floaters,
            key: self.key,
        }
    }
}

/// Does a run. Whatever ends it - success, an error, a panic, `interrupt` becoming ready - everything that it has made in
/// any cluster is removed before this returns; only [`RunOptions::keep`] leaves the floaters of a run that succeeded.
///
/// Needs a tokio runtime with time and IO. Dropping the future removes as well, as long as the runtime lives.
///
/// # Errors
/// [`Error::Input`] and [`Error::Usage`] before any cluster is asked, [`Error::Missing`] where none answers,
/// [`Error::Interrupted`] after an interruption.
pub async fn run(
    options: RunOptions,
    interrupt: impl Future<Output = ()>,
) -> Result<Report, Error> {
    finished(options, interrupt, drive).await
}

/// As [`run`], to follow one packet and its answer through what was gathered.
///
/// # Errors
/// As [`run`]; [`Error::Input`] where one of the ends is no place of the inventory.
pub async fn trace(
    options: RunOptions,
    (from, to): (Place, Place),
    interrupt: impl Future<Output = ()>,
) -> Result<Traced, Error> {
    let work = async |context: Context| {
        let mut kube = Kube::new(context.clone(), Purpose::Diagnose, false);
        let gathered = gather(&context, &mut kube, Purpose::Diagnose).await?;
        let options = Arc::clone(&context.options);
        let traced = move || path::trace(&gathered, &options.what, (&from, &to));
        blocking(move || traced().map_err(|rule| Error::input("SRC, DST", None, rule))).await
    };
    finished(options, interrupt, work).await
}

/// Does a run's work, and removes what it made on every way out.
async fn finished<T>(
    options: RunOptions,
    interrupt: impl Future<Output = ()>,
    work: impl AsyncFnOnce(Context) -> Result<T, Error>,
) -> Result<T, Error> {
    let keep = options.keep;
    let context = begin(options).await?;
    let ledger = Arc::clone(&context.ledger);
    let work = AssertUnwindSafe(work(context.clone())).catch_unwind();
    let result = tokio::select! {
        // An interruption that came with the result still is one: it was asked for.
        biased;
        () = interrupt => None,
        result = work => Some(result),
    };
    let succeeded = matches!(result, Some(Ok(Ok(_))));
    let left = if keep && succeeded {
        for staying in ledger.keep() {
            context.warn(staying);
        }
        Vec::new()
    } else {
        if !ledger.is_empty() {
            context.tell(Progress::Removing);
        }
        ledger.remove().await
    };
    context.sweeps.end().await;
    match result {
        None => Err(Error::Interrupted { left }),
        Some(finished) => {
            for why in left {
                context.warn(why);
            }
            match finished {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
    }
}

/// What a sweep did, one sentence per object.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Swept {
    /// What was removed.
    pub removed: Vec<String>,
    /// What runs have made and stays, and until when.
    pub staying: Vec<String>,
}

/// Removes what expired runs have left in the clusters of the inventory, and says what stays; with `force`, removes also what
/// has not expired yet.
///
/// # Errors
/// As [`run`].
pub async fn sweep(
    options: RunOptions,
    force: bool,
    interrupt: impl Future<Output = ()>,
) -> Result<Swept, Error> {
    let context = begin(options).await?;
    let mut kube = Kube::new(context.clone(), Purpose::Sweep, force);
    tokio::select! {
        biased;
        () = interrupt => return Err(Error::Interrupted { left: Vec::new() }),
        done = gather(&context, &mut kube, Purpose::Sweep) => drop(done?),
    }
    Ok(kube.swept())
}

/// The objects that [`run`] would make in each cluster, by the cluster's name, as manifests in the order of creation. Reads
/// from the clusters and makes nothing; empty for a cluster whose floaters stand ready or that takes no part.
///
/// # Errors
/// As [`run`].
pub async fn dry_run(
    options: RunOptions,
    interrupt: impl Future<Output = ()>,
) -> Result<Vec<(String, Vec<serde_json::Value>)>, Error> {
    let context = begin(options).await?;
    let mut kube = Kube::new(context.clone(), Purpose::Plan, false);
    tokio::select! {
        biased;
        () = interrupt => return Err(Error::Interrupted { left: Vec::new() }),
        done = gather(&context, &mut kube, Purpose::Plan) => drop(done?),
    }
    Ok(kube.planned())
}

/// The exit code of a report, where findings of `fail_on` or worse fail the run.
#[must_use]
pub fn exit_code(report: &Report, fail_on: Severity) -> u8 {
    let found = report
        .findings
        .iter()
        .any(|finding| finding.severity <= fail_on);
    if found {
        1
    } else if report.verdict == RunVerdict::Unknown
        || !report.unjudged.is_empty()
        || report.coverage.unobserved > 0
    {
        2
    } else {
        0
    }
}

async fn begin(mut options: RunOptions) -> Result<Context, Error> {
    options.what.tables_only = !options.probe;
    let mut key = Key([0; 16]);
    random(&mut key.0)?;
    let mut memory = None;
    if let Some(path) = options.resume.clone() {
        let (known, then) = blocking(move || Memory::read(&path)).await?;
        options.inventory = then.inventory;
        options.what = then.settings.what;
        options.rounds = then.settings.rounds;
        options.control_plane = then.settings.control_plane;
        // The answers that are known were given to digests under this key.
        key = then.settings.key;
        memory = Some(known);
    }
    options.check()?;
    let time = options
        .timeout
        // Far enough to be never, near enough for every clock.
        .unwrap_or(Duration::from_secs(30 * 24 * 3600));
    let mut id = [0; 4];
    random(&mut id)?;
    let limit = descriptors::raise();
    if limit < descriptors::LEAST {
        return Err(Error::Missing {
            what: "file descriptors".to_owned(),
            why: format!(
                "a process may have {limit} here (ulimit -Hn), and {} are the least",
                descriptors::LEAST
            ),
        });
    }
    let began = Instant::now();
    Ok(Context {
        options: Arc::new(options),
        run: hex(&id),
        started: Timestamp::now(),
        began,
        deadline: began + time,
        key,
        memory: Arc::new(Mutex::new(memory)),
        ledger: Arc::new(Ledger::default()),
        sweeps: Arc::default(),
        limit,
        turns: Turns::new(Descriptors::shared(limit).floaters),
    })
}

pub(crate) fn random(bytes: &mut [u8]) -> Result<(), Error> {
    SystemRandom::new().fill(bytes).map_err(|_| Error::Missing {
        what: "random numbers".to_owned(),
        why: "the system gives none".to_owned(),
    })
}

async fn drive(context: Context) -> Result<Report, Error> {
    let mut kube = Kube::new(context.clone(), Purpose::Diagnose, false);
    let gathered = gather(&context, &mut kube, Purpose::Diagnose).await;
    // The diagnosis takes long; what has come until here is kept whatever becomes of it.
    if let Some(record) = &context.options.record {
        record.flush();
    }
    let gathered = gathered?;
    let options = Arc::clone(&context.options);
    // It computes for as long as a fleet is large, on threads of its own.
    let judged = blocking(move || Ok(judged(&gathered, &options.what, &*options.progress))).await?;
    let seconds = (context.began.elapsed().as_secs_f64() * 1000.0).round() / 1000.0;
    if let Some(record) = &context.options.record {
        record.end(seconds);
    }
    Ok(judged.into_report(Run {
        id: context.run.clone(),
        started: whole_seconds(context.started),
        seconds,
        seed: context.options.what.seed,
        tool: env!("CARGO_PKG_VERSION").to_owned(),
    }))
}

/// Drives a run's machine until it ends.
async fn gather(context: &Context, kube: &mut Kube, purpose: Purpose) -> Result<Gathered, Error> {
    let settings = context.settings(purpose);
    let record = context.options.record.as_deref();
    if let Some(record) = record {
        let inventory = context.options.inventory.absolute();
        let started = whole_seconds(context.started);
        record.header(&Header::new(started, settings.clone(), inventory));
    }
    let mut engine = Engine::new(settings);
    let mut memory = context
        .memory
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .take();
    let (targets, warnings) = targets(context).await?;
    let count = targets.len();
    let first = kube.targets(targets, warnings);
    if let (Some(memory), Input::Targets { targets, .. }) = (&mut memory, &first) {
        memory.targets(targets);
    }
    let mut known = VecDeque::from([first]);
    let mut is_begun = false;
    loop {
        let input = match known.pop_front() {
            Some(input) => input,
            None => {
                let input = next(context, &engine, kube, record).await;
                match &mut memory {
                    Some(memory) => memory.joined(input),
                    None => input,
                }
            }
        };
        let now = context.began.elapsed();
        if let Some(record) = record {
            record.input(now, &input);
        }
        engine.put(now, input);
        while let Some(command) = engine.command() {
            let Some(memory) = &mut memory else {
                kube.execute(command);
                continue;
            };
            let recalled = memory.recall(command);
            known.extend(recalled.inputs);
            if let Some(command) = recalled.left {
                kube.execute(command);
            }
        }
        if !std::mem::replace(&mut is_begun, true) && purpose == Purpose::Diagnose {
            let descriptors = Descriptors::warning(context.limit, count);
            let warnings = descriptors.into_iter().chain(crate::memory::warning(count));
            warnings.for_each(|warning| context.warn(warning));
        }
        if let Some(end) = engine.end() {
            return end;
        }
    }
}

/// What comes next, if only time.
async fn next(
    context: &Context,
    engine: &Engine,
    kube: &mut Kube,
    record: Option<&Recorder>,
) -> Input {
    let wakes_at = engine.wakes_at().map(|at| context.began + at);
    let time = async {
        match wakes_at {
            Some(at) => tokio::time::sleep_until(at).await,
            None => std::future::pending().await,
        }
    };
    let quiet = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        if let Some(record) = record {
            // Whoever kills a run that waits finds on record all that had come.
            record.flush();
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        biased;
        input = kube.next() => input,
        () = time => Input::Tick,
        () = quiet => Input::Tick,
    }
}

/// The diagnosis of what was gathered, told as it goes.
fn judged(gathered: &Gathered, what: &What, progress: &(dyn Fn(Progress) + Send + Sync)) -> Judged {
    progress(Progress::Diagnosing);
    let judged = crate::diagnose::diagnose(gathered, what);
    for finding in &judged.findings {
        progress(Progress::Finding(Box::new(finding.clone())));
    }
    judged
}

async fn targets(context: &Context) -> Result<(Vec<Target>, Vec<String>), Error> {
    if !context.options.targets.is_empty() {
        return Ok((context.options.targets.clone(), Vec::new()));
    }
    let options = Arc::clone(&context.options);
    // Thousands of files are a second of reading and checking.
    let inventory = blocking(move || inventory::load(&options.inventory)).await?;
    Ok((inventory.targets, inventory.warnings))
}

/// Work that computes or reads for long, on a thread of its own.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // A blocking task is cancelled only by a runtime that is being shut down, which drops this future, too.
            Err(_) => std::future::pending().await,
        },
    }
}

fn whole_seconds(time: Timestamp) -> String {
    Timestamp::from_second(time.as_second())
        .unwrap_or(time)
        .to_string()
}

#[cfg(test)]
mod tests;
