//! Two replicas: one writes, and when it goes the other one does. Two gateways: one forwards, and when it dies the other one does, whoever can be asked.

use std::time::{Duration, Instant};

use netns_harness::wire::Wire as _;
use serde_json::{Value, json};
use simulator::apiserver::Resource;

use super::fleet::{cluster, cluster_node, planned, rows};
use super::process::Program;
use super::underlay::{Stream, Underlay};
use super::world::{CONTROL, NAMESPACE, World};

const LEASE: &str = "network-manager";
/// A third of client-go's.
const QUICK: [&str; 6] = [
    "--lease-duration",
    "5",
    "--renew-deadline",
    "3",
    "--retry-period",
    "1",
];

fn lease(world: &World) -> Value {
    let store = world.store(CONTROL);
    let lease = store.get(Resource::LEASES, Some(NAMESPACE), LEASE);
    lease.map(|lease| lease["spec"].clone()).unwrap_or_default()
}

/// Waits until the Lease has this holder.
#[track_caller]
fn held_by(world: &World, holder: &str) {
    world.until(CONTROL, Resource::LEASES, "the holder of the Lease", |_| {
        (lease(world)["holderIdentity"] == holder).then_some(())
    });
}

/// Waits until somebody has written the NodeConfig of one more node.
#[track_caller]
fn writes_for(world: &World, host: u8) {
    cluster_node(world.store(CONTROL), "a", &format!("n{host}"), 1, host);
    world.until(
        CONTROL,
        Resource::NODE_CONFIGS,
        "the NodeConfig of a new node",
        |configs| (rows(configs) == planned(world)).then_some(()),
    );
}

#[test]
fn whoever_is_left_takes_over() {
    let world = World::new(&[]);
    cluster(&world, "a", "p2p");
    let arguments = |identity: &str| {
        let words = [&["--identity", identity], &QUICK[..]].concat();
        let words = words.into_iter().map(str::to_owned);
        [world.as_manager(), words.collect()].concat()
    };
    let mut one = Program::start("manager", &arguments("one"));
    held_by(&world, "one");
    let mut two = Program::start("manager", &arguments("two"));
    two.said("the lease is held");
    writes_for(&world, 1);
    assert_eq!(lease(&world)["leaseTransitions"], 0);
    assert!(
        lease(&world)["renewTime"].as_str().unwrap().contains('.'),
        "{}",
        lease(&world)
    );

    // Killed: the other one waits for the Lease to expire.
    let began = Instant::now();
    one.kill();
    held_by(&world, "two");
    println!(
        "killed: another leads after {:?} (Lease of 5 s)",
        began.elapsed()
    );
    writes_for(&world, 2);
    assert_eq!(lease(&world)["leaseTransitions"], 1);

    // Ended: it gives the Lease up, and nobody has to wait for that.
    let mut three = Program::start("manager", &arguments("three"));
    three.said("the lease is held");
    let began = Instant::now();
    two.end();
    held_by(&world, "three");
    println!("ended: another leads after {:?}", began.elapsed());
    writes_for(&world, 3);

    // Out of breath for longer than the Lease lasts: when it goes on it knows that it does not lead, and writes nothing.
    let mut four = Program::start("manager", &arguments("four"));
    four.said("the lease is held");
    let wrote = three.writes();
    three.freeze(true);
    held_by(&world, "four");
    writes_for(&world, 4);
    three.freeze(false);
    writes_for(&world, 5);
    assert_eq!(three.writes(), wrote);
    assert!(!three.leads(LEASE) && four.leads(LEASE));
    three.end();
    assert_eq!(lease(&world)["holderIdentity"], "four");
}

/// The longest that packets may take to find another way on a busy machine: ten times what it takes on an idle one.
const GAP: Duration = Duration::from_secs(10);

/// Waits until a stream had time to break and to heal.
fn watched(stream: Stream) -> Duration {
    std::thread::sleep(GAP);
    stream.gap().expect("packets pass again")
}

#[test]
#[ignore = "netns: needs vxlan, nft"]
fn a_dead_gateway_is_replaced_without_the_api() {
    let mut fleet = Underlay::new(&[3, 3], &["--session-hold", "2"]);
    fleet.settled();
    fleet.world.stop();
    let (there, back) = (fleet.stream((0, 3), (1, 3)), fleet.stream((1, 3), (0, 3)));
    std::thread::sleep(Duration::from_secs(1));
    fleet.node(0, 1).wire(|wire| wire.down(2));
    for (what, stream) in [
        ("to another cluster", there),
        ("from another cluster", back),
    ] {
        println!("{what}: nothing for {:?}", watched(stream));
    }
    // The other cluster's gateway dies as well.
    let stream = fleet.stream((0, 3), (1, 3));
    std::thread::sleep(Duration::from_secs(1));
    fleet.plug(1, 1, false);
    println!("between two standbys: nothing for {:?}", watched(stream));
}

#[test]
#[ignore = "netns: needs vxlan, nft"]
fn agents_that_end_freeze_or_lose_a_path_cost_no_connection() {
    let mut fleet = Underlay::new(&[3, 3], &["--session-hold", "2"]);
    fleet.settled();

    // Only one path is dead, in one direction.
    let stream = fleet.stream((0, 3), (1, 3));
    std::thread::sleep(Duration::from_secs(1));
    let others: Vec<usize> = fleet.nodes.iter().map(|node| node.host).collect();
    assert_eq!(others, [1, 2, 3, 1, 2, 3]);
    fleet.nodes[0].lose(&fleet.nodes[3], true);
    println!("a dead path: nothing for {:?}", watched(stream));
    fleet.nodes[0].lose(&fleet.nodes[3], false);
    fleet.settled();

    // A gateway whose agent is out of breath still forwards, and so does its standby: nobody loses a packet.
    let stream = fleet.stream((0, 3), (1, 3));
    fleet.node(0, 1).agent().freeze(true);
    std::thread::sleep(Duration::from_secs(3));
    fleet.node(0, 1).agent().freeze(false);
    let gap = watched(stream);
    println!("a frozen agent: nothing for {gap:?}");
    assert!(gap < Duration::from_millis(300), "{gap:?}");
    fleet.settled();

    // One that ends says so, and nobody turns to the standby; the next run finds everything as it was.
    let stream = fleet.stream((0, 3), (1, 3));
    fleet.node(0, 1).agent().end();
    std::thread::sleep(Duration::from_secs(2));
    let detours = |fleet: &Underlay| {
        let configs = fleet.world.objects(CONTROL, Resource::NODE_CONFIGS);
        let status = configs
            .values()
            .map(|one| one["status"]["sessions"]["detours"].clone());
        status.filter(|detours| *detours != json!([])).count()
    };
    assert_eq!(detours(&fleet), 0);
    fleet.begin(0, &["--session-hold", "2"]);
    fleet.settled();
    let gap = watched(stream);
    assert!(gap < Duration::from_millis(300), "{gap:?}");
}
