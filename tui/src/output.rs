//! Where a report goes and in which form: `-o FORMAT[=FILE]`.
//!
//! A file is written beside its place and renamed, so that whoever reads it sees the old report or the whole new one. Pipes
//! and devices are written as they are.

use std::fs::{self, OpenOptions, Permissions};
use std::io::{BufWriter, ErrorKind, IsTerminal as _, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::ValueEnum;
use tempfile::NamedTempFile;

use crate::exit::Failure;

/// The forms of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Graphviz: clusters and what fails between them.
    Dot,
    /// The report as data, `floater.report/v1` (`/v2` above 300 clusters).
    Json,
    /// For continuous integration: one test case per cell.
    Junit,
    /// The matrix and the findings.
    Table,
    /// The same with rows per node.
    Wide,
}

impl Format {
    /// Whether a program reads it rather than a person.
    #[must_use]
    pub fn is_data(self) -> bool {
        matches!(self, Self::Dot | Self::Json | Self::Junit)
    }

    /// Every form that there is, as it is written.
    pub const NAMES: &str = "table, wide, json, junit, dot";
}

/// Forms that the command line names and that this version cannot write.
const PLANNED: [&str; 2] = ["sarif", "html"];

/// One `-o`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// The form.
    pub format: Format,
    /// Where to; none for stdout, also where it is called `-` or `/dev/stdout`.
    pub file: Option<PathBuf>,
}

impl Output {
    /// The form on stdout.
    #[must_use]
    pub fn stdout(format: Format) -> Self {
        Self { format, file: None }
    }
}

impl FromStr for Output {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, file) = match text.split_once('=') {
            Some((_, "")) => return Err(format!("`{text}` names no file after the `=`")),
            Some((name, "-" | "/dev/stdout" | "/dev/fd/1" | "/proc/self/fd/1")) => (name, None),
            Some((name, file)) => (name, Some(PathBuf::from(file))),
            None => (text, None),
        };
        let format = match name {
            "dot" => Format::Dot,
            "json" => Format::Json,
            "junit" => Format::Junit,
            "table" => Format::Table,
            "wide" => Format::Wide,
            _ if PLANNED.contains(&name) => {
                return Err(format!(
                    "`{name}` is not available in this version; available: {}",
                    Format::NAMES
                ));
            }
            _ => {
                return Err(format!("no such format; available: {}", Format::NAMES));
            }
        };
        Ok(Self { format, file })
    }
}

/// Two reports on one stdout would be none, and that no output at all can be written is better known before there is a report.
pub fn check(outputs: &[Output]) -> Result<(), Failure> {
    if outputs
        .iter()
        .filter(|output| output.file.is_none())
        .count()
        > 1
    {
        return Err(Failure::Usage(
            "only one -o can go to stdout; give the others a file: -o json=report.json".to_owned(),
        ));
    }
    for (index, output) in outputs.iter().enumerate() {
        let same = |other: &Output| other.file.is_some() && other.file == output.file;
        if outputs[..index].iter().any(same) {
            return Err(Failure::Usage("two -o name the same file".to_owned()));
        }
    }
    let mut first = None;
    for output in outputs {
        match output.file.as_deref().map(writable) {
            // Somebody can be told; what cannot be written is named when it is tried.
            None | Some(Ok(())) => return Ok(()),
            Some(Err(failure)) => {
                first.get_or_insert(failure);
            }
        }
    }
    first.map_or(Ok(()), Err)
}

/// Whether a file could be written, so that nobody waits for a report that then goes nowhere. Leaves everything as it is.
fn writable(file: &Path) -> Result<(), Failure> {
    let tried = match Place::of(file) {
        Ok(Place::Beside(target)) => beside(&target).map(drop),
        // Opening a pipe would wait for its reader.
        Ok(Place::Direct) => Ok(()),
        Err(error) => Err(error),
    };
    tried.map_err(|error| Failure::Output {
        name: file.display().to_string(),
        why: datapath::printable::io_reason(&error),
    })
}

/// How a file is written.
enum Place {
    /// A regular file or none yet: beside it, then renamed to this, which is no symbolic link.
    Beside(PathBuf),
    /// A pipe or a device.
    Direct,
}

impl Place {
    fn of(file: &Path) -> std::io::Result<Self> {
        match fs::metadata(file) {
            Ok(there) if there.is_dir() => Err(ErrorKind::IsADirectory.into()),
            Ok(there) if there.is_file() => {
                // What an open descriptor of this process shows to is not replaced under it.
                let own = ["/dev", "/proc"].iter().any(|root| file.starts_with(root));
                if own {
                    Ok(Self::Direct)
                } else {
                    Ok(Self::Beside(fs::canonicalize(file)?))
                }
            }
            Ok(_) => Ok(Self::Direct),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Self::Beside(file.to_owned())),
            Err(error) => Err(error),
        }
    }
}

/// An empty file in the folder of `target`, with the permissions that `target` has or would get.
fn beside(target: &Path) -> std::io::Result<NamedTempFile> {
    let folder = target.parent().filter(|folder| *folder != Path::new(""));
    let mut prefix = std::ffi::OsString::from(".");
    prefix.push(target.file_name().ok_or(ErrorKind::InvalidInput)?);
    let made = tempfile::Builder::new()
        .prefix(&prefix)
        // As for any new file, less what the umask takes away.
        .permissions(Permissions::from_mode(0o666))
        .tempfile_in(folder.unwrap_or(Path::new(".")))?;
    match fs::metadata(target) {
        Ok(old) => {
            // A file that this user may not write is not replaced either, although its folder would allow it.
            OpenOptions::new().append(true).open(target)?;
            made.as_file().set_permissions(old.permissions())?;
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    Ok(made)
}

/// Objects by cluster as one stream of YAML documents, as `kubectl apply -f -` takes it.
///
/// # Errors
/// [`Failure::Failed`] for what cannot be YAML.
pub fn manifests(planned: &[(String, Vec<serde_json::Value>)]) -> Result<String, Failure> {
    let mut text = String::new();
    for (cluster, objects) in planned {
        if objects.is_empty() {
            text += &format!("# {cluster}: nothing would be made\n");
        }
        for object in objects {
            let yaml = serde_saphyr::to_string(object)
                .map_err(|error| Failure::Failed(format!("writing YAML: {error}")))?;
            text += &format!("---\n# in {cluster}\n{}\n", yaml.trim_end());
        }
    }
    Ok(text)
}

/// Writes text to where it belongs, with a newline at its end.
///
/// # Errors
/// [`Failure::Output`]; an old file then is as it was.
pub fn write(output: &Output, text: &str) -> Result<(), Failure> {
    stream(output, |to| {
        to.write_all(text.as_bytes())?;
        if text.ends_with('\n') {
            Ok(())
        } else {
            to.write_all(b"\n")
        }
    })
}

/// Lets somebody write to where it belongs, piece by piece.
///
/// # Errors
/// [`Failure::Output`]; an old file then is as it was.
pub fn stream(
    output: &Output,
    write: impl FnOnce(&mut dyn Write) -> std::io::Result<()>,
) -> Result<(), Failure> {
    match &output.file {
        Some(file) => {
            to_file(file, write).map_err(|error| Failure::output(file.display().to_string(), error))
        }
        None => to_stdout(write).map_err(|error| Failure::output("stdout", error)),
    }
}

/// Writes a file whole or not at all.
///
/// # Errors
/// The system's.
pub fn write_file(file: &Path, text: &str) -> std::io::Result<()> {
    to_file(file, |to| to.write_all(text.as_bytes()))
}

fn to_file(
    file: &Path,
    write: impl FnOnce(&mut dyn Write) -> std::io::Result<()>,
) -> std::io::Result<()> {
    let buffered = |file: &mut dyn Write| {
        let mut buffer = BufWriter::with_capacity(BUFFER, file);
        write(&mut buffer)?;
        buffer.flush()
    };
    match Place::of(file)? {
        Place::Direct => buffered(&mut OpenOptions::new().append(true).open(file)?),
        Place::Beside(target) => {
            let mut new = beside(&target)?;
            buffered(new.as_file_mut())?;
            // A full disk may show only here.
            new.as_file().sync_all()?;
            new.persist(&target).map(drop).map_err(|error| error.error)
        }
    }
}

/// `1 node`, `2 nodes`.
#[must_use]
pub fn counted(number: usize, noun: &str) -> String {
    let end = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{end}")
}

/// Writes a page to stdout; a reader that closed its end has read enough of it.
///
/// # Errors
/// [`Failure::Output`].
pub fn print(text: &str) -> Result<(), Failure> {
    match to_stdout(|to| to.write_all(text.as_bytes())) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(|error| Failure::output("stdout", error)),
    }
}

fn to_stdout(write: impl FnOnce(&mut dyn Write) -> std::io::Result<()>) -> std::io::Result<()> {
    // The region of the progress and the result may share a terminal.
    crate::progress::end();
    let mut stdout = BufWriter::with_capacity(BUFFER, std::io::stdout().lock());
    write(&mut stdout)?;
    stdout.flush()
}

/// Bytes that are written at a time.
const BUFFER: usize = 64 * 1024;

/// Prints to stdout what is too long to be held at once; whoever closed a pipe has read enough.
///
/// # Errors
/// [`Failure::Output`] where stdout takes nothing more, [`Failure::Failed`] with what `write` says where that fails for another reason.
pub fn print_pieces(
    write: impl FnOnce(&mut dyn Write) -> Result<(), String>,
) -> Result<(), Failure> {
    let mut stdout = Watched {
        out: BufWriter::with_capacity(BUFFER, std::io::stdout().lock()),
        failed: None,
    };
    let written = write(&mut stdout);
    let flushed = stdout.flush();
    match (stdout.failed, written) {
        (Some(ErrorKind::BrokenPipe), _) => Ok(()),
        (Some(_), _) => flushed.map_err(|error| Failure::output("stdout", error)),
        (None, written) => written.map_err(Failure::Failed),
    }
}

/// A writer that keeps how it failed first, since serialisers hide that.
struct Watched<W> {
    out: W,
    failed: Option<ErrorKind>,
}

impl<W: Write> Watched<W> {
    fn keep<T>(&mut self, done: std::io::Result<T>) -> std::io::Result<T> {
        if let Some(kind) = self.failed {
            return Err(kind.into());
        }
        done.inspect_err(|error| {
            if error.kind() != ErrorKind::Interrupted {
                self.failed = Some(error.kind());
            }
        })
    }
}

impl<W: Write> Write for Watched<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let done = self.out.write(bytes);
        self.keep(done)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        let done = self.out.flush();
        self.keep(done)
    }
}

/// When to colour.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum ColorChoice {
    /// Always, also into a pipe.
    Always,
    /// On a terminal that can, unless `NO_COLOR` is set.
    #[default]
    Auto,
    /// Never.
    Never,
}

impl ColorChoice {
    /// Whether to colour what goes to a stream; `no_color` is the value of `NO_COLOR`, which counts when it is not empty.
    #[must_use]
    pub fn decide(self, is_terminal: bool, no_color: Option<&str>) -> bool {
        match self {
            Self::Always => true,
            Self::Auto => is_terminal && no_color.is_none_or(str::is_empty),
            Self::Never => false,
        }
    }

    /// Whether to colour stdout of this process.
    #[must_use]
    pub fn for_stdout(self) -> bool {
        let no_color = std::env::var("NO_COLOR").ok();
        let is_terminal = std::io::stdout().is_terminal() && !crate::terminal::is_dumb();
        self.decide(is_terminal, no_color.as_deref())
    }
}

/// A value as JSON for people, with the line's end.
///
/// # Errors
/// [`Failure::Failed`] where it cannot be written as JSON.
pub fn json(value: &impl serde::Serialize) -> Result<String, Failure> {
    serde_json::to_string_pretty(value)
        .map(|text| text + "\n")
        .map_err(|error| Failure::Failed(format!("writing JSON: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_parse() {
        assert_eq!(
            "json=report.json".parse(),
            Ok(Output {
                format: Format::Json,
                file: Some("report.json".into())
            })
        );
        assert_eq!("wide".parse(), Ok(Output::stdout(Format::Wide)));
        assert_eq!("json=-".parse(), Ok(Output::stdout(Format::Json)));
        let refused = Output::from_str("sarif=x").expect_err("not built");
        assert!(
            refused.contains("available: table, wide, json"),
            "{refused}"
        );
        assert!(Output::from_str("json=").is_err());
        assert!(Output::from_str("yaml").is_err());
    }

    #[test]
    fn one_report_on_stdout() {
        let outputs = |texts: &[&str]| {
            texts
                .iter()
                .map(|text| text.parse().expect("valid"))
                .collect::<Vec<Output>>()
        };
        assert!(check(&outputs(&["table", "json=a", "junit=b"])).is_ok());
        assert!(check(&outputs(&["table", "json"])).is_err());
        assert!(check(&outputs(&["junit=a", "json=a"])).is_err());
        assert!(check(&[]).is_ok());
    }

    #[test]
    fn files_are_tried_and_left_as_they_are() {
        let directory = tempfile::tempdir().expect("a directory");
        let tried = |file: &Path| {
            check(&[Output {
                format: Format::Json,
                file: Some(file.to_owned()),
            }])
        };
        let new = directory.path().join("new.json");
        assert!(tried(&new).is_ok());
        assert!(!new.exists(), "only tried");
        fs::write(&new, "old").expect("writable");
        assert!(tried(&new).is_ok());
        assert_eq!(fs::read_to_string(&new).expect("readable"), "old");
        for bad in [
            directory.path().join("no/such.json"),
            directory.path().into(),
            new.join("x"),
        ] {
            let refused = tried(&bad).expect_err("not writable");
            assert_eq!(refused.code(), crate::exit::OUTPUT);
            assert!(
                refused.to_string().contains(bad.to_str().expect("UTF-8")),
                "{refused}"
            );
        }
        assert!(tried(Path::new("/dev/null")).is_ok());
        let left = fs::read_dir(directory.path()).expect("readable").count();
        assert_eq!(left, 1, "nothing is left beside");
    }

    #[test]
    fn a_file_is_replaced_whole_where_it_really_is_and_keeps_its_mode() {
        let directory = tempfile::tempdir().expect("a directory");
        let at = |name: &str| directory.path().join(name);
        write_file(&at("new"), "new\n").expect("writable");
        fs::write(at("old"), "a longer old text").expect("writable");
        fs::set_permissions(at("old"), Permissions::from_mode(0o600)).expect("its owner's");
        std::os::unix::fs::symlink("old", at("link")).expect("a link");
        write_file(&at("link"), "short\n").expect("writable");
        assert_eq!(fs::read_to_string(at("old")).expect("there"), "short\n");
        let mode = |name: &str| fs::metadata(at(name)).expect("there").permissions().mode() & 0o777;
        assert_eq!(mode("old"), 0o600);
        assert_eq!(mode("new"), {
            fs::File::create(at("other")).expect("writable");
            mode("other")
        });
        assert!(
            fs::symlink_metadata(at("link"))
                .expect("there")
                .is_symlink()
        );
        let left = fs::read_dir(directory.path()).expect("readable").count();
        assert_eq!(left, 4, "nothing is left beside");
    }

    #[test]
    fn what_cannot_be_written_is_named_and_the_old_file_stays() {
        let full = Output {
            format: Format::Json,
            file: Some("/dev/full".into()),
        };
        let failure = write(&full, "{}").expect_err("the disk is full");
        assert_eq!(failure.code(), crate::exit::OUTPUT);
        assert!(
            failure
                .to_string()
                .starts_with("/dev/full could not be written: "),
            "{failure}"
        );
    }

    #[test]
    fn a_pipe_is_written_as_it_is() {
        let directory = tempfile::tempdir().expect("a directory");
        let pipe = directory.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
        let reader = {
            let pipe = pipe.clone();
            std::thread::spawn(move || fs::read_to_string(pipe))
        };
        write_file(&pipe, "text\n").expect("somebody reads");
        assert_eq!(
            reader.join().expect("no panic").expect("readable"),
            "text\n"
        );
    }

    #[test]
    fn color_follows_terminal_and_no_color() {
        assert!(ColorChoice::Auto.decide(true, None));
        assert!(ColorChoice::Auto.decide(true, Some("")));
        assert!(!ColorChoice::Auto.decide(true, Some("1")));
        assert!(!ColorChoice::Auto.decide(false, None));
        assert!(ColorChoice::Always.decide(false, Some("1")));
        assert!(!ColorChoice::Never.decide(true, None));
    }
}
