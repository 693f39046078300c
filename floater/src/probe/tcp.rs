//! The question that a connection asks, and what its answer proves.

use datapath::printable::is_object_name;

use crate::wire::{Expect, Failure, Identity};

/// The longest answer that is read, bytes: a responder's is a fraction of it.
pub const LONGEST: usize = 8 * 1024;

/// The request for an identity. One connection carries one.
#[must_use]
pub fn request(nonce: &str) -> String {
    format!("GET /v2/identity?nonce={nonce} HTTP/1.1\r\nHost: floater\r\nConnection: close\r\n\r\n")
}

/// Whether the answer so far is whole, by its own word. One that does not say ends with its connection.
#[must_use]
pub fn is_whole(answer: &[u8]) -> bool {
    let Some((head, body)) = split(answer) else {
        return false;
    };
    head.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .and_then(|(_, length)| length.trim().parse::<usize>().ok())
        .is_some_and(|length| body.len() >= length)
}

/// Judges a whole answer, or what there was of it when the connection ended.
///
/// # Errors
/// [`Failure::WrongIdentity`], with who it claims to be. What a stranger said is not repeated.
pub fn judge(answer: &[u8], expect: &Expect) -> Result<(), Failure> {
    let identity = split(answer)
        .filter(|(head, _)| head.split(' ').nth(1) == Some("200"))
        .and_then(|(_, body)| serde_json::from_slice::<Identity>(body).ok());
    let answered = match identity {
        Some(identity) if identity.proof.eq_ignore_ascii_case(&expect.proof) => return Ok(()),
        Some(identity) if is_object_name(&identity.cluster) && is_object_name(&identity.node) => {
            format!("{}/{}", identity.cluster, identity.node)
        }
        None if answer.is_empty() => "somebody who said nothing".to_owned(),
        Some(_) | None => "somebody who is no floater".to_owned(),
    };
    Err(Failure::WrongIdentity { answered })
}

fn split(answer: &[u8]) -> Option<(&str, &[u8])> {
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n")?;
    Some((
        std::str::from_utf8(&answer[..end]).ok()?,
        &answer[end + 4..],
    ))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::proof;

    fn expect() -> Expect {
        Expect {
            nonce: "0a".to_owned(),
            proof: proof(b"key", "0a", "uid", "n1", at(1)),
        }
    }

    fn answer(body: &str) -> Vec<u8> {
        format!(
            "HTTP/1.1 200 OK\r\ncontent-LENGTH: {}\r\n\r\n{body}",
            body.len()
        )
        .into_bytes()
    }

    fn at(host: u8) -> std::net::SocketAddr {
        std::net::SocketAddr::from(([10, 0, 0, host], 8889))
    }

    fn identity(key: &[u8], node: &str) -> Vec<u8> {
        identity_at(key, node, 1)
    }

    /// As a responder on a host answers.
    fn identity_at(key: &[u8], node: &str, host: u8) -> Vec<u8> {
        let identity = Identity {
            cluster: "uid".to_owned(),
            node: node.to_owned(),
            proof: proof(key, "0a", "uid", node, at(host)),
        };
        answer(&serde_json::to_string(&identity).expect("plain data"))
    }

    fn wrong(answered: &str) -> Result<(), Failure> {
        Err(Failure::WrongIdentity {
            answered: answered.to_owned(),
        })
    }

    #[test]
    fn only_the_proof_convinces() {
        assert_eq!(judge(&identity(b"key", "n1"), &expect()), Ok(()));
        assert_eq!(judge(&identity(b"key", "n2"), &expect()), wrong("uid/n2"));
        assert_eq!(judge(&identity(b"guess", "n1"), &expect()), wrong("uid/n1"));
        // A relay passes on what the node behind it answers at its own address.
        assert_eq!(
            judge(&identity_at(b"key", "n1", 2), &expect()),
            wrong("uid/n1")
        );
        assert_eq!(judge(b"", &expect()), wrong("somebody who said nothing"));
        let stranger = wrong("somebody who is no floater");
        assert_eq!(judge(b"SSH-2.0-x\x1b[2J\r\n", &expect()), stranger);
        assert_eq!(judge(&identity(b"guess", "\x1b[2J"), &expect()), stranger);
        assert_eq!(judge(&identity(b"guess", "$(reboot)"), &expect()), stranger);
        let mut refused = identity(b"key", "n1");
        refused.splice(9..12, *b"403");
        assert!(judge(&refused, &expect()).is_err());
    }

    #[test]
    fn an_answer_is_whole_by_its_own_word() {
        let whole = identity(b"key", "n1");
        assert!(is_whole(&whole));
        assert!(!is_whole(&whole[..whole.len() - 1]));
        assert!(!is_whole(b"HTTP/1.1 200 OK\r\n\r\nx"));
    }

    proptest! {
        #[test]
        fn any_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), cut in 0_usize..200) {
            let _ = (is_whole(&bytes), judge(&bytes, &expect()));
            let mut mixed = identity(b"key", "n1");
            mixed.truncate(cut);
            mixed.extend(&bytes);
            let _ = is_whole(&mixed);
            if let Err(Failure::WrongIdentity { answered }) = judge(&mixed, &expect()) {
                prop_assert!(answered.chars().count() <= 600);
                prop_assert!(!answered.chars().any(char::is_control));
            }
        }
    }
}
