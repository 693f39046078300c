//! Faults that no packet is needed for: claims of clusters and objects of the control plane that contradict each other or lack something.

use datapath::code::Code;
use datapath::element::{Element, ElementKind, Fix};

use datapath::plan::{Objection, Weight};
use floater::wire::Layer;

use super::findings::{affected, finding, packets};
use super::join::Joined;
use super::scope::Scope;
use crate::causes;
use crate::evidence::{InventoryNote, NodeRef};
use crate::report::{Evidence, EvidenceKind, Finding, Severity};

/// Claims of clusters that are not believed, as findings. What such clusters say of themselves cannot be told apart, so that each is
/// also something that could not be judged.
pub(super) fn of_inventory(scope: &Scope<'_>, unjudged: &mut Vec<String>) -> Vec<Finding> {
    let notes = &scope.gathered.inventory_notes;
    unjudged.extend(notes.iter().map(|note| note.text.to_string()));
    notes.iter().map(of_note).collect()
}

fn of_note(note: &InventoryNote) -> Finding {
    let element = Element {
        cluster: None,
        node: None,
        kind: ElementKind::Cluster,
        name: note.clusters.join(", ").into(),
    };
    let fix = match note.code {
        Code::ControlPlaneAmbiguous => Fix::advice(
            "name the right one with --control-plane CONTEXT, and remove clusters.kosmos.io objects from the others",
        ),
        _ => Fix::advice(
            "leave all but one of them out of the inventory, or give the copy a kube-system namespace of its own",
        ),
    };
    Finding {
        id: Finding::id_of(note.code, &element),
        code: note.code,
        severity: Severity::Warning,
        element,
        summary: note.text.clone(),
        evidence: note
            .clusters
            .iter()
            .take(8)
            .map(|cluster| Evidence {
                kind: EvidenceKind::Intent,
                source: cluster.as_str().into(),
                text: note.text.clone(),
            })
            .collect(),
        ambiguous_with: Vec::new(),
        affects: Vec::new(),
        fix,
    }
}

/// What the objects of the control plane lack or contradict. A pair of pods that fails and that no row explains suffers from every
/// objection to an object of its ends: it is marked, so that no filter and no underlay is accused of it.
pub(super) fn of_control_plane(
    scope: &Scope<'_>,
    objections: &[Objection],
    joined: &mut [Joined<'_, '_>],
) -> Vec<Finding> {
    let ends: Vec<Ends> = objections
        .iter()
        .map(|objection| Ends::of(scope, objection))
        .collect();
    let mut suffering: Vec<Vec<usize>> = vec![Vec::new(); objections.len()];
    for (at, joined) in joined.iter_mut().enumerate() {
        if !joined.suffers() || !joined.blamed.is_empty() {
            continue;
        }
        for ((objection, ends), suffering) in objections.iter().zip(&ends).zip(&mut suffering) {
            // Nodes need nothing of each other's objects but the address.
            let is_of_layer =
                joined.key.layer == Layer::Pod || objection.at.path.starts_with("spec.ip");
            if is_of_layer
                && objection.weight == Weight::Fault
                && ends.concern(joined.key.src, joined.key.dst)
            {
                joined.is_objected = true;
                suffering.push(at);
            }
        }
    }
    objections
        .iter()
        .zip(suffering)
        .map(|(objection, suffering)| {
            let suffering: Vec<&Joined<'_, '_>> =
                suffering.into_iter().map(|at| &joined[at]).collect();
            of_objection(scope, objection, &suffering)
        })
        .collect()
}

fn of_objection(
    scope: &Scope<'_>,
    objection: &Objection,
    suffering: &[&Joined<'_, '_>],
) -> Finding {
    let mut element = objection.at.object.element();
    element.name = format!("{} {}", objection.at.object.name, objection.at.path).into();
    let mut evidence = vec![Evidence {
        kind: EvidenceKind::Intent,
        source: scope
            .gathered
            .intent
            .control_plane
            .as_deref()
            .unwrap_or("control plane")
            .into(),
        text: objection.to_string().into(),
    }];
    evidence.extend(packets(scope, suffering));
    let mut fix = match objection.code {
        // The field says what needs a gateway; who elects one is another matter.
        Code::GatewayNotElected => causes::find(objection.code).fix.to_owned(),
        _ => format!("correct {} of {}", objection.at.path, objection.at.object),
    };
    if let Some(other) = &objection.other {
        fix.push_str(&format!(", or {other}"));
    }
    finding(
        objection.code,
        element,
        format!("{}: {}", objection.at, objection.rule),
        evidence,
        Vec::new(),
        affected(suffering),
        Fix::advice(&fix),
    )
}

/// The pairs of nodes that an objection concerns.
struct Ends {
    cluster: Option<usize>,
    node: Option<NodeRef>,
    /// Whether that node is its cluster's gateway.
    is_gateway: bool,
    /// The cluster of the object that is contradicted, where it is another.
    other: Option<usize>,
}

impl Ends {
    fn of(scope: &Scope<'_>, objection: &Objection) -> Self {
        let cluster_named = |name: Option<&str>| {
            let clusters = &scope.gathered.clusters;
            clusters
                .iter()
                .position(|facts| Some(facts.name.as_str()) == name)
        };
        let object = &objection.at.object;
        let cluster = cluster_named(object.cluster.as_deref());
        let node = cluster.and_then(|cluster| {
            let nodes = &scope.cluster(cluster).nodes;
            let node = nodes
                .iter()
                .position(|facts| Some(facts.name.as_str()) == object.node.as_deref())?;
            Some(NodeRef { cluster, node })
        });
        Self {
            cluster,
            node,
            is_gateway: node.is_some_and(|at| scope.node(at).gateway),
            other: objection
                .other
                .as_ref()
                .and_then(|other| cluster_named(other.object.cluster.as_deref()))
                .filter(|other| Some(*other) != cluster),
        }
    }

    fn concern(&self, src: NodeRef, dst: NodeRef) -> bool {
        let Some(cluster) = self.cluster else {
            return false;
        };
        if let Some(other) = self.other {
            return [(cluster, other), (other, cluster)].contains(&(src.cluster, dst.cluster));
        }
        match self.node {
            Some(node) if src == node || dst == node => true,
            // A gateway carries what the other nodes of its cluster send, so that its own pods are not all that suffer.
            Some(_) if !self.is_gateway => false,
            Some(_) => (src.cluster == cluster) != (dst.cluster == cluster),
            None => (src.cluster == cluster) != (dst.cluster == cluster),
        }
    }
}
