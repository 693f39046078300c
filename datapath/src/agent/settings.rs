//! What the kernel's settings were before the agent changed them, so that a node that is left gets them back.

use std::collections::BTreeMap;

use tracing::info;

use crate::diff::{Change, ChangeSet, is_tunnel};
use crate::state::{NodeState, Row, Sysctl};

/// The settings that this run of the agent changed. Those of tunnels go with them and are not remembered.
#[derive(Debug, Default)]
pub(super) struct Settings {
    /// What each was before the first change.
    former: BTreeMap<String, i64>,
    /// What each was made.
    ours: BTreeMap<String, i64>,
}

impl Settings {
    /// Takes in changes that are about to be made of a node that is like this.
    pub(super) fn changing(&mut self, set: &ChangeSet, observed: &NodeState) {
        for change in &set.changes {
            let Change::Replace {
                from: Row::Sysctl(from),
                to: Row::Sysctl(to),
            } = change
            else {
                continue;
            };
            if of_tunnel(&to.name) || from.value == to.value {
                continue;
            }
            // The kernel copies this one to every link.
            if let Some((family, leaf)) = of_all(&to.name) {
                for row in observed.sysctls.iter().filter(|row| !of_tunnel(&row.name)) {
                    if is_of(&row.name, family, leaf) {
                        self.former.entry(row.name.clone()).or_insert(row.value);
                    }
                }
            }
            self.former.entry(to.name.clone()).or_insert(from.value);
            self.ours.insert(to.name.clone(), to.value);
        }
    }

    /// Whether there is nothing to put back.
    pub(super) fn is_empty(&self) -> bool {
        self.former.is_empty()
    }

    /// The names of those that were changed.
    pub(super) fn names(&self) -> impl Iterator<Item = &String> {
        self.former.keys()
    }

    /// The changes that put back what is still as the agent made it. What somebody else changed since stays, and so does what was as it should
    /// be when this run began: an earlier run may have made it so, or the node's owner.
    pub(super) fn back(&mut self, observed: &NodeState) -> ChangeSet {
        let (former, ours) = (
            std::mem::take(&mut self.former),
            std::mem::take(&mut self.ours),
        );
        let foreign = |name: &str, there: i64| ours.get(name).is_some_and(|made| *made != there);
        let mut changes: Vec<(bool, Change)> = Vec::new();
        let mut copied: Vec<(&str, &str)> = Vec::new();
        for (name, value) in &former {
            let Some(there) = observed.sysctls.get(name) else {
                continue;
            };
            if foreign(name, there.value) {
                info!(
                    setting = name,
                    value = there.value,
                    "left as it is: somebody else changed it since"
                );
                continue;
            }
            let is_of_all = of_all(name);
            copied.extend(is_of_all.filter(|_| there.value != *value));
            changes.push((
                is_of_all.is_none(),
                Change::Replace {
                    from: Row::Sysctl(there.clone()),
                    to: Row::Sysctl(Sysctl {
                        name: name.clone(),
                        value: *value,
                    }),
                },
            ));
        }
        changes.retain(|(_, change)| {
            let Change::Replace {
                from: Row::Sysctl(from),
                to: Row::Sysctl(to),
            } = change
            else {
                return false;
            };
            // Putting back one of all links changes this one, too.
            let is_copied = copied
                .iter()
                .any(|(family, leaf)| is_of(&to.name, family, leaf));
            from.value != to.value || is_copied && of_all(&to.name).is_none()
        });
        changes.sort_by_key(|(is_of_one, _)| *is_of_one);
        ChangeSet::ordered(changes.into_iter().map(|(_, change)| change).collect())
    }
}

/// The parts of `net.FAMILY.conf.LINK.LEAF`.
fn parts(name: &str) -> Option<(&str, &str, &str)> {
    let mut parts = name.split('.').skip(1);
    let (family, _, link, leaf) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    Some((family, link, leaf))
}

fn of_tunnel(name: &str) -> bool {
    parts(name).is_some_and(|(_, link, _)| is_tunnel(link))
}

/// Family and leaf of a setting of all links that the kernel copies to each.
fn of_all(name: &str) -> Option<(&str, &str)> {
    let (family, _, leaf) =
        parts(name).filter(|(_, link, leaf)| (*link, *leaf) == ("all", "forwarding"))?;
    Some((family, leaf))
}

fn is_of(name: &str, family: &str, leaf: &str) -> bool {
    parts(name).is_some_and(|(its, _, of)| (its, of) == (family, leaf))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diff::diff;

    fn node(rows: &[(&str, i64)]) -> NodeState {
        let mut state = NodeState::default();
        for (name, value) in rows {
            state.sysctls.insert(Sysctl {
                name: (*name).to_owned(),
                value: *value,
            });
        }
        state
    }

    fn words(set: &ChangeSet) -> Vec<(String, i64)> {
        let rows = set.changes.iter().map(|change| match change.row() {
            Row::Sysctl(row) => (row.name.clone(), row.value),
            other => panic!("{other:?}"),
        });
        rows.collect()
    }

    const ALL: &str = "net.ipv4.conf.all.forwarding";
    const LOWER: &str = "net.ipv4.conf.eth0.forwarding";
    const OTHER: &str = "net.ipv4.conf.eth1.forwarding";
    const FILTER: &str = "net.ipv4.conf.eth0.rp_filter";

    #[test]
    fn what_was_changed_is_put_back_with_what_the_kernel_copies() {
        let before = node(&[(ALL, 0), (LOWER, 0), (OTHER, 1), (FILTER, 1)]);
        let wanted = node(&[
            (ALL, 1),
            (LOWER, 1),
            (FILTER, 2),
            ("net.ipv4.conf.vx-bridge.rp_filter", 2),
        ]);
        let mut settings = Settings::default();
        settings.changing(&diff(&wanted, &before), &before);
        let after = node(&[(ALL, 1), (LOWER, 1), (OTHER, 1), (FILTER, 2)]);
        // Somebody spoils one, which is mended: what was at first counts.
        let spoilt = node(&[(ALL, 1), (LOWER, 1), (OTHER, 1), (FILTER, 0)]);
        settings.changing(&diff(&wanted, &spoilt), &spoilt);
        assert!(!settings.is_empty());
        // All links first, then each.
        let expected = [(ALL, 0), (LOWER, 0), (FILTER, 1), (OTHER, 1)];
        let put = words(&settings.back(&after));
        assert_eq!(put, expected.map(|(name, value)| (name.to_owned(), value)));
        assert!(
            settings.is_empty() && settings.back(&after).is_empty(),
            "once"
        );
    }

    #[test]
    fn what_somebody_else_changed_and_what_was_so_before_stay() {
        let before = node(&[(ALL, 1), (LOWER, 1), (FILTER, 1)]);
        let wanted = node(&[(ALL, 1), (LOWER, 1), (FILTER, 2)]);
        let mut settings = Settings::default();
        settings.changing(&diff(&wanted, &before), &before);
        let after = node(&[(ALL, 1), (LOWER, 1), (FILTER, 0)]);
        assert!(settings.back(&after).is_empty());
    }
}
