//! Netlink messages as bytes: attributes to write, attributes to read, requests that go out together.
//!
//! Attributes are read one by one and unknown or odd ones skipped. The typed decoders of the packet crates refuse a whole message for one
//! attribute that they do not understand, which would blind a diagnosis on a newer kernel.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Range;

use netlink_packet_core::NlasIterator;

use crate::mac::Mac;

/// The length of `struct nlmsghdr`.
pub(super) const HEADER: usize = 16;

pub(super) const NLM_F_REQUEST: u16 = 0x1;
pub(super) const NLM_F_ACK: u16 = 0x4;
pub(super) const NLM_F_DUMP: u16 = 0x300;
pub(super) const NLM_F_REPLACE: u16 = 0x100;
pub(super) const NLM_F_EXCL: u16 = 0x200;
pub(super) const NLM_F_CREATE: u16 = 0x400;
pub(super) const NLM_F_APPEND: u16 = 0x800;

const NLA_F_NESTED: u16 = 0x8000;
const NLA_TYPE_MASK: u16 = 0x3fff;

/// Attributes being written to the end of a buffer.
pub(super) struct Attributes<'a>(&'a mut Vec<u8>);

impl<'a> Attributes<'a> {
    pub(super) fn new(bytes: &'a mut Vec<u8>) -> Self {
        Self(bytes)
    }

    pub(super) fn bytes(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        self.open(kind, |bytes| bytes.extend_from_slice(value))
    }

    pub(super) fn u8(&mut self, kind: u16, value: u8) -> &mut Self {
        self.bytes(kind, &[value])
    }

    /// In host byte order.
    pub(super) fn u32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.bytes(kind, &value.to_ne_bytes())
    }

    pub(super) fn u16_be(&mut self, kind: u16, value: u16) -> &mut Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    pub(super) fn u32_be(&mut self, kind: u16, value: u32) -> &mut Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    /// With its terminator.
    pub(super) fn text(&mut self, kind: u16, value: &str) -> &mut Self {
        self.open(kind, |bytes| {
            bytes.extend_from_slice(value.as_bytes());
            bytes.push(0);
        })
    }

    pub(super) fn ip(&mut self, kind: u16, value: IpAddr) -> &mut Self {
        match value {
            IpAddr::V4(ip) => self.bytes(kind, &ip.octets()),
            IpAddr::V6(ip) => self.bytes(kind, &ip.octets()),
        }
    }

    pub(super) fn nest(
        &mut self,
        kind: u16,
        inside: impl FnOnce(&mut Attributes<'_>),
    ) -> &mut Self {
        self.open(kind | NLA_F_NESTED, |bytes| inside(&mut Attributes(bytes)))
    }

    fn open(&mut self, kind: u16, write: impl FnOnce(&mut Vec<u8>)) -> &mut Self {
        let start = self.0.len();
        self.0.extend_from_slice(&[0; 4]);
        write(self.0);
        // No attribute here comes near 64 KiB; a nest that did would be refused by the kernel.
        let length = u16::try_from(self.0.len() - start).unwrap_or(u16::MAX);
        self.0[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self.0[start + 2..start + 4].copy_from_slice(&kind.to_ne_bytes());
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }
}

/// The attributes in a payload, as kind and value; it ends at the first that is malformed.
pub(super) fn attributes(payload: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    NlasIterator::new(payload)
        .map_while(Result::ok)
        .map(|attribute| {
            let kind = attribute.kind() & NLA_TYPE_MASK;
            let value = attribute.into_inner();
            // `new_checked` vouches for the length that the attribute states.
            let length = usize::from(u16::from_ne_bytes([value[0], value[1]]));
            (kind, &value[4..length])
        })
}

pub(super) fn read_u16(value: &[u8]) -> Option<u16> {
    Some(u16::from_ne_bytes(value.get(..2)?.try_into().ok()?))
}

pub(super) fn read_u16_be(value: &[u8]) -> Option<u16> {
    read_u16(value).map(u16::from_be)
}

pub(super) fn read_u32(value: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(value.get(..4)?.try_into().ok()?))
}

pub(super) fn read_u64(value: &[u8]) -> Option<u64> {
    Some(u64::from_ne_bytes(value.get(..8)?.try_into().ok()?))
}

pub(super) fn read_text(value: &[u8]) -> Option<String> {
    let end = value
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(value.len());
    Some(std::str::from_utf8(&value[..end]).ok()?.to_owned())
}

/// An address of either family; its length says which.
pub(super) fn read_ip(value: &[u8]) -> Option<IpAddr> {
    match value.len() {
        4 => Some(Ipv4Addr::from(<[u8; 4]>::try_from(value).ok()?).into()),
        16 => Some(Ipv6Addr::from(<[u8; 16]>::try_from(value).ok()?).into()),
        _ => None,
    }
}

pub(super) fn read_mac(value: &[u8]) -> Option<Mac> {
    Some(Mac(value.try_into().ok()?))
}

/// What may go wrong with a request without being a failure.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Tolerated {
    /// What is removed, or what it was on, is gone already.
    Gone,
    /// Nothing.
    Nothing,
    /// What is added is there already.
    There,
}

/// One request of a batch.
pub(super) struct Part {
    pub(super) range: Range<usize>,
    /// The place of the change that it belongs to.
    pub(super) change: usize,
    pub(super) tolerated: Tolerated,
}

/// Requests that are sent together.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) bytes: Vec<u8>,
    pub(super) parts: Vec<Part>,
}

impl Batch {
    /// Adds a request: the family's fixed header, then attributes.
    pub(super) fn push(
        &mut self,
        (kind, flags): (u16, u16),
        (change, tolerated): (usize, Tolerated),
        header: &[u8],
        attributes: impl FnOnce(&mut Attributes<'_>),
    ) {
        let start = self.bytes.len();
        message(&mut self.bytes, kind, flags, header, attributes);
        self.parts.push(Part {
            range: start..self.bytes.len(),
            change,
            tolerated,
        });
    }

    pub(super) fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }
}

/// Writes one message with sequence number 0.
pub(super) fn message(
    bytes: &mut Vec<u8>,
    kind: u16,
    flags: u16,
    header: &[u8],
    attributes: impl FnOnce(&mut Attributes<'_>),
) {
    let start = bytes.len();
    bytes.extend_from_slice(&[0; HEADER]);
    bytes.extend_from_slice(header);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    attributes(&mut Attributes(bytes));
    let length = u32::try_from(bytes.len() - start).unwrap_or(u32::MAX);
    bytes[start..start + 4].copy_from_slice(&length.to_ne_bytes());
    bytes[start + 4..start + 6].copy_from_slice(&kind.to_ne_bytes());
    bytes[start + 6..start + 8].copy_from_slice(&(flags | NLM_F_REQUEST).to_ne_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_read_as_they_were_written() {
        let mut bytes = Vec::new();
        Attributes::new(&mut bytes)
            .text(3, "vx-bridge")
            .u8(7, 1)
            .nest(18, |info| {
                info.u16_be(15, 4876).u32(1, 54);
            });
        assert_eq!(bytes.len() % 4, 0);
        let read: Vec<_> = attributes(&bytes).collect();
        assert_eq!(read[0], (3, b"vx-bridge\0".as_slice()));
        assert_eq!(read[1], (7, [1].as_slice()));
        let inner: Vec<_> = attributes(read[2].1).collect();
        assert_eq!(read_u16_be(inner[0].1), Some(4876));
        assert_eq!(read_u32(inner[1].1), Some(54));
    }

    #[test]
    fn malformed_attributes_end_the_reading() {
        for bytes in [
            &[][..],
            &[1],
            &[3, 0, 1, 0],
            &[8, 0, 1, 0],
            &[255, 255, 1, 0, 0, 0],
        ] {
            assert_eq!(attributes(bytes).count(), 0, "{bytes:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..64)) {
            for (_, value) in attributes(&bytes) {
                let _ = (read_text(value), read_ip(value), read_mac(value), read_u64(value));
            }
        }
    }
}
