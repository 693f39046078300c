//! The running signature of a streamed answer.

use ring::{digest, hmac};

use super::signature::key;
use super::{Audience, Nonce, framed, hex, unhex_exactly};

/// Everything that a streamed answer has said so far. Both ends keep one; a signature line is part of it as well.
pub struct Transcript {
    key: hmac::Key,
    audience: Audience,
    nonce: Nonce,
    said: digest::Context,
}

impl Transcript {
    /// The beginning of an answer to the request with this nonce.
    #[must_use]
    pub fn new(run_key: &[u8], audience: Audience, nonce: Nonce) -> Self {
        Self {
            key: key(run_key),
            audience,
            nonce,
            said: digest::Context::new(&digest::SHA256),
        }
    }

    /// Adds a line, given without its end.
    pub fn push(&mut self, line: &[u8]) {
        self.said.update(line);
        self.said.update(b"\n");
    }

    /// Hexadecimal HMAC-SHA256 over nonce, who answers, and SHA-256 of all lines so far.
    #[must_use]
    pub fn signature(&self) -> String {
        hex(hmac::sign(&self.key, &self.bytes()).as_ref())
    }

    /// Whether a signature is the one over all lines so far.
    #[must_use]
    pub fn verify(&self, signature: &str) -> bool {
        unhex_exactly::<32>(signature)
            .is_some_and(|tag| hmac::verify(&self.key, &self.bytes(), &tag).is_ok())
    }

    fn bytes(&self) -> Vec<u8> {
        framed(
            "floater stream 2",
            &[
                &self.nonce,
                self.audience.cluster.as_bytes(),
                self.audience.node.as_bytes(),
                self.audience.layer.word().as_bytes(),
                self.said.clone().finish().as_ref(),
            ],
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Layer;

    fn transcript(key: &[u8], node: &str, nonce: u8, lines: &[&str]) -> Transcript {
        let audience = Audience {
            cluster: "uid".to_owned(),
            node: node.to_owned(),
            layer: Layer::Pod,
        };
        let mut transcript = Transcript::new(key, audience, [nonce; 16]);
        lines
            .iter()
            .for_each(|line| transcript.push(line.as_bytes()));
        transcript
    }

    #[test]
    fn a_signature_covers_every_line_before_it() {
        let signature = transcript(b"key", "n1", 7, &["a", "b"]).signature();
        assert!(transcript(b"key", "n1", 7, &["a", "b"]).verify(&signature));
        for other in [
            transcript(b"kex", "n1", 7, &["a", "b"]),
            transcript(b"key", "n2", 7, &["a", "b"]),
            transcript(b"key", "n1", 8, &["a", "b"]),
            transcript(b"key", "n1", 7, &["a"]),
            transcript(b"key", "n1", 7, &["ab"]),
            transcript(b"key", "n1", 7, &["b", "a"]),
            transcript(b"key", "n1", 7, &["a", "b", "c"]),
        ] {
            assert!(!other.verify(&signature));
        }
        assert!(!transcript(b"key", "n1", 7, &[]).verify("+0"));
    }
}
