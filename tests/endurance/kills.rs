//! Every program, ended in every way at moments of its life: nothing is left behind.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use serde_json::json;
use tests::client::Endpoint;
use tests::lab::Lab;
use tests::program::{Place, Ran};
use tests::proxy::{Changes, Proxy, kubeconfig};

use crate::moments::{ENDS, End, Moment, Underway, listener};

const WITHOUT_FLOATERS: &str = "\
name: own
clusters:
  - name: east
  - name: west
    mode: p2p
workloads: {floater: false}
";

/// Moments of a run that deploys its own floaters; whether it has then begun to end by itself.
const OF_A_RUN: &[(Moment, bool)] = &[
    (Moment::Asks("GET", "/namespaces/kube-system"), false),
    (Moment::Asks("POST", "/serviceaccounts"), false),
    (Moment::Asks("POST", "/secrets"), false),
    (Moment::Asks("POST", "/daemonsets"), false),
    (Moment::Says("deploying floaters"), false),
    (Moment::Asks("GET", "watch="), false),
    (Moment::Asks("POST", "/v2/tables"), false),
    (Moment::Asks("POST", "/v2/probe"), false),
    (Moment::Says("removing what the run"), true),
    (Moment::Asks("DELETE", "/daemonsets"), true),
    (Moment::Asks("DELETE", "/secrets"), true),
];

/// Moments of `demo`.
const OF_A_DEMO: &[(Moment, bool)] = &[
    (Moment::Says("building"), false),
    (Moment::Says("every node is as planned"), false),
    (Moment::Says("deploying"), false),
    (Moment::Says("floaters send"), false),
    (Moment::Says("removing what the run"), true),
];

/// Moments of `sim run`.
const OF_A_SCENARIO: &[(Moment, bool)] = &[
    (Moment::Says("building"), false),
    (Moment::Says("every node is as planned"), false),
];

/// Whether the program ended as it should.
fn judged(ran: &Ran, end: End, is_late: bool) -> Result<(), String> {
    let is_right = match end {
        End::Kill => ran.code.is_none() || is_late && ran.code == Some(0),
        End::Pause => ran.code == Some(0),
        End::Signal(_) | End::Ignored(_) | End::Terminal => {
            ran.code == Some(130) || is_late && ran.code == Some(0)
        }
    };
    if is_right {
        Ok(())
    } else {
        Err(format!("it ended with {:?}: {}", ran.code, ran.stderr))
    }
}

/// Every moment of a table with one end; what went wrong is told together.
#[track_caller]
fn at_each(moments: &[(Moment, bool)], end: End, one: impl Fn(Moment, bool) -> Result<(), String>) {
    let wrong: Vec<String> = moments
        .iter()
        .filter_map(|(moment, is_late)| {
            let why = one(*moment, *is_late).err()?;
            Some(format!("{moment:?}, {end:?}: {why}"))
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A lab whose first cluster is reached through a proxy that tells what it is asked.
fn run_at(end: End) {
    let place = Place::new();
    place.write("own.yaml", WITHOUT_FLOATERS);
    let lab = Lab::up_in(place, &["own.yaml"]);
    let [east, west] = ["east", "west"].map(|name| Endpoint::of(lab.kubeconfig(), name));
    at_each(OF_A_RUN, end, |moment, is_late| {
        let (sender, asked) = listener();
        let sender = Mutex::new(sender);
        let changes = Changes::none().before(move |request, _| {
            // Once the moment has come nobody listens any more.
            let _ = sender
                .lock()
                .unwrap()
                .send(format!("{} {}", request.method, request.target()));
            Ok(false)
        });
        let proxy = Proxy::start(east.clone(), changes);
        let token = |endpoint: &Endpoint| json!({"token": endpoint.token});
        let contexts = [
            ("east", proxy.cluster(), token(&east)),
            ("west", west.cluster(), token(&west)),
        ];
        lab.place.write("kubeconfig", kubeconfig(&contexts));
        let inventory = ["--kubeconfig", "kubeconfig"];
        let mut command = lab.place.command(["dr", "-v"].into_iter().chain(inventory));
        let mut underway = Underway::start(&mut command, end, asked);
        underway.reach(moment)?;
        let ran = underway.end(end)?;
        let left = || [east.objects_of_runs(), west.objects_of_runs()].concat();
        if end == End::Kill {
            lab.place
                .run(["dr", "--sweep", "--force"].into_iter().chain(inventory))
                .expect(0);
            // Pods end with their owner, a moment later.
            let deadline = Instant::now() + Duration::from_secs(20);
            while !left().is_empty() && Instant::now() < deadline {
                std::thread::yield_now();
            }
        }
        let left = left();
        if !left.is_empty() {
            return Err(format!("left behind: {left:?}; {}", ran.stderr));
        }
        judged(&ran, end, is_late)
    });
    lab.down();
}

/// A program that builds and removes a lab of its own.
fn building_at(arguments: &[&str], moments: &[(Moment, bool)], end: End) {
    at_each(moments, end, |moment, is_late| {
        let place = Place::new();
        place.write(
            "scenario.yaml",
            "clusters:\n  - name: east\n  - name: west\nexpect: [{verdict: healthy}]\n",
        );
        let (_, asked) = listener();
        let mut underway = Underway::start(&mut place.command(arguments), end, asked);
        underway.reach(moment)?;
        let ran = underway.end(end)?;
        if end == End::Kill {
            place.run(["sim", "down", "--all"]).expect(0);
        }
        place.assert_empty();
        judged(&ran, end, is_late)
    });
}

/// `sim up`, whose lab outlives it.
fn up_at(end: End) {
    at_each(&[(Moment::Says("building"), false)], end, |moment, _| {
        let place = Place::new();
        let arguments = ["sim", "up", "-v", "--clusters", "4", "--nodes", "3"];
        let (_, asked) = listener();
        let mut underway = Underway::start(&mut place.command(arguments), end, asked);
        underway.reach(moment)?;
        let ran = underway.end(end)?;
        if matches!(end, End::Kill | End::Pause) {
            place.run(["sim", "down", "--all"]).expect(0);
        }
        place.assert_empty();
        judged(&ran, end, false)
    });
}

/// The process that holds a lab, once it stands.
fn lab_at(end: End) {
    use nix::sys::signal::{Signal, kill};
    let lab = Lab::up(&["--clusters", "2", "--nodes", "2"]);
    let holder = || {
        let processes = lab.place.processes();
        processes
            .into_iter()
            .find(|(_, line)| line.contains("__lab"))
    };
    let (pid, _) = holder().unwrap_or_else(|| panic!("{:?}", lab.place.processes()));
    let pid = nix::unistd::Pid::from_raw(pid);
    match end {
        End::Signal(signal) | End::Ignored(signal) => kill(pid, signal).unwrap(),
        End::Kill => kill(pid, Signal::SIGKILL).unwrap(),
        End::Pause => {
            kill(pid, Signal::SIGSTOP).unwrap();
            // Deaf it is, but whoever asks is told so in time.
            let asked = Instant::now();
            lab.place.run(["sim", "status"]);
            assert!(
                asked.elapsed() < Duration::from_secs(25),
                "{:?}",
                asked.elapsed()
            );
            kill(pid, Signal::SIGCONT).unwrap();
        }
        // It has none.
        End::Terminal => {}
    }
    if end == End::Pause || end == End::Terminal {
        let (code, report) = lab.dr(&[]);
        assert_eq!(code, Some(0), "{report:#}");
    }
    lab.place.run(["sim", "down", "--all"]).expect(0);
    lab.place.assert_empty();
}

macro_rules! at_every_moment {
    ($($name:ident: $end:expr;)*) => {
        $(
            mod $name {
                use super::*;

                #[test]
                #[ignore = "netns: needs vxlan, nft"]
                fn a_run_with_floaters_of_its_own() {
                    run_at($end);
                }

                #[test]
                #[ignore = "netns: needs vxlan, nft"]
                fn a_demo() {
                    building_at(&["demo", "-v", "--clusters", "2", "--nodes", "1"], OF_A_DEMO, $end);
                }

                #[test]
                #[ignore = "netns: needs vxlan, nft"]
                fn a_scenario() {
                    building_at(&["sim", "run", "-v", "scenario.yaml"], OF_A_SCENARIO, $end);
                }

                #[test]
                #[ignore = "netns: needs vxlan, nft"]
                fn a_lab_and_what_builds_it() {
                    up_at($end);
                    lab_at($end);
                }
            }
        )*
    };
}

at_every_moment! {
    interrupted: ENDS[0];
    terminated: ENDS[1];
    hung_up: ENDS[2];
    interrupted_while_ignored: ENDS[3];
    killed: ENDS[4];
    terminal_closed: ENDS[5];
    paused: ENDS[6];
}

#[test]
fn the_tables_hold_many_moments() {
    // `sim up` and the lab's own process have one each.
    let moments = OF_A_RUN.len() + OF_A_DEMO.len() + OF_A_SCENARIO.len() + 2;
    assert!(moments * ENDS.len() >= 100);
}
