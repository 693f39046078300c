//! Upstream kubectl against the simulated clusters.

use std::process::{Command, Stdio};

use tests::lab::Lab;
use tests::program::Ran;

fn kubectl(kubeconfig: &str, context: &str, arguments: &[&str], stdin: &str) -> Ran {
    use std::io::Write as _;
    let home = tempfile::tempdir().unwrap();
    let mut child = Command::new("kubectl")
        .args(["--context", context])
        .args(arguments)
        .env("KUBECONFIG", kubeconfig)
        .env("HOME", home.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(stdin.as_bytes())
        .unwrap();
    Ran::of(child.wait_with_output().unwrap())
}

const MANIFEST: &str = "\
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: prices, namespace: shop, labels: {app: shop}}
data: {apple: '1'}
";

#[test]
#[ignore = "netns: needs vxlan, nft, kubectl"]
fn kubectl_reads_and_writes_a_simulated_cluster() {
    let lab = Lab::up(&["--clusters", "2", "--nodes", "2", "--mode", "gateway"]);
    let kubeconfig = lab.kubeconfig();
    let east = lab.clusters[0].as_str();
    let run = |arguments: &[&str]| kubectl(&kubeconfig, east, arguments, "");
    let apply = |arguments: &[&str], text: &str| kubectl(&kubeconfig, east, arguments, text);

    let nodes = run(&["get", "nodes"]).expect(0).stdout;
    assert!(
        nodes.contains("STATUS") && nodes.contains("n1") && nodes.contains("Ready"),
        "{nodes}"
    );
    let pods = run(&["get", "pods", "-A", "-o", "wide"]).expect(0).stdout;
    assert!(
        pods.contains("floater-n1") && pods.contains("Running") && pods.contains("1/1"),
        "{pods}"
    );
    let resources = run(&["api-resources"]).expect(0).stdout;
    for word in [
        "daemonsets",
        "leases",
        "clusternodes",
        "nodeconfigs",
        "clusterrolebindings",
    ] {
        assert!(resources.contains(word), "{resources}");
    }
    let configs = run(&["get", "nodeconfigs.kosmos.io", "-o", "name"])
        .expect(0)
        .stdout;
    assert_eq!(configs.lines().count(), 4, "{configs}");
    let clusters = run(&["get", "clusters.kosmos.io"]).expect(0).stdout;
    assert!(
        clusters.contains("NETWORK_TYPE") && clusters.contains("gateway"),
        "{clusters}"
    );

    apply(&["apply", "-f", "-"], MANIFEST).expect(0);
    let again = apply(&["apply", "-f", "-"], MANIFEST).expect(0).stdout;
    assert!(again.contains("unchanged"), "{again}");
    let changed = apply(&["apply", "-f", "-"], &MANIFEST.replace("'1'", "'2'"))
        .expect(0)
        .stdout;
    assert!(changed.contains("configured"), "{changed}");
    let server_side = &["apply", "--server-side", "--field-manager=other", "-f", "-"];
    let conflict = apply(server_side, &MANIFEST.replace("'1'", "'3'"));
    assert_eq!(conflict.code, Some(1), "{conflict:?}");
    assert!(conflict.stderr.contains("conflict"), "{}", conflict.stderr);
    apply(
        &["apply", "--server-side", "--force-conflicts", "-f", "-"],
        &MANIFEST.replace("'1'", "'3'"),
    )
    .expect(0);
    let typo = apply(
        &["apply", "-f", "-"],
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x, namespace: shop}\ndatum: {}\n",
    );
    assert_ne!(typo.code, Some(0));
    assert!(typo.stderr.contains("datum"), "{}", typo.stderr);

    run(&[
        "create",
        "configmap",
        "stock",
        "-n",
        "shop",
        "--from-literal=pear=1",
    ])
    .expect(0);
    assert_eq!(
        run(&["create", "configmap", "stock", "-n", "shop"]).code,
        Some(1)
    );
    for (kind, patch) in [
        ("merge", r#"{"data":{"pear":"2"}}"#),
        ("json", r#"[{"op":"add","path":"/data/plum","value":"3"}]"#),
        ("strategic", r#"{"metadata":{"labels":{"app":"shop"}}}"#),
    ] {
        run(&[
            "patch",
            "configmap",
            "stock",
            "-n",
            "shop",
            "--type",
            kind,
            "-p",
            patch,
        ])
        .expect(0);
    }
    let data = run(&[
        "get",
        "configmap",
        "stock",
        "-n",
        "shop",
        "-o",
        "jsonpath={.data.pear}{.data.plum}",
    ])
    .expect(0)
    .stdout;
    assert_eq!(data, "23");
    let selected = run(&[
        "get",
        "configmaps",
        "-n",
        "shop",
        "-l",
        "app=shop",
        "-o",
        "name",
    ])
    .expect(0)
    .stdout;
    assert_eq!(selected.lines().count(), 2, "{selected}");

    run(&["wait", "--for=condition=Ready", "node/n1", "--timeout=5s"]).expect(0);
    run(&[
        "wait",
        "--for=condition=Ready",
        "pod",
        "-n",
        "kosmos-system",
        "-l",
        "app.kubernetes.io/name=floater",
        "--timeout=20s",
    ])
    .expect(0);
    run(&["delete", "configmap", "stock", "-n", "shop"]).expect(0);
    run(&["delete", "namespace", "shop", "--timeout=20s"]).expect(0);
    assert_eq!(
        run(&["get", "configmap", "prices", "-n", "shop"]).code,
        Some(1)
    );

    // A pod whose image is not on the node says so.
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: web, namespace: default}\nspec: {nodeName: n1, containers: [{name: web, image: nginx}]}\n";
    apply(&["apply", "-f", "-"], pod).expect(0);
    run(&[
        "wait",
        "--for=jsonpath={.status.containerStatuses[0].state.waiting.reason}=ErrImagePull",
        "pod/web",
        "--timeout=20s",
    ])
    .expect(0);
    run(&["delete", "pod", "web", "--timeout=20s"]).expect(0);

    // A token of one cluster opens no other.
    let text = std::fs::read_to_string(&kubeconfig).unwrap();
    assert!(text.contains("token"), "one token user per cluster");
    let anonymous = run(&["get", "secrets", "-A", "--as=nobody-at-all"]);
    assert_ne!(anonymous.code, Some(0));
    lab.down();
}
