//! A kernel of one namespace in memory, for dry runs and tests.
//!
//! It refuses what the real one refuses, with the same numbers, and has the same consequences: a link that goes takes its rows along,
//! a link that goes down loses its routes, neighbours and IPv6 addresses, a MAC that changes costs the neighbours.

use crate::diff::{Change, ChangeSet, kind_of, name_of, needs_remaking};
use crate::error::Error;
use crate::reconcile::Kernel;
use crate::state::{Link, LinkKind, NodeState, Row, Sysctl};

// `errno(3)` on Linux.
const ENOENT: i32 = 2;
const EEXIST: i32 = 17;
const ENODEV: i32 = 19;
const ENETDOWN: i32 = 100;

/// The tables, and nothing else.
#[derive(Debug, Clone, Default)]
pub struct MemoryKernel {
    state: NodeState,
    last_index: u32,
}

impl MemoryKernel {
    /// A kernel that holds a state.
    #[must_use]
    pub fn new(state: NodeState) -> Self {
        let last_index = state.links.iter().map(|link| link.index).max().unwrap_or(0);
        Self { state, last_index }
    }

    /// What it holds.
    #[must_use]
    pub fn state(&self) -> &NodeState {
        &self.state
    }

    /// What it holds, for another administrator to change.
    pub fn state_mut(&mut self) -> &mut NodeState {
        &mut self.state
    }

    fn change(&mut self, change: &Change) -> Result<(), i32> {
        match change {
            Change::Add(Row::Link(link)) => self.add_link(link),
            Change::Replace {
                from: Row::Link(from),
                to: Row::Link(to),
            } => self.replace_link(from, to),
            Change::Remove(row) => {
                self.remove(row);
                Ok(())
            }
            Change::Replace { from, to } => {
                // A removed row would take others along; here the key alone decides whether there is anything to remove.
                if name_of(from) != name_of(to) {
                    self.remove(from);
                }
                self.put(to)
            }
            Change::Add(row) => self.put(row),
        }
    }

    fn add_link(&mut self, link: &Link) -> Result<(), i32> {
        if self.state.links.get(&link.name).is_some() {
            return Err(EEXIST);
        }
        if let LinkKind::Vxlan(vxlan) = &link.kind
            && let Some(lower) = &vxlan.lower
        {
            self.require_link(lower)?;
        }
        self.last_index += 1;
        let mut link = link.clone();
        link.index = self.last_index;
        for (family, leaf) in [
            ("ipv4", "forwarding"),
            ("ipv4", "rp_filter"),
            ("ipv6", "disable_ipv6"),
            ("ipv6", "forwarding"),
        ] {
            let inherited = self
                .state
                .sysctls
                .get(&format!("net.{family}.conf.all.{leaf}"))
                .map_or(0, |row| row.value);
            self.state.sysctls.insert(Sysctl {
                name: format!("net.{family}.conf.{}.{leaf}", link.name.replace('.', "/")),
                value: inherited,
            });
        }
        self.state.links.insert(link);
        Ok(())
    }

    fn replace_link(&mut self, from: &Link, to: &Link) -> Result<(), i32> {
        if needs_remaking(from, to) {
            self.remove(&Row::Link(from.clone()));
            return self.add_link(to);
        }
        let there = self.state.links.get_mut(&to.name).ok_or(ENODEV)?;
        let moved = there.mac != to.mac;
        let went_down = there.up && !to.up;
        *there = Link {
            index: there.index,
            ..to.clone()
        };
        if moved || went_down {
            self.state.neighbours.retain(|row| row.link != to.name);
        }
        if went_down {
            self.state
                .routes
                .retain(|row| row.hops.iter().all(|hop| hop.link != to.name));
            self.state
                .addresses
                .retain(|row| row.link != to.name || row.net.addr().is_ipv4());
        }
        Ok(())
    }

    fn require_link(&self, name: &str) -> Result<&Link, i32> {
        self.state.links.get(name).ok_or(ENODEV)
    }

    fn put(&mut self, row: &Row) -> Result<(), i32> {
        match row {
            Row::Address(row) => {
                self.require_link(&row.link)?;
                self.state.addresses.insert(row.clone());
            }
            Row::Fdb(row) => {
                self.require_link(&row.link)?;
                if !row.mac.is_zero() {
                    self.state
                        .fdb
                        .retain(|there| (&there.link, there.mac) != (&row.link, row.mac));
                }
                self.state.fdb.insert(row.clone());
            }
            Row::Link(row) => {
                self.require_link(&row.name)?;
                self.state.links.insert(row.clone());
            }
            Row::Nat(row) => {
                self.state.nat.insert(row.clone());
            }
            Row::Neighbour(row) => {
                self.require_link(&row.link)?;
                self.state.neighbours.insert(row.clone());
            }
            Row::Route(row) => {
                for hop in &row.hops {
                    if !self.require_link(&hop.link)?.up {
                        return Err(ENETDOWN);
                    }
                }
                self.state.routes.insert(row.clone());
            }
            Row::Rule(row) => {
                self.state.rules.insert(row.clone());
            }
            Row::Sysctl(row) => {
                let link = row.name.split('.').nth(3).unwrap_or_default();
                if !matches!(link, "all" | "default") {
                    self.require_link(&link.replace('/', "."))
                        .map_err(|_| ENOENT)?;
                }
                self.state.sysctls.insert(row.clone());
            }
        }
        Ok(())
    }

    /// Takes a row out; one that is not there is no failure.
    fn remove(&mut self, row: &Row) {
        use crate::table::Keyed;
        let state = &mut self.state;
        match row {
            Row::Address(row) => drop(state.addresses.remove(&row.key())),
            Row::Fdb(row) => drop(state.fdb.remove(&row.key())),
            Row::Link(row) => {
                let name = row.name.as_str();
                let setting = name.replace('.', "/");
                state.links.remove(name);
                state.addresses.retain(|row| row.link != name);
                state.neighbours.retain(|row| row.link != name);
                state.fdb.retain(|row| row.link != name);
                state
                    .routes
                    .retain(|row| row.hops.iter().all(|hop| hop.link != name));
                state
                    .sysctls
                    .retain(|row| row.name.split('.').nth(3) != Some(&setting));
            }
            Row::Nat(row) => drop(state.nat.remove(row)),
            Row::Neighbour(row) => drop(state.neighbours.remove(&row.key())),
            Row::Route(row) => drop(state.routes.remove(&row.key())),
            Row::Rule(row) => drop(state.rules.remove(row)),
            // A setting cannot be taken out; it stays as it is.
            Row::Sysctl(_) => {}
        }
    }
}

impl Kernel for MemoryKernel {
    fn observe(&mut self) -> Result<NodeState, Error> {
        Ok(self.state.clone())
    }

    fn apply(&mut self, set: &ChangeSet) -> Result<(), Vec<Error>> {
        let mut errors = Vec::new();
        for change in &set.changes {
            if let Err(errno) = self.change(change) {
                let operation = match change {
                    Change::Add(_) => "add",
                    Change::Replace { .. } => "replace",
                    Change::Remove(_) => "remove",
                };
                let row = change.row();
                let object = format!("{} {}", kind_of(row), name_of(row));
                errors.push(Error::kernel(operation, object, errno));
            }
        }
        if errors.is_empty() {
            Ok(())
        } else {
            Err(errors)
        }
    }
}
