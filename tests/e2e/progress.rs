//! What a person sees of a run on stderr: a live region on a terminal, and lines where there is none or `-v` asks for them.

use std::io::Write as _;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};

use tests::program::Place;
use tests::terminal::{self, Screen, Watched};
use tui::progress::{self, Progress};

const CLUSTERS: usize = 5;

/// Servers that take connections and say nothing, and a kubeconfig with a context for each.
struct Silent {
    place: Place,
    servers: Vec<TcpListener>,
}

impl Silent {
    fn new() -> Self {
        let place = Place::new();
        let servers: Vec<TcpListener> = (0..CLUSTERS)
            .map(|_| TcpListener::bind("127.0.0.1:0").unwrap())
            .collect();
        let mut lists = ["clusters:\n", "contexts:\n"].map(str::to_owned);
        for (at, server) in servers.iter().enumerate() {
            let port = server.local_addr().unwrap().port();
            let name = format!("silent{at}");
            lists[0] +=
                &format!("- name: {name}\n  cluster: {{server: 'http://127.0.0.1:{port}'}}\n");
            lists[1] += &format!("- name: {name}\n  context: {{cluster: {name}}}\n");
        }
        place.write("kubeconfig", lists.concat());
        Self { place, servers }
    }

    /// A run over them that only their end can end.
    fn command(&self, more: &[&str]) -> Command {
        let words = [
            "dr",
            "--kubeconfig",
            "kubeconfig",
            "--cluster-timeout",
            "1h",
        ];
        let mut command = self.place.command(words.iter().chain(more));
        command.env("TERM", "xterm").stdout(Stdio::null());
        command
    }

    fn on_terminal(&self, more: &[&str], term: &str) -> (Child, Watched) {
        let (master, slave) = terminal::pair();
        let mut command = self.command(more);
        let child = command.env("TERM", term).stderr(slave).spawn().unwrap();
        // Its command holds the slave until it is dropped.
        drop(command);
        (child, Watched::new(master))
    }

    /// How many of them are named as waited for.
    fn named(screen: &Screen) -> usize {
        let lines = screen.lines();
        let waits = lines.iter().find(|line| line.contains("waiting for"));
        waits.map_or(0, |line| line.matches("silent").count())
    }
}

/// The phase with its count and the clusters that were asked first; at the end nothing of the region is left.
#[test]
fn on_a_terminal_a_region_says_what_a_run_waits_for() {
    let mut fleet = Silent::new();
    let (mut child, seen) = fleet.on_terminal(&[], "xterm");
    seen.until("the phase and its count", |screen| {
        let count = format!("0 of {CLUSTERS}");
        let mut lines = screen.lines().into_iter();
        lines.any(|line| {
            // Nobody knows yet how long it will take.
            line.contains(&format!("over {CLUSTERS} clusters")) && line.ends_with(&count)
        })
    });
    seen.until("the slowest clusters", |screen| {
        Silent::named(screen) == 3 && screen.shows(&format!("and {} more", CLUSTERS - 3))
    });
    fleet.servers.clear();
    assert_eq!(child.wait().unwrap().code(), Some(69));
    let last = seen.last();
    assert!(last.written().contains('\u{1b}'));
    for part in [&format!("of {CLUSTERS}") as &str, "waiting for"] {
        assert!(!last.shows(part), "{:#?}", last.lines());
    }
}

/// Names the part of this program that [`driven`] plays.
const DRIVEN: &str = "FLOATER_TEST_PROGRESS";

/// Says on its stderr what it reads on its stdin, one word and its text a line. It is no test but the program of the next one.
#[test]
fn driven() {
    if std::env::var_os(DRIVEN).is_none() {
        return;
    }
    let progress = Progress::new(0, false);
    for line in std::io::stdin().lines().map_while(Result::ok) {
        match line.split_once(' ').unwrap_or((&line, "")) {
            ("phase", what) => progress.phase(what, Some(3)),
            ("say", what) => progress.say(what),
            ("step", _) => progress.step(),
            ("waits", what) => progress.waits(what),
            ("note", what) => progress.note(what),
            ("detail", what) => progress.detail(what),
            _ => progress::end(),
        }
    }
}

/// Steps are counted, and from the first on the time that is left is told; a new phase begins anew; what happened stays above the
/// region, details do not come; a name that would move the cursor does not; at the end only what happened is left.
#[test]
fn a_region_follows_its_phases() {
    let (master, slave) = terminal::pair();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "--nocapture", "progress::driven"])
        .env(DRIVEN, "1")
        .env("TERM", "xterm")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(slave);
    let mut child = command.spawn().unwrap();
    drop(command);
    let mut stdin = child.stdin.take().unwrap();
    let mut tell = |line: &str| writeln!(stdin, "{line}").unwrap();
    let seen = Watched::new(master);
    let has = |end: &'static str| {
        move |screen: &Screen| screen.lines().iter().any(|line| line.ends_with(end))
    };
    tell("phase looking");
    seen.until("a phase", has("looking  0 of 3"));
    tell("waits waiting for east\u{1b}[2J, west");
    seen.until("what it waits for", |screen| {
        screen.shows("waiting for east") && screen.shows("west") && screen.shows("looking")
    });
    tell("step");
    seen.until("a step and the time that is left", |screen| {
        let mut lines = screen.lines().into_iter();
        lines.any(|line| line.contains("looking  1 of 3, ") && line.ends_with(" left"))
    });
    tell("detail nobody asked for this");
    tell("note north is gone");
    seen.until("what happened", |screen| {
        let lines = screen.lines();
        let at = |part| lines.iter().position(|line| line.contains(part));
        at("north is gone").is_some_and(|note| Some(note) < at("1 of 3"))
    });
    tell("step");
    tell("step");
    seen.until("all steps", has("looking  3 of 3"));
    tell("phase probing");
    seen.until("the next phase", |screen| {
        has("probing  0 of 3")(screen) && !screen.shows("waiting for") && !screen.shows("looking")
    });
    tell("say diagnosing");
    seen.until("a phase without steps", has("diagnosing"));
    tell("end");
    seen.until("the end", |screen| screen.lines().len() == 1);
    drop(stdin);
    assert!(child.wait().unwrap().success());
    let last = seen.last();
    assert!(
        last.lines()[0].ends_with("s  north is gone"),
        "{:?}",
        last.lines()
    );
    assert_eq!(last.lines().len(), 1);
    assert!(!last.written().contains("nobody asked"));
}

/// With `-v`, and on a terminal that can only write lines, no cursor is moved and every line stays.
#[test]
fn lines_move_no_cursor() {
    for (more, term) in [(&["-v"] as &[&str], "xterm"), (&[], "dumb"), (&[], "")] {
        let mut fleet = Silent::new();
        let (mut child, seen) = fleet.on_terminal(more, term);
        seen.until("the phase", |screen| {
            screen.shows(&format!("over {CLUSTERS} clusters"))
        });
        fleet.servers.clear();
        assert_eq!(child.wait().unwrap().code(), Some(69));
        let last = seen.last();
        assert!(!last.written().contains('\u{1b}'), "{:?}", last.written());
        assert!(!last.shows("waiting for"), "{:#?}", last.lines());
        assert!(last.shows("s  run "), "{:#?}", last.lines());
    }
}

/// Without a terminal the same lines come, and with `--quiet` only what ended the run.
#[test]
fn a_pipe_gets_lines_and_the_quiet_get_none() {
    for (more, speaks) in [(&[] as &[&str], true), (&["--quiet"], false)] {
        let mut fleet = Silent::new();
        fleet.servers.clear();
        let output = fleet.command(more).stderr(Stdio::piped()).output().unwrap();
        assert_eq!(output.status.code(), Some(69));
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(!said.contains('\u{1b}'), "{said}");
        let phase = format!("over {CLUSTERS} clusters");
        assert_eq!(said.contains(&phase), speaks, "{said}");
    }
}
