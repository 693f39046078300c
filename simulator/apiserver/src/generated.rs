//! Objects that are stored without what can be made anew: a stub has all of an object's metadata, and [`Generator`] the rest.

use std::sync::Arc;

use serde_json::{Value, json};

use super::kept;
use super::resource::Resource;
use super::status::Status;
use super::store::{Store, key};

/// Makes the rest of objects that are stored as stubs.
pub trait Generator: std::fmt::Debug + Send + Sync {
    /// Fills in everything but metadata.
    fn complete(&self, stub: &mut Value);
}

/// Where a stub says that it is one: no client can write it, since it is no name of a field.
const MARK: &str = "\0generated";

/// Whether an object is a stub.
#[must_use]
pub fn is_stub(object: &Value) -> bool {
    object.get(MARK).is_some()
}

impl Store {
    /// Has a kind's stubs completed by a generator; to be called before there is one.
    pub fn generate(&self, resource: Resource, generator: Arc<dyn Generator>) {
        self.write(|inner| inner.generators.insert(resource.table(), generator));
    }

    /// Puts the stub of an object in the place of whatever is there, as a new version of it.
    ///
    /// # Errors
    /// Its namespace does not exist.
    pub fn put_stub(
        &self,
        resource: Resource,
        namespace: Option<&str>,
        name: &str,
        revision: u64,
    ) -> Result<(), Status> {
        let put = self.write(|inner| {
            let Some(old) = inner.get(resource, &key(namespace, name)) else {
                let stub = json!({"metadata": {"name": name}, MARK: revision});
                return inner.create(resource, namespace, stub);
            };
            let new = json!({
                "kind": old["kind"], "apiVersion": old["apiVersion"], "metadata": old["metadata"], MARK: revision,
            });
            Ok(inner.replace(resource, &old, new))
        });
        put.map(drop)
    }

    /// Whether an object is there as a stub.
    #[must_use]
    pub fn is_stub(&self, resource: Resource, namespace: Option<&str>, name: &str) -> bool {
        let inner = self.lock();
        let held = inner.get(resource, &key(namespace, name));
        held.is_some_and(|object| is_stub(&object))
    }

    /// An object as it is read: a stub with all that is left out of it.
    pub(crate) fn whole(&self, resource: Resource, object: &Arc<Value>) -> Arc<Value> {
        if !is_stub(object) {
            return object.clone();
        }
        // Not under the lock: it may take milliseconds.
        let generator = self.lock().generators.get(&resource.table()).cloned();
        let mut whole = (**object).clone();
        if let Some(fields) = whole.as_object_mut() {
            fields.shift_remove(MARK);
        }
        if let Some(generator) = generator {
            generator.complete(&mut whole);
        }
        Arc::new(whole)
    }

    /// Stores as a whole what is about to be changed; its version stays.
    pub fn materialize(&self, resource: Resource, namespace: Option<&str>, name: &str) {
        let key = key(namespace, name);
        let held = self.lock().get(resource, &key);
        let Some(stub) = held.filter(|object| is_stub(object)) else {
            return;
        };
        let whole = self.whole(resource, &stub);
        let mut inner = self.lock();
        // Somebody may have been faster.
        if inner
            .get(resource, &key)
            .is_some_and(|now| kept::is_same(&now, &stub))
        {
            inner.share(resource, &whole);
        }
    }
}
