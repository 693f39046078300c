//! Requests as they come over the wire, the ones nobody sends by mistake among them.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;

use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use simulator::apiserver::{ApiCluster, NoPods, Resource};

#[path = "api/tls.rs"]
#[allow(dead_code, reason = "shared with tests that serve over TLS")]
mod tls;

/// A cluster in the process, asked by its administrator.
struct Asked(Arc<ApiCluster>);

/// An answer: its code and its body, JSON or text.
#[derive(Debug)]
struct Answer {
    code: u16,
    body: Value,
}

impl Asked {
    fn new() -> Self {
        Self(tls::cluster(Arc::new(NoPods)))
    }

    async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let mut request = http::Request::builder()
            .method(method)
            .uri(path)
            .header("authorization", format!("Bearer {}", tls::TOKEN));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let body = Full::new(bytes::Bytes::from(body.to_owned()));
        let response = self.0.handle(request.body(body).unwrap()).await;
        let code = response.status().as_u16();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        let body = serde_json::from_slice(&bytes)
            .unwrap_or_else(|_| String::from_utf8_lossy(&bytes).into_owned().into());
        Answer { code, body }
    }

    async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], "").await
    }

    async fn post(&self, path: &str, body: &Value) -> Answer {
        let json = [("content-type", "application/json")];
        self.send("POST", path, &json, &body.to_string()).await
    }

    async fn patch(&self, path: &str, kind: &str, body: &Value) -> Answer {
        let media = format!("application/{kind}");
        self.send(
            "PATCH",
            path,
            &[("content-type", &media)],
            &body.to_string(),
        )
        .await
    }
}

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
