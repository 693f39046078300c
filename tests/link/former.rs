//! A cluster whose namespace of a former life is still being deleted: whoever links it waits until that is gone, and not for ever.

use std::io::{BufRead as _, BufReader, Read as _};

use serde_json::{Value, json};
use tests::bare::Bare;

const ONE: &str = "\
name: bare
clusters:
  - {name: east, nodes: 1}
workloads: {floater: false}
";

const NAMESPACE: &str = "/api/v1/namespaces/kosmos-system";

#[test]
#[ignore = "netns: needs veth, vxlan, bridge, policy-rules, nft"]
fn a_namespace_that_is_being_deleted_is_waited_for() {
    let bare = Bare::up(ONE);
    let east = bare.endpoint("east");
    let made =
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "kosmos-system"}});
    assert_eq!(east.call("POST", "/api/v1/namespaces", &made).0, 201);
    let held = json!({"apiVersion": "v1", "kind": "ConfigMap",
                      "metadata": {"name": "held", "finalizers": ["floater.test/hold"]}});
    let path = format!("{NAMESPACE}/configmaps");
    assert_eq!(east.call("POST", &path, &held).0, 201);
    assert!(east.call("DELETE", NAMESPACE, &Value::Null).0 < 300);
    let phase = || east.get(NAMESPACE)["status"]["phase"].clone();
    assert_eq!(phase(), "Terminating");

    // Not longer than one wants to wait, and nothing was made.
    let ran = bare.install("east", &["--wait", "2s"]).expect(69);
    for words in ["Namespace kosmos-system in east", "not within 2 s"] {
        assert!(ran.stderr.contains(words), "{words}: {}", ran.stderr);
    }
    let made = bare.installed("east");
    assert!(made.is_empty(), "{made:?}");
    assert_eq!(phase(), "Terminating");

    let words = ["link", "install", "--kubeconfig", &bare.kubeconfig];
    let more = ["--context", "east", "--cluster-name", "east"];
    let mut child = bare.lab.place.start(words.iter().chain(&more));
    let mut lines = BufReader::new(child.stderr.take().expect("its stderr")).lines();
    let is_waiting = |line: &String| line.contains("waiting for the removal of Namespace");
    let mut said = lines.by_ref().map_while(Result::ok);
    assert!(said.any(|line| is_waiting(&line)), "it did not wait");
    let released = json!({"metadata": {"finalizers": null}});
    assert_eq!(
        east.call("PATCH", &format!("{path}/held"), &released).0,
        200
    );
    let rest: Vec<String> = lines.map_while(Result::ok).collect();
    let mut stdout = String::new();
    let mut out = child.stdout.take().expect("its stdout");
    out.read_to_string(&mut stdout).expect("text");
    let ended = child.wait().expect("an end");
    assert_eq!(ended.code(), Some(0), "{rest:?}");
    assert_eq!(phase(), "Active");
    assert!(!bare.installed("east").is_empty());
    bare.down();
}
