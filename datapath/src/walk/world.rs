//! Many nodes and what joins them.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use super::layer::Layer;
use super::node::{LinkId, Node, NodeId};
use crate::mac::Mac;
use crate::state::NodeState;

/// The tables of many nodes and the wires between them, indexed as they are put in; then walked by any number of threads.
///
/// A node that is wired but was never put in is the edge of what is known: a packet that reaches it has left.
#[derive(Debug, Default)]
pub struct World {
    pub(super) nodes: Vec<Node>,
    ids: HashMap<String, NodeId>,
    wires: BTreeMap<(NodeId, String), (NodeId, String)>,
    /// Which nodes hold an address, and on which link (none: as the outer address of a tunnel, in a plan).
    owners: HashMap<IpAddr, Vec<(NodeId, Option<LinkId>)>>,
    /// Which nodes have a MAC.
    macs: HashMap<Mac, Vec<NodeId>>,
    pub(super) trusts_underlay: bool,
}

impl World {
    /// An empty world.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts a node's tables in, in place of those that it had.
    pub fn insert(&mut self, node: impl Into<String>, state: NodeState) {
        self.insert_from(node, &state);
    }

    /// As [`World::insert`], for tables that the caller keeps.
    pub fn insert_from(&mut self, node: impl Into<String>, state: &NodeState) {
        self.insert_with(node.into(), state, None);
    }

    /// Puts a node's tables in that are those of a state and those of a layer below it: the same as
    /// `insert(node, layer.over(state))`, in memory for the state's rows alone.
    ///
    /// Where the state and the layer have a row under one key, the state's counts. A tunnel that the state lacks has no rows.
    pub fn insert_layered(&mut self, node: impl Into<String>, state: &NodeState, layer: Layer) {
        self.insert_with(node.into(), state, Some(layer));
    }

    fn insert_with(&mut self, name: String, state: &NodeState, layer: Option<Layer>) {
        let id = self.intern(&name);
        self.forget(id);
        let mut node = Node::new(&name, state, layer);
        let wires = self
            .wires
            .range((id, String::new())..(id + 1, String::new()));
        for ((_, link), (peer, peer_link)) in wires {
            node.set_wire(link, (*peer, peer_link.as_str().into()));
        }
        for (ip, link) in node.held() {
            self.owners.entry(ip).or_default().push((id, Some(link)));
        }
        for link in &node.links {
            if let Some(mac) = link.mac {
                let owners = self.macs.entry(mac).or_default();
                if owners.last() != Some(&id) {
                    owners.push(id);
                }
            }
            if let Some(local) = link.tunnel().and_then(|tunnel| tunnel.local)
                && node.partial
            {
                let owners = self.owners.entry(local).or_default();
                if owners.last() != Some(&(id, None)) {
                    owners.push((id, None));
                }
            }
        }
        self.nodes[id as usize] = node;
    }

    /// Joins two links, each of them (node, link), in either order of putting nodes and wires in.
    pub fn wire(&mut self, a: (&str, &str), b: (&str, &str)) {
        let a = (self.intern(a.0), a.1.to_owned());
        let b = (self.intern(b.0), b.1.to_owned());
        for end in [&a, &b] {
            // A link has one wire: the end that it leaves has none.
            if let Some(far) = self.wires.remove(end) {
                self.nodes[far.0 as usize].cut_wire(&far.1);
                self.wires.remove(&far);
            }
        }
        for (near, far) in [(&a, &b), (&b, &a)] {
            self.nodes[near.0 as usize].set_wire(&near.1, (far.0, far.1.as_str().into()));
            self.wires.insert(near.clone(), far.clone());
        }
    }

    /// Whether a packet that leaves by an unwired underlay link, for an address that another node has on an underlay link,
    /// arrives there: for fleets whose routers and switches give no tables.
    pub fn assume_underlay(&mut self, yes: bool) {
        self.trusts_underlay = yes;
    }

    /// The number of nodes whose tables are in.
    #[must_use]
    pub fn len(&self) -> usize {
        self.nodes.iter().filter(|node| node.known).count()
    }

    /// Whether no node's tables are in.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The names of the nodes, in the order in which they were first mentioned.
    pub fn nodes(&self) -> impl Iterator<Item = &str> {
        self.nodes
            .iter()
            .filter(|node| node.known)
            .map(|node| node.name.as_str())
    }

    pub(super) fn id(&self, name: &str) -> Option<NodeId> {
        self.ids.get(name).copied()
    }

    /// The node under an index that this world gave out.
    pub(super) fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id as usize]
    }

    pub(super) fn holders(&self, ip: IpAddr) -> &[(NodeId, Option<LinkId>)] {
        self.owners.get(&ip).map_or(&[], Vec::as_slice)
    }

    pub(super) fn nodes_with(&self, mac: Mac) -> &[NodeId] {
        self.macs.get(&mac).map_or(&[], Vec::as_slice)
    }

    /// Where an unseen underlay delivers what `from` sends to an address: an underlay link of another node, one that works
    /// if there is one.
    pub(super) fn across_underlay(
        &self,
        from: NodeId,
        ip: IpAddr,
    ) -> Option<(NodeId, Option<LinkId>)> {
        let mut down = None;
        for &(node, link) in self.holders(ip) {
            if node == from {
                continue;
            }
            match link.map(|link| self.node(node).link(link)) {
                None => return Some((node, None)),
                Some(at) if !at.underlay => {}
                Some(at) if at.up && at.carrier => {
                    return Some((node, link));
                }
                Some(_) => down = down.or(Some((node, link))),
            }
        }
        down
    }

    fn intern(&mut self, name: &str) -> NodeId {
        if let Some(&id) = self.ids.get(name) {
            return id;
        }
        let id = self.nodes.len() as NodeId;
        self.nodes.push(Node::unknown(name));
        self.ids.insert(name.to_owned(), id);
        id
    }

    /// Takes a node's rows out of the indexes over all nodes.
    fn forget(&mut self, id: NodeId) {
        if !self.nodes[id as usize].known {
            return;
        }
        let node = &self.nodes[id as usize];
        let locals = node.links.iter().filter_map(|link| link.tunnel()?.local);
        for ip in node.held().map(|held| held.0).chain(locals) {
            if let Some(owners) = self.owners.get_mut(&ip) {
                owners.retain(|owner| owner.0 != id);
            }
        }
        for mac in node.links.iter().filter_map(|link| link.mac) {
            if let Some(owners) = self.macs.get_mut(&mac) {
                owners.retain(|owner| *owner != id);
            }
        }
    }
}
