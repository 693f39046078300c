//! A client of one context: connections that it shares with others behind the same authority ([`pool`](super::pool)), a time limit for making one, no retry and no log of its own.
//!
//! `kube`'s ready-made stack keeps as many idle connections as were ever used at once, which a fleet of thousands cannot
//! afford, retries fifteen times what here is a value at once, and resolves names without asking who may be connected to.

use std::net::IpAddr;
use std::sync::OnceLock;
use std::time::Duration;

use http_body_util::BodyExt as _;
use hyper_rustls::FixedServerNameResolver;
use hyper_util::client::legacy::connect::proxy::{SocksV5, Tunnel};
use hyper_util::client::legacy::connect::{Connect, HttpConnector};
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use hyper_util::rt::TokioExecutor;
use kube::client::ConfigExt as _;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tower::util::BoxCloneSyncService;
use tower::{BoxError, Layer as _, ServiceExt as _};

use super::pool::{Http, Key, Pool};
use super::reach::{Reach, Resolver};
use super::{Entry, plugin, tls};

/// How long a TCP connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an idle connection is kept.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// The most bytes of the head of an answer.
const MAX_HEAD: u32 = 64 << 10;
/// After so much silence a connection that carries requests is asked whether it lives, and after as much again given up: HTTP/2 shares it
/// between many, who would all wait for what never comes.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// The TLS side of a client, the name that its server is asked by where that is not the URL's, and its connections.
#[derive(Clone)]
struct Tls {
    config: ClientConfig,
    name: Option<ServerName<'static>>,
    /// How many unused connections are kept.
    idle: usize,
}

impl Entry {
    /// A client for it, whose authority keeps at most `idle` unused connections; its exec plugin is run once for that.
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
        let trust = self.trust()?;
        let key = self.key(&server, &trust, &user, proxy.as_ref(), &reach);
        let name = self.cluster.tls_server_name.clone();
        let name = name.map(ServerName::try_from).transpose();
        let name = name.map_err(|_| "its tls-server-name is not the name of a server".to_owned());
        let named = user.clone();
        let tls = OnceLock::new();
        let pool = Pool::of(key, move || {
            let made = tls.get_or_init(|| {
                Ok(Tls {
                    config: tls::client_config(trust.clone(), &named)?,
                    name: name.clone()?,
                    idle,
                })
            });
            let tls = made.as_ref().map_err(String::clone)?;
            through(tls.clone(), proxy.clone(), reach.clone())
                .map_err(|_| "the TLS of its proxy cannot be used".to_owned())
        })?;
        let mut config = kube::Config::new(server);
        config.auth_info = user;
        authenticated(&config, pool).map_err(|error| match error {
            kube::Error::Auth(_) => "its credentials cannot be sent".to_owned(),
            _ => "no client can be made of its kubeconfig".to_owned(),
        })
    }

    /// With whom it can share connections.
    fn key(
        &self,
        server: &http::Uri,
        trust: &tls::Trust,
        user: &kube::config::AuthInfo,
        proxy: Option<&Intercept>,
        reach: &Reach,
    ) -> Key {
        use secrecy::ExposeSecret as _;
        let scheme = server.scheme_str().unwrap_or("http");
        let port = server.port_u16().unwrap_or(match scheme {
            "https" => 443,
            _ => 80,
        });
        let host = server.host().unwrap_or_default().to_ascii_lowercase();
        let certificate = user.client_certificate_data.clone();
        let private = user.client_key_data.as_ref();
        Key {
            authority: format!("{scheme}://{host}:{port}"),
            proxy: proxy.map(|proxy| {
                let [user, password] = proxy.raw_auth().map_or(["", ""], |(u, p)| [u, p]);
                let basic = proxy.basic_auth().map(http::HeaderValue::as_bytes);
                format!("{} {user} {password} {basic:?}", proxy.uri())
            }),
            trust: trust.clone(),
            name: self.cluster.tls_server_name.clone(),
            identity: certificate.zip(private.map(|key| key.expose_secret().to_owned())),
            reach: reach.clone(),
        }
    }
}

/// A client whose requests carry the user's credentials.
fn authenticated(config: &kube::Config, pool: Pool) -> Result<kube::Client, kube::Error> {
    let impersonating = config.extra_headers_layer()?.layer(pool);
    let authenticated = tower::util::option_layer(config.auth_layer()?).layer(impersonating);
    let service = config.base_uri_layer().layer(authenticated);
    Ok(kube::Client::new(service, config.default_namespace.clone()))
}

/// Connections over the proxy, if there is one. The proxy is the operator's choice, so `reach` does not bind it.
fn through(tls: Tls, proxy: Option<Intercept>, reach: Reach) -> Result<Http, kube::Error> {
    let Some(proxy) = proxy else {
        return Ok(connect(tls, tcp(reach)));
    };
    let tcp = tcp(Reach::Everywhere);
    Ok(match proxy.uri().scheme_str() {
        Some("socks5" | "socks5h") => {
            let socks = SocksV5::new(proxy.uri().clone(), tcp);
            match proxy.raw_auth() {
                Some((user, password)) => {
                    connect(tls, socks.with_auth(user.to_owned(), password.to_owned()))
                }
                None => connect(tls, socks),
            }
        }
        Some("https") => {
            let to_proxy = kube::Config::new(proxy.uri().clone())
                .rustls_https_connector_with_connector(tcp)?;
            connect(tls, tunnel(&proxy, to_proxy))
        }
        _ => connect(tls, tunnel(&proxy, tcp)),
    })
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

fn connect<C>(tls: Tls, connector: C) -> Http
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
    // Through HTTP/1.1 a Go server breaks off, at random, answers that it passes on from a pod while it still reads the request.
    let tls = builder.enable_all_versions().wrap_connector(connector);
    let http = hyper_util::client::legacy::Client::builder(TokioExecutor::new())
        .timer(hyper_util::rt::TokioTimer::new())
        .http2_adaptive_window(true)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .http2_keep_alive_timeout(KEEP_ALIVE)
        .http2_max_header_list_size(MAX_HEAD)
        .pool_max_idle_per_host(idle)
        .pool_idle_timeout(IDLE_TIMEOUT)
        .pool_timer(hyper_util::rt::TokioTimer::new())
        .http1_max_buf_size(MAX_HEAD as usize)
        .build::<_, kube::client::Body>(tls)
        .map_response(|response| {
            response.map(|body: hyper::body::Incoming| body.map_err(BoxError::from).boxed_unsync())
        })
        .map_err(BoxError::from);
    BoxCloneSyncService::new(http)
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

    /// Which of a file's contexts share connections: `a` has a cluster and a user of the first, and one change in each.
    #[test]
    fn connections_are_shared_by_whoever_connects_in_the_same_way() {
        let key = |cluster: &str, user: &str| {
            let text = format!(
                "clusters: [{{name: c, cluster: {{{cluster}}}}}]\n\
                 users: [{{name: u, user: {{{user}}}}}]\n\
                 contexts: [{{name: x, context: {{cluster: c, user: u}}}}]\n"
            );
            let file = super::super::parse(&text, "f.yaml", None).expect("it is good");
            let entry = file.select("x").expect("it is good").entry;
            let server: http::Uri = entry.server().parse().expect("a URL");
            let proxy = entry.cluster.proxy_url.as_ref().and_then(|named| {
                let matcher = Matcher::builder().all(named.as_str()).build();
                matcher.intercept(&server)
            });
            let trust = entry.trust().expect("it is good");
            let reach = Reach::Everywhere;
            entry.key(&server, &trust, &entry.user, proxy.as_ref(), &reach)
        };
        let plain = "server: 'https://fleet.example/clusters/c1', insecure-skip-tls-verify: true";
        let first = key(plain, "token: a");
        for (cluster, user) in [
            (plain, "token: b"),
            (plain, "username: u, password: p, as: root"),
            (
                "server: 'https://FLEET.example:443/clusters/c2', insecure-skip-tls-verify: true",
                "token: c",
            ),
        ] {
            assert!(key(cluster, user) == first, "{cluster} {user}");
        }
        for cluster in [
            "server: 'https://fleet.example:444/clusters/c1', insecure-skip-tls-verify: true",
            "server: 'http://fleet.example:443/clusters/c1', insecure-skip-tls-verify: true",
            "server: 'https://other.example/clusters/c1', insecure-skip-tls-verify: true",
            "server: 'https://fleet.example/clusters/c1'",
            "server: 'https://fleet.example/clusters/c1', insecure-skip-tls-verify: true, tls-server-name: x.example",
            "server: 'https://fleet.example/clusters/c1', insecure-skip-tls-verify: true, proxy-url: 'http://proxy:1'",
            "server: 'https://fleet.example/clusters/c1', insecure-skip-tls-verify: true, proxy-url: 'http://u:p@proxy:1'",
        ] {
            assert!(key(cluster, "token: a") != first, "{cluster}");
        }
        let certificate = || {
            use base64::Engine as _;
            let standard = base64::engine::general_purpose::STANDARD;
            let made = rcgen::generate_simple_self_signed(vec!["u".to_owned()]).expect("made");
            format!(
                "client-certificate-data: {}, client-key-data: {}",
                standard.encode(made.cert.pem()),
                standard.encode(made.signing_key.serialize_pem())
            )
        };
        let (one, other) = (key(plain, &certificate()), key(plain, &certificate()));
        assert!(one != first && one != other);
    }

    /// Many clusters behind one address are asked over one connection, as long as they are asked one after the other.
    #[tokio::test]
    async fn clusters_behind_one_proxy_share_a_connection() {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("loopback");
        let port = listener.local_addr().expect("bound").port();
        let names = || (0..50).map(|number| format!("c{number}"));
        let list = |entry: &dyn Fn(&str) -> String| {
            names()
                .map(|name| entry(&name))
                .collect::<Vec<_>>()
                .join(", ")
        };
        let text = format!(
            "clusters: [{}]\nusers: [{}]\ncontexts: [{}]\n",
            list(&|c| format!(
                "{{name: {c}, cluster: {{server: 'http://127.0.0.1:{port}/clusters/{c}'}}}}"
            )),
            list(&|c| format!("{{name: {c}, user: {{token: of-{c}}}}}")),
            list(&|c| format!("{{name: {c}, context: {{cluster: {c}, user: {c}}}}}")),
        );
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("a client comes");
            let mut heads = Vec::new();
            for _ in names() {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(stream.read_u8().await.expect("it asks on"));
                }
                heads.push(String::from_utf8(head).expect("text"));
                let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";
                stream.write_all(answer).await.expect("it listens");
            }
            heads
        });
        let file = super::super::parse(&text, "f.yaml", None).expect("it is good");
        let mut clients = Vec::new();
        for name in names() {
            let selected = file.select(&name).expect("it is good");
            clients.push(selected.client(8).await.expect("it is good"));
        }
        for client in &clients {
            let request = http::Request::get("/version").body(Vec::new());
            client
                .request_text(request.expect("good"))
                .await
                .expect("it answers");
        }
        for (head, name) in server.await.expect("no panic").iter().zip(names()) {
            let line = format!("GET /clusters/{name}/version HTTP/1.1");
            assert!(head.starts_with(&line), "{head}");
            let token = format!("authorization: bearer of-{name}\r\n");
            assert!(head.to_lowercase().contains(&token), "{head}");
        }
    }
}
