//! The objects that the APIs of a lab start with.

use std::sync::Arc;

use bytes::Bytes;
use http::Method;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};

use crate::Error;
use crate::apiserver::{self, ApiCluster, Resource, Store};
use crate::kubelet::Inside;
use crate::kubelet::client::{Answer, call};
use crate::objects::{self, Access};
use crate::topology::{Cluster, Topology};
use crate::virtual_clusters::beating;

fn stored<T>(what: &str, result: Result<T, apiserver::Status>) -> Result<T, Error> {
    result.map_err(|status| Error::Failed {
        doing: format!("write {what}"),
        why: format!("{status:?}"),
    })
}

/// A cluster's API as its administrator, with all that it adds to objects.
pub(super) enum Admin {
    Within(Arc<ApiCluster>, String),
    Over(kube::Client),
}

impl Admin {
    async fn create(&self, path: &str, object: &Value) -> Result<(), Error> {
        self.request(Method::POST, path, object).await.map(drop)
    }

    /// An answer's object; an error where it is a refusal.
    async fn request(&self, method: Method, path: &str, body: &Value) -> Result<Value, Error> {
        let doing = format!("{method} {path}");
        let why = match self {
            Self::Within(api, token) => {
                let answer = within(api, token, method, path, body).await?;
                match answer {
                    Ok(object) => return Ok(object),
                    Err(why) => format!("{}: {why}", api.name()),
                }
            }
            Self::Over(client) => match call(client, method, path, body).await {
                Ok(Answer::Done(object)) => return Ok(object),
                Ok(Answer::Refused(code, why)) => format!("{code}: {why}"),
                Err(why) => why,
            },
        };
        Err(Error::Failed { doing, why })
    }
}

async fn within(
    api: &Arc<ApiCluster>,
    token: &str,
    method: Method,
    path: &str,
    body: &Value,
) -> Result<Result<Value, String>, Error> {
    let doing = || format!("{path} of {}", api.name());
    let bytes = match body {
        Value::Null => Bytes::new(),
        body => Bytes::from(body.to_string()),
    };
    let request = http::Request::builder()
        .method(&method)
        .uri(path)
        .header(http::header::AUTHORIZATION, format!("Bearer {token}"))
        .header(http::header::CONTENT_TYPE, "application/json")
        .body(http_body_util::Full::new(bytes))
        .map_err(Error::failed(doing()))?;
    let response = api.handle(request).await;
    let status = response.status();
    let body = response.into_body().collect().await;
    let bytes = body.map(|body| body.to_bytes()).unwrap_or_default();
    Ok(if status.is_success() {
        Ok(serde_json::from_slice(&bytes).unwrap_or_default())
    } else {
        Err(format!("{status}: {}", String::from_utf8_lossy(&bytes)))
    })
}

/// The objects that a simulated API starts with, beside those that its nodes register.
pub(super) async fn seed(
    api: &Arc<ApiCluster>,
    token: &str,
    cluster: &Cluster,
    inside: Option<&Inside>,
) -> Result<(), Error> {
    let store = api.store();
    if cluster.is_virtual {
        let now = objects::now();
        for node in &cluster.nodes {
            let node = objects::node(node, &now);
            stored("a Node", store.create(Resource::NODES, None, node))?;
        }
        beating::keep(store, cluster)?;
    }
    for (name, cidrs) in objects::service_cidrs(cluster) {
        let object = json!({"metadata": {"name": name}, "spec": {"cidrs": cidrs}});
        let made = store.create(Resource::SERVICE_CIDRS, None, object);
        stored("a ServiceCIDR", made)?;
    }
    match inside {
        Some(inside) => {
            let admin = Admin::Within(api.clone(), token.to_owned());
            unlink(&admin, store, inside).await
        }
        None => Ok(()),
    }
}

/// What of a cluster's service prefixes upstream's API server does not make by itself: it takes one of each family.
pub(super) async fn further_services(admin: &Admin, cluster: &Cluster) -> Result<(), Error> {
    for (name, cidrs) in objects::service_cidrs(cluster).into_iter().skip(1) {
        let object = json!({"metadata": {"name": name}, "spec": {"cidrs": cidrs}});
        admin
            .create("/apis/networking.k8s.io/v1/servicecidrs", &object)
            .await?;
    }
    Ok(())
}

/// Where the datapath will be, where it is the lab's; and the lab's own floaters, where there are any.
pub(super) async fn floaters(
    admin: &Admin,
    run_key: Option<&str>,
    is_linked: bool,
) -> Result<(), Error> {
    if is_linked || run_key.is_some() {
        let namespace = objects::namespace(objects::NAMESPACE);
        admin.create("/api/v1/namespaces", &namespace).await?;
    }
    let Some(run_key) = run_key else {
        return Ok(());
    };
    let system = admin
        .request(Method::GET, "/api/v1/namespaces/kube-system", &Value::Null)
        .await?;
    let id = system["metadata"]["uid"].as_str().unwrap_or_default();
    let namespace = objects::NAMESPACE;
    let path = format!("/api/v1/namespaces/{namespace}/secrets");
    admin.create(&path, &objects::secret(run_key)).await?;
    let path = format!("/apis/apps/v1/namespaces/{namespace}/daemonsets");
    for host in [true, false] {
        admin.create(&path, &objects::daemon_set(host, id)).await?;
    }
    Ok(())
}

/// The objects of the fleet.
pub(super) fn control_plane(
    root: &Store,
    topology: &Topology,
    ca_pem: &str,
    accesses: &[Access],
) -> Result<(), Error> {
    for (index, (cluster, access)) in topology.clusters.iter().zip(accesses).enumerate() {
        let kubeconfig = objects::kubeconfig(ca_pem, std::slice::from_ref(access));
        let object = objects::cluster(cluster, index == 0, &kubeconfig);
        stored("a Cluster", root.create(Resource::CLUSTERS, None, object))?;
        for node in &cluster.nodes {
            let object = objects::cluster_node(cluster, node);
            stored(
                "a ClusterNode",
                root.create(Resource::CLUSTER_NODES, None, object),
            )?;
        }
    }
    Ok(())
}

/// Makes a cluster one that nobody has linked, and whose pods find its API where every cluster says that it is.
async fn unlink(admin: &Admin, store: &Store, inside: &Inside) -> Result<(), Error> {
    // Every cluster knows those of the datapath, and there are no others yet.
    let kind = Resource::CUSTOM_RESOURCE_DEFINITIONS;
    for definition in store.list(kind, None).0 {
        let name = definition["metadata"]["name"].as_str().unwrap_or_default();
        let path = format!("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}");
        admin.request(Method::DELETE, &path, &Value::Null).await?;
    }
    let path = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
    admin
        .create(path, &objects::endpoint_slice(inside.address))
        .await
}
