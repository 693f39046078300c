//! A fleet of nodes on one wire, each with a kernel, an agent and a way to the API that no wire of the fleet is part of: so a node's network and its API
//! die one without the other.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use datapath::api::GATEWAYS;
use datapath::rbac::Rights;
use ipnet::IpNet;
use netns_harness::namespace::Netns;
use netns_harness::netlink::Netlink;
use netns_harness::wire::{End, Route, Wire as _};
use serde_json::{Value, json};
use simulator::apiserver::Resource;

use super::fleet::cluster;
use super::process::Program;
use super::world::{CONTROL, World};

/// The link of every node, by its index in the node and, from here on, of its other end.
const ETH0: u32 = 2;
/// The link of every node to its pod.
const POD: u32 = 3;
const PORTS: u32 = 2000;
const LOOPBACK: u32 = 1;
const BRIDGE: u32 = 1000;
/// Between two packets of a stream.
const PACE: Duration = Duration::from_millis(2);

/// A node.
pub(crate) struct Node {
    pub(crate) cluster: usize,
    /// From 1.
    pub(crate) host: usize,
    pub(crate) netns: Netns,
    /// Its pod, whose packets it forwards: the kernel hashes them otherwise than those of its own sockets.
    pod: Netns,
    agent: Option<Program>,
}

impl Node {
    /// Its ClusterNode's name.
    pub(crate) fn name(&self) -> String {
        format!("c{}-n{}", self.cluster, self.host)
    }

    /// How many packets each of its links has received.
    pub(crate) fn received(&self) -> BTreeMap<String, u64> {
        // Of the thread's own namespace.
        let read = || std::fs::read_to_string("/proc/thread-self/net/dev");
        let text = self.netns.run(read).unwrap().unwrap();
        let lines = text.lines().filter_map(|line| line.split_once(':'));
        let counts = lines.map(|(link, counts)| {
            let packets = counts.split_whitespace().nth(1).unwrap();
            (link.trim().to_owned(), packets.parse().unwrap())
        });
        counts.collect()
    }

    /// Does something with its links.
    #[track_caller]
    pub(crate) fn wire(&self, work: impl FnOnce(&mut Netlink) + Send) {
        changed(&self.netns, work);
    }

    /// Its agent.
    pub(crate) fn agent(&mut self) -> &mut Program {
        self.agent.as_mut().unwrap()
    }

    /// Has every packet to another node's underlay address end here.
    pub(crate) fn lose(&self, other: &Self, is_lost: bool) {
        let route = Route {
            dst: IpNet::from(underlay(other.cluster, other.host)),
            via: None,
            index: LOOPBACK,
            table: 254,
        };
        self.wire(|wire| {
            if is_lost {
                wire.route(&route);
            } else {
                wire.remove_route(&route);
            }
        });
    }
}

/// The fleet.
pub(crate) struct Underlay {
    pub(crate) world: World,
    pub(crate) nodes: Vec<Node>,
    hub: Netns,
    _manager: Program,
}

fn underlay(cluster: usize, host: usize) -> IpAddr {
    let number = |number: usize| u8::try_from(number).unwrap();
    Ipv4Addr::new(
        100,
        number(64 + cluster / 200),
        number(cluster % 200),
        number(host),
    )
    .into()
}

fn pod(cluster: usize, host: usize) -> IpAddr {
    let number = |number: usize| u8::try_from(number).unwrap();
    Ipv4Addr::new(
        number(10 + cluster / 200),
        number(cluster % 200),
        number(host),
        10,
    )
    .into()
}

fn mac(kind: u8, place: usize) -> [u8; 6] {
    let [.., high, low] = u32::try_from(place).unwrap().to_be_bytes();
    [2, kind, 0, 0, high, low]
}

#[track_caller]
fn changed(netns: &Netns, work: impl FnOnce(&mut Netlink) + Send) {
    let done = netns.run(|| {
        let mut wire = Netlink::open()?;
        work(&mut wire);
        wire.flush()
    });
    done.unwrap().unwrap();
}

impl Underlay {
    /// Clusters in gateway mode of so many nodes each, whose agents have begun with these options: a gateway and a standby each.
    pub(crate) fn new(sizes: &[usize], options: &[&str]) -> Self {
        Self::with(sizes, options, &["gateway", "standby"])
    }

    /// The same with these roles of each cluster's first nodes.
    pub(crate) fn with(sizes: &[usize], options: &[&str], roles: &[&str]) -> Self {
        let mut world = World::new(&[]);
        let hub = Netns::create().unwrap();
        changed(&hub, |wire| wire.bridge("br0", BRIDGE, mac(1, 0), 1500));
        let hosts = sizes
            .iter()
            .enumerate()
            .flat_map(|(cluster, size)| (1..=*size).map(move |host| (cluster, host)));
        let mut nodes: Vec<Node> = Vec::new();
        for (place, (cluster, host)) in hosts.enumerate() {
            let netns = Netns::create().unwrap();
            let index = PORTS + u32::try_from(place).unwrap();
            changed(&hub, |wire| {
                let here = End {
                    name: &format!("p{place}"),
                    index,
                    mac: mac(2, place),
                    mtu: 1500,
                    namespace: None,
                    master: Some(BRIDGE),
                };
                let there = End {
                    name: "eth0",
                    index: ETH0,
                    mac: mac(3, place),
                    mtu: 1500,
                    namespace: Some(&netns),
                    master: None,
                };
                wire.veth(&here, &there);
            });
            changed(&netns, |wire| {
                wire.up(LOOPBACK);
                wire.up(ETH0);
                wire.address(ETH0, IpNet::new(underlay(cluster, host), 10).unwrap());
            });
            let inside = Netns::create().unwrap();
            pod_of(&netns, &inside, pod(cluster, host), place);
            // What a CNI without tunnels does: pods of the same cluster are behind its nodes.
            changed(&netns, |wire| {
                for other in (1..=sizes[cluster]).filter(|other| *other != host) {
                    wire.route(&Route {
                        dst: IpNet::new(pod(cluster, other), 24).unwrap().trunc(),
                        via: Some(underlay(cluster, other)),
                        index: ETH0,
                        table: 254,
                    });
                }
            });
            world.start_in(&netns);
            nodes.push(Node {
                cluster,
                host,
                netns,
                pod: inside,
                agent: None,
            });
        }
        objects(&world, &nodes, sizes.len(), roles);
        let manager = Program::start("manager", &world.as_manager());
        let mut fleet = Self {
            world,
            nodes,
            hub,
            _manager: manager,
        };
        for place in 0..fleet.nodes.len() {
            fleet.begin(place, options);
        }
        fleet
    }

    /// Starts a node's agent.
    pub(crate) fn begin(&mut self, place: usize, options: &[&str]) {
        let node = &self.nodes[place];
        let (cluster, host) = (format!("c{}", node.cluster), format!("n{}", node.host));
        let kubeconfig = self.world.as_agent(&cluster, Rights::default());
        let words = [
            "--cluster",
            &cluster,
            "--node",
            &host,
            "--kubeconfig",
            kubeconfig.to_str().unwrap(),
        ];
        let words = [&words[..], options].concat();
        let words: Vec<String> = words.into_iter().map(str::to_owned).collect();
        let agent = node.netns.run(|| Program::start("agent", &words)).unwrap();
        self.nodes[place].agent = Some(agent);
    }

    /// A node by its place in its cluster.
    pub(crate) fn node(&mut self, cluster: usize, host: usize) -> &mut Node {
        let is_it = |node: &&mut Node| (node.cluster, node.host) == (cluster, host);
        self.nodes.iter_mut().find(is_it).unwrap()
    }

    /// Takes a node off the wire, or puts it back: its links are as before.
    pub(crate) fn plug(&self, cluster: usize, host: usize, is_in: bool) {
        let is_it = |node: &Node| (node.cluster, node.host) == (cluster, host);
        let place = self.nodes.iter().position(is_it).unwrap();
        let index = PORTS + u32::try_from(place).unwrap();
        changed(&self.hub, |wire| {
            if is_in {
                wire.up(index);
            } else {
                wire.down(index);
            }
        });
    }

    /// Waits until all sessions of all nodes are up and every gateway is used.
    #[track_caller]
    pub(crate) fn settled(&self) {
        let is_well = |object: &Value| {
            let sessions = &object["status"]["sessions"];
            let is_up = sessions["up"].as_u64() > Some(0) && sessions["down"] == 0;
            is_up && sessions["detours"] == json!([])
        };
        self.world.until(
            CONTROL,
            Resource::NODE_CONFIGS,
            "sessions that are all up",
            |configs| {
                let all = configs.len() == self.nodes.len();
                (all && configs.values().all(is_well)).then_some(())
            },
        );
    }

    /// Packets from a pod of one node to a pod of another, from now on.
    pub(crate) fn stream(&mut self, from: (usize, usize), to: (usize, usize)) -> Stream {
        let over = Arc::new(AtomicBool::new(false));
        let bound = |node: &Node| {
            let address = SocketAddr::new(pod(node.cluster, node.host), 0);
            let socket = node.pod.run(|| UdpSocket::bind(address)).unwrap().unwrap();
            socket
                .set_read_timeout(Some(Duration::from_millis(100)))
                .unwrap();
            socket
        };
        let echo = bound(self.node(to.0, to.1));
        let socket = bound(self.node(from.0, from.1));
        socket.connect(echo.local_addr().unwrap()).unwrap();
        let is_over = over.clone();
        let echoing = std::thread::spawn(move || {
            let mut buffer = [0; 64];
            while !is_over.load(Ordering::Relaxed) {
                if let Ok((length, whom)) = echo.recv_from(&mut buffer) {
                    // It is lost, as any packet may be.
                    let _ = echo.send_to(&buffer[..length], whom);
                }
            }
        });
        let hearing = socket.try_clone().unwrap();
        let is_over = over.clone();
        let heard = std::thread::spawn(move || {
            let mut heard = Vec::new();
            let mut buffer = [0; 64];
            while !is_over.load(Ordering::Relaxed) {
                if let Ok(8) = hearing.recv(&mut buffer) {
                    heard.push(u64::from_be_bytes(buffer[..8].try_into().unwrap()));
                }
            }
            heard
        });
        let is_over = over.clone();
        let sent = std::thread::spawn(move || {
            let (began, mut sent) = (Instant::now(), Vec::new());
            while !is_over.load(Ordering::Relaxed) {
                let number = u64::try_from(sent.len()).unwrap();
                let due = PACE * u32::try_from(number).unwrap();
                std::thread::sleep(due.saturating_sub(began.elapsed()));
                sent.push(Instant::now());
                // A refusal is a loss.
                let _ = socket.send(&number.to_be_bytes());
            }
            sent
        });
        Stream {
            over,
            echoing,
            heard,
            sent,
        }
    }
}

/// Packets that are sent until somebody asks what became of them.
pub(crate) struct Stream {
    over: Arc<AtomicBool>,
    echoing: std::thread::JoinHandle<()>,
    heard: std::thread::JoinHandle<Vec<u64>>,
    sent: std::thread::JoinHandle<Vec<Instant>>,
}

impl Stream {
    /// The longest time between two packets that were answered; none where fewer than two were, or where the last tenth of a second had no answer: then it
    /// has not ended.
    pub(crate) fn gap(self) -> Option<Duration> {
        self.over.store(true, Ordering::Relaxed);
        self.echoing.join().unwrap();
        let (mut heard, sent) = (self.heard.join().unwrap(), self.sent.join().unwrap());
        heard.sort_unstable();
        let at = |number: &u64| sent[usize::try_from(*number).unwrap()];
        let (last, end) = (at(heard.last()?), *sent.last()?);
        let gaps = heard.windows(2).map(|pair| at(&pair[1]) - at(&pair[0]));
        let longest = gaps.max()?;
        (end - last < Duration::from_millis(100)).then_some(longest)
    }
}

/// Makes a pod with an address on a node: what a CNI does.
fn pod_of(node: &Netns, inside: &Netns, address: IpAddr, place: usize) {
    let router = IpNet::new(address, 24).unwrap().hosts().next().unwrap();
    changed(node, |wire| {
        let here = End {
            name: "pod0",
            index: POD,
            mac: mac(4, place),
            mtu: 1450,
            namespace: None,
            master: None,
        };
        let there = End {
            name: "eth0",
            index: ETH0,
            mac: mac(5, place),
            mtu: 1450,
            namespace: Some(inside),
            master: None,
        };
        wire.veth(&here, &there);
        wire.up(POD);
        wire.address(POD, IpNet::new(router, 24).unwrap());
    });
    changed(inside, |wire| {
        wire.up(LOOPBACK);
        wire.up(ETH0);
        wire.address(ETH0, IpNet::new(address, 24).unwrap());
        wire.route(&Route {
            dst: "0.0.0.0/0".parse().unwrap(),
            via: Some(router),
            index: ETH0,
            table: 254,
        });
    });
}

fn objects(world: &World, nodes: &[Node], clusters: usize, roles: &[&str]) {
    let store = world.store(CONTROL);
    for one in 0..clusters {
        let name = format!("c{one}");
        cluster(world, &name, "gateway");
        let pods = IpNet::new(pod(one, 0), 16).unwrap().trunc();
        let found =
            json!({"clusterLinkStatus": {"podCIDRs": [pods.to_string()], "serviceCIDRs": []}});
        let gateways = roles.iter().filter(|role| **role == "gateway").count();
        let put = |object: &mut Value| {
            object["status"] = found.clone();
            object["metadata"]["annotations"][GATEWAYS] = gateways.to_string().into();
        };
        store.put(Resource::CLUSTERS, None, &name, put).unwrap();
    }
    for node in nodes {
        let cluster = format!("c{}", node.cluster);
        let roles: Vec<&&str> = roles.get(node.host - 1).into_iter().collect();
        let object = json!({"metadata": {"name": node.name(), "labels": {"kosmos.io/cluster": cluster}}, "spec": {
            "clusterName": cluster, "nodeName": format!("n{}", node.host), "ip": underlay(node.cluster, node.host).to_string(),
            "interfaceName": "eth0", "podCIDRs": [], "roles": roles,
        }});
        store.create(Resource::CLUSTER_NODES, None, object).unwrap();
    }
}
