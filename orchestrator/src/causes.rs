//! The catalogue of cause codes: what each means, what proves it, and what an operator does about it.

/// What there is to know about a cause code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cause {
    /// The code, upper case.
    pub code: &'static str,
    /// The cause in a few words.
    pub title: &'static str,
    /// What it does to packets, and where they are lost.
    pub meaning: &'static str,
    /// What has to be seen before the code is given; a failing probe alone is never enough.
    pub proof: &'static str,
    /// What an operator does.
    pub fix: &'static str,
    /// Whether this version looks for it; of the others it knows the name, and may say that it cannot exclude them.
    pub found: bool,
}

/// All codes, sorted.
pub const CATALOGUE: &[Cause] = &[
    Cause {
        code: "ADDRESS-MISSING",
        title: "a tunnel has lost its overlay address",
        meaning: "Packets that the node itself sends over the tunnel have no source, and the answers to translated \
                  ones find no owner. Forwarded pod packets pass.",
        proof: "The planned address is not on the link.",
        fix: "Put the address back; the datapath's agent does so by itself while it runs.",
        found: true,
    },
    Cause {
        code: "AGENT-SICK",
        title: "a floater gives wrong testimony",
        meaning: "The floater's own probes all fail while others reach it without loss over the same paths: it was \
                  paused or starved. Nothing is said about the network.",
        proof: "All probes from it fail, probes to it pass.",
        fix: "Look at the load of the node and the limits of the floater's pod, then run again.",
        found: true,
    },
    Cause {
        code: "BACKEND-NOT-LISTENING",
        title: "the backend of a service refuses",
        meaning: "Connections to the service are refused at once while its pods are reachable.",
        proof: "A reset from the backend's own address.",
        fix: "Look at the pod's port and the service's targetPort.",
        found: false,
    },
    Cause {
        code: "CIDR-OVERLAP",
        title: "two clusters, or a cluster and a node, use one prefix",
        meaning: "Packets for the remote prefix are delivered locally and never leave.",
        proof: "Two owners of one prefix in the fleet.",
        fix: "Give one of them another prefix, or map it with globalCIDRsMap.",
        found: false,
    },
    Cause {
        code: "CLOCK-SKEW",
        title: "a node's clock is off",
        meaning: "TLS and tokens fail, times are bogus; packets pass.",
        proof: "The clock's offset by round trips.",
        fix: "Synchronise the node's clock.",
        found: false,
    },
    Cause {
        code: "CLUSTER-ID-DUPLICATE",
        title: "two entries of the inventory are one cluster",
        meaning: "Both entries would be probed as if they were two.",
        proof: "The same uid of the kube-system namespace.",
        fix: "Leave one of the two entries out.",
        found: false,
    },
    Cause {
        code: "CONNTRACK-FULL",
        title: "the connection table is full",
        meaning: "New connections are lost at random, old ones live on.",
        proof: "The table's count is its limit.",
        fix: "sysctl -w net.netfilter.nf_conntrack_max=...",
        found: false,
    },
    Cause {
        code: "CONNTRACK-STALE-UDP",
        title: "a UDP flow is pinned to a dead backend",
        meaning: "One source port fails, a fresh one passes.",
        proof: "An entry whose reply address is no endpoint.",
        fix: "conntrack -D for the flow.",
        found: false,
    },
    Cause {
        code: "DEV-DELETED",
        title: "a planned tunnel does not exist",
        meaning: "The node neither sends nor receives on it; the kernel answers arriving VXLAN packets with port \
                  unreachable. The routes, neighbours and forwarding rows of the tunnel went with it.",
        proof: "No link of the planned name in the node's link table.",
        fix: "Start the datapath's agent on the node; it builds the tunnel and everything on it.",
        found: true,
    },
    Cause {
        code: "DNS-RACE-5S",
        title: "two lookups at once race in connection tracking",
        meaning: "Lookups take five seconds or a multiple.",
        proof: "Latencies at five seconds, failed insertions counted.",
        fix: "Use single-request-reopen or a node-local cache.",
        found: false,
    },
    Cause {
        code: "DNS-UDP53-BLOCKED",
        title: "lookups over UDP are dropped",
        meaning: "Names do not resolve, over TCP they do.",
        proof: "DNS over TCP passes, over UDP it does not.",
        fix: "Allow UDP 53 to the cluster's DNS.",
        found: false,
    },
    Cause {
        code: "ECMP-PARTIAL",
        title: "one of several next hops is dead",
        meaning: "Some flows fail always, others never.",
        proof: "Outcomes follow the flow's ports, and a next hop of the route is dead.",
        fix: "Take the dead next hop out of the route.",
        found: false,
    },
    Cause {
        code: "FAILOVER-INCOMPLETE",
        title: "some nodes still use the former gateway",
        meaning: "Some sources fail, others pass, after the gateway role moved.",
        proof: "Tables of different sources name different gateways.",
        fix: "Restart the datapath's agent on the nodes that lag.",
        found: false,
    },
    Cause {
        code: "FDB-MISSING",
        title: "no forwarding row for a peer's tunnel end",
        meaning: "The tunnel knows the peer's Ethernet address but not the node behind it, so packets are dropped when \
                  the tunnel sends (its tx_dropped counts them). While the peer's flood row stands they are flooded \
                  and still arrive.",
        proof: "The planned (link, MAC, destination) row is not in the node's forwarding database.",
        fix: "bridge fdb append MAC dev LINK dst NODE-ADDRESS self permanent",
        found: true,
    },
    Cause {
        code: "FDB-WRONG-VTEP",
        title: "a forwarding row names the wrong node",
        meaning: "Packets for the peer leave for another underlay address. They are lost there or on the router \
                  before it, not on the node that holds the row.",
        proof: "A row of the planned link and MAC has another destination than the plan.",
        fix: "bridge fdb replace MAC dev LINK dst NODE-ADDRESS self permanent",
        found: true,
    },
    Cause {
        code: "FORWARD-OFF",
        title: "the node does not forward",
        meaning: "The kernel drops every packet of the family that is not for itself (IpInAddrErrors counts them), so \
                  pods of the node and everything that crosses it are cut off. The node itself stays reachable.",
        proof: "net.ipv4.conf.*.forwarding or net.ipv6.conf.*.forwarding is 0 where packets enter.",
        fix: "sysctl -w net.ipv4.ip_forward=1, net.ipv6.conf.all.forwarding=1",
        found: true,
    },
    Cause {
        code: "FORWARD-POLICY-DROP",
        title: "a packet filter drops forwarded packets",
        meaning: "The tables of routes, neighbours and forwarding rows are right, and still packets of one family are \
                  lost between two nodes that reach each other.",
        proof: "Tables equal intent, the host layer passes, the pod layer does not. Rules of a packet filter are \
                not read yet, so this is told with what it cannot be told apart from.",
        fix: "Look at the FORWARD hook: nft list ruleset, iptables -S FORWARD",
        found: true,
    },
    Cause {
        code: "FRAGMENTS-DROPPED",
        title: "fragments are filtered",
        meaning: "Small packets pass, large ones vanish.",
        proof: "Fragments are made and never put together.",
        fix: "Lower the tunnel's MTU or allow fragments.",
        found: false,
    },
    Cause {
        code: "GATEWAY-DOWN",
        title: "a cluster's gateway node is off the underlay",
        meaning: "Everything between the cluster and the others crosses this node, so the whole cluster is cut off \
                  from them; its inside works.",
        proof: "The underlay link of the gateway node is down in its own table; or its tables cannot be read, no node \
                reaches it on the host layer, and other nodes of the cluster answer there.",
        fix: "Bring the node or its underlay link back, or move the gateway role to another node.",
        found: true,
    },
    Cause {
        code: "INNER-MTU-TOO-BIG",
        title: "a tunnel's packets do not fit the underlay",
        meaning: "Packets of full size are fragmented on the way out: slow, and lost where fragments are dropped. Small \
                  packets never show it.",
        proof: "The tunnel's MTU plus the overhead (50 bytes over IPv4, 70 over IPv6) exceeds the underlay link's MTU.",
        fix: "ip link set LINK mtu (underlay MTU - 50, or - 70 over IPv6)",
        found: true,
    },
    Cause {
        code: "INTENT-STALE",
        title: "what the control plane wants is old, or the model of it is",
        meaning: "A NodeConfig differs from what the Cluster and ClusterNode objects call for, and nodes follow the \
                  NodeConfig; or tables equal intent and still packets are lost, so that intent or the model is wrong.",
        proof: "NodeConfig differs from the plan; or a walk over the observed tables passes where packets fail.",
        fix: "Look at the network manager of the control plane: its log, its lease, its access to the objects.",
        found: true,
    },
    Cause {
        code: "JITTER",
        title: "round-trip times scatter",
        meaning: "Slow and uneven, nothing is lost.",
        proof: "The spread of round-trip times against the fleet's.",
        fix: "Look at queues along the path.",
        found: false,
    },
    Cause {
        code: "KUBECONFIG-EXPIRED",
        title: "the credentials of a cluster have expired",
        meaning: "Its API refuses; nothing is said about its network.",
        proof: "401, or a certificate past its date.",
        fix: "Renew the kubeconfig.",
        found: false,
    },
    Cause {
        code: "L2-MTU-MISMATCH",
        title: "the two ends of one segment differ in MTU",
        meaning: "Large packets vanish in one direction, without an ICMP error.",
        proof: "The MTUs of the pair.",
        fix: "Give both ends the same MTU.",
        found: false,
    },
    Cause {
        code: "L4-SELECTIVE-DROP",
        title: "one protocol is dropped on a path that carries others",
        meaning: "Echo requests pass, TCP connections to the responder time out.",
        proof: "Same pair, same path, different protocol, different outcome.",
        fix: "Look for a packet filter or security group between the two that lets ICMP through but not TCP 8889.",
        found: true,
    },
    Cause {
        code: "LATENCY",
        title: "a path has become slow",
        meaning: "Everything passes, later than before.",
        proof: "Round-trip times shift at one component.",
        fix: "Look at load and routing of the component.",
        found: false,
    },
    Cause {
        code: "LOSS-GRAY",
        title: "part of the packets is lost",
        meaning: "The path works, but loses far more than the rest of the fleet does.",
        proof: "At least three packets and three in ten of a cell are lost, five times the fleet's own loss.",
        fix: "Run again with more rounds, then look at queues, policers and errors along the path.",
        found: true,
    },
    Cause {
        code: "NAT-HAIRPIN",
        title: "a pod cannot reach itself by its service",
        meaning: "Only connections of a backend to its own service fail.",
        proof: "Backend and client are the same, and the source is not translated.",
        fix: "Turn hairpin masquerading on.",
        found: false,
    },
    Cause {
        code: "NAT-MISSING",
        title: "a planned address translation is absent",
        meaning: "Packets of nodes to pods of other clusters leave with a source that the other side cannot answer; \
                  traffic between pods is not concerned unless prefixes are mapped.",
        proof: "The planned rule is not in the node's translation table.",
        fix: "Start the datapath's agent on the node; it puts the rule back.",
        found: true,
    },
    Cause {
        code: "NEIGH-MISSING",
        title: "no permanent neighbour row for a peer's overlay address",
        meaning: "The tunnel does not know the peer's Ethernet address. Where flood rows stand, asking for it may still \
                  succeed and packets pass; otherwise senders get host unreachable.",
        proof: "The planned (link, address) row is absent, failed, or not permanent.",
        fix: "ip neighbour replace ADDRESS lladdr MAC dev LINK nud permanent",
        found: true,
    },
    Cause {
        code: "NEIGH-STALE-MAC",
        title: "a peer's Ethernet address is not what its neighbours believe",
        meaning: "Packets reach the peer's tunnel with an Ethernet address that is not its own, and its kernel drops \
                  them without a counter. Either one neighbour row is wrong, or the tunnel itself has changed.",
        proof: "A neighbour row's MAC differs from the plan; or a tunnel's MAC differs from its NodeConfig.",
        fix: "ip neighbour replace ADDRESS lladdr MAC dev LINK nud permanent; ip link set LINK address MAC",
        found: true,
    },
    Cause {
        code: "NEIGH-TABLE-OVERFLOW",
        title: "the host's neighbour table is full",
        meaning: "Everything of the host fails, at random.",
        proof: "The table's size against net.ipv4.neigh.default.gc_thresh3.",
        fix: "sysctl -w net.ipv4.neigh.default.gc_thresh3=...",
        found: false,
    },
    Cause {
        code: "NODE-DOWN",
        title: "a node that is no gateway is off the underlay",
        meaning: "The node and its pods are cut off; the rest of its cluster works. It is to an ordinary node what \
                  GATEWAY-DOWN is to a gateway.",
        proof: "The node's underlay link is down in its own table; or its tables cannot be read and no node reaches \
                it on the host layer.",
        fix: "Bring the node or its underlay link back.",
        found: true,
    },
    Cause {
        code: "PMTU-BLACKHOLE",
        title: "a smaller hop drops silently",
        meaning: "Connections open and then stall; small packets pass.",
        proof: "Loss by size without an ICMP error.",
        fix: "Allow ICMP, or lower the tunnel's MTU.",
        found: false,
    },
    Cause {
        code: "PMTU-VISIBLE-UNHEEDED",
        title: "a smaller hop complains and nobody listens",
        meaning: "Connections open and then stall.",
        proof: "ICMP errors arrive, and the tunnel's MTU stays.",
        fix: "Lower the tunnel's MTU.",
        found: false,
    },
    Cause {
        code: "POD-NIC-DOWN",
        title: "a pod's link is down",
        meaning: "One pod does not answer.",
        proof: "The state of the link in the pod's network.",
        fix: "Restart the pod.",
        found: true,
    },
    Cause {
        code: "POD-POLICY",
        title: "a network policy forbids it",
        meaning: "The pair is denied by intent: no fault.",
        proof: "The policies that select the pod.",
        fix: "Change the policy if the traffic is wanted.",
        found: false,
    },
    Cause {
        code: "POLICY-ROUTE-HIJACK",
        title: "lookups do not reach the datapath's routing table",
        meaning: "The rule that sends lookups to table 200 is absent, or another comes before it; packets for other \
                  clusters take the node's default route instead and are lost beyond it.",
        proof: "The planned rule (priority 200, table 200) is absent; or the walk leaves by another rule.",
        fix: "ip rule add pref 200 lookup 200 (and ip -6 rule ...)",
        found: true,
    },
    Cause {
        code: "QUEUE-DROP",
        title: "a queue overflows",
        meaning: "Loss under load, none when idle.",
        proof: "The queue's drop counter.",
        fix: "Lengthen the queue or shape before it.",
        found: false,
    },
    Cause {
        code: "RATE-LIMITED",
        title: "a policer limits the path",
        meaning: "Loss under load, none when idle.",
        proof: "Loss and latency rise with the rate.",
        fix: "Raise the limit.",
        found: false,
    },
    Cause {
        code: "REJECT",
        title: "a filter refuses explicitly",
        meaning: "Failures are immediate.",
        proof: "ICMP administratively prohibited; its source names the node.",
        fix: "Change the rule on the node that sends it.",
        found: false,
    },
    Cause {
        code: "REORDER",
        title: "packets overtake each other",
        meaning: "Throughput suffers, nothing is lost.",
        proof: "Sequence numbers arrive out of order.",
        fix: "Look at parallel links that are hashed by packet.",
        found: false,
    },
    Cause {
        code: "RETURN-ROUTE-MISSING",
        title: "a node of which only packets speak does not answer over the tunnels",
        meaning: "Packets to the node's pods or back are lost, and its tables cannot be read, so the row is not known: a \
                  route back is the commonest.",
        proof: "Pod layer fails with everybody, host layer passes, tables unreadable.",
        fix: "Make the node's host floater reachable and run again, or look at ip route show table 200 there.",
        found: true,
    },
    Cause {
        code: "ROUTE-BLACKHOLE",
        title: "a route drops what it should carry",
        meaning: "A route of type blackhole, unreachable or prohibit stands where the plan has a way to the peer. The \
                  kernel drops without a counter.",
        proof: "The route's type.",
        fix: "ip route replace PREFIX via GATEWAY dev LINK table 200 onlink",
        found: true,
    },
    Cause {
        code: "ROUTE-MISSING",
        title: "no route to a peer's prefix",
        meaning: "Packets for the prefix take the node's default route and are lost beyond it.",
        proof: "The planned route is not in table 200.",
        fix: "ip route add PREFIX via GATEWAY dev LINK table 200 onlink",
        found: true,
    },
    Cause {
        code: "ROUTE-WRONG-DEV",
        title: "a route leads out of the wrong link or to the wrong next hop",
        meaning: "Packets for the prefix leave where nobody forwards them, and are lost on a router or another node.",
        proof: "The route's link or next hop differs from the plan.",
        fix: "ip route replace PREFIX via GATEWAY dev LINK table 200 onlink",
        found: true,
    },
    Cause {
        code: "ROUTING-LOOP",
        title: "two nodes send packets to each other",
        meaning: "Packets go round until their hops are used up; the senders get time exceeded.",
        proof: "The walk comes back to a node with the same packet.",
        fix: "Put the next hop of the route that sends it round right.",
        found: true,
    },
    Cause {
        code: "RPFILTER",
        title: "strict reverse-path check on a path that is not symmetric",
        meaning: "The kernel drops arriving packets whose source it would answer over another link \
                  (IPReversePathFilter counts them).",
        proof: "The greater of net.ipv4.conf.all.rp_filter and the link's own is 1.",
        fix: "sysctl -w net.ipv4.conf.LINK.rp_filter=2",
        found: true,
    },
    Cause {
        code: "SERVICE-NO-BACKEND",
        title: "a service has no live backend",
        meaning: "Pods are reachable, the service is not.",
        proof: "No endpoint, or none that lives.",
        fix: "Look at the service's selector and its pods.",
        found: false,
    },
    Cause {
        code: "SERVICE-RULE-MISSING",
        title: "a node lacks the rules of a service",
        meaning: "The service fails from that node only.",
        proof: "The service's address takes the default route there.",
        fix: "Restart the node's service proxy.",
        found: false,
    },
    Cause {
        code: "SNAT-UNWANTED",
        title: "a masquerade hides the pods' addresses",
        meaning: "Answers go to the translated address and are lost.",
        proof: "The source that the target sees is not the pod's.",
        fix: "Exempt the other clusters' prefixes from masquerading.",
        found: false,
    },
    Cause {
        code: "STALE-ENDPOINT",
        title: "a service still leads to a pod that is gone",
        meaning: "Some connections to the service time out.",
        proof: "An endpoint that is no live pod's.",
        fix: "Restart the node's service proxy.",
        found: false,
    },
    Cause {
        code: "TOKEN",
        title: "a token is not accepted",
        meaning: "The API refuses; nothing is said about the network.",
        proof: "401 of the API server.",
        fix: "Renew the token.",
        found: false,
    },
    Cause {
        code: "TUNNEL-DEV-DOWN",
        title: "a tunnel is switched off",
        meaning: "The node neither sends nor receives on it. Its routes and neighbours went when it was switched off, \
                  its forwarding rows stay.",
        proof: "The link exists without the flag UP.",
        fix: "ip link set LINK up, then let the datapath's agent put routes and neighbours back.",
        found: true,
    },
    Cause {
        code: "TUNNEL-MAC-LOOP",
        title: "both ends of a tunnel have the same MAC",
        meaning: "The receiving end takes its own MAC as a source for an echo of itself and drops the packet.",
        proof: "The walk delivers a packet whose source MAC is the receiver's own.",
        fix: "Give one of the two ends the MAC of its NodeConfig.",
        found: true,
    },
    Cause {
        code: "TUNNEL-PORT-MISMATCH",
        title: "a tunnel listens on another UDP port than its peers send to",
        meaning: "The kernel answers the peers' packets with port unreachable.",
        proof: "The link's destination port differs from the plan.",
        fix: "Delete the link and let the datapath's agent make it anew.",
        found: true,
    },
    Cause {
        code: "TUNNEL-REPLY-BLOCKED",
        title: "the tunnel's answers are dropped",
        meaning: "Requests arrive, answers do not: both ends retransmit.",
        proof: "The receiver's ledger shows the request.",
        fix: "Allow UDP 4876, 4877 (IPv6: 4866, 4867) in the other direction.",
        found: false,
    },
    Cause {
        code: "TUNNEL-UDP-BLOCKED-HOST",
        title: "a node drops the tunnel's UDP packets",
        meaning: "Everything that arrives over the node's tunnel is lost, from every peer; the underlay is fine.",
        proof: "Tables equal intent, the host layer passes, all tunnel traffic with the node fails.",
        fix: "Allow UDP 4876, 4877 (IPv6: 4866, 4867) on the node.",
        found: true,
    },
    Cause {
        code: "TUNNEL-UDP-BLOCKED-ONEWAY",
        title: "the underlay drops the tunnel's UDP packets between two nodes",
        meaning: "Tunnel packets between these two are lost, in one direction at least; other packets between them pass.",
        proof: "Tables equal intent, the host layer passes, tunnel traffic of the pair fails, that of others passes.",
        fix: "Allow UDP 4876, 4877 (IPv6: 4866, 4867) between the two.",
        found: true,
    },
    Cause {
        code: "UNDERLAY-ARP-POISON",
        title: "the underlay does not carry packets to a node that is up",
        meaning: "The node's link is up and its tables are right, but packets to or from its underlay address are lost. A \
                  router that knows a wrong Ethernet address for it is one way; a filter is another.",
        proof: "Host layer fails, link up, tables equal intent.",
        fix: "Look at the router's neighbour row for the node, and at filters before it.",
        found: true,
    },
    Cause {
        code: "V6-FORWARD-OFF",
        title: "the node does not forward IPv6",
        meaning: "As FORWARD-OFF, in IPv6 alone. Where the setting can be read the code is FORWARD-OFF.",
        proof: "Only packets speak: IPv6 fails, IPv4 passes.",
        fix: "sysctl -w net.ipv6.conf.all.forwarding=1",
        found: true,
    },
    Cause {
        code: "V6-ROUTE-MISSING",
        title: "a node of which only packets speak does not carry IPv6",
        meaning: "IPv4 passes between the same nodes, IPv6 does not, and the tables that would tell why cannot be read.",
        proof: "IPv6 fails, IPv4 passes, tables unreadable.",
        fix: "Make the node's host floater reachable and run again, or look at ip -6 route show table 200 there.",
        found: true,
    },
    Cause {
        code: "VNI-MISMATCH",
        title: "a tunnel has another network identifier than its peers",
        meaning: "The node drops what peers send and they drop what it sends, without a counter.",
        proof: "The link's VNI differs from the plan.",
        fix: "Delete the link and let the datapath's agent make it anew.",
        found: true,
    },
    Cause {
        code: "VTEP-IP-DUPLICATE",
        title: "two nodes own one address",
        meaning: "Packets reach whichever of the two answered last; the other drops what has its own address as a source.",
        proof: "The same address on two nodes; or a packet reaches a node that owns its source.",
        fix: "Take the address from the node that is not planned to have it.",
        found: true,
    },
    Cause {
        code: "VTEP-LOCAL-STALE",
        title: "a tunnel sends from an address that the node no longer has",
        meaning: "Peers answer to the old address and the router has nobody to give it to.",
        proof: "The tunnel's local address is on none of the node's links, or differs from the plan.",
        fix: "Delete the link and let the datapath's agent make it anew.",
        found: true,
    },
    Cause {
        code: "VTEP-MAC-DUPLICATE",
        title: "two tunnels share a MAC",
        meaning: "Packets reach now one, now the other.",
        proof: "The same MAC on two nodes.",
        fix: "Let the planner give the second another MAC.",
        found: false,
    },
    Cause {
        code: "VXLAN-CSUM-OFFLOAD",
        title: "checksums of tunnel packets are wrong",
        meaning: "Small packets pass, connections stall for a second and more.",
        proof: "The kernel's version, the link's offloads, and UDP checksum errors.",
        fix: "ethtool -K LINK tx-udp_tnl-segmentation off",
        found: false,
    },
    Cause {
        code: "WRONG-IDENTITY",
        title: "somebody else answers",
        meaning: "The connection succeeds, but the responder cannot prove to be the one that was asked: two hosts share an \
                  address, two clusters share a prefix, or a row leads to the wrong node.",
        proof: "The responder's proof under the run's key is wrong or absent.",
        fix: "Find the other owner of the address: the finding says who answered.",
        found: true,
    },
];

/// The entry of a code, whatever its case.
#[must_use]
pub fn find(code: &str) -> Option<&'static Cause> {
    CATALOGUE
        .iter()
        .find(|cause| cause.code.eq_ignore_ascii_case(code))
}

/// How specific a code is: a lower number names a row, a higher one a guess from packets.
#[must_use]
pub fn rank(code: &str) -> u8 {
    match code {
        "GATEWAY-DOWN" | "NODE-DOWN" => 0,
        "DEV-DELETED" | "FORWARD-OFF" | "TUNNEL-DEV-DOWN" => 1,
        "INTENT-STALE" => 6,
        "AGENT-SICK"
        | "FORWARD-POLICY-DROP"
        | "L4-SELECTIVE-DROP"
        | "LOSS-GRAY"
        | "RETURN-ROUTE-MISSING"
        | "TUNNEL-UDP-BLOCKED-HOST"
        | "TUNNEL-UDP-BLOCKED-ONEWAY"
        | "UNDERLAY-ARP-POISON"
        | "V6-FORWARD-OFF"
        | "V6-ROUTE-MISSING" => 5,
        "WRONG-IDENTITY" => 4,
        "ADDRESS-MISSING" | "INNER-MTU-TOO-BIG" | "NAT-MISSING" => 3,
        _ => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_catalogue_is_sorted_and_complete() {
        assert!(CATALOGUE.is_sorted_by(|a, b| a.code < b.code));
        for cause in CATALOGUE {
            for text in [cause.title, cause.meaning, cause.proof, cause.fix] {
                assert!(!text.is_empty(), "{}", cause.code);
            }
            assert_eq!(find(&cause.code.to_lowercase()), Some(cause));
        }
        assert_eq!(find("FDB"), None);
    }
}
