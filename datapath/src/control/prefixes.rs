//! Which prefixes the pods and services of a member cluster have.
//!
//! No API says so in one place. Each source below is asked in the order of how directly it decides, and the first that knows
//! something counts; what nobody knows stays as it was.
//!
//! | | pods | services |
//! |---|---|---|
//! | 1 | the CNI's own: Calico's IPPools, flannel's and Cilium's ConfigMaps | ServiceCIDR objects (Kubernetes 1.33) |
//! | 2 | kubeadm's ConfigMap | the API server's flags, where it runs as a pod |
//! | 3 | the flags of k3s, or its defaults | kubeadm's ConfigMap |
//! | 4 | Node.spec.podCIDRs of all nodes | the flags of k3s, or its defaults |
//! | 5 | | what the API server says when it refuses an impossible ClusterIP |

use ipnet::IpNet;
use serde_json::{Value, json};

use super::nodes::Node;

/// Where prefixes were found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// The flags of the API server.
    ApiServer,
    /// Calico's IPPools.
    Calico,
    /// Cilium's ConfigMap.
    Cilium,
    /// flannel's ConfigMap.
    Flannel,
    /// k3s.
    K3s,
    /// kubeadm's ConfigMap.
    Kubeadm,
    /// The Nodes.
    Nodes,
    /// The API server's refusal of an impossible ClusterIP.
    Refusal,
    /// ServiceCIDR objects.
    ServiceCidr,
}

impl Source {
    /// For people.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::ApiServer => "flags of kube-apiserver",
            Self::Calico => "IPPools of Calico",
            Self::Cilium => "ConfigMap cilium-config",
            Self::Flannel => "ConfigMap kube-flannel-cfg",
            Self::K3s => "k3s",
            Self::Kubeadm => "ConfigMap kubeadm-config",
            Self::Nodes => "podCIDRs of the Nodes",
            Self::Refusal => "refusal of a ClusterIP",
            Self::ServiceCidr => "ServiceCIDRs",
        }
    }
}

/// What a member cluster shows. Whatever is not there is empty.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Evidence {
    /// The CNI that its Cluster names.
    pub cni: String,
    /// Its Nodes.
    pub nodes: Vec<Node>,
    /// `ippools.crd.projectcalico.org`.
    pub ip_pools: Vec<Value>,
    /// `net-conf.json` of flannel's ConfigMap.
    pub flannel: Option<String>,
    /// The data of `cilium-config`.
    pub cilium: Value,
    /// `ClusterConfiguration` of `kubeadm-config`.
    pub kubeadm: Value,
    /// Command and arguments of the API server's pods.
    pub api_server: Vec<String>,
    /// `servicecidrs.networking.k8s.io`.
    pub service_cidrs: Vec<Value>,
    /// What the API server said to impossible ClusterIPs, one text for each family.
    pub refusals: Vec<String>,
}

/// The prefixes of a cluster: each once, in the order of their source.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// Of pods, and who said so.
    pub pods: Option<(Source, Vec<IpNet>)>,
    /// Of services, and who said so.
    pub services: Option<(Source, Vec<IpNet>)>,
}

/// The prefixes in the first source that knows any.
fn first(sources: impl IntoIterator<Item = (Source, Vec<IpNet>)>) -> Option<(Source, Vec<IpNet>)> {
    sources.into_iter().find(|(_, nets)| !nets.is_empty())
}

/// Reads prefixes out of words; what is none is passed over, and so is one that would be everybody's.
fn nets<'a>(words: impl IntoIterator<Item = &'a str>) -> Vec<IpNet> {
    let mut nets: Vec<IpNet> = Vec::new();
    for word in words {
        let Ok(net) = word.trim().parse::<IpNet>() else {
            continue;
        };
        let net = net.trunc();
        if net.prefix_len() > 0 && !nets.contains(&net) {
            nets.push(net);
        }
    }
    nets
}

/// The words of a list that somebody wrote with commas or blanks.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| c == ',' || c.is_whitespace())
}

impl Evidence {
    /// What follows from it.
    #[must_use]
    pub fn prefixes(&self) -> Found {
        let cni = [self.calico(), self.flannel(), self.cilium()];
        let named = match self.cni.as_str() {
            "flannel" => Some(Source::Flannel),
            "cilium" => Some(Source::Cilium),
            // The CRD's default, which nobody need have meant.
            _ => None,
        };
        let (own, others): (Vec<_>, Vec<_>) = cni
            .into_iter()
            .partition(|(source, _)| named == Some(*source));
        let rest = [
            (Source::Kubeadm, self.kubeadm("podSubnet")),
            (Source::K3s, self.k3s("--cluster-cidr", "10.42.0.0/16")),
            (Source::Nodes, self.of_nodes()),
        ];
        Found {
            pods: first(own.into_iter().chain(others).chain(rest)),
            services: first([
                (Source::ServiceCidr, self.of_service_cidrs()),
                (
                    Source::ApiServer,
                    flag(&self.api_server, "--service-cluster-ip-range"),
                ),
                (Source::Kubeadm, self.kubeadm("serviceSubnet")),
                (Source::K3s, self.k3s("--service-cidr", "10.43.0.0/16")),
                (Source::Refusal, self.of_refusals()),
            ]),
        }
    }

    /// Whether the API server has to be asked for an impossible ClusterIP: nobody else knows.
    #[must_use]
    pub fn needs_refusal(&self) -> bool {
        self.prefixes().services.is_none()
    }

    fn calico(&self) -> (Source, Vec<IpNet>) {
        let pools = self.ip_pools.iter().filter(|pool| {
            let name = pool["metadata"]["name"].as_str().unwrap_or_default();
            // Those that tell Calico of other clusters' prefixes, and those that give no pod an address.
            !name.starts_with("clusterlink") && pool["spec"]["disabled"] != true
        });
        (
            Source::Calico,
            nets(pools.filter_map(|pool| pool["spec"]["cidr"].as_str())),
        )
    }

    fn flannel(&self) -> (Source, Vec<IpNet>) {
        let text = self.flannel.as_deref().unwrap_or_default();
        let config: Value = serde_json::from_str(text).unwrap_or_default();
        let of = ["Network", "IPv6Network"]
            .iter()
            .filter_map(|key| config[*key].as_str());
        let mut found = nets(of);
        if found.is_empty() && self.nodes.iter().any(|node| node.is_flannels) {
            // Built into something else, k3s say: it hands out what the Nodes have.
            found = self.of_nodes();
        }
        (Source::Flannel, found)
    }

    fn cilium(&self) -> (Source, Vec<IpNet>) {
        let of = |key: &str| self.cilium[key].as_str().unwrap_or_default();
        // Other modes take the Nodes' or a cloud's prefixes.
        let is_pool = matches!(
            of("ipam"),
            "" | "cluster-pool" | "cluster-pool-v2beta" | "multi-pool"
        );
        let keys = ["cluster-pool-ipv4-cidr", "cluster-pool-ipv6-cidr"];
        let found = if is_pool {
            nets(keys.iter().flat_map(|key| words(of(key))))
        } else {
            Vec::new()
        };
        (Source::Cilium, found)
    }

    fn kubeadm(&self, key: &str) -> Vec<IpNet> {
        nets(words(
            self.kubeadm["networking"][key].as_str().unwrap_or_default(),
        ))
    }

    fn k3s(&self, name: &str, default: &str) -> Vec<IpNet> {
        let is_server = |node: &&Node| node.k3s.first().is_some_and(|word| word == "server");
        let servers: Vec<&Node> = self.nodes.iter().filter(is_server).collect();
        let said = servers.iter().map(|node| flag(&node.k3s, name));
        let said = said.into_iter().find(|nets| !nets.is_empty());
        match said {
            Some(said) => said,
            None if servers.is_empty() => Vec::new(),
            None => nets([default]),
        }
    }

    fn of_nodes(&self) -> Vec<IpNet> {
        let of = self.nodes.iter().flat_map(|node| &node.pod_cidrs);
        IpNet::aggregate(&nets(of.map(String::as_str)))
    }

    fn of_service_cidrs(&self) -> Vec<IpNet> {
        let objects = self.service_cidrs.iter().filter(|object| {
            let conditions = object["status"]["conditions"].as_array();
            let is_off = |one: &Value| one["type"] == "Ready" && one["status"] == "False";
            object["metadata"]["deletionTimestamp"].is_null()
                && !conditions.into_iter().flatten().any(is_off)
        });
        let of =
            objects.flat_map(|object| object["spec"]["cidrs"].as_array().into_iter().flatten());
        nets(of.filter_map(Value::as_str))
    }

    fn of_refusals(&self) -> Vec<IpNet> {
        const SAYS: &str = "valid IPs is ";
        let said = self
            .refusals
            .iter()
            .filter_map(|text| text.split_once(SAYS));
        nets(
            said.flat_map(|(_, rest)| words(rest).take(2))
                .map(|word| word.trim_end_matches(['.', '"', '\''])),
        )
    }
}

/// What a program's words say about a flag, as `--flag value` or `--flag=value`.
fn flag(argv: &[String], name: &str) -> Vec<IpNet> {
    for (at, word) in argv.iter().enumerate() {
        let value = match word.strip_prefix(name) {
            Some("") => argv.get(at + 1).map(String::as_str),
            Some(rest) => rest.strip_prefix('='),
            None => None,
        };
        if let Some(value) = value {
            return nets(words(value));
        }
    }
    Vec::new()
}

impl Found {
    /// The merge patch that brings a Cluster's status up to what was found; none where it is. What was not found stays, and the prefixes of
    /// Nodes narrow nothing: a cluster may have more than its nodes have taken so far.
    #[must_use]
    pub fn patch(&self, cluster: &Value) -> Option<Value> {
        let status = &cluster["status"]["clusterLinkStatus"];
        let mut patch = json!({});
        for (field, found) in [("podCIDRs", &self.pods), ("serviceCIDRs", &self.services)] {
            let Some((source, found)) = found else {
                continue;
            };
            let held = status[field].as_array();
            // An object with a word that is no prefix is not what was found.
            let held: Option<Vec<IpNet>> = held.and_then(|held| {
                held.iter()
                    .map(|one| one.as_str()?.parse::<IpNet>().ok())
                    .map(|net| Some(net?.trunc()))
                    .collect()
            });
            let is_wider = |held: &[IpNet]| {
                let mut each = found.iter();
                each.all(|net| held.iter().any(|held| held.contains(net)))
            };
            if *source == Source::Nodes && held.as_deref().is_some_and(is_wider) {
                continue;
            }
            let sorted = |nets: &[IpNet]| {
                let mut nets = nets.to_vec();
                nets.sort();
                nets
            };
            if held.as_deref().map(sorted) != Some(sorted(found)) {
                let texts: Vec<String> = found.iter().map(ToString::to_string).collect();
                patch["status"]["clusterLinkStatus"][field] = texts.into();
            }
        }
        patch.get("status")?;
        patch["metadata"]["resourceVersion"] = cluster["metadata"]["resourceVersion"].clone();
        Some(patch)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn said(found: &Option<(Source, Vec<IpNet>)>) -> (Option<Source>, String) {
        match found {
            None => (None, String::new()),
            Some((source, nets)) => {
                let texts: Vec<String> = nets.iter().map(ToString::to_string).collect();
                (Some(*source), texts.join(" "))
            }
        }
    }

    fn nodes(pod_cidrs: &[&str]) -> Vec<Node> {
        let of = |cidr: &&str| Node {
            pod_cidrs: vec![(*cidr).to_owned()],
            ..Node::default()
        };
        pod_cidrs.iter().map(of).collect()
    }

    #[test]
    fn pods() {
        let pool = |name: &str, cidr: &str, disabled: bool| json!({"metadata": {"name": name}, "spec": {"cidr": cidr, "disabled": disabled}});
        let calico = vec![
            pool("default", "10.244.0.0/16", false),
            pool("clusterlink-b-pod-10-9-0-0-16", "10.9.0.0/16", true),
            pool("off", "10.8.0.0/16", true),
            pool("odd", "nonsense", false),
        ];
        let kubeadm = json!({"networking": {"podSubnet": "10.1.0.0/16,fd01::/48", "serviceSubnet": "10.2.0.0/16"}});
        let flannel = Some(
            r#"{"Network": "10.3.0.0/16", "IPv6Network": "fd03::/48", "EnableIPv6": true}"#
                .to_owned(),
        );
        let cilium = json!({"ipam": "cluster-pool", "cluster-pool-ipv4-cidr": "10.4.0.0/16 10.5.0.0/16", "cluster-pool-ipv6-cidr": ""});
        let k3s = |words: &[&str]| {
            vec![Node {
                k3s: words.iter().map(|word| (*word).to_owned()).collect(),
                pod_cidrs: vec!["10.42.0.0/24".to_owned()],
                is_flannels: false,
                ..Node::default()
            }]
        };
        let none = Evidence::default;
        for (evidence, source, wanted) in [
            (
                Evidence {
                    ip_pools: calico.clone(),
                    kubeadm: kubeadm.clone(),
                    ..none()
                },
                Source::Calico,
                "10.244.0.0/16",
            ),
            (
                Evidence {
                    flannel: flannel.clone(),
                    nodes: nodes(&["10.3.0.0/24"]),
                    ..none()
                },
                Source::Flannel,
                "10.3.0.0/16 fd03::/48",
            ),
            (
                Evidence {
                    cilium: cilium.clone(),
                    ..none()
                },
                Source::Cilium,
                "10.4.0.0/16 10.5.0.0/16",
            ),
            (
                Evidence {
                    cni: "cilium".to_owned(),
                    ip_pools: calico,
                    cilium,
                    ..none()
                },
                Source::Cilium,
                "10.4.0.0/16 10.5.0.0/16",
            ),
            (
                Evidence { kubeadm, ..none() },
                Source::Kubeadm,
                "10.1.0.0/16 fd01::/48",
            ),
            (
                Evidence {
                    nodes: k3s(&["server"]),
                    ..none()
                },
                Source::K3s,
                "10.42.0.0/16",
            ),
            (
                Evidence {
                    nodes: k3s(&["server", "--cluster-cidr", "10.7.0.0/16"]),
                    ..none()
                },
                Source::K3s,
                "10.7.0.0/16",
            ),
            (
                Evidence {
                    nodes: k3s(&["agent"]),
                    ..none()
                },
                Source::Nodes,
                "10.42.0.0/24",
            ),
            (
                Evidence {
                    nodes: nodes(&["10.6.0.0/24", "10.6.1.0/24", "10.6.9.0/24"]),
                    ..none()
                },
                Source::Nodes,
                "10.6.0.0/23 10.6.9.0/24",
            ),
            (
                Evidence {
                    cilium: json!({"ipam": "kubernetes", "cluster-pool-ipv4-cidr": "10.0.0.0/8"}),
                    nodes: nodes(&["10.6.0.0/24"]),
                    ..none()
                },
                Source::Nodes,
                "10.6.0.0/24",
            ),
        ] {
            assert_eq!(
                said(&evidence.prefixes().pods),
                (Some(source), wanted.to_owned()),
                "{evidence:?}"
            );
        }
        assert_eq!(none().prefixes(), Found::default());
    }

    #[test]
    fn services() {
        let none = Evidence::default;
        let words = |words: &[&str]| {
            words
                .iter()
                .map(|word| (*word).to_owned())
                .collect::<Vec<_>>()
        };
        let objects = vec![
            json!({"metadata": {"name": "kubernetes"}, "spec": {"cidrs": ["10.96.0.0/12", "fd96::/108"]}}),
            json!({"metadata": {"name": "more"}, "spec": {"cidrs": ["10.200.0.0/16"]}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}}),
            json!({"metadata": {"name": "going", "deletionTimestamp": "now"}, "spec": {"cidrs": ["10.201.0.0/16"]}}),
        ];
        let refusals = words(&[
            r#"Service "x" is invalid: spec.clusterIPs: Invalid value: []string{"192.0.2.1"}: failed to allocate IP 192.0.2.1: the provided IP (192.0.2.1) is not in the valid range. The range of valid IPs is 10.96.0.0/12"#,
            "spec.clusterIPs[0]: the provided network does not match the current range",
        ]);
        for (evidence, source, wanted) in [
            (
                Evidence {
                    service_cidrs: objects,
                    refusals: refusals.clone(),
                    ..none()
                },
                Source::ServiceCidr,
                "10.96.0.0/12 fd96::/108 10.200.0.0/16",
            ),
            (
                Evidence {
                    api_server: words(&[
                        "kube-apiserver",
                        "--service-cluster-ip-range=10.97.0.0/16,fd97::/112",
                    ]),
                    ..none()
                },
                Source::ApiServer,
                "10.97.0.0/16 fd97::/112",
            ),
            (
                Evidence { refusals, ..none() },
                Source::Refusal,
                "10.96.0.0/12",
            ),
        ] {
            assert!(!evidence.needs_refusal());
            assert_eq!(
                said(&evidence.prefixes().services),
                (Some(source), wanted.to_owned())
            );
        }
        assert!(none().needs_refusal());
    }

    #[test]
    fn only_a_difference_is_written_and_nothing_is_ever_forgotten() {
        let cluster = json!({"metadata": {"resourceVersion": "7"}, "status": {"clusterLinkStatus": {"podCIDRs": ["10.1.2.3/16"], "serviceCIDRs": ["10.2.0.0/16"]}}});
        let found = |pods: &[&str]| Found {
            pods: Some((Source::Nodes, nets(pods.iter().copied()))),
            services: None,
        };
        assert_eq!(found(&["10.1.0.0/16"]).patch(&cluster), None);
        assert_eq!(
            found(&["10.1.7.0/24", "10.1.9.0/24"]).patch(&cluster),
            None,
            "Nodes narrow nothing"
        );
        assert_eq!(Found::default().patch(&cluster), None);
        let patch = found(&["10.3.0.0/16"])
            .patch(&cluster)
            .expect("a difference");
        assert_eq!(
            patch,
            json!({"status": {"clusterLinkStatus": {"podCIDRs": ["10.3.0.0/16"]}}, "metadata": {"resourceVersion": "7"}})
        );
    }

    proptest! {
        /// Whatever stands in the objects of others, nothing panics.
        #[test]
        fn any_text_is_survived(text in ".{0,80}", other in ".{0,80}") {
            let evidence = Evidence {
                flannel: Some(text.clone()), cilium: json!({"cluster-pool-ipv4-cidr": text}), kubeadm: json!({"networking": other}),
                refusals: vec![format!("valid IPs is {text}")], api_server: vec![format!("--service-cluster-ip-range={other}")],
                ..Evidence::default()
            };
            let _ = evidence.prefixes();
        }
    }
}
