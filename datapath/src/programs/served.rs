//! `/metrics`, `/healthz` and `/readyz` of a program.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tracing::info;

use super::metrics::Metrics;
use crate::error::Error;

/// The most connections at a time: whoever looks at a program comes by ones.
const CONNECTIONS: usize = 32;
/// How long a client may take to say what it wants.
const HEAD: Duration = Duration::from_secs(5);

/// Whether a program knows everything that it decides by.
#[derive(Debug, Clone, Default)]
pub(crate) struct Readiness(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    awaited: AtomicUsize,
    known: AtomicUsize,
}

impl Readiness {
    /// Something more has to be known; it is when what this returns is [done](Awaited::done).
    pub(crate) fn awaits(&self) -> Awaited {
        self.0.awaited.fetch_add(1, Ordering::AcqRel);
        Awaited(Some(self.clone()))
    }

    /// A program that does not say yet what it waits for is not ready either.
    fn is_ready(&self) -> bool {
        let known = self.0.known.load(Ordering::Acquire);
        known > 0 && known == self.0.awaited.load(Ordering::Acquire)
    }
}

/// Something that a program waits for before it is ready.
#[derive(Debug)]
pub(crate) struct Awaited(Option<Readiness>);

impl Awaited {
    /// It is known. Whether that is news; once is enough.
    pub(crate) fn done(&mut self) -> bool {
        let Some(readiness) = self.0.take() else {
            return false;
        };
        readiness.0.known.fetch_add(1, Ordering::AcqRel);
        true
    }
}

/// Opens the address; what is served there begins with [`serve`].
///
/// # Errors
/// [`Error::Missing`] where the address cannot be had.
pub(crate) async fn listen(address: SocketAddr) -> Result<TcpListener, Error> {
    let missing = |why: std::io::Error| Error::Missing {
        what: format!("the address {address} of --listen"),
        why: crate::printable::io_reason(&why),
    };
    let listener = match TcpListener::bind(address).await {
        // Every address of a node whose kernel has no IPv6 is every IPv4 address.
        Err(_) if address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) => {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port())).await
        }
        bound => bound,
    };
    let listener = listener.map_err(missing)?;
    info!(address = %listener.local_addr().map_err(missing)?, "serving /metrics, /healthz and /readyz");
    Ok(listener)
}

/// Answers until it is dropped.
pub(crate) async fn serve(listener: TcpListener, metrics: Arc<Metrics>, readiness: Readiness) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else {
            return;
        };
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors, say: others may give some back.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let (metrics, readiness) = (metrics.clone(), readiness.clone());
        tokio::spawn(async move {
            let service = service_fn(|request| {
                let answered = answer(&request, &metrics, &readiness);
                async move { Ok::<_, Infallible>(answered) }
            });
            let mut server = http1::Builder::new();
            server
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD)
                .keep_alive(false);
            // Whoever hangs up has what it wanted.
            let _ = server.serve_connection(TokioIo::new(stream), service).await;
            drop(place);
        });
    }
}

fn answer(
    request: &Request<Incoming>,
    metrics: &Metrics,
    readiness: &Readiness,
) -> Response<Full<Bytes>> {
    let (code, kind, text) = match request.uri().path() {
        "/healthz" => (200, "text/plain", "ok\n".to_owned()),
        "/metrics" => (200, "text/plain; version=0.0.4", metrics.text()),
        "/readyz" if readiness.is_ready() => (200, "text/plain", "ok\n".to_owned()),
        "/readyz" => (
            503,
            "text/plain",
            "not everything is listed yet\n".to_owned(),
        ),
        _ => (
            404,
            "text/plain",
            "there are /metrics, /healthz and /readyz\n".to_owned(),
        ),
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    if let Ok(code) = hyper::StatusCode::from_u16(code) {
        *response.status_mut() = code;
    }
    let kind = hyper::header::HeaderValue::from_static(kind);
    response
        .headers_mut()
        .insert(hyper::header::CONTENT_TYPE, kind);
    response
}
