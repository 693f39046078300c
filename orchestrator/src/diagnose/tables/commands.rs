//! The commands that put a planned row back: iproute2's, bridge's and sysctl's words.

use datapath::element::Fix;
use datapath::state::{Family, Link, LinkKind, NeighbourState, Route, Row, Rule, RuleAction};

use super::Node;

/// So many rows of one finding are put back by hand; more are the datapath's agent's work.
const BY_HAND: usize = 32;

/// The command that makes a row what it should be; none where only the datapath's agent can (translations), or where the kernel makes
/// the row itself.
pub(super) fn restore(row: &Row) -> Option<Vec<String>> {
    let text = match row {
        Row::Address(row) => vec![
            "ip".to_owned(),
            "address".to_owned(),
            "replace".to_owned(),
            row.net.to_string(),
            "dev".to_owned(),
            row.link.clone(),
        ],
        Row::Fdb(row) => {
            let dst = row.dst?;
            // A peer's flood row is one of many on the same link, its unicast row the only one of its MAC.
            let verb = if row.mac.is_zero() {
                "append"
            } else {
                "replace"
            };
            let mut argv = words(&["bridge", "fdb", verb]);
            argv.extend([
                row.mac.to_string(),
                "dev".to_owned(),
                row.link.clone(),
                "dst".to_owned(),
                dst.to_string(),
            ]);
            argv.extend(words(&["self", "permanent"]));
            argv
        }
        Row::Link(row) => remake(row)?,
        Row::Nat(_) => return None,
        Row::Neighbour(row) => {
            if row.state != NeighbourState::Permanent {
                return None;
            }
            let mut argv = ip(Family::of(row.ip));
            argv.extend(words(&["neighbour", "replace"]));
            argv.extend([
                row.ip.to_string(),
                "lladdr".to_owned(),
                row.mac?.to_string(),
                "dev".to_owned(),
                row.link.clone(),
            ]);
            argv.extend(words(&["nud", "permanent"]));
            argv
        }
        Row::Route(row) => route(row)?,
        Row::Rule(row) => rule(row)?,
        Row::Sysctl(row) => sysctl(&row.name, row.value),
    };
    Some(text)
}

/// `sysctl -w NAME=VALUE`.
pub(super) fn sysctl(name: &str, value: i64) -> Vec<String> {
    vec![
        "sysctl".to_owned(),
        "-w".to_owned(),
        format!("{name}={value}"),
    ]
}

/// The words of a constant command.
pub(super) fn words(list: &[&str]) -> Vec<String> {
    list.iter().map(|&word| word.to_owned()).collect()
}

fn ip(family: Family) -> Vec<String> {
    match family {
        Family::Ipv4 => words(&["ip"]),
        Family::Ipv6 => words(&["ip", "-6"]),
    }
}

/// `ip route replace …`; none for routes that lead nowhere or by several next hops.
pub(in super::super) fn route(row: &Route) -> Option<Vec<String>> {
    let [hop] = row.hops.as_slice() else {
        return None;
    };
    let mut argv = ip(Family::of(row.dst.addr()));
    argv.extend(words(&["route", "replace"]));
    argv.push(row.dst.to_string());
    if let Some(via) = hop.via {
        argv.extend(["via".to_owned(), via.to_string()]);
    }
    argv.extend([
        "dev".to_owned(),
        hop.link.clone(),
        "table".to_owned(),
        row.table.to_string(),
    ]);
    if row.metric != 0 && row.dst.addr().is_ipv4() {
        argv.extend(["metric".to_owned(), row.metric.to_string()]);
    }
    if hop.via.is_some() {
        argv.push("onlink".to_owned());
    }
    Some(argv)
}

fn rule(row: &Rule) -> Option<Vec<String>> {
    let RuleAction::Lookup(table) = row.action else {
        return None;
    };
    let mut argv = ip(row.family);
    argv.extend(words(&["rule", "add", "pref"]));
    argv.extend([
        row.priority.to_string(),
        "lookup".to_owned(),
        table.to_string(),
    ]);
    Some(argv)
}

/// The command that makes a tunnel; none for another kind of link.
fn remake(link: &Link) -> Option<Vec<String>> {
    let LinkKind::Vxlan(vxlan) = &link.kind else {
        return None;
    };
    let mut argv = words(&["ip", "link", "add"]);
    argv.extend([link.name.clone(), "mtu".to_owned(), link.mtu.to_string()]);
    if let Some(mac) = link.mac {
        argv.extend(["address".to_owned(), mac.to_string()]);
    }
    argv.extend(words(&["up", "type", "vxlan", "id"]));
    argv.extend([
        vxlan.vni.to_string(),
        "dstport".to_owned(),
        vxlan.port.to_string(),
        if vxlan.learning {
            "learning"
        } else {
            "nolearning"
        }
        .to_owned(),
    ]);
    if let Some(local) = vxlan.local {
        argv.extend(["local".to_owned(), local.to_string()]);
    }
    if let Some(lower) = &vxlan.lower {
        argv.extend(["dev".to_owned(), lower.clone()]);
    }
    Some(argv)
}

/// The order in which rows can be put back: what a row rests on comes first.
fn rank(row: &Row) -> u8 {
    match row {
        Row::Link(_) => 0,
        Row::Sysctl(_) => 1,
        Row::Address(_) => 2,
        Row::Neighbour(_) => 3,
        Row::Fdb(_) => 4,
        Row::Rule(_) => 5,
        Row::Route(_) => 6,
        Row::Nat(_) => 7,
    }
}

/// A fix with the rows that went along put back, too.
pub(super) fn with_rows(node: &Node<'_>, mut fix: Fix, rows: &[&Row]) -> Fix {
    let mut rows: Vec<&Row> = rows.to_vec();
    rows.sort_by_key(|row| rank(row));
    let commands: Vec<Option<Vec<String>>> = rows.iter().map(|row| restore(row)).collect();
    let by_hand = commands.len() <= BY_HAND;
    let mut left = 0;
    for command in commands {
        match command.filter(|_| by_hand) {
            Some(argv) => fix = node.and(fix, argv),
            None => left += 1,
        }
    }
    if left > 0 {
        fix = fix.and_advice(&format!(
            "start the datapath's agent on {}, which puts back the other {left} rows",
            node.place()
        ));
    }
    fix
}
