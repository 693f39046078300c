//! What the agent learns of its NodeConfig, from an API server of a few lines on the loopback.
#![cfg(all(feature = "kernel", feature = "kube"))]
#![allow(clippy::expect_used, reason = "a test")]

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use datapath::agent::{Event, events};
use datapath::api::{NodeConfigSpec, Route};
use futures::StreamExt;
use kube::{Client, Config};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

fn object(name: &str, version: u32, spec: Value) -> Value {
    json!({"apiVersion": "kosmos.io/v1alpha1", "kind": "NodeConfig",
        "metadata": {"name": name, "resourceVersion": version.to_string()}, "spec": spec})
}

fn routed(cidr: &str) -> Value {
    json!({"routes": [{"cidr": cidr, "gw": "220.0.0.1", "dev": "vx-bridge"}], "fdbs": null, "unknown": 1})
}

fn list(version: u32, items: Value) -> Value {
    json!({"apiVersion": "kosmos.io/v1alpha1", "kind": "NodeConfigList",
        "metadata": {"resourceVersion": version.to_string()}, "items": items})
}

fn expired() -> Value {
    json!({"type": "ERROR", "object": {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": "too old resource version", "reason": "Expired", "code": 410}})
}

/// Answers the requests of one client in turn: lists from one script, watches from another.
#[derive(Default)]
struct Script {
    lists: Vec<Value>,
    watches: Vec<Vec<Value>>,
    paths: Vec<String>,
    /// When each list was asked for.
    listed: Vec<Instant>,
}

impl Script {
    /// The next answer and whether the connection stays open after it; none where the script has no more.
    fn reply(&mut self, path: String) -> Option<(String, bool)> {
        let is_watch = path.contains("watch=true");
        if !is_watch {
            self.listed.push(Instant::now());
        }
        self.paths.push(path);
        if is_watch && self.watches.is_empty() {
            Some((String::new(), true))
        } else if is_watch {
            let lines = self.watches.remove(0);
            let text = lines.iter().map(|line| format!("{line}\n")).collect();
            Some((text, false))
        } else if self.lists.is_empty() {
            None
        } else {
            Some((self.lists.remove(0).to_string(), false))
        }
    }
}

async fn serve(listener: TcpListener, script: Arc<Mutex<Script>>) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(answer(stream, script.clone()));
    }
}

async fn answer(mut stream: TcpStream, script: Arc<Mutex<Script>>) -> std::io::Result<()> {
    let mut text = Vec::new();
    while !text.ends_with(b"\r\n\r\n") {
        text.push(stream.read_u8().await?);
    }
    let text = String::from_utf8_lossy(&text).into_owned();
    let path = text.split(' ').nth(1).unwrap_or_default().to_owned();
    let reply = script.lock().expect("an unharmed script").reply(path);
    let Some((body, stays_open)) = reply else {
        let status =
            "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        return stream.write_all(status.as_bytes()).await;
    };
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n";
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    stream.flush().await?;
    if stays_open {
        std::future::pending::<()>().await;
    }
    Ok(())
}

fn wanted(cidr: &str) -> Event {
    Event::Wanted(NodeConfigSpec {
        routes: vec![Route {
            cidr: cidr.into(),
            gw: "220.0.0.1".into(),
            dev: "vx-bridge".into(),
        }],
        ..NodeConfigSpec::default()
    })
}

#[tokio::test]
async fn news_gaps_nonsense_and_absence_are_told_apart() {
    let modified =
        |version, spec| json!({"type": "MODIFIED", "object": object("a-n1", version, spec)});
    let script = Arc::new(Mutex::new(Script {
        lists: vec![
            list(1, json!([object("a-n1", 1, routed("10.1.0.0/16"))])),
            list(9, json!([object("a-n1", 9, routed("10.9.0.0/16"))])),
            list(12, json!([])),
        ],
        watches: vec![
            vec![
                modified(2, routed("10.2.0.0/16")),
                // Somebody else's, from a server that ignores the selector.
                json!({"type": "MODIFIED", "object": object("a-n2", 3, routed("10.3.0.0/16"))}),
                modified(4, json!({"routes": 7})),
                modified(5, Value::Null),
                json!({"type": "DELETED", "object": object("a-n1", 6, routed("10.2.0.0/16"))}),
                // The server forgot where this watch was.
                expired(),
            ],
            vec![expired()],
        ],
        ..Script::default()
    }));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("its address");
    tokio::spawn(serve(listener, script.clone()));

    let uri = format!("http://{address}").parse().expect("a URI");
    let client = Client::try_from(Config::new(uri)).expect("a client");
    let mut received = Vec::new();
    let mut stream = std::pin::pin!(events(client, "a-n1"));
    while received.len() < 7 {
        let next = tokio::time::timeout(Duration::from_secs(20), stream.next()).await;
        let news = next.expect("news in time").expect("a stream without end");
        received.push(news.event);
    }
    assert_eq!(received[0], wanted("10.1.0.0/16"));
    assert_eq!(received[1], wanted("10.2.0.0/16"));
    assert!(matches!(&received[2], Event::Unreadable(rule) if rule.contains("invalid type")));
    assert_eq!(received[3], Event::Unreadable("it has no spec".into()));
    assert_eq!(received[4], Event::Withdrawn);
    assert_eq!(received[5], wanted("10.9.0.0/16"));
    assert_eq!(received[6], Event::Withdrawn);
    let script = script.lock().expect("an unharmed script");
    for path in &script.paths {
        assert!(
            path.starts_with("/apis/kosmos.io/v1alpha1/nodeconfigs?"),
            "{path}"
        );
        assert!(
            path.contains("fieldSelector=metadata.name%3Da-n1"),
            "{path}"
        );
    }
}

#[tokio::test]
async fn what_only_the_status_says_is_no_news() {
    let counted = |version: u32, generation: u32, uid: &str, cidr: &str| {
        let mut object = object("a-n1", version, routed(cidr));
        object["metadata"]["generation"] = json!(generation);
        object["metadata"]["uid"] = json!(uid);
        object["status"] = json!({"digest": version.to_string()});
        object
    };
    let modified = |object: Value| json!({"type": "MODIFIED", "object": object});
    let script = Arc::new(Mutex::new(Script {
        lists: vec![
            list(1, json!([counted(1, 1, "u", "10.1.0.0/16")])),
            list(9, json!([counted(9, 2, "u", "10.2.0.0/16")])),
        ],
        watches: vec![
            vec![
                modified(counted(2, 1, "u", "10.1.0.0/16")),
                modified(counted(3, 2, "u", "10.2.0.0/16")),
                modified(counted(4, 2, "u", "10.2.0.0/16")),
                expired(),
            ],
            vec![
                // Deleted and made anew while nobody watched.
                modified(counted(10, 1, "other", "10.2.0.0/16")),
            ],
        ],
        ..Script::default()
    }));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("its address");
    tokio::spawn(serve(listener, script));
    let uri = format!("http://{address}").parse().expect("a URI");
    let client = Client::try_from(Config::new(uri)).expect("a client");
    let mut stream = std::pin::pin!(events(client, "a-n1"));
    let mut received = Vec::new();
    while received.len() < 3 {
        let next = tokio::time::timeout(Duration::from_secs(20), stream.next()).await;
        let news = next.expect("news in time").expect("a stream without end");
        let of = news.of.expect("an object");
        received.push((
            news.event,
            of.uid,
            of.generation,
            news.status["digest"].clone(),
        ));
    }
    let expected = [
        ("10.1.0.0/16", "u", 1, "1"),
        ("10.2.0.0/16", "u", 2, "3"),
        ("10.2.0.0/16", "other", 1, "10"),
    ];
    for (received, (cidr, uid, generation, status)) in received.into_iter().zip(expected) {
        assert_eq!(
            received,
            (wanted(cidr), uid.to_owned(), generation, json!(status))
        );
    }
}

#[tokio::test]
async fn after_410_the_list_comes_at_once_and_never_in_a_hot_loop() {
    const MANY: usize = 1000;
    let routes = |number: u32| routed(&format!("10.{}.0.0/16", number % 250));
    let script = Arc::new(Mutex::new(Script {
        lists: (1..=MANY as u32)
            .map(|number| list(number, json!([object("a-n1", number, routes(number))])))
            .collect(),
        watches: vec![vec![expired()]; MANY],
        ..Script::default()
    }));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("its address");
    tokio::spawn(serve(listener, script.clone()));
    let uri = format!("http://{address}").parse().expect("a URI");
    let client = Client::try_from(Config::new(uri)).expect("a client");
    let mut stream = std::pin::pin!(events(client, "a-n1"));
    let until = tokio::time::Instant::now() + Duration::from_secs(4);
    while let Ok(Some(_)) = tokio::time::timeout_at(until, stream.next()).await {}

    let listed = script.lock().expect("an unharmed script").listed.clone();
    let waits: Vec<Duration> = listed.windows(2).map(|two| two[1] - two[0]).collect();
    let [first, others @ ..] = waits.as_slice() else {
        panic!("listed once only")
    };
    assert!(*first < Duration::from_millis(400), "{waits:?}");
    // A server that forgets every watch at once is asked less and less often.
    assert!((1..6).contains(&others.len()), "{waits:?}");
    for wait in others {
        assert!(*wait >= Duration::from_millis(400), "{waits:?}");
    }
}
