//! Scenarios of several steps.

use serde_json::Value;
use tests::program::Place;

const STEPS: &str = "\
name: steps
clusters:
  - {name: east}
  - {name: west, mode: p2p}
steps:
  - dr: {expect: [{verdict: healthy}]}
  - freeze: all
  - exec: {at: east/n1, run: [ip, route, flush, table, '200']}
  - exec: {at: east/n1, run: ip route show table 200, lacks: vx-bridge}
  - dr: {expect: [{code: ROUTE-MISSING, at: east/n1}]}
  - thaw: all
  - wait: {at: east/n1, run: ip route show table 200, contains: vx-bridge, within: 30s}
  - fault: {code: FDB-MISSING, at: east/n1, peer: west}
  - dr: {expect: [{code: FDB-MISSING, at: east/n1}]}
  - clear: all
expect: [{verdict: healthy}]
";

#[test]
#[ignore = "netns: needs veth, vxlan, bridge, policy-rules, nft, iproute2"]
fn a_scenario_does_one_step_after_the_other() {
    let place = Place::new();
    place.write("steps.yaml", STEPS);
    let ran = place
        .run(["sim", "run", "steps.yaml", "-o", "json=out.json"])
        .expect(0);
    assert!(ran.stdout.starts_with("pass  steps.yaml"), "{}", ran.stdout);
    let text = std::fs::read_to_string(place.path().join("out.json")).unwrap();
    let verdicts: Value = serde_json::from_str(&text).unwrap();
    let judged = verdicts[0]["expectations"].as_array().unwrap();
    assert_eq!(judged.len(), 7, "{judged:#?}");

    // What does not hold is told with what there was, and the steps after it are done all the same.
    let wrong = STEPS.replace("lacks: vx-bridge", "contains: vx-moon");
    place.write(
        "wrong.yaml",
        wrong.replace("run: [ip,", "run: [no-such-program,"),
    );
    let ran = place.run(["sim", "run", "wrong.yaml"]).expect(1);
    for words in [
        "FAIL  `no-such-program route flush table 200` at east/n1 succeeds; instead: exit code",
        "FAIL  `ip route show table 200` at east/n1 prints `vx-moon`; instead: it printed `",
        "FAIL  finding ROUTE-MISSING at east/n1; instead: no finding",
        "pass  finding FDB-MISSING at east/n1",
    ] {
        assert!(ran.stdout.contains(words), "{words}\n{}", ran.stdout);
    }
    place.assert_empty();
}

#[test]
fn a_scenario_that_expects_nothing_is_none() {
    let place = Place::new();
    let without = "clusters: [{name: east}]\nsteps: [{freeze: all}, {dr: {}}]\n";
    place.write("none.yaml", without);
    let ran = place.run(["sim", "run", "none.yaml"]).expect(65);
    assert!(
        ran.stderr.contains("a step that expects something"),
        "{}",
        ran.stderr
    );
    place.assert_empty();
}

/// What the README's job for a CI runs of this program is run as it stands, with the README's own scenario, in an empty directory.
#[test]
#[ignore = "netns: needs veth, vxlan, bridge, policy-rules, nft"]
fn the_readme_s_job_runs_its_scenarios() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap();
    let readme = std::fs::read_to_string(root.join("README.md")).unwrap();
    let blocks = readme.split("```yaml\n").skip(1);
    let blocks: Vec<&str> = blocks.filter_map(|rest| rest.split("```").next()).collect();
    let scenario = blocks.iter().find(|block| block.contains("faults:"));
    let job = blocks.iter().find(|block| block.contains("runs-on:"));
    let job: Value = serde_saphyr::from_str(job.unwrap()).unwrap();
    let steps = job["jobs"]["fleets"]["steps"].as_array().unwrap().iter();
    let commands = steps.filter_map(|step| step["run"].as_str());
    let commands: Vec<&str> = commands
        .filter(|run| run.starts_with("floaterctl "))
        .collect();
    assert_eq!(commands.len(), 2, "{commands:?}");

    let place = Place::new();
    std::fs::create_dir(place.path().join("fleets")).unwrap();
    place.write("fleets/two-clouds.yaml", scenario.unwrap());
    for command in commands {
        let words = command.split(' ').skip(1);
        let words = words.map(|word| word.replace("*.yaml", "two-clouds.yaml"));
        let ran = place.run(words.collect::<Vec<_>>());
        ran.expect(0);
    }
    let report = std::fs::read_to_string(place.path().join("report.xml")).unwrap();
    assert!(report.contains("failures=\"0\""), "{report}");
    assert!(report.contains("<testcase"), "{report}");
}
