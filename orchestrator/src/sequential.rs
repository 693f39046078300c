//! When losses accuse: Wald's sequential test, per flow of packets that are asked for again and again.
//!
//! The path that is in order loses one packet in a hundred (`BACKGROUND`); the one that is not loses half of them or all. Each packet
//! shifts the logarithm of the likelihood ratio of the two, and the test stops where one of them has become improbable enough: an
//! accusation errs once in 10⁹ times, an acquittal of a path that loses half once in a hundred. Total loss takes five packets, half of
//! them thirteen. Losses of one moment have one reason, so that an accusation also needs losses of several rounds.

/// The loss that a path in order may have.
pub const BACKGROUND: f64 = 0.01;
/// The losses of paths that are not: all, half, a fifth.
const FAULTS: [f64; 3] = [0.999, 0.5, 0.2];
/// The natural logarithm of 10⁹.
const ACCUSE: f64 = 20.723;
/// The natural logarithm of a hundredth.
const ACQUIT: f64 = -4.605;
/// In so many rounds something has to be lost before anybody is accused.
pub const ROUNDS: u32 = 3;

/// What was sent in all rounds and what came back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Losses {
    /// Packets or connections tried.
    pub sent: u64,
    /// Those that were answered.
    pub received: u64,
    /// Rounds in which one was not.
    pub rounds: u32,
}

/// What the losses say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Decision {
    /// Nothing was sent, or not enough to tell a fault from chance.
    Undecided,
    /// No more is lost than a path in order may lose.
    Passes,
    /// Some is lost, beyond chance.
    Lossy,
    /// Everything is lost, beyond chance.
    Lost,
}

impl Losses {
    /// Adds a round.
    pub fn add(&mut self, sent: u64, received: u64) {
        self.sent += sent;
        self.received += received.min(sent);
        self.rounds += u32::from(received < sent);
    }

    /// Where the test stands.
    #[must_use]
    pub fn decision(&self) -> Decision {
        let lost = self.sent - self.received;
        if self.sent == 0 {
            return Decision::Undecided;
        }
        if lost == 0 {
            return Decision::Passes;
        }
        let worst = FAULTS
            .into_iter()
            .map(|fault| ratio(fault, lost, self.received))
            .fold(f64::MIN, f64::max);
        if worst >= ACCUSE && self.rounds >= ROUNDS {
            if self.received == 0 {
                Decision::Lost
            } else {
                Decision::Lossy
            }
        } else if worst < ACCUSE && ratio(0.5, lost, self.received) <= ACQUIT {
            Decision::Passes
        } else {
            Decision::Undecided
        }
    }
}

/// The logarithm of how much likelier the losses are under a fault of that rate than under the background.
#[expect(
    clippy::cast_precision_loss,
    reason = "counts of packets of one run are far below 2^52"
)]
fn ratio(fault: f64, lost: u64, received: u64) -> f64 {
    lost as f64 * (fault / BACKGROUND).ln()
        + received as f64 * ((1.0 - fault) / (1.0 - BACKGROUND)).ln()
}

/// Whether a share of losses is beyond what `usual` (a rate, at least the background's) explains, by the same bound.
#[must_use]
#[expect(
    clippy::cast_precision_loss,
    reason = "counts of packets of one run are far below 2^52"
)]
pub fn is_beyond(usual: f64, sent: u64, lost: u64) -> bool {
    let usual = usual.max(BACKGROUND);
    if sent == 0 || lost as f64 <= usual * sent as f64 {
        return false;
    }
    // The likeliest rate is the one that was seen; the bound of Chernoff holds for it.
    let seen = lost as f64 / sent as f64;
    let gain = if seen >= 1.0 {
        -usual.ln()
    } else {
        seen * (seen / usual).ln() + (1.0 - seen) * ((1.0 - seen) / (1.0 - usual)).ln()
    };
    gain * sent as f64 >= ACCUSE
}

/// Whether losses are no sign of a path that loses half, where `usual` (a rate, at least the background's) is lost on all.
#[must_use]
#[expect(
    clippy::cast_precision_loss,
    reason = "counts of packets of one run are far below 2^52"
)]
pub fn is_acquitted(usual: f64, sent: u64, lost: u64) -> bool {
    let usual = usual.clamp(BACKGROUND, 0.5);
    let received = sent.saturating_sub(lost);
    lost as f64 * (0.5 / usual).ln() + received as f64 * (0.5 / (1.0 - usual)).ln() <= ACQUIT
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(rounds: &[(u64, u64)]) -> Decision {
        let mut all = Losses::default();
        for &(sent, received) in rounds {
            all.add(sent, received);
        }
        all.decision()
    }

    #[test]
    fn total_loss_takes_five_packets_of_several_rounds() {
        assert_eq!(of(&[]), Decision::Undecided);
        assert_eq!(of(&[(1, 0)]), Decision::Undecided);
        assert_eq!(of(&[(1, 0); 4]), Decision::Undecided);
        assert_eq!(of(&[(1, 0); 5]), Decision::Lost);
        // However many of one moment: a process that stands still loses them all.
        assert_eq!(of(&[(100, 0)]), Decision::Undecided);
        assert_eq!(of(&[(100, 0); 2]), Decision::Undecided);
    }

    #[test]
    fn one_answer_does_not_acquit_and_one_loss_does_not_accuse() {
        assert_eq!(of(&[(5, 5)]), Decision::Passes);
        assert_eq!(of(&[(3, 2)]), Decision::Undecided);
        assert_eq!(of(&[(3, 2), (8, 8), (8, 8)]), Decision::Passes);
        assert_eq!(of(&[(3, 1), (8, 0), (8, 0), (8, 0)]), Decision::Lossy);
        assert_eq!(of(&[(8, 4); 4]), Decision::Lossy);
    }

    /// A path that loses one in a hundred, watched until the test stops: never accused, whatever the order.
    #[test]
    fn background_loss_is_never_accused() {
        let mut random = 7_u64;
        let mut draw = || {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) % 100
        };
        for _ in 0..200_000 {
            let mut losses = Losses::default();
            for round in 0..8 {
                let sent = if round == 0 { 3 } else { 8 };
                let received = (0..sent).filter(|_| draw() != 0).count() as u64;
                losses.add(sent, received);
                match losses.decision() {
                    Decision::Undecided => {}
                    Decision::Passes => break,
                    accused => panic!("{losses:?} is {accused:?}"),
                }
            }
        }
    }

    #[test]
    fn what_all_lose_is_no_sign_of_a_path_that_loses_half() {
        assert!(is_acquitted(0.04, 126, 9));
        assert!(!is_acquitted(0.04, 26, 13));
        assert!(!is_acquitted(0.04, 4, 1), "too few");
        // Where half is usual nothing tells the two apart.
        assert!(!is_acquitted(0.5, 1000, 500));
        assert!(!is_acquitted(0.9, 1000, 900));
    }

    #[test]
    fn pooled_losses_are_held_against_what_is_usual() {
        assert!(!is_beyond(0.0, 1000, 20));
        assert!(is_beyond(0.0, 1000, 60));
        assert!(!is_beyond(0.05, 1000, 60));
        assert!(!is_beyond(0.0, 0, 0));
        assert!(is_beyond(0.0, 5, 5));
    }
}
