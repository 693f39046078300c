//! The first phase: every cluster is looked at, a bounded number at a time, each for a bounded time of its own.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::patience::{FirstAnswer, Patience};

/// How long the first answer of a cluster may take as long as no other has answered, and how long once one has: everybody else waits
/// for it before probes are planned.
const FIRST_ANSWER: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(10));
/// How long a cluster that does not answer is waited for at least once the others have answered.
const LATE: Duration = Duration::from_secs(8);

/// The clusters that are being looked at.
#[derive(Debug)]
pub(super) struct Looking {
    queue: VecDeque<usize>,
    under_way: BTreeMap<usize, UnderWay>,
    at_once: usize,
    patience: Patience,
    first: FirstAnswer,
    /// What one may take by the operator's word.
    limit: Option<Duration>,
    /// Whoever has not answered by then leaves the others the time to be judged.
    deadline: Duration,
}

#[derive(Debug)]
struct UnderWay {
    began: Duration,
    answered: bool,
}

impl Looking {
    /// Of clusters that all have half of the time until `end`.
    pub(super) fn new(
        clusters: std::ops::Range<usize>,
        now: Duration,
        end: Duration,
        at_once: usize,
        limit: Option<Duration>,
    ) -> Self {
        let deadline = now + end.saturating_sub(now) / 2;
        let (alone, others) = limit.map_or(FIRST_ANSWER, |limit| (limit, limit));
        Self {
            patience: Patience::new(clusters.len(), LATE, deadline),
            queue: clusters.collect(),
            under_way: BTreeMap::new(),
            at_once,
            first: FirstAnswer {
                alone,
                others,
                heard: None,
            },
            limit,
            deadline,
        }
    }

    /// Those that begin now.
    pub(super) fn begin(&mut self, now: Duration) -> Vec<usize> {
        let free = self.at_once.saturating_sub(self.under_way.len());
        let begun: Vec<usize> = self.queue.drain(..free.min(self.queue.len())).collect();
        for &cluster in &begun {
            let answered = false;
            let began = now;
            self.under_way.insert(cluster, UnderWay { began, answered });
        }
        begun
    }

    /// The first answer of a cluster.
    pub(super) fn answered(&mut self, cluster: usize, now: Duration) {
        if let Some(under_way) = self.under_way.get_mut(&cluster) {
            under_way.answered = true;
            // A refusal comes at once and says nothing about how long an answer takes; it is no answer here.
            self.first.heard.get_or_insert(now);
        }
    }

    /// A look has ended; false where it was not waited for.
    pub(super) fn ended(&mut self, cluster: usize, now: Duration, ok: bool) -> bool {
        let Some(under_way) = self.under_way.remove(&cluster) else {
            return false;
        };
        if ok {
            self.patience
                .answered(now, now.saturating_sub(under_way.began));
        }
        true
    }

    pub(super) fn is_done(&self) -> bool {
        self.queue.is_empty() && self.under_way.is_empty()
    }

    /// Those that are given up now, and why; `true` where the look has begun.
    pub(super) fn overdue(&mut self, now: Duration) -> Vec<(usize, String, bool)> {
        let mut gone: Vec<(usize, String, bool)> = Vec::new();
        for (&cluster, under_way) in &self.under_way {
            let (until, _) = self.until(under_way);
            if until <= now {
                gone.push((cluster, self.why(under_way, now), true));
            }
        }
        for (cluster, ..) in &gone {
            self.under_way.remove(cluster);
        }
        if self.deadline <= now {
            let late = self.queue.drain(..);
            gone.extend(late.map(|cluster| (cluster, HALF.to_owned(), false)));
        }
        gone
    }

    /// Everything that has not ended; `true` where the look has begun.
    pub(super) fn stop(&mut self) -> Vec<(usize, bool)> {
        let under_way = std::mem::take(&mut self.under_way).into_keys();
        let under_way = under_way.map(|cluster| (cluster, true));
        under_way
            .chain(self.queue.drain(..).map(|cluster| (cluster, false)))
            .collect()
    }

    /// When the next one is given up if nothing comes.
    pub(super) fn wakes_at(&self) -> Option<Duration> {
        let each = self
            .under_way
            .values()
            .map(|under_way| self.until(under_way).0);
        let queue = (!self.queue.is_empty()).then_some(self.deadline);
        each.chain(queue).min()
    }

    /// Until when a look is waited for, and by which rule.
    fn until(&self, under_way: &UnderWay) -> (Duration, Rule) {
        let began = under_way.began;
        let first = (!under_way.answered).then(|| (self.first.until(began), Rule::First));
        let limit = self.limit.map(|limit| (began + limit, Rule::Limit));
        // Of a pair that somebody named the slower is waited for.
        let fair = match self.limit {
            None if !self.patience.is_of_few() => self.patience.fair(),
            _ => None,
        };
        let fair = fair.map(|fair| (began + fair, Rule::Fair));
        let rules = first.into_iter().chain(limit).chain(fair);
        rules.fold((self.deadline, Rule::Deadline), |soonest, rule| {
            if rule.0 < soonest.0 { rule } else { soonest }
        })
    }

    fn why(&self, under_way: &UnderWay, now: Duration) -> String {
        let waited = now.saturating_sub(under_way.began).as_secs_f64();
        match self.until(under_way).1 {
            Rule::Deadline => HALF.to_owned(),
            Rule::Fair => format!(
                "it has not answered after {waited:.1} s, when the other clusters had long done so"
            ),
            Rule::First => {
                format!("API server unreachable: no answer within {waited:.1} s")
            }
            Rule::Limit => format!(
                "it did not answer within {} s",
                self.limit.unwrap_or_default().as_secs_f64()
            ),
        }
    }
}

const HALF: &str = "half of the run's time (--timeout) was up before it answered";

/// By which rule a look is given up.
#[derive(Debug, Clone, Copy)]
enum Rule {
    Deadline,
    Fair,
    First,
    Limit,
}
