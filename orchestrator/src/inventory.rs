//! Which clusters a run is about.
//!
//! Files are read and checked before anything is asked of anybody: a kubeconfig that breaks a rule ends the run with
//! its line, while a cluster that does not answer later is a value in the report.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::Error;
use crate::glob;
use crate::kubeconfig::{self, Kubeconfig, Selected};

/// What was said about the inventory.
#[derive(Debug, Clone, Default)]
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
    pub contexts: Vec<String>,
    /// A folder of such files (`--kubeconfig-dir`).
    pub kubeconfig_dir: Option<PathBuf>,
    /// Every context of the default file (`KUBECONFIG`) is a cluster, not the current one alone (`--all-contexts`).
    pub all_contexts: bool,
    /// The control plane's file, whose `clusters.kosmos.io` are the inventory (`--fleet`).
    pub fleet: Option<PathBuf>,
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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
    /// By a context.
    Context(Arc<Selected>),
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

    pub(crate) fn unusable(name: String, why: String) -> Self {
        Self {
            name,
            role: Role::Member,
            access: Access::Unusable(why),
        }
    }

    /// A client for the cluster. A credential plugin runs on a thread of its own, so that one that waits for somebody
    /// holds up nothing but its own cluster.
    ///
    /// # Errors
    /// Why there is none, in words without credentials.
    pub(crate) async fn client(&self) -> Result<kube::Client, String> {
        let selected = match &self.access {
            Access::Client(client) => return Ok(client.clone()),
            Access::Unusable(why) => return Err(why.clone()),
            Access::Context(selected) => Arc::clone(selected),
        };
        if !selected.runs_a_program() {
            return selected.client();
        }
        let (done, result) = tokio::sync::oneshot::channel();
        let runtime = tokio::runtime::Handle::current();
        std::thread::spawn(move || {
            let _context = runtime.enter();
            // Nobody may be waiting any more.
            let _ = done.send(selected.client());
        });
        result
            .await
            .unwrap_or_else(|_| Err("its credential plugin could not be run".to_owned()))
    }
}

/// Reads the inventory from files; with [`InventoryOptions::fleet`] it is the control plane alone, role [`Role::Fleet`].
///
/// # Errors
/// [`Error::Usage`] where the options contradict each other or give no inventory, [`Error::Input`] where a file breaks
/// a rule or a pattern matches no context.
pub fn load(options: &InventoryOptions) -> Result<Vec<Target>, Error> {
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
) -> Result<Vec<Target>, Error> {
    let pair = options.src_kubeconfig.is_some()
        || options.src_context.is_some()
        || options.dst_kubeconfig.is_some()
        || options.dst_context.is_some();
    let many = !options.kubeconfigs.is_empty()
        || !options.contexts.is_empty()
        || options.all_contexts
        || options.kubeconfig_dir.is_some();
    let fleet = options.fleet.is_some();
    if usize::from(pair) + usize::from(many) + usize::from(fleet) > 1 {
        return Err(Error::Usage(
            "the inventory is a pair (--src-*, --dst-*), or --kubeconfig, --kubeconfig-dir, --contexts and --all-contexts, or --fleet: not several of these"
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
    if let Some(path) = &options.fleet {
        let file = kubeconfig::read(path)?;
        let context = file.current()?.to_owned();
        let selected = file.select(&context)?;
        return Ok(vec![Target::with_context(context, Role::Fleet, selected)]);
    }
    let mut found = Vec::new();
    if pair {
        let source = match &options.src_kubeconfig {
            Some(path) => kubeconfig::read(path)?,
            None => default()?,
        };
        found.push((Role::Source, one(&source, options.src_context.as_deref())?));
        if let Some(path) = &options.dst_kubeconfig {
            let destination = kubeconfig::read(path)?;
            let selected = one(&destination, options.dst_context.as_deref())?;
            found.push((Role::Destination, selected));
        }
    } else if !many {
        // As kubectl: what nobody named is not asked.
        found.push((Role::Member, one(&default()?, None)?));
    } else {
        let mut files = Vec::new();
        for path in &options.kubeconfigs {
            files.push(kubeconfig::read(path)?);
        }
        if let Some(folder) = &options.kubeconfig_dir {
            for path in files_of(folder)? {
                files.push(kubeconfig::read(&path)?);
            }
        }
        if files.is_empty() {
            files.push(default()?);
        }
        let selected = matching(&files, &options.contexts)?;
        found.extend(selected.into_iter().map(|found| (Role::Member, found)));
    }
    Ok(named(found))
}

fn one(file: &Kubeconfig, context: Option<&str>) -> Result<Selected, Error> {
    match context {
        Some(context) => file.select(context),
        None => file.select(file.current()?),
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

/// The contexts that a pattern matches, in the order of the files; every pattern has to match one.
fn matching(files: &[Kubeconfig], patterns: &[String]) -> Result<Vec<Selected>, Error> {
    let mut used = vec![false; patterns.len()];
    let mut selected = Vec::new();
    for file in files {
        for context in file.contexts() {
            let mut matched = patterns.is_empty();
            for (pattern, used) in patterns.iter().zip(&mut used) {
                if glob::matches(pattern, context) {
                    matched = true;
                    *used = true;
                }
            }
            if matched {
                selected.push(file.select(context)?);
            }
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
            format!("no context matches {}", patterns[at]),
        ));
    }
    if selected.is_empty() {
        return Err(Error::input(names(), None, "has no context"));
    }
    Ok(selected)
}

/// Gives every cluster a name of its own: the context's, with the file's where two files use the same.
fn named(found: Vec<(Role, Selected)>) -> Vec<Target> {
    let mut uses: HashMap<String, usize> = HashMap::new();
    for (_, selected) in &found {
        *uses.entry(printable(&selected.context)).or_default() += 1;
    }
    let mut taken: HashMap<String, usize> = HashMap::new();
    found
        .into_iter()
        .map(|(role, selected)| {
            let mut name = printable(&selected.context);
            if uses[&name] > 1
                && let Some(stem) = Path::new(&selected.file).file_stem()
            {
                name = format!("{name}@{}", printable(&stem.to_string_lossy()));
            }
            let count = taken.entry(name.clone()).or_default();
            *count += 1;
            if *count > 1 {
                name = format!("{name}#{count}");
            }
            Target::with_context(name, role, selected)
        })
        .collect()
}

/// Names end up on a terminal; control characters of a file must not.
pub(crate) fn printable(name: &str) -> String {
    name.chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder that is removed on drop.
    struct Folder(PathBuf);

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn folder(test: &str) -> Folder {
        let path =
            std::env::temp_dir().join(format!("floater-inventory-{}-{test}", std::process::id()));
        std::fs::create_dir_all(&path).expect("the temporary folder is writable");
        Folder(path)
    }

    fn write(folder: &Folder, name: &str, contexts: &[&str]) -> PathBuf {
        let mut text = String::from(
            "apiVersion: v1\nkind: Config\nclusters:\n- {name: c, cluster: {server: 'https://127.0.0.1:1'}}\ncontexts:\n",
        );
        for context in contexts {
            text += &format!("- {{name: \"{context}\", context: {{cluster: c}}}}\n");
        }
        text += &format!("current-context: \"{}\"\n", contexts[0]);
        let path = folder.0.join(name);
        std::fs::write(&path, text).expect("the temporary folder is writable");
        path
    }

    fn names(targets: &[Target]) -> Vec<(&str, Role)> {
        targets
            .iter()
            .map(|target| (target.name.as_str(), target.role))
            .collect()
    }

    #[test]
    fn a_pair_takes_the_current_or_the_named_context() {
        let folder = folder("pair");
        let options = InventoryOptions {
            src_kubeconfig: Some(write(&folder, "a.yaml", &["east", "west"])),
            src_context: Some("west".into()),
            dst_kubeconfig: Some(write(&folder, "b.yaml", &["west", "north"])),
            ..Default::default()
        };
        let targets = load_with(&options, None, None).expect("both are there");
        assert_eq!(
            names(&targets),
            [("west@a", Role::Source), ("west@b", Role::Destination)]
        );
        let alone = InventoryOptions {
            dst_kubeconfig: None,
            ..options
        };
        let targets = load_with(&alone, None, None).expect("it is there");
        assert_eq!(names(&targets), [("west", Role::Source)]);
    }

    #[test]
    fn patterns_choose_contexts_and_each_has_to_match() {
        let folder = folder("patterns");
        let file = write(&folder, "a.yaml", &["prod-1", "prod-2", "test-1"]);
        let mut options = InventoryOptions {
            kubeconfigs: vec![file],
            contexts: vec!["prod-*".into()],
            ..Default::default()
        };
        let targets = load_with(&options, None, None).expect("two match");
        assert_eq!(
            names(&targets),
            [("prod-1", Role::Member), ("prod-2", Role::Member)]
        );
        options.contexts.push("stage-*".into());
        let error = load_with(&options, None, None).expect_err("none matches");
        assert_eq!(error.exit_code(), 65);
        assert!(error.to_string().ends_with("no context matches stage-*"));
    }

    #[test]
    fn a_folder_and_the_variable_are_inventories() {
        let folder = folder("folder");
        let a = write(&folder, "a.yaml", &["admin"]);
        let b = write(&folder, "b.conf", &["admin"]);
        std::fs::write(folder.0.join("README.md"), "no kubeconfig").expect("writable");
        std::fs::write(folder.0.join(".hidden"), "none either").expect("writable");
        let options = InventoryOptions {
            kubeconfig_dir: Some(folder.0.clone()),
            ..Default::default()
        };
        let targets = load_with(&options, None, None).expect("two files");
        assert_eq!(
            names(&targets),
            [("admin@a", Role::Member), ("admin@b", Role::Member)]
        );
        let list = std::env::join_paths([folder.0.join("absent"), b, a]).expect("no colon in it");
        let targets = load_with(&InventoryOptions::default(), Some(list), None)
            .expect("merged as kubectl does");
        assert_eq!(names(&targets), [("admin", Role::Member)]);
    }

    #[test]
    fn without_an_inventory_the_current_context_alone_is_asked() {
        let folder = folder("current");
        let list = std::env::join_paths([write(&folder, "a.yaml", &["mine", "production"])])
            .expect("no colon in it");
        let load = |options| load_with(&options, Some(list.clone()), None);
        let targets = load(InventoryOptions::default()).expect("it has a current context");
        assert_eq!(names(&targets), [("mine", Role::Member)]);
        let all = InventoryOptions {
            all_contexts: true,
            ..Default::default()
        };
        let targets = load(all.clone()).expect("two contexts");
        assert_eq!(
            names(&targets),
            [("mine", Role::Member), ("production", Role::Member)]
        );
        let both = InventoryOptions {
            contexts: vec!["prod*".into()],
            ..all
        };
        assert_eq!(load(both).expect_err("contradicting").exit_code(), 64);
    }

    #[test]
    fn contradictions_and_nothing_are_usage_errors() {
        let some = Some(PathBuf::from("x"));
        for options in [
            InventoryOptions::default(),
            InventoryOptions {
                src_kubeconfig: some.clone(),
                fleet: some.clone(),
                ..Default::default()
            },
            InventoryOptions {
                src_kubeconfig: some.clone(),
                kubeconfigs: vec!["y".into()],
                ..Default::default()
            },
            InventoryOptions {
                src_kubeconfig: some,
                dst_context: Some("c".into()),
                ..Default::default()
            },
        ] {
            let error = load_with(&options, None, None).expect_err("it is contradictory");
            assert_eq!(error.exit_code(), 64, "{error}");
        }
    }

    #[test]
    fn control_characters_of_a_name_do_not_reach_a_terminal() {
        let folder = folder("control");
        let options = InventoryOptions {
            kubeconfigs: vec![write(&folder, "a.yaml", &["ea\\e[31mst"])],
            ..Default::default()
        };
        let targets = load_with(&options, None, None).expect("it is there");
        assert_eq!(names(&targets), [("ea\u{fffd}[31mst", Role::Member)]);
    }
}
