//! Who holds a port that could not be had.

use std::fs;
use std::path::Path;

/// A listening socket of the network of the calling thread.
#[derive(Debug, PartialEq, Eq)]
struct Listening {
    port: u16,
    uid: u32,
    inode: u64,
}

/// What is known of whoever listens on a port: its program, or the user that it runs as.
pub(super) fn words(port: u16) -> String {
    let holder = ["tcp", "tcp6"]
        .iter()
        .filter_map(|table| fs::read_to_string(format!("/proc/thread-self/net/{table}")).ok())
        .find_map(|table| {
            table
                .lines()
                .filter_map(listening)
                .find(|socket| socket.port == port)
        });
    match holder {
        None => "in use by somebody who cannot be seen from here".to_owned(),
        Some(socket) => program(socket.inode).unwrap_or_else(|| {
            format!(
                "in use by a process of user {} that cannot be seen from here",
                socket.uid
            )
        }),
    }
}

/// A line of `/proc/net/tcp`, if it is a listening socket's.
fn listening(line: &str) -> Option<Listening> {
    const LISTEN: &str = "0A";
    let words: Vec<&str> = line.split_whitespace().collect();
    let (_, port) = words.get(1)?.rsplit_once(':')?;
    (*words.get(3)? == LISTEN).then_some(Listening {
        port: u16::from_str_radix(port, 16).ok()?,
        uid: words.get(7)?.parse().ok()?,
        inode: words.get(9)?.parse().ok()?,
    })
}

/// The program that has a socket open.
fn program(inode: u64) -> Option<String> {
    let wanted = format!("socket:[{inode}]");
    fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
        let number: u32 = entry.file_name().to_str()?.parse().ok()?;
        let mut open = fs::read_dir(entry.path().join("fd")).ok()?.flatten();
        open.find(|fd| fs::read_link(fd.path()).is_ok_and(|link| link == Path::new(&wanted)))?;
        let name = fs::read_to_string(entry.path().join("comm")).ok()?;
        let name = datapath::printable::printable(name.trim_end(), 32).into_owned();
        Some(format!("in use by {name} (process {number})"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_is_read_from_its_line() {
        let line = "   0: 0100007F:22B9 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 4711 1 0 100 0 0 10 0";
        let socket = Listening {
            port: 8889,
            uid: 1000,
            inode: 4711,
        };
        assert_eq!(listening(line), Some(socket));
        assert_eq!(listening(&line.replace(" 0A ", " 01 ")), None);
        assert_eq!(listening("  sl  local_address rem_address   st"), None);
        assert_eq!(listening(""), None);
    }

    #[test]
    fn our_own_listener_is_known_by_our_number() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let words = words(port);
        assert!(
            words.contains(&format!("(process {})", std::process::id())),
            "{words}"
        );
    }
}
