//! What is refused before anything is made, each kind on clusters that are like that.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use tests::bare::Bare;
use tests::client::Endpoint;
use tests::proxy::{Changes, Proxy};

const LAB: &str = "\
name: bare
clusters:
  - {name: east, nodes: 1, podCIDRs: [10.1.0.0/16], globalCIDRsMap: {10.1.0.0/16: 10.201.0.0/16}}
  - {name: west, nodes: 2, podCIDRs: [10.1.0.0/16], globalCIDRsMap: {10.1.0.0/16: 10.202.0.0/16}}
  - {name: north, nodes: 2}
workloads: {floater: false}
";

/// Joins a cluster that is refused: in words of these, without a trace in either cluster.
#[track_caller]
fn refused(bare: &Bare, cluster: &str, more: &[&str], words: &[&str]) {
    let before = bare.installed("east");
    let ran = bare.join(cluster, "east", more).expect(69);
    for word in words {
        assert!(ran.stderr.contains(word), "{word}: {}", ran.stderr);
    }
    assert_eq!(bare.installed(cluster), BTreeSet::new(), "{words:?}");
    assert_eq!(bare.installed("east"), before, "{words:?}");
    for cluster in [cluster, "east"] {
        assert_eq!(bare.floaters(cluster), Vec::<String>::new(), "{words:?}");
    }
}

fn ip(bare: &Bare, at: &str, words: &str) {
    let words: Vec<&str> = words.split(' ').collect();
    bare.lab.exec_ok(at, &[&["ip"], &words[..]].concat());
}

/// The link of the underlay that leads to a node, and the node's address.
fn wire(bare: &Bare, node: &str) -> (String, String) {
    let (cluster, name) = node.split_once('/').unwrap();
    let nodes = bare.endpoint(cluster).items("/api/v1/nodes");
    let node = nodes.iter().find(|node| node["metadata"]["name"] == name);
    let ip = &node.unwrap()["status"]["addresses"][0]["address"];
    let ip = ip.as_str().unwrap().to_owned();
    let get = ["ip", "-o", "route", "get", &ip];
    let route = bare.lab.exec_ok("underlay", &get);
    let link = route.split(" dev ").nth(1).unwrap();
    (link.split(' ').next().unwrap().to_owned(), ip)
}

#[track_caller]
fn post(endpoint: &Endpoint, path: &str, object: &Value) -> Value {
    let (status, answer) = endpoint.call("POST", path, object);
    assert!(status == 201 || status == 200, "{path}: {answer}");
    answer
}

fn delete(endpoint: &Endpoint, path: &str) {
    assert_eq!(endpoint.call("DELETE", path, &Value::Null).0, 200, "{path}");
}

#[test]
#[ignore = "netns: needs veth, vxlan, bridge, policy-rules, nft"]
fn what_objects_say_is_refused_before_a_floater_is_sent() {
    let bare = Bare::up(LAB);
    let ran = bare.join("west", "east", &[]).expect(69);
    assert!(ran.stderr.contains("link install"), "{}", ran.stderr);

    // Definitions of another shape.
    let east = bare.endpoint("east");
    let definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    post(
        &east,
        definitions,
        &json!({
            "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": "clusters.kosmos.io"},
            "spec": {"group": "kosmos.io", "scope": "Namespaced", "names": {"plural": "clusters", "singular": "cluster", "kind": "Cluster", "listKind": "ClusterList"},
                     "versions": [{"name": "v1alpha1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object"}}}]},
        }),
    );
    let ran = bare.install("east", &[]).expect(69);
    assert!(
        ran.stderr
            .contains("clusters.kosmos.io of east is not the datapath's"),
        "{}",
        ran.stderr
    );
    delete(&east, &format!("{definitions}/clusters.kosmos.io"));
    bare.install("east", &[]).expect(0);

    // The same pods' prefix at both, on either side of a map.
    refused(
        &bare,
        "west",
        &[],
        &[
            "CIDR-OVERLAP",
            "cluster east",
            "cluster west",
            "--global-cidr",
        ],
    );
    let map = ["--global-cidr", "10.1.0.0/16=10.1.0.0/16"];
    refused(
        &bare,
        "west",
        &map,
        &["CIDR-OVERLAP", "cluster east", "cluster west"],
    );
    refused(
        &bare,
        "north",
        &["--ip-family", "ipv6"],
        &["ipv6", "--ip-family"],
    );
    refused(
        &bare,
        "north",
        &["--namespace", "elsewhere"],
        &["elsewhere"],
    );

    // Namespaces and programs of others.
    let north = bare.endpoint("north");
    let namespace = |labels: Value| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "kosmos-system", "labels": labels}});
    post(
        &north,
        "/api/v1/namespaces",
        &namespace(json!({"pod-security.kubernetes.io/enforce": "restricted"})),
    );
    refused(
        &bare,
        "north",
        &[],
        &[
            "kosmos-system of north enforces",
            "restricted",
            "=privileged",
        ],
    );
    let path = "/api/v1/namespaces/kosmos-system";
    let lax = json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": null}}});
    assert_eq!(north.call("PATCH", path, &lax).0, 200);
    let labels = json!({"app": "clusterlink-agent"});
    let sets = "/apis/apps/v1/namespaces/kosmos-system/daemonsets";
    post(
        &north,
        sets,
        &json!({
            "apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "clusterlink-agent"},
            "spec": {"selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels},
                     "spec": {"nodeSelector": {"none": "such"}, "containers": [{"name": "agent", "image": "clusterlink-agent:v0"}]}}},
        }),
    );
    refused(
        &bare,
        "north",
        &[],
        &["DaemonSet kosmos-system/clusterlink-agent of north is Kosmos' own"],
    );
    delete(&north, &format!("{sets}/clusterlink-agent"));
    delete(&north, path);

    // Somebody who may read and no more.
    post(
        &north,
        "/api/v1/namespaces/default/serviceaccounts",
        &json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "reader"}}),
    );
    post(
        &north,
        "/apis/rbac.authorization.k8s.io/v1/clusterroles",
        &json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "reader"},
            "rules": [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["get", "list", "watch"]}],
        }),
    );
    post(
        &north,
        "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
        &json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "reader"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "reader"},
            "subjects": [{"kind": "ServiceAccount", "name": "reader", "namespace": "default"}],
        }),
    );
    let token = post(
        &north,
        "/api/v1/namespaces/default/serviceaccounts/reader/token",
        &json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 3600}}),
    );
    let token = token["status"]["token"].as_str().unwrap();
    let reader = tests::proxy::kubeconfig(&[("north", north.cluster(), json!({"token": token}))]);
    let reader = bare.lab.place.write("reader.kubeconfig", reader);
    let before = bare.installed("east");
    let join = [
        "join",
        "--name",
        "north",
        "--kubeconfig",
        reader.to_str().unwrap(),
        "--host-kubeconfig",
        &bare.kubeconfig,
        "--host-context",
        "east",
    ];
    let ran = bare.link(&join).expect(69);
    for word in [
        "the kubeconfig of north may not",
        "create+delete+patch daemonsets.apps in namespace kosmos-system",
        "an administrator of north",
    ] {
        assert!(ran.stderr.contains(word), "{word}: {}", ran.stderr);
    }
    assert_eq!(bare.installed("east"), before);

    // A Kubernetes of long ago is told, and refused by nobody for that alone.
    let old = Changes::none().after(|request, answer| {
        if request.path.ends_with("/version") {
            answer["gitVersion"] = "v1.19.7".into();
            answer["minor"] = "19".into();
        }
    });
    let proxy = Proxy::start(bare.endpoint("north"), old);
    let text = tests::proxy::kubeconfig(&[("north", proxy.cluster(), json!({"token": "t"}))]);
    let old = bare.lab.place.write("old.kubeconfig", text);
    let join = [
        "join",
        "--name",
        "north",
        "--kubeconfig",
        old.to_str().unwrap(),
        "--host-kubeconfig",
        &bare.kubeconfig,
        "--host-context",
        "east",
        "--dry-run",
    ];
    let ran = bare.link(&join).expect(0);
    assert!(
        ran.stderr
            .contains("north runs Kubernetes v1.19.7: too old"),
        "{}",
        ran.stderr
    );
    assert!(
        ran.stderr.contains("a dry run sends no floaters"),
        "{}",
        ran.stderr
    );
    bare.down();
}

#[test]
#[ignore = "netns: needs veth, vxlan, bridge, policy-rules, nft"]
fn what_nodes_and_paths_are_like_is_refused_before_anything_is_installed() {
    let bare = Bare::up(LAB);
    bare.install("east", &[]).expect(0);
    let at = "north/n1";

    // No node has such a link.
    refused(
        &bare,
        "north",
        &["--default-nic", "eth9"],
        &["eth9", "LINK-UNKNOWN", "--default-nic"],
    );
    for (make, undo, words) in [
        (
            "link add vx-bridge type bridge",
            "link del vx-bridge",
            &["north/n1 has a link vx-bridge already", "a bridge"][..],
        ),
        (
            "link add corp type vxlan id 54 dstport 4876 dev eth0",
            "link del corp",
            &["north/n1 has a VXLAN link corp with the VNI 54"],
        ),
        (
            "rule add priority 200 table 77",
            "rule del priority 200",
            &["north/n1 has an ipv4 rule of priority 200"],
        ),
        (
            "rule add priority 50 table 200",
            "rule del priority 50",
            &["rule of priority 50 that asks routing table 200"],
        ),
        (
            "route add 192.168.77.0/24 dev eth0 table 200",
            "route del 192.168.77.0/24 table 200",
            &["a route to 192.168.77.0/24 in routing table 200"],
        ),
        (
            "addr add 10.1.0.77/25 dev eth0",
            "addr del 10.1.0.77/25 dev eth0",
            // A network of the node, and the pods of the east.
            &["north/n1 is connected to 10.1.0.0/25", "another cluster"],
        ),
    ] {
        ip(&bare, at, make);
        refused(&bare, "north", &[], words);
        ip(&bare, at, undo);
    }

    // The tunnels' port, in one direction and in both.
    let (link, there) = wire(&bare, at);
    let (_, east) = wire(&bare, "east/n1");
    let rule = format!("priority 9 from {east} to {there} ipproto udp dport 4876 blackhole");
    ip(&bare, "underlay", &format!("rule add {rule}"));
    refused(
        &bare,
        "north",
        &[],
        &[
            "no datagram to UDP port 4876 passes from east/n1",
            "to north/n1",
            "vx-bridge",
        ],
    );
    ip(&bare, "underlay", &format!("rule del {rule}"));
    let rule = "priority 9 ipproto udp dport 4876 blackhole";
    ip(&bare, "underlay", &format!("rule add {rule}"));
    refused(
        &bare,
        "north",
        &[],
        &[
            "no datagram to UDP port 4876 passes from north/n1",
            "and east/n1",
        ],
    );
    ip(&bare, "underlay", &format!("rule del {rule}"));
    // That of the tunnel within a cluster, which does not cross what is between clusters.
    let rule = "priority 9 iif lo ipproto udp dport 4877 blackhole";
    ip(&bare, at, &format!("rule add {rule}"));
    refused(
        &bare,
        "north",
        &[],
        &[
            "no datagram to UDP port 4877 passes from north/n1",
            "to north/n2",
            "vx-local",
        ],
    );
    ip(&bare, at, &format!("rule del {rule}"));

    // A path that is narrower than the links at its ends.
    ip(&bare, "underlay", &format!("link set {link} mtu 1400"));
    refused(
        &bare,
        "north",
        &[],
        &[
            "packets of 1500 bytes do not pass unfragmented",
            "north/n1",
            "MTU",
        ],
    );
    ip(&bare, "underlay", &format!("link set {link} mtu 1500"));
    ip(&bare, at, "link set eth0 mtu 600");
    refused(
        &bare,
        "north",
        &[],
        &["north/n1: link eth0 has an MTU of 600"],
    );
    ip(&bare, at, "link set eth0 mtu 1500");

    bare.join("north", "east", &[]).expect(0);
    bare.down();
}
