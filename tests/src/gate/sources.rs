//! What the text of the project may not hold: dependencies that nobody names, I/O in modules that decide, paths of the
//! machine that it was written on.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::cargo::Cargo;

/// Dependencies that are declared for their features alone, and why.
const FOR_FEATURES: &[(&str, &str)] = &[(
    "k8s-openapi",
    "kube builds only where the version of the Kubernetes API has been chosen",
)];

/// The modules that decide and do no I/O, though the crate around them does: its folder, and their names.
const PURE: &[(&str, &[&str])] = &[
    ("datapath", &["control", "diff", "plan", "walk"]),
    (
        "orchestrator",
        &[
            "causes",
            "diagnose",
            "evidence",
            "explain",
            "glob",
            "graph",
            "matrix",
            "probe_plan",
            "report",
        ],
    ),
];

/// What such a module would do I/O, read a clock or know a cluster with.
const IMPURE: &[&str] = &[
    "tokio::",
    "kube::",
    "hyper",
    "crate::fleet",
    "crate::run::",
    "crate::kubeconfig",
    "std::fs",
    "std::process",
    "std::net::Tcp",
    "Instant::now",
    "SystemTime::now",
    "Timestamp::now",
];

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    manifest_path: PathBuf,
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
    rename: Option<String>,
}

/// Each dependency that a crate declares is named somewhere in its sources.
pub(crate) fn unused_dependencies(cargo: &Cargo) -> Result<(), String> {
    let text = cargo.output(&["metadata", "--no-deps", "--format-version", "1"])?;
    let metadata: Metadata = serde_json::from_str(&text).map_err(|error| error.to_string())?;
    let mut unused = BTreeSet::new();
    for package in metadata.packages {
        let folder = package.manifest_path.parent().unwrap_or(Path::new("."));
        let sources: Vec<(PathBuf, String)> = texts(folder)?
            .into_iter()
            .filter(|(path, _)| path.extension().is_some_and(|ending| ending == "rs"))
            .collect();
        for dependency in package.dependencies {
            let is_for_features = FOR_FEATURES
                .iter()
                .any(|(name, _)| *name == dependency.name);
            let name = dependency.rename.unwrap_or(dependency.name);
            let word = name.replace('-', "_");
            if !is_for_features && !sources.iter().any(|(_, text)| names(text, &word)) {
                unused.insert(format!(
                    "{} declares {name} and never names it",
                    package.name
                ));
            }
        }
    }
    told(unused)
}

/// The modules that decide name nothing that does I/O.
pub(crate) fn pure_modules(cargo: &Cargo) -> Result<(), String> {
    let mut broken = BTreeSet::new();
    for (package, modules) in PURE {
        let sources = cargo.root().join(package).join("src");
        for (path, text) in texts(&sources)? {
            let Ok(inside) = path.strip_prefix(&sources) else {
                continue;
            };
            let module = inside
                .components()
                .next()
                .map(|first| first.as_os_str().to_string_lossy());
            let module = module.unwrap_or_default();
            let is_test = inside.file_stem().is_some_and(|stem| stem == "tests");
            if is_test || !modules.contains(&module.trim_end_matches(".rs")) {
                continue;
            }
            // Tests may look at the clock.
            let text = text.split("#[cfg(test)]").next().unwrap_or_default();
            for word in IMPURE.iter().filter(|word| text.contains(**word)) {
                broken.insert(format!("{package}/src/{} names {word}", inside.display()));
            }
        }
    }
    told(broken)
}

/// No file names the folder that this checkout lies in, or whatever lies beside it.
pub(crate) fn machine_paths(cargo: &Cargo) -> Result<(), String> {
    let place = place_of(cargo.root());
    let mut found = BTreeSet::new();
    for (path, text) in texts(cargo.root())? {
        if let Some(line) = text.lines().position(|line| line.contains(&place)) {
            let inside = path.strip_prefix(cargo.root()).unwrap_or(&path);
            found.insert(format!("{}:{} names {place}", inside.display(), line + 1));
        }
    }
    told(found)
}

/// The part of a checkout's path that tells where somebody keeps their work: of folders that every machine has, all of it.
fn place_of(root: &Path) -> String {
    const COMMON: &[&str] = &[
        "builds", "home", "mnt", "opt", "root", "srv", "tmp", "usr", "var", "Users", "src",
    ];
    let parts: Vec<String> = root
        .components()
        .map(|part| part.as_os_str().to_string_lossy().into_owned())
        .collect();
    match parts.get(1) {
        Some(first) if !COMMON.contains(&first.as_str()) => format!("/{first}/"),
        _ => root.display().to_string(),
    }
}

fn told(problems: BTreeSet<String>) -> Result<(), String> {
    if problems.is_empty() {
        return Ok(());
    }
    Err(problems.into_iter().collect::<Vec<_>>().join("; "))
}

/// Whether a source names an identifier, and not merely a longer one that contains it.
fn names(text: &str, word: &str) -> bool {
    let is_inner = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(word).any(|(at, _)| {
        !text[..at].chars().next_back().is_some_and(is_inner)
            && !text[at + word.len()..].chars().next().is_some_and(is_inner)
    })
}

/// Every text below a folder, what is built or kept by tools apart.
fn texts(folder: &Path) -> Result<Vec<(PathBuf, String)>, String> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries =
            std::fs::read_dir(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        for entry in entries.filter_map(Result::ok) {
            let (path, name) = (entry.path(), entry.file_name());
            let Ok(kind) = entry.file_type() else {
                continue;
            };
            if kind.is_dir() && name != "target" && !name.to_string_lossy().starts_with(".git") {
                folders.push(path);
            } else if kind.is_file()
                // In a checkout beside another one it is a file that says where.
                && name != ".git"
                && let Ok(text) = std::fs::read_to_string(&path)
            {
                found.push((path, text));
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_longer_word_is_another() {
        assert!(names("use toml::Value;", "toml"));
        assert!(!names("use toml_edit::Value; my_toml", "toml"));
    }

    #[test]
    fn where_work_is_kept_is_not_where_programs_are() {
        assert_eq!(place_of(Path::new("/projects/a/floater")), "/projects/");
        assert_eq!(place_of(Path::new("/usr/src/floater")), "/usr/src/floater");
    }
}
