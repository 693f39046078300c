//! A simulated fleet that is gone when the test is.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use serde_json::Value;

use crate::program::{Place, Ran};

/// A lab and the place that it was built from.
pub struct Lab {
    /// Where its state is.
    pub place: Place,
    /// Names of the clusters, sorted.
    pub clusters: Vec<String>,
}

impl Lab {
    /// `sim up` with these arguments.
    #[track_caller]
    pub fn up(arguments: &[&str]) -> Self {
        Self::up_in(Place::new(), arguments)
    }

    /// `sim up` with these arguments, from a place that has files already.
    #[track_caller]
    pub fn up_in(place: Place, arguments: &[&str]) -> Self {
        let ran = place.run(["sim", "up"].iter().chain(arguments)).expect(0);
        let kubeconfig = ran.stdout.trim();
        assert!(
            std::path::Path::new(kubeconfig).is_file(),
            "`{kubeconfig}` is no kubeconfig"
        );
        let mut lab = Self {
            place,
            clusters: Vec::new(),
        };
        let report = lab.analyse();
        lab.clusters = names(&report, "/clusters", "name");
        lab
    }

    /// What `analyse` reports.
    #[track_caller]
    #[must_use]
    pub fn analyse(&self) -> Value {
        let name = self.name();
        self.place
            .run(["analyse", "--sim", &name, "-o", "json"])
            .json()
    }

    /// The only lab's name.
    #[track_caller]
    #[must_use]
    pub fn name(&self) -> String {
        let mut entries: Vec<_> = std::fs::read_dir(self.place.state())
            .unwrap()
            .map(|entry| entry.unwrap())
            .filter(|entry| entry.path().is_dir())
            .collect();
        assert_eq!(entries.len(), 1);
        entries.remove(0).file_name().into_string().unwrap()
    }

    /// The path of its kubeconfig.
    #[track_caller]
    #[must_use]
    pub fn kubeconfig(&self) -> String {
        self.place
            .run(["sim", "kubeconfig"])
            .expect(0)
            .stdout
            .trim()
            .to_owned()
    }

    /// `dr --sim` with these further arguments, as JSON; the exit code goes with it.
    #[track_caller]
    #[must_use]
    pub fn dr(&self, arguments: &[&str]) -> (Option<i32>, Value) {
        let ran = self.try_dr(arguments);
        let report = ran.json();
        (ran.code, report)
    }

    /// As [`Self::dr`], whatever it says.
    #[track_caller]
    #[must_use]
    pub fn try_dr(&self, arguments: &[&str]) -> Ran {
        let name = self.name();
        self.place
            .run(["dr", "--sim", &name, "-o", "json"].iter().chain(arguments))
    }

    /// Runs a program in the network namespace of a place of the lab.
    #[track_caller]
    pub fn exec(&self, at: &str, command: &[&str]) -> Ran {
        self.place
            .run(["sim", "exec", at, "--"].iter().chain(command))
    }

    /// As [`Self::exec`]; its standard output, where it succeeded.
    #[track_caller]
    pub fn exec_ok(&self, at: &str, command: &[&str]) -> String {
        self.exec(at, command).expect(0).stdout
    }

    /// As [`Self::exec_ok`], as JSON.
    #[track_caller]
    #[must_use]
    pub fn exec_json(&self, at: &str, command: &[&str]) -> Value {
        self.exec(at, command).expect(0).json()
    }

    /// Takes the lab down and asserts that nothing is left.
    #[track_caller]
    pub fn down(self) {
        self.place.run(["sim", "down"]).expect(0);
        self.place.assert_empty();
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // Also after a failed assertion; a lab that is down already has nothing to say.
        let _ = self.place.command(["sim", "down", "--all"]).output();
    }
}

/// Code, place and kind of a finding.
#[must_use]
pub fn titled(finding: &Value) -> String {
    let element = &finding["element"];
    let word = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let [cluster, node, kind] = ["cluster", "node", "kind"].map(|key| word(&element[key]));
    format!("{} {cluster}/{node} {kind}", word(&finding["code"]))
}

/// A field of each object of an array.
#[track_caller]
#[must_use]
pub fn names(report: &Value, array: &str, field: &str) -> Vec<String> {
    let entries = report.pointer(array).and_then(Value::as_array);
    let entries = entries.unwrap_or_else(|| panic!("no array {array} in {report:#}"));
    entries
        .iter()
        .map(|entry| entry[field].as_str().unwrap_or_default().to_owned())
        .collect()
}
