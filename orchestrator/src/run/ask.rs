//! The floaters of one cluster, asked for a sign of life and for the tables of their nodes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use floater::wire::{Expectation, Layer, Tables};
use tokio::time::Instant;

use super::Context;
use super::expected::Expectations;
use crate::fleet::agents::{Agent, Gates};
use crate::fleet::api::Api;
use crate::fleet::deploy::Refused;
use crate::fleet::look::Seen;
use crate::fleet::objects::Pod;
use crate::fleet::patience::Patience;
use crate::fleet::{FLOATERS_AT_ONCE, concurrently};

/// How long a floater that does not answer is waited for at least once the others have answered.
const LATE: Duration = Duration::from_secs(5);

/// The floaters of a cluster and what they said.
pub(super) struct Asked {
    /// By node and layer.
    pub(super) floaters: BTreeMap<(String, Layer), Result<Agent, String>>,
    /// By node.
    pub(super) tables: BTreeMap<String, Result<Tables, String>>,
}

/// No floater of the cluster can be asked, all for one reason.
pub(super) fn refuse(context: &Context, seen: &Seen, reason: &str) -> Asked {
    let mut floaters = BTreeMap::new();
    let mut tables = BTreeMap::new();
    for node in &seen.nodes {
        for layer in context.layers() {
            floaters.insert((node.metadata.name.clone(), layer), Err(reason.to_owned()));
        }
        tables.insert(node.metadata.name.clone(), Err(reason.to_owned()));
    }
    Asked { floaters, tables }
}

/// Asks every floater of a cluster for a sign of life, those of the host layer for their tables, all at once.
pub(super) async fn ask(
    context: &Context,
    api: &Api,
    seen: &Seen,
    pods: &[&Pod],
    refused: &Refused,
    run_key: &Arc<[u8]>,
    expected: Option<(&Expectations, &str)>,
) -> Asked {
    let mut by_place: BTreeMap<(&str, Layer), &Pod> = BTreeMap::new();
    for pod in pods {
        if let (Some(node), Some(layer)) = (pod.node(), pod.layer()) {
            let best = by_place.entry((node, layer)).or_insert(pod);
            if pod.is_ready() && !best.is_ready() {
                *best = pod;
            }
        }
    }
    let gates = Gates::new(&context.gate);
    let mut asked = Asked {
        floaters: BTreeMap::new(),
        tables: BTreeMap::new(),
    };
    let mut questions = Vec::new();
    let mut unready = BTreeMap::new();
    for node in &seen.nodes {
        let name = &node.metadata.name;
        for layer in context.layers() {
            let reason = match by_place.get(&(name.as_str(), layer)) {
                // Whether it is ready is its node's opinion; its own answer is better.
                Some(pod) if pod.is_ready() || pod.runs() => {
                    if !pod.is_ready() {
                        unready.insert((name.clone(), layer), pod.trouble());
                    }
                    let namespace = &context.options.namespace;
                    // Both places are known: it was found by them.
                    let agent = Agent::new(api, namespace, &seen.id, pod, run_key, &gates);
                    if let Some(agent) = agent {
                        let expected = expected
                            .filter(|_| layer == Layer::Host)
                            .and_then(|(all, cluster)| all.of(cluster, name));
                        questions.push((name.clone(), layer, agent, expected));
                        continue;
                    }
                    "its pod does not say where it is".to_owned()
                }
                _ if !node.is_ready() => "the node is not ready".to_owned(),
                _ if !node.runs_linux() => "it is not a Linux node".to_owned(),
                Some(pod) => pod.trouble(),
                None => match refused.get(&layer) {
                    Some(why) => why.clone(),
                    None => "there is no floater on the node".to_owned(),
                },
            };
            if layer == Layer::Host {
                asked.tables.insert(name.clone(), Err(reason.clone()));
            }
            asked.floaters.insert((name.clone(), layer), Err(reason));
        }
    }
    let places: Vec<_> = questions
        .iter()
        .map(|(node, layer, agent, _)| (node.clone(), *layer, agent.clone()))
        .collect();
    let deadline = context.deadline;
    let patience = Arc::new(Patience::new(questions.len(), LATE, deadline));
    let answers = concurrently(questions, FLOATERS_AT_ONCE, |(_, layer, agent, expected)| {
        let patience = Arc::clone(&patience);
        async move {
            let work = async {
                let answer = answer(layer, &agent, expected.as_ref(), deadline).await;
                if answer.dead.is_none() { Ok(answer) } else { Err(answer) }
            };
            match patience.with(work).await {
                Ok(Ok(answer) | Err(answer)) => answer,
                Err(waited) => Answer::dead(format!(
                    "it has not answered after {:.1} s, when the other floaters of its cluster had long done so",
 waited.as_secs_f64()
                )),
            }
        }
    })
    .await;
    for ((node, layer, agent), answer) in places.into_iter().zip(answers) {
        let failed = || Answer::dead("asking it failed within this program".to_owned());
        let answer = answer.unwrap_or_else(failed);
        if layer == Layer::Host {
            let tables = answer
                .tables
                .unwrap_or_else(|| Err("they were not asked for".to_owned()));
            asked.tables.insert(node.clone(), tables);
        }
        let floater = match answer.dead {
            None => Ok(agent),
            Some(reason) => Err(reason),
        };
        asked.floaters.insert((node, layer), floater);
    }
    asked
}

struct Answer {
    dead: Option<String>,
    tables: Option<Result<Tables, String>>,
}

impl Answer {
    fn dead(reason: String) -> Self {
        Self {
            tables: Some(Err(reason.clone())),
            dead: Some(reason),
        }
    }
}

async fn answer(
    layer: Layer,
    agent: &Agent,
    expected: Option<&Expectation>,
    deadline: Instant,
) -> Answer {
    let mut tables = None;
    if layer == Layer::Host {
        let read = agent.tables(expected, deadline).await;
        if read.is_ok() {
            return Answer {
                dead: None,
                tables: Some(read),
            };
        }
        tables = Some(read);
    }
    // A floater that can be asked and cannot read tables still can probe.
    // That it is the floater of this node its signature says.
    match agent.info(deadline).await {
        Ok(_) => Answer { dead: None, tables },
        Err(reason) => match tables {
            Some(Err(first)) => Answer::dead(first),
            _ => Answer::dead(reason),
        },
    }
}
