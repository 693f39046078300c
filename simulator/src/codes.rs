//! Which causes can be injected, and why the others cannot.

use datapath::code::Code;

/// Whether a cause can be injected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Injection {
    /// It cannot, for this reason.
    Impossible(&'static str),
    /// It can.
    Possible,
}

/// The one table of what can be injected.
#[must_use]
pub const fn injection(code: Code) -> Injection {
    use Code as C;
    use Injection::{Impossible, Possible};
    match code {
        C::AddressMissing
        | C::DevDeleted
        | C::FdbMissing
        | C::FdbWrongVtep
        | C::ForwardOff
        | C::ForwardPolicyDrop
        | C::GatewayDown
        | C::InnerMtuTooBig
        | C::L2MtuMismatch
        | C::L4SelectiveDrop
        | C::NatMissing
        | C::NeighMissing
        | C::NeighStaleMac
        | C::NodeDown
        | C::PodPolicy
        | C::PolicyRouteHijack
        | C::Reject
        | C::RouteBlackhole
        | C::RouteMissing
        | C::RouteWrongDev
        | C::Rpfilter
        | C::SnatUnwanted
        | C::TunnelDevDown
        | C::TunnelPortMismatch
        | C::TunnelReplyBlocked
        | C::TunnelUdpBlockedHost
        | C::TunnelUdpBlockedOneway
        | C::V6ForwardOff
        | C::VniMismatch
        | C::VtepLocalStale => Possible,
        C::Jitter | C::Latency | C::LossGray | C::QueueDrop | C::RateLimited | C::Reorder => {
            Impossible("the simulated underlay delays and drops no packets")
        }
        C::BackendNotListening
        | C::ConntrackStaleUdp
        | C::DnsRace5s
        | C::DnsUdp53Blocked
        | C::ServiceNoBackend
        | C::ServiceRuleMissing
        | C::StaleEndpoint => Impossible("simulated clusters have no Services and no DNS"),
        C::CidrOverlap
        | C::ClusterIdDuplicate
        | C::ClusternodeIncomplete
        | C::ControlPlaneAmbiguous
        | C::FamilyMissing
        | C::GatewayNotElected
        | C::IntentStale
        | C::LinkUnknown
        | C::ObjectInvalid => Impossible(
            "it is in the objects of the API, which kubectl changes in a simulated cluster as in any other",
        ),
        C::AgentSick | C::ClockSkew | C::KubeconfigExpired | C::Token | C::WrongIdentity => {
            Impossible("it is in the floaters or in the access to them, not in a node's network")
        }
        _ => Impossible("no injector has been written for it"),
    }
}

/// Whether an injected cause is about the way to one peer, which may be named; any is taken where none is.
#[must_use]
pub const fn is_about_a_peer(code: Code) -> bool {
    matches!(
        code,
        Code::FdbMissing
            | Code::FdbWrongVtep
            | Code::NeighMissing
            | Code::NeighStaleMac
            | Code::RouteBlackhole
            | Code::RouteMissing
            | Code::RouteWrongDev
            | Code::TunnelUdpBlockedOneway
    )
}

/// The codes that can be injected, sorted.
pub fn injectable() -> impl Iterator<Item = Code> {
    let all = Code::ALL.iter().copied();
    all.filter(|code| injection(*code) == Injection::Possible)
}

/// Refuses a code that cannot be injected, with the reason.
pub(crate) fn check(code: Code) -> Result<(), String> {
    match injection(code) {
        Injection::Possible => Ok(()),
        Injection::Impossible(why) => Err(format!("{code} cannot be injected: {why}")),
    }
}

/// Reads the word of a code that can be injected.
pub(crate) fn read_injectable(word: &str) -> Result<Code, String> {
    let Some(code) = read(word) else {
        let words: Vec<&str> = injectable().map(Code::word).collect();
        return Err(format!("`{word}` is none of {}", words.join(", ")));
    };
    check(code).map(|()| code)
}

/// Reads the word of a code. Files and command lines write it in upper case, as reports do.
pub(crate) fn read(word: &str) -> Option<Code> {
    word.parse().ok().filter(|code: &Code| code.word() == word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_injectable_or_says_why_not() {
        let injectable: Vec<Code> = injectable().collect();
        assert!(injectable.is_sorted());
        for &code in Code::ALL {
            let refused = check(code).err();
            assert_eq!(refused.is_none(), injectable.contains(&code), "{code}");
            if let Some(why) = refused {
                assert!(why.starts_with(code.word()) && why.len() > code.word().len() + 25);
                assert_eq!(read_injectable(code.word()), Err(why));
            }
        }
        let unknown = read_injectable("NO-SUCH").expect_err("no code");
        assert!(unknown.contains("none of ADDRESS-MISSING, "), "{unknown}");
        assert!(read("fdb-missing").is_none());
    }
}
