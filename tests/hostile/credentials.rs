//! Kubeconfigs of the operator's own whose entries and credential plugins misbehave: each costs its own cluster only.

use std::os::unix::fs::PermissionsExt as _;

use serde_json::{Value, json};

use crate::fake::{ESCAPES, Fake};
use crate::trial::{Behaviour, HEALTHY, Stage, TOKEN, Trial};

/// What a plugin that works prints.
fn credential() -> String {
    json!({"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": {"token": TOKEN}})
        .to_string()
}

/// The entry of the hostile cluster's user or cluster.
fn entry<'a>(kubeconfig: &'a mut Value, list: &str, kind: &str) -> &'a mut Value {
    let entries = kubeconfig[list].as_array_mut().unwrap();
    let entry = entries.iter_mut().find(|entry| entry["name"] == "evil0");
    &mut entry.unwrap()[kind]
}

/// The hostile cluster's credentials come from a shell script.
fn plugin(script: &'static str) -> Trial {
    Trial::of(Fake::new()).kubeconfig(move |kubeconfig, stage| {
        let path = stage.folder.join("plugin");
        let text = format!("#!/bin/sh\necho run >> runs\n{}\n", script.replace("CREDENTIAL", &credential()));
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        *entry(kubeconfig, "users", "user") = json!({"exec": {
            "apiVersion": "client.authentication.k8s.io/v1", "command": "./plugin", "interactiveMode": "IfAvailable"}});
    })
}

/// It has run once.
fn once(trial: Trial) -> Trial {
    trial.check(|seen| {
        let runs = std::fs::read_to_string(seen.folder.join("runs")).unwrap_or_default();
        match runs.lines().count() {
            1 => Ok(()),
            count => Err(format!("its plugin ran {count} times")),
        }
    })
}

/// The hostile cluster's reason says so.
fn says(trial: Trial, word: &'static str) -> Trial {
    trial.check(move |seen| {
        let reason = seen.reason("evil0");
        if reason.contains(word) || seen.stderr.contains(word) {
            return Ok(());
        }
        Err(format!("its reason does not say `{word}`: {reason}"))
    })
}

/// The user of the hostile cluster is this.
fn user(user: impl Fn(&Stage<'_>) -> Value + Send + 'static) -> Trial {
    Trial::of(Fake::new()).kubeconfig(move |kubeconfig, stage| {
        *entry(kubeconfig, "users", "user") = user(stage);
    })
}

/// The hostile cluster's entry is changed so.
fn cluster(change: impl Fn(&mut Value) + Send + 'static) -> Trial {
    Trial::of(Fake::new())
        .kubeconfig(move |kubeconfig, _| change(entry(kubeconfig, "clusters", "cluster")))
}

pub(crate) const TABLE: &[Behaviour] = &[
    ("a plugin that works", || {
        once(plugin("printf '%s' 'CREDENTIAL'"))
    }),
    ("a plugin that hangs", || once(plugin("exec sleep 1000"))),
    ("a plugin that hangs and ignores signals", || {
        once(plugin("trap '' TERM INT HUP; sleep 1000; sleep 1000"))
    }),
    ("a plugin that floods its output", || {
        once(plugin("exec cat /dev/zero"))
    }),
    ("a plugin that floods its errors", || {
        once(plugin("exec cat /dev/zero >&2"))
    }),
    ("a plugin whose errors are escapes", || {
        once(says(
            plugin(
                "printf 'no ticket \\033]0;owned\\007\\033[2J\\302\\233\\342\\200\\256\\n' >&2; exit 1",
            ),
            "no ticket",
        ))
    }),
    ("a plugin that fails with a reason", || {
        once(says(
            plugin("echo 'ticket of the operator has expired' >&2; exit 3"),
            "ticket of the operator",
        ))
    }),
    ("a plugin that fails without a word", || {
        once(plugin("exit 7"))
    }),
    ("a plugin that kills itself", || once(plugin("kill -9 $$"))),
    ("a plugin that leaves children with its pipes", || {
        // A child that holds the pipes must not hold up the run.
        once(plugin("sleep 1000 &\nprintf '%s' 'CREDENTIAL'")).may_leave_processes()
    }),
    ("a plugin that prints no JSON", || {
        once(plugin("echo 'Please log in at https://192.0.2.1/'"))
    }),
    ("a plugin that prints escapes", || {
        once(plugin("printf '\\033[2J\\033]0;owned\\007'"))
    }),
    ("a plugin that prints nothing", || once(plugin(":"))),
    ("a plugin that prints another kind", || {
        once(plugin(
            "echo '{\"kind\":\"Pod\",\"apiVersion\":\"v1\",\"status\":{}}'",
        ))
    }),
    ("a plugin that prints a token of line breaks", || {
        once(plugin(
            "printf '%s' '{\"apiVersion\":\"client.authentication.k8s.io/v1\",\"kind\":\"ExecCredential\",\"status\":{\"token\":\"a\\r\\nX-Evil: 1\"}}'",
        ))
    }),
    ("a plugin that prints a token of 50 MB", || {
        once(plugin(
            "printf '%s' '{\"apiVersion\":\"client.authentication.k8s.io/v1\",\"kind\":\"ExecCredential\",\"status\":{\"token\":\"'; head -c 50000000 /dev/zero | tr '\\0' a; printf '%s' '\"}}'",
        ))
    }),
    ("a plugin that prints deep JSON", || {
        once(plugin("head -c 3000000 /dev/zero | tr '\\0' '['"))
    }),
    ("a plugin that wants to be talked to", || {
        once(plugin("read -r answer; printf '%s' \"$answer\""))
    }),
    ("a plugin that is not there", || {
        user(
            |_| json!({"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": "./nowhere", "interactiveMode": "Never"}}),
        )
    }),
    ("a plugin that is a folder", || {
        user(
            |_| json!({"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": "/", "interactiveMode": "Never"}}),
        )
    }),
    ("a plugin of escapes", || {
        user(
            |_| json!({"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": format!("./no{ESCAPES}"), "interactiveMode": "Never"}}),
        )
    }),
    ("a plugin of a version that is none", || {
        user(
            |_| json!({"exec": {"apiVersion": format!("v0{ESCAPES}"), "command": "./plugin", "interactiveMode": "Sometimes"}}),
        )
    }),
    ("a token of line breaks", || {
        user(|_| json!({"token": "a\r\nX-Evil: 1"}))
    }),
    ("a token of escapes", || user(|_| json!({"token": ESCAPES}))),
    ("a token of 10 MB", || {
        user(|_| json!({"token": "t".repeat(10 << 20)}))
    }),
    ("a token file without end", || {
        user(|_| json!({"tokenFile": "/dev/zero"}))
    }),
    ("a token file that is not there", || {
        user(|_| json!({"tokenFile": "nowhere/token"}))
    }),
    ("a token file that is a folder", || {
        user(|_| json!({"tokenFile": "/"}))
    }),
    ("a token file that nobody writes to", || {
        user(|stage| {
            let path = stage.folder.join("fifo");
            nix::unistd::mkfifo(
                &path,
                nix::sys::stat::Mode::S_IRUSR | nix::sys::stat::Mode::S_IWUSR,
            )
            .unwrap();
            json!({"tokenFile": path})
        })
    }),
    ("a client certificate of garbage", || {
        user(|_| json!({"client-certificate-data": "AAAA", "client-key-data": "!!!!"}))
    }),
    ("an authority of garbage", || {
        cluster(|cluster| cluster["certificate-authority-data"] = json!("bm8gcGVt"))
    }),
    ("an authority file without end", || {
        cluster(|cluster| {
            cluster
                .as_object_mut()
                .unwrap()
                .remove("certificate-authority-data");
            cluster["certificate-authority"] = json!("/dev/zero");
        })
    }),
    ("a server that is a file", || {
        cluster(|cluster| cluster["server"] = json!("file:///etc/passwd"))
    }),
    ("a server of escapes", || {
        cluster(|cluster| cluster["server"] = json!(format!("https://{ESCAPES}:1/")))
    }),
    ("a server of 100 KB", || {
        cluster(|cluster| cluster["server"] = json!(format!("https://{}:1/", "s".repeat(100_000))))
    }),
    ("a server that is a number", || {
        cluster(|cluster| cluster["server"] = json!(7))
    }),
    ("a server on no port", || {
        cluster(|cluster| cluster["server"] = json!("https://127.0.0.1:0"))
    }),
    ("a server with a secret in its URL", || {
        cluster(|cluster| {
            cluster["server"] = json!("https://operator:secret-of-the-operator@127.0.0.1:1")
        })
        .check(|seen| {
            match seen.stdout.contains("secret-of-the-operator")
                || seen.stderr.contains("secret-of-the-operator")
            {
                true => Err("the URL's password is printed".to_owned()),
                false => Ok(()),
            }
        })
    }),
    ("a proxy that is not there", || {
        cluster(|cluster| cluster["proxy-url"] = json!("http://127.0.0.1:1"))
    }),
    ("a proxy of no scheme", || {
        cluster(|cluster| cluster["proxy-url"] = json!(format!("gopher://{ESCAPES}")))
    }),
    ("another server's name", || {
        cluster(|cluster| cluster["tls-server-name"] = json!("somebody.example"))
    }),
    ("a context name of escapes", || {
        Trial::of(Fake::new())
            .kubeconfig(|kubeconfig, _| kubeconfig["contexts"][1]["name"] = json!(ESCAPES))
    }),
    ("a context name of 70,000 letters", || {
        Trial::of(Fake::new()).kubeconfig(|kubeconfig, _| {
            kubeconfig["contexts"][1]["name"] = json!("w".repeat(70_000))
        })
    }),
    ("a context of no cluster", || {
        Trial::of(Fake::new()).kubeconfig(|kubeconfig, _| {
            kubeconfig["contexts"][1]["context"]["cluster"] = json!("nowhere")
        })
    }),
    ("300 contexts of one hostile cluster", || {
        Trial::of(Fake::new()).kubeconfig(|kubeconfig, _| {
            let contexts = kubeconfig["contexts"].as_array_mut().unwrap();
            contexts.extend((0..300).map(|n| json!({"name": format!("copy{n}"), "context": {"cluster": "evil0", "user": "evil0"}})));
        })
    }),
    ("100 clusters that never answer", || {
        Trial::of(Fake::new().on(crate::fake::On::Connection, |_, _, conn| conn.idle())).kubeconfig(|kubeconfig, _| {
            let contexts = kubeconfig["contexts"].as_array_mut().unwrap();
            contexts.extend((0..100).map(|n| json!({"name": format!("copy{n}"), "context": {"cluster": "evil0", "user": "evil0"}})));
        })
    }),
    ("a second kubeconfig without end", || {
        Trial::of(Fake::new()).arguments(&["--kubeconfig", "/dev/zero"])
    }),
    ("a second kubeconfig that is a folder", || {
        Trial::of(Fake::new()).arguments(&["--kubeconfig", "/"])
    }),
    ("a second kubeconfig of deep YAML", || {
        Trial::of(Fake::new())
            .kubeconfig(|_, stage| {
                std::fs::write(stage.folder.join("second"), "[".repeat(1_000_000)).unwrap();
            })
            .arguments(&["--kubeconfig", "second"])
    }),
    ("a second kubeconfig that unfolds without end", || {
        Trial::of(Fake::new())
            .kubeconfig(|_, stage| {
                let mut text = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n".to_owned();
                for level in 1..12 {
                    let before = format!("*a{}", level - 1);
                    text.push_str(&format!(
                        "a{level}: &a{level} [{}]\n",
                        vec![before; 10].join(",")
                    ));
                }
                std::fs::write(stage.folder.join("second"), text).unwrap();
            })
            .arguments(&["--kubeconfig", "second"])
    }),
    ("a second kubeconfig that is not one", || {
        Trial::of(Fake::new())
            .kubeconfig(|_, stage| std::fs::write(stage.folder.join("second"), ESCAPES).unwrap())
            .arguments(&["--kubeconfig", "second"])
    }),
    (
        "a plugin of the healthy cluster that takes its time",
        || {
            // The slower of a named pair is waited for, whatever the other one does.
            Trial::of(Fake::new().on(crate::fake::On::Connection, |_, _, _| Ok(()))).kubeconfig(|kubeconfig, stage| {
            let path = stage.folder.join("slow");
            let text = credential().replace(TOKEN, &stage.healthy.token);
            std::fs::write(&path, format!("#!/bin/sh\nsleep 4\nprintf '%s' '{text}'\n")).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
            let users = kubeconfig["users"].as_array_mut().unwrap();
            let user = users.iter_mut().find(|user| user["name"] == HEALTHY).unwrap();
            user["user"] = json!({"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": "./slow",
                "interactiveMode": "Never"}});
        })
        },
    ),
];
