//! What each node plans for itself, against what the manager writes for it: the same rows, node by node.
#![allow(missing_docs, clippy::expect_used, reason = "a test")]

#[allow(dead_code, reason = "the other suites' part of it")]
#[path = "plan/random.rs"]
mod random;

use std::collections::{BTreeMap, BTreeSet};

use datapath::api::{Fleet, NodeConfigSpec};
use datapath::control::configs::{Command, Mode, Writer};
use datapath::control::inventory::{Inventory, Kind};
use datapath::control::local::{Local, Outcome};
use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::{Value, json};

/// An object as an API gives it.
type Object = (Kind, String, Value);

fn objects(fleet: &Fleet) -> Vec<Object> {
    let clusters = fleet
        .clusters
        .iter()
        .map(|one| (Kind::Cluster, one.metadata.name.clone(), json!(one)));
    let nodes = fleet
        .cluster_nodes
        .iter()
        .map(|one| (Kind::ClusterNode, one.metadata.name.clone(), json!(one)));
    clusters.chain(nodes).collect()
}

/// What a manager writes that finds no NodeConfig.
fn written(fleet: &[Object]) -> BTreeMap<String, NodeConfigSpec> {
    let mut inventory = Inventory::default();
    for (kind, name, object) in fleet {
        inventory.set(*kind, name, object);
    }
    let mut writer = Writer::new(Mode::On, 0);
    writer.touch(&inventory.plan(), inventory.planner());
    let mut written = BTreeMap::new();
    while let Some(command) = writer.next(inventory.planner(), std::time::Duration::ZERO, |_| false)
    {
        if let Command::Put { name, spec, .. } = &command {
            written.insert(name.clone(), (**spec).clone());
        }
        writer.done(&command, Ok(()), std::time::Duration::ZERO);
    }
    written
}

fn take(locals: &mut BTreeMap<String, Local>, held: &mut BTreeMap<String, Option<NodeConfigSpec>>) {
    for (name, local) in locals {
        match local.plan() {
            Some(Outcome::Rows(spec)) => drop(held.insert(name.clone(), Some(spec))),
            Some(Outcome::NoPart) => drop(held.insert(name.clone(), None)),
            None => {}
        }
        assert_eq!(local.plan(), None, "{name}: twice");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Over a fleet that becomes another one, by changes in any order and by a list, every node holds what the manager would have written.
    #[test]
    fn every_node_plans_what_the_manager_writes(
        first in random::fleet(), second in random::fleet(), order in prop::collection::vec(any::<Index>(), 0..20), relists in any::<bool>(),
    ) {
        let (first, second) = (objects(&first), objects(&second));
        let names: BTreeSet<&String> = first.iter().chain(&second).filter(|(kind, _, _)| *kind == Kind::ClusterNode).map(|(_, name, _)| name).collect();
        let mut locals: BTreeMap<String, Local> = names.into_iter().map(|name| (name.clone(), Local::new(name))).collect();
        let mut held = BTreeMap::new();
        let listed = |objects: &[Object], of: Kind| -> BTreeSet<String> {
            objects.iter().filter(|(kind, _, _)| *kind == of).map(|(_, name, _)| name.clone()).collect()
        };
        for local in locals.values_mut() {
            for (kind, name, object) in &first {
                local.set(*kind, name, object);
            }
            for kind in [Kind::Cluster, Kind::ClusterNode] {
                local.listed(kind, &listed(&first, kind));
            }
        }
        take(&mut locals, &mut held);
        let now = written(&first);
        for name in locals.keys() {
            prop_assert_eq!(held.get(name).cloned().flatten(), now.get(name).cloned(), "{}", name);
        }
        // To the second fleet: some objects one by one, with a plan after each, and the rest at once.
        for index in &order {
            if second.is_empty() {
                break;
            }
            let (kind, name, object) = index.get(&second);
            locals.values_mut().for_each(|local| local.set(*kind, name, object));
            take(&mut locals, &mut held);
        }
        for local in locals.values_mut() {
            for (kind, name, object) in &second {
                local.set(*kind, name, object);
            }
            for kind in [Kind::Cluster, Kind::ClusterNode] {
                let names = listed(&second, kind);
                if relists {
                    local.listed(kind, &names);
                } else {
                    for name in listed(&first, kind).difference(&names) {
                        local.gone(kind, name);
                    }
                }
            }
        }
        take(&mut locals, &mut held);
        let now = written(&second);
        for name in locals.keys() {
            prop_assert_eq!(held.get(name).cloned().flatten(), now.get(name).cloned(), "{}", name);
        }
    }
}
