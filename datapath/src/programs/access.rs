//! How a program reaches an API server.

use std::path::PathBuf;
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
            let parsed = Kubeconfig::from_yaml(&text)
                .map_err(|_| bad("it has to be a kubeconfig (kind Config, version v1)"))?;
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
