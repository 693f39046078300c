//! Rules of the built-in kinds, and of names; the rules of other kinds are in their schemas.

use serde_json::{Value, json};

use super::crd_schema;
use super::kinds::Served;
use super::resource::Resource;
use super::selector;
use super::status::{Cause, Status};
use super::{endpoints, priority, replicated};

/// Checks a new state of an object, against the old one where there is one.
pub(crate) fn object(served: &Served, new: &Value, old: Option<&Value>) -> Result<(), Status> {
    let r = served.resource;
    let mut causes = Vec::new();
    let metadata = &new["metadata"];
    match metadata["name"].as_str() {
        None | Some("") => causes.push(Cause::required(
            "metadata.name",
            "name or generateName is required",
        )),
        Some(name) => {
            if old.is_none()
                && let Some(rule) = name_rule(r, name)
            {
                causes.push(Cause::invalid("metadata.name", &name.into(), rule));
            }
        }
    }
    labels(&metadata["labels"], "metadata.labels", &mut causes);
    finalizers(&metadata["finalizers"], &mut causes);
    owners(&metadata["ownerReferences"], &mut causes);
    let annotations = size_of(&metadata["annotations"]);
    if annotations > LARGEST_ANNOTATIONS {
        causes.push(Cause::too_long("metadata.annotations", LARGEST_ANNOTATIONS));
    }
    for (key, _) in metadata["annotations"].as_object().into_iter().flatten() {
        if !qualified(&key.to_lowercase()) {
            causes.push(Cause::invalid(
                "metadata.annotations",
                &key.as_str().into(),
                QUALIFIED,
            ));
        }
    }
    if let Some(schema) = &served.custom {
        let mut found = Vec::new();
        crd_schema::validate(schema, new, &mut found);
        if let Some(old) = old {
            // Whatever was wrong before and was not touched does not stand in the way of other changes (ratcheting).
            let mut before = Vec::new();
            crd_schema::validate(schema, old, &mut before);
            found.retain(|cause| {
                let is_touched = at(old, &cause.field) != at(new, &cause.field);
                is_touched || !before.contains(cause)
            });
        }
        causes.append(&mut found);
    } else if r == Resource::DAEMON_SETS {
        workload(r, new, old, &mut causes);
    } else if r == Resource::DEPLOYMENTS || r == Resource::REPLICA_SETS {
        workload(r, new, old, &mut causes);
        replicated::workload(new, &mut causes);
    } else if r == Resource::ENDPOINTS {
        endpoints::endpoints(new, &mut causes);
    } else if r == Resource::ENDPOINT_SLICES {
        endpoints::slice(new, old, &mut causes);
    } else if r == Resource::PRIORITY_CLASSES {
        priority::class(new, old, &mut causes);
    } else if r == Resource::PODS {
        pod(new, old, &mut causes);
    } else if r == Resource::LEASES {
        lease(new, &mut causes);
    } else if r == Resource::SERVICES {
        service(new, &mut causes);
    } else if r == Resource::CUSTOM_RESOURCE_DEFINITIONS {
        crd_schema::definition(new, &mut causes);
    } else if r == Resource::ROLE_BINDINGS || r == Resource::CLUSTER_ROLE_BINDINGS {
        binding(new, old, &mut causes);
    } else if r == Resource::CONFIG_MAPS || r == Resource::SECRETS {
        data(r, new, old, &mut causes);
    }
    if causes.is_empty() {
        Ok(())
    } else {
        let name = metadata["name"].as_str().unwrap_or_default();
        Err(Status::invalid(r, name, &causes))
    }
}

/// The value at a path such as `spec.ports[0].port`.
fn at<'a>(object: &'a Value, path: &str) -> Option<&'a Value> {
    let steps = path
        .split(['.', '['])
        .map(|step| step.trim_end_matches(']'));
    steps
        .filter(|step| !step.is_empty())
        .try_fold(object, |value, step| match step.parse::<usize>() {
            Ok(index) if value.is_array() => value.get(index),
            _ => value.get(step),
        })
}

const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const QUALIFIED: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const VALUE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";

fn name_rule(resource: Resource, name: &str) -> Option<&'static str> {
    if resource.group == Resource::ROLES.group {
        // Names of roles are path segments and nothing else.
        return (name.contains('/') || name.contains('%') || name == "." || name == "..")
            .then_some("may not contain '/' or '%'");
    }
    let label = |part: &str| {
        let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        !part.is_empty()
            && part.chars().all(inner)
            && !part.starts_with('-')
            && !part.ends_with('-')
    };
    if resource == Resource::NAMESPACES || resource == Resource::SERVICES {
        return (!label(name) || name.len() > 63).then_some(LABEL);
    }
    (!name.split('.').all(label) || name.len() > 253).then_some(SUBDOMAIN)
}

fn qualified(key: &str) -> bool {
    let name = match key.split_once('/') {
        Some((prefix, name)) => {
            if prefix.is_empty() || name.contains('/') {
                return false;
            }
            name
        }
        None => key,
    };
    !name.is_empty() && word(name)
}

/// Whether a text is empty or a label's value.
fn word(text: &str) -> bool {
    let inner = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let outer = |c: Option<char>| c.is_none_or(|c| c.is_ascii_alphanumeric());
    text.len() <= 63
        && text.chars().all(inner)
        && outer(text.chars().next())
        && outer(text.chars().last())
}

fn labels(labels: &Value, field: &str, causes: &mut Vec<Cause>) {
    for (key, value) in labels.as_object().into_iter().flatten() {
        if !qualified(key) {
            causes.push(Cause::invalid(field, &key.as_str().into(), QUALIFIED));
        }
        if !word(value.as_str().unwrap_or_default()) {
            causes.push(Cause::invalid(field, value, VALUE));
        }
    }
}

fn finalizers(list: &Value, causes: &mut Vec<Cause>) {
    const OURS: &[&str] = &["foregroundDeletion", "kubernetes", "orphan"];
    for name in list.as_array().into_iter().flatten() {
        let text = name.as_str().unwrap_or_default();
        if !qualified(text) {
            causes.push(Cause::invalid("metadata.finalizers", name, QUALIFIED));
        } else if !text.contains('/') && !OURS.contains(&text) {
            causes.push(Cause::invalid(
                "metadata.finalizers",
                name,
                "name is neither a standard finalizer name nor is it fully qualified",
            ));
        }
    }
}

fn owners(list: &Value, causes: &mut Vec<Cause>) {
    let (mut controllers, list) = (0, list.as_array());
    for (at, owner) in list.into_iter().flatten().enumerate() {
        let field = format!("metadata.ownerReferences[{at}]");
        for part in ["apiVersion", "kind", "name", "uid"] {
            if owner[part].as_str().unwrap_or_default().is_empty() {
                let empty = owner[part].as_str().unwrap_or_default();
                causes.push(Cause::invalid(
                    format!("{field}.{part}"),
                    &empty.into(),
                    "must not be empty",
                ));
            }
        }
        controllers += usize::from(owner["controller"] == json!(true));
    }
    if controllers > 1 {
        causes.push(Cause::invalid(
            "metadata.ownerReferences",
            &list.map_or(Value::Null, |list| list.clone().into()),
            "Only one reference can have Controller set to true",
        ));
    }
}

/// What all kinds have in common that make pods of a template.
fn workload(resource: Resource, new: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    let spec = &new["spec"];
    if let Some(old) = old
        && old["spec"]["selector"] != spec["selector"]
    {
        causes.push(Cause::invalid(
            "spec.selector",
            &spec["selector"],
            "field is immutable",
        ));
    }
    let selector = &spec["selector"];
    let empty = ["matchLabels", "matchExpressions"].iter().all(|part| {
        selector[*part].as_object().is_none_or(|map| map.is_empty())
            && selector[*part].as_array().is_none_or(Vec::is_empty)
    });
    if empty {
        causes.push(if selector.is_null() {
            Cause::required("spec.selector", "")
        } else {
            Cause::invalid(
                "spec.selector",
                selector,
                format_args!(
                    "empty selector is invalid for {}",
                    resource.kind.to_lowercase()
                ),
            )
        });
    }
    let template = &spec["template"];
    let own = &template["metadata"]["labels"];
    if !empty && !selector::selects(selector, own) {
        causes.push(Cause::invalid(
            "spec.template.metadata.labels",
            own,
            "`selector` does not match template `labels`",
        ));
    }
    labels(own, "spec.template.metadata.labels", causes);
    pod_spec(&template["spec"], "spec.template.spec", causes);
    if let Some(policy) = template["spec"]["restartPolicy"].as_str()
        && policy != "Always"
    {
        causes.push(Cause::unsupported(
            "spec.template.spec.restartPolicy",
            &policy.into(),
            &["Always"],
        ));
    }
}

fn pod_spec(spec: &Value, field: &str, causes: &mut Vec<Cause>) {
    let containers = spec["containers"].as_array();
    if containers.is_none_or(Vec::is_empty) {
        causes.push(Cause::required(format!("{field}.containers"), ""));
    }
    let mut seen = std::collections::BTreeSet::new();
    for (at, container) in containers.into_iter().flatten().enumerate() {
        let field = format!("{field}.containers[{at}]");
        match container["name"].as_str() {
            None | Some("") => causes.push(Cause::required(format!("{field}.name"), "")),
            Some(name) => {
                if name_rule(Resource::NAMESPACES, name).is_some() {
                    causes.push(Cause::invalid(format!("{field}.name"), &name.into(), LABEL));
                }
                if !seen.insert(name) {
                    causes.push(Cause {
                        reason: "FieldValueDuplicate",
                        message: format!("Duplicate value: {name:?}"),
                        field: format!("{field}.name"),
                    });
                }
            }
        }
        if container["image"].as_str().unwrap_or_default().is_empty() {
            causes.push(Cause::required(format!("{field}.image"), ""));
        }
        for (at, port) in container["ports"]
            .as_array()
            .into_iter()
            .flatten()
            .enumerate()
        {
            let number = &port["containerPort"];
            if !number.as_i64().is_some_and(|n| (1..=65535).contains(&n)) {
                causes.push(Cause::invalid(
                    format!("{field}.ports[{at}].containerPort"),
                    number,
                    PORT,
                ));
            }
        }
    }
}

pub(crate) const PORT: &str = "must be between 1 and 65535, inclusive";

const POD_UPDATE: &str = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

fn pod(new: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    pod_spec(&new["spec"], "spec", causes);
    let Some(old) = old else {
        return;
    };
    let mut fixed = [old["spec"].clone(), new["spec"].clone()];
    for spec in &mut fixed {
        for list in ["containers", "initContainers"] {
            let list = spec.get_mut(list).and_then(Value::as_array_mut);
            for container in list.into_iter().flatten() {
                if let Some(container) = container.as_object_mut() {
                    container.shift_remove("image");
                }
            }
        }
        if let Some(spec) = spec.as_object_mut() {
            spec.shift_remove("activeDeadlineSeconds");
            spec.shift_remove("tolerations");
        }
    }
    if fixed[0] != fixed[1] {
        causes.push(Cause::forbidden("spec", POD_UPDATE));
    }
}

fn lease(new: &Value, causes: &mut Vec<Cause>) {
    let spec = &new["spec"];
    if let Some(seconds) = spec["leaseDurationSeconds"].as_i64()
        && seconds <= 0
    {
        causes.push(Cause::invalid(
            "spec.leaseDurationSeconds",
            &seconds.into(),
            "must be greater than 0",
        ));
    }
    if let Some(transitions) = spec["leaseTransitions"].as_i64()
        && transitions < 0
    {
        causes.push(Cause::invalid(
            "spec.leaseTransitions",
            &transitions.into(),
            "must be greater than or equal to 0",
        ));
    }
}

fn service(new: &Value, causes: &mut Vec<Cause>) {
    let spec = &new["spec"];
    let ports = spec["ports"].as_array();
    if ports.is_none_or(Vec::is_empty)
        && spec["clusterIP"] != "None"
        && spec["type"] != "ExternalName"
    {
        causes.push(Cause::required("spec.ports", ""));
    }
    for (at, port) in ports.into_iter().flatten().enumerate() {
        for field in ["port", "targetPort"] {
            let value = &port[field];
            if value.is_string() && field == "targetPort" {
                continue;
            }
            if !value.as_i64().is_some_and(|n| (1..=65535).contains(&n)) {
                causes.push(Cause::invalid(
                    format!("spec.ports[{at}].{field}"),
                    value,
                    PORT,
                ));
            }
        }
    }
    let kinds = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
    if !kinds.iter().any(|kind| spec["type"] == *kind) {
        causes.push(Cause::unsupported("spec.type", &spec["type"], &kinds));
    }
}

fn binding(new: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    let role = &new["roleRef"];
    if let Some(old) = old
        && old["roleRef"] != *role
    {
        causes.push(Cause::invalid("roleRef", role, "cannot change roleRef"));
    }
    if role["name"].as_str().unwrap_or_default().is_empty() {
        causes.push(Cause::required("roleRef.name", ""));
    }
    if !matches!(role["kind"].as_str(), Some("Role" | "ClusterRole")) {
        causes.push(Cause::unsupported(
            "roleRef.kind",
            &role["kind"],
            &["ClusterRole", "Role"],
        ));
    }
    for (at, subject) in new["subjects"].as_array().into_iter().flatten().enumerate() {
        let field = format!("subjects[{at}]");
        if subject["name"].as_str().unwrap_or_default().is_empty() {
            causes.push(Cause::required(format!("{field}.name"), ""));
        }
        match subject["kind"].as_str() {
            Some("ServiceAccount") => {
                if subject["namespace"].as_str().unwrap_or_default().is_empty() {
                    causes.push(Cause::required(format!("{field}.namespace"), ""));
                }
            }
            Some("User" | "Group") => {}
            _ => causes.push(Cause::unsupported(
                format!("{field}.kind"),
                &subject["kind"],
                &["Group", "ServiceAccount", "User"],
            )),
        }
    }
}

/// What all annotations of an object may come to.
const LARGEST_ANNOTATIONS: usize = 256 * 1024;
/// What all values of a config map or a secret may come to.
const LARGEST_DATA: usize = 1024 * 1024;

/// The bytes of a map's keys and texts.
fn size_of(map: &Value) -> usize {
    let entries = map.as_object().into_iter().flatten();
    entries
        .map(|(key, value)| key.len() + value.as_str().map_or(0, str::len))
        .sum()
}

/// The bytes that a map's values stand for: their own, or those that base64 of them stands for.
fn values_of(map: &Value, encoded: bool) -> usize {
    let texts = map.as_object().into_iter().flat_map(|map| map.values());
    texts
        .filter_map(Value::as_str)
        .map(|text| {
            if encoded {
                text.trim_end_matches('=').len() * 3 / 4
            } else {
                text.len()
            }
        })
        .sum()
}

fn data(resource: Resource, new: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    let secret = resource == Resource::SECRETS;
    if values_of(&new["data"], secret) + values_of(&new["binaryData"], true) > LARGEST_DATA {
        causes.push(Cause::too_long(
            if secret { "data" } else { "[]" },
            LARGEST_DATA,
        ));
    }
    for part in ["data", "binaryData"] {
        for (key, _) in new[part].as_object().into_iter().flatten() {
            if key.is_empty()
                || key.len() > 253
                || !key
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
            {
                causes.push(Cause::invalid(
                    format!("{part}[{key}]"),
                    &key.as_str().into(),
                    "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')",
                ));
            }
        }
    }
    if let Some(old) = old
        && old["immutable"] == json!(true)
    {
        for part in ["data", "binaryData", "immutable"] {
            if old[part] != new[part] {
                causes.push(Cause::forbidden(
                    part,
                    "field is immutable when `immutable` is set",
                ));
            }
        }
    }
    if let Some(old) = old
        && old["type"] != new["type"]
    {
        causes.push(Cause::invalid("type", &new["type"], "field is immutable"));
    }
}
