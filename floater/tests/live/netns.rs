//! Probes over a real kernel: a node, a router and another node, each a network namespace.
//!
//! ```text
//!   near 10.0.1.1/24, fd01::1/64 ── router ── far 10.0.2.1/24, fd02::1/64, MTU 1300
//! ```
//! The router forwards, has no route to 10.9.0.0/16 and fd09::/64, and nobody owns 10.0.2.9 and fd02::9.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant};

use datapath::state::NodeState;
use floater::agent::{Family, Floater, Here, Sockets};
use floater::wire::{
    Expect, Failure, Identity, Meeting, Met, Outcome, Peer, Plan, Probe, Protocol, Tables, Trial,
    proof,
};
use netns_harness::namespace::Netns;
use netns_harness::netlink::Netlink;
use netns_harness::sysctl;
use netns_harness::wire::{End, Route, Wire as _};
use tokio::net::TcpStream;

use crate::client::{
    KEY, ask_over, config, nonce_of, plan, probe, request, run_over, signed, start,
};

/// Sockets of a namespace, opened by threads that go there.
struct In(Netns);

impl In {
    fn within<T: Send>(&self, open: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        self.0
            .run(open)
            .map_err(|error| io::Error::other(error.to_string()))?
    }
}

impl Sockets for In {
    fn tcp_listener(&self, port: u16) -> io::Result<TcpListener> {
        self.within(|| Here.tcp_listener(port))
    }
    fn tcp_socket(&self, family: Family) -> io::Result<socket2::Socket> {
        self.within(|| Here.tcp_socket(family))
    }
    fn icmp_socket(&self, family: Family) -> io::Result<socket2::Socket> {
        self.within(|| Here.icmp_socket(family))
    }
    fn udp_socket(&self, family: Family) -> io::Result<socket2::Socket> {
        self.within(|| Here.udp_socket(family))
    }
    fn raw_udp_socket(&self, family: Family) -> io::Result<socket2::Socket> {
        self.within(|| Here.raw_udp_socket(family))
    }
    fn has_vxlan(&self) -> Result<bool, String> {
        self.0
            .run(|| Here.has_vxlan())
            .map_err(|error| error.to_string())?
    }
    fn accept_queue_overflows(&self) -> io::Result<u64> {
        self.within(|| Here.accept_queue_overflows())
    }
    fn tables(&self) -> Result<NodeState, String> {
        self.inspect().map(|(state, _)| state)
    }
    fn inspect(&self) -> Result<(NodeState, Vec<String>), String> {
        self.0
            .run(|| Here.inspect())
            .map_err(|error| error.to_string())?
    }
}

struct Net {
    near: Netns,
    far: Netns,
    _router: Netns,
}

fn net() -> Net {
    let [near, router, far] = [(); 3].map(|()| Netns::create().expect("a namespace"));
    for netns in [&near, &router, &far] {
        // A router solicits from its link-local address, which would be tentative for its first second.
        netns
            .run(|| sysctl::set("net.ipv6.conf.default.accept_dad", "0"))
            .expect("a thread")
            .expect("a setting");
    }
    let inside = |netns: &Netns, work: &(dyn Fn(&mut Netlink) + Sync)| {
        netns
            .run(|| {
                let mut netlink = Netlink::open()?;
                netlink.up(1);
                work(&mut netlink);
                netlink.flush()
            })
            .expect("a thread")
            .expect("links, addresses and routes");
    };
    let end = |index: u32, side: u8, mtu: u32| End {
        name: if index == 2 { "eth0" } else { "eth1" },
        index,
        mac: [2, 0, 0, 0, index as u8, side],
        mtu,
        namespace: None,
        master: None,
    };
    inside(&router, &|netlink| {
        for (index, there, mtu) in [(2, &near, 1500), (3, &far, 1300)] {
            let peer = End {
                name: "eth0",
                index: 2,
                namespace: Some(there),
                ..end(2, index as u8 + 8, mtu)
            };
            netlink.veth(&end(index, 1, mtu), &peer);
            netlink.flush().expect("a pair of links");
            netlink.address(index, format!("10.0.{}.254/24", index - 1).parse().unwrap());
            netlink.address(index, format!("fd0{}::fe/64", index - 1).parse().unwrap());
        }
    });
    for (netns, number) in [(&near, 1), (&far, 2)] {
        inside(netns, &|netlink| {
            netlink.up(2);
            netlink.settle(2);
            netlink.address(2, format!("10.0.{number}.1/24").parse().unwrap());
            netlink.address(2, format!("fd0{number}::1/64").parse().unwrap());
            for (dst, via) in [
                ("0.0.0.0/0", format!("10.0.{number}.254")),
                ("::/0", format!("fd0{number}::fe")),
            ] {
                netlink.route(&Route {
                    dst: dst.parse().unwrap(),
                    via: Some(via.parse().unwrap()),
                    index: 2,
                    table: 254,
                });
            }
        });
    }
    // Its ends see the others come up only now, and would drop what they send until the kernel has looked.
    inside(&router, &|netlink| {
        netlink.settle(2);
        netlink.settle(3);
    });
    router
        .run(|| {
            sysctl::set("net.ipv4.ip_forward", "1")?;
            sysctl::set("net.ipv6.conf.all.forwarding", "1")?;
            // As many errors as there are probes.
            sysctl::set("net.ipv4.icmp_ratelimit", "0")?;
            sysctl::set("net.ipv6.icmp.ratelimit", "0")
        })
        .expect("a thread")
        .expect("a router");
    Net {
        near,
        far,
        _router: router,
    }
}

/// Lets group 0, the one that also an unprivileged user namespace has, have ICMP sockets.
fn open_to_all(netns: &Netns) {
    netns
        .run(|| sysctl::set("net.ipv4.ping_group_range", "0 0"))
        .expect("a thread")
        .expect("a setting");
}

async fn floater_in(netns: &Netns, node: &str) -> Floater {
    start(config(node), Arc::new(In(netns.clone()))).await
}

async fn api(netns: &Netns, floater: &Floater) -> TcpStream {
    let address = SocketAddr::from(([127, 0, 0, 1], floater.api_port()));
    let stream = netns
        .run(|| std::net::TcpStream::connect(address))
        .expect("a thread")
        .expect("the API");
    stream.set_nonblocking(true).unwrap();
    TcpStream::from_std(stream).unwrap()
}

async fn outcomes(netns: &Netns, floater: &Floater, plan: &Plan) -> Vec<Outcome> {
    run_over(api(netns, floater).await, plan).await.0
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn expecting(node: &str, mut probe: Probe) -> Probe {
    probe.expect = Some(Expect {
        nonce: "c0ffee".to_owned(),
        proof: proof(
            KEY,
            "c0ffee",
            "uid",
            node,
            SocketAddr::new(probe.dst, probe.port),
        ),
    });
    probe
}

fn error(from: &str, kind: u8, code: u8) -> Option<Failure> {
    Some(Failure::IcmpError {
        from: ip(from),
        kind,
        code,
    })
}

async fn echoes_are_judged(net: &Net) {
    let floater = floater_in(&net.near, "n1").await;
    let echo = |id, dst: &str, payload_bytes| {
        let mut probe = probe(id, ip(dst), Protocol::Icmp, 0);
        probe.payload_bytes = payload_bytes;
        probe
    };
    let mut plan = plan(vec![
        echo(1, "10.0.2.1", 56),
        echo(2, "fd02::1", 56),
        echo(3, "10.0.1.1", 0),
        echo(4, "10.9.0.1", 56),
        echo(5, "fd09::1", 56),
        echo(6, "10.0.2.1", 1400),
        echo(7, "fd02::1", 1400),
        echo(8, "10.0.2.9", 56),
        echo(9, "10.0.1.1", 8000),
        echo(10, "10.0.2.1", 1200),
    ]);
    plan.timeout_ms = 1500;
    let outcomes = outcomes(&net.near, &floater, &plan).await;
    let too_long = Failure::Local {
        error: io::Error::from_raw_os_error(libc::EMSGSIZE).to_string(),
    };
    for (outcome, failure) in outcomes.iter().zip([
        None,
        None,
        None,
        error("10.0.1.254", 3, 0),
        error("fd01::fe", 1, 0),
        error("10.0.1.254", 3, 4),
        error("fd01::fe", 2, 0),
        Some(Failure::Timeout),
        // Over loopback it would fit, and does.
        None,
        None,
    ]) {
        assert_eq!(outcome.failure, failure, "{outcome:?}");
        assert_eq!(
            (outcome.sent, outcome.received),
            (3, if failure.is_none() { 3 } else { 0 })
        );
        if let Some(rtt) = &outcome.rtt {
            assert!(rtt.min_us >= 1 && rtt.max_us < 500_000, "{rtt:?}");
        }
    }
    let mut long = echo(1, "10.0.2.1", 2000);
    long.count = 1;
    let outcome = self::outcomes(&net.near, &floater, &crate::client::plan(vec![long])).await;
    assert_eq!(outcome[0].failure, Some(too_long));
}

#[tokio::test]
#[ignore = "netns: needs veth"]
async fn raw_echoes_are_judged_by_what_comes_back() {
    echoes_are_judged(&net()).await;
}

#[tokio::test]
#[ignore = "netns: needs veth"]
async fn datagram_echoes_are_judged_by_what_comes_back() {
    let net = net();
    open_to_all(&net.near);
    echoes_are_judged(&net).await;
}

#[tokio::test]
#[ignore = "netns: needs veth"]
async fn connections_are_judged_by_what_comes_back() {
    let net = net();
    let near = floater_in(&net.near, "n1").await;
    let far = floater_in(&net.far, "n2").await;
    let impostor = floater_in(&net.far, "n3").await;
    let tcp = |id, dst: &str, port| expecting("n2", probe(id, ip(dst), Protocol::Tcp, port));
    let mut plan = plan(vec![
        tcp(1, "10.0.2.1", far.port()),
        tcp(2, "fd02::1", far.port()),
        tcp(3, "10.0.2.1", impostor.port()),
        tcp(4, "fd02::1", impostor.port()),
        tcp(5, "10.0.2.1", 1),
        tcp(6, "fd02::1", 1),
        tcp(7, "10.9.0.1", 1),
        tcp(8, "fd09::1", 1),
        tcp(9, "10.0.2.9", 1),
    ]);
    plan.timeout_ms = 1500;
    let wrong = Some(Failure::WrongIdentity {
        answered: "uid/n3".to_owned(),
    });
    let failures = [
        None,
        None,
        wrong.clone(),
        wrong,
        Some(Failure::Refused),
        Some(Failure::Refused),
        error("10.0.1.254", 3, 0),
        error("fd01::fe", 1, 0),
        Some(Failure::Timeout),
    ];
    for (outcome, failure) in outcomes(&net.near, &near, &plan).await.iter().zip(failures) {
        assert_eq!(outcome.failure, failure, "{outcome:?}");
        assert_eq!(
            (outcome.sent, outcome.received),
            (3, if failure.is_none() { 3 } else { 0 })
        );
        assert_eq!(outcome.rtt.is_some(), failure.is_none());
    }
}

/// What a floater says of a meeting with the only other one.
async fn meets(netns: &Netns, floater: &Floater, number: u16, peer: &str) -> Met {
    let trial = |size| Trial { port: 4876, size };
    let meeting = Meeting {
        version: 2,
        token: "0123456789abcdef0123456789abcdef".to_owned(),
        number,
        peers: vec![Peer {
            number: 1 - number,
            ip: ip(peer),
        }],
        trials: [128, 1300, 1500].map(trial).to_vec(),
        millis: 1500,
    };
    let request = request("POST", "/v2/meet", &serde_json::to_vec(&meeting).unwrap());
    let nonce = nonce_of(&request);
    let response = ask_over(api(netns, floater).await, request).await;
    assert_eq!(response.status(), 200);
    serde_json::from_slice(&signed(nonce, response).await).unwrap()
}

#[tokio::test]
#[ignore = "netns: needs veth, vxlan"]
async fn datagrams_are_heard_by_direction_and_size_whoever_has_the_port() {
    let net = net();
    // As a tunnel of the kernel's would have it.
    let _holder = net
        .far
        .run(|| std::net::UdpSocket::bind("[::]:4876"))
        .expect("a thread")
        .expect("the port");
    let near = floater_in(&net.near, "n1").await;
    let far = floater_in(&net.far, "n1").await;
    for (first, second) in [("10.0.1.1", "10.0.2.1"), ("fd01::1", "fd02::1")] {
        let (at_near, at_far) = tokio::join!(
            meets(&net.near, &near, 0, second),
            meets(&net.far, &far, 1, first)
        );
        let heard = |met: &Met| {
            met.heard
                .iter()
                .map(|one| (one.peer, one.trial))
                .collect::<Vec<_>>()
        };
        // The far link carries 1300 bytes: neither goes what is longer out of it, nor does a router send it into it.
        assert_eq!(heard(&at_near), [(1, 0), (1, 1)], "{at_near:?}");
        assert_eq!(heard(&at_far), [(0, 0), (0, 1)], "{at_far:?}");
        assert!(at_near.unsent.is_empty(), "{at_near:?}");
        assert!(at_far.unsent[0].contains("1500 bytes"), "{at_far:?}");
        assert_eq!((at_near.vxlan, at_far.vxlan), (Some(true), Some(true)));
    }
    let links = net
        .far
        .run(|| std::fs::read_to_string("/proc/self/net/dev"));
    let links = links.expect("a thread").unwrap();
    assert!(!links.contains("vxlan"), "asking made a link: {links}");
}

/// A buffer of the default size holds far fewer answers than this sends.
#[tokio::test]
#[ignore = "netns: needs veth"]
async fn thousands_of_answers_and_none_is_lost() {
    let net = net();
    let floater = floater_in(&net.near, "n1").await;
    // No plan may send as much to one address.
    let target = |id: u32| IpAddr::from([10, 0, 2, 1 + (id % 8) as u8]);
    net.far
        .run(|| {
            let mut netlink = Netlink::open()?;
            for host in 2..=8 {
                netlink.address(2, format!("10.0.2.{host}/24").parse().unwrap());
            }
            netlink.flush()
        })
        .expect("a thread")
        .expect("addresses");
    let mut plan = plan(
        (0..4000)
            .map(|id| probe(id, target(id), Protocol::Icmp, 0))
            .collect(),
    );
    plan.budget_pps = u32::MAX;
    let stream = api(&net.near, &floater).await;
    let started = Instant::now();
    let (outcomes, sent, health) = run_over(stream, &plan).await;
    assert_eq!((outcomes.len(), sent), (4000, 12_000));
    assert_eq!(health.receive_drops, 0, "{health:?}");
    for outcome in &outcomes {
        assert_eq!(
            (outcome.received, &outcome.failure),
            (3, &None),
            "{outcome:?}"
        );
    }
    // At the ceiling and not above it.
    let least = Duration::from_millis(u64::from(12_000 * 1000 / floater::wire::CEILING_PPS));
    assert!(started.elapsed() >= least, "{:?}", started.elapsed());
    let merged = floater::stats::merge(outcomes.iter().filter_map(|outcome| outcome.rtt.as_ref()));
    let merged = merged.expect("answers");
    assert_eq!(merged.count(), 12_000);
    assert!(merged.p50_us < 50_000, "{merged:?}");
}

/// The kernel stamps both ends, so a floater that is kept from running loses neither answers nor the truth about them.
#[tokio::test]
#[ignore = "netns: needs veth"]
async fn a_stall_changes_no_time() {
    let net = net();
    for privileged in [true, false] {
        if !privileged {
            open_to_all(&net.near);
        }
        let floater = floater_in(&net.near, "n1").await;
        let mut plan = plan(vec![
            probe(1, ip("10.0.2.1"), Protocol::Icmp, 0),
            probe(2, ip("fd02::1"), Protocol::Icmp, 0),
        ]);
        // The first ones pay for resolving neighbours.
        outcomes(&net.near, &floater, &plan).await;
        plan.probes.iter_mut().for_each(|probe| probe.count = 20);
        let stalling = tokio::spawn(async {
            loop {
                std::thread::sleep(Duration::from_millis(80));
                tokio::time::sleep(Duration::from_millis(7)).await;
            }
        });
        for outcome in outcomes(&net.near, &floater, &plan).await {
            assert_eq!(
                (outcome.received, &outcome.failure),
                (20, &None),
                "{outcome:?}"
            );
            let rtt = outcome.rtt.expect("answers");
            assert!(
                rtt.p50_us < 5000,
                "an answer waited up to 80 ms to be read: {rtt:?}"
            );
        }
        stalling.abort();
    }
}

/// Answers so many connections as `n2`, each a tenth of a second after it was asked, on a thread of its own.
fn slow_responder(netns: &Netns, connections: usize) -> (u16, std::thread::JoinHandle<()>) {
    let listener = In(netns.clone()).tcp_listener(0).expect("a listener");
    let port = listener.local_addr().unwrap().port();
    let identity = Identity {
        cluster: "uid".to_owned(),
        node: "n2".to_owned(),
        proof: proof(
            KEY,
            "c0ffee",
            "uid",
            "n2",
            SocketAddr::new(ip("10.0.2.1"), port),
        ),
    };
    let body = serde_json::to_string(&identity).unwrap();
    let thread = std::thread::spawn(move || {
        for _ in 0..connections {
            let (mut stream, _) = listener.accept().expect("a connection");
            let mut question = [0; 256];
            let asked = stream.read(&mut question).expect("a question");
            assert!(asked > 0, "gave up");
            std::thread::sleep(Duration::from_millis(100));
            let length = body.len();
            // Whoever gave up in the meantime is the test's affair.
            let _ = write!(
                stream,
                "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}"
            );
        }
    });
    (port, thread)
}

/// An observer that was stopped for longer than its timeout does not call anybody dead.
#[tokio::test]
#[ignore = "netns: needs veth"]
async fn a_pause_is_no_timeout() {
    let net = net();
    let near = floater_in(&net.near, "n1").await;
    let (port, slow) = slow_responder(&net.far, 2);
    let mut plan = plan(vec![
        expecting("n2", probe(1, ip("10.0.2.1"), Protocol::Tcp, port)),
        probe(2, ip("fd02::1"), Protocol::Icmp, 0),
    ]);
    plan.timeout_ms = 300;
    plan.budget_pps = 10;
    plan.probes.iter_mut().for_each(|probe| probe.count = 2);
    let pausing = tokio::spawn(async {
        loop {
            // Everybody else gets one turn between two pauses.
            tokio::task::yield_now().await;
            std::thread::sleep(Duration::from_millis(400));
        }
    });
    for outcome in outcomes(&net.near, &near, &plan).await {
        assert_eq!(
            (outcome.received, &outcome.failure),
            (2, &None),
            "{outcome:?}"
        );
    }
    pausing.abort();
    slow.join().expect("all were answered");
}

#[tokio::test]
#[ignore = "netns: needs veth"]
async fn a_network_without_ipv6_is_served() {
    let netns = Netns::create().expect("a namespace");
    netns
        .run(|| {
            let mut netlink = Netlink::open()?;
            sysctl::set("net.ipv6.conf.all.disable_ipv6", "1")?;
            netlink.up(1);
            netlink.address(1, "10.0.3.1/32".parse().unwrap());
            netlink.flush()
        })
        .expect("a thread")
        .expect("loopback");
    let floater = floater_in(&netns, "n1").await;
    let plan = plan(vec![
        expecting(
            "n1",
            probe(1, ip("10.0.3.1"), Protocol::Tcp, floater.port()),
        ),
        probe(2, ip("10.0.3.1"), Protocol::Icmp, 0),
        probe(3, ip("fd00::1"), Protocol::Icmp, 0),
    ]);
    let outcomes = outcomes(&netns, &floater, &plan).await;
    assert_eq!((&outcomes[0].failure, &outcomes[1].failure), (&None, &None));
    assert!(
        matches!(outcomes[2].failure, Some(Failure::Local { .. })),
        "{:?}",
        outcomes[2]
    );
}

#[tokio::test]
#[ignore = "netns: needs veth"]
async fn the_tables_are_those_of_the_floaters_network() {
    let net = net();
    let floater = floater_in(&net.near, "n1").await;
    let request = request("GET", "/v2/tables", b"");
    let nonce = nonce_of(&request);
    let response = ask_over(api(&net.near, &floater).await, request).await;
    assert_eq!(response.status(), 200);
    let tables: Tables = serde_json::from_slice(&signed(nonce, response).await).expect("tables");
    assert_eq!((tables.version, tables.node.as_str()), (2, "n1"));
    assert_eq!(tables.missing, [""; 0]);
    let link = tables.state.links.get("eth0").expect("the link");
    assert_eq!((link.mtu, link.up, link.carrier), (1500, true, true));
    assert!(tables.state.links.get("eth1").is_none(), "the router's");
    let has = |address: &str| {
        let key = ("eth0".to_owned(), address.parse().unwrap());
        tables.state.addresses.get(&key).is_some()
    };
    assert!(has("10.0.1.1/24") && has("fd01::1/64"));
    let default: ipnet::IpNet = "0.0.0.0/0".parse().unwrap();
    assert!(tables.state.routes.iter().any(|route| {
        route.dst == default
            && route
                .hops
                .iter()
                .any(|hop| hop.via == Some(ip("10.0.1.254")))
    }));
    let forwarding = tables.state.sysctls.get("net.ipv4.conf.eth0.forwarding");
    assert_eq!(forwarding.map(|setting| setting.value), Some(0));
}

/// Passes on every connection of a port to a responder, as a relay in its place would.
fn relay(netns: &Netns, to: SocketAddr) -> u16 {
    let listener = In(netns.clone()).tcp_listener(0).expect("a listener");
    let port = listener.local_addr().unwrap().port();
    let netns = netns.clone();
    std::thread::spawn(move || {
        for asked in listener.incoming() {
            let mut asked = asked.expect("a connection");
            let mut there = netns
                .run(|| std::net::TcpStream::connect(to))
                .expect("a thread")
                .expect("the responder");
            let mut question = [0; 1024];
            let length = asked.read(&mut question).expect("a question");
            there.write_all(&question[..length]).expect("passed on");
            let mut answer = Vec::new();
            there.read_to_end(&mut answer).expect("an answer");
            // Whoever has heard enough has hung up.
            let _ = asked.write_all(&answer);
        }
    });
    port
}

#[tokio::test]
#[ignore = "netns: needs veth"]
async fn a_relay_does_not_pass_for_the_node_behind_it() {
    let net = net();
    let near = floater_in(&net.near, "n1").await;
    let far = floater_in(&net.far, "n2").await;
    let port = relay(&net._router, SocketAddr::new(ip("10.0.2.1"), far.port()));
    let plan = plan(vec![
        expecting("n2", probe(1, ip("10.0.2.1"), Protocol::Tcp, far.port())),
        expecting("n2", probe(2, ip("10.0.1.254"), Protocol::Tcp, port)),
    ]);
    let outcomes = outcomes(&net.near, &near, &plan).await;
    assert_eq!(outcomes[0].failure, None);
    let wrong = Failure::WrongIdentity {
        answered: "uid/n2".to_owned(),
    };
    assert_eq!(outcomes[1].failure, Some(wrong));
}
