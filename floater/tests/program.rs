//! The program `floater` from the outside.

#![allow(clippy::unwrap_used)]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Child, Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const KEY: &str = "5ec2e75ec2e75ec2e75ec2e75ec2e75e";

fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_floater"));
    command.env_clear();
    command
}

/// Ports that were free a moment ago.
fn ports() -> [u16; 2] {
    let held = [(); 2].map(|()| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
    held.map(|listener| listener.local_addr().unwrap().port())
}

fn serve(ports: [u16; 2]) -> Command {
    let mut command = program();
    command
        .arg("serve")
        .env("FLOATER_CLUSTER_ID", "uid")
        .env("FLOATER_NODE", "n1")
        .env("FLOATER_LAYER", "pod")
        .env("FLOATER_RUN", "run")
        .env("FLOATER_RUN_KEY", KEY)
        .env("FLOATER_BIND", "127.0.0.1")
        .env("PORT", ports[0].to_string())
        .env("FLOATER_API_PORT", ports[1].to_string())
        .stderr(Stdio::piped());
    command
}

/// Waits for its first line, which says that it listens; returns the rest of what it will say.
fn listening(child: &mut Child) -> BufReader<std::process::ChildStderr> {
    let mut said = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    said.read_line(&mut line).unwrap();
    assert!(line.contains("listening"), "{line}");
    said
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn it_serves_until_it_is_told_to_end() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let ports = ports();
        let mut child = serve(ports).spawn().unwrap();
        let mut rest = listening(&mut child);
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, ports[0])).unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.ends_with("OK"), "{answer}");
        // A connection that says nothing does not hold it up.
        let _silent = TcpStream::connect((Ipv4Addr::LOCALHOST, ports[0])).unwrap();
        kill(Pid::from_raw(child.id().try_into().unwrap()), signal).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(0));
        let mut words = String::new();
        rest.read_to_string(&mut words).unwrap();
        assert!(words.contains("stopped") && !words.contains(KEY), "{words}");
        assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, ports[0])).is_err());
    }
}

/// So many seconds from now, as a run writes it.
fn in_seconds(seconds: i64) -> String {
    let at = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(seconds);
    at.to_string()
}

#[test]
fn past_its_time_it_is_silent_and_does_not_end() {
    // Its time is over before it starts, as when a DaemonSet restarts it, or while it serves.
    for seconds in [-5, 1] {
        let ports = ports();
        let mut child = serve(ports)
            .env("FLOATER_EXPIRES", in_seconds(seconds))
            .spawn()
            .unwrap();
        let mut rest = if seconds > 0 {
            listening(&mut child)
        } else {
            BufReader::new(child.stderr.take().unwrap())
        };
        let mut line = String::new();
        rest.read_line(&mut line).unwrap();
        assert!(line.contains("its time is over"), "{line}");
        for port in ports {
            assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err());
        }
        assert_eq!(child.try_wait().unwrap(), None, "it would be restarted");
        kill(
            Pid::from_raw(child.id().try_into().unwrap()),
            Signal::SIGTERM,
        )
        .unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(0));
    }
}

#[test]
fn what_is_wrong_is_named() {
    let output = serve(ports()).env_remove("FLOATER_NODE").output().unwrap();
    assert_eq!(output.status.code(), Some(65));
    assert_eq!(
        said(&output),
        "floater: FLOATER_NODE: is missing or empty\n"
    );
    let output = serve(ports())
        .env("FLOATER_RUN_KEY", "5ec2e7")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(65));
    assert!(said(&output).contains("FLOATER_RUN_KEY") && !said(&output).contains("5ec2e7"));
    let output = serve(ports())
        .env("FLOATER_EXPIRE", in_seconds(60))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(65));
    assert!(
        said(&output).contains("FLOATER_EXPIRE: "),
        "{}",
        said(&output)
    );
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = taken.local_addr().unwrap().port();
    let output = serve([port, ports()[0]]).output().unwrap();
    assert_eq!(output.status.code(), Some(69));
    assert!(
        said(&output).contains(&format!("TCP port {port}"))
            && said(&output).contains(&format!("(process {})", std::process::id())),
        "{}",
        said(&output)
    );
    for usage in [
        &["serve", "x"][..],
        &["ping"],
        &["ping", "nowhere"],
        &["fly"],
        &[],
    ] {
        assert_eq!(
            program().args(usage).output().unwrap().status.code(),
            Some(64),
            "{usage:?}"
        );
    }
    assert_eq!(
        program().arg("--help").output().unwrap().status.code(),
        Some(0)
    );
}

#[test]
fn tables_are_json() {
    let output = program().arg("tables").output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    let state: datapath::state::NodeState = serde_json::from_slice(&output.stdout).unwrap();
    assert!(state.links.get("lo").is_some());
}
