//! The objects that the APIs of a lab start with.

use std::sync::Arc;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use serde_json::json;

use crate::Error;
use crate::apiserver::{self, ApiCluster, Resource, Store};
use crate::kubelet::Inside;
use crate::objects::{self, Access};
use crate::topology::{Cluster, Topology};

fn stored<T>(what: &str, result: Result<T, apiserver::Status>) -> Result<T, Error> {
    result.map_err(|status| Error::Failed {
        doing: format!("write {what}"),
        why: format!("{status:?}"),
    })
}

/// Creates an object as the cluster's administrator, with all that the API adds to it.
async fn create(
    api: &Arc<ApiCluster>,
    token: &str,
    path: &str,
    object: &serde_json::Value,
) -> Result<(), Error> {
    request(api, token, http::Method::POST, path, object.to_string()).await
}

async fn request(
    api: &Arc<ApiCluster>,
    token: &str,
    method: http::Method,
    path: &str,
    body: String,
) -> Result<(), Error> {
    let doing = || format!("{method} {path} of {}", api.name());
    let request = http::Request::builder()
        .method(&method)
        .uri(path)
        .header(http::header::AUTHORIZATION, format!("Bearer {token}"))
        .header(http::header::CONTENT_TYPE, "application/json")
        .body(http_body_util::Full::new(Bytes::from(body)))
        .map_err(Error::failed(doing()))?;
    let response = api.handle(request).await;
    if response.status().is_success() {
        return Ok(());
    }
    let status = response.status();
    let body = response.into_body().collect().await;
    let text = body.map(|body| String::from_utf8_lossy(&body.to_bytes()).into_owned());
    Err(Error::Failed {
        doing: doing(),
        why: format!("{status}: {}", text.unwrap_or_default()),
    })
}

/// The objects of a cluster's own API.
pub(super) async fn seed(
    api: &Arc<ApiCluster>,
    token: &str,
    cluster: &Cluster,
    run_key: Option<&str>,
    inside: Option<&Inside>,
) -> Result<(), Error> {
    let store = api.store();
    let now = jiff::Timestamp::now()
        .strftime("%Y-%m-%dT%H:%M:%SZ")
        .to_string();
    for node in &cluster.nodes {
        let node = objects::node(node, &now);
        stored("a Node", store.create(Resource::NODES, None, node))?;
    }
    for (name, cidrs) in objects::service_cidrs(cluster) {
        let object = json!({"metadata": {"name": name}, "spec": {"cidrs": cidrs}});
        let made = store.create(Resource::SERVICE_CIDRS, None, object);
        stored("a ServiceCIDR", made)?;
    }
    match inside {
        Some(inside) => unlink(api, token, inside).await?,
        None => {
            let namespace = objects::namespace(objects::NAMESPACE);
            create(api, token, "/api/v1/namespaces", &namespace).await?;
        }
    }
    let Some(run_key) = run_key else {
        return Ok(());
    };
    if inside.is_some() {
        let namespace = objects::namespace(objects::NAMESPACE);
        create(api, token, "/api/v1/namespaces", &namespace).await?;
    }
    let system = store.get(Resource::NAMESPACES, None, "kube-system");
    let id = system.as_ref().map(|system| &system["metadata"]["uid"]);
    let id = id.and_then(|uid| uid.as_str()).unwrap_or_default();
    let namespace = objects::NAMESPACE;
    let path = format!("/api/v1/namespaces/{namespace}/secrets");
    create(api, token, &path, &objects::secret(run_key)).await?;
    let path = format!("/apis/apps/v1/namespaces/{namespace}/daemonsets");
    for host in [true, false] {
        create(api, token, &path, &objects::daemon_set(host, id)).await?;
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
async fn unlink(api: &Arc<ApiCluster>, token: &str, inside: &Inside) -> Result<(), Error> {
    // Every cluster knows those of the datapath, and there are no others yet.
    let kind = Resource::CUSTOM_RESOURCE_DEFINITIONS;
    for definition in api.store().list(kind, None).0 {
        let name = definition["metadata"]["name"].as_str().unwrap_or_default();
        let path = format!("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}");
        request(api, token, http::Method::DELETE, &path, String::new()).await?;
    }
    let path = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
    create(api, token, path, &objects::endpoint_slice(inside.address)).await
}
