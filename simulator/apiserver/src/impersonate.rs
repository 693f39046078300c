//! Asking as somebody else: the `Impersonate-` headers, and whether whoever sends them may.

use std::collections::BTreeMap;

use http::{HeaderMap, HeaderName};

use super::auth::{ANONYMOUS, AUTHENTICATED, UNAUTHENTICATED, User};
use super::rbac::{self, Attributes};
use super::request::decode;
use super::status::Status;
use super::store::Store;

const USER: &str = "impersonate-user";
const GROUP: &str = "impersonate-group";
const UID: &str = "impersonate-uid";
const EXTRA: &str = "impersonate-extra-";

/// Whether a header is one of these, which are between the client and the API.
pub(crate) fn is_ours(name: &HeaderName) -> bool {
    let name = name.as_str();
    matches!(name, USER | GROUP | UID) || name.starts_with(EXTRA)
}

/// Whom a request is to be taken for; the one who sends it, if it does not say.
pub(crate) fn user(store: &Store, headers: &HeaderMap, sender: User) -> Result<User, Status> {
    let all = |name: &str| -> Vec<String> {
        headers
            .get_all(name)
            .iter()
            .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
            .filter(|value| !value.is_empty())
            .collect()
    };
    let first = |name: &str| all(name).into_iter().next().unwrap_or_default();
    let (name, uid) = (first(USER), first(UID));
    let mut groups = all(GROUP);
    let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for header in headers.keys() {
        if let Some(key) = header.as_str().strip_prefix(EXTRA) {
            extra.insert(decode(key).to_lowercase(), all(header.as_str()));
        }
    }
    if name.is_empty() {
        if groups.is_empty() && uid.is_empty() && extra.is_empty() {
            return Ok(sender);
        }
        return Err(Status::new(
            500,
            "InternalError",
            format!(
                "Internal Server Error: requested uid {uid:?}, groups {groups:?} and extra {extra:?} without impersonating a user"
            ),
        ));
    }
    let account = service_account(&name);
    let mut asked = vec![match account {
        Some((namespace, account)) => asking("", "serviceaccounts", account, Some(namespace)),
        None => asking("", "users", &name, None),
    }];
    asked.extend(groups.iter().map(|group| asking("", "groups", group, None)));
    for (key, values) in &extra {
        let resource = format!("userextras/{key}");
        asked.extend(
            values
                .iter()
                .map(|value| asking("authentication.k8s.io", &resource, value, None)),
        );
    }
    if !uid.is_empty() {
        asked.push(asking("authentication.k8s.io", "uids", &uid, None));
    }
    for asked in asked {
        if rbac::allowed(store, &sender, &asked).is_none() {
            return Err(asked.refusal(&sender, None));
        }
    }
    if let Some((namespace, account)) = account
        && groups.is_empty()
    {
        groups = User::service_account(namespace, account, "").groups;
    }
    // Everybody is one or the other.
    if !groups
        .iter()
        .any(|group| group == AUTHENTICATED || group == UNAUTHENTICATED)
    {
        let own = if name == ANONYMOUS {
            UNAUTHENTICATED
        } else {
            AUTHENTICATED
        };
        groups.push(own.to_owned());
    }
    Ok(User {
        name,
        groups,
        uid,
        extra,
    })
}

/// Namespace and name behind the user name of a service account.
fn service_account(user: &str) -> Option<(&str, &str)> {
    let (namespace, name) = user
        .strip_prefix("system:serviceaccount:")?
        .split_once(':')?;
    (!namespace.is_empty() && !name.is_empty() && !name.contains(':')).then_some((namespace, name))
}

fn asking(group: &str, resource: &str, name: &str, namespace: Option<&str>) -> Attributes {
    Attributes {
        verb: "impersonate".to_owned(),
        group: group.to_owned(),
        resource: resource.to_owned(),
        namespace: namespace.map(str::to_owned),
        name: Some(name.to_owned()),
        path: None,
    }
}
