//! What there is before and after: namespaces, links, processes, files, settings.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::{process, rcu};

/// What this process can see of what a lab could leave behind.
///
/// Namespaces are those that this process holds or that a marked process or a descendant lives in: the machine is shared,
/// and what others make or remove meanwhile is not ours to judge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    marker: Option<String>,
    roots: Vec<PathBuf>,
    found: BTreeSet<String>,
}

impl Snapshot {
    /// Looks around: at this process's descriptors, children and links, at processes whose environment holds `marker`,
    /// and at all files below `roots`.
    #[must_use]
    pub fn take(marker: Option<&str>, roots: &[&Path]) -> Self {
        let mut found = BTreeSet::new();
        for entry in fs::read_dir("/proc/self/fd")
            .into_iter()
            .flatten()
            .flatten()
        {
            if let Ok(target) = fs::read_link(entry.path())
                && target.to_string_lossy().starts_with("net:[")
            {
                found.insert(format!("namespace {}", target.display()));
            }
        }
        for name in fs::read_dir("/sys/class/net")
            .into_iter()
            .flatten()
            .flatten()
        {
            found.insert(format!("link {}", name.file_name().display()));
        }
        let mut processes = children();
        processes.extend(marker.map(process::marked).unwrap_or_default());
        for pid in processes {
            found.insert(format!("process {pid}"));
            if let Ok(netns) = fs::read_link(format!("/proc/{pid}/ns/net")) {
                found.insert(format!("namespace {}", netns.display()));
            }
        }
        for root in roots {
            files(root, &mut found);
        }
        if let Some(value) = rcu::current() {
            found.insert(format!("setting rcu_expedited={value}"));
        }
        Self {
            marker: marker.map(str::to_owned),
            roots: roots.iter().map(|root| root.to_path_buf()).collect(),
            found,
        }
    }

    /// What is there now and was not then, one thing a line, sorted.
    #[must_use]
    pub fn leaked(&self) -> Vec<String> {
        let roots: Vec<_> = self.roots.iter().map(PathBuf::as_path).collect();
        let now = Self::take(self.marker.as_deref(), &roots);
        now.found.difference(&self.found).cloned().collect()
    }
}

fn files(root: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(root).into_iter().flatten().flatten() {
        let path = entry.path();
        found.insert(format!("file {}", path.display()));
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            files(&path, found);
        }
    }
}

/// The direct children of all threads of this process.
fn children() -> Vec<i32> {
    fs::read_dir("/proc/self/task")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|task| fs::read_to_string(task.path().join("children")).ok())
        .flat_map(|text| {
            text.split_ascii_whitespace()
                .filter_map(|pid| pid.parse().ok())
                .collect::<Vec<_>>()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_file_is_a_leak_and_its_removal_none() {
        let root = std::env::temp_dir().join(format!("leak-{}", std::process::id()));
        fs::create_dir(&root).expect("make");
        let before = Snapshot::take(None, &[&root]);
        fs::write(root.join("left"), "").expect("write");
        let leaked = before.leaked();
        assert!(
            leaked.contains(&format!("file {}/left", root.display())),
            "{leaked:?}"
        );
        fs::remove_dir_all(&root).expect("remove");
        assert!(!before.leaked().iter().any(|line| line.starts_with("file ")),);
    }
}
