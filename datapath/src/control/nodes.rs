//! From the Nodes of a member cluster to its ClusterNodes.
//!
//! A ClusterNode has several writers, each with fields of its own: the controller its names, pod prefixes and the Node's addresses, the
//! elector its roles, the node's agent the link, and whatever address it found there. So the controller remembers in an
//! [annotation](ADDRESSES) which addresses it wrote, and leaves alone every other.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde_json::{Map, Value, json};

use crate::api::{CLUSTER_LABEL, GROUP, VERSION};

/// The annotation of a ClusterNode that holds the addresses that the controller wrote: IPv4, a comma, IPv6; each may be empty.
pub const ADDRESSES: &str = "clusterlink.kosmos.io/node-addresses";
/// The label of Nodes that are no place of the datapath, with the value `true`.
pub const EXCLUDED: &str = "kosmos.io/exclude";
/// The label of Nodes that stand for a whole cluster, with the value `true`.
const VIRTUAL: &str = "kosmos.io/node";

/// What the controller reads of a Node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its first internal address of each family.
    pub ip: Option<IpAddr>,
    /// See `ip`.
    pub ip6: Option<IpAddr>,
    /// Its pod prefixes, as it writes them.
    pub pod_cidrs: Vec<String>,
    /// Whether its kubelet says that it is ready.
    pub is_ready: bool,
    /// Whether it takes part in the datapath.
    pub is_member: bool,
    /// The words that k3s was started with there; empty elsewhere.
    pub k3s: Vec<String>,
    /// Whether flannel gives its pods addresses out of `pod_cidrs`.
    pub is_flannels: bool,
}

impl Node {
    /// Reads a Node; none where it has no name.
    #[must_use]
    pub fn of(object: &Value) -> Option<Self> {
        let metadata = &object["metadata"];
        let name = metadata["name"].as_str().filter(|name| !name.is_empty())?;
        let addresses = object["status"]["addresses"].as_array();
        let internal: Vec<IpAddr> = addresses
            .into_iter()
            .flatten()
            .filter(|address| address["type"] == "InternalIP")
            .filter_map(|address| address["address"].as_str()?.parse().ok())
            .collect();
        let pod_cidrs = object["spec"]["podCIDRs"].as_array();
        let mut pod_cidrs: Vec<String> = pod_cidrs
            .into_iter()
            .flatten()
            .filter_map(|one| one.as_str().map(str::to_owned))
            .collect();
        if let (true, Some(only)) = (pod_cidrs.is_empty(), object["spec"]["podCIDR"].as_str()) {
            pod_cidrs.push(only.to_owned());
        }
        let conditions = object["status"]["conditions"].as_array();
        let is_ready = conditions
            .into_iter()
            .flatten()
            .any(|one| one["type"] == "Ready" && one["status"] == "True");
        let is_marked = |label: &str| metadata["labels"][label] == "true";
        let annotation = |key: &str| metadata["annotations"][key].as_str();
        Some(Self {
            name: name.to_owned(),
            ip: internal.iter().copied().find(IpAddr::is_ipv4),
            ip6: internal.iter().copied().find(IpAddr::is_ipv6),
            pod_cidrs,
            is_ready,
            is_member: !is_marked(EXCLUDED) && !is_marked(VIRTUAL),
            k3s: annotation("k3s.io/node-args")
                .and_then(|text| serde_json::from_str(text).ok())
                .unwrap_or_default(),
            is_flannels: annotation("flannel.alpha.coreos.com/kube-subnet-manager") == Some("true"),
        })
    }
}

/// Which links a Cluster's spec names for its nodes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Links {
    by_node: BTreeMap<String, String>,
    default: Option<String>,
}

impl Links {
    /// Reads a Cluster: the first entry of `nicNodeNames` that names a node wins, then `defaultNICName`; `*` is for the node's agent to find.
    #[must_use]
    pub fn of(cluster: &Value) -> Self {
        let options = &cluster["spec"]["clusterLinkOptions"];
        let mut by_node = BTreeMap::new();
        for entry in options["nicNodeNames"].as_array().into_iter().flatten() {
            let Some(link) = entry["interfaceName"].as_str() else {
                continue;
            };
            let nodes = entry["nodeName"].as_array().into_iter().flatten();
            for node in nodes.filter_map(Value::as_str) {
                let link = || link.to_owned();
                by_node.entry(node.to_owned()).or_insert_with(link);
            }
        }
        let default = options["defaultNICName"].as_str();
        let default = default.filter(|name| !matches!(*name, "" | "*"));
        Self {
            by_node,
            default: default.map(str::to_owned),
        }
    }

    /// The link of a node; none where its agent has to find it.
    #[must_use]
    pub fn link(&self, node: &str) -> Option<&str> {
        let own = self.by_node.get(node).or(self.default.as_ref());
        own.map(String::as_str)
    }
}

/// What is to be done with one ClusterNode.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// It is to be changed by this merge patch.
    Change {
        /// Its name.
        name: String,
        /// The patch, with the version that it is made for.
        patch: Value,
    },
    /// It is to be made.
    Create {
        /// Its name.
        name: String,
        /// The object.
        object: Value,
    },
    /// It is to be gone, unless it was changed since.
    Delete {
        /// Its name.
        name: String,
        /// Its `uid`.
        uid: String,
        /// Its `resourceVersion`.
        version: String,
    },
}

impl Command {
    /// The ClusterNode's name.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Change { name, .. } | Self::Create { name, .. } | Self::Delete { name, .. } => {
                name
            }
        }
    }
}

/// What a cluster's ClusterNodes have to become.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Changes {
    /// What is to be done, sorted by name.
    pub commands: Vec<Command>,
    /// The names that belong to another cluster: `a` and `b-c` make the same as `a-b` and `c`.
    pub taken: BTreeSet<String>,
}

/// What a member cluster says.
#[derive(Debug, Clone, Default)]
pub struct Member {
    /// Its name.
    pub cluster: String,
    /// Every Node. One that is not among them is gone.
    pub nodes: BTreeMap<String, Node>,
    /// The links that its Cluster names.
    pub links: Links,
    /// Pod prefixes of nodes that their CNI hands out by itself; the Node's own count where there are none.
    pub blocks: BTreeMap<String, Vec<String>>,
}

impl Member {
    /// The pod prefixes of a node; empty while nobody knows.
    fn pod_cidrs<'a>(&'a self, node: &'a Node) -> &'a [String] {
        let own = self.blocks.get(&node.name);
        own.filter(|own| !own.is_empty()).unwrap_or(&node.pod_cidrs)
    }

    /// Compares with the ClusterNodes that carry the cluster's label, or one of its names, by name.
    #[must_use]
    pub fn changes(&self, held: &BTreeMap<String, Value>) -> Changes {
        let mut changes = Changes::default();
        let mut wanted = BTreeSet::new();
        for node in self.nodes.values().filter(|node| node.is_member) {
            let name = format!("{}-{}", self.cluster, node.name);
            match held.get(&name) {
                None => {
                    let object = self.made(&name, node);
                    let name = name.clone();
                    changes.commands.push(Command::Create { name, object });
                }
                Some(object) if self.is_anothers(object) => {
                    changes.taken.insert(name.clone());
                }
                Some(object) => {
                    if let Some(patch) = self.patch(object, node) {
                        let name = name.clone();
                        changes.commands.push(Command::Change { name, patch });
                    }
                }
            }
            wanted.insert(name);
        }
        // Whoever asks runs on one of them: a list without any is no word about nodes.
        if !self.nodes.is_empty() {
            for (name, object) in held {
                if !wanted.contains(name) && self.is_ours(name, object) {
                    let text = |field: &str| {
                        object["metadata"][field]
                            .as_str()
                            .unwrap_or_default()
                            .to_owned()
                    };
                    changes.commands.push(Command::Delete {
                        name: name.clone(),
                        uid: text("uid"),
                        version: text("resourceVersion"),
                    });
                }
            }
        }
        changes
            .commands
            .sort_by(|one, other| one.name().cmp(other.name()));
        changes
    }

    fn is_anothers(&self, object: &Value) -> bool {
        let cluster = object["spec"]["clusterName"].as_str().unwrap_or_default();
        !cluster.is_empty() && cluster != self.cluster
    }

    /// Whether a ClusterNode is one that this cluster's controller makes.
    fn is_ours(&self, name: &str, object: &Value) -> bool {
        let text = |field: &str| object["spec"][field].as_str();
        object["metadata"]["labels"][CLUSTER_LABEL] == *self.cluster
            && text("clusterName") == Some(&self.cluster)
            && text("nodeName").is_some_and(|node| name == format!("{}-{node}", self.cluster))
    }

    fn made(&self, name: &str, node: &Node) -> Value {
        let text = |ip: Option<IpAddr>| ip.map(|ip| ip.to_string()).unwrap_or_default();
        let (ip, ip6) = (text(node.ip), text(node.ip6));
        let mut object = json!({
            "apiVersion": format!("{GROUP}/{VERSION}"), "kind": "ClusterNode",
            "metadata": {
                "name": name,
                "labels": {CLUSTER_LABEL: self.cluster},
                "annotations": {ADDRESSES: format!("{ip},{ip6}")},
            },
            "spec": {"clusterName": self.cluster, "nodeName": node.name, "podCIDRs": self.pod_cidrs(node), "ip": ip, "ip6": ip6},
        });
        if let Some(link) = self.links.link(&node.name) {
            object["spec"]["interfaceName"] = link.into();
        }
        object
    }

    /// What of a ClusterNode's fields that are the controller's is otherwise than it should be.
    fn patch(&self, object: &Value, node: &Node) -> Option<Value> {
        let (metadata, spec) = (&object["metadata"], &object["spec"]);
        let mut fields = Map::new();
        let mut set = |field: &str, value: Value| {
            if spec[field] != value {
                fields.insert(field.to_owned(), value);
            }
        };
        set("clusterName", self.cluster.as_str().into());
        set("nodeName", node.name.as_str().into());
        let pod_cidrs = self.pod_cidrs(node);
        if !pod_cidrs.is_empty() {
            set("podCIDRs", pod_cidrs.into());
        }
        if let Some(link) = self.links.link(&node.name) {
            set("interfaceName", link.into());
        }
        let wrote = metadata["annotations"][ADDRESSES].as_str().unwrap_or(",");
        let (wrote, wrote6) = wrote.split_once(',').unwrap_or((wrote, ""));
        let mut addresses = [String::new(), String::new()];
        let families = [("ip", wrote, node.ip), ("ip6", wrote6, node.ip6)];
        for (at, (field, wrote, own)) in families.into_iter().enumerate() {
            // Empty, of no use to anybody, or the controller's own word.
            let is_free = spec[field]
                .as_str()
                .is_none_or(|now| now.is_empty() || now == wrote);
            if is_free {
                let own = own.map(|ip| ip.to_string()).unwrap_or_default();
                if !(own.is_empty() && spec[field].is_null()) {
                    set(field, own.as_str().into());
                }
                addresses[at] = own;
            }
        }
        let mut patch = json!({});
        if !fields.is_empty() {
            patch["spec"] = fields.into();
        }
        if metadata["labels"][CLUSTER_LABEL] != *self.cluster {
            patch["metadata"]["labels"][CLUSTER_LABEL] = self.cluster.as_str().into();
        }
        let annotation = addresses.join(",");
        if annotation != format!("{wrote},{wrote6}") {
            patch["metadata"]["annotations"][ADDRESSES] = annotation.into();
        }
        if patch.as_object().is_none_or(Map::is_empty) {
            return None;
        }
        // Whoever wrote meanwhile is looked at first.
        patch["metadata"]["resourceVersion"] = metadata["resourceVersion"].clone();
        Some(patch)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn node(name: &str, addresses: &[&str]) -> Value {
        let addresses: Vec<Value> = addresses
            .iter()
            .map(|ip| json!({"type": "InternalIP", "address": ip}))
            .collect();
        json!({"metadata": {"name": name}, "spec": {"podCIDRs": ["10.0.1.0/24"]},
               "status": {"addresses": addresses, "conditions": [{"type": "Ready", "status": "True"}]}})
    }

    fn member(nodes: &[Value]) -> Member {
        Member {
            cluster: "a".to_owned(),
            nodes: nodes
                .iter()
                .filter_map(Node::of)
                .map(|node| (node.name.clone(), node))
                .collect(),
            ..Member::default()
        }
    }

    /// Does what is to be done, as an API server would.
    fn serve(held: &mut BTreeMap<String, Value>, member: &Member) -> Vec<String> {
        let mut did = Vec::new();
        for command in &member.changes(held).commands {
            let name = command.name().to_owned();
            did.push(match command {
                Command::Create { object, .. } => {
                    held.insert(name.clone(), object.clone());
                    format!("create {name}")
                }
                Command::Change { patch, .. } => {
                    merge(held.get_mut(&name).expect("it is there"), patch);
                    format!("change {name}")
                }
                Command::Delete { .. } => {
                    held.remove(&name);
                    format!("delete {name}")
                }
            });
        }
        did
    }

    fn merge(target: &mut Value, patch: &Value) {
        let Some(fields) = patch.as_object() else {
            *target = patch.clone();
            return;
        };
        if !target.is_object() {
            *target = json!({});
        }
        for (key, value) in fields {
            if value.is_null() {
                target.as_object_mut().expect("an object").shift_remove(key);
            } else {
                merge(&mut target[key], value);
            }
        }
    }

    #[test]
    fn nodes_become_clusternodes_and_go_with_them() {
        let mut held = BTreeMap::new();
        let both = member(&[
            node("n1", &["10.1.0.1", "fd00::1"]),
            node("n2", &["10.1.0.2"]),
        ]);
        assert_eq!(serve(&mut held, &both), ["create a-n1", "create a-n2"]);
        assert_eq!(held["a-n1"]["spec"]["ip6"], "fd00::1");
        assert!(
            both.changes(&held).commands.is_empty(),
            "nothing is written twice"
        );
        held.get_mut("a-n1").expect("it is there")["spec"]["roles"] = json!(["gateway"]);
        let moved = member(&[node("n1", &["10.1.0.9"])]);
        assert_eq!(serve(&mut held, &moved), ["change a-n1", "delete a-n2"]);
        let spec = &held["a-n1"]["spec"];
        assert_eq!(
            (&spec["ip"], &spec["ip6"], &spec["roles"][0]),
            (&json!("10.1.0.9"), &json!(""), &json!("gateway"))
        );
        assert!(moved.changes(&held).commands.is_empty());
    }

    #[test]
    fn an_address_that_somebody_else_found_is_kept() {
        let mut held = BTreeMap::new();
        let own = member(&[node("n1", &["10.1.0.1"])]);
        serve(&mut held, &own);
        let object = held.get_mut("a-n1").expect("it is there");
        object["spec"]["ip"] = json!("192.168.0.1");
        object["spec"]["interfaceName"] = json!("eth1");
        serve(&mut held, &own);
        assert_eq!(held["a-n1"]["spec"]["ip"], "192.168.0.1");
        let moved = member(&[node("n1", &["10.1.0.2"])]);
        serve(&mut held, &moved);
        assert_eq!(held["a-n1"]["spec"]["ip"], "192.168.0.1");
        assert_eq!(held["a-n1"]["spec"]["interfaceName"], "eth1");
        assert!(moved.changes(&held).commands.is_empty());
    }

    #[test]
    fn only_what_is_ours_is_removed() {
        let object = |label: &str, cluster: Value, node: Value| json!({"metadata": {"labels": {CLUSTER_LABEL: label}}, "spec": {"clusterName": cluster, "nodeName": node}});
        let held = BTreeMap::from([
            ("a-gone".to_owned(), object("a", json!("a"), json!("gone"))),
            ("a-x".to_owned(), object("b", json!("a"), json!("x"))),
            ("a-y".to_owned(), object("a", json!("a-y"), json!(""))),
            ("a-z".to_owned(), object("a", json!("a"), json!("other"))),
            (
                "a-malformed".to_owned(),
                object("a", json!(7), json!("malformed")),
            ),
        ]);
        let own = member(&[node("n1", &["10.1.0.1"])]);
        let changes = own.changes(&held);
        let gone: Vec<&str> = changes
            .commands
            .iter()
            .filter(|one| matches!(one, Command::Delete { .. }))
            .map(Command::name)
            .collect();
        assert_eq!(gone, ["a-gone"]);
        // No node at all is no word about nodes.
        assert!(member(&[]).changes(&held).commands.is_empty());
    }

    #[test]
    fn a_name_that_is_another_clusters_is_left_alone() {
        let held = BTreeMap::from([(
            "a-b-c".to_owned(),
            json!({"metadata": {}, "spec": {"clusterName": "a-b", "nodeName": "c"}}),
        )]);
        let changes = member(&[node("b-c", &["10.1.0.1"])]).changes(&held);
        assert_eq!((changes.commands.len(), changes.taken.len()), (0, 1));
    }

    #[test]
    fn a_cluster_names_links_and_excluded_nodes_take_no_part() {
        let cluster = json!({"spec": {"clusterLinkOptions": {"defaultNICName": "bond0", "nicNodeNames": [
            {"interfaceName": "eth1", "nodeName": ["n1"]}, {"interfaceName": "eth2", "nodeName": ["n1"]}]}}});
        let links = Links::of(&cluster);
        assert_eq!(
            (links.link("n1"), links.link("n2")),
            (Some("eth1"), Some("bond0"))
        );
        assert_eq!(
            Links::of(&json!({"spec": {"clusterLinkOptions": {"defaultNICName": "*"}}})).link("n1"),
            None
        );
        let mut held = BTreeMap::new();
        let mut excluded = node("n1", &["10.1.0.1"]);
        serve(&mut held, &member(&[excluded.clone()]));
        excluded["metadata"]["labels"] = json!({"kosmos.io/exclude": "true"});
        assert_eq!(serve(&mut held, &member(&[excluded])), ["delete a-n1"]);
    }

    fn value() -> impl Strategy<Value = Value> {
        prop_oneof![
            Just(Value::Null),
            Just(json!("")),
            Just(json!(7)),
            Just(json!("a")),
            Just(json!("10.1.0.7")),
            Just(json!(["x"])),
            Just(json!({"y": 1}))
        ]
    }

    proptest! {
        /// Whatever a ClusterNode holds: one step makes it what it should be, and a second one has nothing to do.
        #[test]
        fn a_second_step_writes_nothing(fields in prop::collection::vec(value(), 7), label in value(), annotation in value(), addresses in 0..4_usize) {
            let addresses: &[&str] = [&[][..], &["10.1.0.1"], &["fd00::1"], &["10.1.0.1", "fd00::1"]][addresses];
            let own = member(&[node("n1", addresses)]);
            let names = ["clusterName", "nodeName", "podCIDRs", "ip", "ip6", "roles", "interfaceName"];
            let mut object = json!({"metadata": {"labels": {CLUSTER_LABEL: label}, "annotations": {ADDRESSES: annotation}}, "spec": {}});
            for (name, value) in names.iter().zip(fields) {
                object["spec"][*name] = value;
            }
            let mut held = BTreeMap::from([("a-n1".to_owned(), object)]);
            let roles = held["a-n1"]["spec"]["roles"].clone();
            serve(&mut held, &own);
            prop_assert_eq!(&held["a-n1"]["spec"]["roles"], &roles);
            prop_assert!(own.changes(&held).commands.is_empty(), "{:?}", own.changes(&held));
        }
    }
}
