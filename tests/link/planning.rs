//! Agents that plan for themselves, where nobody writes NodeConfigs or where one is missing.

use std::time::{Duration, Instant};

use datapath::api::NodeConfigSpec;
use datapath::diff::diff;
use datapath::kernel::LinuxKernel;
use datapath::nodeconfig::desired;
use datapath::rbac::{self, Rights};
use datapath::reconcile::Kernel as _;
use serde_json::json;
use simulator::apiserver::Resource;

use super::fleet::{cluster, cluster_node, planned};
use super::node::{agent, on_a_node};
use super::process::Program;
use super::world::{CONTROL, PATIENCE, World};

/// Waits until the kernel holds a config; how long that took.
#[track_caller]
fn holds(kernel: &mut LinuxKernel, config: &NodeConfigSpec, what: &str) -> Duration {
    let began = Instant::now();
    loop {
        let state = kernel.observe().unwrap();
        let left = diff(&desired(config, &state).0, &state);
        if left.is_empty() {
            return began.elapsed();
        }
        assert!(began.elapsed() < PATIENCE, "{what}: {left}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
#[ignore = "netns: needs vxlan, nft"]
fn without_nodeconfigs_a_node_holds_the_same_rows() {
    on_a_node(|kernel| {
        let world = World::new(&[]);
        for (net, name) in [(1, "a"), (2, "b"), (3, "c")] {
            cluster(&world, name, "p2p");
            cluster_node(world.store(CONTROL), name, "n1", net, 1);
        }
        let off = [
            world.as_manager(),
            vec!["--node-configs".to_owned(), "off".to_owned()],
        ]
        .concat();
        let mut manager = Program::start("manager", &off);
        manager.said("everything is listed");
        let mut own = agent(&world, &[], rbac::agent_planning());
        let plan = |world: &World| planned(world)["a-n1"].clone();
        assert!(plan(&world).routes.len() == 2);
        println!(
            "planned by itself within {:?}",
            holds(kernel, &plan(&world), "the first plan")
        );
        for host in 2..=4 {
            cluster_node(world.store(CONTROL), "b", &format!("n{host}"), 2, host);
            let took = holds(kernel, &plan(&world), "a peer");
            println!("a peer within {took:?}");
        }
        assert!(world.objects(CONTROL, Resource::NODE_CONFIGS).is_empty());

        // Somebody writes NodeConfigs after all: the same rows, so that nothing changes; then they count.
        own.said("it plans for itself");
        manager.end();
        let config = json!({"metadata": {"name": "a-n1"}, "spec": plan(&world)});
        world
            .store(CONTROL)
            .create(Resource::NODE_CONFIGS, None, config)
            .unwrap();
        own.said("which counts from now on");
        let mut fewer = plan(&world);
        fewer.routes.pop();
        world
            .store(CONTROL)
            .put(Resource::NODE_CONFIGS, None, "a-n1", |object| {
                object["spec"] = json!(fewer)
            })
            .unwrap();
        holds(kernel, &fewer, "the NodeConfig");
        world
            .store(CONTROL)
            .delete(Resource::NODE_CONFIGS, None, "a-n1")
            .unwrap();
        holds(kernel, &plan(&world), "its own plan again");
        own.end();
    });
}

#[test]
#[ignore = "netns: needs vxlan, nft"]
fn an_agent_that_may_not_read_the_fleet_says_so_and_waits() {
    on_a_node(|kernel| {
        let world = World::new(&[]);
        cluster(&world, "a", "p2p");
        cluster_node(world.store(CONTROL), "a", "n1", 1, 1);
        let mut own = agent(&world, &["--grace", "1"], Rights::default());
        own.said("may not read what it would plan by");
        let config = json!({"metadata": {"name": "a-n1"}, "spec": planned(&world)["a-n1"]});
        world
            .store(CONTROL)
            .create(Resource::NODE_CONFIGS, None, config)
            .unwrap();
        holds(kernel, &planned(&world)["a-n1"], "the NodeConfig");
        own.end();
    });
}

#[test]
#[ignore = "netns: needs vxlan, nft"]
fn a_thousand_peers_take_little() {
    /// What a node may give it, bytes; a build for tests is larger than one that is shipped.
    const MOST: u64 = 64 << 20;
    on_a_node(|kernel| {
        let world = World::new(&[]);
        cluster(&world, "a", "p2p");
        cluster(&world, "b", "p2p");
        cluster_node(world.store(CONTROL), "a", "n1", 1, 1);
        for peer in 0..1000_u16 {
            let (net, host) = (2 + (peer / 250) as u8, (peer % 250) as u8 + 1);
            cluster_node(world.store(CONTROL), "b", &format!("n{peer}"), net, host);
        }
        let spec = planned(&world)["a-n1"].clone();
        assert_eq!(spec.routes.len(), 1000);
        let mut own = agent(&world, &[], rbac::agent_planning());
        let took = holds(kernel, &spec, "a thousand peers");
        // One look for what gives no notice is part of it.
        let idle = Duration::from_secs(35);
        let before = own.computed();
        std::thread::sleep(idle);
        let share = (own.computed() - before).as_secs_f64() / idle.as_secs_f64();
        let (resident, own_pages) = (own.resident("VmRSS"), own.resident("RssAnon"));
        println!(
            "held within {took:?}; {:.1} MB resident, {:.1} MB of it data; {:.2} % of a core at rest",
            resident as f64 / 1e6,
            own_pages as f64 / 1e6,
            share * 100.0
        );
        assert!(resident <= MOST, "{resident} bytes");
        own.end();
    });
}
