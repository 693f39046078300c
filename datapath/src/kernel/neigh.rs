//! Neighbours, and the forwarding database, which the kernel keeps behind the same messages.

use std::net::IpAddr;

use super::address::family;
use super::link::Names;
use super::message::{
    Batch, NLM_F_APPEND, NLM_F_CREATE, NLM_F_REPLACE, Tolerated, attributes, read_ip, read_mac,
    read_u16, read_u32,
};
use crate::state::{Fdb, LinkKind, Neighbour, NeighbourState, NodeState};

pub(super) const RTM_NEWNEIGH: u16 = 28;
pub(super) const RTM_DELNEIGH: u16 = 29;
pub(super) const RTM_GETNEIGH: u16 = 30;

pub(super) const AF_BRIDGE: u8 = 7;

const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const NDA_MASTER: u16 = 9;

const NTF_SELF: u8 = 0x02;

const NUD_INCOMPLETE: u16 = 0x01;
const NUD_FAILED: u16 = 0x20;
pub(super) const NUD_NOARP: u16 = 0x40;
pub(super) const NUD_PERMANENT: u16 = 0x80;

/// The header of a neighbour message.
pub(super) fn header(family: u8, index: u32, state: u16, flags: u8) -> [u8; 12] {
    let mut bytes = [0; 12];
    bytes[0] = family;
    bytes[4..8].copy_from_slice(&index.to_ne_bytes());
    bytes[8..10].copy_from_slice(&state.to_ne_bytes());
    bytes[10] = flags;
    bytes
}

pub(super) fn read(payload: &[u8], names: &Names) -> Option<Neighbour> {
    let index = read_u32(payload.get(4..8)?)?;
    let state = read_u16(payload.get(8..10)?)?;
    let (mut ip, mut mac) = (None, None);
    for (kind, value) in attributes(payload.get(12..)?) {
        match kind {
            NDA_DST => ip = read_ip(value),
            NDA_LLADDR => mac = read_mac(value),
            _ => {}
        }
    }
    let state = if state & NUD_PERMANENT != 0 {
        NeighbourState::Permanent
    } else if state & NUD_NOARP != 0 {
        NeighbourState::NoArp
    } else if state & (NUD_FAILED | NUD_INCOMPLETE) != 0 || state == 0 {
        NeighbourState::Failed
    } else {
        NeighbourState::Dynamic
    };
    Some(Neighbour {
        link: names.get(index)?.to_owned(),
        ip: ip?,
        mac: mac.filter(|_| state != NeighbourState::Failed),
        state,
    })
}

/// A row of a tunnel or of a bridge's port. Other links list the groups that they listen to, which forward nothing.
pub(super) fn read_fdb(payload: &[u8], names: &Names, state: &NodeState) -> Option<Fdb> {
    let index = read_u32(payload.get(4..8)?)?;
    let nud = read_u16(payload.get(8..10)?)?;
    let (mut dst, mut mac, mut of_bridge) = (None, None, false);
    for (kind, value) in attributes(payload.get(12..)?) {
        match kind {
            // Four or sixteen raw octets: the message's family is the bridge's and says nothing about them.
            NDA_DST => dst = read_ip(value),
            NDA_LLADDR => mac = read_mac(value),
            NDA_MASTER => of_bridge = true,
            _ => {}
        }
    }
    let link = names.get(index)?;
    let forwards = of_bridge
        || matches!(
            state.links.get(link)?.kind,
            LinkKind::Bridge | LinkKind::Vxlan(_)
        );
    forwards.then_some(Fdb {
        link: link.to_owned(),
        mac: mac?,
        dst,
        // Rows that never age are an administrator's too.
        permanent: nud & (NUD_PERMANENT | NUD_NOARP) != 0,
    })
}

pub(super) fn add(batch: &mut Batch, change: usize, row: &Neighbour, index: u32) {
    let state = match row.state {
        NeighbourState::NoArp => NUD_NOARP,
        _ => NUD_PERMANENT,
    };
    batch.push(
        (RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE),
        (change, Tolerated::Nothing),
        &header(family(row.ip), index, state, 0),
        |neighbour| {
            neighbour.ip(NDA_DST, row.ip);
            if let Some(mac) = row.mac {
                neighbour.bytes(NDA_LLADDR, &mac.0);
            }
        },
    );
}

/// Asks for one neighbour; nobody has it is an answer, too.
pub(super) fn ask(batch: &mut Batch, index: u32, ip: IpAddr) {
    batch.push(
        (RTM_GETNEIGH, 0),
        (0, Tolerated::Gone),
        &header(family(ip), index, 0, 0),
        |neighbour| {
            neighbour.ip(NDA_DST, ip);
        },
    );
}

pub(super) fn delete(batch: &mut Batch, change: usize, row: &Neighbour, index: u32) {
    batch.push(
        (RTM_DELNEIGH, 0),
        (change, Tolerated::Gone),
        &header(family(row.ip), index, 0, 0),
        |neighbour| {
            neighbour.ip(NDA_DST, row.ip);
        },
    );
}

/// A flood row joins those that are there, a unicast row takes the place of the one that is.
pub(super) fn add_fdb(batch: &mut Batch, change: usize, row: &Fdb, index: u32) {
    let mode = if row.mac.is_zero() {
        NLM_F_APPEND
    } else {
        NLM_F_REPLACE
    };
    batch.push(
        (RTM_NEWNEIGH, NLM_F_CREATE | mode),
        (change, Tolerated::There),
        &header(AF_BRIDGE, index, NUD_PERMANENT | NUD_NOARP, NTF_SELF),
        |entry| {
            entry.bytes(NDA_LLADDR, &row.mac.0);
            if let Some(dst) = row.dst {
                entry.ip(NDA_DST, dst);
            }
        },
    );
}

pub(super) fn delete_fdb(batch: &mut Batch, change: usize, row: &Fdb, index: u32) {
    batch.push(
        (RTM_DELNEIGH, 0),
        (change, Tolerated::Gone),
        &header(AF_BRIDGE, index, 0, NTF_SELF),
        |entry| {
            entry.bytes(NDA_LLADDR, &row.mac.0);
            if let Some(dst) = row.dst {
                entry.ip(NDA_DST, dst);
            }
        },
    );
}
