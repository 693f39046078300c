//! What a run is told to do.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::Progress;
use super::record::Recorder;
use crate::Error;
use crate::inventory::{InventoryOptions, Target};
use crate::probe_plan::What;

/// What a run is to do. [`RunOptions::default`] asks for everything, of nothing.
#[derive(Clone)]
pub struct RunOptions {
    /// Which clusters.
    pub inventory: InventoryOptions,
    /// Clusters that are reached otherwise than by [`RunOptions::inventory`], which then is not looked at.
    pub targets: Vec<Target>,
    /// What to judge of them.
    pub what: What,
    /// The floaters' namespace.
    pub namespace: String,
    /// Where the floaters' image comes from.
    pub image_repository: String,
    /// The same for the destination of a pair.
    pub dst_image_repository: Option<String>,
    /// The image's tag.
    pub version: String,
    /// The floaters' port; their API has the next one.
    pub port: u16,
    /// How long a cluster's floaters may take to become ready.
    pub pod_wait: Duration,
    /// The most packets that a floater sends in a second.
    pub budget_pps: u32,
    /// How many times to probe.
    pub rounds: u32,
    /// How long the whole run may take; what it has by then is judged.
    pub timeout: Option<Duration>,
    /// How long one cluster may take until it is given up; without, 30 s for its first answer (10 s once another has answered),
    /// and of three or more clusters the slow ones three times as long as the faster half.
    pub cluster_timeout: Option<Duration>,
    /// Names of Secrets in the floaters' namespace that hold credentials for their image's registry.
    pub image_pull_secrets: Vec<String>,
    /// A ServiceAccount of the floaters' namespace that is there already: used, neither made nor removed. Without, a run makes its own.
    pub service_account: Option<String>,
    /// The cluster that is the control plane, by the name of its context, where several claim to be it.
    pub control_plane: Option<String>,
    /// Leave the floaters in place; they expire after a day.
    pub keep: bool,
    /// Whether to send probes; without, intent is compared with the tables alone.
    pub probe: bool,
    /// Where everything that comes in is kept.
    pub record: Option<Arc<Recorder>>,
    /// The record of a run to go on with: its inventory, what it judges and its seed are taken from there.
    pub resume: Option<PathBuf>,
    /// Told what happens while it does.
    pub progress: Arc<dyn Fn(Progress) + Send + Sync>,
}

impl Default for RunOptions {
    fn default() -> Self {
        Self {
            inventory: InventoryOptions::default(),
            targets: Vec::new(),
            what: What::default(),
            namespace: "kosmos-system".to_owned(),
            image_repository: "ghcr.io/kosmos-io".to_owned(),
            dst_image_repository: None,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            port: floater::wire::PORT,
            pod_wait: Duration::from_secs(30),
            budget_pps: 1000,
            rounds: 1,
            timeout: None,
            cluster_timeout: None,
            image_pull_secrets: Vec::new(),
            service_account: None,
            control_plane: None,
            keep: false,
            probe: true,
            record: None,
            resume: None,
            progress: Arc::new(|_| {}),
        }
    }
}

impl RunOptions {
    /// Whether they can be meant.
    ///
    /// # Errors
    /// [`Error::Usage`] with the option and the rule that it breaks.
    pub(super) fn check(&self) -> Result<(), Error> {
        let options = self;
        let usage = |why: &str| Err(Error::Usage(why.to_owned()));
        if !datapath::printable::is_dns_label(&options.namespace) {
            return usage("--namespace is not a DNS label");
        }
        if options.port == 0 || options.port == u16::MAX {
            return usage("--port has to leave room for the next one");
        }
        if options.budget_pps == 0 || options.rounds == 0 {
            return usage("--budget and --rounds have to be at least 1");
        }
        for (option, name) in options
            .image_pull_secrets
            .iter()
            .map(|name| ("--image-pull-secret", name))
            .chain(
                options
                    .service_account
                    .iter()
                    .map(|name| ("--service-account", name)),
            )
        {
            if !datapath::printable::is_object_name(name) {
                return usage(&format!("{option} is not the name of a Kubernetes object"));
            }
        }
        let tag = &options.version;
        let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        if tag.is_empty() || tag.len() > 128 || !tag.chars().all(good) {
            return usage("--version is not an image tag");
        }
        let what = &options.what;
        for (option, patterns) in [
            ("--contexts", &options.inventory.contexts),
            ("--nodes", &what.nodes),
            ("--sources", &what.sources),
            ("--destinations", &what.destinations),
        ] {
            for pattern in patterns {
                if let Err(why) = pattern.check() {
                    return usage(&format!("{option}: {why}"));
                }
            }
        }
        Ok(())
    }
}
