//! Settings below `net.`: read over netlink, written to the files of the kernel's namespace.
//!
//! A link's own settings come with the link. Those of all links are asked for. Netlink cannot write them with their side effects, and
//! the files below /proc/sys/net are those of the namespace of the thread that opens them, so a thread that is elsewhere sends
//! another one there, which ends with its work. The namespace is asked from the socket; no descriptor is held for it.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;

use nix::fcntl::{OFlag, openat};
use nix::sched::{CloneFlags, setns};
use nix::sys::stat::Mode;

use super::message::{Attributes, attributes, read_u32};
use super::socket::Netlink;
use crate::error::Error;
use crate::state::Sysctl;

pub(super) const RTM_NEWNETCONF: u16 = 80;
pub(super) const RTM_DELNETCONF: u16 = 81;
const RTM_GETNETCONF: u16 = 82;
const NETCONFA_IFINDEX: u16 = 1;
const NETCONFA_FORWARDING: u16 = 2;
const NETCONFA_RP_FILTER: u16 = 3;
const NETCONFA_IFINDEX_ALL: i32 = -1;

/// The settings of all links together.
pub(super) fn observe_all(socket: &mut Netlink) -> Result<Vec<Sysctl>, Error> {
    let mut found = Vec::new();
    for (family, directory) in [
        (super::address::AF_INET, "ipv4"),
        (super::address::AF_INET6, "ipv6"),
    ] {
        let mut place = Vec::new();
        Attributes::new(&mut place).u32(NETCONFA_IFINDEX, NETCONFA_IFINDEX_ALL.cast_unsigned());
        let header = [family, 0, 0, 0];
        let answer = match socket.get("settings of all links", RTM_GETNETCONF, &header, &place) {
            Ok(answer) => answer,
            // A kernel without IPv6 has no such settings.
            Err(error) if super::is_unsupported(&error) => continue,
            Err(error) => return Err(error),
        };
        let Some(answer) = answer else { continue };
        for (_, payload) in answer.messages() {
            for (kind, value) in attributes(payload.get(4..).unwrap_or_default()) {
                let leaf = match kind {
                    NETCONFA_FORWARDING => "forwarding",
                    NETCONFA_RP_FILTER if directory == "ipv4" => "rp_filter",
                    _ => continue,
                };
                if let Some(value) = read_u32(value) {
                    found.push(Sysctl {
                        name: format!("net.{directory}.conf.all.{leaf}"),
                        value: i64::from(value.cast_signed()),
                    });
                }
            }
        }
    }
    Ok(found)
}

/// The index of the link whose settings a notice is about; none of one about all links together, or that cannot be read.
pub(super) fn place_of(payload: &[u8]) -> Option<u32> {
    let mut rest = attributes(payload.get(4..)?);
    let (_, value) = rest.find(|(attribute, _)| *attribute == NETCONFA_IFINDEX)?;
    read_u32(value).filter(|index| *index != NETCONFA_IFINDEX_ALL.cast_unsigned())
}

/// Where the kernel shows its settings below `net.`.
pub(super) const FOLDER: &str = "/proc/sys/net";

/// Writes settings in the namespace of a socket; each with its place in the caller's list. `root` is where the process sees [`FOLDER`]. The
/// answer holds those that failed.
pub(super) fn write(
    socket: &Netlink,
    root: &Path,
    rows: &[(usize, &Sysctl)],
) -> io::Result<Vec<(usize, io::Error)>> {
    in_namespace_of(socket.as_fd(), || {
        let mut folders = Vec::new();
        let mut write = |row: &Sysctl| {
            let invalid = || io::Error::from_raw_os_error(libc::EINVAL);
            let path = path(&row.name).ok_or_else(invalid)?;
            write_below(&mut folders, root, &path, &row.value.to_string())
        };
        rows.iter()
            .filter_map(|(place, row)| Some((*place, write(row).err()?)))
            .collect()
    })
}

/// Reads settings in the namespace of a socket; those that are not there, or are no numbers, are left out.
pub(super) fn read(socket: &Netlink, root: &Path, names: &[String]) -> Vec<Sysctl> {
    let read = |name: &String| {
        let text = fs::read_to_string(root.join(path(name)?)).ok()?;
        Some(Sysctl {
            name: name.clone(),
            value: text.trim().parse().ok()?,
        })
    };
    in_namespace_of(socket.as_fd(), || names.iter().filter_map(read).collect()).unwrap_or_default()
}

/// Writes a file by way of its folder below /proc/sys/net, which is opened once: to find the one of its namespace the kernel goes through
/// those of all others.
fn write_below(
    folders: &mut Vec<(PathBuf, File)>,
    root: &Path,
    path: &Path,
    value: &str,
) -> io::Result<()> {
    let family: PathBuf = path.components().take(1).collect();
    let below = path.strip_prefix(&family).unwrap_or(Path::new("."));
    let folder = root.join(family);
    let place = match folders.iter().position(|(known, _)| *known == folder) {
        Some(place) => place,
        None => {
            folders.push((folder.clone(), File::open(&folder)?));
            folders.len() - 1
        }
    };
    let flags = OFlag::O_WRONLY | OFlag::O_TRUNC | OFlag::O_CLOEXEC;
    let opened = openat(&folders[place].1, below, flags, Mode::empty())?;
    File::from(opened).write_all(value.as_bytes())
}

/// The file of a setting below [`FOLDER`]: dots part directories, and a slash stands for the dot in a link's name.
fn path(name: &str) -> Option<PathBuf> {
    let mut path = PathBuf::new();
    for part in name.strip_prefix("net.")?.split('.') {
        let part = part.replace('/', ".");
        if matches!(part.as_str(), "" | "." | "..") {
            return None;
        }
        path.push(part);
    }
    Some(path)
}

/// Does something in the network namespace that a socket was opened in.
fn in_namespace_of<T: Send>(
    socket: BorrowedFd<'_>,
    work: impl FnOnce() -> T + Send,
) -> io::Result<T> {
    let there = namespace_of(socket)?;
    let there_id = File::from(there.try_clone()?).metadata()?;
    let here_id = fs::metadata("/proc/thread-self/ns/net")?;
    if (there_id.dev(), there_id.ino()) == (here_id.dev(), here_id.ino()) {
        return Ok(work());
    }
    thread::scope(|scope| {
        let worker = scope.spawn(move || -> io::Result<T> {
            setns(there.as_fd(), CloneFlags::CLONE_NEWNET)?;
            Ok(work())
        });
        match worker.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// The network namespace of a socket (`SIOCGSKNS`, since Linux 4.9).
#[expect(
    unsafe_code,
    reason = "no safe wrapper exists for this request of ioctl(2)"
)]
fn namespace_of(socket: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    // SAFETY: the request takes no argument and touches no memory of this process; the descriptor is open for the call's duration.
    let descriptor = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGSKNS) };
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call just made this descriptor and nothing else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_paths_below_net_only() {
        assert_eq!(
            path("net.ipv4.conf.bond0/1820.forwarding").as_deref(),
            Some(Path::new("ipv4/conf/bond0.1820/forwarding"))
        );
        for name in [
            "kernel.hostname",
            "net",
            "net.ipv4.conf.//.forwarding",
            "net..x",
            "",
        ] {
            assert_eq!(path(name), None, "{name}");
        }
    }
}
