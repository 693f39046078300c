//! Which addresses the services of a cluster may have: those of its ServiceCIDRs, or of an API server's flag where there are none.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::Value;

use super::kinds::Served;
use super::resource::Resource;
use super::status::{Cause, Status};
use super::store::Inner;

/// What kubeadm gives an API server.
const FLAG: &str = "10.96.0.0/12";

/// The prefixes, sorted by the names of their objects.
fn ranges(inner: &Inner) -> Vec<IpNet> {
    let objects = inner.list(Resource::SERVICE_CIDRS, None);
    let mut nets = Vec::new();
    for object in objects {
        let cidrs = object["spec"]["cidrs"].as_array().into_iter().flatten();
        nets.extend(cidrs.filter_map(|net| net.as_str()?.parse::<IpNet>().ok()));
    }
    if nets.is_empty() {
        nets.extend(FLAG.parse::<IpNet>().ok());
    }
    nets
}

/// An address that no service has; the first of each prefix is that of the API server.
pub(super) fn free(inner: &Inner) -> Option<String> {
    let services = inner.list(Resource::SERVICES, None);
    let taken: BTreeSet<IpAddr> = services
        .filter_map(|service| service["spec"]["clusterIP"].as_str()?.parse().ok())
        .collect();
    let ranges = ranges(inner);
    let mut addresses = ranges.iter().flat_map(|net| net.hosts().skip(1));
    let free = addresses.find(|ip| !taken.contains(ip));
    free.map(|ip| ip.to_string())
}

/// Refuses a service whose address is in no prefix.
pub(super) fn check(inner: &Inner, served: &Served, service: &Value) -> Result<(), Status> {
    if served.resource != Resource::SERVICES {
        return Ok(());
    }
    let spec = &service["spec"];
    let listed = spec["clusterIPs"].as_array().into_iter().flatten();
    let asked = listed.chain([&spec["clusterIP"]]).filter_map(Value::as_str);
    let ranges = ranges(inner);
    for ip in asked.filter_map(|word| word.parse::<IpAddr>().ok()) {
        if ranges.iter().any(|net| net.contains(&ip)) {
            continue;
        }
        let name = service["metadata"]["name"].as_str().unwrap_or_default();
        let of_family = ranges
            .iter()
            .find(|net| net.addr().is_ipv4() == ip.is_ipv4());
        let rule = match of_family {
            Some(range) => format!(
                "failed to allocate IP {ip}: the provided IP ({ip}) is not in the valid range. The range of valid IPs is {range}"
            ),
            None => "the provided network does not match the current range".to_owned(),
        };
        let cause = Cause::invalid("spec.clusterIPs", &spec["clusterIPs"], rule);
        return Err(Status::invalid(served.resource, name, &[cause]));
    }
    Ok(())
}
