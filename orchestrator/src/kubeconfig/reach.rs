//! Which of the addresses that belong to this machine or its link a server may have.
//!
//! A server's URL that comes from a cluster could otherwise aim this program's requests at services that trust this machine:
//! a kubelet or a database on loopback, a cloud's metadata service. The address is checked where the connection
//! is made, after names are resolved, so that a name or an odd spelling of an address hides nothing.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use hyper_util::client::legacy::connect::dns::Name;

/// What an address is, where it does not belong to some other machine of the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Local {
    /// This machine itself.
    Loopback,
    /// The link's, the metadata services of most clouds among them.
    Link,
    /// A metadata service of a cloud elsewhere than on the link.
    Metadata,
    /// No machine's: unspecified, multicast, broadcast.
    Nobody,
}

impl Local {
    fn of(ip: IpAddr) -> Option<Self> {
        match ip {
            IpAddr::V4(ip) => Self::of_v4(ip),
            IpAddr::V6(ip) => Self::of_v6(ip),
        }
    }

    fn of_v4(ip: Ipv4Addr) -> Option<Self> {
        /// Alibaba Cloud's and Oracle Cloud's metadata services.
        const METADATA: [Ipv4Addr; 2] = [
            Ipv4Addr::new(100, 100, 100, 200),
            Ipv4Addr::new(192, 0, 0, 192),
        ];
        if ip.is_loopback() {
            Some(Self::Loopback)
        } else if ip.is_link_local() {
            Some(Self::Link)
        } else if METADATA.contains(&ip) {
            Some(Self::Metadata)
        } else if ip.octets()[0] == 0 || ip.is_multicast() || ip.is_broadcast() {
            Some(Self::Nobody)
        } else {
            None
        }
    }

    fn of_v6(ip: Ipv6Addr) -> Option<Self> {
        /// Amazon's metadata service.
        const METADATA: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);
        if ip.is_loopback() {
            return Some(Self::Loopback);
        }
        if ip.is_unspecified() || ip.is_multicast() {
            return Some(Self::Nobody);
        }
        if ip.is_unicast_link_local() {
            return Some(Self::Link);
        }
        if ip == METADATA {
            return Some(Self::Metadata);
        }
        // An IPv4 address within an IPv6 one: mapped, compatible (RFC 4291), translated (RFC 6052), 6to4 (RFC 3056).
        let [a, b, c, d, e, f, g, h] = ip.segments();
        let v4 = |high: u16, low: u16| Ipv4Addr::from(u32::from(high) << 16 | u32::from(low));
        match [a, b, c, d, e, f] {
            [0, 0, 0, 0, 0, 0 | 0xffff] | [0, 0, 0, 0, 0xffff, 0] | [0x64, 0xff9b, 0, 0, 0, 0] => {
                Self::of_v4(v4(g, h))
            }
            [0x2002, ..] => Self::of_v4(v4(b, c)),
            _ => None,
        }
    }

    /// In words, for "its server is …".
    fn words(self) -> &'static str {
        match self {
            Self::Loopback => "a loopback address of this machine",
            Self::Link => "a link-local address, where clouds keep their metadata services",
            Self::Metadata => "the address of a cloud's metadata service",
            Self::Nobody => "an address that belongs to no machine",
        }
    }
}

/// Which [`Local`] addresses may be connected to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Reach {
    /// All: an operator's own file is obeyed.
    Everywhere,
    /// None but these kinds.
    Elsewhere(Vec<Local>),
}

impl Reach {
    /// What the members that a control plane names may have: what the control plane's own server has.
    pub(crate) async fn beside(server: &str) -> Self {
        let mut kinds = Vec::new();
        if let Ok(uri) = server.parse::<http::Uri>() {
            let host = bare(uri.host().unwrap_or_default());
            let ips: Vec<IpAddr> = match host.parse() {
                Ok(ip) => vec![ip],
                Err(_) => match tokio::net::lookup_host((host, 0)).await {
                    Ok(found) => found.map(|address| address.ip()).collect(),
                    Err(_) => Vec::new(),
                },
            };
            kinds.extend(ips.into_iter().filter_map(Local::of));
        }
        Self::Elsewhere(kinds)
    }

    fn refusal(&self, ip: IpAddr) -> Option<Local> {
        match self {
            Self::Everywhere => None,
            Self::Elsewhere(allowed) => Local::of(ip).filter(|kind| !allowed.contains(kind)),
        }
    }

    /// Whether a URL's server may be connected to, where it is given as an address.
    ///
    /// # Errors
    /// Why not.
    pub(super) fn check(&self, server: &http::Uri) -> Result<(), String> {
        match bare(server.host().unwrap_or_default())
            .parse()
            .map(|ip| self.refusal(ip))
        {
            Ok(Some(kind)) => Err(refused(kind)),
            _ => Ok(()),
        }
    }

    /// The same after a name is resolved, for a server that a proxy and not this machine connects to. A name that only the
    /// proxy knows is the proxy's to judge.
    ///
    /// # Errors
    /// Why not.
    pub(super) async fn check_resolved(&self, server: &http::Uri) -> Result<(), String> {
        self.check(server)?;
        let host = server.host().unwrap_or_default();
        if let (Self::Elsewhere(_), Ok(found)) = (self, tokio::net::lookup_host((host, 0)).await)
            && let Some(kind) = found
                .into_iter()
                .find_map(|address| self.refusal(address.ip()))
        {
            return Err(refused(kind));
        }
        Ok(())
    }
}

fn refused(kind: Local) -> String {
    format!(
        "its server has {}; a kubeconfig out of a cluster may name one only where the control plane has such an address, too",
        kind.words()
    )
}

/// A host without the brackets of an IPv6 address.
fn bare(host: &str) -> &str {
    host.trim_start_matches('[').trim_end_matches(']')
}

/// Resolves names to the addresses within a [`Reach`].
#[derive(Debug, Clone)]
pub(super) struct Resolver(pub(super) Reach);

impl tower::Service<Name> for Resolver {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<Self::Response>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let reach = self.0.clone();
        Box::pin(async move {
            let found: Vec<SocketAddr> =
                tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            let mut refusal = None;
            let mut within = Vec::new();
            for address in found {
                match reach.refusal(address.ip()) {
                    None => within.push(address),
                    Some(kind) => refusal = Some(kind),
                }
            }
            match (within.is_empty(), refusal) {
                (true, Some(kind)) => Err(io::Error::other(refused(kind))),
                _ => Ok(within.into_iter()),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_this_machine_and_its_link_are_known_in_every_spelling() {
        for (ip, kind) in [
            ("127.0.0.1", Some(Local::Loopback)),
            ("127.255.0.9", Some(Local::Loopback)),
            ("::1", Some(Local::Loopback)),
            ("::ffff:127.0.0.1", Some(Local::Loopback)),
            ("::127.0.0.1", Some(Local::Loopback)),
            ("64:ff9b::7f00:1", Some(Local::Loopback)),
            ("2002:7f00:1::", Some(Local::Loopback)),
            ("169.254.169.254", Some(Local::Link)),
            ("::ffff:169.254.169.254", Some(Local::Link)),
            ("fe80::1", Some(Local::Link)),
            ("fd00:ec2::254", Some(Local::Metadata)),
            ("100.100.100.200", Some(Local::Metadata)),
            ("0.0.0.0", Some(Local::Nobody)),
            ("0.1.2.3", Some(Local::Nobody)),
            ("::", Some(Local::Nobody)),
            ("224.0.0.1", Some(Local::Nobody)),
            ("ff02::1", Some(Local::Nobody)),
            ("255.255.255.255", Some(Local::Nobody)),
            ("10.0.0.1", None),
            ("192.168.1.1", None),
            ("fd00::1", None),
            ("2001:db8::1", None),
            ("64:ff9b::a00:1", None),
        ] {
            let ip: IpAddr = ip.parse().expect("an address");
            assert_eq!(Local::of(ip), kind, "{ip}");
        }
    }

    #[tokio::test]
    async fn members_may_be_where_the_control_plane_is() {
        let beside = Reach::beside("https://127.0.0.1:6443").await;
        assert_eq!(beside, Reach::Elsewhere(vec![Local::Loopback]));
        let loopback = "https://[::1]:6443".parse().expect("a URL");
        assert_eq!(beside.check(&loopback), Ok(()));
        let metadata = "http://169.254.169.254/latest".parse().expect("a URL");
        let why = beside.check(&metadata).expect_err("another kind");
        assert!(why.contains("link-local"), "{why}");
        let elsewhere = Reach::beside("https://10.1.2.3").await;
        assert_eq!(elsewhere, Reach::Elsewhere(Vec::new()));
        assert!(elsewhere.check(&loopback).is_err());
    }

    /// `127.1` is no address by the rules of URLs, and the system's resolver makes one of it.
    #[tokio::test]
    async fn a_name_is_judged_by_the_address_that_it_resolves_to() {
        use tower::Service as _;
        for name in ["localhost", "127.1", "2130706433"] {
            let name: Name = name.parse().expect("a name");
            let mut resolver = Resolver(Reach::Elsewhere(Vec::new()));
            let error = resolver.call(name.clone()).await.expect_err("it is here");
            assert!(error.to_string().contains("loopback"), "{error}");
            let mut resolver = Resolver(Reach::Everywhere);
            assert!(
                resolver
                    .call(name)
                    .await
                    .is_ok_and(|mut found| found.next().is_some())
            );
        }
    }
}
