//! A million answers, requests and packets that no floater makes, given to every reader of the protocol: none panics, and what is
//! read is within what the reader promises.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::*;
use crate::probe::{icmp, tcp};
use crate::session::Lane;

/// Of each kind: texts, headers and bodies, packets.
const CASES: u64 = 340_000;

/// A small generator (splitmix64): proptest's strategies alone would take most of the time.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut value = self.0;
        value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ (value >> 31)
    }

    #[expect(clippy::cast_possible_truncation, reason = "below a usize")]
    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }

    fn bytes(&mut self, most: usize) -> Vec<u8> {
        let count = self.below(most);
        let words = std::iter::repeat_with(|| self.next().to_ne_bytes());
        let mut bytes: Vec<u8> = words.take(count / 8 + 1).flatten().collect();
        bytes.truncate(count);
        bytes
    }

    /// One of these with some places changed, cut off, put in or taken twice; or no message at all.
    fn changed(&mut self, valid: &[Vec<u8>]) -> Vec<u8> {
        if self.below(8) == 0 {
            return self.bytes(200);
        }
        let mut bytes = valid[self.below(valid.len())].clone();
        for _ in 0..1 + self.below(3) {
            let at = self.below(bytes.len());
            match self.below(5) {
                0 => bytes.truncate(at),
                1 => {
                    let more = self.bytes(12);
                    bytes.splice(at..at, more);
                }
                2 => {
                    let end = (at + self.below(20)).min(bytes.len());
                    let twice = bytes[at..end].to_vec();
                    bytes.splice(at..at, twice);
                }
                // Digits and signs make other numbers of numbers.
                3 if at < bytes.len() => bytes[at] = b"0129-.eE+\"{}[],:tfn\\"[self.below(20)],
                _ if at < bytes.len() => bytes[at] ^= 1 << self.below(8),
                _ => {}
            }
        }
        bytes
    }
}

fn texts() -> Vec<Vec<u8>> {
    let from: IpAddr = [10, 0, 0, 1].into();
    let outcome = Outcome {
        id: 7,
        sent: 20,
        received: 18,
        failure: Some(Failure::IcmpError {
            from,
            kind: 3,
            code: 1,
        }),
        rtt: Rtt::of((0..40).map(|sample| 90 + sample * 17)),
        ..Outcome::default()
    };
    let health = Health {
        run_queue_delay_us: Some(9),
        ..Health::default()
    };
    let events = [
        Event::Outcome(outcome),
        Event::Done {
            sent: 20,
            elapsed_us: 400_000,
            health,
        },
        Event::Signed {
            signature: "ab".repeat(32),
        },
    ];
    let whole = [
        serde_json::json!(Info {
            version: VERSION,
            program: "1".to_owned(),
            run: "0123".to_owned(),
            cluster: "uid".to_owned(),
            node: "n1".to_owned(),
            layer: Layer::Pod,
            port: PORT,
            capabilities: CAPABILITIES.map(str::to_owned).to_vec(),
            health,
        }),
        serde_json::json!({"version": 2, "node": "n1", "missing": [], "state": datapath::state::NodeState::default()}),
        serde_json::json!({"cluster": "uid", "node": "n1", "proof": "ab".repeat(32)}),
        serde_json::json!({"refusal": "clock", "now_ms": 1_700_000_000_000_u64}),
    ];
    let events = events.iter().map(|event| serde_json::json!(event));
    events
        .chain(whole)
        .map(|value| value.to_string().into_bytes())
        .collect()
}

/// What is read of a text by each reader, by the reader: how often it read something.
fn read_text(bytes: &[u8], read: &mut BTreeMap<&'static str, u64>) {
    let mut count = |reader, is_read: bool| *read.entry(reader).or_default() += u64::from(is_read);
    let event = serde_json::from_slice::<Event>(bytes);
    count("event", event.is_ok());
    if let Ok(Event::Outcome(outcome)) = event {
        let samples = outcome.rtt.as_ref().map_or(0, Rtt::count);
        // A histogram is unfolded by whoever merges it: it may not be more than it says.
        assert!(crate::stats::merge(&outcome.rtt).is_none_or(|all| all.count() <= samples));
        let _ = outcome.is_possible();
    }
    count("info", serde_json::from_slice::<Info>(bytes).is_ok());
    count("tables", serde_json::from_slice::<Tables>(bytes).is_ok());
    count(
        "identity",
        serde_json::from_slice::<Identity>(bytes).is_ok(),
    );
    count("refusal", serde_json::from_slice::<Refusal>(bytes).is_ok());
}

#[test]
fn texts_that_no_floater_says_are_refused_or_read_within_bounds() {
    let valid = texts();
    let mut chance = Chance(1);
    let mut read = BTreeMap::new();
    for _ in 0..CASES {
        let bytes = chance.changed(&valid);
        read_text(&bytes, &mut read);
    }
    for bytes in &valid {
        read_text(bytes, &mut read);
    }
    assert!(read.values().all(|count| *count > 0), "{read:?}");
}

#[test]
fn headers_and_bodies_that_nobody_signed_are_refused() {
    let audience = Audience {
        cluster: "uid".to_owned(),
        node: "n1".to_owned(),
        layer: Layer::Host,
    };
    let nonce = [7; 16];
    let header = sign(b"key", &audience, "GET", "/v2/info", b"", 1000, nonce);
    let body = seal(b"key", &audience, &nonce, 200, b"{\"version\":2}");
    let (headers, bodies) = ([header.clone().into_bytes()], [body.clone()]);
    let mut chance = Chance(2);
    for _ in 0..CASES / 2 {
        let text = chance.changed(&headers);
        let text = String::from_utf8_lossy(&text);
        if let Ok(request) = SignedRequest::parse(&text) {
            let holds = request.verify(b"key", &audience, "GET", "/v2/info");
            assert!(
                holds.is_err() || text.eq_ignore_ascii_case(&header),
                "{text}"
            );
        }
        let changed = chance.changed(&bodies);
        if let Ok(content) = unseal(b"key", &audience, &nonce, 200, &changed) {
            assert_eq!(content, b"{\"version\":2}");
        }
    }
}

#[test]
fn packets_and_answers_that_nobody_sends_are_no_replies() {
    let expect = Expect {
        nonce: "00".repeat(16),
        proof: "ab".repeat(32),
    };
    let answer = format!(
        "HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{{\"cluster\":\"uid\",\"node\":\"n1\",\"proof\":\"{}\"}}",
        "cd".repeat(32)
    );
    let mut packets = Vec::new();
    for lane in [Lane::Icmp4, Lane::Icmp6] {
        let token = crate::session::Token { lane, number: 3 };
        let mut packet = Vec::new();
        icmp::request(&mut packet, 1, icmp::Mark { token, cookie: 4 }, 56);
        packets.push(packet.clone());
        packet[0] = if lane == Lane::Icmp4 { 0 } else { 129 };
        packets.push(packet);
    }
    let answers = [answer.into_bytes()];
    let mut chance = Chance(3);
    for _ in 0..CASES {
        let packet = chance.changed(&packets);
        for lane in [Lane::Icmp4, Lane::Icmp6] {
            let _ = (
                icmp::reply(lane, true, &packet),
                icmp::reply(lane, false, &packet),
                icmp::mark(lane, &packet),
                icmp::quoted(lane, Some(1), &packet),
            );
        }
        let answer = chance.changed(&answers);
        let _ = tcp::is_whole(&answer);
        assert!(tcp::judge(&answer, &expect).is_err());
    }
}
