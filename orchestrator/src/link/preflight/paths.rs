//! Whether the tunnels' datagrams pass between the nodes that will be their ends, in both directions and in full size: floaters send some
//! before anything listens on these ports.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use datapath::state::Family;
use datapath::tunnel::Tunnel;
use floater::wire::{MAX_PEERS, Meeting, Met, Peer, Trial, VERSION, hex};

/// Bytes of a datagram that passes wherever its port does.
const SMALL: u16 = 128;
/// How many sizes are tried on a port.
const SIZES: usize = 4;
/// How long they try.
const MILLIS: u32 = 3000;
/// The most ends of a meeting on each side.
const ENDS: usize = MAX_PEERS / 4;

/// A node that will be an end of tunnels.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct End {
    pub(super) cluster: String,
    pub(super) node: String,
    pub(super) ip: IpAddr,
    /// Of the link that has the address, bytes.
    pub(super) mtu: u16,
}

impl End {
    fn place(&self) -> String {
        format!("{}/{} ({})", self.cluster, self.node, self.ip)
    }
}

/// Two groups of nodes, every one of which will have a tunnel to all of the other group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Encounter {
    tunnel: Tunnel,
    ends: Vec<End>,
    /// How many of `ends` are of the first group.
    first: usize,
    trials: Vec<Trial>,
}

impl Encounter {
    /// None where one of the groups has nobody of the tunnel's family.
    pub(super) fn new(tunnel: Tunnel, ours: &[End], theirs: &[End]) -> Option<Self> {
        let of = |ends: &[End]| {
            let of_family = ends
                .iter()
                .filter(|end| Family::of(end.ip) == tunnel.family());
            of_family.take(ENDS).cloned().collect::<Vec<_>>()
        };
        let (ours, theirs) = (of(ours), of(theirs));
        if ours.is_empty() || theirs.is_empty() {
            return None;
        }
        let first = ours.len();
        let ends: Vec<End> = ours.into_iter().chain(theirs).collect();
        let mtus: BTreeSet<u16> = ends
            .iter()
            .map(|end| end.mtu.clamp(SMALL, *floater::wire::SIZES.end()))
            .collect();
        let sizes = [SMALL]
            .into_iter()
            .chain(mtus.into_iter().filter(|mtu| *mtu > SMALL));
        let port = tunnel.port();
        Some(Self {
            tunnel,
            ends,
            first,
            trials: sizes.take(SIZES).map(|size| Trial { port, size }).collect(),
        })
    }

    fn number(at: usize) -> u16 {
        // There are at most two groups of `ENDS`.
        u16::try_from(at).unwrap_or(u16::MAX)
    }

    fn peers(&self, at: usize) -> std::ops::Range<usize> {
        if at < self.first {
            self.first..self.ends.len()
        } else {
            0..self.first
        }
    }

    /// What each end is asked for: cluster, node and meeting.
    pub(super) fn meetings(&self, token: [u8; 16]) -> Vec<(String, String, Meeting)> {
        let meeting = |(at, end): (usize, &End)| {
            let peers = self.peers(at).map(|peer| Peer {
                number: Self::number(peer),
                ip: self.ends[peer].ip,
            });
            let meeting = Meeting {
                version: VERSION,
                token: hex(&token),
                number: Self::number(at),
                peers: peers.collect(),
                trials: self.trials.clone(),
                millis: MILLIS,
            };
            (end.cluster.clone(), end.node.clone(), meeting)
        };
        self.ends.iter().enumerate().map(meeting).collect()
    }

    /// What came of it; answers in the order of [`Self::meetings`]. A direction is judged where both ends answered.
    pub(super) fn judge(&self, answers: &[Result<Met, String>]) -> (Vec<String>, Vec<String>) {
        let (mut refusals, mut warnings) = (Vec::new(), Vec::new());
        for (end, answer) in self.ends.iter().zip(answers) {
            if let Err(why) = answer {
                warnings.push(format!(
                    "could not tell whether UDP port {} passes to and from {}: {why}",
                    self.tunnel.port(),
                    end.place()
                ));
            }
        }
        let mut blocked = BTreeMap::new();
        for (to, answer) in answers.iter().enumerate().take(self.ends.len()) {
            let Ok(met) = answer else { continue };
            for from in self.peers(to).filter(|from| answers[*from].is_ok()) {
                if let Some(trouble) = self.trouble(from, to, met) {
                    blocked.insert((from, to), trouble);
                }
            }
        }
        for ((from, to), trouble) in &blocked {
            let both = blocked.get(&(*to, *from)) == Some(trouble);
            if both && from > to {
                continue;
            }
            let way = if both { "and" } else { "to" };
            let (from, to) = (self.ends[*from].place(), self.ends[*to].place());
            refusals.push(match trouble {
                Trouble::Port => format!(
                    "no datagram to UDP port {} passes from {from} {way} {to}, and {} needs that in both directions: let it through (host firewalls, security groups, network policies of hosts)",
                    self.tunnel.port(),
                    self.tunnel.name()
                ),
                Trouble::Size(size) => format!(
                    "packets of {size} bytes do not pass unfragmented from {from} {way} {to}, though their links have that MTU, and {} would send such: raise the MTU of the path, or lower that of the links (--default-nic names others)",
                    self.tunnel.name()
                ),
            });
        }
        (refusals, warnings)
    }

    fn trouble(&self, from: usize, to: usize, met: &Met) -> Option<Trouble> {
        let is_heard = |trial: usize| {
            let mut heard = met.heard.iter();
            heard.any(|one| one.peer == Self::number(from) && usize::from(one.trial) == trial)
        };
        if !is_heard(0) {
            return Some(Trouble::Port);
        }
        let fits = self.ends[from].mtu.min(self.ends[to].mtu);
        let sizes = self.trials.iter().enumerate().skip(1);
        let mut lost = sizes.filter(|(at, trial)| trial.size <= fits && !is_heard(*at));
        lost.next().map(|(_, trial)| Trouble::Size(trial.size))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    /// Nothing arrives.
    Port,
    /// What is so long does not.
    Size(u16),
}

/// What kernels say of VXLAN, by node.
pub(super) fn kernels<'a>(
    answers: impl Iterator<Item = (&'a str, &'a Met)>,
) -> (Vec<String>, Vec<String>) {
    let (mut refusals, mut warnings) = (Vec::new(), Vec::new());
    for (place, met) in answers {
        match met.vxlan {
            Some(true) => {}
            Some(false) => refusals.push(format!(
                "the kernel of {place} makes no VXLAN links: load or install its module (modprobe vxlan)"
            )),
            None => warnings.push(format!(
                "could not tell whether the kernel of {place} makes VXLAN links: it was not allowed to be asked"
            )),
        }
    }
    (refusals, warnings)
}

#[cfg(test)]
mod tests {
    use super::*;
    use floater::wire::Hearing;

    fn end(cluster: &str, node: &str, ip: &str, mtu: u16) -> End {
        End {
            cluster: cluster.to_owned(),
            node: node.to_owned(),
            ip: ip.parse().expect("an address"),
            mtu,
        }
    }

    fn encounter() -> Encounter {
        let ours = [end("west", "n1", "10.0.2.1", 1500)];
        let theirs = [
            end("east", "n1", "10.0.1.1", 9000),
            end("east", "n1", "fd00::1", 9000),
        ];
        Encounter::new(Tunnel::Bridge, &ours, &theirs).expect("both have IPv4")
    }

    /// Who heard whom: from, to, trial.
    fn judged(heard: &[(u16, u16, u16)]) -> (Vec<String>, Vec<String>) {
        let answer = |to: u16| {
            let of = heard.iter().filter(|(_, at, _)| *at == to);
            Ok(Met {
                version: VERSION,
                node: "n1".to_owned(),
                heard: of
                    .map(|&(peer, _, trial)| Hearing { peer, trial })
                    .collect(),
                unsent: Vec::new(),
                vxlan: Some(true),
            })
        };
        encounter().judge(&[answer(0), answer(1)])
    }

    #[test]
    fn every_end_is_asked_for_the_other_group_on_the_tunnel_s_port() {
        let meetings = encounter().meetings([1; 16]);
        assert_eq!(meetings.len(), 2, "of one family");
        for (at, (_, _, meeting)) in meetings.iter().enumerate() {
            assert_eq!(meeting.check(), Ok([1; 16]));
            assert_eq!(usize::from(meeting.number), at);
            assert_eq!(usize::from(meeting.peers[0].number), 1 - at);
            let trials: Vec<(u16, u16)> = meeting
                .trials
                .iter()
                .map(|trial| (trial.port, trial.size))
                .collect();
            assert_eq!(trials, [(4876, 128), (4876, 1500), (4876, 9000)]);
        }
        assert_eq!(Encounter::new(Tunnel::Bridge6, &[], &[]), None);
    }

    #[test]
    fn what_both_links_carry_has_to_pass_and_no_more() {
        let fine = [(0, 1, 0), (0, 1, 1), (1, 0, 0), (1, 0, 1)];
        assert_eq!(judged(&fine), (vec![], vec![]));
    }

    #[test]
    fn a_port_that_is_closed_in_one_direction_or_in_both_is_told_apart() {
        let (refusals, _) = judged(&[(0, 1, 0), (0, 1, 1)]);
        let [text] = &refusals[..] else {
            panic!("{refusals:?}");
        };
        assert!(
            text.contains("4876 passes from east/n1 (10.0.1.1) to west/n1 (10.0.2.1)"),
            "{text}"
        );
        let (refusals, _) = judged(&[]);
        let [text] = &refusals[..] else {
            panic!("{refusals:?}");
        };
        assert!(
            text.contains("from west/n1 (10.0.2.1) and east/n1 (10.0.1.1)"),
            "{text}"
        );
    }

    #[test]
    fn a_path_with_a_smaller_mtu_is_named() {
        let (refusals, _) = judged(&[(0, 1, 0), (1, 0, 0), (1, 0, 1)]);
        let [text] = &refusals[..] else {
            panic!("{refusals:?}");
        };
        assert!(
            text.contains("1500 bytes") && text.contains("from west/n1 (10.0.2.1) to east/n1"),
            "{text}"
        );
    }

    #[test]
    fn an_end_that_did_not_answer_judges_nothing() {
        let silent = Err("it has no floater".to_owned());
        let heard_nothing = Met {
            version: VERSION,
            node: "n1".to_owned(),
            heard: Vec::new(),
            unsent: Vec::new(),
            vxlan: None,
        };
        let (refusals, warnings) = encounter().judge(&[silent, Ok(heard_nothing.clone())]);
        assert_eq!(refusals, Vec::<String>::new());
        assert!(
            warnings[0].contains("could not tell") && warnings[0].contains("west/n1"),
            "{warnings:?}"
        );
        let (_, warnings) = kernels([("east/n1", &heard_nothing)].into_iter());
        assert!(warnings[0].contains("east/n1"), "{warnings:?}");
        let none = Met {
            vxlan: Some(false),
            ..heard_nothing
        };
        let (refusals, _) = kernels([("east/n1", &none)].into_iter());
        assert!(refusals[0].contains("modprobe vxlan"), "{refusals:?}");
    }
}
