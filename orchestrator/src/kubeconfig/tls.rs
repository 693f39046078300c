//! TLS as kubectl judges it: by webpki's rules, with exceptions where Go's `crypto/x509` and webpki differ.
//!
//! - **The server's certificate is itself what the kubeconfig trusts**, or it is that of an authority (`CA:TRUE`): webpki
//!   refuses both, Go accepts them. See [`verifier`].
//! - **Authorities** that have expired, or whose certificate does not let them sign, vouch for nobody else: Go looks at
//!   that, webpki does not.
//! - **Client certificates**, of X.509 version 1 for instance, are for the server to judge. Only that the key belongs to the
//!   certificate is checked here, as Go does.
//! - **P-521**, which `ring` lacks, comes from the `p521` crate. See [`provider`].
//!
//! What Go accepts and this module refuses is refused with the rule in words ([`Rule`]).

use std::sync::{Arc, LazyLock};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kube::config::AuthInfo;
use rustls::ClientConfig;
use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use x509_parser::prelude::{FromDer as _, X509Certificate};

mod provider;
mod verifier;

use provider::PROVIDER;
pub(crate) use verifier::Rule;
use verifier::{Authority, Unverified, Verifier};

/// Whom a client believes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Trust {
    /// These certificates, DER: the kubeconfig's certificate authority.
    Authorities(Vec<Vec<u8>>),
    /// The authorities of this machine: the kubeconfig names none.
    System,
    /// Whoever answers: `insecure-skip-tls-verify`.
    Anybody,
}

/// The TLS side of a client.
///
/// # Errors
/// What cannot be used, in words.
pub(super) fn client_config(trust: Trust, user: &AuthInfo) -> Result<ClientConfig, String> {
    let verifier: Arc<dyn ServerCertVerifier> = match trust {
        Trust::Authorities(certificates) => {
            let authorities = Authority::parse_all(&certificates);
            if authorities.is_empty() {
                return Err(
                    "its certificate authority holds no certificate that can be parsed".to_owned(),
                );
            }
            Arc::new(Verifier::new(authorities.into()))
        }
        Trust::System => Arc::new(Verifier::of_machine(Arc::clone(&SYSTEM))),
        Trust::Anybody => Arc::new(Unverified),
    };
    let mut tls = ClientConfig::builder_with_provider(Arc::clone(&PROVIDER))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    if let Some(identity) = identity(user)? {
        tls.client_auth_cert_resolver = Arc::new(identity);
    }
    Ok(tls)
}

/// This machine's authorities, read once.
static SYSTEM: LazyLock<Arc<[Authority]>> = LazyLock::new(|| {
    let found = rustls_native_certs::load_native_certs().certs;
    Authority::parse_all(&found).into()
});

/// A client's certificate and key, presented to every server that asks for one.
#[derive(Debug)]
struct Identity(Arc<CertifiedKey>);

impl ResolvesClientCert for Identity {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// The user's client certificate, if it has one.
fn identity(user: &AuthInfo) -> Result<Option<Identity>, String> {
    use secrecy::ExposeSecret as _;
    let (Some(certificate), Some(key)) = (&user.client_certificate_data, &user.client_key_data)
    else {
        return Ok(None);
    };
    let wrong = |what: &str| format!("its {what} cannot be used for TLS");
    let certificate = STANDARD
        .decode(certificate)
        .map_err(|_| wrong("client certificate"))?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&certificate).collect();
    let chain = chain.map_err(|_| wrong("client certificate"))?;
    let key = STANDARD
        .decode(key.expose_secret())
        .map_err(|_| wrong("client key"))?;
    if is_encrypted(&key) {
        return Err("its client key is encrypted with a passphrase".to_owned());
    }
    let key = PrivateKeyDer::from_pem_slice(&key).map_err(|_| wrong("client key"))?;
    let key = provider::signing_key(key).ok_or_else(|| {
        wrong("client key (RSA of 2048 bits or more, P-256, P-384, P-521 and Ed25519 are known)")
    })?;
    let parsed = chain
        .first()
        .and_then(|first| X509Certificate::from_der(first).ok());
    let Some((_, parsed)) = parsed else {
        return Err(wrong("client certificate"));
    };
    match key.public_key() {
        Some(public) if *public != *parsed.public_key().raw => {
            Err("its client key does not belong to its client certificate".to_owned())
        }
        _ => Ok(Some(Identity(Arc::new(CertifiedKey::new(chain, key))))),
    }
}

/// Whether a PEM key needs a passphrase, by the marks of PKCS#8 and of the older OpenSSL form.
fn is_encrypted(pem: &[u8]) -> bool {
    let text = String::from_utf8_lossy(pem);
    text.contains("BEGIN ENCRYPTED PRIVATE KEY") || text.contains("Proc-Type: 4,ENCRYPTED")
}

#[cfg(test)]
mod tests;
