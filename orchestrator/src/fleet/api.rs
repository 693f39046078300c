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

/// How long a read or a write may take, from the first byte sent to the last one received.
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// How long to wait before a read that a busy server refused is tried again.
const READ_PAUSES: [Duration; 2] = [Duration::from_millis(200), Duration::from_millis(800)];
/// The most bytes of one answer.
const MAX_ANSWER: usize = 256 << 20;
/// Items of one page of a list.
const PAGE: usize = 500;

/// One cluster's API. Cheap to clone; all clones share the connections.
#[derive(Clone)]
pub(crate) struct Api {
    client: kube::Client,
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
    /// No answer, or none that can be understood.
    Transport(String),
}

impl Failure {
    pub(crate) fn is_absent(&self) -> bool {
        matches!(self, Self::Status { code: 404, .. })
    }

    pub(crate) fn is_already_there(&self) -> bool {
        matches!(self, Self::Status { code: 409, .. })
    }

    /// Whether another try may fare better.
    pub(crate) fn is_retryable(&self) -> bool {
        match self {
            Self::Status { code, .. } => matches!(code, 429 | 500 | 502 | 503 | 504),
            Self::Transport(_) => true,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status { code: 401, .. } => {
                f.write_str("its API server does not accept the credentials (401)")
            }
            Self::Status { code, message } if message.is_empty() => {
                write!(f, "its API server answers {code}")
            }
            Self::Status { code, message } => write!(f, "{message} ({code})"),
            Self::Transport(why) => f.write_str(why),
        }
    }
}

/// A list as the API answers it.
#[derive(Deserialize)]
#[serde(bound = "T: DeserializeOwned")]
pub(crate) struct List<T> {
    #[serde(default)]
    metadata: ListMeta,
    #[serde(default = "Vec::new")]
    pub(crate) items: Vec<T>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct ListMeta {
    resource_version: String,
    r#continue: String,
}

/// The server's words of a failure.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Status {
    message: String,
}

impl Api {
    pub(crate) fn new(client: kube::Client) -> Self {
        Self { client }
    }

    /// Sends a request and waits for the head of the answer, whatever its status.
    pub(crate) async fn send(
        &self,
        request: Request<Vec<u8>>,
        limit: Duration,
    ) -> Result<Response<Body>, Failure> {
        let (parts, body) = request.into_parts();
        let request = Request::from_parts(parts, Body::from(body));
        match tokio::time::timeout(limit, self.client.send(request)).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(Failure::Transport(transport_words(&error))),
            Err(_) => Err(Failure::Transport(format!(
                "its API server does not answer within {} s",
                limit.as_secs()
            ))),
        }
    }

    /// Sends a request and reads the whole answer; a status that is not a success is a failure.
    async fn call(&self, request: Request<Vec<u8>>) -> Result<Bytes, Failure> {
        let started = tokio::time::Instant::now();
        let response = self.send(request, REQUEST_TIMEOUT).await?;
        let left = REQUEST_TIMEOUT.saturating_sub(started.elapsed());
        let (status, body) = read_all(response, left).await?;
        if status.is_success() {
            return Ok(body);
        }
        let said: Status = serde_json::from_slice(&body).unwrap_or_default();
        Err(Failure::Status {
            code: status.as_u16(),
            message: words(&said.message),
        })
    }

    /// Reads; a server that is busy or not quite up gets a second and a third chance.
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        for pause in READ_PAUSES {
            match self.call(request(Method::GET, path, Vec::new())?).await {
                Err(Failure::Status {
                    code: 429 | 500 | 503,
                    ..
                }) => tokio::time::sleep(pause).await,
                result => return parse(&result?),
            }
        }
        let body = self.call(request(Method::GET, path, Vec::new())?).await?;
        parse(&body)
    }

    /// All pages of a list, and the version to watch from.
    pub(crate) async fn list<T: DeserializeOwned>(
        &self,
        collection: &str,
        selector: &str,
    ) -> Result<(Vec<T>, String), Failure> {
        let mut items = Vec::new();
        let mut next = String::new();
        loop {
            let mut path = format!("{collection}?limit={PAGE}");
            if !selector.is_empty() {
                path += &format!("&labelSelector={}", encoded(selector));
            }
            if !next.is_empty() {
                path += &format!("&continue={}", encoded(&next));
            }
            let page: List<T> = self.get(&path).await?;
            items.extend(page.items);
            if page.metadata.r#continue.is_empty() {
                return Ok((items, page.metadata.resource_version));
            }
            next = page.metadata.r#continue;
        }
    }

    /// The first page of a list.
    pub(crate) async fn first_page<T: DeserializeOwned>(
        &self,
        collection: &str,
    ) -> Result<Vec<T>, Failure> {
        let page: List<T> = self.get(&format!("{collection}?limit={PAGE}")).await?;
        Ok(page.items)
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

    pub(crate) async fn create(&self, collection: &str, object: &Value) -> Result<(), Failure> {
        let mut request = request(Method::POST, collection, object.to_string().into_bytes())?;
        request.headers_mut().insert(
            http::header::CONTENT_TYPE,
            http::HeaderValue::from_static("application/json"),
        );
        self.call(request).await.map(drop)
    }

    /// Deletes an object, of exactly this uid where one is given.
    pub(crate) async fn delete(&self, path: &str, uid: Option<&str>) -> Result<(), Failure> {
        let mut options = serde_json::json!({
            "kind": "DeleteOptions",
            "apiVersion": "v1",
            "propagationPolicy": "Background",
        });
        if let Some(uid) = uid {
            options["preconditions"] = serde_json::json!({"uid": uid});
        }
        let mut request = request(Method::DELETE, path, options.to_string().into_bytes())?;
        request.headers_mut().insert(
            http::header::CONTENT_TYPE,
            http::HeaderValue::from_static("application/json"),
        );
        self.call(request).await.map(drop)
    }
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
    let read = async {
        let mut bytes = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| Failure::Transport(transport_words(&error)))?;
            if let Ok(data) = frame.into_data() {
                if bytes.len() + data.len() > MAX_ANSWER {
                    return Err(Failure::Transport(format!(
                        "an answer is larger than {} MiB",
                        MAX_ANSWER >> 20
                    )));
                }
                bytes.extend_from_slice(&data);
            }
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

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Failure> {
    serde_json::from_slice(body).map_err(|error| {
        Failure::Transport(format!(
            "an answer of its API server cannot be understood (line {}, column {})",
            error.line(),
            error.column()
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
            if self.buffer.len() > MAX_ANSWER {
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
                Some(Err(error)) => return Err(Failure::Transport(transport_words(&error))),
                None if self.buffer.is_empty() => return Ok(None),
                None => {
                    self.searched = 0;
                    return Ok(Some(self.buffer.split().freeze()));
                }
            }
        }
    }
}

/// A server's words, short and without control characters.
pub(crate) fn words(message: &str) -> String {
    let mut short: String = message
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(300)
        .collect();
    if short.len() < message.len() {
        short += "…";
    }
    short
}

/// Why there was no answer. Errors of the credential plugin may quote what it printed, so they are not passed on.
fn transport_words(error: &(dyn std::error::Error + 'static)) -> String {
    if let Some(kube::Error::Auth(_)) = error.downcast_ref::<kube::Error>() {
        return "its credentials cannot be had: the plugin, token file or provider fails"
            .to_owned();
    }
    let mut deepest = error;
    while let Some(source) = deepest.source() {
        if let Some(kube::Error::Auth(_)) = source.downcast_ref::<kube::Error>() {
            return "its credentials cannot be had: the plugin, token file or provider fails"
                .to_owned();
        }
        deepest = source;
    }
    if let Some(io) = deepest.downcast_ref::<std::io::Error>() {
        match io.kind() {
            std::io::ErrorKind::ConnectionRefused => {
                return "its API server refuses connections".to_owned();
            }
            std::io::ErrorKind::TimedOut => {
                return "its API server cannot be connected to in time".to_owned();
            }
            _ => {}
        }
    }
    format!(
        "its API server cannot be asked: {}",
        words(&deepest.to_string())
    )
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
