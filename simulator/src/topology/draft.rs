//! Clusters under construction: what a file says of them, before everything else has its default.

use std::collections::BTreeMap;
use std::time::Duration;

use ipnet::IpNet;

use super::{ControlPlane, Families, Mode, Underlay};

/// A rule that is broken, and where.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) line: u64,
    pub(super) rule: String,
}

/// A cluster whose prefixes and addresses may still be open.
#[derive(Debug, Clone)]
pub(super) struct Draft {
    pub(super) line: u64,
    pub(super) name: String,
    pub(super) mode: Mode,
    pub(super) family: Families,
    pub(super) nodes: u32,
    pub(super) pod_cidrs: Option<Vec<IpNet>>,
    pub(super) service_cidrs: Option<Vec<IpNet>>,
    pub(super) global_cidrs_map: BTreeMap<String, String>,
    pub(super) underlay: Underlay,
    pub(super) is_virtual: bool,
    pub(super) control_plane: Option<ControlPlane>,
    /// The lines of the prefixes that the file names.
    pub(super) lines: BTreeMap<IpNet, u64>,
}

impl Draft {
    /// A cluster that leaves everything else to the defaults.
    pub(super) fn generated(name: String, mode: Mode, family: Families, nodes: u32) -> Self {
        Self {
            line: 1,
            name,
            mode,
            family,
            nodes,
            pod_cidrs: None,
            service_cidrs: None,
            global_cidrs_map: BTreeMap::new(),
            underlay: DEFAULT_UNDERLAY,
            is_virtual: false,
            control_plane: None,
            lines: BTreeMap::new(),
        }
    }
}

/// A segment of which the file says nothing.
pub(super) const DEFAULT_UNDERLAY: Underlay = Underlay {
    mtu: 1500,
    delay: Duration::ZERO,
    loss: 0.0,
};
