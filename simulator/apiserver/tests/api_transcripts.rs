//! The simulated API against what a real one answered, request by request (`data/transcripts.jsonl`).
//!
//! Compared are the status, the content type, warnings, the reason and details of refusals, and every field of an
//! answer; texts of refusals may differ. What a cluster makes up (uids, times, versions, addresses) is masked.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::sync::Arc;

use apiserver::{ApiCluster, NoPods, Options, Resource};
use http::Request;
use http_body_util::{BodyExt, Full};
use serde_json::{Map, Value, json};

const TRANSCRIPTS: &str = include_str!("data/transcripts.jsonl");

/// Requests whose answer is not compared, and why.
const LEFT_OUT: &[(&str, &str)] = &[
    (
        "pod log without kubelet",
        "recorded without a node; here the pod has one as soon as it exists",
    ),
    (
        "openapi index",
        "hashes are a server's own; api_kubectl.rs reads the documents",
    ),
];

/// Places of an answer that are not compared, and why. `*` is every place.
const LEFT_OUT_FIELDS: &[(&str, &str, &str)] = &[
    ("version", "*", "a server names its own version"),
    (
        "api versions",
        "/serverAddressByClientCIDRs",
        "its address too",
    ),
    (
        "token request",
        "/metadata/managedFields",
        "a request is not kept, so nobody owns it",
    ),
    (
        "daemonset table",
        "/rows/0/object/metadata/annotations",
        "recorded from an internal form without it",
    ),
    ("daemonset pods", "/items/0/spec/nodeName", PLACED),
    ("daemonset pods", "/items/1/spec/nodeName", PLACED),
    ("daemonset pods", "/items/0/spec/serviceAccount", ACCOUNT),
    ("daemonset pods", "/items/1/spec/serviceAccount", ACCOUNT),
    ("pod table", "/rows/0/cells/6", PLACED),
    ("pod table", "/rows/1/cells/6", PLACED),
    ("pod status patch", "/spec/nodeName", PLACED),
    ("pod status patch", "/spec/serviceAccount", ACCOUNT),
    ("daemonset generation", "/status", EVICTED),
    (
        "daemonset generation",
        "/metadata/managedFields/1/fieldsV1/f:status",
        EVICTED,
    ),
    ("daemonset delete orphan", "/status", EVICTED),
    (
        "daemonset delete orphan",
        "/metadata/managedFields/1/fieldsV1/f:status",
        EVICTED,
    ),
    ("daemonset strategic", "/status", EVICTED),
    (
        "daemonset strategic",
        "/metadata/managedFields/1/fieldsV1/f:status",
        EVICTED,
    ),
    (
        "crd create",
        "/status",
        "a definition is established at once",
    ),
];

const PLACED: &str = "recorded without a scheduler";
const ACCOUNT: &str = "recorded with the admission of service accounts off";
const EVICTED: &str =
    "how far the controller had got with the eviction and the new template when it was recorded";

/// Resources of the recorded server that this one does not serve.
const UNSERVED: &[&str] = &[
    "attach",
    "binding",
    "ephemeralcontainers",
    "exec",
    "portforward",
    "resize",
    "nodes/proxy",
];

struct Run {
    cluster: Arc<ApiCluster>,
    token: Option<String>,
    uid: Option<Value>,
    version: Option<Value>,
    stale: Option<Value>,
    next: Option<String>,
    pod: Option<String>,
}

#[derive(Debug)]
struct Answer {
    status: u16,
    kind: Option<String>,
    warning: Option<String>,
    body: Value,
}

impl Run {
    async fn ask(&self, request: &Value, body: Option<String>) -> Answer {
        let mut asked = Request::builder()
            .method(request["method"].as_str().unwrap())
            .uri(request["path"].as_str().unwrap());
        for (field, header) in [("accept", "accept"), ("contentType", "content-type")] {
            if let Some(value) = request[field].as_str() {
                asked = asked.header(header, value);
            }
        }
        let token = match request["auth"].as_str() {
            None => Some("admin".to_owned()),
            Some("none") => None,
            Some("wrong") => Some("wrong".to_owned()),
            Some(_) => self.token.clone(),
        };
        if let Some(token) = token {
            asked = asked.header("authorization", format!("Bearer {token}"));
        }
        let asked = asked
            .body(Full::new(bytes::Bytes::from(body.unwrap_or_default())))
            .unwrap();
        let answer = self.cluster.handle(asked).await;
        let header = |name: &str| {
            answer
                .headers()
                .get(name)
                .map(|value| value.to_str().unwrap().to_owned())
        };
        let (status, kind, warning) = (
            answer.status().as_u16(),
            header("content-type"),
            header("warning"),
        );
        let bytes = answer.into_body().collect().await.unwrap().to_bytes();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let body = match serde_json::from_str(&text) {
            Ok(value) => value,
            Err(_) => {
                // A watch: one object a line.
                let lines: Result<Vec<Value>, _> = text.lines().map(serde_json::from_str).collect();
                match lines {
                    Ok(lines) => lines.into(),
                    Err(_) => Value::String(text),
                }
            }
        };
        Answer {
            status,
            kind,
            warning,
            body,
        }
    }

    async fn admin(&self, method: &str, path: &str, body: Value) -> Answer {
        let kind = match method {
            "PATCH" => "application/merge-patch+json",
            _ => "application/json",
        };
        let request = json!({"method": method, "path": path, "contentType": kind, "accept": "application/json"});
        let answer = self.ask(&request, Some(body.to_string())).await;
        assert!(answer.status < 300, "{method} {path}: {answer:?}");
        answer
    }

    /// What was done between the recorded requests.
    async fn before(&self, name: &str) {
        let maps = "/api/v1/namespaces/t1/configmaps";
        match name {
            "list selector" => {
                for i in 0..5 {
                    let label = if i % 2 == 0 { "y" } else { "x" };
                    let map = json!({"apiVersion": "v1", "kind": "ConfigMap",
                        "metadata": {"name": format!("l{i}"), "labels": {"g": label}}, "data": {"a": "1"}});
                    self.admin("POST", maps, map).await;
                }
            }
            "delete with finalizer" => {
                let map = json!({"apiVersion": "v1", "kind": "ConfigMap",
                    "metadata": {"name": "f1", "finalizers": ["floater.test/hold"]}, "data": {"a": "1"}});
                self.admin("POST", maps, map).await;
            }
            "token request" => {
                let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "sa"}});
                self.admin("POST", "/api/v1/namespaces/t1/serviceaccounts", account)
                    .await;
            }
            "allowed by resourceName" => {
                let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
                    "metadata": {"name": "r"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "r"},
                    "subjects": [{"kind": "ServiceAccount", "name": "sa", "namespace": "t1"}]});
                self.admin(
                    "POST",
                    "/apis/rbac.authorization.k8s.io/v1/namespaces/t1/rolebindings",
                    binding,
                )
                .await;
            }
            "toy after crd" => {
                self.admin(
                    "DELETE",
                    "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/toys.floater.test",
                    json!({}),
                )
                .await;
            }
            _ => {}
        }
    }

    /// What was done while a recorded watch ran.
    async fn meanwhile(&self, name: &str) {
        let maps = "/api/v1/namespaces/t1/configmaps";
        match name {
            "watch from version" => {
                let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "w9"}, "data": {"a": "1"}});
                self.admin("POST", maps, map).await;
                self.admin("PATCH", &format!("{maps}/w9"), json!({"data": {"n": "1"}}))
                    .await;
                self.admin("DELETE", &format!("{maps}/w9"), json!({})).await;
            }
            "watch selector leaves" => {
                self.admin(
                    "PATCH",
                    &format!("{maps}/l1"),
                    json!({"metadata": {"labels": {"g": "gone"}}}),
                )
                .await;
            }
            _ => {}
        }
    }
}

/// Hides what differs from run to run.
fn mask(value: &mut Value) {
    match value {
        Value::Object(map) => {
            for (name, inner) in map.iter_mut() {
                let masked = match name.as_str() {
                    "uid" => "<uid>",
                    "resourceVersion" => "<resourceVersion>",
                    "creationTimestamp"
                    | "deletionTimestamp"
                    | "time"
                    | "lastTransitionTime"
                    | "expirationTimestamp" => "<time>",
                    "continue" => "<continue>",
                    "token" if inner.is_string() => "<jwt>",
                    "clusterIP" => "<ip>",
                    "storageVersionHash" | "description" | "controller-revision-hash" => "<text>",
                    _ => {
                        mask(inner);
                        continue;
                    }
                };
                if inner.is_string() {
                    *inner = masked.into();
                } else {
                    mask(inner);
                }
            }
            map.shift_remove("storageVersionHash");
            for text in ["message", "kubernetes.io/description"] {
                if let Some(text) = map.get_mut(text).filter(|text| text.is_string()) {
                    *text = "<text>".into();
                }
            }
            if map.get("manager").is_some_and(|manager| manager == "kube") {
                map["manager"] = "kube-controller-manager".into();
            }
            // Names that the server made up: generated ones, and pods, which are named by their node here.
            if let Some(name) = map.get_mut("name")
                && name
                    .as_str()
                    .is_some_and(|name| name.starts_with("gen-") || name.starts_with("d-"))
            {
                *name = "<generated>".into();
            }
            let owners: Vec<String> = map
                .keys()
                .filter(|key| key.starts_with("k:{\"uid\""))
                .cloned()
                .collect();
            for owner in owners {
                let value = map.shift_remove(&owner).unwrap_or_default();
                map.insert("k:{\"uid\":\"<uid>\"}".to_owned(), value);
            }
            // Where the recorded order is that of a hash table, or of times within a second.
            for list in [
                "causes",
                "managedFields",
                "resourceRules",
                "nonResourceRules",
                "values",
            ] {
                if let Some(list) = map.get_mut(list).and_then(Value::as_array_mut) {
                    list.retain(|entry| !unserved(entry));
                    list.sort_by_key(canonical);
                }
            }
            if map.get("key").is_some_and(|key| key == "metadata.name") {
                map["values"] = json!(["<node>"]);
            }
            for list in ["resources", "subresources"] {
                if let Some(list) = map.get_mut(list).and_then(Value::as_array_mut) {
                    list.retain(|entry| !unserved(entry));
                }
            }
            if let Some(ips) = map.get_mut("clusterIPs") {
                *ips = json!(["<ip>"]);
            }
        }
        Value::Array(list) => {
            for inner in list {
                mask(inner);
            }
        }
        Value::String(text) => {
            let age = text.len() <= 4
                && text
                    .strip_suffix('s')
                    .is_some_and(|n| n.parse::<u32>().is_ok());
            if age {
                *text = "<age>".to_owned();
            } else if text.starts_with("d-") {
                *text = "<generated>".to_owned();
            }
        }
        _ => {}
    }
}

/// A text that is the same for equal values, in whichever order their fields came.
fn canonical(value: &Value) -> String {
    match value {
        Value::Object(map) => {
            let mut fields: Vec<String> = map
                .iter()
                .map(|(name, value)| format!("{name}:{}", canonical(value)))
                .collect();
            fields.sort();
            fields.concat()
        }
        Value::Array(list) => list.iter().map(canonical).collect(),
        other => other.to_string(),
    }
}

/// Whether an entry is about something that is not served here.
fn unserved(entry: &Value) -> bool {
    let text = entry.to_string();
    let named = |field: &str| {
        let name = entry[field].as_str().unwrap_or_default();
        UNSERVED
            .iter()
            .any(|left| name == *left || name.rsplit('/').next() == Some(left))
    };
    named("name")
        || named("subresource")
        || text.contains("NodeProxyOptions")
        || ["certificates.k8s.io", "openid"]
            .iter()
            .any(|left| text.contains(left))
}

/// Where two values differ, as paths.
fn differences(path: &str, wanted: &Value, got: &Value, found: &mut Vec<String>) {
    match (wanted, got) {
        (Value::Object(a), Value::Object(b)) => {
            for (name, wanted) in a {
                match b.get(name) {
                    Some(got) => differences(&format!("{path}/{name}"), wanted, got, found),
                    None if wanted.is_null() => {}
                    None => found.push(format!("{path}/{name}: missing, wanted {wanted}")),
                }
            }
            for (name, got) in b {
                if !a.contains_key(name) && !got.is_null() {
                    found.push(format!("{path}/{name}: not wanted, got {got}"));
                }
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (at, (wanted, got)) in a.iter().zip(b).enumerate() {
                differences(&format!("{path}/{at}"), wanted, got, found);
            }
        }
        _ if wanted == got => {}
        _ => found.push(format!("{path}: wanted {wanted}, got {got}")),
    }
}

/// Lists that the transcript cut short are cut to the same entries.
fn shorten(wanted: &Value, got: &mut Value) {
    match (wanted, got) {
        (Value::Object(wanted), Value::Object(got)) => {
            for (name, wanted) in wanted {
                if let Some(got) = got.get_mut(name) {
                    shorten(wanted, got);
                }
            }
        }
        (Value::Array(wanted), Value::Array(got)) => {
            let id = |value: &Value| -> Option<String> {
                ["name", "resource", "subresource", "version"]
                    .iter()
                    .find_map(|field| value[*field].as_str())
                    .or_else(|| value["metadata"]["name"].as_str())
                    .map(str::to_owned)
            };
            if wanted.iter().all(|value| id(value).is_some()) {
                let kept: Vec<Value> = wanted
                    .iter()
                    .filter_map(|wanted| got.iter().find(|got| id(got) == id(wanted)).cloned())
                    .collect();
                *got = kept;
            }
            for (wanted, got) in wanted.iter().zip(got) {
                shorten(wanted, got);
            }
        }
        _ => {}
    }
}

fn cluster() -> Arc<ApiCluster> {
    ApiCluster::new(Options {
        name: "transcripts".to_owned(),
        uid: String::new(),
        admin_token: "admin".to_owned(),
        dialer: Arc::new(NoPods),
    })
}

/// The nodes, written by the clients that wrote the recorded ones.
async fn nodes(cluster: &Arc<ApiCluster>) {
    let send = async |method: &str, path: &str, kind: &str, agent: &str, body: Value| {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("authorization", "Bearer admin")
            .header("content-type", kind)
            .header("user-agent", agent)
            .body(Full::new(bytes::Bytes::from(body.to_string())))
            .unwrap();
        let answer = cluster.handle(request).await;
        assert!(answer.status().is_success(), "{method} {path}");
    };
    for name in ["n1", "n2"] {
        let node = json!({"apiVersion": "v1", "kind": "Node",
            "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}}});
        let path = format!("/api/v1/nodes/{name}");
        send(
            "POST",
            "/api/v1/nodes",
            "application/json",
            "kubectl-create/1",
            node,
        )
        .await;
        let ttl = json!({"metadata": {"annotations": {"node.alpha.kubernetes.io/ttl": "0"}}});
        send(
            "PATCH",
            &path,
            "application/merge-patch+json",
            "kube/1",
            ttl,
        )
        .await;
        let status = json!({"status": {
            "addresses": [{"type": "InternalIP", "address": "172.16.0.2"}, {"type": "Hostname", "address": name}],
            "conditions": [{"type": "Ready", "status": "True", "reason": "x"}],
            "nodeInfo": {"architecture": "amd64", "containerRuntimeVersion": "floater://0.1", "kernelVersion": "6.18",
                "kubeletVersion": "v1.37.2", "operatingSystem": "linux", "osImage": "x"},
        }});
        send(
            "PATCH",
            &format!("{path}/status"),
            "application/strategic-merge-patch+json",
            "kubectl-patch/1",
            status,
        )
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_recorded_request_is_answered_as_the_real_one_was() {
    let cluster = cluster();
    nodes(&cluster).await;
    let controllers = tokio::spawn(
        cluster
            .clone()
            .run_controllers(std::future::pending::<()>()),
    );
    let mut run = Run {
        cluster,
        token: None,
        uid: None,
        version: None,
        stale: None,
        next: None,
        pod: None,
    };
    let mut failed = Vec::new();
    for line in TRANSCRIPTS.lines() {
        let case: Value = serde_json::from_str(line).unwrap();
        let name = case["name"].as_str().unwrap();
        run.before(name).await;
        let answer = play(&mut run, &case).await;
        if LEFT_OUT.iter().any(|(left, _)| *left == name) {
            continue;
        }
        let found = judge(&case, &answer);
        if !found.is_empty() {
            failed.push(format!("{name}:\n    {}", found.join("\n    ")));
        }
    }
    controllers.abort();
    assert!(
        failed.is_empty(),
        "{} differ\n{}",
        failed.len(),
        failed.join("\n")
    );
}

/// Sends a recorded request with the values that only this run has.
async fn play(run: &mut Run, case: &Value) -> Answer {
    let name = case["name"].as_str().unwrap();
    let mut request = case["request"].clone();
    let mut path = request["path"].as_str().unwrap().to_owned();
    if let Some(next) = &run.next {
        let sent = if name == "list bad continue" {
            "xyz"
        } else {
            next
        };
        path = path.replace("<continue>", sent);
    } else {
        path = path.replace("<continue>", "xyz");
    }
    path = path
        .replace("timeoutSeconds=2", "timeoutSeconds=1")
        .replace("<list>", &run.cluster.store().version().to_string());
    if let Some(pod) = &run.pod {
        path = path.replace("d-hv4fc", pod);
    }
    match name {
        "daemonset table" | "daemonset pods" => settle(run, "updatedNumberScheduled", 2).await,
        "daemonset strategic" => settle(run, "currentNumberScheduled", 1).await,
        _ => {}
    }
    request["path"] = path.into();
    let mut body = match &case["request"]["body"] {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        value => Some(value.to_string()),
    };
    match name {
        "update" => {
            body = body.map(|b| {
                b.replace(
                    "\"<resourceVersion>\"",
                    &run.version.clone().unwrap().to_string(),
                )
            })
        }
        "update stale" | "merge patch stale version" => {
            body = body.map(|b| {
                b.replace(
                    "\"<resourceVersion>\"",
                    &run.stale.clone().unwrap().to_string(),
                )
            });
        }
        "merge patch of uid" => body = body.map(|b| b.replace("<uid>", "other")),
        "pod eviction" => {
            let pod = run.pod.clone().unwrap_or_default();
            body = body.map(|b| b.replace("d-hv4fc", &pod));
        }
        "delete wrong uid" => body = body.map(|b| b.replace("<uid>", "nope")),
        _ => {}
    }
    let mut answer = if name.starts_with("watch ")
        && request["path"].as_str().unwrap().contains("timeoutSeconds")
    {
        let (answer, ()) = tokio::join!(run.ask(&request, body), async {
            tokio::task::yield_now().await;
            run.meanwhile(name).await;
        });
        answer
    } else {
        run.ask(&request, body).await
    };
    match name {
        "create" => {
            run.version = Some(answer.body["metadata"]["resourceVersion"].clone());
            run.stale = run.version.clone();
            run.uid = Some(answer.body["metadata"]["uid"].clone());
        }
        "token request" => run.token = answer.body["status"]["token"].as_str().map(str::to_owned),
        "list page 1" | "list page 2" => {
            run.next = answer.body["metadata"]["continue"]
                .as_str()
                .map(str::to_owned);
        }
        "daemonset pods" => {
            run.pod = answer.body["items"][0]["metadata"]["name"]
                .as_str()
                .map(str::to_owned);
        }
        _ => {}
    }
    if case["note"]
        .as_str()
        .is_some_and(|note| note.contains("shortened"))
    {
        shorten(&case["response"]["body"], &mut answer.body);
    }
    answer
}

/// Waits until the DaemonSet's status says this.
async fn settle(run: &Run, field: &str, number: u64) {
    let mut watch = run.cluster.store().watch(Resource::DAEMON_SETS, 0);
    let settled = async { while watch.next().await.object["status"][field] != number {} };
    tokio::time::timeout(std::time::Duration::from_secs(20), settled)
        .await
        .unwrap_or_else(|_| panic!("{field} never was {number}"));
}

fn judge(case: &Value, answer: &Answer) -> Vec<String> {
    let name = case["name"].as_str().unwrap();
    let wanted = &case["response"];
    let mut found = Vec::new();
    if wanted["status"] != answer.status {
        found.push(format!(
            "status: wanted {}, got {}: {}",
            wanted["status"], answer.status, answer.body
        ));
    }
    if let Some(kind) = wanted["contentType"].as_str()
        && answer.kind.as_deref() != Some(kind)
    {
        found.push(format!(
            "content type: wanted {kind}, got {:?}",
            answer.kind
        ));
    }
    if wanted["warning"].as_str() != answer.warning.as_deref() {
        found.push(format!(
            "warning: wanted {}, got {:?}",
            wanted["warning"], answer.warning
        ));
    }
    let (mut a, mut b) = (wanted["body"].clone(), answer.body.clone());
    if name.starts_with("watch ") && answer.status == 200 {
        for side in [&mut a, &mut b] {
            if side.is_object() {
                *side = json!([side]);
            }
        }
    }
    mask(&mut a);
    mask(&mut b);
    let mut places = Vec::new();
    differences("", &a, &b, &mut places);
    places.retain(|place| {
        !LEFT_OUT_FIELDS.iter().any(|(case, prefix, _)| {
            (*case == name || *case == "*") && (*prefix == "*" || place.starts_with(prefix))
        })
    });
    found.extend(places);
    found
}

#[test]
fn what_is_left_out_is_named_as_recorded() {
    let names: Vec<String> = TRANSCRIPTS
        .lines()
        .map(|line| {
            let case: Map<String, Value> = serde_json::from_str(line).unwrap();
            case["name"].as_str().unwrap().to_owned()
        })
        .collect();
    for (name, _) in LEFT_OUT {
        assert!(names.iter().any(|known| known == name), "{name}");
    }
    for (name, ..) in LEFT_OUT_FIELDS {
        assert!(
            *name == "*" || names.iter().any(|known| known == name),
            "{name}"
        );
    }
}
