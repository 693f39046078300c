//! The objects that a simulated cluster starts with.

use std::net::SocketAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use datapath::api;
use serde_json::{Value, json};

use crate::topology::{Cluster, Mode, Node};

/// Where the datapath and floaters live.
pub(crate) const NAMESPACE: &str = "kosmos-system";
/// The run id and Secret of floaters that belong to the lab.
pub(crate) const RUN: &str = "lab";
/// The Secret that holds the key of the lab's floaters.
pub(crate) const SECRET: &str = "floater-run";

/// How a cluster's API is reached.
#[derive(Debug, Clone)]
pub(crate) struct Access {
    pub(crate) cluster: String,
    /// The URL of its API server.
    pub(crate) server: String,
    pub(crate) token: String,
}

/// A kubeconfig with one context per cluster, named as the cluster; the first is current.
pub(crate) fn kubeconfig(ca_pem: &str, accesses: &[Access]) -> String {
    use std::fmt::Write as _;
    let ca = STANDARD.encode(ca_pem);
    let mut text = "apiVersion: v1\nkind: Config\npreferences: {}\n".to_owned();
    // Writing to a String cannot fail.
    if let Some(first) = accesses.first() {
        let _ = writeln!(text, "current-context: {}", quoted(&first.cluster));
    }
    text.push_str("clusters:\n");
    for Access {
        cluster, server, ..
    } in accesses
    {
        let name = quoted(cluster);
        let _ = write!(
            text,
            "- name: {name}\n  cluster:\n    server: {server}\n    certificate-authority-data: {ca}\n"
        );
    }
    text.push_str("users:\n");
    for Access { cluster, token, .. } in accesses {
        let name = quoted(cluster);
        let _ = write!(text, "- name: {name}\n  user:\n    token: {token}\n");
    }
    text.push_str("contexts:\n");
    for Access { cluster, .. } in accesses {
        let name = quoted(cluster);
        let _ = write!(
            text,
            "- name: {name}\n  context:\n    cluster: {name}\n    user: {name}\n    namespace: default\n"
        );
    }
    text
}

/// A DNS label as YAML text: some labels are numbers or words that YAML takes for something else.
fn quoted(label: &str) -> String {
    format!("\"{label}\"")
}

/// The time as objects have it, in whole seconds.
pub(crate) fn now() -> String {
    let now = jiff::Timestamp::now();
    now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// A ready node.
pub(crate) fn node(node: &Node, now: &str) -> Value {
    let addresses: Vec<Value> = node
        .ips()
        .map(|ip| json!({"type": "InternalIP", "address": ip}))
        .chain([json!({"type": "Hostname", "address": node.name})])
        .collect();
    let pod_cidrs: Vec<String> = node.pod_cidrs.iter().map(ToString::to_string).collect();
    let condition = |kind: &str, status: &str, reason: &str| {
        json!({
            "type": kind, "status": status, "reason": reason, "message": "",
            "lastHeartbeatTime": now, "lastTransitionTime": now,
        })
    };
    let resources = json!({"cpu": "4", "memory": "8Gi", "pods": "110"});
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": node.name,
            "labels": {
                "kubernetes.io/arch": "amd64",
                "kubernetes.io/hostname": node.name,
                "kubernetes.io/os": "linux",
            },
        },
        "spec": {"podCIDR": pod_cidrs.first(), "podCIDRs": pod_cidrs},
        "status": {
            "addresses": addresses,
            "capacity": resources,
            "allocatable": resources,
            "conditions": [
                condition("MemoryPressure", "False", "KubeletHasSufficientMemory"),
                condition("DiskPressure", "False", "KubeletHasNoDiskPressure"),
                condition("PIDPressure", "False", "KubeletHasSufficientPID"),
                condition("Ready", "True", "KubeletReady"),
            ],
            "nodeInfo": {
                "architecture": "amd64",
                "bootID": "", "machineID": "", "systemUUID": "",
                "containerRuntimeVersion": concat!("floater://", env!("CARGO_PKG_VERSION")),
                "kernelVersion": kernel_version(),
                "kubeProxyVersion": "",
                "kubeletVersion": "v1.33.0",
                "operatingSystem": "linux",
                "osImage": "floater simulator",
            },
        },
    })
}

fn kernel_version() -> String {
    std::fs::read_to_string("/proc/sys/kernel/osrelease")
        .map(|text| text.trim().to_owned())
        .unwrap_or_default()
}

/// The Cluster object of the control plane, complete with what Kosmos' controllers would find.
pub(crate) fn cluster(cluster: &Cluster, is_root: bool, kubeconfig: &str) -> Value {
    let texts =
        |nets: &[ipnet::IpNet]| -> Vec<String> { nets.iter().map(ToString::to_string).collect() };
    let options = api::ClusterLinkOptions {
        cni: "host-gw".to_owned(),
        network_type: match cluster.mode {
            Mode::Gateway => api::NetworkType::Gateway,
            Mode::P2p => api::NetworkType::P2p,
        },
        ip_family: cluster.family.to_string(),
        global_cidrs_map: cluster.global_cidrs_map.clone(),
        ..api::ClusterLinkOptions::default()
    };
    let role = if is_root {
        json!({api::ROLE_LABEL: "root"})
    } else {
        json!({})
    };
    json!({
        "apiVersion": format!("{}/{}", api::GROUP, api::VERSION),
        "kind": "Cluster",
        "metadata": {"name": cluster.name, "labels": role, "annotations": role},
        "spec": {
            "namespace": NAMESPACE,
            "kubeconfig": STANDARD.encode(kubeconfig),
            "clusterLinkOptions": options,
        },
        "status": {"clusterLinkStatus": {
            "podCIDRs": texts(&cluster.pod_cidrs),
            "serviceCIDRs": texts(&cluster.service_cidrs),
        }},
    })
}

/// A ClusterNode's name.
pub(crate) fn cluster_node_name(cluster: &str, node: &str) -> String {
    format!("{cluster}-{node}")
}

/// The ClusterNode object of the control plane; roles are the elector's to give.
pub(crate) fn cluster_node(cluster: &Cluster, node: &Node) -> Value {
    let text = |ip: Option<String>| ip.unwrap_or_default();
    json!({
        "apiVersion": format!("{}/{}", api::GROUP, api::VERSION),
        "kind": "ClusterNode",
        "metadata": {
            "name": cluster_node_name(&cluster.name, &node.name),
            "labels": {api::CLUSTER_LABEL: cluster.name},
        },
        "spec": {
            "clusterName": cluster.name,
            "nodeName": node.name,
            "podCIDRs": node.pod_cidrs,
            "ip": text(node.ip.map(|ip| ip.to_string())),
            "ip6": text(node.ip6.map(|ip| ip.to_string())),
            "interfaceName": "eth0",
            "roles": [],
        },
    })
}

/// A namespace.
pub(crate) fn namespace(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
}

/// Where a cluster says that its own API is: what the API server itself writes.
pub(crate) fn endpoint_slice(address: SocketAddr) -> Value {
    let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": "kubernetes",
            "namespace": "default",
            "labels": {"kubernetes.io/service-name": "kubernetes"},
        },
        "addressType": family,
        "endpoints": [{"addresses": [address.ip()], "conditions": {"ready": true}}],
        "ports": [{"name": "https", "port": address.port(), "protocol": "TCP"}],
    })
}

/// The names and prefixes of a cluster's ServiceCIDRs: each has one of a family at most.
pub(crate) fn service_cidrs(cluster: &Cluster) -> Vec<(String, Vec<String>)> {
    let of = |is_ipv4: bool| {
        let nets = cluster.service_cidrs.iter();
        nets.filter(move |net| net.addr().is_ipv4() == is_ipv4)
            .map(ToString::to_string)
    };
    let (mut ipv4, mut ipv6) = (of(true), of(false));
    let mut objects = Vec::new();
    loop {
        let cidrs: Vec<String> = ipv4.next().into_iter().chain(ipv6.next()).collect();
        if cidrs.is_empty() {
            return objects;
        }
        let name = match objects.len() {
            0 => "kubernetes".to_owned(),
            more => format!("kubernetes-{}", more + 1),
        };
        objects.push((name, cidrs));
    }
}

/// The key that the lab's floaters prove themselves with, in hexadecimal.
pub(crate) fn secret(key_hex: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": SECRET, "namespace": NAMESPACE, "labels": labels("pod", false)},
        "type": "Opaque",
        "data": {"key": STANDARD.encode(key_hex)},
    })
}

fn labels(layer: &str, with_layer: bool) -> Value {
    let mut labels = json!({
        "app.kubernetes.io/name": "floater",
        "app.kubernetes.io/managed-by": "floaterctl",
        "floater.kosmos.io/run": RUN,
    });
    if with_layer {
        labels["floater.kosmos.io/layer"] = layer.into();
    }
    labels
}

/// The DaemonSet of the floaters of one layer.
pub(crate) fn daemon_set(host: bool, cluster_id: &str) -> Value {
    let (name, layer) = if host {
        ("floater-host", "host")
    } else {
        ("floater", "pod")
    };
    let labels = labels(layer, true);
    let field = |path: &str| json!({"fieldRef": {"apiVersion": "v1", "fieldPath": path}});
    json!({
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": name, "namespace": NAMESPACE, "labels": labels},
        "spec": {
            "selector": {"matchLabels": {"floater.kosmos.io/run": RUN, "floater.kosmos.io/layer": layer}},
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "hostNetwork": host,
                    "automountServiceAccountToken": false,
                    "terminationGracePeriodSeconds": 1,
                    "tolerations": [{"operator": "Exists"}],
                    "containers": [{
                        "name": "floater",
                        "image": concat!("clusterlink-floater:", env!("CARGO_PKG_VERSION")),
                        "ports": [
                            {"name": "probe", "containerPort": floater::wire::PORT},
                            {"name": "api", "containerPort": floater::wire::API_PORT},
                        ],
                        "env": [
                            {"name": "FLOATER_CLUSTER_ID", "value": cluster_id},
                            {"name": "FLOATER_NODE", "valueFrom": field("spec.nodeName")},
                            {"name": "FLOATER_LAYER", "value": layer},
                            {"name": "FLOATER_RUN", "value": RUN},
                            {"name": "FLOATER_RUN_KEY",
                             "valueFrom": {"secretKeyRef": {"name": SECRET, "key": "key"}}},
                            {"name": "PORT", "value": floater::wire::PORT.to_string()},
                            {"name": "FLOATER_API_PORT", "value": floater::wire::API_PORT.to_string()},
                        ],
                        "readinessProbe": {
                            "httpGet": {"path": "/", "port": floater::wire::PORT},
                            "periodSeconds": 10,
                            "timeoutSeconds": 2,
                        },
                    }],
                },
            },
        },
    })
}

/// Whether a Node says that it is ready.
pub(crate) fn is_ready(node: &Value) -> bool {
    node["status"]["conditions"]
        .as_array()
        .into_iter()
        .flatten()
        .any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

/// Whether a Pod says that it is ready.
pub(crate) fn is_pod_ready(pod: &Value) -> bool {
    is_ready(pod)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::{Families, ModeChoice, generated};

    #[test]
    fn the_planner_reads_the_objects_back() {
        let topology = generated(2, 1, ModeChoice::Mixed, Families::All).expect("topology");
        let fleet: api::Fleet = serde_json::from_value(json!({
            "clusters": topology.clusters.iter().map(|one| cluster(one, false, "")).collect::<Vec<_>>(),
            "clusterNodes": topology.clusters.iter()
                .flat_map(|one| one.nodes.iter().map(|node| cluster_node(one, node)))
                .collect::<Vec<_>>(),
        }))
        .expect("objects");
        let planned = datapath::plan::plan(&fleet);
        // Nobody is elected before there is a control plane.
        let others: Vec<_> = planned
            .objections
            .iter()
            .filter(|objection| objection.code != datapath::code::Code::GatewayNotElected)
            .collect();
        assert!(others.is_empty(), "{others:?}");
        assert_eq!(
            planned.configs.keys().collect::<Vec<_>>(),
            ["c1-n1", "c2-n1"]
        );
    }

    #[test]
    fn a_kubeconfig_is_yaml_with_a_context_per_cluster() {
        let access = |name: &str, port| Access {
            cluster: name.to_owned(),
            server: format!("https://127.0.0.1:{port}/clusters/{name}"),
            token: format!("token-{name}"),
        };
        let text = kubeconfig("PEM", &[access("no", 1), access("7", 2)]);
        let read: Value = serde_saphyr::from_str(&text).expect("YAML");
        assert_eq!(read["current-context"], "no");
        assert_eq!(read["contexts"][1]["name"], "7");
        assert_eq!(
            read["clusters"][1]["cluster"]["server"],
            "https://127.0.0.1:2/clusters/7"
        );
        assert_eq!(read["users"][0]["user"]["token"], "token-no");
    }
}
