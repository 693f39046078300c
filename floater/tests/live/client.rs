//! What a run does to a floater, without a run.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use floater::agent::{Config, Floater, Here, Layer, Sockets};
use floater::wire::{
    AUTH_HEADER, Audience, Event, Health, Nonce, Outcome, Plan, Probe, Protocol, SignedRequest,
    Transcript, sign, unseal,
};
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
        bind: None,
        expires: None,
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

/// Milliseconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_millis()
        .try_into()
        .unwrap()
}

/// Another one each time.
pub(crate) fn nonce() -> Nonce {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = u128::from(NEXT.fetch_add(1, Ordering::Relaxed));
    number.to_be_bytes()
}

/// Whom requests are for: the floater of [`config`]'s node n1.
pub(crate) fn audience() -> Audience {
    config("n1").audience()
}

pub(crate) fn plan(probes: Vec<Probe>) -> Plan {
    Plan {
        version: 2,
        run: "run".to_owned(),
        budget_pps: 2000,
        timeout_ms: 1000,
        ports: Vec::new(),
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
        timeout_ms: None,
        expect: None,
    }
}

/// A request as a run signs it for node n1.
pub(crate) fn request(method: &str, path: &str, body: &[u8]) -> Request<Full<Bytes>> {
    let header = sign(KEY, &audience(), method, path, body, now(), nonce());
    with_header(method, path, &header, body)
}

/// A request with any signature.
pub(crate) fn with_header(
    method: &str,
    path: &str,
    header: &str,
    body: &[u8],
) -> Request<Full<Bytes>> {
    Request::builder()
        .method(method)
        .uri(path)
        .header("host", "floater")
        .header(AUTH_HEADER, header)
        .body(Full::from(body.to_vec()))
        .unwrap()
}

/// The nonce that the answer to a request is signed over.
pub(crate) fn nonce_of<B>(request: &Request<B>) -> Nonce {
    let header = request.headers()[AUTH_HEADER].to_str().unwrap();
    SignedRequest::parse(header).unwrap().nonce
}

/// The content of an answer that node n1 has signed for this request.
pub(crate) async fn signed(nonce: Nonce, response: Response<Incoming>) -> Vec<u8> {
    let status = response.status().as_u16();
    let body = body(response).await;
    match unseal(KEY, &audience(), &nonce, status, &body) {
        Ok(content) => content.to_vec(),
        Err(why) => panic!("{why:?}: {}", String::from_utf8_lossy(&body)),
    }
}

/// One request over one connection.
pub(crate) async fn ask<B>(address: SocketAddr, request: Request<B>) -> Response<Incoming>
where
    B: hyper::body::Body<Data = Bytes, Error = Infallible> + Send + 'static,
{
    let stream = TcpStream::connect(address).await.expect("the API listens");
    ask_over(stream, request).await
}

/// One request over a connection that is there.
pub(crate) async fn ask_over<B>(stream: TcpStream, request: Request<B>) -> Response<Incoming>
where
    B: hyper::body::Body<Data = Bytes, Error = Infallible> + Send + 'static,
{
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

/// Sends a plan over a connection: what came of it, and how the floater fared. Every line has to be signed.
pub(crate) async fn run_over(stream: TcpStream, plan: &Plan) -> (Vec<Outcome>, u64, Health) {
    let mut plan = plan.clone();
    plan.ports = plan.probes.iter().map(|probe| probe.port).collect();
    plan.ports.sort_unstable();
    plan.ports.dedup();
    let request = request("POST", "/v2/probe", &serde_json::to_vec(&plan).unwrap());
    let mut transcript = Transcript::new(KEY, audience(), nonce_of(&request));
    let response = ask_over(stream, request).await;
    assert_eq!(response.status(), 200);
    let body = tokio::time::timeout(Duration::from_secs(60), body(response))
        .await
        .expect("an end");
    let (mut outcomes, mut done, mut unsigned) = (Vec::new(), None, 0);
    for line in body
        .strip_suffix(b"\n")
        .unwrap()
        .split(|byte| *byte == b'\n')
    {
        unsigned += 1;
        match serde_json::from_slice(line).expect("an event") {
            Event::Done { sent, health, .. } => done = Some((sent, health)),
            Event::Outcome(outcome) => outcomes.push(outcome),
            Event::Signed { signature } => {
                assert!(transcript.verify(&signature));
                unsigned = 0;
            }
        }
        transcript.push(line);
    }
    assert_eq!(unsigned, 0, "the last line is a signature");
    let (sent, health) = done.expect("it is done");
    outcomes.sort_by_key(|outcome| outcome.id);
    (outcomes, sent, health)
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
