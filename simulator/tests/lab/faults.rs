//! Faults and drift in a lab: what breaks, what comes back, and when.

use std::time::{Duration, Instant};

use datapath::code::Code;

use super::place::{Place, client, kubeconfig_of, pods, runtime};

#[test]
#[ignore = "netns: needs vxlan, nft"]
fn faults_break_what_they_say_and_are_cleared() {
    let place = Place::new();
    place.run(&["up", "2", "2", "gateway", "ipv4"]);
    let works = || place.reaches("c1/n2/floater-n2", "10.2.1.2");
    assert!(works());
    for code in simulator::control::fault_list() {
        let (at, number) = match code {
            Code::NodeDown => ("c1/n2", 1),
            // A cluster without IPv6.
            Code::V6ForwardOff => {
                place.refused(&["inject", code.word(), "c1/n1"], "no IPv6 tunnel");
                continue;
            }
            _ => ("c1/n1", 0),
        };
        place.run(&["inject", code.word(), &format!("{at},c2")]);
        assert_eq!(works(), passes_small_packets(code), "{code}");
        let status = place.status();
        assert_eq!(status["faults"][0], format!("{code} at {at}"));
        let node = &status["clusters"][0]["nodes"][number];
        assert_eq!(node["faults"][0], code.word());
        assert_eq!(node["frozen"], true);
        place.run(&["clear"]);
        assert!(works(), "{code} was not cleared");
    }
    place.refused(&["inject", "NODE-DOWN", "c1/n1"], "inject GATEWAY-DOWN");
    place.refused(
        &["inject", "NAT-MISSING", "c1/n2"],
        "translates no addresses",
    );
    place.refused(&["inject", "NO-SUCH", "c1"], "NO-SUCH");
    place.refused(&["inject", "LATENCY", "c1"], "delays and drops no packets");
    place.refused(&["inject", "FDB-MISSING", "c7"], "no cluster `c7`");
    place.refused(&["inject", "FDB-MISSING", "c1,c1"], "no peer of its own");
    place.down();
}

#[test]
#[ignore = "netns: needs vxlan, nft"]
fn what_a_fault_took_comes_back_also_where_everything_stands_still() {
    let place = Place::new();
    place.run(&["up", "2", "2", "gateway", "all"]);
    let works = || {
        let to = ["10.2.1.2", "fd10:0:2:1::2"];
        let pods = pods(&kubeconfig_of(&place), &place.status());
        assert!(
            to.iter().all(|ip| pods.iter().any(|(_, held)| held == ip)),
            "{pods:?}"
        );
        to.map(|ip| place.reaches("c1/n2/floater-n2", ip))
    };
    assert_eq!(works(), [true, true]);
    place.run(&["freeze"]);
    for code in simulator::control::fault_list() {
        let (at, expected) = match code {
            Code::NodeDown => ("c1/n2,c2", [false, false]),
            Code::GatewayDown => ("c1/n1,c2", [false, false]),
            Code::V6ForwardOff => ("c1/n1,c2", [true, false]),
            _ => ("c1/n1,c2", [passes_small_packets(code), true]),
        };
        place.run(&["inject", code.word(), at]);
        assert_eq!(works(), expected, "{code}");
        place.run(&["clear"]);
        assert_eq!(works(), [true, true], "{code} was not cleared");
    }
    // Two at one node, the second of which removes what the first one changed.
    place.run(&["inject", "NEIGH-STALE-MAC", "c1/n1,c2"]);
    place.run(&["inject", "TUNNEL-DEV-DOWN", "c1/n1"]);
    place.run(&["clear"]);
    assert_eq!(works(), [true, true]);
    assert_eq!(place.status()["frozen"][0], "all");
    place.down();
}

/// Whether an echo between pods of two clusters passes the gateway that has this cause: a missing neighbour is found by flooding as long as
/// the flood rows stand, small packets fit all tunnels, those of pods are not translated here, and rules about connections or about the
/// gateway's own pod are no concern of it.
fn passes_small_packets(code: Code) -> bool {
    matches!(
        code,
        Code::InnerMtuTooBig
            | Code::L2MtuMismatch
            | Code::L4SelectiveDrop
            | Code::NatMissing
            | Code::NeighMissing
            | Code::PodPolicy
    )
}

/// Whoever deletes a NodeConfig while its agent stands still is heard once it goes on, and not at once: objects come and go.
#[test]
#[ignore = "netns: needs vxlan, nft, iproute2"]
fn a_config_that_was_deleted_while_its_agent_was_frozen_is_withdrawn_after_a_grace() {
    use kube::api::{Api, ApiResource, DeleteParams, DynamicObject};
    use kube::core::GroupVersionKind;

    let place = Place::new();
    place.run(&["up", "2", "1", "gateway", "ipv4"]);
    let rows = || {
        let show = ["exec", "c2/n1", "ip", "route", "show", "table", "200"];
        place.run(&show).lines().count()
    };
    let planned = rows();
    assert!(planned > 0);
    place.run(&["freeze"]);
    runtime().block_on(async {
        let client = client(&kubeconfig_of(&place), "c1").await;
        for (kind, plural) in [
            ("ClusterNode", "clusternodes"),
            ("NodeConfig", "nodeconfigs"),
        ] {
            let kind = GroupVersionKind::gvk("kosmos.io", "v1alpha1", kind);
            let resource = ApiResource::from_gvk_with_plural(&kind, plural);
            let objects: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
            objects
                .delete("c2-n1", &DeleteParams::default())
                .await
                .unwrap();
        }
    });
    assert_eq!(rows(), planned);
    place.run(&["thaw"]);
    assert_eq!(rows(), planned, "withdrawn at once");
    let deadline = Instant::now() + Duration::from_secs(20);
    while rows() > 0 {
        assert!(Instant::now() < deadline, "never withdrawn");
        std::thread::sleep(Duration::from_millis(200));
    }
    place.down();
}

/// What the fix of a finding says may have been done by hand before the fault is cleared, or the half of it.
#[test]
#[ignore = "netns: needs vxlan, nft, iproute2"]
fn faults_that_were_repaired_by_hand_are_cleared_all_the_same() {
    let place = Place::new();
    place.run(&["up", "2", "2", "gateway", "ipv4"]);
    let shell = |script: &str| place.run(&["exec", "c1/n1", "sh", "-c", script]);
    let rows = || {
        shell(
            "ip route show table 200; ip route show | sort; ip neigh show dev vx-bridge nud permanent | sort; \
             bridge fdb show dev vx-bridge | sort; cat /proc/sys/net/ipv4/ip_forward",
        )
    };
    let planned = rows();
    let route = shell("ip route show table 200");
    let route = route.lines().next().unwrap();
    let fdb = shell("bridge fdb show dev vx-bridge | grep -v '^00:00:00:00:00:00'");
    let fdb = fdb.lines().next().unwrap().replace(" self", "");
    let fdb = fdb.replace(" permanent", "");
    let words: Vec<&str> = fdb.split_ascii_whitespace().collect();
    let (mac, vtep) = (
        words[0],
        words[words.iter().position(|word| *word == "dst").unwrap() + 1],
    );
    let words: Vec<&str> = route.split_ascii_whitespace().collect();
    let via = words[words.iter().position(|word| *word == "via").unwrap() + 1];
    for (code, fix) in [
        (
            Code::FdbMissing,
            format!("bridge fdb append {mac} dev vx-bridge dst {vtep} self permanent"),
        ),
        (
            Code::FdbWrongVtep,
            // Half of it: the wrong row is gone.
            format!("bridge fdb del {mac} dev vx-bridge self"),
        ),
        (
            Code::FdbWrongVtep,
            format!("bridge fdb replace {mac} dev vx-bridge dst {vtep} self permanent"),
        ),
        (
            Code::NeighMissing,
            format!("ip neigh add {via} lladdr {mac} dev vx-bridge nud permanent"),
        ),
        (
            Code::NeighStaleMac,
            format!("ip neigh del {via} dev vx-bridge"),
        ),
        (
            Code::RouteMissing,
            format!("ip route add table 200 {route}"),
        ),
        (
            Code::RouteWrongDev,
            format!("ip route replace table 200 {route}"),
        ),
        (Code::TunnelDevDown, "ip link set vx-bridge up".to_owned()),
        (Code::TunnelDevDown, "ip link del vx-bridge".to_owned()),
        (Code::GatewayDown, "ip link set eth0 up".to_owned()),
        // Others than planned, and half of what mends it: the link is made anew, and nothing put back on it.
        (Code::VniMismatch, "ip link del vx-bridge".to_owned()),
        (Code::DevDeleted, "true".to_owned()),
        (
            Code::AddressMissing,
            "ip link set vx-bridge down".to_owned(),
        ),
        (
            Code::PolicyRouteHijack,
            "ip rule add pref 200 lookup 200".to_owned(),
        ),
        (
            Code::RouteBlackhole,
            format!("ip route del {} table 200", words[0]),
        ),
        (
            Code::InnerMtuTooBig,
            "ip link set vx-bridge mtu 1400".to_owned(),
        ),
        (
            Code::Rpfilter,
            "echo 2 > /proc/sys/net/ipv4/conf/vx-local/rp_filter".to_owned(),
        ),
        (
            Code::ForwardOff,
            "echo 1 > /proc/sys/net/ipv4/ip_forward".to_owned(),
        ),
    ] {
        place.run(&["inject", code.word(), "c1/n1,c2"]);
        shell(&fix);
        place.run(&["clear"]);
        assert_eq!(place.status()["faults"], serde_json::json!([]), "{code}");
        assert!(
            place.reaches("c1/n2/floater-n2", "10.2.1.2"),
            "{code}: {fix}"
        );
        assert!(
            place.reaches("c2/n2/floater-n2", "10.1.1.2"),
            "{code}: {fix}"
        );
        assert_eq!(rows(), planned, "{code}: {fix}");
    }
    place.down();
}

#[test]
#[ignore = "netns: needs vxlan, nft, iproute2"]
fn drift_is_repaired_within_a_second_unless_frozen() {
    let place = Place::new();
    place.run(&["up", "2", "1", "gateway", "ipv4"]);
    let ip = |words: &[&str]| {
        let words = ["exec", "c1/n1", "ip", "route"]
            .iter()
            .chain(words)
            .copied();
        place.run(&words.collect::<Vec<_>>())
    };
    let count = || ip(&["show", "table", "200"]).lines().count();
    let flush = || ip(&["flush", "table", "200"]);
    let planned = count();
    assert!(planned > 0);
    flush();
    let deadline = Instant::now() + Duration::from_secs(1);
    while count() != planned {
        assert!(Instant::now() < deadline, "not repaired within a second");
    }
    place.run(&["freeze", "c1/n1"]);
    assert_eq!(place.status()["frozen"][0], "c1/n1");
    flush();
    // Longer than an agent's round: nothing is what has to happen.
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(count(), 0);
    place.run(&["thaw", "c1/n1"]);
    assert_eq!(count(), planned);
    place.refused(&["freeze", "c1/n9"], "no node `n9`");
    place.down();
}
