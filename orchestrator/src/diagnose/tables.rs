//! What the tables of each node say, held against intent: one code per row that differs.
//!
//! Rows that the kernel took away because of another one (a tunnel that is down loses its routes and neighbours) are evidence of that
//! other one and no suspicion of their own.

pub(super) mod commands;
mod failover;
mod links;
mod lower;
mod rows;
mod underlay;

use std::borrow::Cow;
use std::collections::BTreeSet;

use datapath::api::NetworkType;
use datapath::code::Code;
use datapath::diff::{Change, diff};
use datapath::digest::Differences;
use datapath::element::{ElementKind, Fix};
use datapath::plan::Objection;
use datapath::state::{Nat, NodeState, Route, Row};
use rayon::prelude::*;

use super::intent::{Intended, rows_of};
use super::scope::Scope;
use crate::evidence::NodeRef;
use crate::graph::Part;
use crate::report::{Evidence, EvidenceKind};

/// Something on a node that differs from intent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Suspicion {
    pub(super) code: Code,
    pub(super) at: NodeRef,
    /// The element's kind and name.
    pub(super) kind: ElementKind,
    pub(super) name: String,
    /// The tunnel that it is about, where it is a link or an address of one.
    pub(super) link: Option<&'static str>,
    /// What of a packet's path it concerns.
    pub(super) parts: Vec<(NodeRef, Part)>,
    /// Whether packets are known to pass in spite of it; blamed only where nothing else can be.
    pub(super) soft: bool,
    pub(super) summary: String,
    pub(super) evidence: Vec<Evidence>,
    pub(super) fix: Fix,
}

impl Suspicion {
    /// Whether it is that a link takes larger or smaller packets than planned, which small ones do not notice.
    pub(super) fn is_of_size(&self) -> bool {
        matches!(self.code, Code::InnerMtuTooBig | Code::L2MtuMismatch)
    }
}

/// So many rows that went along are named as evidence; the rest is counted.
const NAMED: usize = 6;

/// The suspicions of all nodes that could be read, in the order of the nodes.
pub(super) fn suspicions(scope: &Scope<'_>, intended: &Intended) -> Vec<Suspicion> {
    let nodes = scope.all_nodes();
    let found: Vec<Vec<Suspicion>> = nodes
        .par_iter()
        .map(|&at| of_node(scope, intended, at))
        .collect();
    found.into_iter().flatten().collect()
}

/// Nodes whose translations matter to pods and could not be looked at, one sentence each.
pub(super) fn unread(scope: &Scope<'_>, intended: &Intended) -> Vec<String> {
    let is_needed = |row: &Nat| !matches!(row, Nat::Masquerade { .. });
    scope
        .all_nodes()
        .into_iter()
        .filter(|&at| {
            let (cluster, node) = (&scope.cluster(at.cluster).name, &scope.node(at).name);
            scope.what.wants_node(cluster, node)
        })
        .filter_map(|at| {
            let why = scope.node(at).nat_unread.as_ref()?;
            let name = intended.name(at)?;
            let own = intended.planner.own_rows(name)?;
            let nat = own.into_iter().filter_map(|row| match Row::from(row) {
                Row::Nat(row) => Some(row),
                _ => None,
            });
            nat.into_iter().any(|row| is_needed(&row)).then(|| {
                format!(
                    "whether {} translates addresses as planned is not known: {why}",
                    scope.place(at)
                )
            })
        })
        .collect()
}

fn of_node(scope: &Scope<'_>, intended: &Intended, at: NodeRef) -> Vec<Suspicion> {
    let Ok(tables) = &scope.node(at).tables else {
        return Vec::new();
    };
    let is_stale = is_stale(intended, at);
    let is_as_planned = scope.node(at).differences.as_ref();
    let is_as_planned = is_as_planned.is_some_and(Differences::is_empty);
    // Where the rows of the tables are those of the plan the rest is all that can differ.
    let (desired, observed) = if is_as_planned && !is_stale {
        (intended.desired_local(scope, at), Cow::Borrowed(tables))
    } else {
        let observed = intended.observed(scope, at);
        (
            intended.desired(scope, at),
            observed.unwrap_or(Cow::Borrowed(tables)),
        )
    };
    let observed: &NodeState = &observed;
    let changes = desired.map_or_else(Vec::new, |desired| diff(&desired, observed).changes);
    let changes: Vec<Change> = changes
        .into_iter()
        // A row that is stated again only because applying the set would cost it is there, and right.
        .filter(|change| !matches!(change, Change::Replace { from, to } if from == to))
        // A translation that nobody could look for is not missing.
        .filter(|change| {
            scope.node(at).nat_unread.is_none() || !matches!(change.row(), Row::Nat(_))
        })
        .collect();
    let all = changes.len();
    let changes: Vec<Change> = changes
        .into_iter()
        .filter(|change| !follows_misplaced(intended, at, change))
        .collect();
    let is_elsewhere = changes.len() < all;
    if let Some(down) = underlay_down(scope, intended, at, observed, &changes) {
        return vec![down];
    }
    let stale = is_stale
        .then(|| stale_changes(scope, intended, at, observed, &changes))
        .flatten();
    let (followed, own): (Vec<Change>, Vec<Change>) = changes
        .into_iter()
        .partition(|change| stale.as_ref().is_some_and(|stale| stale.contains(change)));
    let mut found = judge(scope, intended, at, observed, &own);
    // What an object says of a node that it does not have is in the plan, and not yet, or no longer, in the NodeConfig.
    let is_removal = |change: &Change| matches!(change, Change::Remove(_));
    let is_explained =
        (is_elsewhere || intended.unlinked.contains(&at)) && followed.iter().all(is_removal);
    if stale.is_some() && !is_explained && !is_left_out(intended, &followed) {
        let consequences = judge(scope, intended, at, observed, &followed);
        found.extend(behind(scope, at, &followed, consequences));
    }
    let node = Node {
        scope,
        intended,
        at,
        observed,
    };
    lower::suspicions(&node, &mut found);
    found
}

/// Whether a row differs from a plan that follows an object which says of a node what is not so: the object is the cause.
fn follows_misplaced(intended: &Intended, at: NodeRef, change: &Change) -> bool {
    let misplaced = &intended.misplaced;
    if let Change::Replace {
        from: Row::Link(from),
        ..
    } = change
        && from.up
        && intended.unlinked.contains(&at)
    {
        return true;
    }
    if misplaced.is_empty() {
        return false;
    }
    let is_of = |ip: std::net::IpAddr| {
        let owner = intended.owner(ip);
        owner.is_some_and(|owner| misplaced.contains(&owner))
    };
    match change.row() {
        Row::Link(_) | Row::Address(_) => misplaced.contains(&at),
        Row::Neighbour(row) => is_of(row.ip),
        Row::Fdb(row) => row.dst.is_some_and(is_of),
        Row::Route(row) => row.hops.iter().filter_map(|hop| hop.via).any(is_of),
        Row::Nat(_) | Row::Rule(_) | Row::Sysctl(_) => false,
    }
}

/// What a node whose NodeConfig is not what the plan calls for suffers from: a gateway that has moved on, or else the NodeConfig.
fn behind(
    scope: &Scope<'_>,
    at: NodeRef,
    followed: &[Change],
    consequences: Vec<Suspicion>,
) -> Vec<Suspicion> {
    let is_failover = |one: &Suspicion| one.code == Code::FailoverIncomplete && !one.soft;
    if consequences.is_empty() || !consequences.iter().all(is_failover) {
        return vec![intent_stale(scope, at, followed, consequences)];
    }
    let object = stale_object(scope, at);
    let with_object = |mut one: Suspicion| {
        one.evidence.push(object.clone());
        one
    };
    consequences.into_iter().map(with_object).collect()
}

/// Everything that changes say, the consequences of links first so that nothing is told twice.
fn judge(
    scope: &Scope<'_>,
    intended: &Intended,
    at: NodeRef,
    observed: &NodeState,
    changes: &[Change],
) -> Vec<Suspicion> {
    let node = Node {
        scope,
        intended,
        at,
        observed,
    };
    let mut found = links::suspicions(&node, changes);
    let rest = links::absorb(&node, changes, &mut found);
    rows::suspicions(&node, &rest, &mut found);
    failover::collapse(&node, changes, &mut found);
    found
}

/// A node whose tables are looked at.
pub(super) struct Node<'a> {
    scope: &'a Scope<'a>,
    intended: &'a Intended,
    at: NodeRef,
    observed: &'a NodeState,
}

impl Node<'_> {
    fn place(&self) -> String {
        self.scope.place(self.at)
    }

    /// Whether a route leads through a standby in place of its gateway.
    fn takes_detour(&self, planned: &Route, observed: &Route) -> bool {
        let name = self.intended.name(self.at);
        name.is_some_and(|name| self.intended.planner.is_detour(name, planned, observed))
    }

    /// A command at this node.
    fn fix(&self, argv: Vec<String>) -> Fix {
        self.and(Fix::default(), argv)
    }

    /// One more command at this node.
    fn and(&self, fix: Fix, argv: Vec<String>) -> Fix {
        let cluster = &self.scope.cluster(self.at.cluster).name;
        fix.and_at(cluster, &self.scope.node(self.at).name, argv)
    }

    /// Evidence from this node's tables.
    fn table(&self, text: impl Into<String>) -> Evidence {
        table(self.scope, self.at, text)
    }

    /// Evidence of what was planned for this node.
    fn intent(&self, text: impl Into<String>) -> Evidence {
        let origin = if self.intended.guessed {
            " (guessed from the other nodes)"
        } else {
            ""
        };
        Evidence {
            kind: EvidenceKind::Intent,
            source: self.place().into(),
            text: format!("{}{origin}", text.into()).into(),
        }
    }

    /// The node that has this overlay or underlay address, in words; the address where nobody has it.
    fn peer(&self, ip: std::net::IpAddr) -> String {
        self.intended
            .owner(ip)
            .map_or_else(|| ip.to_string(), |at| self.scope.place(at))
    }
}

fn table(scope: &Scope<'_>, at: NodeRef, text: impl Into<String>) -> Evidence {
    Evidence {
        kind: EvidenceKind::Table,
        source: scope.place(at).into(),
        text: text.into().into(),
    }
}

/// The rows that went along, as evidence.
fn consequences(scope: &Scope<'_>, at: NodeRef, changes: &[&Change]) -> Vec<Evidence> {
    let mut evidence: Vec<Evidence> = changes
        .iter()
        .take(NAMED)
        .map(|change| {
            let row = change.row();
            let word = match change {
                Change::Add(_) => "is gone",
                Change::Replace { .. } => "is not what was planned",
                Change::Remove(_) => "is not planned",
            };
            table(
                scope,
                at,
                format!(
                    "{} {} {word}",
                    datapath::diff::kind_of(row),
                    datapath::diff::name_of(row)
                ),
            )
        })
        .collect();
    if changes.len() > NAMED {
        evidence.push(table(
            scope,
            at,
            format!("and {} more rows with it", changes.len() - NAMED),
        ));
    }
    evidence
}

/// The node is off the underlay: everything else about it follows.
fn underlay_down(
    scope: &Scope<'_>,
    intended: &Intended,
    at: NodeRef,
    observed: &NodeState,
    changes: &[Change],
) -> Option<Suspicion> {
    let name = intended.lower.get(&at)?;
    let mut ips = scope.node(at).ips.iter();
    let state = match observed.links.get(name.as_str()) {
        // Its ClusterNode names another link than the one that the node is on the underlay by.
        None if ips.any(|ip| observed.has_address(*ip)) => return None,
        None => "does not exist",
        Some(link) if !link.up => "is down",
        Some(link) if !link.carrier => "has no carrier",
        Some(_) => return None,
    };
    let is_gateway = intended.is_gateway(scope, at);
    let place = scope.place(at);
    let cluster = &scope.cluster(at.cluster).name;
    let mut evidence = vec![table(scope, at, format!("link {name} {state}"))];
    let gone: Vec<&Change> = changes
        .iter()
        .filter(|change| !matches!(change, Change::Remove(_)))
        .collect();
    evidence.extend(consequences(scope, at, &gone));
    Some(Suspicion {
        code: if is_gateway {
            Code::GatewayDown
        } else {
            Code::NodeDown
        },
        at,
        kind: ElementKind::Node,
        name: scope.node(at).name.clone(),
        link: None,
        parts: vec![(at, Part::Node)],
        soft: false,
        summary: if is_gateway {
            let what = match scope.cluster(at.cluster).mode {
                Some(NetworkType::P2p) => "its own pods and the cluster's services are".to_owned(),
                _ => format!("{cluster} is"),
            };
            format!(
                "{place} is the gateway of {cluster}, and its underlay link {name} {state}: {what} cut off from all others"
            )
        } else {
            format!(
                "the underlay link {name} of {place} {state}: the node and its pods are cut off"
            )
        },
        evidence,
        fix: underlay::fix(scope, at, name, observed),
    })
}

/// Whether a node's NodeConfig is not what the plan calls for.
fn is_stale(intended: &Intended, at: NodeRef) -> bool {
    let Some((written, name)) = intended.written.get(&at).zip(intended.name(at)) else {
        return false;
    };
    let planned = intended.planner.config(name);
    planned.is_some_and(|planned| !same_rows(written, &planned))
}

/// Changes that the kernel's rows owe to a NodeConfig that is not what the plan calls for.
fn stale_changes(
    scope: &Scope<'_>,
    intended: &Intended,
    at: NodeRef,
    observed: &NodeState,
    changes: &[Change],
) -> Option<Vec<Change>> {
    let written = intended.written.get(&at)?;
    let left = diff(&rows_of(scope, at, written), observed).changes;
    Some(
        changes
            .iter()
            .filter(|change| !left.contains(change))
            .cloned()
            .collect(),
    )
}

/// Whether all that a NodeConfig has too much is what the plan leaves out since an object of the control plane lacks something. That
/// object is the cause, and the rows, which still carry packets, follow it.
fn is_left_out(intended: &Intended, followed: &[Change]) -> bool {
    let leaves_out = |objection: &Objection| objection.left_out.is_some();
    intended.objections.iter().any(leaves_out)
        && followed
            .iter()
            .all(|change| matches!(change, Change::Remove(_)))
}

/// Whether two configs hold the same rows in whatever order.
fn same_rows(left: &datapath::api::NodeConfigSpec, right: &datapath::api::NodeConfigSpec) -> bool {
    fn set<T: Ord>(rows: &[T]) -> BTreeSet<&T> {
        rows.iter().collect()
    }
    set(&left.devices) == set(&right.devices)
        && set(&left.routes) == set(&right.routes)
        && set(&left.iptables) == set(&right.iptables)
        && set(&left.fdbs) == set(&right.fdbs)
        && set(&left.arps) == set(&right.arps)
}

/// That a node's NodeConfig is not what the plan calls for.
fn stale_object(scope: &Scope<'_>, at: NodeRef) -> Evidence {
    let object = format!("{}-{}", scope.cluster(at.cluster).name, scope.node(at).name);
    let text =
        format!("nodeconfigs.kosmos.io {object} is not what clusters and clusternodes call for");
    Evidence {
        kind: EvidenceKind::Intent,
        source: scope.place(at).into(),
        text: text.into(),
    }
}

fn intent_stale(
    scope: &Scope<'_>,
    at: NodeRef,
    followed: &[Change],
    found: Vec<Suspicion>,
) -> Suspicion {
    let place = scope.place(at);
    let object = format!("{}-{}", scope.cluster(at.cluster).name, scope.node(at).name);
    let all: Vec<&Change> = followed.iter().collect();
    let mut evidence = vec![stale_object(scope, at)];
    evidence.extend(consequences(scope, at, &all));
    Suspicion {
        code: Code::IntentStale,
        at,
        kind: ElementKind::NodeConfig,
        name: object.clone(),
        link: None,
        soft: found.iter().all(|suspicion| suspicion.soft),
        parts: found
            .into_iter()
            .flat_map(|suspicion| suspicion.parts)
            .collect(),
        summary: format!(
            "the NodeConfig of {place} is old or was changed by hand, {}",
            if followed.is_empty() {
                "and the node's kernel does not follow it yet"
            } else {
                "and the node's kernel follows it"
            }
        ),
        evidence,
        fix: Fix::default()
            .and_here([
                "kubectl",
                "get",
                "nodeconfigs.kosmos.io",
                object.as_str(),
                "-o",
                "yaml",
            ])
            .and_advice("see why the network manager of the control plane does not rewrite it"),
    }
}

/// Whether a change is of this kind of row and puts it in.
fn added(change: &Change) -> Option<&Row> {
    match change {
        Change::Add(row) => Some(row),
        Change::Remove(_) | Change::Replace { .. } => None,
    }
}

/// The row that a change would have.
fn wanted(change: &Change) -> Option<&Row> {
    match change {
        Change::Add(row) | Change::Replace { to: row, .. } => Some(row),
        Change::Remove(_) => None,
    }
}
