//! Fleets of any size, IPv4 only, whose first node of each cluster is its gateway.

use datapath::api::Fleet;
use serde_json::json;

/// Clusters in one mode, named `c0`…, with nodes `n0`… on the underlay 100.64.0.0/10 and pods of `10.<cluster>.<node>.0/24`.
pub(crate) fn fleet(mode: &str, clusters: usize, nodes: usize) -> Fleet {
    let mut cluster_rows = Vec::new();
    let mut node_rows = Vec::new();
    for cluster in 0..clusters {
        let (high, low) = (cluster / 256, cluster % 256);
        cluster_rows.push(json!({"metadata": {"name": format!("c{cluster}")},
            "spec": {"clusterLinkOptions": {"networkType": mode, "ipFamily": "ipv4"}},
            "status": {"clusterLinkStatus": {"podCIDRs": [format!("{}.{low}.0.0/16", 10 + high)], "serviceCIDRs": []}}}));
        for node in 0..nodes {
            let roles: &[&str] = if node == 0 { &["gateway"] } else { &[] };
            node_rows.push(json!({"metadata": {"name": format!("c{cluster}-n{node}")}, "spec": {
                "clusterName": format!("c{cluster}"), "nodeName": format!("n{node}"), "interfaceName": "eth0", "roles": roles,
                "ip": format!("100.{}.{low}.{}", 64 + high, node + 1),
                "podCIDRs": [format!("{}.{low}.{node}.0/24", 10 + high)]}}));
        }
    }
    match serde_json::from_value(json!({"clusters": cluster_rows, "clusterNodes": node_rows})) {
        Ok(fleet) => fleet,
        Err(error) => panic!("the fleet is one: {error}"),
    }
}
