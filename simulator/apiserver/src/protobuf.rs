//! The protobuf form of objects, in which typed clients send them. Answers are JSON, which those clients read as well.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Map, Value};

/// What every body starts with.
const MAGIC: &[u8] = b"k8s\0";

/// How deep messages may nest.
const DEPTH: usize = 16;

/// A message: its fields by their numbers.
type Message = BTreeMap<u64, (&'static str, Kind)>;

#[derive(Debug, Clone, Copy)]
enum Kind {
    One(&'static str),
    Many(&'static str),
    Map(&'static str),
}

static MESSAGES: LazyLock<BTreeMap<&'static str, Message>> = LazyLock::new(|| {
    include_str!("builtin.wire")
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| {
            let mut words = line.split(' ');
            let name = words.next()?;
            let fields = words
                .filter_map(|word| {
                    let (number, rest) = word.split_once(':')?;
                    let (field, kind) = rest.split_once('=')?;
                    let inside = |open, close| kind.strip_prefix(open)?.strip_suffix(close);
                    let kind = match (inside('[', ']'), inside('{', '}')) {
                        (Some(one), _) => Kind::Many(one),
                        (_, Some(one)) => Kind::Map(one),
                        _ => Kind::One(kind),
                    };
                    Some((number.parse().ok()?, (field, kind)))
                })
                .collect();
            Some((name, fields))
        })
        .collect()
});

/// A field as it is on the wire.
enum Wire<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// Reads an enveloped object; the error is a sentence.
pub(crate) fn decode(body: &[u8]) -> Result<Value, String> {
    let envelope = body
        .strip_prefix(MAGIC)
        .ok_or("provided data does not appear to be a protobuf message")?;
    let (mut version, mut kind, mut raw) = (String::new(), String::new(), &[][..]);
    for field in Fields(envelope) {
        match field? {
            (1, Wire::Bytes(meta)) => {
                for field in Fields(meta) {
                    match field? {
                        (1, Wire::Bytes(text)) => version = string(text)?,
                        (2, Wire::Bytes(text)) => kind = string(text)?,
                        _ => {}
                    }
                }
            }
            (2, Wire::Bytes(bytes)) => raw = bytes,
            _ => {}
        }
    }
    let (name, _) = MESSAGES
        .get_key_value(kind.as_str())
        .ok_or_else(|| format!("the protobuf form of {kind:?} is not served, send JSON"))?;
    let mut object = Map::new();
    object.insert("kind".into(), kind.into());
    object.insert("apiVersion".into(), version.into());
    fill(name, raw, &mut object, 0)?;
    Ok(Value::Object(object))
}

fn fill(
    message: &str,
    bytes: &[u8],
    object: &mut Map<String, Value>,
    depth: usize,
) -> Result<(), String> {
    let Some(known) = MESSAGES.get(message) else {
        return Ok(());
    };
    for field in Fields(bytes) {
        let (number, wire) = field?;
        // What is not in the table is newer than it, or of no use here.
        let Some((name, kind)) = known.get(&number) else {
            continue;
        };
        match kind {
            Kind::One(kind) => {
                if let Some(value) = one(kind, wire, depth)? {
                    object.insert((*name).to_owned(), value);
                }
            }
            Kind::Many(kind) => {
                let list = object
                    .entry(*name)
                    .or_insert_with(|| Value::Array(Vec::new()));
                let value = match one(kind, wire, depth)? {
                    Some(value) => value,
                    // An empty text in a list is an entry: the core group of a rule.
                    None if *kind == "s" => "".into(),
                    None => Value::Object(Map::new()),
                };
                if let Some(list) = list.as_array_mut() {
                    list.push(value);
                }
            }
            Kind::Map(kind) => {
                let Wire::Bytes(entry) = wire else {
                    return Err(format!("{message}.{name} is no map"));
                };
                let (mut key, mut value) = (String::new(), Value::from(""));
                for field in Fields(entry) {
                    match field? {
                        (1, Wire::Bytes(text)) => key = string(text)?,
                        (2, wire) => value = one(kind, wire, depth)?.unwrap_or("".into()),
                        _ => {}
                    }
                }
                object
                    .entry(*name)
                    .or_insert_with(|| Value::Object(Map::new()))[&key] = value;
            }
        }
    }
    Ok(())
}

fn one(kind: &str, wire: Wire<'_>, depth: usize) -> Result<Option<Value>, String> {
    Ok(match (kind, wire) {
        ("s", Wire::Bytes(text)) => {
            let text = string(text)?;
            (!text.is_empty()).then(|| text.into())
        }
        ("y", Wire::Bytes(bytes)) => Some(STANDARD.encode(bytes).into()),
        ("i", Wire::Number(number)) => Some(number.cast_signed().into()),
        ("z", Wire::Number(number)) => (number != 0).then(|| number.cast_signed().into()),
        ("b", Wire::Number(number)) => Some((number != 0).into()),
        ("t" | "m", Wire::Bytes(bytes)) => {
            let (mut seconds, mut nanos) = (0, 0);
            for field in Fields(bytes) {
                match field? {
                    (1, Wire::Number(number)) => seconds = number.cast_signed(),
                    (2, Wire::Number(number)) => nanos = i32::try_from(number).unwrap_or(0),
                    _ => {}
                }
            }
            let time = Timestamp::new(seconds, nanos).map_err(|error| error.to_string())?;
            let format = if kind == "m" {
                "%Y-%m-%dT%H:%M:%S%.6fZ"
            } else {
                "%Y-%m-%dT%H:%M:%SZ"
            };
            (seconds != 0 || nanos != 0).then(|| time.strftime(format).to_string().into())
        }
        ("x", Wire::Bytes(bytes)) => {
            let (mut is_text, mut number, mut text) = (false, 0, String::new());
            for field in Fields(bytes) {
                match field? {
                    (1, Wire::Number(kind)) => is_text = kind == 1,
                    (2, Wire::Number(value)) => number = value.cast_signed(),
                    (3, Wire::Bytes(value)) => text = string(value)?,
                    _ => {}
                }
            }
            if is_text {
                Some(text.into())
            } else {
                (number != 0).then(|| number.into())
            }
        }
        (message, Wire::Bytes(bytes)) => {
            if depth == DEPTH {
                return Err("messages nest too deeply".to_owned());
            }
            let mut object = Map::new();
            fill(message, bytes, &mut object, depth + 1)?;
            (!object.is_empty()).then_some(Value::Object(object))
        }
        (kind, Wire::Number(_)) => return Err(format!("a number where {kind} is wanted")),
    })
}

fn string(bytes: &[u8]) -> Result<String, String> {
    std::str::from_utf8(bytes)
        .map(str::to_owned)
        .map_err(|error| error.to_string())
}

/// The fields of a message, in the order in which they were sent.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn varint(&mut self) -> Option<u64> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.0.split_first()?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn take(&mut self, length: u64) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(usize::try_from(length).ok()?)?;
        self.0 = rest;
        Some(taken)
    }

    fn field(&mut self) -> Option<(u64, Wire<'a>)> {
        let tag = self.varint()?;
        let wire = match tag & 7 {
            0 => Wire::Number(self.varint()?),
            1 => Wire::Bytes(self.take(8)?),
            2 => {
                let length = self.varint()?;
                Wire::Bytes(self.take(length)?)
            }
            5 => Wire::Bytes(self.take(4)?),
            _ => return None,
        };
        Some((tag >> 3, wire))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, Wire<'a>), String>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_none() {
            // Nothing behind a broken field can be found.
            self.0 = &[];
        }
        Some(field.ok_or_else(|| "unexpected end of a protobuf message".to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
        let length = u8::try_from(bytes.len()).expect("a short field");
        [&[number << 3 | 2, length], bytes].concat()
    }

    #[test]
    fn a_config_map_is_read() {
        let entry = [field(1, b"a"), field(2, b"1")].concat();
        let map = [field(1, &field(1, b"c1")), field(2, &entry)].concat();
        let meta = [field(1, b"v1"), field(2, b"ConfigMap")].concat();
        let body = [MAGIC.to_vec(), field(1, &meta), field(2, &map)].concat();
        assert_eq!(
            decode(&body),
            Ok(
                json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "c1"}, "data": {"a": "1"}})
            )
        );
        // No prefix of it makes the reader panic.
        for end in 0..body.len() {
            let _ = decode(&body[..end]);
        }
    }
}
