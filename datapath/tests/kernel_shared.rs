//! Rows that are written once for all nodes make of a bare node what its plan says, also where clusters contradict each other; and tables
//! that are only counted come to the digest that is expected.
#![cfg(feature = "kernel")]
#![allow(missing_docs, clippy::expect_used, reason = "a test")]

#[path = "kernel/namespace.rs"]
mod namespace;
#[path = "plan/random.rs"]
mod random;
#[path = "kernel/underlay.rs"]
mod underlay;

use std::sync::Arc;

use datapath::api::Fleet;
use datapath::diff::diff;
use datapath::digest::{Digest, Digester, Expected, Key, Scope};
use datapath::kernel::{LinuxKernel, SharedRows};
use datapath::plan::Planner;
use datapath::reconcile::Kernel as _;
use datapath::tunnel::Tunnel;
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;
use serde_json::json;

use namespace::in_namespace;
use underlay::underlay;

const KEY: Key = Key([9; 16]);

/// A kernel with an underlay link eth0.
fn bare() -> LinuxKernel {
    let mut kernel = LinuxKernel::open().expect("netlink sockets");
    kernel
        .apply(&underlay("eth0", &["100.64.0.1/16", "fd64::1/64"]))
        .expect("an underlay");
    kernel
}

/// The digest of what a kernel holds that was asked for row by row, and whether it refused none.
fn by_rows(planner: &Arc<Planner>, node: &str, digester: &Digester) -> (Digest, bool) {
    in_namespace(|| {
        let mut kernel = bare();
        let observed = kernel.observe().expect("tables");
        let (wanted, _) = planner.desired(node, &observed).expect("it takes part");
        let applied = kernel.apply(&diff(&wanted, &observed));
        let held = kernel.observe().expect("tables");
        (digester.of(&held), applied.is_ok())
    })
}

/// Fills a bare node, and finds in it what is there where rows are asked for one by one; the number of its tunnels.
fn fill(planner: &Arc<Planner>, node: &str) -> Result<usize, TestCaseError> {
    in_namespace(|| {
        let mut kernel = bare();
        let digester = Digester::new(KEY, Scope::Tables, 0);
        let (expected, is_possible) = by_rows(planner, node, &digester);
        let (observed, digest) = kernel.observe_counting(&digester).expect("tables");
        prop_assert_eq!(digest, digester.empty());
        let (own, _) = planner.desired_own(node, &observed).expect("it takes part");
        let own_is_made = kernel.apply(&diff(&own, &observed)).is_ok();
        prop_assert!(own_is_made || !is_possible);
        let indices = kernel.tunnel_indices().expect("indices");
        let rows = SharedRows::of(planner, &indices);
        let refused = kernel.make_shared(&rows, node).expect("an answer");
        let whole = kernel.observe().expect("tables");
        prop_assert_eq!(digester.of(&whole), expected, "{}", node);
        if is_possible {
            prop_assert_eq!(refused, 0, "{}", node);
            let (wanted, _) = planner.desired(node, &whole).expect("it takes part");
            let left = diff(&wanted, &whole);
            prop_assert!(left.is_empty(), "{}: {}", node, left);
        }

        // Counted, the same tables are the digest of the whole, and nothing of them is kept but what is local to the node.
        let digest = digester.of(&whole);
        let neighbours = whole.neighbours.iter().filter_map(|row| {
            let tunnel = Tunnel::named(&row.link)?;
            Some((tunnel, row.ip))
        });
        for (local, counted) in [
            kernel.observe_counting(&digester).expect("tables"),
            kernel
                .observe_filled(&digester, neighbours)
                .expect("tables"),
        ] {
            prop_assert_eq!(&counted, &digest);
            prop_assert_eq!(digester.of(&local), digester.empty());
            let (mut own, _) = planner.desired_own(node, &local).expect("it takes part");
            digester.take_counted(&mut own);
            let left = diff(&own, &local);
            prop_assert!(left.is_empty() || !is_possible, "{}: {}", node, left);
        }
        Ok(indices.len())
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    #[ignore = "netns: needs vxlan"]
    fn rows_that_are_written_once_are_those_of_the_plan(fleet in random::fleet()) {
        let planner = Arc::new(Planner::of(&fleet));
        for node in planner.nodes() {
            // A plan that makes no row of a part is for whoever goes row by row.
            let (_, problems) = planner.desired(node, &random::bare(&["100.64.0.1/16", "fd64::1/64"])).expect("it takes part");
            if problems.is_empty() {
                fill(&planner, node)?;
            }
        }
    }
}

/// Two hundred clusters of two nodes, in both families.
fn large() -> Fleet {
    let (mut clusters, mut nodes) = (Vec::new(), Vec::new());
    for number in 0..200 {
        let name = format!("c{number:03}");
        let nets = [
            format!("10.{number}.0.0/16"),
            format!("fd10:{number:x}::/32"),
        ];
        let services = [
            format!("11.{number}.0.0/16"),
            format!("fd11:{number:x}::/32"),
        ];
        clusters.push(json!({"metadata": {"name": name},
            "spec": {"clusterLinkOptions": {"networkType": "gateway", "ipFamily": "all"}},
            "status": {"clusterLinkStatus": {"podCIDRs": nets, "serviceCIDRs": services}}}));
        for node in 1..3 {
            let roles = if node == 1 {
                vec!["gateway"]
            } else {
                Vec::new()
            };
            nodes.push(json!({"metadata": {"name": format!("{name}-n{node}")}, "spec": {"clusterName": name,
                "nodeName": format!("n{node}"), "ip": format!("100.64.{number}.{node}"), "ip6": format!("fd64::{number:x}:{node}"),
                "roles": roles, "interfaceName": "eth0"}}));
        }
    }
    let fleet = json!({"clusters": clusters, "clusterNodes": nodes});
    serde_json::from_value(fleet).expect("a fleet")
}

#[test]
#[ignore = "netns: needs vxlan"]
fn rows_of_many_clusters_do_not_fit_one_request_and_come_to_the_expected_digest() {
    let planner = Arc::new(Planner::of(&large()));
    assert_eq!(planner.objections(), []);
    let digester = Digester::new(KEY, Scope::Tables, 0);
    let mut expected = Expected::new(&planner, digester);
    for (node, tunnels) in [("c007-n1", 4), ("c007-n2", 2)] {
        assert_eq!(fill(&planner, node).expect("as planned"), tunnels);
        let rows = planner.rows(node).expect("it takes part");
        let digest = expected.of(node).expect("it takes part");
        let digester = digester.with_gateways(digest.gateways());
        let mut planned = digester.empty();
        for row in rows {
            digester.add(&mut planned, &row.into());
        }
        assert_eq!(digest, planned);
    }
}

#[test]
#[ignore = "netns: needs vxlan"]
fn what_the_kernel_refuses_is_counted() {
    in_namespace(|| {
        let planner = Arc::new(Planner::of(&large()));
        let mut kernel = bare();
        // Of tunnels that are not there.
        let indices = ["vx-bridge", "vx-bridge-6"].map(|name| (name.to_owned(), 77));
        let rows = SharedRows::of(&planner, &indices.into_iter().collect());
        let refused = kernel.make_shared(&rows, "c000-n1").expect("an answer");
        assert!(refused > 0);
        assert_eq!(kernel.tunnel_indices().expect("an answer").len(), 0);
        kernel.observe().expect("the socket is as good as before");
    });
}
