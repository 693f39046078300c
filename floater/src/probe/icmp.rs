//! Echo request and reply (RFC 792, RFC 4443).
//!
//! ```text
//! | type | code | checksum | identifier | sequence | zeros … | lane | number | cookie |
//!                                                             1      8        8     bytes, big endian
//! ```
//! The mark stands at the end, so that it is found in a transmitted frame whatever headers and tunnels come before it.

use pnet_packet::icmp::echo_request::MutableEchoRequestPacket;
use pnet_packet::icmp::{IcmpPacket, IcmpTypes};
use pnet_packet::icmpv6::{Icmpv6Packet, Icmpv6Types};
use pnet_packet::ipv4::Ipv4Packet;

use crate::session::{Lane, Token};

/// Bytes before the payload.
pub const HEADER: usize = 8;
/// Bytes of the mark; a payload is never shorter.
pub const MARK: usize = 17;

/// What an echo is known by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// Which echo of the session.
    pub token: Token,
    /// What nobody else could have put there.
    pub cookie: u64,
}

/// Writes an echo request of `payload_bytes`, at least [`MARK`], in place of what `packet` held.
///
/// The checksum of ICMPv6 is left to the kernel, which knows the source address.
pub fn request(packet: &mut Vec<u8>, identifier: u16, mark: Mark, payload_bytes: u16) {
    packet.clear();
    packet.resize(HEADER + usize::from(payload_bytes).max(MARK), 0);
    let end = packet.len();
    packet[end - 17] = mark.token.lane as u8;
    packet[end - 16..end - 8].copy_from_slice(&mark.token.number.to_be_bytes());
    packet[end - 8..].copy_from_slice(&mark.cookie.to_be_bytes());
    let v4 = mark.token.lane == Lane::Icmp4;
    if let Some(mut echo) = MutableEchoRequestPacket::new(packet) {
        echo.set_icmp_type(if v4 {
            IcmpTypes::EchoRequest
        } else {
            // The two protocols share this layout and differ in the number.
            pnet_packet::icmp::IcmpType(Icmpv6Types::EchoRequest.0)
        });
        echo.set_identifier(identifier);
        echo.set_sequence_number(mark.token.sequence());
    }
    if v4
        && let Some(checksum) =
            IcmpPacket::new(packet).map(|icmp| pnet_packet::icmp::checksum(&icmp))
    {
        packet[2..4].copy_from_slice(&checksum.to_be_bytes());
    }
}

/// The mark of an echo reply that a socket of `lane` received; none of anything else.
///
/// `raw_v4` says that the IPv4 header comes first, as raw sockets deliver it.
#[must_use]
pub fn reply(lane: Lane, raw_v4: bool, bytes: &[u8]) -> Option<Mark> {
    let bytes = if raw_v4 { behind_ipv4(bytes)? } else { bytes };
    let is_reply = match lane {
        Lane::Icmp4 => IcmpPacket::new(bytes)?.get_icmp_type() == IcmpTypes::EchoReply,
        Lane::Icmp6 => Icmpv6Packet::new(bytes)?.get_icmpv6_type() == Icmpv6Types::EchoReply,
        Lane::Tcp => false,
    };
    let mark = is_reply
        .then(|| mark(lane, bytes.get(HEADER..)?))
        .flatten()?;
    (sequence(bytes) == Some(mark.token.sequence())).then_some(mark)
}

/// The mark at the end of a frame or payload, if it is one of this lane.
#[must_use]
pub fn mark(lane: Lane, bytes: &[u8]) -> Option<Mark> {
    let mark = bytes
        .len()
        .checked_sub(MARK)
        .and_then(|at| bytes.get(at..))?;
    (mark[0] == lane as u8).then_some(Mark {
        token: Token {
            lane,
            number: u64::from_be_bytes(mark[1..9].try_into().ok()?),
        },
        cookie: u64::from_be_bytes(mark[9..17].try_into().ok()?),
    })
}

/// The sequence number of the echo request that an ICMP error quotes; none if it quotes something else.
///
/// With `identifier`, only a request that carries it is ours.
#[must_use]
pub fn quoted(lane: Lane, identifier: Option<u16>, bytes: &[u8]) -> Option<u16> {
    let request = match lane {
        Lane::Icmp4 => IcmpTypes::EchoRequest.0,
        Lane::Icmp6 => Icmpv6Types::EchoRequest.0,
        Lane::Tcp => return None,
    };
    let ours =
        identifier.is_none_or(|identifier| bytes.get(4..6) == Some(&identifier.to_be_bytes()));
    (bytes.first() == Some(&request) && ours)
        .then(|| sequence(bytes))
        .flatten()
}

fn sequence(icmp: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes(icmp.get(6..8)?.try_into().ok()?))
}

fn behind_ipv4(bytes: &[u8]) -> Option<&[u8]> {
    let header = usize::from(Ipv4Packet::new(bytes)?.get_header_length()) * 4;
    (header >= 20).then(|| bytes.get(header..)).flatten()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lane() -> impl Strategy<Value = Lane> {
        prop_oneof![Just(Lane::Icmp4), Just(Lane::Icmp6)]
    }

    /// What a kernel makes of a request.
    fn answered(lane: Lane, mut request: Vec<u8>) -> Vec<u8> {
        request[0] = if lane == Lane::Icmp4 { 0 } else { 129 };
        request
    }

    proptest! {
        #[test]
        fn a_reply_carries_its_requests_mark(lane in lane(), number: u64, cookie: u64, identifier: u16, payload in 0_u16..1500) {
            let mark = Mark { token: Token { lane, number }, cookie };
            let mut packet = vec![9; 3];
            request(&mut packet, identifier, mark, payload);
            prop_assert_eq!(packet.len(), HEADER + usize::from(payload).max(MARK));
            prop_assert_eq!(quoted(lane, Some(identifier), &packet[..8]), Some(number as u16));
            prop_assert_eq!(quoted(lane, Some(identifier ^ 1), &packet), None);
            prop_assert_eq!(reply(lane, false, &packet), None, "a request is no reply");
            if lane == Lane::Icmp4 {
                // RFC 1071: the sum over a packet with its checksum is all ones.
                let sum: u32 = packet.chunks(2).map(|pair| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u32::from(*low))).sum();
                prop_assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff);
            }
            let mut frame = vec![0x45; 64];
            frame.extend(&packet);
            prop_assert_eq!(super::mark(lane, &frame), Some(mark));
            let packet = answered(lane, packet);
            prop_assert_eq!(reply(lane, false, &packet), Some(mark));
            let mut with_header = vec![0; 24];
            with_header[0] = 0x46;
            with_header.extend(&packet);
            if lane == Lane::Icmp4 {
                prop_assert_eq!(reply(lane, true, &with_header), Some(mark));
            }
        }

        #[test]
        fn any_bytes_never_panic(lane in lane(), raw: bool, bytes in prop::collection::vec(any::<u8>(), 0..120), cut in 0_usize..60) {
            let _ = reply(lane, raw, &bytes);
            let _ = quoted(lane, Some(1), &bytes);
            let _ = super::mark(lane, &bytes);
            let mut packet = Vec::new();
            request(&mut packet, 1, Mark { token: Token { lane, number: 3 }, cookie: 4 }, 20);
            let packet = answered(lane, packet);
            let cut = cut.min(packet.len());
            let _ = reply(lane, raw, &packet[..cut]);
            let _ = reply(lane, raw, &[&bytes[..], &packet[cut..]].concat());
        }
    }
}
