//! What clusters claim to be, checked against each other: no claim takes the place or the name of a cluster that makes the same.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use datapath::api::Fleet;
use datapath::code::Code;
use datapath::printable::Printable;

use super::Context;
use super::opened::{Looked, Open, UNREACHED, decoded};
use crate::Error;
use crate::evidence::InventoryNote;
use crate::fleet::look;

/// How long the control plane's objects may take.
const INTENT: Duration = Duration::from_secs(60);

/// Entries that reach the same cluster are one, the first of them, with a warning. Entries that only say so - the same
/// kube-system uid, and not the same nodes behind the same server - are as many clusters, and a note.
pub(super) fn distinct(
    context: &Context,
    looked: Vec<Looked>,
) -> (Vec<Looked>, Vec<InventoryNote>) {
    let mut kept: Vec<Looked> = Vec::new();
    // Positions in `kept` by uid.
    let mut by_id: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (target, result) in looked {
        if let Ok(open) = &result {
            for warning in &open.seen.warnings {
                context.warn(format!("{}: {warning}", open.name));
            }
            let others = by_id.entry(open.seen.id.clone()).or_default();
            let same = others.iter().find_map(|&at| {
                let other = kept[at].1.as_ref().ok()?;
                is_same(open, other).then_some(other)
            });
            if let Some(other) = same {
                context.warn(format!(
                    "{} and {} reach the same cluster; it is taken once, as {}",
                    other.name, open.name, other.name
                ));
                continue;
            }
            others.push(kept.len());
        }
        kept.push((target, result));
    }
    let notes = by_id
        .into_iter()
        .filter(|(_, places)| places.len() > 1)
        .map(|(id, places)| {
            let names = places.iter().map(|&at| kept[at].0.name.clone());
            let mut clusters: Vec<String> = names.collect();
            clusters.sort();
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
    (kept, notes)
}

/// Whether two entries of one uid are one cluster: the same server, or servers of the same authority, and the same nodes.
fn is_same(a: &Open, b: &Open) -> bool {
    let nodes = |open: &Open| {
        let uids = open.seen.nodes.iter().map(|node| node.metadata.uid.clone());
        uids.collect::<BTreeSet<String>>()
    };
    let agrees = match (&a.identity, &b.identity) {
        (Some(a), Some(b)) => a.agrees(b),
        // Clients that were made elsewhere say nothing about their servers.
        _ => true,
    };
    // A server that answers for the same URL is the same whatever happened to its nodes in between.
    let same_url = matches!((&a.identity, &b.identity), (Some(a), Some(b)) if a.is_same_url(b));
    agrees && (same_url || nodes(a) == nodes(b))
}

/// The fleet's objects, and the position of the cluster that holds them.
pub(super) struct Intent {
    pub(super) fleet: Fleet,
    pub(super) holder: Option<usize>,
    pub(super) note: Option<InventoryNote>,
}

/// Whose objects are the fleet's intent: those of the cluster that is named (`--control-plane`), else of the only one
/// that has any. Where several do, none is believed.
pub(super) async fn intent(context: &Context, open: &[Open]) -> Result<Intent, Error> {
    let of = async |at: usize| {
        let Open {
            name, api, seen, ..
        } = &open[at];
        // Read of one cluster alone: the others' objects are claims that nobody needs.
        let read = look::intent(api, &seen.members);
        let limit = context.left().min(INTENT);
        let (fleet, warnings) = tokio::time::timeout(limit, read).await.unwrap_or_else(|_| {
            let why = "the control plane's objects could not be read in time".to_owned();
            (Fleet::default(), vec![why])
        });
        for warning in warnings {
            context.warn(format!("{name}: {warning}"));
        }
        Intent {
            fleet,
            holder: Some(at),
            note: None,
        }
    };
    if let Some(wanted) = &context.options.control_plane {
        return match open.iter().position(|cluster| cluster.name == *wanted) {
            Some(at) => Ok(of(at).await),
            None => Err(Error::Usage(format!(
                "--control-plane {}: no cluster of that context can be reached",
                Printable::new(wanted)
            ))),
        };
    }
    let claiming: Vec<usize> = (0..open.len())
        .filter(|&at| !open[at].seen.members.is_empty())
        .collect();
    if let [only] = claiming[..] {
        return Ok(of(only).await);
    }
    let note = (claiming.len() > 1).then(|| {
        let mut clusters: Vec<String> =
            claiming.iter().map(|&at| open[at].name.clone()).collect();
        clusters.sort();
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
    Ok(Intent {
        fleet: Fleet::default(),
        holder: None,
        note,
    })
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

/// Gives every cluster the name of the member that it is. A context that is called as a member is that member: the
/// operator says so. Another one is it where the member's own kubeconfig names the same server, or where it alone has
/// nodes of the member's names and addresses, which anybody can claim to have.
pub(super) fn rename(
    context: &Context,
    open: &mut [Open],
    silent: &[&str],
    fleet: &Fleet,
    holder: Option<usize>,
) {
    let members: BTreeSet<&str> = fleet
        .clusters
        .iter()
        .map(|cluster| cluster.metadata.name.as_str())
        .collect();
    let taken: BTreeSet<String> = open
        .iter()
        .map(|cluster| cluster.name.as_str())
        .chain(silent.iter().copied())
        .filter(|name| members.contains(name))
        .map(str::to_owned)
        .collect();
    let mut claims: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (at, cluster) in open.iter().enumerate() {
        if !members.contains(cluster.name.as_str())
            && let Some(member) = look::member_by_nodes(
                &cluster.seen.nodes,
                |node| kernel_addresses(cluster, node),
                fleet,
            )
        {
            claims.entry(member).or_default().push(at);
        }
    }
    let kubeconfigs = holder
        .map(|at| &open[at])
        .into_iter()
        .flat_map(|cluster| &cluster.seen.members)
        .filter(|member| claims.contains_key(&member.name))
        .filter_map(|member| {
            let remote = decoded(&member.name, &member.kubeconfig).ok()?;
            Some((member.name.clone(), remote.identity()))
        })
        .collect::<BTreeMap<_, _>>();
    for (member, places) in claims {
        let proven: Vec<usize> = places
            .iter()
            .copied()
            .filter(|&at| {
                let own = open[at].identity.as_ref();
                own.zip(kubeconfigs.get(&member))
                    .is_some_and(|(own, named)| own.agrees(named))
            })
            .collect();
        match (taken.contains(&member), &proven[..], &places[..]) {
            (false, [only], _) | (false, [], [only]) => open[*only].name.clone_from(&member),
            _ => {
                for &at in &places {
                    context.warn(format!(
                        "{} has nodes of the names and addresses of {member}, and so has another cluster: it is not taken for {member}",
                        open[at].name
                    ));
                }
            }
        }
    }
}

/// The addresses of a node by its own tables, where its floater has been asked already.
fn kernel_addresses(cluster: &Open, node: &str) -> Vec<IpAddr> {
    let tables = cluster.asked.as_ref().and_then(|asked| {
        let tables = asked.tables.get(node)?;
        tables.as_ref().ok()
    });
    let rows = tables
        .into_iter()
        .flat_map(|tables| tables.state.addresses.iter());
    rows.map(|row| row.net.addr()).collect()
}

/// Members that the control plane names and that no cluster of the run is, with the reason. Where the operator chose some
/// contexts of many the others were not asked for.
pub(super) fn unreached(
    context: &Context,
    names: &BTreeSet<String>,
    fleet: &Fleet,
) -> Vec<(String, String)> {
    let options = &context.options.inventory;
    let chosen = context.options.targets.is_empty()
        && options.kubeconfigs.is_empty()
        && options.kubeconfig_dir.is_none()
        && options.fleet.is_none()
        && !options.all_contexts
        || !options.contexts.is_empty();
    if chosen {
        return Vec::new();
    }
    let unreached: Vec<&str> = fleet
        .clusters
        .iter()
        .filter(|cluster| {
            let link = cluster.spec.cluster_link_options.as_ref();
            link.is_some_and(|link| link.enable) && !names.contains(&cluster.metadata.name)
        })
        .map(|cluster| cluster.metadata.name.as_str())
        .collect();
    if unreached.len() > UNREACHED {
        context.warn(format!(
            "{} more members of the control plane are reached by no context of the inventory",
            unreached.len() - UNREACHED
        ));
    }
    let why = "the control plane names it as a member, and no context of the inventory reaches it";
    let listed = unreached.into_iter().take(UNREACHED);
    listed
        .map(|name| (name.to_owned(), why.to_owned()))
        .collect()
}
