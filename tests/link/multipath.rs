//! Two gateways at once: each flow and its replies pass one of them, all flows together both, and packets go on where one dies.

use std::collections::BTreeSet;
use std::time::Duration;

use netns_harness::wire::Wire as _;

use serde_json::json;
use tests::bare::Bare;

use super::deploy::TWO;
use super::underlay::{Stream, Underlay};

/// Streams of 500 packets a second are watched for so long.
const TIME: Duration = Duration::from_millis(600);
/// So many packets are a stream's, and fewer those of sessions.
const MANY: u64 = 150;
/// The longest that packets may take to find another way on a busy machine.
const GAP: Duration = Duration::from_secs(10);

/// The gateways of a cluster that received many packets by a tunnel meanwhile.
fn busy(fleet: &mut Underlay, cluster: usize, tunnel: &str, before: &[[u64; 2]; 2]) -> Vec<usize> {
    let now = received(fleet, tunnel);
    let is_busy = |host: &usize| now[cluster][host - 1] - before[cluster][host - 1] >= MANY;
    [1, 2].into_iter().filter(is_busy).collect()
}

/// What each gateway of each cluster received by a tunnel.
fn received(fleet: &mut Underlay, tunnel: &str) -> [[u64; 2]; 2] {
    [0, 1].map(|cluster| [1, 2].map(|host| fleet.node(cluster, host).received()[tunnel]))
}

#[track_caller]
fn heal(what: &str, streams: Vec<Stream>) {
    std::thread::sleep(GAP);
    let gaps = streams
        .into_iter()
        .map(|stream| stream.gap().expect("packets pass again"));
    let mut gaps: Vec<Duration> = gaps.collect();
    gaps.sort_unstable();
    println!("{what}: nothing for {gaps:?}");
    // Only some of the flows passed the one that died.
    assert!(gaps[0] < Duration::from_millis(100), "{gaps:?}");
}

#[test]
#[ignore = "netns: needs vxlan, nft"]
fn flows_are_shared_by_two_gateways_and_go_on_where_one_dies() {
    let mut fleet = Underlay::with(&[3, 3], &["--session-hold", "2"], &["gateway", "gateway"]);
    fleet.settled();
    let mut ways = BTreeSet::new();
    for _ in 0..12 {
        let before = ["vx-local", "vx-bridge"].map(|tunnel| received(&mut fleet, tunnel));
        let stream = fleet.stream((0, 3), (1, 3));
        std::thread::sleep(TIME);
        let gap = stream.gap().expect("packets pass");
        assert!(gap < Duration::from_millis(300), "{gap:?}");
        // Requests come to one gateway from within and to one of the other cluster from without; replies to the same two the other way round.
        let way = [0, 1].map(|cluster| {
            let [within, without] = [("vx-local", 0), ("vx-bridge", 1)]
                .map(|(tunnel, place)| busy(&mut fleet, cluster, tunnel, &before[place]));
            assert_eq!(within.len(), 1, "{within:?}");
            assert_eq!(within, without);
            within[0]
        });
        ways.insert(way);
    }
    println!("ways: {ways:?}");
    for cluster in [0, 1] {
        let used: BTreeSet<usize> = ways.iter().map(|way| way[cluster]).collect();
        assert_eq!(used, BTreeSet::from([1, 2]));
    }

    let streams = |fleet: &mut Underlay| -> Vec<Stream> {
        let streams = (0..8).map(|_| fleet.stream((0, 3), (1, 3))).collect();
        std::thread::sleep(Duration::from_secs(1));
        streams
    };
    fleet.world.stop();
    let flows = streams(&mut fleet);
    fleet.node(0, 1).wire(|wire| wire.down(2));
    heal("one gateway dead, without the API", flows);
    let flows = streams(&mut fleet);
    fleet.plug(1, 2, false);
    heal("one gateway of each cluster dead", flows);
}

/// The kernel's settings for routes with several next hops, on a node.
fn settings(bare: &Bare, node: &str) -> String {
    let script = "cat /proc/sys/net/ipv4/fib_multipath_hash_policy /proc/sys/net/ipv4/fib_multipath_hash_fields /proc/sys/net/ipv4/fib_multipath_hash_seed";
    let text = bare.lab.exec_ok(node, &["sh", "-c", script]);
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
#[ignore = "netns: needs veth, vxlan, bridge, policy-rules, nft, iproute2"]
fn a_pair_with_two_gateways_each_is_linked_healthy_and_gone_without_a_trace() {
    let bare = Bare::up(
        &TWO.replace("nodes: 2", "nodes: 3")
            .replace("floater: false", "floater: true"),
    );
    let before = settings(&bare, "east/n3");
    let two = ["--gateways", "2"];
    bare.install("east", &two).expect(0);
    let ran = bare.join("west", "east", &two).expect(0);
    assert!(ran.stdout.contains("packets pass"), "{}", ran.stdout);
    let status = bare.settled("east");
    for cluster in 0..2 {
        let roles = |node: usize| status["clusters"][cluster]["nodes"][node]["roles"].clone();
        assert_eq!(
            [roles(0), roles(1), roles(2)],
            [json!(["gateway"]), json!(["gateway"]), json!([])]
        );
    }
    assert_ne!(settings(&bare, "east/n3"), before);
    let (code, report) = bare.lab.dr(&[]);
    assert_eq!(
        (code, &report["verdict"]),
        (Some(0), &json!("healthy")),
        "{report:#}"
    );
    // Connections of a node through one gateway or the other.
    let target = bare.address("west", "floater-n3");
    let stream = bare.stream("east/n3/floater-n3", &target);
    std::thread::sleep(Duration::from_secs(1));
    let count = stream.end().expect("a count");
    assert_eq!((count.lost(), count.refused), (0, 0), "{count:?}");

    bare.unjoin("west", "east", &[]).expect(0);
    let at = [
        "uninstall",
        "--kubeconfig",
        &bare.kubeconfig,
        "--context",
        "east",
    ];
    bare.link(&at).expect(0);
    for node in ["east/n1", "east/n3", "west/n2", "west/n3"] {
        assert_eq!(bare.traces(node), Vec::<String>::new());
        assert_eq!(settings(&bare, node), before, "{node}");
    }
    bare.down();
}
