//! Whole runs against clusters in memory: what is made, asked and judged, and that nothing stays behind whatever happens.

mod claims;
mod records;
mod removal;

use std::collections::BTreeSet;
use std::sync::Mutex;

use http::Method;
use serde_json::json;

use super::*;
use crate::fleet::mock::{Behaviour, Mock};
use crate::manifest::{EXPIRES, SHARED};
use crate::probe_plan;

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
    assert!(report.cells().all(|cell| cell.verdict == CellVerdict::Pass));
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
    for cell in report.cells() {
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
    let inside = report.cells().find(|c| c.src == "east" && c.dst == "west");
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
    assert!(report.cells().all(|cell| cell.verdict != CellVerdict::Fail));
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
    assert!(report.cells().all(|cell| cell.verdict == CellVerdict::Pass));
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
        .cells()
        .filter(|cell| cell.src != "west" && cell.dst != "west")
        .map(|cell| cell.verdict)
        .collect();
    assert_eq!(between, [CellVerdict::Pass; 8]);
    assert_eq!(exit_code(&report, Severity::Error), 2);
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
