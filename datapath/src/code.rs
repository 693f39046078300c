//! Cause codes: the words by which a finding says what is wrong. One vocabulary for diagnosis, catalogue, simulator and
//! scenarios.

use std::fmt;
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident = $word:literal,)*) => {
        /// A cause code. Its order is that of its word.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[expect(missing_docs, reason = "the catalogue of causes says what each means")]
        pub enum Code {
            $($(#[$doc])* $variant,)*
        }

        impl Code {
            /// All codes, sorted by word.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The upper-case word, as in reports and topology files.
            #[must_use]
            pub const fn word(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)*
                }
            }
        }
    };
}

codes! {
    AddressMissing = "ADDRESS-MISSING",
    AgentSick = "AGENT-SICK",
    BackendNotListening = "BACKEND-NOT-LISTENING",
    CidrOverlap = "CIDR-OVERLAP",
    ClockSkew = "CLOCK-SKEW",
    ClusterIdDuplicate = "CLUSTER-ID-DUPLICATE",
    ClusternodeIncomplete = "CLUSTERNODE-INCOMPLETE",
    ConntrackFull = "CONNTRACK-FULL",
    ConntrackStaleUdp = "CONNTRACK-STALE-UDP",
    ControlPlaneAmbiguous = "CONTROL-PLANE-AMBIGUOUS",
    DevDeleted = "DEV-DELETED",
    DnsRace5s = "DNS-RACE-5S",
    DnsUdp53Blocked = "DNS-UDP53-BLOCKED",
    EcmpPartial = "ECMP-PARTIAL",
    FailoverIncomplete = "FAILOVER-INCOMPLETE",
    FamilyMissing = "FAMILY-MISSING",
    FdbMissing = "FDB-MISSING",
    FdbWrongVtep = "FDB-WRONG-VTEP",
    ForwardOff = "FORWARD-OFF",
    ForwardPolicyDrop = "FORWARD-POLICY-DROP",
    FragmentsDropped = "FRAGMENTS-DROPPED",
    GatewayDown = "GATEWAY-DOWN",
    GatewayNotElected = "GATEWAY-NOT-ELECTED",
    InnerMtuTooBig = "INNER-MTU-TOO-BIG",
    IntentStale = "INTENT-STALE",
    Jitter = "JITTER",
    KubeconfigExpired = "KUBECONFIG-EXPIRED",
    L2MtuMismatch = "L2-MTU-MISMATCH",
    L4SelectiveDrop = "L4-SELECTIVE-DROP",
    Latency = "LATENCY",
    LinkUnknown = "LINK-UNKNOWN",
    LossGray = "LOSS-GRAY",
    NatHairpin = "NAT-HAIRPIN",
    NatMissing = "NAT-MISSING",
    NeighMissing = "NEIGH-MISSING",
    NeighStaleMac = "NEIGH-STALE-MAC",
    NeighTableOverflow = "NEIGH-TABLE-OVERFLOW",
    NodeDown = "NODE-DOWN",
    ObjectInvalid = "OBJECT-INVALID",
    PmtuBlackhole = "PMTU-BLACKHOLE",
    PmtuVisibleUnheeded = "PMTU-VISIBLE-UNHEEDED",
    PodNicDown = "POD-NIC-DOWN",
    PodPolicy = "POD-POLICY",
    PolicyRouteHijack = "POLICY-ROUTE-HIJACK",
    QueueDrop = "QUEUE-DROP",
    RateLimited = "RATE-LIMITED",
    Reject = "REJECT",
    Reorder = "REORDER",
    ReturnRouteMissing = "RETURN-ROUTE-MISSING",
    RouteBlackhole = "ROUTE-BLACKHOLE",
    RouteMissing = "ROUTE-MISSING",
    RouteWrongDev = "ROUTE-WRONG-DEV",
    RoutingLoop = "ROUTING-LOOP",
    Rpfilter = "RPFILTER",
    ServiceNoBackend = "SERVICE-NO-BACKEND",
    ServiceRuleMissing = "SERVICE-RULE-MISSING",
    SnatUnwanted = "SNAT-UNWANTED",
    StaleEndpoint = "STALE-ENDPOINT",
    Token = "TOKEN",
    TunnelDevDown = "TUNNEL-DEV-DOWN",
    TunnelMacLoop = "TUNNEL-MAC-LOOP",
    TunnelPortMismatch = "TUNNEL-PORT-MISMATCH",
    TunnelReplyBlocked = "TUNNEL-REPLY-BLOCKED",
    TunnelUdpBlockedHost = "TUNNEL-UDP-BLOCKED-HOST",
    TunnelUdpBlockedOneway = "TUNNEL-UDP-BLOCKED-ONEWAY",
    UnderlayArpPoison = "UNDERLAY-ARP-POISON",
    V6ForwardOff = "V6-FORWARD-OFF",
    V6RouteMissing = "V6-ROUTE-MISSING",
    VniMismatch = "VNI-MISMATCH",
    VtepIpDuplicate = "VTEP-IP-DUPLICATE",
    VtepLocalStale = "VTEP-LOCAL-STALE",
    VtepMacDuplicate = "VTEP-MAC-DUPLICATE",
    VxlanCsumOffload = "VXLAN-CSUM-OFFLOAD",
    WrongIdentity = "WRONG-IDENTITY",
}

/// A word that is no cause code.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no cause code of that name")]
pub struct UnknownCode;

impl FromStr for Code {
    type Err = UnknownCode;

    /// Whatever its case.
    fn from_str(word: &str) -> Result<Self, UnknownCode> {
        Self::ALL
            .iter()
            .copied()
            .find(|code| code.word().eq_ignore_ascii_case(word))
            .ok_or(UnknownCode)
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

impl Serialize for Code {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.word())
    }
}

impl<'de> Deserialize<'de> for Code {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_sorted_and_read_back() {
        assert!(Code::ALL.is_sorted_by(|a, b| a.word() < b.word() && a < b));
        for &code in Code::ALL {
            assert_eq!(code.word().parse(), Ok(code));
            assert_eq!(code.word().to_lowercase().parse(), Ok(code));
        }
        assert_eq!("NO-SUCH-CODE".parse::<Code>(), Err(UnknownCode));
    }
}
