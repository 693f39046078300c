//! Tunnels that are not what was planned, and the rows that went with them.

use datapath::diff::{Change, name_of};
use datapath::state::{Family, Link, LinkKind, NeighbourState, Row};

use super::{Node, Suspicion, added, consequences};
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
                found.extend(address(node, &row.link, &name_of(change.row())))
            }
            _ => {}
        }
    }
    // An address that is gone with its link is told by the link.
    let links: Vec<String> = found
        .iter()
        .filter(|suspicion| suspicion.kind == "link")
        .filter(|suspicion| {
            !["INNER-MTU-TOO-BIG", "L2-MTU-MISMATCH", "NEIGH-STALE-MAC"].contains(&suspicion.code)
        })
        .map(|suspicion| suspicion.name.clone())
        .collect();
    found.retain(|suspicion| {
        suspicion.kind != "address"
            || !links
                .iter()
                .any(|link| suspicion.name.ends_with(&format!(" dev {link}")))
    });
    found
}

fn link_suspicion(
    node: &Node<'_>,
    code: &'static str,
    link: &Link,
    summary: String,
    fix: String,
) -> Option<Suspicion> {
    let tunnel = tunnel_named(&link.name)?;
    Some(Suspicion {
        code,
        at: node.at,
        kind: "link",
        name: link.name.clone(),
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
        "DEV-DELETED",
        to,
        format!(
            "{place} has no link {}: nothing enters or leaves the tunnel there",
            to.name
        ),
        format!(
            "on {place}: start the datapath's agent; by hand: {}",
            remake(to)
        ),
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
    let mac = |link: &Link| {
        link.mac
            .map_or_else(|| "none".to_owned(), |mac| mac.to_string())
    };
    let mut suspicion = match (&from.kind, &to.kind) {
        (LinkKind::Vxlan(_), LinkKind::Vxlan(_)) if !from.up => link_suspicion(
            node,
            "TUNNEL-DEV-DOWN",
            to,
            format!("{name} of {place} is switched off: nothing enters or leaves the tunnel there"),
            format!("on {place}: ip link set {name} up"),
        ),
        (LinkKind::Vxlan(is), LinkKind::Vxlan(wanted)) if is.vni != wanted.vni => link_suspicion(
            node,
            "VNI-MISMATCH",
            to,
            format!(
                "{name} of {place} has VNI {}, its peers use {}",
                is.vni, wanted.vni
            ),
            format!("on {place}: ip link del {name}; {}", remake(to)),
        ),
        (LinkKind::Vxlan(is), LinkKind::Vxlan(wanted)) if is.port != wanted.port => link_suspicion(
            node,
            "TUNNEL-PORT-MISMATCH",
            to,
            format!(
                "{name} of {place} listens on UDP {}, its peers send to {}",
                is.port, wanted.port
            ),
            format!("on {place}: ip link del {name}; {}", remake(to)),
        ),
        (LinkKind::Vxlan(is), LinkKind::Vxlan(wanted))
            if (is.local, &is.lower) != (wanted.local, &wanted.lower) =>
        {
            link_suspicion(
                node,
                "VTEP-LOCAL-STALE",
                to,
                format!(
                    "{name} of {place} sends from another address or link than its peers expect"
                ),
                format!("on {place}: ip link del {name}; {}", remake(to)),
            )
        }
        (LinkKind::Vxlan(_), LinkKind::Vxlan(_)) if from.mac != to.mac => link_suspicion(
            node,
            "NEIGH-STALE-MAC",
            to,
            format!(
                "{name} of {place} has the MAC {}, and every peer believes it to be {}: its kernel drops what they send",
                mac(from),
                mac(to)
            ),
            format!("on {place}: ip link set {name} address {}", mac(to)),
        ),
        (LinkKind::Vxlan(_), LinkKind::Vxlan(_)) if from.mtu > to.mtu => {
            let mut found = link_suspicion(
                node,
                "INNER-MTU-TOO-BIG",
                to,
                format!(
                    "{name} of {place} takes packets of {} bytes, and the underlay has room for {}",
                    from.mtu, to.mtu
                ),
                format!("on {place}: ip link set {name} mtu {}", to.mtu),
            );
            if let Some(found) = &mut found {
                found.soft = true;
            }
            found
        }
        (LinkKind::Vxlan(_), LinkKind::Vxlan(_)) if from.mtu < to.mtu => {
            let mut found = link_suspicion(
                node,
                "L2-MTU-MISMATCH",
                to,
                format!(
                    "{name} of {place} takes packets of {} bytes, and its peers send up to {}: large ones are cut or dropped there",
                    from.mtu, to.mtu
                ),
                format!("on {place}: ip link set {name} mtu {}", to.mtu),
            );
            if let Some(found) = &mut found {
                found.soft = true;
            }
            found
        }
        (LinkKind::Vxlan(_), LinkKind::Vxlan(_)) => None,
        _ => link_suspicion(
            node,
            "DEV-DELETED",
            to,
            format!("{name} of {place} is no VXLAN tunnel but something else of that name"),
            format!("on {place}: ip link del {name}; {}", remake(to)),
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

fn address(node: &Node<'_>, link: &str, name: &str) -> Option<Suspicion> {
    let tunnel = tunnel_named(link)?;
    let place = node.place();
    let net = name.split(' ').next().unwrap_or(name);
    Some(Suspicion {
        code: "ADDRESS-MISSING",
        at: node.at,
        kind: "address",
        name: name.to_owned(),
        parts: vec![(node.at, Part::Link(tunnel))],
        soft: true,
        summary: format!("{place} does not have its overlay address {net} on {link}"),
        evidence: vec![
            node.table(format!("no address {name}")),
            node.intent(format!("address {name}")),
        ],
        fix: format!("on {place}: ip address add {net} dev {link}"),
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
        let others: Vec<&Change> = changes
            .into_iter()
            .filter(|change| !matches!(change.row(), Row::Link(_)) && !is_itself(suspicion, change))
            .collect();
        suspicion
            .evidence
            .extend(consequences(node.scope, node.at, &others));
        // What the rows that went along concern, the link concerns: their ways cross it.
        if suspicion.kind == "address" && !others.is_empty() {
            suspicion.soft = false;
        }
    }
    rest
}

fn is_itself(suspicion: &Suspicion, change: &Change) -> bool {
    suspicion.kind == "address" && name_of(change.row()) == suspicion.name
}

/// Whether a row's difference follows from a link's.
fn takes(suspicion: &Suspicion, change: &Change) -> bool {
    let link = match suspicion.kind {
        "link" => suspicion.name.as_str(),
        "address" => suspicion.name.rsplit(' ').next().unwrap_or_default(),
        _ => return false,
    };
    let row = change.row();
    let on_link = match row {
        Row::Link(row) => row.name == link,
        Row::Address(row) => row.link == link,
        Row::Fdb(row) => row.link == link,
        Row::Neighbour(row) => row.link == link,
        Row::Route(row) => row.hops.iter().any(|hop| hop.link == link),
        Row::Sysctl(row) => row.name.split('.').nth(3) == Some(link),
        Row::Nat(_) | Row::Rule(_) => false,
    };
    if !on_link {
        return false;
    }
    let gone = added(change).is_some();
    // The kernel may have asked for a neighbour anew since it lost the row.
    let replaced_by_kernel = matches!(change, Change::Replace { from: Row::Neighbour(from), .. }
        if from.state != NeighbourState::Permanent);
    match (suspicion.code, row) {
        (_, Row::Link(_)) => suspicion.kind == "link",
        ("INNER-MTU-TOO-BIG" | "L2-MTU-MISMATCH", _) => false,
        ("NEIGH-STALE-MAC", Row::Neighbour(_)) => gone || replaced_by_kernel,
        ("NEIGH-STALE-MAC", _) => false,
        ("TUNNEL-DEV-DOWN", Row::Fdb(_) | Row::Sysctl(_)) => false,
        ("ADDRESS-MISSING", Row::Fdb(_) | Row::Sysctl(_)) => false,
        // The kernel drops the routes of a family with its last address.
        ("ADDRESS-MISSING", Row::Route(row)) => {
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

/// The command that makes a tunnel.
fn remake(link: &Link) -> String {
    let LinkKind::Vxlan(vxlan) = &link.kind else {
        return String::new();
    };
    let mut text = format!("ip link add {} mtu {}", link.name, link.mtu);
    if let Some(mac) = link.mac {
        text.push_str(&format!(" address {mac}"));
    }
    text.push_str(&format!(
        " type vxlan id {} dstport {} nolearning",
        vxlan.vni, vxlan.port
    ));
    if let Some(local) = vxlan.local {
        text.push_str(&format!(" local {local}"));
    }
    if let Some(lower) = &vxlan.lower {
        text.push_str(&format!(" dev {lower}"));
    }
    text
}
