//! The floaters of one cluster, asked for a sign of life and for the tables of their nodes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use floater::wire::{Expectation, Layer, Tables};
use tokio::time::Instant;

use super::Context;
use crate::engine::messages::{Ask, Asked, FloaterFacts, FloaterId, Place};
use crate::fleet::agents::{Agent, Gates};
use crate::fleet::api::Api;
use crate::fleet::deploy::Refused;
use crate::fleet::look::Seen;
use crate::fleet::objects::{Node, Pod};
use crate::fleet::patience::Shared;
use crate::fleet::{FLOATERS_AT_ONCE, concurrently};

/// How long a floater that does not answer is waited for at least once the others have answered.
const LATE: Duration = Duration::from_secs(5);
/// Within how long of the first question tables that did not come are asked for a second time.
const BRIEF: Duration = Duration::from_secs(5);

/// Why floaters are not there, in the words of the cluster.
#[derive(Default)]
pub(super) struct Lacking {
    /// Why the floaters of a layer could not be deployed or made.
    pub(super) refused: Refused,
    /// The latest warning about pods that are not ready, by their name.
    pub(super) events: BTreeMap<String, String>,
}

/// The pods of some floaters of a cluster, and the key that these know.
pub(super) struct Floaters<'a> {
    pub(super) api: &'a Api,
    pub(super) seen: &'a Seen,
    pub(super) pods: Vec<&'a Pod>,
    /// Why some are not there.
    pub(super) lacking: &'a Lacking,
    /// Their namespace.
    pub(super) namespace: &'a str,
    pub(super) run_key: &'a Arc<[u8]>,
}

impl Floaters<'_> {
    /// Every node that was asked for with its floaters: who can be asked, or why nobody can.
    pub(super) fn agents(
        &self,
        context: &Context,
        layers: &[Layer],
    ) -> Vec<(String, Layer, Result<Agent, String>)> {
        let mut by_place: BTreeMap<(&str, Layer), &Pod> = BTreeMap::new();
        for pod in &self.pods {
            if let (Some(node), Some(layer)) = (pod.node(), pod.layer()) {
                let best = by_place.entry((node, layer)).or_insert(pod);
                if pod.is_ready() && !best.is_ready() {
                    *best = pod;
                }
            }
        }
        let gates = Gates::new(&context.turns);
        let mut agents = Vec::new();
        for node in &self.seen.nodes {
            let name = &node.metadata.name;
            for &layer in layers {
                let pod = by_place.get(&(name.as_str(), layer)).copied();
                let agent = self.agent(node, layer, pod, &gates);
                agents.push((name.clone(), layer, agent));
            }
        }
        agents
    }

    fn agent(
        &self,
        node: &Node,
        layer: Layer,
        pod: Option<&Pod>,
        gates: &Gates,
    ) -> Result<Agent, String> {
        match pod {
            // Whether it is ready is its node's opinion; its own answer is better.
            Some(pod) if pod.is_ready() || pod.runs() => {
                let (api, id, key) = (self.api, &self.seen.id, self.run_key);
                // Both places are known: it was found by them.
                Agent::new(api, self.namespace, id, pod, key, gates)
                    .ok_or_else(|| "its pod does not say where it is".to_owned())
            }
            _ if !node.is_ready() => Err("the node is not ready".to_owned()),
            _ if !node.runs_linux() => Err("it is not a Linux node".to_owned()),
            Some(pod) => {
                let event = self.lacking.events.get(&pod.metadata.name);
                Err(pod.trouble(event.map(String::as_str)))
            }
            None => Err(match self.lacking.refused.get(&layer) {
                Some(why) => why.clone(),
                None => "there is no floater on the node".to_owned(),
            }),
        }
    }

    /// Asks every floater for a sign of life, those of the host layer for their tables, all at once; who they are comes with what they
    /// said.
    pub(super) async fn ask(
        &self,
        context: &Context,
        ask: &Ask,
    ) -> (Asked, Vec<(FloaterId, Agent)>) {
        let mut asked = Asked::default();
        let mut questions = Vec::new();
        for (node, layer, agent) in self.agents(context, &ask.layers) {
            match agent {
                Ok(agent) => {
                    let expected = ask.expected.get(&node).filter(|_| layer == Layer::Host);
                    questions.push((node, layer, agent, expected.cloned()));
                }
                Err(reason) => {
                    if layer == Layer::Host {
                        asked.tables.insert(node.clone(), Err(reason.clone()));
                    }
                    asked.floaters.push(FloaterFacts {
                        node,
                        layer,
                        place: Err(reason),
                    });
                }
            }
        }
        let floaters: Vec<_> = questions
            .iter()
            .map(|(node, layer, agent, _)| (node.clone(), *layer, agent.clone()))
            .collect();
        let answers = answers(context, questions).await;
        let mut agents = Vec::new();
        let nodes = self.seen.nodes.iter().filter(|node| !node.is_ready());
        let unready: BTreeSet<&str> = nodes.map(|node| node.metadata.name.as_str()).collect();
        for ((node, layer, agent), answer) in floaters.into_iter().zip(answers) {
            let failed = || Answer::dead("asking it failed within this program".to_owned());
            let mut answer = answer.unwrap_or_else(failed);
            if let Some(reason) = &answer.dead
                && unready.contains(node.as_str())
            {
                // What is left of its pods is what was true before.
                answer = Answer::dead(format!("the node is not ready ({reason})"));
            }
            if layer == Layer::Host {
                let tables = answer
                    .tables
                    .unwrap_or_else(|| Err("they were not asked for".to_owned()));
                asked.tables.insert(node.clone(), tables);
            }
            let place = match answer.dead {
                None => Ok(Place {
                    port: agent.port,
                    ips: agent.ips.clone(),
                }),
                Some(reason) => Err(reason),
            };
            if place.is_ok() {
                let cluster = ask.cluster;
                let node = node.clone();
                agents.push((
                    FloaterId {
                        cluster,
                        node,
                        layer,
                    },
                    agent,
                ));
            }
            asked.floaters.push(FloaterFacts { node, layer, place });
        }
        (asked, agents)
    }
}

/// What every floater that is asked says, in their order.
async fn answers(
    context: &Context,
    questions: Vec<(String, Layer, Agent, Option<Expectation>)>,
) -> Vec<Option<Answer>> {
    let deadline = context.deadline;
    let patience = Arc::new(Shared::new(questions.len(), LATE, deadline));
    concurrently(
        questions,
        FLOATERS_AT_ONCE,
        |(_, layer, agent, expected)| {
            let patience = Arc::clone(&patience);
            async move {
                let _turn = agent.turn().await;
                let work = async {
                    let answer = answer(layer, &agent, expected.as_ref(), deadline).await;
                    if answer.dead.is_none() {
                        Ok(answer)
                    } else {
                        Err(answer)
                    }
                };
                match patience.with(work).await {
                    Ok(Ok(answer) | Err(answer)) => answer,
                    Err(waited) => Answer::dead(late(waited)),
                }
            }
        },
    )
    .await
}

fn late(waited: Duration) -> String {
    format!(
        "it has not answered after {:.1} s, when the other floaters of its cluster had long done so",
        waited.as_secs_f64()
    )
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
    let began = Instant::now();
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
        Ok(_) => {
            // An answer that broke off on its way is asked for again; one that took long has used up its time.
            if tables.is_some() && began.elapsed() < BRIEF {
                tables = Some(agent.tables(expected, deadline).await);
            }
            Answer { dead: None, tables }
        }
        Err(reason) => match tables {
            Some(Err(first)) => Answer::dead(first),
            _ => Answer::dead(reason),
        },
    }
}
