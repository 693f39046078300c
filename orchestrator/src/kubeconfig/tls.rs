//! TLS as kubectl judges it: by webpki's rules, with the exceptions where Go's `crypto/x509` says yes and webpki no.
//!
//! - **The server's certificate is itself what the kubeconfig trusts** (a leaf given as authority, a self-signed server
//!   certificate with `CA:TRUE`). Go takes a certificate that is among its roots for a chain of one. So does [`Verifier`] where
//!   the certificate is, byte for byte, one of the authorities, valid now, meant for servers, and has the server's name.
//! - **Client certificates**, of X.509 version 1 for instance, are the server's to judge; nothing here looks into them.
//! - **P-521**, which `ring` does not know, is verified by the `p521` crate.

use std::sync::{Arc, LazyLock};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kube::client::ConfigExt as _;
use kube::config::AuthInfo;
use p521::ecdsa::signature::hazmat::PrehashVerifier as _;
use ring::digest::{Algorithm, SHA256, SHA384, SHA512, digest};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{
    AlgorithmIdentifier, CertificateDer, InvalidSignature, PrivateKeyDer, ServerName,
    SignatureVerificationAlgorithm, UnixTime, alg_id,
};
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};
use x509_parser::prelude::{ASN1Time, FromDer as _, X509Certificate};

/// The TLS side of a client.
///
/// # Errors
/// What cannot be used, in words.
pub(super) fn client_config(
    config: &kube::Config,
    user: &AuthInfo,
) -> Result<ClientConfig, String> {
    let mut tls = match (&config.root_cert, config.accept_invalid_certs) {
        (Some(authorities), false) => {
            let verifier = Verifier::new(authorities)?;
            ClientConfig::builder_with_provider(Arc::clone(&PROVIDER))
                .with_safe_default_protocol_versions()
                .map_err(|error| error.to_string())?
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(verifier))
                .with_no_client_auth()
        }
        // The system's authorities, or none at all.
        (None, false) | (_, true) => {
            let mut plain = kube::Config::new(config.cluster_url.clone());
            plain.accept_invalid_certs = config.accept_invalid_certs;
            plain.root_cert = config.accept_invalid_certs.then(Vec::new);
            plain
                .rustls_client_config()
                .map_err(|_| "the system's certificate authorities cannot be used".to_owned())?
        }
    };
    if let Some(identity) = identity(user)? {
        tls.client_auth_cert_resolver = Arc::new(identity);
    }
    Ok(tls)
}

/// `ring` and what it lacks.
static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
    let mut provider = rustls::crypto::ring::default_provider();
    let ring = provider.signature_verification_algorithms;
    // Leaked once in the life of the process: rustls wants them to live as long.
    let all = Vec::leak([ring.all, P521].concat());
    let mut mapping: Vec<_> = ring
        .mapping
        .iter()
        .map(|(scheme, algorithms)| {
            // TLS 1.2 does not bind a scheme's hash to a curve; 1.3 does, and there only the first is tried.
            let more: &[_] = match scheme {
                SignatureScheme::ECDSA_NISTP256_SHA256 => &P521[..1],
                SignatureScheme::ECDSA_NISTP384_SHA384 => &P521[1..2],
                _ => &[],
            };
            (*scheme, &*Vec::leak([algorithms, more].concat()))
        })
        .collect();
    mapping.push((SignatureScheme::ECDSA_NISTP521_SHA512, &P521[2..]));
    provider.signature_verification_algorithms = WebPkiSupportedAlgorithms {
        all,
        mapping: Vec::leak(mapping),
    };
    Arc::new(provider)
});

/// ECDSA over P-521 with one hash.
#[derive(Debug)]
struct P521Algorithm {
    id: AlgorithmIdentifier,
    hash: &'static Algorithm,
}

/// By the length of the hash: SHA-256, SHA-384, SHA-512.
static P521: &[&dyn SignatureVerificationAlgorithm] = &[
    &P521Algorithm {
        id: alg_id::ECDSA_SHA256,
        hash: &SHA256,
    },
    &P521Algorithm {
        id: alg_id::ECDSA_SHA384,
        hash: &SHA384,
    },
    &P521Algorithm {
        id: alg_id::ECDSA_SHA512,
        hash: &SHA512,
    },
];

impl SignatureVerificationAlgorithm for P521Algorithm {
    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        alg_id::ECDSA_P521
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        self.id
    }

    fn verify_signature(
        &self,
        public_key: &[u8],
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), InvalidSignature> {
        let key = p521::ecdsa::VerifyingKey::from_sec1_bytes(public_key);
        let signature = p521::ecdsa::DerSignature::try_from(signature)
            .and_then(p521::ecdsa::Signature::try_from);
        let (Ok(key), Ok(signature)) = (key, signature) else {
            return Err(InvalidSignature);
        };
        // A hash is a number of as many bits as the curve's order has (FIPS 186-5, 6.4.1); a shorter one begins with zeros.
        let hash = digest(self.hash, message);
        let mut number = [0; 66];
        number[66 - hash.as_ref().len()..].copy_from_slice(hash.as_ref());
        key.verify_prehash(&number, &signature)
            .map_err(|_| InvalidSignature)
    }
}

/// The verifier of a kubeconfig's authorities.
#[derive(Debug)]
struct Verifier {
    webpki: Arc<WebPkiServerVerifier>,
    authorities: Vec<CertificateDer<'static>>,
}

impl Verifier {
    fn new(authorities: &[Vec<u8>]) -> Result<Self, String> {
        let unusable =
            || "its certificate authority holds no certificate that can be used".to_owned();
        let authorities: Vec<CertificateDer<'static>> = authorities
            .iter()
            .cloned()
            .map(CertificateDer::from)
            .collect();
        let mut roots = RootCertStore::empty();
        // One of several that cannot be parsed vouches for nothing.
        roots.add_parsable_certificates(authorities.iter().cloned());
        let webpki =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&PROVIDER))
                .build()
                .map_err(|_| unusable())?;
        Ok(Self {
            webpki,
            authorities,
        })
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verdict = self.webpki.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        );
        let is_authority = || {
            self.authorities
                .iter()
                .any(|authority| authority == end_entity)
        };
        match verdict {
            Err(_) if is_authority() => chain_of_one(end_entity, server_name, now),
            verdict => verdict,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &PROVIDER.signature_verification_algorithms;
        verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &PROVIDER.signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        PROVIDER
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// What is left to check of a certificate that is trusted itself: its time, its purpose, its names.
fn chain_of_one(
    certificate: &CertificateDer<'_>,
    server_name: &ServerName<'_>,
    now: UnixTime,
) -> Result<ServerCertVerified, Error> {
    let fail = |error: CertificateError| Err(Error::InvalidCertificate(error));
    let Ok((_, parsed)) = X509Certificate::from_der(certificate) else {
        return fail(CertificateError::BadEncoding);
    };
    let now = i64::try_from(now.as_secs()).ok();
    let Some(now) = now.and_then(|now| ASN1Time::from_timestamp(now).ok()) else {
        return fail(CertificateError::BadEncoding);
    };
    if now > parsed.validity().not_after {
        return fail(CertificateError::Expired);
    }
    if now < parsed.validity().not_before {
        return fail(CertificateError::NotValidYet);
    }
    match parsed.extended_key_usage() {
        Ok(None) => {}
        Ok(Some(usage)) if usage.value.server_auth || usage.value.any => {}
        Ok(Some(_)) => return fail(CertificateError::InvalidPurpose),
        Err(_) => return fail(CertificateError::BadEncoding),
    }
    verify_server_name(&ParsedCertificate::try_from(certificate)?, server_name)?;
    Ok(ServerCertVerified::assertion())
}

/// A client's certificate and key, presented to whoever asks for one.
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
    let key = PrivateKeyDer::from_pem_slice(&key).map_err(|_| wrong("client key"))?;
    let key = PROVIDER
        .key_provider
        .load_private_key(key)
        .map_err(|_| wrong("client key (RSA, P-256, P-384 and Ed25519 are known)"))?;
    Ok(Some(Identity(Arc::new(CertifiedKey::new(chain, key)))))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const ROOT: &[u8] = include_bytes!("tls/root.pem");
    const LEAF: &[u8] = include_bytes!("tls/leaf.pem");
    const P521_ROOT: &[u8] = include_bytes!("tls/p521-root.pem");
    const P521_LEAF: &[u8] = include_bytes!("tls/p521-leaf.pem");

    fn der(pem: &[u8]) -> Vec<u8> {
        CertificateDer::from_pem_slice(pem)
            .expect("it is one")
            .to_vec()
    }

    /// The fixtures are good from 2026 to 2126.
    fn judge(authority: &[u8], server: &[u8], name: &'static str, year: u64) -> Result<(), Error> {
        let verifier = Verifier::new(&[der(authority)]).expect("it can be parsed");
        let now = UnixTime::since_unix_epoch(Duration::from_secs((year - 1970) * 31_557_600));
        let name = ServerName::try_from(name).expect("a name");
        verifier
            .verify_server_cert(&der(server).into(), &[], &name, &[], now)
            .map(drop)
    }

    #[test]
    fn what_kubectl_takes_is_taken_and_what_it_refuses_is_not() {
        for (what, authority, server) in [
            ("signed by the authority", ROOT, LEAF),
            ("a leaf that is the authority itself", LEAF, LEAF),
            ("a self-signed server with CA:TRUE", ROOT, ROOT),
            ("P-521, signed with SHA-256", P521_ROOT, P521_LEAF),
        ] {
            assert_eq!(
                judge(authority, server, "127.0.0.1", 2030),
                Ok(()),
                "{what}"
            );
            let expired = judge(authority, server, "127.0.0.1", 2200);
            assert!(
                matches!(
                    expired,
                    Err(Error::InvalidCertificate(
                        CertificateError::Expired | CertificateError::ExpiredContext { .. }
                    ))
                ),
                "{what}: {expired:?}"
            );
            let early = judge(authority, server, "127.0.0.1", 2000);
            assert!(early.is_err(), "{what}");
            let named = judge(authority, server, "other.example", 2030);
            assert!(
                matches!(
                    named,
                    Err(Error::InvalidCertificate(
                        CertificateError::NotValidForName
                            | CertificateError::NotValidForNameContext { .. }
                    ))
                ),
                "{what}: {named:?}"
            );
        }
        for (authority, server) in [(ROOT, P521_LEAF), (P521_ROOT, LEAF), (LEAF, ROOT)] {
            assert!(judge(authority, server, "127.0.0.1", 2030).is_err());
        }
    }

    #[test]
    fn p521_signatures_are_verified_with_every_hash() {
        use p521::ecdsa::signature::hazmat::PrehashSigner as _;
        let mut scalar = [7; 66];
        scalar[0] = 0;
        let signer = p521::ecdsa::SigningKey::from_bytes(&scalar.into()).expect("in range");
        let key = signer.verifying_key().to_sec1_point(false);
        let key = key.as_bytes();
        for (algorithm, hash) in P521.iter().zip([&SHA256, &SHA384, &SHA512]) {
            let hash = digest(hash, b"message");
            let mut number = [0; 66];
            number[66 - hash.as_ref().len()..].copy_from_slice(hash.as_ref());
            let signature: p521::ecdsa::DerSignature =
                signer.sign_prehash(&number).expect("it signs");
            let signature = signature.as_bytes();
            let verify =
                |key, message, signature| algorithm.verify_signature(key, message, signature);
            assert!(verify(key, b"message", signature).is_ok());
            assert!(verify(key, b"massage", signature).is_err());
            assert!(verify(key, b"message", &signature[1..]).is_err());
            assert!(verify(&key[1..], b"message", signature).is_err());
        }
        let schemes = PROVIDER
            .signature_verification_algorithms
            .supported_schemes();
        assert!(schemes.contains(&SignatureScheme::ECDSA_NISTP521_SHA512));
    }

    /// What a certificate of version 1 is good for, the server knows.
    #[test]
    fn a_client_certificate_of_version_1_is_presented() {
        let user = AuthInfo {
            client_certificate_data: Some(STANDARD.encode(include_bytes!("tls/version-1.pem"))),
            client_key_data: Some(
                STANDARD
                    .encode(include_bytes!("tls/version-1-key.pem"))
                    .into(),
            ),
            ..Default::default()
        };
        let mut config = kube::Config::new("https://127.0.0.1".parse().expect("a URL"));
        config.root_cert = Some(vec![der(ROOT)]);
        let tls = client_config(&config, &user).expect("it can be presented");
        assert!(tls.client_auth_cert_resolver.has_certs());
        config.accept_invalid_certs = true;
        assert!(client_config(&config, &user).is_ok());
    }
}
