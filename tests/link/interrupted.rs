//! Deeds that end in the middle: by a signal at every stage, by a kill, by a cluster that dies. What a deed made is taken back or named, the
//! same command goes on, and in the end nothing is left.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tests::bare::{Bare, KOSMOS};
use tests::program::Ran;
use tests::proxy::{Changes, Proxy};

use crate::deploy::TWO;

/// A deed that gets a signal as soon as it says this; what it came to.
fn signalled(bare: &Bare, words: &[&str], at: &str, signal: Signal) -> Ran {
    let mut child = bare
        .lab
        .place
        .start(["link"].iter().chain(words).chain(&["-v"]));
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut said = String::new();
    for line in lines.by_ref().map_while(Result::ok) {
        said += &line;
        said.push('\n');
        if line.contains(at) {
            kill(pid, signal).unwrap();
            break;
        }
    }
    let rest: Vec<String> = lines.map_while(Result::ok).collect();
    let status = child.wait().unwrap();
    let ran = Ran {
        code: status.code(),
        stdout: String::new(),
        stderr: said + &rest.join("\n"),
    };
    assert!(ran.stderr.contains(at), "{at} was not said: {}", ran.stderr);
    ran
}

fn interrupted(bare: &Bare, words: &[&str], at: &str) -> Ran {
    signalled(bare, words, at, Signal::SIGINT).expect(130)
}

/// Ends a deed without a word to it.
fn killed(bare: &Bare, words: &[&str], at: &str) {
    let ran = signalled(bare, words, at, Signal::SIGKILL);
    assert_eq!(ran.code, None, "{at}: {}", ran.stderr);
}

/// The words of deeds, with where they are done.
struct Words<'a>(&'a str);

impl<'a> Words<'a> {
    fn at_host(&self, verb: &'a str) -> Vec<&'a str> {
        vec![verb, "--kubeconfig", self.0, "--context", "east"]
    }

    fn install(&self) -> Vec<&'a str> {
        let mut words = self.at_host("install");
        words.extend(["--cluster-name", "east"]);
        words
    }

    fn of_west(&self, verb: &'a str) -> Vec<&'a str> {
        let mut words = vec![verb, "--name", "west", "--kubeconfig", self.0];
        words.extend(["--context", "west", "--host-kubeconfig", self.0]);
        words.extend(["--host-context", "east"]);
        words
    }
}

const NODES: [(&str, [&str; 2]); 2] = [
    ("east", ["east/n1", "east/n2"]),
    ("west", ["west/n1", "west/n2"]),
];

/// Asserts that nothing of the datapath is in a cluster, nor of floaters that looked around.
#[track_caller]
fn assert_bare(bare: &Bare, cluster: &str, when: &str) {
    assert_eq!(bare.installed(cluster), BTreeSet::new(), "{when}");
    assert_eq!(bare.floaters(cluster), Vec::<String>::new(), "{when}");
    let (_, nodes) = NODES.iter().find(|(name, _)| *name == cluster).unwrap();
    for node in nodes {
        assert_eq!(bare.traces(node), Vec::<String>::new(), "{when}");
    }
}

/// The objects of the control plane that are of a member.
fn of_west(bare: &Bare) -> Vec<String> {
    let east = bare.endpoint("east");
    let mut found = Vec::new();
    for kind in ["clusters", "clusternodes", "nodeconfigs"] {
        let items = east.items(&format!("{KOSMOS}/{kind}"));
        let names = items.iter().map(|item| item["metadata"]["name"].as_str());
        let wests = names.flatten().filter(|name| name.starts_with("west"));
        found.extend(wests.map(|name| format!("{kind}/{name}")));
    }
    let installed = bare.installed("east").into_iter();
    found.extend(installed.filter(|path| path.ends_with("-west")));
    found
}

#[test]
#[ignore = "netns: needs veth, vxlan, bridge, policy-rules, nft"]
fn an_installation_that_ends_in_the_middle_leaves_nothing_or_goes_on() {
    let bare = Bare::up(TWO);
    let kubeconfig = bare.kubeconfig.clone();
    let words = Words(&kubeconfig);
    for stage in [
        "asking east",
        "checking what could be",
        "looking around",
        "linking east",
        "create CustomResourceDefinition",
        "create Namespace",
        "create Deployment",
        "create Secret",
        "create Cluster east",
        "waiting for the programs",
    ] {
        let ran = interrupted(&bare, &words.install(), stage);
        assert!(
            !ran.stderr.contains("not removed"),
            "{stage}: {}",
            ran.stderr
        );
        assert_bare(&bare, "east", stage);
    }
    // Nobody takes back what a killed one made: the same command goes on, and a removal removes it.
    for stage in ["create Deployment", "create DaemonSet", "waiting for"] {
        killed(&bare, &words.install(), stage);
        assert!(!bare.installed("east").is_empty(), "{stage}");
        bare.link(&words.install()).expect(0);
        bare.link(&words.at_host("uninstall")).expect(0);
        assert_bare(&bare, "east", stage);
    }
    killed(&bare, &words.install(), "create ClusterRole");
    bare.link(&words.at_host("uninstall")).expect(0);
    assert_bare(&bare, "east", "removed without having been complete");
    bare.down();
}

#[test]
#[ignore = "netns: needs veth, vxlan, bridge, policy-rules, nft"]
fn a_join_that_ends_in_the_middle_leaves_nothing_or_goes_on() {
    let bare = Bare::up(TWO);
    let kubeconfig = bare.kubeconfig.clone();
    let words = Words(&kubeconfig);
    bare.link(&words.install()).expect(0);
    let before = bare.installed("east");
    for stage in [
        "asking west",
        "looking around",
        "linking west",
        "create ServiceAccount kosmos-system/clusterlink-agent-west",
        "create Namespace",
        "create Secret",
        "create DaemonSet",
        "create Cluster west",
        "waiting for the programs",
        "sending packets",
    ] {
        let ran = interrupted(&bare, &words.of_west("join"), stage);
        assert!(
            !ran.stderr.contains("not removed"),
            "{stage}: {}",
            ran.stderr
        );
        assert_bare(&bare, "west", stage);
        assert_eq!(bare.installed("east"), before, "{stage}");
        assert_eq!(of_west(&bare), Vec::<String>::new(), "{stage}");
    }
    for stage in [
        "create ServiceAccount",
        "create Secret",
        "create Cluster west",
    ] {
        killed(&bare, &words.of_west("join"), stage);
        bare.link(&words.of_west("join")).expect(0);
        bare.link(&words.of_west("unjoin")).expect(0);
        assert_bare(&bare, "west", stage);
        assert_eq!(of_west(&bare), Vec::<String>::new(), "{stage}");
    }
    killed(&bare, &words.of_west("join"), "create DaemonSet");
    bare.link(&words.of_west("unjoin")).expect(0);
    assert_bare(&bare, "west", "it left without having been linked");
    assert_eq!(bare.installed("east"), before);
    bare.down();
}

#[test]
#[ignore = "netns: needs veth, vxlan, bridge, policy-rules, nft"]
fn a_removal_that_ends_in_the_middle_goes_on() {
    let bare = Bare::up(TWO);
    let kubeconfig = bare.kubeconfig.clone();
    let words = Words(&kubeconfig);
    let unjoin = words.of_west("unjoin");
    bare.link(&words.install()).expect(0);
    for (stage, signal) in [
        ("asking west", Signal::SIGINT),
        ("until the nodes of west are bare", Signal::SIGINT),
        ("remove DaemonSet", Signal::SIGINT),
        ("remove Secret", Signal::SIGKILL),
        ("remove ClusterRole", Signal::SIGINT),
    ] {
        bare.link(&words.of_west("join")).expect(0);
        let ran = signalled(&bare, &unjoin, stage, signal);
        match signal {
            Signal::SIGKILL => assert_eq!(ran.code, None),
            _ => drop(ran.expect(130)),
        }
        bare.link(&unjoin).expect(0);
        assert_bare(&bare, "west", stage);
        assert_eq!(of_west(&bare), Vec::<String>::new(), "{stage}");
    }
    let uninstall = words.at_host("uninstall");
    for (stage, signal) in [
        ("until the nodes of east are bare", Signal::SIGINT),
        ("remove Deployment", Signal::SIGKILL),
        ("remove ServiceAccount", Signal::SIGINT),
    ] {
        bare.link(&words.install()).expect(0);
        let ran = signalled(&bare, &uninstall, stage, signal);
        if signal == Signal::SIGINT {
            assert!(ran.stderr.contains("goes on from there"), "{}", ran.stderr);
        }
        bare.link(&uninstall).expect(0);
        assert_bare(&bare, "east", stage);
    }
    bare.down();
}

/// The images of a cluster's programs.
fn images(bare: &Bare, cluster: &str) -> Vec<String> {
    let endpoint = bare.endpoint(cluster);
    let of = |kind: &str| endpoint.items(&format!("/apis/apps/v1/namespaces/kosmos-system/{kind}"));
    let all = [of("daemonsets"), of("deployments")].concat();
    let image = |one: &Value| {
        let image = &one["spec"]["template"]["spec"]["containers"][0]["image"];
        image.as_str().unwrap_or_default().to_owned()
    };
    all.iter().map(image).collect()
}

#[test]
#[ignore = "netns: needs veth, vxlan, bridge, policy-rules, nft"]
fn an_upgrade_that_ends_in_the_middle_is_put_back_or_goes_on() {
    let bare = Bare::up(TWO);
    let kubeconfig = bare.kubeconfig.clone();
    let words = Words(&kubeconfig);
    bare.link(&words.install()).expect(0);
    let before = images(&bare, "east");
    let mut upgrade = words.at_host("upgrade");
    upgrade.extend(["--version", "v2"]);
    for stage in [
        "clusterlink-manager in",
        "clusterlink-controller in",
        "clusterlink-agent in",
    ] {
        interrupted(&bare, &upgrade, stage);
        assert_eq!(images(&bare, "east"), before, "{stage}");
    }
    killed(&bare, &upgrade, "clusterlink-controller in");
    bare.link(&upgrade).expect(0);
    let after = images(&bare, "east");
    assert!(
        after.iter().all(|image| image.ends_with(":v2")),
        "{after:?}"
    );
    let _ = bare.settled("east");
    bare.down();
}

/// A kubeconfig of one context for a server at an address.
fn kubeconfig(bare: &Bare, name: &str, server: &Value) -> String {
    let text = tests::proxy::kubeconfig(&[(name, server.clone(), json!({"token": "t"}))]);
    let path = bare.lab.place.write(&format!("{name}.kubeconfig"), text);
    path.to_str().unwrap().to_owned()
}

#[test]
#[ignore = "netns: needs veth, vxlan, bridge, policy-rules, nft"]
fn a_member_whose_api_says_nothing_is_given_up_alone_and_in_time() {
    let bare = Bare::up(TWO);
    let host = bare.kubeconfig.clone();
    let words = Words(&host);
    bare.link(&words.install()).expect(0);
    // The kernel takes connections, and nobody ever answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = json!({"server": format!("http://{}", silent.local_addr().unwrap())});
    let dead = kubeconfig(&bare, "dead", &server);
    let host_words = ["--host-kubeconfig", &host, "--host-context", "east"];
    let of_dead = |verb| {
        [
            &[verb, "--name", "dead", "--kubeconfig", &dead][..],
            &host_words,
        ]
        .concat()
    };
    let before = (
        bare.installed("east"),
        bare.endpoint("east")
            .items(&format!("{KOSMOS}/clusters"))
            .len(),
    );
    std::thread::scope(|scope| {
        let join = scope.spawn(|| bare.link(&of_dead("join")).expect(69));
        let unjoin = scope.spawn(|| bare.link(&of_dead("unjoin")).expect(69));
        let both = tests::proxy::kubeconfig(&[
            ("dead", server.clone(), json!({"token": "t"})),
            (
                "east",
                bare.endpoint("east").cluster(),
                json!({"token": bare.endpoint("east").token}),
            ),
        ]);
        let both = bare.lab.place.write("both.kubeconfig", both);
        let both = both.to_str().unwrap().to_owned();
        let upgrade = [
            "upgrade",
            "--kubeconfig",
            &both,
            "--context",
            "dead",
            "--context",
            "east",
            "--version",
            "v3",
        ];
        let upgraded = bare.link(&upgrade).expect(69);
        assert!(
            upgraded.stdout.contains("dead: not upgraded"),
            "{}",
            upgraded.stdout
        );
        assert!(
            upgraded.stdout.contains("clusterlink:v3"),
            "{}",
            upgraded.stdout
        );
        for ran in [join.join().unwrap(), unjoin.join().unwrap()] {
            assert!(
                ran.stderr.contains("dead") && ran.stderr.contains("no answer within"),
                "{}",
                ran.stderr
            );
        }
    });
    let after = (
        bare.installed("east"),
        bare.endpoint("east")
            .items(&format!("{KOSMOS}/clusters"))
            .len(),
    );
    assert_eq!(before, after);
    bare.down();
}

#[test]
#[ignore = "netns: needs veth, vxlan, bridge, policy-rules, nft"]
fn a_member_that_dies_in_the_middle_of_a_join_is_named_and_can_be_joined_again() {
    let bare = Bare::up(TWO);
    let host = bare.kubeconfig.clone();
    let words = Words(&host);
    bare.link(&words.install()).expect(0);
    let before = bare.installed("east");
    // What it takes before it dies, in writes that are no trial.
    for writes in [1, 8] {
        let count = Arc::new(AtomicUsize::new(0));
        let west = bare.endpoint("west");
        let changes = Changes::none().before(move |request, _| {
            let is_ours =
                request.path.contains("clusterlink-") && !request.query.contains("dryRun");
            let is_write = request.method == "PATCH" && is_ours;
            if is_write {
                count.fetch_add(1, Ordering::SeqCst);
            }
            match count.load(Ordering::SeqCst) > writes {
                true => Err(std::io::Error::other("the cluster is dead")),
                false => Ok(false),
            }
        });
        let proxy = Proxy::start(west, changes);
        let member = kubeconfig(&bare, "west", &proxy.cluster());
        let join = [
            "join",
            "--name",
            "west",
            "--kubeconfig",
            &member,
            "--host-kubeconfig",
            &host,
            "--host-context",
            "east",
        ];
        let ran = bare.link(&join).expect(69);
        assert!(
            ran.stderr.contains("not taken back"),
            "{writes}: {}",
            ran.stderr
        );
        assert!(ran.stderr.contains("in west"), "{writes}: {}", ran.stderr);
        assert_eq!(
            bare.installed("east"),
            before,
            "the other cluster is as it was"
        );
        assert_ne!(
            bare.installed("west"),
            BTreeSet::new(),
            "it could not be asked any more"
        );
        bare.link(&words.of_west("join")).expect(0);
        bare.link(&words.of_west("unjoin")).expect(0);
        assert_bare(&bare, "west", "joined and left");
    }
    bare.down();
}

#[test]
#[ignore = "netns: needs veth, vxlan, bridge, policy-rules, nft"]
fn a_member_that_is_dead_leaves_by_force_and_what_it_has_is_named() {
    let bare = Bare::up(TWO);
    bare.install("east", &[]).expect(0);
    bare.join("west", "east", &[]).expect(0);
    // None of its programs does anything any more, and its API is not asked.
    bare.lab
        .place
        .run(["sim", "freeze", "--at", "west"])
        .expect(0);
    let host = [
        "--host-kubeconfig",
        &bare.kubeconfig,
        "--host-context",
        "east",
    ];
    let unjoin = [&["unjoin", "--name", "west"][..], &host].concat();
    bare.link(&unjoin).expect(64);
    let ran = bare.link(&[&unjoin[..], &["--force", "--wait", "3s"]].concat());
    let ran = ran.expect(0);
    assert!(ran.stdout.contains("stays: "), "{}", ran.stdout);
    assert_eq!(
        of_west(&bare),
        Vec::<String>::new(),
        "its tokens are worth nothing any more"
    );
    // It may come back, and then nothing of it is in its own way.
    bare.lab.place.run(["sim", "thaw"]).expect(0);
    bare.join("west", "east", &[]).expect(0);
    bare.down();
}
