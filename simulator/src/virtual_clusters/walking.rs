//! What becomes of a packet between nodes that have no kernel: a walk over the tables of the nodes that it can meet.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use datapath::state::Family;
use datapath::walk::{End, Packet, Stop, Walk, World, round_trip};
use floater::agent::Fate;
use floater::wire::Layer;

use super::tables::{self, pod_link, port_name};
use super::{Place, VirtualFleet};
use crate::fault::is_gateway;
use crate::objects::cluster_node_name;
use crate::topology::{Families, Mode};

/// What the router between clusters is called in a walk.
const UNDERLAY: &str = "underlay";
/// The least round-trip time of a packet.
const LEAST: Duration = Duration::from_micros(60);
/// By how much round trips differ.
const JITTER_US: u64 = 40;
/// How many worlds are kept at most: each is a few nodes with a few rows.
const WORLDS: usize = 256;
/// Of so many pairs of a kind that is well, one is walked all the same.
const SAMPLE: u64 = 256;
/// The lengths of an ICMP and of a TCP header, bytes.
const ICMP_HEADER: u32 = 8;
const TCP_HEADER: u32 = 40;
/// The IP protocol numbers.
const ICMP: u8 = Packet::ICMP;
const ICMPV6: u8 = 58;
const TCP: u8 = 6;

/// What was found out and is still so.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// Raised by every change of what walks depend on.
    version: AtomicU64,
    found: Mutex<Found>,
}

#[derive(Debug, Default)]
struct Found {
    version: u64,
    worlds: HashMap<[Place; 2], Arc<World>>,
    /// The kinds of pairs that are well.
    well: HashMap<Kind, ()>,
    /// What decides about packets of a node; none of one that is of its own kind.
    ends: HashMap<Place, Option<PairEnd>>,
}

impl Memory {
    pub(super) fn forget(&self) {
        self.version.fetch_add(1, Ordering::Relaxed);
    }

    fn version(&self) -> u64 {
        self.version.load(Ordering::Relaxed)
    }

    /// Runs with what is still so.
    fn with<T>(&self, work: impl FnOnce(&mut Found) -> T) -> T {
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        let version = self.version();
        if found.version != version {
            *found = Found {
                version,
                ..Found::default()
            };
        }
        work(&mut found)
    }
}

/// What decides about a packet between clusters of which nothing was changed on purpose.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Kind {
    ends: [PairEnd; 2],
    layer: Layer,
    /// Whether the destination is a pod.
    is_pod: bool,
    question: Question,
    is_within: bool,
    is_same_node: bool,
}

/// One end of a pair.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct PairEnd {
    mode: Mode,
    family: Families,
    mtu: u32,
    is_gateway: bool,
}

/// What is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Question {
    pub(super) protocol: u8,
    pub(super) port: u16,
    pub(super) len: u32,
    pub(super) dont_fragment: bool,
}

impl Question {
    /// An echo request with so many bytes behind its header.
    pub(super) fn echo(dst: IpAddr, payload_bytes: u16) -> Self {
        let header = if dst.is_ipv4() { 20 } else { 40 };
        Self {
            protocol: if dst.is_ipv4() { ICMP } else { ICMPV6 },
            port: 0,
            len: header + ICMP_HEADER + u32::from(payload_bytes),
            dont_fragment: true,
        }
    }

    /// The first packet of a connection.
    pub(super) fn connection(dst: IpAddr, port: u16) -> Self {
        let header = if dst.is_ipv4() { 20 } else { 40 };
        Self {
            protocol: TCP,
            port,
            len: header + TCP_HEADER,
            dont_fragment: true,
        }
    }
}

/// Who sends: a node for itself, or one of its pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sender {
    pub(super) place: Place,
    pub(super) layer: Layer,
    /// The pod's number on its node.
    pub(super) pod: Option<u32>,
}

/// Where an address is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Holder {
    pub(super) place: Place,
    /// The pod's number on its node, where it is a pod's.
    pub(super) pod: Option<u32>,
}

impl VirtualFleet {
    /// What becomes of the `number`th packet that a floater sends to an address.
    pub(super) fn fate(
        &self,
        from: Sender,
        src: IpAddr,
        dst: IpAddr,
        to: Option<Holder>,
        question: Question,
        number: u64,
    ) -> Fate {
        let Some(to) = to else {
            // Nobody has the address: its segment's router says so late, if at all.
            return Fate::Lost;
        };
        if self.is_lost(from, to, dst, number) {
            return Fate::Lost;
        }
        let after = self.time(from, to, dst, number);
        let kind = self.kind(from, to, question);
        let is_sample = self
            .hash((&kind, from.place, to.place))
            .is_multiple_of(SAMPLE);
        if let Some(kind) = &kind
            && !is_sample
            && self.memory.with(|found| found.well.contains_key(kind))
        {
            return Fate::Answered { after };
        }
        let fate = self.walked(from, src, dst, to, question, after);
        if let Some(kind) = kind {
            let is_well = matches!(fate, Fate::Answered { .. });
            self.memory.with(|found| {
                let was_well = if is_well {
                    found.well.insert(kind, ());
                    false
                } else {
                    found.well.remove(&kind).is_some()
                };
                if was_well {
                    tracing::warn!(?from, ?to, ?fate, "a pair is not as others of its kind");
                }
            });
        }
        fate
    }

    /// What a pair has in common with others; nothing where it is one of its own kind.
    fn kind(&self, from: Sender, to: Holder, question: Question) -> Option<Kind> {
        Some(Kind {
            ends: [self.end(from.place)?, self.end(to.place)?],
            layer: from.layer,
            is_pod: to.pod.is_some(),
            question,
            is_within: from.place.cluster == to.place.cluster,
            is_same_node: from.place == to.place,
        })
    }

    /// What decides about packets of a node; nothing where something of its cluster is as nobody planned it. Every packet asks, and the
    /// answer is in objects that have to be read for it, so it is kept.
    fn end(&self, place: Place) -> Option<PairEnd> {
        if let Some(known) = self.memory.with(|found| found.ends.get(&place).cloned()) {
            return known;
        }
        let version = self.memory.version();
        let cluster = self.cluster(place);
        let names = cluster.nodes.iter();
        let mut names = names.map(|node| cluster_node_name(&cluster.name, &node.name));
        let is_plain = cluster.global_cidrs_map.is_empty()
            && !self.is_changed(place.cluster)
            && !names.any(|name| self.is_written(&name));
        let end = is_plain.then(|| PairEnd {
            mode: cluster.mode,
            family: cluster.family,
            mtu: cluster.underlay.mtu,
            is_gateway: self.is_gateway(place),
        });
        self.memory.with(|found| {
            // What changed meanwhile may have been read before it did.
            if found.version == version {
                found.ends.insert(place, end.clone());
            }
        });
        end
    }

    fn is_gateway(&self, place: Place) -> bool {
        let cluster = self.cluster(place);
        let root = self.root.get();
        root.is_some_and(|root| is_gateway(root, &cluster.name, &self.node(place).name))
    }

    fn hash(&self, words: impl std::hash::Hash) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.seed.hash(&mut hasher);
        words.hash(&mut hasher);
        hasher.finish()
    }

    /// Whether chance takes a packet or its answer.
    fn is_lost(&self, from: Sender, to: Holder, dst: IpAddr, number: u64) -> bool {
        if from.place.cluster == to.place.cluster {
            return false;
        }
        let losses = [from.place, to.place].map(|place| self.cluster(place).underlay.loss);
        // Each segment is crossed twice, there and back.
        let mut ways = losses
            .iter()
            .zip(0_u8..)
            .flat_map(|(loss, at)| [(loss, at), (loss, at + 2)]);
        ways.any(|(loss, way)| {
            let dice = self.hash((from.place, dst, number, way)) >> 11;
            (dice as f64) < loss * (1_u64 << 53) as f64
        })
    }

    /// The round-trip time of a packet.
    fn time(&self, from: Sender, to: Holder, dst: IpAddr, number: u64) -> Duration {
        let jitter = self.hash((from.place, dst, number, "jitter")) % JITTER_US;
        let mut time = LEAST + Duration::from_micros(jitter);
        if from.place.cluster != to.place.cluster {
            for place in [from.place, to.place] {
                time += 2 * self.cluster(place).underlay.delay;
            }
        }
        time
    }

    fn walked(
        &self,
        from: Sender,
        src: IpAddr,
        dst: IpAddr,
        to: Holder,
        question: Question,
        after: Duration,
    ) -> Fate {
        let world = self.world(from.place, to.place);
        let packet = Packet {
            src,
            dst,
            protocol: question.protocol,
            src_port: 40_000,
            dst_port: question.port,
            len: question.len,
            dont_fragment: question.dont_fragment,
            ttl: 64,
        };
        let (here, there) = (self.name(from.place), self.name(to.place));
        let ingress = from.pod.map(pod_link);
        let (asked, answered) = round_trip(&world, &here, ingress.as_deref(), packet);
        if !is_at(&asked.end, &there, to.pod) {
            return self.complaint(&asked, &here, from, after);
        }
        match answered {
            Some(answered) if is_at(&answered.end, &here, from.pod) => Fate::Answered { after },
            // What is said of an answer is said to whoever sent it.
            _ => Fate::Lost,
        }
    }

    /// What the sender hears of a packet that did not arrive.
    fn complaint(&self, walk: &Walk, here: &str, from: Sender, after: Duration) -> Fate {
        let End::Stopped { node, stop } = &walk.end else {
            return Fate::Lost;
        };
        // Of a tunnel's packet the tunnel hears, and tells nobody.
        let is_inner = walk.hops.last().is_none_or(|hop| hop.depth == 0);
        if !is_inner {
            return Fate::Lost;
        }
        let is_own = node == here && from.layer == Layer::Host;
        let src = walk.hops.first().map(|hop| Family::of(hop.dst));
        let family = src.unwrap_or(Family::Ipv4);
        let (v4, v6) = match stop {
            Stop::NoRoute { .. } | Stop::Unreachable { .. } if is_own => {
                return Fate::Unsent {
                    error: "Network is unreachable (os error 101)".to_owned(),
                };
            }
            Stop::NoRoute { .. } => ((3, 0), (1, 0)),
            Stop::Unreachable { .. } => ((3, 1), (1, 0)),
            Stop::Prohibited { .. } => ((3, 13), (1, 1)),
            Stop::TooBig { mtu, .. } if is_own => {
                return Fate::Unsent {
                    error: format!("Message too long (os error 90), of {mtu} bytes at most"),
                };
            }
            Stop::TooBig { .. } => ((3, 4), (2, 0)),
            Stop::TtlExpired => ((11, 0), (3, 0)),
            _ => return Fate::Lost,
        };
        let Some(from) = self.address_of(node, here, from, family) else {
            return Fate::Lost;
        };
        let (kind, code) = match family {
            Family::Ipv4 => v4,
            Family::Ipv6 => v6,
        };
        Fate::Unreachable {
            from,
            kind,
            code,
            after,
        }
    }

    /// The address by which a router complains: a node's own, or that of the underlay on the sender's segment.
    fn address_of(&self, node: &str, here: &str, from: Sender, family: Family) -> Option<IpAddr> {
        let place = if node == UNDERLAY {
            let routers = &self.cluster(from.place).segment.routers;
            let mut routers = routers.iter().map(ipnet::IpNet::addr);
            return routers.find(|ip| Family::of(*ip) == family);
        } else if node == here {
            from.place
        } else {
            let (cluster, node) = node.split_once('/')?;
            self.place(cluster, node)?
        };
        let mut ips = self.node(place).ips();
        ips.find(|ip| Family::of(*ip) == family)
    }

    /// The nodes that a packet between two can meet: both, the gateways of their clusters, and the router between.
    fn world(&self, from: Place, to: Place) -> Arc<World> {
        let key = [from, to];
        if let Some(world) = self.memory.with(|found| found.worlds.get(&key).cloned()) {
            return world;
        }
        let world = Arc::new(self.make_world(from, to));
        self.memory.with(|found| {
            if found.worlds.len() >= WORLDS {
                found.worlds.clear();
            }
            found.worlds.insert(key, world.clone());
        });
        world
    }

    fn make_world(&self, from: Place, to: Place) -> World {
        let mut places = vec![from, to];
        for cluster in [from.cluster, to.cluster] {
            let nodes = (0..self.clusters[cluster].nodes.len()).map(|node| Place { cluster, node });
            places.extend(nodes.filter(|place| self.is_gateway(*place)));
        }
        places.sort_unstable();
        places.dedup();
        let mut world = World::new();
        for (place, state) in self.tables_between([from.cluster, to.cluster], &places) {
            world.insert(self.name(place), state);
        }
        let known = places.iter().map(|place| {
            let number = u32::try_from(place.cluster).unwrap_or(u32::MAX);
            (number, self.cluster(*place), self.node(*place))
        });
        world.insert(UNDERLAY, tables::of_underlay(known.clone()));
        for (place, (number, cluster, node)) in places.iter().zip(known) {
            let port = port_name(number, cluster, node);
            world.wire((UNDERLAY, &port), (&self.name(*place), "eth0"));
        }
        world
    }
}

/// Whether a packet ended where it should: at a node, or at one of its pods.
fn is_at(end: &End, place: &str, pod: Option<u32>) -> bool {
    match (end, pod) {
        (End::Delivered { node, .. }, None) => node == place,
        (End::Left { node, link, .. }, Some(number)) => node == place && *link == pod_link(number),
        _ => false,
    }
}
