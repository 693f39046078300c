//! Plans that are refused, in whole or in part, and why.

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::wire::MAX_PLANS;

fn good() -> Value {
    json!({
        "version": 2, "run": "r", "budget_pps": 100, "timeout_ms": 1000, "ports": [8889],
        "probes": [
            {"id": 1, "dst": "10.0.0.1", "protocol": "icmp", "count": 3, "payload_bytes": 9, "timeout_ms": 50},
            {"id": 2, "dst": "fd00::1", "protocol": "tcp", "port": 8889, "count": 1,
             "expect": {"nonce": "00", "proof": "ff"}},
        ],
    })
}

fn judged(plan: &Value) -> Result<Checked, Fault> {
    super::plan(plan.to_string().as_bytes())
}

fn changed(pointer: &str, value: Value) -> Value {
    let mut plan = good();
    let (parent, name) = pointer.rsplit_once('/').expect("a pointer");
    let parent = plan.pointer_mut(parent).expect("a part of the good plan");
    match parent {
        Value::Array(list) => list[name.parse::<usize>().expect("an index")] = value,
        other => other[name] = value,
    }
    plan
}

/// Why a probe of a plan is not sent.
fn refusal(plan: &Value) -> Option<Failure> {
    let checked = judged(plan).expect("a plan that can be run");
    let outcome = checked.refused.into_iter().next()?;
    assert_eq!((outcome.sent, outcome.received, outcome.rtt), (0, 0, None));
    assert_eq!(checked.plan.probes.len(), 1, "the other one is sent");
    outcome.failure
}

#[test]
fn a_good_plan_is_read() {
    let checked = judged(&good()).expect("good");
    assert_eq!((checked.plan.probes.len(), checked.refused.len()), (2, 0));
    let own = serde_json::to_vec(&checked.plan).expect("plain data");
    assert_eq!(super::plan(&own), Ok(checked));
}

#[test]
fn what_is_wrong_is_named() {
    for (pointer, value, field) in [
        ("/version", json!(3), "version"),
        ("/version", json!(1), "version"),
        ("/version", json!("2"), "version"),
        ("/run", json!(7), "run"),
        ("/run", json!("r".repeat(254)), "run"),
        ("/later", json!(true), "later"),
        ("/budget_pps", json!(0), "budget_pps"),
        ("/budget_pps", json!(-1), "budget_pps"),
        ("/timeout_ms", json!(60_001), "timeout_ms"),
        ("/timeout_ms", json!("1s"), "timeout_ms"),
        ("/ports", json!([65_536]), "ports"),
        ("/ports", json!(vec![1; MAX_PORTS + 1]), "ports"),
        ("/probes", json!({}), "probes"),
        ("/probes/0", json!(3), "probes[0]"),
        ("/probes/0/id", json!(2), "probes[1].id"),
        ("/probes/0/dst", json!("10.0.0.0/8"), "probes[0].dst"),
        ("/probes/0/protocol", json!(7), "probes[0].protocol"),
        ("/probes/1/count", json!(0), "probes[1].count"),
        ("/probes/1/count", json!(65_536), "probes[1].count"),
        ("/probes/1/port", json!(0), "probes[1].port"),
        (
            "/probes/0/payload_bytes",
            json!(65_535),
            "probes[0].payload_bytes",
        ),
        ("/probes/0/timeout_ms", json!(0), "probes[0].timeout_ms"),
        ("/probes/0/timeout_ms", json!("x"), "probes[0].timeout_ms"),
        ("/probes/1/expect", json!({}), "probes[1].expect"),
        (
            "/probes/1/expect/nonce",
            json!("+f"),
            "probes[1].expect.nonce",
        ),
        (
            "/probes/1/expect/proof",
            json!(""),
            "probes[1].expect.proof",
        ),
    ] {
        assert_eq!(
            judged(&changed(pointer, value)).map_err(|fault| fault.field),
            Err(field.to_owned()),
            "{pointer}"
        );
    }
    for missing in ["version", "run", "budget_pps", "timeout_ms", "probes"] {
        let mut plan = good();
        plan.as_object_mut().expect("an object").remove(missing);
        assert_eq!(judged(&plan), Err(fault(missing, "missing")));
    }
}

#[test]
fn another_versions_shape_is_not_judged() {
    let fault = judged(&json!({"version": 1, "probes": 7})).expect_err("version 1");
    assert_eq!(fault.error, "this floater speaks version 2, not 1");
}

#[test]
fn what_a_floater_does_not_know_it_says_of_that_probe_alone() {
    for (pointer, value, word) in [
        ("/probes/0/protocol", json!("udp"), "`udp`"),
        ("/probes/0/ttl", json!(3), "`ttl`"),
        ("/probes/0/later", json!({"a": [1]}), "`later`"),
        ("/probes/1/expect/later", json!(1), "`expect.later`"),
    ] {
        match refusal(&changed(pointer, value)) {
            Some(Failure::Unsupported { what }) => assert!(what.contains(word), "{what}"),
            other => panic!("{pointer}: {other:?}"),
        }
    }
}

#[test]
fn targets_are_other_hosts_and_ports_are_the_runs() {
    for dst in [
        "127.0.0.1",
        "127.255.255.254",
        "::1",
        "::ffff:127.0.0.1",
        "169.254.169.254",
        "fe80::1",
        "::ffff:169.254.0.1",
        "224.0.0.1",
        "239.1.2.3",
        "ff02::1",
        "0.0.0.0",
        "0.1.2.3",
        "::",
        "255.255.255.255",
    ] {
        let refused = refusal(&changed("/probes/0/dst", json!(dst)));
        assert!(
            matches!(refused, Some(Failure::Forbidden { .. })),
            "{dst}: {refused:?}"
        );
    }
    for dst in ["10.0.0.1", "192.0.2.255", "100.64.0.9", "2001:db8::1"] {
        let checked = judged(&changed("/probes/0/dst", json!(dst))).expect("good");
        assert_eq!(checked.refused, [], "{dst}");
    }
    for port in [22, 6443, 8890] {
        let refused = refusal(&changed("/probes/1/port", json!(port)));
        assert!(
            matches!(&refused, Some(Failure::Forbidden { rule }) if rule.contains(&port.to_string())),
            "{refused:?}"
        );
    }
}

/// So many echo probes, each to an address of its own.
fn many(probes: u32, count: u16, payload_bytes: u16) -> Plan {
    let mut plan = judged(&good()).expect("good").plan;
    plan.budget_pps = u32::MAX;
    let echo = plan.probes[0].clone();
    plan.probes = (0..probes)
        .map(|id| Probe {
            id,
            dst: std::net::Ipv4Addr::from(0x0a00_0000 + id).into(),
            count,
            payload_bytes,
            ..echo.clone()
        })
        .collect();
    plan
}

#[test]
fn a_plan_has_limits_as_a_whole() {
    let refused = |plan: &Plan| {
        let body = serde_json::to_vec(plan).expect("plain data");
        super::plan(&body).err().map(|fault| fault.error)
    };
    assert_eq!(refused(&many(20_000, 3, 56)), None);
    let error = refused(&many(20_001, 1, 0)).expect("too many probes");
    assert!(error.contains("20000"), "{error}");
    let error = refused(&many(201, 1000, 0)).expect("too many packets");
    assert!(error.contains("packets"), "{error}");
    let error = refused(&many(100, 50, 65_507)).expect("too many bytes");
    assert!(error.contains("bytes"), "{error}");
    let mut slow = many(100, 30, 0);
    slow.budget_pps = 3;
    let error = refused(&slow).expect("too long");
    assert!(error.contains(" s, "), "{error}");
    let mut one = many(5, 401, 0);
    one.probes
        .iter_mut()
        .for_each(|probe| probe.dst = [10, 0, 0, 1].into());
    let error = refused(&one).expect("too many to one");
    assert!(error.contains("10.0.0.1"), "{error}");
    // As many as run at once stay within what a node may be sent.
    assert!(MAX_PACKETS_TO_ONE * MAX_PLANS as u64 <= 20_000);
}

proptest! {
    #[test]
    fn any_bytes_never_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..100),
        at in 0_usize..500,
        byte: u8,
        cut in 0_usize..500,
    ) {
        let _ = super::plan(&bytes);
        let mut body = good().to_string().into_bytes();
        let at = at.min(body.len() - 1);
        body[at] = byte;
        if let Ok(checked) = super::plan(&body) {
            prop_assert_eq!(checked.plan.probes.len() + checked.refused.len(), 2);
        }
        body.truncate(cut);
        let _ = super::plan(&body);
    }
}
