//! Who may do what: roles and bindings, really looked up.

use std::sync::Arc;

use serde_json::Value;

use super::auth::User;
use super::resource::Resource;
use super::status::Status;
use super::store::{Inner, Store, key};

/// What is asked for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Attributes {
    pub(crate) verb: String,
    pub(crate) group: String,
    /// With the subresource: `pods/proxy`.
    pub(crate) resource: String,
    pub(crate) namespace: Option<String>,
    pub(crate) name: Option<String>,
    /// Of a request outside resources.
    pub(crate) path: Option<String>,
}

impl Attributes {
    /// The sentence of a refusal.
    pub(crate) fn refusal(&self, user: &User, resource: Option<Resource>) -> Status {
        let name = self.name.as_deref().unwrap_or_default();
        if let Some(path) = &self.path {
            let why = format!(
                "forbidden: User {:?} cannot {} path {path:?}",
                user.name, self.verb
            );
            let mut status = Status::new(403, "Forbidden", why);
            status.details = serde_json::json!({});
            return status;
        }
        let plural = self
            .resource
            .split('/')
            .next()
            .unwrap_or_default()
            .to_owned();
        let place = match &self.namespace {
            Some(namespace) => format!("in the namespace {namespace:?}"),
            None => "at the cluster scope".to_owned(),
        };
        let why = format!(
            "User {:?} cannot {} resource {:?} in API group {:?} {place}",
            user.name, self.verb, self.resource, self.group
        );
        if let Some(resource) = resource {
            return Status::forbidden(resource, name, why);
        }
        // Only names that the server knows are kept for ever, so an unknown one is written out here.
        let mut subject = match self.group.as_str() {
            "" => plural.clone(),
            group => format!("{plural}.{group}"),
        };
        let mut details = serde_json::Map::new();
        if !name.is_empty() {
            subject.push_str(&format!(" {name:?}"));
            details.insert("name".into(), name.into());
        }
        if !self.group.is_empty() {
            details.insert("group".into(), self.group.as_str().into());
        }
        details.insert("kind".into(), plural.into());
        let mut status = Status::new(403, "Forbidden", format!("{subject} is forbidden: {why}"));
        status.details = details.into();
        status
    }
}

/// Why something is allowed.
pub(crate) fn allowed(store: &Store, user: &User, asked: &Attributes) -> Option<String> {
    if user.is_master() {
        return Some(String::new());
    }
    let inner = store.lock();
    grants(&inner, user, asked.namespace.as_deref())
        .into_iter()
        .find(|grant| grant.rules().any(|rule| covers(rule, asked)))
        .map(|grant| grant.why)
}

/// All rules that hold for a user in a namespace.
pub(crate) fn rules(store: &Store, user: &User, namespace: Option<&str>) -> Vec<Value> {
    let inner = store.lock();
    grants(&inner, user, namespace)
        .iter()
        .flat_map(|grant| grant.rules().cloned())
        .collect()
}

struct Grant {
    role: Arc<Value>,
    why: String,
}

impl Grant {
    fn rules(&self) -> impl Iterator<Item = &Value> {
        self.role["rules"].as_array().into_iter().flatten()
    }
}

fn grants(inner: &Inner, user: &User, namespace: Option<&str>) -> Vec<Grant> {
    let mut grants = Vec::new();
    let everywhere = inner
        .list(Resource::CLUSTER_ROLE_BINDINGS, None)
        .map(|binding| ("ClusterRoleBinding", binding));
    let here = namespace
        .into_iter()
        .flat_map(|namespace| inner.list(Resource::ROLE_BINDINGS, Some(namespace)))
        .map(|binding| ("RoleBinding", binding));
    for (kind, binding) in everywhere.chain(here) {
        let place = binding["metadata"]["namespace"].as_str();
        let Some(subject) = binding["subjects"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|subject| is_subject(subject, user))
        else {
            continue;
        };
        let Some(role) = role_of(inner, &binding["roleRef"], place) else {
            continue;
        };
        let named = |value: &Value, place: Option<&str>| {
            let name = value["name"].as_str().unwrap_or_default();
            match place {
                Some(place) => format!("{name}/{place}"),
                None => name.to_owned(),
            }
        };
        let why = format!(
            "RBAC: allowed by {kind} {:?} of {} {:?} to {} {:?}",
            named(&binding["metadata"], place),
            binding["roleRef"]["kind"].as_str().unwrap_or_default(),
            binding["roleRef"]["name"].as_str().unwrap_or_default(),
            subject["kind"].as_str().unwrap_or_default(),
            named(subject, subject["namespace"].as_str()),
        );
        grants.push(Grant { role, why });
    }
    grants
}

fn role_of(inner: &Inner, reference: &Value, namespace: Option<&str>) -> Option<Arc<Value>> {
    let name = reference["name"].as_str()?;
    match reference["kind"].as_str()? {
        "ClusterRole" => inner.get(Resource::CLUSTER_ROLES, &key(None, name)),
        _ => inner.get(Resource::ROLES, &key(Some(namespace?), name)),
    }
}

fn is_subject(subject: &Value, user: &User) -> bool {
    let name = subject["name"].as_str().unwrap_or_default();
    match subject["kind"].as_str() {
        Some("User") => user.name == name,
        Some("Group") => user.groups.iter().any(|group| group == name),
        Some("ServiceAccount") => {
            let namespace = subject["namespace"].as_str().unwrap_or_default();
            user.name == format!("system:serviceaccount:{namespace}:{name}")
        }
        _ => false,
    }
}

fn has(list: &Value, wanted: &str) -> bool {
    list.as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .any(|entry| entry == "*" || entry == wanted)
}

fn covers(rule: &Value, asked: &Attributes) -> bool {
    if !has(&rule["verbs"], &asked.verb) {
        return false;
    }
    if let Some(path) = &asked.path {
        return rule["nonResourceURLs"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .any(|url| match url.strip_suffix('*') {
                Some(prefix) => path.starts_with(prefix),
                None => path == url,
            });
    }
    let subresource = asked.resource.split_once('/').map(|(_, sub)| sub);
    let resource = has(&rule["resources"], &asked.resource)
        || subresource.is_some_and(|sub| has(&rule["resources"], &format!("*/{sub}")));
    let names = &rule["resourceNames"];
    let named = names.as_array().is_none_or(Vec::is_empty)
        || asked.name.as_ref().is_some_and(|name| {
            names
                .as_array()
                .is_some_and(|names| names.iter().any(|one| one.as_str() == Some(name)))
        });
    has(&rule["apiGroups"], &asked.group) && resource && named
}

/// Refuses to grant what the writer does not have: rules of a role, and the role of a binding.
pub(crate) fn check_escalation(
    store: &Store,
    user: &User,
    resource: Resource,
    object: &Value,
) -> Result<(), Status> {
    if user.is_master() {
        return Ok(());
    }
    let namespace = object["metadata"]["namespace"].as_str();
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let ask = |verb: &str, plural: &str, name: &str| Attributes {
        verb: verb.to_owned(),
        group: Resource::ROLES.group.to_owned(),
        resource: plural.to_owned(),
        namespace: namespace.map(str::to_owned),
        name: Some(name.to_owned()),
        path: None,
    };
    let wanted = match resource.plural {
        "roles" | "clusterroles" => {
            if allowed(store, user, &ask("escalate", resource.plural, name)).is_some() {
                return Ok(());
            }
            object["rules"].as_array().cloned().unwrap_or_default()
        }
        "rolebindings" | "clusterrolebindings" => {
            let reference = &object["roleRef"];
            let plural = match reference["kind"].as_str() {
                Some("Role") => "roles",
                _ => "clusterroles",
            };
            let role = reference["name"].as_str().unwrap_or_default();
            if allowed(store, user, &ask("bind", plural, role)).is_some() {
                return Ok(());
            }
            let inner = store.lock();
            let Some(role) = role_of(&inner, reference, namespace) else {
                let of = if plural == "roles" {
                    Resource::ROLES
                } else {
                    Resource::CLUSTER_ROLES
                };
                return Err(Status::not_found(of, role));
            };
            role["rules"].as_array().cloned().unwrap_or_default()
        }
        _ => return Ok(()),
    };
    let held = rules(store, user, namespace);
    for rule in &wanted {
        for asked in atoms(rule) {
            if !held.iter().any(|rule| covers(rule, &asked)) {
                return Err(Status::forbidden(
                    resource,
                    name,
                    format!(
                        "user {:?} (groups={:?}) is attempting to grant RBAC permissions not currently held:\n{rule}",
                        user.name, user.groups
                    ),
                ));
            }
        }
    }
    Ok(())
}

/// Every single thing that a rule allows.
fn atoms(rule: &Value) -> Vec<Attributes> {
    let words = |name: &str| -> Vec<String> {
        rule[name]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|word| word.as_str().map(str::to_owned))
            .collect()
    };
    let names: Vec<Option<String>> = match words("resourceNames") {
        names if names.is_empty() => vec![None],
        names => names.into_iter().map(Some).collect(),
    };
    let mut atoms = Vec::new();
    for verb in words("verbs") {
        for group in words("apiGroups") {
            for resource in words("resources") {
                for name in &names {
                    atoms.push(Attributes {
                        verb: verb.clone(),
                        group: group.clone(),
                        resource: resource.clone(),
                        name: name.clone(),
                        ..Attributes::default()
                    });
                }
            }
        }
        for url in words("nonResourceURLs") {
            atoms.push(Attributes {
                verb: verb.clone(),
                path: Some(url),
                ..Attributes::default()
            });
        }
    }
    atoms
}
