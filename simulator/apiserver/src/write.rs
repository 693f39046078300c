//! Writes: create, update, patch, apply, delete.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Value, json};

use super::auth::User;
use super::decode::{self, Strictness};
use super::kinds::Served;
use super::managed::{self, Writer};
use super::patch::{self, Patch};
use super::request::Query;
use super::resource::Resource;
use super::status::{Cause, Status};
use super::store::{Inner, Store, key};
use super::{defaults, ids, kept, pod_security, priority, rbac, service_ranges, validate};

/// A write as it was asked for.
pub(crate) struct Write<'a> {
    pub(crate) store: &'a Store,
    pub(crate) served: &'a Arc<Served>,
    pub(crate) user: &'a User,
    pub(crate) namespace: Option<&'a str>,
    pub(crate) name: Option<&'a str>,
    pub(crate) subresource: &'a str,
    pub(crate) query: &'a Query,
    pub(crate) media: &'a str,
    pub(crate) agent: &'a str,
    pub(crate) body: &'a Bytes,
}

/// How much of a `generateName` is used.
const LONGEST_PREFIX: usize = 58;
/// The longest name of a field manager.
const LONGEST_MANAGER: usize = 128;

/// What a write is answered with.
pub(crate) struct Written {
    pub(crate) code: u16,
    pub(crate) object: Arc<Value>,
    pub(crate) warnings: Vec<String>,
}

impl Write<'_> {
    fn resource(&self) -> Resource {
        self.served.resource
    }

    fn manager(&self) -> &str {
        self.query.get("fieldManager").unwrap_or_else(|| {
            let agent = self.agent.split('/').next().unwrap_or_default();
            if agent.is_empty() { "unknown" } else { agent }
        })
    }

    /// Refuses names of managers that no owner may have.
    fn check_manager(&self, kind: &str) -> Result<(), Status> {
        let Some(manager) = self.query.get("fieldManager") else {
            return Ok(());
        };
        let cause = if manager.len() > LONGEST_MANAGER {
            Cause::too_long("fieldManager", LONGEST_MANAGER)
        } else if manager.chars().any(char::is_control) {
            Cause::invalid(
                "fieldManager",
                &manager.into(),
                "should only contain printable characters",
            )
        } else {
            return Ok(());
        };
        Err(Status::invalid_options(kind, cause))
    }

    fn book(&self, old: &Value, new: &mut Value) {
        let version = self.resource().api_version();
        let writer = Writer {
            manager: self.manager(),
            api_version: &version,
            subresource: self.subresource,
        };
        managed::update(&self.served.shape, self.served.status, old, new, &writer);
    }

    /// POST of a collection.
    pub(crate) fn create(&self) -> Result<Written, Status> {
        let r = self.resource();
        self.check_manager("CreateOptions")?;
        let dry = self.query.dry_run()?;
        let strictness = Strictness::of(self.query)?;
        let mut object = decode::object(r.kind, self.media, self.body)?;
        decode::check_kind(self.served, &mut object)?;
        let warnings = decode::conform(self.served, &mut object, strictness)?;
        if !object["metadata"].is_object() {
            object["metadata"] = json!({});
        }
        self.place(&mut object)?;
        let fields = &mut object["metadata"];
        for given in [
            "uid",
            "creationTimestamp",
            "deletionTimestamp",
            "generation",
            "resourceVersion",
            "deletionGracePeriodSeconds",
        ] {
            if let Some(fields) = fields.as_object_mut() {
                fields.shift_remove(given);
            }
        }
        let generated = !fields["name"].is_string() && fields["generateName"].is_string();
        if generated {
            let prefix = fields["generateName"].as_str().unwrap_or_default();
            // Room is left for what is added, within the longest label.
            let prefix: String = prefix.chars().take(LONGEST_PREFIX).collect();
            fields["name"] = format!("{prefix}{}", ids::suffix()).into();
        }
        if r.table() == Resource::NAMESPACES.table()
            && let Some(name) = object["metadata"]["name"].as_str().map(str::to_owned)
        {
            object["metadata"]["labels"]["kubernetes.io/metadata.name"] = name.into();
        }
        defaults::fill(self.served, &mut object);
        self.book(&json!({}), &mut object);
        defaults::prepare_create(self.served, &mut object);
        rbac::check_escalation(self.store, self.user, r, &object)?;
        let object = self.store.write(|inner| -> Result<Arc<Value>, Status> {
            self.admit(inner, &object)?;
            self.prioritise(inner, &mut object)?;
            defaults::allocate(inner, self.served, &mut object);
            validate::object(self.served, &object, None)?;
            service_ranges::check(inner, self.served, &object)?;
            if dry {
                return self.rehearse(inner, object);
            }
            inner.create(r, self.namespace, object)
        })?;
        Ok(Written {
            code: 201,
            object,
            warnings,
        })
    }

    /// Puts the namespace of the path into the object and refuses another one.
    fn place(&self, object: &mut Value) -> Result<(), Status> {
        let metadata = &mut object["metadata"];
        match (self.namespace, metadata["namespace"].as_str()) {
            (Some(namespace), None | Some("")) => metadata["namespace"] = namespace.into(),
            (Some(namespace), Some(own)) if own != namespace => {
                return Err(Status::bad_request(
                    "the namespace of the provided object does not match the namespace sent on the request",
                ));
            }
            (None, Some(_)) => {
                if let Some(metadata) = metadata.as_object_mut() {
                    metadata.shift_remove("namespace");
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Whether the namespace takes new objects.
    fn admit(&self, inner: &Inner, object: &Value) -> Result<(), Status> {
        let Some(namespace) = self.namespace else {
            return Ok(());
        };
        let Some(found) = inner.get(Resource::NAMESPACES, &key(None, namespace)) else {
            return Err(Status::not_found(Resource::NAMESPACES, namespace));
        };
        if found["metadata"]["deletionTimestamp"].is_string() {
            let name = object["metadata"]["name"].as_str().unwrap_or_default();
            return Err(Status::forbidden(
                self.resource(),
                name,
                format_args!(
                    "unable to create new content in namespace {namespace} because it is being terminated"
                ),
            )
            .with_cause(
                "NamespaceTerminating",
                &format!("namespace {namespace} is being terminated"),
                "metadata.namespace",
            ));
        }
        if self.resource() == Resource::PODS
            && let Some(why) = pod_security::violation(&found, &object["spec"])
        {
            let name = object["metadata"]["name"].as_str().unwrap_or_default();
            return Err(Status::forbidden(self.resource(), name, why));
        }
        Ok(())
    }

    /// Gives a pod the priority of its class.
    fn prioritise(&self, inner: &Inner, object: &mut Value) -> Result<(), Status> {
        if self.resource() != Resource::PODS {
            return Ok(());
        }
        priority::resolve(inner, object).map_err(|why| {
            let name = object["metadata"]["name"].as_str().unwrap_or_default();
            Status::forbidden(self.resource(), name, why)
        })
    }

    /// What creating would have answered.
    fn rehearse(&self, inner: &Inner, mut object: Value) -> Result<Arc<Value>, Status> {
        let name = object["metadata"]["name"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        if let Some(old) = inner.get(self.resource(), &key(self.namespace, &name)) {
            let deleting = old["metadata"]["deletionTimestamp"].is_string();
            return Err(Status::already_exists(self.resource(), &name, deleting));
        }
        super::store::complete(
            self.resource(),
            Some(self.served),
            self.namespace,
            &mut object,
        );
        Ok(Arc::new(object))
    }

    /// PUT of an object.
    pub(crate) fn update(&self) -> Result<Written, Status> {
        let r = self.resource();
        let name = self.name.unwrap_or_default();
        self.check_manager("UpdateOptions")?;
        let strictness = Strictness::of(self.query)?;
        let mut object = decode::object(r.kind, self.media, self.body)?;
        decode::check_kind(self.served, &mut object)?;
        let warnings = decode::conform(self.served, &mut object, strictness)?;
        if !object["metadata"].is_object() {
            object["metadata"] = json!({});
        }
        self.place(&mut object)?;
        match object["metadata"]["name"].as_str() {
            Some(own) if own != name => {
                return Err(Status::bad_request(format!(
                    "the name of the object ({own}) does not match the name on the URL ({name})"
                )));
            }
            Some(_) => {}
            None => return Err(Status::bad_request("name must be provided")),
        }
        if self.store.get(r, self.namespace, name).is_none() && self.may_make(&object) {
            let creates = self.creating();
            if rbac::allowed(self.store, self.user, &creates).is_none() {
                return Err(creates.refusal(self.user, Some(r)));
            }
            return self.create();
        }
        let object = self.change(|_| Ok(object.clone()))?;
        Ok(Written {
            code: 200,
            object,
            warnings,
        })
    }

    /// Whether an update of an object that is not there makes it.
    fn may_make(&self, object: &Value) -> bool {
        let r = self.resource();
        let versioned = object["metadata"]["resourceVersion"]
            .as_str()
            .is_some_and(|version| !matches!(version, "" | "0"));
        self.subresource.is_empty()
            && !versioned
            && (r == Resource::LEASES || r == Resource::EVENTS || r.group == Resource::ROLES.group)
    }

    /// The right to make the object of the path.
    fn creating(&self) -> rbac::Attributes {
        let r = self.resource();
        rbac::Attributes {
            verb: "create".to_owned(),
            group: r.group.to_owned(),
            resource: r.plural.to_owned(),
            namespace: self.namespace.map(str::to_owned),
            name: self.name.map(str::to_owned),
            path: None,
        }
    }

    /// Whether an update has to say of which version it is one.
    fn needs_version(&self) -> bool {
        let r = self.resource();
        self.served.custom.is_some()
            || r == Resource::LEASES
            || r == Resource::CUSTOM_RESOURCE_DEFINITIONS
    }

    /// PATCH of an object.
    pub(crate) fn patch(&self) -> Result<Written, Status> {
        self.check_manager("PatchOptions")?;
        if self.media == patch::APPLY {
            return self.apply();
        }
        let strictness = Strictness::of(self.query)?;
        let patch = Patch::parse(self.media, self.body, self.served.custom.is_some())?;
        let mut warnings = Vec::new();
        let object = self.change(|old| {
            let mut new = patch.apply(&self.served.shape, old)?;
            decode::check_kind(self.served, &mut new)?;
            warnings = decode::conform(self.served, &mut new, strictness)?;
            Ok(new)
        })?;
        Ok(Written {
            code: 200,
            object,
            warnings,
        })
    }

    /// Replaces an object by what is made of it.
    fn change(
        &self,
        mut make: impl FnMut(&Value) -> Result<Value, Status>,
    ) -> Result<Arc<Value>, Status> {
        let r = self.resource();
        let name = self.name.unwrap_or_default();
        let dry = self.query.dry_run()?;
        let absent = || Status::not_found(r, name);
        loop {
            let old = self.store.get(r, self.namespace, name).ok_or_else(absent)?;
            let made = make(&old)?;
            let version = made["metadata"]["resourceVersion"].as_str();
            if self.needs_version() && matches!(version, None | Some("" | "0")) {
                let cause = Cause {
                    reason: "FieldValueInvalid",
                    message: "Invalid value: 0x0: must be specified for an update".to_owned(),
                    field: "metadata.resourceVersion".to_owned(),
                };
                return Err(Status::invalid(r, name, &[cause]));
            }
            if let Some(version) = made["metadata"]["resourceVersion"].as_str()
                && old["metadata"]["resourceVersion"] != version
                && !matches!(version, "" | "0")
            {
                return Err(Status::stale(r, name));
            }
            rbac::check_escalation(self.store, self.user, r, &made)?;
            let new = self.finish(&old, made, true)?;
            validate::object(self.served, &new, Some(&old))?;
            let done = self.store.write(|inner| {
                let held = inner.get(r, &key(self.namespace, name));
                match held {
                    None => Some(Err(absent())),
                    // Somebody was faster: what is asked is asked of the object as it is now.
                    Some(held) if !kept::is_same(&held, &old) => None,
                    Some(held) if dry => {
                        drop(held);
                        Some(Ok(Arc::new(new)))
                    }
                    Some(held) => Some(Ok(inner.replace(r, &held, new))),
                }
            });
            if let Some(done) = done {
                return done;
            }
        }
    }

    /// Makes a client's object one that may be stored: what it may not change is as before, and owners are booked.
    fn finish(&self, old: &Value, made: Value, book: bool) -> Result<Value, Status> {
        let r = self.resource();
        let mut new = made;
        let wrong = ["uid", "name"].iter().find_map(|field| {
            let (before, after) = (&old["metadata"][*field], &new["metadata"][*field]);
            (!after.is_null() && after != "" && before != after)
                .then(|| Cause::invalid(format!("metadata.{field}"), after, "field is immutable"))
        });
        if let Some(cause) = wrong {
            let name = self.name.unwrap_or_default();
            return Err(Status::invalid(r, name, &[cause]));
        }
        if self.subresource == "status" || self.subresource == "finalize" {
            let part = if self.subresource == "status" {
                "status"
            } else {
                "spec"
            };
            let mut kept = old.clone();
            let owners = new["metadata"]["managedFields"].take();
            match new.as_object_mut().and_then(|new| new.shift_remove(part)) {
                Some(value) => kept[part] = value,
                None => {
                    if let Some(kept) = kept.as_object_mut() {
                        kept.shift_remove(part);
                    }
                }
            }
            if owners.is_array() {
                kept["metadata"]["managedFields"] = owners;
            }
            new = kept;
        } else {
            let metadata = old["metadata"].as_object();
            for field in [
                "uid",
                "creationTimestamp",
                "deletionTimestamp",
                "deletionGracePeriodSeconds",
                "generation",
                "generateName",
                "namespace",
            ] {
                match metadata.and_then(|metadata| metadata.get(field)) {
                    Some(value) => new["metadata"][field] = value.clone(),
                    None => {
                        if let Some(metadata) = new["metadata"].as_object_mut() {
                            metadata.shift_remove(field);
                        }
                    }
                }
            }
            if self.served.status {
                restore(&mut new, old, "status");
            }
            if r.table() == Resource::NAMESPACES.table() {
                restore(&mut new, old, "spec");
            }
        }
        new["metadata"]["resourceVersion"] = old["metadata"]["resourceVersion"].clone();
        defaults::fill(self.served, &mut new);
        defaults::prepare_update(self.served, old, &mut new);
        if book {
            self.book(old, &mut new);
            quiet(old, &mut new);
        }
        Ok(new)
    }

    /// Server-side apply.
    fn apply(&self) -> Result<Written, Status> {
        let r = self.resource();
        let name = self.name.unwrap_or_default();
        let dry = self.query.dry_run()?;
        let strictness = Strictness::of(self.query)?;
        let Some(manager) = self.query.get("fieldManager") else {
            return Err(Status::invalid_options(
                "PatchOptions",
                Cause::required("fieldManager", "is required for apply patch"),
            ));
        };
        let mut configuration = decode::yaml(self.body)
            .map_err(|error| Status::bad_request(format!("error encoding patch: {error}")))?;
        if !configuration.is_object() {
            return Err(Status::bad_request("error decoding YAML: not an object"));
        }
        if configuration["metadata"]["managedFields"].is_array() {
            return Err(Status::bad_request("metadata.managedFields must be nil"));
        }
        decode::check_kind(self.served, &mut configuration)?;
        let warnings = decode::conform(self.served, &mut configuration, strictness)?;
        if !configuration["metadata"].is_object() {
            configuration["metadata"] = json!({});
        }
        let force = self.query.is_true("force");
        let version = r.api_version();
        let writer = Writer {
            manager,
            api_version: &version,
            subresource: self.subresource,
        };
        let given = configuration["metadata"]["name"]
            .as_str()
            .map(str::to_owned);
        let mut intent = configuration;
        // Names and versions are no fields to own; a version is a precondition.
        let precondition = intent["metadata"]["resourceVersion"].take();
        if let Some(metadata) = intent["metadata"].as_object_mut() {
            metadata.shift_remove("resourceVersion");
            for field in ["uid", "creationTimestamp", "generation"] {
                metadata.shift_remove(field);
            }
        }
        if self.subresource == "status"
            && let Some(fields) = intent.as_object_mut()
        {
            fields.retain(|field, _| {
                matches!(
                    field.as_str(),
                    "apiVersion" | "kind" | "metadata" | "status"
                )
            });
        } else if self.served.status
            && let Some(fields) = intent.as_object_mut()
        {
            fields.shift_remove("status");
        }
        // An apply that creates needs both rights.
        let creates = self.creating();
        if self.store.get(r, self.namespace, name).is_none()
            && rbac::allowed(self.store, self.user, &creates).is_none()
        {
            return Err(creates.refusal(self.user, Some(r)));
        }
        // Rules and references are owned as a whole, so that the merged object grants what this one does.
        let mut judged = intent.clone();
        self.place(&mut judged)?;
        judged["metadata"]["name"] = name.into();
        rbac::check_escalation(self.store, self.user, r, &judged)?;
        let (code, object) = self.store.write(|inner| {
            let Some(old) = inner.get(r, &key(self.namespace, name)) else {
                if self.subresource == "status" || precondition.is_string() {
                    return Err(Status::not_found(r, name));
                }
                let mut live =
                    json!({"kind": r.kind, "apiVersion": version, "metadata": {"name": name}});
                self.place(&mut live)?;
                self.place(&mut intent)?;
                if r.table() == Resource::NAMESPACES.table() {
                    live["metadata"]["labels"]["kubernetes.io/metadata.name"] = name.into();
                }
                let mut object = managed::apply(
                    &self.served.shape,
                    self.served.status,
                    &live,
                    &intent,
                    &writer,
                    force,
                    |object| defaults::fill(self.served, object),
                )?;
                defaults::prepare_create(self.served, &mut object);
                self.admit(inner, &object)?;
                self.prioritise(inner, &mut object)?;
                defaults::allocate(inner, self.served, &mut object);
                validate::object(self.served, &object, None)?;
                if dry {
                    return Ok((201, self.rehearse(inner, object)?));
                }
                return Ok((201, inner.create(r, self.namespace, object)?));
            };
            if precondition.is_string() && precondition != old["metadata"]["resourceVersion"] {
                return Err(Status::stale(r, name));
            }
            let merged = managed::apply(
                &self.served.shape,
                self.served.status,
                &old,
                &intent,
                &writer,
                force,
                |object| defaults::fill(self.served, object),
            )?;
            if let Some(given) = given.filter(|given| given != name) {
                return Err(Status::bad_request(format!(
                    "the name of the object ({given}) does not match the name on the URL ({name})"
                )));
            }
            let new = self.finish(&old, merged, false)?;
            validate::object(self.served, &new, Some(&old))?;
            if dry {
                return Ok((200, Arc::new(new)));
            }
            Ok((200, inner.replace(r, &old, new)))
        })?;
        Ok(Written {
            code,
            object,
            warnings,
        })
    }
}

fn restore(new: &mut Value, old: &Value, part: &str) {
    match old.get(part) {
        Some(value) => new[part] = value.clone(),
        None => {
            if let Some(new) = new.as_object_mut() {
                new.shift_remove(part);
            }
        }
    }
}

/// A write that changes nothing but the times of owners changes nothing.
fn quiet(old: &Value, new: &mut Value) {
    let timeless = |value: &Value| -> Value {
        let mut owners = value["metadata"]["managedFields"].clone();
        for owner in owners.as_array_mut().into_iter().flatten() {
            if let Some(owner) = owner.as_object_mut() {
                owner.shift_remove("time");
            }
        }
        owners
    };
    if timeless(old) == timeless(new) {
        let mut probe = new.clone();
        probe["metadata"]["managedFields"] = old["metadata"]["managedFields"].clone();
        if probe == *old {
            *new = probe;
        }
    }
}
