//! What a clean report excludes, and what it cannot.

use std::collections::{HashMap, HashSet};

use datapath::printable::Printable;
use floater::wire::Layer;

use super::intent::Intended;
use super::scope::Scope;
use crate::graph::{Connectivity, Place, family_of_tunnel};
use crate::report::{Certificate, Finding};

/// So many members that nobody asked are named; the others are counted.
const MEMBERS_NAMED: usize = 50;

/// The elements that packets or tables covered, those that nothing covered, and the sets that cannot be told apart.
pub(super) fn certificate(
    scope: &Scope<'_>,
    intended: &Intended,
    graph: &Connectivity,
    findings: &[Finding],
) -> Certificate {
    let mut all = Certificate::default();
    let layers = scope.what.layers();
    for cluster in 0..scope.gathered.clusters.len() {
        let name = &scope.cluster(cluster).name;
        if !scope.what.wants_source(name) && !scope.what.wants_destination(name) {
            continue;
        }
        if scope.cluster(cluster).nodes.is_empty() {
            all.not_covered.push(format!("{name}: all of it"));
        }
        for at in scope.members(cluster) {
            let place = scope.place(at);
            for &layer in &layers {
                let (word, vertex) = match layer {
                    Layer::Host => ("host", Place::Host(at)),
                    Layer::Pod => ("pods", Place::Pods(at)),
                };
                file(&mut all, graph.carries(vertex), format!("{place} {word}"));
            }
            if layers.contains(&Layer::Pod) {
                for link in intended.tunnels(at) {
                    if scope.what.wants_family(family_of_tunnel(link)) {
                        file(
                            &mut all,
                            graph.carries(Place::Tunnel(at, link)),
                            format!("{place} {link}"),
                        );
                    }
                }
            }
            match (&scope.node(at).tables, intended.name(at).is_some()) {
                (Ok(_), true) => all.covered.push(format!("{place} tables")),
                (Ok(_), false) => all
                    .not_covered
                    .push(format!("{place} tables: nothing is planned for it")),
                (Err(_), _) => all.not_covered.push(format!("{place} tables")),
            }
        }
    }
    all.not_covered.extend(unreached_members(scope));
    if intended.guessed {
        all.not_covered
            .push("intent: no control plane, guessed from what most nodes hold".to_owned());
    }
    for finding in findings
        .iter()
        .filter(|finding| !finding.ambiguous_with.is_empty())
    {
        let mut set = vec![format!("{} at {}", finding.code, finding.element.place())];
        set.extend(finding.ambiguous_with.iter().map(ToString::to_string));
        all.indistinguishable.push(set);
    }
    all
}

/// Clusters and nodes that the control plane's objects name as members and that nobody has asked, one sentence each.
fn unreached_members(scope: &Scope<'_>) -> Vec<String> {
    let fleet = &scope.gathered.intent.fleet;
    let asked: HashMap<&str, HashSet<&str>> = scope
        .gathered
        .clusters
        .iter()
        .map(|facts| {
            let nodes = facts.nodes.iter().map(|node| node.name.as_str()).collect();
            (facts.name.as_str(), nodes)
        })
        .collect();
    let clusters = fleet.clusters.iter().filter_map(|object| {
        let name = object.metadata.name.as_str();
        let options = object.spec.cluster_link_options.as_ref()?;
        (options.enable && !asked.contains_key(name)).then(|| {
            let name = Printable::new(name);
            format!(
                "{name}: the control plane names it as a member, and it is not in the inventory"
            )
        })
    });
    let nodes = fleet.cluster_nodes.iter().filter_map(|object| {
        let spec = &object.spec;
        let nodes = asked.get(spec.cluster_name.as_str())?;
        // What the cluster itself could not be asked about is told of the cluster as a whole.
        (!nodes.is_empty() && !nodes.contains(spec.node_name.as_str())).then(|| {
            let object = Printable::new(&object.metadata.name);
            let cluster = Printable::new(&spec.cluster_name);
            let node = Printable::new(&spec.node_name);
            format!(
                "{cluster}/{node}: clusternode {object} names it, and the cluster has no such node"
            )
        })
    });
    let mut all: Vec<String> = clusters.chain(nodes).collect();
    let more = all.len().saturating_sub(MEMBERS_NAMED);
    all.truncate(MEMBERS_NAMED);
    if more > 0 {
        all.push(format!("and {more} more members that nobody asked"));
    }
    all
}

fn file(all: &mut Certificate, carries: (bool, bool), name: String) {
    match carries {
        (true, true) => all.covered.push(name),
        (true, false) => all.not_covered.push(format!("{name}, as a source")),
        (false, true) => all.not_covered.push(format!("{name}, as a destination")),
        (false, false) => all.not_covered.push(name),
    }
}
