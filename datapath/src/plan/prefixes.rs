//! Prefixes by what holds them, with a lookup of everything that covers one.

use std::collections::HashMap;
use std::hash::Hash;

use ipnet::IpNet;

/// A table of prefixes, each in a class and held by an owner. A lookup costs one hash per length that occurs, at most 129.
///
/// Of those that hold one prefix in one class, only the first and the first of another owner are kept: that is enough to find
/// a holder that is not oneself, and keeps the answer small when thousands hold the same.
pub(super) struct Prefixes<C> {
    held: HashMap<(IpNet, C), Holders>,
    /// The lengths that occur in a family, descending.
    lengths: [Vec<u8>; 2],
}

struct Holders {
    first: Holder,
    other: Option<Holder>,
}

/// Who holds a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Holder {
    pub(super) owner: usize,
    /// What the caller knows it by.
    pub(super) item: usize,
}

impl<C: Copy + Eq + Hash> Prefixes<C> {
    pub(super) fn new() -> Self {
        Self {
            held: HashMap::new(),
            lengths: [Vec::new(), Vec::new()],
        }
    }

    pub(super) fn insert(&mut self, net: IpNet, class: C, holder: Holder) {
        let net = net.trunc();
        let lengths = &mut self.lengths[usize::from(net.addr().is_ipv6())];
        if let Err(place) = lengths.binary_search_by(|held| net.prefix_len().cmp(held)) {
            lengths.insert(place, net.prefix_len());
        }
        match self.held.entry((net, class)) {
            std::collections::hash_map::Entry::Vacant(entry) => {
                entry.insert(Holders {
                    first: holder,
                    other: None,
                });
            }
            std::collections::hash_map::Entry::Occupied(mut entry) => {
                let holders = entry.get_mut();
                if holders.other.is_none() && holders.first.owner != holder.owner {
                    holders.other = Some(holder);
                }
            }
        }
    }

    /// Everything of a class that equals or contains `net`, the longest first.
    pub(super) fn covering(
        &self,
        net: IpNet,
        class: C,
    ) -> impl Iterator<Item = (IpNet, Holder)> + '_ {
        let lengths = &self.lengths[usize::from(net.addr().is_ipv6())];
        let first = lengths.partition_point(|length| *length > net.prefix_len());
        lengths[first..].iter().flat_map(move |length| {
            // Only lengths of the prefix's own family occur here, none above its own.
            let wide = IpNet::new(net.addr(), *length).map(|net| net.trunc()).ok();
            let holders = wide.and_then(|wide| Some((wide, self.held.get(&(wide, class))?)));
            holders.into_iter().flat_map(|(wide, holders)| {
                let both = std::iter::once(holders.first).chain(holders.other);
                both.map(move |holder| (wide, holder))
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn net() -> impl Strategy<Value = IpNet> {
        prop_oneof![
            (any::<u32>(), 0..=32u8).prop_map(|(bits, len)| {
                // Few values, so that they meet.
                let ip = std::net::Ipv4Addr::from(bits & 0x0303_0303);
                IpNet::new(ip.into(), len)
                    .expect("a length of IPv4")
                    .trunc()
            }),
            (any::<u16>(), 0..=128u8).prop_map(|(bits, len)| {
                let ip = std::net::Ipv6Addr::from(u128::from(bits & 0x0303) << 100);
                IpNet::new(ip.into(), len)
                    .expect("a length of IPv6")
                    .trunc()
            }),
        ]
    }

    proptest! {
        #[test]
        fn another_holder_is_found_where_there_is_one(
            held in prop::collection::vec((net(), 0..3usize), 0..40),
            asked in net(),
            own in 0..3usize,
        ) {
            let mut prefixes = Prefixes::new();
            for (item, (net, owner)) in held.iter().enumerate() {
                prefixes.insert(*net, (), Holder { owner: *owner, item });
            }
            let found = prefixes
                .covering(asked, ())
                .find(|(_, holder)| holder.owner != own)
                .map(|(net, _)| net);
            let expected = held
                .iter()
                .filter(|(net, owner)| net.contains(&asked) && *owner != own)
                .map(|(net, _)| *net)
                .max_by_key(IpNet::prefix_len);
            prop_assert_eq!(found, expected);
        }
    }
}
