//! A cluster as whoever links it reaches it, and how its programs and those of other clusters will.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::Error;
use crate::fleet::api::{Api, Failure};
use crate::fleet::budget::Budget;
use crate::kubeconfig::Selected;

/// How long one deed may use a cluster's API.
const PATIENCE: Duration = Duration::from_secs(3600);
/// How many unused connections are kept.
const IDLE: usize = 4;

/// A cluster that answered.
#[derive(Clone)]
pub(super) struct Cluster {
    /// What it is called in messages.
    pub(super) name: String,
    pub(super) selected: Selected,
    pub(super) api: Api,
    /// The same connections, for whoever asks in its own way.
    pub(super) client: kube::Client,
    /// The uid of its kube-system namespace, by which two ways to one cluster are known.
    pub(super) uid: String,
    /// Its version, as `v1.33.1`.
    pub(super) version: String,
    /// Its major and minor version, as `1` and `33`; some add a `+`. The other one says nothing where somebody built it without a tag.
    pub(super) release: (String, String),
}

#[derive(Deserialize)]
struct Version {
    #[serde(rename = "gitVersion")]
    git_version: String,
    #[serde(default)]
    major: String,
    #[serde(default)]
    minor: String,
}

impl Cluster {
    /// Asks a cluster who it is.
    pub(super) async fn reach(name: &str, selected: &Selected) -> Result<Self, Error> {
        let refused = |why: String| Error::Missing {
            what: format!("cluster {name} ({})", selected.file),
            why,
        };
        let client = selected.client(IDLE).await.map_err(refused)?;
        let api = Api::new(client.clone(), Budget::new(PATIENCE));
        let said = |failure: Failure| refused(failure.to_string());
        let version: Version = api.get("/version").await.map_err(said)?;
        let system: Value = api
            .get("/api/v1/namespaces/kube-system")
            .await
            .map_err(said)?;
        let uid = system["metadata"]["uid"].as_str().unwrap_or_default();
        if uid.is_empty() {
            return Err(refused("its namespace kube-system has no uid".to_owned()));
        }
        Ok(Self {
            name: name.to_owned(),
            selected: selected.clone(),
            api,
            client,
            uid: uid.to_owned(),
            version: datapath::printable::printable(&version.git_version, 64).into_owned(),
            release: (version.major, version.minor),
        })
    }

    /// An object as it is now; none where there is none, or nothing of its kind can be.
    pub(super) async fn get(&self, path: &str) -> Result<Option<Value>, Failure> {
        match self.api.get(path).await {
            Ok(object) => Ok(Some(object)),
            Err(failure) if failure.is_absent() => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    /// The objects of a list.
    pub(super) async fn list(&self, path: &str) -> Result<Vec<Value>, Failure> {
        let (mut items, mut next) = (Vec::new(), String::new());
        loop {
            let joint = if path.contains('?') { '&' } else { '?' };
            let page = format!("{path}{joint}limit=500&continue={next}");
            let mut page: Value = self.api.get(&page).await?;
            if let Some(held) = page["items"].as_array_mut() {
                items.append(held);
            }
            let token = page["metadata"]["continue"].as_str().unwrap_or_default();
            if token.is_empty() {
                return Ok(items);
            }
            next = crate::fleet::api::encoded(token);
        }
    }

    /// Where programs in other clusters find its API: what a kubeconfig for them says, or else what this one says, unless that is an
    /// address of the operator's own machine; then where the cluster itself says that its API is.
    pub(super) async fn inner_server(&self, inner: Option<&Selected>) -> Result<Server, Error> {
        let selected = inner.unwrap_or(&self.selected);
        let server = Server {
            url: selected.server().trim_end_matches('/').to_owned(),
            authority: selected.authority_data(),
            name: selected.server_name(),
        };
        if selected.trusts_anybody() {
            return Err(Error::Missing {
                what: format!("the authority of the API of {}", self.name),
                why: format!(
                    "{} says insecure-skip-tls-verify, and programs elsewhere must not trust whoever answers",
                    selected.file
                ),
            });
        }
        if inner.is_some() || !is_of_this_machine(&server.url) {
            return Ok(server);
        }
        let slice = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes";
        let refused = |why: &str| Error::Missing {
            what: format!(
                "the address of the API of {} for programs elsewhere",
                self.name
            ),
            why: format!(
                "its kubeconfig has {}, which is this machine's own, and {why}; --inner-kubeconfig names a kubeconfig with another",
                server.url
            ),
        };
        let slice = match self.get(slice).await {
            Ok(Some(slice)) => slice,
            Ok(None) => return Err(refused("default/kubernetes has no EndpointSlice")),
            Err(failure) => return Err(refused(&failure.to_string())),
        };
        let at = address(&slice)
            .ok_or_else(|| refused("its EndpointSlice default/kubernetes has no address"))?;
        Ok(Server { url: at, ..server })
    }
}

/// The URL of the first address of an EndpointSlice of an API server.
fn address(slice: &Value) -> Option<String> {
    let ip: IpAddr = slice["endpoints"][0]["addresses"][0]
        .as_str()?
        .parse()
        .ok()?;
    let port = slice["ports"][0]["port"].as_u64()?;
    let port = u16::try_from(port).ok()?;
    Some(format!("https://{}", std::net::SocketAddr::new(ip, port)))
}

/// Whether a URL means whatever machine it is used on.
fn is_of_this_machine(url: &str) -> bool {
    let Ok(uri) = url.parse::<http::Uri>() else {
        return false;
    };
    let host = uri.host().unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost"
        || host
            .parse()
            .is_ok_and(|ip: IpAddr| ip.is_loopback() || ip.is_unspecified())
}

/// An API server, for somebody with a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Server {
    pub(super) url: String,
    /// Who vouches for it, base64 of PEM; none for whoever the system trusts.
    pub(super) authority: Option<String>,
    /// The name that its certificate has to have, where that is not the URL's.
    pub(super) name: Option<String>,
}

impl Server {
    /// A kubeconfig whose user has the token in the file `token` beside it.
    pub(super) fn kubeconfig(&self, cluster: &str) -> String {
        let mut server = json!({"server": self.url});
        if let Some(authority) = &self.authority {
            server["certificate-authority-data"] = authority.as_str().into();
        }
        if let Some(name) = &self.name {
            server["tls-server-name"] = name.as_str().into();
        }
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": cluster, "cluster": server}],
            "users": [{"name": "clusterlink", "user": {"tokenFile": "token"}}],
            "contexts": [{"name": cluster, "context": {"cluster": cluster, "user": "clusterlink"}}],
            "current-context": cluster,
        });
        // JSON is YAML.
        config.to_string()
    }
}

/// The data of a Secret.
pub(super) fn secret_data(entries: &[(&str, &str)]) -> BTreeMap<String, String> {
    let each = entries.iter();
    each.map(|(key, value)| ((*key).to_owned(), STANDARD.encode(value)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_of_this_machine_is_nobody_else_s() {
        for url in [
            "https://127.0.0.1:6443",
            "https://[::1]:1",
            "https://localhost",
            "https://0.0.0.0:1/x",
        ] {
            assert!(is_of_this_machine(url), "{url}");
        }
        for url in [
            "https://10.0.0.1:6443",
            "https://api.example.com",
            "nothing",
        ] {
            assert!(!is_of_this_machine(url), "{url}");
        }
    }

    #[test]
    fn a_slice_says_where_the_api_is() {
        let slice =
            |ip: &str| json!({"endpoints": [{"addresses": [ip]}], "ports": [{"port": 6443}]});
        assert_eq!(
            address(&slice("10.0.0.1")).as_deref(),
            Some("https://10.0.0.1:6443")
        );
        assert_eq!(
            address(&slice("fd00::1")).as_deref(),
            Some("https://[fd00::1]:6443")
        );
        assert_eq!(address(&slice("x")), None);
        assert_eq!(address(&json!({})), None);
    }

    #[test]
    fn a_kubeconfig_names_its_token_s_file_and_holds_none() {
        let server = Server {
            url: "https://10.0.0.1:6443".to_owned(),
            authority: Some("UEVN".to_owned()),
            name: None,
        };
        let text = server.kubeconfig("east");
        let read: Value = serde_saphyr::from_str(&text).expect("YAML");
        assert_eq!(read["users"][0]["user"], json!({"tokenFile": "token"}));
        assert_eq!(
            read["clusters"][0]["cluster"]["server"],
            "https://10.0.0.1:6443"
        );
    }
}
