//! The part of a kubeconfig that is read, with the line of every value, and the rules that YAML itself can break.

use std::borrow::Cow;

use serde::Deserialize;
use serde::de::MapAccess;
use serde_json::Value;
use serde_saphyr::{Spanned, options::DuplicateKeyPolicy};

use crate::Error;

mod entry;

use entry::{Body, Values};
pub(super) use entry::{Named, Wrong};

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
    #[serde(default, deserialize_with = "entry::entries")]
    pub(super) clusters: Vec<Named<ClusterBody>>,
    #[serde(default, deserialize_with = "entry::entries")]
    pub(super) users: Vec<Named<UserBody>>,
    #[serde(default, deserialize_with = "entry::entries")]
    pub(super) contexts: Vec<Named<ContextBody>>,
}

#[derive(Default)]
pub(super) struct ContextBody {
    pub(super) cluster: Text,
    pub(super) user: Text,
    pub(super) wrong: Option<Wrong>,
}

impl Body for ContextBody {
    fn take<'de, A: MapAccess<'de>>(
        &mut self,
        key: &str,
        values: &mut Values<'_, A>,
    ) -> Result<(), A::Error> {
        match key {
            "cluster" => values.text("cluster", &mut self.cluster),
            "user" => values.text("user", &mut self.user),
            _ => values.pass_over(),
        }
    }

    fn refuse(&mut self, wrong: Wrong) {
        self.wrong = Some(wrong);
    }
}

#[derive(Default)]
pub(super) struct ClusterBody {
    pub(super) server: Text,
    pub(super) certificate_authority: Text,
    pub(super) certificate_authority_data: Text,
    pub(super) insecure_skip_tls_verify: Option<Spanned<bool>>,
    pub(super) tls_server_name: Text,
    pub(super) proxy_url: Text,
    /// What programs of others read.
    pub(super) extensions: Option<Spanned<Value>>,
    pub(super) wrong: Option<Wrong>,
}

impl Body for ClusterBody {
    fn take<'de, A: MapAccess<'de>>(
        &mut self,
        key: &str,
        values: &mut Values<'_, A>,
    ) -> Result<(), A::Error> {
        match key {
            "server" => values.text("server", &mut self.server),
            "certificate-authority" => {
                values.text("certificate-authority", &mut self.certificate_authority)
            }
            "certificate-authority-data" => values.text(
                "certificate-authority-data",
                &mut self.certificate_authority_data,
            ),
            "insecure-skip-tls-verify" => values.flag(
                "insecure-skip-tls-verify",
                &mut self.insecure_skip_tls_verify,
            ),
            "tls-server-name" => values.text("tls-server-name", &mut self.tls_server_name),
            "proxy-url" => values.text("proxy-url", &mut self.proxy_url),
            "extensions" => values.anything("extensions", &mut self.extensions),
            _ => values.pass_over(),
        }
    }

    fn refuse(&mut self, wrong: Wrong) {
        self.wrong = Some(wrong);
    }
}

#[derive(Default)]
pub(super) struct UserBody {
    pub(super) client_certificate: Text,
    pub(super) client_certificate_data: Text,
    pub(super) client_key: Text,
    pub(super) client_key_data: Text,
    pub(super) token: Text,
    pub(super) token_file: Text,
    pub(super) username: Text,
    pub(super) password: Text,
    pub(super) impersonate: Text,
    pub(super) impersonate_uid: Text,
    pub(super) impersonate_groups: Option<Spanned<Vec<String>>>,
    pub(super) exec: Option<Spanned<Value>>,
    pub(super) auth_provider: Option<Spanned<Value>>,
    pub(super) wrong: Option<Wrong>,
}

impl Body for UserBody {
    fn take<'de, A: MapAccess<'de>>(
        &mut self,
        key: &str,
        values: &mut Values<'_, A>,
    ) -> Result<(), A::Error> {
        match key {
            "client-certificate" => values.text("client-certificate", &mut self.client_certificate),
            "client-certificate-data" => {
                values.text("client-certificate-data", &mut self.client_certificate_data)
            }
            "client-key" => values.text("client-key", &mut self.client_key),
            "client-key-data" => values.text("client-key-data", &mut self.client_key_data),
            "token" => values.text("token", &mut self.token),
            "tokenFile" => values.text("tokenFile", &mut self.token_file),
            "username" => values.text("username", &mut self.username),
            "password" => values.text("password", &mut self.password),
            "as" => values.text("as", &mut self.impersonate),
            "as-uid" => values.text("as-uid", &mut self.impersonate_uid),
            "as-groups" => values.texts("as-groups", &mut self.impersonate_groups),
            "exec" => values.anything("exec", &mut self.exec),
            "auth-provider" => values.anything("auth-provider", &mut self.auth_provider),
            _ => values.pass_over(),
        }
    }

    fn refuse(&mut self, wrong: Wrong) {
        self.wrong = Some(wrong);
    }
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
    let text = without_controls(text);
    let document: Option<Document> =
        serde_saphyr::from_str_with_options(without_empty_end(&text), options).map_err(
            |error| {
                let line = error.location().map(|location| location.line());
                Error::input(file, line, rule(error.without_snippet()))
            },
        )?;
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

/// With [`REPLACED`] for control characters, of which one anywhere would make the whole file no YAML: the value that holds
/// it is then one that its entry is refused for.
fn without_controls(text: &str) -> Cow<'_, str> {
    let is_forbidden = |c: char| c.is_control() && !matches!(c, '\t' | '\n' | '\r' | '\u{85}');
    if text.contains(is_forbidden) {
        Cow::Owned(text.replace(is_forbidden, REPLACED))
    } else {
        Cow::Borrowed(text)
    }
}

/// What stands for a character that YAML forbids.
pub(super) const REPLACED: &str = "\u{fffd}";

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

#[cfg(test)]
mod tests;
