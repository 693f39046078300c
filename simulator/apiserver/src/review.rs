//! Questions that clients ask about themselves, and tokens of service accounts.

use serde_json::{Value, json};

use super::auth::{self, ISSUER, Tokens, User};
use super::kinds;
use super::managed::{self, Writer};
use super::rbac::{self, Attributes};
use super::resource::Resource;
use super::shape::ANY;
use super::status::{Cause, Status};
use super::store::{Store, stamp};

/// Answers a review by its plural.
pub(crate) fn answer(
    store: &Store,
    user: &User,
    plural: &str,
    mut review: Value,
) -> Result<Value, Status> {
    // A review that does not say what it is, is what its path says.
    let asked = kinds::REVIEWS
        .iter()
        .map(|(resource, _)| resource)
        .find(|resource| resource.plural == plural)
        .ok_or_else(Status::no_such_resource)?;
    for (field, known) in [
        ("kind", asked.kind.to_owned()),
        ("apiVersion", asked.api_version()),
    ] {
        if review[field].is_null() {
            review[field] = known.into();
        } else if review[field] != known {
            return Err(Status::bad_request(format!(
                "{} in version {} cannot be handled as a {}",
                review["kind"], review["apiVersion"], asked.kind
            )));
        }
    }
    if plural.ends_with("accessreviews") {
        let one = ["resourceAttributes", "nonResourceAttributes"]
            .iter()
            .filter(|part| review["spec"][**part].is_object())
            .count();
        if one != 1 {
            let cause = Cause::invalid(
                "spec.resourceAttributes",
                &review["spec"]["resourceAttributes"],
                "exactly one of nonResourceAttributes or resourceAttributes must be specified",
            );
            return Err(Status::invalid(*asked, "", &[cause]));
        }
    }
    let status = match plural {
        "selfsubjectreviews" => json!({"userInfo": who(user)}),
        "selfsubjectaccessreviews" => access(store, user, &review["spec"]),
        "subjectaccessreviews" => {
            let spec = &review["spec"];
            let asked = User {
                name: spec["user"].as_str().unwrap_or_default().to_owned(),
                groups: spec["groups"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .filter_map(|group| group.as_str().map(str::to_owned))
                    .collect(),
                uid: String::new(),
                extra: std::collections::BTreeMap::new(),
            };
            access(store, &asked, spec)
        }
        "selfsubjectrulesreviews" => {
            let namespace = review["spec"]["namespace"].as_str().map(str::to_owned);
            let Some(namespace) = namespace else {
                return Err(Status::bad_request("no namespace on request"));
            };
            let master = user.is_master().then(|| {
                vec![
                    json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}),
                    json!({"verbs": ["*"], "nonResourceURLs": ["*"]}),
                ]
            });
            let rules = master.unwrap_or_else(|| rbac::rules(store, user, Some(&namespace)));
            let (urls, resources): (Vec<Value>, Vec<Value>) = rules
                .into_iter()
                .partition(|rule| rule["nonResourceURLs"].is_array());
            review["spec"] = json!({});
            json!({"resourceRules": resources, "nonResourceRules": urls, "incomplete": false})
        }
        _ => return Err(Status::no_such_resource()),
    };
    let mut answer = json!({
        "kind": review["kind"], "apiVersion": review["apiVersion"], "metadata": {},
        "spec": review["spec"],
    });
    if plural == "selfsubjectreviews"
        && let Some(answer) = answer.as_object_mut()
    {
        answer.shift_remove("spec");
    }
    if plural.ends_with("accessreviews") {
        let version = answer["apiVersion"].as_str().unwrap_or_default().to_owned();
        let writer = Writer {
            manager: "unknown",
            api_version: &version,
            subresource: "",
        };
        managed::update(
            &ANY,
            true,
            &json!({"spec": {}, "metadata": {}}),
            &mut answer,
            &writer,
        );
    }
    answer["status"] = status;
    Ok(answer)
}

/// A user as reviews describe it, empty parts left out.
fn who(user: &User) -> Value {
    let mut info = json!({"username": user.name});
    if !user.uid.is_empty() {
        info["uid"] = user.uid.as_str().into();
    }
    info["groups"] = user.groups.clone().into();
    if !user.extra.is_empty() {
        info["extra"] = json!(user.extra);
    }
    info
}

fn access(store: &Store, user: &User, spec: &Value) -> Value {
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let some = |value: &Value| {
        value
            .as_str()
            .filter(|text| !text.is_empty())
            .map(str::to_owned)
    };
    let attributes = &spec["resourceAttributes"];
    let asked = if attributes.is_object() {
        let resource = word(&attributes["resource"]);
        Attributes {
            verb: word(&attributes["verb"]),
            group: word(&attributes["group"]),
            resource: match some(&attributes["subresource"]) {
                Some(sub) => format!("{resource}/{sub}"),
                None => resource,
            },
            namespace: some(&attributes["namespace"]),
            name: some(&attributes["name"]),
            path: None,
        }
    } else {
        let attributes = &spec["nonResourceAttributes"];
        Attributes {
            verb: word(&attributes["verb"]),
            path: Some(word(&attributes["path"])),
            ..Attributes::default()
        }
    };
    match rbac::allowed(store, user, &asked) {
        Some(why) if why.is_empty() => json!({"allowed": true}),
        Some(why) => json!({"allowed": true, "reason": why}),
        None => json!({"allowed": false}),
    }
}

/// POST of `serviceaccounts/NAME/token`.
pub(crate) fn token(
    store: &Store,
    tokens: &Tokens,
    namespace: &str,
    name: &str,
    request: &Value,
) -> Result<Value, Status> {
    let account = store
        .get(Resource::SERVICE_ACCOUNTS, Some(namespace), name)
        .ok_or_else(|| Status::not_found(Resource::SERVICE_ACCOUNTS, name))?;
    let seconds = request["spec"]["expirationSeconds"]
        .as_i64()
        .unwrap_or(3600);
    let rule = if seconds < 600 {
        Some("may not specify a duration less than 10 minutes")
    } else if seconds > 1 << 32 {
        Some("may not specify a duration larger than 2^32 seconds")
    } else {
        None
    };
    if let Some(rule) = rule {
        let cause = Cause::invalid("spec.expirationSeconds", &seconds.into(), rule);
        let kind = Resource {
            group: "authentication.k8s.io",
            kind: "TokenRequest",
            ..Resource::SERVICE_ACCOUNTS
        };
        return Err(Status::invalid(kind, "", &[cause]));
    }
    let audiences = match request["spec"]["audiences"].as_array() {
        Some(list) if !list.is_empty() => request["spec"]["audiences"].clone(),
        _ => json!([ISSUER]),
    };
    let bound = bound(store, namespace, &request["spec"]["boundObjectRef"])?;
    let (token, expires) = tokens.issue(namespace, &account, seconds, &audiences, bound.as_ref());
    Ok(json!({
        "kind": "TokenRequest", "apiVersion": "authentication.k8s.io/v1",
        "metadata": {
            "name": name, "namespace": namespace, "uid": account["metadata"]["uid"],
            "creationTimestamp": stamp(jiff::Timestamp::now()),
        },
        "spec": {"audiences": audiences, "expirationSeconds": seconds, "boundObjectRef": bound},
        "status": {"token": token, "expirationTimestamp": stamp(expires)},
    }))
}

/// The object that a token is to end with, as far as there is one: a Pod, Secret or Node.
fn bound(store: &Store, namespace: &str, asked: &Value) -> Result<Option<Value>, Status> {
    if !asked.is_object() {
        return Ok(None);
    }
    let kind = asked["kind"].as_str().unwrap_or_default();
    let name = asked["name"].as_str().unwrap_or_default();
    let Some(resource) = auth::bindable(kind) else {
        return Err(Status::bad_request(format!(
            "cannot bind token for serviceaccount to a type {kind:?}"
        )));
    };
    let place = resource.namespaced.then_some(namespace);
    let held = store
        .get(resource, place, name)
        .ok_or_else(|| Status::not_found(resource, name))?;
    let uid = &held["metadata"]["uid"];
    if asked["uid"].is_string() && asked["uid"] != *uid {
        let why = "the UID in the bound object reference does not match the UID in record";
        return Err(Status::conflict(resource, name, why));
    }
    Ok(Some(
        json!({"kind": kind, "apiVersion": "v1", "name": name, "uid": uid}),
    ))
}
