//! A client of an API server from inside of a network namespace: its packets take the fleet's own network.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::client::legacy;
use hyper_util::rt::{TokioExecutor, TokioIo};
use kube::client::ConfigExt as _;
use kube::config::AuthInfo;
use netns_harness::namespace::Netns;
use netns_harness::opener::Opener;
use serde_json::{Value, json};
use tokio::net::{TcpSocket, TcpStream};
use tower::ServiceBuilder;

use crate::Error;
use crate::pki::{Authority, Pair};

/// The longest that a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(5);
/// The longest that an answer may take that is none of a watch.
const ANSWER: Duration = Duration::from_secs(10);

/// Who a client is.
pub(crate) enum Identity {
    Certificate(Pair),
    Token(String),
}

/// Where a client is, and what it talks to.
#[derive(Clone)]
pub(crate) struct Door {
    pub(crate) opener: Arc<Opener>,
    pub(crate) netns: Netns,
    pub(crate) server: SocketAddr,
}

impl Door {
    /// A connection from there.
    pub(crate) async fn connect(&self) -> io::Result<TcpStream> {
        let is_ipv4 = self.server.is_ipv4();
        let open = move || {
            if is_ipv4 {
                TcpSocket::new_v4()
            } else {
                TcpSocket::new_v6()
            }
        };
        let socket = self.opener.open(&self.netns, open);
        let socket = socket.map_err(io::Error::other)??;
        let connected = tokio::time::timeout(CONNECT, socket.connect(self.server)).await;
        let stream = connected.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        // Small requests that wait for each other suffer from the delay; failing to turn it off costs only that.
        let _ = stream.set_nodelay(true);
        Ok(stream)
    }
}

/// A client that is someone at an API server.
///
/// # Errors
/// What it proves itself with cannot be used.
pub(crate) fn client(
    door: Door,
    authority: &Authority,
    identity: &Identity,
) -> Result<kube::Client, Error> {
    let doing = || format!("make a client of {}", door.server);
    let url = format!("https://{}", door.server).parse();
    let mut config = kube::Config::new(url.map_err(Error::failed(doing()))?);
    config.root_cert = Some(vec![authority.der.clone()]);
    let user = match identity {
        Identity::Token(token) => json!({"token": token}),
        Identity::Certificate(pair) => json!({
            "client-certificate-data": STANDARD.encode(&pair.certificate),
            "client-key-data": STANDARD.encode(&pair.key),
        }),
    };
    config.auth_info = serde_json::from_value::<AuthInfo>(user).map_err(Error::failed(doing()))?;
    let tls = config.rustls_client_config();
    let auth = config.auth_layer().map_err(Error::failed(doing()))?;
    let connector = {
        let door = door.clone();
        tower::service_fn(move |_: http::Uri| {
            let door = door.clone();
            async move { door.connect().await.map(TokioIo::new) }
        })
    };
    let https = HttpsConnectorBuilder::new()
        .with_tls_config(tls.map_err(Error::failed(doing()))?)
        .https_only()
        .enable_http1()
        .wrap_connector(connector);
    let http = legacy::Client::builder(TokioExecutor::new()).build(https);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(auth)
        .map_err(tower::BoxError::from)
        .service(http);
    Ok(kube::Client::new(service, config.default_namespace))
}

/// What came of a request.
pub(crate) enum Answer {
    /// The object of the answer.
    Done(Value),
    /// A refusal: its status code, and what it says.
    Refused(u16, String),
}

/// Sends a request with a JSON body, none where it is null.
///
/// # Errors
/// There was no answer, in words.
pub(crate) async fn call(
    client: &kube::Client,
    method: http::Method,
    path: &str,
    body: &Value,
) -> Result<Answer, String> {
    let kind = if method == http::Method::PATCH {
        "application/merge-patch+json"
    } else {
        "application/json"
    };
    let bytes = match body {
        Value::Null => Vec::new(),
        body => body.to_string().into_bytes(),
    };
    let request = http::Request::builder()
        .method(method)
        .uri(path)
        .header(http::header::CONTENT_TYPE, kind)
        .body(bytes)
        .map_err(|error| error.to_string())?;
    let answered = tokio::time::timeout(ANSWER, client.request::<Value>(request)).await;
    match answered {
        Err(_) => Err(format!("no answer within {ANSWER:?}")),
        Ok(Ok(object)) => Ok(Answer::Done(object)),
        Ok(Err(kube::Error::Api(status))) => {
            Ok(Answer::Refused(status.code, status.message.clone()))
        }
        Ok(Err(error)) => Err(crate::error::chain(&error)),
    }
}
