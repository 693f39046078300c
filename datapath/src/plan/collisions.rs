//! Tunnel end points that cannot be distinguished.

use std::collections::HashMap;
use std::net::IpAddr;

use super::family::{FAMILIES, address_field};
use super::members::{Member, Members};
use super::objection::{Field, Object, Objection};
use crate::code::Code;
use crate::mac::Mac;
use crate::tunnel::Tunnel;

/// Overlay addresses have only as many host bits as the pool leaves: nodes that share them share the address. The address
/// and the MAC on vx-bridge have to be unique in the fleet, those on vx-local in their cluster.
pub(super) fn report<'p>(members: &Members<'p>, objections: &mut Vec<Objection>) {
    let mut addresses: HashMap<(Option<usize>, IpAddr), &'p Member> = HashMap::new();
    let mut macs: HashMap<(Option<usize>, Tunnel, Mac), &'p Member> = HashMap::new();
    for &(cluster, node) in &members.nodes {
        let object = |node: &Member| Object::cluster_node(&node.name, &node.spec);
        for family in FAMILIES {
            let tunnels = [(None, &node.bridge), (Some(cluster), &node.local)];
            for (cluster, ends) in tunnels {
                let Some(end) = ends.get(family) else {
                    continue;
                };
                let (tunnel, mac, ip) = (end.tunnel, end.mac, end.ip());
                if let Some(other) = addresses.insert((cluster, ip), node) {
                    let field = format!("spec.{}", address_field(family));
                    objections.push(
                        Objection::new(
                            Code::VtepIpDuplicate,
                            Field::new(object(node), &field),
                            format!(
                                "gives it the overlay address {ip} on {tunnel}, which is also that of {}",
                                other.name
                            ),
                        )
                        .against(Field::new(object(other), &field)),
                    );
                }
                if let Some(other) = macs.insert((cluster, tunnel, mac), node) {
                    let field = format!("spec.devices[{tunnel}].mac");
                    objections.push(
                        Objection::new(
                            Code::VtepMacDuplicate,
                            Field::new(Object::node_config(&node.name), &field),
                            format!("{mac} is also the MAC of {tunnel} of {}", other.name),
                        )
                        .against(Field::new(Object::node_config(&other.name), &field)),
                    );
                }
            }
        }
    }
}
