//! The authenticated API: who am I, what are my tables, run this plan, meet these.
//!
//! TLS by a certificate that nobody can verify hides what is said; the run key's signature says who may ask and who
//! answers. The certificate is made for the first caller, so that a floater that nobody asks costs nothing.
//!
//! A connection is a guest ([`Lobby`]) until a request's header has proved that its sender holds the run key.

mod refuse;
mod stream;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use datapath::digest::{Differences, Digester, Mismatch};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body as _, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde::Serialize;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OnceCell, Semaphore};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::engine::{Kernel, Network};
use super::guests::{Lobby, Place};
use super::nonces::Nonces;
use super::plans::Plans;
use super::{Config, Error, check, now_ms};
use crate::wire::{
    AUTH_HEADER, Audience, CAPABILITIES, Expectation, Info, Meeting, Met, Refusal, SignedRequest,
    Tables, VERSION, seal,
};
use refuse::Refused;

/// For a handshake, and for a request's head.
const PATIENCE: Duration = Duration::from_secs(5);
/// For the next part of a request's body.
const BODY_IDLE: Duration = Duration::from_secs(3);
/// For a request's body as a whole.
const BODY_PATIENCE: Duration = Duration::from_secs(20);
/// Connections at once that have not proved anything.
const GUESTS: usize = 64;
/// Requests at once of holders of the key.
const REQUESTS: usize = 32;
/// Bodies that are read at once: [`crate::wire::MAX_BODY`] each.
const BODIES: usize = 4;

type Body = UnsyncBoxBody<Bytes, Infallible>;

pub(super) struct Api {
    config: Arc<Config>,
    audience: Audience,
    network: Network,
    started_ms: u64,
    /// What the kernel had counted when it started.
    kernel: Kernel,
    nonces: Mutex<Nonces>,
    plans: Plans,
    requests: Semaphore,
    bodies: Semaphore,
    tls: OnceCell<TlsAcceptor>,
}

/// Serves until it is dropped, and takes its connections and their probing with it.
pub(super) async fn serve(listener: TcpListener, api: Arc<Api>) {
    let _stamping = super::echo::keep_stamping();
    let lobby = Lobby::new(GUESTS);
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, peer)) => {
                let api = Arc::clone(&api);
                let lobby = lobby.clone();
                connections.spawn(async move { api.guest(stream, peer, &lobby).await });
            }
            Err(error) => {
                tracing::debug!(%error, "accept");
                // Descriptors run out and come back.
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
}

impl Api {
    /// The API of a floater that starts now.
    pub(super) fn new(config: Arc<Config>, network: Network) -> Self {
        Self {
            audience: config.audience(),
            config,
            kernel: network.kernel(),
            network,
            started_ms: now_ms(),
            nonces: Mutex::new(Nonces::default()),
            plans: Plans::new(),
            requests: Semaphore::new(REQUESTS),
            bodies: Semaphore::new(BODIES),
            tls: OnceCell::new(),
        }
    }

    /// Serves a connection until it ends or has to make room for another.
    async fn guest(self: Arc<Self>, stream: TcpStream, peer: SocketAddr, lobby: &Lobby) {
        let (place, gone) = lobby.admit(peer.ip());
        tokio::select! {
            biased;
            _ = gone => {}
            () = self.connection(stream, Arc::new(place)) => {}
        }
    }

    async fn connection(self: &Arc<Self>, stream: TcpStream, place: Arc<Place>) {
        let tls = match self.tls.get_or_try_init(async || tls()).await {
            Ok(tls) => tls,
            Err(error) => {
                tracing::error!(%error, "the API has no certificate");
                return;
            }
        };
        let _ = stream.set_nodelay(true);
        let stream = match tokio::time::timeout(PATIENCE, tls.accept(stream)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                tracing::debug!(%error, "handshake");
                return;
            }
            Err(_) => return,
        };
        self.exchange(stream, place).await;
    }

    /// Answers one request over a stream.
    pub(super) async fn exchange<S>(self: &Arc<Self>, stream: S, place: Arc<Place>)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let service = service_fn(|request| {
            let (api, place) = (Arc::clone(self), Arc::clone(&place));
            async move { Ok::<_, Infallible>(api.answer(request, &place).await) }
        });
        let served = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(PATIENCE)
            .max_buf_size(32 * 1024)
            // A proxy that reuses an idle connection while it is being closed loses a request that it cannot repeat.
            .keep_alive(false)
            .serve_connection(TokioIo::new(stream), service)
            .await;
        if let Err(error) = served {
            tracing::debug!(%error, "connection");
        }
    }

    async fn answer(self: &Arc<Self>, request: Request<Incoming>, place: &Place) -> Response<Body> {
        let path = request.uri().path().to_owned();
        if path == "/" && matches!(*request.method(), Method::GET | Method::HEAD) {
            return text(StatusCode::OK, "OK");
        }
        let (head, mut body) = request.into_parts();
        let answered = if path.starts_with("/v1/") {
            Err(Refused::from(Refusal::Version))
        } else {
            self.authenticated(&head, &mut body, place, &path).await
        };
        if !body.is_end_stream() {
            // The sender may still be sending: what is closed over unread bytes takes the answer along.
            refuse::discard(body);
        }
        answered.unwrap_or_else(Refused::into_response)
    }

    /// Answers a request whose header is signed for this floater.
    async fn authenticated(
        self: &Arc<Self>,
        head: &hyper::http::request::Parts,
        body: &mut Incoming,
        place: &Place,
        path: &str,
    ) -> Result<Response<Body>, Refused> {
        let header = head.headers.get(AUTH_HEADER).ok_or(Refusal::Missing)?;
        let header = header.to_str().map_err(|_| Refusal::Malformed)?;
        let signed = SignedRequest::parse(header)?;
        let full = head
            .uri
            .path_and_query()
            .map_or("/", |path_and_query| path_and_query.as_str());
        signed.verify(
            &self.config.run_key,
            &self.audience,
            head.method.as_str(),
            full,
        )?;
        // From here on it is a holder of the key who asks, and every answer is signed.
        place.vouch();
        let response = match self.admitted(&head.method, path, body, &signed).await {
            Ok(Answered::Whole(response)) => response,
            Ok(Answered::Stream(response)) => return Ok(response),
            Err(refused) => refused.into_answer(),
        };
        Ok(self.signed(&signed, response))
    }

    async fn admitted(
        self: &Arc<Self>,
        method: &Method,
        path: &str,
        body: &mut Incoming,
        signed: &SignedRequest,
    ) -> Result<Answered, Refused> {
        let now = now_ms();
        signed.check_time(self.started_ms, now)?;
        self.nonces
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remember(signed.time_ms, signed.nonce, now)?;
        let _place = self
            .requests
            .try_acquire()
            .map_err(|_| Refused::busy("too many requests are under way"))?;
        let allowed = match path {
            "/v2/info" => "GET",
            "/v2/meet" => "POST",
            "/v2/tables" => "GET, POST",
            "/v2/probe" => "POST",
            _ => return Err(Refused::new(StatusCode::NOT_FOUND, "no such path")),
        };
        if !allowed.split(", ").any(|allowed| method == allowed) {
            let mut refused = Refused::new(StatusCode::METHOD_NOT_ALLOWED, "no such method here");
            refused.allow = allowed.parse().ok();
            return Err(refused);
        }
        let body = self.body(body, signed).await?;
        match path {
            "/v2/info" => Ok(Answered::Whole(json(StatusCode::OK, &self.info().await))),
            "/v2/meet" => self.meet(&body).await.map(Answered::Whole),
            "/v2/tables" if method == Method::POST => {
                let expected = serde_json::from_slice(&body).map_err(|error| {
                    Refused::new(
                        StatusCode::BAD_REQUEST,
                        &format!("the expectation cannot be understood: {error}"),
                    )
                })?;
                self.tables(Some(expected)).await.map(Answered::Whole)
            }
            "/v2/tables" => self.tables(None).await.map(Answered::Whole),
            _ => self.probe(&body, signed).map(Answered::Stream),
        }
    }

    /// Exactly the body that was signed. Whoever announces or sends more is refused before it is read.
    async fn body(&self, body: &mut Incoming, signed: &SignedRequest) -> Result<Bytes, Refused> {
        let refuse = |status, why| Err(Refused::new(status, why));
        if signed.is_too_long() {
            return refuse(StatusCode::PAYLOAD_TOO_LARGE, "the body is too long");
        }
        let length = usize::try_from(signed.length).unwrap_or(usize::MAX);
        let hint = body.size_hint();
        if hint.exact().is_some_and(|exact| exact != signed.length) {
            return refuse(
                StatusCode::BAD_REQUEST,
                "the body is not as long as was signed",
            );
        }
        let reading = async {
            let _place = self.bodies.acquire().await;
            let mut read = BytesMut::with_capacity(length);
            loop {
                let Ok(frame) = tokio::time::timeout(BODY_IDLE, body.frame()).await else {
                    return refuse(StatusCode::REQUEST_TIMEOUT, "the body is too slow");
                };
                match frame {
                    None => return Ok(read.freeze()),
                    Some(Err(_)) => return refuse(StatusCode::BAD_REQUEST, "the body is cut off"),
                    Some(Ok(frame)) => {
                        let Ok(data) = frame.into_data() else {
                            continue;
                        };
                        if data.len() > length - read.len() {
                            return refuse(
                                StatusCode::BAD_REQUEST,
                                "the body is longer than was signed",
                            );
                        }
                        read.extend_from_slice(&data);
                    }
                }
            }
        };
        let body = tokio::time::timeout(BODY_PATIENCE, reading)
            .await
            .unwrap_or_else(|_| refuse(StatusCode::REQUEST_TIMEOUT, "the body is too slow"))?;
        if signed.is_body(&body) {
            Ok(body)
        } else {
            refuse(StatusCode::BAD_REQUEST, "the body is not what was signed")
        }
    }

    fn signed(&self, request: &SignedRequest, mut whole: Whole) -> Response<Body> {
        let body = seal(
            &self.config.run_key,
            &self.audience,
            &request.nonce,
            whole.status.as_u16(),
            &whole.content,
        );
        whole.content = body.into();
        whole.into_response()
    }

    async fn info(&self) -> Info {
        let network = self.network.clone();
        let mut health = self.plans.health();
        // Somebody may have to go to the floater's network for it.
        if let Ok(now) = tokio::task::spawn_blocking(move || network.kernel()).await {
            self.kernel.since(&now, &mut health);
        }
        Info {
            version: VERSION,
            program: env!("CARGO_PKG_VERSION").to_owned(),
            run: self.config.run.clone(),
            cluster: self.config.cluster.clone(),
            node: self.config.node.clone(),
            layer: self.config.layer,
            port: self.config.port,
            capabilities: CAPABILITIES.map(str::to_owned).to_vec(),
            health,
        }
    }

    /// The tables, or what differs from those that are expected.
    async fn tables(&self, expected: Option<Expectation>) -> Result<Whole, Refused> {
        let network = self.network.clone();
        let node = self.config.node.clone();
        let read = tokio::task::spawn_blocking(move || {
            if let Some(expected) = &expected
                && let Some(tables) = as_expected(&network, &node, expected)
            {
                return Ok(json(StatusCode::OK, &tables));
            }
            let (mut state, missing) = network.inspect()?;
            let differences = expected
                .map(|expected| {
                    let digester = Digester::like(expected.key, &expected.digest);
                    let found = digester.differences(&state, &expected.digest)?;
                    digester.take_counted(&mut state);
                    Ok::<_, Mismatch>(found)
                })
                .transpose()
                .map_err(|mismatch| mismatch.to_string())?;
            // Megabytes: not on the thread that everybody else waits for.
            Ok(json(
                StatusCode::OK,
                &Tables {
                    version: VERSION,
                    node,
                    state,
                    differences,
                    missing,
                },
            ))
        });
        read.await
            .unwrap_or_else(|error| Err(format!("the reader ended: {error}")))
            // Empty tables would be taken for the truth.
            .map_err(|why| Refused::new(StatusCode::SERVICE_UNAVAILABLE, &why))
    }

    /// Sends and hears datagrams, and says what the kernel can make.
    async fn meet(&self, body: &[u8]) -> Result<Whole, Refused> {
        let bad = |why: &str| Refused::new(StatusCode::BAD_REQUEST, why);
        let meeting: Meeting = serde_json::from_slice(body)
            .map_err(|error| bad(&format!("the meeting cannot be understood: {error}")))?;
        let token = meeting.check().map_err(|rule| bad(&rule))?;
        let Network::Sockets(sockets) = &self.network else {
            let why = "a computed network sends no datagrams";
            return Err(Refused::new(StatusCode::NOT_IMPLEMENTED, why));
        };
        let (heard, unsent) = super::meeting::hold(&meeting, token, &**sockets)
            .await
            .map_err(|error| {
                let why = format!("no socket for datagrams: {error}");
                Refused::new(StatusCode::SERVICE_UNAVAILABLE, &why)
            })?;
        let sockets = Arc::clone(sockets);
        let vxlan = tokio::task::spawn_blocking(move || sockets.has_vxlan());
        Ok(json(
            StatusCode::OK,
            &Met {
                version: VERSION,
                node: self.config.node.clone(),
                heard,
                unsent,
                vxlan: vxlan.await.ok().and_then(Result::ok),
            },
        ))
    }

    fn probe(&self, body: &[u8], signed: &SignedRequest) -> Result<Response<Body>, Refused> {
        let checked = check::plan(body).map_err(|fault| Refused::plan(&fault))?;
        let place = self
            .plans
            .place()
            .ok_or_else(|| Refused::busy("as many plans as may run at a time are under way"))?;
        tracing::info!(run = %checked.plan.run, probes = checked.plan.probes.len(), "probing");
        let transcript =
            crate::wire::Transcript::new(&self.config.run_key, self.audience.clone(), signed.nonce);
        let lines = stream::lines(checked, self.network.clone(), place, transcript);
        let mut response = Response::new(lines);
        response.headers_mut().insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/x-ndjson"),
        );
        Ok(response)
    }
}

/// The tables of a network that holds what is expected, which is found out without a row in memory; none where anything differs, or
/// some table could not be read.
fn as_expected(network: &Network, node: &str, expected: &Expectation) -> Option<Tables> {
    let digester = Digester::like(expected.key, &expected.digest);
    let counted = network.inspect_counting(&digester)?.ok()?;
    let is_expected = counted.missing.is_empty() && counted.digest == expected.digest;
    is_expected.then(|| Tables {
        version: VERSION,
        node: node.to_owned(),
        state: counted.state,
        differences: Some(Differences {
            bits: expected.digest.bits(),
            buckets: BTreeMap::new(),
        }),
        missing: Vec::new(),
    })
}

/// What a holder of the key is answered.
enum Answered {
    /// Signed as a whole.
    Whole(Whole),
    /// Signed line by line.
    Stream(Response<Body>),
}

/// A whole answer.
struct Whole {
    status: StatusCode,
    content: Bytes,
    allow: Option<HeaderValue>,
}

impl Whole {
    fn into_response(self) -> Response<Body> {
        let mut response = Response::new(Full::from(self.content).boxed_unsync());
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(allow) = self.allow {
            headers.insert(ALLOW, allow);
        }
        response
    }
}

fn json(status: StatusCode, value: &impl Serialize) -> Whole {
    let (status, content) = match serde_json::to_vec(value) {
        Ok(content) => (status, content),
        Err(error) => {
            tracing::error!(%error, "answer");
            (StatusCode::INTERNAL_SERVER_ERROR, b"{}".to_vec())
        }
    };
    Whole {
        status,
        content: content.into(),
        allow: None,
    }
}

fn text(status: StatusCode, content: &'static str) -> Response<Body> {
    let mut response = Response::new(Full::from(content).boxed_unsync());
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response
}

fn tls() -> Result<TlsAcceptor, Error> {
    let broken = |error: &dyn std::fmt::Display| Error::Certificate(error.to_string());
    let made = rcgen::generate_simple_self_signed(["floater".to_owned()])
        .map_err(|error| broken(&error))?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| broken(&error))?
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .map_err(|error| broken(&error))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}
