//! The prefixes to which a cluster's nodes take no routes, because they are its own.

use ipnet::IpNet;

/// Disjoint prefixes in order, for a logarithmic overlap test.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Shadow(Vec<IpNet>);

impl Shadow {
    pub(super) fn of(nets: impl Iterator<Item = IpNet>) -> Self {
        let nets: Vec<IpNet> = nets.map(|net| net.trunc()).collect();
        // Sorted, and without those that another one contains.
        Self(IpNet::aggregate(&nets))
    }

    /// The prefixes.
    pub(super) fn iter(&self) -> impl Iterator<Item = IpNet> {
        self.0.iter().copied()
    }

    pub(super) fn touches(&self, net: IpNet) -> bool {
        // Of disjoint prefixes in order, the only candidates are the last that starts at or before `net` and the first after it.
        let after = self.0.partition_point(|own| start(own) <= start(&net));
        let touching = |own: &IpNet| own.contains(&net) || net.contains(own);
        self.0[..after].last().is_some_and(touching) || self.0.get(after).is_some_and(touching)
    }
}

fn start(net: &IpNet) -> (bool, std::net::IpAddr) {
    (net.addr().is_ipv6(), net.network())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlap_is_found_in_both_directions_and_families_are_apart() {
        let set = Shadow::of(
            [
                "10.20.0.0/16",
                "10.244.1.0/24",
                "fd10::/48",
                "10.244.0.0/16",
                "192.168.7.9/24",
            ]
            .into_iter()
            .filter_map(|net| net.parse().ok()),
        );
        for (net, expected) in [
            ("10.20.3.0/24", true),
            ("10.0.0.0/8", true),
            ("10.21.0.0/16", false),
            ("10.244.1.128/25", true),
            ("fd10:0:0:7::/64", true),
            ("fd11::/48", false),
            ("::/0", true),
            ("0.0.0.0/0", true),
            ("192.168.7.0/30", true),
            ("192.168.8.0/24", false),
        ] {
            assert_eq!(set.touches(net.parse().expect(net)), expected, "{net}");
        }
    }
}
