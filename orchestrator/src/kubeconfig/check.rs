//! The rules of one cluster and one user, and their values as `kube` takes them.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};
use serde_saphyr::Spanned;

use super::document::{ClusterBody, Named, Text, UserBody};
use crate::Error;

/// Where values of one file are looked at.
struct Place<'a> {
    file: &'a str,
    folder: Option<&'a Path>,
}

impl Place<'_> {
    fn fail<T>(&self, at: &Spanned<impl Sized>, rule: impl Into<String>) -> Result<T, Error> {
        Err(Error::input(self.file, Some(at.referenced.line()), rule))
    }

    /// An existing file, as an absolute path.
    fn path(&self, at: &Spanned<String>, field: &str) -> Result<String, Error> {
        let path = Path::new(&at.value);
        let path = match self.folder {
            _ if path.is_absolute() => path.to_owned(),
            Some(folder) => folder.join(path),
            None => {
                return self.fail(
                    at,
                    format!(
                        "{field} is a relative path, and there is no folder that it is relative to"
                    ),
                );
            }
        };
        match std::fs::metadata(&path) {
            Ok(found) if found.is_file() => {}
            Ok(_) => return self.fail(at, format!("{field} is not a file")),
            Err(error) => {
                return self.fail(
                    at,
                    format!(
                        "the file that {field} names cannot be read: {}",
                        error.kind()
                    ),
                );
            }
        }
        match path.into_os_string().into_string() {
            Ok(path) => Ok(path),
            Err(_) => self.fail(at, format!("{field} is not UTF-8 text")),
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

    /// A file of PEM with a block whose label ends in `block`.
    fn pem_file(&self, at: &Spanned<String>, field: &str, block: &str) -> Result<String, Error> {
        let path = self.path(at, field)?;
        match std::fs::read(&path) {
            Ok(bytes) if is_pem(&bytes, block) => Ok(path),
            Ok(_) => self.fail(
                at,
                format!("the file that {field} names holds no PEM block {block}"),
            ),
            Err(error) => self.fail(
                at,
                format!(
                    "the file that {field} names cannot be read: {}",
                    error.kind()
                ),
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

fn filled(text: &Text) -> Option<&Spanned<String>> {
    text.as_ref().filter(|text| !text.value.is_empty())
}

/// Checks a cluster.
pub(super) fn cluster(
    file: &str,
    folder: Option<&Path>,
    named: &Named<ClusterBody>,
) -> Result<kube::config::Cluster, Error> {
    let place = Place { file, folder };
    let Some(body) = &named.body else {
        return place.fail(&named.name, "the cluster has no body");
    };
    let Some(server) = filled(&body.server) else {
        return place.fail(&named.name, "the cluster has no server");
    };
    place.url(server, "server", &["https", "http"])?;
    let data = filled(&body.certificate_authority_data)
        .map(|at| place.pem_data(at, "certificate-authority-data", "CERTIFICATE"))
        .transpose()?;
    // Data beats the path, which then need not exist: as client-go.
    let path = match (filled(&body.certificate_authority), &data) {
        (Some(at), None) => Some(place.pem_file(at, "certificate-authority", "CERTIFICATE")?),
        _ => None,
    };
    let insecure = body.insecure_skip_tls_verify == Some(true);
    if insecure && (data.is_some() || path.is_some()) {
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
        place.url(proxy, "proxy-url", &["http", "https", "socks5"])?;
    }
    Ok(kube::config::Cluster {
        server: Some(server.value.clone()),
        insecure_skip_tls_verify: body.insecure_skip_tls_verify,
        certificate_authority: path,
        certificate_authority_data: data,
        proxy_url: proxy.map(|at| at.value.clone()),
        tls_server_name: filled(&body.tls_server_name).map(|at| at.value.clone()),
        ..Default::default()
    })
}

/// Checks a user.
pub(super) fn user(
    file: &str,
    folder: Option<&Path>,
    named: &Named<UserBody>,
) -> Result<kube::config::AuthInfo, Error> {
    let place = Place { file, folder };
    // A user without a body is anonymous, as for kubectl.
    let Some(body) = &named.body else {
        return Ok(kube::config::AuthInfo::default());
    };
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
            info.insert(field.to_owned(), json!(value.value));
        }
    }
    if let Some(at) = filled(&body.token)
        && at.value.bytes().any(|byte| byte <= b' ' || byte >= 0x7f)
    {
        return place.fail(at, "token has characters that no header may hold");
    }
    // A token beats a token file, which then need not exist.
    if let (Some(at), None) = (filled(&body.token_file), filled(&body.token)) {
        info.insert("tokenFile".to_owned(), json!(place.path(at, "tokenFile")?));
    }
    if let Some(groups) = &body.impersonate_groups {
        info.insert("as-groups".to_owned(), json!(groups));
    }
    if let Some(exec) = &body.exec {
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
            let path = place.pem_file(at, field, block)?;
            info.insert(field.to_owned(), json!(path));
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
        let Some(folder) = place.folder else {
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
