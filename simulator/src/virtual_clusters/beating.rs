//! The Leases of nodes without a kernel, which no fault silences: each is as new as whoever reads it can expect, and nobody keeps it.
//!
//! Thousands of clusters would have to renew theirs all the time for nobody to look. So a Lease is a stub that is completed when it is read:
//! it was renewed at the last time of renewal before. A watch tells that it is there and of no renewal.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::Error;
use crate::apiserver::{Generator, Resource, Store};
use crate::topology::{Cluster, Kubelets};

/// Where nodes' Leases are.
const NAMESPACE: &str = "kube-node-lease";

/// Completes Leases by the clock.
#[derive(Debug)]
struct Clock;

impl Generator for Clock {
    fn complete(&self, stub: &mut Value) {
        stub["spec"] = spec(&stub["metadata"]["name"], Timestamp::now());
    }
}

fn spec(node: &Value, now: Timestamp) -> Value {
    let renew = Kubelets::default().renew;
    let every = i64::try_from(renew.as_secs()).unwrap_or(10);
    let last = now.as_second() - now.as_second().rem_euclid(every);
    let last = Timestamp::from_second(last).unwrap_or(now);
    json!({
        "holderIdentity": node, "leaseDurationSeconds": renew.as_secs() * 4,
        "renewTime": last.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string(),
    })
}

/// Gives every node of a cluster its Lease.
pub(crate) fn keep(store: &Store, cluster: &Cluster) -> Result<(), Error> {
    store.generate(Resource::LEASES, Arc::new(Clock));
    for node in &cluster.nodes {
        let put = store.put_stub(Resource::LEASES, Some(NAMESPACE), &node.name, 1);
        put.map_err(|status| Error::Failed {
            doing: "write a Lease".to_owned(),
            why: format!("{status:?}"),
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_renewed_whenever_it_would_have_been() {
        let at = |second| {
            let now = Timestamp::from_second(second).expect("a time");
            spec(&json!("n1"), now)["renewTime"].clone()
        };
        assert_eq!(at(1_800_000_009), "2027-01-15T08:00:00.000000Z");
        assert_eq!(at(1_800_000_010), "2027-01-15T08:00:10.000000Z");
    }
}
