//! Prefixes that meet: of two clusters, within one, with nodes' addresses, and with the tunnels' own pools.
//!
//! Table 200 is asked before all others, so a route to a remote prefix takes every packet to it along: to a node's LAN, to a
//! tunnel's end point, to a local pod.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use super::claims::{Claim, Scope, Source};
use super::family::address_field;
use super::members::{Member, Members};
use super::objection::{Field, Object, Objection};
use super::overlay::pool_field;
use super::prefixes::{Holder, Prefixes};
use crate::code::Code;
use crate::state::Family;
use crate::tunnel::Tunnel;

/// Reports everything that meets, once for two sides and the wider prefix.
pub(super) fn report(members: &Members<'_>, claims: &[Claim<'_>], objections: &mut Vec<Objection>) {
    let mut known = Prefixes::new();
    for (item, claim) in claims.iter().enumerate() {
        let owner = claim.cluster;
        known.insert(claim.net, claim.scope, Holder { owner, item });
    }
    let report = Report { members, claims };
    report.between_clusters(&known, objections);
    for own in claims.chunk_by(|one, next| one.cluster == next.cluster) {
        within_cluster(members, own, objections);
    }
    report.over_nodes(&known, objections);
    let pools = Pools::of(members);
    report.over_pools(&known, &pools, objections);
    pools.among_themselves(objections);
    pools.over_nodes(members, objections);
}

struct Report<'s, 'a> {
    members: &'s Members<'a>,
    claims: &'s [Claim<'a>],
}

/// The first of several that are the same to the reader, and how many more there are.
struct First<T> {
    first: T,
    more: usize,
}

fn note<K: Ord, T>(seen: &mut BTreeMap<K, First<T>>, key: K, what: T) {
    seen.entry(key)
        .and_modify(|known| known.more += 1)
        .or_insert(First {
            first: what,
            more: 0,
        });
}

fn overlap(at: Field, other: Field, rule: String) -> Objection {
    Objection::new(Code::CidrOverlap, at, rule).against(other)
}

fn relation(net: IpNet, cover: IpNet) -> String {
    if net == cover {
        format!("{net} is also")
    } else {
        format!("{net} lies within {cover},")
    }
}

fn and_more(more: usize, one: &str, many: &str) -> String {
    match more {
        0 => String::new(),
        1 => format!(" (and 1 more {one})"),
        more => format!(" (and {more} more {many})"),
    }
}

fn host(ip: IpAddr) -> IpNet {
    IpNet::from(ip)
}

impl Report<'_, '_> {
    /// What one cluster is called outside must be nothing that another is called, outside or inside.
    fn between_clusters(&self, known: &Prefixes<Scope>, objections: &mut Vec<Objection>) {
        let mut pairs = BTreeMap::new();
        for (item, claim) in self.claims.iter().enumerate() {
            let scopes: &[Scope] = match claim.scope {
                Scope::Outside => &[Scope::Outside, Scope::Inside],
                Scope::Inside => &[Scope::Outside],
            };
            for scope in scopes {
                // Of two that are equal the later one is reported, so that they are reported once.
                let cover = known.covering(claim.net, *scope).find(|(net, holder)| {
                    holder.owner != claim.cluster && (*net != claim.net || holder.item < item)
                });
                let Some((net, holder)) = cover else { continue };
                let (low, high) = (
                    claim.cluster.min(holder.owner),
                    claim.cluster.max(holder.owner),
                );
                note(&mut pairs, (low, high, net), (item, holder.item));
            }
        }
        for ((_, _, net), First { first, more }) in pairs {
            let (claim, cover) = (&self.claims[first.0], &self.claims[first.1]);
            let (at, other) = (claim.field(self.members), cover.field(self.members));
            let rule = format!(
                "{} a prefix of cluster {}{}; a globalCIDRsMap can tell them apart",
                relation(claim.net, net),
                self.members.clusters[cover.cluster].name,
                and_more(
                    more,
                    "prefix of the two clusters",
                    "prefixes of the two clusters"
                ),
            );
            let lost: Vec<String> = [(claim, cover), (cover, claim)]
                .into_iter()
                .filter(|(offered, own)| offered.is_exported && own.is_shadow)
                .map(|(offered, own)| {
                    let name = &self.members.clusters[own.cluster].name;
                    format!("the route of cluster {name} to {}", offered.net)
                })
                .collect();
            let objection = overlap(at, other, rule);
            objections.push(if lost.is_empty() {
                objection
            } else {
                objection.leaving_out(lost.join(" and "))
            });
        }
    }

    /// A route to a prefix takes the packets between tunnels' end points along that lie within it.
    fn over_nodes(&self, known: &Prefixes<Scope>, objections: &mut Vec<Objection>) {
        let is_alone = self.members.clusters.len() < 2;
        let mut met: BTreeMap<(usize, usize), First<(&Member, IpAddr)>> = BTreeMap::new();
        for (cluster, node, ip) in underlay(self.members) {
            let outside = known
                .covering(host(ip), Scope::Outside)
                .find(|(_, holder)| holder.owner != cluster || !is_alone);
            let inside = known
                .covering(host(ip), Scope::Inside)
                .find(|(_, holder)| holder.owner != cluster);
            if let Some((_, holder)) = outside.or(inside) {
                note(&mut met, (holder.item, cluster), (node, ip));
            }
        }
        for ((item, _), First { first, more }) in met {
            let claim = &self.claims[item];
            objections.push(over_node(claim.field(self.members), claim.net, first, more));
        }
    }

    /// A route to a prefix takes packets to overlay addresses along.
    fn over_pools(
        &self,
        known: &Prefixes<Scope>,
        pools: &Pools<'_>,
        objections: &mut Vec<Objection>,
    ) {
        let mut met = BTreeMap::new();
        for (item, claim) in self.claims.iter().enumerate() {
            for class in [PoolClass::Bridge, PoolClass::Local] {
                if let Some((_, holder)) = pools.known.covering(claim.net, class).next() {
                    note(&mut met, (claim.cluster, holder.item), item);
                }
            }
        }
        for (place, pool) in pools.all.iter().enumerate() {
            let wider = [Scope::Outside, Scope::Inside]
                .into_iter()
                .find_map(|scope| {
                    known
                        .covering(pool.net, scope)
                        .find(|(net, _)| *net != pool.net)
                });
            if let Some((_, holder)) = wider {
                note(&mut met, (holder.owner, place), holder.item);
            }
        }
        for ((_, place), First { first, more }) in met {
            let (claim, pool) = (&self.claims[first], &pools.all[place]);
            let rule = format!(
                "{} meets {}, the pool of the tunnels' own addresses on {}{}",
                claim.net,
                pool.net,
                pool.tunnel,
                and_more(more, "prefix of the cluster", "prefixes of the cluster"),
            );
            objections.push(overlap(claim.field(self.members), pool.field(), rule));
        }
    }
}

/// Every underlay address of every node with the place of its cluster, in the families that this links.
fn underlay<'p>(members: &Members<'p>) -> impl Iterator<Item = (usize, &'p Member, IpAddr)> {
    members.nodes.iter().flat_map(|&(place, node)| {
        let families = members.clusters[place].families;
        let address = |family| node.spec.address(family).parse::<IpAddr>().ok();
        families
            .iter()
            .filter_map(move |family| address(family).filter(|ip| Family::of(*ip) == family))
            .map(move |ip| (place, node, ip))
            .collect::<Vec<_>>()
    })
}

fn over_node(at: Field, net: IpNet, first: (&Member, IpAddr), more: usize) -> Objection {
    let (node, ip) = first;
    let path = format!("spec.{}", address_field(Family::of(ip)));
    let other = Field::new(Object::cluster_node(&node.name, &node.spec), &path);
    let rule = format!(
        "{net} contains the node address {ip} of {}{}",
        node.name,
        and_more(more, "node of its cluster", "nodes of its cluster")
    );
    overlap(at, other, rule)
}

/// What a prefix is to its own cluster.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Use {
    Global,
    NodePods,
    Pods,
    Services,
}

/// Within a cluster: pods and services are apart, nodes' blocks are apart, and a global name is the name of one thing.
fn within_cluster(members: &Members<'_>, own: &[Claim<'_>], objections: &mut Vec<Objection>) {
    let uses = |claim: &Claim<'_>| match claim.source {
        Source::Global(_) => Use::Global,
        Source::NodePods(..) => Use::NodePods,
        Source::Pods(_) => Use::Pods,
        Source::Services(_) => Use::Services,
    };
    let mut known = Prefixes::new();
    for (item, claim) in own.iter().enumerate() {
        let owner = match claim.source {
            Source::NodePods(node, _) => node,
            _ => item,
        };
        known.insert(claim.net, uses(claim), Holder { owner, item });
    }
    for (item, claim) in own.iter().enumerate() {
        let (others, owner): (&[Use], _) = match claim.source {
            Source::Global(_) => (
                &[Use::Global, Use::NodePods, Use::Pods, Use::Services],
                item,
            ),
            Source::NodePods(node, _) => (&[Use::NodePods, Use::Services, Use::Global], node),
            Source::Pods(_) => (&[Use::Services, Use::Global], item),
            Source::Services(_) => (&[Use::NodePods, Use::Pods, Use::Global], item),
        };
        let is_met = |found: &Claim<'_>| match (claim.source, found.source) {
            // A prefix that is called otherwise outside leaves its name to another one, but not to what it is itself called.
            (Source::Global(key), _) if found.scope == Scope::Inside => is_key(key, found.net),
            (_, Source::Global(key)) if claim.scope == Scope::Inside => is_key(key, claim.net),
            _ => true,
        };
        let cover = others.iter().find_map(|other| {
            known.covering(claim.net, *other).find(|(net, holder)| {
                let is_other =
                    holder.item != item && (*other != uses(claim) || holder.owner != owner);
                is_other && (*net != claim.net || holder.item < item) && is_met(&own[holder.item])
            })
        });
        if let Some((net, holder)) = cover {
            let rule = format!(
                "{} another prefix of its own cluster",
                relation(claim.net, net)
            );
            let other = own[holder.item].field(members);
            objections.push(overlap(claim.field(members), other, rule));
        }
    }
}

fn is_key(key: &str, net: IpNet) -> bool {
    key.parse::<IpNet>().is_ok_and(|key| key.trunc() == net)
}

/// Which tunnel a pool is for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum PoolClass {
    Bridge,
    Local,
}

struct Pool<'a> {
    cluster: &'a str,
    tunnel: Tunnel,
    net: IpNet,
}

impl Pool<'_> {
    fn field(&self) -> Field {
        Field::new(Object::cluster(self.cluster), pool_field(self.tunnel))
    }
}

/// The pools that tunnels take their addresses from; clusters that say the same count once, as the first of them.
struct Pools<'a> {
    all: Vec<Pool<'a>>,
    known: Prefixes<PoolClass>,
}

impl<'a> Pools<'a> {
    fn of(members: &Members<'a>) -> Self {
        let mut distinct = BTreeMap::new();
        for cluster in &members.clusters {
            for family in cluster.families.iter() {
                let local =
                    (!cluster.is_p2p()).then_some((PoolClass::Local, Tunnel::local(family)));
                let bridge = (PoolClass::Bridge, Tunnel::bridge(family));
                for (class, tunnel) in local.into_iter().chain([bridge]) {
                    if let Some(net) = cluster.pools.of_tunnel(tunnel) {
                        let net = net.trunc();
                        distinct.entry((class, net)).or_insert(Pool {
                            cluster: &cluster.name,
                            tunnel,
                            net,
                        });
                    }
                }
            }
        }
        let mut known = Prefixes::new();
        let mut all = Vec::new();
        for ((class, net), pool) in distinct {
            let item = all.len();
            known.insert(net, class, Holder { owner: item, item });
            all.push(pool);
        }
        Self { all, known }
    }

    /// A node that has both tunnels could not decide which one an address of both pools is on.
    fn among_themselves(&self, objections: &mut Vec<Objection>) {
        for pool in &self.all {
            let (class, is_bridge) = if pool.tunnel.is_bridge() {
                (PoolClass::Local, true)
            } else {
                (PoolClass::Bridge, false)
            };
            let cover = self
                .known
                .covering(pool.net, class)
                .find(|(net, _)| *net != pool.net || is_bridge);
            if let Some((net, holder)) = cover {
                let other = &self.all[holder.item];
                let rule = format!(
                    "{} the pool of {} of cluster {}",
                    relation(pool.net, net),
                    other.tunnel,
                    other.cluster
                );
                objections.push(overlap(pool.field(), other.field(), rule));
            }
        }
    }

    /// The route to a tunnel's own network takes the packets to nodes within it along.
    fn over_nodes(&self, members: &Members<'_>, objections: &mut Vec<Objection>) {
        let mut met: BTreeMap<(usize, usize), First<(&Member, IpAddr)>> = BTreeMap::new();
        for (cluster, node, ip) in underlay(members) {
            for class in [PoolClass::Bridge, PoolClass::Local] {
                if let Some((_, holder)) = self.known.covering(host(ip), class).next() {
                    note(&mut met, (holder.item, cluster), (node, ip));
                }
            }
        }
        for ((item, _), First { first, more }) in met {
            let pool = &self.all[item];
            objections.push(over_node(pool.field(), pool.net, first, more));
        }
    }
}
