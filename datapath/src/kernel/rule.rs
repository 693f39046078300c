//! Policy rules.

use ipnet::IpNet;

use super::address::{AF_INET, AF_INET6};
use super::message::{
    Attributes, Batch, NLM_F_CREATE, NLM_F_EXCL, Tolerated, attributes, read_ip, read_text,
    read_u32,
};
use crate::state::{Family, Finer, Rule, RuleAction};

pub(super) const RTM_NEWRULE: u16 = 32;
pub(super) const RTM_DELRULE: u16 = 33;
pub(super) const RTM_GETRULE: u16 = 34;

const FRA_DST: u16 = 1;
const FRA_SRC: u16 = 2;
const FRA_IIFNAME: u16 = 3;
const FRA_PRIORITY: u16 = 6;
const FRA_FWMARK: u16 = 10;
const FRA_SUPPRESS_PREFIXLEN: u16 = 14;
const FRA_TABLE: u16 = 15;
const FRA_FWMASK: u16 = 16;
const FRA_OIFNAME: u16 = 17;
const FRA_IP_PROTO: u16 = 22;
const FRA_SPORT_RANGE: u16 = 23;
const FRA_DPORT_RANGE: u16 = 24;

const FR_ACT_TO_TBL: u8 = 1;
const FR_ACT_BLACKHOLE: u8 = 6;
const FR_ACT_UNREACHABLE: u8 = 7;
const FR_ACT_PROHIBIT: u8 = 8;

const FIB_RULE_INVERT: u32 = 0x2;

pub(super) fn read(payload: &[u8]) -> Option<Rule> {
    let family = match *payload.first()? {
        AF_INET => Family::Ipv4,
        AF_INET6 => Family::Ipv6,
        // Multicast routing has rules of its own.
        _ => return None,
    };
    let (dst_length, src_length) = (*payload.get(1)?, *payload.get(2)?);
    let mut table = u32::from(*payload.get(4)?);
    let action = *payload.get(7)?;
    let flags = read_u32(payload.get(8..12)?)?;
    let mut rule = Rule {
        family,
        priority: 0,
        src: None,
        dst: None,
        iif: None,
        oif: None,
        mark: None,
        finer: None,
        invert: flags & FIB_RULE_INVERT != 0,
        action: RuleAction::Other(action),
    };
    let mut finer = Finer::default();
    for (kind, value) in attributes(payload.get(12..)?) {
        match kind {
            FRA_IP_PROTO => finer.protocol = value.first().copied(),
            FRA_SPORT_RANGE => finer.src_ports = read_ports(value),
            FRA_DPORT_RANGE => finer.dst_ports = read_ports(value),
            // All ones, which is no length, says that there is none.
            FRA_SUPPRESS_PREFIXLEN => finer.suppress = u8::try_from(read_u32(value)?).ok(),
            FRA_DST => rule.dst = IpNet::new(read_ip(value)?, dst_length).ok(),
            FRA_SRC => rule.src = IpNet::new(read_ip(value)?, src_length).ok(),
            FRA_IIFNAME => rule.iif = read_text(value),
            FRA_OIFNAME => rule.oif = read_text(value),
            FRA_PRIORITY => rule.priority = read_u32(value)?,
            FRA_FWMARK => {
                let mark = read_u32(value)?;
                rule.mark = Some((mark, rule.mark.map_or(u32::MAX, |(_, mask)| mask)));
            }
            FRA_FWMASK => {
                // A mask without a mark compares with zero; a mask of zero selects all.
                let mask = read_u32(value)?;
                rule.mark = (mask != 0).then_some((rule.mark.map_or(0, |(mark, _)| mark), mask));
            }
            FRA_TABLE => table = read_u32(value)?,
            _ => {}
        }
    }
    rule.finer = (finer != Finer::default()).then_some(finer);
    rule.action = match action {
        FR_ACT_TO_TBL => RuleAction::Lookup(table),
        FR_ACT_BLACKHOLE => RuleAction::Blackhole,
        FR_ACT_UNREACHABLE => RuleAction::Unreachable,
        FR_ACT_PROHIBIT => RuleAction::Prohibit,
        other => RuleAction::Other(other),
    };
    Some(rule)
}

/// `struct fib_rule_port_range`: the first and the last port, in the host's byte order.
fn read_ports(value: &[u8]) -> Option<(u16, u16)> {
    let [a, b, c, d] = *value.first_chunk()?;
    Some((u16::from_ne_bytes([a, b]), u16::from_ne_bytes([c, d])))
}

pub(super) fn add(batch: &mut Batch, change: usize, row: &Rule) {
    batch.push(
        (RTM_NEWRULE, NLM_F_CREATE | NLM_F_EXCL),
        (change, Tolerated::There),
        &header(row),
        |rule| write(row, rule),
    );
}

pub(super) fn delete(batch: &mut Batch, change: usize, row: &Rule) {
    batch.push(
        (RTM_DELRULE, 0),
        (change, Tolerated::Gone),
        &header(row),
        |rule| write(row, rule),
    );
}

fn header(row: &Rule) -> [u8; 12] {
    let length = |net: Option<IpNet>| net.map_or(0, |net| net.prefix_len());
    let action = match row.action {
        RuleAction::Blackhole => FR_ACT_BLACKHOLE,
        RuleAction::Lookup(_) => FR_ACT_TO_TBL,
        RuleAction::Other(action) => action,
        RuleAction::Prohibit => FR_ACT_PROHIBIT,
        RuleAction::Unreachable => FR_ACT_UNREACHABLE,
    };
    let mut bytes = [0; 12];
    bytes[0] = match row.family {
        Family::Ipv4 => AF_INET,
        Family::Ipv6 => AF_INET6,
    };
    bytes[1] = length(row.dst);
    bytes[2] = length(row.src);
    bytes[7] = action;
    let flags = if row.invert { FIB_RULE_INVERT } else { 0 };
    bytes[8..12].copy_from_slice(&flags.to_ne_bytes());
    bytes
}

fn write(row: &Rule, rule: &mut Attributes<'_>) {
    rule.u32(FRA_PRIORITY, row.priority);
    if let RuleAction::Lookup(table) = row.action {
        rule.u32(FRA_TABLE, table);
    }
    if let Some(src) = row.src {
        rule.ip(FRA_SRC, src.addr());
    }
    if let Some(dst) = row.dst {
        rule.ip(FRA_DST, dst.addr());
    }
    if let Some(link) = &row.iif {
        rule.text(FRA_IIFNAME, link);
    }
    if let Some(link) = &row.oif {
        rule.text(FRA_OIFNAME, link);
    }
    if let Some((mark, mask)) = row.mark {
        rule.u32(FRA_FWMARK, mark).u32(FRA_FWMASK, mask);
    }
    let finer = row.finer.unwrap_or_default();
    if let Some(protocol) = finer.protocol {
        rule.bytes(FRA_IP_PROTO, &[protocol]);
    }
    for (kind, ports) in [
        (FRA_SPORT_RANGE, finer.src_ports),
        (FRA_DPORT_RANGE, finer.dst_ports),
    ] {
        if let Some((first, last)) = ports {
            let [a, b] = first.to_ne_bytes();
            let [c, d] = last.to_ne_bytes();
            rule.bytes(kind, &[a, b, c, d]);
        }
    }
    if let Some(length) = finer.suppress {
        rule.u32(FRA_SUPPRESS_PREFIXLEN, length.into());
    }
}
