//! Prefixes and addresses for whatever a topology leaves open.
//!
//! | what | IPv4 | IPv6 |
//! |---|---|---|
//! | underlay | 100.64.0.0/10, one block per cluster | fd64::/96 with the node's IPv4 number as its low 32 bits |
//! | pods | blocks of 10.0.0.0/8 | blocks of fd10::/32 |
//! | services | blocks of 172.16.0.0/12 | blocks of fd11::/96 |
//!
//! Overlay addresses keep the low 24 bits of a node's underlay address, so those are unique in a fleet: 100.64.0.0/10 leaves 22.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use datapath::state::Family;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::draft::{Draft, Refusal};
use super::{Cluster, Node, Segment};

/// The underlay's IPv4 prefix.
pub const UNDERLAY_V4: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(100, 64, 0, 0), 10);
/// The underlay's IPv6 prefix.
pub const UNDERLAY_V6: Ipv6Net =
    Ipv6Net::new_assert(Ipv6Addr::new(0xfd64, 0, 0, 0, 0, 0, 0, 0), 64);

/// The pools and the lengths of blocks to try, the widest first.
const PODS_V4: (Ipv4Net, [u8; 4]) = (
    Ipv4Net::new_assert(Ipv4Addr::new(10, 0, 0, 0), 8),
    [16, 18, 20, 22],
);
const SERVICES_V4: (Ipv4Net, [u8; 4]) = (
    Ipv4Net::new_assert(Ipv4Addr::new(172, 16, 0, 0), 12),
    [20, 22, 24, 26],
);
const PODS_V6: (Ipv6Net, u8) = (
    Ipv6Net::new_assert(Ipv6Addr::new(0xfd10, 0, 0, 0, 0, 0, 0, 0), 32),
    48,
);
const SERVICES_V6: (Ipv6Net, u8) = (
    Ipv6Net::new_assert(Ipv6Addr::new(0xfd11, 0, 0, 0, 0, 0, 0, 0), 96),
    112,
);

/// Gives every draft what it lacks.
pub(super) fn assign(drafts: Vec<Draft>) -> Result<Vec<Cluster>, Refusal> {
    let taken = Taken::of(&drafts);
    let mut pods_v4 = blocks(&drafts, &taken, PODS_V4, |draft| draft.pod_cidrs.is_none());
    let mut services_v4 = blocks(&drafts, &taken, SERVICES_V4, |draft| {
        draft.service_cidrs.is_none()
    });
    let mut pods_v6 = free(&taken, IpNet::V6(PODS_V6.0), PODS_V6.1);
    let mut services_v6 = free(&taken, IpNet::V6(SERVICES_V6.0), SERVICES_V6.1);
    let mut underlay = u32::from(UNDERLAY_V4.network());
    drafts
        .into_iter()
        .map(|draft| {
            let pod_cidrs = match &draft.pod_cidrs {
                Some(nets) => nets.clone(),
                None => next_of(&draft, &mut pods_v4, &mut pods_v6, "pod")?,
            };
            let service_cidrs = match &draft.service_cidrs {
                Some(nets) => nets.clone(),
                None => next_of(&draft, &mut services_v4, &mut services_v6, "service")?,
            };
            let block = segment_length(draft.nodes);
            let size = 1_u32 << (32 - block);
            let start = underlay.next_multiple_of(size);
            underlay = start
                .checked_add(size)
                .filter(|end| *end - 1 <= u32::from(UNDERLAY_V4.broadcast()))
                .ok_or_else(|| Refusal {
                    line: draft.line,
                    rule: format!("the underlay {UNDERLAY_V4} has no room for {}", draft.name),
                })?;
            let nodes = nodes(&draft, &pod_cidrs, start)?;
            let routers = [Family::Ipv4, Family::Ipv6]
                .into_iter()
                .filter(|family| draft.family.has(*family))
                .map(|family| match family {
                    Family::Ipv4 => net(IpAddr::V4(Ipv4Addr::from(start + 1)), block),
                    Family::Ipv6 => net(IpAddr::V6(mapped(start + 1)), 96 + block),
                })
                .collect();
            Ok(Cluster {
                name: draft.name,
                mode: draft.mode,
                family: draft.family,
                nodes,
                pod_cidrs,
                service_cidrs,
                global_cidrs_map: draft.global_cidrs_map,
                segment: Segment { routers },
                underlay: draft.underlay,
                is_virtual: draft.is_virtual,
                control_plane: draft.control_plane,
            })
        })
        .collect()
}

type Blocks = Box<dyn Iterator<Item = IpNet>>;

/// The next default prefix of each family of the cluster.
fn next_of(
    draft: &Draft,
    v4: &mut Blocks,
    v6: &mut Blocks,
    what: &str,
) -> Result<Vec<IpNet>, Refusal> {
    let mut nets = Vec::new();
    for (family, pool) in [(Family::Ipv4, v4), (Family::Ipv6, v6)] {
        if draft.family.has(family) {
            nets.push(pool.next().ok_or_else(|| Refusal {
                line: draft.line,
                rule: format!("no {family} {what} prefix is left for {}", draft.name),
            })?);
        }
    }
    Ok(nets)
}

/// Lengths come from the constants above and [`segment_length`]; all are valid for their family.
fn net(ip: IpAddr, length: u8) -> IpNet {
    IpNet::new(ip, length).unwrap_or_else(|_| IpNet::from(ip))
}

/// The IPv6 address that carries an IPv4 number in its low bits.
fn mapped(number: u32) -> Ipv6Addr {
    Ipv6Addr::from(u128::from(UNDERLAY_V6.network()) | u128::from(number))
}

/// The longest prefix that holds a router, the nodes, and the two addresses that IPv4 keeps; at most 24.
fn segment_length(nodes: u32) -> u8 {
    (0..=24)
        .rev()
        .find(|length| (1_u32 << (32 - length)) >= nodes + 3)
        .unwrap_or(10)
}

fn bits(count: u32) -> u8 {
    // At most 32.
    (u32::BITS - count.saturating_sub(1).leading_zeros()) as u8
}

/// The nodes with their addresses and their shares of the pod prefixes.
fn nodes(draft: &Draft, pod_cidrs: &[IpNet], start: u32) -> Result<Vec<Node>, Refusal> {
    let mut shares = Vec::new();
    for family in [Family::Ipv4, Family::Ipv6] {
        let Some(whole) = pod_cidrs
            .iter()
            .find(|net| Family::of(net.addr()) == family)
        else {
            continue;
        };
        // A block that is usual where there is room, and large enough for a handful of pods where there is not.
        let (usual, longest) = match family {
            Family::Ipv4 => (24, 28),
            Family::Ipv6 => (64, 124),
        };
        let length = (whole.prefix_len() + bits(draft.nodes)).max(usual);
        if length > longest {
            return Err(Refusal {
                line: draft.line,
                rule: format!(
                    "podCIDR {whole} of {} is too small for {} nodes: each takes a /{longest} at least",
                    draft.name, draft.nodes
                ),
            });
        }
        shares.push(subnets(*whole, length));
    }
    (0..draft.nodes)
        .map(|index| {
            let number = start + 2 + index;
            Ok(Node {
                name: format!("n{}", index + 1),
                ip: draft
                    .family
                    .has(Family::Ipv4)
                    .then(|| Ipv4Addr::from(number)),
                ip6: draft.family.has(Family::Ipv6).then(|| mapped(number)),
                // There are at least as many blocks as nodes by the choice of their length.
                pod_cidrs: shares.iter_mut().filter_map(Iterator::next).collect(),
            })
        })
        .collect()
}

/// The blocks of one length in a prefix, in order.
fn subnets(whole: IpNet, length: u8) -> Blocks {
    match whole {
        IpNet::V4(whole) => match whole.subnets(length) {
            Ok(subnets) => Box::new(subnets.map(IpNet::V4)),
            Err(_) => Box::new(std::iter::empty()),
        },
        IpNet::V6(whole) => match whole.subnets(length) {
            Ok(subnets) => Box::new(subnets.map(IpNet::V6)),
            Err(_) => Box::new(std::iter::empty()),
        },
    }
}

/// The prefixes that the file itself names, in it and outside.
#[derive(Clone)]
struct Taken(Vec<IpNet>);

impl Taken {
    fn of(drafts: &[Draft]) -> Self {
        let mut nets: Vec<IpNet> = drafts
            .iter()
            .flat_map(|draft| {
                let own = draft.pod_cidrs.iter().chain(&draft.service_cidrs).flatten();
                let mapped = draft
                    .global_cidrs_map
                    .values()
                    .filter_map(|text| text.parse().ok());
                own.copied().chain(mapped).collect::<Vec<_>>()
            })
            .collect();
        nets.sort();
        nets.dedup();
        Self(nets)
    }

    fn overlaps(&self, net: &IpNet) -> bool {
        self.0
            .iter()
            .any(|taken| taken.contains(net) || net.contains(taken))
    }
}

/// The blocks that nothing in the file overlaps. The first block is left out: addresses that end in zeros confuse people.
fn free(taken: &Taken, pool: IpNet, length: u8) -> Blocks {
    let taken = taken.clone();
    Box::new(
        subnets(pool, length)
            .skip(1)
            .filter(move |net| !taken.overlaps(net)),
    )
}

/// The widest blocks of which there are enough.
fn blocks(
    drafts: &[Draft],
    taken: &Taken,
    (pool, lengths): (Ipv4Net, [u8; 4]),
    lacks: impl Fn(&Draft) -> bool,
) -> Blocks {
    let wanted = drafts
        .iter()
        .filter(|draft| draft.family.has(Family::Ipv4) && lacks(draft))
        .count();
    let pool = IpNet::V4(pool);
    for length in lengths {
        if free(taken, pool, length).take(wanted).count() == wanted {
            return free(taken, pool, length);
        }
    }
    Box::new(std::iter::empty())
}
