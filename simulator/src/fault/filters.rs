//! Rules of a packet filter that drop, refuse or translate: each a table of its own, which clearing removes.

use std::net::IpAddr;

use datapath::code::Code;
use datapath::filter::{
    Base, Chain, ChainKind, Clause, Field, Filters, Hook, Octets, Order, Policy, Relation, Rule,
    TableFamily, Test, Translation, Verdict,
};
use datapath::state::{Family, TABLE_MAIN};
use datapath::walk::Packet;

use super::links::tunnel;
use super::rows::Path;
use super::{Victim, refused};
use crate::Error;

/// An address of documentation (RFC 5737, RFC 3849), to which no answer finds a way.
const NOWHERE_V4: [u8; 4] = [192, 0, 2, 1];
const NOWHERE_V6: [u16; 8] = [0x2001, 0xdb8, 0, 0, 0, 0, 0, 1];

/// A table that makes a cause.
pub(crate) struct Table {
    pub(crate) family: TableFamily,
    pub(crate) name: String,
    pub(crate) filters: Filters,
}

/// Whether a cause is a rule of a packet filter.
pub(crate) const fn is_one(code: Code) -> bool {
    matches!(
        code,
        Code::ForwardPolicyDrop
            | Code::L4SelectiveDrop
            | Code::PodPolicy
            | Code::Reject
            | Code::SnatUnwanted
            | Code::TunnelReplyBlocked
            | Code::TunnelUdpBlockedHost
            | Code::TunnelUdpBlockedOneway
    )
}

/// The table that makes a cause at a node, in the family that is broken.
pub(super) fn table(
    code: Code,
    victim: &Victim<'_>,
    path: impl FnOnce() -> Result<Path, Error>,
) -> Result<Table, Error> {
    let drop = Clause::Verdict(Verdict::Drop);
    let (hook, kind, policy, clauses) = match code {
        Code::ForwardPolicyDrop => (Hook::Forward, ChainKind::Filter, Policy::Drop, None),
        Code::L4SelectiveDrop => {
            let mut clauses = to_port(Packet::TCP, floater::wire::PORT);
            clauses.push(drop);
            filter(Hook::Forward, clauses)
        }
        Code::PodPolicy => {
            let clauses = vec![by_link(Field::Oifname, &pod_link(victim)?), drop];
            filter(Hook::Forward, clauses)
        }
        Code::Reject => filter(Hook::Forward, vec![Clause::Verdict(Verdict::Reject)]),
        Code::SnatUnwanted => {
            let to = match victim.family() {
                Family::Ipv4 => IpAddr::from(NOWHERE_V4),
                Family::Ipv6 => IpAddr::from(NOWHERE_V6),
            };
            let clauses = vec![
                by_link(Field::Oifname, &tunnel(victim)?.0.name),
                Clause::Translate(Translation::Source(Some(to))),
            ];
            let kind = ChainKind::Nat;
            (Hook::Postrouting, kind, Policy::Accept, Some(clauses))
        }
        Code::TunnelReplyBlocked => {
            let clauses = vec![
                by_link(Field::Iifname, &tunnel(victim)?.0.name),
                is(Field::CtDirection, vec![1]),
                drop,
            ];
            filter(Hook::Forward, clauses)
        }
        Code::TunnelUdpBlockedHost => {
            let mut clauses = to_port(Packet::UDP, tunnel(victim)?.1.port);
            clauses.push(drop);
            filter(Hook::Input, clauses)
        }
        _ => {
            let port = tunnel(victim)?.1.port;
            let mut clauses: Vec<Clause> = path()?.remote().map(to_address).into_iter().collect();
            clauses.extend(to_port(Packet::UDP, port));
            clauses.push(drop);
            filter(Hook::Output, clauses)
        }
    };
    let family = match victim.family() {
        Family::Ipv4 => TableFamily::Ip,
        Family::Ipv6 => TableFamily::Ip6,
    };
    let name = format!("fault-{}", code.word().to_lowercase());
    let rules = clauses.into_iter().map(|clauses| Rule {
        handle: 0,
        clauses,
        packets: Some(0),
    });
    let chain = Chain {
        family,
        table: name.clone(),
        name: hook.word().to_owned(),
        base: Some(Base {
            kind,
            hook,
            priority: if kind == ChainKind::Nat { 100 } else { 0 },
            policy,
            devices: Vec::new(),
        }),
        rules: rules.collect(),
        is_cut: false,
    };
    Ok(Table {
        family,
        name,
        filters: Filters {
            chains: vec![chain],
        },
    })
}

fn filter(hook: Hook, clauses: Vec<Clause>) -> (Hook, ChainKind, Policy, Option<Vec<Clause>>) {
    (hook, ChainKind::Filter, Policy::Accept, Some(clauses))
}

fn is(field: Field, octets: Vec<u8>) -> Clause {
    Clause::Test(Test {
        of: vec![field.into()],
        is: Relation::Compare(Order::Eq, Octets(octets)),
    })
}

fn to_port(protocol: u8, port: u16) -> Vec<Clause> {
    let port = port.to_be_bytes().to_vec();
    vec![
        is(Field::L4proto, vec![protocol]),
        is(Field::Transport(2, 2), port),
    ]
}

fn to_address(ip: IpAddr) -> Clause {
    match ip {
        IpAddr::V4(ip) => is(Field::Network(16, 4), ip.octets().to_vec()),
        IpAddr::V6(ip) => is(Field::Network(24, 16), ip.octets().to_vec()),
    }
}

fn by_link(field: Field, name: &str) -> Clause {
    let mut octets = name.as_bytes().to_vec();
    octets.resize(16, 0);
    is(field, octets)
}

/// The link of the node's first pod.
fn pod_link(victim: &Victim<'_>) -> Result<String, Error> {
    let own = |net: &ipnet::IpNet| {
        let mut prefixes = victim.node.pod_cidrs.iter();
        prefixes.any(|prefix| prefix.contains(net)) && net.prefix_len() == net.max_prefix_len()
    };
    let mut routes = victim.state.routes.iter();
    let route = routes.find(|route| {
        route.table == TABLE_MAIN
            && Family::of(route.dst.addr()) == victim.family()
            && own(&route.dst)
    });
    match route.and_then(|route| route.hops.first()) {
        Some(hop) => Ok(hop.link.clone()),
        None => refused(format!("{} runs no pod", victim.place())),
    }
}
