//! Injecting and clearing faults: whoever breaks a node has its agent stand still first, and catch up in the end.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use datapath::code::Code;
use datapath::kernel::LinuxKernel;
use datapath::reconcile::Kernel as _;
use datapath::state::NodeState;
use ipnet::IpNet;
use tracing::info;

use super::fleet::{Fleet, Ground};
use crate::Error;
use crate::fault::{self, Injected, Undo, Victim, filters};
use crate::network::NodeNet;
use crate::objects;
use crate::topology::Cluster;
use crate::virtual_clusters::{Place, VirtualFleet};

/// Where a node's tables are.
enum Site<'a> {
    Kernel(Arc<NodeNet>),
    Virtual(&'a VirtualFleet, Place),
}

impl Fleet {
    /// Breaks something at `CLUSTER[/NODE][,PEER]`.
    pub(crate) async fn inject(&self, code: Code, at: &str) -> Result<(), Error> {
        let (place, peer) = match at.split_once(',') {
            Some((place, peer)) => (place, Some(peer)),
            None => (at, None),
        };
        let gateways = self.gateways().await;
        let (cluster, node) = self.place(place, &gateways)?;
        let is_gateway = gateways.contains(&objects::cluster_node_name(&cluster, &node));
        let site = self.site(&cluster, &node)?;
        let peer = self.peer(&cluster, peer)?;
        // Held throughout: two injections at once could not be distinguished when they are cleared.
        let _turn = self.breaking.lock().await;
        let place = format!("{cluster}/{node}");
        let was_frozen = self.freezer.now().faults.contains(&place);
        self.freezer.change(|frozen| {
            frozen.faults.insert(place.clone());
        });
        self.wait_idle();
        match self.break_at(code, (&cluster, is_gateway), &site, peer) {
            Ok(undo) => {
                info!(%code, place, "injected");
                self.faults().push(Injected { code, place, undo });
                Ok(())
            }
            Err(error) => {
                if !was_frozen {
                    self.freezer.change(|frozen| {
                        frozen.faults.remove(&place);
                    });
                }
                Err(error)
            }
        }
    }

    /// Takes everything back, the last first, and has the nodes catch up.
    pub(crate) async fn clear(&self) -> Result<(), Error> {
        let _turn = self.breaking.lock().await;
        let cleared: Vec<Injected> = self.faults().take();
        let refused: Vec<&Injected> = cleared
            .iter()
            .filter(|fault| self.put_back(fault).is_err())
            .collect();
        self.freezer.change(|frozen| frozen.faults.clear());
        self.settle().await?;
        // Where the agent runs it has repaired what is the datapath's meanwhile: a link that somebody removed, for one.
        refused
            .into_iter()
            .try_for_each(|fault| self.put_back(fault))
    }

    fn put_back(&self, fault: &Injected) -> Result<(), Error> {
        match (&fault.undo, &self.ground) {
            (Undo::Kernel { net, changed }, _) => changed.put_back(&mut self.kernel(net)?),
            (Undo::Filter { net, family, table }, _) => {
                let removed = self.kernel(net)?.remove_filter_table(*family, table);
                removed.map_err(Error::failed("remove the rules of a fault"))
            }
            (Undo::Overlay, Ground::Virtual(fleet)) => {
                fleet.clear();
                Ok(())
            }
            (Undo::Overlay, Ground::Kernel { .. }) => Ok(()),
        }
    }

    /// Where a node's tables are.
    fn site(&self, cluster: &str, node: &str) -> Result<Site<'_>, Error> {
        self.check_node(cluster, node)?;
        match &self.ground {
            Ground::Kernel { .. } => Ok(Site::Kernel(self.node_at(cluster, node)?.clone())),
            Ground::Virtual(fleet) => match fleet.place(cluster, node) {
                Some(place) => Ok(Site::Virtual(fleet, place)),
                None => fault::refused(format!("there is no node `{cluster}/{node}`")),
            },
        }
    }

    /// Makes a cause at a node, and says how it is taken back.
    fn break_at(
        &self,
        code: Code,
        (cluster, is_gateway): (&str, bool),
        site: &Site<'_>,
        peer: Option<(&Cluster, Option<String>)>,
    ) -> Result<Undo, Error> {
        let Some((_, known)) = self.member(cluster) else {
            return fault::refused(format!("there is no cluster `{cluster}`"));
        };
        let routers: Vec<IpAddr> = known.segment.routers.iter().map(IpNet::addr).collect();
        let victim = Victim {
            cluster,
            node: match site {
                Site::Kernel(net) => &net.node,
                Site::Virtual(_, place) => &known.nodes[place.node],
            },
            is_gateway,
            state: &NodeState::default(),
            routers: &routers,
        };
        match site {
            Site::Kernel(net) => {
                let mut kernel = self.kernel(net)?;
                let before = kernel.observe().map_err(Error::failed(format!(
                    "read the tables of {}/{}",
                    net.cluster, net.node.name
                )))?;
                let victim = Victim {
                    state: &before,
                    ..victim
                };
                if filters::is_one(code) {
                    let made = fault::filter(code, &victim, peer)?;
                    info!(table = made.name, "made");
                    let added = kernel.add_filters(&made.filters);
                    added.map_err(Error::failed("break a node"))?;
                    return Ok(Undo::Filter {
                        net: net.clone(),
                        family: made.family,
                        table: made.name,
                    });
                }
                let set = fault::changes(code, &victim, peer)?;
                let changed = fault::carry_out(&set, before, &mut kernel)?;
                info!(rows = ?changed.rows, "changed");
                Ok(Undo::Kernel {
                    net: net.clone(),
                    changed: Box::new(changed),
                })
            }
            Site::Virtual(..) if filters::is_one(code) => fault::refused(format!(
                "{code} is a rule of a packet filter, and the nodes of a virtual cluster have no kernel that has one"
            )),
            Site::Virtual(fleet, place) => {
                let victim = Victim {
                    state: &fleet.tables(*place),
                    ..victim
                };
                let set = fault::changes(code, &victim, peer)?;
                fleet.change(*place, set.changes);
                Ok(Undo::Overlay)
            }
        }
    }

    /// `CLUSTER/NODE`; a cluster alone means its gateway, which is where the faults of a cluster are.
    fn place(&self, place: &str, gateways: &BTreeSet<String>) -> Result<(String, String), Error> {
        if let Some((cluster, node)) = place.split_once('/') {
            self.check_node(cluster, node)?;
            return Ok((cluster.to_owned(), node.to_owned()));
        }
        let Some((_, cluster)) = self.member(place) else {
            return fault::refused(format!("there is no cluster `{place}`"));
        };
        let mut nodes = cluster.nodes.iter();
        let gateway =
            nodes.find(|node| gateways.contains(&objects::cluster_node_name(place, &node.name)));
        match gateway {
            Some(node) => Ok((place.to_owned(), node.name.clone())),
            None => fault::refused(format!("cluster `{place}` has no gateway")),
        }
    }

    /// The peer that is named, or the first other cluster; with the node where one is named.
    fn peer(
        &self,
        own: &str,
        named: Option<&str>,
    ) -> Result<Option<(&Cluster, Option<String>)>, Error> {
        let Some(named) = named else {
            let mut others = self.topology.clusters.iter();
            return Ok(others
                .find(|other| other.name != own)
                .map(|other| (other, None)));
        };
        let (name, node) = match named.split_once('/') {
            Some((name, node)) => (name, Some(node.to_owned())),
            None => (named, None),
        };
        if let Some(node) = &node {
            self.check_node(name, node)?;
        }
        match self.member(name) {
            None => fault::refused(format!("there is no cluster `{name}`")),
            Some(_) if name == own => fault::refused("a cluster is no peer of its own"),
            Some((_, cluster)) => Ok(Some((cluster, node))),
        }
    }

    fn kernel(&self, net: &NodeNet) -> Result<LinuxKernel, Error> {
        let doing = || format!("open the kernel of {}/{}", net.cluster, net.node.name);
        let network = self.network(doing)?;
        let opened = network.opener.open(&net.netns, LinuxKernel::open)?;
        opened.map_err(Error::failed(doing()))
    }
}
