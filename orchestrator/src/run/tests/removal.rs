//! What a run leaves, however it ends.

use super::*;

#[tokio::test]
async fn an_interruption_removes_what_is_there_and_what_is_still_being_made() {
    for hold in ["serviceaccounts", "secrets", "daemonsets", "/proxy/"] {
        let (east, west) = two(Behaviour {
            slow: vec![(Method::POST, hold, Duration::from_millis(300))],
            ..Default::default()
        });
        let setup = setup(&[("east", &east), ("west", &west)]);
        let interrupt = async {
            while !west
                .log()
                .iter()
                .any(|line| line.starts_with("POST") && line.contains(hold))
            {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let error = run(setup.options.clone(), interrupt)
            .await
            .expect_err("interrupted");
        assert_eq!(error, Error::Interrupted { left: Vec::new() }, "{hold}");
        for mock in [&east, &west] {
            assert_eq!(mock.ours(), Vec::<String>::new(), "{hold}");
        }
        // Nothing arrives later, either.
        tokio::time::sleep(Duration::from_millis(350)).await;
        assert_eq!(west.ours(), Vec::<String>::new(), "{hold}");
    }
}

#[tokio::test]
async fn a_dropped_run_removes_as_well() {
    let (east, west) = two(Behaviour {
        never_ready: ["n1"].into(),
        ..Default::default()
    });
    let mut setup = setup(&[("east", &east), ("west", &west)]);
    setup.options.pod_wait = Duration::from_secs(60);
    let run = run(setup.options.clone(), never());
    let _ = tokio::time::timeout(Duration::from_millis(300), run).await;
    for _ in 0..100 {
        if east.ours().is_empty() && west.ours().is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!((east.ours().len(), west.ours().len()), (0, 0));
}

#[tokio::test]
async fn a_panic_removes_before_it_goes_on() {
    let (east, west) = two(Behaviour::default());
    let mut setup = setup(&[("east", &east), ("west", &west)]);
    setup.options.progress = Arc::new(|progress| {
        assert!(!matches!(progress, Progress::Probing { .. }), "on purpose");
    });
    let options = setup.options.clone();
    let result = tokio::spawn(async move { run(options, never()).await.map(drop) }).await;
    assert!(result.is_err_and(|error| error.is_panic()));
    assert_eq!((east.ours().len(), west.ours().len()), (0, 0));
}

#[tokio::test]
async fn what_cannot_be_removed_is_told_and_the_rest_is_removed() {
    let (east, west) = two(Behaviour {
        refuse: vec![(Method::DELETE, "/secrets/", 403)],
        ..Default::default()
    });
    let setup = setup(&[("east", &east), ("west", &west)]);
    run(setup.options.clone(), never())
        .await
        .expect("both answer");
    let left = west.ours();
    assert_eq!(left.len(), 1);
    assert!(left[0].contains("/secrets/"));
    assert_eq!(east.ours(), Vec::<String>::new());
    let warnings = setup.warnings();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(
        warnings[0].contains("west: Secret kosmos-system/floater-"),
        "{warnings:?}"
    );
    assert!(warnings[0].contains("403"), "{warnings:?}");
}

#[tokio::test]
async fn kept_floaters_serve_the_next_run() {
    let (east, west) = two(Behaviour::default());
    let mut first = setup(&[("east", &east), ("west", &west)]);
    first.options.keep = true;
    run(first.options.clone(), never())
        .await
        .expect("both answer");
    let kept = east.ours();
    // ServiceAccount, Secret, two DaemonSets and two pods of each.
    assert_eq!(kept.len(), 8, "{kept:?}");
    for path in &kept {
        let object = east.object(path).expect("it was listed");
        assert_eq!(object["metadata"]["annotations"][SHARED], "true", "{path}");
        assert!(object["metadata"]["annotations"][EXPIRES].is_string());
    }
    let before = east.log().len();
    let second = setup(&[("east", &east), ("west", &west)]);
    let report = run(second.options.clone(), never())
        .await
        .expect("both answer");
    assert!(report.unjudged.is_empty());
    assert_eq!(east.ours(), kept);
    let made = east.log()[before..]
        .iter()
        .filter(|line| line.starts_with("POST") && !line.contains("/proxy/"))
        .count();
    assert_eq!(made, 0);
}

#[tokio::test]
async fn another_run_s_floaters_are_neither_used_nor_removed_nor_collided_with() {
    let (east, west) = two(Behaviour::default());
    // A run that holds its floaters while the other one works.
    let first = setup(&[("east", &east)]);
    let held = crate::fleet::remove::Ledger::default();
    let context = begin(first.options.clone())
        .await
        .expect("the options are good");
    let mut kube = Kube::new(context.clone(), Purpose::Diagnose, false);
    gather(&context, &mut kube, Purpose::Diagnose)
        .await
        .expect("it answers");
    let theirs = east.ours();
    assert_eq!(theirs.len(), 8);
    let second = setup(&[("east", &east), ("west", &west)]);
    let report = run(second.options.clone(), never())
        .await
        .expect("both answer");
    assert!(report.unjudged.is_empty(), "{:?}", report.unjudged);
    assert_eq!(east.ours(), theirs);
    // The second run's floaters in the host network had ports of their own.
    let ports: BTreeSet<String> = east
        .log()
        .iter()
        .filter(|line| line.ends_with("/proxy/v2/tables"))
        .filter_map(|line| Some(line.rsplit(':').next()?.split('/').next()?.to_owned()))
        .collect();
    assert_eq!(ports.len(), 2, "{ports:?}");
    assert_eq!(held.remove().await, Vec::<String>::new());
    context.ledger.remove().await;
    assert_eq!(east.ours(), Vec::<String>::new());
}

#[tokio::test]
async fn a_namespace_that_a_run_made_goes_with_it_unless_somebody_moved_in() {
    for moved_in in [false, true] {
        let east = Mock::new(1, 1, Behaviour::default());
        east.remove("/api/v1/namespaces/kosmos-system");
        let mut setup = setup(&[("east", &east)]);
        let inside = Arc::clone(&east);
        setup.options.progress = Arc::new(move |progress| {
            if moved_in && matches!(progress, Progress::Diagnosing) {
                inside.put(
                    "/api/v1/namespaces/kosmos-system/configmaps/mine",
                    json!({"metadata": {"name": "mine"}}),
                );
            }
        });
        run(setup.options.clone(), never())
            .await
            .expect("it answers");
        let there = east.object("/api/v1/namespaces/kosmos-system").is_some();
        assert_eq!(there, moved_in);
        assert_eq!(east.paths("configmaps").len(), usize::from(moved_in));
    }
}

/// What controllers put into every namespace keeps none; another run's objects do, and the run says so.
#[tokio::test]
async fn a_namespace_is_kept_by_inhabitants_and_not_by_its_furniture() {
    let home = "/api/v1/namespaces/kosmos-system";
    let mut theirs = marked("theirs", true, None);
    theirs["metadata"]["labels"]["floater.kosmos.io/run"] = json!("another");
    for (path, object, stays) in [
        ("configmaps/kube-root-ca.crt", json!({}), false),
        (
            "secrets/default-token-x",
            json!({"type": "kubernetes.io/service-account-token"}),
            false,
        ),
        // A mesh's root certificate, which is in every namespace.
        ("configmaps/mesh-root", json!({}), false),
        ("configmaps/mine", json!({}), true),
        ("secrets/theirs", theirs, true),
    ] {
        let east = Mock::new(1, 1, Behaviour::default());
        east.remove(home);
        for everywhere in ["default", "kube-public"] {
            let path = format!("/api/v1/namespaces/{everywhere}/configmaps/mesh-root");
            east.put(&path, json!({"metadata": {"name": "mesh-root"}}));
        }
        let mut setup = setup(&[("east", &east)]);
        let (inside, told) = (Arc::clone(&east), Arc::clone(&setup.told));
        setup.options.progress = Arc::new(move |progress| {
            if matches!(progress, Progress::Diagnosing) {
                let mut object = object.clone();
                object["metadata"]["name"] = json!(path.rsplit('/').next());
                inside.put(&format!("{home}/{path}"), object);
            }
            told.lock()
                .expect("no panic while it is held")
                .push(progress);
        });
        run(setup.options.clone(), never())
            .await
            .expect("it answers");
        assert_eq!(east.object(home).is_some(), stays, "{path}");
        let said = setup
            .warnings()
            .iter()
            .any(|text| text.contains(path) && text.contains("stays"));
        assert_eq!(said, stays, "{path}: {:?}", setup.warnings());
    }
}

#[tokio::test]
async fn pods_that_a_cluster_refuses_are_not_waited_for() {
    let (east, west) = two(Behaviour {
        refuses_pods: Some("pods \"x\" is forbidden: exceeded quota: team"),
        ..Default::default()
    });
    let mut setup = setup(&[("east", &east), ("west", &west)]);
    setup.options.pod_wait = Duration::from_secs(300);
    let report = tokio::time::timeout(Duration::from_secs(60), run(setup.options.clone(), never()))
        .await
        .expect("nobody waits for what is refused")
        .expect("both answer");
    let reason = report.clusters[1].reason.clone().unwrap_or_default();
    assert!(
        reason.contains("refuses the pods") && reason.contains("exceeded quota: team"),
        "{reason}"
    );
    assert_eq!(west.ours(), Vec::<String>::new());
}

/// Neither its floater nor the end of its pods is waited for.
#[tokio::test]
async fn a_node_that_does_not_answer_holds_up_nothing() {
    let (east, west) = two(Behaviour {
        stuck: ["n9"].into(),
        never_ready: ["n9"].into(),
        ..Default::default()
    });
    west.put(
        "/api/v1/nodes/n9",
        json!({"metadata": {"name": "n9"}, "status": {
            "addresses": [{"type": "InternalIP", "address": "100.64.2.9"}],
            "conditions": [{"type": "Ready", "status": "Unknown"}],
        }}),
    );
    let mut setup = setup(&[("east", &east), ("west", &west)]);
    setup.options.pod_wait = Duration::from_secs(300);
    tokio::time::timeout(Duration::from_secs(15), run(setup.options.clone(), never()))
        .await
        .expect("it holds up nothing")
        .expect("both answer");
    assert_eq!(setup.warnings(), Vec::<String>::new());
    assert!(
        west.ours().iter().all(|path| path.contains("/pods/")),
        "{:?}",
        west.ours()
    );
}

/// Of two runs that begin together one finds its ports taken only when its pods are there.
#[tokio::test]
async fn ports_that_turn_out_to_be_taken_are_changed() {
    let (east, west) = two(Behaviour {
        lacks_port: Some("8889"),
        ..Default::default()
    });
    let mut setup = setup(&[("east", &east), ("west", &west)]);
    setup.options.pod_wait = Duration::from_secs(300);
    let report = tokio::time::timeout(Duration::from_secs(60), run(setup.options.clone(), never()))
        .await
        .expect("taken ports are not waited for")
        .expect("both answer");
    assert_eq!(
        report.clusters[1].state,
        Observation::Observed,
        "{:?}",
        report.clusters[1].reason
    );
    assert_eq!(west.ours(), Vec::<String>::new());
}

/// A sidecar of a mesh, a layer that is refused: the other layer is judged.
#[tokio::test]
async fn a_layer_that_is_refused_costs_itself() {
    let (east, west) = two(Behaviour {
        refuse_host_network: true,
        ..Default::default()
    });
    let setup = setup(&[("east", &east), ("west", &west)]);
    let report = run(setup.options.clone(), never())
        .await
        .expect("both answer");
    assert_eq!(report.clusters[1].state, Observation::Partly);
    let pod = report
        .cells()
        .find(|cell| cell.src == "west" && cell.dst == "east" && cell.layer == Layer::Pod);
    assert_eq!(pod.map(|cell| cell.verdict), Some(CellVerdict::Pass));
}

fn marked(name: &str, managed: bool, expires: Option<&str>) -> serde_json::Value {
    let mut object =
        json!({"metadata": {"name": name, "uid": name, "labels": {}, "annotations": {}}});
    if managed {
        object["metadata"]["labels"]["app.kubernetes.io/managed-by"] = json!("floaterctl");
        object["metadata"]["labels"]["floater.kosmos.io/run"] = json!("dead");
    }
    if let Some(expires) = expires {
        object["metadata"]["annotations"][EXPIRES] = json!(expires);
    }
    object
}

#[tokio::test]
async fn a_sweep_takes_what_is_ours_and_expired_and_nothing_else() {
    let east = Mock::new(1, 1, Behaviour::default());
    let collections = [
        "/apis/apps/v1/namespaces/kosmos-system/daemonsets",
        "/api/v1/namespaces/kosmos-system/secrets",
        "/api/v1/namespaces/kosmos-system/serviceaccounts",
    ];
    let (past, future) = ("2020-01-01T00:00:00Z", "2120-01-01T00:00:00Z");
    for collection in collections {
        for (name, managed, expires) in [
            ("expired", true, Some(past)),
            ("alive", true, Some(future)),
            ("eternal", true, None),
            ("unreadable", true, Some("soon")),
            ("somebodys", false, Some(past)),
        ] {
            east.put(
                &format!("{collection}/{name}"),
                marked(name, managed, expires),
            );
        }
    }
    let setup = setup(&[("east", &east)]);
    let Swept { removed, staying } = sweep(setup.options.clone(), false, never())
        .await
        .expect("it answers");
    for kind in ["DaemonSet", "Secret", "ServiceAccount"] {
        assert_eq!(
            staying
                .iter()
                .filter(|sentence| sentence.contains(kind))
                .collect::<Vec<_>>(),
            [
                &format!("east: {kind} kosmos-system/alive stays until 2120-01-01 00:00 UTC"),
                &format!(
                    "east: {kind} kosmos-system/eternal is left alone: it carries no expiry annotation"
                ),
                &format!(
                    "east: {kind} kosmos-system/unreadable is left alone: it carries no expiry annotation"
                ),
            ]
        );
    }
    assert_eq!(
        removed,
        [
            "east: DaemonSet kosmos-system/expired",
            "east: Secret kosmos-system/expired",
            "east: ServiceAccount kosmos-system/expired",
        ]
    );
    for collection in collections {
        let left: BTreeSet<String> = east.paths(collection).into_iter().collect();
        let expected: BTreeSet<String> = ["alive", "eternal", "unreadable", "somebodys"]
            .iter()
            .map(|name| format!("{collection}/{name}"))
            .collect();
        assert_eq!(left, expected);
    }
}

#[tokio::test]
async fn a_forced_sweep_takes_what_has_not_expired_and_nothing_of_others() {
    let east = Mock::new(1, 1, Behaviour::default());
    let collection = "/api/v1/namespaces/kosmos-system/secrets";
    for (name, managed) in [("alive", true), ("somebodys", false)] {
        let object = marked(name, managed, Some("2120-01-01T00:00:00Z"));
        east.put(&format!("{collection}/{name}"), object);
    }
    let setup = setup(&[("east", &east)]);
    let Swept { removed, staying } = sweep(setup.options.clone(), true, never())
        .await
        .expect("it answers");
    assert_eq!(removed, ["east: Secret kosmos-system/alive"]);
    assert_eq!(staying, Vec::<String>::new());
    assert_eq!(east.paths("secrets/"), [format!("{collection}/somebodys")]);
}

#[tokio::test]
async fn a_dry_run_says_what_it_would_make_and_makes_nothing() {
    let (east, west) = two(Behaviour::default());
    west.remove("/api/v1/namespaces/kosmos-system");
    let mut setup = setup(&[("east", &east), ("west", &west)]);
    setup.options.service_account = Some("granted".into());
    let planned = dry_run(setup.options, never()).await.expect("both answer");
    let kinds: Vec<(&str, Vec<&str>)> = planned
        .iter()
        .map(|(name, objects)| {
            let kinds = objects.iter().filter_map(|object| object["kind"].as_str());
            (name.as_str(), kinds.collect())
        })
        .collect();
    assert_eq!(
        kinds,
        [
            ("east", vec!["Secret", "DaemonSet", "DaemonSet"]),
            (
                "west",
                vec!["Namespace", "Secret", "DaemonSet", "DaemonSet"]
            ),
        ]
    );
    for mock in [&east, &west] {
        assert!(mock.log().iter().all(|line| line.starts_with("GET ")));
    }
}

/// Neither judges anything, so neither tells what a run tells; whoever is slow changes no order, and whoever is silent is a warning.
#[tokio::test]
async fn a_dry_run_and_a_sweep_tell_no_verdicts_and_keep_the_inventory_s_order() {
    let slow = Behaviour {
        slow: vec![(Method::GET, "/", Duration::from_millis(30))],
        ..Default::default()
    };
    let dead = Behaviour {
        refuses_connections: true,
        ..Default::default()
    };
    let clusters = [
        Mock::new(1, 1, slow),
        Mock::new(2, 1, Behaviour::default()),
        Mock::new(3, 1, dead),
    ];
    let [slow, east, dead] = &clusters;
    for mock in [slow, east] {
        let path = "/api/v1/namespaces/kosmos-system/secrets/alive";
        mock.put(path, marked("alive", true, Some("2120-01-01T00:00:00Z")));
    }
    let named = [("west", slow), ("east", east), ("gone", dead)];
    let dry = setup(&named);
    let planned = dry_run(dry.options.clone(), never())
        .await
        .expect("two answer");
    let names: Vec<&str> = planned.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["west", "east"]);
    let swept = setup(&named);
    let Swept { removed, .. } = sweep(swept.options.clone(), true, never())
        .await
        .expect("two answer");
    assert_eq!(
        removed,
        [
            "west: Secret kosmos-system/alive",
            "east: Secret kosmos-system/alive"
        ]
    );
    for (setup, words) in [(&dry, "gone: "), (&swept, "gone is not swept: ")] {
        let told = setup.told.lock().expect("no panic while it is held");
        let is_a_run_s = |told: &&Progress| {
            !matches!(
                told,
                Progress::Looking { .. } | Progress::Swept { .. } | Progress::Warning(_)
            )
        };
        assert_eq!(told.iter().filter(is_a_run_s).count(), 0, "{told:?}");
        drop(told);
        let warnings = setup.warnings();
        assert!(
            warnings.iter().any(|text| text.starts_with(words)),
            "{warnings:?}"
        );
    }
}

#[tokio::test]
async fn a_run_sweeps_on_its_way() {
    let east = Mock::new(1, 1, Behaviour::default());
    let path = "/api/v1/namespaces/kosmos-system/secrets/expired";
    east.put(path, marked("expired", true, Some("2020-01-01T00:00:00Z")));
    let setup = setup(&[("east", &east)]);
    run(setup.options.clone(), never())
        .await
        .expect("it answers");
    assert!(east.object(path).is_none());
}
