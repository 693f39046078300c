//! Whether whoever links may do what will be done, asked of each API server before it is done.

use std::collections::{BTreeMap, BTreeSet};

use futures::StreamExt as _;
use serde_json::{Value, json};

use super::super::cluster::Cluster;
use super::super::objects::Object;

/// How many questions are asked at a time.
const AT_ONCE: usize = 8;
/// How many are named where much is forbidden.
const SHOWN: usize = 12;
const REVIEWS: &str = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";

/// Something that will be done.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Need {
    group: String,
    /// With its subresource, behind a slash.
    resource: String,
    verb: &'static str,
    /// None for what is in no namespace.
    namespace: Option<String>,
}

impl Need {
    pub(super) fn new(
        verb: &'static str,
        group: &str,
        resource: &str,
        namespace: Option<&str>,
    ) -> Self {
        Self {
            group: group.to_owned(),
            resource: resource.to_owned(),
            verb,
            namespace: namespace.map(str::to_owned),
        }
    }

    /// `daemonsets.apps in namespace kosmos-system`.
    fn object(&self) -> String {
        let mut words = self.resource.clone();
        if !self.group.is_empty() {
            words += &format!(".{}", self.group);
        }
        if let Some(namespace) = &self.namespace {
            words += &format!(" in namespace {namespace}");
        }
        words
    }

    fn question(&self) -> Value {
        let (resource, subresource) = match self.resource.split_once('/') {
            Some((resource, subresource)) => (resource, Some(subresource)),
            None => (self.resource.as_str(), None),
        };
        let mut attributes = json!({"group": self.group, "resource": resource, "verb": self.verb});
        if let Some(namespace) = &self.namespace {
            attributes["namespace"] = namespace.as_str().into();
        }
        if let Some(subresource) = subresource {
            attributes["subresource"] = subresource.into();
        }
        json!({
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": attributes},
        })
    }
}

/// What making these objects, and taking them back, needs.
pub(super) fn of(objects: &[&Object]) -> BTreeSet<Need> {
    let mut needs = BTreeSet::new();
    for object in objects {
        let parts: Vec<&str> = object.collection.split('/').skip(1).collect();
        let (group, rest) = match parts.as_slice() {
            ["api", _, rest @ ..] => ("", rest),
            ["apis", group, _, rest @ ..] => (*group, rest),
            _ => continue,
        };
        let (namespace, plural) = match rest {
            ["namespaces", namespace, plural] => (Some(*namespace), *plural),
            [plural] => (None, *plural),
            _ => continue,
        };
        let verbs = ["create", "delete", "get", "patch"];
        needs.extend(verbs.map(|verb| Need::new(verb, group, plural, namespace)));
    }
    needs
}

/// Which of these an API server does not allow.
///
/// # Errors
/// Why that cannot be told.
pub(super) async fn missing(cluster: &Cluster, needs: BTreeSet<Need>) -> Result<Vec<Need>, String> {
    let everything = Need::new("*", "*", "*", None);
    if is_allowed(cluster, &everything).await? {
        return Ok(Vec::new());
    }
    let asked = needs.into_iter().map(|need| async move {
        let is_allowed = is_allowed(cluster, &need).await?;
        Ok::<_, String>((!is_allowed).then_some(need))
    });
    let mut missing = Vec::new();
    let mut answers = futures::stream::iter(asked).buffered(AT_ONCE);
    while let Some(answer) = answers.next().await {
        missing.extend(answer?);
    }
    Ok(missing)
}

async fn is_allowed(cluster: &Cluster, need: &Need) -> Result<bool, String> {
    let answer: Result<Value, _> = cluster.api.ask(REVIEWS, &need.question()).await;
    let answer = answer.map_err(|failure| failure.to_string())?;
    match &answer["status"]["allowed"] {
        Value::Bool(is_allowed) => Ok(*is_allowed),
        _ => Err("its answer to an access review cannot be understood".to_owned()),
    }
}

/// A refusal for what is missing; none where nothing is.
pub(super) fn refusal(cluster: &str, missing: &[Need]) -> Option<String> {
    if missing.is_empty() {
        return None;
    }
    let mut of: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for need in missing {
        of.entry(need.object()).or_default().push(need.verb);
    }
    let each = of.iter();
    let each = each.map(|(object, verbs)| format!("{} {object}", verbs.join("+")));
    let mut words: Vec<String> = each.take(SHOWN).collect();
    if of.len() > SHOWN {
        words.push(format!("{} kinds more", of.len() - SHOWN));
    }
    Some(format!(
        "the kubeconfig of {cluster} may not {}: an administrator of {cluster} has to grant that, or to run this",
        words.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_needs_what_makes_it_and_takes_it_back() {
        let role = Object::new(
            ("rbac.authorization.k8s.io/v1", "Role", "roles"),
            json!({"metadata": {"name": "a", "namespace": "ns"}}),
        );
        let namespace = Object::new(
            ("v1", "Namespace", "namespaces"),
            json!({"metadata": {"name": "ns"}}),
        );
        let needs = of(&[&role, &role, &namespace]);
        let words: Vec<String> = needs
            .iter()
            .map(|need| format!("{} {}", need.verb, need.object()))
            .collect();
        let verbs = ["create", "delete", "get", "patch"];
        let namespaces = verbs.map(|verb| format!("{verb} namespaces"));
        let roles =
            verbs.map(|verb| format!("{verb} roles.rbac.authorization.k8s.io in namespace ns"));
        assert_eq!(words, [namespaces, roles].concat());
    }

    #[test]
    fn a_question_names_the_subresource_apart() {
        let need = Need::new("create", "", "serviceaccounts/token", Some("ns"));
        assert_eq!(
            need.question()["spec"]["resourceAttributes"],
            json!({"group": "", "resource": "serviceaccounts", "subresource": "token", "verb": "create", "namespace": "ns"})
        );
    }

    #[test]
    fn what_is_missing_is_named_with_who_can_help() {
        assert_eq!(refusal("west", &[]), None);
        let needs: Vec<Need> = (0..14)
            .flat_map(|at| ["create", "delete"].map(|verb| (verb, format!("kind{at:02}"))))
            .map(|(verb, plural)| Need::new(verb, "apps", &plural, Some("ns")))
            .collect();
        let text = refusal("west", &needs).expect("a refusal");
        assert!(
            text.contains("create+delete kind00.apps in namespace ns, "),
            "{text}"
        );
        assert!(
            text.contains("2 kinds more: an administrator of west"),
            "{text}"
        );
    }
}
