//! API servers whose first answer, the one that tells who the cluster is, is none or too much.

use std::time::Duration;

use serde_json::json;

use crate::fake::{ESCAPES, Fake, On};
use crate::trial::{Behaviour, Trial};

/// The kube-system namespace is these bytes.
fn system(body: impl Into<Vec<u8>>) -> Trial {
    let body = body.into();
    Trial::of(Fake::new().on(On::System, move |_, _, conn| conn.bytes(200, &body)))
}

/// The cluster's id is this.
fn id(uid: impl Into<String>) -> Trial {
    let uid = uid.into();
    Trial::of(Fake::new().with(|fake| fake.uid = uid))
}

pub(crate) const TABLE: &[Behaviour] = &[
    ("empty id", || id("")),
    ("id of 1 MB", || id("u".repeat(1 << 20))),
    ("id of escapes", || id(ESCAPES)),
    ("id of a path", || id("../../../etc/passwd")),
    ("id of line breaks", || id("a\nb\nn1\n")),
    ("id that is a number", || {
        system(r#"{"metadata":{"uid":7}}"#)
    }),
    ("id that is a list", || {
        system(r#"{"metadata":{"uid":["a"]}}"#)
    }),
    ("another namespace's object", || {
        system(r#"{"metadata":{"name":"default","uid":"x"}}"#)
    }),
    ("a list instead of an object", || system("[1,2,3]")),
    ("null instead of an object", || system("null")),
    ("an empty body", || system("")),
    ("no JSON", || system("<html>log in</html>")),
    ("invalid UTF-8", || {
        system(b"{\"metadata\":{\"uid\":\"\xff\xfe\xc3(\"}}".to_vec())
    }),
    ("half a surrogate pair", || {
        system(r#"{"metadata":{"uid":"\ud800"}}"#)
    }),
    ("a byte order mark and zeros", || {
        system(b"\xef\xbb\xbf{\"metadata\":{\"uid\":\"x\"}}\0\0\0".to_vec())
    }),
    ("JSON two million levels deep", || {
        let (open, close) = ("[".repeat(2_000_000), "]".repeat(2_000_000));
        system(format!(r#"{{"metadata":{{"uid":"x"}},"a":{open}{close}}}"#))
    }),
    ("objects a million levels deep", || {
        system(format!(
            r#"{{"metadata":{{"uid":"x"}},"a":{}1{}}}"#,
            r#"{"a":"#.repeat(1_000_000),
            "}".repeat(1_000_000)
        ))
    }),
    ("the same key twice", || {
        system(r#"{"metadata":{"uid":"a"},"metadata":{"uid":"b"}}"#)
    }),
    ("numbers beyond all types", || {
        system(format!(
            r#"{{"metadata":{{"uid":"a"}},"n":1e999999999,"m":{}}}"#,
            "9".repeat(1_000_000)
        ))
    }),
    ("a million labels", || {
        let labels: Vec<String> = (0..1_000_000).map(|n| format!(r#""l{n}":"v""#)).collect();
        system(format!(
            r#"{{"metadata":{{"uid":"a","labels":{{{}}}}}}}"#,
            labels.join(",")
        ))
    }),
    ("drips for ever", || {
        Trial::of(Fake::new().on(On::System, |_, _, conn| {
            conn.chunked()?;
            conn.chunk(br#"{"metadata":{"uid":"x"}"#)?;
            loop {
                conn.chunk(b" ")?;
                std::thread::sleep(Duration::from_millis(200));
            }
        }))
    }),
    ("spaces without end", || {
        Trial::of(Fake::new().on(On::System, |_, _, conn| {
            conn.chunked()?;
            let block = [b' '; 1 << 20];
            loop {
                conn.chunk(&block)?;
            }
        }))
    }),
    ("a string without end", || {
        Trial::of(Fake::new().on(On::System, |_, _, conn| {
            conn.chunked()?;
            conn.chunk(br#"{"metadata":{"uid":""#)?;
            let block = [b'a'; 1 << 20];
            loop {
                conn.chunk(&block)?;
            }
        }))
    }),
    ("another id each time", || {
        Trial::of(Fake::new().on(On::System, |fake, _, conn| {
            let uid = format!("id-{}", fake.asked().len());
            conn.json(&json!({"metadata": {"name": "kube-system", "uid": uid}}))
        }))
    }),
    ("the healthy cluster's id", || {
        // Whoever claims the id of another neither replaces nor renames it.
        Trial::of(Fake::new()).before(|fake, healthy| {
            let system = healthy.get("/api/v1/namespaces/kube-system");
            fake.uid = system["metadata"]["uid"].as_str().unwrap().to_owned();
        })
    }),
];
