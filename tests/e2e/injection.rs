//! Where each cause can be injected and what it is found at, for tests that try all of them.

use datapath::code::Code;

/// The node that a cause is injected at: the gateway, unless a gateway cannot have it.
pub(crate) fn node_of(code: Code) -> &'static str {
    match code {
        Code::NodeDown => "n2",
        _ => "n1",
    }
}

/// Whether a cause is a rule of a packet filter, which a node without a kernel has none of.
pub(crate) fn is_filter(code: Code) -> bool {
    element_of(code).0 == "filter"
}

/// Whether a gateway has nothing that a cause could change, in a cluster of this mode and family.
pub(crate) fn has_no_place(code: Code, mode: &str, family: &str) -> bool {
    match code {
        // Only those of clusters in gateway mode translate.
        Code::NatMissing => mode == "p2p",
        // IPv6 knows no reverse-path check.
        Code::Rpfilter => family == "ipv6",
        Code::V6ForwardOff => family == "ipv4",
        _ => false,
    }
}

/// The kind of the element that is found at a gateway with both families, and how its name ends.
pub(crate) fn element_of(code: Code) -> (&'static str, &'static str) {
    match code {
        Code::AddressMissing => ("address", " dev vx-bridge"),
        Code::DevDeleted
        | Code::InnerMtuTooBig
        | Code::L2MtuMismatch
        | Code::TunnelDevDown
        | Code::TunnelPortMismatch
        | Code::VniMismatch
        | Code::VtepLocalStale => ("link", "vx-bridge"),
        Code::FdbMissing | Code::FdbWrongVtep => ("fdb", " dev vx-bridge"),
        Code::ForwardPolicyDrop => ("filter", "ip fault-forward-policy-drop forward policy"),
        Code::L4SelectiveDrop | Code::PodPolicy | Code::Reject | Code::TunnelReplyBlocked => {
            ("filter", " forward handle 2")
        }
        Code::SnatUnwanted => ("filter", " postrouting handle 2"),
        Code::TunnelUdpBlockedHost => ("filter", " input handle 2"),
        Code::TunnelUdpBlockedOneway => ("filter", " output handle 2"),
        Code::ForwardOff => ("sysctl", "net.ipv4.conf.all.forwarding"),
        Code::GatewayDown | Code::NodeDown => ("node", node_of(code)),
        Code::NatMissing => ("nat", " -j MASQUERADE"),
        Code::NeighMissing | Code::NeighStaleMac => ("neighbour", " dev vx-bridge"),
        Code::PolicyRouteHijack => ("rule", "ipv4 200: from all lookup 200"),
        Code::RouteBlackhole | Code::RouteMissing | Code::RouteWrongDev => ("route", " table 200"),
        Code::Rpfilter => ("sysctl", "net.ipv4.conf.vx-local.rp_filter"),
        Code::V6ForwardOff => ("sysctl", "net.ipv6.conf.vx-bridge-6.disable_ipv6"),
        other => panic!("{other} can be injected, and nothing says where it is found"),
    }
}
