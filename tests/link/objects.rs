//! What the programs make of a fleet's objects, what they leave alone, and that they then are at rest.

use std::collections::BTreeMap;
use std::time::Duration;

use datapath::control::conditions::{PLANNED, PREFIXES, WRITTEN};
use serde_json::{Value, json};
use simulator::apiserver::Resource;

use super::fleet::{cluster, condition, node, planned, rows};
use super::process::Program;
use super::world::{CONTROL, World};

/// Longer than any program waits before it tries something again.
const REST: Duration = Duration::from_secs(4);

/// The objects of the control plane that carry what is decided, as they are.
fn everything(world: &World) -> BTreeMap<String, Value> {
    let kinds = [
        Resource::CLUSTERS,
        Resource::CLUSTER_NODES,
        Resource::NODE_CONFIGS,
        Resource::EVENTS,
    ];
    let all = kinds.map(|kind| {
        world
            .objects(CONTROL, kind)
            .into_iter()
            .map(move |(name, object)| (format!("{} {name}", kind.plural), object))
    });
    all.into_iter().flatten().collect()
}

fn is_planned(object: &Value) -> bool {
    condition(object, PLANNED).is_some_and(|(status, _)| status == "True")
}

/// Waits until the manager has written the NodeConfigs of the objects as they are.
#[track_caller]
fn settled(world: &World, count: usize) {
    world.until(
        CONTROL,
        Resource::NODE_CONFIGS,
        "the planned NodeConfigs",
        |configs| {
            let planned = planned(world);
            (planned.len() == count && rows(configs) == planned).then_some(())
        },
    );
}

#[test]
fn a_fleet_is_made_of_its_nodes_and_a_slip_harms_only_itself() {
    let world = World::new(&["a", "b"]);
    cluster(&world, "a", "gateway");
    cluster(&world, "b", "p2p");
    for host in [1, 2, 3] {
        node(&world, "a", &format!("n{host}"), 1, host);
    }
    node(&world, "b", "n1", 2, 1);
    // One cluster says which addresses its services have, the other one only refuses.
    let service_cidr =
        json!({"metadata": {"name": "kubernetes"}, "spec": {"cidrs": ["10.200.0.0/16"]}});
    world
        .store("a")
        .create(Resource::SERVICE_CIDRS, None, service_cidr)
        .unwrap();
    let manager = world.as_manager();
    let managers = [0, 1].map(|_| Program::start("manager", &manager));
    let (in_a, in_b) = (world.as_member("a"), world.as_member("b"));
    let controllers = [&in_a, &in_b].map(|arguments| Program::start("controller", arguments));

    // Whichever ClusterNode was made first: nobody moves a gateway because of a name.
    let (gateway, _) = world.until(
        CONTROL,
        Resource::CLUSTER_NODES,
        "a gateway in each cluster",
        |nodes| {
            let is_gateway = |name: &&str| {
                let node = nodes.get(*name);
                node.is_some_and(|node| node["spec"]["roles"] == json!(["gateway"]))
            };
            let gateway = ["a-n1", "a-n2", "a-n3"].into_iter().find(is_gateway);
            gateway.filter(|_| nodes.len() == 4 && is_gateway(&"b-n1"))
        },
    );
    let other = if gateway == "a-n2" { "a-n3" } else { "a-n2" };
    world.until(
        CONTROL,
        Resource::CLUSTERS,
        "prefixes and conditions",
        |clusters| {
            let status = |name: &str| &clusters[name]["status"]["clusterLinkStatus"];
            let has = |name: &str, pods: Value, services: Value| {
                status(name)["podCIDRs"] == pods && status(name)["serviceCIDRs"] == services
            };
            let is_well = |object: &Value| {
                [PLANNED, PREFIXES, WRITTEN]
                    .iter()
                    .all(|kind| condition(object, kind).is_some_and(|(status, _)| status == "True"))
            };
            (has(
                "a",
                json!(["10.1.1.0/24", "10.1.2.0/23"]),
                json!(["10.200.0.0/16"]),
            ) && has("b", json!(["10.2.1.0/24"]), json!(["10.96.0.0/12"]))
                && clusters.values().all(is_well))
            .then_some(())
        },
    );
    settled(&world, 4);
    world.until(
        CONTROL,
        Resource::CLUSTER_NODES,
        "conditions of all nodes",
        |nodes| nodes.values().all(is_planned).then_some(()),
    );
    for program in managers.iter().chain(&controllers) {
        assert_eq!(program.ask("/readyz").0, 200);
        assert_eq!(program.ask("/healthz").0, 200);
        assert_eq!(program.ask("/elsewhere").0, 404);
    }

    // At rest nobody writes, and the manager that does not lead never did.
    let before = everything(&world);
    let wrote = managers.each_ref().map(Program::writes);
    assert!(
        wrote.iter().filter(|count| **count == 0.0).count() == 1,
        "{wrote:?}"
    );
    let leaders = managers
        .iter()
        .filter(|one| one.leads("network-manager"))
        .count();
    assert_eq!(leaders, 1);
    std::thread::sleep(REST);
    assert_eq!(everything(&world), before);
    assert_eq!(managers.each_ref().map(Program::writes), wrote);

    // Somebody's slip: the object says so, and nothing else changes.
    let store = world.store(CONTROL);
    store
        .put(Resource::CLUSTER_NODES, None, other, |object| {
            object["spec"]["roles"] = json!(7)
        })
        .unwrap();
    world.until(
        CONTROL,
        Resource::CLUSTER_NODES,
        "the word about the slip",
        |nodes| {
            let said = condition(&nodes[other], PLANNED)?;
            (said == ("False".to_owned(), "Malformed".to_owned())).then_some(())
        },
    );
    world.until(
        CONTROL,
        Resource::EVENTS,
        "the Event about the slip",
        |events| {
            let about = |event: &Value| {
                event["involvedObject"]["name"] == other
                    && event["reason"] == "Malformed"
                    && event["type"] == "Warning"
            };
            events.values().any(about).then_some(())
        },
    );
    std::thread::sleep(REST);
    let mut after = everything(&world);
    let mut harmed: Vec<String> = after
        .iter()
        .filter(|(key, object)| before.get(*key) != Some(*object))
        .map(|(key, _)| key.clone())
        .collect();
    harmed.retain(|key| !key.starts_with("events "));
    assert_eq!(harmed, [format!("clusternodes {other}")]);
    store
        .put(Resource::CLUSTER_NODES, None, other, |object| {
            object["spec"]["roles"] = json!([])
        })
        .unwrap();
    world.until(
        CONTROL,
        Resource::CLUSTER_NODES,
        "the end of the slip",
        |nodes| is_planned(&nodes[other]).then_some(()),
    );

    // A Cluster without a spec is not one that takes no part.
    after = world.objects(CONTROL, Resource::NODE_CONFIGS);
    let spec = store.get(Resource::CLUSTERS, None, "b").unwrap()["spec"].clone();
    store
        .put(Resource::CLUSTERS, None, "b", |object| {
            drop(object.as_object_mut().unwrap().shift_remove("spec"))
        })
        .unwrap();
    world.until(
        CONTROL,
        Resource::CLUSTERS,
        "the word about the spec",
        |clusters| (condition(&clusters["b"], PLANNED)?.1 == "Malformed").then_some(()),
    );
    assert_eq!(world.objects(CONTROL, Resource::NODE_CONFIGS), after);
    store
        .put(Resource::CLUSTERS, None, "b", |object| {
            object["spec"] = spec.clone()
        })
        .unwrap();

    // What somebody spoils of a NodeConfig is mended.
    store
        .put(Resource::NODE_CONFIGS, None, "b-n1", |object| {
            object["spec"]["routes"] = json!([])
        })
        .unwrap();
    settled(&world, 4);

    // The gateway's node is not ready any more: another one takes over. Then it goes away: so do its objects, and nobody else's.
    let gateway_node = gateway.trim_start_matches("a-");
    let member = world.store("a");
    member
        .put(Resource::NODES, None, gateway_node, |object| {
            object["status"]["conditions"][0]["status"] = json!("Unknown")
        })
        .unwrap();
    world.until(
        CONTROL,
        Resource::CLUSTER_NODES,
        "another gateway",
        |nodes| {
            let of_a = nodes.iter().filter(|(name, _)| name.starts_with("a-"));
            let gateways: Vec<&String> = of_a
                .filter(|(_, node)| node["spec"]["roles"] == json!(["gateway"]))
                .map(|(name, _)| name)
                .collect();
            (gateways.len() == 1 && gateways[0] != gateway).then_some(())
        },
    );
    let stray = json!({"metadata": {"name": "a-stray", "labels": {"kosmos.io/cluster": "a"}}, "spec": {"clusterName": "z", "nodeName": "stray"}});
    store.create(Resource::CLUSTER_NODES, None, stray).unwrap();
    member.delete(Resource::NODES, None, gateway_node).unwrap();
    world.until(
        CONTROL,
        Resource::CLUSTER_NODES,
        "the end of the node",
        |nodes| (!nodes.contains_key(gateway)).then_some(()),
    );
    assert!(
        world
            .objects(CONTROL, Resource::CLUSTER_NODES)
            .contains_key("a-stray")
    );
    settled(&world, 3);
}

#[test]
fn a_nodeconfig_that_does_not_fit_is_told_and_its_former_one_stays() {
    let world = World::new(&["a"]);
    cluster(&world, "a", "p2p");
    cluster(&world, "b", "p2p");
    let store = world.store(CONTROL);
    super::fleet::cluster_node(store, "a", "n1", 1, 1);
    let manager = [
        world.as_manager(),
        vec!["--node-config-limit".to_owned(), "1000".to_owned()],
    ]
    .concat();
    let manager = Program::start("manager", &manager);
    settled(&world, 1);
    let before = world.objects(CONTROL, Resource::NODE_CONFIGS);
    for host in 1..=20 {
        super::fleet::cluster_node(store, "b", &format!("n{host}"), 2, host);
    }
    world.until(
        CONTROL,
        Resource::CLUSTER_NODES,
        "the word about the size",
        |nodes| (condition(&nodes["a-n1"], PLANNED)?.1 == "NodeConfigTooLarge").then_some(()),
    );
    world.until(
        CONTROL,
        Resource::CLUSTERS,
        "the word about the size",
        |clusters| (condition(&clusters["a"], WRITTEN)?.1 == "NodeConfigTooLarge").then_some(()),
    );
    assert_eq!(
        world.objects(CONTROL, Resource::NODE_CONFIGS)["a-n1"]["spec"],
        before["a-n1"]["spec"]
    );
    assert!(manager.metrics()["clusterlink_nodeconfigs_too_large"] >= 1.0);
}
