//! Tunnels that are not what was planned, and the rows that went with them.

use datapath::code::Code;
use datapath::diff::{Change, name_of, needs_remaking};
use datapath::element::{ElementKind, Fix};
use datapath::state::{Address, Family, Link, LinkKind, NeighbourState, Row, Sysctl};

use super::commands::{restore, with_rows, words};
use super::rows::setting;
use super::{Node, Suspicion, added, consequences, wanted};
use crate::graph::{Part, family_of_tunnel, tunnel_named};

/// One suspicion per tunnel that is absent, down, or differs in what peers rely on.
pub(super) fn suspicions(node: &Node<'_>, changes: &[Change]) -> Vec<Suspicion> {
    let mut found = Vec::new();
    for change in changes {
        match change {
            Change::Add(Row::Link(to)) => found.extend(absent(node, to)),
            Change::Replace {
                from: Row::Link(from),
                to: Row::Link(to),
            } => found.extend(differs(node, from, to)),
            Change::Add(Row::Address(row)) => {
                found.extend(address(node, row, change.row()));
            }
            Change::Replace {
                from: Row::Sysctl(from),
                to: Row::Sysctl(to),
            } => found.extend(ipv6_off(node, from, to)),
            _ => {}
        }
    }
    // An address that is gone with its link, or with the link's IPv6, follows from that.
    let links: Vec<&'static str> = found
        .iter()
        .filter(|suspicion| matches!(suspicion.kind, ElementKind::Link | ElementKind::Sysctl))
        .filter(|suspicion| {
            !matches!(
                suspicion.code,
                Code::InnerMtuTooBig
                    | Code::L2MtuMismatch
                    | Code::NeighStaleMac
                    | Code::VtepMacDuplicate
            )
        })
        .filter_map(|suspicion| suspicion.link)
        .collect();
    found.retain(|suspicion| {
        suspicion.kind != ElementKind::Address
            || suspicion.link.is_none_or(|link| !links.contains(&link))
    });
    found
}

fn link_suspicion(
    node: &Node<'_>,
    code: Code,
    link: &Link,
    summary: String,
    fix: Fix,
) -> Option<Suspicion> {
    let tunnel = tunnel_named(&link.name)?;
    Some(Suspicion {
        code,
        at: node.at,
        kind: ElementKind::Link,
        name: link.name.clone(),
        link: Some(tunnel),
        parts: vec![(node.at, Part::Link(tunnel))],
        soft: false,
        summary,
        evidence: Vec::new(),
        fix,
    })
}

fn absent(node: &Node<'_>, to: &Link) -> Option<Suspicion> {
    let place = node.place();
    let mut suspicion = link_suspicion(
        node,
        Code::DevDeleted,
        to,
        format!(
            "{place} has no link {}: nothing enters or leaves the tunnel there",
            to.name
        ),
        again(node, to),
    )?;
    suspicion
        .evidence
        .push(node.table(format!("no link {}", to.name)));
    suspicion
        .evidence
        .push(node.intent(format!("link {}", describe(to))));
    Some(suspicion)
}

fn differs(node: &Node<'_>, from: &Link, to: &Link) -> Option<Suspicion> {
    let place = node.place();
    let name = &to.name;
    let mut suspicion = match (&from.kind, &to.kind) {
        (LinkKind::Vxlan(_), LinkKind::Vxlan(_)) if !from.up => link_suspicion(
            node,
            Code::TunnelDevDown,
            to,
            format!("{name} of {place} is switched off: nothing enters or leaves the tunnel there"),
            node.fix(words(&["ip", "link", "set", name, "up"])),
        ),
        (LinkKind::Vxlan(is), LinkKind::Vxlan(wanted)) if is.vni != wanted.vni => link_suspicion(
            node,
            Code::VniMismatch,
            to,
            format!(
                "{name} of {place} has VNI {}, its peers use {}",
                is.vni, wanted.vni
            ),
            anew(node, to),
        ),
        (LinkKind::Vxlan(is), LinkKind::Vxlan(wanted)) if is.port != wanted.port => link_suspicion(
            node,
            Code::TunnelPortMismatch,
            to,
            format!(
                "{name} of {place} listens on UDP {}, its peers send to {}",
                is.port, wanted.port
            ),
            anew(node, to),
        ),
        (LinkKind::Vxlan(is), LinkKind::Vxlan(wanted))
            if (is.local, &is.lower) != (wanted.local, &wanted.lower) =>
        {
            link_suspicion(
                node,
                Code::VtepLocalStale,
                to,
                format!(
                    "{name} of {place} sends from another address or link than its peers expect"
                ),
                anew(node, to),
            )
        }
        (LinkKind::Vxlan(_), LinkKind::Vxlan(_)) if from.mac != to.mac => other_mac(node, from, to),
        (LinkKind::Vxlan(_), LinkKind::Vxlan(_)) if from.mtu > to.mtu => {
            let mut found = link_suspicion(
                node,
                Code::InnerMtuTooBig,
                to,
                format!(
                    "{name} of {place} takes packets of {} bytes, and the underlay has room for {}",
                    from.mtu, to.mtu
                ),
                node.fix(words(&[
                    "ip",
                    "link",
                    "set",
                    name,
                    "mtu",
                    &to.mtu.to_string(),
                ])),
            );
            if let Some(found) = &mut found {
                found.soft = true;
            }
            found
        }
        (LinkKind::Vxlan(_), LinkKind::Vxlan(_)) if from.mtu < to.mtu => {
            let mut found = link_suspicion(
                node,
                Code::L2MtuMismatch,
                to,
                format!(
                    "{name} of {place} takes packets of {} bytes, and its peers send up to {}: large ones are cut or dropped there",
                    from.mtu, to.mtu
                ),
                node.fix(words(&[
                    "ip",
                    "link",
                    "set",
                    name,
                    "mtu",
                    &to.mtu.to_string(),
                ])),
            );
            if let Some(found) = &mut found {
                found.soft = true;
            }
            found
        }
        (LinkKind::Vxlan(_), LinkKind::Vxlan(_)) => None,
        _ => link_suspicion(
            node,
            Code::DevDeleted,
            to,
            format!("{name} of {place} is no VXLAN tunnel but something else of that name"),
            anew(node, to),
        ),
    }?;
    suspicion
        .evidence
        .push(node.table(format!("link {}", describe(from))));
    suspicion
        .evidence
        .push(node.intent(format!("link {}", describe(to))));
    Some(suspicion)
}

/// A tunnel's MAC that is not the planned one: another node's, or nobody's.
fn other_mac(node: &Node<'_>, from: &Link, to: &Link) -> Option<Suspicion> {
    let (place, name) = (node.place(), &to.name);
    let mac = |link: &Link| {
        link.mac
            .map_or_else(|| "none".to_owned(), |mac| mac.to_string())
    };
    let holder = from.mac.and_then(|mac| node.intended.planned_for(mac));
    let (code, summary) = match holder.filter(|&holder| holder != node.at) {
        Some(holder) => (
            Code::VtepMacDuplicate,
            format!(
                "{name} of {place} has the MAC {}, which is that of {}, and every peer believes it to be {}",
                mac(from),
                node.scope.place(holder),
                mac(to)
            ),
        ),
        None => (
            Code::NeighStaleMac,
            format!(
                "{name} of {place} has the MAC {}, and every peer believes it to be {}: its kernel drops what they send",
                mac(from),
                mac(to)
            ),
        ),
    };
    let fix = node.fix(words(&["ip", "link", "set", name, "address", &mac(to)]));
    link_suspicion(node, code, to, summary, fix)
}

/// IPv6 is switched off on a tunnel that carries it: the kernel takes away all that it had of it.
fn ipv6_off(node: &Node<'_>, from: &Sysctl, to: &Sysctl) -> Option<Suspicion> {
    let place = from.name.strip_prefix("net.ipv6.conf.")?;
    let place = place.strip_suffix(".disable_ipv6")?;
    tunnel_named(&place.replace('/', "."))?;
    let is_off = from.value != 0 && to.value == 0;
    is_off.then(|| setting(node, Code::V6ForwardOff, from, to, place, Family::Ipv6))
}

/// Makes a tunnel that does not exist.
fn again(node: &Node<'_>, to: &Link) -> Fix {
    match restore(&Row::Link(to.clone())) {
        Some(argv) => node.fix(argv),
        None => Fix::advice(&format!("start the datapath's agent on {}", node.place())),
    }
}

/// Removes what has the tunnel's name and makes the tunnel; [`absorb`] puts back what stands on it.
fn anew(node: &Node<'_>, to: &Link) -> Fix {
    let fix = node.fix(words(&["ip", "link", "del", &to.name]));
    match restore(&Row::Link(to.clone())) {
        Some(argv) => node.and(fix, argv),
        None => fix,
    }
}

fn address(node: &Node<'_>, address: &Address, row: &Row) -> Option<Suspicion> {
    let tunnel = tunnel_named(&address.link)?;
    let (place, name) = (node.place(), name_of(row));
    Some(Suspicion {
        code: Code::AddressMissing,
        at: node.at,
        kind: ElementKind::Address,
        link: Some(tunnel),
        parts: vec![(node.at, Part::Link(tunnel))],
        soft: true,
        summary: format!(
            "{place} does not have its overlay address {} on {tunnel}",
            address.net
        ),
        evidence: vec![
            node.table(format!("no address {name}")),
            node.intent(format!("address {name}")),
        ],
        fix: restore(row).map(|argv| node.fix(argv)).unwrap_or_default(),
        name,
    })
}

/// Moves the rows that went with a link to its suspicion; returns the others.
pub(super) fn absorb<'c>(
    node: &Node<'_>,
    changes: &'c [Change],
    found: &mut [Suspicion],
) -> Vec<&'c Change> {
    let mut taken: Vec<Vec<&Change>> = vec![Vec::new(); found.len()];
    let mut rest = Vec::new();
    for change in changes {
        let owner = found.iter().position(|suspicion| takes(suspicion, change));
        match owner {
            Some(at) => taken[at].push(change),
            None => rest.push(change),
        }
    }
    for (suspicion, changes) in found.iter_mut().zip(taken) {
        let is_remade = changes.iter().any(|change| is_remade(suspicion, change));
        let others: Vec<&Change> = changes
            .into_iter()
            .filter(|change| !matches!(change.row(), Row::Link(_)) && !is_itself(suspicion, change))
            .collect();
        suspicion
            .evidence
            .extend(consequences(node.scope, node.at, &others));
        let fix = std::mem::take(&mut suspicion.fix);
        suspicion.fix = if is_remade {
            let rows = standing_on(node, suspicion.link);
            with_rows(node, fix, &rows.iter().collect::<Vec<_>>())
        } else {
            let rows: Vec<&Row> = others.iter().filter_map(|change| wanted(change)).collect();
            with_rows(node, fix, &rows)
        };
        // What the rows that went along concern, the link concerns: their ways cross it.
        if suspicion.kind == ElementKind::Address && !others.is_empty() {
            suspicion.soft = false;
        }
    }
    rest
}

fn is_itself(suspicion: &Suspicion, change: &Change) -> bool {
    suspicion.kind != ElementKind::Link && name_of(change.row()) == suspicion.name
}

/// Whether the fix removes a link and makes it anew, so that rows go which are there now.
fn is_remade(suspicion: &Suspicion, change: &Change) -> bool {
    let Change::Replace {
        from: Row::Link(from),
        to: Row::Link(to),
    } = change
    else {
        return false;
    };
    suspicion.code != Code::TunnelDevDown && needs_remaking(from, to)
}

/// What is planned to stand on a link.
fn standing_on(node: &Node<'_>, link: Option<&'static str>) -> Vec<Row> {
    let planned = node.intended.desired(node.scope, node.at);
    let rows = planned.iter().flat_map(|planned| planned.rows());
    let rows = rows.filter(|row| !matches!(row, Row::Link(_)));
    rows.filter(|row| link.is_some_and(|link| is_on(row, link)))
        .collect()
}

fn is_on(row: &Row, link: &str) -> bool {
    match row {
        Row::Link(row) => row.name == link,
        Row::Address(row) => row.link == link,
        Row::Fdb(row) => row.link == link,
        Row::Neighbour(row) => row.link == link,
        Row::Route(row) => row.hops.iter().any(|hop| hop.link == link),
        Row::Sysctl(row) => row.name.split('.').nth(3) == Some(link),
        Row::Nat(_) | Row::Rule(_) => false,
    }
}

/// Whether a row's difference follows from a link's.
fn takes(suspicion: &Suspicion, change: &Change) -> bool {
    let Some(link) = suspicion.link else {
        return false;
    };
    let row = change.row();
    if !is_on(row, link) {
        return false;
    }
    let gone = added(change).is_some();
    // The kernel may have asked for a neighbour anew since it lost the row.
    let replaced_by_kernel = matches!(change, Change::Replace { from: Row::Neighbour(from), .. }
        if from.state != NeighbourState::Permanent);
    match (suspicion.code, row) {
        (_, Row::Link(_)) => suspicion.kind == ElementKind::Link,
        (Code::InnerMtuTooBig | Code::L2MtuMismatch, _) => false,
        (Code::NeighStaleMac | Code::VtepMacDuplicate, Row::Neighbour(_)) => {
            gone || replaced_by_kernel
        }
        (Code::NeighStaleMac | Code::VtepMacDuplicate, _) => false,
        (Code::V6ForwardOff, Row::Sysctl(row)) => row.name == suspicion.name,
        (Code::TunnelDevDown | Code::V6ForwardOff, Row::Fdb(_)) => false,
        (Code::TunnelDevDown, Row::Sysctl(_)) => false,
        (Code::AddressMissing, Row::Fdb(_) | Row::Sysctl(_)) => false,
        // The kernel drops the routes of a family with its last address.
        (Code::AddressMissing, Row::Route(row)) => {
            gone && family_of_tunnel(link) == Family::of(row.dst.addr())
        }
        (_, Row::Neighbour(_)) => gone || replaced_by_kernel,
        _ => gone,
    }
}

fn describe(link: &Link) -> String {
    let mut text = link.name.clone();
    if let LinkKind::Vxlan(vxlan) = &link.kind {
        text.push_str(&format!(" vxlan id {} port {}", vxlan.vni, vxlan.port));
        if let Some(local) = vxlan.local {
            text.push_str(&format!(" local {local}"));
        }
    }
    if let Some(mac) = link.mac {
        text.push_str(&format!(" address {mac}"));
    }
    format!(
        "{text} mtu {} {}",
        link.mtu,
        if link.up { "up" } else { "down" }
    )
}
