//! The JSON Schema of the report.

use serde_json::{Value, json};

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
        "$id": "floater.report/v1",
        "title": "The report of a run of floaterctl",
        "description": "Equal input and seed give equal bytes, run id and times apart. Readers ignore fields that they do not know.",
        "type": "object",
        "required": ["schema", "run", "clusters", "coverage", "cells", "findings", "verdict", "unjudged"],
        "properties": {
            "schema": {"const": "floater.report/v1"},
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
                "description": "One entry per source, destination, layer and family, in that order; a cluster's inside has src = dst. \
                                Empty where cells_packed is present.",
                "type": "array",
                "items": {"$ref": "#/$defs/cell"}
            },
            "cells_packed": {
                "description": "In place of cells above 300 clusters. A row is a text with one letter per destination, rows and letters \
                                in the order of clusters: p passes, probed; v passes, proved; i passes, inferred; s passes, stale; \
                                u unobserved; . no such cell; * see in_full. Counts and times of cells written as a letter are left out.",
                "type": "object",
                "required": ["planes", "in_full"],
                "properties": {
                    "planes": {
                        "type": "array",
                        "items": {
                            "type": "object",
                            "required": ["layer", "family", "rows"],
                            "properties": {
                                "layer": layer,
                                "family": family,
                                "rows": {"type": "array", "items": {"type": "string", "pattern": "^[pvisu.*]*$"}}
                            }
                        }
                    },
                    "in_full": {"type": "array", "items": {"$ref": "#/$defs/cell"}}
                }
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
                                "kind": {"enum": ["address", "cluster", "clusternode", "fdb", "link", "nat", "neighbour", "node",
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
