//! SIGINT and SIGTERM as one event that can be waited for from many places.

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// Whether somebody has asked the program to end. Clones see the same.
#[derive(Debug, Clone)]
pub struct Interrupt(watch::Receiver<bool>);

impl Interrupt {
    /// Catches both signals from now on; to be called within a runtime.
    ///
    /// # Errors
    /// The system's, when no handler can be installed.
    pub fn catch() -> std::io::Result<Self> {
        let mut int = signal(SignalKind::interrupt())?;
        let mut term = signal(SignalKind::terminate())?;
        let (sender, receiver) = watch::channel(false);
        tokio::spawn(async move {
            // A second signal changes nothing: removal is bounded and goes on.
            loop {
                tokio::select! {
                    _ = int.recv() => {}
                    _ = term.recv() => {}
                }
                if sender.send(true).is_err() {
                    return;
                }
            }
        });
        Ok(Self(receiver))
    }

    /// One that comes when somebody says so.
    pub(crate) fn switch() -> (watch::Sender<bool>, Self) {
        let (sender, receiver) = watch::channel(false);
        (sender, Self(receiver))
    }

    /// Whether it has come.
    #[must_use]
    pub fn has_come(&self) -> bool {
        *self.0.borrow()
    }

    /// Waits until it comes; for ever, if it cannot come any more.
    pub async fn come(mut self) {
        if self.0.wait_for(|come| *come).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_clone_sees_it_also_afterwards() {
        let (sender, receiver) = watch::channel(false);
        let (one, other) = (Interrupt(receiver.clone()), Interrupt(receiver));
        assert!(!one.has_come());
        sender.send(true).expect("there are receivers");
        one.clone().come().await;
        other.come().await;
        assert!(one.has_come());
    }
}
