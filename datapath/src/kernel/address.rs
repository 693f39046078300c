//! Addresses on links.

use std::net::IpAddr;

use ipnet::IpNet;

use super::link::Names;
use super::message::{
    Batch, NLM_F_CREATE, NLM_F_REPLACE, Tolerated, attributes, read_ip, read_u32,
};
use crate::state::Address;

pub(super) const RTM_NEWADDR: u16 = 20;
pub(super) const RTM_DELADDR: u16 = 21;
pub(super) const RTM_GETADDR: u16 = 22;

const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
const IFA_FLAGS: u16 = 8;
const IFA_F_NODAD: u32 = 0x02;

pub(super) const AF_INET: u8 = 2;
pub(super) const AF_INET6: u8 = 10;

/// The number of an address' family.
pub(super) fn family(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { AF_INET } else { AF_INET6 }
}

pub(super) fn read(payload: &[u8], names: &Names) -> Option<Address> {
    let length = *payload.get(1)?;
    let index = read_u32(payload.get(4..8)?)?;
    let (mut local, mut peer) = (None, None);
    for (kind, value) in attributes(payload.get(8..)?) {
        match kind {
            IFA_LOCAL => local = read_ip(value),
            IFA_ADDRESS => peer = read_ip(value),
            _ => {}
        }
    }
    Some(Address {
        link: names.get(index)?.to_owned(),
        // On a point-to-point link `IFA_ADDRESS` is the other end's.
        net: IpNet::new(local.or(peer)?, length).ok()?,
    })
}

/// Whether a notice is about an address that the kernel makes by itself, of one link only: no tunnel begins at one, and none is planned.
pub(super) fn is_link_local(payload: &[u8]) -> bool {
    let mut rest = attributes(payload.get(8..).unwrap_or_default());
    let ip = rest.find(|(kind, _)| *kind == IFA_ADDRESS);
    match ip.and_then(|(_, value)| read_ip(value)) {
        Some(IpAddr::V4(ip)) => ip.is_link_local(),
        Some(IpAddr::V6(ip)) => ip.is_unicast_link_local(),
        None => false,
    }
}

fn header(net: IpNet, index: u32) -> [u8; 8] {
    let mut bytes = [family(net.addr()), net.prefix_len(), 0, 0, 0, 0, 0, 0];
    bytes[4..8].copy_from_slice(&index.to_ne_bytes());
    bytes
}

pub(super) fn add(batch: &mut Batch, change: usize, net: IpNet, index: u32) {
    batch.push(
        (RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE),
        (change, Tolerated::There),
        &header(net, index),
        |address| {
            address
                .ip(IFA_LOCAL, net.addr())
                .ip(IFA_ADDRESS, net.addr());
            match net {
                IpNet::V4(net) if net.prefix_len() < 31 => {
                    address.ip(IFA_BROADCAST, net.broadcast().into());
                }
                IpNet::V4(_) => {}
                // Overlay addresses are unique by plan, and a tentative one would lose the first packets.
                IpNet::V6(_) => drop(address.u32(IFA_FLAGS, IFA_F_NODAD)),
            }
        },
    );
}

pub(super) fn delete(batch: &mut Batch, change: usize, net: IpNet, index: u32) {
    batch.push(
        (RTM_DELADDR, 0),
        (change, Tolerated::Gone),
        &header(net, index),
        |address| {
            address
                .ip(IFA_LOCAL, net.addr())
                .ip(IFA_ADDRESS, net.addr());
        },
    );
}
