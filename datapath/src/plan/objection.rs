//! What the control plane's own objects lack, or contradict each other in.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::code::Code;
use crate::element::{Element, ElementKind};
use crate::printable::Printable;

/// An object of the control plane.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Object {
    /// [`ElementKind::Cluster`], [`ElementKind::ClusterNode`] or [`ElementKind::NodeConfig`].
    pub kind: ElementKind,
    /// The object's name.
    pub name: Printable,
    /// The cluster that it belongs to, as far as the object says so.
    pub cluster: Option<Printable>,
    /// The node that it is about, as far as the object says so.
    pub node: Option<Printable>,
}

impl Object {
    pub(super) fn cluster(name: &str) -> Self {
        Self {
            kind: ElementKind::Cluster,
            name: Printable::new(name),
            cluster: Some(Printable::new(name)),
            node: None,
        }
    }

    pub(super) fn cluster_node(name: &str, spec: &crate::api::ClusterNodeSpec) -> Self {
        let known = |text: &str| (!text.is_empty()).then(|| Printable::new(text));
        Self {
            kind: ElementKind::ClusterNode,
            name: Printable::new(name),
            cluster: known(&spec.cluster_name),
            node: known(&spec.node_name),
        }
    }

    pub(super) fn node_config(name: &str) -> Self {
        Self {
            kind: ElementKind::NodeConfig,
            name: Printable::new(name),
            cluster: None,
            node: None,
        }
    }

    /// The object as the cause of a finding.
    #[must_use]
    pub fn element(&self) -> Element {
        Element {
            cluster: self.cluster.clone(),
            node: self.node.clone(),
            kind: self.kind,
            name: self.name.clone(),
        }
    }
}

/// `clusternode east-n1`.
impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind.word(), self.name)
    }
}

/// One field of one object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Field {
    /// The object.
    pub object: Object,
    /// The path of the field in it, for example `spec.podCIDRs[0]`.
    pub path: Printable,
}

impl Field {
    pub(super) fn new(object: Object, path: &str) -> Self {
        Self {
            object,
            path: Printable::new(path),
        }
    }
}

/// `clusternode east-n1 spec.podCIDRs[0]`.
impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.object, self.path)
    }
}

/// How much an [`Objection`] matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Weight {
    /// Some packets cannot arrive as long as it stays so.
    Fault,
    /// Every packet still has a path.
    Warning,
}

/// Something that the datapath cannot do, or cannot do well, because of what one field of one object says.
///
/// Texts out of the objects are printable already.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Objection {
    /// What has to be changed for it to go.
    pub at: Field,
    /// The cause code.
    pub code: Code,
    /// Whether packets are lost by it.
    pub weight: Weight,
    /// What the field contradicts, where it contradicts something.
    pub other: Option<Field>,
    /// What is wrong, in a sentence without its subject and without a full stop.
    pub rule: Printable,
    /// What the plan therefore does not hold, for example `the node`; none where everything is planned as it is written.
    pub left_out: Option<Printable>,
}

impl Objection {
    pub(super) fn new(code: Code, at: Field, rule: impl AsRef<str>) -> Self {
        Self {
            at,
            code,
            weight: Weight::Fault,
            other: None,
            rule: Printable::new(rule.as_ref()),
            left_out: None,
        }
    }

    pub(super) fn warning(self) -> Self {
        Self {
            weight: Weight::Warning,
            ..self
        }
    }

    pub(super) fn against(self, other: Field) -> Self {
        Self {
            other: Some(other),
            ..self
        }
    }

    pub(super) fn leaving_out(self, what: impl AsRef<str>) -> Self {
        Self {
            left_out: Some(Printable::new(what.as_ref())),
            ..self
        }
    }
}

/// `CODE clusternode east-n1 spec.ip: what is wrong; left out of the plan: what`.
impl fmt::Display for Objection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.code, self.at, self.rule)?;
        match &self.left_out {
            Some(what) => write!(f, "; left out of the plan: {what}"),
            None => Ok(()),
        }
    }
}
