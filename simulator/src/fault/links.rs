//! Tunnels and the underlay link, other than planned or gone.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use datapath::diff::{Change, diff};
use datapath::nodeconfig::TUNNELS;
use datapath::state::{Link, LinkKind, Row, Vxlan};

use super::undo::is_of_the_kernel;
use super::{Victim, refused};
use crate::Error;
use crate::topology::UNDERLAY_V6;

/// The underlay link of every node.
pub(super) const UNDERLAY: &str = "eth0";
/// A VNI that no tunnel of the datapath has.
const STRANGE_VNI: u32 = 99;
/// A port that nobody listens on (that of VXLAN's generic protocol extension).
const STRANGE_PORT: u16 = 4790;
/// An underlay address that nobody has: the last but few of 100.64.0.0/10.
const NOBODY_V4: Ipv4Addr = Ipv4Addr::new(100, 127, 255, 250);
/// By how much a tunnel is made smaller than planned, bytes.
const SMALLER: u32 = 100;
/// With less than this the kernel takes IPv6 away from a link (RFC 8200, 5).
const LEAST_MTU: u32 = 1280;

/// An underlay address of a family that no node has.
pub(super) fn nobody(like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => NOBODY_V4.into(),
        IpAddr::V6(_) => {
            let low = u128::from(u32::from(NOBODY_V4));
            Ipv6Addr::from(u128::from(UNDERLAY_V6.network()) | low).into()
        }
    }
}

/// The tunnel to other clusters where the node has one, else the one to its gateway; IPv4 first.
pub(super) fn tunnel<'a>(victim: &Victim<'a>) -> Result<(&'a Link, &'a Vxlan), Error> {
    let links = &victim.state.links;
    let mut tunnels = TUNNELS.iter().filter_map(|name| links.get(*name));
    let found = tunnels.find_map(|link| match &link.kind {
        LinkKind::Vxlan(vxlan) => Some((link, vxlan)),
        _ => None,
    });
    match found {
        Some(found) => Ok(found),
        None => refused(format!("{} has no tunnel", victim.place())),
    }
}

fn replaced(from: &Link, to: Link) -> Change {
    Change::Replace {
        from: Row::Link(from.clone()),
        to: Row::Link(to),
    }
}

fn switched_off(link: &Link) -> Vec<Change> {
    let to = Link {
        up: false,
        carrier: false,
        ..link.clone()
    };
    vec![replaced(link, to)]
}

pub(super) fn down(victim: &Victim<'_>) -> Result<Vec<Change>, Error> {
    let (link, _) = tunnel(victim)?;
    Ok(switched_off(link))
}

pub(super) fn underlay_down(victim: &Victim<'_>) -> Result<Vec<Change>, Error> {
    match victim.state.links.get(UNDERLAY) {
        Some(link) => Ok(switched_off(link)),
        None => refused(format!("{} has no link {UNDERLAY}", victim.place())),
    }
}

pub(super) fn deleted(victim: &Victim<'_>) -> Result<Vec<Change>, Error> {
    let (link, _) = tunnel(victim)?;
    Ok(vec![Change::Remove(Row::Link(link.clone()))])
}

/// The overlay address. A link that has IPv6 has an address of its own making besides, which stays.
pub(super) fn without_address(victim: &Victim<'_>) -> Result<Vec<Change>, Error> {
    let (link, _) = tunnel(victim)?;
    let addresses = victim.state.addresses.iter();
    let addresses = addresses
        .filter(|row| row.link == link.name)
        .map(|row| Row::Address(row.clone()))
        .filter(|row| !is_of_the_kernel(row));
    let removed: Vec<Change> = addresses.map(Change::Remove).collect();
    if removed.is_empty() {
        return refused(format!(
            "{} of {} has no overlay address already: clear the earlier fault first",
            link.name,
            victim.place()
        ));
    }
    Ok(removed)
}

pub(super) fn other_vni(victim: &Victim<'_>) -> Result<Vec<Change>, Error> {
    anew(victim, |vxlan| vxlan.vni = STRANGE_VNI)
}

pub(super) fn other_port(victim: &Victim<'_>) -> Result<Vec<Change>, Error> {
    anew(victim, |vxlan| vxlan.port = STRANGE_PORT)
}

/// As after a change of the node's address that the tunnel did not follow.
pub(super) fn other_source(victim: &Victim<'_>) -> Result<Vec<Change>, Error> {
    anew(victim, |vxlan| vxlan.local = vxlan.local.map(nobody))
}

/// The tunnel made anew with other parameters, which a kernel cannot change in place, and all that stands on it put back.
fn anew(victim: &Victim<'_>, change: impl FnOnce(&mut Vxlan)) -> Result<Vec<Change>, Error> {
    let (link, vxlan) = tunnel(victim)?;
    let mut vxlan = vxlan.clone();
    change(&mut vxlan);
    let mut wanted = victim.state.clone();
    wanted.links.insert(Link {
        kind: LinkKind::Vxlan(vxlan),
        ..link.clone()
    });
    let changes = diff(&wanted, victim.state).changes.into_iter();
    Ok(changes
        .filter(|change| !is_of_the_kernel(change.row()))
        .collect())
}

/// A tunnel as large as its underlay link. A kernel refuses one for which that link has no room, and does not look again when the link
/// becomes smaller; so this one was larger for a moment.
pub(super) fn larger_than_the_underlay(victim: &Victim<'_>) -> Result<Vec<Change>, Error> {
    let (link, vxlan) = tunnel(victim)?;
    let lower = vxlan.lower.as_deref();
    let lower = lower.and_then(|name| victim.state.links.get(name));
    let Some(lower) = lower.filter(|lower| lower.mtu > link.mtu) else {
        let (place, name) = (victim.place(), &link.name);
        return refused(format!(
            "{name} of {place} is as large as its underlay link already: clear the earlier fault first"
        ));
    };
    let room = Link {
        mtu: lower.mtu + (lower.mtu - link.mtu),
        ..lower.clone()
    };
    let large = Link {
        mtu: lower.mtu,
        ..link.clone()
    };
    Ok(vec![
        replaced(lower, room.clone()),
        replaced(link, large),
        replaced(&room, lower.clone()),
    ])
}

pub(super) fn smaller_than_planned(victim: &Victim<'_>) -> Result<Vec<Change>, Error> {
    let (link, _) = tunnel(victim)?;
    let mtu = link.mtu.saturating_sub(SMALLER).max(LEAST_MTU);
    if mtu >= link.mtu {
        let (place, name) = (victim.place(), &link.name);
        return refused(format!(
            "{name} of {place} takes packets of {} bytes, and no tunnel can take fewer than {LEAST_MTU} with IPv6",
            link.mtu
        ));
    }
    let to = Link {
        mtu,
        ..link.clone()
    };
    Ok(vec![replaced(link, to)])
}
