//! Whether a plan can be run, and which of its fields says otherwise.

use std::collections::HashSet;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::wire::{Expect, MAX_PROBES, Plan, Probe, Protocol, unhex};

/// The longest an answer is waited for, milliseconds.
const TIMEOUT_MS: u32 = 60_000;
/// The greatest payload of an echo, bytes: IPv4's limit.
const PAYLOAD: u16 = 65_507;
/// The longest nonce or proof, characters.
const HEX: usize = 128;

/// What is wrong with a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Fault {
    /// The rule that it breaks.
    pub(super) error: String,
    /// Where: a field's path, such as `probes[3].count`.
    pub(super) field: String,
}

fn fault(field: impl Into<String>, error: impl Into<String>) -> Fault {
    Fault {
        error: error.into(),
        field: field.into(),
    }
}

/// Reads a plan and checks it.
pub(super) fn plan(body: &[u8]) -> Result<Plan, Fault> {
    #[derive(Deserialize)]
    struct Versioned {
        version: Option<Value>,
    }
    // Another major version may look like anything: its number is judged before its shape.
    let versioned: Versioned = serde_json::from_slice(body)
        .map_err(|error| fault("", format!("the plan is not a JSON object: {error}")))?;
    match versioned.version {
        Some(version) if version == 1 => {}
        Some(version) => {
            return Err(fault(
                "version",
                format!("this floater speaks version 1, not {version}"),
            ));
        }
        None => return Err(fault("version", "missing")),
    }
    let plan: Plan = serde_json::from_slice(body).map_err(|error| {
        serde_json::from_slice(body)
            .map_or_else(|_| fault("", error.to_string()), |value| shape(&value))
    })?;
    rules(&plan)?;
    Ok(plan)
}

/// Finds the field whose type is wrong. Only asked for a plan that cannot be read.
fn shape(plan: &Value) -> Fault {
    let found = field::<String>(plan, "", "run", true)
        .or_else(|| field::<u32>(plan, "", "budget_pps", true))
        .or_else(|| field::<u32>(plan, "", "timeout_ms", true))
        .or_else(|| field::<Vec<Value>>(plan, "", "probes", true));
    let probes = plan.get("probes").and_then(Value::as_array);
    found
        .or_else(|| {
            probes?.iter().enumerate().find_map(|(at, probe)| {
                let path = format!("probes[{at}]");
                if !probe.is_object() {
                    return Some(fault(path, "has to be an object"));
                }
                let path = format!("{path}.");
                field::<u32>(probe, &path, "id", true)
                    .or_else(|| field::<std::net::IpAddr>(probe, &path, "dst", true))
                    .or_else(|| field::<Protocol>(probe, &path, "protocol", true))
                    .or_else(|| field::<u16>(probe, &path, "port", false))
                    .or_else(|| field::<u16>(probe, &path, "count", true))
                    .or_else(|| field::<u16>(probe, &path, "payload_bytes", false))
                    .or_else(|| field::<Option<Expect>>(probe, &path, "expect", false))
            })
        })
        .unwrap_or_else(|| fault("", "the plan has a field twice or is not an object"))
}

fn field<T: DeserializeOwned>(
    parent: &Value,
    path: &str,
    name: &str,
    needed: bool,
) -> Option<Fault> {
    match parent.get(name) {
        Some(value) => T::deserialize(value)
            .err()
            .map(|error| fault(format!("{path}{name}"), error.to_string())),
        None => needed.then(|| fault(format!("{path}{name}"), "missing")),
    }
}

fn rules(plan: &Plan) -> Result<(), Fault> {
    if plan.budget_pps == 0 {
        return Err(fault("budget_pps", "has to be at least 1"));
    }
    if !(1..=TIMEOUT_MS).contains(&plan.timeout_ms) {
        return Err(fault("timeout_ms", format!("has to be 1 to {TIMEOUT_MS}")));
    }
    if plan.probes.len() > MAX_PROBES {
        return Err(fault(
            "probes",
            format!("has to be at most {MAX_PROBES} long"),
        ));
    }
    let mut ids = HashSet::with_capacity(plan.probes.len());
    plan.probes.iter().enumerate().try_for_each(|(at, probe)| {
        let wrong = probe_rules(probe).or_else(|| {
            (!ids.insert(probe.id)).then_some(("id", "is another probe's as well".to_owned()))
        });
        wrong.map_or(Ok(()), |(name, rule)| {
            Err(fault(format!("probes[{at}].{name}"), rule))
        })
    })
}

fn probe_rules(probe: &Probe) -> Option<(&'static str, String)> {
    let hexadecimal = |text: &str| (1..=HEX).contains(&text.len()) && unhex(text).is_some();
    if probe.count == 0 {
        return Some(("count", "has to be at least 1".to_owned()));
    }
    if probe.protocol == Protocol::Tcp && probe.port == 0 {
        return Some(("port", "has to be at least 1 for tcp".to_owned()));
    }
    if probe.payload_bytes > PAYLOAD {
        return Some(("payload_bytes", format!("has to be at most {PAYLOAD}")));
    }
    if probe.dst.is_unspecified()
        || probe.dst.is_multicast()
        || probe.dst == std::net::Ipv4Addr::BROADCAST
    {
        return Some(("dst", "has to be the address of one host".to_owned()));
    }
    let expect = probe.expect.as_ref()?;
    if !hexadecimal(&expect.nonce) {
        return Some((
            "expect.nonce",
            format!("has to be hexadecimal, at most {HEX} characters"),
        ));
    }
    (!hexadecimal(&expect.proof)).then(|| {
        (
            "expect.proof",
            format!("has to be hexadecimal, at most {HEX} characters"),
        )
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn good() -> Value {
        json!({
            "version": 1, "run": "r", "budget_pps": 100, "timeout_ms": 1000, "later": true,
            "probes": [
                {"id": 1, "dst": "10.0.0.1", "protocol": "icmp", "count": 3, "payload_bytes": 9},
                {"id": 2, "dst": "fd00::1", "protocol": "tcp", "port": 8889, "count": 1,
                 "expect": {"nonce": "00", "proof": "ff"}, "later": []},
            ],
        })
    }

    fn judged(plan: &Value) -> Result<Plan, Fault> {
        super::plan(plan.to_string().as_bytes())
    }

    #[test]
    fn a_plan_with_fields_of_later_versions_is_read() {
        assert_eq!(judged(&good()).map(|plan| plan.probes.len()), Ok(2));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (pointer, value, field) in [
            ("/version", json!(2), "version"),
            ("/version", json!("1"), "version"),
            ("/run", json!(7), "run"),
            ("/budget_pps", json!(0), "budget_pps"),
            ("/budget_pps", json!(-1), "budget_pps"),
            ("/timeout_ms", json!(60_001), "timeout_ms"),
            ("/timeout_ms", json!("1s"), "timeout_ms"),
            ("/probes", json!({}), "probes"),
            ("/probes/0", json!(3), "probes[0]"),
            ("/probes/0/id", json!(2), "probes[1].id"),
            ("/probes/0/dst", json!("10.0.0.0/8"), "probes[0].dst"),
            ("/probes/0/dst", json!("224.0.0.1"), "probes[0].dst"),
            ("/probes/0/protocol", json!("udp"), "probes[0].protocol"),
            ("/probes/1/count", json!(0), "probes[1].count"),
            ("/probes/1/count", json!(65_536), "probes[1].count"),
            ("/probes/1/port", json!(0), "probes[1].port"),
            (
                "/probes/0/payload_bytes",
                json!(65_535),
                "probes[0].payload_bytes",
            ),
            ("/probes/1/expect", json!({}), "probes[1].expect"),
            (
                "/probes/1/expect/nonce",
                json!("x"),
                "probes[1].expect.nonce",
            ),
            (
                "/probes/1/expect/proof",
                json!(""),
                "probes[1].expect.proof",
            ),
        ] {
            let mut plan = good();
            *plan.pointer_mut(pointer).expect("a field of the good plan") = value;
            assert_eq!(
                judged(&plan).map_err(|fault| fault.field),
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
        let fault = judged(&json!({"version": 2, "probes": 7})).expect_err("version 2");
        assert_eq!(fault.error, "this floater speaks version 1, not 2");
    }

    proptest! {
        #[test]
        fn any_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..100), at in 0_usize..400, byte: u8) {
            let _ = super::plan(&bytes);
            let mut body = good().to_string().into_bytes();
            let at = at.min(body.len() - 1);
            body[at] = byte;
            let _ = super::plan(&body);
        }
    }
}
