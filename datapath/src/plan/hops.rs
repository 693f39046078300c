//! The next hops of a planned route.

use std::fmt;
use std::net::IpAddr;

/// The next hops of a route, by their overlay addresses: one, or several that share its flows. They are in the order of the addresses, ascending, which
/// is the same on both sides of a path: the overlay addresses of a node in all pools end in the same bits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hops {
    first: IpAddr,
    others: [Option<IpAddr>; Self::MOST - 1],
}

impl Hops {
    /// The most next hops of a route, and so the most gateways of a cluster.
    pub const MOST: usize = 4;

    /// Of these addresses, each once; none of no address, and at most the first [`Self::MOST`] by address.
    #[must_use]
    pub fn of(addresses: impl IntoIterator<Item = IpAddr>) -> Option<Self> {
        let mut all: Vec<IpAddr> = addresses.into_iter().collect();
        all.sort_unstable();
        all.dedup();
        let mut all = all.into_iter();
        let mut hops = Self::from(all.next()?);
        for (place, ip) in hops.others.iter_mut().zip(all) {
            *place = Some(ip);
        }
        Some(hops)
    }

    /// The first one.
    #[must_use]
    pub fn first(&self) -> IpAddr {
        self.first
    }

    /// All of them, in their order.
    pub fn iter(&self) -> impl Iterator<Item = IpAddr> + use<> {
        std::iter::once(self.first).chain(self.others.into_iter().flatten())
    }

    /// Whether there is more than one.
    #[must_use]
    pub fn are_several(&self) -> bool {
        self.others[0].is_some()
    }
}

impl From<IpAddr> for Hops {
    fn from(ip: IpAddr) -> Self {
        Self {
            first: ip,
            others: [None; Self::MOST - 1],
        }
    }
}

impl fmt::Debug for Hops {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hops_are_sorted_each_once_and_bounded() {
        let ip = |host: u8| IpAddr::from([220, 64, 0, host]);
        assert_eq!(Hops::of([]), None);
        let hops = Hops::of([10, 9, 10, 2].map(ip)).expect("some");
        assert_eq!(hops.iter().collect::<Vec<_>>(), [2, 9, 10].map(ip));
        assert!(hops.are_several() && hops.first() == ip(2));
        assert!(!Hops::from(ip(1)).are_several());
        let many = Hops::of((0..9).map(ip)).expect("some");
        assert_eq!(many.iter().count(), Hops::MOST);
    }
}
