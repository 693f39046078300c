//! Clusters without floaters, in which the run's own are created, watched, removed and swept - or not.

use std::time::Duration;

use serde_json::{Value, json};
use tests::server::{Conn, Request};

use crate::fake::{ESCAPES, Fake, NAMESPACE, On, event, list, node, pod};
use crate::trial::{Behaviour, Seen, Trial};

/// A cluster in which the run's own floaters are to be created; it waits a few seconds for them.
fn bare(change: impl FnOnce(Fake) -> Fake) -> Trial {
    Trial::of(change(Fake::new().bare())).arguments(&["-w", "3"])
}

/// Every creation is refused with this status and message.
fn refuses(status: u16, message: &'static str) -> Trial {
    bare(|fake| fake.on(On::Create, move |_, _, conn| conn.status(status, message)))
}

/// Its collections hold these objects, whatever kind is asked for.
fn holds(objects: Vec<Value>) -> Trial {
    Trial::of(Fake::new().on(On::Collection, move |_, _, conn| list(conn, &objects)))
}

/// What a run seems to have left, expired then.
fn left(name: &str, expires: &str) -> Value {
    json!({"metadata": {
        "name": name, "namespace": NAMESPACE, "uid": "1",
        "labels": {"app.kubernetes.io/managed-by": "floaterctl", "floater.kosmos.io/run": "r1"},
        "annotations": {"floater.kosmos.io/expires": expires},
    }})
}

const PAST: &str = "2001-01-01T00:00:00Z";

/// Its floaters' pods are bound and do not start.
fn starting(fake: &mut Fake) {
    for pod in &mut fake.pods {
        pod["status"] = json!({"phase": "Pending", "containerStatuses": [{"name": "floater", "ready": false,
            "state": {"waiting": {"reason": "ContainerCreating"}}}]});
    }
}

/// Why the cluster is not wholly observed has to hold this.
fn says(seen: &Seen<'_>, word: &str) -> Result<(), String> {
    let reason = seen.reason("evil0");
    match reason.contains(word) || seen.stderr.contains(word) {
        true => Ok(()),
        false => Err(format!("no `{word}` in `{reason}`")),
    }
}

/// Whether the run tried to remove an object by a path that leads elsewhere.
fn keeps_to_paths(trial: Trial) -> Trial {
    trial.check(|seen| {
        let asked = seen.fakes[0].asked();
        let mut paths = asked.iter().filter(|line| line.starts_with("DELETE "));
        match paths.find(|line| line.contains("..") || line.contains('?') && line.contains("x=1")) {
            Some(line) => Err(format!("it was asked to {line}")),
            None => Ok(()),
        }
    })
}

pub(crate) const TABLE: &[Behaviour] = &[
    ("a watch that never says anything", || {
        bare(|fake| {
            fake.on(On::Watch, |_, _, conn| {
                conn.chunked()?;
                conn.idle()
            })
            .with(|fake| fake.pods.clear())
        })
    }),
    ("a watch that never even begins", || {
        bare(|fake| {
            fake.on(On::Watch, |_, _, conn| conn.idle())
                .with(|fake| fake.pods.clear())
        })
    }),
    ("a flood of changes", || {
        bare(|fake| {
            fake.on(On::Watch, |fake, _, conn| {
                conn.chunked()?;
                loop {
                    for _ in 0..1000 {
                        let mut one = fake.pods[0].clone();
                        one["status"]["conditions"] = json!([]);
                        one["status"]["phase"] = json!("Pending");
                        event(conn, "MODIFIED", &one)?;
                    }
                }
            })
            .on(On::Pods, |_, _, conn| list(conn, &[]))
        })
    }),
    ("ever more pods", || {
        bare(|fake| {
            fake.on(On::Watch, |_, _, conn| {
                conn.chunked()?;
                for number in 0_u64.. {
                    event(
                        conn,
                        "ADDED",
                        &pod(&format!("p{number}"), "pod", "other", "10.250.0.9"),
                    )?;
                }
                Ok(())
            })
            .on(On::Pods, |_, _, conn| list(conn, &[]))
        })
    }),
    ("bookmarks without end", || {
        bare(|fake| {
            fake.on(On::Watch, |_, _, conn| {
                conn.chunked()?;
                let line = b"{\"type\":\"BOOKMARK\",\"object\":{\"metadata\":{\"resourceVersion\":\"9\"}}}\n".repeat(1000);
                loop {
                    conn.chunk(&line)?;
                }
            })
            .on(On::Pods, |_, _, conn| list(conn, &[]))
        })
    }),
    ("one change without end", || {
        bare(|fake| {
            fake.on(On::Watch, |_, _, conn| {
                conn.chunked()?;
                conn.chunk(b"{\"type\":\"ADDED\",\"object\":{\"x\":\"")?;
                let block = [b'a'; 1 << 20];
                loop {
                    conn.chunk(&block)?;
                }
            })
            .on(On::Pods, |_, _, conn| list(conn, &[]))
        })
    }),
    ("expired at once, over and over", || {
        bare(|fake| {
            fake.on(On::Watch, |_, _, conn| {
                conn.chunked()?;
                event(
                    conn,
                    "ERROR",
                    &json!({"kind": "Status", "code": 410, "message": "too old"}),
                )?;
                conn.end()
            })
            .on(On::Pods, |_, _, conn| list(conn, &[]))
        })
    }),
    ("a watch refused with 410 for ever", || {
        bare(|fake| {
            fake.on(On::Watch, |_, _, conn| conn.status(410, "too old"))
                .on(On::Pods, |_, _, conn| list(conn, &[]))
        })
    }),
    ("changes in the wrong order", || {
        bare(|fake| {
            fake.on(On::Watch, |fake, _, conn| {
                conn.chunked()?;
                for pod in &fake.pods {
                    event(conn, "DELETED", pod)?;
                    event(conn, "MODIFIED", pod)?;
                    event(conn, "ADDED", pod)?;
                    event(conn, "DELETED", pod)?;
                }
                conn.idle()
            })
            .on(On::Pods, |_, _, conn| list(conn, &[]))
        })
    }),
    ("changes of no known kind", || {
        bare(|fake| {
            fake.on(On::Watch, |_, _, conn| {
                conn.chunked()?;
                loop {
                    conn.chunk(b"{\"type\":\"EXPLODED\",\"object\":{}}\n[]\n\n7\n")?;
                    std::thread::sleep(Duration::from_millis(50));
                }
            })
            .on(On::Pods, |_, _, conn| list(conn, &[]))
        })
    }),
    ("watches that close at once", || {
        bare(|fake| {
            fake.on(On::Watch, |_, _, conn| {
                conn.chunked()?;
                conn.end()
            })
            .on(On::Pods, |_, _, conn| list(conn, &[]))
        })
    }),
    ("creation refused in escapes", || refuses(403, ESCAPES)),
    ("creation refused at length", || {
        bare(|fake| {
            fake.on(On::Create, |_, _, conn| {
                conn.status(422, &"no ".repeat(2_000_000))
            })
        })
    }),
    ("creation conflicts for ever", || {
        refuses(409, "already there")
    }),
    ("creation throttled for ever", || refuses(429, "slow down")),
    ("creation fails within", || {
        refuses(500, "etcd has no leader")
    }),
    ("creation never answered", || {
        bare(|fake| fake.on(On::Create, |_, _, conn| conn.idle()))
    }),
    ("creation accepted, nothing appears", || {
        bare(|fake| fake.with(|fake| fake.pods.clear()))
    }),
    ("creation answered with another object", || {
        bare(|fake| {
            fake.on(On::Create, |_, _, conn| {
                conn.bytes(
                    201,
                    json!({"kind": "Secret", "metadata": {"name": ESCAPES}})
                        .to_string()
                        .as_bytes(),
                )
            })
            .with(|fake| fake.pods.clear())
        })
    }),
    ("creation answered with 100 MB", || {
        bare(|fake| {
            fake.on(On::Create, |_, _, conn| {
                conn.chunked()?;
                let block = [b' '; 1 << 20];
                for _ in 0..100 {
                    conn.chunk(&block)?;
                }
                conn.end()
            })
        })
    }),
    ("events of escapes", || {
        bare(|fake| {
            fake.on(On::Events, |_, _, conn| {
                list(conn, &[json!({"metadata": {"name": "e"}, "type": "Warning", "reason": format!("Failed{ESCAPES}"),
                    "message": ESCAPES, "involvedObject": {"kind": "DaemonSet", "name": format!("floater{ESCAPES}")}})])
            })
            .with(|fake| fake.pods.clear())
        })
    }),
    ("events without end", || {
        bare(|fake| {
            fake.on(On::Events, |fake, _, conn| {
                let next = format!("e{}", fake.asked().len());
                conn.json(&json!({"metadata": {"continue": next}, "items": []}))
            })
            .with(|fake| fake.pods.clear())
        })
    }),
    ("events of a pod that does not start", || {
        bare(|fake| {
            fake.on(On::Events, |_, _, conn| {
                let event = |name: &str, at: &str, message: &str| json!({"metadata": {"name": at}, "type": "Warning", "reason": "FailedMount",
                    "message": message, "lastTimestamp": at, "involvedObject": {"kind": "Pod", "name": name}});
                list(conn, &[
                    event("fh", "2001-01-01T00:00:02Z", "secret \"of-the-run\" not found"),
                    event("fh", "2001-01-01T00:00:01Z", "an older word"),
                    event("other", "2001-01-01T00:00:03Z", "another pod's word"),
                ])
            })
            .with(starting)
        })
        .check(|seen| says(seen, "FailedMount: secret \"of-the-run\" not found"))
    }),
    ("events that may not be read", || {
        bare(|fake| {
            fake.on(On::Events, |_, _, conn| conn.status(403, "no"))
                .with(starting)
        })
        .check(
            |seen| match seen.stderr.matches("grant `list` on events").count() {
                1 => Ok(()),
                count => Err(format!("it was said {count} times: {}", seen.stderr)),
            },
        )
    }),
    ("a namespace in termination for ever", || {
        bare(|fake| {
            fake.on(On::Namespace, |_, request, conn| {
                if request.path.ends_with(NAMESPACE) {
                    return conn.json(&json!({"metadata": {"name": NAMESPACE, "uid": "ns-uid", "deletionTimestamp": PAST}}));
                }
                conn.status(404, "not here")
            })
        })
        .check(|seen| match seen.stderr.contains("this run uses namespace kosmos-system-") {
            true => Ok(()),
            false => Err(format!("no word of it: {}", seen.stderr)),
        })
    }),
    ("namespaces that all end at once", || {
        bare(|fake| {
            fake.on(On::Create, |_, request, conn| {
                if request.path.ends_with("/namespaces") {
                    return conn.bytes(201, b"{}");
                }
                let body = json!({"kind": "Status", "code": 403, "message": "is being terminated",
                    "details": {"causes": [{"reason": "NamespaceTerminating"}]}});
                conn.bytes(403, body.to_string().as_bytes())
            })
        })
        .check(|seen| says(seen, "is removed again and again"))
    }),
    ("a node that is gone, its pods as they were", || {
        let silent = |fake: &Fake, what: On, request: &Request, conn: &mut Conn| {
            if request.path.contains("gone") {
                return conn.idle();
            }
            fake.plainly(what, request, conn)
        };
        let fake = Fake::new()
            .on(On::Info, move |fake, request, conn| {
                silent(fake, On::Info, request, conn)
            })
            .on(On::Tables, move |fake, request, conn| {
                silent(fake, On::Tables, request, conn)
            })
            .with(|fake| {
                let mut gone = node("n2", "100.64.200.3");
                gone["status"]["conditions"][0]["status"] = json!("Unknown");
                fake.nodes.push(gone);
                for (layer, ip) in [("host", "100.64.200.3"), ("pod", "10.250.0.3")] {
                    let mut left = pod(&format!("{layer}-gone"), layer, "n2", ip);
                    left["status"]["conditions"][0]["status"] = json!("False");
                    fake.pods.push(left);
                }
            });
        Trial::of(fake).check(|seen| says(seen, "n2: the node is not ready ("))
    }),
    ("creation throttled for an hour", || {
        bare(|fake| {
            fake.on(On::Create, |_, _, conn| {
                conn.head(429, &["Retry-After: 3600", "Content-Length: 2"])?;
                conn.raw(b"{}")
            })
        })
    }),
    ("creation throttled for no time, for ever", || {
        bare(|fake| {
            fake.on(On::Create, |_, _, conn| {
                conn.head(429, &["Retry-After: 0", "Content-Length: 2"])?;
                conn.raw(b"{}")
            })
        })
        .check(|seen| match seen.fakes[0].created() {
            0..=40 => Ok(()),
            many => Err(format!("it was asked {many} times")),
        })
    }),
    ("warnings of escapes, ever others", || {
        bare(|fake| {
            fake.on(On::Pods, |fake, _, conn| {
                let warnings: Vec<String> = (0..40)
                    .map(|number| {
                        let number = number + fake.asked().len();
                        format!(
                            "Warning: 299 - \"\u{9b}31m\u{202e}owned {number} \\\"{}\\\"\"",
                            "x".repeat(900)
                        )
                    })
                    .collect();
                let body =
                    json!({"metadata": {"resourceVersion": "1"}, "items": fake.pods}).to_string();
                let length = format!("Content-Length: {}", body.len());
                let mut headers: Vec<&str> = warnings.iter().map(String::as_str).collect();
                headers.extend(["Content-Type: application/json", &length]);
                conn.head(200, &headers)?;
                conn.raw(body.as_bytes())
            })
        })
        .check(
            |seen| match seen.stderr.matches("its API server warns").count() {
                10 => Ok(()),
                count => Err(format!("{count} warnings are told")),
            },
        )
    }),
    ("removal never answered", || {
        bare(|fake| fake.on(On::Delete, |_, _, conn| conn.idle()))
    }),
    ("removal conflicts for ever", || {
        bare(|fake| fake.on(On::Delete, |_, _, conn| conn.status(409, "conflict")))
    }),
    ("removal refused in escapes", || {
        bare(|fake| fake.on(On::Delete, |_, _, conn| conn.status(403, ESCAPES)))
    }),
    ("removal throttled for ever", || {
        bare(|fake| fake.on(On::Delete, |_, _, conn| conn.status(429, "slow down")))
    }),
    ("removed, and never gone", || {
        // Pods that nobody can end are still listed after everything has been removed.
        bare(|fake| {
            fake.on(On::Delete, |_, _, conn| {
                conn.json(&json!({"status": "Success"}))
            })
        })
    }),
    ("pods that are going for ever", || {
        bare(|fake| {
            fake.with(|fake| {
                for pod in &mut fake.pods {
                    pod["metadata"]["deletionTimestamp"] = json!(PAST);
                }
            })
        })
    }),
    ("leftovers of escapes", || {
        holds(vec![
            left(&format!("old{ESCAPES}"), PAST),
            left("new", ESCAPES),
        ])
    }),
    ("leftovers whose names are paths", || {
        keeps_to_paths(holds(vec![
            left("../../nodes/n1", PAST),
            left("a?x=1", PAST),
            left("a/../b", PAST),
        ]))
    }),
    ("leftovers that expire at no time", || {
        holds(
            [
                "",
                "never",
                "9999999999999999999",
                "-1",
                "2001-99-99T99:99:99Z",
                "+300000-01-01T00:00:00Z",
            ]
            .iter()
            .map(|expires| left("old", expires))
            .collect(),
        )
    }),
    ("leftovers of other programs", || {
        let mut other = left("other", PAST);
        other["metadata"]["labels"] = json!({"app.kubernetes.io/managed-by": "somebody"});
        holds(vec![other]).check(|seen| {
            let asked = seen.fakes[0].asked();
            let removed = asked.iter().find(|line| line.starts_with("DELETE "));
            removed.map_or(Ok(()), |line| Err(format!("it was asked to {line}")))
        })
    }),
    ("100,000 leftovers", || {
        holds(
            (0..100_000)
                .map(|number| left(&format!("old{number}"), PAST))
                .collect(),
        )
    }),
    ("leftovers without end", || {
        Trial::of(Fake::new().on(On::Collection, |fake, _, conn| {
            let next = format!("c{}", fake.asked().len());
            conn.json(&json!({"metadata": {"continue": next}, "items": [left("old", PAST)]}))
        }))
    }),
    ("leftovers that nobody can remove", || {
        let objects: Vec<Value> = (0..50)
            .map(|number| left(&format!("old{number}"), PAST))
            .collect();
        Trial::of(
            Fake::new()
                .on(On::Collection, move |_, _, conn| list(conn, &objects))
                .on(On::Delete, |_, _, conn| conn.idle()),
        )
    }),
    ("a sweep that is never answered", || {
        Trial::of(Fake::new().on(On::Collection, |_, _, conn| conn.idle()))
    }),
    ("a Secret that is no key", || {
        Trial::of(Fake::new().on(On::Secret, |_, _, conn| {
            conn.json(&json!({"data": {"key": "!!! not base64", "other": 7}}))
        }))
    }),
    ("a Secret of 50 MB", || {
        Trial::of(Fake::new().on(On::Secret, |_, _, conn| {
            conn.json(&json!({"data": {"key": "QUFB".repeat(12 << 20)}}))
        }))
    }),
    ("a Secret of an empty key", || {
        Trial::of(Fake::new().on(On::Secret, |_, _, conn| {
            conn.json(&json!({"data": {"key": ""}}))
        }))
    }),
];
