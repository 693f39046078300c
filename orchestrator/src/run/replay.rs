//! A recorded run, judged again without any cluster: the same report.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::record::{Line, Reader};
use super::{Progress, judged};
use crate::Error;
use crate::engine::Engine;
use crate::engine::messages::{Command, Input};
use crate::report::{Report, Run};

/// Why something is unknown of which the record of a killed run says nothing.
const CUT_OFF: &str = "the record ends before it answered";

/// What to do with a record.
#[derive(Clone)]
pub struct ReplayOptions {
    /// The file.
    pub record: PathBuf,
    /// Report every pair of nodes that was probed, also where the run itself did not.
    pub node_rows: bool,
    /// Told what the run was told.
    pub progress: Arc<dyn Fn(Progress) + Send + Sync>,
}

/// A recorded run as it was judged again.
#[derive(Debug, Clone)]
pub struct Replayed {
    /// The report.
    pub report: Report,
    /// Whether the run was about some nodes, so that its data has the rows per pair of nodes.
    pub names_nodes: bool,
}

/// The report of a recorded run: its bytes are those of the run's own report as far as the program's version is the same. A run that was
/// killed is judged by what had come.
///
/// # Errors
/// [`Error::Input`] where the file is no record, and whatever ended the run itself without a report.
pub fn replay(options: &ReplayOptions) -> Result<Replayed, Error> {
    let mut reader = Reader::open(&options.record)?;
    let mut settings = reader.header.settings.clone();
    settings.what.node_rows |= options.node_rows;
    let what = settings.what.clone();
    let mut run = Run {
        id: settings.run.clone(),
        started: reader.header.started.clone(),
        seconds: 0.0,
        seed: what.seed,
        tool: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let mut engine = Engine::new(settings);
    let mut now = Duration::ZERO;
    let mut evidence = None;
    while let Some(line) = reader.next()? {
        match line {
            Line::End { seconds } => {
                run.seconds = seconds;
                break;
            }
            Line::Input { at, input } => {
                // Time never goes back, whatever a file says.
                now = now.max(at);
                engine.put(now, *input);
                tell(&mut engine, options);
                evidence = evidence.or_else(|| engine.end());
            }
        }
    }
    if reader.is_cut_off {
        run.seconds = now.as_secs_f64();
        let text = "the record ends before its run did: what had come is judged".to_owned();
        (options.progress)(Progress::Warning(text));
    }
    if evidence.is_none() {
        let why = CUT_OFF.to_owned();
        engine.put(now, Input::Stop { why });
        tell(&mut engine, options);
        evidence = engine.end();
    }
    let cut_off = || {
        let file = options.record.display().to_string();
        Err(Error::input(file, None, CUT_OFF))
    };
    let gathered = evidence.unwrap_or_else(cut_off)?;
    Ok(Replayed {
        report: judged(&gathered, &what, &*options.progress).into_report(run),
        names_nodes: !what.nodes.is_empty(),
    })
}

/// Whatever the machine wants done has been done, or nobody knows; what it tells is told.
fn tell(engine: &mut Engine, options: &ReplayOptions) {
    while let Some(command) = engine.command() {
        if let Command::Tell(progress) = command {
            (options.progress)(*progress);
        }
    }
}
