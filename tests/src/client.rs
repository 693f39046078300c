//! A small client of a lab's API servers, so that tests need no other program to look into a cluster.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeMap;
use std::io;
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::{Value, json};

use crate::server::Conn;

/// A cluster's API server and what opens it.
#[derive(Clone)]
pub struct Endpoint {
    /// `127.0.0.1:PORT`.
    pub address: String,
    /// What the paths of the cluster begin with: empty, or `/clusters/NAME`.
    pub base: String,
    /// The authority's certificate, PEM in base64 as kubeconfigs hold it.
    pub authority: String,
    /// The bearer token.
    pub token: String,
    config: Arc<ClientConfig>,
}

/// An answer, its body not yet read.
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// Names in lower case.
    pub headers: BTreeMap<String, String>,
    /// What the body comes from.
    pub conn: Conn,
}

impl Endpoint {
    /// The one that a context of a lab's kubeconfig names.
    #[must_use]
    pub fn of(kubeconfig: impl AsRef<Path>, context: &str) -> Self {
        let text = std::fs::read_to_string(kubeconfig).unwrap();
        let document: Value = serde_saphyr::from_str(&text).unwrap();
        let named = |list: &str, name: &str| {
            let entries = document[list].as_array().unwrap();
            let entry = entries.iter().find(|entry| entry["name"] == name);
            entry
                .unwrap_or_else(|| panic!("no {name} in {list}"))
                .clone()
        };
        let context = named("contexts", context)["context"].clone();
        let cluster = named("clusters", context["cluster"].as_str().unwrap())["cluster"].clone();
        let user = named("users", context["user"].as_str().unwrap())["user"].clone();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let address = text(&cluster["server"]);
        Self::at(
            address.trim_start_matches("https://").to_owned(),
            text(&cluster["certificate-authority-data"]),
            text(&user["token"]),
        )
    }

    /// An API server by its address, its authority (PEM in base64) and a token.
    #[must_use]
    pub fn at(address: String, authority: String, token: String) -> Self {
        let pem = base64(&authority);
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(&pem).unwrap())
            .unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let (address, base) = match address.split_once('/') {
            Some((address, base)) => (address.to_owned(), format!("/{base}")),
            None => (address, String::new()),
        };
        Self {
            address,
            base,
            authority,
            token,
            config: Arc::new(config),
        }
    }

    /// The same cluster, reached at another address, with the base of its paths, that proves itself by another authority.
    #[must_use]
    pub fn moved(&self, address: String, authority: String) -> Self {
        Self::at(address, authority, self.token.clone())
    }

    /// As a kubeconfig's `cluster`.
    #[must_use]
    pub fn cluster(&self) -> Value {
        json!({"server": format!("https://{}{}", self.address, self.base), "certificate-authority-data": self.authority})
    }

    /// Sends a request of its own connection; these headers beside the token.
    pub fn send(
        &self,
        method: &str,
        target: &str,
        headers: &BTreeMap<String, String>,
        body: &[u8],
    ) -> io::Result<Answer> {
        let stream = TcpStream::connect(&self.address)?;
        let name = ServerName::try_from("127.0.0.1").map_err(io::Error::other)?;
        let session =
            ClientConnection::new(Arc::clone(&self.config), name).map_err(io::Error::other)?;
        let mut conn = Conn::over(Box::new(StreamOwned::new(session, stream)));
        let mut text = format!(
            "{method} {}{target} HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {}\r\nConnection: close\r\nContent-Length: {}\r\n",
            self.base,
            self.address,
            self.token,
            body.len()
        );
        for (name, value) in headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        text.push_str("\r\n");
        conn.raw(&[text.as_bytes(), body].concat())?;
        let (status, headers) = conn.answer_head()?;
        Ok(Answer {
            status,
            headers,
            conn,
        })
    }

    /// A request with a JSON body (none where null): the status and the answer's JSON, null where it is none.
    pub fn call(&self, method: &str, target: &str, body: &Value) -> (u16, Value) {
        let kind = if method == "PATCH" {
            "application/merge-patch+json"
        } else {
            "application/json"
        };
        let headers = BTreeMap::from([("content-type".to_owned(), kind.to_owned())]);
        let body = if body.is_null() {
            Vec::new()
        } else {
            body.to_string().into_bytes()
        };
        let answer = self.send(method, target, &headers, &body).unwrap();
        let status = answer.status;
        let body = answer.body().unwrap();
        (status, serde_json::from_slice(&body).unwrap_or_default())
    }

    /// The object or list at a path, which is there.
    #[track_caller]
    #[must_use]
    pub fn get(&self, target: &str) -> Value {
        let (status, value) = self.call("GET", target, &Value::Null);
        assert_eq!(status, 200, "GET {target}: {value}");
        value
    }

    /// The items of a list.
    #[track_caller]
    #[must_use]
    pub fn items(&self, target: &str) -> Vec<Value> {
        match self.get(target)["items"].take() {
            Value::Array(items) => items,
            _ => Vec::new(),
        }
    }

    /// `kind/namespace/name` of the objects that runs have labelled as their own, a lab's own floaters apart.
    #[must_use]
    pub fn objects_of_runs(&self) -> Vec<String> {
        let mut found = Vec::new();
        for collection in OF_RUNS {
            let (status, list) =
                self.call("GET", &format!("{collection}?{SELECTOR}"), &Value::Null);
            // A cluster that has no such resource holds none of them.
            if status == 404 {
                continue;
            }
            assert_eq!(status, 200, "{collection}: {list}");
            let kind = collection.rsplit('/').next().unwrap();
            for item in list["items"].as_array().into_iter().flatten() {
                let word = |field: &str| item["metadata"][field].as_str().unwrap_or("").to_owned();
                found.push(format!("{kind}/{}/{}", word("namespace"), word("name")));
            }
        }
        found
    }

    /// Puts the expiry of everything that runs have left into the past.
    pub fn expire_objects_of_runs(&self) {
        for collection in OF_RUNS {
            if collection.ends_with("/pods") {
                continue;
            }
            let (status, list) =
                self.call("GET", &format!("{collection}?{SELECTOR}"), &Value::Null);
            if status == 404 {
                continue;
            }
            for item in list["items"].as_array().into_iter().flatten() {
                let target = path_of(collection, item);
                let past = json!({"metadata": {"annotations": {"floater.kosmos.io/expires": "2000-01-01T00:00:00Z"}}});
                let (status, value) = self.call("PATCH", &target, &past);
                assert_eq!(status, 200, "{target}: {value}");
            }
        }
    }
}

/// The collections that a run writes to.
const OF_RUNS: &[&str] = &[
    "/apis/apps/v1/daemonsets",
    "/api/v1/pods",
    "/api/v1/secrets",
    "/api/v1/serviceaccounts",
    "/api/v1/configmaps",
    "/api/v1/namespaces",
    "/apis/rbac.authorization.k8s.io/v1/clusterroles",
    "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
];

/// What a run made, and not a lab.
const SELECTOR: &str =
    "labelSelector=app.kubernetes.io/managed-by%3Dfloaterctl%2Cfloater.kosmos.io/run%21%3Dlab";

/// An item's own path within a collection over all namespaces.
fn path_of(collection: &str, item: &Value) -> String {
    let (base, kind) = collection.rsplit_once('/').unwrap();
    let name = item["metadata"]["name"].as_str().unwrap();
    match item["metadata"]["namespace"].as_str() {
        Some(namespace) => format!("{base}/namespaces/{namespace}/{kind}/{name}"),
        None => format!("{collection}/{name}"),
    }
}

impl Answer {
    /// The whole body.
    pub fn body(mut self) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        while let Some(piece) = self.piece()? {
            body.extend(piece);
        }
        Ok(body)
    }

    /// The next piece of the body as it comes; none at its end. One of a given length comes as a whole.
    pub fn piece(&mut self) -> io::Result<Option<Vec<u8>>> {
        let is_chunked = self
            .headers
            .get("transfer-encoding")
            .is_some_and(|coding| coding.contains("chunked"));
        if is_chunked {
            return self.conn.read_chunk();
        }
        if let Some(length) = self.headers.remove("content-length") {
            let length = length.parse().map_err(io::Error::other)?;
            self.headers.insert("done".to_owned(), String::new());
            return Ok(Some(self.conn.exactly(length)?));
        }
        if self.headers.contains_key("done") {
            return Ok(None);
        }
        let some = self.conn.some()?;
        Ok((!some.is_empty()).then_some(some))
    }
}

fn base64(text: &str) -> Vec<u8> {
    use ::base64::Engine as _;
    ::base64::engine::general_purpose::STANDARD
        .decode(text)
        .unwrap()
}
