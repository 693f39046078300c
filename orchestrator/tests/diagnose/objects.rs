//! Faults of the control plane's own objects: each is a finding by object and field, and nothing else is accused of what it costs.

use datapath::api::{ClusterNode, Fleet};
use datapath::state::Family;
use orchestrator::diagnose::diagnose;
use orchestrator::evidence::Gathered;
use orchestrator::probe_plan::What;
use orchestrator::report::{RunVerdict, Severity};

use super::fleet::{IPV4, Spec, gateway, healthy, judged, only, p2p, pods, tables, titles};

fn east_and_west(mode: fn(&'static str, &'static [Family]) -> Spec) -> Gathered {
    healthy(&[mode("east", IPV4), mode("west", IPV4)])
}

fn node<'f>(fleet: &'f mut Fleet, name: &str) -> &'f mut ClusterNode {
    let mut nodes = fleet.cluster_nodes.iter_mut();
    nodes
        .find(|node| node.metadata.name == name)
        .expect("a ClusterNode")
}

/// The kernels and NodeConfigs follow the objects, as a network manager and agents see to.
fn follow(gathered: &mut Gathered) {
    let configs = datapath::plan::plan(&gathered.intent.fleet).configs;
    for object in &mut gathered.intent.fleet.node_configs {
        object.spec = configs
            .get(&object.metadata.name)
            .cloned()
            .unwrap_or_default();
    }
}

#[test]
fn a_node_that_nobody_plans_a_path_to_is_the_cause_of_its_losses() {
    let mut gathered = east_and_west(p2p);
    let prefix = pods(1, Some(1), Family::Ipv4);
    node(&mut gathered.intent.fleet, "west-n2")
        .spec
        .pod_cidrs
        .clear();
    follow(&mut gathered);
    for place in ["east/n1", "east/n2", "west/n1"] {
        tables(&mut gathered, place)
            .routes
            .retain(|row| row.table != 200 || row.dst != prefix);
    }
    let judged = judged(&mut gathered);
    let finding = only(&judged);
    assert_eq!(finding.code.word(), "CLUSTERNODE-INCOMPLETE");
    assert_eq!(finding.severity, Severity::Error);
    assert_eq!(finding.element.name.as_str(), "west-n2 spec.podCIDRs");
    assert!(!finding.affects.is_empty());
    assert_eq!(judged.verdict, RunVerdict::Fault);
}

/// Whether by packets or by tables alone: what is wrong with the objects needs no packet to be said.
#[test]
fn what_costs_no_packet_is_a_warning_with_and_without_probes() {
    for tables_only in [false, true] {
        let mut gathered = east_and_west(gateway);
        let fleet = &mut gathered.intent.fleet;
        let taken = fleet.clusters[1].status.cluster_link_status.pod_cidrs[0].clone();
        let status = &mut fleet.clusters[0].status.cluster_link_status;
        status.service_cidrs = vec![taken];
        let what = What {
            tables_only,
            ..What::default()
        };
        super::fleet::probe(&mut gathered, &what);
        let judged = diagnose(&gathered, &what);
        let overlap: Vec<_> = judged
            .findings
            .iter()
            .filter(|finding| finding.code.word() == "CIDR-OVERLAP")
            .collect();
        assert_eq!(overlap.len(), 1, "{:#?}", titles(&judged));
        assert!(overlap[0].summary.as_str().contains("CIDRs[0]"));
    }
}

#[test]
fn a_link_that_the_node_lacks_is_named_by_object_and_field() {
    let mut gathered = east_and_west(gateway);
    node(&mut gathered.intent.fleet, "east-n1")
        .spec
        .interface_name = "bond7".to_owned();
    let judged = judged(&mut gathered);
    let finding = judged
        .findings
        .iter()
        .find(|finding| finding.code.word() == "LINK-UNKNOWN");
    let finding = finding.unwrap_or_else(|| panic!("{:#?}", titles(&judged)));
    assert_eq!(finding.element.name.as_str(), "east-n1 spec.interfaceName");
    assert!(finding.summary.as_str().contains("bond7"));
    let stale = titles(&judged);
    assert!(
        !stale.iter().any(|title| title.contains("INTENT-STALE")),
        "{stale:#?}"
    );
}

#[test]
fn members_that_nobody_asked_are_named_in_the_coverage() {
    let mut gathered = east_and_west(gateway);
    let fleet = &mut gathered.intent.fleet;
    let mut ghost = fleet.cluster_nodes[0].clone();
    ghost.metadata.name = "east-n9".to_owned();
    ghost.spec.node_name = "n9".to_owned();
    ghost.spec.roles.clear();
    ghost.spec.ip = "100.64.0.9".to_owned();
    fleet.cluster_nodes.push(ghost);
    let judged = judged(&mut gathered);
    let named = &judged.coverage.certificate.not_covered;
    assert!(
        named
            .iter()
            .any(|line| line.starts_with("east/n9: clusternode east-n9")),
        "{named:#?}"
    );
}
