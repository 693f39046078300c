//! A meeting of floaters: who has heard what of whom. No socket, no clock.
//!
//! ```text
//!   every ROUND:  for each peer, each trial that it has not said that it heard ──► datagram (trial, what we heard of this peer)
//!   datagram in:  the trial is heard; what its sender has heard of us is noted
//!   over:         everything heard and confirmed, and told so LAST times; or the time is up
//! ```
//!
//! A datagram, behind its UDP header: magic (4), token (16), sender's and receiver's number (2, 2), trial (2), pad (2), what the sender has
//! heard of the receiver, a bit for each trial (4), zeroes to its size. Numbers are big-endian.

use std::time::Duration;

use crate::wire::{Hearing, Meeting, Trial};

/// Between two rounds of datagrams.
pub const ROUND: Duration = Duration::from_millis(100);
/// How many rounds follow the one in which everything is known, so that the others know it, too.
const LAST: u32 = 3;
/// What a datagram begins with.
pub const MAGIC: [u8; 4] = *b"flt\x02";
/// Bytes of a datagram that are not zero.
pub const CONTENT: usize = 32;

/// A meeting as one of its floaters sees it.
#[derive(Debug)]
pub struct Session {
    token: [u8; 16],
    number: u16,
    trials: Vec<Trial>,
    peers: Vec<Known>,
    /// When the next round is due.
    next: Duration,
    end: Duration,
    /// Rounds that are still to come once everything is known.
    last: u32,
}

#[derive(Debug)]
struct Known {
    number: u16,
    /// The trials of it that were heard, a bit each.
    heard: u32,
    /// Those of ours that it says it heard.
    confirmed: u32,
}

/// A datagram to be sent: to the peer at this place of the meeting, as this trial.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Send {
    /// The peer's place in [`Meeting::peers`].
    pub peer: usize,
    /// The trial.
    pub trial: Trial,
    /// What stands before the zeroes.
    pub content: [u8; CONTENT],
}

impl Session {
    /// A meeting that begins; its token as [`Meeting::check`] gives it.
    #[must_use]
    pub fn new(meeting: &Meeting, token: [u8; 16], now: Duration) -> Self {
        let known = |number| Known {
            number,
            heard: 0,
            confirmed: 0,
        };
        Self {
            token,
            number: meeting.number,
            trials: meeting.trials.clone(),
            peers: meeting
                .peers
                .iter()
                .map(|peer| known(peer.number))
                .collect(),
            next: now,
            end: now + Duration::from_millis(meeting.millis.into()),
            last: LAST,
        }
    }

    fn all(&self) -> u32 {
        // At most 32 trials: checked.
        (0..self.trials.len()).fold(0, |bits, at| bits | 1 << at)
    }

    fn is_known(&self) -> bool {
        let all = self.all();
        let mut peers = self.peers.iter();
        peers.all(|peer| peer.heard == all && peer.confirmed == all)
    }

    /// When there is something to do; none once it is over.
    #[must_use]
    pub fn deadline(&self) -> Option<Duration> {
        let is_over = self.next >= self.end || self.is_known() && self.last == 0;
        (!is_over).then_some(self.next)
    }

    /// The datagrams that are due.
    pub fn poll(&mut self, now: Duration) -> Vec<Send> {
        if self.deadline().is_none_or(|due| due > now) {
            return Vec::new();
        }
        self.next = now + ROUND;
        let is_known = self.is_known();
        self.last -= u32::from(is_known);
        let mut sends = Vec::new();
        for (at, peer) in self.peers.iter().enumerate() {
            for (number, trial) in (0_u16..).zip(&self.trials) {
                // What is heard is said with every datagram, so one whose trials are all confirmed still gets the first.
                let is_due = peer.confirmed & 1 << number == 0 || number == 0;
                if is_due {
                    let content = self.content(peer, number);
                    let trial = *trial;
                    sends.push(Send {
                        peer: at,
                        trial,
                        content,
                    });
                }
            }
        }
        sends
    }

    fn content(&self, peer: &Known, trial: u16) -> [u8; CONTENT] {
        let mut content = [0; CONTENT];
        content[..4].copy_from_slice(&MAGIC);
        content[4..20].copy_from_slice(&self.token);
        content[20..22].copy_from_slice(&self.number.to_be_bytes());
        content[22..24].copy_from_slice(&peer.number.to_be_bytes());
        content[24..26].copy_from_slice(&trial.to_be_bytes());
        content[28..].copy_from_slice(&peer.heard.to_be_bytes());
        content
    }

    /// Takes in a datagram that came to a port and had this size with its IP header. What is not of this meeting changes nothing.
    pub fn take(&mut self, port: u16, size: u16, content: &[u8]) {
        let Some(content) = content.get(..CONTENT) else {
            return;
        };
        let half = |at: usize| u16::from_be_bytes([content[at], content[at + 1]]);
        let is_ours =
            content[..4] == MAGIC && content[4..20] == self.token && half(22) == self.number;
        let trial = self.trials.get(usize::from(half(24)));
        let is_whole = trial == Some(&Trial { port, size });
        let all = self.all();
        let Some(peer) = self.peers.iter_mut().find(|peer| peer.number == half(20)) else {
            return;
        };
        if is_ours && is_whole {
            peer.heard |= 1 << half(24);
            let said = [content[28], content[29], content[30], content[31]];
            peer.confirmed |= u32::from_be_bytes(said) & all;
        }
    }

    /// What was heard so far, sorted.
    #[must_use]
    pub fn heard(&self) -> Vec<Hearing> {
        let mut heard: Vec<Hearing> = Vec::new();
        for peer in &self.peers {
            let trials = 0..u16::try_from(self.trials.len()).unwrap_or(u16::MAX);
            let of = trials.filter(|trial| peer.heard & 1 << trial != 0);
            heard.extend(of.map(|trial| Hearing {
                peer: peer.number,
                trial,
            }));
        }
        heard.sort_unstable();
        heard
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::{Peer, VERSION};

    const TOKEN: [u8; 16] = [7; 16];

    fn meeting(number: u16, count: u16) -> Meeting {
        let others = (0..count).filter(|other| *other != number);
        Meeting {
            version: VERSION,
            token: crate::wire::hex(&TOKEN),
            number,
            peers: others
                .map(|number| Peer {
                    number,
                    ip: [10, 0, 0, u8::try_from(number + 1).unwrap_or(1)].into(),
                })
                .collect(),
            trials: [(4876, 128), (4876, 1500), (4877, 128)]
                .map(|(port, size)| Trial { port, size })
                .to_vec(),
            millis: 3000,
        }
    }

    /// A meeting over a network that decides of each datagram whether it passes; how long it took, and what each heard.
    fn held(
        count: u16,
        mut passes: impl FnMut(u16, u16, Trial) -> bool,
    ) -> (Duration, Vec<Vec<Hearing>>) {
        let meetings: Vec<Meeting> = (0..count).map(|number| meeting(number, count)).collect();
        let mut now = Duration::ZERO;
        let mut sessions: Vec<Session> = meetings
            .iter()
            .map(|meeting| Session::new(meeting, meeting.check().expect("sound"), now))
            .collect();
        while let Some(due) = sessions.iter().filter_map(Session::deadline).min() {
            now = now.max(due);
            for at in 0..sessions.len() {
                for send in sessions[at].poll(now) {
                    let (from, to) = (meetings[at].number, meetings[at].peers[send.peer].number);
                    if passes(from, to, send.trial) {
                        let size = send.trial.size;
                        sessions[usize::from(to)].take(send.trial.port, size, &send.content);
                    }
                }
            }
        }
        (now, sessions.iter().map(Session::heard).collect())
    }

    #[test]
    fn everything_that_passes_is_heard_and_then_it_is_over() {
        let (took, heard) = held(3, |_, _, _| true);
        assert!(took < Duration::from_secs(1), "{took:?}");
        assert!(heard.iter().all(|heard| heard.len() == 6), "{heard:?}");
    }

    #[test]
    fn one_direction_of_one_port_is_told_from_the_rest() {
        let (took, heard) = held(2, |from, _, trial| from == 0 || trial.port != 4877);
        assert!(took >= Duration::from_millis(2900), "{took:?}");
        assert_eq!(heard[1].len(), 3, "from 0 everything passes");
        let trials: Vec<u16> = heard[0].iter().map(|hearing| hearing.trial).collect();
        assert_eq!(trials, [0, 1]);
    }

    #[test]
    fn a_meeting_that_breaks_a_rule_is_refused() {
        type Breaks = fn(&mut Meeting);
        let breaks: [(&str, Breaks); 7] = [
            ("version", |meeting| meeting.version = 1),
            ("token", |meeting| meeting.token = "07".to_owned()),
            ("peers", |meeting| {
                meeting.peers[0].ip = [127, 0, 0, 1].into()
            }),
            ("peers", |meeting| meeting.peers[0].number = 0),
            ("peers", |meeting| meeting.peers.push(meeting.peers[0])),
            ("trials", |meeting| meeting.trials[0].size = 20),
            ("millis", |meeting| meeting.millis = 60_000),
        ];
        assert_eq!(meeting(0, 3).check(), Ok(TOKEN));
        for (field, break_it) in breaks {
            let mut broken = meeting(0, 3);
            break_it(&mut broken);
            let rule = broken.check().expect_err(field);
            assert!(rule.starts_with(field), "{rule}");
        }
        let mut large = meeting(0, 60);
        large.trials = vec![large.trials[0]; 10];
        assert!(large.check().is_err(), "too many datagrams a round");
    }

    proptest! {
        /// Bytes of strangers are not heard, whatever they are.
        #[test]
        fn any_bytes_are_survived(port in any::<u16>(), size in any::<u16>(), bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let meeting = meeting(0, 3);
            let mut session = Session::new(&meeting, TOKEN, Duration::ZERO);
            session.take(port, size, &bytes);
            prop_assert!(session.heard().is_empty());
        }

        /// Whatever is lost, nobody hears what did not pass, and everybody ends.
        #[test]
        fn only_what_passes_is_heard(lost in prop::collection::vec(any::<bool>(), 18)) {
            let blocked = |from: u16, to: u16, trial: Trial| {
                let at = if trial.port == 4877 { 2 } else { usize::from(trial.size == 1500) };
                lost[usize::from(from * 3 + to) * 2 % 18] && at != 1
            };
            let (took, heard) = held(3, |from, to, trial| !blocked(from, to, trial));
            prop_assert!(took <= Duration::from_millis(3100));
            let trials = meeting(0, 3).trials;
            for (to, heard) in (0_u16..).zip(heard) {
                for from in (0..3).filter(|from| *from != to) {
                    for (number, trial) in (0_u16..).zip(&trials) {
                        let is_heard = heard.contains(&Hearing { peer: from, trial: number });
                        prop_assert_eq!(is_heard, !blocked(from, to, *trial));
                    }
                }
            }
        }
    }
}
