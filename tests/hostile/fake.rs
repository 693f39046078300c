//! A cluster that is not one: an API server that answers as a small healthy cluster with floaters would, and whose every
//! answer a behaviour may replace.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use serde_json::{Value, json};
use tests::client::Answer;
use tests::server::{Conn, Request};

use crate::floaters;

/// The uid of its kube-system namespace.
pub(crate) const UID: &str = "e7110000-0000-4000-8000-000000000666";
/// Where its floaters run.
pub(crate) const NAMESPACE: &str = "kosmos-system";
/// Text that a terminal obeys or a reader is fooled by: an operating system command, clear screen, colour, a new line, a
/// C1 introducer, a reversed direction, characters without width.
pub(crate) const ESCAPES: &str = "\u{1b}]0;owned\u{7}\u{1b}[2J\u{1b}[1;31mRED\u{1b}[0m\r\n\u{9b}31m\u{202e}gnp.exe\u{200b}\u{feff}";

/// What a request is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum On {
    /// A connection, before a byte of it is read.
    Connection,
    /// Any request.
    Every,
    /// The kube-system namespace, whose uid is the cluster's id.
    System,
    /// The list of nodes.
    Nodes,
    /// A list of pods.
    Pods,
    /// A watch of pods.
    Watch,
    /// The list of `clusters.kosmos.io`.
    Members,
    /// The list of `clusternodes.kosmos.io`.
    ClusterNodes,
    /// The list of `nodeconfigs.kosmos.io`.
    NodeConfigs,
    /// A list of DaemonSets, Secrets, ServiceAccounts, namespaces.
    Collection,
    /// A list of events.
    Events,
    /// A Secret.
    Secret,
    /// A namespace.
    Namespace,
    /// A creation.
    Create,
    /// A removal.
    Delete,
    /// A floater: who it is.
    Info,
    /// A floater: the tables of its node.
    Tables,
    /// A floater: a probe plan.
    Probe,
}

type Hook = Box<dyn Fn(&Fake, &Request, &mut Conn) -> io::Result<()> + Send + Sync>;

/// The fake.
pub(crate) struct Fake {
    pub(crate) uid: String,
    pub(crate) nodes: Vec<Value>,
    /// Its pods, once there are any.
    pub(crate) pods: Vec<Value>,
    /// Whether its pods are there before anything has been created.
    pub(crate) is_standing: bool,
    /// Its `clusters.kosmos.io`.
    pub(crate) members: Vec<Value>,
    /// The same, where they can be known only once it listens.
    late_members: OnceLock<Vec<Value>>,
    pub(crate) cluster_nodes: Vec<Value>,
    pub(crate) node_configs: Vec<Value>,
    /// Whether it talks without TLS where TLS is asked for.
    pub(crate) is_plain: bool,
    hooks: BTreeMap<On, Hook>,
    created: AtomicUsize,
    tokens: Mutex<Vec<String>>,
    asked: Mutex<Vec<String>>,
}

/// A node object.
pub(crate) fn node(name: &str, ip: &str) -> Value {
    json!({
        "metadata": {"name": name, "uid": format!("u-{}", name.len()), "labels": {"kubernetes.io/os": "linux"}},
        "spec": {"podCIDR": "10.250.0.0/24", "podCIDRs": ["10.250.0.0/24"]},
        "status": {
            "addresses": [{"type": "InternalIP", "address": ip}],
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    })
}

/// A floater's pod, ready.
pub(crate) fn pod(name: &str, layer: &str, node: &str, ip: &str) -> Value {
    json!({
        "metadata": {
            "name": name, "namespace": NAMESPACE, "uid": format!("p-{}", name.len()),
            "labels": {
                "app.kubernetes.io/name": "floater",
                "app.kubernetes.io/managed-by": "floaterctl",
                "floater.kosmos.io/run": "lab",
                "floater.kosmos.io/layer": layer,
            },
            "annotations": {},
        },
        "spec": {
            "nodeName": node,
            "hostNetwork": layer == "host",
            "containers": [{
                "name": "floater",
                "env": [
                    {"name": "PORT", "value": "8889"},
                    {"name": "FLOATER_RUN_KEY", "valueFrom": {"secretKeyRef": {"name": "floater", "key": "key"}}},
                ],
            }],
        },
        "status": {
            "phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}],
            "conditions": [{"type": "Ready", "status": "True"}],
            "containerStatuses": [{"name": "floater", "ready": true, "state": {"running": {}}}],
        },
    })
}

impl Fake {
    /// One node, `n1`, with both its floaters.
    pub(crate) fn new() -> Self {
        Self {
            uid: UID.to_owned(),
            nodes: vec![node("n1", "100.64.200.2")],
            pods: vec![
                pod("fh", "host", "n1", "100.64.200.2"),
                pod("fp", "pod", "n1", "10.250.0.2"),
            ],
            is_standing: true,
            members: Vec::new(),
            late_members: OnceLock::new(),
            cluster_nodes: Vec::new(),
            node_configs: Vec::new(),
            is_plain: false,
            hooks: BTreeMap::new(),
            created: AtomicUsize::new(0),
            tokens: Mutex::default(),
            asked: Mutex::default(),
        }
    }

    /// Answers so, instead.
    pub(crate) fn on<F>(mut self, what: On, answer: F) -> Self
    where
        F: Fn(&Self, &Request, &mut Conn) -> io::Result<()> + Send + Sync + 'static,
    {
        self.hooks.insert(what, Box::new(answer));
        self
    }

    /// Its `clusters.kosmos.io` from now on.
    pub(crate) fn set_members(&self, members: Vec<Value>) {
        self.late_members.set(members).unwrap();
    }

    /// Lets somebody else answer what its floaters are asked.
    pub(crate) fn hand_on<F>(&mut self, ask: F)
    where
        F: Fn(&Request) -> io::Result<Answer> + Send + Sync + 'static,
    {
        let ask = Arc::new(ask);
        for what in [On::Info, On::Tables, On::Probe] {
            let ask = Arc::clone(&ask);
            let answer = move |_: &Self, request: &Request, conn: &mut Conn| {
                let answer = ask(request)?;
                let headers: Vec<String> = answer
                    .headers
                    .iter()
                    .filter(|(name, _)| name.starts_with("x-floater"))
                    .map(|(name, value)| format!("{name}: {value}"))
                    .collect();
                let status = answer.status;
                let body = answer.body()?;
                let length = format!("Content-Length: {}", body.len());
                let mut headers: Vec<&str> = headers.iter().map(String::as_str).collect();
                headers.push(&length);
                conn.head(status, &headers)?;
                conn.raw(&body)
            };
            self.hooks.insert(what, Box::new(answer));
        }
    }

    /// Has no floaters, so that the run's own are created.
    pub(crate) fn bare(mut self) -> Self {
        self.is_standing = false;
        self
    }

    /// Changed so.
    pub(crate) fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    /// Requests so far, as `METHOD TARGET`.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.asked
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Every value of the Authorization header so far.
    pub(crate) fn tokens(&self) -> Vec<String> {
        self.tokens
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// How many objects have been created.
    pub(crate) fn created(&self) -> usize {
        self.created.load(Ordering::Acquire)
    }

    /// Serves one connection.
    pub(crate) fn serve(&self, conn: &mut Conn) -> io::Result<()> {
        if let Some(hook) = self.hooks.get(&On::Connection) {
            return hook(self, &nothing(), conn);
        }
        while let Some(request) = conn.request()? {
            let line = format!("{} {}", request.method, request.target());
            let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
            asked.push(line);
            drop(asked);
            if let Some(token) = request.headers.get("authorization") {
                let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
                tokens.push(token.clone());
            }
            let what = about(&request);
            let hook = self
                .hooks
                .get(&On::Every)
                .or_else(|| what.and_then(|what| self.hooks.get(&what)));
            if what == Some(On::Create) {
                self.created.fetch_add(1, Ordering::AcqRel);
            }
            match (hook, what) {
                (Some(hook), _) => hook(self, &request, conn)?,
                (None, Some(what)) => self.plainly(what, &request, conn)?,
                (None, None) => conn.status(404, "not here")?,
            }
        }
        Ok(())
    }

    /// Answers as a cluster in order does.
    pub(crate) fn plainly(&self, what: On, request: &Request, conn: &mut Conn) -> io::Result<()> {
        match what {
            On::System => conn.json(&json!({"metadata": {"name": "kube-system", "uid": self.uid}})),
            On::Nodes => list(conn, &self.nodes),
            On::Pods => list(conn, self.visible()),
            On::Watch => {
                conn.chunked()?;
                for pod in self.visible() {
                    event(conn, "ADDED", pod)?;
                }
                conn.idle()
            }
            On::Members => list(conn, self.late_members.get().unwrap_or(&self.members)),
            On::ClusterNodes => list(conn, &self.cluster_nodes),
            On::NodeConfigs => list(conn, &self.node_configs),
            On::Collection | On::Events => list(conn, &[]),
            On::Secret => conn.json(&floaters::secret()),
            On::Namespace => conn.json(&json!({"metadata": {"name": NAMESPACE, "uid": "ns-uid"}})),
            On::Create => {
                let mut made = request.json();
                made["metadata"]["uid"] = json!(format!("made-{}", self.created()));
                conn.bytes(201, made.to_string().as_bytes())
            }
            On::Delete => conn.json(&json!({"kind": "Status", "status": "Success"})),
            On::Info | On::Tables | On::Probe => floaters::honest(self, what, request, conn),
            On::Connection | On::Every => conn.status(404, "not here"),
        }
    }

    fn visible(&self) -> &[Value] {
        if self.is_standing || self.created() > 0 {
            &self.pods
        } else {
            &[]
        }
    }
}

fn nothing() -> Request {
    Request {
        method: String::new(),
        path: String::new(),
        query: String::new(),
        headers: BTreeMap::new(),
        body: Vec::new(),
    }
}

/// What a request is about; none where a cluster has no such thing.
pub(crate) fn about(request: &Request) -> Option<On> {
    let path = request.path.as_str();
    if let Some((_, path)) = path.split_once("/proxy/") {
        return match path {
            "v2/info" => Some(On::Info),
            "v2/tables" => Some(On::Tables),
            "v2/probe" => Some(On::Probe),
            _ => None,
        };
    }
    match request.method.as_str() {
        "POST" => return Some(On::Create),
        "DELETE" => return Some(On::Delete),
        _ => {}
    }
    let last = path.rsplit('/').next().unwrap_or_default();
    match last {
        "kube-system" => Some(On::System),
        "nodes" => Some(On::Nodes),
        "pods" if request.is_watch() => Some(On::Watch),
        "pods" => Some(On::Pods),
        "clusters" => Some(On::Members),
        "clusternodes" => Some(On::ClusterNodes),
        "nodeconfigs" => Some(On::NodeConfigs),
        "events" => Some(On::Events),
        "daemonsets" | "secrets" | "serviceaccounts" | "namespaces" | "configmaps" => {
            Some(On::Collection)
        }
        _ if path.contains("/secrets/") => Some(On::Secret),
        _ if path.contains("/namespaces/") && path.matches('/').count() == 4 => Some(On::Namespace),
        _ => None,
    }
}

/// A whole list.
pub(crate) fn list(conn: &mut Conn, items: &[Value]) -> io::Result<()> {
    conn.json(&json!({"metadata": {"resourceVersion": "1"}, "items": items}))
}

/// A list whose items are one text over and over.
pub(crate) fn repeated(conn: &mut Conn, item: &str, times: usize) -> io::Result<()> {
    conn.chunked()?;
    conn.chunk(format!("{{\"metadata\":{{}},\"items\":[{item}").as_bytes())?;
    let at_once = (1 << 20) / item.len().max(1) + 1;
    let block = format!(",{item}").repeat(at_once);
    let mut left = times;
    while left > 0 {
        let now = left.min(at_once);
        conn.chunk(&block.as_bytes()[..now * (item.len() + 1)])?;
        left -= now;
    }
    conn.chunk(b"]}")?;
    conn.end()
}

/// An event of a watch.
pub(crate) fn event(conn: &mut Conn, kind: &str, object: &Value) -> io::Result<()> {
    conn.chunk(format!("{}\n", json!({"type": kind, "object": object})).as_bytes())
}

/// The end of a connection.
pub(crate) fn closed() -> io::Error {
    io::ErrorKind::ConnectionAborted.into()
}
