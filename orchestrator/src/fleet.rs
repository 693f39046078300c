//! Everything that a run does with clusters over their APIs: look, deploy, ask, remove.
//!
//! Every cluster is worked on by a task of its own with its own time limits, so that one that hangs, refuses or breaks costs
//! the others at most the seconds that [`patience`] gives it. What could not be had is a reason in words, never an error.

use std::future::Future;
use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;

pub(crate) mod agents;
pub(crate) mod api;
pub(crate) mod budget;
pub(crate) mod deploy;
pub(crate) mod events;
pub(crate) mod look;
pub(crate) mod objects;
pub(crate) mod patience;
pub(crate) mod remove;

/// The most floaters that are asked at a time, over all clusters; each takes one connection.
pub(crate) const FLOATERS_AT_ONCE: usize = 512;

/// Does the same with many things at once, each in a task of its own; the results are in the order of the things.
///
/// A task that panics is none: its thing's result is absent, everybody else's is not. Dropping the future ends all tasks.
pub(crate) async fn concurrently<T, R, F>(
    things: Vec<T>,
    at_once: usize,
    work: impl Fn(T) -> F,
) -> Vec<Option<R>>
where
    F: Future<Output = R> + Send + 'static,
    R: Send + 'static,
{
    let gate = Arc::new(Semaphore::new(at_once));
    let mut results: Vec<Option<R>> = Vec::new();
    results.resize_with(things.len(), || None);
    let mut tasks = JoinSet::new();
    for (at, thing) in things.into_iter().enumerate() {
        let future = work(thing);
        let gate = Arc::clone(&gate);
        tasks.spawn(async move {
            // The semaphore is never closed; without a permit there would be no bound, and nothing else would change.
            let _permit = gate.acquire_owned().await.ok();
            (at, future.await)
        });
    }
    while let Some(done) = tasks.join_next().await {
        if let Ok((at, result)) = done {
            results[at] = Some(result);
        }
    }
    results
}

#[cfg(test)]
pub(crate) mod mock;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn results_are_in_order_and_a_panic_is_its_own_thing_s_only() {
        let results = concurrently(vec![3_u32, 0, 1], 2, |n| async move {
            assert!(n > 0, "a thing that cannot be worked on");
            n * 10
        })
        .await;
        assert_eq!(results, [Some(30), None, Some(10)]);
    }
}
