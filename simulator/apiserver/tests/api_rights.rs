//! What controllers lean on: ranges of services, rights by name, and objects that were malformed before.

#![allow(clippy::unwrap_used, reason = "tests")]

use apiserver::Resource;
use serde_json::{Value, json};

#[path = "api/asked.rs"]
#[allow(dead_code, reason = "shared with a test that uses all of it")]
mod asked;
#[path = "api/tls.rs"]
#[allow(dead_code, reason = "shared with tests that serve over TLS")]
mod tls;

use asked::Asked;

const SERVICES: &str = "/api/v1/namespaces/default/services";

fn service(name: &str, ip: &Value) -> Value {
    json!({"metadata": {"name": name}, "spec": {"clusterIP": ip, "ports": [{"port": 80}]}})
}

#[tokio::test]
async fn a_service_has_an_address_of_a_range_or_is_refused_with_the_range() {
    let asked = Asked::new();
    let dry = format!("{SERVICES}?dryRun=All");
    let refused = asked.post(&dry, &service("s", &json!("192.0.2.1"))).await;
    assert_eq!(refused.code, 422, "{refused:?}");
    let text = refused.body["message"].as_str().unwrap();
    assert!(
        text.ends_with("The range of valid IPs is 10.96.0.0/12"),
        "{text}"
    );
    assert_eq!(
        refused.body["details"]["causes"][0]["field"],
        "spec.clusterIPs"
    );
    let other = asked.post(&dry, &service("s", &json!("2001:db8::1"))).await;
    assert_eq!(other.code, 422);
    assert!(
        !other.body["message"]
            .as_str()
            .unwrap()
            .contains("range of valid IPs")
    );

    let range = json!({"metadata": {"name": "kubernetes"}, "spec": {"cidrs": ["10.200.0.0/24", "fd00:200::/112"]}});
    let made = asked
        .post("/apis/networking.k8s.io/v1/servicecidrs", &range)
        .await;
    assert_eq!(made.code, 201, "{made:?}");
    let given = asked.post(SERVICES, &service("s", &Value::Null)).await;
    assert_eq!(given.body["spec"]["clusterIP"], "10.200.0.2");
    assert_eq!(
        asked
            .post(SERVICES, &service("t", &json!("10.96.0.9")))
            .await
            .code,
        422
    );
    assert_eq!(
        asked
            .post(SERVICES, &service("u", &json!("fd00:200::9")))
            .await
            .code,
        201
    );
    assert_eq!(
        asked
            .post(SERVICES, &service("v", &json!("None")))
            .await
            .code,
        201
    );
}

#[tokio::test]
async fn a_right_to_an_object_by_name_is_one_to_the_list_of_it() {
    let asked = Asked::new();
    let account = json!({"metadata": {"name": "reader"}});
    asked
        .post("/api/v1/namespaces/default/serviceaccounts", &account)
        .await;
    let role = json!({"metadata": {"name": "reader"}, "rules": [
        {"apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["one"], "verbs": ["list", "watch"]}]});
    asked
        .post(
            "/apis/rbac.authorization.k8s.io/v1/namespaces/default/roles",
            &role,
        )
        .await;
    let binding = json!({"metadata": {"name": "reader"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reader"},
        "subjects": [{"kind": "ServiceAccount", "name": "reader", "namespace": "default"}]});
    asked
        .post(
            "/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings",
            &binding,
        )
        .await;
    let token = asked.0.service_account_token("default", "reader").unwrap();
    let code = async |query: &str| {
        let request = http::Request::get(format!("/api/v1/namespaces/default/configmaps{query}"))
            .header("authorization", format!("Bearer {token}"))
            .body(http_body_util::Empty::<bytes::Bytes>::new())
            .unwrap();
        asked.0.handle(request).await.status().as_u16()
    };
    assert_eq!(code("?fieldSelector=metadata.name%3Done").await, 200);
    assert_eq!(code("?fieldSelector=metadata.name%3D%3Done").await, 200);
    assert_eq!(code("?fieldSelector=metadata.name%3Dtwo").await, 403);
    assert_eq!(code("?fieldSelector=metadata.name%21%3Done").await, 403);
    assert_eq!(code("").await, 403);
}

#[tokio::test]
async fn what_was_malformed_before_does_not_stand_in_the_way() {
    let asked = Asked::new();
    let store = asked.0.store();
    let object = json!({"metadata": {"name": "a-n1"}, "spec": {"clusterName": "a", "roles": 7}});
    store.create(Resource::CLUSTER_NODES, None, object).unwrap();
    let path = "/apis/kosmos.io/v1alpha1/clusternodes/a-n1";
    let merge =
        async |path: &str, body: Value| asked.patch(path, "merge-patch+json", &body).await.code;
    let condition = json!({"type": "Planned", "status": "False", "reason": "Malformed", "lastTransitionTime": "2026-01-01T00:00:00Z"});
    assert_eq!(
        merge(
            &format!("{path}/status"),
            json!({"status": {"conditions": [condition]}})
        )
        .await,
        200
    );
    assert_eq!(merge(path, json!({"spec": {"nodeName": "n1"}})).await, 200);
    assert_eq!(merge(path, json!({"spec": {"roles": 8}})).await, 422);
    assert_eq!(merge(path, json!({"spec": {"ip": 7}})).await, 422);
    let held = store.get(Resource::CLUSTER_NODES, None, "a-n1").unwrap();
    assert_eq!(held["status"]["conditions"][0]["reason"], "Malformed");
}
