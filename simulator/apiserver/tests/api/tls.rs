//! A simulated cluster behind TLS on loopback, with its controllers running.

use std::net::SocketAddr;
use std::sync::Arc;

use apiserver::{ApiCluster, NoPods, Options, PodDialer, Resource, Routes};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

/// A running cluster; it ends with the test's runtime.
pub(crate) struct Running {
    pub(crate) cluster: Arc<ApiCluster>,
    pub(crate) address: SocketAddr,
    pub(crate) certificate: String,
}

/// The administrator's token.
pub(crate) const TOKEN: &str = "the-administrators-token";

/// A cluster with two ready nodes, in the process only.
pub(crate) fn cluster(dialer: Arc<dyn PodDialer>) -> Arc<ApiCluster> {
    let cluster = ApiCluster::new(Options {
        name: "east".to_owned(),
        uid: "11111111-2222-3333-4444-555555555555".to_owned(),
        admin_token: TOKEN.to_owned(),
        dialer,
    });
    for name in ["n1", "n2"] {
        let node = json!({
            "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
            "status": {"conditions": [{"type": "Ready", "status": "True"}], "addresses": [{"type": "InternalIP", "address": "100.64.0.1"}]},
        });
        cluster
            .store()
            .create(Resource::NODES, None, node)
            .expect("an empty cluster");
    }
    cluster
}

/// A TLS server's side with a certificate of its own making, and the certificate.
pub(crate) fn config() -> (Arc<rustls::ServerConfig>, String) {
    let key = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).expect("a key");
    let certificate = key.cert.pem();
    let private = rustls::pki_types::PrivateKeyDer::try_from(key.signing_key.serialize_der())
        .expect("the key that was just written");
    let tls = rustls::ServerConfig::builder_with_provider(Arc::new(
        rustls::crypto::ring::default_provider(),
    ))
    .with_safe_default_protocol_versions()
    .expect("the provider has them")
    .with_no_client_auth()
    .with_single_cert(vec![key.cert.der().clone()], private)
    .expect("a certificate and its key");
    (Arc::new(tls), certificate)
}

/// Serves a cluster and runs its controllers.
pub(crate) async fn start() -> Running {
    let cluster = cluster(Arc::new(NoPods));
    let (tls, certificate) = config();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("loopback");
    let address = listener.local_addr().expect("bound");
    let routes = Routes::by_name([cluster.clone()]);
    tokio::spawn(routes.serve(listener, tls, std::future::pending::<()>()));
    tokio::spawn(
        cluster
            .clone()
            .run_controllers(std::future::pending::<()>()),
    );
    Running {
        cluster,
        address,
        certificate,
    }
}

impl Running {
    /// A kubeconfig with one context.
    pub(crate) fn kubeconfig(&self) -> String {
        json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "east",
            "clusters": [{"name": "east", "cluster": {
                "server": format!("https://{}{}", self.address, Routes::path("east")),
                "certificate-authority-data": STANDARD.encode(&self.certificate),
            }}],
            "users": [{"name": "east", "user": {"token": TOKEN}}],
            "contexts": [{"name": "east", "context": {"cluster": "east", "user": "east"}}],
        })
        .to_string()
    }
}
