//! A linked fleet loses no packet whatever happens to its programs and its objects: two streams of a thousand packets a second run through all of it.

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tests::bare::{Bare, KOSMOS};
use tests::client::Endpoint;

const FLEET: &str = "\
name: lossless
clusters:
  - {name: east, nodes: 2, family: all}
  - {name: west, nodes: 2, family: all, mode: p2p}
  - {name: south, nodes: 1, family: all}
workloads: {floater: true}
";
/// What a process of a lab is called by that is a program of the datapath.
const PROGRAM: &str = "__clusterlink";
const BOTH: [&str; 2] = ["--ip-family", "all"];
const P2P: [&str; 4] = ["--ip-family", "all", "--network-type", "p2p"];
/// How long a fleet may take to be as planned again; a failure, not a measure.
const PATIENCE: Duration = Duration::from_secs(90);
/// Peers that come, change so many times each, and go: a thousand changes.
const PEERS: u8 = 25;
const MOVES: u8 = 38;

/// The seconds that a fleet churns; the corpus asks for more.
fn churn() -> Duration {
    let seconds = std::env::var("CHURN_SECONDS").ok();
    Duration::from_secs(seconds.map_or(10, |seconds| seconds.parse().unwrap()))
}

fn linked() -> Bare {
    let bare = Bare::up(FLEET);
    let _ = bare.install("east", &BOTH).expect(0);
    let _ = bare.join("west", "east", &P2P).expect(0);
    bare
}

/// The processes that run a word of `clusterlink`.
fn programs(bare: &Bare, word: &str) -> Vec<Pid> {
    let all = bare.lab.place.processes().into_iter();
    let of_word = all.filter(|(_, command)| {
        let mut words = command.split(' ').skip_while(|word| *word != PROGRAM);
        words.nth(1) == Some(word)
    });
    of_word.map(|(pid, _)| Pid::from_raw(pid)).collect()
}

/// Kills every process of a word, and waits until others have taken their places and the fleet is as planned.
#[track_caller]
fn restart(bare: &Bare, word: &str) {
    let killed = programs(bare, word);
    assert!(!killed.is_empty(), "nobody runs {word}");
    for pid in &killed {
        kill(*pid, Signal::SIGKILL).unwrap();
    }
    let began = Instant::now();
    loop {
        let now = programs(bare, word);
        if now.len() >= killed.len() && now.iter().all(|pid| !killed.contains(pid)) {
            break;
        }
        assert!(began.elapsed() < PATIENCE, "{word} stays away: {now:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
    let _ = bare.settled("east");
}

fn peer_cluster(name: &str) -> Value {
    json!({"apiVersion": "kosmos.io/v1alpha1", "kind": "Cluster", "metadata": {"name": name}, "spec": {
        "clusterLinkOptions": {"enable": true, "networkType": "p2p", "ipFamily": "ipv4", "cni": "generic",
            "bridgeCIDRs": {"ip": "220.0.0.0/8", "ip6": "9470::/16"}, "localCIDRs": {"ip": "210.0.0.0/8", "ip6": "9480::/16"}},
    }})
}

fn peer(node: u8, third: u8) -> Value {
    json!({"apiVersion": "kosmos.io/v1alpha1", "kind": "ClusterNode", "metadata": {"name": format!("far-n{node}"),
        "labels": {"kosmos.io/cluster": "far"}}, "spec": {"clusterName": "far", "nodeName": format!("n{node}"),
        "ip": format!("100.127.{third}.{node}"), "interfaceName": "eth0", "podCIDRs": [format!("10.250.{node}.0/24")]}})
}

#[track_caller]
fn done(control: &Endpoint, method: &str, path: &str, body: &Value) {
    let (status, answer) = control.call(method, path, body);
    assert!(status < 300, "{method} {path}: {status} {answer}");
}

/// How many rows of the planned peers' prefixes each node's config has.
fn rows_of_peers(control: &Endpoint) -> Vec<usize> {
    let configs = control.items(&format!("{KOSMOS}/nodeconfigs"));
    let real = configs.iter().filter(|config| {
        !config["metadata"]["name"]
            .as_str()
            .unwrap()
            .starts_with("far-")
    });
    real.map(|config| {
        let routes = config["spec"]["routes"].as_array();
        let is_far = |route: &&Value| route["cidr"].as_str().unwrap().starts_with("10.250.");
        routes.map_or(0, |routes| routes.iter().filter(is_far).count())
    })
    .collect()
}

#[track_caller]
fn until_rows(control: &Endpoint, count: usize) {
    let began = Instant::now();
    loop {
        let rows = rows_of_peers(control);
        if rows.iter().all(|one| *one == count) {
            return;
        }
        assert!(began.elapsed() < PATIENCE, "{count}: {rows:?}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// A thousand changes of peers that no packet goes to.
fn change_peers(control: &Endpoint) {
    let nodes = format!("{KOSMOS}/clusternodes");
    done(
        control,
        "POST",
        &format!("{KOSMOS}/clusters"),
        &peer_cluster("far"),
    );
    for node in 1..=PEERS {
        done(control, "POST", &nodes, &peer(node, 1));
    }
    until_rows(control, PEERS.into());
    for third in 2..2 + MOVES {
        for node in 1..=PEERS {
            let path = format!("{nodes}/far-n{node}");
            let mut now = control.get(&path);
            now["spec"] = peer(node, third)["spec"].clone();
            done(control, "PUT", &path, &now);
        }
    }
    for node in 1..=PEERS {
        done(
            control,
            "DELETE",
            &format!("{nodes}/far-n{node}"),
            &Value::Null,
        );
    }
    done(
        control,
        "DELETE",
        &format!("{KOSMOS}/clusters/far"),
        &Value::Null,
    );
    until_rows(control, 0);
}

/// The whole API stands still, and so do those who watch it.
fn api_away(bare: &Bare) {
    let state = bare.lab.place.state().join("lossless/lab.json");
    let record: Value = serde_json::from_slice(&std::fs::read(state).unwrap()).unwrap();
    let lab = Pid::from_raw(i32::try_from(record["pid"].as_i64().unwrap()).unwrap());
    kill(lab, Signal::SIGSTOP).unwrap();
    // How long it is away is the test's subject; what would happen then has happened within this.
    std::thread::sleep(Duration::from_secs(3));
    kill(lab, Signal::SIGCONT).unwrap();
}

#[test]
#[ignore = "netns: needs veth, vxlan, bridge, policy-rules, nft"]
fn no_packet_is_lost_whatever_happens_to_programs_objects_and_the_api() {
    let bare = linked();
    let control = bare.endpoint("east");
    let streams = || {
        let to = |cluster: &str| bare.address(cluster, "floater-n2");
        [
            bare.stream("east/n2/floater-n2", &to("west")),
            bare.stream("west/n2/floater-n2", &to("east")),
        ]
    };
    let watched = |what: &str, deed: &dyn Fn()| {
        let began = Instant::now();
        let streams = streams();
        deed();
        for stream in streams {
            let count = stream.end().unwrap();
            println!("{what}: {count:?} in {:?}", began.elapsed());
            assert_eq!((count.lost(), count.refused), (0, 0), "{what}: {count:?}");
        }
    };
    for word in ["agent", "controller", "manager"] {
        watched(word, &|| restart(&bare, word));
    }
    watched("the API away", &|| api_away(&bare));
    watched("a peer added", &|| {
        let _ = bare.join("south", "east", &BOTH).expect(0);
    });
    watched("a peer removed", &|| {
        let _ = bare.unjoin("south", "east", &[]).expect(0);
    });
    watched("a thousand changes of peers", &|| change_peers(&control));
    watched("everything in turn", &|| {
        let began = Instant::now();
        while began.elapsed() < churn() {
            restart(&bare, "agent");
            api_away(&bare);
            let _ = bare.join("south", "east", &BOTH).expect(0);
            restart(&bare, "manager");
            let _ = bare.unjoin("south", "east", &[]).expect(0);
        }
    });
    bare.down();
}
