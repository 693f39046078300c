//! HTTP/1.1 over TLS, one task per connection.

use std::sync::Arc;
use std::time::Duration;

use http::Request;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::ApiCluster;

/// How long a client may take to agree on TLS.
const SLOWEST: Duration = Duration::from_secs(10);
/// How long a request's head may take, and a connection be idle.
const HEAD: Duration = Duration::from_secs(30);
/// The longest head, bytes.
const LONGEST_HEAD: usize = 64 << 10;
/// Connections at once: a run of floaterctl has some twenty, and watches are among them.
const MOST: usize = 512;

/// Serves until it is stopped; connections end with it.
pub(crate) async fn serve(
    cluster: Arc<ApiCluster>,
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
    stop: impl Future,
) {
    let acceptor = TlsAcceptor::from(tls);
    let mut connections = JoinSet::new();
    futures::pin_mut!(stop);
    loop {
        let stream = tokio::select! {
            _ = &mut stop => return,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            // Further ones wait to be accepted: one client's connections are not to take the descriptors of all clusters.
            accepted = listener.accept(), if connections.len() < MOST => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of descriptors, mostly: others close, and the next try may do.
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                    continue;
                }
            },
        };
        let (cluster, acceptor) = (cluster.clone(), acceptor.clone());
        connections.spawn(async move {
            // Watches are streams of small pieces; failing to turn the delay off costs only time.
            let _ = stream.set_nodelay(true);
            let stream = match tokio::time::timeout(SLOWEST, acceptor.accept(stream)).await {
                Ok(Ok(stream)) => stream,
                Ok(Err(error)) => {
                    tracing::debug!(%error, "no TLS");
                    return;
                }
                Err(_) => {
                    tracing::debug!("TLS was never begun or never finished");
                    return;
                }
            };
            let service = service_fn(move |request: Request<hyper::body::Incoming>| {
                let answer = cluster.handle(request);
                async move { Ok::<_, std::convert::Infallible>(answer.await) }
            });
            let served = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD)
                .max_buf_size(LONGEST_HEAD)
                .serve_connection(TokioIo::new(stream), service)
                .await;
            if let Err(error) = served {
                tracing::debug!(%error, "a connection broke off");
            }
        });
    }
}
