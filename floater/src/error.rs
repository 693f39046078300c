//! What can keep a floater from living.

use std::io;

/// By what the caller can do about it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A setting is missing or out of its set: change it.
    #[error("{variable}: {rule}")]
    Setting {
        /// The environment variable.
        variable: String,
        /// What it has to be.
        rule: String,
    },
    /// The system refused a socket: a port in use, a missing capability.
    #[error("cannot {doing}")]
    Socket {
        /// What was tried.
        doing: String,
        /// The system's words.
        #[source]
        source: io::Error,
    },
    /// The certificate of the API could not be made.
    #[error("cannot make a certificate: {0}")]
    Certificate(String),
}

impl Error {
    /// The exit code of a program that ends with this: 65 for bad input, 69 for what the system lacks.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Setting { .. } => 65,
            Self::Certificate(_) | Self::Socket { .. } => 69,
        }
    }
}
