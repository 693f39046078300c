//! What changes between two plans, row by row.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use datapath::api::{Arp, Device, Fdb, Gateway, Iptables, Multipath, NodeConfigSpec, Route};
use datapath::plan::Planner;
use serde::Serialize;

/// NodeConfigs by the names of their ClusterNodes. All those of a large fleet do not fit into memory, so planned ones are made when
/// they are asked for.
#[derive(Debug)]
pub enum Configs {
    /// The planner's.
    Planned(Box<Planner>),
    /// Those of a file.
    Read(BTreeMap<String, NodeConfigSpec>),
}

impl Configs {
    fn names(&self) -> BTreeSet<&str> {
        match self {
            Self::Planned(planner) => planner.nodes().collect(),
            Self::Read(configs) => configs.keys().map(String::as_str).collect(),
        }
    }

    /// The NodeConfig of a node; an empty one where there is none.
    fn of(&self, name: &str) -> Cow<'_, NodeConfigSpec> {
        match self {
            Self::Planned(planner) => Cow::Owned(planner.config(name).unwrap_or_default()),
            Self::Read(configs) => configs.get(name).map_or_else(Cow::default, Cow::Borrowed),
        }
    }
}

/// What one node gains and loses. A row that changes is in both.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct NodeDiff {
    /// Rows that only the new plan has.
    #[serde(skip_serializing_if = "is_empty")]
    pub add: NodeConfigSpec,
    /// Rows that only the old plan has.
    #[serde(skip_serializing_if = "is_empty")]
    pub remove: NodeConfigSpec,
}

/// One entry per node that changes, sorted by name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct PlanDiff(pub BTreeMap<String, NodeDiff>);

impl PlanDiff {
    /// Compares as sets: the order of rows means nothing.
    #[must_use]
    pub fn between(old: &Configs, new: &Configs) -> Self {
        let mut changed = BTreeMap::new();
        for name in old.names().union(&new.names()) {
            let (before, after) = (old.of(name), new.of(name));
            let diff = NodeDiff {
                add: without(&after, &before),
                remove: without(&before, &after),
            };
            if diff != NodeDiff::default() {
                changed.insert((*name).to_owned(), diff);
            }
        }
        Self(changed)
    }
}

/// One line a row: `- node row` before `+ node row`, nodes by name.
impl fmt::Display for PlanDiff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, diff) in &self.0 {
            for (sign, spec) in [('-', &diff.remove), ('+', &diff.add)] {
                for row in rows(spec) {
                    writeln!(f, "{sign} {name} {row}")?;
                }
            }
        }
        Ok(())
    }
}

fn is_empty(spec: &NodeConfigSpec) -> bool {
    *spec == NodeConfigSpec::default()
}

fn without(keep: &NodeConfigSpec, drop: &NodeConfigSpec) -> NodeConfigSpec {
    fn minus<T: Clone + Ord>(keep: &[T], drop: &[T]) -> Vec<T> {
        let drop: std::collections::BTreeSet<&T> = drop.iter().collect();
        keep.iter()
            .filter(|row| !drop.contains(row))
            .cloned()
            .collect()
    }
    NodeConfigSpec {
        devices: minus(&keep.devices, &drop.devices),
        routes: minus(&keep.routes, &drop.routes),
        iptables: minus(&keep.iptables, &drop.iptables),
        fdbs: minus(&keep.fdbs, &drop.fdbs),
        arps: minus(&keep.arps, &drop.arps),
        gateways: minus(&keep.gateways, &drop.gateways),
        takeover: minus(&keep.takeover, &drop.takeover),
        multipath: minus(&keep.multipath, &drop.multipath),
    }
}

fn rows(spec: &NodeConfigSpec) -> Vec<String> {
    let device = |row: &Device| {
        let Device {
            name,
            addr,
            mac,
            bind_dev,
            id,
            port,
            ..
        } = row;
        format!("device {name} {addr} mac {mac} on {bind_dev} vni {id} port {port}")
    };
    let route = |Route { cidr, gw, dev }: &Route| format!("route {cidr} via {gw} dev {dev}");
    let nat =
        |Iptables { table, chain, rule }: &Iptables| format!("iptables {table} {chain} {rule}");
    let fdb = |Fdb { ip, mac, dev }: &Fdb| format!("fdb {mac} dst {ip} dev {dev}");
    let arp = |Arp { ip, mac, dev }: &Arp| format!("arp {ip} mac {mac} dev {dev}");
    let gateway = |row: &Gateway| {
        let Gateway {
            dev,
            active,
            standby,
            cluster,
        } = row;
        format!("gateway {active} standby {standby} of {cluster} dev {dev}")
    };
    let takeover = |row: &Route| format!("standing in: {}", route(row));
    let mut rows: Vec<String> = Vec::new();
    rows.extend(spec.devices.iter().map(device));
    rows.extend(spec.routes.iter().map(route));
    rows.extend(spec.iptables.iter().map(nat));
    rows.extend(spec.fdbs.iter().map(fdb));
    rows.extend(spec.arps.iter().map(arp));
    rows.extend(spec.gateways.iter().map(gateway));
    rows.extend(spec.takeover.iter().map(takeover));
    let further = |row: &Multipath| {
        let Multipath { cidr, gw, dev, via } = row;
        format!("route {cidr} via {gw} dev {dev}: also via {via}")
    };
    rows.extend(spec.multipath.iter().map(further));
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    fn configs(routes: &[(&str, &str)]) -> Configs {
        let mut configs: BTreeMap<String, NodeConfigSpec> = BTreeMap::new();
        for (node, cidr) in routes {
            let route = Route {
                cidr: (*cidr).to_owned(),
                gw: "220.64.0.3".to_owned(),
                dev: "vx-bridge".to_owned(),
            };
            configs
                .entry((*node).to_owned())
                .or_default()
                .routes
                .push(route);
        }
        Configs::Read(configs)
    }

    #[test]
    fn equal_plans_differ_in_nothing() {
        let one = configs(&[("a-n1", "10.1.0.0/16"), ("a-n1", "10.2.0.0/16")]);
        let other = configs(&[("a-n1", "10.2.0.0/16"), ("a-n1", "10.1.0.0/16")]);
        assert_eq!(PlanDiff::between(&one, &other), PlanDiff::default());
    }

    #[test]
    fn rows_come_and_go_with_their_nodes() {
        let old = configs(&[("a-n1", "10.1.0.0/16"), ("b-n1", "10.2.0.0/16")]);
        let new = configs(&[("a-n1", "10.3.0.0/16"), ("c-n1", "10.2.0.0/16")]);
        let diff = PlanDiff::between(&old, &new);
        assert_eq!(
            diff.to_string(),
            "- a-n1 route 10.1.0.0/16 via 220.64.0.3 dev vx-bridge\n\
             + a-n1 route 10.3.0.0/16 via 220.64.0.3 dev vx-bridge\n\
             - b-n1 route 10.2.0.0/16 via 220.64.0.3 dev vx-bridge\n\
             + c-n1 route 10.2.0.0/16 via 220.64.0.3 dev vx-bridge\n"
        );
        let json = serde_json::to_value(&diff).expect("plain data");
        assert_eq!(json["a-n1"]["add"]["routes"][0]["cidr"], "10.3.0.0/16");
        assert!(json["c-n1"].get("remove").is_none());
    }
}
