//! The agent of a node with a kernel of its own, against a simulated API: what it tells of itself, and what a cluster that leaves leaves behind.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use datapath::api::NodeConfigSpec;
use datapath::diff::{Change, ChangeSet};
use datapath::kernel::LinuxKernel;
use datapath::nodeconfig::spec_digest;
use datapath::rbac::{self, Rights};
use datapath::reconcile::Kernel as _;
use datapath::state::{Address, Link, NodeState, Route, Row};
use datapath::table::Table;
use serde::Deserialize as _;
use serde_json::{Value, json};
use simulator::apiserver::Resource;

use super::fleet::{cluster, cluster_node, condition};
use super::leaving::hold;
use super::node::{agent, on_a_node};
use super::process::Program;
use super::world::{CONTROL, PATIENCE, World};

/// What others have on a node, but for what changes by itself: counters, states of neighbours, and what the kernel does about addresses of the link.
fn lasting(kernel: &mut LinuxKernel) -> NodeState {
    let mut state = kernel.observe().unwrap();
    let links: Vec<Link> = state.links.iter().cloned().collect();
    for mut link in links {
        (link.tx_dropped, link.rx_dropped) = (0, 0);
        state.links.insert(link);
    }
    let mut routes = Table::default();
    let is_of_link =
        |route: &Route| matches!(route.dst.addr(), IpAddr::V6(ip) if ip.is_unicast_link_local());
    routes.extend(
        state
            .routes
            .iter()
            .filter(|route| !is_of_link(route))
            .cloned(),
    );
    NodeState {
        neighbours: Table::default(),
        routes,
        ..state
    }
}

/// The NodeConfig of the agent's node, once its agent says of this state that it is so.
fn told(world: &World, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    let (object, _) = world.until(CONTROL, Resource::NODE_CONFIGS, what, |configs| {
        let object = configs.get("a-n1")?;
        let is_current = object["status"]["observedGeneration"] == object["metadata"]["generation"];
        (is_current && is_so(object)).then(|| object.clone())
    });
    object
}

fn is_applied(object: &Value, status: &str) -> bool {
    condition(object, "Applied").is_some_and(|(is, _)| is == status)
}

fn digest(object: &Value) -> String {
    spec_digest(&NodeConfigSpec::deserialize(&object["spec"]).unwrap())
}

#[test]
#[ignore = "netns: needs vxlan, nft"]
fn an_agent_tells_what_it_holds_and_leaves_nothing_behind() {
    on_a_node(|kernel| {
        let before = lasting(kernel);
        let world = World::new(&[]);
        for (net, name) in [(1, "a"), (2, "b")] {
            cluster(&world, name, "p2p");
            hold(&world, name);
            cluster_node(world.store(CONTROL), name, "n1", net, 1);
        }
        let mut manager = Program::start("manager", &world.as_manager());
        let _agent = agent(&world, &[], Rights::default());
        let object = told(&world, "the agent's word", |object| {
            is_applied(object, "True") && object["spec"]["routes"].is_array()
        });
        assert_eq!(object["status"]["digest"], digest(&object));
        assert_eq!(object["status"]["version"], env!("CARGO_PKG_VERSION"));
        assert!(object["status"]["lastSyncTime"].is_string(), "{object}");
        assert!(object["status"]["lastChangeTime"].is_string(), "{object}");
        assert!(kernel.observe().unwrap().links.get("vx-bridge").is_some());

        // What it wrote is no news to itself or anybody: everything is at rest.
        let version = object["metadata"]["resourceVersion"].clone();
        std::thread::sleep(Duration::from_secs(4));
        let rested = told(&world, "rest", |_| true);
        assert_eq!(rested["metadata"]["resourceVersion"], version);

        // A row that cannot be is told, and the digest is that of what the kernel holds.
        let held = digest(&object);
        let spoil = |object: &mut Value| object["spec"]["routes"][0]["gw"] = json!("nobody\u{7}");
        // Nobody puts the rows right while that is looked at.
        manager.end();
        world
            .store(CONTROL)
            .put(Resource::NODE_CONFIGS, None, "a-n1", spoil)
            .unwrap();
        let refused = told(&world, "a refusal", |object| is_applied(object, "False"));
        let message = refused["status"]["conditions"][0]["message"]
            .as_str()
            .unwrap();
        assert!(
            message.contains("nobody") && !message.contains('\u{7}'),
            "{message}"
        );
        assert_eq!(refused["status"]["digest"], held);

        // The cluster leaves: the manager makes the node bare, the agent confirms, and the node is as it was.
        let _manager = Program::start("manager", &world.as_manager());
        told(&world, "the planned rows", |object| {
            is_applied(object, "True")
        });
        world
            .store(CONTROL)
            .delete(Resource::CLUSTERS, None, "a")
            .unwrap();
        let (_, took) = world.until(
            CONTROL,
            Resource::CLUSTERS,
            "the cluster's end",
            |clusters| (!clusters.contains_key("a")).then_some(()),
        );
        println!("left within {took:?}");
        assert!(took < Duration::from_secs(30), "nobody had to be given up");
        let began = Instant::now();
        loop {
            let after = lasting(kernel);
            if after == before || began.elapsed() > PATIENCE {
                assert_eq!(after.sysctls, before.sysctls);
                assert_eq!(after, before);
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    });
}

#[test]
#[ignore = "netns: needs vxlan, nft"]
fn an_agent_that_starts_again_tells_so_and_changes_nothing() {
    on_a_node(|kernel| {
        let world = World::new(&[]);
        for (net, name) in [(1, "a"), (2, "b")] {
            cluster(&world, name, "p2p");
            hold(&world, name);
            cluster_node(world.store(CONTROL), name, "n1", net, 1);
        }
        let _manager = Program::start("manager", &world.as_manager());
        let mut first = agent(&world, &[], Rights::default());
        let is_linked =
            |object: &Value| is_applied(object, "True") && object["spec"]["routes"].is_array();
        let before = told(&world, "the agent's word", is_linked);
        first.end();
        let tables = lasting(kernel);
        // The API's times are whole seconds.
        std::thread::sleep(Duration::from_millis(1100));
        let mut second = agent(&world, &[], Rights::default());
        let after = told(&world, "another run's word", |object| {
            object["metadata"]["resourceVersion"] != before["metadata"]["resourceVersion"]
        });
        for field in ["lastChangeTime", "digest", "conditions"] {
            assert_eq!(after["status"][field], before["status"][field], "{field}");
        }
        assert_eq!(lasting(kernel), tables);
        // What an earlier run changed nobody knows: it stays, and that is said.
        world
            .store(CONTROL)
            .delete(Resource::CLUSTERS, None, "a")
            .unwrap();
        second.said("the settings of the node stay as they are");
    });
}

#[test]
#[ignore = "netns: needs vxlan, nft"]
fn an_agent_finds_its_underlay_and_follows_it() {
    on_a_node(|kernel| {
        let world = World::new(&[]);
        cluster(&world, "a", "p2p");
        cluster(&world, "b", "p2p");
        let store = world.store(CONTROL);
        let finds = |object: &mut Value| {
            object["spec"]["clusterLinkOptions"]["defaultNICName"] = json!("*");
            object["spec"]["clusterLinkOptions"]["autodetectionMethod"] =
                json!("can-reach=100.64.2.2");
        };
        store.put(Resource::CLUSTERS, None, "a", finds).unwrap();
        cluster_node(store, "b", "n1", 2, 1);
        let node = json!({"metadata": {"name": "a-n1"}, "spec": {"clusterName": "a", "nodeName": "n1", "podCIDRs": ["10.1.1.0/24"]}});
        store.create(Resource::CLUSTER_NODES, None, node).unwrap();
        let _manager = Program::start("manager", &world.as_manager());
        let mut agent = agent(&world, &[], rbac::agent_detecting("a"));
        agent.said("wrote the node's underlay");
        let found = |what: &str, ip: &str| {
            let (_, took) = world.until(CONTROL, Resource::CLUSTER_NODES, what, |nodes| {
                let spec = &nodes["a-n1"]["spec"];
                (spec["interfaceName"] == "eth0" && spec["ip"] == ip).then_some(())
            });
            println!("{what}: {took:?}");
        };
        found("the underlay", "100.64.1.1");
        told(&world, "its rows", |object| {
            is_applied(object, "True") && object["spec"]["routes"].is_array()
        });
        let tunnel =
            |kernel: &mut LinuxKernel| kernel.observe().unwrap().links.get("vx-bridge").cloned();
        assert_eq!(tunnel(kernel).map(|link| link.mtu), Some(1450));

        // The link gets another address in place of its own, and takes shorter packets: the agent learns both without being told.
        let address = |net: &str| {
            Row::Address(Address {
                link: "eth0".into(),
                net: net.parse().unwrap(),
            })
        };
        // One after the other: the kernel takes a second address of a network away with the first.
        for change in [
            Change::Remove(address("100.64.1.1/16")),
            Change::Add(address("100.64.1.7/16")),
        ] {
            kernel.apply(&ChangeSet::ordered(vec![change])).unwrap();
        }
        found("another address", "100.64.1.7");
        let link = kernel.observe().unwrap().links.get("eth0").unwrap().clone();
        let shorter = Link {
            mtu: 1400,
            ..link.clone()
        };
        kernel
            .apply(&ChangeSet::ordered(vec![Change::Replace {
                from: Row::Link(link),
                to: Row::Link(shorter),
            }]))
            .unwrap();
        let began = Instant::now();
        while tunnel(kernel).is_none_or(|link| link.mtu != 1350) {
            assert!(
                began.elapsed() < Duration::from_secs(20),
                "{:?}",
                tunnel(kernel)
            );
            std::thread::sleep(Duration::from_millis(5));
        }
        println!("another MTU: {:?}", began.elapsed());
    });
}
