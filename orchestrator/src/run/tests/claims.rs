//! Whom a run believes to be which cluster, and whose objects are the fleet's intent.

use super::*;

/// What a run gathers; what it made is removed.
async fn gathered(setup: &Setup) -> Result<Gathered, Error> {
    let context = begin(setup.options.clone()).await?;
    let mut kube = Kube::new(context.clone(), Purpose::Diagnose, false);
    let gathered = gather(&context, &mut kube, Purpose::Diagnose).await;
    context.ledger.remove().await;
    gathered
}

#[tokio::test]
async fn the_same_cluster_twice_is_one_with_a_warning() {
    let east = Mock::new(1, 1, Behaviour::default());
    let setup = setup(&[("east", &east), ("also-east", &east)]);
    let report = run(setup.options.clone(), never())
        .await
        .expect("it answers");
    assert_eq!(report.clusters.len(), 1);
    assert_eq!(report.clusters[0].name, "east");
    let warnings = setup.warnings();
    assert!(
        warnings[0].contains("also-east reach the same cluster"),
        "{warnings:?}"
    );
}

/// One restored from another's etcd, or one that pretends: neither takes the other's place.
#[tokio::test]
async fn one_uid_at_two_clusters_is_a_note_and_both_are_judged() {
    let west = Mock::new(2, 1, Behaviour::default());
    let east = Mock::new(1, 1, Behaviour::default());
    west.put(
        "/api/v1/namespaces/kube-system",
        json!({"metadata": {"name": "kube-system", "uid": "uid-1"}}),
    );
    let setup = setup(&[("west", &west), ("east", &east)]);
    let found = gathered(&setup).await.expect("both answer");
    assert_eq!(found.clusters.len(), 2);
    assert!(
        found
            .clusters
            .iter()
            .all(|cluster| cluster.unreachable.is_none())
    );
    let [note] = &found.inventory_notes[..] else {
        panic!("{:?}", found.inventory_notes);
    };
    assert_eq!(note.code, datapath::code::Code::ClusterIdDuplicate);
    assert_eq!(note.clusters, ["east", "west"]);
}

/// A cluster of some member's name and address: two of them are two claims.
fn claim(mock: &Mock, name: &str, number: u8) {
    let crd = "/apis/kosmos.io/v1alpha1";
    mock.put(
        &format!("{crd}/clusters/{name}"),
        json!({
            "metadata": {"name": name},
            "spec": {"clusterLinkOptions": {"enable": true, "networkType": "gateway", "ipFamily": "ipv4"}},
        }),
    );
    mock.put(
        &format!("{crd}/clusternodes/{name}-n1"),
        json!({
            "metadata": {"name": format!("{name}-n1")},
            "spec": {"clusterName": name, "nodeName": "n1", "ip": format!("100.64.{number}.1"), "roles": ["gateway"]},
        }),
    );
}

#[tokio::test]
async fn of_two_that_claim_to_be_the_control_plane_none_is_believed_until_one_is_named() {
    let (east, west) = two(Behaviour::default());
    for mock in [&east, &west] {
        claim(mock, "alpha", 1);
        claim(mock, "absent", 9);
    }
    let mut setup = setup(&[("ctx-1", &east), ("ctx-2", &west)]);
    for named in [None, Some("ctx-2"), Some("nobody")] {
        setup.options.control_plane = named.map(str::to_owned);
        let found = gathered(&setup).await;
        if named == Some("nobody") {
            assert_eq!(found.err().map(|error| error.exit_code()), Some(64));
            continue;
        }
        let found = found.expect("both answer");
        let mut names: Vec<&str> = found.clusters.iter().map(|c| c.name.as_str()).collect();
        names.sort_unstable();
        match named {
            None => {
                assert_eq!(names, ["ctx-1", "ctx-2"]);
                assert_eq!(found.intent.control_plane, None);
                assert!(found.intent.fleet.clusters.is_empty());
                assert_eq!(
                    found.inventory_notes[0].code,
                    datapath::code::Code::ControlPlaneAmbiguous
                );
                assert_eq!(found.inventory_notes[0].clusters, ["ctx-1", "ctx-2"]);
            }
            Some(_) => {
                // A member that nobody reached is there, too.
                assert_eq!(names, ["absent", "alpha", "ctx-2"]);
                assert_eq!(found.intent.control_plane.as_deref(), Some("ctx-2"));
                assert_eq!(found.inventory_notes, []);
            }
        }
    }
}

#[tokio::test]
async fn stolen_nodes_rename_neither_the_thief_nor_whom_it_robbed() {
    for own_name in [true, false] {
        let honest = Mock::new(1, 1, Behaviour::default());
        let thief = Mock::new(1, 1, Behaviour::default());
        let holder = Mock::new(3, 1, Behaviour::default());
        thief.put(
            "/api/v1/namespaces/kube-system",
            json!({"metadata": {"name": "kube-system", "uid": "uid-2"}}),
        );
        claim(&holder, "alpha", 1);
        claim(&holder, "hub", 3);
        let name = if own_name { "alpha" } else { "ctx-1" };
        let setup = setup(&[("evil", &thief), (name, &honest), ("hub", &holder)]);
        let found = gathered(&setup).await.expect("all answer");
        let mut names: Vec<&str> = found.clusters.iter().map(|c| c.name.as_str()).collect();
        names.sort_unstable();
        let expected: &[&str] = match own_name {
            true => &["alpha", "evil", "hub"],
            false => &["alpha", "ctx-1", "evil", "hub"],
        };
        assert_eq!(names, expected);
        assert!(
            setup
                .warnings()
                .iter()
                .any(|text| text.contains("not taken for alpha"))
        );
    }
}

#[tokio::test]
async fn patterns_that_match_nothing_end_before_anything_is_made() {
    let (east, west) = two(Behaviour::default());
    type Change = fn(&mut RunOptions);
    let changes: [(Change, &str); 3] = [
        (
            |o| o.what.sources = vec!["x*".into()],
            "--sources 'x*' matches no cluster",
        ),
        (
            |o| o.what.destinations = vec!["east".into(), "y".into()],
            "--destinations 'y' matches no cluster",
        ),
        (
            |o| o.what.nodes = vec!["west/n9".into()],
            "--nodes 'west/n9' matches no node",
        ),
    ];
    for (change, words) in changes {
        let mut setup = setup(&[("east", &east), ("west", &west)]);
        change(&mut setup.options);
        let error = run(setup.options, never())
            .await
            .expect_err("nothing matches");
        assert_eq!((error.exit_code(), &*error.to_string()), (64, words));
    }
    assert!(east.log().iter().all(|line| line.starts_with("GET ")));
}

#[tokio::test]
async fn intent_comes_from_the_cluster_that_says_it_is_the_control_plane() {
    let (east, west) = two(Behaviour::default());
    let crd = "/apis/kosmos.io/v1alpha1";
    for (name, number, root) in [("alpha", 1, false), ("beta", 2, true)] {
        let mut object = json!({
            "metadata": {"name": name, "labels": {}},
            "spec": {"clusterLinkOptions": {"enable": true, "networkType": "gateway", "ipFamily": "ipv4"}},
        });
        if root {
            object["metadata"]["labels"]["kosmos.io/cluster-role"] = json!("root");
        }
        west.put(&format!("{crd}/clusters/{name}"), object);
        west.put(
            &format!("{crd}/clusternodes/{name}-n1"),
            json!({
                "metadata": {"name": format!("{name}-n1")},
                "spec": {"clusterName": name, "nodeName": "n1", "ip": format!("100.64.{number}.1"), "roles": ["gateway"]},
            }),
        );
    }
    // One object that cannot be understood harms only itself.
    west.put(
        &format!("{crd}/clusters/broken"),
        json!({"metadata": {"name": "broken"}, "spec": {"clusterLinkOptions": {"networkType": "carrier-pigeon"}}}),
    );
    let setup = setup(&[("ctx-1", &east), ("ctx-2", &west)]);
    let report = run(setup.options.clone(), never())
        .await
        .expect("both answer");
    // Contexts of other names are recognised by their nodes.
    let clusters: Vec<_> = report
        .clusters
        .iter()
        .map(|cluster| (cluster.name.as_str(), cluster.mode.as_deref()))
        .collect();
    assert_eq!(
        clusters,
        [("alpha", Some("gateway")), ("beta", Some("gateway"))]
    );
    let warnings = setup.warnings();
    assert!(
        warnings
            .iter()
            .any(|text| text.contains("broken cannot be understood")),
        "{warnings:?}"
    );
}

#[tokio::test]
async fn a_control_plane_s_objects_are_the_inventory() {
    use base64::Engine as _;
    let root = Mock::new(1, 1, Behaviour::default());
    let encoded = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
    let refused = "clusters: [{name: c, cluster: {server: 'http://127.0.0.1:1'}}]\ncontexts: [{name: c, context: {cluster: c}}]\n";
    let crd = "/apis/kosmos.io/v1alpha1";
    for (name, spec) in [
        ("hub", json!({})),
        ("refused", json!({"kubeconfig": encoded(refused)})),
        (
            "garbled",
            json!({"kubeconfig": encoded("users: [{name: u, user: {token: s3cret}}")}),
        ),
        ("without", json!({})),
    ] {
        let mut object = json!({"metadata": {"name": name, "labels": {}}, "spec": spec});
        if name == "hub" {
            object["metadata"]["annotations"] = json!({"kosmos.io/cluster-role": "root"});
        }
        root.put(&format!("{crd}/clusters/{name}"), object);
    }
    let mut setup = setup(&[("context-of-the-hub", &root)]);
    setup.options.targets[0].role = inventory::Role::Fleet;
    let report = run(setup.options.clone(), never())
        .await
        .expect("the hub answers");
    let clusters: Vec<_> = report
        .clusters
        .iter()
        .map(|cluster| {
            (
                cluster.name.as_str(),
                cluster.state,
                cluster.reason.clone().unwrap_or_default(),
            )
        })
        .collect();
    let [garbled, hub, refused, without] = &clusters[..] else {
        panic!("{clusters:?}");
    };
    assert_eq!(hub.0, "hub");
    assert_eq!(hub.1, Observation::Observed);
    assert!(
        garbled.2.starts_with("clusters.kosmos.io/garbled:1: "),
        "{}",
        garbled.2
    );
    assert!(!garbled.2.contains("s3cret"));
    // The control plane is not on this machine, so no member of it is.
    assert!(
        refused.2.contains("loopback address of this machine"),
        "{}",
        refused.2
    );
    assert!(refused.2.ends_with("(http://127.0.0.1:1)"), "{}", refused.2);
    assert!(without.2.starts_with("could not tell"), "{}", without.2);
    assert!(without.2.contains("--kubeconfig"), "{}", without.2);

    let empty = Mock::new(2, 1, Behaviour::default());
    let mut lonely = super::tests::setup(&[("hub", &empty)]);
    lonely.options.targets[0].role = inventory::Role::Fleet;
    let error = run(lonely.options, never())
        .await
        .expect_err("it has no inventory");
    assert_eq!(error.exit_code(), 69);
}

/// Clusters that were joined without leaving a kubeconfig behind are found among contexts that are given beside the control plane's.
#[tokio::test]
async fn members_without_kubeconfigs_are_found_among_the_contexts_that_are_given() {
    let [root, west, north, stranger, other] =
        [1, 2, 3, 4, 5].map(|number| Mock::new(number, 1, Behaviour::default()));
    let crd = "/apis/kosmos.io/v1alpha1";
    for (name, uid) in [
        ("hub", "uid-1"),
        ("west", "uid-2"),
        ("north", ""),
        ("away", "uid-9"),
        ("other", "uid-8"),
    ] {
        let mut object = json!({"metadata": {"name": name, "annotations": {}}, "spec": {}});
        if name == "hub" {
            object["metadata"]["annotations"]["kosmos.io/cluster-role"] = json!("root");
        }
        if !uid.is_empty() {
            object["metadata"]["annotations"]["kosmos.io/clusterlink-uid"] = json!(uid);
        }
        root.put(&format!("{crd}/clusters/{name}"), object);
    }
    let mut setup = setup(&[
        ("hub-admin", &root),
        ("hub-again", &root),
        ("admin@west", &west),
        ("north", &north),
        ("stranger", &stranger),
        ("other", &other),
    ]);
    setup.options.targets[0].role = inventory::Role::Fleet;
    let report = run(setup.options.clone(), never())
        .await
        .expect("they answer");
    let clusters: Vec<_> = report
        .clusters
        .iter()
        .map(|cluster| (cluster.name.as_str(), cluster.state))
        .collect();
    assert_eq!(
        clusters,
        [
            ("away", Observation::Unobserved),
            ("hub", Observation::Observed),
            ("north", Observation::Observed),
            // A name alone is no proof where the member says which cluster it is.
            ("other", Observation::Unobserved),
            ("west", Observation::Observed),
        ]
    );
    let warnings = setup.warnings().join("\n");
    for left_out in ["stranger is no member", "other is no member"] {
        assert!(warnings.contains(left_out), "{warnings}");
    }
    assert!(!warnings.contains("hub-again"), "{warnings}");
}
