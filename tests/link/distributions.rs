//! Clusters as Calico, flannel, Cilium, kubeadm and k3s leave them: whose objects say which prefixes they have, and in how many ways.

use serde_json::{Value, json};
use tests::bare::{Bare, KOSMOS};
use tests::client::Endpoint;

const LAB: &str = "\
name: bare
clusters:
  - {name: calico, nodes: 2, podCIDRs: [10.21.0.0/16], serviceCIDRs: [172.21.0.0/20]}
  - {name: cilium, nodes: 2, podCIDRs: [10.22.0.0/16], serviceCIDRs: [172.22.0.0/20]}
  - {name: flannel, nodes: 2, podCIDRs: [10.23.0.0/16], serviceCIDRs: [172.23.0.0/20]}
  - {name: k3s, nodes: 2, podCIDRs: [10.42.0.0/16], serviceCIDRs: [10.43.0.0/16]}
workloads: {floater: false}
";

#[track_caller]
fn post(endpoint: &Endpoint, path: &str, object: &Value) {
    let (status, answer) = endpoint.call("POST", path, object);
    assert!(status == 201 || status == 200, "{path}: {answer}");
}

/// A kind that a CNI plugin brings along.
#[track_caller]
fn define(endpoint: &Endpoint, group: &str, version: &str, kind: &str, plural: &str) {
    post(
        endpoint,
        "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
        &json!({
            "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": format!("{plural}.{group}")},
            "spec": {"group": group, "scope": "Cluster",
                     "names": {"plural": plural, "singular": kind.to_lowercase(), "kind": kind, "listKind": format!("{kind}List")},
                     "versions": [{"name": version, "served": true, "storage": true,
                                   "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}]},
        }),
    );
}

#[track_caller]
fn config_map(endpoint: &Endpoint, namespace: &str, name: &str, data: Value) {
    let map =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data});
    post(
        endpoint,
        &format!("/api/v1/namespaces/{namespace}/configmaps"),
        &map,
    );
}

fn seed_calico(endpoint: &Endpoint) {
    let group = "crd.projectcalico.org";
    define(endpoint, group, "v1", "IPPool", "ippools");
    define(endpoint, group, "v1", "BlockAffinity", "blockaffinities");
    for (name, cidr, disabled) in [
        ("default-ipv4-ippool", "10.21.0.0/16", false),
        ("old", "10.99.0.0/16", true),
    ] {
        let pool = json!({"apiVersion": format!("{group}/v1"), "kind": "IPPool", "metadata": {"name": name},
                          "spec": {"cidr": cidr, "disabled": disabled, "natOutgoing": true, "ipipMode": "Never", "vxlanMode": "Never"}});
        post(endpoint, &format!("/apis/{group}/v1/ippools"), &pool);
    }
    // kubeadm says something else than the CNI plugin does, which counts.
    let text = "apiVersion: kubeadm.k8s.io/v1beta4\nkind: ClusterConfiguration\nnetworking:\n  podSubnet: 10.88.0.0/16\n  serviceSubnet: 172.21.0.0/20\n";
    config_map(
        endpoint,
        "kube-system",
        "kubeadm-config",
        json!({"ClusterConfiguration": text}),
    );
}

fn seed_cilium(endpoint: &Endpoint) {
    define(endpoint, "cilium.io", "v2", "CiliumNode", "ciliumnodes");
    let data = json!({"ipam": "cluster-pool", "cluster-pool-ipv4-cidr": "10.22.0.0/16", "cluster-pool-ipv4-mask-size": "24", "enable-ipv4-masquerade": "true"});
    config_map(endpoint, "kube-system", "cilium-config", data);
    for (node, cidr) in nodes(endpoint) {
        let node = json!({"apiVersion": "cilium.io/v2", "kind": "CiliumNode", "metadata": {"name": node}, "spec": {"ipam": {"podCIDRs": [cidr]}}});
        post(endpoint, "/apis/cilium.io/v2/ciliumnodes", &node);
    }
}

fn seed_flannel(endpoint: &Endpoint) {
    let namespace =
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "kube-flannel"}});
    post(endpoint, "/api/v1/namespaces", &namespace);
    let net =
        r#"{"Network": "10.23.0.0/16", "EnableNFTables": false, "Backend": {"Type": "vxlan"}}"#;
    config_map(
        endpoint,
        "kube-flannel",
        "kube-flannel-cfg",
        json!({"net-conf.json": net, "cni-conf.json": "{}"}),
    );
    annotate(
        endpoint,
        &json!({"flannel.alpha.coreos.com/kube-subnet-manager": "true", "flannel.alpha.coreos.com/backend-type": "vxlan"}),
    );
}

fn seed_k3s(endpoint: &Endpoint) {
    annotate(
        endpoint,
        &json!({"k3s.io/node-args": r#"["server","--disable","traefik"]"#, "k3s.io/hostname": "n1"}),
    );
}

/// Nodes and their pods' prefixes.
fn nodes(endpoint: &Endpoint) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let nodes = endpoint.items("/api/v1/nodes");
    let each = nodes.iter();
    each.map(|node| {
        (
            text(&node["metadata"]["name"]),
            text(&node["spec"]["podCIDR"]),
        )
    })
    .collect()
}

fn annotate(endpoint: &Endpoint, annotations: &Value) {
    for (node, _) in nodes(endpoint) {
        let patch = json!({"metadata": {"annotations": annotations}});
        assert_eq!(
            endpoint
                .call("PATCH", &format!("/api/v1/nodes/{node}"), &patch)
                .0,
            200
        );
    }
}

#[test]
#[ignore = "netns: needs veth, vxlan, bridge, policy-rules, nft"]
fn clusters_of_every_distribution_are_linked_and_their_prefixes_found() {
    let bare = Bare::up(LAB);
    seed_calico(&bare.endpoint("calico"));
    seed_cilium(&bare.endpoint("cilium"));
    seed_flannel(&bare.endpoint("flannel"));
    seed_k3s(&bare.endpoint("k3s"));
    let ran = bare.install("calico", &["--cni", "calico"]).expect(0);
    assert!(
        ran.stderr
            .contains("IPPool default-ipv4-ippool of calico has natOutgoing"),
        "{}",
        ran.stderr
    );
    let ran = bare
        .join("cilium", "calico", &["--cni", "cilium"])
        .expect(0);
    assert!(
        ran.stderr.contains("enable-ipv4-masquerade"),
        "{}",
        ran.stderr
    );
    // A node of its own for each node of the other: prefixes of single nodes count there.
    let p2p = ["--cni", "flannel", "--network-type", "p2p"];
    let ran = bare.join("flannel", "calico", &p2p).expect(0);
    assert!(
        ran.stderr.contains("could not tell whether flannel"),
        "{}",
        ran.stderr
    );
    bare.join("k3s", "calico", &["--cni", "generic"]).expect(0);

    let host = bare.endpoint("calico");
    for (name, pods, services) in [
        ("calico", "10.21.0.0/16", "172.21.0.0/20"),
        ("cilium", "10.22.0.0/16", "172.22.0.0/20"),
        ("flannel", "10.23.0.0/16", "172.23.0.0/20"),
        ("k3s", "10.42.0.0/16", "10.43.0.0/16"),
    ] {
        let cluster = host.get(&format!("{KOSMOS}/clusters/{name}"));
        let status = &cluster["status"]["clusterLinkStatus"];
        assert_eq!(status["podCIDRs"], json!([pods]), "{name}: {status}");
        assert_eq!(
            status["serviceCIDRs"],
            json!([services]),
            "{name}: {status}"
        );
        let of_nodes = nodes(&bare.endpoint(name));
        for (node, cidr) in of_nodes {
            let node = host.get(&format!("{KOSMOS}/clusternodes/{name}-{node}"));
            assert_eq!(node["spec"]["podCIDRs"], json!([cidr]), "{name}");
        }
    }
    let kubeconfig = [
        "--kubeconfig",
        &bare.kubeconfig,
        "--control-plane",
        "calico",
        "-o",
        "json",
    ];
    let ran = bare
        .lab
        .place
        .run(["dr"].iter().chain(&kubeconfig))
        .expect(0);
    let report = ran.json();
    assert_eq!(report["verdict"], "healthy", "{report:#}");
    assert_eq!(report["clusters"].as_array().unwrap().len(), 4);

    // A control plane that knows no way to its members finds them among the contexts that it is given.
    let hub = tests::proxy::kubeconfig(&[("hub", host.cluster(), json!({"token": host.token}))]);
    let hub = bare.lab.place.write("hub.kubeconfig", hub);
    let hub = hub.to_str().unwrap();
    let fleet = [
        "dr",
        "--fleet",
        hub,
        "--kubeconfig",
        &bare.kubeconfig,
        "-o",
        "json",
    ];
    let report = bare.lab.place.run(fleet).expect(0).json();
    let named = tests::lab::names(&report, "/clusters", "name");
    assert_eq!(named, ["calico", "cilium", "flannel", "k3s"]);
    assert_eq!(report["verdict"], "healthy", "{report:#}");
    let ran = bare
        .lab
        .place
        .run(["dr", "--fleet", hub, "-o", "json"])
        .expect(2);
    let report = ran.json();
    let clusters = report["clusters"].as_array().unwrap();
    let unobserved = clusters
        .iter()
        .filter(|cluster| cluster["state"] == "unobserved");
    let reasons: Vec<&str> = unobserved
        .filter_map(|cluster| cluster["reason"].as_str())
        .collect();
    assert_eq!(reasons.len(), 3, "{report:#}");
    assert!(
        reasons
            .iter()
            .all(|why| why.contains("could not tell") && why.contains("--kubeconfig")),
        "{reasons:?}"
    );
    bare.down();
}
