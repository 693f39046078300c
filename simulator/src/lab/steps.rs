//! Says how far a lab is that is coming up.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::protocol::{Phase, Ready, Step};

/// How often it is said at most within a phase.
const EVERY: Duration = Duration::from_millis(500);

/// One phase, counted by any number of threads.
#[derive(Debug)]
pub(crate) struct Counted {
    phase: Phase,
    of: usize,
    done: AtomicUsize,
    said: Mutex<Instant>,
}

impl Counted {
    /// A phase of so many parts that begins now.
    pub(crate) fn begin(phase: Phase, of: usize) -> Self {
        say(phase, 0, of);
        Self {
            phase,
            of,
            done: AtomicUsize::new(0),
            said: Mutex::new(Instant::now()),
        }
    }

    /// One part more is done.
    pub(crate) fn one(&self) {
        let done = self.done.fetch_add(1, Ordering::Relaxed) + 1;
        // Whoever cannot have the lock at once leaves it to the one that has it.
        let Ok(mut said) = self.said.try_lock() else {
            return;
        };
        if said.elapsed() >= EVERY && done < self.of {
            *said = Instant::now();
            say(self.phase, done, self.of);
        }
    }

    /// All of it is done.
    pub(crate) fn end(&self) {
        say(self.phase, self.of, self.of);
    }
}

fn say(phase: Phase, done: usize, of: usize) {
    super::say(&Ready::Step(Step { phase, done, of }));
}
