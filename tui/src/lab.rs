//! A simulated fleet that belongs to this command: it is removed on every way out.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use simulator::control::{self, Caller, Phase, Step};
use simulator::topology::{self, Topology};

use crate::cli::sim::{Families, Mode, Shape};
use crate::exit::Failure;
use crate::output;
use crate::progress::{self, Progress};
use crate::signals::Interrupt;

/// The words by which this program becomes the lab's process, a floater, a datapath agent.
pub const HIDDEN_LAB: &str = "__lab";
/// See [`HIDDEN_LAB`].
pub const HIDDEN_FLOATER: &str = "__floater";
/// See [`HIDDEN_LAB`].
pub const HIDDEN_CLUSTERLINK: &str = "__clusterlink";

/// How the simulator starts this program again.
///
/// # Errors
/// [`Failure::Missing`] when the program cannot tell its own file.
pub fn caller() -> Result<Caller, Failure> {
    let program = std::env::current_exe()
        .map_err(|error| Failure::Missing(format!("the program's own file: {error}")))?;
    Ok(Caller {
        program,
        lab_verb: vec![OsString::from(HIDDEN_LAB)],
        floater_verb: vec![OsString::from(HIDDEN_FLOATER)],
        clusterlink_verb: vec![OsString::from(HIDDEN_CLUSTERLINK)],
    })
}

/// The topology of a shape, with the defaults of the command line.
///
/// # Errors
/// [`Failure::Input`] for what the simulator refuses.
pub fn generated(shape: &Shape, clusters: u32) -> Result<Topology, Failure> {
    let mode = match shape.mode.unwrap_or_default() {
        Mode::Gateway => topology::ModeChoice::Gateway,
        Mode::Mixed => topology::ModeChoice::Mixed,
        Mode::P2p => topology::ModeChoice::P2p,
    };
    let family = match shape.family.unwrap_or_default() {
        Families::All => topology::FamilyChoice::All,
        Families::Ipv4 => topology::FamilyChoice::Ipv4,
        Families::Ipv6 => topology::FamilyChoice::Ipv6,
    };
    let clusters = shape.clusters.unwrap_or(clusters) as usize;
    let nodes = shape.nodes.unwrap_or(2) as usize;
    Ok(topology::generated(clusters, nodes, mode, family)?)
}

/// Builds a fleet; an interruption removes what has been built by then. A tied one ends with this process.
///
/// # Errors
/// The simulator's, and [`Failure::Interrupted`].
pub async fn build(
    topology: Topology,
    name: String,
    tied: bool,
    interrupt: &Interrupt,
    progress: Progress,
) -> Result<control::Lab, Failure> {
    let caller = caller()?;
    let is_unlinked = topology.is_unlinked();
    let nodes: usize = topology
        .clusters
        .iter()
        .map(|cluster| cluster.nodes.len())
        .sum();
    let clusters = topology.clusters.len();
    progress.say(format_args!(
        "{name}: building {}, {}",
        output::counted(clusters, "cluster"),
        output::counted(nodes, "node")
    ));
    // A fleet of this name that is up already is somebody else's, and has to outlive an interruption of this command.
    let taken = control::is_running(&name);
    let fleet = format!("the fleet {name}");
    if !taken {
        let remedy = format!("`floaterctl sim down --name {name}` removes it");
        interrupt.made(&fleet, remedy);
    }
    let building = {
        let name = name.clone();
        tokio::task::spawn_blocking(move || {
            let mut told = Told::new(name.clone(), progress);
            control::up_with(&topology, Some(&name), &caller, tied, |step| {
                told.step(step)
            })
        })
    };
    let mut building = std::pin::pin!(building);
    let built = tokio::select! {
        built = &mut building => built,
        () = interrupt.clone().come(), if !taken => {
            progress::tell(format_args!("interrupted: removing {name}, {}", output::counted(nodes, "node")));
            // A fleet that is coming up ends at once when it is told to; there may be none yet.
            let _ = remove(name.clone()).await;
            building.await
        }
    };
    let built = built.map_err(|error| Failure::Failed(format!("building {name}: {error}")))?;
    if interrupt.has_come() && !taken {
        let left = match remove(name).await {
            Ok(()) => Vec::new(),
            Err(failure) => vec![failure.to_string()],
        };
        interrupt.removed(&fleet);
        return Err(Failure::Interrupted { left });
    }
    let lab = built?;
    progress.say(format_args!(
        "{name}: {}, every pod is ready",
        if is_unlinked {
            "nobody has linked the clusters"
        } else {
            "every node is as planned"
        }
    ));
    Ok(lab)
}

/// What was said of a fleet that is coming up.
struct Told {
    name: String,
    progress: Progress,
    phase: Option<(Phase, Instant)>,
}

impl Told {
    fn new(name: String, progress: Progress) -> Self {
        Self {
            name,
            progress,
            phase: None,
        }
    }

    /// Says how far a phase is, and how long it will go on at its rate so far.
    fn step(&mut self, step: &Step) {
        let Step { phase, done, of } = step;
        let since = match self.phase {
            Some((current, since)) if current == *phase => since,
            _ => {
                let now = Instant::now();
                self.phase = Some((*phase, now));
                now
            }
        };
        let name = &self.name;
        if done >= of {
            self.progress
                .say(format_args!("{name}: {phase} {done}/{of}"));
            return;
        }
        let taken = since.elapsed().as_secs_f64();
        if *done > 0 && taken > 0.5 {
            let left = taken * (of - done) as f64 / *done as f64;
            let left = left.ceil();
            self.progress
                .say(format_args!("{name}: {phase} {done}/{of}, {left} s left"));
        }
    }
}

/// A fleet of this command's own.
#[derive(Debug)]
pub struct OwnLab {
    name: String,
    /// While this lives the lab does; none once it is down.
    lab: Option<control::Lab>,
}

impl OwnLab {
    /// Builds a fleet under a name that nobody else has.
    ///
    /// # Errors
    /// As [`build`].
    pub async fn up(
        prefix: &str,
        topology: Topology,
        interrupt: &Interrupt,
        progress: Progress,
    ) -> Result<Self, Failure> {
        let name = unique(prefix);
        let lab = build(topology, name.clone(), true, interrupt, progress).await?;
        Ok(Self {
            name,
            lab: Some(lab),
        })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its kubeconfig, one context per cluster.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.lab
            .as_ref()
            .map(|lab| lab.kubeconfig.clone())
            .unwrap_or_default()
    }

    /// Does something with the simulator on a thread that may wait.
    ///
    /// # Errors
    /// The simulator's.
    pub async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&str) -> Result<T, simulator::Error> + Send + 'static,
    ) -> Result<T, Failure> {
        let name = self.name.clone();
        let done = tokio::task::spawn_blocking(move || work(&name)).await;
        Ok(done.map_err(|error| Failure::Failed(error.to_string()))??)
    }

    /// Says that it is being removed: always to somebody who interrupts and then has to wait.
    pub fn tell_removal(&self, interrupt: &Interrupt, progress: Progress) {
        if interrupt.has_come() {
            progress::tell(format_args!("interrupted: removing {}", self.name));
        } else {
            progress.say(format_args!("removing {}", self.name));
        }
    }

    /// Removes it.
    ///
    /// # Errors
    /// What could not be removed.
    pub async fn down(&mut self) -> Result<(), Failure> {
        let removed = remove(self.name.clone()).await;
        self.lab = None;
        removed
    }
}

impl Drop for OwnLab {
    /// For the ways out that nobody thought of: a panic, a forgotten `?`.
    fn drop(&mut self) {
        if let Some(lab) = self.lab.take()
            && let Err(error) = lab.down()
        {
            progress::warn(format_args!("removing {}: {error}", self.name));
        }
    }
}

/// A lab that does not exist is removed already.
pub(crate) async fn remove(name: String) -> Result<(), Failure> {
    let done = tokio::task::spawn_blocking(move || control::down(Some(&name))).await;
    match done.map_err(|error| Failure::Failed(error.to_string()))? {
        Ok(()) | Err(simulator::Error::Input { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// A DNS label that no other command has now, had before a crash, or will have soon.
fn unique(prefix: &str) -> String {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    format!(
        "{prefix}-{}-{:05x}",
        std::process::id(),
        now.subsec_micros()
    )
}
