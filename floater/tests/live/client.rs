//! What a run does to a floater, without a run.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use floater::agent::{Config, Floater, Here, Layer, Sockets};
use floater::wire::{AUTH_HEADER, Event, Outcome, Plan, Probe, Protocol, sign};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

pub(crate) const KEY: &[u8] = b"0123456789abcdef";

pub(crate) fn config(node: &str) -> Config {
    Config {
        cluster: "uid".to_owned(),
        node: node.to_owned(),
        layer: Layer::Pod,
        run: "run".to_owned(),
        run_key: KEY.to_vec(),
        port: 0,
        api_port: 0,
        ttl: None,
    }
}

pub(crate) async fn floater() -> Floater {
    start(config("n1"), Arc::new(Here)).await
}

pub(crate) async fn start(config: Config, sockets: Arc<dyn Sockets>) -> Floater {
    Floater::start(config, sockets).await.expect("listeners")
}

pub(crate) fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

pub(crate) fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs()
}

pub(crate) fn plan(probes: Vec<Probe>) -> Plan {
    Plan {
        version: 1,
        run: "run".to_owned(),
        budget_pps: 2000,
        timeout_ms: 1000,
        probes,
    }
}

pub(crate) fn probe(id: u32, dst: impl Into<IpAddr>, protocol: Protocol, port: u16) -> Probe {
    Probe {
        id,
        dst: dst.into(),
        protocol,
        port,
        count: 3,
        payload_bytes: 56,
        expect: None,
    }
}

/// A request as a run signs it; `forge` changes it afterwards.
pub(crate) fn request(method: &str, path: &str, body: &[u8]) -> Request<Full<Bytes>> {
    Request::builder()
        .method(method)
        .uri(path)
        .header("host", "floater")
        .header(AUTH_HEADER, sign(KEY, method, path, body, now()))
        .body(Full::from(body.to_vec()))
        .unwrap()
}

/// One request over one connection.
pub(crate) async fn ask(address: SocketAddr, request: Request<Full<Bytes>>) -> Response<Incoming> {
    let stream = TcpStream::connect(address).await.expect("the API listens");
    ask_over(stream, request).await
}

/// One request over a connection that is there.
pub(crate) async fn ask_over(
    stream: TcpStream,
    request: Request<Full<Bytes>>,
) -> Response<Incoming> {
    let name = ServerName::from(IpAddr::from(Ipv4Addr::LOCALHOST));
    let stream = TlsConnector::from(Arc::new(trusting()))
        .connect(name, stream)
        .await
        .expect("TLS");
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    sender.send_request(request).await.expect("an answer")
}

pub(crate) async fn body(response: Response<Incoming>) -> Vec<u8> {
    response
        .into_body()
        .collect()
        .await
        .expect("a whole body")
        .to_bytes()
        .to_vec()
}

/// Sends a plan and collects what came of it.
pub(crate) async fn run(address: SocketAddr, plan: &Plan) -> (Vec<Outcome>, u64) {
    let stream = TcpStream::connect(address).await.expect("the API listens");
    run_over(stream, plan).await
}

/// Sends a plan over a connection and collects what came of it.
pub(crate) async fn run_over(stream: TcpStream, plan: &Plan) -> (Vec<Outcome>, u64) {
    let body_bytes = serde_json::to_vec(plan).unwrap();
    let response = ask_over(stream, request("POST", "/v1/probe", &body_bytes)).await;
    assert_eq!(response.status(), 200);
    let body = tokio::time::timeout(Duration::from_secs(30), body(response))
        .await
        .expect("an end");
    let mut events: Vec<Event> = body
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_slice(line).expect("an event"))
        .collect();
    let Some(Event::Done { sent, .. }) = events.pop() else {
        panic!("the last line is Done");
    };
    let mut outcomes: Vec<Outcome> = events
        .into_iter()
        .map(|event| match event {
            Event::Outcome(outcome) => outcome,
            Event::Done { .. } => panic!("Done twice"),
        })
        .collect();
    outcomes.sort_by_key(|outcome| outcome.id);
    (outcomes, sent)
}

/// TLS without verification, as the Kubernetes API's proxy does it.
fn trusting() -> ClientConfig {
    #[derive(Debug)]
    struct Anybody;
    impl ServerCertVerifier for Anybody {
        fn verify_server_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: UnixTime,
        ) -> Result<ServerCertVerified, rustls::Error> {
            Ok(ServerCertVerified::assertion())
        }
        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            Ok(HandshakeSignatureValid::assertion())
        }
        fn verify_tls13_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            Ok(HandshakeSignatureValid::assertion())
        }
        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            rustls::crypto::ring::default_provider()
                .signature_verification_algorithms
                .supported_schemes()
        }
    }
    ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody))
        .with_no_client_auth()
}
