//! The floaters of a cluster, asked through its API server's pods/proxy, so that a dead data path does not hide its own
//! evidence.
//!
//! Whatever stands at the other end is believed only what the floater that was asked has signed for this request.

mod answer;

use std::future::Future;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use floater::wire::{
    AUTH_HEADER, Audience, Event, Expectation, Health, Info, Meeting, Met, Nonce, Outcome, Plan,
    Tables, Transcript, Unsealed, VERSION, sign, unseal,
};
use http::{HeaderValue, Method, StatusCode};
use serde::de::DeserializeOwned;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::api::{self, Api, Failure};
use super::look;
use super::objects::Pod;
use crate::kubeconfig::REQUESTS_AT_ONCE;
use answer::{Lines, Refusal, read};

/// How long the tables of one node may take.
const TABLES_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a floater may take to say who it is.
const INFO_TIMEOUT: Duration = Duration::from_secs(5);
/// How much longer than its own arithmetic a plan may take before its floater counts as dead.
const PLAN_SLACK: Duration = Duration::from_secs(15);
/// How long a floater that runs a plan may be silent: it says something every second.
const SILENCE: Duration = Duration::from_secs(15);
/// How many floaters of one cluster are asked at a time.
const OF_A_CLUSTER_AT_ONCE: usize = 64;

/// How many floaters are asked at a time, over all clusters.
#[derive(Clone)]
pub(crate) struct Turns {
    /// Those that answer as soon as they get to it: as many as the servers before them let through at once, so that nobody waits
    /// unseen while its time runs.
    short: Arc<Semaphore>,
    /// Those that send probes; each takes a descriptor.
    lasting: Arc<Semaphore>,
    descriptors: usize,
}

impl Turns {
    /// Where no more than so many descriptors may be taken.
    pub(crate) fn new(descriptors: usize) -> Self {
        Self {
            short: Arc::new(Semaphore::new(0)),
            lasting: Arc::new(Semaphore::new(descriptors)),
            descriptors,
        }
    }

    /// There are so many servers by now.
    pub(crate) fn serve(&self, before: usize, servers: usize) {
        let of = |servers: usize| (servers * REQUESTS_AT_ONCE).min(self.descriptors);
        self.short
            .add_permits(of(servers) - of(before.min(servers)));
    }
}

/// How many floaters are asked at a time: of one cluster, for its API server's sake, and of all.
#[derive(Clone)]
pub(crate) struct Gates {
    cluster: Arc<Semaphore>,
    all: Turns,
}

impl Gates {
    pub(crate) fn new(all: &Turns) -> Self {
        Self {
            cluster: Arc::new(Semaphore::new(OF_A_CLUSTER_AT_ONCE)),
            all: all.clone(),
        }
    }

    /// Neither is ever closed; without a permit there would be no bound, and nothing else would change.
    async fn pass(&self, all: &Arc<Semaphore>) -> Permits {
        // The cluster's own first: whoever waits for it holds nothing that another cluster needs.
        let cluster = Arc::clone(&self.cluster).acquire_owned().await.ok();
        Permits(cluster, Arc::clone(all).acquire_owned().await.ok())
    }
}

/// Given back when dropped.
pub(crate) struct Permits(
    #[expect(dead_code, reason = "held")] Option<OwnedSemaphorePermit>,
    #[expect(dead_code, reason = "held")] Option<OwnedSemaphorePermit>,
);

/// A floater that can be asked.
#[derive(Clone)]
pub(crate) struct Agent {
    api: Api,
    /// `.../pods/https:NAME:PORT/proxy`.
    proxy: String,
    run_key: Arc<[u8]>,
    audience: Audience,
    /// By how many milliseconds its clock is ahead of ours, as far as it has said so.
    ahead_ms: Arc<AtomicI64>,
    gates: Gates,
    /// Where its responder listens.
    pub(crate) port: u16,
    /// The addresses of its pod.
    pub(crate) ips: Vec<IpAddr>,
}

impl Agent {
    /// The floater of a pod, where it says on which node and in which layer it is.
    pub(crate) fn new(
        api: &Api,
        namespace: &str,
        cluster_id: &str,
        pod: &Pod,
        run_key: &Arc<[u8]>,
        gates: &Gates,
    ) -> Option<Self> {
        Some(Self {
            api: api.clone(),
            proxy: format!(
                "{}/https:{}:{}/proxy",
                look::pods(namespace),
                pod.metadata.name,
                pod.api_port()
            ),
            run_key: Arc::clone(run_key),
            audience: Audience {
                cluster: cluster_id.to_owned(),
                node: pod.node()?.to_owned(),
                layer: pod.layer()?,
            },
            ahead_ms: Arc::default(),
            gates: gates.clone(),
            port: pod.port(),
            ips: pod.ips(),
        })
    }

    /// The same, asked through another budget of its cluster.
    pub(crate) fn through(mut self, api: &Api) -> Self {
        self.api = api.clone();
        self
    }

    /// Waits until it may be asked for its tables or for who it is. Its own time begins then.
    pub(crate) async fn turn(&self) -> Permits {
        self.gates.pass(&self.gates.all.short).await
    }

    pub(crate) fn run_key(&self) -> &[u8] {
        &self.run_key
    }

    /// Who it has to be.
    pub(crate) fn audience(&self) -> &Audience {
        &self.audience
    }

    /// Sends one request: what came, and the nonce that its answer is signed over.
    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Vec<u8>,
        limit: Duration,
    ) -> Result<(http::Response<kube::client::Body>, Nonce), String> {
        let mut nonce = Nonce::default();
        crate::run::random(&mut nonce).map_err(|error| error.to_string())?;
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| {
                u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
            });
        let now = now.saturating_add_signed(self.ahead_ms.load(Ordering::Relaxed));
        let header = sign(
            &self.run_key,
            &self.audience,
            method.as_str(),
            path,
            &body,
            now,
            nonce,
        );
        let told = |failure: Failure| failure.to_string();
        let mut request =
            api::request(method, &format!("{}{path}", self.proxy), body).map_err(told)?;
        let header = HeaderValue::from_str(&header)
            .map_err(|_| "its signature cannot be sent".to_owned())?;
        request.headers_mut().insert(AUTH_HEADER, header);
        request.headers_mut().insert(
            http::header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        );
        let response = self.api.send(request, limit).await.map_err(told)?;
        Ok((response, nonce))
    }

    /// Sends a request, a second time where the floater's clock differs from ours: it says by how much.
    async fn ask(
        &self,
        method: Method,
        path: &str,
        body: &[u8],
        limit: Duration,
    ) -> Result<(http::Response<kube::client::Body>, Nonce), String> {
        let mut tries = 0;
        loop {
            let (response, nonce) = self
                .send(method.clone(), path, body.to_vec(), limit)
                .await?;
            if response.status() == StatusCode::OK {
                return Ok((response, nonce));
            }
            let (status, body) = read(response, limit).await?;
            let said = self.unseal(&nonce, status, &body);
            match answer::refusal(status, said.unwrap_or(&body), said.is_ok()) {
                Refusal::Clock { now_ms } if tries == 0 => {
                    tries += 1;
                    let ours = SystemTime::now()
                        .duration_since(UNIX_EPOCH)
                        .map_or(0, |since| {
                            i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
                        });
                    let theirs = i64::try_from(now_ms).unwrap_or(i64::MAX);
                    self.ahead_ms
                        .store(theirs.saturating_sub(ours), Ordering::Relaxed);
                }
                Refusal::Clock { .. } => {
                    return Err("its clock jumps: it refuses the time that it gave".to_owned());
                }
                Refusal::Other(why) => return Err(why),
            }
        }
    }

    fn unseal<'b>(
        &self,
        nonce: &Nonce,
        status: StatusCode,
        body: &'b [u8],
    ) -> Result<&'b [u8], Unsealed> {
        unseal(&self.run_key, &self.audience, nonce, status.as_u16(), body)
    }

    async fn read<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &[u8],
        limit: Duration,
        deadline: Instant,
        version: impl Fn(&T) -> u32,
    ) -> Result<T, String> {
        let work = async {
            let (response, nonce) = self.ask(method, path, body, limit).await?;
            let (status, body) = read(response, limit).await?;
            let content = self
                .unseal(&nonce, status, &body)
                .map_err(answer::unsigned)?;
            let read: T = serde_json::from_slice(content).map_err(|error| {
                format!(
                    "its answer to {path} cannot be understood (line {}, column {})",
                    error.line(),
                    error.column()
                )
            })?;
            match version(&read) {
                VERSION => Ok(read),
                other => Err(format!(
                    "it speaks version {other} of the protocol, not {VERSION}"
                )),
            }
        };
        within(deadline, work).await
    }

    /// The tables of its node; of what is expected there only what differs.
    pub(crate) async fn tables(
        &self,
        expected: Option<&Expectation>,
        deadline: Instant,
    ) -> Result<Tables, String> {
        let (method, body) = match expected {
            None => (Method::GET, Vec::new()),
            Some(expected) => {
                let body = serde_json::to_vec(expected).map_err(|error| error.to_string())?;
                (Method::POST, body)
            }
        };
        let version = |tables: &Tables| tables.version;
        self.read(
            method,
            "/v2/tables",
            &body,
            TABLES_TIMEOUT,
            deadline,
            version,
        )
        .await
    }

    /// Who it is, and how it fares.
    pub(crate) async fn info(&self, deadline: Instant) -> Result<Info, String> {
        let version = |info: &Info| info.version;
        self.read(
            Method::GET,
            "/v2/info",
            &[],
            INFO_TIMEOUT,
            deadline,
            version,
        )
        .await
    }

    /// Has it meet others: what it heard of them.
    pub(crate) async fn meet(&self, meeting: &Meeting, deadline: Instant) -> Result<Met, String> {
        let _permits = self.gates.pass(&self.gates.all.lasting).await;
        let body = serde_json::to_vec(meeting).map_err(|error| error.to_string())?;
        let limit = Duration::from_millis(meeting.millis.into()) + INFO_TIMEOUT;
        let version = |met: &Met| met.version;
        self.read(Method::POST, "/v2/meet", &body, limit, deadline, version)
            .await
    }

    /// Sends a plan; `outcomes` is called with results as soon as they are signed: how the floater fared meanwhile.
    ///
    /// # Errors
    /// Why the results ended early; those that had come and were signed are told.
    pub(crate) async fn probe(
        &self,
        plan: &Plan,
        deadline: Instant,
        mut outcomes: impl FnMut(Vec<Outcome>),
    ) -> Result<Health, String> {
        let _permits = self.gates.pass(&self.gates.all.lasting).await;
        let body = serde_json::to_vec(plan).map_err(|error| error.to_string())?;
        let limit = plan.longest() + PLAN_SLACK;
        let work = async {
            let (response, nonce) = self
                .ask(Method::POST, "/v2/probe", &body, PLAN_SLACK)
                .await?;
            let transcript = Transcript::new(&self.run_key, self.audience.clone(), nonce);
            let lines = Lines::new(response.into_body(), SILENCE);
            let results = listen(plan, lines, transcript, &mut outcomes);
            // A floater whose results keep coming and never end is dead, too.
            tokio::time::timeout(limit, results)
                .await
                .unwrap_or_else(|_| Err("its results did not end in time".to_owned()))
        };
        within(deadline, work).await
    }
}

/// Takes in the results of a plan as far as they are signed.
async fn listen(
    plan: &Plan,
    mut lines: Lines,
    mut transcript: Transcript,
    outcomes: &mut impl FnMut(Vec<Outcome>),
) -> Result<Health, String> {
    let mut unsigned = Vec::new();
    let (mut count, mut done) = (0, None);
    loop {
        let line = lines.next().await?;
        let event = serde_json::from_slice(&line)
            .map_err(|_| "its results cannot be understood".to_owned())?;
        match event {
            Event::Done { health, .. } => done = Some(health),
            Event::Outcome(result) => {
                count += 1;
                if count > plan.probes.len() {
                    return Err("it has more results than it was asked for".to_owned());
                }
                unsigned.push(result);
            }
            Event::Signed { signature } => {
                if !transcript.verify(&signature) {
                    return Err(answer::unsigned(Unsealed::Otherwise));
                }
                if !unsigned.is_empty() {
                    outcomes(std::mem::take(&mut unsigned));
                }
                if let Some(health) = done {
                    return Ok(health);
                }
            }
        }
        transcript.push(&line);
    }
}

/// Ends with the run, for which nobody who is asked can be blamed.
async fn within<T>(
    deadline: Instant,
    work: impl Future<Output = Result<T, String>>,
) -> Result<T, String> {
    tokio::time::timeout_at(deadline, work)
        .await
        .unwrap_or_else(|_| Err("the run's time was up before it answered".to_owned()))
}
