//! Tables that are kept up with notices, so that a change costs what it changes and not a look at everything.
//!
//! The kernel tells each neighbour, forwarding row and route that comes or goes. What goes with a link or an address it does not tell row by
//! row, and where several rows have one key a notice does not say which of them it is about: then only a look tells.

use super::link::Names;
use super::message::NLM_F_REPLACE;
use super::neigh::{self, AF_BRIDGE, RTM_DELNEIGH, RTM_NEWNEIGH};
use super::route::{self, RTM_DELROUTE, RTM_NEWROUTE};
use super::socket::Message;
use crate::diff::{is_owned_fdb, is_owned_neighbour};
use crate::state::{Fdb, Neighbour, NodeState, Route};
use crate::table::Keyed as _;

/// What notices made of tables. The later ones outweigh the earlier ones.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Followed {
    /// Nothing of the datapath's has changed.
    #[default]
    Nothing,
    /// Rows have changed, and the tables have them.
    Rows,
    /// Anything may have changed: look.
    Anything,
}

/// Tables and the notices that they are kept up with.
pub(super) struct Follower<'a> {
    tables: &'a mut NodeState,
    names: Names,
}

impl<'a> Follower<'a> {
    pub(super) fn of(tables: &'a mut NodeState) -> Self {
        let mut names = Names::default();
        for link in &tables.links {
            names.insert(link.index, link.name.clone());
        }
        Self { tables, names }
    }

    /// Takes in a notice that concerns the datapath.
    pub(super) fn follow(&mut self, message: &Message<'_>) -> Followed {
        let payload = message.payload;
        let is_new = matches!(message.kind, RTM_NEWNEIGH | RTM_NEWROUTE);
        match (message.kind, payload.first()) {
            (RTM_NEWNEIGH | RTM_DELNEIGH, Some(&AF_BRIDGE)) => {
                let row = neigh::read_fdb(payload, &self.names, self.tables);
                row.map_or(Followed::Anything, |row| self.forwarding_row(row, is_new))
            }
            (RTM_NEWNEIGH | RTM_DELNEIGH, _) => {
                let row = neigh::read(payload, &self.names);
                row.map_or(Followed::Anything, |row| self.neighbour(row, is_new))
            }
            (RTM_NEWROUTE | RTM_DELROUTE, _) => {
                let row = route::read(payload, &self.names);
                let replaces = message.flags & NLM_F_REPLACE != 0;
                row.map_or(Followed::Anything, |row| self.route(row, is_new, replaces))
            }
            _ => Followed::Anything,
        }
    }

    fn forwarding_row(&mut self, row: Fdb, is_new: bool) -> Followed {
        let rows = &mut self.tables.fdb;
        let is_owned = is_owned_fdb(&row);
        let former = if is_new {
            // A MAC other than that of floods leads to one place, so this row may have come in place of another one.
            let of_mac = (row.link.clone(), row.mac, None);
            let is_same = |other: &&Fdb| (&other.link, other.mac) == (&row.link, row.mac);
            let leads_elsewhere = |other: &Fdb| other.dst != row.dst;
            if !row.mac.is_zero()
                && rows
                    .from_key(&of_mac)
                    .take_while(is_same)
                    .any(leads_elsewhere)
            {
                return Followed::Anything;
            }
            rows.insert(row.clone())
        } else {
            rows.remove(&row.key())
        };
        let now = is_new.then_some(row);
        let was_owned = former.as_ref().is_some_and(is_owned_fdb);
        changed((is_owned && is_new) || was_owned, former != now)
    }

    /// What the kernel learns is followed, too, but is nobody's change unless it takes the place of a row that was made.
    fn neighbour(&mut self, row: Neighbour, is_new: bool) -> Followed {
        let rows = &mut self.tables.neighbours;
        let is_owned = is_owned_neighbour(&row);
        let (former, now) = if is_new {
            (rows.insert(row.clone()), Some(row))
        } else {
            (rows.remove(&row.key()), None)
        };
        let was_owned = former.as_ref().is_some_and(is_owned_neighbour);
        changed((is_owned && is_new) || was_owned, former != now)
    }

    fn route(&mut self, row: Route, is_new: bool, replaces: bool) -> Followed {
        let rows = &mut self.tables.routes;
        let former = rows.get(&row.key());
        let is_same = former == Some(&row);
        // One of several with this key.
        let is_one = row.hops.len() < 2 && former.is_none_or(|former| former.hops.len() < 2);
        let is_clear = if is_new {
            former.is_none() || is_same || replaces
        } else {
            former.is_none() || former.is_some_and(|former| former.hops == row.hops)
        };
        if !is_one || !is_clear {
            return Followed::Anything;
        }
        if is_new {
            rows.insert(row);
            changed(true, !is_same)
        } else {
            let removed = rows.remove(&row.key());
            changed(true, removed.is_some())
        }
    }
}

fn changed(is_owned: bool, is_other: bool) -> Followed {
    if is_owned && is_other {
        Followed::Rows
    } else {
        Followed::Nothing
    }
}
