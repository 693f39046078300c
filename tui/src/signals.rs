//! What ends a run early, as one event that can be waited for from many places: SIGHUP, SIGINT, SIGTERM, and a terminal or
//! pipe behind stderr that is gone.
//!
//! ```text
//! start ──► Held: signals wait ──┬─► catch: handled, each is an interruption     (whatever makes something)
//!                                └─► drop: the system's default, the program ends (whatever makes nothing)
//! ```
//! The signals are handled also where the program inherited them as ignored, as a shell does for `command &` and `nohup`
//! does: who sends one wants the run to end, and a run that is ended otherwise leaves its objects behind.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use nix::sys::signal::{SigSet, Signal};
use signal_hook::iterator::Signals;
use tokio::sync::watch;

use crate::{exit, progress};

/// The signals that mean: end, and remove what was made.
const SIGNALS: [Signal; 3] = [Signal::SIGHUP, Signal::SIGINT, Signal::SIGTERM];

/// What has been made, by name, and how to remove it by hand.
type Made = Arc<Mutex<BTreeMap<String, String>>>;

/// The sender of the one [`Interrupt`] that a process catches signals for.
static CAUGHT: OnceLock<watch::Sender<bool>> = OnceLock::new();

/// Signals that wait until it is known what they mean. Threads inherit this, so it is made before the first of them.
#[derive(Debug)]
pub struct Held(SigSet);

impl Held {
    /// Holds the signals back in this thread.
    #[must_use]
    pub fn hold() -> Self {
        let signals: SigSet = SIGNALS.into_iter().collect();
        // Fails for no set of valid signals.
        let _ = signals.thread_block();
        Self(signals)
    }

    /// Handles the signals from now on, those included that came while they were held back.
    ///
    /// # Errors
    /// The system's, when no handler can be installed or no thread started.
    pub fn catch(self) -> std::io::Result<Interrupt> {
        let made = Made::default();
        let mut signals = Signals::new(SIGNALS.map(|signal| signal as i32))?;
        // With handlers in place: programs that this one starts must not inherit signals that wait for ever.
        drop(self);
        let sender = CAUGHT.get_or_init(|| watch::Sender::new(false));
        let interrupt = Interrupt {
            come: sender.subscribe(),
            made: Arc::clone(&made),
        };
        std::thread::Builder::new()
            .name("signals".to_owned())
            .spawn(move || {
                for _ in signals.forever() {
                    if sender.send_replace(true) {
                        end_now(&made);
                    }
                }
            })?;
        Ok(interrupt)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let _ = self.0.thread_unblock();
    }
}

/// A second signal: whoever sends it does not want to wait for the removal, but has to know what stays.
fn end_now(made: &Made) -> ! {
    if matches!(
        ratatui::crossterm::terminal::is_raw_mode_enabled(),
        Ok(true)
    ) {
        ratatui::restore();
    }
    let made = made.lock().unwrap_or_else(PoisonError::into_inner);
    if made.is_empty() {
        progress::tell("interrupted again: ended at once; nothing stays behind");
    }
    for (what, remedy) in made.iter() {
        progress::tell(format_args!("interrupted again: {what} may stay; {remedy}"));
    }
    std::process::exit(i32::from(exit::INTERRUPTED));
}

/// Nobody can read what this program says: as if its terminal had sent SIGHUP.
pub(crate) fn nobody_listens() {
    if let Some(sender) = CAUGHT.get() {
        sender.send_replace(true);
    }
}

/// Whether somebody has asked the program to end. Clones see the same.
#[derive(Debug, Clone)]
pub struct Interrupt {
    come: watch::Receiver<bool>,
    made: Made,
}

impl Interrupt {
    /// One that comes when somebody says so.
    pub(crate) fn switch() -> (watch::Sender<bool>, Self) {
        let (sender, come) = watch::channel(false);
        let made = Made::default();
        (sender, Self { come, made })
    }

    /// Whether it has come.
    #[must_use]
    pub fn has_come(&self) -> bool {
        *self.come.borrow()
    }

    /// Waits until it comes; for ever, if it cannot come any more.
    pub async fn come(mut self) {
        if self.come.wait_for(|come| *come).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Something exists from now on; how to remove it where this program does not get to it.
    pub fn made(&self, what: impl Into<String>, remedy: impl Into<String>) {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        made.insert(what.into(), remedy.into());
    }

    /// Nothing of it exists any more.
    pub fn removed(&self, what: &str) {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        made.remove(what);
    }

    /// Nothing exists any more.
    pub fn removed_all(&self) {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        made.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_clone_sees_it_also_afterwards() {
        let (sender, one) = Interrupt::switch();
        let other = one.clone();
        assert!(!one.has_come());
        sender.send(true).expect("there are receivers");
        one.clone().come().await;
        other.come().await;
        assert!(one.has_come());
    }
}
