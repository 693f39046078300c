//! Clusters with several gateways: who is one, what is written for whom, and what is said of what cannot be.
#![allow(missing_docs, clippy::expect_used, reason = "a test")]

use datapath::api::{Fleet, GATEWAYS, Gateway, Multipath};
use datapath::nodeconfig::desired;
use datapath::plan::{Objection, Planner};
use datapath::state::{NodeState, Route};
use serde_json::{Value, json};

/// Cluster `a` with three nodes that have the role, and `b` with one; `a`'s annotation and map.
fn fleet(gateways: Value, map: Value) -> Fleet {
    let cluster = |name: &str, number: Value, map: Value, pods: &str| {
        json!({"metadata": {"name": name, "annotations": {(GATEWAYS): number}},
            "spec": {"clusterLinkOptions": {"networkType": "gateway", "ipFamily": "ipv4", "globalCIDRsMap": map}},
            "status": {"clusterLinkStatus": {"podCIDRs": [pods], "serviceCIDRs": []}}})
    };
    let node = |cluster: &str, host: u8, roles: &[&str]| {
        let third = u8::from(cluster == "b");
        json!({"metadata": {"name": format!("{cluster}-n{host}")}, "spec": {"clusterName": cluster, "nodeName": format!("n{host}"),
            "ip": format!("100.64.{third}.{host}"), "interfaceName": "eth0", "roles": roles}})
    };
    let fleet = json!({
        "clusters": [cluster("a", gateways, map, "10.1.0.0/16"), cluster("b", json!("1"), json!({}), "10.2.0.0/16")],
        "clusterNodes": [
            node("a", 2, &["gateway"]), node("a", 10, &["Gateway"]), node("a", 3, &["gateway"]), node("a", 4, &["standby"]),
            node("b", 1, &["gateway"]), node("b", 2, &[]),
        ],
    });
    serde_json::from_value(fleet).expect("a fleet")
}

fn said(planner: &Planner) -> Vec<String> {
    planner
        .objections()
        .iter()
        .map(Objection::to_string)
        .collect()
}

/// What a node of the other cluster's gateway has to `a`'s pods.
fn hops(planner: &Planner, node: &str, dst: &str) -> Vec<String> {
    let bare: NodeState = serde_json::from_value(json!({
        "links": [{"name": "eth0", "mac": null, "mtu": 1500, "up": true, "kind": {"kind": "veth"}}],
        "addresses": [{"link": "eth0", "net": "100.64.0.1/10"}],
    }))
    .expect("a state");
    let (state, problems) = planner.desired(node, &bare).expect("it takes part");
    assert_eq!(problems, []);
    let config = planner.config(node).expect("it takes part");
    assert_eq!(desired(&config, &bare), (state.clone(), Vec::new()));
    let is_it = |route: &&Route| route.dst.to_string() == dst;
    let route = state.routes.iter().find(is_it).expect("a route");
    let vias = route.hops.iter().filter_map(|hop| hop.via);
    vias.map(|ip| ip.to_string()).collect()
}

#[test]
fn as_many_as_asked_for_forward_and_stand_in_for_each_other() {
    let planner = Planner::of(&fleet(json!("2"), json!({})));
    // By name; the third one is not asked for, and several need no standby.
    let [left_out] = said(&planner).try_into().expect("one objection");
    assert!(left_out.contains("a-n3"), "{left_out}");
    for (node, dst, wanted) in [
        ("b-n1", "10.1.0.0/16", vec!["220.64.0.2", "220.64.0.10"]),
        ("b-n2", "10.1.0.0/16", vec!["210.64.1.1"]),
        ("a-n2", "10.2.0.0/16", vec!["220.64.1.1"]),
        ("a-n4", "10.2.0.0/16", vec!["210.64.0.2", "210.64.0.10"]),
    ] {
        assert_eq!(hops(&planner, node, dst), wanted, "{node}");
    }
    let config = planner.config("b-n1").expect("it takes part");
    let text = str::to_owned;
    assert_eq!(
        config.multipath,
        [Multipath {
            cidr: text("10.1.0.0/16"),
            gw: text("220.64.0.2"),
            dev: text("vx-bridge"),
            via: text("220.64.0.10"),
        }]
    );
    let watched = |active: &str, standby: &str| Gateway {
        dev: text("vx-bridge"),
        active: text(active),
        standby: text(standby),
        cluster: text("a"),
    };
    let ring = [
        watched("220.64.0.10", "220.64.0.2"),
        watched("220.64.0.2", "220.64.0.10"),
    ];
    assert_eq!(config.gateways, ring);
    // A detour is a route through those who are left, and no other.
    let route = |vias: &[&str]| -> Route {
        let hops: Vec<Value> = vias
            .iter()
            .map(|via| json!({"via": via, "link": "vx-bridge", "onlink": true}))
            .collect();
        serde_json::from_value(json!({"table": 200, "dst": "10.1.0.0/16", "kind": "unicast", "hops": hops, "protocol": 3}))
            .expect("a route")
    };
    let planned = route(&["220.64.0.2", "220.64.0.10"]);
    for (used, is_one) in [
        (&["220.64.0.10"][..], true),
        (&["220.64.0.2"], true),
        (&["220.64.0.2", "220.64.0.10"], false),
        (&["220.64.0.3"], false),
        (&["220.64.0.2", "220.64.0.3"], false),
        (&[], false),
    ] {
        assert_eq!(
            planner.is_detour("b-n1", &planned, &route(used)),
            is_one,
            "{used:?}"
        );
    }
}

#[test]
fn without_a_readable_wish_or_with_renamed_prefixes_there_is_one() {
    // The first by name.
    let alone = ["220.64.0.10"];
    for (number, map, objected) in [
        (json!("1"), json!({}), None),
        (
            json!("0"),
            json!({}),
            Some("`0` is not a number from 1 to 4"),
        ),
        (json!("many"), json!({}), Some("`many` is not a number")),
        (
            json!("2"),
            json!({"10.1.0.0/16": "10.9.0.0/16"}),
            Some("2 gateways do not go with a globalCIDRsMap"),
        ),
    ] {
        let planner = Planner::of(&fleet(number.clone(), map.clone()));
        let said = said(&planner);
        assert!(
            objected.is_none_or(|words| said.iter().any(|one| one.contains(words))),
            "{number}: {said:?}"
        );
        assert!(said.iter().any(|one| one.contains("a-n3")), "{said:?}");
        let dst = if map == json!({}) {
            "10.1.0.0/16"
        } else {
            "10.9.0.0/16"
        };
        assert_eq!(hops(&planner, "b-n1", dst), alone, "{number}");
        let config = planner.config("b-n1").expect("it takes part");
        assert_eq!(config.multipath, []);
    }
}
