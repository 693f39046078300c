use serde_json::{Value, json};

use super::*;

fn settings() -> Settings {
    Settings {
        namespace: "kosmos-system".into(),
        image: "registry.example/kosmos/clusterlink".into(),
        version: "1.2.3".into(),
        cluster: "east".into(),
        replicas: 2,
        pull_secrets: vec!["pull".into()],
        labels: [("team".to_owned(), "net".to_owned())].into(),
        plan: AgentsPlan::default(),
        standby: false,
        gateways: 1,
    }
}

fn json(object: &impl serde::Serialize) -> Value {
    serde_json::to_value(object).expect("JSON")
}

fn workloads() -> [Value; 3] {
    let settings = settings();
    [
        json(&agent_daemon_set(&settings)),
        json(&controller_deployment(&settings)),
        json(&manager_deployment(&settings)),
    ]
}

fn pod(workload: &Value) -> &Value {
    &workload["spec"]["template"]["spec"]
}

/// Every value of a field of this name, at any depth.
fn all<'v>(value: &'v Value, field: &str, found: &mut Vec<&'v Value>) {
    match value {
        Value::Object(fields) => {
            found.extend(fields.get(field));
            fields.values().for_each(|one| all(one, field, found));
        }
        Value::Array(items) => items.iter().for_each(|one| all(one, field, found)),
        _ => {}
    }
}

#[test]
fn agents_read_every_cluster_only_where_they_plan() {
    let reads = |plan| {
        let settings = Settings { plan, ..settings() };
        let [agent, controller] = control_plane_accounts(&settings);
        let may = |account: &Account| {
            let rules = json(&account.grant.cluster_role)["rules"].clone();
            let rules = rules.as_array().cloned().unwrap_or_default();
            rules.iter().any(|rule| {
                let is_all = rule["resourceNames"].is_null();
                let resources = rule["resources"].as_array().cloned().unwrap_or_default();
                is_all && resources.contains(&json!("clusters"))
            })
        };
        assert!(!may(&controller), "{plan:?}");
        let args = json(&agent_daemon_set(&settings));
        let args = pod(&args)["containers"][0]["args"].to_string();
        (may(&agent), args.contains("--plan"))
    };
    assert_eq!(reads(AgentsPlan::Off), (false, false));
    assert_eq!(reads(AgentsPlan::Auto), (true, false));
    assert_eq!(reads(AgentsPlan::On), (true, true));
}

#[test]
fn nothing_is_privileged_and_everything_is_confined() {
    for workload in workloads() {
        let mut found = Vec::new();
        for field in ["privileged", "hostPID", "hostIPC", "procMount", "sysctls"] {
            all(&workload, field, &mut found);
        }
        assert!(found.is_empty(), "{found:?}");
        let (pod, container) = (pod(&workload), &pod(&workload)["containers"][0]);
        let security = &container["securityContext"];
        assert_eq!(security["allowPrivilegeEscalation"], false);
        assert_eq!(security["readOnlyRootFilesystem"], true);
        assert_eq!(security["capabilities"]["drop"], json!(["ALL"]));
        assert_eq!(
            pod["securityContext"]["seccompProfile"]["type"],
            "RuntimeDefault"
        );
        let is_agent = container["name"] == "agent";
        let added = if is_agent {
            json!(["NET_ADMIN"])
        } else {
            Value::Null
        };
        assert_eq!(security["capabilities"]["add"], added);
        assert_eq!(
            security["runAsNonRoot"],
            if is_agent { Value::Null } else { json!(true) }
        );
        assert_eq!(pod["automountServiceAccountToken"], !is_agent);
    }
}

#[test]
fn each_is_asked_how_it_is_where_it_answers() {
    for (workload, host, port) in workloads()
        .into_iter()
        .zip([
            (json!("127.0.0.1"), AGENT_PORT),
            (json!("127.0.0.1"), CONTROLLER_PORT),
            (Value::Null, MANAGER_PORT),
        ])
        .map(|(workload, (host, port))| (workload, host, port))
    {
        let container = &pod(&workload)["containers"][0];
        for (probe, path) in [("readinessProbe", "/readyz"), ("livenessProbe", "/healthz")] {
            let asked = &container[probe]["httpGet"];
            assert_eq!(
                (&asked["path"], &asked["port"], &asked["host"]),
                (&json!(path), &json!(port), &host)
            );
        }
        assert_eq!(container["ports"][0]["containerPort"], port);
        let args: Vec<&str> = container["args"]
            .as_array()
            .expect("arguments")
            .iter()
            .filter_map(Value::as_str)
            .collect();
        assert!(
            args.iter().any(|word| word.ends_with(&format!(":{port}"))),
            "{args:?}"
        );
        assert_eq!(args[0], container["name"], "the program's word");
        assert!(container.get("command").is_none(), "the image's entrypoint");
        assert_eq!(
            container["image"],
            "registry.example/kosmos/clusterlink:1.2.3"
        );
    }
}

#[test]
fn an_agent_is_on_every_node_and_replaced_one_at_a_time() {
    let agent = json(&agent_daemon_set(&settings()));
    assert_eq!(
        agent["spec"]["updateStrategy"],
        json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1}})
    );
    let pod = pod(&agent);
    assert_eq!(pod["tolerations"], json!([{"operator": "Exists"}]));
    assert_eq!(
        (&pod["hostNetwork"], &pod["priorityClassName"]),
        (&json!(true), &json!("system-node-critical"))
    );
    assert_eq!(pod["imagePullSecrets"], json!([{"name": "pull"}]));
    let container = &pod["containers"][0];
    assert_eq!(
        container["env"],
        json!([
            {"name": "CLUSTER_NAME", "value": "east"},
            {"name": "NODE_NAME", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
        ])
    );
    assert_eq!(
        container["args"],
        json!([
            "agent",
            "--kubeconfig",
            "/etc/clusterlink/kubeconfig",
            "--listen",
            "127.0.0.1:8895"
        ])
    );
    assert_eq!(
        container["resources"]["requests"],
        json!({"cpu": "50m", "memory": "32Mi"})
    );
    assert_eq!(
        pod["volumes"],
        json!([
            {"name": "access", "secret": {"secretName": "clusterlink-agent", "defaultMode": 0o440}},
            {"name": "settings", "hostPath": {"path": "/proc/sys/net", "type": "Directory"}},
        ])
    );
    assert_eq!(
        container["volumeMounts"],
        json!([
            {"name": "access", "mountPath": "/etc/clusterlink", "readOnly": true},
            {"name": "settings", "mountPath": "/host/proc/sys/net"},
        ])
    );
}

#[test]
fn replicas_are_apart_and_give_way_before_the_next() {
    let [_, controller, manager] = workloads();
    for workload in [&controller, &manager] {
        assert_eq!(workload["spec"]["replicas"], 2);
        assert_eq!(
            workload["spec"]["strategy"]["rollingUpdate"],
            json!({"maxSurge": 0, "maxUnavailable": 1})
        );
        let apart = &pod(workload)["affinity"]["podAntiAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
            [0]["podAffinityTerm"];
        assert_eq!(apart["topologyKey"], "kubernetes.io/hostname");
        assert_eq!(apart["labelSelector"], workload["spec"]["selector"]);
    }
    assert_eq!(pod(&controller)["hostNetwork"], true);
    assert!(pod(&manager).get("hostNetwork").is_none() && pod(&manager).get("volumes").is_none());
}

#[test]
fn pods_carry_what_they_are_found_by_and_what_the_installer_adds() {
    for workload in workloads() {
        let selector = workload["spec"]["selector"]["matchLabels"]
            .as_object()
            .expect("a selector");
        let labels = &workload["spec"]["template"]["metadata"]["labels"];
        for (key, value) in selector {
            assert_eq!(&labels[key], value);
        }
        assert!(
            !selector.contains_key("team"),
            "what may change is no part of a selector"
        );
        assert_eq!(
            (&labels["team"], &workload["metadata"]["labels"]["team"]),
            (&json!("net"), &json!("net"))
        );
        assert_eq!(
            workload["metadata"]["name"],
            pod(&workload)["serviceAccountName"]
        );
    }
}

#[test]
fn accounts_are_bound_to_what_their_programs_may_do() {
    let settings = settings();
    let [agent, controller] = member_accounts(&settings);
    assert_eq!(
        agent.grant,
        Grant::default(),
        "an agent may do nothing in its own cluster"
    );
    assert_eq!(controller.grant.roles.len(), 3);
    let [agent, controller] = control_plane_accounts(&settings);
    let name = |account: &Account| {
        account
            .service_account
            .metadata
            .name
            .clone()
            .unwrap_or_default()
    };
    assert_eq!(
        [name(&agent), name(&controller)],
        ["clusterlink-agent-east", "clusterlink-controller-east"]
    );
    for account in [agent, controller, manager_account(&settings)] {
        let binding = account
            .grant
            .cluster_role_binding
            .clone()
            .expect("rights everywhere");
        let subject = &binding.subjects.expect("a subject")[0];
        assert_eq!(
            (&subject.name, subject.namespace.as_deref()),
            (&name(&account), Some("kosmos-system"))
        );
        let text = json(&account.grant.cluster_role).to_string();
        assert!(!text.contains('*') && !text.contains("secrets"), "{text}");
    }
}
