//! The files of a pod that has a root of its own: Secrets and ConfigMaps as folders, and what its service account gives it.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Component, Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::api::{References, Referred};
use super::{Inside, text};
use crate::apiserver::Resource;

/// Where the credentials of a pod's service account are.
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// What of the machine a pod may ask for by a hostPath: the kernel's own files, which show each process what is its own network's.
const KERNEL: &[&str] = &["/proc", "/sys"];

/// The volumes of a pod.
#[derive(Debug)]
pub(super) struct Volumes {
    namespace: String,
    volumes: Vec<Volume>,
}

#[derive(Debug)]
struct Volume {
    /// Where it is on this machine.
    folder: PathBuf,
    /// Where the pod sees it.
    mounted: Vec<PathBuf>,
    content: Content,
}

#[derive(Debug, PartialEq)]
enum Content {
    /// Nothing but what the pod writes.
    Empty,
    /// A folder of the kernel's own.
    Kernel(PathBuf),
    /// The entries of a Secret or ConfigMap.
    Entries {
        resource: Resource,
        name: String,
        is_optional: bool,
        /// Keys and the files that they become; all, by their names, where there are none.
        items: Vec<(String, String)>,
    },
    /// A token, the authority and the namespace.
    Account(String),
}

impl Volumes {
    /// Reads what a pod's first container mounts; everything is below `folder`.
    pub(super) fn of(pod: &Value, folder: &Path) -> Result<Self, String> {
        let list = |pointer: &str| {
            let list = pod.pointer(pointer).and_then(Value::as_array);
            list.into_iter().flatten()
        };
        let mut volumes = Vec::new();
        for volume in list("/spec/volumes") {
            let name = text(volume, "/name");
            let mounts = list("/spec/containers/0/volumeMounts");
            let mounts = mounts.filter(|mount| text(mount, "/name") == name);
            let mounted = mounts.map(mounted).collect::<Result<Vec<_>, _>>()?;
            // An API server says itself where the credentials of the account are, which are given below.
            let is_account = volume.get("projected").is_some_and(Value::is_object)
                && mounted.iter().all(|place| place == Path::new(ACCOUNT));
            if mounted.is_empty() || is_account {
                continue;
            }
            let content = content(volume)?;
            volumes.push(Volume {
                folder: match &content {
                    Content::Kernel(place) => place.clone(),
                    _ => folder.join(plain(name)?),
                },
                mounted,
                content,
            });
        }
        if pod.pointer("/spec/automountServiceAccountToken") != Some(&Value::Bool(false)) {
            let name = text(pod, "/spec/serviceAccountName");
            volumes.push(Volume {
                folder: folder.join("kube-api-access"),
                mounted: vec![ACCOUNT.into()],
                content: Content::Account(
                    if name.is_empty() { "default" } else { name }.to_owned(),
                ),
            });
        }
        Ok(Self {
            namespace: text(pod, "/metadata/namespace").to_owned(),
            volumes,
        })
    }

    /// What is to be bound: folders of this machine, and where the pod sees them.
    pub(super) fn binds(&self) -> Vec<(PathBuf, PathBuf)> {
        let each = self.volumes.iter();
        each.flat_map(|volume| {
            let places = volume.mounted.iter();
            places.map(|place| (volume.folder.clone(), place.clone()))
        })
        .collect()
    }

    /// The objects that the files are made of.
    pub(super) fn references(&self) -> References {
        let each = self.volumes.iter();
        each.filter_map(|volume| match &volume.content {
            Content::Entries { resource, name, .. } => Some((*resource, name.clone())),
            _ => None,
        })
        .collect()
    }

    /// The service account that a token is wanted of; none where none is.
    pub(super) fn account(&self) -> Option<&str> {
        self.volumes
            .iter()
            .find_map(|volume| match &volume.content {
                Content::Account(name) => Some(name.as_str()),
                _ => None,
            })
    }

    /// Brings all files up to date with the objects that they are made of, and the token of the account where one is wanted.
    pub(super) fn write(&self, made_of: &MadeOf<'_>) -> Result<(), String> {
        let own = |volume: &&Volume| !matches!(volume.content, Content::Kernel(_));
        for volume in self.volumes.iter().filter(own) {
            let files = self.files(&volume.content, made_of)?;
            put(&volume.folder, &files)
                .map_err(|error| format!("volume {}: {error}", volume.folder.display()))?;
        }
        Ok(())
    }

    /// The files of a volume, by name.
    fn files(
        &self,
        content: &Content,
        made_of: &MadeOf<'_>,
    ) -> Result<Vec<(String, Vec<u8>)>, String> {
        let MadeOf {
            referred,
            token,
            inside,
        } = made_of;
        match content {
            Content::Empty | Content::Kernel(_) => Ok(Vec::new()),
            Content::Account(_) => Ok(vec![
                ("token".to_owned(), token.as_bytes().to_vec()),
                ("ca.crt".to_owned(), inside.authority.clone().into_bytes()),
                ("namespace".to_owned(), self.namespace.clone().into_bytes()),
            ]),
            Content::Entries {
                resource,
                name,
                is_optional,
                items,
            } => {
                let Some(object) = referred.get(*resource, name) else {
                    return if *is_optional {
                        Ok(Vec::new())
                    } else {
                        Err(format!(
                            "{} \"{name}\" not found",
                            resource.kind.to_lowercase()
                        ))
                    };
                };
                entries(&object, *resource == Resource::SECRETS, items)
            }
        }
    }
}

/// What the files of a pod are made of.
pub(super) struct MadeOf<'a> {
    pub(super) referred: &'a Referred,
    /// The token of its service account; empty where none is wanted.
    pub(super) token: &'a str,
    pub(super) inside: &'a Inside,
}

/// Where a mount is from the pod's point of view.
fn mounted(mount: &Value) -> Result<PathBuf, String> {
    let path = text(mount, "/mountPath");
    if !text(mount, "/subPath").is_empty() || !text(mount, "/subPathExpr").is_empty() {
        return Err(format!(
            "{path}: a simulated node mounts whole volumes only"
        ));
    }
    let place = Path::new(path);
    let is_plain = place
        .components()
        .all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    if !place.is_absolute() || !is_plain || place == Path::new("/") {
        return Err(format!("{path:?} is no place for a volume"));
    }
    Ok(place.to_owned())
}

/// A name that is one file's.
fn plain(name: &str) -> Result<&str, String> {
    let is_plain = !name.is_empty() && name != "." && name != ".." && !name.contains('/');
    let is_plain = is_plain.then_some(name);
    is_plain.ok_or_else(|| format!("{name:?} is no file name"))
}

fn content(volume: &Value) -> Result<Content, String> {
    let name = text(volume, "/name");
    if volume.get("emptyDir").is_some_and(Value::is_object) {
        return Ok(Content::Empty);
    }
    for (field, key, resource) in [
        ("secret", "secretName", Resource::SECRETS),
        ("configMap", "name", Resource::CONFIG_MAPS),
    ] {
        let Some(source) = volume.get(field).filter(|source| source.is_object()) else {
            continue;
        };
        let items = source.get("items").and_then(Value::as_array);
        let items = items.into_iter().flatten();
        let items = items.map(|item| {
            let path = plain(text(item, "/path"))?;
            Ok((text(item, "/key").to_owned(), path.to_owned()))
        });
        return Ok(Content::Entries {
            resource,
            name: text(source, &format!("/{key}")).to_owned(),
            is_optional: source.get("optional") == Some(&Value::Bool(true)),
            items: items.collect::<Result<_, String>>()?,
        });
    }
    let host = Path::new(text(volume, "/hostPath/path"));
    let is_plain = host
        .components()
        .all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    if is_plain && KERNEL.iter().any(|place| host.starts_with(place)) {
        return Ok(Content::Kernel(host.to_owned()));
    }
    Err(format!(
        "volume {name}: a simulated node has emptyDir, secret and configMap volumes, and hostPaths below {} only",
        KERNEL.join(" and ")
    ))
}

/// The entries of a Secret, which are base64, or of a ConfigMap, as files.
fn entries(
    object: &Value,
    is_secret: bool,
    items: &[(String, String)],
) -> Result<Vec<(String, Vec<u8>)>, String> {
    let data = object.get("data").and_then(Value::as_object);
    let all = || data.into_iter().flatten();
    let wanted: Vec<(String, String)> = if items.is_empty() {
        all().map(|(key, _)| (key.clone(), key.clone())).collect()
    } else {
        items.to_vec()
    };
    let file = |(key, path): (String, String)| {
        let value = data.and_then(|data| data.get(&key)).and_then(Value::as_str);
        let value = value.ok_or_else(|| format!("references non-existent key {key}"))?;
        let bytes = if is_secret {
            let decoded = STANDARD.decode(value);
            decoded.map_err(|_| format!("key {key} is not base64"))?
        } else {
            value.as_bytes().to_vec()
        };
        Ok((plain(&path)?.to_owned(), bytes))
    };
    wanted.into_iter().map(file).collect()
}

/// Makes a folder hold exactly these files; each changes at once or not at all.
fn put(folder: &Path, files: &[(String, Vec<u8>)]) -> std::io::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)?;
    for (name, bytes) in files {
        let path = folder.join(name);
        if fs::read(&path).is_ok_and(|held| held == *bytes) {
            continue;
        }
        // A key of Kubernetes has no tilde.
        let new = folder.join(format!("~{name}"));
        let mut file = fs::File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&new)?;
        file.write_all(bytes)?;
        fs::rename(&new, &path)?;
    }
    if files.is_empty() {
        return Ok(());
    }
    for entry in fs::read_dir(folder)?.flatten() {
        let name = entry.file_name();
        if !files.iter().any(|(wanted, _)| name == wanted.as_str()) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    use super::super::api::Api;
    use crate::apiserver::{ApiCluster, NoPods, Options};
    use serde_json::json;

    fn pod(volume: Value, mount: &str) -> Value {
        json!({
            "metadata": {"namespace": "ns", "name": "p"},
            "spec": {
                "automountServiceAccountToken": false,
                "volumes": [volume],
                "containers": [{"volumeMounts": [{"name": "v", "mountPath": mount}]}],
            },
        })
    }

    #[tokio::test]
    async fn secrets_become_files_and_follow_their_object() {
        let folder = std::env::temp_dir().join(format!("volumes-{}", std::process::id()));
        let api = ApiCluster::new(Options {
            name: "c1".to_owned(),
            uid: String::new(),
            admin_token: "t".to_owned(),
            dialer: Arc::new(NoPods),
        });
        let inside = Inside {
            authority: "PEM".to_owned(),
            address: ([10, 0, 0, 1], 6443).into(),
        };
        let pod = pod(
            json!({"name": "v", "secret": {"secretName": "s"}}),
            "/etc/clusterlink",
        );
        let volumes = Volumes::of(&pod, &folder).expect("read");
        assert_eq!(
            volumes.binds(),
            [(folder.join("v"), "/etc/clusterlink".into())]
        );
        let reader = Api::Within(api.clone());
        let write = async || {
            let referred = reader.read("ns", &volumes.references()).await?;
            volumes.write(&MadeOf {
                referred: &referred,
                token: "",
                inside: &inside,
            })
        };
        let missing = write().await.expect_err("there is none yet");
        assert!(missing.contains("\"s\" not found"), "{missing}");
        let store = api.store();
        let namespace = json!({"metadata": {"name": "ns"}});
        let made = store.create(Resource::NAMESPACES, None, namespace);
        made.expect("a namespace");
        let secret =
            |data: Value| json!({"metadata": {"name": "s", "namespace": "ns"}, "data": data});
        let made = secret(json!({"token": STANDARD.encode("t1"), "old": STANDARD.encode("x")}));
        store
            .create(Resource::SECRETS, Some("ns"), made)
            .expect("a Secret");
        write().await.expect("written");
        let read = |name: &str| fs::read_to_string(folder.join("v").join(name));
        assert_eq!(read("token").expect("read"), "t1");
        let changed = json!({"token": STANDARD.encode("t2")});
        let changed = store.put(Resource::SECRETS, Some("ns"), "s", |secret| {
            secret["data"] = changed
        });
        changed.expect("written");
        write().await.expect("written");
        assert_eq!(read("token").expect("read"), "t2");
        read("old").expect_err("gone with its entry");
        fs::remove_dir_all(&folder).expect("remove");
    }

    #[test]
    fn what_would_reach_the_machine_is_refused() {
        let folder = Path::new("/nonexistent");
        let refused = |volume: Value, mount: &str| {
            Volumes::of(&pod(volume, mount), folder).expect_err("refused")
        };
        refused(json!({"name": "v", "hostPath": {"path": "/etc"}}), "/etc");
        let beside = json!({"name": "v", "hostPath": {"path": "/proc/../etc"}});
        refused(beside, "/x");
        refused(json!({"name": "v", "emptyDir": {}}), "/a/../../b");
        refused(json!({"name": "v", "emptyDir": {}}), "relative");
        let key = json!({"name": "v", "secret": {"secretName": "s", "items": [{"key": "k", "path": "../k"}]}});
        refused(key, "/x");
        let elsewhere = json!({"name": "v", "projected": {"sources": []}});
        refused(elsewhere.clone(), "/x");
        let account = Volumes::of(&pod(elsewhere, ACCOUNT), folder).expect("an account's own");
        assert!(account.binds().is_empty(), "{account:?}");
        let kernel = json!({"name": "v", "hostPath": {"path": "/proc/sys/net"}});
        let kernel = Volumes::of(&pod(kernel, "/host/net"), folder).expect("the kernel's own");
        assert_eq!(
            kernel.binds(),
            [("/proc/sys/net".into(), "/host/net".into())]
        );
    }
}
