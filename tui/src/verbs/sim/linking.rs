//! The clusters of a fleet that the fleet does not link itself, linked as `link install` and `join` do it.

use std::path::Path;

use datapath::api;
use orchestrator::link::{self, Install, Join, Link, Outcome as Came, Settings};
use simulator::topology::{Cluster, Mode, Topology};

use crate::cli::link::At;
use crate::exit::Failure;
use crate::progress::Progress;
use crate::signals::Interrupt;
use crate::verbs::link::{Deed, place};

/// Installs the control plane in the first cluster, and has all others join it.
///
/// # Errors
/// The first deed that fails.
pub(super) async fn link(
    topology: &Topology,
    kubeconfig: &Path,
    interrupt: &Interrupt,
    progress: Progress,
) -> Result<(), Failure> {
    let Some((host, members)) = topology.clusters.split_first() else {
        return Ok(());
    };
    let at = |cluster: &Cluster| {
        let at = At {
            kubeconfig: Some(kubeconfig.to_owned()),
            context: Some(cluster.name.clone()),
        };
        place(&at, None)
    };
    // What they make goes with the fleet.
    let deed = Deed::begin(progress, interrupt, String::new(), "");
    let install = Install {
        settings: settings(host),
        place: at(host)?,
        dry_run: false,
        name: host.name.clone(),
    };
    linked(link::install(&install, &deed.context).await?, host)?;
    for member in members {
        let join = Join {
            settings: settings(member),
            name: member.name.clone(),
            place: at(member)?,
            host: at(host)?,
            dry_run: false,
        };
        linked(link::join(&join, &deed.context).await?, member)?;
    }
    deed.end();
    Ok(())
}

fn settings(cluster: &Cluster) -> Settings {
    let standard = Settings::default();
    Settings {
        link: Link {
            network_type: match cluster.mode {
                Mode::Gateway => api::NetworkType::Gateway,
                Mode::P2p => api::NetworkType::P2p,
            },
            ip_family: cluster.family.to_string(),
            global_cidrs: cluster.global_cidrs_map.clone(),
            ..standard.link
        },
        ..standard
    }
}

fn linked(came: Came, cluster: &Cluster) -> Result<(), Failure> {
    match came {
        Came::Linked { .. } | Came::Planned(_) => Ok(()),
        Came::Failing { report, .. } => Err(Failure::Failed(format!(
            "linking {}: packets do not pass ({})",
            cluster.name,
            serde_json::to_string(&report.verdict).unwrap_or_default()
        ))),
    }
}
