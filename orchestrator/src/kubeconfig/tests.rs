//! Every rule with the line it is told for, and the promise that nothing of a file leaves it.

use super::*;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n";
const KEY: &str = "-----BEGIN PRIVATE KEY-----\nMIIB\n-----END PRIVATE KEY-----\n";

fn b64(text: &str) -> String {
    STANDARD.encode(text)
}

/// A file of one context; each part can be replaced.
fn file(cluster: &str, user: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: east\nclusters:\n- name: east\n  cluster:\n{}\nusers:\n- name: admin\n  user:\n{}\ncontexts:\n- name: east\n  context:\n    cluster: east\n    user: admin\n",
        indent(cluster),
        indent(user)
    )
}

fn indent(text: &str) -> String {
    let lines: Vec<_> = text.lines().map(|line| format!("    {line}")).collect();
    lines.join("\n")
}

const SERVER: &str = "server: https://127.0.0.1:6443";
const TOKEN: &str = "token: s3cret-token";

/// Line and rule of the error that parsing or selecting `east` gives.
fn broken(text: &str) -> (Option<u64>, String) {
    let folder = tempdir();
    let result =
        parse(text, "f.yaml", Some(folder.path())).and_then(|file| file.select("east").map(|_| ()));
    let Err(Error::Input { file, line, rule }) = result else {
        panic!("not refused: {text}");
    };
    assert_eq!(file, "f.yaml");
    (line, rule)
}

/// A folder with good and bad files, removed on drop.
struct Folder(PathBuf);

impl Folder {
    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn tempdir() -> Folder {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let path = std::env::temp_dir().join(format!(
        "floater-kubeconfig-{}-{}",
        std::process::id(),
        NEXT.fetch_add(1, Ordering::Relaxed)
    ));
    std::fs::create_dir_all(path.join("folder")).expect("the temporary folder is writable");
    for (name, text) in [
        ("ca.pem", CERTIFICATE),
        ("key.pem", KEY),
        ("not.pem", "hello"),
        ("token", "t"),
    ] {
        std::fs::write(path.join(name), text).expect("the temporary folder is writable");
    }
    Folder(path)
}

#[test]
fn every_bad_file_is_refused_with_its_line_and_rule() {
    let good = file(SERVER, TOKEN);
    let certificate = b64(CERTIFICATE);
    let key = b64(KEY);
    let cases: Vec<(&str, String, Option<u64>, &str)> = vec![
        ("empty", String::new(), None, "is empty"),
        ("only comments", "# nothing\n\n".into(), None, "is empty"),
        ("a list", "- a\n- b\n".into(), Some(1), "wrong type"),
        ("a scalar", "hello\n".into(), Some(1), "wrong type"),
        (
            "not YAML",
            "clusters: [\n  {a: b\n".into(),
            Some(2),
            "not valid YAML",
        ),
        (
            "a tab",
            "clusters:\n\t- a\n".into(),
            Some(2),
            "not valid YAML",
        ),
        (
            "two documents",
            format!("{good}---\n{good}"),
            Some(18),
            "more than one YAML document",
        ),
        (
            "another kind",
            good.replace("kind: Config", "kind: Secret"),
            Some(2),
            "kind is not Config",
        ),
        (
            "another version",
            good.replace("apiVersion: v1", "apiVersion: v2"),
            Some(1),
            "apiVersion is not v1",
        ),
        (
            "the same key twice",
            good.replace("current-context: east", "kind: Config"),
            Some(3),
            "the same key twice",
        ),
        (
            "a user without a name, which nobody can name",
            good.replace("- name: admin\n  user:", "- user:"),
            Some(15),
            "names a user that the file does not have",
        ),
        (
            "a name twice",
            format!("{good}- name: east\n  context: {{cluster: east}}\n"),
            Some(17),
            "the name is used twice",
        ),
        (
            "clusters that are a mapping",
            good.replace("clusters:\n- name: east\n  cluster:", "clusters:\n  east:"),
            Some(5),
            "wrong type",
        ),
        (
            "an alias without anchor",
            good.replace("user: admin", "user: *admin"),
            Some(16),
            "an alias refers to no anchor",
        ),
        (
            "an absent cluster",
            good.replace("    cluster: east", "    cluster: west"),
            Some(15),
            "a cluster that the file does not have",
        ),
        (
            "an absent user",
            good.replace("user: admin", "user: root"),
            Some(16),
            "a user that the file does not have",
        ),
        (
            "no cluster",
            good.replace("    cluster: east\n", ""),
            Some(13),
            "names no cluster",
        ),
        (
            "an absent context",
            good.replace("- name: east\n  context:", "- name: north\n  context:"),
            None,
            "has no context east",
        ),
        (
            "no server",
            file("insecure-skip-tls-verify: true", TOKEN),
            Some(5),
            "the cluster has no server",
        ),
        (
            "a server without scheme",
            file("server: 127.0.0.1:6443", TOKEN),
            Some(7),
            "server is not a URL",
        ),
        (
            "a server of another scheme",
            file("server: ftp://127.0.0.1", TOKEN),
            Some(7),
            "server is not a URL",
        ),
        (
            "a server with a bad port",
            file("server: https://127.0.0.1:99999", TOKEN),
            Some(7),
            "server is not a URL",
        ),
        (
            "a server without host",
            file("server: 'https://'", TOKEN),
            Some(7),
            "server is not a URL",
        ),
        (
            "a flag of another type",
            file(
                &format!("{SERVER}\ninsecure-skip-tls-verify: perhaps"),
                TOKEN,
            ),
            Some(8),
            "wrong type",
        ),
        (
            "bad base64",
            file(
                &format!("{SERVER}\ncertificate-authority-data: '%%%'"),
                TOKEN,
            ),
            Some(8),
            "certificate-authority-data is not base64",
        ),
        (
            "base64 of something else",
            file(
                &format!("{SERVER}\ncertificate-authority-data: {}", b64("hello")),
                TOKEN,
            ),
            Some(8),
            "certificate-authority-data holds no PEM block CERTIFICATE",
        ),
        (
            "an absent authority",
            file(
                &format!("{SERVER}\ncertificate-authority: absent.pem"),
                TOKEN,
            ),
            Some(8),
            "certificate-authority names cannot be read: no such file or directory",
        ),
        (
            "an authority that is a folder",
            file(&format!("{SERVER}\ncertificate-authority: folder"), TOKEN),
            Some(8),
            "certificate-authority is not a file",
        ),
        (
            "an authority that is not PEM",
            file(&format!("{SERVER}\ncertificate-authority: not.pem"), TOKEN),
            Some(8),
            "holds no PEM block CERTIFICATE",
        ),
        (
            "authority and insecure",
            file(
                &format!(
                    "{SERVER}\ninsecure-skip-tls-verify: true\ncertificate-authority-data: {certificate}"
                ),
                TOKEN,
            ),
            Some(9),
            "exclude each other",
        ),
        (
            "a bad proxy",
            file(&format!("{SERVER}\nproxy-url: nowhere"), TOKEN),
            Some(8),
            "proxy-url is not a URL",
        ),
        (
            "a certificate without key",
            file(SERVER, &format!("client-certificate-data: {certificate}")),
            Some(11),
            "no client key",
        ),
        (
            "a key without certificate",
            file(SERVER, &format!("client-key-data: {key}")),
            Some(11),
            "no client certificate",
        ),
        (
            "a key that is a certificate",
            file(
                SERVER,
                &format!("client-certificate-data: {certificate}\nclient-key-data: {certificate}"),
            ),
            Some(12),
            "client-key-data holds no PEM block PRIVATE KEY",
        ),
        (
            "an absent key file",
            file(SERVER, "client-certificate: ca.pem\nclient-key: absent.pem"),
            Some(12),
            "client-key names cannot be read",
        ),
        (
            "an absent token file",
            file(SERVER, "tokenFile: absent"),
            Some(11),
            "tokenFile names cannot be read",
        ),
        (
            "a token of two lines",
            file(SERVER, "token: \"a\\nb\""),
            Some(11),
            "token has characters that no header may hold",
        ),
        (
            "an exec without command",
            file(
                SERVER,
                "exec: {apiVersion: client.authentication.k8s.io/v1}",
            ),
            Some(11),
            "exec names no command",
        ),
        (
            "an auth provider",
            file(SERVER, "auth-provider: {name: gcp}"),
            Some(11),
            "auth-provider is not supported",
        ),
    ];
    assert!(cases.len() >= 20);
    let mut wrong = Vec::new();
    for (what, text, line, words) in cases {
        let (found, rule) = broken(&text);
        if found != line || !rule.contains(words) {
            wrong.push(format!("{what}: {found:?} for {line:?}: {rule}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn an_alias_bomb_is_refused() {
    let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..12 {
        let refs = vec![format!("*a{}", level - 1); 10].join(", ");
        text += &format!("a{level}: &a{level} [{refs}]\n");
    }
    let (_, rule) = broken(&text);
    assert!(rule.contains("expands further"), "{rule}");
}

/// Whatever is wrong wherever: no line of any of these files is told, so no secret is.
#[test]
fn no_error_holds_anything_of_the_file() {
    let secrets = ["s3cret-token", "hunter2", "c2VjcmV0LWtleQ", "corp.example"];
    let user = format!(
        "token: s3cret-token\nusername: admin\npassword: hunter2\nclient-certificate-data: {}\nclient-key-data: c2VjcmV0LWtleQ==",
        b64(CERTIFICATE)
    );
    let good = file("server: https://corp.example:6443", &user);
    let lines: Vec<&str> = good.lines().collect();
    let mut texts = Vec::new();
    for at in 0..lines.len() {
        for change in [
            "\t- broken",
            "}",
            "    token: [s3cret-token, {hunter2: c2VjcmV0LWtleQ}]",
            "    password: {a: hunter2}",
            "    client-key-data: !!int hunter2",
            "    server: corp.example hunter2",
            "    token: \"s3cret-token",
            "    <<: *hunter2",
            "    exec: hunter2",
            "    s3cret-token: 1\n    s3cret-token: 2",
        ] {
            let mut changed = lines.clone();
            changed[at] = change;
            texts.push(changed.join("\n"));
        }
        texts.push(lines[..at].join("\n"));
    }
    let mut refused = 0;
    for text in texts {
        let Err(error) =
            parse(&text, "f.yaml", None).and_then(|file| file.select("east").map(|_| ()))
        else {
            continue;
        };
        refused += 1;
        let told = format!("{error} {error:?}");
        for secret in secrets {
            assert!(!told.contains(secret), "{told}");
        }
    }
    assert!(refused > 100, "{refused}");
}

#[test]
fn files_that_are_none_are_refused_as_such() {
    let folder = tempdir();
    let rule = |path: &Path| match read(path) {
        Err(Error::Input { line, rule, .. }) => (line, rule),
        _ => panic!("not refused: {}", path.display()),
    };
    assert_eq!(
        rule(&folder.path().join("absent")),
        (None, "does not exist".to_owned())
    );
    assert_eq!(
        rule(folder.path()),
        (None, "is a directory, not a kubeconfig".to_owned())
    );
    let binary = folder.path().join("binary");
    std::fs::write(&binary, b"apiVersion: v1\nkind: \xff\xfe\n").expect("writable");
    assert_eq!(rule(&binary), (Some(2), "is not UTF-8 text".to_owned()));
}

#[test]
fn relative_paths_belong_to_the_file_and_a_good_file_makes_a_configuration() {
    let folder = tempdir();
    let path = folder.path().join("config");
    let user = "client-certificate: ca.pem\nclient-key: key.pem\nexec: {command: ./bin/login, apiVersion: client.authentication.k8s.io/v1}";
    std::fs::write(
        &path,
        file(&format!("{SERVER}\ncertificate-authority: ca.pem"), user),
    )
    .expect("writable");
    let file = read(&path).expect("it is good");
    assert_eq!(file.current().expect("it has one"), "east");
    let selected = file.select("east").expect("it is good");
    assert_eq!(selected.line, 16);
    let user = &selected.entry.user;
    assert_eq!(user.client_certificate_data, Some(b64(CERTIFICATE)));
    assert_eq!(
        selected.entry.cluster.certificate_authority_data,
        Some(b64(CERTIFICATE))
    );
    let command = user.exec.as_ref().and_then(|exec| exec.command.as_deref());
    let expected = folder.path().join("./bin/login").display().to_string();
    assert_eq!(command, Some(&*expected));
    assert!(!format!("{selected:?}").contains("ca.pem"));
}

#[test]
fn a_list_is_merged_first_wins_and_absent_files_are_passed_over() {
    let folder = tempdir();
    let first = folder.path().join("first");
    let second = folder.path().join("second");
    std::fs::write(&first, file(SERVER, TOKEN)).expect("writable");
    let other = file("server: https://127.0.0.1:7443", TOKEN)
        .replace("- name: east\n  context:", "- name: west\n  context:")
        .replace("current-context: east", "current-context: west");
    std::fs::write(&second, other).expect("writable");
    let merged = read_list(&[folder.path().join("absent"), first.clone(), second.clone()])
        .expect("two are there");
    assert_eq!(merged.contexts().collect::<Vec<_>>(), ["east", "west"]);
    assert_eq!(merged.current().expect("it has one"), "east");
    let west = merged.select("west").expect("it is there");
    // Both files have a cluster `east`; the first one's is meant, as for kubectl.
    assert_eq!(west.server(), "https://127.0.0.1:6443");
    assert!(read_list(&[folder.path().join("absent")]).is_err());

    let empty = folder.path().join("empty");
    std::fs::write(&empty, "").expect("writable");
    let broken = folder.path().join("broken");
    std::fs::write(&broken, "clusters: 7\n").expect("writable");
    let merged = read_list(&[empty, broken, second]).expect("one can be read");
    assert_eq!(merged.contexts().collect::<Vec<_>>(), ["west"]);
    let [warning] = merged.warnings() else {
        panic!("{:?}", merged.warnings());
    };
    assert!(
        warning.contains("broken:1: a value has the wrong type"),
        "{warning}"
    );
}

#[test]
fn entries_without_a_name_cost_themselves() {
    let text =
        file(SERVER, TOKEN).replace("contexts:\n", "contexts:\n- context: {cluster: east}\n");
    let file = parse(&text, "f.yaml", None).expect("kubectl takes it");
    assert_eq!(file.contexts().collect::<Vec<_>>(), ["east"]);
    assert!(file.select("east").is_ok());
    assert_eq!(file.warnings().len(), 1, "{:?}", file.warnings());
}

#[test]
fn a_file_is_read_however_windows_wrote_it_and_wherever_its_documents_end() {
    let folder = tempdir();
    let text = file(SERVER, TOKEN);
    let utf16 = |unit: fn(u16) -> [u8; 2]| {
        let units = std::iter::once(0xfeff).chain(text.encode_utf16());
        units.flat_map(unit).collect::<Vec<u8>>()
    };
    for (what, bytes) in [
        ("little", utf16(u16::to_le_bytes)),
        ("big", utf16(u16::to_be_bytes)),
        ("mark", format!("\u{feff}{text}").into_bytes()),
        ("dashes", format!("{text}---\n").into_bytes()),
        ("dots", format!("---\n{text}...\n\n---\n").into_bytes()),
    ] {
        let path = folder.path().join(what);
        std::fs::write(&path, bytes).expect("writable");
        let file = read(&path).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert!(file.select("east").is_ok(), "{what}");
    }
    match read(Path::new("/dev/zero")) {
        Err(error) => assert!(error.to_string().ends_with("is a device, not a kubeconfig")),
        Ok(_) => panic!("an endless file was read"),
    }
}

#[test]
fn a_token_file_s_line_end_is_none_of_the_token() {
    let folder = tempdir();
    for (content, good) in [(" t0ken\r\n", true), ("two\nlines\n", false), ("\n", false)] {
        std::fs::write(folder.path().join("token"), content).expect("writable");
        let text = file(SERVER, "tokenFile: token");
        let selected =
            parse(&text, "f.yaml", Some(folder.path())).and_then(|file| file.select("east"));
        let token = selected.map(|selected| {
            serde_json::to_value(&selected.entry.user).expect("it is data")["token"].clone()
        });
        match token {
            Ok(token) => assert_eq!((token, good), (serde_json::json!("t0ken"), true)),
            Err(error) => assert!(
                !good && error.to_string().contains("holds no token"),
                "{error}"
            ),
        }
    }
}

/// What somebody else wrote starts nothing, opens nothing and goes nowhere on this machine.
#[test]
fn a_remote_kubeconfig_holds_inline_data_only() {
    let folder = tempdir();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let good = RemoteKubeconfig::parse(&file(SERVER, TOKEN), "clusters/x").expect("inline data");
    assert_eq!(good.server(), "https://127.0.0.1:6443");
    for (cluster, user, field) in [
        (
            SERVER,
            "exec: {command: /bin/true, apiVersion: client.authentication.k8s.io/v1}".to_owned(),
            "exec",
        ),
        (
            SERVER,
            "auth-provider: {name: gcp, config: {cmd-path: /bin/true}}".to_owned(),
            "auth-provider",
        ),
        (SERVER, format!("tokenFile: {}", path("token")), "tokenFile"),
        (SERVER, "tokenFile: token".to_owned(), "tokenFile"),
        (
            SERVER,
            "{token: t, tokenFile: token}".to_owned(),
            "tokenFile",
        ),
        (
            SERVER,
            format!(
                "client-certificate: {}\nclient-key-data: {}",
                path("ca.pem"),
                b64(KEY)
            ),
            "client-certificate",
        ),
        (
            SERVER,
            format!(
                "client-certificate-data: {}\nclient-key: {}",
                b64(CERTIFICATE),
                path("key.pem")
            ),
            "client-key",
        ),
        (
            &format!("{SERVER}\ncertificate-authority: {}", path("ca.pem")),
            TOKEN.to_owned(),
            "certificate-authority",
        ),
        (
            &format!("{SERVER}\nproxy-url: http://127.0.0.1:3128"),
            TOKEN.to_owned(),
            "proxy-url",
        ),
    ] {
        let error = match RemoteKubeconfig::parse(&file(cluster, &user), "clusters/x") {
            Err(error) => error.to_string(),
            Ok(_) => panic!("{field} is taken"),
        };
        assert!(
            error.starts_with("clusters/x:") && error.contains(field),
            "{error}"
        );
    }
}

#[tokio::test]
async fn a_remote_kubeconfig_s_server_is_not_on_this_machine() {
    let remote = RemoteKubeconfig::parse(&file(SERVER, TOKEN), "clusters/x").expect("inline data");
    let elsewhere = Reach::beside("https://10.0.0.1").await;
    let why = remote
        .client(elsewhere, 1)
        .await
        .map(|_| ())
        .expect_err("loopback");
    assert!(why.contains("loopback address"), "{why}");
    let here = Reach::beside("https://127.0.0.1").await;
    assert!(remote.client(here, 1).await.is_ok());
}
/// More contexts than the parser's default limits allow, each selected in time that does not depend on the others.
#[test]
fn a_merged_file_of_a_large_fleet_is_read() {
    use std::fmt::Write as _;
    let mut text = String::from("clusters:\n");
    for n in 0..9000 {
        let _ = writeln!(
            text,
            "- name: c{n}\n  cluster:\n    server: https://127.0.0.1:6443\n    tls-server-name: api\n    insecure-skip-tls-verify: true"
        );
    }
    text += "users:\n";
    for n in 0..9000 {
        let _ = writeln!(text, "- name: u{n}\n  user:\n    token: t{n}");
    }
    text += "contexts:\n";
    for n in 0..9000 {
        let _ = writeln!(
            text,
            "- name: x{n}\n  context:\n    cluster: c{n}\n    user: u{n}"
        );
    }
    let file = parse(&text, "f.yaml", None).expect("it is large and good");
    let names: Vec<String> = file.contexts().map(str::to_owned).collect();
    assert_eq!(names.len(), 9000);
    for name in &names {
        let selected = file.select(name).expect("it is good");
        assert_eq!(selected.server(), "https://127.0.0.1:6443");
    }
}
