//! A cluster that leaves: its nodes are told to give up their rows, and its objects go when they have.

use std::time::Duration;

use datapath::api::ROWS_FINALIZER;
use datapath::control::leaving::REMOVED;
use serde_json::{Value, json};
use simulator::apiserver::Resource;

use super::fleet::{cluster, condition, node, planned, rows};
use super::process::Program;
use super::world::{CONTROL, World};

/// Has a cluster say that it wants to know when its nodes are bare.
pub(crate) fn hold(world: &World, name: &str) {
    let store = world.store(CONTROL);
    let hold = |object: &mut Value| object["metadata"]["finalizers"] = json!([ROWS_FINALIZER]);
    store.put(Resource::CLUSTERS, None, name, hold).unwrap();
}

/// What an agent writes that holds its rows.
fn confirm(world: &World, name: &str) {
    let store = world.store(CONTROL);
    let change = |object: &mut Value| {
        object["status"] = json!({"observedGeneration": object["metadata"]["generation"], "conditions": [
            {"type": "Applied", "status": "True", "reason": "Applied", "lastTransitionTime": "2027-01-01T00:00:00Z"}]});
    };
    store
        .put(Resource::NODE_CONFIGS, None, name, change)
        .unwrap();
}

/// Two clusters of two nodes, planned.
fn fleet(members: &[&str]) -> (World, Vec<Program>) {
    let world = World::new(members);
    let mut programs = vec![Program::start("manager", &world.as_manager())];
    for (net, name) in (1..).zip(members) {
        cluster(&world, name, "p2p");
        hold(&world, name);
        for host in [1, 2] {
            node(&world, name, &format!("n{host}"), net, host);
        }
        programs.push(Program::start("controller", &world.as_member(name)));
    }
    world.until(
        CONTROL,
        Resource::NODE_CONFIGS,
        "the planned NodeConfigs",
        |configs| {
            let planned = planned(&world);
            let is_linked = planned.values().all(|spec| !spec.routes.is_empty());
            (planned.len() == 4 && is_linked && rows(configs) == planned).then_some(())
        },
    );
    (world, programs)
}

/// Waits until the NodeConfigs of cluster `a` are without rows, and those of `b` without rows to `a`.
fn is_bare(world: &World) {
    world.until(
        CONTROL,
        Resource::NODE_CONFIGS,
        "NodeConfigs without rows",
        |configs| {
            let rows = rows(configs);
            let is_bare = |name: &str| rows.get(name).is_some_and(|spec| spec.is_empty());
            let is_alone = |name: &str| {
                rows.get(name)
                    .is_some_and(|spec| spec.routes.is_empty() && !spec.devices.is_empty())
            };
            (is_bare("a-n1") && is_bare("a-n2") && is_alone("b-n1")).then_some(())
        },
    );
}

#[test]
fn a_cluster_that_is_deleted_goes_when_its_nodes_are_bare() {
    let (world, mut programs) = fleet(&["a", "b"]);
    let store = world.store(CONTROL);
    store.delete(Resource::CLUSTERS, None, "a").unwrap();
    is_bare(&world);
    confirm(&world, "a-n1");
    // The other one has not said anything, so that everything stays.
    let (found, _) = world.until(
        CONTROL,
        Resource::CLUSTERS,
        "a word about the wait",
        |clusters| condition(&clusters["a"], REMOVED),
    );
    assert_eq!(found, ("False".to_owned(), "Waiting".to_owned()));
    assert_eq!(world.objects(CONTROL, Resource::CLUSTER_NODES).len(), 4);
    confirm(&world, "a-n2");
    world.until(
        CONTROL,
        Resource::CLUSTERS,
        "the cluster's end",
        |clusters| (!clusters.contains_key("a")).then_some(()),
    );
    let names =
        |resource| -> Vec<String> { world.objects(CONTROL, resource).into_keys().collect() };
    assert_eq!(names(Resource::CLUSTER_NODES), ["b-n1", "b-n2"]);
    assert_eq!(names(Resource::NODE_CONFIGS), ["b-n1", "b-n2"]);
    // Its controller still runs, and makes nothing of a Node that comes.
    node(&world, "a", "n3", 1, 3);
    std::thread::sleep(Duration::from_secs(4));
    assert_eq!(names(Resource::CLUSTER_NODES), ["b-n1", "b-n2"]);
    // It may come again.
    cluster(&world, "a", "p2p");
    world.until(
        CONTROL,
        Resource::CLUSTER_NODES,
        "its ClusterNodes",
        |nodes| (nodes.len() == 5).then_some(()),
    );
    for program in &mut programs {
        program.end();
    }
}

#[test]
fn a_cluster_that_is_switched_off_is_bare_too_and_may_come_back() {
    let (world, _programs) = fleet(&["a", "b"]);
    let store = world.store(CONTROL);
    let switch = |is_on: bool| {
        let change = |object: &mut Value| {
            object["spec"]["clusterLinkOptions"]["enable"] = json!(is_on);
            object["metadata"]["finalizers"] = json!([ROWS_FINALIZER, "example.org/other"]);
        };
        store.put(Resource::CLUSTERS, None, "a", change).unwrap();
    };
    switch(false);
    is_bare(&world);
    // Before its nodes have confirmed it changes its mind.
    switch(true);
    world.until(
        CONTROL,
        Resource::NODE_CONFIGS,
        "its rows again",
        |configs| (rows(configs) == planned(&world)).then_some(()),
    );
    switch(false);
    is_bare(&world);
    confirm(&world, "a-n1");
    confirm(&world, "a-n2");
    world.until(CONTROL, Resource::CLUSTERS, "its release", |clusters| {
        let is_told = condition(&clusters["a"], REMOVED) == Some(("True".into(), "Removed".into()));
        let others = json!(["example.org/other"]);
        (is_told && clusters["a"]["metadata"]["finalizers"] == others).then_some(())
    });
    assert_eq!(world.objects(CONTROL, Resource::CLUSTER_NODES).len(), 2);
    switch(true);
    world.until(
        CONTROL,
        Resource::CLUSTERS,
        "a word about its return",
        |clusters| (condition(&clusters["a"], REMOVED)?.1 == "TakesPart").then_some(()),
    );
    world.until(
        CONTROL,
        Resource::CLUSTER_NODES,
        "its ClusterNodes",
        |nodes| (nodes.len() == 4).then_some(()),
    );
}

#[test]
fn a_node_that_says_nothing_holds_nobody_up_for_longer_than_a_minute() {
    let (world, _programs) = fleet(&["a", "b"]);
    world
        .store(CONTROL)
        .delete(Resource::CLUSTERS, None, "a")
        .unwrap();
    is_bare(&world);
    confirm(&world, "a-n2");
    std::thread::sleep(Duration::from_secs(50));
    assert!(
        world.objects(CONTROL, Resource::CLUSTERS).contains_key("a"),
        "it waits"
    );
    world.until(
        CONTROL,
        Resource::CLUSTERS,
        "the cluster's end",
        |clusters| (!clusters.contains_key("a")).then_some(()),
    );
    let (message, _) = world.until(
        CONTROL,
        Resource::EVENTS,
        "an Event about the silent node",
        |events| {
            let told = events
                .values()
                .find(|event| event["reason"] == "NotConfirmed")?;
            told["message"].as_str().map(str::to_owned)
        },
    );
    assert!(
        message.contains("1 of 2 nodes") && message.ends_with("a-n1"),
        "{message}"
    );
    assert_eq!(world.objects(CONTROL, Resource::CLUSTER_NODES).len(), 2);
}
