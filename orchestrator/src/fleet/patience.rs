//! How long the last of many are waited for, so that one that hangs does not cost all the others its whole time limit.

use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

/// Many that are asked at once. From the moment that half of them have answered, the others have as long as that took
/// three times over, and `least` at any rate.
pub(crate) struct Patience {
    of: usize,
    least: Duration,
    /// When the run ends; of what is left at most a quarter is waited.
    deadline: Instant,
    answered: AtomicUsize,
    /// How long the slowest of those took that have answered.
    slowest: Mutex<Duration>,
    /// How long one may take, known once half of them have answered.
    fair: watch::Sender<Option<Duration>>,
}

impl Patience {
    pub(crate) fn new(of: usize, least: Duration, deadline: Instant) -> Self {
        Self {
            of,
            slowest: Mutex::default(),
            least,
            deadline,
            answered: AtomicUsize::new(0),
            fair: watch::Sender::new(None),
        }
    }

    /// Whether they are so few that none is slower than the others.
    pub(crate) fn is_of_few(&self) -> bool {
        self.of <= 2
    }

    /// One of them; what it gave, or the time after which it was no longer waited for. Its time begins when it is polled
    /// first: who waited for others to make room has lost nothing by that.
    pub(crate) async fn with<T, E>(
        &self,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<Result<T, E>, Duration> {
        let began = Instant::now();
        let mut fair = self.fair.subscribe();
        let over = async {
            let fair = match fair.wait_for(Option::is_some).await {
                Ok(fair) => *fair,
                // The sender lives as long as this borrows it.
                Err(_) => None,
            };
            match fair {
                Some(fair) => tokio::time::sleep_until(began + fair).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            result = work => {
                if result.is_ok() {
                    self.count(began.elapsed());
                }
                Ok(result)
            }
            () = over => Err(began.elapsed()),
        }
    }

    /// Only those that answer say how long an answer takes: a refusal comes at once.
    fn count(&self, took: Duration) {
        let mut slowest = self.slowest.lock().unwrap_or_else(PoisonError::into_inner);
        *slowest = took.max(*slowest);
        let answered = self.answered.fetch_add(1, Ordering::Relaxed) + 1;
        if answered * 2 < self.of {
            return;
        }
        self.fair.send_if_modified(|fair| {
            let left = self.deadline.saturating_duration_since(Instant::now()) / 4;
            let is_first = fair.is_none();
            // Whoever has begun when the first did has had `slowest` already.
            fair.get_or_insert((*slowest + self.least.max(*slowest * 3)).min(*slowest + left));
            is_first
        });
    }
}

/// How long the first answer of a cluster may take: as long as none has given one `alone`, then `others` more. Who asks on a machine or a
/// network that is slow as a whole waits for it; who asks beside others does not keep them waiting.
pub(crate) struct FirstAnswer {
    alone: Duration,
    others: Duration,
    heard: watch::Sender<bool>,
}

impl FirstAnswer {
    pub(crate) fn new(alone: Duration, others: Duration) -> Self {
        Self {
            alone,
            others,
            heard: watch::Sender::new(false),
        }
    }

    /// What `work` gives, or the time after which it was no longer waited for.
    pub(crate) async fn of<T, E>(
        &self,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<Result<T, E>, Duration> {
        let began = Instant::now();
        let mut heard = self.heard.subscribe();
        let over = async {
            let hurried = async {
                // The sender lives as long as this borrows it.
                let _ = heard.wait_for(|heard| *heard).await;
                tokio::time::sleep(self.others).await;
            };
            let _ = tokio::time::timeout(self.alone, hurried).await;
        };
        tokio::select! {
            biased;
            given = work => {
                // A refusal comes at once and says nothing about how long an answer takes.
                if given.is_ok() {
                    self.heard.send_replace(true);
                }
                Ok(given)
            }
            () = over => Err(began.elapsed()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    async fn after(millis: u64) -> Result<u64, String> {
        tokio::time::sleep(Duration::from_millis(millis)).await;
        Ok(millis)
    }

    async fn never() -> Result<u64, String> {
        std::future::pending().await
    }

    /// Real time, so only what no load of the machine turns round is asserted.
    #[tokio::test]
    async fn one_that_hangs_is_left_behind_once_the_others_have_answered() {
        let patience = Patience::new(4, Duration::from_millis(50), Instant::now() + HOUR);
        let began = Instant::now();
        let (one, two, hangs) = tokio::join!(
            patience.with(after(0)),
            patience.with(after(40)),
            patience.with(never()),
        );
        assert_eq!((one, two), (Ok(Ok(0)), Ok(Ok(40))));
        assert!(hangs.is_err(), "{hangs:?}");
        // Three times the forty that half of them took, after them.
        assert!(began.elapsed() >= Duration::from_millis(160));
    }

    #[tokio::test]
    async fn without_half_of_them_nobody_is_cut_off() {
        let patience = Patience::new(4, Duration::ZERO, Instant::now() + HOUR);
        let (one, slow) = tokio::join!(
            patience.with(after(0)),
            tokio::time::timeout(Duration::from_millis(100), patience.with(never())),
        );
        assert_eq!(one, Ok(Ok(0)));
        assert!(slow.is_err(), "{slow:?}");
        assert!(patience.fair.borrow().is_none());
    }

    #[tokio::test]
    async fn a_run_that_is_short_waits_for_a_quarter_of_what_is_left() {
        let patience = Patience::new(2, HOUR, Instant::now() + Duration::from_secs(4));
        assert_eq!(patience.with(after(0)).await, Ok(Ok(0)));
        let fair = patience.fair.borrow().expect("one of two has answered");
        assert!(fair <= Duration::from_secs(2), "{fair:?}");
    }

    #[tokio::test]
    async fn a_first_answer_hurries_the_others_and_without_one_there_is_time() {
        let millis = Duration::from_millis;
        let first = FirstAnswer::new(millis(400), millis(50));
        let (answers, hangs) = tokio::join!(first.of(after(0)), first.of(never()));
        assert_eq!(answers, Ok(Ok(0)));
        assert!(hangs.is_err_and(|waited| waited >= millis(50)));
        let first = FirstAnswer::new(millis(100), Duration::ZERO);
        let hangs = first.of(never()).await;
        assert!(hangs.is_err_and(|waited| waited >= millis(100)));
    }

    #[tokio::test]
    async fn refusals_hurry_nobody() {
        let patience = Patience::new(3, Duration::ZERO, Instant::now() + HOUR);
        for _ in 0..2 {
            let refused = async { Err::<u64, _>("refused") };
            assert_eq!(patience.with(refused).await, Ok(Err("refused")));
        }
        assert_eq!(patience.with(after(20)).await, Ok(Ok(20)));
    }
}
