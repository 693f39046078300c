//! Requests to one cluster's API: a time limit for each, and failures in words that an operator can act on.

use std::fmt;
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use kube::client::Body;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::budget::{Budget, Charged, Spent};

mod applied;
mod pages;
mod trouble;
mod warnings;

pub(crate) use applied::Write;
pub(crate) use pages::Listed;
use trouble::transport_words;
pub(crate) use trouble::words;
pub(crate) use warnings::Warnings;

/// How long a read or a write may take, from the first byte sent to the last one received.
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// How long to wait before a request that a busy server refused is tried again, unless the server itself says how long.
const PAUSES: [Duration; 2] = [Duration::from_millis(200), Duration::from_millis(800)];
/// The longest pause that is made for a server that asks for one; one that asks for more is not asked again.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// How often a server that says each time when to come back is asked.
const TRIES_ON_DEMAND: usize = 10;
/// The most bytes of one answer; a page of a list that is larger is asked for in smaller pages.
const MAX_ANSWER: usize = 8 << 20;
/// The most bytes of a line of a streamed answer.
const MAX_LINE: usize = 2 << 20;
/// The most bytes that are parsed where other work waits.
const PARSED_IN_PLACE: usize = 64 << 10;

/// One cluster's API, and what the cluster may still cost. Cheap to clone; all clones share connections and budget.
#[derive(Clone)]
pub(crate) struct Api {
    /// As it was made.
    base: kube::Client,
    /// The same, whose answers are charged to `budget`.
    client: kube::Client,
    budget: Budget,
    warnings: Warnings,
}

/// Why a request came to nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The server said so.
    Status {
        /// The HTTP status.
        code: u16,
        /// The server's words.
        message: String,
    },
    /// Nothing can be made in a namespace that is being removed; the server's words.
    Ending(String),
    /// The answer is larger than one may be.
    TooLarge,
    /// The cluster has used up what it may cost.
    Spent(Spent),
    /// No answer, or none that can be understood.
    Transport(String),
}

impl From<Spent> for Failure {
    fn from(spent: Spent) -> Self {
        Self::Spent(spent)
    }
}

impl Failure {
    pub(crate) fn is_absent(&self) -> bool {
        matches!(self, Self::Status { code: 404, .. })
    }

    pub(crate) fn is_forbidden(&self) -> bool {
        matches!(self, Self::Status { code: 403, .. })
    }

    pub(crate) fn is_already_there(&self) -> bool {
        matches!(self, Self::Status { code: 409, .. })
    }

    /// Whether another try may fare better.
    pub(crate) fn is_retryable(&self) -> bool {
        match self {
            Self::Status { code, .. } => matches!(code, 429 | 500 | 502 | 503 | 504),
            Self::Transport(_) => true,
            Self::Ending(_) | Self::Spent(_) | Self::TooLarge => false,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status { code: 401, .. } => {
                f.write_str("the API server does not accept the credentials (401)")
            }
            Self::Status { code, message } if message.is_empty() => {
                write!(f, "the API server answers {code}")
            }
            Self::Status { code, message } => write!(f, "{message} ({code})"),
            Self::Ending(message) => f.write_str(message),
            Self::TooLarge => write!(f, "an answer is larger than {} MiB", MAX_ANSWER >> 20),
            Self::Spent(spent) => write!(f, "{spent}"),
            Self::Transport(why) => f.write_str(why),
        }
    }
}

/// The server's words of a failure.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Status {
    message: String,
    details: Option<Details>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Details {
    causes: Option<Vec<Cause>>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Cause {
    reason: String,
}

impl Status {
    /// Whether the namespace that something was to be made in is being removed.
    fn is_ending(&self) -> bool {
        let causes = self.details.iter().flat_map(|details| &details.causes);
        causes
            .flatten()
            .any(|cause| cause.reason == "NamespaceTerminating")
    }
}

impl Api {
    /// An API of which at most `budget` is used.
    pub(crate) fn new(client: kube::Client, budget: Budget) -> Self {
        let charge = budget.clone();
        let inner = client.clone();
        let charged = tower::service_fn(move |request: Request<Body>| {
            let (inner, budget) = (inner.clone(), charge.clone());
            async move {
                let response = inner.send(request).await?;
                Ok::<_, kube::Error>(response.map(|body| Charged { body, budget }))
            }
        });
        Self {
            base: client,
            client: kube::Client::new(charged, "default"),
            budget,
            warnings: Warnings::unheard(),
        }
    }

    /// The same, whose server's warnings are told.
    pub(crate) fn warning(mut self, warnings: Warnings) -> Self {
        self.warnings = warnings;
        self
    }

    /// The same cluster with a budget of its own: whatever a run has cost, what it made is removed.
    pub(crate) fn afresh(&self, time: Duration) -> Self {
        Self::new(self.base.clone(), Budget::new(time)).warning(self.warnings.clone())
    }

    /// The same cluster, which may take so long from now on; whatever else it may cost goes on from where it was.
    pub(crate) fn renewed(&self, time: Duration) -> Self {
        Self::new(self.base.clone(), self.budget.renewed(time)).warning(self.warnings.clone())
    }

    /// How long the cluster may still take.
    pub(crate) fn left(&self) -> Duration {
        self.budget.left()
    }

    /// Sends a request and waits for the head of the answer, whatever its status.
    pub(crate) async fn send(
        &self,
        request: Request<Vec<u8>>,
        limit: Duration,
    ) -> Result<Response<Body>, Failure> {
        self.budget.request()?;
        let limit = limit.min(self.budget.left());
        let (parts, body) = request.into_parts();
        let passed_on = parts.uri.path().contains("/proxy/");
        let request = Request::from_parts(parts, Body::from(body));
        match tokio::time::timeout(limit, self.client.send(request)).await {
            Ok(Ok(response)) => {
                // What a pod says that the server passes on is none of the server's.
                if !passed_on {
                    self.warnings.hear(response.headers());
                }
                Ok(response)
            }
            Ok(Err(error)) => Err(transport_words(&error)),
            // The server has answered for itself before it is asked to pass anything on.
            Err(_) if passed_on => Err(Failure::Transport(format!(
                "the API server got no answer from it within {} s (pods/proxy)",
                limit.as_secs_f32().ceil()
            ))),
            Err(_) => Err(Failure::Transport(format!(
                "API server unreachable: no answer within {} s",
                limit.as_secs_f32().ceil()
            ))),
        }
    }

    /// Sends a request and reads the whole answer; a status that is not a success is a failure, with the pause that the
    /// server asks for before another try.
    async fn call(&self, request: Request<Vec<u8>>) -> Result<Bytes, (Failure, Option<Duration>)> {
        let started = tokio::time::Instant::now();
        let response = self
            .send(request, REQUEST_TIMEOUT)
            .await
            .map_err(|failure| (failure, None))?;
        let pause = response
            .headers()
            .get(http::header::RETRY_AFTER)
            .and_then(|value| value.to_str().ok()?.parse().ok())
            .map(Duration::from_secs);
        let left = REQUEST_TIMEOUT.saturating_sub(started.elapsed());
        let (status, body) = read_all(response, left)
            .await
            .map_err(|failure| (failure, None))?;
        if status.is_success() {
            return Ok(body);
        }
        let said: Status = serde_json::from_slice(&body).unwrap_or_default();
        let message = words(&said.message);
        let failure = if said.is_ending() {
            Failure::Ending(message)
        } else {
            let code = status.as_u16();
            Failure::Status { code, message }
        };
        Err((failure, pause))
    }

    /// The same with a second and a third try for a server whose refusal says that it has done nothing; with more of them where it
    /// says each time when to come back, as long as the cluster's time allows.
    async fn insist(
        &self,
        request: impl Fn() -> Result<Request<Vec<u8>>, Failure>,
        again: &[u16],
    ) -> Result<Bytes, Failure> {
        let mut pauses = PAUSES.iter();
        for _ in 1..TRIES_ON_DEMAND {
            let (failure, asked) = match self.call(request()?).await {
                Ok(body) => return Ok(body),
                Err(failed) => failed,
            };
            let is_busy = matches!(&failure, Failure::Status { code, .. } if again.contains(code));
            let pause = match asked {
                Some(asked) if asked > LONGEST_PAUSE => None,
                Some(asked) => Some(asked),
                None => pauses.next().copied(),
            };
            match pause.filter(|pause| is_busy && *pause < self.budget.left()) {
                Some(pause) => tokio::time::sleep(pause).await,
                None => return Err(failure),
            }
        }
        self.call(request()?).await.map_err(|(failure, _)| failure)
    }

    /// Reads; a server that is busy or not quite up gets a second and a third chance.
    pub(crate) async fn get<T: DeserializeOwned + Send + 'static>(
        &self,
        path: &str,
    ) -> Result<T, Failure> {
        parse(self.read(path).await?).await
    }

    async fn read(&self, path: &str) -> Result<Bytes, Failure> {
        let get = || request(Method::GET, path, Vec::new());
        self.insist(get, &[429, 500, 503]).await
    }

    /// Opens a watch; each line of it is an event.
    pub(crate) async fn watch(
        &self,
        collection: &str,
        selector: &str,
        version: &str,
        limit: Duration,
    ) -> Result<Lines, Failure> {
        let path = format!(
            "{collection}?watch=1&resourceVersion={}&timeoutSeconds={}&labelSelector={}",
            encoded(version),
            limit.as_secs().max(1),
            encoded(selector)
        );
        let response = self
            .send(request(Method::GET, &path, Vec::new())?, REQUEST_TIMEOUT)
            .await?;
        if !response.status().is_success() {
            return Err(Failure::Status {
                code: response.status().as_u16(),
                message: String::new(),
            });
        }
        Ok(Lines::new(response.into_body()))
    }

    /// Creates an object; a server that has too much to do is asked again.
    pub(crate) async fn create(&self, collection: &str, object: &Value) -> Result<(), Failure> {
        let body = object.to_string().into_bytes();
        let post = || with_json(request(Method::POST, collection, body.clone())?);
        self.insist(post, &[429]).await.map(drop)
    }

    /// Deletes an object, of exactly this uid where one is given; a server that has too much to do is asked again.
    pub(crate) async fn delete(&self, path: &str, uid: Option<&str>) -> Result<(), Failure> {
        let mut options = serde_json::json!({
            "kind": "DeleteOptions",
            "apiVersion": "v1",
            "propagationPolicy": "Background",
        });
        if let Some(uid) = uid {
            options["preconditions"] = serde_json::json!({"uid": uid});
        }
        let body = options.to_string().into_bytes();
        let delete = || with_json(request(Method::DELETE, path, body.clone())?);
        self.insist(delete, &[429]).await.map(drop)
    }
}

fn with_json(mut request: Request<Vec<u8>>) -> Result<Request<Vec<u8>>, Failure> {
    request.headers_mut().insert(
        http::header::CONTENT_TYPE,
        http::HeaderValue::from_static("application/json"),
    );
    Ok(request)
}

pub(crate) fn request(
    method: Method,
    path: &str,
    body: Vec<u8>,
) -> Result<Request<Vec<u8>>, Failure> {
    Request::builder()
        .method(method)
        .uri(path)
        // For whoever reads the server's audit log.
        .header(
            http::header::USER_AGENT,
            concat!("floaterctl/", env!("CARGO_PKG_VERSION")),
        )
        .body(body)
        .map_err(|_| Failure::Transport("a name cannot stand in a URL".to_owned()))
}

/// Reads an answer to its end.
pub(crate) async fn read_all(
    response: Response<Body>,
    limit: Duration,
) -> Result<(StatusCode, Bytes), Failure> {
    let status = response.status();
    let mut body = response.into_body();
    if http_body::Body::size_hint(&body).lower() > MAX_ANSWER as u64 {
        return Err(Failure::TooLarge);
    }
    let read = async {
        let mut bytes = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| transport_words(&error))?;
            if let Ok(data) = frame.into_data() {
                if bytes.len() + data.len() > MAX_ANSWER {
                    return Err(Failure::TooLarge);
                }
                bytes.extend_from_slice(&data);
            }
            // A server that is faster than this must not keep everybody else's work waiting.
            tokio::task::coop::consume_budget().await;
        }
        Ok(bytes.freeze())
    };
    match tokio::time::timeout(limit, read).await {
        Ok(result) => Ok((status, result?)),
        Err(_) => Err(Failure::Transport(
            "an answer began and did not end in time".to_owned(),
        )),
    }
}

/// Parses an answer, a large one on a thread where nothing else waits for it.
async fn parse<T: DeserializeOwned + Send + 'static>(body: Bytes) -> Result<T, Failure> {
    let read = |body: &[u8]| {
        serde_json::from_slice(body).map_err(|error| {
            Failure::Transport(format!(
                "an answer of the API server is not the JSON that was asked for (line {}, column {})",
                error.line(),
                error.column()
            ))
        })
    };
    if body.len() <= PARSED_IN_PLACE {
        return read(&body);
    }
    tokio::task::spawn_blocking(move || read(&body))
        .await
        .unwrap_or_else(|_| {
            Err(Failure::Transport(
                "an answer could not be parsed".to_owned(),
            ))
        })
}

/// The lines of a streamed answer, one at a time, never more than one held.
pub(crate) struct Lines {
    body: Body,
    buffer: BytesMut,
    /// How much of `buffer` is known to hold no line end.
    searched: usize,
}

impl Lines {
    pub(crate) fn new(body: Body) -> Self {
        Self {
            body,
            buffer: BytesMut::new(),
            searched: 0,
        }
    }

    /// The next line without its end; none at the end of the stream. Cancel safe: what was read stays in the buffer.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        loop {
            // Whoever reads one line after the other gives way to others however fast they come.
            tokio::task::coop::consume_budget().await;
            if let Some(at) = self.buffer[self.searched..]
                .iter()
                .position(|byte| *byte == b'\n')
            {
                let line = self.buffer.split_to(self.searched + at).freeze();
                self.buffer.advance(1);
                self.searched = 0;
                return Ok(Some(line));
            }
            self.searched = self.buffer.len();
            if self.buffer.len() > MAX_LINE {
                return Err(Failure::Transport(
                    "a line of an answer is too long".to_owned(),
                ));
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
                Some(Err(error)) => return Err(transport_words(&error)),
                None if self.buffer.is_empty() => return Ok(None),
                None => {
                    self.searched = 0;
                    return Ok(Some(self.buffer.split().freeze()));
                }
            }
        }
    }
}

/// Percent-encodes a query's value.
pub(crate) fn encoded(text: &str) -> String {
    use std::fmt::Write as _;
    text.bytes().fold(String::new(), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_are_encoded() {
        assert_eq!(
            encoded("app.kubernetes.io/name=floater,a"),
            "app.kubernetes.io%2Fname%3Dfloater%2Ca"
        );
    }

    #[tokio::test]
    async fn lines_come_one_by_one_and_the_last_needs_no_end() {
        let mut lines = Lines::new(Body::from(b"a\n\nbc\nd".to_vec()));
        let mut read = Vec::new();
        while let Some(line) = lines.next().await.expect("nothing fails") {
            read.push(line);
        }
        assert_eq!(read, ["a", "", "bc", "d"]);
    }
}
