//! What a program sees of the machine's files where it is not to see them all.

use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::symlink;
use std::path::{Component, Path, PathBuf};

use super::vfork;

/// The files that a program sees: a folder as its root, and in it what the machine's programs and libraries are, the kernel's own file
/// systems, and what is bound there. Its mounts are its own and end with it.
#[derive(Debug, Clone)]
pub struct Root {
    /// The folder: made if it is not there, with all that binds need in it. Who made it removes it once the program has ended.
    pub folder: PathBuf,
    /// Files and folders of the machine, and where they are from the program's point of view (absolute).
    pub binds: Vec<(PathBuf, PathBuf)>,
}

/// Where programs and their libraries are, and what the kernel shows: what a dynamically linked program cannot do without.
const SYSTEM: &[&str] = &[
    "bin", "dev", "lib", "lib32", "lib64", "nix", "proc", "sbin", "sys", "usr",
];

impl Root {
    /// Makes the folder and the places of all binds, and says what is to be bound.
    pub(super) fn prepare(&self) -> io::Result<vfork::Root> {
        let word = |path: &Path| CString::new(path.as_os_str().as_bytes()).map_err(io::Error::from);
        fs::create_dir_all(&self.folder)?;
        let mut binds = Vec::new();
        for name in SYSTEM {
            let (source, target) = (Path::new("/").join(name), self.folder.join(name));
            let Ok(found) = fs::symlink_metadata(&source) else {
                continue;
            };
            if found.is_symlink() {
                if fs::symlink_metadata(&target).is_err() {
                    symlink(fs::read_link(&source)?, &target)?;
                }
            } else if found.is_dir() {
                fs::create_dir_all(&target)?;
                binds.push((word(&source)?, word(&target)?));
            }
        }
        for (source, place) in &self.binds {
            let place = place.strip_prefix("/").unwrap_or(place);
            if place
                .components()
                .any(|part| !matches!(part, Component::Normal(_)))
            {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    "a place leaves its root",
                ));
            }
            // What is bound already has its places: making one there would make it on the machine.
            let is_system = SYSTEM.iter().any(|name| place.starts_with(name));
            let target = self.folder.join(place);
            if !is_system {
                if source.is_dir() {
                    fs::create_dir_all(&target)?;
                } else {
                    fs::create_dir_all(target.parent().unwrap_or(&self.folder))?;
                    File::options().append(true).create(true).open(&target)?;
                }
            }
            binds.push((word(source)?, word(&target)?));
        }
        Ok(vfork::Root {
            folder: word(&self.folder)?,
            binds,
        })
    }
}
