//! `upgrade`: the programs of a cluster get another image, one kind after the other, and the old one where the new one does not run.

use std::time::Duration;

use serde_json::{Value, json};

use super::cluster::Cluster;
use super::objects::{Object, PART_OF};
use super::{Context, Place, Told, wait};
use crate::Error;
use crate::fleet::api::encoded;
use crate::manifest::{MANAGED_BY, MANAGED_BY_LABEL};

/// What `upgrade` is told.
#[derive(Debug, Clone)]
pub struct Upgrade {
    /// The programs' namespace.
    pub namespace: String,
    /// The images' tag from now on.
    pub version: String,
    /// What the images' names begin with from now on; as it is where there is none.
    pub image_repository: Option<String>,
    /// The cluster, and what it is called in messages.
    pub place: (String, Place),
    /// How long to wait for each program.
    pub wait: Duration,
    /// Only say what would be changed.
    pub dry_run: bool,
}

/// A program and the image that it has.
struct Running {
    object: Object,
    image: String,
}

/// Changes the images of a cluster's programs; what was changed, as `DaemonSet NAMESPACE/NAME: OLD → NEW`.
///
/// # Errors
/// [`Error::Missing`] where there are no programs or a new one does not become ready; then all have their old images again.
pub async fn upgrade(order: &Upgrade, context: &Context) -> Result<Vec<String>, Error> {
    let (name, place) = &order.place;
    let reach = Cluster::reach(name, &place.kubeconfig);
    let cluster = context.during(reach).await?;
    let running = programs(&cluster, &order.namespace).await?;
    if running.is_empty() {
        return Err(Error::Missing {
            what: format!("the programs of the datapath in {name}"),
            why: format!("floaterctl has made none in namespace {}", order.namespace),
        });
    }
    let (mut told, mut changed) = (Vec::new(), Vec::new());
    for program in &running {
        let new = image(&program.image, order);
        if new == program.image {
            // Somebody may have been interrupted before it ran.
            if !order.dry_run {
                wait::rolled_out(&cluster, &program.object, order.wait, context).await?;
            }
            continue;
        }
        told.push(format!(
            "{}: {} → {new}",
            program.object.words(),
            program.image
        ));
        if order.dry_run {
            continue;
        }
        context.say(Told::Phase(format!(
            "{} in {name} gets {new}",
            program.object.words()
        )));
        changed.push(program);
        if let Err(error) = replace(&cluster, program, &new, order.wait, context).await {
            let left = back(&cluster, &changed, context).await;
            return Err(match error {
                Error::Interrupted { .. } => Error::Interrupted { left },
                error => Error::Missing {
                    what: error.to_string(),
                    why: if left.is_empty() {
                        "every program has its old image again".to_owned()
                    } else {
                        format!("not put back: {}", left.join("; "))
                    },
                },
            });
        }
    }
    Ok(told)
}

/// The programs that floaterctl made in a cluster: the control plane's first, the agents last.
async fn programs(cluster: &Cluster, namespace: &str) -> Result<Vec<Running>, Error> {
    let labels = format!(
        "{MANAGED_BY_LABEL}={MANAGED_BY},{}={}",
        PART_OF.0, PART_OF.1
    );
    let mut running = Vec::new();
    for (kind, plural) in [("Deployment", "deployments"), ("DaemonSet", "daemonsets")] {
        let selector = encoded(&labels);
        let path =
            format!("/apis/apps/v1/namespaces/{namespace}/{plural}?labelSelector={selector}");
        let items = cluster
            .list(&path)
            .await
            .map_err(|failure| Error::Missing {
                what: format!("the {plural} of {}", cluster.name),
                why: failure.to_string(),
            })?;
        for item in items {
            let image = item["spec"]["template"]["spec"]["containers"][0]["image"].as_str();
            let image = image.unwrap_or_default().to_owned();
            running.push(Running {
                object: Object::new(("apps/v1", kind, plural), item),
                image,
            });
        }
    }
    // The manager plans for all: it is the first to know something new.
    running.sort_by_key(|program| {
        let is_manager = program.object.name() == datapath::manifests::MANAGER;
        (program.object.kind == "DaemonSet", !is_manager)
    });
    Ok(running)
}

/// The image that a program gets in place of the one that it has.
fn image(old: &str, order: &Upgrade) -> String {
    let base = old.rsplit('/').next().unwrap_or_default();
    let base = base.split(['@', ':']).next().unwrap_or_default();
    let repository = match (&order.image_repository, old.rsplit_once('/')) {
        (Some(repository), _) => format!("{repository}/"),
        (None, Some((repository, _))) => format!("{repository}/"),
        (None, None) => String::new(),
    };
    format!("{repository}{base}:{}", order.version)
}

async fn replace(
    cluster: &Cluster,
    program: &Running,
    image: &str,
    time: Duration,
    context: &Context,
) -> Result<(), Error> {
    set(cluster, program, image).await?;
    wait::rolled_out(cluster, &program.object, time, context).await
}

/// How often a change is tried that meets somebody else's.
const TRIES: u32 = 8;

async fn set(cluster: &Cluster, program: &Running, image: &str) -> Result<(), Error> {
    let path = program.object.path();
    let failed = |failure: crate::fleet::api::Failure| Error::Missing {
        what: format!("{} in {}", program.object.words(), cluster.name),
        why: failure.to_string(),
    };
    let mut conflict = None;
    for _ in 0..TRIES {
        let held: Value = cluster.api.get(&path).await.map_err(failed)?;
        let mut containers = held["spec"]["template"]["spec"]["containers"].clone();
        containers[0]["image"] = image.into();
        let patch = json!({
            // Of what somebody changed meanwhile nothing is overruled but the image.
            "metadata": {"resourceVersion": held["metadata"]["resourceVersion"]},
            "spec": {"template": {"spec": {"containers": containers}}},
        });
        match cluster.api.merge(&path, &patch).await {
            Ok(_) => return Ok(()),
            // Its controller writes its status whenever a pod changes.
            Err(failure) if failure.is_already_there() => conflict = Some(failure),
            Err(failure) => return Err(failed(failure)),
        }
    }
    conflict.map_or(Ok(()), |failure| Err(failed(failure)))
}

/// Gives programs their old images again; where that failed, and why.
async fn back(cluster: &Cluster, changed: &[&Running], context: &Context) -> Vec<String> {
    context.say(Told::Phase(format!(
        "the programs of {} get their old images again",
        cluster.name
    )));
    let mut left = Vec::new();
    for program in changed.iter().rev() {
        if let Err(error) = set(cluster, program, &program.image).await {
            left.push(error.to_string());
        }
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_changes_its_tag_and_its_repository_where_that_is_asked_for() {
        let order = |repository: Option<&str>| Upgrade {
            namespace: String::new(),
            version: "v2".to_owned(),
            image_repository: repository.map(str::to_owned),
            place: (
                String::new(),
                Place {
                    kubeconfig: selected(),
                    inner: None,
                },
            ),
            wait: Duration::ZERO,
            dry_run: true,
        };
        for (old, repository, new) in [
            ("ghcr.io/x/clusterlink:v1", None, "ghcr.io/x/clusterlink:v2"),
            (
                "localhost:5000/clusterlink",
                None,
                "localhost:5000/clusterlink:v2",
            ),
            ("clusterlink:v1", None, "clusterlink:v2"),
            (
                "ghcr.io/x/clusterlink@sha256:00",
                Some("other/y"),
                "other/y/clusterlink:v2",
            ),
        ] {
            assert_eq!(image(old, &order(repository)), new, "{old}");
        }
    }

    fn selected() -> crate::kubeconfig::Selected {
        let text = "apiVersion: v1\nkind: Config\n\
            clusters: [{name: a, cluster: {server: 'https://127.0.0.1:1'}}]\n\
            users: [{name: a, user: {token: t}}]\n\
            contexts: [{name: a, context: {cluster: a, user: a}}]\n";
        let file = crate::kubeconfig::parse(text, "test", None).expect("a kubeconfig");
        file.select("a").expect("its context")
    }
}
