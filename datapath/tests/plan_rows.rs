//! Rows as the planner gives them, against the same by way of a NodeConfig; and a planner that takes changes, against one that reads
//! their result.
#![allow(missing_docs, clippy::expect_used, reason = "a test")]

#[path = "plan/random.rs"]
mod random;

use std::collections::BTreeSet;

use datapath::api::{Cluster, ClusterNode, Fleet, NodeConfig, NodeConfigSpec};
use datapath::error::ProblemKind;
use datapath::nodeconfig::desired;
use datapath::plan::{Applied, Change, Planner, Row, plan};
use datapath::state::{self, NodeState};
use proptest::prelude::*;

fn rows_of(planner: &Planner, node: &str) -> BTreeSet<Row> {
    let rows: Vec<Row> = planner.rows(node).into_iter().flatten().collect();
    let set: BTreeSet<Row> = rows.iter().copied().collect();
    assert_eq!(
        rows.len(),
        set.len(),
        "{node}: a row stands twice: {rows:?}"
    );
    set
}

fn all_of(state: &NodeState) -> Vec<state::Row> {
    let mut rows: Vec<state::Row> = Vec::new();
    rows.extend(state.neighbours.iter().cloned().map(state::Row::Neighbour));
    rows.extend(state.fdb.iter().cloned().map(state::Row::Fdb));
    rows.extend(state.routes.iter().cloned().map(state::Row::Route));
    rows.extend(state.nat.iter().cloned().map(state::Row::Nat));
    rows
}

/// Sets or removes one object of a fleet, in the order of names.
fn change(fleet: &mut Fleet, change: &Change) {
    fn put<T>(list: &mut Vec<T>, name: &str, name_of: impl Fn(&T) -> String, object: Option<T>) {
        list.retain(|held| name_of(held) != name);
        list.extend(object);
        list.sort_by_key(|held| name_of(held));
    }
    let cluster = |object: &Cluster| object.metadata.name.clone();
    let node = |object: &ClusterNode| object.metadata.name.clone();
    let config = |object: &NodeConfig| object.metadata.name.clone();
    match change.clone() {
        Change::ClusterNodeRemoved(name) => put(&mut fleet.cluster_nodes, &name, node, None),
        Change::ClusterNodeSet(object) => {
            put(&mut fleet.cluster_nodes, &node(&object), node, Some(object));
        }
        Change::ClusterRemoved(name) => put(&mut fleet.clusters, &name, cluster, None),
        Change::ClusterSet(object) => {
            put(
                &mut fleet.clusters,
                &cluster(&object),
                cluster,
                Some(object),
            );
        }
        Change::NodeConfigRemoved(name) => put(&mut fleet.node_configs, &name, config, None),
        Change::NodeConfigSet(object) => {
            put(
                &mut fleet.node_configs,
                &config(&object),
                config,
                Some(object),
            );
        }
    }
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let name = (
        proptest::sample::select(random::CLUSTERS),
        proptest::sample::select(random::NODES),
    )
        .prop_map(|(cluster, node)| format!("{cluster}-{node}"));
    let cluster = proptest::sample::select(random::CLUSTERS).prop_map(str::to_owned);
    let one = prop_oneof![
        name.clone().prop_map(Change::ClusterNodeRemoved),
        random::node().prop_map(Change::ClusterNodeSet),
        random::node().prop_map(Change::ClusterNodeSet),
        // A node that another cluster claims.
        (name.clone(), random::node()).prop_map(|(name, mut node)| {
            node.metadata.name = name;
            Change::ClusterNodeSet(node)
        }),
        cluster.prop_map(Change::ClusterRemoved),
        random::cluster().prop_map(Change::ClusterSet),
        random::cluster().prop_map(Change::ClusterSet),
        name.prop_map(Change::NodeConfigRemoved),
        random::lender().prop_map(Change::NodeConfigSet),
    ];
    proptest::collection::vec(one, 1..12)
}

/// What a change says of itself against the rows before and after it.
fn assert_told(before: &Planner, after: &Planner, applied: &Applied) {
    let names: BTreeSet<&str> = before.nodes().chain(after.nodes()).collect();
    for name in names {
        if applied.nodes.contains(name) {
            continue;
        }
        let view = before.view(name).expect("neither new nor gone");
        assert_eq!(Some(&view), after.view(name).as_ref());
        assert_eq!(before.own_rows(name), after.own_rows(name));
        assert!(
            before
                .devices(name)
                .into_iter()
                .flatten()
                .eq(after.devices(name).into_iter().flatten())
        );
        let (old, new) = (rows_of(before, name), rows_of(after, name));
        let is_contested = applied.bundles.iter().any(|bundle| bundle.is_contested);
        if is_contested {
            continue;
        }
        let mut expected = old;
        for bundle in &applied.bundles {
            for row in bundle.before.iter().flat_map(|bundle| bundle.rows(&view)) {
                expected.remove(&row);
            }
        }
        for bundle in &applied.bundles {
            expected.extend(bundle.after.iter().flat_map(|bundle| bundle.rows(&view)));
        }
        assert_eq!(expected, new, "{name}");
    }
}

fn configs(planner: &Planner) -> Vec<(String, NodeConfigSpec)> {
    planner
        .nodes()
        .map(|name| (name.to_owned(), planner.config(name).expect("a node")))
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn rows_are_those_of_the_node_config(fleet in random::fleet(), has_ipv6 in any::<bool>()) {
        let planner = Planner::of(&fleet);
        let addresses: &[&str] = if has_ipv6 {
            &["100.64.0.1/16", "fd64::1/64"]
        } else {
            &["100.64.0.1/16"]
        };
        let bare = random::bare(addresses);
        for name in planner.nodes() {
            let config = planner.config(name).expect("a node");
            let (by_text, problems) = desired(&config, &bare);
            let (by_rows, refused) = planner.desired(name, &bare).expect("a node");
            prop_assert_eq!(&by_text, &by_rows, "{}", name);
            // What stands twice, or on a tunnel that the node has not, is no row of the plan to begin with.
            for problem in refused {
                prop_assert!(problems.contains(&problem) , "{}", problem);
            }
            let is_whole = problems.iter().all(|problem| problem.kind == ProblemKind::Repeated);
            if is_whole {
                let planned: Vec<state::Row> = rows_of(&planner, name).into_iter().map(Into::into).collect();
                let held = all_of(&by_rows);
                prop_assert_eq!(planned.len(), held.len());
                for row in planned {
                    prop_assert!(held.contains(&row), "{:?}", row);
                }
            }
        }
    }

    #[test]
    fn changes_come_to_the_same_as_their_result(fleet in random::fleet(), changes in changes()) {
        let mut fleet = fleet;
        let mut planner = Planner::of(&fleet);
        for one in changes {
            let before = planner.clone();
            let applied = planner.apply(one.clone());
            assert_told(&before, &planner, &applied);
            prop_assert_eq!(planner.apply(one.clone()), Applied::default(), "a second time");
            change(&mut fleet, &one);
            let fresh = Planner::of(&fleet);
            prop_assert_eq!(configs(&planner), configs(&fresh));
            for name in fresh.nodes() {
                prop_assert_eq!(rows_of(&planner, name), rows_of(&fresh, name));
            }
            prop_assert_eq!(planner.objections(), fresh.objections());
        }
    }

    #[test]
    fn configs_are_written_one_after_the_other_as_they_would_be_at_once(fleet in random::fleet()) {
        let planner = Planner::of(&fleet);
        prop_assert_eq!(
            serde_json::to_string_pretty(&planner.configs()).expect("plain text"),
            serde_json::to_string_pretty(&plan(&fleet).configs).expect("plain text")
        );
    }
}
