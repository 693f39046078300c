//! Where an option's value comes from: the command line, then the environment (`FLOATER_<VERB>_<OPTION>`, then
//! `FLOATER_<OPTION>`), then the configuration file (the verb's table, then the top level), then the default.
//!
//! The layers below the command line are turned into the words of a command line and parsed by the same rules, so that
//! there is one definition of every option and of what contradicts what. An option of a lower layer that contradicts one
//! of a higher layer gives way to it. [`parse`] is pure: it gets the environment and the file as arguments.
//!
//! ```toml
//! color = "never"
//!
//! [dr]
//! kubeconfig = ["/etc/fleet/east", "/etc/fleet/west"]
//! pod-wait-time = "60s"
//!
//! [sim.up]
//! nodes = 3
//! ```

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::ops::Range;
use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command, CommandFactory as _, FromArgMatches as _};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::cli::Cli;
use crate::exit::{self, Failure};
use crate::spelling::nearest;

/// What no lower layer may ask for: these are deeds, not settings.
const DEEDS: [&str; 10] = [
    "all", "dry_run", "fault", "force", "list", "record", "replay", "resume", "schema", "sweep",
];

/// The configuration file, read and checked for form.
#[derive(Debug, Clone, Default)]
pub struct ConfigFile {
    name: String,
    entries: Vec<Entry>,
}

/// One `key = value`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    /// The verb's words, empty at the top level.
    verb: Vec<String>,
    key: String,
    values: Vec<String>,
    line: u64,
}

impl ConfigFile {
    /// Reads the form of a file: keys are options, tables are verbs.
    ///
    /// # Errors
    /// [`Failure::Input`] with the line of what is not TOML, not an option, not a verb, or not a plain value.
    pub fn parse(name: &str, text: &str) -> Result<Self, Failure> {
        let line_of = |span: Range<usize>| {
            let before = text.get(..span.start).unwrap_or(text);
            before.bytes().filter(|byte| *byte == b'\n').count() as u64 + 1
        };
        let fail =
            |span: Range<usize>, rule: String| Failure::input(name, Some(line_of(span)), rule);
        let table = DeTable::parse(text)
            .map_err(|error| fail(error.span().unwrap_or(0..0), error.message().to_owned()))?;
        let mut entries = Vec::new();
        collect(
            table.get_ref(),
            &command(),
            &mut Vec::new(),
            &mut entries,
            &|span, rule| fail(span, rule),
            &line_of,
        )?;
        Ok(Self {
            name: name.to_owned(),
            entries,
        })
    }
}

fn collect(
    table: &DeTable<'_>,
    command: &Command,
    verb: &mut Vec<String>,
    entries: &mut Vec<Entry>,
    fail: &dyn Fn(Range<usize>, String) -> Failure,
    line_of: &dyn Fn(Range<usize>) -> u64,
) -> Result<(), Failure> {
    for (key, value) in table {
        let span = key.span();
        let key: &str = key.get_ref();
        if let DeValue::Table(inner) = value.get_ref() {
            let Some(sub) = command
                .find_subcommand(key)
                .filter(|sub| !sub.is_hide_set())
            else {
                return Err(fail(span, format!("`{key}` is not a verb")));
            };
            verb.push(settings_of(sub.get_name()).to_owned());
            collect(inner, sub, verb, entries, fail, line_of)?;
            verb.pop();
            continue;
        }
        if !has_option(command, key) {
            return Err(fail(span, format!("`{key}` is not an option")));
        }
        let values = plain(value).map_err(|rule| fail(value.span(), format!("{key}: {rule}")))?;
        entries.push(Entry {
            verb: verb.clone(),
            key: key.to_owned(),
            values,
            line: line_of(span),
        });
    }
    Ok(())
}

/// Whether a verb or one below it has the option.
fn has_option(command: &Command, long: &str) -> bool {
    command
        .get_arguments()
        .any(|arg| is_setting(arg) && arg.get_long() == Some(long))
        || command.get_subcommands().any(|sub| has_option(sub, long))
}

fn plain(value: &Spanned<DeValue<'_>>) -> Result<Vec<String>, &'static str> {
    let word = |value: &DeValue<'_>| match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(number) if number.radix() == 10 => Some(number.as_str().to_owned()),
        DeValue::Float(number) => Some(number.as_str().to_owned()),
        DeValue::Boolean(yes) => Some(yes.to_string()),
        _ => None,
    };
    const RULE: &str = "a value is a string, a decimal number, a boolean or a list of those";
    match value.get_ref() {
        DeValue::Array(items) => items
            .iter()
            .map(|item| word(item.get_ref()).ok_or(RULE))
            .collect(),
        single => Ok(vec![word(single).ok_or(RULE)?]),
    }
}

/// The place of the configuration file: `FLOATER_CONFIG`, else below `XDG_CONFIG_HOME`, else below `~/.config`. With
/// whether it has to exist.
#[must_use]
pub fn path(env: &dyn Fn(&str) -> Option<OsString>) -> Option<(PathBuf, bool)> {
    let set = |name: &str| {
        env(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    if let Some(path) = set("FLOATER_CONFIG") {
        return Some((path, true));
    }
    let base = set("XDG_CONFIG_HOME")
        .filter(|path| path.is_absolute())
        .or_else(|| set("HOME").map(|home| home.join(".config")))?;
    Some((base.join("floater/config.toml"), false))
}

/// Reads the configuration file where there is one.
///
/// # Errors
/// [`Failure::Input`] when it cannot be read or breaks a rule of form.
pub fn read(env: &dyn Fn(&str) -> Option<OsString>) -> Result<Option<ConfigFile>, Failure> {
    let Some((path, required)) = path(env) else {
        return Ok(None);
    };
    let name = path.display().to_string();
    match std::fs::read_to_string(&path) {
        Ok(text) => ConfigFile::parse(&name, &text).map(Some),
        Err(error)
            if !required
                && matches!(
                    error.kind(),
                    std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory
                ) =>
        {
            Ok(None)
        }
        Err(error) => Err(Failure::input(name, None, error)),
    }
}

/// Variables that are no options: the place of the file, what the gate and labs read, and the environment of a floater, in
/// whose network this program may have been started.
const OTHERS: [&str; 13] = [
    "FLOATER_API_PORT",
    "FLOATER_BIND",
    "FLOATER_CLUSTER_ID",
    "FLOATER_CONFIG",
    "FLOATER_LAB",
    "FLOATER_LAB_ROOT",
    "FLOATER_LAYER",
    "FLOATER_LOG",
    "FLOATER_NODE",
    "FLOATER_REQUIRE",
    "FLOATER_RUN",
    "FLOATER_RUN_KEY",
    "FLOATER_TTL_SECONDS",
];

/// One sentence for each variable that begins like an option's and is none: somebody believes that it does something.
#[must_use]
pub fn unknown_variables<'a>(names: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut known: BTreeSet<String> = OTHERS.iter().map(|name| (*name).to_owned()).collect();
    variables(&command(), &mut Vec::new(), &mut known);
    names
        .filter(|name| name.starts_with("FLOATER_") && !known.contains(*name))
        .map(|name| {
            let near = nearest(name, known.iter().map(String::as_str), 1);
            format!(
                "{name} in the environment is no option and does nothing; near it: {}",
                near.join(", ")
            )
        })
        .collect()
}

/// Every variable of a verb and those below it.
fn variables(command: &Command, verb: &mut Vec<String>, known: &mut BTreeSet<String>) {
    let upper = |text: &str| text.to_ascii_uppercase().replace('-', "_");
    let prefix: String = verb.iter().map(|word| upper(word) + "_").collect();
    let options = command.get_arguments().filter(|arg| is_setting(arg));
    for long in options.filter_map(Arg::get_long) {
        known.insert(format!("FLOATER_{}", upper(long)));
        known.insert(format!("FLOATER_{prefix}{}", upper(long)));
    }
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
        verb.push(settings_of(sub.get_name()).to_owned());
        variables(sub, verb, known);
        verb.pop();
    }
}

/// The whole command line with every layer applied.
///
/// # Errors
/// [`Failure::Clap`] for the command line itself, [`Failure::Usage`] naming the variable for the environment,
/// [`Failure::Input`] with file and line for the configuration file.
pub fn parse(
    argv: Vec<OsString>,
    env: &dyn Fn(&str) -> Option<OsString>,
    file: Option<&ConfigFile>,
) -> Result<Cli, Failure> {
    let mut words = argv;
    let first = command().try_get_matches_from(&words)?;
    let (path, leaf, position) = locate(&words, &first);
    let mut matches = first;
    let mut seen = BTreeSet::new();
    let given = |matches: &ArgMatches, arg: &Arg| {
        leaf_of(matches).value_source(arg.get_id().as_str()) == Some(ValueSource::CommandLine)
    };
    let args: Vec<Arg> = leaf
        .get_arguments()
        .chain(command().get_arguments().filter(|arg| arg.is_global_set()))
        .filter(|arg| is_setting(arg) && !given(&matches, arg))
        .filter(|arg| seen.insert(arg.get_id().to_string()))
        .cloned()
        .collect();
    for layer in [Layer::Environment, Layer::File] {
        for arg in &args {
            if given(&matches, arg) {
                continue;
            }
            let found = match layer {
                Layer::Environment => from_environment(arg, &path, env),
                Layer::File => file.and_then(|file| from_file(arg, &path, file)),
            };
            let Some(Candidate { values, origin }) = found else {
                continue;
            };
            let blame = |rule: String| match &origin {
                Origin::Variable(name) => Failure::Usage(format!("{name}: {rule}")),
                Origin::Line(file, line) => Failure::input(file, Some(*line), rule),
            };
            let extra = as_words(arg, &values).map_err(&blame)?;
            let mut longer = words.clone();
            longer.splice(position..position, extra);
            match command().try_get_matches_from(&longer) {
                Ok(better) => {
                    words = longer;
                    matches = better;
                }
                // The higher layer said otherwise, and it wins.
                Err(error) if error.kind() == ErrorKind::ArgumentConflict => {}
                Err(error) => return Err(blame(exit::one_line(&error))),
            }
        }
    }
    Ok(Cli::from_arg_matches(&matches)?)
}

#[derive(Clone, Copy)]
enum Layer {
    Environment,
    File,
}

struct Candidate {
    values: Vec<String>,
    origin: Origin,
}

enum Origin {
    Variable(String),
    Line(String, u64),
}

/// The command with the texts that belong to the whole.
#[must_use]
pub fn command() -> Command {
    let mut command = Cli::command();
    command.build();
    command
}

fn is_setting(arg: &Arg) -> bool {
    arg.get_long().is_some()
        && !DEEDS.contains(&arg.get_id().as_str())
        && !matches!(
            arg.get_action(),
            ArgAction::Help | ArgAction::HelpLong | ArgAction::HelpShort | ArgAction::Version
        )
}

/// The verb's words, its definition, and where in the command line more options may stand: right behind it.
fn locate(words: &[OsString], matches: &ArgMatches) -> (Vec<String>, Command, usize) {
    let mut here = command();
    let mut matches = matches;
    let mut path = Vec::new();
    let mut position = 1;
    while let Some((name, inner)) = matches.subcommand() {
        let Some(sub) = here.find_subcommand(name).cloned() else {
            break;
        };
        let is_name = |word: &OsString| {
            word.to_str().is_some_and(|word| {
                word == name || sub.get_all_aliases().any(|alias| alias == word)
            })
        };
        position += words
            .iter()
            .skip(position)
            .position(is_name)
            .map_or(0, |index| index + 1);
        path.push(settings_of(name).to_owned());
        here = sub;
        matches = inner;
    }
    (path, here, position)
}

/// The verb whose settings count: `check` is another name of `dr`.
fn settings_of(verb: &str) -> &str {
    if verb == "check" { "dr" } else { verb }
}

fn leaf_of(matches: &ArgMatches) -> &ArgMatches {
    let mut leaf = matches;
    while let Some((_, inner)) = leaf.subcommand() {
        leaf = inner;
    }
    leaf
}

fn from_environment(
    arg: &Arg,
    path: &[String],
    env: &dyn Fn(&str) -> Option<OsString>,
) -> Option<Candidate> {
    let upper = |text: &str| text.to_ascii_uppercase().replace('-', "_");
    let option = upper(arg.get_long()?);
    let verb = upper(&path.join("_"));
    for name in [
        format!("FLOATER_{verb}_{option}"),
        format!("FLOATER_{option}"),
    ] {
        let Some(value) = env(&name).filter(|value| !value.is_empty()) else {
            continue;
        };
        let value = value.to_string_lossy().into_owned();
        let separator = if arg.get_id() == "kubeconfig" {
            ':'
        } else {
            ','
        };
        let values = match arg.get_action() {
            ArgAction::Append => value
                .split(separator)
                .filter(|part| !part.is_empty())
                .map(str::to_owned)
                .collect(),
            _ => vec![value],
        };
        return Some(Candidate {
            values,
            origin: Origin::Variable(name),
        });
    }
    None
}

fn from_file(arg: &Arg, path: &[String], file: &ConfigFile) -> Option<Candidate> {
    let long = arg.get_long()?;
    // The most specific table that has it.
    (0..=path.len()).rev().find_map(|depth| {
        let entry = file
            .entries
            .iter()
            .find(|entry| entry.key == long && entry.verb == path[..depth])?;
        Some(Candidate {
            values: entry.values.clone(),
            origin: Origin::Line(file.name.clone(), entry.line),
        })
    })
}

/// The words of a command line that say the same.
fn as_words(arg: &Arg, values: &[String]) -> Result<Vec<OsString>, String> {
    let long = arg.get_long().unwrap_or_default();
    let single = || match values {
        [value] => Ok(value.as_str()),
        _ => Err(format!("{long} takes one value")),
    };
    match arg.get_action() {
        ArgAction::SetTrue => match single()? {
            "true" | "1" | "yes" => Ok(vec![format!("--{long}").into()]),
            "false" | "0" | "no" => Ok(Vec::new()),
            other => Err(format!("{long} is true or false, not `{other}`")),
        },
        ArgAction::Count => match single()?.parse::<u8>() {
            Ok(times) if times <= 4 => Ok(vec![format!("--{long}").into(); usize::from(times)]),
            _ => Err(format!("{long} is a number from 0 to 4")),
        },
        ArgAction::Append => Ok(values
            .iter()
            .map(|value| format!("--{long}={value}").into())
            .collect()),
        _ => Ok(vec![format!("--{long}={}", single()?).into()]),
    }
}
