//! The objects that run the programs in a cluster, as data (feature `kube`): what an installer applies and a chart renders.
//!
//! | program | where | as | network | may |
//! |---|---|---|---|---|
//! | agent | member, every node | DaemonSet | the node's | NET_ADMIN, root without any other capability |
//! | controller | member | Deployment | the node's, since it has to work where the pods' does not yet | nothing |
//! | manager | control plane | Deployment | pods' | nothing |
//!
//! None is privileged, and each has its root read-only. The manager fits the Pod Security level `restricted`. The other two need a namespace of
//! the level `privileged`: both for the node's network, the agent also for its capability and for the folder of its node.
//!
//! **The kernel's settings.** A container without privilege sees /proc/sys read-only, whatever its capabilities, and nothing may be mounted
//! over it. The node's /proc/sys/net, and no more of /proc, is mounted at [`SETTINGS`]; the kernel shows there what belongs to the network
//! of whoever looks, and lets whoever has NET_ADMIN write. Where SELinux is enforced, its policy for containers forbids that, too: the
//! agent then says so in its NodeConfig's status, and the node's owner sets `rp_filter` and `forwarding`.
//!
//! **Ports.** In the node's network the agent serves [`AGENT_PORT`] and the controller [`CONTROLLER_PORT`], both on the loopback, where the
//! kubelet asks and nobody else can. So there can be one controller a node: a cluster of one node gets one replica.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{
    DaemonSet, DaemonSetSpec, DaemonSetUpdateStrategy, Deployment, DeploymentSpec,
    DeploymentStrategy, RollingUpdateDaemonSet, RollingUpdateDeployment,
};
use k8s_openapi::api::core::v1::{
    Affinity, Capabilities, Container, ContainerPort, EnvVar, EnvVarSource, HTTPGetAction,
    HostPathVolumeSource, LocalObjectReference, NodeAffinity, NodeSelector,
    NodeSelectorRequirement, NodeSelectorTerm, ObjectFieldSelector, PodAffinityTerm,
    PodAntiAffinity, PodSecurityContext, PodSpec, PodTemplateSpec, Probe, ResourceRequirements,
    SeccompProfile, SecretVolumeSource, SecurityContext, ServiceAccount, Toleration, Volume,
    VolumeMount, WeightedPodAffinityTerm,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::api::ObjectMeta;

use crate::control::nodes::EXCLUDED;
use crate::rbac::{
    self, AGENT_SECRET, CONTROLLER_SECRET, Grant, KUBECONFIG_KEY, Rights, agent_account,
    controller_account,
};

/// The name of the agents' DaemonSet, and of their service account in the member.
pub const AGENT: &str = "clusterlink-agent";
/// The name of the controller's Deployment, and of its service account in the member.
pub const CONTROLLER: &str = "clusterlink-controller";
/// The name of the manager's Deployment, and of its service account.
pub const MANAGER: &str = "clusterlink-manager";
/// Where the agent answers on its node's loopback.
pub const AGENT_PORT: u16 = 8895;
/// Where the controller answers on its node's loopback.
pub const CONTROLLER_PORT: u16 = 8896;
/// Where the manager answers on its pod's addresses.
pub const MANAGER_PORT: u16 = 8897;
/// Where the Secret with a program's access to the control plane is mounted.
pub const ACCESS: &str = "/etc/clusterlink";
/// Where an agent in a container finds the /proc/sys/net of its node; it looks there first.
pub const SETTINGS: &str = "/host/proc/sys/net";

/// The user of programs that need not be root: the `nonroot` of images without a distribution.
const USER: i64 = 65532;
const APP: &str = "app.kubernetes.io/name";
const COMPONENT: &str = "app.kubernetes.io/component";

/// What an installer knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The namespace of everything.
    pub namespace: String,
    /// The image without its tag; its base name is `clusterlink`.
    pub image: String,
    /// The image's tag.
    pub version: String,
    /// The member cluster's name; empty where only the manager is meant.
    pub cluster: String,
    /// Replicas of controller or manager.
    pub replicas: u16,
    /// Names of Secrets with access to the image's registry.
    pub pull_secrets: Vec<String>,
    /// Labels of every object, beside those by which a program's pods are found.
    pub labels: BTreeMap<String, String>,
    /// Whether agents plan for themselves.
    pub plan: AgentsPlan,
    /// Whether a second node stands by for the gateway.
    pub standby: bool,
    /// How many nodes are gateways at once.
    pub gateways: u8,
}

/// Whether agents plan for themselves, which takes the right to read every Cluster.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum AgentsPlan {
    /// Where no NodeConfig is written for their node.
    Auto,
    /// Never; they are not given the right.
    #[default]
    Off,
    /// Always.
    On,
}

/// A service account and what it may do in its cluster.
#[derive(Debug, Clone, PartialEq)]
pub struct Account {
    /// The account.
    pub service_account: ServiceAccount,
    /// Its roles and bindings. A namespace of them may be missing in a cluster, and then nothing has to be granted there.
    pub grant: Grant,
}

/// The agents of a member cluster.
#[must_use]
pub fn agent_daemon_set(settings: &Settings) -> DaemonSet {
    let parts = Parts {
        settings,
        name: AGENT,
        component: "agent",
    };
    let mut args = vec![
        "agent".to_owned(),
        "--kubeconfig".to_owned(),
        format!("{ACCESS}/{KUBECONFIG_KEY}"),
        "--listen".to_owned(),
        format!("127.0.0.1:{AGENT_PORT}"),
    ];
    // Its default is to plan where it may: whoever gives the right later need not change it.
    if settings.plan == AgentsPlan::On {
        args.extend(["--plan", "on"].map(str::to_owned));
    }
    let container = Container {
        env: Some(vec![
            value("CLUSTER_NAME", &settings.cluster),
            field("NODE_NAME", "spec.nodeName"),
        ]),
        ports: Some(vec![port(AGENT_PORT)]),
        resources: Some(resources("50m", "32Mi", "128Mi")),
        // A capability of somebody else than root would have to be ambient, which Kubernetes cannot say.
        security_context: Some(SecurityContext {
            run_as_user: Some(0),
            run_as_group: Some(0),
            capabilities: Some(Capabilities {
                add: Some(vec!["NET_ADMIN".to_owned()]),
                drop: Some(vec!["ALL".to_owned()]),
            }),
            ..confined()
        }),
        volume_mounts: Some(vec![
            mount("access", ACCESS, true),
            mount("settings", SETTINGS, false),
        ]),
        ..parts.container(args, AGENT_PORT, true)
    };
    let folder = HostPathVolumeSource {
        path: "/proc/sys/net".to_owned(),
        type_: Some("Directory".to_owned()),
    };
    let pod = PodSpec {
        host_network: Some(true),
        dns_policy: Some("Default".to_owned()),
        priority_class_name: Some("system-node-critical".to_owned()),
        tolerations: Some(vec![Toleration {
            operator: Some("Exists".to_owned()),
            ..Toleration::default()
        }]),
        affinity: Some(Affinity {
            node_affinity: Some(members_only()),
            ..Affinity::default()
        }),
        // The node stays as it is when an agent ends, so there is nothing to wait for.
        termination_grace_period_seconds: Some(5),
        // It asks nothing of its own cluster.
        automount_service_account_token: Some(false),
        volumes: Some(vec![
            secret("access", AGENT_SECRET),
            Volume {
                name: "settings".to_owned(),
                host_path: Some(folder),
                ..Volume::default()
            },
        ]),
        ..parts.pod(container)
    };
    DaemonSet {
        metadata: parts.metadata(),
        spec: Some(DaemonSetSpec {
            selector: parts.selector(),
            template: parts.template(pod),
            update_strategy: Some(DaemonSetUpdateStrategy {
                type_: Some("RollingUpdate".to_owned()),
                rolling_update: Some(RollingUpdateDaemonSet {
                    max_unavailable: Some(IntOrString::Int(1)),
                    ..RollingUpdateDaemonSet::default()
                }),
            }),
            ..DaemonSetSpec::default()
        }),
        ..DaemonSet::default()
    }
}

/// The controller of a member cluster, which is its elector, too.
#[must_use]
pub fn controller_deployment(settings: &Settings) -> Deployment {
    let parts = Parts {
        settings,
        name: CONTROLLER,
        component: "controller",
    };
    let mut args = vec![
        "controller".to_owned(),
        "--kubeconfig".to_owned(),
        format!("{ACCESS}/{KUBECONFIG_KEY}"),
        "--listen".to_owned(),
        format!("127.0.0.1:{CONTROLLER_PORT}"),
    ];
    if settings.gateways > 1 {
        args.extend(["--gateways".to_owned(), settings.gateways.to_string()]);
    }
    if settings.standby {
        args.extend(["--standby".to_owned(), "on".to_owned()]);
    }
    let container = Container {
        env: Some(vec![
            value("CLUSTER_NAME", &settings.cluster),
            field("POD_NAME", "metadata.name"),
            field("POD_NAMESPACE", "metadata.namespace"),
        ]),
        ports: Some(vec![port(CONTROLLER_PORT)]),
        resources: Some(resources("50m", "48Mi", "256Mi")),
        volume_mounts: Some(vec![mount("access", ACCESS, true)]),
        ..parts.container(args, CONTROLLER_PORT, true)
    };
    let pod = PodSpec {
        host_network: Some(true),
        dns_policy: Some("Default".to_owned()),
        volumes: Some(vec![secret("access", CONTROLLER_SECRET)]),
        ..parts.replica(container)
    };
    parts.deployment(pod)
}

/// The manager of a control plane.
#[must_use]
pub fn manager_deployment(settings: &Settings) -> Deployment {
    let parts = Parts {
        settings,
        name: MANAGER,
        component: "manager",
    };
    let args = [
        "manager".to_owned(),
        "--listen".to_owned(),
        format!("[::]:{MANAGER_PORT}"),
    ];
    let container = Container {
        env: Some(vec![
            field("POD_NAME", "metadata.name"),
            field("POD_NAMESPACE", "metadata.namespace"),
        ]),
        ports: Some(vec![port(MANAGER_PORT)]),
        resources: Some(resources("100m", "64Mi", "1Gi")),
        ..parts.container(args.to_vec(), MANAGER_PORT, false)
    };
    parts.deployment(parts.replica(container))
}

/// The accounts of the programs in their own cluster, a member.
#[must_use]
pub fn member_accounts(settings: &Settings) -> [Account; 2] {
    let controller = rbac::controller_in_member(&settings.namespace);
    [
        account(settings, AGENT, "agent", &Rights::default()),
        account(settings, CONTROLLER, "controller", &controller),
    ]
}

/// The accounts of a member's programs in the control plane, each bound to the token that its Secret in the member holds.
#[must_use]
pub fn control_plane_accounts(settings: &Settings) -> [Account; 2] {
    let (cluster, namespace) = (&settings.cluster, &settings.namespace);
    let controller = rbac::controller_in_control_plane(cluster, namespace);
    let mut agent = rbac::agent().with(rbac::agent_detecting(cluster));
    if settings.plan != AgentsPlan::Off {
        agent = agent.with(rbac::agent_planning());
    }
    [
        account(settings, &agent_account(cluster), "agent", &agent),
        account(
            settings,
            &controller_account(cluster),
            "controller",
            &controller,
        ),
    ]
}

/// The manager's account.
#[must_use]
pub fn manager_account(settings: &Settings) -> Account {
    account(
        settings,
        MANAGER,
        "manager",
        &rbac::manager(&settings.namespace),
    )
}

fn account(settings: &Settings, name: &str, component: &'static str, rights: &Rights) -> Account {
    let parts = Parts {
        settings,
        name,
        component,
    };
    let metadata = parts.metadata();
    let labels = metadata.labels.clone().unwrap_or_default();
    Account {
        service_account: ServiceAccount {
            metadata,
            // Whoever asks for a token gets one; no pod of another program runs as this account unasked.
            automount_service_account_token: Some(false),
            ..ServiceAccount::default()
        },
        grant: rights.granted(name, &labels, name, &settings.namespace),
    }
}

/// One program of an installation.
struct Parts<'a> {
    settings: &'a Settings,
    name: &'a str,
    component: &'static str,
}

impl Parts<'_> {
    fn own(&self) -> BTreeMap<String, String> {
        let own = [(APP, "clusterlink"), (COMPONENT, self.component)];
        own.map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into()
    }

    fn labels(&self) -> BTreeMap<String, String> {
        let mut labels = self.settings.labels.clone();
        labels.extend(self.own());
        labels
    }

    fn metadata(&self) -> ObjectMeta {
        ObjectMeta {
            name: Some(self.name.to_owned()),
            namespace: Some(self.settings.namespace.clone()),
            labels: Some(self.labels()),
            ..ObjectMeta::default()
        }
    }

    fn selector(&self) -> LabelSelector {
        LabelSelector {
            match_labels: Some(self.own()),
            ..LabelSelector::default()
        }
    }

    fn template(&self, pod: PodSpec) -> PodTemplateSpec {
        PodTemplateSpec {
            metadata: Some(ObjectMeta {
                labels: Some(self.labels()),
                ..ObjectMeta::default()
            }),
            spec: Some(pod),
        }
    }

    /// A container that may do nothing; `is_local` where it answers on the loopback only.
    fn container(&self, args: Vec<String>, port: u16, is_local: bool) -> Container {
        let probe = |path: &str, period: i32, failures: i32| Probe {
            http_get: Some(HTTPGetAction {
                host: is_local.then(|| "127.0.0.1".to_owned()),
                path: Some(path.to_owned()),
                port: IntOrString::Int(port.into()),
                ..HTTPGetAction::default()
            }),
            period_seconds: Some(period),
            timeout_seconds: Some(5),
            failure_threshold: Some(failures),
            ..Probe::default()
        };
        Container {
            name: self.component.to_owned(),
            image: Some(format!("{}:{}", self.settings.image, self.settings.version)),
            image_pull_policy: Some("IfNotPresent".to_owned()),
            args: Some(args),
            readiness_probe: Some(probe("/readyz", 5, 2)),
            liveness_probe: Some(probe("/healthz", 20, 6)),
            security_context: Some(SecurityContext {
                run_as_user: Some(USER),
                run_as_group: Some(USER),
                run_as_non_root: Some(true),
                capabilities: Some(Capabilities {
                    drop: Some(vec!["ALL".to_owned()]),
                    add: None,
                }),
                ..confined()
            }),
            ..Container::default()
        }
    }

    fn pod(&self, container: Container) -> PodSpec {
        let names = self.settings.pull_secrets.iter();
        let pull_secrets: Vec<LocalObjectReference> = names
            .map(|name| LocalObjectReference { name: name.clone() })
            .collect();
        PodSpec {
            service_account_name: Some(self.name.to_owned()),
            containers: vec![container],
            image_pull_secrets: (!pull_secrets.is_empty()).then_some(pull_secrets),
            node_selector: Some([("kubernetes.io/os".to_owned(), "linux".to_owned())].into()),
            security_context: Some(PodSecurityContext {
                seccomp_profile: Some(SeccompProfile {
                    type_: "RuntimeDefault".to_owned(),
                    ..SeccompProfile::default()
                }),
                ..PodSecurityContext::default()
            }),
            ..PodSpec::default()
        }
    }

    /// The pod of one of several replicas, which are on nodes of their own where there are enough, and on those of the control plane, too.
    fn replica(&self, container: Container) -> PodSpec {
        let tolerated = |key: &str| Toleration {
            key: Some(key.to_owned()),
            operator: Some("Exists".to_owned()),
            effect: Some("NoSchedule".to_owned()),
            ..Toleration::default()
        };
        let apart = WeightedPodAffinityTerm {
            weight: 100,
            pod_affinity_term: PodAffinityTerm {
                label_selector: Some(self.selector()),
                topology_key: "kubernetes.io/hostname".to_owned(),
                ..PodAffinityTerm::default()
            },
        };
        let mut pod = self.pod(container);
        if let Some(security) = &mut pod.security_context {
            // So that the mounted token is readable to the program, and to nobody else.
            security.fs_group = Some(USER);
        }
        PodSpec {
            automount_service_account_token: Some(true),
            priority_class_name: Some("system-cluster-critical".to_owned()),
            tolerations: Some(vec![
                tolerated("node-role.kubernetes.io/control-plane"),
                tolerated("node-role.kubernetes.io/master"),
            ]),
            affinity: Some(Affinity {
                pod_anti_affinity: Some(PodAntiAffinity {
                    preferred_during_scheduling_ignored_during_execution: Some(vec![apart]),
                    ..PodAntiAffinity::default()
                }),
                ..Affinity::default()
            }),
            // Time to give the Lease back.
            termination_grace_period_seconds: Some(10),
            ..pod
        }
    }

    fn deployment(&self, pod: PodSpec) -> Deployment {
        Deployment {
            metadata: self.metadata(),
            spec: Some(DeploymentSpec {
                replicas: Some(self.settings.replicas.into()),
                selector: self.selector(),
                template: self.template(pod),
                // A new one beside the old one would have no port of the node's to answer on.
                strategy: Some(DeploymentStrategy {
                    type_: Some("RollingUpdate".to_owned()),
                    rolling_update: Some(RollingUpdateDeployment {
                        max_surge: Some(IntOrString::Int(0)),
                        max_unavailable: Some(IntOrString::Int(1)),
                    }),
                }),
                ..DeploymentSpec::default()
            }),
            ..Deployment::default()
        }
    }
}

/// What holds for every container.
fn confined() -> SecurityContext {
    SecurityContext {
        allow_privilege_escalation: Some(false),
        read_only_root_filesystem: Some(true),
        ..SecurityContext::default()
    }
}

/// Nodes but those that are no place of the datapath.
fn members_only() -> NodeAffinity {
    let requirement = NodeSelectorRequirement {
        key: EXCLUDED.to_owned(),
        operator: "NotIn".to_owned(),
        values: Some(vec!["true".to_owned()]),
    };
    NodeAffinity {
        required_during_scheduling_ignored_during_execution: Some(NodeSelector {
            node_selector_terms: vec![NodeSelectorTerm {
                match_expressions: Some(vec![requirement]),
                ..NodeSelectorTerm::default()
            }],
        }),
        ..NodeAffinity::default()
    }
}

fn value(name: &str, value: &str) -> EnvVar {
    EnvVar {
        name: name.to_owned(),
        value: Some(value.to_owned()),
        ..EnvVar::default()
    }
}

fn field(name: &str, path: &str) -> EnvVar {
    EnvVar {
        name: name.to_owned(),
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector {
                field_path: path.to_owned(),
                ..ObjectFieldSelector::default()
            }),
            ..EnvVarSource::default()
        }),
        ..EnvVar::default()
    }
}

fn port(port: u16) -> ContainerPort {
    ContainerPort {
        name: Some("status".to_owned()),
        container_port: port.into(),
        protocol: Some("TCP".to_owned()),
        ..ContainerPort::default()
    }
}

fn mount(name: &str, path: &str, is_read_only: bool) -> VolumeMount {
    VolumeMount {
        name: name.to_owned(),
        mount_path: path.to_owned(),
        read_only: is_read_only.then_some(true),
        ..VolumeMount::default()
    }
}

fn secret(name: &str, secret: &str) -> Volume {
    Volume {
        name: name.to_owned(),
        secret: Some(SecretVolumeSource {
            secret_name: Some(secret.to_owned()),
            default_mode: Some(0o440),
            ..SecretVolumeSource::default()
        }),
        ..Volume::default()
    }
}

fn resources(processor: &str, memory: &str, most: &str) -> ResourceRequirements {
    let quantity = |name: &str, amount: &str| (name.to_owned(), Quantity(amount.to_owned()));
    ResourceRequirements {
        requests: Some([quantity("cpu", processor), quantity("memory", memory)].into()),
        limits: Some([quantity("memory", most)].into()),
        ..ResourceRequirements::default()
    }
}

#[cfg(test)]
mod tests;
