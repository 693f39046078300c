//! Settings below `/proc/sys/net` of the calling thread's namespace.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;

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

/// The settings of the namespace that the calling thread is in, at hand.
///
/// To find a namespace's own folder the kernel goes through those of all namespaces that have been looked into, so each is looked for
/// once: with thousands of namespaces that is most of what writing a setting costs.
#[derive(Debug, Default)]
pub struct Settings(Vec<(PathBuf, File)>);

impl Settings {
    /// Writes a setting; the thread has to be in the same namespace each time.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), Error> {
        let doing = || format!("set {name}={value}");
        let path = path(name);
        // `/proc/sys/net/ipv4` and what is below it.
        let folder: PathBuf = path.components().take(5).collect();
        let place = match self.0.iter().position(|(known, _)| *known == folder) {
            Some(place) => place,
            None => {
                let opened = File::open(&folder).map_err(Error::doing(doing()))?;
                self.0.push((folder.clone(), opened));
                self.0.len() - 1
            }
        };
        let below = path.strip_prefix(&folder).unwrap_or(Path::new("."));
        let flags = OFlag::O_WRONLY | OFlag::O_TRUNC | OFlag::O_CLOEXEC;
        let opened =
            openat(&self.0[place].1, below, flags, Mode::empty()).map_err(Error::doing(doing()))?;
        File::from(opened)
            .write_all(value.as_bytes())
            .map_err(Error::doing(doing()))
    }
}

/// Reads a setting, without the line's end.
pub fn get(name: &str) -> Result<String, Error> {
    let text = fs::read_to_string(path(name)).map_err(Error::doing(format!("read {name}")))?;
    Ok(text.trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    #[test]
    #[ignore = "netns: needs veth"]
    fn settings_at_hand_are_those_of_the_threads_namespace() {
        let netns = crate::namespace::Netns::create().expect("create");
        let name = "net.ipv4.conf.default.rp_filter";
        let before = super::get(name).expect("read");
        let other = if before == "1" { "2" } else { "1" };
        let there = netns.run(|| {
            let mut settings = super::Settings::default();
            settings.set(name, other).expect("write");
            settings.set("net.ipv4.ip_forward", "1").expect("write");
            settings
                .set("net.ipv4.nothing", "1")
                .expect_err("there is no such setting");
            [name, "net.ipv4.ip_forward"].map(|name| super::get(name).expect("read"))
        });
        assert_eq!(there.expect("run"), [other, "1"]);
        assert_eq!(super::get(name).expect("read"), before);
    }

    #[test]
    fn dots_of_links_survive() {
        assert_eq!(
            super::path("net.ipv4.conf.eth0/100.forwarding").to_str(),
            Some("/proc/sys/net/ipv4/conf/eth0.100/forwarding")
        );
    }
}
