use super::*;

const EXAMPLE: &str = "\
name: two-clouds
underlay: {mtu: 1500, delay: 0ms, loss: 0%}        # per cluster overrides below
clusters:
  - name: east
    mode: gateway
    family: ipv4
    nodes: 3
    podCIDRs: [10.20.0.0/16]
    serviceCIDRs: [172.20.0.0/20]
    globalCIDRsMap: {}
    underlay: {delay: 20ms}
  - name: west
workloads: {floater: true}
faults: [{code: FDB-MISSING, at: east/n1, peer: west}]
expect: [{code: FDB-MISSING, at: east/n1}, {verdict: healthy}]
";

#[test]
fn the_documented_example_is_completed() {
    let topology = parse(EXAMPLE, "t.yaml").expect("valid");
    assert_eq!(topology.name.as_deref(), Some("two-clouds"));
    let [east, west] = topology.clusters.as_slice() else {
        panic!("two clusters")
    };
    assert_eq!(east.nodes.len(), 3);
    assert_eq!(east.underlay.delay, Duration::from_millis(20));
    assert_eq!(west.underlay.delay, Duration::ZERO);
    assert_eq!(
        (west.mode, west.family, west.nodes.len()),
        (Mode::Gateway, Families::Ipv4, 2)
    );
    assert_eq!(east.nodes[2].name, "n3");
    assert_eq!(east.nodes[0].pod_cidrs[0].to_string(), "10.20.0.0/24");
    assert_eq!(west.pod_cidrs[0].to_string(), "10.1.0.0/16");
    assert_eq!(east.nodes[0].ip, Some(Ipv4Addr::new(100, 64, 0, 2)));
    assert_eq!(west.nodes[0].ip, Some(Ipv4Addr::new(100, 64, 1, 2)));
    assert_eq!(east.segment.routers[0].to_string(), "100.64.0.1/24");
    assert_eq!(
        topology.faults,
        [Fault {
            code: Code::FdbMissing,
            at: "east/n1".into(),
            peer: Some("west".into())
        }]
    );
    assert_eq!(topology.expect[1], Expect::Verdict("healthy".into()));
}

#[test]
fn a_folder_of_programs_is_for_whoever_says_nothing_else() {
    let text = "clusters: [{}, {controlPlane: simulated}]\nkubelets: {renew: 2s, grace: 8s}";
    let mut topology = parse(text, "t.yaml").expect("valid");
    assert!(!topology.has_upstream() && !topology.is_unlinked());
    assert_eq!(topology.kubelets.grace, Duration::from_secs(8));
    topology.run_upstream("/programs".into());
    let upstream: Vec<bool> = topology.clusters.iter().map(Cluster::is_upstream).collect();
    assert_eq!(upstream, [true, false]);
    assert!(topology.is_unlinked());
}

#[test]
fn counts_replicate_and_defaults_never_overlap() {
    let topology = parse(
        "clusters: [{name: east, count: 100, family: all}, {podCIDRs: [10.3.0.0/16]}, {mode: p2p}]",
        "t",
    )
    .expect("valid");
    assert_eq!(topology.clusters.len(), 102);
    assert_eq!(topology.clusters[0].name, "east-000");
    assert_eq!(topology.clusters[99].name, "east-099");
    assert_eq!(topology.clusters[100].name, "c2");
    assert_eq!(
        topology.clusters[7].nodes[0].ip6.map(|ip| ip.to_string()),
        Some("fd64::6440:702".to_owned())
    );
    for count in [1, 300, 5000] {
        parse(&format!("clusters: [{{name: x, count: {count}}}]"), "t").expect("valid");
    }
}

#[test]
fn low_24_bits_of_nodes_are_unique_in_a_large_fleet() {
    let topology = generated(3000, 2, ModeChoice::Mixed, Families::All).expect("valid");
    let mut low: Vec<u32> = topology
        .clusters
        .iter()
        .flat_map(|cluster| &cluster.nodes)
        .map(|node| u32::from(node.ip.expect("IPv4")) & 0x00ff_ffff)
        .collect();
    let total = low.len();
    low.sort_unstable();
    low.dedup();
    assert_eq!(low.len(), total);
    assert_eq!(topology.clusters[0].mode, Mode::Gateway);
    assert_eq!(topology.clusters[1].mode, Mode::P2p);
}

#[test]
fn a_map_of_both_separates_equal_prefixes_and_of_one_does_not() {
    let cluster = |name: &str, global: &str| {
        format!("  - {{name: {name}, podCIDRs: [10.20.0.0/16], globalCIDRsMap: {{{global}}}}}\n")
    };
    let both = format!(
        "clusters:\n{}{}",
        cluster("a", "10.20.0.0/16: 10.120.0.0/16"),
        cluster("b", "10.20.0.0/16: 10.121.0.0/16")
    );
    parse(&both, "t").expect("separated");
    let one = format!(
        "clusters:\n{}{}",
        cluster("a", "10.20.0.0/16: 10.120.0.0/16"),
        cluster("b", "")
    );
    let error = parse(&one, "t").expect_err("not separated");
    assert!(
        matches!(&error, Error::Input { line: Some(3), .. }),
        "{error}"
    );
}

#[test]
fn generated_arguments_are_named_when_out_of_range() {
    for (clusters, nodes, argument) in [
        (0, 2, "--clusters"),
        (MAX_CLUSTERS + 1, 2, "--clusters"),
        (2, 0, "--nodes"),
        (2, 501, "--nodes"),
    ] {
        let error =
            generated(clusters, nodes, ModeChoice::P2p, Families::Ipv4).expect_err("out of range");
        assert!(
            matches!(&error, Error::Input { file, .. } if file == argument),
            "{error}"
        );
        assert_eq!(error.exit_code(), 65);
    }
}

/// Input, the line that is to blame, and words that name the rule.
const REFUSED: &[(&str, u64, &str)] = &[
    ("", 1, ""),
    ("# nothing\n", 1, ""),
    ("[]", 1, "a mapping of keys"),
    ("clusters: [", 1, ""),
    ("name: x", 1, "`clusters` is missing"),
    ("clusters:\n", 1, "`clusters` is missing"),
    ("name: x\nclusters: []", 2, "`clusters` is empty"),
    ("clusters: {}", 1, ""),
    ("clusters: 3", 1, "a list"),
    ("clusters: [{}]\ncluster: []", 2, "unknown key `cluster`"),
    (
        "clusters:\n  - name: a\n    node: 3",
        3,
        "unknown key `node`",
    ),
    (
        "underlay: {mtus: 1}\nclusters: [{}]",
        1,
        "unknown key `mtus`",
    ),
    (
        "clusters: [{}]\nworkloads: {floater: true, x: 1}",
        2,
        "unknown key `x`",
    ),
    (
        "clusters: [{}]\nfaults:\n  - {code: FDB-MISSING, at: c1, to: c1}",
        3,
        "unknown key `to`",
    ),
    (
        "clusters: [{}]\nexpect:\n  - {verdict: healthy, severity: error}",
        3,
        "unknown key `severity`",
    ),
    (
        "clusters: [{}]\nsteps:\n  - {freeze: all, thaw: all}",
        3,
        "a step has one of",
    ),
    ("clusters: [{}]\nsteps:\n  - {}", 3, "a step has one of"),
    (
        "clusters: [{}]\nsteps:\n  - {jump: high}",
        3,
        "unknown key `jump`",
    ),
    (
        "clusters: [{}]\nsteps:\n  - {clear: some}",
        3,
        "clear takes `all`",
    ),
    (
        "clusters: [{}]\nsteps:\n  - {freeze: c7}",
        3,
        "no cluster `c7`",
    ),
    (
        "clusters: [{}]\nsteps:\n  - {exec: {at: c1, run: ls}}",
        3,
        "no CLUSTER/NODE[/POD]",
    ),
    (
        "clusters: [{}]\nsteps:\n  - {exec: {at: c1/n1, run: []}}",
        3,
        "a program and its arguments",
    ),
    (
        "clusters: [{}]\nsteps:\n  - {exec: {at: c1/n1, run: {a: b}}}",
        3,
        "a command, or a list",
    ),
    (
        "clusters: [{}]\nsteps:\n  - {exec: {at: c1/n1, run: ls, code: 256}}",
        3,
        "from 0 to 255",
    ),
    (
        "clusters: [{virtual: true}]\nsteps:\n  - {exec: {at: c1/n1, run: ls}}",
        3,
        "is virtual",
    ),
    (
        "clusters: [{}]\nsteps:\n  - {wait: {at: c1/n1, run: ls}}",
        3,
        "`within` is missing",
    ),
    (
        "clusters: [{}]\nsteps:\n  - {wait: {at: c1/n1, run: ls, within: soon}}",
        3,
        "within `soon`",
    ),
    (
        "clusters: [{}]\nsteps:\n  - {dr: {expect: [{verdict: fine}]}}",
        3,
        "none of",
    ),
    ("name: a\nname: b\nclusters: [{}]", 2, "uplicate"),
    ("clusters:\n  - nodes: two", 2, "expected an integer"),
    ("clusters:\n  - nodes: 1.5", 2, "expected"),
    ("clusters:\n  - nodes: [2]", 2, ""),
    ("clusters:\n  - nodes: 0", 2, "nodes must be from 1"),
    ("clusters:\n  - nodes: -3", 2, "nodes must be from 1"),
    ("clusters:\n  - nodes: 501", 2, "nodes must be from 1"),
    ("clusters:\n  - nodes: 99999999999999999999", 2, ""),
    (
        "clusters:\n  - mode: star",
        2,
        "mode `star` is none of gateway, p2p",
    ),
    ("clusters:\n  - mode: mixed", 2, "mode `mixed` is none of"),
    ("clusters:\n  - family: ipv5", 2, "family `ipv5` is none of"),
    ("clusters:\n  - name: East", 2, "DNS label"),
    ("clusters:\n  - name: -east", 2, "DNS label"),
    ("clusters:\n  - name: east-", 2, "DNS label"),
    ("clusters:\n  - name: a.b", 2, "DNS label"),
    ("clusters:\n  - name: a_b", 2, "DNS label"),
    ("clusters:\n  - name: ''", 2, "DNS label"),
    (
        "clusters:\n  - name: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        2,
        "DNS label",
    ),
    ("clusters: [{}]\nname: ../x", 2, "DNS label"),
    (
        "clusters:\n  - name: a\n  - name: b\n  - name: a",
        4,
        "`a` is taken",
    ),
    (
        "clusters:\n  - name: a-000\n  - {name: a, count: 2}",
        3,
        "`a-000` is taken",
    ),
    (
        "clusters:\n  - {name: a, count: 0}",
        2,
        "count must be from 1",
    ),
    (
        "clusters:\n  - {name: a, count: -1}",
        2,
        "count must be from 1",
    ),
    (
        "clusters:\n  - {name: a, count: 10001}",
        2,
        "count must be from 1",
    ),
    (
        "clusters:\n  - {name: a, count: 9000}\n  - {name: b, count: 1001}",
        3,
        "count must be",
    ),
    (
        "clusters:\n  - {name: a, count: 18446744073709551616}",
        2,
        "",
    ),
    (
        "clusters:\n  - name: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\n    count: 2",
        3,
        "longer than a DNS label",
    ),
    (
        "clusters:\n  - {name: a, count: 2, podCIDRs: [10.1.0.0/16]}",
        2,
        "overlaps",
    ),
    ("clusters:\n  - podCIDRs: 10.1.0.0/16", 2, ""),
    ("clusters:\n  - podCIDRs: []", 2, "no ipv4 prefix"),
    ("clusters:\n  - podCIDRs: [10.1.0.0]", 2, "is not a prefix"),
    (
        "clusters:\n  - podCIDRs: [10.1.0.0/33]",
        2,
        "is not a prefix",
    ),
    (
        "clusters:\n  - podCIDRs:\n    - 10.1.0.1/16",
        3,
        "has host bits; its prefix is 10.1.0.0/16",
    ),
    (
        "clusters:\n  - serviceCIDRs: [172.20.1.0/20]",
        2,
        "has host bits",
    ),
    (
        "clusters:\n  - podCIDRs: ['fd20::/48']",
        2,
        "not of the cluster's family, ipv4",
    ),
    (
        "clusters:\n  - {family: ipv6, podCIDRs: [10.1.0.0/16]}",
        2,
        "not of the cluster's family, ipv6",
    ),
    (
        "clusters:\n  - {family: all, podCIDRs: [10.1.0.0/16]}",
        2,
        "has no ipv6 prefix",
    ),
    (
        "clusters:\n  - {podCIDRs: [10.1.0.0/29], nodes: 3}",
        2,
        "too small for 3 nodes",
    ),
    (
        "clusters:\n  - podCIDRs: [10.1.0.0/16, 10.1.2.0/24]",
        2,
        "of the same cluster",
    ),
    (
        "clusters:\n  - podCIDRs: [10.1.0.0/16]\n    serviceCIDRs: [10.1.0.0/20]",
        3,
        "of the same cluster",
    ),
    (
        "clusters:\n  - {name: a, podCIDRs: [10.1.0.0/16]}\n  - {name: b, podCIDRs: [10.0.0.0/8]}",
        3,
        "10.0.0.0/8 of b overlaps 10.1.0.0/16 of a",
    ),
    (
        "clusters:\n  - {name: a, podCIDRs: [10.1.0.0/16]}\n  - {name: b, serviceCIDRs: [10.1.0.0/20]}",
        3,
        "overlaps",
    ),
    (
        "clusters:\n  - podCIDRs: [10.20.0.0/16]\n  - name: b\n    podCIDRs:\n    - 10.20.128.0/17",
        5,
        "10.20.128.0/17 of b overlaps",
    ),
    (
        "clusters:\n  - podCIDRs: [100.100.0.0/16]",
        2,
        "overlaps the underlay",
    ),
    (
        "clusters:\n  - podCIDRs: [96.0.0.0/4]",
        2,
        "overlaps the underlay",
    ),
    (
        "clusters:\n  - {family: ipv6, podCIDRs: ['fd64::/32']}",
        2,
        "overlaps the underlay",
    ),
    (
        "clusters:\n  - podCIDRs: [220.1.0.0/16]",
        2,
        "pool of vx-bridge",
    ),
    ("clusters:\n  - podCIDRs: [127.0.0.0/16]", 2, "loopback"),
    ("clusters:\n  - serviceCIDRs: [224.0.0.0/8]", 2, "multicast"),
    (
        "clusters:\n  - podCIDRs: [10.1.0.0/16]\n    globalCIDRsMap: {10.1.0.0/16: 10.2.0.0/17}",
        3,
        "differ in family or length",
    ),
    (
        "clusters:\n  - podCIDRs: [10.1.0.0/16]\n    globalCIDRsMap: {10.9.0.0/16: 10.2.0.0/16}",
        3,
        "in none of the cluster's",
    ),
    (
        "clusters:\n  - podCIDRs: [10.1.0.0/16]\n    globalCIDRsMap: {10.1.0.0/16: 100.64.0.0/16}",
        3,
        "overlaps the underlay",
    ),
    (
        "clusters:\n  - podCIDRs: [10.1.0.0/16]\n    globalCIDRsMap:\n      10.1.0.0/16: x",
        4,
        "is not a prefix",
    ),
    (
        "underlay: {mtu: 575}\nclusters: [{}]",
        1,
        "mtu must be from 576",
    ),
    (
        "underlay: {mtu: 65536}\nclusters: [{}]",
        1,
        "mtu must be from 576",
    ),
    ("underlay: {mtu: big}\nclusters: [{}]", 1, "expected"),
    (
        "clusters:\n  - family: all\n    underlay: {mtu: 1300}",
        3,
        "too small for IPv6",
    ),
    (
        "underlay: {delay: -1ms}\nclusters: [{}]",
        1,
        "delay must be from 0s",
    ),
    (
        "underlay: {delay: 20}\nclusters: [{}]",
        1,
        "is not a number with us, ms or s",
    ),
    (
        "underlay: {delay: fast}\nclusters: [{}]",
        1,
        "is not a number with us, ms or s",
    ),
    (
        "underlay: {delay: NaNs}\nclusters: [{}]",
        1,
        "delay must be",
    ),
    (
        "clusters:\n  - underlay: {loss: 101%}",
        2,
        "loss must be from 0%",
    ),
    (
        "clusters:\n  - controlPlane: real",
        2,
        "none of simulated, upstream",
    ),
    (
        "kubelets:\n  renew: 999ms\nclusters: [{}]",
        2,
        "renew must be at least 1s",
    ),
    (
        "kubelets:\n  renew: 5s\n  grace: 9s\nclusters: [{}]",
        3,
        "a grace of 9s is less than two renewals of 5s",
    ),
    (
        "clusters:\n  - underlay: {loss: -1%}",
        2,
        "loss must be from 0%",
    ),
    (
        "clusters:\n  - underlay: {loss: 0.1}",
        2,
        "is not a number with %",
    ),
    ("clusters: [{}]\nworkloads: {floater: maybe}", 2, ""),
    (
        "clusters: [{}]\nworkloads: {floaters: threads}",
        2,
        "floaters `threads` is none of",
    ),
    (
        "clusters: [{}]\nfaults:\n  - {at: c1}",
        3,
        "key `code` is missing",
    ),
    (
        "clusters: [{}]\nfaults:\n  - {code: FDB-MISSING}",
        3,
        "key `at` is missing",
    ),
    (
        "clusters: [{}]\nfaults:\n  - {code: FDB-GONE, at: c1}",
        3,
        "`FDB-GONE` is none of",
    ),
    (
        "clusters: [{}]\nfaults:\n  - {code: fdb-missing, at: c1}",
        3,
        "is none of",
    ),
    (
        "clusters: [{}]\nfaults:\n  - {code: FDB-MISSING, at: east}",
        3,
        "there is no cluster `east`",
    ),
    (
        "clusters: [{}]\nfaults:\n  - {code: FDB-MISSING, at: c1/n3}",
        3,
        "has no node `n3`",
    ),
    (
        "clusters: [{}]\nfaults:\n  - {code: FDB-MISSING, at: c1, peer: w}",
        3,
        "there is no cluster `w`",
    ),
    (
        "clusters: [{}]\nexpect:\n  - {code: NO-SUCH, at: c1}",
        3,
        "unknown cause code",
    ),
    (
        "clusters: [{}]\nexpect:\n  - {code: FDB-MISSING, at: x}",
        3,
        "there is no cluster `x`",
    ),
    (
        "clusters: [{}]\nexpect:\n  - {verdict: fine}",
        3,
        "`fine` is none of",
    ),
    (
        "clusters: [{}]\nexpect:\n  - {}",
        3,
        "either `code` or `verdict`",
    ),
    (
        "clusters: [{}]\nexpect:\n  - {verdict: healthy, at: c1}",
        3,
        "takes no `at`",
    ),
    ("clusters: [{}]\n---\nclusters: [{}]\n", 3, "one document"),
    (
        "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nclusters: [*b]",
        1,
        "unknown key `a`",
    ),
];

#[test]
fn every_bad_input_is_refused_with_its_line_and_rule() {
    let mut wrong = Vec::new();
    for (text, line, rule) in REFUSED {
        match parse(text, "bad.yaml") {
            Err(
                error @ Error::Input {
                    line: Some(found), ..
                },
            ) if found == *line
                && error.to_string().contains(rule)
                && error.to_string().starts_with("bad.yaml:") => {}
            other => wrong.push(format!("{text:?}: wanted line {line}, `{rule}`: {other:?}")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn anchors_that_expand_without_bound_are_refused_quickly() {
    let mut text = "clusters:\n  - podCIDRs: &a0 [10.1.0.0/16]\n".to_owned();
    for level in 1..40 {
        text += &format!(
            "  - &a{level} {{podCIDRs: [*a{}, *a{}]}}\n",
            level - 1,
            level - 1
        );
    }
    let error = parse(&text, "bomb.yaml").expect_err("refused");
    assert!(
        matches!(error, Error::Input { line: Some(_), .. }),
        "{error:?}"
    );
    let mut scalars = "name: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..12 {
        let many = vec![format!("*a{}", level - 1); 10].join(", ");
        scalars += &format!("k{level}: &a{level} [{many}]\n");
    }
    parse(&scalars, "bomb.yaml").expect_err("refused");
}

#[test]
fn strings_that_look_like_other_types_stay_strings() {
    let topology = parse("clusters: [{name: no}, {name: '7'}]\nname: yes", "t").expect("valid");
    assert_eq!(topology.clusters[0].name, "no");
    assert_eq!(topology.name.as_deref(), Some("yes"));
}

#[test]
fn the_schema_names_every_key() {
    let schema = schema();
    for key in [
        "name",
        "underlay",
        "clusters",
        "workloads",
        "kubelets",
        "faults",
        "steps",
        "expect",
    ] {
        assert!(schema["properties"][key].is_object(), "{key}");
    }
    assert_eq!(
        schema["properties"]["clusters"]["items"]["properties"]
            .as_object()
            .map(serde_json::Map::len),
        Some(11)
    );
}

/// What nobody writes but who wants to see what happens: each is refused soon, at a line, by a rule that can be printed.
#[test]
fn strange_files_are_refused_within_bounds() {
    let nested = |open: &str, close: &str, depth: usize| {
        format!("clusters: {}{}", open.repeat(depth), close.repeat(depth))
    };
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..12 {
        let before = format!("*a{}, ", level - 1).repeat(10);
        bomb.push_str(&format!("a{level}: &a{level} [{before}]\n"));
    }
    let files = [
        bomb,
        "clusters: &a [*a]".to_owned(),
        "clusters: [{count: 1000000000}]".to_owned(),
        "clusters: [{count: 99999999999999999999999}]".to_owned(),
        "clusters: [{count: -1}]".to_owned(),
        "clusters: [{nodes: 1000000000}]".to_owned(),
        "clusters: [{nodes: 1e9}]".to_owned(),
        "clusters: [{nodes: .inf}]".to_owned(),
        "clusters: [{}]\nclusters: [{}]".to_owned(),
        "clusters: [{name: a, name: b}]".to_owned(),
        "clusters:\n\t- name: a".to_owned(),
        "clusters: [{name: \"a\\0b\"}]".to_owned(),
        "clusters: [{name: \"\\e[31m\u{202e}x\"}]".to_owned(),
        "clusters: [{\"\\e[2J\": 1}]".to_owned(),
        "\0\0\0\0".to_owned(),
        "\u{feff}".to_owned(),
        "c\0l\0u\0s\0t\0e\0r\0s\0:\0".to_owned(),
        "clusters: !!binary aGVsbG8=".to_owned(),
        "%YAML 9.9\n---\nclusters: [{}]\n...\n---\nx".to_owned(),
        "<<: {clusters: [{}]}\nclusters: 7".to_owned(),
        "? [clusters]\n: [{}]".to_owned(),
        nested("[", "]", 20_000),
        nested("{a: ", "}", 20_000),
        nested("[", "", 200_000),
        format!("clusters: [{{name: {}}}]", "a".repeat(3 << 20)),
        format!(
            "clusters: [{{globalCIDRsMap: {{{}: x}}}}]",
            "\u{1b}".repeat(1000)
        ),
        format!("clusters: [{}]", "{count: 10000},".repeat(2000)),
        format!("clusters: [{}", "{},".repeat(100_000)),
        "x".repeat(MAX_BYTES + 1),
    ];
    for text in files {
        let shown: String = text.chars().take(40).collect();
        let since = std::time::Instant::now();
        let Err(Error::Input { line, rule, file }) = parse(&text, "t.yaml") else {
            panic!("accepted: {shown:?}");
        };
        assert_eq!(file, "t.yaml");
        assert!(
            line.is_some() || text.len() > MAX_BYTES,
            "{shown:?}: {rule}"
        );
        assert!(
            !rule.is_empty() && rule.chars().count() <= 1000,
            "{shown:?}"
        );
        let raw = rule.chars().find(|c| datapath::printable::is_dangerous(*c));
        assert_eq!(raw, None, "{shown:?}: {rule:?}");
        // Generous: it is the kind that takes minutes or all memory.
        assert!(since.elapsed() < Duration::from_secs(20), "{shown:?}");
    }
}
