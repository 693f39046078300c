//! The way of a packet, and the packets themselves: `path`, `sim capture`, `sim validate`.

use std::process::Stdio;

use serde_json::Value;
use tests::lab::Lab;
use tests::program::{Place, Ran, floaterctl};

const TOPOLOGY: &str = "\
name: paths
clusters:
  - {name: east, family: all}
  - {name: west, mode: p2p, family: all}
";

fn path(lab: &Lab, words: &[&str]) -> Ran {
    let words = [&["path", "--sim", "paths"], words].concat();
    lab.place.run(words)
}

/// The rows by which a walk of a path goes on at depth 0, as `NODE: ROUTE`.
fn routes(walk: &Value) -> Vec<String> {
    let hops = walk["hops"].as_array().unwrap().iter();
    hops.filter(|hop| hop["depth"] == 0)
        .map(|hop| {
            format!(
                "{}: {}",
                hop["node"].as_str().unwrap(),
                hop["route"].as_str().unwrap_or("-")
            )
        })
        .collect()
}

#[test]
#[ignore = "netns: needs veth, vxlan, bridge, policy-rules, nft, iproute2"]
fn a_packet_is_followed_as_planned_and_as_it_is() {
    let place = Place::new();
    place.write("paths.yaml", TOPOLOGY);
    let lab = Lab::up_in(place, &["paths.yaml"]);
    let ends = ["east/n2/floater-n2", "west/n2/floater-n2"];
    let json = [&ends[..], &["-o", "json"]].concat();
    let whole = path(&lab, &json).expect(0).json();
    assert_eq!(whole["schema"], "floater.path/v1");
    let paths = whole["paths"].as_array().unwrap();
    assert_eq!(paths.len(), 2, "{whole:#}");
    for path in paths {
        assert_eq!(
            (&path["as_planned"], &path["observed"]["passes"]),
            (&true.into(), &true.into()),
            "{path:#}"
        );
    }
    let there = routes(&paths[0]["observed"]["there"]);
    let nodes: Vec<&str> = there
        .iter()
        .map(|hop| hop.split(':').next().unwrap())
        .collect();
    // Through the own gateway, and at once to the node of a cluster without one.
    assert_eq!(nodes, ["east/n2", "east/n1", "west/n2"], "{there:?}");
    assert!(
        there[0].ends_with("table 200") && there[1].ends_with("table 200"),
        "{there:?}"
    );

    // Ends are named by their addresses as well, a node is its own network, and a cluster some pod of it.
    let src = paths[0]["src"].as_str().unwrap();
    let dst = paths[0]["dst"].as_str().unwrap();
    let by_address = path(&lab, &[src, dst, "-o", "json"]).expect(0).json();
    assert_eq!(by_address["paths"][0]["observed"], paths[0]["observed"]);
    let hosts = path(
        &lab,
        &["east/n2", "west/n1", "-o", "json", "--families", "ipv6"],
    )
    .expect(0)
    .json();
    assert_eq!(hosts["src"]["layer"], "host");
    assert_eq!(hosts["paths"].as_array().unwrap().len(), 1);
    let _ = path(&lab, &["east", "west"]).expect(0);

    // A row that is gone is where the packet stops, and the plan still says how it should go.
    lab.place.run(["sim", "freeze"]).expect(0);
    let _ = lab.exec_ok("east/n1", &["ip", "route", "flush", "table", "200"]);
    let ran = path(&lab, &[&ends[..], &["--families", "ipv4"]].concat()).expect(1);
    for words in [
        "there, planned:",
        "there, observed:",
        "does not pass",
        "is not the planned one",
    ] {
        assert!(ran.stdout.contains(words), "{words}: {}", ran.stdout);
    }
    let broken = path(&lab, &json).expect(1).json();
    let broken = &broken["paths"][0];
    assert_eq!(
        (&broken["as_planned"], &broken["planned"]["passes"]),
        (&false.into(), &true.into()),
        "{broken:#}"
    );
    assert_eq!(routes(&broken["planned"]["there"]), there);

    for wrong in [
        ["nowhere", "west"],
        ["east/n9", "west"],
        ["east", "192.0.2.1/"],
    ] {
        let code = path(&lab, &wrong).code;
        assert!(matches!(code, Some(64 | 65)), "{wrong:?}: {code:?}");
    }
    lab.down();
}

/// The frames of a capture file, as the format has them.
fn frames(file: &[u8]) -> Vec<Vec<u8>> {
    let number = |at: usize| u32::from_ne_bytes(file[at..at + 4].try_into().unwrap()) as usize;
    assert_eq!(number(0), 0xa1b2_c3d4);
    assert_eq!(number(20), 1, "Ethernet");
    let mut frames = Vec::new();
    let mut at = 24;
    while at < file.len() {
        let length = number(at + 8);
        frames.push(file[at + 16..at + 16 + length].to_vec());
        at += 16 + length;
    }
    frames
}

#[test]
#[ignore = "netns: needs veth, vxlan, bridge, policy-rules, nft"]
fn frames_of_any_place_are_captured() {
    let place = Place::new();
    place.write("paths.yaml", TOPOLOGY);
    let lab = Lab::up_in(place, &["paths.yaml"]);
    let report = lab.dr(&["--nodes", "n2"]).1;
    assert_eq!(report["verdict"], "healthy", "{report:#}");
    let ends = path(
        &lab,
        &["east/n2/floater-n2", "west/n2/floater-n2", "-o", "json"],
    )
    .expect(0)
    .json();
    let target = ends["paths"][0]["dst"].as_str().unwrap().to_owned();
    for (at, link) in [
        ("east/n2/floater-n2", "eth0"),
        ("east/n1", "vx-bridge"),
        ("west/n2", "vx-bridge"),
    ] {
        let words = ["sim", "capture", at, "-i", link, "-w", "it.pcap"];
        let mut capture = lab
            .place
            .command(words)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // It has begun when its file has a header.
        let file = lab.place.path().join("it.pcap");
        let began = std::time::Instant::now();
        while std::fs::metadata(&file).map_or(0, |file| file.len()) < 24 {
            assert!(began.elapsed().as_secs() < 20, "{at}: no capture");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        let program = floaterctl().to_str().unwrap();
        let _ = lab.exec_ok(
            "east/n2/floater-n2",
            &[program, "__floater", "ping", "-c", "3", &target],
        );
        let pid = nix::unistd::Pid::from_raw(i32::try_from(capture.id()).unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
        assert!(capture.wait().unwrap().success(), "{at}");
        let frames = frames(&std::fs::read(&file).unwrap());
        // Echo requests and their answers: IPv4, ICMP, type 8 and 0.
        let of_kind = |kind: u8| {
            let is_it = |frame: &&Vec<u8>| {
                frame.get(12..14) == Some(&[8, 0]) && frame[23] == 1 && frame[34] == kind
            };
            frames.iter().filter(is_it).count()
        };
        assert!(
            of_kind(8) >= 3 && of_kind(0) >= 3,
            "{at}: {} frames",
            frames.len()
        );
        std::fs::remove_file(&file).unwrap();
    }
    let counted = lab.place.run([
        "sim",
        "capture",
        "underlay",
        "-c",
        "1",
        "-w",
        "/nowhere/it.pcap",
    ]);
    assert_eq!(counted.code, Some(74), "{}", counted.stderr);
    let _ = lab
        .place
        .run(["sim", "capture", "east/n7", "-w", "it.pcap"])
        .expect(65);
    lab.down();
}

#[test]
fn topologies_are_read_without_building_anything() {
    let place = Place::new();
    place.write("good.yaml", TOPOLOGY);
    place.write("bad.yaml", "clusters:\n  - {name: east, mode: moon}\n");
    let ran = place.run(["sim", "validate", "good.yaml"]).expect(0);
    assert_eq!(
        ran.stdout,
        "good.yaml: 2 clusters, 4 nodes, 0 faults, 0 expectations\n"
    );
    let ran = place
        .run(["sim", "validate", "good.yaml", "bad.yaml"])
        .expect(65);
    assert!(ran.stderr.contains("bad.yaml:2"), "{}", ran.stderr);
    let _ = place.run(["sim", "validate", "none.yaml"]).expect(65);
    let _ = place.run(["sim", "validate"]).expect(64);
    // Whether upstream's programs are there is a matter of building it.
    place.write(
        "upstream.yaml",
        "clusters: [{name: east, controlPlane: upstream}]\nexpect: [{verdict: healthy}]\n",
    );
    let ran = place.run(["sim", "validate", "upstream.yaml"]).expect(0);
    assert!(ran.stdout.contains("1 cluster, 2 nodes"), "{}", ran.stdout);
    for words in [
        ["sim", "up", "upstream.yaml"],
        ["sim", "run", "upstream.yaml"],
    ] {
        let ran = place.run(words).expect(65);
        assert!(ran.stderr.contains("--upstream"), "{}", ran.stderr);
    }
    place.assert_empty();
}
