//! One run of the program over a healthy cluster and hostile ones, and what must hold of it whatever they do.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use datapath::printable::is_dangerous;
use serde_json::{Value, json};
use tests::client::Endpoint;
use tests::lab::Lab;
use tests::program::Place;
use tests::proxy::{Changes, Proxy};
use tests::server::{Certificate, Server};

use crate::fake::Fake;

/// The longest that a run may take.
pub(crate) const SECONDS: u64 = 60;
/// The most memory that a run may hold at any moment, bytes.
const MOST_MEMORY: u64 = 400 << 20;
/// The most that a run may print or write, bytes.
const MOST_OUTPUT: u64 = 8 << 20;
/// How many runs go on at once: they wait more than they work.
const AT_ONCE: usize = 4;
/// What a hostile cluster is opened with, and the only credential that it may see.
pub(crate) const TOKEN: &str = "token-of-the-hostile-cluster";

/// A behaviour's name and what makes it.
pub(crate) type Behaviour = (&'static str, fn() -> Trial);

type Before = Box<dyn Fn(&mut Fake, &Endpoint) + Send>;
type Late = Box<dyn Fn(&[Arc<Fake>], &Stage<'_>) + Send>;
type Edit = Box<dyn Fn(&mut Value, &Stage<'_>) + Send>;
type Check = Box<dyn Fn(&Seen<'_>) -> Result<(), String> + Send>;

/// A hostile cluster or several, and how the program is run over them.
pub(crate) struct Trial {
    fakes: Vec<Fake>,
    arguments: Vec<String>,
    before: Vec<Before>,
    late: Vec<Late>,
    inventory: &'static str,
    edits: Vec<Edit>,
    checks: Vec<Check>,
    may_leave_processes: bool,
    ends: Option<(i32, &'static str)>,
}

/// What a trial's kubeconfig is made from.
pub(crate) struct Stage<'a> {
    /// The trial's own folder.
    pub(crate) folder: &'a Path,
    /// The healthy cluster.
    pub(crate) healthy: &'a Endpoint,
    /// The hostile clusters, as a kubeconfig's `cluster`.
    pub(crate) hostile: Vec<Value>,
}

/// What came of a run.
pub(crate) struct Seen<'a> {
    pub(crate) folder: &'a Path,
    pub(crate) fakes: &'a [Arc<Fake>],
    pub(crate) report: &'a Value,
    pub(crate) stdout: &'a str,
    pub(crate) stderr: &'a str,
}

impl Trial {
    /// The healthy cluster beside this one.
    pub(crate) fn of(fake: Fake) -> Self {
        Self::all(vec![fake])
    }

    /// The healthy cluster beside these.
    pub(crate) fn all(fakes: Vec<Fake>) -> Self {
        Self {
            fakes,
            arguments: Vec::new(),
            before: Vec::new(),
            late: Vec::new(),
            inventory: "--kubeconfig",
            edits: Vec::new(),
            checks: Vec::new(),
            may_leave_processes: false,
            ends: None,
        }
    }

    /// With hostile clusters that know something of the healthy one.
    pub(crate) fn before(mut self, change: impl Fn(&mut Fake, &Endpoint) + Send + 'static) -> Self {
        self.before.push(Box::new(change));
        self
    }

    /// With hostile clusters that know where they listen.
    pub(crate) fn late(
        mut self,
        change: impl Fn(&[Arc<Fake>], &Stage<'_>) + Send + 'static,
    ) -> Self {
        self.late.push(Box::new(change));
        self
    }

    /// The kubeconfig is that of a control plane, which holds the inventory.
    pub(crate) fn fleet(mut self) -> Self {
        self.inventory = "--fleet";
        self
    }

    /// With further arguments.
    pub(crate) fn arguments(mut self, arguments: &[&str]) -> Self {
        self.arguments
            .extend(arguments.iter().map(|&word| word.to_owned()));
        self
    }

    /// Over a kubeconfig that is changed so.
    pub(crate) fn kubeconfig(
        mut self,
        edit: impl Fn(&mut Value, &Stage<'_>) + Send + 'static,
    ) -> Self {
        self.edits.push(Box::new(edit));
        self
    }

    /// A plugin that did what it should may have left processes of its own, as under any other program.
    pub(crate) fn may_leave_processes(mut self) -> Self {
        self.may_leave_processes = true;
        self
    }

    /// Nothing can be judged, because the one place that names the clusters is the hostile one: this exit code, and an error that says
    /// so.
    pub(crate) fn ends(mut self, code: i32, word: &'static str) -> Self {
        self.ends = Some((code, word));
        self
    }

    /// What else must hold.
    pub(crate) fn check(
        mut self,
        check: impl Fn(&Seen<'_>) -> Result<(), String> + Send + 'static,
    ) -> Self {
        self.checks.push(Box::new(check));
        self
    }
}

impl Seen<'_> {
    /// The state of a hostile cluster.
    pub(crate) fn state(&self, name: &str) -> String {
        self.of_cluster(name, "state")
    }

    /// Why a hostile cluster is not wholly observed.
    pub(crate) fn reason(&self, name: &str) -> String {
        self.of_cluster(name, "reason")
    }

    fn of_cluster(&self, name: &str, field: &str) -> String {
        let clusters = self.report["clusters"].as_array();
        let cluster = clusters
            .into_iter()
            .flatten()
            .find(|cluster| cluster["name"] == name);
        cluster
            .and_then(|cluster| cluster[field].as_str())
            .unwrap_or_default()
            .to_owned()
    }

    /// Codes of the findings.
    pub(crate) fn codes(&self) -> Vec<String> {
        let findings = self.report["findings"].as_array();
        findings
            .into_iter()
            .flatten()
            .filter_map(|finding| finding["code"].as_str().map(str::to_owned))
            .collect()
    }
}

/// Runs every behaviour of a table and fails with all that went wrong.
#[track_caller]
pub(crate) fn run(table: &[Behaviour]) {
    let only = std::env::var("HOSTILE_ONLY").unwrap_or_default();
    let rows: Vec<&Behaviour> = table.iter().filter(|row| row.0.contains(&only)).collect();
    let lab = Lab::up(&["--clusters", "1", "--nodes", "2", "--mode", "gateway"]);
    let healthy = Endpoint::of(lab.kubeconfig(), &lab.clusters[0]);
    let next = Mutex::new(rows.iter());
    let complaints = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE.min(rows.len()) {
            scope.spawn(|| {
                loop {
                    let row = next.lock().unwrap_or_else(PoisonError::into_inner).next();
                    let Some((name, make)) = row else { return };
                    let said = one(&lab.place, &healthy, name, make());
                    let mut complaints = complaints.lock().unwrap_or_else(PoisonError::into_inner);
                    complaints.extend(said.into_iter().map(|what| format!("{name}: {what}")));
                }
            });
        }
    });
    lab.down();
    let complaints = complaints
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

/// Runs one and tells what does not hold.
fn one(place: &Place, healthy: &Endpoint, name: &str, trial: Trial) -> Vec<String> {
    let folder = place.path().join(name.replace([' ', '/'], "-"));
    std::fs::create_dir(&folder).unwrap();
    let mut fakes = trial.fakes;
    for before in &trial.before {
        fakes.iter_mut().for_each(|fake| before(fake, healthy));
    }
    let fakes: Vec<Arc<Fake>> = fakes.into_iter().map(Arc::new).collect();
    let servers: Vec<Server> = fakes
        .iter()
        .map(|fake| {
            let certificate = (!fake.is_plain).then(Certificate::of_loopback);
            let fake = Arc::clone(fake);
            Server::start(certificate, move |conn| fake.serve(conn))
        })
        .collect();
    // What the healthy cluster's floaters are asked to send is the one thing that hostile data can make them do.
    let plans: Arc<Mutex<Vec<Value>>> = Arc::default();
    let heard = Arc::clone(&plans);
    let changes = Changes::none().before(move |request, _| {
        if request.path.ends_with("/v2/probe") {
            let mut plans = heard.lock().unwrap_or_else(PoisonError::into_inner);
            plans.push(request.json());
        }
        Ok(false)
    });
    let certificate = Certificate::of_loopback().clone();
    let watched = Proxy::start_tls(healthy.clone(), changes, certificate);
    let stage = Stage {
        folder: &folder,
        healthy: &watched.endpoint(healthy),
        hostile: servers.iter().map(cluster).collect(),
    };
    for late in &trial.late {
        late(&fakes, &stage);
    }
    let mut kubeconfig = kubeconfig(&stage);
    for edit in &trial.edits {
        edit(&mut kubeconfig, &stage);
    }
    std::fs::write(folder.join("kubeconfig"), kubeconfig.to_string()).unwrap();
    let ran = measure(place, &folder, trial.inventory, &trial.arguments);
    let report = std::fs::read(folder.join("report.json")).unwrap_or_default();
    let report: Value = serde_json::from_slice(&report).unwrap_or_default();
    let mut complaints = ran.complaints(&folder);
    let left = left_processes(place, &folder);
    if !trial.may_leave_processes && !left.is_empty() {
        complaints.push(format!("processes are left behind: {left:?}"));
    }
    let text = |name: &str| {
        String::from_utf8_lossy(&std::fs::read(folder.join(name)).unwrap_or_default()).into_owned()
    };
    let (stdout, stderr) = (text("stdout"), text("stderr"));
    if stderr.contains("panicked") {
        complaints.push("it panicked".to_owned());
    }
    match trial.ends {
        Some((code, word)) if ran.code != Some(code) || !stderr.contains(word) => {
            complaints.push(format!("exit code {:?}, not {code}; {stderr}", ran.code));
        }
        Some(_) => {}
        None => {
            if !matches!(ran.code, Some(0..=2)) {
                complaints.push(format!("exit code {:?}", ran.code));
            }
            complaints.extend(healthy_complaints(&report));
        }
    }
    for fake in &fakes {
        let own = format!("Bearer {TOKEN}");
        if let Some(token) = fake.tokens().iter().find(|token| **token != own) {
            complaints.push(format!("it saw the credential `{token}`"));
        }
    }
    let plans = plans.lock().unwrap_or_else(PoisonError::into_inner);
    complaints.extend(plan_complaints(&plans));
    let seen = Seen {
        folder: &folder,
        fakes: &fakes,
        report: &report,
        stdout: &stdout,
        stderr: &stderr,
    };
    for check in &trial.checks {
        complaints.extend(check(&seen).err());
    }
    let reasons: Vec<String> = report["clusters"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|cluster| cluster["name"] != HEALTHY)
        .map(|cluster| format!("{}: {}", cluster["state"], cluster["reason"]))
        .collect();
    // Shown with the outcome of the test where it fails, and with `--nocapture`.
    println!(
        "{:5.1} s {:4} MB  {name}: exit {:?}, {}{}",
        ran.took.as_secs_f64(),
        ran.memory >> 20,
        ran.code,
        reasons.join("; ").chars().take(160).collect::<String>(),
        if complaints.is_empty() {
            ""
        } else {
            "  FAILED"
        },
    );
    if !complaints.is_empty() && std::env::var_os("HOSTILE_ONLY").is_some() {
        println!("--- stdout\n{stdout:?}\n--- stderr\n{stderr:?}");
    }
    complaints
}

/// The healthy cluster's name.
pub(crate) const HEALTHY: &str = "c1";

fn cluster(server: &Server) -> Value {
    use base64::Engine as _;
    let authority = &Certificate::of_loopback().authority;
    let pem = base64::engine::general_purpose::STANDARD.encode(authority);
    json!({"server": format!("https://{}", server.address()), "certificate-authority-data": pem})
}

fn kubeconfig(stage: &Stage<'_>) -> Value {
    let text = {
        let mut contexts = vec![(
            HEALTHY.to_owned(),
            stage.healthy.cluster(),
            json!({"token": stage.healthy.token}),
        )];
        for (position, cluster) in stage.hostile.iter().enumerate() {
            contexts.push((
                format!("evil{position}"),
                cluster.clone(),
                json!({"token": TOKEN}),
            ));
        }
        let contexts: Vec<_> = contexts
            .iter()
            .map(|(name, cluster, user)| (name.as_str(), cluster.clone(), user.clone()))
            .collect();
        tests::proxy::kubeconfig(&contexts)
    };
    serde_json::from_str(&text).unwrap()
}

struct Measured {
    code: Option<i32>,
    took: Duration,
    memory: u64,
    is_late: bool,
}

/// Runs the program with its outputs in files, until it ends or is ended.
fn measure(place: &Place, folder: &Path, inventory: &str, arguments: &[String]) -> Measured {
    let own = ["dr", inventory, "kubeconfig", "-v", "--timeout", "40"];
    let outputs = [
        "-o",
        "table",
        "-o",
        "json=report.json",
        "-o",
        "junit=junit.xml",
        "-o",
        "dot=graph.dot",
    ];
    let further = arguments.iter().map(String::as_str);
    let words: Vec<&str> = own.into_iter().chain(outputs).chain(further).collect();
    let started = Instant::now();
    let mut child = place
        .command(words)
        .current_dir(folder)
        .env("OPERATOR_SECRET", OPERATOR_SECRET)
        .env(MARK, folder)
        .stdout(File::create(folder.join("stdout")).unwrap())
        .stderr(File::create(folder.join("stderr")).unwrap())
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let status = PathBuf::from(format!("/proc/{}/status", child.id()));
    let program = PathBuf::from(format!("/proc/{}/exe", child.id()));
    let this = std::fs::read_link("/proc/self/exe").unwrap();
    let mut measured = Measured {
        code: None,
        took: Duration::ZERO,
        memory: 0,
        is_late: false,
    };
    loop {
        // For a moment after its start the child has the memory of this program.
        let is_there = std::fs::read_link(&program).is_ok_and(|program| program != this);
        let text = match is_there {
            true => std::fs::read_to_string(&status).unwrap_or_default(),
            false => String::new(),
        };
        let peak = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let peak = peak.and_then(|words| words.split_whitespace().next()?.parse::<u64>().ok());
        measured.memory = measured.memory.max(peak.unwrap_or(0) << 10);
        measured.took = started.elapsed();
        if let Some(status) = child.try_wait().unwrap() {
            measured.code = status.code();
            return measured;
        }
        let is_too_large = measured.memory > 4 * MOST_MEMORY;
        if measured.took > Duration::from_secs(SECONDS) || is_too_large {
            measured.is_late = !is_too_large;
            child.kill().unwrap();
            child.wait().unwrap();
            return measured;
        }
        // The peak is read while it runs, because nothing tells it once it has ended.
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The variable by which the processes of a trial are known, those of its plugins included.
const MARK: &str = "HOSTILE_TRIAL";

/// Ends what is left of a trial's processes and tells their names.
fn left_processes(place: &Place, folder: &Path) -> Vec<String> {
    let mut left = Vec::new();
    let mark = format!("{MARK}={}", folder.display());
    for (pid, name) in place.processes() {
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        if environment
            .split(|byte| *byte == 0)
            .any(|variable| variable == mark.as_bytes())
        {
            // It may have ended by itself since.
            let _ = nix::sys::signal::kill(
                nix::unistd::Pid::from_raw(pid),
                nix::sys::signal::Signal::SIGKILL,
            );
            left.push(name);
        }
    }
    left
}

/// A variable of the operator's environment that no cluster may learn.
pub(crate) const OPERATOR_SECRET: &str = "secret-of-the-operator";

impl Measured {
    fn complaints(&self, folder: &Path) -> Vec<String> {
        let mut complaints = Vec::new();
        if self.is_late {
            complaints.push(format!("it still ran after {SECONDS} s"));
        }
        if self.memory > MOST_MEMORY {
            complaints.push(format!("it held {} MB", self.memory >> 20));
        }
        for name in ["stdout", "stderr", "report.json", "junit.xml", "graph.dot"] {
            let Ok(bytes) = std::fs::read(folder.join(name)) else {
                continue;
            };
            if bytes.len() as u64 > MOST_OUTPUT {
                complaints.push(format!("{name} has {} bytes", bytes.len()));
            }
            match std::str::from_utf8(&bytes) {
                Err(error) => complaints.push(format!("{name} is no UTF-8: {error}")),
                Ok(text) => complaints.extend(raw(name, text)),
            }
        }
        complaints
    }
}

/// What of a text a terminal obeys or a reader is fooled by, also behind the escapes of JSON and XML.
fn raw(name: &str, text: &str) -> Option<String> {
    let decoded;
    let mut texts = vec![text];
    if name == "report.json" {
        let value: Value = serde_json::from_str(text).ok()?;
        let mut all = String::new();
        strings(&value, &mut all);
        decoded = all;
        texts.push(&decoded);
    }
    for text in texts {
        if let Some(at) = text.char_indices().position(|(_, c)| is_raw(c)) {
            let around: String = text.chars().skip(at.saturating_sub(20)).take(40).collect();
            return Some(format!("{name} has raw characters: {around:?}"));
        }
    }
    // A reference to a character is the character, to whoever reads the XML.
    for piece in text.split("&#").skip(1) {
        let number = piece.split(';').next().unwrap_or_default();
        let code = match number.strip_prefix('x') {
            Some(digits) => u32::from_str_radix(digits, 16).ok(),
            None => number.parse().ok(),
        };
        if code.and_then(char::from_u32).is_some_and(is_raw) {
            return Some(format!("{name} refers to a raw character: &#{number};"));
        }
    }
    None
}

fn is_raw(c: char) -> bool {
    c != '\n' && is_dangerous(c)
}

fn strings(value: &Value, into: &mut String) {
    match value {
        Value::String(text) => into.push_str(text),
        Value::Array(values) => values.iter().for_each(|value| strings(value, into)),
        Value::Object(fields) => {
            for (name, value) in fields {
                into.push_str(name);
                strings(value, into);
            }
        }
        _ => {}
    }
}

/// The most packets and connections towards one address in a run, and in a run altogether.
const MOST_PROBES: (u64, u64) = (1000, 5000);

/// What of the plans no floater may be asked for.
fn plan_complaints(plans: &[Value]) -> Vec<String> {
    let mut complaints = Vec::new();
    let mut by_address: BTreeMap<IpAddr, u64> = BTreeMap::new();
    let probes = plans.iter().filter_map(|plan| plan["probes"].as_array());
    for probe in probes.flatten() {
        let Some(address) = probe["dst"].as_str().and_then(|text| text.parse().ok()) else {
            continue;
        };
        if is_special(address) {
            complaints.push(format!("the healthy cluster was to probe {address}"));
        }
        let port = probe["port"].as_u64().unwrap_or(0);
        if probe["protocol"] == "tcp" && !(8889..8999).contains(&port) {
            complaints.push(format!(
                "the healthy cluster was to probe port {port} of {address}"
            ));
        }
        *by_address.entry(address).or_default() += probe["count"].as_u64().unwrap_or(0);
    }
    let (most_for_one, most) = MOST_PROBES;
    let all: u64 = by_address.values().sum();
    if all > most {
        complaints.push(format!("the healthy cluster was to send {all} probes"));
    }
    for (address, count) in by_address {
        if count > most_for_one {
            complaints.push(format!(
                "the healthy cluster was to send {count} probes to {address}"
            ));
        }
    }
    complaints.truncate(5);
    complaints
}

/// Whether an address is none of a node or pod that others can reach.
fn is_special(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => {
            address.is_loopback()
                || address.is_unspecified()
                || address.is_multicast()
                || address.is_link_local()
                || address.is_broadcast()
        }
        IpAddr::V6(address) => {
            address.is_loopback()
                || address.is_unspecified()
                || address.is_multicast()
                || address.is_unicast_link_local()
        }
    }
}

/// What the report lacks about the healthy cluster, or says against it.
fn healthy_complaints(report: &Value) -> Vec<String> {
    let mut complaints = Vec::new();
    let inside: Vec<&Value> = report["cells"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|cell| cell["src"] == HEALTHY && cell["dst"] == HEALTHY)
        .collect();
    if inside.len() < 2 || inside.iter().any(|cell| cell["verdict"] != "pass") {
        let verdicts: Vec<&Value> = inside.iter().map(|cell| &cell["verdict"]).collect();
        complaints.push(format!("the healthy cluster was not judged: {verdicts:?}"));
    }
    let findings = report["findings"].as_array();
    for finding in findings.into_iter().flatten() {
        if finding["element"]["cluster"] == HEALTHY && finding["severity"] == "error" {
            complaints.push(format!(
                "the healthy cluster is accused of {}: {}",
                finding["code"], finding["summary"]
            ));
        }
    }
    complaints
}
