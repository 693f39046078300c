//! A fleet of clusters that nobody linked yet, what is done to it on the command line, and packets that are counted meanwhile.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::client::Endpoint;
use crate::lab::Lab;
use crate::program::{Place, Ran, floaterctl};
use crate::stream::Stream;
use serde_json::{Value, json};

/// The path of Kosmos' objects.
pub const KOSMOS: &str = "/apis/kosmos.io/v1alpha1";
/// What everything that is installed carries.
const OURS: &str = "labelSelector=app.kubernetes.io%2Fmanaged-by%3Dfloaterctl,app.kubernetes.io%2Fpart-of%3Dclusterlink";
/// How long a fleet may take to be as planned; a failure, not a measure.
const PATIENCE: Duration = Duration::from_secs(90);
/// The datapath's routing table.
const TABLE: u64 = 200;
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
pub struct Bare {
    /// The fleet.
    pub lab: Lab,
    /// The file with a context for each cluster.
    pub kubeconfig: String,
}

impl Bare {
    /// `sim up --bare` of this topology.
    #[must_use]
    pub fn up(topology: &str) -> Self {
        let place = Place::new();
        place.write("bare.yaml", topology);
        let lab = Lab::up_in(place, &["bare.yaml", "--bare"]);
        let kubeconfig = lab.kubeconfig();
        Self { lab, kubeconfig }
    }

    /// A cluster's API.
    #[must_use]
    pub fn endpoint(&self, cluster: &str) -> Endpoint {
        Endpoint::of(&self.kubeconfig, cluster)
    }

    /// `floaterctl link` with these words.
    #[must_use]
    pub fn link(&self, words: &[&str]) -> Ran {
        self.lab.place.run(["link"].iter().chain(words))
    }

    /// `link install` of a control plane in a cluster, which is called as its context.
    #[must_use]
    pub fn install(&self, cluster: &str, more: &[&str]) -> Ran {
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

    /// `link join` of a cluster to a control plane.
    #[must_use]
    pub fn join(&self, cluster: &str, host: &str, more: &[&str]) -> Ran {
        self.of_member("join", cluster, host, more)
    }

    /// `link unjoin` of a cluster from a control plane.
    #[must_use]
    pub fn unjoin(&self, cluster: &str, host: &str, more: &[&str]) -> Ran {
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

    /// The exit code and the answer of `link status`.
    #[must_use]
    pub fn status(&self, host: &str) -> (Option<i32>, Value) {
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

    /// Waits until the control plane says that everything is as planned; that status.
    #[track_caller]
    pub fn settled(&self, host: &str) -> Value {
        let began = Instant::now();
        loop {
            let (code, status) = self.status(host);
            if code == Some(0) {
                return status;
            }
            assert!(began.elapsed() < PATIENCE, "{status:#}");
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// What floaterctl installed in a cluster, by path.
    #[must_use]
    pub fn installed(&self, cluster: &str) -> BTreeSet<String> {
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

    /// Floaters and their namespaces in a cluster, by path.
    #[must_use]
    pub fn floaters(&self, cluster: &str) -> Vec<String> {
        let all = self.endpoint(cluster).objects_of_runs().into_iter();
        all.filter(|path| path.contains("/floater") || path.contains("//kosmos-system-"))
            .collect()
    }

    /// What a node has of the datapath: tunnels, rows of its table, rules, translations. Each begins with its kind.
    #[must_use]
    pub fn traces(&self, node: &str) -> Vec<String> {
        let program = floaterctl().to_str().unwrap();
        let tables = self.lab.exec_json(node, &[program, "__floater", "tables"]);
        let rows = |kind: &str, is_ours: &dyn Fn(&Value) -> bool| -> Vec<String> {
            let all = tables[kind].as_array().unwrap();
            let ours = all.iter().filter(|row| is_ours(row));
            ours.map(|row| format!("{kind} {row}")).collect()
        };
        [
            rows("links", &|link| link["kind"]["kind"] == "vxlan"),
            rows("routes", &|route| route["table"] == TABLE),
            rows("rules", &|rule| rule["action"] == json!({"lookup": TABLE})),
            rows("nat", &|_| true),
        ]
        .concat()
    }

    /// The address of a pod, in the first of its families.
    #[must_use]
    pub fn address(&self, cluster: &str, pod: &str) -> String {
        let path = format!("/api/v1/namespaces/kosmos-system/pods/{pod}");
        let pod = self.endpoint(cluster).get(&path);
        pod["status"]["podIP"].as_str().unwrap().to_owned()
    }

    /// A thousand echo requests a second from a place of the lab to an address.
    #[must_use]
    pub fn stream(&self, at: &str, target: &str) -> Stream {
        // It is built with the programs.
        let gate = floaterctl().with_file_name("gate");
        let words = ["sim", "exec", at, "--", gate.to_str().unwrap()];
        let mut command = self.lab.place.command(words);
        Stream::start(&mut command, target).unwrap()
    }

    /// Takes the fleet down and asserts that nothing is left.
    pub fn down(self) {
        self.lab.down();
    }
}
