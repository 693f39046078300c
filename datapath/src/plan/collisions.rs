//! Tunnel end points that cannot be distinguished.

use std::collections::HashMap;
use std::net::IpAddr;

use super::family::{FAMILIES, address_field};
use super::members::{Member, Members, Tunnel};
use super::objection::{Field, Object, Objection};
use crate::code::Code;

/// Overlay addresses have only as many host bits as the pool leaves: nodes that share them share the address. The address
/// and the MAC on vx-bridge have to be unique in the fleet, those on vx-local in their cluster.
pub(super) fn report(members: &Members<'_>, objections: &mut Vec<Objection>) {
    let mut addresses: HashMap<(Option<usize>, IpAddr), &Member<'_>> = HashMap::new();
    let mut macs: HashMap<(Option<usize>, &str, &str), &Member<'_>> = HashMap::new();
    for node in &members.nodes {
        let object = |node: &Member<'_>| Object::cluster_node(&node.name, node.spec);
        for family in FAMILIES {
            let tunnels = [(None, &node.bridge), (Some(node.cluster), &node.local)];
            for (cluster, tunnels) in tunnels {
                let Some(tunnel) = tunnels.get(family) else {
                    continue;
                };
                let (Tunnel { kind, mac, .. }, ip) = (tunnel, tunnel.ip());
                if let Some(other) = addresses.insert((cluster, ip), node) {
                    let field = format!("spec.{}", address_field(family));
                    objections.push(
                        Objection::new(
                            Code::VtepIpDuplicate,
                            Field::new(object(node), &field),
                            format!(
                                "gives it the overlay address {ip} on {}, which is also that of {}",
                                kind.name, other.name
                            ),
                        )
                        .against(Field::new(object(other), &field)),
                    );
                }
                if let Some(other) = macs.insert((cluster, kind.name, mac), node) {
                    let field = format!("spec.devices[{}].mac", kind.name);
                    objections.push(
                        Objection::new(
                            Code::VtepMacDuplicate,
                            Field::new(Object::node_config(&node.name), &field),
                            format!("{mac} is also the MAC of {} of {}", kind.name, other.name),
                        )
                        .against(Field::new(Object::node_config(&other.name), &field)),
                    );
                }
            }
        }
    }
}
