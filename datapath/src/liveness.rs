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
//! Left out, and refused where the other end asks for it: demand mode, the echo function, authentication. Packets are those of a tunnel between two
//! nodes that a NodeConfig names; whoever can put one in there can put in anything.

mod packet;

pub use packet::{Diagnostic, Packet, State};

use std::num::NonZeroU32;
use std::time::Duration;

/// The pace of a session that is not up (RFC 5880, 6.8.3).
const SLOW: Duration = Duration::from_secs(1);

/// What one end wants of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// The shortest pause between packets that it wants to send while the session is up.
    pub send: Duration,
    /// The shortest pause between packets that it wants to receive.
    pub receive: Duration,
    /// After how many missing packets the other end shall give it up; not 0.
    pub multiplier: u8,
}

impl Default for Settings {
    /// A dead end is noticed within 3 × 100 ms.
    fn default() -> Self {
        Self {
            send: Duration::from_millis(100),
            receive: Duration::from_millis(100),
            multiplier: 3,
        }
    }
}

/// What the other end said last.
#[derive(Debug, Clone, Copy)]
struct Remote {
    discriminator: Option<NonZeroU32>,
    state: State,
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
                send: Duration::ZERO,
                // RFC 5880, 6.8.1: bfd.RemoteMinRxInterval is 1 µs at first.
                receive: Duration::from_micros(1),
                multiplier: 0,
            },
            expires: None,
            due: now,
            is_polling: false,
            must_confirm: false,
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
            send: packet.send,
            receive: packet.receive,
            multiplier: packet.multiplier,
        };
        if packet.is_final && self.is_polling {
            self.is_polling = false;
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
        if self.expires.is_none_or(|at| now < at) {
            return false;
        }
        self.expires = None;
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
        if !is_final {
            self.due = now + self.pause(chance);
        }
        Some(Packet {
            state: self.state,
            diagnostic: self.diagnostic,
            is_poll: self.is_polling && !is_final,
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
        due.into_iter().chain(self.expires).min()
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
        self.is_polling |= self.send() != before;
        // The other end learns of it at once.
        self.due = now;
    }
}

#[cfg(test)]
mod tests;
