//! The pods of clusters without a kernel: what a kubelet does with them at once, and how the API reaches those that are floaters.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use datapath::digest::Digester;
use datapath::state::{Family, NodeState};
use floater::agent::{Config, Counted, Fate, Walked, WalkedFloater};
use floater::wire::Layer;
use futures::future::BoxFuture;
use serde_json::Value;
use tokio::io::duplex;

use super::tables::{self, Pod};
use super::walking::{Holder, Question, Sender};
use super::{Place, VirtualFleet};
use crate::apiserver::{Connection, EventKind, PodDialer, Resource, Store};
use crate::kubelet::{self, Container, Image, PodStatus, environment};

/// What a connection within the process holds, bytes.
const BUFFER: usize = 64 << 10;

/// The pods of one cluster.
pub(crate) struct Pods {
    fleet: Arc<VirtualFleet>,
    cluster: usize,
    /// By `namespace/name`.
    running: Mutex<BTreeMap<String, Running>>,
}

struct Running {
    uid: String,
    place: Place,
    floater: Option<Arc<Placed>>,
}

/// A floater and where it is.
#[derive(Debug)]
pub(super) struct Placed {
    floater: WalkedFloater,
    ips: Vec<IpAddr>,
    to: Holder,
}

/// What a floater sees of the network.
struct View {
    fleet: Weak<VirtualFleet>,
    from: Sender,
    pod: Option<Pod>,
    ips: Vec<IpAddr>,
}

impl std::fmt::Debug for Pods {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pods")
            .field("cluster", &self.cluster)
            .finish_non_exhaustive()
    }
}

impl Pods {
    /// The pods of a cluster by its place in the topology.
    pub(crate) fn new(fleet: Arc<VirtualFleet>, cluster: usize) -> Arc<Self> {
        Arc::new(Self {
            fleet,
            cluster,
            running: Mutex::default(),
        })
    }

    /// Watches the pods of the cluster and does with each what there is to do, until it is dropped.
    pub(crate) async fn run(self: Arc<Self>, store: Arc<Store>) {
        let mut watch = store.watch(Resource::PODS, 0);
        loop {
            let event = watch.next().await;
            match event.kind {
                EventKind::Added | EventKind::Modified => self.see(&event.object, &store),
                EventKind::Deleted => {
                    let uid = kubelet::text(&event.object, "/metadata/uid");
                    self.end(&kubelet::key_of(&event.object), uid);
                }
                EventKind::Relist => {
                    let (pods, version) = store.list(Resource::PODS, None);
                    watch = store.watch(Resource::PODS, version);
                    self.end_all_but(&pods);
                    for pod in &pods {
                        self.see(pod, &store);
                    }
                }
            }
        }
    }

    fn running(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a pod that is new, and ends one that was asked to go.
    fn see(&self, pod: &Value, store: &Store) {
        let name = &self.fleet.clusters[self.cluster].name;
        let Some(place) = self.fleet.place(name, kubelet::text(pod, "/spec/nodeName")) else {
            return;
        };
        let (key, uid) = (kubelet::key_of(pod), kubelet::text(pod, "/metadata/uid"));
        if kubelet::is_leaving(Some(pod)) {
            self.end(&key, uid);
            // Whoever deleted it for good was faster.
            let namespace = kubelet::text(pod, "/metadata/namespace");
            let _ = store.delete(
                Resource::PODS,
                Some(namespace),
                kubelet::text(pod, "/metadata/name"),
            );
            return;
        }
        let is_known = self.running().get(&key).is_some_and(|held| held.uid == uid);
        if !is_known {
            self.start(&key, uid, place, pod, store);
        }
    }

    fn start(&self, key: &str, uid: &str, place: Place, pod: &Value, store: &Store) {
        let node = self.fleet.node(place);
        let mut status = PodStatus::new(pod, node.ips().collect());
        let mut floater = None;
        match self.sandbox(key, place, pod, &mut status) {
            Ok(own) => match self.floater(place, pod, own, &status.pod_ips, store) {
                Ok(started) => {
                    status.start();
                    status.ready = true;
                    floater = Some(started);
                }
                Err(container) => status.container = container,
            },
            Err(container) => status.container = container,
        }
        let held = Running {
            uid: uid.to_owned(),
            place,
            floater,
        };
        self.running().insert(key.to_owned(), held);
        if let Some(value) = status.changed() {
            let namespace = kubelet::text(pod, "/metadata/namespace");
            let name = kubelet::text(pod, "/metadata/name");
            let _ = store.put(Resource::PODS, Some(namespace), name, |held| {
                // A pod of the same name may have taken its place.
                if kubelet::text(held, "/metadata/uid") == uid {
                    held["status"] = value;
                }
            });
        }
    }

    /// Gives a pod its addresses.
    fn sandbox(
        &self,
        key: &str,
        place: Place,
        pod: &Value,
        status: &mut PodStatus,
    ) -> Result<Option<Pod>, Container> {
        if kubelet::runnable(pod)? != Image::Floater {
            let why = "a virtual node has no kernel for the datapath's programs";
            return Err(Container::Waiting("RunContainerError", why.to_owned()));
        }
        if pod.pointer("/spec/hostNetwork") == Some(&Value::Bool(true)) {
            status.pod_ips = self.fleet.node(place).ips().collect();
            return Ok(None);
        }
        let own = self.fleet.add_pod(place, key);
        let own =
            own.map_err(|error| Container::Waiting("FailedCreatePodSandBox", error.to_string()))?;
        status.pod_ips = crate::network::pod_ips(self.fleet.node(place), own.number);
        Ok(Some(own))
    }

    fn floater(
        &self,
        place: Place,
        pod: &Value,
        own: Option<Pod>,
        ips: &[IpAddr],
        store: &Store,
    ) -> Result<Arc<Placed>, Container> {
        let node = self.fleet.node(place);
        let namespace = kubelet::text(pod, "/metadata/namespace");
        let held = |kind, name: &str| store.get(kind, Some(namespace), name);
        let env = environment::of(Image::Floater, pod, node, ips, &held)
            .map_err(|why| Container::Waiting("CreateContainerConfigError", why))?;
        let variables = env
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()));
        let config = Config::from_environment(variables)
            .map_err(|error| Container::Waiting("RunContainerError", error.to_string()))?;
        let number = own.as_ref().map(|own| own.number);
        let view = View {
            fleet: Arc::downgrade(&self.fleet),
            from: Sender {
                place,
                layer: if own.is_some() {
                    Layer::Pod
                } else {
                    Layer::Host
                },
                pod: number,
            },
            pod: own,
            ips: ips.to_vec(),
        };
        let to = Holder { place, pod: number };
        let (port, key) = (config.port, (to, config.port));
        let placed = Arc::new(Placed {
            floater: WalkedFloater::new(config, Arc::new(view)),
            ips: ips.to_vec(),
            to,
        });
        let mut listeners = self
            .fleet
            .listeners
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        if listeners.contains_key(&key) {
            let why = format!("listen on TCP port {port}: Address already in use (os error 98)");
            return Err(Container::Waiting("RunContainerError", why));
        }
        listeners.insert(key, placed.clone());
        Ok(placed)
    }

    fn end(&self, key: &str, uid: &str) {
        let mut running = self.running();
        if running.get(key).is_some_and(|held| held.uid == uid)
            && let Some(ended) = running.remove(key)
        {
            drop(running);
            self.silence(key, &ended);
        }
    }

    fn silence(&self, key: &str, ended: &Running) {
        if let Some(placed) = &ended.floater {
            let port = placed.floater.config().port;
            let mut listeners = self
                .fleet
                .listeners
                .write()
                .unwrap_or_else(PoisonError::into_inner);
            listeners.remove(&(placed.to, port));
        }
        self.fleet.remove_pod(ended.place, key);
    }

    fn end_all_but(&self, pods: &[Arc<Value>]) {
        let gone: Vec<(String, String)> = self
            .running()
            .iter()
            .filter(|(key, held)| {
                let is_same = |pod: &&Arc<Value>| {
                    kubelet::key_of(pod) == **key && kubelet::text(pod, "/metadata/uid") == held.uid
                };
                !pods.iter().any(|pod| is_same(&pod))
            })
            .map(|(key, held)| (key.clone(), held.uid.clone()))
            .collect();
        for (key, uid) in gone {
            self.end(&key, &uid);
        }
    }
}

impl PodDialer for Pods {
    fn dial<'a>(
        &'a self,
        namespace: &'a str,
        pod: &'a str,
        port: u16,
    ) -> BoxFuture<'a, io::Result<Connection>> {
        let key = format!("{namespace}/{pod}");
        let floater = self.running().get(&key).map(|held| held.floater.clone());
        Box::pin(async move {
            let Some(floater) = floater else {
                let why = format!("pod {key} has no network");
                return Err(io::Error::new(io::ErrorKind::NotFound, why));
            };
            let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
            let placed = floater.filter(|placed| !placed.floater.is_over());
            let placed = placed.ok_or_else(refused)?;
            let (near, far) = duplex(BUFFER);
            let config = placed.floater.config();
            if port == config.api_port {
                tokio::spawn(placed.floater.serve_api(far));
                Ok(Connection::within(near))
            } else if port == config.port {
                let ip = placed.ips.first().copied().ok_or_else(refused)?;
                let at = SocketAddr::new(ip, port);
                tokio::spawn(placed.floater.serve_plain(far, at));
                Ok(Connection::over(near))
            } else {
                Err(refused())
            }
        })
    }

    fn log(&self, _: &str, _: &str) -> io::Result<Vec<u8>> {
        // They write none.
        Ok(Vec::new())
    }
}

impl View {
    fn listener(&self, dst: SocketAddr) -> Option<Arc<Placed>> {
        let fleet = self.fleet.upgrade()?;
        let to = fleet.holder(self.from.place.cluster, dst.ip())?;
        fleet.listener(to, dst.port())
    }

    fn send(&self, dst: IpAddr, question: Question, number: u64) -> Fate {
        let family = Family::of(dst);
        let Some(fleet) = self.fleet.upgrade() else {
            return Fate::Lost;
        };
        let Some(src) = self.ips.iter().find(|ip| Family::of(**ip) == family) else {
            return Fate::Unsent {
                error: "Network is unreachable (os error 101)".to_owned(),
            };
        };
        let to = fleet.holder(self.from.place.cluster, dst);
        fleet.fate(self.from, *src, dst, to, question, number)
    }
}

impl Walked for View {
    fn inspect(&self) -> Result<(NodeState, Vec<String>), String> {
        let fleet = self.fleet.upgrade().ok_or("the fleet is going down")?;
        let place = self.from.place;
        let state = match &self.pod {
            Some(pod) => tables::of_pod(fleet.cluster(place), fleet.node(place), pod),
            None => fleet.tables(place),
        };
        Ok((state, Vec::new()))
    }

    fn inspect_counting(&self, digester: &Digester) -> Option<Counted> {
        match &self.pod {
            Some(_) => None,
            None => self.fleet.upgrade()?.counted(self.from.place, *digester),
        }
    }

    fn echo(&self, dst: IpAddr, payload_bytes: u16, number: u64) -> Fate {
        self.send(dst, Question::echo(dst, payload_bytes), number)
    }

    fn connect(&self, dst: SocketAddr, number: u64) -> Fate {
        let fate = self.send(dst.ip(), Question::connection(dst.ip(), dst.port()), number);
        match fate {
            Fate::Answered { after } if self.listener(dst).is_none() => Fate::Refused { after },
            fate => fate,
        }
    }

    fn answer(&self, dst: SocketAddr, request: &str) -> Vec<u8> {
        let Some(placed) = self.listener(dst) else {
            return Vec::new();
        };
        // It knows itself by its own address, whatever it is called elsewhere.
        let mut ips = placed.ips.iter();
        let ip = ips.find(|ip| Family::of(**ip) == Family::of(dst.ip()));
        let at = SocketAddr::new(ip.copied().unwrap_or(dst.ip()), dst.port());
        placed.floater.respond(request, at)
    }
}

impl VirtualFleet {
    /// The floater that listens on a port of a node or pod.
    fn listener(&self, to: Holder, port: u16) -> Option<Arc<Placed>> {
        let listeners = self
            .listeners
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        let placed = listeners.get(&(to, port))?;
        (!placed.floater.is_over()).then(|| placed.clone())
    }
}
