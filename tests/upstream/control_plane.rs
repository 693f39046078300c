//! The four programs of upstream, started in the order in which each needs the one before.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use netns_harness::namespace::Netns;
use netns_harness::process::{Child, Program, Spawner};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tests::client::Endpoint;

/// The administrator's token.
const TOKEN: &str = "the-administrators-token";
const PORT: u16 = 6443;
/// How long a program may take to be ready on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// A running control plane.
pub(crate) struct ControlPlane {
    folder: PathBuf,
    children: Vec<(&'static str, Child)>,
}

impl ControlPlane {
    /// Starts it in the namespace of the calling thread; its files are in the folder.
    pub(crate) fn start(spawner: &Spawner, folder: &Path, advertised: &str) -> Self {
        let mut plane = Self {
            folder: folder.to_owned(),
            children: Vec::new(),
        };
        plane.furnish();
        let of = |name: &str| folder.join(name).display().to_string();
        plane.program(
            spawner,
            "etcd",
            &[
                format!("--data-dir={}", of("etcd")),
                "--listen-client-urls=http://127.0.0.1:2379".to_owned(),
                "--advertise-client-urls=http://127.0.0.1:2379".to_owned(),
                "--listen-peer-urls=http://127.0.0.1:2380".to_owned(),
                "--initial-advertise-peer-urls=http://127.0.0.1:2380".to_owned(),
                "--initial-cluster=default=http://127.0.0.1:2380".to_owned(),
                "--unsafe-no-fsync".to_owned(),
                "--log-level=warn".to_owned(),
            ],
        );
        plane.program(
            spawner,
            "kube-apiserver",
            &[
                "--etcd-servers=http://127.0.0.1:2379".to_owned(),
                format!("--secure-port={PORT}"),
                format!("--advertise-address={advertised}"),
                format!("--tls-cert-file={}", of("api.crt")),
                format!("--tls-private-key-file={}", of("api.key")),
                format!("--service-account-key-file={}", of("account.pub")),
                format!("--service-account-signing-key-file={}", of("account.key")),
                "--service-account-issuer=https://floater.test".to_owned(),
                format!("--token-auth-file={}", of("tokens.csv")),
                "--authorization-mode=RBAC".to_owned(),
                "--service-cluster-ip-range=10.96.0.0/16".to_owned(),
                "--allow-privileged=true".to_owned(),
            ],
        );
        let end = plane.endpoint();
        plane.wait("kube-apiserver", || is_ready(&end));
        let kubeconfig = format!("--kubeconfig={}", of("admin.kubeconfig"));
        plane.program(
            spawner,
            "kube-controller-manager",
            &[
                kubeconfig.clone(),
                format!("--service-account-private-key-file={}", of("account.key")),
                format!("--root-ca-file={}", of("api.crt")),
                "--leader-elect=false".to_owned(),
                "--bind-address=127.0.0.1".to_owned(),
                "--node-monitor-period=1s".to_owned(),
                "--node-monitor-grace-period=6s".to_owned(),
            ],
        );
        plane.program(
            spawner,
            "kube-scheduler",
            &[
                kubeconfig,
                "--leader-elect=false".to_owned(),
                "--bind-address=127.0.0.1".to_owned(),
            ],
        );
        plane.wait("kube-controller-manager", || {
            end.call(
                "GET",
                "/api/v1/namespaces/default/serviceaccounts/default",
                &Value::Null,
            )
            .0 == 200
        });
        plane
    }

    /// Keys, certificates, tokens, and the administrator's kubeconfig.
    fn furnish(&self) {
        let names = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
        let api = rcgen::generate_simple_self_signed(names).unwrap();
        let account = rcgen::KeyPair::generate().unwrap();
        let write = |name: &str, text: String| fs::write(self.folder.join(name), text).unwrap();
        write("api.crt", api.cert.pem());
        write("api.key", api.signing_key.serialize_pem());
        write("account.key", account.serialize_pem());
        write("account.pub", account.public_key_pem());
        write(
            "tokens.csv",
            format!("{TOKEN},admin,1,\"system:masters\"\n"),
        );
        write(
            "admin.kubeconfig",
            self.kubeconfig(&json!({"token": TOKEN})),
        );
    }

    /// A kubeconfig of one context, `real`, for a user.
    pub(crate) fn kubeconfig(&self, user: &Value) -> String {
        use base64::Engine as _;
        let authority = fs::read(self.folder.join("api.crt")).unwrap();
        let authority = base64::engine::general_purpose::STANDARD.encode(authority);
        let cluster = json!({"server": format!("https://127.0.0.1:{PORT}"), "certificate-authority-data": authority});
        tests::proxy::kubeconfig(&[("real", cluster, user.clone())])
    }

    /// The API, as its administrator.
    pub(crate) fn endpoint(&self) -> Endpoint {
        Endpoint::of(self.folder.join("admin.kubeconfig"), "real")
    }

    fn program(&mut self, spawner: &Spawner, name: &'static str, arguments: &[String]) {
        let programs = std::env::var_os("FLOATER_UPSTREAM").expect("the gate names their folder");
        let program = Program {
            program: Path::new(&programs).join(name),
            args: arguments.iter().map(OsString::from).collect(),
            env: vec![
                ("PATH".into(), std::env::var_os("PATH").unwrap_or_default()),
                ("HOME".into(), self.folder.clone().into()),
                // Two cores are shared by all of it.
                ("GOMAXPROCS".into(), "2".into()),
            ],
            log: self.folder.join(format!("{name}.log")),
            netns: Netns::current().unwrap(),
            root: None,
        };
        self.children.push((name, spawner.spawn(program).unwrap()));
    }

    /// Waits for a program; one that ends meanwhile is told with the end of its log.
    fn wait(&mut self, name: &str, mut is_ready: impl FnMut() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !is_ready() {
            let log = self.folder.join(format!("{name}.log"));
            let log = fs::read_to_string(log).unwrap_or_default();
            let last: Vec<&str> = log.lines().rev().take(5).collect();
            for (ended, child) in &mut self.children {
                let code = child.try_wait().unwrap();
                assert!(code.is_none(), "{ended} ended with {code:?}: {last:#?}");
            }
            assert!(Instant::now() < deadline, "{name} is not ready: {last:#?}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Ends all of it.
    pub(crate) fn stop(mut self) {
        for (_, child) in self.children.iter_mut().rev() {
            child.signal(Signal::SIGKILL);
            child.wait().unwrap();
        }
    }
}

fn is_ready(end: &Endpoint) -> bool {
    let answer = end.send("GET", "/readyz", &Default::default(), &[]);
    answer.is_ok_and(|answer| answer.status == 200)
}
