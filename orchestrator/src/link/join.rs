//! `install` and `join`: a control plane and its first member, or one more member.

use std::time::Duration;

use datapath::api::{CLUSTER_UID, GROUP, VERSION};
use floater::wire::Layer;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::apply::{Act, Refusal, Step};
use super::cluster::{Cluster, Server};
use super::deed::{self, Deed};
use super::objects::{Object, is_ours, name_of};
use super::{
    Context, Outcome, Place, Settings, Told, check_name, packets, preflight, status, tokens, wait,
    wanted,
};
use crate::Error;
use crate::report::Report;

/// What `install` is told.
#[derive(Debug, Clone)]
pub struct Install {
    /// What is installed.
    pub settings: Settings,
    /// The name of the control plane's own cluster.
    pub name: String,
    /// The control plane.
    pub place: Place,
    /// Only say what would be done.
    pub dry_run: bool,
}

/// What `join` is told.
#[derive(Debug, Clone)]
pub struct Join {
    /// What is installed.
    pub settings: Settings,
    /// The new member's name.
    pub name: String,
    /// The new member.
    pub place: Place,
    /// The control plane.
    pub host: Place,
    /// Only say what would be done.
    pub dry_run: bool,
}

/// How long the last changes of everybody's plan are waited for, and how often they are looked at.
const SETTLING: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(400);
/// The ConfigMap of a control plane that says how members reach it.
const SERVER: &str = "clusterlink-control-plane";

/// A member that is being linked.
struct Linking<'a> {
    settings: &'a Settings,
    member: Cluster,
    control_plane: Cluster,
    server: Server,
    is_root: bool,
    /// Whether the control plane's own cluster is linked, so that packets can pass between both.
    has_peer: bool,
}

/// Installs a control plane and links its own cluster.
///
/// # Errors
/// [`Error::Missing`] with what was refused or did not come; everything that this did is taken back then.
pub async fn install(order: &Install, context: &Context) -> Result<Outcome, Error> {
    check_name("--cluster-name", &order.name)?;
    context.say(Told::Phase(format!("asking {}", order.name)));
    let reach = Cluster::reach(&order.name, &order.place.kubeconfig);
    let cluster = context.during(reach).await?;
    let server = cluster.inner_server(order.place.inner.as_ref()).await?;
    let settings = &order.settings;
    let mut first = wanted::control_plane(settings);
    first.push(told_server(settings, &server));
    match cluster.get(&wanted::policies()).await {
        Ok(Some(_)) => first.extend(wanted::own_nodes(settings)),
        Ok(None) => context.say(Told::Warning(format!(
            "{} has no ValidatingAdmissionPolicy (Kubernetes 1.30): the agents and the controller of any member may change ClusterNodes of every member",
            order.name
        ))),
        Err(failure) => context.say(Told::Warning(format!(
            "could not tell whether {} has ValidatingAdmissionPolicy, so that its ClusterNodes are not divided among members: {failure}",
            order.name
        ))),
    }
    let linking = Linking {
        settings,
        member: cluster.clone(),
        control_plane: cluster,
        server,
        is_root: true,
        has_peer: false,
    };
    linking.link(first, order.dry_run, context).await
}

/// Links one more cluster.
///
/// # Errors
/// As [`install`].
pub async fn join(order: &Join, context: &Context) -> Result<Outcome, Error> {
    check_name("--name", &order.name)?;
    context.say(Told::Phase(format!(
        "asking {} and its control plane",
        order.name
    )));
    let member = Cluster::reach(&order.name, &order.place.kubeconfig);
    let host = Cluster::reach("the control plane", &order.host.kubeconfig);
    let (member, mut control_plane) = context
        .during(async { tokio::try_join!(member, host) })
        .await?;
    let settings = &order.settings;
    let server = match &order.host.inner {
        Some(inner) => control_plane.inner_server(Some(inner)).await?,
        None => server_of(settings, &control_plane).await?,
    };
    let clusters = clusters(&control_plane).await?;
    let is_root =
        |cluster: &&Value| cluster["metadata"]["annotations"][datapath::api::ROLE_LABEL] == "root";
    let root = clusters.iter().find(is_root);
    if let Some(root) = root {
        name_of(root).clone_into(&mut control_plane.name);
    }
    let linking = Linking {
        settings,
        has_peer: root.is_some(),
        is_root: member.uid == control_plane.uid,
        member,
        control_plane,
        server,
    };
    linking.not_another(&clusters)?;
    linking.link(Vec::new(), order.dry_run, context).await
}

/// The Clusters of a control plane.
pub(super) async fn clusters(control_plane: &Cluster) -> Result<Vec<Value>, Error> {
    let path = format!("/apis/{GROUP}/{VERSION}/clusters");
    control_plane
        .list(&path)
        .await
        .map_err(|failure| Error::Missing {
            what: format!("the Clusters of {}", control_plane.name),
            why: if failure.is_absent() {
                "there is no control plane of the datapath: `floaterctl link install` makes one"
                    .to_owned()
            } else {
                failure.to_string()
            },
        })
}

/// What tells members how to reach the control plane.
fn told_server(settings: &Settings, server: &Server) -> Object {
    let value = json!({
        "metadata": {"namespace": settings.namespace, "name": SERVER, "labels": wanted::labels(None)},
        "data": {
            "server": server.url,
            "certificate-authority-data": server.authority.clone().unwrap_or_default(),
            "tls-server-name": server.name.clone().unwrap_or_default(),
        },
    });
    Object::new(("v1", "ConfigMap", "configmaps"), value)
}

/// How members reach a control plane, as its installation said.
async fn server_of(settings: &Settings, control_plane: &Cluster) -> Result<Server, Error> {
    let path = format!(
        "/api/v1/namespaces/{}/configmaps/{SERVER}",
        settings.namespace
    );
    let missing = |why: String| Error::Missing {
        what: format!("how members reach {}", control_plane.name),
        why,
    };
    let held = control_plane.get(&path).await;
    let Some(held) = held.map_err(|failure| missing(failure.to_string()))? else {
        return Err(missing(format!(
            "it has no ConfigMap {}/{SERVER}: `floaterctl link install` writes it, with --namespace as here",
            settings.namespace
        )));
    };
    let text = |key: &str| {
        let text = held["data"][key].as_str().unwrap_or_default();
        (!text.is_empty()).then(|| text.to_owned())
    };
    Ok(Server {
        url: text("server").ok_or_else(|| missing(format!("ConfigMap {SERVER} has no server")))?,
        authority: text("certificate-authority-data"),
        name: text("tls-server-name"),
    })
}

impl Linking<'_> {
    /// Refuses a name that another cluster has, and a cluster that has another name.
    fn not_another(&self, clusters: &[Value]) -> Result<(), Error> {
        let name = &self.member.name;
        for held in clusters {
            let uid = &held["metadata"]["annotations"][CLUSTER_UID];
            let is_same = *uid == self.member.uid.as_str();
            let held_name = name_of(held);
            if held_name == name && uid.is_string() && !is_same {
                return Err(Error::Missing {
                    what: format!("the name {name}"),
                    why: "another cluster is linked under it".to_owned(),
                });
            }
            if held_name != name && is_same {
                return Err(Error::Missing {
                    what: format!("cluster {name}"),
                    why: format!(
                        "it is linked already, as {}",
                        datapath::printable::printable(held_name, 63)
                    ),
                });
            }
        }
        Ok(())
    }

    /// Everything after the control plane was found: `first` is made before anything of the member's.
    async fn link(
        self,
        first: Vec<Object>,
        dry_run: bool,
        context: &Context,
    ) -> Result<Outcome, Error> {
        context.say(Told::Phase(format!(
            "{} runs Kubernetes {}: checking what could be in the way",
            self.member.name, self.member.version
        )));
        let (settings, name) = (self.settings, &self.member.name);
        let in_control_plane = first
            .into_iter()
            .chain(wanted::accounts(settings, name))
            .collect();
        let in_control_plane =
            deed::possible(&self.control_plane, &settings.namespace, in_control_plane).await?;
        let mut in_member = wanted::home(settings, name);
        if self.is_root {
            // It has the namespace already, and one object is not made twice.
            in_member.retain(|object| object.kind != "Namespace");
        }
        let time = settings.wait;
        wait::former_gone(&self.control_plane, &in_control_plane, time, context).await?;
        wait::former_gone(&self.member, &in_member, time, context).await?;
        let mut in_member = deed::possible(&self.member, &settings.namespace, in_member).await?;
        in_member.extend(tokens::planned(settings, name, &self.server));
        in_member.extend(wanted::programs(settings, name, 1));
        let intent = preflight::Intent {
            settings,
            member: &self.member,
            control_plane: &self.control_plane,
            in_control_plane: &in_control_plane,
            in_member: &in_member,
            dry_run,
        };
        let (found, scouts) = preflight::check(&intent, context).await?;
        // They go while the rest is done.
        let recalled = tokio::spawn(async move {
            match scouts {
                Some(scouts) => scouts.recall().await,
                None => Vec::new(),
            }
        });
        for warning in found.warnings {
            context.say(Told::Warning(warning));
        }
        let replicas = if found.nodes > 1 { 2 } else { 1 };
        in_member.retain(|object| !is_workload(object));
        let programs = wanted::programs(settings, name, replicas);
        let outcome = match (refuse(&found.refusals), dry_run) {
            (Err(error), _) => Err(error),
            (Ok(()), true) => Ok(self.planned(in_control_plane, in_member, programs)),
            (Ok(()), false) => {
                self.apply(in_control_plane, in_member, programs, context)
                    .await
            }
        };
        for left in recalled.await.unwrap_or_default() {
            context.say(Told::Warning(left));
        }
        outcome
    }

    /// Makes everything, and waits until packets pass.
    async fn apply(
        &self,
        in_control_plane: Vec<Object>,
        in_member: Vec<Object>,
        programs: Vec<Object>,
        context: &Context,
    ) -> Result<Outcome, Error> {
        let (first, mut refusals) =
            deed::planned(&self.control_plane, in_control_plane, None).await;
        let namespace_comes = self.is_root
            && first
                .iter()
                .any(|step| step.object.kind == "Namespace" && step.act == Act::Create);
        let at_home = in_member.into_iter().chain(programs).collect();
        let coming = namespace_comes.then_some(self.settings.namespace.as_str());
        let (home, more) = deed::planned(&self.member, at_home, coming).await;
        refusals.extend(more);
        refuse(&refusals)?;
        self.tell_plan(&first, &home, context);
        let names = [self.control_plane.name.as_str(), self.member.name.as_str()];
        let mut deed = Deed::new(context);
        match self.carry_out(&mut deed, &first, &home).await {
            Ok(None) => Ok(Outcome::Linked { cells: 0 }),
            Ok(Some(report)) if packets::do_pass(&report, &names) => Ok(Outcome::Linked {
                cells: packets::between(&report, &names).count(),
            }),
            Ok(Some(report)) => {
                let failing = packets::failing(&report, &names);
                context.say(Told::Warning(format!("packets do not pass: {failing}")));
                let left = deed.undo().await;
                Ok(Outcome::Failing {
                    report: Box::new(report),
                    left,
                })
            }
            Err(error) => Err(deed.failed(error).await),
        }
    }

    /// The Cluster.
    fn object(&self) -> Object {
        wanted::cluster(
            self.settings,
            &self.member.name,
            &self.member.uid,
            self.is_root,
        )
    }

    fn planned(
        &self,
        control_plane: Vec<Object>,
        member: Vec<Object>,
        programs: Vec<Object>,
    ) -> Outcome {
        let values = |objects: Vec<Object>| objects.into_iter().map(|object| object.value);
        let member = member.into_iter().chain(programs).collect();
        let cluster = self.object();
        let mut in_control_plane: Vec<Value> = values(control_plane).collect();
        let mut planned = Vec::new();
        if self.is_root {
            in_control_plane.extend(values(member));
            in_control_plane.push(cluster.value);
            planned.push((self.member.name.clone(), in_control_plane));
        } else {
            in_control_plane.push(cluster.value);
            planned.push((self.control_plane.name.clone(), in_control_plane));
            planned.push((self.member.name.clone(), values(member).collect()));
        }
        Outcome::Planned(planned)
    }

    fn tell_plan(&self, first: &[Step], home: &[Step], context: &Context) {
        let steps = first.iter().chain(home);
        let count =
            |wanted: fn(&Act) -> bool| steps.clone().filter(|step| wanted(&step.act)).count();
        let (new, other) = (
            count(|act| *act == Act::Create),
            count(|act| matches!(act, Act::Change(_))),
        );
        let used = count(|act| matches!(act, Act::Keep | Act::Adopt));
        context.say(Told::Phase(format!(
            "linking {}: {new} objects to make, {other} to change, {used} as they are",
            self.member.name
        )));
    }

    /// Carries everything out and waits until packets pass; the last diagnosis, where there is another cluster.
    async fn carry_out(
        &self,
        deed: &mut Deed<'_>,
        first: &[Step],
        home: &[Step],
    ) -> Result<Option<Report>, Error> {
        let (settings, context) = (self.settings, deed.context);
        deed.carry_out(first).await?;
        let is_secret = |step: &&Step| step.object.kind == "Secret";
        let is_program = |step: &&Step| is_workload(&step.object);
        let base: Vec<Step> = home
            .iter()
            .filter(|step| !is_secret(step) && !is_program(step))
            .cloned()
            .collect();
        deed.carry_out(&base).await?;
        let secrets =
            tokens::secrets(settings, &self.member, &self.control_plane, &self.server).await?;
        let (secrets, refusals) = deed::planned(&self.member, secrets, None).await;
        refuse(&refusals)?;
        deed.carry_out(&secrets).await?;
        let running: Vec<Step> = home.iter().filter(is_program).cloned().collect();
        deed.carry_out(&running).await?;
        // Last, so that it is the first to be taken back: its agents are needed for that.
        let (cluster, refusals) =
            deed::planned(&self.control_plane, vec![self.object()], None).await;
        refuse(&refusals)?;
        deed.carry_out(&cluster).await?;
        context.say(Told::Phase("waiting for the programs".to_owned()));
        for step in first.iter().filter(|step| step.object.kind == "Deployment") {
            wait::rolled_out(&step.cluster, &step.object, settings.wait, context).await?;
        }
        for step in &running {
            wait::rolled_out(&step.cluster, &step.object, settings.wait, context).await?;
        }
        wait::nodes_applied(&self.control_plane, &self.member, settings.wait, context).await?;
        wait::unobjected(&self.control_plane, &self.member.name, context).await?;
        if self.is_root || !self.has_peer {
            return Ok(None);
        }
        context.say(Told::Phase(format!(
            "sending packets between {} and {}",
            self.control_plane.name, self.member.name
        )));
        let clusters = [&self.control_plane, &self.member];
        let report =
            packets::pass(settings, &clusters, &[Layer::Pod], settings.wait, context).await?;
        self.settle().await;
        Ok(Some(report))
    }

    /// Waits a little until every node is as planned: what a cluster finds out of itself last (its services) changes the plan of all others once more.
    /// Where that takes longer it is for the status to say; packets pass.
    async fn settle(&self) {
        let until = Instant::now() + SETTLING.min(self.settings.wait);
        let mut was_well = false;
        while Instant::now() < until {
            let status = status::of(&self.control_plane).await;
            let is_well = status.is_ok_and(|status| status.is_well);
            if is_well && was_well {
                return;
            }
            was_well = is_well;
            tokio::time::sleep(LOOK).await;
        }
    }
}

fn refuse(refusals: &[Refusal]) -> Result<(), Error> {
    if refusals.is_empty() {
        return Ok(());
    }
    Err(deed::refused(refusals))
}

/// Whether an object runs programs.
fn is_workload(object: &Object) -> bool {
    matches!(object.kind, "DaemonSet" | "Deployment")
}

/// Whether a Cluster was joined by this program.
pub(super) fn is_joined(cluster: &Value) -> bool {
    is_ours(cluster) && cluster["metadata"]["annotations"][CLUSTER_UID].is_string()
}
