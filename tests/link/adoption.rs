//! An API server that goes away and comes back, or forgets what it said: what changed meanwhile is known soon after.

use std::time::{Duration, Instant};

use simulator::apiserver::Resource;

use super::fleet::{cluster, cluster_node, planned, rows};
use super::process::Program;
use super::world::{CONTROL, World};

/// Waits until the NodeConfigs are those of the objects as they are; how long that took.
#[track_caller]
fn adopted(world: &World) -> Duration {
    let began = Instant::now();
    world.until(
        CONTROL,
        Resource::NODE_CONFIGS,
        "the planned NodeConfigs",
        |configs| (rows(configs) == planned(world)).then_some(()),
    );
    began.elapsed()
}

#[test]
fn what_changed_while_the_api_was_away_is_known_when_it_is_back() {
    let mut world = World::new(&[]);
    cluster(&world, "a", "p2p");
    cluster_node(world.store(CONTROL), "a", "n1", 1, 1);
    let mut managers = [0, 1].map(|_| Program::start("manager", &world.as_manager()));
    for manager in &mut managers {
        manager.said("everything is listed");
    }
    adopted(&world);
    let mut host = 1;
    // A moment; longer than a leader goes on without the API; and one after which the server has forgotten all watches.
    for (away, forgets) in [
        (Duration::from_secs(1), false),
        (Duration::from_secs(12), false),
        (Duration::from_secs(1), true),
    ] {
        world.stop();
        host += 1;
        cluster_node(world.store(CONTROL), "a", &format!("n{host}"), 1, host);
        world
            .store(CONTROL)
            .delete(Resource::CLUSTER_NODES, None, &format!("a-n{}", host - 1))
            .unwrap();
        std::thread::sleep(away);
        if forgets {
            world.store(CONTROL).forget_changes();
        }
        assert_ne!(
            rows(&world.objects(CONTROL, Resource::NODE_CONFIGS)),
            planned(&world)
        );
        world.start();
        let took = adopted(&world);
        println!(
            "away for {away:?}{}: adopted {took:?} after the API was back",
            if forgets { ", 410 Gone" } else { "" }
        );
        // Not tightly: this machine may be busy.
        assert!(took < Duration::from_secs(20), "{took:?}");
    }
    for manager in &mut managers {
        assert_eq!(manager.ask("/readyz").0, 200);
        manager.end();
    }
}
