//! A place of its own for the labs of a test, and what is asked of them.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;

use serde_json::Value;
use tempfile::TempDir;

/// The driver, with a state folder of its own that has to be empty in the end.
pub(crate) struct Place {
    pub(crate) root: TempDir,
    pub(crate) program: PathBuf,
}

/// The driver, built for whoever runs this test without it.
pub(crate) fn driver() -> &'static Path {
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
    pub(crate) fn new() -> Self {
        Self {
            root: tempfile::tempdir().unwrap(),
            program: driver().to_owned(),
        }
    }

    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(words)
            .env("XDG_RUNTIME_DIR", self.root.path())
            .stdin(Stdio::null());
        command
    }

    pub(crate) fn try_run(&self, words: &[&str]) -> Output {
        self.command(words).output().unwrap()
    }

    #[track_caller]
    pub(crate) fn run(&self, words: &[&str]) -> String {
        let output = self.try_run(words);
        assert!(
            output.status.success(),
            "{words:?}: {output:?}\n{}",
            self.log()
        );
        String::from_utf8(output.stdout).unwrap()
    }

    #[track_caller]
    pub(crate) fn refused(&self, words: &[&str], about: &str) {
        let output = self.try_run(words);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(65), "{words:?}: {said}");
        assert!(said.contains(about), "{words:?}: {said}");
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.root.path().join("floater/lab/lab.log")).unwrap_or_default()
    }

    pub(crate) fn status(&self) -> Value {
        serde_json::from_str(&self.run(&["status"])).unwrap()
    }

    /// Whether an address answers an echo sent from a place.
    pub(crate) fn reaches(&self, from: &str, to: &str) -> bool {
        let program = self.program.to_str().unwrap();
        let ping = ["__floater", "ping", "-c", "1", "-W", "1000", to];
        let words = [&["exec", from, program], &ping[..]].concat();
        self.try_run(&words).status.success()
    }

    /// The processes that were started from here.
    pub(crate) fn processes(&self) -> Vec<i32> {
        netns_harness::process::marked(&format!("XDG_RUNTIME_DIR={}", self.root.path().display()))
    }

    #[track_caller]
    pub(crate) fn assert_empty(&self) {
        let entries = std::fs::read_dir(self.root.path()).unwrap();
        let left: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        assert!(left.is_empty(), "{left:?}");
        assert_eq!(self.processes(), [0; 0]);
    }

    #[track_caller]
    pub(crate) fn down(&self) {
        self.run(&["down"]);
        self.assert_empty();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = self.try_run(&["down-all"]);
    }
}

pub(crate) fn reap(mut child: Child) {
    let _ = child.wait();
}

pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

pub(crate) async fn client(kubeconfig: &Path, context: &str) -> kube::Client {
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

pub(crate) fn kubeconfig_of(place: &Place) -> PathBuf {
    place.status()["kubeconfig"].as_str().unwrap().into()
}

/// The pods' addresses by place, as the clusters' APIs tell them.
pub(crate) fn pods(kubeconfig: &Path, status: &Value) -> Vec<(String, String)> {
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
