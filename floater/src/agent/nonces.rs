//! The requests of the last minute, so that none is obeyed twice.

use std::collections::BTreeSet;

use crate::wire::{AUTH_WINDOW_MS, MAX_NONCES, Nonce};

/// Why a request is not obeyed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Known {
    /// It came before.
    Before,
    /// It cannot be remembered: too many came within the window.
    Full,
}

/// Time and nonce of every request that could come again. A request holds for both together.
#[derive(Debug, Default)]
pub(super) struct Nonces(BTreeSet<(u64, Nonce)>);

impl Nonces {
    /// Remembers a request whose time is within the window of `now_ms`.
    pub(super) fn remember(
        &mut self,
        time_ms: u64,
        nonce: Nonce,
        now_ms: u64,
    ) -> Result<(), Known> {
        // What is older is refused for its time.
        while let Some((oldest, _)) = self.0.first()
            && *oldest + AUTH_WINDOW_MS < now_ms
        {
            self.0.pop_first();
        }
        if self.0.contains(&(time_ms, nonce)) {
            return Err(Known::Before);
        }
        if self.0.len() >= MAX_NONCES {
            return Err(Known::Full);
        }
        self.0.insert((time_ms, nonce));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_known_for_as_long_as_it_would_be_accepted() {
        let mut nonces = Nonces::default();
        assert_eq!(nonces.remember(1000, [1; 16], 1000), Ok(()));
        let last = 1000 + AUTH_WINDOW_MS;
        assert_eq!(nonces.remember(1000, [1; 16], last), Err(Known::Before));
        assert_eq!(nonces.remember(1001, [1; 16], last), Ok(()));
        assert_eq!(nonces.remember(1001, [2; 16], last), Ok(()));
        assert_eq!(nonces.remember(last, [3; 16], last + 2), Ok(()));
        assert_eq!(nonces.0.len(), 1, "the others are forgotten");
    }

    #[test]
    fn when_it_is_full_it_refuses_until_the_oldest_is_forgotten() {
        let mut nonces = Nonces::default();
        let nonce = |number: usize| {
            let mut nonce = [0; 16];
            nonce[..8].copy_from_slice(&number.to_be_bytes());
            nonce
        };
        for number in 0..MAX_NONCES {
            assert_eq!(nonces.remember(1000, nonce(number), 1000), Ok(()));
        }
        assert_eq!(nonces.remember(1000, [9; 16], 1000), Err(Known::Full));
        assert_eq!(nonces.remember(1000, nonce(7), 1000), Err(Known::Before));
        let later = 1001 + AUTH_WINDOW_MS;
        assert_eq!(nonces.remember(later, [9; 16], later), Ok(()));
    }
}
