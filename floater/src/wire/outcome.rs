//! What came of a plan.

use std::net::IpAddr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

use super::{Health, Rtt, line};

/// What came of a probe.
///
/// Law: `received + undecided ≤ sent`; what is left failed.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// The probe's id.
    pub id: u32,
    /// Packets or connections tried.
    pub sent: u32,
    /// Those that were answered by the right one.
    pub received: u32,
    /// Those of which nothing can be said: no answer was heard, and this floater was kept from hearing it.
    #[serde(default, skip_serializing_if = "is_none")]
    pub undecided: u32,
    /// Whether this floater was kept from running, beyond what the probe tolerates, while the probe was on its way.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub starved: bool,
    /// What the failures have in common; none when nothing failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    /// The answers' round-trip times; none when there was no answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rtt: Option<Rtt>,
}

/// Of most probes there is nothing to say but that they were answered, so that the rest is left out.
#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes fields by reference"
)]
fn is_none(count: &u32) -> bool {
    *count == 0
}

impl Outcome {
    /// Whether it can be true: no more answered and undecided than sent.
    #[must_use]
    pub fn is_possible(&self) -> bool {
        self.received
            .checked_add(self.undecided)
            .is_some_and(|judged| judged <= self.sent)
            && self
                .rtt
                .as_ref()
                .is_none_or(|rtt| rtt.count() <= u64::from(self.received))
    }
}

/// Why a probe failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "why")]
pub enum Failure {
    /// A limit of the floater forbids the probe: nothing was sent.
    Forbidden {
        /// The limit.
        #[serde(deserialize_with = "line")]
        rule: String,
    },
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
        #[serde(deserialize_with = "line")]
        error: String,
    },
    /// The connection was refused.
    Refused,
    /// No answer within the time.
    Timeout,
    /// Nothing can be said: an answer may have been there and this floater was kept from hearing it.
    Undecided {
        /// By what.
        #[serde(deserialize_with = "line")]
        reason: String,
    },
    /// The floater does not know the probe's protocol or one of its fields: nothing was sent.
    Unsupported {
        /// Which.
        #[serde(deserialize_with = "line")]
        what: String,
    },
    /// Somebody else answered.
    WrongIdentity {
        /// Who it claims to be, as `cluster/node`, or that it did not answer as a floater does. Never the words of a
        /// stranger.
        #[serde(deserialize_with = "line")]
        answered: String,
    },
}

impl Failure {
    /// Whether it says something of the network. An error of the sending system does where a route throws packets away (invalid argument,
    /// permission denied), a filter forbids them on the way out (operation not permitted) or there is no route; not where the sender had no
    /// descriptor, buffer or port left.
    #[must_use]
    pub fn is_about_the_network(&self) -> bool {
        match self {
            Self::Forbidden { .. } | Self::Undecided { .. } | Self::Unsupported { .. } => false,
            Self::IcmpError { .. } | Self::Refused | Self::Timeout | Self::WrongIdentity { .. } => {
                true
            }
            Self::Local { error } => {
                let error = error.to_ascii_lowercase();
                [
                    "unreachable",
                    "no route",
                    "timed out",
                    "host is down",
                    "network is down",
                    "invalid argument",
                    "permission denied",
                    "operation not permitted",
                ]
                .iter()
                .any(|word| error.contains(word))
            }
        }
    }
}

/// A line of the answer to a plan.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "event")]
pub enum Event {
    /// Everything was sent and judged; only a signature follows.
    Done {
        /// Packets and connections tried.
        sent: u64,
        /// From the first packet to the last verdict, microseconds.
        elapsed_us: u64,
        /// How the floater fared during the plan.
        health: Health,
    },
    /// One probe is judged.
    Outcome(Outcome),
    /// All lines before this one are the floater's: [`Transcript::signature`](super::Transcript::signature).
    Signed {
        /// Hexadecimal.
        signature: String,
    },
}

/// A line as it is read: the fields of all events side by side. A tagged enum keeps the whole line in memory until it has found the tag,
/// and a run of thousands of clusters reads a million lines.
#[derive(Deserialize)]
struct Line {
    event: Word,
    id: Option<u32>,
    sent: Option<u64>,
    received: Option<u32>,
    #[serde(default)]
    undecided: u32,
    #[serde(default)]
    starved: bool,
    #[serde(default)]
    failure: Option<Failure>,
    #[serde(default)]
    rtt: Option<Rtt>,
    elapsed_us: Option<u64>,
    health: Option<Health>,
    signature: Option<String>,
}

/// Which event a line is.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Word {
    Done,
    Outcome,
    Signed,
}

impl TryFrom<Line> for Event {
    type Error = &'static str;

    fn try_from(line: Line) -> Result<Self, Self::Error> {
        match line.event {
            Word::Done => Ok(Self::Done {
                sent: line.sent.ok_or("sent is missing")?,
                elapsed_us: line.elapsed_us.ok_or("elapsed_us is missing")?,
                health: line.health.ok_or("health is missing")?,
            }),
            Word::Outcome => Ok(Self::Outcome(Outcome {
                id: line.id.ok_or("id is missing")?,
                sent: line.sent.ok_or("sent is missing").and_then(|sent| {
                    u32::try_from(sent).map_err(|_| "sent is larger than 32 bits")
                })?,
                received: line.received.ok_or("received is missing")?,
                undecided: line.undecided,
                starved: line.starved,
                failure: line.failure,
                rtt: line.rtt,
            })),
            Word::Signed => Ok(Self::Signed {
                signature: line.signature.ok_or("signature is missing")?,
            }),
        }
    }
}

impl<'de> Deserialize<'de> for Event {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let line = Line::deserialize(deserializer)?;
        Self::try_from(line).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As a tagged enum would read them.
    #[test]
    fn lines_are_read_as_they_are_written_and_what_they_lack_is_said() {
        let outcome = Outcome {
            id: 7,
            sent: 3,
            received: 2,
            failure: Some(Failure::Timeout),
            rtt: Rtt::of([100, 200]),
            ..Outcome::default()
        };
        for event in [
            Event::Outcome(outcome),
            Event::Done {
                sent: u64::MAX,
                elapsed_us: 5,
                health: Health::default(),
            },
            Event::Signed {
                signature: "ab".to_owned(),
            },
        ] {
            let text = serde_json::to_string(&event).expect("plain data");
            assert_eq!(
                serde_json::from_str::<Event>(&text).expect("its own"),
                event
            );
        }
        for (line, why) in [
            (
                r#"{"event":"outcome","id":1,"sent":1}"#,
                "received is missing",
            ),
            (
                r#"{"event":"outcome","sent":1,"received":1}"#,
                "id is missing",
            ),
            (
                r#"{"event":"outcome","id":1,"sent":4294967296,"received":1}"#,
                "32 bits",
            ),
            (r#"{"event":"done","sent":1}"#, "elapsed_us is missing"),
            (r#"{"event":"signed"}"#, "signature is missing"),
            (r#"{"event":"else"}"#, "unknown variant"),
            (r#"{"id":1}"#, "missing field `event`"),
            ("[]", "invalid"),
        ] {
            let error = serde_json::from_str::<Event>(line).expect_err("it lacks something");
            assert!(error.to_string().contains(why), "{line}: {error}");
        }
    }

    #[test]
    fn an_error_of_the_sender_tells_of_the_network_only_where_its_tables_speak() {
        let local = |errno: i32| Failure::Local {
            error: std::io::Error::from_raw_os_error(errno).to_string(),
        };
        for errno in [
            libc::ENETUNREACH,
            libc::EHOSTUNREACH,
            libc::EPERM,
            libc::EACCES,
            libc::EINVAL,
        ] {
            assert!(local(errno).is_about_the_network(), "{errno}");
        }
        for errno in [
            libc::EMFILE,
            libc::ENFILE,
            libc::ENOBUFS,
            libc::ENOMEM,
            libc::EADDRNOTAVAIL,
            libc::EADDRINUSE,
        ] {
            assert!(!local(errno).is_about_the_network(), "{errno}");
        }
        assert!(Failure::Timeout.is_about_the_network());
    }
}
