//! Whether a plan can be run, and which of its fields says otherwise.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr};

use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::wire::{
    Expect, Failure, MAX_BYTES, MAX_PACKETS, MAX_PACKETS_TO_ONE, MAX_PORTS, MAX_PROBES,
    MAX_SECONDS, Outcome, Plan, Probe, Protocol, VERSION, unhex,
};

/// The longest an answer is waited for, milliseconds.
const TIMEOUT_MS: u32 = 60_000;
/// The greatest payload of an echo, bytes: IPv4's limit.
const PAYLOAD: u16 = 65_507;
/// The longest nonce or proof, characters.
const HEX: usize = 128;
/// The longest name of a run, bytes.
const RUN: usize = 253;

/// What is wrong with a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Fault {
    /// The rule that it breaks.
    pub(super) error: String,
    /// Where: a field's path, such as `probes[3].count`.
    pub(super) field: String,
}

/// A plan that can be run.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Checked {
    /// With the probes that can be sent.
    pub(super) plan: Plan,
    /// Those of the others: what is not known here, and what a limit forbids.
    pub(super) refused: Vec<Outcome>,
}

/// A plan whose probes may hold what is not known here.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Open {
    version: u32,
    run: String,
    budget_pps: u32,
    timeout_ms: u32,
    #[serde(default)]
    ports: Vec<u16>,
    probes: Vec<OpenProbe>,
}

#[derive(Deserialize)]
struct OpenProbe {
    id: u32,
    dst: IpAddr,
    protocol: String,
    #[serde(default)]
    port: u16,
    count: u16,
    #[serde(default)]
    payload_bytes: u16,
    #[serde(default)]
    timeout_ms: Option<u32>,
    #[serde(default)]
    expect: Option<OpenExpect>,
    #[serde(flatten)]
    unknown: BTreeMap<String, IgnoredAny>,
}

#[derive(Deserialize)]
struct OpenExpect {
    nonce: String,
    proof: String,
    #[serde(flatten)]
    unknown: BTreeMap<String, IgnoredAny>,
}

fn fault(field: impl Into<String>, error: impl Into<String>) -> Fault {
    Fault {
        error: error.into(),
        field: field.into(),
    }
}

/// Reads a plan and checks it.
pub(super) fn plan(body: &[u8]) -> Result<Checked, Fault> {
    #[derive(Deserialize)]
    struct Versioned {
        version: Option<Value>,
    }
    // Another major version may look like anything: its number is judged before its shape.
    let versioned: Versioned = serde_json::from_slice(body)
        .map_err(|error| fault("", format!("the plan is not a JSON object: {error}")))?;
    match versioned.version {
        Some(version) if version == VERSION => {}
        Some(version) => {
            return Err(fault(
                "version",
                format!("this floater speaks version {VERSION}, not {version}"),
            ));
        }
        None => return Err(fault("version", "missing")),
    }
    let open: Open = serde_json::from_slice(body).map_err(|error| {
        serde_json::from_slice(body)
            .map_or_else(|_| fault("", error.to_string()), |value| shape(&value))
    })?;
    if open.probes.len() > MAX_PROBES {
        return Err(fault(
            "probes",
            format!("has to be at most {MAX_PROBES} long"),
        ));
    }
    let mut plan = Plan {
        version: open.version,
        run: open.run,
        budget_pps: open.budget_pps,
        timeout_ms: open.timeout_ms,
        ports: open.ports,
        probes: Vec::with_capacity(open.probes.len()),
    };
    let mut refused = Vec::new();
    let mut ids = HashSet::with_capacity(open.probes.len());
    for (at, probe) in open.probes.into_iter().enumerate() {
        let id = probe.id;
        if !ids.insert(id) {
            return Err(fault(
                format!("probes[{at}].id"),
                "is another probe's as well",
            ));
        }
        let failure = match known(probe) {
            Ok(probe) => {
                if let Some((name, rule)) = probe_rules(&probe) {
                    return Err(fault(format!("probes[{at}].{name}"), rule));
                }
                match forbidden(&plan, &probe) {
                    None => {
                        plan.probes.push(probe);
                        continue;
                    }
                    Some(rule) => Failure::Forbidden { rule },
                }
            }
            Err(what) => Failure::Unsupported { what },
        };
        refused.push(Outcome {
            id,
            failure: Some(failure),
            ..Outcome::default()
        });
    }
    rules(&plan)?;
    Ok(Checked { plan, refused })
}

/// The probe, or what of it is not known here.
fn known(probe: OpenProbe) -> Result<Probe, String> {
    if let Some(name) = probe.unknown.keys().next() {
        return Err(format!("the field `{name}` of a probe"));
    }
    let expect = probe
        .expect
        .map(|expect| match expect.unknown.keys().next() {
            Some(name) => Err(format!("the field `expect.{name}` of a probe")),
            None => Ok(Expect {
                nonce: expect.nonce,
                proof: expect.proof,
            }),
        });
    Ok(Probe {
        id: probe.id,
        dst: probe.dst,
        protocol: match probe.protocol.as_str() {
            "icmp" => Protocol::Icmp,
            "tcp" => Protocol::Tcp,
            other => return Err(format!("the protocol `{other}`")),
        },
        port: probe.port,
        count: probe.count,
        payload_bytes: probe.payload_bytes,
        timeout_ms: probe.timeout_ms,
        expect: expect.transpose()?,
    })
}

/// Finds the field whose type is wrong. Only asked for a plan that cannot be read.
fn shape(plan: &Value) -> Fault {
    const FIELDS: [&str; 6] = [
        "version",
        "run",
        "budget_pps",
        "timeout_ms",
        "ports",
        "probes",
    ];
    let found = field::<String>(plan, "", "run", true)
        .or_else(|| field::<u32>(plan, "", "budget_pps", true))
        .or_else(|| field::<u32>(plan, "", "timeout_ms", true))
        .or_else(|| field::<Vec<u16>>(plan, "", "ports", false))
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
                    .or_else(|| field::<IpAddr>(probe, &path, "dst", true))
                    .or_else(|| field::<String>(probe, &path, "protocol", true))
                    .or_else(|| field::<u16>(probe, &path, "port", false))
                    .or_else(|| field::<u16>(probe, &path, "count", true))
                    .or_else(|| field::<u16>(probe, &path, "payload_bytes", false))
                    .or_else(|| field::<Option<u32>>(probe, &path, "timeout_ms", false))
                    .or_else(|| field::<Option<OpenExpect>>(probe, &path, "expect", false))
            })
        })
        .or_else(|| {
            let mut names = plan.as_object()?.keys();
            let unknown = names.find(|name| !FIELDS.contains(&name.as_str()))?;
            Some(fault(unknown, "this floater does not know the field"))
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

/// What holds for a plan as a whole.
fn rules(plan: &Plan) -> Result<(), Fault> {
    let within = |holds: bool, field: &str, rule: String| {
        if holds {
            Ok(())
        } else {
            Err(fault(field, rule))
        }
    };
    within(
        plan.run.len() <= RUN,
        "run",
        format!("has to be at most {RUN} bytes long"),
    )?;
    within(
        plan.budget_pps > 0,
        "budget_pps",
        "has to be at least 1".to_owned(),
    )?;
    within(
        (1..=TIMEOUT_MS).contains(&plan.timeout_ms),
        "timeout_ms",
        format!("has to be 1 to {TIMEOUT_MS}"),
    )?;
    within(
        plan.ports.len() <= MAX_PORTS,
        "ports",
        format!("has to be at most {MAX_PORTS} long"),
    )?;
    within(
        plan.packets() <= MAX_PACKETS,
        "probes",
        format!(
            "{} packets and connections are more than {MAX_PACKETS}",
            plan.packets()
        ),
    )?;
    within(
        plan.bytes() <= MAX_BYTES,
        "probes",
        format!("{} bytes are more than {MAX_BYTES}", plan.bytes()),
    )?;
    let longest = plan.longest().as_secs();
    within(
        longest <= MAX_SECONDS,
        "probes",
        format!("they may take {longest} s, which is more than {MAX_SECONDS}"),
    )?;
    let mut by_address: HashMap<IpAddr, u64> = HashMap::new();
    for probe in &plan.probes {
        let sum = by_address.entry(probe.dst.to_canonical()).or_default();
        *sum += u64::from(probe.count);
        within(
            *sum <= MAX_PACKETS_TO_ONE,
            "probes",
            format!(
                "more than {MAX_PACKETS_TO_ONE} packets and connections to {}",
                probe.dst
            ),
        )?;
    }
    Ok(())
}

/// What holds for each probe: a run that breaks it is broken itself.
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
    if probe
        .timeout_ms
        .is_some_and(|timeout| !(1..=TIMEOUT_MS).contains(&timeout))
    {
        return Some(("timeout_ms", format!("has to be 1 to {TIMEOUT_MS}")));
    }
    let expect = probe.expect.as_ref()?;
    let rule = || format!("has to be hexadecimal, at most {HEX} characters");
    if !hexadecimal(&expect.nonce) {
        return Some(("expect.nonce", rule()));
    }
    (!hexadecimal(&expect.proof)).then(|| ("expect.proof", rule()))
}

/// Why a probe is not sent whoever asks for it: targets come from objects of clusters, and one of them may be hostile.
fn forbidden(plan: &Plan, probe: &Probe) -> Option<String> {
    let kind = forbidden_target(probe.dst.to_canonical());
    if let Some(kind) = kind {
        return Some(format!("{kind} addresses are no targets"));
    }
    (probe.protocol == Protocol::Tcp && !plan.ports.contains(&probe.port)).then(|| {
        format!(
            "port {} is none of the run's responders' (the plan's `ports`)",
            probe.port
        )
    })
}

/// What kind of address it is, if it is not one host's that another one may ask.
fn forbidden_target(dst: IpAddr) -> Option<&'static str> {
    let link_local = match dst {
        IpAddr::V4(dst) => dst.is_link_local(),
        IpAddr::V6(dst) => dst.is_unicast_link_local(),
    };
    // All of 0.0.0.0/8 means this network, not a host (RFC 1122, 3.2.1.3).
    let this = matches!(dst, IpAddr::V4(dst) if dst.octets()[0] == 0);
    if dst.is_loopback() {
        Some("loopback")
    } else if link_local {
        Some("link-local")
    } else if dst.is_multicast() {
        Some("multicast")
    } else if dst.is_unspecified() || this {
        Some("unspecified")
    } else if dst == Ipv4Addr::BROADCAST {
        Some("broadcast")
    } else {
        None
    }
}

#[cfg(test)]
mod tests;
