//! What a fleet of the tests consists of.

use std::collections::BTreeMap;

use datapath::api::{Cluster, ClusterNode, Fleet, NodeConfigSpec};
use datapath::plan::plan;
use serde::Deserialize as _;
use serde_json::{Value, json};
use simulator::apiserver::{Resource, Store};

use super::world::{CONTROL, World};

/// The Cluster that its operator writes; what is found out by itself is left out.
pub(crate) fn cluster(world: &World, name: &str, mode: &str) {
    let object = json!({"metadata": {"name": name}, "spec": {"clusterLinkOptions": {
        "enable": true, "cni": "none", "networkType": mode, "ipFamily": "ipv4", "defaultNICName": "eth0",
    }}});
    world
        .store(CONTROL)
        .create(Resource::CLUSTERS, None, object)
        .unwrap();
}

/// A ready Node.
pub(crate) fn node(world: &World, cluster: &str, name: &str, net: u8, host: u8) {
    let object = json!({
        "metadata": {"name": name},
        "spec": {"podCIDRs": [format!("10.{net}.{host}.0/24")]},
        "status": {
            "addresses": [{"type": "InternalIP", "address": format!("100.64.{net}.{host}")}],
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    });
    world
        .store(cluster)
        .create(Resource::NODES, None, object)
        .unwrap();
}

/// A ClusterNode that somebody else wrote.
pub(crate) fn cluster_node(store: &Store, cluster: &str, name: &str, net: u8, host: u8) {
    let object = json!({"metadata": {"name": format!("{cluster}-{name}"), "labels": {"kosmos.io/cluster": cluster}}, "spec": {
        "clusterName": cluster, "nodeName": name, "ip": format!("100.64.{net}.{host}"), "interfaceName": "eth0",
        "podCIDRs": [format!("10.{net}.{host}.0/24")],
    }});
    store.create(Resource::CLUSTER_NODES, None, object).unwrap();
}

/// The NodeConfigs that the planner makes of the objects as they are.
pub(crate) fn planned(world: &World) -> BTreeMap<String, NodeConfigSpec> {
    let objects = |resource| world.objects(CONTROL, resource).into_values();
    let fleet = Fleet {
        clusters: objects(Resource::CLUSTERS)
            .map(|one| Cluster::deserialize(one).unwrap())
            .collect(),
        cluster_nodes: objects(Resource::CLUSTER_NODES)
            .map(|one| ClusterNode::deserialize(one).unwrap())
            .collect(),
        node_configs: Vec::new(),
    };
    plan(&fleet).configs
}

/// The rows of NodeConfig objects.
pub(crate) fn rows(objects: &BTreeMap<String, Value>) -> BTreeMap<String, NodeConfigSpec> {
    let specs = objects.iter().map(|(name, object)| {
        let spec = NodeConfigSpec::deserialize(&object["spec"]).unwrap();
        (name.clone(), spec)
    });
    specs.collect()
}

/// A condition of an object: its status and reason.
pub(crate) fn condition(object: &Value, kind: &str) -> Option<(String, String)> {
    let conditions = object["status"]["conditions"].as_array()?;
    let one = conditions.iter().find(|one| one["type"] == kind)?;
    let word = |field: &str| one[field].as_str().unwrap_or_default().to_owned();
    Some((word("status"), word("reason")))
}
