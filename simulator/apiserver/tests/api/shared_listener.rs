//! Many clusters behind one listener.

use std::sync::Arc;
use std::time::Duration;

use apiserver::{ApiCluster, NoPods, Options, Resource, Routes};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::ListParams;
use kube::{Api, Client, Config, ResourceExt};
use serde_json::json;

use super::tls;

/// Two clusters behind one listener: each has its objects, its token and its room.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clusters_that_share_a_listener_share_nothing_else() {
    use base64::Engine as _;
    let named = |name: &str| {
        let cluster = ApiCluster::new(Options {
            name: name.to_owned(),
            uid: String::new(),
            admin_token: format!("token-of-{name}"),
            dialer: Arc::new(NoPods),
        });
        let object = json!({"metadata": {"name": format!("only-in-{name}")}});
        let store = cluster.store();
        store
            .create(Resource::CONFIG_MAPS, Some("default"), object)
            .expect("created");
        cluster
    };
    let (tls, certificate) = tls::config();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("loopback");
    let address = listener.local_addr().expect("bound");
    let routes = Routes::by_name([named("a"), named("b")]);
    tokio::spawn(routes.serve(listener, tls, std::future::pending::<()>()));
    let authority = base64::engine::general_purpose::STANDARD.encode(&certificate);
    let client = async |path: &str, token: &str| {
        let kubeconfig = json!({
            "current-context": "x", "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
            "clusters": [{"name": "x", "cluster": {
                "server": format!("https://{address}{path}"), "certificate-authority-data": authority,
            }}],
            "users": [{"name": "x", "user": {"token": token}}],
        });
        let kubeconfig = serde_json::from_value(kubeconfig).expect("a kubeconfig");
        let config = Config::from_custom_kubeconfig(kubeconfig, &Default::default()).await;
        Client::try_from(config.expect("its context")).expect("a client")
    };
    let code = async |path: &str, token: &str| {
        let maps: Api<ConfigMap> = Api::default_namespaced(client(path, token).await);
        match maps.list(&ListParams::default()).await {
            Ok(list) => list.items.iter().map(ResourceExt::name_any).collect(),
            Err(kube::Error::Api(status)) => vec![format!("{} {}", status.code, status.reason)],
            Err(other) => panic!("{path}: {other}"),
        }
    };
    for name in ["a", "b"] {
        let path = Routes::path(name);
        let found = code(&path, &format!("token-of-{name}")).await;
        assert_eq!(
            found,
            ["kube-root-ca.crt".to_owned(), format!("only-in-{name}")]
        );
    }
    assert_eq!(
        code("/clusters/b", "token-of-a").await,
        ["401 Unauthorized"]
    );
    for path in ["/clusters/c", "/clusters", "", "/clusters/a/clusters/b"] {
        let refused = code(path, "token-of-a").await;
        assert_eq!(
            refused[0].split(' ').next(),
            Some("404"),
            "{path}: {refused:?}"
        );
    }

    // As many watches of one as it takes, and the other answers at once.
    let flood = client("/clusters/a", "token-of-a").await;
    let mut watches = Vec::new();
    for _ in 0..512 {
        let request =
            http::Request::get("/api/v1/configmaps?watch=1").body(kube::client::Body::empty());
        let answer = flood.send(request.expect("a request")).await;
        let answer = answer.expect("an answer");
        assert_eq!(answer.status(), 200);
        watches.push(answer);
    }
    // This client would try again what is refused, so that somebody simpler asks once more.
    let refused = once(
        address,
        &certificate,
        "GET /clusters/a/version HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer token-of-a\r\n\r\n",
    )
    .await;
    assert!(refused.starts_with("HTTP/1.1 429"), "{refused}");
    assert!(refused.contains("retry-after: 1\r\n"), "{refused}");
    let started = std::time::Instant::now();
    let found = code("/clusters/b", "token-of-b").await;
    assert!(found.contains(&"only-in-b".to_owned()), "{found:?}");
    assert!(started.elapsed() < Duration::from_secs(1));
    drop(watches);
    let found = code("/clusters/a", "token-of-a").await;
    assert!(found.contains(&"only-in-a".to_owned()), "{found:?}");
}

/// What a server answers to one request, over a connection that it closes.
async fn once(address: std::net::SocketAddr, certificate: &str, request: &str) -> String {
    use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject as _};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut roots = rustls::RootCertStore::empty();
    let certificate =
        CertificateDer::from_pem_slice(certificate.as_bytes()).expect("a certificate");
    roots.add(certificate).expect("an authority");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = tokio::net::TcpStream::connect(address)
        .await
        .expect("a connection");
    let name = ServerName::try_from("127.0.0.1").expect("an address");
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let mut stream = connector.connect(name, stream).await.expect("TLS");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = Vec::new();
    // Some end without the notice that TLS has for it.
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}
