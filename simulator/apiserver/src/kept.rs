//! An object as it lies in memory: as a value while it is worked with, as text while nobody asks for it.
//!
//! A pod takes 70 KiB as a value, most of it for the fields of `managedFields`, and 6 as text. A fleet of thousands of clusters holds its
//! objects as text, and reads one when somebody wants it.

use std::sync::Arc;

use serde_json::Value;

/// An object of a store.
#[derive(Debug)]
pub(crate) enum Kept {
    /// JSON that was written from a value.
    Packed(Box<[u8]>),
    Whole(Arc<Value>),
}

impl Kept {
    /// The object as a value.
    pub(crate) fn value(&self) -> Arc<Value> {
        match self {
            // What was written by serde can be read by it.
            Self::Packed(text) => Arc::new(serde_json::from_slice(text).unwrap_or_default()),
            Self::Whole(value) => value.clone(),
        }
    }

    /// Keeps it as text, unless somebody else holds the value anyhow.
    pub(crate) fn pack(&mut self) {
        if let Self::Whole(value) = self
            && Arc::strong_count(value) == 1
            && let Ok(text) = serde_json::to_vec(&**value)
        {
            *self = Self::Packed(text.into_boxed_slice());
        }
    }
}

/// Whether two readings of an object found it in the same state. They need not be one value: what nobody holds is read anew from its text.
pub(crate) fn is_same(one: &Arc<Value>, other: &Arc<Value>) -> bool {
    let is_equal = |field: &str| one["metadata"][field] == other["metadata"][field];
    Arc::ptr_eq(one, other) || is_equal("uid") && is_equal("resourceVersion")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_packed_is_the_same_object_with_its_fields_in_their_order() {
        let object = json!({"z": 1, "a": {"f:metadata": {"f:labels": {}}}, "n": [1.5, -3, null, "\u{1F600}"]});
        let mut kept = Kept::Whole(Arc::new(object.clone()));
        let held = kept.value();
        kept.pack();
        assert!(matches!(kept, Kept::Whole(_)), "somebody holds it");
        drop(held);
        kept.pack();
        assert!(matches!(kept, Kept::Packed(_)));
        assert_eq!(kept.value().to_string(), object.to_string());
        kept.pack();
        assert_eq!(*kept.value(), object);
    }
}
