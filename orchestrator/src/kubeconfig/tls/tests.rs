//! What is accepted, what is refused, and in which words; then whole handshakes in memory.
//!
//! Certificates are made here. Fixtures are those that `rcgen` with `ring` cannot make: P-521, RSA of 1024 bits, version 1.

use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnType, ExtendedKeyUsagePurpose,
    GeneralSubtree, IsCa, Issuer, KeyPair, KeyUsagePurpose, NameConstraints, date_time_ymd,
};
use rustls::pki_types::{PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::{CertificateError, Error, OtherError};

use super::*;

mod handshakes;

const P521_ROOT: &[u8] = include_bytes!("p521-root.pem");
const P521_LEAF: &[u8] = include_bytes!("p521-leaf.pem");
const P521_LEAF_KEY: &[u8] = include_bytes!("p521-leaf-key.pem");
const RSA_1024: &[u8] = include_bytes!("rsa-1024.pem");
const VERSION_1: &[u8] = include_bytes!("version-1.pem");
const VERSION_1_KEY: &[u8] = include_bytes!("version-1-key.pem");

fn der(pem: &[u8]) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem).expect("it is PEM")
}

/// A certificate with its key.
struct Made {
    der: CertificateDer<'static>,
    params: CertificateParams,
    key: KeyPair,
}

impl Made {
    /// Signs another certificate with this one's key and name.
    fn signs(&self, params: CertificateParams) -> Self {
        let key = KeyPair::generate().expect("a key");
        let issuer = Issuer::from_params(&self.params, &self.key);
        let signed = params.signed_by(&key, &issuer).expect("it is signed");
        Self {
            der: signed.der().clone(),
            params,
            key,
        }
    }

    fn self_signed(params: CertificateParams) -> Self {
        let key = KeyPair::generate().expect("a key");
        let signed = params.self_signed(&key).expect("it is signed");
        Self {
            der: signed.der().clone(),
            params,
            key,
        }
    }
}

/// Of a server at 127.0.0.1 and api.example, from 2020 to 2120.
fn server(name: &str) -> CertificateParams {
    let names = vec!["127.0.0.1".to_owned(), "api.example".to_owned()];
    named(CertificateParams::new(names).expect("good names"), name)
}

fn authority(name: &str) -> CertificateParams {
    let mut params = named(CertificateParams::default(), name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
}

fn named(mut params: CertificateParams, name: &str) -> CertificateParams {
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2120, 1, 1);
    params
}

fn with(
    mut params: CertificateParams,
    change: impl Fn(&mut CertificateParams),
) -> CertificateParams {
    change(&mut params);
    params
}

fn ca(params: &mut CertificateParams) {
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
}

/// What a client that trusts `authorities` makes of a server's chain in a year.
fn judge(
    authorities: &[&CertificateDer<'_>],
    chain: &[&CertificateDer<'static>],
    name: &'static str,
    year: u64,
) -> Result<(), Error> {
    let verifier = Verifier::new(Authority::parse_all(authorities).into());
    let now = UnixTime::since_unix_epoch(Duration::from_secs((year - 1970) * 31_557_600));
    let name = ServerName::try_from(name).expect("a name");
    let [server, intermediates @ ..] = chain else {
        panic!("a chain has a first certificate");
    };
    let intermediates: Vec<_> = intermediates.iter().map(|der| (*der).clone()).collect();
    verifier
        .verify_server_cert(server, &intermediates, &name, &[], now)
        .map(drop)
}

/// The rule in words, or the library's error.
fn rule(error: &Error) -> String {
    match error {
        Error::InvalidCertificate(CertificateError::Other(OtherError(inside))) => {
            inside.to_string()
        }
        other => format!("{other:?}"),
    }
}

#[test]
fn what_kubectl_accepts_is_accepted_for_its_names_and_its_time() {
    let root = Made::self_signed(authority("root"));
    let leaf = root.signs(server("leaf"));
    let of_itself = Made::self_signed(with(server("self"), ca));
    let plain_of_itself = Made::self_signed(server("self"));
    let as_authority = root.signs(with(server("leaf"), ca));
    let middle = root.signs(authority("middle"));
    let behind = middle.signs(server("leaf"));
    let (p521_root, p521_leaf) = (der(P521_ROOT), der(P521_LEAF));
    let garbage = CertificateDer::from(vec![0x30, 0]);
    for (what, authorities, chain) in [
        ("signed by the authority", vec![&root.der], vec![&leaf.der]),
        (
            "a leaf as its own authority",
            vec![&leaf.der],
            vec![&leaf.der],
        ),
        (
            "self-signed with CA:TRUE",
            vec![&of_itself.der],
            vec![&of_itself.der],
        ),
        (
            "self-signed without",
            vec![&plain_of_itself.der],
            vec![&plain_of_itself.der],
        ),
        (
            "CA:TRUE, signed by the authority",
            vec![&root.der],
            vec![&as_authority.der],
        ),
        (
            "by an intermediate",
            vec![&root.der],
            vec![&behind.der, &middle.der],
        ),
        (
            "an intermediate is the authority",
            vec![&middle.der],
            vec![&behind.der],
        ),
        (
            "one of several authorities",
            vec![&garbage, &p521_root, &root.der],
            vec![&leaf.der],
        ),
        (
            "P-521, signed with SHA-256",
            vec![&p521_root],
            vec![&p521_leaf],
        ),
        (
            "P-521 as its own authority",
            vec![&p521_leaf],
            vec![&p521_leaf],
        ),
    ] {
        for name in ["127.0.0.1", "api.example"] {
            let good = judge(&authorities, &chain, name, 2030);
            assert!(good.is_ok(), "{what}: {good:?}");
        }
        for (name, year, wanted) in [
            ("127.0.0.1", 2200, "Expired"),
            ("127.0.0.1", 2000, "NotValidYet"),
            ("127.0.0.2", 2030, "NotValidForName"),
            ("other.example", 2030, "NotValidForName"),
        ] {
            let error = judge(&authorities, &chain, name, year).expect_err(what);
            assert!(rule(&error).contains(wanted), "{what}: {error:?}");
        }
    }
}

#[test]
fn who_is_not_trusted_is_refused() {
    let root = Made::self_signed(authority("root"));
    let other = Made::self_signed(authority("other"));
    // Of the same name, with another key.
    let false_root = Made::self_signed(authority("root"));
    let leaf = root.signs(server("leaf"));
    // The holder of a server's key issues certificates with it.
    let by_leaf = leaf.signs(server("other"));
    let look_alike = false_root.signs(server("leaf"));
    let as_authority = false_root.signs(with(server("leaf"), ca));
    let middle = root.signs(authority("middle"));
    let deep = middle.signs(with(server("leaf"), ca));
    for (what, authority, chain, wanted) in [
        (
            "another authority",
            &other,
            vec![&leaf.der],
            "UnknownIssuer",
        ),
        (
            "a forged signature",
            &root,
            vec![&look_alike.der],
            "BadSignature",
        ),
        (
            "no signature of the leaf",
            &leaf,
            vec![&look_alike.der],
            "UnknownIssuer",
        ),
        (
            "a leaf that signs",
            &leaf,
            vec![&by_leaf.der],
            "vouches for itself alone",
        ),
        (
            "a leaf that signs, sent along",
            &root,
            vec![&by_leaf.der, &leaf.der],
            "EndEntityUsedAsCa",
        ),
        (
            "CA:TRUE, a forged signature",
            &root,
            vec![&as_authority.der],
            "no authority of the kubeconfig has signed it",
        ),
        (
            "CA:TRUE, self-signed, not trusted",
            &root,
            vec![&other.der],
            "CA:TRUE",
        ),
        (
            "CA:TRUE behind an intermediate",
            &root,
            vec![&deep.der, &middle.der],
            "CA:TRUE",
        ),
    ] {
        let error = judge(&[&authority.der], &chain, "127.0.0.1", 2030).expect_err(what);
        assert!(rule(&error).contains(wanted), "{what}: {error:?}");
    }
}

/// A byte that changes breaks the signature, also where webpki does not look.
#[test]
fn a_certificate_that_was_altered_is_refused() {
    let root = Made::self_signed(authority("root"));
    for made in [
        root.signs(server("leaf")),
        root.signs(with(server("leaf"), ca)),
    ] {
        let altered: Vec<u8> = made.der.to_vec();
        let at = altered
            .windows(11)
            .position(|window| window == b"api.example")
            .expect("its name");
        let mut altered = altered;
        altered[at..at + 11].copy_from_slice(b"foo.example");
        let altered = CertificateDer::from(altered);
        let refused = judge(&[&root.der], &[&altered], "foo.example", 2030);
        assert!(refused.is_err());
    }
}

#[test]
fn the_rule_that_is_broken_is_named() {
    let root = Made::self_signed(authority("root"));
    let short = Made::self_signed(with(authority("root"), |params| {
        params.not_after = date_time_ymd(2025, 1, 1);
    }));
    let silent = Made::self_signed(with(authority("root"), |params| {
        params.key_usages = vec![KeyUsagePurpose::CrlSign];
    }));
    let for_clients = |params: &mut CertificateParams| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    };
    let clients_only = Made::self_signed(with(authority("root"), for_clients));
    let strange = |params: &mut CertificateParams| {
        let mut extension = CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![5, 0]);
        extension.set_criticality(true);
        params.custom_extensions.push(extension);
    };
    let elsewhere = Made::self_signed(with(authority("root"), |params| {
        params.name_constraints = Some(NameConstraints {
            permitted_subtrees: vec![GeneralSubtree::DnsName("allowed.example".to_owned())],
            excluded_subtrees: Vec::new(),
        });
    }));
    let alone =
        |change: &dyn Fn(&mut CertificateParams)| Made::self_signed(with(server("leaf"), change));
    let signed = |authority: &Made| authority.signs(server("leaf")).der;
    let itself = |made: Made| (made.der.clone(), made.der);
    for (what, (authority, server), wanted) in [
        (
            "an authority that expired",
            (short.der.clone(), signed(&short)),
            "authority of the kubeconfig has expired",
        ),
        (
            "an authority that may not sign",
            (silent.der.clone(), signed(&silent)),
            "vouches for itself alone",
        ),
        (
            "an authority for clients",
            (clients_only.der.clone(), signed(&clients_only)),
            "vouches for itself alone",
        ),
        (
            "for clients",
            (
                root.der.clone(),
                root.signs(with(server("leaf"), for_clients)).der,
            ),
            "InvalidPurpose",
        ),
        (
            "for clients, alone",
            itself(alone(&for_clients)),
            "InvalidPurpose",
        ),
        (
            "a critical extension",
            (
                root.der.clone(),
                root.signs(with(server("leaf"), strange)).der,
            ),
            "CriticalExtension",
        ),
        (
            "a critical extension, alone",
            itself(alone(&strange)),
            "CriticalExtension",
        ),
        (
            "no names",
            itself(Made::self_signed(named(
                CertificateParams::default(),
                "127.0.0.1",
            ))),
            "no names (subjectAltName)",
        ),
        (
            "a name beyond the authority's",
            (elsewhere.der.clone(), signed(&elsewhere)),
            "NameConstraint",
        ),
        (
            "the same with CA:TRUE",
            (
                elsewhere.der.clone(),
                elsewhere.signs(with(server("leaf"), ca)).der,
            ),
            "CA:TRUE",
        ),
        (
            "RSA of 1024 bits",
            (der(RSA_1024), der(RSA_1024)),
            "RSA key of 1024 bits",
        ),
        (
            "version 1",
            (der(VERSION_1), der(VERSION_1)),
            "not of X.509 version 3",
        ),
    ] {
        let error = judge(&[&authority], &[&server], "127.0.0.1", 2030).expect_err(what);
        assert!(rule(&error).contains(wanted), "{what}: {error:?}");
    }
}

#[test]
fn p521_signatures_are_verified_with_every_hash() {
    use p521::ecdsa::signature::hazmat::PrehashSigner as _;
    use ring::digest::{SHA256, SHA384, SHA512, digest};
    let mut scalar = [7; 66];
    scalar[0] = 0;
    let signer = p521::ecdsa::SigningKey::from_bytes(&scalar.into()).expect("in range");
    let key = signer.verifying_key().to_sec1_point(false);
    let key = key.as_bytes();
    for (algorithm, hash) in provider::P521.iter().zip([&SHA256, &SHA384, &SHA512]) {
        let number = provider::as_number(digest(hash, b"message").as_ref());
        let signature: p521::ecdsa::DerSignature = signer.sign_prehash(&number).expect("it signs");
        let signature = signature.as_bytes();
        let verify = |key, message, signature| algorithm.verify_signature(key, message, signature);
        assert!(verify(key, b"message", signature).is_ok());
        assert!(verify(key, b"massage", signature).is_err());
        assert!(verify(key, b"message", &signature[1..]).is_err());
        assert!(verify(&key[1..], b"message", signature).is_err());
    }
}

/// A user with this certificate and key, PEM.
fn user(certificate: &[u8], key: &[u8]) -> AuthInfo {
    AuthInfo {
        client_certificate_data: Some(STANDARD.encode(certificate)),
        client_key_data: Some(STANDARD.encode(key).into()),
        ..Default::default()
    }
}

#[test]
fn a_client_key_that_cannot_be_used_is_refused_in_words() {
    let other = KeyPair::generate().expect("a key").serialize_pem();
    let encrypted =
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    let unknown = "-----BEGIN PRIVATE KEY-----\nMAMCAQA=\n-----END PRIVATE KEY-----\n";
    for (certificate, key, wanted) in [
        (
            VERSION_1,
            other.as_bytes(),
            "does not belong to its client certificate",
        ),
        (
            P521_LEAF,
            VERSION_1_KEY,
            "does not belong to its client certificate",
        ),
        (
            VERSION_1,
            P521_LEAF_KEY,
            "does not belong to its client certificate",
        ),
        (VERSION_1, encrypted.as_bytes(), "encrypted"),
        (VERSION_1, unknown.as_bytes(), "P-521 and Ed25519 are known"),
        (
            &b"nothing"[..],
            VERSION_1_KEY,
            "client certificate cannot be used",
        ),
    ] {
        let why = client_config(Trust::Anybody, &user(certificate, key)).map(drop);
        let why = why.expect_err(wanted);
        assert!(why.contains(wanted), "{why}");
        assert!(!why.contains("MAMC"), "{why}");
    }
}

#[test]
fn an_authority_that_cannot_be_parsed_is_refused_in_words() {
    for authorities in [Vec::new(), vec![vec![0x30, 0]]] {
        let why = client_config(Trust::Authorities(authorities), &AuthInfo::default());
        let why = why.map(drop).expect_err("nobody is trusted");
        assert!(why.contains("no certificate that can be parsed"), "{why}");
    }
}
