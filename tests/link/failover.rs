//! Two replicas: one writes, and when it goes the other one does.

use std::time::Instant;

use serde_json::Value;
use simulator::apiserver::Resource;

use super::fleet::{cluster, cluster_node, planned, rows};
use super::process::Program;
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
