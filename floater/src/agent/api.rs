//! The authenticated API: who am I, what are my tables, run this plan.
//!
//! TLS by a certificate that nobody can verify hides what is said; the run key's signature says who may ask. The
//! certificate is made for the first caller, so that a floater that nobody asks costs nothing.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures::StreamExt as _;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, Limited, StreamBody};
use hyper::body::{Body as _, Frame, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use ring::rand::{SecureRandom as _, SystemRandom};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde::Serialize;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OnceCell, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::engine::{self, Secret};
use super::{Config, Error, Sockets, check};
use crate::wire::{AUTH_HEADER, Info, Plan, Tables, verify};

/// For a handshake, and for a request's head.
const PATIENCE: Duration = Duration::from_secs(5);
/// For a request's body.
const BODY_PATIENCE: Duration = Duration::from_secs(60);
/// Connections at once; further ones wait to be accepted.
const CONNECTIONS: usize = 64;
/// The longest body, bytes: [`crate::wire::MAX_PROBES`] probes with what they expect.
const LONGEST: usize = 64 << 20;
/// Bodies that are read at once.
const BODIES: usize = 4;
/// Plans at once: one, so that [`crate::wire::CEILING_PPS`] holds for the floater.
const PLANS: usize = 1;
/// Events between the engine and a reader that is slower; the engine waits when it is full.
const EVENTS: usize = 256;

type Body = UnsyncBoxBody<Bytes, Infallible>;

struct Api {
    config: Arc<Config>,
    sockets: Arc<dyn Sockets>,
    secret: Secret,
    plans: Arc<Semaphore>,
    bodies: Semaphore,
    tls: OnceCell<TlsAcceptor>,
}

/// Serves until it is dropped, and takes its connections and their probing with it.
pub(super) async fn serve(listener: TcpListener, config: Arc<Config>, sockets: Arc<dyn Sockets>) {
    let api = Arc::new(Api {
        config,
        sockets,
        secret: secret(),
        plans: Arc::new(Semaphore::new(PLANS)),
        bodies: Semaphore::new(BODIES),
        tls: OnceCell::new(),
    });
    let _stamping = super::echo::keep_stamping();
    super::serve(listener, CONNECTIONS, |stream| {
        Arc::clone(&api).connection(stream)
    })
    .await;
}

impl Api {
    async fn connection(self: Arc<Self>, stream: TcpStream) {
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
        let service = service_fn(|request| {
            let api = Arc::clone(&self);
            async move { Ok::<_, Infallible>(api.answer(request).await) }
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

    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let path = request.uri().path();
        if path == "/" && matches!(*request.method(), Method::GET | Method::HEAD) {
            return text(StatusCode::OK, "OK");
        }
        let allowed = match path {
            "/v1/info" | "/v1/tables" => Method::GET,
            "/v1/probe" => Method::POST,
            _ => return problem(StatusCode::NOT_FOUND, "no such path"),
        };
        let path = path.to_owned();
        let method = request.method().clone();
        let body = match self.authenticated(request).await {
            Ok(body) => body,
            Err(refusal) => return *refusal,
        };
        if method != allowed {
            let mut refusal = problem(StatusCode::METHOD_NOT_ALLOWED, "no such method here");
            if let Ok(allowed) = allowed.as_str().parse() {
                refusal.headers_mut().insert(ALLOW, allowed);
            }
            return refusal;
        }
        match path.as_str() {
            "/v1/info" => json(StatusCode::OK, &self.info()),
            "/v1/tables" => self.tables().await,
            _ => self.probe(&body),
        }
    }

    /// The body of a request whose signature is right.
    async fn authenticated(
        &self,
        request: Request<Incoming>,
    ) -> Result<Bytes, Box<Response<Body>>> {
        let refuse = |status, why: &str| Err(Box::new(problem(status, why)));
        let Some(header) = request
            .headers()
            .get(AUTH_HEADER)
            .and_then(|value| value.to_str().ok())
            .map(str::to_owned)
        else {
            return refuse(StatusCode::UNAUTHORIZED, "the request is not signed");
        };
        if request.body().size_hint().lower() > LONGEST as u64 {
            return refuse(StatusCode::PAYLOAD_TOO_LARGE, "the body is too long");
        }
        let method = request.method().as_str().to_owned();
        let path = request
            .uri()
            .path_and_query()
            .map_or_else(|| "/".to_owned(), ToString::to_string);
        // Whoever holds no key costs at most so many bodies of memory.
        let reading = async {
            let _place = self.bodies.acquire().await;
            Limited::new(request.into_body(), LONGEST).collect().await
        };
        let body = match tokio::time::timeout(BODY_PATIENCE, reading).await {
            Ok(Ok(body)) => body.to_bytes(),
            Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
                return refuse(StatusCode::PAYLOAD_TOO_LARGE, "the body is too long");
            }
            Ok(Err(_)) => return refuse(StatusCode::BAD_REQUEST, "the body is cut off"),
            Err(_) => return refuse(StatusCode::REQUEST_TIMEOUT, "the body is too slow"),
        };
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs();
        if verify(&self.config.run_key, &method, &path, &body, &header, now) {
            Ok(body)
        } else {
            refuse(
                StatusCode::UNAUTHORIZED,
                "the signature is another key's, another request's, or its time is off",
            )
        }
    }

    fn info(&self) -> Info {
        Info {
            version: 1,
            program: env!("CARGO_PKG_VERSION").to_owned(),
            run: self.config.run.clone(),
            cluster: self.config.cluster.clone(),
            node: self.config.node.clone(),
            layer: self.config.layer,
        }
    }

    async fn tables(&self) -> Response<Body> {
        let sockets = Arc::clone(&self.sockets);
        let read = tokio::task::spawn_blocking(move || sockets.inspect())
            .await
            .unwrap_or_else(|error| Err(format!("the reader ended: {error}")));
        match read {
            Ok((state, missing)) => json(
                StatusCode::OK,
                &Tables {
                    version: 1,
                    node: self.config.node.clone(),
                    state,
                    missing,
                },
            ),
            // Empty tables would be taken for the truth.
            Err(why) => problem(StatusCode::SERVICE_UNAVAILABLE, &why),
        }
    }

    fn probe(&self, body: &[u8]) -> Response<Body> {
        let plan = match check::plan(body) {
            Ok(plan) => plan,
            Err(fault) => return json(StatusCode::BAD_REQUEST, &fault),
        };
        let Ok(place) = Arc::clone(&self.plans).try_acquire_owned() else {
            return problem(StatusCode::TOO_MANY_REQUESTS, "another plan is under way");
        };
        tracing::info!(run = %plan.run, probes = plan.probes.len(), "probing");
        let lines = self.events(plan, place).map(|line| Ok(Frame::data(line)));
        respond(
            StatusCode::OK,
            "application/x-ndjson",
            StreamBody::new(lines).boxed_unsync(),
        )
    }

    /// Runs a plan for as long as its lines are wanted: dropping the stream ends the probing.
    fn events(
        &self,
        plan: Plan,
        place: tokio::sync::OwnedSemaphorePermit,
    ) -> impl futures::Stream<Item = Bytes> + Send + 'static {
        let (sender, receiver) = mpsc::channel(EVENTS);
        let (sockets, secret) = (Arc::clone(&self.sockets), self.secret);
        let mut engine = JoinSet::new();
        engine.spawn(async move {
            engine::run(&plan, &sockets, secret, &sender).await;
            drop(place);
        });
        futures::stream::unfold((receiver, engine), |(mut receiver, engine)| async move {
            let mut event = receiver.recv().await?;
            let mut lines = Vec::new();
            // What is there already goes along: one write for many lines.
            loop {
                if serde_json::to_writer(&mut lines, &event).is_ok() {
                    lines.push(b'\n');
                }
                match receiver.try_recv() {
                    Ok(next) => event = next,
                    Err(_) => break,
                }
            }
            Some((Bytes::from(lines), (receiver, engine)))
        })
    }
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

fn secret() -> Secret {
    let mut bytes = [0; 10];
    if SystemRandom::new().fill(&mut bytes).is_err() {
        // Guessing needs the time of our start to the nanosecond; without randomness nothing else here works either.
        let nanos = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_nanos();
        bytes.copy_from_slice(&nanos.to_be_bytes()[6..]);
    }
    let [low, high, cookies @ ..] = bytes;
    Secret {
        identifier: u16::from_be_bytes([low, high]),
        cookies: u64::from_be_bytes(cookies),
    }
}

fn respond(status: StatusCode, kind: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(kind));
    response
}

fn text(status: StatusCode, body: &'static str) -> Response<Body> {
    respond(status, "text/plain", Full::from(body).boxed_unsync())
}

fn json(status: StatusCode, value: &impl Serialize) -> Response<Body> {
    match serde_json::to_vec(value) {
        Ok(body) => respond(status, "application/json", Full::from(body).boxed_unsync()),
        Err(error) => {
            tracing::error!(%error, "response");
            text(
                StatusCode::INTERNAL_SERVER_ERROR,
                "the response cannot be written",
            )
        }
    }
}

fn problem(status: StatusCode, error: &str) -> Response<Body> {
    json(status, &serde_json::json!({ "error": error }))
}
