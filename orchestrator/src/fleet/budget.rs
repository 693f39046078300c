//! What one cluster may cost a run. Every request carries it, so that no loop over a cluster's answers can forget it.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::Instant;

/// The most bytes of all answers of a cluster: 10,000 nodes with their tables are half of it.
const BYTES: u64 = 1 << 30;
/// The most requests: 10,000 nodes of two floaters each, asked a dozen times.
const REQUESTS: u64 = 250_000;
/// The most objects of all lists.
const ITEMS: u64 = 250_000;
/// What a frame of an answer counts besides its bytes, so that a flood of empty ones ends.
const FRAME: u64 = 64;

/// What is left of it; shared by all clones.
#[derive(Debug, Clone)]
pub(crate) struct Budget {
    deadline: Instant,
    /// From the start to `deadline`, for messages.
    time: Duration,
    left: Arc<Left>,
}

#[derive(Debug)]
struct Left {
    bytes: AtomicU64,
    requests: AtomicU64,
    items: AtomicU64,
}

/// Something that a cluster used up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Spent {
    #[error("it was given up: its answers are larger than {} MiB in all", BYTES >> 20)]
    Bytes,
    #[error("it was given up: it needs more than {REQUESTS} requests")]
    Requests,
    #[error("it was given up: it lists more than {ITEMS} objects")]
    Items,
    #[error("it was given up after {} s", .0.as_secs())]
    Time(Duration),
}

impl Budget {
    /// A whole one, that lasts at most for `time`.
    pub(crate) fn new(time: Duration) -> Self {
        Self {
            deadline: Instant::now() + time,
            time,
            left: Arc::new(Left {
                bytes: AtomicU64::new(BYTES),
                requests: AtomicU64::new(REQUESTS),
                items: AtomicU64::new(ITEMS),
            }),
        }
    }

    /// The same, that lasts at most for `time` from now on: while a run waits for other clusters this one uses up nothing.
    pub(crate) fn renewed(&self, time: Duration) -> Self {
        Self {
            deadline: Instant::now() + time,
            time,
            left: Arc::clone(&self.left),
        }
    }

    /// How much of its time is left.
    pub(crate) fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    pub(crate) fn request(&self) -> Result<(), Spent> {
        if self.left().is_zero() {
            return Err(Spent::Time(self.time));
        }
        take(&self.left.requests, 1).ok_or(Spent::Requests)
    }

    pub(crate) fn items(&self, count: usize) -> Result<(), Spent> {
        take(&self.left.items, count as u64).ok_or(Spent::Items)
    }

    fn frame(&self, bytes: usize) -> Result<(), Spent> {
        if self.left().is_zero() {
            return Err(Spent::Time(self.time));
        }
        take(&self.left.bytes, bytes as u64 + FRAME).ok_or(Spent::Bytes)
    }
}

fn take(left: &AtomicU64, amount: u64) -> Option<()> {
    left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
        left.checked_sub(amount)
    })
    .ok()
    .map(drop)
}

/// An answer's body that ends with an error once the budget is spent.
pub(crate) struct Charged {
    pub(crate) body: kube::client::Body,
    pub(crate) budget: Budget,
}

impl Body for Charged {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        polled.map(|frame| {
            frame.map(|frame| {
                let frame = frame?;
                let bytes = frame.data_ref().map_or(0, Bytes::len);
                self.budget.frame(bytes)?;
                Ok(frame)
            })
        })
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt as _;

    #[tokio::test(start_paused = true)]
    async fn every_part_of_it_ends() {
        let budget = Budget::new(Duration::from_secs(5));
        assert_eq!(budget.items(ITEMS as usize), Ok(()));
        assert_eq!(budget.items(1), Err(Spent::Items));
        assert_eq!(budget.frame(BYTES as usize), Err(Spent::Bytes));
        assert_eq!(budget.frame((BYTES - FRAME) as usize), Ok(()));
        assert_eq!(budget.clone().frame(0), Err(Spent::Bytes));
        for _ in 0..REQUESTS {
            assert_eq!(budget.request(), Ok(()));
        }
        assert_eq!(budget.request(), Err(Spent::Requests));
        tokio::time::advance(Duration::from_secs(5)).await;
        assert_eq!(budget.request(), Err(Spent::Time(Duration::from_secs(5))));
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_ends_with_the_time_of_its_cluster() {
        let budget = Budget::new(Duration::from_secs(1));
        let body = kube::client::Body::from(b"abc".to_vec());
        let mut charged = Charged { body, budget };
        tokio::time::advance(Duration::from_secs(1)).await;
        let error = charged
            .frame()
            .await
            .expect("a frame")
            .expect_err("no time is left");
        assert_eq!(error.to_string(), "it was given up after 1 s");
    }
}
