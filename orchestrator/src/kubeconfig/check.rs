//! The rules of one cluster and one user, and their values as `kube` takes them.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};
use serde_saphyr::Spanned;

use super::document::{ClusterBody, ContextBody, Named, REPLACED, Text, UserBody, Wrong};
use crate::Error;
use crate::descriptors;

/// The most bytes of a file that a kubeconfig names: certificates, keys, tokens.
const MAX_FILE: u64 = 1 << 20;

/// Where a kubeconfig came from, and so what it may name on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Origin {
    /// A file in this folder, to which its relative paths belong.
    Folder(PathBuf),
    /// Text of the operator's that lies in no folder.
    Text,
    /// Another cluster: it names nothing on this machine.
    Remote,
}

/// Where values of one file are looked at.
struct Place<'a> {
    file: &'a str,
    origin: &'a Origin,
}

impl Place<'_> {
    fn fail<T>(&self, at: &Spanned<impl Sized>, rule: impl Into<String>) -> Result<T, Error> {
        Err(Error::input(self.file, Some(at.referenced.line()), rule))
    }

    /// Refuses an entry with a value of the wrong type.
    fn fits(&self, name: &Spanned<String>, wrong: Option<&Wrong>) -> Result<(), Error> {
        match wrong {
            Some(wrong) => {
                let line = wrong.line.unwrap_or_else(|| name.referenced.line());
                Err(Error::input(self.file, Some(line), wrong.to_string()))
            }
            None => Ok(()),
        }
    }

    /// Refuses what only a file of the operator's may hold.
    fn own(&self, at: &Spanned<impl Sized>, field: &str) -> Result<(), Error> {
        if *self.origin == Origin::Remote {
            return self.fail(
                at,
                format!("{field} is not obeyed in a kubeconfig that comes out of a cluster"),
            );
        }
        Ok(())
    }

    /// The content of an existing file.
    fn read(&self, at: &Spanned<String>, field: &str) -> Result<Vec<u8>, Error> {
        self.own(at, field)?;
        let path = Path::new(&at.value);
        let path = match self.origin {
            _ if path.is_absolute() => path.to_owned(),
            Origin::Folder(folder) => folder.join(path),
            Origin::Text | Origin::Remote => {
                return self.fail(
                    at,
                    format!(
                        "{field} is a relative path, and there is no folder that it is relative to"
                    ),
                );
            }
        };
        let content = std::fs::metadata(&path).and_then(|found| {
            if !found.is_file() {
                return Ok(None);
            }
            let mut bytes = Vec::new();
            std::fs::File::open(&path)?
                .take(MAX_FILE + 1)
                .read_to_end(&mut bytes)?;
            Ok(Some(bytes))
        });
        match content {
            Ok(Some(bytes)) if bytes.len() as u64 > MAX_FILE => self.fail(
                at,
                format!(
                    "the file that {field} names is larger than {} MiB",
                    MAX_FILE >> 20
                ),
            ),
            Ok(Some(bytes)) => Ok(bytes),
            Ok(None) => self.fail(at, format!("{field} is not a file")),
            Err(error) => self.fail(
                at,
                format!(
                    "the file that {field} names cannot be read: {}",
                    descriptors::words(&error)
                ),
            ),
        }
    }

    /// Base64 of PEM with a block whose label ends in `block`, without white space.
    fn pem_data(&self, at: &Spanned<String>, field: &str, block: &str) -> Result<String, Error> {
        let data: String = at
            .value
            .chars()
            .filter(|c| !c.is_ascii_whitespace())
            .collect();
        let Ok(bytes) = STANDARD.decode(&data) else {
            return self.fail(at, format!("{field} is not base64"));
        };
        if !is_pem(&bytes, block) {
            return self.fail(at, format!("{field} holds no PEM block {block}"));
        }
        Ok(data)
    }

    /// The same from a file of PEM.
    fn pem_file(&self, at: &Spanned<String>, field: &str, block: &str) -> Result<String, Error> {
        let bytes = self.read(at, field)?;
        if !is_pem(&bytes, block) {
            return self.fail(
                at,
                format!("the file that {field} names holds no PEM block {block}"),
            );
        }
        Ok(STANDARD.encode(bytes))
    }

    /// The token of a file; an editor's line end is none of it.
    fn token_file(&self, at: &Spanned<String>) -> Result<String, Error> {
        let bytes = self.read(at, "tokenFile")?;
        match String::from_utf8(bytes) {
            Ok(token) if is_token(token.trim()) => Ok(token.trim().to_owned()),
            _ => self.fail(
                at,
                "the file that tokenFile names holds no token: it is empty or has characters that no header may hold",
            ),
        }
    }

    fn url(&self, at: &Spanned<String>, field: &str, schemes: &[&str]) -> Result<(), Error> {
        let good = at.value.parse::<http::Uri>().is_ok_and(|url| {
            url.scheme_str()
                .is_some_and(|scheme| schemes.contains(&scheme))
                && url.authority().is_some_and(has_host_and_port)
                && url.query().is_none()
        });
        if good {
            Ok(())
        } else {
            self.fail(
                at,
                format!("{field} is not a URL of {}", schemes.join(" or ")),
            )
        }
    }
}

/// `http` takes any text after the colon for a port; here it is a number from 1 to 65535 or there is no colon.
fn has_host_and_port(authority: &http::uri::Authority) -> bool {
    let host = authority.host();
    let place = authority.as_str().rsplit('@').next().unwrap_or_default();
    !host.is_empty()
        && match place.strip_prefix(host) {
            Some("") => true,
            Some(rest) => rest
                .strip_prefix(':')
                .and_then(|port| port.parse::<u16>().ok())
                .is_some_and(|port| port != 0),
            None => false,
        }
}

/// Whether there is a complete block whose label ends in `block`.
fn is_pem(bytes: &[u8], block: &str) -> bool {
    let text = String::from_utf8_lossy(bytes);
    let mut lines = text.lines().map(str::trim);
    let label = |line: &str, edge: &str| {
        line.strip_prefix(edge)
            .and_then(|rest| rest.strip_suffix("-----"))
            .is_some_and(|label| label.ends_with(block))
    };
    lines.any(|line| label(line, "-----BEGIN ")) && lines.any(|line| label(line, "-----END "))
}

fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte > b' ' && byte < 0x7f)
}

fn filled(text: &Text) -> Option<&Spanned<String>> {
    text.as_ref().filter(|text| !text.value.is_empty())
}

/// Checks that a context names its cluster and its user in text.
pub(super) fn context(
    file: &str,
    origin: &Origin,
    named: &Named<ContextBody>,
) -> Result<(), Error> {
    let wrong = named.body.as_ref().and_then(|body| body.wrong.as_ref());
    Place { file, origin }.fits(&named.name, wrong)
}

/// Checks a cluster; the certificate authority is inline afterwards.
pub(super) fn cluster(
    file: &str,
    origin: &Origin,
    named: &Named<ClusterBody>,
) -> Result<kube::config::Cluster, Error> {
    let place = Place { file, origin };
    let Some(body) = &named.body else {
        return place.fail(&named.name, "the cluster has no body");
    };
    place.fits(&named.name, body.wrong.as_ref())?;
    let Some(server) = filled(&body.server) else {
        return place.fail(&named.name, "the cluster has no server");
    };
    place.url(server, "server", &["https", "http"])?;
    let data = filled(&body.certificate_authority_data)
        .map(|at| place.pem_data(at, "certificate-authority-data", "CERTIFICATE"))
        .transpose()?;
    // Data beats the path, which then need not exist: as client-go.
    let data = match (filled(&body.certificate_authority), data) {
        (Some(at), None) => Some(place.pem_file(at, "certificate-authority", "CERTIFICATE")?),
        (_, data) => data,
    };
    let flag = body.insecure_skip_tls_verify.as_ref();
    let insecure = flag.is_some_and(|flag| flag.value);
    if insecure && data.is_some() {
        let at = filled(&body.certificate_authority_data)
            .or(filled(&body.certificate_authority))
            .unwrap_or(&named.name);
        return place.fail(
            at,
            "a certificate authority and insecure-skip-tls-verify exclude each other",
        );
    }
    let proxy = filled(&body.proxy_url);
    if let Some(proxy) = proxy {
        place.own(proxy, "proxy-url")?;
        place.url(proxy, "proxy-url", &["http", "https", "socks5", "socks5h"])?;
    }
    Ok(kube::config::Cluster {
        server: Some(server.value.clone()),
        insecure_skip_tls_verify: flag.map(|flag| flag.value),
        certificate_authority_data: data,
        proxy_url: proxy.map(|at| at.value.clone()),
        tls_server_name: filled(&body.tls_server_name).map(|at| at.value.clone()),
        ..Default::default()
    })
}

/// Checks a user; certificate, key and token are inline afterwards.
pub(super) fn user(
    file: &str,
    origin: &Origin,
    named: &Named<UserBody>,
) -> Result<kube::config::AuthInfo, Error> {
    let place = Place { file, origin };
    // A user without a body is anonymous, as for kubectl.
    let Some(body) = &named.body else {
        return Ok(kube::config::AuthInfo::default());
    };
    place.fits(&named.name, body.wrong.as_ref())?;
    if let Some(provider) = &body.auth_provider {
        return place.fail(
            provider,
            "auth-provider is not supported: the user needs exec, a token or a certificate",
        );
    }
    let mut info = Map::new();
    pair(&place, body, &mut info)?;
    for (field, value) in [
        ("token", &body.token),
        ("username", &body.username),
        ("password", &body.password),
        ("as", &body.impersonate),
        ("as-uid", &body.impersonate_uid),
    ] {
        if let Some(value) = filled(value) {
            if value.value.contains(REPLACED) {
                return place.fail(value, format!("{field} has control characters"));
            }
            info.insert(field.to_owned(), json!(value.value));
        }
    }
    if let Some(at) = filled(&body.token)
        && !is_token(&at.value)
    {
        return place.fail(at, "token has characters that no header may hold");
    }
    if let Some(at) = filled(&body.token_file) {
        place.own(at, "tokenFile")?;
    }
    // A token beats a token file, which then need not exist.
    if let (Some(at), None) = (filled(&body.token_file), filled(&body.token)) {
        info.insert("token".to_owned(), json!(place.token_file(at)?));
    }
    if let Some(groups) = &body.impersonate_groups {
        info.insert("as-groups".to_owned(), json!(groups.value));
    }
    if let Some(exec) = &body.exec {
        place.own(exec, "exec")?;
        info.insert("exec".to_owned(), command(&place, exec)?);
    }
    let line = named.name.referenced.line();
    // The error of serde_json quotes values, so it is not passed on.
    serde_json::from_value(Value::Object(info))
        .map_err(|_| Error::input(file, Some(line), "the user has a value of the wrong type"))
}

/// The client certificate and its key: both or neither.
fn pair(place: &Place<'_>, body: &UserBody, info: &mut Map<String, Value>) -> Result<(), Error> {
    let mut halves = [None, None];
    for (half, (field, block, data, path)) in halves.iter_mut().zip([
        (
            "client-certificate",
            "CERTIFICATE",
            &body.client_certificate_data,
            &body.client_certificate,
        ),
        (
            "client-key",
            "PRIVATE KEY",
            &body.client_key_data,
            &body.client_key,
        ),
    ]) {
        if let Some(at) = filled(data) {
            let field = format!("{field}-data");
            let data = place.pem_data(at, &field, block)?;
            info.insert(field, json!(data));
            *half = Some(at);
        } else if let Some(at) = filled(path) {
            let data = place.pem_file(at, field, block)?;
            info.insert(format!("{field}-data"), json!(data));
            *half = Some(at);
        }
    }
    match halves {
        [Some(at), None] => place.fail(at, "there is a client certificate but no client key"),
        [None, Some(at)] => place.fail(at, "there is a client key but no client certificate"),
        _ => Ok(()),
    }
}

/// An exec plugin; a relative path with a folder in it resolves to the kubeconfig's folder, a bare name to `PATH`.
fn command(place: &Place<'_>, exec: &Spanned<Value>) -> Result<Value, Error> {
    let mut value = exec.value.clone();
    let Some(fields) = value.as_object_mut() else {
        return place.fail(exec, "exec is not a mapping");
    };
    let Some(command) = fields.get("command").and_then(Value::as_str) else {
        return place.fail(exec, "exec names no command");
    };
    if command.contains('/') && !command.starts_with('/') {
        let Origin::Folder(folder) = place.origin else {
            return place.fail(
                exec,
                "exec's command is a relative path, and there is no folder that it is relative to",
            );
        };
        let absolute = folder.join(command).to_string_lossy().into_owned();
        fields.insert("command".to_owned(), Value::String(absolute));
    }
    Ok(value)
}
