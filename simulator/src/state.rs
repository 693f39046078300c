//! What is on disk while a lab is up: one folder per lab, locked by the lab's process, gone when the lab is.
//!
//! | file | what |
//! |---|---|
//! | `lock` | held by the lab's process (a POSIX record lock, so that anybody can ask the kernel who holds it) |
//! | `lab.json` | a [`Record`], written before the first namespace: enough to clean up after a crash |
//! | `kubeconfig` | one context per cluster |
//! | `control.sock` | where the lab takes requests |
//! | `lab.log`, `logs/` | what the lab and its pods said |

use datapath::printable::is_dns_label;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use netns_harness::neighbours::Thresholds;
use netns_harness::{process, rcu, rootless};
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::signal::Signal;
use nix::unistd::{AccessFlags, access, getegid, geteuid};
use serde::{Deserialize, Serialize};

use crate::Error;

/// The environment variable by which everything that a lab starts is recognised.
pub(crate) const MARKER: &str = "FLOATER_LAB";

/// Where the lab's process has to keep its state: what it is itself after it became root of a user namespace would lead
/// it elsewhere.
static GIVEN: OnceLock<PathBuf> = OnceLock::new();

/// Where labs keep their state: `$XDG_RUNTIME_DIR/floater`, or `/run/floater` for root, or a folder of the user's own below
/// the folder for temporary files.
#[must_use]
pub fn state_root() -> PathBuf {
    if let Some(given) = GIVEN.get() {
        return given.clone();
    }
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    // One that is not absolute means nothing, says the specification of base directories.
    if let Some(runtime) = runtime.filter(|path| path.is_absolute()) {
        return runtime.join("floater");
    }
    // Root of a user namespace may not be root of the files.
    if geteuid().is_root() && access("/run", AccessFlags::W_OK).is_ok() {
        return PathBuf::from("/run/floater");
    }
    std::env::temp_dir().join(format!("floater-{}", geteuid()))
}

/// Fixes [`state_root`] for the rest of the process.
pub(crate) fn keep_state_in(root: PathBuf) {
    // Set once in the life of a lab.
    let _ = GIVEN.set(root);
}

/// Refuses a root that is not the user's own folder: below a folder that is everybody's, somebody else could have made it to
/// read our secrets, or put a link there to have us remove other things. Whether there is one.
fn check_root(root: &Path) -> Result<bool, Error> {
    let refused = |why: String| {
        Err(Error::Failed {
            doing: "keep state".to_owned(),
            why: format!("{} {why}", root.display()),
        })
    };
    let found = match fs::symlink_metadata(root) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok(false);
        }
        Err(error) => return refused(format!("cannot be looked at: {error}")),
    };
    if !found.is_dir() {
        return refused("is no folder".to_owned());
    }
    if found.uid() != geteuid().as_raw() {
        return refused(format!("belongs to user {}", found.uid()));
    }
    if found.mode() & 0o022 != 0 {
        return refused("can be written by others".to_owned());
    }
    check_parent(root)?;
    Ok(true)
}

/// Refuses a root below a folder of somebody else's, who could put another one into its place at any time: the parent is the
/// user's own or the machine's, and where others may write to it they may not rename what is not theirs (the sticky bit).
fn check_parent(root: &Path) -> Result<(), Error> {
    let parent = root.parent().unwrap_or(root);
    let refused = |why: String| {
        Err(Error::Failed {
            doing: "keep state".to_owned(),
            why: format!(
                "{}, the folder of {}, {why}",
                parent.display(),
                root.display()
            ),
        })
    };
    let found = match fs::metadata(parent) {
        Ok(found) => found,
        Err(error) => return refused(format!("cannot be looked at: {error}")),
    };
    // Who starts a lab has looked before; within a user namespace the machine's root is as unknown as anybody.
    if !rootless::in_user_namespace() && ![0, geteuid().as_raw()].contains(&found.uid()) {
        return refused(format!("belongs to user {}", found.uid()));
    }
    let is_machines_group = found.gid() == 0 || found.gid() == getegid().as_raw();
    let strangers = if is_machines_group { 0o002 } else { 0o022 };
    if found.mode() & strangers != 0 && found.mode() & 0o1000 == 0 {
        return refused("can be written by others".to_owned());
    }
    Ok(())
}

/// What has to be known to clean up after a lab that was killed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// A random word that marks the lab's processes.
    pub(crate) id: String,
    /// The lab's process.
    pub(crate) pid: i32,
    /// When it started, RFC 3339.
    pub(crate) started: String,
    /// The number of clusters.
    pub(crate) clusters: usize,
    /// What `rcu_expedited` was before the teardown changed it.
    pub(crate) rcu_expedited: Option<String>,
    /// The thresholds of neighbours before a lab raised them, this one or one that was up when this one came.
    #[serde(default)]
    pub(crate) neighbours: Option<Thresholds>,
}

impl Record {
    /// The lab's mark in an environment.
    pub(crate) fn marker(&self) -> String {
        format!("{MARKER}={}", self.id)
    }
}

/// A lab's folder.
#[derive(Debug, Clone)]
pub(crate) struct Folder {
    pub(crate) name: String,
    path: PathBuf,
}

/// Holds a lab's name against a second lab. The kernel lets go of it when *any* descriptor of the file is closed: whoever
/// holds it never opens the file again.
#[derive(Debug)]
pub(crate) struct Lock(File);

/// The byte of the lock file that a lab holds while it lives.
const LIFE: libc::off_t = 0;
/// The byte that is held while the first one changes hands and by whoever removes what a killed lab left. Waiting for it is
/// short, unless its holder was stopped; nobody who holds only this one is a lab.
const CHANGE: libc::off_t = 1;
/// How long [`CHANGE`] is waited for: longer than the removal of all that a killed lab left takes.
const TURN: Duration = Duration::from_secs(20);
/// Between two attempts to have it.
const AGAIN: Duration = Duration::from_millis(10);

impl Lock {
    /// Lets others ask for the name again, who find it taken.
    pub(crate) fn settle(&self) -> Result<(), Error> {
        fcntl(
            self.0.as_fd(),
            FcntlArg::F_SETLK(&byte(libc::F_UNLCK, CHANGE)),
        )
        .map(drop)
        .map_err(Error::failed("unlock a lab's name"))
    }
}

/// Who has a lab's name.
#[derive(Debug)]
pub(crate) enum Taken {
    /// Nobody: there is no such folder.
    Gone,
    /// A lab; its process.
    Lab(i32),
    /// The caller from now on.
    Ours(Lock),
}

impl Folder {
    pub(crate) fn of(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            path: state_root().join(name),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.path.join("kubeconfig")
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.path.join("lab.log")
    }

    pub(crate) fn logs(&self) -> PathBuf {
        self.path.join("logs")
    }

    /// Makes the folder, for nobody else to read.
    fn make(&self) -> Result<(), Error> {
        let root = state_root();
        let mut builder = DirBuilder::new();
        builder.mode(0o700).recursive(true);
        let made = builder.create(&root);
        check_root(&root)?;
        made.and_then(|()| builder.create(&self.path))
            .map_err(Error::failed(format!("make {}", self.path.display())))
    }

    /// Takes the lab's name for a lab that is to be; both bytes, until [`Lock::settle`].
    pub(crate) fn take(&self) -> Result<Taken, Error> {
        loop {
            self.make()?;
            match self.take_there()? {
                // It went between the two calls, with the lab that it belonged to.
                Taken::Gone => {}
                taken => return Ok(taken),
            }
        }
    }

    /// Takes the lab's name where there is a trace of a lab, to remove it.
    pub(crate) fn take_there(&self) -> Result<Taken, Error> {
        let doing = || format!("lock {}", self.path.display());
        let path = self.path.join("lock");
        loop {
            let opened = OpenOptions::new()
                .create(true)
                .truncate(false)
                .write(true)
                .read(true)
                .mode(0o600)
                .open(&path);
            let file = match opened {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Taken::Gone),
                Err(error) => return Err(Error::failed(doing())(error)),
            };
            match take_turn(&file, TURN).map_err(Error::failed(doing()))? {
                Turn::Ours => {}
                Turn::OldLab(pid) if pid > 0 => return Ok(Taken::Lab(pid)),
                Turn::OldLab(_) => return Err(unseen(doing())),
                Turn::Waiting(pid) => {
                    return Err(Error::Failed {
                        doing: doing(),
                        why: format!(
                            "process {pid} is starting or removing this simulated fleet, and did not come to an end in {TURN:?}"
                        ),
                    });
                }
            }
            // The file may have been removed, and made anew by another, before we had the lock.
            let ours = file.metadata().map_err(Error::failed(doing()))?;
            if !fs::metadata(&path).is_ok_and(|there| there.ino() == ours.ino()) {
                continue;
            }
            match fcntl(file.as_fd(), FcntlArg::F_SETLK(&byte(libc::F_WRLCK, LIFE))) {
                Ok(_) => return Ok(Taken::Ours(Lock(file))),
                Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EACCES) => {}
                Err(error) => return Err(Error::failed(doing())(error)),
            }
            match holder_of(&file) {
                // It ended in between.
                None => {}
                Some(pid) if pid > 0 => return Ok(Taken::Lab(pid)),
                Some(_) => return Err(unseen(doing())),
            }
        }
    }

    /// Whether a process holds the lab's name.
    pub(crate) fn is_held_by(&self, pid: i32) -> bool {
        self.holder() == Some(pid)
    }

    /// The process that holds the lab's name.
    pub(crate) fn holder(&self) -> Option<i32> {
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).open(self.path.join("lock"));
        holder_of(&file.ok()?)
    }

    /// What the lab wrote down about itself.
    pub(crate) fn record(&self) -> Option<Record> {
        let text = fs::read(self.path.join("lab.json")).ok()?;
        serde_json::from_slice(&text).ok()
    }

    pub(crate) fn write_record(&self, record: &Record) -> Result<(), Error> {
        let text = serde_json::to_vec(record).map_err(Error::failed("write lab.json"))?;
        self.write("lab.json", &text)
    }

    /// Writes a file whole or not at all, for nobody else to read.
    pub(crate) fn write(&self, name: &str, text: &[u8]) -> Result<(), Error> {
        let path = self.path.join(name);
        let draft = self.path.join(format!(".{name}"));
        let write = || {
            let mut file = OpenOptions::new()
                .create(true)
                .write(true)
                .truncate(true)
                .mode(0o600)
                .open(&draft)?;
            file.write_all(text)?;
            fs::rename(&draft, &path)
        };
        write().map_err(Error::failed(format!("write {}", path.display())))
    }

    /// Removes everything that a lab left that is no more. The caller holds the lock.
    pub(crate) fn clean(&self, _lock: &Lock) -> Result<(), Error> {
        if let Some(record) = self.record() {
            end_marked(&record.marker())?;
            if let Some(before) = &record.rcu_expedited {
                rcu::restore(before);
            }
            crate::lab::restore_neighbours(self, record)?;
        }
        self.remove()
    }

    /// Removes the folder, and the one above it where it was the last. The record and the lock
    /// go last: until then nobody else takes what is left for a lab of its own, or for nothing to clean up after.
    pub(crate) fn remove(&self) -> Result<(), Error> {
        let gone = |removed: io::Result<()>| match removed {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        };
        let failed = || Error::failed(format!("remove {}", self.path.display()));
        let last = ["lab.json", "lock"];
        for entry in fs::read_dir(&self.path).into_iter().flatten().flatten() {
            if last.iter().any(|name| entry.file_name() == *name) {
                continue;
            }
            let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
            let removed = if is_folder {
                fs::remove_dir_all(entry.path())
            } else {
                fs::remove_file(entry.path())
            };
            gone(removed).map_err(failed())?;
        }
        for name in last {
            gone(fs::remove_file(self.path.join(name))).map_err(failed())?;
        }
        match gone(fs::remove_dir(&self.path)) {
            // The next lab of this name has it already.
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {}
            removed => removed.map_err(failed())?,
        }
        // Others may be up.
        let _ = fs::remove_dir(state_root());
        Ok(())
    }
}

/// Whose turn it is to change who has a name.
enum Turn {
    /// A lab of an earlier version of this program, which locks the whole file for as long as it lives.
    OldLab(i32),
    /// The caller's.
    Ours,
    /// Another process's, for longer than it should take.
    Waiting(i32),
}

/// Locks [`CHANGE`]. Whoever holds it may have been stopped, so it is waited for within limits, which the waiting call of the
/// kernel does not have: it is asked again and again.
fn take_turn(file: &File, patience: Duration) -> io::Result<Turn> {
    let deadline = Instant::now() + patience;
    loop {
        match fcntl(
            file.as_fd(),
            FcntlArg::F_SETLK(&byte(libc::F_WRLCK, CHANGE)),
        ) {
            Ok(_) => return Ok(Turn::Ours),
            Err(
                nix::errno::Errno::EAGAIN | nix::errno::Errno::EACCES | nix::errno::Errno::EINTR,
            ) => {}
            Err(error) => return Err(error.into()),
        }
        // Between the two questions it may have been let go.
        if let Some(held) = conflict(file, CHANGE) {
            // A lock without an end is of the whole file.
            if held.l_len == 0 {
                return Ok(Turn::OldLab(held.l_pid));
            }
            if Instant::now() >= deadline {
                return Ok(Turn::Waiting(held.l_pid));
            }
            std::thread::sleep(AGAIN);
        }
    }
}

fn unseen(doing: String) -> Error {
    Error::Failed {
        doing,
        why: "a process that cannot be seen from here holds it (another PID namespace)".to_owned(),
    }
}

/// The process that holds a lab's life; 0 or less for one that cannot be seen.
fn holder_of(file: &File) -> Option<i32> {
    conflict(file, LIFE).map(|held| held.l_pid)
}

/// A lock of another process that keeps this one from locking a byte.
fn conflict(file: &File, at: libc::off_t) -> Option<libc::flock> {
    let mut asked = byte(libc::F_WRLCK, at);
    fcntl(file.as_fd(), FcntlArg::F_GETLK(&mut asked)).ok()?;
    (i32::from(asked.l_type) != libc::F_UNLCK).then_some(asked)
}

fn byte(kind: libc::c_int, at: libc::off_t) -> libc::flock {
    libc::flock {
        // Lock kinds are 0, 1 and 2; libc types the constants wider than the field.
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: at,
        l_len: 1,
        l_pid: 0,
    }
}

/// Kills every process with a mark, its later children included, and waits for their ends.
pub(crate) fn end_marked(marker: &str) -> Result<(), Error> {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let processes = process::held_marked(marker)?;
        if processes.is_empty() {
            return Ok(());
        }
        for process in &processes {
            process.signal(Signal::SIGKILL);
        }
        for process in &processes {
            let left = deadline.saturating_duration_since(Instant::now());
            if !process.wait_for_end(left)? {
                return Err(Error::Failed {
                    doing: format!("end process {}", process.id()),
                    why: "it survives SIGKILL".to_owned(),
                });
            }
        }
    }
}

/// The names of all labs of this user that left a trace, sorted.
pub(crate) fn names() -> Result<Vec<String>, Error> {
    let root = state_root();
    if !check_root(&root)? {
        return Ok(Vec::new());
    }
    let mut names: Vec<String> = fs::read_dir(&root)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| is_dns_label(name))
        .collect();
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn folder(root: &Path) -> Folder {
        Folder {
            name: "x".to_owned(),
            path: root.join("x"),
        }
    }

    #[test]
    fn files_are_private_and_whole() {
        let root = tempfile::tempdir().expect("tempdir");
        let folder = folder(root.path());
        DirBuilder::new()
            .mode(0o700)
            .create(folder.path())
            .expect("make");
        let record = Record {
            id: "abc".to_owned(),
            pid: 1,
            started: "now".to_owned(),
            clusters: 3,
            rcu_expedited: None,
            neighbours: Some(Thresholds::default()),
        };
        folder.write_record(&record).expect("write");
        assert_eq!(folder.record(), Some(record));
        let mode = fs::metadata(folder.path().join("lab.json"))
            .expect("stat")
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(folder.holder(), None);
    }

    #[test]
    fn a_root_that_is_not_ours_alone_is_refused() {
        let place = tempfile::tempdir().expect("tempdir");
        let root = place.path().join("floater");
        assert!(!check_root(&root).expect("nothing there"));
        // What somebody puts into a folder that is everybody's: `down --all` would remove all that is behind it.
        std::os::unix::fs::symlink(place.path(), &root).expect("link");
        let refused = check_root(&root).expect_err("a link");
        assert!(refused.to_string().contains("no folder"), "{refused}");
        fs::remove_file(&root).expect("remove");
        fs::create_dir(&root).expect("make");
        let open = |mode| fs::set_permissions(&root, fs::Permissions::from_mode(mode));
        open(0o777).expect("chmod");
        let refused = check_root(&root).expect_err("open to all");
        assert!(refused.to_string().contains("by others"), "{refused}");
        open(0o700).expect("chmod");
        assert!(check_root(&root).expect("ours"));
        // Below a folder in which others may rename it and put theirs in its place.
        let parent = |mode| fs::set_permissions(place.path(), fs::Permissions::from_mode(mode));
        parent(0o777).expect("chmod");
        let refused = check_root(&root).expect_err("anybody's parent");
        assert!(refused.to_string().contains("the folder of"), "{refused}");
        // As /tmp is.
        parent(0o1777).expect("chmod");
        assert!(check_root(&root).expect("nobody else can rename it"));
        parent(0o700).expect("chmod");
        if geteuid().is_root() {
            std::os::unix::fs::chown(place.path(), Some(12_345), None).expect("chown");
            let refused = check_root(&root).expect_err("somebody's parent");
            assert!(refused.to_string().contains("user 12345"), "{refused}");
        }
    }

    /// Locks a part of a file for an open file, which only conflicts with the record locks of another process and of this one.
    fn held(path: &Path, start: libc::off_t, length: libc::off_t) -> File {
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).open(path).expect("open");
        let mut lock = byte(libc::F_WRLCK, start);
        lock.l_len = length;
        fcntl(file.as_fd(), FcntlArg::F_OFD_SETLK(&lock)).expect("lock");
        file
    }

    #[test]
    fn a_lock_of_the_whole_file_is_a_labs_and_not_waited_for_and_any_other_within_limits() {
        let root = tempfile::tempdir().expect("tempdir");
        let path = root.path().join("lock");
        let file = File::create(&path).expect("make");
        let whole = held(&path, 0, 0);
        let turn = take_turn(&file, Duration::from_secs(3600)).expect("ask");
        // An open file has no process.
        assert!(matches!(turn, Turn::OldLab(-1)));
        drop(whole);
        let change = held(&path, CHANGE, 1);
        let turn = take_turn(&file, Duration::from_millis(30)).expect("ask");
        assert!(matches!(turn, Turn::Waiting(-1)));
        drop(change);
        let life = held(&path, LIFE, 1);
        assert!(matches!(take_turn(&file, TURN).expect("ask"), Turn::Ours));
        assert_eq!(holder_of(&file), Some(-1));
        drop(life);
    }

    #[test]
    fn a_folder_is_removed_with_all_that_is_in_it_and_its_name_is_free_again() {
        let root = tempfile::tempdir().expect("tempdir");
        let folder = folder(root.path());
        assert!(matches!(folder.take_there().expect("ask"), Taken::Gone));
        fs::create_dir_all(folder.logs()).expect("make");
        fs::write(folder.log(), "x").expect("write");
        let Taken::Ours(lock) = folder.take_there().expect("take") else {
            panic!("nobody has it");
        };
        lock.settle().expect("settle");
        folder.clean(&lock).expect("clean");
        assert!(!folder.path().exists());
        folder.remove().expect("twice is once");
    }
}
