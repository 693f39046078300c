//! What an agent keeps its node at: its NodeConfig, but for the gateways that are dead.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::api::{NodeConfigSpec, Route};
use crate::error::Problem;
use crate::liveness::paths::{Detours, End, Plan};
use crate::nodeconfig::{Further, TABLE, default_metric, desired, route_row};
use crate::plan::Hops;
use crate::reconcile::Rows;
use crate::state::{self, Family, NextHop, NodeState};
use crate::tunnel::Tunnel;

/// A NodeConfig, and which gateways are replaced now.
#[derive(Debug, Clone, Default)]
pub struct Kept {
    /// The NodeConfig.
    pub spec: NodeConfigSpec,
    /// Its routes through these lead through others.
    pub detours: Detours,
}

/// A bare node has no routes, whichever gateways are dead.
impl PartialEq for Kept {
    fn eq(&self, other: &Self) -> bool {
        let is_same = self.detours == other.detours || self.spec.is_empty();
        self.spec == other.spec && is_same
    }
}

impl From<NodeConfigSpec> for Kept {
    fn from(spec: NodeConfigSpec) -> Self {
        Self {
            spec,
            detours: Detours::default(),
        }
    }
}

impl Rows for Kept {
    fn desired(&self, observed: &NodeState) -> (NodeState, Vec<Problem>) {
        let (mut state, problems) = desired(&self.spec, observed);
        if !self.detours.is_empty() {
            self.lay_over(&mut state);
        }
        (state, problems)
    }
}

impl Kept {
    /// Has the routes through dead gateways lead through their standbys. A standby whose neighbour row is not planned is none: packets to it would be
    /// lost.
    fn lay_over(&self, state: &mut NodeState) {
        let mut rows = Vec::new();
        for route in state.routes.iter().filter(|route| route.table == TABLE) {
            let Some((tunnel, planned)) = hops_of(route) else {
                continue;
            };
            let used = self.used(tunnel, planned, state);
            if used != planned {
                rows.push(route_row(route.dst, used, tunnel.name()));
            }
        }
        let further = Further::of(&self.spec);
        for route in &self.spec.takeover {
            let Some((dst, tunnel, planned)) = direct(route, &further) else {
                continue;
            };
            let used = self.used(tunnel, planned, state);
            let is_due = self.detours.taken_over.contains(&tunnel.family());
            if is_due && used.iter().all(|via| is_neighbour((tunnel, via), state)) {
                rows.push(route_row(dst, used, tunnel.name()));
            }
        }
        // The last of two with one key would stay; the first one counts, as in a NodeConfig.
        state.routes.extend(rows.into_iter().rev());
    }

    /// The next hops in place of planned ones.
    fn used(&self, tunnel: Tunnel, planned: Hops, state: &NodeState) -> Hops {
        let used = planned.iter().map(|via| {
            let standby = self.detours.replaced.get(&(tunnel, via)).copied();
            let standby = standby.filter(|standby| is_neighbour((tunnel, *standby), state));
            standby.unwrap_or(via)
        });
        Hops::of(used).unwrap_or(planned)
    }

    /// The detours that a node's routes take already, as an earlier run of the agent left them.
    #[must_use]
    pub fn held(spec: &NodeConfigSpec, observed: &NodeState) -> Detours {
        let mut detours = Detours::default();
        if spec.gateways.is_empty() {
            return detours;
        }
        let used = |dst: IpNet| -> Option<(Tunnel, Hops)> {
            let key = (TABLE, dst, default_metric(dst));
            hops_of(observed.routes.get(&key)?)
        };
        let plan = Plan::of(spec);
        let standbys = plan.gateways.iter().filter_map(|gateway| {
            let end = (gateway.tunnel, gateway.active);
            Some((end, gateway.standby?))
        });
        let standbys: BTreeMap<End, IpAddr> = standbys.collect();
        // Who is left out while its standby is used.
        let replaced = |tunnel: Tunnel, planned: Hops, used: Hops| -> Vec<(End, IpAddr)> {
            let has = |ip: IpAddr| used.iter().any(|one| one == ip);
            let left_out = planned.iter().filter(|ip| !has(*ip));
            let pairs = left_out.filter_map(|ip| {
                let standby = *standbys.get(&(tunnel, ip))?;
                has(standby).then_some(((tunnel, ip), standby))
            });
            pairs.collect()
        };
        let further = Further::of(spec);
        for route in &spec.routes {
            if let Some((dst, tunnel, planned)) = direct(route, &further)
                && let Some((at, used)) = used(dst)
                && at == tunnel
            {
                detours.replaced.extend(replaced(tunnel, planned, used));
            }
        }
        for route in &spec.takeover {
            if let Some((dst, tunnel, planned)) = direct(route, &further)
                && let Some((at, used)) = used(dst)
                && at == tunnel
                && (planned == used || !replaced(tunnel, planned, used).is_empty())
            {
                detours.taken_over.insert(tunnel.family());
            }
        }
        detours
    }
}

fn is_neighbour((tunnel, ip): End, state: &NodeState) -> bool {
    let key = (tunnel.name().to_owned(), ip);
    state.neighbours.get(&key).is_some()
}

/// The tunnel and the next hops of a route on one; none of any other.
fn hops_of(route: &state::Route) -> Option<(Tunnel, Hops)> {
    let tunnel = Tunnel::named(&route.hops.first()?.link)?;
    let is_there = |hop: &NextHop| hop.link == tunnel.name();
    let addresses: Option<Vec<IpAddr>> = route.hops.iter().map(|hop| hop.via).collect();
    let is_one = route.hops.iter().all(is_there);
    Some((tunnel, Hops::of(addresses?)?)).filter(|_| is_one)
}

/// The prefix, the tunnel and the next hops of a route; none where it cannot be read.
fn direct(route: &Route, further: &Further<'_>) -> Option<(IpNet, Tunnel, Hops)> {
    let (dst, via): (IpNet, IpAddr) = (route.cidr.parse().ok()?, route.gw.parse().ok()?);
    let tunnel = Tunnel::named(&route.dev)?;
    let is_one = Family::of(via) == Family::of(dst.addr()) && tunnel.family() == Family::of(via);
    is_one.then(|| (dst.trunc(), tunnel, further.hops_of(route, via)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::api::GATEWAYS;
    use crate::diff::{Change, diff};
    use crate::plan::Planner;
    use crate::state::{Address, Link, LinkKind, Row};

    /// Three clusters in gateway mode: gateway, standby and one more node each.
    fn config(node: &str) -> NodeConfigSpec {
        config_with(node, ["gateway", "standby"])
    }

    /// Three clusters in gateway mode, whose first two nodes have these roles, of three each.
    fn config_with(node: &str, roles: [&str; 2]) -> NodeConfigSpec {
        let gateways = roles.iter().filter(|role| **role == "gateway").count();
        let clusters = (0..3).map(|one| {
            json!({"metadata": {"name": format!("c{one}"), "annotations": {(GATEWAYS): gateways.to_string()}},
                "spec": {"clusterLinkOptions": {"networkType": "gateway", "ipFamily": "ipv4"}},
                "status": {"clusterLinkStatus": {"podCIDRs": [format!("10.{one}.0.0/16")], "serviceCIDRs": [format!("172.16.{one}.0/24")]}}})
        });
        let nodes = (0..9).map(|place| {
            let (cluster, host) = (place / 3, place % 3);
            let roles: Vec<&str> = roles.get(host).copied().into_iter().collect();
            json!({"metadata": {"name": format!("c{cluster}-n{host}")}, "spec": {"clusterName": format!("c{cluster}"),
                "nodeName": format!("n{host}"), "ip": format!("100.64.{cluster}.{host}"), "interfaceName": "eth0", "roles": roles}})
        });
        let fleet = json!({"clusters": clusters.collect::<Vec<_>>(), "clusterNodes": nodes.collect::<Vec<_>>()});
        let fleet = serde_json::from_value(fleet).expect("a fleet");
        Planner::of(&fleet).config(node).expect("it takes part")
    }

    fn observed() -> NodeState {
        let mut state = NodeState::default();
        state.links.insert(Link {
            name: "eth0".into(),
            index: 2,
            mac: None,
            mtu: 1500,
            up: true,
            carrier: true,
            kind: LinkKind::Other {
                name: "physical".into(),
            },
            master: None,
            tx_dropped: 0,
            rx_dropped: 0,
        });
        state.addresses.insert(Address {
            link: "eth0".into(),
            net: "100.64.0.0/16".parse().expect("a prefix"),
        });
        state
    }

    fn rows(kept: &Kept) -> NodeState {
        let (state, problems) = kept.desired(&observed());
        assert!(problems.is_empty(), "{problems:?}");
        state
    }

    #[test]
    fn a_standby_that_takes_over_sends_by_itself_and_remembers_it() {
        let spec = config("c0-n1");
        let mut kept = Kept::from(spec.clone());
        let planned = rows(&kept);
        assert!(
            planned
                .routes
                .iter()
                .all(|route| route.hops[0].link == "vx-local")
        );
        kept.detours.taken_over.insert(Family::Ipv4);
        let dead = (Tunnel::Bridge, "220.64.1.0".parse().expect("an address"));
        kept.detours
            .replaced
            .insert(dead, "220.64.1.1".parse().expect("an address"));
        let state = rows(&kept);
        let via = |dst: &str| {
            let key = (TABLE, dst.parse().expect("a prefix"), 0);
            let hop = &state.routes.get(&key).expect("a route").hops[0];
            (
                hop.link.as_str(),
                hop.via.map(|ip| ip.to_string()).unwrap_or_default(),
            )
        };
        assert_eq!(via("10.1.0.0/16"), ("vx-bridge", "220.64.1.1".to_owned()));
        assert_eq!(via("10.2.0.0/16"), ("vx-bridge", "220.64.2.0".to_owned()));
        assert_eq!(
            Kept::held(&spec, &state).taken_over,
            kept.detours.taken_over
        );
        assert_eq!(Kept::held(&spec, &planned), Detours::default());
    }

    #[test]
    fn a_dead_one_of_two_gateways_is_left_out_and_remembered() {
        let spec = config_with("c0-n2", ["gateway", "gateway"]);
        let mut kept = Kept::from(spec.clone());
        let hops = |state: &NodeState| -> Vec<Vec<String>> {
            let of = |route: &state::Route| -> Vec<String> {
                let hops = route.hops.iter();
                hops.map(|hop| hop.via.expect("a next hop").to_string())
                    .collect()
            };
            state.routes.iter().map(of).collect()
        };
        let (one, two) = ("210.64.0.0", "210.64.0.1");
        let planned = rows(&kept);
        assert_eq!(hops(&planned), vec![vec![one, two]; 4]);
        // What Kosmos' agents make of it is a route through one of them.
        assert!(spec.routes.iter().all(|route| route.gw == one));
        assert_eq!(spec.routes.len(), 4);
        let dead = (Tunnel::Local, one.parse().expect("an address"));
        let other: IpAddr = two.parse().expect("an address");
        kept.detours.replaced.insert(dead, other);
        let state = rows(&kept);
        assert_eq!(hops(&state), vec![vec![two]; 4]);
        assert_eq!(Kept::held(&spec, &state), kept.detours);
        assert_eq!(Kept::held(&spec, &planned), Detours::default());
        // Settings by which both directions choose alike are wanted with the routes, and not without.
        let settings = |state: &NodeState| {
            let names = state.sysctls.iter().map(|row| row.name.as_str());
            names.filter(|name| name.contains("multipath")).count()
        };
        assert_eq!(settings(&planned), 3);
        assert_eq!(settings(&rows(&Kept::from(config("c0-n2")))), 0);
    }

    proptest! {
        /// Make before break: from any detours to any others only routes change, each by one replacement, and whoever they lead to is a neighbour already
        /// and stays one.
        #[test]
        fn going_over_replaces_routes_and_nothing_else(node in 0..9_usize, second in prop::sample::select(vec!["standby", "gateway"]), one in any::<[bool; 4]>(), other in any::<[bool; 4]>()) {
            let spec = config_with(&format!("c{}-n{}", node / 3, node % 3), ["gateway", second]);
            let plan = Plan::of(&spec);
            let with = |which: [bool; 4]| {
                let mut kept = Kept::from(spec.clone());
                for gateway in &plan.gateways {
                    let cluster: usize = gateway.cluster[1..].parse().expect("a number");
                    if let (true, Some(standby)) = (which[cluster], gateway.standby) {
                        kept.detours.replaced.insert((gateway.tunnel, gateway.active), standby);
                    }
                }
                if which[3] {
                    kept.detours.taken_over.insert(Family::Ipv4);
                }
                kept
            };
            let (before, after) = (rows(&with(one)), rows(&with(other)));
            for change in diff(&after, &before).changes {
                let Change::Replace { from: Row::Route(from), to: Row::Route(to) } = &change else {
                    panic!("{change}");
                };
                prop_assert_eq!((from.table, from.dst, from.metric), (to.table, to.dst, to.metric));
                for hop in &to.hops {
                    let key = (hop.link.clone(), hop.via.expect("a next hop"));
                    prop_assert!(before.neighbours.get(&key).is_some() && after.neighbours.get(&key).is_some(), "{}", change);
                }
            }
        }
    }
}
