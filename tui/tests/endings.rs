//! How the program ends when somebody ends it, and what it says when nobody can read it.

#![allow(clippy::unwrap_used)]

use std::fs::{self, OpenOptions};
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const PATIENCE: Duration = Duration::from_secs(30);

fn floaterctl(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_floaterctl"));
    command
        .args(arguments)
        .env_clear()
        .env("HOME", "/nonexistent");
    command
}

/// An API server that takes connections and never answers.
struct Silent {
    _folder: tempfile::TempDir,
    kubeconfig: PathBuf,
    connections: Receiver<TcpStream>,
}

impl Silent {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let folder = tempfile::tempdir().unwrap();
        let kubeconfig = folder.path().join("kubeconfig");
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: east\n\
             clusters: [{{name: east, cluster: {{server: 'https://127.0.0.1:{port}', insecure-skip-tls-verify: true}}}}]\n\
             users: [{{name: admin, user: {{token: t}}}}]\n\
             contexts: [{{name: east, context: {{cluster: east, user: admin}}}}]\n"
        );
        fs::write(&kubeconfig, text).unwrap();
        let (sender, connections) = channel();
        std::thread::spawn(move || {
            listener
                .incoming()
                .try_for_each(|stream| sender.send(stream.ok()?).ok())
        });
        Self {
            _folder: folder,
            kubeconfig,
            connections,
        }
    }

    /// A run that is under way: it has asked the API server, which lets it wait as long as the stream lives.
    fn asked_by(&self, command: &mut Command) -> (Child, TcpStream) {
        let child = command.stderr(Stdio::piped()).spawn().unwrap();
        (child, self.connections.recv_timeout(PATIENCE).unwrap())
    }

    fn dr(&self) -> Command {
        floaterctl(&["dr", "--kubeconfig", self.kubeconfig.to_str().unwrap()])
    }
}

fn send(child: &Child, signal: Signal) {
    kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), signal).unwrap();
}

fn ended(mut child: Child) -> (ExitStatus, String) {
    let deadline = Instant::now() + PATIENCE;
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        assert!(Instant::now() < deadline, "it does not end");
        std::thread::yield_now();
    };
    let mut said = String::new();
    if let Some(mut stderr) = child.stderr.take() {
        stderr.read_to_string(&mut said).unwrap();
    }
    (status, said)
}

#[test]
fn every_signal_of_a_person_or_system_is_an_interruption() {
    let server = Silent::start();
    for signal in [Signal::SIGHUP, Signal::SIGINT, Signal::SIGTERM] {
        let (child, _waits) = server.asked_by(&mut server.dr());
        send(&child, signal);
        let (status, said) = ended(child);
        assert_eq!(status.code(), Some(130), "{signal}: {said}");
        assert!(said.contains("interrupted; everything that"), "{said}");
    }
}

/// As behind `command &` in a script, and behind `nohup`.
#[test]
fn signals_that_were_inherited_as_ignored_are_heard() {
    let server = Silent::start();
    for signal in [Signal::SIGHUP, Signal::SIGINT, Signal::SIGTERM] {
        let mut shell = Command::new("/bin/sh");
        shell
            .args(["-c", "trap '' HUP INT TERM; exec \"$@\"", "sh"])
            .arg(env!("CARGO_BIN_EXE_floaterctl"))
            .args(["dr", "--kubeconfig", server.kubeconfig.to_str().unwrap()])
            .env_clear();
        let (child, _waits) = server.asked_by(&mut shell);
        send(&child, signal);
        let (status, said) = ended(child);
        assert_eq!(status.code(), Some(130), "{signal}: {said}");
    }
}

/// Before the program's first instruction the system's default ends it; from then on it is an interruption.
#[test]
fn a_signal_at_any_early_moment_ends_it() {
    let server = Silent::start();
    for step in 0..12 {
        let child = server.dr().stderr(Stdio::piped()).spawn().unwrap();
        let until = Instant::now() + Duration::from_micros(400 * step);
        while Instant::now() < until {
            std::hint::spin_loop();
        }
        send(&child, Signal::SIGTERM);
        let (status, said) = ended(child);
        let by_default = status.signal() == Some(Signal::SIGTERM as i32);
        assert!(
            status.code() == Some(130) || by_default && said.is_empty(),
            "{status:?}: {said}"
        );
    }
}

#[test]
#[ignore = "netns: needs vxlan, nft"]
fn a_reader_of_stderr_that_is_gone_is_a_closed_terminal() {
    let place = tempfile::tempdir().unwrap();
    let mut child = floaterctl(&["demo", "-v"])
        .env("XDG_RUNTIME_DIR", place.path())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(lines.next().unwrap().unwrap().contains("building"));
    drop(lines);
    let (status, _) = ended(child);
    assert_eq!(status.code(), Some(130));
    let labs = fs::read_dir(place.path().join("floater")).map_or(0, Iterator::count);
    assert_eq!(labs, 0, "a lab is left");
}

#[test]
#[ignore = "netns: needs vxlan, nft"]
fn a_second_signal_ends_it_at_once_and_says_what_may_stay() {
    let place = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| {
        let mut command = floaterctl(arguments);
        command.env("XDG_RUNTIME_DIR", place.path());
        command
    };
    let mut child = run(&["demo", "-v", "--clusters", "8"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut wait_for = |part: &str| {
        lines
            .find(|line| line.as_ref().unwrap().contains(part))
            .unwrap()
            .unwrap()
    };
    wait_for("building");
    send(&child, Signal::SIGTERM);
    wait_for("interrupted: removing");
    send(&child, Signal::SIGINT);
    let said = wait_for("interrupted again: the fleet demo-");
    assert!(said.contains("floaterctl sim down --name demo-"), "{said}");
    assert_eq!(ended(child).0.code(), Some(130));
    assert!(run(&["sim", "down", "--all"]).status().unwrap().success());
}

fn full() -> Stdio {
    OpenOptions::new()
        .write(true)
        .open("/dev/full")
        .unwrap()
        .into()
}

fn output(command: &mut Command) -> Output {
    command.output().unwrap()
}

#[test]
fn an_output_that_cannot_be_written_is_74_and_named() {
    for arguments in [
        &["--help"][..],
        &["version"],
        &["man"],
        &["completions", "bash"],
        &["explain", "--list"],
        &["dr", "--schema"],
    ] {
        let ran = output(floaterctl(arguments).stdout(full()).stderr(Stdio::piped()));
        let said = String::from_utf8(ran.stderr).unwrap();
        assert_eq!(ran.status.code(), Some(74), "{arguments:?}: {said}");
        assert!(
            said.starts_with("error: stdout could not be written: "),
            "{said}"
        );
    }
}

#[test]
fn a_reader_that_has_read_enough_of_a_page_is_content() {
    for arguments in [
        &["--help"][..],
        &["completions", "bash"],
        &["explain", "--list"],
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let ran = output(floaterctl(arguments).stdout(writer).stderr(Stdio::piped()));
        assert_eq!(
            (ran.status.code(), ran.stderr.as_slice()),
            (Some(0), &[][..]),
            "{arguments:?}"
        );
    }
}

#[test]
fn a_full_stderr_changes_no_exit_code() {
    for (arguments, code) in [
        (&["explain", "NO-SUCH"][..], 64),
        (&["link", "plan", "-f", "/nonexistent"], 65),
    ] {
        let ran = output(floaterctl(arguments).stdout(Stdio::null()).stderr(full()));
        assert_eq!(ran.status.code(), Some(code), "{arguments:?}");
    }
}
