//! How long the last of a cluster's floaters are waited for.

use std::future::Future;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::engine::patience::Patience;

/// Floaters that are asked at once and share their patience.
pub(crate) struct Shared {
    began: Instant,
    patience: Mutex<Patience>,
    /// How long one may take, known once half of them have answered.
    fair: watch::Sender<Option<Duration>>,
}

impl Shared {
    pub(crate) fn new(of: usize, least: Duration, deadline: Instant) -> Self {
        let began = Instant::now();
        let deadline = deadline.saturating_duration_since(began);
        Self {
            began,
            patience: Mutex::new(Patience::new(of, least, deadline)),
            fair: watch::Sender::new(None),
        }
    }

    /// One of them; what it gave, or the time after which it was no longer waited for. Its time begins when it is polled first.
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

    fn count(&self, took: Duration) {
        let mut patience = self.patience.lock().unwrap_or_else(PoisonError::into_inner);
        patience.answered(self.began.elapsed(), took);
        self.fair.send_replace(patience.fair());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_that_hangs_is_left_behind_once_the_others_have_answered() {
        let hour = Duration::from_secs(3600);
        let patience = Shared::new(4, Duration::from_millis(50), Instant::now() + hour);
        let after = |millis| async move {
            tokio::time::sleep(Duration::from_millis(millis)).await;
            Ok::<u64, String>(millis)
        };
        let refused = async { Err::<u64, _>("refused".to_owned()) };
        let (one, refused, two, hangs) = tokio::join!(
            patience.with(after(10)),
            patience.with(refused),
            patience.with(after(40)),
            patience.with(std::future::pending::<Result<u64, String>>()),
        );
        assert_eq!((one, two), (Ok(Ok(10)), Ok(Ok(40))));
        assert_eq!(
            refused,
            Ok(Err("refused".to_owned())),
            "a refusal hurries nobody"
        );
        // Three times the forty that half of them took, after them.
        assert_eq!(hangs, Err(Duration::from_millis(160)));
    }
}
