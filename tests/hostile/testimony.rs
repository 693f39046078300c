//! Floaters that lie, flood, stall and imitate.

use std::io;
use std::time::Duration;

use serde_json::{Value, json};
use tests::server::{Conn, Request};

use crate::fake::{ESCAPES, Fake, On, node, pod};
use crate::floaters::{
    KEY, Speech, answer, audience, done, info, no_rows, nonce, passed, probes, signed, stream,
    tables,
};
use crate::trial::{Behaviour, Trial};

/// What its floaters say of themselves is changed so.
fn says(change: fn(&mut Value)) -> Trial {
    Trial::of(
        Fake::new()
            .on(On::Tables, |_, _, conn| conn.status(500, "not today"))
            .on(On::Info, move |fake, request, conn| {
                let mut value = info(fake, request);
                change(&mut value);
                answer(fake, request, conn, &value)
            }),
    )
}

/// The tables of its node are changed so.
fn reads(change: fn(&mut Value)) -> Trial {
    Trial::of(Fake::new().on(On::Tables, move |fake, request, conn| {
        let mut value = tables(fake, request, &no_rows());
        change(&mut value);
        answer(fake, request, conn, &value)
    }))
}

/// The lines that answer a plan, one by one, from the outcomes in order.
fn tells(change: fn(Vec<Value>) -> Vec<Value>) -> Trial {
    Trial::of(Fake::new().on(On::Probe, move |fake, request, conn| {
        let probes = probes(request);
        let mut lines: Vec<Value> = probes.iter().map(passed).collect();
        lines.push(done(probes.len()));
        stream(fake, request, conn, &change(lines))
    }))
}

/// Every outcome is changed so.
fn each(change: fn(&mut Value)) -> Trial {
    Trial::of(Fake::new().on(On::Probe, move |fake, request, conn| {
        let probes = probes(request);
        let mut lines: Vec<Value> = probes.iter().map(passed).collect();
        lines.iter_mut().for_each(change);
        lines.push(done(probes.len()));
        stream(fake, request, conn, &lines)
    }))
}

/// Every probe has failed, for this reason.
fn failed(failure: impl Fn() -> Value + Send + Sync + 'static) -> Trial {
    Trial::of(Fake::new().on(On::Probe, move |fake, request, conn| {
        let probes = probes(request);
        let mut lines: Vec<Value> = probes
            .iter()
            .map(|probe| {
                json!({"event": "outcome", "id": probe["id"], "sent": probe["count"], "received": 0, "failure": failure()})
            })
            .collect();
        lines.push(done(probes.len()));
        stream(fake, request, conn, &lines)
    }))
}

/// Its node and pod claim these addresses.
fn claims(host: &'static str, inside: &'static str) -> Trial {
    Trial::of(Fake::new().with(|fake| {
        fake.nodes = vec![node("n1", host)];
        fake.pods = vec![
            pod("fh", "host", "n1", host),
            pod("fp", "pod", "n1", inside),
        ];
    }))
}

/// Info and tables are answered so.
fn both<F>(say: F) -> Fake
where
    F: Fn(&Fake, &Request, &mut Conn, &Value) -> io::Result<()> + Copy + Send + Sync + 'static,
{
    Fake::new()
        .on(On::Tables, move |fake, request, conn| {
            say(fake, request, conn, &tables(fake, request, &no_rows()))
        })
        .on(On::Info, move |fake, request, conn| {
            say(fake, request, conn, &info(fake, request))
        })
}

/// Nothing that its floaters say is believed.
fn unbelieved(fake: Fake) -> Trial {
    Trial::of(fake).check(|seen| match seen.state("evil0").as_str() {
        "unobserved" => Ok(()),
        state => Err(format!("its floaters are believed: it is {state}")),
    })
}

pub(crate) const TABLE: &[Behaviour] = &[
    ("info of another version", || {
        says(|info| info["version"] = json!(99))
    }),
    ("info of no version", || {
        says(|info| info["version"] = json!("one"))
    }),
    ("info of another cluster", || {
        says(|info| info["cluster"] = json!("somebody-else"))
    }),
    ("info of another node", || {
        says(|info| info["node"] = json!("n2"))
    }),
    ("info of another layer", || {
        says(|info| info["layer"] = json!("service"))
    }),
    ("info of escapes", || {
        says(|info| {
            info["cluster"] = json!(format!("C{ESCAPES}"));
            info["node"] = json!(format!("N{ESCAPES}"));
            info["program"] = json!(ESCAPES);
        })
    }),
    ("info of 50 MB", || {
        says(|info| info["program"] = json!("p".repeat(50 << 20)))
    }),
    ("info with a million capabilities", || {
        says(|info| info["capabilities"] = json!(vec!["c"; 1_000_000]))
    }),
    ("info never answered", || {
        Trial::of(
            Fake::new()
                .on(On::Info, |_, _, conn| conn.idle())
                .on(On::Tables, |_, _, conn| conn.idle()),
        )
    }),
    ("tables of another version", || {
        reads(|tables| tables["version"] = json!(99))
    }),
    ("tables of another node", || {
        reads(|tables| tables["node"] = json!("n2"))
    }),
    ("tables of no shape", || {
        reads(|tables| tables["state"] = json!([1, "two", null]))
    }),
    ("tables with escapes in what is missing", || {
        reads(|tables| tables["missing"] = json!([format!("nat{ESCAPES}"), ESCAPES]))
    }),
    ("tables that miss a million things", || {
        reads(|tables| tables["missing"] = json!(vec!["nat: not read"; 1_000_000]))
    }),
    ("tables that miss one thing of 70,000 letters", || {
        reads(|tables| tables["missing"] = json!(["w".repeat(70_000)]))
    }),
    ("rows of escapes", || {
        reads(|tables| {
            tables["state"]["links"] = json!([{"name": format!("eth0{ESCAPES}"), "index": 1,
                "mac": "02:00:00:00:00:01", "mtu": 1500, "up": false, "carrier": false,
                "kind": {"kind": "veth", "peer_index": 2}, "master": null, "tx_dropped": 0, "rx_dropped": 0}]);
        })
    }),
    ("a million routes", || {
        Trial::of(Fake::new().on(On::Tables, |fake, request, conn| {
            let route = r#"{"prefix":"10.0.0.0/24","table":254,"dev":"eth0","via":null,"protocol":2,"metric":0}"#;
            let text = tables(fake, request, &no_rows()).to_string();
            let (before, after) = text.split_once(r#""routes":["#).unwrap();
            conn.chunked()?;
            conn.chunk(format!(r#"{before}"routes":[{route}"#).as_bytes())?;
            let block = format!(",{route}").repeat(10_000);
            for _ in 0..100 {
                conn.chunk(block.as_bytes())?;
            }
            conn.chunk(after.as_bytes())?;
            conn.end()
        }))
    }),
    ("numbers beyond their fields", || {
        reads(|tables| {
            tables["state"]["links"] = json!([{"name": "eth0", "index": 18_446_744_073_709_551_615_u64, "mac": "zz",
                "mtu": -1, "up": 1, "carrier": null, "kind": {"kind": "?"}}]);
        })
    }),
    ("tables that drip", || {
        Trial::of(Fake::new().on(On::Tables, |_, _, conn| {
            conn.chunked()?;
            loop {
                conn.chunk(b" ")?;
                std::thread::sleep(Duration::from_millis(200));
            }
        }))
    }),
    ("tables without end", || {
        Trial::of(Fake::new().on(On::Tables, |_, _, conn| {
            conn.chunked()?;
            let block = [b'['; 1 << 20];
            loop {
                conn.chunk(&block)?;
            }
        }))
    }),
    ("outcomes of probes that nobody asked for", || {
        tells(|mut lines| {
            for id in 1_000_000..1_001_000 {
                lines.insert(0, passed(&json!({"id": id, "count": 3})));
            }
            lines
        })
    }),
    ("outcomes of the greatest ids", || {
        tells(|mut lines| {
            lines.insert(0, passed(&json!({"id": u32::MAX, "count": u16::MAX})));
            lines.insert(0, passed(&json!({"id": u64::MAX, "count": 1})));
            lines.insert(0, passed(&json!({"id": -1, "count": 1})));
            lines
        })
    }),
    ("every outcome a thousand times", || {
        tells(|lines| {
            let last = lines.last().cloned();
            lines
                .into_iter()
                .flat_map(|line| vec![line; 1000])
                .chain(last)
                .collect()
        })
    }),
    ("outcomes that contradict each other", || {
        tells(|mut lines| {
            let done = lines.pop();
            let denied: Vec<Value> = lines
                .iter()
                .map(|line| {
                    json!({"event": "outcome", "id": line["id"], "sent": 3, "received": 0, "failure": {"why": "timeout"}})
                })
                .collect();
            lines.into_iter().chain(denied).chain(done).collect()
        })
    }),
    ("more received than sent", || {
        each(|outcome| outcome["received"] = json!(4_294_967_295_u32))
    }),
    ("nothing sent", || {
        each(|outcome| {
            outcome["sent"] = json!(0);
            outcome["received"] = json!(0);
        })
    }),
    ("counts below nothing", || {
        each(|outcome| outcome["received"] = json!(-3))
    }),
    ("round trips of ages", || {
        each(|outcome| outcome["rtt"] = json!({"samples": [u32::MAX, u32::MAX]}))
    }),
    ("round trips that are no numbers", || {
        each(|outcome| outcome["rtt"] = json!({"samples": ["NaN", 1e308, -1, null]}))
    }),
    ("round trips of both forms", || {
        each(|outcome| {
            outcome["rtt"] =
                json!({"samples": [1], "buckets": {"min_us": 1, "max_us": 1, "counts": [[1, 1]]}})
        })
    }),
    ("a million round trips", || {
        each(|outcome| outcome["rtt"] = json!({"samples": vec![1; 1_000_000]}))
    }),
    ("buckets of more than there can be", || {
        each(
            |outcome| outcome["rtt"] = json!({"buckets": {"min_us": 1, "max_us": 2, "counts": [[1, u32::MAX], [2, u32::MAX]]}}),
        )
    }),
    ("a million buckets", || {
        each(|outcome| {
            let counts: Vec<(u32, u32)> = (1..1_000_000).map(|value| (value, 1)).collect();
            outcome["rtt"] = json!({"buckets": {"min_us": 1, "max_us": 999_999, "counts": counts}});
        })
    }),
    ("event lines without end", || {
        Trial::of(Fake::new().on(On::Probe, |fake, request, conn| {
            let mut speech = Speech::begin(fake, request, conn)?;
            let probes = probes(request);
            let line = passed(&probes.first().cloned().unwrap_or_default()).to_string();
            loop {
                for _ in 0..1000 {
                    speech.say(conn, &line)?;
                }
                speech.sign(conn)?;
            }
        }))
    }),
    ("signs of life without end", || {
        Trial::of(Fake::new().on(On::Probe, |fake, request, conn| {
            let mut speech = Speech::begin(fake, request, conn)?;
            loop {
                speech.sign(conn)?;
                std::thread::sleep(Duration::from_millis(200));
            }
        }))
    }),
    ("a stream that nobody signed", || {
        Trial::of(Fake::new().on(On::Probe, |_, request, conn| {
            conn.chunked()?;
            for probe in probes(request) {
                conn.chunk(format!("{}\n", passed(&probe)).as_bytes())?;
            }
            conn.chunk(format!("{}\n", done(1)).as_bytes())?;
            conn.end()
        }))
    }),
    ("lines added to a signed stream", || {
        Trial::of(Fake::new().on(On::Probe, |fake, request, conn| {
            let mut speech = Speech::begin(fake, request, conn)?;
            for probe in probes(request) {
                let line = passed(&probe).to_string();
                speech.say(conn, &line)?;
                // This one the signature does not cover.
                conn.chunk(format!("{line}\n").as_bytes())?;
            }
            speech.say(conn, &done(1).to_string())?;
            speech.sign(conn)?;
            conn.end()
        }))
    }),
    ("answers that nobody signed", || {
        unbelieved(
            Fake::new()
                .on(On::Tables, |fake, request, conn| {
                    conn.json(&tables(fake, request, &no_rows()))
                })
                .on(On::Info, |fake, request, conn| {
                    conn.json(&info(fake, request))
                }),
        )
    }),
    ("answers signed with another key", || {
        unbelieved(both(|fake, request, conn, value| {
            signed(
                conn,
                &[9; 32],
                &audience(fake, request),
                &nonce(request),
                value,
            )
        }))
    }),
    ("answers signed for another node", || {
        unbelieved(both(|fake, request, conn, value| {
            let mut other = audience(fake, request);
            other.node = "n2".to_owned();
            signed(conn, &KEY, &other, &nonce(request), value)
        }))
    }),
    ("answers signed for another cluster", || {
        unbelieved(both(|fake, request, conn, value| {
            let mut other = audience(fake, request);
            other.cluster = "another".to_owned();
            signed(conn, &KEY, &other, &nonce(request), value)
        }))
    }),
    ("answers to another request", || {
        // What was recorded once is answered for ever.
        unbelieved(both(|fake, request, conn, value| {
            signed(conn, &KEY, &audience(fake, request), &[1; 16], value)
        }))
    }),
    ("a signature of 1 MB", || {
        unbelieved(both(|_, _, conn, value| {
            let signature = json!({"event": "signed", "signature": "0".repeat(1 << 20)});
            let text = format!("{value}\n{signature}\n");
            let length = format!("Content-Length: {}", text.len());
            conn.head(200, &[&length])?;
            conn.raw(text.as_bytes())
        }))
    }),
    ("empty lines without end", || {
        Trial::of(Fake::new().on(On::Probe, |_, _, conn| {
            conn.chunked()?;
            let block = [b'\n'; 1 << 16];
            loop {
                conn.chunk(&block)?;
            }
        }))
    }),
    ("one line without end", || {
        Trial::of(Fake::new().on(On::Probe, |_, _, conn| {
            conn.chunked()?;
            let block = [b'{'; 1 << 20];
            loop {
                conn.chunk(&block)?;
            }
        }))
    }),
    ("done without an outcome", || {
        tells(|lines| lines.into_iter().rev().take(1).collect())
    }),
    ("done before the outcomes", || {
        tells(|mut lines| {
            lines.rotate_right(1);
            lines
        })
    }),
    ("never done", || {
        Trial::of(Fake::new().on(On::Probe, |fake, request, conn| {
            let mut speech = Speech::begin(fake, request, conn)?;
            for probe in probes(request) {
                speech.say(conn, &passed(&probe).to_string())?;
            }
            speech.sign(conn)?;
            conn.idle()
        }))
    }),
    ("breaks off in the middle", || {
        Trial::of(Fake::new().on(On::Probe, |fake, request, conn| {
            let mut speech = Speech::begin(fake, request, conn)?;
            for probe in probes(request).iter().take(1) {
                speech.say(conn, &passed(probe).to_string())?;
                speech.sign(conn)?;
            }
            Err(crate::fake::closed())
        }))
    }),
    ("a plan refused for ever", || {
        Trial::of(Fake::new().on(On::Probe, |_, _, conn| {
            conn.status(429, "another plan is under way")
        }))
    }),
    ("a plan refused in escapes", || {
        Trial::of(Fake::new().on(On::Probe, |_, _, conn| {
            conn.typed(400, "text/plain", ESCAPES.as_bytes())
        }))
    }),
    ("events that are no events", || {
        tells(|lines| {
            let odd = [
                json!([]),
                json!(7),
                json!({"event": "exploded"}),
                json!({"event": "outcome"}),
                json!(null),
            ];
            odd.into_iter().chain(lines).collect()
        })
    }),
    ("failures of escapes", || {
        failed(|| json!({"why": "local", "error": format!("E{ESCAPES}")}))
    }),
    ("failures of 1 MB", || {
        failed(|| json!({"why": "local", "error": "e".repeat(1 << 20)}))
    }),
    ("somebody else of escapes has answered", || {
        failed(|| json!({"why": "wrong-identity", "answered": ESCAPES.repeat(1000)}))
    }),
    ("the healthy cluster has answered for everybody", || {
        failed(|| json!({"why": "wrong-identity", "answered": "c1/n1"}))
    }),
    ("every probe to the healthy cluster refused", || {
        failed(|| json!({"why": "refused"}))
    }),
    ("errors from the healthy nodes", || {
        failed(|| json!({"why": "icmp-error", "from": "100.64.0.2", "kind": 3, "code": 13}))
    }),
    ("addresses of loopback", || claims("127.0.0.1", "127.0.0.2")),
    ("addresses of no host", || {
        claims("0.0.0.0", "255.255.255.255")
    }),
    ("multicast addresses", || {
        claims("224.0.0.1", "239.255.255.250")
    }),
    ("link-local addresses", || {
        claims("169.254.169.254", "169.254.1.1")
    }),
    ("IPv6 addresses of loopback and link", || {
        claims("::1", "fe80::1")
    }),
    ("IPv4 loopback within IPv6", || {
        claims("::ffff:127.0.0.1", "::ffff:169.254.169.254")
    }),
    ("addresses of the healthy cluster", || {
        Trial::of(Fake::new()).before(|fake, healthy| {
            let address = |kind: &str| {
                let items = healthy.items(&format!("/api/v1/namespaces/kosmos-system/pods?labelSelector=floater.kosmos.io/layer%3D{kind}"));
                items[0]["status"]["podIP"].as_str().unwrap().to_owned()
            };
            let (host, inside) = (address("host"), address("pod"));
            fake.nodes = vec![node("n1", &host)];
            fake.pods = vec![pod("fh", "host", "n1", &host), pod("fp", "pod", "n1", &inside)];
        })
    }),
    ("a pod outside of its node's prefix", || {
        claims("100.64.200.2", "203.0.113.7")
    }),
];
