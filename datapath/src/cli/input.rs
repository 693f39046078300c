//! What the program reads, and what is wrong with it: file, line, rule.

use std::fs;
use std::path::{Path, PathBuf};

use kube::Client;
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde::de::DeserializeOwned;

use crate::api::NodeConfigSpec;
use crate::error::Error;

/// A file of JSON.
pub(super) fn read<T: DeserializeOwned>(file: &Path) -> Result<T, Error> {
    let text = text(file)?;
    serde_json::from_str(&text).map_err(|error| Error::Input {
        file: file.display().to_string(),
        line: u64::try_from(error.line()).ok().filter(|line| *line > 0),
        rule: error.to_string(),
    })
}

/// A NodeConfig's spec, alone or in its object.
pub(super) fn spec(file: &Path) -> Result<NodeConfigSpec, Error> {
    #[derive(serde::Deserialize)]
    struct Object {
        spec: NodeConfigSpec,
    }
    let is_object = read::<serde_json::Map<String, serde_json::Value>>(file)?.contains_key("spec");
    if is_object {
        Ok(read::<Object>(file)?.spec)
    } else {
        read(file)
    }
}

fn text(file: &Path) -> Result<String, Error> {
    fs::read_to_string(file).map_err(|error| Error::Input {
        file: file.display().to_string(),
        line: None,
        rule: format!("it has to be readable: {error}"),
    })
}

/// A client of the control plane. What is wrong with a kubeconfig is told without quoting it: it holds keys.
pub(super) async fn client(kubeconfig: Option<PathBuf>) -> Result<Client, Error> {
    let config = match kubeconfig {
        Some(file) => {
            let bad = |rule: &str| Error::Input {
                file: file.display().to_string(),
                line: None,
                rule: rule.to_owned(),
            };
            // Readable at all? Then the parser's words can be left out.
            text(&file)?;
            let parsed = Kubeconfig::read_from(&file)
                .map_err(|_| bad("it has to be a kubeconfig (kind Config, version v1)"))?;
            kube::Config::from_custom_kubeconfig(parsed, &KubeConfigOptions::default())
                .await
                .map_err(|_| bad("its current context has to name a cluster and a user of it"))?
        }
        None => kube::Config::infer().await.map_err(|_| Error::Missing {
            what: "a way to the Kubernetes API".to_owned(),
            why: "there is neither --kubeconfig nor KUBECONFIG nor a pod's service account"
                .to_owned(),
        })?,
    };
    Client::try_from(config).map_err(|_| Error::Missing {
        what: "a way to the Kubernetes API".to_owned(),
        why: "the kubeconfig's certificates or keys cannot be used".to_owned(),
    })
}
