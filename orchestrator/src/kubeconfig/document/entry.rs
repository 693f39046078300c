//! One entry of a kubeconfig's lists, read so that a value of the wrong type costs that entry and not the file.
//!
//! A derived reader ends at the first value that does not fit. This one goes on, notes where the value stands, and
//! leaves it to whoever selects the entry to refuse it.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serde_saphyr::Spanned;

use super::Text;

/// An entry of one of the three lists; each calls its body by another name. One without a name is nobody's.
pub(in crate::kubeconfig) struct Named<T> {
    pub(in crate::kubeconfig) name: Spanned<String>,
    pub(in crate::kubeconfig) body: Option<T>,
}

/// A value of another type than is wanted there.
pub(in crate::kubeconfig) struct Wrong {
    field: &'static str,
    wanted: &'static str,
    /// Where it stands, if that is known.
    pub(in crate::kubeconfig) line: Option<u64>,
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} has the wrong type: {}", self.field, self.wanted)
    }
}

/// The body of an entry, which is read one value after the other.
pub(in crate::kubeconfig) trait Body: Default {
    /// Takes the value of one key.
    ///
    /// # Errors
    /// What ends the whole file: it is not YAML.
    fn take<'de, A: MapAccess<'de>>(
        &mut self,
        key: &str,
        values: &mut Values<'_, A>,
    ) -> Result<(), A::Error>;

    /// Notes what is wrong in it.
    fn refuse(&mut self, wrong: Wrong);
}

/// The values of a mapping, and the first that was of the wrong type.
pub(in crate::kubeconfig) struct Values<'a, A> {
    map: &'a mut A,
    wrong: Option<Wrong>,
}

impl<'de, A: MapAccess<'de>> Values<'_, A> {
    /// Reads a value into its place; null leaves it empty.
    fn place<T>(
        &mut self,
        (field, wanted): (&'static str, &'static str),
        into: &mut Option<Spanned<T>>,
        fits: impl Fn(Value) -> Option<T>,
    ) -> Result<(), A::Error> {
        let Some(said) = self.map.next_value::<Option<Spanned<Value>>>()? else {
            return Ok(());
        };
        let (referenced, defined) = (said.referenced, said.defined);
        if let Some(value) = fits(said.value) {
            *into = Some(Spanned::new(value, referenced, defined));
        } else {
            let line = Some(referenced.line());
            self.wrong.get_or_insert(Wrong {
                field,
                wanted,
                line,
            });
        }
        Ok(())
    }

    pub(super) fn text(&mut self, field: &'static str, into: &mut Text) -> Result<(), A::Error> {
        let wanted = "it has to be text (a number or a word like true in quotes)";
        self.place((field, wanted), into, |said| match said {
            Value::String(text) => Some(text),
            _ => None,
        })
    }

    pub(super) fn flag(
        &mut self,
        field: &'static str,
        into: &mut Option<Spanned<bool>>,
    ) -> Result<(), A::Error> {
        self.place((field, "it has to be true or false"), into, |said| {
            said.as_bool()
        })
    }

    pub(super) fn texts(
        &mut self,
        field: &'static str,
        into: &mut Option<Spanned<Vec<String>>>,
    ) -> Result<(), A::Error> {
        self.place((field, "it has to be a list of texts"), into, |said| {
            serde_json::from_value(said).ok()
        })
    }

    /// Takes a value of any shape.
    pub(super) fn anything(
        &mut self,
        field: &'static str,
        into: &mut Option<Spanned<Value>>,
    ) -> Result<(), A::Error> {
        self.place((field, ""), into, Some)
    }

    pub(super) fn pass_over(&mut self) -> Result<(), A::Error> {
        self.map.next_value::<IgnoredAny>().map(drop)
    }
}

/// What is read of a mapping, and what stands for it where there is none.
trait FromMap: Sized {
    fn read<'de, A: MapAccess<'de>>(map: A) -> Result<Self, A::Error>;
    fn of_something_else() -> Self;
}

/// A body as it stands in its entry.
struct Inner<T>(T);

impl<T: Body> FromMap for Inner<T> {
    fn read<'de, A: MapAccess<'de>>(mut map: A) -> Result<Self, A::Error> {
        let mut body = T::default();
        let mut wrong = None;
        while let Some(key) = map.next_key::<String>()? {
            let mut values = Values {
                map: &mut map,
                wrong,
            };
            body.take(&key, &mut values)?;
            wrong = values.wrong;
        }
        if let Some(wrong) = wrong {
            body.refuse(wrong);
        }
        Ok(Self(body))
    }

    fn of_something_else() -> Self {
        let mut body = T::default();
        body.refuse(Wrong {
            field: "the entry",
            wanted: "it has to be a mapping",
            line: None,
        });
        Self(body)
    }
}

impl<T: Body> FromMap for Named<T> {
    fn read<'de, A: MapAccess<'de>>(mut map: A) -> Result<Self, A::Error> {
        let mut named = Self::of_something_else();
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "name" => {
                    let said = map.next_value::<Spanned<Value>>()?;
                    let (referenced, defined) = (said.referenced, said.defined);
                    // A name that is no text names nobody.
                    let name = said.value.as_str().unwrap_or_default().to_owned();
                    named.name = Spanned::new(name, referenced, defined);
                }
                "cluster" | "user" | "context" => {
                    let body = map.next_value::<Option<Mapping<Inner<T>>>>()?;
                    named.body = body.map(|Mapping(Inner(body))| body);
                }
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(named)
    }

    fn of_something_else() -> Self {
        let nowhere = serde_saphyr::Location::UNKNOWN;
        Self {
            name: Spanned::new(String::new(), nowhere, nowhere),
            body: None,
        }
    }
}

/// Reads a list of entries; null is an empty one.
pub(super) fn entries<'de, D: Deserializer<'de>, T: Body>(
    deserializer: D,
) -> Result<Vec<Named<T>>, D::Error> {
    let list: Option<Vec<Mapping<Named<T>>>> = Option::deserialize(deserializer)?;
    let entries = list.unwrap_or_default().into_iter();
    Ok(entries.map(|Mapping(entry)| entry).collect())
}

/// Reads a mapping, and passes over what is none.
struct Mapping<T>(T);

impl<'de, T: FromMap> Deserialize<'de> for Mapping<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(MappingVisitor(PhantomData))
    }
}

struct MappingVisitor<T>(PhantomData<T>);

/// Visits scalars, of which none is a mapping.
macro_rules! no_mapping {
    ($($visit:ident: $scalar:ty),*) => {
        $(fn $visit<E>(self, _: $scalar) -> Result<Mapping<T>, E> {
            Ok(Mapping(T::of_something_else()))
        })*
    };
}

impl<'de, T: FromMap> Visitor<'de> for MappingVisitor<T> {
    type Value = Mapping<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a mapping")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Mapping<T>, A::Error> {
        T::read(map).map(Mapping)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Mapping<T>, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Mapping(T::of_something_else()))
    }

    fn visit_unit<E>(self) -> Result<Mapping<T>, E> {
        Ok(Mapping(T::of_something_else()))
    }

    no_mapping!(visit_str: &str, visit_bool: bool, visit_i64: i64, visit_u64: u64, visit_f64: f64);
}
