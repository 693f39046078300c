//! A client of one context: bounded connections, a time limit for making one, no retry and no log of its own.
//!
//! `kube`'s ready-made stack keeps as many idle connections as were ever used at once, which a fleet of thousands cannot
//! afford, retries fifteen times what here is a value at once, and takes a proxy from the environment even for this
//! machine's own loopback.

use std::net::IpAddr;
use std::time::Duration;

use futures::FutureExt as _;
use http::Uri;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kube::client::ConfigExt as _;
use tower::{BoxError, Layer as _, ServiceExt as _};

use super::Selected;

/// How long a TCP connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Idle connections that are kept for a cluster: as many as one look at it needs.
const IDLE_CONNECTIONS: usize = 8;
/// How long an idle connection is kept.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

impl Selected {
    /// Whether a client of it starts a program for its credentials.
    pub(crate) fn runs_a_program(&self) -> bool {
        self.config
            .auth_infos
            .iter()
            .filter_map(|user| user.auth_info.as_ref())
            .any(|user| user.exec.is_some())
    }

    /// A client for it. Blocks while a credential plugin runs; needs the runtime's context.
    ///
    /// # Errors
    /// Why there is none, in words without credentials.
    pub(crate) fn client(&self) -> Result<kube::Client, String> {
        let named = self.config.clusters[0]
            .cluster
            .as_ref()
            .and_then(|cluster| cluster.proxy_url.clone());
        // Nothing in it waits: the file is read and every path is checked.
        let config = kube::Config::from_custom_kubeconfig(
            (*self.config).clone(),
            &kube::config::KubeConfigOptions::default(),
        )
        .now_or_never()
        .ok_or("its configuration needs more than its kubeconfig")?
        .map_err(|error| told(&error))?;
        let from_environment = |name: &str| std::env::var(name).ok();
        if named.is_some() || needs_proxy(&config.cluster_url, from_environment) {
            return Err(
                "its API server is behind a proxy (proxy-url, HTTPS_PROXY), which is not supported"
                    .to_owned(),
            );
        }
        connect(&config).map_err(|error| match error {
            kube::Error::Auth(_) => "its credential plugin gives no credentials".to_owned(),
            kube::Error::RustlsTls(_) => {
                "its certificates or its client key cannot be used for TLS".to_owned()
            }
            kube::Error::InferKubeconfig(error) => told(&error),
            _ => "no client can be made of its kubeconfig".to_owned(),
        })
    }
}

fn connect(config: &kube::Config) -> Result<kube::Client, kube::Error> {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
    tcp.set_nodelay(true);
    let tls = config.rustls_https_connector_with_connector(tcp)?;
    let http = hyper_util::client::legacy::Client::builder(TokioExecutor::new())
        .pool_max_idle_per_host(IDLE_CONNECTIONS)
        .pool_idle_timeout(IDLE_TIMEOUT)
        .pool_timer(hyper_util::rt::TokioTimer::new())
        .build::<_, kube::client::Body>(tls)
        .map_err(BoxError::from);
    let impersonating = config.extra_headers_layer()?.layer(http);
    let authenticated = tower::util::option_layer(config.auth_layer()?).layer(impersonating);
    let service = config.base_uri_layer().layer(authenticated);
    Ok(kube::Client::new(service, config.default_namespace.clone()))
}

/// What `kube` refuses although it passed the rules, without its quotes.
fn told(error: &kube::config::KubeconfigError) -> String {
    use kube::config::KubeconfigError as Kube;
    match error {
        Kube::ParseCertificates(_) | Kube::LoadCertificateAuthority(_) => {
            "its certificate authority is not PEM"
        }
        Kube::LoadClientCertificate(_) => "its client certificate cannot be read",
        Kube::LoadClientKey(_) => "its client key cannot be read",
        Kube::ParseProxyUrl(_) => "its proxy is not a URL",
        _ => "its kubeconfig cannot be used",
    }
    .to_owned()
}

/// Whether the environment sends requests for a server through a proxy, by the rules that kubectl has from Go: this
/// machine's loopback never, what `NO_PROXY` lists never.
fn needs_proxy(server: &Uri, variable: impl Fn(&str) -> Option<String>) -> bool {
    let either = |name: &str| {
        [name.to_owned(), name.to_lowercase()]
            .iter()
            .filter_map(|name| variable(name))
            .find(|value| !value.is_empty())
    };
    let name = if server.scheme_str() == Some("http") {
        "HTTP_PROXY"
    } else {
        "HTTPS_PROXY"
    };
    if either(name).is_none() {
        return false;
    }
    let host = server.host().unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let ip: Option<IpAddr> = host.parse().ok();
    if host == "localhost" || ip.is_some_and(|ip| ip.is_loopback()) {
        return false;
    }
    let listed = either("NO_PROXY").unwrap_or_default();
    !listed
        .split(',')
        .map(str::trim)
        .filter(|entry| !entry.is_empty())
        .any(|entry| excludes(entry, host, ip))
}

fn excludes(entry: &str, host: &str, ip: Option<IpAddr>) -> bool {
    if entry == "*" {
        return true;
    }
    if let (Ok(net), Some(ip)) = (entry.parse::<ipnet::IpNet>(), ip) {
        return net.contains(&ip);
    }
    if let (Ok(excluded), Some(ip)) = (entry.parse::<IpAddr>(), ip) {
        return excluded == ip;
    }
    let domain = entry.trim_start_matches("*.").trim_start_matches('.');
    host == domain
        || host
            .strip_suffix(domain)
            .is_some_and(|rest| rest.ends_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_s_proxy_is_for_other_machines_that_it_does_not_exclude() {
        for (server, no_proxy, needed) in [
            ("https://127.0.0.1:6443", "", false),
            ("https://[::1]:6443", "", false),
            ("https://localhost:6443", "", false),
            ("https://10.1.2.3:6443", "", true),
            ("https://10.1.2.3:6443", "10.0.0.0/8", false),
            ("https://10.1.2.3:6443", "10.1.2.3", false),
            ("https://10.1.2.3:6443", "10.1.2.4, 192.168.0.0/16", true),
            ("https://api.east.example", ".example", false),
            ("https://api.east.example", "east.example", false),
            ("https://api.east.example", "ast.example", true),
            ("https://api.east.example", "*", false),
            ("http://api.east.example", "", false),
        ] {
            let variable = |name: &str| match name {
                "https_proxy" => Some("http://proxy:3128".to_owned()),
                "NO_PROXY" => Some(no_proxy.to_owned()),
                _ => None,
            };
            let uri = server.parse().expect("a URL");
            assert_eq!(needs_proxy(&uri, variable), needed, "{server} {no_proxy}");
        }
        let uri = "https://10.1.2.3".parse().expect("a URL");
        assert!(!needs_proxy(&uri, |_| None));
    }

    /// A request of a client that was made from a file arrives with its token, over a connection that is used again.
    #[tokio::test]
    async fn a_client_of_a_file_speaks_to_its_server() {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("loopback");
        let port = listener.local_addr().expect("bound").port();
        let text = format!(
            "clusters: [{{name: c, cluster: {{server: 'http://127.0.0.1:{port}/clusters/c'}}}}]\n\
             users: [{{name: u, user: {{token: abc, as: root}}}}]\n\
             contexts: [{{name: x, context: {{cluster: c, user: u}}}}]\n"
        );
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("a client comes");
            let mut heads = Vec::new();
            for _ in 0..2 {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(stream.read_u8().await.expect("it asks on"));
                }
                heads.push(String::from_utf8(head).expect("text"));
                stream
                    .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
                    .await
                    .expect("it listens");
            }
            heads
        });
        let file = super::super::parse(&text, "f.yaml", None).expect("it is good");
        let client = file
            .select("x")
            .expect("it is good")
            .client()
            .expect("it is good");
        for _ in 0..2 {
            let request = http::Request::get("/version")
                .body(Vec::new())
                .expect("good");
            client.request_text(request).await.expect("it answers");
        }
        for head in server.await.expect("no panic") {
            assert!(
                head.starts_with("GET /clusters/c/version HTTP/1.1"),
                "{head}"
            );
            assert!(
                head.to_lowercase().contains("authorization: bearer abc"),
                "{head}"
            );
            assert!(head.contains("impersonate-user: root"), "{head}");
        }
    }
}
