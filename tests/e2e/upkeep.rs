//! Clusters that are busy with themselves: namespaces that are being removed, servers that have too much to do and say so, warnings,
//! refused pods. A run does what upstream's clients do, and says what it saw.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tests::client::Endpoint;
use tests::lab::Lab;
use tests::program::{Place, Ran};
use tests::proxy::{Changes, Proxy, kubeconfig};

const NAMESPACE: &str = "/api/v1/namespaces/probe";
const HELD: &str = "/api/v1/namespaces/probe/configmaps/held";

/// A cluster without floaters, behind a proxy that changes what it says.
struct Busy {
    lab: Lab,
    end: Endpoint,
}

impl Busy {
    fn up() -> Self {
        let place = Place::new();
        place.write(
            "busy.yaml",
            "clusters:\n  - name: c1\n    nodes: 2\nworkloads: {floater: false}\n",
        );
        let lab = Lab::up_in(place, &["busy.yaml"]);
        let end = Endpoint::of(lab.kubeconfig(), "c1");
        Self { lab, end }
    }

    fn dr(&self, changes: Changes, arguments: &[&str]) -> (Ran, Proxy) {
        let proxy = Proxy::start(self.end.clone(), changes);
        let user = json!({"token": self.end.token});
        self.lab
            .place
            .write("config", kubeconfig(&[("c1", proxy.cluster(), user)]));
        let own = ["dr", "--kubeconfig", "config", "-o", "json"];
        (self.lab.place.run(own.iter().chain(arguments)), proxy)
    }

    fn made(&self, collection: &str, object: &Value) {
        let (status, made) = self.end.call("POST", collection, object);
        assert_eq!(status, 201, "{made}");
    }

    /// A namespace that is being removed until somebody lets go of what is in it.
    fn ending_namespace(&self) {
        self.made(
            "/api/v1/namespaces",
            &json!({"metadata": {"name": "probe"}}),
        );
        let held = json!({"metadata": {"name": "held", "finalizers": ["floater.test/hold"]}});
        self.made("/api/v1/namespaces/probe/configmaps", &held);
        self.end.call("DELETE", NAMESPACE, &Value::Null);
        let phase = &self.end.get(NAMESPACE)["status"]["phase"];
        assert_eq!(phase, "Terminating");
    }

    fn namespaces(&self) -> Vec<String> {
        let items = self.end.items("/api/v1/namespaces");
        let names = items.iter().map(|item| item["metadata"]["name"].as_str());
        let probes = names.flatten().filter(|name| name.starts_with("probe"));
        probes.map(str::to_owned).collect()
    }
}

fn let_go(end: &Endpoint) {
    let (status, said) = end.call("PATCH", HELD, &json!({"metadata": {"finalizers": null}}));
    assert_eq!(status, 200, "{said}");
}

#[track_caller]
fn assert_healthy(ran: &Ran) {
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_eq!(ran.json()["verdict"], "healthy", "{ran:?}");
}

#[test]
#[ignore = "netns: needs vxlan, nft"]
fn a_namespace_that_is_being_removed_is_waited_for_and_made_again() {
    let busy = Busy::up();
    busy.ending_namespace();
    let (looks, end) = (AtomicUsize::new(0), busy.end.clone());
    let changes = Changes::none().before(move |request, _| {
        // The first look is the run's at the cluster, the next ones are those of somebody who waits.
        if request.method == "GET"
            && request.path.ends_with(NAMESPACE)
            && looks.fetch_add(1, Ordering::AcqRel) == 3
        {
            let_go(&end);
        }
        Ok(false)
    });
    let (ran, proxy) = busy.dr(changes, &["-n", "probe"]);
    assert_healthy(&ran);
    assert!(!ran.stderr.contains("uses namespace"), "{}", ran.stderr);
    let made = |line: &&String| line.as_str() == "POST /api/v1/namespaces";
    assert_eq!(proxy.asked().iter().filter(made).count(), 1);
    assert_eq!(busy.namespaces(), [""; 0], "it made it and removes it");
    busy.lab.down();
}

#[test]
#[ignore = "netns: needs vxlan, nft"]
fn a_namespace_that_does_not_end_is_left_for_another() {
    let busy = Busy::up();
    busy.ending_namespace();
    let started = Instant::now();
    let (ran, _) = busy.dr(Changes::none(), &["-n", "probe"]);
    assert_healthy(&ran);
    assert!(
        started.elapsed() < Duration::from_secs(30),
        "{:?}",
        started.elapsed()
    );
    let word =
        "c1: namespace probe is being removed and is not gone yet; this run uses namespace probe-";
    assert!(ran.stderr.contains(word), "{}", ran.stderr);
    assert_eq!(busy.namespaces(), ["probe"], "{}", ran.stderr);
    let_go(&busy.end);
    busy.lab.down();
}

#[test]
#[ignore = "netns: needs vxlan, nft"]
fn a_namespace_that_goes_while_floaters_are_made_is_made_again() {
    let busy = Busy::up();
    busy.made(
        "/api/v1/namespaces",
        &json!({"metadata": {"name": "probe"}}),
    );
    let (end, done) = (busy.end.clone(), AtomicUsize::new(0));
    let changes = Changes::none().before(move |request, _| {
        // Another run that ends removes it between two requests of this one.
        if request.method == "POST"
            && request.path.ends_with("/probe/daemonsets")
            && done.fetch_add(1, Ordering::AcqRel) == 0
        {
            end.call("DELETE", NAMESPACE, &Value::Null);
        }
        Ok(false)
    });
    let (ran, _) = busy.dr(changes, &["-n", "probe"]);
    assert_healthy(&ran);
    busy.lab.down();
}

#[test]
#[ignore = "netns: needs vxlan, nft"]
fn a_server_that_says_when_to_come_back_is_obeyed() {
    const PAUSE: Duration = Duration::from_secs(2);
    let busy = Busy::up();
    let refused: Arc<Mutex<Vec<(String, Instant)>>> = Arc::default();
    let early: Arc<Mutex<Vec<String>>> = Arc::default();
    let (seen, told) = (Arc::clone(&refused), Arc::clone(&early));
    let changes = Changes::none().before(move |request, conn| {
        let is_write = matches!(request.method.as_str(), "POST" | "DELETE");
        if !is_write || request.path.contains("/proxy/") {
            return Ok(false);
        }
        let line = format!("{} {}", request.method, request.path);
        let mut seen = seen.lock().unwrap();
        let first = seen.iter().position(|(asked, _)| *asked == line);
        if let Some(first) = first {
            // Once each: what came early is on record.
            if seen[first].1.elapsed() < PAUSE {
                told.lock().unwrap().push(line);
            }
            seen.remove(first);
            seen.push((format!("{} again", request.path), Instant::now()));
            return Ok(false);
        }
        if seen.iter().any(|(asked, _)| *asked == format!("{} again", request.path)) {
            return Ok(false);
        }
        seen.push((line, Instant::now()));
        let body = json!({"kind": "Status", "code": 429, "reason": "TooManyRequests", "message": "slow down"}).to_string();
        let length = format!("Content-Length: {}", body.len());
        conn.head(429, &["Retry-After: 2", &length])?;
        conn.raw(body.as_bytes())?;
        Ok(true)
    });
    let (ran, proxy) = busy.dr(changes, &[]);
    assert_healthy(&ran);
    assert_eq!(*early.lock().unwrap(), [""; 0]);
    let sets = proxy.asked();
    let sets = sets
        .iter()
        .filter(|line| line.starts_with("POST ") && line.ends_with("/daemonsets"));
    assert_eq!(
        sets.count(),
        3,
        "two were made, the first was asked for twice"
    );
    assert_eq!(busy.end.objects_of_runs(), [""; 0]);
    busy.lab.down();
}

#[test]
#[ignore = "netns: needs vxlan, nft"]
fn what_a_server_warns_of_is_told_once() {
    let busy = Busy::up();
    let end = busy.end.clone();
    let changes = Changes::none().before(move |request, conn| {
        if request.method != "GET" || !request.path.ends_with("/pods") || request.is_watch() {
            return Ok(false);
        }
        let body = end.get(&request.target()).to_string();
        let length = format!("Content-Length: {}", body.len());
        let warning = "Warning: 299 - \"v1 Pod is \\\"old\\\"\u{202e}\", 110 - \"stale\"";
        conn.head(200, &["Content-Type: application/json", warning, &length])?;
        conn.raw(body.as_bytes())?;
        Ok(true)
    });
    let (ran, _) = busy.dr(changes, &[]);
    assert_healthy(&ran);
    let warning = "c1: its API server warns: v1 Pod is \"old\"\u{fffd}";
    assert_eq!(ran.stderr.matches(warning).count(), 1, "{}", ran.stderr);
    assert!(!ran.stderr.contains("stale"), "{}", ran.stderr);
    busy.lab.down();
}

#[test]
#[ignore = "netns: needs vxlan, nft"]
fn pods_that_pod_security_refuses_are_told_soon() {
    let busy = Busy::up();
    let labels = json!({"pod-security.kubernetes.io/enforce": "baseline"});
    let object = json!({"metadata": {"name": "probe", "labels": labels}});
    busy.made("/api/v1/namespaces", &object);
    let started = Instant::now();
    let (ran, _) = busy.dr(Changes::none(), &["-n", "probe"]);
    let report = ran.json();
    assert_eq!(ran.code, Some(2), "{report:#}");
    assert!(
        started.elapsed() < Duration::from_secs(15),
        "{:?}",
        started.elapsed()
    );
    let reasons = tests::lab::names(&report, "/clusters", "reason");
    let says = |reason: &String| reason.contains("violates PodSecurity \"baseline:latest\"");
    assert!(reasons.iter().any(says), "{reasons:?}");
    busy.lab.down();
}

#[test]
#[ignore = "netns: needs vxlan, nft"]
fn rights_that_are_missing_are_named_where_they_are_missed() {
    let busy = Busy::up();
    let changes = Changes::none().before(|request, conn| {
        let is_refused = request.is_watch() || request.path.ends_with("/events");
        if is_refused {
            conn.status(403, "forbidden")?;
        }
        Ok(is_refused)
    });
    let (ran, proxy) = busy.dr(changes, &[]);
    assert_healthy(&ran);
    let word = "grant `watch` on pods";
    assert_eq!(ran.stderr.matches(word).count(), 1, "{}", ran.stderr);
    let watches = proxy.asked();
    let watches = watches.iter().filter(|line| line.contains("watch=1"));
    // Once while the floaters come, and at most once for each look at how they go.
    assert!(watches.count() <= 20, "{:?}", proxy.asked());
    busy.lab.down();
}
