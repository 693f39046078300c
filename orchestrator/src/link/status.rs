//! What a control plane knows of the datapath that it plans: who takes part, and whether each node is what it should be.

use std::collections::BTreeMap;

use datapath::api::{GROUP, VERSION};
use datapath::nodeconfig::spec_digest;
use datapath::printable::Printable;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::cluster::Cluster;
use super::wait::unapplied;
use crate::Error;
use crate::kubeconfig::Selected;

/// The datapath of a fleet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// Its clusters, by name.
    pub clusters: Vec<ClusterState>,
    /// Whether every node of every cluster is as planned, and every condition is well.
    pub is_well: bool,
}

/// A cluster of the fleet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterState {
    /// Its name.
    pub name: Printable,
    /// Whether it is the control plane's own.
    pub is_control_plane: bool,
    /// `gateway` or `p2p`; none where it takes no part.
    pub network_type: Option<Printable>,
    /// Its families, as its Cluster says.
    pub ip_family: Option<Printable>,
    /// It is on its way out.
    pub is_leaving: bool,
    /// Its conditions that are not as they should be: `TYPE: message`.
    pub troubles: Vec<Printable>,
    /// Its nodes, by name.
    pub nodes: Vec<NodeState>,
}

/// A node of the fleet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeState {
    /// Its name in its cluster.
    pub name: Printable,
    /// Its underlay addresses.
    pub ips: Vec<Printable>,
    /// Its roles: `gateway`, or the one that stands by for it.
    pub roles: Vec<Printable>,
    /// Its agent's version; none where it has said nothing.
    pub version: Option<Printable>,
    /// The digest of the rows that are planned; none where nothing is.
    pub planned: Option<String>,
    /// The digest of the rows that its agent last made true.
    pub applied: Option<Printable>,
    /// When its rows last changed, and when they were last verified (RFC 3339).
    pub changed: Option<Printable>,
    /// See `changed`.
    pub verified: Option<Printable>,
    /// How its tunnels' other ends are; none where its agent says nothing of that.
    pub sessions: Option<Sessions>,
    /// Why it is not as planned, or what else is not as it should be; none where all is.
    pub trouble: Option<Printable>,
}

/// How the other ends of a node's tunnels are, as its agent hears them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Sessions {
    /// How many answer.
    pub up: u64,
    /// How many do not.
    pub down: u64,
    /// The longest time that one of those that answer took last, microseconds.
    pub round_trip_us: Option<u64>,
    /// Those that answered once and do not any more, a bounded number of them: `CLUSTER ADDRESS DEVICE`.
    pub lost: Vec<Printable>,
}

/// Reads the objects of a control plane.
///
/// # Errors
/// [`Error::Missing`] where it cannot be asked, or is none.
pub async fn status(control_plane: &Selected) -> Result<Status, Error> {
    let cluster = Cluster::reach("the control plane", control_plane).await?;
    of(&cluster).await
}

/// As [`status`], of a control plane that is reached already.
pub(super) async fn of(cluster: &Cluster) -> Result<Status, Error> {
    let clusters = super::join::clusters(cluster).await?;
    let list = async |plural: &str| {
        let path = format!("/apis/{GROUP}/{VERSION}/{plural}");
        cluster.list(&path).await.map_err(|failure| Error::Missing {
            what: format!("the {plural} of the control plane"),
            why: failure.to_string(),
        })
    };
    let (nodes, configs) = tokio::try_join!(list("clusternodes"), list("nodeconfigs"))?;
    Ok(of_objects(&clusters, &nodes, &configs))
}

fn text(value: &Value) -> Option<Printable> {
    let text = value.as_str().filter(|text| !text.is_empty())?;
    Some(Printable::bounded(text, 300))
}

fn of_objects(clusters: &[Value], nodes: &[Value], configs: &[Value]) -> Status {
    let name_of = |object: &Value| {
        object["metadata"]["name"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    };
    let configs: BTreeMap<String, &Value> = configs
        .iter()
        .map(|config| (name_of(config), config))
        .collect();
    let mut of_cluster: BTreeMap<&str, Vec<&Value>> = BTreeMap::new();
    for node in nodes {
        let cluster = node["spec"]["clusterName"].as_str().unwrap_or_default();
        of_cluster.entry(cluster).or_default().push(node);
    }
    let mut states: Vec<ClusterState> = clusters
        .iter()
        .map(|cluster| {
            let nodes = of_cluster
                .remove(name_of(cluster).as_str())
                .unwrap_or_default();
            let nodes = nodes.into_iter();
            let nodes = nodes.map(|node| node_state(node, configs.get(&name_of(node)).copied()));
            cluster_state(cluster, nodes.collect())
        })
        .collect();
    states.sort_by(|one, other| one.name.as_str().cmp(other.name.as_str()));
    let is_well = states.iter().all(|cluster| {
        !cluster.is_leaving
            && cluster.troubles.is_empty()
            && cluster.nodes.iter().all(|node| node.trouble.is_none())
    });
    Status {
        clusters: states,
        is_well,
    }
}

fn cluster_state(cluster: &Value, mut nodes: Vec<NodeState>) -> ClusterState {
    nodes.sort_by(|one, other| one.name.as_str().cmp(other.name.as_str()));
    let options = &cluster["spec"]["clusterLinkOptions"];
    let takes_part = options.is_object() && options["enable"] != false;
    ClusterState {
        name: text(&cluster["metadata"]["name"]).unwrap_or_else(|| Printable::bounded("", 1)),
        is_control_plane: cluster["metadata"]["annotations"][datapath::api::ROLE_LABEL] == "root",
        network_type: text(&options["networkType"]).filter(|_| takes_part),
        ip_family: text(&options["ipFamily"]).filter(|_| takes_part),
        is_leaving: cluster["metadata"]["deletionTimestamp"].is_string(),
        troubles: troubles(cluster),
        nodes,
    }
}

/// The conditions of an object that are not true.
pub(super) fn troubles(object: &Value) -> Vec<Printable> {
    let conditions = object["status"]["conditions"].as_array();
    let each = conditions.into_iter().flatten();
    let bad = each.filter(|condition| condition["status"] != "True");
    bad.map(|condition| {
        let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let text = format!(
            "{}: {}",
            word(&condition["type"]),
            word(&condition["message"])
        );
        Printable::bounded(&text, 300)
    })
    .collect()
}

fn node_state(node: &Value, config: Option<&Value>) -> NodeState {
    let spec = &node["spec"];
    let status = config.map(|config| &config["status"]);
    let said = |field: &str| status.and_then(|status| text(&status[field]));
    let roles = spec["roles"].as_array();
    let planned = config.and_then(|config| Deserialize::deserialize(&config["spec"]).ok());
    let sessions = status.and_then(|status| sessions(&status["sessions"]));
    let trouble = match config {
        Some(config) => unapplied(config).or_else(|| sessions.as_ref().and_then(silent)),
        None => Some("nothing is planned for it".to_owned()),
    };
    NodeState {
        name: text(&spec["nodeName"]).unwrap_or_else(|| Printable::bounded("", 1)),
        ips: [&spec["ip"], &spec["ip6"]]
            .into_iter()
            .filter_map(text)
            .collect(),
        roles: roles
            .into_iter()
            .flatten()
            .filter_map(text)
            .take(4)
            .collect(),
        version: said("version"),
        planned: planned.map(|spec| spec_digest(&spec)),
        applied: said("digest"),
        changed: said("lastChangeTime"),
        verified: said("lastSyncTime"),
        sessions,
        trouble: trouble.map(|why| Printable::bounded(&why, 300)),
    }
}

/// The most ends that are named.
const NAMED: usize = 20;

/// What an agent says of its tunnels' other ends; none where it says nothing that can be understood.
fn sessions(said: &Value) -> Option<Sessions> {
    let lost = said["lost"].as_array();
    let each = lost.into_iter().flatten().take(NAMED);
    let named = each.map(|one| {
        let word = |field: &str| one[field].as_str().unwrap_or("?");
        let words = [word("cluster"), word("address"), word("dev")];
        Printable::bounded(&words.join(" "), 200)
    });
    Some(Sessions {
        up: said["up"].as_u64()?,
        down: said["down"].as_u64()?,
        round_trip_us: said["roundTripMicroseconds"].as_u64(),
        lost: named.collect(),
    })
}

/// What is wrong with sessions, for people; none where no end that answered has fallen silent. One that has not answered yet may be an agent that
/// begins, or one of Kosmos, which never does.
fn silent(sessions: &Sessions) -> Option<String> {
    const SHOWN: usize = 3;
    if sessions.lost.is_empty() {
        return None;
    }
    let all = sessions.down.saturating_add(sessions.up);
    let mut words = format!("{} of {all} tunnels have no answer", sessions.down);
    let shown: Vec<&str> = sessions
        .lost
        .iter()
        .take(SHOWN)
        .map(Printable::as_str)
        .collect();
    if !shown.is_empty() {
        words += &format!(" ({})", shown.join(", "));
    }
    Some(words)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_fleet_is_well_when_every_node_is_as_planned() {
        let cluster = json!({
            "metadata": {"name": "a", "annotations": {"kosmos.io/cluster-role": "root"}},
            "spec": {"clusterLinkOptions": {"networkType": "gateway", "ipFamily": "ipv4"}},
        });
        let node = json!({"metadata": {"name": "a-n1"}, "spec": {
            "clusterName": "a", "nodeName": "n1", "ip": "10.0.0.1", "roles": ["gateway"]}});
        let config = |generation: i64| {
            json!({"metadata": {"name": "a-n1", "generation": generation}, "spec": {}, "status": {
                "observedGeneration": 1, "digest": "d", "version": "v1",
                "conditions": [{"type": "Applied", "status": "True"}]}})
        };
        let of = |configs: &[Value]| {
            of_objects(
                std::slice::from_ref(&cluster),
                std::slice::from_ref(&node),
                configs,
            )
        };
        let well = of(&[config(1)]);
        assert!(well.is_well, "{well:?}");
        let state = &well.clusters[0].nodes[0];
        assert!(well.clusters[0].is_control_plane);
        let roles: Vec<&str> = state.roles.iter().map(Printable::as_str).collect();
        assert_eq!((roles, state.sessions.as_ref()), (vec!["gateway"], None));
        assert_eq!(state.version.as_ref().map(Printable::as_str), Some("v1"));
        assert!(
            !of(&[config(2)]).is_well,
            "a plan that its agent has not seen"
        );
        assert!(!of(&[]).is_well, "no plan at all");

        let with = |sessions: Value| {
            let mut config = config(1);
            config["status"]["sessions"] = sessions;
            of(&[config])
        };
        let fine = with(json!({"up": 3, "down": 0, "roundTripMicroseconds": 420}));
        assert!(fine.is_well, "{fine:?}");
        let sessions = fine.clusters[0].nodes[0]
            .sessions
            .as_ref()
            .expect("sessions");
        assert_eq!((sessions.up, sessions.round_trip_us), (3, Some(420)));
        let lost = json!([{"cluster": "b\u{1b}[31m", "dev": "vx-bridge", "address": "220.0.0.9"}]);
        let lossy = with(json!({"up": 1, "down": 2, "lost": lost}));
        assert!(!lossy.is_well);
        let why = lossy.clusters[0].nodes[0]
            .trouble
            .as_ref()
            .expect("why")
            .as_str();
        assert!(
            why.starts_with("2 of 3 tunnels have no answer") && why.contains("220.0.0.9"),
            "{why}"
        );
        assert!(!why.contains('\u{1b}'), "{why}");
        for garbled in [
            json!(7),
            json!({"up": -1, "down": "x"}),
            json!([]),
            Value::Null,
        ] {
            assert!(
                with(garbled.clone()).clusters[0].nodes[0]
                    .sessions
                    .is_none(),
                "{garbled}"
            );
        }
    }
}
