//! Address families: which a cluster links, and values that exist once for each.

use crate::state::Family;

pub(crate) const FAMILIES: [Family; 2] = [Family::Ipv4, Family::Ipv6];

/// The families that a cluster links.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Families {
    ipv4: bool,
    ipv6: bool,
}

impl Families {
    /// What an `ipFamily` means; an unknown word means neither family.
    pub(super) fn of(word: &str) -> Self {
        Self {
            ipv4: matches!(word, "all" | "ipv4"),
            ipv6: matches!(word, "all" | "ipv6"),
        }
    }

    pub(super) fn has(self, family: Family) -> bool {
        match family {
            Family::Ipv4 => self.ipv4,
            Family::Ipv6 => self.ipv6,
        }
    }

    pub(super) fn is_empty(self) -> bool {
        !self.ipv4 && !self.ipv6
    }

    pub(super) fn iter(self) -> impl Iterator<Item = Family> {
        FAMILIES.into_iter().filter(move |family| self.has(*family))
    }
}

/// One value for each family.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct PerFamily<T> {
    ipv4: T,
    ipv6: T,
}

impl<T> PerFamily<T> {
    pub(crate) fn of(mut make: impl FnMut(Family) -> T) -> Self {
        Self {
            ipv4: make(Family::Ipv4),
            ipv6: make(Family::Ipv6),
        }
    }

    pub(crate) fn get(&self, family: Family) -> &T {
        match family {
            Family::Ipv4 => &self.ipv4,
            Family::Ipv6 => &self.ipv6,
        }
    }

    pub(crate) fn get_mut(&mut self, family: Family) -> &mut T {
        match family {
            Family::Ipv4 => &mut self.ipv4,
            Family::Ipv6 => &mut self.ipv6,
        }
    }
}

/// The field of a ClusterNode's spec that holds its underlay address.
pub(super) fn address_field(family: Family) -> &'static str {
    match family {
        Family::Ipv4 => "ip",
        Family::Ipv6 => "ip6",
    }
}

/// The family's name in a sentence.
pub(super) fn title(family: Family) -> &'static str {
    match family {
        Family::Ipv4 => "IPv4",
        Family::Ipv6 => "IPv6",
    }
}
