//! All tables of a namespace, by a dump of each.

use super::link::{self, Names};
use super::socket::{Dump, Netlink};
use super::{Missing, address, is_unsupported, neigh, route, rule, sysctl};
use crate::error::Error;
use crate::state::NodeState;
use crate::table::Keyed;

/// Reads everything that rtnetlink knows; NAT is read elsewhere. A table that kept changing is empty and in `missing`.
pub(super) fn observe(
    socket: &mut Netlink,
    missing: &mut Vec<Missing>,
) -> Result<NodeState, Error> {
    let mut state = NodeState::default();
    let mut names = Names::default();
    let mut consistent = |dump: Result<Dump, Error>| match dump {
        Err(error @ Error::Inconsistent { what }) => {
            missing.push(Missing {
                table: what,
                why: error.to_string(),
            });
            Ok(Dump::default())
        }
        other => other,
    };

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

    let header = neigh::header(0, 0, 0, 0);
    let dump = consistent(socket.dump("neighbours", neigh::RTM_GETNEIGH, &header, &[]))?;
    let rows = dump.messages();
    state
        .neighbours
        .extend(rows.filter_map(|(_, payload)| neigh::read(payload, &names)));

    let header = neigh::header(neigh::AF_BRIDGE, 0, 0, 0);
    let dump = socket.dump("forwarding rows", neigh::RTM_GETNEIGH, &header, &[]);
    let dump = consistent(or_none(dump))?;
    let rows: Vec<_> = dump
        .messages()
        .filter_map(|(_, payload)| neigh::read_fdb(payload, &names, &state))
        .collect();
    state.fdb.extend(rows);

    for family in [address::AF_INET, address::AF_INET6] {
        let mut header = [0; 12];
        header[0] = family;
        let dump = consistent(or_none(socket.dump(
            "rules",
            rule::RTM_GETRULE,
            &header,
            &[],
        )))?;
        let rows = dump.messages();
        state
            .rules
            .extend(rows.filter_map(|(_, payload)| rule::read(payload)));

        let header = route::dump_header(family);
        let dump = consistent(or_none(socket.dump(
            "routes",
            route::RTM_GETROUTE,
            &header,
            &[],
        )))?;
        for (_, payload) in dump.messages() {
            let Some(row) = route::read(payload, &names) else {
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

/// A kernel without a feature has no rows of it.
fn or_none(dump: Result<Dump, Error>) -> Result<Dump, Error> {
    match dump {
        Err(error) if is_unsupported(&error) => Ok(Dump::default()),
        other => other,
    }
}
