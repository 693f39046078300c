//! Clusters without a kernel: a diagnosis sees no difference, healthy or broken.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{SystemTime, UNIX_EPOCH};

use super::injection::{has_no_place, is_filter, node_of};
use datapath::digest::{Digester, Key, Scope};
use datapath::state::{NeighbourState, NodeState};
use floater::wire::{
    AUTH_HEADER, Audience, Expectation, Layer, Nonce, Tables, sign, unhex, unseal,
};
use serde_json::{Value, json};
use tests::client::Endpoint;
use tests::lab::{Lab, names};
use tests::program::Place;

const NAMESPACE: &str = "/api/v1/namespaces/kosmos-system";

/// What a node's floater of the host layer says of its tables.
fn tables(lab: &Lab, cluster: &str, node: &str) -> NodeState {
    asked(lab, cluster, node, None).state
}

/// The same, where it is told what to expect.
fn asked(lab: &Lab, cluster: &str, node: &str, expected: Option<&Expectation>) -> Tables {
    let endpoint = Endpoint::of(lab.kubeconfig(), cluster);
    let secret = endpoint.get(&format!("{NAMESPACE}/secrets/floater-run"));
    let key = secret["data"]["key"].as_str().unwrap();
    use base64::Engine as _;
    let key = base64::engine::general_purpose::STANDARD
        .decode(key)
        .unwrap();
    let key = unhex(std::str::from_utf8(&key).unwrap()).unwrap();
    let system = endpoint.get("/api/v1/namespaces/kube-system");
    let audience = Audience {
        cluster: system["metadata"]["uid"].as_str().unwrap().to_owned(),
        node: node.to_owned(),
        layer: Layer::Host,
    };
    let pod = endpoint
        .items(&format!("{NAMESPACE}/pods"))
        .into_iter()
        .find(|pod| pod["spec"]["hostNetwork"] == true && pod["spec"]["nodeName"] == node)
        .unwrap();
    let pod = pod["metadata"]["name"].as_str().unwrap();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let now = u64::try_from(now.as_millis()).unwrap();
    let mut nonce = Nonce::default();
    // One that was not used before.
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    nonce[..8].copy_from_slice(&since.subsec_nanos().to_be_bytes().repeat(2));
    let path = "/v2/tables";
    let (method, request) = match expected {
        None => ("GET", Vec::new()),
        Some(expected) => ("POST", serde_json::to_vec(expected).unwrap()),
    };
    let header = sign(&key, &audience, method, path, &request, now, nonce);
    let headers = BTreeMap::from([(AUTH_HEADER.to_owned(), header)]);
    let target = format!("{NAMESPACE}/pods/https:{pod}:8890/proxy{path}");
    let answer = endpoint.send(method, &target, &headers, &request).unwrap();
    let status = answer.status;
    let body = answer.body().unwrap();
    let content = unseal(&key, &audience, &nonce, status, &body).unwrap();
    let tables: Tables = serde_json::from_slice(content).unwrap();
    assert!(tables.missing.is_empty(), "{:?}", tables.missing);
    tables
}

/// What a plan is summed up to is what the tables are: healthy, and where something was changed.
#[test]
fn a_digest_is_that_of_the_whole_tables() {
    let lab = Lab::up(&[
        "--clusters",
        "4",
        "--nodes",
        "3",
        "--mode",
        "mixed",
        "--family",
        "all",
        "--virtual",
    ]);
    let compare = |is_broken: bool| {
        for (cluster, node) in [
            ("c1", "n1"),
            ("c1", "n2"),
            ("c2", "n1"),
            ("c2", "n3"),
            ("c3", "n1"),
        ] {
            let mut whole = tables(&lab, cluster, node);
            let digester = Digester::new(Key([9; 16]), Scope::Tables, 4);
            let expected = Expectation {
                key: Key([9; 16]),
                digest: digester.of(&whole),
            };
            assert!(
                expected.digest != digester.empty(),
                "{cluster}/{node} has rows"
            );
            let told = asked(&lab, cluster, node, Some(&expected));
            assert!(told.differences.unwrap().is_empty(), "{cluster}/{node}");
            digester.take_counted(&mut whole);
            assert_eq!(told.state, whole, "{cluster}/{node}");
            let other = Expectation {
                key: Key([9; 16]),
                digest: digester.empty(),
            };
            let differs = asked(&lab, cluster, node, Some(&other))
                .differences
                .unwrap();
            assert!(!differs.is_empty(), "{cluster}/{node} {is_broken}");
        }
    };
    compare(false);
    lab.place
        .run([
            "sim",
            "fault",
            "inject",
            "ROUTE-MISSING",
            "--at",
            "c1/n1,c3",
        ])
        .expect(0);
    compare(true);
    lab.down();
}

/// Every row but what a kernel learns and counts by itself, in an order of no meaning. The index of a tunnel is such a count: one that is
/// made anew has the next that is free.
fn rows(state: &NodeState) -> BTreeSet<String> {
    let mut state = state.clone();
    state
        .neighbours
        .retain(|row| row.state == NeighbourState::Permanent);
    let mut rows = BTreeSet::new();
    let mut value = serde_json::to_value(&state).unwrap();
    for (table, list) in value.as_object_mut().unwrap() {
        for row in list.as_array_mut().unwrap() {
            for counter in ["tx_dropped", "rx_dropped"] {
                if row.get(counter).is_some() {
                    row[counter] = json!(0);
                }
            }
            if row["kind"]["kind"] == "vxlan" {
                row["index"] = json!(0);
            }
            if let Some(hops) = row.get_mut("hops").and_then(Value::as_array_mut) {
                hops.sort_by_key(ToString::to_string);
            }
            rows.insert(format!("{table} {row}"));
        }
    }
    rows
}

/// The code, weight and place of every finding, and the verdict of every cell.
fn judged(report: &Value) -> (BTreeSet<String>, BTreeSet<String>) {
    let findings = report["findings"].as_array().unwrap().iter();
    let findings =
        findings.map(|one| format!("{} {} {}", one["code"], one["severity"], one["element"]));
    let cells = report["cells"].as_array().unwrap().iter();
    let cells = cells.map(|one| {
        let key = ["src", "dst", "layer", "family", "verdict"].map(|field| one[field].to_string());
        key.join(" ")
    });
    (findings.collect(), cells.collect())
}

/// What is found and where, each once.
fn blamed(report: &Value) -> Vec<String> {
    let findings = report["findings"].as_array().unwrap().iter();
    let mut found: Vec<String> = findings
        .map(|one| {
            let word = |pointer| one.pointer(pointer).and_then(Value::as_str).unwrap_or("-");
            let place = [word("/element/cluster"), word("/element/node")].join("/");
            format!("{} at {place}", word("/code"))
        })
        .collect();
    found.sort();
    found.dedup();
    found
}

/// The same fleet with kernels and without.
fn pair(shape: &[&str]) -> [Lab; 2] {
    let all = |more: &[&str]| Lab::up(&[shape, more].concat());
    [all(&[]), all(&["--virtual"])]
}

#[test]
#[ignore = "netns: needs vxlan, nft"]
fn tables_are_those_of_a_kernel_also_after_every_fault() {
    for (mode, family) in [("gateway", "ipv4"), ("mixed", "all"), ("p2p", "ipv6")] {
        let labs = pair(&[
            "--clusters",
            "2",
            "--nodes",
            "2",
            "--mode",
            mode,
            "--family",
            family,
        ]);
        let compare = |what: &str| {
            for (cluster, node) in [("c1", "n1"), ("c1", "n2"), ("c2", "n1"), ("c2", "n2")] {
                let [kernel, computed] = [0, 1].map(|at| rows(&tables(&labs[at], cluster, node)));
                let only: Vec<_> = kernel.symmetric_difference(&computed).collect();
                assert!(
                    only.is_empty(),
                    "{mode} {family} {what} {cluster}/{node}: {only:#?}"
                );
            }
        };
        compare("healthy");
        // Without any help of agents.
        labs[0].place.run(["sim", "freeze"]).expect(0);
        let codes = simulator::control::fault_list().into_iter();
        for code in codes.filter(|code| !is_filter(*code)) {
            let at = format!("c1/{},c2", node_of(code));
            let is_refused = has_no_place(code, mode, family);
            for lab in &labs {
                let inject = ["sim", "fault", "inject", code.word(), "--at", &at];
                lab.place
                    .run(inject)
                    .expect(if is_refused { 65 } else { 0 });
            }
            compare(code.word());
            for lab in &labs {
                lab.place.run(["sim", "fault", "clear"]).expect(0);
            }
            compare(&format!("{code} cleared"));
        }
        labs.into_iter().for_each(Lab::down);
    }
}

#[test]
#[ignore = "netns: needs vxlan, nft"]
fn every_fault_is_found_as_in_a_kernel() {
    for (mode, family) in [("gateway", "ipv4"), ("p2p", "all")] {
        let labs = pair(&[
            "--clusters",
            "3",
            "--nodes",
            "2",
            "--mode",
            mode,
            "--family",
            family,
        ]);
        let [kernel, computed] = [0, 1].map(|at| labs[at].dr(&[]));
        assert_eq!((kernel.0, computed.0), (Some(0), Some(0)));
        assert_eq!(judged(&kernel.1), judged(&computed.1), "healthy");
        let codes = simulator::control::fault_list().into_iter();
        for code in codes.filter(|code| !is_filter(*code) && !has_no_place(*code, mode, family)) {
            let node = node_of(code);
            let found = [0, 1].map(|at| {
                let place = &labs[at].place;
                let to = format!("c1/{node},c2");
                let inject = ["sim", "fault", "inject", code.word(), "--at", &to];
                place.run(inject).expect(0);
                let (exit, report) = labs[at].dr(&[]);
                place.run(["sim", "fault", "clear"]).expect(0);
                assert_eq!(blamed(&report), [format!("{code} at c1/{node}")]);
                (exit, judged(&report))
            });
            assert_eq!(found[0], found[1], "{mode} {family} {code}");
        }
        labs.into_iter().for_each(Lab::down);
    }
}

#[test]
fn what_needs_a_kernel_says_so() {
    let place = Place::new();
    place.write(
        "mixed.yaml",
        "clusters: [{name: a}, {name: b, virtual: true}]\n",
    );
    let refused = place.run(["sim", "up", "mixed.yaml"]).expect(69);
    assert!(refused.stderr.contains('b'), "{refused:?}");
    place.write("bad.yaml", "clusters: [{name: a, virtual: 7}]\n");
    place.run(["sim", "up", "bad.yaml"]).expect(65);
    let lab = Lab::up_in(place, &["--clusters", "1", "--nodes", "1", "--virtual"]);
    for code in simulator::control::fault_list()
        .into_iter()
        .filter(|code| is_filter(*code))
    {
        let inject = ["sim", "fault", "inject", code.word(), "--at", "c1/n1"];
        let refused = lab.place.run(inject).expect(65);
        assert!(refused.stderr.contains("virtual"), "{code}: {refused:?}");
    }
    for at in ["c1/n1", "underlay"] {
        let refused = lab.exec(at, &["true"]).expect(69);
        assert!(refused.stderr.contains("virtual"), "{refused:?}");
    }
    lab.exec("c1/n9", &["true"]).expect(65);
    let status = lab.place.run(["sim", "status"]).expect(0);
    assert!(status.stdout.contains("(virtual)"), "{status:?}");
    lab.down();
}

/// Delay and loss are of the topology; who deploys floaters finds them ready and removes them.
#[test]
fn probes_take_as_long_as_the_topology_says_and_a_run_brings_its_own_floaters() {
    let place = Place::new();
    place.write(
        "far.yaml",
        "clusters: [{name: a, virtual: true, underlay: {delay: 20ms}}, {name: b, virtual: true}]\nworkloads: {floater: false}\n",
    );
    let lab = Lab::up_in(place, &["far.yaml"]);
    let (exit, report) = lab.dr(&[]);
    assert_eq!(exit, Some(0), "{report:#}");
    let cell = report["cells"].as_array().unwrap().iter();
    let mut cell = cell.filter(|cell| cell["src"] == "a" && cell["dst"] == "b");
    let rtt = cell.next().unwrap()["rtt_us"]["p50"].as_u64().unwrap();
    assert!((40_000..41_000).contains(&rtt), "{rtt}");
    for cluster in ["a", "b"] {
        let left = Endpoint::of(lab.kubeconfig(), cluster).objects_of_runs();
        assert!(left.is_empty(), "{left:?}");
    }
    lab.down();
}

/// A network that loses a little everywhere accuses nobody; a cluster that loses more than the others is one finding.
#[test]
fn loss_by_chance_accuses_nobody_and_more_of_it_one_cluster() {
    let place = Place::new();
    place.write(
        "lossy.yaml",
        "underlay: {loss: 1%}\nclusters: [{name: a, count: 6, virtual: true}]\n",
    );
    let lab = Lab::up_in(place, &["lossy.yaml"]);
    let (exit, report) = lab.dr(&[]);
    assert_eq!(report["findings"], serde_json::json!([]), "{report:#}");
    assert_eq!((exit, &report["verdict"]), (Some(0), &"healthy".into()));
    lab.down();
    let place = Place::new();
    place.write(
        "worse.yaml",
        "underlay: {loss: 0.5%}\nclusters: [{name: a, count: 5, virtual: true}, {name: bad, virtual: true, underlay: {loss: 10%}}]\n",
    );
    let lab = Lab::up_in(place, &["worse.yaml"]);
    let (exit, report) = lab.dr(&[]);
    assert_eq!(exit, Some(1), "{report:#}");
    let findings = report["findings"].as_array().unwrap();
    assert_eq!(findings.len(), 1, "{findings:#?}");
    assert_eq!(findings[0]["code"], "LOSS-GRAY");
    assert_eq!(findings[0]["element"]["name"], "bad - all others");
    lab.down();
}

/// NodeConfigs that are made when they are asked for are read and written as any other.
#[test]
fn nodeconfigs_are_paged_watched_and_written() {
    let lab = Lab::up(&["--clusters", "6", "--nodes", "2", "--virtual"]);
    let endpoint = Endpoint::of(lab.kubeconfig(), "c1");
    let configs = "/apis/kosmos.io/v1alpha1/nodeconfigs";
    let whole = endpoint.items(configs);
    assert_eq!(whole.len(), 12);
    let mut paged = Vec::new();
    let mut next = String::new();
    loop {
        let page = endpoint.get(&format!("{configs}?limit=5&continue={next}"));
        paged.extend(page["items"].as_array().unwrap().clone());
        match page["metadata"]["continue"].as_str() {
            Some(token) if !token.is_empty() => next = token.to_owned(),
            _ => break,
        }
    }
    assert_eq!(paged, whole);
    for config in &whole {
        let name = config["metadata"]["name"].as_str().unwrap();
        let one = endpoint.get(&format!("{configs}/{name}"));
        assert_eq!(
            (&one["spec"], &one["metadata"]),
            (&config["spec"], &config["metadata"])
        );
        assert!(!config["spec"]["routes"].as_array().unwrap().is_empty());
        assert_eq!(one.as_object().unwrap().len(), 4, "{one:#}");
    }
    // What somebody spoils is planned anew; where all stands still it stays, and is what the node has.
    let spoil = json!({"spec": {"routes": []}});
    let (status, _) = endpoint.call("PATCH", &format!("{configs}/c2-n1"), &spoil);
    assert_eq!(status, 200);
    let is_back = || {
        let one = endpoint.get(&format!("{configs}/c2-n1"));
        !one["spec"]["routes"].as_array().unwrap().is_empty()
    };
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while !is_back() {
        assert!(std::time::Instant::now() < deadline, "it stays spoilt");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    lab.place.run(["sim", "freeze"]).expect(0);
    let (status, _) = endpoint.call("PATCH", &format!("{configs}/c2-n1"), &spoil);
    assert_eq!(status, 200);
    assert!(!is_back());
    let without = tables(&lab, "c2", "n1");
    assert!(without.routes.iter().all(|route| route.table != 200));
    lab.place.run(["sim", "thaw"]).expect(0);
    assert!(is_back());
    lab.down();
}

#[test]
#[ignore = "scale: needs scale"]
fn three_hundred_virtual_clusters_are_healthy_and_one_fault_is_found() {
    let lab = Lab::up(&["--clusters", "300", "--nodes", "2", "--virtual"]);
    // However busy the machine is, nothing is accused; whether all can be judged in time is the machine's affair.
    let (exit, report) = lab.dr(&[]);
    assert!(matches!(exit, Some(0 | 2)), "{exit:?}");
    assert_eq!(report["findings"], json!([]));
    assert_eq!(report["clusters"].as_array().unwrap().len(), 300);
    let patient = |arguments: &[&str]| lab.dr(&[arguments, &["--cluster-timeout", "120"]].concat());
    let (exit, report) = patient(&["--sources", "c00*", "--destinations", "c10*"]);
    assert_eq!(exit, Some(0), "{}", report["findings"]);
    let inject = [
        "sim",
        "fault",
        "inject",
        "ROUTE-MISSING",
        "--at",
        "c007,c100",
    ];
    lab.place.run(inject).expect(0);
    let (exit, report) = patient(&["--sources", "c007", "--destinations", "c100"]);
    assert_eq!(exit, Some(1), "{}", report["findings"]);
    assert_eq!(names(&report, "/findings", "code"), ["ROUTE-MISSING"]);
    lab.down();
}
