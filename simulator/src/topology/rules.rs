//! The rules that a topology keeps, and what it says once it does.

mod prefixes;

use datapath::printable::is_dns_label;
use std::collections::BTreeMap;
use std::time::Duration;

use datapath::state::Family;
use ipnet::IpNet;
use serde_saphyr::Spanned;

use super::addresses;
use super::document::{Document, RawCluster, RawExpect, RawFault, RawKubelets, RawUnderlay};
use super::draft::{DEFAULT_UNDERLAY, Draft, Refusal};
use super::steps::step;
use super::{
    Cluster, Expect, Families, Fault, Floaters, Kubelets, MAX_CLUSTERS, MAX_NODES, Mode, Topology,
    Underlay,
};
use crate::Error;
use crate::codes;
use prefixes::{Lines, global_map, prefixes, separate, within};

pub(super) fn refuse<T>(line: u64, rule: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal {
        line,
        rule: rule.into(),
    })
}

pub(super) fn line<T>(value: &Spanned<T>) -> u64 {
    value.referenced.line().max(1)
}

/// The name of the cluster at `index` of `total` that was given none: `c1`, or `c01` where there are more than nine.
pub(super) fn default_name(index: usize, total: usize) -> String {
    let width = total.to_string().len();
    format!("c{:0width$}", index + 1)
}

/// Checks a document and completes it.
pub(super) fn complete(document: Document, file: &str) -> Result<Topology, Error> {
    topology(document).map_err(|refusal| Error::Input {
        file: file.to_owned(),
        line: Some(refusal.line),
        rule: super::printable_rule(&refusal.rule),
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
    let steps = document
        .steps
        .iter()
        .map(|raw| step(raw, &clusters))
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
        bare: false,
        kubelets: kubelets(&document.kubelets)?,
        upstream: None,
        faults,
        steps,
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
    let control_plane = match &cluster.control_plane {
        Some(text) => Some(word(text, "controlPlane", "simulated, upstream")?),
        None => None,
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
        is_virtual: cluster.is_virtual,
        control_plane,
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
        Some(text) => duration(text, "delay", 60.0)?,
        None => base.delay,
    };
    let loss = match &raw.loss {
        Some(text) => share(text)?,
        None => base.loss,
    };
    Ok(Underlay { mtu, delay, loss })
}

/// How often kubelets are heard of, and how long they may not be.
fn kubelets(raw: &RawKubelets) -> Result<Kubelets, Refusal> {
    let default = Kubelets::default();
    let read = |text: &Option<Spanned<String>>, key, default| match text {
        None => Ok(default),
        Some(text) => match duration(text, key, 60.0)? {
            time if time < Kubelets::LEAST => refuse(
                line(text),
                format!("{key} must be at least {:?}", Kubelets::LEAST),
            ),
            time => Ok(time),
        },
    };
    let renew = read(&raw.renew, "renew", default.renew)?;
    let grace = read(&raw.grace, "grace", default.grace)?;
    if grace < renew * 2 {
        let place = raw.grace.as_ref().or(raw.renew.as_ref()).map_or(1, line);
        return refuse(
            place,
            format!("a grace of {grace:?} is less than two renewals of {renew:?}"),
        );
    }
    Ok(Kubelets { renew, grace })
}

/// A time with its unit, from nothing to so many seconds.
pub(super) fn duration(text: &Spanned<String>, key: &str, most: f64) -> Result<Duration, Refusal> {
    let value = text.value.trim();
    let parsed = [("us", 1e-6), ("ms", 1e-3), ("s", 1.0)]
        .into_iter()
        .find_map(|(unit, seconds)| Some(value.strip_suffix(unit)?.parse::<f64>().ok()? * seconds));
    match parsed {
        Some(seconds) if (0.0..=most).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        Some(_) => refuse(
            line(text),
            format!("{key} must be from 0s to {most}s, not {value}"),
        ),
        None => refuse(
            line(text),
            format!("{key} `{value}` is not a number with us, ms or s"),
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

/// `CLUSTER` or `CLUSTER/NODE` of this topology.
pub(super) fn place(text: &Spanned<String>, clusters: &[Cluster]) -> Result<(), Refusal> {
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

pub(super) fn fault(raw: &Spanned<RawFault>, clusters: &[Cluster]) -> Result<Fault, Refusal> {
    let raw = &raw.value;
    let code = codes::read_injectable(&raw.code.value)
        .or_else(|rule| refuse(line(&raw.code), format!("fault code: {rule}")))?;
    place(&raw.at, clusters)?;
    if let Some(peer) = &raw.peer {
        place(peer, clusters)?;
    }
    Ok(Fault {
        code,
        at: raw.at.value.clone(),
        peer: raw.peer.as_ref().map(|peer| peer.value.clone()),
    })
}

pub(super) fn expectation(
    raw: &Spanned<RawExpect>,
    clusters: &[Cluster],
) -> Result<Expect, Refusal> {
    const VERDICTS: [&str; 4] = ["healthy", "fault", "degraded", "unknown"];
    let at = line(raw);
    match (&raw.value.code, &raw.value.verdict) {
        (Some(code), None) => {
            let Some(word) = codes::read(&code.value) else {
                return refuse(line(code), format!("unknown cause code `{}`", code.value));
            };
            if let Some(at) = &raw.value.at {
                place(at, clusters)?;
            }
            Ok(Expect::Finding {
                code: word,
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
