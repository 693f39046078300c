//! `matrix`: who reaches whom, from a report or from runs, one after the other while somebody looks.
//!
//! ```text
//!  terminal thread            runtime
//!  ┌──────────┐   news    ┌───────────────────────────┐
//!  │   view   │ ◄──────── │ run ─► wait ─► run ─► ... │
//!  └──────────┘ ────────► └───────────────────────────┘
//!        │        again        ▲
//!        └── q, ctrl-c: end ───┘ interrupts the run, which removes what it made
//! ```

use std::io::ErrorKind;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use orchestrator::report::table::{self, Look};
use orchestrator::report::{self, Report};
use orchestrator::run::{self, RunOptions};
use tokio::sync::mpsc::UnboundedReceiver;

use super::dr;
use crate::app::Model;
use crate::cli::Matrix;
use crate::cli::diagnosis::{FailOn, Judge};
use crate::exit::{Failure, OK, Outcome};
use crate::input::Source;
use crate::output::{Format, Output};
use crate::progress::{self, Progress};
use crate::signals::Interrupt;
use crate::terminal::{End, Feed, News};
use crate::{output, render, terminal};

/// How long after a run the next one begins, without `--every`.
const EVERY: Duration = Duration::from_secs(5);
/// How long a view may take to end; it looks every tenth of a second.
const PATIENCE: Duration = Duration::from_secs(1);

pub(super) async fn run(arguments: &Matrix, progress: Progress, interrupt: &Interrupt) -> Outcome {
    if let Some(file) = &arguments.replay {
        return replay(report(&Source::read(file)?)?, interrupt).await;
    }
    let options = options(arguments, progress)?;
    if terminal::is_interactive() {
        return live(options, arguments.every.unwrap_or(EVERY), interrupt).await;
    }
    // What a pipe gets is the result of a run, as of `dr`, and so is the exit code.
    let report = dr::diagnose(options, interrupt).await?;
    let stdout = Output::stdout(Format::Table);
    let text = table::matrix(&report, Look::default());
    output::write(&stdout, text.trim_start())?;
    Ok(render::exit_code(&report, FailOn::default()))
}

fn options(arguments: &Matrix, progress: Progress) -> Result<RunOptions, Failure> {
    let inventory = dr::of(&arguments.inventory)?;
    let judge = Judge::default();
    let mut options = dr::options(
        inventory,
        &arguments.what,
        &arguments.probes,
        &arguments.how,
        &judge,
        progress,
    );
    options
        .control_plane
        .clone_from(&arguments.inventory.control_plane);
    Ok(options)
}

/// A report from a file.
pub(super) fn report(source: &Source) -> Result<Report, Failure> {
    report::parse(&source.text, &source.name)
        .map_err(|error| Failure::input(error.file, error.line, error.rule))
}

/// A terminal gets the view, a pipe the text. Looking at a report judges nothing, so the exit code is 0.
async fn replay(report: Report, interrupt: &Interrupt) -> Outcome {
    if !terminal::is_interactive() {
        output::print(table::matrix(&report, Look::default()).trim_start())?;
        return Ok(OK);
    }
    let stop = Arc::new(AtomicBool::new(false));
    let view = {
        let stop = Arc::clone(&stop);
        tokio::task::spawn_blocking(move || terminal::show(Model::new(report), None, &stop))
    };
    let mut view = std::pin::pin!(view);
    let end = tokio::select! {
        shown = &mut view => shown,
        () = interrupt.clone().come() => stopped(&stop, view).await,
    };
    if ended(end)? == End::Interrupted || interrupt.has_come() {
        return Err(Failure::Interrupted { left: Vec::new() });
    }
    Ok(OK)
}

type Shown = Result<std::io::Result<End>, tokio::task::JoinError>;

/// Ends a view. One whose terminal is gone may never come back from reading it, and there is nothing to give back then.
async fn stopped(stop: &AtomicBool, view: impl Future<Output = Shown>) -> Shown {
    stop.store(true, Ordering::Relaxed);
    tokio::time::timeout(PATIENCE, view)
        .await
        .unwrap_or(Ok(Ok(End::Interrupted)))
}

fn ended(shown: Shown) -> Result<End, Failure> {
    match shown.map_err(|error| Failure::Failed(format!("the view: {error}")))? {
        // Closed, with or without a signal.
        Err(error) if error.kind() == ErrorKind::BrokenPipe || is_hung_up(&error) => {
            Ok(End::Interrupted)
        }
        other => {
            other.map_err(|error| Failure::Missing(format!("the terminal cannot be used: {error}")))
        }
    }
}

fn is_hung_up(error: &std::io::Error) -> bool {
    error.raw_os_error() == Some(nix::errno::Errno::EIO as i32)
}

/// Runs while somebody looks. Leaving interrupts the run that goes on; the terminal is given back before its removal.
async fn live(options: RunOptions, every: Duration, interrupt: &Interrupt) -> Outcome {
    let (news, heard) = mpsc::channel();
    let (again, wanted) = tokio::sync::mpsc::unbounded_channel();
    let (leave, left) = Interrupt::switch();
    let stop = Arc::new(AtomicBool::new(false));
    let view = {
        let stop = Arc::clone(&stop);
        let feed = Feed {
            news: heard,
            again,
            every,
        };
        tokio::task::spawn_blocking(move || terminal::show(Model::waiting(), Some(&feed), &stop))
    };
    let mut view = std::pin::pin!(view);
    let mut runs = std::pin::pin!(runs(options, every, news, wanted, left));
    let (shown, over) = tokio::select! {
        shown = &mut view => (shown, None),
        over = &mut runs => (stopped(&stop, view).await, Some(over)),
        () = interrupt.clone().come() => (stopped(&stop, view).await, None),
    };
    let remaining = match over {
        Some(over) => over?,
        None => {
            // Nobody listens only where the runs are over.
            let _ = leave.send(true);
            tokio::select! {
                over = &mut runs => over?,
                () = tokio::time::sleep(Duration::from_millis(300)) => {
                    progress::tell("removing what the run has made");
                    runs.await?
                }
            }
        }
    };
    if ended(shown)? == End::Interrupted || interrupt.has_come() {
        return Err(Failure::Interrupted { left: remaining });
    }
    for what in remaining {
        progress::warn(format_args!(
            "not removed: {what}; `dr --sweep` removes it once it has expired"
        ));
    }
    Ok(OK)
}

/// One run after the other until somebody leaves; what could not be removed then.
async fn runs(
    mut options: RunOptions,
    every: Duration,
    news: mpsc::Sender<News>,
    mut wanted: UnboundedReceiver<()>,
    leave: Interrupt,
) -> Result<Vec<String>, Failure> {
    // A view that has ended hears nothing any more, and need not.
    let tell = move |what: News| drop(news.send(what));
    options.progress = {
        let tell = tell.clone();
        Arc::new(move |event| match event {
            run::Progress::Warning(text) => tell(News::Warning(text)),
            other => tell(News::Doing(dr::sentence(&other))),
        })
    };
    let mut seen = false;
    loop {
        tell(News::Started);
        match run::run(options.clone(), leave.clone().come()).await {
            Ok(report) => {
                seen = true;
                tell(News::Report(Box::new(report)));
            }
            Err(orchestrator::Error::Interrupted { left }) => return Ok(left),
            // There never was anything to look at.
            Err(error) if !seen => return Err(error.into()),
            Err(error) => tell(News::Failed(error.to_string())),
        }
        // What was wanted while it went on it has done.
        while wanted.try_recv().is_ok() {}
        tokio::select! {
            () = leave.clone().come() => return Ok(Vec::new()),
            () = tokio::time::sleep(every) => {}
            Some(()) = wanted.recv() => {}
        }
    }
}
