//! The chart of the control plane and `link install --dry-run`: two ways to the same objects.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use datapath::rbac::policy;
use serde_json::{Value, json};
use tests::lab::Lab;

/// What the chart is rendered with, which is what `install` has by itself.
fn values(dry_run: &BTreeMap<String, Value>) -> BTreeMap<&'static str, String> {
    let server = &dry_run["ConfigMap clusterlink-control-plane kosmos-system"]["data"];
    let text = |key: &str| server[key].as_str().unwrap_or_default().to_owned();
    let version = env!("CARGO_PKG_VERSION").to_owned();
    BTreeMap::from([
        (".Release.Namespace", "kosmos-system".to_owned()),
        (".Release.Service", "floaterctl".to_owned()),
        (".Values.controlPlane.server", text("server")),
        (
            ".Values.controlPlane.certificateAuthorityData",
            text("certificate-authority-data"),
        ),
        (
            ".Values.controlPlane.tlsServerName",
            text("tls-server-name"),
        ),
        (".Values.image.repository", "ghcr.io/kosmos-io".to_owned()),
        (".Values.image.tag", version),
        (".Values.replicas", "2".to_owned()),
    ])
}

/// The objects of a stream of documents, by kind, name and namespace.
fn objects(text: &str) -> BTreeMap<String, Value> {
    let documents = text.split("---\n").filter(|one| !one.trim().is_empty());
    let named = documents.map(|document| {
        let value: Value = serde_saphyr::from_str(document).unwrap();
        let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let metadata = &value["metadata"];
        let name = [&value["kind"], &metadata["name"], &metadata["namespace"]].map(word);
        (name.join(" ").trim_end().to_owned(), value)
    });
    named.collect()
}

/// What an API has to have for a template that asks for it.
const HAS: (&str, &str) = ("{{- if .Capabilities.APIVersions.Has \"", "\" }}\n");
const END: &str = "{{- end }}\n";

/// A template with its values, for an API that has these kinds: nothing else of Helm's language is used.
fn rendered(template: &str, values: &BTreeMap<&str, String>, kinds: &[&str]) -> String {
    let mut text = template.to_owned();
    if let Some((kind, rest)) = template
        .strip_prefix(HAS.0)
        .and_then(|rest| rest.split_once(HAS.1))
    {
        let inside = rest.strip_suffix(END).expect("its end");
        text = match kinds.contains(&kind) {
            true => inside.to_owned(),
            false => String::new(),
        };
    }
    for (name, value) in values {
        text = text.replace(&format!("{{{{ {name} }}}}"), value);
    }
    assert!(!text.contains("{{"), "a value is not known: {text}");
    text
}

fn chart() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    root.join("datapath/chart")
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn the_chart_makes_what_an_installation_makes() {
    let lab = Lab::up(&["--clusters", "1", "--nodes", "1", "--virtual"]);
    let kubeconfig = lab.kubeconfig();
    // Its kubeconfig's address is this machine's own, which nobody elsewhere reaches: here nobody has to.
    let install = [
        "link",
        "install",
        "--kubeconfig",
        &kubeconfig,
        "--inner-kubeconfig",
        &kubeconfig,
        "--cluster-name",
        "c1",
        "--dry-run",
    ];
    let dry_run = objects(&lab.place.run(install).expect(0).stdout);
    let values = values(&dry_run);
    let mut made = BTreeMap::new();
    for entry in std::fs::read_dir(chart().join("templates")).unwrap() {
        // The simulated API has no policies of admission, and `install` found that out, too.
        let template = read(&entry.unwrap().path());
        made.extend(objects(&rendered(&template, &values, &[])));
    }
    for entry in std::fs::read_dir(chart().join("crds")).unwrap() {
        let mut definitions = objects(&read(&entry.unwrap().path()));
        for definition in definitions.values_mut() {
            // What `install` writes on everything, and a chart on no definition.
            let labels = json!({"app.kubernetes.io/managed-by": "floaterctl", "app.kubernetes.io/part-of": "clusterlink"});
            definition["metadata"]["labels"] = labels;
        }
        made.append(&mut definitions);
    }
    // A release has a namespace already, and a member has a name, which a chart does not know.
    let of_members = |name: &str| {
        ["-c1", "clusterlink-agent", "clusterlink-controller"]
            .iter()
            .any(|part| name.contains(part))
            || name == "Cluster c1"
            || name == "Namespace kosmos-system"
    };
    let wanted: BTreeMap<_, _> = dry_run
        .into_iter()
        .filter(|(name, _)| !of_members(name))
        .collect();
    let names = |objects: &BTreeMap<String, Value>| objects.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&made), names(&wanted));
    for (name, object) in wanted {
        assert_eq!(made[&name], object, "{name}");
    }
    lab.down();
}

#[test]
fn the_chart_has_the_policy_where_the_api_has_policies() {
    let template = read(&chart().join("templates/policy.yaml"));
    let values = BTreeMap::from([
        (".Release.Namespace", "clusters".to_owned()),
        (".Release.Service", "floaterctl".to_owned()),
    ]);
    assert_eq!(objects(&rendered(&template, &values, &[])), BTreeMap::new());
    let kind = "admissionregistration.k8s.io/v1/ValidatingAdmissionPolicy";
    let made = objects(&rendered(&template, &values, &[kind]));
    assert_eq!(made.len(), 2);
    let kinds = [
        "ValidatingAdmissionPolicy",
        "ValidatingAdmissionPolicyBinding",
    ];
    for (kind, mut wanted) in kinds.into_iter().zip(policy::own_nodes("clusters")) {
        wanted["apiVersion"] = "admissionregistration.k8s.io/v1".into();
        wanted["kind"] = kind.into();
        // What `install` writes on everything.
        wanted["metadata"]["labels"] = json!({"app.kubernetes.io/managed-by": "floaterctl", "app.kubernetes.io/part-of": "clusterlink"});
        let name = format!("{kind} {}", policy::POLICY);
        assert_eq!(made[&name], wanted);
    }
}

#[test]
fn the_chart_has_this_version_and_every_value_a_default() {
    let version = env!("CARGO_PKG_VERSION");
    let about: Value = serde_saphyr::from_str(&read(&chart().join("Chart.yaml"))).unwrap();
    assert_eq!(
        (&about["version"], &about["appVersion"]),
        (&json!(version), &json!(version))
    );
    let values: Value = serde_saphyr::from_str(&read(&chart().join("values.yaml"))).unwrap();
    for entry in std::fs::read_dir(chart().join("templates")).unwrap() {
        let text = read(&entry.unwrap().path());
        for part in text.split("{{ .Values.").skip(1) {
            let (name, _) = part.split_once(" }}").expect("its end");
            let pointer = format!("/{}", name.replace('.', "/"));
            assert!(values.pointer(&pointer).is_some(), "{name} has no default");
        }
    }
}
