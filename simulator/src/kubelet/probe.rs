//! Readiness: a real request from the node to the pod.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use netns_harness::namespace::Netns;
use netns_harness::opener::Opener;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpSocket;
use tokio::time::{sleep, timeout};

use super::text;

/// The first look at a container that has just been started.
const FIRST: Duration = Duration::from_millis(10);

/// How a pod is asked.
#[derive(Debug, Clone)]
pub(super) struct Probe {
    at: Option<SocketAddr>,
    /// The path of an HTTP GET; none where a connection is answer enough.
    path: Option<String>,
    initial: Duration,
    period: Duration,
    patience: Duration,
    failures: u32,
}

impl Probe {
    /// The readiness probe of a pod's first container.
    pub(super) fn of(pod: &Value, ips: &[IpAddr]) -> Self {
        let probe = pod.pointer("/spec/containers/0/readinessProbe");
        let number = |field: &str, default: u64| {
            let value = probe
                .and_then(|probe| probe.get(field))
                .and_then(Value::as_u64);
            value.unwrap_or(default)
        };
        let port = |kind: &str| port_of(pod, probe?.get(kind)?.get("port")?);
        let host = |kind: &str| {
            let host = probe.map_or("", |probe| text(probe, &format!("/{kind}/host")));
            host.parse::<IpAddr>().ok()
        };
        let host = host("httpGet").or_else(|| host("tcpSocket"));
        let (port, path) = match (port("httpGet"), port("tcpSocket")) {
            (Some(port), _) => {
                let path = probe.map_or("", |probe| text(probe, "/httpGet/path"));
                (
                    Some(port),
                    Some(if path.is_empty() { "/" } else { path }.to_owned()),
                )
            }
            (None, port) => (port, None),
        };
        Self {
            at: host
                .or(ips.first().copied())
                .zip(port)
                .map(SocketAddr::from),
            path,
            initial: Duration::from_secs(number("initialDelaySeconds", 0)),
            period: Duration::from_secs(number("periodSeconds", 10).max(1)),
            patience: Duration::from_secs(number("timeoutSeconds", 1).max(1)),
            failures: u32::try_from(number("failureThreshold", 3).max(1)).unwrap_or(u32::MAX),
        }
    }

    /// Whether there is nothing to ask, so that a running container is a ready one.
    pub(super) fn is_none(&self) -> bool {
        self.at.is_none()
    }

    pub(super) fn prober(&self) -> Prober {
        Prober {
            probe: self.clone(),
            pause: self.initial.max(FIRST),
            ready: false,
            failed: 0,
        }
    }

    async fn passes(&self, opener: &Opener, from: &Netns) -> bool {
        let Some(at) = self.at else { return true };
        let asked = async {
            let socket = opener
                .open(from, move || {
                    if at.is_ipv4() {
                        TcpSocket::new_v4()
                    } else {
                        TcpSocket::new_v6()
                    }
                })
                .ok()?
                .ok()?;
            let mut stream = socket.connect(at).await.ok()?;
            let Some(path) = &self.path else {
                return Some(true);
            };
            let request = format!(
                "GET {path} HTTP/1.1\r\nHost: {at}\r\nUser-Agent: kube-probe/1.33\r\nAccept: */*\r\nConnection: close\r\n\r\n"
            );
            stream.write_all(request.as_bytes()).await.ok()?;
            // "HTTP/1.1 200": the status is all that counts.
            let mut head = [0; 12];
            stream.read_exact(&mut head).await.ok()?;
            let status: u16 = std::str::from_utf8(&head[9..]).ok()?.parse().ok()?;
            Some(head.starts_with(b"HTTP/1.") && (200..400).contains(&status))
        };
        timeout(self.patience, asked)
            .await
            .ok()
            .flatten()
            .unwrap_or(false)
    }
}

/// A port by number, or by its name among the container's.
fn port_of(pod: &Value, port: &Value) -> Option<u16> {
    if let Some(number) = port.as_u64() {
        return u16::try_from(number).ok();
    }
    let name = port.as_str()?;
    let ports = pod.pointer("/spec/containers/0/ports")?.as_array()?;
    let named = ports.iter().find(|port| port["name"] == name)?;
    u16::try_from(named["containerPort"].as_u64()?).ok()
}

/// A probe's course: often while the container is coming up, then at the probe's period.
#[derive(Debug)]
pub(super) struct Prober {
    probe: Probe,
    pause: Duration,
    ready: bool,
    failed: u32,
}

impl Prober {
    /// Waits for the next turn and asks. Dropping it midway loses nothing but that turn.
    pub(super) async fn next(&mut self, opener: &Opener, from: &Netns) -> bool {
        sleep(self.pause).await;
        if self.probe.passes(opener, from).await {
            self.ready = true;
            self.failed = 0;
            self.pause = self.probe.period;
        } else {
            self.failed += 1;
            if self.failed >= self.probe.failures {
                self.ready = false;
            }
            self.pause = if self.ready {
                self.probe.period
            } else {
                (self.pause * 3 / 2).clamp(FIRST, self.probe.period.min(Duration::from_secs(1)))
            };
        }
        self.ready
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_probe_is_read_with_its_defaults_and_named_ports() {
        let pod = json!({"spec": {"containers": [{
            "ports": [{"name": "probe", "containerPort": 8889}],
            "readinessProbe": {"httpGet": {"port": "probe"}},
        }]}});
        let probe = Probe::of(&pod, &[IpAddr::from([10, 1, 0, 2])]);
        assert_eq!(probe.at, Some(([10, 1, 0, 2], 8889).into()));
        assert_eq!(probe.path.as_deref(), Some("/"));
        assert_eq!(probe.period, Duration::from_secs(10));
        assert!(Probe::of(&json!({}), &[]).is_none());
        let local = json!({"spec": {"containers": [{
            "readinessProbe": {"httpGet": {"port": 1, "host": "127.0.0.1"}},
        }]}});
        let probe = Probe::of(&local, &[IpAddr::from([10, 1, 0, 2])]);
        assert_eq!(probe.at, Some(([127, 0, 0, 1], 1).into()));
    }
}
