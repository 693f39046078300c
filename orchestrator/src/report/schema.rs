//! The JSON Schemas of the report.

use serde_json::{Value, json};

use super::json::{SCHEMA, SCHEMA_PACKED};

/// The JSON Schema (draft 2020-12) of `floater.report/v2`: that of `/v1` with the cells of a large fleet packed.
#[must_use]
pub fn schema_packed() -> Value {
    let count = json!({"type": "integer", "minimum": 0});
    let counts = json!({"type": "array", "items": count});
    let times = json!({
        "description": "Microseconds; null without an answer.",
        "type": "array",
        "items": {"type": ["integer", "null"], "minimum": 0}
    });
    let layer = json!({"enum": ["host", "pod", "service", "dns"]});
    let family = json!({"enum": ["ipv4", "ipv6"]});
    let mut all = schema();
    all["$id"] = json!(SCHEMA_PACKED);
    all["properties"]["schema"] = json!({"const": SCHEMA_PACKED});
    all["properties"]["cells"] =
        json!({"description": "Empty; see cells_packed.", "type": "array", "maxItems": 0});
    all["properties"]["cells_packed"] = json!({
        "description": "One plane per layer and family, in it one row per source and in that one letter per destination, both in the order of \
                        clusters. Clusters are named by their position, from 0.",
        "type": "object",
        "required": ["planes"],
        "properties": {
            "planes": {
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["layer", "family", "rows"],
                    "properties": {
                        "layer": layer,
                        "family": family,
                        "rows": {
                            "type": "array",
                            "items": {
                                "description": "The columns are of one length, an entry for each cell that packets were sent for.",
                                "type": "object",
                                "required": ["marks", "dst", "sent", "received", "p50", "p99", "max"],
                                "properties": {
                                    "marks": {
                                        "description": "A letter, and where it stands for more than one destination in a row their number: p3v97 \
                                                        is three cells p, then 97 cells v. By state and verdict (degraded, fail, pass, unknown): \
                                                        inferred h I i j, probed d P p q, proved e V v w, stale f S s t, unobserved g U k u; \
                                                        . is no such cell.",
                                        "type": "string",
                                        "pattern": "^([hIijdPpqeVvwfSstgUku.][0-9]*)*$"
                                    },
                                    "dst": counts, "sent": counts, "received": counts,
                                    "p50": times, "p99": times, "max": times
                                }
                            }
                        }
                    }
                }
            }
        }
    });
    all["properties"]["findings"]["items"]["properties"]["affects_packed"] = json!({
        "description": "In place of affects where a finding affects many cells: runs [source, first destination, number] where by is source, \
                        [destination, first source, number] where it is destination.",
        "type": "array",
        "items": {
            "type": "object",
            "required": ["layer", "family", "by", "runs"],
            "properties": {
                "layer": layer,
                "family": family,
                "by": {"enum": ["source", "destination"]},
                "runs": {"type": "array", "items": counts}
            }
        }
    });
    all
}

/// The JSON Schema (draft 2020-12) of `floater.report/v1`.
#[must_use]
pub fn schema() -> Value {
    let layer = json!({"enum": ["host", "pod", "service", "dns"]});
    let family = json!({"enum": ["ipv4", "ipv6"]});
    let count = json!({"type": "integer", "minimum": 0});
    let text = json!({"type": "string"});
    let texts = json!({"type": "array", "items": {"type": "string"}});
    let rtt = json!({
        "description": "Round-trip times in microseconds; null without an answer.",
        "type": ["object", "null"],
        "required": ["p50", "p99", "max"],
        "properties": {"p50": count, "p99": count, "max": count}
    });
    let verdict = json!({"enum": ["pass", "fail", "degraded", "unknown"]});
    let maybe = json!({"type": ["string", "null"]});
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": SCHEMA,
        "title": "The report of a run of floaterctl",
        "description": "Equal input and seed give equal bytes, run id and times apart. Fields are added within a version and never change \
                        their meaning; readers ignore fields that they do not know. Above 300 clusters a report is a floater.report/v2.",
        "type": "object",
        "required": ["schema", "run", "clusters", "coverage", "cells", "findings", "verdict", "unjudged"],
        "properties": {
            "schema": {"const": SCHEMA},
            "run": {
                "type": "object",
                "required": ["id", "started", "seconds", "seed", "tool"],
                "properties": {
                    "id": text,
                    "started": {"type": "string", "format": "date-time"},
                    "seconds": {"type": "number", "minimum": 0},
                    "seed": count,
                    "tool": text
                }
            },
            "clusters": {
                "description": "One entry per cluster, sorted by name.",
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["name", "mode", "families", "nodes", "state", "reason"],
                    "properties": {
                        "name": text,
                        "mode": {"enum": ["gateway", "p2p", null]},
                        "families": {"type": "array", "items": family},
                        "nodes": count,
                        "state": {"enum": ["observed", "partly", "unobserved"]},
                        "reason": maybe
                    }
                }
            },
            "coverage": {
                "description": "probed + proved + inferred + stale + unobserved = cells.",
                "type": "object",
                "required": ["ordered_pairs", "cells", "probed", "proved", "inferred", "stale", "unobserved", "probes_sent", "certificate"],
                "properties": {
                    "ordered_pairs": count, "cells": count, "probed": count, "proved": count, "inferred": count,
                    "stale": count, "unobserved": count, "probes_sent": count,
                    "certificate": {
                        "type": "object",
                        "required": ["covered", "indistinguishable", "not_covered"],
                        "properties": {
                            "covered": texts,
                            "indistinguishable": {"type": "array", "items": texts},
                            "not_covered": texts
                        }
                    }
                }
            },
            "cells": {
                "description": "One entry per source, destination, layer and family, in that order; a cluster's inside has src = dst.",
                "type": "array",
                "items": {"$ref": "#/$defs/cell"}
            },
            "findings": {
                "description": "The likeliest cause first.",
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["id", "code", "severity", "element", "summary", "evidence", "ambiguous_with", "affects", "fix"],
                    "properties": {
                        "id": {"description": "A hash of code and element.", "type": "string"},
                        "code": {"type": "string", "pattern": "^[A-Z0-9]+(-[A-Z0-9]+)*$"},
                        "severity": {"enum": ["error", "warning", "info"]},
                        "element": {
                            "description": "cluster and node are null for what is outside of every cluster, kind underlay.",
                            "type": "object",
                            "required": ["cluster", "node", "kind", "name"],
                            "properties": {
                                "cluster": maybe,
                                "node": maybe,
                                "kind": {"enum": ["address", "cluster", "clusternode", "fdb", "filter", "link", "nat", "neighbour", "node",
                                                  "nodeconfig", "responder", "route", "rule", "sysctl", "underlay"]},
                                "name": text
                            }
                        },
                        "summary": text,
                        "evidence": {
                            "type": "array",
                            "items": {
                                "type": "object",
                                "required": ["kind", "source", "text"],
                                "properties": {
                                    "kind": {"enum": ["table", "probe", "counter", "intent"]},
                                    "source": text,
                                    "text": text
                                }
                            }
                        },
                        "ambiguous_with": texts,
                        "affects": {
                            "type": "array",
                            "items": {
                                "type": "object",
                                "required": ["src", "dst", "layer", "family"],
                                "properties": {"src": text, "dst": text, "layer": layer, "family": family}
                            }
                        },
                        "fix": {"description": "What an operator would do, one line; commands are quoted for a POSIX shell. Never run by the tool.",
                                "type": "string"},
                        "fix_steps": {
                            "description": "The same step by step: advice, or a program with its arguments and the node (cluster/node) to run \
                                            it at; place is null at the operator's own machine.",
                            "type": "array",
                            "items": {
                                "type": "object",
                                "properties": {
                                    "advice": text,
                                    "place": maybe,
                                    "argv": texts
                                }
                            }
                        }
                    }
                }
            },
            "verdict": {"enum": ["healthy", "fault", "degraded", "unknown"]},
            "unjudged": {"description": "What could not be judged and why, one sentence each.", "type": "array", "items": text},
            "node_rows": {
                "description": "Only with --nodes or -o wide.",
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["src", "dst", "layer", "family", "target", "verdict", "sent", "received", "rtt_us", "reason"],
                    "properties": {
                        "src": text, "dst": text, "layer": layer, "family": family, "target": text,
                        "verdict": verdict, "sent": count, "received": count, "rtt_us": rtt, "reason": maybe
                    }
                }
            }
        },
        "$defs": {
            "cell": {
                "type": "object",
                "required": ["src", "dst", "layer", "family", "state", "verdict", "sent", "received", "rtt_us", "findings"],
                "properties": {
                    "src": text,
                    "dst": text,
                    "layer": layer,
                    "family": family,
                    "state": {"enum": ["probed", "proved", "inferred", "stale", "unobserved"]},
                    "verdict": verdict,
                    "sent": count,
                    "received": count,
                    "rtt_us": rtt,
                    "findings": {"description": "Ids of findings.", "type": "array", "items": text}
                }
            }
        }
    })
}
