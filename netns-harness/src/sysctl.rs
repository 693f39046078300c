//! Settings below `/proc/sys/net` of the calling thread's namespace.

use std::fs;
use std::path::PathBuf;

use crate::Error;

/// The file of a dotted name; a link's own dots stand as `/`, as in sysctl(8).
fn path(name: &str) -> PathBuf {
    let relative: String = name
        .chars()
        .map(|char| match char {
            '.' => '/',
            '/' => '.',
            other => other,
        })
        .collect();
    PathBuf::from("/proc/sys").join(relative)
}

/// Writes a setting, for example `net.ipv4.ip_forward`.
pub fn set(name: &str, value: &str) -> Result<(), Error> {
    fs::write(path(name), value).map_err(Error::doing(format!("set {name}={value}")))
}

/// Reads a setting, without the line's end.
pub fn get(name: &str) -> Result<String, Error> {
    let text = fs::read_to_string(path(name)).map_err(Error::doing(format!("read {name}")))?;
    Ok(text.trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    #[test]
    fn dots_of_links_survive() {
        assert_eq!(
            super::path("net.ipv4.conf.eth0/100.forwarding").to_str(),
            Some("/proc/sys/net/ipv4/conf/eth0.100/forwarding")
        );
    }
}
