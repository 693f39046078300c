//! The catalogue of cause codes: what each means, what proves it, and what an operator does about it.

use datapath::code::Code;

mod catalogue;

pub use catalogue::CATALOGUE;

/// What there is to know about a cause code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cause {
    /// The code.
    pub code: Code,
    /// The cause in a few words.
    pub title: &'static str,
    /// What it does to packets, and where they are lost.
    pub meaning: &'static str,
    /// What has to be seen before the code is given; a failing probe alone is never enough.
    pub proof: &'static str,
    /// What an operator does.
    pub fix: &'static str,
    /// Why this version does not look for it, a clause; none where it does. A finding may still say that it cannot exclude it. What
    /// can be injected is the simulator's to say.
    pub undiagnosed: Option<&'static str>,
}

/// The entry of a code.
#[must_use]
pub fn find(code: Code) -> &'static Cause {
    // One entry for every code, in the order of the codes: `the_catalogue_is_complete` holds it to that.
    &CATALOGUE[code as usize]
}

/// How specific a code is: a lower number names a row, a higher one a guess from packets.
#[must_use]
pub fn rank(code: Code) -> u8 {
    match code {
        Code::ClusterIdDuplicate | Code::ControlPlaneAmbiguous => 0,
        Code::GatewayDown | Code::GatewayNotElected | Code::NodeDown => 1,
        Code::CidrOverlap
        | Code::ClusternodeIncomplete
        | Code::FamilyMissing
        | Code::LinkUnknown
        | Code::ObjectInvalid => 2,
        Code::DevDeleted | Code::ForwardOff | Code::TunnelDevDown => 3,
        Code::AddressMissing | Code::InnerMtuTooBig | Code::NatMissing => 5,
        Code::WrongIdentity => 6,
        Code::ForwardPolicyDrop
        | Code::L4SelectiveDrop
        | Code::LossGray
        | Code::ReturnRouteMissing
        | Code::TunnelUdpBlockedHost
        | Code::TunnelUdpBlockedOneway
        | Code::UnderlayArpPoison
        | Code::V6ForwardOff
        | Code::V6RouteMissing => 7,
        Code::IntentStale => 8,
        _ => 4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_catalogue_is_complete() {
        let codes: Vec<Code> = CATALOGUE.iter().map(|cause| cause.code).collect();
        assert_eq!(codes, Code::ALL);
        for cause in CATALOGUE {
            for text in [cause.title, cause.meaning, cause.proof, cause.fix] {
                assert!(!text.is_empty(), "{}", cause.code);
            }
            assert_eq!(find(cause.code), cause);
            assert!(cause.undiagnosed.is_none_or(|why| !why.ends_with('.')));
        }
    }
}
