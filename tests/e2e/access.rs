//! What a run needs of its own machine.

use std::process::Command;

use serde_json::json;
use tests::lab::Lab;
use tests::program::{Ran, floaterctl};

/// A shell that may open so many files, and no more, runs the program.
fn with_descriptors(lab: &Lab, most: u32, arguments: &[&str]) -> Ran {
    // The environment of a run, with the shell in the place of the program.
    let usual = lab.place.command(arguments);
    let mut command = Command::new("sh");
    command
        .args(["-c", &format!("ulimit -n {most} && exec \"$0\" \"$@\"")])
        .arg(floaterctl())
        .args(arguments)
        .current_dir(lab.place.path())
        .env_clear();
    for (name, value) in usual.get_envs() {
        if let Some(value) = value {
            command.env(name, value);
        }
    }
    Ran::of(command.output().unwrap())
}

/// No cluster is blamed for the limit of this machine: fewer are asked at a time, and that is said.
#[test]
#[ignore = "netns: needs vxlan, nft"]
fn few_file_descriptors_are_shared_out() {
    let lab = Lab::up(&["--clusters", "8", "--nodes", "2"]);
    let name = lab.name();
    let judge = ["dr", "--sim", &name, "-o", "json"];
    let ran = with_descriptors(&lab, 80, &judge);
    assert!(ran.stderr.contains("file descriptors"), "{ran:?}");
    assert!(!ran.stderr.contains("used up"), "{ran:?}");
    let report = ran.expect(0).json();
    assert_eq!(report["findings"], json!([]), "{report:#}");
    assert_eq!(report["verdict"], "healthy", "{report:#}");

    let ran = with_descriptors(&lab, 40, &judge);
    assert!(ran.stderr.contains("64 are the least"), "{ran:?}");
    ran.expect(69);
    lab.down();
}
