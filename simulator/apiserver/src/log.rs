//! `pods/NAME/log`: what a pod has written, and what it goes on to write.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream;
use http::Response;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use serde_json::Value;

use super::ApiCluster;
use super::answer::{self, Body};
use super::request::Query;
use super::resource::Resource;
use super::status::Status;

/// How often a followed log is read again: a file reports to nobody that it grew.
const EVERY: Duration = Duration::from_millis(200);

/// GET of a log. Lines carry no times, so that what asks for lines by their time gets all of them.
pub(crate) fn read(
    cluster: &Arc<ApiCluster>,
    namespace: &str,
    name: &str,
    query: &Query,
) -> Result<Response<Body>, Status> {
    let pod = cluster
        .store()
        .get(Resource::PODS, Some(namespace), name)
        .ok_or_else(|| Status::not_found(Resource::PODS, name))?;
    let mut containers = pod["spec"]["containers"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|container| container["name"].as_str());
    let container = match query.get("container") {
        Some(wanted) if !containers.any(|known| known == wanted) => {
            return Err(Status::bad_request(format!(
                "container {wanted} is not valid for pod {name}"
            )));
        }
        Some(wanted) => wanted,
        None => containers.next().unwrap_or_default(),
    };
    if query.is_true("previous") {
        return Err(Status::bad_request(format!(
            "previous terminated container {container:?} in pod {name:?} not found"
        )));
    }
    if pod["spec"]["nodeName"].as_str().is_none_or(str::is_empty) {
        let mut response = answer::text(204, "");
        response.headers_mut().remove(http::header::CONTENT_TYPE);
        return Ok(response);
    }
    let of_pod = OfPod {
        cluster: cluster.clone(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        uid: pod["metadata"]["uid"].clone(),
    };
    answer(query, of_pod)
}

/// What a container writes.
pub trait Output: Send + 'static {
    /// All of it so far.
    ///
    /// # Errors
    /// It cannot be read, with the container's name.
    fn written(&self) -> Result<Vec<u8>, String>;

    /// Whether there may be more of it.
    fn runs(&self) -> bool;
}

/// Answers a request for a container's output, with `tailLines`, `limitBytes` and `follow` of the query.
#[must_use]
pub fn logged(query: &str, output: impl Output) -> Response<Body> {
    let answered = answer(&Query::parse(query), output);
    answered.unwrap_or_else(|status| answer::refusal(&status))
}

fn answer(query: &Query, output: impl Output) -> Result<Response<Body>, Status> {
    let tail = query.number("tailLines")?;
    let limit = query.number("limitBytes")?;
    let written = output
        .written()
        .map_err(|why| Status::new(500, "InternalError", why))?;
    let mut left = limit.map(|limit| usize::try_from(limit).unwrap_or(0));
    let seen = written.len();
    let start = tail.map_or(0, |lines| {
        last_lines(&written, usize::try_from(lines).unwrap_or(0))
    });
    let first = cut(written[start..].to_vec(), &mut left);
    if !query.is_true("follow") {
        return Ok(answer::bytes(200, "text/plain", first));
    }
    let follower = Follower {
        output,
        first: (!first.is_empty()).then_some(first),
        seen,
        left,
    };
    let body = StreamBody::new(stream::unfold(follower, |mut follower| async move {
        let bytes = follower.next().await?;
        Some((
            Ok::<_, answer::BodyError>(Frame::data(Bytes::from(bytes))),
            follower,
        ))
    }));
    let mut response = Response::new(body.boxed_unsync());
    response.headers_mut().insert(
        http::header::CONTENT_TYPE,
        http::HeaderValue::from_static("text/plain"),
    );
    Ok(response)
}

/// The container of a pod of a simulated cluster.
struct OfPod {
    cluster: Arc<ApiCluster>,
    namespace: String,
    name: String,
    uid: Value,
}

impl Output for OfPod {
    fn written(&self) -> Result<Vec<u8>, String> {
        let (namespace, name) = (&self.namespace, &self.name);
        let written = self.cluster.dialer.log(namespace, name);
        written.map_err(|error| format!("cannot read the log of {namespace}/{name}: {error}"))
    }

    fn runs(&self) -> bool {
        let store = self.cluster.store();
        store
            .get(Resource::PODS, Some(&self.namespace), &self.name)
            .is_some_and(|pod| {
                pod["metadata"]["uid"] == self.uid
                    && !matches!(
                        pod["status"]["phase"].as_str(),
                        Some("Succeeded" | "Failed")
                    )
            })
    }
}

/// Where the last lines of a text begin.
fn last_lines(text: &[u8], lines: usize) -> usize {
    if lines == 0 {
        return text.len();
    }
    let body = text.strip_suffix(b"\n").unwrap_or(text);
    let mut breaks = body
        .iter()
        .enumerate()
        .rev()
        .filter(|(_, byte)| **byte == b'\n');
    breaks.nth(lines - 1).map_or(0, |(at, _)| at + 1)
}

/// Takes from what may still be sent.
fn cut(mut bytes: Vec<u8>, left: &mut Option<usize>) -> Vec<u8> {
    if let Some(left) = left {
        bytes.truncate(*left);
        *left -= bytes.len();
    }
    bytes
}

/// Somebody who waits for more of a log.
struct Follower<O> {
    output: O,
    first: Option<Vec<u8>>,
    seen: usize,
    left: Option<usize>,
}

impl<O: Output> Follower<O> {
    /// What was written since the last look; nothing once the pod has ended.
    async fn next(&mut self) -> Option<Vec<u8>> {
        if let Some(first) = self.first.take() {
            return Some(first);
        }
        loop {
            if self.left == Some(0) {
                return None;
            }
            // Asked before the last look, so that nothing written before the end is missed.
            let runs = self.output.runs();
            let written = self.output.written().ok()?;
            // A log that is shorter than before is a new one.
            let from = if written.len() < self.seen {
                0
            } else {
                self.seen
            };
            self.seen = written.len();
            if written.len() > from {
                return Some(cut(written[from..].to_vec(), &mut self.left));
            }
            if !runs {
                return None;
            }
            tokio::time::sleep(EVERY).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_counted_from_the_end() {
        for (text, lines, wanted) in [
            ("a\nb\nc\n", 1, "c\n"),
            ("a\nb\nc\n", 2, "b\nc\n"),
            ("a\nb\nc", 2, "b\nc"),
            ("a\nb\n", 9, "a\nb\n"),
            ("a\n", 0, ""),
            ("", 3, ""),
        ] {
            let from = last_lines(text.as_bytes(), lines);
            assert_eq!(&text[from..], wanted, "{lines} of {text:?}");
        }
    }
}
