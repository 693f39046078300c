//! The agent as a program runs it: one node, its NodeConfig out of a Kubernetes API (feature `kube`).

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::pin;
use std::time::{Duration, Instant};

use futures::{Stream, StreamExt};
use kube::Client;
use kube::api::{Api, DynamicObject};
use kube::runtime::watcher::{self, DefaultBackoff};
use serde_json::Value;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tracing::{info, warn};

use super::settings::Settings;
use super::{Account, Event, Keeper, Kept, Settled, Timing, Version, settle};
use crate::api::NodeConfigSpec;
use crate::diff::ChangeSet;
use crate::error::Error;
use crate::kernel::{Followed, Monitor};
use crate::liveness::paths::{Detours, Plan, Summary};
use crate::nodeconfig::{TUNNELS, spec_digest};
use crate::reconcile::Kernel;
use crate::state::{NodeState, Sysctl};
use crate::watching::{Notice, kosmos, watched};

/// What the API says of a NodeConfig.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct News {
    /// What it is now.
    pub event: Event,
    /// Which state of which object says so; none where no object does.
    pub of: Option<Version>,
    /// The object's status; null where it has none.
    pub status: Value,
}

/// What an agent is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Word {
    /// Gateways are dead, or are not any more.
    Detours(Detours),
    /// Something about its NodeConfig.
    News(Box<News>),
}

impl From<Event> for Word {
    fn from(event: Event) -> Self {
        Self::News(Box::new(event.into()))
    }
}

impl From<News> for Word {
    fn from(news: News) -> Self {
        Self::News(Box::new(news))
    }
}

impl From<Event> for News {
    fn from(event: Event) -> Self {
        Self {
            event,
            of: None,
            status: Value::Null,
        }
    }
}

/// What an agent tells whoever runs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// It looked at the node, whose tables now are as they should be, or not.
    Looked(bool),
    /// What the status of the NodeConfig shows when it is first seen.
    Shown(Value),
    /// What became of the NodeConfig; none while there is none.
    Account(Option<Account>),
    /// Which sessions the NodeConfig asks for, and the detours that are kept with it.
    Sessions(Plan, Detours),
    /// How these are.
    Summary(Summary),
}

/// Keeps one node as its NodeConfig says until `stop` ends.
///
/// Applying blocks the caller's thread for milliseconds, so give this future a thread of its own. `tell` is told after each look what
/// came of it.
///
/// # Errors
/// [`Error::Missing`] when the monitor cannot be waited for. Everything else is logged and tried again.
pub async fn keep(
    kernel: &mut dyn Kernel,
    monitor: Monitor,
    wanted: impl Stream<Item = impl Into<Word>>,
    timing: Timing,
    mut tell: impl FnMut(Told),
    stop: impl Future<Output = ()>,
) -> Result<(), Error> {
    let start = Instant::now();
    let now = || start.elapsed();
    let mut monitor = readiness_of(monitor)?;
    let mut wanted = pin!(wanted.fuse());
    let mut stop = pin!(stop);
    let mut keeper = Keeper::new(timing);
    let mut known = Known::default();
    let mut state = State::default();
    let mut detours: Option<Detours> = None;
    let mut plan_is = Plans::Told;
    loop {
        let wait = keeper
            .deadline()
            .map_or(Duration::from_secs(3600), |at| at.saturating_sub(now()));
        // All of these may be dropped and begun anew without losing anything: notices stay in the socket, events in the stream.
        // The end comes first, then news of the config, so that a node full of drift still learns what it should be.
        tokio::select! {
            biased;
            () = &mut stop => return Ok(()),
            Some(word) = wanted.next() => match word.into() {
                Word::News(news) => {
                    let News { event, of, status } = *news;
                    known.has_news |= matches!(event, Event::Wanted(_));
                    state.take(&event, of, status, &mut tell);
                    match &event {
                        Event::Wanted(spec) => {
                            // The kernel remembers what an earlier run found out.
                            let held = || match spec.gateways.is_empty() {
                                true => Detours::default(),
                                false => Kept::held(spec, &kernel.observe().unwrap_or_default()),
                            };
                            detours.get_or_insert_with(held);
                            plan_is = Plans::New;
                        }
                        Event::Withdrawn => plan_is = Plans::Ending,
                        Event::KernelChanged | Event::Unreadable(_) => {}
                    }
                    let detours = detours.clone().unwrap_or_default();
                    keeper.event(event.map(|spec| Kept { spec, detours }), now());
                }
                Word::Detours(now_kept) => {
                    known.has_news = true;
                    keeper.revise(|kept| kept.detours = now_kept.clone(), now());
                    detours = Some(now_kept);
                }
            },
            ready = monitor.readable_mut() => {
                if let Ok(mut ready) = ready {
                    if known.hear(ready.get_inner_mut()) {
                        keeper.event(Event::KernelChanged, now());
                    }
                    ready.clear_ready();
                }
            }
            () = tokio::time::sleep(wait) => {}
        }
        if keeper.is_due(now()) {
            let settled = known.settle(kernel, monitor.get_mut(), &mut keeper);
            keeper.settled(settled.is_true, now());
            state.settled(&settled, &keeper, &mut tell);
            tell(Told::Looked(settled.is_true));
            if let (Some(kept), None) = (keeper.adopted(), keeper.candidate()) {
                let is_due = match plan_is {
                    Plans::Ending => kept.spec.is_empty(),
                    Plans::New => true,
                    Plans::Told => false,
                };
                if is_due {
                    plan_is = Plans::Told;
                    tell(Told::Sessions(Plan::of(&kept.spec), kept.detours.clone()));
                }
            }
        }
    }
}

/// What is to be told of the sessions that the NodeConfig asks for, once it is adopted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Plans {
    /// The NodeConfig is gone; they end with its rows.
    Ending,
    New,
    Told,
}

/// Which state of the NodeConfig the agent works on.
#[derive(Default)]
struct State {
    /// None where no object says what is wanted.
    of: Option<Version>,
    /// Whether that state cannot be read.
    is_unreadable: bool,
    /// The digest of the rows that the kernel held last, and whether it is of the config that is adopted.
    digest: Option<String>,
    is_current: bool,
}

impl State {
    fn take(
        &mut self,
        event: &Event,
        of: Option<Version>,
        status: Value,
        tell: &mut impl FnMut(Told),
    ) {
        let is_first = self.of.as_ref().map(|of| &of.uid) != of.as_ref().map(|of| &of.uid);
        if is_first && of.is_some() {
            tell(Told::Shown(status));
        }
        if self.of.is_some() && of.is_none() {
            tell(Told::Account(None));
        }
        self.of = of;
        self.is_unreadable = false;
        match (event, self.of.clone()) {
            (Event::Wanted(_), _) => self.is_current = false,
            (Event::Unreadable(rule), Some(of)) => {
                self.is_unreadable = true;
                let problems = [format!("it cannot be read: {rule}")];
                let account = Account::refused(of, self.digest.clone(), "Unreadable", &problems);
                tell(Told::Account(Some(account)));
            }
            (Event::Unreadable(_) | Event::KernelChanged | Event::Withdrawn, _) => {}
        }
    }

    fn settled(&mut self, settled: &Settled, keeper: &Keeper<Kept>, tell: &mut impl FnMut(Told)) {
        let Some(of) = self.of.clone().filter(|_| !self.is_unreadable) else {
            return;
        };
        let account = match keeper.adopted() {
            Some(adopted) if settled.is_true => {
                if !std::mem::replace(&mut self.is_current, true) || self.digest.is_none() {
                    self.digest = Some(spec_digest(&adopted.spec));
                }
                let digest = self.digest.clone().unwrap_or_default();
                Account::applied(of, digest, adopted.spec.len(), &settled.problems)
            }
            _ => {
                let is_adopted = keeper.candidate().is_none();
                let reason = if is_adopted {
                    "Incomplete"
                } else {
                    "NotAdopted"
                };
                Account::refused(of, self.digest.clone(), reason, &settled.problems)
            }
        };
        tell(Told::Account(Some(account)));
    }
}

/// What the agent knows of the kernel without a look at it.
#[derive(Default)]
struct Known {
    settings: Settings,
    /// The tables as they were at the last look, kept up with the notices since; none where these did not tell all.
    tables: Option<NodeState>,
    /// The underlay links of whose changes there are notices.
    lower: BTreeSet<String>,
    /// Whether a config or a change came since the last turn.
    has_news: bool,
}

impl Known {
    /// Takes in the notices that wait; whether they are about the datapath.
    fn hear(&mut self, monitor: &mut Monitor) -> bool {
        let notice = match &mut self.tables {
            Some(tables) => monitor.follow(tables),
            None if monitor.drain() => Followed::Anything,
            None => Followed::Nothing,
        };
        if notice == Followed::Anything {
            self.tables = None;
        }
        let has_changed = notice != Followed::Nothing;
        self.has_news |= has_changed;
        has_changed
    }

    /// One turn. A new config, or a row that came or went, needs no look before it.
    fn settle(
        &mut self,
        kernel: &mut dyn Kernel,
        monitor: &mut Monitor,
        keeper: &mut Keeper<Kept>,
    ) -> Settled {
        let configs = [keeper.candidate(), keeper.adopted()];
        let devices = configs.into_iter().flatten();
        let devices = devices.flat_map(|one| &one.spec.devices);
        let lower: BTreeSet<String> = devices.map(|device| device.bind_dev.clone()).collect();
        self.hear(monitor);
        // At any other time the look is for what gives no notice.
        let is_enough = std::mem::take(&mut self.has_news) && lower.is_subset(&self.lower);
        let mut watched = Watched {
            kernel,
            monitor,
            unread: self.tables.take().filter(|_| is_enough),
            last: None,
            lower: &lower,
            is_changed: false,
            settings: &mut self.settings,
        };
        let mut settled = settle(&mut watched, keeper);
        let is_bare = |kept: &Kept| kept.spec == NodeConfigSpec::default();
        if settled.is_true && keeper.adopted().is_some_and(is_bare) {
            settled.is_true = watched.put_back(&mut settled.problems);
        }
        self.tables = watched.last;
        self.lower = lower;
        settled
    }
}

/// A kernel whose looks make the notices superfluous that came before them, so that nobody's own changes are looked at again.
struct Watched<'a> {
    kernel: &'a mut dyn Kernel,
    monitor: &'a mut Monitor,
    /// The tables, where a look would show nothing else.
    unread: Option<NodeState>,
    /// The tables as they are, as far as this turn knows.
    last: Option<NodeState>,
    lower: &'a BTreeSet<String>,
    /// Whether something was changed in this turn.
    is_changed: bool,
    settings: &'a mut Settings,
}

impl Watched<'_> {
    /// Puts the settings back to what they were before the agent; whether that was possible.
    fn put_back(&mut self, problems: &mut Vec<String>) -> bool {
        if self.settings.is_empty() {
            if self.is_changed {
                info!(
                    "the settings of the node stay as they are: this run changed none, and what an earlier one found is not known"
                );
            }
            return true;
        }
        let mut observed = match self.observe() {
            Ok(observed) => observed,
            Err(error) => {
                problems.push(error.problem().to_string());
                return false;
            }
        };
        let names = self.settings.names();
        let unread = names.filter(|name| observed.sysctls.get(*name).is_none());
        let unread: Vec<String> = unread.cloned().collect();
        observed.sysctls.extend(self.kernel.settings(&unread));
        let set = self.settings.back(&observed);
        for change in &set.changes {
            info!(%change, "put back");
        }
        // The kernel tells nobody of all settings that it changes along with these.
        let refused = self.kernel.apply(&set).err().unwrap_or_default();
        self.last = None;
        problems.extend(refused.iter().map(|error| error.problem().to_string()));
        refused.is_empty()
    }
}

impl Kernel for Watched<'_> {
    fn observe(&mut self) -> Result<NodeState, Error> {
        let state = match self.unread.take() {
            Some(state) => state,
            None => {
                // What is told from now on may be missing in the tables that are read.
                self.monitor.drain();
                let state = self.kernel.observe()?;
                let index = |name: &str| state.links.get(name).map(|link| link.index);
                let tunnels = TUNNELS.into_iter();
                let links = tunnels.chain(self.lower.iter().map(String::as_str));
                let links = links.map(|name| (name.to_owned(), index(name)));
                self.monitor.attend(links);
                state
            }
        };
        self.last = Some(state.clone());
        Ok(state)
    }

    fn settings(&mut self, names: &[String]) -> Vec<Sysctl> {
        self.kernel.settings(names)
    }

    /// What the kernel itself says of these changes is as good as a look, once: what it does not say, a look finds.
    fn apply(&mut self, set: &ChangeSet) -> Result<(), Vec<Error>> {
        if let Some(observed) = &self.last {
            self.settings.changing(set, observed);
        }
        let applied = self.kernel.apply(set);
        let is_first = !std::mem::replace(&mut self.is_changed, true);
        self.unread = self.last.take().filter(|_| is_first && applied.is_ok());
        if let Some(tables) = &mut self.unread
            && self.monitor.follow(tables) != Followed::Rows
        {
            self.unread = None;
        }
        applied
    }
}

#[expect(
    unsafe_code,
    reason = "tokio asks for a promise about the descriptor that its type cannot make"
)]
fn readiness_of(monitor: Monitor) -> Result<AsyncFd<Monitor>, Error> {
    // SAFETY: the monitor owns the descriptor that it gives out, always the same, and closes it only when it is dropped, after the
    // registration.
    let registered = unsafe { AsyncFd::register_with_interest(monitor, Interest::READABLE) };
    registered.map_err(|error| Error::Missing {
        what: "readiness of the monitor".to_owned(),
        why: error.to_string(),
    })
}

/// The news of one NodeConfig. Ends never; failures of the API are logged and retried with growing delays. A state that is known, in which
/// only the status may be another, is no news.
pub fn events(client: Client, name: &str) -> impl Stream<Item = News> + use<> {
    let resource = kosmos("NodeConfig", "nodeconfigs");
    let api: Api<DynamicObject> = Api::all_with(client, &resource);
    // This one only: a node has no business with the others'.
    let only = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let name = name.to_owned();
    let mut seen = false;
    let mut known: Option<Version> = None;
    let translate = move |event: Notice| {
        let is_own =
            |object: &DynamicObject| object.metadata.name.as_deref() == Some(name.as_str());
        let translated = match event {
            Ok(watcher::Event::Init) => {
                seen = false;
                None
            }
            Ok(watcher::Event::Apply(object) | watcher::Event::InitApply(object)) => {
                if is_own(&object) {
                    seen = true;
                    news(&object, &mut known)
                } else {
                    None
                }
            }
            Ok(watcher::Event::Delete(object)) => is_own(&object).then(|| gone(&mut known)),
            Ok(watcher::Event::InitDone) => (!seen).then(|| gone(&mut known)),
            Err(error) => {
                warn!(%error, "the Kubernetes API does not answer; what is there stays");
                None
            }
        };
        std::future::ready(translated)
    };
    watched(api, only, DefaultBackoff::default()).filter_map(translate)
}

fn gone(known: &mut Option<Version>) -> News {
    *known = None;
    Event::Withdrawn.into()
}

/// What an object says that is not known yet. Servers count the states of a spec; of one that does not everything is news.
fn news(object: &DynamicObject, known: &mut Option<Version>) -> Option<News> {
    let of = Version {
        uid: object.metadata.uid.clone().unwrap_or_default(),
        generation: object.metadata.generation.unwrap_or_default(),
    };
    let is_counted = !of.uid.is_empty() && of.generation > 0;
    if is_counted && known.as_ref() == Some(&of) {
        return None;
    }
    *known = Some(of.clone());
    Some(News {
        event: Event::of_spec(object.data.get("spec")),
        of: Some(of),
        status: object.data.get("status").cloned().unwrap_or_default(),
    })
}
