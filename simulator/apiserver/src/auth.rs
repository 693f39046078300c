//! Who asks: bearer tokens of the administrator and of service accounts.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::HeaderMap;
use jiff::Timestamp;
use ring::hmac;
use serde_json::{Value, json};

use super::ids;
use super::resource::Resource;
use super::status::Status;
use super::store::Store;

/// Who a request is from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) groups: Vec<String>,
    /// The uid of a service account.
    pub(crate) uid: String,
    /// What else is known, by whoever vouched for it.
    pub(crate) extra: BTreeMap<String, Vec<String>>,
}

/// Whoever shows no credentials.
pub(crate) const ANONYMOUS: &str = "system:anonymous";
/// The group of everybody who does.
pub(crate) const AUTHENTICATED: &str = "system:authenticated";
/// The group of everybody who does not.
pub(crate) const UNAUTHENTICATED: &str = "system:unauthenticated";

impl User {
    /// True for members of `system:masters`, who may do everything.
    pub(crate) fn is_master(&self) -> bool {
        self.groups.iter().any(|group| group == "system:masters")
    }

    pub(crate) fn service_account(namespace: &str, name: &str, uid: &str) -> Self {
        Self {
            name: format!("system:serviceaccount:{namespace}:{name}"),
            groups: vec![
                "system:serviceaccounts".to_owned(),
                format!("system:serviceaccounts:{namespace}"),
                AUTHENTICATED.to_owned(),
            ],
            uid: uid.to_owned(),
            extra: BTreeMap::new(),
        }
    }
}

/// The cluster's tokens.
#[derive(Debug)]
pub(crate) struct Tokens {
    admin: String,
    key: hmac::Key,
}

impl Tokens {
    pub(crate) fn new(admin: String) -> Self {
        Self {
            admin,
            key: hmac::Key::new(hmac::HMAC_SHA256, &ids::bytes::<32>()),
        }
    }

    /// A token of a service account, as a JWT, which it is for whoever looks.
    pub(crate) fn issue(
        &self,
        namespace: &str,
        account: &Value,
        seconds: i64,
        audiences: &Value,
        bound: Option<&Value>,
    ) -> (String, Timestamp) {
        let now = Timestamp::now();
        let expires = now
            .checked_add(jiff::SignedDuration::from_secs(seconds))
            .unwrap_or(Timestamp::MAX);
        let name = account["metadata"]["name"].as_str().unwrap_or_default();
        let mut claims = json!({
            "aud": audiences, "iss": ISSUER, "iat": now.as_second(), "exp": expires.as_second(),
            "kubernetes.io": {"namespace": namespace, "serviceaccount": {"name": name, "uid": account["metadata"]["uid"]}},
            "sub": format!("system:serviceaccount:{namespace}:{name}"),
        });
        if let Some(bound) = bound {
            let kind = bound["kind"].as_str().unwrap_or_default().to_lowercase();
            claims["kubernetes.io"][kind] = json!({"name": bound["name"], "uid": bound["uid"]});
        }
        let head = URL_SAFE_NO_PAD.encode(json!({"alg": "HS256", "typ": "JWT"}).to_string());
        let signed = format!("{head}.{}", URL_SAFE_NO_PAD.encode(claims.to_string()));
        let tag = hmac::sign(&self.key, signed.as_bytes());
        (
            format!("{signed}.{}", URL_SAFE_NO_PAD.encode(tag.as_ref())),
            expires,
        )
    }

    /// The user behind a request's credentials; without any, the anonymous one.
    pub(crate) fn user(&self, headers: &HeaderMap, store: &Store) -> Result<User, Status> {
        let Some(value) = headers.get(http::header::AUTHORIZATION) else {
            return Ok(User {
                name: ANONYMOUS.to_owned(),
                groups: vec![UNAUTHENTICATED.to_owned()],
                uid: String::new(),
                extra: BTreeMap::new(),
            });
        };
        let token = value
            .to_str()
            .ok()
            .and_then(|text| {
                let (scheme, token) = text.split_once(' ')?;
                scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
            })
            .ok_or_else(Status::unauthorized)?;
        if same(token.as_bytes(), self.admin.as_bytes()) {
            return Ok(User {
                name: "kubernetes-admin".to_owned(),
                groups: vec!["system:masters".to_owned(), AUTHENTICATED.to_owned()],
                uid: String::new(),
                extra: BTreeMap::new(),
            });
        }
        self.account(token, store).ok_or_else(Status::unauthorized)
    }

    fn account(&self, token: &str, store: &Store) -> Option<User> {
        let (signed, tag) = token.rsplit_once('.')?;
        let tag = URL_SAFE_NO_PAD.decode(tag).ok()?;
        hmac::verify(&self.key, signed.as_bytes(), &tag).ok()?;
        let claims = URL_SAFE_NO_PAD.decode(signed.split_once('.')?.1).ok()?;
        let claims: Value = serde_json::from_slice(&claims).ok()?;
        if claims["exp"].as_i64()? <= Timestamp::now().as_second() {
            return None;
        }
        // A token that was made for somebody else is none of this API's.
        let audiences = claims["aud"].as_array()?;
        if !audiences.iter().any(|audience| audience == ISSUER) {
            return None;
        }
        let bound = &claims["kubernetes.io"];
        let (namespace, account) = (bound["namespace"].as_str()?, &bound["serviceaccount"]);
        let name = account["name"].as_str()?;
        // The account may be gone, or another one of that name may have taken its place.
        let held = store.get(Resource::SERVICE_ACCOUNTS, Some(namespace), name)?;
        let is_there = |kind: &str| {
            let wanted = &bound[kind.to_lowercase()];
            let Some(name) = wanted["name"].as_str() else {
                return true;
            };
            let Some(resource) = bindable(kind) else {
                return false;
            };
            let place = resource.namespaced.then_some(namespace);
            let held = store.get(resource, place, name);
            held.is_some_and(|held| held["metadata"]["uid"] == wanted["uid"])
        };
        if !BINDABLE.iter().all(|(kind, _)| is_there(kind)) {
            return None;
        }
        (held["metadata"]["uid"] == account["uid"]).then(|| {
            User::service_account(namespace, name, account["uid"].as_str().unwrap_or_default())
        })
    }
}

/// The issuer and default audience of tokens.
pub(crate) const ISSUER: &str = "https://floater.test";

/// What a token may be bound to: it ends with the object.
const BINDABLE: &[(&str, Resource)] = &[
    ("Node", Resource::NODES),
    ("Pod", Resource::PODS),
    ("Secret", Resource::SECRETS),
];

/// The kind of an object that a token may be bound to.
pub(crate) fn bindable(kind: &str) -> Option<Resource> {
    let found = BINDABLE.iter().find(|(name, _)| *name == kind);
    found.map(|(_, resource)| *resource)
}

/// Compares without telling by its time where two texts differ.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |acc, (a, b)| acc | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_ends_at_its_time_and_is_of_its_audience() {
        let store = Store::default();
        let inner = json!({"metadata": {"name": "default"}});
        store
            .create(Resource::NAMESPACES, None, inner)
            .expect("a namespace");
        let account = store
            .get(Resource::SERVICE_ACCOUNTS, Some("default"), "default")
            .expect("the account of every namespace");
        let tokens = Tokens::new("admin".to_owned());
        let user = |seconds, audience: &str| {
            let (token, _) = tokens.issue("default", &account, seconds, &json!([audience]), None);
            let mut headers = HeaderMap::new();
            let value = format!("Bearer {token}").parse().expect("a header");
            headers.insert(http::header::AUTHORIZATION, value);
            tokens.user(&headers, &store).map(|user| user.name)
        };
        let name = "system:serviceaccount:default:default".to_owned();
        assert_eq!(user(600, ISSUER), Ok(name));
        assert_eq!(user(0, ISSUER), Err(Status::unauthorized()));
        assert_eq!(user(-1, ISSUER), Err(Status::unauthorized()));
        assert_eq!(user(600, "vault"), Err(Status::unauthorized()));
    }
}
