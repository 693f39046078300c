//! The process of a lab.
//!
//! ```text
//! order on stdin ─► own user namespace? ─► lock, record ─► network ─► APIs ─► kubelets, agents ─► ready on stdout
//!                                                                                                    │
//!        nothing left ◄─ links gone ◄─ namespaces released ◄─ tasks ended ◄─ children killed ◄─ asked to end
//! ```
//!
//! Whatever ends it (a signal, an error, a panic, the end of its caller while it is not ready or tied) takes the same path.

mod base;
mod breaking;
mod fleet;
mod neighbours;
mod requests;
mod requirements;
mod seeding;
mod steps;

use std::ffi::OsString;
use std::io::{BufRead as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use netns_harness::rcu::{self, Expedited};
use netns_harness::{rootless, wire};
use nix::sys::signal::{SigSet, Signal};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tracing::{error, info, warn};

use crate::protocol::{Order, ROOT, Ready};
use crate::state::{self, Folder, Lock, Record, Taken};
use crate::{Error, pki};
pub(crate) use fleet::Fleet;
pub(crate) use neighbours::restore as restore_neighbours;
pub(crate) use requirements::{has_programs, possible};
pub(crate) use steps::Counted;

/// How long the kernel may take to remove the fleet's links.
const REMOVAL: Duration = Duration::from_secs(30);

/// Why a lab ends.
#[derive(Debug)]
enum End {
    Caller,
    Signal,
    Task(&'static str),
}

/// Runs a lab; see [`crate::control::serve`].
pub(crate) fn serve(mut args: impl Iterator<Item = OsString>) -> ExitCode {
    // A lab must not die of the signals of its caller's terminal; it fails only where there is nothing to leave.
    let _ = nix::unistd::setsid();
    // From the first file that it makes a lab is to remove what it made: its end waits until there is somebody to report it to.
    let _ = ending_signals().thread_block();
    let name = args.next().and_then(|name| name.into_string().ok());
    let mut line = String::new();
    let read = std::io::stdin().lock().read_line(&mut line);
    if let Some(root) = std::env::var_os(ROOT) {
        state::keep_state_in(root.into());
    }
    let order: Option<Order> = read.ok().and_then(|_| serde_json::from_str(&line).ok());
    let (Some(name), Some(order)) = (name, order) else {
        eprintln!("this verb is for the program's own use");
        return ExitCode::from(64);
    };
    let ended = match std::panic::catch_unwind(AssertUnwindSafe(|| live(&name, order))) {
        Ok(ended) => ended,
        Err(panic) => Err(Error::Failed {
            doing: format!("run lab {name}"),
            why: words_of(panic.as_ref()),
        }),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let code = error.exit_code();
            say(&Ready::Failed(error));
            ExitCode::from(code)
        }
    }
}

fn words_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or(panic.downcast_ref::<&str>().copied());
    format!("panic: {}", text.unwrap_or("no message"))
}

/// Reports to the caller, who may be gone.
fn say(ready: &Ready) {
    if let Ok(mut line) = serde_json::to_vec(ready) {
        line.push(b'\n');
        let mut stdout = std::io::stdout().lock();
        let _ = stdout.write_all(&line).and_then(|()| stdout.flush());
    }
}

fn live(name: &str, order: Order) -> Result<(), Error> {
    if !order.topology.is_virtual() {
        rootless::enter().map_err(|error| requirements::no_user_namespace(&error))?;
        requirements::capable()?;
    }
    requirements::enough_descriptors(&order.topology)?;
    let folder = Folder::of(name);
    let lock = loop {
        match folder.take()? {
            Taken::Ours(lock) if folder.record().is_some() => {
                // Left by one that was killed; the lock goes with it.
                folder.clean(&lock)?;
            }
            Taken::Ours(lock) => break lock,
            Taken::Gone => {}
            Taken::Lab(_) => {
                return Err(Error::argument(
                    "--name",
                    format!("a simulated fleet named `{name}` is running already"),
                ));
            }
        }
    };
    let record = Record {
        id: pki::random_hex(16)?,
        pid: nix::unistd::getpid().as_raw(),
        started: jiff::Timestamp::now().to_string(),
        clusters: order.topology.clusters.len(),
        rcu_expedited: None,
        neighbours: None,
    };
    let written = folder.write_record(&record).and_then(|()| lock.settle());
    if let Err(error) = written {
        // A full disk, perhaps: nothing was made yet but the folder.
        folder.remove()?;
        return Err(error);
    }
    held(&folder, &lock, record, order)
}

/// Builds, runs and removes the lab while its name is ours.
fn held(folder: &Folder, lock: &Lock, mut record: Record, order: Order) -> Result<(), Error> {
    let prepared =
        open_log(folder).and_then(|()| neighbours::make_room(folder, &mut record, &order.topology));
    let record = &record;
    let built = prepared.and_then(|learns| {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            // They wait for the kernel, which does one thing at a time; each that there ever was keeps its memory.
            .max_blocking_threads(16)
            .enable_all()
            .build()
            .map_err(Error::failed("start a runtime"))?;
        // A panic must not keep the folder from being removed.
        std::panic::catch_unwind(AssertUnwindSafe(|| {
            run(folder, record, &order, learns, runtime)
        }))
        .map_err(|panic| Error::Failed {
            doing: format!("run lab {}", folder.name),
            why: words_of(panic.as_ref()),
        })
    });
    let (ended, fleet) = built.unwrap_or_else(|error| (Err(error), None));
    let removed = remove(folder, lock, record, fleet);
    ended.and(removed)
}

/// From here on whatever is printed goes to the lab's log.
fn open_log(folder: &Folder) -> Result<(), Error> {
    let path = folder.log();
    let doing = || format!("open {}", path.display());
    std::fs::DirBuilder::new()
        .mode(0o700)
        .create(folder.logs())
        .map_err(Error::failed(doing()))?;
    let log = std::fs::OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(&path)
        .map_err(Error::failed(doing()))?;
    nix::unistd::dup2_stderr(&log).map_err(Error::failed(doing()))?;
    logging::start();
    Ok(())
}

/// The lab's life on its runtime, which has ended when this returns; the fleet is what is left to remove.
fn run(
    folder: &Folder,
    record: &Record,
    order: &Order,
    learns: bool,
    runtime: Runtime,
) -> (Result<(), Error>, Option<Arc<Fleet>>) {
    let (ending, mut ends) = mpsc::unbounded_channel();
    watch_caller(order.tied, ending.clone());
    let mut fleet = None;
    let ended = runtime.block_on(async {
        let mut signalled = pin!(signals()?);
        let built = tokio::select! {
            built = Fleet::build(folder, record, order, learns, &mut fleet, ending.clone()) => built,
            () = &mut signalled => return Err(interrupted(&folder.name)),
            Some(end) = ends.recv() => {
                warn!(?end, "ended before it was ready");
                return Err(interrupted(&folder.name));
            }
        };
        built?;
        info!("ready");
        say(&Ready::Up);
        let end = loop {
            tokio::select! {
                () = &mut signalled => break End::Signal,
                Some(end) = ends.recv() => match end {
                    // An untied lab outlives its caller once it is ready.
                    End::Caller if !order.tied => {}
                    end => break end,
                },
            }
        };
        info!(?end, "going down");
        if let End::Task(name) = end {
            error!(name, "a part of the lab has ended");
        }
        Ok(())
    });
    // No new child can be started from here on.
    if let Some(fleet) = &fleet {
        fleet.stop();
    }
    let end_children = || {
        if let Err(error) = state::end_marked(&record.marker()) {
            warn!(%error, "a process is left");
        }
    };
    end_children();
    runtime.shutdown_timeout(Duration::from_secs(5));
    // A lab that was ended while it was being built may have started one until its last task was gone.
    end_children();
    (ended, fleet)
}

fn interrupted(name: &str) -> Error {
    Error::Failed {
        doing: format!("build lab {name}"),
        why: "it was interrupted".to_owned(),
    }
}

/// What ends a lab.
const ENDING: [Signal; 4] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGTERM,
];

fn ending_signals() -> SigSet {
    ENDING.into_iter().collect()
}

/// Catches what ends a lab from now on, also where it was inherited as ignored; those that came before count now. To be
/// called within a runtime.
fn signals() -> Result<impl Future<Output = ()>, Error> {
    use tokio::signal::unix::{SignalKind, signal};
    let doing = || "catch signals";
    let streams: Result<Vec<_>, _> = ENDING
        .into_iter()
        .map(|kind| signal(SignalKind::from_raw(kind as i32)))
        .collect();
    let mut streams = streams.map_err(Error::failed(doing()))?;
    ending_signals()
        .thread_unblock()
        .map_err(Error::failed(doing()))?;
    Ok(async move {
        let any = streams.iter_mut().map(|stream| Box::pin(stream.recv()));
        futures::future::select_all(any).await;
    })
}

/// Standard input ends with the caller.
fn watch_caller(tied: bool, ending: mpsc::UnboundedSender<End>) {
    std::thread::spawn(move || {
        let mut rest = Vec::new();
        let _ = std::io::Read::read_to_end(&mut std::io::stdin().lock(), &mut rest);
        if tied {
            info!("the caller is gone");
        }
        let _ = ending.send(End::Caller);
    });
}

/// Releases the namespaces, waits for the kernel where that is quick, and removes the folder last.
fn remove(
    folder: &Folder,
    _lock: &Lock,
    record: &Record,
    fleet: Option<Arc<Fleet>>,
) -> Result<(), Error> {
    if let Err(error) = neighbours::restore(folder, record.clone()) {
        warn!(%error, "the thresholds of neighbours stay as they are");
    }
    let Some(fleet) = fleet.filter(|fleet| fleet.has_kernels()) else {
        return folder.remove();
    };
    // Written down before it is changed, for whoever cleans up after a crash in between.
    let changed = Record {
        rcu_expedited: rcu::to_be_changed(),
        neighbours: None,
        ..record.clone()
    };
    let expedited = match folder.write_record(&changed) {
        Ok(()) => Expedited::begin(),
        Err(error) => {
            warn!(%error, "the kernel is not asked to hurry");
            None
        }
    };
    match Arc::try_unwrap(fleet).map(Fleet::into_underlay) {
        Ok(Some((underlay, links))) => {
            drop(links);
            // Unless it is expedited the kernel takes its time, and nothing of ours is left that could fail.
            // One bridge per cluster and the loopback go with the underlay itself.
            if expedited.is_some() {
                match wire::wait_for_links(&underlay, 1 + record.clusters, REMOVAL) {
                    Ok(true) => {}
                    Ok(false) => warn!("links are left in the underlay"),
                    Err(error) => warn!(%error, "cannot watch the links of the underlay"),
                }
            }
        }
        _ => warn!("the fleet is still in use; it goes with the process"),
    }
    drop(expedited);
    folder.remove()
}

mod logging {
    //! A log of plain lines on standard error, without a dependency of its own.

    use std::fmt::Write as _;
    use std::io::Write as _;

    use tracing::field::{Field, Visit};
    use tracing::span::{Attributes, Id, Record};
    use tracing::{Event, Level, Metadata, Subscriber};

    struct Lines;

    struct Words(String);

    impl Visit for Words {
        fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
            // Writing to a String cannot fail.
            let _ = match field.name() {
                "message" => write!(self.0, " {value:?}"),
                name => write!(self.0, " {name}={value:?}"),
            };
        }
    }

    impl Subscriber for Lines {
        fn enabled(&self, metadata: &Metadata<'_>) -> bool {
            *metadata.level() <= Level::INFO
        }

        fn new_span(&self, _: &Attributes<'_>) -> Id {
            Id::from_u64(1)
        }

        fn record(&self, _: &Id, _: &Record<'_>) {}

        fn record_follows_from(&self, _: &Id, _: &Id) {}

        fn event(&self, event: &Event<'_>) {
            let mut words = Words(String::new());
            event.record(&mut words);
            let line = format!(
                "{} {}{}\n",
                jiff::Timestamp::now(),
                event.metadata().level(),
                words.0
            );
            // A full disk must not end a lab.
            let _ = std::io::stderr().write_all(line.as_bytes());
        }

        fn enter(&self, _: &Id) {}

        fn exit(&self, _: &Id) {}
    }

    /// Takes effect once in a process.
    pub(super) fn start() {
        let _ = tracing::subscriber::set_global_default(Lines);
    }
}
