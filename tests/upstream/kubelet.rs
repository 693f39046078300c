//! A kubelet of two nodes: registers them, renews their Leases, runs the pods that are bound to them, tells whether they are ready, and
//! ends them. It knows one image, the floater's, which is the program under test.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use netns_harness::namespace::Netns;
use netns_harness::process::{Child, Program, Spawner};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tests::client::Endpoint;

use crate::network::Node;

/// How often pods are looked at and Leases renewed.
const PERIOD: Duration = Duration::from_millis(250);
const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";

/// The kubelets of all nodes, in a thread each.
pub(crate) struct Kubelets {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    /// Whether a node's kubelet is dead, by the node's number.
    dead: Arc<Mutex<BTreeMap<u8, bool>>>,
    /// Whether no kubelet sees that a pod is ready.
    blind: Arc<AtomicBool>,
}

impl Kubelets {
    pub(crate) fn start(
        end: &Endpoint,
        spawner: &Arc<Spawner>,
        nodes: &[Node],
        folder: &Path,
    ) -> Self {
        let mut kubelets = Self {
            stop: Arc::default(),
            threads: Vec::new(),
            dead: Arc::default(),
            blind: Arc::default(),
        };
        for node in nodes {
            let mut kubelet = Kubelet {
                end: end.clone(),
                node: node.clone(),
                spawner: Arc::clone(spawner),
                folder: folder.to_owned(),
                blind: Arc::clone(&kubelets.blind),
                pods: BTreeMap::new(),
                last: 1,
            };
            let (stop, dead) = (Arc::clone(&kubelets.stop), Arc::clone(&kubelets.dead));
            kubelet.register();
            kubelets.threads.push(std::thread::spawn(move || {
                while !stop.load(Ordering::Acquire) {
                    let is_dead = dead.lock().unwrap().get(&kubelet.node.number) == Some(&true);
                    if !is_dead {
                        kubelet.turn();
                    }
                    std::thread::sleep(PERIOD);
                }
                kubelet.end_all();
            }));
        }
        kubelets
    }

    /// Lets a node's kubelet die, or live again.
    pub(crate) fn dead(&self, node: u8, is_dead: bool) {
        self.dead.lock().unwrap().insert(node, is_dead);
    }

    /// Lets no kubelet see that pods are ready, or see it again.
    pub(crate) fn blind(&self, is_blind: bool) {
        self.blind.store(is_blind, Ordering::Release);
    }

    pub(crate) fn stop(self) {
        self.stop.store(true, Ordering::Release);
        for thread in self.threads {
            thread.join().unwrap();
        }
    }
}

/// A pod that runs.
struct Running {
    child: Child,
    netns: Netns,
    ip: Ipv4Addr,
    /// The last byte of its address, where it has one of its own.
    last: Option<u8>,
    port: u16,
    /// What was told of it.
    told: Value,
}

struct Kubelet {
    end: Endpoint,
    node: Node,
    spawner: Arc<Spawner>,
    folder: PathBuf,
    blind: Arc<AtomicBool>,
    /// By uid.
    pods: BTreeMap<String, Running>,
    last: u8,
}

impl Kubelet {
    fn register(&self) {
        let name = self.node.name();
        let prefix = self.node.pod_prefix();
        let node = json!({"metadata": {"name": name, "labels": {"kubernetes.io/os": "linux", "kubernetes.io/hostname": name}},
            "spec": {"podCIDR": prefix, "podCIDRs": [prefix]}});
        let (status, made) = self.end.call("POST", "/api/v1/nodes", &node);
        assert_eq!(status, 201, "{made}");
        self.ready();
    }

    fn ready(&self) {
        let resources = json!({"cpu": "4", "memory": "8Gi", "pods": "110"});
        let now = now();
        let status = json!({"status": {
            "addresses": [{"type": "InternalIP", "address": self.node.ip()}],
            "capacity": resources, "allocatable": resources,
            "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "",
                "lastHeartbeatTime": now, "lastTransitionTime": now}],
        }});
        let path = format!("/api/v1/nodes/{}/status", self.node.name());
        self.end.call("PATCH", &path, &status);
    }

    /// Everything once. What fails is tried again at the next turn.
    fn turn(&mut self) {
        self.renew();
        let name = self.node.name();
        let path = format!("/api/v1/pods?fieldSelector=spec.nodeName%3D{name}");
        let (status, mut list) = self.end.call("GET", &path, &Value::Null);
        let Some(bound) = list["items"].as_array_mut().filter(|_| status == 200) else {
            return;
        };
        let mut seen = Vec::new();
        for pod in bound.iter() {
            let uid = text(&pod["metadata"]["uid"]);
            if pod["metadata"]["deletionTimestamp"].is_string() {
                self.finish(&uid);
                let now = json!({"gracePeriodSeconds": 0, "preconditions": {"uid": uid}});
                self.end.call("DELETE", &path_of(pod), &now);
                continue;
            }
            if !self.pods.contains_key(&uid)
                && let Some(running) = self.run(pod)
            {
                self.pods.insert(uid.clone(), running);
            }
            self.tell(&uid, pod);
            seen.push(uid);
        }
        let gone: Vec<String> = self
            .pods
            .keys()
            .filter(|uid| !seen.contains(uid))
            .cloned()
            .collect();
        for uid in gone {
            self.finish(&uid);
        }
    }

    fn renew(&self) {
        let name = self.node.name();
        let spec = json!({"spec": {"holderIdentity": name, "leaseDurationSeconds": 40, "renewTime": micro()}});
        let (status, _) = self.end.call("PATCH", &format!("{LEASES}/{name}"), &spec);
        if status == 404 {
            let mut lease = spec;
            lease["metadata"] = json!({"name": name});
            self.end.call("POST", LEASES, &lease);
        }
        // Its controller may have said otherwise while it was dead.
        let (_, node) = self
            .end
            .call("GET", &format!("/api/v1/nodes/{name}"), &Value::Null);
        let conditions = node["status"]["conditions"].as_array();
        let is_ready = |one: &Value| one["type"] == "Ready" && one["status"] == "True";
        if !conditions.is_some_and(|all| all.iter().any(is_ready)) {
            self.ready();
        }
    }

    /// Starts a pod; none where what it needs is not there yet.
    fn run(&mut self, pod: &Value) -> Option<Running> {
        let env = self.environment(pod)?;
        let is_host = pod["spec"]["hostNetwork"] == json!(true);
        let (netns, ip, last) = if is_host {
            (self.node.netns.clone(), self.node.ip(), None)
        } else {
            // One round the range: an address that was just given back is in others' neighbour tables.
            self.last = if self.last >= 250 { 2 } else { self.last + 1 };
            let (netns, ip) = self.node.pod(self.last);
            (netns, ip, Some(self.last))
        };
        let port = env.iter().find(|(name, _)| name == "PORT");
        let port = port.and_then(|(_, port)| port.parse().ok()).unwrap_or(8889);
        let name = text(&pod["metadata"]["name"]);
        let program = Program {
            program: tests::program::floaterctl().to_owned(),
            args: ["__floater", "serve"].map(OsString::from).to_vec(),
            env: env
                .into_iter()
                .map(|(name, value)| (name.into(), value.into()))
                .collect(),
            log: self.folder.join(format!("{name}.log")),
            netns: netns.clone(),
            root: None,
        };
        let child = self.spawner.spawn(program).unwrap();
        let told = Value::Null;
        Some(Running {
            child,
            netns,
            ip,
            last,
            port,
            told,
        })
    }

    /// A container's variables; none where a Secret is missing.
    fn environment(&self, pod: &Value) -> Option<Vec<(String, String)>> {
        use base64::Engine as _;
        let namespace = text(&pod["metadata"]["namespace"]);
        let mut env = Vec::new();
        for entry in pod["spec"]["containers"][0]["env"]
            .as_array()
            .into_iter()
            .flatten()
        {
            let (source, name) = (&entry["valueFrom"], text(&entry["name"]));
            let value = if source["fieldRef"].is_object() {
                self.node.name()
            } else if source["secretKeyRef"].is_object() {
                let secret = text(&source["secretKeyRef"]["name"]);
                let path = format!("/api/v1/namespaces/{namespace}/secrets/{secret}");
                let (_, secret) = self.end.call("GET", &path, &Value::Null);
                let value = secret["data"][text(&source["secretKeyRef"]["key"])].as_str()?;
                let bytes = base64::engine::general_purpose::STANDARD
                    .decode(value)
                    .ok()?;
                String::from_utf8(bytes).ok()?
            } else {
                text(&entry["value"])
            };
            env.push((name, value));
        }
        Some(env)
    }

    /// Writes a pod's status where it has changed.
    fn tell(&mut self, uid: &str, pod: &Value) {
        let Some(running) = self.pods.get_mut(uid) else {
            return;
        };
        let is_alive = running.child.try_wait().unwrap().is_none();
        let is_ready = is_alive
            && !self.blind.load(Ordering::Acquire)
            && answers(&running.netns, (running.ip, running.port).into());
        let word = if is_ready { "True" } else { "False" };
        let told = json!({"alive": is_alive, "ready": is_ready});
        if running.told == told {
            return;
        }
        let now = now();
        let state = if is_alive {
            json!({"running": {"startedAt": now}})
        } else {
            json!({"terminated": {"exitCode": 1, "reason": "Error", "startedAt": now, "finishedAt": now}})
        };
        let condition = |kind: &str, status: &str| json!({"type": kind, "status": status, "lastTransitionTime": now});
        let container = &pod["spec"]["containers"][0];
        let status = json!({"status": {
            "phase": "Running", "podIP": running.ip, "podIPs": [{"ip": running.ip}], "hostIP": self.node.ip(), "startTime": now,
            "conditions": [condition("PodScheduled", "True"), condition("Initialized", "True"),
                condition("ContainersReady", word), condition("Ready", word)],
            "containerStatuses": [{"name": container["name"], "image": container["image"], "imageID": "", "ready": is_ready,
                "restartCount": 0, "state": state}],
        }});
        let (status, _) = self
            .end
            .call("PATCH", &format!("{}/status", path_of(pod)), &status);
        if status == 200 {
            running.told = told;
        }
    }

    fn finish(&mut self, uid: &str) {
        if let Some(mut running) = self.pods.remove(uid) {
            running.child.signal(Signal::SIGKILL);
            running.child.wait().unwrap();
            if let Some(last) = running.last {
                self.node.unplug(last);
            }
        }
    }

    fn end_all(&mut self) {
        let uids: Vec<String> = self.pods.keys().cloned().collect();
        for uid in uids {
            self.finish(&uid);
        }
    }
}

/// Whether a responder answers HTTP with 200.
fn answers(netns: &Netns, at: SocketAddr) -> bool {
    const LIMIT: Duration = Duration::from_secs(1);
    let ask = move || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect_timeout(&at, LIMIT)?;
        stream.set_read_timeout(Some(LIMIT))?;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: floater\r\nConnection: close\r\n\r\n")?;
        let mut head = [0; 12];
        stream.read_exact(&mut head)?;
        Ok(head.ends_with(b" 200"))
    };
    netns.run(ask).is_ok_and(|answer| answer.unwrap_or(false))
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn path_of(pod: &Value) -> String {
    let metadata = &pod["metadata"];
    format!(
        "/api/v1/namespaces/{}/pods/{}",
        text(&metadata["namespace"]),
        text(&metadata["name"])
    )
}

fn now() -> String {
    micro().split('.').next().unwrap_or_default().to_owned() + "Z"
}

/// The time as Leases have it.
fn micro() -> String {
    jiff::Timestamp::now()
        .strftime("%Y-%m-%dT%H:%M:%S.%6fZ")
        .to_string()
}
