//! A cluster's control plane of upstream's own programs, in the network of its first node.
//!
//! ```text
//!   keys, tokens ─► etcd ─► kube-apiserver ─► ready ─► kube-controller-manager, kube-scheduler ─► accounts are made
//! ```
//!
//! etcd listens on the node's loopback, and the API server on all of its addresses. Its files are below the lab's folder and its logs beside
//! those of pods. All of it ends with the lab, and the lab with any of it.

use std::ffi::OsString;
use std::fs;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use datapath::api;
use futures::future::select_all;
use http::Method;
use netns_harness::process::{self, Child, Program, Spawner};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{Instant, sleep};
use tracing::warn;

use crate::Error;
use crate::kubelet::client::{Answer, Door, Identity, call, client};
use crate::network::Network;
use crate::pki::{self, Authority, Pair};
use crate::readable::Readable;
use crate::topology::{Cluster, Kubelets, Node};

/// The programs, in the order of their start.
const PROGRAMS: [&str; 4] = [
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
];
/// Where the API server listens, as nearly everywhere.
pub(crate) const PORT: u16 = 6443;
/// How long a program may take to be ready on a busy machine.
const PATIENCE: Duration = Duration::from_secs(180);
/// Between two looks at a program that is starting: it tells nobody when it is ready.
const LOOK: Duration = Duration::from_millis(50);
/// How much of a log says why a program has ended, lines.
const LAST_LINES: usize = 3;

/// Refuses a folder that lacks a program.
///
/// # Errors
/// [`Error::Missing`] with the file that is not there.
pub(crate) fn check(folder: &Path) -> Result<(), Error> {
    let lacking = PROGRAMS.iter().map(|name| folder.join(name));
    match lacking.into_iter().find(|program| !program.is_file()) {
        None => Ok(()),
        Some(program) => Err(Error::Missing {
            what: "cannot run upstream's control plane".to_owned(),
            why: format!(
                "there is no program {} (--upstream names the folder of {})",
                program.display(),
                PROGRAMS.join(", ")
            ),
        }),
    }
}

/// What a control plane is made with.
pub(crate) struct Made {
    pub(crate) cluster: Cluster,
    /// The folder of the programs.
    pub(crate) programs: PathBuf,
    /// Where its files will be.
    pub(crate) folder: PathBuf,
    /// Where its logs are.
    pub(crate) logs: PathBuf,
    /// What every process of the lab has in its environment.
    pub(crate) env: Vec<(String, OsString)>,
    pub(crate) network: Arc<Network>,
    pub(crate) spawner: Arc<Spawner>,
    pub(crate) authority: Arc<Authority>,
    pub(crate) timing: Kubelets,
}

/// A control plane that runs.
pub(crate) struct ControlPlane {
    made: Made,
    /// From the first node's loopback.
    door: Door,
    /// The administrator's token.
    pub(crate) token: String,
    /// The API as its administrator.
    pub(crate) admin: kube::Client,
    /// Who vouches for the API server towards kubelets, and for nobody else.
    to_nodes: Authority,
    children: Mutex<Vec<(&'static str, Child)>>,
}

impl std::fmt::Debug for ControlPlane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ControlPlane")
            .field("cluster", &self.made.cluster.name)
            .finish_non_exhaustive()
    }
}

impl ControlPlane {
    /// Starts it, and returns once its API is ready and its controllers work.
    pub(crate) async fn start(made: Made) -> Result<Arc<Self>, Error> {
        let name = &made.cluster.name;
        let token = pki::random_hex(24)?;
        let first = made.network.node(name, "n1").ok_or_else(|| Error::Failed {
            doing: format!("start the control plane of {name}"),
            why: "it has no first node".to_owned(),
        })?;
        let door = Door {
            opener: made.network.opener.clone(),
            netns: first.netns.clone(),
            server: SocketAddr::new(Ipv4Addr::LOCALHOST.into(), PORT),
        };
        let admin = Identity::Token(token.clone());
        let admin = client(door.clone(), &made.authority, &admin)?;
        let to_nodes = Authority::new(name)?;
        let plane = Self {
            made,
            door,
            token,
            admin,
            to_nodes,
            children: Mutex::default(),
        };
        plane.furnish()?;
        for program in ["etcd", "kube-apiserver"] {
            plane.program(program).await?;
        }
        plane.wait("kube-apiserver", || plane.is_ready()).await?;
        for program in ["kube-controller-manager", "kube-scheduler"] {
            plane.program(program).await?;
        }
        let made_accounts = || plane.makes_accounts();
        plane.wait("kube-controller-manager", made_accounts).await?;
        Ok(Arc::new(plane))
    }

    fn doing(&self) -> String {
        format!("start the control plane of {}", self.made.cluster.name)
    }

    /// The underlay addresses of its node.
    fn addresses(&self) -> Vec<IpAddr> {
        let first = self.made.cluster.nodes.first();
        first.into_iter().flat_map(|node| node.ips()).collect()
    }

    /// Where nodes and pods reach it.
    pub(crate) fn address(&self) -> SocketAddr {
        let ip = self.addresses().first().copied();
        SocketAddr::new(ip.unwrap_or(Ipv4Addr::LOCALHOST.into()), PORT)
    }

    /// A client of a node's own, as its kubelet has it.
    pub(crate) fn kubelet(&self, node: &str) -> Result<kube::Client, Error> {
        let name = &self.made.cluster.name;
        let net = self.made.network.node(name, node);
        let net = net.ok_or_else(|| Error::Failed {
            doing: self.doing(),
            why: format!("there is no node {name}/{node}"),
        })?;
        let authority = &self.made.authority;
        let pair = authority.client_pair(&format!("system:node:{node}"), "system:nodes")?;
        let door = Door {
            opener: self.made.network.opener.clone(),
            netns: net.netns.clone(),
            server: self.address(),
        };
        client(door, authority, &Identity::Certificate(pair))
    }

    /// The side of a node's kubelet, which only this control plane's API server may ask.
    pub(crate) fn kubelet_server(&self, node: &Node) -> Result<Arc<rustls::ServerConfig>, Error> {
        let ips: Vec<IpAddr> = node.ips().collect();
        self.made.authority.server_for(&ips, &self.to_nodes)
    }

    /// Keys, certificates, tokens, and the kubeconfig of its own controllers.
    fn furnish(&self) -> Result<(), Error> {
        let authority = &self.made.authority;
        let mut addresses = self.addresses();
        addresses.push(Ipv4Addr::LOCALHOST.into());
        // The first address of the range of services is the API's own.
        let services = self.made.cluster.service_cidrs.iter();
        addresses.extend(services.filter_map(|net| net.hosts().next()));
        let Pair { certificate, key } = authority.server_pair(&addresses)?;
        let to_nodes = self.to_nodes.client_pair("kube-apiserver", "floater-lab")?;
        let (private, public) = pki::key_pair()?;
        let url = format!("https://{}", self.door.server);
        let access = crate::objects::Access {
            cluster: self.made.cluster.name.clone(),
            server: url,
            token: self.token.clone(),
        };
        let kubeconfig = crate::objects::kubeconfig(&authority.pem, &[access]);
        let files = [
            ("ca.crt", authority.pem.clone()),
            ("api.crt", certificate),
            ("api.key", key),
            ("nodes.crt", to_nodes.certificate),
            ("nodes.key", to_nodes.key),
            ("account.key", private),
            ("account.pub", public),
            (
                "tokens.csv",
                format!("{},admin,1,\"system:masters\"\n", self.token),
            ),
            ("kubeconfig", kubeconfig),
        ];
        let folder = &self.made.folder;
        let mut builder = fs::DirBuilder::new();
        let made = builder.recursive(true).mode(0o700).create(folder);
        made.map_err(Error::failed(format!("make {}", folder.display())))?;
        for (name, text) in files {
            let path = folder.join(name);
            let mut options = fs::OpenOptions::new();
            let file = options.write(true).create(true).truncate(true).mode(0o600);
            file.open(&path)
                .and_then(|mut file| file.write_all(text.as_bytes()))
                .map_err(Error::failed(format!("write {}", path.display())))?;
        }
        Ok(())
    }

    fn file(&self, name: &str) -> String {
        self.made.folder.join(name).display().to_string()
    }

    fn log(&self, program: &str) -> PathBuf {
        let name = format!("{}_{program}.log", self.made.cluster.name);
        self.made.logs.join(name)
    }

    fn arguments(&self, program: &str) -> Vec<String> {
        let of = |name: &str| self.file(name);
        match program {
            "etcd" => vec![
                format!("--data-dir={}", of("etcd")),
                "--listen-client-urls=http://127.0.0.1:2379".to_owned(),
                "--advertise-client-urls=http://127.0.0.1:2379".to_owned(),
                "--listen-peer-urls=http://127.0.0.1:2380".to_owned(),
                "--initial-advertise-peer-urls=http://127.0.0.1:2380".to_owned(),
                "--initial-cluster=default=http://127.0.0.1:2380".to_owned(),
                // A lab does not outlive its machine.
                "--unsafe-no-fsync".to_owned(),
                "--log-level=warn".to_owned(),
            ],
            "kube-apiserver" => {
                let services = self.made.cluster.service_cidrs.iter();
                let mut families = std::collections::BTreeMap::new();
                for net in services {
                    families
                        .entry(net.addr().is_ipv6())
                        .or_insert_with(|| net.to_string());
                }
                let services: Vec<String> = families.into_values().collect();
                let any = match self.made.cluster.has_ipv6() {
                    true => "::",
                    false => "0.0.0.0",
                };
                vec![
                    "--etcd-servers=http://127.0.0.1:2379".to_owned(),
                    format!("--bind-address={any}"),
                    format!("--secure-port={PORT}"),
                    format!("--advertise-address={}", self.address().ip()),
                    format!("--client-ca-file={}", of("ca.crt")),
                    format!("--tls-cert-file={}", of("api.crt")),
                    format!("--tls-private-key-file={}", of("api.key")),
                    format!("--kubelet-certificate-authority={}", of("ca.crt")),
                    format!("--kubelet-client-certificate={}", of("nodes.crt")),
                    format!("--kubelet-client-key={}", of("nodes.key")),
                    "--kubelet-preferred-address-types=InternalIP".to_owned(),
                    format!("--service-account-key-file={}", of("account.pub")),
                    format!("--service-account-signing-key-file={}", of("account.key")),
                    "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
                    format!("--token-auth-file={}", of("tokens.csv")),
                    "--authorization-mode=Node,RBAC".to_owned(),
                    "--enable-admission-plugins=NodeRestriction".to_owned(),
                    format!("--service-cluster-ip-range={}", services.join(",")),
                    "--allow-privileged=true".to_owned(),
                ]
            }
            "kube-controller-manager" => vec![
                format!("--kubeconfig={}", of("kubeconfig")),
                format!("--service-account-private-key-file={}", of("account.key")),
                format!("--root-ca-file={}", of("ca.crt")),
                "--leader-elect=false".to_owned(),
                "--bind-address=127.0.0.1".to_owned(),
                format!(
                    "--node-monitor-period={}ms",
                    (self.made.timing.grace / 10).as_millis()
                ),
                format!(
                    "--node-monitor-grace-period={}ms",
                    self.made.timing.grace.as_millis()
                ),
            ],
            _ => vec![
                format!("--kubeconfig={}", of("kubeconfig")),
                "--leader-elect=false".to_owned(),
                "--bind-address=127.0.0.1".to_owned(),
            ],
        }
    }

    async fn program(&self, name: &'static str) -> Result<(), Error> {
        let own = self.made.env.iter();
        let own = own.map(|(name, value)| (OsString::from(name), value.clone()));
        let given: [(OsString, OsString); 2] = [
            ("HOME".into(), self.made.folder.clone().into()),
            // All of it shares the machine with the nodes.
            ("GOMAXPROCS".into(), "2".into()),
        ];
        let program = Program {
            program: self.made.programs.join(name),
            args: self
                .arguments(name)
                .into_iter()
                .map(OsString::from)
                .collect(),
            // The lab's mark comes last.
            env: given.into_iter().chain(own).collect(),
            log: self.log(name),
            netns: self.door.netns.clone(),
            root: None,
        };
        let spawner = self.made.spawner.clone();
        let child = spawn_blocking(move || spawner.spawn(program)).await;
        let child = child.map_err(Error::failed(self.doing()))??;
        self.children().push((name, child));
        Ok(())
    }

    fn children(&self) -> std::sync::MutexGuard<'_, Vec<(&'static str, Child)>> {
        self.children.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a program; one that ends meanwhile is an error, with the end of its log.
    async fn wait<F: Future<Output = bool>>(
        &self,
        name: &'static str,
        is_ready: impl Fn() -> F,
    ) -> Result<(), Error> {
        let deadline = Instant::now() + PATIENCE;
        while !is_ready().await {
            if let Some((ended, code)) = self.ended()? {
                return Err(self.failure(ended, &format!("{ended} ended with {code}")));
            }
            if Instant::now() > deadline {
                return Err(self.failure(name, &format!("{name} is not ready after {PATIENCE:?}")));
            }
            sleep(LOOK).await;
        }
        Ok(())
    }

    /// A program that has ended, and how.
    fn ended(&self) -> Result<Option<(&'static str, i32)>, Error> {
        for (name, child) in self.children().iter_mut() {
            if let Some(code) = child.try_wait()? {
                return Ok(Some((*name, code)));
            }
        }
        Ok(None)
    }

    fn failure(&self, program: &str, what: &str) -> Error {
        let path = self.log(program);
        let log = fs::read_to_string(&path).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let last = lines[lines.len().saturating_sub(LAST_LINES)..].join(" / ");
        let why = format!("{what}: {last}");
        Error::Failed {
            doing: self.doing(),
            why: datapath::printable::printable(&why, 2000).into_owned(),
        }
    }

    async fn is_ready(&self) -> bool {
        let request = http::Request::get("/readyz").body(Vec::new());
        let Ok(request) = request else { return false };
        self.admin.request_text(request).await.is_ok()
    }

    async fn makes_accounts(&self) -> bool {
        let account = "/api/v1/namespaces/default/serviceaccounts/default";
        let answer = call(&self.admin, Method::GET, account, &Value::Null).await;
        matches!(answer, Ok(Answer::Done(_)))
    }

    /// The ClusterNodes that it has; none where nobody has linked it, or it does not answer.
    pub(crate) async fn cluster_nodes(&self) -> Vec<Arc<Value>> {
        let path = format!("/apis/{}/{}/clusternodes", api::GROUP, api::VERSION);
        match call(&self.admin, Method::GET, &path, &Value::Null).await {
            Ok(Answer::Done(mut list)) => match list["items"].take() {
                Value::Array(items) => items.into_iter().map(Arc::new).collect(),
                _ => Vec::new(),
            },
            Ok(Answer::Refused(..)) => Vec::new(),
            Err(why) => {
                warn!(
                    cluster = self.made.cluster.name,
                    why, "the API does not tell its ClusterNodes"
                );
                Vec::new()
            }
        }
    }

    /// Returns once one of the programs has ended.
    pub(crate) async fn run(self: Arc<Self>) {
        let ends: Vec<_> = {
            let children = self.children();
            let each = children.iter().map(|(_, child)| {
                let fd = process::pidfd(child.id()).ok().flatten();
                fd.and_then(|fd| Readable::new(fd).ok())
            });
            each.collect()
        };
        let ends = ends.into_iter().map(|end| {
            Box::pin(async move {
                // Without news of a program's end nothing is known of it, as if it had ended.
                if let Some(end) = end {
                    let _ = end.wait().await;
                }
            })
        });
        select_all(ends).await;
        if let Ok(Some((name, code))) = self.ended() {
            let error = self.failure(name, &format!("{name} ended with {code}"));
            warn!(%error, "a program of upstream has ended");
        }
    }

    /// Hands connections of the machine's loopback on to the API server, for as long as the listener is there.
    pub(crate) async fn serve(self: Arc<Self>, listener: TcpListener) {
        let mut connections = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of descriptors, mostly: others close, and the next try may do.
                    warn!(%error, "cannot accept a connection");
                    sleep(LOOK).await;
                    continue;
                }
            };
            connections.spawn(hand_on(stream, self.door.clone()));
        }
    }
}

/// Carries a connection to where a door leads, both ways, until both have ended.
async fn hand_on(mut outside: tokio::net::TcpStream, door: Door) {
    // Small requests that wait for each other suffer from the delay; failing to turn it off costs only that.
    let _ = outside.set_nodelay(true);
    match door.connect().await {
        Ok(mut inside) => {
            // What breaks off here breaks off there.
            let _ = tokio::io::copy_bidirectional(&mut outside, &mut inside).await;
        }
        Err(error) => warn!(%error, "an API server takes no connection"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_without_a_program_is_refused_by_its_path() {
        let folder = tempfile::tempdir().expect("a folder");
        for name in PROGRAMS {
            let error = check(folder.path()).expect_err("one is lacking");
            assert_eq!(error.exit_code(), 69);
            let path = folder.path().join(name);
            assert!(
                error.to_string().contains(&*path.to_string_lossy()),
                "{error}"
            );
            fs::write(path, "").expect("a file");
        }
        check(folder.path()).expect("complete");
    }
}
