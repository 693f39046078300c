//! The plain responder over loopback.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::client::{floater, loopback};

async fn said(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    // A reset after the answer is as good as an end.
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn ok_comes_back_also_for_a_request_in_pieces() {
    let floater = floater().await;
    let mut stream = TcpStream::connect(loopback(floater.port())).await.unwrap();
    stream.set_nodelay(true).unwrap();
    for piece in ["GET /any", " HTTP/1.1\r\nHost: x\r", "\n\r", "\n"] {
        stream.write_all(piece.as_bytes()).await.unwrap();
        tokio::task::yield_now().await;
    }
    let answer = said(&mut stream).await;
    assert!(
        answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\nOK"),
        "{answer}"
    );
}

#[tokio::test]
async fn slow_and_long_requests_are_ended() {
    let floater = floater().await;
    let mut slow = TcpStream::connect(loopback(floater.port())).await.unwrap();
    slow.write_all(b"GET / HTTP/1.1\r\nHost:").await.unwrap();
    let started = Instant::now();
    let answer = said(&mut slow).await;
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert!(started.elapsed() < Duration::from_secs(6));
    let mut long = TcpStream::connect(loopback(floater.port())).await.unwrap();
    long.write_all(format!("GET / HTTP/1.1\r\nX: {}", "x".repeat(9000)).as_bytes())
        .await
        .unwrap();
    assert!(said(&mut long).await.starts_with("HTTP/1.1 431 "));
}

#[tokio::test]
async fn many_silent_connections_leave_room_for_others() {
    let floater = floater().await;
    let mut silent = Vec::new();
    for _ in 0..300 {
        silent.push(TcpStream::connect(loopback(floater.port())).await.unwrap());
    }
    let mut stream = TcpStream::connect(loopback(floater.port())).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    assert!(said(&mut stream).await.ends_with("OK"));
}

/// Whoever probes it takes its silence for the network's, so it waits for no other work of the process.
#[tokio::test]
async fn it_answers_while_everything_else_is_kept_from_running() {
    use std::io::{Read as _, Write as _};

    let floater = floater().await;
    let address = loopback(floater.port());
    let asked = std::thread::spawn(move || {
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    });
    // This thread is the one of the API, of its TLS and of the probes.
    let began = Instant::now();
    while !asked.is_finished() && began.elapsed() < Duration::from_secs(10) {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(asked.is_finished(), "it waits for the rest of the floater");
    assert!(asked.join().unwrap().ends_with("OK"));
}
