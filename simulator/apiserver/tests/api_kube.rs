//! The simulated API under the kube crate: within the process and over TLS.

#[path = "api/shared_listener.rs"]
mod shared_listener;
#[path = "api/tls.rs"]
#[allow(dead_code, reason = "shared with a test that uses all of it")]
mod tls;

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use apiserver::{ApiCluster, Connection, EventKind, NoPods, PodDialer, Resource};
use futures::future::BoxFuture;
use futures::{StreamExt, TryStreamExt};
use http_body_util::{BodyExt, StreamBody};
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, Pod};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{
    ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams,
};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Config, ResourceExt};
use serde_json::{Value, json};

/// A client within the process.
fn inside(cluster: &Arc<ApiCluster>) -> Client {
    Client::new(cluster.service_as(tls::TOKEN), "default")
}

/// A client over TLS.
async fn outside(running: &tls::Running) -> Client {
    let kubeconfig = serde_json::from_str(&running.kubeconfig()).expect("a kubeconfig");
    let config = Config::from_custom_kubeconfig(kubeconfig, &Default::default())
        .await
        .expect("its context");
    Client::try_from(config).expect("a client")
}

fn map(name: &str, data: &[(&str, &str)]) -> ConfigMap {
    ConfigMap {
        metadata: kube::api::ObjectMeta {
            name: Some(name.to_owned()),
            ..Default::default()
        },
        data: Some(
            data.iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
        ),
        ..Default::default()
    }
}

/// What every transport has to do.
async fn everything(client: Client) {
    let nodes: Api<Node> = Api::all(client.clone());
    assert_eq!(
        nodes
            .list(&ListParams::default())
            .await
            .expect("nodes")
            .items
            .len(),
        2
    );
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "default");

    let mut events = watcher(maps.clone(), watcher::Config::default().labels("seen=yes"))
        .default_backoff()
        .applied_objects()
        .boxed();
    let mut labelled = map("seen", &[("a", "1")]);
    labelled.metadata.labels = Some(BTreeMap::from([("seen".to_owned(), "yes".to_owned())]));
    maps.create(&PostParams::default(), &labelled)
        .await
        .expect("created");
    let seen = events.try_next().await.expect("a watch").expect("an event");
    assert_eq!(seen.name_any(), "seen");

    // Paging sees one state, whatever happens between the pages.
    for i in 0..5 {
        let name = format!("p{i}");
        maps.create(&PostParams::default(), &map(&name, &[]))
            .await
            .expect("created");
    }
    let first = maps
        .list(&ListParams::default().limit(3))
        .await
        .expect("a page");
    maps.delete("p4", &DeleteParams::default())
        .await
        .expect("deleted");
    let token = first.metadata.continue_.clone().expect("more");
    let rest = maps
        .list(&ListParams::default().limit(50).continue_token(&token))
        .await
        .expect("the rest");
    assert!(rest.items.iter().any(|map| map.name_any() == "p4"));

    let apply = |value: Value| Patch::Apply(value);
    let object = |data: Value| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "s"}, "data": data});
    let one = PatchParams::apply("one");
    maps.patch("s", &one, &apply(object(json!({"a": "1", "b": "1"}))))
        .await
        .expect("applied");
    let after = maps
        .patch("s", &one, &apply(object(json!({"a": "1"}))))
        .await
        .expect("applied");
    assert_eq!(after.data.expect("data").len(), 1);
    let two = PatchParams::apply("two");
    let conflict = maps
        .patch("s", &two, &apply(object(json!({"a": "2"}))))
        .await;
    let Err(kube::Error::Api(status)) = conflict else {
        panic!("a conflict, not {conflict:?}");
    };
    assert_eq!((status.code, status.reason.as_str()), (409, "Conflict"));
    let forced = maps
        .patch("s", &two.force(), &apply(object(json!({"a": "2"}))))
        .await
        .expect("forced");
    assert_eq!(forced.data.expect("data")["a"], "2");

    let merged = maps
        .patch(
            "s",
            &PatchParams::default(),
            &Patch::Merge(json!({"data": {"m": "1"}})),
        )
        .await
        .expect("merged");
    assert_eq!(merged.data.expect("data")["m"], "1");
    maps.patch(
        "s",
        &PatchParams::default(),
        &Patch::Strategic(json!({"data": {"m": null}})),
    )
    .await
    .expect("merged strategically");
    let absent = maps.get_opt("none").await.expect("an answer");
    assert!(absent.is_none());

    let leases: Api<Lease> = Api::namespaced(client.clone(), "default");
    let mut lease: Lease = serde_json::from_value(json!({"metadata": {"name": "l"}, "spec": {
        "holderIdentity": "a", "leaseDurationSeconds": 15, "renewTime": "2026-01-01T00:00:00.000000Z"}}))
    .expect("a lease");
    lease = leases
        .create(&PostParams::default(), &lease)
        .await
        .expect("created");
    let stale = lease.clone();
    lease.spec.as_mut().expect("spec").holder_identity = Some("b".to_owned());
    leases
        .replace("l", &PostParams::default(), &lease)
        .await
        .expect("the first wins");
    let lost = leases.replace("l", &PostParams::default(), &stale).await;
    assert!(matches!(lost, Err(kube::Error::Api(status)) if status.code == 409));

    custom(client.clone()).await;

    let namespaces: Api<Namespace> = Api::all(client.clone());
    let namespace: Namespace =
        serde_json::from_value(json!({"metadata": {"name": "work"}})).expect("a namespace");
    let namespace = namespaces
        .create(&PostParams::default(), &namespace)
        .await
        .expect("created");
    daemons(client.clone()).await;
    namespaces
        .delete("work", &DeleteParams::default())
        .await
        .expect("deleted");
    let uid = namespace.uid().expect("a uid");
    kube::runtime::wait::await_condition(
        namespaces,
        "work",
        kube::runtime::conditions::is_deleted(&uid),
    )
    .await
    .expect("it ends");
}

/// Kinds that clients define.
async fn custom(client: Client) {
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    let definition: CustomResourceDefinition = serde_json::from_value(json!({
        "metadata": {"name": "toys.floater.test"},
        "spec": {"group": "floater.test", "scope": "Cluster", "names": {"plural": "toys", "kind": "Toy"}, "versions": [{
            "name": "v1", "served": true, "storage": true, "subresources": {"status": {}},
            "schema": {"openAPIV3Schema": {"type": "object", "properties": {
                "spec": {"type": "object", "properties": {
                    "n": {"type": "integer", "default": 7},
                    "list": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
                        "items": {"type": "object", "required": ["k"], "properties": {"k": {"type": "string"}, "v": {"type": "integer"}}}},
                }},
                "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
            }}}}]},
    }))
    .expect("a definition");
    definitions
        .create(&PostParams::default(), &definition)
        .await
        .expect("created");
    let kind = ApiResource {
        group: "floater.test".to_owned(),
        version: "v1".to_owned(),
        api_version: "floater.test/v1".to_owned(),
        kind: "Toy".to_owned(),
        plural: "toys".to_owned(),
    };
    let toys: Api<DynamicObject> = Api::all_with(client.clone(), &kind);
    let toy = |list: Value| json!({"apiVersion": "floater.test/v1", "kind": "Toy", "metadata": {"name": "t"}, "spec": {"list": list}});
    // Two managers own one entry each of a keyed list.
    for (manager, key) in [("one", "a"), ("two", "b")] {
        let applied = toys
            .patch(
                "t",
                &PatchParams::apply(manager),
                &Patch::Apply(toy(json!([{"k": key, "v": 1}]))),
            )
            .await
            .expect("applied");
        assert_eq!(applied.data["spec"]["n"], 7);
    }
    let left = toys
        .patch(
            "t",
            &PatchParams::apply("one"),
            &Patch::Apply(toy(json!([]))),
        )
        .await
        .expect("applied");
    assert_eq!(left.data["spec"]["list"], json!([{"k": "b", "v": 1}]));
    toys.patch_status(
        "t",
        &PatchParams::default(),
        &Patch::Merge(json!({"status": {"x": 1}})),
    )
    .await
    .expect("its status");
    definitions
        .delete("toys.floater.test", &DeleteParams::default())
        .await
        .expect("deleted");
    assert!(toys.list(&ListParams::default()).await.is_err());
}

/// Daemons get a pod per node and lose it with their owner.
async fn daemons(client: Client) {
    let sets: Api<DaemonSet> = Api::namespaced(client.clone(), "work");
    let pods: Api<Pod> = Api::namespaced(client, "work");
    let set: DaemonSet = serde_json::from_value(json!({
        "metadata": {"name": "d"},
        "spec": {"selector": {"matchLabels": {"app": "d"}}, "template": {
            "metadata": {"labels": {"app": "d"}}, "spec": {"containers": [{"name": "c", "image": "x:1"}]}}},
    }))
    .expect("a DaemonSet");
    sets.create(&PostParams::default(), &set)
        .await
        .expect("created");
    let mut found = watcher(pods.clone(), watcher::Config::default())
        .default_backoff()
        .applied_objects()
        .boxed();
    let mut names = Vec::new();
    while names.len() < 2 {
        let pod = found.try_next().await.expect("a watch").expect("an event");
        names.push(pod.name_any());
    }
    names.sort();
    assert_eq!(names, ["d-n1", "d-n2"]);
    sets.delete("d", &DeleteParams::background())
        .await
        .expect("deleted");
    for name in names {
        // As a kubelet ends it: nothing else does, and the namespace waits for it.
        pods.delete(&name, &DeleteParams::default().grace_period(0))
            .await
            .expect("deleted");
    }
}

/// A test that hangs has failed.
const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn within_the_process() {
    let cluster = tls::cluster(Arc::new(NoPods));
    let controllers = tokio::spawn(
        cluster
            .clone()
            .run_controllers(std::future::pending::<()>()),
    );
    tokio::time::timeout(PATIENCE, everything(inside(&cluster)))
        .await
        .expect("in time");
    controllers.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_tls() {
    let running = tls::start().await;
    tokio::time::timeout(PATIENCE, everything(outside(&running).await))
        .await
        .expect("in time");
}

#[tokio::test]
async fn a_wrong_token_and_none_are_refused() {
    let cluster = tls::cluster(Arc::new(NoPods));
    for (service, code) in [(cluster.service_as("wrong"), 401), (cluster.service(), 403)] {
        let nodes: Api<Node> = Api::all(Client::new(service, "default"));
        let refused = nodes.list(&ListParams::default()).await;
        assert!(matches!(refused, Err(kube::Error::Api(status)) if status.code == code));
    }
}

#[tokio::test]
async fn nobody_hands_out_what_it_does_not_have() {
    let cluster = tls::cluster(Arc::new(NoPods));
    let store = cluster.store();
    let role = json!({"metadata": {"name": "r"}, "rules": [
        {"apiGroups": ["rbac.authorization.k8s.io"], "resources": ["roles", "rolebindings"], "verbs": ["create", "patch", "update", "get"]},
        {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get"]},
    ]});
    store
        .create(Resource::ROLES, Some("default"), role)
        .expect("created");
    let binding = json!({"metadata": {"name": "r"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "r"},
        "subjects": [{"kind": "ServiceAccount", "name": "default", "namespace": "default"}]});
    store
        .create(Resource::ROLE_BINDINGS, Some("default"), binding)
        .expect("created");
    let token = cluster
        .service_account_token("default", "default")
        .expect("an account");
    let client = Client::new(cluster.service_as(&token), "default");
    let roles: Api<k8s_openapi::api::rbac::v1::Role> = Api::namespaced(client, "default");
    let role = |resource: &str| {
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": resource},
        "rules": [{"apiGroups": [""], "resources": [resource], "verbs": ["get"]}]})
    };
    let apply = PatchParams::apply("me");
    roles
        .patch("configmaps", &apply, &Patch::Apply(role("configmaps")))
        .await
        .expect("held");
    let refused = roles
        .patch("secrets", &apply, &Patch::Apply(role("secrets")))
        .await;
    assert!(matches!(refused, Err(kube::Error::Api(status)) if status.code == 403));
    let grown = json!({"rules": [{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}]});
    let refused = roles
        .patch("configmaps", &PatchParams::default(), &Patch::Merge(grown))
        .await;
    assert!(matches!(refused, Err(kube::Error::Api(status)) if status.code == 403));
}

#[tokio::test]
async fn a_watch_that_lags_too_far_is_told_to_list() {
    let cluster = tls::cluster(Arc::new(NoPods));
    let store = cluster.store();
    let mut watch = store.watch(Resource::CONFIG_MAPS, store.version());
    let before = store.version();
    let make = |n: usize| json!({"metadata": {"name": "c"}, "data": {"n": n.to_string()}});
    store
        .create(Resource::CONFIG_MAPS, Some("default"), make(0))
        .expect("created");
    assert_eq!(watch.next().await.kind, EventKind::Added);
    for n in 1..3000 {
        store
            .put(Resource::CONFIG_MAPS, Some("default"), "c", |map| {
                map["data"] = make(n)["data"].take()
            })
            .expect("changed");
    }
    assert_eq!(watch.next().await.kind, EventKind::Relist);
    let maps: Api<ConfigMap> = Api::namespaced(inside(&cluster), "default");
    let mut events = maps
        .watch(&kube::api::WatchParams::default(), &before.to_string())
        .await
        .expect("a watch")
        .boxed();
    let event = events
        .try_next()
        .await
        .expect("an event")
        .expect("an event");
    assert!(matches!(event, kube::core::WatchEvent::Error(status) if status.code == 410));
}

/// A pod that is a server of this process, in plain text on one port and in TLS on the other.
struct Pods {
    plain: std::net::SocketAddr,
    secure: std::net::SocketAddr,
}

/// Answers with the head of a request and then whatever it carries, as it comes.
async fn echo(stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static) {
    let service =
        hyper::service::service_fn(|request: http::Request<hyper::body::Incoming>| async move {
            assert!(request.headers().get("authorization").is_none());
            let head = format!(
                "{} {} {}\n",
                request.method(),
                request.uri(),
                request.headers()["x-run"].to_str().expect("text")
            );
            let first =
                futures::stream::iter([Ok(hyper::body::Frame::data(bytes::Bytes::from(head)))]);
            let rest = http_body_util::BodyStream::new(request.into_body());
            Ok::<_, std::convert::Infallible>(http::Response::new(StreamBody::new(
                first.chain(rest),
            )))
        });
    let served = hyper::server::conn::http1::Builder::new()
        .serve_connection(hyper_util::rt::TokioIo::new(stream), service)
        .await;
    drop(served);
}

impl PodDialer for Pods {
    fn dial<'a>(
        &'a self,
        namespace: &'a str,
        pod: &'a str,
        port: u16,
    ) -> BoxFuture<'a, io::Result<Connection>> {
        assert_eq!((namespace, pod), ("default", "p"));
        Box::pin(async move {
            let address = match port {
                8889 => self.plain,
                8890 => self.secure,
                _ => return Err(io::ErrorKind::ConnectionRefused.into()),
            };
            let stream = tokio::net::TcpStream::connect(address).await?;
            Ok(Connection::over(stream))
        })
    }

    fn log(&self, _: &str, pod: &str) -> io::Result<Vec<u8>> {
        Ok(format!("log of {pod}\n").into_bytes())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_reach_pods_and_stream_both_ways() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("loopback");
    let plain = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(echo(stream));
        }
    });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("loopback");
    let secure = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        let acceptor = tokio_rustls::TlsAcceptor::from(tls::config().0);
        while let Ok((stream, _)) = listener.accept().await {
            let stream = acceptor
                .accept(stream)
                .await
                .expect("any certificate will do");
            tokio::spawn(echo(stream));
        }
    });
    let cluster = tls::cluster(Arc::new(Pods { plain, secure }));
    let pod = json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "x"}]}});
    cluster
        .store()
        .create(Resource::PODS, Some("default"), pod)
        .expect("created");
    let send = |path: &str| {
        let (sender, receiver) = futures::channel::mpsc::unbounded::<
            Result<hyper::body::Frame<bytes::Bytes>, io::Error>,
        >();
        let request = http::Request::post(path)
            .header("authorization", format!("Bearer {}", tls::TOKEN))
            .header("x-run", "r1")
            .body(StreamBody::new(receiver))
            .expect("a request");
        (sender, cluster.handle(request))
    };
    let path = "/api/v1/namespaces/default/pods/p:8889/proxy/v1/run?a=b%20c";
    let (_, early) = send(path);
    assert_eq!(early.await.status(), 400, "a pod without an address");
    cluster
        .store()
        .put_status(
            Resource::PODS,
            Some("default"),
            "p",
            json!({"podIP": "10.0.0.1"}),
        )
        .expect("changed");
    for target in ["p:8889", "https:p:8890"] {
        let path = format!("/api/v1/namespaces/default/pods/{target}/proxy/v1/run?a=b%20c");
        let (sender, answer) = send(&path);
        let answer = answer.await;
        assert_eq!(answer.status(), 200);
        let mut body = answer.into_body();
        let mut frame = async || {
            let frame = body.frame().await?.expect("no break");
            Some(String::from_utf8(frame.into_data().expect("data").to_vec()).expect("text"))
        };
        assert_eq!(frame().await.as_deref(), Some("POST /v1/run?a=b%20c r1\n"));
        for word in ["one", "two"] {
            // The answer to the first comes before the second is sent.
            sender
                .unbounded_send(Ok(hyper::body::Frame::data(word.into())))
                .expect("open");
            assert_eq!(frame().await.as_deref(), Some(word));
        }
        drop(sender);
        assert_eq!(frame().await, None);
    }

    let (_, refused) = send("/api/v1/namespaces/default/pods/https:p:1/proxy/");
    let refused = refused.await;
    assert_eq!(refused.status(), 503);
    let text = refused
        .into_body()
        .collect()
        .await
        .expect("a body")
        .to_bytes();
    let status: Value = serde_json::from_slice(&text).expect("a status");
    assert_eq!(status["reason"], "ServiceUnavailable");
    let (_, absent) = send("/api/v1/namespaces/default/pods/q:1/proxy/");
    assert_eq!(absent.await.status(), 404);

    let pods: Api<Pod> = Api::namespaced(inside(&cluster), "default");
    assert_eq!(
        pods.logs("p", &Default::default()).await.expect("a log"),
        "log of p\n"
    );
}

/// A kubelet for all nodes: new pods are ready at once, deleted ones gone at once.
async fn kubelet(cluster: Arc<ApiCluster>) {
    let store = cluster.store();
    let mut watch = store.watch(Resource::PODS, 0);
    loop {
        let event = watch.next().await;
        let metadata = &event.object["metadata"];
        let (namespace, name) = (metadata["namespace"].as_str(), metadata["name"].as_str());
        let name = name.expect("pods have names");
        if event.kind == EventKind::Deleted {
            continue;
        }
        // It may be gone by now; the event that says so follows.
        if metadata["deletionTimestamp"].is_string() {
            let _ = store.delete(Resource::PODS, namespace, name);
        } else if event.object["status"]["phase"] == "Pending" {
            let ready = json!({"phase": "Running", "podIP": "10.0.0.1", "conditions": [{"type": "Ready", "status": "True"}]});
            let _ = store.put_status(Resource::PODS, namespace, name, ready);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn daemons_follow_their_template_and_their_nodes() {
    let cluster = tls::cluster(Arc::new(NoPods));
    let store = cluster.store();
    tokio::spawn(
        cluster
            .clone()
            .run_controllers(std::future::pending::<()>()),
    );
    tokio::spawn(kubelet(cluster.clone()));
    let excluded = json!({"metadata": {"name": "n3", "labels": {"kosmos.io/exclude": "true"}}});
    store
        .create(Resource::NODES, None, excluded)
        .expect("created");
    let sets: Api<DaemonSet> = Api::namespaced(inside(&cluster), "default");
    let set: DaemonSet = serde_json::from_value(json!({
        "metadata": {"name": "d"},
        "spec": {"selector": {"matchLabels": {"app": "d"}}, "template": {
            "metadata": {"labels": {"app": "d"}}, "spec": {
                "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                    {"matchExpressions": [{"key": "kosmos.io/exclude", "operator": "DoesNotExist"}]}]}}},
                "containers": [{"name": "c", "image": "x:1"}]}}},
    }))
    .expect("a DaemonSet");
    sets.create(&PostParams::default(), &set)
        .await
        .expect("created");
    let until = async |what: &str, test: &dyn Fn(&Value) -> bool| {
        let mut watch = store.watch(Resource::DAEMON_SETS, 0);
        let found = tokio::time::timeout(PATIENCE, async {
            while !test(&watch.next().await.object["status"]) {}
        });
        found.await.expect(what);
    };
    until("two ready", &|status| status["numberReady"] == 2).await;
    assert!(store.get(Resource::PODS, Some("default"), "d-n3").is_none());
    let before = store.version();
    let image =
        json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "x:2"}]}}}});
    sets.patch("d", &PatchParams::default(), &Patch::Strategic(image))
        .await
        .expect("changed");
    until("replaced", &|status| {
        status["observedGeneration"] == 2
            && status["updatedNumberScheduled"] == 2
            && status["numberReady"] == 2
    })
    .await;
    let images: Vec<Value> = store
        .list(Resource::PODS, Some("default"))
        .0
        .iter()
        .map(|pod| pod["spec"]["containers"][0]["image"].clone())
        .collect();
    assert_eq!(images, ["x:2", "x:2"]);
    // One at a time: there never were two pods down at once.
    let mut watch = store.watch(Resource::PODS, before);
    let (mut ready, mut least) = (2, 2);
    let is_ready = |pod: &Value| pod["status"]["conditions"][0]["status"] == "True";
    while let Some(event) = watch.poll() {
        match event.kind {
            EventKind::Deleted => ready -= 1,
            EventKind::Modified
                if is_ready(&event.object)
                    && !event.object["metadata"]["deletionTimestamp"].is_string() =>
            {
                ready += 1;
            }
            _ => {}
        }
        least = least.min(ready);
    }
    assert_eq!((ready, least), (2, 1));

    store
        .delete(Resource::NODES, None, "n2")
        .expect("it was there");
    until("one left", &|status| status["desiredNumberScheduled"] == 1).await;
    sets.delete("d", &DeleteParams::foreground())
        .await
        .expect("deleted");
    let mut watch = store.watch(Resource::DAEMON_SETS, store.version());
    while store
        .get(Resource::DAEMON_SETS, Some("default"), "d")
        .is_some()
    {
        tokio::time::timeout(PATIENCE, watch.next())
            .await
            .expect("it ends");
    }
    assert!(store.list(Resource::PODS, Some("default")).0.is_empty());
}
