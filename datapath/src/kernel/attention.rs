//! Which notices are about the datapath. A CNI plugin makes hundreds of links, neighbours and routes that are not.

use std::collections::BTreeMap;

use super::link::{self, RTM_DELLINK, RTM_NEWLINK};
use super::message::read_u32;
use super::neigh::{RTM_DELNEIGH, RTM_NEWNEIGH};
use super::socket::Message;
use super::{address, route, rule, sysctl};
use crate::diff::is_owned_rule;
use crate::nodeconfig::{TABLE, TUNNELS};

/// The links whose notices count, by name, each with its index while it is there.
#[derive(Debug, Default)]
pub(super) struct Attention {
    links: BTreeMap<String, Option<u32>>,
}

impl Attention {
    /// The tunnels, and these links.
    pub(super) fn to(links: impl IntoIterator<Item = (String, Option<u32>)>) -> Self {
        let tunnels = TUNNELS.iter().map(|name| ((*name).to_owned(), None));
        Self {
            links: tunnels.chain(links).collect(),
        }
    }

    /// Whether a notice may be about what a plan compares or stands on. A notice that cannot be read is.
    pub(super) fn is_concerned(&mut self, message: &Message<'_>) -> bool {
        let payload = message.payload;
        match message.kind {
            RTM_NEWLINK | RTM_DELLINK => self.learn(message.kind, payload),
            address::RTM_NEWADDR | address::RTM_DELADDR => {
                self.has(index(payload)) && !address::is_link_local(payload)
            }
            // Of an underlay link the neighbours are the kernel's own affair.
            RTM_NEWNEIGH | RTM_DELNEIGH => self.is_tunnel(index(payload)),
            route::RTM_NEWROUTE | route::RTM_DELROUTE => {
                route::table_of(payload).is_none_or(|table| table == TABLE)
            }
            rule::RTM_NEWRULE | rule::RTM_DELRULE => {
                rule::read(payload).is_none_or(|rule| is_owned_rule(&rule))
            }
            sysctl::RTM_NEWNETCONF | sysctl::RTM_DELNETCONF => {
                match sysctl::place_of(payload) {
                    // One for all links, or one that cannot be read.
                    None => true,
                    Some(index) => self.has(Some(index)),
                }
            }
            _ => true,
        }
    }

    /// Takes in which index a link has; whether it is one that counts.
    fn learn(&mut self, kind: u16, payload: &[u8]) -> bool {
        let Some(read) = link::read(payload) else {
            return true;
        };
        let read = read.link;
        // That a link is no port any more is told as the removal of a link of the family of bridges.
        if payload.first().is_some_and(|family| *family != 0) {
            return self.links.contains_key(&read.name);
        }
        // A link may have got another name, by which it leaves the ones that count or becomes one of them.
        let mut counts = false;
        for (name, index) in &mut self.links {
            if *name == read.name {
                *index = (kind == RTM_NEWLINK).then_some(read.index);
                counts = true;
            } else if *index == Some(read.index) {
                *index = None;
                counts = true;
            }
        }
        counts
    }

    fn has(&self, index: Option<u32>) -> bool {
        index.is_none() || self.links.values().any(|link| *link == index)
    }

    fn is_tunnel(&self, index: Option<u32>) -> bool {
        let of_tunnel = |name: &str| self.links.get(name).copied().flatten();
        index.is_none() || TUNNELS.iter().any(|name| of_tunnel(name) == index)
    }
}

/// The interface index in `struct ifaddrmsg` and `struct ndmsg`.
fn index(payload: &[u8]) -> Option<u32> {
    read_u32(payload.get(4..)?)
}

#[cfg(test)]
mod tests {
    use super::super::message::Attributes;
    use super::super::socket::Messages;
    use super::*;

    /// A notice as the socket gives it.
    fn notice(kind: u16, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(16 + payload.len()).expect("a short notice");
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend([0; 10]);
        bytes.extend(payload);
        bytes
    }

    fn is_concerned(attention: &mut Attention, kind: u16, payload: &[u8]) -> bool {
        let bytes = notice(kind, payload);
        let message = Messages(&bytes).next().expect("a notice");
        attention.is_concerned(&message)
    }

    fn link(family: u8, index: u32, name: &str) -> Vec<u8> {
        let mut bytes = vec![family, 0, 0, 0];
        bytes.extend(index.to_ne_bytes());
        bytes.extend([0; 8]);
        Attributes::new(&mut bytes).text(link::IFLA_IFNAME, name);
        bytes
    }

    /// `struct ifaddrmsg` or the beginning of `struct ndmsg`.
    fn on(index: u32) -> Vec<u8> {
        let mut bytes = vec![2, 0, 0, 0];
        bytes.extend(index.to_ne_bytes());
        bytes.extend([0; 4]);
        bytes
    }

    fn route(table: u8) -> Vec<u8> {
        vec![2, 16, 0, 0, table, 3, 0, 1, 0, 0, 0, 0]
    }

    #[test]
    fn what_others_do_with_their_own_does_not_count() {
        let mut attention = Attention::to([("eth0".to_owned(), Some(2))]);
        for (kind, payload, expected) in [
            (RTM_NEWLINK, link(0, 9, "cali1"), false),
            (address::RTM_NEWADDR, on(9), false),
            (RTM_NEWNEIGH, on(9), false),
            (RTM_NEWNEIGH, on(2), false),
            (address::RTM_DELADDR, on(2), true),
            (route::RTM_NEWROUTE, route(254), false),
            (route::RTM_DELROUTE, route(200), true),
            // Too short to say whose it is.
            (RTM_DELNEIGH, vec![2], true),
            (route::RTM_NEWROUTE, vec![2], true),
            (RTM_NEWLINK, vec![0], true),
            // A kind that nobody here knows.
            (999, Vec::new(), true),
        ] {
            let is = is_concerned(&mut attention, kind, &payload);
            assert_eq!(is, expected, "{kind} {payload:?}");
        }
    }

    #[test]
    fn a_tunnel_counts_from_its_making_to_its_end() {
        let mut attention = Attention::to([]);
        assert!(!is_concerned(&mut attention, RTM_NEWNEIGH, &on(7)));
        assert!(is_concerned(
            &mut attention,
            RTM_NEWLINK,
            &link(0, 7, "vx-bridge")
        ));
        assert!(is_concerned(&mut attention, RTM_NEWNEIGH, &on(7)));
        // It leaves a bridge, and stays.
        assert!(is_concerned(
            &mut attention,
            RTM_DELLINK,
            &link(7, 7, "vx-bridge")
        ));
        assert!(is_concerned(&mut attention, RTM_NEWNEIGH, &on(7)));
        // It is called otherwise now: that counts, and nothing after it.
        assert!(is_concerned(
            &mut attention,
            RTM_NEWLINK,
            &link(0, 7, "gone")
        ));
        assert!(!is_concerned(&mut attention, RTM_NEWNEIGH, &on(7)));
    }
}
