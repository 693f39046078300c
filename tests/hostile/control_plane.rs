//! Control planes that hand out more than an inventory, and clusters that claim to be what they are not.

use std::path::Path;

use serde_json::{Value, json};
use tests::client::Endpoint;

use crate::fake::{ESCAPES, Fake, node, pod};
use crate::trial::{Behaviour, HEALTHY, OPERATOR_SECRET, Stage, TOKEN, Trial};

/// A file that a cluster's data ask the operator's machine to make.
const MARKER: &str = "marker";
/// A file of the operator's that a cluster's data ask for.
const SECRET_FILE: &str = "operator-token";

fn base64(text: &str) -> String {
    use ::base64::Engine as _;
    ::base64::engine::general_purpose::STANDARD.encode(text)
}

/// A `clusters.kosmos.io` object whose kubeconfig is this.
fn member(name: &str, kubeconfig: &str) -> Value {
    json!({"metadata": {"name": name, "uid": format!("m-{}", name.len())}, "spec": {"kubeconfig": base64(kubeconfig)}})
}

/// A kubeconfig of one context.
fn kubeconfig(cluster: &Value, user: &Value) -> String {
    tests::proxy::kubeconfig(&[("x", cluster.clone(), user.clone())])
}

/// The member that is in order.
fn healthy(endpoint: &Endpoint) -> Value {
    member(
        HEALTHY,
        &kubeconfig(&endpoint.cluster(), &json!({"token": endpoint.token})),
    )
}

/// A control plane that lists the healthy cluster and what is made from the second hostile cluster's `cluster`.
fn lists(make: impl Fn(&Value, &Path) -> Vec<Value> + Send + 'static) -> Trial {
    Trial::all(vec![Fake::new(), Fake::new()])
        .late(move |fakes: &[std::sync::Arc<Fake>], stage: &Stage<'_>| {
            std::fs::write(stage.folder.join(SECRET_FILE), OPERATOR_SECRET).unwrap();
            let mut members = vec![healthy(stage.healthy)];
            members.extend(make(&stage.hostile[1], stage.folder));
            fakes[0].set_members(members);
        })
        .kubeconfig(|kubeconfig, _| {
            // The control plane's own context alone.
            let contexts = kubeconfig["contexts"].as_array_mut().unwrap();
            contexts.retain(|context| context["name"] == "evil0");
            kubeconfig["current-context"] = json!("evil0");
        })
        .fleet()
        .check(|seen| {
            if seen.folder.join(MARKER).exists() {
                return Err("a program was started".to_owned());
            }
            Ok(())
        })
}

/// A member whose user is this.
fn with_user(user: impl Fn(&Path) -> Value + Send + 'static) -> Trial {
    lists(move |cluster, folder| vec![member("m1", &kubeconfig(cluster, &user(folder)))])
}

/// A member whose cluster entry is changed so.
fn with_cluster(change: impl Fn(&mut Value, &Path) + Send + 'static) -> Trial {
    lists(move |cluster, folder| {
        let mut cluster = cluster.clone();
        change(&mut cluster, folder);
        vec![member(
            "m1",
            &kubeconfig(&cluster, &json!({"token": TOKEN})),
        )]
    })
}

/// Nothing of a member's server has been asked.
fn unasked(trial: Trial) -> Trial {
    trial.check(|seen| match seen.fakes[1].asked().first() {
        Some(line) => Err(format!("the member was asked: {line}")),
        None => Ok(()),
    })
}

/// The hostile cluster says that it is the control plane of these.
fn claims(make: impl Fn(&Endpoint) -> (Vec<Value>, Vec<Value>) + Send + 'static) -> Trial {
    Trial::of(Fake::new()).before(move |fake, healthy| {
        let (members, nodes) = make(healthy);
        fake.members = members;
        fake.cluster_nodes = nodes;
    })
}

/// The hostile cluster stands first in the kubeconfig.
fn first(trial: Trial) -> Trial {
    trial.kubeconfig(|kubeconfig, _| kubeconfig["contexts"].as_array_mut().unwrap().reverse())
}

/// The objects of the healthy cluster's control plane.
fn stolen(healthy: &Endpoint) -> (Vec<Value>, Vec<Value>) {
    let kosmos = |kind: &str| healthy.items(&format!("/apis/kosmos.io/v1alpha1/{kind}"));
    (kosmos("clusters"), kosmos("clusternodes"))
}

/// Takes the healthy cluster's id.
fn of_one_id() -> Trial {
    Trial::of(Fake::new()).before(|fake, healthy| {
        let system = healthy.get("/api/v1/namespaces/kube-system");
        fake.uid = system["metadata"]["uid"].as_str().unwrap().to_owned();
    })
}

/// The report has a finding of the code.
fn finds(trial: Trial, code: &'static str) -> Trial {
    trial.check(move |seen| {
        let codes = seen.codes();
        match codes.iter().any(|found| found == code) {
            true => Ok(()),
            false => Err(format!("no {code} among {codes:?}")),
        }
    })
}

pub(crate) const TABLE: &[Behaviour] = &[
    ("a member of inline data", || {
        lists(|cluster, _| vec![member("m1", &kubeconfig(cluster, &json!({"token": TOKEN})))])
    }),
    ("a member with a plugin", || {
        unasked(with_user(|folder| {
            let script = format!(
                "touch {}; env > {0}; echo '{{}}'",
                folder.join(MARKER).display()
            );
            json!({"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": "/bin/sh", "args": ["-c", script],
                "interactiveMode": "Never"}})
        }))
    }),
    ("a member with a plugin and a token", || {
        unasked(with_user(|folder| {
            json!({"token": TOKEN, "exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": "touch",
                "args": [folder.join(MARKER)], "interactiveMode": "Never"}})
        }))
    }),
    ("a member with an auth provider", || {
        unasked(with_user(
            |folder| json!({"auth-provider": {"name": "gcp", "config": {"cmd-path": "touch", "cmd-args": folder.join(MARKER)}}}),
        ))
    }),
    ("a member with a token file", || {
        unasked(with_user(
            |folder| json!({"tokenFile": folder.join(SECRET_FILE)}),
        ))
    }),
    ("a member with a token file beside it", || {
        unasked(with_user(|_| json!({"tokenFile": SECRET_FILE})))
    }),
    ("a member with the environment as token", || {
        unasked(with_user(|_| json!({"tokenFile": "/proc/self/environ"})))
    }),
    ("a member with a token file and a token", || {
        unasked(with_user(
            |folder| json!({"token": TOKEN, "tokenFile": folder.join(SECRET_FILE)}),
        ))
    }),
    ("a member with certificate files", || {
        unasked(with_user(|folder| {
            let file = folder.join(SECRET_FILE);
            json!({"client-certificate": file, "client-key": file})
        }))
    }),
    ("a member with an authority file", || {
        unasked(with_cluster(|cluster, folder| {
            cluster
                .as_object_mut()
                .unwrap()
                .remove("certificate-authority-data");
            cluster["certificate-authority"] = json!(folder.join(SECRET_FILE));
        }))
    }),
    ("a member of the metadata service", || {
        with_cluster(|cluster, _| cluster["server"] = json!("https://169.254.169.254"))
    }),
    ("a member that is a socket", || {
        with_cluster(|cluster, _| cluster["server"] = json!("unix:///run/docker.sock"))
    }),
    ("a member whose kubeconfig is no base64", || {
        lists(|_, _| vec![json!({"metadata": {"name": "m1"}, "spec": {"kubeconfig": "!!!"}})])
    }),
    ("a member whose kubeconfig is no text", || {
        lists(|_, _| vec![json!({"metadata": {"name": "m1"}, "spec": {"kubeconfig": "/////w=="}})])
    }),
    ("a member whose kubeconfig is escapes", || {
        lists(|_, _| vec![member("m1", ESCAPES)])
    }),
    ("a member whose kubeconfig unfolds without end", || {
        lists(|_, _| {
            let mut text = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n".to_owned();
            for level in 1..12 {
                let before = format!("*a{}", level - 1);
                text.push_str(&format!(
                    "a{level}: &a{level} [{}]\n",
                    vec![before; 10].join(",")
                ));
            }
            vec![member("m1", &text)]
        })
    }),
    ("a member whose kubeconfig has 10 MB", || {
        lists(|_, _| vec![member("m1", &"# ".repeat(5 << 20))]).ends(69, "larger than 8 MiB")
    }),
    ("members of wrong types", || {
        lists(|_, _| {
            vec![
                json!({"metadata": {"name": "m1"}, "spec": 7}),
                json!({"metadata": {"name": "m2"}, "spec": {"kubeconfig": ["a"]}}),
                json!({"metadata": {"name": 3}}),
                json!({"metadata": "m4"}),
                json!(null),
                json!("m5"),
            ]
        })
    }),
    ("a member whose name is escapes", || {
        lists(|cluster, _| {
            vec![member(
                &format!("m{ESCAPES}"),
                &kubeconfig(cluster, &json!({"token": TOKEN})),
            )]
        })
    }),
    ("a member whose name is 1 MB", || {
        lists(|cluster, _| {
            vec![member(
                &"m".repeat(1 << 20),
                &kubeconfig(cluster, &json!({"token": TOKEN})),
            )]
        })
    }),
    ("a member whose name is the healthy one's", || {
        lists(|cluster, _| {
            vec![member(
                HEALTHY,
                &kubeconfig(cluster, &json!({"token": TOKEN})),
            )]
        })
    }),
    ("10,000 members without a kubeconfig", || {
        lists(|_, _| {
            (0..10_000)
                .map(|n| json!({"metadata": {"name": format!("m{n}")}, "spec": {}}))
                .collect()
        })
        .ends(69, "more than 10000 objects")
    }),
    ("300 members that are one", || {
        lists(|cluster, _| {
            let text = kubeconfig(cluster, &json!({"token": TOKEN}));
            (0..300).map(|n| member(&format!("m{n}"), &text)).collect()
        })
    }),
    ("a member that is the control plane again", || {
        Trial::of(Fake::new())
            .late(|fakes, stage| {
                let again = member(
                    "m1",
                    &kubeconfig(&stage.hostile[0], &json!({"token": TOKEN})),
                );
                fakes[0].set_members(vec![healthy(stage.healthy), again]);
            })
            .fleet()
    }),
    ("another control plane of the same fleet", || claims(stolen)),
    ("another control plane, listed first", || {
        first(claims(stolen))
    }),
    ("another control plane with other prefixes", || {
        first(claims(|healthy| {
            let (mut members, mut nodes) = stolen(healthy);
            for member in &mut members {
                member["status"]["clusterLinkStatus"]["podCIDRs"] = json!(["0.0.0.0/0"]);
            }
            for node in &mut nodes {
                node["spec"]["ip"] = json!("192.0.2.1");
                node["spec"]["podCIDRs"] = json!(["192.0.2.0/24"]);
            }
            (members, nodes)
        }))
    }),
    ("another control plane, and one was chosen", || {
        first(claims(stolen)).arguments(&["--control-plane", HEALTHY])
    }),
    ("a control plane of escapes", || {
        claims(|_| {
            let member = json!({"metadata": {"name": format!("m{ESCAPES}"), "labels": {"kosmos.io/cluster-role": "root"}},
                "spec": {"clusterLinkOptions": {"networkType": ESCAPES, "cni": ESCAPES}}});
            let node = json!({"metadata": {"name": ESCAPES}, "spec": {"clusterName": ESCAPES, "nodeName": ESCAPES,
                "ip": ESCAPES, "roles": [ESCAPES]}});
            (vec![member], vec![node])
        })
    }),
    ("a control plane of 2,000 members and nodes", || {
        claims(|_| {
            let members = (0..2000).map(|n| json!({"metadata": {"name": format!("m{n}")}, "spec": {"clusterLinkOptions":
                {"enable": true, "networkType": "gateway"}}, "status": {"clusterLinkStatus": {"podCIDRs": [format!("10.{}.{}.0/24", n / 256, n % 256)]}}}));
            let nodes = (0..2000).map(|n| json!({"metadata": {"name": format!("m{n}-n1")}, "spec": {"clusterName": format!("m{n}"),
                "nodeName": "n1", "ip": format!("100.65.{}.{}", n / 256, n % 256), "roles": ["gateway"]}}));
            (members.collect(), nodes.collect())
        })
    }),
    ("a control plane of every prefix", || {
        claims(|_| {
            let member = json!({"metadata": {"name": "evil0"}, "spec": {"clusterLinkOptions": {"enable": true, "networkType": "p2p"}},
                "status": {"clusterLinkStatus": {"podCIDRs": ["0.0.0.0/0", "::/0", "10.0.0.0/99", "x"], "serviceCIDRs": ["127.0.0.0/8"]}}});
            (vec![member], Vec::new())
        })
    }),
    ("the healthy cluster's id, listed first", || {
        finds(first(of_one_id()), "CLUSTER-ID-DUPLICATE")
    }),
    ("the healthy cluster's id, listed last", || {
        finds(of_one_id(), "CLUSTER-ID-DUPLICATE")
    }),
    ("the healthy cluster's nodes", || {
        first(Trial::of(Fake::new()).before(|fake, healthy| {
            fake.nodes = healthy.items("/api/v1/nodes");
            let ip = |node: &Value| {
                node["status"]["addresses"][0]["address"]
                    .as_str()
                    .unwrap()
                    .to_owned()
            };
            fake.pods = fake
                .nodes
                .iter()
                .flat_map(|node| {
                    let name = node["metadata"]["name"].as_str().unwrap();
                    [
                        pod(&format!("fh-{name}"), "host", name, &ip(node)),
                        pod(&format!("fp-{name}"), "pod", name, "10.250.0.2"),
                    ]
                })
                .collect();
        }))
    }),
    ("the healthy cluster's addresses, other names", || {
        first(Trial::of(Fake::new()).before(|fake, healthy| {
            let nodes = healthy.items("/api/v1/nodes");
            let ip = nodes[0]["status"]["addresses"][0]["address"]
                .as_str()
                .unwrap();
            fake.nodes = vec![node("other", ip)];
            fake.pods = vec![
                pod("fh", "host", "other", ip),
                pod("fp", "pod", "other", "10.250.0.2"),
            ];
        }))
    }),
    ("the healthy cluster's tables, handed on", || {
        // What a floater of another cluster signed for another audience is no testimony for this one.
        Trial::of(Fake::new()).before(|fake, healthy| {
            let healthy = healthy.clone();
            fake.hand_on(move |request| {
                let pods = healthy.items("/api/v1/namespaces/kosmos-system/pods");
                let host = pods
                    .iter()
                    .find(|pod| pod["spec"]["hostNetwork"] == json!(true))
                    .unwrap();
                let name = host["metadata"]["name"].as_str().unwrap();
                let (_, path) = request.path.split_once("/proxy/").unwrap();
                let target =
                    format!("/api/v1/namespaces/kosmos-system/pods/https:{name}:8890/proxy/{path}");
                let headers = request
                    .headers
                    .iter()
                    .filter(|(name, _)| name.starts_with("x-floater"))
                    .map(|(name, value)| (name.clone(), value.clone()))
                    .collect();
                healthy.send(&request.method, &target, &headers, &request.body)
            });
        })
    }),
];
