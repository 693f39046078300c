//! The file as it is written: keys and types, each value with its place.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_saphyr::{Spanned, options};

use super::MAX_BYTES;
use crate::Error;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Document {
    pub(super) name: Option<Spanned<String>>,
    #[serde(default)]
    pub(super) underlay: RawUnderlay,
    pub(super) clusters: Option<Spanned<Vec<Spanned<RawCluster>>>>,
    #[serde(default)]
    pub(super) workloads: RawWorkloads,
    #[serde(default)]
    pub(super) kubelets: RawKubelets,
    #[serde(default)]
    pub(super) faults: Vec<Spanned<RawFault>>,
    #[serde(default)]
    pub(super) steps: Vec<Spanned<RawStep>>,
    #[serde(default)]
    pub(super) expect: Vec<Spanned<RawExpect>>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawUnderlay {
    pub(super) mtu: Option<Spanned<i64>>,
    pub(super) delay: Option<Spanned<String>>,
    pub(super) loss: Option<Spanned<String>>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawCluster {
    pub(super) name: Option<Spanned<String>>,
    pub(super) count: Option<Spanned<i64>>,
    pub(super) mode: Option<Spanned<String>>,
    pub(super) family: Option<Spanned<String>>,
    pub(super) nodes: Option<Spanned<i64>>,
    #[serde(rename = "podCIDRs")]
    pub(super) pod_cidrs: Option<Spanned<Vec<Spanned<String>>>>,
    #[serde(rename = "serviceCIDRs")]
    pub(super) service_cidrs: Option<Spanned<Vec<Spanned<String>>>>,
    #[serde(rename = "globalCIDRsMap", default)]
    pub(super) global_cidrs_map: BTreeMap<String, Spanned<String>>,
    #[serde(default)]
    pub(super) underlay: RawUnderlay,
    #[serde(rename = "virtual", default)]
    pub(super) is_virtual: bool,
    #[serde(rename = "controlPlane")]
    pub(super) control_plane: Option<Spanned<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawWorkloads {
    pub(super) floater: bool,
    pub(super) floaters: Option<Spanned<String>>,
}

impl Default for RawWorkloads {
    fn default() -> Self {
        Self {
            floater: true,
            floaters: None,
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawKubelets {
    pub(super) renew: Option<Spanned<String>>,
    pub(super) grace: Option<Spanned<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawFault {
    pub(super) code: Spanned<String>,
    pub(super) at: Spanned<String>,
    pub(super) peer: Option<Spanned<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawExpect {
    pub(super) code: Option<Spanned<String>>,
    pub(super) at: Option<Spanned<String>>,
    pub(super) verdict: Option<Spanned<String>>,
}

/// One of its keys is there.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawStep {
    pub(super) fault: Option<Spanned<RawFault>>,
    pub(super) clear: Option<Spanned<String>>,
    pub(super) freeze: Option<Spanned<String>>,
    pub(super) thaw: Option<Spanned<String>>,
    pub(super) exec: Option<Spanned<RawExec>>,
    pub(super) wait: Option<Spanned<RawWait>>,
    pub(super) dr: Option<Spanned<RawDr>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawExec {
    pub(super) at: Spanned<String>,
    pub(super) run: Spanned<RawWords>,
    pub(super) code: Option<Spanned<i64>>,
    pub(super) contains: Option<String>,
    pub(super) lacks: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawWait {
    pub(super) at: Spanned<String>,
    pub(super) run: Spanned<RawWords>,
    pub(super) code: Option<Spanned<i64>>,
    pub(super) contains: Option<String>,
    pub(super) lacks: Option<String>,
    pub(super) within: Spanned<String>,
}

/// A command: words between blanks, or a list of them.
#[derive(Debug, Clone)]
pub(super) struct RawWords(pub(super) Vec<String>);

impl<'de> Deserialize<'de> for RawWords {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Words;
        impl<'de> serde::de::Visitor<'de> for Words {
            type Value = RawWords;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a command, or a list of its words")
            }

            fn visit_str<E>(self, text: &str) -> Result<RawWords, E> {
                let words = text.split_whitespace().map(str::to_owned);
                Ok(RawWords(words.collect()))
            }

            fn visit_seq<A: serde::de::SeqAccess<'de>>(
                self,
                mut list: A,
            ) -> Result<RawWords, A::Error> {
                let mut words = Vec::new();
                while let Some(word) = list.next_element()? {
                    words.push(word);
                }
                Ok(RawWords(words))
            }
        }
        deserializer.deserialize_any(Words)
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawDr {
    #[serde(default)]
    pub(super) expect: Vec<Spanned<RawExpect>>,
}

/// Reads one document of the dialect above, and nothing else.
pub(super) fn read(text: &str, file: &str) -> Result<Document, Error> {
    if text.len() > MAX_BYTES {
        return Err(Error::Input {
            file: file.to_owned(),
            line: None,
            rule: format!("a topology has at most {MAX_BYTES} bytes"),
        });
    }
    let options = options! {
        budget: serde_saphyr::budget! {
            max_depth: 32,
            max_documents: 2,
            max_aliases: 1_000,
            max_anchors: 1_000,
            max_recorded_anchor_events: 100_000,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: 100_000,
            max_replay_stack_depth: 16,
        },
        strict_booleans: true,
    };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let error = error.without_snippet();
        let line = error
            .location()
            .map(|location| location.line())
            .filter(|line| *line > 0)
            // A document that ends too early, or is not there at all.
            .or(Some(text.lines().count().max(1) as u64));
        Error::Input {
            file: file.to_owned(),
            line,
            rule: rule_of(error),
        }
    })
}

/// The refusal in one line that is safe to print, without the place, which is named apart.
fn rule_of(error: &serde_saphyr::Error) -> String {
    super::printable_rule(&rule_as_written(error))
}

fn rule_as_written(error: &serde_saphyr::Error) -> String {
    use serde_saphyr::Error as E;
    match error {
        E::SerdeUnknownField {
            field, expected, ..
        } => format!("unknown key `{field}`; known: {}", expected.join(", ")),
        E::SerdeUnknownVariant {
            variant, expected, ..
        } => format!("`{variant}` is none of {}", expected.join(", ")),
        E::SerdeMissingField { field, .. } => format!("key `{field}` is missing"),
        E::SerdeInvalidType {
            unexpected,
            expected,
            ..
        } => format!("expected {expected}, found {unexpected}"),
        E::MultipleDocuments { .. } => "a topology is one document".to_owned(),
        E::InvalidScalar { ty: "i64", .. } => "expected an integer".to_owned(),
        E::InvalidScalar { ty, .. } => format!("expected {ty}"),
        E::Unexpected { expected, .. } => format!(
            "expected {}",
            match *expected {
                "mapping start" => "a mapping of keys",
                "sequence start" => "a list",
                "string scalar" => "a single value",
                other => other,
            }
        ),
        E::InvalidBooleanStrict { .. } => "expected true or false".to_owned(),
        other => {
            let text = other.to_string();
            let first = text.lines().next().unwrap_or_default();
            first.split(" at line ").next().unwrap_or(first).to_owned()
        }
    }
}
