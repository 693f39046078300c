//! The authenticated API over loopback.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use floater::agent::{Config, Silence};
use floater::wire::{
    AUTH_HEADER, AUTH_WINDOW_SECONDS, Event, Expect, Failure, Info, Protocol, proof, sign,
};
use http_body_util::{BodyExt as _, Full};
use hyper::Request;
use tokio::net::TcpStream;

use crate::client::{
    KEY, ask, body, config, floater, loopback, now, plan, probe, request, run, start,
};

#[tokio::test]
async fn it_says_who_it_is_to_those_who_may_know() {
    let floater = floater().await;
    let address = loopback(floater.api_port());
    let response = ask(address, request("GET", "/v1/info", b"")).await;
    assert_eq!(response.status(), 200);
    let info: Info = serde_json::from_slice(&body(response).await).unwrap();
    assert_eq!(
        (info.version, info.cluster.as_str(), info.node.as_str()),
        (1, "uid", "n1")
    );
    let open = ask(address, Request::get("/").body(Full::default()).unwrap()).await;
    assert_eq!(
        (open.status().as_u16(), body(open).await),
        (200, b"OK".to_vec())
    );
}

#[tokio::test]
async fn what_is_not_signed_for_now_and_here_is_refused() {
    let floater = floater().await;
    let address = loopback(floater.api_port());
    let signed = |header: Option<String>, path: &str| {
        let mut request = Request::get(path).body(Full::default()).unwrap();
        if let Some(header) = header {
            request
                .headers_mut()
                .insert(AUTH_HEADER, header.parse().unwrap());
        }
        request
    };
    let old = now() - AUTH_WINDOW_SECONDS - 5;
    for header in [
        None,
        Some("v1".to_owned()),
        Some(sign(
            b"another key, but as long",
            "GET",
            "/v1/tables",
            b"",
            now(),
        )),
        Some(sign(KEY, "POST", "/v1/tables", b"", now())),
        Some(sign(KEY, "GET", "/v1/info", b"", now())),
        Some(sign(KEY, "GET", "/v1/tables", b"x", now())),
        Some(sign(KEY, "GET", "/v1/tables", b"", old)),
    ] {
        let response = ask(address, signed(header.clone(), "/v1/tables")).await;
        assert_eq!(response.status(), 401, "{header:?}");
    }
    // The query is signed along.
    let header = sign(KEY, "GET", "/v1/info?a=b", b"", now());
    assert_eq!(
        ask(address, signed(Some(header.clone()), "/v1/info?a=b"))
            .await
            .status(),
        200
    );
    assert_eq!(
        ask(address, signed(Some(header), "/v1/info?a=c"))
            .await
            .status(),
        401
    );
}

#[tokio::test]
async fn wrong_requests_get_the_right_refusal() {
    let floater = floater().await;
    let address = loopback(floater.api_port());
    assert_eq!(
        ask(address, request("GET", "/v2/info", b"")).await.status(),
        404
    );
    let response = ask(address, request("POST", "/v1/info", b"")).await;
    assert_eq!(response.status(), 405);
    assert_eq!(response.headers()["allow"], "GET");
    for (body_text, field) in [
        (r#"{"version":2}"#, "version"),
        (
            r#"{"version":1,"run":"r","budget_pps":1,"timeout_ms":1,"probes":[{"id":1}]}"#,
            "probes[0].dst",
        ),
        ("nonsense", ""),
    ] {
        let response = ask(address, request("POST", "/v1/probe", body_text.as_bytes())).await;
        assert_eq!(response.status(), 400, "{body_text}");
        let fault: serde_json::Value = serde_json::from_slice(&body(response).await).unwrap();
        assert_eq!(fault["field"], field, "{fault}");
    }
    // Megabytes are read, and judged to the last probe.
    let many = (0..50_000).map(|id| probe(id.min(49_998), Ipv4Addr::LOCALHOST, Protocol::Icmp, 0));
    let many = serde_json::to_vec(&plan(many.collect())).unwrap();
    let response = ask(address, request("POST", "/v1/probe", &many)).await;
    assert_eq!(response.status(), 400);
    let fault: serde_json::Value = serde_json::from_slice(&body(response).await).unwrap();
    assert_eq!(fault["field"], "probes[49999].id");
    let mut long = request("POST", "/v1/probe", b"");
    long.headers_mut()
        .insert("content-length", "99999999999".parse().unwrap());
    // The body that was announced never comes, and is not waited for.
    assert_eq!(ask(address, long).await.status(), 413);
}

#[tokio::test]
async fn connections_are_judged_by_who_answers() {
    let one = floater().await;
    let other = start(config("n2"), std::sync::Arc::new(floater::agent::Here)).await;
    let closed = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let expect = |node: &str| {
        Some(Expect {
            nonce: "0a0b".to_owned(),
            proof: proof(KEY, "0a0b", "uid", node),
        })
    };
    let tcp = |id, dst: IpAddr, port, expect| {
        let mut probe = probe(id, dst, Protocol::Tcp, port);
        probe.expect = expect;
        probe
    };
    let v4 = IpAddr::from(Ipv4Addr::LOCALHOST);
    let mut plan = plan(vec![
        tcp(1, v4, one.port(), expect("n1")),
        tcp(2, v4, other.port(), expect("n1")),
        tcp(3, v4, closed, expect("n1")),
        tcp(4, v4, other.port(), None),
    ]);
    if std::net::TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok() {
        plan.probes
            .push(tcp(5, Ipv6Addr::LOCALHOST.into(), one.port(), expect("n1")));
    }
    let (outcomes, sent) = run(loopback(one.api_port()), &plan).await;
    assert_eq!(sent, 3 * plan.probes.len() as u64);
    let wrong = Failure::WrongIdentity {
        answered: "uid/n2".to_owned(),
    };
    let failures = [None, Some(wrong), Some(Failure::Refused), None, None];
    for (outcome, failure) in outcomes.iter().zip(failures) {
        assert_eq!(outcome.failure, failure, "{outcome:?}");
        assert_eq!(outcome.received, if failure.is_none() { 3 } else { 0 });
        assert_eq!(outcome.rtt.is_some(), failure.is_none());
    }
}

#[tokio::test]
async fn one_plan_at_a_time_and_none_for_nobody() {
    let floater = floater().await;
    let address = loopback(floater.api_port());
    // A thousand connections a second apart from one another would take a quarter of an hour.
    let mut slow = plan(vec![probe(
        1,
        Ipv4Addr::LOCALHOST,
        Protocol::Tcp,
        floater.port(),
    )]);
    slow.budget_pps = 1;
    slow.probes[0].count = 1000;
    slow.probes
        .push(probe(2, Ipv4Addr::LOCALHOST, Protocol::Tcp, floater.port()));
    slow.probes[1].count = 1;
    let slow = serde_json::to_vec(&slow).unwrap();
    let mut first = ask(address, request("POST", "/v1/probe", &slow)).await;
    assert_eq!(first.status(), 200);
    // The first outcome is told while the rest is still to come.
    let line = first
        .body_mut()
        .frame()
        .await
        .unwrap()
        .unwrap()
        .into_data()
        .unwrap();
    let event: Event = serde_json::from_slice(line.trim_ascii_end()).unwrap();
    assert!(
        matches!(event, Event::Outcome(outcome) if outcome.id == 2),
        "streamed as judged"
    );
    assert_eq!(
        ask(address, request("POST", "/v1/probe", &slow))
            .await
            .status(),
        429
    );
    drop(first);
    // Hanging up ends the probing; the place is free as soon as the floater has noticed.
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while ask(address, request("POST", "/v1/probe", &slow))
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
async fn it_falls_silent_at_its_time() {
    let ttl = Some(Duration::from_millis(300));
    let floater = start(
        Config {
            ttl,
            ..config("n1")
        },
        std::sync::Arc::new(floater::agent::Here),
    )
    .await;
    let (port, api_port) = (floater.port(), floater.api_port());
    let mut slow = plan(vec![probe(1, Ipv4Addr::LOCALHOST, Protocol::Tcp, port)]);
    slow.budget_pps = 1;
    slow.probes[0].count = 1000;
    let response = ask(
        loopback(api_port),
        request("POST", "/v1/probe", &serde_json::to_vec(&slow).unwrap()),
    )
    .await;
    assert_eq!(response.status(), 200);
    assert_eq!(floater.stopped().await, Silence::Expired);
    assert!(TcpStream::connect(loopback(port)).await.is_err());
    assert!(TcpStream::connect(loopback(api_port)).await.is_err());
    assert!(
        response.into_body().collect().await.is_err(),
        "the stream is cut, not ended"
    );
}

#[tokio::test]
async fn it_stops_when_told_and_when_dropped() {
    let first = floater().await;
    let port = first.port();
    first.stop();
    assert_eq!(first.stopped().await, Silence::Stopped);
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
    use floater::agent::{Family, Here, Sockets};
    use std::io;

    struct Blind;
    impl Sockets for Blind {
        fn tcp_listener(&self, port: u16) -> io::Result<std::net::TcpListener> {
            Here.tcp_listener(port)
        }
        fn tcp_socket(&self, family: Family) -> io::Result<socket2::Socket> {
            Here.tcp_socket(family)
        }
        fn icmp_socket(&self, family: Family) -> io::Result<socket2::Socket> {
            Here.icmp_socket(family)
        }
        fn tables(&self) -> Result<datapath::state::NodeState, String> {
            Err("no netlink here".to_owned())
        }
    }
    let floater = start(config("n1"), std::sync::Arc::new(Blind)).await;
    let response = ask(
        loopback(floater.api_port()),
        request("GET", "/v1/tables", b""),
    )
    .await;
    assert_eq!(response.status(), 503);
    let said: serde_json::Value = serde_json::from_slice(&body(response).await).unwrap();
    assert_eq!(said["error"], "no netlink here");
}
