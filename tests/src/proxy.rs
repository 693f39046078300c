//! A proxy on loopback in front of one cluster of a lab, which changes what it hands on: the cluster as it could be.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Value, json};

use crate::client::Endpoint;
use crate::server::{Certificate, Conn, Request, Server};

type Before = dyn Fn(&mut Request, &mut Conn) -> io::Result<bool> + Send + Sync;
type After = dyn Fn(&Request, &mut Value) + Send + Sync;

/// What a proxy changes.
#[derive(Default)]
pub struct Changes {
    before: Vec<Box<Before>>,
    after: Vec<Box<After>>,
}

impl Changes {
    /// Nothing.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// Sees every request first; true where it has answered it itself.
    #[must_use]
    pub fn before<F>(mut self, answer: F) -> Self
    where
        F: Fn(&mut Request, &mut Conn) -> io::Result<bool> + Send + Sync + 'static,
    {
        self.before.push(Box::new(answer));
        self
    }

    /// Changes every whole answer that is JSON.
    #[must_use]
    pub fn after<F>(mut self, change: F) -> Self
    where
        F: Fn(&Request, &mut Value) + Send + Sync + 'static,
    {
        self.after.push(Box::new(change));
        self
    }

    /// Changes the items of a list whose path ends so.
    #[must_use]
    pub fn items<F>(self, path_ends: &'static str, change: F) -> Self
    where
        F: Fn(&mut Vec<Value>) + Send + Sync + 'static,
    {
        self.after(move |request, value| {
            if request.path.ends_with(path_ends)
                && let Some(items) = value["items"].as_array_mut()
            {
                change(items);
            }
        })
    }
}

/// A proxy that listens until it is dropped.
pub struct Proxy {
    server: Server,
    asked: Arc<Mutex<Vec<String>>>,
    certificate: Option<Certificate>,
}

impl Proxy {
    /// One in front of a cluster, over plain HTTP.
    #[must_use]
    pub fn start(endpoint: Endpoint, changes: Changes) -> Self {
        Self::with(endpoint, changes, None)
    }

    /// One that proves itself with a certificate.
    #[must_use]
    pub fn start_tls(endpoint: Endpoint, changes: Changes, certificate: Certificate) -> Self {
        Self::with(endpoint, changes, Some(certificate))
    }

    fn with(endpoint: Endpoint, changes: Changes, certificate: Option<Certificate>) -> Self {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&asked);
        let server = Server::start(certificate.as_ref(), move |conn| {
            while let Some(mut request) = conn.request()? {
                let line = format!("{} {}", request.method, request.target());
                seen.lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(line);
                let mut is_answered = false;
                for before in &changes.before {
                    is_answered = is_answered || before(&mut request, conn)?;
                }
                if !is_answered {
                    hand_on(&endpoint, &changes, &request, conn)?;
                }
            }
            Ok(())
        });
        Self {
            server,
            asked,
            certificate,
        }
    }

    /// As a kubeconfig's `cluster`.
    #[must_use]
    pub fn cluster(&self) -> Value {
        use base64::Engine as _;
        let address = self.server.address();
        match &self.certificate {
            None => json!({"server": format!("http://{address}")}),
            Some(certificate) => {
                let pem = base64::engine::general_purpose::STANDARD.encode(&certificate.authority);
                json!({"server": format!("https://{address}"), "certificate-authority-data": pem})
            }
        }
    }

    /// The cluster behind it, as it is reached through the proxy.
    #[must_use]
    pub fn endpoint(&self, behind: &Endpoint) -> Endpoint {
        let cluster = self.cluster();
        let text = |field: &str| cluster[field].as_str().unwrap_or_default().to_owned();
        behind.moved(
            text("server").trim_start_matches("https://").to_owned(),
            text("certificate-authority-data"),
        )
    }

    /// Every request so far, as `METHOD TARGET`.
    #[must_use]
    pub fn asked(&self) -> Vec<String> {
        self.asked
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// Headers that belong to one connection and not to what travels over it.
const OF_THE_CONNECTION: &[&str] = &[
    "host",
    "connection",
    "content-length",
    "transfer-encoding",
    "accept-encoding",
    "authorization",
    "te",
    "upgrade",
];

fn hand_on(
    endpoint: &Endpoint,
    changes: &Changes,
    request: &Request,
    conn: &mut Conn,
) -> io::Result<()> {
    let headers: BTreeMap<String, String> = request
        .headers
        .iter()
        .filter(|(name, _)| !OF_THE_CONNECTION.contains(&name.as_str()))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    let mut answer = endpoint.send(&request.method, &request.target(), &headers, &request.body)?;
    let own: Vec<String> = answer
        .headers
        .iter()
        .filter(|(name, _)| !OF_THE_CONNECTION.contains(&name.as_str()))
        .map(|(name, value)| format!("{name}: {value}"))
        .collect();
    let mut own: Vec<&str> = own.iter().map(String::as_str).collect();
    if request.is_watch() || request.path.contains("/proxy") {
        own.push("Transfer-Encoding: chunked");
        conn.head(answer.status, &own)?;
        while let Some(piece) = answer.piece()? {
            if !piece.is_empty() {
                conn.chunk(&piece)?;
            }
        }
        return conn.end();
    }
    let status = answer.status;
    let mut body = answer.body()?;
    if let Ok(mut value) = serde_json::from_slice::<Value>(&body)
        && !changes.after.is_empty()
    {
        for after in &changes.after {
            after(request, &mut value);
        }
        body = value.to_string().into_bytes();
    }
    let length = format!("Content-Length: {}", body.len());
    own.push(&length);
    conn.head(status, &own)?;
    conn.raw(&body)
}

/// A kubeconfig of these contexts: name, `cluster`, `user`. The first is the current one.
#[must_use]
pub fn kubeconfig(contexts: &[(&str, Value, Value)]) -> String {
    let list = |kind: &str, entry: &dyn Fn(&(&str, Value, Value)) -> Value| {
        let entries: Vec<Value> = contexts
            .iter()
            .map(|context| json!({"name": context.0, kind: entry(context)}))
            .collect();
        Value::Array(entries)
    };
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": list("cluster", &|context| context.1.clone()),
        "users": list("user", &|context| context.2.clone()),
        "contexts": list("context", &|context| json!({"cluster": context.0, "user": context.0})),
        "current-context": contexts.first().map_or("", |context| context.0),
    })
    .to_string()
}
