//! A container's environment and arguments, with everything that they refer to.
//!
//! A pod runs with the rights of the lab, which may be root's, and not in a container: whoever may create a pod must not choose
//! what the loader, the C library or the runtime take from the environment. So only what its image reads goes through.

use std::net::IpAddr;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::api::References;
use super::image::Image;
use super::text;
use crate::apiserver::Resource;
use crate::protocol::ROOT;
use crate::state::MARKER;
use crate::topology::Node;

/// Whether the lab knows its own processes by a variable.
pub(super) fn is_labs(name: &str) -> bool {
    [MARKER, ROOT].contains(&name)
}

/// What a variable may refer to, and what of it.
const SOURCES: [(&str, Resource, &str); 2] = [
    ("/secretKeyRef", Resource::SECRETS, "secret"),
    ("/configMapKeyRef", Resource::CONFIG_MAPS, "configmap"),
];

/// The objects that the environment of a pod's first container refers to.
pub(super) fn references(pod: &Value) -> References {
    let entries = pod
        .pointer("/spec/containers/0/env")
        .and_then(Value::as_array);
    let sources = entries.into_iter().flatten();
    let sources = sources.filter_map(|entry| entry.get("valueFrom"));
    let named = sources.flat_map(|from| {
        SOURCES.iter().filter_map(|(pointer, resource, _)| {
            let name = from.pointer(pointer)?.get("name")?.as_str()?;
            Some((*resource, name.to_owned()))
        })
    });
    named.collect()
}

/// The environment of a pod's first container, in its order and without what its image does not read; or why it cannot be had.
/// `held` finds the objects of the pod's namespace that it [refers to](references).
/// Left out are also variables that only other variables refer to, once those have been expanded.
pub(crate) fn of(
    image: Image,
    pod: &Value,
    node: &Node,
    pod_ips: &[IpAddr],
    held: &dyn Fn(Resource, &str) -> Option<Arc<Value>>,
) -> Result<Vec<(String, String)>, String> {
    let mut env: Vec<(String, String)> = Vec::new();
    let entries = pod
        .pointer("/spec/containers/0/env")
        .and_then(Value::as_array);
    for entry in entries.into_iter().flatten() {
        let name = text(entry, "/name").to_owned();
        let value = match entry.get("valueFrom").filter(|from| from.is_object()) {
            None => Some(expand(text(entry, "/value"), &env)),
            Some(from) => referred(from, pod, node, pod_ips, held)?,
        };
        if let Some(value) = value {
            env.retain(|(held, _)| *held != name);
            env.push((name, value));
        }
    }
    // Last, so that `$(POD_IP)` is known where an allowed variable refers to it.
    env.retain(|(name, _)| image.reads(name));
    Ok(env)
}

/// The arguments after the program: what the pod says, or what the image would.
pub(super) fn args(image: Image, pod: &Value, env: &[(String, String)]) -> Vec<String> {
    let args: Vec<String> = pod
        .pointer("/spec/containers/0/args")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(|arg| expand(arg, env))
        .collect();
    if args.is_empty() {
        image.arguments()
    } else {
        args
    }
}

/// `$(NAME)` of variables before it; `$$(NAME)` stands for itself, as in Kubernetes.
fn expand(value: &str, env: &[(String, String)]) -> String {
    let mut out = String::new();
    let mut rest = value;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        if let Some(after) = rest.strip_prefix("$$") {
            out.push('$');
            rest = after;
            continue;
        }
        let name = rest
            .strip_prefix("$(")
            .and_then(|after| after.split_once(')'))
            .map(|(name, _)| name);
        let known = name.and_then(|name| env.iter().find(|(held, _)| held == name));
        match (name, known) {
            (Some(name), Some((_, value))) => {
                out.push_str(value);
                rest = &rest[name.len() + 3..];
            }
            _ => {
                out.push('$');
                rest = &rest[1..];
            }
        }
    }
    out + rest
}

fn referred(
    from: &Value,
    pod: &Value,
    node: &Node,
    pod_ips: &[IpAddr],
    held: &dyn Fn(Resource, &str) -> Option<Arc<Value>>,
) -> Result<Option<String>, String> {
    if let Some(field) = from.pointer("/fieldRef/fieldPath").and_then(Value::as_str) {
        return field_of(field, pod, node, pod_ips).map(Some);
    }
    for (reference, resource, what) in SOURCES {
        let Some(reference) = from.pointer(reference) else {
            continue;
        };
        let (name, key) = (text(reference, "/name"), text(reference, "/key"));
        let optional = reference.get("optional") == Some(&Value::Bool(true));
        let held = held(resource, name);
        let value = held.as_ref().map(|object| &object["data"][key]);
        return match (held.is_some(), value.and_then(Value::as_str)) {
            (_, Some(value)) if what == "secret" => STANDARD
                .decode(value)
                .ok()
                .and_then(|bytes| String::from_utf8(bytes).ok())
                .map(Some)
                .ok_or_else(|| format!("key {key} of secret {name} is not text")),
            (_, Some(value)) => Ok(Some(value.to_owned())),
            _ if optional => Ok(None),
            (true, None) => Err(format!("couldn't find key {key} in {what} {name}")),
            (false, None) => Err(format!("{what} \"{name}\" not found")),
        };
    }
    Err("an environment variable refers to nothing that is known".to_owned())
}

fn field_of(field: &str, pod: &Value, node: &Node, pod_ips: &[IpAddr]) -> Result<String, String> {
    let first = |ips: &[IpAddr]| ips.first().map(ToString::to_string).unwrap_or_default();
    let joined = |ips: &[IpAddr]| {
        let words: Vec<String> = ips.iter().map(ToString::to_string).collect();
        words.join(",")
    };
    let host_ips: Vec<IpAddr> = node.ips().collect();
    let subscript = |prefix: &str| {
        let key = field
            .strip_prefix(prefix)?
            .strip_prefix("['")?
            .strip_suffix("']")?;
        Some(key.to_owned())
    };
    for map in ["labels", "annotations"] {
        if let Some(key) = subscript(&format!("metadata.{map}")) {
            return Ok(pod["metadata"][map][&key]
                .as_str()
                .unwrap_or_default()
                .to_owned());
        }
    }
    Ok(match field {
        "metadata.name"
        | "metadata.namespace"
        | "metadata.uid"
        | "spec.nodeName"
        | "spec.serviceAccountName" => {
            text(pod, &format!("/{}", field.replace('.', "/"))).to_owned()
        }
        "status.hostIP" => first(&host_ips),
        "status.hostIPs" => joined(&host_ips),
        "status.podIP" => first(pod_ips),
        "status.podIPs" => joined(pod_ips),
        other => return Err(format!("fieldPath {other} is not supported")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn node() -> Node {
        Node {
            name: "n1".to_owned(),
            ip: Some([100, 64, 0, 2].into()),
            ip6: None,
            pod_cidrs: Vec::new(),
        }
    }

    #[test]
    fn only_what_its_image_reads_reaches_a_process() {
        let hostile = [
            "LD_PRELOAD",
            "LD_AUDIT",
            "LD_LIBRARY_PATH",
            "GCONV_PATH",
            "GLIBC_TUNABLES",
            "MALLOC_TRACE",
            "RUST_LOG",
            "RUST_BACKTRACE",
            "TOKIO_WORKER_THREADS",
            "PATH",
            "HOME",
            "HOSTNAME",
            "TMPDIR",
            "XDG_RUNTIME_DIR",
            "port",
            "floater_node",
            "A=FLOATER_NODE",
            "",
            MARKER,
            ROOT,
        ];
        let entries: Vec<Value> = hostile
            .iter()
            .map(|name| json!({"name": name, "value": "x"}))
            .chain([
                json!({"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}),
                json!({"name": "PORT", "value": "81"}),
                json!({"name": "FLOATER_BIND", "value": "$(POD_IP)"}),
            ])
            .collect();
        let pod = json!({"spec": {"containers": [{"env": entries}]}});
        let ips = [IpAddr::from([10, 1, 0, 2])];
        let env = of(Image::Floater, &pod, &node(), &ips, &|_, _| None).expect("an environment");
        let text = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(env, [text("PORT", "81"), text("FLOATER_BIND", "10.1.0.2")]);
        let env = of(Image::Clusterlink, &pod, &node(), &ips, &|_, _| None);
        assert_eq!(env, Ok(Vec::new()));
    }

    #[test]
    fn variables_expand_those_before_them_and_nothing_else() {
        let env = [("A".to_owned(), "1".to_owned())];
        for (value, wanted) in [
            ("$(A)/$(B)", "1/$(B)"),
            ("$$(A)", "$(A)"),
            ("$A $(A", "$A $(A"),
            ("é$(A)", "é1"),
            ("$", "$"),
        ] {
            assert_eq!(expand(value, &env), wanted);
        }
    }

    #[test]
    fn fields_are_read_from_the_pod_and_its_node() {
        let pod = json!({
            "metadata": {"name": "p", "namespace": "ns", "labels": {"a/b": "x"}},
            "spec": {"nodeName": "n1"},
        });
        let ips = [IpAddr::from([10, 1, 0, 2])];
        let field = |path: &str| field_of(path, &pod, &node(), &ips);
        assert_eq!(field("spec.nodeName").as_deref(), Ok("n1"));
        assert_eq!(field("status.podIP").as_deref(), Ok("10.1.0.2"));
        assert_eq!(field("status.hostIP").as_deref(), Ok("100.64.0.2"));
        assert_eq!(field("metadata.labels['a/b']").as_deref(), Ok("x"));
        assert!(field("status.phase").is_err());
    }

    #[test]
    fn arguments_default_to_those_of_the_image() {
        let pod = |args: Value| json!({"spec": {"containers": [{"args": args}]}});
        let args = |image, pod| args(image, &pod, &[]);
        assert_eq!(args(Image::Floater, pod(json!(null))), ["serve"]);
        assert!(args(Image::Clusterlink, pod(json!(null))).is_empty());
        assert_eq!(
            args(Image::Floater, pod(json!(["ping", "x"]))),
            ["ping", "x"]
        );
    }
}
