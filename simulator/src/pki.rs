//! One certificate authority per lab, one certificate for all of its servers on the loopback address, one for each that nodes reach, and
//! those of the users of upstream's API servers.

use std::net::IpAddr;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};

use crate::Error;

/// What the lab's servers prove themselves with.
#[derive(Debug)]
pub(crate) struct Authority {
    /// The authority's certificate, PEM, for kubeconfigs.
    pub(crate) pem: String,
    /// The same, DER.
    pub(crate) der: Vec<u8>,
    /// The side of the servers on loopback.
    pub(crate) server: Arc<ServerConfig>,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Makes keys and certificates, valid for as long as any lab lives.
    pub(crate) fn new(lab: &str) -> Result<Self, Error> {
        let ca_key = KeyPair::generate().map_err(not_made)?;
        let mut ca = CertificateParams::default();
        ca.distinguished_name
            .push(DnType::CommonName, format!("floater lab {lab}"));
        ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let ca_certificate = ca.self_signed(&ca_key).map_err(not_made)?;
        let issuer = Issuer::new(ca, ca_key);
        Ok(Self {
            pem: ca_certificate.pem(),
            der: ca_certificate.der().to_vec(),
            server: server(&issuer, &["127.0.0.1"])?,
            issuer,
        })
    }

    /// The side of a server at an address that nodes reach.
    pub(crate) fn server_at(&self, ip: IpAddr) -> Result<Arc<ServerConfig>, Error> {
        server(&self.issuer, &[&ip.to_string(), "127.0.0.1"])
    }

    /// What a server at these addresses proves itself with.
    pub(crate) fn server_pair(&self, addresses: &[IpAddr]) -> Result<Pair, Error> {
        let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
        let (certificate, key) = server_leaf(&self.issuer, &addresses)?;
        Ok(Pair::of(&certificate, &key))
    }

    /// The side of a server at these addresses that answers only whoever another authority vouches for.
    pub(crate) fn server_for(
        &self,
        addresses: &[IpAddr],
        clients: &Self,
    ) -> Result<Arc<ServerConfig>, Error> {
        let failed = || "set TLS up";
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from(clients.der.clone()))
            .map_err(Error::failed(failed()))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
                .build()
                .map_err(Error::failed(failed()))?;
        let texts: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let (certificate, key) = server_leaf(&self.issuer, &texts)?;
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(Error::failed(failed()))?
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![CertificateDer::from(certificate)], private(&key)?)
            .map_err(Error::failed(failed()))?;
        Ok(Arc::new(config))
    }

    /// What a user of an API server proves itself with: its name, and the group that it is of.
    pub(crate) fn client_pair(&self, user: &str, group: &str) -> Result<Pair, Error> {
        let mut leaf = CertificateParams::default();
        leaf.distinguished_name.push(DnType::CommonName, user);
        leaf.distinguished_name
            .push(DnType::OrganizationName, group);
        leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let (certificate, key) = signed(&self.issuer, leaf)?;
        Ok(Pair::of(&certificate, &key))
    }
}

/// A certificate and its key, PEM.
pub(crate) struct Pair {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

impl Pair {
    fn of(certificate: &Certificate, key: &KeyPair) -> Self {
        Self {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        }
    }
}

/// A new pair of keys, private and public, PEM.
pub(crate) fn key_pair() -> Result<(String, String), Error> {
    let key = KeyPair::generate().map_err(not_made)?;
    Ok((key.serialize_pem(), key.public_key_pem()))
}

fn not_made(error: rcgen::Error) -> Error {
    Error::failed("make the lab's certificates")(error)
}

/// A certificate with a new key, signed.
fn signed(
    issuer: &Issuer<'_, KeyPair>,
    mut leaf: CertificateParams,
) -> Result<(Certificate, KeyPair), Error> {
    let key = KeyPair::generate().map_err(not_made)?;
    leaf.use_authority_key_identifier_extension = true;
    let certificate = leaf.signed_by(&key, issuer).map_err(not_made)?;
    Ok((certificate, key))
}

fn server_leaf(
    issuer: &Issuer<'_, KeyPair>,
    addresses: &[&str],
) -> Result<(Certificate, KeyPair), Error> {
    let names = ["localhost", "kubernetes", "kubernetes.default.svc"];
    let names = addresses
        .iter()
        .chain(&names)
        .map(|name| (*name).to_owned());
    let mut leaf = CertificateParams::new(names.collect::<Vec<_>>()).map_err(not_made)?;
    leaf.distinguished_name
        .push(DnType::CommonName, "kube-apiserver");
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    signed(issuer, leaf)
}

fn private(key: &KeyPair) -> Result<PrivateKeyDer<'static>, Error> {
    PrivateKeyDer::try_from(key.serialize_der()).map_err(|why| Error::Failed {
        doing: "make the lab's certificates".to_owned(),
        why: why.to_owned(),
    })
}

/// A new key and certificate for an API server.
fn server(issuer: &Issuer<'_, KeyPair>, addresses: &[&str]) -> Result<Arc<ServerConfig>, Error> {
    let (certificate, key) = server_leaf(issuer, addresses)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut server = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(Error::failed("set TLS up"))?
        .with_no_client_auth()
        .with_single_cert(vec![CertificateDer::from(certificate)], private(&key)?)
        .map_err(Error::failed("set TLS up"))?;
    server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(server))
}

/// Random bytes.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], Error> {
    let mut bytes = [0; N];
    fill(&mut bytes).map(|()| bytes)
}

/// Random bytes as hexadecimal.
pub(crate) fn random_hex(bytes: usize) -> Result<String, Error> {
    let mut buffer = vec![0; bytes];
    fill(&mut buffer).map(|()| floater::wire::hex(&buffer))
}

fn fill(bytes: &mut [u8]) -> Result<(), Error> {
    use ring::rand::SecureRandom as _;
    let filled = ring::rand::SystemRandom::new().fill(bytes);
    filled.map_err(|_| Error::Failed {
        doing: "ask the system for random bytes".to_owned(),
        why: "it has none".to_owned(),
    })
}

/// A random UUID, version 4 (RFC 9562).
pub(crate) fn uuid() -> Result<String, Error> {
    let hex = random_hex(16)?;
    let variant = match hex.as_bytes()[16] % 4 {
        0 => '8',
        1 => '9',
        2 => 'a',
        _ => 'b',
    };
    Ok(format!(
        "{}-{}-4{}-{variant}{}-{}",
        &hex[..8],
        &hex[8..12],
        &hex[13..16],
        &hex[17..20],
        &hex[20..]
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uuid_has_version_and_variant() {
        let uuid = uuid().expect("random");
        let parts: Vec<_> = uuid.split('-').map(str::len).collect();
        assert_eq!(parts, [8, 4, 4, 4, 12]);
        assert_eq!(uuid.as_bytes()[14], b'4');
        assert!(b"89ab".contains(&uuid.as_bytes()[19]), "{uuid}");
    }

    #[test]
    fn certificates_can_be_made() {
        let authority = Authority::new("x").expect("made");
        assert!(authority.pem.starts_with("-----BEGIN CERTIFICATE-----"));
    }
}
