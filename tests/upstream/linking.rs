//! A pair of clusters with upstream's control planes: linked by `sim up`, judged, unlinked and linked again, and gone without a trace.

use std::path::Path;

use serde_json::{Value, json};
use tests::client::Endpoint;
use tests::lab::Lab;

use crate::{programs, up};

const PAIR: &str = "\
name: pair
clusters:
  - {name: east, nodes: 2}
  - {name: west, nodes: 1, mode: p2p, family: ipv4}
workloads: {floater: false}
kubelets: {renew: 2s, grace: 8s}
";

/// What a kubelet of its own has written, as its API server has it.
fn assert_kept(end: &Endpoint, nodes: &[&str]) {
    for name in nodes {
        let lease = end.get(&format!(
            "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{name}"
        ));
        assert_eq!(lease["spec"]["holderIdentity"], *name, "{lease:#}");
        let node = end.get(&format!("/api/v1/nodes/{name}"));
        let conditions = node["status"]["conditions"].as_array().unwrap();
        let is_ready = |one: &Value| one["type"] == "Ready" && one["status"] == "True";
        assert!(conditions.iter().any(is_ready), "{node:#}");
        assert_eq!(node["spec"]["taints"], Value::Null, "{node:#}");
        let fields = node["metadata"]["managedFields"].as_array().unwrap();
        assert!(!fields.is_empty(), "an API server keeps them");
    }
}

/// The programs of the datapath in a cluster that are not ready.
fn unready(end: &Endpoint) -> Vec<String> {
    let pods = end.items("/api/v1/namespaces/kosmos-system/pods");
    assert!(!pods.is_empty());
    let is_ready = |pod: &&Value| {
        let conditions = pod["status"]["conditions"].as_array();
        let ready = |one: &Value| one["type"] == "Ready" && one["status"] == "True";
        conditions.is_some_and(|all| all.iter().any(ready))
    };
    let unready = pods.iter().filter(|pod| !is_ready(pod));
    unready
        .map(|pod| pod["metadata"]["name"].to_string())
        .collect()
}

fn link(lab: &Lab, words: &[&str], code: i32) -> String {
    let ran = lab.place.run(["link"].iter().chain(words)).expect(code);
    ran.stdout
}

#[test]
#[ignore = "netns: needs upstream, veth, vxlan, bridge, policy-rules, nft"]
fn a_pair_is_linked_judged_and_parted_on_control_planes_of_upstream() {
    let lab = up(PAIR, &[]);
    let kubeconfig = lab.kubeconfig();
    let [east, west] = ["east", "west"].map(|name| Endpoint::of(&kubeconfig, name));
    assert_kept(&east, &["n1", "n2"]);
    assert_kept(&west, &["n1"]);
    assert_eq!(unready(&east), Vec::<String>::new());
    assert_eq!(unready(&west), Vec::<String>::new());

    let (code, report) = lab.dr(&[]);
    assert_eq!(
        (code, &report["verdict"]),
        (Some(0), &json!("healthy")),
        "{report:#}"
    );
    let status = lab
        .place
        .run(["sim", "status", "-o", "json"])
        .expect(0)
        .json();
    let nodes = |cluster: usize| {
        status["clusters"][cluster]["nodes"]
            .as_array()
            .unwrap()
            .clone()
    };
    let gateways = nodes(0)
        .iter()
        .filter(|node| node["gateway"] == true)
        .count();
    assert_eq!(gateways, 1, "{status:#}");
    assert!(
        !nodes(1)[0]["pods"].as_array().unwrap().is_empty(),
        "{status:#}"
    );

    // Pods that stand still are not restarted, and go on.
    lab.place.run(["sim", "freeze"]).expect(0);
    let frozen = lab.place.run(["sim", "status"]).expect(0).stdout;
    assert!(frozen.contains("all"), "{frozen}");
    lab.place.run(["sim", "thaw"]).expect(0);

    let member = [
        "--name",
        "west",
        "--kubeconfig",
        &kubeconfig,
        "--context",
        "west",
    ];
    let host = ["--host-kubeconfig", &kubeconfig, "--host-context", "east"];
    let named = [&member[..], &host[..]].concat();
    link(&lab, &[&["unjoin"], &named[..]].concat(), 0);
    let left = lab.exec_ok("west/n1", &["ip", "-o", "link", "show", "type", "vxlan"]);
    assert_eq!(left, "");
    // Its namespace may still be on its way out, which is waited for.
    let said = link(
        &lab,
        &[&["join"], &named[..], &["--network-type", "p2p"]].concat(),
        0,
    );
    assert!(said.contains("packets pass"), "{said}");
    lab.down();
}

/// A scenario is linked by the same deeds before its first step.
#[test]
#[ignore = "netns: needs upstream, veth, vxlan, bridge, policy-rules, nft"]
fn a_scenario_runs_on_control_planes_of_upstream() {
    let place = tests::program::Place::new();
    let expectation = "expect: [{verdict: healthy}]\n";
    place.write("pair.yaml", format!("{PAIR}{expectation}"));
    let programs = programs();
    let ran = place.run(["sim", "run", "pair.yaml", "--upstream", &programs]);
    let ran = ran.expect(0);
    assert!(ran.stdout.starts_with("pass  pair.yaml"), "{}", ran.stdout);
    place.assert_empty();
}

/// A folder that lacks a program is named with that, and nothing is made.
#[test]
#[ignore = "netns: needs upstream"]
fn a_program_that_is_not_there_is_named() {
    let place = tests::program::Place::new();
    let partial = place.path().join("partial");
    std::fs::create_dir(&partial).unwrap();
    let whole = programs();
    for name in ["etcd", "kube-apiserver", "kube-scheduler"] {
        std::os::unix::fs::symlink(Path::new(&whole).join(name), partial.join(name)).unwrap();
    }
    let partial = partial.to_str().unwrap();
    let words = [
        "sim",
        "up",
        "--clusters",
        "1",
        "--bare",
        "--upstream",
        partial,
    ];
    let ran = place.run(words).expect(69);
    let lacking = format!("{partial}/kube-controller-manager");
    assert!(ran.stderr.contains(&lacking), "{}", ran.stderr);
    place.assert_empty();
}
