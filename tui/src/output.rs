//! Where a report goes and in which form: `-o FORMAT[=FILE]`.

use std::fs::{self, OpenOptions};
use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::ValueEnum;

use crate::exit::Failure;

/// The forms of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Graphviz: clusters and what fails between them.
    Dot,
    /// The report as data, `floater.report/v1`.
    Json,
    /// For continuous integration: one test case per cell.
    Junit,
    /// The matrix and the findings.
    Table,
    /// The same with rows per node.
    Wide,
}

impl Format {
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
    /// Where to; stdout without one.
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

/// Two reports on one stdout would be none, and a file that cannot be written is better known before there is a report.
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
    outputs
        .iter()
        .filter_map(|output| output.file.as_deref())
        .try_for_each(writable)
}

/// Whether a file could be written, so that nobody waits for a report that then goes nowhere. Leaves everything as it is.
fn writable(file: &Path) -> Result<(), Failure> {
    let refused = |error: std::io::Error| {
        Failure::Usage(format!("-o cannot write {}: {error}", file.display()))
    };
    match fs::metadata(file) {
        // Opening a pipe would wait for its reader.
        Ok(there) if !there.is_file() && !there.is_dir() => Ok(()),
        Ok(_) => OpenOptions::new()
            .append(true)
            .open(file)
            .map(drop)
            .map_err(refused),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let made = OpenOptions::new().write(true).create_new(true).open(file);
            made.map_err(refused)?;
            fs::remove_file(file).map_err(refused)
        }
        Err(error) => Err(refused(error)),
    }
}

/// Writes text to where it belongs, with a newline at its end.
pub fn write(output: &Output, text: &str) -> Result<(), Failure> {
    let end = if text.ends_with('\n') { "" } else { "\n" };
    match &output.file {
        Some(file) => fs::write(file, format!("{text}{end}"))
            .map_err(|error| Failure::Failed(format!("writing {}: {error}", file.display()))),
        None => print(&format!("{text}{end}")),
    }
}

/// `1 node`, `2 nodes`.
#[must_use]
pub fn counted(number: usize, noun: &str) -> String {
    let end = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{end}")
}

/// Writes to stdout; a reader that closed its end is content.
pub fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    match stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
    {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}

/// When to colour.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum ColorChoice {
    /// Always, also into a pipe.
    Always,
    /// On a terminal, unless `NO_COLOR` is set.
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
        self.decide(std::io::stdout().is_terminal(), no_color.as_deref())
    }
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
            assert_eq!(refused.code(), crate::exit::USAGE);
            assert!(
                refused.to_string().contains(bad.to_str().expect("UTF-8")),
                "{refused}"
            );
        }
        assert!(tried(Path::new("/dev/null")).is_ok());
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
