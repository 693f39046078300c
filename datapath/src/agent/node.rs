//! The agent as a program runs it: one node, its NodeConfig out of a Kubernetes API (feature `kube`).

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::pin;
use std::time::{Duration, Instant};

use futures::{Stream, StreamExt};
use kube::Client;
use kube::api::{Api, DynamicObject};
use kube::runtime::watcher::{self, DefaultBackoff};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tracing::warn;

use super::{Event, Keeper, Settled, Timing, settle};
use crate::diff::ChangeSet;
use crate::error::Error;
use crate::kernel::{Followed, Monitor};
use crate::nodeconfig::TUNNELS;
use crate::reconcile::Kernel;
use crate::state::NodeState;
use crate::watching::{Notice, kosmos, watched};

/// Keeps one node as its NodeConfig says until `stop` ends.
///
/// Applying blocks the caller's thread for milliseconds, so give this future a thread of its own. `looked` is told after each look
/// whether the node's tables are as they should be.
///
/// # Errors
/// [`Error::Missing`] when the monitor cannot be waited for. Everything else is logged and tried again.
pub async fn keep(
    kernel: &mut dyn Kernel,
    monitor: Monitor,
    wanted: impl Stream<Item = Event>,
    timing: Timing,
    mut looked: impl FnMut(bool),
    stop: impl Future<Output = ()>,
) -> Result<(), Error> {
    let start = Instant::now();
    let now = || start.elapsed();
    let mut monitor = readiness_of(monitor)?;
    let mut wanted = pin!(wanted.fuse());
    let mut stop = pin!(stop);
    let mut keeper = Keeper::new(timing);
    let mut known = Known::default();
    loop {
        let wait = keeper
            .deadline()
            .map_or(Duration::from_secs(3600), |at| at.saturating_sub(now()));
        // All of these may be dropped and begun anew without losing anything: notices stay in the socket, events in the stream.
        // The end comes first, then news of the config, so that a node full of drift still learns what it should be.
        tokio::select! {
            biased;
            () = &mut stop => return Ok(()),
            Some(event) = wanted.next() => {
                known.has_news |= matches!(event, Event::Wanted(_));
                keeper.event(event, now());
            }
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
            looked(settled.is_true);
        }
    }
}

/// What the agent knows of the kernel without a look at it.
#[derive(Default)]
struct Known {
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
        keeper: &mut Keeper,
    ) -> Settled {
        let configs = [keeper.candidate(), keeper.adopted()];
        let devices = configs.into_iter().flatten().flat_map(|one| &one.devices);
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
        };
        let settled = settle(&mut watched, keeper);
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

    /// What the kernel itself says of these changes is as good as a look, once: what it does not say, a look finds.
    fn apply(&mut self, set: &ChangeSet) -> Result<(), Vec<Error>> {
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

/// The events of one NodeConfig. Ends never; failures of the API are logged and retried with growing delays.
pub fn events(client: Client, name: &str) -> impl Stream<Item = Event> + use<> {
    let resource = kosmos("NodeConfig", "nodeconfigs");
    let api: Api<DynamicObject> = Api::all_with(client, &resource);
    // This one only: a node has no business with the others'.
    let only = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let name = name.to_owned();
    let mut seen = false;
    let translate = move |event: Notice| {
        let is_own =
            |object: &DynamicObject| object.metadata.name.as_deref() == Some(name.as_str());
        let translated = match event {
            Ok(watcher::Event::Init) => {
                seen = false;
                None
            }
            Ok(watcher::Event::Apply(object) | watcher::Event::InitApply(object)) => {
                is_own(&object).then(|| {
                    seen = true;
                    Event::of_spec(object.data.get("spec"))
                })
            }
            Ok(watcher::Event::Delete(object)) => is_own(&object).then_some(Event::Withdrawn),
            Ok(watcher::Event::InitDone) => (!seen).then_some(Event::Withdrawn),
            Err(error) => {
                warn!(%error, "the Kubernetes API does not answer; what is there stays");
                None
            }
        };
        std::future::ready(translated)
    };
    watched(api, only, DefaultBackoff::default()).filter_map(translate)
}
