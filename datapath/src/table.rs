//! A table of rows, each under the key by which the kernel knows it.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A row that carries its own key.
pub trait Keyed {
    /// What the kernel identifies the row by.
    type Key: Ord + Clone;

    /// The row's key.
    fn key(&self) -> Self::Key;
}

/// Rows in the order of their keys, at most one per key. Its serialised form is the list of rows.
pub struct Table<R: Keyed>(BTreeMap<R::Key, R>);

impl<R: Keyed> Table<R> {
    /// The row under a key.
    pub fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&R>
    where
        R::Key: Borrow<Q>,
    {
        self.0.get(key)
    }

    /// The row under a key, to change anything but its key.
    pub fn get_mut<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<&mut R>
    where
        R::Key: Borrow<Q>,
    {
        self.0.get_mut(key)
    }

    /// Puts a row in; returns the one that it displaces.
    pub fn insert(&mut self, row: R) -> Option<R> {
        self.0.insert(row.key(), row)
    }

    /// Takes the row under a key out.
    pub fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<R>
    where
        R::Key: Borrow<Q>,
    {
        self.0.remove(key)
    }

    /// Keeps the rows for which `keep` holds.
    pub fn retain(&mut self, mut keep: impl FnMut(&R) -> bool) {
        self.0.retain(|_, row| keep(row));
    }

    /// The rows, ordered by key.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &R> + ExactSizeIterator {
        self.0.values()
    }

    /// The rows from a key on, ordered by key.
    pub fn from_key(&self, key: &R::Key) -> impl Iterator<Item = &R> {
        self.0.range(key..).map(|(_, row)| row)
    }

    /// The number of rows.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<R: Keyed> Default for Table<R> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<R: Keyed + Clone> Clone for Table<R> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<R: Keyed + PartialEq> PartialEq for Table<R> {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl<R: Keyed + Eq> Eq for Table<R> {}

impl<R: Keyed + fmt::Debug> fmt::Debug for Table<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.values()).finish()
    }
}

impl<R: Keyed> FromIterator<R> for Table<R> {
    fn from_iter<I: IntoIterator<Item = R>>(rows: I) -> Self {
        Self(rows.into_iter().map(|row| (row.key(), row)).collect())
    }
}

impl<R: Keyed> Extend<R> for Table<R> {
    fn extend<I: IntoIterator<Item = R>>(&mut self, rows: I) {
        self.0.extend(rows.into_iter().map(|row| (row.key(), row)));
    }
}

impl<'a, R: Keyed> IntoIterator for &'a Table<R> {
    type Item = &'a R;
    type IntoIter = std::collections::btree_map::Values<'a, R::Key, R>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.values()
    }
}

impl<R: Keyed + Serialize> Serialize for Table<R> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.values())
    }
}

impl<'de, R: Keyed + Deserialize<'de>> Deserialize<'de> for Table<R> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Vec::<R>::deserialize(deserializer)?.into_iter().collect())
    }
}
