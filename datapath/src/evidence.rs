//! What a member cluster shows of its prefixes, gathered from its API (feature `kube`). Its controller asks this way, and so does whoever links it.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Pod, Service, ServicePort, ServiceSpec};
use kube::api::{Api, DynamicObject, ListParams, ObjectMeta, PostParams};
use kube::core::GroupVersionKind;
use kube::discovery::ApiResource;
use kube::{Client, ResourceExt as _};
use serde_json::Value;

use crate::control::nodes::Node;
use crate::control::prefixes::Evidence;

/// The longest that the whole look may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// Addresses of documentation (RFC 5737, RFC 3849), which no cluster's services have.
const IMPOSSIBLE: [(&str, &str); 2] = [("IPv4", "192.0.2.1"), ("IPv6", "2001:db8::1")];
/// Who asks for a service.
const MANAGER: &str = "clusterlink";
const SYSTEM: &str = "kube-system";
/// The ConfigMaps that say something: namespace and name.
pub(crate) const MAPS: [(&str, &str); 4] = [
    ("kube-flannel", "kube-flannel-cfg"),
    (SYSTEM, "kube-flannel-cfg"),
    (SYSTEM, "cilium-config"),
    (SYSTEM, "kubeadm-config"),
];

/// What was gathered.
#[derive(Debug, Default)]
pub struct Gathered {
    /// Of the whole cluster.
    pub evidence: Evidence,
    /// The pod prefixes of nodes that their CNI hands out by itself.
    pub blocks: BTreeMap<String, Vec<String>>,
}

pub(crate) fn kind(group: &str, version: &str, kind: &str, plural: &str) -> ApiResource {
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), plural)
}

pub(crate) fn service_cidrs() -> ApiResource {
    kind("networking.k8s.io", "v1", "ServiceCIDR", "servicecidrs")
}

pub(crate) fn ip_pools() -> ApiResource {
    kind("crd.projectcalico.org", "v1", "IPPool", "ippools")
}

pub(crate) fn block_affinities() -> ApiResource {
    kind(
        "crd.projectcalico.org",
        "v1",
        "BlockAffinity",
        "blockaffinities",
    )
}

pub(crate) fn cilium_nodes() -> ApiResource {
    kind("cilium.io", "v2", "CiliumNode", "ciliumnodes")
}

/// Looks at everything once. `namespace` is one where a service may be asked for, without making it.
///
/// # Errors
/// Why something that may be there could not be read: then nothing is to be concluded from what was.
pub async fn gather(
    client: Client,
    cni: String,
    nodes: Vec<Node>,
    namespace: String,
) -> Result<Gathered, String> {
    let looked = tokio::time::timeout(PATIENCE, look(&client, cni, nodes, &namespace));
    looked
        .await
        .map_err(|_| format!("no answer within {} s", PATIENCE.as_secs()))?
}

async fn look(
    client: &Client,
    cni: String,
    nodes: Vec<Node>,
    namespace: &str,
) -> Result<Gathered, String> {
    let all = |resource: ApiResource| list(client, resource);
    let (pools, affinities, ciliums, cidrs) = futures::try_join!(
        all(ip_pools()),
        all(block_affinities()),
        all(cilium_nodes()),
        all(service_cidrs())
    )?;
    let (flannel, older_flannel, cilium, kubeadm) = futures::try_join!(
        map(client, MAPS[0]),
        map(client, MAPS[1]),
        map(client, MAPS[2]),
        map(client, MAPS[3])
    )?;
    let text = |map: &Value, key: &str| map[key].as_str().map(str::to_owned);
    let cluster_configuration = text(&kubeadm, "ClusterConfiguration").unwrap_or_default();
    let mut evidence = Evidence {
        cni,
        nodes,
        ip_pools: pools,
        flannel: text(&flannel, "net-conf.json").or(text(&older_flannel, "net-conf.json")),
        cilium,
        // What is no YAML says nothing.
        kubeadm: serde_saphyr::from_str(&cluster_configuration).unwrap_or_default(),
        api_server: api_server(client).await?,
        service_cidrs: cidrs,
        refusals: Vec::new(),
    };
    if evidence.needs_refusal() {
        for (family, ip) in IMPOSSIBLE {
            evidence
                .refusals
                .extend(refusal(client, namespace, family, ip).await?);
        }
    }
    Ok(Gathered {
        blocks: blocks(&affinities, &ciliums),
        evidence,
    })
}

/// What there is; nothing where the kind is not served, or is nobody's business here.
fn there<T>(got: Result<T, kube::Error>) -> Result<Option<T>, String> {
    match got {
        Ok(got) => Ok(Some(got)),
        Err(kube::Error::Api(status)) if matches!(status.code, 403 | 404) => Ok(None),
        Err(error) => Err(error.to_string()),
    }
}

async fn list(client: &Client, resource: ApiResource) -> Result<Vec<Value>, String> {
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
    let mut found = Vec::new();
    let mut params = ListParams::default().limit(500);
    loop {
        let Some(page) = there(api.list(&params).await)? else {
            return Ok(Vec::new());
        };
        let more = page
            .metadata
            .continue_
            .clone()
            .filter(|token| !token.is_empty());
        found.extend(
            page.items
                .iter()
                .filter_map(|one| serde_json::to_value(one).ok()),
        );
        match more {
            Some(token) => params = params.continue_token(&token),
            None => return Ok(found),
        }
    }
}

async fn map(client: &Client, (namespace, name): (&str, &str)) -> Result<Value, String> {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let data = there(api.get(name).await)?.and_then(|map| map.data);
    Ok(data
        .and_then(|data| serde_json::to_value(data).ok())
        .unwrap_or_default())
}

async fn api_server(client: &Client) -> Result<Vec<String>, String> {
    let api: Api<Pod> = Api::namespaced(client.clone(), SYSTEM);
    let pods = there(
        api.list(&ListParams::default().labels("component=kube-apiserver"))
            .await,
    )?;
    let pods = pods.map(|pods| pods.items).unwrap_or_default();
    let container = pods
        .into_iter()
        .find(|pod| pod.name_any().starts_with("kube-apiserver"));
    let container = container.and_then(|pod| pod.spec?.containers.into_iter().next());
    Ok(container
        .map(|container| {
            let words = [container.command, container.args].into_iter().flatten();
            words.flatten().collect()
        })
        .unwrap_or_default())
}

/// What the API server says to a service with an address that none can have; nothing where it says nothing about that.
async fn refusal(
    client: &Client,
    namespace: &str,
    family: &str,
    ip: &str,
) -> Result<Option<String>, String> {
    let api: Api<Service> = Api::namespaced(client.clone(), namespace);
    let service = Service {
        metadata: ObjectMeta {
            generate_name: Some("clusterlink-asks-".to_owned()),
            ..ObjectMeta::default()
        },
        spec: Some(ServiceSpec {
            cluster_ip: Some(ip.to_owned()),
            cluster_ips: Some(vec![ip.to_owned()]),
            ip_families: Some(vec![family.to_owned()]),
            ports: Some(vec![ServicePort {
                port: 80,
                ..ServicePort::default()
            }]),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    };
    let params = PostParams {
        dry_run: true,
        field_manager: Some(MANAGER.to_owned()),
    };
    match api.create(&params, &service).await {
        Ok(_) => Ok(None),
        Err(kube::Error::Api(status)) if status.code == 422 => Ok(Some(status.message.clone())),
        Err(error) => there(Err(error)),
    }
}

fn blocks(affinities: &[Value], ciliums: &[Value]) -> BTreeMap<String, Vec<String>> {
    let mut blocks: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for one in affinities {
        let spec = &one["spec"];
        let is_over = spec["deleted"] == "true"
            || spec["deleted"] == true
            || spec["state"] == "pendingDeletion";
        if let (false, Some(node), Some(cidr)) =
            (is_over, spec["node"].as_str(), spec["cidr"].as_str())
        {
            blocks
                .entry(node.to_owned())
                .or_default()
                .push(cidr.to_owned());
        }
    }
    for one in ciliums {
        let cidrs = one["spec"]["ipam"]["podCIDRs"]
            .as_array()
            .into_iter()
            .flatten();
        let cidrs: Vec<String> = cidrs
            .filter_map(|cidr| cidr.as_str().map(str::to_owned))
            .collect();
        if let (false, Some(node)) = (cidrs.is_empty(), one["metadata"]["name"].as_str()) {
            blocks.entry(node.to_owned()).or_default().extend(cidrs);
        }
    }
    for cidrs in blocks.values_mut() {
        cidrs.sort();
        cidrs.dedup();
    }
    blocks
}
