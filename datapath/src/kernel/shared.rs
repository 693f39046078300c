//! The rows that the bundles of a plan give its nodes, as requests that are written once: the same bytes go into every namespace.
//!
//! ```text
//!   plan ──► peers of each family ────────────────────────────► one text for all nodes in the mesh
//!       └──► routes through those who export them ────────────► one text for all nodes in the mesh
//!       └──► routes through a gateway, whose address is last ─► one text, of which each cluster's nodes get a copy with theirs
//!
//!   node ──► the texts, but for the rows that it does not hold; then the few that it holds in their place
//! ```
//!
//! What the kernel refuses is counted and not told: whoever fills a node looks at it afterwards, and reconciles one that is not as planned.

use std::collections::BTreeMap;
use std::io::IoSlice;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Range;
use std::sync::Arc;

use nix::errno::Errno;

use super::message::Batch;
use super::{LinuxKernel, write_change};
use crate::diff::Change;
use crate::error::Error;
use crate::plan::family::{FAMILIES, PerFamily};
use crate::plan::rows::Via;
use crate::plan::{Planner, Row};
use crate::state::{self, Family};
use crate::tunnel::Tunnel;

/// The bundles' rows of a plan for nodes whose tunnels have the same indices.
pub struct SharedRows {
    planner: Arc<Planner>,
    indices: BTreeMap<String, u32>,
    mesh: PerFamily<Text>,
    exported: PerFamily<Text>,
    /// Through a gateway that nobody is.
    through: PerFamily<Text>,
}

/// Requests one after the other.
struct Text {
    batch: Batch,
    /// Where each row's request is.
    places: Vec<(Row, usize)>,
}

impl Text {
    /// In the order of `rows`; rows on links that are not there are left out.
    fn of(rows: impl Iterator<Item = Row>, indices: &BTreeMap<String, u32>) -> Self {
        let mut text = Self {
            batch: Batch::default(),
            places: Vec::new(),
        };
        for row in rows {
            let place = text.batch.parts.len();
            let change = Change::Add(state::Row::from(row));
            if write_change(&mut text.batch, place, &change, indices).is_ok() {
                text.places.push((row, place));
            }
        }
        // The answer to a request that is refused has its number; nobody asks which one it was.
        for part in &text.batch.parts {
            let at = part.range.start;
            text.batch.bytes[at + 8..at + 12].copy_from_slice(&1_u32.to_ne_bytes());
        }
        text.places.sort_unstable();
        text
    }

    fn place(&self, row: &Row) -> Option<usize> {
        let at = self.places.binary_search_by(|(held, _)| held.cmp(row));
        at.ok().map(|at| self.places[at].1)
    }

    /// The requests but for some, as ranges of bytes that hold whole ones and are not longer than `most` or one request.
    fn pieces(&self, mut without: Vec<usize>, most: usize) -> Vec<Range<usize>> {
        without.sort_unstable();
        let mut pieces: Vec<Range<usize>> = Vec::new();
        let mut without = without.into_iter().peekable();
        for (place, part) in self.batch.parts.iter().enumerate() {
            while without.peek().is_some_and(|next| *next < place) {
                without.next();
            }
            if without.peek() == Some(&place) {
                continue;
            }
            match pieces.last_mut() {
                Some(last)
                    if last.end == part.range.start && part.range.end - last.start <= most =>
                {
                    last.end = part.range.end;
                }
                _ => pieces.push(part.range.clone()),
            }
        }
        pieces
    }

    /// The bytes of routes through `via` instead; an address of the gateway's family is what each request ends with.
    fn through(&self, via: IpAddr) -> Vec<u8> {
        let mut bytes = self.batch.bytes.clone();
        for part in &self.batch.parts {
            let end = part.range.end;
            match via {
                IpAddr::V4(ip) => bytes[end - 4..end].copy_from_slice(&ip.octets()),
                IpAddr::V6(ip) => bytes[end - 16..end].copy_from_slice(&ip.octets()),
            }
        }
        bytes
    }
}

/// How much is sent at once, bytes: what a socket's buffer takes, and the kernel finds in one piece.
const PIECE: usize = 30 * 1024;

/// In the place of a gateway that is written later.
fn nobody(family: Family) -> IpAddr {
    match family {
        Family::Ipv4 => Ipv4Addr::UNSPECIFIED.into(),
        Family::Ipv6 => Ipv6Addr::UNSPECIFIED.into(),
    }
}

impl SharedRows {
    /// Writes the requests down; a tunnel has the same index on every node that they are for. O(clusters).
    #[must_use]
    pub fn of(planner: &Arc<Planner>, indices: &BTreeMap<String, u32>) -> Self {
        let mesh = |family| Text::of(planner.preferred_peers(family), indices);
        let exported = |family| {
            let rows = planner.preferred_routes(family, Via::Exporter);
            let mut rows: Vec<Row> = rows.collect();
            // The kernel looks for a next hop like the new one among all of the link, the youngest first.
            rows.sort_by_key(|row| match row {
                Row::Route { via, .. } => Some(*via),
                _ => None,
            });
            Text::of(rows.into_iter(), indices)
        };
        let through = |family| {
            let via = Via::Gateway(nobody(family).into());
            Text::of(planner.preferred_routes(family, via), indices)
        };
        Self {
            mesh: PerFamily::of(mesh),
            exported: PerFamily::of(exported),
            through: PerFamily::of(through),
            planner: planner.clone(),
            indices: indices.clone(),
        }
    }

    /// The plan whose rows they are.
    #[must_use]
    pub fn planner(&self) -> &Arc<Planner> {
        &self.planner
    }

    /// The indices of the tunnels.
    #[must_use]
    pub fn indices(&self) -> &BTreeMap<String, u32> {
        &self.indices
    }
}

impl LinuxKernel {
    /// The indices of the tunnels that are there, by name.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn tunnel_indices(&mut self) -> Result<BTreeMap<String, u32>, Error> {
        self.indices(Tunnel::ALL.into_iter().map(Tunnel::name))
    }

    /// Makes the rows that the bundles give a node whose tunnels are there, and says how many the kernel refused. Rows that are there
    /// already are made once more; others stay.
    ///
    /// # Errors
    /// When requests cannot be sent, or answers not be read. Some of the rows may have been made.
    pub fn make_shared(&mut self, rows: &SharedRows, node: &str) -> Result<usize, Error> {
        let Some(view) = rows.planner.view(node) else {
            return Ok(0);
        };
        let mut refused = 0;
        let mut instead = Batch::default();
        for family in FAMILIES {
            if view.is_in_mesh(family) {
                let others = rows.planner.other_peers(&view, family);
                let text = rows.mesh.get(family);
                refused += self.send_text(text, None, others, &rows.indices, &mut instead)?;
            }
            let Some(via) = view.via(family) else {
                continue;
            };
            let own;
            let (text, via) = match via {
                Via::Exporter => (rows.exported.get(family), None),
                // Requests with several next hops have no address at their end.
                Via::Gateway(hops) if hops.are_several() => {
                    own = Text::of(rows.planner.preferred_routes(family, via), &rows.indices);
                    (&own, None)
                }
                Via::Gateway(hops) => (rows.through.get(family), Some(hops.first())),
            };
            let others = rows.planner.other_routes(&view, family);
            refused += self.send_text(text, via, others, &rows.indices, &mut instead)?;
        }
        refused += self.route.make(&mut instead)?.len();
        Ok(refused)
    }

    /// Sends the requests of a text, but for those of rows that the node does not hold; the ones that it holds in their place are put into
    /// `instead`.
    fn send_text(
        &mut self,
        text: &Text,
        via: Option<IpAddr>,
        others: impl Iterator<Item = (Row, Option<Row>)>,
        indices: &BTreeMap<String, u32>,
        instead: &mut Batch,
    ) -> Result<usize, Error> {
        let mut without = Vec::new();
        for (preferred, held) in others.filter(|(preferred, held)| *held != Some(*preferred)) {
            without.extend(text.place(&unnamed(preferred, via.is_some())));
            if let Some(row) = held {
                let change = Change::Add(state::Row::from(row));
                // A row without its tunnel is missed when the node is looked at.
                let _ = write_change(instead, 0, &change, indices);
            }
        }
        let pieces = text.pieces(without, PIECE);
        match via {
            Some(via) => self.send_pieces(&text.through(via), &pieces),
            None => self.send_pieces(&text.batch.bytes, &pieces),
        }
    }

    fn send_pieces(&mut self, bytes: &[u8], pieces: &[Range<usize>]) -> Result<usize, Error> {
        let mut refused = 0;
        let mut rest = pieces;
        while !rest.is_empty() {
            let mut length = 0;
            let fitting = rest.iter().take_while(|piece| {
                length += piece.len();
                length <= PIECE
            });
            let (now, later) = rest.split_at(fitting.count().max(1));
            let now: Vec<IoSlice<'_>> = now
                .iter()
                .map(|piece| IoSlice::new(&bytes[piece.clone()]))
                .collect();
            refused += match self.route.make_written(&now) {
                Ok(refused) => refused,
                // So many were refused that their answers did not fit.
                Err(Errno::ENOBUFS) => 1,
                Err(errno) => return Err(Error::kernel("send", "shared rows", errno as i32)),
            };
            rest = later;
        }
        Ok(refused)
    }
}

/// A route as it stands in the text of routes through a gateway.
fn unnamed(row: Row, is_through: bool) -> Row {
    match row {
        Row::Route { tunnel, dst, .. } if is_through => Row::Route {
            tunnel,
            dst,
            via: nobody(tunnel.family()).into(),
        },
        other => other,
    }
}
