//! Clusters as they are met in the field: slow, behind proxies, with odd nodes, odd certificates, odd kubeconfigs. What is
//! in order is judged healthy, what is not is named for what it is.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tests::client::Endpoint;
use tests::lab::Lab;
use tests::program::{Place, Ran};
use tests::proxy::{Changes, Proxy, kubeconfig};
use tests::server::Certificate;

/// A lab of two clusters, their endpoints.
struct Pair {
    lab: Lab,
    ends: [Endpoint; 2],
}

impl Pair {
    fn up(arguments: &[&str]) -> Self {
        let arguments: Vec<&str> = ["--clusters", "2", "--nodes", "2"]
            .into_iter()
            .chain(arguments.iter().copied())
            .collect();
        Self::of(Lab::up(&arguments))
    }

    /// Without floaters, so that runs deploy their own.
    fn bare() -> Self {
        let place = Place::new();
        place.write(
            "bare.yaml",
            "clusters:\n  - name: c1\n    nodes: 2\n  - name: c2\n    nodes: 2\nworkloads: {floater: false}\n",
        );
        Self::of(Lab::up_in(place, &["bare.yaml"]))
    }

    fn of(lab: Lab) -> Self {
        let ends = ["c1", "c2"].map(|name| Endpoint::of(lab.kubeconfig(), name));
        Self { lab, ends }
    }

    fn user(&self, position: usize) -> Value {
        json!({"token": self.ends[position].token})
    }

    /// A kubeconfig of both, with these clusters.
    fn config(&self, clusters: [Value; 2]) -> String {
        let [first, second] = clusters;
        kubeconfig(&[("c1", first, self.user(0)), ("c2", second, self.user(1))])
    }

    /// A kubeconfig of both as they are.
    fn plain(&self) -> Value {
        let text = self.config([self.ends[0].cluster(), self.ends[1].cluster()]);
        serde_json::from_str(&text).unwrap()
    }

    /// `dr` over a kubeconfig of this text.
    fn dr(&self, config: &str, arguments: &[&str]) -> Ran {
        self.lab.place.write("config", config);
        let own = ["dr", "--kubeconfig", "config", "-o", "json"];
        self.lab.place.run(own.iter().chain(arguments))
    }

    /// `dr` with the first cluster behind a proxy that changes its answers.
    fn dr_with_first(&self, changes: Changes, arguments: &[&str]) -> Ran {
        let proxy = Proxy::start(self.ends[0].clone(), changes);
        self.dr(
            &self.config([proxy.cluster(), self.ends[1].cluster()]),
            arguments,
        )
    }

    fn freeze(&self) {
        self.lab.place.run(["sim", "freeze"]).expect(0);
    }

    /// Runs a shell line on each of these nodes.
    fn on(&self, places: &[&str], line: &str) {
        for place in places {
            self.lab.exec(place, &["sh", "-c", line]).expect(0);
        }
    }
}

#[track_caller]
fn assert_in_order(ran: Ran) {
    let report = ran.expect(0).json();
    assert_eq!(report["findings"], json!([]), "{report:#}");
    assert_eq!(report["verdict"], "healthy", "{report:#}");
}

fn codes(report: &Value) -> Vec<String> {
    tests::lab::names(report, "/findings", "code")
}

/// Severities of a report's findings, each once.
fn has_errors(report: &Value) -> bool {
    tests::lab::names(report, "/findings", "severity").contains(&"error".to_owned())
}

fn executable(place: &Place, name: &str, text: &str) {
    let path = place.write(name, text);
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

fn credential(token: &str) -> String {
    json!({"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": {"token": token}}).to_string()
}

#[test]
#[ignore = "netns: needs vxlan, nft"]
fn a_slow_api_server_is_waited_for() {
    let pair = Pair::up(&[]);
    let slow = Changes::none().before(|_, _| {
        std::thread::sleep(Duration::from_millis(1500));
        Ok(false)
    });
    assert_in_order(pair.dr_with_first(slow, &["--timeout", "120"]));
    pair.lab.down();
}

#[test]
#[ignore = "netns: needs vxlan, nft"]
fn a_slow_plugin_runs_once_and_is_waited_for() {
    let pair = Pair::up(&[]);
    let script = format!(
        "#!/bin/sh\necho x >> runs\nsleep 2\nprintf '%s' '{}'\n",
        credential(&pair.ends[1].token)
    );
    executable(&pair.lab.place, "plugin", &script);
    let mut config = pair.plain();
    config["users"][1]["user"] = json!({"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": "./plugin",
        "interactiveMode": "Never"}});
    assert_in_order(pair.dr(&config.to_string(), &[]));
    let runs = std::fs::read_to_string(pair.lab.place.path().join("runs")).unwrap();
    assert_eq!(runs.lines().count(), 1);
    pair.lab.down();
}

#[test]
#[ignore = "netns: needs vxlan, nft"]
fn a_plugin_is_told_of_its_cluster() {
    let pair = Pair::up(&[]);
    let script = format!(
        "#!/bin/sh\nprintf '%s' \"$KUBERNETES_EXEC_INFO\" > seen\nprintf '%s' '{}'\n",
        credential(&pair.ends[0].token)
    );
    executable(&pair.lab.place, "plugin", &script);
    let mut config = pair.plain();
    config["clusters"][0]["cluster"]["extensions"] =
        json!([{"name": "client.authentication.k8s.io/exec", "extension": {"team": "harbour"}}]);
    config["users"][0]["user"] = json!({"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": "./plugin",
        "interactiveMode": "IfAvailable", "provideClusterInfo": true}});
    assert_in_order(pair.dr(&config.to_string(), &[]));
    let seen = std::fs::read(pair.lab.place.path().join("seen")).unwrap();
    let seen: Value = serde_json::from_slice(&seen).unwrap();
    assert_eq!(seen["spec"]["interactive"], json!(false), "{seen:#}");
    assert_eq!(
        seen["spec"]["cluster"]["config"],
        json!({"team": "harbour"}),
        "{seen:#}"
    );
    assert_eq!(
        seen["spec"]["cluster"]["server"],
        pair.ends[0].cluster()["server"],
        "{seen:#}"
    );
    pair.lab.down();
}

/// Adds a node that no kubelet serves.
fn add_node(end: &Endpoint, labels: &Value, taint: &Value, ready: &str) {
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "leased-1", "labels": labels}, "spec": {"taints": [taint]}});
    let (status, made) = end.call("POST", "/api/v1/nodes", &node);
    assert_eq!(status, 201, "{made}");
    let state = json!({"status": {"addresses": [{"type": "InternalIP", "address": "198.51.100.7"}],
        "conditions": [{"type": "Ready", "status": ready, "reason": "NodeStatusUnknown"}]}});
    let (status, made) = end.call("PATCH", "/api/v1/nodes/leased-1/status", &state);
    assert_eq!(status, 200, "{made}");
}

#[test]
#[ignore = "netns: needs vxlan, nft"]
fn nodes_without_a_kubelet_are_no_fault() {
    for (key, value) in [
        ("eks.amazonaws.com/compute-type", "fargate"),
        ("type", "virtual-kubelet"),
    ] {
        let pair = Pair::bare();
        let labels = json!({"kubernetes.io/os": "linux", key: value});
        let key = if key == "type" {
            "virtual-kubelet.io/provider"
        } else {
            key
        };
        add_node(
            &pair.ends[0],
            &labels,
            &json!({"key": key, "value": value, "effect": "NoSchedule"}),
            "True",
        );
        let started = Instant::now();
        let ran = pair.dr(&pair.plain().to_string(), &[]);
        let report = ran.json();
        assert!(matches!(ran.code, Some(0 | 2)), "{key}: {report:#}");
        assert!(!has_errors(&report), "{key}: {report:#}");
        assert!(
            started.elapsed() < Duration::from_secs(20),
            "{key}: it was waited for"
        );
        assert_eq!(
            [
                pair.ends[0].objects_of_runs(),
                pair.ends[1].objects_of_runs()
            ]
            .concat(),
            [""; 0]
        );
        pair.lab.down();
    }
}

#[test]
#[ignore = "netns: needs vxlan, nft"]
fn a_node_that_its_cluster_calls_not_ready_is_no_fault() {
    let pair = Pair::bare();
    let taint = json!({"key": "node.kubernetes.io/unreachable", "effect": "NoExecute"});
    add_node(
        &pair.ends[0],
        &json!({"kubernetes.io/os": "linux"}),
        &taint,
        "Unknown",
    );
    let started = Instant::now();
    let ran = pair.dr(&pair.plain().to_string(), &[]);
    let report = ran.json();
    assert!(matches!(ran.code, Some(0 | 2)), "{report:#}");
    assert!(!has_errors(&report), "{report:#}");
    assert!(
        started.elapsed() < Duration::from_secs(20),
        "its pod was waited for"
    );
    pair.lab.down();
}

/// The objects of a kind that a proxy keeps instead of the cluster.
#[test]
#[ignore = "netns: needs vxlan, nft"]
fn refused_pods_are_told_in_the_cluster_s_words_at_once() {
    const WHY: &str = "Error creating: pods \"x\" is forbidden: failed quota: team: must specify limits.cpu for: floater";
    let pair = Pair::bare();
    let made = std::sync::Mutex::new(Vec::<Value>::new());
    let changes = Changes::none().before(move |request, conn| {
        let mut made = made.lock().unwrap();
        let path = request.path.as_str();
        let list = |kind: &str, items: &[Value]| json!({"kind": kind, "metadata": {"resourceVersion": "1"}, "items": items});
        match request.method.as_str() {
            "POST" if path.ends_with("/daemonsets") => {
                let mut object = request.json();
                object["metadata"]["uid"] = json!(format!("u{}", made.len()));
                object["status"] = json!({"desiredNumberScheduled": 2, "currentNumberScheduled": 0, "numberReady": 0});
                conn.bytes(201, object.to_string().as_bytes())?;
                made.push(object);
            }
            "GET" if path.ends_with("/daemonsets") => conn.json(&list("DaemonSetList", &made))?,
            "DELETE" if path.contains("/daemonsets/") => conn.json(&json!({"kind": "Status", "status": "Success"}))?,
            "GET" if path.ends_with("/events") => {
                let events: Vec<Value> = made
                    .iter()
                    .map(|object| {
                        json!({"metadata": {"name": "e", "namespace": object["metadata"]["namespace"]}, "type": "Warning",
                            "reason": "FailedCreate", "message": WHY,
                            "involvedObject": {"kind": "DaemonSet", "name": object["metadata"]["name"], "uid": object["metadata"]["uid"]}})
                    })
                    .collect();
                conn.json(&list("EventList", &events))?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    });
    let started = Instant::now();
    let ran = pair.dr_with_first(changes, &[]);
    let report = ran.json();
    assert_eq!(ran.code, Some(2), "{report:#}");
    assert!(
        started.elapsed() < Duration::from_secs(15),
        "{:?}",
        started.elapsed()
    );
    let reasons = tests::lab::names(&report, "/clusters", "reason");
    assert!(
        reasons
            .iter()
            .any(|reason| reason.contains("must specify limits.cpu")),
        "{report:#}"
    );
    pair.lab.down();
}

#[test]
#[ignore = "netns: needs vxlan, nft"]
fn a_namespace_that_others_have_moved_into_stays_and_is_told() {
    let pair = Pair::bare();
    let changes = Changes::none().items("/namespaces/probe/configmaps", |items| {
        items.push(json!({"metadata": {"name": "prices", "namespace": "probe", "uid": "m"}, "data": {"apple": "1"}}));
    });
    let ran = pair.dr_with_first(changes, &["-n", "probe"]);
    assert!(matches!(ran.code, Some(0 | 2)), "{ran:?}");
    let (first, _) = pair.ends[0].call("GET", "/api/v1/namespaces/probe", &Value::Null);
    let told = ran
        .stderr
        .to_lowercase()
        .contains("namespace probe, which this program made, stays");
    assert!(
        first == 404 || told,
        "it stays without a word: {}",
        ran.stderr
    );
    // In the second cluster nobody has moved in.
    let deadline = Instant::now() + Duration::from_secs(10);
    while pair.ends[1]
        .call("GET", "/api/v1/namespaces/probe", &Value::Null)
        .0
        != 404
    {
        assert!(Instant::now() < deadline, "{}", ran.stderr);
    }
    pair.lab.down();
}

#[test]
#[ignore = "netns: needs vxlan, nft"]
fn two_clusters_of_one_id_are_not_one() {
    let pair = Pair::up(&[]);
    let proxies = [0, 1].map(|position: usize| {
        let changes = Changes::none().after(|request, value| {
            if request.path == "/api/v1/namespaces/kube-system" {
                value["metadata"]["uid"] = json!("0d0d0d0d-0000-4000-8000-0d0d0d0d0d0d");
            }
        });
        Proxy::start(pair.ends[position].clone(), changes)
    });
    let config = pair.config([proxies[0].cluster(), proxies[1].cluster()]);
    let ran = pair.dr(&config, &[]);
    let report = ran.json();
    assert_ne!(ran.code, Some(0), "{report:#}");
    assert_ne!(report["verdict"], "healthy", "{report:#}");
    assert!(
        codes(&report).contains(&"CLUSTER-ID-DUPLICATE".to_owned()),
        "{report:#}"
    );
    pair.lab.down();
}

/// The nodes of the first cluster get other addresses, which are what its API gives out from then on.
fn on_another_card(pair: &Pair) -> Changes {
    for (number, node) in ["c1/n1", "c1/n2"].into_iter().enumerate() {
        pair.on(
            &[node],
            &format!("ip addr add 192.0.2.{}/32 dev lo", 10 + number),
        );
    }
    Changes::none().items("/api/v1/nodes", |items| {
        for (number, node) in items.iter_mut().enumerate() {
            node["status"]["addresses"] =
                json!([{"type": "InternalIP", "address": format!("192.0.2.{}", 10 + number)}]);
        }
    })
}

#[test]
#[ignore = "netns: needs vxlan, nft, iproute2"]
fn the_datapath_s_own_address_of_a_node_counts() {
    let pair = Pair::up(&[]);
    pair.freeze();
    let changes = on_another_card(&pair);
    assert_in_order(pair.dr_with_first(changes, &[]));
    pair.lab.down();
}

#[test]
#[ignore = "netns: needs vxlan, nft, iproute2"]
fn a_cluster_is_known_by_the_datapath_s_addresses_under_any_name() {
    let pair = Pair::up(&[]);
    pair.freeze();
    pair.on(&["c1/n1"], "bridge fdb flush dev vx-bridge");
    let changes = on_another_card(&pair);
    let proxy = Proxy::start(pair.ends[0].clone(), changes);
    let config = kubeconfig(&[
        ("east", proxy.cluster(), pair.user(0)),
        ("west", pair.ends[1].cluster(), pair.user(1)),
    ]);
    let report = pair.dr(&config, &[]).expect(1).json();
    assert_eq!(codes(&report), ["FDB-MISSING"], "{report:#}");
    assert_eq!(report["findings"][0]["element"]["cluster"], "c1");
    pair.lab.down();
}

#[test]
#[ignore = "netns: needs vxlan, nft, iproute2"]
fn a_link_that_takes_no_large_packets_is_no_healthy_fleet() {
    let pair = Pair::up(&[]);
    pair.freeze();
    pair.on(&["underlay"], "ip link set p0n1 mtu 1400");
    let (code, report) = pair.lab.dr(&[]);
    assert_eq!(code, Some(1), "{report:#}");
    assert_eq!(codes(&report), ["PMTU-BLACKHOLE"], "{report:#}");
    let element = &report["findings"][0]["element"];
    assert!(element.to_string().contains("c1/n1"), "{element}");
    pair.on(&["underlay"], "ip link set p0n1 mtu 1500");
    let (code, report) = pair.lab.dr(&[]);
    assert_eq!(code, Some(0), "{report:#}");
    pair.lab.down();
}

#[test]
#[ignore = "netns: needs vxlan, nft, iproute2"]
fn a_node_without_pod_prefixes_is_named() {
    let pair = Pair::up(&["--mode", "p2p"]);
    pair.freeze();
    pair.on(&["c1/n1", "c1/n2"], "ip route del 10.2.1.0/24 table 200");
    let changes = Changes::none()
        .items("/clusternodes", |items| {
            for item in items
                .iter_mut()
                .filter(|item| item["metadata"]["name"] == "c2-n2")
            {
                item["spec"].as_object_mut().unwrap().remove("podCIDRs");
            }
        })
        .items("/nodeconfigs", |items| {
            for item in items.iter_mut().filter(|item| {
                item["metadata"]["name"]
                    .as_str()
                    .unwrap()
                    .starts_with("c1-")
            }) {
                let routes = item["spec"]["routes"].as_array_mut().unwrap();
                routes.retain(|route| route["cidr"] != "10.2.1.0/24");
            }
        });
    assert_named(&pair, changes, "CLUSTERNODE-INCOMPLETE", "podCIDRs");
    pair.lab.down();
}

#[test]
#[ignore = "netns: needs vxlan, nft, iproute2"]
fn clusters_without_a_gateway_are_named() {
    let pair = Pair::up(&["--mode", "gateway"]);
    pair.freeze();
    pair.on(&["c1/n1", "c2/n1"], "ip link del vx-bridge");
    pair.on(
        &["c1/n1", "c1/n2", "c2/n1", "c2/n2"],
        "ip route flush table 200",
    );
    let changes = Changes::none()
        .items("/clusternodes", |items| {
            items
                .iter_mut()
                .for_each(|item| item["spec"]["roles"] = json!(null))
        })
        .items("/nodeconfigs", |items| {
            for item in items {
                for list in ["routes", "iptables", "fdbs", "arps"] {
                    item["spec"][list] = json!(null);
                }
                let devices = item["spec"]["devices"].as_array_mut().unwrap();
                devices.retain(|device| device["name"] == "vx-local");
            }
        });
    assert_named(&pair, changes, "GATEWAY-NOT-ELECTED", "gateway");
    pair.lab.down();
}

#[test]
#[ignore = "netns: needs vxlan, nft, iproute2"]
fn a_family_that_the_nodes_lack_is_named() {
    let pair = Pair::up(&["--mode", "gateway"]);
    pair.freeze();
    let changes = Changes::none().items("v1alpha1/clusters", |items| {
        for item in items
            .iter_mut()
            .filter(|item| item["metadata"]["name"] == "c1")
        {
            item["spec"]["clusterLinkOptions"]["ipFamily"] = json!("all");
        }
    });
    assert_named(&pair, changes, "FAMILY-MISSING", "ip6");
    pair.lab.down();
}

/// The objects of the control plane are the cause, by code and field, before anything else is.
#[track_caller]
fn assert_named(pair: &Pair, changes: Changes, code: &str, field: &str) {
    let ran = pair.dr_with_first(changes, &[]);
    let report = ran.json();
    let findings = report["findings"].as_array().unwrap();
    let found = findings.iter().find(|finding| finding["code"] == code);
    let found = found.unwrap_or_else(|| panic!("no {code}: {report:#}"));
    assert!(found.to_string().contains(field), "{found:#}");
    assert!(
        !codes(&report).contains(&"INTENT-STALE".to_owned()),
        "{report:#}"
    );
}

#[test]
#[ignore = "netns: needs vxlan, nft"]
fn an_api_server_behind_a_proxy_is_asked_through_it() {
    let pair = Pair::up(&[]);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, tunnels) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let sender = sender.clone();
            std::thread::spawn(move || tunnel(client, &sender));
        }
    });
    let mut config = pair.plain();
    config["clusters"][0]["cluster"]["proxy-url"] = json!(format!("http://{address}"));
    assert_in_order(pair.dr(&config.to_string(), &[]));
    assert_eq!(
        tunnels.try_iter().next().as_ref(),
        Some(&pair.ends[0].address)
    );
    pair.lab.down();
}

/// Connects a client to where its CONNECT asks, and tells where that is.
fn tunnel(mut client: TcpStream, sender: &std::sync::mpsc::Sender<String>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        client.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    let target = head.split(' ').nth(1).unwrap().to_owned();
    let mut server = TcpStream::connect(&target).unwrap();
    client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
    let _ = sender.send(target);
    let (mut from, mut to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut from, &mut to);
        let _ = to.shutdown(std::net::Shutdown::Write);
    });
    let _ = std::io::copy(&mut server, &mut client);
    let _ = client.shutdown(std::net::Shutdown::Write);
}

/// Certificates that kubectl takes: name, and whether the authority in the kubeconfig is the leaf itself.
#[test]
#[ignore = "netns: needs vxlan, nft"]
fn certificates_that_kubectl_takes_are_taken() {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    let pair = Pair::up(&[]);
    let names = || CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let key = KeyPair::generate().unwrap();
    let mut of_itself = names();
    of_itself.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let of_itself = of_itself.self_signed(&key).unwrap();
    let self_signed = Certificate::new(of_itself.pem(), vec![of_itself.der().clone()], &key);
    let authority_key = KeyPair::generate().unwrap();
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer = Issuer::new(authority, authority_key);
    let leaf_key = KeyPair::generate().unwrap();
    let leaf = names().signed_by(&leaf_key, &issuer).unwrap();
    let leaf_alone = Certificate::new(leaf.pem(), vec![leaf.der().clone()], &leaf_key);
    for (name, certificate) in [
        ("self-signed authority", self_signed),
        ("leaf as its own authority", leaf_alone),
    ] {
        let proxy = Proxy::start_tls(pair.ends[0].clone(), Changes::none(), certificate);
        let ran = pair.dr(&pair.config([proxy.cluster(), pair.ends[1].cluster()]), &[]);
        assert_eq!(ran.code, Some(0), "{name}: {ran:?}");
    }
    pair.lab.down();
}

#[test]
#[ignore = "netns: needs vxlan, nft"]
fn one_bad_file_or_entry_costs_itself_only() {
    let pair = Pair::up(&[]);
    let place = &pair.lab.place;
    let good = pair.plain();
    place.write("good", good.to_string());
    place.write("empty", "");
    let both = |arguments: &[&str]| {
        let own = ["dr", "-o", "json", "--all-contexts"];
        let mut command = place.command(own.iter().chain(arguments));
        command.env("KUBECONFIG", "empty:good");
        Ran::of(command.output().unwrap())
    };
    assert_in_order(both(&[]));
    // Beside a kubeconfig lies a note of another program.
    std::fs::create_dir(place.path().join("folder")).unwrap();
    place.write("folder/config", good.to_string());
    place.write("folder/note", "west");
    let ran = place.run(["dr", "-o", "json", "--kubeconfig-dir", "folder"]);
    assert_judged(&ran, "a folder with a note");
    // Entries that nobody uses any more.
    for broken in [
        json!({"server": "https://127.0.0.1:9", "certificate-authority": "/nowhere/ca.crt"}),
        json!({"no-server-any-more": true}),
        json!({"server": 5}),
        json!(["https://127.0.0.1:9"]),
    ] {
        let mut config = good.clone();
        config["clusters"]
            .as_array_mut()
            .unwrap()
            .push(json!({"name": "old", "cluster": broken}));
        let context = json!({"name": "old", "context": {"cluster": "old"}});
        config["contexts"].as_array_mut().unwrap().push(context);
        assert_judged(&pair.dr(&config.to_string(), &[]), "a stale entry");
    }
    let mut nameless = good.clone();
    nameless["contexts"]
        .as_array_mut()
        .unwrap()
        .push(json!({"context": {"cluster": "c1"}}));
    assert_judged(
        &pair.dr(&nameless.to_string(), &[]),
        "a context without a name",
    );
    assert_in_order(pair.dr(&format!("{good}\n---\n"), &[]));
    let wide: Vec<u8> = std::iter::once(0xfeff)
        .chain(good.to_string().encode_utf16())
        .flat_map(u16::to_le_bytes)
        .collect();
    place.write("wide", wide);
    assert_in_order(place.run(["dr", "-o", "json", "--kubeconfig", "wide"]));
    pair.lab.down();
}

/// Both clusters in order are judged and pass, whatever else there is.
#[track_caller]
fn assert_judged(ran: &Ran, what: &str) {
    assert!(matches!(ran.code, Some(0 | 2)), "{what}: {ran:?}");
    let report = ran.json();
    let passed = report["cells"].as_array().unwrap().iter().filter(|cell| {
        ["c1", "c2"].contains(&cell["src"].as_str().unwrap())
            && ["c1", "c2"].contains(&cell["dst"].as_str().unwrap())
            && cell["verdict"] == "pass"
    });
    assert_eq!(passed.count(), 8, "{what}: {report:#}");
    assert_eq!(report["findings"], json!([]), "{what}: {report:#}");
}
