//! The cryptography of connections: `ring`, and ECDSA over P-521 from the `p521` crate.

use std::sync::{Arc, LazyLock};

use p521::ecdsa::signature::Signer as _;
use p521::ecdsa::signature::hazmat::PrehashVerifier as _;
use p521::ecdsa::{DerSignature, Signature, VerifyingKey};
use p521::pkcs8::DecodePrivateKey as _;
use ring::digest::{Algorithm, SHA256, SHA384, SHA512, digest};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::pki_types::{
    AlgorithmIdentifier, InvalidSignature, PrivateKeyDer, SignatureVerificationAlgorithm,
    SubjectPublicKeyInfoDer, alg_id,
};
use rustls::sign::{Signer, SigningKey, public_key_to_spki};
use rustls::{Error, SignatureAlgorithm, SignatureScheme};

/// Bytes of a number of the curve.
const NUMBER: usize = 66;

/// `ring` and what it lacks.
pub(super) static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
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

/// A private key that can sign, if it is of a kind that is known.
pub(super) fn signing_key(key: PrivateKeyDer<'static>) -> Option<Arc<dyn SigningKey>> {
    if let Some(key) = P521Key::parse(&key) {
        return Some(Arc::new(key));
    }
    PROVIDER.key_provider.load_private_key(key).ok()
}

/// ECDSA over P-521 with one hash.
#[derive(Debug)]
struct P521Algorithm {
    id: AlgorithmIdentifier,
    hash: &'static Algorithm,
}

/// By the length of the hash: SHA-256, SHA-384, SHA-512.
pub(super) static P521: &[&dyn SignatureVerificationAlgorithm] = &[
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
        let key = VerifyingKey::from_sec1_bytes(public_key);
        let signature = DerSignature::try_from(signature).and_then(Signature::try_from);
        let (Ok(key), Ok(signature)) = (key, signature) else {
            return Err(InvalidSignature);
        };
        key.verify_prehash(&as_number(digest(self.hash, message).as_ref()), &signature)
            .map_err(|_| InvalidSignature)
    }
}

/// A hash as a number of as many bits as the curve's order has (FIPS 186-5, 6.4.1): a shorter one begins with zeros.
pub(super) fn as_number(hash: &[u8]) -> [u8; NUMBER] {
    let mut number = [0; NUMBER];
    number[NUMBER - hash.len()..].copy_from_slice(hash);
    number
}

/// A private key over P-521; it signs with SHA-512, the one hash that TLS has for the curve.
struct P521Key {
    key: p521::ecdsa::SigningKey,
}

impl P521Key {
    /// From PKCS#8 or SEC 1 ("EC PRIVATE KEY").
    fn parse(key: &PrivateKeyDer<'_>) -> Option<Self> {
        let secret = match key {
            PrivateKeyDer::Pkcs8(der) => {
                p521::SecretKey::from_pkcs8_der(der.secret_pkcs8_der()).ok()
            }
            PrivateKeyDer::Sec1(der) => p521::SecretKey::from_sec1_der(der.secret_sec1_der()).ok(),
            _ => None,
        };
        Some(Self {
            key: secret?.into(),
        })
    }
}

/// Without the key.
impl std::fmt::Debug for P521Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("P521Key")
    }
}

impl SigningKey for P521Key {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        let key = self.key.clone();
        offered
            .contains(&SignatureScheme::ECDSA_NISTP521_SHA512)
            .then(|| Box::new(Self { key }) as Box<dyn Signer>)
    }

    fn public_key(&self) -> Option<SubjectPublicKeyInfoDer<'_>> {
        let point = self.key.verifying_key().to_sec1_point(false);
        Some(public_key_to_spki(&alg_id::ECDSA_P521, point.as_bytes()))
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::ECDSA
    }
}

impl Signer for P521Key {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        let signed: Result<DerSignature, _> = self.key.try_sign(message);
        signed
            .map(|signature| signature.as_bytes().to_vec())
            .map_err(|_| Error::General("the client key cannot sign".to_owned()))
    }

    fn scheme(&self) -> SignatureScheme {
        SignatureScheme::ECDSA_NISTP521_SHA512
    }
}
