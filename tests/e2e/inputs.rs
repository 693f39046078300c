//! Bad input: one clear line that names file, place and rule, exit code 65, and nothing built.

use tests::program::Place;

/// A topology, the line to blame, and a word of the rule.
const TOPOLOGIES: &[(&str, u64, &str)] = &[
    ("", 0, "clusters"),
    ("name: lab\n", 0, "clusters"),
    ("clusters: []\n", 1, "clusters"),
    ("clusters: {}\n", 1, ""),
    ("clusters:\n", 1, "clusters"),
    ("- a\n- b\n", 1, ""),
    ("just a word\n", 1, ""),
    ("clusters: [\n", 0, ""),
    ("clusters:\n\t- name: a\n", 2, ""),
    ("colour: red\nclusters:\n  - name: a\n", 1, "colour"),
    ("clusters:\n  - name: a\n    colour: red\n", 3, "colour"),
    (
        "underlay: {colour: red}\nclusters:\n  - name: a\n",
        1,
        "colour",
    ),
    (
        "workloads: {colour: true}\nclusters:\n  - name: a\n",
        1,
        "colour",
    ),
    ("name: Not_A_Label\nclusters:\n  - name: a\n", 1, "name"),
    ("name: -lab\nclusters:\n  - name: a\n", 1, "name"),
    ("clusters:\n  - name: A\n", 2, "name"),
    ("clusters:\n  - name: a.b\n", 2, "name"),
    ("clusters:\n  - name: a-\n", 2, "name"),
    ("clusters:\n  - name: \"\"\n", 2, "name"),
    (
        "clusters:\n  - name: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\n",
        2,
        "name",
    ),
    ("clusters:\n  - name: 7\n    nodes: x\n", 0, ""),
    ("clusters:\n  - name: a\n  - name: a\n", 3, "a"),
    ("clusters:\n  - name: a\n    mode: mesh\n", 3, "mode"),
    ("clusters:\n  - name: a\n    mode: Gateway\n", 3, "mode"),
    ("clusters:\n  - name: a\n    family: ipv5\n", 3, "family"),
    ("clusters:\n  - name: a\n    nodes: 0\n", 3, "nodes"),
    ("clusters:\n  - name: a\n    nodes: -1\n", 3, ""),
    ("clusters:\n  - name: a\n    nodes: many\n", 3, ""),
    ("clusters:\n  - name: a\n    nodes: 1.5\n", 3, ""),
    ("clusters:\n  - name: a\n    nodes: 100000000\n", 3, "nodes"),
    ("clusters:\n  - name: a\n    count: 0\n", 3, "count"),
    ("clusters:\n  - name: a\n    count: 100000000\n", 3, "count"),
    ("clusters:\n  - name: a\n    podCIDRs: [10.20.0.0]\n", 3, ""),
    (
        "clusters:\n  - name: a\n    podCIDRs: [10.20.0.1/16]\n",
        3,
        "host bits",
    ),
    (
        "clusters:\n  - name: a\n    podCIDRs: [10.20.0.0/33]\n",
        3,
        "",
    ),
    (
        "clusters:\n  - name: a\n    podCIDRs: [\"fd00:1::/48\"]\n",
        3,
        "family",
    ),
    (
        "clusters:\n  - name: a\n    family: ipv6\n    podCIDRs: [10.20.0.0/16]\n",
        4,
        "family",
    ),
    (
        "clusters:\n  - name: a\n    serviceCIDRs: [\"fd00:1::/108\"]\n",
        3,
        "family",
    ),
    (
        "clusters:\n  - name: a\n    podCIDRs: [10.20.0.0/16]\n    serviceCIDRs: [10.20.1.0/24]\n",
        4,
        "overlap",
    ),
    (
        "clusters:\n  - name: a\n    podCIDRs: [10.20.0.0/16]\n  - name: b\n    podCIDRs: [10.20.128.0/17]\n",
        5,
        "overlap",
    ),
    (
        "clusters:\n  - name: a\n    podCIDRs: [100.64.0.0/16]\n",
        3,
        "underlay",
    ),
    (
        "clusters:\n  - name: a\n    podCIDRs: 10.20.0.0/16\n",
        3,
        "",
    ),
    ("clusters:\n  - name: a\n    globalCIDRsMap: [x]\n", 3, ""),
    (
        "clusters:\n  - name: a\n    globalCIDRsMap: {10.20.0.0/16: nonsense}\n",
        3,
        "",
    ),
    ("underlay: {mtu: 10}\nclusters:\n  - name: a\n", 1, "mtu"),
    (
        "underlay: {mtu: 700000}\nclusters:\n  - name: a\n",
        1,
        "mtu",
    ),
    (
        "underlay: {delay: soon}\nclusters:\n  - name: a\n",
        1,
        "delay",
    ),
    (
        "underlay: {delay: -5ms}\nclusters:\n  - name: a\n",
        1,
        "delay",
    ),
    (
        "underlay: {loss: 150%}\nclusters:\n  - name: a\n",
        1,
        "loss",
    ),
    (
        "workloads: {floater: maybe}\nclusters:\n  - name: a\n",
        1,
        "floater",
    ),
    (
        "workloads: {floaters: threads}\nclusters:\n  - name: a\n",
        1,
        "floaters",
    ),
    (
        "clusters:\n  - name: a\nfaults: [{code: NO-SUCH-CODE, at: a/n1}]\n",
        3,
        "NO-SUCH-CODE",
    ),
    (
        "clusters:\n  - name: a\nfaults: [{code: FDB-MISSING, at: b/n1}]\n",
        3,
        "b",
    ),
    (
        "clusters:\n  - name: a\nfaults: [{code: FDB-MISSING, at: a/n9}]\n",
        3,
        "n9",
    ),
    (
        "clusters:\n  - name: a\nfaults: [{code: FDB-MISSING, at: a/n1, peer: z}]\n",
        3,
        "z",
    ),
    (
        "clusters:\n  - name: a\nfaults: [{code: FDB-MISSING}]\n",
        3,
        "at",
    ),
    (
        "clusters:\n  - name: a\nexpect: [{verdict: fine}]\n",
        3,
        "verdict",
    ),
    (
        "clusters:\n  - name: a\nexpect: [{code: NO-SUCH-CODE, at: a/n1}]\n",
        3,
        "NO-SUCH-CODE",
    ),
    (
        "clusters:\n  - name: a\n---\nclusters:\n  - name: b\n",
        0,
        "document",
    ),
    ("clusters:\n  - name: a\n    name: b\n", 3, ""),
    (
        "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\n\
         d: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e,*e,*e,*e]\n\
         g: [*f,*f,*f,*f,*f,*f,*f,*f,*f]\nclusters:\n  - name: a\n",
        0,
        "",
    ),
];

#[test]
fn bad_topologies_are_refused_with_place_and_rule() {
    assert!(TOPOLOGIES.len() >= 40);
    let place = Place::new();
    let mut wrong = Vec::new();
    for (text, line, word) in TOPOLOGIES {
        let path = place.write("fleet.yaml", text);
        let ran = place.run(["sim".as_ref(), "up".as_ref(), path.as_os_str()]);
        // 0 stands for a place that is no single line: the whole file, the end, or an alias.
        let place_named = if *line == 0 {
            "fleet.yaml".to_owned()
        } else {
            format!("fleet.yaml:{line}:")
        };
        let said = ran.stderr.contains(&place_named)
            && ran.stderr.to_lowercase().contains(&word.to_lowercase());
        let lines = ran.stderr.lines().filter(|line| !line.is_empty()).count();
        if ran.code != Some(65) || !said || lines != 1 || !ran.stdout.is_empty() {
            wrong.push(format!(
                "{text:?}\n    wanted 65, {place_named}, `{word}`, got {:?}: {}",
                ran.code, ran.stderr
            ));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {}\n{}",
        wrong.len(),
        TOPOLOGIES.len(),
        wrong.join("\n")
    );
    place.assert_empty();
}

#[test]
fn what_this_kernel_cannot_do_is_named() {
    let place = Place::new();
    for (word, text) in [
        ("delay", "underlay: {delay: 20ms}\nclusters:\n  - name: a\n"),
        (
            "delay",
            "clusters:\n  - name: a\n    underlay: {delay: 20ms}\n",
        ),
    ] {
        let path = place.write("fleet.yaml", text);
        let ran = place
            .run(["sim".as_ref(), "up".as_ref(), path.as_os_str()])
            .expect(69);
        assert!(ran.stderr.contains(word), "{}", ran.stderr);
    }
    place.assert_empty();
}

/// Words that may never be printed: everything secret in the kubeconfigs below.
const SECRETS: &[&str] = &[
    "c2VjcmV0LWtleS1kYXRh",
    "secret-token-of-east",
    "secret-password",
    "secret-key-data",
];

const GOOD: &str = "\
apiVersion: v1
kind: Config
current-context: east
clusters:
- name: east
  cluster: {server: 'https://127.0.0.1:1', insecure-skip-tls-verify: true}
users:
- name: admin
  user: {token: secret-token-of-east}
contexts:
- name: east
  context: {cluster: east, user: admin}
";

/// A change to the good kubeconfig, the line to blame (0: the file as a whole), and a word of the rule.
fn kubeconfigs() -> Vec<(String, u64, &'static str)> {
    let change = |from: &str, to: &str| {
        assert!(GOOD.contains(from), "{from}");
        GOOD.replace(from, to)
    };
    vec![
        (String::new(), 0, ""),
        ("secret-password\n".to_owned(), 0, ""),
        ("[secret-password]\n".to_owned(), 0, ""),
        (
            GOOD.replace("clusters:\n", "clusters: [secret-password\n"),
            0,
            "",
        ),
        (
            change(
                "{cluster: east, user: admin}",
                "{cluster: west, user: admin}",
            ),
            12,
            "cluster",
        ),
        (
            change(
                "{cluster: east, user: admin}",
                "{cluster: east, user: nobody}",
            ),
            12,
            "user",
        ),
        (
            change("{cluster: east, user: admin}", "{cluster: 7.5, user: [x]}"),
            12,
            "",
        ),
        (
            change(
                "{token: secret-token-of-east}",
                "{token: [secret-token-of-east]}",
            ),
            9,
            "",
        ),
        (
            change(
                "{token: secret-token-of-east}",
                "{client-key-data: '%c2VjcmV0LWtleS1kYXRh'}",
            ),
            9,
            "client-key-data",
        ),
        (
            change(
                "{token: secret-token-of-east}",
                "{client-certificate: /no/such/file, client-key: /no/such/file}",
            ),
            9,
            "",
        ),
        (
            change(
                "insecure-skip-tls-verify: true",
                "certificate-authority-data: '!secret-key-data'",
            ),
            6,
            "certificate-authority-data",
        ),
        (
            change(
                "insecure-skip-tls-verify: true",
                "certificate-authority: no-such-file",
            ),
            6,
            "certificate-authority",
        ),
        (change("https://127.0.0.1:1", "not a url"), 6, "server"),
        (
            change("https://127.0.0.1:1", "ftp://127.0.0.1"),
            6,
            "server",
        ),
        (change("server: 'https://127.0.0.1:1', ", ""), 5, "server"),
        (format!("{GOOD}---\n{GOOD}"), 0, "document"),
        (change("kind: Config", "kind: Pod"), 2, "kind"),
        (
            GOOD.replace(
                "contexts:\n- name: east\n  context: {cluster: east, user: admin}\n",
                "",
            ),
            0,
            "context",
        ),
    ]
}

#[test]
fn bad_kubeconfigs_are_refused_and_no_secret_is_printed() {
    let place = Place::new();
    let mut wrong = Vec::new();
    let mut judge = |what: &str, arguments: &[&str], words: &[&str]| {
        let ran = place.run(arguments);
        let printed = format!("{}{}", ran.stdout, ran.stderr);
        let leaked: Vec<_> = SECRETS
            .iter()
            .filter(|secret| printed.contains(**secret))
            .collect();
        let said = words.iter().all(|word| ran.stderr.contains(word));
        if ran.code != Some(65) || !said || !leaked.is_empty() {
            wrong.push(format!(
                "{what}\n    wanted 65 and {words:?}, leaked {leaked:?}, got {:?}: {}",
                ran.code, ran.stderr
            ));
        }
    };
    for (text, line, word) in kubeconfigs() {
        place.write("kubeconfig", &text);
        let named = if line == 0 {
            "kubeconfig".to_owned()
        } else {
            format!("kubeconfig:{line}: ")
        };
        judge(
            &text,
            &["dr", "--kubeconfig", "kubeconfig"],
            &[&named, word],
        );
    }
    place.write("binary", [0xff_u8, 0xfe, 0]);
    std::fs::create_dir(place.path().join("folder")).unwrap();
    std::fs::create_dir(place.path().join("empty")).unwrap();
    place.write("good", GOOD);
    judge("absent", &["dr", "--kubeconfig", "absent"], &["absent"]);
    judge("not text", &["dr", "--kubeconfig", "binary"], &["binary"]);
    judge("a folder", &["dr", "--kubeconfig", "folder"], &["folder"]);
    judge(
        "an empty folder",
        &["dr", "--kubeconfig-dir", "empty"],
        &["empty"],
    );
    judge(
        "no context matches",
        &["dr", "--kubeconfig", "good", "--contexts", "north*"],
        &["north"],
    );
    judge(
        "absent source",
        &["dr", "--src-kubeconfig", "absent"],
        &["absent"],
    );
    judge(
        "absent context",
        &["dr", "--src-kubeconfig", "good", "--src-context", "north"],
        &["north"],
    );
    judge("unknown lab", &["dr", "--sim", "nosuchlab"], &["nosuchlab"]);
    judge(
        "no label",
        &["dr", "--sim", "Not_A_Label"],
        &["Not_A_Label"],
    );
    judge(
        "absent report",
        &["matrix", "--replay", "absent.json"],
        &["absent.json"],
    );
    judge(
        "absent fleet",
        &["link", "plan", "-f", "absent.yaml"],
        &["absent.yaml"],
    );
    assert!(wrong.is_empty(), "{}\n{}", wrong.len(), wrong.join("\n"));
    place.assert_empty();
}

#[test]
fn a_cluster_that_nobody_reaches_is_no_fault() {
    let place = Place::new();
    place.write("good", GOOD);
    let ran = place.run(["dr", "--kubeconfig", "good"]).expect(69);
    assert!(ran.stderr.contains("east"), "{}", ran.stderr);
    assert!(
        !SECRETS.iter().any(|secret| ran.stderr.contains(secret)),
        "{}",
        ran.stderr
    );
}

#[test]
fn usage_errors_are_64() {
    let place = Place::new();
    for arguments in [
        &["frobnicate"][..],
        &["dr", "--frobnicate"],
        &["dr", "--sim", "a", "--kubeconfig", "b"],
        &["dr", "--dst-kubeconfig", "b"],
        &["dr", "--sim", "a", "--layers", "physical"],
        &["dr", "--sim", "a", "--families", "ipv5"],
        &["dr", "--sim", "a", "--protocols", "carrier-pigeon"],
        &["dr", "--sim", "a", "-o", "stone-tablet"],
        &["dr", "--sim", "a", "--fail-on", "monday"],
        &["demo", "--mode", "mesh"],
        &["demo", "--clusters", "0"],
        &["demo", "--fault", "NO-SUCH-CODE"],
        &["sim", "up"],
        &["sim", "up", "x.yaml", "--clusters", "2"],
        &["sim", "frobnicate"],
        &["explain"],
        &["matrix"],
    ] {
        let ran = place.run(arguments);
        assert_eq!(ran.code, Some(64), "{arguments:?}: {}", ran.stderr);
        assert!(
            !ran.stderr.is_empty() && ran.stdout.is_empty(),
            "{arguments:?}"
        );
    }
    place.run(["--help"]).expect(0);
    place.run(["version"]).expect(0);
    place.assert_empty();
}

/// One program is enough: the agents' programs are its hidden verbs.
#[test]
fn the_agents_programs_are_hidden_verbs() {
    let place = Place::new();
    let help = place.run(["--help"]).expect(0).stdout;
    for (verb, word) in [("__floater", "serve"), ("__clusterlink", "agent")] {
        let said = place.run([verb, "--help"]).expect(0).stdout;
        assert!(said.contains(word), "{said}");
        assert!(!help.contains(verb), "{help}");
    }
}

/// The planner through the program: equal as sets to every vector of another implementation.
#[test]
fn link_plan_equals_the_vectors() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../datapath/tests/vectors");
    let place = Place::new();
    let mut seen = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let vector: serde_json::Value =
            serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        place.write("fleet.json", vector["input"].to_string());
        let planned = place
            .run(["link", "plan", "-f", "fleet.json", "-o", "json"])
            .expect(0)
            .json();
        assert_eq!(
            as_sets(&planned),
            as_sets(&vector["expected"]),
            "{}",
            path.display()
        );
        seen += 1;
    }
    assert_eq!(seen, 16);
}

/// Every node's lists, each sorted and without the empty ones.
fn as_sets(configs: &serde_json::Value) -> std::collections::BTreeMap<String, Vec<String>> {
    let mut sets = std::collections::BTreeMap::new();
    for (node, lists) in configs.as_object().unwrap() {
        sets.insert(node.clone(), Vec::new());
        for (list, rows) in lists.as_object().unwrap() {
            let mut rows: Vec<String> = rows
                .as_array()
                .into_iter()
                .flatten()
                .map(canonical)
                .collect();
            rows.sort();
            if !rows.is_empty() {
                sets.insert(format!("{node} {list}"), rows);
            }
        }
    }
    sets
}

fn canonical(row: &serde_json::Value) -> String {
    let fields: std::collections::BTreeMap<_, _> = row.as_object().unwrap().iter().collect();
    serde_json::to_string(&fields).unwrap()
}
