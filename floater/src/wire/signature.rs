//! Signed requests and signed answers.

use std::fmt;

use ring::{digest, hmac};
use serde::{Deserialize, Serialize};

use super::{AUTH_WINDOW_MS, Event, Layer, MAX_BODY, MAX_LINE, framed, hex, unhex_exactly};

/// Chosen at random for each request; its answer is signed over it.
pub type Nonce = [u8; 16];

/// The floater that a request is for: another one refuses it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Audience {
    /// The cluster's id.
    pub cluster: String,
    /// The node's name.
    pub node: String,
    /// The network that it stands in.
    pub layer: Layer,
}

/// Why a request is refused, as the answer's JSON says it besides a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "refusal")]
pub enum Refusal {
    /// The time is off: the floater's clock, milliseconds since 1970.
    Clock {
        /// That clock.
        now_ms: u64,
    },
    /// The header is none of this protocol.
    Malformed,
    /// The header is missing.
    Missing,
    /// The same request came before.
    Replayed,
    /// Another key's, another floater's or another request's signature.
    Signature,
    /// The header is one of another version.
    Version,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Clock { .. } => "the request's time is too far from this floater's clock",
            Self::Malformed => "the signature's header cannot be read",
            Self::Missing => "the request is not signed",
            Self::Replayed => "the same request came before",
            Self::Signature => {
                "the request is signed with another run's key or for another floater"
            }
            Self::Version => "this floater speaks version 2 of the protocol",
        })
    }
}

/// What the header of a request says, before it is believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedRequest {
    /// When it was made, milliseconds since 1970.
    pub time_ms: u64,
    /// Its nonce.
    pub nonce: Nonce,
    /// Bytes of its body.
    pub length: u64,
    /// SHA-256 of its body.
    pub sha256: [u8; 32],
    tag: [u8; 32],
}

/// The value of [`AUTH_HEADER`](super::AUTH_HEADER): `v2 MILLISECONDS NONCE LENGTH SHA256 HMAC`.
#[must_use]
pub fn sign(
    run_key: &[u8],
    audience: &Audience,
    method: &str,
    path: &str,
    body: &[u8],
    time_ms: u64,
    nonce: Nonce,
) -> String {
    let request = SignedRequest {
        time_ms,
        nonce,
        length: body.len() as u64,
        sha256: sha256(body),
        tag: [0; 32],
    };
    let tag = hmac::sign(&key(run_key), &request.bytes(audience, method, path));
    format!(
        "v2 {time_ms} {} {} {} {}",
        hex(&nonce),
        request.length,
        hex(&request.sha256),
        hex(tag.as_ref())
    )
}

impl SignedRequest {
    /// Reads a header.
    ///
    /// # Errors
    /// [`Refusal::Version`] and [`Refusal::Malformed`].
    pub fn parse(header: &str) -> Result<Self, Refusal> {
        let mut words = header.split(' ');
        match words.next() {
            Some("v2") => {}
            Some(other) if other.starts_with('v') => return Err(Refusal::Version),
            _ => return Err(Refusal::Malformed),
        }
        let mut request = || {
            let request = Self {
                time_ms: number(words.next()?)?,
                nonce: unhex_exactly(words.next()?)?,
                length: number(words.next()?)?,
                sha256: unhex_exactly(words.next()?)?,
                tag: unhex_exactly(words.next()?)?,
            };
            words.next().is_none().then_some(request)
        };
        request().ok_or(Refusal::Malformed)
    }

    /// Whether a holder of the key signed it for this floater and this request. `path` is with its query.
    ///
    /// # Errors
    /// [`Refusal::Signature`].
    pub fn verify(
        &self,
        run_key: &[u8],
        audience: &Audience,
        method: &str,
        path: &str,
    ) -> Result<(), Refusal> {
        let bytes = self.bytes(audience, method, path);
        hmac::verify(&key(run_key), &bytes, &self.tag).map_err(|_| Refusal::Signature)
    }

    /// Whether it is of now, and not from before the floater started; all in milliseconds since 1970.
    ///
    /// # Errors
    /// [`Refusal::Clock`].
    pub fn check_time(&self, started_ms: u64, now_ms: u64) -> Result<(), Refusal> {
        if self.time_ms >= started_ms && self.time_ms.abs_diff(now_ms) <= AUTH_WINDOW_MS {
            Ok(())
        } else {
            Err(Refusal::Clock { now_ms })
        }
    }

    /// Whether this is the body that was signed.
    #[must_use]
    pub fn is_body(&self, body: &[u8]) -> bool {
        self.length == body.len() as u64 && self.sha256 == sha256(body)
    }

    /// Whether the body is longer than any may be.
    #[must_use]
    pub fn is_too_long(&self) -> bool {
        self.length > MAX_BODY
    }

    fn bytes(&self, audience: &Audience, method: &str, path: &str) -> Vec<u8> {
        framed(
            "floater request 2",
            &[
                &self.time_ms.to_be_bytes(),
                &self.nonce,
                audience.cluster.as_bytes(),
                audience.node.as_bytes(),
                audience.layer.word().as_bytes(),
                method.as_bytes(),
                path.as_bytes(),
                &self.length.to_be_bytes(),
                &self.sha256,
            ],
        )
    }
}

/// The body of a whole answer: the content, and a line [`Event::Signed`] over the request's nonce, who answers, the status and the
/// content. In the body, because what passes an answer on may drop headers that it does not know.
#[must_use]
pub fn seal(
    run_key: &[u8],
    audience: &Audience,
    nonce: &Nonce,
    status: u16,
    content: &[u8],
) -> Vec<u8> {
    let bytes = answer_bytes(audience, nonce, status, content);
    let signature = hex(hmac::sign(&key(run_key), &bytes).as_ref());
    let line = serde_json::json!({"event": "signed", "signature": signature}).to_string();
    [content, b"\n", line.as_bytes(), b"\n"].concat()
}

/// Why the content of an answer is not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unsealed {
    /// It is not signed.
    Not,
    /// It is signed by another floater, with another key, for another request, or was changed since.
    Otherwise,
}

/// The content of an answer that the floater that was asked gave to the request with this nonce.
///
/// # Errors
/// Why it is not believed.
pub fn unseal<'a>(
    run_key: &[u8],
    audience: &Audience,
    nonce: &Nonce,
    status: u16,
    body: &'a [u8],
) -> Result<&'a [u8], Unsealed> {
    let body = body.strip_suffix(b"\n").unwrap_or(body);
    let end = body
        .iter()
        .rposition(|byte| *byte == b'\n')
        .ok_or(Unsealed::Not)?;
    let (content, line) = (&body[..end], &body[end + 1..]);
    let signature = match serde_json::from_slice(line) {
        Ok(Event::Signed { signature }) if line.len() <= MAX_LINE => signature,
        _ => return Err(Unsealed::Not),
    };
    let tag = unhex_exactly::<32>(&signature).ok_or(Unsealed::Otherwise)?;
    let bytes = answer_bytes(audience, nonce, status, content);
    hmac::verify(&key(run_key), &bytes, &tag).map_err(|_| Unsealed::Otherwise)?;
    Ok(content)
}

fn answer_bytes(audience: &Audience, nonce: &Nonce, status: u16, content: &[u8]) -> Vec<u8> {
    framed(
        "floater answer 2",
        &[
            nonce,
            audience.cluster.as_bytes(),
            audience.node.as_bytes(),
            audience.layer.word().as_bytes(),
            &status.to_be_bytes(),
            &sha256(content),
        ],
    )
}

pub(super) fn key(run_key: &[u8]) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, run_key)
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut sum = [0; 32];
    sum.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    sum
}

/// A decimal number without sign, spaces or leading zeros, so that a header has one form.
fn number(text: &str) -> Option<u64> {
    let plain =
        text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    plain.then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn audience(cluster: &str, node: &str, layer: Layer) -> Audience {
        Audience {
            cluster: cluster.to_owned(),
            node: node.to_owned(),
            layer,
        }
    }

    fn here() -> Audience {
        audience("uid", "n1", Layer::Host)
    }

    fn signed(body: &[u8]) -> SignedRequest {
        let header = sign(b"key", &here(), "POST", "/v2/probe", body, 1000, [7; 16]);
        SignedRequest::parse(&header).expect("its own header")
    }

    #[test]
    fn a_signature_holds_for_its_request_and_its_floater_only() {
        let request = signed(b"body");
        assert_eq!(request.verify(b"key", &here(), "POST", "/v2/probe"), Ok(()));
        assert!(request.is_body(b"body"));
        assert!(!request.is_body(b"bodx") && !request.is_body(b"body "));
        let refused = Err(Refusal::Signature);
        for (key, audience, method, path) in [
            (&b"kex"[..], here(), "POST", "/v2/probe"),
            (b"key", here(), "GET", "/v2/probe"),
            (b"key", here(), "POST", "/v2/probe?a"),
            (
                b"key",
                audience("uie", "n1", Layer::Host),
                "POST",
                "/v2/probe",
            ),
            (
                b"key",
                audience("uid", "n2", Layer::Host),
                "POST",
                "/v2/probe",
            ),
            (
                b"key",
                audience("uidn", "1", Layer::Host),
                "POST",
                "/v2/probe",
            ),
            (
                b"key",
                audience("uid", "n1", Layer::Pod),
                "POST",
                "/v2/probe",
            ),
        ] {
            assert_eq!(request.verify(key, &audience, method, path), refused);
        }
        for changed in [
            SignedRequest {
                time_ms: 1001,
                ..request.clone()
            },
            SignedRequest {
                nonce: [8; 16],
                ..request.clone()
            },
            SignedRequest {
                length: 5,
                ..request.clone()
            },
            SignedRequest {
                sha256: [0; 32],
                ..request.clone()
            },
        ] {
            assert_eq!(
                changed.verify(b"key", &here(), "POST", "/v2/probe"),
                refused
            );
        }
    }

    #[test]
    fn a_request_is_of_now_and_of_this_life() {
        let request = signed(b"");
        let off = |now_ms| Err(Refusal::Clock { now_ms });
        assert_eq!(request.check_time(0, 1000 + AUTH_WINDOW_MS), Ok(()));
        assert_eq!(
            request.check_time(0, 1001 + AUTH_WINDOW_MS),
            off(1001 + AUTH_WINDOW_MS)
        );
        assert_eq!(request.check_time(1000, 1000), Ok(()));
        assert_eq!(request.check_time(1001, 1002), off(1002));
    }

    #[test]
    fn headers_of_other_versions_and_shapes_are_told_apart() {
        let good = sign(b"key", &here(), "GET", "/", b"", 1000, [7; 16]);
        assert_eq!(SignedRequest::parse("v1 1000 00"), Err(Refusal::Version));
        for bad in [
            String::new(),
            "v2".to_owned(),
            format!("{good} x"),
            format!(" {good}"),
            good.replace(" 1000 ", " +1000 "),
            good.replace(" 1000 ", " 01000 "),
            good.replace(" 0 ", " -0 "),
            good.replace("07", "+7"),
            good[..good.len() - 1].to_owned(),
        ] {
            assert_eq!(SignedRequest::parse(&bad), Err(Refusal::Malformed), "{bad}");
        }
    }

    #[test]
    fn an_answer_is_one_floaters_to_one_request() {
        let body = seal(b"key", &here(), &[7; 16], 200, b"tables");
        let open = |audience: &Audience, nonce, status, body: &[u8]| {
            unseal(b"key", audience, &nonce, status, body).map(<[u8]>::to_vec)
        };
        assert_eq!(open(&here(), [7; 16], 200, &body), Ok(b"tables".to_vec()));
        let otherwise = Err(Unsealed::Otherwise);
        let foreign = unseal(b"kex", &here(), &[7; 16], 200, &body);
        assert_eq!(foreign, Err(Unsealed::Otherwise));
        assert_eq!(open(&here(), [8; 16], 200, &body), otherwise);
        assert_eq!(open(&here(), [7; 16], 201, &body), otherwise);
        let changed = [&b"tablet"[..], &body[6..]].concat();
        assert_eq!(open(&here(), [7; 16], 200, &changed), otherwise);
        let other = audience("uid", "n2", Layer::Host);
        assert_eq!(open(&other, [7; 16], 200, &body), otherwise);
        for bad in [
            &b""[..],
            b"\n",
            b"\n\n",
            b"tables",
            b"tables\n",
            &body[..40],
        ] {
            assert_eq!(open(&here(), [7; 16], 200, bad), Err(Unsealed::Not));
        }
        let short = b"tables\n{\"event\":\"signed\",\"signature\":\"00\"}\n";
        assert_eq!(open(&here(), [7; 16], 200, short), otherwise);
        // A whole answer within an answer is content like any other.
        let twice = seal(b"key", &here(), &[7; 16], 200, &body);
        assert_eq!(open(&here(), [7; 16], 200, &twice), Ok(body));
    }

    proptest! {
        #[test]
        fn a_header_is_read_as_it_was_made_or_not_at_all(
            body in prop::collection::vec(any::<u8>(), 0..60),
            time_ms: u64,
            nonce: Nonce,
            at in 0_usize..300,
            byte in 0x20_u8..0x7f,
            text in ".{0,120}",
        ) {
            let header = sign(b"key", &here(), "GET", "/p", &body, time_ms, nonce);
            let request = SignedRequest::parse(&header).expect("its own header");
            prop_assert_eq!((request.time_ms, request.nonce), (time_ms, nonce));
            prop_assert!(request.is_body(&body));
            let mut bytes = header.clone().into_bytes();
            let at = at.min(bytes.len() - 1);
            bytes[at] = byte;
            let changed = String::from_utf8(bytes).expect("ASCII");
            if let Ok(read) = SignedRequest::parse(&changed)
                && !changed.eq_ignore_ascii_case(&header)
            {
                prop_assert!(read.verify(b"key", &here(), "GET", "/p").is_err());
            }
            let _ = SignedRequest::parse(&text);
            let _ = unseal(b"key", &here(), &nonce, 200, &body);
            let sealed = seal(b"key", &here(), &nonce, 200, &body);
            prop_assert_eq!(unseal(b"key", &here(), &nonce, 200, &sealed), Ok(&body[..]));
            let mut changed = sealed.clone();
            let place = at % changed.len();
            changed[place] ^= 1;
            prop_assert!(unseal(b"key", &here(), &nonce, 200, &changed).is_err());
        }
    }
}
