//! Who takes part in a fleet, and as what.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::bundle::Bundle;
use super::family::{FAMILIES, Families, PerFamily};
use super::hops::Hops;
use super::nat::Translations;
use super::objection::{Field, Object, Objection};
use super::shadow::Shadow;
use super::{nat, nodes, overlay};
use crate::api::{Cluster, ClusterLinkOptions, ClusterNodeSpec, GATEWAYS, NetworkType};
use crate::code::Code;
use crate::mac::Mac;
use crate::state::Family;
use crate::tunnel::Tunnel;

/// What the planner reads of a Cluster.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ClusterObject {
    pub(super) uid: String,
    /// None where the cluster takes no part.
    options: Option<Arc<ClusterLinkOptions>>,
    pub(super) pod_cidrs: Vec<String>,
    pub(super) service_cidrs: Vec<String>,
    /// How many gateways are asked for, as it is written; none where nobody asks.
    gateways: Option<String>,
}

impl ClusterObject {
    pub(super) fn of(cluster: &Cluster) -> Self {
        let status = &cluster.status.cluster_link_status;
        Self {
            uid: cluster.metadata.uid.clone(),
            options: cluster.part().map(|options| Arc::new(options.clone())),
            pod_cidrs: status.pod_cidrs.clone(),
            service_cidrs: status.service_cidrs.clone(),
            gateways: cluster.metadata.annotations.get(GATEWAYS).cloned(),
        }
    }
}

/// A cluster that takes part, with its nodes.
#[derive(Debug)]
pub(super) struct MemberCluster {
    pub(super) name: Arc<str>,
    pub(super) object: Arc<ClusterObject>,
    pub(super) options: Arc<ClusterLinkOptions>,
    pub(super) families: Families,
    /// The pools of its tunnels' addresses.
    pub(super) pools: overlay::Pools,
    /// The places of its gateways in `nodes`, in P2P clusters too; one, unless its Cluster asks for more.
    gateways: Vec<usize>,
    /// The place of the node that stands in for the gateway; none where there is no gateway, and where several stand in for each other.
    standby: Option<usize>,
    /// The nodes that take part, by name.
    pub(super) nodes: Vec<Member>,
    /// The prefixes to which its nodes take no routes.
    pub(super) shadow: Arc<Shadow>,
    pub(super) translations: Translations,
    pub(super) bundle: Arc<Bundle>,
    /// What its own objects lack, whoever else is in the fleet.
    pub(super) objections: Vec<Objection>,
}

/// A node that takes part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Member {
    /// Its ClusterNode's name.
    pub(super) name: Arc<str>,
    pub(super) class: Class,
    pub(super) spec: Arc<ClusterNodeSpec>,
    pub(super) local: Ends,
    pub(super) bridge: Ends,
}

/// What a node is to the rest of the fleet.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Class {
    /// A node of a P2P cluster that is not its gateway.
    Endpoint,
    /// The elected node of a cluster of either mode.
    Gateway,
    /// A node of a gateway-mode cluster that is neither its gateway nor the standby.
    Internal,
    /// The node of a gateway-mode cluster that holds what its gateway holds, and takes its place while that is dead. Until then its routes lead
    /// through the gateway, as an internal node's do: a flow has one path, and whoever tracks connections sees both directions of it.
    Standby,
}

/// A tunnel end point of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct End {
    pub(super) tunnel: Tunnel,
    /// The overlay address with its pool's length.
    pub(super) net: IpNet,
    pub(super) mac: Mac,
    pub(super) underlay: IpAddr,
    /// The underlay address as the ClusterNode writes it, where that is not how `underlay` is written.
    text: Option<Box<str>>,
}

impl End {
    pub(super) fn ip(&self) -> IpAddr {
        self.net.addr()
    }

    /// The underlay address as the ClusterNode writes it.
    pub(super) fn underlay_text(&self) -> String {
        self.text
            .as_ref()
            .map_or_else(|| self.underlay.to_string(), |text| text.to_string())
    }
}

/// The tunnel end points of a node between clusters, or within its cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Ends(PerFamily<Option<End>>);

impl Ends {
    pub(super) fn get(&self, family: Family) -> Option<&End> {
        self.0.get(family).as_ref()
    }

    /// Those that there are, IPv4 first.
    pub(super) fn ends(&self) -> impl Iterator<Item = &End> {
        FAMILIES.into_iter().filter_map(|family| self.get(family))
    }
}

/// A ClusterNode before anybody knows whether it takes part.
pub(super) type Named<'p> = (&'p Arc<str>, &'p Arc<ClusterNodeSpec>);

/// The MACs that an earlier plan lends to a node, by (node, tunnel).
pub(super) type Lender<'p> = &'p dyn Fn(&str, Tunnel) -> Option<Mac>;

impl MemberCluster {
    /// Reads a cluster with the ClusterNodes that name it, in the order of their names; none where it takes no part.
    pub(super) fn of<'p>(
        name: &Arc<str>,
        object: &Arc<ClusterObject>,
        named: &[Named<'p>],
        lent: Lender<'_>,
    ) -> Option<Self> {
        let options = object.options.clone()?;
        let mut objections = Vec::new();
        let families = Families::of(&options.ip_family);
        if families.is_empty() {
            objections.push(
                Objection::new(
                    Code::ObjectInvalid,
                    Field::new(Object::cluster(name), "spec.clusterLinkOptions.ipFamily"),
                    format!("`{}` is none of all, ipv4, ipv6", options.ip_family),
                )
                .leaving_out("every tunnel and prefix of the cluster"),
            );
        }
        let pools = overlay::Pools::of(name, &options, families, &mut objections);
        let own = object.pod_cidrs.iter().chain(&object.service_cidrs);
        let mut cluster = Self {
            name: name.clone(),
            object: object.clone(),
            families,
            pools,
            gateways: Vec::new(),
            standby: None,
            nodes: Vec::new(),
            // An unreadable prefix of its own shadows nothing.
            shadow: Arc::new(Shadow::of(own.filter_map(|cidr| cidr.parse().ok()))),
            translations: Translations::default(),
            bundle: Arc::default(),
            objections: Vec::new(),
            options,
        };
        let found = nodes::taking_part(&cluster, named, &mut objections);
        let most = cluster.most_gateways(&mut objections);
        cluster.gateways = first_with(
            ClusterNodeSpec::is_gateway,
            ("gateway", most),
            None,
            &found,
            &mut objections,
        );
        if let [gateway] = *cluster.gateways.as_slice() {
            let standby = first_with(
                ClusterNodeSpec::is_standby,
                ("standby", 1),
                Some(gateway),
                &found,
                &mut objections,
            );
            cluster.standby = standby.first().copied();
        }
        cluster.nodes = (0..)
            .zip(&found)
            .map(|(place, node)| cluster.member(place, *node, lent))
            .collect();
        cluster.translations = nat::of_cluster(&cluster, &mut objections);
        cluster.bundle = Arc::new(Bundle::of(&cluster));
        cluster.objections = objections;
        Some(cluster)
    }

    fn member(&self, place: usize, (name, spec): Named<'_>, lent: Lender<'_>) -> Member {
        let class = if self.gateways.contains(&place) {
            Class::Gateway
        } else if self.is_p2p() {
            Class::Endpoint
        } else if self.standby == Some(place) {
            Class::Standby
        } else {
            Class::Internal
        };
        let end = |wanted: bool, tunnel: Tunnel| {
            let family = tunnel.family();
            if !wanted || !self.families.has(family) {
                return None;
            }
            let pool = self.pools.of_tunnel(tunnel)?;
            // An address that cannot be used was objected to with the node.
            let text = spec.address(family);
            let underlay = text.parse().ok()?;
            let words = [&*self.name, &spec.node_name, tunnel.name()];
            Some(End {
                tunnel,
                net: overlay::address(pool, underlay)?,
                mac: lent(name, tunnel).unwrap_or_else(|| Mac::derived(&words)),
                text: (underlay.to_string() != text).then(|| text.into()),
                underlay,
            })
        };
        Member {
            name: name.clone(),
            class,
            spec: spec.clone(),
            local: Ends(PerFamily::of(|family| {
                end(!self.is_p2p(), Tunnel::local(family))
            })),
            bridge: Ends(PerFamily::of(|family| {
                end(class != Class::Internal, Tunnel::bridge(family))
            })),
        }
    }

    pub(super) fn is_p2p(&self) -> bool {
        self.options.network_type == NetworkType::P2p
    }

    /// The elected node, the first by name of several.
    pub(super) fn gateway(&self) -> Option<&Member> {
        self.gateways().next()
    }

    /// The elected nodes, by name.
    pub(super) fn gateways(&self) -> impl Iterator<Item = &Member> {
        let places = self.gateways.iter();
        places.filter_map(|place| self.nodes.get(*place))
    }

    /// The gateways' ends of the tunnel within the cluster.
    pub(super) fn own_gateways(&self, family: Family) -> Option<Hops> {
        let ends = self.gateways().filter_map(|node| node.local.get(family));
        Hops::of(ends.map(End::ip))
    }

    /// How many gateways the cluster may have at once. Translations are made for the connections that a gateway has seen both directions of, and
    /// of translated ones the two directions have nothing in common that could be hashed: with these there is one.
    fn most_gateways(&self, objections: &mut Vec<Objection>) -> usize {
        let Some(text) = &self.object.gateways else {
            return 1;
        };
        let key = format!("metadata.annotations[{GATEWAYS}]");
        let at = || Field::new(Object::cluster(&self.name), &key);
        let most = Some(text).and_then(|text| text.parse().ok());
        let Some(most) = most.filter(|most| (1..=Hops::MOST).contains(most)) else {
            let rule = format!("`{text}` is not a number from 1 to {}", Hops::MOST);
            let objection = Objection::new(Code::ObjectInvalid, at(), rule);
            objections.push(objection.warning().leaving_out("it: there is one gateway"));
            return 1;
        };
        if most > 1 && !self.options.global_cidrs_map.is_empty() {
            let rule = format!("{most} gateways do not go with a globalCIDRsMap");
            let objection = Objection::new(Code::ObjectInvalid, at(), rule);
            objections.push(objection.warning().leaving_out("it: there is one gateway"));
            return 1;
        }
        most
    }

    /// The node that stands in for the elected one.
    pub(super) fn standby(&self) -> Option<&Member> {
        self.nodes.get(self.standby?)
    }

    /// The nodes with which a node shares the tunnels within the cluster: gateways and standby with all, all others with these.
    pub(super) fn local_peers<'s>(&'s self, node: &Member) -> impl Iterator<Item = &'s Member> {
        let is_central = |class| matches!(class, Class::Gateway | Class::Standby);
        let (class, name) = (node.class, node.name.clone());
        let are_peers = move |peer: Class| {
            is_central(class) && peer != Class::Endpoint
                || class == Class::Internal && is_central(peer)
        };
        let nodes = self.nodes.iter();
        nodes.filter(move |peer| are_peers(peer.class) && peer.name != name)
    }

    /// What a prefix of this cluster is called outside of it; the map's keys are compared as text.
    pub(super) fn global_name<'s>(&'s self, cidr: &'s str) -> &'s str {
        self.options
            .global_cidrs_map
            .get(cidr)
            .map_or(cidr, String::as_str)
    }
}

/// The places of the first nodes with a role, at most so many, `but` that of a node with another one.
fn first_with(
    has_role: impl Fn(&ClusterNodeSpec) -> bool,
    (role, most): (&str, usize),
    but: Option<usize>,
    found: &[Named<'_>],
    objections: &mut Vec<Objection>,
) -> Vec<usize> {
    let mut first = Vec::new();
    for (place, (name, spec)) in found.iter().enumerate() {
        if !has_role(spec) || but == Some(place) {
            continue;
        }
        if first.len() < most {
            first.push(place);
            continue;
        }
        objections.push(
            Objection::new(
                Code::FailoverIncomplete,
                Field::new(Object::cluster_node(name, spec), "spec.roles"),
                format!("has the {role} role beside another node of its cluster that comes first by name"),
            )
            .warning()
            .leaving_out("its role"),
        );
    }
    first
}

impl Member {
    /// Whether this node is part of the global vx-bridge mesh.
    pub(super) fn is_in_mesh(&self) -> bool {
        matches!(
            self.class,
            Class::Endpoint | Class::Gateway | Class::Standby
        )
    }

    /// Its tunnel end points: of each family the one within the cluster first.
    pub(super) fn ends(&self) -> impl Iterator<Item = &End> {
        FAMILIES
            .into_iter()
            .flat_map(|family| [self.local.get(family), self.bridge.get(family)])
            .flatten()
    }
}

/// All that take part, for questions about the fleet as a whole.
pub(super) struct Members<'p> {
    /// By name.
    pub(super) clusters: Vec<&'p MemberCluster>,
    /// By name, each with the place of its cluster in `clusters`.
    pub(super) nodes: Vec<(usize, &'p Member)>,
}

impl<'p> Members<'p> {
    pub(super) fn of(clusters: impl Iterator<Item = &'p MemberCluster>) -> Self {
        let clusters: Vec<_> = clusters.collect();
        let places = clusters.iter().enumerate();
        let mut nodes: Vec<_> = places
            .flat_map(|(place, cluster)| cluster.nodes.iter().map(move |node| (place, node)))
            .collect();
        nodes.sort_by(|left, right| left.1.name.cmp(&right.1.name));
        Self { clusters, nodes }
    }
}
