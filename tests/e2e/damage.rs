//! Damage by hand: what an administrator's `ip` can do to a node, and what a wrong object does. Each is one finding, at its place.

use serde_json::{Value, json};
use tests::client::Endpoint;
use tests::lab::{Lab, titled};

/// Code, place, kind and name of each finding that packets suffer from.
fn errors(report: &Value) -> Vec<String> {
    let findings = report["findings"].as_array().unwrap().iter();
    let findings = findings.filter(|finding| finding["severity"] == "error");
    let name = |finding: &Value| finding["element"]["name"].as_str().unwrap().to_owned();
    findings
        .map(|finding| format!("{} {}", titled(finding), name(finding)))
        .collect()
}

fn shell(lab: &Lab, at: &str, script: &str) {
    lab.exec_ok(at, &["sh", "-ec", script]);
}

#[test]
#[ignore = "netns: needs vxlan, nft, iproute2"]
fn damage_that_nobody_planned_is_named_where_it_is() {
    let lab = Lab::up(&["--clusters", "3", "--nodes", "2", "--family", "all"]);
    lab.place.run(["sim", "freeze"]).expect(0);
    let address = |at: &str, link: &str| {
        let shown = lab.exec_json(at, &["ip", "-j", "link", "show", "dev", link]);
        shown[0]["address"].as_str().unwrap().to_owned()
    };
    let (own, other) = (address("c1/n1", "vx-bridge"), address("c2/n1", "vx-bridge"));
    // Where, what is done, what undoes it, what is found.
    let cases: Vec<(&str, String, String, &str)> = vec![
        (
            "c1/n1",
            "ip rule add pref 100 to 10.2.0.0/16 lookup 250; ip route add blackhole default table 250".into(),
            "ip rule del pref 100; ip route flush table 250".into(),
            "POLICY-ROUTE-HIJACK c1/n1 rule ipv4 100: from all to 10.2.0.0/16 lookup 250",
        ),
        (
            "c2/n2",
            "ip rule add pref 100 from 10.2.0.0/16 to 10.1.0.0/16 lookup 99; ip route add default dev lo table 99".into(),
            "ip rule del pref 100; ip route flush table 99".into(),
            "POLICY-ROUTE-HIJACK c2/n2 rule ipv4 100: from 10.2.0.0/16 to 10.1.0.0/16 lookup 99",
        ),
        (
            "c1/n1",
            "ip route add 10.2.0.0/24 via 100.64.0.1 dev eth0 onlink table 200".into(),
            "ip route del 10.2.0.0/24 table 200".into(),
            "ROUTE-WRONG-DEV c1/n1 route 10.2.0.0/24 table 200",
        ),
        (
            "c1/n1",
            "ip route add blackhole 100.64.1.2/32".into(),
            "ip route del blackhole 100.64.1.2/32".into(),
            "ROUTE-BLACKHOLE c1/n1 route 100.64.1.2/32 table 254",
        ),
        (
            "c1/n2",
            "ip neigh replace 100.64.0.2 lladdr 02:11:22:33:44:55 dev eth0 nud permanent".into(),
            "ip neigh del 100.64.0.2 dev eth0".into(),
            "UNDERLAY-ARP-POISON c1/n2 neighbour 100.64.0.2 dev eth0",
        ),
        (
            "c1/n1",
            format!("ip link set vx-bridge address {other}"),
            // The kernel takes the permanent neighbours away with the address: they are put back as those of IPv4 were.
            format!("ip link set vx-bridge address {own}"),
            "VTEP-MAC-DUPLICATE c1/n1 link vx-bridge",
        ),
        (
            "c2/n1",
            "ip link set eth0 mtu 1300".into(),
            "ip link set eth0 mtu 1500".into(),
            "L2-MTU-MISMATCH c2/n1 link eth0",
        ),
        (
            "c2/n1",
            "ip route replace 10.3.0.0/16 table 200 nexthop via 220.64.2.2 dev vx-bridge onlink nexthop via 220.64.77.7 dev vx-bridge onlink".into(),
            "ip route replace 10.3.0.0/16 via 220.64.2.2 dev vx-bridge onlink table 200".into(),
            "ECMP-PARTIAL c2/n1 route 10.3.0.0/16 table 200",
        ),
    ];
    for (at, damage, undo, found) in cases {
        shell(&lab, at, &damage);
        let (exit, report) = lab.dr(&[]);
        assert_eq!(errors(&report), [found], "{damage}: {report:#}");
        assert_eq!(exit, Some(1));
        shell(&lab, at, &undo);
        // Whatever else went with it the agents put back.
        lab.place.run(["sim", "thaw"]).expect(0);
        lab.place.run(["sim", "freeze"]).expect(0);
    }
    lab.down();
}

/// Rules that select what nobody sends, or that lead where packets arrive, accuse nobody.
#[test]
#[ignore = "netns: needs vxlan, nft, iproute2"]
fn rules_and_rows_of_others_that_do_no_harm_accuse_nobody() {
    let lab = Lab::up(&["--clusters", "2", "--nodes", "2", "--family", "all"]);
    for at in ["c1/n1", "c1/n2", "c2/n1"] {
        shell(
            &lab,
            at,
            "ip rule add pref 100 fwmark 0x77 lookup 251
             ip rule add pref 101 ipproto tcp dport 1 lookup 251
             ip route add unreachable default table 251
             ip rule add pref 102 lookup main suppress_prefixlength 0
             ip route add 192.168.77.0/24 via 100.64.0.1 dev eth0 onlink table 200
             bridge fdb append 02:aa:bb:cc:dd:01 dev vx-local dst 100.64.0.9",
        );
    }
    let (exit, report) = lab.dr(&[]);
    assert_eq!(errors(&report), Vec::<String>::new(), "{report:#}");
    assert_eq!(exit, Some(0), "{report:#}");
    lab.down();
}

/// The object that says what is not so is the cause, not the rows and NodeConfigs that follow it.
#[test]
#[ignore = "netns: needs vxlan, nft, iproute2"]
fn an_object_that_contradicts_its_node_is_the_cause() {
    let lab = Lab::up(&["--clusters", "3", "--nodes", "2", "--family", "all"]);
    lab.place.run(["sim", "freeze"]).expect(0);
    let api = Endpoint::of(lab.kubeconfig(), "c1");
    let kosmos = "/apis/kosmos.io/v1alpha1";
    let patch = |path: &str, body: Value| {
        let (status, answer) = api.call("PATCH", &format!("{kosmos}/{path}"), &body);
        assert_eq!(status, 200, "{answer}");
    };
    patch("clusternodes/c1-n1", json!({"spec": {"ip": "100.64.0.99"}}));
    let (_, report) = lab.dr(&[]);
    assert_eq!(
        errors(&report),
        ["INTENT-STALE c1/n1 clusternode c1-n1 spec.ip"],
        "{report:#}"
    );
    assert_eq!(
        report["findings"].as_array().unwrap().len(),
        1,
        "{report:#}"
    );
    patch("clusternodes/c1-n1", json!({"spec": {"ip": "100.64.0.2"}}));

    // A gateway that has moved on, and nobody follows: packets still pass.
    patch("clusternodes/c1-n1", json!({"spec": {"roles": []}}));
    patch(
        "clusternodes/c1-n2",
        json!({"spec": {"roles": ["gateway"]}}),
    );
    let (exit, report) = lab.dr(&[]);
    assert_eq!(exit, Some(0), "{report:#}");
    let findings = report["findings"].as_array().unwrap();
    assert!(
        findings
            .iter()
            .all(|finding| finding["code"] == "FAILOVER-INCOMPLETE"),
        "{findings:#?}"
    );
    let mut nodes: Vec<String> = findings
        .iter()
        .map(|finding| {
            let element = &finding["element"];
            format!(
                "{}/{}",
                element["cluster"].as_str().unwrap(),
                element["node"].as_str().unwrap()
            )
        })
        .collect();
    nodes.sort();
    assert_eq!(nodes, ["c1/n1", "c1/n2", "c2/n1", "c3/n1"]);
    lab.down();
}
