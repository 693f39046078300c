//! The programs against a whole simulated fleet, which has a control plane of its own: both drive the same engines, so there is nothing left to
//! write.

use std::collections::BTreeMap;

use datapath::control::conditions::{PLANNED, PREFIXES};
use serde_json::{Value, json};
use tests::client::Endpoint;
use tests::lab::Lab;

use super::fleet::condition;
use super::process::Program;
use super::world::PATIENCE;

const KOSMOS: &str = "/apis/kosmos.io/v1alpha1";

/// What was planned, and what was found and elected for that. A Cluster's spec is its operator's, and the API fills in its defaults
/// whenever anybody writes to it.
fn decided(control: &Endpoint) -> BTreeMap<String, Value> {
    let kinds = ["clusters", "clusternodes", "nodeconfigs"];
    let all = kinds.map(|kind| {
        let items = control.items(&format!("{KOSMOS}/{kind}")).into_iter();
        items.map(move |item| {
            let name = item["metadata"]["name"].as_str().unwrap().to_owned();
            let decided = match kind {
                "clusters" => item["status"]["clusterLinkStatus"].clone(),
                _ => item["spec"].clone(),
            };
            (format!("{kind} {name}"), decided)
        })
    });
    all.into_iter().flatten().collect()
}

/// Waits until the objects of a kind are so.
#[track_caller]
fn until(control: &Endpoint, kind: &str, is_so: impl Fn(&[Value]) -> bool) {
    let path = format!("{KOSMOS}/{kind}");
    let target = format!("{path}?watch=1&timeoutSeconds={}", PATIENCE.as_secs());
    let mut watch = control.send("GET", &target, &BTreeMap::new(), b"").unwrap();
    loop {
        let items = control.items(&path);
        if is_so(&items) {
            return;
        }
        assert!(watch.piece().unwrap().is_some(), "{kind}: {items:#?}");
    }
}

#[test]
fn what_the_lab_decides_is_what_the_programs_decide() {
    let lab = Lab::up(&[
        "--clusters",
        "3",
        "--nodes",
        "2",
        "--mode",
        "mixed",
        "--family",
        "all",
        "--virtual",
    ]);
    let endpoint = |cluster: &str| Endpoint::of(lab.kubeconfig(), cluster);
    let file = |cluster: &str| {
        let one = endpoint(cluster);
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "it",
            "clusters": [{"name": "it", "cluster": one.cluster()}],
            "users": [{"name": "it", "user": {"token": one.token}}],
            "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
        });
        lab.place
            .write(&format!("{cluster}.kubeconfig"), config.to_string())
            .to_str()
            .unwrap()
            .to_owned()
    };
    let control = endpoint("c1");
    let before = decided(&control);
    assert_eq!(before.len(), 3 + 6 + 6);
    let words = |words: &[&str]| {
        words
            .iter()
            .map(|word| (*word).to_owned())
            .collect::<Vec<_>>()
    };
    let (root, second) = (file("c1"), file("c2"));
    let manager = Program::start("manager", &words(&["--kubeconfig", &root]));
    let controller = Program::start(
        "controller",
        &words(&[
            "--cluster",
            "c2",
            "--kubeconfig",
            &root,
            "--member-kubeconfig",
            &second,
        ]),
    );
    // The last thing that a manager says about a fleet without fault, and the last that a controller does.
    until(&control, "clusternodes", |nodes| {
        let is_planned =
            |node: &Value| condition(node, PLANNED).is_some_and(|(status, _)| status == "True");
        nodes.iter().all(is_planned)
    });
    until(&control, "clusters", |clusters| {
        let own = clusters.iter().find(|one| one["metadata"]["name"] == "c2");
        own.is_some_and(|own| condition(own, PREFIXES).is_some())
    });
    assert_eq!(decided(&control), before);
    for (program, kinds) in [
        (&manager, ["NodeConfig"].as_slice()),
        (&controller, &["ClusterNode", "NodeConfig"]),
    ] {
        for kind in kinds {
            let wrote = program.metrics().into_keys().find(|name| {
                name.starts_with(&format!("clusterlink_writes_total{{kind=\"{kind}\""))
            });
            // Conditions go to the status of a ClusterNode.
            assert!(
                wrote.is_none_or(|name| name.contains("verb=\"status\"")),
                "{kind}"
            );
        }
    }
    drop((manager, controller));
    lab.down();
}
