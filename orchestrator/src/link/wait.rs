//! Waiting for what was applied to take effect: programs that run, nodes that are what they should be.

use std::collections::BTreeMap;
use std::time::Duration;

use datapath::api::{CLUSTER_LABEL, GROUP, VERSION};
use datapath::control::conditions::PLANNED;
use serde_json::Value;
use tokio::time::Instant;

use super::apply::{SHARED, pods_of};
use super::cluster::Cluster;
use super::objects::{Object, words};
use super::status::troubles;
use super::{Context, Told};
use crate::Error;
use crate::fleet::api::encoded;

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(500);
/// How often what is waited for is told.
const TELL: Duration = Duration::from_secs(5);
/// How long objects that are being deleted are waited for.
const FORMER: Duration = Duration::from_secs(60);

/// Looks until there is nothing left to wait for; `look` says what there is, in a few words.
pub(super) async fn until(
    what: &str,
    time: Duration,
    context: &Context,
    mut look: impl AsyncFnMut() -> Result<Option<String>, String>,
) -> Result<(), Error> {
    let (start, mut told) = (Instant::now(), Instant::now());
    loop {
        // A server that does not answer for a moment is waited for, too.
        let waits = match look().await {
            Ok(None) => return Ok(()),
            Ok(Some(waits)) | Err(waits) => waits,
        };
        if start.elapsed() >= time {
            return Err(Error::Missing {
                what: what.to_owned(),
                why: format!("not within {} s: {waits}", time.as_secs()),
            });
        }
        if told.elapsed() >= TELL {
            told = Instant::now();
            context.say(Told::Waiting(format!("{what}: {waits}")));
        }
        context.pause(PAUSE).await?;
    }
}

/// Waits until the namespaces and definitions of these names are gone, where they are being deleted: a cluster that was just unlinked takes a
/// while to empty its namespace, and nothing new can be made there until then. Others are not waited for.
///
/// # Errors
/// [`Error::Missing`] after [`FORMER`], or `time` where that is less, with what keeps it as far as the namespace says; the deed is to end.
pub(super) async fn former_gone(
    cluster: &Cluster,
    objects: &[Object],
    time: Duration,
    context: &Context,
) -> Result<(), Error> {
    for object in objects {
        let path = object.path();
        // What cannot be read is told when it is planned.
        let is_going = |held: Option<Value>| held.is_some_and(|held| keeping(&held).is_some());
        if !SHARED.contains(&object.kind) || !cluster.get(&path).await.is_ok_and(is_going) {
            continue;
        }
        let what = format!("removal of {} in {}", object.words(), cluster.name);
        context.say(Told::Phase(format!("waiting for the {what}")));
        until(&what, FORMER.min(time), context, async || {
            let held = cluster.get(&path).await;
            let held = held.map_err(|failure| failure.to_string())?;
            Ok(held.as_ref().and_then(keeping))
        })
        .await?;
    }
    Ok(())
}

/// What keeps an object that is being deleted, as far as it says; none of one that is to stay.
fn keeping(held: &Value) -> Option<String> {
    const REASONS: [&str; 3] = [
        "NamespaceDeletionContentFailure",
        "NamespaceFinalizersRemaining",
        "NamespaceContentRemaining",
    ];
    held["metadata"]["deletionTimestamp"].as_str()?;
    let said = REASONS.iter().find_map(|reason| {
        let conditions = held["status"]["conditions"].as_array();
        let mut each = conditions.into_iter().flatten();
        let said = each.find(|one| one["type"] == *reason && one["status"] == "True")?;
        said["message"].as_str()
    });
    let why = said.map(|why| datapath::printable::printable(why, 300).into_owned());
    Some(why.unwrap_or_else(|| "it is still being deleted".to_owned()))
}

/// Waits until a DaemonSet or Deployment runs as it is written now, on all nodes or in all replicas.
pub(super) async fn rolled_out(
    cluster: &Cluster,
    object: &Object,
    time: Duration,
    context: &Context,
) -> Result<(), Error> {
    let what = format!("{} in {}", object.words(), cluster.name);
    let path = object.path();
    until(&what, time, context, async || {
        let held = cluster.get(&path).await;
        let held = held.map_err(|failure| failure.to_string())?;
        let held = held.ok_or_else(|| "it is gone".to_owned())?;
        let Some(waits) = unready(&held) else {
            return Ok(None);
        };
        let pods = pods(cluster, &held).await.unwrap_or_default();
        Ok(Some(if pods.is_empty() {
            waits
        } else {
            format!("{waits} ({pods})")
        }))
    })
    .await
}

/// What a DaemonSet or Deployment still waits for; none where it is complete.
pub(super) fn unready(object: &Value) -> Option<String> {
    let (spec, status) = (&object["spec"], &object["status"]);
    let number = |value: &Value| value.as_i64().unwrap_or_default();
    let generation = number(&object["metadata"]["generation"]);
    if number(&status["observedGeneration"]) < generation {
        return Some("its controller has not seen it yet".to_owned());
    }
    let (wanted, updated, ready) = if object["kind"] == "DaemonSet" {
        (
            number(&status["desiredNumberScheduled"]),
            number(&status["updatedNumberScheduled"]),
            number(&status["numberReady"]),
        )
    } else {
        (
            spec["replicas"].as_i64().unwrap_or(1),
            number(&status["updatedReplicas"]),
            number(&status["readyReplicas"]),
        )
    };
    if wanted == 0 && object["kind"] == "DaemonSet" {
        return Some("no node is to run it".to_owned());
    }
    (updated < wanted || ready < wanted)
        .then(|| format!("{ready} of {wanted} pods are ready, {updated} up to date"))
}

/// Why pods of a workload are not ready, for people: the first few of them.
async fn pods(cluster: &Cluster, workload: &Value) -> Option<String> {
    let path = pods_of(workload)?;
    let pods = cluster.list(&path).await.ok()?;
    let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
    for pod in &pods {
        if let Some(why) = why_unready(pod) {
            *reasons.entry(why).or_default() += 1;
        }
    }
    let words = reasons.into_iter().take(3).map(|(why, count)| match count {
        1 => why,
        count => format!("{count} × {why}"),
    });
    Some(words.collect::<Vec<_>>().join("; "))
}

/// Why a pod is not ready, without its name; none where it is.
fn why_unready(pod: &Value) -> Option<String> {
    let conditions = pod["status"]["conditions"].as_array();
    let is_true = |kind: &str| {
        let mut each = conditions.into_iter().flatten();
        each.any(|one| one["type"] == kind && one["status"] == "True")
    };
    if is_true("Ready") {
        return None;
    }
    let text = |value: &Value| {
        datapath::printable::printable(value.as_str().unwrap_or_default(), 200).into_owned()
    };
    let mut each = conditions.into_iter().flatten();
    if let Some(unscheduled) =
        each.find(|one| one["type"] == "PodScheduled" && one["status"] != "True")
    {
        return Some(format!("not scheduled: {}", text(&unscheduled["message"])));
    }
    let state = &pod["status"]["containerStatuses"][0]["state"];
    let waiting = &state["waiting"];
    Some(
        match (text(&waiting["reason"]), text(&waiting["message"])) {
            (reason, message) if !reason.is_empty() && !message.is_empty() => {
                format!("{reason}: {message}")
            }
            (reason, _) if !reason.is_empty() => reason,
            _ if state["terminated"].is_object() => {
                format!("it ended with code {}", state["terminated"]["exitCode"])
            }
            _ => "it runs and is not ready".to_owned(),
        },
    )
}

/// The path of the objects of a kind that belong to a member.
pub(super) fn of_member(plural: &str, member: &str) -> String {
    let selector = encoded(&format!("{CLUSTER_LABEL}={member}"));
    format!("/apis/{GROUP}/{VERSION}/{plural}?labelSelector={selector}")
}

/// Waits until the control plane knows every node of a member, and every node's agent says that it is as planned.
pub(super) async fn nodes_applied(
    control_plane: &Cluster,
    member: &Cluster,
    time: Duration,
    context: &Context,
) -> Result<(), Error> {
    let what = format!("the nodes of {}", member.name);
    until(&what, time, context, async || {
        let said = |failure: crate::fleet::api::Failure| failure.to_string();
        let known = control_plane
            .list(&of_member("clusternodes", &member.name))
            .await;
        let known = known.map_err(said)?;
        if known.is_empty() {
            return Ok(Some("the controller has told none yet".to_owned()));
        }
        let (mut done, mut why) = (0, None);
        for node in &known {
            let name = node["metadata"]["name"].as_str().unwrap_or_default();
            let path = format!("/apis/{GROUP}/{VERSION}/nodeconfigs/{name}");
            match control_plane.get(&path).await.map_err(said)? {
                Some(config) => match unapplied(&config) {
                    None => done += 1,
                    Some(words) => why = why.or(Some(words)),
                },
                None => {
                    why = why.or(Some(unplanned(node)));
                }
            }
        }
        let all = known.len();
        Ok(why.map(|why| format!("{done} of {all} are as planned ({why})")))
    })
    .await
}

/// Waits a little until nobody objects to a member's Cluster any more; what is still objected to then is a warning: packets pass all the same.
pub(super) async fn unobjected(
    control_plane: &Cluster,
    name: &str,
    context: &Context,
) -> Result<(), Error> {
    const TIME: Duration = Duration::from_secs(20);
    let path = format!("/apis/{GROUP}/{VERSION}/clusters/{name}");
    let waited = until(&format!("Cluster {name}"), TIME, context, async || {
        let held = control_plane.get(&path).await;
        let held = held.map_err(|failure| failure.to_string())?;
        let objections = held.as_ref().map(troubles).unwrap_or_default();
        Ok(objections.into_iter().next().map(|first| first.to_string()))
    })
    .await;
    match waited {
        Err(Error::Missing { what, why }) => {
            context.say(Told::Warning(format!("{what}: {why}")));
            Ok(())
        }
        other => other,
    }
}

/// Why a node has no NodeConfig, as far as the manager told.
fn unplanned(node: &Value) -> String {
    let conditions = node["status"]["conditions"].as_array();
    let mut each = conditions.into_iter().flatten();
    let said = each.find(|one| one["type"] == PLANNED && one["status"] != "True");
    let name = words("ClusterNode", node);
    match said.and_then(|one| one["message"].as_str()) {
        Some(why) => format!("{name}: {}", datapath::printable::printable(why, 300)),
        None => format!("{name} is not planned yet"),
    }
}

/// Why a node is not what its NodeConfig says, as far as its agent told; none where it is.
pub(super) fn unapplied(config: &Value) -> Option<String> {
    let status = &config["status"];
    let conditions = status["conditions"].as_array();
    let mut each = conditions.into_iter().flatten();
    let applied = each.find(|one| one["type"] == "Applied");
    let name = words("NodeConfig", config);
    let Some(applied) = applied else {
        return Some(format!("{name}: its agent has said nothing"));
    };
    let generation = config["metadata"]["generation"]
        .as_i64()
        .unwrap_or_default();
    if status["observedGeneration"].as_i64().unwrap_or_default() < generation {
        return Some(format!("{name}: its agent has not seen the latest one"));
    }
    (applied["status"] != "True").then(|| {
        let why = applied["message"].as_str().unwrap_or_default();
        format!("{name}: {}", datapath::printable::printable(why, 200))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_workload_is_complete_once_all_pods_are_new_and_ready() {
        let daemon_set = |generation, updated, ready| {
            json!({
                "kind": "DaemonSet", "metadata": {"generation": generation},
                "status": {"observedGeneration": 2, "desiredNumberScheduled": 2,
                           "updatedNumberScheduled": updated, "numberReady": ready},
            })
        };
        assert_eq!(unready(&daemon_set(2, 2, 2)), None);
        assert!(unready(&daemon_set(3, 2, 2)).is_some(), "not seen yet");
        assert!(unready(&daemon_set(2, 1, 2)).is_some(), "an old pod");
        assert!(unready(&daemon_set(2, 2, 1)).is_some(), "one is not ready");
        let nowhere = json!({"kind": "DaemonSet", "status": {"desiredNumberScheduled": 0}});
        assert!(unready(&nowhere).is_some());
        let deployment = json!({"kind": "Deployment", "spec": {"replicas": 2},
                                "status": {"updatedReplicas": 2, "readyReplicas": 2}});
        assert_eq!(unready(&deployment), None);
    }

    #[test]
    fn a_node_is_applied_when_its_agent_says_so_of_the_latest_plan() {
        let config = |generation, status: &str| {
            json!({
                "metadata": {"name": "c1-n1", "generation": generation},
                "status": {"observedGeneration": 3, "conditions": [
                    {"type": "Applied", "status": status, "message": "no such link: eth9"}]},
            })
        };
        assert_eq!(unapplied(&config(3, "True")), None);
        assert!(
            unapplied(&config(4, "True"))
                .expect("not yet")
                .contains("latest")
        );
        let why = unapplied(&config(3, "False")).expect("it failed");
        assert!(why.contains("eth9"), "{why}");
        assert!(
            unapplied(&json!({"metadata": {"name": "x"}})).is_some(),
            "silence is no proof"
        );
    }

    #[test]
    fn a_namespace_that_goes_says_what_keeps_it() {
        assert_eq!(keeping(&json!({"metadata": {}})), None);
        let going = |conditions: Value| json!({"metadata": {"deletionTimestamp": "2026-11-30T00:00:00Z"}, "status": {"conditions": conditions}});
        assert!(
            keeping(&going(json!(null)))
                .expect("it goes")
                .contains("deleted")
        );
        let said =
            |kind: &str, status: &str| json!({"type": kind, "status": status, "message": kind});
        let several = json!([
            said("NamespaceDeletionDiscoveryFailure", "True"),
            said("NamespaceContentRemaining", "True"),
            said("NamespaceFinalizersRemaining", "False"),
        ]);
        assert_eq!(
            keeping(&going(several)).as_deref(),
            Some("NamespaceContentRemaining")
        );
    }

    #[test]
    fn a_pod_says_why_it_is_not_ready() {
        let pod = json!({"status": {
            "conditions": [{"type": "Ready", "status": "False"}],
            "containerStatuses": [{"state": {"waiting": {"reason": "ErrImagePull", "message": "no such image"}}}],
        }});
        assert_eq!(
            why_unready(&pod).as_deref(),
            Some("ErrImagePull: no such image")
        );
        let pod = json!({"status": {"conditions": [
            {"type": "PodScheduled", "status": "False", "message": "0/1 nodes are available"}]}});
        assert!(why_unready(&pod).expect("it is not").contains("0/1"));
        let pod = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        assert_eq!(why_unready(&pod), None);
    }
}
