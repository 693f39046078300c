//! The floaters of a cluster, asked through its API server's pods/proxy, so that a dead data path does not hide its own
//! evidence.

use std::future::Future;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use floater::wire::{AUTH_HEADER, Event, Info, Outcome, Plan, Tables, sign};
use http::{HeaderValue, Method, StatusCode};
use serde::de::DeserializeOwned;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::api::{self, Api, Failure, Lines};
use super::look;
use super::objects::Pod;

/// How long the tables of one node may take.
const TABLES_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a floater may take to say who it is.
const INFO_TIMEOUT: Duration = Duration::from_secs(5);
/// How much longer than its own arithmetic a plan may take before its floater counts as dead.
const PLAN_SLACK: Duration = Duration::from_secs(15);
/// How long to wait before a floater that serves somebody else's plan is asked again, and how often.
const BUSY_PAUSE: Duration = Duration::from_millis(200);
const BUSY_TRIES: usize = 150;
/// How many floaters of one cluster are asked at a time.
const OF_A_CLUSTER_AT_ONCE: usize = 64;
/// The wire protocol's major version.
pub(crate) const VERSION: u32 = 1;

/// How many floaters are asked at a time: of one cluster, for its API server's sake, and of all, since each takes a
/// descriptor.
#[derive(Clone)]
pub(crate) struct Gates {
    cluster: Arc<Semaphore>,
    all: Arc<Semaphore>,
}

impl Gates {
    pub(crate) fn new(all: &Arc<Semaphore>) -> Self {
        Self {
            cluster: Arc::new(Semaphore::new(OF_A_CLUSTER_AT_ONCE)),
            all: Arc::clone(all),
        }
    }

    /// Neither is ever closed; without a permit there would be no bound, and nothing else would change.
    async fn pass(&self) -> Permits {
        // The cluster's own first: whoever waits for it holds nothing that another cluster needs.
        let cluster = Arc::clone(&self.cluster).acquire_owned().await.ok();
        Permits(cluster, Arc::clone(&self.all).acquire_owned().await.ok())
    }
}

/// Given back when dropped.
struct Permits(
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
    gates: Gates,
    /// Where its responder listens.
    pub(crate) port: u16,
    /// The addresses of its pod.
    pub(crate) ips: Vec<IpAddr>,
}

impl Agent {
    pub(crate) fn new(
        api: &Api,
        namespace: &str,
        pod: &Pod,
        run_key: &Arc<[u8]>,
        gates: &Gates,
    ) -> Self {
        Self {
            api: api.clone(),
            proxy: format!(
                "{}/https:{}:{}/proxy",
                look::pods(namespace),
                pod.metadata.name,
                pod.api_port()
            ),
            run_key: Arc::clone(run_key),
            gates: gates.clone(),
            port: pod.port(),
            ips: pod.ips(),
        }
    }

    pub(crate) fn run_key(&self) -> &[u8] {
        &self.run_key
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Vec<u8>,
        limit: Duration,
    ) -> Result<http::Response<kube::client::Body>, Refusal> {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        let header = sign(&self.run_key, method.as_str(), path, &body, now);
        let told = |failure: Failure| Refusal::from(failure.to_string());
        let mut request =
            api::request(method, &format!("{}{path}", self.proxy), body).map_err(told)?;
        let header = HeaderValue::from_str(&header)
            .map_err(|_| Refusal::from("its signature cannot be sent".to_owned()))?;
        request.headers_mut().insert(AUTH_HEADER, header);
        request.headers_mut().insert(
            http::header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        );
        let response = self.api.send(request, limit).await.map_err(told)?;
        if response.status() == StatusCode::OK {
            return Ok(response);
        }
        let (status, body) = api::read_all(response, Duration::from_secs(5))
            .await
            .map_err(told)?;
        Err(Refusal {
            is_busy: status == StatusCode::TOO_MANY_REQUESTS,
            why: refusal(status, &body),
        })
    }

    /// A floater has one plan at a time; another run's, or the last round's that has just ended, is waited for.
    async fn start(
        &self,
        body: &[u8],
        limit: Duration,
    ) -> Result<http::Response<kube::client::Body>, String> {
        for _ in 0..BUSY_TRIES {
            match self
                .ask(Method::POST, "/v1/probe", body.to_vec(), limit)
                .await
            {
                Err(refusal) if refusal.is_busy => tokio::time::sleep(BUSY_PAUSE).await,
                answer => return answer.map_err(|refusal| refusal.why),
            }
        }
        Err("it is busy with the plan of another run".to_owned())
    }

    async fn read<T: DeserializeOwned>(
        &self,
        path: &str,
        limit: Duration,
        deadline: Instant,
        version: impl Fn(&T) -> u32,
    ) -> Result<T, String> {
        let _permits = self.gates.pass().await;
        let work = async {
            let response = self
                .ask(Method::GET, path, Vec::new(), limit)
                .await
                .map_err(|refusal| refusal.why)?;
            let (_, body) = api::read_all(response, limit)
                .await
                .map_err(|failure| failure.to_string())?;
            let read: T = serde_json::from_slice(&body).map_err(|error| {
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

    /// The tables of its node.
    pub(crate) async fn tables(&self, deadline: Instant) -> Result<Tables, String> {
        self.read("/v1/tables", TABLES_TIMEOUT, deadline, |tables: &Tables| {
            tables.version
        })
        .await
    }

    /// Who it is.
    pub(crate) async fn info(&self, deadline: Instant) -> Result<Info, String> {
        self.read("/v1/info", INFO_TIMEOUT, deadline, |info: &Info| {
            info.version
        })
        .await
    }

    /// Sends a plan; `outcome` is called with each result as it comes.
    ///
    /// # Errors
    /// Why the results ended early; those that had come are told.
    pub(crate) async fn probe(
        &self,
        plan: &Plan,
        deadline: Instant,
        mut outcome: impl FnMut(Outcome),
    ) -> Result<(), String> {
        let _permits = self.gates.pass().await;
        let body = serde_json::to_vec(plan).map_err(|error| error.to_string())?;
        let limit = expected(plan) + PLAN_SLACK;
        let work = async {
            let response = self.start(&body, limit).await?;
            let mut lines = Lines::new(response.into_body());
            let results = async {
                loop {
                    let line = lines
                        .next()
                        .await
                        .map_err(|failure| format!("its results broke off: {failure}"))?;
                    let Some(line) = line else {
                        return Err("its results ended before it was done".to_owned());
                    };
                    if line.is_empty() {
                        continue;
                    }
                    match serde_json::from_slice(&line) {
                        Ok(Event::Outcome(result)) => outcome(result),
                        Ok(Event::Done { .. }) => return Ok(()),
                        // A newer floater may tell more than is known here.
                        Err(_) => {}
                    }
                }
            };
            // A floater whose results keep coming and never end is dead, too.
            tokio::time::timeout(limit, results)
                .await
                .unwrap_or_else(|_| Err("it did not answer in time".to_owned()))
        };
        within(deadline, work).await
    }
}

/// A question that was not answered.
struct Refusal {
    /// Whether another try may be taken.
    is_busy: bool,
    why: String,
}

impl From<String> for Refusal {
    fn from(why: String) -> Self {
        Self {
            is_busy: false,
            why,
        }
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

/// How long a plan takes by its own arithmetic.
fn expected(plan: &Plan) -> Duration {
    let packets: u64 = plan.probes.iter().map(|probe| u64::from(probe.count)).sum();
    let pps = plan.budget_pps.clamp(1, floater::wire::CEILING_PPS);
    Duration::from_millis(packets * 1000 / u64::from(pps) + u64::from(plan.timeout_ms))
}

/// Who refused and why: the API server in the words of a Status, or the floater behind it.
fn refusal(status: StatusCode, body: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    struct Status {
        kind: String,
        #[serde(default)]
        message: String,
    }
    match serde_json::from_slice::<Status>(body) {
        Ok(said) if said.kind == "Status" => {
            let failure = Failure::Status {
                code: status.as_u16(),
                message: api::words(&said.message),
            };
            format!("its API server cannot pass on to it: {failure}")
        }
        _ if status == StatusCode::UNAUTHORIZED => {
            "it does not accept the run key (another run's floater, or clocks that differ by minutes)"
                .to_owned()
        }
        _ => format!(
            "it answers {}: {}",
            status.as_u16(),
            api::words(&String::from_utf8_lossy(body))
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_who_refused() {
        let status = br#"{"kind":"Status","message":"error trying to reach service: dial tcp: connect: connection refused"}"#;
        assert!(
            refusal(StatusCode::BAD_GATEWAY, status)
                .starts_with("its API server cannot pass on to it: error trying to reach service")
        );
        assert!(refusal(StatusCode::UNAUTHORIZED, b"").contains("run key"));
        assert_eq!(
            refusal(StatusCode::BAD_REQUEST, b"version 2"),
            "it answers 400: version 2"
        );
    }

    #[test]
    fn a_plan_takes_its_packets_by_its_budget_and_one_timeout() {
        let plan = Plan {
            version: VERSION,
            run: "r".into(),
            budget_pps: 100,
            timeout_ms: 1000,
            probes: vec![
                floater::wire::Probe {
                    id: 0,
                    dst: [10, 0, 0, 1].into(),
                    protocol: floater::wire::Protocol::Icmp,
                    port: 0,
                    count: 50,
                    payload_bytes: 0,
                    expect: None,
                };
                4
            ],
        };
        assert_eq!(expected(&plan), Duration::from_secs(3));
    }
}
