//! The tables of a real network namespace, over netlink (feature `kernel`).
//!
//! Two sockets a namespace, opened in the thread that is in it and usable from any other afterwards. Everything is by messages: no
//! program is started, and nothing but settings is written to a file.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

use netlink_sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE};
use nix::errno::Errno;

use crate::diff::{Change, ChangeSet, kind_of, name_of, needs_remaking};
use crate::digest::{Digest, Digester};
use crate::error::Error;
use crate::reconcile::Kernel;
use crate::state::{Link, LinkKind, Nat, NodeState, Row, Sysctl};
use crate::table::Table;
use crate::tunnel::Tunnel;

mod address;
mod attention;
mod filters;
mod follow;
mod foreign;
mod link;
mod listener;
mod message;
mod monitor;
#[cfg(test)]
mod mutations;
mod neigh;
mod nft;
mod observe;
mod route;
mod rule;
mod shared;
mod socket;
mod sysctl;

pub use follow::Followed;
pub use foreign::MOST_FOREIGN;
pub use listener::{Heard, Listener};
pub use monitor::Monitor;
pub use shared::SharedRows;

use foreign::Foreign;
use message::Batch;
use observe::Neighbours;
use socket::{Netlink, Refused};

/// A table that could not be read: that it holds no row proves nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// The table: `links`, `addresses`, `neighbours`, `forwarding rows`, `rules`, `routes`, `nat` or `filters`.
    pub table: &'static str,
    /// Why.
    pub why: String,
}

impl std::fmt::Display for Missing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.table, self.why)
    }
}

/// The kernel of one network namespace.
pub struct LinuxKernel {
    route: Netlink,
    /// None on a kernel without nfnetlink.
    netfilter: Option<Netlink>,
    is_nat_readable: bool,
    /// Where the settings below `net.` are written.
    settings: PathBuf,
}

impl LinuxKernel {
    /// Opens the namespace of the calling thread. Two descriptors; reading, changing and settings work from any thread afterwards.
    ///
    /// # Errors
    /// [`Error::Missing`] when the kernel gives no rtnetlink socket.
    pub fn open() -> Result<Self, Error> {
        let route = Netlink::open(NETLINK_ROUTE, "rtnetlink")?;
        route.be_strict();
        Ok(Self {
            route,
            netfilter: Netlink::open(NETLINK_NETFILTER, "nfnetlink").ok(),
            is_nat_readable: true,
            settings: PathBuf::from(sysctl::FOLDER),
        })
    }

    /// Writes settings below this folder in place of /proc/sys/net: a container without privilege sees that one read-only, and may have the
    /// same folder of its node somewhere else.
    #[must_use]
    pub fn with_settings_in(self, folder: PathBuf) -> Self {
        Self {
            settings: folder,
            ..self
        }
    }

    /// Whether the last observation could read address translation. That takes `CAP_NET_ADMIN`; without it the table `nat` is empty
    /// and says nothing.
    #[must_use]
    pub fn is_nat_readable(&self) -> bool {
        self.is_nat_readable
    }

    /// Whether the kernel makes VXLAN links, with its module if need be. It is asked for one whose description lacks everything, and refuses
    /// that as such where it knows the kind (`vxlan_validate`), as a kind that it does not know where it has none. Takes `CAP_NET_ADMIN`.
    ///
    /// # Errors
    /// What else the kernel said.
    pub fn has_vxlan(&mut self) -> Result<bool, Error> {
        let mut batch = Batch::default();
        link::ask_for_nothing(&mut batch);
        let refused = self.route.make(&mut batch)?;
        match refused.first().map(|refused| refused.errno) {
            Some(errno) if errno == Errno::EINVAL as i32 => Ok(true),
            Some(errno) if errno == Errno::EOPNOTSUPP as i32 => Ok(false),
            errno => Err(Error::kernel(
                "ask for",
                "a link of kind vxlan",
                errno.unwrap_or(0),
            )),
        }
    }

    /// Reads all tables, and says which could not be read and why. Rows on links that were not read lack in the other tables, too. Of
    /// neighbours, forwarding rows and routes that are not the datapath's at most [`MOST_FOREIGN`] each are kept; a table that has more is
    /// among those that could not be read whole.
    ///
    /// # Errors
    /// When the kernel refuses to let a table be read that everybody may read.
    pub fn inspect(&mut self) -> Result<(NodeState, Vec<Missing>), Error> {
        self.inspect_keeping(Some)
    }

    /// As [`Self::inspect`], but of the rows that count for the digester nothing is kept but their digest: a node of a large fleet has
    /// thousands of them.
    ///
    /// # Errors
    /// As [`Self::inspect`].
    pub fn inspect_counting(
        &mut self,
        digester: &Digester,
    ) -> Result<(NodeState, Digest, Vec<Missing>), Error> {
        let mut digest = digester.empty();
        let (state, missing) = self.inspect_keeping(|row| digester.count(&mut digest, row))?;
        Ok((state, digest, missing))
    }

    /// As [`Kernel::observe`], counting as in [`Self::inspect_counting`].
    ///
    /// # Errors
    /// As [`Kernel::observe`].
    pub fn observe_counting(&mut self, digester: &Digester) -> Result<(NodeState, Digest), Error> {
        self.count(digester, Neighbours::All)
    }

    /// As [`Self::observe_counting`], but of the neighbours only those with these addresses on tunnels are looked for: enough for whoever
    /// has just made the tunnels, since nobody else can have put more on them. To list all of a namespace the kernel goes through those
    /// of all namespaces.
    ///
    /// # Errors
    /// As [`Kernel::observe`].
    pub fn observe_filled(
        &mut self,
        digester: &Digester,
        neighbours: impl Iterator<Item = (Tunnel, IpAddr)>,
    ) -> Result<(NodeState, Digest), Error> {
        let indices = self.tunnel_indices()?;
        let index = |tunnel: Tunnel| indices.get(tunnel.name()).copied();
        let these: Vec<(u32, IpAddr)> = neighbours
            .filter_map(|(tunnel, ip)| Some((index(tunnel)?, ip)))
            .collect();
        self.count(digester, Neighbours::These(&these))
    }

    /// Reads links, addresses, rules and settings alone, which are few on any node.
    ///
    /// # Errors
    /// As [`Kernel::observe`].
    pub fn observe_local(&mut self) -> Result<NodeState, Error> {
        observe::observe_local(&mut self.route)
    }

    fn count(
        &mut self,
        digester: &Digester,
        neighbours: Neighbours<'_>,
    ) -> Result<(NodeState, Digest), Error> {
        let mut missing = Vec::new();
        let mut digest = digester.empty();
        let mut keep = |row| digester.count(&mut digest, row);
        let mut state = observe::observe(&mut self.route, &mut missing, neighbours, &mut keep)?;
        if let Some(first) = missing.first() {
            return Err(Error::Inconsistent { what: first.table });
        }
        put_kept(&mut state, self.observe_nat()?, keep);
        Ok((state, digest))
    }

    fn inspect_keeping(
        &mut self,
        mut keep: impl FnMut(Row) -> Option<Row>,
    ) -> Result<(NodeState, Vec<Missing>), Error> {
        let mut missing = Vec::new();
        let mut foreign = Foreign::default();
        let bounded = |row| foreign.keep(keep(row)?);
        let mut state = observe::observe(&mut self.route, &mut missing, Neighbours::All, bounded)?;
        missing.extend(foreign.beyond());
        match self.observe_nat() {
            Ok(rows) => {
                put_kept(&mut state, rows, keep);
                if !self.is_nat_readable {
                    missing.push(Missing {
                        table: "nat",
                        why: "reading address translation takes CAP_NET_ADMIN and nf_tables"
                            .to_owned(),
                    });
                }
            }
            Err(error @ Error::Inconsistent { .. }) => missing.push(Missing {
                table: "nat",
                why: error.to_string(),
            }),
            Err(error) => return Err(error),
        }
        match self.filters() {
            Ok((filters, 0)) => state.filters = filters,
            Ok((filters, untold)) => {
                state.filters = filters;
                missing.push(Missing {
                    table: "filters",
                    why: format!(
                        "{untold} rules beyond the first {} are not told",
                        crate::filter::MOST_RULES
                    ),
                });
            }
            Err(why) => missing.push(Missing {
                table: "filters",
                why,
            }),
        }
        Ok((state, missing))
    }

    fn observe_nat(&mut self) -> Result<Table<Nat>, Error> {
        let Some(socket) = &mut self.netfilter else {
            return Ok(Table::default());
        };
        match nft::observe(socket) {
            Ok(rows) => {
                self.is_nat_readable = true;
                Ok(rows)
            }
            Err(error) if is_unsupported(&error) || is_forbidden(&error) => {
                self.is_nat_readable = false;
                Ok(Table::default())
            }
            Err(error) => Err(error),
        }
    }

    /// The index of a link by its name.
    fn index_of(&mut self, name: &str) -> Result<Option<u32>, Error> {
        let mut by_name = Vec::new();
        message::Attributes::new(&mut by_name).text(link::IFLA_IFNAME, name);
        let header = link::header(0, 0, 0);
        let answer = self
            .route
            .get("link", link::RTM_GETLINK, &header, &by_name)?;
        Ok(answer.and_then(|answer| {
            let (_, payload) = answer.messages().next()?;
            Some(link::read(payload)?.link.index)
        }))
    }

    fn indices<'a>(
        &mut self,
        names: impl Iterator<Item = &'a str>,
    ) -> Result<BTreeMap<String, u32>, Error> {
        let names: BTreeSet<&str> = names.collect();
        let mut found = BTreeMap::new();
        for name in names {
            if let Some(index) = self.index_of(name)? {
                found.insert(name.to_owned(), index);
            }
        }
        Ok(found)
    }

    fn make(&mut self, mut batch: Batch, failures: &mut Failures<'_>) -> Result<(), Error> {
        if batch.is_empty() {
            return Ok(());
        }
        for refused in self.route.make(&mut batch)? {
            failures.add(refused);
        }
        Ok(())
    }

    fn apply_links(&mut self, set: &ChangeSet, failures: &mut Failures<'_>) -> Result<(), Error> {
        let mut wanted = Vec::new();
        for (place, change) in set.changes.iter().enumerate() {
            match change {
                Change::Add(Row::Link(to)) => wanted.push((place, None, to)),
                Change::Replace {
                    from: Row::Link(from),
                    to: Row::Link(to),
                } => wanted.push((place, Some(from), to)),
                _ => {}
            }
        }
        if wanted.is_empty() {
            return Ok(());
        }
        let names = wanted.iter().flat_map(|(_, _, link)| {
            let lower = match &link.kind {
                LinkKind::Vxlan(vxlan) => vxlan.lower.as_deref(),
                _ => None,
            };
            [Some(link.name.as_str()), lower, link.master.as_deref()]
        });
        let indices = self.indices(names.flatten())?;
        // All that are made anew go before the first is made: they may exchange VNIs and ports.
        let (mut removal, mut making) = (Batch::default(), Batch::default());
        for (place, from, to) in wanted {
            let master = to.master.as_ref().and_then(|name| indices.get(name));
            let there = indices.get(&to.name).copied();
            if let (Some(from), Some(index)) = (from, there)
                && !needs_remaking(from, to)
            {
                link::change(&mut making, place, index, (from, to), master.copied());
                continue;
            }
            let lower = match lower_of(to, &indices) {
                Ok(lower) => lower,
                Err(errno) => {
                    // The former one stays rather than none.
                    failures.add_errno(place, errno);
                    continue;
                }
            };
            if let (Some(_), Some(index)) = (from, there) {
                link::delete(&mut removal, place, index);
            }
            link::create(&mut making, place, to, lower, master.copied());
        }
        self.make(removal, failures)?;
        self.make(making, failures)
    }

    fn apply_sysctls(&mut self, set: &ChangeSet, failures: &mut Failures<'_>) {
        let rows: Vec<(usize, &Sysctl)> = set
            .changes
            .iter()
            .enumerate()
            .filter_map(|(place, change)| match change {
                Change::Add(Row::Sysctl(row))
                | Change::Replace {
                    to: Row::Sysctl(row),
                    ..
                } => Some((place, row)),
                // A setting cannot be taken out.
                _ => None,
            })
            .collect();
        if rows.is_empty() {
            return;
        }
        match sysctl::write(&self.route, &self.settings, &rows) {
            Ok(failed) => {
                for (place, error) in failed {
                    failures.add_io(place, &error);
                }
            }
            Err(error) => {
                for (place, _) in rows {
                    failures.add_io(place, &error);
                }
            }
        }
    }

    fn apply_nat(&mut self, set: &ChangeSet, failures: &mut Failures<'_>) -> Result<(), Error> {
        let is_nat = |change: &Change| matches!(change.row(), Row::Nat(_));
        let Some(first) = set.changes.iter().position(is_nat) else {
            return Ok(());
        };
        let mut rows = self.observe_nat()?;
        for change in &set.changes {
            match change {
                Change::Add(Row::Nat(row)) => drop(rows.insert(row.clone())),
                Change::Remove(Row::Nat(row)) => drop(rows.remove(row)),
                Change::Replace {
                    from: Row::Nat(from),
                    to: Row::Nat(to),
                } => {
                    rows.remove(from);
                    rows.insert(to.clone());
                }
                _ => {}
            }
        }
        let Some(socket) = &mut self.netfilter else {
            failures.add_errno(first, Errno::EOPNOTSUPP);
            return Ok(());
        };
        if let Err((errno, detail)) = nft::replace(socket, &rows) {
            failures.add(Refused {
                change: first,
                errno,
                detail,
            });
        }
        Ok(())
    }

    /// Everything between links and NAT that is added or replaced, or all that is removed.
    fn apply_rows(
        &mut self,
        set: &ChangeSet,
        is_removal: bool,
        failures: &mut Failures<'_>,
    ) -> Result<(), Error> {
        let changes = || {
            set.changes
                .iter()
                .enumerate()
                .filter(|(_, change)| matches!(change, Change::Remove(_)) == is_removal)
        };
        let indices = self.indices(changes().flat_map(|(_, change)| links_of(change.row())))?;
        let mut batch = Batch::default();
        for (place, change) in changes() {
            if let Err(errno) = write_change(&mut batch, place, change, &indices) {
                failures.add_errno(place, errno);
            }
        }
        self.make(batch, failures)
    }
}

impl Kernel for LinuxKernel {
    fn observe(&mut self) -> Result<NodeState, Error> {
        // What is reconciled against half a table would be made twice, so the whole is looked at again later.
        let mut missing = Vec::new();
        let mut state = observe::observe(&mut self.route, &mut missing, Neighbours::All, Some)?;
        if let Some(first) = missing.first() {
            return Err(Error::Inconsistent { what: first.table });
        }
        state.nat = self.observe_nat()?;
        Ok(state)
    }

    fn settings(&mut self, names: &[String]) -> Vec<Sysctl> {
        sysctl::read(&self.route, &self.settings, names)
    }

    fn apply(&mut self, set: &ChangeSet) -> Result<(), Vec<Error>> {
        let mut failures = Failures {
            set,
            errors: Vec::new(),
        };
        let mut steps = || {
            self.apply_links(set, &mut failures)?;
            self.apply_sysctls(set, &mut failures);
            self.apply_rows(set, false, &mut failures)?;
            self.apply_nat(set, &mut failures)?;
            self.apply_rows(set, true, &mut failures)
        };
        if let Err(error) = steps() {
            failures.errors.push(error);
        }
        if failures.errors.is_empty() {
            Ok(())
        } else {
            Err(failures.errors)
        }
    }
}

/// Puts the translations into a state that `keep` gives back.
fn put_kept(state: &mut NodeState, nat: Table<Nat>, mut keep: impl FnMut(Row) -> Option<Row>) {
    for row in &nat {
        if let Some(row) = keep(Row::Nat(row.clone())) {
            state.put(row);
        }
    }
}

/// What the kernel refused, in the words of the changes.
struct Failures<'a> {
    set: &'a ChangeSet,
    errors: Vec<Error>,
}

impl Failures<'_> {
    fn add(&mut self, refused: Refused) {
        let Some(change) = self.set.changes.get(refused.change) else {
            return;
        };
        let row = change.row();
        self.errors.push(Error::Kernel {
            operation: match change {
                Change::Add(_) => "add",
                Change::Remove(_) => "remove",
                Change::Replace { .. } => "replace",
            },
            object: format!("{} {}", kind_of(row), name_of(row)),
            detail: refused.detail,
            errno: io::Error::from_raw_os_error(refused.errno),
        });
    }

    fn add_errno(&mut self, change: usize, errno: Errno) {
        self.add(Refused {
            change,
            errno: errno as i32,
            detail: String::new(),
        });
    }

    fn add_io(&mut self, change: usize, error: &io::Error) {
        self.add(Refused {
            change,
            errno: error.raw_os_error().unwrap_or(Errno::EIO as i32),
            detail: String::new(),
        });
    }
}

/// The links that a row stands on, its own included where it is one.
fn links_of(row: &Row) -> Vec<&str> {
    match row {
        Row::Address(row) => vec![&row.link],
        Row::Fdb(row) => vec![&row.link],
        Row::Link(row) => vec![&row.name],
        Row::Neighbour(row) => vec![&row.link],
        Row::Route(row) => row.hops.iter().map(|hop| hop.link.as_str()).collect(),
        Row::Nat(_) | Row::Rule(_) | Row::Sysctl(_) => Vec::new(),
    }
}

fn lower_of(link: &Link, indices: &BTreeMap<String, u32>) -> Result<Option<u32>, Errno> {
    match &link.kind {
        LinkKind::Vxlan(vxlan) => match &vxlan.lower {
            Some(lower) => indices.get(lower).copied().map(Some).ok_or(Errno::ENODEV),
            None => Ok(None),
        },
        // The datapath makes tunnels and no other links.
        _ => Err(Errno::EOPNOTSUPP),
    }
}

fn write_change(
    batch: &mut Batch,
    place: usize,
    change: &Change,
    indices: &BTreeMap<String, u32>,
) -> Result<(), Errno> {
    let index = |link: &str| indices.get(link).copied().ok_or(Errno::ENODEV);
    match change {
        Change::Add(row) | Change::Replace { to: row, .. } => match row {
            Row::Address(row) => {
                let index = index(&row.link)?;
                let former = match change {
                    Change::Replace {
                        from: Row::Address(from),
                        ..
                    } if from != row => Some(from.net),
                    _ => None,
                };
                // IPv4 has room for both lengths at once; IPv6 does not.
                let (before, after) = match former {
                    Some(net) if net.addr().is_ipv6() => (Some(net), None),
                    other => (None, other),
                };
                if let Some(net) = before {
                    address::delete(batch, place, net, index);
                }
                address::add(batch, place, row.net, index);
                if let Some(net) = after {
                    address::delete(batch, place, net, index);
                }
            }
            Row::Fdb(row) => neigh::add_fdb(batch, place, row, index(&row.link)?),
            Row::Neighbour(row) => neigh::add(batch, place, row, index(&row.link)?),
            Row::Route(row) => {
                // Several with this key: the kernel replaces one of them, or none if ours is among them.
                if let Change::Replace {
                    from: Row::Route(from),
                    ..
                } = change
                    && from.hops.len() > 1
                {
                    route::delete(batch, place, from);
                }
                route::add(batch, place, row, &|link| index(link).ok())
                    .map_err(|_| Errno::ENODEV)?;
            }
            Row::Rule(row) => rule::add(batch, place, row),
            Row::Link(_) | Row::Nat(_) | Row::Sysctl(_) => {}
        },
        Change::Remove(row) => match row {
            // A row on a link that is gone is gone.
            Row::Address(row) => {
                if let Ok(index) = index(&row.link) {
                    address::delete(batch, place, row.net, index);
                }
            }
            Row::Fdb(row) => {
                if let Ok(index) = index(&row.link) {
                    neigh::delete_fdb(batch, place, row, index);
                }
            }
            Row::Link(row) => {
                if let Ok(index) = index(&row.name) {
                    link::delete(batch, place, index);
                }
            }
            Row::Neighbour(row) => {
                if let Ok(index) = index(&row.link) {
                    neigh::delete(batch, place, row, index);
                }
            }
            Row::Route(row) => route::delete(batch, place, row),
            Row::Rule(row) => rule::delete(batch, place, row),
            Row::Nat(_) | Row::Sysctl(_) => {}
        },
    }
    Ok(())
}

/// Whether a kernel says that it lacks a feature.
fn is_unsupported(error: &Error) -> bool {
    let Error::Kernel { errno, .. } = error else {
        return false;
    };
    matches!(
        errno.raw_os_error().map(Errno::from_raw),
        Some(Errno::EAFNOSUPPORT | Errno::EOPNOTSUPP | Errno::EPROTONOSUPPORT)
    )
}

fn is_forbidden(error: &Error) -> bool {
    matches!(error, Error::Kernel { errno, .. } if errno.kind() == io::ErrorKind::PermissionDenied)
}
