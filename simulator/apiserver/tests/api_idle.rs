//! What a cluster costs that nobody asks. A program of its own: memory is measured of the whole process.

#[path = "api/tls.rs"]
#[allow(dead_code, reason = "shared with a test that uses all of it")]
mod tls;

use std::sync::Arc;
use std::time::Instant;

use apiserver::NoPods;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::PostParams;
use kube::{Api, Client};
use serde_json::json;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hundreds_of_clusters_are_cheap_and_writes_are_fast() {
    let resident = || {
        let status = std::fs::read_to_string("/proc/self/statm").expect("Linux");
        let pages: u64 = status
            .split(' ')
            .nth(1)
            .and_then(|pages| pages.parse().ok())
            .expect("a number");
        pages * 4
    };
    // What all clusters share is made by the first.
    let first = tls::cluster(Arc::new(NoPods));
    let before = resident();
    let clusters: Vec<_> = (0..300).map(|_| tls::cluster(Arc::new(NoPods))).collect();
    let each = resident().saturating_sub(before) / 300;
    println!("{each} KiB per idle cluster");
    assert!(each < 100, "{each} KiB per idle cluster");
    drop(clusters);

    let client = Client::new(first.service_as(tls::TOKEN), "default");
    let maps: Api<ConfigMap> = Api::namespaced(client, "default");
    let started = Instant::now();
    for n in 0..1000 {
        let map: ConfigMap = serde_json::from_value(
            json!({"metadata": {"name": format!("c{n}")}, "data": {"a": "1"}}),
        )
        .expect("a config map");
        maps.create(&PostParams::default(), &map)
            .await
            .expect("created");
    }
    println!(
        "{:.0} creates a second",
        1000.0 / started.elapsed().as_secs_f64()
    );
}
