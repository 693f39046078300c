//! Deployments, the scheduler, and the kinds and tokens that an installation is made of.

#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "api/asked.rs"]
#[allow(dead_code, reason = "shared with a test that uses all of it")]
mod asked;
#[path = "api/tls.rs"]
#[allow(dead_code, reason = "shared with tests that serve over TLS")]
mod tls;
#[path = "api/workload.rs"]
mod workload;

use std::sync::Arc;

use apiserver::Resource;
use asked::Asked;
use serde_json::{Value, json};
use workload::{DEPLOYMENTS, World, deployment, node};

#[tokio::test]
async fn a_deployment_has_its_pods_through_a_set_of_its_template() {
    let world = World::new();
    let made = world
        .asked
        .post(DEPLOYMENTS, &deployment("d", 2, "a:1"))
        .await;
    assert_eq!(made.code, 201, "{made:?}");
    assert_eq!(
        made.body["spec"]["strategy"]["rollingUpdate"]["maxSurge"],
        "25%"
    );
    assert_eq!(
        made.body["spec"]["template"]["spec"]["restartPolicy"],
        "Always"
    );
    let d = world
        .until(Resource::DEPLOYMENTS, "d", |d| {
            d["status"]["availableReplicas"] == 2
        })
        .await;
    assert_eq!(
        d["metadata"]["annotations"]["deployment.kubernetes.io/revision"],
        "1"
    );
    assert_eq!(d["status"]["observedGeneration"], 1);
    assert_eq!(d["status"]["updatedReplicas"], 2);
    let conditions: Vec<(&str, &str)> = d["status"]["conditions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| {
            (
                one["type"].as_str().unwrap(),
                one["status"].as_str().unwrap(),
            )
        })
        .collect();
    assert_eq!(conditions, [("Available", "True"), ("Progressing", "True")]);
    let sets = world.list(Resource::REPLICA_SETS);
    assert_eq!(sets.len(), 1);
    let hash = sets[0]["metadata"]["labels"]["pod-template-hash"]
        .as_str()
        .unwrap();
    assert_eq!(sets[0]["metadata"]["name"], format!("d-{hash}"));
    assert_eq!(
        sets[0]["metadata"]["ownerReferences"][0]["uid"],
        d["metadata"]["uid"]
    );
    let pods = world.list(Resource::PODS);
    let nodes: std::collections::BTreeSet<&str> = pods
        .iter()
        .map(|pod| pod["spec"]["nodeName"].as_str().unwrap())
        .collect();
    assert_eq!(nodes.len(), 2, "they are spread");
    for pod in &pods {
        assert_eq!(pod["metadata"]["labels"]["pod-template-hash"], hash);
        assert_eq!(pod["metadata"]["ownerReferences"][0]["kind"], "ReplicaSet");
        assert_eq!(pod["spec"]["priority"], 2_000_001_000);
    }
    // Deleting it takes its sets and their pods along.
    world
        .asked
        .send("DELETE", &format!("{DEPLOYMENTS}/d"), &[], "")
        .await;
    world.until_gone(Resource::REPLICA_SETS).await;
    world.until_gone(Resource::PODS).await;
}

#[tokio::test]
async fn an_update_never_has_fewer_available_than_its_strategy_allows() {
    let world = World::new();
    world
        .asked
        .post(DEPLOYMENTS, &deployment("d", 4, "a:1"))
        .await;
    world
        .until(Resource::DEPLOYMENTS, "d", |d| {
            d["status"]["availableReplicas"] == 4
        })
        .await;
    let watched = world.watch_pods();
    let patch =
        json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "a:2"}]}}}});
    let path = format!("{DEPLOYMENTS}/d");
    assert_eq!(
        world
            .asked
            .patch(&path, "strategic-merge-patch+json", &patch)
            .await
            .code,
        200
    );
    let done = |d: &Value| {
        d["status"]["observedGeneration"] == 2
            && d["status"]["updatedReplicas"] == 4
            && d["status"]["replicas"] == 4
            && d["status"]["availableReplicas"] == 4
    };
    let d = world.until(Resource::DEPLOYMENTS, "d", done).await;
    let progress = &d["status"]["conditions"][1];
    assert_eq!(
        (progress["type"].as_str(), progress["reason"].as_str()),
        (Some("Progressing"), Some("NewReplicaSetAvailable"))
    );
    // 25 % of 4: one may be missing, one may be there in addition.
    let (least, most) = watched.await.unwrap();
    assert!(least >= 3, "{least} were ready at the least");
    assert!(most <= 5, "{most} were there at the most");
    let images: Vec<Value> = world
        .list(Resource::PODS)
        .iter()
        .map(|pod| pod["spec"]["containers"][0]["image"].clone())
        .collect();
    assert_eq!(images, ["a:2"; 4]);

    // Back to the first template: its set is the newest again and no third one is made.
    let patch =
        json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "a:1"}]}}}});
    world
        .asked
        .patch(&path, "strategic-merge-patch+json", &patch)
        .await;
    let d = world
        .until(Resource::DEPLOYMENTS, "d", |d| {
            d["status"]["observedGeneration"] == 3
                && d["status"]["updatedReplicas"] == 4
                && d["status"]["replicas"] == 4
        })
        .await;
    assert_eq!(
        d["metadata"]["annotations"]["deployment.kubernetes.io/revision"],
        "3"
    );
    assert_eq!(world.list(Resource::REPLICA_SETS).len(), 2);
}

#[tokio::test]
async fn recreating_ends_the_old_pods_first_and_history_is_bounded() {
    let world = World::new();
    let mut wanted = deployment("d", 2, "a:1");
    wanted["spec"]["strategy"] = json!({"type": "Recreate"});
    wanted["spec"]["revisionHistoryLimit"] = 0.into();
    world.asked.post(DEPLOYMENTS, &wanted).await;
    world
        .until(Resource::DEPLOYMENTS, "d", |d| {
            d["status"]["availableReplicas"] == 2
        })
        .await;
    let watched = world.watch_pods();
    let patch =
        json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "a:2"}]}}}});
    world
        .asked
        .patch(
            &format!("{DEPLOYMENTS}/d"),
            "strategic-merge-patch+json",
            &patch,
        )
        .await;
    world
        .until(Resource::DEPLOYMENTS, "d", |d| {
            d["status"]["observedGeneration"] == 2
                && d["status"]["availableReplicas"] == 2
                && d["status"]["updatedReplicas"] == 2
        })
        .await;
    assert_eq!(watched.await.unwrap(), (0, 2));
    world.until_count(Resource::REPLICA_SETS, 1).await;
}

#[tokio::test]
async fn scale_is_read_and_written_on_its_own() {
    let world = World::new();
    world
        .asked
        .post(DEPLOYMENTS, &deployment("d", 1, "a:1"))
        .await;
    let path = format!("{DEPLOYMENTS}/d/scale");
    let held = world.asked.get(&path).await;
    assert_eq!(
        (&held.body["kind"], &held.body["spec"]["replicas"]),
        (&json!("Scale"), &json!(1))
    );
    assert_eq!(held.body["status"]["selector"], "app=d");
    let scaled = world
        .asked
        .patch(&path, "merge-patch+json", &json!({"spec": {"replicas": 3}}))
        .await;
    assert_eq!(scaled.body["spec"]["replicas"], 3, "{scaled:?}");
    world
        .until(Resource::DEPLOYMENTS, "d", |d| {
            d["status"]["availableReplicas"] == 3
        })
        .await;
    assert_eq!(
        world
            .asked
            .patch(
                &path,
                "merge-patch+json",
                &json!({"spec": {"replicas": -1}})
            )
            .await
            .code,
        422
    );
    // A Scale of an old version is stale.
    let old = world
        .asked
        .send(
            "PUT",
            &path,
            &[("content-type", "application/json")],
            &held.body.to_string(),
        )
        .await;
    assert_eq!(old.code, 409);
    world
        .asked
        .patch(&path, "merge-patch+json", &json!({"spec": {"replicas": 0}}))
        .await;
    world.until_gone(Resource::PODS).await;
}

#[tokio::test]
async fn pods_without_a_place_say_what_keeps_them_from_each_node() {
    let world = World::new();
    world
        .cluster()
        .store()
        .put(Resource::NODES, None, "n1", |node| {
            node["spec"]["unschedulable"] = true.into()
        })
        .unwrap();
    let mut wanted = deployment("d", 2, "a:1");
    wanted["spec"]["template"]["spec"]["hostNetwork"] = true.into();
    wanted["spec"]["template"]["spec"]["containers"][0]["ports"] = json!([{"containerPort": 8080}]);
    world.asked.post(DEPLOYMENTS, &wanted).await;
    let is_stuck = |pod: &Value| {
        pod["status"]["conditions"]
            .as_array()
            .is_some_and(|all| all.iter().any(|one| one["reason"] == "Unschedulable"))
    };
    let stuck = world.until_some(Resource::PODS, is_stuck).await;
    let message = "0/2 nodes are available: 1 node(s) didn't have free ports for the requested pod ports, 1 node(s) were unschedulable.";
    assert_eq!(stuck["status"]["conditions"][0]["message"], message);
    let event = world
        .until_some(Resource::EVENTS, |event| {
            event["reason"] == "FailedScheduling"
        })
        .await;
    assert_eq!(event["message"], message);
    // A node that is free takes it.
    world
        .cluster()
        .store()
        .put(Resource::NODES, None, "n1", |node| node["spec"] = json!({}))
        .unwrap();
    world
        .until(Resource::DEPLOYMENTS, "d", |d| {
            d["status"]["availableReplicas"] == 2
        })
        .await;
}

#[tokio::test]
async fn two_daemons_do_not_share_a_port_of_a_node() {
    let world = World::new();
    for name in ["one", "two"] {
        let set = json!({"metadata": {"name": name}, "spec": {
            "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}}, "spec": {
                "hostNetwork": true, "containers": [{"name": "c", "image": "a:1", "ports": [{"containerPort": 8889}]}],
            }},
        }});
        assert_eq!(
            world
                .asked
                .post("/apis/apps/v1/namespaces/default/daemonsets", &set)
                .await
                .code,
            201
        );
        if name == "one" {
            world
                .until(Resource::DAEMON_SETS, "one", |set| {
                    set["status"]["numberReady"] == 2
                })
                .await;
        }
    }
    let two = world
        .until(Resource::DAEMON_SETS, "two", |set| {
            set["status"]["currentNumberScheduled"] == 2
        })
        .await;
    assert_eq!(two["status"]["numberReady"], 0);
    world
        .until_some(Resource::EVENTS, |event| {
            event["message"]
                .as_str()
                .is_some_and(|text| text.contains("free ports"))
        })
        .await;
    let bound = |pod: &&Arc<Value>| pod["spec"]["nodeName"].is_string();
    assert_eq!(world.list(Resource::PODS).iter().filter(bound).count(), 2);
    world
        .asked
        .send(
            "DELETE",
            "/apis/apps/v1/namespaces/default/daemonsets/one",
            &[],
            "",
        )
        .await;
    world
        .until(Resource::DAEMON_SETS, "two", |set| {
            set["status"]["numberReady"] == 2
        })
        .await;
}

#[tokio::test]
async fn what_is_malformed_is_refused() {
    let asked = Asked::new();
    let field = async |path: &str, object: Value| {
        let answer = asked.post(path, &object).await;
        let field = answer.body["details"]["causes"][0]["field"].clone();
        (answer.code, field.as_str().unwrap_or_default().to_owned())
    };
    let with = |pointer: &str, value: Value| {
        let mut wanted = deployment("d", 1, "a:1");
        *wanted.pointer_mut(pointer).unwrap() = value;
        wanted
    };
    let bad = |field: &str| (422, field.to_owned());
    assert_eq!(
        field(DEPLOYMENTS, with("/spec/replicas", json!(-1))).await,
        bad("spec.replicas")
    );
    assert_eq!(
        field(DEPLOYMENTS, with("/spec/selector", json!({}))).await,
        bad("spec.selector")
    );
    assert_eq!(
        field(
            DEPLOYMENTS,
            with("/spec/selector/matchLabels/app", json!("x"))
        )
        .await,
        bad("spec.template.metadata.labels")
    );
    assert_eq!(
        field(
            DEPLOYMENTS,
            with("/spec/template/spec/containers", json!([]))
        )
        .await,
        bad("spec.template.spec.containers")
    );
    let slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
    assert_eq!(field(slices, json!({"metadata": {"name": "s"}, "addressType": "IPv4", "endpoints": [{"addresses": ["fd00::1"]}]})).await, bad("endpoints[0].addresses[0]"));
    let classes = "/apis/scheduling.k8s.io/v1/priorityclasses";
    assert_eq!(
        field(
            classes,
            json!({"metadata": {"name": "system-mine"}, "value": 1})
        )
        .await,
        bad("metadata.name")
    );
    assert_eq!(
        field(
            classes,
            json!({"metadata": {"name": "mine"}, "value": 2_000_000_000})
        )
        .await,
        bad("value")
    );
    let pod = json!({"metadata": {"name": "p"}, "spec": {"priorityClassName": "none", "containers": [{"name": "c", "image": "a"}]}});
    let refused = asked.post("/api/v1/namespaces/default/pods", &pod).await;
    assert_eq!(
        (refused.code, refused.body["message"].as_str()),
        (
            403,
            Some("pods \"p\" is forbidden: no PriorityClass with name none was found")
        )
    );
    // The selector of a Deployment stays what it is.
    assert_eq!(
        asked
            .post(DEPLOYMENTS, &deployment("d", 1, "a:1"))
            .await
            .code,
        201
    );
    let patch = json!({"spec": {"selector": {"matchLabels": {"more": "x"}}, "template": {"metadata": {"labels": {"more": "x"}}}}});
    assert_eq!(
        asked
            .patch(&format!("{DEPLOYMENTS}/d"), "merge-patch+json", &patch)
            .await
            .code,
        422
    );
}

#[tokio::test]
async fn every_kind_is_applied_by_several_managers() {
    let asked = Asked::new();
    let meta = |name: &str| json!({"name": name, "labels": {"a": "b"}});
    let default = "namespaces/default";
    for (path, object) in [
        (
            format!("/apis/apps/v1/{default}/deployments/d"),
            json!({"apiVersion": "apps/v1", "kind": "Deployment", "spec": deployment("d", 1, "a:1")["spec"]}),
        ),
        (
            format!("/api/v1/{default}/endpoints/kubernetes"),
            json!({"apiVersion": "v1", "kind": "Endpoints", "subsets": [{"addresses": [{"ip": "100.64.0.1"}], "ports": [{"name": "https", "port": 6443}]}]}),
        ),
        (
            format!("/apis/discovery.k8s.io/v1/{default}/endpointslices/kubernetes"),
            json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4", "endpoints": [{"addresses": ["100.64.0.1"], "conditions": {"ready": true}}], "ports": [{"name": "https", "port": 6443}]}),
        ),
        (
            "/apis/scheduling.k8s.io/v1/priorityclasses/p".to_owned(),
            json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "value": 5}),
        ),
        (
            format!("/api/v1/{default}/services/s"),
            json!({"apiVersion": "v1", "kind": "Service", "spec": {"ports": [{"port": 443}]}}),
        ),
        (
            format!("/apis/coordination.k8s.io/v1/{default}/leases/l"),
            json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "spec": {"holderIdentity": "a"}}),
        ),
    ] {
        let name = path.rsplit('/').next().unwrap();
        let mut object = object;
        object["metadata"] = meta(name);
        let applied = asked
            .patch(
                &format!("{path}?fieldManager=one"),
                "apply-patch+yaml",
                &object,
            )
            .await;
        assert_eq!(applied.code, 201, "{path}: {applied:?}");
        let again = asked
            .patch(
                &format!("{path}?fieldManager=one"),
                "apply-patch+yaml",
                &object,
            )
            .await;
        assert_eq!(
            again.body["metadata"]["resourceVersion"], applied.body["metadata"]["resourceVersion"],
            "{path}"
        );
        let other = json!({"apiVersion": object["apiVersion"], "kind": object["kind"], "metadata": {"name": name, "labels": {"a": "c"}}});
        let conflict = asked
            .patch(
                &format!("{path}?fieldManager=two"),
                "apply-patch+yaml",
                &other,
            )
            .await;
        assert_eq!(conflict.code, 409, "{path}: {conflict:?}");
        let forced = asked
            .patch(
                &format!("{path}?fieldManager=two&force=true"),
                "apply-patch+yaml",
                &other,
            )
            .await;
        assert_eq!(forced.body["metadata"]["labels"]["a"], "c", "{path}");
    }
}

#[tokio::test]
async fn a_status_is_merged_and_a_finalizer_holds_a_custom_object() {
    let asked = Asked::new();
    let path = "/apis/kosmos.io/v1alpha1/clusternodes";
    let object = json!({"apiVersion": "kosmos.io/v1alpha1", "kind": "ClusterNode",
        "metadata": {"name": "c-n1", "finalizers": ["floater.test/rows"]}, "spec": {"clusterName": "c"}});
    assert_eq!(asked.post(path, &object).await.code, 201);
    let one = format!("{path}/c-n1");
    let status = json!({"status": {"conditions": [{"type": "Applied", "status": "True", "reason": "A", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}, "spec": {"clusterName": "x"}});
    let merged = asked
        .patch(&format!("{one}/status"), "merge-patch+json", &status)
        .await;
    assert_eq!(merged.code, 200, "{merged:?}");
    assert_eq!(merged.body["status"]["conditions"][0]["type"], "Applied");
    assert_eq!(
        merged.body["spec"]["clusterName"], "c",
        "the spec is not the status's writer's"
    );
    let deleted = asked.send("DELETE", &one, &[], "").await;
    assert!(
        deleted.body["metadata"]["deletionTimestamp"].is_string(),
        "{deleted:?}"
    );
    assert_eq!(asked.get(&one).await.code, 200);
    asked
        .patch(
            &one,
            "merge-patch+json",
            &json!({"metadata": {"finalizers": null}}),
        )
        .await;
    assert_eq!(asked.get(&one).await.code, 404);
}

#[tokio::test]
async fn a_bound_token_is_its_account_until_what_it_is_bound_to_is_gone() {
    let asked = Asked::new();
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    asked
        .post(accounts, &json!({"metadata": {"name": "agent"}}))
        .await;
    asked
        .post(
            "/api/v1/namespaces/default/secrets",
            &json!({"metadata": {"name": "s"}}),
        )
        .await;
    asked.post("/apis/rbac.authorization.k8s.io/v1/clusterroles", &json!({"metadata": {"name": "r"}, "rules": [{"apiGroups": [""], "resources": ["nodes"], "verbs": ["list"]}]})).await;
    asked.post("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", &json!({"metadata": {"name": "r"}, "roleRef": {"kind": "ClusterRole", "name": "r"}, "subjects": [{"kind": "ServiceAccount", "name": "agent", "namespace": "default"}]})).await;
    let tokens = format!("{accounts}/agent/token");
    for seconds in [599_i64, (1 << 32) + 1] {
        let refused = asked
            .post(&tokens, &json!({"spec": {"expirationSeconds": seconds}}))
            .await;
        assert_eq!(refused.code, 422, "{refused:?}");
    }
    let missing = json!({"spec": {"boundObjectRef": {"kind": "Secret", "name": "none"}}});
    assert_eq!(asked.post(&tokens, &missing).await.code, 404);
    let bound = json!({"spec": {"expirationSeconds": 700, "boundObjectRef": {"kind": "Secret", "name": "s"}}});
    let answer = asked.post(&tokens, &bound).await;
    assert_eq!(answer.code, 201, "{answer:?}");
    assert_eq!(answer.body["spec"]["expirationSeconds"], 700);
    let second = |value: &Value| {
        value
            .as_str()
            .unwrap()
            .parse::<jiff::Timestamp>()
            .unwrap()
            .as_second()
    };
    let lasts = second(&answer.body["status"]["expirationTimestamp"])
        - second(&answer.body["metadata"]["creationTimestamp"]);
    assert!((699..=701).contains(&lasts), "{lasts}");
    let bearer = format!(
        "Bearer {}",
        answer.body["status"]["token"].as_str().unwrap()
    );
    let own = [("authorization", bearer.as_str())];
    assert_eq!(
        asked.send_as("GET", "/api/v1/nodes", &own, "").await.code,
        200
    );
    assert_eq!(
        asked.send_as("GET", "/api/v1/pods", &own, "").await.code,
        403
    );
    asked
        .send("DELETE", "/api/v1/namespaces/default/secrets/s", &[], "")
        .await;
    assert_eq!(
        asked.send_as("GET", "/api/v1/nodes", &own, "").await.code,
        401
    );
}

#[tokio::test]
async fn the_pods_of_a_node_that_is_lost_are_not_ready_and_stay() {
    let world = World::new();
    world
        .asked
        .post(DEPLOYMENTS, &deployment("d", 2, "a:1"))
        .await;
    world
        .until(Resource::DEPLOYMENTS, "d", |d| {
            d["status"]["availableReplicas"] == 2
        })
        .await;
    world
        .cluster()
        .store()
        .put(Resource::NODES, None, "n2", |held| {
            *held = node("n2", "Unknown")
        })
        .unwrap();
    let d = world
        .until(Resource::DEPLOYMENTS, "d", |d| {
            d["status"]["readyReplicas"] == 1
        })
        .await;
    assert_eq!(d["status"]["replicas"], 2);
    let lost = world
        .until_some(Resource::PODS, |pod| pod["spec"]["nodeName"] == "n2")
        .await;
    let ready = lost["status"]["conditions"]
        .as_array()
        .unwrap()
        .iter()
        .find(|one| one["type"] == "Ready")
        .unwrap();
    assert_eq!(ready["reason"], "NodeNotReady");
    // It is heard of again, and so are they.
    let put = world
        .cluster()
        .store()
        .put(Resource::NODES, None, "n2", |held| {
            *held = node("n2", "True");
        });
    put.unwrap();
    world
        .until(Resource::DEPLOYMENTS, "d", |d| {
            d["status"]["readyReplicas"] == 2
        })
        .await;
}
