//! Whole labs: real packets between clusters, nothing left afterwards.
#![allow(clippy::unwrap_used, reason = "a test may fail at any step")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use datapath::code::Code;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

/// The driver, with a state folder of its own that has to be empty in the end.
struct Place {
    root: TempDir,
    program: PathBuf,
}

/// The driver, built for whoever runs this test without it.
fn driver() -> &'static Path {
    static DRIVER: OnceLock<PathBuf> = OnceLock::new();
    DRIVER.get_or_init(|| {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        // With the whole workspace, as tests are built: other features would build half of it anew.
        let built = Command::new(cargo)
            .args(["build", "--quiet", "--workspace", "--example", "lab"])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .status();
        assert!(built.unwrap().success());
        // target/debug/deps/lab-… lies beside target/debug/examples/lab.
        let test = std::env::current_exe().unwrap();
        let folder = test.parent().unwrap().parent().unwrap();
        folder.join("examples/lab")
    })
}

impl Place {
    fn new() -> Self {
        Self {
            root: tempfile::tempdir().unwrap(),
            program: driver().to_owned(),
        }
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(words)
            .env("XDG_RUNTIME_DIR", self.root.path())
            .stdin(Stdio::null());
        command
    }

    fn try_run(&self, words: &[&str]) -> Output {
        self.command(words).output().unwrap()
    }

    #[track_caller]
    fn run(&self, words: &[&str]) -> String {
        let output = self.try_run(words);
        assert!(
            output.status.success(),
            "{words:?}: {output:?}\n{}",
            self.log()
        );
        String::from_utf8(output.stdout).unwrap()
    }

    #[track_caller]
    fn refused(&self, words: &[&str], about: &str) {
        let output = self.try_run(words);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(65), "{words:?}: {said}");
        assert!(said.contains(about), "{words:?}: {said}");
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.root.path().join("floater/lab/lab.log")).unwrap_or_default()
    }

    fn status(&self) -> Value {
        serde_json::from_str(&self.run(&["status"])).unwrap()
    }

    /// Whether an address answers an echo sent from a place.
    fn reaches(&self, from: &str, to: &str) -> bool {
        let program = self.program.to_str().unwrap();
        let ping = ["__floater", "ping", "-c", "1", "-W", "1000", to];
        let words = [&["exec", from, program], &ping[..]].concat();
        self.try_run(&words).status.success()
    }

    /// The processes that were started from here.
    fn processes(&self) -> Vec<i32> {
        netns_harness::process::marked(&format!("XDG_RUNTIME_DIR={}", self.root.path().display()))
    }

    #[track_caller]
    fn assert_empty(&self) {
        let entries = std::fs::read_dir(self.root.path()).unwrap();
        let left: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        assert!(left.is_empty(), "{left:?}");
        assert_eq!(self.processes(), [0; 0]);
    }

    #[track_caller]
    fn down(&self) {
        self.run(&["down"]);
        self.assert_empty();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = self.try_run(&["down-all"]);
    }
}

fn reap(mut child: Child) {
    let _ = child.wait();
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

async fn client(kubeconfig: &Path, context: &str) -> kube::Client {
    let read = kube::config::Kubeconfig::read_from(kubeconfig).unwrap();
    let options = kube::config::KubeConfigOptions {
        context: Some(context.to_owned()),
        ..Default::default()
    };
    let config = kube::Config::from_custom_kubeconfig(read, &options)
        .await
        .unwrap();
    kube::Client::try_from(config).unwrap()
}

fn kubeconfig_of(place: &Place) -> PathBuf {
    place.status()["kubeconfig"].as_str().unwrap().into()
}

/// The pods' addresses by place, as the clusters' APIs tell them.
fn pods(kubeconfig: &Path, status: &Value) -> Vec<(String, String)> {
    use k8s_openapi::api::core::v1::Pod;
    let mut found = Vec::new();
    for cluster in status["clusters"].as_array().unwrap() {
        let name = cluster["name"].as_str().unwrap();
        let pods = runtime().block_on(async {
            let client = client(kubeconfig, name).await;
            let pods: kube::Api<Pod> = kube::Api::namespaced(client, "kosmos-system");
            pods.list(&kube::api::ListParams::default()).await.unwrap()
        });
        for pod in pods {
            let (spec, status) = (pod.spec.unwrap(), pod.status.unwrap());
            if spec.host_network == Some(true) {
                continue;
            }
            let node = spec.node_name.unwrap();
            let place = format!("{name}/{node}/{}", pod.metadata.name.unwrap());
            for ip in status.pod_ips.unwrap() {
                found.push((place.clone(), ip.ip));
            }
        }
    }
    found
}

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

#[test]
#[ignore = "netns: needs vxlan, nft"]
fn faults_break_what_they_say_and_are_cleared() {
    let place = Place::new();
    place.run(&["up", "2", "2", "gateway", "ipv4"]);
    let works = || place.reaches("c1/n2/floater-n2", "10.2.1.2");
    assert!(works());
    for code in simulator::control::fault_list() {
        place.run(&["inject", code.word(), "c1/n1,c2"]);
        // A missing neighbour is found again by flooding, as long as the flood rows stand.
        assert_eq!(works(), code == Code::NeighMissing, "{code}");
        let status = place.status();
        assert_eq!(status["faults"][0], format!("{code} at c1/n1"));
        let node = &status["clusters"][0]["nodes"][0];
        assert_eq!(node["faults"][0], code.word());
        assert_eq!(node["frozen"], true);
        place.run(&["clear"]);
        assert!(works(), "{code} was not cleared");
    }
    place.refused(&["inject", "NO-SUCH", "c1"], "NO-SUCH");
    place.refused(&["inject", "LATENCY", "c1"], "delays and drops no packets");
    place.refused(&["inject", "FDB-MISSING", "c7"], "no cluster `c7`");
    place.refused(&["inject", "FDB-MISSING", "c1,c1"], "no peer of its own");
    place.down();
}

#[test]
#[ignore = "netns: needs vxlan, nft"]
fn what_a_fault_took_comes_back_also_where_everything_stands_still() {
    let place = Place::new();
    place.run(&["up", "2", "2", "gateway", "all"]);
    let works = || {
        let to = ["10.2.1.2", "fd10:0:2:1::2"];
        let pods = pods(&kubeconfig_of(&place), &place.status());
        assert!(
            to.iter().all(|ip| pods.iter().any(|(_, held)| held == ip)),
            "{pods:?}"
        );
        to.map(|ip| place.reaches("c1/n2/floater-n2", ip))
    };
    assert_eq!(works(), [true, true]);
    place.run(&["freeze"]);
    for code in [
        "TUNNEL-DEV-DOWN",
        "GATEWAY-DOWN",
        "FORWARD-OFF",
        "ROUTE-WRONG-DEV",
    ] {
        place.run(&["inject", code, "c1/n1,c2"]);
        assert!(!works()[0], "{code}");
        place.run(&["clear"]);
        assert_eq!(works(), [true, true], "{code}");
    }
    // Two at one node, the second of which removes what the first one changed.
    place.run(&["inject", "NEIGH-STALE-MAC", "c1/n1,c2"]);
    place.run(&["inject", "TUNNEL-DEV-DOWN", "c1/n1"]);
    place.run(&["clear"]);
    assert_eq!(works(), [true, true]);
    assert_eq!(place.status()["frozen"][0], "all");
    place.down();
}

/// Whoever deletes a NodeConfig while its agent stands still is heard once it goes on, and not at once: objects come and go.
#[test]
#[ignore = "netns: needs vxlan, nft, iproute2"]
fn a_config_that_was_deleted_while_its_agent_was_frozen_is_withdrawn_after_a_grace() {
    use kube::api::{Api, ApiResource, DeleteParams, DynamicObject};
    use kube::core::GroupVersionKind;

    let place = Place::new();
    place.run(&["up", "2", "1", "gateway", "ipv4"]);
    let rows = || {
        let show = ["exec", "c2/n1", "ip", "route", "show", "table", "200"];
        place.run(&show).lines().count()
    };
    let planned = rows();
    assert!(planned > 0);
    place.run(&["freeze"]);
    runtime().block_on(async {
        let client = client(&kubeconfig_of(&place), "c1").await;
        for (kind, plural) in [
            ("ClusterNode", "clusternodes"),
            ("NodeConfig", "nodeconfigs"),
        ] {
            let kind = GroupVersionKind::gvk("kosmos.io", "v1alpha1", kind);
            let resource = ApiResource::from_gvk_with_plural(&kind, plural);
            let objects: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
            objects
                .delete("c2-n1", &DeleteParams::default())
                .await
                .unwrap();
        }
    });
    assert_eq!(rows(), planned);
    place.run(&["thaw"]);
    assert_eq!(rows(), planned, "withdrawn at once");
    let deadline = Instant::now() + Duration::from_secs(20);
    while rows() > 0 {
        assert!(Instant::now() < deadline, "never withdrawn");
        std::thread::sleep(Duration::from_millis(200));
    }
    place.down();
}

/// What the fix of a finding says may have been done by hand before the fault is cleared, or the half of it.
#[test]
#[ignore = "netns: needs vxlan, nft, iproute2"]
fn faults_that_were_repaired_by_hand_are_cleared_all_the_same() {
    let place = Place::new();
    place.run(&["up", "2", "2", "gateway", "ipv4"]);
    let shell = |script: &str| place.run(&["exec", "c1/n1", "sh", "-c", script]);
    let rows = || {
        shell(
            "ip route show table 200; ip route show | sort; ip neigh show dev vx-bridge nud permanent | sort; \
             bridge fdb show dev vx-bridge | sort; cat /proc/sys/net/ipv4/ip_forward",
        )
    };
    let planned = rows();
    let route = shell("ip route show table 200");
    let route = route.lines().next().unwrap();
    let fdb = shell("bridge fdb show dev vx-bridge | grep -v '^00:00:00:00:00:00'");
    let fdb = fdb.lines().next().unwrap().replace(" self", "");
    let fdb = fdb.replace(" permanent", "");
    let words: Vec<&str> = fdb.split_ascii_whitespace().collect();
    let (mac, vtep) = (
        words[0],
        words[words.iter().position(|word| *word == "dst").unwrap() + 1],
    );
    let words: Vec<&str> = route.split_ascii_whitespace().collect();
    let via = words[words.iter().position(|word| *word == "via").unwrap() + 1];
    for (code, fix) in [
        (
            Code::FdbMissing,
            format!("bridge fdb append {mac} dev vx-bridge dst {vtep} self permanent"),
        ),
        (
            Code::FdbWrongVtep,
            // Half of it: the wrong row is gone.
            format!("bridge fdb del {mac} dev vx-bridge self"),
        ),
        (
            Code::FdbWrongVtep,
            format!("bridge fdb replace {mac} dev vx-bridge dst {vtep} self permanent"),
        ),
        (
            Code::NeighMissing,
            format!("ip neigh add {via} lladdr {mac} dev vx-bridge nud permanent"),
        ),
        (
            Code::NeighStaleMac,
            format!("ip neigh del {via} dev vx-bridge"),
        ),
        (
            Code::RouteMissing,
            format!("ip route add table 200 {route}"),
        ),
        (
            Code::RouteWrongDev,
            format!("ip route replace table 200 {route}"),
        ),
        (Code::TunnelDevDown, "ip link set vx-bridge up".to_owned()),
        (Code::TunnelDevDown, "ip link del vx-bridge".to_owned()),
        (Code::GatewayDown, "ip link set eth0 up".to_owned()),
        (
            Code::ForwardOff,
            "echo 1 > /proc/sys/net/ipv4/ip_forward".to_owned(),
        ),
    ] {
        place.run(&["inject", code.word(), "c1/n1,c2"]);
        shell(&fix);
        place.run(&["clear"]);
        assert_eq!(place.status()["faults"], serde_json::json!([]), "{code}");
        assert!(
            place.reaches("c1/n2/floater-n2", "10.2.1.2"),
            "{code}: {fix}"
        );
        assert!(
            place.reaches("c2/n2/floater-n2", "10.1.1.2"),
            "{code}: {fix}"
        );
        assert_eq!(rows(), planned, "{code}: {fix}");
    }
    place.down();
}

#[test]
#[ignore = "netns: needs vxlan, nft"]
fn a_stopped_lab_is_told_as_such_at_once_and_taken_down() {
    let place = Place::new();
    place.run(&["up", "1", "1", "p2p", "ipv4"]);
    let pid = i32::try_from(place.status()["pid"].as_i64().unwrap()).unwrap();
    kill(Pid::from_raw(pid), Signal::SIGSTOP).unwrap();
    let since = Instant::now();
    for words in [
        &["status"][..],
        &["clear"],
        &["freeze"],
        &["exec", "c1/n1", "true"],
    ] {
        let output = place.try_run(words);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(69), "{words:?}: {said}");
        assert!(
            said.contains(&format!("its process {pid} is stopped")),
            "{said}"
        );
    }
    assert_eq!(place.run(&["down-all"]).trim(), "lab");
    assert!(since.elapsed() < Duration::from_secs(20));
    place.assert_empty();
}

/// A signal to the lab's own process, from its first moment on, ends it as an orderly end does: nobody has to clean up.
#[test]
#[ignore = "netns: needs vxlan, nft"]
fn whatever_asks_a_lab_to_end_leaves_nothing() {
    let signals = [
        Signal::SIGHUP,
        Signal::SIGINT,
        Signal::SIGQUIT,
        Signal::SIGTERM,
    ];
    for (step, signal) in signals.into_iter().cycle().take(12).enumerate() {
        let place = Place::new();
        // As in the background of a shell without job control: SIGINT and SIGQUIT are ignored, and SIGHUP with nohup.
        let mut command = Command::new("sh");
        let script = "trap '' HUP INT QUIT; exec \"$@\"";
        command.args(["-c", script, "sh"]).arg(&place.program);
        command.args(["up", "2", "2", "mixed", "ipv4"]);
        let child = command
            .env("XDG_RUNTIME_DIR", place.root.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let folder = place.root.path().join("floater/lab");
        let deadline = Instant::now() + Duration::from_secs(20);
        // From the lab's first file on, and later.
        while !folder.join("lab.json").exists() {
            assert!(Instant::now() < deadline, "no lab has begun");
        }
        std::thread::sleep(Duration::from_millis(step as u64 / 4 * 150));
        let record = std::fs::read(folder.join("lab.json")).unwrap();
        let record: Value = serde_json::from_slice(&record).unwrap();
        let pid = i32::try_from(record["pid"].as_i64().unwrap()).unwrap();
        kill(Pid::from_raw(pid), signal).unwrap();
        assert!(netns_harness::process::wait_for_end(pid, Duration::from_secs(20)).unwrap());
        reap(child);
        place.assert_empty();
    }
}

/// A floater says what it does, and does it where that cannot be said.
#[test]
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
#[ignore = "netns: needs vxlan, nft, iproute2"]
fn drift_is_repaired_within_a_second_unless_frozen() {
    let place = Place::new();
    place.run(&["up", "2", "1", "gateway", "ipv4"]);
    let ip = |words: &[&str]| {
        let words = ["exec", "c1/n1", "ip", "route"]
            .iter()
            .chain(words)
            .copied();
        place.run(&words.collect::<Vec<_>>())
    };
    let count = || ip(&["show", "table", "200"]).lines().count();
    let flush = || ip(&["flush", "table", "200"]);
    let planned = count();
    assert!(planned > 0);
    flush();
    let deadline = Instant::now() + Duration::from_secs(1);
    while count() != planned {
        assert!(Instant::now() < deadline, "not repaired within a second");
    }
    place.run(&["freeze", "c1/n1"]);
    assert_eq!(place.status()["frozen"][0], "c1/n1");
    flush();
    // Longer than an agent's round: nothing is what has to happen.
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(count(), 0);
    place.run(&["thaw", "c1/n1"]);
    assert_eq!(count(), planned);
    place.refused(&["freeze", "c1/n9"], "no node `n9`");
    place.down();
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
fn a_lab_that_is_killed_at_any_moment_leaves_nothing_after_down_all() {
    for step in 0..10_u64 {
        let place = Place::new();
        let child = place
            .command(&["up", "3", "2", "mixed", "ipv4"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // The moment is the test's subject.
        std::thread::sleep(Duration::from_millis(step * 70));
        for (index, pid) in place.processes().into_iter().enumerate() {
            if step % 2 == 0 || index % 2 == 0 {
                // It may have ended by itself.
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
        reap(child);
        place.run(&["down-all"]);
        place.assert_empty();
    }
}

#[test]
#[ignore = "netns: needs vxlan, nft"]
fn those_who_take_the_same_labs_down_do_not_end_each_other() {
    let place = Place::new();
    for killed in [true, true, true, false] {
        for name in ["one", "two"] {
            place.run(&["up", "1", "1", "p2p", "ipv4", name]);
        }
        if killed {
            for pid in place.processes() {
                // A floater may have ended with its lab.
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
        let downs: Vec<Child> = (0..3)
            .map(|_| {
                let mut down = place.command(&["down-all"]);
                down.stdout(Stdio::piped()).stderr(Stdio::piped());
                down.spawn().unwrap()
            })
            .collect();
        for down in downs {
            let output = down.wait_with_output().unwrap();
            assert!(output.status.success(), "{output:?}");
        }
        place.assert_empty();
    }
}

#[test]
#[ignore = "netns: needs vxlan, nft"]
fn a_killed_lab_is_told_as_such_and_its_name_is_free_again() {
    let place = Place::new();
    place.run(&["up", "1", "1", "p2p", "ipv4"]);
    let lab = place.status()["pid"].as_i64().unwrap();
    kill(Pid::from_raw(i32::try_from(lab).unwrap()), Signal::SIGKILL).unwrap();
    netns_harness::process::wait_for_end(i32::try_from(lab).unwrap(), Duration::from_secs(5))
        .unwrap();
    for verb in ["status", "clear"] {
        place.refused(&[verb], "was killed");
    }
    place.run(&["up", "1", "1", "p2p", "ipv4"]);
    assert_eq!(place.status()["name"], "lab");
    place.down();
}

#[test]
#[ignore = "netns: needs vxlan, nft"]
fn a_tied_lab_ends_with_its_caller() {
    use std::io::{BufRead as _, BufReader};
    let place = Place::new();
    let mut child = place
        .command(&["hold", "2"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    assert!(Path::new(line.trim()).is_file());
    let processes = place.processes();
    assert!(processes.len() > 5);
    child.kill().unwrap();
    reap(child);
    for pid in processes {
        let ended = netns_harness::process::wait_for_end(pid, Duration::from_secs(10));
        assert!(ended.unwrap());
    }
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
