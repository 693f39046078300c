//! The question that a connection asks, and what its answer proves.

use crate::wire::{Expect, Failure, Identity};

/// The longest answer that is read, bytes: a responder's is a fraction of it.
pub const LONGEST: usize = 8 * 1024;

/// What is left of an unexpected answer in a failure, characters.
const TELL: usize = 80;

/// The request for an identity. One connection carries one.
#[must_use]
pub fn request(nonce: &str) -> String {
    format!("GET /v1/identity?nonce={nonce} HTTP/1.1\r\nHost: floater\r\nConnection: close\r\n\r\n")
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
/// [`Failure::WrongIdentity`], with who it claims to be or the beginning of what it said instead.
pub fn judge(answer: &[u8], expect: &Expect) -> Result<(), Failure> {
    let identity = split(answer)
        .filter(|(head, _)| head.split(' ').nth(1) == Some("200"))
        .and_then(|(_, body)| serde_json::from_slice::<Identity>(body).ok());
    match identity {
        Some(identity) if identity.proof.eq_ignore_ascii_case(&expect.proof) => Ok(()),
        Some(identity) => Err(Failure::WrongIdentity {
            answered: tell(&format!("{}/{}", identity.cluster, identity.node)),
        }),
        None => Err(Failure::WrongIdentity {
            answered: if answer.is_empty() {
                "nothing, and closed the connection".to_owned()
            } else {
                tell(&String::from_utf8_lossy(answer))
            },
        }),
    }
}

fn split(answer: &[u8]) -> Option<(&str, &[u8])> {
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n")?;
    Some((
        std::str::from_utf8(&answer[..end]).ok()?,
        &answer[end + 4..],
    ))
}

/// Its first words, harmless to a terminal.
fn tell(text: &str) -> String {
    text.trim()
        .chars()
        .take(TELL)
        .map(|letter| if letter.is_control() { ' ' } else { letter })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::proof;

    fn expect() -> Expect {
        Expect {
            nonce: "0a".to_owned(),
            proof: proof(b"key", "0a", "uid", "n1"),
        }
    }

    fn answer(body: &str) -> Vec<u8> {
        format!(
            "HTTP/1.1 200 OK\r\ncontent-LENGTH: {}\r\n\r\n{body}",
            body.len()
        )
        .into_bytes()
    }

    fn identity(key: &[u8], node: &str) -> Vec<u8> {
        let identity = Identity {
            cluster: "uid".to_owned(),
            node: node.to_owned(),
            proof: proof(key, "0a", "uid", node),
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
        assert_eq!(
            judge(b"", &expect()),
            wrong("nothing, and closed the connection")
        );
        assert_eq!(
            judge(b"SSH-2.0-x\x1b[2J\r\n", &expect()),
            wrong("SSH-2.0-x [2J")
        );
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
                prop_assert!(answered.chars().count() <= TELL);
                prop_assert!(!answered.chars().any(char::is_control));
            }
        }
    }
}
