//! Refusals: the `Status` object that every failed request is answered with.

use serde_json::{Value, json};

use super::resource::Resource;

/// Why a request was not done, as a client reads it.
#[derive(Debug, Clone, PartialEq)]
pub struct Status {
    /// The HTTP code.
    pub code: u16,
    /// The machine-readable word; empty where the API has none.
    pub reason: &'static str,
    /// The sentence for people.
    pub message: String,
    /// `details`, or null.
    pub details: Value,
}

/// One broken rule of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// `FieldValueInvalid` and its sisters.
    pub reason: &'static str,
    /// The sentence for people.
    pub message: String,
    /// The field's path.
    pub field: String,
}

impl Cause {
    /// A value that breaks a rule.
    pub fn invalid(field: impl Into<String>, value: &Value, rule: impl std::fmt::Display) -> Self {
        Self {
            reason: "FieldValueInvalid",
            message: format!("Invalid value: {value}: {rule}"),
            field: field.into(),
        }
    }

    /// A value that is missing.
    pub fn required(field: impl Into<String>, why: &str) -> Self {
        Self {
            reason: "FieldValueRequired",
            message: if why.is_empty() {
                "Required value".to_owned()
            } else {
                format!("Required value: {why}")
            },
            field: field.into(),
        }
    }

    /// A value that may not be there.
    pub fn forbidden(field: impl Into<String>, why: &str) -> Self {
        Self {
            reason: "FieldValueForbidden",
            message: format!("Forbidden: {why}"),
            field: field.into(),
        }
    }

    /// A value outside its set.
    pub fn unsupported(field: impl Into<String>, value: &Value, allowed: &[&str]) -> Self {
        let allowed: Vec<String> = allowed.iter().map(|word| format!("{word:?}")).collect();
        Self {
            reason: "FieldValueNotSupported",
            message: format!(
                "Unsupported value: {value}: supported values: {}",
                allowed.join(", ")
            ),
            field: field.into(),
        }
    }

    /// A value that is longer than it may be.
    pub fn too_long(field: impl Into<String>, most: usize) -> Self {
        Self {
            reason: "FieldValueTooLong",
            message: format!("Too long: may not be more than {most} bytes"),
            field: field.into(),
        }
    }

    fn value(&self) -> Value {
        json!({"reason": self.reason, "message": self.message, "field": self.field})
    }
}

impl Status {
    /// A refusal without details.
    pub fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            reason,
            message: message.into(),
            details: Value::Null,
        }
    }

    fn generic(code: u16, reason: &'static str, message: &str) -> Self {
        Self {
            details: json!({}),
            ..Self::new(code, reason, message)
        }
    }

    fn named(mut self, resource: Resource, name: &str) -> Self {
        let mut details = serde_json::Map::new();
        if !name.is_empty() {
            details.insert("name".into(), name.into());
        }
        if !resource.group.is_empty() {
            details.insert("group".into(), resource.group.into());
        }
        details.insert("kind".into(), resource.plural.into());
        self.details = Value::Object(details);
        self
    }

    /// 400.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    /// 401.
    pub fn unauthorized() -> Self {
        Self::new(401, "Unauthorized", "Unauthorized")
    }

    /// 403 of a named object, with a reason in words.
    pub fn forbidden(resource: Resource, name: &str, why: impl std::fmt::Display) -> Self {
        let subject = if name.is_empty() {
            resource.qualified()
        } else {
            format!("{} {name:?}", resource.qualified())
        };
        Self::new(403, "Forbidden", format!("{subject} is forbidden: {why}")).named(resource, name)
    }

    /// 404 of an object.
    pub fn not_found(resource: Resource, name: &str) -> Self {
        Self::new(
            404,
            "NotFound",
            format!("{} {name:?} not found", resource.qualified()),
        )
        .named(resource, name)
    }

    /// 404 of a resource that is not served in a group version that is.
    pub fn no_such_resource() -> Self {
        Self::generic(
            404,
            "NotFound",
            "the server could not find the requested resource",
        )
    }

    /// 404 of everything below the path of a cluster that is not there.
    pub fn no_such_cluster(name: &str) -> Self {
        Self {
            details: json!({"name": name, "kind": "clusters"}),
            ..Self::new(404, "NotFound", format!("clusters {name:?} not found"))
        }
    }

    /// 405.
    pub fn method_not_allowed() -> Self {
        Self::generic(
            405,
            "MethodNotAllowed",
            "the server does not allow this method on the requested resource",
        )
    }

    /// 406.
    pub fn not_acceptable() -> Self {
        Self::generic(
            406,
            "NotAcceptable",
            "406: Not Acceptable\n\nAvailable representations: application/json, application/yaml",
        )
    }

    /// 409 of a creation.
    pub fn already_exists(resource: Resource, name: &str, deleting: bool) -> Self {
        let prefix = if deleting {
            "object is being deleted: "
        } else {
            ""
        };
        Self::new(
            409,
            "AlreadyExists",
            format!("{prefix}{} {name:?} already exists", resource.qualified()),
        )
        .named(resource, name)
    }

    /// 409 of an update.
    pub fn conflict(resource: Resource, name: &str, why: &str) -> Self {
        Self::new(
            409,
            "Conflict",
            format!(
                "Operation cannot be fulfilled on {} {name:?}: {why}",
                resource.qualified()
            ),
        )
        .named(resource, name)
    }

    /// 409 of an update that was made from an older version.
    pub fn stale(resource: Resource, name: &str) -> Self {
        Self::conflict(
            resource,
            name,
            "the object has been modified; please apply your changes to the latest version and try again",
        )
    }

    /// 410: the version is older than what is kept.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message)
    }

    /// 413.
    pub fn too_large(message: impl Into<String>) -> Self {
        let mut status = Self::new(413, "RequestEntityTooLarge", message);
        status.details = json!({});
        status
    }

    /// 415.
    pub fn unsupported_media_type(accepted: &str) -> Self {
        Self::new(
            415,
            "UnsupportedMediaType",
            format!(
                "the body of the request was in an unknown format - accepted media types include: {accepted}"
            ),
        )
    }

    /// 429: the cluster has as many requests as it takes at a time.
    pub fn too_many_requests() -> Self {
        Self {
            details: json!({"retryAfterSeconds": 1}),
            ..Self::new(
                429,
                "TooManyRequests",
                "too many requests, please try again later",
            )
        }
    }

    /// 422 of an object.
    pub fn invalid(resource: Resource, name: &str, causes: &[Cause]) -> Self {
        Self::invalid_kind(resource.kind, resource.group, name, causes)
    }

    /// 422 of request options, which are objects of a kind of their own.
    pub fn invalid_options(kind: &str, cause: Cause) -> Self {
        Self::invalid_kind(kind, "meta.k8s.io", "", &[cause])
    }

    /// 422 of a Scale.
    pub fn invalid_scale(name: &str, cause: Cause) -> Self {
        Self::invalid_kind("Scale", "autoscaling", name, &[cause])
    }

    fn invalid_kind(kind: &str, group: &str, name: &str, causes: &[Cause]) -> Self {
        let texts: Vec<String> = causes
            .iter()
            .map(|cause| format!("{}: {}", cause.field, cause.message))
            .collect();
        let text = if texts.len() == 1 {
            texts.concat()
        } else {
            format!("[{}]", texts.join(", "))
        };
        let subject = if group.is_empty() {
            kind.to_owned()
        } else {
            format!("{kind}.{group}")
        };
        let mut details = serde_json::Map::new();
        if !name.is_empty() {
            details.insert("name".into(), name.into());
        }
        if !group.is_empty() {
            details.insert("group".into(), group.into());
        }
        details.insert("kind".into(), kind.into());
        details.insert(
            "causes".into(),
            causes.iter().map(Cause::value).collect::<Vec<_>>().into(),
        );
        Self {
            code: 422,
            reason: "Invalid",
            message: format!("{subject} {name:?} is invalid: {text}"),
            details: Value::Object(details),
        }
    }

    /// 422 of a JSON patch that does not apply.
    pub fn unprocessable() -> Self {
        Self::generic(
            422,
            "Invalid",
            "the server rejected our request due to an error in our request",
        )
    }

    /// 409 of a server-side apply: fields that other managers own.
    pub fn apply_conflict(conflicts: &[(String, String)]) -> Self {
        let causes: Vec<Value> = conflicts
            .iter()
            .map(|(manager, field)| {
                json!({"reason": "FieldManagerConflict", "message": format!("conflict with {manager}"), "field": field})
            })
            .collect();
        let count = conflicts.len();
        let text = match conflicts {
            [(manager, field)] => format!("conflict with {manager}: {field}"),
            many => many
                .iter()
                .map(|(manager, field)| format!("conflict with {manager}: {field}"))
                .collect::<Vec<_>>()
                .join("\n"),
        };
        let plural = if count == 1 { "" } else { "s" };
        Self {
            code: 409,
            reason: "Conflict",
            message: format!("Apply failed with {count} conflict{plural}: {text}"),
            details: json!({"causes": causes}),
        }
    }

    /// 503.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(503, "ServiceUnavailable", message)
    }

    /// 504.
    pub fn timeout() -> Self {
        Self::generic(
            504,
            "Timeout",
            "Timeout: request did not complete within the allotted timeout",
        )
    }

    /// Adds one cause to the details.
    pub fn with_cause(mut self, reason: &str, message: &str, field: &str) -> Self {
        if !self.details.is_object() {
            self.details = json!({});
        }
        self.details["causes"] = json!([{"reason": reason, "message": message, "field": field}]);
        self
    }

    /// The object.
    #[must_use]
    pub fn to_value(&self) -> Value {
        let mut value = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message,
        });
        if !self.reason.is_empty() {
            value["reason"] = self.reason.into();
        }
        if !self.details.is_null() {
            value["details"] = self.details.clone();
        }
        value["code"] = self.code.into();
        value
    }

    /// The answer of a deletion that is done.
    pub(crate) fn deleted(resource: Resource, name: &str, uid: &Value) -> Value {
        let mut details = json!({"name": name});
        if !resource.group.is_empty() {
            details["group"] = resource.group.into();
        }
        details["kind"] = resource.plural.into();
        details["uid"] = uid.clone();
        json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})
    }
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}: {}", self.code, self.reason, self.message)
    }
}

impl std::error::Error for Status {}
