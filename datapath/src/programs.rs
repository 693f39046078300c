//! The programs of the control plane: what [`crate::control`] decides, done over the Kubernetes API (feature `clusterlink`).
//!
//! ```text
//!   watches ──events──► engine ──commands──► requests ──outcomes──┐
//!   Lease ──leads, or not──► │ ◄──────────────────────────────────┘
//!                            └─ who does not lead takes events in and asks for nothing
//! ```
//!
//! Every request that writes ends the moment its program no longer leads. What becomes of it then is what the API says next.

pub(crate) mod access;
mod controller;
mod cut_off;
mod detecting;
mod elector;
mod leader;
mod manager;
pub(crate) mod metrics;
mod news;
mod objects;
mod planning;
pub(crate) mod served;
mod tokens;
mod told;

pub(crate) use controller::controller;
pub(crate) use cut_off::cut_off;
pub(crate) use detecting::detect;
pub(crate) use elector::elector;
pub(crate) use manager::manager;
pub(crate) use planning::{Plan, follow};

use std::sync::Arc;
use std::time::{Duration, Instant};

use kube::Client;
use tokio::sync::watch;

use crate::control::configs::Mode;
use crate::control::lease::Timing;
use crate::rbac::{CONTROLLER_LEASE, ELECTOR_LEASE, MANAGER_LEASE};
use metrics::Metrics;
use served::Readiness;

/// The longest that anybody waits for the answer to a request that writes.
const PATIENCE: Duration = Duration::from_secs(10);

/// What every program is given.
#[derive(Clone)]
pub(crate) struct Common {
    /// Which replica this is.
    pub(crate) identity: String,
    /// Where its Lease is.
    pub(crate) namespace: String,
    /// How long it lasts.
    pub(crate) timing: Timing,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) readiness: Readiness,
    /// True once the program has to end.
    pub(crate) stop: watch::Receiver<bool>,
}

impl Common {
    /// Returns once the program has to end.
    async fn stopped(&mut self) {
        // Whoever could say so is gone: that is an end, too.
        let _ = self.stop.wait_for(|is_over| *is_over).await;
    }
}

/// A member cluster as its controller and elector reach it.
#[derive(Clone)]
pub(crate) struct Cluster {
    /// Its name.
    pub(crate) name: String,
    /// Its own API.
    pub(crate) member: Client,
    /// The API with the objects of all clusters.
    pub(crate) control: Client,
}

/// What the manager is told on its command line.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Managing {
    pub(crate) mode: Mode,
    /// Bytes of JSON.
    pub(crate) limit: usize,
}

/// Time since a program began, by a clock that never goes back.
#[derive(Debug, Clone, Copy)]
struct Clock(Instant);

impl Clock {
    fn start() -> Self {
        Self(Instant::now())
    }

    fn now(self) -> Duration {
        self.0.elapsed()
    }

    /// Returns at a moment; never where there is none.
    async fn at(self, moment: Option<Duration>) {
        match moment {
            Some(moment) => tokio::time::sleep_until((self.0 + moment).into()).await,
            None => std::future::pending().await,
        }
    }
}
