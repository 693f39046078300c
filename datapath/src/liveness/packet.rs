//! The control packet of RFC 5880, 4.1, without its authentication section.
//!
//! ```text
//!    0                   1                   2                   3
//!    0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//!   |Vers |  Diag   |Sta|P|F|C|A|D|M|  Detect Mult  |    Length     |
//!   |                       My Discriminator                        |
//!   |                      Your Discriminator                       |
//!   |                    Desired Min TX Interval                    |
//!   |                   Required Min RX Interval                    |
//!   |                 Required Min Echo RX Interval                 |
//! ```

use std::num::NonZeroU32;
use std::time::Duration;

const VERSION: u8 = 1;
const POLL: u8 = 1 << 5;
const FINAL: u8 = 1 << 4;
/// The forwarding and the control of a node fail independently: rows stay while no agent runs.
const INDEPENDENT: u8 = 1 << 3;
const AUTHENTICATED: u8 = 1 << 2;
const DEMAND: u8 = 1 << 1;
const MULTIPOINT: u8 = 1;

/// What an end says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// It is out of service.
    AdminDown,
    /// It hears nothing.
    Down,
    /// It hears the other end, and does not know whether that one hears it.
    Init,
    /// Both hear each other.
    Up,
}

/// Why an end went down last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Diagnostic {
    /// It did not, or nobody knows.
    None,
    /// It heard nothing for the detection time.
    TimeExpired,
    /// The other end said that it is down.
    NeighbourDown,
    /// It is up, and the path that its sender stands in for is down: a standby's word to whoever it takes over from a gateway.
    PathDown,
    /// It is up, and all paths that begin behind its sender are down (RFC 5880, 6.8.17): the word of a gateway that reaches no other cluster.
    ConcatenatedPathDown,
    /// Somebody took it out of service.
    AdministrativelyDown,
    /// Something else, by its number.
    Other(u8),
}

impl Diagnostic {
    fn of(number: u8) -> Self {
        match number {
            0 => Self::None,
            1 => Self::TimeExpired,
            3 => Self::NeighbourDown,
            5 => Self::PathDown,
            6 => Self::ConcatenatedPathDown,
            7 => Self::AdministrativelyDown,
            other => Self::Other(other & 0x1f),
        }
    }

    fn number(self) -> u8 {
        match self {
            Self::None => 0,
            Self::TimeExpired => 1,
            Self::NeighbourDown => 3,
            Self::PathDown => 5,
            Self::ConcatenatedPathDown => 6,
            Self::AdministrativelyDown => 7,
            Self::Other(number) => number & 0x1f,
        }
    }
}

/// A control packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet {
    /// What its sender says of itself.
    pub state: State,
    /// Why that went down last.
    pub diagnostic: Diagnostic,
    /// Whether it asks for a packet that `is_final`.
    pub is_poll: bool,
    /// Whether it answers one that `is_poll`.
    pub is_final: bool,
    /// After how many missing packets its receiver shall give the sender up.
    pub multiplier: u8,
    /// Its sender's session.
    pub mine: NonZeroU32,
    /// Its receiver's session; none before the sender knows it.
    pub yours: Option<NonZeroU32>,
    /// The shortest pause that its sender wants to send with.
    pub send: Duration,
    /// The shortest pause that its sender wants to receive with; zero where it wants nothing.
    pub receive: Duration,
}

impl Packet {
    /// Octets of a packet.
    pub const LENGTH: usize = 24;

    /// As octets. Times are microseconds of 32 bits; longer ones are the longest.
    #[must_use]
    pub fn encode(&self) -> [u8; Self::LENGTH] {
        let state = match self.state {
            State::AdminDown => 0,
            State::Down => 1,
            State::Init => 2,
            State::Up => 3,
        };
        let flag = |is_set: bool, flag: u8| if is_set { flag } else { 0 };
        let flags = flag(self.is_poll, POLL) | flag(self.is_final, FINAL) | INDEPENDENT;
        let micros = |time: Duration| u32::try_from(time.as_micros()).unwrap_or(u32::MAX);
        let yours = self.yours.map_or(0, NonZeroU32::get);
        let mut octets = [0; Self::LENGTH];
        octets[0] = VERSION << 5 | self.diagnostic.number();
        octets[1] = state << 6 | flags;
        octets[2] = self.multiplier;
        octets[3] = Self::LENGTH as u8;
        octets[4..8].copy_from_slice(&self.mine.get().to_be_bytes());
        octets[8..12].copy_from_slice(&yours.to_be_bytes());
        octets[12..16].copy_from_slice(&micros(self.send).to_be_bytes());
        octets[16..20].copy_from_slice(&micros(self.receive).to_be_bytes());
        octets
    }

    /// From the payload of a datagram; none of anything that RFC 5880, 6.8.6, discards, and of authenticated packets and demand mode.
    #[must_use]
    pub fn decode(octets: &[u8]) -> Option<Self> {
        let (head, _) = octets.split_first_chunk::<{ Self::LENGTH }>()?;
        let length = usize::from(head[3]);
        let flags = head[1];
        let is_refused = flags & (AUTHENTICATED | DEMAND | MULTIPOINT) != 0;
        if head[0] >> 5 != VERSION || length != Self::LENGTH || is_refused || head[2] == 0 {
            return None;
        }
        // A packet cannot ask and answer at once.
        let (is_poll, is_final) = (flags & POLL != 0, flags & FINAL != 0);
        if is_poll && is_final {
            return None;
        }
        let word = |at: usize| {
            let octets = [head[at], head[at + 1], head[at + 2], head[at + 3]];
            u32::from_be_bytes(octets)
        };
        Some(Self {
            state: match flags >> 6 {
                0 => State::AdminDown,
                1 => State::Down,
                2 => State::Init,
                _ => State::Up,
            },
            diagnostic: Diagnostic::of(head[0] & 0x1f),
            is_poll,
            is_final,
            multiplier: head[2],
            mine: NonZeroU32::new(word(4))?,
            yours: NonZeroU32::new(word(8)),
            send: Duration::from_micros(word(12).into()),
            receive: Duration::from_micros(word(16).into()),
        })
    }
}
