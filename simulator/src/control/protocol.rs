//! What a lab and its callers say to each other, and over what.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Caller, Status};
use crate::Error;
use crate::topology::Topology;

/// The line on a lab's standard input.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Order {
    pub(crate) topology: Topology,
    /// The lab ends when its standard input does.
    pub(crate) tied: bool,
    pub(crate) caller: Caller,
}

/// The line on a lab's standard output.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Ready {
    /// It could not be built, and nothing is left of it.
    Failed(Error),
    /// Everything is ready.
    Up,
}

/// A line on the control socket; one per connection.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Request {
    Clear,
    Exec { place: String },
    Freeze { at: Option<String> },
    Inject { code: String, at: String },
    Status,
    Thaw { at: Option<String> },
}

/// The answer, as `Ok` or `Err` of an [`Error`], after a byte that carries the descriptors.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Answer {
    Done,
    /// The network namespace came along, then the user namespace where the lab has one.
    Entered {
        /// The lab's mark.
        id: String,
    },
    Status(Box<Status>),
}

const SOCKET: &str = "control.sock";

/// A path through the folder's descriptor: the kernel allows no more than 107 bytes for a socket's.
fn short(folder: &Path) -> io::Result<(File, PathBuf)> {
    let opened = File::open(folder)?;
    let path = PathBuf::from(format!("/proc/self/fd/{}/{SOCKET}", opened.as_raw_fd()));
    Ok((opened, path))
}

/// Listens in a lab's folder.
pub(crate) fn listen(folder: &Path) -> io::Result<UnixListener> {
    let (_open, path) = short(folder)?;
    UnixListener::bind(path)
}

/// Connects to the lab of a folder.
pub(crate) fn connect(folder: &Path) -> io::Result<UnixStream> {
    let (_open, path) = short(folder)?;
    UnixStream::connect(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_may_lie_deeper_than_its_address_is_long() {
        let root = tempfile::tempdir().expect("tempdir");
        let deep = root.path().join("x".repeat(120)).join("y".repeat(60));
        std::fs::create_dir_all(&deep).expect("make");
        let listener = listen(&deep).expect("listen");
        connect(&deep).expect("connect");
        listener.accept().expect("accept");
    }
}
