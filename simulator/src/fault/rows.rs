//! The rows of a path to another cluster, and those that all paths share, wrong or gone.

use std::net::IpAddr;

use datapath::diff::Change;
use datapath::mac::Mac;
use datapath::nodeconfig::{PRIORITY, TABLE};
use datapath::state::{
    Family, Fdb, Nat, Neighbour, NeighbourState, NextHop, NodeState, Route, RouteKind, Row,
    RuleAction,
};
use ipnet::IpNet;

use super::links::{UNDERLAY, nobody};
use super::{Victim, refused};
use crate::Error;
use crate::topology::Cluster;

/// A MAC that nobody has.
const STALE: Mac = Mac([0x02, 0xde, 0xad, 0xbe, 0xef, 0x01]);

/// The rows by which a node reaches a peer's pods.
pub(super) struct Path {
    route: Route,
    neighbour: Neighbour,
    forwarding: Fdb,
    /// The flood row to the same place, where there is one.
    flood: Option<Fdb>,
}

/// How a node reaches the pods of a peer, by its tables; IPv4 where it does.
pub(super) fn path(victim: &Victim<'_>, peer: &Cluster, node: Option<&str>) -> Result<Path, Error> {
    let state = victim.state;
    let targets: Vec<_> = match node {
        Some(node) => peer
            .nodes
            .iter()
            .filter(|known| known.name == node)
            .flat_map(|known| known.pod_cidrs.clone())
            .collect(),
        None => peer.pod_cidrs.clone(),
    };
    let routes = state.routes.iter().filter(|route| {
        let near = |target: &IpNet| target.contains(&route.dst) || route.dst.contains(target);
        let mapped = peer
            .global_cidrs_map
            .values()
            .any(|global| global.parse().is_ok_and(|global: IpNet| near(&global)));
        route.table == TABLE && (targets.iter().any(near) || mapped)
    });
    let mut paths: Vec<Path> = routes.filter_map(|route| path_of(state, route)).collect();
    paths.sort_by_key(|path| (path.neighbour.ip.is_ipv6(), path.route.dst));
    match paths.into_iter().next() {
        Some(path) => Ok(path),
        None => refused(format!(
            "the path from {} to {} is already broken: clear the earlier fault first",
            victim.place(),
            peer.name
        )),
    }
}

fn path_of(state: &NodeState, route: &Route) -> Option<Path> {
    let hop = route.hops.first()?;
    let neighbour = state.neighbours.get(&(hop.link.clone(), hop.via?))?;
    let mac = neighbour.mac?;
    let on_link = |wanted: Mac| {
        let rows = state.fdb.iter();
        rows.filter(move |row| row.mac == wanted && row.dst.is_some())
            .filter(|row| row.link == hop.link)
    };
    let forwarding = on_link(mac).next()?;
    let flood = on_link(Mac::ZERO).find(|row| row.dst == forwarding.dst);
    Some(Path {
        route: route.clone(),
        neighbour: neighbour.clone(),
        forwarding: forwarding.clone(),
        flood: flood.cloned(),
    })
}

impl Path {
    /// The peer's underlay address.
    pub(super) fn remote(&self) -> Option<IpAddr> {
        self.forwarding.dst
    }

    pub(super) fn without_forwarding(self) -> Vec<Change> {
        let rows = [self.forwarding].into_iter().chain(self.flood);
        rows.map(|row| Change::Remove(Row::Fdb(row))).collect()
    }

    pub(super) fn forwarding_astray(self) -> Vec<Change> {
        let to = Fdb {
            dst: self.forwarding.dst.map(nobody),
            ..self.forwarding.clone()
        };
        vec![Change::Replace {
            from: Row::Fdb(self.forwarding),
            to: Row::Fdb(to),
        }]
    }

    pub(super) fn without_neighbour(self) -> Vec<Change> {
        vec![Change::Remove(Row::Neighbour(self.neighbour))]
    }

    pub(super) fn neighbour_astray(self) -> Vec<Change> {
        let to = Neighbour {
            mac: Some(STALE),
            state: NeighbourState::Permanent,
            ..self.neighbour.clone()
        };
        vec![Change::Replace {
            from: Row::Neighbour(self.neighbour),
            to: Row::Neighbour(to),
        }]
    }

    pub(super) fn without_route(self) -> Vec<Change> {
        vec![Change::Remove(Row::Route(self.route))]
    }

    pub(super) fn route_to_nowhere(self) -> Vec<Change> {
        let to = Route {
            kind: RouteKind::Blackhole,
            hops: Vec::new(),
            ..self.route.clone()
        };
        vec![Change::Replace {
            from: Row::Route(self.route),
            to: Row::Route(to),
        }]
    }

    /// Over the underlay, to whose router the pods of other clusters are unknown.
    pub(super) fn route_astray(self, victim: &Victim<'_>) -> Result<Vec<Change>, Error> {
        let family = Family::of(self.neighbour.ip);
        let router = |ip: &&IpAddr| Family::of(**ip) == family;
        let Some(router) = victim.routers.iter().find(router) else {
            return refused(format!("{} has no router", victim.place()));
        };
        let hop = NextHop {
            via: Some(*router),
            link: UNDERLAY.to_owned(),
            onlink: true,
            weight: 1,
            dead: false,
        };
        let to = Route {
            hops: vec![hop],
            ..self.route.clone()
        };
        Ok(vec![Change::Replace {
            from: Row::Route(self.route),
            to: Row::Route(to),
        }])
    }
}

/// The rule that asks the datapath's table.
pub(super) fn without_rule(victim: &Victim<'_>) -> Result<Vec<Change>, Error> {
    let family = victim.family();
    let mut rules = victim.state.rules.iter();
    let rule = rules.find(|row| {
        row.family == family && row.priority == PRIORITY && row.action == RuleAction::Lookup(TABLE)
    });
    match rule {
        Some(rule) => Ok(vec![Change::Remove(Row::Rule(rule.clone()))]),
        None => refused(format!(
            "{} has no rule for table {TABLE}: clear the earlier fault first",
            victim.place()
        )),
    }
}

/// One translation: of pods' global names where there are any, which nothing else carries, else of the hosts' own addresses.
pub(super) fn without_translation(victim: &Victim<'_>) -> Result<Vec<Change>, Error> {
    let rank = |row: &&Nat| match row {
        Nat::Netmap { .. } => 0,
        Nat::Snat { .. } => 1,
        Nat::Masquerade { .. } => 2,
    };
    match victim.state.nat.iter().min_by_key(rank) {
        Some(row) => Ok(vec![Change::Remove(Row::Nat(row.clone()))]),
        None => refused(format!(
            "{} translates no addresses: the gateway of a cluster in gateway mode does, and nodes of a cluster with global prefixes",
            victim.place()
        )),
    }
}
