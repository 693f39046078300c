//! What a kernel makes of a change that it is asked for, and what it does to other rows in consequence.
//!
//! Faults take away and lead astray, so that is what is here: a link that is switched on, or IPv6, is given nothing back.

use std::collections::BTreeSet;
use std::net::IpAddr;

use datapath::diff::{Change, name_of, needs_remaking};
use datapath::state::{Fdb, Link, Route, Row, Sysctl, TABLE_LOCAL, TABLE_MAIN};
use ipnet::IpNet;

use super::{METRIC_ADDRCONF, Namespace};

/// What is laid over a node's tables.
#[derive(Debug)]
pub(in crate::virtual_clusters) enum Laid {
    Change(Change),
    /// A link that was made anew, and all that stood on it put back: thousands of rows in a large fleet, which stay what they are.
    Anew(Link),
}

impl Laid {
    /// Changes, with the rows that are put back on links that are made anew left out.
    pub(in crate::virtual_clusters) fn all(changes: Vec<Change>) -> Vec<Self> {
        let put_back: BTreeSet<String> = changes.iter().filter_map(put_back_on).collect();
        let changes = changes.into_iter();
        let changes = changes.filter(|change| put_back_on(change).is_none());
        let laid = changes.map(|change| match change {
            Change::Replace {
                from: Row::Link(from),
                to: Row::Link(to),
            } if put_back.contains(&to.name) && needs_remaking(&from, &to) => Self::Anew(to),
            other => Self::Change(other),
        });
        laid.collect()
    }
}

/// The link of a row that is stated again because the kernel drops it with its link; none of any other change.
fn put_back_on(change: &Change) -> Option<String> {
    let Change::Replace { from, to } = change else {
        return None;
    };
    if from != to {
        return None;
    }
    match to {
        Row::Address(row) => Some(row.link.clone()),
        Row::Fdb(row) => Some(row.link.clone()),
        Row::Neighbour(row) => Some(row.link.clone()),
        Row::Route(row) => row.hops.first().map(|hop| hop.link.clone()),
        Row::Sysctl(row) => Some(row.name.split('.').nth(3)?.replace('/', ".")),
        Row::Link(_) | Row::Nat(_) | Row::Rule(_) => None,
    }
}

impl Namespace {
    pub(super) fn lay(&mut self, laid: &Laid) {
        match laid {
            Laid::Change(change) => self.change(change),
            Laid::Anew(link) => {
                // As it would be after the rows were put back one by one.
                if self.state.links.get(&link.name).is_some() {
                    self.state.links.insert(link.clone());
                }
            }
        }
    }

    /// What stands on a link that is not there is refused by a kernel, and has no effect.
    fn change(&mut self, change: &Change) {
        match change {
            Change::Add(row) => self.put(row),
            Change::Remove(row) => self.take(row),
            Change::Replace { from, to } => {
                self.put(to);
                let is_same =
                    matches!(to, Row::Link(_) | Row::Sysctl(_)) || name_of(from) == name_of(to);
                if !is_same {
                    self.take(from);
                }
            }
        }
    }

    fn put(&mut self, row: &Row) {
        let has = |link: &str| self.state.links.get(link).is_some();
        match row {
            Row::Link(link) => self.put_link(link),
            Row::Sysctl(setting) => self.write(setting),
            Row::Address(row) if has(&row.link) => self.address(&row.link, row.net),
            Row::Fdb(row) if has(&row.link) => self.put_forwarding(row),
            Row::Neighbour(row) if !has(&row.link) => {}
            Row::Route(row) if !row.hops.iter().all(|hop| has(&hop.link)) => {}
            Row::Address(_) | Row::Fdb(_) => {}
            Row::Nat(_) | Row::Neighbour(_) | Row::Route(_) | Row::Rule(_) => {
                self.state.put(row.clone());
            }
        }
    }

    fn take(&mut self, row: &Row) {
        let state = &mut self.state;
        match row {
            Row::Address(row) => self.remove_address(&row.link, row.net),
            Row::Fdb(row) => drop(state.fdb.remove(&(row.link.clone(), row.mac, row.dst))),
            Row::Link(row) => self.remove_link(&row.name),
            Row::Nat(row) => drop(state.nat.remove(row)),
            Row::Neighbour(row) => drop(state.neighbours.remove(&(row.link.clone(), row.ip))),
            Row::Route(row) => drop(state.routes.remove(&(row.table, row.dst, row.metric))),
            Row::Rule(row) => drop(state.rules.remove(row)),
            // A setting cannot be taken out.
            Row::Sysctl(_) => {}
        }
    }

    /// A link as it is to be. Some parameters of a tunnel cannot be changed in place, so that it is made anew, and with another MAC
    /// all neighbours of the link go (`neigh_changeaddr`).
    fn put_link(&mut self, to: &Link) {
        let from = self.state.links.get(&to.name).cloned();
        match from {
            Some(from) if !needs_remaking(&from, to) => {
                if from.mac != to.mac {
                    self.state.neighbours.retain(|row| row.link != to.name);
                }
                self.state.links.insert(to.clone());
                if from.up && !to.up {
                    self.down(&to.name);
                }
            }
            Some(_) => {
                self.remove_link(&to.name);
                self.link(to.clone());
            }
            None => self.link(to.clone()),
        }
    }

    /// The kernel has one destination for a unicast MAC, and as many as there are for floods.
    fn put_forwarding(&mut self, row: &Fdb) {
        if !row.mac.is_zero() {
            let is_other = |held: &Fdb| (&held.link, held.mac) != (&row.link, row.mac);
            self.state.fdb.retain(is_other);
        }
        self.state.fdb.insert(row.clone());
    }

    /// A link goes down: its neighbours go, and its routes but those to its own IPv4 addresses; its IPv6 addresses go with all of theirs
    /// (`fib_disable_ip`, `neigh_ifdown`, `addrconf_ifdown`).
    fn down(&mut self, name: &str) {
        if let Some(link) = self.state.links.get_mut(name) {
            (link.up, link.carrier) = (false, false);
        }
        self.disable_ipv6(name);
        self.state.neighbours.retain(|row| row.link != name);
        let own = self.state.addresses.iter().filter(|row| row.link == name);
        let own: Vec<IpNet> = own.map(|row| IpNet::from(row.net.addr())).collect();
        let stays = |route: &Route| route.table == TABLE_LOCAL && own.contains(&route.dst);
        self.cut(name, |route| !stays(route));
    }

    /// Everything of IPv6 on a link goes but its settings (`addrconf_ifdown`).
    fn disable_ipv6(&mut self, name: &str) {
        let state = &mut self.state;
        let is_gone = |link: &str, ip: IpAddr| link == name && ip.is_ipv6();
        let addresses = &mut state.addresses;
        addresses.retain(|row| !is_gone(&row.link, row.net.addr()));
        state.neighbours.retain(|row| !is_gone(&row.link, row.ip));
        self.cut(name, |route| route.dst.addr().is_ipv6());
    }

    fn remove_link(&mut self, name: &str) {
        let setting = name.replace('.', "/");
        let state = &mut self.state;
        state.links.remove(name);
        state.addresses.retain(|row| row.link != name);
        state.neighbours.retain(|row| row.link != name);
        state.fdb.retain(|row| row.link != name);
        let is_of = |row: &Sysctl| row.name.split('.').nth(3) == Some(&setting);
        state.sysctls.retain(|row| !is_of(row));
        self.cut(name, |_| true);
    }

    /// An address goes with the routes that came with it. With its last IPv4 address a link loses all routes and neighbours of IPv4
    /// (`fib_disable_ip`); those of IPv6 stay, also where no address of theirs is left.
    fn remove_address(&mut self, link: &str, net: IpNet) {
        if self
            .state
            .addresses
            .remove(&(link.to_owned(), net))
            .is_none()
        {
            return;
        }
        let is_ipv4 = net.addr().is_ipv4();
        let on_link = self.state.addresses.iter().filter(|row| row.link == link);
        let others: Vec<IpNet> = on_link
            .map(|row| row.net)
            .filter(|other| other.addr().is_ipv4() == is_ipv4)
            .collect();
        if is_ipv4 && others.is_empty() {
            let state = &mut self.state;
            let neighbours = &mut state.neighbours;
            neighbours.retain(|row| row.link != link || row.ip.is_ipv6());
            self.cut(link, |route| route.dst.addr().is_ipv4());
            return;
        }
        let (edge, metric) = match net {
            IpNet::V4(_) => (net.broadcast(), 0),
            IpNet::V6(_) => (net.network(), METRIC_ADDRCONF),
        };
        let mut gone = vec![(TABLE_LOCAL, IpNet::from(net.addr()), 0)];
        if others.iter().all(|other| other.trunc() != net.trunc()) {
            gone.push((TABLE_LOCAL, IpNet::from(edge), 0));
            gone.push((TABLE_MAIN, net.trunc(), metric));
        }
        self.cut(link, |route| {
            gone.contains(&(route.table, route.dst, route.metric))
        });
    }

    /// A setting of all links is handed on to each of them.
    fn write(&mut self, to: &Sysctl) {
        let held = self.state.sysctls.get(&to.name);
        if held.is_none_or(|held| held.value == to.value) {
            return;
        }
        self.set(&to.name, to.value);
        let words: Vec<&str> = to.name.split('.').collect();
        let &["net", family, "conf", place, leaf] = words.as_slice() else {
            return;
        };
        let link = place.replace('/', ".");
        match leaf {
            "forwarding" if place == "all" => {
                let names = self.state.links.iter().map(|link| link.name.clone());
                for link in names.collect::<Vec<_>>() {
                    let place = link.replace('.', "/");
                    self.set(&format!("net.{family}.conf.{place}.forwarding"), to.value);
                    if family == "ipv6" && to.value == 0 {
                        self.leave_anycast(&link);
                    }
                }
            }
            "forwarding" if family == "ipv6" && to.value == 0 => self.leave_anycast(&link),
            "disable_ipv6" if to.value != 0 => self.disable_ipv6(&link),
            _ => {}
        }
    }

    /// The node is no router of a link's subnets any more (`addrconf_leave_anycast`).
    fn leave_anycast(&mut self, link: &str) {
        let on_link = self.state.addresses.iter().filter(|row| row.link == link);
        let subnets: Vec<IpNet> = on_link
            .map(|row| row.net)
            .filter(|net| net.addr().is_ipv6() && net.prefix_len() < 127)
            .map(|net| IpNet::from(net.network()))
            .collect();
        self.cut(link, |route| {
            route.table == TABLE_LOCAL && subnets.contains(&route.dst)
        });
    }

    /// Removes the next hops over a link from some routes, and routes that have no other.
    fn cut(&mut self, link: &str, concerned: impl Fn(&Route) -> bool) {
        let routes = &mut self.state.routes;
        let crossing = |route: &&Route| route.hops.iter().any(|hop| hop.link == link);
        let crossing = routes.iter().filter(crossing);
        let crossing: Vec<Route> = crossing.filter(|route| concerned(route)).cloned().collect();
        for mut route in crossing {
            routes.remove(&(route.table, route.dst, route.metric));
            route.hops.retain(|hop| hop.link != link);
            if !route.hops.is_empty() {
                routes.insert(route);
            }
        }
    }
}
