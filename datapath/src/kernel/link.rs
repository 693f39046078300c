//! Links: reading all kinds, making and changing tunnels.

use std::collections::HashMap;
use std::net::IpAddr;

use super::message::{
    Batch, NLM_F_CREATE, NLM_F_EXCL, Tolerated, attributes, read_ip, read_mac, read_text,
    read_u16_be, read_u32, read_u64,
};
use crate::state::{Link, LinkKind, Sysctl, Vxlan};

pub(super) const RTM_NEWLINK: u16 = 16;
pub(super) const RTM_DELLINK: u16 = 17;
pub(super) const RTM_GETLINK: u16 = 18;

const IFF_UP: u32 = 0x1;
const IFF_LOOPBACK: u32 = 0x8;
const IFF_LOWER_UP: u32 = 0x1_0000;

const IFLA_ADDRESS: u16 = 1;
pub(super) const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;
const IFLA_TXQLEN: u16 = 13;
const IFLA_LINKINFO: u16 = 18;
const IFLA_STATS64: u16 = 23;
const IFLA_AF_SPEC: u16 = 26;

const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;

const IFLA_VXLAN_ID: u16 = 1;
const IFLA_VXLAN_LINK: u16 = 3;
const IFLA_VXLAN_LOCAL: u16 = 4;
const IFLA_VXLAN_TTL: u16 = 5;
const IFLA_VXLAN_LEARNING: u16 = 7;
const IFLA_VXLAN_PORT: u16 = 15;
const IFLA_VXLAN_LOCAL6: u16 = 17;

/// `struct rtnl_link_stats64`: the places of rx_dropped and tx_dropped.
const RX_DROPPED: usize = 6;
const TX_DROPPED: usize = 7;

const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;
/// `IFLA_INET_CONF` and `IFLA_INET6_CONF`: where each family's settings are, and the places of ours in them.
const IFLA_INET_CONF: u16 = 1;
const IFLA_INET6_CONF: u16 = 2;
const IPV4_FORWARDING: usize = 0;
const IPV4_RP_FILTER: usize = 7;
const IPV6_FORWARDING: usize = 0;
const IPV6_DISABLE: usize = 26;

/// The header of a link message.
pub(super) fn header(index: u32, flags: u32, change: u32) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[4..8].copy_from_slice(&index.to_ne_bytes());
    bytes[8..12].copy_from_slice(&flags.to_ne_bytes());
    bytes[12..16].copy_from_slice(&change.to_ne_bytes());
    bytes
}

/// Names and indices of a namespace's links.
#[derive(Default)]
pub(super) struct Names(HashMap<u32, String>);

impl Names {
    pub(super) fn insert(&mut self, index: u32, name: String) {
        self.0.insert(index, name);
    }

    pub(super) fn get(&self, index: u32) -> Option<&str> {
        self.0.get(&index).map(String::as_str)
    }
}

/// A link as it is read; other links that it refers to are indices still.
pub(super) struct Read {
    pub(super) link: Link,
    lower: Option<u32>,
    master: Option<u32>,
    pub(super) sysctls: Vec<Sysctl>,
}

impl Read {
    /// Exchanges indices for names. An index of another namespace has none.
    pub(super) fn resolved(mut self, names: &Names) -> Link {
        self.link.master = self
            .master
            .and_then(|index| names.get(index))
            .map(str::to_owned);
        if let LinkKind::Vxlan(vxlan) = &mut self.link.kind {
            vxlan.lower = self
                .lower
                .and_then(|index| names.get(index))
                .map(str::to_owned);
        }
        self.link
    }
}

pub(super) fn read(payload: &[u8]) -> Option<Read> {
    let index = read_u32(payload.get(4..8)?)?;
    let flags = read_u32(payload.get(8..12)?)?;
    let mut read = Read {
        link: Link {
            name: String::new(),
            index,
            mac: None,
            mtu: 0,
            up: flags & IFF_UP != 0,
            carrier: flags & IFF_LOWER_UP != 0,
            kind: LinkKind::Other {
                name: "physical".to_owned(),
            },
            master: None,
            tx_dropped: 0,
            rx_dropped: 0,
        },
        lower: None,
        master: None,
        sysctls: Vec::new(),
    };
    if flags & IFF_LOOPBACK != 0 {
        read.link.kind = LinkKind::Loopback;
    }
    let (mut info, mut settings) = (None, None);
    for (kind, value) in attributes(payload.get(16..)?) {
        match kind {
            IFLA_ADDRESS => read.link.mac = read_mac(value),
            IFLA_IFNAME => read.link.name = read_text(value)?,
            IFLA_MTU => read.link.mtu = read_u32(value)?,
            IFLA_LINK => read.lower = read_u32(value),
            IFLA_MASTER => read.master = read_u32(value),
            IFLA_LINKINFO => info = Some(value),
            IFLA_STATS64 => {
                let at = |place: usize| value.get(place * 8..).and_then(read_u64).unwrap_or(0);
                read.link.rx_dropped = at(RX_DROPPED);
                read.link.tx_dropped = at(TX_DROPPED);
            }
            IFLA_AF_SPEC => settings = Some(value),
            _ => {}
        }
    }
    if read.link.name.is_empty() {
        return None;
    }
    if let Some(info) = info {
        read_info(info, &mut read);
    }
    if let Some(settings) = settings {
        read.sysctls = read_settings(&read.link.name, settings);
    }
    Some(read)
}

fn read_info(info: &[u8], read: &mut Read) {
    let (mut name, mut data) = (None, &[][..]);
    for (kind, value) in attributes(info) {
        match kind {
            IFLA_INFO_KIND => name = read_text(value),
            IFLA_INFO_DATA => data = value,
            _ => {}
        }
    }
    read.link.kind = match name.as_deref() {
        None => return,
        Some("bridge") => LinkKind::Bridge,
        Some("veth") => LinkKind::Veth {
            peer_index: read.lower.unwrap_or(0),
        },
        Some("vxlan") => {
            let mut vxlan = Vxlan {
                vni: 0,
                port: 0,
                local: None,
                lower: None,
                learning: false,
            };
            read.lower = None;
            for (kind, value) in attributes(data) {
                match kind {
                    IFLA_VXLAN_ID => vxlan.vni = read_u32(value).unwrap_or(0),
                    IFLA_VXLAN_LINK => read.lower = read_u32(value),
                    IFLA_VXLAN_LOCAL | IFLA_VXLAN_LOCAL6 => {
                        vxlan.local = read_ip(value).filter(|ip| !ip.is_unspecified());
                    }
                    IFLA_VXLAN_LEARNING => vxlan.learning = value.first() == Some(&1),
                    IFLA_VXLAN_PORT => vxlan.port = read_u16_be(value).unwrap_or(0),
                    _ => {}
                }
            }
            LinkKind::Vxlan(vxlan)
        }
        Some(other) => LinkKind::Other {
            name: other.to_owned(),
        },
    };
}

fn read_settings(link: &str, settings: &[u8]) -> Vec<Sysctl> {
    let link = link.replace('.', "/");
    let mut sysctls = Vec::with_capacity(4);
    for (family, value) in attributes(settings) {
        let (directory, list, leaves) = match family {
            AF_INET => (
                "ipv4",
                IFLA_INET_CONF,
                [
                    ("forwarding", IPV4_FORWARDING),
                    ("rp_filter", IPV4_RP_FILTER),
                ],
            ),
            AF_INET6 => (
                "ipv6",
                IFLA_INET6_CONF,
                [
                    ("forwarding", IPV6_FORWARDING),
                    ("disable_ipv6", IPV6_DISABLE),
                ],
            ),
            _ => continue,
        };
        let Some((_, values)) = attributes(value).find(|(kind, _)| *kind == list) else {
            continue;
        };
        for (leaf, place) in leaves {
            if let Some(value) = values.get(place * 4..).and_then(read_u32) {
                sysctls.push(Sysctl {
                    name: format!("net.{directory}.conf.{link}.{leaf}"),
                    value: i64::from(value.cast_signed()),
                });
            }
        }
    }
    sysctls
}

/// Makes a tunnel, up.
pub(super) fn create(
    batch: &mut Batch,
    change: usize,
    link: &Link,
    lower: Option<u32>,
    master: Option<u32>,
) {
    let LinkKind::Vxlan(vxlan) = &link.kind else {
        return;
    };
    let up = if link.up { IFF_UP } else { 0 };
    batch.push(
        (RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL),
        (change, Tolerated::Nothing),
        &header(0, up, IFF_UP),
        |link_attributes| {
            link_attributes.text(IFLA_IFNAME, &link.name);
            link_attributes.u32(IFLA_MTU, link.mtu);
            if let Some(mac) = link.mac {
                link_attributes.bytes(IFLA_ADDRESS, &mac.0);
            }
            if let Some(master) = master {
                link_attributes.u32(IFLA_MASTER, master);
            }
            // No queue of its own: the underlay link has one.
            link_attributes.u32(IFLA_TXQLEN, 0);
            link_attributes.nest(IFLA_LINKINFO, |info| {
                info.text(IFLA_INFO_KIND, "vxlan");
                info.nest(IFLA_INFO_DATA, |data| {
                    data.u32(IFLA_VXLAN_ID, vxlan.vni);
                    data.u16_be(IFLA_VXLAN_PORT, vxlan.port);
                    data.u8(IFLA_VXLAN_LEARNING, u8::from(vxlan.learning));
                    data.u8(IFLA_VXLAN_TTL, 0);
                    match vxlan.local {
                        Some(local @ IpAddr::V4(_)) => drop(data.ip(IFLA_VXLAN_LOCAL, local)),
                        Some(local @ IpAddr::V6(_)) => drop(data.ip(IFLA_VXLAN_LOCAL6, local)),
                        None => {}
                    }
                    if let Some(lower) = lower {
                        data.u32(IFLA_VXLAN_LINK, lower);
                    }
                });
            });
        },
    );
}

/// Asks for a tunnel without saying anything of it, which no kernel makes.
pub(super) fn ask_for_nothing(batch: &mut Batch) {
    batch.push(
        (RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL),
        (0, Tolerated::Nothing),
        &header(0, 0, 0),
        |attributes| {
            attributes.nest(IFLA_LINKINFO, |info| {
                info.text(IFLA_INFO_KIND, "vxlan");
            });
        },
    );
}

/// Changes what can be changed in place.
pub(super) fn change(
    batch: &mut Batch,
    place: usize,
    index: u32,
    (from, to): (&Link, &Link),
    master: Option<u32>,
) {
    let flags = if to.up { IFF_UP } else { 0 };
    let mask = if from.up == to.up { 0 } else { IFF_UP };
    batch.push(
        (RTM_NEWLINK, 0),
        (place, Tolerated::Nothing),
        &header(index, flags, mask),
        |link_attributes| {
            if from.mtu != to.mtu {
                link_attributes.u32(IFLA_MTU, to.mtu);
            }
            if from.mac != to.mac
                && let Some(mac) = to.mac
            {
                link_attributes.bytes(IFLA_ADDRESS, &mac.0);
            }
            if from.master != to.master {
                link_attributes.u32(IFLA_MASTER, master.unwrap_or(0));
            }
            if let (LinkKind::Vxlan(was), LinkKind::Vxlan(vxlan)) = (&from.kind, &to.kind)
                && was.learning != vxlan.learning
            {
                link_attributes.nest(IFLA_LINKINFO, |info| {
                    info.text(IFLA_INFO_KIND, "vxlan");
                    info.nest(IFLA_INFO_DATA, |data| {
                        data.u8(IFLA_VXLAN_LEARNING, u8::from(vxlan.learning));
                    });
                });
            }
        },
    );
}

/// Takes a link out.
pub(super) fn delete(batch: &mut Batch, change: usize, index: u32) {
    batch.push(
        (RTM_DELLINK, 0),
        (change, Tolerated::Gone),
        &header(index, 0, 0),
        |_| {},
    );
}
