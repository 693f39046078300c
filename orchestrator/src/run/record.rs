//! A run on record: its settings and everything that came in, one line of JSON each, compressed with zstd.
//!
//! ```text
//! {"schema":"floater.record/v1","tool":"0.1.0","started":"…","settings":{…},"inventory":{…}}
//! {"at":1200,"input":{"looked":{"cluster":0,"result":{"Ok":{…}}}}}          microseconds since the run began
//! …
//! {"seconds":1.9}                                                            how long it took; absent from a run that was killed
//! ```
//! What goes in holds no secret: no kubeconfig, no key of a floater, no certificate. The names and addresses of clusters, nodes and pods
//! are in it, as they are in the report.
//!
//! A line is readable at most a second after it was written, whatever ends the program.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use datapath::printable::{Printable, io_reason};
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::engine::Settings;
use crate::engine::messages::Input;
use crate::inventory::InventoryOptions;

/// The schema's name.
pub const SCHEMA: &str = "floater.record/v1";
/// As fast as the lines come, and a tenth of their size.
const LEVEL: i32 = 1;
/// How long what was written may stay unreadable.
const FLUSH: Duration = Duration::from_secs(1);
/// The most bytes of a line: the objects of 10,000 clusters.
const MAX_LINE: u64 = 512 << 20;

/// The first line of a record.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Header {
    schema: String,
    /// The version of the program that wrote it.
    pub(crate) tool: String,
    /// When the run began, RFC 3339.
    pub(crate) started: String,
    pub(crate) settings: Settings,
    pub(crate) inventory: InventoryOptions,
}

impl Header {
    pub(crate) fn new(started: String, settings: Settings, inventory: InventoryOptions) -> Self {
        Self {
            schema: SCHEMA.to_owned(),
            tool: env!("CARGO_PKG_VERSION").to_owned(),
            started,
            settings,
            inventory,
        }
    }
}

/// Any further line.
#[derive(Debug)]
pub(crate) enum Line {
    /// Something that came in.
    Input {
        /// Since the run began.
        at: Duration,
        input: Box<Input>,
    },
    /// The end.
    End {
        /// How long the run took.
        seconds: f64,
    },
}

/// A line as it is written. Not an untagged enum: those read JSON by a detour on which keys of maps are no numbers any more.
#[derive(Serialize, Deserialize)]
struct Written<I> {
    /// Microseconds since the run began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    at: Option<u64>,
    #[serde(default = "none", skip_serializing_if = "Option::is_none")]
    input: Option<I>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    seconds: Option<f64>,
}

fn none<T>() -> Option<T> {
    None
}

/// Writes a record. What cannot be written ends it, and is said by [`Recorder::finish`].
pub struct Recorder(Mutex<State>);

enum State {
    Open(Box<Open>),
    Broken(io::Error),
    Done,
}

struct Open {
    lines: zstd::Encoder<'static, File>,
    flushed: Instant,
}

impl Recorder {
    /// A new record, readable by its owner alone; what was there is overwritten.
    ///
    /// # Errors
    /// Why the file cannot be written.
    pub fn create(path: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        Ok(Self(Mutex::new(State::Open(Box::new(Open {
            lines: zstd::Encoder::new(options.open(path)?, LEVEL)?,
            flushed: Instant::now(),
        })))))
    }

    pub(crate) fn header(&self, header: &Header) {
        self.with(|open| {
            open.line(header)?;
            open.flush()
        });
    }

    pub(crate) fn input(&self, at: Duration, input: &Input) {
        let at = u64::try_from(at.as_micros()).unwrap_or(u64::MAX);
        self.with(|open| {
            open.line(&Written {
                at: Some(at),
                input: Some(input),
                seconds: None,
            })?;
            if open.flushed.elapsed() < FLUSH {
                return Ok(());
            }
            open.flush()
        });
    }

    /// Makes what was written readable, where nothing may come for a while.
    pub(crate) fn flush(&self) {
        self.with(Open::flush);
    }

    pub(crate) fn end(&self, seconds: f64) {
        self.with(|open| {
            open.line(&Written::<()> {
                at: None,
                input: None,
                seconds: Some(seconds),
            })
        });
    }

    /// Ends the record.
    ///
    /// # Errors
    /// Why not all of it could be written.
    pub fn finish(&self) -> io::Result<()> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match std::mem::replace(&mut *state, State::Done) {
            State::Open(open) => open.lines.finish()?.sync_data(),
            State::Broken(error) => Err(error),
            State::Done => Ok(()),
        }
    }

    fn with(&self, write: impl FnOnce(&mut Open) -> io::Result<()>) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let State::Open(open) = &mut *state
            && let Err(error) = write(open)
        {
            *state = State::Broken(error);
        }
    }
}

impl Open {
    fn line(&mut self, line: &impl Serialize) -> io::Result<()> {
        serde_json::to_writer(&mut self.lines, line)?;
        self.lines.write_all(b"\n")
    }

    fn flush(&mut self) -> io::Result<()> {
        self.flushed = Instant::now();
        self.lines.flush()
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        // Nobody is left to be told.
        let _ = self.finish();
    }
}

/// Reads a record, line by line.
pub(crate) struct Reader {
    lines: Lines,
    pub(crate) header: Header,
    /// Whether the record ends before its run did.
    pub(crate) is_cut_off: bool,
}

struct Lines {
    name: String,
    content: BufReader<zstd::Decoder<'static, BufReader<File>>>,
    line: u64,
    buffer: Vec<u8>,
}

impl Reader {
    /// # Errors
    /// [`Error::Input`] where the file is none, with its line and rule.
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        let name = Printable::new(&path.display().to_string()).to_string();
        let unreadable = |error: io::Error| {
            Error::input(
                &*name,
                None,
                format!("cannot be read: {}", io_reason(&error)),
            )
        };
        let file = File::open(path).map_err(unreadable)?;
        let mut lines = Lines {
            content: BufReader::new(zstd::Decoder::new(file).map_err(unreadable)?),
            name,
            line: 0,
            buffer: Vec::new(),
        };
        if !lines.next()? {
            return Err(lines.broken("is empty or cut off"));
        }
        let schema: Schema = lines.parsed("is not the first line of a floater.record/v1")?;
        if schema.schema != SCHEMA {
            let schema = Printable::bounded(&schema.schema, 60);
            return Err(lines.broken(format!("is a {schema}, not a {SCHEMA}")));
        }
        let mut header: Header = lines.parsed("its settings cannot be understood")?;
        if let Err(rule) = header.settings.check() {
            return Err(lines.broken(rule));
        }
        let printable = |text: &str| Printable::new(text).to_string();
        header.started = printable(&header.started);
        header.settings.run = printable(&header.settings.run);
        Ok(Self {
            lines,
            header,
            is_cut_off: false,
        })
    }

    /// The next line; none at the end, whether it is the run's or only the record's.
    ///
    /// # Errors
    /// [`Error::Input`] with the line and the rule that it breaks.
    pub(crate) fn next(&mut self) -> Result<Option<Line>, Error> {
        if self.is_cut_off || !self.lines.next()? {
            self.is_cut_off = true;
            return Ok(None);
        }
        let line: Written<Box<Input>> = self.lines.parsed("cannot be understood")?;
        match line {
            Written {
                at: Some(at),
                input: Some(input),
                seconds: None,
            } => {
                let input = input.checked().map_err(|rule| self.lines.broken(rule))?;
                // Far enough to be never, near enough for every clock.
                let at = at.min(u64::from(u32::MAX) * 1_000_000);
                Ok(Some(Line::Input {
                    at: Duration::from_micros(at),
                    input: Box::new(input),
                }))
            }
            Written {
                at: None,
                input: None,
                seconds: Some(seconds),
            } if seconds.is_finite() && seconds >= 0.0 => Ok(Some(Line::End { seconds })),
            _ => Err(self.lines.broken("is neither an input nor an end")),
        }
    }
}

impl Lines {
    fn broken(&self, rule: impl Into<String>) -> Error {
        Error::input(&*self.name, Some(self.line), rule)
    }

    /// Whether there was a whole line.
    fn next(&mut self) -> Result<bool, Error> {
        self.line += 1;
        self.buffer.clear();
        let mut bounded = self.content.by_ref().take(MAX_LINE);
        match bounded.read_until(b'\n', &mut self.buffer) {
            Ok(_) if self.buffer.len() as u64 == MAX_LINE => {
                Err(self.broken(format!("is longer than {} MiB", MAX_LINE >> 20)))
            }
            Ok(_) => Ok(self.buffer.last() == Some(&b'\n')),
            // The frame was not ended: whoever wrote it was killed.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
            Err(_) => Err(self.broken("is damaged, or not compressed with zstd")),
        }
    }

    fn parsed<T: for<'de> Deserialize<'de>>(&self, rule: &str) -> Result<T, Error> {
        serde_json::from_slice(&self.buffer)
            .map_err(|error| self.broken(format!("{rule} (column {})", error.column())))
    }
}

#[derive(Deserialize)]
struct Schema {
    schema: String,
}
