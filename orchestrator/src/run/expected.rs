//! What the control plane's objects say that the nodes should hold, as digests that floaters compare their tables with.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use datapath::api::Fleet;
use datapath::digest::{Digester, Expected, Key, Scope};
use datapath::plan::Planner;
use floater::wire::Expectation;

use crate::Error;

/// Of so many bits is the digest that a floater is sent: 16 sums are half a kilobyte, and where one differs a sixteenth of the rows comes
/// back.
const BITS: u8 = 4;

/// The digests of a run. Its key is drawn for the run, so that nobody who chooses rows knows it.
pub(super) struct Expectations {
    key: Key,
    /// The planner's names of nodes, by cluster and node.
    names: HashMap<String, HashMap<String, String>>,
    digester: Digester,
    /// Sums that many nodes share are kept between questions.
    expected: Mutex<Expected>,
}

impl Expectations {
    /// None where nobody plans anything.
    ///
    /// # Errors
    /// Where the system gives no random numbers.
    pub(super) fn new(fleet: &Fleet) -> Result<Option<Self>, Error> {
        if fleet.clusters.is_empty() || fleet.cluster_nodes.is_empty() {
            return Ok(None);
        }
        let mut key = [0; 16];
        super::random(&mut key)?;
        let key = Key(key);
        let planner = Arc::new(Planner::of(fleet));
        let digester = Digester::new(key, Scope::Tables, BITS);
        let mut names: HashMap<String, HashMap<String, String>> = HashMap::new();
        for object in &fleet.cluster_nodes {
            let (spec, name) = (&object.spec, &object.metadata.name);
            let of_cluster = names.entry(spec.cluster_name.clone()).or_default();
            of_cluster.insert(spec.node_name.clone(), name.clone());
        }
        Ok(Some(Self {
            key,
            names,
            digester,
            expected: Mutex::new(Expected::new(&planner, digester)),
        }))
    }

    /// How the differences that floaters answer with are to be read.
    pub(super) fn digester(&self) -> Digester {
        self.digester
    }

    /// What a node should hold; none where it takes no part.
    pub(super) fn of(&self, cluster: &str, node: &str) -> Option<Expectation> {
        let name = self.names.get(cluster)?.get(node)?;
        let mut expected = self.expected.lock().unwrap_or_else(PoisonError::into_inner);
        Some(Expectation {
            key: self.key,
            digest: expected.of(name)?,
        })
    }
}
