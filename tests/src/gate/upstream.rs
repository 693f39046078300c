//! The four programs of an upstream control plane, built by Go from their published modules: kept out of the repository, made once in
//! the target folder, and again only where their versions change.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use super::tally::Tally;

/// The capability that tests name, and the suite that needs it.
pub(crate) const NAME: &str = "upstream";
/// The variable that tells suites where the programs are; one that is set beforehand names programs that are used as they are.
pub(crate) const VARIABLE: &str = "FLOATER_UPSTREAM";

/// The programs and the packages that they are built from.
const PROGRAMS: &[(&str, &str)] = &[
    ("etcd", "go.etcd.io/etcd/server/v3"),
    ("kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver"),
    (
        "kube-controller-manager",
        "k8s.io/kubernetes/cmd/kube-controller-manager",
    ),
    ("kube-scheduler", "k8s.io/kubernetes/cmd/kube-scheduler"),
];

/// Where Go's own installer puts it, which not everybody's path has.
const INSTALLED: &str = "/usr/local/go/bin";

/// The `go` of this machine.
fn go() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain([PathBuf::from(INSTALLED)]);
    let mut programs = folders.map(|folder| folder.join("go"));
    programs.find(|program| program.is_file())
}

/// Builds the programs into a folder, as a step of its own where there is a Go to build them with.
///
/// # Errors
/// Why there are none, in words.
pub(crate) fn prepare(tally: &mut Tally, sources: &Path, target: &Path) -> Result<PathBuf, String> {
    if let Some(folder) = std::env::var_os(VARIABLE).filter(|folder| !folder.is_empty()) {
        let folder = PathBuf::from(folder);
        return missing(&folder).map_or(Ok(folder), |name| {
            Err(format!("{VARIABLE} names a folder without {name}"))
        });
    }
    let Some(go) = go() else {
        return Err(format!("no `go` on the PATH or in {INSTALLED}"));
    };
    let folder = target.join(NAME);
    if let Err(why) = downloaded(&go, sources) {
        OUT_OF_REACH.store(true, Ordering::Relaxed);
        return Err(why);
    }
    tally.step("programs of an upstream control plane", || {
        PROGRAMS
            .iter()
            .try_for_each(|(name, package)| build(&go, sources, &folder.join(name), package))
    });
    missing(&folder).map_or(Ok(folder), |name| Err(format!("{name} is not built")))
}

/// Whether the modules could not be downloaded: that this machine reaches no server of modules says nothing about the project.
static OUT_OF_REACH: AtomicBool = AtomicBool::new(false);

/// Whether the programs can be expected here: there is a Go, and where it was asked for its modules it got them.
pub(crate) fn is_within_reach() -> bool {
    go().is_some() && !OUT_OF_REACH.load(Ordering::Relaxed)
}

/// Has Go fetch the modules that it has not got yet.
fn downloaded(go: &Path, sources: &Path) -> Result<(), String> {
    let ran = Command::new(go)
        .args(["mod", "download"])
        .current_dir(sources)
        .env("GOWORK", "off")
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("go does not start: {error}"))?;
    if ran.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&ran.stderr);
    let last = said.lines().last().unwrap_or_default();
    Err(format!("its modules cannot be downloaded: {last}"))
}

/// The first program that is not there.
fn missing(folder: &Path) -> Option<&'static str> {
    let mut names = PROGRAMS.iter().map(|(name, _)| *name);
    names.find(|name| !folder.join(name).is_file())
}

fn build(go: &Path, sources: &Path, output: &Path, package: &str) -> Result<(), String> {
    let arguments: [OsString; 6] = [
        "build".into(),
        // Exactly what go.sum knows.
        "-mod=readonly".into(),
        "-ldflags=-s -w".into(),
        "-o".into(),
        output.into(),
        package.into(),
    ];
    let status = Command::new(go)
        .args(arguments)
        .current_dir(sources)
        // Static: the programs run in namespaces of any user.
        .env("CGO_ENABLED", "0")
        .env("GOWORK", "off")
        .stdin(Stdio::null())
        .status()
        .map_err(|error| format!("go does not start: {error}"))?;
    match status.success() {
        true => Ok(()),
        false => Err(format!("go build {package} ended with {status}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_complete_with_all_four() {
        let folder = tempfile::tempdir().expect("a folder");
        assert_eq!(missing(folder.path()), Some("etcd"));
        for (name, _) in PROGRAMS {
            std::fs::write(folder.path().join(name), "").expect("a file");
        }
        assert_eq!(missing(folder.path()), None);
    }

    /// What the module requires is what is built.
    #[test]
    fn the_module_names_every_program() {
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join(NAME);
        let text = std::fs::read_to_string(sources.join("programs.go")).expect("it is there");
        for (_, package) in PROGRAMS {
            assert!(text.contains(&format!("_ \"{package}\"")), "{package}");
        }
    }
}
