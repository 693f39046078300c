//! An agent that treats a node as that of Kosmos does, for fleets in which both work: it waits until a NodeConfig has been quiet for five seconds, compares
//! texts, takes away before it puts, a command a row, and looks at its rows again every thirty seconds. Its rows are written by ip(8) and bridge(8), so that nothing
//! of them is ours.
//!
//! It has no iptables: what it leaves out is the translation of hosts' own packets.
//!
//! It runs as a process of its own in the node's network namespace ([`VERB`]): a line of JSON on standard input says what it works for; it ends when that
//! input does. Every synchronisation is a line on standard output.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io::{BufRead as _, BufReader, Lines, Write as _};
use std::process::{Child, ChildStdout, Command, ExitCode, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::bare::KOSMOS;
use crate::client::Endpoint;

/// The gate's own word for it.
pub const VERB: &str = "__kosmos";
/// How long a NodeConfig has to be quiet.
const DEBOUNCE: Duration = Duration::from_secs(5);
/// How often it looks at its rows without being told.
const AGAIN: Duration = Duration::from_secs(30);
const DEVICES: [&str; 4] = ["vx-bridge", "vx-local", "vx-bridge-6", "vx-local-6"];
const TABLE: &str = "200";

/// What it works for.
#[derive(Debug, Serialize, Deserialize)]
pub struct Order {
    /// `ADDRESS:PORT` of the control plane's API, as the node reaches it.
    pub address: String,
    /// The authority of its certificate, PEM in base64.
    pub authority: String,
    /// A token.
    pub token: String,
    /// The name of the ClusterNode.
    pub node: String,
}

/// One synchronisation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Synced {
    /// What it took away.
    pub removed: Vec<String>,
    /// What it put.
    pub added: Vec<String>,
    /// Commands that failed.
    pub failed: Vec<String>,
}

/// A row as it is compared: the fields of its NodeConfig, as texts.
type RowText = BTreeMap<String, String>;

/// The lists in the order in which rows are put; devices last and first when they are taken away.
const LISTS: [&str; 4] = ["devices", "arps", "fdbs", "routes"];

/// Runs the verb.
#[must_use]
pub fn run(_: &[OsString]) -> ExitCode {
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).unwrap();
    let order: Order = serde_json::from_str(&line).unwrap();
    std::thread::spawn(|| {
        std::io::stdin().lines().for_each(drop);
        std::process::exit(0);
    });
    let control = Endpoint::at(order.address, order.authority, order.token);
    tell_addresses(&control, &order.node);
    let (sender, changes) = channel();
    let watched = control.clone();
    let node = order.node;
    std::thread::spawn(move || watch(&watched, &node, &sender));
    keep(&changes);
    ExitCode::SUCCESS
}

/// Writes the node's link and addresses into its ClusterNode, once there is one.
fn tell_addresses(control: &Endpoint, node: &str) {
    let path = format!("{KOSMOS}/clusternodes/{node}");
    let mut spec = json!({"interfaceName": "eth0"});
    for address in global("eth0") {
        let field = if address.contains(':') { "ip6" } else { "ip" };
        let (address, _) = address.split_once('/').unwrap();
        spec[field] = address.into();
    }
    while control.call("PATCH", &path, &json!({"spec": spec})).0 != 200 {
        std::thread::sleep(Duration::from_millis(500));
    }
}

/// Tells each state of the NodeConfig: none where there is none.
fn watch(control: &Endpoint, node: &str, sender: &Sender<Option<Value>>) {
    let collection = format!("{KOSMOS}/nodeconfigs");
    loop {
        let (status, object) = control.call("GET", &format!("{collection}/{node}"), &Value::Null);
        let now = match status {
            200 => Some(object["spec"].clone()),
            404 => None,
            _ => {
                std::thread::sleep(Duration::from_secs(1));
                continue;
            }
        };
        if sender.send(now).is_err() {
            return;
        }
        // Whatever happens to it, it is read again.
        let version = object["metadata"]["resourceVersion"].as_str();
        let target = format!(
            "{collection}?watch=1&fieldSelector=metadata.name%3D{node}&timeoutSeconds=60{}",
            version.map_or(String::new(), |version| format!(
                "&resourceVersion={version}"
            ))
        );
        if let Ok(mut answer) = control.send("GET", &target, &BTreeMap::new(), b"") {
            let _ = answer.piece();
        }
    }
}

/// Applies what is told once it has been quiet, and again from time to time.
fn keep(changes: &Receiver<Option<Value>>) {
    let mut desired = Value::Null;
    let mut told: Option<Value> = None;
    let mut next = Instant::now() + AGAIN;
    loop {
        let pause = match told {
            Some(_) => DEBOUNCE,
            None => next.saturating_duration_since(Instant::now()),
        };
        match changes.recv_timeout(pause) {
            // A NodeConfig that is gone is an empty one, at once.
            Ok(None) => {
                (desired, told) = (Value::Null, None);
                synchronise(&desired);
            }
            Ok(Some(spec)) => told = Some(spec),
            Err(RecvTimeoutError::Timeout) => match told.take() {
                Some(spec) if spec == desired => {}
                Some(spec) => {
                    desired = spec;
                    synchronise(&desired);
                }
                None => {
                    synchronise(&desired);
                    next = Instant::now() + AGAIN;
                }
            },
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

fn synchronise(desired: &Value) {
    let (wanted, found) = (wanted(desired), found());
    let mut synced = Synced {
        removed: Vec::new(),
        added: Vec::new(),
        failed: Vec::new(),
    };
    let command = |row: &RowText, list: &str, adds: bool, done: &mut Vec<String>| {
        let words = command(list, row, adds);
        done.push(words.join(" "));
        let output = Command::new(&words[0]).args(&words[1..]).output().unwrap();
        // A device takes its rows with it.
        if !output.status.success() && adds {
            let why = String::from_utf8_lossy(&output.stderr);
            return Some(format!("{}: {}", words.join(" "), why.trim()));
        }
        None
    };
    for list in LISTS.into_iter().skip(1).chain(["devices"]) {
        for row in found[list].difference(&wanted[list]) {
            let failed = command(row, list, false, &mut synced.removed);
            synced.failed.extend(failed);
        }
    }
    for list in LISTS {
        for row in wanted[list].difference(&found[list]) {
            let failed = command(row, list, true, &mut synced.added);
            synced.failed.extend(failed);
            if list == "devices" {
                synced.failed.extend(furnish(row));
            }
        }
    }
    println!("{}", serde_json::to_string(&synced).unwrap());
    let _ = std::io::stdout().flush();
}

/// The rows of a NodeConfig by list.
fn wanted(spec: &Value) -> BTreeMap<&'static str, BTreeSet<RowText>> {
    let rows = |list: &str| -> BTreeSet<RowText> {
        let rows = spec[list].as_array().into_iter().flatten();
        rows.map(|row| {
            let fields = row.as_object().unwrap().iter();
            fields
                .map(|(name, value)| {
                    let text = value.as_str().map_or(value.to_string(), str::to_owned);
                    (name.clone(), text)
                })
                .collect()
        })
        .collect()
    };
    LISTS.into_iter().map(|list| (list, rows(list))).collect()
}

/// The rows of the kernel by list, as it finds them.
fn found() -> BTreeMap<&'static str, BTreeSet<RowText>> {
    let mut found: BTreeMap<_, BTreeSet<RowText>> = LISTS
        .into_iter()
        .map(|list| (list, BTreeSet::new()))
        .collect();
    let row = |fields: &[(&str, String)]| -> RowText {
        let fields = fields.iter();
        fields
            .map(|(name, text)| ((*name).to_owned(), text.clone()))
            .collect()
    };
    let text = |value: &Value| value.as_str().map_or(value.to_string(), str::to_owned);
    for link in asked(&["ip", "-j", "-d", "link", "show", "type", "vxlan"]) {
        let name = text(&link["ifname"]);
        if !DEVICES.contains(&name.as_str()) {
            continue;
        }
        let data = &link["linkinfo"]["info_data"];
        let is_wanted = |address: &&String| address.contains(':') == name.ends_with("-6");
        let addresses = global(&name);
        let device = row(&[
            ("type", "vxlan".to_owned()),
            ("name", name.clone()),
            (
                "addr",
                addresses
                    .iter()
                    .find(is_wanted)
                    .cloned()
                    .unwrap_or_default(),
            ),
            ("mac", text(&link["address"])),
            ("bindDev", text(&data["link"])),
            ("id", text(&data["id"])),
            ("port", text(&data["port"])),
        ]);
        found.entry("devices").or_default().insert(device);
        for entry in asked(&["bridge", "-j", "fdb", "show", "dev", &name]) {
            let fdb = [
                ("ip", text(&entry["dst"])),
                ("mac", text(&entry["mac"])),
                ("dev", name.clone()),
            ];
            found.entry("fdbs").or_default().insert(row(&fdb));
        }
        for family in ["-4", "-6"] {
            let words = [
                "ip",
                family,
                "-j",
                "neigh",
                "show",
                "dev",
                &name,
                "nud",
                "permanent",
            ];
            for entry in asked(&words) {
                let arp = [
                    ("ip", text(&entry["dst"])),
                    ("mac", text(&entry["lladdr"])),
                    ("dev", name.clone()),
                ];
                found.entry("arps").or_default().insert(row(&arp));
            }
        }
    }
    for family in ["-4", "-6"] {
        for route in asked(&["ip", family, "-j", "route", "show", "table", TABLE]) {
            let dev = text(&route["dev"]);
            if DEVICES.contains(&dev.as_str()) {
                let fields = [
                    ("cidr", with_length(text(&route["dst"]))),
                    ("gw", text(&route["gateway"])),
                    ("dev", dev),
                ];
                found.entry("routes").or_default().insert(row(&fields));
            }
        }
    }
    found
}

/// A prefix as a NodeConfig has it; ip(8) leaves the length of a single address out.
fn with_length(prefix: String) -> String {
    match prefix.contains('/') {
        true => prefix,
        false if prefix.contains(':') => format!("{prefix}/128"),
        false => format!("{prefix}/32"),
    }
}

/// The words that put a row or take it away.
fn command(list: &str, row: &RowText, adds: bool) -> Vec<String> {
    let field = |name: &str| row.get(name).cloned().unwrap_or_default();
    let dev = field("dev");
    let text = match (list, adds) {
        ("devices", true) => {
            let is_v6 = field("name").ends_with("-6");
            let bind = field("bindDev");
            let local = global(&bind);
            let local = local.iter().find(|address| address.contains(':') == is_v6);
            let local = local.map_or("", |address| address.split('/').next().unwrap_or(""));
            format!(
                "ip link add {} mtu {} address {} txqueuelen 0 up type vxlan id {} dev {bind} local {local} dstport {} nolearning",
                field("name"),
                mtu(&bind).saturating_sub(if is_v6 { 70 } else { 50 }),
                field("mac"),
                field("id"),
                field("port")
            )
        }
        ("devices", false) => format!("ip link del {}", field("name")),
        ("arps", true) => format!(
            "ip neigh replace {} lladdr {} dev {dev} nud permanent",
            field("ip"),
            field("mac")
        ),
        ("arps", false) => format!("ip neigh del {} dev {dev}", field("ip")),
        ("fdbs", adds) => format!(
            "bridge fdb {} {} dev {dev} dst {} self permanent",
            if adds { "append" } else { "del" },
            field("mac"),
            field("ip")
        ),
        (_, adds) => format!(
            "ip route {} {} via {} dev {dev} table {TABLE} onlink",
            if adds { "add" } else { "del" },
            field("cidr"),
            field("gw")
        ),
    };
    text.split_whitespace().map(str::to_owned).collect()
}

/// What comes with a new device: the rule and its address.
fn furnish(row: &RowText) -> Vec<String> {
    let family = if row["name"].ends_with("-6") {
        "-6"
    } else {
        "-4"
    };
    let rule = format!("ip {family} rule add pref {TABLE} from all lookup {TABLE}");
    let address = format!("ip {family} addr add {} dev {}", row["addr"], row["name"]);
    let run = |text: &str| {
        let words: Vec<&str> = text.split_whitespace().collect();
        let output = Command::new(words[0]).args(&words[1..]).output().unwrap();
        let why = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        (!output.status.success() && !why.contains("File exists")).then(|| format!("{text}: {why}"))
    };
    [rule, address]
        .iter()
        .filter_map(|text| run(text))
        .collect()
}

/// Addresses of a link with their prefix lengths, those of the link itself left out.
fn global(link: &str) -> Vec<String> {
    let mut all = Vec::new();
    for shown in asked(&["ip", "-j", "addr", "show", "dev", link]) {
        for info in shown["addr_info"].as_array().into_iter().flatten() {
            if info["scope"] == "global" {
                let local = info["local"].as_str().unwrap();
                all.push(format!("{local}/{}", info["prefixlen"]));
            }
        }
    }
    all
}

fn mtu(link: &str) -> u64 {
    let shown = asked(&["ip", "-j", "link", "show", "dev", link]);
    shown
        .first()
        .and_then(|link| link["mtu"].as_u64())
        .unwrap_or(1500)
}

/// What a command shows as JSON; nothing where it has nothing to show.
fn asked(words: &[&str]) -> Vec<Value> {
    let output = Command::new(words[0]).args(&words[1..]).output().unwrap();
    serde_json::from_slice(&output.stdout).unwrap_or_default()
}

/// Such an agent, as long as this lives.
pub struct Agent {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Agent {
    /// Starts one by a command that begins a process in the node's network namespace; the verb is added to it.
    #[must_use]
    pub fn start(command: &mut Command, order: &Order) -> Self {
        let mut child = command
            .arg(VERB)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let mut line = serde_json::to_vec(order).unwrap();
        line.push(b'\n');
        child.stdin.as_mut().unwrap().write_all(&line).unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    /// Its next synchronisation.
    #[track_caller]
    pub fn synced(&mut self) -> Synced {
        let line = self.lines.next().expect("an agent that works").unwrap();
        serde_json::from_str(&line).unwrap()
    }

    /// Ends it; its rows stay.
    pub fn end(mut self) {
        drop(self.child.stdin.take());
        self.child.wait().unwrap();
    }
}
