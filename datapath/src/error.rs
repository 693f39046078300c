//! What can go wrong between a desired and a real state.

use std::fmt;
use std::io;

use serde::{Deserialize, Serialize};

// `errno(3)` on Linux; spelt out so that the pure build needs no libc.
const ENOENT: i32 = 2;
const ESRCH: i32 = 3;
const EINTR: i32 = 4;
const EAGAIN: i32 = 11;
const EBUSY: i32 = 16;
const EEXIST: i32 = 17;
const ENODEV: i32 = 19;
const EADDRNOTAVAIL: i32 = 99;
const ENOBUFS: i32 = 105;

/// What the kernel says where a right, a feature of it, or room is missing: EPERM, ENOMEM, EACCES, ENFILE, EMFILE, ENOSPC, EUSERS,
/// EPROTONOSUPPORT, EOPNOTSUPP, EAFNOSUPPORT, ENOBUFS.
const LACKS: &[i32] = &[1, 12, 13, 23, 24, 28, 87, 93, 95, 97, ENOBUFS];

/// An object, or a part of one, that breaks a rule and was left out.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Problem {
    /// The object, for example `cluster east` or `node east-n1`.
    pub object: String,
    /// The rule that it breaks.
    pub rule: String,
    /// The list of a NodeConfig that the object is in; none where it is in none.
    pub part: Option<Part>,
    /// What kind of rule that is.
    #[serde(default)]
    pub kind: ProblemKind,
}

/// What is wrong with an object that breaks a rule.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum ProblemKind {
    /// A field of it cannot be used, on no node.
    #[default]
    Malformed,
    /// An earlier object with the same key is kept instead.
    Repeated,
    /// The node lacks what it stands on.
    Unmet,
}

/// The lists of a NodeConfig.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    /// `arps`.
    Arp,
    /// `devices`.
    Device,
    /// `fdbs`.
    Fdb,
    /// `iptables`.
    Iptables,
    /// `routes`.
    Route,
}

impl Part {
    /// The word for one of them.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Arp => "arp",
            Self::Device => "device",
            Self::Fdb => "fdb",
            Self::Iptables => "iptables",
            Self::Route => "route",
        }
    }
}

impl Problem {
    /// A problem of one object.
    pub fn new(object: impl Into<String>, rule: impl Into<String>) -> Self {
        Self {
            object: object.into(),
            rule: rule.into(),
            part: None,
            kind: ProblemKind::Malformed,
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.object, self.rule)
    }
}

/// A failure, by what the caller can do about it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The input breaks a rule: its author must change it.
    #[error("{file}{}: {rule}", line.map(|line| format!(":{line}")).unwrap_or_default())]
    Input {
        /// The file's name, or the object's.
        file: String,
        /// The line, from 1, where it is known.
        line: Option<u64>,
        /// The rule that it breaks.
        rule: String,
    },
    /// A table changed during every attempt to read it, so that what was read may lack rows that were there all the time.
    #[error("the table of {what} changed while it was read, at every attempt")]
    Inconsistent {
        /// The table, for example `routes`.
        what: &'static str,
    },
    /// The kernel refused one operation.
    #[error("cannot {operation} {object}{}", if detail.is_empty() { String::new() } else { format!(" ({detail})") })]
    Kernel {
        /// The verb, for example `add route`.
        operation: &'static str,
        /// The object, as [`crate::diff::name_of`] names it.
        object: String,
        /// What the kernel said beyond the number (`NLMSGERR_ATTR_MSG`); often empty.
        detail: String,
        /// The number.
        #[source]
        errno: io::Error,
    },
    /// This place lacks something that the work needs.
    #[error("{what} is missing: {why}")]
    Missing {
        /// What is missing.
        what: String,
        /// How that showed.
        why: String,
    },
    /// An output could not be written.
    #[error("{name} could not be written")]
    Output {
        /// Its file, or `stdout`.
        name: String,
        /// Why not.
        #[source]
        why: io::Error,
    },
}

impl Error {
    /// A refusal by the kernel.
    pub fn kernel(operation: &'static str, object: impl Into<String>, errno: i32) -> Self {
        Self::Kernel {
            operation,
            object: object.into(),
            detail: String::new(),
            errno: io::Error::from_raw_os_error(errno),
        }
    }

    fn errno(&self) -> Option<i32> {
        match self {
            Self::Kernel { errno, .. } => errno.raw_os_error(),
            _ => None,
        }
    }

    /// Whether the same operation may succeed later, or at once.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Inconsistent { .. })
            || matches!(self.errno(), Some(EAGAIN | EBUSY | EINTR | ENOBUFS))
    }

    /// Whether what was to be added exists.
    #[must_use]
    pub fn is_already_there(&self) -> bool {
        self.errno() == Some(EEXIST)
    }

    /// Whether what was to be removed, or what it was on, does not exist.
    #[must_use]
    pub fn is_already_gone(&self) -> bool {
        matches!(self.errno(), Some(EADDRNOTAVAIL | ENODEV | ENOENT | ESRCH))
    }

    /// The failure as a problem of the object that it struck.
    #[must_use]
    pub fn problem(&self) -> Problem {
        let source = std::error::Error::source(self)
            .map(|source| format!(": {source}"))
            .unwrap_or_default();
        let object = match self {
            Self::Input { file, .. } => file.clone(),
            Self::Inconsistent { what } => (*what).to_owned(),
            Self::Kernel { object, .. } => object.clone(),
            Self::Missing { what, .. } => what.clone(),
            Self::Output { name, .. } => name.clone(),
        };
        Problem::new(object, format!("{self}{source}"))
    }

    /// The exit code of a program that ends by it. None is 1, which means a difference or a finding and nothing else: what the kernel
    /// refuses for lack of a right, a feature or room is 69, any other refusal 70.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Input { .. } => 65,
            Self::Missing { .. } => 69,
            Self::Kernel { .. } if matches!(self.errno(), Some(errno) if LACKS.contains(&errno)) => {
                69
            }
            Self::Inconsistent { .. } | Self::Kernel { .. } => 70,
            Self::Output { .. } => 74,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_failure_has_the_exit_code_of_its_kind() {
        let refused = |errno| Error::kernel("add route", "10.0.0.0/8", errno).exit_code();
        for errno in LACKS {
            assert_eq!(refused(*errno), 69, "{errno}");
        }
        for errno in [EEXIST, ENODEV, EBUSY, 22] {
            assert_eq!(refused(errno), 70, "{errno}");
        }
        assert_eq!(Error::Inconsistent { what: "routes" }.exit_code(), 70);
        let output = Error::Output {
            name: "stdout".to_owned(),
            why: io::Error::from_raw_os_error(28),
        };
        assert_eq!(output.exit_code(), 74);
    }
}
