//! A pod's status as its kubelet sees it.

use std::net::IpAddr;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::text;

/// How a container ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Exit {
    /// Its exit code; 128 and the signal's number where it was killed.
    pub(crate) code: i32,
}

/// What a pod's container is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Container {
    /// Nothing yet.
    Creating,
    /// Its image is not on this node.
    NoImage,
    /// It runs, since then.
    Running(String),
    /// It has ended and will be started anew.
    Terminated(Exit),
    /// It cannot be started, with reason and message.
    Waiting(&'static str, String),
}

/// Everything that a pod's status is made of.
#[derive(Debug)]
pub(crate) struct PodStatus {
    pod: Value,
    /// The statuses of the containers after the first, which are never run.
    others: Vec<Value>,
    host_ips: Vec<IpAddr>,
    pub(crate) pod_ips: Vec<IpAddr>,
    pub(crate) container: Container,
    pub(crate) ready: bool,
    pub(crate) restarts: u32,
    last: Option<Exit>,
    since: String,
    /// What the condition Ready was last, and since when.
    turned: (bool, String),
    written: Value,
}

fn now() -> String {
    // Kubernetes writes whole seconds.
    Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn list(ips: &[IpAddr]) -> Vec<Value> {
    ips.iter().map(|ip| json!({"ip": ip})).collect()
}

/// What is said of the containers that this kubelet does not run. A pod that has some never becomes ready.
fn others(pod: &Value) -> Vec<Value> {
    let containers = pod.pointer("/spec/containers").and_then(Value::as_array);
    let others = containers.into_iter().flatten().skip(1);
    others
        .map(|container| {
            json!({
                "name": text(container, "/name"),
                "image": text(container, "/image"),
                "imageID": "",
                "ready": false,
                "started": false,
                "restartCount": 0,
                "state": {"waiting": {
                    "reason": "CreateContainerError",
                    "message": "a simulated node runs the first container of a pod only",
                }},
                "lastState": {},
            })
        })
        .collect()
}

impl PodStatus {
    pub(crate) fn new(pod: &Value, host_ips: Vec<IpAddr>) -> Self {
        Self {
            pod: json!({
                "container": text(pod, "/spec/containers/0/name"),
                "image": text(pod, "/spec/containers/0/image"),
                "uid": text(pod, "/metadata/uid"),
                // The API's to say, and never another one.
                "qosClass": pod.pointer("/status/qosClass").and_then(Value::as_str).unwrap_or("BestEffort"),
            }),
            others: others(pod),
            host_ips,
            pod_ips: Vec::new(),
            container: Container::Creating,
            ready: false,
            restarts: 0,
            last: None,
            since: now(),
            turned: (false, now()),
            written: Value::Null,
        }
    }

    /// The container runs from now on.
    pub(crate) fn start(&mut self) {
        if let Container::Terminated(exit) = self.container {
            self.last = Some(exit);
        }
        self.container = Container::Running(now());
    }

    /// Nobody knows the status any more.
    pub(crate) fn forget(&mut self) {
        self.written = Value::Null;
    }

    /// The status as an object, where it differs from the last one.
    pub(crate) fn changed(&mut self) -> Option<Value> {
        let ready = self.ready && self.others.is_empty();
        if self.turned.0 != ready {
            self.turned = (ready, now());
        }
        let value = self.value();
        if value == self.written {
            return None;
        }
        self.written = value.clone();
        Some(value)
    }

    fn value(&self) -> Value {
        let image = text(&self.pod, "/image");
        let (state, started) = match &self.container {
            Container::Creating => (json!({"waiting": {"reason": "ContainerCreating"}}), false),
            Container::NoImage => {
                let message = format!("image {image:?} is not on this node");
                (
                    json!({"waiting": {"reason": "ErrImagePull", "message": message}}),
                    false,
                )
            }
            Container::Running(since) => (json!({"running": {"startedAt": since}}), true),
            Container::Terminated(exit) if exit.code == 0 => (
                json!({"terminated": {"exitCode": 0, "reason": "Completed"}}),
                false,
            ),
            Container::Terminated(exit) => (
                json!({"terminated": {"exitCode": exit.code, "reason": "Error"}}),
                false,
            ),
            Container::Waiting(reason, message) => (
                json!({"waiting": {"reason": reason, "message": message}}),
                false,
            ),
        };
        let last = match self.last {
            Some(exit) => json!({"terminated": {
                "exitCode": exit.code,
                "reason": if exit.code == 0 { "Completed" } else { "Error" },
            }}),
            None => json!({}),
        };
        let unready: Vec<&str> = (!self.ready)
            .then(|| text(&self.pod, "/container"))
            .into_iter()
            .chain(self.others.iter().map(|other| text(other, "/name")))
            .collect();
        let ready = if unready.is_empty() { "True" } else { "False" };
        let condition = |kind: &str, status: &str, since: &str| {
            let mut condition = json!({
                "type": kind, "status": status, "lastProbeTime": null, "lastTransitionTime": since,
            });
            if status == "False" {
                condition["reason"] = "ContainersNotReady".into();
                condition["message"] =
                    format!("containers with unready status: [{}]", unready.join(" ")).into();
            }
            condition
        };
        let id = format!("floater://{}-{}", text(&self.pod, "/uid"), self.restarts);
        let running = !matches!(
            self.container,
            Container::Creating | Container::NoImage | Container::Waiting(..)
        );
        let mut status = json!({
            "phase": if running { "Running" } else { "Pending" },
            "conditions": [
                condition("Initialized", "True", &self.since),
                condition("Ready", ready, &self.turned.1),
                condition("ContainersReady", ready, &self.turned.1),
                condition("PodScheduled", "True", &self.since),
            ],
            "hostIP": self.host_ips.first(),
            "hostIPs": list(&self.host_ips),
            "startTime": self.since,
            "qosClass": self.pod["qosClass"],
            "containerStatuses": [{
                "name": text(&self.pod, "/container"),
                "image": image,
                "imageID": "",
                "containerID": if running { id.as_str() } else { "" },
                "ready": self.ready,
                "started": started,
                "restartCount": self.restarts,
                "state": state,
                "lastState": last,
            }],
        });
        if let Some(statuses) = status["containerStatuses"].as_array_mut() {
            statuses.extend(self.others.iter().cloned());
        }
        if !self.pod_ips.is_empty() {
            status["podIP"] = json!(self.pod_ips.first());
            status["podIPs"] = list(&self.pod_ips).into();
        }
        status
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_told_once_and_follows_the_container() {
        let pod = json!({"metadata": {"uid": "u"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
        let mut status = PodStatus::new(&pod, vec![[100, 64, 0, 2].into()]);
        let first = status.changed().expect("new");
        assert_eq!(first["phase"], "Pending");
        assert!(status.changed().is_none());
        status.pod_ips = vec![[10, 1, 0, 2].into()];
        status.start();
        status.ready = true;
        let running = status.changed().expect("running");
        assert_eq!(running["phase"], "Running");
        assert_eq!(running["podIPs"][0]["ip"], "10.1.0.2");
        assert_eq!(running["conditions"][1]["status"], "True");
        status.ready = false;
        status.restarts = 1;
        status.container = Container::Terminated(Exit { code: 137 });
        let ended = status.changed().expect("ended");
        assert_eq!(
            ended["containerStatuses"][0]["state"]["terminated"]["exitCode"],
            137
        );
        status.start();
        let again = status.changed().expect("again");
        assert_eq!(
            again["containerStatuses"][0]["lastState"]["terminated"]["exitCode"],
            137
        );
    }

    #[test]
    fn a_pod_with_a_container_that_is_not_run_is_never_ready() {
        let pod =
            json!({"spec": {"containers": [{"name": "c"}, {"name": "sidecar", "image": "i"}]}});
        let mut status = PodStatus::new(&pod, Vec::new());
        status.start();
        status.ready = true;
        let value = status.changed().expect("new");
        assert_eq!(value["containerStatuses"][0]["ready"], true);
        let other = &value["containerStatuses"][1];
        assert_eq!(
            (&other["name"], &other["ready"]),
            (&json!("sidecar"), &json!(false))
        );
        assert_eq!(other["state"]["waiting"]["reason"], "CreateContainerError");
        assert_eq!(value["conditions"][1]["status"], "False");
        let message = value["conditions"][1]["message"].as_str().expect("words");
        assert!(message.ends_with("[sidecar]"), "{message}");
    }

    #[test]
    fn a_missing_image_says_so() {
        let mut status = PodStatus::new(&json!({}), Vec::new());
        status.container = Container::NoImage;
        let value = status.changed().expect("new");
        assert_eq!(
            value["containerStatuses"][0]["state"]["waiting"]["reason"],
            "ErrImagePull"
        );
    }
}
