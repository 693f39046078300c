//! Every reader of files, given a million texts that nobody writes: none panics. `READER_CASES` is how many for each.

use datapath::document::Source;
use serde_json::json;

/// A small generator (splitmix64).
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut value = self.0;
        value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ (value >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end.max(1) as u64).unwrap()
    }

    /// One of these with some places cut out, changed, taken twice, or given to each other.
    fn changed(&mut self, valid: &[String]) -> String {
        const WORDS: &[&str] = &[
            "\"",
            "'",
            "{",
            "}",
            "[",
            "]",
            ":",
            ",",
            "\n",
            "\n  ",
            "- ",
            "&a ",
            "*a",
            "<<: ",
            "!!binary ",
            "null",
            "-1",
            "1e99",
            "0x7f",
            "\u{1b}[2J",
            "\u{202e}",
            "\0",
            "\u{feff}",
            "%",
            "---\n",
            "...\n",
            "true",
            "é",
            "10.0.0.0/33",
            "::/129",
            "99999999999999999999",
        ];
        let mut text = valid[self.below(valid.len())].clone();
        for _ in 0..1 + self.below(4) {
            let place = |chance: &mut Self| {
                let mut at = chance.below(text.len() + 1);
                while !text.is_char_boundary(at) {
                    at -= 1;
                }
                at
            };
            let (one, other) = (place(self), place(self));
            let (from, to) = (one.min(other), one.max(other).min(one.min(other) + 40));
            let to = (to..=text.len())
                .find(|at| text.is_char_boundary(*at))
                .unwrap();
            match self.below(5) {
                0 => text.truncate(from),
                1 => drop(text.drain(from..to)),
                2 => {
                    let twice = text[from..to].to_owned();
                    text.insert_str(from, &twice);
                }
                3 => text.insert_str(from, WORDS[self.below(WORDS.len())]),
                _ => text.replace_range(from..to, WORDS[self.below(WORDS.len())]),
            }
        }
        text
    }
}

/// Gives a reader so many texts, of which it has to take some and refuse some.
#[track_caller]
fn try_all(seed: u64, valid: &[String], read: impl Fn(&str) -> bool) {
    for text in valid {
        assert!(read(text), "{text}");
    }
    let cases = match std::env::var("READER_CASES") {
        Ok(number) => number.parse().unwrap(),
        Err(_) => 200_000,
    };
    let mut chance = Chance(seed);
    let mut taken = 0;
    for _ in 0..cases {
        taken += u64::from(read(&chance.changed(valid)));
    }
    assert!(taken > 0 && taken < cases, "{taken} of {cases} were taken");
}

const KUBECONFIG: &str = "\
apiVersion: v1
kind: Config
current-context: east
clusters:
- name: c
  cluster: {server: \"https://10.0.0.1:6443\", insecure-skip-tls-verify: true, proxy-url: \"http://10.0.0.9\"}
contexts:
- name: east
  context: {cluster: c, user: u, namespace: default}
users:
- name: u
  user: {token: abc}
- name: v
  user:
    exec: {apiVersion: client.authentication.k8s.io/v1, command: plugin, args: [a, b], env: [{name: A, value: b}], interactiveMode: Never}
";

const TOPOLOGY: &str = "\
name: two-clouds
underlay: {mtu: 1450}
clusters:
  - {name: east, mode: gateway, nodes: 3, podCIDRs: [172.24.0.0/16]}
  - {name: west, mode: p2p, family: all}
workloads: {floater: false}
faults: [{code: FDB-MISSING, at: east/n1, peer: west}]
expect: [{code: FDB-MISSING, at: east/n1}]
";

#[test]
#[ignore = "scale: needs scale"]
fn kubeconfigs() {
    let json = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "x",
        "clusters": [{"name": "c", "cluster": {"server": "https://[fd00::1]:6443"}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "users": [{"name": "u", "user": {"username": "a", "password": "b"}}],
    });
    try_all(1, &[KUBECONFIG.to_owned(), json.to_string()], |text| {
        let Ok(read) = orchestrator::kubeconfig::parse(text, "kubeconfig", None) else {
            return false;
        };
        let contexts: Vec<&str> = read.contexts().collect();
        contexts.iter().any(|context| read.select(context).is_ok())
    });
}

#[test]
#[ignore = "scale: needs scale"]
fn topologies() {
    try_all(2, &[TOPOLOGY.to_owned()], |text| {
        simulator::topology::parse(text, "topology").is_ok()
    });
}

#[test]
#[ignore = "scale: needs scale"]
fn reports() {
    let report = json!({
        "schema": "floater.report/v1",
        "run": {"id": "0123", "started": "2026-01-01T00:00:00Z", "seconds": 1.5, "seed": 7, "tool": "0.1.0"},
        "clusters": [{"name": "east", "mode": "gateway", "families": ["ipv4"], "nodes": 2, "state": "observed", "reason": null}],
        "coverage": {"ordered_pairs": 0, "cells": 1, "probed": 1, "proved": 0, "inferred": 0, "stale": 0, "unobserved": 0, "probes_sent": 5,
            "certificate": {"covered": ["east/n1 host"], "indistinguishable": [], "not_covered": []}},
        "cells": [{"src": "east", "dst": "east", "layer": "host", "family": "ipv4", "state": "probed", "verdict": "pass", "sent": 5,
            "received": 5, "rtt_us": {"p50": 1, "p99": 2, "max": 3}, "findings": []}],
        "findings": [], "verdict": "healthy", "unjudged": [],
    });
    try_all(3, &[report.to_string(), format!("{report:#}")], |text| {
        orchestrator::report::parse(text, "report").is_ok()
    });
}

#[test]
#[ignore = "scale: needs scale"]
fn objects_of_a_control_plane() {
    let cluster = json!({"apiVersion": "kosmos.io/v1alpha1", "kind": "Cluster", "metadata": {"name": "east", "uid": "u"},
        "spec": {"clusterLinkOptions": {"enable": true, "networkType": "p2p", "ipFamily": "all", "globalCIDRsMap": {"10.0.0.0/16": "10.9.0.0/16"}}},
        "status": {"clusterLinkStatus": {"podCIDRs": ["10.1.0.0/16"], "serviceCIDRs": ["10.2.0.0/16"]}}});
    let node = json!({"apiVersion": "kosmos.io/v1alpha1", "kind": "ClusterNode", "metadata": {"name": "east-n1"},
        "spec": {"clusterName": "east", "nodeName": "n1", "podCIDRs": ["10.1.0.0/24"], "ip": "172.20.0.1", "ip6": "fd00::1",
            "roles": ["gateway"], "interfaceName": "eth0"}});
    let list = json!({"apiVersion": "v1", "kind": "List", "items": [cluster, node]});
    let fleet = json!({"clusters": [cluster], "clusterNodes": [node], "nodeConfigs": []});
    let valid = [
        list.to_string(),
        format!("{fleet:#}"),
        format!("---\n{cluster}\n---\n{node}\n"),
    ];
    try_all(4, &valid, |text| {
        let source = Source {
            name: "fleet".to_owned(),
            text: text.to_owned(),
        };
        let Ok(read) = datapath::document::objects(&source) else {
            return false;
        };
        // What is read is planned, whatever it says.
        let _ = datapath::plan::plan(&read.fleet);
        true
    });
}

#[test]
#[ignore = "scale: needs scale"]
fn settings() {
    let valid =
        "color = \"never\"\n[dr]\nkubeconfig = [\"/etc/fleet/east\"]\npod-wait-time = \"60s\"\n";
    try_all(5, &[valid.to_owned()], |text| {
        tui::config::ConfigFile::parse("config.toml", text).is_ok()
    });
}
