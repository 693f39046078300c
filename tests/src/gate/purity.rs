//! Who may know whom: the direction of dependencies, and the crates that stay pure.

use super::cargo::Cargo;

/// Each crate with each of its feature sets, built alone: a workspace build unifies features and hides what is missing.
pub(crate) const ALONE: &[(&str, Option<&str>)] = &[
    ("apiserver", Some("")),
    ("apiserver", Some("kosmos")),
    ("datapath", Some("")),
    ("datapath", Some("kernel")),
    ("datapath", Some("kube")),
    ("datapath", Some("clusterlink")),
    ("floater", Some("")),
    ("floater", Some("agent")),
    ("netns-harness", None),
    ("orchestrator", None),
    ("simulator", None),
    ("tui", None),
];

/// A crate, its features, and the packages that may not be among its dependencies, at any depth. `word*` is a beginning.
const FORBIDDEN: &[(&str, &str, &[&str])] = &[
    (
        "apiserver",
        "",
        &[
            "datapath",
            "floater",
            "kube",
            "k8s-openapi",
            "netns-harness",
            "nix",
            "simulator",
        ],
    ),
    (
        "datapath",
        "",
        &[
            "tokio",
            "netlink-*",
            "kube",
            "kube-*",
            "k8s-openapi",
            "hyper",
            "nix",
            "socket2",
        ],
    ),
    (
        "datapath",
        "kernel",
        &["tokio", "kube", "kube-*", "k8s-openapi", "hyper"],
    ),
    (
        "floater",
        "",
        &[
            "tokio",
            "netlink-*",
            "kube",
            "kube-*",
            "k8s-openapi",
            "hyper",
            "nix",
        ],
    ),
    (
        "floater",
        "agent",
        &[
            "kube",
            "kube-*",
            "k8s-openapi",
            "simulator",
            "orchestrator",
            "netns-harness",
        ],
    ),
    (
        "netns-harness",
        "",
        &[
            "kube",
            "kube-*",
            "k8s-openapi",
            "datapath",
            "floater",
            "orchestrator",
            "simulator",
            "tokio",
        ],
    ),
    (
        "orchestrator",
        "",
        &[
            "simulator",
            "netns-harness",
            "netlink-*",
            "tui",
            "clap",
            "ratatui",
        ],
    ),
    ("simulator", "", &["orchestrator", "tui", "ratatui"]),
];

/// Compares what `cargo tree` prints with the table above.
pub(crate) fn check(cargo: &Cargo) -> Result<(), String> {
    let mut broken = Vec::new();
    for (package, features, forbidden) in FORBIDDEN {
        let tree = cargo.output(&[
            "tree",
            "--quiet",
            "--package",
            package,
            "--no-default-features",
            "--features",
            features,
            "--edges",
            "normal",
            "--prefix",
            "none",
            "--format",
            "{p}",
        ])?;
        for name in tree.lines().filter_map(|line| line.split(' ').next()) {
            let is_itself = name == *package;
            if !is_itself && forbidden.iter().any(|pattern| matches(pattern, name)) {
                broken.push(format!("{package} [{features}] knows {name}"));
            }
        }
    }
    broken.sort();
    broken.dedup();
    if broken.is_empty() {
        Ok(())
    } else {
        Err(broken.join("; "))
    }
}

fn matches(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(beginning) => name.starts_with(beginning),
        None => name == pattern,
    }
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn a_star_stands_for_any_ending() {
        assert!(matches("kube-*", "kube-client"));
        assert!(!matches("kube-*", "kube"));
        assert!(matches("kube", "kube"));
        assert!(!matches("kube", "kube-client"));
    }
}
