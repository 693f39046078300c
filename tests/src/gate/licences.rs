//! Licences of everything that is built, and the packages that are built in more than one version.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::cargo::Cargo;

/// Licences under which a dependency may be used. An expression passes if one of its alternatives consists of these.
const ALLOWED: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "MIT-0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    resolve: Resolve,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
    version: String,
    license: Option<String>,
    source: Option<String>,
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
}

/// Fails on a licence outside the list, on a dependency that no registry has, and prints the duplicates.
pub(crate) fn check(cargo: &Cargo) -> Result<(), String> {
    let target = if cfg!(target_arch = "aarch64") {
        "aarch64-unknown-linux-gnu"
    } else {
        "x86_64-unknown-linux-gnu"
    };
    let text = cargo.output(&[
        "metadata",
        "--format-version=1",
        "--locked",
        "--filter-platform",
        target,
    ])?;
    let metadata: Metadata = serde_json::from_str(&text).map_err(|error| error.to_string())?;
    let resolved: std::collections::BTreeSet<&str> = metadata
        .resolve
        .nodes
        .iter()
        .map(|node| node.id.as_str())
        .collect();
    let mut versions: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut broken = Vec::new();
    for package in metadata
        .packages
        .iter()
        .filter(|package| resolved.contains(package.id.as_str()))
    {
        versions
            .entry(&package.name)
            .or_default()
            .push(&package.version);
        let licence = package.license.as_deref().unwrap_or("");
        if !is_allowed(licence) {
            broken.push(format!(
                "{} {} is under `{licence}`",
                package.name, package.version
            ));
        }
        if package
            .source
            .as_deref()
            .is_some_and(|source| source.starts_with("git+"))
        {
            broken.push(format!(
                "{} {} comes from no registry",
                package.name, package.version
            ));
        }
    }
    let duplicates: Vec<String> = versions
        .iter()
        .filter(|(_, versions)| versions.len() > 1)
        .map(|(name, versions)| format!("{name} {}", versions.join(" ")))
        .collect();
    eprintln!(
        "gate: {} packages, {} in several versions: {}",
        resolved.len(),
        duplicates.len(),
        duplicates.join(", ")
    );
    if broken.is_empty() {
        Ok(())
    } else {
        Err(broken.join("; "))
    }
}

/// Whether an SPDX expression can be satisfied from the list. `/` is the old spelling of `OR`.
fn is_allowed(expression: &str) -> bool {
    let spaced = expression
        .replace('/', " OR ")
        .replace('(', " ( ")
        .replace(')', " ) ");
    // An exception belongs to the licence before it.
    let spaced = spaced.replace(" WITH ", "_WITH_");
    let mut words = spaced.split_whitespace().peekable();
    let allowed = any(&mut words);
    allowed && words.next().is_none()
}

type Words<'a> = std::iter::Peekable<std::str::SplitWhitespace<'a>>;

fn any(words: &mut Words<'_>) -> bool {
    let mut allowed = all(words);
    while words.next_if_eq(&"OR").is_some() {
        allowed |= all(words);
    }
    allowed
}

fn all(words: &mut Words<'_>) -> bool {
    let mut allowed = one(words);
    while words.next_if_eq(&"AND").is_some() {
        allowed &= one(words);
    }
    allowed
}

fn one(words: &mut Words<'_>) -> bool {
    match words.next() {
        Some("(") => any(words) & words.next_if_eq(&")").is_some(),
        Some(word) => ALLOWED.contains(&word.replace("_WITH_", " WITH ").as_str()),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::is_allowed;

    #[test]
    fn one_good_alternative_is_enough() {
        for good in [
            "MIT",
            "MIT/Apache-2.0",
            "Apache-2.0 OR GPL-3.0",
            "(MIT OR Apache-2.0) AND Unicode-3.0",
            "Apache-2.0 AND ISC",
        ] {
            assert!(is_allowed(good), "{good}");
        }
        for bad in [
            "",
            "GPL-3.0-or-later",
            "MIT AND GPL-2.0",
            "(MIT OR Apache-2.0) AND GPL-2.0",
            "(MIT",
        ] {
            assert!(!is_allowed(bad), "{bad}");
        }
    }
}
