//! The probe machine: what to send, when, and what became of it. No sockets, no clock.
//!
//! A driver tells it when it woke ([`Session::wake`]) and what happened ([`Session::handle`]), asks what to do
//! ([`Session::poll`]) and until when it may sleep ([`Session::deadline`]). Time is a [`Duration`] since a moment of the
//! driver's choosing.
//!
//! ```text
//!               ┌────────────── bucket, room in the lane, gap since the probe's last packet
//!               ▼
//!   queued ─► in flight ─► answered ─────────────┐
//!                 │  ├───► refused, ICMP error,  ├─► judged ─► the probe's Outcome once all are
//!                 │  │     wrong identity, local │
//!                 │  ├───► timed out ────────────┤
//!                 │  └───► undecided ────────────┘
//!                 └ late and duplicate answers are counted, once each, and change no verdict
//! ```
//!
//! Law, at any moment: sent = sum of verdicts + in flight ([`Counts`]).
//!
//! A lane (ICMP, ICMPv6, TCP) never has more in flight than its socket can hold answers for, so that a floater that was
//! not scheduled for a while finds every answer waiting and no stall can pass for a loss. For that the driver reads its
//! sockets empty between waking and polling, with the time from before it read: only `poll` judges what has timed out.
//!
//! **Lateness.** The session knows until when its driver meant to sleep, so it knows how late it woke. An answer that the
//! kernel has stamped is in time by its stamps, whenever it was read; one without a stamp may have waited since the driver
//! should have woken, and counts from then. A connection needs the driver in the middle, so it gets the time back by
//! which the driver was late, and no more. What times out although the driver was late by more than an eighth of the
//! probe's time while it was on its way is undecided, not lost: the lateness has a cause, and that cause may have kept
//! others from answering as well.

mod bucket;
mod driver;
mod lane;

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hasher};
use std::net::IpAddr;
use std::time::Duration;

pub use bucket::Bucket;
pub use driver::{Command, Input};
use lane::{Heard, Slot, Window};

use crate::stats::Recorder;
use crate::wire::{Event, Failure, Health, Outcome, Plan, Protocol};

/// The least time between two packets of one probe.
pub const GAP: Duration = Duration::from_millis(20);

/// What one small answer and one transmit time stamp take of a socket's receive buffer, bytes.
pub const ANSWER_BYTES: usize = 1664;

/// Waking later than this after the time that was asked for is a missed tick.
pub const TOLERANCE: Duration = Duration::from_millis(10);

/// The longest sleep while connections are under way, so that a stall is noticed while it can be made up for.
pub const TICK: Duration = Duration::from_millis(50);

/// A driver that is late by more than this part of a probe's time has no say in whether it was lost.
const STARVED: u32 = 8;

/// Sockets that do not share a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// Echoes over IPv4.
    Icmp4,
    /// Echoes over IPv6.
    Icmp6,
    /// Connections.
    Tcp,
}

const LANES: [Lane; 3] = [Lane::Icmp4, Lane::Icmp6, Lane::Tcp];

/// One packet or connection of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token {
    /// Its lane.
    pub lane: Lane,
    /// Counted from 0 within the lane.
    pub number: u64,
}

impl Token {
    /// The low 16 bits: the sequence number of an echo, unique among those in flight.
    #[must_use]
    pub fn sequence(self) -> u16 {
        (self.number & 0xffff) as u16
    }
}

/// What the driver's sockets can hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The receive buffer of the ICMP socket, bytes, as the kernel granted it.
    pub icmp4_bytes: usize,
    /// The receive buffer of the ICMPv6 socket, bytes, as the kernel granted it.
    pub icmp6_bytes: usize,
    /// Connections at once.
    pub connections: usize,
    /// Random: what nobody else knows about our payloads.
    pub secret: u64,
}

/// What has been counted. The first seven are verdicts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Answered by the right one in time.
    pub replies: u64,
    /// Refused connections.
    pub refused: u64,
    /// ICMP errors.
    pub icmp_errors: u64,
    /// Answered by somebody else.
    pub wrong: u64,
    /// Not even sent.
    pub local: u64,
    /// Never answered, or too late.
    pub timeouts: u64,
    /// Never heard, by a driver that may have been kept from hearing.
    pub undecided: u64,
    /// Everything tried.
    pub sent: u64,
    /// Answers that came after the time was over.
    pub late: u64,
    /// Answers to what was answered already.
    pub duplicates: u64,
    /// Answers to nothing of ours: wrong cookie, wrong sender, never sent.
    pub strays: u64,
    /// Round-trip times by the session's clock, for want of a plausible pair of the kernel's.
    pub unstamped: u64,
}

impl Counts {
    /// The sum of verdicts.
    #[must_use]
    pub fn judged(&self) -> u64 {
        self.replies
            + self.refused
            + self.icmp_errors
            + self.wrong
            + self.local
            + self.timeouts
            + self.undecided
    }
}

/// One plan on its way.
pub struct Session {
    probes: Vec<Track>,
    lanes: [Window; 3],
    turn: usize,
    bucket: Bucket,
    allowance_pps: u32,
    cookies: Cookies,
    counts: Counts,
    unsent: u64,
    events: VecDeque<Event>,
    abandon: VecDeque<Token>,
    started: Option<Duration>,
    finished: bool,
    /// Until when the driver meant to sleep.
    asked: Option<Duration>,
    /// How late it woke this time.
    late: Duration,
    /// How late it woke altogether.
    lateness: Duration,
    health: Health,
}

/// What is known of one probe.
struct Track {
    id: u32,
    dst: IpAddr,
    payload_bytes: u16,
    count: u32,
    sent: u32,
    judged: u32,
    received: u32,
    undecided: u32,
    starved: bool,
    failure: Option<Failure>,
    times: Recorder,
}

impl Session {
    /// A session of a plan. Probes that ask for no packet are judged at once.
    #[must_use]
    pub fn new(plan: &Plan, limits: Limits) -> Self {
        let mut lanes = [
            Window::new(limits.icmp4_bytes),
            Window::new(limits.icmp6_bytes),
            Window::new(limits.connections),
        ];
        let probes: Vec<Track> = plan
            .probes
            .iter()
            .map(|probe| Track {
                id: probe.id,
                dst: probe.dst.to_canonical(),
                payload_bytes: probe.payload_bytes,
                count: u32::from(probe.count),
                sent: 0,
                judged: 0,
                received: 0,
                undecided: 0,
                starved: false,
                failure: None,
                times: Recorder::default(),
            })
            .collect();
        let mut events = VecDeque::new();
        for (index, probe) in plan.probes.iter().enumerate() {
            if probe.count == 0 {
                events.push_back(Event::Outcome(probes[index].outcome()));
                continue;
            }
            let (lane, cost) = match probe.protocol {
                Protocol::Icmp if probes[index].dst.is_ipv4() => {
                    (Lane::Icmp4, answer_bytes(probe.payload_bytes))
                }
                Protocol::Icmp => (Lane::Icmp6, answer_bytes(probe.payload_bytes)),
                Protocol::Tcp => (Lane::Tcp, 1),
            };
            lanes[lane as usize].enqueue(index, cost, plan.timeout(probe));
        }
        Self {
            unsent: probes.iter().map(|probe| u64::from(probe.count)).sum(),
            probes,
            lanes,
            turn: 0,
            bucket: Bucket::new(plan.budget_pps),
            allowance_pps: plan.budget_pps,
            cookies: Cookies {
                secret: limits.secret,
            },
            counts: Counts::default(),
            events,
            abandon: VecDeque::new(),
            started: None,
            finished: false,
            asked: None,
            late: Duration::ZERO,
            lateness: Duration::ZERO,
            health: Health::default(),
        }
    }

    /// The driver runs again, after it had asked for a deadline and before it reads what has come.
    pub fn wake(&mut self, now: Duration) {
        self.late = now.saturating_sub(self.asked.take().unwrap_or(now));
        if self.late <= TOLERANCE {
            self.late = Duration::ZERO;
            return;
        }
        self.lateness += self.late;
        self.health.missed_ticks += 1;
        let late_us = u64::try_from(self.late.as_micros()).unwrap_or(u64::MAX);
        self.health.worst_lateness_us = self.health.worst_lateness_us.max(late_us);
        self.lanes[Lane::Tcp as usize].postpone(self.late);
    }

    /// No more than so many packets per second from now on, whatever the plan allows.
    pub fn limit(&mut self, now: Duration, most_pps: u32, plan: &Plan) {
        let allowance = plan.budget_pps.min(most_pps);
        if allowance != self.allowance_pps {
            self.allowance_pps = allowance;
            self.bucket.set_allowance(now, allowance);
        }
    }

    /// How the driver has fared so far, as far as the session knows.
    #[must_use]
    pub fn health(&self) -> Health {
        self.health
    }

    /// The next thing to do; to be asked until there is none.
    pub fn poll(&mut self, now: Duration) -> Option<Command> {
        self.started.get_or_insert(now);
        self.expire(now);
        if let Some(token) = self.abandon.pop_front() {
            return Some(Command::Abandon { token });
        }
        // Lanes take turns, so that a full one holds up nobody else.
        let lane = (0..LANES.len())
            .map(|step| LANES[(self.turn + step) % LANES.len()])
            .find(|lane| self.lanes[*lane as usize].ready(now))?;
        if !self.bucket.take(now) {
            return None;
        }
        self.turn = (lane as usize + 1) % LANES.len();
        let (number, probe) = self.lanes[lane as usize].launch(now, self.lateness);
        let token = Token { lane, number };
        let track = &mut self.probes[probe];
        track.sent += 1;
        self.counts.sent += 1;
        self.unsent -= 1;
        let (dst, payload_bytes) = (track.dst, track.payload_bytes);
        if track.sent < track.count {
            self.lanes[lane as usize].again(now + GAP);
        } else {
            self.lanes[lane as usize].done();
        }
        Some(match lane {
            Lane::Icmp4 | Lane::Icmp6 => Command::Echo {
                token,
                cookie: self.cookies.of(token),
                dst,
                payload_bytes,
            },
            Lane::Tcp => Command::Connect { token, probe },
        })
    }

    /// When there will be something to do without anything happening; none once all is judged.
    ///
    /// Sending waits for a worthwhile burst rather than for the next token. How late the driver wakes is counted from here.
    pub fn deadline(&mut self, now: Duration) -> Option<Duration> {
        self.asked = self.next(now);
        self.asked
    }

    fn next(&mut self, now: Duration) -> Option<Duration> {
        if !self.abandon.is_empty() {
            return Some(now);
        }
        let expiry = self.lanes.iter().filter_map(Window::expiry).min();
        let eligible = self.lanes.iter().filter_map(Window::eligible).min();
        let unsent = usize::try_from(self.unsent).unwrap_or(usize::MAX);
        let send = eligible.map(|at| at.max(self.bucket.ready_at(now, unsent)));
        let connecting = self.lanes[Lane::Tcp as usize].in_flight() > 0;
        let tick = connecting.then(|| now + TICK);
        expiry.into_iter().chain(send).chain(tick).min()
    }

    /// Takes in what happened at `now`.
    pub fn handle(&mut self, now: Duration, input: Input) {
        match input {
            Input::Connected { token, result } => {
                let Some(slot) = self.lanes[token.lane as usize].judge(token.number, Heard::Answer)
                else {
                    // Abandoned while its answer was on the way.
                    self.unexpected(token);
                    return;
                };
                self.judge(slot.probe, result);
            }
            Input::IcmpError {
                lane,
                sequence,
                dst,
                from,
                kind,
                code,
            } => self.icmp_error(lane, sequence, dst, Failure::IcmpError { from, kind, code }),
            Input::Overflowed { lane, drops } => {
                self.health.receive_drops += u64::from(drops);
                self.lanes[lane as usize].suspect();
            }
            Input::Reply {
                token,
                cookie,
                from,
                received,
            } => self.reply(now, token, cookie, from, received),
            Input::SendFailed {
                token,
                error,
                short,
            } => {
                if short {
                    self.bucket.brake(now);
                }
                if let Some(slot) =
                    self.lanes[token.lane as usize].judge(token.number, Heard::Answer)
                {
                    self.judge(slot.probe, Err(Failure::Local { error }));
                }
            }
            Input::Sending { token, at } => {
                if let Some(slot) = self.lanes[token.lane as usize].slot(token.number) {
                    slot.user = Some(at);
                }
            }
            Input::Transmitted { token, cookie, at } => {
                if cookie != self.cookies.of(token) {
                    return;
                }
                if let Some(slot) = self.lanes[token.lane as usize].slot(token.number) {
                    // A tunnel and the device below it may both stamp: the first is nearest to us.
                    slot.kernel.get_or_insert(at);
                }
            }
        }
    }

    /// The next line of the answer. The last is [`Event::Done`].
    pub fn event(&mut self, now: Duration) -> Option<Event> {
        if let Some(event) = self.events.pop_front() {
            return Some(event);
        }
        if self.finished || self.unsent > 0 || self.in_flight() > 0 {
            return None;
        }
        self.finished = true;
        let elapsed = now.saturating_sub(self.started.unwrap_or(now));
        Some(Event::Done {
            sent: self.counts.sent,
            elapsed_us: u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX),
            health: self.health,
        })
    }

    /// Whether everything was sent and judged and told.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.finished
    }

    /// Whether anything is still to be sent.
    #[must_use]
    pub fn is_sending(&self) -> bool {
        self.unsent > 0
    }

    /// What has been counted so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Sent and not judged.
    #[must_use]
    pub fn in_flight(&self) -> u64 {
        self.lanes.iter().map(Window::in_flight).sum()
    }

    fn expire(&mut self, now: Duration) {
        for lane in LANES {
            while let Some((number, slot)) = self.lanes[lane as usize].expire(now) {
                if lane == Lane::Tcp {
                    self.abandon.push_back(Token { lane, number });
                }
                let failure = self.silence(&slot);
                self.judge(slot.probe, Err(failure));
            }
        }
    }

    /// What it means that nothing was heard of it in time.
    fn silence(&mut self, slot: &Slot) -> Failure {
        let late = self.lateness.saturating_sub(slot.lateness);
        let starved = late > slot.timeout / STARVED;
        self.probes[slot.probe].starved |= starved;
        let reason = if slot.suspect {
            "the floater's receive buffer ran over: perhaps it was answered".to_owned()
        } else if starved {
            format!(
                "the floater was kept from running for {} ms of the {} ms that it waited",
                late.as_millis(),
                slot.timeout.as_millis()
            )
        } else {
            return Failure::Timeout;
        };
        Failure::Undecided { reason }
    }

    fn reply(
        &mut self,
        now: Duration,
        token: Token,
        cookie: u64,
        from: IpAddr,
        received: Option<Duration>,
    ) {
        if cookie != self.cookies.of(token) {
            self.counts.strays += 1;
            return;
        }
        let Some(slot) = self.lanes[token.lane as usize].slot(token.number).copied() else {
            self.unexpected(token);
            return;
        };
        if self.probes[slot.probe].dst != from.to_canonical() {
            self.counts.strays += 1;
            return;
        }
        let (rtt, stamped) = slot.rtt(now, received);
        // What the kernel stamped is late by its stamps, whenever it was read; else the session's own time decides.
        // It may have waited to be read since the driver should have woken.
        let late = if stamped {
            rtt > slot.timeout
        } else {
            now.saturating_sub(self.late) > slot.deadline
        };
        let heard = if late { Heard::TooLate } else { Heard::Answer };
        self.lanes[token.lane as usize].judge(token.number, heard);
        if late {
            self.counts.late += 1;
            // With a stamp it is known to be late, whoever slept.
            let failure = if stamped {
                Failure::Timeout
            } else {
                self.silence(&slot)
            };
            self.judge(slot.probe, Err(failure));
        } else {
            self.counts.unstamped += u64::from(!stamped);
            self.judge(slot.probe, Ok(rtt));
        }
    }

    fn icmp_error(&mut self, lane: Lane, sequence: u16, dst: IpAddr, failure: Failure) {
        let window = &mut self.lanes[lane as usize];
        let Some(number) = window.number(sequence) else {
            self.counts.strays += 1;
            return;
        };
        let token = Token { lane, number };
        let Some(slot) = window.slot(number).copied() else {
            self.unexpected(token);
            return;
        };
        if self.probes[slot.probe].dst != dst.to_canonical() {
            self.counts.strays += 1;
            return;
        }
        window.judge(number, Heard::Answer);
        self.judge(slot.probe, Err(failure));
    }

    /// An answer to something that is not in flight.
    fn unexpected(&mut self, token: Token) {
        match self.lanes[token.lane as usize].hear_again(token.number) {
            Some(Heard::Nothing) => self.counts.late += 1,
            Some(Heard::Answer | Heard::TooLate) => self.counts.duplicates += 1,
            None => self.counts.strays += 1,
        }
    }

    fn judge(&mut self, probe: usize, verdict: Result<Duration, Failure>) {
        let track = &mut self.probes[probe];
        track.judged += 1;
        match verdict {
            Ok(rtt) => {
                self.counts.replies += 1;
                track.received += 1;
                track
                    .times
                    .record(u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX));
            }
            Err(failure) => {
                track.undecided += u32::from(matches!(failure, Failure::Undecided { .. }));
                *match failure {
                    // No driver says that a probe which it was asked to send may not be sent.
                    Failure::Forbidden { .. }
                    | Failure::Local { .. }
                    | Failure::Unsupported { .. } => &mut self.counts.local,
                    Failure::IcmpError { .. } => &mut self.counts.icmp_errors,
                    Failure::Refused => &mut self.counts.refused,
                    Failure::Timeout => &mut self.counts.timeouts,
                    Failure::Undecided { .. } => &mut self.counts.undecided,
                    Failure::WrongIdentity { .. } => &mut self.counts.wrong,
                } += 1;
                if track
                    .failure
                    .as_ref()
                    .is_none_or(|known| telling(&failure) > telling(known))
                {
                    track.failure = Some(failure);
                }
            }
        }
        if track.judged == track.count {
            let outcome = track.outcome();
            track.times = Recorder::default();
            self.events.push_back(Event::Outcome(outcome));
        }
    }
}

impl Track {
    fn outcome(&self) -> Outcome {
        Outcome {
            id: self.id,
            sent: self.sent,
            received: self.received,
            undecided: self.undecided,
            starved: self.starved,
            failure: self.failure.clone(),
            rtt: self.times.rtt(),
        }
    }
}

/// Of several failures of one probe the one that says most is reported.
fn telling(failure: &Failure) -> u8 {
    match failure {
        Failure::Undecided { .. } => 0,
        Failure::Timeout => 1,
        Failure::Forbidden { .. } | Failure::Local { .. } | Failure::Unsupported { .. } => 2,
        Failure::Refused => 3,
        Failure::IcmpError { .. } => 4,
        Failure::WrongIdentity { .. } => 5,
    }
}

/// What an answer and its time stamp take of a receive buffer: the kernel charges whole allocations, powers of two.
fn answer_bytes(payload_bytes: u16) -> usize {
    if payload_bytes <= 128 {
        ANSWER_BYTES
    } else {
        2 * ((usize::from(payload_bytes) + 512).next_power_of_two() + 512)
    }
}

/// Makes and knows the cookies of a session: a keyed hash (SipHash) of the token.
struct Cookies {
    secret: u64,
}

impl Cookies {
    fn of(&self, token: Token) -> u64 {
        let mut hasher = DefaultHasher::new();
        hasher.write_u64(self.secret);
        hasher.write_u8(token.lane as u8);
        hasher.write_u64(token.number);
        hasher.finish()
    }
}

#[cfg(test)]
mod tests;
