//! How a program reaches an API server.

use std::path::{Path, PathBuf};
use std::time::Duration;

use kube::Client;
use kube::config::{KubeConfigOptions, Kubeconfig};

use crate::document::Source;
use crate::error::Error;

/// The longest that a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(5);

/// A client of the cluster that a kubeconfig names, or of the one that this process runs in. Refusals quote nothing of a kubeconfig: it
/// holds keys.
///
/// # Errors
/// [`Error::Input`] where the file cannot be used, [`Error::Missing`] where there is none.
pub(crate) async fn client(kubeconfig: Option<PathBuf>) -> Result<Client, Error> {
    let mut config = match kubeconfig {
        Some(file) => {
            let bad = |rule: &str| Error::Input {
                file: file.display().to_string(),
                line: None,
                rule: rule.to_owned(),
            };
            let text = Source::read(&file)?.text;
            let mut parsed = Kubeconfig::from_yaml(&text)
                .map_err(|_| bad("it has to be a kubeconfig (kind Config, version v1)"))?;
            resolve(&mut parsed, file.parent().unwrap_or(Path::new("")));
            kube::Config::from_custom_kubeconfig(parsed, &KubeConfigOptions::default())
                .await
                .map_err(|_| bad("its current context has to name a cluster and a user of it"))?
        }
        None => kube::Config::infer().await.map_err(|_| Error::Missing {
            what: "access to the Kubernetes API".to_owned(),
            why: "there is neither --kubeconfig nor KUBECONFIG nor a pod's service account"
                .to_owned(),
        })?,
    };
    config.connect_timeout = Some(CONNECT);
    Client::try_from(config).map_err(|_| Error::Missing {
        what: "access to the Kubernetes API".to_owned(),
        why: "the kubeconfig's certificates or keys cannot be used".to_owned(),
    })
}

/// Makes the files that a kubeconfig names relative to its own folder, as every client of Kubernetes does. That it is read as text, and not by the
/// library from its path, is so that refusals quote nothing of it. A token file is read again at least once a minute.
fn resolve(kubeconfig: &mut Kubeconfig, folder: &Path) {
    let absolute = |file: &mut Option<String>| {
        if let Some(name) = file.as_ref().filter(|name| Path::new(name).is_relative()) {
            *file = Some(folder.join(name).to_string_lossy().into_owned());
        }
    };
    for cluster in &mut kubeconfig.clusters {
        if let Some(cluster) = &mut cluster.cluster {
            absolute(&mut cluster.certificate_authority);
        }
    }
    for user in &mut kubeconfig.auth_infos {
        if let Some(user) = &mut user.auth_info {
            absolute(&mut user.client_certificate);
            absolute(&mut user.client_key);
            absolute(&mut user.token_file);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_relative_to_the_kubeconfigs_folder() {
        let text = r#"{"apiVersion": "v1", "kind": "Config",
            "clusters": [{"name": "c", "cluster": {"server": "https://[::1]:1", "certificate-authority": "ca.crt"}}],
            "users": [{"name": "u", "user": {"tokenFile": "token", "client-key": "/keys/key"}}]}"#;
        let mut kubeconfig = Kubeconfig::from_yaml(text).expect("a kubeconfig");
        resolve(&mut kubeconfig, Path::new("/etc/clusterlink"));
        let user = kubeconfig.auth_infos[0].auth_info.as_ref().expect("a user");
        let cluster = kubeconfig.clusters[0].cluster.as_ref().expect("a cluster");
        assert_eq!(user.token_file.as_deref(), Some("/etc/clusterlink/token"));
        assert_eq!(user.client_key.as_deref(), Some("/keys/key"));
        assert_eq!(user.client_certificate, None);
        assert_eq!(
            cluster.certificate_authority.as_deref(),
            Some("/etc/clusterlink/ca.crt")
        );
    }
}
