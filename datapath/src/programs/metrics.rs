//! What a program counts, as Prometheus reads it.
//!
//! Labels are words of this program, never text of objects: the number of lines has a bound that is known before it runs.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};

/// A metric: its name, what it says, and whether it only grows.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Metric {
    pub(crate) name: &'static str,
    help: &'static str,
    is_counter: bool,
}

const fn counter(name: &'static str, help: &'static str) -> Metric {
    let is_counter = true;
    Metric {
        name,
        help,
        is_counter,
    }
}

const fn gauge(name: &'static str, help: &'static str) -> Metric {
    let is_counter = false;
    Metric {
        name,
        help,
        is_counter,
    }
}

pub(crate) static BUILD: Metric = gauge(
    "clusterlink_build_info",
    "1, with the version of the program and its word.",
);
pub(crate) static LEADER: Metric = gauge(
    "clusterlink_leader",
    "Whether this replica leads, by Lease.",
);
pub(crate) static TRANSITIONS: Metric = gauge(
    "clusterlink_lease_transitions",
    "How often the Lease has changed hands.",
);
pub(crate) static RENEWALS: Metric = counter(
    "clusterlink_lease_requests_total",
    "Requests about the Lease, by outcome.",
);
pub(crate) static WRITES: Metric = counter(
    "clusterlink_writes_total",
    "Objects written, by kind, verb and outcome.",
);
pub(crate) static WATCH_FAILURES: Metric = counter(
    "clusterlink_watch_failures_total",
    "Failures of lists and watches, by kind.",
);
pub(crate) static RELISTS: Metric = counter(
    "clusterlink_lists_total",
    "Complete lists taken in, by kind.",
);
pub(crate) static OBJECTS: Metric = gauge("clusterlink_objects", "Objects known, by kind.");
pub(crate) static UNREADABLE: Metric = gauge(
    "clusterlink_objects_unreadable",
    "Objects that cannot be read and count as they were before, by kind.",
);
pub(crate) static PLANS: Metric = counter("clusterlink_plans_total", "Plans made.");
pub(crate) static PLAN_SECONDS: Metric = gauge(
    "clusterlink_plan_seconds",
    "How long the last plan took to make.",
);
pub(crate) static TOO_LARGE: Metric = gauge(
    "clusterlink_nodeconfigs_too_large",
    "NodeConfigs that do not fit into the API's store.",
);
pub(crate) static REFUSED: Metric = gauge(
    "clusterlink_nodeconfigs_refused",
    "NodeConfigs that the API did not take.",
);
pub(crate) static GATEWAYS: Metric = gauge(
    "clusterlink_gateways",
    "Gateway nodes elected in this cluster.",
);
pub(crate) static PREFIXES: Metric = gauge(
    "clusterlink_prefixes",
    "Prefixes found in this cluster, of pods and of services.",
);
pub(crate) static LOOKS: Metric = counter(
    "clusterlink_agent_looks_total",
    "Looks at the node's tables, by whether they were as they should be afterwards.",
);

pub(crate) static SESSIONS: Metric = gauge(
    "clusterlink_agent_sessions",
    "Sessions with gateways and standbys, by whether they are up; which ones are lost is in the status of the NodeConfig.",
);
pub(crate) static DETOURS: Metric = gauge(
    "clusterlink_agent_detours",
    "Gateways whose standbys are used in their place, at most 20.",
);
pub(crate) static FAILOVERS: Metric = counter(
    "clusterlink_agent_failovers_total",
    "How often a standby was turned to.",
);
pub(crate) static CUT_OFF: Metric = gauge(
    "clusterlink_agent_cut_off",
    "Whether this node is gateway or standby and has lost all other clusters.",
);

pub(crate) static TOKEN_EXPIRY: Metric = gauge(
    "clusterlink_token_expiry_timestamp_seconds",
    "When the token of a Secret expires that this controller keeps, seconds since 1970.",
);

type Labels = Vec<(&'static str, &'static str)>;

/// The numbers of one process.
#[derive(Debug, Default)]
pub(crate) struct Metrics(Mutex<BTreeMap<(&'static Metric, Labels), f64>>);

impl Metrics {
    /// Counts one more.
    pub(crate) fn count(&self, metric: &'static Metric, labels: &[(&'static str, &'static str)]) {
        let mut values = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *values.entry((metric, labels.to_vec())).or_default() += 1.0;
    }

    /// Says how much there is.
    pub(crate) fn set(
        &self,
        metric: &'static Metric,
        labels: &[(&'static str, &'static str)],
        value: f64,
    ) {
        let mut values = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        values.insert((metric, labels.to_vec()), value);
    }

    /// All of it, as text (version 0.0.4).
    pub(crate) fn text(&self) -> String {
        let values = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut text = String::new();
        let mut last = None;
        for ((metric, labels), value) in values.iter() {
            // Writing to a String cannot fail.
            if last != Some(metric) {
                let kind = if metric.is_counter {
                    "counter"
                } else {
                    "gauge"
                };
                let _ = writeln!(text, "# HELP {} {}", metric.name, metric.help);
                let _ = writeln!(text, "# TYPE {} {kind}", metric.name);
                last = Some(metric);
            }
            let labels: Vec<String> = labels
                .iter()
                .map(|(name, word)| format!("{name}=\"{word}\""))
                .collect();
            let labels = if labels.is_empty() {
                String::new()
            } else {
                format!("{{{}}}", labels.join(","))
            };
            let _ = writeln!(text, "{}{labels} {value}", metric.name);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_what_prometheus_reads() {
        let metrics = Metrics::default();
        metrics.count(&WRITES, &[("kind", "NodeConfig"), ("outcome", "done")]);
        metrics.count(&WRITES, &[("kind", "NodeConfig"), ("outcome", "done")]);
        metrics.set(&PLAN_SECONDS, &[], 0.25);
        let text = metrics.text();
        let lines: Vec<&str> = text
            .lines()
            .filter(|line| !line.starts_with("# HELP"))
            .collect();
        assert_eq!(
            lines,
            [
                "# TYPE clusterlink_plan_seconds gauge",
                "clusterlink_plan_seconds 0.25",
                "# TYPE clusterlink_writes_total counter",
                "clusterlink_writes_total{kind=\"NodeConfig\",outcome=\"done\"} 2",
            ]
        );
    }
}
