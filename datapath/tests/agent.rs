//! The agent against a real kernel, in a namespace of its own, with its NodeConfig from a channel in place of an API.
#![cfg(all(feature = "kernel", feature = "kube"))]
#![allow(clippy::expect_used, reason = "a test")]

#[path = "kernel/underlay.rs"]
mod underlay;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use datapath::agent::{Event, Timing, keep};
use datapath::api::{Device, Fdb as FdbRow, Iptables, NodeConfigSpec, Route as RouteRow};
use datapath::diff::{Change, ChangeSet, diff};
use datapath::error::Error;
use datapath::kernel::{LinuxKernel, Monitor};
use datapath::mac::Mac;
use datapath::nodeconfig::desired;
use datapath::reconcile::Kernel;
use datapath::state::{
    Link, LinkKind, Neighbour, NeighbourState, NextHop, NodeState, Route, RouteKind, Row, Vxlan,
};
use futures::StreamExt;
use futures::channel::{mpsc, oneshot};
use nix::sched::{CloneFlags, unshare};

use underlay::underlay;

fn config() -> NodeConfigSpec {
    NodeConfigSpec {
        devices: vec![Device {
            kind: "vxlan".into(),
            name: "vx-bridge".into(),
            addr: "220.64.0.1/8".into(),
            mac: "02:00:00:00:0b:01".into(),
            bind_dev: "underlay".into(),
            id: 54,
            port: 4876,
        }],
        routes: vec![RouteRow {
            cidr: "10.21.0.0/16".into(),
            gw: "220.64.0.3".into(),
            dev: "vx-bridge".into(),
        }],
        fdbs: vec![FdbRow {
            ip: "100.64.0.3".into(),
            mac: "02:00:00:00:0b:03".into(),
            dev: "vx-bridge".into(),
        }],
        iptables: vec![Iptables {
            table: "nat".into(),
            chain: "POSTROUTING".into(),
            rule: "-s 220.0.0.0/8 -j MASQUERADE".into(),
        }],
        ..NodeConfigSpec::default()
    }
}

fn on_underlay() -> ChangeSet {
    underlay("underlay", &["100.64.0.1/16"])
}

/// Waits until the kernel is as the config says; how long that took.
async fn until_true(admin: &mut LinuxKernel, config: &NodeConfigSpec, what: &str) -> Duration {
    let start = Instant::now();
    loop {
        let state = admin.observe().expect("an observation");
        let left = diff(&desired(config, &state).0, &state);
        if left.is_empty() {
            return start.elapsed();
        }
        assert!(start.elapsed() < Duration::from_secs(5), "{what}:\n{left}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn scenario(
    admin: &mut LinuxKernel,
    events: mpsc::UnboundedSender<Event>,
    stop: oneshot::Sender<()>,
) {
    let send = |event| events.unbounded_send(event).expect("a listening agent");
    let wanted = config();
    send(Event::Wanted(wanted.clone()));
    until_true(admin, &wanted, "the first config").await;

    // Each act of somebody else is undone within a second.
    let healthy = admin.observe().expect("an observation");
    for change in acts(&healthy) {
        let what = change.to_string();
        admin
            .apply(&ChangeSet::ordered(vec![change]))
            .expect("a possible act");
        let state = admin.observe().expect("an observation");
        let drifted = !diff(&desired(&wanted, &state).0, &state).is_empty();
        let took = until_true(admin, &wanted, &what).await;
        assert!(
            drifted || took.is_zero() || took < Duration::from_millis(50),
            "{what}"
        );
        assert!(took < Duration::from_secs(1), "{what}: {took:?}");
    }

    // A config whose tunnel cannot be made, one that cannot be read, and a short absence change nothing.
    let mut unfit = wanted.clone();
    unfit.devices[0].bind_dev = "nowhere".into();
    send(Event::Wanted(unfit));
    send(Event::Unreadable("spec is a number".into()));
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(
        until_true(admin, &wanted, "an unfit config")
            .await
            .as_secs(),
        0
    );
    send(Event::Withdrawn);
    send(Event::Wanted(wanted.clone()));
    tokio::time::sleep(Duration::from_millis(700)).await;
    until_true(admin, &wanted, "a short absence").await;

    // One malformed row keeps all former ones, and the corrected config is adopted.
    let mut partly = wanted.clone();
    partly.routes[0].gw = "nobody".into();
    partly.routes.push(RouteRow {
        cidr: "10.22.0.0/16".into(),
        ..wanted.routes[0].clone()
    });
    send(Event::Wanted(partly.clone()));
    tokio::time::sleep(Duration::from_millis(200)).await;
    until_true(admin, &wanted, "a config with a malformed row").await;
    partly.routes[0].gw.clone_from(&wanted.routes[0].gw);
    send(Event::Wanted(partly.clone()));
    until_true(admin, &partly, "the corrected config").await;

    // A long one withdraws everything.
    send(Event::Withdrawn);
    until_true(admin, &NodeConfigSpec::default(), "a withdrawal").await;
    let state = admin.observe().expect("an observation");
    assert!(state.links.get("vx-bridge").is_none());

    // What is there stays when the agent ends.
    send(Event::Wanted(wanted.clone()));
    until_true(admin, &wanted, "the config's return").await;
    stop.send(()).expect("a running agent");
}

fn acts(healthy: &NodeState) -> Vec<Change> {
    let link = healthy.links.get("vx-bridge").expect("the tunnel").clone();
    let route = healthy
        .routes
        .iter()
        .find(|row| row.table == 200)
        .expect("the route");
    let row = healthy
        .fdb
        .iter()
        .find(|row| row.link == "vx-bridge")
        .expect("the row");
    let translation = healthy.nat.iter().next().expect("the translation");
    vec![
        Change::Remove(Row::Nat(translation.clone())),
        Change::Remove(Row::Route(route.clone())),
        Change::Remove(Row::Fdb(row.clone())),
        Change::Replace {
            from: Row::Link(link.clone()),
            to: Row::Link(Link {
                up: false,
                ..link.clone()
            }),
        },
        Change::Remove(Row::Link(link)),
    ]
}

/// A kernel that counts the looks at it.
struct Counted {
    kernel: LinuxKernel,
    looks: Arc<AtomicUsize>,
}

impl Kernel for Counted {
    fn observe(&mut self) -> Result<NodeState, Error> {
        self.looks.fetch_add(1, Ordering::Relaxed);
        self.kernel.observe()
    }

    fn apply(&mut self, set: &ChangeSet) -> Result<(), Vec<Error>> {
        self.kernel.apply(set)
    }
}

/// Links, routes and neighbours as a CNI plugin makes them, and their end.
fn churn(admin: &mut LinuxKernel) {
    let link = Link {
        name: "cali1".into(),
        kind: LinkKind::Vxlan(Vxlan {
            vni: 10,
            port: 9998,
            local: None,
            lower: None,
            learning: false,
        }),
        ..match &on_underlay().changes[0] {
            Change::Add(Row::Link(link)) => link.clone(),
            other => panic!("a link: {other}"),
        }
    };
    let hop = NextHop {
        via: None,
        link: "cali1".into(),
        onlink: false,
        weight: 1,
        dead: false,
    };
    let route = Route {
        table: 254,
        dst: "10.244.0.7/32".parse().expect("a prefix"),
        metric: 0,
        kind: RouteKind::Unicast,
        hops: vec![hop],
        src: None,
        protocol: 3,
        mtu: None,
    };
    let neighbour = Neighbour {
        link: "cali1".into(),
        ip: "10.244.0.7".parse().expect("an address"),
        mac: Some(Mac([2, 0, 0, 0, 8, 8])),
        state: NeighbourState::Permanent,
    };
    let rows = [
        Row::Link(link),
        Row::Route(route),
        Row::Neighbour(neighbour),
    ];
    let set = ChangeSet::ordered(rows.into_iter().map(Change::Add).collect());
    admin.apply(&set).expect("a possible act");
    admin.apply(&set.reversed()).expect("a possible act");
}

async fn quiet_scenario(
    admin: &mut LinuxKernel,
    looks: Arc<AtomicUsize>,
    events: mpsc::UnboundedSender<Event>,
    stop: oneshot::Sender<()>,
) {
    let send = |event| events.unbounded_send(event).expect("a listening agent");
    let pause = || tokio::time::sleep(Duration::from_millis(400));
    let wanted = config();
    send(Event::Wanted(wanted.clone()));
    until_true(admin, &wanted, "the first config").await;
    pause().await;
    // One to compare, one to verify; its own changes are looked at no more.
    assert_eq!(looks.load(Ordering::Relaxed), 2);

    for _ in 0..50 {
        churn(admin);
        tokio::task::yield_now().await;
    }
    pause().await;
    assert_eq!(looks.load(Ordering::Relaxed), 2, "after others' changes");

    let mut more = wanted.clone();
    more.routes.push(RouteRow {
        cidr: "10.22.0.0/16".into(),
        ..wanted.routes[0].clone()
    });
    send(Event::Wanted(more.clone()));
    until_true(admin, &more, "another config").await;
    pause().await;
    assert_eq!(
        looks.load(Ordering::Relaxed),
        2,
        "its own rows are told by the kernel"
    );

    // Rows that others take away are told as well, and so is that they are back.
    let state = admin.observe().expect("an observation");
    for change in acts(&state).into_iter().filter(is_row) {
        let what = change.to_string();
        let set = ChangeSet::ordered(vec![change]);
        admin.apply(&set).expect("a possible act");
        until_true(admin, &more, &what).await;
    }
    pause().await;
    assert_eq!(looks.load(Ordering::Relaxed), 2, "after drift of rows");

    // Drift of every kind is still seen.
    for change in acts(&state) {
        let what = change.to_string();
        let set = ChangeSet::ordered(vec![change]);
        admin.apply(&set).expect("a possible act");
        until_true(admin, &more, &what).await;
    }
    stop.send(()).expect("a running agent");
}

fn is_row(change: &Change) -> bool {
    matches!(
        change.row(),
        Row::Fdb(_) | Row::Neighbour(_) | Row::Route(_)
    )
}

#[test]
#[ignore = "netns: needs vxlan, nft"]
fn the_agent_looks_once_for_a_config_and_never_for_what_others_do() {
    let worker = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).expect("a new network namespace");
        let looks = Arc::new(AtomicUsize::new(0));
        let mut kernel = Counted {
            kernel: LinuxKernel::open().expect("sockets"),
            looks: looks.clone(),
        };
        let mut admin = LinuxKernel::open().expect("sockets");
        let monitor = Monitor::open().expect("a monitor");
        kernel.apply(&on_underlay()).expect("an underlay");
        let (events, stream) = mpsc::unbounded();
        let (stop, stopped) = oneshot::channel::<()>();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(async {
            let timing = Timing::default();
            let agent = keep(
                &mut kernel,
                monitor,
                stream.boxed(),
                timing,
                |_| {},
                async {
                    let _ = stopped.await;
                },
            );
            let scenario = quiet_scenario(&mut admin, looks, events, stop);
            let (ended, ()) = tokio::join!(agent, scenario);
            ended.expect("a clean end");
        });
    });
    worker.join().expect("no panic in the namespace");
}

#[test]
#[ignore = "netns: needs vxlan, nft"]
fn the_agent_keeps_its_config_and_its_head() {
    let worker = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).expect("a new network namespace");
        let mut kernel = LinuxKernel::open().expect("sockets");
        let mut admin = LinuxKernel::open().expect("sockets");
        let monitor = Monitor::open().expect("a monitor");
        kernel.apply(&on_underlay()).expect("an underlay");
        let (events, stream) = mpsc::unbounded();
        let (stop, stopped) = oneshot::channel::<()>();
        let timing = Timing {
            grace: Duration::from_millis(400),
            ..Timing::default()
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(async {
            let agent = keep(
                &mut kernel,
                monitor,
                stream.boxed(),
                timing,
                |_| {},
                async {
                    let _ = stopped.await;
                },
            );
            let (ended, ()) = tokio::join!(agent, scenario(&mut admin, events, stop));
            ended.expect("a clean end");
        });
        let state = admin.observe().expect("an observation");
        assert!(state.links.get("vx-bridge").is_some());
    });
    worker.join().expect("no panic in the namespace");
}
