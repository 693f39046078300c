//! Being root of an own user namespace, for people who are not root.

use std::fs;
use std::io;

use nix::sched::{CloneFlags, unshare};
use nix::unistd::{getegid, geteuid};

use crate::Error;

/// `CAP_SYS_ADMIN` in `/proc/PID/status`.
const SYS_ADMIN: u64 = 1 << 21;
/// `CAP_NET_ADMIN`.
const NET_ADMIN: u64 = 1 << 12;

/// Whether this process may make namespaces and links as it is.
#[must_use]
pub fn is_privileged() -> bool {
    let status = fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .is_some_and(|mask| mask & SYS_ADMIN != 0 && mask & NET_ADMIN != 0)
}

/// Whether this process lives in a user namespace that is not the machine's own.
#[must_use]
pub fn in_user_namespace() -> bool {
    // The machine's own maps everybody to themselves.
    fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| {
        let words: Vec<_> = map.split_ascii_whitespace().collect();
        words != ["0", "0", "4294967295"]
    })
}

/// Becomes root of a new user and mount namespace where the process lacks the rights to make network namespaces; the
/// network namespace stays, since others must reach our loopback. Returns whether it did.
///
/// The kernel allows it only before the process has started a thread.
pub fn enter() -> Result<bool, Error> {
    if is_privileged() {
        return Ok(false);
    }
    let (uid, gid) = (geteuid(), getegid());
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS)
        .map_err(Error::doing("make an unprivileged user namespace"))?;
    for (file, text) in [
        // Without it the kernel refuses an unprivileged gid_map (user_namespaces(7)).
        ("setgroups", "deny".to_owned()),
        ("uid_map", format!("0 {uid} 1")),
        ("gid_map", format!("0 {gid} 1")),
    ] {
        fs::write(format!("/proc/self/{file}"), text)
            .map_err(Error::doing(format!("write {file}")))?;
    }
    if is_privileged() {
        Ok(true)
    } else {
        Err(Error::new(
            "become root of an own user namespace",
            io::Error::from_raw_os_error(libc::EPERM),
        ))
    }
}
