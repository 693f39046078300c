//! Changes and rows in words.

use std::fmt;

use super::Change;
use crate::nodeconfig::default_metric;
use crate::state::{LinkKind, Nat, Route, RouteKind, Row, Rule, RuleAction};

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = kind_of(self.row());
        match self {
            Self::Add(row) => write!(f, "+ {kind} {}{}", name_of(row), Rest(row)),
            Self::Remove(row) => write!(f, "- {kind} {}", name_of(row)),
            Self::Replace { from, to } if from == to => {
                write!(f, "= {kind} {}{}", name_of(to), Rest(to))
            }
            Self::Replace { from, to } => {
                write!(f, "~ {kind} {}{}, was", name_of(to), Rest(to))?;
                if name_of(from) != name_of(to) {
                    write!(f, " {}", name_of(from))?;
                }
                write!(f, "{}", Rest(from))
            }
        }
    }
}

/// The word for a row's kind.
#[must_use]
pub fn kind_of(row: &Row) -> &'static str {
    match row {
        Row::Address(_) => "address",
        Row::Fdb(_) => "fdb",
        Row::Link(_) => "link",
        Row::Nat(_) => "nat",
        Row::Neighbour(_) => "neighbour",
        Row::Route(_) => "route",
        Row::Rule(_) => "rule",
        Row::Sysctl(_) => "sysctl",
    }
}

/// The stable name of a row among those of its kind, in the words of iproute2, sysctl and iptables.
///
/// ```
/// use datapath::state::{Address, Row};
/// let row = Address { link: "vx-bridge".into(), net: "220.64.0.3/8".parse().expect("an address") };
/// assert_eq!(datapath::diff::name_of(&Row::Address(row)), "220.64.0.3/8 dev vx-bridge");
/// ```
#[must_use]
pub fn name_of(row: &Row) -> String {
    match row {
        Row::Address(row) => format!("{} dev {}", row.net, row.link),
        Row::Fdb(row) => match row.dst {
            Some(dst) => format!("{} dst {dst} dev {}", row.mac, row.link),
            None => format!("{} dev {}", row.mac, row.link),
        },
        Row::Link(row) => row.name.clone(),
        Row::Nat(row) => nat(row),
        Row::Neighbour(row) => format!("{} dev {}", row.ip, row.link),
        Row::Route(row) if row.metric == default_metric(row.dst) => {
            format!("{} table {}", row.dst, row.table)
        }
        Row::Route(row) => format!("{} table {} metric {}", row.dst, row.table, row.metric),
        Row::Rule(row) => rule(row),
        Row::Sysctl(row) => row.name.clone(),
    }
}

fn rule(row: &Rule) -> String {
    let mut text = format!("{} {}:", row.family, row.priority);
    if row.invert {
        text.push_str(" not");
    }
    match row.src {
        Some(src) => text.push_str(&format!(" from {src}")),
        None => text.push_str(" from all"),
    }
    if let Some(dst) = row.dst {
        text.push_str(&format!(" to {dst}"));
    }
    if let Some((mark, mask)) = row.mark {
        text.push_str(&format!(" fwmark {mark:#x}/{mask:#x}"));
    }
    if let Some(link) = &row.iif {
        text.push_str(&format!(" iif {link}"));
    }
    if let Some(link) = &row.oif {
        text.push_str(&format!(" oif {link}"));
    }
    let finer = row.finer.unwrap_or_default();
    if let Some(protocol) = finer.protocol {
        text.push_str(&format!(" ipproto {protocol}"));
    }
    for (word, ports) in [("sport", finer.src_ports), ("dport", finer.dst_ports)] {
        match ports {
            Some((first, last)) if first == last => text.push_str(&format!(" {word} {first}")),
            Some((first, last)) => text.push_str(&format!(" {word} {first}-{last}")),
            None => {}
        }
    }
    match row.action {
        RuleAction::Blackhole => text.push_str(" blackhole"),
        RuleAction::Lookup(table) => text.push_str(&format!(" lookup {table}")),
        RuleAction::Other(action) => text.push_str(&format!(" action {action}")),
        RuleAction::Prohibit => text.push_str(" prohibit"),
        RuleAction::Unreachable => text.push_str(" unreachable"),
    }
    if let Some(length) = finer.suppress {
        text.push_str(&format!(" suppress_prefixlength {length}"));
    }
    text
}

fn nat(row: &Nat) -> String {
    match row {
        Nat::Masquerade { src, out: None } => format!("POSTROUTING -s {src} -j MASQUERADE"),
        Nat::Masquerade {
            src,
            out: Some(out),
        } => format!("POSTROUTING -s {src} -o {out} -j MASQUERADE"),
        Nat::Netmap { dst, input, to } => {
            format!("PREROUTING -d {dst} -i {input} -j NETMAP --to {to}")
        }
        Nat::Snat { src, out, to } => {
            format!("POSTROUTING -s {src} -o {out} -j SNAT --to-source {to}")
        }
    }
}

/// What a row says beyond its name.
struct Rest<'a>(&'a Row);

impl fmt::Display for Rest<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Row::Link(row) => {
                match &row.kind {
                    LinkKind::Vxlan(vxlan) => {
                        write!(f, " vxlan id {} port {}", vxlan.vni, vxlan.port)?;
                        if let Some(local) = vxlan.local {
                            write!(f, " local {local}")?;
                        }
                        if let Some(lower) = &vxlan.lower {
                            write!(f, " dev {lower}")?;
                        }
                        if vxlan.learning {
                            write!(f, " learning")?;
                        }
                    }
                    LinkKind::Bridge => write!(f, " bridge")?,
                    LinkKind::Loopback => write!(f, " loopback")?,
                    LinkKind::Other { name } => write!(f, " {name}")?,
                    LinkKind::Veth { .. } => write!(f, " veth")?,
                }
                if let Some(mac) = row.mac {
                    write!(f, " address {mac}")?;
                }
                if let Some(master) = &row.master {
                    write!(f, " master {master}")?;
                }
                write!(f, " mtu {} {}", row.mtu, if row.up { "up" } else { "down" })
            }
            Row::Neighbour(row) => {
                if let Some(mac) = row.mac {
                    write!(f, " lladdr {mac}")?;
                }
                write!(f, " {}", format!("{:?}", row.state).to_lowercase())
            }
            Row::Fdb(row) if !row.permanent => write!(f, " learned"),
            Row::Route(row) => route(row, f),
            Row::Sysctl(row) => write!(f, " = {}", row.value),
            Row::Address(_) | Row::Fdb(_) | Row::Nat(_) | Row::Rule(_) => Ok(()),
        }
    }
}

fn route(row: &Route, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    if row.kind != RouteKind::Unicast {
        write!(f, " {}", format!("{:?}", row.kind).to_lowercase())?;
    }
    for hop in &row.hops {
        if row.hops.len() > 1 {
            write!(f, " nexthop")?;
        }
        if let Some(via) = hop.via {
            write!(f, " via {via}")?;
        }
        write!(f, " dev {}", hop.link)?;
        if hop.onlink {
            write!(f, " onlink")?;
        }
    }
    if let Some(src) = row.src {
        write!(f, " src {src}")?;
    }
    if let Some(mtu) = row.mtu {
        write!(f, " mtu {mtu}")?;
    }
    Ok(())
}
