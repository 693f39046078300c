//! The terminal's life: taken over, drawn into, given back on every path, panics included.

use std::io::{self, IsTerminal as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::{Duration, Instant};

use orchestrator::report::Report;
use orchestrator::report::table::COLUMNS;
use ratatui::crossterm::event::{self, Event};
use tokio::sync::mpsc::UnboundedSender;

use crate::app::{self, Live, Model};
use crate::view;

/// How long a key is waited for before news are looked at.
const TICK: Duration = Duration::from_millis(100);

/// Whether a person can see and steer a view: stdin and stdout are a terminal that can place its cursor.
#[must_use]
pub fn is_interactive() -> bool {
    io::stdin().is_terminal() && io::stdout().is_terminal() && !is_dumb()
}

/// Whether the terminal only writes one line after the other (`TERM=dumb`, or nobody says what it is).
#[must_use]
pub fn is_dumb() -> bool {
    std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb")
}

/// The columns of the terminal that stdout is; those of any where it is none.
#[must_use]
pub fn columns() -> usize {
    let size = if io::stdout().is_terminal() {
        ratatui::crossterm::terminal::size().ok()
    } else {
        None
    };
    size.map(|(columns, _)| usize::from(columns))
        .filter(|&columns| columns > 0)
        .unwrap_or(COLUMNS)
}

/// What a live view is told by its runs.
#[derive(Debug)]
pub enum News {
    /// What the run does now.
    Doing(String),
    /// The run has ended without a report; why.
    Failed(String),
    /// The run has ended.
    Report(Box<Report>),
    /// A run has begun.
    Started,
    /// Something that somebody should know and that ends nothing.
    Warning(String),
}

/// How a live view and its runs talk.
#[derive(Debug)]
pub struct Feed {
    /// From the runs.
    pub news: Receiver<News>,
    /// To the runs: somebody wants one now.
    pub again: UnboundedSender<()>,
    /// How long after a run the next one begins.
    pub every: Duration,
}

/// Why a view has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// By a key that means a signal.
    Interrupted,
    /// As somebody wished.
    Quit,
}

/// Shows a model until it is done or somebody says `stop`. The terminal is as before afterwards, whatever happens.
///
/// # Errors
/// The terminal's.
pub fn show(mut model: Model, feed: Option<&Feed>, stop: &AtomicBool) -> io::Result<End> {
    // Installs a panic hook that gives the terminal back before the message is printed.
    let mut terminal = ratatui::try_init()?;
    let _guard = Guard;
    let mut clock = Clock::default();
    let mut changed = true;
    while !model.done && !stop.load(Ordering::Relaxed) {
        if let Some(feed) = feed {
            changed |= heard(&mut model, &mut clock, feed);
        }
        if std::mem::take(&mut changed) {
            terminal.draw(|frame| view::render(frame, &model))?;
        }
        if !event::poll(TICK)? {
            continue;
        }
        match event::read()? {
            Event::Key(key) => {
                if let Some(message) = app::message(key) {
                    model.update(message);
                    changed = true;
                }
            }
            Event::Resize(..) => changed = true,
            _ => {}
        }
        if std::mem::take(&mut model.run_now)
            && let Some(feed) = feed
        {
            // Where the runs have ended the view is about to.
            let _ = feed.again.send(());
        }
    }
    let interrupted = model.interrupted;
    Ok(if interrupted {
        End::Interrupted
    } else {
        End::Quit
    })
}

/// When what happened.
#[derive(Debug, Default)]
struct Clock {
    /// The last report.
    report: Option<Instant>,
    /// The end of the last run; none while one goes on.
    ended: Option<Instant>,
}

/// Takes in what the runs have said by now; whether anything that is drawn has changed.
fn heard(model: &mut Model, clock: &mut Clock, feed: &Feed) -> bool {
    let mut live = model.live.clone().unwrap_or_default();
    let mut replaced = false;
    loop {
        match feed.news.try_recv() {
            Ok(News::Doing(what)) => live.doing = what,
            Ok(News::Failed(why)) => {
                live.trouble = Some(why);
                clock.ended = Some(Instant::now());
            }
            Ok(News::Report(report)) => {
                model.replace(*report);
                replaced = true;
                clock.report = Some(Instant::now());
                clock.ended = clock.report;
            }
            Ok(News::Started) => {
                clock.ended = None;
                live = Live {
                    doing: "starting".to_owned(),
                    ..Live::default()
                };
            }
            Ok(News::Warning(text)) => live.trouble = Some(text),
            Err(TryRecvError::Empty | TryRecvError::Disconnected) => break,
        }
    }
    // Whole seconds, so that nothing is drawn more often than it changes.
    let whole = |time: Duration| Duration::from_secs(time.as_secs());
    live.age = clock.report.map(|at| whole(at.elapsed()));
    live.next = clock
        .ended
        .map(|at| whole(feed.every.saturating_sub(at.elapsed())));
    let changed = replaced || model.live.as_ref() != Some(&live);
    model.live = Some(live);
    changed
}

struct Guard;

impl Drop for Guard {
    fn drop(&mut self) {
        ratatui::restore();
    }
}
