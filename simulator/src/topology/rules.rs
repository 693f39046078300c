//! The rules that a topology keeps, and what it says once it does.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use datapath::state::Family;
use ipnet::IpNet;
use serde_saphyr::Spanned;

use super::addresses::{self, UNDERLAY_V4, UNDERLAY_V6};
use super::document::{Document, RawCluster, RawExpect, RawFault, RawUnderlay};
use super::{
    Cluster, Expect, Families, Fault, Floaters, MAX_CLUSTERS, MAX_NODES, Mode, Topology, Underlay,
};
use crate::Error;
use crate::codes;

/// A rule that is broken, and where.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) line: u64,
    pub(super) rule: String,
}

fn refuse<T>(line: u64, rule: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal {
        line,
        rule: rule.into(),
    })
}

fn line<T>(value: &Spanned<T>) -> u64 {
    value.referenced.line().max(1)
}

/// A cluster whose prefixes and addresses may still be open.
#[derive(Debug, Clone)]
pub(super) struct Draft {
    pub(super) line: u64,
    pub(super) name: String,
    pub(super) mode: Mode,
    pub(super) family: Families,
    pub(super) nodes: u32,
    pub(super) pod_cidrs: Option<Vec<IpNet>>,
    pub(super) service_cidrs: Option<Vec<IpNet>>,
    pub(super) global_cidrs_map: BTreeMap<String, String>,
    pub(super) underlay: Underlay,
    /// The lines of the prefixes that the file names.
    pub(super) lines: BTreeMap<IpNet, u64>,
}

impl Draft {
    /// A cluster that leaves everything else to the defaults.
    pub(super) fn generated(name: String, mode: Mode, family: Families, nodes: u32) -> Self {
        Self {
            line: 1,
            name,
            mode,
            family,
            nodes,
            pod_cidrs: None,
            service_cidrs: None,
            global_cidrs_map: BTreeMap::new(),
            underlay: DEFAULT_UNDERLAY,
            lines: BTreeMap::new(),
        }
    }
}

const DEFAULT_UNDERLAY: Underlay = Underlay {
    mtu: 1500,
    delay: Duration::ZERO,
    loss: 0.0,
};

/// The name of the cluster at `index` of `total` that was given none: `c1`, or `c01` where there are more than nine.
pub(super) fn default_name(index: usize, total: usize) -> String {
    let width = total.to_string().len();
    format!("c{:0width$}", index + 1)
}

/// Whether a text is a DNS label (RFC 1123): letters, digits and inner hyphens, lower case, at most 63.
#[must_use]
pub fn is_dns_label(text: &str) -> bool {
    let bytes = text.as_bytes();
    let edge = |byte: Option<&u8>| {
        byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    };
    bytes.len() <= 63
        && edge(bytes.first())
        && edge(bytes.last())
        && bytes
            .iter()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'-')
}

/// Checks a document and completes it.
pub(super) fn complete(document: Document, file: &str) -> Result<Topology, Error> {
    topology(document).map_err(|refusal| Error::Input {
        file: file.to_owned(),
        line: Some(refusal.line),
        rule: refusal.rule,
    })
}

fn topology(document: Document) -> Result<Topology, Refusal> {
    if let Some(name) = &document.name {
        dns_label(name, "the lab's name")?;
    }
    let base = underlay(&document.underlay, DEFAULT_UNDERLAY)?;
    let clusters = match &document.clusters {
        None => {
            return refuse(
                1,
                "key `clusters` is missing: a lab has at least one cluster",
            );
        }
        Some(clusters) if clusters.value.is_empty() => {
            return refuse(
                line(clusters),
                "`clusters` is empty: a lab has at least one cluster",
            );
        }
        Some(clusters) => &clusters.value,
    };
    let mut drafts = Vec::new();
    for (index, raw) in clusters.iter().enumerate() {
        drafts.extend(replicas(raw, index, clusters.len(), base, drafts.len())?);
    }
    let mut names = BTreeMap::new();
    for draft in &drafts {
        if let Some(first) = names.insert(draft.name.as_str(), draft.line) {
            return refuse(
                draft.line,
                format!("cluster name `{}` is taken by line {first}", draft.name),
            );
        }
    }
    let lines: Vec<Lines> = drafts
        .iter()
        .map(|draft| (draft.line, draft.lines.clone()))
        .collect();
    let clusters = addresses::assign(drafts)?;
    separate(&clusters, &lines)?;
    let faults = document
        .faults
        .iter()
        .map(|raw| fault(raw, &clusters))
        .collect::<Result<_, _>>()?;
    let expect = document
        .expect
        .iter()
        .map(|raw| expectation(raw, &clusters))
        .collect::<Result<_, _>>()?;
    Ok(Topology {
        name: document.name.map(|name| name.value),
        clusters,
        floater: document.workloads.floater,
        floaters: match &document.workloads.floaters {
            Some(text) => word(text, "floaters", "process, shared, auto")?,
            None => Floaters::Auto,
        },
        faults,
        expect,
    })
}

/// A value of a set, by its word; the refusal names the key.
fn word<T: serde::de::DeserializeOwned>(
    text: &Spanned<String>,
    key: &str,
    known: &str,
) -> Result<T, Refusal> {
    serde_json::from_value(serde_json::Value::from(text.value.as_str())).or_else(|_| {
        refuse(
            line(text),
            format!("{key} `{}` is none of {known}", text.value),
        )
    })
}

fn dns_label(name: &Spanned<String>, what: &str) -> Result<(), Refusal> {
    if is_dns_label(&name.value) {
        Ok(())
    } else {
        refuse(
            line(name),
            format!(
                "{what} `{}` is not a DNS label (a-z, 0-9, inner -, at most 63)",
                name.value
            ),
        )
    }
}

fn in_range(value: &Spanned<i64>, what: &str, from: i64, to: i64) -> Result<u32, Refusal> {
    u32::try_from(value.value)
        .ok()
        .filter(|_| (from..=to).contains(&value.value))
        .ok_or_else(|| Refusal {
            line: line(value),
            rule: format!("{what} must be from {from} to {to}, not {}", value.value),
        })
}

/// The clusters that one entry stands for.
fn replicas(
    raw: &Spanned<RawCluster>,
    index: usize,
    entries: usize,
    base: Underlay,
    before: usize,
) -> Result<Vec<Draft>, Refusal> {
    let at = line(raw);
    let cluster = &raw.value;
    let name = match &cluster.name {
        Some(name) => {
            dns_label(name, "cluster name")?;
            name.value.clone()
        }
        None => default_name(index, entries),
    };
    let family = match &cluster.family {
        Some(text) => word(text, "family", "ipv4, ipv6, all")?,
        None => Families::Ipv4,
    };
    let mode = match &cluster.mode {
        Some(text) => word(text, "mode", "gateway, p2p")?,
        None => Mode::Gateway,
    };
    let nodes = match &cluster.nodes {
        Some(nodes) => in_range(nodes, "nodes", 1, MAX_NODES.into())?,
        None => 2,
    };
    let underlay = underlay(&cluster.underlay, base)?;
    // RFC 8200 §5: no IPv6 below 1280; the tunnels take 70 more.
    if family.has(Family::Ipv6) && underlay.mtu < 1350 {
        let place = cluster.underlay.mtu.as_ref().map_or(at, line);
        return refuse(
            place,
            format!(
                "mtu {} is too small for IPv6 in a tunnel: 1350 at least",
                underlay.mtu
            ),
        );
    }
    let pod_cidrs = prefixes(cluster.pod_cidrs.as_ref(), "podCIDRs", family)?;
    let service_cidrs = prefixes(cluster.service_cidrs.as_ref(), "serviceCIDRs", family)?;
    within(&[cluster.pod_cidrs.as_ref(), cluster.service_cidrs.as_ref()])?;
    let global_cidrs_map = global_map(cluster, pod_cidrs.as_deref(), service_cidrs.as_deref())?;
    let named = [&cluster.pod_cidrs, &cluster.service_cidrs];
    let named = named.into_iter().flatten().flat_map(|list| &list.value);
    let lines: BTreeMap<IpNet, u64> = named
        .chain(cluster.global_cidrs_map.values())
        .filter_map(|text| Some((text.value.parse().ok()?, line(text))))
        .collect();
    let draft = |name| Draft {
        line: at,
        name,
        mode,
        family,
        nodes,
        pod_cidrs: pod_cidrs.clone(),
        service_cidrs: service_cidrs.clone(),
        global_cidrs_map: global_cidrs_map.clone(),
        underlay,
        lines: lines.clone(),
    };
    let Some(count) = &cluster.count else {
        return Ok(vec![draft(name)]);
    };
    let limit = MAX_CLUSTERS.saturating_sub(before);
    let total = in_range(count, "count", 1, i64::try_from(limit).unwrap_or(i64::MAX))?;
    let width = (total - 1).to_string().len().max(3);
    if name.len() + 1 + width > 63 {
        return refuse(
            line(count),
            format!("`{name}` with a number of {width} digits is longer than a DNS label"),
        );
    }
    Ok((0..total)
        .map(|number| draft(format!("{name}-{number:0width$}")))
        .collect())
}

fn underlay(raw: &RawUnderlay, base: Underlay) -> Result<Underlay, Refusal> {
    let mtu = match &raw.mtu {
        Some(mtu) => in_range(mtu, "mtu", 576, 65_535)?,
        None => base.mtu,
    };
    let delay = match &raw.delay {
        Some(text) => duration(text)?,
        None => base.delay,
    };
    let loss = match &raw.loss {
        Some(text) => share(text)?,
        None => base.loss,
    };
    Ok(Underlay { mtu, delay, loss })
}

fn duration(text: &Spanned<String>) -> Result<Duration, Refusal> {
    let value = text.value.trim();
    let parsed = [("us", 1e-6), ("ms", 1e-3), ("s", 1.0)]
        .into_iter()
        .find_map(|(unit, seconds)| Some(value.strip_suffix(unit)?.parse::<f64>().ok()? * seconds));
    match parsed {
        Some(seconds) if (0.0..=60.0).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        Some(_) => refuse(
            line(text),
            format!("delay must be from 0s to 60s, not {value}"),
        ),
        None => refuse(
            line(text),
            format!("delay `{value}` is not a number with us, ms or s"),
        ),
    }
}

fn share(text: &Spanned<String>) -> Result<f64, Refusal> {
    let value = text.value.trim();
    match value
        .strip_suffix('%')
        .and_then(|number| number.parse::<f64>().ok())
    {
        Some(percent) if (0.0..=100.0).contains(&percent) => Ok(percent / 100.0),
        Some(_) => refuse(
            line(text),
            format!("loss must be from 0% to 100%, not {value}"),
        ),
        None => refuse(line(text), format!("loss `{value}` is not a number with %")),
    }
}

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

fn prefixes(
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
fn within(lists: &[Option<&Prefixes>]) -> Result<(), Refusal> {
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

fn global_map(
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
type Lines = (u64, BTreeMap<IpNet, u64>);

/// Two clusters can reach each other: what one is called outside overlaps nothing that the other is called, outside or
/// inside (a node never routes its own cluster's prefixes into a tunnel).
fn separate(clusters: &[Cluster], lines: &[Lines]) -> Result<(), Refusal> {
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
    // Prefixes nest or are disjoint: those that hold the one at hand are on the stack.
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
        // More than a handful of nested prefixes are replicas of one another: the first pair tells it all.
        if worst.is_some() && open.len() > 1000 {
            break;
        }
    }
    match worst {
        Some((_, refusal)) => Err(refusal),
        None => Ok(()),
    }
}

/// `CLUSTER` or `CLUSTER/NODE` of this topology.
fn place(text: &Spanned<String>, clusters: &[Cluster]) -> Result<(), Refusal> {
    let (name, node) = match text.value.split_once('/') {
        Some((cluster, node)) => (cluster, Some(node)),
        None => (text.value.as_str(), None),
    };
    let Some(cluster) = clusters.iter().find(|cluster| cluster.name == name) else {
        return refuse(
            line(text),
            format!("place `{}`: there is no cluster `{name}`", text.value),
        );
    };
    match node {
        Some(node) if !cluster.nodes.iter().any(|known| known.name == node) => refuse(
            line(text),
            format!(
                "place `{}`: cluster `{name}` has no node `{node}`",
                text.value
            ),
        ),
        _ => Ok(()),
    }
}

fn fault(raw: &Spanned<RawFault>, clusters: &[Cluster]) -> Result<Fault, Refusal> {
    let raw = &raw.value;
    if !codes::INJECTED.contains(&raw.code.value.as_str()) {
        return refuse(
            line(&raw.code),
            format!(
                "fault code `{}` is none of {}",
                raw.code.value,
                codes::INJECTED.join(", ")
            ),
        );
    }
    place(&raw.at, clusters)?;
    if let Some(peer) = &raw.peer {
        place(peer, clusters)?;
    }
    Ok(Fault {
        code: raw.code.value.clone(),
        at: raw.at.value.clone(),
        peer: raw.peer.as_ref().map(|peer| peer.value.clone()),
    })
}

fn expectation(raw: &Spanned<RawExpect>, clusters: &[Cluster]) -> Result<Expect, Refusal> {
    const VERDICTS: [&str; 4] = ["healthy", "fault", "degraded", "unknown"];
    let at = line(raw);
    match (&raw.value.code, &raw.value.verdict) {
        (Some(code), None) => {
            if !codes::KNOWN.contains(&code.value.as_str()) {
                return refuse(line(code), format!("unknown cause code `{}`", code.value));
            }
            if let Some(at) = &raw.value.at {
                place(at, clusters)?;
            }
            Ok(Expect::Finding {
                code: code.value.clone(),
                at: raw.value.at.as_ref().map(|at| at.value.clone()),
            })
        }
        (None, Some(verdict)) => {
            if !VERDICTS.contains(&verdict.value.as_str()) {
                return refuse(
                    line(verdict),
                    format!(
                        "verdict `{}` is none of {}",
                        verdict.value,
                        VERDICTS.join(", ")
                    ),
                );
            }
            if raw.value.at.is_some() {
                return refuse(at, "a verdict is the whole run's: it takes no `at`");
            }
            Ok(Expect::Verdict(verdict.value.clone()))
        }
        _ => refuse(at, "an expectation has either `code` or `verdict`"),
    }
}
