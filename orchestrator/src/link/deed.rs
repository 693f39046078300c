//! One deed: its steps are planned and tried, told, carried out, and taken back where it fails.

use std::collections::BTreeSet;

use super::apply::{self, Act, Ledger, Refusal, Step};
use super::cluster::Cluster;
use super::objects::Object;
use super::{Context, Told};
use crate::Error;

/// The steps that would make these objects, and why some cannot be made. `coming` is a namespace that another step makes before.
pub(super) async fn planned(
    cluster: &Cluster,
    objects: Vec<Object>,
    coming: Option<&str>,
) -> (Vec<Step>, Vec<Refusal>) {
    let (mut steps, mut refusals) = (Vec::new(), Vec::new());
    let mut coming: BTreeSet<String> = coming.into_iter().map(str::to_owned).collect();
    for object in objects {
        let namespace = object.value["metadata"]["namespace"].as_str();
        let waits = namespace.is_some_and(|name| coming.contains(name));
        match apply::step(cluster, object, !waits).await {
            Ok(step) => {
                if step.object.kind == "Namespace" && step.act == Act::Create {
                    coming.insert(step.object.name().to_owned());
                }
                steps.push(step);
            }
            Err(refusal) => refusals.push(refusal),
        }
    }
    (steps, refusals)
}

/// Without the objects of namespaces that are not there and are nobody's of ours: what they would allow is not there either.
pub(super) async fn possible(
    cluster: &Cluster,
    own: &str,
    objects: Vec<Object>,
) -> Result<Vec<Object>, Error> {
    let mut absent = BTreeSet::new();
    for object in &objects {
        let namespace = object.value["metadata"]["namespace"].as_str();
        let Some(namespace) = namespace.filter(|name| *name != own && !absent.contains(*name))
        else {
            continue;
        };
        let held = cluster
            .get(&format!("/api/v1/namespaces/{namespace}"))
            .await;
        let held = held.map_err(|failure| Error::Missing {
            what: format!("namespace {namespace} of {}", cluster.name),
            why: failure.to_string(),
        })?;
        if held.is_none() {
            absent.insert(namespace.to_owned());
        }
    }
    let is_possible = |object: &Object| {
        let namespace = object.value["metadata"]["namespace"].as_str();
        namespace.is_none_or(|name| !absent.contains(name))
    };
    Ok(objects.into_iter().filter(is_possible).collect())
}

/// A deed that is being done.
pub(super) struct Deed<'a> {
    pub(super) context: &'a Context,
    ledger: Ledger,
}

impl<'a> Deed<'a> {
    pub(super) fn new(context: &'a Context) -> Self {
        Self {
            context,
            ledger: Ledger::default(),
        }
    }

    /// Carries steps out, one after the other.
    pub(super) async fn carry_out(&mut self, steps: &[Step]) -> Result<(), Error> {
        for step in steps {
            if self.context.is_stopped() {
                return Err(Error::Interrupted { left: Vec::new() });
            }
            let applied = self.ledger.apply(step).await;
            applied.map_err(|Refusal(why)| Error::Missing {
                what: "the deed".to_owned(),
                why,
            })?;
            if !matches!(step.act, Act::Keep | Act::Adopt) {
                self.context.say(Told::Done(step.words()));
            }
        }
        Ok(())
    }

    /// Takes everything back; what could not be, and why.
    pub(super) async fn undo(self) -> Vec<String> {
        if self.ledger.is_empty() {
            return Vec::new();
        }
        self.context
            .say(Told::Phase("taking back what was done".to_owned()));
        let tell = |words: String| self.context.say(Told::Done(words));
        self.ledger.undo(&tell).await
    }

    /// What an error is once everything was taken back.
    pub(super) async fn failed(self, error: Error) -> Error {
        let left = self.undo().await;
        match error {
            Error::Interrupted { .. } => Error::Interrupted { left },
            error if left.is_empty() => error,
            error => Error::Missing {
                what: error.to_string(),
                why: format!("and not taken back: {}", left.join("; ")),
            },
        }
    }
}

/// One error of several refusals.
pub(super) fn refused(refusals: &[Refusal]) -> Error {
    let words: Vec<&str> = refusals.iter().map(|Refusal(why)| why.as_str()).collect();
    Error::Missing {
        what: match refusals.len() {
            1 => "it cannot be done".to_owned(),
            several => format!("it cannot be done, for {several} reasons"),
        },
        why: words.join("\n  "),
    }
}
