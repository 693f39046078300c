//! Files that hold the objects of a fleet: what `kubectl get -o yaml` or `-o json` prints (Lists, several documents, single
//! objects), or `{clusters: […], clusterNodes: […], nodeConfigs: […]}`.

use std::collections::BTreeMap;

use serde::de::{DeserializeOwned, Error as _, IgnoredAny};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use super::{Source, refusal};
use crate::api::{Fleet, GROUP};
use crate::error::Error;
use crate::printable::Printable;

/// How deep Lists may stand in Lists.
const DEEPEST: usize = 4;

/// The objects of a fleet, in the order of their file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Objects {
    /// Those that the planner knows.
    pub fleet: Fleet,
    /// What was left out, one sentence for each kind.
    pub warnings: Vec<String>,
}

/// Whether the first document is an object of Kubernetes, or has a list of a fleet.
///
/// # Errors
/// [`Error::Input`] where the text is neither JSON nor YAML.
pub fn holds_objects(source: &Source) -> Result<bool, Error> {
    let documents = source.documents()?;
    let keys = ["kind", "clusters", "clusterNodes"];
    Ok(documents
        .first()
        .is_some_and(|document| keys.iter().any(|key| document.get(key).is_some())))
}

/// The objects of a fleet. Those of other kinds are left out with a warning.
///
/// # Errors
/// [`Error::Input`] with the place of what is no object, and where no object is one of a fleet.
pub fn objects(source: &Source) -> Result<Objects, Error> {
    let documents = source.documents()?;
    if let [document] = documents.as_slice()
        && document.get("kind").is_none()
    {
        let fleet = lists(source)?;
        return Ok(Objects {
            fleet,
            warnings: Vec::new(),
        });
    }
    let mut reader = Reader {
        file: &source.name,
        fleet: Fleet::default(),
        others: BTreeMap::new(),
    };
    let count = documents.len();
    for (at, document) in documents.into_iter().enumerate() {
        let place = if count == 1 {
            String::new()
        } else {
            format!("document {}", at + 1)
        };
        reader.document(document, &place)?;
    }
    let Reader { fleet, others, .. } = reader;
    if fleet.clusters.is_empty() && fleet.cluster_nodes.is_empty() && fleet.node_configs.is_empty()
    {
        let found: Vec<&str> = others.keys().map(String::as_str).collect();
        let found = if found.is_empty() {
            String::new()
        } else {
            format!(", only {}", found.join(", "))
        };
        let rule = format!("it has no Cluster, ClusterNode or NodeConfig of {GROUP}{found}");
        return Err(refusal(&source.name, None, rule));
    }
    let left_out = others.into_iter().map(|(kind, names)| {
        let names = names.join(", ");
        format!("left out, because it is no Cluster, ClusterNode or NodeConfig of {GROUP}: {kind} {names}")
    });
    Ok(Objects {
        fleet,
        warnings: left_out.collect(),
    })
}

struct Reader<'a> {
    file: &'a str,
    fleet: Fleet,
    /// The names of objects that are left out, by kind.
    others: BTreeMap<String, Vec<String>>,
}

impl Reader<'_> {
    fn document(&mut self, document: Value, place: &str) -> Result<(), Error> {
        match document {
            // Nothing stands between two separators.
            Value::Null => Ok(()),
            Value::Object(map) => self.object(map, None, place, 0),
            _ => Err(self.refuse(place, "expected an object of Kubernetes")),
        }
    }

    fn object(
        &mut self,
        mut map: Map<String, Value>,
        default_kind: Option<&str>,
        place: &str,
        depth: usize,
    ) -> Result<(), Error> {
        let text = |map: &Map<String, Value>, key: &str| map.get(key)?.as_str().map(str::to_owned);
        let kind = match (text(&map, "kind"), default_kind) {
            (Some(kind), _) => kind,
            (None, Some(kind)) => kind.to_owned(),
            (None, None) => return Err(self.refuse(place, "the object has no `kind`")),
        };
        if let Some(of) = kind.strip_suffix("List") {
            let Some(Value::Array(items)) = map.remove("items") else {
                return Err(self.refuse(place, "the List has no list `items`"));
            };
            if depth == DEEPEST {
                return Err(self.refuse(place, "the List is nested too deep"));
            }
            for (at, item) in items.into_iter().enumerate() {
                let space = if place.is_empty() { "" } else { " " };
                let place = format!("{place}{space}items[{at}]");
                let Value::Object(item) = item else {
                    return Err(self.refuse(&place, "expected an object of Kubernetes"));
                };
                let of = (!of.is_empty()).then_some(of);
                self.object(item, of, &place, depth + 1)?;
            }
            return Ok(());
        }
        let name = map
            .get("metadata")
            .and_then(|metadata| metadata.get("name"));
        let name = name.and_then(Value::as_str).unwrap_or_default().to_owned();
        let version = text(&map, "apiVersion");
        let is_ours = version
            .as_deref()
            .is_none_or(|version| version.split('/').next() == Some(GROUP));
        let whole = Value::Object(map);
        match kind.as_str() {
            "Cluster" if is_ours => {
                let cluster = self.typed(whole, &kind, &name, place)?;
                self.fleet.clusters.push(cluster);
            }
            "ClusterNode" if is_ours => {
                let node = self.typed(whole, &kind, &name, place)?;
                self.fleet.cluster_nodes.push(node);
            }
            "NodeConfig" if is_ours => {
                let config = self.typed(whole, &kind, &name, place)?;
                self.fleet.node_configs.push(config);
            }
            _ => {
                let names = self.others.entry(Printable::new(&kind).as_str().to_owned());
                names
                    .or_default()
                    .push(Printable::new(&name).as_str().to_owned());
            }
        }
        Ok(())
    }

    fn typed<T: DeserializeOwned>(
        &self,
        object: Value,
        kind: &str,
        name: &str,
        place: &str,
    ) -> Result<T, Error> {
        if name.is_empty() {
            return Err(self.refuse(place, &format!("the {kind} has no metadata.name")));
        }
        serde_json::from_value(object)
            .map_err(|error| self.refuse(place, &format!("{kind} {name}: {error}")))
    }

    fn refuse(&self, place: &str, rule: &str) -> Error {
        let rule = if place.is_empty() {
            Printable::new(rule)
        } else {
            Printable::new(&format!("{place}: {rule}"))
        };
        refusal(self.file, None, rule.as_str())
    }
}

/// The lists of a fleet. Real objects carry fields that the planner does not know; the document around them does not.
#[derive(Deserialize)]
#[serde(
    rename_all = "camelCase",
    deny_unknown_fields,
    expecting = "an object with lists of objects"
)]
struct Lists {
    clusters: Option<Vec<Object>>,
    cluster_nodes: Option<Vec<Object>>,
    #[serde(rename = "nodeConfigs")]
    _node_configs: Option<Vec<Object>>,
}

/// What every object needs.
#[derive(Deserialize)]
#[serde(expecting = "an object of Kubernetes")]
struct Object {
    #[serde(rename = "metadata")]
    _metadata: Named,
}

#[derive(Deserialize)]
#[serde(expecting = "metadata with a name")]
struct Named {
    #[serde(rename = "name", deserialize_with = "not_empty")]
    _name: String,
}

fn not_empty<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let name = String::deserialize(deserializer)?;
    if name.is_empty() {
        return Err(D::Error::custom("metadata.name is empty"));
    }
    Ok(name)
}

fn lists(source: &Source) -> Result<Fleet, Error> {
    // A derived struct would take a list for its fields in order.
    source.parse::<BTreeMap<String, IgnoredAny>>()?;
    let lists: Lists = source.parse()?;
    if lists.clusters.is_none() && lists.cluster_nodes.is_none() {
        let rule =
            "a fleet has the lists `clusters` and `clusterNodes`, or objects that have a `kind`";
        return Err(refusal(&source.name, None, rule));
    }
    source.parse()
}
