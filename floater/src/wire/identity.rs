//! Who answers a TCP probe, and the proof of it.

use std::net::SocketAddr;

use ring::hmac;
use serde::{Deserialize, Serialize};

use super::{framed, hex, line};

/// Who answers a TCP probe. What it says besides the proof is a claim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The cluster's id: the uid of its kube-system namespace.
    #[serde(deserialize_with = "line")]
    pub cluster: String,
    /// The node's name.
    #[serde(deserialize_with = "line")]
    pub node: String,
    /// Hexadecimal: [`proof`] of the nonce that was asked with.
    #[serde(deserialize_with = "line")]
    pub proof: String,
}

/// The proof of identity: hexadecimal HMAC-SHA256 under the run key over nonce, cluster id, node, and the address and
/// port at which the responder accepted the connection.
///
/// An IPv4 address that a socket of both families shows as IPv6 is the same address.
#[must_use]
pub fn proof(run_key: &[u8], nonce: &str, cluster: &str, node: &str, at: SocketAddr) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, run_key);
    let address = at.ip().to_canonical().to_string();
    let fields = [
        nonce.as_bytes(),
        cluster.as_bytes(),
        node.as_bytes(),
        address.as_bytes(),
        &at.port().to_be_bytes(),
    ];
    hex(hmac::sign(&key, &framed("floater identity 2", &fields)).as_ref())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_holds_for_one_question_at_one_address() {
        let at: SocketAddr = "10.0.0.1:8889".parse().expect("an address");
        let same: SocketAddr = "[::ffff:10.0.0.1]:8889".parse().expect("an address");
        let good = proof(b"key", "0a", "uid", "n1", at);
        assert_eq!(proof(b"key", "0a", "uid", "n1", same), good);
        for other in [
            proof(b"kex", "0a", "uid", "n1", at),
            proof(b"key", "0b", "uid", "n1", at),
            proof(b"key", "0a", "uie", "n1", at),
            proof(b"key", "0a", "uid", "n2", at),
            proof(b"key", "0a", "uidn", "1", at),
            proof(
                b"key",
                "0a",
                "uid",
                "n1",
                "10.0.0.2:8889".parse().expect("an address"),
            ),
            proof(
                b"key",
                "0a",
                "uid",
                "n1",
                "10.0.0.1:8890".parse().expect("an address"),
            ),
        ] {
            assert_ne!(other, good);
        }
    }
}
