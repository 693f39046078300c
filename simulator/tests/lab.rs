//! Whole labs: real packets between clusters, nothing left afterwards.
#![allow(clippy::unwrap_used, reason = "a test may fail at any step")]

#[path = "lab/endings.rs"]
mod endings;
#[path = "lab/faults.rs"]
mod faults;
#[path = "lab/nodes.rs"]
mod nodes;
#[path = "lab/place.rs"]
mod place;

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use place::{Place, client, driver, pods, runtime};

#[test]
#[ignore = "netns: needs vxlan, nft"]
fn every_pod_reaches_every_pod_in_every_mode_and_family() {
    for (clusters, mode, family, addresses) in [
        ("3", "gateway", "ipv4", 1),
        ("2", "p2p", "all", 2),
        ("3", "mixed", "all", 2),
        ("2", "mixed", "ipv6", 1),
    ] {
        let place = Place::new();
        let kubeconfig = place.run(&["up", clusters, "2", mode, family]);
        let pods = pods(Path::new(kubeconfig.trim()), &place.status());
        let count: usize = clusters.parse().unwrap();
        assert_eq!(pods.len(), count * 2 * addresses);
        for (from, _) in &pods {
            for (to, ip) in &pods {
                assert!(
                    place.reaches(from, ip),
                    "{mode} {family}: {from} to {to} {ip}"
                );
            }
        }
        place.down();
    }
}

/// A floater says what it does, and does it where that cannot be said.
#[test]
#[ignore = "scale: needs scale"]
fn a_floater_whose_log_is_full_serves_all_the_same() {
    use std::net::TcpStream;
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let [port, api] = [&free, &other].map(|free| free.local_addr().unwrap().port());
    drop((free, other));
    let full = || {
        std::fs::OpenOptions::new()
            .write(true)
            .open("/dev/full")
            .unwrap()
    };
    let mut floater = Command::new(driver())
        .args(["__floater", "serve"])
        .env_clear()
        .env("FLOATER_CLUSTER_ID", "id")
        .env("FLOATER_NODE", "n1")
        .env("FLOATER_LAYER", "host")
        .env("FLOATER_RUN", "r")
        .env("FLOATER_RUN_KEY", "00".repeat(16))
        .env("FLOATER_BIND", "127.0.0.1")
        .env("FLOATER_LOG", "trace")
        .env("PORT", port.to_string())
        .env("FLOATER_API_PORT", api.to_string())
        .stdin(Stdio::null())
        .stdout(full())
        .stderr(full())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert_eq!(floater.try_wait().unwrap(), None, "it has ended");
        assert!(Instant::now() < deadline, "it does not listen");
    }
    let pid = Pid::from_raw(i32::try_from(floater.id()).unwrap());
    kill(pid, Signal::SIGTERM).unwrap();
    assert!(floater.wait().unwrap().success());
}

#[test]
#[ignore = "netns: needs vxlan, nft"]
fn names_and_places_are_checked() {
    let place = Place::new();
    place.refused(&["status"], "no simulated fleet is running");
    place.refused(&["down", "x"], "no simulated fleet named `x` is running");
    let other = ["up", "1", "1", "p2p", "ipv4", "Not_A_Label"];
    place.refused(&other, "DNS label");
    place.run(&["up", "1", "1", "p2p", "ipv4"]);
    place.refused(&["up", "1", "1", "p2p", "ipv4"], "running already");
    for (at, about) in [
        ("c9/n1", "no cluster `c9`"),
        ("c1/n9", "no node `n9`"),
        ("c1/n1/x", "no pod `x`"),
        ("c1", "none of CLUSTER/NODE"),
        ("", "none of CLUSTER/NODE"),
        ("a/b/c/d", "none of CLUSTER/NODE"),
    ] {
        place.refused(&["exec", at, "true"], about);
    }
    let output = place.try_run(&["exec", "underlay", "sh", "-c", "echo out; exit 37"]);
    assert_eq!(output.status.code(), Some(37));
    assert_eq!(output.stdout, b"out\n");
    place.run(&["up", "1", "1", "p2p", "ipv4", "second"]);
    place.refused(&["status"], "several simulated fleets");
    assert_eq!(place.run(&["down-all"]).trim(), "lab second");
    place.assert_empty();
}

#[test]
#[ignore = "netns: needs vxlan, nft"]
fn a_lab_that_cannot_be_is_refused_and_leaves_nothing() {
    let place = Place::new();
    // Neither the limit nor, for root, the right to raise it: resource limits go with the machine's own root only.
    let mut command = Command::new("sh");
    let limited =
        "ulimit -n 300; exec setpriv --bounding-set=-sys_resource --inh-caps=-sys_resource \"$@\"";
    command.args(["-c", limited, "sh"]);
    command.arg(&place.program);
    command.args(["up", "20", "2", "p2p", "ipv4"]);
    let output = command
        .env("XDG_RUNTIME_DIR", place.root.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(69), "{said}");
    assert!(said.contains("descriptors (40 nodes)"), "{said}");
    place.assert_empty();

    // Somebody else's link in the place of the state: nothing is built there, and nothing behind it removed.
    let other = tempfile::tempdir().unwrap();
    let kept = other.path().join("documents");
    std::fs::create_dir(&kept).unwrap();
    let link = place.root.path().join("floater");
    std::os::unix::fs::symlink(other.path(), &link).unwrap();
    for words in [
        &["up", "1", "1", "p2p", "ipv4"][..],
        &["down-all"],
        &["status"],
    ] {
        let output = place.try_run(words);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            !output.status.success() && said.contains("is no folder"),
            "{words:?}: {said}"
        );
    }
    assert!(kept.is_dir());
    std::fs::remove_file(&link).unwrap();
    place.assert_empty();
}

#[test]
#[ignore = "netns: needs vxlan, nft"]
fn a_topology_says_what_is_broken_and_how_floaters_run() {
    let place = Place::new();
    let file = place.root.path().join("t.yaml");
    let text = "\
name: mine
clusters: [{name: east, family: all}, {name: west, mode: p2p, family: all}]
workloads: {floaters: shared}
faults: [{code: ROUTE-MISSING, at: east/n1, peer: west}]
";
    std::fs::write(&file, text).unwrap();
    place.run(&["up", file.to_str().unwrap()]);
    std::fs::remove_file(&file).unwrap();
    let status = place.status();
    assert_eq!(status["name"], "mine");
    assert_eq!(status["faults"][0], "ROUTE-MISSING at east/n1");
    // The lab, and no process for any floater.
    assert_eq!(place.processes().len(), 1);
    let pods = status["clusters"][1]["nodes"][0]["pods"].as_array();
    let pods = pods.unwrap();
    assert!(
        pods.len() == 2 && pods.iter().all(|pod| pod[1] == true),
        "{status:#}"
    );
    assert!(!place.reaches("east/n1/floater-n1", "10.2.0.2"));
    place.run(&["clear"]);
    assert!(place.reaches("east/n1/floater-n1", "10.2.0.2"));
    place.down();
}

#[test]
#[ignore = "netns: needs vxlan, nft"]
fn a_kubelet_runs_what_it_knows_and_says_what_it_does_not() {
    use k8s_openapi::api::core::v1::Pod;
    use kube::api::{Api, DeleteParams, PostParams};
    use kube::runtime::wait::await_condition;

    let place = Place::new();
    let kubeconfig = place.run(&["up", "1", "1", "p2p", "ipv4"]);
    runtime().block_on(async {
        let patience = Duration::from_secs(20);
        let client = client(Path::new(kubeconfig.trim()), "c1").await;
        let pods: Api<Pod> = Api::namespaced(client, "kosmos-system");
        let pod: Pod = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "web"},
            "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "nginx:1"}]},
        }))
        .unwrap();
        pods.create(&PostParams::default(), &pod).await.unwrap();
        let reason = |pod: Option<&Pod>| {
            let statuses = pod?.status.as_ref()?.container_statuses.as_ref()?;
            statuses.first()?.state.clone()?.waiting?.reason
        };
        let waits = await_condition(pods.clone(), "web", move |pod: Option<&Pod>| {
            reason(pod).as_deref() == Some("ErrImagePull")
        });
        tokio::time::timeout(patience, waits)
            .await
            .unwrap()
            .unwrap();
        pods.delete("web", &DeleteParams::default()).await.unwrap();
        let gone = await_condition(pods.clone(), "web", |pod: Option<&Pod>| pod.is_none());
        tokio::time::timeout(patience, gone).await.unwrap().unwrap();

        // A floater that dies is started anew, in its old namespace.
        let before = pods.get("floater-n1").await.unwrap();
        let ip = before.status.unwrap().pod_ip.unwrap();
        let inside = place.run(&["exec", "c1/n1/floater-n1", "readlink", "/proc/self/ns/net"]);
        let lives_there = |pid: &i32| {
            std::fs::read_link(format!("/proc/{pid}/ns/net"))
                .is_ok_and(|link| link.to_string_lossy() == inside.trim())
        };
        let floater = place.processes().into_iter().find(lives_there).unwrap();
        kill(Pid::from_raw(floater), Signal::SIGKILL).unwrap();
        let again = await_condition(pods.clone(), "floater-n1", move |pod: Option<&Pod>| {
            let status = pod.and_then(|pod| pod.status.as_ref());
            status.is_some_and(|status| {
                let mut containers = status.container_statuses.iter().flatten();
                status.pod_ip.as_ref() == Some(&ip)
                    && containers.any(|container| container.ready && container.restart_count == 1)
            })
        });
        tokio::time::timeout(patience, again)
            .await
            .unwrap()
            .unwrap();
    });
    place.down();
}

/// Two cores bring up 100 clusters with their APIs and 400 floaters in about five seconds when nothing else runs.
#[test]
#[ignore = "scale: needs netns, vxlan, nft"]
fn a_hundred_clusters() {
    let place = Place::new();
    let started = Instant::now();
    place.run(&["up", "100", "2", "gateway", "ipv4"]);
    let up = started.elapsed();
    assert!(place.reaches("c001/n2/floater-n2", "10.100.1.2"));
    let started = Instant::now();
    place.down();
    println!("up {up:?}, down {:?}", started.elapsed());
}
