//! Floaters of a fake cluster: what they say where they are honest. They hold their cluster's run key, so whatever they say
//! is signed as it should be.

use std::io;

use floater::wire::{
    AUTH_HEADER, Audience, CAPABILITIES, Layer, Nonce, SignedRequest, Transcript, VERSION, seal,
};
use serde_json::{Value, json};
use tests::server::{Conn, Request};

use crate::fake::{Fake, On};

/// The run key that the cluster's Secret holds.
pub(crate) const KEY: [u8; 32] = [7; 32];

/// The Secret of the run key.
pub(crate) fn secret() -> Value {
    use base64::Engine as _;
    let key = base64::engine::general_purpose::STANDARD.encode(floater::wire::hex(&KEY));
    json!({"metadata": {"name": "floater"}, "data": {"key": key}})
}

/// The pod's name that a request is for.
fn pod_of(request: &Request) -> &str {
    let (before, _) = request.path.split_once("/proxy/").unwrap_or_default();
    let name = before.rsplit('/').next().unwrap_or_default();
    // `https:NAME:PORT`
    name.split(':').nth(1).unwrap_or(name)
}

fn layer_of(request: &Request) -> Layer {
    if pod_of(request).starts_with("fh") {
        Layer::Host
    } else {
        Layer::Pod
    }
}

/// The node of a request's pod.
fn node_of(fake: &Fake, request: &Request) -> String {
    let name = pod_of(request);
    let pod = fake.pods.iter().find(|pod| pod["metadata"]["name"] == name);
    let node = pod.and_then(|pod| pod["spec"]["nodeName"].as_str());
    node.unwrap_or("n1").to_owned()
}

/// Whom a request is for.
pub(crate) fn audience(fake: &Fake, request: &Request) -> Audience {
    Audience {
        cluster: fake.uid.clone(),
        node: node_of(fake, request),
        layer: layer_of(request),
    }
}

/// The nonce that a request's answer is signed over.
pub(crate) fn nonce(request: &Request) -> Nonce {
    let header = request.headers.get(AUTH_HEADER);
    let signed = header.and_then(|header| SignedRequest::parse(header).ok());
    signed.map(|signed| signed.nonce).unwrap_or_default()
}

/// The tables of a node without a row.
pub(crate) fn no_rows() -> Value {
    json!({"links": [], "rules": [], "routes": [], "neighbours": [], "fdb": [], "nat": [], "sysctls": []})
}

fn health() -> Value {
    json!({"missed_ticks": 0, "worst_lateness_us": 0, "receive_drops": 0})
}

/// What a floater says of itself.
pub(crate) fn info(fake: &Fake, request: &Request) -> Value {
    json!({"version": VERSION, "program": "0", "run": "lab", "cluster": fake.uid, "node": node_of(fake, request),
        "layer": layer_of(request).word(), "port": 8889, "capabilities": CAPABILITIES, "health": health()})
}

/// Tables of these rows.
pub(crate) fn tables(fake: &Fake, request: &Request, state: &Value) -> Value {
    json!({"version": VERSION, "node": node_of(fake, request), "state": state, "missing": []})
}

/// Every probe has passed.
pub(crate) fn passed(probe: &Value) -> Value {
    json!({"event": "outcome", "id": probe["id"], "sent": probe["count"], "received": probe["count"],
        "rtt": {"samples": [1]}})
}

/// The last line of the answer to a plan, before its signature.
pub(crate) fn done(sent: usize) -> Value {
    json!({"event": "done", "sent": sent, "elapsed_us": 1, "health": health()})
}

/// The probes of a plan.
pub(crate) fn probes(request: &Request) -> Vec<Value> {
    match request.json()["probes"].take() {
        Value::Array(probes) => probes,
        _ => Vec::new(),
    }
}

/// Answers as a floater in order does.
pub(crate) fn honest(fake: &Fake, what: On, request: &Request, conn: &mut Conn) -> io::Result<()> {
    match what {
        On::Info => answer(fake, request, conn, &info(fake, request)),
        On::Tables => answer(fake, request, conn, &tables(fake, request, &no_rows())),
        _ => {
            let probes = probes(request);
            let mut lines: Vec<Value> = probes.iter().map(passed).collect();
            lines.push(done(probes.len()));
            stream(fake, request, conn, &lines)
        }
    }
}

/// A whole answer, signed.
pub(crate) fn answer(
    fake: &Fake,
    request: &Request,
    conn: &mut Conn,
    value: &Value,
) -> io::Result<()> {
    signed(conn, &KEY, &audience(fake, request), &nonce(request), value)
}

/// A whole answer, signed with a key, for somebody, over a nonce.
pub(crate) fn signed(
    conn: &mut Conn,
    key: &[u8],
    audience: &Audience,
    nonce: &Nonce,
    value: &Value,
) -> io::Result<()> {
    let body = seal(key, audience, nonce, 200, value.to_string().as_bytes());
    let length = format!("Content-Length: {}", body.len());
    conn.head(200, &["Content-Type: application/json", &length])?;
    conn.raw(&body)
}

/// A stream of events, signed to its last line.
pub(crate) fn stream(
    fake: &Fake,
    request: &Request,
    conn: &mut Conn,
    lines: &[Value],
) -> io::Result<()> {
    let transcript = Transcript::new(&KEY, audience(fake, request), nonce(request));
    conn.chunked()?;
    let mut speech = Speech { transcript };
    for line in lines {
        speech.say(conn, &line.to_string())?;
    }
    speech.sign(conn)?;
    conn.end()
}

/// A stream of lines under way.
pub(crate) struct Speech {
    transcript: Transcript,
}

impl Speech {
    /// The beginning of a stream.
    pub(crate) fn begin(fake: &Fake, request: &Request, conn: &mut Conn) -> io::Result<Self> {
        conn.chunked()?;
        let transcript = Transcript::new(&KEY, audience(fake, request), nonce(request));
        Ok(Self { transcript })
    }

    /// One line.
    pub(crate) fn say(&mut self, conn: &mut Conn, line: &str) -> io::Result<()> {
        self.transcript.push(line.as_bytes());
        conn.chunk(format!("{line}\n").as_bytes())
    }

    /// A signature over all lines so far.
    pub(crate) fn sign(&mut self, conn: &mut Conn) -> io::Result<()> {
        let line = json!({"event": "signed", "signature": self.transcript.signature()});
        self.say(conn, &line.to_string())
    }
}
