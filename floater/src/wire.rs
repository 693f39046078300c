//! The protocol between a run and its floaters, version 2.
//!
//! | port | request | answer | who may |
//! |---|---|---|---|
//! | 8889, plain | `GET /v2/identity?nonce=HEX` | an [`Identity`] | anybody |
//! | 8889, plain | any other path | `OK` | anybody |
//! | 8890, TLS | `GET /v2/info` | [`Info`] | holders of the run key |
//! | 8890, TLS | `GET /v2/tables` | [`Tables`] | holders of the run key |
//! | 8890, TLS | `POST /v2/tables` with an [`Expectation`] | [`Tables`] without what is as expected | holders of the run key |
//! | 8890, TLS | `POST /v2/probe` with a [`Plan`] | [`Event`]s, one JSON object a line | holders of the run key |
//! | 8890, TLS | `POST /v2/meet` with a [`Meeting`] | [`Met`] | holders of the run key |
//!
//! **Requests** carry [`AUTH_HEADER`]: time, nonce, length and SHA-256 of the body, and an HMAC-SHA256 under the run key
//! over these, the method, the path and the [`Audience`]. A floater checks the header before it reads a byte of the body,
//! reads exactly as much as was signed, and compares the hash. It remembers the nonces of the last
//! 2 × [`AUTH_WINDOW_MS`], at most [`MAX_NONCES`]; when that many are remembered it refuses further requests until the
//! oldest is forgotten. A request that was made before the floater started is refused, so that a restart forgets nothing.
//! A request whose signature holds and whose time is off is told the floater's clock ([`Refusal`]), in a signed answer, so
//! that the window can be small on clocks that differ.
//!
//! **Answers** end in a line [`Event::Signed`] over the request's nonce, the audience, the status and the content ([`seal`]). Streams
//! carry more of these lines: each covers every byte before it, one comes at least every [`HEARTBEAT_MS`], and the
//! last line is one. Only lines that a signature covers are the floater's words. The run key is one per cluster: whoever
//! holds a node of the cluster can speak for its other nodes.
//!
//! **Identity**: a responder's proof binds nonce, cluster, node, and the address and port at which the connection arrived.
//! The run computes the proof that it expects from the address that it asked for or, where the plan translates that one
//! (`globalCIDRsMap`), from the address it is translated to. A relay in between arrives at another address.
//!
//! **Limits** of a plan: [`MAX_BODY`] bytes of JSON, [`MAX_PROBES`] probes, [`MAX_PACKETS`] packets or connections,
//! [`MAX_BYTES`] bytes, [`MAX_SECONDS`], [`MAX_PACKETS_TO_ONE`] to any one address. A plan beyond one of them is refused as
//! a whole, with status 400 and the field. A single probe is not sent, and its outcome says so ([`Failure::Forbidden`]), to
//! loopback, link-local, multicast, unspecified or broadcast addresses, or to a TCP port that [`Plan::ports`] does not list.
//! [`MAX_PLANS`] plans run at a time and share [`CEILING_PPS`].
//!
//! What a floater does not know it never ignores: an unknown field of a plan refuses the plan, an unknown field or
//! protocol of a probe comes back as [`Failure::Unsupported`]. [`Info::capabilities`] lists what it knows. Version 1 is
//! refused with status 400.

mod identity;
mod meeting;
#[cfg(test)]
mod mutations;
mod node;
mod outcome;
mod plan;
mod signature;
mod transcript;

use std::fmt::Write as _;

use datapath::printable::Printable;
use serde::{Deserialize, Deserializer};

pub use identity::{Identity, proof};
pub use meeting::{
    Hearing, MAX_MEETING_MS, MAX_PEERS, MAX_ROUND, MAX_TRIALS, Meeting, Met, Peer, SIZES, Trial,
};
pub use node::{CAPABILITIES, Expectation, Health, Info, Layer, Tables};
pub use outcome::{Event, Failure, Outcome};
pub use plan::{Expect, Plan, Probe, Protocol};
pub use signature::{Audience, Nonce, Refusal, SignedRequest, Unsealed, seal, sign, unseal};
pub use transcript::Transcript;

pub use crate::stats::{Rtt, Times};

/// The protocol's major version.
pub const VERSION: u32 = 2;
/// The responder's port.
pub const PORT: u16 = 8889;
/// The API's port.
pub const API_PORT: u16 = 8890;
/// The request header that proves knowledge of the run key.
pub const AUTH_HEADER: &str = "x-floater-auth";
/// How far a request's time may be from the floater's clock, milliseconds.
pub const AUTH_WINDOW_MS: u64 = 30_000;
/// The most nonces that a floater remembers.
pub const MAX_NONCES: usize = 4096;
/// The longest body of a request, bytes.
pub const MAX_BODY: u64 = 4 << 20;
/// The longest line of a streamed answer, bytes.
pub const MAX_LINE: usize = 64 << 10;
/// How long a stream may be without a signed line, milliseconds.
pub const HEARTBEAT_MS: u64 = 1000;
/// The most probes that a floater sends in a second, over all its plans.
pub const CEILING_PPS: u32 = 20_000;
/// The most plans that run at a time.
pub const MAX_PLANS: usize = 8;
/// The most probes of one plan.
pub const MAX_PROBES: usize = 20_000;
/// The most packets and connections of one plan.
pub const MAX_PACKETS: u64 = 200_000;
/// The most bytes of one plan: payloads, and [`OVERHEAD_BYTES`] for each packet or connection.
pub const MAX_BYTES: u64 = 256 << 20;
/// The longest time that one plan may take by [`Plan::longest`], seconds.
pub const MAX_SECONDS: u64 = 1800;
/// The most packets and connections of one plan to one address.
pub const MAX_PACKETS_TO_ONE: u64 = 2000;
/// The most ports that a plan may list.
pub const MAX_PORTS: usize = 64;
/// What a packet counts beside its payload, bytes.
pub const OVERHEAD_BYTES: u64 = 64;
/// Connections of one plan at once.
pub const CONNECTIONS: usize = 128;

/// The longest text of a failure or a reason, characters.
const LONGEST_TEXT: usize = 256;

/// Lower-case hexadecimal.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
}

/// The bytes of hexadecimal text in either case; none where it is anything else.
#[must_use]
pub fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| {
        char::from(byte)
            .to_digit(16)
            .and_then(|digit| u8::try_from(digit).ok())
    };
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    pairs
        .iter()
        .map(|&[high, low]| Some(digit(high)? << 4 | digit(low)?))
        .collect()
}

/// Exactly so many bytes of hexadecimal text.
fn unhex_exactly<const N: usize>(text: &str) -> Option<[u8; N]> {
    // A text of another length is not even read.
    (text.len() == 2 * N).then(|| unhex(text)?.try_into().ok())?
}

/// Fields in a form that no two lists of fields share: each with its length before it, after a label of its own.
fn framed(label: &str, fields: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for field in std::iter::once(&label.as_bytes()).chain(fields) {
        bytes.extend((field.len() as u64).to_be_bytes());
        bytes.extend_from_slice(field);
    }
    bytes
}

/// Reads text that somebody else wrote as one short printable line.
fn line<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let raw = String::deserialize(deserializer)?;
    Ok(Printable::bounded(&raw, LONGEST_TEXT).as_str().to_owned())
}

/// Reads a list of such lines, the first hundred of them.
fn lines<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let raw = Vec::<String>::deserialize(deserializer)?;
    Ok(raw
        .iter()
        .take(100)
        .map(|raw| Printable::bounded(raw, LONGEST_TEXT).as_str().to_owned())
        .collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_hexadecimal_digits_are_hexadecimal() {
        assert_eq!(unhex(&hex(&[0, 15, 16, 255])), Some(vec![0, 15, 16, 255]));
        assert_eq!(unhex("AbcD"), Some(vec![0xab, 0xcd]));
        assert_eq!(unhex(""), Some(vec![]));
        for text in ["abc", "+f", "-1", "0x", " 1", "é", "0g", "１f"] {
            assert_eq!(unhex(text), None, "{text}");
        }
        assert_eq!(unhex_exactly::<2>("0102"), Some([1, 2]));
        assert_eq!(unhex_exactly::<2>("010203"), None);
    }

    proptest! {
        #[test]
        fn hexadecimal_round_trips(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            prop_assert_eq!(unhex(&hex(&bytes)), Some(bytes));
        }

        #[test]
        fn no_two_lists_of_fields_are_framed_alike(
            left in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..4), 0..4),
            right in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..4), 0..4),
        ) {
            fn bytes(list: &[Vec<u8>]) -> Vec<u8> {
                let fields: Vec<&[u8]> = list.iter().map(Vec::as_slice).collect();
                framed("label", &fields)
            }
            prop_assert_eq!(bytes(&left) == bytes(&right), left == right);
        }
    }
}
