//! `pods/NAME/proxy`: a request handed on to a pod, its answer handed back, both as they come.

use std::sync::{Arc, LazyLock};

use http::{HeaderValue, Request, Response, Uri, header};
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;

use super::ApiCluster;
use super::answer::Body;
use super::impersonate;
use super::resource::Resource;
use super::status::Status;

/// `[https:]NAME[:PORT]` taken apart.
fn parse(text: &str) -> Option<(bool, &str, Option<&str>)> {
    let parts: Vec<&str> = text.split(':').collect();
    match parts.as_slice() {
        [name] => Some((false, name, None)),
        [name, port] => Some((false, name, Some(port))),
        ["http" | "", name, port] => Some((false, name, Some(port))),
        ["https", name, port] => Some((true, name, Some(port))),
        _ => None,
    }
}

/// The pod that a proxy path names.
pub(crate) fn pod_name(text: &str) -> &str {
    parse(text).map_or(text, |(_, name, _)| name)
}

/// Passes a request on.
pub(crate) async fn forward(
    cluster: &Arc<ApiCluster>,
    request: Request<Body>,
    namespace: &str,
    target: &str,
    rest: &str,
) -> Result<Response<Body>, Status> {
    let Some((tls, name, port)) = parse(target) else {
        return Err(Status::bad_request(format!(
            "invalid pod request {target:?}"
        )));
    };
    let pod = cluster
        .store()
        .get(Resource::PODS, Some(namespace), name)
        .ok_or_else(|| Status::not_found(Resource::PODS, name))?;
    if pod["status"]["podIP"]
        .as_str()
        .unwrap_or_default()
        .is_empty()
    {
        return Err(Status::bad_request("address not allowed"));
    }
    let port = match port {
        Some(port) if !port.is_empty() => port.parse().ok().or_else(|| named_port(&pod, port)),
        _ => pod["spec"]["containers"]
            .as_array()
            .into_iter()
            .flatten()
            .find_map(|container| {
                u16::try_from(container["ports"][0]["containerPort"].as_u64()?).ok()
            })
            .or(Some(if tls { 443 } else { 80 })),
    };
    let port = port.ok_or_else(|| Status::bad_request(format!("no such port: {target:?}")))?;
    let unreachable = |error: std::io::Error| {
        Status::unavailable(format!("error trying to reach service: {error}"))
    };
    let connection = cluster
        .dialer
        .dial(namespace, name, port)
        .await
        .map_err(unreachable)?;
    let stream = connection.transport;
    if tls && !connection.is_within {
        let server = ServerName::try_from("pod.invalid").map_err(|error| {
            Status::unavailable(format!("error trying to reach service: {error}"))
        })?;
        let stream = TlsConnector::from(UNVERIFIED.clone())
            .connect(server, stream)
            .await
            .map_err(unreachable)?;
        exchange(stream, request, rest).await
    } else {
        exchange(stream, request, rest).await
    }
}

fn named_port(pod: &serde_json::Value, name: &str) -> Option<u16> {
    pod["spec"]["containers"]
        .as_array()?
        .iter()
        .flat_map(|container| container["ports"].as_array().into_iter().flatten())
        .find(|port| port["name"] == name)
        .and_then(|port| u16::try_from(port["containerPort"].as_u64()?).ok())
}

/// Headers that are about one connection and not about the request.
const HOP: &[header::HeaderName] = &[
    header::CONNECTION,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

async fn exchange<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(
    stream: S,
    request: Request<Body>,
    rest: &str,
) -> Result<Response<Body>, Status> {
    let failed = |error: hyper::Error| {
        Status::unavailable(format!("error trying to reach service: {error}"))
    };
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(failed)?;
    // It ends with the exchange; its error is the exchange's, which is reported below.
    tokio::spawn(connection);
    let (mut parts, body) = request.into_parts();
    let path = match parts.uri.query() {
        Some(query) => format!("/{rest}?{query}"),
        None => format!("/{rest}"),
    };
    parts.uri = Uri::try_from(path)
        .map_err(|error| Status::bad_request(format!("the path is no path: {error}")))?;
    parts.version = http::Version::HTTP_11;
    for name in HOP {
        parts.headers.remove(name);
    }
    // The credentials are the API's and none of the pod's business.
    parts.headers.remove(header::AUTHORIZATION);
    let ours: Vec<_> = parts
        .headers
        .keys()
        .filter(|name| impersonate::is_ours(name))
        .cloned()
        .collect();
    for name in ours {
        parts.headers.remove(name);
    }
    parts
        .headers
        .insert(header::HOST, HeaderValue::from_static("pod"));
    let mut response = sender
        .send_request(Request::from_parts(parts, body))
        .await
        .map_err(failed)?;
    for name in HOP {
        response.headers_mut().remove(name);
    }
    // The sender lives as long as the body, or the connection would close under it.
    Ok(response.map(|body| {
        body.map_err(move |error| {
            let _alive = &sender;
            error.into()
        })
        .boxed_unsync()
    }))
}

static UNVERIFIED: LazyLock<Arc<rustls::ClientConfig>> = LazyLock::new(|| {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = Arc::new(Anybody(provider.clone()));
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider of this crate's own feature has the default versions")
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    Arc::new(config)
});

/// Takes any certificate: an API server does not know its pods' either.
#[derive(Debug)]
struct Anybody(Arc<rustls::crypto::CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(
            message,
            cert,
            dss,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(
            message,
            cert,
            dss,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scheme_name_and_port_are_told_apart() {
        assert_eq!(parse("p"), Some((false, "p", None)));
        assert_eq!(parse("p:80"), Some((false, "p", Some("80"))));
        assert_eq!(parse("https:p:443"), Some((true, "p", Some("443"))));
        assert_eq!(parse("https:p:"), Some((true, "p", Some(""))));
        assert_eq!(parse("ftp:p:1"), None);
    }
}
