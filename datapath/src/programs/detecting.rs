//! Which link and addresses are a node's underlay, found on the node and written to its ClusterNode.
//!
//! Looked at whenever the Cluster or the ClusterNode changes, whenever the agent looks at the node, which a change of the underlay link makes
//! it do, and from time to time: a route to somewhere gives no notice here.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use futures::channel::mpsc::UnboundedReceiver;
use futures::stream::{BoxStream, StreamExt as _, select_all};
use kube::Client;
use kube::api::{Api, DynamicObject};
use kube::runtime::watcher::{self, DefaultBackoff};
use serde_json::Value;
use tracing::{info, warn};

use super::PATIENCE;
use super::objects::{Wrote, merge_own};
use crate::agent::underlay::{Wish, find};
use crate::control::inventory::Kind;
use crate::control::leaving::is_deleted;
use crate::kernel::LinuxKernel;
use crate::printable::Printable;
use crate::watching::{is_closed, kosmos, watched};

/// Between looks when nothing happens.
const ROUND: Duration = Duration::from_secs(30);
/// Between looks as long as there is something to find or to write.
const RETRY: Duration = Duration::from_secs(5);
/// Between questions whether this agent may read what it did not use to.
const CLOSED: Duration = Duration::from_secs(60);
/// The port that a target is asked for; nothing is sent there.
const PORT: u16 = 80;

/// What is known of the two objects.
#[derive(Default)]
struct Known {
    cluster: Option<Value>,
    node: Option<Value>,
    /// What was said last, so that it is said once.
    said: Option<String>,
}

/// Keeps a ClusterNode's link and addresses as they are found on this node. Ends never. `looked` gives something whenever the agent looked at
/// the node.
pub(crate) async fn detect(
    client: Client,
    cluster: &str,
    node: &str,
    mut kernel: LinuxKernel,
    mut looked: UnboundedReceiver<()>,
) {
    let name = format!("{cluster}-{node}");
    let nodes: Api<DynamicObject> =
        Api::all_with(client.clone(), &kosmos("ClusterNode", "clusternodes"));
    let mut changes = select_all([
        object(&client, Kind::Cluster, cluster),
        object(&client, Kind::ClusterNode, &name),
    ]);
    let mut known = Known::default();
    let mut wait = ROUND;
    loop {
        tokio::select! {
            Some((kind, object)) = changes.next() => match kind {
                Kind::Cluster => known.cluster = object,
                Kind::ClusterNode => known.node = object,
            },
            Some(()) = looked.next() => while let Ok(()) = looked.try_recv() {},
            () = tokio::time::sleep(wait) => {}
        }
        wait = if known.look(&nodes, &mut kernel, node).await {
            ROUND
        } else {
            RETRY
        };
    }
}

impl Known {
    /// One look. Whether there is nothing left to find or to write.
    async fn look(
        &mut self,
        nodes: &Api<DynamicObject>,
        kernel: &mut LinuxKernel,
        node: &str,
    ) -> bool {
        let (Some(cluster), Some(held)) = (&self.cluster, &self.node) else {
            // Whoever makes them is not there yet; their coming is told.
            return true;
        };
        if is_deleted(cluster) || is_deleted(held) {
            return true;
        }
        let found = match Wish::of(cluster, node) {
            Err(why) => Err(why),
            Ok(wish) => {
                let source = match &wish {
                    Wish::Named(_) => None,
                    Wish::Reaching(target) => source(target).await,
                };
                let observed = kernel.observe_local();
                let observed = observed.map_err(|error| error.problem().to_string());
                observed.and_then(|observed| find(&wish, &observed, source, held))
            }
        };
        let underlay = match found {
            Ok(underlay) => underlay,
            Err(why) => {
                self.say(why);
                return false;
            }
        };
        let Some(patch) = underlay.patch(held) else {
            self.said = None;
            return true;
        };
        let name = held["metadata"]["name"].as_str().unwrap_or_default();
        let why = match merge_own(nodes, name, &patch).await {
            Wrote::Done(object) => {
                info!(?underlay, "wrote the node's underlay");
                self.node = object.map(|object| *object);
                self.said = None;
                return true;
            }
            // What it is now is on its way.
            Wrote::Conflict | Wrote::Dropped => return false,
            Wrote::Failed(why) => why,
        };
        self.say(format!("the ClusterNode cannot be written: {why}"));
        false
    }

    fn say(&mut self, why: String) {
        if self.said.as_ref() != Some(&why) {
            let told = Printable::bounded(&why, 500);
            warn!(
                why = told.as_str(),
                "the node's underlay stays as it is written"
            );
            self.said = Some(why);
        }
    }
}

/// The address by which this node would reach a target; none where it has no way there. Nothing is sent.
async fn source(target: &str) -> Option<IpAddr> {
    let target = match target.parse::<IpAddr>() {
        Ok(ip) => ip,
        Err(_) => {
            let asked = tokio::net::lookup_host((target, PORT));
            let found = tokio::time::timeout(PATIENCE, asked).await.ok()?.ok();
            found?.next()?.ip()
        }
    };
    let any: SocketAddr = if target.is_ipv4() {
        ([0_u8; 4], 0).into()
    } else {
        ([0_u16; 8], 0).into()
    };
    let socket = UdpSocket::bind(any).ok()?;
    socket.connect((target, PORT)).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

/// One object, whenever it changes; none where it is not there.
fn object(client: &Client, kind: Kind, name: &str) -> BoxStream<'static, (Kind, Option<Value>)> {
    let api: Api<DynamicObject> =
        Api::all_with(client.clone(), &kosmos(kind.word(), kind.plural()));
    let only = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let stream = watched(api, only, DefaultBackoff::default()).boxed();
    let name = name.to_owned();
    let state = (stream, name, false, false);
    futures::stream::unfold(state, move |(mut stream, name, mut is_there, mut is_told)| async move {
        loop {
            let is_own = |object: &DynamicObject| object.metadata.name.as_deref() == Some(&*name);
            let object = match stream.next().await? {
                Ok(watcher::Event::Init) => {
                    is_there = false;
                    continue;
                }
                Ok(watcher::Event::Apply(object) | watcher::Event::InitApply(object)) if is_own(&object) => {
                    is_there = true;
                    serde_json::to_value(object).ok()
                }
                Ok(watcher::Event::Delete(object)) if is_own(&object) => None,
                Ok(watcher::Event::InitDone) if !is_there => None,
                Ok(_) => continue,
                Err(error) => {
                    let is_closed = is_closed(&error);
                    if is_closed && !std::mem::replace(&mut is_told, true) {
                        info!(kind = kind.word(), %error, "this agent may not read what it would find its underlay by");
                    }
                    if is_closed {
                        tokio::time::sleep(CLOSED).await;
                    }
                    continue;
                }
            };
            return Some(((kind, object), (stream, name, is_there, is_told)));
        }
    })
    .boxed()
}
