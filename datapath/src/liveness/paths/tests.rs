//! Small fleets, planned by the planner, on a network that loses packets, with nodes that die and paths that are cut.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::api::{
    Cluster, ClusterLinkOptions, ClusterNode, Fleet, Metadata, NetworkType, NodeConfigSpec,
};
use crate::plan::Planner;
use crate::state::Family;

const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Clusters c0, c1, … of so many nodes n1, n2, …: the first is the gateway, the second its standby.
fn fleet(clusters: usize, nodes: usize, mode: NetworkType) -> Fleet {
    let mut fleet = Fleet::default();
    for cluster in 0..clusters {
        let name = format!("c{cluster}");
        let mut object = Cluster {
            metadata: Metadata {
                name: name.clone(),
                ..Metadata::default()
            },
            ..Cluster::default()
        };
        object.spec.cluster_link_options = Some(ClusterLinkOptions {
            network_type: mode,
            ip_family: "ipv4".to_owned(),
            ..ClusterLinkOptions::default()
        });
        let (high, low) = (cluster / 200, cluster % 200);
        let found = &mut object.status.cluster_link_status;
        found.pod_cidrs = vec![format!("10.{}.0.0/16", cluster % 250)];
        found.service_cidrs = vec![format!("172.{}.{}.0/24", 16 + high, low)];
        fleet.clusters.push(object);
        for node in 1..=nodes {
            let mut one = ClusterNode::default();
            one.metadata.name = format!("{name}-n{node}");
            one.spec.cluster_name = name.clone();
            one.spec.node_name = format!("n{node}");
            one.spec.ip = format!("100.{}.{low}.{node}", 64 + high);
            one.spec.interface_name = "eth0".to_owned();
            one.spec.pod_cidrs = vec![format!("10.{}.{node}.0/24", cluster % 250)];
            one.spec.roles = match node {
                1 => vec!["gateway".to_owned()],
                2 => vec!["standby".to_owned()],
                _ => Vec::new(),
            };
            fleet.cluster_nodes.push(one);
        }
    }
    fleet
}

struct World {
    configs: BTreeMap<String, NodeConfigSpec>,
    nodes: BTreeMap<String, Paths>,
    /// Who has an overlay address.
    owners: BTreeMap<End, String>,
    now: Duration,
    flying: BTreeSet<(Duration, u64)>,
    packets: BTreeMap<u64, (End, IpAddr, Packet)>,
    sent: BTreeMap<String, u64>,
    /// How often whose detours changed.
    changed: BTreeMap<String, usize>,
    dead: BTreeSet<String>,
    cut: BTreeSet<(String, String)>,
    /// Of a thousand packets so many are lost.
    loss: u64,
    random: u64,
}

impl World {
    fn new(fleet: &Fleet, settings: Settings) -> Self {
        let planner = Planner::of(fleet);
        assert!(
            planner.objections().is_empty(),
            "{:?}",
            planner.objections()
        );
        let names: Vec<String> = planner.nodes().map(str::to_owned).collect();
        let mut world = Self {
            configs: BTreeMap::new(),
            nodes: BTreeMap::new(),
            owners: BTreeMap::new(),
            now: Duration::ZERO,
            flying: BTreeSet::new(),
            packets: BTreeMap::new(),
            sent: BTreeMap::new(),
            changed: BTreeMap::new(),
            dead: BTreeSet::new(),
            cut: BTreeSet::new(),
            loss: 0,
            random: 88_172_645_463_325_252,
        };
        for (place, name) in names.iter().enumerate() {
            let config = planner.config(name).expect("it takes part");
            let plan = Plan::of(&config);
            for end in &plan.own {
                world.owners.insert((*end.0, *end.1), name.clone());
            }
            let mut paths = Paths::new(settings, place as u32 * 7919);
            paths.planned(plan, &Detours::default(), Duration::ZERO);
            world.nodes.insert(name.clone(), paths);
            world.configs.insert(name.clone(), config);
        }
        world
    }

    fn chance(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    fn is_cut(&self, one: &str, other: &str) -> bool {
        let pair = |one: &str, other: &str| (one.to_owned(), other.to_owned());
        self.cut.contains(&pair(one, other)) || self.cut.contains(&pair(other, one))
    }

    fn run(&mut self, until: Duration) {
        while self.now < until {
            let due = self
                .nodes
                .iter()
                .filter(|(name, _)| !self.dead.contains(*name));
            let due = due.filter_map(|(_, paths)| paths.deadline()).min();
            let next = due
                .into_iter()
                .chain(self.flying.first().map(|(at, _)| *at))
                .min();
            let next = next
                .unwrap_or(until)
                .max(self.now + Duration::from_micros(500));
            self.now = next.min(until);
            let now = self.now;
            while let Some((at, id)) = self.flying.first().copied().filter(|(at, _)| *at <= now) {
                self.flying.remove(&(at, id));
                let ((tunnel, to), from, packet) = self.packets.remove(&id).expect("one a number");
                let owner = self.owners[&(tunnel, to)].clone();
                if let Some(paths) = self
                    .nodes
                    .get_mut(&owner)
                    .filter(|_| !self.dead.contains(&owner))
                {
                    paths.received((tunnel, from), &packet, now);
                }
            }
            let due = self.nodes.iter().filter(|(name, paths)| {
                paths.deadline().is_some_and(|at| at <= now) && !self.dead.contains(*name)
            });
            let due: Vec<String> = due.map(|(name, _)| name.clone()).collect();
            for name in due {
                let mut out = Vec::new();
                let paths = self.nodes.get_mut(&name).expect("a node");
                let before = paths.detours();
                paths.advance(now, |end, packet| out.push((end, packet)));
                if paths.detours() != before {
                    *self.changed.entry(name.clone()).or_default() += 1;
                }
                let own = paths.plan().own.clone();
                for ((tunnel, to), packet) in out {
                    *self.sent.entry(name.clone()).or_default() += 1;
                    let Some(owner) = self.owners.get(&(tunnel, to)).cloned() else {
                        continue;
                    };
                    let is_lost = self.chance() % 1000 < self.loss;
                    if is_lost || self.is_cut(&name, &owner) {
                        continue;
                    }
                    let id = self.chance();
                    self.packets
                        .insert(id, ((tunnel, to), own[&tunnel], packet));
                    self.flying.insert((now + millis(1), id));
                }
            }
        }
    }

    fn changes(&self) -> usize {
        self.changed.values().sum()
    }

    fn owner(&self, tunnel: Tunnel, ip: IpAddr) -> &str {
        &self.owners[&(tunnel, ip)]
    }

    /// Whether a packet of one node's pod reaches a cluster, as the routes lead now; else what stops it.
    fn delivers(&self, from: &str, cluster: &str) -> Result<(), String> {
        let mut at = from.to_owned();
        for _ in 0..6 {
            if self.dead.contains(&at) {
                return Err(format!("{at} is dead"));
            }
            if at.split('-').next() == Some(cluster) {
                return Ok(());
            }
            let (paths, config) = (&self.nodes[&at], &self.configs[&at]);
            let detours = paths.detours();
            let prefix = format!("10.{}.0.0/16", &cluster[1..]);
            let is_it = |route: &&crate::api::Route| route.cidr == prefix;
            let routes = if detours.taken_over.contains(&Family::Ipv4) {
                &config.takeover
            } else {
                &config.routes
            };
            let route = routes
                .iter()
                .find(is_it)
                .ok_or(format!("{at} has no route"))?;
            let tunnel = Tunnel::named(&route.dev).expect("a tunnel");
            let planned: IpAddr = route.gw.parse().expect("an address");
            let via = detours
                .replaced
                .get(&(tunnel, planned))
                .copied()
                .unwrap_or(planned);
            let next = self.owner(tunnel, via).to_owned();
            if self.is_cut(&at, &next) {
                return Err(format!("{at} is cut off from {next}"));
            }
            at = next;
        }
        Err("a loop".to_owned())
    }

    /// What does not reach whom, of those that live.
    fn failures(&self) -> Vec<String> {
        let clusters: BTreeSet<&str> = self
            .nodes
            .keys()
            .filter_map(|name| name.split('-').next())
            .collect();
        let mut failures = Vec::new();
        for from in self.nodes.keys().filter(|name| !self.dead.contains(*name)) {
            for cluster in &clusters {
                if let Err(why) = self.delivers(from, cluster) {
                    failures.push(format!("{from} -> {cluster}: {why}"));
                }
            }
        }
        failures
    }

    fn detours(&self) -> BTreeMap<&str, Detours> {
        let all = self
            .nodes
            .iter()
            .map(|(name, paths)| (name.as_str(), paths.detours()));
        all.filter(|(_, detours)| !detours.is_empty()).collect()
    }

    fn cut_off(&mut self, node: &str, whom: impl Fn(&str) -> bool) {
        let others: Vec<String> = self
            .nodes
            .keys()
            .filter(|name| whom(name))
            .cloned()
            .collect();
        for other in others {
            self.cut.insert((node.to_owned(), other));
        }
    }
}

fn quick() -> Settings {
    Settings {
        hold: millis(3000),
        ..Settings::default()
    }
}

#[test]
fn a_dead_gateway_is_replaced_by_all_and_used_again_later() {
    let mut world = World::new(&fleet(3, 3, NetworkType::Gateway), quick());
    world.run(millis(6000));
    assert_eq!((world.failures(), world.changes()), (Vec::new(), 0));
    assert!(world.nodes.values().all(|paths| paths.summary().down == 0));
    world.dead.insert("c0-n1".into());
    assert!(!world.failures().is_empty());
    world.run(millis(6800));
    assert_eq!(world.failures(), Vec::<String>::new());
    // Its own nodes and those that have routes to it: the others' gateways. Their standbys are ready to go the same way.
    let who: Vec<&str> = world.detours().into_keys().collect();
    assert_eq!(who, ["c0-n2", "c0-n3", "c1-n1", "c1-n2", "c2-n1", "c2-n2"]);
    let summary = world.nodes["c1-n1"].summary();
    assert_eq!(summary.lost.len(), 1);
    assert_eq!(
        (summary.lost[0].1.as_str(), summary.detours.len()),
        ("c0", 1)
    );

    // It comes back, and is trusted after a while.
    world.dead.clear();
    world.nodes.get_mut("c0-n1").expect("it").planned(
        Plan::default(),
        &Detours::default(),
        world.now,
    );
    let plan = Plan::of(&world.configs["c0-n1"]);
    let now = world.now;
    world
        .nodes
        .get_mut("c0-n1")
        .expect("it")
        .planned(plan, &Detours::default(), now);
    world.run(now + millis(2500));
    assert_eq!(world.detours().len(), 6);
    world.run(now + millis(9000));
    assert_eq!(world.detours(), BTreeMap::new());
    assert_eq!(world.changes(), 12);
}

#[test]
fn the_death_of_one_of_sixty_gateways_is_known_within_a_second_and_within_the_budget() {
    let mut world = World::new(&fleet(60, 2, NetworkType::Gateway), quick());
    world.run(millis(9000));
    assert_eq!(world.changes(), 0);
    assert!(world.nodes.values().all(|paths| paths.summary().down == 0));
    world.sent.clear();
    world.run(millis(13_000));
    let most = world.sent.values().max().copied().unwrap_or_default();
    assert!(
        (400..=800).contains(&most),
        "{most} packets in four seconds"
    );
    world.dead.insert("c7-n1".into());
    world.run(millis(14_000));
    assert_eq!(world.failures(), Vec::<String>::new());
    assert_eq!(world.detours().len(), 1 + 59 * 2);
}

#[test]
fn beyond_the_budget_only_the_own_gateways_are_watched() {
    let fleet = fleet(400, 2, NetworkType::Gateway);
    let config = Planner::of(&fleet).config("c0-n1").expect("it takes part");
    let mut paths = Paths::new(Settings::default(), 1);
    paths.planned(Plan::of(&config), &Detours::default(), Duration::ZERO);
    let ends: Vec<&End> = paths.paths.keys().collect();
    assert_eq!(ends.len(), 1, "{ends:?}");
    assert_eq!(ends[0].0, Tunnel::Local);
    // Nor is anybody answered.
    let stranger = (Tunnel::Bridge, "220.64.9.1".parse().expect("an address"));
    let packet = Session::new(
        super::super::Settings::default(),
        NonZeroU32::MIN,
        Duration::ZERO,
    )
    .poll(Duration::ZERO, 0)
    .expect("a first packet");
    paths.received(stranger, &packet, millis(1));
    assert_eq!(paths.paths.len(), 1);
}

#[test]
fn who_is_in_no_plan_is_not_answered() {
    let mut world = World::new(&fleet(2, 2, NetworkType::Gateway), quick());
    world.run(millis(4000));
    let node = world.nodes.get_mut("c0-n1").expect("it");
    let before = node.paths.len();
    let packet = Session::new(
        super::super::Settings::default(),
        NonZeroU32::MIN,
        Duration::ZERO,
    )
    .poll(Duration::ZERO, 0)
    .expect("a first packet");
    for stranger in ["220.99.0.1", "210.99.0.1"] {
        let end = (Tunnel::Bridge, stranger.parse().expect("an address"));
        node.received(end, &packet, millis(4001));
    }
    assert_eq!(node.paths.len(), before);
}

#[test]
fn a_gateway_that_reaches_no_other_cluster_goes_and_one_that_reaches_nothing_else_stays() {
    let mut world = World::new(&fleet(3, 3, NetworkType::Gateway), quick());
    world.run(millis(6000));
    // No API is asked here at all: whoever reaches its peers stays.
    world.cut_off("c0-n1", |name| !name.starts_with("c0"));
    world.run(millis(8000));
    assert!(world.nodes["c0-n1"].is_cut_off() && !world.nodes["c0-n2"].is_cut_off());
    // The gateway's own pods share its fate.
    let mut failures = world.failures();
    failures.retain(|failure| !failure.starts_with("c0-n1"));
    assert_eq!(failures, Vec::<String>::new());
    let detours = world.detours();
    assert!(detours["c0-n2"].taken_over.contains(&Family::Ipv4));
    assert!(detours.contains_key("c0-n3"));
}

#[test]
fn a_cluster_that_is_cut_off_as_a_whole_heals_by_itself() {
    let mut world = World::new(&fleet(3, 3, NetworkType::Gateway), quick());
    world.run(millis(6000));
    for node in ["c0-n1", "c0-n2", "c0-n3"] {
        world.cut_off(node, |name| !name.starts_with("c0"));
    }
    world.run(millis(20_000));
    assert!(world.nodes["c0-n1"].is_cut_off() && world.nodes["c0-n2"].is_cut_off());
    assert!(world.changes() <= 8, "{} changes", world.changes());
    world.cut.clear();
    world.run(millis(60_000));
    assert_eq!(world.detours(), BTreeMap::new());
    assert_eq!(world.failures(), Vec::<String>::new());
}

#[test]
fn an_agent_that_ends_is_no_dead_node() {
    let mut world = World::new(&fleet(2, 3, NetworkType::Gateway), quick());
    world.run(millis(6000));
    let now = world.now;
    let mut last = Vec::new();
    let gateway = world.nodes.get_mut("c0-n1").expect("it");
    let own = gateway.plan().own.clone();
    gateway.end(now, |end, packet| last.push((end, packet)));
    assert!(!last.is_empty());
    for ((tunnel, to), packet) in last {
        let owner = world.owners[&(tunnel, to)].clone();
        let paths = world.nodes.get_mut(&owner).expect("it");
        paths.received((tunnel, own[&tunnel]), &packet, now);
    }
    world.dead.insert("c0-n1".into());
    world.run(millis(12_000));
    assert_eq!(world.detours(), BTreeMap::new());
    // It starts again.
    let mut again = Paths::new(quick(), 4711);
    again.planned(
        Plan::of(&world.configs["c0-n1"]),
        &Detours::default(),
        world.now,
    );
    world.nodes.insert("c0-n1".into(), again);
    world.dead.clear();
    world.run(millis(18_000));
    assert_eq!(world.changes(), 0);
    assert!(world.nodes.values().all(|paths| paths.summary().down == 0));
}

#[test]
fn an_agent_that_starts_where_the_standby_is_used_goes_on_so() {
    let mut world = World::new(&fleet(2, 3, NetworkType::Gateway), quick());
    world.dead.insert("c0-n1".into());
    let config = world.configs["c0-n3"].clone();
    let gateway = Plan::of(&config).gateways[0].clone();
    let mut held = Detours::default();
    let standby = gateway.standby.expect("a standby");
    held.replaced
        .insert((gateway.tunnel, gateway.active), standby);
    let mut again = Paths::new(quick(), 4711);
    again.planned(Plan::of(&config), &held, Duration::ZERO);
    assert_eq!(again.detours(), held);
    world.nodes.insert("c0-n3".into(), again);
    world.run(millis(60_000));
    assert_eq!(world.nodes["c0-n3"].detours(), held);
    // Where nobody is heard of the plan counts.
    world.dead.insert("c0-n2".into());
    let mut alone = Paths::new(quick(), 1);
    alone.planned(Plan::of(&config), &held, world.now);
    alone.advance(world.now + millis(20_000), |_, _| {});
    assert_eq!(alone.detours(), Detours::default());
}

#[test]
fn a_flapping_path_changes_little() {
    let mut world = World::new(&fleet(2, 2, NetworkType::Gateway), quick());
    world.run(millis(6000));
    for step in 2..150 {
        world.cut.clear();
        if step % 2 == 0 {
            world.cut_off("c0-n1", |name| name != "c0-n1");
        }
        world.run(millis(step * 4000));
    }
    // Three others turn to its standby and, the first few times, back. The node itself finds nobody, whomever it turns to.
    world.changed.remove("c0-n1");
    let changes = world.changes();
    assert!(
        (3..30).contains(&changes),
        "{changes} changes in ten minutes"
    );
}

fn any_mode() -> impl Strategy<Value = NetworkType> {
    prop_oneof![Just(NetworkType::Gateway), Just(NetworkType::P2p)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    /// One gateway that is dead, cut off from other clusters, from its own nodes, or from one other gateway: after two seconds every node that lives
    /// reaches every cluster, also while packets are lost now and then; and afterwards everything is as planned again.
    #[test]
    fn one_failure_stops_nobody(clusters in 2..5_usize, mode in any_mode(), what in 0..4, who in 0..4_usize, loss in 0..10_u64, seed in 1..u64::MAX) {
        let mut world = World::new(&fleet(clusters, 3, mode), quick());
        world.random = seed;
        world.loss = loss;
        world.run(millis(8000));
        let cluster = format!("c{}", who % clusters);
        let gateway = format!("{cluster}-n1");
        let is_own = |name: &str| name.starts_with(&cluster);
        match what {
            0 => drop(world.dead.insert(gateway.clone())),
            1 => world.cut_off(&gateway, |name| !is_own(name)),
            2 => world.cut_off(&gateway, |name| is_own(name)),
            _ => {
                let other = format!("c{}-n1", (who + 1) % clusters);
                world.cut_off(&gateway, |name| name == other);
            }
        }
        world.run(millis(10_000));
        if mode == NetworkType::Gateway {
            let mut failures = world.failures();
            // Who is cut off itself reaches nobody.
            failures.retain(|failure| what != 1 || !failure.starts_with(&gateway));
            prop_assert_eq!(failures, Vec::<String>::new());
        }
        world.dead.clear();
        world.cut.clear();
        world.loss = 0;
        world.run(millis(40_000));
        prop_assert_eq!(world.detours(), BTreeMap::new());
        let summaries = world.nodes.values().map(Paths::summary);
        prop_assert!(summaries.into_iter().all(|summary| summary.down == 0 && summary.lost.is_empty() && !summary.is_cut_off));
    }

    /// Whatever comes in from planned peers.
    #[test]
    fn nonsense_harms_nobody(packets in prop::collection::vec((any::<[u8; 24]>(), 0..500_u64), 0..40)) {
        let config = Planner::of(&fleet(3, 2, NetworkType::Gateway)).config("c0-n1").expect("it takes part");
        let plan = Plan::of(&config);
        let peers: Vec<End> = plan.peers.iter().copied().collect();
        let mut paths = Paths::new(Settings::default(), 3);
        paths.planned(plan, &Detours::default(), Duration::ZERO);
        let mut now = Duration::ZERO;
        for (mut octets, pause) in packets {
            now += millis(pause);
            // The head of a packet that is read at all.
            (octets[0], octets[3]) = (0x20 | octets[0] & 0x1f, 24);
            octets[1] &= !7;
            if let Some(packet) = Packet::decode(&octets) {
                paths.received(peers[usize::from(octets[23]) % peers.len()], &packet, now);
            }
            paths.advance(now, |_, _| {});
            assert!(paths.summary().lost.len() <= Summary::MOST);
            if let Some(at) = paths.deadline() {
                prop_assert!(at > now, "{at:?} {now:?}");
            }
        }
    }
}
