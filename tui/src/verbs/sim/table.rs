//! The status of a fleet as text.

use std::fmt::Write as _;

use simulator::control::{NodeStatus, Status};

/// A few lines about the fleet, then one per node.
pub(super) fn of(status: &Status) -> String {
    let mut text = format!(
        "{}  up since {}, process {}\nkubeconfig  {}\n",
        status.name,
        status.started,
        status.pid,
        status.kubeconfig.display()
    );
    for (word, places) in [("frozen", &status.frozen), ("faults", &status.faults)] {
        if !places.is_empty() {
            let _ = writeln!(text, "{word}      {}", places.join(", "));
        }
    }
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING).set_header([
        "CLUSTER", "MODE", "FAMILY", "NODE", "ROLE", "ADDRESS", "PODS", "STATE",
    ]);
    for cluster in &status.clusters {
        for node in &cluster.nodes {
            let ready = node.pods.iter().filter(|(_, ready)| *ready).count();
            table.add_row([
                cluster.name.clone(),
                cluster.mode.clone(),
                cluster.family.clone(),
                node.name.clone(),
                role(node).to_owned(),
                node.ips.join(" "),
                format!("{ready}/{}", node.pods.len()),
                if cluster.is_virtual {
                    format!("{} (virtual)", state(node))
                } else {
                    state(node)
                },
            ]);
        }
    }
    let _ = writeln!(text, "{}", table.trim_fmt());
    text
}

/// What is known of a node's kernel. Nobody looks at it while its agent is stopped.
fn state(node: &NodeStatus) -> String {
    if !node.faults.is_empty() {
        let codes: Vec<&str> = node.faults.iter().map(|code| code.word()).collect();
        return format!("injected: {}", codes.join(", "));
    }
    match &node.trouble {
        _ if node.frozen => "frozen".to_owned(),
        Some(trouble) => trouble.clone(),
        None => "as planned".to_owned(),
    }
}

fn role(node: &NodeStatus) -> &'static str {
    if node.gateway { "gateway" } else { "-" }
}

#[cfg(test)]
mod tests {
    use super::*;
    use datapath::code::Code;
    use simulator::control::ClusterStatus;

    #[test]
    fn one_line_a_node() {
        let node = |name: &str, gateway, trouble: Option<&str>| NodeStatus {
            name: name.to_owned(),
            ips: vec!["100.64.0.2".to_owned()],
            gateway,
            trouble: trouble.map(str::to_owned),
            faults: Vec::new(),
            frozen: false,
            pods: vec![
                ("kosmos-system/floater-n1".to_owned(), true),
                ("a/b".to_owned(), false),
            ],
        };
        let text = of(&Status {
            name: "lab".to_owned(),
            kubeconfig: "/run/floater/lab/kubeconfig".into(),
            pid: 7,
            started: "2026-01-02T03:04:05Z".to_owned(),
            frozen: vec!["c1/n1".to_owned()],
            faults: Vec::new(),
            clusters: vec![ClusterStatus {
                name: "c1".to_owned(),
                mode: "gateway".to_owned(),
                family: "ipv4".to_owned(),
                server: "https://127.0.0.1:1".to_owned(),
                is_virtual: false,
                nodes: vec![
                    node("n1", true, None),
                    node("n2", false, Some("a route is missing")),
                    NodeStatus {
                        frozen: true,
                        ..node("n3", false, Some("old news"))
                    },
                    NodeStatus {
                        faults: vec![Code::FdbMissing, Code::NeighMissing],
                        frozen: true,
                        ..node("n4", false, None)
                    },
                ],
            }],
        });
        assert!(
            text.starts_with("lab  up since 2026-01-02T03:04:05Z, process 7\n"),
            "{text}"
        );
        assert!(
            text.contains("frozen      c1/n1\n") && !text.contains("faults"),
            "{text}"
        );
        let lines: Vec<&str> = text
            .lines()
            .filter(|line| line.contains("100.64.0.2"))
            .collect();
        assert_eq!(lines.len(), 4, "{text}");
        assert!(
            lines[0].contains("1/2") && lines[0].ends_with("as planned"),
            "{text}"
        );
        assert!(lines[1].ends_with("a route is missing"), "{text}");
        assert!(lines[2].ends_with("frozen"), "{text}");
        assert!(
            lines[3].ends_with("injected: FDB-MISSING, NEIGH-MISSING"),
            "{text}"
        );
    }
}
