//! What can stop a run, by what the caller can do about it.
//!
//! A cluster, node or floater that does not answer is not an error: it is a reason in the evidence.

/// Why there is no report.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A file breaks a rule. Never holds text of the file: a kubeconfig is full of secrets.
    #[error("{file}{}: {rule}", line.map(|line| format!(":{line}")).unwrap_or_default())]
    Input {
        /// The file, or what stands for it.
        file: String,
        /// The line, from 1; none where the file as a whole is meant.
        line: Option<u64>,
        /// The rule that it breaks.
        rule: String,
    },
    /// This program itself failed.
    #[error("internal error: {0}")]
    Internal(String),
    /// Somebody interrupted the run; what it had made is removed.
    #[error("interrupted{}", left_behind(left))]
    Interrupted {
        /// What could not be removed, and why; empty when all was.
        left: Vec<String>,
    },
    /// There is nothing to work with.
    #[error("{what}: {why}")]
    Missing {
        /// What is missing.
        what: String,
        /// Why.
        why: String,
    },
    /// Flags that contradict each other or a value outside its set.
    #[error("{0}")]
    Usage(String),
}

impl Error {
    /// A file that breaks a rule.
    pub fn input(file: impl Into<String>, line: Option<u64>, rule: impl Into<String>) -> Self {
        Self::Input {
            file: file.into(),
            line: line.filter(|line| *line > 0),
            rule: rule.into(),
        }
    }

    /// The exit code that the command line promises for it.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Input { .. } => 65,
            Self::Internal(_) => 70,
            Self::Interrupted { .. } => 130,
            Self::Missing { .. } => 69,
            Self::Usage(_) => 64,
        }
    }
}

fn left_behind(left: &[String]) -> String {
    if left.is_empty() {
        "; everything that the run had made is removed".to_owned()
    } else {
        format!("; not removed: {}", left.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_input_error_names_file_line_and_rule() {
        let error = Error::input("a.yaml", Some(3), "is empty");
        assert_eq!(error.to_string(), "a.yaml:3: is empty");
        assert_eq!(error.exit_code(), 65);
        assert_eq!(
            Error::input("a.yaml", Some(0), "is empty").to_string(),
            "a.yaml: is empty"
        );
    }

    #[test]
    fn every_error_has_the_exit_code_of_its_kind() {
        let missing = Error::Missing {
            what: "no cluster".into(),
            why: "none answers".into(),
        };
        assert_eq!(missing.exit_code(), 69);
        assert_eq!(Error::Usage(String::new()).exit_code(), 64);
        assert_eq!(Error::Internal("a task died".into()).exit_code(), 70);
        let interrupted = Error::Interrupted {
            left: vec!["east: DaemonSet floater-x: 403".into()],
        };
        assert_eq!(interrupted.exit_code(), 130);
        assert_eq!(
            interrupted.to_string(),
            "interrupted; not removed: east: DaemonSet floater-x: 403"
        );
    }
}
