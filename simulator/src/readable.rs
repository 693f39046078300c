//! Waiting, without a thread, for a descriptor to become readable.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::unix::AsyncFd;

/// A descriptor that the runtime watches.
#[derive(Debug)]
pub(crate) struct Readable(AsyncFd<OwnedFd>);

impl Readable {
    /// Registers a descriptor with the runtime of the calling task.
    pub(crate) fn new(fd: OwnedFd) -> io::Result<Self> {
        // What `register` wants its caller to promise, that the descriptor stays open and the same, OwnedFd does promise.
        #[expect(deprecated, reason = "this crate holds no unsafe code")]
        AsyncFd::new(fd).map(Self)
    }

    /// Waits until it is readable. Dropping the future loses nothing.
    pub(crate) async fn wait(&self) -> io::Result<()> {
        self.0
            .readable()
            .await
            .map(|mut ready| ready.retain_ready())
    }

    /// Waits until it is readable, and takes the news: the next call waits for more, once what there is has been read.
    pub(crate) async fn take(&self) -> io::Result<()> {
        self.0.readable().await.map(|mut ready| ready.clear_ready())
    }
}
