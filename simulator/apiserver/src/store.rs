//! The objects of one cluster, their one version counter, and the log that watches replay.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use serde_json::{Map, Value, json};
use tokio::sync::Notify;

use super::generated::Generator;
use super::kept::Kept;
use super::kinds::{self, Served};
use super::resource::Resource;
use super::status::Status;
use super::watch::Watch;
use super::{crd, ids};

/// How many changes a watch may lag behind before it has to list again, where nobody says otherwise.
const LOG: usize = 1024;

/// The objects of one cluster.
///
/// Callers inside the process (kubelets, reconcilers) use the methods here, which neither authenticate nor validate;
/// everybody else comes through the API, which does both and ends here.
#[derive(Debug, Default)]
pub struct Store {
    inner: Mutex<Inner>,
    pub(crate) changed: Notify,
}

/// What the lock guards.
#[derive(Debug)]
pub(crate) struct Inner {
    /// How many changes are kept.
    most: usize,
    version: u64,
    /// Changes up to this version are no longer in the log.
    forgotten: u64,
    /// As much of the Leases alone: of each the log has the last change only.
    forgotten_leases: u64,
    tables: BTreeMap<Table, BTreeMap<String, Kept>>,
    log: VecDeque<Change>,
    custom: BTreeMap<Table, Vec<Arc<Served>>>,
    pub(super) generators: BTreeMap<Table, Arc<dyn Generator>>,
}

/// Group and plural.
pub(crate) type Table = (&'static str, &'static str);

/// An entry of the log.
#[derive(Debug, Clone)]
pub(crate) struct Change {
    pub(crate) version: u64,
    pub(crate) table: Table,
    pub(crate) kind: EventKind,
    pub(crate) before: Option<Arc<Value>>,
    pub(crate) object: Arc<Value>,
}

/// What happened to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// It is new.
    Added,
    /// It changed.
    Modified,
    /// It is gone; the event holds its last state.
    Deleted,
    /// The watch lagged too far behind: list again. The event holds null.
    Relist,
}

/// A change of an object.
#[derive(Debug, Clone)]
pub struct Event {
    /// What happened.
    pub kind: EventKind,
    /// The object after it.
    pub object: Arc<Value>,
}

/// `namespace/name`, or `/name` outside namespaces; the order of keys is the order of lists.
pub(crate) fn key(namespace: Option<&str>, name: &str) -> String {
    format!("{}/{name}", namespace.unwrap_or_default())
}

/// The key of an object by its own metadata.
pub(crate) fn key_of(object: &Value) -> String {
    key(
        object["metadata"]["namespace"].as_str(),
        object["metadata"]["name"].as_str().unwrap_or_default(),
    )
}

impl Store {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic in a caller's closure leaves the tables as they were: values are swapped in whole.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs a change under the lock and wakes the watches.
    pub(crate) fn write<T>(&self, change: impl FnOnce(&mut Inner) -> T) -> T {
        let mut inner = self.lock();
        let before = inner.version;
        let result = change(&mut inner);
        let changed = inner.version != before;
        drop(inner);
        if changed {
            self.changed.notify_waiters();
        }
        result
    }

    /// Keeps so many changes from now on, at least one: a watch that lags further behind has to list again. Each change holds an object
    /// as it was and as it is.
    pub fn keep_changes(&self, most: usize) {
        let mut inner = self.lock();
        inner.most = most.max(1);
        inner.trim(most.max(1));
        inner.log.shrink_to_fit();
    }

    /// Keeps as text what nobody holds: less than a tenth of the memory, and an object has to be read whenever it is asked for.
    pub fn pack(&self) {
        let mut inner = self.lock();
        for table in inner.tables.values_mut() {
            table.values_mut().for_each(Kept::pack);
        }
    }

    /// Forgets all changes so far: a watch that has not seen one of them has to list again.
    pub fn forget_changes(&self) {
        let mut inner = self.lock();
        inner.trim(0);
        inner.log.shrink_to_fit();
    }

    /// The version of the last change.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.lock().version
    }

    /// One object.
    #[must_use]
    pub fn get(
        &self,
        resource: Resource,
        namespace: Option<&str>,
        name: &str,
    ) -> Option<Arc<Value>> {
        let object = self.lock().get(resource, &key(namespace, name))?;
        Some(self.whole(resource, &object))
    }

    /// The objects of a kind, in all namespaces if none is given, and the version of the list. Those that are generated have only
    /// metadata here.
    #[must_use]
    pub fn list(&self, resource: Resource, namespace: Option<&str>) -> (Vec<Arc<Value>>, u64) {
        let inner = self.lock();
        let objects = inner.list(resource, namespace).collect();
        (objects, inner.version)
    }

    /// Adds an object; its metadata gets what the API gives it.
    ///
    /// # Errors
    /// It exists, or its namespace does not.
    pub fn create(
        &self,
        resource: Resource,
        namespace: Option<&str>,
        object: Value,
    ) -> Result<Arc<Value>, Status> {
        self.write(|inner| inner.create(resource, namespace, object))
    }

    /// Changes an object in place; nothing is written if nothing changed.
    ///
    /// # Errors
    /// It does not exist.
    pub fn put(
        &self,
        resource: Resource,
        namespace: Option<&str>,
        name: &str,
        change: impl FnOnce(&mut Value),
    ) -> Result<Arc<Value>, Status> {
        self.write(|inner| {
            let old = inner
                .get(resource, &key(namespace, name))
                .ok_or_else(|| Status::not_found(resource, name))?;
            let mut new = (*old).clone();
            change(&mut new);
            Ok(inner.replace(resource, &old, new))
        })
    }

    /// Changes an object, or makes it from an empty one.
    ///
    /// # Errors
    /// Its namespace does not exist.
    pub fn put_or_create(
        &self,
        resource: Resource,
        namespace: Option<&str>,
        name: &str,
        change: impl FnOnce(&mut Value),
    ) -> Result<Arc<Value>, Status> {
        self.write(|inner| {
            if let Some(old) = inner.get(resource, &key(namespace, name)) {
                let mut new = (*old).clone();
                change(&mut new);
                return Ok(inner.replace(resource, &old, new));
            }
            let mut new = json!({"metadata": {"name": name}});
            change(&mut new);
            inner.create(resource, namespace, new)
        })
    }

    /// Replaces an object's status.
    ///
    /// # Errors
    /// It does not exist.
    pub fn put_status(
        &self,
        resource: Resource,
        namespace: Option<&str>,
        name: &str,
        status: Value,
    ) -> Result<Arc<Value>, Status> {
        self.put(resource, namespace, name, |object| {
            object["status"] = status;
        })
    }

    /// Removes an object without grace; finalizers hold it, marked as being deleted.
    ///
    /// # Errors
    /// It does not exist.
    pub fn delete(
        &self,
        resource: Resource,
        namespace: Option<&str>,
        name: &str,
    ) -> Result<(), Status> {
        self.write(|inner| {
            let old = inner
                .get(resource, &key(namespace, name))
                .ok_or_else(|| Status::not_found(resource, name))?;
            inner.end(resource, &old);
            Ok(())
        })
    }

    /// The changes of a kind after a version (of a list); from 0, all objects first.
    #[must_use]
    pub fn watch(self: &Arc<Self>, resource: Resource, from: u64) -> Watch {
        Watch::new(self.clone(), resource, from)
    }
}

impl Default for Inner {
    fn default() -> Self {
        Self {
            most: LOG,
            version: 0,
            forgotten: 0,
            forgotten_leases: 0,
            tables: BTreeMap::new(),
            log: VecDeque::new(),
            custom: BTreeMap::new(),
            generators: BTreeMap::new(),
        }
    }
}

impl Inner {
    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    /// The next version without a change: what a list taken now may be compared with.
    pub(crate) fn forgotten(&self) -> u64 {
        self.forgotten
    }

    pub(crate) fn get(&self, resource: Resource, key: &str) -> Option<Arc<Value>> {
        Some(self.tables.get(&resource.table())?.get(key)?.value())
    }

    /// Whether an object is there.
    pub(crate) fn has(&self, resource: Resource, key: &str) -> bool {
        let table = self.tables.get(&resource.table());
        table.is_some_and(|table| table.contains_key(key))
    }

    pub(crate) fn list(
        &self,
        resource: Resource,
        namespace: Option<&str>,
    ) -> impl Iterator<Item = Arc<Value>> {
        // '0' follows '/', so the range holds exactly the keys of the namespace.
        let (from, to) = match namespace {
            Some(namespace) => (format!("{namespace}/"), format!("{namespace}0")),
            None => (String::new(), char::MAX.to_string()),
        };
        self.tables
            .get(&resource.table())
            .into_iter()
            .flat_map(move |table| table.range(from.clone()..to.clone()))
            .map(|(_, object)| object.value())
    }

    /// The changes after a version, oldest first; nothing if some of them are forgotten.
    pub(crate) fn since(&self, version: u64) -> Option<impl Iterator<Item = &Change>> {
        if version < self.forgotten {
            return None;
        }
        let start = self.log.partition_point(|change| change.version <= version);
        Some(self.log.range(start..))
    }

    /// The changes of a kind after a version, oldest first; nothing if some of them are forgotten.
    pub(crate) fn since_of(
        &self,
        resource: Resource,
        version: u64,
    ) -> Option<impl Iterator<Item = &Change>> {
        let table = resource.table();
        if table == Resource::LEASES.table() && version < self.forgotten_leases {
            return None;
        }
        let changes = self.since(version)?;
        Some(changes.filter(move |change| change.table == table))
    }

    /// Every table that holds something.
    pub(crate) fn tables(&self) -> impl Iterator<Item = Table> {
        self.tables
            .iter()
            .filter(|(_, objects)| !objects.is_empty())
            .map(|(table, _)| *table)
    }

    /// A kind by group, version and plural.
    pub(crate) fn served(&self, group: &str, version: &str, plural: &str) -> Option<Arc<Served>> {
        kinds::builtin(group, version, plural).cloned().or_else(|| {
            self.custom()
                .find(|served| {
                    let r = served.resource;
                    r.group == group && r.version == version && r.plural == plural
                })
                .cloned()
        })
    }

    /// The kinds that clients defined.
    pub(crate) fn custom(&self) -> impl Iterator<Item = &Arc<Served>> {
        self.custom.values().flatten()
    }

    /// The kind behind a table.
    pub(crate) fn of_table(&self, (group, plural): Table) -> Option<&Arc<Served>> {
        kinds::builtins()
            .iter()
            .find(|served| served.resource.table() == (group, plural))
            .or_else(|| self.custom.get(&(group, plural))?.first())
    }

    /// Adds an object, with the metadata of a new one.
    pub(crate) fn create(
        &mut self,
        resource: Resource,
        namespace: Option<&str>,
        mut object: Value,
    ) -> Result<Arc<Value>, Status> {
        let served = self.of_table(resource.table()).cloned();
        complete(resource, served.as_deref(), namespace, &mut object);
        let key = key_of(&object);
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        if let Some(namespace) = namespace.filter(|_| resource.namespaced)
            && self
                .get(Resource::NAMESPACES, &format!("/{namespace}"))
                .is_none()
        {
            return Err(Status::not_found(Resource::NAMESPACES, namespace));
        }
        if let Some(old) = self.get(resource, &key) {
            let deleting = old["metadata"]["deletionTimestamp"].is_string();
            return Err(Status::already_exists(resource, name, deleting));
        }
        Ok(self.set(resource, key, object))
    }

    /// Puts the new state of an object; a state that nothing holds any more is a removal.
    pub(crate) fn replace(
        &mut self,
        resource: Resource,
        old: &Arc<Value>,
        mut new: Value,
    ) -> Arc<Value> {
        if **old == new {
            return old.clone();
        }
        let generation = self
            .of_table(resource.table())
            .is_some_and(|served| served.generation);
        let deletes = |value: &Value| value["metadata"]["deletionTimestamp"].is_string();
        if generation
            && (!same_intent(old, &new) || deletes(&new) && !deletes(old) && held(resource, &new))
        {
            let next = old["metadata"]["generation"].as_i64().unwrap_or(0) + 1;
            new["metadata"]["generation"] = next.into();
        }
        let key = key_of(old);
        if deletes(&new) && !held(resource, &new) {
            self.take(resource, &key, Some(new))
                .unwrap_or_else(|| old.clone())
        } else {
            self.set(resource, key, new)
        }
    }

    /// Deletes an object at once, or marks it where something holds it.
    pub(crate) fn end(&mut self, resource: Resource, old: &Arc<Value>) -> Arc<Value> {
        let mut new = (**old).clone();
        mark_deleted(&mut new, 0);
        if held(resource, &new) {
            return self.replace(resource, old, new);
        }
        // Reported as it was: nobody ever saw it marked.
        self.take(resource, &key_of(old), None)
            .unwrap_or_else(|| old.clone())
    }

    fn set(&mut self, resource: Resource, key: String, mut object: Value) -> Arc<Value> {
        self.version += 1;
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        let object = Arc::new(object);
        let before = self
            .tables
            .entry(resource.table())
            .or_default()
            .insert(key, Kept::Whole(object.clone()))
            .map(|before| before.value());
        let added = before.is_none();
        self.record(
            resource,
            if added {
                EventKind::Added
            } else {
                EventKind::Modified
            },
            before,
            object.clone(),
        );
        if resource.table() == Resource::CUSTOM_RESOURCE_DEFINITIONS.table() {
            self.define(&object);
        }
        if added && resource.table() == Resource::NAMESPACES.table() {
            self.seed_namespace(object["metadata"]["name"].as_str().unwrap_or_default());
        }
        object
    }

    /// Puts an object that other clusters share as it is.
    pub(crate) fn share(&mut self, resource: Resource, object: &Arc<Value>) {
        self.tables
            .entry(resource.table())
            .or_default()
            .insert(key_of(object), Kept::Whole(object.clone()));
        if resource.table() == Resource::CUSTOM_RESOURCE_DEFINITIONS.table() {
            self.define(object);
        }
    }

    /// Starts the count where shared objects end.
    pub(crate) fn start_at(&mut self, version: u64) {
        self.version = self.version.max(version);
        self.forgotten = self.version;
        self.log.clear();
    }

    /// Removes an object, with the last state, which watches report.
    pub(crate) fn take(
        &mut self,
        resource: Resource,
        key: &str,
        last: Option<Value>,
    ) -> Option<Arc<Value>> {
        let before = self.tables.get_mut(&resource.table())?.remove(key)?.value();
        self.version += 1;
        let mut last = last.unwrap_or_else(|| (*before).clone());
        last["metadata"]["resourceVersion"] = self.version.to_string().into();
        let last = Arc::new(last);
        self.record(resource, EventKind::Deleted, Some(before), last.clone());
        if resource.table() == Resource::CUSTOM_RESOURCE_DEFINITIONS.table() {
            let group = last["spec"]["group"].as_str().unwrap_or_default();
            let plural = last["spec"]["names"]["plural"].as_str().unwrap_or_default();
            self.custom.retain(|table, _| *table != (group, plural));
        }
        Some(last)
    }

    fn record(
        &mut self,
        resource: Resource,
        kind: EventKind,
        before: Option<Arc<Value>>,
        object: Arc<Value>,
    ) {
        if resource.table() == Resource::LEASES.table() {
            self.forget_renewal(before.as_ref());
        }
        self.trim(self.most.saturating_sub(1));
        self.log.push_back(Change {
            version: self.version,
            table: resource.table(),
            kind,
            before,
            object,
        });
    }

    /// Forgets the change before of a Lease that changes again: every node renews its own all the time, and what others watch is not to
    /// make room for that. Whoever watches Leases and has not seen it yet has to list again.
    fn forget_renewal(&mut self, before: Option<&Arc<Value>>) {
        let version = before.and_then(|before| before["metadata"]["resourceVersion"].as_str());
        let version = version.and_then(|version| version.parse::<u64>().ok());
        let at = version.map(|version| self.log.binary_search_by_key(&version, |one| one.version));
        if let Some(Ok(at)) = at
            && let Some(change) = self.log.remove(at)
        {
            self.forgotten_leases = change.version;
        }
    }

    /// Forgets the oldest changes.
    fn trim(&mut self, most: usize) {
        while self.log.len() > most
            && let Some(oldest) = self.log.pop_front()
        {
            self.forgotten = oldest.version;
        }
    }

    fn define(&mut self, definition: &Arc<Value>) {
        let served = crd::served(definition);
        if let Some(first) = served.first() {
            self.custom.insert(first.resource.table(), served);
        }
    }

    /// What every namespace has by itself, as far as it is missing.
    pub(crate) fn seed_namespace(&mut self, namespace: &str) {
        let account = json!({"metadata": {"name": "default"}});
        let root = json!({
            "metadata": {
                "name": "kube-root-ca.crt",
                "annotations": {"kubernetes.io/description": "The certificates that the API is verified with."},
                "managedFields": [{
                    "manager": "kube-controller-manager", "operation": "Update", "apiVersion": "v1",
                    "time": stamp(Timestamp::now()), "fieldsType": "FieldsV1", "fieldsV1": {
                        "f:data": {".": {}, "f:ca.crt": {}},
                        "f:metadata": {"f:annotations": {".": {}, "f:kubernetes.io/description": {}}},
                    },
                }],
            },
            "data": {"ca.crt": ""},
        });
        // What is there already stays as it is.
        let _ = self.create(Resource::CONFIG_MAPS, Some(namespace), root);
        let _ = self.create(Resource::SERVICE_ACCOUNTS, Some(namespace), account);
    }
}

/// Whether something keeps an object that is being deleted.
fn held(resource: Resource, object: &Value) -> bool {
    let some = |list: &Value| list.as_array().is_some_and(|list| !list.is_empty());
    some(&object["metadata"]["finalizers"])
        || (resource.table() == Resource::NAMESPACES.table() && some(&object["spec"]["finalizers"]))
        || object["metadata"]["deletionGracePeriodSeconds"]
            .as_i64()
            .is_some_and(|grace| grace > 0)
}

/// Whether two states differ only in metadata and status.
fn same_intent(old: &Value, new: &Value) -> bool {
    let (Some(old), Some(new)) = (old.as_object(), new.as_object()) else {
        return false;
    };
    let intent = |map: &'_ Map<String, Value>, other: &Map<String, Value>| {
        map.iter().all(|(name, value)| {
            matches!(name.as_str(), "metadata" | "status") || other.get(name) == Some(value)
        })
    };
    intent(old, new) && intent(new, old)
}

/// Marks an object as being deleted, from now on or a grace later.
pub(crate) fn mark_deleted(object: &mut Value, grace: i64) {
    let metadata = &mut object["metadata"];
    if !metadata["deletionTimestamp"].is_string() || grace == 0 {
        let at = Timestamp::now()
            .checked_add(jiff::SignedDuration::from_secs(grace))
            .unwrap_or(Timestamp::MAX);
        metadata["deletionTimestamp"] = stamp(at).into();
    }
    metadata["deletionGracePeriodSeconds"] = grace.into();
}

/// Now, as `metadata` writes times.
pub(crate) fn now() -> String {
    stamp(Timestamp::now())
}

/// A time as `metadata` writes it.
pub(crate) fn stamp(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Gives a new object what every object has.
pub(crate) fn complete(
    resource: Resource,
    served: Option<&Served>,
    namespace: Option<&str>,
    object: &mut Value,
) {
    let Some(fields) = object.as_object_mut() else {
        *object = json!({"metadata": {}});
        return complete(resource, served, namespace, object);
    };
    if !fields.contains_key("kind") {
        let rest = std::mem::take(fields);
        fields.insert("kind".into(), resource.kind.into());
        fields.insert("apiVersion".into(), resource.api_version().into());
        fields.extend(rest);
    }
    let metadata = fields
        .entry("metadata")
        .or_insert_with(|| Value::Object(Map::new()));
    if let Some(namespace) = namespace.filter(|_| resource.namespaced) {
        metadata["namespace"] = namespace.into();
    }
    if !metadata["uid"].is_string() {
        metadata["uid"] = ids::uid().into();
    }
    if !metadata["creationTimestamp"].is_string() {
        metadata["creationTimestamp"] = stamp(Timestamp::now()).into();
    }
    if served.is_some_and(|served| served.generation) {
        metadata["generation"] = 1.into();
    }
    if resource.table() == Resource::NAMESPACES.table() {
        let name = metadata["name"].clone();
        metadata["labels"]["kubernetes.io/metadata.name"] = name;
        object["spec"] = json!({"finalizers": ["kubernetes"]});
        object["status"] = json!({"phase": "Active"});
    }
}
