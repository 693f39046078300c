//! The columns of the tables that `kubectl get` prints, one list per built-in kind.

use jiff::Timestamp;
use serde_json::{Value, json};

/// A column of a built-in kind's table.
#[derive(Debug)]
pub(crate) struct Column {
    pub(crate) name: &'static str,
    pub(crate) kind: &'static str,
    /// 0 is always shown, 1 by `-o wide`.
    pub(crate) priority: u8,
    pub(crate) cell: fn(&Value, Timestamp) -> Value,
}

const fn text(name: &'static str, cell: fn(&Value, Timestamp) -> Value) -> Column {
    Column {
        name,
        kind: "string",
        priority: 0,
        cell,
    }
}

const fn count(name: &'static str, cell: fn(&Value, Timestamp) -> Value) -> Column {
    Column {
        kind: "integer",
        ..text(name, cell)
    }
}

const fn wide(name: &'static str, cell: fn(&Value, Timestamp) -> Value) -> Column {
    Column {
        priority: 1,
        ..text(name, cell)
    }
}

const NAME: Column = text("Name", |o, _| o["metadata"]["name"].clone());
const AGE: Column = text("Age", |o, now| {
    age(&o["metadata"]["creationTimestamp"], now).into()
});

pub(crate) static CONFIG_MAP: &[Column] = &[
    NAME,
    text("Data", |o, _| {
        (len(&o["data"]) + len(&o["binaryData"])).into()
    }),
    AGE,
];

pub(crate) static SECRET: &[Column] = &[
    NAME,
    text("Type", |o, _| o["type"].clone()),
    text("Data", |o, _| len(&o["data"]).into()),
    AGE,
];

pub(crate) static SERVICE_ACCOUNT: &[Column] =
    &[NAME, text("Secrets", |o, _| len(&o["secrets"]).into()), AGE];

pub(crate) static NAMESPACE: &[Column] = &[
    NAME,
    text("Status", |o, _| o["status"]["phase"].clone()),
    AGE,
];

pub(crate) static NODE: &[Column] = &[
    NAME,
    text("Status", |o, _| {
        let mut status = match condition(o, "Ready") {
            Some("True") => "Ready",
            Some(_) => "NotReady",
            None => "Unknown",
        }
        .to_owned();
        if o["spec"]["unschedulable"] == json!(true) {
            status.push_str(",SchedulingDisabled");
        }
        status.into()
    }),
    text("Roles", |o, _| {
        let roles: Vec<&str> = o["metadata"]["labels"]
            .as_object()
            .into_iter()
            .flatten()
            .filter_map(|(key, value)| {
                key.strip_prefix("node-role.kubernetes.io/").or_else(|| {
                    (key == "kubernetes.io/role")
                        .then(|| value.as_str())
                        .flatten()
                })
            })
            .collect();
        or_none(&roles.join(","))
    }),
    AGE,
    text("Version", |o, _| info(o, "kubeletVersion")),
    wide("Internal-IP", |o, _| address(o, "InternalIP")),
    wide("External-IP", |o, _| address(o, "ExternalIP")),
    wide("OS-Image", |o, _| unknown(info(o, "osImage"))),
    wide("Kernel-Version", |o, _| {
        let kernel = info(o, "kernelVersion");
        match (kernel.as_str(), info(o, "architecture").as_str()) {
            (Some(kernel), Some(arch)) if !arch.is_empty() => format!("{kernel} ({arch})").into(),
            _ => unknown(kernel),
        }
    }),
    wide("Container-Runtime", |o, _| {
        unknown(info(o, "containerRuntimeVersion"))
    }),
];

pub(crate) static POD: &[Column] = &[
    NAME,
    text("Ready", |o, _| {
        let ready = list(&o["status"]["containerStatuses"])
            .filter(|status| status["ready"] == json!(true))
            .count();
        format!("{ready}/{}", len(&o["spec"]["containers"])).into()
    }),
    text("Status", |o, _| pod_status(o).into()),
    text("Restarts", |o, _| {
        let restarts: u64 = list(&o["status"]["containerStatuses"])
            .filter_map(|status| status["restartCount"].as_u64())
            .sum();
        restarts.to_string().into()
    }),
    AGE,
    wide("IP", |o, _| or_none(word(&o["status"]["podIP"]))),
    wide("Node", |o, _| or_none(word(&o["spec"]["nodeName"]))),
    wide("Nominated Node", |o, _| {
        or_none(word(&o["status"]["nominatedNodeName"]))
    }),
    wide("Readiness Gates", |_, _| "<none>".into()),
];

pub(crate) static SERVICE: &[Column] = &[
    NAME,
    text("Type", |o, _| o["spec"]["type"].clone()),
    text("Cluster-IP", |o, _| or_none(word(&o["spec"]["clusterIP"]))),
    text("External-IP", |o, _| {
        let ips: Vec<&str> = list(&o["spec"]["externalIPs"])
            .filter_map(Value::as_str)
            .collect();
        or_none(&ips.join(","))
    }),
    text("Port(s)", |o, _| {
        let ports: Vec<String> = list(&o["spec"]["ports"])
            .map(|port| {
                let node = port["nodePort"]
                    .as_u64()
                    .map(|node| format!(":{node}"))
                    .unwrap_or_default();
                format!("{}{node}/{}", port["port"], word(&port["protocol"]))
            })
            .collect();
        or_none(&ports.join(","))
    }),
    AGE,
    wide("Selector", |o, _| or_none(&pairs(&o["spec"]["selector"]))),
];

pub(crate) static DAEMON_SET: &[Column] = &[
    NAME,
    count("Desired", |o, _| number(o, "desiredNumberScheduled")),
    count("Current", |o, _| number(o, "currentNumberScheduled")),
    count("Ready", |o, _| number(o, "numberReady")),
    count("Up-to-date", |o, _| number(o, "updatedNumberScheduled")),
    count("Available", |o, _| number(o, "numberAvailable")),
    text("Node Selector", |o, _| {
        or_none(&pairs(&o["spec"]["template"]["spec"]["nodeSelector"]))
    }),
    AGE,
    wide("Containers", |o, _| containers(o, "name")),
    wide("Images", |o, _| containers(o, "image")),
    wide("Selector", |o, _| {
        or_none(&pairs(&o["spec"]["selector"]["matchLabels"]))
    }),
];

pub(crate) static DEPLOYMENT: &[Column] = &[
    NAME,
    text("Ready", |o, _| {
        let wanted = o["spec"]["replicas"].as_i64().unwrap_or(1);
        format!("{}/{wanted}", number(o, "readyReplicas")).into()
    }),
    count("Up-to-date", |o, _| number(o, "updatedReplicas")),
    count("Available", |o, _| number(o, "availableReplicas")),
    AGE,
    wide("Containers", |o, _| containers(o, "name")),
    wide("Images", |o, _| containers(o, "image")),
    wide("Selector", |o, _| {
        or_none(&pairs(&o["spec"]["selector"]["matchLabels"]))
    }),
];

pub(crate) static REPLICA_SET: &[Column] = &[
    NAME,
    count("Desired", |o, _| {
        o["spec"]["replicas"].as_i64().unwrap_or(1).into()
    }),
    count("Current", |o, _| number(o, "replicas")),
    count("Ready", |o, _| number(o, "readyReplicas")),
    AGE,
    wide("Containers", |o, _| containers(o, "name")),
    wide("Images", |o, _| containers(o, "image")),
    wide("Selector", |o, _| {
        or_none(&pairs(&o["spec"]["selector"]["matchLabels"]))
    }),
];

pub(crate) static ENDPOINTS: &[Column] = &[
    NAME,
    text("Endpoints", |o, _| {
        let mut all = Vec::new();
        for subset in list(&o["subsets"]) {
            for address in list(&subset["addresses"]) {
                for port in list(&subset["ports"]) {
                    let ip = word(&address["ip"]);
                    let ip = if ip.contains(':') {
                        format!("[{ip}]")
                    } else {
                        ip.to_owned()
                    };
                    all.push(format!("{ip}:{}", port["port"]));
                }
            }
        }
        few(&all)
    }),
    AGE,
];

pub(crate) static ENDPOINT_SLICE: &[Column] = &[
    NAME,
    text("AddressType", |o, _| o["addressType"].clone()),
    text("Ports", |o, _| {
        let ports = list(&o["ports"]).map(|port| port["port"].to_string());
        few(&ports.collect::<Vec<_>>())
    }),
    text("Endpoints", |o, _| {
        let addresses = list(&o["endpoints"])
            .flat_map(|endpoint| list(&endpoint["addresses"]))
            .map(|address| word(address).to_owned());
        few(&addresses.collect::<Vec<_>>())
    }),
    AGE,
];

pub(crate) static PRIORITY_CLASS: &[Column] = &[
    NAME,
    text("Value", |o, _| o["value"].clone()),
    text("Global-Default", |o, _| {
        (o["globalDefault"] == json!(true)).into()
    }),
    AGE,
    text("PreemptionPolicy", |o, _| o["preemptionPolicy"].clone()),
];

pub(crate) static LEASE: &[Column] = &[
    NAME,
    text("Holder", |o, _| o["spec"]["holderIdentity"].clone()),
    AGE,
];

pub(crate) static SERVICE_CIDR: &[Column] = &[
    NAME,
    text("CIDRs", |o, _| {
        let cidrs = o["spec"]["cidrs"].as_array().into_iter().flatten();
        let cidrs: Vec<&str> = cidrs.filter_map(Value::as_str).collect();
        cidrs.join(",").into()
    }),
    AGE,
];

pub(crate) static ROLE: &[Column] = &[
    NAME,
    Column {
        kind: "date",
        ..text("Created At", |o, _| {
            o["metadata"]["creationTimestamp"].clone()
        })
    },
];

pub(crate) static BINDING: &[Column] = &[
    NAME,
    text("Role", |o, _| {
        format!(
            "{}/{}",
            word(&o["roleRef"]["kind"]),
            word(&o["roleRef"]["name"])
        )
        .into()
    }),
    AGE,
    wide("Users", |o, _| subjects(o, "User")),
    wide("Groups", |o, _| subjects(o, "Group")),
    wide("ServiceAccounts", |o, _| subjects(o, "ServiceAccount")),
];

pub(crate) static CRD: &[Column] = &[
    NAME,
    Column {
        kind: "date",
        ..text("Created At", |o, _| {
            o["metadata"]["creationTimestamp"].clone()
        })
    },
];

pub(crate) static EVENT: &[Column] = &[
    text("Last Seen", |o, now| {
        let seen = &o["lastTimestamp"];
        let seen = if seen.is_string() {
            seen
        } else {
            &o["eventTime"]
        };
        let seen = if seen.is_string() {
            seen
        } else {
            &o["metadata"]["creationTimestamp"]
        };
        age(seen, now).into()
    }),
    text("Type", |o, _| o["type"].clone()),
    text("Reason", |o, _| o["reason"].clone()),
    text("Object", |o, _| {
        let object = &o["involvedObject"];
        format!(
            "{}/{}",
            word(&object["kind"]).to_lowercase(),
            word(&object["name"])
        )
        .into()
    }),
    wide("Source", |o, _| o["source"]["component"].clone()),
    text("Message", |o, _| o["message"].clone()),
    wide("Name", |o, _| o["metadata"]["name"].clone()),
];

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn len(value: &Value) -> usize {
    match value {
        Value::Array(items) => items.len(),
        Value::Object(fields) => fields.len(),
        _ => 0,
    }
}

fn word(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn or_none(text: &str) -> Value {
    if text.is_empty() { "<none>" } else { text }.into()
}

/// The first three of a list, and how many there are besides.
fn few(all: &[String]) -> Value {
    match all.len() {
        0 => "<none>".into(),
        1..=3 => all.join(",").into(),
        more => format!("{} + {} more...", all[..3].join(","), more - 3).into(),
    }
}

fn unknown(value: Value) -> Value {
    match value.as_str() {
        Some(text) if !text.is_empty() => value,
        _ => "<unknown>".into(),
    }
}

fn pairs(map: &Value) -> String {
    let mut pairs: Vec<String> = map
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", word(value)))
        .collect();
    pairs.sort();
    pairs.join(",")
}

fn number(object: &Value, field: &str) -> Value {
    object["status"][field].as_i64().unwrap_or(0).into()
}

fn containers(object: &Value, field: &str) -> Value {
    let words: Vec<&str> = list(&object["spec"]["template"]["spec"]["containers"])
        .map(|container| word(&container[field]))
        .collect();
    words.join(",").into()
}

fn subjects(object: &Value, kind: &str) -> Value {
    let names: Vec<String> = list(&object["subjects"])
        .filter(|subject| word(&subject["kind"]) == kind)
        .map(|subject| match subject["namespace"].as_str() {
            Some(namespace) if kind == "ServiceAccount" => {
                format!("{namespace}/{}", word(&subject["name"]))
            }
            _ => word(&subject["name"]).to_owned(),
        })
        .collect();
    names.join(", ").into()
}

fn info(object: &Value, field: &str) -> Value {
    object["status"]["nodeInfo"][field].clone()
}

fn address(object: &Value, kind: &str) -> Value {
    let found = list(&object["status"]["addresses"]).find(|address| word(&address["type"]) == kind);
    or_none(found.map_or("", |address| word(&address["address"])))
}

fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a str> {
    list(&object["status"]["conditions"])
        .find(|condition| word(&condition["type"]) == kind)?["status"]
        .as_str()
}

fn pod_status(object: &Value) -> String {
    if object["metadata"]["deletionTimestamp"].is_string() {
        return "Terminating".to_owned();
    }
    let state = list(&object["status"]["containerStatuses"])
        .map(|status| &status["state"])
        .find_map(|state| {
            state["waiting"]["reason"]
                .as_str()
                .or_else(|| state["terminated"]["reason"].as_str())
        });
    let reason = object["status"]["reason"].as_str();
    state
        .or(reason)
        .or_else(|| object["status"]["phase"].as_str())
        .unwrap_or("Unknown")
        .to_owned()
}

/// How long ago, in the words of kubectl: at most two units, the coarser the longer it is ago.
pub(crate) fn age(time: &Value, now: Timestamp) -> String {
    let Some(then) = time.as_str().and_then(|t| t.parse::<Timestamp>().ok()) else {
        return "<unknown>".to_owned();
    };
    let seconds = (now.as_second() - then.as_second()).max(0);
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    let days = hours / 24;
    let two = |big: i64, unit: &str, small: i64, rest: &str| {
        if small == 0 {
            format!("{big}{unit}")
        } else {
            format!("{big}{unit}{small}{rest}")
        }
    };
    if seconds < 120 {
        format!("{seconds}s")
    } else if minutes < 10 {
        two(minutes, "m", seconds % 60, "s")
    } else if hours < 3 {
        format!("{minutes}m")
    } else if hours < 8 {
        two(hours, "h", minutes % 60, "m")
    } else if hours < 48 {
        format!("{hours}h")
    } else if days < 8 {
        two(days, "d", hours % 24, "h")
    } else if days < 365 * 2 {
        format!("{days}d")
    } else if days < 365 * 8 {
        two(days / 365, "y", days % 365, "d")
    } else {
        format!("{}y", days / 365)
    }
}
