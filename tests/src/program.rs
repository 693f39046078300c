//! Running `floaterctl` in a place of its own.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;

use serde_json::Value;
use tempfile::TempDir;

/// The program under test: the gate names it; without the gate it is built here.
#[must_use]
pub fn floaterctl() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        if let Some(path) = std::env::var_os("FLOATERCTL") {
            return path.into();
        }
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let built = Command::new(cargo)
            .args(["build", "--workspace", "--bins"])
            .current_dir(root)
            .status()
            .unwrap();
        assert!(built.success());
        // target/debug/deps/… lies one folder below the programs.
        std::env::current_exe()
            .unwrap()
            .parent()
            .unwrap()
            .parent()
            .unwrap()
            .join("floaterctl")
    })
}

/// The caller's search path and the folders of system programs, which not everybody's path has.
fn path() -> std::ffi::OsString {
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    path.push(":/usr/sbin:/sbin:/usr/bin:/bin");
    path
}

/// An empty folder, an empty environment and a state folder of their own.
pub struct Place {
    folder: TempDir,
}

/// What a run of the program came to.
#[derive(Debug)]
pub struct Ran {
    /// None where a signal ended it.
    pub code: Option<i32>,
    /// What it printed, as UTF-8.
    pub stdout: String,
    /// What it said beside it, as UTF-8.
    pub stderr: String,
}

impl Default for Place {
    fn default() -> Self {
        Self::new()
    }
}

impl Place {
    /// Made anew, gone when dropped.
    #[must_use]
    pub fn new() -> Self {
        let folder = tempfile::Builder::new()
            .prefix("floater-e2e-")
            .tempdir()
            .unwrap();
        std::fs::create_dir(folder.path().join("run")).unwrap();
        std::fs::create_dir(folder.path().join("home")).unwrap();
        Self { folder }
    }

    /// Its folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Where labs keep their state.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.path().join("run/floater")
    }

    /// A file of this content in it.
    pub fn write(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    /// The program with these arguments, not yet started.
    pub fn command<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(floaterctl());
        command
            .args(arguments)
            .current_dir(self.path())
            .env_clear()
            .env("PATH", path())
            .env("HOME", self.path().join("home"))
            .env("XDG_RUNTIME_DIR", self.path().join("run"))
            .stdin(Stdio::null());
        command
    }

    /// The program with these arguments, until it ends.
    pub fn run<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Ran {
        Ran::of(self.command(arguments).output().unwrap())
    }

    /// The program with these arguments, started, with pipes on both outputs.
    pub fn start<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Child {
        self.command(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    /// Asserts that nothing of a lab is left: no state, no process with this place's environment.
    pub fn assert_empty(&self) {
        let left: Vec<PathBuf> = match std::fs::read_dir(self.state()) {
            Ok(entries) => entries.map(|entry| entry.unwrap().path()).collect(),
            Err(error) => {
                assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
                Vec::new()
            }
        };
        assert!(left.is_empty(), "state is left behind: {left:?}");
        let processes = self.processes();
        assert!(
            processes.is_empty(),
            "processes are left behind: {processes:?}"
        );
    }

    /// Pids and command lines of the processes that were started from this place, this one's own children included.
    #[must_use]
    pub fn processes(&self) -> Vec<(i32, String)> {
        let mark = format!("XDG_RUNTIME_DIR={}", self.path().join("run").display());
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc").unwrap().filter_map(Result::ok) {
            let Some(pid) = entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse::<i32>().ok())
            else {
                continue;
            };
            // A process may end between the two reads; it is then not left behind.
            let Ok(environment) = std::fs::read(entry.path().join("environ")) else {
                continue;
            };
            if environment
                .split(|byte| *byte == 0)
                .any(|variable| variable == mark.as_bytes())
            {
                let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
                found.push((pid, String::from_utf8_lossy(&line).replace('\0', " ")));
            }
        }
        found
    }
}

impl Ran {
    /// From what the system tells.
    #[must_use]
    pub fn of(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Itself, where it ended with this code.
    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(
            self.code,
            Some(code),
            "exit code\n--- stdout\n{}\n--- stderr\n{}",
            self.stdout,
            self.stderr
        );
        self
    }

    /// Its standard output as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| {
            panic!(
                "{error}\n--- stdout\n{}\n--- stderr\n{}",
                self.stdout, self.stderr
            )
        })
    }
}
