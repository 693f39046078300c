//! Faults that no packet is needed for: claims of clusters and objects of the control plane that contradict each other or lack something.

use datapath::code::Code;
use datapath::element::{Element, ElementKind, Fix};

use super::scope::Scope;
use crate::evidence::InventoryNote;
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
