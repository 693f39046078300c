//! The digest that a node should have, as a sum of sums.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::IpNet;

use super::canonical::Bytes;
use super::{Differences, Digest, Digester, Gateways, Scope};
use crate::plan::family::{FAMILIES, PerFamily};
use crate::plan::rows::Via;
use crate::plan::{Planner, Row, View};
use crate::state::{self, Family};

/// Expected digests of a planner's nodes.
///
/// The rows of all bundles are hashed once, O(N) for N clusters. Of a node then only those rows are that are its own, and those of the
/// bundles that it does not hold: of its own cluster, and those that this shadows. An internal node's routes lead through its own
/// gateway, which is written as such: theirs, too, are hashed once for all. Those of a cluster with several gateways are hashed node by node.
#[derive(Debug)]
pub struct Expected {
    planner: Arc<Planner>,
    digester: Digester,
    /// All routes, of each prefix the preferred one, through those who export them.
    exported: PerFamily<Digest>,
    /// The rows about all peers, of each key the preferred one.
    mesh: PerFamily<Digest>,
    /// All routes through one's own gateway.
    through: PerFamily<Digest>,
    bytes: Bytes,
}

impl Expected {
    /// Of tables, whatever the digester's scope: a plan does not know the underlay links on which the tunnels' own rows depend.
    #[must_use]
    pub fn new(planner: &Arc<Planner>, digester: Digester) -> Self {
        let digester = Digester {
            scope: Scope::Tables,
            gateways: Gateways::default(),
            ..digester
        };
        let mut bytes = Bytes::default();
        let mut mesh = PerFamily::of(|_| digester.empty());
        for family in FAMILIES {
            for row in planner.preferred_peers(family) {
                let hash = digester.hash_planned(row, &mut bytes);
                mesh.get_mut(family).add(hash);
            }
        }
        let exported = all_routes(planner, &digester, |_| Via::Exporter, &mut bytes);
        // Whatever address the gateway has, it is written alike.
        let own = Gateways {
            ipv4: Some(Ipv4Addr::UNSPECIFIED),
            ipv6: Some(Ipv6Addr::UNSPECIFIED),
        };
        let via_own = |family| {
            let nobody: IpAddr = match family {
                Family::Ipv4 => Ipv4Addr::UNSPECIFIED.into(),
                Family::Ipv6 => Ipv6Addr::UNSPECIFIED.into(),
            };
            Via::Gateway(nobody.into())
        };
        let through = all_routes(planner, &digester.with_gateways(own), via_own, &mut bytes);
        Self {
            planner: planner.clone(),
            digester,
            exported,
            mesh,
            through,
            bytes,
        }
    }

    /// The digester that is used, but for the gateways of a node.
    #[must_use]
    pub fn digester(&self) -> Digester {
        self.digester
    }

    /// The digest that a node should have; none where it takes no part.
    #[must_use]
    pub fn of(&mut self, node: &str) -> Option<Digest> {
        let planner = self.planner.clone();
        let view = planner.view(node)?;
        let digester = self.digester.with_gateways(gateways_of(&view));
        let mut digest = digester.empty();
        for row in planner.own_rows(node)? {
            digest.add(digester.hash_planned(row, &mut self.bytes));
        }
        for family in FAMILIES {
            if view.is_in_mesh(family) {
                digest.add_all(self.mesh.get(family));
                for (preferred, held) in planner.other_peers(&view, family) {
                    self.exchange(&digester, &mut digest, preferred, held);
                }
            }
            match view.via(family) {
                None => continue,
                Some(Via::Exporter) => digest.add_all(self.exported.get(family)),
                // Of several gateways each is written by its address: these routes are the cluster's own.
                Some(via @ Via::Gateway(hops)) if hops.are_several() => {
                    for row in planner.preferred_routes(family, via) {
                        digest.add(digester.hash_planned(row, &mut self.bytes));
                    }
                }
                Some(Via::Gateway(_)) => digest.add_all(self.through.get(family)),
            }
            for (preferred, held) in planner.other_routes(&view, family) {
                self.exchange(&digester, &mut digest, preferred, held);
            }
        }
        Some(digest)
    }

    /// The rows of a node with these differences: [`Digester::laid_over`]. None where it takes no part.
    pub fn laid_over<'s, 'd>(
        &'s self,
        node: &str,
        differences: &'d Differences,
    ) -> Option<impl Iterator<Item = state::Row>>
    where
        's: 'd,
    {
        let planned = self.planner.rows(node)?;
        Some(self.digester.laid_over(planned, differences))
    }

    fn exchange(
        &mut self,
        digester: &Digester,
        digest: &mut Digest,
        preferred: Row,
        held: Option<Row>,
    ) {
        digest.subtract(digester.hash_planned(preferred, &mut self.bytes));
        if let Some(row) = held {
            digest.add(digester.hash_planned(row, &mut self.bytes));
        }
    }
}

/// The gateways that a node's routes lead through.
fn gateways_of(view: &View) -> Gateways {
    let mut gateways = Gateways::default();
    for family in FAMILIES {
        if let Some(Via::Gateway(via)) = view.via(family)
            && !via.are_several()
        {
            gateways.insert(via.first());
        }
    }
    gateways
}

/// The digests of the routes to all prefixes of each family, through whom `via` says.
fn all_routes(
    planner: &Planner,
    digester: &Digester,
    via: impl Fn(Family) -> Via,
    bytes: &mut Bytes,
) -> PerFamily<Digest> {
    let mut digests = PerFamily::of(|_| digester.empty());
    for family in FAMILIES {
        for row in planner.preferred_routes(family, via(family)) {
            let hash = digester.hash_planned(row, bytes);
            digests.get_mut(family).add(hash);
        }
    }
    digests
}

/// What a node holds otherwise than the preferred rows: each preferred row with the one that it holds in its place, if any.
impl Planner {
    pub(crate) fn other_routes<'s>(
        &'s self,
        view: &'s View,
        family: Family,
    ) -> impl Iterator<Item = (Row, Option<Row>)> + 's {
        let mut prefixes: BTreeSet<IpNet> = BTreeSet::new();
        prefixes.extend(self.shadowed_prefixes(view));
        prefixes.extend(self.exported_prefixes(view.cluster()));
        prefixes
            .into_iter()
            .filter(move |net| Family::of(net.addr()) == family)
            .filter_map(|net| self.route_slot(view, net))
            .filter(|(preferred, held)| Some(preferred) != held.as_ref())
    }
}
