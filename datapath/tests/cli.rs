//! The program from the outside: what it prints and how it ends.
#![cfg(feature = "clusterlink")]
#![allow(clippy::expect_used, reason = "a test")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicUsize, Ordering};

use datapath::api::NodeConfigSpec;
use datapath::state::{Address, Link, LinkKind, NodeState};
use serde_json::{Value, json};

fn clusterlink(words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_clusterlink"))
        .args(words)
        .env_remove("KUBECONFIG")
        .output()
        .expect("the program")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A file that is gone after the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str, text: &str) -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("clusterlink-{}-{number}-{name}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, text).expect("a writable temporary directory");
        Self(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().expect("a plain path")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn wrong_words_are_64_and_help_is_not_wrong() {
    for words in [
        &["fly"][..],
        &[],
        &["plan"],
        &["show", "--fast"],
        &["walk", "nowhere"],
        &["diff", "--file"],
        &["agent", "--grace", "x"],
        &["controller"],
        &["manager", "--node-configs", "some"],
        &["manager", "--renew-deadline", "15"],
        &["manager", "--renew-deadline", "2"],
        &["elector", "--cluster", "a", "--listen", "8080"],
    ] {
        let output = clusterlink(words);
        assert_eq!(output.status.code(), Some(64), "{words:?}");
        assert!(output.stdout.is_empty());
    }
    for words in [&["--help"][..], &["--version"], &["agent", "--help"]] {
        assert_eq!(clusterlink(words).status.code(), Some(0), "{words:?}");
    }
}

#[test]
fn bad_input_is_65_with_file_line_and_rule() {
    let typed = Scratch::new(
        "typed.json",
        "{\n  \"clusters\": [\n    {\"metadata\": {\"name\": \"a\"}, \"spec\": 7}\n  ]\n}\n",
    );
    let cut = Scratch::new("cut.json", "{\n  \"devices\": [\n");
    for (words, line, rule) in [
        (["plan", "-f", typed.path()], 3, "invalid type"),
        (["diff", "-f", cut.path()], 3, "EOF"),
    ] {
        let output = clusterlink(&words);
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(65), "{text}");
        assert!(text.contains(&format!("{}:{line}: ", words[2])), "{text}");
        assert!(text.contains(rule), "{text}");
    }
    let output = clusterlink(&["plan", "-f", "/nonexistent/fleet.json"]);
    assert_eq!(output.status.code(), Some(65));
    assert!(stderr(&output).contains("/nonexistent/fleet.json: No such file or directory"));
}

#[test]
fn a_kubeconfigs_secrets_are_never_printed() {
    let secret = Scratch::new(
        "kubeconfig",
        "apiVersion: v1\nkind: Config\nusers:\n- name: a\n  user: {token: SECRET-TOKEN\nclusters: {{{\n",
    );
    let words = [
        "agent",
        "--cluster",
        "a",
        "--node",
        "n1",
        "--kubeconfig",
        secret.path(),
    ];
    let output = clusterlink(&words);
    assert_eq!(output.status.code(), Some(65), "{}", stderr(&output));
    assert!(!stderr(&output).contains("SECRET"), "{}", stderr(&output));
    assert!(stderr(&output).contains(secret.path()));
}

#[test]
fn a_plan_is_that_of_the_library() {
    let vector = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/006.json");
    let text = std::fs::read_to_string(vector).expect("a vector");
    let vector: Value = serde_json::from_str(&text).expect("a vector");
    let fleet = Scratch::new("fleet.json", &vector["input"].to_string());
    let output = clusterlink(&["plan", "-f", fleet.path()]);
    assert_eq!(output.status.code(), Some(0));
    let printed: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(printed, vector["expected"]);
}

/// What kubectl prints of the objects of a fleet, in its shapes.
fn shapes(fleet: &Value) -> Vec<(&'static str, String)> {
    let mut items = Vec::new();
    for (list, kind) in [
        ("clusters", "Cluster"),
        ("clusterNodes", "ClusterNode"),
        ("nodeConfigs", "NodeConfig"),
    ] {
        for object in fleet[list].as_array().into_iter().flatten() {
            let mut object = object.clone();
            object["apiVersion"] = "kosmos.io/v1alpha1".into();
            object["kind"] = kind.into();
            items.push(object);
        }
    }
    let yaml = |value: &Value| serde_saphyr::to_string(value).expect("plain data");
    let list = json!({"apiVersion": "v1", "kind": "List", "items": items});
    let documents: Vec<String> = items.iter().map(yaml).collect();
    vec![
        ("fleet.yaml", yaml(fleet)),
        ("list.json", list.to_string()),
        ("list.yaml", yaml(&list)),
        (
            "documents.yaml",
            format!("---\n{}", documents.join("---\n")),
        ),
        (
            "two.json",
            format!("{list}\n{}", json!({"kind": "List", "items": []})),
        ),
    ]
}

#[test]
fn a_plan_reads_what_kubectl_prints() {
    let vector = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/006.json");
    let text = std::fs::read_to_string(vector).expect("a vector");
    let vector: Value = serde_json::from_str(&text).expect("a vector");
    for (name, text) in shapes(&vector["input"]) {
        let fleet = Scratch::new(name, &text);
        let output = clusterlink(&["plan", "-f", fleet.path()]);
        assert_eq!(output.status.code(), Some(0), "{name}: {}", stderr(&output));
        let printed: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert_eq!(printed, vector["expected"], "{name}");
    }
}

/// A node with an underlay link.
fn node() -> NodeState {
    let mut state = NodeState::default();
    state.links.insert(Link {
        name: "eth0".into(),
        index: 2,
        mac: None,
        mtu: 1500,
        up: true,
        carrier: true,
        kind: LinkKind::Veth { peer_index: 7 },
        master: None,
        tx_dropped: 0,
        rx_dropped: 0,
    });
    state.addresses.insert(Address {
        link: "eth0".into(),
        net: "100.64.0.1/16".parse().expect("an address"),
    });
    state
}

fn observed() -> Scratch {
    Scratch::new(
        "state.json",
        &serde_json::to_string(&node()).expect("plain data"),
    )
}

#[test]
fn a_difference_reads_what_kubectl_prints() {
    let observed = observed();
    let config = |name: &str, vni: u32| {
        json!({"apiVersion": "kosmos.io/v1alpha1", "kind": "NodeConfig", "metadata": {"name": name}, "spec": {
            "devices": [{"type": "vxlan", "name": "vx-bridge", "addr": "220.64.0.1/8",
                "mac": "02:00:00:00:0b:01", "bindDev": "eth0", "id": vni, "port": 4876}]}})
    };
    let both = json!({"kind": "List", "items": [config("a-n1", 54), config("a-n2", 55)]});
    let diff = |name: &str, text: &str, words: &[&str]| {
        let file = Scratch::new(name, text);
        let mut all = vec!["diff", "-f", file.path(), "--observed", observed.path()];
        all.extend(words);
        let output = clusterlink(&all);
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.code(), printed, stderr(&output))
    };
    let yaml = |value: &Value| serde_saphyr::to_string(value).expect("plain data");
    for (name, text, words, vni) in [
        ("one.yaml", yaml(&config("a-n1", 54)), &[][..], "id 54 "),
        (
            "spec.yaml",
            yaml(&config("a-n1", 54)["spec"]),
            &[],
            "id 54 ",
        ),
        ("list.json", both.to_string(), &["--name", "a-n2"], "id 55 "),
        ("list.yaml", yaml(&both), &["--name", "a-n1"], "id 54 "),
    ] {
        let (code, printed, said) = diff(name, &text, words);
        assert_eq!(code, Some(1), "{name}: {said}");
        assert!(printed.contains(vni), "{name}: {printed}");
    }
    for (text, words, rule) in [
        (
            both.to_string(),
            &[][..],
            "it has 2 NodeConfigs: choose one with --name",
        ),
        (
            both.to_string(),
            &["--name", "b-n1"],
            "it has no NodeConfig `b-n1`",
        ),
        (
            r#"{"routs": []}"#.to_owned(),
            &[],
            "`routs` is no list of a NodeConfig",
        ),
        (
            r#"{"routes": [{"cidr": "ten", "gw": "220.0.0.1", "dev": "vx-bridge"}]}"#.to_owned(),
            &[],
            "route ten: ",
        ),
        ("[1]".to_owned(), &[], "invalid type: sequence"),
        ("\u{1}: [".to_owned(), &[], ""),
    ] {
        let (code, printed, said) = diff("bad.json", &text, words);
        assert_eq!((code, printed.as_str()), (Some(65), ""), "{text}: {said}");
        assert!(
            said.contains("bad.json") && said.contains(rule),
            "{text}: {said}"
        );
    }
    // What the node lacks is a difference of its own.
    let mut lacking = config("a-n1", 54);
    lacking["spec"]["devices"][0]["bindDev"] = "eth9".into();
    let (code, printed, said) = diff("lacking.json", &lacking.to_string(), &[]);
    assert_eq!((code, printed.as_str()), (Some(1), ""), "{said}");
    assert!(said.contains("there is no link `eth9`"), "{said}");
}

#[test]
fn an_output_that_cannot_be_written_is_74() {
    let observed = observed();
    let full = std::fs::File::options()
        .write(true)
        .open("/dev/full")
        .expect("a full device");
    let output = Command::new(env!("CARGO_BIN_EXE_clusterlink"))
        .args(["walk", "10.21.0.7", "--observed", observed.path()])
        .stdout(full)
        .output()
        .expect("the program");
    assert_eq!(output.status.code(), Some(74), "{}", stderr(&output));
    assert!(
        stderr(&output).contains("stdout could not be written: No space left"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn a_difference_is_printed_and_is_1() {
    let observed = observed();
    let config = r#"{"spec": {"devices": [{"type": "vxlan", "name": "vx-bridge", "addr": "220.64.0.1/8",
        "mac": "02:00:00:00:0b:01", "bindDev": "eth0", "id": 54, "port": 4876}]}}"#;
    let config = Scratch::new("config.json", config);
    let output = clusterlink(&["diff", "-f", config.path(), "--observed", observed.path()]);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(
        text.starts_with(
            "+ link vx-bridge vxlan id 54 port 4876 local 100.64.0.1 dev eth0 address 02:00:00:00:0b:01 mtu 1450 up\n"
        ),
        "{text}"
    );

    let empty = serde_json::to_string(&NodeConfigSpec::default()).expect("plain data");
    let empty = Scratch::new("empty.json", &empty);
    let output = clusterlink(&["diff", "-f", empty.path(), "--observed", observed.path()]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(output.stdout.is_empty());

    let output = clusterlink(&["walk", "10.21.0.7", "--observed", observed.path()]);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
}

#[test]
fn this_nodes_tables_are_a_state() {
    let output = clusterlink(&["show"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let state: NodeState = serde_json::from_slice(&output.stdout).expect("a state");
    assert!(state.links.get("lo").is_some());
    assert!(!state.rules.is_empty());
}
