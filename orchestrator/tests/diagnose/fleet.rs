//! Fleets by the planner, with the rest of each node put around it, and probes answered by the walk:
//!
//! ```text
//!   eth0 ── underlay (trusted)        pod ── one pod per node, 10.(20+cluster).(node).2 and its IPv6 twin
//! ```

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use datapath::api::{Cluster, ClusterLinkOptions, ClusterNode, Fleet, NetworkType, NodeConfig};
use datapath::digest::{Digester, Expected, Key, Scope};
use datapath::plan::Planner;
use datapath::state::{Address, Family, NodeState, TABLE_MAIN};
use datapath::walk::{End, Packet, World, round_trip};
use floater::wire::{Failure, Layer, Outcome, Rtt};
use ipnet::IpNet;
use orchestrator::diagnose::{Judged, diagnose};
use orchestrator::evidence::{
    Ask, ClusterFacts, Gathered, Intent, NodeFacts, NodeRef, ProbeRecord,
};
use orchestrator::probe_plan::{PlannedProbe, What, plan};
use orchestrator::report::{CellName, Finding};

pub(crate) use crate::node::route;
use crate::node::{merged, rules, veth};

/// A cluster of a test's fleet.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spec {
    pub(crate) name: &'static str,
    pub(crate) mode: NetworkType,
    pub(crate) families: &'static [Family],
    pub(crate) nodes: usize,
    /// Own prefixes and what they are called outside.
    pub(crate) map: &'static [(&'static str, &'static str)],
}

pub(crate) const IPV4: &[Family] = &[Family::Ipv4];
pub(crate) const IPV6: &[Family] = &[Family::Ipv6];
pub(crate) const BOTH: &[Family] = &[Family::Ipv4, Family::Ipv6];

pub(crate) const fn gateway(name: &'static str, families: &'static [Family]) -> Spec {
    Spec {
        name,
        mode: NetworkType::Gateway,
        families,
        nodes: 2,
        map: &[],
    }
}

pub(crate) const fn p2p(name: &'static str, families: &'static [Family]) -> Spec {
    Spec {
        name,
        mode: NetworkType::P2p,
        families,
        nodes: 2,
        map: &[],
    }
}

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

pub(crate) fn net(text: &str) -> IpNet {
    text.parse().expect("a prefix")
}

/// The evidence of a healthy fleet, without probes.
pub(crate) fn healthy(specs: &[Spec]) -> Gathered {
    let named: Vec<(String, Spec)> = specs
        .iter()
        .map(|spec| (spec.name.to_owned(), *spec))
        .collect();
    built(&named)
}

/// The evidence of so many alike.
pub(crate) fn many(count: usize, spec: Spec) -> Gathered {
    let named: Vec<(String, Spec)> = (0..count)
        .map(|at| (format!("{}-{at:03}", spec.name), spec))
        .collect();
    built(&named)
}

fn built(specs: &[(String, Spec)]) -> Gathered {
    let mut fleet = Fleet::default();
    for (at, (name, spec)) in specs.iter().enumerate() {
        fleet.clusters.push(cluster_object(at, name, spec));
        fleet
            .cluster_nodes
            .extend((0..spec.nodes).map(|node| node_object(at, name, spec, node)));
    }
    let configs = datapath::plan::plan(&fleet).configs;
    fleet.node_configs = configs
        .iter()
        .map(|(name, config)| {
            let mut object = NodeConfig {
                spec: config.clone(),
                ..NodeConfig::default()
            };
            object.metadata.name.clone_from(name);
            object
        })
        .collect();
    let clusters = specs
        .iter()
        .enumerate()
        .map(|(at, (name, spec))| ClusterFacts {
            name: name.clone(),
            id: format!("uid-{name}"),
            mode: Some(spec.mode),
            families: spec.families.to_vec(),
            pod_prefixes: spec
                .families
                .iter()
                .map(|&family| pods(at, None, family))
                .collect(),
            plans_prefixes: true,
            mapped: spec
                .map
                .iter()
                .map(|(own, global)| (net(own), net(global)))
                .collect(),
            nodes: (0..spec.nodes)
                .map(|node| {
                    let bare = around(at, spec, node);
                    let config = &configs[&format!("{name}-n{}", node + 1)];
                    let (desired, problems) = datapath::nodeconfig::desired(config, &bare);
                    assert!(problems.is_empty(), "{problems:?}");
                    NodeFacts {
                        name: format!("n{}", node + 1),
                        ips: spec
                            .families
                            .iter()
                            .map(|&family| underlay(at, node, family))
                            .collect(),
                        planned_ips: Vec::new(),
                        ready: true,
                        gateway: node == 0,
                        pod_ips: spec
                            .families
                            .iter()
                            .map(|&family| pod(at, node, family))
                            .collect(),
                        tables: Ok(merged(bare, &desired)),
                        differences: None,
                        nat_unread: None,
                        filters_unread: None,
                        host_floater: None,
                        pod_floater: None,
                    }
                })
                .collect(),
            unreachable: None,
        })
        .collect();
    Gathered {
        digester: None,
        clusters,
        intent: Intent {
            fleet,
            control_plane: Some(specs[0].0.clone()),
        },
        inventory_notes: Vec::new(),
        probes: Vec::new(),
        refused: Vec::new(),
    }
}

fn cluster_object(at: usize, name: &str, spec: &Spec) -> Cluster {
    let mut object = Cluster::default();
    object.metadata.name = name.to_owned();
    object.spec.cluster_link_options = Some(ClusterLinkOptions {
        network_type: spec.mode,
        ip_family: match spec.families {
            [Family::Ipv4] => "ipv4",
            [Family::Ipv6] => "ipv6",
            _ => "all",
        }
        .to_owned(),
        global_cidrs_map: spec
            .map
            .iter()
            .map(|&(own, global)| (own.to_owned(), global.to_owned()))
            .collect(),
        ..ClusterLinkOptions::default()
    });
    for &family in spec.families {
        let status = &mut object.status.cluster_link_status;
        status.pod_cidrs.push(pods(at, None, family).to_string());
        status.service_cidrs.push(match family {
            Family::Ipv4 => format!("172.20.{at}.0/24"),
            Family::Ipv6 => format!("fd20:{at:x}::/112"),
        });
    }
    object
}

fn node_object(at: usize, name: &str, spec: &Spec, node: usize) -> ClusterNode {
    let mut object = ClusterNode::default();
    object.metadata.name = format!("{name}-n{}", node + 1);
    object.spec.cluster_name = name.to_owned();
    object.spec.node_name = format!("n{}", node + 1);
    object.spec.interface_name = "eth0".to_owned();
    for &family in spec.families {
        object
            .spec
            .pod_cidrs
            .push(pods(at, Some(node), family).to_string());
        let ip = underlay(at, node, family).to_string();
        match family {
            Family::Ipv4 => object.spec.ip = ip,
            Family::Ipv6 => object.spec.ip6 = ip,
        }
    }
    if node == 0 {
        object.spec.roles.push("gateway".to_owned());
    }
    object
}

pub(crate) fn underlay(cluster: usize, node: usize, family: Family) -> IpAddr {
    ip(&match family {
        Family::Ipv4 => format!("100.64.{cluster}.{}", node + 1),
        Family::Ipv6 => format!("fd64::{cluster:x}:{:x}", node + 1),
    })
}

pub(crate) fn pods(cluster: usize, node: Option<usize>, family: Family) -> IpNet {
    net(&match (family, node) {
        (Family::Ipv4, None) => format!("10.{}.0.0/16", 20 + cluster),
        (Family::Ipv4, Some(node)) => format!("10.{}.{node}.0/24", 20 + cluster),
        (Family::Ipv6, None) => format!("fd10:{cluster:x}::/48"),
        (Family::Ipv6, Some(node)) => format!("fd10:{cluster:x}:0:{node:x}::/64"),
    })
}

pub(crate) fn pod(cluster: usize, node: usize, family: Family) -> IpAddr {
    ip(&match family {
        Family::Ipv4 => format!("10.{}.{node}.2", 20 + cluster),
        Family::Ipv6 => format!("fd10:{cluster:x}:0:{node:x}::2"),
    })
}

/// A node without the datapath.
fn around(cluster: usize, spec: &Spec, node: usize) -> NodeState {
    let mut state = NodeState::default();
    let words = [format!("{cluster}"), format!("{node}")];
    for name in ["eth0", "pod"] {
        state
            .links
            .insert(veth(&[&words[0], &words[1], name], name));
    }
    for &family in spec.families {
        let (length, all) = match family {
            Family::Ipv4 => (24, net("0.0.0.0/0")),
            Family::Ipv6 => (112, net("::/0")),
        };
        let own = IpNet::new(underlay(cluster, node, family), length).expect("a length");
        state.addresses.insert(Address {
            link: "eth0".to_owned(),
            net: own,
        });
        state
            .routes
            .insert(route(TABLE_MAIN, own.trunc(), None, "eth0"));
        let router = underlay(cluster, 250, family);
        state
            .routes
            .insert(route(TABLE_MAIN, all, Some(router), "eth0"));
        let ip = pod(cluster, node, family);
        state
            .routes
            .insert(route(TABLE_MAIN, IpNet::from(ip), None, "pod"));
        for peer in (0..spec.nodes).filter(|&peer| peer != node) {
            state.routes.insert(route(
                TABLE_MAIN,
                pods(cluster, Some(peer), family),
                Some(underlay(cluster, peer, family)),
                "eth0",
            ));
        }
        rules(&mut state, family);
    }
    state
}

/// The place of `cluster/node`.
pub(crate) fn at(gathered: &Gathered, place: &str) -> NodeRef {
    let (cluster, node) = place.split_once('/').expect("cluster/node");
    let cluster_at = gathered
        .clusters
        .iter()
        .position(|facts| facts.name == cluster)
        .expect("a cluster");
    let node = gathered.clusters[cluster_at]
        .nodes
        .iter()
        .position(|facts| facts.name == node)
        .expect("a node");
    NodeRef {
        cluster: cluster_at,
        node,
    }
}

/// The tables of `cluster/node`, to break them.
pub(crate) fn tables<'g>(gathered: &'g mut Gathered, place: &str) -> &'g mut NodeState {
    let at = at(gathered, place);
    gathered.clusters[at.cluster].nodes[at.node]
        .tables
        .as_mut()
        .expect("readable")
}

/// What probes see in the fleet as it is: each is answered as the walk over all tables says.
pub(crate) fn probe(gathered: &mut Gathered, what: &What) {
    let mut world = World::new();
    world.assume_underlay(true);
    let name = |at: NodeRef, gathered: &Gathered| {
        let cluster = &gathered.clusters[at.cluster];
        format!("{}/{}", cluster.name, cluster.nodes[at.node].name)
    };
    for cluster in 0..gathered.clusters.len() {
        for node in 0..gathered.clusters[cluster].nodes.len() {
            let here = NodeRef { cluster, node };
            let state = gathered.clusters[cluster].nodes[node].tables.clone();
            world.insert(name(here, gathered), state.expect("readable while probing"));
        }
    }
    gathered.probes = plan(&gathered.clusters, what)
        .probes
        .into_iter()
        .enumerate()
        .map(|(id, probe)| {
            let (src, dst) = (name(probe.src, gathered), name(probe.dst, gathered));
            let passes = probe.src == probe.dst || {
                let facts = &gathered.clusters[probe.src.cluster].nodes[probe.src.node];
                let own = match probe.layer {
                    Layer::Host => &facts.ips,
                    Layer::Pod => &facts.pod_ips,
                };
                let own = *own
                    .iter()
                    .find(|&&ip| Family::of(ip) == probe.family)
                    .expect("an address");
                let ingress = (probe.layer == Layer::Pod).then_some("pod");
                let packet = Packet::udp(own, probe.target, 8889);
                let (asked, answered) = round_trip(&world, &src, ingress, packet);
                ends_at(&asked.end, &dst) && answered.is_some_and(|walk| ends_at(&walk.end, &src))
            };
            record(id, &probe, passes)
        })
        .collect();
}

fn ends_at(end: &End, wanted: &str) -> bool {
    matches!(end, End::Delivered { node, .. } | End::Left { node, .. } if node == wanted)
}

fn record(id: usize, probe: &PlannedProbe, passes: bool) -> ProbeRecord {
    let sent = u32::from(probe.count);
    let mut record = ProbeRecord {
        src: probe.src,
        dst: probe.dst,
        layer: probe.layer,
        family: probe.family,
        protocol: probe.protocol,
        target: probe.target,
        payload_bytes: probe.payload_bytes,
        asks: vec![ask(Outcome {
            id: u32::try_from(id).expect("few probes"),
            sent,
            received: sent,
            failure: None,
            rtt: Rtt::of([100, 200, 300, 400]),
            ..Outcome::default()
        })],
    };
    if !passes {
        lose(&mut record, Failure::Timeout);
    }
    record
}

fn ask(outcome: Outcome) -> Ask {
    Ask {
        outcome: Ok(outcome),
        excused: None,
    }
}

/// What came of the first round.
pub(crate) fn outcome(record: &mut ProbeRecord) -> &mut Outcome {
    record.asks[0].outcome.as_mut().expect("an outcome")
}

/// Nothing is answered, however often it is asked again.
pub(crate) fn lose(record: &mut ProbeRecord, failure: Failure) {
    keep(record, 0, failure);
}

/// No more than so many of each round are answered, however often it is asked again.
pub(crate) fn keep(record: &mut ProbeRecord, received: u32, failure: Failure) {
    let mut lossy = outcome(record).clone();
    // A large echo request is alone at first, and comes in numbers when it is asked again.
    if record.payload_bytes > 1000 {
        lossy.sent = 3;
    }
    lossy.received = lossy.sent.min(received);
    lossy.failure = (lossy.received < lossy.sent).then_some(failure);
    if lossy.received == 0 {
        lossy.rtt = None;
    }
    record.asks = vec![ask(lossy); 4];
}

/// Asked again twice, and answered.
pub(crate) fn settle(record: &mut ProbeRecord) {
    let mut full = outcome(record).clone();
    (full.sent, full.received, full.failure) = (10, 10, None);
    record.asks.extend([ask(full.clone()), ask(full)]);
}

/// Nobody knows what came of it.
pub(crate) fn forget(record: &mut ProbeRecord, reason: &str) {
    record.asks = vec![Ask {
        outcome: Err(reason.to_owned()),
        excused: None,
    }];
}

/// Probes the fleet as it is and judges it.
pub(crate) fn judged(gathered: &mut Gathered) -> Judged {
    let what = What::default();
    probe(gathered, &what);
    let judged = diagnose(gathered, &what);
    consistent(gathered, &judged);
    assert_eq!(diagnose(&digested(gathered), &what), judged, "by digest");
    judged
}

/// The same evidence as floaters give it that were told what to expect.
pub(crate) fn digested(gathered: &Gathered) -> Gathered {
    let mut gathered = gathered.clone();
    let fleet = &gathered.intent.fleet;
    if fleet.clusters.is_empty() || fleet.cluster_nodes.is_empty() {
        return gathered;
    }
    let planner = Arc::new(Planner::of(fleet));
    let digester = Digester::new(Key([7; 16]), Scope::Tables, 4);
    let mut expected = Expected::new(&planner, digester);
    let names: HashMap<(&str, &str), &str> = fleet
        .cluster_nodes
        .iter()
        .map(|object| {
            let place = (
                object.spec.cluster_name.as_str(),
                object.spec.node_name.as_str(),
            );
            (place, object.metadata.name.as_str())
        })
        .collect();
    for cluster in &mut gathered.clusters {
        for node in &mut cluster.nodes {
            let name = names.get(&(cluster.name.as_str(), node.name.as_str()));
            let digest = name.and_then(|name| expected.of(name));
            if let (Some(digest), Ok(tables)) = (digest, &mut node.tables) {
                let found = digester.differences(tables, &digest).expect("one kind");
                node.differences = Some(found);
                digester.take_counted(tables);
            }
        }
    }
    gathered.digester = Some(digester);
    gathered
}

/// The cells that a finding affects, by name.
pub(crate) fn affected<'j>(judged: &'j Judged, finding: &Finding) -> Vec<CellName<'j>> {
    finding
        .affects
        .iter()
        .map(|&id| CellName::new(&judged.clusters, id))
        .collect()
}

/// What holds of every judgement.
pub(crate) fn consistent(gathered: &Gathered, judged: &Judged) {
    let coverage = &judged.coverage;
    assert_eq!(
        coverage.probed
            + coverage.proved
            + coverage.inferred
            + coverage.stale
            + coverage.unobserved,
        coverage.cells
    );
    assert_eq!(coverage.cells, judged.cells().count());
    assert!(judged.cells().is_sorted_by_key(|cell| cell.id));
    for finding in &judged.findings {
        for &id in &finding.affects {
            let cell = judged.cell(id).expect("a cell");
            assert!(cell.findings.contains(&finding.id.as_str()));
        }
        assert!(
            orchestrator::causes::find(finding.code)
                .undiagnosed
                .is_none(),
            "{}",
            finding.code
        );
        assert!(!finding.evidence.is_empty(), "{}", finding.code);
    }
    assert_eq!(judged.clusters.len(), gathered.clusters.len());
}

/// `CODE at cluster/node`.
pub(crate) fn titles(judged: &Judged) -> Vec<String> {
    judged
        .findings
        .iter()
        .map(|finding| {
            format!(
                "{} {} at {}/{} {}",
                finding.severity.word(),
                finding.code,
                finding.element.cluster.as_deref().unwrap_or("-"),
                finding.element.node.as_deref().unwrap_or("-"),
                finding.element.kind.word()
            )
        })
        .collect()
}

/// The only finding.
pub(crate) fn only(judged: &Judged) -> &Finding {
    assert_eq!(judged.findings.len(), 1, "{:#?}", titles(judged));
    &judged.findings[0]
}
