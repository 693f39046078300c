//! The JSON Schema of a topology file.

use datapath::code::Code;
use serde_json::{Value, json};

use super::{MAX_CLUSTERS, MAX_NODES};
use crate::codes;

/// The JSON Schema (draft 2020-12) that editors check topology files with. Rules that span several keys, such as overlaps,
/// are beyond it; [`parse`](super::parse) knows them all.
#[must_use]
pub fn schema() -> Value {
    let injectable: Vec<Code> = codes::injectable().collect();
    let label = json!({"type": "string", "pattern": "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"});
    let place = json!({"type": "string", "pattern": "^[a-z0-9-]+(/[a-z0-9-]+)?$"});
    let prefixes = json!({"type": "array", "items": {"type": "string"}, "minItems": 1});
    let underlay = json!({
        "type": "object",
        "additionalProperties": false,
        "properties": {
            "mtu": {"type": "integer", "minimum": 576, "maximum": 65535, "default": 1500},
            "delay": {"type": "string", "pattern": "^[0-9.]+(us|ms|s)$", "default": "0ms"},
            "loss": {"type": "string", "pattern": "^[0-9.]+%$", "default": "0%"},
        },
    });
    let cluster = json!({
        "type": "object",
        "additionalProperties": false,
        "properties": {
            "name": label,
            "count": {"type": "integer", "minimum": 1, "maximum": MAX_CLUSTERS},
            "mode": {"enum": ["gateway", "p2p"], "default": "gateway"},
            "family": {"enum": ["ipv4", "ipv6", "all"], "default": "ipv4"},
            "nodes": {"type": "integer", "minimum": 1, "maximum": MAX_NODES, "default": 2},
            "podCIDRs": prefixes,
            "serviceCIDRs": prefixes,
            "globalCIDRsMap": {"type": "object", "additionalProperties": {"type": "string"}},
            "underlay": underlay,
            "virtual": {"type": "boolean", "default": false},
            "controlPlane": {"enum": ["simulated", "upstream"], "default": "simulated"},
        },
    });
    let fault = json!({
        "type": "object",
        "additionalProperties": false,
        "required": ["code", "at"],
        "properties": {"code": {"enum": injectable}, "at": place, "peer": place},
    });
    let expect = json!({"type": "array", "items": {"oneOf": [
        {
            "type": "object",
            "additionalProperties": false,
            "required": ["code"],
            "properties": {"code": {"enum": Code::ALL}, "at": place},
        },
        {
            "type": "object",
            "additionalProperties": false,
            "required": ["verdict"],
            "properties": {"verdict": {"enum": ["healthy", "fault", "degraded", "unknown"]}},
        },
    ]}});
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Topology of a simulated fleet",
        "type": "object",
        "additionalProperties": false,
        "required": ["clusters"],
        "properties": {
            "name": label,
            "underlay": underlay,
            "clusters": {"type": "array", "minItems": 1, "items": cluster},
            "workloads": {
                "type": "object",
                "additionalProperties": false,
                "properties": {
                    "floater": {"type": "boolean", "default": true},
                    "floaters": {"enum": ["process", "shared", "auto"], "default": "auto"},
                },
            },
            "kubelets": {
                "type": "object",
                "additionalProperties": false,
                "properties": {
                    "renew": {"type": "string", "pattern": "^[0-9.]+(us|ms|s)$", "default": "10s"},
                    "grace": {"type": "string", "pattern": "^[0-9.]+(us|ms|s)$", "default": "50s"},
                },
            },
            "faults": {"type": "array", "items": fault},
            "steps": {"type": "array", "items": step(&fault, &expect)},
            "expect": expect,
        },
    })
}

/// A mapping of one key.
fn step(fault: &Value, expect: &Value) -> Value {
    let exec = |more: Value| {
        let mut properties = json!({
            "at": {"type": "string"},
            "run": {"type": ["string", "array"], "items": {"type": "string"}, "minItems": 1},
            "code": {"type": "integer", "minimum": 0, "maximum": 255, "default": 0},
            "contains": {"type": "string"},
            "lacks": {"type": "string"},
        });
        let mut required = vec!["at", "run"];
        if !more.is_null() {
            properties["within"] = more;
            required.push("within");
        }
        json!({"type": "object", "additionalProperties": false, "required": required, "properties": properties})
    };
    let keys = json!({
        "fault": fault,
        "clear": {"const": "all"},
        "freeze": {"type": "string"},
        "thaw": {"type": "string"},
        "exec": exec(Value::Null),
        "wait": exec(json!({"type": "string", "pattern": "^[0-9.]+(us|ms|s)$"})),
        "dr": {"type": "object", "additionalProperties": false, "properties": {"expect": expect}},
    });
    json!({
        "type": "object",
        "additionalProperties": false,
        "minProperties": 1,
        "maxProperties": 1,
        "properties": keys,
    })
}
