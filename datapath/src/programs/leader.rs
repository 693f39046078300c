//! Whether this replica leads: [`crate::control::lease`], driven over the API.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, ObjectMeta, PostParams};
use kube::{Client, ResourceExt as _};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tracing::{info, warn};

use super::metrics::{self, Metrics};
use super::{Clock, Common};
use crate::control::lease::{Answer, Ask, Contender, Micros, Record};

/// Whether this replica leads, for whoever acts on it.
#[derive(Debug, Clone)]
pub(super) struct Leading {
    /// Until when, unless it is renewed; none where it does not lead.
    until: watch::Receiver<Option<Instant>>,
    nudge: Arc<Notify>,
}

impl Leading {
    /// Whether it leads at this moment.
    pub(super) fn is_now(&self) -> bool {
        self.until
            .borrow()
            .is_some_and(|until| Instant::now() < until)
    }

    /// Returns when it begins to lead, or ends.
    pub(super) async fn turned(&mut self) {
        let was = self.is_now();
        loop {
            let until = *self.until.borrow_and_update();
            if self.is_now() != was {
                return;
            }
            let over = async {
                match until.filter(|_| was) {
                    Some(until) => tokio::time::sleep_until(until.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = over => {}
                changed = self.until.changed() => if changed.is_err() {
                    // Nobody renews any more.
                    return std::future::pending().await;
                },
            }
        }
    }

    /// The outcome of a deed of the leader's; none where it stopped leading before it had one.
    pub(super) async fn guard<T>(mut self, deed: impl Future<Output = T>) -> Option<T> {
        if !self.is_now() {
            return None;
        }
        tokio::select! {
            biased;
            () = self.turned() => None,
            outcome = deed => Some(outcome),
        }
    }

    /// The API answers again: whoever waits for the Lease need not wait longer.
    pub(super) fn nudge(&self) {
        self.nudge.notify_one();
    }
}

/// Contends for a Lease until `end` says so, then gives it up.
pub(super) struct Contest {
    api: Api<Lease>,
    name: &'static str,
    clock: Clock,
    contender: Contender,
    until: watch::Sender<Option<Instant>>,
    nudge: Arc<Notify>,
    metrics: Arc<Metrics>,
    /// The longest that one request may take.
    patience: Duration,
}

/// A contest that goes on beside its program's own work.
pub(super) struct Begun {
    end: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Begun {
    /// Ends it, and waits until a Lease that was held is given back.
    pub(super) async fn end(self) {
        self.end.send_replace(true);
        // Should it have panicked, there is nothing to give back.
        let _ = self.task.await;
    }
}

impl Contest {
    /// Contends from now on.
    pub(super) fn begin(client: Client, name: &'static str, common: &Common) -> (Begun, Leading) {
        let (contest, leading) = Self::new(client, name, common);
        let (end, ended) = watch::channel(false);
        let task = tokio::spawn(contest.run(ended));
        (Begun { end, task }, leading)
    }

    /// Nothing is asked before [`run`](Self::run).
    fn new(client: Client, name: &'static str, common: &Common) -> (Self, Leading) {
        let (until, heard) = watch::channel(None);
        let nudge = Arc::new(Notify::new());
        let leading = Leading {
            until: heard,
            nudge: nudge.clone(),
        };
        let contest = Self {
            api: Api::namespaced(client, &common.namespace),
            name,
            clock: Clock::start(),
            contender: Contender::new(common.identity.clone(), common.timing),
            until,
            nudge,
            metrics: common.metrics.clone(),
            patience: common.timing.deadline / 2,
        };
        (contest, leading)
    }

    /// Contends until `end` is true.
    async fn run(mut self, mut end: watch::Receiver<bool>) {
        let mut holder = None;
        loop {
            self.publish(&mut holder);
            let deadline = self.contender.deadline();
            tokio::select! {
                biased;
                _ = end.wait_for(|is_over| *is_over) => break,
                () = self.nudge.notified(), if !self.leads() => self.contender.nudge(self.clock.now()),
                () = self.clock.at(deadline) => {}
            }
            let Some(ask) = self.contender.poll(self.clock.now(), wall()) else {
                continue;
            };
            let answer = tokio::select! {
                biased;
                _ = end.wait_for(|is_over| *is_over) => break,
                answer = self.ask(&ask) => answer,
            };
            self.contender.answer(answer, self.clock.now(), wall());
        }
        let release = self.contender.leave(self.clock.now(), wall());
        self.until.send_replace(None);
        if let Some(ask) = release {
            self.ask(&ask).await;
            info!(lease = self.name, "gave up the lease");
        }
    }

    fn leads(&self) -> bool {
        self.contender.leads_until(self.clock.now()).is_some()
    }

    fn publish(&mut self, last: &mut Option<String>) {
        let until = self.contender.leads_until(self.clock.now());
        let until = until.map(|until| self.clock.0 + until);
        let led = self.until.send_replace(until).is_some();
        if led != until.is_some() {
            let now = if until.is_some() {
                "leads"
            } else {
                "does not lead any more"
            };
            info!(lease = self.name, "this replica {now}");
        }
        let holder = self.contender.holder().map(str::to_owned);
        if holder != *last {
            info!(lease = self.name, holder, "the lease is held");
            *last = holder;
        }
        let labels = [("lease", self.name)];
        self.metrics.set(
            &metrics::LEADER,
            &labels,
            f64::from(u8::from(until.is_some())),
        );
        self.metrics.set(
            &metrics::TRANSITIONS,
            &labels,
            self.contender.transitions().into(),
        );
    }

    async fn ask(&self, ask: &Ask) -> Answer {
        let asked = async {
            match ask {
                Ask::Read => self.api.get(self.name).await.map(|lease| Answer::Found {
                    version: lease.resource_version().unwrap_or_default(),
                    record: record(&lease),
                }),
                Ask::Create(record) => {
                    let made = self
                        .api
                        .create(&PostParams::default(), &self.lease(record, None))
                        .await;
                    made.map(written)
                }
                Ask::Replace { record, version } => {
                    let lease = self.lease(record, Some(version));
                    let replaced = self
                        .api
                        .replace(self.name, &PostParams::default(), &lease)
                        .await;
                    replaced.map(written)
                }
            }
        };
        let answer = match tokio::time::timeout(self.patience, asked).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(kube::Error::Api(status))) if status.code == 404 => {
                if *ask != Ask::Read {
                    warn!(
                        lease = self.name,
                        why = status.message,
                        "the lease cannot be written"
                    );
                }
                Answer::Absent
            }
            Ok(Err(kube::Error::Api(status))) if status.code == 409 => Answer::Conflict,
            Ok(Err(error)) => {
                warn!(lease = self.name, %error, "the lease cannot be asked for");
                Answer::Failed
            }
            Err(_) => {
                warn!(lease = self.name, "no answer about the lease in time");
                Answer::Failed
            }
        };
        let outcome = match &answer {
            Answer::Absent => "absent",
            Answer::Conflict => "conflict",
            Answer::Failed => "failed",
            Answer::Found { .. } => "read",
            Answer::Written { .. } => "written",
        };
        self.metrics.count(
            &metrics::RENEWALS,
            &[("lease", self.name), ("outcome", outcome)],
        );
        answer
    }

    fn lease(&self, record: &Record, version: Option<&String>) -> Lease {
        let time = |micros: Option<Micros>| {
            let time = Timestamp::from_microsecond(micros?.0).ok()?;
            Some(MicroTime(time))
        };
        Lease {
            metadata: ObjectMeta {
                name: Some(self.name.to_owned()),
                resource_version: version.cloned(),
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(record.holder.clone()),
                lease_duration_seconds: record
                    .seconds
                    .and_then(|seconds| i32::try_from(seconds).ok()),
                acquire_time: time(record.acquired),
                renew_time: time(record.renewed),
                lease_transitions: i32::try_from(record.transitions).ok(),
                ..LeaseSpec::default()
            }),
        }
    }
}

fn written(lease: Lease) -> Answer {
    Answer::Written {
        version: lease.resource_version().unwrap_or_default(),
    }
}

fn record(lease: &Lease) -> Record {
    let spec = lease.spec.clone().unwrap_or_default();
    let micros = |time: Option<MicroTime>| time.map(|time| Micros(time.0.as_microsecond()));
    Record {
        holder: spec.holder_identity.unwrap_or_default(),
        seconds: spec
            .lease_duration_seconds
            .and_then(|seconds| u32::try_from(seconds).ok()),
        acquired: micros(spec.acquire_time),
        renewed: micros(spec.renew_time),
        transitions: spec
            .lease_transitions
            .and_then(|count| u32::try_from(count).ok())
            .unwrap_or(0),
    }
}

/// The time of day, for people.
fn wall() -> Micros {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Micros(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}
