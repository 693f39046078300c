//! What an agent writes to the status of its NodeConfig, and when. No clock, no API.
//!
//! ```text
//!   account ──differs from what was written──► due ──poll──► busy ──done(true)──► written ──a minute, and verified since──► due
//!                                               ▲             └────done(false)──► again after 1, 2, 4 … 60 s
//!                                               └──────────────────────────────────────┘
//! ```
//!
//! A run writes once, whatever the object shows: an earlier run may have been of another version.

use std::time::Duration;

use serde_json::{Value, json};

use crate::liveness::paths::Summary;
use crate::printable::Printable;

/// The type of the condition that says whether the node holds its rows.
pub const APPLIED: &str = "Applied";

/// How old the word may be that the rows were verified: a minute, more where the object is large, because whoever stores it and whoever watches it
/// handles it as a whole, and a quarter of an hour at most.
const SYNC: Duration = Duration::from_secs(60);
const SYNC_OF_ROW: Duration = Duration::from_millis(150);
const SYNC_AT_MOST: Duration = Duration::from_secs(900);
/// Between two writes, however fast the accounts follow each other.
const PAUSE: Duration = Duration::from_secs(1);
/// Between two writes of which the later one tells of sessions alone, and what each row adds to that.
const SESSIONS: Duration = Duration::from_secs(2);
const SESSIONS_OF_ROW: Duration = Duration::from_millis(5);
/// The longest pause after a failure.
const LONGEST: Duration = Duration::from_secs(60);
/// The most characters of a message.
const MESSAGE: usize = 1024;
/// The most problems that a message tells.
const PROBLEMS: usize = 5;

/// Which state of a NodeConfig an agent knows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Version {
    /// The object's `uid`; empty where the server gave none.
    pub uid: String,
    /// Its `generation`, which counts the changes of its spec.
    pub generation: i64,
}

/// What became of a NodeConfig on its node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// The state that this is about.
    pub of: Version,
    /// The digest of the rows that the kernel held last; none before the first.
    pub digest: Option<String>,
    /// How many rows these are.
    pub rows: u32,
    /// Whether the kernel holds what this state says.
    pub is_true: bool,
    /// One word for machines.
    pub reason: &'static str,
    /// For people.
    pub message: String,
}

impl Account {
    /// The kernel holds these rows; `problems` are the parts that make none.
    #[must_use]
    pub fn applied(of: Version, digest: String, rows: usize, problems: &[String]) -> Self {
        Self {
            of,
            digest: Some(digest),
            rows: u32::try_from(rows).unwrap_or(u32::MAX),
            is_true: true,
            reason: APPLIED,
            message: sentences(problems),
        }
    }

    /// The kernel does not hold what this state says; `digest` is of what it held last.
    #[must_use]
    pub fn refused(
        of: Version,
        digest: Option<String>,
        reason: &'static str,
        problems: &[String],
    ) -> Self {
        Self {
            of,
            digest,
            rows: 0,
            is_true: false,
            reason,
            message: sentences(problems),
        }
    }
}

/// What the status says of sessions: `up` and `down` count them, `lost` are those that were up and are not, `detours` the gateways whose standbys are used; of
/// either at most [`Summary::MOST`].
fn sessions(summary: &Summary) -> Value {
    let lost = summary.lost.iter().map(|((tunnel, ip), cluster)| {
        json!({"cluster": cluster, "dev": tunnel.name(), "address": ip.to_string()})
    });
    let detours = summary.detours.iter().map(|gateway| {
        json!({"cluster": gateway.cluster, "dev": gateway.tunnel.name(), "active": gateway.active.to_string(),
            "standby": gateway.standby.map(|ip| ip.to_string())})
    });
    json!({
        "up": summary.up,
        "down": summary.down,
        "lost": lost.collect::<Vec<_>>(),
        "detours": detours.collect::<Vec<_>>(),
    })
}

fn sentences(problems: &[String]) -> String {
    let mut text = problems[..problems.len().min(PROBLEMS)].join("; ");
    if problems.len() > PROBLEMS {
        text += &format!("; and {} more", problems.len() - PROBLEMS);
    }
    Printable::bounded(&text, MESSAGE).as_str().to_owned()
}

/// Decides what to write to a NodeConfig's status, and when. Times are since any one moment; the texts are the same moment for people.
#[derive(Debug, Default)]
pub struct Reporter {
    account: Option<Account>,
    /// When the rows were verified last, and what that moment is called.
    verified: Option<(Duration, String)>,
    written: Option<Account>,
    wrote_at: Option<Duration>,
    /// What is being written.
    busy: Option<Account>,
    failures: u32,
    retry: Option<Duration>,
    /// The digest that was adopted last, and when.
    adopted: Option<(String, String)>,
    /// What the condition said last, and since when.
    said: Option<(bool, String)>,
    /// What is said of sessions, and since when that is to be written; none where there are none.
    sessions: Option<Value>,
    sessions_due: Option<Duration>,
    /// The longest time of an answer, microseconds: written with the rest, and no reason to write.
    round_trip: Option<u64>,
}

impl Reporter {
    /// Knows of no NodeConfig.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes in what an object shows when it is first seen, so that a restart is no change.
    pub fn shown(&mut self, status: &Value) {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        if self.adopted.is_none() {
            self.adopted = text(&status["digest"]).zip(text(&status["lastChangeTime"]));
        }
        let conditions = status["conditions"].as_array();
        let own = conditions.and_then(|all| all.iter().find(|one| one["type"] == APPLIED));
        if let (None, Some(own)) = (&self.said, own) {
            let since = text(&own["lastTransitionTime"]);
            self.said = since.map(|since| (own["status"] == "True", since));
        }
    }

    /// Takes in what became of the NodeConfig; none while there is none. `time` is now.
    pub fn account(&mut self, account: Option<Account>, now: Duration, time: &str) {
        if let Some(account) = &account {
            let adopted = self.adopted.as_ref().map(|(digest, _)| digest);
            if let Some(digest) = &account.digest
                && adopted != Some(digest)
            {
                self.adopted = Some((digest.clone(), time.to_owned()));
            }
            if self.said.as_ref().map(|(is_true, _)| *is_true) != Some(account.is_true) {
                self.said = Some((account.is_true, time.to_owned()));
            }
            if account.is_true {
                self.verified = Some((now, time.to_owned()));
            }
            // Another state is another chance.
            if self.account.as_ref() != Some(account) {
                self.retry = None;
                self.failures = 0;
            }
        }
        self.account = account;
    }

    /// Takes in how the node's sessions are.
    pub fn sessions(&mut self, summary: &Summary, now: Duration) {
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.round_trip = summary.round_trip.map(micros);
        let said = sessions(summary);
        let is_first = self.sessions.is_none() && summary.up + summary.down == 0;
        if self.sessions.as_ref() != Some(&said) && !is_first {
            self.sessions = Some(said);
            self.sessions_due.get_or_insert(now);
        }
    }

    /// When to ask [`poll`](Self::poll) again, unless an account comes first.
    #[must_use]
    pub fn deadline(&self) -> Option<Duration> {
        let account = self.account.as_ref().filter(|_| self.busy.is_none())?;
        if let Some(retry) = self.retry {
            return Some(retry);
        }
        if self.written.as_ref() != Some(account) {
            return Some(self.wrote_at.map_or(Duration::ZERO, |at| at + PAUSE));
        }
        // One write tells of many sessions, and the more the object weighs the more of them.
        let pause = SESSIONS + SESSIONS_OF_ROW.saturating_mul(account.rows);
        let sessions = self
            .sessions_due
            .map(|due| due.max(self.wrote_at.map_or(Duration::ZERO, |at| at + pause)));
        let sync = || {
            let (verified, _) = self.verified.as_ref()?;
            let wrote_at = self.wrote_at.filter(|at| at < verified)?;
            let sync = SYNC_OF_ROW.saturating_mul(account.rows);
            Some(wrote_at + sync.clamp(SYNC, SYNC_AT_MOST))
        };
        sessions.into_iter().chain(sync()).min()
    }

    /// The status to merge into the object, where one is due; what came of it has to be [reported](Self::done). `version` is the agent's.
    pub fn poll(&mut self, now: Duration, version: &str) -> Option<Value> {
        if self.deadline()? > now {
            return None;
        }
        let account = self.account.clone()?;
        let (_, since) = self.said.as_ref()?;
        let mut status = json!({
            "observedGeneration": account.of.generation,
            "version": version,
            "conditions": [{
                "type": APPLIED,
                "status": if account.is_true { "True" } else { "False" },
                "reason": account.reason,
                "message": account.message,
                "observedGeneration": account.of.generation,
                "lastTransitionTime": since,
            }],
        });
        if let (Some(_), Some((digest, at))) = (&account.digest, &self.adopted) {
            status["digest"] = json!(digest);
            status["lastChangeTime"] = json!(at);
        }
        if let Some((_, time)) = &self.verified {
            status["lastSyncTime"] = json!(time);
        }
        if let Some(sessions) = &self.sessions {
            status["sessions"] = sessions.clone();
            if let Some(micros) = self.round_trip {
                status["sessions"]["roundTripMicroseconds"] = json!(micros);
            }
        }
        self.sessions_due = None;
        self.busy = Some(account);
        Some(json!({ "status": status }))
    }

    /// What came of a write.
    pub fn done(&mut self, is_written: bool, now: Duration) {
        let Some(account) = self.busy.take() else {
            return;
        };
        if is_written {
            self.written = Some(account);
            self.wrote_at = Some(now);
            self.retry = None;
            self.failures = 0;
        } else {
            self.sessions_due = self.sessions.is_some().then_some(now);
            let wait = Duration::from_secs(1 << self.failures.min(6)).min(LONGEST);
            self.failures = self.failures.saturating_add(1);
            self.retry = Some(now + wait);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn version(generation: i64) -> Version {
        Version {
            uid: "u".into(),
            generation,
        }
    }

    fn applied(generation: i64, digest: &str) -> Option<Account> {
        Some(Account::applied(version(generation), digest.into(), 4, &[]))
    }

    #[test]
    fn a_change_is_written_at_once_and_rest_once_a_minute() {
        let mut reporter = Reporter::new();
        assert_eq!(reporter.deadline(), None);
        reporter.account(applied(1, "aa"), seconds(1), "t1");
        let status = reporter.poll(seconds(1), "0.1").expect("a first word");
        assert_eq!(
            status,
            json!({"status": {
                "observedGeneration": 1, "version": "0.1", "digest": "aa", "lastChangeTime": "t1", "lastSyncTime": "t1",
                "conditions": [{"type": "Applied", "status": "True", "reason": "Applied", "message": "", "observedGeneration": 1,
                    "lastTransitionTime": "t1"}],
            }})
        );
        assert_eq!(reporter.poll(seconds(1), "0.1"), None, "while it is busy");
        reporter.done(true, seconds(1));
        // Verified every now and then, and told once a minute.
        let mut told = Vec::new();
        for at in (2..=200).step_by(3) {
            reporter.account(applied(1, "aa"), seconds(at), &format!("t{at}"));
            if let Some(status) = reporter.poll(seconds(at), "0.1") {
                assert_eq!(status["status"]["lastChangeTime"], "t1");
                assert_eq!(status["status"]["lastSyncTime"], format!("t{at}"));
                reporter.done(true, seconds(at));
                told.push(at);
            }
        }
        assert_eq!(told, [62, 122, 182]);
        // The same rows in another state of the object are no change of the rows.
        reporter.account(applied(2, "aa"), seconds(300), "t300");
        let status = reporter.poll(seconds(300), "0.1").expect("another state");
        assert_eq!(status["status"]["observedGeneration"], 2);
        assert_eq!(status["status"]["lastChangeTime"], "t1");
        reporter.done(true, seconds(300));
        reporter.account(applied(3, "bb"), seconds(300), "t300");
        assert_eq!(reporter.poll(seconds(300), "0.1"), None, "so soon");
        let status = reporter.poll(seconds(301), "0.1").expect("other rows");
        assert_eq!(status["status"]["lastChangeTime"], "t300");
    }

    #[test]
    fn a_large_object_is_written_less_often() {
        for (rows, wait) in [(0, 60), (400, 60), (4000, 600), (usize::MAX, 900)] {
            let mut reporter = Reporter::new();
            let account = || Some(Account::applied(version(1), "aa".into(), rows, &[]));
            reporter.account(account(), seconds(0), "t0");
            reporter.poll(seconds(0), "").expect("a first word");
            reporter.done(true, seconds(0));
            reporter.account(account(), seconds(30), "t30");
            assert_eq!(reporter.deadline(), Some(seconds(wait)), "{rows} rows");
        }
    }

    #[test]
    fn nobody_verifies_and_nobody_is_told() {
        let mut reporter = Reporter::new();
        reporter.account(applied(1, "aa"), seconds(1), "t1");
        reporter.poll(seconds(1), "0.1").expect("a first word");
        reporter.done(true, seconds(2));
        assert_eq!(reporter.deadline(), None);
        reporter.account(None, seconds(90), "t90");
        assert_eq!(
            (reporter.deadline(), reporter.poll(seconds(90), "")),
            (None, None)
        );
    }

    #[test]
    fn a_refusal_keeps_the_digest_and_a_restart_the_times() {
        let mut reporter = Reporter::new();
        reporter.shown(
            &json!({"digest": "aa", "lastChangeTime": "t0", "conditions": [
            {"type": "Other", "status": "False", "lastTransitionTime": "t9"},
            {"type": "Applied", "status": "True", "lastTransitionTime": "t1"}]}),
        );
        reporter.account(applied(4, "aa"), seconds(5), "t5");
        let status = reporter.poll(seconds(5), "0.2").expect("a first word")["status"].take();
        assert_eq!(
            (&status["lastChangeTime"], &status["version"]),
            (&json!("t0"), &json!("0.2"))
        );
        assert_eq!(status["conditions"][0]["lastTransitionTime"], "t1");
        reporter.done(true, seconds(5));
        let problems: Vec<String> = (0..9)
            .map(|at| format!("row {at}\u{1b}[31m: {}", "x".repeat(400)))
            .collect();
        let refused = Account::refused(version(5), Some("aa".into()), "Incomplete", &problems);
        reporter.account(Some(refused), seconds(9), "t9");
        let status = reporter.poll(seconds(9), "0.2").expect("a refusal")["status"].take();
        assert_eq!(
            (&status["digest"], &status["lastSyncTime"]),
            (&json!("aa"), &json!("t5"))
        );
        let condition = &status["conditions"][0];
        assert_eq!(
            (&condition["status"], &condition["lastTransitionTime"]),
            (&json!("False"), &json!("t9"))
        );
        let message = condition["message"].as_str().expect("a message");
        assert!(
            !message.contains('\u{1b}') && message.chars().count() <= MESSAGE,
            "{message}"
        );
    }

    #[test]
    fn a_failing_write_is_tried_less_and_less_often() {
        let mut reporter = Reporter::new();
        reporter.account(applied(1, "aa"), seconds(0), "t0");
        let mut now = seconds(0);
        let mut waits = Vec::new();
        for _ in 0..9 {
            // Being verified again is no reason to ask again.
            reporter.account(applied(1, "aa"), now, "t");
            assert!(reporter.poll(now, "").is_some());
            reporter.done(false, now);
            assert_eq!(reporter.poll(now, ""), None);
            let next = reporter.deadline().expect("another attempt");
            waits.push((next - now).as_secs());
            now = next;
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        reporter.account(applied(2, "bb"), now, "t");
        assert!(reporter.poll(now, "").is_some(), "other rows");
    }
}
