//! From a request to its answer: who asks, whether they may, and what is done.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{Method, Request, Response};
use http_body_util::BodyExt;
use serde_json::{Value, json};

use super::answer::{self, Body};
use super::auth::User;
use super::kinds::{self, Served};
use super::patch;
use super::rbac::{self, Attributes};
use super::read::Read;
use super::request::{Accept, Form, Query, Target, is_escaped, media_type};
use super::resource::Resource;
use super::status::Status;
use super::write::{Write, Written};
use super::{ApiCluster, discovery, impersonate, log, openapi, proxy, review, scale};

/// The largest body that is read, as in etcd with some room for its encoding.
const LARGEST: usize = 3 * 1024 * 1024;

/// Answers a request.
pub(crate) async fn handle(cluster: Arc<ApiCluster>, request: Request<Body>) -> Response<Body> {
    match route(&cluster, request).await {
        Ok(response) => response,
        Err(status) => answer::refusal(&status),
    }
}

async fn route(
    cluster: &Arc<ApiCluster>,
    request: Request<Body>,
) -> Result<Response<Body>, Status> {
    let store = cluster.store();
    let sender = cluster.tokens.user(request.headers(), store)?;
    let user = impersonate::user(store, request.headers(), sender)?;
    let path = request.uri().path().to_owned();
    if !is_escaped(&path) {
        return Err(Status::bad_request(format!(
            "invalid URL escape in {path:?}"
        )));
    }
    let query = Query::parse(request.uri().query().unwrap_or_default());
    let target = Target::parse(&path);
    let served = target
        .as_ref()
        .and_then(|t| store.lock().served(&t.group, &t.version, &t.plural));
    let attributes = attributes(&request, &query, &path, target.as_ref(), served.as_deref());
    if rbac::allowed(store, &user, &attributes).is_none() {
        let known = served.as_ref().map(|served| served.resource).or_else(|| {
            let target = target.as_ref()?;
            let known = kinds::REVIEWS.iter().find(|(resource, _)| {
                resource.group == target.group && resource.plural == target.plural
            });
            known.map(|(resource, _)| *resource)
        });
        return Err(attributes.refusal(&user, known));
    }
    let Some(target) = target else {
        return outside(cluster, &request, &path);
    };
    if let Some(served) = served {
        return resource(cluster, request, &user, &target, &served, &query).await;
    }
    let reviewed = kinds::REVIEWS.iter().any(|(resource, _)| {
        resource.group == target.group
            && resource.version == target.version
            && resource.plural == target.plural
    });
    if reviewed && target.name.is_none() {
        if request.method() != Method::POST {
            return Err(Status::method_not_allowed());
        }
        let accept = Accept::parse(request.headers())?;
        let (parts, body) = request.into_parts();
        let body = read_all(body).await?;
        let object = super::decode::object("review", media_type(&parts.headers), &body)?;
        let answer = review::answer(store, &user, &target.plural, object)?;
        return Ok(answer::object(201, &answer, accept));
    }
    if discovery::resources(store, &target.group, &target.version).is_some() {
        Err(Status::no_such_resource())
    } else {
        Ok(not_found())
    }
}

fn not_found() -> Response<Body> {
    answer::text(404, "404 page not found\n")
}

/// What the request asks to be allowed.
fn attributes(
    request: &Request<Body>,
    query: &Query,
    path: &str,
    target: Option<&Target>,
    served: Option<&Served>,
) -> Attributes {
    let Some(target) = target else {
        let verb = match *request.method() {
            Method::GET | Method::HEAD => "get",
            Method::POST => "post",
            Method::PUT => "put",
            Method::PATCH => "patch",
            _ => "delete",
        };
        return Attributes {
            verb: verb.to_owned(),
            path: Some(path.to_owned()),
            ..Attributes::default()
        };
    };
    let proxied = target.subresource.as_deref() == Some("proxy");
    let named = target.name.is_some();
    let verb = match *request.method() {
        Method::GET | Method::HEAD if named => "get",
        Method::GET | Method::HEAD if query.is_true("watch") => "watch",
        Method::GET | Method::HEAD => "list",
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE if named || proxied => "delete",
        Method::DELETE => "deletecollection",
        _ => "get",
    };
    let resource = match &target.subresource {
        Some(sub) => format!("{}/{sub}", target.plural),
        None => target.plural.clone(),
    };
    // A namespace is asked for as an object in itself.
    let own = served.is_some_and(|served| served.resource == Resource::NAMESPACES);
    Attributes {
        verb: verb.to_owned(),
        group: target.group.clone(),
        resource,
        namespace: if own {
            target.name.clone()
        } else {
            target.namespace.clone()
        },
        name: match target.name.as_deref() {
            Some(name) if proxied => Some(proxy::pod_name(name).to_owned()),
            Some(name) => Some(name.to_owned()),
            None => chosen_name(query),
        },
        path: None,
    }
}

/// The name of the only object that a list or watch chooses: rights to objects by name are rights to such lists of them, too.
fn chosen_name(query: &Query) -> Option<String> {
    let chosen = query.get("fieldSelector")?.split(',');
    let names = chosen.filter_map(|one| one.strip_prefix("metadata.name="));
    let mut names = names.map(|name| name.strip_prefix('=').unwrap_or(name));
    let name = names.next().filter(|name| !name.is_empty())?;
    names.all(|other| other == name).then(|| name.to_owned())
}

/// Requests outside resources.
fn outside(
    cluster: &Arc<ApiCluster>,
    request: &Request<Body>,
    path: &str,
) -> Result<Response<Body>, Status> {
    let store = cluster.store();
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    match parts.as_slice() {
        ["healthz" | "livez" | "readyz"] => return Ok(answer::text(200, "ok")),
        ["healthz" | "livez" | "readyz", "ping" | "etcd"] => return Ok(answer::text(200, "ok")),
        ["openapi", "v2"] => {
            // Clients of today read v3; an honest refusal makes older ones say so.
            return Err(Status::not_acceptable());
        }
        _ => {}
    }
    if request.method() != Method::GET {
        return Ok(not_found());
    }
    let accept = Accept::parse(request.headers());
    let value = match parts.as_slice() {
        ["version"] => Some(version()),
        ["api"] | ["apis"] => {
            let accept = accept?;
            let core = parts == ["api"];
            if let Form::Discovery(version) = accept.form {
                let value = discovery::aggregated(store, core, version);
                let kind = match version {
                    "v2" => "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
                    _ => {
                        "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList"
                    }
                };
                return Ok(answer::bytes(200, kind, value.to_string()));
            }
            let value = if core {
                discovery::versions()
            } else {
                discovery::group_list(store)
            };
            return Ok(answer::object(200, &value, accept));
        }
        ["api", version] => discovery::resources(store, "", version),
        ["apis", group] => discovery::group(store, group),
        ["apis", group, version] => discovery::resources(store, group, version),
        ["openapi", "v3"] => Some(openapi::index(store)),
        ["openapi", "v3", version @ ..] => {
            return Ok(match openapi::document(store, &version.join("/")) {
                Some(document) => answer::bytes(200, "application/json", document),
                None => not_found(),
            });
        }
        _ => None,
    };
    match value {
        Some(value) => {
            let plain = Accept {
                form: Form::Plain,
                yaml: false,
            };
            Ok(answer::object(200, &value, accept.unwrap_or(plain)))
        }
        None => Ok(not_found()),
    }
}

fn version() -> Value {
    json!({
        "major": "1", "minor": "33", "gitVersion": "v1.33.0+floater", "gitCommit": "", "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z", "goVersion": "none", "compiler": "rustc", "platform": "linux/amd64",
    })
}

async fn resource(
    cluster: &Arc<ApiCluster>,
    request: Request<Body>,
    user: &User,
    target: &Target,
    served: &Arc<Served>,
    query: &Query,
) -> Result<Response<Body>, Status> {
    let store = cluster.store();
    let namespace = target.namespace.as_deref();
    if namespace.is_some() != served.resource.namespaced
        && (namespace.is_some() || target.name.is_some())
    {
        return Err(Status::no_such_resource());
    }
    let subresource = target.subresource.as_deref().unwrap_or_default();
    let name = target.name.as_deref();
    let is_pod = served.resource == Resource::PODS;
    match (subresource, name, namespace) {
        ("" | "status" | "finalize", ..) => {}
        ("scale", Some(_), Some(_)) if served.more.iter().any(|(sub, ..)| *sub == "scale") => {}
        ("eviction", Some(_), Some(_)) if is_pod && request.method() == Method::POST => {}
        ("proxy", Some(name), Some(namespace)) if is_pod => {
            let rest = target.rest.as_deref().unwrap_or_default();
            return proxy::forward(cluster, request, namespace, name, rest).await;
        }
        ("log", Some(name), Some(namespace)) if is_pod => {
            return log::read(cluster, namespace, name, query);
        }
        ("token", Some(name), Some(namespace))
            if served.resource == Resource::SERVICE_ACCOUNTS
                && request.method() == Method::POST =>
        {
            let accept = Accept::parse(request.headers())?;
            let (parts, body) = request.into_parts();
            let body = read_all(body).await?;
            let object = if body.is_empty() {
                json!({})
            } else {
                super::decode::object("TokenRequest", media_type(&parts.headers), &body)?
            };
            let value = review::token(store, &cluster.tokens, namespace, name, &object)?;
            return Ok(answer::object(201, &value, accept));
        }
        _ => return Err(Status::no_such_resource()),
    }
    if subresource == "status" && !served.status
        || subresource == "finalize" && served.resource != Resource::NAMESPACES
    {
        return Err(Status::no_such_resource());
    }
    let accept = Accept::parse(request.headers())?;
    let read = Read {
        store,
        served,
        namespace,
        query,
        accept,
    };
    let method = request.method().clone();
    if method == Method::GET || method == Method::HEAD {
        if let (Some(name), "scale") = (name, subresource) {
            let held = store.get(served.resource, namespace, name);
            let held = held.ok_or_else(|| Status::not_found(served.resource, name))?;
            return Ok(answer::object(200, &scale::of(&held), accept));
        }
        return match name {
            _ if query.is_true("watch") => read.watch(name),
            Some(name) => read.get(name),
            None => read.list().await,
        };
    }
    let (parts, body) = request.into_parts();
    let body = read_all(body).await?;
    let agent = parts
        .headers
        .get(http::header::USER_AGENT)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let media = media_type(&parts.headers);
    if let Some(name) = name {
        store.materialize(served.resource, namespace, name);
    }
    let write = Write {
        store,
        served,
        user,
        namespace,
        name,
        subresource,
        query,
        media,
        agent,
        body: &body,
    };
    let written = match (&method, name) {
        (&Method::POST, None) if subresource.is_empty() => {
            if served.resource.namespaced && namespace.is_none() {
                return Err(Status::method_not_allowed());
            }
            write.create()?
        }
        (&Method::POST, Some(_)) if subresource == "eviction" => {
            return Ok(answer::object(201, &write.evict()?, accept));
        }
        (&Method::PUT | &Method::PATCH, Some(_)) if subresource == "scale" => {
            let scale = write.scale(method == Method::PATCH)?;
            return Ok(answer::object(200, &scale, accept));
        }
        (&Method::PUT, Some(_)) => write.update()?,
        (&Method::PATCH, Some(_)) if subresource != "finalize" => {
            if media == patch::APPLY || !media.is_empty() {
                write.patch()?
            } else {
                return Err(Status::unsupported_media_type(patch::JSON));
            }
        }
        (&Method::DELETE, Some(_)) if subresource.is_empty() => {
            let value = write.delete()?;
            return Ok(if value["kind"] == "Status" {
                answer::object(200, &value, accept)
            } else {
                read.one(200, &value)
            });
        }
        (&Method::DELETE, None) if served.verbs().contains(&"deletecollection") => {
            let (objects, version) = write.delete_collection()?;
            return Ok(read.collection(&objects, version, None));
        }
        _ => return Err(Status::method_not_allowed()),
    };
    let Written {
        code,
        object,
        warnings,
    } = written;
    let mut response = read.one(code, &object);
    answer::warn(&mut response, &warnings);
    Ok(response)
}

/// How long a body may take to arrive.
const SLOWEST: Duration = Duration::from_secs(60);

async fn read_all(body: Body) -> Result<Bytes, Status> {
    within(SLOWEST, body).await
}

async fn within(patience: Duration, body: Body) -> Result<Bytes, Status> {
    tokio::time::timeout(patience, collect(body))
        .await
        .unwrap_or_else(|_| Err(Status::timeout()))
}

async fn collect(mut body: Body) -> Result<Bytes, Status> {
    let mut all = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            Status::bad_request(format!("the request's body broke off: {error}"))
        })?;
        if let Ok(data) = frame.into_data() {
            if all.len() + data.len() > LARGEST {
                return Err(Status::too_large(format!(
                    "Request entity too large: limit is {LARGEST}"
                )));
            }
            all.extend_from_slice(&data);
        }
    }
    Ok(all.freeze())
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::StreamExt;
    use hyper::body::Frame;

    #[tokio::test]
    async fn a_body_that_never_ends_is_not_waited_for() {
        let start = futures::stream::iter([Ok(Frame::data(Bytes::from_static(b"{")))]);
        let endless = start.chain(futures::stream::pending());
        let body = http_body_util::StreamBody::new(endless).boxed_unsync();
        let refused = within(Duration::from_millis(20), body).await;
        assert_eq!(refused, Err(Status::timeout()));
        let whole = within(SLOWEST, answer::full("{}")).await;
        assert_eq!(whole.expect("it ends"), "{}");
    }
}
