//! Rows of a node that are not the datapath's, and how many of them are told.

use super::Missing;
use crate::diff::{is_owned_fdb, is_owned_neighbour, is_owned_route};
use crate::state::Row;

/// Of so many rows of a kind that others made an inspection tells. A node has some hundreds; one that takes part in the routing of the
/// whole Internet has a million, which neither its floater's memory nor the run's has to hold.
pub const MOST_FOREIGN: usize = 50_000;

/// Counts rows that are not the datapath's.
#[derive(Default)]
pub(super) struct Foreign {
    neighbours: usize,
    fdb: usize,
    routes: usize,
}

impl Foreign {
    /// The row, where there is room for it.
    pub(super) fn keep(&mut self, row: Row) -> Option<Row> {
        let count = match &row {
            Row::Neighbour(row) if !is_owned_neighbour(row) => &mut self.neighbours,
            Row::Fdb(row) if !is_owned_fdb(row) => &mut self.fdb,
            Row::Route(row) if !is_owned_route(row) => &mut self.routes,
            _ => return Some(row),
        };
        *count += 1;
        (*count <= MOST_FOREIGN).then_some(row)
    }

    /// The tables that are not told whole.
    pub(super) fn beyond(&self) -> impl Iterator<Item = Missing> {
        let tables = [
            ("neighbours", self.neighbours),
            ("forwarding rows", self.fdb),
            ("routes", self.routes),
        ];
        let beyond = tables
            .into_iter()
            .filter(|(_, count)| *count > MOST_FOREIGN);
        beyond.map(|(table, count)| Missing {
            table,
            why: format!("{count} rows that are not the datapath's, of which no more than {MOST_FOREIGN} are told"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nodeconfig::TABLE;
    use crate::state::{NextHop, Route, RouteKind, TABLE_MAIN};

    fn route(table: u32, number: u32) -> Row {
        Row::Route(Route {
            table,
            dst: ipnet::Ipv4Net::new_assert(number.to_be_bytes().into(), 32).into(),
            metric: 0,
            kind: RouteKind::Unicast,
            hops: vec![NextHop {
                via: None,
                link: "eth0".to_owned(),
                onlink: false,
                weight: 1,
                dead: false,
            }],
            src: None,
            protocol: 3,
            mtu: None,
        })
    }

    #[test]
    fn more_rows_of_others_than_fit_are_counted_and_said_and_crowd_out_none_of_ours() {
        let mut foreign = Foreign::default();
        let most = u32::try_from(MOST_FOREIGN).expect("a small number");
        for number in 0..most {
            assert!(foreign.keep(route(TABLE_MAIN, number)).is_some());
        }
        assert_eq!(foreign.beyond().count(), 0);
        assert_eq!(foreign.keep(route(TABLE_MAIN, most)), None);
        for number in 0..=most {
            assert!(foreign.keep(route(TABLE, number)).is_some());
        }
        let missing: Vec<Missing> = foreign.beyond().collect();
        assert_eq!(missing.len(), 1);
        assert_eq!(missing[0].table, "routes");
        assert!(missing[0].why.starts_with("50001 rows"), "{}", missing[0]);
    }
}
