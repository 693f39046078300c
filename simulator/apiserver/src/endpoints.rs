//! Rules of Endpoints and EndpointSlices.

use std::net::IpAddr;

use serde_json::Value;

use super::status::Cause;
use super::validate::PORT;

/// What one slice holds at most.
const LARGEST_SLICE: usize = 1000;
/// How many addresses an endpoint of a slice has at most.
const MOST_ADDRESSES: usize = 100;
const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];
const NO_ADDRESS: &str = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";

fn list<'a>(value: &'a Value, field: &str) -> impl Iterator<Item = (usize, &'a Value)> {
    value[field].as_array().into_iter().flatten().enumerate()
}

/// Checks an Endpoints object.
pub(crate) fn endpoints(new: &Value, causes: &mut Vec<Cause>) {
    for (at, subset) in list(new, "subsets") {
        let field = format!("subsets[{at}]");
        let count = |part| list(subset, part).count();
        if count("addresses") + count("notReadyAddresses") == 0 {
            causes.push(Cause::required(
                field.clone(),
                "must specify `addresses` or `notReadyAddresses`",
            ));
        }
        for part in ["addresses", "notReadyAddresses"] {
            for (at, address) in list(subset, part) {
                address_rules(
                    &address["ip"],
                    None,
                    &format!("{field}.{part}[{at}].ip"),
                    causes,
                );
            }
        }
        ports(subset, &format!("{field}."), count("ports") > 1, causes);
    }
}

/// Checks an EndpointSlice.
pub(crate) fn slice(new: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    let kinds = ["FQDN", "IPv4", "IPv6"];
    let kind = &new["addressType"];
    match kind.as_str() {
        None | Some("") => causes.push(Cause::required("addressType", "")),
        Some(word) if !kinds.contains(&word) => {
            causes.push(Cause::unsupported("addressType", kind, &kinds));
        }
        Some(_) => {}
    }
    if let Some(old) = old
        && old["addressType"] != *kind
    {
        causes.push(Cause::invalid("addressType", kind, "field is immutable"));
    }
    if list(new, "endpoints").count() > LARGEST_SLICE {
        causes.push(Cause {
            reason: "FieldValueTooMany",
            message: format!("Too many: must have at most {LARGEST_SLICE} items"),
            field: "endpoints".to_owned(),
        });
    }
    for (at, endpoint) in list(new, "endpoints") {
        let field = format!("endpoints[{at}].addresses");
        let count = list(endpoint, "addresses").count();
        if count == 0 {
            causes.push(Cause::required(
                field.clone(),
                "must contain at least 1 address",
            ));
        }
        if count > MOST_ADDRESSES {
            causes.push(Cause {
                reason: "FieldValueTooMany",
                message: format!("Too many: must have at most {MOST_ADDRESSES} items"),
                field: field.clone(),
            });
        }
        for (at, address) in list(endpoint, "addresses") {
            if kind != "FQDN" {
                address_rules(address, kind.as_str(), &format!("{field}[{at}]"), causes);
            }
        }
    }
    ports(new, "", false, causes);
}

fn address_rules(address: &Value, kind: Option<&str>, field: &str, causes: &mut Vec<Cause>) {
    let parsed = address
        .as_str()
        .and_then(|text| text.parse::<IpAddr>().ok());
    let Some(ip) = parsed else {
        causes.push(Cause::invalid(field, address, NO_ADDRESS));
        return;
    };
    let rule = match kind {
        Some("IPv4") if !ip.is_ipv4() => Some("must be a valid IPv4 address"),
        Some("IPv6") if !ip.is_ipv6() => Some("must be a valid IPv6 address"),
        _ if ip.is_unspecified() => Some("may not be unspecified (0.0.0.0 or ::)"),
        _ if ip.is_loopback() => Some("may not be in the loopback range (127.0.0.0/8, ::1/128)"),
        _ => None,
    };
    if let Some(rule) = rule {
        causes.push(Cause::invalid(field, address, rule));
    }
}

fn ports(object: &Value, prefix: &str, named: bool, causes: &mut Vec<Cause>) {
    let mut seen = std::collections::BTreeSet::new();
    for (at, port) in list(object, "ports") {
        let field = format!("{prefix}ports[{at}]");
        let name = port["name"].as_str().unwrap_or_default();
        if named && name.is_empty() {
            causes.push(Cause::required(format!("{field}.name"), ""));
        } else if !seen.insert(name) {
            causes.push(Cause {
                reason: "FieldValueDuplicate",
                message: format!("Duplicate value: {name:?}"),
                field: format!("{field}.name"),
            });
        }
        // A slice's port may be left out, which means all of them.
        let number = &port["port"];
        let is_left_out = number.is_null() && prefix.is_empty();
        if !is_left_out && !number.as_i64().is_some_and(|n| (1..=65535).contains(&n)) {
            causes.push(Cause::invalid(format!("{field}.port"), number, PORT));
        }
        if !PROTOCOLS.iter().any(|word| port["protocol"] == *word) {
            causes.push(Cause::unsupported(
                format!("{field}.protocol"),
                &port["protocol"],
                PROTOCOLS,
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn refused(check: impl Fn(&mut Vec<Cause>)) -> Vec<String> {
        let mut causes = Vec::new();
        check(&mut causes);
        causes.into_iter().map(|cause| cause.field).collect()
    }

    #[test]
    fn what_no_packet_can_go_to_is_refused() {
        let of = |subset: Value| {
            let object = json!({"subsets": [subset]});
            refused(|causes| endpoints(&object, causes))
        };
        let port = json!({"name": "https", "port": 6443, "protocol": "TCP"});
        assert_eq!(
            of(json!({"addresses": [{"ip": "100.64.0.1"}], "ports": [port]})),
            [""; 0]
        );
        assert_eq!(of(json!({})), ["subsets[0]"]);
        assert_eq!(
            of(json!({"addresses": [{"ip": "x"}]})),
            ["subsets[0].addresses[0].ip"]
        );
        assert_eq!(
            of(json!({"addresses": [{"ip": "127.0.0.1"}]})),
            ["subsets[0].addresses[0].ip"]
        );
        let two =
            json!([{"port": 1, "protocol": "TCP"}, {"name": "a", "port": 0, "protocol": "X"}]);
        assert_eq!(
            of(json!({"notReadyAddresses": [{"ip": "fd00::1"}], "ports": two})),
            [
                "subsets[0].ports[0].name",
                "subsets[0].ports[1].port",
                "subsets[0].ports[1].protocol"
            ]
        );
    }

    #[test]
    fn a_slice_holds_one_family() {
        let of = |object: Value, old: Option<Value>| {
            refused(|causes| slice(&object, old.as_ref(), causes))
        };
        let four = json!({"addressType": "IPv4", "endpoints": [{"addresses": ["100.64.0.1"]}], "ports": [{"protocol": "TCP"}]});
        assert_eq!(of(four.clone(), None), [""; 0]);
        let mut six = four.clone();
        six["addressType"] = "IPv6".into();
        assert_eq!(
            of(six, Some(four)),
            ["addressType", "endpoints[0].addresses[0]"]
        );
        assert_eq!(
            of(json!({"endpoints": [{}]}), None),
            ["addressType", "endpoints[0].addresses"]
        );
    }
}
