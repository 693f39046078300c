//! The rows of the buckets whose sums differ, and what they make of a plan.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::canonical::{Borrowed, Bytes};
use super::{Digest, Digester, Mismatch};
use crate::plan;
use crate::state::{NodeState, Row};

/// What a node holds in the buckets in which it differs from a digest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Differences {
    /// The number of the digest's bits.
    pub bits: u8,
    /// By bucket all owned rows that are there, in the order of the tables; a bucket of which nothing is there is empty.
    pub buckets: BTreeMap<u32, Vec<Row>>,
}

impl Differences {
    /// Whether the node holds exactly what was expected.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.buckets.is_empty()
    }
}

impl Digester {
    /// What is there in the buckets in which a node differs from the expected digest. O(rows) of which only those of these buckets are
    /// copied.
    ///
    /// # Errors
    /// When the digest is not of this digester's kind.
    pub fn differences(
        &self,
        observed: &NodeState,
        expected: &Digest,
    ) -> Result<Differences, Mismatch> {
        // Which gateway is meant is what the other side says.
        let observed_digest = self.with_gateways(expected.gateways()).of(observed);
        let differing = observed_digest.differing(expected)?;
        let mut buckets: BTreeMap<u32, Vec<Row>> = BTreeMap::new();
        buckets.extend(differing.into_iter().map(|bucket| (bucket, Vec::new())));
        if !buckets.is_empty() {
            let mut bytes = Bytes::default();
            for row in self.counting(observed) {
                bytes.write(row);
                let bucket = self.bucket_in(&bytes);
                if let Some(rows) = buckets.get_mut(&bucket) {
                    rows.push(Borrowed::to_row(row));
                }
            }
        }
        Ok(Differences {
            bits: self.bits,
            buckets,
        })
    }

    /// The rows of a node whose planned rows and differences are these: the planned ones of all buckets that do not differ, then those
    /// that were observed in the others. A difference that is not of this digester's number of buckets says nothing.
    pub fn laid_over<'d>(
        self,
        planned: impl Iterator<Item = plan::Row> + 'd,
        differences: &'d Differences,
    ) -> impl Iterator<Item = Row> + 'd {
        let is_like = differences.bits == self.bits;
        let buckets = is_like.then_some(&differences.buckets);
        let same = planned.filter(move |row| {
            buckets.is_none_or(|buckets| !buckets.contains_key(&self.bucket_of(*row)))
        });
        let other = buckets.into_iter().flatten();
        let other = other.flat_map(|(_, rows)| rows.iter().cloned());
        same.map(Row::from).chain(other)
    }
}
