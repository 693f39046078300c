//! API servers that can go away and come back, and who may do what in them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use datapath::rbac::{self, Rights};
use netns_harness::namespace::Netns;
use serde::Serialize;
use serde_json::{Value, json};
use simulator::apiserver::{ApiCluster, NoPods, Options, Resource, Routes, Store};
use tempfile::TempDir;
use tests::client::Endpoint;
use tests::server::Certificate;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

/// Where the programs and their Leases are.
pub(crate) const NAMESPACE: &str = "kosmos-system";
/// The cluster with the objects of all.
pub(crate) const CONTROL: &str = "control";
/// The longest that anything may take on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Some clusters behind one port.
pub(crate) struct World {
    runtime: Runtime,
    clusters: BTreeMap<String, Arc<ApiCluster>>,
    address: SocketAddr,
    serving: Vec<JoinHandle<()>>,
    folder: TempDir,
}

impl World {
    /// A control plane, and member clusters of these names without a node.
    pub(crate) fn new(members: &[&str]) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let names = [&[CONTROL], members].concat();
        let clusters = names.iter().map(|name| {
            let cluster = ApiCluster::new(Options {
                name: (*name).to_owned(),
                uid: String::new(),
                admin_token: "administrator".to_owned(),
                dialer: Arc::new(NoPods),
            });
            let namespace = json!({"metadata": {"name": NAMESPACE}});
            cluster
                .store()
                .create(Resource::NAMESPACES, None, namespace)
                .unwrap();
            runtime.spawn(
                cluster
                    .clone()
                    .run_controllers(std::future::pending::<()>()),
            );
            ((*name).to_owned(), cluster)
        });
        let clusters = clusters.collect();
        // The port stays the world's while nobody listens there.
        let listener = runtime
            .block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))
            .unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let mut world = Self {
            runtime,
            clusters,
            address,
            serving: Vec::new(),
            folder: TempDir::new().unwrap(),
        };
        world.start();
        world
    }

    /// Begins to serve.
    pub(crate) fn start(&mut self) {
        let socket = listening(self.address);
        self.serve(socket);
    }

    /// Serves in another network namespace, too, at the same address of its loopback.
    pub(crate) fn start_in(&mut self, netns: &Netns) {
        let address = self.address;
        let socket = netns.run(|| listening(address)).unwrap();
        self.serve(socket);
    }

    fn serve(&mut self, listener: std::net::TcpListener) {
        let routes = Routes::by_name(self.clusters.values().cloned());
        let tls = Certificate::of_loopback().config.clone();
        let listener = {
            let _inside = self.runtime.enter();
            tokio::net::TcpListener::from_std(listener).unwrap()
        };
        let serving = routes.serve(listener, tls, std::future::pending::<()>());
        self.serving.push(self.runtime.spawn(serving));
    }

    /// Ends serving everywhere, and every connection.
    pub(crate) fn stop(&mut self) {
        for serving in self.serving.drain(..) {
            serving.abort();
            let _ = self.runtime.block_on(serving);
        }
    }

    /// The objects of a cluster.
    pub(crate) fn store(&self, cluster: &str) -> &Arc<Store> {
        self.clusters[cluster].store()
    }

    /// The kubeconfig of a service account that has these rights in a cluster, and no others.
    pub(crate) fn account(&self, cluster: &str, name: &str, rights: &Rights) -> PathBuf {
        let token = self.token(cluster, name, rights);
        self.kubeconfig(cluster, name, &json!({"token": token}))
    }

    /// The token of a service account that has these rights in a cluster, and no others.
    fn token(&self, cluster: &str, name: &str, rights: &Rights) -> String {
        let api = &self.clusters[cluster];
        let account = json!({"metadata": {"name": name, "namespace": NAMESPACE}});
        let store = api.store();
        store
            .create(Resource::SERVICE_ACCOUNTS, Some(NAMESPACE), account)
            .unwrap();
        let grant = rights.granted(name, &BTreeMap::new(), name, NAMESPACE);
        let put = |resource: Resource, object: Value| {
            let namespace = object["metadata"]["namespace"].as_str().map(str::to_owned);
            if let Some(namespace) = &namespace
                && store.get(Resource::NAMESPACES, None, namespace).is_none()
            {
                let made = json!({"metadata": {"name": namespace}});
                store.create(Resource::NAMESPACES, None, made).unwrap();
            }
            store
                .create(resource, namespace.as_deref(), object)
                .unwrap();
        };
        if let (Some(role), Some(binding)) = (&grant.cluster_role, &grant.cluster_role_binding) {
            put(Resource::CLUSTER_ROLES, json(role));
            put(Resource::CLUSTER_ROLE_BINDINGS, json(binding));
        }
        for (role, binding) in grant.roles.iter().zip(&grant.role_bindings) {
            put(Resource::ROLES, json(role));
            put(Resource::ROLE_BINDINGS, json(binding));
        }
        api.service_account_token(NAMESPACE, name).unwrap()
    }

    /// A folder with access to the control plane, as it is mounted in a pod: the path of the kubeconfig in it.
    fn mounted(&self, account: &str, token: &str) -> PathBuf {
        let folder = self.folder.path().join(format!("mounted-{account}"));
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("token"), token).unwrap();
        let written = self.kubeconfig(CONTROL, account, &json!({"tokenFile": "token"}));
        let path = folder.join("kubeconfig");
        std::fs::rename(written, &path).unwrap();
        path
    }

    /// The arguments of a controller whose cluster was joined: with accounts of their own for it and for its agents.
    pub(crate) fn joined(&self, cluster: &str) -> Vec<String> {
        let rights = rbac::controller_in_control_plane(cluster, NAMESPACE);
        let account = rbac::controller_account(cluster);
        let control = self.mounted(&account, &self.token(CONTROL, &account, &rights));
        self.token(CONTROL, &rbac::agent_account(cluster), &rbac::agent());
        let rights = rbac::controller_in_member(NAMESPACE);
        let own = self.account(cluster, "controller", &rights);
        [
            "--cluster",
            cluster,
            "--kubeconfig",
            control.to_str().unwrap(),
            "--member-kubeconfig",
            own.to_str().unwrap(),
        ]
        .map(str::to_owned)
        .to_vec()
    }

    /// The path of the kubeconfig of a cluster's agents, which may do more than each agent; the same each time.
    pub(crate) fn as_agent(&self, cluster: &str, more: Rights) -> PathBuf {
        let account = rbac::agent_account(cluster);
        let path = self
            .folder
            .path()
            .join(format!("mounted-{account}/kubeconfig"));
        if path.exists() {
            return path;
        }
        self.mounted(
            &account,
            &self.token(CONTROL, &account, &rbac::agent().with(more)),
        )
    }

    /// Whether whoever has a token may do something with a kind of `kosmos.io`.
    pub(crate) fn may(
        &self,
        cluster: &str,
        token: &str,
        verb: &str,
        resource: &str,
        name: &str,
    ) -> bool {
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview", "spec": {"resourceAttributes": {
            "group": "kosmos.io", "verb": verb, "resource": resource, "subresource": subresource, "name": name}}});
        let kubeconfig = self.kubeconfig(cluster, "asking", &json!({"token": token}));
        let endpoint = Endpoint::of(kubeconfig, "it");
        let target = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
        let (code, answer) = endpoint.call("POST", target, &review);
        assert_eq!(code, 201, "{answer}");
        answer["status"]["allowed"] == true
    }

    fn kubeconfig(&self, cluster: &str, user: &str, access: &Value) -> PathBuf {
        let authority = STANDARD.encode(&Certificate::of_loopback().authority);
        let server = format!("https://{}{}", self.address, Routes::path(cluster));
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "it",
            "clusters": [{"name": "it", "cluster": {"server": server, "certificate-authority-data": authority}}],
            "users": [{"name": "it", "user": access}],
            "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
        });
        let path = self.folder.path().join(format!("{cluster}-{user}"));
        std::fs::write(&path, config.to_string()).unwrap();
        path
    }

    /// The arguments that give a controller or an elector of a member its two clusters.
    pub(crate) fn as_member(&self, cluster: &str) -> Vec<String> {
        let control = self.account(
            CONTROL,
            &format!("controller-{cluster}"),
            &rbac::controller_in_control_plane(cluster, NAMESPACE),
        );
        let own = self.account(
            cluster,
            "controller",
            &rbac::controller_in_member(NAMESPACE),
        );
        let words = [
            "--cluster",
            cluster,
            "--kubeconfig",
            control.to_str().unwrap(),
            "--member-kubeconfig",
            own.to_str().unwrap(),
        ];
        words.map(str::to_owned).to_vec()
    }

    /// The arguments that give a manager its control plane.
    pub(crate) fn as_manager(&self) -> Vec<String> {
        let path = self.folder.path().join(format!("{CONTROL}-manager"));
        if !path.exists() {
            self.account(CONTROL, "manager", &rbac::manager(NAMESPACE));
        }
        vec!["--kubeconfig".to_owned(), path.to_str().unwrap().to_owned()]
    }

    /// What is found in the objects of a kind, as soon as it is there; how long that took.
    #[track_caller]
    pub(crate) fn until<T>(
        &self,
        cluster: &str,
        resource: Resource,
        what: &str,
        mut found: impl FnMut(&BTreeMap<String, Value>) -> Option<T>,
    ) -> (T, Duration) {
        let store = self.store(cluster);
        let began = Instant::now();
        let mut watch = store.watch(resource, store.version());
        loop {
            let objects = self.objects(cluster, resource);
            if let Some(found) = found(&objects) {
                return (found, began.elapsed());
            }
            let left = PATIENCE.saturating_sub(began.elapsed());
            let next = async { tokio::time::timeout(left, watch.next()).await };
            assert!(
                self.runtime.block_on(next).is_ok(),
                "{what} never came: {}",
                serde_json::to_string_pretty(&objects).unwrap()
            );
        }
    }

    /// The objects of a kind, by name.
    pub(crate) fn objects(&self, cluster: &str, resource: Resource) -> BTreeMap<String, Value> {
        let (objects, _) = self.store(cluster).list(resource, None);
        let named = objects.iter().map(|object| {
            let name = object["metadata"]["name"].as_str().unwrap().to_owned();
            (name, (**object).clone())
        });
        named.collect()
    }
}

/// A socket of the calling thread's namespace.
fn listening(address: SocketAddr) -> std::net::TcpListener {
    // It can have the address again at once: connections of before may still linger.
    let listener = std::net::TcpListener::bind(address).unwrap();
    listener.set_nonblocking(true).unwrap();
    listener
}

/// A typed object as JSON.
fn json(object: &impl Serialize) -> Value {
    serde_json::to_value(object).unwrap()
}
