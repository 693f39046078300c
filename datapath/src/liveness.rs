//! Whether a tunnel's other end is alive: sessions after RFC 5880 (asynchronous mode), without a clock, a socket or a runtime.
//!
//! ```text
//!                              +--+
//!                              |  | UP, ADMIN DOWN, TIMER
//!                              |  V
//!                      DOWN  +------+  INIT
//!               +------------|      |------------+
//!               |            | DOWN |            |
//!               |  +-------->|      |<--------+  |
//!               |  |         +------+         |  |
//!               |  | ADMIN DOWN,       ADMIN DOWN,|
//!               |  | TIMER             DOWN,  |  |
//!               V  |                   TIMER  |  V
//!             +------+                      +------+
//!        +----|      |                      |      |----+
//!    DOWN|    | INIT |--------------------->|  UP  |    |INIT, UP
//!        +--->|      | INIT, UP             |      |<---+
//!             +------+                      +------+
//! ```
//!
//! Edges are what the other end says of itself (RFC 5880, 6.2), or `TIMER`: it has said nothing for the detection time. Whoever owns a session gives
//! it [packets](Packet) and the time, and takes packets and the next deadline out. Times are since any one moment, and both ends may have moments
//! and even speeds of their own.
//!
//! Beyond the RFC: an end that is `hasty` does not wait for the whole detection time. Once a packet is late, or somebody else says that the other end is
//! dead ([`Session::suspect`]), it asks several times within a short while, and gives the other end up that answers none of these questions. So slow
//! sessions, of which a node can have many, notice a death nearly as fast as fast ones.
//!
//! Left out, and refused where the other end asks for it: demand mode, the echo function, authentication. Packets are those of a tunnel between two
//! nodes that a NodeConfig names; whoever can put one in there can put in anything.

mod packet;
pub mod paths;

pub use packet::{Diagnostic, Packet, State};

use std::num::NonZeroU32;
use std::time::Duration;

/// The pace of a session that is not up (RFC 5880, 6.8.3).
const SLOW: Duration = Duration::from_secs(1);
/// Between the questions to an end that is suspected.
const AGAIN: Duration = Duration::from_millis(60);
/// How long such an end has for an answer, beside twice what an answer takes: five questions.
const ANSWER: Duration = Duration::from_millis(300);
/// What an answer takes, where nothing is known of it.
const ROUND_TRIP: Duration = Duration::from_millis(100);

/// What one end wants of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// The shortest pause between packets that it wants to send while the session is up.
    pub send: Duration,
    /// The shortest pause between packets that it wants to receive.
    pub receive: Duration,
    /// After how many missing packets the other end shall give it up; not 0.
    pub multiplier: u8,
    /// Whether an end of which a packet is late is asked before it is given up.
    pub is_hasty: bool,
}

impl Default for Settings {
    /// A dead end is noticed within 3 × 100 ms.
    fn default() -> Self {
        Self {
            send: Duration::from_millis(100),
            receive: Duration::from_millis(100),
            multiplier: 3,
            is_hasty: false,
        }
    }
}

/// What the other end said last.
#[derive(Debug, Clone, Copy)]
struct Remote {
    discriminator: Option<NonZeroU32>,
    state: State,
    diagnostic: Diagnostic,
    /// What it wants to send at least apart, and to receive.
    send: Duration,
    receive: Duration,
    multiplier: u8,
}

/// One end of a session.
#[derive(Debug)]
pub struct Session {
    settings: Settings,
    discriminator: NonZeroU32,
    state: State,
    diagnostic: Diagnostic,
    remote: Remote,
    /// When it is given up; none where nothing was ever heard, or where it is already.
    expires: Option<Duration>,
    /// When the next packet is due, but for the jitter.
    due: Duration,
    /// Whether it asks the other end to confirm that it knows the pace of this state.
    is_polling: bool,
    /// Whether the other end asks for a confirmation.
    must_confirm: bool,
    /// What it says while it is up.
    word: Diagnostic,
    /// Of an end that is suspected: until when it has to answer.
    answer_by: Option<Duration>,
    /// When it was heard last.
    heard: Option<Duration>,
    /// When the first question was sent that is not answered yet, and how many were: of several nobody can tell which one is answered.
    asked: (Duration, u32),
    round_trip: Option<Duration>,
}

impl Session {
    /// A session that has heard nothing. `discriminator` distinguishes it from all others of this node; a `multiplier` of 0 counts as 1.
    #[must_use]
    pub fn new(settings: Settings, discriminator: NonZeroU32, now: Duration) -> Self {
        let multiplier = settings.multiplier.max(1);
        Self {
            settings: Settings {
                multiplier,
                ..settings
            },
            discriminator,
            state: State::Down,
            diagnostic: Diagnostic::None,
            remote: Remote {
                discriminator: None,
                state: State::Down,
                diagnostic: Diagnostic::None,
                send: Duration::ZERO,
                // RFC 5880, 6.8.1: bfd.RemoteMinRxInterval is 1 µs at first.
                receive: Duration::from_micros(1),
                multiplier: 0,
            },
            expires: None,
            due: now,
            is_polling: false,
            must_confirm: false,
            word: Diagnostic::None,
            answer_by: None,
            heard: None,
            asked: (Duration::ZERO, 0),
            round_trip: None,
        }
    }

    /// What it is.
    #[must_use]
    pub const fn state(&self) -> State {
        self.state
    }

    /// Why it went down last.
    #[must_use]
    pub const fn diagnostic(&self) -> Diagnostic {
        self.diagnostic
    }

    /// What the other end said last.
    #[must_use]
    pub const fn remote(&self) -> (State, Diagnostic) {
        (self.remote.state, self.remote.diagnostic)
    }

    /// When the other end was heard last; none where it never was.
    #[must_use]
    pub const fn heard(&self) -> Option<Duration> {
        self.heard
    }

    /// How long the answer to a question took last, both ends' work included; none where none was measured.
    #[must_use]
    pub const fn round_trip(&self) -> Option<Duration> {
        self.round_trip
    }

    /// What it says from now on while it is up, at once (RFC 5880, 6.8.17).
    pub fn say(&mut self, word: Diagnostic, now: Duration) {
        if self.word != word {
            self.word = word;
            self.due = now;
        }
    }

    /// Changes what it wants (RFC 5880, 6.8.3). The other end learns of it at once.
    pub fn repace(&mut self, settings: Settings, now: Duration) {
        if self.settings != settings {
            self.settings = settings;
            self.ask();
            self.due = now;
        }
    }

    /// Asks the other end at once, and gives it up unless it answers soon.
    pub fn suspect(&mut self, now: Duration) {
        if self.state == State::Up && self.answer_by.is_none() {
            let round_trip = self.round_trip.unwrap_or(ROUND_TRIP);
            self.answer_by = Some(now + ANSWER + 2 * round_trip);
            self.ask();
            self.due = now;
        }
    }

    /// Has the next packets ask for a confirmation.
    fn ask(&mut self) {
        self.is_polling = true;
        self.asked.1 = 0;
    }

    /// When the next packet is late; none of whom it is not worth asking.
    fn late(&self) -> Option<Duration> {
        let is_asked = self.answer_by.is_some() || self.state != State::Up;
        if !self.settings.is_hasty || is_asked {
            return None;
        }
        let apart = self.settings.receive.max(self.remote.send);
        let late = apart.saturating_mul(5) / 4;
        let answer = ANSWER + 2 * self.round_trip.unwrap_or(ROUND_TRIP);
        (late + answer < self.detection()).then_some(self.heard? + late)
    }

    /// Takes it out of service, or back: the other end is told, and does not take it for a failure. Whether that is news.
    pub fn administer(&mut self, is_in_service: bool, now: Duration) -> bool {
        match (is_in_service, self.state) {
            (true, State::AdminDown) => self.turn(State::Down, Diagnostic::None, now),
            (false, State::Init | State::Up | State::Down) => {
                self.expires = None;
                self.turn(State::AdminDown, Diagnostic::AdministrativelyDown, now);
            }
            _ => return false,
        }
        true
    }

    /// Takes a packet in that was found to be this session's. Whether the state is another than before.
    pub fn received(&mut self, packet: &Packet, now: Duration) -> bool {
        // RFC 5880, 6.8.6: "If the Your Discriminator field is zero and the State field is not Down or AdminDown, the packet MUST be discarded."
        let is_mine = match packet.yours {
            Some(yours) => yours == self.discriminator,
            None => matches!(packet.state, State::Down | State::AdminDown),
        };
        if !is_mine || packet.multiplier == 0 || self.state == State::AdminDown {
            return false;
        }
        self.remote = Remote {
            discriminator: Some(packet.mine),
            state: packet.state,
            diagnostic: packet.diagnostic,
            send: packet.send,
            receive: packet.receive,
            multiplier: packet.multiplier,
        };
        self.heard = Some(now);
        self.answer_by = None;
        if packet.is_final && self.is_polling {
            self.is_polling = false;
            if let (asked, 1) = self.asked {
                self.round_trip = Some(now.saturating_sub(asked));
            }
        }
        self.must_confirm |= packet.is_poll;
        let before = self.state;
        match (self.state, packet.state) {
            (State::Down, State::Down) => self.turn(State::Init, Diagnostic::None, now),
            (State::Down, State::Init) | (State::Init, State::Init | State::Up) => {
                self.turn(State::Up, Diagnostic::None, now);
            }
            (State::Up | State::Init, State::AdminDown) | (State::Up, State::Down) => {
                self.turn(State::Down, Diagnostic::NeighbourDown, now);
            }
            _ => {}
        }
        self.expires = Some(now + self.detection());
        before != self.state
    }

    /// Judges the silence of the other end. Whether the state is another than before.
    pub fn check(&mut self, now: Duration) -> bool {
        let is_over = |at: Option<Duration>| at.is_some_and(|at| at <= now);
        if is_over(self.late()) {
            self.suspect(now);
        }
        if !is_over(self.expires) && !is_over(self.answer_by) {
            return false;
        }
        self.expires = None;
        self.answer_by = None;
        // RFC 5880, 6.8.1: what was heard is forgotten after the detection time.
        self.remote.discriminator = None;
        self.remote.state = State::Down;
        let is_news = matches!(self.state, State::Init | State::Up);
        if is_news {
            self.turn(State::Down, Diagnostic::TimeExpired, now);
        }
        is_news
    }

    /// The packet that is due, if one is. `chance` is any number, another each time: it makes the pause up to a quarter shorter, so that many sessions
    /// do not come to send at once (RFC 5880, 6.8.7).
    pub fn poll(&mut self, now: Duration, chance: u32) -> Option<Packet> {
        let is_final = std::mem::take(&mut self.must_confirm);
        let is_silent = self.remote.receive.is_zero();
        // RFC 5880, 6.8.7: a final is sent at once, whatever the pause; its packet asks nothing.
        if !is_final && (now < self.due || is_silent) {
            return None;
        }
        let is_poll = self.is_polling && !is_final;
        if !is_final {
            self.due = now + self.pause(chance);
        }
        if is_poll {
            let (first, count) = self.asked;
            self.asked = if count == 0 {
                (now, 1)
            } else {
                (first, count.saturating_add(1))
            };
        }
        Some(Packet {
            state: self.state,
            diagnostic: if self.state == State::Up {
                self.word
            } else {
                self.diagnostic
            },
            is_poll,
            is_final,
            multiplier: self.settings.multiplier,
            mine: self.discriminator,
            yours: self.remote.discriminator,
            send: self.send(),
            receive: self.settings.receive,
        })
    }

    /// When to ask [`poll`](Self::poll) and [`check`](Self::check) again, unless a packet comes first.
    #[must_use]
    pub fn deadline(&self) -> Option<Duration> {
        let due = (!self.remote.receive.is_zero()).then_some(self.due);
        let due = if self.must_confirm {
            Some(Duration::ZERO)
        } else {
            due
        };
        let times = [due, self.expires, self.answer_by, self.late()];
        times.into_iter().flatten().min()
    }

    /// For how long the other end may say nothing.
    #[must_use]
    pub fn detection(&self) -> Duration {
        let apart = self.settings.receive.max(self.remote.send);
        apart.saturating_mul(self.remote.multiplier.into())
    }

    /// What it wants to send at least apart now.
    fn send(&self) -> Duration {
        if self.state == State::Up {
            self.settings.send
        } else {
            self.settings.send.max(SLOW)
        }
    }

    fn pause(&self, chance: u32) -> Duration {
        if self.answer_by.is_some() {
            return AGAIN;
        }
        let pause = self.send().max(self.remote.receive);
        // A single packet that is late by its jitter must not end the session.
        let range = if self.settings.multiplier == 1 {
            10..25
        } else {
            0..25
        };
        let shorter = range.start + chance % (range.end - range.start + 1);
        pause.saturating_mul(100 - shorter) / 100
    }

    fn turn(&mut self, state: State, diagnostic: Diagnostic, now: Duration) {
        let before = self.send();
        if self.state == State::Up || state == State::AdminDown {
            self.diagnostic = diagnostic;
        }
        self.state = state;
        if state == State::Up {
            self.diagnostic = Diagnostic::None;
        }
        self.answer_by = None;
        if self.send() != before {
            self.ask();
        }
        // The other end learns of it at once.
        self.due = now;
    }
}

#[cfg(test)]
mod tests;
