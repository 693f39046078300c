//! A value of the wrong type costs its entry, and the others of the file are used.

use super::super::{self as kubeconfig, Kubeconfig};
use crate::Error;

/// A good context `good` beside one named `bad` of these two entries.
fn beside(cluster: &str, user: &str, context: &str) -> Kubeconfig {
    let text = format!(
        "clusters:\n\
         - {{name: good, cluster: {{server: 'https://127.0.0.1:1'}}}}\n\
         - {cluster}\n\
         users:\n\
         - {{name: good, user: {{token: abc}}}}\n\
         - {user}\n\
         contexts:\n\
         - {{name: good, context: {{cluster: good, user: good}}}}\n\
         - {context}\n"
    );
    kubeconfig::parse(&text, "f.yaml", None).expect("the file is YAML")
}

const CLUSTER: &str = "{name: bad, cluster: {server: 'https://127.0.0.1:2'}}";
const USER: &str = "{name: bad, user: {token: s3cret}}";
const CONTEXT: &str = "{name: bad, context: {cluster: bad, user: bad}}";

#[test]
fn a_value_of_the_wrong_type_costs_its_entry() {
    let with =
        |field: &str| format!("{{name: bad, cluster: {{server: 'https://127.0.0.1:2', {field}}}}}");
    let user = |field: &str| format!("{{name: bad, user: {{{field}}}}}");
    let cases: Vec<(String, String, String, u64, &str)> =
        ["server: 5", "server: [a]", "server: {a: b}", "server: true"]
            .map(|field| {
                let cluster = format!("{{name: bad, cluster: {{{field}}}}}");
                (
                    cluster,
                    USER.to_owned(),
                    CONTEXT.to_owned(),
                    3,
                    "server has the wrong type",
                )
            })
            .into_iter()
            .chain(
                [
                    (
                        "certificate-authority-data: 7",
                        "certificate-authority-data has",
                    ),
                    (
                        "insecure-skip-tls-verify: perhaps",
                        "insecure-skip-tls-verify has",
                    ),
                    (
                        "insecure-skip-tls-verify: 1",
                        "insecure-skip-tls-verify has",
                    ),
                    ("tls-server-name: [a]", "tls-server-name has"),
                    ("proxy-url: {}", "proxy-url has"),
                ]
                .map(|(field, rule)| (with(field), USER.to_owned(), CONTEXT.to_owned(), 3, rule)),
            )
            .chain(
                [
                    ("token: 5", "token has the wrong type: it has to be text"),
                    ("token: 1.5", "token has"),
                    ("token: [s3cret]", "token has"),
                    ("token: {s3cret: s3cret}", "token has"),
                    ("tokenFile: true", "tokenFile has"),
                    ("username: 1, password: s3cret", "username has"),
                    (
                        "client-key-data: 12345678901234567890123",
                        "client-key-data has",
                    ),
                    (
                        "as-groups: s3cret",
                        "as-groups has the wrong type: it has to be a list of texts",
                    ),
                    ("as-groups: [1]", "as-groups has"),
                    ("exec: 5", "exec is not a mapping"),
                    ("exec: {command: 5}", "exec names no command"),
                    ("exec: {command: x, args: 5}", "a value of the wrong type"),
                ]
                .map(|(field, rule)| {
                    (CLUSTER.to_owned(), user(field), CONTEXT.to_owned(), 6, rule)
                }),
            )
            .chain([
                (
                    "{name: bad, cluster: 5}".to_owned(),
                    USER.to_owned(),
                    CONTEXT.to_owned(),
                    3,
                    "has to be a mapping",
                ),
                (
                    CLUSTER.to_owned(),
                    "{name: bad, user: [s3cret]}".to_owned(),
                    CONTEXT.to_owned(),
                    6,
                    "has to be a mapping",
                ),
                (
                    CLUSTER.to_owned(),
                    USER.to_owned(),
                    "{name: bad, context: {cluster: 5}}".to_owned(),
                    9,
                    "cluster has the wrong type",
                ),
                (
                    CLUSTER.to_owned(),
                    USER.to_owned(),
                    "{name: bad, context: bad}".to_owned(),
                    9,
                    "has to be a mapping",
                ),
            ])
            .collect();
    for (cluster, user, context, line, rule) in cases {
        let file = beside(&cluster, &user, &context);
        let good = file.select("good").expect("the other is good");
        assert_eq!(good.server(), "https://127.0.0.1:1");
        let error = file.select("bad").expect_err(rule);
        let Error::Input {
            line: found,
            rule: why,
            ..
        } = &error
        else {
            panic!("{error:?}");
        };
        assert_eq!(*found, Some(line), "{error}");
        assert!(why.contains(rule), "{error}");
        assert!(!error.to_string().contains("s3cret"), "{error}");
    }
}

#[test]
fn an_entry_whose_name_is_no_text_is_left_out() {
    for entry in [
        "5",
        "[a]",
        "text",
        "~",
        "{}",
        "{name: 5}",
        "{name: ~}",
        "{name: [a]}",
    ] {
        let file = beside(entry, entry, entry);
        assert_eq!(file.contexts().collect::<Vec<_>>(), ["good"], "{entry}");
        assert!(file.select("good").is_ok(), "{entry}");
        assert_eq!(file.warnings().len(), 3, "{entry}: {:?}", file.warnings());
    }
}

#[test]
fn what_looks_like_another_type_is_text_in_quotes() {
    let file = beside(
        CLUSTER,
        "{name: bad, user: {token: '12345'}}",
        "{name: bad, context: {cluster: \"bad\", user: 'bad'}}",
    );
    assert!(file.select("bad").is_ok());
    let skips =
        "{name: bad, cluster: {server: 'https://127.0.0.1:2', insecure-skip-tls-verify: true}}";
    assert!(beside(skips, USER, CONTEXT).select("bad").is_ok());
    let empty = "{name: bad, user: {token: ~, as-groups: null, exec: }}";
    assert!(beside(CLUSTER, empty, CONTEXT).select("bad").is_ok());
}

#[test]
fn a_control_character_costs_its_entry() {
    for (user, rule) in [
        (
            "{name: bad, user: {token: \"s3cret\u{9b}31m\"}}",
            "token has control characters",
        ),
        (
            "{name: bad, user: {username: a, password: \"s3cret\u{7}\"}}",
            "password has control characters",
        ),
        (
            "{name: bad, user: {as: 's3cret\u{1b}[2J'}}",
            "as has control characters",
        ),
    ] {
        let file = beside(CLUSTER, user, CONTEXT);
        assert!(file.select("good").is_ok());
        let error = file.select("bad").expect_err(rule).to_string();
        assert!(error.contains(rule), "{error}");
        assert!(
            error.starts_with("f.yaml:6:") && !error.contains("s3cret"),
            "{error}"
        );
    }
    let server = "{name: bad, cluster: {server: \"https://127.0.0.1\u{9b}:1\"}}";
    let file = beside(server, USER, CONTEXT);
    assert!(file.select("good").is_ok() && file.select("bad").is_err());
}
