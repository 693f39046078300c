//! The changes of objects, as a stream that ends never (feature `kube`).

use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

use futures::{Stream, StreamExt as _};
use kube::api::{Api, DynamicObject};
use kube::core::GroupVersionKind;
use kube::discovery::ApiResource;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{self, watcher};

/// What comes out of a watch: an event, or why there is none just now.
pub type Notice = Result<watcher::Event<DynamicObject>, watcher::Error>;

/// A kind of `kosmos.io`.
#[must_use]
pub fn kosmos(kind: &str, plural: &str) -> ApiResource {
    let kind = GroupVersionKind::gvk(crate::api::GROUP, crate::api::VERSION, kind);
    ApiResource::from_gvk_with_plural(&kind, plural)
}

/// The objects that a watch chooses. Whatever fails is told and tried again after a pause.
pub fn watched<B: Backoff + 'static>(
    api: Api<DynamicObject>,
    chosen: watcher::Config,
    pause: B,
) -> impl Stream<Item = Notice> + Send + use<B> {
    let mut is_free = true;
    let relisted = move |event: Notice| {
        let kept = match event {
            // The server has forgotten where the watch was. The list that follows is no repetition of something that failed, so it
            // waits for nothing; a server that says so again and again is a failing one.
            Err(error) if is_free && is_expired(&error) => {
                is_free = false;
                None
            }
            other => {
                is_free |= matches!(
                    other,
                    Ok(watcher::Event::Apply(_) | watcher::Event::Delete(_))
                );
                Some(other)
            }
        };
        std::future::ready(kept)
    };
    watcher(api, chosen).filter_map(relisted).backoff(pause)
}

/// Whether the server says 410 Gone.
fn is_expired(error: &watcher::Error) -> bool {
    code(error) == Some(410)
}

/// Whether the server does not know the kind, or lets nobody see it: to ask soon again is of no use.
#[must_use]
pub fn is_closed(error: &watcher::Error) -> bool {
    matches!(code(error), Some(403 | 404))
}

fn code(error: &watcher::Error) -> Option<u16> {
    match error {
        watcher::Error::WatchError(status) => Some(status.code),
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchFailed(kube::Error::Api(status)) => Some(status.code),
        _ => None,
    }
}

/// The pauses of a program of which there are few: short, so that what changed while the API was away is known within two seconds, and
/// each of another length, so that not all of them come at once.
#[derive(Debug, Clone, Default)]
pub struct Steady {
    random: RandomState,
    count: u64,
}

impl Iterator for Steady {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        self.count = self.count.wrapping_add(1);
        Some(Duration::from_millis(
            500 + self.random.hash_one(self.count) % 700,
        ))
    }
}

impl Backoff for Steady {
    fn reset(&mut self) {}
}
