//! How labs end: whatever ends them, nothing is left.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::place::{Place, reap};

#[test]
#[ignore = "netns: needs vxlan, nft"]
fn a_stopped_lab_is_told_as_such_at_once_and_taken_down() {
    let place = Place::new();
    place.run(&["up", "1", "1", "p2p", "ipv4"]);
    let pid = i32::try_from(place.status()["pid"].as_i64().unwrap()).unwrap();
    kill(Pid::from_raw(pid), Signal::SIGSTOP).unwrap();
    let since = Instant::now();
    for words in [
        &["status"][..],
        &["clear"],
        &["freeze"],
        &["exec", "c1/n1", "true"],
    ] {
        let output = place.try_run(words);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(69), "{words:?}: {said}");
        assert!(
            said.contains(&format!("its process {pid} is stopped")),
            "{said}"
        );
    }
    assert_eq!(place.run(&["down-all"]).trim(), "lab");
    assert!(since.elapsed() < Duration::from_secs(20));
    place.assert_empty();
}

/// A signal to the lab's own process, from its first moment on, ends it as an orderly end does: nobody has to clean up.
#[test]
#[ignore = "netns: needs vxlan, nft"]
fn whatever_asks_a_lab_to_end_leaves_nothing() {
    let signals = [
        Signal::SIGHUP,
        Signal::SIGINT,
        Signal::SIGQUIT,
        Signal::SIGTERM,
    ];
    for (step, signal) in signals.into_iter().cycle().take(12).enumerate() {
        let place = Place::new();
        // As in the background of a shell without job control: SIGINT and SIGQUIT are ignored, and SIGHUP with nohup.
        let mut command = Command::new("sh");
        let script = "trap '' HUP INT QUIT; exec \"$@\"";
        command.args(["-c", script, "sh"]).arg(&place.program);
        command.args(["up", "2", "2", "mixed", "ipv4"]);
        let child = command
            .env("XDG_RUNTIME_DIR", place.root.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let folder = place.root.path().join("floater/lab");
        let deadline = Instant::now() + Duration::from_secs(20);
        // From the lab's first file on, and later.
        while !folder.join("lab.json").exists() {
            assert!(Instant::now() < deadline, "no lab has begun");
        }
        std::thread::sleep(Duration::from_millis(step as u64 / 4 * 150));
        let record = std::fs::read(folder.join("lab.json")).unwrap();
        let record: Value = serde_json::from_slice(&record).unwrap();
        let pid = i32::try_from(record["pid"].as_i64().unwrap()).unwrap();
        kill(Pid::from_raw(pid), signal).unwrap();
        assert!(netns_harness::process::wait_for_end(pid, Duration::from_secs(20)).unwrap());
        reap(child);
        place.assert_empty();
    }
}

#[test]
#[ignore = "netns: needs vxlan, nft"]
fn a_lab_that_is_killed_at_any_moment_leaves_nothing_after_down_all() {
    for step in 0..10_u64 {
        let place = Place::new();
        let child = place
            .command(&["up", "3", "2", "mixed", "ipv4"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // The moment is the test's subject.
        std::thread::sleep(Duration::from_millis(step * 70));
        for (index, pid) in place.processes().into_iter().enumerate() {
            if step % 2 == 0 || index % 2 == 0 {
                // It may have ended by itself.
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
        reap(child);
        place.run(&["down-all"]);
        place.assert_empty();
    }
}

#[test]
#[ignore = "netns: needs vxlan, nft"]
fn those_who_take_the_same_labs_down_do_not_end_each_other() {
    let place = Place::new();
    for killed in [true, true, true, false] {
        for name in ["one", "two"] {
            place.run(&["up", "1", "1", "p2p", "ipv4", name]);
        }
        if killed {
            for pid in place.processes() {
                // A floater may have ended with its lab.
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
        let downs: Vec<Child> = (0..3)
            .map(|_| {
                let mut down = place.command(&["down-all"]);
                down.stdout(Stdio::piped()).stderr(Stdio::piped());
                down.spawn().unwrap()
            })
            .collect();
        for down in downs {
            let output = down.wait_with_output().unwrap();
            assert!(output.status.success(), "{output:?}");
        }
        place.assert_empty();
    }
}

#[test]
#[ignore = "netns: needs vxlan, nft"]
fn a_killed_lab_is_told_as_such_and_its_name_is_free_again() {
    let place = Place::new();
    place.run(&["up", "1", "1", "p2p", "ipv4"]);
    let lab = place.status()["pid"].as_i64().unwrap();
    kill(Pid::from_raw(i32::try_from(lab).unwrap()), Signal::SIGKILL).unwrap();
    netns_harness::process::wait_for_end(i32::try_from(lab).unwrap(), Duration::from_secs(5))
        .unwrap();
    for verb in ["status", "clear"] {
        place.refused(&[verb], "was killed");
    }
    place.run(&["up", "1", "1", "p2p", "ipv4"]);
    assert_eq!(place.status()["name"], "lab");
    place.down();
}

#[test]
#[ignore = "netns: needs vxlan, nft"]
fn a_tied_lab_ends_with_its_caller() {
    use std::io::{BufRead as _, BufReader};
    let place = Place::new();
    let mut child = place
        .command(&["hold", "2"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    assert!(Path::new(line.trim()).is_file());
    let processes = place.processes();
    assert!(processes.len() > 5);
    child.kill().unwrap();
    reap(child);
    for pid in processes {
        let ended = netns_harness::process::wait_for_end(pid, Duration::from_secs(10));
        assert!(ended.unwrap());
    }
    place.assert_empty();
}
