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
