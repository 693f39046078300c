//! A client of one context: bounded connections, a time limit for making one, no retry and no log of its own.
//!
//! `kube`'s ready-made stack keeps as many idle connections as were ever used at once, which a fleet of thousands cannot
//! afford, retries fifteen times what here is a value at once, and resolves names without asking who may be connected to.

use std::net::IpAddr;
use std::time::Duration;

use hyper_rustls::FixedServerNameResolver;
use hyper_util::client::legacy::connect::proxy::{SocksV5, Tunnel};
use hyper_util::client::legacy::connect::{Connect, HttpConnector};
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use hyper_util::rt::TokioExecutor;
use kube::client::ConfigExt as _;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tower::{BoxError, Layer as _, ServiceExt as _};

use super::reach::{Reach, Resolver};
use super::{Entry, plugin, tls};

/// How long a TCP connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an idle connection is kept.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// The most bytes of the head of an answer.
const MAX_HEAD: usize = 64 << 10;

/// The TLS side of a client, the name that its server is asked by where that is not the URL's, and its connections.
struct Tls {
    config: ClientConfig,
    name: Option<ServerName<'static>>,
    /// How many unused connections are kept.
    idle: usize,
}

impl Entry {
    /// A client for it; its exec plugin is run once for that.
    ///
    /// # Errors
    /// Why there is none, in words without credentials.
    pub(super) async fn client(&self, reach: Reach, idle: usize) -> Result<kube::Client, String> {
        let server: http::Uri = self
            .server()
            .parse()
            .map_err(|_| "its server is not a URL".to_owned())?;
        let proxy = match &self.cluster.proxy_url {
            Some(named) => Matcher::builder()
                .all(named.as_str())
                .build()
                .intercept(&server),
            None => from_environment(&server, |name| std::env::var(name).ok()),
        };
        match proxy {
            Some(_) => reach.check_resolved(&server).await?,
            None => reach.check(&server)?,
        }
        let user = match &self.user.exec {
            Some(exec) => {
                plugin::user(exec, &self.cluster, self.extension.as_ref(), &self.user).await?
            }
            None => (*self.user).clone(),
        };
        let mut config = kube::Config::new(server);
        let name = self.cluster.tls_server_name.clone();
        let name = name.map(ServerName::try_from).transpose();
        let tls = Tls {
            config: tls::client_config(self.trust()?, &user)?,
            name: name.map_err(|_| "its tls-server-name is not the name of a server".to_owned())?,
            idle,
        };
        config.auth_info = user;
        through(&config, tls, proxy, reach).map_err(|error| match error {
            kube::Error::Auth(_) => "its credentials cannot be sent".to_owned(),
            kube::Error::RustlsTls(_) => "the TLS of its proxy cannot be used".to_owned(),
            _ => "no client can be made of its kubeconfig".to_owned(),
        })
    }
}

/// A client over the proxy, if there is one. The proxy is the operator's choice, so `reach` does not bind it.
fn through(
    config: &kube::Config,
    tls: Tls,
    proxy: Option<Intercept>,
    reach: Reach,
) -> Result<kube::Client, kube::Error> {
    let Some(proxy) = proxy else {
        return connect(config, tls, tcp(reach));
    };
    let tcp = tcp(Reach::Everywhere);
    match proxy.uri().scheme_str() {
        Some("socks5" | "socks5h") => {
            let socks = SocksV5::new(proxy.uri().clone(), tcp);
            match proxy.raw_auth() {
                Some((user, password)) => connect(
                    config,
                    tls,
                    socks.with_auth(user.to_owned(), password.to_owned()),
                ),
                None => connect(config, tls, socks),
            }
        }
        Some("https") => {
            let to_proxy = kube::Config::new(proxy.uri().clone())
                .rustls_https_connector_with_connector(tcp)?;
            connect(config, tls, tunnel(&proxy, to_proxy))
        }
        _ => connect(config, tls, tunnel(&proxy, tcp)),
    }
}

fn tunnel<C>(proxy: &Intercept, inner: C) -> Tunnel<C> {
    let tunnel = Tunnel::new(proxy.uri().clone(), inner);
    match proxy.basic_auth() {
        Some(credentials) => tunnel.with_auth(credentials.clone()),
        None => tunnel,
    }
}

fn tcp(reach: Reach) -> HttpConnector<Resolver> {
    let mut tcp = HttpConnector::new_with_resolver(Resolver(reach));
    tcp.enforce_http(false);
    tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
    tcp.set_nodelay(true);
    tcp
}

fn connect<C>(config: &kube::Config, tls: Tls, connector: C) -> Result<kube::Client, kube::Error>
where
    C: tower::Service<http::Uri> + Clone + Send + Sync + 'static,
    C::Response: hyper::rt::Read
        + hyper::rt::Write
        + hyper_util::client::legacy::connect::Connection
        + Send
        + Unpin
        + 'static,
    C::Future: Send + 'static,
    C::Error: Into<BoxError>,
    hyper_rustls::HttpsConnector<C>: Connect,
{
    let idle = tls.idle;
    let mut builder = hyper_rustls::HttpsConnectorBuilder::new()
        .with_tls_config(tls.config)
        .https_or_http();
    if let Some(name) = tls.name {
        builder = builder.with_server_name_resolver(FixedServerNameResolver::new(name));
    }
    let tls = builder.enable_http1().wrap_connector(connector);
    let http = hyper_util::client::legacy::Client::builder(TokioExecutor::new())
        .pool_max_idle_per_host(idle)
        .pool_idle_timeout(IDLE_TIMEOUT)
        .pool_timer(hyper_util::rt::TokioTimer::new())
        .http1_max_buf_size(MAX_HEAD)
        .build::<_, kube::client::Body>(tls)
        .map_err(BoxError::from);
    let impersonating = config.extra_headers_layer()?.layer(http);
    let authenticated = tower::util::option_layer(config.auth_layer()?).layer(impersonating);
    let service = config.base_uri_layer().layer(authenticated);
    Ok(kube::Client::new(service, config.default_namespace.clone()))
}

/// The proxy that the environment has for a server, by the rules that kubectl has from Go: `ALL_PROXY` is none of its
/// variables, this machine's loopback is never proxied, nor what `NO_PROXY` lists.
fn from_environment(
    server: &http::Uri,
    variable: impl Fn(&str) -> Option<String>,
) -> Option<Intercept> {
    let host = server.host().unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    if host == "localhost" || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback()) {
        return None;
    }
    let either = |name: &str| {
        [name.to_owned(), name.to_lowercase()]
            .iter()
            .filter_map(|name| variable(name))
            .find(|value| !value.is_empty())
            .unwrap_or_default()
    };
    Matcher::builder()
        .http(either("HTTP_PROXY"))
        .https(either("HTTPS_PROXY"))
        .no(either("NO_PROXY"))
        .build()
        .intercept(server)
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
                "ALL_PROXY" => Some("http://other:1".to_owned()),
                "NO_PROXY" => Some(no_proxy.to_owned()),
                _ => None,
            };
            let uri = server.parse().expect("a URL");
            let proxy = from_environment(&uri, variable);
            let host = proxy.as_ref().and_then(|proxy| proxy.uri().host());
            assert_eq!(host, needed.then_some("proxy"), "{server} {no_proxy}");
        }
        let uri = "https://10.1.2.3".parse().expect("a URL");
        assert!(from_environment(&uri, |_| None).is_none());
    }

    /// What a proxy is asked first, for each kind of it.
    #[tokio::test]
    async fn a_named_proxy_is_asked_for_the_server() {
        use tokio::io::AsyncReadExt as _;
        for (scheme, greeting) in [
            ("http", &b"CONNECT api.example:6443"[..]),
            // Version 5, one method, no authentication.
            ("socks5", &[5, 1, 0][..]),
        ] {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
                .await
                .expect("loopback");
            let port = listener.local_addr().expect("bound").port();
            let text = format!(
                "clusters: [{{name: c, cluster: {{server: 'https://api.example:6443', proxy-url: '{scheme}://127.0.0.1:{port}'}}}}]\n\
                 contexts: [{{name: x, context: {{cluster: c}}}}]\n"
            );
            let file = super::super::parse(&text, "f.yaml", None).expect("it is good");
            let client = file
                .select("x")
                .expect("it is good")
                .client(8)
                .await
                .expect("it is good");
            let request = http::Request::get("/version")
                .body(Vec::new())
                .expect("good");
            let asked = tokio::spawn(async move { client.request_text(request).await });
            let (mut stream, _) = listener.accept().await.expect("a client comes");
            let mut said = vec![0; greeting.len()];
            stream.read_exact(&mut said).await.expect("it speaks");
            assert_eq!(said, greeting, "{scheme}");
            drop(stream);
            assert!(asked.await.expect("no panic").is_err());
        }
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
            .client(8)
            .await
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
