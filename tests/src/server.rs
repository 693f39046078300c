//! A small HTTP/1.1 server on loopback that does exactly what it is told, also what no proper server does.
//!
//! Every connection has a thread that ends with the connection, so a server that never answers costs nothing but that.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};

/// The longest request head and body that are read.
const LONGEST: usize = 64 << 20;

/// What a server proves itself with.
#[derive(Clone)]
pub struct Certificate {
    /// The certificate of the authority, PEM.
    pub authority: String,
    /// The server's side of TLS.
    pub config: Arc<ServerConfig>,
}

impl Certificate {
    /// One for loopback, by an authority of its own; the same for the whole process.
    pub fn of_loopback() -> &'static Self {
        static ONE: OnceLock<Certificate> = OnceLock::new();
        ONE.get_or_init(|| {
            let authority_key = KeyPair::generate().unwrap();
            let mut authority = CertificateParams::default();
            authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
            let pem = authority.self_signed(&authority_key).unwrap().pem();
            let issuer = Issuer::new(authority, authority_key);
            let key = KeyPair::generate().unwrap();
            let leaf = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
            let leaf = leaf.signed_by(&key, &issuer).unwrap();
            Self::new(pem, vec![leaf.der().clone()], &key)
        })
    }

    /// A chain, leaf first, and its key.
    #[must_use]
    pub fn new(authority: String, chain: Vec<CertificateDer<'static>>, key: &KeyPair) -> Self {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let private = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, private)
            .unwrap();
        Self {
            authority,
            config: Arc::new(config),
        }
    }
}

/// What was asked.
#[derive(Debug, Clone)]
pub struct Request {
    /// `GET`, …
    pub method: String,
    /// Without the query.
    pub path: String,
    /// Without the question mark; empty where there is none.
    pub query: String,
    /// Names in lower case.
    pub headers: BTreeMap<String, String>,
    /// As it came.
    pub body: Vec<u8>,
}

impl Request {
    /// Path and query as they came.
    #[must_use]
    pub fn target(&self) -> String {
        if self.query.is_empty() {
            return self.path.clone();
        }
        format!("{}?{}", self.path, self.query)
    }

    /// Whether it asks for a stream of changes.
    #[must_use]
    pub fn is_watch(&self) -> bool {
        self.query
            .split('&')
            .any(|pair| matches!(pair, "watch=1" | "watch=true"))
    }

    /// The body as JSON; null where it is none.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

/// Bytes in both directions, encrypted or not.
pub(crate) trait Both: Read + Write + Send {}
impl<T: Read + Write + Send> Both for T {}

/// One connection of a client.
pub struct Conn {
    stream: Box<dyn Both>,
    /// Bytes that were read beyond the last request.
    ahead: Vec<u8>,
}

impl Conn {
    pub(crate) fn over(stream: Box<dyn Both>) -> Self {
        Self {
            stream,
            ahead: Vec::new(),
        }
    }

    /// The next request; none where the client has gone.
    pub fn request(&mut self) -> io::Result<Option<Request>> {
        let Some((first, headers)) = self.message_head()? else {
            return Ok(None);
        };
        let mut words = first.split(' ');
        let (method, target) = (words.next().unwrap_or(""), words.next().unwrap_or("/"));
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let mut request = Request {
            method: method.to_owned(),
            path: path.to_owned(),
            query: query.to_owned(),
            headers,
            body: Vec::new(),
        };
        let is_chunked = request
            .headers
            .get("transfer-encoding")
            .is_some_and(|coding| coding.contains("chunked"));
        if is_chunked {
            while let Some(piece) = self.read_chunk()? {
                request.body.extend(piece);
            }
        } else {
            let length = request.headers.get("content-length");
            let length = length.and_then(|text| text.parse().ok()).unwrap_or(0);
            request.body = self.exactly(length)?;
        }
        Ok(Some(request))
    }

    /// The first line of a message and its headers; none where the peer has gone.
    fn message_head(&mut self) -> io::Result<Option<(String, BTreeMap<String, String>)>> {
        let end = loop {
            if let Some(at) = find(&self.ahead, b"\r\n\r\n") {
                break at + 4;
            }
            if self.ahead.len() > LONGEST || self.more()? == 0 {
                return Ok(None);
            }
        };
        let head: Vec<u8> = self.ahead.drain(..end).collect();
        let head = String::from_utf8_lossy(&head).into_owned();
        let mut lines = head.split("\r\n");
        let first = lines.next().unwrap_or_default().to_owned();
        let headers = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.trim().to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        Ok(Some((first, headers)))
    }

    /// The status and the headers of an answer, where this is a client's connection.
    pub(crate) fn answer_head(&mut self) -> io::Result<(u16, BTreeMap<String, String>)> {
        let (first, headers) = self.message_head()?.ok_or(io::ErrorKind::UnexpectedEof)?;
        let status = first.split(' ').nth(1).and_then(|word| word.parse().ok());
        let status = status.ok_or_else(|| io::Error::other(first))?;
        Ok((status, headers))
    }

    /// One chunk of a chunked body; none at its end.
    pub fn read_chunk(&mut self) -> io::Result<Option<Vec<u8>>> {
        let end = loop {
            if let Some(at) = find(&self.ahead, b"\r\n") {
                break at;
            }
            if self.more()? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        };
        let line: Vec<u8> = self.ahead.drain(..end + 2).collect();
        let text = String::from_utf8_lossy(&line[..end]).into_owned();
        let length = text.split(';').next().unwrap_or_default().trim();
        let length = usize::from_str_radix(length, 16).map_err(io::Error::other)?;
        let piece = self.exactly(length)?;
        self.exactly(2)?;
        Ok((length > 0).then_some(piece))
    }

    /// This many bytes, or an error where they do not come.
    pub fn exactly(&mut self, length: usize) -> io::Result<Vec<u8>> {
        if length > LONGEST {
            return Err(io::Error::other("too long a body"));
        }
        while self.ahead.len() < length {
            if self.more()? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(self.ahead.drain(..length).collect())
    }

    /// Whatever has come, at least a byte; empty where the peer has gone.
    pub fn some(&mut self) -> io::Result<Vec<u8>> {
        if self.ahead.is_empty() {
            self.more()?;
        }
        Ok(std::mem::take(&mut self.ahead))
    }

    fn more(&mut self) -> io::Result<usize> {
        let mut buffer = [0; 16 << 10];
        let read = self.stream.read(&mut buffer)?;
        self.ahead.extend_from_slice(&buffer[..read]);
        Ok(read)
    }

    /// Bytes as they are.
    pub fn raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)?;
        self.stream.flush()
    }

    /// The head of an answer with these further lines of headers.
    pub fn head(&mut self, status: u16, headers: &[&str]) -> io::Result<()> {
        let mut text = format!("HTTP/1.1 {status} X\r\n");
        for header in headers {
            text.push_str(header);
            text.push_str("\r\n");
        }
        text.push_str("\r\n");
        self.raw(text.as_bytes())
    }

    /// The head of an answer that comes in chunks.
    pub fn chunked(&mut self) -> io::Result<()> {
        self.head(
            200,
            &[
                "Content-Type: application/json",
                "Transfer-Encoding: chunked",
            ],
        )
    }

    /// One chunk.
    pub fn chunk(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut framed = format!("{:x}\r\n", bytes.len()).into_bytes();
        framed.extend_from_slice(bytes);
        framed.extend_from_slice(b"\r\n");
        self.raw(&framed)
    }

    /// The last chunk.
    pub fn end(&mut self) -> io::Result<()> {
        self.raw(b"0\r\n\r\n")
    }

    /// A whole answer.
    pub fn bytes(&mut self, status: u16, body: &[u8]) -> io::Result<()> {
        self.typed(status, "application/json", body)
    }

    /// A whole answer of a content type.
    pub fn typed(&mut self, status: u16, content_type: &str, body: &[u8]) -> io::Result<()> {
        let kind = format!("Content-Type: {content_type}");
        let length = format!("Content-Length: {}", body.len());
        self.head(status, &[&kind, &length])?;
        self.raw(body)
    }

    /// A whole answer of JSON.
    pub fn json(&mut self, value: &Value) -> io::Result<()> {
        self.bytes(200, value.to_string().as_bytes())
    }

    /// A refusal as API servers word them.
    pub fn status(&mut self, code: u16, message: &str) -> io::Result<()> {
        let body = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message,
            "reason": "Unknown", "code": code});
        self.bytes(code, body.to_string().as_bytes())
    }

    /// Says nothing more, until the client goes.
    pub fn idle(&mut self) -> io::Result<()> {
        while self.more()? > 0 {
            self.ahead.clear();
        }
        Ok(())
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack
        .windows(needle.len())
        .position(|window| window == needle)
}

/// A server that listens until it is dropped.
pub struct Server {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
}

impl Server {
    /// Serves every connection with a call of its own, on a free port.
    pub fn start<F>(certificate: Option<&Certificate>, serve: F) -> Self
    where
        F: Fn(&mut Conn) -> io::Result<()> + Send + Sync + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let config = certificate.map(|certificate| Arc::clone(&certificate.config));
        let serve = Arc::new(serve);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stopped.load(Ordering::Acquire) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                let (serve, config) = (Arc::clone(&serve), config.clone());
                std::thread::spawn(move || {
                    // A client that goes away is not this server's failure.
                    let _ = connection(stream, config, |conn| serve(conn));
                });
            }
        });
        Self { address, stop }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        // Wakes the listener, which then sees that it is to stop.
        let _ = TcpStream::connect(self.address);
    }
}

fn connection(
    stream: TcpStream,
    config: Option<Arc<ServerConfig>>,
    serve: impl Fn(&mut Conn) -> io::Result<()>,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let stream: Box<dyn Both> = match config {
        None => Box::new(stream),
        Some(config) => {
            let session = rustls::ServerConnection::new(config).map_err(io::Error::other)?;
            Box::new(rustls::StreamOwned::new(session, stream))
        }
    };
    let mut conn = Conn::over(stream);
    serve(&mut conn)?;
    conn.stream.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_follow_each_other_on_one_connection() {
        let server = Server::start(None, |conn| {
            while let Some(request) = conn.request()? {
                conn.bytes(
                    200,
                    format!("{} {}", request.target(), request.body.len()).as_bytes(),
                )?;
            }
            Ok(())
        });
        let mut stream = TcpStream::connect(server.address()).unwrap();
        stream
            .write_all(
                b"GET /a?b=1 HTTP/1.1\r\n\r\nPOST /c HTTP/1.1\r\nContent-Length: 3\r\n\r\nxyz",
            )
            .unwrap();
        stream
            .write_all(
                b"PUT /d HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n",
            )
            .unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let bodies: Vec<&str> = text
            .lines()
            .filter(|line| line.starts_with('/'))
            .map(|line| line.split("HTTP").next().unwrap())
            .collect();
        assert_eq!(bodies, ["/a?b=1 0", "/c 3", "/d 3"]);
    }
}
