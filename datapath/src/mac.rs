//! Ethernet addresses.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A 48-bit Ethernet address, in transmission order. Its text form is six lower-case hexadecimal octets joined by colons.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// The address of a flood row of a VXLAN FDB: `00:00:00:00:00:00`.
    pub const ZERO: Self = Self([0; 6]);

    /// Whether this is the address of a flood row.
    #[must_use]
    pub fn is_zero(self) -> bool {
        self == Self::ZERO
    }

    /// A locally administered unicast address that is a function of the words alone (FNV-1a, 64 bits).
    ///
    /// The planner uses (cluster, node, device), so that a plan needs no memory and no chance.
    #[must_use]
    pub fn derived(words: &[&str]) -> Self {
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        for word in words {
            // The terminator keeps ("ab", "c") and ("a", "bc") apart.
            for byte in word.bytes().chain([0]) {
                hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
            }
        }
        // FNV's low bits mix best once the high half is folded in.
        let folded = (hash ^ (hash >> 32)).to_be_bytes();
        let mut octets = [
            hash.to_be_bytes()[1],
            folded[3],
            folded[4],
            folded[5],
            folded[6],
            folded[7],
        ];
        octets[0] = 0x02;
        Self(octets)
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not six hexadecimal octets joined by colons.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is not an Ethernet address")]
pub struct MacError(String);

impl FromStr for Mac {
    type Err = MacError;

    fn from_str(text: &str) -> Result<Self, MacError> {
        let bad = || MacError(text.to_owned());
        let mut octets = [0; 6];
        let mut parts = text.split(':');
        for octet in &mut octets {
            let part = parts
                .next()
                .filter(|part| part.len() == 2)
                .ok_or_else(bad)?;
            *octet = u8::from_str_radix(part, 16).map_err(|_| bad())?;
        }
        if parts.next().is_some() {
            Err(bad())
        } else {
            Ok(Self(octets))
        }
    }
}

impl Serialize for Mac {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Mac {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips() {
        let mac = Mac([2, 0, 0x0a, 0xff, 1, 0x10]);
        assert_eq!(mac.to_string(), "02:00:0a:ff:01:10");
        assert_eq!(mac.to_string().parse(), Ok(mac));
    }

    #[test]
    fn bad_text_is_refused() {
        for text in [
            "",
            "02:00:00:00:00",
            "02:00:00:00:00:00:00",
            "2:0:0:0:0:0",
            "02-00-00-00-00-00",
            "+2:00:00:00:00:0g",
        ] {
            assert!(text.parse::<Mac>().is_err(), "{text}");
        }
    }

    #[test]
    fn derived_is_unicast_local_and_tells_words_apart() {
        let one = Mac::derived(&["ab", "c", "vx-local"]);
        assert_eq!(one.0[0], 2);
        assert_ne!(one, Mac::derived(&["a", "bc", "vx-local"]));
        assert_eq!(one, Mac::derived(&["ab", "c", "vx-local"]));
    }
}
