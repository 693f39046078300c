//! Nodes whose agent is Kosmos' and nodes whose agent is ours in one fleet: it carries packets, and every node may change sides.

use serde_json::{Value, json};
use tests::bare::{Bare, KOSMOS};
use tests::kosmos::{Agent, Order};

const FLEET: &str = "\
name: compatible
clusters:
  - {name: east, nodes: 2}
  - {name: west, nodes: 2, mode: p2p}
  - {name: south, nodes: 1}
workloads: {floater: true}
";
const NODES: [(&str, &str); 4] = [
    ("east", "n1"),
    ("west", "n2"),
    ("east", "n2"),
    ("west", "n1"),
];
/// A label of nodes whose agent is Kosmos'.
const SIDE: &str = "agent-of";

/// Keeps our agents off the nodes that have the label, as whoever migrates a fleet does.
fn split(bare: &Bare, cluster: &str) {
    let path = "/apis/apps/v1/namespaces/kosmos-system/daemonsets/clusterlink-agent";
    let terms = json!([{"matchExpressions": [{"key": SIDE, "operator": "DoesNotExist"}]}]);
    let affinity = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}});
    let patch = json!({"spec": {"template": {"spec": {"affinity": affinity}}}});
    let (status, answer) = bare.endpoint(cluster).call("PATCH", path, &patch);
    assert_eq!(status, 200, "{answer}");
}

/// Labels a node, and waits until the pod of our agent has gone or is there.
fn label(bare: &Bare, (cluster, node): (&str, &str), side: Value) {
    let endpoint = bare.endpoint(cluster);
    let is_ours = side.is_null();
    let patch = json!({"metadata": {"labels": {SIDE: side}}});
    let (status, answer) = endpoint.call("PATCH", &format!("/api/v1/nodes/{node}"), &patch);
    assert_eq!(status, 200, "{answer}");
    let path =
        "/api/v1/namespaces/kosmos-system/pods?labelSelector=app.kubernetes.io%2Fcomponent%3Dagent";
    let has_agent = || {
        let pods = endpoint.items(path);
        let of_node = |pod: &&Value| pod["spec"]["nodeName"] == node;
        pods.iter()
            .filter(of_node)
            .any(|pod| pod["status"]["phase"] == "Running")
    };
    let began = std::time::Instant::now();
    while has_agent() != is_ours {
        assert!(
            began.elapsed().as_secs() < 60,
            "{cluster}/{node}: {:#?}",
            endpoint.items(path)
        );
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
}

/// Starts Kosmos' agent on a node.
fn kosmos(bare: &Bare, (cluster, node): (&str, &str)) -> Agent {
    let control = bare.endpoint("east");
    let addresses = control.get("/api/v1/nodes/n1")["status"]["addresses"].clone();
    let address = addresses[0]["address"].as_str().unwrap();
    let order = Order {
        address: format!("{address}:6443"),
        authority: control.authority,
        token: control.token,
        node: format!("{cluster}-{node}"),
    };
    let gate = tests::program::floaterctl().with_file_name("gate");
    let at = format!("{cluster}/{node}");
    let words = ["sim", "exec", &at, "--", gate.to_str().unwrap()];
    Agent::start(&mut bare.lab.place.command(words), &order)
}

/// Routes of a node's kernel to a prefix.
fn has_route(bare: &Bare, (cluster, node): (&str, &str), prefix: &str) -> bool {
    let traces = bare.traces(&format!("{cluster}/{node}"));
    traces
        .iter()
        .any(|trace| trace.starts_with("routes") && trace.contains(prefix))
}

#[test]
#[ignore = "netns: needs veth, vxlan, bridge, policy-rules, nft, iproute2"]
fn nodes_of_kosmos_and_ours_carry_packets_together_and_change_sides() {
    let bare = Bare::up(FLEET);
    let p2p = ["--network-type", "p2p"];
    let _ = bare.install("east", &[]).expect(0);
    let _ = bare.join("west", "east", &p2p).expect(0);
    for cluster in ["east", "west"] {
        split(&bare, cluster);
    }
    as_planned(&bare);
    let before: Vec<_> = NODES
        .iter()
        .map(|(cluster, node)| bare.traces(&format!("{cluster}/{node}")))
        .collect();
    let streams = [
        bare.stream("east/n2/floater-n2", &bare.address("west", "floater-n2")),
        bare.stream("west/n1/floater-n1", &bare.address("east", "floater-n1")),
    ];
    let mut theirs = Vec::new();
    for (turn, node) in NODES.into_iter().enumerate() {
        as_planned(&bare);
        label(&bare, node, "kosmos".into());
        let mut agent = kosmos(&bare, node);
        // It finds everything as it would have made it.
        let first = agent.synced();
        assert!(
            first.removed.is_empty() && first.added.is_empty() && first.failed.is_empty(),
            "{node:?}: {first:?}"
        );
        theirs.push((node, agent));
        if turn == 1 {
            // Half and half: what changes reaches both kinds.
            join_and_leave(&bare, &mut theirs);
        }
    }
    join_and_leave(&bare, &mut theirs);
    // And back.
    for (node, agent) in theirs {
        agent.end();
        label(&bare, node, Value::Null);
    }
    for stream in streams {
        let count = stream.end().unwrap();
        println!("{count:?}");
        assert_eq!((count.lost(), count.refused), (0, 0), "{count:?}");
    }
    as_planned(&bare);
    let after: Vec<_> = NODES
        .iter()
        .map(|(cluster, node)| bare.traces(&format!("{cluster}/{node}")))
        .collect();
    assert_eq!(rows(before), rows(after));
    let _ = bare.settled("east");
    bare.down();
}

/// Waits until every node has every route of its NodeConfig as it is written: after agents have begun anew some may lead through a standby for a moment.
fn as_planned(bare: &Bare) {
    let began = std::time::Instant::now();
    loop {
        let configs = bare
            .endpoint("east")
            .items(&format!("{KOSMOS}/nodeconfigs"));
        let left = NODES.iter().find_map(|(cluster, node)| {
            let name = format!("{cluster}-{node}");
            let config = configs
                .iter()
                .find(|config| config["metadata"]["name"] == name)?;
            let traces = bare.traces(&format!("{cluster}/{node}"));
            let is_there = |route: &&Value| {
                let (cidr, gw) = (
                    route["cidr"].as_str().unwrap(),
                    route["gw"].as_str().unwrap(),
                );
                traces
                    .iter()
                    .any(|row| row.starts_with("routes") && row.contains(cidr) && row.contains(gw))
            };
            let mut routes = config["spec"]["routes"].as_array()?.iter();
            routes
                .find(|route| !is_there(route))
                .map(|route| format!("{name}: {route}"))
        });
        let Some(left) = left else { return };
        assert!(began.elapsed().as_secs() < 90, "{left}");
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
}

/// Rows without what counts packets.
fn rows(traces: Vec<Vec<String>>) -> Vec<Vec<String>> {
    let plain = |node: Vec<String>| {
        node.into_iter()
            .filter(|row| !row.starts_with("links"))
            .collect()
    };
    traces.into_iter().map(plain).collect()
}

/// A cluster joins and leaves while nodes of both kinds work: its rows come and go everywhere, and its pods are reached.
fn join_and_leave(bare: &Bare, theirs: &mut [((&'static str, &'static str), Agent)]) {
    let _ = bare.join("south", "east", &["--wait", "120s"]).expect(0);
    let prefix = bare
        .endpoint("east")
        .get(&format!("{KOSMOS}/clusters/south"))["status"]["clusterLinkStatus"]["podCIDRs"][0]
        .clone();
    let prefix = prefix.as_str().unwrap().to_owned();
    for (node, agent) in theirs.iter_mut() {
        while !has_route(bare, *node, &prefix) {
            let synced = agent.synced();
            assert!(synced.failed.is_empty(), "{node:?}: {synced:?}");
        }
    }
    let _ = bare.unjoin("south", "east", &[]).expect(0);
    for (node, agent) in theirs.iter_mut() {
        while has_route(bare, *node, &prefix) {
            let synced = agent.synced();
            assert!(synced.failed.is_empty(), "{node:?}: {synced:?}");
        }
    }
}
