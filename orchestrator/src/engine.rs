//! A run as a machine: what has come goes in, what is to be done comes out, and time is an argument.
//!
//! ```text
//!            Input                                  Command
//!  cluster looked at, intent,   ┌────────┐   look, read intent, ask,
//!  floaters asked, outcomes, ──►│ Engine │──►  probe, tell
//!  time, stop                   └────────┘
//!                                    └──► the evidence, once everything is decided
//! ```
//! The machine opens no connection, reads no clock and draws no random number. Equal settings and the same inputs at the same times give the
//! same commands and the same evidence, so that a run can be recorded, replayed, resumed and simulated: see [`crate::run`] for those who
//! drive it.
//!
//! Phases, each of which begins when the one before it is over:
//!
//! 1. Every cluster is looked at. Whoever hangs holds one place for its own bounded time, and is left behind when the others have answered.
//! 2. What clusters claim is compared: entries of one cluster are taken once, one control plane is believed, members get their names.
//! 3. Floaters are asked for the tables of their nodes, own ones where none stand ready; what a node should hold goes along as a digest.
//! 4. Probes are sent in rounds, and what fails, half-fails or contradicts the tables is asked again until it is decided.
//!
//! An [`Input::Stop`] at any time ends the waiting: everything that has not come is unknown for the reason that it gives.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use datapath::digest::Key;
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::evidence::{Gathered, InventoryNote};
use crate::inventory::Role;
use crate::probe_plan::What;
use crate::run::Progress;

mod asking;
mod assemble;
mod believing;
pub(crate) mod claims;
pub(crate) mod expected;
mod looking;
pub mod messages;
pub(crate) mod patience;
mod probing;

use asking::Asking;
use believing::Believed;
use looking::Looking;
use messages::{Asked, Command, Input, Looked, TargetFacts};
use probing::Probing;

/// What a run is to do, as far as it decides anything.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Settings {
    /// The run's id.
    pub run: String,
    /// What to judge.
    pub what: What,
    /// What the run is for.
    pub purpose: Purpose,
    /// How many times to probe everything.
    pub rounds: u32,
    /// The most packets that a floater sends in a second.
    pub budget_pps: u32,
    /// The floaters' port that the run asks for.
    pub port: u16,
    /// When the run ends whatever is open, from its beginning.
    pub deadline: Duration,
    /// How long one cluster may take until it is given up; without, see [`crate::run::RunOptions::cluster_timeout`].
    pub cluster_timeout: Option<Duration>,
    /// The cluster that is the control plane, by the name of its context, where several claim to be it.
    pub control_plane: Option<String>,
    /// Whether the operator chose some clusters of many, so that members that are not among them are not missed.
    pub chosen: bool,
    /// How many clusters are worked on at a time.
    pub clusters_at_once: usize,
    /// How many floaters send at a time, over all clusters.
    pub floaters_at_once: usize,
    /// What rows are hashed with, drawn for this run.
    pub key: Key,
}

/// What a run is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Purpose {
    /// Judge the fleet.
    Diagnose,
    /// Say what would be made in each cluster, and make nothing.
    Plan,
    /// Remove what earlier runs have left; nobody's intent matters.
    Sweep,
}

impl Settings {
    /// Whether numbers that come from a file are within what the machine can take.
    ///
    /// # Errors
    /// The rule that one breaks.
    pub(crate) fn check(&self) -> Result<(), String> {
        const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);
        let longest = self.deadline.max(self.cluster_timeout.unwrap_or_default());
        if longest > LONGEST {
            return Err("its times are longer than a year".to_owned());
        }
        if self.rounds == 0 || self.clusters_at_once == 0 || self.floaters_at_once == 0 {
            return Err("its rounds and bounds have to be at least 1".to_owned());
        }
        Ok(())
    }

    /// The layers that need floaters: the host's always, for the tables.
    #[must_use]
    pub fn layers(&self) -> Vec<floater::wire::Layer> {
        use floater::wire::Layer;
        let wanted = self.what.layers();
        [Layer::Host, Layer::Pod]
            .into_iter()
            .filter(|layer| {
                *layer == Layer::Host || (!self.what.tables_only && wanted.contains(layer))
            })
            .collect()
    }
}

/// A cluster of the inventory and what is known of it.
#[derive(Debug)]
pub(crate) struct Known {
    pub(crate) target: TargetFacts,
    /// What it is called by now.
    pub(crate) name: String,
    pub(crate) looked: Option<Result<Looked, String>>,
    pub(crate) asked: Option<Asked>,
}

impl Known {
    fn new(target: TargetFacts) -> Self {
        Self {
            name: target.name.clone(),
            target,
            looked: None,
            asked: None,
        }
    }

    /// What it is, where it answered.
    pub(crate) fn open(&self) -> Option<&Looked> {
        self.looked.as_ref()?.as_ref().ok()
    }

    /// Why it cannot be asked, where it cannot.
    fn silent(&self) -> Option<&String> {
        self.looked.as_ref()?.as_ref().err()
    }
}

/// Where a run is.
enum Phase {
    /// The inventory has not come.
    Waiting,
    Looking(Looking),
    /// Answers about intent and names are waited for.
    Believing(believing::Step),
    Asking(Box<Asking>),
    Probing(Box<Probing>),
    Ended(Option<Result<Box<Gathered>, Error>>),
}

/// A run.
pub struct Engine {
    settings: Settings,
    clusters: Vec<Known>,
    /// The clusters that are kept, in their order, once that is known.
    kept: Vec<usize>,
    /// Clusters that were given beside a control plane and are none of its members.
    left_out: BTreeSet<usize>,
    believed: Believed,
    notes: Vec<InventoryNote>,
    phase: Phase,
    commands: VecDeque<Command>,
    stopped: Option<String>,
}

impl Engine {
    /// A run that waits for its inventory, [`Input::Targets`].
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            clusters: Vec::new(),
            kept: Vec::new(),
            left_out: BTreeSet::new(),
            believed: Believed::default(),
            notes: Vec::new(),
            phase: Phase::Waiting,
            commands: VecDeque::new(),
            stopped: None,
        }
    }

    /// What the run is to do.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The next thing to do; none until more has come.
    pub fn command(&mut self) -> Option<Command> {
        self.commands.pop_front()
    }

    /// When something happens if nothing comes: put [`Input::Tick`] then.
    #[must_use]
    pub fn wakes_at(&self) -> Option<Duration> {
        let own = match &self.phase {
            Phase::Looking(looking) => looking.wakes_at(),
            Phase::Believing(step) => step.wakes_at(),
            Phase::Probing(probing) => probing.wakes_at(),
            Phase::Waiting | Phase::Asking(_) => None,
            Phase::Ended(_) => return None,
        };
        // Those who are asked end by themselves at the deadline, and say so; whoever does not is not waited for.
        let end = self.settings.deadline + GRACE;
        Some(own.map_or(end, |own| own.min(end)))
    }

    /// The evidence, or why there is none; once, when the run has ended.
    pub fn end(&mut self) -> Option<Result<Gathered, Error>> {
        match &mut self.phase {
            Phase::Ended(end) => end.take().map(|end| end.map(|gathered| *gathered)),
            _ => None,
        }
    }

    /// Takes in what has come at `now`, the time since the run began, which never goes back. What answers nothing that was asked is ignored.
    pub fn put(&mut self, now: Duration, input: Input) {
        match input {
            Input::Targets { targets, warnings } => self.targets(now, targets, warnings),
            Input::Stop { why } => self.stop(now, why),
            Input::Tick => self.tick(now),
            Input::Answered { cluster } => {
                if let Phase::Looking(looking) = &mut self.phase {
                    looking.answered(cluster, now);
                }
            }
            Input::Looked { cluster, result } => self.looked(now, cluster, result),
            Input::Intent { .. } | Input::Enlisted { .. } | Input::Identified { .. } => {
                self.believe(now, input);
            }
            Input::Asked { cluster, asked } => self.asked(now, cluster, asked),
            Input::Heard { order, outcomes } => {
                if let Phase::Probing(probing) = &mut self.phase {
                    let told = probing.heard(order, outcomes);
                    self.tell(told);
                }
            }
            Input::Ended { order, health } => {
                if let Phase::Probing(probing) = &mut self.phase {
                    probing.ended(order, health);
                }
                self.go_on_probing(now);
            }
        }
    }

    fn targets(&mut self, now: Duration, targets: Vec<TargetFacts>, warnings: Vec<String>) {
        if !matches!(self.phase, Phase::Waiting) {
            return;
        }
        self.warn(warnings);
        if self.settings.purpose == Purpose::Diagnose {
            self.tell([Progress::Started {
                run: self.settings.run.clone(),
                clusters: targets.len(),
            }]);
        }
        self.add(now, targets);
    }

    /// Looks at further clusters.
    fn add(&mut self, now: Duration, targets: Vec<TargetFacts>) {
        let first = self.clusters.len();
        self.clusters.extend(targets.into_iter().map(Known::new));
        self.phase = Phase::Looking(Looking::new(
            first..self.clusters.len(),
            now,
            self.settings.deadline,
            self.settings.clusters_at_once,
            self.settings.cluster_timeout,
        ));
        self.go_on_looking(now);
    }

    fn looked(&mut self, now: Duration, cluster: usize, result: Result<Looked, String>) {
        let Phase::Looking(looking) = &mut self.phase else {
            return;
        };
        if looking.ended(cluster, now, result.is_ok()) {
            self.note_look(cluster, result);
            self.go_on_looking(now);
        }
    }

    fn note_look(&mut self, cluster: usize, result: Result<Looked, String>) {
        let known = &mut self.clusters[cluster];
        let server = known.target.server.as_ref();
        known.looked = Some(result.map_err(|why| match server {
            Some(server) => format!("{why} ({server})"),
            None => why,
        }));
    }

    fn go_on_looking(&mut self, now: Duration) {
        let Phase::Looking(looking) = &mut self.phase else {
            return;
        };
        let mut gone = looking.overdue(now);
        if let Some(why) = &self.stopped {
            let late = looking.stop().into_iter();
            gone.extend(late.map(|(cluster, begun)| (cluster, why.clone(), begun)));
        }
        let begun = looking.begin(now);
        let is_done = looking.is_done();
        for (cluster, why, begun) in gone {
            if begun {
                self.commands.push_back(Command::Abandon { cluster });
            }
            self.note_look(cluster, Err(why));
        }
        for cluster in begun {
            let name = self.clusters[cluster].name.clone();
            self.tell([Progress::Looking { name }]);
            self.commands.push_back(Command::Look { cluster });
        }
        if is_done {
            self.all_looked_at(now);
        }
    }

    fn all_looked_at(&mut self, now: Duration) {
        let is_fleet = self
            .clusters
            .first()
            .is_some_and(|holder| holder.target.role == Role::Fleet);
        if is_fleet && self.believed.holder.is_none() {
            return self.believe_inventory(now);
        }
        let mut order: Vec<usize> = (0..self.clusters.len()).collect();
        if is_fleet {
            // The control plane's own entry follows those of its members, and is none where it is no member itself.
            order.rotate_left(1);
            if self.believed.root.is_none() {
                order.pop();
            }
        }
        order.retain(|at| !self.left_out.contains(at));
        let found = claims::distinct(&self.clusters, &order);
        (self.kept, self.notes) = (found.kept, found.notes);
        self.warn(found.warnings);
        if self.open().is_empty() {
            let error = self.nobody();
            return self.fail(error);
        }
        if self.settings.purpose == Purpose::Sweep {
            return self.begin_asking(now);
        }
        self.believe_clusters(now);
    }

    fn asked(&mut self, now: Duration, cluster: usize, asked: Result<Asked, String>) {
        let Some(looked) = self.clusters.get(cluster).and_then(Known::open) else {
            return;
        };
        let layers = self.settings.layers();
        let asked = asked.unwrap_or_else(|why| refuse(looked, &layers, &why));
        match &mut self.phase {
            Phase::Believing(_) => self.met(now, cluster, asked),
            Phase::Asking(_) => self.finished(now, cluster, asked),
            _ => {}
        }
    }

    fn go_on_probing(&mut self, now: Duration) {
        let Phase::Probing(probing) = &mut self.phase else {
            return;
        };
        // An order that nobody can be given may end a round.
        loop {
            probing.advance(now, &self.settings);
            let orders = probing.orders(&self.settings);
            if orders.is_empty() {
                break;
            }
            self.commands.extend(orders);
        }
        if probing.is_done()
            && let Phase::Probing(probing) = std::mem::replace(&mut self.phase, Phase::Ended(None))
        {
            self.phase = Phase::Ended(Some(Ok(Box::new(probing.into_gathered()))));
        }
    }

    fn tick(&mut self, now: Duration) {
        if now >= self.settings.deadline + GRACE {
            return self.stop(now, TIME_IS_UP.to_owned());
        }
        match &mut self.phase {
            Phase::Looking(_) => self.go_on_looking(now),
            Phase::Believing(_) => self.believing_is_over(now),
            Phase::Probing(_) => self.go_on_probing(now),
            Phase::Waiting | Phase::Asking(_) | Phase::Ended(_) => {}
        }
    }

    fn stop(&mut self, now: Duration, why: String) {
        self.stopped.get_or_insert(why.clone());
        match &mut self.phase {
            Phase::Waiting => self.fail(Error::Missing {
                what: "no cluster can be reached".to_owned(),
                why,
            }),
            Phase::Looking(_) => self.go_on_looking(now),
            Phase::Believing(_) => self.stop_believing(now),
            Phase::Asking(_) => self.go_on_asking(now),
            Phase::Probing(probing) => {
                probing.stop(&why);
                self.go_on_probing(now);
            }
            Phase::Ended(_) => {}
        }
    }

    /// The clusters that are kept and answered.
    fn open(&self) -> Vec<usize> {
        let kept = self.kept.iter().copied();
        kept.filter(|&at| self.clusters[at].open().is_some())
            .collect()
    }

    fn fail(&mut self, error: Error) {
        self.phase = Phase::Ended(Some(Err(error)));
    }

    fn tell(&mut self, told: impl IntoIterator<Item = Progress>) {
        let told = told.into_iter();
        self.commands
            .extend(told.map(|progress| Command::Tell(Box::new(progress))));
    }

    fn warn(&mut self, warnings: Vec<String>) {
        self.tell(warnings.into_iter().map(Progress::Warning));
    }

    fn nobody(&self) -> Error {
        let silent: Vec<String> = self
            .kept
            .iter()
            .filter_map(|&at| {
                let cluster = &self.clusters[at];
                Some(format!("{}: {}", cluster.name, cluster.silent()?))
            })
            .collect();
        let shown = silent.len().min(5);
        let mut why = silent[..shown].join("; ");
        if silent.len() > shown {
            why += &format!("; and {} more", silent.len() - shown);
        }
        Error::Missing {
            what: "no cluster can be reached".to_owned(),
            why,
        }
    }

    /// The names of all clusters that are kept.
    fn names(&self) -> BTreeSet<&str> {
        let kept = self.kept.iter();
        kept.map(|&at| self.clusters[at].name.as_str()).collect()
    }
}

/// How much later than the run's end whoever is still asked is given up.
const GRACE: Duration = Duration::from_secs(2);
/// Why something is unknown that was not answered by the run's end.
pub(crate) const TIME_IS_UP: &str = "the run's time was up before it answered";

/// No floater of the cluster can be asked, all for one reason.
pub(crate) fn refuse(looked: &Looked, layers: &[floater::wire::Layer], reason: &str) -> Asked {
    let mut tables = BTreeMap::new();
    let mut floaters = Vec::new();
    for node in &looked.nodes {
        for &layer in layers {
            floaters.push(messages::FloaterFacts {
                node: node.name.clone(),
                layer,
                place: Err(reason.to_owned()),
            });
        }
        tables.insert(node.name.clone(), Err(reason.to_owned()));
    }
    Asked {
        floaters,
        tables,
        ..Asked::default()
    }
}
