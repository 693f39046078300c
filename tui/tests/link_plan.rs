//! `link plan` from the outside: what goes in, what comes out, and what is refused.

#![allow(clippy::unwrap_used)]

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

const FLEET: &str = r#"{
  "clusters": [
    {"metadata": {"name": "east"}, "spec": {"clusterLinkOptions": {"networkType": "gateway", "ipFamily": "ipv4"}},
     "status": {"clusterLinkStatus": {"podCIDRs": ["10.20.0.0/16"], "serviceCIDRs": []}}},
    {"metadata": {"name": "west"}, "spec": {"clusterLinkOptions": {"networkType": "gateway", "ipFamily": "ipv4"}},
     "status": {"clusterLinkStatus": {"podCIDRs": ["10.21.0.0/16"], "serviceCIDRs": []}}}],
  "clusterNodes": [
    {"metadata": {"name": "east-n1"}, "spec": {"clusterName": "east", "nodeName": "n1", "ip": "100.64.0.1",
     "interfaceName": "eth0", "podCIDRs": ["10.20.0.0/24"], "roles": ["gateway"]}},
    {"metadata": {"name": "west-n1"}, "spec": {"clusterName": "west", "nodeName": "n1", "ip": "100.64.1.1",
     "interfaceName": "eth0", "podCIDRs": ["10.21.0.0/24"], "roles": ["gateway"]}}]
}"#;

fn floaterctl(arguments: &[&str], stdin: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_floaterctl"))
        .args(arguments)
        .env("FLOATER_CONFIG", "")
        .env("HOME", "/nonexistent")
        .env_remove("XDG_CONFIG_HOME")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    // It may refuse its arguments before it reads.
    let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
    child.wait_with_output().unwrap()
}

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}

#[test]
fn json_names_every_row_and_leaves_empty_lists_out() {
    let output = floaterctl(&["link", "plan", "-f", "-", "-o", "json"], FLEET);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let plan: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(plan.as_object().unwrap().len(), 2);
    let east = &plan["east-n1"];
    assert_eq!(east["devices"].as_array().unwrap().len(), 2);
    assert_eq!(east["routes"][0]["cidr"], "10.21.0.0/16");
    assert_eq!(east["arps"][0]["ip"], "220.64.1.1");
    let lists = east.as_object().unwrap().values();
    assert!(
        lists
            .into_iter()
            .all(|list| !list.as_array().unwrap().is_empty())
    );
}

#[test]
fn yaml_says_the_same_both_ways() {
    let directory = tempfile::tempdir().unwrap();
    let as_yaml = floaterctl(&["link", "plan", "-f", "-", "-o", "yaml"], FLEET);
    let plan: Value = serde_saphyr::from_str(stdout(&as_yaml)).unwrap();
    let as_json = floaterctl(&["link", "plan", "-f", "-"], FLEET);
    assert_eq!(
        plan,
        serde_json::from_slice::<Value>(&as_json.stdout).unwrap()
    );

    let fleet: Value = serde_json::from_str(FLEET).unwrap();
    let file = directory.path().join("fleet.yaml");
    std::fs::write(&file, serde_saphyr::to_string(&fleet).unwrap()).unwrap();
    let from_yaml = floaterctl(&["link", "plan", "-f", file.to_str().unwrap()], "");
    assert_eq!(stdout(&from_yaml), stdout(&as_json));
}

#[test]
fn a_difference_is_printed_row_by_row() {
    let directory = tempfile::tempdir().unwrap();
    let old_plan = directory.path().join("plan.json");
    let output = floaterctl(&["link", "plan", "-f", "-"], FLEET);
    std::fs::write(&old_plan, &output.stdout).unwrap();
    let old_plan = old_plan.to_str().unwrap();

    let same = floaterctl(&["link", "plan", "-f", "-", "--diff", old_plan], FLEET);
    assert_eq!((stdout(&same), same.status.code()), ("", Some(0)));

    let moved = FLEET.replace("10.21.0.0/16", "10.99.0.0/16");
    let changed = floaterctl(&["link", "plan", "-f", "-", "--diff", old_plan], &moved);
    assert_eq!(
        stdout(&changed),
        "- east-n1 route 10.21.0.0/16 via 220.64.1.1 dev vx-bridge\n\
         + east-n1 route 10.99.0.0/16 via 220.64.1.1 dev vx-bridge\n"
    );

    let old_fleet = directory.path().join("fleet.json");
    std::fs::write(&old_fleet, FLEET).unwrap();
    let against = [
        "link",
        "plan",
        "-f",
        "-",
        "--diff",
        old_fleet.to_str().unwrap(),
        "-o",
        "json",
    ];
    let by_objects = floaterctl(&against, &moved);
    let diff: Value = serde_json::from_slice(&by_objects.stdout).unwrap();
    assert_eq!(diff["east-n1"]["add"]["routes"][0]["cidr"], "10.99.0.0/16");
    assert_eq!(
        diff["east-n1"]["remove"]["routes"][0]["cidr"],
        "10.21.0.0/16"
    );
}

#[test]
fn an_object_that_breaks_a_rule_is_told_and_harms_only_itself() {
    let broken = FLEET.replace("\"ip\": \"100.64.1.1\"", "\"ip\": \"\"");
    let output = floaterctl(&["link", "plan", "-f", "-"], &broken);
    assert_eq!(output.status.code(), Some(0));
    assert!(
        stderr(&output)
            .starts_with("warning: stdin: CLUSTERNODE-INCOMPLETE clusternode west-n1 spec.ip: "),
        "{}",
        stderr(&output)
    );
    let plan: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(plan.get("east-n1").is_some());
    assert!(plan.get("west-n1").is_none());
}

#[test]
fn bad_input_is_65_with_file_line_and_rule() {
    for (name, text, place) in [
        ("a.json", "{\"clusters\": 3}", "a.json:1: invalid type"),
        ("b.json", "{\n\"clusters\": [}", "b.json:2: expected value"),
        (
            "c.json",
            "{\"clusters\": [],\n\"clusters\": []}",
            "c.json:2: duplicate field",
        ),
        ("d.json", "[[], [], []]", "d.json:1: invalid type: sequence"),
        ("e.json", "{}", "e.json: a fleet has the lists"),
        ("f.json", "", "f.json: empty"),
        (
            "g.json",
            "{\"clusterNodes\": [\n{\"metadata\": {\"name\": \"n\"}, \"spec\": {\"roles\": 1}}]}",
            "g.json:2: invalid type",
        ),
        (
            "h.yaml",
            "a: b\n",
            "h.yaml:1: unknown field `a`, expected one of",
        ),
        (
            "o.json",
            "{\"clusters\": [\n{\"a\": 1}]}",
            "o.json:2: missing field `metadata`",
        ),
        (
            "p.json",
            "{\"clusterNodes\": [\n{\"metadata\": {}}]}",
            "p.json:2: missing field `name`",
        ),
        (
            "q.json",
            "{\"clusterNodes\": [\n{\"metadata\": {\"name\": \"\"}}]}",
            "q.json:2: metadata.name is empty",
        ),
        (
            "r.yaml",
            "name: a-topology\nclusters:\n  - name: east\n",
            "r.yaml:1: unknown field `name`, expected one of",
        ),
        (
            "s.yaml",
            "clusters:\n  - name: east\n",
            "s.yaml:2: missing field `metadata`",
        ),
        (
            "t.yaml",
            "clusters: []\nworkloads: {floater: true}\n",
            "t.yaml:2: unknown field `workloads`",
        ),
        (
            "i.yaml",
            "clusters:\n  - metadata: {name: [1]}\n",
            "i.yaml:2: expected string",
        ),
        (
            "j.yaml",
            "clusters:\n- metadata: {name: a}\n  spec:\n    clusterLinkOptions: {networkType: ring}\n",
            "j.yaml:4: unknown variant `ring`",
        ),
        (
            "k.yaml",
            "clusters: []\n---\nclusters: []\n",
            "k.yaml: document 1: the object has no `kind`",
        ),
        ("l.yaml", "clusters: &a [*a]\n", "l.yaml:1: "),
        (
            "m.yaml",
            "clusters: []\nclusters: []\n",
            "m.yaml:2: duplicate",
        ),
        (
            "n.yaml",
            "clusters:\n - metadata: {name: a}\n  b: 2\n",
            "n.yaml:3: ",
        ),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join(name);
        std::fs::write(&file, text).unwrap();
        let output = floaterctl(&["link", "plan", "-f", file.to_str().unwrap()], "");
        let shown = stderr(&output).replace(&format!("{}/", directory.path().display()), "");
        assert_eq!(output.status.code(), Some(65), "{name}: {shown}");
        assert!(
            shown.starts_with(&format!("error: {place}")),
            "{name}: {shown}"
        );
        assert_eq!(shown.lines().count(), 1, "{name}: {shown}");
        assert_eq!(stdout(&output), "", "{name}");
    }
    for (arguments, code) in [
        (vec!["link", "plan"], 64),
        (vec!["link", "plan", "-f", "/nonexistent/fleet.json"], 65),
        (vec!["link", "plan", "-f", "/"], 65),
        (vec!["link", "plan", "-f", "-", "--diff", "-"], 64),
        (
            vec!["link", "plan", "-f", "-", "--diff", "/nonexistent/old.json"],
            65,
        ),
    ] {
        let output = floaterctl(&arguments, FLEET);
        assert_eq!(
            output.status.code(),
            Some(code),
            "{arguments:?}: {}",
            stderr(&output)
        );
    }
    let output = floaterctl(&["link", "plan", "-f", "-"], "clusters: \u{1}");
    assert_eq!(output.status.code(), Some(65), "{}", stderr(&output));
}

/// The objects of [`FLEET`] as `kubectl get -o json` prints them.
fn as_list() -> Value {
    let fleet: Value = serde_json::from_str(FLEET).unwrap();
    let mut items = Vec::new();
    for (list, kind) in [("clusters", "Cluster"), ("clusterNodes", "ClusterNode")] {
        for object in fleet[list].as_array().unwrap() {
            let mut object = object.clone();
            object["apiVersion"] = "kosmos.io/v1alpha1".into();
            object["kind"] = kind.into();
            items.push(object);
        }
    }
    serde_json::json!({"apiVersion": "v1", "kind": "List", "items": items})
}

#[test]
fn what_kubectl_prints_is_planned_like_the_lists() {
    let expected = floaterctl(&["link", "plan", "-f", "-"], FLEET);
    let list = as_list();
    let documents: Vec<String> = list["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|object| serde_saphyr::to_string(object).unwrap())
        .collect();
    let mut typed = list.clone();
    typed["kind"] = "ClusterNodeList".into();
    for item in typed["items"].as_array_mut().unwrap() {
        if item["kind"] == "ClusterNode" {
            item.as_object_mut().unwrap().remove("kind");
        }
    }
    for text in [
        list.to_string(),
        serde_saphyr::to_string(&list).unwrap(),
        format!("---\n{}---\n", documents.join("---\n")),
        typed.to_string(),
        format!(
            "{}\n{}",
            list,
            serde_json::json!({"kind": "List", "items": []})
        ),
    ] {
        let output = floaterctl(&["link", "plan", "-f", "-"], &text);
        assert_eq!(output.status.code(), Some(0), "{}: {text}", stderr(&output));
        assert_eq!(stdout(&output), stdout(&expected), "{text}");
        assert_eq!(stderr(&output), "", "{text}");
    }
}

#[test]
fn other_objects_are_named_and_broken_ones_are_placed() {
    let mut list = as_list();
    let items = list["items"].as_array_mut().unwrap();
    items.push(serde_json::json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "odd\u{1b}[31m"}}));
    items.push(serde_json::json!({"apiVersion": "cluster.x-k8s.io/v1", "kind": "Cluster", "metadata": {"name": "other"}}));
    let output = floaterctl(&["link", "plan", "-f", "-"], &list.to_string());
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let said = stderr(&output);
    assert!(
        said.contains("ConfigMap odd\u{fffd}[31m") && said.contains("Cluster other"),
        "{said}"
    );

    list["items"][2]["spec"]["podCIDRs"] = 7.into();
    let output = floaterctl(&["link", "plan", "-f", "-"], &list.to_string());
    assert_eq!(output.status.code(), Some(65));
    let said = stderr(&output);
    assert!(said.contains("items[2]: ClusterNode east-n1: "), "{said}");
    for text in [
        "kind: ConfigMap",
        "kind: List\nitems: 3",
        "- 1",
        "kind: List\nitems: [{metadata: {name: x}}]",
    ] {
        let output = floaterctl(&["link", "plan", "-f", "-"], text);
        assert_eq!(
            output.status.code(),
            Some(65),
            "{text}: {}",
            stderr(&output)
        );
    }
}

#[test]
fn objections_are_warnings_with_code_object_and_field() {
    let text = FLEET.replace("10.21.0.0/16", "10.20.128.0/17");
    let output = floaterctl(&["link", "plan", "-f", "-"], &text);
    assert_eq!(output.status.code(), Some(0));
    let said = stderr(&output);
    assert!(said.contains("warning: stdin: CIDR-OVERLAP cluster west status.clusterLinkStatus.podCIDRs[0]: 10.20.128.0/17 lies within 10.20.0.0/16"), "{said}");
}
