//! Word that something changed of what says which prefixes a member cluster has.

use futures::stream::BoxStream;
use kube::Client;
use kube::api::Api;
use kube::runtime::watcher;

use super::objects::hints;
use crate::evidence::{MAPS, block_affinities, cilium_nodes, ip_pools, kind, service_cidrs};

/// One item each time that somebody changed what [`gather`](crate::evidence::gather) reads.
pub(super) fn news(client: &Client) -> Vec<BoxStream<'static, ()>> {
    let mut streams = Vec::new();
    for resource in [
        service_cidrs(),
        ip_pools(),
        block_affinities(),
        cilium_nodes(),
    ] {
        streams.push(hints(
            Api::all_with(client.clone(), &resource),
            watcher::Config::default(),
        ));
    }
    let maps = kind("", "v1", "ConfigMap", "configmaps");
    for (namespace, name) in MAPS {
        let only = watcher::Config::default().fields(&format!("metadata.name={name}"));
        streams.push(hints(
            Api::namespaced_with(client.clone(), namespace, &maps),
            only,
        ));
    }
    streams
}
