//! Answers on the plain port: `OK` to anything, an identity to those who ask for one.
//!
//! It faces the whole network, so it gives every peer little: one request a connection, a head of a few KiB within a
//! few seconds, and a share of a bounded number of connections.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::task::{JoinHandle, JoinSet};

use super::Config;
use super::guests::Lobby;
use crate::wire::{Identity, proof, unhex};

/// For the whole head of a request, and for taking the answer.
const PATIENCE: Duration = Duration::from_secs(3);
/// The longest head, bytes.
const LONGEST: usize = 8 * 1024;
/// Connections at once.
const CONNECTIONS: usize = 512;
/// The longest nonce, bytes.
const NONCE: usize = 64;

/// A responder at work. Dropping it closes its listener and ends its connections.
#[derive(Debug)]
pub(super) struct Answering(JoinHandle<()>);

impl Answering {
    /// Answers on the thread of all responders of this process.
    pub(super) fn start(listener: std::net::TcpListener, config: Arc<Config>) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let serving = async move {
            // It belongs to the runtime that it is registered in.
            match TcpListener::from_std(listener) {
                Ok(listener) => serve(listener, config).await,
                Err(error) => tracing::error!(%error, "the responder cannot listen"),
            }
        };
        Ok(Self(thread()?.spawn(serving)))
    }

    /// Waits until it has closed everything.
    pub(super) async fn stop(mut self) {
        self.0.abort();
        let _ = (&mut self.0).await;
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The runtime, on one thread of its own, of all responders of this process; it lives as long as the process.
///
/// Whoever probes a responder takes its silence for the network's. On a runtime that also shakes hands for TLS, writes
/// tables of megabytes and runs the probes of hundreds of floaters, an answer would wait for all of that. Here it waits for
/// other answers only, which take microseconds.
fn thread() -> io::Result<Handle> {
    static THREAD: Mutex<Option<Handle>> = Mutex::new(None);
    let mut thread = THREAD.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(handle) = &*thread {
        return Ok(handle.clone());
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()?;
    let handle = runtime.handle().clone();
    std::thread::Builder::new()
        .name("responder".to_owned())
        .spawn(move || runtime.block_on(std::future::pending::<()>()))?;
    *thread = Some(handle.clone());
    Ok(handle)
}

async fn serve(listener: TcpListener, config: Arc<Config>) {
    let lobby = Lobby::new(CONNECTIONS);
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, peer)) => {
                let config = Arc::clone(&config);
                let (place, gone) = lobby.admit(peer.ip());
                connections.spawn(async move {
                    tokio::select! {
                        _ = gone => {}
                        _ = tokio::time::timeout(2 * PATIENCE, connection(stream, &config)) => {}
                    }
                    drop(place);
                });
            }
            Err(error) => {
                tracing::debug!(%error, "accept");
                // Descriptors run out and come back.
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, config: &Config) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let at = stream.local_addr()?;
    answer(stream, config, at).await
}

/// Answers what comes over a connection that came in at an address.
pub(super) async fn answer<S>(mut stream: S, config: &Config, at: SocketAddr) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let response = match tokio::time::timeout(PATIENCE, head(&mut stream)).await {
        Ok(Ok(head)) => respond(&head, config, at),
        Ok(Err(error)) => return Err(error),
        Err(_) => response("408 Request Timeout", "text/plain", "too slow\n"),
    };
    stream.write_all(response.as_bytes()).await?;
    stream.shutdown().await?;
    // Closing over unread bytes resets the connection and may take the answer along.
    let mut rest = [0; 1024];
    let mut left = LONGEST;
    while left > 0 {
        match stream.read(&mut rest).await? {
            0 => break,
            length => left = left.saturating_sub(length),
        }
    }
    Ok(())
}

/// Reads until the empty line, the end, or too much.
async fn head(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    let mut part = [0; 1024];
    loop {
        let length = stream.read(&mut part).await?;
        // An empty line may stand across two parts.
        let from = head.len().saturating_sub(3);
        head.extend_from_slice(&part[..length]);
        if length == 0
            || head.len() > LONGEST
            || head[from..].windows(4).any(|four| four == b"\r\n\r\n")
        {
            return Ok(head);
        }
    }
}

/// The response to the head of a request that came in at an address.
pub(super) fn respond(head: &[u8], config: &Config, at: SocketAddr) -> String {
    let bad = |why| response("400 Bad Request", "text/plain", why);
    if head.len() > LONGEST {
        return response(
            "431 Request Header Fields Too Large",
            "text/plain",
            "too long\n",
        );
    }
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let Ok(line) = std::str::from_utf8(line) else {
        return bad("not HTTP\n");
    };
    let mut words = line.split(' ');
    let (Some(method), Some(target), Some(version)) = (words.next(), words.next(), words.next())
    else {
        return bad("not HTTP\n");
    };
    if !version.starts_with("HTTP/1.") {
        return bad("not HTTP/1\n");
    }
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let response = if path == "/v2/identity" {
        let nonce = query
            .split('&')
            .find_map(|pair| pair.strip_prefix("nonce="))
            .filter(|nonce| unhex(nonce).is_some_and(|nonce| (1..=NONCE).contains(&nonce.len())));
        match nonce {
            Some(nonce) => identity(nonce, config, at),
            None => bad("nonce: hexadecimal, 1 to 64 bytes\n"),
        }
    } else {
        response("200 OK", "text/plain", "OK")
    };
    if method == "HEAD" {
        let end = response
            .find("\r\n\r\n")
            .map_or(response.len(), |end| end + 4);
        response[..end].to_owned()
    } else {
        response
    }
}

fn identity(nonce: &str, config: &Config, at: SocketAddr) -> String {
    let identity = Identity {
        cluster: config.cluster.clone(),
        node: config.node.clone(),
        proof: proof(&config.run_key, nonce, &config.cluster, &config.node, at),
    };
    match serde_json::to_string(&identity) {
        Ok(body) => response("200 OK", "application/json", &body),
        Err(error) => response(
            "500 Internal Server Error",
            "text/plain",
            &error.to_string(),
        ),
    }
}

fn response(status: &str, kind: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::probe::tcp;
    use crate::wire::{Expect, Layer};

    fn config() -> Config {
        Config {
            cluster: "uid".to_owned(),
            node: "n1".to_owned(),
            layer: Layer::Pod,
            run: "r".to_owned(),
            run_key: b"key".to_vec(),
            port: 0,
            api_port: 0,
            bind: None,
            expires: None,
        }
    }

    fn at() -> SocketAddr {
        SocketAddr::from(([10, 0, 0, 1], 8889))
    }

    fn status(head: &str) -> String {
        respond(head.as_bytes(), &config(), at())[9..12].to_owned()
    }

    #[test]
    fn any_path_answers_ok() {
        for path in ["/", "/healthz", "/v2/identit", "/?nonce=00", "*"] {
            let response = respond(
                format!("GET {path} HTTP/1.1\r\n\r\n").as_bytes(),
                &config(),
                at(),
            );
            assert!(
                response.starts_with("HTTP/1.1 200 OK\r\n") && response.ends_with("\r\n\r\nOK"),
                "{response}"
            );
        }
        let response = respond(b"HEAD / HTTP/1.0\r\n\r\n", &config(), at());
        assert!(response.contains("Content-Length: 2") && response.ends_with("\r\n\r\n"));
    }

    #[test]
    fn the_identity_is_what_a_prober_expects() {
        let response = respond(tcp::request("00ff").as_bytes(), &config(), at());
        assert!(tcp::is_whole(response.as_bytes()));
        let expect = |node: &str| Expect {
            nonce: "00ff".to_owned(),
            proof: proof(b"key", "00ff", "uid", node, at()),
        };
        assert_eq!(tcp::judge(response.as_bytes(), &expect("n1")), Ok(()));
        assert!(tcp::judge(response.as_bytes(), &expect("n2")).is_err());
    }

    #[test]
    fn what_is_no_request_is_refused() {
        let long = "0".repeat(2 * NONCE + 2);
        for head in [
            "",
            "GET\r\n",
            "GET / SPDY/3\r\n",
            "GET /v2/identity HTTP/1.1\r\n",
            "GET /v2/identity?nonce= HTTP/1.1\r\n",
            "GET /v2/identity?nonce=0 HTTP/1.1\r\n",
            "GET /v2/identity?nonce=zz HTTP/1.1\r\n",
            &format!("GET /v2/identity?nonce={long} HTTP/1.1\r\n"),
        ] {
            assert_eq!(status(head), "400", "{head}");
        }
        assert_eq!(status(&"x".repeat(LONGEST + 1)), "431");
    }

    proptest! {
        #[test]
        fn any_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), text in "(GET|HEAD|é) /[ -~]{0,40} HTTP/1.1\r\n.{0,40}") {
            prop_assert!(respond(&bytes, &config(), at()).starts_with("HTTP/1.1 "));
            prop_assert!(respond(text.as_bytes(), &config(), at()).starts_with("HTTP/1.1 "));
        }
    }
}
