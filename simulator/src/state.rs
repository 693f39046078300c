//! What is on disk while a lab is up: one folder per lab, locked by the lab's process, gone when the lab is.
//!
//! | file | what |
//! |---|---|
//! | `lock` | held by the lab's process (a POSIX record lock, so that anybody can ask the kernel who holds it) |
//! | `lab.json` | a [`Record`], written before the first namespace: enough to clean up after a crash |
//! | `kubeconfig` | one context per cluster |
//! | `control.sock` | where the lab takes requests |
//! | `lab.log`, `logs/` | what the lab and its pods said |

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use netns_harness::{process, rcu};
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};
use serde::{Deserialize, Serialize};

use crate::Error;

/// The environment variable by which everything that a lab starts can be told from everything else.
pub(crate) const MARKER: &str = "FLOATER_LAB";

/// Where labs keep their state: `$XDG_RUNTIME_DIR/floater`, or `/run/floater` for root, or a folder of the user's own below
/// the folder for temporary files.
#[must_use]
pub fn state_root() -> PathBuf {
    if let Some(runtime) = std::env::var_os("XDG_RUNTIME_DIR").filter(|value| !value.is_empty()) {
        return PathBuf::from(runtime).join("floater");
    }
    if geteuid().is_root() {
        return PathBuf::from("/run/floater");
    }
    std::env::temp_dir().join(format!("floater-{}", geteuid()))
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

/// Holds a lab's name against a second lab.
#[derive(Debug)]
pub(crate) struct Lock(#[expect(dead_code, reason = "closing it releases the lock")] File);

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

    pub(crate) fn exists(&self) -> bool {
        self.path.is_dir()
    }

    /// Makes the folder, for nobody else to read.
    pub(crate) fn make(&self) -> Result<(), Error> {
        let doing = || format!("make {}", self.path.display());
        let root = state_root();
        let mut builder = DirBuilder::new();
        builder.mode(0o700).recursive(true);
        builder.create(&root).map_err(Error::failed(doing()))?;
        // Somebody else's folder could give our secrets away (the folder for temporary files is everybody's).
        let owner = fs::metadata(&root).map_err(Error::failed(doing()))?.uid();
        if owner != geteuid().as_raw() {
            return Err(Error::Failed {
                doing: doing(),
                why: format!("{} belongs to user {owner}", root.display()),
            });
        }
        builder.create(&self.path).map_err(Error::failed(doing()))
    }

    /// Takes the lab's name; none while another process holds it.
    pub(crate) fn lock(&self) -> Result<Option<Lock>, Error> {
        let doing = || format!("lock {}", self.path.display());
        loop {
            self.make()?;
            let path = self.path.join("lock");
            let opened = OpenOptions::new()
                .create(true)
                .truncate(false)
                .write(true)
                .read(true)
                .mode(0o600)
                .open(&path);
            let file = match opened {
                Ok(file) => file,
                // The folder went between the two calls, with the lab that it belonged to.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(Error::failed(doing())(error)),
            };
            match fcntl(file.as_fd(), FcntlArg::F_SETLK(&whole(libc::F_WRLCK))) {
                Ok(_) => {}
                Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EACCES) => return Ok(None),
                Err(error) => return Err(Error::failed(doing())(error)),
            }
            // The file may have been removed, and made anew by another, before we had the lock.
            let ours = file.metadata().map_err(Error::failed(doing()))?;
            if fs::metadata(&path).is_ok_and(|there| there.ino() == ours.ino()) {
                return Ok(Some(Lock(file)));
            }
        }
    }

    /// The process that holds the lab's name.
    pub(crate) fn holder(&self) -> Option<i32> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(self.path.join("lock"))
            .ok()?;
        let mut asked = whole(libc::F_WRLCK);
        fcntl(file.as_fd(), FcntlArg::F_GETLK(&mut asked)).ok()?;
        (i32::from(asked.l_type) != libc::F_UNLCK).then_some(asked.l_pid)
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
        }
        self.remove()
    }

    /// Removes the folder, and the one above it where it was the last.
    pub(crate) fn remove(&self) -> Result<(), Error> {
        match fs::remove_dir_all(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(Error::failed(format!("remove {}", self.path.display()))(
                    error,
                ));
            }
            _ => {}
        }
        // Others may be up.
        let _ = fs::remove_dir(state_root());
        Ok(())
    }
}

fn whole(kind: libc::c_int) -> libc::flock {
    libc::flock {
        // Lock kinds are 0, 1 and 2; libc types the constants wider than the field.
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    }
}

/// Kills every process with a mark, its later children included, and waits for their ends.
pub(crate) fn end_marked(marker: &str) -> Result<(), Error> {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let pids = process::marked(marker);
        if pids.is_empty() {
            return Ok(());
        }
        for pid in &pids {
            // It may have ended by itself.
            let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
        }
        for pid in &pids {
            let left = deadline.saturating_duration_since(Instant::now());
            if !process::wait_for_end(*pid, left)? {
                return Err(Error::Failed {
                    doing: format!("end process {pid}"),
                    why: "it survives SIGKILL".to_owned(),
                });
            }
        }
    }
}

/// The names of all labs of this user that left a trace, sorted.
pub(crate) fn names() -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(state_root())
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

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
        };
        folder.write_record(&record).expect("write");
        assert_eq!(folder.record(), Some(record));
        let mode = fs::metadata(folder.path().join("lab.json"))
            .expect("stat")
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(folder.holder(), None);
    }
}
