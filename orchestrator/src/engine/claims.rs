//! What clusters claim to be, checked against each other: no claim takes the place or the name of a cluster that makes the same.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use datapath::api::{CLUSTER_UID, Cluster, Fleet, ROLE_LABEL};
use datapath::code::Code;
use datapath::printable::Printable;

use super::Known;
use super::messages::Node;
use crate::evidence::InventoryNote;
use crate::kubeconfig::Identity;

/// How many members that cannot be asked are reported one by one.
pub(crate) const UNREACHED: usize = 256;

/// The clusters of a run after entries of one cluster have been taken together.
#[derive(Debug, Default)]
pub(super) struct Distinct {
    /// Those that are kept, in their order.
    pub(super) kept: Vec<usize>,
    /// Claims that are not believed.
    pub(super) notes: Vec<InventoryNote>,
    /// What somebody should know.
    pub(super) warnings: Vec<String>,
}

/// Entries that reach the same cluster are one, the first of them, with a warning. Entries that only say so - the same
/// kube-system uid, and not the same nodes behind the same server - are as many clusters, and a note.
pub(super) fn distinct(clusters: &[Known], order: &[usize]) -> Distinct {
    let mut found = Distinct::default();
    let mut by_id: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for &at in order {
        let cluster = &clusters[at];
        if let Some(looked) = cluster.open() {
            let warnings = looked.warnings.iter();
            let warnings = warnings.map(|warning| format!("{}: {warning}", cluster.name));
            found.warnings.extend(warnings);
            let others = by_id.entry(&looked.id).or_default();
            let same = others
                .iter()
                .find(|&&other| is_same(cluster, &clusters[other]));
            if let Some(&other) = same {
                let other = &clusters[other].name;
                found.warnings.push(format!(
                    "{other} and {} reach the same cluster; it is taken once, as {other}",
                    cluster.name
                ));
                continue;
            }
            others.push(at);
        }
        found.kept.push(at);
    }
    let claimed = by_id.into_iter().filter(|(_, places)| places.len() > 1);
    found.notes = claimed
        .map(|(id, places)| {
            let clusters = sorted(clusters, &places);
            let text = format!(
                "{} report the same cluster id {id} and are not the same cluster: one is a copy of another, or pretends to be it",
                listed(&clusters)
            );
            InventoryNote {
                code: Code::ClusterIdDuplicate,
                text: Printable::new(&text),
                clusters,
            }
        })
        .collect();
    found
}

fn sorted(clusters: &[Known], places: &[usize]) -> Vec<String> {
    let mut names: Vec<String> = places.iter().map(|&at| clusters[at].name.clone()).collect();
    names.sort();
    names
}

/// Whether two entries of one uid are one cluster: the same server, or servers of the same authority, and the same nodes.
fn is_same(a: &Known, b: &Known) -> bool {
    let nodes = |cluster: &Known| {
        let nodes = cluster.open().map_or(&[][..], |looked| &looked.nodes);
        nodes
            .iter()
            .map(|node| node.uid.clone())
            .collect::<BTreeSet<String>>()
    };
    let (agrees, same_url) = match (&a.target.identity, &b.target.identity) {
        (Some(a), Some(b)) => (a.agrees(b), a.is_same_url(b)),
        // Clients that were made elsewhere say nothing about their servers.
        _ => (true, false),
    };
    // A server that answers for the same URL is the same whatever happened to its nodes in between.
    agrees && (same_url || nodes(a) == nodes(b))
}

/// Whose objects are the fleet's intent: those of the cluster that is named (`--control-plane`), else of the only one
/// that has any. Where several do, none is believed.
///
/// # Errors
/// Where the cluster that is named is none of these, the rule.
pub(super) fn holder(
    clusters: &[Known],
    open: &[usize],
    wanted: Option<&str>,
) -> Result<(Option<usize>, Option<InventoryNote>), String> {
    if let Some(wanted) = wanted {
        let named = open.iter().find(|&&at| clusters[at].name == wanted);
        return named.map(|&at| (Some(at), None)).ok_or_else(|| {
            format!(
                "--control-plane {}: no cluster of that context can be reached",
                Printable::new(wanted)
            )
        });
    }
    let claims = |at: &usize| {
        clusters[*at]
            .open()
            .is_some_and(|looked| !looked.members.is_empty())
    };
    let claiming: Vec<usize> = open.iter().copied().filter(claims).collect();
    if let [only] = claiming[..] {
        return Ok((Some(only), None));
    }
    let note = (claiming.len() > 1).then(|| {
        let clusters = sorted(clusters, &claiming);
        let text = format!(
            "{} hold objects of clusters.kosmos.io, so that each claims to be the control plane: none is believed until --control-plane names one",
            listed(&clusters)
        );
        InventoryNote {
            code: Code::ControlPlaneAmbiguous,
            text: Printable::new(&text),
            clusters,
        }
    });
    Ok((None, note))
}

/// Whether an object stands for the control plane's own cluster.
pub(super) fn is_root(cluster: &Cluster) -> bool {
    [&cluster.metadata.labels, &cluster.metadata.annotations]
        .into_iter()
        .any(|marks| marks.get(ROLE_LABEL).is_some_and(|role| role == "root"))
}

/// The first names of a list, for a sentence.
fn listed(names: &[String]) -> String {
    const SHOWN: usize = 5;
    let shown = names.iter().take(SHOWN).map(String::as_str);
    let mut text = shown.collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN {
        text += &format!(" and {} more", names.len() - SHOWN);
    }
    text
}

/// The names of the fleet's members.
pub(super) fn members(fleet: &Fleet) -> BTreeSet<&str> {
    let names = fleet.clusters.iter();
    names
        .map(|cluster| cluster.metadata.name.as_str())
        .collect()
}

/// The member that a cluster of a uid and a name is: the one that was joined with the uid. Where a member says nothing of one, or the
/// cluster does not answer, its name decides.
pub(super) fn joined_as<'f>(fleet: &'f Fleet, id: Option<&str>, name: &str) -> Option<&'f str> {
    let uid = |cluster: &'f Cluster| cluster.metadata.annotations.get(CLUSTER_UID);
    let mut clusters = fleet.clusters.iter();
    let by_uid = clusters.find(|cluster| {
        let uid = uid(cluster).map(String::as_str);
        id.is_some() && uid == id
    });
    let mut clusters = fleet.clusters.iter();
    let by_name = || {
        clusters.find(|cluster| {
            cluster.metadata.name == name && (id.is_none() || uid(cluster).is_none())
        })
    };
    let found = by_uid.or_else(by_name)?;
    Some(&found.metadata.name)
}

/// Which clusters have nodes of the names and addresses of a member that none of them is called as: by member, their positions.
pub(super) fn claims(
    clusters: &[Known],
    open: &[usize],
    fleet: &Fleet,
) -> BTreeMap<String, Vec<usize>> {
    let members = members(fleet);
    let by_node = MembersByNode::new(fleet);
    let mut claims: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for &at in open {
        let cluster = &clusters[at];
        if !members.contains(cluster.name.as_str())
            && let Some(member) = by_node.of(cluster)
        {
            claims.entry(member).or_default().push(at);
        }
    }
    claims
}

/// Gives every cluster the name of the member that it is; what somebody should know of it. A context that is called as a member is that
/// member: the operator says so. Another one is it where the member's own kubeconfig names the same server, or where it alone has
/// nodes of the member's names and addresses, which anybody can claim to have.
pub(super) fn rename(
    clusters: &mut [Known],
    kept: &[usize],
    claims: BTreeMap<String, Vec<usize>>,
    fleet: &Fleet,
    named: &BTreeMap<String, Identity>,
) -> Vec<String> {
    let members = members(fleet);
    let names = kept.iter().map(|&at| clusters[at].name.as_str());
    let taken: BTreeSet<String> = names
        .filter(|name| members.contains(name))
        .map(str::to_owned)
        .collect();
    let mut warnings = Vec::new();
    for (member, places) in claims {
        let is_proven = |at: &usize| {
            let own = clusters[*at].target.identity.as_ref();
            own.zip(named.get(&member))
                .is_some_and(|(own, named)| own.agrees(named))
        };
        let proven: Vec<usize> = places.iter().copied().filter(is_proven).collect();
        match (taken.contains(&member), &proven[..], &places[..]) {
            (false, [only], _) | (false, [], [only]) => clusters[*only].name.clone_from(&member),
            _ => warnings.extend(places.iter().map(|&at| {
                format!(
                    "{} has nodes of the names and addresses of {member}, and so has another cluster: it is not taken for {member}",
                    clusters[at].name
                )
            })),
        }
    }
    warnings
}

/// The members that have a node of a name and an address.
struct MembersByNode<'f>(BTreeMap<(&'f str, IpAddr), BTreeSet<&'f str>>);

impl<'f> MembersByNode<'f> {
    fn new(fleet: &'f Fleet) -> Self {
        let mut by_node: BTreeMap<(&str, IpAddr), BTreeSet<&str>> = BTreeMap::new();
        for node in &fleet.cluster_nodes {
            let ips = [&node.spec.ip, &node.spec.ip6].into_iter();
            for ip in ips.filter_map(|ip| ip.parse().ok()) {
                let members = by_node.entry((&node.spec.node_name, ip)).or_default();
                members.insert(&node.spec.cluster_name);
            }
        }
        Self(by_node)
    }

    /// The only member whose nodes have names and addresses of this cluster's, by its API and, where its floaters have been asked already,
    /// by its kernels: the datapath may use other addresses than Kubernetes does.
    fn of(&self, cluster: &Known) -> Option<String> {
        let mut found: BTreeSet<&str> = BTreeSet::new();
        for node in &cluster.open()?.nodes {
            let ips = node
                .ips
                .iter()
                .copied()
                .chain(kernel_addresses(cluster, node));
            for ip in ips {
                found.extend(self.0.get(&(node.name.as_str(), ip)).into_iter().flatten());
            }
        }
        match found.into_iter().collect::<Vec<_>>()[..] {
            [only] => Some(only.to_owned()),
            _ => None,
        }
    }
}

fn kernel_addresses(cluster: &Known, node: &Node) -> Vec<IpAddr> {
    let asked = cluster.asked.as_ref();
    let tables = asked.and_then(|asked| asked.tables.get(&node.name)?.as_ref().ok());
    let rows = tables
        .into_iter()
        .flat_map(|tables| &tables.state.addresses);
    rows.map(|row| row.net.addr()).collect()
}

/// The members that the control plane names and links and that no cluster of the run is.
pub(super) fn unreached<'f>(names: &BTreeSet<&str>, fleet: &'f Fleet) -> Vec<&'f str> {
    let is_linked = |cluster: &&Cluster| {
        let link = cluster.spec.cluster_link_options.as_ref();
        link.is_some_and(|link| link.enable)
    };
    let linked = fleet.clusters.iter().filter(is_linked);
    let linked = linked.map(|cluster| cluster.metadata.name.as_str());
    linked.filter(|name| !names.contains(name)).collect()
}
