//! The part of a kubeconfig that is read, with the line of every value, and the rules that YAML itself can break.

use serde::Deserialize;
use serde_saphyr::{Spanned, options::DuplicateKeyPolicy};

use crate::Error;

/// A scalar and its place.
pub(super) type Text = Option<Spanned<String>>;

#[derive(Deserialize)]
pub(super) struct Document {
    #[serde(default, rename = "apiVersion")]
    api_version: Text,
    #[serde(default)]
    kind: Text,
    #[serde(default, rename = "current-context")]
    pub(super) current_context: Text,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) clusters: Vec<Named<ClusterBody>>,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) users: Vec<Named<UserBody>>,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) contexts: Vec<Named<ContextBody>>,
}

/// An entry of one of the three lists; each calls its body by another name. One without a name is nobody's.
#[derive(Deserialize)]
pub(super) struct Named<T> {
    #[serde(default = "unnamed")]
    pub(super) name: Spanned<String>,
    #[serde(default = "none", alias = "cluster", alias = "user", alias = "context")]
    pub(super) body: Option<T>,
}

fn unnamed() -> Spanned<String> {
    let nowhere = serde_saphyr::Location::UNKNOWN;
    Spanned::new(String::new(), nowhere, nowhere)
}

fn none<T>() -> Option<T> {
    None
}

#[derive(Deserialize)]
pub(super) struct ContextBody {
    #[serde(default)]
    pub(super) cluster: Text,
    #[serde(default)]
    pub(super) user: Text,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct ClusterBody {
    #[serde(default)]
    pub(super) server: Text,
    #[serde(default)]
    pub(super) certificate_authority: Text,
    #[serde(default)]
    pub(super) certificate_authority_data: Text,
    #[serde(default)]
    pub(super) insecure_skip_tls_verify: Option<bool>,
    #[serde(default)]
    pub(super) tls_server_name: Text,
    #[serde(default)]
    pub(super) proxy_url: Text,
    #[serde(default)]
    pub(super) extensions: Option<Vec<Extension>>,
}

/// Something of a cluster that programs of others read.
#[derive(Deserialize)]
pub(super) struct Extension {
    #[serde(default)]
    pub(super) name: Option<String>,
    #[serde(default)]
    pub(super) extension: Option<serde_json::Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct UserBody {
    #[serde(default)]
    pub(super) client_certificate: Text,
    #[serde(default)]
    pub(super) client_certificate_data: Text,
    #[serde(default)]
    pub(super) client_key: Text,
    #[serde(default)]
    pub(super) client_key_data: Text,
    #[serde(default)]
    pub(super) token: Text,
    #[serde(default, rename = "tokenFile")]
    pub(super) token_file: Text,
    #[serde(default)]
    pub(super) username: Text,
    #[serde(default)]
    pub(super) password: Text,
    #[serde(default, rename = "as")]
    pub(super) impersonate: Text,
    #[serde(default, rename = "as-uid")]
    pub(super) impersonate_uid: Text,
    #[serde(default, rename = "as-groups")]
    pub(super) impersonate_groups: Option<Vec<String>>,
    #[serde(default)]
    pub(super) exec: Option<Spanned<serde_json::Value>>,
    #[serde(default)]
    pub(super) auth_provider: Option<Spanned<serde_json::Value>>,
}

fn nullable<'de, D: serde::Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Vec<T>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// Reads one document. The file's text never reaches the error.
pub(super) fn parse(text: &str, file: &str) -> Result<Document, Error> {
    let options = serde_saphyr::options! {
        // Some 5,000 contexts with certificates are 60 MB and a quarter of a million nodes; the file's size is bounded
        // by the reader, and what aliases may add by their own limits.
        budget: serde_saphyr::budget! {
            max_events: 50_000_000,
            max_nodes: 25_000_000,
            max_total_scalar_bytes: 512 << 20,
            max_documents: 2,
        },
        duplicate_keys: DuplicateKeyPolicy::Error,
        with_snippet: false,
    };
    let document: Option<Document> =
        serde_saphyr::from_str_with_options(without_empty_end(text), options).map_err(|error| {
            let line = error.location().map(|location| location.line());
            Error::input(file, line, rule(error.without_snippet()))
        })?;
    let Some(document) = document else {
        return Err(Error::input(file, None, "is empty"));
    };
    for (value, wanted, rule) in [
        (&document.kind, "Config", "kind is not Config"),
        (&document.api_version, "v1", "apiVersion is not v1"),
    ] {
        if let Some(value) = value.as_ref().filter(|value| value.value != wanted) {
            return Err(Error::input(file, Some(value.referenced.line()), rule));
        }
    }
    Ok(document)
}

/// Without document marks after which nothing comes, which would be a second, empty document.
fn without_empty_end(text: &str) -> &str {
    let mut text = text.trim_end();
    while let Some(rest) = text
        .strip_suffix("---")
        .or_else(|| text.strip_suffix("..."))
        && (rest.is_empty() || rest.ends_with('\n'))
    {
        text = rest.trim_end();
    }
    text
}

/// What is wrong, in words that hold nothing of the file.
fn rule(error: &serde_saphyr::Error) -> String {
    use serde_saphyr::Error as Yaml;
    match error {
        Yaml::MultipleDocuments { .. } => "holds more than one YAML document".to_owned(),
        Yaml::DuplicateMappingKey { .. } => "a mapping has the same key twice".to_owned(),
        Yaml::SerdeMissingField { field, .. } => format!("the field {field} is missing"),
        Yaml::UnknownAnchor { .. } => "an alias refers to no anchor".to_owned(),
        Yaml::Budget { .. }
        | Yaml::AliasReplayCounterOverflow { .. }
        | Yaml::AliasReplayLimitExceeded { .. }
        | Yaml::AliasExpansionLimitExceeded { .. }
        | Yaml::AliasReplayStackDepthExceeded { .. } => {
            "is larger, deeper or expands further than a kubeconfig may".to_owned()
        }
        Yaml::Eof { .. } => "ends too early".to_owned(),
        Yaml::Unexpected { .. }
        | Yaml::SerdeInvalidType { .. }
        | Yaml::SerdeInvalidValue { .. }
        | Yaml::InvalidScalar { .. }
        | Yaml::NullIntoString { .. } => "a value has the wrong type".to_owned(),
        Yaml::AliasError { error, .. } | Yaml::WithSnippet { error, .. } => rule(error),
        _ => "is not valid YAML".to_owned(),
    }
}
