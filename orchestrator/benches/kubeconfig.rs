//! Kubeconfigs of up to 10,000 contexts: reading and checking, selecting every context, and the whole inventory with its names.
//! Once every context is a cluster of its own with its authority and its client certificate, and once all of them are paths behind one proxy.
//! `cargo gate --bench` prints the rows beside those of the other crates.
#![allow(missing_docs, clippy::expect_used, reason = "a bench")]

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use measured::{Before, Measured, bench, median, timed};
use orchestrator::inventory::{self, InventoryOptions};
use orchestrator::kubeconfig::{self, Kubeconfig};

#[path = "../../tests/src/gate/measures/measured.rs"]
mod measured;

const SIZES: &[usize] = &[100, 300, 1000, 5000, 10_000];
const READ: &str = "kubeconfig: read";
const SELECT: &str = "kubeconfig: every context selected";
const NAME: &str = "kubeconfig: inventory";
const CLIENTS: &str = "kubeconfig: clients";
/// Every context is a server of its own.
const OWN: &str = ", own servers";
/// Every context is a path behind one authority.
const PROXY: &str = ", one proxy";

fn main() {
    let mut rows = Vec::new();
    for row in [READ, SELECT, NAME, CLIENTS] {
        rows.extend([OWN, PROXY].map(|shape| format!("{row}{shape}")));
    }
    let rows: Vec<&str> = rows.iter().map(String::as_str).collect();
    bench(&rows, SIZES, measure);
}

fn measure(row: &str, size: usize, folder: &Path) -> Measured {
    let (what, is_proxy) = match row.strip_suffix(PROXY) {
        Some(what) => (what, true),
        None => (row.strip_suffix(OWN).unwrap_or(row), false),
    };
    let file = written(size, is_proxy, folder);
    let bytes = std::fs::metadata(&file).map_or(0, |found| found.len());
    let read = || kubeconfig::read(&file).expect("it is good");
    let (before, time);
    match what {
        READ => {
            before = Before::now();
            time = timed(read).1;
        }
        SELECT => {
            let config = read();
            before = Before::now();
            time = median(|| selected(&config));
        }
        NAME => {
            let options = InventoryOptions {
                kubeconfigs: vec![file.clone()],
                ..InventoryOptions::default()
            };
            before = Before::now();
            let (inventory, took) = timed(|| inventory::load(&options).expect("it is good"));
            assert_eq!(inventory.targets.len(), size);
            time = took;
        }
        _ => {
            let selected = selected(&read());
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            before = Before::now();
            let (clients, took) = timed(|| {
                runtime.block_on(async {
                    let mut clients = Vec::new();
                    for one in &selected {
                        clients.push(one.client(1).await.expect("it is good"));
                    }
                    clients
                })
            });
            assert_eq!(clients.len(), size);
            time = took;
        }
    }
    Measured {
        remark: format!("{} KiB of YAML", bytes / 1024),
        ..before.until(row, size, time)
    }
}

fn selected(config: &Kubeconfig) -> Vec<kubeconfig::Selected> {
    let contexts = config.contexts();
    contexts
        .map(|context| config.select(context).expect("it is good"))
        .collect()
}

/// The file of a size, made by the first row that wants it: in a process that does nothing else, so that its memory is not
/// that of what is measured.
fn written(size: usize, is_proxy: bool, folder: &Path) -> PathBuf {
    const MAKE: &str = "FLOATER_MEASURE_MAKE";
    let shape = if is_proxy { "proxy" } else { "own" };
    let file = folder.join(format!("kubeconfig-{shape}-{size}.yaml"));
    if std::env::var_os(MAKE).is_some() {
        std::fs::write(&file, text(size, is_proxy)).expect("the folder is there");
        std::process::exit(0);
    }
    if !file.exists() {
        let program = std::env::current_exe().expect("a program has a path");
        let row = format!("{READ}{}", if is_proxy { PROXY } else { OWN });
        let made = measured::command(&program, &row, size, folder)
            .env(MAKE, "1")
            .status()
            .expect("it starts");
        assert!(made.success(), "{made}");
    }
    file
}

fn text(size: usize, is_proxy: bool) -> String {
    let certified = |name: String| rcgen::generate_simple_self_signed(vec![name]).expect("made");
    let authority = STANDARD.encode(certified("proxy.example".to_owned()).cert.pem());
    let mut clusters = String::new();
    let mut users = String::new();
    let mut contexts = String::new();
    for at in 0..size {
        let name = format!("c{at:05}");
        let own = certified(format!("{name}.example"));
        let certificate = STANDARD.encode(own.cert.pem());
        let (server, vouches, user) = if is_proxy {
            (
                format!("https://proxy.example/clusters/{name}"),
                &authority,
                format!("token: token-of-{name}"),
            )
        } else {
            let key = STANDARD.encode(own.signing_key.serialize_pem());
            (
                format!("https://{name}.example:6443"),
                &certificate,
                format!("client-certificate-data: {certificate}\n    client-key-data: {key}"),
            )
        };
        // Neither memory nor text refuses anything.
        let _ = write!(
            clusters,
            "- name: {name}\n  cluster:\n    server: {server}\n    certificate-authority-data: {vouches}\n"
        );
        let _ = write!(users, "- name: {name}\n  user:\n    {user}\n");
        let _ = write!(
            contexts,
            "- name: {name}\n  context:\n    cluster: {name}\n    user: {name}\n"
        );
    }
    format!(
        "apiVersion: v1\nkind: Config\nclusters:\n{clusters}users:\n{users}contexts:\n{contexts}"
    )
}
