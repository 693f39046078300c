//! The simulated API under upstream kubectl, over TLS on loopback.

#[path = "api/tls.rs"]
mod tls;

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use tls::Running;

/// kubectl with a home of its own.
struct Kubectl {
    home: tempfile::TempDir,
    running: Running,
}

impl Kubectl {
    async fn new() -> Self {
        let running = tls::start().await;
        let home = tempfile::tempdir().expect("a directory");
        std::fs::write(home.path().join("config"), running.kubeconfig()).expect("a file");
        Self { home, running }
    }

    async fn output(&self, line: &str, input: &str) -> Output {
        let mut command = Command::new("kubectl");
        command
            .args(line.split_whitespace())
            .env("KUBECONFIG", self.home.path().join("config"))
            .env("HOME", self.home.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let input = input.to_owned();
        // The server answers from this runtime, so waiting happens elsewhere.
        tokio::task::spawn_blocking(move || {
            let mut child = command.spawn().expect("kubectl is installed");
            child
                .stdin
                .take()
                .expect("piped")
                .write_all(input.as_bytes())
                .expect("kubectl reads");
            child.wait_with_output().expect("kubectl ends")
        })
        .await
        .expect("no panic")
    }

    /// Runs a command that must succeed without a warning.
    async fn run(&self, line: &str, input: &str) -> String {
        let output = self.output(line, input).await;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "kubectl {line}\n{text}{errors}");
        assert!(!errors.contains("arning"), "kubectl {line}\n{errors}");
        text
    }

    /// Runs a command that must fail.
    async fn refuse(&self, line: &str, input: &str) -> String {
        let output = self.output(line, input).await;
        assert!(!output.status.success(), "kubectl {line} should fail");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }
}

macro_rules! kubectl_test {
    ($name:ident, |$kubectl:ident| $body:block) => {
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        #[ignore = "kubectl: needs kubectl"]
        async fn $name() {
            let $kubectl = Kubectl::new().await;
            $body
        }
    };
}

const DAEMON_SET: &str = "
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: d, namespace: work, labels: {app: d}}
spec:
  selector: {matchLabels: {app: d}}
  template:
    metadata: {labels: {app: d}}
    spec:
      hostNetwork: true
      tolerations: [{operator: Exists}]
      containers:
      - name: c
        image: registry.invalid/clusterlink-floater:1
        ports: [{containerPort: 8889}]
        env:
        - {name: A, value: '1'}
        - name: KEY
          valueFrom: {secretKeyRef: {name: s, key: key}}
";

kubectl_test!(objects_are_made_shown_changed_and_removed, |k| {
    assert!(k.run("version", "").await.contains("Server Version"));
    let kinds = k.run("api-resources", "").await;
    for kind in [
        "configmaps",
        "daemonsets",
        "nodeconfigs",
        "leases",
        "clusterrolebindings",
    ] {
        assert!(kinds.contains(kind), "{kinds}");
    }
    k.run("create namespace work", "").await;
    k.run("create configmap c -n work --from-literal=a=1", "")
        .await;
    k.run(
        "create secret generic s -n work --from-literal=key=00ff",
        "",
    )
    .await;
    k.run("create serviceaccount sa -n work", "").await;
    let table = k.run("get configmap c -n work", "").await;
    assert!(table.contains("NAME") && table.contains("DATA"), "{table}");
    let yaml = k.run("get configmap c -n work -o yaml", "").await;
    assert!(yaml.contains("a: \"1\""), "{yaml}");
    for (kind, patch) in [
        ("merge", r#"{"data":{"b":"2"}}"#),
        ("json", r#"[{"op":"add","path":"/data/c","value":"3"}]"#),
        ("strategic", r#"{"data":{"d":"4"}}"#),
    ] {
        k.run(
            &format!("patch configmap c -n work --type {kind} -p {patch}"),
            "",
        )
        .await;
    }
    let data = k
        .run("get configmap c -n work -o jsonpath={.data}", "")
        .await;
    assert_eq!(data, r#"{"a":"1","b":"2","c":"3","d":"4"}"#);
    k.run("label configmap c -n work x=y", "").await;
    k.run("annotate configmap c -n work note=n", "").await;
    let names = k.run("get configmap -n work -l x=y -o name", "").await;
    assert_eq!(names.trim(), "configmap/c");
    k.run("delete configmap c -n work --wait", "").await;
    let gone = k.refuse("get configmap c -n work", "").await;
    assert!(gone.contains("NotFound"), "{gone}");
    k.run("delete namespace work --wait --timeout=20s", "")
        .await;
    assert!(
        k.refuse("get namespace work", "")
            .await
            .contains("NotFound")
    );
});

kubectl_test!(manifests_are_applied_by_client_and_server, |k| {
    k.run("create namespace work", "").await;
    let text = k.run("apply -f -", DAEMON_SET).await;
    assert!(text.contains("daemonset.apps/d created"), "{text}");
    let text = k.run("apply -f -", DAEMON_SET).await;
    assert!(text.contains("unchanged"), "{text}");
    let changed = DAEMON_SET.replace("value: '1'", "value: '2'");
    let text = k.run("apply -f -", &changed).await;
    assert!(text.contains("configured"), "{text}");
    let env = k
        .run(
            "get ds d -n work -o jsonpath={.spec.template.spec.containers[0].env[*].name}",
            "",
        )
        .await;
    assert_eq!(env, "A KEY");
    // What a manifest drops goes, what it never had stays.
    k.run(
        "patch ds d -n work -p {\"spec\":{\"template\":{\"spec\":{\"containers\":[{\"name\":\"c\",\"env\":[{\"name\":\"B\",\"value\":\"3\"}]}]}}}}",
        "",
    )
    .await;
    let dropped = DAEMON_SET.replace("        - {name: A, value: '1'}\n", "");
    k.run("apply -f -", &dropped).await;
    let env = k
        .run(
            "get ds d -n work -o jsonpath={.spec.template.spec.containers[0].env[*].name}",
            "",
        )
        .await;
    assert!(
        env.contains("KEY") && env.contains('B') && !env.contains('A'),
        "{env}"
    );
    let refused = k
        .refuse("apply -f -", &DAEMON_SET.replace("image:", "imgae:"))
        .await;
    assert!(refused.contains("unknown field"), "{refused}");
    let diff = k.output("diff -f -", &changed).await;
    assert_eq!(diff.status.code(), Some(1), "{diff:?}");

    let text = k
        .run("apply --server-side --force-conflicts -f -", DAEMON_SET)
        .await;
    assert!(text.contains("serverside-applied"), "{text}");
    let map = "{apiVersion: v1, kind: ConfigMap, metadata: {name: c, namespace: work}, data: {a: '1', b: '1'}}";
    k.run("apply --server-side --field-manager=one -f -", map)
        .await;
    let conflict = k
        .refuse(
            "apply --server-side --field-manager=two -f -",
            &map.replace("a: '1'", "a: '2'"),
        )
        .await;
    assert!(conflict.contains("conflict with \"one\""), "{conflict}");
    k.run(
        "apply --server-side --field-manager=one -f -",
        &map.replace(", b: '1'", ""),
    )
    .await;
    let data = k.run("get cm c -n work -o jsonpath={.data}", "").await;
    assert_eq!(data, r#"{"a":"1"}"#);
    let dry = k
        .run(
            "apply --dry-run=server -f -",
            &DAEMON_SET.replace("name: d,", "name: e,"),
        )
        .await;
    assert!(dry.contains("server dry run"), "{dry}");
    k.refuse("get ds e -n work", "").await;
});

kubectl_test!(daemons_and_custom_kinds_are_waited_for, |k| {
    k.run("create namespace work", "").await;
    k.run("apply -f -", DAEMON_SET).await;
    k.run("wait pod/d-n1 -n work --for=create --timeout=20s", "")
        .await;
    let pods = k.run("get pods -n work -o wide", "").await;
    assert!(pods.contains("d-n1") && pods.contains("d-n2"), "{pods}");
    let status = serde_json::json!({"phase": "Running", "podIP": "10.0.0.9", "conditions": [{"type": "Ready", "status": "True"}]});
    for name in ["d-n1", "d-n2"] {
        k.running
            .cluster
            .store()
            .put_status(
                apiserver::Resource::PODS,
                Some("work"),
                name,
                status.clone(),
            )
            .expect("the pod is there");
    }
    k.run(
        "wait pod -l app=d -n work --for=condition=Ready --timeout=20s",
        "",
    )
    .await;
    k.run("rollout status ds/d -n work --timeout=20s", "").await;
    k.run("delete pod d-n1 -n work --wait=false", "").await;
    let pods = k.run("get pods -n work", "").await;
    assert!(pods.contains("Terminating"), "{pods}");
    k.run("delete ds d -n work --cascade=orphan", "").await;
    k.run("get pod d-n2 -n work", "").await;
    // Forcing prints a warning of its own.
    let forced = k
        .output("delete pod d-n1 d-n2 -n work --grace-period=0 --force", "")
        .await;
    assert!(forced.status.success(), "{forced:?}");

    let definition = "
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: toys.floater.test}
spec:
  group: floater.test
  scope: Namespaced
  names: {plural: toys, singular: toy, kind: Toy, shortNames: [ty]}
  versions:
  - name: v1
    served: true
    storage: true
    subresources: {status: {}}
    additionalPrinterColumns: [{name: Size, type: integer, jsonPath: .spec.size}]
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec: {type: object, properties: {size: {type: integer, default: 7}, load: {type: integer}}}
";
    k.run("apply -f -", definition).await;
    k.run(
        "wait crd/toys.floater.test --for=condition=Established --timeout=20s",
        "",
    )
    .await;
    let toy = "{apiVersion: floater.test/v1, kind: Toy, metadata: {name: t, namespace: work}, spec: {load: 1}}";
    k.run("apply -f -", toy).await;
    k.run("apply -f -", &toy.replace("load: 1", "load: 2"))
        .await;
    let table = k.run("get toys -n work", "").await;
    assert!(table.contains("SIZE") && table.contains('7'), "{table}");
    let node = "{apiVersion: kosmos.io/v1alpha1, kind: ClusterNode, metadata: {name: east-n1}, spec: {clusterName: east, nodeName: n1, interfaceName: eth0, ip: 1.2.3.4, roles: [gateway]}}";
    k.run("apply --server-side -f -", node).await;
    let table = k.run("get clusternodes", "").await;
    assert!(
        table.contains("INTERFACE") && table.contains("1.2.3.4"),
        "{table}"
    );
    assert!(
        k.run("explain toy.spec --recursive", "")
            .await
            .contains("integer")
    );
});

const DEPLOYMENT: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: d}
spec:
  replicas: 2
  selector: {matchLabels: {app: d}}
  template:
    metadata: {labels: {app: d}}
    spec:
      containers: [{name: c, image: 'registry.invalid/c:1'}]
---
apiVersion: v1
kind: Endpoints
metadata: {name: e}
subsets: [{addresses: [{ip: 100.64.0.1}, {ip: 100.64.0.2}], ports: [{name: https, port: 6443}]}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: e}
addressType: IPv4
endpoints: [{addresses: [100.64.0.1]}]
ports: [{name: https, port: 6443}]
";

/// Makes every pod ready that is bound to a node, and lets those go that are to end.
async fn kubelet(cluster: std::sync::Arc<apiserver::ApiCluster>) {
    let mut watch = cluster.store().watch(apiserver::Resource::PODS, 0);
    loop {
        let event = watch.next().await;
        let pod = &event.object;
        let name = pod["metadata"]["name"].as_str().unwrap_or_default();
        let (pods, place) = (apiserver::Resource::PODS, Some("default"));
        if pod["metadata"]["deletionTimestamp"].is_string() {
            let _ = cluster.store().delete(pods, place, name);
        } else if pod["spec"]["nodeName"].is_string() && pod["status"]["phase"] == "Pending" {
            let status = serde_json::json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]});
            let _ = cluster.store().put_status(pods, place, name, status);
        }
    }
}

kubectl_test!(deployments_are_rolled_out_scaled_and_undone, |k| {
    tokio::spawn(kubelet(k.running.cluster.clone()));
    k.run("apply --server-side -f -", DEPLOYMENT).await;
    k.run("rollout status deployment/d --timeout=10s", "").await;
    k.run(
        "wait --for=condition=Available deployment/d --timeout=10s",
        "",
    )
    .await;
    let table = k
        .run(
            "get deployments,replicasets,endpointslices,priorityclasses",
            "",
        )
        .await;
    assert!(
        table.contains("UP-TO-DATE") && table.contains("2/2"),
        "{table}"
    );
    assert!(table.contains("system-node-critical"), "{table}");
    let endpoints = k
        .run(
            "get endpoints e -o jsonpath={.subsets[0].addresses[1].ip}",
            "",
        )
        .await;
    assert_eq!(endpoints, "100.64.0.2");
    k.run("scale deployment d --replicas=3", "").await;
    k.run("rollout status deployment/d --timeout=10s", "").await;
    k.run("set image deployment/d c=registry.invalid/c:2", "")
        .await;
    k.run("rollout status deployment/d --timeout=10s", "").await;
    let history = k.run("rollout history deployment/d", "").await;
    assert!(history.contains('1') && history.contains('2'), "{history}");
    k.run("rollout undo deployment/d", "").await;
    k.run("rollout status deployment/d --timeout=10s", "").await;
    let image = "get pods -l app=d -o jsonpath={.items[*].spec.containers[0].image}";
    assert_eq!(
        k.run(image, "").await,
        ["registry.invalid/c:1"; 3].join(" ")
    );
    k.run("rollout restart deployment/d", "").await;
    k.run("rollout status deployment/d --timeout=10s", "").await;
    // Typed clients send them in protobuf.
    k.run(
        "create deployment e --image=registry.invalid/c:1 --replicas=2 --port=80",
        "",
    )
    .await;
    k.run("rollout status deployment/e --timeout=10s", "").await;
    k.run("create priorityclass p --value=5", "").await;
    k.run("delete deployment d e --timeout=10s", "").await;
    k.run("wait --for=delete pods -l app=d --timeout=10s", "")
        .await;
});

kubectl_test!(rights_are_asked_for_and_refused, |k| {
    assert_eq!(k.run("auth can-i delete pods", "").await.trim(), "yes");
    k.run("create serviceaccount sa", "").await;
    k.run("create role r --verb=get,list --resource=configmaps", "")
        .await;
    k.run(
        "create rolebinding r --role=r --serviceaccount=default:sa",
        "",
    )
    .await;
    let token = k.run("create token sa", "").await;
    let as_sa = format!("--token={}", token.trim());
    // The token of the kubeconfig's user would win over the flag.
    let config = k.running.kubeconfig().replace(tls::TOKEN, token.trim());
    std::fs::write(k.home.path().join("config"), config).expect("a file");
    assert_eq!(k.run("auth can-i list configmaps", "").await.trim(), "yes");
    assert!(!k.output("auth can-i list pods", "").await.status.success());
    k.run("get configmaps", "").await;
    let refused = k.refuse("get pods", "").await;
    assert!(refused.contains("Forbidden"), "{refused}");
    assert!(
        k.run(&format!("auth whoami {as_sa}"), "")
            .await
            .contains("default:sa")
    );
});

kubectl_test!(watches_end_with_their_subject, |k| {
    k.run("create configmap w --from-literal=a=1", "").await;
    let store = k.running.cluster.store().clone();
    let (watched, ()) = tokio::join!(
        k.output("get configmap w -w -o name --request-timeout=3s", ""),
        async {
            let mut watch = store.watch(apiserver::Resource::CONFIG_MAPS, 0);
            watch.next().await;
        }
    );
    let text = String::from_utf8_lossy(&watched.stdout).into_owned();
    assert!(text.contains("configmap/w"), "{text}");
});
