//! Whole runs against clusters in memory: what is made, asked and judged, and that nothing stays behind whatever happens.

use std::collections::BTreeSet;
use std::sync::Mutex;

use http::Method;
use serde_json::json;

use super::*;
use crate::fleet::mock::{Behaviour, Mock};
use crate::manifest::{EXPIRES, SHARED};

/// Options over some clusters, and what they tell.
struct Setup {
    options: RunOptions,
    told: Arc<Mutex<Vec<Progress>>>,
}

fn setup(clusters: &[(&str, &Arc<Mock>)]) -> Setup {
    let told = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&told);
    let options = RunOptions {
        targets: clusters
            .iter()
            .map(|(name, mock)| Target::with_client(*name, mock.client()))
            .collect(),
        pod_wait: Duration::from_millis(400),
        progress: Arc::new(move |progress| {
            if let Ok(mut told) = sink.lock() {
                told.push(progress);
            }
        }),
        ..Default::default()
    };
    Setup { options, told }
}

impl Setup {
    fn warnings(&self) -> Vec<String> {
        let told = self.told.lock().expect("no panic while it is held");
        let warnings = told.iter().filter_map(|progress| match progress {
            Progress::Warning(text) => Some(text.clone()),
            _ => None,
        });
        warnings.collect()
    }
}

/// Of two clusters of two nodes: 4 × 3 ordered pairs of nodes on two layers, and one large echo request each.
const PACKETS: u64 = 12 * 2 * (probe_plan::ICMP_COUNT + 1 + probe_plan::TCP_COUNT) as u64;

fn never() -> impl Future<Output = ()> {
    futures::future::pending()
}

fn two(behaviour: Behaviour) -> (Arc<Mock>, Arc<Mock>) {
    (
        Mock::new(1, 2, Behaviour::default()),
        Mock::new(2, 2, behaviour),
    )
}

#[tokio::test]
async fn a_run_deploys_asks_judges_and_removes() {
    let (east, west) = two(Behaviour {
        ready_on_watch: true,
        ..Default::default()
    });
    let setup = setup(&[("west", &west), ("east", &east)]);
    let report = run(setup.options.clone(), never())
        .await
        .expect("both answer");
    let names: Vec<&str> = report.clusters.iter().map(|c| c.name.as_str()).collect();
    assert_eq!(names, ["east", "west"]);
    assert!(
        report
            .clusters
            .iter()
            .all(|c| c.state == Observation::Observed)
    );
    assert_eq!(report.coverage.probes_sent, PACKETS);
    assert!(report.unjudged.is_empty(), "{:?}", report.unjudged);
    assert!(
        report
            .cells
            .iter()
            .all(|cell| cell.verdict == CellVerdict::Pass)
    );
    for mock in [&east, &west] {
        assert_eq!(mock.ours(), Vec::<String>::new());
        let made: Vec<String> = mock
            .log()
            .into_iter()
            .filter(|line| line.starts_with("POST") && !line.contains("/proxy/"))
            .map(|line| line.rsplit('/').next().unwrap_or_default().to_owned())
            .collect();
        assert_eq!(
            made,
            ["serviceaccounts", "secrets", "daemonsets", "daemonsets"]
        );
    }
    let told = setup.told.lock().expect("no panic while it is held");
    let cells = told.iter().filter(|p| {
        matches!(
            p,
            Progress::Cell {
                verdict: CellVerdict::Pass,
                ..
            }
        )
    });
    assert_eq!(cells.count(), 4 * 2);
    assert!(told.iter().any(|p| matches!(p, Progress::Removing)));
}

#[tokio::test]
async fn a_dead_destination_fails_its_cells_only() {
    let east = Mock::new(
        1,
        1,
        Behaviour {
            dead: ["100.64.2.1"].into(),
            ..Default::default()
        },
    );
    let west = Mock::new(2, 1, Behaviour::default());
    let setup = setup(&[("east", &east), ("west", &west)]);
    let report = run(setup.options.clone(), never())
        .await
        .expect("both answer");
    for cell in &report.cells {
        let dead = cell.src == "east" && cell.dst == "west" && cell.layer == Layer::Host;
        let expected = if dead {
            CellVerdict::Fail
        } else {
            CellVerdict::Pass
        };
        assert_eq!(cell.verdict, expected, "{cell:?}");
    }
    assert_eq!(exit_code(&report, Severity::Error), 1);
}

#[tokio::test]
async fn a_cluster_that_refuses_floaters_is_judged_by_the_others_and_left_clean() {
    let (east, west) = two(Behaviour {
        refuse: vec![(Method::POST, "daemonsets", 403)],
        ..Default::default()
    });
    let setup = setup(&[("east", &east), ("west", &west)]);
    let report = run(setup.options.clone(), never())
        .await
        .expect("east answers");
    assert_eq!(report.clusters[0].state, Observation::Observed);
    assert_eq!(report.clusters[1].state, Observation::Unobserved);
    let reason = report.clusters[1].reason.clone().unwrap_or_default();
    assert!(reason.contains("DaemonSet cannot be created"), "{reason}");
    assert!(!report.unjudged.is_empty());
    assert_eq!(exit_code(&report, Severity::Error), 2);
    assert_eq!(west.ours(), Vec::<String>::new());
    assert_eq!(east.ours(), Vec::<String>::new());
}

#[tokio::test]
async fn pods_that_never_come_cost_their_node_only() {
    let (east, west) = two(Behaviour {
        never_ready: ["n2"].into(),
        ..Default::default()
    });
    let setup = setup(&[("east", &east), ("west", &west)]);
    let report = run(setup.options.clone(), never())
        .await
        .expect("both answer");
    assert_eq!(report.clusters[1].state, Observation::Partly);
    let reason = report.clusters[1].reason.clone().unwrap_or_default();
    assert!(reason.contains("ErrImagePull: no such image"), "{reason}");
    let inside = report
        .cells
        .iter()
        .find(|c| c.src == "east" && c.dst == "west");
    assert!(inside.is_some_and(|cell| cell.received > 0));
    assert_eq!(west.ours(), Vec::<String>::new());
}

#[tokio::test]
async fn floaters_that_answer_are_asked_whether_or_not_they_are_ready() {
    let (east, west) = two(Behaviour {
        unready: ["n2"].into(),
        ..Default::default()
    });
    let mut setup = setup(&[("east", &east), ("west", &west)]);
    setup.options.pod_wait = Duration::from_secs(300);
    let report = tokio::time::timeout(Duration::from_secs(60), run(setup.options.clone(), never()))
        .await
        .expect("no floater's readiness is waited for")
        .expect("both answer");
    assert_eq!(report.clusters[1].state, Observation::Observed);
    assert_eq!(report.unjudged, Vec::<String>::new());
    assert_eq!(west.ours(), Vec::<String>::new());
}

#[tokio::test]
async fn a_floater_that_dies_in_the_middle_is_a_reason_and_no_verdict() {
    let (east, west) = two(Behaviour {
        dies_probing: ["n1"].into(),
        ..Default::default()
    });
    let setup = setup(&[("east", &east), ("west", &west)]);
    let report = run(setup.options.clone(), never())
        .await
        .expect("both answer");
    assert!(
        report
            .cells
            .iter()
            .all(|cell| cell.verdict != CellVerdict::Fail)
    );
    assert_ne!(exit_code(&report, Severity::Error), 1);
}

/// It runs as many plans as it may: the next round finds it free.
#[tokio::test]
async fn a_floater_that_is_busy_is_asked_again() {
    let (east, west) = two(Behaviour {
        busy: 3,
        ..Default::default()
    });
    let setup = setup(&[("east", &east), ("west", &west)]);
    let report = run(setup.options.clone(), never())
        .await
        .expect("both answer");
    assert_eq!(report.unjudged, Vec::<String>::new());
    assert!(report.coverage.probes_sent >= PACKETS);
    assert!(
        report
            .cells
            .iter()
            .all(|cell| cell.verdict == CellVerdict::Pass)
    );
}

#[tokio::test]
async fn a_cluster_s_own_time_limit_is_neither_shortened_nor_exceeded() {
    for (delay, answers) in [
        (Duration::from_millis(50), true),
        (Duration::from_secs(60), false),
    ] {
        let (east, west) = two(Behaviour {
            slow: vec![(Method::GET, "/api/v1/nodes", delay)],
            ..Default::default()
        });
        let mut setup = setup(&[("east", &east), ("west", &west)]);
        setup.options.cluster_timeout = Some(Duration::from_millis(900));
        let report = run(setup.options, never()).await.expect("east answers");
        let reason = report.clusters[1].reason.clone().unwrap_or_default();
        assert_eq!(
            reason.contains("did not answer within 0.9 s"),
            !answers,
            "{reason}"
        );
    }
}

#[tokio::test]
async fn some_clusters_that_do_not_answer_are_unobserved_and_none_at_all_is_an_error() {
    let dead = || {
        Mock::new(
            9,
            1,
            Behaviour {
                refuses_connections: true,
                ..Default::default()
            },
        )
    };
    let (east, north) = (Mock::new(1, 1, Behaviour::default()), dead());
    let setup = setup(&[("east", &east), ("north", &north)]);
    let report = run(setup.options.clone(), never())
        .await
        .expect("east answers");
    assert_eq!(report.clusters[1].state, Observation::Unobserved);
    assert_eq!(
        report.clusters[1].reason.as_deref(),
        Some("API server unreachable: connection refused")
    );
    assert_eq!(exit_code(&report, Severity::Error), 2);

    let lonely = super::tests::setup(&[("north", &dead()), ("south", &dead())]);
    let error = run(lonely.options, never())
        .await
        .expect_err("nobody answers");
    assert_eq!(error.exit_code(), 69);
    assert!(
        error
            .to_string()
            .contains("north: API server unreachable: connection refused"),
        "{error}"
    );
}

#[tokio::test]
async fn the_run_s_time_limit_bounds_a_cluster_that_hangs() {
    let hang = || Behaviour {
        hang: vec![(Method::GET, "/api/v1/nodes")],
        ..Default::default()
    };
    let (east, west) = two(hang());
    // While only one of three has answered nobody is late.
    let north = Mock::new(3, 1, hang());
    let mut setup = setup(&[("east", &east), ("west", &west), ("x", &north)]);
    setup.options.timeout = Some(Duration::from_millis(600));
    let began = Instant::now();
    let report = run(setup.options.clone(), never())
        .await
        .expect("east answers");
    assert!(began.elapsed() < Duration::from_secs(3));
    let reason = report.clusters[1].reason.clone().unwrap_or_default();
    assert!(reason.contains("was up before it answered"), "{reason}");
    assert_eq!(east.ours(), Vec::<String>::new());
}

/// Neither an API that hangs half-way nor one that never answers takes the others' time, whatever its own limits are.
#[tokio::test]
async fn a_cluster_that_hangs_leaves_time_for_the_others() {
    let north = Mock::new(3, 1, Behaviour::default());
    let (east, west) = two(Behaviour {
        hang: vec![(Method::GET, "/api/v1/nodes")],
        ..Default::default()
    });
    let mut setup = setup(&[("east", &east), ("north", &north), ("west", &west)]);
    setup.options.timeout = Some(Duration::from_secs(8));
    let report = run(setup.options.clone(), never())
        .await
        .expect("two answer");
    let reason = report.clusters[2].reason.clone().unwrap_or_default();
    assert!(
        reason.contains("the other clusters had long done so"),
        "{reason}"
    );
    let between: Vec<_> = report
        .cells
        .iter()
        .filter(|cell| cell.src != "west" && cell.dst != "west")
        .map(|cell| cell.verdict)
        .collect();
    assert_eq!(between, [CellVerdict::Pass; 8]);
    assert_eq!(exit_code(&report, Severity::Error), 2);
}

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
    let context = begin(first.options.clone()).expect("the options are good");
    let found = clusters::prepare(&context, first.options.targets.clone())
        .await
        .expect("it answers");
    drop(found);
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
        .cells
        .iter()
        .find(|cell| cell.src == "west" && cell.dst == "east" && cell.layer == Layer::Pod);
    assert_eq!(pod.map(|cell| cell.verdict), Some(CellVerdict::Pass));
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
    let context = begin(setup.options.clone()).expect("the options are good");
    let found = clusters::prepare(&context, setup.options.targets.clone())
        .await
        .expect("both answer");
    context.ledger.remove().await;
    assert_eq!(found.clusters.len(), 2);
    assert!(found.clusters.iter().all(|cluster| cluster.state.is_ok()));
    let [note] = &found.notes[..] else {
        panic!("{:?}", found.notes);
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
        let context = begin(setup.options.clone()).expect("the options are good");
        let found = clusters::prepare(&context, setup.options.targets.clone()).await;
        context.ledger.remove().await;
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
                assert_eq!(found.control_plane, None);
                assert!(found.fleet.clusters.is_empty());
                assert_eq!(
                    found.notes[0].code,
                    datapath::code::Code::ControlPlaneAmbiguous
                );
                assert_eq!(found.notes[0].clusters, ["ctx-1", "ctx-2"]);
            }
            Some(_) => {
                // A member that nobody reached is there, too.
                assert_eq!(names, ["absent", "alpha", "ctx-2"]);
                assert_eq!(found.control_plane.as_deref(), Some("ctx-2"));
                assert_eq!(found.notes, []);
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
        let context = begin(setup.options.clone()).expect("the options are good");
        let found = clusters::prepare(&context, setup.options.targets.clone())
            .await
            .expect("all answer");
        context.ledger.remove().await;
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
    assert_eq!(without.2, "its clusters.kosmos.io object has no kubeconfig");

    let empty = Mock::new(2, 1, Behaviour::default());
    let mut lonely = super::tests::setup(&[("hub", &empty)]);
    lonely.options.targets[0].role = inventory::Role::Fleet;
    let error = run(lonely.options, never())
        .await
        .expect_err("it has no inventory");
    assert_eq!(error.exit_code(), 69);
}

#[tokio::test]
async fn without_probes_only_tables_are_asked_for() {
    let (east, west) = two(Behaviour::default());
    let mut setup = setup(&[("east", &east), ("west", &west)]);
    setup.options.probe = false;
    let report = run(setup.options.clone(), never())
        .await
        .expect("both answer");
    assert_eq!(report.coverage.probes_sent, 0);
    let log = east.log();
    assert!(log.iter().any(|line| line.ends_with("/v2/tables")));
    assert!(!log.iter().any(|line| line.ends_with("/v2/probe")));
    let sets = log
        .iter()
        .filter(|line| line.starts_with("POST") && line.ends_with("/daemonsets"));
    assert_eq!(sets.count(), 1);
    assert_eq!(east.ours(), Vec::<String>::new());
}

#[tokio::test]
async fn rounds_add_up() {
    let (east, west) = two(Behaviour::default());
    let mut setup = setup(&[("east", &east), ("west", &west)]);
    setup.options.rounds = 3;
    let report = run(setup.options.clone(), never())
        .await
        .expect("both answer");
    assert_eq!(report.coverage.probes_sent, 3 * PACKETS);
}

#[tokio::test]
async fn contradicting_options_end_before_anybody_is_asked() {
    let east = Mock::new(1, 1, Behaviour::default());
    let setup = setup(&[("east", &east)]);
    type Change = fn(&mut RunOptions);
    let changes: [Change; 5] = [
        |o| o.namespace = "Not A Label".into(),
        |o| o.port = 0,
        |o| o.rounds = 0,
        |o| o.budget_pps = 0,
        |o| o.version = "a b".into(),
    ];
    for change in changes {
        let mut options = setup.options.clone();
        change(&mut options);
        let error = run(options, never()).await.expect_err("it is wrong");
        assert_eq!(error.exit_code(), 64);
    }
    assert_eq!(east.log(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_clusters_are_one_run() {
    let mocks: Vec<(String, Arc<Mock>)> = (0..100)
        .map(|n| (format!("c{n:02}"), Mock::new(n, 2, Behaviour::default())))
        .collect();
    let clusters: Vec<(&str, &Arc<Mock>)> = mocks
        .iter()
        .map(|(name, mock)| (name.as_str(), mock))
        .collect();
    let setup = setup(&clusters);
    let report = run(setup.options.clone(), never())
        .await
        .expect("all answer");
    assert_eq!(report.clusters.len(), 100);
    assert!(
        report
            .clusters
            .iter()
            .all(|c| c.state == Observation::Observed)
    );
    assert_eq!(report.coverage.cells, 100 * 100 * 2);
    for (name, mock) in &mocks {
        assert_eq!(mock.ours(), Vec::<String>::new(), "{name}");
    }
}

#[tokio::test]
async fn a_pattern_that_is_none_is_a_usage_error() {
    let east = Mock::new(1, 1, Behaviour::default());
    let setup = setup(&[("east", &east)]);
    for option in ["--contexts", "--nodes", "--sources", "--destinations"] {
        let mut options = setup.options.clone();
        let patterns = match option {
            "--contexts" => &mut options.inventory.contexts,
            "--nodes" => &mut options.what.nodes,
            "--sources" => &mut options.what.sources,
            _ => &mut options.what.destinations,
        };
        patterns.push("n[1".into());
        let error = run(options, never()).await.expect_err("no pattern");
        assert_eq!(error.exit_code(), 64);
        assert!(error.to_string().contains(option), "{error}");
    }
}
