//! What can go wrong with a lab, by what the caller can do about it.

/// Why a lab could not be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Error {
    /// The lab itself failed; nothing in the input is to blame. Exit code 1.
    #[error("{doing}: {why}")]
    Failed {
        /// The operation and its object.
        doing: String,
        /// What stopped it.
        why: String,
    },
    /// The input breaks a rule. Exit code 65.
    #[error("{file}{}: {rule}", .line.map(|line| format!(":{line}")).unwrap_or_default())]
    Input {
        /// Where it came from: a file, or the argument that held it.
        file: String,
        /// The line, from 1; none where the input has no lines.
        line: Option<u64>,
        /// The rule that it breaks.
        rule: String,
    },
    /// This machine lacks something. Exit code 69.
    #[error("{what} is not available here: {why}")]
    Missing {
        /// What is lacking.
        what: String,
        /// How that was found out.
        why: String,
    },
}

impl Error {
    /// An argument, rather than a file, that breaks a rule.
    pub fn argument(name: &str, rule: impl Into<String>) -> Self {
        Self::Input {
            file: name.to_owned(),
            line: None,
            rule: rule.into(),
        }
    }

    /// For `map_err`: names the operation that failed, with all causes.
    pub fn failed<E: std::error::Error>(doing: impl Into<String>) -> impl FnOnce(E) -> Self {
        move |error| Self::Failed {
            doing: doing.into(),
            why: chain(&error),
        }
    }

    /// The exit code that a command ends with.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Failed { .. } => 1,
            Self::Input { .. } => 65,
            Self::Missing { .. } => 69,
        }
    }
}

impl From<netns_harness::Error> for Error {
    fn from(error: netns_harness::Error) -> Self {
        let why = match &error.hint {
            Some(hint) => format!("{} ({hint})", error.source),
            None => error.source.to_string(),
        };
        Self::Failed {
            doing: error.doing,
            why,
        }
    }
}

/// An error and its causes, joined by colons.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
