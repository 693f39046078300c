//! Label and field selectors.

use serde_json::Value;

use super::kinds::Served;
use super::request::Query;
use super::status::Status;

/// What a list or watch is narrowed to.
#[derive(Debug, Clone, Default)]
pub(crate) struct Selector {
    labels: Vec<Requirement>,
    fields: Vec<FieldTerm>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Requirement {
    key: String,
    test: Test,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Test {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    Absent,
    Greater(i64),
    Less(i64),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct FieldTerm {
    path: Vec<String>,
    value: String,
    equal: bool,
}

impl Selector {
    pub(crate) fn of(query: &Query, served: &Served) -> Result<Self, Status> {
        let labels = match query.get("labelSelector") {
            Some(text) => labels(text).map_err(Status::bad_request)?,
            None => Vec::new(),
        };
        let fields = match query.get("fieldSelector") {
            Some(text) => fields(text, served)?,
            None => Vec::new(),
        };
        Ok(Self { labels, fields })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    pub(crate) fn matches(&self, object: &Value) -> bool {
        self.labels
            .iter()
            .all(|requirement| requirement.holds(&object["metadata"]["labels"]))
            && self.fields.iter().all(|term| {
                let value = term.path.iter().fold(object, |value, part| &value[part]);
                let same = match value {
                    Value::Null => term.value.is_empty() || term.value == "false",
                    Value::String(text) => *text == term.value,
                    Value::Bool(value) => term.value == if *value { "true" } else { "false" },
                    other => term.value.parse().ok() == other.as_i64(),
                };
                same == term.equal
            })
    }
}

impl Requirement {
    fn holds(&self, labels: &Value) -> bool {
        let value = labels[&self.key].as_str();
        match &self.test {
            Test::In(set) => value.is_some_and(|value| set.iter().any(|one| one == value)),
            Test::NotIn(set) => !value.is_some_and(|value| set.iter().any(|one| one == value)),
            Test::Exists => value.is_some(),
            Test::Absent => value.is_none(),
            Test::Greater(bound) => number(value).is_some_and(|value| value > *bound),
            Test::Less(bound) => number(value).is_some_and(|value| value < *bound),
        }
    }
}

fn number(value: Option<&str>) -> Option<i64> {
    value?.parse().ok()
}

/// Whether a `matchLabels`/`matchExpressions` selector of an object selects these labels.
pub(crate) fn selects(selector: &Value, labels: &Value) -> bool {
    selector["matchLabels"]
        .as_object()
        .into_iter()
        .flatten()
        .all(|(key, value)| labels.get(key) == Some(value))
        && selector["matchExpressions"]
            .as_array()
            .into_iter()
            .flatten()
            .all(|expression| expression_holds(expression, labels))
}

/// One `{key, operator, values}` of a label or node selector.
pub(crate) fn expression_holds(expression: &Value, labels: &Value) -> bool {
    let values: Vec<String> = expression["values"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|value| value.as_str().map(str::to_owned))
        .collect();
    let bound = values.first().and_then(|value| value.parse().ok());
    let test = match (expression["operator"].as_str().unwrap_or_default(), bound) {
        ("In", _) => Test::In(values),
        ("NotIn", _) => Test::NotIn(values),
        ("Exists", _) => Test::Exists,
        ("DoesNotExist", _) => Test::Absent,
        ("Gt", Some(bound)) => Test::Greater(bound),
        ("Lt", Some(bound)) => Test::Less(bound),
        _ => return false,
    };
    let key = expression["key"].as_str().unwrap_or_default().to_owned();
    Requirement { key, test }.holds(labels)
}

/// Splits at commas outside parentheses.
fn terms(text: &str) -> Vec<&str> {
    let (mut depth, mut start, mut terms) = (0_i32, 0, Vec::new());
    for (at, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                terms.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    terms.push(&text[start..]);
    terms
}

fn labels(text: &str) -> Result<Vec<Requirement>, String> {
    terms(text).into_iter().map(requirement).collect()
}

fn requirement(term: &str) -> Result<Requirement, String> {
    let term = term.trim();
    let set = |inside: &str| -> Result<Vec<String>, String> {
        let inside = inside
            .trim()
            .strip_prefix('(')
            .and_then(|rest| rest.strip_suffix(')'))
            .ok_or_else(|| {
                format!("unable to parse requirement: found '{inside}', expected: '('")
            })?;
        inside
            .split(',')
            .map(|value| label_value(value.trim()))
            .collect()
    };
    let made = |key: &str, test: Test| {
        let key = label_key(key.trim())?;
        Ok(Requirement { key, test })
    };
    if let Some(key) = term.strip_prefix('!') {
        return made(key, Test::Absent);
    }
    if let Some((key, rest)) = split_word(term, "notin") {
        return made(key, Test::NotIn(set(rest)?));
    }
    if let Some((key, rest)) = split_word(term, "in") {
        return made(key, Test::In(set(rest)?));
    }
    if let Some((key, value)) = term.split_once("!=") {
        return made(key, Test::NotIn(vec![label_value(value.trim())?]));
    }
    if let Some((key, value)) = term.split_once('=') {
        let value = value.strip_prefix('=').unwrap_or(value).trim();
        return made(key, Test::In(vec![label_value(value)?]));
    }
    for (sign, test) in [('>', Test::Greater as fn(i64) -> Test), ('<', Test::Less)] {
        if let Some((key, value)) = term.split_once(sign) {
            let value = value
                .trim()
                .parse()
                .map_err(|_| format!("unable to parse requirement: {value:?} is no integer"))?;
            return made(key, test(value));
        }
    }
    made(term, Test::Exists)
}

fn split_word<'a>(term: &'a str, word: &str) -> Option<(&'a str, &'a str)> {
    let (key, rest) = term.split_once(char::is_whitespace)?;
    let rest = rest.trim_start().strip_prefix(word)?;
    (rest.starts_with('(') || rest.starts_with(char::is_whitespace)).then_some((key, rest))
}

fn label_key(key: &str) -> Result<String, String> {
    let name = key.rsplit('/').next().unwrap_or_default();
    let good = !name.is_empty()
        && key
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-_./".contains(c));
    if good {
        Ok(key.to_owned())
    } else {
        Err(format!(
            "unable to parse requirement: found '{key}', expected: identifier"
        ))
    }
}

fn label_value(value: &str) -> Result<String, String> {
    if value
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    {
        Ok(value.to_owned())
    } else {
        Err(format!(
            "unable to parse requirement: found '{value}', expected: identifier"
        ))
    }
}

fn fields(text: &str, served: &Served) -> Result<Vec<FieldTerm>, Status> {
    text.split(',')
        .filter(|term| !term.is_empty())
        .map(|term| {
            let (path, value, equal) = if let Some((path, value)) = term.split_once("!=") {
                (path, value, false)
            } else if let Some((path, value)) = term.split_once("==") {
                (path, value, true)
            } else if let Some((path, value)) = term.split_once('=') {
                (path, value, true)
            } else {
                return Err(Status::bad_request(format!(
                    "invalid field selector: {term:?}"
                )));
            };
            let known = matches!(path, "metadata.name")
                || path == "metadata.namespace"
                || served.selectable.iter().any(|known| known == path);
            if !known {
                return Err(Status::bad_request(format!(
                    "{path:?} is not a known field selector: only \"metadata.name\", \"metadata.namespace\""
                )));
            }
            let path = match path {
                "name" => "metadata.name",
                "source" => "source.component",
                path => path,
            };
            Ok(FieldTerm {
                path: path.split('.').map(str::to_owned).collect(),
                value: value.to_owned(),
                equal,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn sets_and_signs_select() {
        let object = json!({"g": "x", "n": "5"});
        for (text, holds) in [
            ("g=x", true),
            ("g==x", true),
            ("g!=x", false),
            ("g in (y,x)", true),
            ("g notin (x)", false),
            ("h notin (x)", true),
            ("!h", true),
            ("g", true),
            ("n>4,n<6", true),
            ("g in (x),!h,n", true),
        ] {
            let all = labels(text).expect("a selector");
            assert_eq!(all.iter().all(|r| r.holds(&object)), holds, "{text}");
        }
        for text in ["g===", "g in x", "=x", "g=a b"] {
            assert!(labels(text).is_err(), "{text}");
        }
    }
}
