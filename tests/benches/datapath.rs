//! What an agent takes on one node, measured over a kernel and a simulated API, and printed: how fast a NodeConfig reaches the kernel, how fast a row that
//! somebody took comes back while no API is there, and what a thousand peers cost.
//!
//! `--test` does a little of each.
#![allow(
    dead_code,
    reason = "it drives what the suite of the same programs drives, and needs a part of it"
)]
#![expect(clippy::unwrap_used, reason = "a measure that cannot go on has failed")]

#[path = "../link/fleet.rs"]
mod fleet;
#[path = "../link/node.rs"]
mod node;
#[path = "../link/process.rs"]
mod process;
#[path = "../link/world.rs"]
mod world;

use std::time::{Duration, Instant};

use datapath::api::NodeConfigSpec;
use datapath::diff::{Change, ChangeSet, diff};
use datapath::kernel::LinuxKernel;
use datapath::nodeconfig::{TABLE, desired};
use datapath::rbac::{self, Rights};
use datapath::reconcile::Kernel as _;
use datapath::state::Row;
use serde_json::json;
use simulator::apiserver::Resource;

use fleet::{cluster, cluster_node, planned};
use node::{agent, on_a_node};
use world::{CONTROL, PATIENCE, World};

/// Peers of the node in the first two measures.
const FEW: u8 = 10;

fn main() {
    // Before anything else: a process of one thread may still become root of a namespace.
    if let Err(error) = netns_harness::rootless::enter() {
        println!("nothing is measured: no network namespaces: {error}");
        return;
    }
    let is_test = std::env::args().any(|argument| argument == "--test");
    let (changes, peers, idle) = match is_test {
        true => (5, 20, Duration::from_secs(1)),
        false => (200, 1000, Duration::from_secs(60)),
    };
    on_a_node(|kernel| changes_and_drift(kernel, changes));
    on_a_node(|kernel| many_peers(kernel, peers, idle));
}

/// Waits until the kernel holds a config. A few rows are read in less than a millisecond, so that waiting for a notice would save nothing.
#[track_caller]
fn holds(kernel: &mut LinuxKernel, config: &NodeConfigSpec) -> Duration {
    let began = Instant::now();
    loop {
        let state = kernel.observe().unwrap();
        if diff(&desired(config, &state).0, &state).is_empty() {
            return began.elapsed();
        }
        assert!(began.elapsed() < PATIENCE, "the kernel does not follow");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn changes_and_drift(kernel: &mut LinuxKernel, times: usize) {
    let mut world = World::new(&[]);
    for (net, name) in [(1, "a"), (2, "b")] {
        cluster(&world, name, "p2p");
        cluster_node(world.store(CONTROL), name, "n1", net, 1);
    }
    for host in 2..=FEW {
        cluster_node(world.store(CONTROL), "b", &format!("n{host}"), 2, host);
    }
    let whole = planned(&world)["a-n1"].clone();
    let config = json!({"metadata": {"name": "a-n1"}, "spec": whole});
    let store = world.store(CONTROL).clone();
    store.create(Resource::NODE_CONFIGS, None, config).unwrap();
    let mut own = agent(&world, &[], Rights::default());
    holds(kernel, &whole);
    let mut fewer = whole.clone();
    fewer.routes.pop();
    let mut took = Vec::new();
    for turn in 0..times {
        let next = if turn % 2 == 0 { &fewer } else { &whole };
        let put = |object: &mut serde_json::Value| object["spec"] = json!(next);
        store
            .put(Resource::NODE_CONFIGS, None, "a-n1", put)
            .unwrap();
        took.push(holds(kernel, next));
    }
    print("a NodeConfig's change in the kernel", "p95 50 ms", took);

    store
        .put(Resource::NODE_CONFIGS, None, "a-n1", |object| {
            object["spec"] = json!(whole);
        })
        .unwrap();
    holds(kernel, &whole);
    world.stop();
    let mut took = Vec::new();
    for _ in 0..times {
        let state = kernel.observe().unwrap();
        let route = state.routes.iter().find(|route| route.table == TABLE);
        let taken = vec![Change::Remove(Row::Route(route.unwrap().clone()))];
        kernel.apply(&ChangeSet::ordered(taken)).unwrap();
        took.push(holds(kernel, &whole));
    }
    print(
        "a row that was taken, while there is no API",
        "p95 500 ms",
        took,
    );
    own.end();
}

fn many_peers(kernel: &mut LinuxKernel, peers: u16, idle: Duration) {
    let world = World::new(&[]);
    let store = world.store(CONTROL).clone();
    cluster(&world, "a", "p2p");
    cluster_node(&store, "a", "n1", 1, 1);
    for peer in 0..peers {
        let (net, host) = (2 + (peer / 250) as u8, (peer % 250) as u8 + 1);
        let name = format!("b{peer}");
        cluster(&world, &name, "p2p");
        cluster_node(&store, &name, "n1", net, host);
    }
    let spec = planned(&world)["a-n1"].clone();
    let mut own = agent(&world, &[], rbac::agent_planning());
    let took = holds(kernel, &spec);
    // Looks for what gives no notice are part of it.
    let before = own.computed();
    std::thread::sleep(idle);
    let share = (own.computed() - before).as_secs_f64() / idle.as_secs_f64();
    let mut changes = Vec::new();
    for turn in 0..(peers / 10).min(20) {
        let name = format!("b{}-n1", turn * 10);
        let moved = |node: &mut serde_json::Value| {
            node["spec"]["ip"] = json!(format!("100.99.1.{}", turn + 1))
        };
        // What the rows should be is computed here as well, which is counted, too.
        let began = Instant::now();
        store
            .put(Resource::CLUSTER_NODES, None, &name, moved)
            .unwrap();
        holds(kernel, &planned(&world)["a-n1"].clone());
        changes.push(began.elapsed());
    }
    print(
        &format!(
            "another address of one of {peers} clusters in the kernel of a node that plans by itself"
        ),
        "2 s",
        changes,
    );
    println!(
        "agent of {peers} clusters that it plans itself: held within {took:.1?}; {:.1} MB resident (asked: 20 MB), {:.1} MB of it data; {:.2} % of a core at rest (asked: 0.1 %)",
        own.resident("VmRSS") as f64 / 1e6,
        own.resident("RssAnon") as f64 / 1e6,
        share * 100.0
    );
    own.end();
}

fn print(what: &str, asked: &str, mut took: Vec<Duration>) {
    took.sort();
    let at = |share: usize| took[(took.len() * share / 100).min(took.len() - 1)];
    println!(
        "{what}: p50 {:.1?}, p95 {:.1?}, most {:.1?} of {} (asked: {asked})",
        at(50),
        at(95),
        at(100),
        took.len()
    );
}
