//! The agent of a node with a kernel of its own, against a simulated API: what it tells of itself, and what a cluster that leaves leaves behind.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use datapath::api::NodeConfigSpec;
use datapath::diff::{Change, ChangeSet};
use datapath::kernel::LinuxKernel;
use datapath::mac::Mac;
use datapath::nodeconfig::spec_digest;
use datapath::reconcile::Kernel as _;
use datapath::state::{Address, Link, LinkKind, NodeState, Route, Row, Vxlan};
use datapath::table::Table;
use netns_harness::namespace::Netns;
use serde::Deserialize as _;
use serde_json::{Value, json};
use simulator::apiserver::Resource;

use super::fleet::{cluster, cluster_node, condition};
use super::leaving::hold;
use super::process::Program;
use super::world::{CONTROL, PATIENCE, World};

/// Runs a test in a network namespace of its own, with a loopback and a link `eth0` for the underlay.
fn on_a_node(test: impl FnOnce(&mut LinuxKernel) + Send) {
    let netns = Netns::create().unwrap();
    let ran = netns.run(|| {
        let mut kernel = LinuxKernel::open().unwrap();
        let state = kernel.observe().unwrap();
        let loopback = state.links.get("lo").unwrap().clone();
        let up = Link {
            up: true,
            ..loopback.clone()
        };
        let underlay = Link {
            name: "eth0".into(),
            index: 0,
            mac: Some(Mac([2, 0, 0, 0, 9, 1])),
            mtu: 1500,
            up: true,
            carrier: true,
            kind: LinkKind::Vxlan(Vxlan {
                vni: 9,
                port: 9999,
                local: None,
                lower: None,
                learning: false,
            }),
            master: None,
            tx_dropped: 0,
            rx_dropped: 0,
        };
        let address = Address {
            link: "eth0".into(),
            net: "100.64.1.1/16".parse().unwrap(),
        };
        let changes = vec![
            Change::Replace {
                from: Row::Link(loopback),
                to: Row::Link(up),
            },
            Change::Add(Row::Link(underlay)),
            Change::Add(Row::Address(address)),
        ];
        kernel.apply(&ChangeSet::ordered(changes)).unwrap();
        test(&mut kernel);
    });
    ran.unwrap();
}

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

fn agent(world: &World) -> Program {
    let kubeconfig = world.as_agent("a");
    let words = [
        "--cluster",
        "a",
        "--node",
        "n1",
        "--kubeconfig",
        kubeconfig.to_str().unwrap(),
    ];
    Program::start("agent", &words.map(str::to_owned))
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
        let _agent = agent(&world);
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
        let mut first = agent(&world);
        let is_linked =
            |object: &Value| is_applied(object, "True") && object["spec"]["routes"].is_array();
        let before = told(&world, "the agent's word", is_linked);
        first.end();
        let tables = lasting(kernel);
        // The API's times are whole seconds.
        std::thread::sleep(Duration::from_millis(1100));
        let mut second = agent(&world);
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
