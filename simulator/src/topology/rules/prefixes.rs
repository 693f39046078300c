//! What prefixes may be: valid, usable, and apart from one another within a cluster and between clusters.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use datapath::state::Family;
use ipnet::IpNet;
use serde_saphyr::Spanned;

use super::{line, refuse};
use crate::topology::addresses::{UNDERLAY_V4, UNDERLAY_V6};
use crate::topology::document::RawCluster;
use crate::topology::draft::Refusal;
use crate::topology::{Cluster, Families, Mode};

/// A prefix without host bits.
fn prefix(text: &str, at: u64) -> Result<IpNet, Refusal> {
    let Ok(net) = text.parse::<IpNet>() else {
        return refuse(at, format!("`{text}` is not a prefix, as in 10.20.0.0/16"));
    };
    if net.addr() == net.network() {
        Ok(net)
    } else {
        refuse(
            at,
            format!("`{text}` has host bits; its prefix is {}", net.trunc()),
        )
    }
}

type Prefixes = Spanned<Vec<Spanned<String>>>;

pub(super) fn prefixes(
    list: Option<&Prefixes>,
    key: &str,
    family: Families,
) -> Result<Option<Vec<IpNet>>, Refusal> {
    let Some(list) = list else { return Ok(None) };
    let mut nets = Vec::new();
    for text in &list.value {
        let net = prefix(&text.value, line(text))?;
        if !family.has(Family::of(net.addr())) {
            return refuse(
                line(text),
                format!("{key}: {net} is not of the cluster's family, {family}"),
            );
        }
        usable(&net, line(text))?;
        nets.push(net);
    }
    for wanted in [Family::Ipv4, Family::Ipv6] {
        if family.has(wanted) && !nets.iter().any(|net| Family::of(net.addr()) == wanted) {
            return refuse(
                line(list),
                format!("{key} has no {wanted} prefix, and the cluster's family is {family}"),
            );
        }
    }
    Ok(Some(nets))
}

fn overlap(one: &IpNet, other: &IpNet) -> bool {
    one.contains(other) || other.contains(one)
}

/// What no pod or service may be called: the underlay, the overlay's pools (DATAPATH.md of Kosmos, section 2), and what is no
/// unicast address of a network.
fn usable(net: &IpNet, at: u64) -> Result<(), Refusal> {
    let reserved = [
        (UNDERLAY_V4.to_string(), "the underlay"),
        (UNDERLAY_V6.to_string(), "the underlay"),
        ("210.0.0.0/8".to_owned(), "the pool of vx-local"),
        ("220.0.0.0/8".to_owned(), "the pool of vx-bridge"),
        ("9480::/16".to_owned(), "the pool of vx-local-6"),
        ("9470::/16".to_owned(), "the pool of vx-bridge-6"),
        ("0.0.0.0/8".to_owned(), "this host"),
        ("127.0.0.0/8".to_owned(), "loopback"),
        ("169.254.0.0/16".to_owned(), "link-local addresses"),
        ("224.0.0.0/3".to_owned(), "multicast and reserved addresses"),
        ("::/8".to_owned(), "loopback and mapped addresses"),
        ("fe80::/10".to_owned(), "link-local addresses"),
        ("ff00::/8".to_owned(), "multicast"),
    ];
    for (text, what) in reserved {
        if text
            .parse::<IpNet>()
            .is_ok_and(|taken| overlap(&taken, net))
        {
            return refuse(at, format!("{net} overlaps {what}, {text}"));
        }
    }
    Ok(())
}

/// Prefixes of one cluster do not overlap.
pub(super) fn within(lists: &[Option<&Prefixes>]) -> Result<(), Refusal> {
    let mut seen: Vec<IpNet> = Vec::new();
    for text in lists.iter().flatten().flat_map(|list| &list.value) {
        let net = prefix(&text.value, line(text))?;
        if let Some(other) = seen.iter().find(|other| overlap(other, &net)) {
            return refuse(
                line(text),
                format!("{net} overlaps {other} of the same cluster"),
            );
        }
        seen.push(net);
    }
    Ok(())
}

pub(super) fn global_map(
    cluster: &RawCluster,
    pods: Option<&[IpNet]>,
    services: Option<&[IpNet]>,
) -> Result<BTreeMap<String, String>, Refusal> {
    let mut map = BTreeMap::new();
    let mut globals: Vec<IpNet> = Vec::new();
    for (own, global) in &cluster.global_cidrs_map {
        let at = line(global);
        let (from, to) = (prefix(own, at)?, prefix(&global.value, at)?);
        if Family::of(from.addr()) != Family::of(to.addr()) || from.prefix_len() != to.prefix_len()
        {
            return refuse(
                at,
                format!("globalCIDRsMap: {from} and {to} differ in family or length"),
            );
        }
        let known = pods.into_iter().chain(services).flatten();
        if !known.into_iter().any(|net| net.contains(&from)) {
            return refuse(
                at,
                format!(
                    "globalCIDRsMap: {from} is in none of the cluster's podCIDRs and serviceCIDRs"
                ),
            );
        }
        usable(&to, at)?;
        if let Some(other) = globals.iter().find(|other| overlap(other, &to)) {
            return refuse(at, format!("globalCIDRsMap: {to} overlaps {other}"));
        }
        globals.push(to);
        map.insert(from.to_string(), to.to_string());
    }
    Ok(map)
}

/// What other clusters call a cluster's prefixes: Kosmos maps the exact prefix that it routes to, which is the cluster's in
/// gateway mode and the node's in p2p mode.
fn outside(cluster: &Cluster) -> Vec<IpNet> {
    let pods: Vec<IpNet> = match cluster.mode {
        Mode::Gateway => cluster.pod_cidrs.clone(),
        Mode::P2p if cluster.global_cidrs_map.is_empty() => cluster.pod_cidrs.clone(),
        Mode::P2p => cluster
            .nodes
            .iter()
            .flat_map(|node| node.pod_cidrs.clone())
            .collect(),
    };
    pods.iter()
        .chain(&cluster.service_cidrs)
        .map(|net| {
            let global = cluster.global_cidrs_map.get(&net.to_string());
            global.and_then(|text| text.parse().ok()).unwrap_or(*net)
        })
        .collect()
}

/// Where a cluster is, and where the prefixes are that it was given.
pub(super) type Lines = (u64, BTreeMap<IpNet, u64>);

/// Two clusters can reach each other: what one is called outside overlaps nothing that the other is called, outside or
/// inside (a node never routes its own cluster's prefixes into a tunnel).
pub(super) fn separate(clusters: &[Cluster], lines: &[Lines]) -> Result<(), Refusal> {
    #[derive(PartialEq, Eq, PartialOrd, Ord, Clone, Copy)]
    struct Span {
        first: IpAddr,
        last: IpAddr,
        net: IpNet,
        cluster: usize,
        outside: bool,
    }
    let mut spans = BTreeSet::new();
    for (index, cluster) in clusters.iter().enumerate() {
        let own = cluster.pod_cidrs.iter().chain(&cluster.service_cidrs);
        let called = outside(cluster);
        for (net, outside) in called
            .iter()
            .map(|net| (net, true))
            .chain(own.map(|net| (net, false)))
        {
            spans.insert(Span {
                first: net.network(),
                last: net.broadcast(),
                net: *net,
                cluster: index,
                outside,
            });
        }
    }
    // Prefixes nest or are disjoint: those that hold the current one are on the stack.
    let mut open: Vec<Span> = Vec::new();
    let mut ordered: Vec<Span> = spans.into_iter().collect();
    ordered.sort_by(|one, other| {
        (one.first, other.last, one.cluster).cmp(&(other.first, one.last, other.cluster))
    });
    let mut worst: Option<(usize, Refusal)> = None;
    for span in ordered {
        open.retain(|other| {
            other.last >= span.first && other.first.is_ipv4() == span.first.is_ipv4()
        });
        for other in &open {
            if other.cluster == span.cluster || !(other.outside || span.outside) {
                continue;
            }
            let (earlier, later) = if other.cluster < span.cluster {
                (other, &span)
            } else {
                (&span, other)
            };
            if worst
                .as_ref()
                .is_none_or(|(index, _)| later.cluster < *index)
            {
                let rule = format!(
                    "{} of {} overlaps {} of {}, and no globalCIDRsMap of both separates them",
                    later.net,
                    clusters[later.cluster].name,
                    earlier.net,
                    clusters[earlier.cluster].name
                );
                let (at, place) = &lines[later.cluster];
                worst = Some((
                    later.cluster,
                    Refusal {
                        line: *place.get(&later.net).unwrap_or(at),
                        rule,
                    },
                ));
            }
        }
        open.push(span);
        // More than a handful of nested prefixes are replicas of one another: the first pair says enough.
        if worst.is_some() && open.len() > 1000 {
            break;
        }
    }
    match worst {
        Some((_, refusal)) => Err(refusal),
        None => Ok(()),
    }
}
