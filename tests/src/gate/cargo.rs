//! Cargo as the gate calls it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::Deserialize;

/// The cargo that runs the gate, in the workspace's root.
pub(crate) struct Cargo {
    program: OsString,
    root: PathBuf,
}

/// A program that cargo built.
#[derive(Debug, Clone)]
pub(crate) struct Built {
    /// The package's name.
    pub(crate) package: String,
    /// The target's name.
    pub(crate) target: String,
    /// Whether it is a test suite rather than a program.
    pub(crate) is_suite: bool,
    /// Where it lies.
    pub(crate) executable: PathBuf,
    /// The folder of its package.
    pub(crate) folder: PathBuf,
}

#[derive(Deserialize)]
struct Message {
    #[serde(default)]
    executable: Option<PathBuf>,
    #[serde(default)]
    manifest_path: PathBuf,
    #[serde(default)]
    profile: Option<Profile>,
    #[serde(default)]
    target: Option<Target>,
}

#[derive(Deserialize)]
struct Profile {
    test: bool,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

impl Cargo {
    /// The cargo that started this process.
    pub(crate) fn here() -> Self {
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
        Self {
            program: std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()),
            root: manifest.parent().unwrap_or(manifest).to_owned(),
        }
    }

    /// The workspace's root.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(arguments)
            .current_dir(&self.root)
            .stdin(Stdio::null());
        // What cargo says of the package that it runs is not so of those that it builds: a build script that reads it (ring's) would
        // have half of the dependencies built anew whenever the gate comes after a build by hand.
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
                command.env_remove(name);
            }
        }
        command
    }

    /// Runs cargo with its output on ours; the error is a sentence.
    pub(crate) fn run(&self, arguments: &[&str]) -> Result<(), String> {
        self.run_with(arguments, &[])
    }

    /// As [`Self::run`], with more environment.
    pub(crate) fn run_with(
        &self,
        arguments: &[&str],
        environment: &[(&str, &str)],
    ) -> Result<(), String> {
        let mut command = self.command(arguments);
        command.envs(environment.iter().copied());
        let status = command
            .status()
            .map_err(|error| format!("cargo does not start: {error}"))?;
        if status.success() {
            Ok(())
        } else {
            Err(format!("cargo {} ended with {status}", arguments.join(" ")))
        }
    }

    /// What cargo prints on its standard output.
    pub(crate) fn output(&self, arguments: &[&str]) -> Result<String, String> {
        let output = self
            .command(arguments)
            .stderr(Stdio::inherit())
            .output()
            .map_err(|error| format!("cargo does not start: {error}"))?;
        if !output.status.success() {
            return Err(format!(
                "cargo {} ended with {}",
                arguments.join(" "),
                output.status
            ));
        }
        String::from_utf8(output.stdout).map_err(|error| error.to_string())
    }

    /// Builds every test suite and every program; one entry each.
    pub(crate) fn build_suites(&self) -> Result<Vec<Built>, String> {
        let text = self.output(&[
            "test",
            "--workspace",
            "--bins",
            "--lib",
            "--tests",
            "--no-run",
            "--quiet",
            MESSAGES,
        ])?;
        let mut built = built(&text);
        let programs = self.output(&[
            "build",
            "--workspace",
            "--bins",
            "--examples",
            "--quiet",
            MESSAGES,
        ])?;
        built.extend(self::built(&programs));
        Ok(built)
    }

    /// Builds benches, each of a package and a name; one entry each.
    pub(crate) fn build_benches(&self, benches: &[(&str, &str)]) -> Result<Vec<Built>, String> {
        let mut arguments = vec!["bench", "--no-run", "--quiet", MESSAGES];
        for (package, name) in benches {
            arguments.extend(["--package", package, "--bench", name]);
        }
        Ok(built(&self.output(&arguments)?))
    }

    /// Builds a program as it is delivered; where it lies.
    pub(crate) fn build_released(&self, package: &str, name: &str) -> Result<PathBuf, String> {
        let text = self.output(&[
            "build",
            "--release",
            "--quiet",
            "--package",
            package,
            "--bin",
            name,
            MESSAGES,
        ])?;
        let found = built(&text).into_iter().find(|one| one.target == name);
        found
            .map(|one| one.executable)
            .ok_or_else(|| format!("{name} is not built"))
    }
}

/// What makes cargo say where it puts what it builds.
const MESSAGES: &str = "--message-format=json-render-diagnostics";

fn built(messages: &str) -> Vec<Built> {
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Message>(line).ok())
        .filter_map(|message| {
            let target = message.target?;
            let folder = message.manifest_path.parent()?.to_owned();
            let is_suite = message.profile.is_some_and(|profile| profile.test);
            // `cargo test` builds the programs beside the suites; the later plain build names them once more.
            (is_suite || target.kind.iter().any(|kind| kind == "bin")).then_some(Built {
                package: folder.file_name()?.to_str()?.to_owned(),
                target: target.name,
                is_suite,
                executable: message.executable?,
                folder,
            })
        })
        .collect()
}
