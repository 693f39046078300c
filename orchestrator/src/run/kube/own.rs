//! Own floaters of a run, where none stand ready.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::Value;
use tokio::time::Instant;

use super::Context;
use super::ask::{Floaters, Lacking};
use super::opened::{Open, able, lifetime};
use crate::engine::messages::{Ask, Asked, FloaterId};
use crate::fleet::agents::{Agent, Gates};
use crate::fleet::api::Api;
use crate::fleet::deploy::{self, Unmade};
use crate::fleet::events as told;
use crate::fleet::objects::Pod;
use crate::inventory::Role;
use crate::manifest::Spec;
use crate::run::Progress;

/// How often floaters are deployed, with other ports when those of the run turn out to be taken, or in another namespace.
const ATTEMPTS: u32 = 4;

/// Own floaters: created, waited for, asked.
///
/// # Errors
/// Why there are none.
pub(super) async fn own(
    context: &Context,
    open: &Open,
    api: &Api,
    ask: &Ask,
) -> Result<(Asked, Vec<(FloaterId, Agent)>), String> {
    let seen = &open.seen;
    let options = &context.options;
    if ask.nodes.is_empty() {
        return Err("no node is ready that could run a floater".to_owned());
    }
    let mut lacking = Lacking::default();
    let mut pods = Vec::new();
    let mut run_key: Arc<[u8]> = Arc::default();
    let mut namespace = options.namespace.clone();
    let mut is_there = false;
    context.tell(Progress::Deploying {
        name: ask.name.clone(),
    });
    for attempt in 0..ATTEMPTS {
        let spec = spec(context, open, &namespace, attempt)?;
        run_key = spec.run_key.clone().into();
        let create = deploy::create(
            Arc::clone(&context.ledger),
            ask.name.clone(),
            api.clone(),
            spec.clone(),
            able(&seen.nodes),
        );
        let created = tokio::time::timeout_at(context.deadline, create)
            .await
            .unwrap_or_else(|_| {
                let late = "the run's time was up before its floaters existed";
                Err(late.to_owned().into())
            });
        let layers_refused = match created {
            Ok(refused) => refused,
            Err(Unmade::Refused(why)) => return Err(why),
            Err(Unmade::Ending) => continue,
            Err(Unmade::Stuck) => {
                let other = deploy::beside(&options.namespace, &context.run);
                context.warn(format!(
                    "{}: namespace {namespace} is being removed and is not gone yet; this run uses namespace {other}",
                    ask.name
                ));
                namespace = other;
                continue;
            }
        };
        let deadline = context.deadline.min(Instant::now() + options.pod_wait);
        let gates = Gates::new(&context.turns);
        let ready = deploy::ready(api, &spec, &ask.nodes, layers_refused, deadline, &|pod| {
            let agent = Agent::new(api, &spec.namespace, &seen.id, pod, &run_key, &gates);
            Box::pin(async move {
                match agent {
                    Some(agent) => {
                        let _turn = agent.turn().await;
                        agent.info(deadline).await.is_ok()
                    }
                    None => false,
                }
            })
        })
        .await;
        for note in &ready.notes {
            context.warn(format!("{}: {note}", ask.name));
        }
        (pods, lacking.refused) = (ready.pods, ready.refused);
        // Another run's floaters of the same moment have its ports, which no list could show before; and another run may have
        // removed the namespace that it had made.
        is_there = !ready.is_ended;
        if is_there && !pods.iter().any(Pod::lacks_ports) {
            break;
        }
    }
    if !is_there {
        return Err(format!(
            "namespace {namespace} is removed again and again while floaters are made in it"
        ));
    }
    lacking.events = events(context, api, &namespace, ask, &pods).await;
    let floaters = Floaters {
        api,
        seen,
        pods: pods.iter().collect(),
        lacking: &lacking,
        namespace: &namespace,
        run_key: &run_key,
    };
    let (mut asked, agents) = floaters.ask(context, ask).await;
    asked.own = true;
    Ok((asked, agents))
}

/// What the cluster says of pods that are not there as they should be, by their name.
async fn events(
    context: &Context,
    api: &Api,
    namespace: &str,
    ask: &Ask,
    pods: &[Pod],
) -> BTreeMap<String, String> {
    let troubled: Vec<&Pod> = pods
        .iter()
        .filter(|pod| !pod.is_ready() && !pod.runs())
        .collect();
    if troubled.is_empty() {
        return BTreeMap::new();
    }
    match told::of_pods(api, namespace, &troubled).await {
        Ok(events) => events,
        Err(note) => {
            if let Some(note) = note {
                context.warn(format!("{}: {note}", ask.name));
            }
            BTreeMap::new()
        }
    }
}

/// The manifests of what a run would make, in the order of creation; none where floaters stand ready or no node can run one.
///
/// # Errors
/// Why nothing can be made.
pub(super) fn manifests(context: &Context, open: &Open, ask: &Ask) -> Result<Vec<Value>, String> {
    if open.standing.is_some() || ask.nodes.is_empty() {
        return Ok(Vec::new());
    }
    let spec = spec(context, open, &context.options.namespace, 0)?;
    let namespace = (!open.seen.namespace).then(|| spec.namespace());
    let objects = namespace.into_iter().chain(spec.objects());
    Ok(objects.map(|object| object.value).collect())
}

/// What a run makes in a cluster.
fn spec(context: &Context, open: &Open, namespace: &str, attempt: u32) -> Result<Spec, String> {
    let options = &context.options;
    let seen = &open.seen;
    seen.floaters.as_ref().map_err(Clone::clone)?;
    let mut run_key = vec![0; 32];
    crate::run::random(&mut run_key).map_err(|error| error.to_string())?;
    let (port, api_port) = deploy::free_ports(&seen.ports, options.port, &context.run, attempt);
    let lifetime = lifetime(context);
    let repository = match (open.role, &options.dst_image_repository) {
        (Role::Destination, Some(repository)) => repository,
        _ => &options.image_repository,
    };
    Ok(Spec {
        // Objects of two attempts have two names.
        run: match attempt {
            0 => context.run.clone(),
            attempt => format!("{}-{attempt}", context.run),
        },
        cluster_id: seen.id.clone(),
        namespace: namespace.to_owned(),
        layers: context.layers(),
        image_repository: repository.trim_end_matches('/').to_owned(),
        version: options.version.clone(),
        image_pull_secrets: options.image_pull_secrets.clone(),
        service_account: options.service_account.clone(),
        run_key,
        port,
        api_port,
        expires: Timestamp::now() + lifetime,
        shared: options.keep,
        excluded: seen.excluded.clone(),
    })
}
