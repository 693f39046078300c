//! `link status`: who is linked, and whether each node is as planned.

use std::fmt::Write as _;
use std::time::Duration;

use datapath::printable::Printable;
use orchestrator::link::{self, ClusterState, NodeState, Sessions, Status};

use super::deeds::place;
use crate::cli::link::LinkStatus;
use crate::cli::sim::StatusFormat;
use crate::exit::{FOUND, Failure, OK, Outcome};
use crate::output;
use crate::signals::Interrupt;

/// Between two looks of `--watch`.
const PAUSE: Duration = Duration::from_secs(2);

pub(in crate::verbs) async fn status(arguments: &LinkStatus, interrupt: &Interrupt) -> Outcome {
    let place = place(&arguments.at, None)?;
    let mut last = None;
    loop {
        let status = tokio::select! {
            biased;
            () = interrupt.clone().come() => return Err(Failure::Interrupted { left: Vec::new() }),
            status = link::status(&place.kubeconfig) => status?,
        };
        let is_well = status.is_well;
        if last.as_ref() != Some(&status) {
            output::print(&match arguments.output.unwrap_or_default() {
                StatusFormat::Json => output::json(&status)?,
                StatusFormat::Table => table(&status),
            })?;
            last = Some(status);
        }
        if !arguments.watch {
            return Ok(if is_well { OK } else { FOUND });
        }
        tokio::select! {
            () = interrupt.clone().come() => return Ok(OK),
            () = tokio::time::sleep(PAUSE) => {}
        }
    }
}

/// A row for each node, and below them what is wrong.
fn table(status: &Status) -> String {
    if status.clusters.is_empty() {
        return "No cluster is linked yet (link install, link join).\n".to_owned();
    }
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_header([
        "CLUSTER", "TYPE", "FAMILY", "NODE", "ROLE", "ADDRESS", "AGENT", "ROWS", "CHANGED",
        "SESSIONS", "STATE",
    ]);
    let mut troubles = String::new();
    for cluster in &status.clusters {
        if cluster.nodes.is_empty() {
            let [name, kind, family] = of_cluster(cluster);
            table.add_row([
                &name,
                &kind,
                &family,
                "",
                "",
                "",
                "",
                "",
                "",
                "",
                "no nodes are known",
            ]);
        }
        for node in &cluster.nodes {
            let [name, kind, family] = of_cluster(cluster);
            table.add_row([
                name.as_str(),
                &kind,
                &family,
                node.name.as_str(),
                &words(&node.roles),
                &words(&node.ips),
                node.version.as_ref().map_or("", Printable::as_str),
                &rows(node),
                node.changed.as_ref().map_or("-", Printable::as_str),
                &node.sessions.as_ref().map_or("-".to_owned(), sessions),
                if node.trouble.is_none() {
                    "as planned"
                } else {
                    "differs"
                },
            ]);
            if let Some(trouble) = &node.trouble {
                let _ = writeln!(troubles, "{}/{}: {trouble}", cluster.name, node.name);
            }
        }
        for trouble in &cluster.troubles {
            let _ = writeln!(troubles, "{}: {trouble}", cluster.name);
        }
        if cluster.is_leaving {
            let _ = writeln!(troubles, "{}: it is leaving", cluster.name);
        }
    }
    let mut text = table.trim_fmt() + "\n";
    if !troubles.is_empty() {
        let _ = write!(text, "\n{troubles}");
    }
    text
}

fn of_cluster(cluster: &ClusterState) -> [String; 3] {
    let word = |word: &Option<Printable>| word.as_ref().map_or("-", Printable::as_str).to_owned();
    let mark = if cluster.is_control_plane {
        " (control plane)"
    } else {
        ""
    };
    [
        format!("{}{mark}", cluster.name),
        word(&cluster.network_type),
        word(&cluster.ip_family),
    ]
}

fn words(words: &[Printable]) -> String {
    let words: Vec<&str> = words.iter().map(Printable::as_str).collect();
    words.join(" ")
}

/// How many of a node's tunnels are answered, and how long the slowest answer takes.
fn sessions(sessions: &Sessions) -> String {
    let mut words = format!("{} up", sessions.up);
    if let Some(time) = sessions.round_trip_us {
        let _ = write!(words, " {}.{:03} ms", time / 1000, time % 1000);
    }
    if sessions.down > 0 {
        let _ = write!(words, ", {} down", sessions.down);
    }
    words
}

/// The digest of the rows that a node has, and of those that it should have where they are others.
fn rows(node: &NodeState) -> String {
    let applied = node.applied.as_ref().map_or("-", Printable::as_str);
    match &node.planned {
        Some(planned) if planned != applied => format!("{applied}, planned {planned}"),
        _ => applied.to_owned(),
    }
}
