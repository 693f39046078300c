//! Nodes that are heard of, are not, and are again.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::wait::await_condition;
use serde_json::json;

use super::place::{Place, client, kubeconfig_of, runtime};

const PATIENCE: Duration = Duration::from_secs(30);

/// The status of a node's condition Ready, and the keys of its taints.
fn state(node: &Node) -> (String, Vec<String>) {
    let conditions = node.status.iter().flat_map(|status| &status.conditions);
    let ready = conditions.flatten().find(|one| one.type_ == "Ready");
    let taints = node.spec.iter().flat_map(|spec| &spec.taints).flatten();
    let mut keys: Vec<String> = taints.map(|taint| taint.key.clone()).collect();
    keys.dedup();
    (
        ready.map(|one| one.status.clone()).unwrap_or_default(),
        keys,
    )
}

/// Waits until a node is so.
async fn becomes(nodes: &Api<Node>, name: &str, ready: &str, taints: &[&str]) {
    let (ready, taints) = (ready.to_owned(), taints.to_vec());
    let wanted = format!("{name}: {ready} {taints:?}");
    let is_so = move |node: Option<&Node>| {
        node.map(state)
            .is_some_and(|(is, keys)| is == ready && keys == taints)
    };
    let waited = tokio::time::timeout(PATIENCE, await_condition(nodes.clone(), name, is_so)).await;
    waited
        .unwrap_or_else(|_| panic!("not within {PATIENCE:?}: {wanted}"))
        .unwrap();
}

/// The gateway of the first cluster, and whether all pods of a node of it are ready.
fn seen(place: &Place, node: usize) -> (Option<String>, bool) {
    let status = place.status();
    let nodes = status["clusters"][0]["nodes"].as_array().unwrap();
    let gateway = nodes.iter().find(|node| node["gateway"] == true);
    let pods = nodes[node]["pods"].as_array().unwrap();
    assert!(!pods.is_empty(), "{status:#}");
    (
        gateway.map(|node| node["name"].as_str().unwrap().to_owned()),
        pods.iter().all(|pod| pod[1] == true),
    )
}

/// Waits until what is seen of a lab is so.
async fn shows(place: &Place, node: usize, gateway: &str, is_ready: bool) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let found = seen(place, node);
        if found == (Some(gateway.to_owned()), is_ready) {
            return;
        }
        assert!(
            tokio::time::Instant::now() < deadline,
            "{found:?}: {}",
            place.log()
        );
        // A lab reports its status to whoever asks, and to nobody else.
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[test]
#[ignore = "netns: needs vxlan, nft"]
fn a_node_that_the_network_cuts_off_is_lost_and_another_one_becomes_the_gateway() {
    let place = Place::new();
    let file = place.root.path().join("t.yaml");
    let text = "\
clusters: [{name: east}, {name: west, nodes: 1}]
workloads: {floaters: shared}
kubelets: {renew: 1s, grace: 3s}
";
    std::fs::write(&file, text).unwrap();
    place.run(&["up", file.to_str().unwrap()]);
    std::fs::remove_file(&file).unwrap();
    let kubeconfig = kubeconfig_of(&place);
    runtime().block_on(async {
        let client = client(&kubeconfig, "east").await;
        let nodes: Api<Node> = Api::all(client.clone());
        let leases: Api<Lease> = Api::namespaced(client, "kube-node-lease");
        let renewed = async || {
            let lease = leases.get("n2").await.unwrap();
            let spec = lease.spec.unwrap();
            assert_eq!(spec.holder_identity.as_deref(), Some("n2"));
            spec.renew_time
        };
        let before = renewed().await;
        let moved = await_condition(leases.clone(), "n2", move |lease: Option<&Lease>| {
            let spec = lease.and_then(|lease| lease.spec.as_ref());
            spec.is_some_and(|spec| spec.renew_time != before)
        });
        tokio::time::timeout(PATIENCE, moved)
            .await
            .unwrap()
            .unwrap();

        // What somebody else says of a node its kubelet puts right; the role stays where it went.
        let wrong = json!({"status": {"conditions": [{"type": "Ready", "status": "False"}]}});
        let params = PatchParams::default();
        while seen(&place, 1).0.as_deref() != Some("n2") {
            // Its kubelet may be faster than whoever elects.
            let patch = Patch::Merge(&wrong);
            nodes.patch_status("n1", &params, &patch).await.unwrap();
        }
        becomes(&nodes, "n1", "True", &[]).await;
        shows(&place, 1, "n2", true).await;

        place.run(&["inject", "GATEWAY-DOWN", "east"]);
        becomes(&nodes, "n2", "Unknown", &["node.kubernetes.io/unreachable"]).await;
        shows(&place, 1, "n1", false).await;
        place.run(&["clear"]);
        becomes(&nodes, "n2", "True", &[]).await;
        shows(&place, 1, "n1", true).await;
    });
    place.down();
}
