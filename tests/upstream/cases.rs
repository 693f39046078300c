//! What a run has to do on upstream's control plane.

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tests::client::Endpoint;
use tests::lab::Lab;
use tests::program::Ran;

type Case = fn(&World) -> Result<(), String>;

pub(crate) const ALL: &[(&str, Case)] = &[
    ("healthy", healthy),
    ("every run is judged", every_run_is_judged),
    ("rights of the README and no other", rights),
    ("neither watch nor events", without_watch),
    ("readiness that no node sees", blind),
    ("pod security", pod_security),
    ("a namespace in termination", terminating),
    ("a namespace that does not end", stuck),
    ("another namespace's floaters", other_namespace),
    ("interrupted", interrupted),
    ("a dead node", dead_node),
];

const TOPOLOGY: &str = "\
name: real
clusters:
  - {name: real, nodes: 2}
workloads: {floater: false}
kubelets: {renew: 2s, grace: 6s}
";

/// A control plane, two nodes, and an operator.
pub(crate) struct World {
    lab: Lab,
    kubeconfig: String,
    end: Endpoint,
}

impl World {
    pub(crate) fn up() -> Self {
        let lab = crate::up(TOPOLOGY, &["--bare"]);
        let kubeconfig = lab.kubeconfig();
        let end = Endpoint::of(&kubeconfig, "real");
        Self {
            lab,
            kubeconfig,
            end,
        }
    }

    pub(crate) fn down(self) {
        self.lab.down();
    }

    fn arguments<'a>(&self, file: &'a str, further: &[&'a str]) -> Vec<&'a str> {
        [&["dr", "--kubeconfig", file, "-o", "json"], further].concat()
    }

    /// `dr` as the administrator.
    fn dr(&self, further: &[&str]) -> Ran {
        self.lab
            .place
            .run(self.arguments(&self.kubeconfig, further))
    }

    fn make(&self, collection: &str, object: &Value) {
        let (status, made) = self.end.call("POST", collection, object);
        assert!(matches!(status, 201 | 409), "{collection}: {made}");
    }

    fn namespace(&self, name: &str, labels: &Value) {
        self.make(
            "/api/v1/namespaces",
            &json!({"metadata": {"name": name, "labels": labels}}),
        );
    }

    /// Deletes a namespace and waits until it is gone.
    fn gone(&self, name: &str) -> Result<(), String> {
        let path = format!("/api/v1/namespaces/{name}");
        self.end.call("DELETE", &path, &Value::Null);
        within(60, || self.end.call("GET", &path, &Value::Null).0 == 404)
            .map_err(|why| format!("namespace {name} does not end: {why}"))
    }

    fn nothing_left(&self) -> Result<(), String> {
        let left = self.end.objects_of_runs();
        holds(left.is_empty(), || format!("it leaves {left:?}"))
    }

    /// A kubeconfig of an account with these rules in the whole cluster; the name of its file.
    fn account(&self, name: &str, rules: &Value) -> String {
        let accounts = "/api/v1/namespaces/default/serviceaccounts";
        let group = "/apis/rbac.authorization.k8s.io/v1";
        self.make(accounts, &json!({"metadata": {"name": name}}));
        self.make(
            &format!("{group}/clusterroles"),
            &json!({"metadata": {"name": name}, "rules": rules}),
        );
        let binding = json!({"metadata": {"name": name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name},
            "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": "default"}]});
        self.make(&format!("{group}/clusterrolebindings"), &binding);
        let (status, token) = self.end.call(
            "POST",
            &format!("{accounts}/{name}/token"),
            &json!({"spec": {}}),
        );
        assert_eq!(status, 201, "{token}");
        let file = format!("{name}.kubeconfig");
        let user = json!({"token": token["status"]["token"]});
        let text = tests::proxy::kubeconfig(&[("real", self.end.cluster(), user)]);
        self.lab.place.write(&file, text);
        file
    }
}

fn holds(what: bool, otherwise: impl FnOnce() -> String) -> Result<(), String> {
    if what { Ok(()) } else { Err(otherwise()) }
}

fn ends(ran: &Ran, code: i32) -> Result<(), String> {
    holds(ran.code == Some(code), || {
        let reasons = tests::lab::names(&ran.json(), "/clusters", "reason");
        format!("it ended with {:?}: {reasons:?}: {}", ran.code, ran.stderr)
    })
}

/// Waits until something holds.
fn within(seconds: u64, mut what: impl FnMut() -> bool) -> Result<(), String> {
    let deadline = Instant::now() + Duration::from_secs(seconds);
    while !what() {
        holds(Instant::now() < deadline, || {
            format!("not within {seconds} s")
        })?;
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

fn healthy(world: &World) -> Result<(), String> {
    let ran = world.dr(&[]);
    ends(&ran, 0)?;
    let report = ran.json();
    holds(report["verdict"] == "healthy", || format!("{report:#}"))?;
    world.nothing_left()
}

fn every_run_is_judged(world: &World) -> Result<(), String> {
    // A standing namespace spares each run its making; floaters are each run's own.
    world.namespace("kosmos-system", &json!({}));
    (0..8).try_for_each(|_| ends(&world.dr(&[]), 0))
}

/// The rights that the README lists for a namespace that is there.
fn listed(watch: bool, events: bool) -> Value {
    let rule = |group: &str, resources: &[&str], verbs: &[&str]| json!({"apiGroups": [group], "resources": resources, "verbs": verbs});
    let mut rules = vec![
        rule("", &["namespaces"], &["get", "create"]),
        rule("", &["nodes"], &["list"]),
        rule(
            "",
            &["pods"],
            if watch { &["list", "watch"] } else { &["list"] },
        ),
        rule("", &["pods/proxy"], &["get", "create"]),
        rule("", &["secrets"], &["create", "get", "list", "delete"]),
        rule("", &["serviceaccounts"], &["create", "list", "delete"]),
        rule(
            "apps",
            &["daemonsets"],
            &["create", "get", "list", "delete"],
        ),
        rule(
            "kosmos.io",
            &["clusters", "clusternodes", "nodeconfigs"],
            &["list"],
        ),
    ];
    if events {
        rules.push(rule("", &["events"], &["list"]));
    }
    rules.into()
}

fn rights(world: &World) -> Result<(), String> {
    world.namespace("kosmos-system", &json!({}));
    let file = world.account("dr", &listed(true, true));
    let ran = world.lab.place.run(world.arguments(&file, &[]));
    ends(&ran, 0)?;
    holds(!ran.stderr.contains("grant"), || ran.stderr.clone())?;
    world.nothing_left()
}

fn without_watch(world: &World) -> Result<(), String> {
    world.namespace("kosmos-system", &json!({}));
    let file = world.account("dr-less", &listed(false, false));
    let ran = world.lab.place.run(world.arguments(&file, &[]));
    ends(&ran, 0)?;
    let word = "grant `watch` on pods";
    holds(ran.stderr.matches(word).count() == 1, || ran.stderr.clone())?;
    world.nothing_left()
}

fn blind(world: &World) -> Result<(), String> {
    // A kubelet asks the pods of its own node, and nobody else who is on a node does.
    let rules = |verb: &str| -> Result<(), String> {
        for node in world.end.items("/api/v1/nodes") {
            let name = node["metadata"]["name"].as_str().unwrap_or_default();
            let own = node["status"]["addresses"][0]["address"].as_str();
            let pods = node["spec"]["podCIDR"].as_str();
            for to in own.into_iter().chain(pods) {
                let port = floater::wire::PORT;
                let rule = format!(
                    "ip rule {verb} pref 1 iif lo to {to} ipproto tcp dport {port} blackhole"
                );
                let words: Vec<&str> = rule.split_whitespace().collect();
                let ran = world.lab.exec(&format!("real/{name}"), &words);
                holds(ran.code == Some(0), || {
                    format!("{rule} at {name}: {}", ran.stderr)
                })?;
            }
        }
        Ok(())
    };
    rules("add")?;
    let started = Instant::now();
    let ran = world.dr(&[]);
    rules("del")?;
    ends(&ran, 0)?;
    let took = started.elapsed();
    holds(took < Duration::from_secs(20), || {
        format!("it took {took:?}")
    })
}

fn pod_security(world: &World) -> Result<(), String> {
    world.namespace(
        "guarded",
        &json!({"pod-security.kubernetes.io/enforce": "baseline"}),
    );
    let started = Instant::now();
    let ran = world.dr(&["-n", "guarded"]);
    let took = started.elapsed();
    world.gone("guarded")?;
    ends(&ran, 2)?;
    let reasons = tests::lab::names(&ran.json(), "/clusters", "reason").concat();
    holds(reasons.contains("violates PodSecurity"), || reasons.clone())?;
    holds(took < Duration::from_secs(20), || {
        format!("it took {took:?}")
    })
}

/// A run that begins while the namespace of another is being removed.
fn terminating(world: &World) -> Result<(), String> {
    world.gone("kosmos-system")?;
    let first = world
        .lab
        .place
        .start(world.arguments(&world.kubeconfig, &[]));
    let path = "/api/v1/namespaces/kosmos-system";
    let ending = within(60, || {
        world.end.call("GET", path, &Value::Null).1["status"]["phase"] == "Terminating"
    });
    let second = world.dr(&[]);
    let first = Ran::of(first.wait_with_output().unwrap());
    ending?;
    ends(&first, 0)?;
    ends(&second, 0)?;
    world.nothing_left()
}

fn stuck(world: &World) -> Result<(), String> {
    world.namespace("stuck", &json!({}));
    let held = json!({"metadata": {"name": "held", "finalizers": ["floater.test/hold"]}});
    world.make("/api/v1/namespaces/stuck/configmaps", &held);
    world
        .end
        .call("DELETE", "/api/v1/namespaces/stuck", &Value::Null);
    let ran = world.dr(&["-n", "stuck"]);
    let free = json!({"metadata": {"finalizers": null}});
    world
        .end
        .call("PATCH", "/api/v1/namespaces/stuck/configmaps/held", &free);
    world.gone("stuck")?;
    ends(&ran, 0)?;
    holds(
        ran.stderr.contains("this run uses namespace stuck-"),
        || ran.stderr.clone(),
    )?;
    world.nothing_left()
}

fn other_namespace(world: &World) -> Result<(), String> {
    world.namespace("other", &json!({}));
    let kept = world.dr(&["-n", "other", "--keep"]);
    let ran = world.dr(&[]);
    world.gone("other")?;
    ends(&kept, 0)?;
    ends(&ran, 0)
}

fn interrupted(world: &World) -> Result<(), String> {
    let arguments = world.arguments(&world.kubeconfig, &["--rounds", "1000"]);
    let child = world.lab.place.start(arguments);
    let appears = within(60, || !world.end.objects_of_runs().is_empty());
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
    kill(pid, Signal::SIGINT).unwrap();
    let ran = Ran::of(child.wait_with_output().unwrap());
    appears?;
    holds(ran.code == Some(130), || {
        format!("{:?}: {}", ran.code, ran.stderr)
    })?;
    world.nothing_left()
}

/// Pods that no kubelet ends are not waited for.
fn dead_node(world: &World) -> Result<(), String> {
    world.namespace("kosmos-system", &json!({}));
    let is_ready = || {
        let node = world.end.get("/api/v1/nodes/n2");
        let conditions = node["status"]["conditions"].as_array();
        let ready = |one: &Value| one["type"] == "Ready" && one["status"] == "True";
        conditions.is_some_and(|all| all.iter().any(ready))
    };
    let fault = ["sim", "fault", "inject", "NODE-DOWN", "--at", "real/n2"];
    world.lab.place.run(fault).expect(0);
    let lost = within(60, || !is_ready());
    let started = Instant::now();
    let ran = world.dr(&[]);
    let took = started.elapsed();
    world.lab.place.run(["sim", "fault", "clear"]).expect(0);
    let back = within(60, is_ready);
    lost?;
    back?;
    let report = ran.json();
    let reasons = tests::lab::names(&report, "/clusters", "reason").concat();
    holds(reasons.contains("n2: the node is not ready"), || {
        format!("{:?} {reasons}: {}", ran.code, ran.stderr)
    })?;
    holds(took < Duration::from_secs(20), || {
        format!("it took {took:?}")
    })?;
    within(60, || world.end.objects_of_runs().is_empty())
}
