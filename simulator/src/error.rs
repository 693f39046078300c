//! What can go wrong with a lab, by what the caller can do about it.

use nix::sys::resource::{Resource, getrlimit};

/// Why a lab could not be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Error {
    /// The lab itself failed; nothing in the input is to blame. Exit code 70.
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
    /// This machine lacks something, or a limit of it is exhausted. Exit code 69.
    #[error("{what}: {why}")]
    Missing {
        /// What could not be done, and to what.
        what: String,
        /// What is lacking, by its name, and what to do about it.
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

    /// For `map_err`: names the operation that failed, with all causes. What failed for an exhausted limit of this machine is
    /// [`Self::Missing`].
    pub fn failed<E: std::error::Error + 'static>(
        doing: impl Into<String>,
    ) -> impl FnOnce(E) -> Self {
        move |error| Self::of(doing.into(), chain(&error), errno_of(&error))
    }

    fn of(doing: String, why: String, errno: Option<i32>) -> Self {
        match errno.and_then(exhausted) {
            Some(limit) => Self::Missing {
                what: doing,
                why: format!("{why}: {limit}"),
            },
            None => Self::Failed { doing, why },
        }
    }

    /// The exit code that a command ends with.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Failed { .. } => 70,
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
        Self::of(error.doing, why, error.source.raw_os_error())
    }
}

/// The number of the system's error behind another one.
fn errno_of(error: &(dyn std::error::Error + 'static)) -> Option<i32> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<std::io::Error>() {
            return error.raw_os_error();
        }
        if let Some(errno) = error.downcast_ref::<nix::errno::Errno>() {
            return Some(*errno as i32);
        }
        cause = error.source();
    }
    None
}

/// What there is no more of, by the names under which an administrator knows it; none for other errors.
fn exhausted(errno: i32) -> Option<String> {
    Some(match errno {
        libc::EMFILE => {
            let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(soft, _)| soft);
            format!("this process may have {limit} descriptors (`ulimit -n`)")
        }
        libc::ENFILE => "the machine has no more descriptors (sysctl fs.file-max)".to_owned(),
        libc::EAGAIN => {
            "no more processes or threads (`ulimit -u`, or `pids.max` of the control group)"
                .to_owned()
        }
        libc::ENOSPC => "a disk is full, or a limit of the kernel is reached".to_owned(),
        libc::EDQUOT => "this user's quota of a disk is used up".to_owned(),
        libc::ENOMEM | libc::ENOBUFS => "the kernel has no more memory".to_owned(),
        _ => return None,
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exhausted_limit_is_what_the_machine_lacks_and_is_named() {
        for (errno, named) in [
            (libc::EMFILE, "ulimit -n"),
            (libc::ENFILE, "fs.file-max"),
            (libc::EAGAIN, "pids.max"),
            (libc::ENOSPC, "full"),
            (libc::ENOMEM, "memory"),
        ] {
            let source = || std::io::Error::from_raw_os_error(errno);
            for error in [
                Error::failed("open a thing")(source()),
                Error::failed("open a thing")(nix::errno::Errno::from_raw(errno)),
                // Behind another error.
                Error::failed("open a thing")(netns_harness::Error::new("inside", source())),
                netns_harness::Error::new("open a thing", source()).into(),
            ] {
                assert_eq!(error.exit_code(), 69, "{error}");
                let text = error.to_string();
                assert!(
                    text.contains("open a thing") && text.contains(named),
                    "{text}"
                );
            }
        }
        let other = std::io::Error::from_raw_os_error(libc::EINVAL);
        assert_eq!(Error::failed("x")(other).exit_code(), 70);
    }

    #[test]
    fn the_kernels_hint_names_the_limit() {
        let mut source = netns_harness::Error::new(
            "make a network namespace",
            std::io::Error::from_raw_os_error(libc::ENOSPC),
        );
        source.hint = Some("user.max_net_namespaces is 3".to_owned());
        let error = Error::from(source);
        assert!(
            error.to_string().contains("max_net_namespaces is 3"),
            "{error}"
        );
    }
}
