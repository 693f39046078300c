//! All tables of a namespace, by a dump of each.

use std::net::IpAddr;

use super::link::{self, Names};
use super::message::Batch;
use super::socket::{Dump, Netlink};
use super::{Missing, address, is_unsupported, neigh, route, rule, sysctl};
use crate::error::Error;
use crate::state::{NodeState, Row};
use crate::table::Keyed;

/// Which neighbours are read.
#[derive(Clone, Copy)]
pub(super) enum Neighbours<'a> {
    /// All that there are. The kernel looks through those of all namespaces for them.
    All,
    /// Those of these links and addresses.
    These(&'a [(u32, IpAddr)]),
}

/// Reads everything that rtnetlink knows; NAT is read elsewhere. A table that kept changing is empty and in `missing`. Of neighbours,
/// forwarding rows and routes the state gets what `keep` gives back.
pub(super) fn observe(
    socket: &mut Netlink,
    missing: &mut Vec<Missing>,
    neighbours: Neighbours<'_>,
    mut keep: impl FnMut(Row) -> Option<Row>,
) -> Result<NodeState, Error> {
    let mut consistent = |dump: Result<Dump, Error>| consistent(dump, missing);
    let (mut state, names) = links(socket, &mut consistent)?;

    let read = match neighbours {
        Neighbours::All => {
            let header = neigh::header(0, 0, 0, 0);
            socket.dump("neighbours", neigh::RTM_GETNEIGH, &header, &[])
        }
        Neighbours::These(these) => {
            let mut requests = Batch::default();
            for (index, ip) in these {
                neigh::ask(&mut requests, *index, *ip);
            }
            socket.ask("neighbours", &mut requests)
        }
    };
    for (_, payload) in consistent(read)?.messages() {
        if let Some(row) = neigh::read(payload, &names).map(Row::Neighbour)
            && let Some(row) = keep(row)
        {
            state.put(row);
        }
    }

    let header = neigh::header(neigh::AF_BRIDGE, 0, 0, 0);
    let dump = socket.dump("forwarding rows", neigh::RTM_GETNEIGH, &header, &[]);
    for (_, payload) in consistent(or_none(dump))?.messages() {
        if let Some(row) = neigh::read_fdb(payload, &names, &state).map(Row::Fdb)
            && let Some(row) = keep(row)
        {
            state.put(row);
        }
    }

    rules(socket, &mut state, &mut consistent)?;
    for family in [address::AF_INET, address::AF_INET6] {
        let header = route::dump_header(family);
        let dump = socket.dump("routes", route::RTM_GETROUTE, &header, &[]);
        for (_, payload) in consistent(or_none(dump))?.messages() {
            let row = route::read(payload, &names).map(Row::Route);
            let Some(Row::Route(row)) = row.and_then(&mut keep) else {
                continue;
            };
            match state.routes.get_mut(&row.key()) {
                Some(there) => route::join(there, row),
                None => drop(state.routes.insert(row)),
            }
        }
    }
    Ok(state)
}

/// Reads what is small on any node: links, addresses, rules and settings.
pub(super) fn observe_local(socket: &mut Netlink) -> Result<NodeState, Error> {
    let mut whole = |dump: Result<Dump, Error>| dump;
    let (mut state, _) = links(socket, &mut whole)?;
    rules(socket, &mut state, &mut whole)?;
    Ok(state)
}

fn consistent(dump: Result<Dump, Error>, missing: &mut Vec<Missing>) -> Result<Dump, Error> {
    match dump {
        Err(error @ Error::Inconsistent { what }) => {
            missing.push(Missing {
                table: what,
                why: error.to_string(),
            });
            Ok(Dump::default())
        }
        other => other,
    }
}

/// Links, their addresses, and settings.
fn links(
    socket: &mut Netlink,
    consistent: &mut impl FnMut(Result<Dump, Error>) -> Result<Dump, Error>,
) -> Result<(NodeState, Names), Error> {
    let mut state = NodeState::default();
    let mut names = Names::default();
    let dump = socket.dump("links", link::RTM_GETLINK, &link::header(0, 0, 0), &[]);
    let mut links: Vec<link::Read> = consistent(dump)?
        .messages()
        .filter_map(|(_, payload)| link::read(payload))
        .collect();
    for read in &mut links {
        names.insert(read.link.index, read.link.name.clone());
        state.sysctls.extend(read.sysctls.drain(..));
    }
    state
        .links
        .extend(links.into_iter().map(|read| read.resolved(&names)));
    state.sysctls.extend(sysctl::observe_all(socket)?);

    let dump = consistent(socket.dump("addresses", address::RTM_GETADDR, &[0; 8], &[]))?;
    let rows = dump.messages();
    state
        .addresses
        .extend(rows.filter_map(|(_, payload)| address::read(payload, &names)));
    Ok((state, names))
}

fn rules(
    socket: &mut Netlink,
    state: &mut NodeState,
    consistent: &mut impl FnMut(Result<Dump, Error>) -> Result<Dump, Error>,
) -> Result<(), Error> {
    for family in [address::AF_INET, address::AF_INET6] {
        let mut header = [0; 12];
        header[0] = family;
        let dump = socket.dump("rules", rule::RTM_GETRULE, &header, &[]);
        let dump = consistent(or_none(dump))?;
        let rows = dump.messages();
        state
            .rules
            .extend(rows.filter_map(|(_, payload)| rule::read(payload)));
    }
    Ok(())
}

/// A kernel without a feature has no rows of it.
fn or_none(dump: Result<Dump, Error>) -> Result<Dump, Error> {
    match dump {
        Err(error) if is_unsupported(&error) => Ok(Dump::default()),
        other => other,
    }
}
