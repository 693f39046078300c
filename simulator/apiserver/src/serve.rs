//! HTTP/2 and HTTP/1.1 over TLS: one listener for the API of one cluster at its root, or for those of many, each below a path of its own.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use http::uri::PathAndQuery;
use http::{HeaderValue, Request, Response, Version, header};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::ApiCluster;
use super::answer::{self, Body};
use super::status::Status;

/// How long a client may take to agree on TLS.
const SLOWEST: Duration = Duration::from_secs(10);
/// How long a request's head may take, and a connection be idle.
const HEAD: Duration = Duration::from_secs(30);
/// The longest head, bytes.
const LONGEST_HEAD: u32 = 64 << 10;
/// Connections at once to one cluster alone: a run of floaterctl has some twenty, and watches are among them.
const CONNECTIONS: usize = 512;
/// Connections at once to many clusters. What one of them may take of these is bounded by its requests.
const CONNECTIONS_OF_MANY: usize = 4096;
/// Requests at once on one connection of HTTP/2, as kube-apiserver has it.
const STREAMS: u32 = 100;
/// Requests at once of one cluster, watches among them.
pub(super) const REQUESTS: usize = 512;
/// How long a request waits for another one of its cluster to end.
const QUEUE: Duration = Duration::from_secs(1);
/// What the paths of many clusters begin with.
const PREFIX: &str = "/clusters/";

/// Which cluster answers at which path of a listener.
#[derive(Debug, Clone)]
pub struct Routes(Arc<Places>);

#[derive(Debug)]
enum Places {
    Root(Arc<ApiCluster>),
    ByName(HashMap<String, Arc<ApiCluster>>),
}

impl Routes {
    /// One cluster, at the root.
    #[must_use]
    pub fn root(cluster: Arc<ApiCluster>) -> Self {
        Self(Arc::new(Places::Root(cluster)))
    }

    /// Many clusters, each at [`Routes::path`] of its name; of several with one name the last.
    #[must_use]
    pub fn by_name(clusters: impl IntoIterator<Item = Arc<ApiCluster>>) -> Self {
        let named = clusters.into_iter();
        let named = named.map(|cluster| (cluster.name().to_owned(), cluster));
        Self(Arc::new(Places::ByName(named.collect())))
    }

    /// Where a cluster of many is: `/clusters/NAME`.
    #[must_use]
    pub fn path(name: &str) -> String {
        format!("{PREFIX}{name}")
    }

    /// Answers HTTP/2, where client and `tls` agree on it by ALPN, and else HTTP/1.1, over TLS until it is stopped; connections end with it.
    pub async fn serve(
        self,
        listener: TcpListener,
        tls: Arc<rustls::ServerConfig>,
        stop: impl Future,
    ) {
        let most = match *self.0 {
            Places::Root(_) => CONNECTIONS,
            Places::ByName(_) => CONNECTIONS_OF_MANY,
        };
        let answer = move |request| {
            let routes = self.clone();
            async move { routes.answer(request).await }
        };
        serve(listener, tls, most, answer, stop).await;
    }

    /// The cluster that a request is for, and the request as it would be at the root.
    fn route<B>(&self, mut request: Request<B>) -> Result<(Arc<ApiCluster>, Request<B>), Status> {
        let clusters = match &*self.0 {
            Places::Root(cluster) => return Ok((cluster.clone(), request)),
            Places::ByName(clusters) => clusters,
        };
        let whole = request.uri().path_and_query();
        let whole = whole.map_or("/", PathAndQuery::as_str);
        let below = whole
            .strip_prefix(PREFIX)
            .ok_or_else(Status::no_such_resource)?;
        let end = below.find(['/', '?']).unwrap_or(below.len());
        let (name, rest) = below.split_at(end);
        let cluster = clusters
            .get(name)
            .ok_or_else(|| Status::no_such_cluster(name))?;
        let rest = if rest.starts_with('/') {
            rest.to_owned()
        } else {
            format!("/{rest}")
        };
        // A part of a path that was taken is one, too.
        *request.uri_mut() = rest
            .parse()
            .map_err(|_| Status::bad_request(format!("invalid path {rest:?}")))?;
        Ok((cluster.clone(), request))
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let (cluster, request) = match self.route(request) {
            Ok(routed) => routed,
            Err(status) => return answer::refusal(&status),
        };
        let closes = request.version() < Version::HTTP_2;
        let turn = tokio::time::timeout(QUEUE, cluster.requests.clone().acquire_owned()).await;
        let Ok(Ok(turn)) = turn else {
            let mut refusal = answer::refusal(&Status::too_many_requests());
            if closes {
                // The connection is given back as well: it may be one of many that are all for this cluster.
                let close = HeaderValue::from_static("close");
                refusal.headers_mut().insert(header::CONNECTION, close);
            }
            return refusal;
        };
        let response = cluster.handle(request).await;
        // A watch takes its place until it ends.
        response.map(|body| {
            body.map_err(move |error| {
                let _held = &turn;
                error
            })
            .boxed_unsync()
        })
    }
}

/// Answers HTTP/2, where client and `tls` agree on it by ALPN, and else HTTP/1.1, over TLS until it is stopped, with at most so many connections
/// at once; they end with it.
pub async fn serve<F>(
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
    most: usize,
    answer: impl Fn(Request<Incoming>) -> F + Clone + Send + 'static,
    stop: impl Future,
) where
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let acceptor = TlsAcceptor::from(tls);
    let mut connections = JoinSet::new();
    futures::pin_mut!(stop);
    loop {
        let stream = tokio::select! {
            _ = &mut stop => return,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            // Further ones wait to be accepted: clients are not to take all descriptors of the process.
            accepted = listener.accept(), if connections.len() < most => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of descriptors, mostly: others close, and the next try may do.
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
        };
        connections.spawn(connection(answer.clone(), stream, acceptor.clone()));
    }
}

async fn connection<F>(
    answer: impl Fn(Request<Incoming>) -> F + Clone + Send + 'static,
    stream: TcpStream,
    acceptor: TlsAcceptor,
) where
    F: Future<Output = Response<Body>> + Send + 'static,
{
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
    let service = service_fn(move |request: Request<Incoming>| {
        let answered = answer(request);
        async move { Ok::<_, std::convert::Infallible>(answered.await) }
    });
    let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let stream = TokioIo::new(stream);
    let served = if is_http2 {
        hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(HEAD)
            .max_concurrent_streams(STREAMS)
            .max_header_list_size(LONGEST_HEAD)
            .adaptive_window(true)
            .serve_connection(stream, service)
            .await
    } else {
        hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD)
            .max_buf_size(LONGEST_HEAD as usize)
            .serve_connection(stream, service)
            .await
    };
    if let Err(error) = served {
        tracing::debug!(%error, "a connection broke off");
    }
}

#[cfg(test)]
mod tests {
    use super::super::{NoPods, Options};
    use super::*;

    fn named(name: &str) -> Arc<ApiCluster> {
        ApiCluster::new(Options {
            name: name.to_owned(),
            uid: String::new(),
            admin_token: "t".to_owned(),
            dialer: Arc::new(NoPods),
        })
    }

    #[test]
    fn a_path_names_the_cluster_and_what_is_asked_of_it() {
        let routes = Routes::by_name([named("c1"), named("c10")]);
        let route = |uri: &str| {
            let request = Request::get(uri).body(()).expect("a request");
            let routed = routes.route(request);
            routed.map(|(cluster, request)| (cluster.name().to_owned(), request.uri().to_string()))
        };
        for (uri, cluster, rest) in [
            ("/clusters/c1", "c1", "/"),
            ("/clusters/c1/", "c1", "/"),
            ("/clusters/c10?x=1", "c10", "/?x=1"),
            (
                "/clusters/c10/api/v1/pods?watch=1&a=%2F",
                "c10",
                "/api/v1/pods?watch=1&a=%2F",
            ),
        ] {
            let routed = route(uri).expect("it is there");
            assert_eq!(routed, (cluster.to_owned(), rest.to_owned()), "{uri}");
        }
        for uri in ["/", "/clusters", "/api/v1/pods", "/clustersc1/api"] {
            assert_eq!(route(uri), Err(Status::no_such_resource()), "{uri}");
        }
        for (uri, name) in [
            ("/clusters/c2/api", "c2"),
            ("/clusters/", ""),
            ("/clusters//api", ""),
        ] {
            assert_eq!(route(uri), Err(Status::no_such_cluster(name)), "{uri}");
        }
    }

    #[test]
    fn a_cluster_alone_is_at_the_root() {
        let routes = Routes::root(named("c1"));
        let request = Request::get("/clusters/c2/api").body(()).expect("good");
        let (cluster, request) = routes.route(request).expect("it is there");
        assert_eq!(
            (cluster.name(), request.uri().path()),
            ("c1", "/clusters/c2/api")
        );
    }
}
