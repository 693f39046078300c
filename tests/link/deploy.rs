//! The datapath deploys itself, and goes: clusters that nobody linked, over their APIs, with the programs as their pods.

use std::collections::BTreeSet;

use serde_json::Value;
use tests::client::Endpoint;
use tests::lab::Lab;
use tests::program::{Place, Ran};

const KOSMOS: &str = "/apis/kosmos.io/v1alpha1";
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
struct Bare {
    lab: Lab,
    kubeconfig: String,
}

impl Bare {
    fn up(topology: &str) -> Self {
        let place = Place::new();
        place.write("bare.yaml", topology);
        let lab = Lab::up_in(place, &["bare.yaml", "--bare"]);
        let kubeconfig = lab.kubeconfig();
        Self { lab, kubeconfig }
    }

    fn endpoint(&self, cluster: &str) -> Endpoint {
        Endpoint::of(&self.kubeconfig, cluster)
    }

    fn link(&self, words: &[&str]) -> Ran {
        self.lab.place.run(["link"].iter().chain(words))
    }

    fn install(&self, cluster: &str, more: &[&str]) -> Ran {
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

    fn join(&self, cluster: &str, host: &str, more: &[&str]) -> Ran {
        let named = [
            "join",
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

    fn unjoin(&self, cluster: &str, host: &str, more: &[&str]) -> Ran {
        let named = [
            "unjoin",
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

    fn status(&self, host: &str) -> (Option<i32>, Value) {
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
    fn installed(&self, cluster: &str) -> BTreeSet<String> {
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
    fn traces(&self, node: &str) -> Vec<String> {
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

    fn down(self) {
        self.lab.down();
    }
}

const TWO: &str = "\
name: bare
clusters:
  - {name: east, nodes: 2}
  - {name: west, nodes: 2}
workloads: {floater: false}
";

#[test]
#[ignore = "netns: needs veth, vxlan, bridge, policy-rules, nft"]
fn clusters_are_linked_carry_packets_and_are_as_before_when_they_have_left() {
    let bare = Bare::up(TWO);
    assert_eq!(
        bare.status("east").0,
        Some(69),
        "there is no control plane yet"
    );

    let planned = bare.install("east", &["--dry-run"]).expect(0);
    assert!(
        planned.stdout.contains("kind: DaemonSet"),
        "{}",
        planned.stdout
    );
    assert!(bare.installed("east").is_empty(), "a dry run makes nothing");

    bare.install("east", &[]).expect(0);
    let ran = bare
        .join("west", "east", &["--network-type", "p2p"])
        .expect(0);
    assert!(ran.stdout.contains("packets pass"), "{}", ran.stdout);

    let (code, status) = bare.status("east");
    assert_eq!(code, Some(0), "{status:#}");
    assert_eq!(status["clusters"][0]["networkType"], "gateway");
    assert_eq!(status["clusters"][1]["networkType"], "p2p");
    for cluster in 0..2 {
        for node in 0..2 {
            let node = &status["clusters"][cluster]["nodes"][node];
            assert_eq!(node["planned"], node["applied"], "{status:#}");
            assert!(node["applied"].is_string(), "{status:#}");
        }
    }

    // Nobody holds anything of anybody's that is worth more than it needs.
    let secrets = bare
        .endpoint("west")
        .items("/api/v1/namespaces/kosmos-system/secrets");
    assert!(!secrets.is_empty());
    let admin = bare.endpoint("east").token;
    let text = serde_json::to_string(&secrets).unwrap();
    assert!(
        !text.contains(&admin),
        "an administrator's token left its machine"
    );
    let clusters = bare.endpoint("east").items(&format!("{KOSMOS}/clusters"));
    assert!(
        clusters
            .iter()
            .all(|cluster| cluster["spec"]["kubeconfig"].is_null()),
        "{clusters:#?}"
    );

    // Twice is once.
    let before = (bare.installed("east"), bare.installed("west"));
    bare.join("west", "east", &["--network-type", "p2p"])
        .expect(0);
    assert_eq!(before, (bare.installed("east"), bare.installed("west")));

    // A control plane with members stays.
    let refused = bare
        .link(&[
            "uninstall",
            "--kubeconfig",
            &bare.kubeconfig,
            "--context",
            "east",
        ])
        .expect(69);
    assert!(refused.stderr.contains("west"), "{}", refused.stderr);

    bare.unjoin("west", "east", &[]).expect(0);
    assert_eq!(bare.installed("west"), BTreeSet::new());
    for node in ["west/n1", "west/n2"] {
        assert_eq!(bare.traces(node), Vec::<String>::new());
    }
    let ran = bare
        .link(&[
            "uninstall",
            "--kubeconfig",
            &bare.kubeconfig,
            "--context",
            "east",
        ])
        .expect(0);
    assert!(!ran.stdout.contains("stays"), "{}", ran.stdout);
    assert_eq!(bare.installed("east"), BTreeSet::new());
    for node in ["east/n1", "east/n2"] {
        assert_eq!(bare.traces(node), Vec::<String>::new());
    }
    bare.down();
}

#[test]
#[ignore = "netns: needs veth, vxlan, bridge, policy-rules, nft"]
fn what_cannot_be_linked_is_refused_and_leaves_nothing() {
    let bare = Bare::up(
        "\
name: bare
clusters:
  - {name: east, nodes: 1, podCIDRs: [10.1.0.0/16], globalCIDRsMap: {10.1.0.0/16: 10.201.0.0/16}}
  - {name: west, nodes: 1, podCIDRs: [10.1.0.0/16], globalCIDRsMap: {10.1.0.0/16: 10.202.0.0/16}}
  - {name: north, nodes: 1}
workloads: {floater: false}
",
    );
    let ran = bare.join("west", "east", &[]).expect(69);
    assert!(ran.stderr.contains("link install"), "{}", ran.stderr);
    bare.install("east", &[]).expect(0);
    let before = bare.installed("east");
    for (more, named) in [
        // The same pods' prefix at both.
        (&[][..], "10.1.0.0/16"),
        (&["--ip-family", "ipv6"], "ipv6"),
        (&["--namespace", "elsewhere"], "elsewhere"),
    ] {
        let ran = bare.join("west", "east", more).expect(69);
        assert!(ran.stderr.contains(named), "{more:?}: {}", ran.stderr);
        assert_eq!(bare.installed("west"), BTreeSet::new(), "{more:?}");
        assert_eq!(bare.installed("east"), before, "{more:?}");
    }
    // No node has such a link, so none becomes as planned, and everything is taken back.
    let ran = bare
        .join("north", "east", &["--default-nic", "eth9", "--wait", "5s"])
        .expect(69);
    assert!(ran.stderr.contains("not within 5 s"), "{}", ran.stderr);
    assert_eq!(bare.installed("north"), BTreeSet::new());
    assert_eq!(bare.installed("east"), before);
    assert_eq!(bare.traces("north/n1"), Vec::<String>::new());
    bare.join("north", "east", &[]).expect(0);
    bare.down();
}

/// The commands of a chapter's first block, without comments.
fn commands(readme: &str, chapter: &str) -> Vec<String> {
    let (_, rest) = readme.split_once(chapter).expect("the chapter");
    let (_, block) = rest.split_once("```\n").expect("a block");
    let (block, _) = block.split_once("```").expect("its end");
    let lines = block
        .lines()
        .map(|line| line.split('#').next().unwrap_or_default().trim());
    lines
        .filter(|line| !line.is_empty())
        .map(str::to_owned)
        .collect()
}

#[test]
#[ignore = "netns: needs veth, vxlan, bridge, policy-rules, nft"]
fn the_readme_links_a_pair_from_nothing() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap();
    let readme = std::fs::read_to_string(root.join("README.md")).unwrap();
    let commands = commands(&readme, "## Linking clusters");
    assert!(commands.len() >= 8, "{commands:?}");
    let place = Place::new();
    let folder = tests::program::floaterctl().parent().unwrap().to_owned();
    let script = format!("set -e\nPATH=\"$1:$PATH\"\n{}\n", commands.join("\n"));
    let mut shell = place.command(["version"]);
    let mut run = std::process::Command::new("/bin/sh");
    run.args(["-c", &script, "sh"])
        .arg(folder)
        .current_dir(place.path());
    run.env_clear();
    for (name, value) in shell.env("LC_ALL", "C").get_envs() {
        run.env(name, value.unwrap_or_default());
    }
    let ran = Ran::of(run.output().unwrap());
    // Also after a failure nothing stays.
    let _ = place.command(["sim", "down", "--all"]).output();
    let ran = ran.expect(0);
    assert!(ran.stdout.contains("Verdict: healthy"), "{}", ran.stdout);
    assert!(ran.stdout.contains("packets pass"), "{}", ran.stdout);
    place.assert_empty();
}
