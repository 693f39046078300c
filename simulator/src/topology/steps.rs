//! What a scenario does one after the other: a step is a mapping of one key.
//!
//! ```yaml
//! steps:
//!   - dr: {expect: [{verdict: healthy}]}
//!   - fault: {code: FDB-MISSING, at: east/n1, peer: west}
//!   - dr: {expect: [{code: FDB-MISSING, at: east/n1}]}
//!   - clear: all
//!   - freeze: east/n1
//!   - exec: {at: east/n1, run: ip route del 10.2.0.0/24 table 200}
//!   - thaw: all
//!   - wait: {at: east/n1, run: ip route show table 200, contains: 10.2.0.0/24, within: 10s}
//! ```

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_saphyr::Spanned;

use super::document::{RawExec, RawStep, RawWait};
use super::draft::Refusal;
use super::rules::{duration, expectation, fault, line, place, refuse};
use super::{Cluster, Expect, Fault};

/// What means all of them.
const ALL: &str = "all";
/// The most words of a command.
const WORDS: usize = 1000;

/// One thing that a scenario does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Step {
    /// Repairs everything that was broken on purpose.
    Clear,
    /// Diagnoses the fleet, and compares what was found.
    Dr(Vec<Expect>),
    /// Runs a program, and compares what it answered.
    Exec(Exec),
    /// Breaks something.
    Fault(Fault),
    /// Stops the datapath's programs, everywhere or at `CLUSTER[/NODE]`.
    Freeze(Option<String>),
    /// Lets them go on.
    Thaw(Option<String>),
    /// Runs a program again and again until it answers as expected, at most for so long.
    Wait(Exec, Duration),
}

/// A program in the network of a place, and what it should answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exec {
    /// `CLUSTER/NODE`, `CLUSTER/NODE/POD` or `underlay`.
    pub at: String,
    /// The program and its arguments.
    pub run: Vec<String>,
    /// The exit code.
    pub code: i32,
    /// A text that its standard output contains.
    pub contains: Option<String>,
    /// A text that it does not contain.
    pub lacks: Option<String>,
}

impl Step {
    /// Whether it can hold or not.
    #[must_use]
    pub fn expects(&self) -> bool {
        match self {
            Self::Dr(expect) => !expect.is_empty(),
            Self::Exec(_) | Self::Wait(..) => true,
            Self::Clear | Self::Fault(_) | Self::Freeze(_) | Self::Thaw(_) => false,
        }
    }
}

impl Exec {
    /// Why an answer is not the expected one; none where it is.
    #[must_use]
    pub fn refused(&self, code: Option<i32>, stdout: &str) -> Option<String> {
        if code != Some(self.code) {
            return Some(match code {
                Some(code) => format!("exit code {code}"),
                None => "a signal ended it".to_owned(),
            });
        }
        let contains =
            |text: &Option<String>| text.as_ref().is_some_and(|text| stdout.contains(text));
        if self.contains.is_some() && !contains(&self.contains) || contains(&self.lacks) {
            return Some(format!("it printed `{}`", stdout.trim_end()));
        }
        None
    }
}

impl fmt::Display for Exec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` at {}", self.run.join(" "), self.at)?;
        match (self.code, &self.contains) {
            (0, None) => f.write_str(" succeeds")?,
            (0, Some(text)) => write!(f, " prints `{text}`")?,
            (code, _) => write!(f, " ends with {code}")?,
        }
        match &self.lacks {
            Some(text) => write!(f, " without `{text}`"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = |at: &Option<String>| at.clone().unwrap_or_else(|| ALL.to_owned());
        match self {
            Self::Clear => f.write_str("clear"),
            Self::Dr(_) => f.write_str("dr"),
            Self::Exec(exec) => write!(f, "{exec}"),
            Self::Fault(fault) => write!(f, "fault {} at {}", fault.code, fault.at),
            Self::Freeze(place) => write!(f, "freeze {}", at(place)),
            Self::Thaw(place) => write!(f, "thaw {}", at(place)),
            Self::Wait(exec, within) => write!(f, "{exec} within {within:?}"),
        }
    }
}

/// Checks a step.
pub(super) fn step(raw: &Spanned<RawStep>, clusters: &[Cluster]) -> Result<Step, Refusal> {
    let at = line(raw);
    let RawStep {
        fault: broken,
        clear,
        freeze,
        thaw,
        exec,
        wait,
        dr,
    } = &raw.value;
    let keys = [
        broken.is_some(),
        clear.is_some(),
        freeze.is_some(),
        thaw.is_some(),
        exec.is_some(),
        wait.is_some(),
        dr.is_some(),
    ];
    if keys.iter().filter(|is_there| **is_there).count() != 1 {
        return refuse(
            at,
            "a step has one of `fault`, `clear`, `freeze`, `thaw`, `exec`, `wait`, `dr`",
        );
    }
    if let Some(raw) = broken {
        return Ok(Step::Fault(fault(raw, clusters)?));
    }
    if let Some(word) = clear {
        return match word.value == ALL {
            true => Ok(Step::Clear),
            false => refuse(
                line(word),
                format!("clear takes `{ALL}`, not `{}`", word.value),
            ),
        };
    }
    if let Some(word) = freeze {
        return Ok(Step::Freeze(scope(word, clusters)?));
    }
    if let Some(word) = thaw {
        return Ok(Step::Thaw(scope(word, clusters)?));
    }
    if let Some(raw) = exec {
        return Ok(Step::Exec(command(&raw.value, clusters)?));
    }
    if let Some(raw) = wait {
        return waits(&raw.value, clusters);
    }
    let raw = dr.as_ref().map(|raw| &raw.value.expect);
    let expect = raw
        .into_iter()
        .flatten()
        .map(|raw| expectation(raw, clusters));
    Ok(Step::Dr(expect.collect::<Result<_, _>>()?))
}

/// `all`, or a cluster or node.
fn scope(word: &Spanned<String>, clusters: &[Cluster]) -> Result<Option<String>, Refusal> {
    if word.value == ALL {
        return Ok(None);
    }
    place(word, clusters)?;
    Ok(Some(word.value.clone()))
}

fn waits(raw: &RawWait, clusters: &[Cluster]) -> Result<Step, Refusal> {
    let RawWait {
        at,
        run,
        code,
        contains,
        lacks,
        within,
    } = raw;
    let exec = RawExec {
        at: at.clone(),
        run: run.clone(),
        code: code.clone(),
        contains: contains.clone(),
        lacks: lacks.clone(),
    };
    let within = duration(within, "within", 3600.0)?;
    Ok(Step::Wait(command(&exec, clusters)?, within))
}

fn command(raw: &RawExec, clusters: &[Cluster]) -> Result<Exec, Refusal> {
    let at = &raw.at;
    if at.value != "underlay" {
        let mut words = at.value.splitn(3, '/');
        let (cluster, node) = (words.next().unwrap_or_default(), words.next());
        let Some(node) = node else {
            return refuse(
                line(at),
                format!(
                    "place `{}` is no CLUSTER/NODE[/POD] and not `underlay`",
                    at.value
                ),
            );
        };
        let of_node = Spanned {
            value: format!("{cluster}/{node}"),
            ..at.clone()
        };
        place(&of_node, clusters)?;
        if clusters
            .iter()
            .any(|known| known.name == cluster && known.is_virtual)
        {
            return refuse(
                line(at),
                format!("`{cluster}` is virtual: there is no network in which a program could run"),
            );
        }
    }
    let run = raw.run.value.0.clone();
    if run.is_empty() || run.len() > WORDS {
        return refuse(
            line(&raw.run),
            format!("`run` is a program and its arguments, {WORDS} words at most"),
        );
    }
    let code = match &raw.code {
        Some(code) if !(0..=255).contains(&code.value) => {
            return refuse(
                line(code),
                format!("an exit code is from 0 to 255, not {}", code.value),
            );
        }
        Some(code) => i32::try_from(code.value).unwrap_or_default(),
        None => 0,
    };
    Ok(Exec {
        at: at.value.clone(),
        run,
        code,
        contains: raw.contains.clone(),
        lacks: raw.lacks.clone(),
    })
}
