//! The command line: what is understood as what, what is refused with which exit code, and which layer wins.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use tui::cli::diagnosis::{FailOn, IpFamily, LayerChoice, ProtocolChoice};
use tui::cli::link::{Link, LinkPlan, LinkUnjoin, Noun, PlanFormat};
use tui::cli::sim::{Families, Fault, Mode, Sim, StatusFormat};
use tui::cli::{Cli, Demo, Dr, Explain, Matrix, SchemaVersion, Verb};
use tui::config::{self, ConfigFile};
use tui::exit::Failure;
use tui::output::{ColorChoice, Format, Output};

fn words(line: &str) -> Vec<OsString> {
    std::iter::once("floaterctl")
        .chain(line.split_whitespace())
        .map(OsString::from)
        .collect()
}

fn layered(line: &str, env: &[(&str, &str)], file: Option<&str>) -> Result<Cli, Failure> {
    let env: BTreeMap<String, OsString> = env
        .iter()
        .map(|(name, value)| ((*name).to_owned(), OsString::from(value)))
        .collect();
    let file = file
        .map(|text| ConfigFile::parse("config.toml", text))
        .transpose()?;
    config::parse(words(line), &|name| env.get(name).cloned(), file.as_ref())
}

fn parsed(line: &str) -> Cli {
    layered(line, &[], None).unwrap_or_else(|failure| panic!("{line}: {failure}"))
}

fn dr(line: &str, env: &[(&str, &str)], file: Option<&str>) -> Dr {
    match layered(line, env, file)
        .unwrap_or_else(|failure| panic!("{line}: {failure}"))
        .verb
    {
        Verb::Dr(dr) | Verb::Check(dr) => dr,
        other => panic!("{line}: {other:?}"),
    }
}

fn demo(line: &str) -> Demo {
    match parsed(line).verb {
        Verb::Demo(demo) => demo,
        other => panic!("{line}: {other:?}"),
    }
}

fn sim(line: &str) -> Sim {
    match parsed(line).verb {
        Verb::Sim(sim) => sim,
        other => panic!("{line}: {other:?}"),
    }
}

/// Refused as usage. The text is part of the message.
#[test]
fn wrong_command_lines_are_usage() {
    for (line, part) in [
        ("", "Usage"),
        ("frobnicate", "unrecognized subcommand 'frobnicate'"),
        ("dr --frobnicate", "unexpected argument '--frobnicate'"),
        ("dr extra", "unexpected argument 'extra'"),
        ("link", "Usage"),
        ("link join", "--name"),
        (
            "link join node --name x --kubeconfig y",
            "invalid value 'node'",
        ),
        ("link unjoin", "--name"),
        ("link install --network-type mesh", "invalid value 'mesh'"),
        ("link install --wait 0", "a time is a positive number"),
        ("link install --gateways 0", "invalid value '0'"),
        ("link install --gateways 5", "invalid value '5'"),
        ("link install --gateways 2 --standby", "cannot be used with"),
        ("link install --plan maybe", "invalid value 'maybe'"),
        (
            "link install --global-cidr 10.0.0.0/8",
            "a map is PREFIX=PREFIX",
        ),
        ("link bend", "unrecognized subcommand"),
        ("link plan extra", "unexpected argument"),
        ("link plan -f x -o table", "invalid value 'table'"),
        ("demo --clusters 0", "invalid value '0'"),
        ("demo --clusters 5001", "invalid value '5001'"),
        ("demo --clusters -1", "-1"),
        ("demo --clusters three", "invalid value 'three'"),
        ("demo --nodes 0", "invalid value '0'"),
        ("demo --mode ring", "invalid value 'ring'"),
        ("demo --family ipv5", "invalid value 'ipv5'"),
        (
            "demo --clusters 2 --clusters 3",
            "cannot be used multiple times",
        ),
        ("demo --kubeconfig x", "unexpected argument '--kubeconfig'"),
        ("demo -o xml", "available: table, wide, json, junit, dot"),
        ("dr -o sarif", "not available in this version"),
        ("dr -o html=x.html", "not available in this version"),
        ("dr -o json=", "names no file"),
        ("dr -o", "a value is required"),
        (
            "dr --layers service",
            "not available in this version; available: host, pod",
        ),
        ("dr --layers dns", "not available in this version"),
        ("dr --layers pods", "no such layer"),
        ("dr --layers pod,pods", "no such layer"),
        ("dr --families ipv4,all", "invalid value 'all'"),
        (
            "dr --protocols udp",
            "not available in this version; available: icmp, tcp",
        ),
        ("dr --protocols sctp", "no such protocol"),
        ("dr --host-network --layers pod", "cannot be used with"),
        ("dr --sim a --kubeconfig b", "cannot be used with"),
        ("dr --sim a --kubeconfig-dir b", "cannot be used with"),
        ("dr --sim a --fleet b", "cannot be used with"),
        ("dr --sim a --src-kubeconfig b", "cannot be used with"),
        ("dr --src-kubeconfig a --fleet b", "cannot be used with"),
        (
            "dr --kubeconfig a --kubeconfig-dir b",
            "cannot be used with",
        ),
        (
            "dr --src-kubeconfig a --kubeconfig b",
            "cannot be used with",
        ),
        ("dr --src-kubeconfig a --contexts b", "cannot be used with"),
        ("dr --dst-kubeconfig a", "--src-kubeconfig"),
        ("dr --src-context a", "--src-kubeconfig"),
        ("dr --src-kubeconfig a --dst-context b", "--dst-kubeconfig"),
        ("dr --kubeconfig", "a value is required"),
        ("dr --sim", "a value is required"),
        ("dr --port 0", "invalid value '0'"),
        ("dr --port 65536", "invalid value '65536'"),
        ("dr -w 0", "a time is a positive number"),
        ("dr -w soon", "a time is a positive number"),
        ("dr --timeout 25h", "at most a day"),
        ("dr --budget 0", "invalid value '0'"),
        ("dr --rounds 0", "invalid value '0'"),
        ("dr --rounds 1001", "invalid value '1001'"),
        ("dr --seed -3", "-3"),
        ("dr --seed x", "invalid value 'x'"),
        ("dr --fail-on fatal", "invalid value 'fatal'"),
        ("dr --schema --sweep", "cannot be used with"),
        ("dr --color sometimes", "invalid value 'sometimes'"),
        ("matrix --replay a --sim b", "cannot be used with"),
        ("matrix --replay a --kubeconfig b", "cannot be used with"),
        ("matrix --replay", "a value is required"),
        ("explain", "CODE|FINDING-ID"),
        ("explain a b", "unexpected argument 'b'"),
        ("sim", "Usage"),
        ("sim frobnicate", "unrecognized subcommand"),
        ("sim up a.yaml --clusters 3", "cannot be used with"),
        ("sim up a.yaml --nodes 3", "cannot be used with"),
        ("sim up a.yaml --mode p2p", "cannot be used with"),
        ("sim up a.yaml --family all", "cannot be used with"),
        ("sim up a.yaml b.yaml", "unexpected argument"),
        (
            "sim up --clusters 1 --virtual --upstream d",
            "cannot be used with",
        ),
        ("sim exec", "PLACE"),
        ("sim exec a/n1", "CMD"),
        ("sim exec a/n1 ls", "unexpected argument 'ls'"),
        ("sim fault", "Usage"),
        ("sim fault inject", "--at"),
        ("sim fault inject FDB-MISSING", "--at"),
        ("sim fault inject --at a/n1", "<CODE>"),
        ("sim run", "SCENARIO.yaml"),
        ("sim down --name a --all", "cannot be used with"),
        ("sim status -o wide", "invalid value 'wide'"),
        ("completions", "<SHELL>"),
        ("completions tcsh", "invalid value 'tcsh'"),
        ("version --frobnicate", "unexpected argument"),
    ] {
        let failure = layered(line, &[], None).expect_err(line);
        assert_eq!(failure.code(), 64, "{line}: {failure}");
        let text = match &failure {
            Failure::Clap(error) => error.to_string(),
            other => other.to_string(),
        };
        assert!(text.contains(part), "{line}: wanted `{part}` in: {text}");
    }
}

#[test]
fn help_and_version_are_no_failures() {
    for line in [
        "--help",
        "-h",
        "--version",
        "-V",
        "help",
        "dr --help",
        "dr -h",
        "check --help",
        "help dr",
        "sim --help",
        "sim up --help",
        "sim fault inject --help",
        "sim capture --help",
        "sim validate --help",
        "path --help",
        "link --help",
        "link plan --help",
        "link install --help",
        "link join --help",
        "link unjoin --help",
        "link uninstall --help",
        "link status --help",
        "link upgrade --help",
        "matrix --help",
        "explain --help",
        "completions --help",
        "man --help",
    ] {
        let failure = layered(line, &[], None).expect_err(line);
        assert_eq!(failure.code(), 0, "{line}: {failure}");
    }
}

#[test]
fn demo_lines() {
    assert_eq!(demo("demo"), Demo::default());
    let all =
        demo("demo --clusters 4 --nodes 3 --mode mixed --family all --fault GATEWAY-DOWN -o json");
    assert_eq!(all.shape.clusters, Some(4));
    assert_eq!(all.shape.nodes, Some(3));
    assert_eq!(all.shape.mode, Some(Mode::Mixed));
    assert_eq!(all.shape.family, Some(Families::All));
    assert_eq!(all.fault.as_deref(), Some("GATEWAY-DOWN"));
    assert_eq!(all.judge.output, [Output::stdout(Format::Json)]);
}

#[test]
fn check_is_dr() {
    assert_eq!(
        dr("check --sim lab", &[], None),
        dr("dr --sim lab", &[], None)
    );
}

#[test]
fn dr_lines() {
    let pair = dr(
        "dr --src-kubeconfig a --src-context x --dst-kubeconfig b --dst-context y",
        &[],
        None,
    );
    assert_eq!(pair.inventory.src_kubeconfig, Some(PathBuf::from("a")));
    assert_eq!(pair.inventory.src_context.as_deref(), Some("x"));
    assert_eq!(pair.inventory.dst_kubeconfig, Some(PathBuf::from("b")));
    assert_eq!(pair.inventory.dst_context.as_deref(), Some("y"));

    let many = dr(
        "dr --kubeconfig a b --kubeconfig c --contexts e*,w* --contexts n",
        &[],
        None,
    );
    assert_eq!(
        many.inventory.kubeconfig,
        ["a", "b", "c"].map(PathBuf::from)
    );
    assert_eq!(many.inventory.contexts, ["e*", "w*", "n"]);

    // Ways to the members of a control plane that knows none.
    let beside = dr("dr --fleet a --kubeconfig b --contexts e*", &[], None);
    assert_eq!(beside.inventory.fleet, Some(PathBuf::from("a")));
    assert_eq!(beside.inventory.kubeconfig, [PathBuf::from("b")]);

    let what = dr(
        "dr --layers host,pod --families ipv6 --protocols icmp,tcp --nodes n1,n2 --sources a --destinations b*",
        &[],
        None,
    );
    let (what, probes) = (what.what, what.probes);
    assert_eq!(what.layers, [LayerChoice::Host, LayerChoice::Pod]);
    assert_eq!(what.families, [IpFamily::Ipv6]);
    assert_eq!(
        probes.protocols,
        [ProtocolChoice::Icmp, ProtocolChoice::Tcp]
    );
    assert_eq!(what.nodes, ["n1", "n2"]);
    assert_eq!(what.sources, ["a"]);
    assert_eq!(what.destinations, ["b*"]);
    assert!(dr("dr --host-network", &[], None).what.host_network);

    let all = dr(
        "dr -r example.org/x --dst-image-repository example.org/y --version v1 -n floaters --port 9000 -w 60 \
         --budget 100 --rounds 3 --full --timeout 2m --keep --seed 7",
        &[],
        None,
    );
    let (how, probes) = (all.how, all.probes);
    assert_eq!(how.image_repository.as_deref(), Some("example.org/x"));
    assert_eq!(how.dst_image_repository.as_deref(), Some("example.org/y"));
    assert_eq!(how.version.as_deref(), Some("v1"));
    assert_eq!(how.namespace.as_deref(), Some("floaters"));
    assert_eq!(how.port, Some(9000));
    assert_eq!(how.pod_wait_time, Some(Duration::from_secs(60)));
    assert_eq!(probes.budget, Some(100));
    assert_eq!(probes.rounds, Some(3));
    assert!(probes.full && how.keep);
    assert_eq!(how.timeout, Some(Duration::from_secs(120)));
    assert_eq!(probes.seed, Some(7));

    let judge = dr(
        "dr -o table -o json=r.json -o junit=r.xml --kosmos --fail-on warning",
        &[],
        None,
    )
    .judge;
    assert_eq!(judge.output.len(), 3);
    assert_eq!(judge.output[1].file, Some(PathBuf::from("r.json")));
    assert!(judge.kosmos);
    assert_eq!(judge.fail_on, Some(FailOn::Warning));
    assert_eq!(dr("dr --schema", &[], None).schema, Some(SchemaVersion::V1));
    assert_eq!(
        dr("dr --schema=v2", &[], None).schema,
        Some(SchemaVersion::V2)
    );
    assert!(dr("dr --sweep --sim x", &[], None).sweep);
}

#[test]
fn flags_of_kosmos_are_understood() {
    let line = "check --src-kubeconfig a --dst-kubeconfig b --host-network --protocol tcp --port 8889 -w 30 \
                -r example.org/x --dst-image-repository example.org/y --version v0.5.5 -n kosmos-system";
    let dr = dr(line, &[], None);
    assert_eq!(dr.probes.protocols, [ProtocolChoice::Tcp]);
    assert_eq!(dr.how.version.as_deref(), Some("v0.5.5"));
}

#[test]
fn other_verbs() {
    assert!(matches!(parsed("version").verb, Verb::Version));
    assert_eq!(
        parsed("explain f1 --report r.json").verb,
        Verb::Explain(Explain {
            subject: Some("f1".to_owned()),
            list: false,
            report: Some("r.json".into())
        })
    );
    assert_eq!(
        parsed("matrix --replay r.json").verb,
        Verb::Matrix(Matrix {
            replay: Some("r.json".into()),
            ..Matrix::default()
        })
    );
    assert_eq!(
        parsed("link plan -f - -o yaml --diff old.json").verb,
        Verb::Link(Link::Plan(LinkPlan {
            file: Some("-".into()),
            output: Some(PlanFormat::Yaml),
            diff: Some("old.json".into())
        }))
    );
    let unjoin = |noun| {
        Verb::Link(Link::Unjoin(LinkUnjoin {
            noun,
            name: "x".to_owned(),
            force: true,
            ..LinkUnjoin::default()
        }))
    };
    // The word that kosmosctl has may be left out.
    assert_eq!(parsed("link unjoin --name x --force").verb, unjoin(None));
    let cluster = parsed("link unjoin cluster --name x --force");
    assert_eq!(cluster.verb, unjoin(Some(Noun::Cluster)));
    assert!(matches!(
        parsed("analyse --sim x --fail-on info").verb,
        Verb::Analyse(_)
    ));
    assert!(matches!(
        parsed("completions zsh").verb,
        Verb::Completions(_)
    ));
    assert_eq!(
        parsed("--color never version").global.color,
        Some(ColorChoice::Never)
    );
    assert_eq!(parsed("version -vv --color always").global.verbose, 2);
}

#[test]
fn sim_lines() {
    match sim("sim up two.yaml --name lab") {
        Sim::Up(up) => {
            assert_eq!(up.topology, Some("two.yaml".into()));
            assert_eq!(up.name.as_deref(), Some("lab"));
        }
        other => panic!("{other:?}"),
    }
    match sim("sim up --clusters 3 --nodes 2 --mode p2p --family ipv6") {
        Sim::Up(up) => {
            assert_eq!(up.shape.mode, Some(Mode::P2p));
            assert_eq!(up.shape.family, Some(Families::Ipv6));
        }
        other => panic!("{other:?}"),
    }
    match sim("sim up two.yaml --upstream /opt/kubernetes --bare") {
        Sim::Up(up) => {
            assert_eq!(up.upstream, Some("/opt/kubernetes".into()));
            assert!(up.bare);
        }
        other => panic!("{other:?}"),
    }
    match sim("sim exec --name lab c1/n1/floater-n1 -- ping -c 1 --all 10.0.0.1") {
        Sim::Exec(exec) => {
            assert_eq!(exec.place, "c1/n1/floater-n1");
            assert_eq!(exec.argv, ["ping", "-c", "1", "--all", "10.0.0.1"]);
        }
        other => panic!("{other:?}"),
    }
    match sim("sim fault inject FDB-MISSING --at c1/n1,c2 --name lab") {
        Sim::Fault(Fault::Inject(inject)) => {
            assert_eq!(inject.code, "FDB-MISSING");
            assert_eq!(inject.at, "c1/n1,c2");
        }
        other => panic!("{other:?}"),
    }
    assert!(matches!(sim("sim fault list"), Sim::Fault(Fault::List(_))));
    assert!(matches!(
        sim("sim fault clear --name x"),
        Sim::Fault(Fault::Clear(_))
    ));
    match sim("sim status -o json") {
        Sim::Status(status) => assert_eq!(status.output, Some(StatusFormat::Json)),
        other => panic!("{other:?}"),
    }
    match sim("sim freeze --at c1/n1") {
        Sim::Freeze(place) => assert_eq!(place.at.as_deref(), Some("c1/n1")),
        other => panic!("{other:?}"),
    }
    assert!(matches!(sim("sim thaw"), Sim::Thaw(_)));
    match sim("sim run a.yaml b.yaml -o junit=r.xml --upstream /opt/kubernetes") {
        Sim::Run(run) => {
            assert_eq!(run.scenarios.len(), 2);
            assert_eq!(run.upstream, Some("/opt/kubernetes".into()));
            assert_eq!(run.output.len(), 1);
        }
        other => panic!("{other:?}"),
    }
    match sim("sim down --all") {
        Sim::Down(down) => assert!(down.all),
        other => panic!("{other:?}"),
    }
    assert!(matches!(sim("sim schema"), Sim::Schema));
    assert!(matches!(sim("sim kubeconfig"), Sim::Kubeconfig(_)));
}

#[test]
fn the_command_line_beats_the_environment_beats_the_file() {
    let file = "seed = 1\n[dr]\nseed = 2\n[sim.up]\nnodes = 5\n";
    assert_eq!(dr("dr", &[], Some("seed = 1")).probes.seed, Some(1));
    assert_eq!(dr("dr", &[], Some(file)).probes.seed, Some(2));
    assert_eq!(
        dr("dr", &[("FLOATER_SEED", "3")], Some(file)).probes.seed,
        Some(3)
    );
    let both = [("FLOATER_SEED", "3"), ("FLOATER_DR_SEED", "4")];
    assert_eq!(dr("dr", &both, Some(file)).probes.seed, Some(4));
    assert_eq!(dr("dr --seed 5", &both, Some(file)).probes.seed, Some(5));
    assert_eq!(
        dr("dr", &[("FLOATER_SEED", "")], Some(file)).probes.seed,
        Some(2),
        "empty is unset"
    );
    match layered("sim up", &[], Some(file)).unwrap().verb {
        Verb::Sim(Sim::Up(up)) => assert_eq!(up.shape.nodes, Some(5)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_kind_of_option_has_its_layers() {
    let env = [
        ("FLOATER_KUBECONFIG", "/a:/b"),
        ("FLOATER_CONTEXTS", "e*,w*"),
        ("FLOATER_LAYERS", "pod"),
        ("FLOATER_FULL", "true"),
        ("FLOATER_KEEP", "false"),
        ("FLOATER_POD_WAIT_TIME", "5s"),
        ("FLOATER_OUTPUT", "json=a.json,table"),
        ("FLOATER_FAIL_ON", "info"),
        ("FLOATER_IMAGE_REPOSITORY", "example.org/x"),
        ("FLOATER_COLOR", "always"),
        ("FLOATER_VERBOSE", "2"),
    ];
    let cli = layered("dr", &env, None).unwrap();
    assert_eq!(cli.global.color, Some(ColorChoice::Always));
    assert_eq!(cli.global.verbose, 2);
    let dr_env = dr("dr", &env, None);
    assert_eq!(dr_env.inventory.kubeconfig, ["/a", "/b"].map(PathBuf::from));
    assert_eq!(dr_env.inventory.contexts, ["e*", "w*"]);
    assert_eq!(dr_env.what.layers, [LayerChoice::Pod]);
    assert!(dr_env.probes.full && !dr_env.how.keep);
    assert_eq!(dr_env.how.pod_wait_time, Some(Duration::from_secs(5)));
    assert_eq!(dr_env.judge.output.len(), 2);
    assert_eq!(dr_env.judge.fail_on, Some(FailOn::Info));

    let file = "color = 'never'\n[dr]\nkubeconfig = ['/a', '/b']\nfull = true\npod-wait-time = 5\noutput = 'wide'\n";
    let dr_file = dr("dr", &[], Some(file));
    assert_eq!(
        dr_file.inventory.kubeconfig,
        ["/a", "/b"].map(PathBuf::from)
    );
    assert!(dr_file.probes.full);
    assert_eq!(dr_file.judge.output, [Output::stdout(Format::Wide)]);
}

#[test]
fn a_higher_layer_silences_what_contradicts_it() {
    let env = [
        ("FLOATER_SRC_KUBECONFIG", "a"),
        ("FLOATER_DST_KUBECONFIG", "b"),
        ("FLOATER_LAYERS", "pod"),
    ];
    let dr = dr(
        "dr --sim lab --host-network",
        &env,
        Some("[dr]\nfleet = 'x'\nkubeconfig-dir = 'd'\n"),
    );
    assert_eq!(dr.inventory.sim.as_deref(), Some("lab"));
    assert_eq!(dr.inventory.src_kubeconfig, None);
    assert_eq!(dr.inventory.dst_kubeconfig, None);
    assert_eq!(dr.inventory.fleet, None);
    assert!(dr.what.layers.is_empty());
}

#[test]
fn deeds_come_from_the_command_line_only() {
    let env = [
        ("FLOATER_ALL", "true"),
        ("FLOATER_SWEEP", "true"),
        ("FLOATER_SCHEMA", "1"),
        ("FLOATER_FAULT", "X"),
    ];
    assert!(!dr("dr", &env, None).sweep);
    match layered("sim down", &env, None).unwrap().verb {
        Verb::Sim(Sim::Down(down)) => assert!(!down.all),
        other => panic!("{other:?}"),
    }
    assert_eq!(
        layered("sim down", &[], Some("[sim.down]\nall = true"))
            .unwrap_err()
            .code(),
        65
    );
}

#[test]
fn options_of_lower_layers_do_not_reach_into_a_program() {
    match layered(
        "sim exec c1/n1 -- dr exec",
        &[("FLOATER_NAME", "lab")],
        None,
    )
    .unwrap()
    .verb
    {
        Verb::Sim(Sim::Exec(exec)) => {
            assert_eq!(exec.name.as_deref(), Some("lab"));
            assert_eq!(exec.argv, ["dr", "exec"]);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn wrong_variables_are_usage_and_named() {
    for (name, value) in [
        ("FLOATER_SEED", "x"),
        ("FLOATER_DR_SEED", "-1"),
        ("FLOATER_LAYERS", "service"),
        ("FLOATER_FULL", "maybe"),
        ("FLOATER_OUTPUT", "sarif"),
        ("FLOATER_TIMEOUT", "later"),
        ("FLOATER_VERBOSE", "9"),
        ("FLOATER_DST_KUBECONFIG", "x"),
        ("FLOATER_COLOR", "red"),
    ] {
        let failure = layered("dr", &[(name, value)], None).unwrap_err();
        assert_eq!(failure.code(), 64, "{name}: {failure}");
        assert!(
            failure.to_string().starts_with(&format!("{name}: ")),
            "{failure}"
        );
    }
}

#[test]
fn wrong_files_are_input_with_line_and_rule() {
    for (text, line, part) in [
        ("seed =", 1, "string values must be quoted"),
        ("\nseed = 1\nseed = 2\n", 3, "duplicate key"),
        ("a b", 1, "key"),
        ("frobnicate = 1", 1, "`frobnicate` is not an option"),
        ("seed = 1\n[frob]\nseed = 1", 2, "`frob` is not a verb"),
        ("[dr]\n\nclusters = 3", 3, "`clusters` is not an option"),
        ("[sim.up]\nseed = 3", 2, "`seed` is not an option"),
        ("[dr]\nseed = 'x'", 2, "invalid value 'x'"),
        ("[dr]\nseed = 1.5", 2, "invalid value '1.5'"),
        ("[dr]\nfull = 'maybe'", 2, "true or false"),
        ("[dr]\nseed = [1, 2]", 2, "takes one value"),
        ("[dr]\nseed = 1979-05-27", 2, "a value is a string"),
        ("[dr]\nlayers = ['pod',\n ['x']]", 2, "a value is a string"),
        (
            "[dr]\nkeep = true\noutput = 'html'",
            3,
            "not available in this version",
        ),
        ("[dr]\ndst-kubeconfig = 'x'", 2, "--src-kubeconfig"),
        ("all = true", 1, "`all` is not an option"),
        ("help = true", 1, "`help` is not an option"),
    ] {
        let failure = layered("dr", &[], Some(text)).expect_err(text);
        assert_eq!(failure.code(), 65, "{text}: {failure}");
        let shown = failure.to_string();
        assert!(
            shown.starts_with(&format!("config.toml:{line}: ")),
            "{text}: {shown}"
        );
        assert!(shown.contains(part), "{text}: wanted `{part}` in: {shown}");
    }
}

#[test]
fn the_place_of_the_file() {
    let at = |pairs: &[(&str, &str)]| {
        let pairs: BTreeMap<String, OsString> = pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), OsString::from(value)))
            .collect();
        config::path(&|name| pairs.get(name).cloned())
    };
    assert_eq!(
        at(&[("HOME", "/h")]),
        Some(("/h/.config/floater/config.toml".into(), false))
    );
    assert_eq!(
        at(&[("HOME", "/h"), ("XDG_CONFIG_HOME", "/x")]),
        Some(("/x/floater/config.toml".into(), false))
    );
    assert_eq!(
        at(&[("FLOATER_CONFIG", "f"), ("HOME", "/h")]),
        Some(("f".into(), true))
    );
    assert_eq!(at(&[]), None);
}
