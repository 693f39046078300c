//! Which of several replicas leads: a Lease of `coordination.k8s.io/v1`, by the rules of client-go's leader election.
//!
//! ```text
//!            ┌───────────────────── wait `retry`, with jitter ◄──────────────┐
//!            ▼                                                               │ held by another, and not expired
//!   ──► read ──► absent ──► create ──┐                                       │
//!            └─► found ──────────────┼──► expired, released or ours ──► replace ──► written ──► leading
//!                                    └─────────── conflict, failure ─────────┘                   │  ▲
//!                                                                     every `retry`: replace ────┘  │
//!                                                                     conflict: read at once ───────┘
//! ```
//!
//! Three rules keep two replicas from leading at once, as long as no clock runs half as fast again as another:
//! - A record expires `duration` after this replica *saw* it change, by its own clock; the times in it are for people.
//! - A leader leads until `deadline` after it *sent* the last write that succeeded, also if the answer came later.
//! - Each write names the version that it replaces, so that of two writers one fails.

use std::hash::Hasher as _;
use std::time::Duration;

use siphasher::sip::SipHasher13;

/// How long a contender waits for what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// From the last change that others see to the moment when they may take over.
    pub duration: Duration,
    /// From the last successful renewal to the moment when the leader stops; shorter than `duration`.
    pub deadline: Duration,
    /// Between attempts.
    pub retry: Duration,
}

impl Default for Timing {
    /// Those of client-go.
    fn default() -> Self {
        Self {
            duration: Duration::from_secs(15),
            deadline: Duration::from_secs(10),
            retry: Duration::from_secs(2),
        }
    }
}

/// A moment for people, in microseconds since 1970 (`MicroTime` of the API).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Micros(pub i64);

/// What a Lease says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Record {
    /// Who leads; empty when nobody does.
    pub holder: String,
    /// `leaseDurationSeconds`; none where the Lease says nothing.
    pub seconds: Option<u32>,
    /// `acquireTime`.
    pub acquired: Option<Micros>,
    /// `renewTime`.
    pub renewed: Option<Micros>,
    /// `leaseTransitions`: how often it went from one holder to another.
    pub transitions: u32,
}

/// What is to be asked of the API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    /// Make the Lease.
    Create(Record),
    /// Read the Lease.
    Read,
    /// Write the Lease in the place of one version of it.
    Replace {
        /// What it says from then on.
        record: Record,
        /// The `resourceVersion` that it replaces.
        version: String,
    },
}

/// What the API answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// There is no Lease.
    Absent,
    /// Somebody else was faster.
    Conflict,
    /// No answer, or one that says nothing about the Lease.
    Failed,
    /// The Lease.
    Found {
        /// What it says.
        record: Record,
        /// Its `resourceVersion`.
        version: String,
    },
    /// What was asked was written.
    Written {
        /// The new `resourceVersion`.
        version: String,
    },
}

/// A Lease as it was seen last.
#[derive(Debug, Clone)]
struct Observed {
    record: Record,
    version: String,
    /// When this content was seen first.
    at: Duration,
}

/// One replica. Times are since any one moment, by a clock that never goes back.
#[derive(Debug, Clone)]
pub struct Contender {
    identity: String,
    timing: Timing,
    observed: Option<Observed>,
    /// When the last write was sent that made this replica the leader, or kept it.
    sent: Option<Duration>,
    /// When to ask next.
    next: Duration,
    /// What follows at once from the last answer.
    then: Option<Ask>,
    /// What was asked and not answered yet, and when.
    asked: Option<(Ask, Duration)>,
    attempts: u64,
    is_leaving: bool,
}

impl Contender {
    /// A replica that has asked nothing yet. No two may have one identity.
    #[must_use]
    pub fn new(identity: impl Into<String>, timing: Timing) -> Self {
        Self {
            identity: identity.into(),
            timing,
            observed: None,
            sent: None,
            next: Duration::ZERO,
            then: None,
            asked: None,
            attempts: 0,
            is_leaving: false,
        }
    }

    /// Until when this replica leads unless it renews; none where it does not.
    #[must_use]
    pub fn leads_until(&self, now: Duration) -> Option<Duration> {
        let until = self.sent? + self.timing.deadline;
        let holds = self
            .observed
            .as_ref()
            .is_some_and(|held| held.record.holder == self.identity);
        (holds && now < until && !self.is_leaving).then_some(until)
    }

    /// Who leads as far as this replica has seen; none where nobody does or nothing was seen.
    #[must_use]
    pub fn holder(&self) -> Option<&str> {
        let holder = self.observed.as_ref()?.record.holder.as_str();
        (!holder.is_empty()).then_some(holder)
    }

    /// How often the Lease has changed hands.
    #[must_use]
    pub fn transitions(&self) -> u32 {
        let held = self.observed.as_ref();
        held.map_or(0, |held| held.record.transitions)
    }

    /// When to [`poll`](Self::poll) next; none while an answer is awaited.
    #[must_use]
    pub fn deadline(&self) -> Option<Duration> {
        self.asked.is_none().then_some(self.next)
    }

    /// What to ask now. It has to be [answered](Self::answer) before anything else is asked.
    pub fn poll(&mut self, now: Duration, wall: Micros) -> Option<Ask> {
        if self.asked.is_some() || now < self.next {
            return None;
        }
        let ask = match self.then.take() {
            Some(ask) => ask,
            None if self.is_leaving => return None,
            // A leader knows which version it replaces.
            None => match (self.leads_until(now), &self.observed) {
                (Some(_), Some(held)) => Ask::Replace {
                    record: self.record(Some(&held.record), wall),
                    version: held.version.clone(),
                },
                _ => Ask::Read,
            },
        };
        self.asked = Some((ask.clone(), now));
        Some(ask)
    }

    /// Takes an answer in.
    pub fn answer(&mut self, answer: Answer, now: Duration, wall: Micros) {
        let Some((ask, sent)) = self.asked.take() else {
            return;
        };
        self.attempts = self.attempts.wrapping_add(1);
        match (ask, answer) {
            (Ask::Create(record) | Ask::Replace { record, .. }, Answer::Written { version }) => {
                self.sent = (record.holder == self.identity).then_some(sent);
                self.observed = Some(Observed {
                    record,
                    version,
                    at: now,
                });
                self.next = now + self.timing.retry;
            }
            (Ask::Read, Answer::Found { record, version }) => {
                self.see(record, version, now);
                self.claim(now, wall);
            }
            (Ask::Read, Answer::Absent) => {
                self.observed = None;
                self.sent = None;
                self.then = Some(Ask::Create(self.record(None, wall)));
                self.next = now;
            }
            // The version that a leader knew is not the newest: it looks before it waits.
            (Ask::Replace { .. }, Answer::Conflict | Answer::Absent)
                if self.leads_until(now).is_some() =>
            {
                self.then = Some(Ask::Read);
                self.next = now;
            }
            _ => self.next = now + self.pause(now),
        }
        if self.is_leaving {
            self.then = None;
        }
    }

    /// Has this replica ask at once, because the API seems to answer again.
    pub fn nudge(&mut self, now: Duration) {
        self.next = self.next.min(now);
    }

    /// Gives up leading for good. A leader is to ask what this returns, and need not wait for the answer: whoever comes next then need not
    /// wait for the Lease to expire.
    #[must_use]
    pub fn leave(&mut self, now: Duration, wall: Micros) -> Option<Ask> {
        let leads = self.leads_until(now).is_some();
        self.is_leaving = true;
        self.asked = None;
        self.then = None;
        let held = self.observed.as_ref().filter(|_| leads)?;
        Some(Ask::Replace {
            record: Record {
                holder: String::new(),
                seconds: Some(1),
                acquired: Some(wall),
                renewed: Some(wall),
                transitions: held.record.transitions,
            },
            version: held.version.clone(),
        })
    }

    /// The same record at another version is no sign of life.
    fn see(&mut self, record: Record, version: String, now: Duration) {
        if record.holder != self.identity {
            // Only a write of its own makes it the leader again.
            self.sent = None;
        }
        match &mut self.observed {
            Some(held) if held.record == record => held.version = version,
            _ => {
                self.observed = Some(Observed {
                    record,
                    version,
                    at: now,
                });
            }
        }
    }

    fn claim(&mut self, now: Duration, wall: Micros) {
        let Some(held) = &self.observed else {
            return;
        };
        let lasts = held.record.seconds.filter(|seconds| *seconds > 0);
        let lasts = lasts.map_or(self.timing.duration, |seconds| {
            Duration::from_secs(seconds.into())
        });
        let is_anothers = !held.record.holder.is_empty() && held.record.holder != self.identity;
        if is_anothers && now < held.at + lasts {
            self.next = now + self.pause(now);
            return;
        }
        self.then = Some(Ask::Replace {
            record: self.record(Some(&held.record), wall),
            version: held.version.clone(),
        });
        self.next = now;
    }

    /// What this replica writes over a record.
    fn record(&self, former: Option<&Record>, wall: Micros) -> Record {
        let own = former.filter(|former| former.holder == self.identity);
        Record {
            holder: self.identity.clone(),
            seconds: u32::try_from(self.timing.duration.as_secs()).ok(),
            acquired: own.map_or(Some(wall), |own| own.acquired),
            renewed: Some(wall),
            transitions: match (own, former) {
                (Some(own), _) => own.transitions,
                (None, Some(former)) => former.transitions.saturating_add(1),
                (None, None) => 0,
            },
        }
    }

    /// Those who wait for the same Lease ask at different times (client-go's factor: 1.2); a leader keeps its rhythm.
    fn pause(&self, now: Duration) -> Duration {
        if self.leads_until(now).is_some() {
            return self.timing.retry;
        }
        let mut hasher = SipHasher13::new();
        hasher.write(self.identity.as_bytes());
        hasher.write_u64(self.attempts);
        let share = (hasher.finish() % 1000) as f64 / 1000.0;
        self.timing.retry.mul_f64(1.2_f64.mul_add(share, 1.0))
    }
}

#[cfg(test)]
mod tests;
