//! A fleet of clusters that nobody linked yet, what is done to it on the command line, and packets that are counted meanwhile.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;
use tests::client::Endpoint;
use tests::lab::Lab;
use tests::program::{Place, Ran};

pub(crate) const KOSMOS: &str = "/apis/kosmos.io/v1alpha1";
/// What everything that is installed carries.
const OURS: &str = "labelSelector=app.kubernetes.io%2Fmanaged-by%3Dfloaterctl,app.kubernetes.io%2Fpart-of%3Dclusterlink";
const KINDS: &[&str] = &[
    "/api/v1/namespaces",
    "/api/v1/serviceaccounts",
    "/api/v1/secrets",
    "/api/v1/configmaps",
    "/apis/apps/v1/daemonsets",
    "/apis/apps/v1/deployments",
    "/apis/rbac.authorization.k8s.io/v1/clusterroles",
    "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
    "/apis/rbac.authorization.k8s.io/v1/roles",
    "/apis/rbac.authorization.k8s.io/v1/rolebindings",
    "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
];

/// Clusters that nobody linked, without floaters of the lab's own.
pub(crate) struct Bare {
    pub(crate) lab: Lab,
    pub(crate) kubeconfig: String,
}

impl Bare {
    pub(crate) fn up(topology: &str) -> Self {
        let place = Place::new();
        place.write("bare.yaml", topology);
        let lab = Lab::up_in(place, &["bare.yaml", "--bare"]);
        let kubeconfig = lab.kubeconfig();
        Self { lab, kubeconfig }
    }

    pub(crate) fn endpoint(&self, cluster: &str) -> Endpoint {
        Endpoint::of(&self.kubeconfig, cluster)
    }

    pub(crate) fn link(&self, words: &[&str]) -> Ran {
        self.lab.place.run(["link"].iter().chain(words))
    }

    pub(crate) fn install(&self, cluster: &str, more: &[&str]) -> Ran {
        let named = [
            "install",
            "--kubeconfig",
            &self.kubeconfig,
            "--context",
            cluster,
            "--cluster-name",
            cluster,
        ];
        self.link(&[&named, more].concat())
    }

    pub(crate) fn join(&self, cluster: &str, host: &str, more: &[&str]) -> Ran {
        self.of_member("join", cluster, host, more)
    }

    pub(crate) fn unjoin(&self, cluster: &str, host: &str, more: &[&str]) -> Ran {
        self.of_member("unjoin", cluster, host, more)
    }

    fn of_member(&self, verb: &str, cluster: &str, host: &str, more: &[&str]) -> Ran {
        let named = [
            verb,
            "cluster",
            "--name",
            cluster,
            "--kubeconfig",
            &self.kubeconfig,
            "--context",
            cluster,
            "--host-kubeconfig",
            &self.kubeconfig,
            "--host-context",
            host,
        ];
        self.link(&[&named, more].concat())
    }

    pub(crate) fn status(&self, host: &str) -> (Option<i32>, Value) {
        let ran = self.link(&[
            "status",
            "--kubeconfig",
            &self.kubeconfig,
            "--context",
            host,
            "-o",
            "json",
        ]);
        (ran.code, ran.json())
    }

    /// What floaterctl installed in a cluster, by path.
    pub(crate) fn installed(&self, cluster: &str) -> BTreeSet<String> {
        let endpoint = self.endpoint(cluster);
        let each = KINDS.iter();
        each.flat_map(|kind| {
            let items = endpoint.items(&format!("{kind}?{OURS}"));
            let named = move |item: Value| {
                format!(
                    "{kind} {}",
                    item["metadata"]["name"].as_str().unwrap_or_default()
                )
            };
            items.into_iter().map(named).collect::<Vec<_>>()
        })
        .collect()
    }

    /// What a node has of the datapath: tunnels, rows of its table, rules, tables of nftables.
    pub(crate) fn traces(&self, node: &str) -> Vec<String> {
        let looks: [(&str, &[&str]); 4] = [
            ("link", &["ip", "-o", "link", "show", "type", "vxlan"]),
            ("route", &["ip", "route", "show", "table", "200"]),
            ("rule", &["ip", "rule", "show", "table", "200"]),
            ("nftables", &["nft", "list", "tables"]),
        ];
        let mut found = Vec::new();
        for (what, command) in looks {
            let ran = self.lab.exec(node, command);
            found.extend(
                ran.stdout
                    .lines()
                    .map(|line| format!("{node}: {what} {line}")),
            );
        }
        found
    }

    pub(crate) fn down(self) {
        self.lab.down();
    }
}

/// Echo requests from a pod, one as soon as the one before is answered, without a pause.
pub(crate) struct Pinger {
    over: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<u64>,
}

impl Pinger {
    pub(crate) fn start(bare: &Bare, at: &str, target: &str) -> Self {
        const AT_ONCE: &str = "500";
        let over = Arc::new(AtomicBool::new(false));
        let program = tests::program::floaterctl().to_str().unwrap();
        let words = [
            "sim",
            "exec",
            at,
            "--",
            program,
            "__floater",
            "ping",
            "-c",
            AT_ONCE,
            target,
        ];
        let words = words.map(str::to_owned);
        let seen = over.clone();
        let mut command = bare.lab.place.command(&words);
        let thread = std::thread::spawn(move || {
            let mut sent = 0;
            while !seen.load(Ordering::Relaxed) {
                let ran = Ran::of(command.output().unwrap()).expect(0);
                let answered = format!("{AT_ONCE} of {AT_ONCE} answered");
                assert!(ran.stdout.contains(&answered), "{}", ran.stdout);
                sent += 500;
            }
            sent
        });
        Self { over, thread }
    }

    /// How many were sent, all of which were answered.
    #[track_caller]
    pub(crate) fn end(self) -> u64 {
        self.over.store(true, Ordering::Relaxed);
        self.thread.join().expect("no packet was lost")
    }
}
