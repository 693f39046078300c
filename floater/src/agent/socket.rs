//! Where a floater's sockets come from.

mod holder;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};

use datapath::digest::{Digest, Digester};
use datapath::state::{Family, NodeState};
use socket2::{Domain, Protocol, Socket, Type};

/// Connections that wait to be accepted.
const BACKLOG: i32 = 512;

/// Opens what a floater needs in the network that it stands in.
///
/// A socket belongs for good to the namespace that it was opened in, whichever thread uses it.
pub trait Sockets: Send + Sync + 'static {
    /// A listening socket of both families, or of the one that the network has.
    ///
    /// # Errors
    /// The system's.
    fn tcp_listener(&self, port: u16) -> io::Result<TcpListener>;

    /// A socket to connect with.
    ///
    /// # Errors
    /// The system's.
    fn tcp_socket(&self, family: Family) -> io::Result<Socket>;

    /// A socket for echoes: a datagram one where the system lets everybody have it, else a raw one.
    ///
    /// # Errors
    /// The system's.
    fn icmp_socket(&self, family: Family) -> io::Result<Socket>;

    /// A socket to send datagrams with.
    ///
    /// # Errors
    /// The system's.
    fn udp_socket(&self, family: Family) -> io::Result<Socket> {
        let _ = family;
        Err(io::ErrorKind::Unsupported.into())
    }

    /// A raw socket that gets a copy of every datagram that the network's filters let in, whoever listens on its port.
    ///
    /// # Errors
    /// The system's.
    fn raw_udp_socket(&self, family: Family) -> io::Result<Socket> {
        let _ = family;
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Whether the kernel makes VXLAN links. Makes none. Blocks.
    ///
    /// # Errors
    /// Why that cannot be told, in words.
    fn has_vxlan(&self) -> Result<bool, String> {
        Err("nobody can say so".to_owned())
    }

    /// How many connections the network's kernel has dropped because a queue of connections to be accepted was full,
    /// since it started.
    ///
    /// # Errors
    /// Where nobody counts.
    fn accept_queue_overflows(&self) -> io::Result<u64> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// The tables of the network. Blocks.
    ///
    /// # Errors
    /// What could not be read, in words.
    fn tables(&self) -> Result<NodeState, String>;

    /// The tables of the network, and in words what of them could not be read. Blocks.
    ///
    /// # Errors
    /// Why nothing could be read.
    fn inspect(&self) -> Result<(NodeState, Vec<String>), String> {
        self.tables().map(|state| (state, Vec::new()))
    }

    /// The tables of the network, whose rows that count for the digester may be thousands: of them only the digest. Blocks.
    ///
    /// # Errors
    /// Why nothing could be read.
    fn inspect_counting(&self, digester: &Digester) -> Result<Counted, String> {
        let (mut state, missing) = self.inspect()?;
        let digest = digester.of(&state);
        digester.take_counted(&mut state);
        Ok(Counted {
            state,
            digest,
            missing,
        })
    }
}

/// The tables of a network, of which most rows were only counted.
#[derive(Debug)]
pub struct Counted {
    /// The rows that do not count.
    pub state: NodeState,
    /// The digest of those that do.
    pub digest: Digest,
    /// In words what could not be read.
    pub missing: Vec<String>,
}

/// The network namespace of the calling thread.
#[derive(Debug, Clone, Copy, Default)]
pub struct Here;

/// The network namespace of the calling thread, listening on one address only.
#[derive(Debug, Clone, Copy)]
pub struct At(pub IpAddr);

impl Sockets for Here {
    fn tcp_listener(&self, port: u16) -> io::Result<TcpListener> {
        // An IPv6 socket takes IPv4 as well; where there is no IPv6 at all there is still IPv4.
        listener(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))).or_else(|error| {
            if error.kind() == io::ErrorKind::AddrInUse {
                Err(error)
            } else {
                listener(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)))
            }
        })
    }

    fn tcp_socket(&self, family: Family) -> io::Result<Socket> {
        Socket::new(domain(family), Type::STREAM, Some(Protocol::TCP))
    }

    fn icmp_socket(&self, family: Family) -> io::Result<Socket> {
        let protocol = match family {
            Family::Ipv4 => Protocol::ICMPV4,
            Family::Ipv6 => Protocol::ICMPV6,
        };
        Socket::new(domain(family), Type::DGRAM, Some(protocol))
            .or_else(|_| Socket::new(domain(family), Type::RAW, Some(protocol)))
    }

    fn udp_socket(&self, family: Family) -> io::Result<Socket> {
        Socket::new(domain(family), Type::DGRAM, Some(Protocol::UDP))
    }

    fn raw_udp_socket(&self, family: Family) -> io::Result<Socket> {
        Socket::new(domain(family), Type::RAW, Some(Protocol::UDP))
    }

    fn has_vxlan(&self) -> Result<bool, String> {
        super::inspect::has_vxlan()
    }

    fn accept_queue_overflows(&self) -> io::Result<u64> {
        super::starvation::accept_queue_overflows()
    }

    fn tables(&self) -> Result<NodeState, String> {
        self.inspect().map(|(state, _)| state)
    }

    fn inspect(&self) -> Result<(NodeState, Vec<String>), String> {
        super::inspect::inspect()
    }

    fn inspect_counting(&self, digester: &Digester) -> Result<Counted, String> {
        super::inspect::inspect_counting(digester)
    }
}

impl Sockets for At {
    fn tcp_listener(&self, port: u16) -> io::Result<TcpListener> {
        listener(SocketAddr::from((self.0, port)))
    }

    fn tcp_socket(&self, family: Family) -> io::Result<Socket> {
        Here.tcp_socket(family)
    }

    fn icmp_socket(&self, family: Family) -> io::Result<Socket> {
        Here.icmp_socket(family)
    }

    fn udp_socket(&self, family: Family) -> io::Result<Socket> {
        Here.udp_socket(family)
    }

    fn raw_udp_socket(&self, family: Family) -> io::Result<Socket> {
        Here.raw_udp_socket(family)
    }

    fn has_vxlan(&self) -> Result<bool, String> {
        Here.has_vxlan()
    }

    fn accept_queue_overflows(&self) -> io::Result<u64> {
        Here.accept_queue_overflows()
    }

    fn tables(&self) -> Result<NodeState, String> {
        Here.tables()
    }

    fn inspect(&self) -> Result<(NodeState, Vec<String>), String> {
        Here.inspect()
    }

    fn inspect_counting(&self, digester: &Digester) -> Result<Counted, String> {
        Here.inspect_counting(digester)
    }
}

fn domain(family: Family) -> Domain {
    match family {
        Family::Ipv4 => Domain::IPV4,
        Family::Ipv6 => Domain::IPV6,
    }
}

fn listener(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    if address.is_ipv6() && address.ip().is_unspecified() {
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    // Only listening tells whether another one listens.
    let opened = socket
        .bind(&address.into())
        .and_then(|()| socket.listen(BACKLOG));
    match opened {
        Ok(()) => Ok(socket.into()),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            holder::words(address.port()),
        )),
        Err(error) => Err(error),
    }
}
