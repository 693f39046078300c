//! `link install`, `join`, `unjoin`, `uninstall` and `upgrade`: the datapath deploys itself.

use std::path::Path;
use std::sync::Arc;

use datapath::api;
use orchestrator::link::{
    self, Context, Install, Join, Outcome as Came, Place, Removed, Settings, Told, Uninstall,
    Unjoin, Upgrade,
};
use orchestrator::{Error, inventory};
use tokio::sync::watch;

use crate::cli::diagnosis::Judge;
use crate::cli::link::{
    AgentsPlan, At, Cni, Host, IpFamilies, LinkInstall, LinkJoin, LinkUninstall, LinkUnjoin,
    LinkUpgrade, NetworkType, Part, Programs, Removal,
};
use crate::exit::{FOUND, Failure, OK, Outcome};
use crate::output::{self, Format, Output};
use crate::progress::{self, Progress};
use crate::render;
use crate::signals::Interrupt;

/// What the control plane's own cluster is called where nobody says otherwise, as in Kosmos.
const CONTROL_CLUSTER: &str = "kosmos-control-cluster";

pub(in crate::verbs) async fn install(
    arguments: &LinkInstall,
    color: bool,
    progress: Progress,
    interrupt: &Interrupt,
) -> Outcome {
    let name = arguments
        .cluster_name
        .clone()
        .unwrap_or_else(|| CONTROL_CLUSTER.to_owned());
    let order = Install {
        settings: settings(&arguments.programs, &arguments.part),
        place: place(&arguments.at, arguments.inner_kubeconfig.as_deref())?,
        dry_run: arguments.programs.dry_run,
        name,
    };
    let deed = Deed::begin(
        progress,
        interrupt,
        format!("what was installed in {}", order.name),
        "`floaterctl link uninstall` removes it",
    );
    let came = link::install(&order, &deed.context).await;
    deed.end();
    linked(came?, &order.name, color, progress)
}

pub(in crate::verbs) async fn join(
    arguments: &LinkJoin,
    color: bool,
    progress: Progress,
    interrupt: &Interrupt,
) -> Outcome {
    let member = named(&arguments.at)?;
    let order = Join {
        settings: settings(&arguments.programs, &arguments.part),
        name: arguments.name.clone(),
        place: member.ok_or_else(|| {
            Failure::Usage("link join needs the cluster's --kubeconfig or --context".to_owned())
        })?,
        host: place(
            &host_of(&arguments.host),
            arguments.host_inner_kubeconfig.as_deref(),
        )?,
        dry_run: arguments.programs.dry_run,
    };
    let remedy = format!(
        "`floaterctl link unjoin --name {} --force` removes it",
        order.name
    );
    let deed = Deed::begin(
        progress,
        interrupt,
        format!("what was made for {}", order.name),
        &remedy,
    );
    let came = link::join(&order, &deed.context).await;
    deed.end();
    linked(came?, &order.name, color, progress)
}

pub(in crate::verbs) async fn unjoin(
    arguments: &LinkUnjoin,
    progress: Progress,
    interrupt: &Interrupt,
) -> Outcome {
    let standard = Settings::default();
    let order = Unjoin {
        name: arguments.name.clone(),
        namespace: namespace(&arguments.removal),
        place: named(&arguments.at)?,
        host: place(&host_of(&arguments.host), None)?,
        wait: arguments.removal.wait.unwrap_or(standard.wait),
        force: arguments.force,
        dry_run: arguments.removal.dry_run,
    };
    let deed = Deed::begin(progress, interrupt, String::new(), "");
    let removed = link::unjoin(&order, &deed.context).await;
    deed.end();
    removal(&removed?, order.dry_run)
}

pub(in crate::verbs) async fn uninstall(
    arguments: &LinkUninstall,
    progress: Progress,
    interrupt: &Interrupt,
) -> Outcome {
    let order = Uninstall {
        namespace: namespace(&arguments.removal),
        place: place(&arguments.at, None)?,
        wait: arguments.removal.wait.unwrap_or(Settings::default().wait),
        force: arguments.force,
        dry_run: arguments.removal.dry_run,
    };
    let deed = Deed::begin(progress, interrupt, String::new(), "");
    let removed = link::uninstall(&order, &deed.context).await;
    deed.end();
    removal(&removed?, order.dry_run)
}

pub(in crate::verbs) async fn upgrade(
    arguments: &LinkUpgrade,
    progress: Progress,
    interrupt: &Interrupt,
) -> Outcome {
    let standard = Settings::default();
    let contexts: Vec<Option<String>> = match arguments.context.as_slice() {
        [] => vec![None],
        named => named.iter().cloned().map(Some).collect(),
    };
    let deed = Deed::begin(progress, interrupt, String::new(), "");
    let (mut text, mut failed) = (String::new(), None);
    for context in contexts {
        let at = At {
            kubeconfig: arguments.kubeconfig.clone(),
            context,
        };
        let place = place(&at, None)?;
        let name = place.kubeconfig.context.clone();
        let order = Upgrade {
            namespace: arguments
                .namespace
                .clone()
                .unwrap_or_else(|| standard.namespace.clone()),
            version: arguments
                .version
                .clone()
                .unwrap_or_else(|| standard.version.clone()),
            image_repository: arguments.image_repository.clone(),
            wait: arguments.wait.unwrap_or(standard.wait),
            dry_run: arguments.dry_run,
            place: (name.clone(), place),
        };
        let changed = match link::upgrade(&order, &deed.context).await {
            Ok(changed) => changed,
            Err(error @ Error::Interrupted { .. }) => {
                failed = Some(error);
                break;
            }
            // One that fails costs itself: the others get theirs.
            Err(error) => {
                text += &format!("{name}: not upgraded\n");
                match &failed {
                    None => failed = Some(error),
                    Some(_) => progress::warn(format_args!("{name}: {error}")),
                }
                continue;
            }
        };
        if changed.is_empty() {
            text += &format!("{name}: every program has {} already\n", order.version);
        }
        for line in changed {
            text += &format!("{name}: {line}\n");
        }
    }
    deed.end();
    output::print(&text)?;
    match failed {
        Some(error) => Err(error.into()),
        None => Ok(OK),
    }
}

/// A deed that is being done: what is told of it goes to stderr, and an interruption ends it.
pub(in crate::verbs) struct Deed {
    pub(in crate::verbs) context: Context,
    interrupt: Interrupt,
    made: String,
}

impl Deed {
    pub(in crate::verbs) fn begin(
        progress: Progress,
        interrupt: &Interrupt,
        made: String,
        remedy: &str,
    ) -> Self {
        let (over, stop) = watch::channel(false);
        let come = interrupt.clone();
        tokio::spawn(async move {
            come.come().await;
            over.send_replace(true);
            // Whoever looks later learns it from the value.
            over.closed().await;
        });
        if !made.is_empty() {
            interrupt.made(made.clone(), remedy);
        }
        let tell = move |told: Told| match told {
            Told::Phase(text) => progress.say(text),
            Told::Done(text) => progress.detail(text),
            Told::Waiting(text) => {
                progress.waits(&text);
                progress.detail(format_args!("waiting for {text}"));
            }
            Told::Warning(text) => progress::warn(text),
        };
        Self {
            context: Context {
                tell: Arc::new(tell),
                stop,
            },
            interrupt: interrupt.clone(),
            made,
        }
    }

    pub(in crate::verbs) fn end(self) {
        self.interrupt.removed(&self.made);
        progress::end();
    }
}

/// A cluster by the file and context that name it; as kubectl finds it where nothing does.
pub(in crate::verbs) fn place(at: &At, inner: Option<&Path>) -> Result<Place, Failure> {
    let inner = inner
        .map(|file| inventory::selected(Some(file), None))
        .transpose()?;
    Ok(Place {
        kubeconfig: inventory::selected(at.kubeconfig.as_deref(), at.context.as_deref())?,
        inner,
    })
}

/// A cluster, where anything names it: one that joins or leaves is none that somebody happens to have.
fn named(at: &At) -> Result<Option<Place>, Failure> {
    match at {
        At {
            kubeconfig: None,
            context: None,
        } => Ok(None),
        at => place(at, None).map(Some),
    }
}

/// The control plane of somebody else's deed.
fn host_of(host: &Host) -> At {
    At {
        kubeconfig: host.host_kubeconfig.clone(),
        context: host.host_context.clone(),
    }
}

fn settings(programs: &Programs, part: &Part) -> Settings {
    let standard = Settings::default();
    Settings {
        namespace: programs.namespace.clone().unwrap_or(standard.namespace),
        image_repository: programs
            .image_repository
            .clone()
            .unwrap_or(standard.image_repository),
        version: programs.version.clone().unwrap_or(standard.version),
        pull_secrets: programs.image_pull_secret.clone(),
        plan: match programs.plan.unwrap_or_default() {
            AgentsPlan::Auto => link::AgentsPlan::Auto,
            AgentsPlan::Off => link::AgentsPlan::Off,
            AgentsPlan::On => link::AgentsPlan::On,
        },
        standby: programs.standby,
        gateways: programs.gateways.unwrap_or(standard.gateways),
        wait: programs.wait.unwrap_or(standard.wait),
        link: link::Link {
            network_type: match part.network_type.unwrap_or_default() {
                NetworkType::Gateway => api::NetworkType::Gateway,
                NetworkType::P2p => api::NetworkType::P2p,
            },
            ip_family: match part.ip_family.unwrap_or_default() {
                IpFamilies::All => "all",
                IpFamilies::Ipv4 => "ipv4",
                IpFamilies::Ipv6 => "ipv6",
            }
            .to_owned(),
            cni: match part.cni.unwrap_or_default() {
                Cni::Calico => "calico",
                Cni::Cilium => "cilium",
                Cni::Flannel => "flannel",
                Cni::Generic => "generic",
            }
            .to_owned(),
            default_nic: part
                .default_nic
                .clone()
                .unwrap_or(standard.link.default_nic),
            global_cidrs: part.global_cidr.iter().cloned().collect(),
        },
    }
}

fn namespace(removal: &Removal) -> String {
    removal
        .namespace
        .clone()
        .unwrap_or_else(|| Settings::default().namespace)
}

/// What came of `install` or `join`.
fn linked(came: Came, name: &str, color: bool, progress: Progress) -> Outcome {
    match came {
        Came::Planned(planned) => {
            let text = output::manifests(&planned)?;
            output::write(&Output::stdout(Format::Table), &text)?;
            Ok(OK)
        }
        Came::Linked { cells: 0 } => {
            output::print(&format!(
                "{name} is linked; there is no other cluster yet\n"
            ))?;
            Ok(OK)
        }
        Came::Linked { cells } => {
            output::print(&format!(
                "{name} is linked: packets pass ({} to and from the control plane's cluster)\n",
                output::counted(cells, "cell")
            ))?;
            Ok(OK)
        }
        Came::Failing { report, left } => {
            render::write(&report, &Judge::default(), false, color, progress)?;
            for what in &left {
                progress::warn(format_args!("not taken back: {what}"));
            }
            Ok(FOUND)
        }
    }
}

/// What came of a removal.
fn removal(removed: &Removed, dry_run: bool) -> Outcome {
    let (word, stays) = if dry_run {
        ("would remove", "would stay")
    } else {
        ("removed", "stays")
    };
    let mut text = String::new();
    for what in &removed.removed {
        text += &format!("{word} {what}\n");
    }
    for what in &removed.left {
        text += &format!("{stays}: {what}\n");
    }
    if text.is_empty() {
        text = "Nothing to remove: floaterctl has installed nothing here.\n".to_owned();
    }
    output::print(&text)?;
    Ok(OK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let missing = At {
            kubeconfig: Some("/nonexistent/kubeconfig".into()),
            context: None,
        };
        let failure = place(&missing, None).expect_err("there is none");
        assert_eq!(failure.code(), 65);
        assert!(
            failure.to_string().contains("/nonexistent/kubeconfig"),
            "{failure}"
        );
    }
}
