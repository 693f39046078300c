//! `clusterlink` as a process.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tests::program::floaterctl;

use super::world::PATIENCE;

/// A running program; it ends with the test.
pub(crate) struct Program {
    child: Child,
    /// Where it says how it is.
    address: String,
    /// What it writes to stderr, line by line.
    lines: mpsc::Receiver<String>,
}

impl Program {
    /// Starts a word with these arguments, and returns once it serves its metrics.
    #[track_caller]
    pub(crate) fn start(word: &str, arguments: &[String]) -> Self {
        let mut child = Command::new(floaterctl().with_file_name("clusterlink"))
            .arg(word)
            .args(arguments)
            .args(["--listen", "127.0.0.1:0"])
            .env_clear()
            .env("RUST_LOG", "info")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = child.stderr.take().unwrap();
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                // A test that does not listen any more still wants the pipe empty.
                let _ = sender.send(line);
            }
        });
        let mut program = Self {
            child,
            address: String::new(),
            lines,
        };
        let line = program.said("serving /metrics");
        let address = line.split("address=").nth(1).unwrap();
        program.address = address.split_whitespace().next().unwrap().to_owned();
        program
    }

    /// The next line with these words, of those that were not looked at.
    #[track_caller]
    pub(crate) fn said(&mut self, words: &str) -> String {
        let until = Instant::now() + PATIENCE;
        let mut before = Vec::new();
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) if line.contains(words) => return line,
                Ok(line) => before.push(line),
                Err(error) => panic!("`{words}` was never said ({error}); {before:#?}"),
            }
        }
    }

    /// What it answers to a path: code and text.
    pub(crate) fn ask(&self, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nhost: it\r\nconnection: close\r\n\r\n"
        )
        .unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let code = text.split(' ').nth(1).unwrap().parse().unwrap();
        let body = text.split_once("\r\n\r\n").unwrap().1.to_owned();
        (code, body)
    }

    /// Its metrics: what stands before the last blank, and the number after it.
    pub(crate) fn metrics(&self) -> BTreeMap<String, f64> {
        let (code, text) = self.ask("/metrics");
        assert_eq!(code, 200);
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let pairs = lines.map(|line| {
            let (name, value) = line.rsplit_once(' ').unwrap();
            (name.to_owned(), value.parse().unwrap())
        });
        pairs.collect()
    }

    /// The writes that it asked for, of whatever outcome.
    pub(crate) fn writes(&self) -> f64 {
        let metrics = self.metrics();
        let writes = metrics
            .iter()
            .filter(|(name, _)| name.starts_with("clusterlink_writes_total"));
        writes.map(|(_, count)| count).sum()
    }

    /// Whether it holds a Lease.
    pub(crate) fn leads(&self, lease: &str) -> bool {
        self.metrics()
            .get(&format!("clusterlink_leader{{lease=\"{lease}\"}}"))
            == Some(&1.0)
    }

    /// What it has in memory, bytes: `VmRSS` with its code, `RssAnon` without.
    pub(crate) fn resident(&self, kind: &str) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = text.lines().find(|line| line.starts_with(kind)).unwrap();
        let kibibytes: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
        kibibytes * 1024
    }

    /// How long it has computed.
    pub(crate) fn computed(&self) -> Duration {
        let text = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        // After the name, which may hold anything: fields 14 and 15, in hundredths of a second.
        let fields = text.rsplit_once(") ").unwrap().1.split(' ');
        let ticks = fields.skip(11).take(2);
        let ticks: u64 = ticks.map(|ticks| ticks.parse::<u64>().unwrap()).sum();
        Duration::from_millis(ticks * 10)
    }

    /// Ends it without a word to it.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Asks it to end, and waits until it has.
    #[track_caller]
    pub(crate) fn end(&mut self) {
        let pid = i32::try_from(self.child.id()).unwrap();
        kill(Pid::from_raw(pid), Signal::SIGTERM).unwrap();
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status}");
    }

    /// Stops it where it stands, as a machine that is out of breath does, or lets it go on.
    pub(crate) fn freeze(&self, is_frozen: bool) {
        let pid = i32::try_from(self.child.id()).unwrap();
        let signal = if is_frozen {
            Signal::SIGSTOP
        } else {
            Signal::SIGCONT
        };
        kill(Pid::from_raw(pid), signal).unwrap();
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
