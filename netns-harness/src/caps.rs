//! What this kernel lets this user do, found out by trying it in a throw-away namespace.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::SockProtocol;
use nix::unistd::geteuid;
use serde::Serialize;
use socket2::{Domain, Protocol, Socket, Type};

use crate::namespace::Netns;
use crate::netlink::{Message, Netlink};
use crate::wire::{End, Wire as _};
use crate::{Error, rootless, sysctl};

/// One thing that a lab may need.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Capability {
    /// Its name: `netns`, `vxlan`, ….
    pub name: &'static str,
    /// Whether it can be had.
    pub available: bool,
    /// Why not.
    pub reason: Option<String>,
}

impl Capability {
    fn of(name: &'static str, tried: Result<(), String>) -> Self {
        Self {
            name,
            available: tried.is_ok(),
            reason: tried.err(),
        }
    }
}

/// Everything that can be asked for, each tried now; in a fixed order.
///
/// Without the right to make network namespaces only `root`, `userns` and `netns` are tried: become root of an own user
/// namespace first ([`rootless::enter`]).
#[must_use]
pub fn check() -> Vec<Capability> {
    let mut found = vec![
        Capability::of(
            "root",
            if geteuid().is_root() && !rootless::in_user_namespace() {
                Ok(())
            } else {
                Err("the machine's own root is somebody else".to_owned())
            },
        ),
        Capability::of(
            "userns",
            user_namespace().map_err(|error| error.to_string()),
        ),
    ];
    let netns = match Netns::create() {
        Ok(netns) => {
            found.push(Capability::of("netns", Ok(())));
            netns
        }
        Err(error) => {
            found.push(Capability::of("netns", Err(described(&error))));
            return found;
        }
    };
    match netns.run(inside) {
        Ok(more) => found.extend(more),
        Err(error) => found.push(Capability::of("netns", Err(described(&error)))),
    }
    found
}

/// An error with its cause.
fn described(error: &Error) -> String {
    format!("{error}: {}", error.source)
}

fn try_netlink(ask: impl FnOnce(&mut Netlink)) -> Result<(), String> {
    let mut netlink = Netlink::open().map_err(|error| described(&error))?;
    ask(&mut netlink);
    netlink.flush().map_err(|error| described(&error))
}

fn link(name: &'static str, index: u32, kind: &str, number: Option<(u16, u32)>) -> Message {
    let mut header = [0; 16];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    Message::new(
        libc::RTM_NEWLINK,
        libc::NLM_F_CREATE | libc::NLM_F_EXCL,
        &header,
        format!("make a {kind} link"),
    )
    .text(libc::IFLA_IFNAME, name)
    .nest(libc::IFLA_LINKINFO, |info| {
        let info = info.text(1, kind);
        match number {
            Some((attribute, value)) => info.nest(2, |data| data.number(attribute, value)),
            None => info,
        }
    })
}

/// What is tried from inside of the throw-away namespace.
fn inside() -> Vec<Capability> {
    let socket = |domain, kind, protocol: i32| {
        Socket::new(domain, kind, Some(Protocol::from(protocol)))
            .map(drop)
            .map_err(|error| error.to_string())
    };
    // 0 is the only group that every user namespace maps.
    let pings = sysctl::set("net.ipv4.ping_group_range", "0 0")
        .map_err(|error| described(&error))
        .and_then(|()| socket(Domain::IPV4, Type::DGRAM, libc::IPPROTO_ICMP));
    vec![
        Capability::of(
            "veth",
            try_netlink(|netlink| {
                let end = |name, index, octet| End {
                    name,
                    index,
                    mac: [2, 0, 0, 0, 0, octet],
                    mtu: 1500,
                    namespace: None,
                    master: None,
                };
                netlink.veth(&end("a", 10, 1), &end("b", 11, 2));
            }),
        ),
        Capability::of(
            "bridge",
            try_netlink(|netlink| netlink.bridge("br", 12, [2, 0, 0, 0, 0, 3], 1500)),
        ),
        Capability::of(
            "vxlan",
            // IFLA_VXLAN_ID
            try_netlink(|netlink| netlink.queue(link("vx", 13, "vxlan", Some((1, 7))))),
        ),
        Capability::of("policy-rules", try_netlink(|netlink| netlink.queue(rule()))),
        Capability::of("nft", nft()),
        Capability::of(
            "netem",
            try_netlink(|netlink| netlink.queue(queueing("netem"))),
        ),
        Capability::of("ipv6", ipv6()),
        Capability::of("ping-sockets", pings),
        Capability::of(
            "raw-sockets",
            socket(Domain::IPV4, Type::RAW, libc::IPPROTO_ICMP),
        ),
        Capability::of("packet-sockets", socket(Domain::PACKET, Type::RAW, 0)),
        Capability::of(
            "tun",
            fs::File::options()
                .read(true)
                .write(true)
                .open("/dev/net/tun")
                .map(drop)
                .map_err(|error| error.to_string()),
        ),
    ]
}

fn ipv6() -> Result<(), String> {
    try_netlink(|netlink| {
        netlink.up(1);
        let ip = IpAddr::V6(std::net::Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1));
        netlink.address(1, ip.into());
    })
}

/// `from all lookup 200`, `struct fib_rule_hdr`.
fn rule() -> Message {
    let mut header = [0; 12];
    header[0] = libc::AF_INET as u8;
    header[4] = 200;
    // FR_ACT_TO_TBL
    header[7] = 1;
    Message::new(
        libc::RTM_NEWRULE,
        libc::NLM_F_CREATE | libc::NLM_F_EXCL,
        &header,
        "add a policy rule",
    )
    // FRA_PRIORITY
    .number(6, 200)
}

/// A queueing discipline on the loopback link, `struct tcmsg`.
fn queueing(kind: &str) -> Message {
    let mut header = [0; 20];
    header[4..8].copy_from_slice(&1_u32.to_ne_bytes());
    // TC_H_ROOT
    header[12..16].copy_from_slice(&u32::MAX.to_ne_bytes());
    Message::new(
        libc::RTM_NEWQDISC,
        libc::NLM_F_CREATE,
        &header,
        format!("add a {kind} queueing discipline"),
    )
    // TCA_KIND
    .text(1, kind)
    // TCA_OPTIONS: struct tc_netem_qopt with nothing asked for but a queue.
    .attribute(
        2,
        &[
            [0; 4],
            0_u32.to_ne_bytes(),
            1000_u32.to_ne_bytes(),
            [0; 4],
            [0; 4],
            [0; 4],
        ]
        .concat(),
    )
}

/// Asks nftables for its generation (`NFT_MSG_GETGEN`).
fn nft() -> Result<(), String> {
    let mut netlink =
        Netlink::open_family(SockProtocol::NetlinkNetFilter).map_err(|error| described(&error))?;
    // NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETGEN, struct nfgenmsg
    netlink.queue(Message::new(
        10 << 8 | 16,
        0,
        &[libc::AF_UNSPEC as u8, 0, 0, 0],
        "ask nftables for its generation",
    ));
    netlink.flush().map_err(|error| described(&error))
}

/// Whether a child could become root of a user namespace of its own.
#[expect(
    unsafe_code,
    reason = "a child leaves its user namespace between fork and exec"
)]
fn user_namespace() -> io::Result<()> {
    let mut command = Command::new("/proc/self/exe");
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    // SAFETY: between fork and exec the closure makes one system call and allocates nothing.
    unsafe {
        command.pre_exec(|| {
            unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET)?;
            // Never executed: this errno says that everything before it went well.
            Err(io::Error::from_raw_os_error(libc::ECANCELED))
        });
    }
    match command.spawn() {
        Err(error) if error.raw_os_error() == Some(libc::ECANCELED) => Ok(()),
        Err(error) => Err(error),
        Ok(mut child) => child.wait().map(drop),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_absence_has_a_reason_and_nothing_else_has() {
        for capability in check() {
            assert_eq!(
                capability.available,
                capability.reason.is_none(),
                "{capability:?}"
            );
        }
    }

    #[test]
    #[ignore = "netns: needs veth, bridge, vxlan"]
    fn what_labs_need_is_there() {
        let found = check();
        for name in ["netns", "veth", "bridge", "vxlan", "policy-rules", "nft"] {
            let capability = found
                .iter()
                .find(|capability| capability.name == name)
                .expect(name);
            assert!(capability.available, "{capability:?}");
        }
    }
}
