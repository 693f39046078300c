//! What a node's kubelet answers to its API server: the output of its containers, at a kubelet's own port and path, to nobody else.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};

use http::{Method, Response};
use tokio::net::TcpListener;

use super::Kubelet;
use crate::Error;
use crate::apiserver::{Body, Output, logged, serve};
use crate::network::NodeNet;

/// Where a kubelet listens.
const PORT: u16 = 10250;
/// Connections at once to one node.
const CONNECTIONS: usize = 64;

/// The output of a pod's container.
struct OfPod {
    kubelet: Arc<Kubelet>,
    key: String,
    path: PathBuf,
}

impl Output for OfPod {
    fn written(&self) -> Result<Vec<u8>, String> {
        let read = std::fs::read(&self.path);
        read.map_err(|error| format!("cannot read the log of {}: {error}", self.key))
    }

    fn runs(&self) -> bool {
        let places = &self.kubelet.places;
        let places = places.lock().unwrap_or_else(PoisonError::into_inner);
        places.contains_key(&self.key)
    }
}

impl Kubelet {
    /// A listener where a node's kubelet is asked.
    pub(crate) fn listener(&self, net: &NodeNet) -> Result<TcpListener, Error> {
        let doing = || format!("serve the logs of {}/{}", self.cluster, net.node.name);
        let ip = net.node.ips().next().ok_or_else(|| Error::Failed {
            doing: doing(),
            why: "the node has no address".to_owned(),
        })?;
        let opened = self.network.opener.open(&net.netns, move || {
            let listener = std::net::TcpListener::bind(SocketAddr::new(ip, PORT))?;
            listener.set_nonblocking(true)?;
            Ok::<_, std::io::Error>(listener)
        });
        let listener = opened?.and_then(TcpListener::from_std);
        listener.map_err(Error::failed(doing()))
    }

    /// Answers the API server that proves itself to `tls`, until it is dropped.
    pub(crate) async fn serve(
        self: Arc<Self>,
        listener: TcpListener,
        tls: Arc<rustls::ServerConfig>,
    ) {
        let answer = move |request: http::Request<_>| {
            let answer = self.answer(request.method(), request.uri());
            async move { answer }
        };
        serve(
            listener,
            tls,
            CONNECTIONS,
            answer,
            std::future::pending::<()>(),
        )
        .await;
    }

    /// `GET /containerLogs/NAMESPACE/POD/CONTAINER`.
    fn answer(self: &Arc<Self>, method: &Method, uri: &http::Uri) -> Response<Body> {
        let parts: Vec<&str> = uri.path().split('/').collect();
        let ["", "containerLogs", namespace, pod, _] = parts[..] else {
            return refusal(404);
        };
        if method != Method::GET {
            return refusal(405);
        }
        let key = format!("{namespace}/{pod}");
        // A pod that is known here has a name that is one: nothing of a path is taken from the request.
        if !self.told.borrow().contains_key(&key) {
            return refusal(404);
        }
        let output = OfPod {
            kubelet: self.clone(),
            path: self.log_path(&key),
            key,
        };
        logged(uri.query().unwrap_or_default(), output)
    }
}

fn refusal(code: u16) -> Response<Body> {
    use http_body_util::BodyExt as _;
    let body = http_body_util::Empty::new().map_err(|never| match never {});
    let mut response = Response::new(body.boxed_unsync());
    *response.status_mut() = http::StatusCode::from_u16(code).unwrap_or_default();
    response
}
