//! Where an agent's rows come from: its NodeConfig, or the plan that it makes by itself.
//!
//! ```text
//!                        ┌── there is a NodeConfig ──► it says (and nothing else is watched)
//!   NodeConfig ──watch──►┤
//!                        └── there is none ──► Clusters, ClusterNodes ──watch──► Local ──► its plan says
//!                                                     └── closed to this agent ──► nobody says: the rows go after the grace
//! ```

use std::collections::BTreeSet;
use std::time::Duration;

use clap::ValueEnum;
use futures::channel::mpsc::UnboundedSender;
use futures::future::{FutureExt as _, OptionFuture};
use futures::stream::{BoxStream, StreamExt as _, select_all};
use kube::Client;
use kube::api::Api;
use kube::runtime::watcher::{self, DefaultBackoff};
use serde_json::Value;
use tracing::{info, warn};

use crate::agent::{Event, News, events};
use crate::control::inventory::Kind;
use crate::control::local::{Local, Outcome};
use crate::watching::{is_closed, kosmos, watched};

/// How often an agent that may not read the fleet's objects asks whether it may by now.
const CLOSED: Duration = Duration::from_secs(60);

/// Whether an agent plans for itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Plan {
    /// Where there is no NodeConfig for its node
    #[default]
    Auto,
    /// Always
    On,
    /// Never
    Off,
}

/// What a watch of the fleet's objects says.
enum Word {
    Closed,
    Gone(Kind, String),
    Listed(Kind, BTreeSet<String>),
    Set(Kind, String, Value),
}

/// The objects that a plan is made of, and the plan.
struct Planning {
    local: Local,
    words: BoxStream<'static, Word>,
}

impl Planning {
    fn begin(client: &Client, node: &str) -> Self {
        let kinds = [Kind::Cluster, Kind::ClusterNode];
        Self {
            local: Local::new(node),
            words: select_all(kinds.map(|kind| words(client, kind))).boxed(),
        }
    }

    async fn next(&mut self) -> Option<Event> {
        let word = self.words.next().await?;
        let mut is_closed = self.take(word);
        // What has come by now is one plan's business.
        while let Some(Some(word)) = self.words.next().now_or_never() {
            is_closed |= self.take(word);
        }
        if is_closed {
            return Some(Event::Withdrawn);
        }
        self.local.plan().map(|outcome| match outcome {
            Outcome::Rows(spec) => Event::Wanted(spec),
            Outcome::NoPart => Event::Withdrawn,
        })
    }

    /// Whether the objects are closed to this agent.
    fn take(&mut self, word: Word) -> bool {
        match word {
            Word::Closed => return true,
            Word::Gone(kind, name) => self.local.gone(kind, &name),
            Word::Listed(kind, names) => self.local.listed(kind, &names),
            Word::Set(kind, name, object) => self.local.set(kind, &name, &object),
        }
        false
    }
}

/// Says what a node should hold, whoever plans it, until nobody listens.
pub(crate) async fn follow(client: Client, node: &str, plan: Plan, out: UnboundedSender<News>) {
    let mut configs = (plan != Plan::On).then(|| events(client.clone(), node).boxed());
    let mut planning = (plan == Plan::On).then(|| Planning::begin(&client, node));
    loop {
        let news = tokio::select! {
            biased;
            Some(Some(news)) = OptionFuture::from(configs.as_mut().map(|configs| configs.next())) => {
                match news.event {
                    Event::Withdrawn if plan == Plan::Auto => {
                        if planning.is_none() {
                            info!("there is no NodeConfig for this node; it plans for itself");
                            planning = Some(Planning::begin(&client, node));
                        }
                        continue;
                    }
                    _ => {
                        if planning.take().is_some() {
                            info!("there is a NodeConfig for this node, which counts from now on");
                        }
                        news
                    }
                }
            }
            Some(event) = OptionFuture::from(planning.as_mut().map(Planning::next)) => match event {
                Some(event) => event.into(),
                None => continue,
            },
        };
        if out.unbounded_send(news).is_err() {
            return;
        }
    }
}

/// The objects of a kind. What is closed is asked for again, seldom.
fn words(client: &Client, kind: Kind) -> BoxStream<'static, Word> {
    let api = Api::all_with(client.clone(), &kosmos(kind.word(), kind.plural()));
    let stream = watched(api, watcher::Config::default(), DefaultBackoff::default());
    let state = (stream.boxed(), BTreeSet::new(), false);
    futures::stream::unfold(state, move |(mut stream, mut names, mut is_told)| async move {
        loop {
            let word = match stream.next().await? {
                Ok(event) => {
                    is_told = false;
                    word(kind, event, &mut names)
                }
                Err(error) if is_closed(&error) && is_told => {
                    tokio::time::sleep(CLOSED).await;
                    None
                }
                Err(error) if is_closed(&error) => {
                    warn!(kind = kind.word(), %error, "this agent may not read what it would plan by");
                    is_told = true;
                    Some(Word::Closed)
                }
                Err(error) => {
                    warn!(kind = kind.word(), %error, "the Kubernetes API does not answer; what is known counts");
                    None
                }
            };
            if let Some(word) = word {
                return Some((word, (stream, names, is_told)));
            }
        }
    })
    .boxed()
}

fn word(
    kind: Kind,
    event: watcher::Event<kube::api::DynamicObject>,
    names: &mut BTreeSet<String>,
) -> Option<Word> {
    match event {
        watcher::Event::Init => {
            names.clear();
            None
        }
        watcher::Event::InitDone => Some(Word::Listed(kind, std::mem::take(names))),
        watcher::Event::InitApply(object) => {
            let name = object.metadata.name.clone().unwrap_or_default();
            names.insert(name.clone());
            Some(Word::Set(kind, name, json(object)))
        }
        watcher::Event::Apply(object) => {
            let name = object.metadata.name.clone().unwrap_or_default();
            Some(Word::Set(kind, name, json(object)))
        }
        watcher::Event::Delete(object) => {
            Some(Word::Gone(kind, object.metadata.name.unwrap_or_default()))
        }
    }
}

/// An object as JSON, without the access to a cluster that a Cluster may hold: an agent has no use for it.
fn json(mut object: kube::api::DynamicObject) -> Value {
    if let Some(spec) = object.data.get_mut("spec").and_then(Value::as_object_mut) {
        spec.remove("kubeconfig");
    }
    object.metadata.managed_fields = None;
    // What came as JSON goes as JSON.
    serde_json::to_value(object).unwrap_or_default()
}
