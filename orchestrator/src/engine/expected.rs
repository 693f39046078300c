//! What the control plane's objects say that the nodes should hold, as digests that floaters compare their tables with.

use std::collections::HashMap;
use std::sync::Arc;

use datapath::api::Fleet;
use datapath::digest::{Differences, Digester, Expected, Key, Scope};
use datapath::plan::Planner;
use floater::wire::Expectation;

/// Of so many bits is the digest that a floater is sent: 16 sums are half a kilobyte, and where one differs a sixteenth of the rows comes
/// back.
const BITS: u8 = 4;

/// The digests of a run. Its key is drawn for the run, so that nobody who chooses rows knows it.
pub(super) struct Expectations {
    key: Key,
    /// The planner's names of nodes, by cluster and node.
    names: HashMap<String, HashMap<String, String>>,
    digester: Digester,
    expected: Expected,
}

impl Expectations {
    /// None where nobody plans anything.
    pub(super) fn new(fleet: &Fleet, key: Key) -> Option<Self> {
        if fleet.clusters.is_empty() || fleet.cluster_nodes.is_empty() {
            return None;
        }
        let planner = Arc::new(Planner::of(fleet));
        let digester = Digester::new(key, Scope::Tables, BITS);
        let mut names: HashMap<String, HashMap<String, String>> = HashMap::new();
        for object in &fleet.cluster_nodes {
            let (spec, name) = (&object.spec, &object.metadata.name);
            let of_cluster = names.entry(spec.cluster_name.clone()).or_default();
            of_cluster.insert(spec.node_name.clone(), name.clone());
        }
        Some(Self {
            key,
            names,
            digester,
            expected: Expected::new(&planner, digester),
        })
    }

    /// How the differences that floaters answer with are to be read.
    pub(super) fn digester(&self) -> Digester {
        self.digester
    }

    /// What a node should hold; none where it takes no part.
    pub(super) fn of(&mut self, cluster: &str, node: &str) -> Option<Expectation> {
        let name = self.names.get(cluster)?.get(node)?;
        Some(Expectation {
            key: self.key,
            digest: self.expected.of(name)?,
        })
    }
}

/// Whether differences can be from what a digester counts: as many buckets as it has, and every row in its own.
pub(crate) fn are_from(digester: &Digester, differences: &Differences) -> bool {
    let buckets = 1_u32 << digester.bits();
    differences.bits == digester.bits()
        && differences.buckets.iter().all(|(&bucket, rows)| {
            bucket < buckets && rows.iter().all(|row| digester.bucket(row) == Some(bucket))
        })
}
