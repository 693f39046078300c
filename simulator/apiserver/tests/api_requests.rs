//! Requests as they come over the wire, the ones nobody sends by mistake among them.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;

use apiserver::{Connection, EventKind, PodDialer, Resource};
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};

#[path = "api/asked.rs"]
#[allow(dead_code, reason = "shared with a test that uses all of it")]
mod asked;
#[path = "api/tls.rs"]
#[allow(dead_code, reason = "shared with tests that serve over TLS")]
mod tls;

use asked::Asked;

const WHOAMI: &str = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn review() -> String {
    json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}).to_string()
}

#[tokio::test]
async fn the_administrator_asks_as_anybody() {
    let asked = Asked::new();
    let as_bob = [
        ("impersonate-user", "bob"),
        ("impersonate-group", "g1"),
        ("impersonate-group", "g2"),
        ("impersonate-uid", "77"),
        ("impersonate-extra-a%2Fb", "x"),
    ];
    let who = asked.send("POST", WHOAMI, &as_bob, &review()).await;
    assert_eq!(who.code, 201, "{who:?}");
    assert_eq!(
        who.body["status"]["userInfo"],
        json!({"username": "bob", "uid": "77", "groups": ["g1", "g2", "system:authenticated"], "extra": {"a/b": ["x"]}})
    );
    let account = [("impersonate-user", "system:serviceaccount:default:default")];
    let who = asked.send("POST", WHOAMI, &account, &review()).await;
    assert_eq!(
        who.body["status"]["userInfo"]["groups"],
        json!([
            "system:serviceaccounts",
            "system:serviceaccounts:default",
            "system:authenticated"
        ])
    );
    let refused = asked.send("GET", MAPS, &as_bob, "").await;
    assert_eq!(
        (refused.code, &refused.body["reason"]),
        (403, &json!("Forbidden"))
    );
    let text = refused.body["message"].as_str().unwrap();
    assert!(text.contains("User \"bob\" cannot list"), "{text}");
    let masters = [
        ("impersonate-user", "bob"),
        ("impersonate-group", "system:masters"),
    ];
    assert_eq!(asked.send("GET", MAPS, &masters, "").await.code, 200);
    let nobody = asked
        .send("GET", MAPS, &[("impersonate-group", "g")], "")
        .await;
    assert_eq!(
        (nobody.code, &nobody.body["reason"]),
        (500, &json!("InternalError"))
    );
}

#[tokio::test]
async fn others_ask_as_whom_they_may() {
    let asked = Asked::new();
    let token = asked.0.service_account_token("default", "default").unwrap();
    let bearer = format!("Bearer {token}");
    let service = |name: &'static str, group: Option<&'static str>| {
        let (cluster, bearer) = (asked.0.clone(), bearer.clone());
        async move {
            let mut request = http::Request::builder()
                .method("POST")
                .uri(WHOAMI)
                .header("authorization", bearer)
                .header("impersonate-user", name);
            if let Some(group) = group {
                request = request.header("impersonate-group", group);
            }
            let body = Full::new(bytes::Bytes::from(review()));
            let response = cluster.handle(request.body(body).unwrap()).await;
            let code = response.status().as_u16();
            let bytes = response.into_body().collect().await.unwrap().to_bytes();
            (code, serde_json::from_slice::<Value>(&bytes).unwrap())
        }
    };
    let (code, refused) = service("bob", None).await;
    assert_eq!(code, 403);
    assert_eq!(refused["details"], json!({"name": "bob", "kind": "users"}));
    assert_eq!(
        refused["message"],
        "users \"bob\" is forbidden: User \"system:serviceaccount:default:default\" cannot impersonate resource \"users\" in API group \"\" at the cluster scope"
    );
    let store = asked.0.store();
    let role = json!({"metadata": {"name": "as-bob"}, "rules": [
        {"apiGroups": [""], "resources": ["users"], "verbs": ["impersonate"], "resourceNames": ["bob"]},
    ]});
    store.create(Resource::CLUSTER_ROLES, None, role).unwrap();
    let binding = json!({"metadata": {"name": "as-bob"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "as-bob"},
        "subjects": [{"kind": "ServiceAccount", "name": "default", "namespace": "default"}]});
    store
        .create(Resource::CLUSTER_ROLE_BINDINGS, None, binding)
        .unwrap();
    let (code, who) = service("bob", None).await;
    assert_eq!(
        (code, &who["status"]["userInfo"]["username"]),
        (201, &json!("bob"))
    );
    // Neither another user nor a group comes with it.
    assert_eq!(service("eve", None).await.0, 403);
    assert_eq!(service("bob", Some("system:masters")).await.0, 403);
}

#[tokio::test]
async fn what_makes_no_sense_is_a_bad_request() {
    let asked = Asked::new();
    for path in [
        "/api/v1/namespaces/de%zzfault/pods",
        "/api/v1/namespaces/%",
        "/api/v1/namespaces/default/configmaps?limit=abc",
        "/api/v1/namespaces/default/configmaps?watch=1&timeoutSeconds=abc",
        "/api/v1/namespaces/default/configmaps?resourceVersion=-1",
        "/api/v1/namespaces/default/configmaps?continue=%25%25",
        "/api/v1/namespaces/default/configmaps?labelSelector=(((",
    ] {
        let answer = asked.get(path).await;
        assert_eq!(
            (answer.code, &answer.body["reason"]),
            (400, &json!("BadRequest")),
            "{path}"
        );
    }
    // A watch without an end by any measure is one all the same.
    let forever = format!("{MAPS}?watch=1&timeoutSeconds=9223372036854775807");
    let request = http::Request::get(forever)
        .header("authorization", format!("Bearer {}", tls::TOKEN))
        .body(Full::new(bytes::Bytes::new()))
        .unwrap();
    let mut watch = asked.0.handle(request).await.into_body();
    let first = watch.frame().await.unwrap().unwrap().into_data().unwrap();
    assert!(first.starts_with(b"{\"type\":\"ADDED\""), "{first:?}");
    // Any value but these two means yes.
    for (value, watches) in [("0", false), ("false", false), ("maybe", true)] {
        let body = asked
            .get(&format!(
                "{MAPS}?watch={value}&timeoutSeconds=1&resourceVersion=0"
            ))
            .await
            .body;
        assert_eq!(body["kind"] != json!("ConfigMapList"), watches, "{value}");
    }
}

#[tokio::test]
async fn no_request_grows_beyond_its_size() {
    let asked = Asked::new();
    let map = json!({"metadata": {"name": "m"}, "data": {"a": "x".repeat(1000)}});
    assert_eq!(asked.post(MAPS, &map).await.code, 201);
    let one = format!("{MAPS}/m");
    // Every copy doubles what is there: forty of them would be a thousand gigabytes.
    let mut doubling = vec![json!({"op": "add", "path": "/x", "value": ["a".repeat(1000)]})];
    doubling.extend((0..40).map(|_| json!({"op": "copy", "from": "/x", "path": "/x/-"})));
    let many = vec![json!({"op": "test", "path": "/metadata/name", "value": "m"}); 10_001];
    for operations in [doubling, many] {
        let answer = asked
            .patch(&one, "json-patch+json", &operations.into())
            .await;
        assert_eq!(
            (answer.code, &answer.body["reason"]),
            (413, &json!("RequestEntityTooLarge"))
        );
    }
    let answer = asked
        .patch(
            &one,
            "json-patch+json",
            &json!([{"op": "copy", "from": "/data/a", "path": "/data/b"}]),
        )
        .await;
    assert_eq!(answer.body["data"]["b"], answer.body["data"]["a"]);
    let secrets = "/api/v1/namespaces/default/secrets";
    let large = "x".repeat(1024 * 1024 + 1);
    for (path, object, field) in [
        (
            MAPS,
            json!({"metadata": {"name": "l"}, "data": {"a": large}}),
            "[]",
        ),
        (
            secrets,
            json!({"metadata": {"name": "l"}, "stringData": {"a": large}}),
            "data",
        ),
        (
            MAPS,
            json!({"metadata": {"name": "l", "annotations": {"a": large}}}),
            "metadata.annotations",
        ),
    ] {
        let answer = asked.post(path, &object).await;
        assert_eq!(answer.code, 422, "{field}");
        let cause = &answer.body["details"]["causes"][0];
        assert_eq!(
            (&cause["reason"], &cause["field"]),
            (&json!("FieldValueTooLong"), &json!(field))
        );
    }
    let larger = json!({"metadata": {"name": "l"}, "data": {"a": large.repeat(3)}});
    assert_eq!(asked.post(MAPS, &larger).await.code, 413);
}

#[tokio::test]
async fn the_cluster_keeps_what_it_is_never_without() {
    let asked = Asked::new();
    let controllers = tokio::spawn(
        asked
            .0
            .clone()
            .run_controllers(std::future::pending::<()>()),
    );
    for name in ["default", "kube-public", "kube-system"] {
        let path = format!("/api/v1/namespaces/{name}");
        let answer = asked.send("DELETE", &path, &[], "").await;
        assert_eq!(answer.code, 403, "{answer:?}");
        assert_eq!(
            answer.body["message"],
            format!("namespaces {name:?} is forbidden: this namespace may not be deleted")
        );
    }
    for (resource, path) in [
        (Resource::CONFIG_MAPS, format!("{MAPS}/kube-root-ca.crt")),
        (
            Resource::SERVICE_ACCOUNTS,
            "/api/v1/namespaces/default/serviceaccounts/default".to_owned(),
        ),
    ] {
        let mut watch = asked.0.store().watch(resource, asked.0.store().version());
        let before = asked.get(&path).await.body["metadata"]["uid"].clone();
        assert_eq!(asked.send("DELETE", &path, &[], "").await.code, 200);
        let both = async { [watch.next().await.kind, watch.next().await.kind] };
        let kinds = tokio::time::timeout(std::time::Duration::from_secs(20), both).await;
        assert_eq!(kinds.unwrap(), [EventKind::Deleted, EventKind::Added]);
        let after = asked.get(&path).await.body["metadata"]["uid"].clone();
        assert!(after.is_string() && after != before, "{after}");
    }
    controllers.abort();
}

#[tokio::test]
async fn empty_maps_are_written_as_none() {
    let asked = Asked::new();
    let map = json!({"metadata": {"name": "m", "labels": {"a": "b"}, "annotations": {}}, "data": {"a": "1"}});
    let made = asked.post(MAPS, &map).await.body;
    assert!(made["metadata"].get("annotations").is_none(), "{made}");
    let bare = json!({"metadata": {"labels": {"a": null}}, "data": {"a": null}});
    let left = asked
        .patch(&format!("{MAPS}/m"), "merge-patch+json", &bare)
        .await
        .body;
    assert!(
        left.get("data").is_none() && left["metadata"].get("labels").is_none(),
        "{left}"
    );
    // A structure is one even if nothing is in it.
    let pod = json!({"metadata": {"name": "p"}, "spec": {
        "containers": [{"name": "c", "image": "i"}], "volumes": [{"name": "v", "emptyDir": {}}],
    }});
    let pod = asked
        .post("/api/v1/namespaces/default/pods", &pod)
        .await
        .body;
    assert_eq!(pod["spec"]["volumes"][0]["emptyDir"], json!({}));
    assert_eq!(pod["spec"]["securityContext"], json!({}));
}

const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/default/leases";

#[tokio::test]
async fn updates_make_leases_and_name_their_version() {
    let asked = Asked::new();
    let json = [("content-type", "application/json")];
    let lease = |holder: &str, version: &Value| {
        json!({"metadata": {"name": "l", "resourceVersion": version}, "spec": {"holderIdentity": holder}}).to_string()
    };
    let one = format!("{LEASES}/l");
    let made = asked
        .send("PUT", &one, &json, &lease("a", &Value::Null))
        .await;
    assert_eq!(made.code, 201, "{made:?}");
    let version = &made.body["metadata"]["resourceVersion"];
    let blind = asked
        .send("PUT", &one, &json, &lease("b", &Value::Null))
        .await;
    assert_eq!(blind.code, 422);
    assert_eq!(
        blind.body["details"]["causes"][0]["field"],
        json!("metadata.resourceVersion")
    );
    // Of two who saw the same version one wins.
    let codes = [
        asked
            .send("PUT", &one, &json, &lease("b", version))
            .await
            .code,
        asked
            .send("PUT", &one, &json, &lease("c", version))
            .await
            .code,
    ];
    assert_eq!(codes, [200, 409]);
    assert_eq!(
        asked.get(&one).await.body["spec"]["holderIdentity"],
        json!("b")
    );
    let map = json!({"metadata": {"name": "m"}}).to_string();
    assert_eq!(
        asked
            .send("PUT", &format!("{MAPS}/m"), &json, &map)
            .await
            .code,
        404
    );
}

/// Pods that have written three lines.
struct Written;

impl PodDialer for Written {
    fn dial<'a>(
        &'a self,
        _: &'a str,
        _: &'a str,
        _: u16,
    ) -> futures::future::BoxFuture<'a, std::io::Result<Connection>> {
        Box::pin(async { Err(std::io::ErrorKind::ConnectionRefused.into()) })
    }

    fn log(&self, _: &str, _: &str) -> std::io::Result<Vec<u8>> {
        Ok(b"one\ntwo\nthree\n".to_vec())
    }
}

#[tokio::test]
async fn logs_are_cut_and_followed_and_pods_evicted() {
    let asked = Asked(tls::cluster(Arc::new(Written)));
    let pod = json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "i"}]}});
    let store = asked.0.store();
    store.create(Resource::PODS, Some("default"), pod).unwrap();
    let path = "/api/v1/namespaces/default/pods/p";
    for (query, code, text) in [
        ("", 200, "one\ntwo\nthree\n"),
        ("?tailLines=2&container=c", 200, "two\nthree\n"),
        ("?limitBytes=5", 200, "one\nt"),
        ("?tailLines=1&limitBytes=2", 200, "th"),
        ("?container=d", 400, "container d is not valid for pod p"),
        (
            "?previous=true",
            400,
            "previous terminated container \"c\" in pod \"p\" not found",
        ),
        (
            "?tailLines=x",
            400,
            "strconv.ParseInt: parsing \"x\": invalid syntax",
        ),
    ] {
        let answer = asked.get(&format!("{path}/log{query}")).await;
        let said = answer.body.get("message").unwrap_or(&answer.body);
        assert_eq!((answer.code, said), (code, &json!(text)), "{query}");
    }
    let log = format!("{path}/log?follow=true&tailLines=1");
    let follow = asked.get(&log);
    let evict = async {
        tokio::task::yield_now().await;
        let wrong =
            json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "q"}});
        assert_eq!(
            asked.post(&format!("{path}/eviction"), &wrong).await.code,
            400
        );
        let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "p"}, "deleteOptions": {"gracePeriodSeconds": 0}});
        let dry = asked
            .post(&format!("{path}/eviction?dryRun=All"), &eviction)
            .await;
        assert_eq!((dry.code, asked.get(path).await.code), (201, 200));
        let evicted = asked.post(&format!("{path}/eviction"), &eviction).await;
        assert_eq!(
            (evicted.code, &evicted.body["status"]),
            (201, &json!("Success"))
        );
    };
    // The log ends with its pod.
    let both = futures::future::join(follow, evict);
    let (followed, ()) = tokio::time::timeout(std::time::Duration::from_secs(20), both)
        .await
        .unwrap();
    assert_eq!(followed.body, json!("three\n"));
    assert_eq!(asked.get(path).await.code, 404);
}

#[tokio::test]
async fn metadata_is_held_to_its_rules() {
    let asked = Asked::new();
    for (metadata, fields) in [
        (
            json!({"finalizers": ["no slash "]}),
            vec!["metadata.finalizers"],
        ),
        (json!({"finalizers": ["mine"]}), vec!["metadata.finalizers"]),
        (
            json!({"ownerReferences": [{"apiVersion": "v1", "name": "a"}]}),
            vec![
                "metadata.ownerReferences[0].kind",
                "metadata.ownerReferences[0].uid",
            ],
        ),
    ] {
        let mut map = json!({"metadata": metadata});
        map["metadata"]["name"] = "m".into();
        let answer = asked.post(MAPS, &map).await;
        let causes = answer.body["details"]["causes"].as_array().unwrap();
        let found: Vec<&str> = causes
            .iter()
            .map(|cause| cause["field"].as_str().unwrap())
            .collect();
        assert_eq!((answer.code, found), (422, fields));
    }
    let map = json!({"metadata": {"generateName": "g".repeat(300)}});
    let made = asked.post(MAPS, &map).await;
    let name = made.body["metadata"]["name"].as_str().unwrap();
    assert_eq!((made.code, name.len()), (201, 63), "{name}");
    for (manager, reason) in [
        ("m".repeat(129), "FieldValueTooLong"),
        ("%01".to_owned(), "FieldValueInvalid"),
    ] {
        let answer = asked
            .post(&format!("{MAPS}?fieldManager={manager}"), &map)
            .await;
        assert_eq!(answer.body["details"]["causes"][0]["reason"], json!(reason));
    }
}

#[tokio::test]
async fn reviews_ask_one_thing_and_are_named() {
    let asked = Asked::new();
    let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    let what = json!({"resourceAttributes": {"verb": "get", "resource": "pods"}});
    let answer = asked.post(path, &json!({"spec": what})).await;
    assert_eq!(answer.body["kind"], json!("SelfSubjectAccessReview"));
    assert_eq!(answer.body["status"]["allowed"], json!(true));
    let both = json!({"resourceAttributes": {}, "nonResourceAttributes": {}});
    for spec in [json!(null), json!({"resourceAttributes": 7}), both] {
        let answer = asked.post(path, &json!({"spec": spec})).await;
        let field = &answer.body["details"]["causes"][0]["field"];
        assert_eq!(
            (answer.code, field),
            (422, &json!("spec.resourceAttributes"))
        );
    }
    let other = json!({"apiVersion": "v1", "kind": "Pod", "spec": what});
    assert_eq!(asked.post(path, &other).await.code, 400);
}

/// Waits until the cluster's objects of a kind hold what is looked for.
async fn until(asked: &Asked, resource: Resource, holds: impl Fn(&Value) -> bool) -> Arc<Value> {
    let store = asked.0.store();
    let mut watch = store.watch(resource, 0);
    let found = async {
        loop {
            let event = watch.next().await;
            if holds(&event.object) {
                return event.object;
            }
        }
    };
    let patience = std::time::Duration::from_secs(20);
    tokio::time::timeout(patience, found).await.unwrap()
}

#[tokio::test]
async fn why_a_pod_is_not_there_or_has_no_node_is_in_events_and_conditions() {
    let running = tls::start().await;
    let asked = Asked(running.cluster.clone());
    let namespace = json!({"metadata": {
        "name": "strict", "labels": {"pod-security.kubernetes.io/enforce": "baseline"},
    }});
    assert_eq!(asked.post("/api/v1/namespaces", &namespace).await.code, 201);
    let template = json!({
        "metadata": {"labels": {"a": "b"}},
        "spec": {"hostNetwork": true, "containers": [{"name": "c", "image": "i"}]},
    });
    let set = json!({
        "metadata": {"name": "d"},
        "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": template},
    });
    let made = asked
        .post("/apis/apps/v1/namespaces/strict/daemonsets", &set)
        .await;
    assert_eq!(made.code, 201, "{made:?}");
    let event = until(&asked, Resource::EVENTS, |event| {
        event["reason"] == "FailedCreate"
    })
    .await;
    assert_eq!(event["involvedObject"]["kind"], "DaemonSet", "{event:#}");
    let message = event["message"].as_str().unwrap();
    let words = "is forbidden: violates PodSecurity \"baseline:latest\": host namespaces (hostNetwork=true)";
    assert!(message.contains(words), "{message}");
    // Whoever creates such a pod gets the refusal.
    let pod = json!({"metadata": {"name": "p"}, "spec": template["spec"]});
    let refused = asked.post("/api/v1/namespaces/strict/pods", &pod).await;
    assert_eq!(refused.code, 403, "{refused:?}");

    let nowhere = json!({"metadata": {"name": "p"}, "spec": {
        "nodeSelector": {"no": "such"}, "containers": [{"name": "c", "image": "i"}],
    }});
    let made = asked
        .post("/api/v1/namespaces/default/pods", &nowhere)
        .await;
    assert_eq!(made.code, 201, "{made:?}");
    let pod = until(&asked, Resource::PODS, |pod| {
        let conditions = pod["status"]["conditions"].as_array();
        conditions.is_some_and(|all| all.iter().any(|one| one["reason"] == "Unschedulable"))
    })
    .await;
    assert_eq!(pod["spec"]["nodeName"], Value::Null, "{pod:#}");
    let event = until(&asked, Resource::EVENTS, |event| {
        event["reason"] == "FailedScheduling"
    })
    .await;
    assert!(
        event["message"].as_str().unwrap().starts_with("0/2 nodes"),
        "{event:#}"
    );
    // Said once, however often it is tried.
    let (events, _) = asked.0.store().list(Resource::EVENTS, None);
    assert_eq!(events.len(), 2, "{events:#?}");
}

/// Nobody who sends what is no request keeps the others from being answered.
#[tokio::test]
async fn hostile_clients_cost_themselves() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    let running = tls::start().await;
    let mut roots = rustls::RootCertStore::empty();
    let certificate = <rustls::pki_types::CertificateDer<'_> as rustls::pki_types::pem::PemObject>::from_pem_slice(
        running.certificate.as_bytes(),
    )
    .unwrap();
    roots.add(certificate).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let connect = async || {
        let stream = tokio::net::TcpStream::connect(running.address)
            .await
            .unwrap();
        let name = rustls::pki_types::ServerName::try_from("127.0.0.1").unwrap();
        connector.connect(name, stream).await.unwrap()
    };
    // Some who never say anything, with and without TLS.
    let mut silent = Vec::new();
    for _ in 0..50 {
        silent.push(
            tokio::net::TcpStream::connect(running.address)
                .await
                .unwrap(),
        );
    }
    let idle = connect().await;
    let long = "x".repeat(1 << 20);
    for (sent, code) in [
        ("\0\0\0 /\r\n\r\n".to_owned(), Some("400")),
        ("GET / HTTP/9.9\r\n\r\n".to_owned(), Some("400")),
        (format!("GET /{long} HTTP/1.1\r\n\r\n"), None),
        (format!("GET / HTTP/1.1\r\nA: {long}\r\n\r\n"), None),
        (
            format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(5000)),
            None,
        ),
        (
            "POST / HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n".to_owned(),
            Some("400"),
        ),
        (
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n".to_owned(),
            None,
        ),
    ] {
        let shown: String = sent.chars().take(30).collect();
        let mut stream = connect().await;
        // The other side may have read enough before all is sent.
        let _ = stream.write_all(sent.as_bytes()).await;
        let mut answer = Vec::new();
        let patience = std::time::Duration::from_secs(20);
        let read = tokio::time::timeout(patience, stream.read_to_end(&mut answer)).await;
        assert!(read.is_ok(), "{shown:?} is kept open");
        if let Some(code) = code {
            let answer = String::from_utf8_lossy(&answer);
            assert!(
                answer.starts_with(&format!("HTTP/1.1 {code}")),
                "{shown:?}: {answer}"
            );
        }
        let asked = Asked(running.cluster.clone());
        assert_eq!(asked.get("/version").await.code, 200, "{shown:?}");
        let mut good = connect().await;
        let request = format!(
            "GET /clusters/east/version HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\nConnection: close\r\n\r\n",
            tls::TOKEN
        );
        good.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        tokio::time::timeout(patience, good.read_to_end(&mut answer))
            .await
            .unwrap()
            .unwrap();
        assert!(answer.starts_with(b"HTTP/1.1 200"), "after {shown:?}");
    }
    drop((silent, idle));
}

/// What nobody works with lies in memory as text, and whoever changes it reads it anew each time.
#[tokio::test]
async fn an_object_that_was_put_away_can_be_changed() {
    let asked = Asked::new();
    let map = json!({"metadata": {"name": "m"}, "data": {"a": "1"}});
    assert_eq!(asked.post(MAPS, &map).await.code, 201);
    let path = format!("{MAPS}/m");
    asked.0.store().pack();
    let patch = json!({"data": {"b": "2"}});
    let patched = asked.patch(&path, "merge-patch+json", &patch).await;
    assert_eq!(
        (patched.code, &patched.body["data"]),
        (200, &json!({"a": "1", "b": "2"}))
    );
    asked.0.store().pack();
    let mut new = patched.body.clone();
    new["data"]["c"] = "3".into();
    let headers = [("content-type", "application/json")];
    let put = asked.send("PUT", &path, &headers, &new.to_string()).await;
    assert_eq!((put.code, &put.body["data"]["c"]), (200, &json!("3")));
    asked.0.store().pack();
    let stale = asked.send("PUT", &path, &headers, &new.to_string()).await;
    assert_eq!(stale.code, 409, "it has changed since");
    let tried = format!("{path}?dryRun=All");
    let tried = asked.patch(&tried, "merge-patch+json", &patch).await;
    assert_eq!(tried.code, 200);
}
