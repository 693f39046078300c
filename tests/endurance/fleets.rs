//! Healthy fleets of random shape, and runs on a machine that has ten times as much to do as it can.

use std::fmt::Write as _;
use std::process::{Child, Command, Stdio};

use serde_json::json;
use tests::lab::Lab;
use tests::program::Place;

/// Numbers that are the same each time for the same seed.
struct Dice(u64);

impl Dice {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// One of `0..sides`.
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % sides
    }

    fn pick<'a>(&mut self, words: &[&'a str]) -> &'a str {
        words[usize::try_from(self.roll(words.len() as u64)).unwrap()]
    }
}

/// A topology in order, of any shape that a lab can have.
fn topology(seed: u64) -> String {
    let mut dice = Dice::new(seed);
    let mut text = String::new();
    if dice.roll(3) == 0 {
        let _ = writeln!(
            text,
            "underlay: {{mtu: {}}}",
            dice.pick(&["1400", "1450", "4000", "9000"])
        );
    }
    text.push_str("clusters:\n");
    for number in 0..1 + dice.roll(5) {
        let family = dice.pick(&["ipv4", "ipv4", "ipv6", "all"]);
        let _ = writeln!(
            text,
            "  - name: {}{number}",
            dice.pick(&["east", "west", "a", "edge-of-the-world-"])
        );
        let _ = writeln!(text, "    mode: {}", dice.pick(&["gateway", "p2p"]));
        let _ = writeln!(text, "    family: {family}");
        let _ = writeln!(text, "    nodes: {}", 1 + dice.roll(3));
        if family == "ipv4" && dice.roll(3) == 0 {
            let _ = writeln!(
                text,
                "    podCIDRs: [172.{}.0.0/{}]",
                24 + number,
                16 + dice.roll(4)
            );
        }
    }
    if dice.roll(4) == 0 {
        text.push_str("workloads: {floater: false}\n");
    }
    text
}

/// How many, unless the caller wants another number.
fn number(variable: &str, usual: u64) -> u64 {
    match std::env::var(variable) {
        Ok(text) => text.parse().unwrap(),
        Err(_) => usual,
    }
}

#[test]
#[ignore = "netns: needs vxlan, nft"]
fn healthy_fleets_of_any_shape_have_no_finding() {
    let count = number("HEALTHY_FLEETS", 22);
    let mut undecided = 0;
    for seed in 0..count {
        let place = Place::new();
        let text = topology(seed);
        place.write("fleet.yaml", &text);
        let lab = Lab::up_in(place, &["fleet.yaml"]);
        let (code, report) = lab.dr(&[]);
        assert_eq!(
            report["findings"],
            json!([]),
            "seed {seed}\n{text}\n{report:#}"
        );
        // What a busy machine kept from being judged is said, and is no fault.
        assert!(
            matches!(code, Some(0 | 2)),
            "seed {seed}: {code:?}\n{text}\n{report:#}"
        );
        undecided += u64::from(code == Some(2));
        lab.down();
    }
    println!("{count} healthy fleets: {undecided} not wholly judged, none with a finding");
    assert!(
        undecided * 10 <= count,
        "{undecided} of {count} were not wholly judged"
    );
}

/// Processes that do nothing but work, gone when dropped.
struct Burners(Vec<Child>);

impl Burners {
    fn start(count: usize) -> Self {
        let burner = || {
            let mut command = Command::new("sh");
            command
                .args(["-c", "while :; do :; done"])
                .stdin(Stdio::null());
            command.spawn().unwrap()
        };
        Self(std::iter::repeat_with(burner).take(count).collect())
    }
}

impl Drop for Burners {
    fn drop(&mut self) {
        for burner in &mut self.0 {
            let _ = burner.kill();
            let _ = burner.wait();
        }
    }
}

// Alone among the suite's processes, because others would suffer from it: `scale` is asked for nowhere else here.
#[test]
#[ignore = "netns: needs vxlan, nft, scale"]
fn an_overloaded_machine_accuses_nobody() {
    let lab = Lab::up(&["--clusters", "6", "--nodes", "2", "--mode", "mixed"]);
    // At rest all of it is judged, so that what is not is the burners' doing.
    let (code, report) = lab.dr(&[]);
    assert_eq!(code, Some(0), "{report:#}");
    let cores = std::thread::available_parallelism().unwrap().get();
    let burners = Burners::start(10 * cores);
    let count = number("OVERLOADED_RUNS", 2);
    let mut undecided = 0;
    for round in 0..count {
        // A cluster's API server is as starved as whoever asks it, so that patience is asked for.
        let arguments = ["--timeout", "300", "--cluster-timeout", "140"];
        let ran = lab.try_dr(&arguments);
        undecided += u64::from(ran.code != Some(0));
        // Where no API server answered at all there is nothing to judge, and nobody is accused.
        if ran.code == Some(69) {
            assert!(
                ran.stderr.contains("no cluster can be reached") && ran.stdout.is_empty(),
                "round {round}: {ran:?}"
            );
            continue;
        }
        let report = ran.json();
        assert_eq!(report["findings"], json!([]), "round {round}: {report:#}");
        assert!(
            matches!(ran.code, Some(0 | 2)),
            "round {round}: {:?}\n{report:#}",
            ran.code
        );
    }
    drop(burners);
    println!("{count} runs under overload: {undecided} not wholly judged, none with a finding");
    lab.down();
}
