//! The protocol between a run and its floaters, version 1.
//!
//! | port | what | who may |
//! |---|---|---|
//! | 8889, plain | any path answers `OK`; `/v1/identity?nonce=HEX` answers an [`Identity`] | anybody |
//! | 8890, TLS | `GET /v1/info` → [`Info`]; `GET /v1/tables` → [`Tables`]; `POST /v1/probe` a [`Plan`] → [`Event`]s, one JSON object a line | holders of the run key |
//!
//! Unknown fields are ignored; an unknown major version is refused with status 400. The run key never travels: a
//! request carries [`AUTH_HEADER`], made by [`sign`].

use std::net::IpAddr;

use datapath::state::NodeState;
use ring::hmac;
use serde::{Deserialize, Serialize};

/// The responder's port.
pub const PORT: u16 = 8889;
/// The API's port.
pub const API_PORT: u16 = 8890;
/// The request header that proves knowledge of the run key.
pub const AUTH_HEADER: &str = "x-floater-auth";
/// How far a request's time may be from the floater's clock, seconds.
pub const AUTH_WINDOW_SECONDS: u64 = 300;
/// The most probes that a floater sends in a second, whatever a plan asks for.
pub const CEILING_PPS: u32 = 20_000;
/// The most probes that one plan may hold.
pub const MAX_PROBES: usize = 200_000;

/// What a floater is asked to send.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The major version: 1.
    pub version: u32,
    /// The run that asks.
    pub run: String,
    /// Packets per second over all probes; lowered to [`CEILING_PPS`].
    pub budget_pps: u32,
    /// How long after its last packet a probe may still be answered.
    pub timeout_ms: u32,
    /// The probes, in any order.
    pub probes: Vec<Probe>,
}

/// One destination and how to reach for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// Chosen by the run; comes back in the result.
    pub id: u32,
    /// Where to.
    pub dst: IpAddr,
    /// How.
    pub protocol: Protocol,
    /// The destination port; ignored for ICMP.
    #[serde(default)]
    pub port: u16,
    /// How many packets (ICMP) or connections (TCP), at least 1.
    pub count: u16,
    /// Payload bytes of an ICMP echo.
    #[serde(default)]
    pub payload_bytes: u16,
    /// What the responder has to answer; without it any answer will do.
    #[serde(default)]
    pub expect: Option<Expect>,
}

/// How a probe reaches for its destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// Echo request and reply (RFC 792, RFC 4443); the kernel answers, so it never proves who.
    Icmp,
    /// A connection to the responder, which proves who it is.
    Tcp,
}

/// The proof that only the right responder can give.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expect {
    /// Hexadecimal, chosen by the run.
    pub nonce: String,
    /// Hexadecimal: [`proof`] of the nonce by the destination.
    pub proof: String,
}

/// Who answers a TCP probe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The cluster's id: the uid of its kube-system namespace.
    pub cluster: String,
    /// The node's name.
    pub node: String,
    /// Hexadecimal: [`proof`] of the nonce that was asked with.
    pub proof: String,
}

/// What came of a probe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// The probe's id.
    pub id: u32,
    /// Packets or connections tried.
    pub sent: u32,
    /// Those that were answered by the right one.
    pub received: u32,
    /// What the failures have in common; none when nothing failed.
    #[serde(default)]
    pub failure: Option<Failure>,
    /// The answers' round-trip times; none when there was no answer.
    #[serde(default)]
    pub rtt: Option<Rtt>,
}

/// Why a probe failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "why")]
pub enum Failure {
    /// An ICMP error came back.
    IcmpError {
        /// Who sent it.
        from: IpAddr,
        /// The ICMP type.
        kind: u8,
        /// The ICMP code.
        code: u8,
    },
    /// This node could not even send.
    Local {
        /// The system's words.
        error: String,
    },
    /// The connection was refused.
    Refused,
    /// No answer within the time.
    Timeout,
    /// Somebody else answered.
    WrongIdentity {
        /// Who it claims to be, as `cluster/node`, or what it said instead.
        answered: String,
    },
}

/// Round-trip times of one probe, microseconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rtt {
    /// The least.
    pub min_us: u64,
    /// The median.
    pub p50_us: u64,
    /// The 99th percentile.
    pub p99_us: u64,
    /// The greatest.
    pub max_us: u64,
    /// The histogram, HdrHistogram V2 in base64, for merging.
    pub histogram: String,
}

/// A line of the answer to a plan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "event")]
pub enum Event {
    /// The last line: everything was sent and judged.
    Done {
        /// Packets and connections tried.
        sent: u64,
        /// From the first packet to the last verdict.
        elapsed_us: u64,
    },
    /// One probe is judged.
    Outcome(Outcome),
}

/// Who a floater is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Info {
    /// The wire protocol's major version.
    pub version: u32,
    /// The program's version.
    pub program: String,
    /// The run that started it.
    pub run: String,
    /// The cluster's id.
    pub cluster: String,
    /// The node's name.
    pub node: String,
    /// Which network it stands in.
    pub layer: Layer,
}

/// The network that a floater stands in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Layer {
    /// The node's own.
    Host,
    /// The pods'.
    Pod,
}

/// The tables of the network that a floater stands in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tables {
    /// The wire protocol's major version.
    pub version: u32,
    /// The node's name.
    pub node: String,
    /// The rows.
    pub state: NodeState,
    /// What could not be read, and why; empty when everything could.
    #[serde(default)]
    pub missing: Vec<String>,
}

/// The proof of identity: HMAC-SHA256 under the run key over nonce, cluster id, node, separated by newlines.
#[must_use]
pub fn proof(run_key: &[u8], nonce: &str, cluster: &str, node: &str) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, run_key);
    hex(hmac::sign(
        &key,
        format!("identity\n{nonce}\n{cluster}\n{node}").as_bytes(),
    )
    .as_ref())
}

/// The value of [`AUTH_HEADER`]: `v1 SECONDS HEX`, the HMAC-SHA256 under the run key over method, path, time and body.
#[must_use]
pub fn sign(run_key: &[u8], method: &str, path: &str, body: &[u8], unix_seconds: u64) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, run_key);
    let tag = hmac::sign(&key, &signed(method, path, body, unix_seconds));
    format!("v1 {unix_seconds} {}", hex(tag.as_ref()))
}

fn signed(method: &str, path: &str, body: &[u8], unix_seconds: u64) -> Vec<u8> {
    let mut text = format!("request\n{method}\n{path}\n{unix_seconds}\n").into_bytes();
    text.extend_from_slice(body);
    text
}

/// Whether a header's value was made by [`sign`] with this key, for this request, within [`AUTH_WINDOW_SECONDS`] of `now`.
#[must_use]
pub fn verify(
    run_key: &[u8],
    method: &str,
    path: &str,
    body: &[u8],
    header: &str,
    now: u64,
) -> bool {
    let mut words = header.split(' ');
    let (Some("v1"), Some(seconds), Some(tag), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return false;
    };
    let (Ok(seconds), Some(tag)) = (seconds.parse::<u64>(), unhex(tag)) else {
        return false;
    };
    let key = hmac::Key::new(hmac::HMAC_SHA256, run_key);
    now.abs_diff(seconds) <= AUTH_WINDOW_SECONDS
        && hmac::verify(&key, &signed(method, path, body, seconds), &tag).is_ok()
}

/// Lower-case hexadecimal.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
}

/// The bytes of hexadecimal text; none where it is not.
#[must_use]
pub fn unhex(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) || !text.is_ascii() {
        return None;
    }
    text.as_bytes()
        .chunks(2)
        .map(|pair| {
            std::str::from_utf8(pair)
                .ok()
                .and_then(|pair| u8::from_str_radix(pair, 16).ok())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_holds_for_its_request_and_time_only() {
        let header = sign(b"key", "GET", "/v1/tables", b"", 1000);
        assert!(verify(
            b"key",
            "GET",
            "/v1/tables",
            b"",
            &header,
            1000 + AUTH_WINDOW_SECONDS
        ));
        assert!(!verify(
            b"key",
            "GET",
            "/v1/tables",
            b"",
            &header,
            1001 + AUTH_WINDOW_SECONDS
        ));
        assert!(!verify(b"other", "GET", "/v1/tables", b"", &header, 1000));
        assert!(!verify(b"key", "POST", "/v1/tables", b"", &header, 1000));
        assert!(!verify(b"key", "GET", "/v1/info", b"", &header, 1000));
        assert!(!verify(b"key", "GET", "/v1/tables", b"x", &header, 1000));
        for bad in [
            "",
            "v1",
            "v1 1000 zz",
            "v2 1000 00",
            "v1 1000 00 x",
            "v1 1000 é0",
        ] {
            assert!(
                !verify(b"key", "GET", "/v1/tables", b"", bad, 1000),
                "{bad}"
            );
        }
    }

    #[test]
    fn hexadecimal_round_trips() {
        assert_eq!(unhex(&hex(&[0, 15, 16, 255])), Some(vec![0, 15, 16, 255]));
        assert_eq!(unhex("abc"), None);
    }
}
