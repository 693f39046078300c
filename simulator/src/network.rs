//! The fleet's namespaces and wires.
//!
//! ```text
//!   pod netns         node netns                      underlay netns
//!  ┌────────┐   ┌──────────────────┐          ┌──────────────────────────┐
//!  │ eth0 ──┼───┼─ veth…   eth0 ───┼──────────┼─ p0n0 ─┐                 │
//!  └────────┘   └──────────────────┘          │        br0 ── routed ── br1 ── …
//!                                    n2 ──────┼─ p0n1 ─┘                 │
//!                                             └──────────────────────────┘
//! ```
//!
//! One bridge per cluster, one routed namespace between all of them, so every packet between clusters crosses `underlay`.
//! Pods are reached by host routes, and other nodes' pods by a route over `eth0` (host-gw). Neighbours that never change are
//! permanent; nodes of a small cluster find each other as usual, those of a large one have fixed entries.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use datapath::mac::Mac;
use datapath::state::Family;
use ipnet::IpNet;
use netns_harness::namespace::{self, Builder, Netns};
use netns_harness::netlink::Netlink;
use netns_harness::opener::Opener;
use netns_harness::sysctl::Settings;
use netns_harness::wire::{End, Route, Wire as _};

use crate::Error;
use crate::topology::{Cluster, MAX_NODES, Node, Topology};

/// The index of every `eth0`: above those that a kernel gives to the devices it makes by itself.
pub(crate) const ETH0: u32 = 100;
const LOOPBACK: u32 = 1;
/// The index of a pod's link is this and the pod's number.
pub(crate) const FIRST_POD: u32 = 1000;
const MAIN: u32 = 254;
/// Two builders use two cores well; more only wait for one another in the kernel.
const BUILDERS: usize = 2;
/// What pods believe their router to be.
pub(crate) const POD_ROUTER_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(169, 254, 1, 1));
pub(crate) const POD_ROUTER_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1));

/// All namespaces of a lab.
#[derive(Debug)]
pub(crate) struct Network {
    pub(crate) underlay: Netns,
    router: Mutex<Netlink>,
    pub(crate) opener: Arc<Opener>,
    /// By (cluster, node).
    pub(crate) nodes: BTreeMap<(String, String), Arc<NodeNet>>,
}

/// A node's namespace.
#[derive(Debug)]
pub(crate) struct NodeNet {
    pub(crate) cluster: String,
    pub(crate) node: Node,
    pub(crate) netns: Netns,
    /// Opens a socket here when there is something to ask for: of a thousand nodes' none is kept.
    opener: Arc<Opener>,
    mtu: u32,
    /// What of the node's own network a fault may take away, as requests that put it back.
    base: Base,
    pods: Mutex<Pods>,
}

/// The most nodes of a cluster that learn each other's addresses: what many nodes learn of each other grows with their square, and
/// the kernel keeps a limited number of learned neighbours for all namespaces together. Permanent ones do not count.
const LEARNING_NODES: usize = 8;
/// The most nodes of a fleet whose nodes learn: each of a small cluster learns a few.
const LEARNING_FLEET: usize = 256;

/// A node's own network, on its `eth0`.
#[derive(Debug)]
pub(crate) struct Base {
    pub(crate) addresses: Vec<IpNet>,
    pub(crate) routes: Vec<Route>,
    pub(crate) neighbours: Vec<(IpAddr, Mac)>,
}

#[derive(Debug, Default)]
struct Pods {
    by_name: BTreeMap<String, Arc<PodNet>>,
    taken: BTreeSet<u32>,
}

/// A pod's namespace.
#[derive(Debug)]
pub(crate) struct PodNet {
    pub(crate) netns: Netns,
    /// IPv4 first.
    pub(crate) ips: Vec<IpAddr>,
    number: u32,
}

/// A lock whose holder cannot leave it half done: netlink requests are queued and flushed within one call.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Network {
    /// Builds the underlay and all nodes, which learn of each other if there is room for that; `one` is called for each cluster that is
    /// done.
    pub(crate) fn build(
        topology: &Topology,
        learns: bool,
        one: impl Fn() + Sync,
    ) -> Result<Self, Error> {
        let (underlay, mut router) = enclosed(|settings| {
            common_settings(settings, true)?;
            forwarding_settings(settings)
        })?;
        router.up(LOOPBACK);
        router.flush()?;
        let router = Mutex::new(router);
        let opener = Arc::new(Opener::start()?);
        let learns = learns && learned(topology) > 0;
        let jobs: Vec<(u32, &Cluster)> = (0..).zip(&topology.clusters).collect();
        let built = namespace::build(jobs, BUILDERS, |builder, (number, cluster)| {
            let nodes = build_cluster(builder, number, cluster, (&router, &opener), learns)?;
            one();
            Ok::<_, netns_harness::Error>(nodes)
        })?;
        let nodes = built
            .into_iter()
            .flatten()
            .map(|node| {
                (
                    (node.cluster.clone(), node.node.name.clone()),
                    Arc::new(node),
                )
            })
            .collect();
        Ok(Self {
            underlay,
            router,
            opener,
            nodes,
        })
    }

    /// A node's network.
    pub(crate) fn node(&self, cluster: &str, node: &str) -> Option<&Arc<NodeNet>> {
        self.nodes.get(&(cluster.to_owned(), node.to_owned()))
    }

    /// Lets go of everything but the underlay, whose socket reports when the kernel has removed the other ends.
    pub(crate) fn into_underlay(self) -> (Netns, Netlink) {
        drop(self.nodes);
        drop(self.opener);
        (
            self.underlay,
            self.router
                .into_inner()
                .unwrap_or_else(PoisonError::into_inner),
        )
    }
}

/// How many neighbours of a family the nodes of a fleet learn of each other, all together.
pub(crate) fn learned(topology: &Topology) -> u32 {
    let sizes = || topology.clusters.iter().map(|cluster| cluster.nodes.len());
    if topology.is_virtual() || sizes().sum::<usize>() > LEARNING_FLEET {
        return 0;
    }
    let learning = sizes().filter(|nodes| *nodes <= LEARNING_NODES);
    let learned: usize = learning.map(|nodes| nodes * (nodes - 1)).sum();
    u32::try_from(learned).unwrap_or(u32::MAX)
}

/// A new namespace, set up from inside by `settings`, and a socket to its links.
fn enclosed(
    settings: impl Fn(&mut Settings) -> Result<(), netns_harness::Error> + Sync,
) -> Result<(Netns, Netlink), netns_harness::Error> {
    let mut made = namespace::build(vec![()], 1, |builder, ()| {
        let netns = builder.create()?;
        settings(&mut Settings::default())?;
        Ok::<_, netns_harness::Error>((netns, Netlink::open()?))
    })?;
    // One job, one result.
    Ok(made.swap_remove(0))
}

/// What a namespace is like before it has a link.
fn common_settings(settings: &mut Settings, ipv6: bool) -> Result<(), netns_harness::Error> {
    // Everybody may ping; a user namespace knows no other group than its own.
    if settings
        .set("net.ipv4.ping_group_range", "0 2147483647")
        .is_err()
    {
        settings.set("net.ipv4.ping_group_range", "0 0")?;
    }
    // Unreachables are evidence: none may be held back.
    settings.set("net.ipv4.icmp_ratelimit", "0")?;
    settings.set("net.ipv6.icmp.ratelimit", "0")?;
    // New namespaces inherit the machine's own, which may be strict.
    for place in ["all", "default"] {
        settings.set(&format!("net.ipv4.conf.{place}.rp_filter"), "0")?;
        settings.set(&format!("net.ipv4.conf.{place}.send_redirects"), "0")?;
    }
    if ipv6 {
        for (leaf, value) in [
            ("accept_dad", "0"),
            ("accept_ra", "0"),
            ("router_solicitations", "0"),
        ] {
            settings.set(&format!("net.ipv6.conf.default.{leaf}"), value)?;
        }
    } else {
        settings.set("net.ipv6.conf.default.disable_ipv6", "1")?;
    }
    Ok(())
}

/// What makes a namespace a router.
fn forwarding_settings(settings: &mut Settings) -> Result<(), netns_harness::Error> {
    settings.set("net.ipv4.ip_forward", "1")?;
    settings.set("net.ipv6.conf.all.forwarding", "1")
}

/// The MAC of what these words name.
pub(crate) fn mac(words: &[&str]) -> Mac {
    Mac::derived(words)
}

fn host(ip: IpAddr) -> IpNet {
    IpNet::from(ip)
}

/// The prefix of everything.
pub(crate) fn default_route(family: Family) -> IpNet {
    let any: IpAddr = match family {
        Family::Ipv4 => Ipv4Addr::UNSPECIFIED.into(),
        Family::Ipv6 => Ipv6Addr::UNSPECIFIED.into(),
    };
    IpNet::new_assert(any, 0)
}

/// The index of the bridge of a cluster by the cluster's number; those of its ports follow.
pub(crate) fn bridge_index(number: u32) -> u32 {
    10 + number * (MAX_NODES + 1)
}

fn build_cluster(
    builder: &Builder,
    number: u32,
    cluster: &Cluster,
    (router, opener): (&Mutex<Netlink>, &Arc<Opener>),
    learns: bool,
) -> Result<Vec<NodeNet>, netns_harness::Error> {
    let bridge = bridge_index(number);
    let bridge_mac = mac(&["underlay", &cluster.name]);
    let mtu = cluster.underlay.mtu;
    let mut nodes = Vec::with_capacity(cluster.nodes.len());
    let mut inside = Vec::with_capacity(cluster.nodes.len());
    for node in &cluster.nodes {
        let netns = builder.create()?;
        let mut settings = Settings::default();
        common_settings(&mut settings, cluster.family.has(Family::Ipv6))?;
        forwarding_settings(&mut settings)?;
        inside.push(Netlink::open()?);
        nodes.push(NodeNet {
            cluster: cluster.name.clone(),
            node: node.clone(),
            netns,
            opener: opener.clone(),
            mtu,
            base: base(cluster, node, bridge_mac, learns),
            pods: Mutex::default(),
        });
    }
    {
        let mut router = lock(router);
        router.bridge(&format!("br{number}"), bridge, bridge_mac.0, mtu);
        for (port, node) in (1..).zip(&nodes) {
            let eth0 = mac(&[&cluster.name, &node.node.name, "eth0"]);
            router.veth(
                &End {
                    name: &format!("p{number}n{port}"),
                    index: bridge + port,
                    mac: mac(&["underlay", &cluster.name, &node.node.name]).0,
                    mtu,
                    namespace: None,
                    master: Some(bridge),
                },
                &End {
                    name: "eth0",
                    index: ETH0,
                    mac: eth0.0,
                    mtu,
                    namespace: Some(&node.netns),
                    master: None,
                },
            );
            for ip in node.node.ips() {
                router.neighbour(bridge, ip, eth0.0);
            }
        }
        for net in &cluster.segment.routers {
            router.address(bridge, *net);
        }
        router.flush()?;
    }
    for (node, mut netlink) in nodes.iter().zip(inside) {
        netlink.up(LOOPBACK);
        node.queue_base(&mut netlink);
        netlink.flush()?;
    }
    let mut router = lock(router);
    for port in (0..).take(nodes.len() + 1) {
        router.settle(bridge + port);
    }
    router.flush()?;
    Ok(nodes)
}

/// The node's own network: what a kubelet's host and a host-gw CNI plugin set up, with the other nodes of the cluster as neighbours unless
/// the node learns of them.
pub(crate) fn base(cluster: &Cluster, node: &Node, bridge_mac: Mac, learns: bool) -> Base {
    let learns = learns && cluster.nodes.len() <= LEARNING_NODES;
    let mut base = Base {
        addresses: Vec::new(),
        routes: Vec::new(),
        neighbours: Vec::new(),
    };
    for router in &cluster.segment.routers {
        let family = Family::of(router.addr());
        let Some(ip) = node.ips().find(|ip| Family::of(*ip) == family) else {
            continue;
        };
        base.addresses
            .push(IpNet::new_assert(ip, router.prefix_len()));
        base.neighbours.push((router.addr(), bridge_mac));
        base.routes.push(Route {
            dst: default_route(family),
            via: Some(router.addr()),
            index: ETH0,
            table: MAIN,
        });
        for other in cluster.nodes.iter().filter(|other| other.name != node.name) {
            let via = other.ips().find(|ip| Family::of(*ip) == family);
            if let Some(ip) = via.filter(|_| !learns) {
                let eth0 = mac(&[&cluster.name, &other.name, "eth0"]);
                base.neighbours.push((ip, eth0));
            }
            let shares = other.pod_cidrs.iter();
            for share in shares.filter(|share| Family::of(share.addr()) == family) {
                base.routes.push(Route {
                    dst: *share,
                    via,
                    index: ETH0,
                    table: MAIN,
                });
            }
        }
    }
    base
}

impl NodeNet {
    fn queue_base(&self, netlink: &mut Netlink) {
        netlink.up(ETH0);
        for net in &self.base.addresses {
            netlink.address(ETH0, *net);
        }
        for (ip, mac) in &self.base.neighbours {
            netlink.neighbour(ETH0, *ip, mac.0);
        }
        for route in &self.base.routes {
            netlink.route(route);
        }
        netlink.settle(ETH0);
    }

    fn netlink(&self) -> Result<Netlink, netns_harness::Error> {
        self.opener.open(&self.netns, Netlink::open)?
    }

    /// Carries requests out in the node's namespace.
    pub(crate) fn ask(
        &self,
        requests: impl FnOnce(&mut Netlink),
    ) -> Result<(), netns_harness::Error> {
        let mut netlink = self.netlink()?;
        requests(&mut netlink);
        netlink.flush()
    }

    /// The pod's network by `namespace/name`.
    pub(crate) fn pod(&self, key: &str) -> Option<Arc<PodNet>> {
        lock(&self.pods).by_name.get(key).cloned()
    }

    /// The pod of this name in whatever namespace, the first by namespace.
    pub(crate) fn pod_named(&self, name: &str) -> Option<Arc<PodNet>> {
        let pods = lock(&self.pods);
        let mut named = pods.by_name.iter();
        named
            .find(|(key, _)| key.split_once('/').is_some_and(|(_, pod)| pod == name))
            .map(|(_, pod)| pod.clone())
    }

    /// Makes a pod's namespace and wires it to the node; a pod that has one keeps it.
    pub(crate) fn add_pod(&self, key: &str) -> Result<Arc<PodNet>, Error> {
        if let Some(pod) = self.pod(key) {
            return Ok(pod);
        }
        let number = self.take_number()?;
        let added = self.wire_pod(key, number);
        let mut pods = lock(&self.pods);
        match added {
            Ok(pod) => {
                pods.by_name.insert(key.to_owned(), pod.clone());
                Ok(pod)
            }
            Err(error) => {
                pods.taken.remove(&number);
                Err(error.into())
            }
        }
    }

    fn take_number(&self) -> Result<u32, Error> {
        let mut pods = lock(&self.pods);
        let number = free_number(&self.cluster, &self.node, |number| {
            pods.taken.contains(&number)
        })?;
        pods.taken.insert(number);
        Ok(number)
    }

    fn wire_pod(&self, key: &str, number: u32) -> Result<Arc<PodNet>, netns_harness::Error> {
        let ipv6 = self.node.ip6.is_some();
        let (netns, mut inside) = enclosed(|settings| common_settings(settings, ipv6))?;
        let words = [&self.cluster, &self.node.name, key];
        let [here, there] = ["veth", "eth0"].map(|end| {
            let [cluster, node, pod] = words;
            mac(&[cluster, node, pod, end])
        });
        let index = FIRST_POD + number;
        let ips = pod_ips(&self.node, number);
        let mut netlink = self.netlink()?;
        netlink.veth(
            &End {
                name: &format!("veth{number}"),
                index,
                mac: here.0,
                mtu: self.mtu,
                namespace: None,
                master: None,
            },
            &End {
                name: "eth0",
                index: ETH0,
                mac: there.0,
                mtu: self.mtu,
                namespace: Some(&netns),
                master: None,
            },
        );
        netlink.flush()?;
        inside.up(LOOPBACK);
        inside.up(ETH0);
        for ip in &ips {
            let router = if ip.is_ipv4() {
                POD_ROUTER_V4
            } else {
                POD_ROUTER_V6
            };
            inside.address(ETH0, host(*ip));
            inside.neighbour(ETH0, router, here.0);
            inside.route(&Route {
                dst: default_route(Family::of(*ip)),
                via: Some(router),
                index: ETH0,
                table: MAIN,
            });
            netlink.neighbour(index, *ip, there.0);
            netlink.route(&Route {
                dst: host(*ip),
                via: None,
                index,
                table: MAIN,
            });
        }
        inside.settle(ETH0);
        inside.flush()?;
        netlink.settle(index);
        netlink.flush()?;
        Ok(Arc::new(PodNet { netns, ips, number }))
    }

    /// Removes a pod's link from the node; its namespace goes with its last holder.
    pub(crate) fn remove_pod(&self, key: &str) -> Result<(), netns_harness::Error> {
        let Some(pod) = lock(&self.pods).by_name.remove(key) else {
            return Ok(());
        };
        let removed = self.ask(|netlink| netlink.remove_link(FIRST_POD + pod.number));
        lock(&self.pods).taken.remove(&pod.number);
        match removed {
            Err(error) if !error.is_already_gone() => Err(error),
            _ => Ok(()),
        }
    }
}

/// The first number that no pod of a node has.
pub(crate) fn free_number(
    cluster: &str,
    node: &Node,
    is_taken: impl Fn(u32) -> bool,
) -> Result<u32, Error> {
    // The first two numbers of a prefix are its own name and what many plugins give the bridge.
    let room = node
        .pod_cidrs
        .iter()
        .map(|net| 1_u32.checked_shl(u32::from(net.max_prefix_len() - net.prefix_len())))
        .map(|size| size.map_or(u32::MAX, |size| size - 1))
        .min()
        .unwrap_or(0);
    (2..room)
        .find(|number| !is_taken(*number))
        .ok_or_else(|| Error::Failed {
            doing: format!("give an address to a pod of {cluster}/{}", node.name),
            why: "all addresses of the node's podCIDR are taken".to_owned(),
        })
}

/// The addresses of a pod by its number, IPv4 first.
pub(crate) fn pod_ips(node: &Node, number: u32) -> Vec<IpAddr> {
    let nets = node.pod_cidrs.iter();
    nets.map(|net| offset(net.network(), number)).collect()
}

/// The address `number` above another.
fn offset(base: IpAddr, number: u32) -> IpAddr {
    match base {
        IpAddr::V4(ip) => Ipv4Addr::from(u32::from(ip).wrapping_add(number)).into(),
        IpAddr::V6(ip) => Ipv6Addr::from(u128::from(ip).wrapping_add(number.into())).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::{Families, ModeChoice, generated};
    use std::net::{SocketAddr, TcpListener, TcpStream};
    use std::time::Duration;

    #[test]
    #[ignore = "netns: needs veth, bridge"]
    fn nodes_and_pods_of_a_cluster_reach_each_other_in_both_families_at_once() {
        let topology = generated(2, 2, ModeChoice::Gateway, Families::All).expect("topology");
        let network = Network::build(&topology, true, || ()).expect("build");
        let [one, two] = ["n1", "n2"].map(|node| network.node("c1", node).expect("node"));
        let other = network.node("c2", "n1").expect("node");
        let near = one.add_pod("default/a").expect("pod");
        let far = two.add_pod("default/b").expect("pod");
        assert_eq!(far.ips[0].to_string(), "10.1.1.2");
        let reach = |from: &Netns, to: &Netns, ip: IpAddr| {
            let at = SocketAddr::new(ip, 7);
            let listener = to
                .run(|| TcpListener::bind(at).expect("bind"))
                .expect("run");
            from.run(|| TcpStream::connect_timeout(&at, Duration::from_secs(2)))
                .expect("run")
                .unwrap_or_else(|error| panic!("{ip}: {error}"));
            drop(listener);
        };
        for ip in &far.ips {
            reach(&near.netns, &far.netns, *ip);
            reach(&one.netns, &far.netns, *ip);
        }
        for ip in other.node.ips() {
            reach(&one.netns, &other.netns, ip);
            reach(
                &near.netns,
                &two.netns,
                two.node.ips().next().expect("an address"),
            );
        }
        // Pods of other clusters are beyond the underlay, which answers so.
        let away = SocketAddr::new("10.2.0.2".parse().expect("an address"), 7);
        let refused = one
            .netns
            .run(|| TcpStream::connect_timeout(&away, Duration::from_secs(2)))
            .expect("run")
            .expect_err("no datapath yet");
        assert!(
            matches!(
                refused.raw_os_error(),
                Some(libc::ENETUNREACH | libc::EHOSTUNREACH)
            ),
            "{refused}"
        );
        two.remove_pod("default/b").expect("remove");
        assert_eq!(two.add_pod("default/c").expect("pod").ips, far.ips);
    }
}
