//! A user's exec plugin (`client.authentication.k8s.io`): run once for a client, within bounds, and quoted when it fails.

use std::io::IsTerminal as _;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use datapath::printable::Printable;
use kube::config::{AuthInfo, Cluster, ExecConfig, ExecInteractiveMode};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::Command;

use crate::descriptors;

/// How long a plugin may take; one that waits for somebody at a terminal has [`AT_TERMINAL`].
const LIMIT: Duration = Duration::from_secs(60);
/// How long somebody at a terminal may take to answer.
const AT_TERMINAL: Duration = Duration::from_secs(300);
/// The most bytes that it may print: a token and a pair of certificate and key are a tenth of it.
const MAX_OUTPUT: u64 = 256 << 10;
/// The most characters of what it says when it fails.
const MAX_WORDS: usize = 300;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Credential {
    api_version: String,
    status: Option<Status>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Status {
    token: Option<String>,
    client_certificate_data: Option<String>,
    client_key_data: Option<String>,
}

/// Runs the plugin of a user and gives the user with the credentials instead of it.
///
/// # Errors
/// Why there are none: the plugin's own words without what looks like a secret.
pub(super) async fn user(
    exec: &ExecConfig,
    cluster: &Cluster,
    extension: Option<&Value>,
    user: &AuthInfo,
) -> Result<AuthInfo, String> {
    let has_terminal = std::io::stdin().is_terminal();
    let interactive = match exec.interactive_mode {
        Some(ExecInteractiveMode::Never) => false,
        Some(ExecInteractiveMode::Always) if !has_terminal => {
            return Err(
                "its credential plugin has to ask somebody (interactiveMode: Always), and standard input is no terminal"
                    .to_owned(),
            );
        }
        _ => has_terminal,
    };
    let output = run(
        exec,
        &info(exec, cluster, extension, interactive),
        interactive,
    )
    .await?;
    credentials(exec, &output, user)
}

/// What the plugin is told in `KUBERNETES_EXEC_INFO`.
fn info(
    exec: &ExecConfig,
    cluster: &Cluster,
    extension: Option<&Value>,
    interactive: bool,
) -> Value {
    let mut spec = json!({"interactive": interactive});
    if exec.provide_cluster_info {
        let mut told = json!({"server": cluster.server});
        for (field, value) in [
            (
                "tls-server-name",
                cluster.tls_server_name.as_ref().map(|name| json!(name)),
            ),
            (
                "insecure-skip-tls-verify",
                cluster.insecure_skip_tls_verify.map(|skip| json!(skip)),
            ),
            (
                "certificate-authority-data",
                cluster
                    .certificate_authority_data
                    .as_ref()
                    .map(|data| json!(data)),
            ),
            (
                "proxy-url",
                cluster.proxy_url.as_ref().map(|url| json!(url)),
            ),
            ("config", extension.cloned()),
        ] {
            if let Some(value) = value {
                told[field] = value;
            }
        }
        spec["cluster"] = told;
    }
    json!({"apiVersion": exec.api_version, "kind": "ExecCredential", "spec": spec})
}

async fn run(exec: &ExecConfig, info: &Value, interactive: bool) -> Result<Vec<u8>, String> {
    let name = exec.command.clone().unwrap_or_default();
    let mut command = Command::new(&name);
    command
        .args(exec.args.iter().flatten())
        .env("KUBERNETES_EXEC_INFO", info.to_string())
        .stdout(Stdio::piped())
        // Somebody at a terminal reads its questions as they come.
        .stderr(if interactive {
            Stdio::inherit()
        } else {
            Stdio::piped()
        })
        .kill_on_drop(true);
    for variable in exec.env.iter().flatten() {
        if let (Some(name), Some(value)) = (variable.get("name"), variable.get("value")) {
            command.env(name, value);
        }
    }
    if !interactive {
        // A group of its own, so that what it started ends with it; at a terminal it would be in the background.
        command.stdin(Stdio::null()).process_group(0);
    }
    let called = Printable::bounded(&name, 100);
    let mut child = command.spawn().map_err(|error| {
        let hint = match exec.install_hint.as_deref() {
            Some(hint) if error.kind() == std::io::ErrorKind::NotFound => {
                format!(" ({})", Printable::bounded(hint, MAX_WORDS).as_str())
            }
            _ => String::new(),
        };
        format!(
            "its credential plugin {called} cannot be started: {}{hint}",
            descriptors::words(&error)
        )
    })?;
    let mut group = Group(child.id().filter(|_| !interactive));
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let limit = if interactive { AT_TERMINAL } else { LIMIT };
    let work = async { tokio::try_join!(read(stdout), read(stderr), child.wait()) };
    let (stdout, stderr, status) = tokio::time::timeout(limit, work)
        .await
        .map_err(|_| {
            format!(
                "its credential plugin {called} gave no credentials within {} s",
                limit.as_secs()
            )
        })?
        .map_err(|error| match error.kind() {
            std::io::ErrorKind::FileTooLarge => {
                format!(
                    "its credential plugin {called} prints more than {} KiB",
                    MAX_OUTPUT >> 10
                )
            }
            kind => format!("its credential plugin {called} cannot be read: {kind}"),
        })?;
    // What it left running by its own choice, an agent that keeps a session, may stay.
    group.0 = None;
    if !status.success() {
        return Err(format!(
            "its credential plugin {called} {}{}",
            ended(status),
            said(&stderr)
        ));
    }
    Ok(stdout)
}

/// A process group that is ended when this is dropped.
struct Group(Option<u32>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(id) = self.0.and_then(|id| i32::try_from(id).ok()) {
            // It may have ended by itself.
            let _ = nix::sys::signal::killpg(
                nix::unistd::Pid::from_raw(id),
                nix::sys::signal::Signal::SIGKILL,
            );
        }
    }
}

async fn read(stream: Option<impl AsyncRead + Unpin>) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(stream) = stream {
        stream.take(MAX_OUTPUT + 1).read_to_end(&mut bytes).await?;
    }
    if bytes.len() as u64 > MAX_OUTPUT {
        return Err(std::io::ErrorKind::FileTooLarge.into());
    }
    Ok(bytes)
}

fn ended(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt as _;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("failed with exit code {code}"),
        (None, Some(signal)) => format!("was ended by signal {signal}"),
        (None, None) => "failed".to_owned(),
    }
}

/// The end of what it said, where the reason stands.
fn said(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    let text = text.trim();
    if text.is_empty() {
        return String::new();
    }
    let cut = text.chars().count().saturating_sub(MAX_WORDS);
    let text: String = text.chars().skip(cut).collect();
    format!(
        ": {}",
        Printable::bounded(&without_secrets(&text), MAX_WORDS).as_str()
    )
}

/// Text without words that look like a token, a key or a password.
fn without_secrets(text: &str) -> String {
    let mut safe = String::new();
    let mut after_keyword = false;
    for piece in text.split_inclusive(|c: char| !(c.is_ascii_alphanumeric() || "+/=_-".contains(c)))
    {
        let word =
            piece.trim_end_matches(|c: char| !(c.is_ascii_alphanumeric() || "+/=_-".contains(c)));
        // `password=x` is one word, the value behind the sign.
        let (key, value) = word.split_once('=').unwrap_or(("", word));
        let names_secret = |word: &str| {
            let word = word.to_ascii_lowercase();
            ["token", "password", "secret", "bearer", "authorization"]
                .iter()
                .any(|keyword| word.ends_with(keyword))
        };
        let secret = !value.is_empty()
            && !names_secret(value)
            && (names_secret(key) || looks_like_secret(value) || after_keyword && value.len() >= 8);
        if secret {
            safe.push_str(&piece.replacen(value, "[redacted]", 1));
        } else {
            safe.push_str(piece);
        }
        if !word.is_empty() {
            let behind = &piece[word.len()..];
            after_keyword = names_secret(word.trim_end_matches('='))
                && (behind == ":" || word.eq_ignore_ascii_case("bearer"));
        }
    }
    safe
}

/// Long, and of digits and letters as chance mixes them.
fn looks_like_secret(word: &str) -> bool {
    let has = |test: fn(&char) -> bool| word.chars().any(|c| test(&c));
    let mixed = has(char::is_ascii_digit) && has(char::is_ascii_uppercase);
    word.len() >= 20 && mixed || word.len() >= 32 && word.chars().all(|c| c.is_ascii_hexdigit())
}

fn credentials(exec: &ExecConfig, output: &[u8], user: &AuthInfo) -> Result<AuthInfo, String> {
    let wrong =
        |why: &str| format!("its credential plugin printed no usable ExecCredential: {why}");
    let credential: Credential =
        serde_json::from_slice(output).map_err(|_| wrong("it is not JSON of that kind"))?;
    if exec
        .api_version
        .as_ref()
        .is_some_and(|version| *version != credential.api_version)
    {
        return Err(wrong(
            "its apiVersion is not the one that the kubeconfig asks for",
        ));
    }
    let status = credential.status.ok_or_else(|| wrong("it has no status"))?;
    let mut user = AuthInfo {
        exec: None,
        ..user.clone()
    };
    use base64::Engine as _;
    let encoded = |pem: String| base64::engine::general_purpose::STANDARD.encode(pem);
    match (status.client_certificate_data, status.client_key_data) {
        (Some(certificate), Some(key)) => {
            user.client_certificate_data = Some(encoded(certificate));
            user.client_key_data = Some(encoded(key).into());
        }
        (None, None) if status.token.is_none() => {
            return Err(wrong("it holds no token and no certificate"));
        }
        (None, None) => {}
        _ => return Err(wrong("it holds one half of certificate and key")),
    }
    if let Some(token) = status.token {
        if token.bytes().any(|byte| byte <= b' ' || byte >= 0x7f) {
            return Err(wrong("the token has characters that no header may hold"));
        }
        user.token = Some(token.into());
    }
    Ok(user)
}

#[cfg(test)]
mod tests {
    use super::*;

    const VERSION: &str = "client.authentication.k8s.io/v1";

    fn shell(script: &str) -> ExecConfig {
        serde_json::from_value(json!({
            "apiVersion": VERSION,
            "command": "/bin/sh",
            "args": ["-c", script],
            "interactiveMode": "Never",
        }))
        .expect("it is one")
    }

    async fn token(exec: &ExecConfig) -> Result<String, String> {
        let user = user(exec, &Cluster::default(), None, &AuthInfo::default()).await?;
        let user = serde_json::to_value(&user).expect("it is data");
        Ok(user["token"].as_str().unwrap_or_default().to_owned())
    }

    fn prints(token: &str) -> String {
        let credential =
            json!({"apiVersion": VERSION, "kind": "ExecCredential", "status": {"token": token}});
        format!("echo '{credential}'")
    }

    #[tokio::test]
    async fn a_plugin_s_token_is_taken_and_its_failure_quoted_without_secrets() {
        assert_eq!(token(&shell(&prints("abc"))).await, Ok("abc".to_owned()));
        let fails = shell(
            "printf 'no \\033[31msession; token=hunter2 eyJhbGciOiJSUzI1NiIsImtpZCI6IjEifQ' >&2; exit 3",
        );
        let why = token(&fails).await.expect_err("it fails");
        assert!(
            why.contains("failed with exit code 3: no \u{fffd}[31msession"),
            "{why}"
        );
        assert!(!why.contains("hunter2") && !why.contains("eyJ"), "{why}");
        for (script, rule) in [
            ("kill -9 $$", "ended by signal 9"),
            ("echo nonsense", "not JSON"),
            (
                "echo '{\"apiVersion\":\"client.authentication.k8s.io/v1beta1\",\"status\":{\"token\":\"t\"}}'",
                "apiVersion",
            ),
            (
                "echo '{\"apiVersion\":\"client.authentication.k8s.io/v1\",\"status\":{}}'",
                "no token",
            ),
            ("yes", "prints more than 256 KiB"),
        ] {
            let why = token(&shell(script)).await.expect_err(script);
            assert!(why.contains(rule), "{why}");
        }
        let mut absent = shell("");
        absent.command = Some("/nowhere/plugin".into());
        absent.install_hint = Some("install\u{1b} it".into());
        let why = token(&absent).await.expect_err("it is not there");
        assert!(
            why.ends_with("cannot be started: no such file or directory (install\u{fffd} it)"),
            "{why}"
        );
    }

    #[tokio::test]
    async fn a_plugin_is_told_about_its_cluster_only_where_it_asks_for_that() {
        let cluster = Cluster {
            server: Some("https://east.example".into()),
            ..Default::default()
        };
        let extension = json!({"team": "harbour"});
        let mut exec = shell("");
        assert_eq!(
            info(&exec, &cluster, Some(&extension), false)["spec"],
            json!({"interactive": false})
        );
        exec.provide_cluster_info = true;
        assert_eq!(
            info(&exec, &cluster, Some(&extension), false)["spec"]["cluster"],
            json!({"server": "https://east.example", "config": {"team": "harbour"}})
        );
        let script = "printf '{\"apiVersion\":\"client.authentication.k8s.io/v1\",\"status\":{\"token\":\"%s\"}}' \"$(printf %s \"$KUBERNETES_EXEC_INFO\" | wc -c | tr -d ' ')\"";
        let told: usize = token(&shell(script))
            .await
            .expect("it prints one")
            .parse()
            .expect("a number");
        assert!(told > 50);
    }

    #[tokio::test(start_paused = true)]
    async fn a_plugin_that_hangs_is_given_up_with_what_it_started() {
        let why = token(&shell("sleep 1000 & wait"))
            .await
            .expect_err("it hangs");
        assert!(why.contains("gave no credentials within 60 s"), "{why}");
    }

    #[test]
    fn ordinary_words_of_a_failure_are_kept() {
        let text = "Error: could not reach https://sts.eu-west-1.amazonaws.com: token expired, run `aws sso login --profile prod-01`";
        assert_eq!(without_secrets(text), text);
        assert_eq!(
            without_secrets(
                "key AKIAIOSFODNN7EXAMPLE1 password: correcthorse d41d8cd98f00b204e9800998ecf8427e"
            ),
            "key [redacted] password: [redacted] [redacted]"
        );
    }
}
