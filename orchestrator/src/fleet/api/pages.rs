//! Lists, page by page: bounded in bytes, objects and pages, each object parsed by itself.

use std::fmt;

use bytes::Bytes;
use datapath::printable::{Printable, is_dangerous, printable};
use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer, SeqAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

use super::{Api, Failure, PARSED_IN_PLACE, encoded};

/// Objects that are asked for in one page, and how many fewer when a page is too large.
const PAGE_SIZES: [usize; 4] = [500, 100, 20, 4];
/// The most objects of one page: a server that does not know pages sends all at once.
const MAX_OF_A_PAGE: usize = 20_000;
/// The most pages of one list.
const MAX_PAGES: usize = 4_000;
/// The most bytes of one object; etcd takes 1.5 MiB.
const MAX_OBJECT: usize = 2 << 20;
/// How many objects that cannot be understood are named.
const NAMED: usize = 3;

/// A list as far as it could be understood.
pub(crate) struct Listed<T> {
    pub(crate) items: Vec<T>,
    /// The version to watch from.
    pub(crate) version: String,
    /// The objects that cannot be understood, each with the reason; the first of them.
    pub(crate) broken: Vec<String>,
}

#[derive(Deserialize)]
struct Page<'a> {
    #[serde(default)]
    metadata: Meta,
    #[serde(default, borrow)]
    items: Items<'a>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Meta {
    resource_version: Option<String>,
    r#continue: Option<String>,
}

/// The texts of a page's objects, at most [`MAX_OF_A_PAGE`]: a text costs its bytes, a parsed object many times as much.
#[derive(Default)]
struct Items<'a>(Vec<&'a RawValue>);

impl<'de: 'a, 'a> Deserialize<'de> for Items<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bounded;
        impl<'de> Visitor<'de> for Bounded {
            type Value = Items<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of objects")
            }

            fn visit_unit<E>(self) -> Result<Items<'de>, E> {
                Ok(Items::default())
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Items<'de>, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = seq.next_element()? {
                    if items.len() == MAX_OF_A_PAGE {
                        return Err(serde::de::Error::custom("too many objects"));
                    }
                    items.push(item);
                }
                Ok(Items(items))
            }
        }
        deserializer.deserialize_any(Bounded)
    }
}

impl Api {
    /// All pages of a list of at most `most` objects.
    pub(crate) async fn list<T: DeserializeOwned + Send + 'static>(
        &self,
        collection: &str,
        selector: &str,
        most: usize,
    ) -> Result<Listed<T>, Failure> {
        let mut all = Listed {
            items: Vec::new(),
            version: String::new(),
            broken: Vec::new(),
        };
        let mut next = String::new();
        let mut sizes = PAGE_SIZES.iter();
        let mut size = sizes.next();
        for _ in 0..MAX_PAGES {
            let Some(limit) = size else {
                return Err(Failure::TooLarge);
            };
            let mut path = format!("{collection}?limit={limit}");
            if !selector.is_empty() {
                path += &format!("&labelSelector={}", encoded(selector));
            }
            if !next.is_empty() {
                path += &format!("&continue={}", encoded(&next));
            }
            let body = match self.read(&path).await {
                Err(Failure::TooLarge) => {
                    size = sizes.next();
                    continue;
                }
                body => body?,
            };
            let (page, token) = read::<T>(body).await?;
            self.budget.items(page.items.len() + page.broken.len())?;
            all.items.extend(page.items);
            all.version = page.version;
            all.broken.extend(page.broken);
            all.broken.truncate(NAMED);
            if all.items.len() > most {
                return Err(Failure::Transport(format!(
                    "it lists more than {most} objects"
                )));
            }
            if token.is_empty() {
                return Ok(all);
            }
            if token == next {
                return Err(Failure::Transport(
                    "its list gives the same page again and again".to_owned(),
                ));
            }
            next = token;
        }
        Err(Failure::Transport(format!(
            "its list has more than {MAX_PAGES} pages"
        )))
    }

    /// The first page of a list; of what the field selector chooses, where it is not empty.
    pub(crate) async fn first_page<T: DeserializeOwned + Send + 'static>(
        &self,
        collection: &str,
        fields: &str,
    ) -> Result<Vec<T>, Failure> {
        let chosen = match fields {
            "" => String::new(),
            fields => format!("&fieldSelector={}", encoded(fields)),
        };
        for limit in PAGE_SIZES {
            match self
                .read(&format!("{collection}?limit={limit}{chosen}"))
                .await
            {
                Err(Failure::TooLarge) => {}
                body => return Ok(read::<T>(body?).await?.0.items),
            }
        }
        Err(Failure::TooLarge)
    }
}

/// One page and the token of the next.
async fn read<T: DeserializeOwned + Send + 'static>(
    body: Bytes,
) -> Result<(Listed<T>, String), Failure> {
    if body.len() <= PARSED_IN_PLACE {
        return parse(&body);
    }
    tokio::task::spawn_blocking(move || parse(&body))
        .await
        .unwrap_or_else(|_| Err(Failure::Transport("a list could not be parsed".to_owned())))
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<(Listed<T>, String), Failure> {
    let page: Page<'_> = serde_json::from_slice(body).map_err(|error| {
        Failure::Transport(format!(
            "a list of the API server is not the JSON that was asked for (line {}, column {})",
            error.line(),
            error.column()
        ))
    })?;
    let mut listed = Listed {
        items: Vec::with_capacity(page.items.0.len()),
        version: page.metadata.resource_version.unwrap_or_default(),
        broken: Vec::new(),
    };
    for raw in page.items.0 {
        match object(raw.get()) {
            Ok(object) => listed.items.push(object),
            Err(why) if listed.broken.len() < NAMED => {
                listed
                    .broken
                    .push(format!("{} cannot be understood: {why}", name(raw.get())));
            }
            Err(_) => {}
        }
    }
    Ok((listed, page.metadata.r#continue.unwrap_or_default()))
}

/// One object; what in it would do something to a terminal or a reader is replaced.
fn object<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    if text.len() > MAX_OBJECT {
        return Err(format!("it is larger than {} MiB", MAX_OBJECT >> 20));
    }
    // serde_json's errors may quote a value.
    let told = |error: serde_json::Error| {
        Printable::bounded(&error.to_string(), 200)
            .as_str()
            .to_owned()
    };
    // Only an escape or a character beyond ASCII can hold one; most objects have neither.
    if text.is_ascii() && !text.contains('\\') {
        return serde_json::from_str(text).map_err(told);
    }
    let mut value: Value = serde_json::from_str(text).map_err(told)?;
    make_printable(&mut value);
    serde_json::from_value(value).map_err(told)
}

fn name(text: &str) -> String {
    #[derive(Deserialize)]
    struct Named {
        metadata: Metadata,
    }
    #[derive(Deserialize)]
    struct Metadata {
        name: String,
    }
    match serde_json::from_str::<Named>(text) {
        Ok(named) => Printable::bounded(&named.metadata.name, 80)
            .as_str()
            .to_owned(),
        Err(_) => "an object without a name".to_owned(),
    }
}

fn make_printable(value: &mut Value) {
    match value {
        Value::String(text) if text.chars().any(is_dangerous) => {
            *text = printable(text, text.len()).into_owned();
        }
        Value::Array(values) => values.iter_mut().for_each(make_printable),
        Value::Object(fields) => {
            fields.retain(|name, _| !name.chars().any(is_dangerous));
            fields.values_mut().for_each(make_printable);
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::objects::Object;

    #[test]
    fn an_object_that_cannot_be_understood_costs_itself() {
        let body = br#"{"metadata": {"continue": "more"}, "items": [
            {"metadata": {"name": "a"}}, {"metadata": {"name": 7}}, 3, {"metadata": {"name": "b\u001b[2J\u202e"}}]}"#;
        let (listed, token) = parse::<Object>(body).expect("a list");
        let names: Vec<&str> = listed
            .items
            .iter()
            .map(|item| &*item.metadata.name)
            .collect();
        assert_eq!(names, ["a", "b\u{fffd}[2J\u{fffd}"]);
        assert_eq!(listed.broken.len(), 2, "{:?}", listed.broken);
        assert_eq!(token, "more");
        let (empty, _) = parse::<Object>(br#"{"items": null}"#).expect("a list of nothing");
        assert!(empty.items.is_empty());
    }

    #[test]
    fn a_page_of_millions_of_objects_is_refused_before_they_are_parsed() {
        let body = format!("{{\"items\": [{}{{}}]}}", "{},".repeat(MAX_OF_A_PAGE));
        assert!(parse::<Object>(body.as_bytes()).is_err());
        let deep = format!(
            "{{\"items\": [{}{}]}}",
            "[".repeat(100_000),
            "]".repeat(100_000)
        );
        let (listed, _) = parse::<Object>(deep.as_bytes()).expect("one deep item");
        assert_eq!(listed.broken.len(), 1);
    }
}
