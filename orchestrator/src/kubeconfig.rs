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
use std::path::{Path, PathBuf};

use serde_saphyr::Spanned;

use crate::Error;

mod check;
mod connect;
mod document;

use document::{Document, Named};

/// The most bytes of one file.
const MAX_BYTES: u64 = 256 << 20;

/// One kubeconfig, or several merged as kubectl merges them: the first that names a thing wins.
pub struct Kubeconfig {
    files: Vec<File>,
    /// Names to (file, position), first wins.
    clusters: HashMap<String, (usize, usize)>,
    users: HashMap<String, (usize, usize)>,
    contexts: HashMap<String, (usize, usize)>,
    /// In the order of the files.
    order: Vec<(usize, usize)>,
}

struct File {
    name: String,
    /// What relative paths resolve to; none where the text came from no file.
    folder: Option<PathBuf>,
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
    /// Exactly one cluster, user and context, with absolute paths.
    config: Box<kube::config::Kubeconfig>,
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

/// Reads a list of files as kubectl reads `KUBECONFIG`: absent ones are passed over while one is there.
///
/// # Errors
/// [`Error::Input`] where one cannot be read or is not a kubeconfig, or none is there.
pub fn read_list(paths: &[PathBuf]) -> Result<Kubeconfig, Error> {
    let mut files = Vec::new();
    for path in paths {
        if path.exists() || (files.is_empty() && Some(path) == paths.last()) {
            files.push(open(path)?);
        }
    }
    Kubeconfig::merged(files)
}

/// Checks text that came from elsewhere; `name` stands for the file in errors. Without a folder, relative paths are refused.
///
/// # Errors
/// [`Error::Input`] where it is not a kubeconfig.
pub fn parse(text: &str, name: &str, folder: Option<&Path>) -> Result<Kubeconfig, Error> {
    Kubeconfig::merged(vec![File {
        name: name.to_owned(),
        folder: folder.map(Path::to_owned),
        document: document::parse(text, name)?,
    }])
}

fn open(path: &Path) -> Result<File, Error> {
    let name = path.display().to_string();
    let fail = |rule: String| Error::input(name.clone(), None, rule);
    let unreadable = |error: std::io::Error| {
        fail(match error.kind() {
            std::io::ErrorKind::NotFound => "does not exist".to_owned(),
            kind => format!("cannot be read: {kind}"),
        })
    };
    let metadata = std::fs::metadata(path).map_err(unreadable)?;
    if metadata.is_dir() {
        return Err(fail("is a directory, not a kubeconfig".to_owned()));
    }
    if metadata.len() > MAX_BYTES {
        return Err(fail(format!("is larger than {} MiB", MAX_BYTES >> 20)));
    }
    let bytes = std::fs::read(path).map_err(unreadable)?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = 1 + valid.iter().filter(|byte| **byte == b'\n').count() as u64;
        Error::input(name.clone(), Some(line), "is not UTF-8 text")
    })?;
    // A file that is named without a folder lies in the current one; an absolute path survives a later change of it.
    let folder = std::path::absolute(path)
        .ok()
        .and_then(|path| path.parent().map(Path::to_owned));
    Ok(File {
        document: document::parse(&text, &name)?,
        name,
        folder,
    })
}

impl Kubeconfig {
    fn merged(files: Vec<File>) -> Result<Self, Error> {
        let mut merged = Self {
            files: Vec::new(),
            clusters: HashMap::new(),
            users: HashMap::new(),
            contexts: HashMap::new(),
            order: Vec::new(),
        };
        for (at, file) in files.into_iter().enumerate() {
            index(
                &file.name,
                at,
                &file.document.clusters,
                &mut merged.clusters,
            )?;
            index(&file.name, at, &file.document.users, &mut merged.users)?;
            let new = index(
                &file.name,
                at,
                &file.document.contexts,
                &mut merged.contexts,
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
        let cluster = check::cluster(
            &cluster_file.name,
            cluster_file.folder.as_deref(),
            &cluster_file.document.clusters[cluster_entry],
        )?;
        let user = match user {
            None => kube::config::AuthInfo::default(),
            Some(&(file, entry)) => {
                let file = &self.files[file];
                check::user(
                    &file.name,
                    file.folder.as_deref(),
                    &file.document.users[entry],
                )?
            }
        };
        Ok(Selected {
            context: context.to_owned(),
            file: from.name.clone(),
            line: named.name.referenced.line(),
            config: Box::new(single(cluster, user)),
        })
    }
}

/// Adds the names of one file; the positions of those that were new.
fn index<T>(
    file: &str,
    at: usize,
    entries: &[Named<T>],
    into: &mut HashMap<String, (usize, usize)>,
) -> Result<Vec<usize>, Error> {
    let mut new = Vec::new();
    for (position, entry) in entries.iter().enumerate() {
        let line = Some(entry.name.referenced.line());
        if entry.name.value.is_empty() {
            return Err(Error::input(
                file,
                line,
                "a cluster, user or context has no name",
            ));
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

fn single(
    cluster: kube::config::Cluster,
    user: kube::config::AuthInfo,
) -> kube::config::Kubeconfig {
    let name = "this".to_owned();
    kube::config::Kubeconfig {
        clusters: vec![kube::config::NamedCluster {
            name: name.clone(),
            cluster: Some(cluster),
            ..Default::default()
        }],
        auth_infos: vec![kube::config::NamedAuthInfo {
            name: name.clone(),
            auth_info: Some(user),
            ..Default::default()
        }],
        contexts: vec![kube::config::NamedContext {
            name: name.clone(),
            context: Some(kube::config::Context {
                cluster: name.clone(),
                user: Some(name.clone()),
                ..Default::default()
            }),
            ..Default::default()
        }],
        current_context: Some(name),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests;
