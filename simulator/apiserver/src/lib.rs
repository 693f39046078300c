//! The Kubernetes API of a simulated cluster, in memory.
//!
//! One [`ApiCluster`] is one cluster. Its objects are in a [`Store`]; [`ApiCluster::service`] answers requests in the
//! process (what `kube::Client::new` takes), [`Routes::serve`] answers them over TLS (for kubectl and everybody else), for
//! one cluster or for many that share a listener, and [`ApiCluster::run_controllers`] does what goes on in a cluster by itself.
//!
//! It knows nothing of what its pods run in: whoever embeds it reaches them with a [`PodDialer`], writes what controllers
//! elsewhere would write through the [`Store`], and makes large objects when they are asked for with a [`Generator`].
//!
//! ```
//! use std::sync::Arc;
//!
//! use http_body_util::{BodyExt as _, Empty};
//! use serde_json::{Value, json};
//! use apiserver::{ApiCluster, NoPods, Options, Resource};
//!
//! # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
//! # runtime.block_on(async {
//! let cluster = ApiCluster::new(Options {
//!     name: "east".to_owned(),
//!     uid: String::new(),
//!     admin_token: "secret".to_owned(),
//!     dialer: Arc::new(NoPods),
//! });
//! let node = json!({"metadata": {"name": "n1"}});
//! cluster.store().create(Resource::NODES, None, node).expect("an empty cluster");
//! let request = http::Request::get("/api/v1/nodes?limit=1")
//!     .header("authorization", "Bearer secret")
//!     .body(Empty::<bytes::Bytes>::new())?;
//! let answer = cluster.handle(request).await;
//! assert_eq!(answer.status(), 200);
//! let body = answer.into_body().collect().await?.to_bytes();
//! let list: Value = serde_json::from_slice(&body)?;
//! assert_eq!(list["items"][0]["metadata"]["name"], "n1");
//! # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
//! # })?;
//! # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
//! ```
//!
//! Over TLS: [`Routes::root`] for one cluster, [`Routes::by_name`] for many behind one port; `examples/apiserver.rs` of this
//! crate is a whole program.
//!
//! Kinds are rows of tables: their shape is in `builtin.schema`, their names, columns and subresources in `kinds.rs`;
//! kinds that clients define with a CustomResourceDefinition go through the same code. Documents that do not depend on
//! a cluster's objects are shared by all clusters of the process.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Request, Response};
use http_body_util::BodyExt;
use tokio::io::{AsyncRead, AsyncWrite};

mod answer;
mod auth;
mod bootstrap;
mod columns;
mod controllers;
mod crd;
mod crd_schema;
mod daemonset;
mod decode;
mod defaults;
mod delete;
mod deployment;
mod discovery;
mod endpoints;
mod events;
mod fields;
mod generated;
mod handler;
mod ids;
mod impersonate;
mod kept;
mod kinds;
mod log;
mod managed;
mod nodes;
mod openapi;
mod patch;
mod pod_security;
mod priority;
mod protobuf;
mod proxy;
mod rbac;
mod read;
mod replicaset;
mod replicated;
mod request;
mod resource;
mod review;
mod scale;
mod scheduler;
mod selector;
mod serve;
mod service_ranges;
mod shape;
mod status;
mod store;
mod table;
mod validate;
mod watch;
mod write;

pub use answer::{Body, BodyError};
pub use generated::Generator;
pub use generated::is_stub;
pub use log::{Output, logged};
pub use resource::Resource;
pub use serve::{Routes, serve};
pub use status::{Cause, Status};
pub use store::{Event, EventKind, Store};
pub use watch::Watch;

/// What a connection carries bytes over.
pub trait Transport: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Transport for T {}

/// A connection to a pod.
pub struct Connection {
    pub(crate) transport: Box<dyn Transport>,
    /// Whether it stays within this process: the pod then expects no TLS on it, whatever the request asks for.
    pub(crate) is_within: bool,
}

impl Connection {
    /// One over a network.
    pub fn over(transport: impl Transport + 'static) -> Self {
        Self {
            transport: Box::new(transport),
            is_within: false,
        }
    }

    /// One to a pod of this process, without TLS also where the request says `https:`.
    pub fn within(transport: impl Transport + 'static) -> Self {
        Self {
            transport: Box::new(transport),
            is_within: true,
        }
    }
}

/// How the API reaches pods.
pub trait PodDialer: Send + Sync {
    /// Opens a connection to a port of a pod.
    fn dial<'a>(
        &'a self,
        namespace: &'a str,
        pod: &'a str,
        port: u16,
    ) -> BoxFuture<'a, io::Result<Connection>>;

    /// What a pod has written so far.
    ///
    /// # Errors
    /// There is no such pod, or its log cannot be read.
    fn log(&self, namespace: &str, pod: &str) -> io::Result<Vec<u8>>;
}

/// A cluster in which no pod runs.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoPods;

impl PodDialer for NoPods {
    fn dial<'a>(&'a self, _: &'a str, _: &'a str, _: u16) -> BoxFuture<'a, io::Result<Connection>> {
        Box::pin(async { Err(io::ErrorKind::ConnectionRefused.into()) })
    }

    fn log(&self, _: &str, _: &str) -> io::Result<Vec<u8>> {
        Ok(Vec::new())
    }
}

/// What a cluster is made with.
pub struct Options {
    /// The cluster's name, for logs.
    pub name: String,
    /// The uid of its kube-system namespace, which is the cluster's identity; empty for a random one.
    pub uid: String,
    /// The administrator's bearer token.
    pub admin_token: String,
    /// How its pods are reached.
    pub dialer: Arc<dyn PodDialer>,
}

/// The API of one cluster.
pub struct ApiCluster {
    name: String,
    store: Arc<Store>,
    tokens: auth::Tokens,
    dialer: Arc<dyn PodDialer>,
    /// The places of requests that come over a listener.
    requests: Arc<tokio::sync::Semaphore>,
}

impl std::fmt::Debug for ApiCluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ApiCluster")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl ApiCluster {
    /// A cluster with its built-in namespaces, roles and definitions and nothing else.
    #[must_use]
    pub fn new(options: Options) -> Arc<Self> {
        let store = Arc::new(Store::default());
        store.write(|inner| bootstrap::fill(inner, &options.uid));
        Arc::new(Self {
            name: options.name,
            store,
            tokens: auth::Tokens::new(options.admin_token),
            dialer: options.dialer,
            requests: Arc::new(tokio::sync::Semaphore::new(serve::REQUESTS)),
        })
    }

    /// The cluster's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The cluster's objects.
    #[must_use]
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// A token of a service account, as its pods would hold one; none if there is no such account.
    #[must_use]
    pub fn service_account_token(&self, namespace: &str, name: &str) -> Option<String> {
        let account = self
            .store
            .get(Resource::SERVICE_ACCOUNTS, Some(namespace), name)?;
        let audiences = serde_json::json!([auth::ISSUER]);
        Some(
            self.tokens
                .issue(namespace, &account, 365 * 24 * 3600, &audiences, None)
                .0,
        )
    }

    /// Answers one request.
    pub fn handle<B>(self: &Arc<Self>, request: Request<B>) -> BoxFuture<'static, Response<Body>>
    where
        B: hyper::body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BodyError>,
    {
        let cluster = self.clone();
        let request = request.map(|body| {
            body.map_err(|error| -> BodyError { error.into() })
                .boxed_unsync()
        });
        Box::pin(async move { handler::handle(cluster, request).await })
    }

    /// The API as a service within the process, authenticated as whoever a request's headers say.
    #[must_use]
    pub fn service(self: &Arc<Self>) -> ApiService {
        ApiService {
            cluster: self.clone(),
            authorization: None,
        }
    }

    /// The API as a service within the process, for one user by its token.
    #[must_use]
    pub fn service_as(self: &Arc<Self>, token: &str) -> ApiService {
        ApiService {
            cluster: self.clone(),
            authorization: http::HeaderValue::from_str(&format!("Bearer {token}")).ok(),
        }
    }

    /// Runs the controllers until it is stopped: DaemonSets, Deployments, scheduling, the end of namespaces and of what nobody owns.
    /// Nodes are what they say that they are, however long ago they said so.
    pub async fn run_controllers(self: Arc<Self>, stop: impl Future) {
        controllers::run(self.store.clone(), None, stop).await;
    }

    /// As [`Self::run_controllers`]; a node of which neither a Lease in kube-node-lease nor a condition is renewed for the grace is lost:
    /// its conditions are unknown, it is tainted, and its pods are not ready.
    pub async fn run_controllers_with_nodes(
        self: Arc<Self>,
        grace: std::time::Duration,
        stop: impl Future,
    ) {
        controllers::run(self.store.clone(), Some(grace), stop).await;
    }
}

/// The API as a tower service.
#[derive(Debug, Clone)]
pub struct ApiService {
    cluster: Arc<ApiCluster>,
    authorization: Option<http::HeaderValue>,
}

impl<B> tower::Service<Request<B>> for ApiService
where
    B: hyper::body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BodyError>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let cluster = self.cluster.clone();
        if let Some(authorization) = &self.authorization {
            request
                .headers_mut()
                .insert(http::header::AUTHORIZATION, authorization.clone());
        }
        let answer = cluster.handle(request);
        Box::pin(async move { Ok(answer.await) })
    }
}
