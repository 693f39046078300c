//! Objects as they could be read last.
//!
//! Somebody's slip in one object must not take rows from its node, nor those that lead there from all others: an object that cannot be
//! read counts as it was before, until it can be read or is deleted.

use std::collections::{BTreeMap, BTreeSet};

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::printable::Printable;

/// The objects of one kind, by name.
#[derive(Debug, Clone)]
pub struct Kept<T> {
    held: BTreeMap<String, Held<T>>,
}

#[derive(Debug, Clone, PartialEq)]
struct Held<T> {
    /// As it could be read last; none where it never could.
    good: Option<T>,
    /// Why it cannot be read as it is now.
    rule: Option<String>,
}

impl<T> Default for Kept<T> {
    fn default() -> Self {
        Self {
            held: BTreeMap::new(),
        }
    }
}

/// What a change of an object comes to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct News {
    /// It counts as something else than before.
    pub is_other: bool,
    /// It can be read, and could not be before, or the other way round, or for another reason.
    pub is_judged_otherwise: bool,
}

impl News {
    /// Whether there are any.
    #[must_use]
    pub fn is_any(self) -> bool {
        self.is_other || self.is_judged_otherwise
    }
}

impl<T: DeserializeOwned + PartialEq> Kept<T> {
    /// Takes an object in as it is now.
    pub fn set(&mut self, name: &str, object: &Value) -> News {
        let read = read::<T>(object);
        match self.held.get_mut(name) {
            Some(held) => {
                let (is_other, rule) = match read {
                    Ok(good) => {
                        let is_other = held.good.as_ref() != Some(&good);
                        if is_other {
                            held.good = Some(good);
                        }
                        (is_other, None)
                    }
                    Err(rule) => (false, Some(rule)),
                };
                let is_judged_otherwise = held.rule != rule;
                held.rule = rule;
                News {
                    is_other,
                    is_judged_otherwise,
                }
            }
            None => {
                let (good, rule) = match read {
                    Ok(good) => (Some(good), None),
                    Err(rule) => (None, Some(rule)),
                };
                let news = News {
                    is_other: good.is_some(),
                    is_judged_otherwise: rule.is_some(),
                };
                self.held.insert(name.to_owned(), Held { good, rule });
                news
            }
        }
    }

    /// An object is not there any more.
    pub fn remove(&mut self, name: &str) -> News {
        let gone = self.held.remove(name);
        News {
            is_other: gone.as_ref().is_some_and(|held| held.good.is_some()),
            is_judged_otherwise: gone.is_some_and(|held| held.rule.is_some()),
        }
    }
}

impl<T> Kept<T> {
    /// An object as it counts.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&T> {
        self.held.get(name)?.good.as_ref()
    }

    /// The objects that count, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &T)> {
        let held = self.held.iter();
        held.filter_map(|(name, held)| Some((name.as_str(), held.good.as_ref()?)))
    }

    /// Every name, also of what never could be read.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.held.keys().map(String::as_str)
    }

    /// Why an object cannot be read, and whether it counts as it was before; none where it can be, or is not there.
    #[must_use]
    pub fn fault(&self, name: &str) -> Option<(&str, bool)> {
        let held = self.held.get(name)?;
        Some((held.rule.as_deref()?, held.good.is_some()))
    }

    /// How many cannot be read.
    #[must_use]
    pub fn unreadable(&self) -> usize {
        let held = self.held.values();
        held.filter(|held| held.rule.is_some()).count()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// The names that a list of all objects lacks.
    #[must_use]
    pub fn missing_in(&self, listed: &BTreeSet<&str>) -> Vec<String> {
        let names = self.held.keys();
        names
            .filter(|name| !listed.contains(name.as_str()))
            .cloned()
            .collect()
    }
}

/// Reads an object. One without a spec says nothing, which is something else than an empty spec.
fn read<T: DeserializeOwned>(object: &Value) -> Result<T, String> {
    if object.get("spec").is_none_or(Value::is_null) {
        return Err("it has no spec".to_owned());
    }
    // The text quotes the object, whoever wrote that.
    T::deserialize(object).map_err(|error| Printable::new(&error.to_string()).as_str().to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::api::{Cluster, ClusterNode};

    fn node(spec: &Value) -> Value {
        json!({"metadata": {"name": "a-n1"}, "spec": spec})
    }

    #[test]
    fn what_cannot_be_read_counts_as_before() {
        let mut kept: Kept<ClusterNode> = Kept::default();
        let good = node(&json!({"ip": "10.0.0.1"}));
        assert!(kept.set("a-n1", &good).is_other);
        assert_eq!(kept.set("a-n1", &good), News::default());
        for bad in [
            node(&json!({"ip": 7})),
            node(&json!("text")),
            node(&Value::Null),
            json!({"metadata": {"name": "a-n1"}}),
        ] {
            let news = kept.set("a-n1", &bad);
            assert!(!news.is_other && news.is_any(), "{bad}");
            assert_eq!(
                kept.get("a-n1").map(|node| node.spec.ip.as_str()),
                Some("10.0.0.1")
            );
            assert!(kept.fault("a-n1").is_some_and(|(_, is_kept)| is_kept));
            kept.set("a-n1", &good);
        }
        assert!(kept.remove("a-n1").is_other);
        assert!(!kept.set("a-n1", &node(&json!(7))).is_other);
        assert_eq!(kept.iter().count(), 0);
        assert_eq!((kept.len(), kept.unreadable()), (1, 1));
    }

    #[test]
    fn a_cluster_without_a_spec_is_not_one_that_takes_no_part() {
        let mut kept: Kept<Cluster> = Kept::default();
        let object = |spec: Value| json!({"metadata": {"name": "a"}, "spec": spec});
        kept.set("a", &object(json!({"clusterLinkOptions": {}})));
        kept.set("a", &json!({"metadata": {"name": "a"}}));
        let options = |kept: &Kept<Cluster>| {
            kept.get("a")
                .map(|one| one.spec.cluster_link_options.is_some())
        };
        assert_eq!(options(&kept), Some(true));
        kept.set("a", &object(json!({})));
        assert_eq!(options(&kept), Some(false));
    }
}
