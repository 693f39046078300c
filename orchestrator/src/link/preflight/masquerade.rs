//! What a CNI plugin says of rewriting the source of packets that leave its cluster. Packets that it rewrites arrive, as a node's and not as
//! the pod's that sent them.

use datapath::control::prefixes::Evidence;
use datapath::printable::printable;
use serde_json::Value;

use super::super::objects::name_of;

/// What the operator should know, one sentence each.
pub(super) fn warnings(cluster: &str, evidence: &Evidence) -> Vec<String> {
    let mut warnings = Vec::new();
    let is_on = |pool: &&Value| {
        let spec = &pool["spec"];
        spec["natOutgoing"] == true && spec["disabled"] != true
    };
    for pool in evidence.ip_pools.iter().filter(is_on) {
        warnings.push(format!(
            "Calico's IPPool {} of {cluster} has natOutgoing: other clusters see its nodes' addresses, not its pods', unless a disabled IPPool covers their prefixes",
            printable(name_of(pool), 63)
        ));
    }
    let cilium = |key: &str| evidence.cilium[key].as_str().unwrap_or_default();
    for (key, native) in [
        ("enable-ipv4-masquerade", "ipv4-native-routing-cidr"),
        ("enable-ipv6-masquerade", "ipv6-native-routing-cidr"),
    ] {
        if cilium(key) == "true" {
            warnings.push(format!(
                "ConfigMap cilium-config of {cluster} has {key}: other clusters see its nodes' addresses, not its pods', unless {native} covers their prefixes"
            ));
        }
    }
    if evidence.flannel.is_some() {
        warnings.push(format!(
            "could not tell whether flannel of {cluster} rewrites what its pods send to other clusters (--ip-masq): no object says so"
        ));
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_rewrites_pods_addresses_is_named() {
        let pool = |name: &str, nat: bool, disabled: bool| json!({"metadata": {"name": name}, "spec": {"cidr": "10.1.0.0/16", "natOutgoing": nat, "disabled": disabled}});
        let evidence = Evidence {
            ip_pools: vec![
                pool("a", true, false),
                pool("b", false, false),
                pool("c", true, true),
            ],
            cilium: json!({"enable-ipv4-masquerade": "true", "enable-ipv6-masquerade": "false"}),
            ..Evidence::default()
        };
        let warnings = warnings("west", &evidence);
        assert_eq!(warnings.len(), 2, "{warnings:?}");
        assert!(warnings[0].contains("IPPool a of west"), "{warnings:?}");
        assert!(
            warnings[1].contains("ipv4-native-routing-cidr"),
            "{warnings:?}"
        );
        assert_eq!(
            super::warnings("west", &Evidence::default()),
            Vec::<String>::new()
        );
    }
}
