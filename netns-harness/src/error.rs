//! What can go wrong between this process and the kernel.

use std::io;

/// An operation that the kernel refused.
#[derive(Debug, thiserror::Error)]
#[error("{doing}{}", .hint.as_deref().map(|hint| format!(" ({hint})")).unwrap_or_default())]
pub struct Error {
    /// The operation and its object.
    pub doing: String,
    /// The kernel's own text, where it gave any (`NLMSGERR_ATTR_MSG`).
    pub hint: Option<String>,
    /// Its errno.
    #[source]
    pub source: io::Error,
}

impl Error {
    /// An operation and what the system said to it.
    pub fn new(doing: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self {
            doing: doing.into(),
            hint: None,
            source: source.into(),
        }
    }

    /// For `map_err`: names the operation.
    pub fn doing<E: Into<io::Error>>(doing: impl Into<String>) -> impl FnOnce(E) -> Self {
        move |source| Self::new(doing, source)
    }

    /// Whether what was to be made is there already (`EEXIST`).
    #[must_use]
    pub fn is_already_there(&self) -> bool {
        self.source.raw_os_error() == Some(libc::EEXIST)
    }

    /// Whether what was to be removed is gone already (`ENOENT`, `ESRCH`, `ENODEV`, `EADDRNOTAVAIL`).
    #[must_use]
    pub fn is_already_gone(&self) -> bool {
        matches!(
            self.source.raw_os_error(),
            Some(libc::ENOENT | libc::ESRCH | libc::ENODEV | libc::EADDRNOTAVAIL)
        )
    }
}
