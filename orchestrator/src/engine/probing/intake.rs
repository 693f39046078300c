//! The outcomes of one plan as they are taken in: a floater may be anybody's.

use std::collections::HashMap;

use floater::wire::{Failure, Outcome};

use crate::engine::messages::Probe;

/// Takes only what was asked, each once, no more than was asked.
pub(super) struct Intake {
    /// By id: how many packets were asked for.
    asked: HashMap<usize, u16>,
    pub(super) taken: HashMap<usize, Outcome>,
}

impl Intake {
    pub(super) fn new(probes: &[Probe]) -> Self {
        let asked = probes.iter();
        Self {
            asked: asked
                .map(|probe| (probe.id as usize, probe.count))
                .collect(),
            taken: HashMap::new(),
        }
    }

    /// The outcome as it is taken; none where it answers nothing that was asked.
    pub(super) fn take(&mut self, mut outcome: Outcome) -> Option<&Outcome> {
        let id = outcome.id as usize;
        let count = u32::from(*self.asked.get(&id)?);
        if outcome.sent > count || !outcome.is_possible() || self.taken.contains_key(&id) {
            return None;
        }
        outcome.failure = outcome.failure.map(|failure| match failure {
            // What a stranger says is nobody's business.
            Failure::WrongIdentity { .. } => Failure::WrongIdentity {
                answered: String::new(),
            },
            other => other,
        });
        Some(self.taken.entry(id).or_insert(outcome))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use floater::wire::Protocol;

    fn outcome(id: u32, sent: u32, received: u32) -> Outcome {
        Outcome {
            id,
            sent,
            received,
            ..Outcome::default()
        }
    }

    #[test]
    fn outcomes_are_taken_of_what_was_asked_once_and_within_it() {
        let mut intake = Intake::new(&[Probe {
            id: 7,
            dst: [127, 0, 0, 1].into(),
            protocol: Protocol::Icmp,
            port: 0,
            count: 3,
            payload_bytes: 0,
            responder: None,
        }]);
        for nonsense in [
            outcome(8, 3, 3),
            outcome(7, 4, 3),
            outcome(7, 3, 4),
            outcome(u32::MAX, 0, 0),
        ] {
            assert_eq!(intake.take(nonsense), None);
        }
        let mut said = outcome(7, 3, 2);
        said.failure = Some(Failure::WrongIdentity {
            answered: "\u{1b}[2J".to_owned(),
        });
        let taken = intake.take(said).expect("what was asked");
        assert_eq!(
            taken.failure,
            Some(Failure::WrongIdentity {
                answered: String::new()
            })
        );
        assert_eq!(intake.take(outcome(7, 3, 3)), None);
        assert_eq!(intake.taken.len(), 1);
    }
}
