//! Whether a server is the one that a kubeconfig trusts.
//!
//! Paths are built and judged by webpki. Two kinds of server certificates never reach it, because it refuses what Go accepts:
//!
//! - One that is, byte for byte, among the authorities is a chain of one. That it may be trusted is thereby said; left to check
//!   are its time, its purpose, its extensions and its names.
//! - One of an authority (`CA:TRUE`), signed by one of the kubeconfig's authorities. Besides the same rules, the signature is
//!   checked, by webpki's function for that. Behind an intermediate it is refused, in words.

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, TrustAnchor, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, DigitallySignedStruct, Error, OtherError, RootCertStore, SignatureScheme,
};
use x509_parser::prelude::{FromDer as _, ParsedExtension, X509Certificate, X509Version};
use x509_parser::public_key::PublicKey;

use super::provider::PROVIDER;

/// A rule that a server's certificate breaks, for a person; it completes the sentence "TLS: …".
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rule(pub(crate) String);

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Rule {}

fn broken(rule: impl Into<String>) -> Error {
    let rule = Arc::new(Rule(rule.into()));
    Error::InvalidCertificate(CertificateError::Other(OtherError(rule)))
}

/// One certificate that a kubeconfig or this machine trusts.
#[derive(Debug)]
pub(super) struct Authority {
    der: CertificateDer<'static>,
    /// As webpki takes it, if its certificate lets it sign others.
    anchor: Option<TrustAnchor<'static>>,
    /// Seconds since 1970, from and to.
    valid: (i64, i64),
}

impl Authority {
    /// Those of the certificates that can be parsed: as for Go, another vouches for nothing and does no harm.
    pub(super) fn parse_all<T: AsRef<[u8]>>(certificates: &[T]) -> Vec<Self> {
        certificates
            .iter()
            .filter_map(|der| Self::parse(der.as_ref()))
            .collect()
    }

    fn parse(der: &[u8]) -> Option<Self> {
        let der = CertificateDer::from(der.to_vec());
        let (_, parsed) = X509Certificate::from_der(&der).ok()?;
        let validity = parsed.validity();
        let valid = (
            validity.not_before.timestamp(),
            validity.not_after.timestamp(),
        );
        let anchor = webpki::anchor_from_trusted_cert(&der)
            .ok()
            .filter(|_| may_sign(&parsed))
            .map(|anchor| anchor.to_owned());
        Some(Self { der, anchor, valid })
    }

    /// What it vouches with at this time.
    fn anchor_at(&self, now: i64) -> Option<&TrustAnchor<'static>> {
        self.anchor
            .as_ref()
            .filter(|_| (self.valid.0..=self.valid.1).contains(&now))
    }
}

/// Whether an authority's certificate lets it vouch for servers: the rules of Go's `CheckSignatureFrom`, and its purposes.
fn may_sign(authority: &X509Certificate<'_>) -> bool {
    let is_authority = match authority.basic_constraints() {
        Ok(Some(constraints)) => constraints.value.ca,
        // Before version 3 there was no way to say it.
        Ok(None) => authority.version() != X509Version::V3,
        Err(_) => false,
    };
    let signs = match authority.key_usage() {
        Ok(usage) => usage.is_none_or(|usage| usage.value.key_cert_sign()),
        Err(_) => false,
    };
    is_authority && signs && is_for_servers(authority)
}

/// Whether the extended key usage includes servers; a certificate without one is for everything.
fn is_for_servers(certificate: &X509Certificate<'_>) -> bool {
    match certificate.extended_key_usage() {
        Ok(usage) => usage.is_none_or(|usage| usage.value.server_auth || usage.value.any),
        Err(_) => false,
    }
}

/// The verifier of some authorities.
#[derive(Debug)]
pub(super) struct Verifier {
    authorities: Arc<[Authority]>,
    /// Whether they are this machine's, because the kubeconfig names none.
    of_machine: bool,
}

impl Verifier {
    pub(super) fn new(authorities: Arc<[Authority]>) -> Self {
        Self {
            authorities,
            of_machine: false,
        }
    }

    /// With this machine's authorities.
    pub(super) fn of_machine(authorities: Arc<[Authority]>) -> Self {
        Self {
            authorities,
            of_machine: true,
        }
    }

    /// By webpki's rules, with the authorities that may sign now.
    fn by_path(
        &self,
        server: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        let at = seconds(now);
        let roots = self
            .authorities
            .iter()
            .filter_map(|authority| authority.anchor_at(at).cloned())
            .collect();
        verify_server_cert_signed_by_trust_anchor(
            &ParsedCertificate::try_from(server)?,
            &RootCertStore { roots },
            intermediates,
            now,
            PROVIDER.signature_verification_algorithms.all,
        )
    }

    /// Whether one of the authorities signed this certificate itself.
    fn is_signed_directly(&self, server: &X509Certificate<'_>, now: UnixTime) -> bool {
        self.authorities.iter().any(|authority| {
            let usable = authority.anchor_at(seconds(now));
            let Ok((_, parsed)) = X509Certificate::from_der(&authority.der) else {
                return false;
            };
            // Names that the authority may not vouch for are webpki's to judge, which is not asked here.
            usable.is_some_and(|anchor| anchor.name_constraints.is_none())
                && parsed.subject().as_raw() == server.issuer().as_raw()
                && is_signature_of(&authority.der, server)
        })
    }

    /// A plainer rule than that of the library, where one is known.
    fn explained(&self, error: Error, server: &X509Certificate<'_>, now: UnixTime) -> Error {
        let at = seconds(now);
        let unknown = matches!(
            error,
            Error::InvalidCertificate(
                CertificateError::UnknownIssuer | CertificateError::BadSignature
            )
        );
        let mut issuers = self.authorities.iter().filter_map(|authority| {
            let (_, parsed) = X509Certificate::from_der(&authority.der).ok()?;
            (parsed.subject().as_raw() == server.issuer().as_raw()).then_some((authority, parsed))
        });
        match issuers.next() {
            Some((issuer, _)) if unknown && issuer.anchor.is_none() => broken(
                "the kubeconfig's certificate authority is not one that may sign others (CA:FALSE, or a key usage for something else), so it vouches for itself alone",
            ),
            Some((issuer, _)) if unknown && at > issuer.valid.1 => {
                broken("the certificate authority of the kubeconfig has expired")
            }
            Some((issuer, _)) if unknown && at < issuer.valid.0 => broken(
                "the certificate authority of the kubeconfig is not valid yet (is this machine's clock right?)",
            ),
            None if unknown && self.of_machine => broken(
                "the kubeconfig names no certificate authority, and none of this machine's (SSL_CERT_FILE, SSL_CERT_DIR) has signed the server's certificate",
            ),
            Some((_, parsed)) if unknown && short_rsa(&parsed).is_some() => broken(
                "the certificate authority of the kubeconfig has an RSA key of less than 2048 bits",
            ),
            _ => error,
        }
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Ok((_, server)) = X509Certificate::from_der(end_entity) else {
            return Err(CertificateError::BadEncoding.into());
        };
        if server.version() != X509Version::V3 {
            return Err(broken(
                "the server's certificate is not of X.509 version 3, and so has no names (subjectAltName)",
            ));
        }
        let is_trusted_itself = self
            .authorities
            .iter()
            .any(|authority| authority.der == *end_entity);
        if is_trusted_itself {
            on_its_own(&server, now)?;
        } else if server.is_ca() {
            on_its_own(&server, now)?;
            if !self.is_signed_directly(&server, now) {
                let rule = "the server's certificate is that of an authority (CA:TRUE), and no authority of the kubeconfig has signed it itself";
                return Err(self.explained(broken(rule), &server, now));
            }
        } else {
            self.by_path(end_entity, intermediates, now)
                .map_err(|error| self.explained(error, &server, now))?;
        }
        if matches!(server.subject_alternative_name(), Ok(None)) {
            return Err(broken(
                "the server's certificate has no names (subjectAltName); its common name does not count",
            ));
        }
        verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
        if let Some(bits) = short_rsa(&server) {
            return Err(broken(format!(
                "the server's certificate has an RSA key of {bits} bits, and 2048 are the least"
            )));
        }
        Ok(ServerCertVerified::assertion())
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

/// The rules for a server's certificate that do not depend on who signed it, but for its names.
fn on_its_own(server: &X509Certificate<'_>, now: UnixTime) -> Result<(), Error> {
    let now = seconds(now);
    if now > server.validity().not_after.timestamp() {
        return Err(CertificateError::Expired.into());
    }
    if now < server.validity().not_before.timestamp() {
        return Err(CertificateError::NotValidYet.into());
    }
    if !is_for_servers(server) {
        return Err(CertificateError::InvalidPurpose.into());
    }
    let is_unknown = |parsed: &ParsedExtension<'_>| {
        matches!(
            parsed,
            ParsedExtension::UnsupportedExtension { .. } | ParsedExtension::ParseError { .. }
        )
    };
    let mut extensions = server.extensions().iter();
    if extensions.any(|extension| extension.critical && is_unknown(extension.parsed_extension())) {
        return Err(CertificateError::UnhandledCriticalExtension.into());
    }
    Ok(())
}

/// Whether a certificate is signed by the key of another one, which webpki's function for signatures decides.
fn is_signature_of(issuer: &CertificateDer<'_>, signed: &X509Certificate<'_>) -> bool {
    let Ok(issuer) = webpki::EndEntityCert::try_from(issuer) else {
        return false;
    };
    let named = signed.signature_algorithm.algorithm.as_bytes();
    PROVIDER
        .signature_verification_algorithms
        .all
        .iter()
        // An algorithm's identifier begins with its object identifier: a tag, a length, the number.
        .filter(|algorithm| algorithm.signature_alg_id()[2..].starts_with(named))
        .any(|algorithm| {
            let message = signed.tbs_certificate.as_ref();
            issuer
                .verify_signature(*algorithm, message, &signed.signature_value.data)
                .is_ok()
        })
}

/// The bits of an RSA key that is too short for `ring`; Go's least is 1024.
fn short_rsa(certificate: &X509Certificate<'_>) -> Option<usize> {
    match certificate.public_key().parsed() {
        Ok(PublicKey::RSA(key)) => Some(key.key_size()).filter(|bits| *bits < 2048),
        _ => None,
    }
}

fn seconds(now: UnixTime) -> i64 {
    i64::try_from(now.as_secs()).unwrap_or(i64::MAX)
}

/// Believes whoever answers, as `insecure-skip-tls-verify` wants it.
#[derive(Debug)]
pub(super) struct Unverified;

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        PROVIDER
            .signature_verification_algorithms
            .supported_schemes()
    }
}
