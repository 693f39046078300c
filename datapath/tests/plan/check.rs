//! The objections of the planner: none to a fleet that is in order, whatever its shape, and to one injected defect exactly its own.

use std::collections::BTreeSet;
use std::net::IpAddr;

use datapath::api::{Cluster, ClusterLinkOptions, ClusterNode, Fleet, NetworkType};
use datapath::code::Code;
use datapath::plan::{Objection, Weight, check, seen};
use proptest::collection::vec;
use proptest::prelude::*;

/// A cluster's shape: its mode, its families, its number of nodes, whether it has services, whether its pods are mapped.
#[derive(Debug, Clone)]
struct Shape {
    mode: NetworkType,
    families: &'static str,
    nodes: u8,
    has_services: bool,
    is_mapped: bool,
}

fn shapes() -> impl Strategy<Value = Vec<Shape>> {
    let mode = prop_oneof![Just(NetworkType::Gateway), Just(NetworkType::P2p)];
    let families = prop_oneof![Just("ipv4"), Just("ipv6"), Just("all")];
    let shape = (mode, families, 1..6_u8, any::<bool>(), any::<bool>()).prop_map(
        |(mode, families, nodes, has_services, is_mapped)| Shape {
            is_mapped: is_mapped && mode == NetworkType::Gateway,
            mode,
            families,
            nodes,
            has_services,
        },
    );
    vec(shape, 2..8)
}

/// One prefix of each family that a cluster links.
fn prefixes(families: &str, v4: String, v6: String) -> Vec<String> {
    match families {
        "ipv4" => vec![v4],
        "ipv6" => vec![v6],
        _ => vec![v4, v6],
    }
}

fn fleet(shapes: &[Shape]) -> Fleet {
    let mut fleet = Fleet::default();
    for (number, shape) in (1_u8..).zip(shapes) {
        let name = format!("c{number}");
        let families = shape.families;
        let mut options = ClusterLinkOptions {
            network_type: shape.mode,
            ip_family: families.to_owned(),
            ..ClusterLinkOptions::default()
        };
        // A mapped cluster may use the prefix that all mapped clusters use.
        let inside = if shape.is_mapped { 99 } else { number };
        let pods = prefixes(
            families,
            format!("10.{inside}.0.0/16"),
            format!("fd10:{inside}::/48"),
        );
        if shape.is_mapped {
            let outside = prefixes(
                families,
                format!("10.{}.0.0/16", 100 + number),
                format!("fd10:{}::/48", 100 + number),
            );
            options.global_cidrs_map = pods.iter().cloned().zip(outside).collect();
        }
        let mut cluster = Cluster::default();
        cluster.metadata.name.clone_from(&name);
        cluster.metadata.uid = format!("uid-{number}");
        cluster.spec.cluster_link_options = Some(options);
        cluster.status.cluster_link_status.pod_cidrs = pods;
        if shape.has_services {
            cluster.status.cluster_link_status.service_cidrs = prefixes(
                families,
                format!("10.{}.0.0/16", 200 + number),
                format!("fd10:{}::/48", 200 + number),
            );
        }
        fleet.clusters.push(cluster);
        for host in 1..=shape.nodes {
            let mut node = ClusterNode::default();
            node.metadata.name = format!("{name}-n{host}");
            let spec = &mut node.spec;
            spec.cluster_name.clone_from(&name);
            spec.node_name = format!("n{host}");
            spec.interface_name = "eth0".to_owned();
            spec.pod_cidrs = prefixes(
                families,
                format!("10.{number}.{host}.0/24"),
                format!("fd10:{number}:0:{host}::/64"),
            );
            if families != "ipv6" {
                spec.ip = format!("172.20.{number}.{host}");
            }
            if families != "ipv4" {
                spec.ip6 = format!("fd20:{number}::{host}");
            }
            if host == 1 {
                spec.roles.push("gateway".to_owned());
            }
            fleet.cluster_nodes.push(node);
        }
    }
    fleet
}

/// What damages a fleet: the defect, its code, the path that is objected to. None where the fleet has no place for it.
type Defect = (&'static str, fn(&mut Fleet) -> Option<(Code, &'static str)>);

fn options(fleet: &mut Fleet, wanted: impl Fn(&ClusterLinkOptions) -> bool) -> Option<usize> {
    fleet.clusters.iter().position(|cluster| {
        let options = cluster.spec.cluster_link_options.as_ref();
        options.is_some_and(&wanted)
    })
}

fn is_p2p(options: &ClusterLinkOptions) -> bool {
    options.network_type == NetworkType::P2p
}

fn nodes_of(fleet: &mut Fleet, cluster: usize) -> impl Iterator<Item = &mut ClusterNode> {
    let name = fleet.clusters[cluster].metadata.name.clone();
    let nodes = fleet.cluster_nodes.iter_mut();
    nodes.filter(move |node| node.spec.cluster_name == name)
}

fn status(fleet: &mut Fleet, cluster: usize) -> &mut datapath::api::ClusterLinkStatus {
    &mut fleet.clusters[cluster].status.cluster_link_status
}

const DEFECTS: &[Defect] = &[
    ("a gateway cluster without gateway", |fleet| {
        let at = options(fleet, |options| !is_p2p(options))?;
        nodes_of(fleet, at).for_each(|node| node.spec.roles.clear());
        Some((
            Code::GatewayNotElected,
            "spec.clusterLinkOptions.networkType",
        ))
    }),
    ("a gateway cluster of no node", |fleet| {
        let at = options(fleet, |options| !is_p2p(options))?;
        let name = fleet.clusters[at].metadata.name.clone();
        fleet
            .cluster_nodes
            .retain(|node| node.spec.cluster_name != name);
        Some((
            Code::GatewayNotElected,
            "spec.clusterLinkOptions.networkType",
        ))
    }),
    ("a P2P node without pod prefixes", |fleet| {
        let at = options(fleet, is_p2p)?;
        nodes_of(fleet, at).next()?.spec.pod_cidrs.clear();
        Some((Code::ClusternodeIncomplete, "spec.podCIDRs"))
    }),
    ("a node without a link", |fleet| {
        // Of a gateway the paths of its whole cluster would be left out, too.
        let node = fleet
            .cluster_nodes
            .iter_mut()
            .find(|node| !node.spec.is_gateway())?;
        node.spec.interface_name.clear();
        Some((Code::ClusternodeIncomplete, "spec.interfaceName"))
    }),
    ("a node whose link was never detected", |fleet| {
        fleet.cluster_nodes[0].spec.interface_name = "*".to_owned();
        Some((Code::ClusternodeIncomplete, "spec.interfaceName"))
    }),
    ("a node without address", |fleet| {
        let node = fleet
            .cluster_nodes
            .iter_mut()
            .find(|node| !node.spec.is_gateway())?;
        let path = if node.spec.ip.is_empty() {
            "spec.ip6"
        } else {
            "spec.ip"
        };
        node.spec.ip.clear();
        node.spec.ip6.clear();
        Some((Code::ClusternodeIncomplete, path))
    }),
    ("a node whose address is none", |fleet| {
        let mut nodes = fleet.cluster_nodes.iter_mut();
        let node = nodes.find(|node| !node.spec.is_gateway() && !node.spec.ip.is_empty())?;
        node.spec.ip = "172.20.1".to_owned();
        Some((Code::ClusternodeIncomplete, "spec.ip"))
    }),
    ("a family that one node lacks", |fleet| {
        let at = options(fleet, |options| options.ip_family == "all")?;
        nodes_of(fleet, at)
            .find(|node| !node.spec.is_gateway())?
            .spec
            .ip6
            .clear();
        Some((Code::FamilyMissing, "spec.ip6"))
    }),
    ("a family that all nodes lack", |fleet| {
        let at = options(fleet, |options| {
            options.ip_family == "all" && !is_p2p(options)
        })?;
        nodes_of(fleet, at).for_each(|node| node.spec.ip6.clear());
        Some((Code::FamilyMissing, "spec.clusterLinkOptions.ipFamily"))
    }),
    ("two clusters of one pod prefix", |fleet| {
        let taken = status(fleet, 0).service_cidrs.first()?.clone();
        let family = if taken.contains(':') { "ipv6" } else { "ipv4" };
        let at = fleet.clusters.iter().skip(1).position(|cluster| {
            let options = cluster.spec.cluster_link_options.as_ref();
            options.is_some_and(|options| options.ip_family == family)
                && !cluster.status.cluster_link_status.service_cidrs.is_empty()
        })? + 1;
        status(fleet, at).service_cidrs = vec![taken];
        Some((
            Code::CidrOverlap,
            "status.clusterLinkStatus.serviceCIDRs[0]",
        ))
    }),
    ("services within another cluster's services", |fleet| {
        let wide = status(fleet, 0).service_cidrs.first()?.clone();
        let narrow = if wide.contains(':') {
            "fd10:201:0:7::/64"
        } else {
            "10.201.7.0/24"
        };
        let family = if wide.contains(':') { "ipv6" } else { "ipv4" };
        let at = fleet.clusters.iter().skip(1).position(|cluster| {
            let options = cluster.spec.cluster_link_options.as_ref();
            options.is_some_and(|options| options.ip_family == family)
                && !cluster.status.cluster_link_status.service_cidrs.is_empty()
        })? + 1;
        status(fleet, at).service_cidrs = vec![narrow.to_owned()];
        Some((
            Code::CidrOverlap,
            "status.clusterLinkStatus.serviceCIDRs[0]",
        ))
    }),
    ("services over another cluster's node", |fleet| {
        let at = options(fleet, |options| options.ip_family != "ipv6")?;
        let other = fleet.cluster_nodes.iter().rposition(|node| {
            !node.spec.ip.is_empty() && node.spec.cluster_name != fleet.clusters[at].metadata.name
        })?;
        let ip = fleet.cluster_nodes[other].spec.ip.clone();
        let services = &mut status(fleet, at).service_cidrs;
        services.first()?;
        services[0] = format!("{ip}/32");
        Some((
            Code::CidrOverlap,
            "status.clusterLinkStatus.serviceCIDRs[0]",
        ))
    }),
    ("services in the tunnels' pool", |fleet| {
        let at = options(fleet, |options| options.ip_family != "ipv6")?;
        let pool = fleet.clusters[at].spec.cluster_link_options.as_ref()?;
        let pool = pool.bridge_cidrs.ip.parse::<ipnet::IpNet>().ok()?;
        let services = &mut status(fleet, at).service_cidrs;
        services.first()?;
        services[0] = format!("{}/24", pool.network());
        Some((
            Code::CidrOverlap,
            "status.clusterLinkStatus.serviceCIDRs[0]",
        ))
    }),
    ("a prefix that is none", |fleet| {
        let at = options(fleet, |options| options.ip_family == "ipv4")?;
        let services = &mut status(fleet, at).service_cidrs;
        services.first()?;
        services[0] = "10.300.0.0/16".to_owned();
        Some((
            Code::ObjectInvalid,
            "status.clusterLinkStatus.serviceCIDRs[0]",
        ))
    }),
    ("a pool that is none", |fleet| {
        let at = options(fleet, |options| options.ip_family == "ipv4")?;
        let options = fleet.clusters[at].spec.cluster_link_options.as_mut()?;
        options.bridge_cidrs.ip = "220.0.0.0".to_owned();
        Some((
            Code::ObjectInvalid,
            "spec.clusterLinkOptions.bridgeCIDRs.ip",
        ))
    }),
    ("a map between prefixes of two lengths", |fleet| {
        let at = options(fleet, |options| {
            options
                .global_cidrs_map
                .values()
                .any(|name| name.ends_with("/16"))
        })?;
        let options = fleet.clusters[at].spec.cluster_link_options.as_mut()?;
        let mut names = options.global_cidrs_map.values_mut();
        let name = names.find(|name| name.ends_with("/16"))?;
        *name = name.replace("/16", "/17");
        Some((
            Code::ObjectInvalid,
            "spec.clusterLinkOptions.globalCIDRsMap[",
        ))
    }),
    ("a node of a cluster that nobody knows", |fleet| {
        let mut node = fleet.cluster_nodes.last()?.clone();
        node.metadata.name = "ghost-n1".to_owned();
        node.spec.cluster_name = "ghost".to_owned();
        fleet.cluster_nodes.push(node);
        Some((Code::IntentStale, "spec.clusterName"))
    }),
    ("two gateways", |fleet| {
        let mut nodes = fleet.cluster_nodes.iter_mut();
        let node = nodes.find(|node| !node.spec.is_gateway())?;
        node.spec.roles.push("gateway".to_owned());
        Some((Code::FailoverIncomplete, "spec.roles"))
    }),
    ("two nodes of one address", |fleet| {
        let ip = fleet
            .cluster_nodes
            .iter()
            .find(|node| node.spec.is_gateway())?;
        let (ip, name) = (ip.spec.ip.clone(), ip.spec.cluster_name.clone());
        let mut nodes = fleet.cluster_nodes.iter_mut();
        let node = nodes.find(|node| {
            node.spec.is_gateway() && !node.spec.ip.is_empty() && node.spec.cluster_name != name
        })?;
        if ip.is_empty() {
            return None;
        }
        node.spec.ip = ip;
        Some((Code::VtepIpDuplicate, "spec.ip"))
    }),
];

fn codes(objections: &[Objection]) -> BTreeSet<(Code, &str)> {
    let places = objections.iter();
    places
        .map(|objection| (objection.code, objection.at.path.as_str()))
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn a_fleet_in_order_is_objected_to_in_nothing(shapes in shapes()) {
        let fleet = fleet(&shapes);
        prop_assert_eq!(check(&fleet), Vec::new());
        let observed: seen::Observed = fleet.cluster_nodes.iter().map(seen).collect();
        prop_assert_eq!(seen::check(&fleet, &observed), Vec::new());
    }

    #[test]
    fn one_defect_is_objected_to_by_its_own_code_and_field_alone(
        shapes in shapes(),
        defect in 0..DEFECTS.len(),
    ) {
        let mut fleet = fleet(&shapes);
        let (name, damage) = DEFECTS[defect];
        let Some((code, path)) = damage(&mut fleet) else {
            return Ok(());
        };
        let objections = check(&fleet);
        let found = codes(&objections);
        prop_assert!(!found.is_empty(), "{}: nothing", name);
        for (found, at) in found {
            prop_assert!(found == code && at.starts_with(path), "{}: {:#?}", name, objections);
        }
    }

    #[test]
    fn a_link_that_a_node_lacks_is_objected_to_and_a_node_that_nobody_saw_is_not(
        shapes in shapes(),
        damaged in any::<proptest::sample::Index>(),
    ) {
        let mut fleet = fleet(&shapes);
        let damaged = damaged.index(fleet.cluster_nodes.len());
        fleet.cluster_nodes[damaged].spec.interface_name = "bond7".to_owned();
        let name = fleet.cluster_nodes[damaged].metadata.name.clone();
        let mut observed: seen::Observed = fleet.cluster_nodes.iter().map(seen).collect();
        let objections = seen::check(&fleet, &observed);
        prop_assert_eq!(objections.len(), 1);
        prop_assert_eq!(objections[0].code, Code::LinkUnknown);
        prop_assert_eq!(objections[0].weight, Weight::Fault);
        prop_assert_eq!(objections[0].at.object.name.as_str(), name.as_str());
        observed.remove(&name);
        prop_assert_eq!(seen::check(&fleet, &observed), Vec::new());
    }

    /// An address that the node does not have is objected to where its cluster reports another one that it has; a node that has lost the
    /// one that both say is no fault of the object.
    #[test]
    fn an_address_that_is_another_s_is_objected_to_by_its_field(
        shapes in shapes(),
        damaged in any::<proptest::sample::Index>(),
        is_lost in any::<bool>(),
    ) {
        let mut fleet = fleet(&shapes);
        let mut observed: seen::Observed = fleet.cluster_nodes.iter().map(seen).collect();
        let damaged = damaged.index(fleet.cluster_nodes.len());
        let node = &mut fleet.cluster_nodes[damaged];
        let (field, wrong) = if node.spec.ip.is_empty() {
            (&mut node.spec.ip6, "fd64::dead")
        } else {
            (&mut node.spec.ip, "100.127.1.1")
        };
        let path = if wrong.contains(':') { "spec.ip6" } else { "spec.ip" };
        *field = wrong.to_owned();
        let name = node.metadata.name.clone();
        if is_lost {
            observed.get_mut(&name).expect("the node").reported.clear();
        }
        let objections = seen::check(&fleet, &observed);
        let found: Vec<(Code, &str)> = objections
            .iter()
            .map(|objection| (objection.code, objection.at.path.as_str()))
            .collect();
        let expected = if is_lost { vec![] } else { vec![(Code::IntentStale, path)] };
        prop_assert_eq!(found, expected, "{:#?}", objections);
    }

    #[test]
    fn prefixes_that_do_not_hold_the_pods_are_objected_to_once_an_object(
        shapes in shapes(),
        damaged in any::<proptest::sample::Index>(),
    ) {
        let fleet = fleet(&shapes);
        let mut observed: seen::Observed = fleet.cluster_nodes.iter().map(seen).collect();
        let node = &fleet.cluster_nodes[damaged.index(fleet.cluster_nodes.len())];
        let cluster = &node.spec.cluster_name;
        for other in fleet.cluster_nodes.iter().filter(|other| other.spec.cluster_name == *cluster) {
            let seen = observed.get_mut(&other.metadata.name).expect("the node");
            let is_v4 = !other.spec.ip.is_empty();
            let pod = if is_v4 { "198.51.100.7" } else { "2001:db8::7" };
            seen.pods = BTreeSet::from([pod.parse().expect("an address")]);
        }
        let objections = seen::check(&fleet, &observed);
        let paths: BTreeSet<String> = objections
            .iter()
            .map(|objection| objection.at.to_string())
            .collect();
        prop_assert_eq!(paths.len(), objections.len(), "{:#?}", objections);
        prop_assert!(!objections.is_empty());
        let is_of_prefixes = |objection: &Objection| {
            objection.code == Code::IntentStale && objection.at.path.ends_with("podCIDRs")
        };
        prop_assert!(objections.iter().all(is_of_prefixes), "{:#?}", objections);
    }
}

/// A node that is as its ClusterNode says, without pods.
fn seen(node: &ClusterNode) -> (String, seen::Node) {
    let spec = &node.spec;
    let addresses: BTreeSet<IpAddr> = [&spec.ip, &spec.ip6]
        .into_iter()
        .filter_map(|ip| ip.parse().ok())
        .collect();
    let seen = seen::Node {
        links: BTreeSet::from(["lo", "eth0"].map(str::to_owned)),
        reported: addresses.clone(),
        addresses,
        pods: BTreeSet::new(),
    };
    (node.metadata.name.clone(), seen)
}

/// Every defect has been tried: the shapes above have a place for each.
#[test]
fn every_defect_has_a_fleet_that_can_have_it() {
    let shape = |mode, families, is_mapped| Shape {
        mode,
        families,
        nodes: 3,
        has_services: true,
        is_mapped,
    };
    let shapes = [
        shape(NetworkType::Gateway, "ipv4", true),
        shape(NetworkType::Gateway, "all", false),
        shape(NetworkType::P2p, "ipv4", false),
        shape(NetworkType::Gateway, "ipv4", false),
    ];
    for (name, damage) in DEFECTS {
        let mut fleet = fleet(&shapes);
        assert!(damage(&mut fleet).is_some(), "{name}");
        assert_ne!(check(&fleet), Vec::new(), "{name}");
    }
}
