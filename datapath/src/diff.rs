//! The smallest change that makes one state into another, in an order that never names what does not exist yet.
//!
//! ```text
//!   links ─► sysctls ─► addresses ─► neighbours ─► FDB ─► rules ─► routes ─► NAT       what is added or replaced
//!   links ◄─ addresses ◄─ neighbours ◄─ FDB ◄─ rules ◄─ routes ◄─ NAT                  then what is removed
//! ```
//!
//! Replacement is one step wherever the kernel has one, so that packets find the former row or the new one and never none. The kernel
//! also removes rows of its own accord: all on a link that is made anew, the neighbours of a link whose MAC changes. Those are
//! stated again, as a replacement of a row by itself, so that one application suffices and its reverse undoes it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::mac::Mac;
use crate::nodeconfig::{PRIORITY, TABLE, TUNNELS};
use crate::state::{
    Address, Fdb, Link, LinkKind, Neighbour, NeighbourState, NodeState, Route, Row, Rule,
    RuleAction,
};
use crate::table::{Keyed, Table};

mod words;

pub use words::{kind_of, name_of};

/// One change of one row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "change")]
pub enum Change {
    /// The row is put in.
    Add(Row),
    /// The row takes the place of another in one step. `from` and `to` are equal where the kernel drops the row as a consequence of an
    /// earlier change of the set.
    Replace {
        /// What is there.
        from: Row,
        /// What takes its place.
        to: Row,
    },
    /// The row is taken out.
    Remove(Row),
}

impl Change {
    /// The row that is there afterwards, or that was there before.
    #[must_use]
    pub fn row(&self) -> &Row {
        match self {
            Self::Add(row) | Self::Remove(row) | Self::Replace { to: row, .. } => row,
        }
    }

    fn reversed(&self) -> Self {
        match self {
            Self::Add(row) => Self::Remove(row.clone()),
            Self::Remove(row) => Self::Add(row.clone()),
            Self::Replace { from, to } => Self::Replace {
                from: to.clone(),
                to: from.clone(),
            },
        }
    }

    /// The place in the order of application.
    fn phase(&self) -> i8 {
        let kind = match self.row() {
            Row::Link(_) => 0,
            Row::Sysctl(_) => 1,
            Row::Address(_) => 2,
            Row::Neighbour(_) => 3,
            Row::Fdb(_) => 4,
            Row::Rule(_) => 5,
            Row::Route(_) => 6,
            Row::Nat(_) => 7,
        };
        match self {
            Self::Add(_) | Self::Replace { .. } => kind,
            Self::Remove(_) => 16 - kind,
        }
    }
}

/// Changes in the order in which they are to be applied.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeSet {
    /// The changes.
    pub changes: Vec<Change>,
}

impl ChangeSet {
    /// Puts changes into the order of application; those of one kind keep theirs.
    #[must_use]
    pub fn ordered(mut changes: Vec<Change>) -> Self {
        changes.sort_by_key(Change::phase);
        Self { changes }
    }

    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// The changes that undo these.
    #[must_use]
    pub fn reversed(&self) -> Self {
        Self::ordered(self.changes.iter().map(Change::reversed).collect())
    }
}

impl fmt::Display for ChangeSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for change in &self.changes {
            writeln!(f, "{change}")?;
        }
        Ok(())
    }
}

/// What has to change in `observed` so that it holds `desired`.
///
/// Only rows that the datapath owns are compared: the tunnels and what an administrator put on them, table 200 and the rule that asks
/// it, the datapath's translations, and of the sysctls those that `desired` lists. All else is other people's.
#[must_use]
pub fn diff(desired: &NodeState, observed: &NodeState) -> ChangeSet {
    let mut changes = Vec::new();
    let rebuilt = links(desired, observed, &mut changes);
    let anew = |link: &str| rebuilt.anew.contains(link);

    for row in &desired.sysctls {
        match observed.sysctls.get(&row.name) {
            None => changes.push(Change::Add(Row::Sysctl(row.clone()))),
            Some(there) if there.value != row.value || in_link(&row.name, &rebuilt.anew) => {
                changes.push(Change::Replace {
                    from: Row::Sysctl(there.clone()),
                    to: Row::Sysctl(row.clone()),
                });
            }
            Some(_) => {}
        }
    }
    addresses(desired, observed, anew, &mut changes);
    Comparison {
        desired: &desired.neighbours,
        observed: &observed.neighbours,
        same: |left: &Neighbour, right: &Neighbour| left == right,
        again: |row: &Neighbour| rebuilt.moved.contains(&row.link) || anew(&row.link),
        owned: is_owned_neighbour,
        wrap: Row::Neighbour,
    }
    .run(&mut changes);
    forwarding(desired, observed, anew, &mut changes);
    Comparison {
        desired: &desired.rules,
        observed: &observed.rules,
        same: |left: &Rule, right: &Rule| left == right,
        again: |_: &Rule| false,
        owned: is_owned_rule,
        wrap: Row::Rule,
    }
    .run(&mut changes);
    Comparison {
        desired: &desired.routes,
        observed: &observed.routes,
        same: same_route,
        again: |row: &Route| row.hops.iter().any(|hop| anew(&hop.link)),
        owned: is_owned_route,
        wrap: Row::Route,
    }
    .run(&mut changes);
    Comparison {
        desired: &desired.nat,
        observed: &observed.nat,
        same: |_: &_, _: &_| true,
        again: |_: &_| false,
        owned: |_: &_| true,
        wrap: Row::Nat,
    }
    .run(&mut changes);
    ChangeSet::ordered(changes)
}

/// Whether a link can become another only by being made anew: its kind, VNI, port, source or lower link differ.
#[must_use]
pub fn needs_remaking(from: &Link, to: &Link) -> bool {
    match (&from.kind, &to.kind) {
        (LinkKind::Vxlan(from), LinkKind::Vxlan(to)) => {
            (from.vni, from.port, from.local, &from.lower) != (to.vni, to.port, to.local, &to.lower)
        }
        (from, to) => from != to,
    }
}

/// Links whose change costs them rows.
struct Rebuilt {
    /// Made anew: everything on them goes.
    anew: BTreeSet<String>,
    /// With another MAC: their neighbours go, permanent ones too.
    moved: BTreeSet<String>,
}

fn links(desired: &NodeState, observed: &NodeState, changes: &mut Vec<Change>) -> Rebuilt {
    let mut rebuilt = Rebuilt {
        anew: BTreeSet::new(),
        moved: BTreeSet::new(),
    };
    for row in &desired.links {
        let Some(there) = observed.links.get(&row.name) else {
            changes.push(Change::Add(Row::Link(row.clone())));
            continue;
        };
        if needs_remaking(there, row) {
            rebuilt.anew.insert(row.name.clone());
        } else if there.mac != row.mac {
            rebuilt.moved.insert(row.name.clone());
        } else if same_link(there, row) {
            continue;
        }
        changes.push(Change::Replace {
            from: Row::Link(there.clone()),
            to: Row::Link(row.clone()),
        });
    }
    for row in &observed.links {
        if is_tunnel(&row.name) && desired.links.get(&row.name).is_none() {
            changes.push(Change::Remove(Row::Link(row.clone())));
        }
    }
    rebuilt
}

/// Index, carrier and counters are the kernel's; all else is compared.
fn same_link(left: &Link, right: &Link) -> bool {
    (left.mac, left.mtu, left.up, &left.kind, &left.master)
        == (right.mac, right.mtu, right.up, &right.kind, &right.master)
}

/// Who wrote a route and whether its link has a carrier make no other route of it.
fn same_route(left: &Route, right: &Route) -> bool {
    let hops = |route: &Route| -> Vec<_> {
        route
            .hops
            .iter()
            .map(|hop| (hop.via, hop.link.clone(), hop.onlink, hop.weight))
            .collect()
    };
    (left.kind, left.src, left.mtu) == (right.kind, right.src, right.mtu)
        && hops(left) == hops(right)
}

pub(crate) fn is_tunnel(link: &str) -> bool {
    TUNNELS.contains(&link)
}

/// The kernel makes link-local addresses by itself.
pub(crate) fn is_owned_address(row: &Address) -> bool {
    let is_link_local = match row.net.addr() {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    is_tunnel(&row.link) && !is_link_local
}

pub(crate) fn is_owned_neighbour(row: &Neighbour) -> bool {
    is_tunnel(&row.link) && row.state == NeighbourState::Permanent
}

pub(crate) fn is_owned_fdb(row: &Fdb) -> bool {
    is_tunnel(&row.link) && row.permanent
}

pub(crate) fn is_owned_route(row: &Route) -> bool {
    row.table == TABLE
}

pub(crate) fn is_owned_rule(row: &Rule) -> bool {
    row.priority == PRIORITY && row.action == RuleAction::Lookup(TABLE)
}

/// Whether a setting belongs to one of these links.
fn in_link(sysctl: &str, links: &BTreeSet<String>) -> bool {
    sysctl
        .split('.')
        .nth(3)
        .is_some_and(|link| links.contains(&link.replace('/', ".")))
}

/// The comparison of one table whose rows differ by their keys alone.
struct Comparison<'a, R: Keyed, Same, Again, Owned, Wrap> {
    desired: &'a Table<R>,
    observed: &'a Table<R>,
    same: Same,
    again: Again,
    owned: Owned,
    wrap: Wrap,
}

impl<R, Same, Again, Owned, Wrap> Comparison<'_, R, Same, Again, Owned, Wrap>
where
    R: Keyed + Clone,
    Same: Fn(&R, &R) -> bool,
    Again: Fn(&R) -> bool,
    Owned: Fn(&R) -> bool,
    Wrap: Fn(R) -> Row,
{
    fn run(&self, changes: &mut Vec<Change>) {
        let row = |row: &R| (self.wrap)(row.clone());
        for wanted in self.desired {
            match self.observed.get(&wanted.key()) {
                None => changes.push(Change::Add(row(wanted))),
                Some(there) if !(self.same)(there, wanted) || (self.again)(wanted) => {
                    changes.push(Change::Replace {
                        from: row(there),
                        to: row(wanted),
                    });
                }
                Some(_) => {}
            }
        }
        for there in self.observed {
            if (self.owned)(there) && self.desired.get(&there.key()).is_none() {
                changes.push(Change::Remove(row(there)));
            }
        }
    }
}

/// An address whose length alone differs is replaced: IPv6 knows it by the address without the length.
fn addresses(
    desired: &NodeState,
    observed: &NodeState,
    anew: impl Fn(&str) -> bool,
    changes: &mut Vec<Change>,
) {
    let mut spare: BTreeMap<(&str, IpAddr), &Address> = observed
        .addresses
        .iter()
        .filter(|row| is_owned_address(row) && desired.addresses.get(&row.key()).is_none())
        .map(|row| ((row.link.as_str(), row.net.addr()), row))
        .collect();
    for row in &desired.addresses {
        let there = observed
            .addresses
            .get(&row.key())
            .or_else(|| spare.remove(&(row.link.as_str(), row.net.addr())));
        match there {
            None => changes.push(Change::Add(Row::Address(row.clone()))),
            Some(there) if there != row || anew(&row.link) => changes.push(Change::Replace {
                from: Row::Address(there.clone()),
                to: Row::Address(row.clone()),
            }),
            Some(_) => {}
        }
    }
    let removals = spare.into_values().cloned().map(Row::Address);
    changes.extend(removals.map(Change::Remove));
}

/// A unicast MAC has one destination: a row that leads it elsewhere is replaced. A flood MAC has as many as there are.
fn forwarding(
    desired: &NodeState,
    observed: &NodeState,
    anew: impl Fn(&str) -> bool,
    changes: &mut Vec<Change>,
) {
    let mut spare: BTreeMap<(&str, Mac), Vec<&Fdb>> = BTreeMap::new();
    for row in &observed.fdb {
        if is_owned_fdb(row) && desired.fdb.get(&row.key()).is_none() {
            spare.entry((&row.link, row.mac)).or_default().push(row);
        }
    }
    for row in &desired.fdb {
        let there = observed.fdb.get(&row.key()).or_else(|| {
            if row.mac.is_zero() {
                return None;
            }
            spare.get_mut(&(row.link.as_str(), row.mac))?.pop()
        });
        match there {
            None => changes.push(Change::Add(Row::Fdb(row.clone()))),
            Some(there) if there != row || anew(&row.link) => changes.push(Change::Replace {
                from: Row::Fdb(there.clone()),
                to: Row::Fdb(row.clone()),
            }),
            Some(_) => {}
        }
    }
    let removals = spare.into_values().flatten().cloned().map(Row::Fdb);
    changes.extend(removals.map(Change::Remove));
}
