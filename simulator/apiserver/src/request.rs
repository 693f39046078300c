//! What a request says: its path, its parameters, what it accepts and what it carries.

use http::HeaderMap;

use super::status::{Cause, Status};

/// Query parameters; a name may repeat.
#[derive(Debug, Default, Clone)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    pub(crate) fn parse(text: &str) -> Self {
        Self(
            text.split('&')
                .filter(|pair| !pair.is_empty())
                .map(|pair| {
                    let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                    (
                        decode(&name.replace('+', " ")),
                        decode(&value.replace('+', " ")),
                    )
                })
                .collect(),
        )
    }

    /// The first value, none if it is empty.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
            .filter(|value| !value.is_empty())
    }

    /// Whether a parameter is given and says neither `0` nor `false`.
    pub(crate) fn is_true(&self, name: &str) -> bool {
        self.0
            .iter()
            .find(|(key, _)| key == name)
            .is_some_and(|(_, value)| value != "0" && !value.eq_ignore_ascii_case("false"))
    }

    pub(crate) fn number(&self, name: &str) -> Result<Option<i64>, Status> {
        let Some(text) = self.get(name) else {
            return Ok(None);
        };
        text.parse().map(Some).map_err(|_| {
            Status::bad_request(format!(
                "strconv.ParseInt: parsing {text:?}: invalid syntax"
            ))
        })
    }

    /// A number, none if it is not positive.
    pub(crate) fn positive(&self, name: &str) -> Result<Option<u64>, Status> {
        let number = self.number(name)?;
        Ok(number.and_then(|number| u64::try_from(number).ok().filter(|number| *number > 0)))
    }

    /// Whether nothing may be written.
    pub(crate) fn dry_run(&self) -> Result<bool, Status> {
        match self.get("dryRun") {
            None => Ok(false),
            Some("All") => Ok(true),
            Some(other) => Err(Status::invalid_options(
                "CreateOptions",
                Cause::unsupported("dryRun", &other.into(), &["All"]),
            )),
        }
    }
}

/// Percent decoding; what is no escape stays as it is.
pub(crate) fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escape = (bytes[at] == b'%')
            .then(|| text.get(at + 1..at + 3))
            .flatten()
            .filter(|hex| hex.bytes().all(|byte| byte.is_ascii_hexdigit()))
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match escape {
            Some(byte) => {
                decoded.push(byte);
                at += 3;
            }
            None => {
                decoded.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

/// Whether every `%` begins an escape.
pub(crate) fn is_escaped(text: &str) -> bool {
    text.split('%').skip(1).all(|rest| {
        let mut digits = rest.bytes();
        (0..2).all(|_| digits.next().is_some_and(|byte| byte.is_ascii_hexdigit()))
    })
}

/// What a path names.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Target {
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) namespace: Option<String>,
    pub(crate) plural: String,
    pub(crate) name: Option<String>,
    pub(crate) subresource: Option<String>,
    /// The path below a subresource, as it was sent.
    pub(crate) rest: Option<String>,
}

impl Target {
    /// Reads `/api/v1/…` and `/apis/GROUP/VERSION/…`; none for other paths.
    pub(crate) fn parse(path: &str) -> Option<Self> {
        let path = path.strip_prefix('/')?;
        let (group, version, rest) = if let Some(rest) = path.strip_prefix("api/") {
            let (version, rest) = rest.split_once('/')?;
            ("", version, rest)
        } else {
            let mut parts = path.strip_prefix("apis/")?.splitn(3, '/');
            (parts.next()?, parts.next()?, parts.next()?)
        };
        let mut target = Self {
            group: decode(group),
            version: decode(version),
            ..Self::default()
        };
        let mut rest = rest;
        if let Some(inside) = rest.strip_prefix("namespaces/") {
            let parts: Vec<&str> = inside.trim_end_matches('/').splitn(3, '/').collect();
            let own = matches!(parts.as_slice(), [_] | [_, "status" | "finalize"]);
            if !own && let Some((namespace, inner)) = inside.split_once('/') {
                target.namespace = Some(decode(namespace));
                rest = inner;
            }
        }
        let mut parts = rest.splitn(4, '/');
        target.plural = decode(parts.next().filter(|plural| !plural.is_empty())?);
        let mut next = || parts.next().filter(|part| !part.is_empty()).map(decode);
        target.name = next();
        target.subresource = next();
        target.rest = parts.next().map(str::to_owned);
        Some(target)
    }
}

/// In which form the client wants the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Plain,
    Table,
    Partial,
    PartialList,
    /// Aggregated discovery, with its version.
    Discovery(&'static str),
}

/// The form and the encoding that a client accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Accept {
    pub(crate) form: Form,
    pub(crate) yaml: bool,
}

impl Accept {
    /// The first of the client's wishes that can be served.
    pub(crate) fn parse(headers: &HeaderMap) -> Result<Self, Status> {
        let text: Vec<&str> = headers
            .get_all(http::header::ACCEPT)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .collect();
        let text = text.join(",");
        let plain = Self {
            form: Form::Plain,
            yaml: false,
        };
        if text.trim().is_empty() {
            return Ok(plain);
        }
        text.split(',')
            .find_map(Self::one)
            .ok_or_else(Status::not_acceptable)
    }

    fn one(wish: &str) -> Option<Self> {
        let mut parts = wish.split(';').map(str::trim);
        let yaml = match parts.next()? {
            "application/json" | "application/*" | "*/*" => false,
            "application/yaml" => true,
            _ => return None,
        };
        let mut form = ("", "", "");
        for part in parts {
            match part.split_once('=') {
                Some(("as", value)) => form.0 = value,
                Some(("g", value)) => form.1 = value,
                Some(("v", value)) => form.2 = value,
                _ => {}
            }
        }
        let form = match form {
            ("", ..) => Form::Plain,
            ("Table", "meta.k8s.io", "v1") => Form::Table,
            ("PartialObjectMetadata", "meta.k8s.io", "v1") => Form::Partial,
            ("PartialObjectMetadataList", "meta.k8s.io", "v1") => Form::PartialList,
            ("APIGroupDiscoveryList", "apidiscovery.k8s.io", "v2") => Form::Discovery("v2"),
            ("APIGroupDiscoveryList", "apidiscovery.k8s.io", "v2beta1") => {
                Form::Discovery("v2beta1")
            }
            _ => return None,
        };
        Some(Self { form, yaml })
    }
}

/// The media type without its parameters.
pub(crate) fn media_type(headers: &HeaderMap) -> &str {
    headers
        .get(http::header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(';').next())
        .map_or("", str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_what_they_name() {
        let target = |path| Target::parse(path).expect("a resource path");
        let pod = target("/api/v1/namespaces/a/pods/https:p:1/proxy/x/y?");
        assert_eq!(pod.namespace.as_deref(), Some("a"));
        assert_eq!(pod.name.as_deref(), Some("https:p:1"));
        assert_eq!(pod.subresource.as_deref(), Some("proxy"));
        assert_eq!(pod.rest.as_deref(), Some("x/y?"));
        let namespace = target("/api/v1/namespaces/a/status");
        assert_eq!(
            (namespace.plural.as_str(), namespace.name.as_deref()),
            ("namespaces", Some("a"))
        );
        let all = target("/apis/apps/v1/daemonsets");
        assert_eq!((all.name, all.namespace), (None, None));
        let list = target("/api/v1/namespaces");
        assert_eq!((list.plural.as_str(), list.name), ("namespaces", None));
    }

    #[test]
    fn escapes_are_read_and_broken_ones_kept() {
        assert_eq!(decode("a%3Db%2"), "a=b%2");
        for (text, good) in [
            ("a%3Db", true),
            ("a%2", false),
            ("%zz", false),
            ("%+1", false),
        ] {
            assert_eq!(is_escaped(text), good, "{text}");
        }
        assert_eq!(Query::parse("l=a%20in%20(x)").get("l"), Some("a in (x)"));
    }
}
