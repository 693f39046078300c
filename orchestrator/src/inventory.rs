//! Which clusters a run is about.
//!
//! Files are read and checked before anything is asked of anybody. One of many files or entries that breaks a rule costs
//! itself, with its place: a file is left out with a warning, a context is a cluster that could not be asked. Where nothing
//! else is left, or one thing alone was named, the rule ends the run.

use std::collections::{BTreeSet, HashMap};
use std::ffi::OsString;
use std::fmt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use datapath::printable::Printable;
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::engine::messages::TargetFacts;
use crate::glob::Pattern;
use crate::kubeconfig::{self, Identity, Kubeconfig, Reach, RemoteKubeconfig, Selected};

/// What was said about the inventory.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct InventoryOptions {
    /// The source's file (`--src-kubeconfig`); without it, `KUBECONFIG`.
    pub src_kubeconfig: Option<PathBuf>,
    /// The source's context; without it, the current one.
    pub src_context: Option<String>,
    /// The destination's file (`--dst-kubeconfig`); without it, the run stays within the source.
    pub dst_kubeconfig: Option<PathBuf>,
    /// The destination's context; without it, the current one.
    pub dst_context: Option<String>,
    /// Files each of whose contexts is a cluster (`--kubeconfig`).
    pub kubeconfigs: Vec<PathBuf>,
    /// Patterns that choose among those contexts; without any, all.
    pub contexts: Vec<Pattern>,
    /// A folder of such files (`--kubeconfig-dir`).
    pub kubeconfig_dir: Option<PathBuf>,
    /// Every context of the default file (`KUBECONFIG`) is a cluster, not the current one alone (`--all-contexts`).
    pub all_contexts: bool,
    /// The control plane's file, whose `clusters.kosmos.io` are the inventory (`--fleet`); contexts beside it are ways to them.
    pub fleet: Option<PathBuf>,
}

impl InventoryOptions {
    /// The same, whose paths mean the same in every directory.
    pub(crate) fn absolute(&self) -> Self {
        let absolute = |path: &PathBuf| std::path::absolute(path).unwrap_or_else(|_| path.clone());
        Self {
            src_kubeconfig: self.src_kubeconfig.as_ref().map(absolute),
            dst_kubeconfig: self.dst_kubeconfig.as_ref().map(absolute),
            kubeconfigs: self.kubeconfigs.iter().map(absolute).collect(),
            kubeconfig_dir: self.kubeconfig_dir.as_ref().map(absolute),
            fleet: self.fleet.as_ref().map(absolute),
            ..self.clone()
        }
    }
}

/// A cluster that is to be asked.
#[derive(Clone)]
pub struct Target {
    /// The name it is shown by, unique in the inventory.
    pub name: String,
    /// What it was given for.
    pub role: Role,
    /// How it is reached.
    pub(crate) access: Access,
}

/// What a cluster was given for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// The destination of a pair.
    Destination,
    /// The holder of the inventory.
    Fleet,
    /// One of many.
    Member,
    /// The source of a pair.
    Source,
}

/// How a cluster is reached.
#[derive(Clone)]
pub(crate) enum Access {
    /// By a client that is there.
    Client(kube::Client),
    /// By a context of the operator's.
    Context(Arc<Selected>),
    /// By what another cluster says of it, within the addresses that this may name.
    Remote(Arc<RemoteKubeconfig>, Reach),
    /// Not at all, and why.
    Unusable(String),
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Target")
            .field("name", &self.name)
            .field("role", &self.role)
            .finish_non_exhaustive()
    }
}

impl Target {
    /// A cluster that is reached by a client made elsewhere.
    #[must_use]
    pub fn with_client(name: impl Into<String>, client: kube::Client) -> Self {
        Self {
            name: name.into(),
            role: Role::Member,
            access: Access::Client(client),
        }
    }

    pub(crate) fn with_context(name: String, role: Role, selected: Selected) -> Self {
        Self {
            name,
            role,
            access: Access::Context(Arc::new(selected)),
        }
    }

    pub(crate) fn remote(name: String, remote: RemoteKubeconfig, reach: Reach) -> Self {
        Self {
            name,
            role: Role::Member,
            access: Access::Remote(Arc::new(remote), reach),
        }
    }

    pub(crate) fn unusable(name: String, why: String) -> Self {
        Self {
            name,
            role: Role::Member,
            access: Access::Unusable(why),
        }
    }

    /// Its server's URL without name, password and query, where that is known.
    pub(crate) fn server(&self) -> Option<Printable> {
        match &self.access {
            Access::Context(selected) => Some(without_secrets(selected.server())),
            Access::Remote(remote, _) => Some(without_secrets(remote.server())),
            Access::Client(_) | Access::Unusable(_) => None,
        }
    }

    /// The host and port that it is reached at, where that is known: those behind one share connections.
    pub(crate) fn authority(&self) -> Option<http::uri::Authority> {
        let server = match &self.access {
            Access::Context(selected) => selected.server(),
            Access::Remote(remote, _) => remote.server(),
            Access::Client(_) | Access::Unusable(_) => return None,
        };
        server.parse::<http::Uri>().ok()?.into_parts().authority
    }

    /// What a run's machine has to know of it.
    pub(crate) fn facts(&self) -> TargetFacts {
        TargetFacts {
            name: self.name.clone(),
            role: self.role,
            server: self.server(),
            identity: self.identity(),
        }
    }

    /// What proves that another entry reaches the same server, where anything does.
    pub(crate) fn identity(&self) -> Option<Identity> {
        match &self.access {
            Access::Context(selected) => Some(selected.identity()),
            Access::Remote(remote, _) => Some(remote.identity()),
            Access::Client(_) | Access::Unusable(_) => None,
        }
    }

    /// Which addresses the members that this control plane names may have.
    pub(crate) async fn reach_of_members(&self) -> Reach {
        match &self.access {
            Access::Context(selected) => match selected.direct_server() {
                Some(server) => Reach::beside(server).await,
                None => Reach::Elsewhere(Vec::new()),
            },
            _ => Reach::Elsewhere(Vec::new()),
        }
    }

    /// A client for the cluster that keeps at most `idle` unused connections; its credential plugin, if it has one, is run
    /// for that.
    ///
    /// # Errors
    /// Why there is none, in words without credentials.
    pub(crate) async fn client(&self, idle: usize) -> Result<kube::Client, String> {
        match &self.access {
            Access::Client(client) => Ok(client.clone()),
            Access::Context(selected) => selected.client(idle).await,
            Access::Remote(remote, reach) => remote.client(reach.clone(), idle).await,
            Access::Unusable(why) => Err(why.clone()),
        }
    }
}

/// An inventory as it was read.
#[derive(Debug)]
pub struct Inventory {
    /// The clusters; the unusable ones among them have no access.
    pub targets: Vec<Target>,
    /// What was left out and why, one sentence each.
    pub warnings: Vec<String>,
}

/// One cluster: a context of a file, or of what kubectl would read where none is named; the current context where none is named.
///
/// # Errors
/// [`Error::Usage`] where there is no file at all, [`Error::Input`] where the file or its context breaks a rule.
pub fn selected(file: Option<&Path>, context: Option<&str>) -> Result<Selected, Error> {
    let file = match file {
        Some(file) => kubeconfig::read(file)?,
        None => {
            let home = std::env::var_os("HOME").map(PathBuf::from);
            default_file(std::env::var_os("KUBECONFIG").as_ref(), home.as_deref())?
        }
    };
    match context {
        Some(context) => file.select(context),
        None => file.select(file.current()?),
    }
}

/// Reads the inventory from files; with [`InventoryOptions::fleet`] the first is the control plane, role [`Role::Fleet`], and what else was
/// given are ways to its members.
///
/// # Errors
/// [`Error::Usage`] where the options contradict each other or give no inventory, [`Error::Input`] where a file breaks
/// a rule and nothing is left without it, or a pattern matches no context.
pub fn load(options: &InventoryOptions) -> Result<Inventory, Error> {
    load_with(
        options,
        std::env::var_os("KUBECONFIG"),
        std::env::var_os("HOME").map(PathBuf::from),
    )
}

fn load_with(
    options: &InventoryOptions,
    variable: Option<OsString>,
    home: Option<PathBuf>,
) -> Result<Inventory, Error> {
    let pair = options.src_kubeconfig.is_some()
        || options.src_context.is_some()
        || options.dst_kubeconfig.is_some()
        || options.dst_context.is_some();
    let many = !options.kubeconfigs.is_empty()
        || !options.contexts.is_empty()
        || options.all_contexts
        || options.kubeconfig_dir.is_some();
    let fleet = options.fleet.is_some();
    if pair && (many || fleet) {
        return Err(Error::Usage(
            "the inventory is a pair (--src-*, --dst-*), or --fleet, --kubeconfig, --kubeconfig-dir, --contexts and --all-contexts: not both"
                .to_owned(),
        ));
    }
    if options.all_contexts && !options.contexts.is_empty() {
        return Err(Error::Usage(
            "--all-contexts and --contexts contradict each other".to_owned(),
        ));
    }
    if options.dst_context.is_some() && options.dst_kubeconfig.is_none() {
        return Err(Error::Usage(
            "--dst-context needs --dst-kubeconfig".to_owned(),
        ));
    }
    let default = || default_file(variable.as_ref(), home.as_deref());
    let mut holder = None;
    let mut warnings = Vec::new();
    if let Some(path) = &options.fleet {
        let file = kubeconfig::read(path)?;
        let context = file.current()?.to_owned();
        let selected = file.select(&context)?;
        let name = printable(&context);
        warnings.extend_from_slice(file.warnings());
        holder = Some(Target::with_context(name, Role::Fleet, selected));
    }
    let mut found = Vec::new();
    if pair {
        let source = match &options.src_kubeconfig {
            Some(path) => kubeconfig::read(path)?,
            None => default()?,
        };
        found.push(one(&source, options.src_context.as_deref(), Role::Source)?);
        warnings.extend_from_slice(source.warnings());
        if let Some(path) = &options.dst_kubeconfig {
            let destination = kubeconfig::read(path)?;
            let context = options.dst_context.as_deref();
            found.push(one(&destination, context, Role::Destination)?);
            warnings.extend_from_slice(destination.warnings());
        }
    } else if !many && !fleet {
        // As kubectl: what nobody named is not asked.
        let file = default()?;
        found.push(one(&file, None, Role::Member)?);
        warnings.extend_from_slice(file.warnings());
    } else if many {
        let mut paths = options.kubeconfigs.clone();
        if let Some(folder) = &options.kubeconfig_dir {
            paths.extend(files_of(folder)?);
        }
        let mut files = readable(&paths, &mut warnings)?;
        if paths.is_empty() {
            files.push(default()?);
        }
        for file in &files {
            warnings.extend_from_slice(file.warnings());
        }
        found = matching(&files, &options.contexts)?;
    }
    // The control plane comes first: those beside it are some of its members.
    Ok(Inventory {
        targets: holder.into_iter().chain(named(found)).collect(),
        warnings,
    })
}

/// A context that was chosen.
struct Found {
    role: Role,
    context: String,
    file: String,
    /// Its access, or what is wrong with it.
    access: Result<Selected, String>,
}

fn one(file: &Kubeconfig, context: Option<&str>, role: Role) -> Result<Found, Error> {
    let context = match context {
        Some(context) => context,
        None => file.current()?,
    };
    let selected = file.select(context)?;
    Ok(Found {
        role,
        context: context.to_owned(),
        file: selected.file.clone(),
        access: Ok(selected),
    })
}

/// The files that can be read; the others cost themselves unless nothing is left.
fn readable(paths: &[PathBuf], warnings: &mut Vec<String>) -> Result<Vec<Kubeconfig>, Error> {
    let mut files = Vec::new();
    let mut first = None;
    for path in paths {
        match kubeconfig::read(path) {
            Ok(file) => files.push(file),
            Err(error) => {
                warnings.push(format!("{error}; the file is left out"));
                first.get_or_insert(error);
            }
        }
    }
    match first {
        Some(error) if files.is_empty() => Err(error),
        _ => Ok(files),
    }
}

/// `KUBECONFIG`, else `.kube/config` of the home folder.
fn default_file(variable: Option<&OsString>, home: Option<&Path>) -> Result<Kubeconfig, Error> {
    let listed: Vec<PathBuf> = variable
        .map(|list| std::env::split_paths(list).collect())
        .unwrap_or_default();
    let listed: Vec<PathBuf> = listed
        .into_iter()
        .filter(|path| !path.as_os_str().is_empty())
        .collect();
    if !listed.is_empty() {
        return kubeconfig::read_list(&listed);
    }
    match home.map(|home| home.join(".kube/config")) {
        Some(path) if path.exists() => kubeconfig::read(&path),
        _ => Err(Error::Usage(
            "no inventory: give --kubeconfig, --kubeconfig-dir, --src-kubeconfig or --fleet, or set KUBECONFIG"
                .to_owned(),
        )),
    }
}

/// The files of a folder that may be kubeconfigs: neither hidden nor of another kind by their ending; sorted.
fn files_of(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let name = folder.display().to_string();
    let unreadable = |error: std::io::Error| {
        Error::input(
            name.clone(),
            None,
            match error.kind() {
                std::io::ErrorKind::NotFound => "does not exist".to_owned(),
                std::io::ErrorKind::NotADirectory => "is not a directory".to_owned(),
                kind => format!("cannot be read: {kind}"),
            },
        )
    };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        let hidden = path
            .file_name()
            .is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        let ending = path.extension().and_then(|ending| ending.to_str());
        let wanted = matches!(
            ending,
            None | Some("conf" | "config" | "json" | "kubeconfig" | "yaml" | "yml")
        );
        if !hidden && wanted && path.is_file() {
            files.push(path);
        }
    }
    if files.is_empty() {
        return Err(Error::input(name, None, "holds no kubeconfig"));
    }
    files.sort();
    Ok(files)
}

/// The contexts that a pattern matches, in the order of the files; every pattern has to match one, and one of them has to
/// be usable.
fn matching(files: &[Kubeconfig], patterns: &[Pattern]) -> Result<Vec<Found>, Error> {
    let mut used = vec![false; patterns.len()];
    let mut found = Vec::new();
    let mut first = None;
    for file in files {
        for context in file.contexts() {
            let mut matched = patterns.is_empty();
            for (pattern, used) in patterns.iter().zip(&mut used) {
                if pattern.matches(context) {
                    matched = true;
                    *used = true;
                }
            }
            if !matched {
                continue;
            }
            let access = file.select(context).map_err(|error| {
                let server = file
                    .server(context)
                    .map(|server| format!(" ({})", printable(server)));
                let why = format!("{error}{}", server.unwrap_or_default());
                first.get_or_insert(error);
                why
            });
            found.push(Found {
                role: Role::Member,
                context: context.to_owned(),
                file: file.file_of(context).unwrap_or_default().to_owned(),
                access,
            });
        }
    }
    let names = || {
        let names: Vec<_> = files.iter().take(3).map(Kubeconfig::name).collect();
        let more = files.len().saturating_sub(names.len());
        match more {
            0 => names.join(", "),
            more => format!("{} and {more} more", names.join(", ")),
        }
    };
    if let Some(at) = used.iter().position(|used| !used) {
        return Err(Error::input(
            names(),
            None,
            format!("no context matches {}", patterns[at].as_str()),
        ));
    }
    if found.is_empty() {
        return Err(Error::input(names(), None, "has no context"));
    }
    match first {
        Some(error) if found.iter().all(|found| found.access.is_err()) => Err(error),
        _ => Ok(found),
    }
}

/// Gives every cluster a name of its own: the context's, with as much of the file's path as tells contexts of one name apart.
fn named(found: Vec<Found>) -> Vec<Target> {
    let mut same: HashMap<String, Vec<usize>> = HashMap::new();
    for (at, found) in found.iter().enumerate() {
        same.entry(printable(&found.context)).or_default().push(at);
    }
    let mut same: Vec<(String, Vec<usize>)> = same.into_iter().collect();
    // What a file calls a context goes before names that are made up here.
    same.sort_by_key(|(_, places)| (places.len() > 1, places.first().copied()));
    let mut names = vec![String::new(); found.len()];
    let mut taken = HashMap::new();
    for (context, places) in same {
        let files: Vec<Vec<String>> = places.iter().map(|&at| parts(&found[at].file)).collect();
        let deepest = files.iter().map(Vec::len).max().unwrap_or(0);
        // The last part of a path says most: `k3s`, then `site-a.k3s`.
        let with = |parts: &Vec<String>, depth: usize| {
            let kept = &parts[parts.len().saturating_sub(depth)..];
            format!("{context}@{}", kept.join("."))
        };
        let told_apart = |depth: usize| {
            let distinct: BTreeSet<String> = files.iter().map(|parts| with(parts, depth)).collect();
            distinct.len()
        };
        // One file that is given twice is told apart by no part of its path.
        let most = told_apart(deepest);
        let depth = (1..deepest)
            .find(|&depth| told_apart(depth) == most)
            .unwrap_or(deepest);
        for (&at, parts) in places.iter().zip(&files) {
            let name = match places.len() {
                1 => context.clone(),
                _ => with(parts, depth),
            };
            names[at] = free(name, &mut taken);
        }
    }
    found
        .into_iter()
        .zip(names)
        .map(|(found, name)| match found.access {
            Ok(selected) => Target::with_context(name, found.role, selected),
            Err(why) => Target::unusable(name, why),
        })
        .collect()
}

/// The name, or with the next number that makes it one that nobody has: one file may be given twice, and contexts may be called
/// like the names that are made up here. `taken` knows the last number of each.
fn free(name: String, taken: &mut HashMap<String, usize>) -> String {
    let mut free = name.clone();
    while taken.contains_key(&free) {
        let count = taken.entry(name.clone()).or_insert(1);
        *count += 1;
        free = format!("{name}#{count}");
    }
    taken.insert(free.clone(), 1);
    free
}

/// The parts of a file's path, the last without its ending.
fn parts(file: &str) -> Vec<String> {
    let path = Path::new(file).with_extension("");
    let normal = path.components().filter_map(|part| match part {
        Component::Normal(part) => Some(printable(&part.to_string_lossy())),
        _ => None,
    });
    normal.collect()
}

/// Names end up on a terminal, whatever a file holds.
fn printable(name: &str) -> String {
    Printable::new(name).as_str().to_owned()
}

/// A URL as it may be shown: a name and a password before the host may be a secret, and so may a query.
fn without_secrets(url: &str) -> Printable {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let host = authority.rsplit('@').next().unwrap_or_default();
    if scheme.is_empty() {
        Printable::new(&format!("{host}{path}"))
    } else {
        Printable::new(&format!("{scheme}://{host}{path}"))
    }
}

#[cfg(test)]
mod tests;
