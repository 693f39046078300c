//! Connections of strangers: few at once, and nobody's many at the cost of somebody else's one.
//!
//! A listener that faces the network cannot know who means well before it has listened. So it always accepts, and when it
//! has too many it lets go of the oldest connection of the peer that holds the most. Two hundred idle clients of one
//! address thereby push out each other, and no limit is reached by which they would silence the floater for everybody.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::oneshot;

/// Connections that nobody has vouched for, each with what ends it.
#[derive(Debug)]
pub(super) struct Guests<T> {
    most: usize,
    next: u64,
    /// By age.
    inside: BTreeMap<u64, (IpAddr, T)>,
}

impl<T> Guests<T> {
    /// Room for so many, at least one.
    pub(super) fn new(most: usize) -> Self {
        Self {
            most: most.max(1),
            next: 0,
            inside: BTreeMap::new(),
        }
    }

    /// Lets one in, under the number that is returned, and perhaps another one out.
    pub(super) fn admit(&mut self, peer: IpAddr, guest: T) -> (u64, Option<T>) {
        let out = if self.inside.len() < self.most {
            None
        } else {
            self.hog().and_then(|number| self.leave(number))
        };
        let number = self.next;
        self.next += 1;
        self.inside.insert(number, (network(peer), guest));
        (number, out)
    }

    /// One goes, or has become more than a guest.
    pub(super) fn leave(&mut self, number: u64) -> Option<T> {
        self.inside.remove(&number).map(|(_, guest)| guest)
    }

    /// The oldest guest of the peer that has the most.
    fn hog(&self) -> Option<u64> {
        let mut by_peer: HashMap<IpAddr, (usize, u64)> = HashMap::new();
        for (number, (peer, _)) in &self.inside {
            by_peer.entry(*peer).or_insert((0, *number)).0 += 1;
        }
        by_peer
            .into_values()
            .max_by_key(|(count, oldest)| (*count, std::cmp::Reverse(*oldest)))
            .map(|(_, oldest)| oldest)
    }
}

/// What counts as one peer: an IPv4 address, or the 64 bits of IPv6 that one subscriber has (RFC 6177).
fn network(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(peer) => {
            let [a, b, c, d, ..] = peer.segments();
            IpAddr::from([a, b, c, d, 0, 0, 0, 0])
        }
        peer @ IpAddr::V4(_) => peer,
    }
}

/// The guests of a listener on the runtime.
#[derive(Debug, Clone)]
pub(super) struct Lobby(Arc<Mutex<Guests<oneshot::Sender<()>>>>);

/// A guest's place; given back when it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    lobby: Lobby,
    number: u64,
    /// What would end the connection if it were dropped.
    kept: Mutex<Option<oneshot::Sender<()>>>,
}

impl Lobby {
    pub(super) fn new(most: usize) -> Self {
        Self(Arc::new(Mutex::new(Guests::new(most))))
    }

    /// Lets a connection in: its place, and what resolves when it has to go.
    pub(super) fn admit(&self, peer: IpAddr) -> (Place, oneshot::Receiver<()>) {
        let (sender, gone) = oneshot::channel();
        let mut guests = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (number, out) = guests.admit(peer, sender);
        // Told by being dropped; that guest's own end may be on its way.
        drop(out);
        let place = Place {
            lobby: self.clone(),
            number,
            kept: Mutex::new(None),
        };
        (place, gone)
    }
}

impl Place {
    /// Whoever has proved to be welcome is no guest any more, and pushed out by nobody.
    pub(super) fn vouch(&self) {
        if let Some(guest) = self.leave() {
            *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = Some(guest);
        }
    }

    fn leave(&self) -> Option<oneshot::Sender<()>> {
        let mut guests = self.lobby.0.lock().unwrap_or_else(PoisonError::into_inner);
        guests.leave(self.number)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.leave();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn peer(number: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, number])
    }

    #[test]
    fn a_crowd_of_one_peer_pushes_out_itself() {
        let mut guests = Guests::new(4);
        let (quiet, _) = guests.admit(peer(1), "quiet");
        for _ in 0..3 {
            assert_eq!(guests.admit(peer(2), "crowd").1, None);
        }
        for _ in 0..200 {
            assert_eq!(guests.admit(peer(2), "crowd").1, Some("crowd"));
        }
        assert_eq!(guests.admit(peer(3), "late").1, Some("crowd"));
        assert_eq!(guests.leave(quiet), Some("quiet"));
        assert_eq!(guests.inside.len(), 3);
    }

    #[test]
    fn among_equals_the_oldest_goes() {
        let mut guests = Guests::new(2);
        guests.admit(peer(1), 1);
        guests.admit(peer(2), 2);
        assert_eq!(guests.admit(peer(3), 3).1, Some(1));
    }

    #[test]
    fn a_subscriber_of_ipv6_is_one_peer() {
        let address = |text: &str| network(text.parse().expect("an address"));
        assert_eq!(address("2001:db8::1"), address("2001:db8::ffff:1"));
        assert_ne!(address("2001:db8::1"), address("2001:db8:0:1::1"));
        assert_eq!(address("::ffff:10.0.0.1"), peer(1));
    }

    proptest! {
        #[test]
        fn nobody_with_less_than_the_share_is_pushed_out(
            arrivals in prop::collection::vec(0_u8..6, 1..200),
            most in 1_usize..20,
        ) {
            let mut guests = Guests::new(most);
            for arriving in arrivals {
                let held = |guests: &Guests<u8>, who: u8| {
                    guests.inside.values().filter(|(_, guest)| *guest == who).count()
                };
                let before: Vec<usize> = (0..6).map(|who| held(&guests, who)).collect();
                if let (_, Some(out)) = guests.admit(peer(arriving), arriving) {
                    prop_assert_eq!(Some(&before[usize::from(out)]), before.iter().max());
                }
                prop_assert!(guests.inside.len() <= most);
            }
        }
    }
}
