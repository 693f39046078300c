//! Handshakes of a client as a kubeconfig makes it with a server that may lie.

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::PrivateSec1KeyDer;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::{SigningKey, SingleCertAndKey};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConnection, DistinguishedName, ServerConfig, ServerConnection};
use rustls::{DigitallySignedStruct, SupportedProtocolVersion};

use super::*;

/// A server that asks every client for a certificate, takes any, and checks that the client has its key.
#[derive(Debug)]
struct Asks;

impl ClientCertVerifier for Asks {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verify_tls13_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let (_, parsed) = X509Certificate::from_der(cert).expect("a certificate");
        let key = &parsed.public_key().subject_public_key.data;
        let algorithms = &PROVIDER.signature_verification_algorithms;
        let (_, known) = algorithms
            .mapping
            .iter()
            .find(|(scheme, _)| *scheme == dss.scheme)
            .expect("a scheme that was offered");
        let good = known
            .iter()
            .any(|one| one.verify_signature(key, message, dss.signature()).is_ok());
        assert!(good, "the client has the key of its certificate");
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        PROVIDER
            .signature_verification_algorithms
            .supported_schemes()
    }
}

fn key(pem: &[u8]) -> Arc<dyn SigningKey> {
    let key = PrivateKeyDer::from_pem_slice(pem).expect("a key");
    provider::signing_key(key).expect("of a known kind")
}

fn key_of(made: &Made) -> Arc<dyn SigningKey> {
    let der = PrivatePkcs8KeyDer::from(made.key.serialize_der());
    provider::signing_key(der.into()).expect("of a known kind")
}

/// What the server has seen of the client's certificates, or why the client breaks off.
fn shake(
    trust: Trust,
    user: &AuthInfo,
    version: &'static SupportedProtocolVersion,
    chain: Vec<CertificateDer<'static>>,
    key: Arc<dyn SigningKey>,
) -> Result<Vec<CertificateDer<'static>>, Error> {
    let provider: Arc<CryptoProvider> = Arc::clone(&PROVIDER);
    let resolver = SingleCertAndKey::from(CertifiedKey::new(chain, key));
    let server = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .expect("a version")
        .with_client_cert_verifier(Arc::new(Asks))
        .with_cert_resolver(Arc::new(resolver));
    let client = client_config(trust, user).expect("a client");
    let name = ServerName::try_from("127.0.0.1").expect("a name");
    let mut client = ClientConnection::new(Arc::new(client), name)?;
    let mut server = ServerConnection::new(Arc::new(server))?;
    while client.is_handshaking() || server.is_handshaking() {
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).expect("memory");
        }
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            server.read_tls(&mut rest).expect("memory");
            server.process_new_packets()?;
        }
        let mut bytes = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut bytes).expect("memory");
        }
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            client.read_tls(&mut rest).expect("memory");
            client.process_new_packets()?;
        }
    }
    Ok(server
        .peer_certificates()
        .map(<[_]>::to_vec)
        .unwrap_or_default())
}

#[test]
fn p521_is_spoken_by_server_and_client() {
    let user = user(P521_LEAF, P521_LEAF_KEY);
    let (root, leaf) = (der(P521_ROOT), der(P521_LEAF));
    for version in [&TLS12, &TLS13] {
        let trust = Trust::Authorities(vec![root.to_vec()]);
        let seen = shake(
            trust,
            &user,
            version,
            vec![leaf.clone()],
            key(P521_LEAF_KEY),
        );
        assert_eq!(seen.expect("both agree"), std::slice::from_ref(&leaf));
    }
    let secret = PrivateKeyDer::from_pem_slice(P521_LEAF_KEY).expect("a key");
    // What PKCS#8 wraps is the key in its older form.
    let wrapped = p521::pkcs8::PrivateKeyInfoRef::try_from(secret.secret_der());
    let old_form = wrapped.expect("PKCS#8").private_key.as_bytes().to_vec();
    let old_form = PrivateSec1KeyDer::from(old_form);
    assert!(provider::signing_key(old_form.into()).is_some());
}

/// What a certificate of version 1 is good for, the server knows.
#[test]
fn a_client_certificate_of_version_1_is_presented() {
    let root = Made::self_signed(authority("root"));
    let leaf = root.signs(server("leaf"));
    let user = user(VERSION_1, VERSION_1_KEY);
    for version in [&TLS12, &TLS13] {
        for trust in [Trust::Authorities(vec![root.der.to_vec()]), Trust::Anybody] {
            let seen = shake(trust, &user, version, vec![leaf.der.clone()], key_of(&leaf));
            assert_eq!(seen.expect("both agree"), [der(VERSION_1)]);
        }
    }
}

/// A certificate is public; whoever presents it has to have its key.
#[test]
fn a_server_without_the_key_of_its_certificate_is_refused() {
    let leaf = Made::self_signed(server("leaf"));
    let other = Made::self_signed(server("leaf"));
    let anonymous = AuthInfo::default();
    for version in [&TLS12, &TLS13] {
        for (server, key) in [
            (leaf.der.clone(), key_of(&other)),
            (der(P521_LEAF), key(P521_LEAF_KEY)),
        ] {
            let trust = Trust::Authorities(vec![leaf.der.to_vec()]);
            let seen = shake(trust, &anonymous, version, vec![server], key);
            assert!(seen.is_err(), "{seen:?}");
        }
        let trust = Trust::Authorities(vec![leaf.der.to_vec()]);
        let seen = shake(
            trust,
            &anonymous,
            version,
            vec![leaf.der.clone()],
            key_of(&leaf),
        );
        assert_eq!(seen.expect("it has"), []);
    }
}

#[test]
fn whoever_answers_is_believed_only_where_the_kubeconfig_says_so() {
    let stranger = Made::self_signed(server("stranger"));
    let anonymous = AuthInfo::default();
    let chain = || vec![stranger.der.clone()];
    let believed = shake(
        Trust::Anybody,
        &anonymous,
        &TLS13,
        chain(),
        key_of(&stranger),
    );
    assert!(believed.is_ok(), "{believed:?}");
    // Whatever this machine trusts, it is not a key that was made just now.
    let system = shake(
        Trust::System,
        &anonymous,
        &TLS13,
        chain(),
        key_of(&stranger),
    );
    let why = rule(&system.expect_err("nobody vouches for it"));
    assert!(why.contains("names no certificate authority"), "{why}");
}
