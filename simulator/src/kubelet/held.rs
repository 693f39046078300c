//! The programs of the datapath that run as pods, which stand still where a lab is frozen.

use std::sync::PoisonError;

use netns_harness::process::Other;
use nix::sys::signal::Signal;
use serde_json::Value;

use super::workload::Workload;
use super::{Kubelet, text};

/// A program of the datapath that runs.
#[derive(Debug)]
pub(super) struct Held {
    process: Other,
    /// The node whose agent it is; none where it is another program.
    agent_of: Option<String>,
}

impl Kubelet {
    /// Has the datapath's programs stand still or go on, as the freezer says now.
    pub(crate) fn hold(&self) {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.values().for_each(|program| self.heed(program));
    }

    /// Stops a program, or lets it go on. A node's freezing is its agent's alone: whatever else runs there is its cluster's.
    fn heed(&self, program: &Held) {
        let is_still = match &program.agent_of {
            Some(node) => self.freezer.node(&self.cluster, node),
            None => self.freezer.cluster(&self.cluster),
        };
        let signal = if is_still {
            Signal::SIGSTOP
        } else {
            Signal::SIGCONT
        };
        program.process.signal(signal);
    }

    /// Takes note of a program of the datapath that was started.
    pub(super) fn keep(&self, key: &str, object: &Value, workload: &Workload) {
        let process = workload.id().and_then(|id| Other::find(id).ok().flatten());
        let Some(process) = process else { return };
        let is_agent = object.pointer("/spec/containers/0/args/0") == Some(&"agent".into());
        let program = Held {
            process,
            agent_of: is_agent.then(|| text(object, "/spec/nodeName").to_owned()),
        };
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        self.heed(&program);
        held.insert(key.to_owned(), program);
    }
}
