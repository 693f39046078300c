//! Each cause code, put in by other people's tools in the node's own namespace, and named with its node.

use datapath::code::Code;
use serde_json::Value;

use super::injection::{element_of, has_no_place, is_filter, node_of};
use tests::lab::{Lab, names};

/// The tunnel row of a peer gateway, as iproute2 shows it.
struct Peer {
    mac: String,
    underlay: String,
    overlay: String,
}

/// How the nodes of a family of tunnels are spelled.
struct Words {
    ip: &'static str,
    bridge: &'static str,
    wrong_vtep: &'static str,
    forwarding: &'static str,
}

const V4: Words = Words {
    ip: "-4",
    bridge: "vx-bridge",
    wrong_vtep: "100.127.255.250",
    forwarding: "net/ipv4/ip_forward",
};
const V6: Words = Words {
    ip: "-6",
    bridge: "vx-bridge-6",
    wrong_vtep: "fd00:dead::250",
    forwarding: "net/ipv6/conf/all/forwarding",
};

/// The first cluster's gateway seen from the second one's.
fn peer_of(lab: &Lab, at: &str, of: &str, words: &Words) -> Peer {
    let link = lab.exec_json(of, &["ip", "-j", "-d", "link", "show", "dev", words.bridge]);
    let mac = link[0]["address"].as_str().unwrap().to_owned();
    let vxlan = &link[0]["linkinfo"]["info_data"];
    let underlay = vxlan["local"]
        .as_str()
        .or_else(|| vxlan["local6"].as_str())
        .unwrap()
        .to_owned();
    let neighbours = lab.exec_json(
        at,
        &["ip", words.ip, "-j", "neigh", "show", "dev", words.bridge],
    );
    let row = neighbours
        .as_array()
        .unwrap()
        .iter()
        .find(|row| row["lladdr"] == mac.as_str())
        .unwrap();
    Peer {
        mac,
        underlay,
        overlay: row["dst"].as_str().unwrap().to_owned(),
    }
}

/// A prefix of table 200 that leads to a peer's overlay address.
fn route_to(lab: &Lab, at: &str, overlay: &str, words: &Words) -> String {
    let routes = lab.exec_json(at, &["ip", words.ip, "-j", "route", "show", "table", "200"]);
    let routes = routes.as_array().unwrap();
    // The pods' route, not the services': it is the one that packets take here.
    let is_pods = |route: &&Value| {
        let dst = route["dst"].as_str().unwrap();
        route["gateway"] == overlay
            && !dst.starts_with("172.")
            && !dst.ends_with("/108")
            && !dst.ends_with("/112")
    };
    routes.iter().find(is_pods).unwrap()["dst"]
        .as_str()
        .unwrap()
        .to_owned()
}

/// The top finding has the code and the node, and every finding has.
#[track_caller]
fn assert_blamed(lab: &Lab, code: &str, at: &str) -> Value {
    let (exit, report) = lab.dr(&[]);
    let findings = report["findings"].as_array().unwrap();
    assert!(
        !findings.is_empty(),
        "{code} at {at} was not found\n{report:#}"
    );
    for finding in findings {
        let element = &finding["element"];
        let node = format!(
            "{}/{}",
            element["cluster"].as_str().unwrap_or("-"),
            element["node"].as_str().unwrap_or("-")
        );
        assert_eq!(
            (finding["code"].as_str().unwrap(), node.as_str()),
            (code, at),
            "{findings:#?}"
        );
        assert!(!finding["evidence"].as_array().unwrap().is_empty());
        assert!(!finding["fix"].as_str().unwrap().is_empty());
    }
    let is_error = findings
        .iter()
        .any(|finding| finding["severity"] == "error");
    let suffers = names(&report, "/cells", "verdict")
        .iter()
        .any(|verdict| verdict == "fail" || verdict == "degraded");
    assert_eq!(is_error, suffers, "severity against cells\n{report:#}");
    assert_eq!(exit, Some(i32::from(is_error)), "{report:#}");
    let affects = findings[0]["affects"].as_array().unwrap();
    assert_eq!(affects.is_empty(), !is_error, "{report:#}");
    report
}

/// All nine in one lab of this kind, one after the other, each taken back by thawing the datapath.
fn nine_codes(arguments: &[&str], words: &Words) {
    let lab = Lab::up(arguments);
    let (near, far) = (
        format!("{}/n1", lab.clusters[0]),
        format!("{}/n1", lab.clusters[1]),
    );
    let overlays = peer_of(&lab, &near, &far, words);
    let prefix = route_to(&lab, &near, &overlays.overlay, words);
    let shell = |text: String| vec!["sh".to_owned(), "-ec".to_owned(), text];
    let Words { ip, bridge, .. } = words;
    let Peer {
        mac,
        underlay,
        overlay,
    } = &overlays;
    let zero = "00:00:00:00:00:00";
    let cases: Vec<(&str, &str, Vec<String>)> = vec![
        (
            "FDB-MISSING",
            &near,
            shell(format!(
                "bridge fdb del {mac} dev {bridge} dst {underlay} self; bridge fdb del {zero} dev {bridge} dst {underlay} self"
            )),
        ),
        (
            "FDB-WRONG-VTEP",
            &near,
            shell(format!(
                "bridge fdb replace {mac} dev {bridge} dst {} self permanent",
                words.wrong_vtep
            )),
        ),
        (
            "NEIGH-MISSING",
            &near,
            shell(format!("ip {ip} neigh del {overlay} dev {bridge}")),
        ),
        (
            "NEIGH-STALE-MAC",
            &near,
            shell(format!(
                "ip {ip} neigh replace {overlay} lladdr 02:de:ad:be:ef:01 nud permanent dev {bridge}"
            )),
        ),
        // The peer's own address changed: the packets die there, and so does the blame lie there.
        (
            "NEIGH-STALE-MAC",
            &far,
            shell(format!("ip link set {bridge} address 02:de:ad:be:ef:02")),
        ),
        (
            "ROUTE-MISSING",
            &near,
            shell(format!("ip {ip} route del {prefix} table 200")),
        ),
        (
            "ROUTE-WRONG-DEV",
            &near,
            shell(format!(
                "ip {ip} route replace {prefix} via $(ip {ip} -j route show default | grep -o '\"gateway\":\"[^\"]*' | cut -d'\"' -f4) dev eth0 table 200 onlink"
            )),
        ),
        (
            "FORWARD-OFF",
            &far,
            shell(format!("echo 0 > /proc/sys/{}", words.forwarding)),
        ),
        (
            "TUNNEL-DEV-DOWN",
            &far,
            shell(format!("ip link set {bridge} down")),
        ),
        (
            "GATEWAY-DOWN",
            &far,
            shell("ip link set eth0 down".to_owned()),
        ),
    ];
    for (code, at, command) in cases {
        lab.place.run(["sim", "freeze"]).expect(0);
        let before = snapshot(&lab, at);
        let words: Vec<&str> = command.iter().map(String::as_str).collect();
        lab.exec_ok(at, &words);
        assert_blamed(&lab, code, at);
        restore(&lab, at, &before);
        lab.place.run(["sim", "thaw"]).expect(0);
        let (exit, report) = lab.dr(&[]);
        assert_eq!(
            exit,
            Some(0),
            "the datapath did not mend {code}\n{report:#}"
        );
    }
    lab.down();
}

/// What the datapath does not own and therefore does not mend: the node's own link, its addresses and its routes.
fn snapshot(lab: &Lab, at: &str) -> Vec<String> {
    // The kernel drops IPv6 addresses of a link that goes down.
    let addresses = lab.exec_json(
        at,
        &[
            "ip", "-6", "-j", "addr", "show", "dev", "eth0", "scope", "global",
        ],
    );
    let mut commands: Vec<String> = addresses[0]["addr_info"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|row| Some(format!("{}/{}", row["local"].as_str()?, row["prefixlen"])))
        .map(|address| format!("ip -6 addr replace {address} dev eth0 nodad"))
        .collect();
    commands.extend(routes_of(lab, at));
    commands
}

fn routes_of(lab: &Lab, at: &str) -> Vec<String> {
    ["-4", "-6"]
        .iter()
        .flat_map(|ip| {
            let routes = lab.exec_ok(at, &["ip", ip, "route", "show", "dev", "eth0"]);
            let keep = |line: &&str| !line.contains("proto kernel") && !line.starts_with("fe80");
            let lines: Vec<String> = routes
                .lines()
                .filter(keep)
                .map(|line| {
                    // What `show` says of a route's state is no word of `replace`.
                    let words: Vec<&str> = line
                        .split_whitespace()
                        .filter(|word| !matches!(*word, "linkdown" | "dead" | "pref" | "medium"))
                        .collect();
                    format!("ip {ip} route replace {} dev eth0", words.join(" "))
                })
                .collect();
            lines
        })
        .collect()
}

fn restore(lab: &Lab, at: &str, commands: &[String]) {
    let switches = "for f in ipv4/ip_forward ipv6/conf/all/forwarding; do echo 1 > /proc/sys/net/$f; done; ip link set eth0 up";
    lab.exec_ok(at, &["sh", "-ec", switches]);
    if !commands.is_empty() {
        lab.exec_ok(at, &["sh", "-ec", &commands.join("; ")]);
    }
}

#[test]
#[ignore = "netns: needs vxlan, nft, iproute2"]
fn nine_codes_in_gateway_mode() {
    nine_codes(
        &["--clusters", "3", "--nodes", "2", "--mode", "gateway"],
        &V4,
    );
}

#[test]
#[ignore = "netns: needs vxlan, nft, iproute2"]
fn nine_codes_over_ipv6() {
    nine_codes(
        &[
            "--clusters",
            "2",
            "--nodes",
            "2",
            "--mode",
            "gateway",
            "--family",
            "ipv6",
        ],
        &V6,
    );
}

/// The far node lacks the way back: the request arrives, the reply is dropped elsewhere.
#[test]
#[ignore = "netns: needs vxlan, nft, iproute2"]
fn a_missing_return_route_of_an_inner_node_is_blamed_on_it() {
    let lab = Lab::up(&["--clusters", "3", "--nodes", "3", "--mode", "gateway"]);
    let at = format!("{}/n3", lab.clusters[2]);
    lab.place.run(["sim", "freeze"]).expect(0);
    let routes = lab.exec_json(&at, &["ip", "-j", "route", "show", "table", "200"]);
    let dst = routes
        .as_array()
        .unwrap()
        .iter()
        .map(|route| route["dst"].as_str().unwrap());
    let dst = dst
        .into_iter()
        .find(|dst| !dst.starts_with("172."))
        .unwrap()
        .to_owned();
    lab.exec_ok(&at, &["ip", "route", "del", &dst, "table", "200"]);
    assert_blamed(&lab, "ROUTE-MISSING", &at);
    lab.down();
}

/// In P2P every node holds rows of its own.
#[test]
#[ignore = "netns: needs vxlan, nft, iproute2"]
fn a_second_node_of_a_p2p_cluster_is_blamed_for_its_own_rows() {
    let lab = Lab::up(&["--clusters", "2", "--nodes", "2", "--mode", "p2p"]);
    let (near, far) = (
        format!("{}/n2", lab.clusters[0]),
        format!("{}/n2", lab.clusters[1]),
    );
    let peer = peer_of(&lab, &near, &far, &V4);
    lab.place.run(["sim", "freeze"]).expect(0);
    lab.exec_ok(
        &near,
        &[
            "bridge",
            "fdb",
            "replace",
            &peer.mac,
            "dev",
            "vx-bridge",
            "dst",
            V4.wrong_vtep,
            "self",
            "permanent",
        ],
    );
    assert_blamed(&lab, "FDB-WRONG-VTEP", &near);
    lab.down();
}

/// The simulator's own injectors do what the codes say, and take it back: one finding, at that element.
fn found_and_cleared(more: &[&str]) {
    let shape = ["--clusters", "2", "--nodes", "2"];
    let kinds = ["--mode", "mixed", "--family", "all"];
    let lab = Lab::up(&[&shape, &kinds, more].concat());
    let listed = lab.place.run(["sim", "fault", "list"]).expect(0).stdout;
    let codes = simulator::control::fault_list();
    let words: Vec<&str> = codes.iter().map(|code| code.word()).collect();
    assert_eq!(listed.lines().collect::<Vec<_>>(), words);
    let is_virtual = more.contains(&"--virtual");
    for code in codes {
        if is_virtual && is_filter(code) {
            continue;
        }
        let report = inject(&lab, code);
        let findings = report["findings"].as_array().unwrap();
        assert_eq!(findings.len(), 1, "{findings:#?}");
        let element = &findings[0]["element"];
        let (kind, name) = element_of(code);
        assert_eq!(element["kind"], kind, "{code}: {element}");
        assert!(
            element["name"].as_str().unwrap().ends_with(name),
            "{code}: {element}"
        );
        lab.place.run(["sim", "fault", "clear"]).expect(0);
        let (exit, report) = lab.dr(&[]);
        assert_eq!(exit, Some(0), "{code} was not cleared\n{report:#}");
        assert_eq!(report["findings"], serde_json::json!([]), "{code}");
    }
    lab.down();
}

/// Injects a cause in the first cluster, and has it found there.
#[track_caller]
fn inject(lab: &Lab, code: Code) -> Value {
    let at = format!("{}/{}", lab.clusters[0], node_of(code));
    let place = format!("{at},{}", lab.clusters[1]);
    let inject = ["sim", "fault", "inject", code.word(), "--at", &place];
    lab.place.run(inject).expect(0);
    assert_blamed(lab, code.word(), &at)
}

#[test]
#[ignore = "netns: needs vxlan, nft"]
fn injected_faults_are_found_and_cleared() {
    found_and_cleared(&[]);
}

#[test]
fn injected_faults_of_virtual_clusters_are_found_and_cleared() {
    found_and_cleared(&["--virtual"]);
}

/// Runs every command of the fixes at its place, and thaws the datapath where a fix says to start its agent.
fn do_as_told(lab: &Lab, report: &Value) {
    for finding in report["findings"].as_array().unwrap() {
        let steps = finding["fix_steps"].as_array().unwrap();
        assert!(!steps.is_empty(), "{finding:#}");
        for step in steps {
            match step["argv"].as_array() {
                Some(argv) => {
                    let mut words: Vec<&str> =
                        argv.iter().map(|word| word.as_str().unwrap()).collect();
                    if words[0] == "nft" {
                        words[0] = env!("CARGO_BIN_EXE_nft");
                    }
                    lab.exec_ok(step["place"].as_str().unwrap(), &words);
                }
                None => {
                    let advice = step["advice"].as_str().unwrap();
                    assert!(advice.contains("start the datapath's agent"), "{finding:#}");
                    lab.place.run(["sim", "thaw"]).expect(0);
                }
            }
        }
    }
}

/// A fix mends: after its commands nothing is left to find, without any help of the datapath that is frozen.
fn fixes_mend(arguments: &[&str], is_here: impl Fn(Code) -> bool) {
    let lab = Lab::up(arguments);
    // What puts a translation back is the datapath's agent, and no command.
    let codes = simulator::control::fault_list().into_iter();
    for code in codes.filter(|code| *code != Code::NatMissing && is_here(*code)) {
        let report = inject(&lab, code);
        do_as_told(&lab, &report);
        let (exit, after) = lab.dr(&[]);
        assert_eq!(
            exit,
            Some(0),
            "{code}: the fix did not mend\n{report:#}\n{after:#}"
        );
        assert_eq!(after["findings"], serde_json::json!([]), "{code}");
        lab.place.run(["sim", "fault", "clear"]).expect(0);
    }
    lab.down();
}

#[test]
#[ignore = "netns: needs vxlan, nft, iproute2"]
fn what_a_fix_says_mends_in_gateway_mode() {
    let shape = ["--clusters", "3", "--nodes", "3", "--mode", "gateway"];
    fixes_mend(&shape, |code| !has_no_place(code, "gateway", "ipv4"));
}

#[test]
#[ignore = "netns: needs vxlan, nft, iproute2"]
fn what_a_fix_says_mends_with_both_families() {
    let shape = ["--clusters", "2", "--nodes", "2", "--mode", "mixed"];
    let shape = [&shape[..], &["--family", "all"]].concat();
    fixes_mend(&shape, |_| true);
}
