//! Floaters of a fake cluster: what they say where they are honest, and behaviours of those that are not.

use std::io;

use floater::wire::{
    AUTH_HEADER, Audience, Health, Layer, Nonce, SIGNATURE_HEADER, SignedRequest, Transcript,
    sign_answer,
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
pub(crate) fn pod_of(request: &Request) -> &str {
    let (before, _) = request.path.split_once("/proxy/").unwrap_or_default();
    let name = before.rsplit('/').next().unwrap_or_default();
    // `https:NAME:PORT`
    name.split(':').nth(1).unwrap_or(name)
}

fn layer_of(request: &Request) -> &'static str {
    if pod_of(request).starts_with("fh") {
        "host"
    } else {
        "pod"
    }
}

/// The node of a request's pod.
fn node_of(fake: &Fake, request: &Request) -> String {
    let name = pod_of(request);
    let pod = fake.pods.iter().find(|pod| pod["metadata"]["name"] == name);
    let node = pod.and_then(|pod| pod["spec"]["nodeName"].as_str());
    node.unwrap_or("n1").to_owned()
}

/// The tables of a node without a row.
pub(crate) fn no_rows() -> Value {
    json!({"links": [], "rules": [], "routes": [], "neighbours": [], "fdb": [], "nat": [], "sysctls": []})
}

/// What a floater says of itself.
pub(crate) fn info(fake: &Fake, request: &Request) -> Value {
    json!({"version": 2, "program": "0", "run": "lab", "cluster": fake.uid, "node": node_of(fake, request),
        "layer": layer_of(request), "port": 8889, "capabilities": [], "health": Health::default()})
}

/// Tables of these rows.
pub(crate) fn tables(fake: &Fake, request: &Request, state: &Value) -> Value {
    json!({"version": 2, "node": node_of(fake, request), "state": state, "missing": []})
}

/// Every probe has passed.
pub(crate) fn passed(probe: &Value) -> Value {
    json!({"event": "outcome", "id": probe["id"], "sent": probe["count"], "received": probe["count"],
        "rtt": {"samples": [1]}})
}

/// The last line of the answer to a plan.
pub(crate) fn done(sent: usize) -> Value {
    json!({"event": "done", "sent": sent, "elapsed_us": 1, "health": Health::default()})
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
        On::Info => whole(fake, request, conn, &info(fake, request)),
        On::Tables => whole(fake, request, conn, &tables(fake, request, &no_rows())),
        _ => {
            let probes = probes(request);
            let mut lines: Vec<Value> = probes.iter().map(passed).collect();
            lines.push(done(probes.len()));
            stream(fake, request, conn, &lines)
        }
    }
}

/// Whom a request is signed for, and the nonce that its answer is signed over.
fn signed_for(fake: &Fake, request: &Request) -> (Audience, Nonce) {
    let header = request.headers.get(AUTH_HEADER);
    let signed = header.and_then(|header| SignedRequest::parse(header).ok());
    let audience = Audience {
        cluster: fake.uid.clone(),
        node: node_of(fake, request),
        layer: match layer_of(request) {
            "host" => Layer::Host,
            _ => Layer::Pod,
        },
    };
    (
        audience,
        signed.map(|signed| signed.nonce).unwrap_or_default(),
    )
}

/// A whole answer, signed: whoever holds the run key may lie all the same.
pub(crate) fn whole(
    fake: &Fake,
    request: &Request,
    conn: &mut Conn,
    value: &Value,
) -> io::Result<()> {
    let (audience, nonce) = signed_for(fake, request);
    let body = value.to_string().into_bytes();
    let signature = sign_answer(&KEY, &audience, &nonce, 200, &body);
    conn.head(
        200,
        &[
            "Content-Type: application/json",
            &format!("Content-Length: {}", body.len()),
            &format!("{SIGNATURE_HEADER}: {signature}"),
        ],
    )?;
    conn.raw(&body)
}

/// A stream of events, each signed.
pub(crate) fn stream(
    fake: &Fake,
    request: &Request,
    conn: &mut Conn,
    lines: &[Value],
) -> io::Result<()> {
    let (audience, nonce) = signed_for(fake, request);
    let mut transcript = Transcript::new(&KEY, audience, nonce);
    conn.chunked()?;
    for event in lines {
        let line = event.to_string();
        transcript.push(line.as_bytes());
        let signed = json!({"event": "signed", "signature": transcript.signature()}).to_string();
        transcript.push(signed.as_bytes());
        conn.chunk(format!("{line}\n{signed}\n").as_bytes())?;
    }
    conn.end()
}
