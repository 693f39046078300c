//! The simulated Kubernetes API by itself: `cargo run --example apiserver -- east west` serves two empty clusters behind one port
//! and prints a kubeconfig for them; `kubectl --kubeconfig FILE --context east get nodes` and everything else works until it is
//! interrupted.

use std::error::Error;
use std::sync::Arc;

use apiserver::{ApiCluster, NoPods, Options, Resource, Routes};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

fn main() -> Result<(), Box<dyn Error>> {
    let names: Vec<String> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(serve(&names))
}

async fn serve(names: &[String]) -> Result<(), Box<dyn Error>> {
    // A certificate that the kubeconfig names as its own authority.
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()])?;
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der())?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)?;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let (mut clusters, mut users, mut contexts) = (Vec::new(), Vec::new(), Vec::new());
    let mut served = Vec::new();
    for name in names {
        let token = format!("token-of-{name}");
        let cluster = ApiCluster::new(Options {
            name: name.clone(),
            uid: String::new(),
            admin_token: token.clone(),
            dialer: Arc::new(NoPods),
        });
        let node = json!({"metadata": {"name": "n1"}});
        let created = cluster.store().create(Resource::NODES, None, node);
        created.map_err(|status| status.message)?;
        tokio::spawn(
            cluster
                .clone()
                .run_controllers(std::future::pending::<()>()),
        );
        served.push(cluster);
        clusters.push(json!({"name": name, "cluster": {
            "server": format!("https://{address}{}", Routes::path(name)),
            "certificate-authority-data": STANDARD.encode(made.cert.pem()),
        }}));
        users.push(json!({"name": name, "user": {"token": token}}));
        contexts.push(json!({"name": name, "context": {"cluster": name, "user": name}}));
    }
    let kubeconfig = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": names.first(),
        "clusters": clusters, "users": users, "contexts": contexts,
    });
    println!("{kubeconfig:#}");
    let stop = std::future::pending::<()>();
    Routes::by_name(served)
        .serve(listener, Arc::new(tls), stop)
        .await;
    Ok(())
}
