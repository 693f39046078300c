//! Kubeconfig files: read, checked line by line, cut into one small configuration per context.
//!
//! `kube`'s own loader quotes neighbouring lines in its errors, key material included, caps a file at some 7,900
//! contexts and copies the whole file for every context of it. So files are read here: an error names the file, the
//! line and the rule and nothing else, and [`Kubeconfig::select`] costs the size of one context.
//!
//! ```
//! let text = "\
//! apiVersion: v1
//! kind: Config
//! clusters: [{name: east, cluster: {server: 'https://127.0.0.1:6443'}}]
//! contexts: [{name: east, context: {cluster: west}}]
//! ";
//! let file = orchestrator::kubeconfig::parse(text, "fleet.yaml", None).expect("it is well formed");
//! let error = file.select("east").expect_err("there is no cluster west");
//! assert_eq!(error.to_string(), "fleet.yaml:4: the context names a cluster that the file does not have");
//! ```

use std::collections::HashMap;
use std::fmt;
use std::io::Read as _;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_saphyr::Spanned;

use crate::Error;
use crate::descriptors;

mod check;
mod connect;
mod document;
mod plugin;
mod pool;
mod reach;
mod remote;
mod tls;

use check::Origin;
use document::{Document, Named};
pub(crate) use pool::AT_ONCE as REQUESTS_AT_ONCE;
pub(crate) use reach::Reach;
pub(crate) use remote::RemoteKubeconfig;
pub(crate) use tls::Rule as TlsRule;
use tls::Trust;

/// The most bytes of one file: 5,000 contexts with certificates are 60 MB.
const MAX_BYTES: u64 = 128 << 20;

/// One kubeconfig, or several merged as kubectl merges them: the first that names a thing wins.
pub struct Kubeconfig {
    files: Vec<File>,
    /// Names to (file, position), first wins.
    clusters: HashMap<String, (usize, usize)>,
    users: HashMap<String, (usize, usize)>,
    contexts: HashMap<String, (usize, usize)>,
    /// In the order of the files.
    order: Vec<(usize, usize)>,
    /// What was left out of the files and why, with its place.
    warnings: Vec<String>,
}

struct File {
    name: String,
    origin: Origin,
    document: Document,
}

/// One context of a kubeconfig with its cluster and user, checked and independent of the rest.
#[derive(Clone)]
pub struct Selected {
    /// The context's name.
    pub context: String,
    /// The file that holds it.
    pub file: String,
    /// The line of its name.
    pub line: u64,
    entry: Entry,
}

/// A checked cluster and user. All their data is inline but for the credentials of an exec plugin.
#[derive(Clone)]
struct Entry {
    cluster: Box<kube::config::Cluster>,
    user: Box<kube::config::AuthInfo>,
    /// What the cluster's extension for exec plugins holds.
    extension: Option<serde_json::Value>,
}

/// By what two entries are known to reach the same server: its URL and the authorities that vouch for it, both as SHA-256 in base64, so
/// that neither can be read out of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    url: String,
    authorities: Option<String>,
}

impl Identity {
    /// Whether both reach the same server.
    pub(crate) fn is_same_url(&self, other: &Self) -> bool {
        self.url == other.url
    }

    /// Whether both reach the same server, or servers that the same authorities vouch for.
    pub(crate) fn agrees(&self, other: &Self) -> bool {
        self.url == other.url || self.authorities.is_some() && self.authorities == other.authorities
    }
}

impl Entry {
    fn server(&self) -> &str {
        self.cluster.server.as_deref().unwrap_or_default()
    }

    fn identity(&self) -> Identity {
        use base64::Engine as _;
        let hash = |text: &str| {
            let hash = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
            base64::engine::general_purpose::STANDARD.encode(hash)
        };
        let authorities = self.cluster.certificate_authority_data.as_deref();
        Identity {
            url: hash(self.server().trim_end_matches('/')),
            authorities: authorities.map(hash),
        }
    }

    /// Who vouches for the server.
    fn trust(&self) -> Result<Trust, String> {
        use base64::Engine as _;
        use rustls::pki_types::{CertificateDer, pem::PemObject as _};
        if self.cluster.insecure_skip_tls_verify == Some(true) {
            return Ok(Trust::Anybody);
        }
        let Some(data) = &self.cluster.certificate_authority_data else {
            return Ok(Trust::System);
        };
        let wrong = || "its certificate authority is not PEM".to_owned();
        let pem = base64::engine::general_purpose::STANDARD
            .decode(data)
            .map_err(|_| wrong())?;
        let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
        let certificates = certificates.map_err(|_| wrong())?;
        Ok(Trust::Authorities(
            certificates
                .iter()
                .map(|certificate| certificate.to_vec())
                .collect(),
        ))
    }
}

impl Selected {
    /// The server's URL.
    pub(crate) fn server(&self) -> &str {
        self.entry.server()
    }

    /// Who vouches for the server, base64 of PEM, where its entry says so.
    pub(crate) fn authority_data(&self) -> Option<String> {
        self.entry.cluster.certificate_authority_data.clone()
    }

    /// The name that the server's certificate has to have, where its entry says so.
    pub(crate) fn server_name(&self) -> Option<String> {
        self.entry.cluster.tls_server_name.clone()
    }

    /// Whether the server need not prove who it is.
    pub(crate) fn trusts_anybody(&self) -> bool {
        self.entry.cluster.insecure_skip_tls_verify == Some(true)
    }

    /// What proves that another entry reaches the same server.
    pub(crate) fn identity(&self) -> Identity {
        self.entry.identity()
    }

    /// The server's URL where this machine connects to it, and none where a proxy does.
    pub(crate) fn direct_server(&self) -> Option<&str> {
        self.entry
            .cluster
            .proxy_url
            .is_none()
            .then(|| self.server())
    }

    /// A client for it that keeps at most `idle` unused connections; its exec plugin is run once for that.
    ///
    /// # Errors
    /// Why there is none, in words without credentials.
    pub async fn client(&self, idle: usize) -> Result<kube::Client, String> {
        self.entry.client(Reach::Everywhere, idle).await
    }
}

impl fmt::Debug for Selected {
    /// Without the credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Selected")
            .field("context", &self.context)
            .field("file", &self.file)
            .field("line", &self.line)
            .finish_non_exhaustive()
    }
}

/// Reads one file.
///
/// # Errors
/// [`Error::Input`] where it cannot be read or is not a kubeconfig.
pub fn read(path: &Path) -> Result<Kubeconfig, Error> {
    Kubeconfig::merged(vec![open(path)?])
}

/// Reads a list of files as kubectl reads `KUBECONFIG`: absent and empty ones are passed over while one is there, and one that
/// cannot be read costs itself and is among the [`Kubeconfig::warnings`].
///
/// # Errors
/// [`Error::Input`] where none can be read.
pub fn read_list(paths: &[PathBuf]) -> Result<Kubeconfig, Error> {
    let mut files = Vec::new();
    let mut warnings = Vec::new();
    let mut first = None;
    for path in paths {
        match open(path) {
            Ok(file) => files.push(file),
            Err(error) => {
                let is_empty = std::fs::metadata(path).map_or(true, |found| found.len() == 0);
                if !is_empty {
                    warnings.push(format!("{error}; the file is left out"));
                }
                first.get_or_insert(error);
            }
        }
    }
    if let (true, Some(error)) = (files.is_empty(), first) {
        return Err(error);
    }
    let mut merged = Kubeconfig::merged(files)?;
    merged.warnings.extend(warnings);
    Ok(merged)
}

/// Checks text that came from elsewhere; `name` stands for the file in errors. Without a folder, relative paths are refused.
///
/// # Errors
/// [`Error::Input`] where it is not a kubeconfig.
pub fn parse(text: &str, name: &str, folder: Option<&Path>) -> Result<Kubeconfig, Error> {
    Kubeconfig::merged(vec![File {
        name: name.to_owned(),
        origin: folder.map_or(Origin::Text, |folder| Origin::Folder(folder.to_owned())),
        document: document::parse(text, name)?,
    }])
}

fn open(path: &Path) -> Result<File, Error> {
    let name = path.display().to_string();
    let fail = |rule: String| Error::input(name.clone(), None, rule);
    let unreadable = |error: std::io::Error| {
        fail(match error.kind() {
            std::io::ErrorKind::NotFound => "does not exist".to_owned(),
            _ => format!("cannot be read: {}", descriptors::words(&error)),
        })
    };
    let metadata = std::fs::metadata(path).map_err(unreadable)?;
    if metadata.is_dir() {
        return Err(fail("is a directory, not a kubeconfig".to_owned()));
    }
    let kind = metadata.file_type();
    if kind.is_block_device() || kind.is_char_device() {
        return Err(fail("is a device, not a kubeconfig".to_owned()));
    }
    let mut bytes = Vec::new();
    // A pipe (`<(…)`) does not say how much comes out of it.
    std::fs::File::open(path)
        .and_then(|file| file.take(MAX_BYTES + 1).read_to_end(&mut bytes))
        .map_err(unreadable)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(fail(format!("is larger than {} MiB", MAX_BYTES >> 20)));
    }
    let text = decoded(bytes)
        .map_err(|line| Error::input(name.clone(), Some(line), "is not UTF-8 text"))?;
    // A file that is named without a folder lies in the current one; an absolute path survives a later change of it.
    let folder = std::path::absolute(path)
        .ok()
        .and_then(|path| path.parent().map(Path::to_owned));
    Ok(File {
        document: document::parse(&text, &name)?,
        name,
        origin: folder.map_or(Origin::Text, Origin::Folder),
    })
}

/// UTF-8, or UTF-16 with the mark by which Windows' shells begin what they write; else the line of the first bad byte.
fn decoded(bytes: Vec<u8>) -> Result<String, u64> {
    let unit: Option<fn([u8; 2]) -> u16> = match bytes[..] {
        [0xff, 0xfe, ..] => Some(u16::from_le_bytes),
        [0xfe, 0xff, ..] => Some(u16::from_be_bytes),
        _ => None,
    };
    if let Some(unit) = unit {
        if bytes.len() % 2 == 1 {
            return Err(1);
        }
        let units = bytes[2..]
            .chunks_exact(2)
            .map(|pair| unit([pair[0], pair[1]]));
        let text: Result<String, _> = char::decode_utf16(units).collect();
        return text.map_err(|_| 1);
    }
    let text = String::from_utf8(bytes).map_err(|error| {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        1 + valid.iter().filter(|byte| **byte == b'\n').count() as u64
    })?;
    Ok(text
        .strip_prefix('\u{feff}')
        .map(str::to_owned)
        .unwrap_or(text))
}

impl Kubeconfig {
    fn merged(files: Vec<File>) -> Result<Self, Error> {
        let mut merged = Self {
            files: Vec::new(),
            clusters: HashMap::new(),
            users: HashMap::new(),
            contexts: HashMap::new(),
            order: Vec::new(),
            warnings: Vec::new(),
        };
        for (at, file) in files.into_iter().enumerate() {
            let left_out = &mut merged.warnings;
            let document = &file.document;
            index(
                &file.name,
                at,
                &document.clusters,
                &mut merged.clusters,
                ("clusters", left_out),
            )?;
            index(
                &file.name,
                at,
                &document.users,
                &mut merged.users,
                ("users", left_out),
            )?;
            let new = index(
                &file.name,
                at,
                &document.contexts,
                &mut merged.contexts,
                ("contexts", left_out),
            )?;
            merged
                .order
                .extend(new.into_iter().map(|entry| (at, entry)));
            merged.files.push(file);
        }
        Ok(merged)
    }

    /// The names of the contexts, in the order of the file.
    pub fn contexts(&self) -> impl Iterator<Item = &str> {
        self.order.iter().map(|(file, entry)| {
            self.files[*file].document.contexts[*entry]
                .name
                .value
                .as_str()
        })
    }

    /// What was left out of the files and why, with its place, one sentence each.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The server of a context, as far as the files say, whether or not the context can be used.
    #[must_use]
    pub fn server(&self, context: &str) -> Option<&str> {
        let &(file, entry) = self.contexts.get(context)?;
        let body = self.files[file].document.contexts[entry].body.as_ref()?;
        let &(file, entry) = self.clusters.get(&body.cluster.as_ref()?.value)?;
        let body = self.files[file].document.clusters[entry].body.as_ref()?;
        Some(&body.server.as_ref()?.value)
    }

    /// The file that holds a context.
    pub(crate) fn file_of(&self, context: &str) -> Option<&str> {
        let &(file, _) = self.contexts.get(context)?;
        Some(&self.files.get(file)?.name)
    }

    /// What the files are called in errors.
    #[must_use]
    pub fn name(&self) -> String {
        let names: Vec<_> = self.files.iter().map(|file| file.name.as_str()).collect();
        names.join(":")
    }

    /// The context that kubectl would use.
    ///
    /// # Errors
    /// [`Error::Input`] where no file says, or names one that is not there.
    pub fn current(&self) -> Result<&str, Error> {
        for file in &self.files {
            let Some(current) = &file.document.current_context else {
                continue;
            };
            if current.value.is_empty() {
                continue;
            }
            if !self.contexts.contains_key(&current.value) {
                return Err(Error::input(
                    &file.name,
                    Some(current.referenced.line()),
                    "current-context names a context that the file does not have",
                ));
            }
            return Ok(&current.value);
        }
        // One context leaves no doubt.
        if let [(file, entry)] = self.order[..] {
            return Ok(&self.files[file].document.contexts[entry].name.value);
        }
        Err(Error::input(
            self.name(),
            None,
            "says no current-context, and no context was chosen",
        ))
    }

    /// One context with its cluster and user, checked.
    ///
    /// # Errors
    /// [`Error::Input`] with the line of what is wrong.
    pub fn select(&self, context: &str) -> Result<Selected, Error> {
        let Some(&(file, entry)) = self.contexts.get(context) else {
            return Err(Error::input(
                self.name(),
                None,
                format!("has no context {context}"),
            ));
        };
        let from = &self.files[file];
        let named = &from.document.contexts[entry];
        let fail = |at: &Spanned<String>, rule: &str| {
            Err(Error::input(&from.name, Some(at.referenced.line()), rule))
        };
        let Some(body) = &named.body else {
            return fail(&named.name, "the context has no body");
        };
        check::context(&from.name, &from.origin, named)?;
        let Some(cluster) = body.cluster.as_ref().filter(|name| !name.value.is_empty()) else {
            return fail(&named.name, "the context names no cluster");
        };
        let Some(&(cluster_file, cluster_entry)) = self.clusters.get(&cluster.value) else {
            return fail(
                cluster,
                "the context names a cluster that the file does not have",
            );
        };
        let user = match body.user.as_ref().filter(|name| !name.value.is_empty()) {
            None => None,
            Some(user) => match self.users.get(&user.value) {
                Some(at) => Some(at),
                None => {
                    return fail(user, "the context names a user that the file does not have");
                }
            },
        };
        let cluster_file = &self.files[cluster_file];
        let named_cluster = &cluster_file.document.clusters[cluster_entry];
        let cluster = check::cluster(&cluster_file.name, &cluster_file.origin, named_cluster)?;
        let user = match user {
            None => kube::config::AuthInfo::default(),
            Some(&(file, entry)) => {
                let file = &self.files[file];
                check::user(&file.name, &file.origin, &file.document.users[entry])?
            }
        };
        let extensions = named_cluster
            .body
            .as_ref()
            .and_then(|body| body.extensions.as_ref())
            .and_then(|extensions| extensions.value.as_array());
        let extension = extensions
            .into_iter()
            .flatten()
            .find(|extension| extension["name"] == EXEC_EXTENSION)
            .map(|extension| extension["extension"].clone())
            .filter(|extension| !extension.is_null());
        Ok(Selected {
            context: context.to_owned(),
            file: from.name.clone(),
            line: named.name.referenced.line(),
            entry: Entry {
                cluster: Box::new(cluster),
                user: Box::new(user),
                extension,
            },
        })
    }
}

/// The cluster's extension that exec plugins are told.
const EXEC_EXTENSION: &str = "client.authentication.k8s.io/exec";

/// Adds the names of one file; the positions of those that were new.
fn index<T>(
    file: &str,
    at: usize,
    entries: &[Named<T>],
    into: &mut HashMap<String, (usize, usize)>,
    (list, left_out): (&str, &mut Vec<String>),
) -> Result<Vec<usize>, Error> {
    let mut new = Vec::new();
    for (position, entry) in entries.iter().enumerate() {
        let line = Some(entry.name.referenced.line());
        if entry.name.value.is_empty() {
            left_out.push(format!(
                "{file}: {list}[{position}] has no name that is text and is left out"
            ));
            continue;
        }
        match into.get(&entry.name.value) {
            Some((other, _)) if *other == at => {
                return Err(Error::input(file, line, "the name is used twice"));
            }
            Some(_) => {}
            None => {
                into.insert(entry.name.value.clone(), (at, position));
                new.push(position);
            }
        }
    }
    Ok(new)
}

#[cfg(test)]
mod tests;
