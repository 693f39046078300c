//! What the datapath takes that installs itself: how long a person waits for it, and what of the wire it leaves to the pods.

use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use super::super::cargo::{Built, Cargo};
use super::workshop::Workshop;
use crate::gate::enter;
use crate::pour::{DRAIN, POUR};

/// The longest that one program may take.
const LIMIT: Duration = Duration::from_secs(600);
/// How often each of both ways is measured, in turns.
const TURNS: usize = 5;
/// The port that bytes are poured into.
const PORT: u16 = 5201;

/// Prints it.
///
/// # Errors
/// That something does not run.
pub(crate) fn print(cargo: &Cargo, workshop: &Workshop) -> Result<(), String> {
    linking(workshop)?;
    for mode in ["gateway", "p2p"] {
        throughput(workshop, mode)?;
    }
    // The programs of one node by themselves, as they are delivered.
    let clusterlink = cargo.build_released("datapath", "clusterlink")?;
    let benches = cargo.build_benches(&[("tests", "datapath"), ("tests", "failover")])?;
    for bench in &benches {
        measured(bench, &clusterlink)?;
    }
    Ok(())
}

/// Runs a bench with the programs that are delivered.
fn measured(bench: &Built, clusterlink: &Path) -> Result<(), String> {
    let mut command = Command::new(enter::ITSELF);
    command
        .arg(enter::VERB)
        .arg(&bench.executable)
        .env("FLOATERCTL", clusterlink.with_file_name("floaterctl"));
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("a bench of the datapath ended with {status}")),
        Err(error) => Err(format!("a bench of the datapath does not start: {error}")),
    }
}

/// Three clusters that nobody linked, until packets pass between all of them.
fn linking(workshop: &Workshop) -> Result<(), String> {
    let up = ["sim", "up", "--bare", "--clusters", "3", "--nodes", "2"];
    workshop.succeed(&[&up[..], &["--name", "bare"]].concat(), LIMIT)?;
    let kubeconfig = workshop.succeed(&["sim", "kubeconfig", "--name", "bare"], LIMIT)?;
    let file = String::from_utf8_lossy(&kubeconfig.stdout)
        .trim()
        .to_owned();
    let began = Instant::now();
    let install = [
        "link",
        "install",
        "--kubeconfig",
        &file,
        "--context",
        "c1",
        "--cluster-name",
        "c1",
    ];
    workshop.succeed(&install, LIMIT)?;
    let installed = began.elapsed();
    for cluster in ["c2", "c3"] {
        let join = [
            "link",
            "join",
            "--name",
            cluster,
            "--kubeconfig",
            &file,
            "--context",
            cluster,
            "--host-kubeconfig",
            &file,
            "--host-context",
            "c1",
        ];
        workshop.succeed(&join, LIMIT)?;
    }
    println!(
        "three clusters × 2 nodes linked from nothing: {:.1} s until packets pass between all (asked: 60 s), of it {:.1} s for the control plane",
        began.elapsed().as_secs_f64(),
        installed.as_secs_f64()
    );
    workshop.succeed(&["sim", "down", "--name", "bare"], LIMIT)?;
    Ok(())
}

/// Bytes per second from pod to pod over the datapath's tunnel against those over one that ip(8) made between the same nodes, in turns.
fn throughput(workshop: &Workshop, mode: &str) -> Result<(), String> {
    let up = [
        "sim",
        "up",
        "--clusters",
        "2",
        "--nodes",
        "1",
        "--mode",
        mode,
    ];
    workshop.succeed(&[&up[..], &["--name", "wire"]].concat(), LIMIT)?;
    let ends = [("c1/n1", "c1/n1/floater-n1"), ("c2/n1", "c2/n1/floater-n1")];
    let addresses = |at: &str| -> Result<String, String> {
        let words = ["ip", "-4", "-o", "addr", "show", "dev", "eth0"];
        let shown = exec(workshop, at, &words)?;
        let mut words = shown.split_whitespace().skip_while(|word| *word != "inet");
        let address = words.nth(1).and_then(|word| word.split('/').next());
        address
            .map(str::to_owned)
            .ok_or(format!("no address at {at}"))
    };
    let nodes = [addresses(ends[0].0)?, addresses(ends[1].0)?];
    let pods = [addresses(ends[0].1)?, addresses(ends[1].1)?];
    for here in [0, 1] {
        let there = 1 - here;
        for command in [
            format!(
                "ip link add hand mtu 1450 txqueuelen 0 up type vxlan id 999 dev eth0 local {} remote {} dstport 4999 nolearning",
                nodes[here], nodes[there]
            ),
            format!("ip addr add 198.18.0.{}/24 dev hand", here + 1),
            format!(
                "ip route add {} via 198.18.0.{} dev hand table 199",
                pods[there],
                there + 1
            ),
        ] {
            let words: Vec<&str> = command.split_whitespace().collect();
            exec(workshop, ends[here].0, &words)?;
        }
    }
    let switch = |verb: &str| -> Result<(), String> {
        for (node, _) in ends {
            exec(
                workshop,
                node,
                &["ip", "rule", verb, "pref", "199", "lookup", "199"],
            )?;
        }
        Ok(())
    };
    for flows in [1, 4, 8] {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..TURNS {
            ours.push(poured(workshop, (ends[0].1, ends[1].1), &pods[1], flows)?);
            switch("add")?;
            let by_hand = poured(workshop, (ends[0].1, ends[1].1), &pods[1], flows);
            switch("del")?;
            theirs.push(by_hand?);
        }
        let median = |all: &mut Vec<f64>| {
            all.sort_by(f64::total_cmp);
            all[all.len() / 2]
        };
        let (ours, theirs) = (median(&mut ours), median(&mut theirs));
        println!(
            "{mode}, {flows} flows of TCP from pod to pod: {:.2} Gbit/s, over a VXLAN of ip(8) {:.2} Gbit/s; ratio {:.3} (asked: 0.98)",
            ours * 8e-9,
            theirs * 8e-9,
            ours / theirs
        );
    }
    workshop.succeed(&["sim", "down", "--name", "wire"], LIMIT)?;
    Ok(())
}

fn exec(workshop: &Workshop, at: &str, command: &[&str]) -> Result<String, String> {
    let words = [&["sim", "exec", "--name", "wire", at, "--"], command].concat();
    let once = workshop.succeed(&words, LIMIT)?;
    Ok(String::from_utf8_lossy(&once.stdout).into_owned())
}

/// Bytes per second that arrive.
fn poured(
    workshop: &Workshop,
    (from, to): (&str, &str),
    address: &str,
    flows: u32,
) -> Result<f64, String> {
    let gate = std::env::current_exe().map_err(|error| error.to_string())?;
    let gate = gate.to_str().ok_or("the gate's own path is no text")?;
    let flows = flows.to_string();
    let address = format!("{address}:{PORT}");
    let words = ["sim", "exec", "--name", "wire", to, "--", gate, DRAIN];
    let mut drain = Ended(workshop.start(&[&words[..], &[&address, &flows]].concat())?);
    exec(workshop, from, &[gate, POUR, &address, &flows])?;
    let output = drain.output()?;
    output
        .trim()
        .parse()
        .map_err(|_| format!("`{output}` is no rate"))
}

/// A process that is ended where nobody waits for it.
struct Ended(Child);

impl Ended {
    fn output(&mut self) -> Result<String, String> {
        let mut text = String::new();
        if let Some(stdout) = &mut self.0.stdout {
            std::io::Read::read_to_string(stdout, &mut text).map_err(|error| error.to_string())?;
        }
        Ok(text)
    }
}

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
