//! Whether a cluster's API hears of its nodes: each renews its Lease, and what it says takes the fleet's own network.
//!
//! ```text
//!   API server:  node ── HTTPS ──► first node      Lease, and the Node where it is not ready
//!   simulated:   node ── UDP ────► first node      what arrives there renews the Lease in the lab's process
//! ```
//!
//! A node whose packets do not reach the first one is silent, whatever the reason; its control plane says after the grace that it is lost.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tokio::net::UdpSocket;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};
use tracing::warn;

use super::Kubelet;
use super::api::{Api, Apis};
use crate::Error;
use crate::network::NodeNet;
use crate::objects;
use crate::topology::Kubelets;

/// Where the first node hears the others; a kubelet's own port.
const PORT: u16 = 10250;
/// A Lease is good for so many renewals, as upstream has it.
const RENEWALS: u32 = 4;
/// The most of a datagram that is looked at.
const LONGEST: usize = 16;

impl Kubelet {
    /// Renews the Leases of all nodes as long as they are heard of, until it is dropped.
    pub(crate) async fn keep_nodes(self: Arc<Self>, timing: Kubelets) {
        let Some(apis) = self.apis.get() else { return };
        let ended = match apis {
            Apis::Over(_) => {
                let nodes = self.nodes().filter_map(|(_, net)| {
                    let api = self.api(&net.node.name)?;
                    Some(self.beat(net.clone(), api, timing))
                });
                join_all(nodes).await;
                Ok(())
            }
            Apis::Within(_) => self.listen(timing).await,
        };
        if let Err(error) = ended {
            // Its nodes are lost in their time, which is as it should be: nothing is heard of them.
            warn!(cluster = self.cluster, %error, "no node of the cluster is heard of");
            std::future::pending::<()>().await;
        }
    }

    /// Renews the Lease of one node for good.
    async fn beat(&self, net: Arc<NodeNet>, api: Api, timing: Kubelets) {
        let mut ticks = interval_at(Instant::now(), timing.renew);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut was_heard = true;
        loop {
            ticks.tick().await;
            let renewed = self.renew(&net, &api, timing.renew);
            let renewed = timeout(timing.renew, renewed).await;
            let why = match renewed {
                Ok(Ok(())) => None,
                Ok(Err(why)) => Some(why),
                Err(_) => Some(format!("no answer within {:?}", timing.renew)),
            };
            // Said once: a node may be cut off for long.
            if let Some(why) = why.as_ref().filter(|_| was_heard) {
                warn!(
                    cluster = self.cluster,
                    node = net.node.name,
                    why,
                    "a node's Lease is not renewed"
                );
            }
            was_heard = why.is_none();
        }
    }

    pub(super) async fn renew(
        &self,
        net: &NodeNet,
        api: &Api,
        renew: Duration,
    ) -> Result<(), String> {
        let ready = || objects::node(&net.node, &objects::now());
        let renewed = api.renew(&net.node.name, ready, renew * RENEWALS);
        if renewed.await? {
            // Whoever took the node for lost has said so of its pods, too.
            self.again.send_replace(());
        }
        Ok(())
    }

    /// Renews the Leases of the nodes whose datagrams arrive at the first one, which itself is always there.
    async fn listen(&self, timing: Kubelets) -> Result<(), Error> {
        let nodes: Vec<Arc<NodeNet>> = self.nodes().map(|(_, net)| net.clone()).collect();
        let Some(first) = nodes.iter().find(|net| net.node.name == "n1") else {
            return Ok(());
        };
        let Some(here) = address(first) else {
            return Ok(());
        };
        let doing = || format!("hear the nodes of {}", self.cluster);
        let listener = self.open(first, SocketAddr::new(here, PORT), None);
        let listener = listener.map_err(Error::failed(doing()))?;
        let mut others = Vec::new();
        let mut by_address: BTreeMap<IpAddr, &Arc<NodeNet>> = BTreeMap::new();
        for net in nodes.iter().filter(|net| net.node.name != "n1") {
            let Some(ip) = address(net) else { continue };
            let peer = SocketAddr::new(here, PORT);
            let socket = self.open(net, SocketAddr::new(ip, 0), Some(peer));
            others.push(socket.map_err(Error::failed(doing()))?);
            by_address.insert(ip, net);
        }
        let mut ticks = interval_at(
            Instant::now() + phase(&self.cluster, timing.renew),
            timing.renew,
        );
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut buffer = [0; LONGEST];
        loop {
            let heard = tokio::select! {
                _ = ticks.tick() => {
                    for socket in &others {
                        // What cannot be sent is not heard.
                        let _ = socket.try_send(&[]);
                    }
                    first
                }
                received = listener.recv_from(&mut buffer) => match received {
                    Ok((_, from)) => match by_address.get(&from.ip()) {
                        Some(net) => *net,
                        None => continue,
                    },
                    Err(error) => return Err(Error::failed(doing())(error)),
                },
            };
            let Some(api) = self.api(&heard.node.name) else {
                continue;
            };
            if let Err(why) = self.renew(heard, &api, timing.renew).await {
                warn!(
                    cluster = self.cluster,
                    node = heard.node.name,
                    why,
                    "a node's Lease is not renewed"
                );
            }
        }
    }

    /// A socket of a node's.
    fn open(
        &self,
        net: &NodeNet,
        at: SocketAddr,
        peer: Option<SocketAddr>,
    ) -> io::Result<UdpSocket> {
        let opened = self.network.opener.open(&net.netns, move || {
            let socket = std::net::UdpSocket::bind(at)?;
            if let Some(peer) = peer {
                socket.connect(peer)?;
            }
            socket.set_nonblocking(true)?;
            Ok::<_, io::Error>(socket)
        });
        UdpSocket::from_std(opened.map_err(io::Error::other)??)
    }
}

/// A node's underlay address, IPv4 where it has one.
fn address(net: &NodeNet) -> Option<IpAddr> {
    net.node.ips().next()
}

/// When a cluster's first renewal is within the time between two: those of a large fleet are not to come all at once.
fn phase(cluster: &str, renew: Duration) -> Duration {
    use std::hash::{DefaultHasher, Hash as _, Hasher as _};
    let mut hasher = DefaultHasher::new();
    cluster.hash(&mut hasher);
    let share = f64::from(u32::try_from(hasher.finish() >> 32).unwrap_or(0)) / f64::from(u32::MAX);
    renew.mul_f64(share)
}
