//! The datapath deploys itself, and goes: clusters that nobody linked, over their APIs, with the programs as their pods.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use tests::bare::{Bare, KOSMOS};
use tests::program::{Place, Ran};

pub(crate) const TWO: &str = "\
name: bare
clusters:
  - {name: east, nodes: 2}
  - {name: west, nodes: 2}
workloads: {floater: false}
";

const THREE: &str = "\
name: bare
clusters:
  - {name: east, nodes: 2, family: all}
  - {name: west, nodes: 2, family: all}
  - {name: south, nodes: 1, family: all}
workloads: {floater: false}
";

#[test]
#[ignore = "netns: needs veth, vxlan, bridge, policy-rules, nft"]
fn clusters_are_linked_carry_packets_and_are_as_before_when_they_have_left() {
    let bare = Bare::up(THREE);
    let both = ["--ip-family", "all"];
    let p2p = ["--ip-family", "all", "--network-type", "p2p"];
    let status = [
        "status",
        "--kubeconfig",
        &bare.kubeconfig,
        "--context",
        "east",
    ];
    let ran = bare.link(&status).expect(69);
    assert!(ran.stderr.contains("link install"), "{}", ran.stderr);

    let planned = bare.install("east", &["--dry-run"]).expect(0);
    assert!(
        planned.stdout.contains("kind: DaemonSet"),
        "{}",
        planned.stdout
    );
    assert!(bare.installed("east").is_empty(), "a dry run makes nothing");

    bare.install("east", &both).expect(0);
    bare.join("south", "east", &both).expect(0);
    let ran = bare.join("west", "east", &p2p).expect(0);
    assert!(ran.stdout.contains("packets pass"), "{}", ran.stdout);

    let status = bare.settled("east");
    assert_eq!(status["clusters"][0]["networkType"], "gateway");
    assert_eq!(status["clusters"][2]["networkType"], "p2p");
    for cluster in [0, 2] {
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

    // What is gone later was there, of each kind, whichever node is the gateway.
    let traces = ["east/n1", "east/n2"].map(|node| bare.traces(node).join("\n"));
    let traces = traces.join("\n");
    for kind in ["links", "routes", "rules", "nat"] {
        assert!(traces.contains(kind), "{kind}: {traces}");
    }

    // Twice is once.
    let before = (bare.installed("east"), bare.installed("west"));
    bare.join("west", "east", &p2p).expect(0);
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
    bare.unjoin("south", "east", &[]).expect(0);

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
fn no_packet_is_lost_while_every_program_gets_another_image() {
    let bare = Bare::up(&TWO.replace("floater: false", "floater: true"));
    bare.install("east", &[]).expect(0);
    bare.join("west", "east", &[]).expect(0);
    let target = bare.address("west", "floater-n2");
    let stream = bare.stream("east/n2/floater-n2", &target);
    for cluster in ["east", "west"] {
        let words = [
            "upgrade",
            "--kubeconfig",
            &bare.kubeconfig,
            "--context",
            cluster,
            "--version",
            "v2",
        ];
        let ran = bare.link(&words).expect(0);
        assert!(ran.stdout.contains("clusterlink:v2"), "{}", ran.stdout);
        let again = bare.link(&words).expect(0);
        assert!(again.stdout.contains("already"), "{}", again.stdout);
    }
    let count = stream.end().unwrap();
    assert_eq!((count.lost(), count.refused), (0, 0), "{count:?}");
    assert!(count.sent > 1000, "{count:?} are no proof");
    let _ = bare.settled("east");
    bare.down();
}

#[test]
#[ignore = "netns: needs veth, vxlan, bridge, policy-rules, nft"]
fn the_status_says_what_differs_and_can_be_watched() {
    let bare = Bare::up(TWO);
    let _ = bare.install("east", &[]).expect(0);
    let _ = bare.join("west", "east", &[]).expect(0);
    let east = bare.endpoint("east");
    let watch = [
        "link",
        "status",
        "--context",
        "east",
        "--watch",
        "--kubeconfig",
    ];
    let watch = [&watch[..], &[&bare.kubeconfig]].concat();
    let mut child = bare.lab.place.start(watch);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut line_with = |word: &str| {
        let mut lines = lines.by_ref().map_while(Result::ok);
        let line = lines.find(|line| line.contains(word));
        line.unwrap_or_else(|| panic!("it never said {word}"))
    };
    assert!(line_with("west").contains("as planned"));

    // Agents that do nothing any more do not become what is planned now.
    let _ = bare
        .lab
        .place
        .run(["sim", "freeze", "--at", "west"])
        .expect(0);
    let path = format!("{KOSMOS}/clusters/west");
    let pods = east.get(&path)["status"]["clusterLinkStatus"]["podCIDRs"][0].clone();
    let pods = pods.as_str().unwrap();
    let map = json!({pods: format!("10.250.0.0/{}", pods.split('/').nth(1).unwrap())});
    let patch = json!({"spec": {"clusterLinkOptions": {"globalCIDRsMap": map}}});
    assert_eq!(east.call("PATCH", &path, &patch).0, 200);
    assert!(line_with("differs").contains("west"));
    let (code, status) = bare.status("east");
    assert_eq!(code, Some(1), "{status:#}");
    assert_eq!(status["isWell"], false);
    let _ = bare.lab.place.run(["sim", "thaw"]).expect(0);
    assert!((0..600).any(|_| bare.status("east").0 == Some(0)));
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
    kill(pid, Signal::SIGINT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
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
