//! Watches: a place in the log, and waiting for more of it.

use std::collections::VecDeque;
use std::sync::Arc;

use serde_json::Value;

use super::resource::Resource;
use super::store::{Event, EventKind, Store};

/// The changes of one kind, in order, none left out.
#[derive(Debug)]
pub struct Watch {
    store: Arc<Store>,
    resource: Resource,
    /// Everything up to this version was seen.
    seen: u64,
    ready: VecDeque<Event>,
}

impl Watch {
    pub(crate) fn new(store: Arc<Store>, resource: Resource, from: u64) -> Self {
        let mut ready = VecDeque::new();
        let mut seen = from;
        if from == 0 {
            // Listing and taking the place in the log happen under one lock, so nothing is missed between them.
            let inner = store.lock();
            seen = inner.version();
            ready.extend(inner.list(resource, None).map(|object| Event {
                kind: EventKind::Added,
                object: object.clone(),
            }));
        }
        Self {
            store,
            resource,
            seen,
            ready,
        }
    }

    /// The next change, if it is there already.
    pub fn poll(&mut self) -> Option<Event> {
        if self.ready.is_empty() {
            let inner = self.store.lock();
            match inner.since_of(self.resource, self.seen) {
                Some(changes) => self.ready.extend(changes.map(|change| Event {
                    kind: change.kind,
                    object: change.object.clone(),
                })),
                None => self.ready.push_back(Event {
                    kind: EventKind::Relist,
                    object: Arc::new(Value::Null),
                }),
            }
            self.seen = inner.version();
        }
        self.ready.pop_front()
    }

    /// The next change.
    pub async fn next(&mut self) -> Event {
        loop {
            let store = self.store.clone();
            let changed = store.changed.notified();
            futures::pin_mut!(changed);
            // Registered before looking, so that a change between looking and waiting wakes this.
            changed.as_mut().enable();
            if let Some(event) = self.poll() {
                return event;
            }
            changed.await;
        }
    }
}
