//! The authenticated API over loopback.

use std::convert::Infallible;
use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use datapath::digest::{Differences, Digest, Digester, Key, Scope};
use datapath::state::{NodeState, Row};
use floater::agent::{Config, Family, Here, Layer, Sockets};
use floater::wire::{
    AUTH_WINDOW_MS, Audience, CAPABILITIES, Event, Expectation, Info, MAX_BODY, MAX_PLANS,
    Protocol, Tables, sign,
};
use futures::StreamExt as _;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Frame;
use hyper::{Request, Response, body::Incoming};
use tokio::net::TcpStream;

use crate::client::{
    KEY, ask, audience, body, config, floater, loopback, nonce, nonce_of, now, plan, probe,
    request, signed, start, with_header,
};

/// A network in which one can listen and from which nothing can be sent.
struct Nowhere;

impl Sockets for Nowhere {
    fn tcp_listener(&self, port: u16) -> io::Result<TcpListener> {
        Here.tcp_listener(port)
    }
    fn tcp_socket(&self, _: Family) -> io::Result<socket2::Socket> {
        Err(io::ErrorKind::Unsupported.into())
    }
    fn icmp_socket(&self, _: Family) -> io::Result<socket2::Socket> {
        Err(io::ErrorKind::Unsupported.into())
    }
    fn tables(&self) -> Result<NodeState, String> {
        Err("no netlink here".to_owned())
    }
}

/// The body of a plan that would take a quarter of an hour, and whose second probe is judged soon.
fn slow_plan() -> Vec<u8> {
    let target = [192, 0, 2, 1];
    let mut slow = plan(vec![
        probe(1, target, Protocol::Icmp, 0),
        probe(2, target, Protocol::Icmp, 0),
    ]);
    slow.budget_pps = 1;
    slow.probes[0].count = 800;
    slow.probes[1].count = 1;
    serde_json::to_vec(&slow).unwrap()
}

#[tokio::test]
async fn it_says_who_it_is_to_those_who_may_know() {
    let floater = floater().await;
    let address = loopback(floater.api_port());
    let request = request("GET", "/v2/info", b"");
    let nonce = nonce_of(&request);
    let response = ask(address, request).await;
    assert_eq!(response.status(), 200);
    let info: Info = serde_json::from_slice(&signed(nonce, response).await).unwrap();
    assert_eq!(
        (info.version, info.cluster.as_str(), info.node.as_str()),
        (2, "uid", "n1")
    );
    assert_eq!((info.port, info.layer), (floater.port(), Layer::Pod));
    assert_eq!(info.capabilities, CAPABILITIES);
    assert!(info.health.accept_queue_overflows.is_some(), "{info:?}");
    let open = ask(
        address,
        Request::get("/").body(Full::<Bytes>::default()).unwrap(),
    )
    .await;
    assert_eq!(
        (open.status().as_u16(), body(open).await),
        (200, b"OK".to_vec())
    );
}

async fn refusal(response: Response<Incoming>) -> (u16, String, bool) {
    let status = response.status().as_u16();
    let body = body(response).await;
    let mut lines = body.split(|byte| *byte == b'\n');
    let said: serde_json::Value = serde_json::from_slice(lines.next().unwrap()).unwrap();
    let is_signed = lines.next().is_some();
    let refusal = said["refusal"].as_str().unwrap_or_default().to_owned();
    (status, refusal, is_signed)
}

#[tokio::test]
async fn what_is_not_signed_for_now_and_here_is_refused() {
    let floater = floater().await;
    let address = loopback(floater.api_port());
    let other = |cluster: &str, node: &str, layer| Audience {
        cluster: cluster.to_owned(),
        node: node.to_owned(),
        layer,
    };
    let header = |key: &[u8], audience: &Audience, method: &str, path: &str, time| {
        sign(key, audience, method, path, b"", time, nonce())
    };
    let good = |path: &str| header(KEY, &audience(), "GET", path, now());
    let tables = "/v2/tables";
    let strangers = [
        header(
            b"another key, but as long",
            &audience(),
            "GET",
            tables,
            now(),
        ),
        header(KEY, &audience(), "POST", tables, now()),
        good("/v2/info"),
        header(KEY, &other("uie", "n1", Layer::Pod), "GET", tables, now()),
        header(KEY, &other("uid", "n2", Layer::Pod), "GET", tables, now()),
        header(KEY, &other("uid", "n1", Layer::Host), "GET", tables, now()),
    ];
    for header in strangers {
        let response = ask(address, with_header("GET", tables, &header, b"")).await;
        let expected = (401, "signature".to_owned(), false);
        assert_eq!(refusal(response).await, expected, "{header}");
    }
    let unsigned = Request::get(tables).body(Full::<Bytes>::default()).unwrap();
    let response = ask(address, unsigned).await;
    assert_eq!(refusal(response).await, (401, "missing".to_owned(), false));
    for (path, header) in [
        ("/v1/info", good("/v1/info")),
        (tables, "v1 5 00".to_owned()),
    ] {
        let response = ask(address, with_header("GET", path, &header, b"")).await;
        assert_eq!(refusal(response).await, (400, "version".to_owned(), false));
    }
    // The query is signed along.
    for (path, status) in [("/v2/info?a=b", 200), ("/v2/info?a=c", 401)] {
        let header = good("/v2/info?a=b");
        let response = ask(address, with_header("GET", path, &header, b"")).await;
        assert_eq!(response.status(), status);
    }
}

/// A clock that is off is told ours, in a signed answer, so that only we can set it.
#[tokio::test]
async fn a_request_of_another_time_is_told_the_time() {
    let floater = floater().await;
    let address = loopback(floater.api_port());
    let began = now();
    for time in [
        began - AUTH_WINDOW_MS - 5000,
        began + AUTH_WINDOW_MS + 5000,
        // Before it started: whatever it has forgotten cannot come again.
        began - 2000,
    ] {
        let header = sign(KEY, &audience(), "GET", "/v2/info", b"", time, nonce());
        let request = with_header("GET", "/v2/info", &header, b"");
        let nonce = nonce_of(&request);
        let response = ask(address, request).await;
        assert_eq!(response.status(), 401);
        let said: serde_json::Value =
            serde_json::from_slice(&signed(nonce, response).await).unwrap();
        assert_eq!(said["refusal"], "clock");
        let told = said["now_ms"].as_u64().unwrap();
        assert!((began..=now()).contains(&told), "{told}");
    }
}

#[tokio::test]
async fn a_request_is_obeyed_once() {
    let floater = floater().await;
    let address = loopback(floater.api_port());
    let header = sign(KEY, &audience(), "GET", "/v2/info", b"", now(), nonce());
    let same = || with_header("GET", "/v2/info", &header, b"");
    assert_eq!(ask(address, same()).await.status(), 200);
    for _ in 0..2 {
        let response = ask(address, same()).await;
        assert_eq!(refusal(response).await, (401, "replayed".to_owned(), true));
    }
}

/// A body of which nothing ever comes.
fn idle(length: u64, header: &str) -> Request<StreamBody<Idle>> {
    Request::post("/v2/probe")
        .header("content-length", length)
        .header(floater::wire::AUTH_HEADER, header)
        .body(StreamBody::new(futures::stream::pending()))
        .unwrap()
}

type Idle = futures::stream::Pending<Result<Frame<Bytes>, Infallible>>;

#[tokio::test]
async fn the_header_is_judged_before_a_byte_of_the_body() {
    let floater = floater().await;
    let address = loopback(floater.api_port());
    let strange = sign(
        b"another key, but as long",
        &audience(),
        "POST",
        "/v2/probe",
        b"x",
        now(),
        nonce(),
    );
    let refused = ask(address, idle(1, &strange));
    let response = tokio::time::timeout(Duration::from_secs(2), refused)
        .await
        .expect("at once");
    assert_eq!(response.status(), 401);
    // Signed, and longer than a body may be, or not as long as was signed.
    let long = vec![b'x'; usize::try_from(MAX_BODY).unwrap() + 1];
    for (content, length, status) in [
        (&long[..], MAX_BODY + 1, 413),
        (b"x", 2, 400),
        (b"x", 99_999_999_999, 400),
    ] {
        let header = sign(
            KEY,
            &audience(),
            "POST",
            "/v2/probe",
            content,
            now(),
            nonce(),
        );
        let refused = ask(address, idle(length, &header));
        let response = tokio::time::timeout(Duration::from_secs(2), refused)
            .await
            .expect("at once");
        assert_eq!(response.status(), status);
    }
}

#[tokio::test]
async fn the_body_is_the_one_that_was_signed() {
    let floater = floater().await;
    let address = loopback(floater.api_port());
    let plan = slow_plan();
    let header = || sign(KEY, &audience(), "POST", "/v2/probe", &plan, now(), nonce());
    let mut other = plan.clone();
    let at = other.len() - 3;
    other[at] ^= 1;
    let response = ask(address, with_header("POST", "/v2/probe", &header(), &other)).await;
    assert_eq!(response.status(), 400);
    // In chunks, which announce no length: more than was signed.
    let chunks: Vec<Result<Frame<Bytes>, Infallible>> = vec![
        Ok(Frame::data(plan.clone().into())),
        Ok(Frame::data(Bytes::from_static(b" "))),
    ];
    let request = Request::post("/v2/probe")
        .header(floater::wire::AUTH_HEADER, header())
        .body(StreamBody::new(futures::stream::iter(chunks)))
        .unwrap();
    assert_eq!(ask(address, request).await.status(), 400);
    let response = ask(address, with_header("POST", "/v2/probe", &header(), &plan)).await;
    assert_eq!(response.status(), 200);
}

/// Neither two hundred clients that say nothing nor four that do not send what they have signed silence it.
#[tokio::test]
async fn idle_clients_leave_room_for_others() {
    let floater = floater().await;
    let address = loopback(floater.api_port());
    let mut silent = Vec::new();
    for _ in 0..200 {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    let mut bodies = Vec::new();
    for _ in 0..4 {
        let header = sign(KEY, &audience(), "POST", "/v2/probe", b"x", now(), nonce());
        bodies.push(tokio::spawn(ask(address, idle(1, &header))));
    }
    let started = Instant::now();
    for _ in 0..5 {
        let response = ask(address, request("GET", "/v2/info", b"")).await;
        assert_eq!(response.status(), 200);
    }
    assert!(
        started.elapsed() < Duration::from_secs(4),
        "{:?}",
        started.elapsed()
    );
    for body in bodies {
        assert_eq!(
            body.await.unwrap().status(),
            408,
            "an idle body is not waited for"
        );
    }
    let response = ask(address, request("POST", "/v2/probe", &slow_plan())).await;
    assert_eq!(response.status(), 200);
}

#[tokio::test]
async fn wrong_requests_get_the_right_refusal() {
    let floater = floater().await;
    let address = loopback(floater.api_port());
    assert_eq!(
        ask(address, request("GET", "/v3/info", b"")).await.status(),
        404
    );
    let response = ask(address, request("POST", "/v2/info", b"")).await;
    assert_eq!(response.status(), 405);
    assert_eq!(response.headers()["allow"], "GET");
    for (body_text, field) in [
        (r#"{"version":1}"#, "version"),
        (
            r#"{"version":2,"run":"r","budget_pps":1,"timeout_ms":1,"probes":[{"id":1}]}"#,
            "probes[0].dst",
        ),
        ("nonsense", ""),
    ] {
        let request = request("POST", "/v2/probe", body_text.as_bytes());
        let nonce = nonce_of(&request);
        let response = ask(address, request).await;
        assert_eq!(response.status(), 400, "{body_text}");
        let fault: serde_json::Value =
            serde_json::from_slice(&signed(nonce, response).await).unwrap();
        assert_eq!(fault["field"], field, "{fault}");
    }
    // Megabytes are read, and judged to the last probe.
    let many = (0..20_000).map(|id| probe(id.min(19_998), [192, 0, 2, 1], Protocol::Icmp, 0));
    let many = serde_json::to_vec(&plan(many.collect())).unwrap();
    let request = request("POST", "/v2/probe", &many);
    let nonce = nonce_of(&request);
    let response = ask(address, request).await;
    assert_eq!(response.status(), 400);
    let fault: serde_json::Value = serde_json::from_slice(&signed(nonce, response).await).unwrap();
    assert_eq!(fault["field"], "probes[19999].id");
}

#[tokio::test]
async fn plans_run_side_by_side_and_none_for_nobody() {
    let floater = start(config("n1"), Arc::new(Nowhere)).await;
    let address = loopback(floater.api_port());
    let slow = slow_plan();
    let mut running = Vec::new();
    for _ in 0..MAX_PLANS {
        let response = ask(address, request("POST", "/v2/probe", &slow)).await;
        assert_eq!(response.status(), 200);
        running.push(response.into_body());
    }
    let full = ask(address, request("POST", "/v2/probe", &slow)).await;
    assert_eq!(full.status(), 429);
    // The second probe of each is told while the rest is still to come.
    for body in &mut running {
        let mut said = Vec::new();
        while !said.windows(6).any(|word| word == b"\"id\":2") {
            let frame = body.frame().await.expect("more").expect("data");
            said.extend(frame.into_data().expect("data"));
        }
        let first = said.split(|byte| *byte == b'\n').next().expect("a line");
        let event: Event = serde_json::from_slice(first).expect("an event");
        assert!(!matches!(event, Event::Done { .. }), "{event:?}");
    }
    // Hanging up ends the probing; the place is free as soon as the floater has noticed.
    running.pop();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while ask(address, request("POST", "/v2/probe", &slow))
        .await
        .status()
        != 200
    {
        assert!(
            tokio::time::Instant::now() < deadline,
            "the plan outlives its reader"
        );
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_plan_says_something_all_the_time() {
    let floater = start(config("n1"), Arc::new(Nowhere)).await;
    let request = request("POST", "/v2/probe", &slow_plan());
    let response = ask(loopback(floater.api_port()), request).await;
    let mut parts = response.into_body().into_data_stream();
    for _ in 0..3 {
        let part = tokio::time::timeout(Duration::from_secs(5), parts.next());
        part.await
            .expect("a sign of life")
            .expect("more")
            .expect("data");
    }
}

#[tokio::test]
async fn it_falls_silent_at_its_time_and_stays() {
    let expires = Some(SystemTime::now() + Duration::from_millis(700));
    let floater = start(
        Config {
            expires,
            ..config("n1")
        },
        Arc::new(Nowhere),
    )
    .await;
    let (port, api_port) = (floater.port(), floater.api_port());
    let response = ask(
        loopback(api_port),
        request("POST", "/v2/probe", &slow_plan()),
    )
    .await;
    assert_eq!(response.status(), 200);
    floater.expired().await;
    assert!(floater.is_over() && Some(SystemTime::now()) >= expires);
    assert!(
        response.into_body().collect().await.is_err(),
        "the stream is cut, not ended"
    );
    let again = start(
        Config {
            port,
            api_port,
            expires,
            ..config("n1")
        },
        Arc::new(Nowhere),
    )
    .await;
    for floater in [floater, again] {
        assert!(floater.is_over());
        assert!(TcpStream::connect(loopback(port)).await.is_err());
        assert!(TcpStream::connect(loopback(api_port)).await.is_err());
        floater.stop();
        floater.stopped().await;
    }
}

#[tokio::test]
async fn it_stops_when_told_and_when_dropped() {
    let first = floater().await;
    let port = first.port();
    first.stop();
    first.stopped().await;
    assert!(TcpStream::connect(loopback(port)).await.is_err());
    let second = floater().await;
    let port = second.port();
    drop(second);
    tokio::time::timeout(Duration::from_secs(5), async {
        while TcpStream::connect(loopback(port)).await.is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("it lets go of its port");
}

#[tokio::test]
async fn tables_that_cannot_be_read_are_not_empty_tables() {
    let floater = start(config("n1"), Arc::new(Nowhere)).await;
    let request = request("GET", "/v2/tables", b"");
    let nonce = nonce_of(&request);
    let response = ask(loopback(floater.api_port()), request).await;
    assert_eq!(response.status(), 503);
    let said: serde_json::Value = serde_json::from_slice(&signed(nonce, response).await).unwrap();
    assert_eq!(said["error"], "no netlink here");
}

#[tokio::test]
async fn what_differs_from_an_expectation_is_all_that_is_sent() {
    let floater = floater().await;
    let address = loopback(floater.api_port());
    let tables = async |body: &[u8]| {
        let request = request("POST", "/v2/tables", body);
        let nonce = nonce_of(&request);
        let response = ask(address, request).await;
        (response.status().as_u16(), signed(nonce, response).await)
    };
    let key = Key([3; 16]);
    let digester = Digester::new(key, Scope::Tables, 4);
    let expect = async |digest: Digest| {
        let body = serde_json::to_vec(&Expectation { key, digest }).unwrap();
        let (status, said) = tables(&body).await;
        assert_eq!(status, 200);
        serde_json::from_slice::<Tables>(&said).unwrap()
    };
    // Nothing of the datapath's is where this test runs, and so much is expected.
    let nothing = expect(digester.empty()).await;
    assert_eq!(
        nothing.differences,
        Some(Differences {
            bits: 4,
            ..Differences::default()
        })
    );
    assert!(
        nothing.state.links.get("lo").is_some(),
        "what is local is told"
    );
    let mut digest = digester.empty();
    let route: Row = serde_json::from_value(serde_json::json!({"row": "route", "is": {
        "table": 200, "dst": "10.21.0.0/16", "metric": 0, "kind": "unicast", "protocol": 4, "src": null, "mtu": null,
        "hops": [{"via": "220.0.0.1", "link": "vx-bridge", "onlink": true, "weight": 1, "dead": false}],
    }}))
    .unwrap();
    digester.add(&mut digest, &route);
    let lacks = expect(digest).await.differences.expect("it was asked for");
    let bucket = digester.bucket(&route).expect("it counts");
    assert_eq!(
        lacks.buckets.into_iter().collect::<Vec<_>>(),
        [(bucket, Vec::new())]
    );
    let (status, said) = tables(br#"{"key": [], "digest": null}"#).await;
    assert_eq!(status, 400, "{}", String::from_utf8_lossy(&said));
}
