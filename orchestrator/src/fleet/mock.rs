//! A Kubernetes cluster of a few hundred lines for tests: objects in a map, DaemonSets that make pods, floaters behind
//! pods/proxy. Every request is on record.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use floater::wire::{
    AUTH_HEADER, Audience, Event, Health, Info, Layer, Nonce, Outcome, Plan, Rtt, SignedRequest,
    Tables, Transcript, VERSION, seal,
};
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use kube::client::Body;
use serde_json::{Value, json};

type Answer = http_body_util::combinators::UnsyncBoxBody<Bytes, std::io::Error>;

fn whole(bytes: impl Into<Bytes>) -> Answer {
    http_body_util::Full::new(bytes.into())
        .map_err(|never| match never {})
        .boxed_unsync()
}

/// What is unusual about a cluster; nothing by default.
#[derive(Default, Clone)]
pub(crate) struct Behaviour {
    /// Requests that are refused: method, part of the path, status.
    pub(crate) refuse: Vec<(Method, &'static str, u16)>,
    /// Requests that are answered after a while.
    pub(crate) slow: Vec<(Method, &'static str, Duration)>,
    /// Requests that are never answered.
    pub(crate) hang: Vec<(Method, &'static str)>,
    /// Nothing listens.
    pub(crate) refuses_connections: bool,
    /// Pods of DaemonSets on these nodes never become ready.
    pub(crate) never_ready: BTreeSet<&'static str>,
    /// Pods of DaemonSets on these nodes run and answer, and their node believes that they are not ready.
    pub(crate) unready: BTreeSet<&'static str>,
    /// DaemonSets are taken and get no pods, for this reason.
    pub(crate) refuses_pods: Option<&'static str>,
    /// The scheduler finds no free port for pods in the host network that ask for this one.
    pub(crate) lacks_port: Option<&'static str>,
    /// DaemonSets in the host network are refused.
    pub(crate) refuse_host_network: bool,
    /// Pods on these nodes stay when their DaemonSet goes: the node does not answer.
    pub(crate) stuck: BTreeSet<&'static str>,
    /// Pods become ready only once somebody watches.
    pub(crate) ready_on_watch: bool,
    /// Floaters on these nodes break off in the middle of a plan.
    pub(crate) dies_probing: BTreeSet<&'static str>,
    /// How many plans are refused because another one is under way.
    pub(crate) busy: usize,
    /// Addresses that do not answer probes.
    pub(crate) dead: BTreeSet<&'static str>,
}

/// The cluster.
pub(crate) struct Mock {
    uid: String,
    behaviour: Behaviour,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Objects by their path.
    objects: BTreeMap<String, Value>,
    log: Vec<String>,
    next: u64,
}

impl Mock {
    /// A cluster with nodes `n1`… at `100.64.<number>.1`… and the given namespace.
    pub(crate) fn new(number: u8, nodes: u8, behaviour: Behaviour) -> Arc<Self> {
        let mock = Arc::new(Self {
            uid: format!("uid-{number}"),
            behaviour,
            state: Mutex::default(),
        });
        {
            let mut state = mock.state();
            state.put(
                "/api/v1/namespaces/kube-system",
                json!({"metadata": {"name": "kube-system", "uid": mock.uid}}),
            );
            state.put(
                "/api/v1/namespaces/kosmos-system",
                json!({"metadata": {"name": "kosmos-system", "uid": "ns"}}),
            );
            for node in 1..=nodes {
                state.put(
                    &format!("/api/v1/nodes/n{node}"),
                    json!({
                        "metadata": {"name": format!("n{node}"), "uid": format!("node-{number}-{node}")},
                        "spec": {"podCIDRs": [format!("10.{number}.{node}.0/24")]},
                        "status": {
                            "addresses": [{"type": "InternalIP", "address": format!("100.64.{number}.{node}")}],
                            "conditions": [{"type": "Ready", "status": "True"}],
                        },
                    }),
                );
            }
        }
        mock
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no test panics while it holds it")
    }

    pub(crate) fn put(&self, path: &str, value: Value) {
        self.state().put(path, value);
    }

    pub(crate) fn remove(&self, path: &str) {
        self.state().objects.remove(path);
    }

    /// Paths of the objects of a kind.
    pub(crate) fn paths(&self, part: &str) -> Vec<String> {
        let state = self.state();
        let paths = state.objects.keys().filter(|path| path.contains(part));
        paths.cloned().collect()
    }

    pub(crate) fn object(&self, path: &str) -> Option<Value> {
        self.state().objects.get(path).cloned()
    }

    /// Paths of everything that carries our mark.
    pub(crate) fn ours(&self) -> Vec<String> {
        let state = self.state();
        let ours = state.objects.iter().filter(|(_, object)| {
            object["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "floaterctl"
        });
        ours.map(|(path, _)| path.clone()).collect()
    }

    /// The requests so far, `METHOD path`.
    pub(crate) fn log(&self) -> Vec<String> {
        self.state().log.clone()
    }

    pub(crate) fn client(self: &Arc<Self>) -> kube::Client {
        let mock = Arc::clone(self);
        let service = tower::service_fn(move |request: Request<Body>| {
            let mock = Arc::clone(&mock);
            async move { mock.serve(request).await }
        });
        kube::Client::new(service, "default")
    }

    async fn serve(
        self: Arc<Self>,
        request: Request<Body>,
    ) -> Result<Response<Answer>, std::io::Error> {
        if self.behaviour.refuses_connections {
            return Err(std::io::ErrorKind::ConnectionRefused.into());
        }
        let (parts, body) = request.into_parts();
        let body = body
            .collect()
            .await
            .map_err(std::io::Error::other)?
            .to_bytes();
        let path = parts.uri.path().to_owned();
        let query = parts.uri.query().unwrap_or_default().to_owned();
        self.state().log.push(format!("{} {path}", parts.method));
        let is = |method: &Method, part: &str| parts.method == *method && path.contains(part);
        let behaviour = &self.behaviour;
        if behaviour.hang.iter().any(|(method, part)| is(method, part)) {
            std::future::pending::<()>().await;
        }
        if let Some((_, _, delay)) = behaviour
            .slow
            .iter()
            .find(|(method, part, _)| is(method, part))
        {
            tokio::time::sleep(*delay).await;
        }
        if let Some((_, _, status)) = behaviour
            .refuse
            .iter()
            .find(|(method, part, _)| is(method, part))
        {
            return Ok(status_answer(*status, "forbidden by the test"));
        }
        if path.ends_with("/v2/probe") {
            let asked = self
                .state()
                .log
                .iter()
                .filter(|line| line.ends_with("/v2/probe"))
                .count();
            if asked <= behaviour.busy {
                let busy = json!({"error": "another plan is under way"});
                return Ok(json_answer(429, &busy));
            }
        }
        if let Some(at) = path.find("/proxy/") {
            return Ok(self.proxy(&parts, &path[..at], &path[at + 6..], &body));
        }
        Ok(match parts.method {
            Method::GET if query.contains("watch=1") => self.watch(&path, &query),
            Method::GET => self.get(&path, &query),
            Method::POST => self.create(&path, &body),
            Method::DELETE => self.delete(&path, &body),
            _ => status_answer(405, "no such method"),
        })
    }

    fn get(&self, path: &str, query: &str) -> Response<Answer> {
        let state = self.state();
        if let Some(object) = state.objects.get(path) {
            return json_answer(200, object);
        }
        if query.is_empty() {
            return status_answer(404, "not found");
        }
        if path.contains("kosmos.io")
            && !state.objects.keys().any(|key| key.contains("kosmos.io/v1"))
        {
            return status_answer(404, "no such kind");
        }
        json_answer(
            200,
            &json!({"metadata": {"resourceVersion": state.next.to_string()}, "items": state.list(path, query)}),
        )
    }

    fn watch(&self, path: &str, query: &str) -> Response<Answer> {
        let mut state = self.state();
        if self.behaviour.ready_on_watch {
            let waiting: Vec<String> = state
                .objects
                .keys()
                .filter(|key| key.contains("/pods/"))
                .cloned()
                .collect();
            for key in waiting {
                if let Some(pod) = state.objects.get_mut(&key) {
                    self.make_ready(pod, true);
                }
            }
        }
        let mut lines = String::new();
        for object in state.list(path, query) {
            lines += &json!({"type": "MODIFIED", "object": object}).to_string();
            lines.push('\n');
        }
        let first = futures::stream::once(async move {
            let mut whole = http_body_util::Full::new(Bytes::from(lines));
            match whole.frame().await {
                Some(Ok(frame)) => Ok(frame),
                _ => Err(std::io::Error::other("a whole body has one frame")),
            }
        });
        // The server ends a watch only by its own time limit.
        let body = futures::StreamExt::chain(first, futures::stream::pending());
        Response::new(http_body_util::StreamBody::new(body).boxed_unsync())
    }

    fn create(&self, path: &str, body: &[u8]) -> Response<Answer> {
        let mut object: Value = serde_json::from_slice(body).expect("what is created is JSON");
        let name = object["metadata"]["name"]
            .as_str()
            .expect("it has a name")
            .to_owned();
        let key = format!("{path}/{name}");
        let mut state = self.state();
        if state.objects.contains_key(&key) {
            return status_answer(409, "already exists");
        }
        state.next += 1;
        object["metadata"]["uid"] = json!(format!("u{}", state.next));
        if path.ends_with("/daemonsets") {
            let host = object["spec"]["template"]["spec"]["hostNetwork"] == json!(true);
            if host && self.behaviour.refuse_host_network {
                return status_answer(403, "host network is not allowed");
            }
            self.start_pods(&mut state, &object);
        }
        state.put(&key, object.clone());
        json_answer(201, &object)
    }

    fn start_pods(&self, state: &mut State, set: &Value) {
        let set_name = set["metadata"]["name"].as_str().unwrap_or_default();
        if let Some(why) = self.behaviour.refuses_pods {
            let event = json!({
                "metadata": {"name": set_name}, "reason": "FailedCreate", "message": why,
                "involvedObject": {"kind": "DaemonSet", "name": set_name},
            });
            state.put(
                &format!("/api/v1/namespaces/kosmos-system/events/{set_name}"),
                event,
            );
            return;
        }
        let nodes: Vec<Value> = state.list("/api/v1/nodes", "");
        for node in nodes {
            let node_name = node["metadata"]["name"].as_str().unwrap_or_default();
            let mut pod = set["spec"]["template"].clone();
            let name = format!("{set_name}-{node_name}");
            pod["metadata"]["name"] = json!(name);
            pod["spec"]["nodeName"] = json!(node_name);
            let host = node["status"]["addresses"][0]["address"].clone();
            let ip = if pod["spec"]["hostNetwork"] == json!(true) {
                host
            } else {
                json!(host.as_str().unwrap_or_default().replace("100.64", "10.0"))
            };
            pod["status"] = json!({"phase": "Pending", "podIP": ip, "podIPs": [{"ip": ip}]});
            let never = self.behaviour.never_ready.contains(node_name);
            if never {
                pod["status"]["containerStatuses"] = json!([{"state": {"waiting": {"reason": "ErrImagePull", "message": "no such image"}}}]);
            }
            let port = &pod["spec"]["containers"][0]["ports"][0]["containerPort"];
            if self.behaviour.lacks_port == Some(&*port.to_string())
                && pod["spec"]["hostNetwork"] == json!(true)
            {
                pod["status"]["conditions"] = json!([{"type": "PodScheduled", "status": "False",
                    "message": "0/1 nodes are available: 1 node(s) didn't have free ports"}]);
            } else {
                self.make_ready(&mut pod, !self.behaviour.ready_on_watch);
            }
            let namespace = "/api/v1/namespaces/kosmos-system/pods";
            state.put(&format!("{namespace}/{name}"), pod);
        }
    }

    fn make_ready(&self, pod: &mut Value, ready: bool) {
        let never = pod["spec"]["nodeName"]
            .as_str()
            .is_some_and(|node| self.behaviour.never_ready.contains(node));
        let unready = pod["spec"]["nodeName"]
            .as_str()
            .is_some_and(|node| self.behaviour.unready.contains(node));
        if unready {
            pod["status"]["containerStatuses"] = json!([{"state": {"running": {}}}]);
            pod["status"]["phase"] = json!("Running");
        } else if ready && !never {
            pod["status"]["conditions"] = json!([{"type": "Ready", "status": "True"}]);
            pod["status"]["phase"] = json!("Running");
        }
    }

    fn delete(&self, path: &str, body: &[u8]) -> Response<Answer> {
        let mut state = self.state();
        let Some(object) = state.objects.get(path) else {
            return status_answer(404, "not found");
        };
        let options: Value = serde_json::from_slice(body).unwrap_or_default();
        if let Some(uid) = options["preconditions"]["uid"].as_str()
            && object["metadata"]["uid"] != uid
        {
            return status_answer(409, "another uid");
        }
        state.objects.remove(path);
        if let Some(name) = path.split("/daemonsets/").nth(1) {
            let prefix = format!("/pods/{name}-");
            let stuck = |key: &str| self.behaviour.stuck.iter().any(|node| key.ends_with(node));
            state
                .objects
                .retain(|key, _| !key.contains(&prefix) || stuck(key));
        }
        if let Some(namespace) = path.strip_prefix("/api/v1/namespaces/")
            && !namespace.contains('/')
        {
            let inside = format!("/namespaces/{namespace}/");
            state.objects.retain(|key, _| !key.contains(&inside));
        }
        json_answer(200, &json!({"kind": "Status", "status": "Success"}))
    }

    /// What stands at `.../pods/https:NAME:PORT`.
    fn proxy(
        &self,
        parts: &http::request::Parts,
        pod: &str,
        path: &str,
        body: &Bytes,
    ) -> Response<Answer> {
        let Some((pods, place)) = pod.rsplit_once('/') else {
            return status_answer(400, "no pod");
        };
        let words: Vec<&str> = place.split(':').collect();
        let ["https", name, port] = words[..] else {
            return status_answer(400, "not a place");
        };
        let Some(pod) = self.object(&format!("{pods}/{name}")) else {
            return status_answer(404, "no such pod");
        };
        let env = &pod["spec"]["containers"][0]["env"];
        let variable = |name: &str| {
            env.as_array()
                .into_iter()
                .flatten()
                .find(|v| v["name"] == name)
                .cloned()
                .unwrap_or_default()
        };
        if variable("FLOATER_API_PORT")["value"] != port {
            return status_answer(502, "error trying to reach service: connection refused");
        }
        let secret = &variable("FLOATER_RUN_KEY")["valueFrom"]["secretKeyRef"]["name"];
        let secret = format!(
            "/api/v1/namespaces/kosmos-system/secrets/{}",
            secret.as_str().unwrap_or_default()
        );
        let key = self
            .object(&secret)
            .map(|secret| secret["data"]["key"].clone())
            .unwrap_or_default();
        let key = {
            use base64::Engine as _;
            let hex = base64::engine::general_purpose::STANDARD
                .decode(key.as_str().unwrap_or_default())
                .expect("base64");
            floater::wire::unhex(&String::from_utf8(hex).expect("text")).expect("hexadecimal")
        };
        let node = pod["spec"]["nodeName"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        let host = pod["metadata"]["labels"]["floater.kosmos.io/layer"] == "host";
        let layer = if host { Layer::Host } else { Layer::Pod };
        let audience = Audience {
            cluster: self.uid.clone(),
            node: node.clone(),
            layer,
        };
        let header = parts
            .headers
            .get(AUTH_HEADER)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default();
        let refused = |status: u16, why: &str| {
            Response::builder()
                .status(status)
                .body(whole(why.as_bytes().to_vec()))
                .expect("good")
        };
        let signed = match SignedRequest::parse(header) {
            Ok(signed) => signed,
            Err(why) => return refused(401, &why.to_string()),
        };
        let is_ours = signed.verify(&key, &audience, parts.method.as_str(), path);
        if is_ours.is_err() || !signed.is_body(body) {
            return refused(401, r#"{"refusal":"signature","error":"no"}"#);
        }
        let answer = match path {
            "/v2/info" => json!(Info {
                version: VERSION,
                program: "mock".into(),
                run: "r".into(),
                cluster: self.uid.clone(),
                layer,
                node,
                port: 8889,
                capabilities: Vec::new(),
                health: Health::default(),
            }),
            "/v2/tables" => json!(Tables {
                version: VERSION,
                node,
                state: Default::default(),
                differences: None,
                missing: Vec::new()
            }),
            "/v2/probe" => {
                return self.probe(&node, body, Transcript::new(&key, audience, signed.nonce));
            }
            _ => return refused(404, "{}"),
        };
        let content = answer.to_string();
        let nonce: &Nonce = &signed.nonce;
        let body = seal(&key, &audience, nonce, 200, content.as_bytes());
        Response::new(whole(body))
    }

    fn probe(&self, node: &str, body: &[u8], mut transcript: Transcript) -> Response<Answer> {
        let plan: Plan = serde_json::from_slice(body).expect("it is a plan");
        let mut lines = String::new();
        let mut say = |event: Event| {
            let line = json!(event).to_string();
            transcript.push(line.as_bytes());
            lines += &line;
            lines.push('\n');
            Event::Signed {
                signature: transcript.signature(),
            }
        };
        let mut sent = 0;
        for probe in &plan.probes {
            let dead = self.behaviour.dead.contains(probe.dst.to_string().as_str());
            sent += u64::from(probe.count);
            let signed = say(Event::Outcome(Outcome {
                id: probe.id,
                sent: probe.count.into(),
                received: if dead { 0 } else { probe.count.into() },
                failure: dead.then_some(floater::wire::Failure::Timeout),
                rtt: if dead { None } else { Rtt::of([100]) },
                ..Outcome::default()
            }));
            if self.behaviour.dies_probing.contains(node) {
                say(signed);
                return Response::new(whole(lines.into_bytes()));
            }
        }
        let signed = say(Event::Done {
            sent,
            elapsed_us: 1,
            health: Health::default(),
        });
        say(signed);
        Response::new(whole(lines.into_bytes()))
    }
}

impl State {
    fn put(&mut self, path: &str, mut value: Value) {
        if let Some((_, rest)) = path.split_once("/namespaces/")
            && let Some((namespace, _)) = rest.split_once('/')
        {
            value["metadata"]["namespace"] = json!(namespace);
        }
        self.objects.insert(path.to_owned(), value);
    }

    fn list(&self, collection: &str, query: &str) -> Vec<Value> {
        let selector = query
            .split('&')
            .find_map(|part| part.strip_prefix("labelSelector="))
            .unwrap_or_default()
            .replace("%2F", "/")
            .replace("%3D", "=")
            .replace("%2C", ",");
        let wanted: Vec<(&str, &str)> = selector
            .split(',')
            .filter_map(|part| part.split_once('='))
            .collect();
        self.objects
            .iter()
            .filter(|(path, _)| {
                let Some((home, _)) = path.rsplit_once('/') else {
                    return false;
                };
                // A collection without a namespace is that of all namespaces.
                let everywhere = home
                    .split_once("/namespaces/")
                    .and_then(|(group, rest)| Some(format!("{group}/{}", rest.split_once('/')?.1)));
                home == collection || everywhere.as_deref() == Some(collection)
            })
            .map(|(_, object)| object.clone())
            .filter(|object| {
                wanted
                    .iter()
                    .all(|(key, value)| object["metadata"]["labels"][*key] == *value)
            })
            .collect()
    }
}

fn json_answer(status: u16, value: &Value) -> Response<Answer> {
    Response::builder()
        .status(StatusCode::from_u16(status).expect("a status"))
        .body(whole(value.to_string().into_bytes()))
        .expect("good")
}

fn status_answer(status: u16, message: &str) -> Response<Answer> {
    json_answer(
        status,
        &json!({"kind": "Status", "code": status, "message": message}),
    )
}
