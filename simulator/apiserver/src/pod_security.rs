//! Pod Security admission: what the levels `baseline` and `restricted` forbid a pod in a namespace that enforces one of them by its
//! label (kubernetes.io, "Pod Security Standards"), as far as the fields are among those that clients of this API use.

use serde_json::{Value, json};

/// The label of a namespace that says which level it enforces.
const ENFORCE: &str = "pod-security.kubernetes.io/enforce";
/// Capabilities that `baseline` lets a container add.
const ADDABLE: &[&str] = &[
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

/// Why a pod of this specification is refused in a namespace; none where it is not.
pub(crate) fn violation(namespace: &Value, spec: &Value) -> Option<String> {
    let level = namespace["metadata"]["labels"][ENFORCE].as_str()?;
    let mut broken = Vec::new();
    match level {
        "baseline" => baseline(spec, ADDABLE, &mut broken),
        "restricted" => {
            baseline(spec, &["NET_BIND_SERVICE"], &mut broken);
            restricted(spec, &mut broken);
        }
        _ => {}
    }
    let rules = broken.join(", ");
    (!rules.is_empty()).then(|| format!("violates PodSecurity \"{level}:latest\": {rules}"))
}

fn list<'a>(value: &'a Value, field: &str) -> impl Iterator<Item = &'a Value> {
    value[field].as_array().into_iter().flatten()
}

fn containers(spec: &Value) -> impl Iterator<Item = &Value> {
    list(spec, "initContainers").chain(list(spec, "containers"))
}

fn name(container: &Value) -> &str {
    container["name"].as_str().unwrap_or_default()
}

fn baseline(spec: &Value, addable: &[&str], broken: &mut Vec<String>) {
    let shared = ["hostNetwork", "hostPID", "hostIPC"];
    let shared: Vec<String> = shared
        .iter()
        .filter(|field| spec[**field] == json!(true))
        .map(|field| format!("{field}=true"))
        .collect();
    if !shared.is_empty() {
        broken.push(format!("host namespaces ({})", shared.join(", ")));
    }
    for volume in list(spec, "volumes").filter(|volume| volume["hostPath"].is_object()) {
        broken.push(format!("hostPath volumes (volume {:?})", name(volume)));
    }
    for container in containers(spec) {
        let security = &container["securityContext"];
        if security["privileged"] == json!(true) {
            broken.push(format!(
                "privileged (container {:?} must not set securityContext.privileged=true)",
                name(container)
            ));
        }
        let added = list(&security["capabilities"], "add").filter_map(Value::as_str);
        let added: Vec<&str> = added.filter(|added| !addable.contains(added)).collect();
        if !added.is_empty() {
            broken.push(format!(
                "non-default capabilities (container {:?} must not include {added:?} in securityContext.capabilities.add)",
                name(container)
            ));
        }
        for port in list(container, "ports").filter_map(|port| port["hostPort"].as_u64()) {
            if port != 0 {
                broken.push(format!(
                    "hostPort (container {:?} uses hostPort {port})",
                    name(container)
                ));
            }
        }
    }
}

fn restricted(spec: &Value, broken: &mut Vec<String>) {
    let pod = &spec["securityContext"];
    for container in containers(spec) {
        let (security, name) = (&container["securityContext"], name(container));
        if security["allowPrivilegeEscalation"] != json!(false) {
            broken.push(format!(
                "allowPrivilegeEscalation != false (container {name:?} must set securityContext.allowPrivilegeEscalation=false)"
            ));
        }
        if !list(&security["capabilities"], "drop").any(|dropped| dropped == "ALL") {
            broken.push(format!(
                "unrestricted capabilities (container {name:?} must set securityContext.capabilities.drop=[\"ALL\"])"
            ));
        }
        let own = &security["runAsNonRoot"];
        if !(own == &json!(true) || own.is_null() && pod["runAsNonRoot"] == json!(true)) {
            broken.push(format!(
                "runAsNonRoot != true (pod or container {name:?} must set securityContext.runAsNonRoot=true)"
            ));
        }
        let kind = |context: &Value| {
            context["seccompProfile"]["type"]
                .as_str()
                .map(str::to_owned)
        };
        let profile = kind(security).or_else(|| kind(pod));
        if !matches!(profile.as_deref(), Some("RuntimeDefault" | "Localhost")) {
            broken.push(format!(
                "seccompProfile (pod or container {name:?} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")"
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(level: &str, spec: &Value) -> Option<String> {
        violation(&json!({"metadata": {"labels": {ENFORCE: level}}}), spec)
    }

    #[test]
    fn levels_forbid_what_they_say_and_name_the_field() {
        let plain = json!({"containers": [{"name": "c"}]});
        let host = json!({"hostNetwork": true, "containers": [{"name": "c", "ports": [{"hostPort": 80}]}]});
        let raw = json!({"containers": [{"name": "c", "securityContext": {"capabilities": {"add": ["NET_RAW"]}}}]});
        let modest = json!({
            "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{"name": "c", "securityContext": {
                "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]},
            }}],
        });
        assert_eq!(violation(&json!({}), &host), None);
        assert_eq!(judged("privileged", &host), None);
        assert_eq!(judged("baseline", &plain), None);
        let refused = judged("baseline", &host).expect("host");
        assert!(refused.starts_with(
            "violates PodSecurity \"baseline:latest\": host namespaces (hostNetwork=true), hostPort"
        ));
        assert!(judged("baseline", &raw).expect("raw").contains("NET_RAW"));
        assert!(
            judged("restricted", &plain)
                .expect("plain")
                .contains("runAsNonRoot != true")
        );
        assert_eq!(judged("restricted", &modest), None);
    }
}
