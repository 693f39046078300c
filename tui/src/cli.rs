//! The command line as types. What a verb does is in [`crate::verbs`]; how environment and file fill what the command
//! line leaves open is in [`crate::config`], so nothing here has `env` or a default that the file could not override.

pub mod diagnosis;
pub mod link;
pub mod sim;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueHint};
use datapath::code::Code;

use crate::output::{ColorChoice, Output};

use diagnosis::{How, Inventory, Judge, Probes, What, Words};

/// Which Kubernetes cluster cannot reach which, and the object that is the cause.
#[derive(Debug, Clone, PartialEq, Parser)]
#[command(
    name = "floaterctl",
    version,
    max_term_width = 100,
    after_help = "Options may also come from FLOATER_<OPTION> in the environment and from ~/.config/floater/config.toml.\n\
                  Exit codes: 0 healthy, 1 fault, 2 not all could be judged, 64 usage, 65 bad input,\n\
                  69 nothing to work with, 70 internal failure, 74 an output could not be written, 130 interrupted."
)]
pub struct Cli {
    /// Options of every verb.
    #[command(flatten)]
    pub global: Global,
    /// The verb.
    #[command(subcommand)]
    pub verb: Verb,
}

/// Options of every verb.
#[derive(Debug, Clone, Default, PartialEq, Args)]
pub struct Global {
    /// When to colour the output
    #[arg(
        long,
        global = true,
        value_enum,
        value_name = "WHEN",
        help_heading = "Global options"
    )]
    pub color: Option<ColorChoice>,
    /// Say everything that happens, also when stderr is not a terminal; twice for the programs' logs
    #[arg(short, long, global = true, action = clap::ArgAction::Count, help_heading = "Global options")]
    pub verbose: u8,
    /// Say only what went wrong and the result
    #[arg(
        long,
        global = true,
        conflicts_with = "verbose",
        help_heading = "Global options"
    )]
    pub quiet: bool,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Subcommand)]
pub enum Verb {
    /// Simulate clusters, link them, diagnose them, print the result, remove everything
    Demo(Demo),
    /// Diagnose the connectivity of clusters once: deploy floaters, probe, explain, remove them
    #[command(disable_version_flag = true)]
    Dr(Dr),
    /// The same as dr, under its newer name in Kosmos
    #[command(disable_version_flag = true)]
    Check(Dr),
    /// Compare intent with the kernels' tables: deploys floaters to read them, sends no probe
    #[command(disable_version_flag = true)]
    Analyse(Analyse),
    /// Show which cluster reaches which in the terminal, by one run after the other or from a report
    #[command(disable_version_flag = true)]
    Matrix(Matrix),
    /// Explain a cause code or a finding: what it means, what proves it, what to do
    Explain(Explain),
    /// Follow a packet from one place to another and back, hop by hop, as planned and as it is
    #[command(disable_version_flag = true)]
    Path(Path),
    /// Simulate fleets of clusters on this machine
    #[command(subcommand)]
    Sim(sim::Sim),
    /// The datapath between clusters
    #[command(subcommand)]
    Link(link::Link),
    /// Print the completions of a shell
    Completions(Completions),
    /// Print the manual page
    Man(Man),
    /// Print the version
    Version,
}

impl Verb {
    /// Whether a broken configuration file stops the verb. What only tells or tidies up has to work beside one: it may
    /// be how somebody finds out, or the way to be rid of what is left.
    #[must_use]
    pub fn needs_settings(&self) -> bool {
        !matches!(
            self,
            Self::Completions(_)
                | Self::Explain(_)
                | Self::Man(_)
                | Self::Sim(sim::Sim::Down(_) | sim::Sim::Status(_))
                | Self::Version
        )
    }
}

/// Arguments of `demo`.
#[derive(Debug, Clone, Default, PartialEq, Args)]
pub struct Demo {
    /// What to simulate.
    #[command(flatten)]
    pub shape: sim::Shape,
    /// Break something first: a code of `floaterctl sim fault list`
    #[arg(long, value_name = "CODE", value_parser = Words(&CODES, any_word), hide_possible_values = true)]
    pub fault: Option<String>,
    /// How the result is judged and printed.
    #[command(flatten)]
    pub judge: Judge,
}

/// A version of the report's schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum SchemaVersion {
    /// Every cell in full.
    V1,
    /// Cells packed.
    V2,
}

/// Arguments of `dr` and `check`.
#[derive(Debug, Clone, Default, PartialEq, Args)]
pub struct Dr {
    /// Which clusters.
    #[command(flatten)]
    pub inventory: Inventory,
    /// What of them.
    #[command(flatten)]
    pub what: What,
    /// What to send.
    #[command(flatten)]
    pub probes: Probes,
    /// How floaters get there.
    #[command(flatten)]
    pub how: How,
    /// How the result is judged and printed.
    #[command(flatten)]
    pub judge: Judge,
    /// Keep everything that comes in, for --replay and --resume; names and addresses are in it, secrets are not
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, conflicts_with_all = ["replay", "dry_run", "schema", "sweep"])]
    pub record: Option<PathBuf>,
    /// Judge a recorded run again, without any cluster: the same report
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, conflicts_with_all = ["Inventory", "What", "Probes", "How", "dry_run", "schema", "sweep"])]
    pub replay: Option<PathBuf>,
    /// Go on with a recorded run that was ended within the last hour: its clusters, and only what it does not know yet is asked
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, conflicts_with_all = ["replay", "Inventory", "What", "Probes", "dry_run", "schema", "sweep"])]
    pub resume: Option<PathBuf>,
    /// Print the JSON Schema of the report and end: v1, or v2 in which fleets of more than 300 clusters are written
    #[arg(long, value_name = "VERSION", num_args = 0..=1, require_equals = true, default_missing_value = "v1")]
    pub schema: Option<SchemaVersion>,
    /// Print the objects that would be made in each cluster, as manifests, and make none
    #[arg(long, conflicts_with_all = ["schema", "sweep", "output"])]
    pub dry_run: bool,
    /// Only remove what earlier runs left behind and what has expired; says what stays and until when
    #[arg(long, conflicts_with = "schema")]
    pub sweep: bool,
    /// With --sweep: remove also what has not expired yet, floaters of runs that are going on included
    #[arg(long, requires = "sweep")]
    pub force: bool,
}

/// Arguments of `analyse`.
#[derive(Debug, Clone, Default, PartialEq, Args)]
pub struct Analyse {
    /// Which clusters.
    #[command(flatten)]
    pub inventory: Inventory,
    /// What of them.
    #[command(flatten)]
    pub what: What,
    /// How floaters get there.
    #[command(flatten)]
    pub how: How,
    /// How the result is judged and printed.
    #[command(flatten)]
    pub judge: Judge,
    /// Keep everything that comes in, for --replay and --resume; names and addresses are in it, secrets are not
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, conflicts_with_all = ["replay", "dry_run"])]
    pub record: Option<PathBuf>,
    /// Judge a recorded run again, without any cluster: the same report
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, conflicts_with_all = ["Inventory", "What", "How", "dry_run"])]
    pub replay: Option<PathBuf>,
    /// Go on with a recorded run that was ended within the last hour: its clusters, and only what it does not know yet is asked
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, conflicts_with_all = ["replay", "Inventory", "What", "dry_run"])]
    pub resume: Option<PathBuf>,
    /// Print the objects that would be made in each cluster, as manifests, and make none
    #[arg(long, conflicts_with = "output")]
    pub dry_run: bool,
}

/// Arguments of `matrix`.
#[derive(Debug, Clone, Default, PartialEq, Args)]
pub struct Matrix {
    /// Which clusters.
    #[command(flatten)]
    pub inventory: Inventory,
    /// What of them.
    #[command(flatten)]
    pub what: What,
    /// What to send.
    #[command(flatten)]
    pub probes: Probes,
    /// How floaters get there.
    #[command(flatten)]
    pub how: How,
    /// How long to wait after a run before the next one, seconds or with a unit (default: 5 s)
    #[arg(long, value_name = "SECONDS", value_parser = diagnosis::duration, conflicts_with = "replay")]
    pub every: Option<std::time::Duration>,
    /// Show a report of an earlier run instead of running one
    #[arg(long, value_name = "REPORT.json", value_hint = ValueHint::FilePath, conflicts_with_all = diagnosis::SOURCES)]
    pub replay: Option<PathBuf>,
}

/// Arguments of `path`.
#[derive(Debug, Clone, Default, PartialEq, Args)]
pub struct Path {
    /// From where: CLUSTER[/NODE[/POD]] or an address; a cluster alone is a pod of its first node
    #[arg(value_name = "SRC")]
    pub src: String,
    /// To where, the same
    #[arg(value_name = "DST")]
    pub dst: String,
    /// Which clusters.
    #[command(flatten)]
    pub inventory: Inventory,
    /// Only these families (default: all that both ends have)
    #[arg(long, value_name = "FAMILY", value_delimiter = ',', value_enum)]
    pub families: Vec<diagnosis::IpFamily>,
    /// How floaters get there.
    #[command(flatten)]
    pub how: How,
    /// The form of the result (default: table)
    #[arg(short, long, value_enum, value_name = "FORMAT")]
    pub output: Option<sim::StatusFormat>,
}

/// Arguments of `explain`.
#[derive(Debug, Clone, Default, PartialEq, Args)]
pub struct Explain {
    /// A cause code, or the id of a finding of --report
    #[arg(value_name = "CODE|FINDING-ID", required_unless_present = "list", value_parser = Words(&CODES, any_word), hide_possible_values = true)]
    pub subject: Option<String>,
    /// Print every cause code, and which of them this version diagnoses and which it can inject
    #[arg(long, conflicts_with_all = ["subject", "report"])]
    pub list: bool,
    /// The report that holds the finding
    #[arg(long, value_name = "REPORT.json")]
    pub report: Option<PathBuf>,
}

/// Arguments of `completions`.
#[derive(Debug, Clone, PartialEq, Args)]
pub struct Completions {
    /// The shell
    #[arg(value_enum)]
    pub shell: clap_complete::Shell,
}

/// Arguments of `man`.
#[derive(Debug, Clone, Default, PartialEq, Args)]
pub struct Man {
    /// Write one page per verb into this directory instead of printing the first
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub dir: Option<PathBuf>,
}

/// What a shell completes where a cause code is meant.
pub(crate) const CODES: [&str; Code::ALL.len()] = {
    let mut words = [""; Code::ALL.len()];
    let mut at = 0;
    while at < words.len() {
        words[at] = Code::ALL[at].word();
        at += 1;
    }
    words
};

/// A word that is judged later, with more to say than that it is none of many.
#[expect(clippy::unnecessary_wraps, reason = "the shape of a parser")]
pub(crate) fn any_word(text: &str) -> Result<String, String> {
    Ok(text.to_owned())
}

/// An `-o` of clap's.
pub(crate) fn output(text: &str) -> Result<Output, String> {
    text.parse()
}
