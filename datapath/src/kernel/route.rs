//! Routes of both families and all tables.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::address::{AF_INET, family};
use super::link::Names;
use super::message::{
    Attributes, Batch, NLM_F_CREATE, NLM_F_REPLACE, Tolerated, attributes, read_ip, read_u32,
};
use crate::state::{NextHop, Route, RouteKind};

pub(super) const RTM_NEWROUTE: u16 = 24;
pub(super) const RTM_DELROUTE: u16 = 25;
pub(super) const RTM_GETROUTE: u16 = 26;

const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
const RTA_PREFSRC: u16 = 7;
const RTA_METRICS: u16 = 8;
const RTA_MULTIPATH: u16 = 9;
const RTA_TABLE: u16 = 15;
const RTA_VIA: u16 = 18;
const RTAX_MTU: u16 = 2;

const RTN_UNICAST: u8 = 1;
const RTN_LOCAL: u8 = 2;
const RTN_BLACKHOLE: u8 = 6;
const RTN_UNREACHABLE: u8 = 7;
const RTN_PROHIBIT: u8 = 8;
const RTN_THROW: u8 = 9;

const RTNH_F_DEAD: u32 = 1;
const RTNH_F_ONLINK: u32 = 4;
const RTNH_F_LINKDOWN: u32 = 16;
const RTM_F_CLONED: u32 = 0x200;
const RT_SCOPE_NOWHERE: u8 = 255;

/// The header of a request for all routes of a family.
pub(super) fn dump_header(family: u8) -> [u8; 12] {
    let mut bytes = [0; 12];
    bytes[0] = family;
    bytes
}

/// The table of a route, without a look at the rest of it.
pub(super) fn table_of(payload: &[u8]) -> Option<u32> {
    let short = u32::from(*payload.get(4)?);
    let mut rest = attributes(payload.get(12..)?);
    let long = rest.find(|(attribute, _)| *attribute == RTA_TABLE);
    Some(long.and_then(|(_, value)| read_u32(value)).unwrap_or(short))
}

pub(super) fn read(payload: &[u8], names: &Names) -> Option<Route> {
    let [family, length, _, _, table, protocol, _, kind] = *payload.first_chunk::<8>()?;
    let flags = read_u32(payload.get(8..12)?)?;
    if flags & RTM_F_CLONED != 0 {
        return None;
    }
    let mut dst = if family == AF_INET {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED)
    } else {
        IpAddr::V6(Ipv6Addr::UNSPECIFIED)
    };
    let kind = match kind {
        RTN_UNICAST => RouteKind::Unicast,
        // Local, broadcast, anycast, multicast.
        RTN_LOCAL..=5 => RouteKind::Local,
        RTN_BLACKHOLE => RouteKind::Blackhole,
        RTN_UNREACHABLE => RouteKind::Unreachable,
        RTN_PROHIBIT => RouteKind::Prohibit,
        RTN_THROW => RouteKind::Throw,
        _ => return None,
    };
    let mut table = u32::from(table);
    let (mut link, mut via, mut metric, mut src, mut mtu) = (None, None, 0, None, None);
    let mut hops = Vec::new();
    for (attribute, value) in attributes(payload.get(12..)?) {
        match attribute {
            RTA_DST => dst = read_ip(value)?,
            RTA_OIF => link = names.get(read_u32(value)?),
            RTA_GATEWAY => via = read_ip(value),
            RTA_VIA => via = value.get(2..).and_then(read_ip),
            RTA_PRIORITY => metric = read_u32(value)?,
            RTA_PREFSRC => src = read_ip(value),
            RTA_METRICS => {
                mtu = attributes(value)
                    .find(|(kind, _)| *kind == RTAX_MTU)
                    .and_then(|(_, value)| read_u32(value));
            }
            RTA_MULTIPATH => hops = read_hops(value, names),
            RTA_TABLE => table = read_u32(value)?,
            _ => {}
        }
    }
    // The unreachable kinds of IPv6 name the loopback link, which leads nowhere.
    let leads = matches!(kind, RouteKind::Unicast | RouteKind::Local);
    if let Some(link) = link.filter(|_| leads) {
        hops.push(NextHop {
            via,
            link: link.to_owned(),
            onlink: flags & RTNH_F_ONLINK != 0,
            weight: 1,
            dead: flags & (RTNH_F_DEAD | RTNH_F_LINKDOWN) != 0,
        });
    }
    Some(Route {
        table,
        dst: IpNet::new(dst, length).ok()?,
        metric,
        kind,
        hops,
        src,
        protocol,
        mtu,
    })
}

/// `struct rtnexthop`: length, flags, weight less one, link; then attributes.
fn read_hops(mut bytes: &[u8], names: &Names) -> Vec<NextHop> {
    let mut hops = Vec::new();
    while let Some(header) = bytes.first_chunk::<8>() {
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let (flags, weight) = (u32::from(header[2]), u16::from(header[3]) + 1);
        let Some(inside) = bytes.get(8..length) else {
            break;
        };
        let via = attributes(inside).find_map(|(kind, value)| match kind {
            RTA_GATEWAY => read_ip(value),
            RTA_VIA => value.get(2..).and_then(read_ip),
            _ => None,
        });
        let index = u32::from_ne_bytes([header[4], header[5], header[6], header[7]]);
        if let Some(link) = names.get(index) {
            hops.push(NextHop {
                via,
                link: link.to_owned(),
                onlink: flags & RTNH_F_ONLINK != 0,
                weight,
                dead: flags & (RTNH_F_DEAD | RTNH_F_LINKDOWN) != 0,
            });
        }
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    hops
}

/// Puts a route in, or in place of the one with its key.
pub(super) fn add(
    batch: &mut Batch,
    change: usize,
    row: &Route,
    index_of: &dyn Fn(&str) -> Option<u32>,
) -> Result<(), String> {
    let mut hops = Vec::with_capacity(row.hops.len());
    for hop in &row.hops {
        hops.push((hop, index_of(&hop.link).ok_or_else(|| hop.link.clone())?));
    }
    let kind = match row.kind {
        RouteKind::Blackhole => RTN_BLACKHOLE,
        RouteKind::Local => RTN_LOCAL,
        RouteKind::Prohibit => RTN_PROHIBIT,
        RouteKind::Throw => RTN_THROW,
        RouteKind::Unicast => RTN_UNICAST,
        RouteKind::Unreachable => RTN_UNREACHABLE,
    };
    let onlink = match hops.as_slice() {
        [(hop, _)] if hop.onlink => RTNH_F_ONLINK,
        _ => 0,
    };
    batch.push(
        (RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE),
        (change, Tolerated::Nothing),
        &header(row, row.protocol, 0, kind, onlink),
        |route| {
            write_key(row, route);
            if let Some(src) = row.src {
                route.ip(RTA_PREFSRC, src);
            }
            if let Some(mtu) = row.mtu {
                route.nest(RTA_METRICS, |metrics| {
                    metrics.u32(RTAX_MTU, mtu);
                });
            }
            match hops.as_slice() {
                [] => {}
                [(hop, index)] => {
                    route.u32(RTA_OIF, *index);
                    if let Some(via) = hop.via {
                        route.ip(RTA_GATEWAY, via);
                    }
                }
                several => drop(route.bytes(RTA_MULTIPATH, &hop_bytes(several))),
            }
        },
    );
    Ok(())
}

/// Takes the routes with this key out, whatever they do: one request each, and those of a multipath route find nothing more.
pub(super) fn delete(batch: &mut Batch, change: usize, row: &Route) {
    for _ in 0..row.hops.len().max(1) {
        batch.push(
            (RTM_DELROUTE, 0),
            (change, Tolerated::Gone),
            &header(row, 0, RT_SCOPE_NOWHERE, 0, 0),
            |route| write_key(row, route),
        );
    }
}

fn header(row: &Route, protocol: u8, scope: u8, kind: u8, flags: u32) -> [u8; 12] {
    let mut bytes = [0; 12];
    bytes[0] = family(row.dst.addr());
    bytes[1] = row.dst.prefix_len();
    bytes[5] = protocol;
    bytes[6] = scope;
    bytes[7] = kind;
    bytes[8..12].copy_from_slice(&flags.to_ne_bytes());
    bytes
}

fn write_key(row: &Route, route: &mut Attributes<'_>) {
    route.u32(RTA_TABLE, row.table);
    if row.dst.prefix_len() > 0 {
        route.ip(RTA_DST, row.dst.network());
    }
    if row.metric > 0 {
        route.u32(RTA_PRIORITY, row.metric);
    }
}

fn hop_bytes(hops: &[(&NextHop, u32)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (hop, index) in hops {
        let start = bytes.len();
        let weight = u8::try_from(hop.weight.saturating_sub(1)).unwrap_or(u8::MAX);
        let flags = if hop.onlink { 4 } else { 0 };
        bytes.extend_from_slice(&[0, 0, flags, weight]);
        bytes.extend_from_slice(&index.to_ne_bytes());
        if let Some(via) = hop.via {
            Attributes::new(&mut bytes).ip(RTA_GATEWAY, via);
        }
        let length = u16::try_from(bytes.len() - start).unwrap_or(u16::MAX);
        bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
    }
    bytes
}

/// Joins a route to one with the same key: IPv6 has one connected route a link under one key, and either family has what was appended.
pub(super) fn join(into: &mut Route, other: Route) {
    for hop in other.hops {
        if !into.hops.contains(&hop) {
            into.hops.push(hop);
        }
    }
}

#[cfg(test)]
mod tests {
    use nix::sched::{CloneFlags, unshare};

    use super::super::LinuxKernel;
    use super::super::message::NLM_F_APPEND;
    use super::*;
    use crate::diff::diff;
    use crate::mac::Mac;
    use crate::nodeconfig::{PROTOCOL, TABLE, default_metric};
    use crate::reconcile::Kernel;
    use crate::state::{Address, Link, LinkKind, NodeState, Vxlan};

    fn parsed<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
        text.parse().expect("a literal")
    }

    fn via(dst: &str, via: Option<&str>) -> Route {
        Route {
            table: TABLE,
            dst: parsed(dst),
            metric: default_metric(parsed(dst)),
            kind: RouteKind::Unicast,
            hops: vec![NextHop {
                via: via.map(parsed),
                link: "vx-bridge".into(),
                onlink: via.is_some(),
                weight: 1,
                dead: false,
            }],
            src: None,
            protocol: PROTOCOL,
            mtu: None,
        }
    }

    /// Routes with one key, in the order in which they are appended.
    fn append(kernel: &mut LinuxKernel, rows: &[Route]) {
        let index = kernel.index_of("vx-bridge").expect("an answer");
        let mut batch = Batch::default();
        for row in rows {
            add(&mut batch, 0, row, &|_| index).expect("a link");
        }
        for part in &batch.parts {
            let flags = NLM_F_CREATE | NLM_F_APPEND | super::super::message::NLM_F_REQUEST;
            let at = part.range.start + 6;
            batch.bytes[at..at + 2].copy_from_slice(&flags.to_ne_bytes());
        }
        let refused = kernel.route.make(&mut batch).expect("answers");
        let refused: Vec<_> = refused
            .iter()
            .map(|part| (part.errno, &part.detail))
            .collect();
        assert_eq!(refused, []);
    }

    fn desired(routes: &[Route]) -> NodeState {
        let mut state = NodeState::default();
        state.links.insert(Link {
            name: "vx-bridge".into(),
            index: 0,
            mac: Some(Mac([2, 0, 0, 0, 0, 1])),
            mtu: 1450,
            up: true,
            carrier: true,
            kind: LinkKind::Vxlan(Vxlan {
                vni: 54,
                port: 4876,
                local: None,
                lower: None,
                learning: false,
            }),
            master: None,
            tx_dropped: 0,
            rx_dropped: 0,
        });
        for net in ["220.0.0.1/8", "9470::1/16"] {
            state.addresses.insert(Address {
                link: "vx-bridge".into(),
                net: parsed(net),
            });
        }
        state.routes.extend(routes.iter().cloned());
        state
    }

    #[test]
    #[ignore = "netns: needs vxlan"]
    fn what_was_appended_to_our_routes_goes_in_one_round() {
        let worker = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("a new network namespace");
            let mut kernel = LinuxKernel::open().expect("sockets");
            let bare = desired(&[]);
            let tunnel = diff(&bare, &NodeState::default());
            kernel.apply(&tunnel).expect("a tunnel");
            for (dst, ours, other, third) in [
                ("10.21.0.0/16", "220.0.0.3", "220.0.0.4", "220.0.0.5"),
                ("fd21::/48", "9470::3", "9470::4", "9470::5"),
            ] {
                let ours = via(dst, Some(ours));
                let others = [via(dst, Some(other)), via(dst, None), via(dst, Some(third))];
                let mut orders = vec![vec![ours.clone()], Vec::new()];
                for order in &mut orders {
                    order.extend(others.iter().cloned());
                }
                orders.push(others.iter().cloned().chain([ours.clone()]).collect());
                for (rows, wanted) in orders.iter().flat_map(|rows| {
                    [
                        (rows, desired(std::slice::from_ref(&ours))),
                        (rows, bare.clone()),
                    ]
                }) {
                    append(&mut kernel, rows);
                    let observed = kernel.observe().expect("an observation");
                    let set = diff(&wanted, &observed);
                    assert!(!set.is_empty());
                    kernel.apply(&set).expect("a possible change");
                    let left = diff(&wanted, &kernel.observe().expect("an observation"));
                    assert!(left.is_empty(), "{set}leaves\n{left}");
                    let none = diff(&bare, &kernel.observe().expect("an observation"));
                    kernel.apply(&none).expect("a clean table");
                }
            }
        });
        worker.join().expect("no panic in the namespace");
    }
}
