//! Reads: get, list, watch.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use futures::stream;
use http::Response;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::answer::{self, Body};
use super::generated::is_stub;
use super::kinds::Served;
use super::request::{Accept, Form, Query};
use super::selector::Selector;
use super::status::{Cause, Status};
use super::store::{Change, EventKind, Inner, Store, key_of};
use super::table::{self, Include};

/// A read as it was asked for.
pub(crate) struct Read<'a> {
    pub(crate) store: &'a Arc<Store>,
    pub(crate) served: &'a Arc<Served>,
    pub(crate) namespace: Option<&'a str>,
    pub(crate) query: &'a Query,
    pub(crate) accept: Accept,
}

impl Read<'_> {
    /// GET of an object.
    pub(crate) fn get(&self, name: &str) -> Result<Response<Body>, Status> {
        let r = self.served.resource;
        let object = self
            .store
            .get(r, self.namespace, name)
            .ok_or_else(|| Status::not_found(r, name))?;
        Ok(self.one(200, &object))
    }

    /// An object in the form that the client wants.
    pub(crate) fn one(&self, code: u16, object: &Value) -> Response<Body> {
        let version = &object["metadata"]["resourceVersion"];
        match self.accept.form {
            Form::Table => {
                let table = table::table(
                    self.served,
                    [object],
                    json!({"resourceVersion": version}),
                    Include::of(self.query),
                    true,
                );
                answer::object(code, &table, self.accept)
            }
            Form::Partial => answer::object(code, &table::partial(object), self.accept),
            _ if object["apiVersion"] == self.served.resource.api_version() => {
                answer::object(code, object, self.accept)
            }
            // Another version of the same kind: versions differ in nothing but their name.
            _ => {
                let mut object = object.clone();
                object["apiVersion"] = self.served.resource.api_version().into();
                answer::object(code, &object, self.accept)
            }
        }
    }

    /// GET of a collection.
    pub(crate) async fn list(&self) -> Result<Response<Body>, Status> {
        let selector = Selector::of(self.query, self.served)?;
        let wanted = version_of(self.query)?;
        let matching = self.query.get("resourceVersionMatch");
        if let Some(matching) = matching {
            let field = "resourceVersionMatch";
            let cause = if !matches!(matching, "Exact" | "NotOlderThan") {
                Some(Cause::unsupported(
                    field,
                    &matching.into(),
                    &["Exact", "NotOlderThan"],
                ))
            } else if wanted.is_none() {
                Some(Cause::forbidden(
                    field,
                    "resourceVersionMatch is forbidden unless resourceVersion is provided",
                ))
            } else if matching == "Exact" && wanted == Some(0) {
                Some(Cause::forbidden(
                    field,
                    "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
                ))
            } else {
                None
            };
            if let Some(cause) = cause {
                return Err(Status::invalid_options("ListOptions", cause));
            }
        }
        let limit = usize::try_from(self.query.positive("limit")?.unwrap_or(0)).unwrap_or(0);
        let token = self.query.get("continue").map(Token::parse).transpose()?;
        if let Some(wanted) = wanted.filter(|wanted| *wanted > self.store.version()) {
            return future_version(self.query, wanted, self.store.version()).await;
        }
        let exact = match &token {
            Some(token) => Some(token.version),
            None if matching == Some("Exact") || (limit > 0 && matching.is_none()) => {
                wanted.filter(|wanted| *wanted > 0)
            }
            None => None,
        };
        let (objects, version, more) = {
            let inner = self.store.lock();
            let version = exact.unwrap_or_else(|| inner.version());
            let snapshot;
            let candidates: Box<dyn Iterator<Item = Arc<Value>>> = if version == inner.version() {
                Box::new(inner.list(self.served.resource, self.namespace))
            } else {
                snapshot = as_of(&inner, self.served, version)?;
                let prefix = self.namespace.map(|namespace| format!("{namespace}/"));
                Box::new(
                    snapshot
                        .iter()
                        .filter(move |(key, _)| {
                            prefix.as_ref().is_none_or(|prefix| key.starts_with(prefix))
                        })
                        .map(|(_, object)| object.clone()),
                )
            };
            let after = token.as_ref().map(|token| token.after.as_str());
            let mut chosen = candidates
                .filter(|object| after.is_none_or(|after| key_of(object).as_str() > after))
                .filter(|object| selector.matches(object));
            let objects: Vec<Arc<Value>> = if limit == 0 {
                chosen.by_ref().collect()
            } else {
                chosen.by_ref().take(limit).collect()
            };
            let left = chosen.count();
            let more = (left > 0).then(|| {
                let after = objects.last().map(|last| key_of(last)).unwrap_or_default();
                (
                    Token { version, after }.to_text(),
                    selector.is_empty().then_some(left),
                )
            });
            (objects, version, more)
        };
        Ok(self.collection(&objects, version, more))
    }

    /// A list in the form that the client wants.
    pub(crate) fn collection(
        &self,
        objects: &[Arc<Value>],
        version: u64,
        more: Option<(String, Option<usize>)>,
    ) -> Response<Body> {
        let metadata = table::list_metadata(version, more);
        let r = self.served.resource;
        let value = match self.accept.form {
            Form::Table => {
                let include = Include::of(self.query);
                let shown: Vec<Arc<Value>> = match include {
                    Include::Object => {
                        let objects = objects.iter();
                        objects.map(|object| self.store.whole(r, object)).collect()
                    }
                    _ => objects.to_vec(),
                };
                let shown = shown.iter().map(|object| &**object);
                table::table(self.served, shown, metadata, include, true)
            }
            Form::PartialList | Form::Partial => json!({
                "kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": metadata,
                "items": objects.iter().map(|object| table::partial(object)).collect::<Vec<_>>(),
            }),
            _ => {
                let bare = self.served.custom.is_none();
                let head = json!({
                    "kind": format!("{}List", r.kind), "apiVersion": r.api_version(), "metadata": metadata,
                });
                if objects.iter().any(|object| is_stub(object)) {
                    return self.stream(&head, objects.to_vec(), bare);
                }
                if !self.accept.yaml {
                    return answer::bytes(
                        200,
                        "application/json",
                        list_text(&head, objects, bare, &r.api_version()),
                    );
                }
                let mut list = head;
                list["items"] = objects.iter().map(|object| (**object).clone()).collect();
                list
            }
        };
        answer::object(200, &value, self.accept)
    }

    /// A list whose objects are made one after the other, as they are read.
    fn stream(&self, head: &Value, objects: Vec<Arc<Value>>, bare: bool) -> Response<Body> {
        let mut start = head.to_string();
        start.pop();
        start.push_str(",\"items\":[");
        let (store, resource) = (self.store.clone(), self.served.resource);
        let version = resource.api_version();
        let items = objects.into_iter().enumerate().map(move |(at, stub)| {
            let mut text = Vec::new();
            if at > 0 {
                text.push(b',');
            }
            item_text(&mut text, &store.whole(resource, &stub), bare, &version);
            Bytes::from(text)
        });
        let parts = std::iter::once(Bytes::from(start))
            .chain(items)
            .chain(std::iter::once(Bytes::from_static(b"]}\n")));
        let frames = stream::iter(parts.map(|part| Ok::<_, answer::BodyError>(Frame::data(part))));
        let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
        response.headers_mut().insert(
            http::header::CONTENT_TYPE,
            http::HeaderValue::from_static("application/json"),
        );
        response
    }

    /// GET with `watch`.
    pub(crate) fn watch(&self, name: Option<&str>) -> Result<Response<Body>, Status> {
        let selector = Selector::of(self.query, self.served)?;
        let wanted = version_of(self.query)?;
        let initial = self.query.get("sendInitialEvents");
        let matching = self.query.get("resourceVersionMatch");
        let field = "resourceVersionMatch";
        let cause = match (initial, matching) {
            (Some(_), None) => Some(Cause::forbidden(
                field,
                "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
            )),
            (Some(_), Some(other)) if other != "NotOlderThan" => {
                Some(Cause::unsupported(field, &other.into(), &["NotOlderThan"]))
            }
            (None, Some(_)) => Some(Cause::forbidden(
                field,
                "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
            )),
            _ => None,
        };
        if let Some(cause) = cause {
            return Err(Status::invalid_options("ListOptions", cause));
        }
        let from_now = initial == Some("false") && wanted.is_none();
        let with_state =
            initial == Some("true") || initial.is_none() && wanted.is_none_or(|wanted| wanted == 0);
        let seconds = match self.query.positive("timeoutSeconds")? {
            // Longer than anybody waits, and within what the clock can add.
            Some(seconds) => seconds.min(u64::from(u32::MAX)),
            None => 1800 + u64::from(super::ids::bytes::<1>()[0]),
        };
        let bookmarks = self.query.is_true("allowWatchBookmarks");
        let mut stream = Stream {
            store: self.store.clone(),
            served: self.served.clone(),
            namespace: self.namespace.map(str::to_owned),
            name: name.map(str::to_owned),
            selector,
            form: self.accept.form,
            include: Include::of(self.query),
            bookmarks,
            seen: wanted.unwrap_or(0),
            ready: VecDeque::new(),
            columns_sent: false,
            ended: false,
            until: Instant::now() + Duration::from_secs(seconds),
        };
        if from_now {
            stream.seen = self.store.version();
        } else if with_state {
            // The state and the place in the log are taken under one lock.
            let inner = self.store.lock();
            let objects: Vec<Arc<Value>> = inner
                .list(self.served.resource, self.namespace)
                .filter(|object| stream.wants(object))
                .collect();
            stream.seen = inner.version();
            drop(inner);
            for object in objects {
                stream.push("ADDED", &object);
            }
            if bookmarks && initial == Some("true") {
                stream.bookmark(true);
            }
        }
        let body = StreamBody::new(stream::unfold(stream, |mut stream| async move {
            let bytes = stream.next().await?;
            Some((Ok::<_, answer::BodyError>(Frame::data(bytes)), stream))
        }));
        let mut response = Response::new(body.boxed_unsync());
        response.headers_mut().insert(
            http::header::CONTENT_TYPE,
            http::HeaderValue::from_static("application/json"),
        );
        Ok(response)
    }
}

/// `resourceVersion` of a request.
fn version_of(query: &Query) -> Result<Option<u64>, Status> {
    query
        .get("resourceVersion")
        .map(|text| {
            text.parse().map_err(|_| {
                Status::bad_request(format!(
                    "invalid resource version: resourceVersion: Invalid value: {text:?}: strconv.ParseUint: parsing {text:?}: invalid syntax"
                ))
            })
        })
        .transpose()
}

/// A version that is not there yet: waits a little for it, as the API does, and gives up.
async fn future_version(query: &Query, wanted: u64, held: u64) -> Result<Response<Body>, Status> {
    let patience = Duration::from_secs(3);
    let given = query
        .get("timeout")
        .and_then(|text| text.strip_suffix('s')?.parse().ok())
        .map(Duration::from_secs);
    if let Some(given) = given.filter(|given| *given < patience) {
        tokio::time::sleep(given).await;
        let status = json!({
            "metadata": {}, "status": "Failure",
            "message": "Timeout: request did not complete within the allotted timeout",
            "reason": "Timeout", "details": {}, "code": 504,
        });
        return Ok(answer::text(504, status.to_string()));
    }
    tokio::time::sleep(patience).await;
    let mut status = Status::new(
        504,
        "Timeout",
        format!("Too large resource version: {wanted}, current: {held}"),
    );
    status.details = json!({"causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}], "retryAfterSeconds": 1});
    Err(status)
}

/// A table as it was, by walking the log backwards.
fn as_of(
    inner: &Inner,
    served: &Served,
    version: u64,
) -> Result<BTreeMap<String, Arc<Value>>, Status> {
    let gone = || {
        Status::expired(
            "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter.",
        )
    };
    let mut objects: BTreeMap<String, Arc<Value>> = inner
        .list(served.resource, None)
        .map(|object| (key_of(&object), object))
        .collect();
    let changes = inner.since_of(served.resource, version);
    let changes: Vec<&Change> = changes.ok_or_else(gone)?.collect();
    for change in changes.into_iter().rev() {
        let key = key_of(&change.object);
        match &change.before {
            Some(before) => objects.insert(key, before.clone()),
            None => objects.remove(&key),
        };
    }
    Ok(objects)
}

/// Where the next page starts.
struct Token {
    version: u64,
    after: String,
}

impl Token {
    fn to_text(&self) -> String {
        URL_SAFE_NO_PAD.encode(
            json!({"v": "meta.k8s.io/v1", "rv": self.version, "start": self.after}).to_string(),
        )
    }

    fn parse(text: &str) -> Result<Self, Status> {
        let bad = || Status::bad_request("invalid continue token: continue key is not valid");
        let value: Value = serde_json::from_slice(
            &URL_SAFE_NO_PAD
                .decode(text.trim_end_matches('='))
                .map_err(|_| bad())?,
        )
        .map_err(|_| bad())?;
        Ok(Self {
            version: value["rv"].as_u64().ok_or_else(bad)?,
            after: value["start"].as_str().ok_or_else(bad)?.to_owned(),
        })
    }
}

/// Writes a list without copying its objects.
fn list_text(head: &Value, objects: &[Arc<Value>], bare: bool, version: &str) -> Vec<u8> {
    let mut text = head.to_string().into_bytes();
    text.pop();
    text.extend_from_slice(b",\"items\":[");
    for (at, object) in objects.iter().enumerate() {
        if at > 0 {
            text.push(b',');
        }
        item_text(&mut text, object, bare, version);
    }
    text.extend_from_slice(b"]}\n");
    text
}

/// Writes an object of a list.
fn item_text(text: &mut Vec<u8>, object: &Value, bare: bool, version: &str) {
    text.push(b'{');
    let mut first = true;
    for (name, value) in object.as_object().into_iter().flatten() {
        if bare && matches!(name.as_str(), "kind" | "apiVersion") {
            continue;
        }
        if !first {
            text.push(b',');
        }
        first = false;
        text.extend_from_slice(Value::from(name.as_str()).to_string().as_bytes());
        text.push(b':');
        if name == "apiVersion" {
            text.extend_from_slice(Value::from(version).to_string().as_bytes());
        } else {
            // Writing to memory does not fail, and values have text keys only.
            let _ = serde_json::to_writer(&mut *text, value);
        }
    }
    text.push(b'}');
}

/// A watch that somebody reads.
struct Stream {
    store: Arc<Store>,
    served: Arc<Served>,
    namespace: Option<String>,
    name: Option<String>,
    selector: Selector,
    form: Form,
    include: Include,
    bookmarks: bool,
    seen: u64,
    ready: VecDeque<String>,
    columns_sent: bool,
    ended: bool,
    until: Instant,
}

/// How often a quiet watch reports how far it is.
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);

impl Stream {
    fn wants(&self, object: &Value) -> bool {
        let metadata = &object["metadata"];
        self.namespace
            .as_ref()
            .is_none_or(|namespace| metadata["namespace"] == namespace.as_str())
            && self
                .name
                .as_ref()
                .is_none_or(|name| metadata["name"] == name.as_str())
            && self.selector.matches(object)
    }

    fn push(&mut self, kind: &str, object: &Arc<Value>) {
        let object = &*match self.form {
            Form::Table | Form::Partial | Form::PartialList => object.clone(),
            _ => self.store.whole(self.served.resource, object),
        };
        let version = &object["metadata"]["resourceVersion"];
        let shown = match self.form {
            Form::Table => {
                let first = !std::mem::replace(&mut self.columns_sent, true);
                table::table(
                    &self.served,
                    [object],
                    json!({"resourceVersion": version}),
                    self.include,
                    first,
                )
                .to_string()
            }
            Form::Partial | Form::PartialList => table::partial(object).to_string(),
            _ => object.to_string(),
        };
        self.ready
            .push_back(format!("{{\"type\":\"{kind}\",\"object\":{shown}}}\n"));
    }

    fn bookmark(&mut self, initial: bool) {
        let r = self.served.resource;
        let mut metadata = json!({"resourceVersion": self.seen.to_string()});
        if initial {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let object = match self.form {
            Form::Table => json!({
                "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata, "columnDefinitions": null, "rows": [],
            }),
            Form::Partial | Form::PartialList => {
                json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata})
            }
            _ => json!({"kind": r.kind, "apiVersion": r.api_version(), "metadata": metadata}),
        };
        self.ready.push_back(format!(
            "{}\n",
            json!({"type": "BOOKMARK", "object": object})
        ));
    }

    /// Reads the log up to now.
    fn advance(&mut self) {
        let store = self.store.clone();
        let inner = store.lock();
        let version = inner.version();
        let changes = inner.since_of(self.served.resource, self.seen);
        let changes: Option<Vec<Change>> = changes.map(|changes| changes.cloned().collect());
        let forgotten = inner.forgotten();
        drop(inner);
        let Some(changes) = changes else {
            let status = Status::expired(format!(
                "too old resource version: {} ({forgotten})",
                self.seen
            ));
            self.ready.push_back(format!(
                "{}\n",
                json!({"type": "ERROR", "object": status.to_value()})
            ));
            self.ended = true;
            return;
        };
        self.seen = self.seen.max(version);
        for change in changes {
            let before = change
                .before
                .as_deref()
                .is_some_and(|before| self.wants(before));
            let after = change.kind != EventKind::Deleted && self.wants(&change.object);
            match (before, after) {
                (false, true) => self.push("ADDED", &change.object),
                (true, true) => self.push("MODIFIED", &change.object),
                (true, false) if change.kind == EventKind::Deleted => {
                    self.push("DELETED", &change.object);
                }
                (true, false) => {
                    // It left the selection: reported as it was, at the version at which it left.
                    let mut last = change.before.as_deref().cloned().unwrap_or_default();
                    last["metadata"]["resourceVersion"] = change.version.to_string().into();
                    self.push("DELETED", &Arc::new(last));
                }
                (false, false) => {}
            }
        }
    }

    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if !self.ready.is_empty() {
                let text: String = self.ready.drain(..).collect();
                return Some(text.into());
            }
            if self.ended {
                return None;
            }
            let store = self.store.clone();
            let changed = store.changed.notified();
            futures::pin_mut!(changed);
            // Registered before looking, so that a change between looking and waiting wakes this.
            changed.as_mut().enable();
            self.advance();
            if !self.ready.is_empty() {
                continue;
            }
            let bookmark = Instant::now() + BOOKMARK_EVERY;
            let deadline = if self.bookmarks {
                self.until.min(bookmark)
            } else {
                self.until
            };
            if tokio::time::timeout_at(deadline, changed).await.is_err() {
                if Instant::now() >= self.until {
                    self.ended = true;
                    self.advance();
                } else {
                    self.bookmark(false);
                }
            }
        }
    }
}
