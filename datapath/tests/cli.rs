//! The program from the outside: what it prints and how it ends.
#![cfg(feature = "clusterlink")]
#![allow(clippy::expect_used, reason = "a test")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use datapath::api::NodeConfigSpec;
use datapath::state::{Address, Link, LinkKind, NodeState};
use serde_json::Value;

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
        let name = format!("clusterlink-{}-{name}", std::process::id());
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
        "{\n  \"clusters\": [\n    {\"spec\": 7}\n  ]\n}\n",
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
    assert!(stderr(&output).contains("/nonexistent/fleet.json: it has to be readable"));
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

#[test]
fn a_difference_is_printed_and_is_1() {
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
    let observed = Scratch::new(
        "state.json",
        &serde_json::to_string(&state).expect("plain data"),
    );
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
