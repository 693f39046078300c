//! What the objects of a fleet say about themselves: conditions, and the Events that tell of their turns.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ipnet::IpNet;
use serde_json::{Value, json};

use super::configs::{Mode, Trouble, Writer};
use super::inventory::{Inventory, Kind};
use super::leaving::REMOVED;
use super::prefixes::{Found, Source};
use crate::element::ElementKind;
use crate::plan::{Objection, Weight};
use crate::printable::Printable;

/// Of a Cluster and of a ClusterNode: whether it is part of the plan as it is written.
pub const PLANNED: &str = "Planned";
/// Of a Cluster: whether the API has the NodeConfigs of its nodes as they are planned.
pub const WRITTEN: &str = "NodeConfigsWritten";

/// Of a Cluster: whether its controller knows the prefixes of its pods and services.
pub const PREFIXES: &str = "PrefixesKnown";

/// The most characters of a message.
const LONGEST: usize = 1024;
/// The most objections that a message tells.
const MOST: usize = 3;

/// An object by kind and name.
pub type Id = (Kind, String);

/// A condition that an object should have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// Its type.
    pub kind: &'static str,
    /// Whether it is `True`; else it is `False`.
    pub is_true: bool,
    /// One word for machines.
    pub reason: String,
    /// For people; may be empty.
    pub message: String,
}

impl Condition {
    pub(super) fn good(kind: &'static str, reason: &str) -> Self {
        Self {
            kind,
            is_true: true,
            reason: reason.to_owned(),
            message: String::new(),
        }
    }

    /// What a cluster says of its former leave that takes part again.
    #[must_use]
    pub fn of_return() -> Self {
        Self::bad(REMOVED, "TakesPart", "the cluster takes part again")
    }

    pub(super) fn bad(kind: &'static str, reason: &str, message: &str) -> Self {
        Self {
            kind,
            is_true: false,
            reason: reason.to_owned(),
            message: Printable::bounded(message, LONGEST).as_str().to_owned(),
        }
    }

    /// What a cluster's controller says of its prefixes.
    #[must_use]
    pub fn of_prefixes(found: &Found) -> Self {
        let missing: Vec<&str> = [("pods", &found.pods), ("services", &found.services)]
            .into_iter()
            .filter(|(_, found)| found.is_none())
            .map(|(what, _)| what)
            .collect();
        if !missing.is_empty() {
            let message = format!(
                "nothing in the cluster says which prefixes its {} have; status.clusterLinkStatus stays as it is",
                missing.join(" and ")
            );
            return Self::bad(PREFIXES, "Unknown", &message);
        }
        let from = |found: &Option<(Source, Vec<IpNet>)>| {
            found.as_ref().map_or("", |(source, _)| source.word())
        };
        let message = format!(
            "pods: {}; services: {}",
            from(&found.pods),
            from(&found.services)
        );
        Self {
            message,
            ..Self::good(PREFIXES, "Found")
        }
    }

    /// Whether an object shows it already.
    fn is_shown(&self, shown: &[Value]) -> bool {
        shown.iter().any(|one| {
            one["type"] == self.kind
                && one["status"] == status(self.is_true)
                && one["reason"] == *self.reason
                && one["message"].as_str().unwrap_or_default() == self.message
        })
    }
}

const fn status(is_true: bool) -> &'static str {
    if is_true { "True" } else { "False" }
}

/// The conditions of every Cluster and ClusterNode, as the plan and its writing are now; `mode` is the writer's.
#[must_use]
pub fn wanted(inventory: &Inventory, writer: &Writer, mode: Mode) -> BTreeMap<Id, Vec<Condition>> {
    let planner = inventory.planner();
    let mut objections: BTreeMap<Id, Vec<Objection>> = BTreeMap::new();
    for objection in planner.objections() {
        let object = &objection.at.object;
        let kind = match object.kind {
            ElementKind::Cluster => Kind::Cluster,
            // What a NodeConfig lends is told where its node is.
            _ => Kind::ClusterNode,
        };
        let id = (kind, object.name.as_str().to_owned());
        objections.entry(id).or_default().push(objection);
    }
    let members: BTreeSet<&str> = planner.clusters().collect();
    let mut wanted: BTreeMap<Id, Vec<Condition>> = BTreeMap::new();
    let mut troubled: BTreeMap<&str, Vec<(&str, &Trouble)>> = BTreeMap::new();
    for name in inventory.nodes().names() {
        let id = (Kind::ClusterNode, name.to_owned());
        let trouble = writer.trouble(name);
        if let (Some(trouble), Some(node)) = (trouble, inventory.nodes().get(name)) {
            let cluster = troubled.entry(&node.spec.cluster_name).or_default();
            cluster.push((name, trouble));
        }
        let told = objections.get(&id).map_or(&[][..], Vec::as_slice);
        let condition = unfit(inventory.nodes().fault(name), told)
            .or_else(|| trouble.map(|trouble| troubling(PLANNED, trouble)))
            .unwrap_or_else(|| part(planner.view(name).is_some(), told));
        wanted.insert(id, vec![condition]);
    }
    for name in inventory.clusters().names() {
        let id = (Kind::Cluster, name.to_owned());
        let told = objections.get(&id).map_or(&[][..], Vec::as_slice);
        let planned = unfit(inventory.clusters().fault(name), told)
            .unwrap_or_else(|| part(members.contains(name), told));
        let written = match (troubled.get(name).map(Vec::as_slice), mode) {
            (_, Mode::Off) => Condition::bad(
                WRITTEN,
                "Off",
                "the manager runs with --node-configs off: agents plan for themselves",
            ),
            (None | Some([]), _) => Condition::good(WRITTEN, "Written"),
            (Some(nodes @ [(first, trouble), ..]), _) => {
                let mut condition = troubling(WRITTEN, trouble);
                condition.message = format!("{first}: {}", condition.message);
                if nodes.len() > 1 {
                    condition.message += &format!("; so are {} more", nodes.len() - 1);
                }
                condition
            }
        };
        wanted.insert(id, vec![planned, written]);
    }
    wanted
}

/// An object that cannot be read, or of which something cannot work.
fn unfit(fault: Option<(&str, bool)>, told: &[Objection]) -> Option<Condition> {
    if let Some((rule, is_kept)) = fault {
        let then = if is_kept {
            "it counts as it was before"
        } else {
            "it takes no part until it can be read"
        };
        let message = format!("{rule}; {then}");
        return Some(Condition::bad(PLANNED, "Malformed", &message));
    }
    let faults: Vec<&Objection> = told
        .iter()
        .filter(|objection| objection.weight == Weight::Fault)
        .collect();
    let first = faults.first()?;
    Some(Condition::bad(
        PLANNED,
        &camel(first.code.word()),
        &sentences(&faults),
    ))
}

fn part(takes_part: bool, told: &[Objection]) -> Condition {
    if !takes_part {
        return Condition::bad(
            PLANNED,
            "TakesNoPart",
            "its cluster is not enabled, leaves, or is not known",
        );
    }
    let warnings: Vec<&Objection> = told.iter().collect();
    match warnings.first() {
        None => Condition::good(PLANNED, "Planned"),
        Some(first) => Condition {
            is_true: true,
            ..Condition::bad(PLANNED, &camel(first.code.word()), &sentences(&warnings))
        },
    }
}

fn troubling(kind: &'static str, trouble: &Trouble) -> Condition {
    match trouble {
        Trouble::Refused(why) => {
            let message = format!("the API does not take its NodeConfig: {why}");
            Condition::bad(kind, "NodeConfigRefused", &message)
        }
        Trouble::TooLarge(bytes) => {
            let message = format!(
                "its NodeConfig would take {bytes} bytes, which is more than the API's store holds of one object; the former one stays"
            );
            Condition::bad(kind, "NodeConfigTooLarge", &message)
        }
    }
}

fn sentences(objections: &[&Objection]) -> String {
    let told = objections.iter().take(MOST).map(|one| {
        let left_out = one.left_out.as_ref();
        let left_out = left_out.map(|what| format!("; left out of the plan: {}", what.as_str()));
        let (path, rule) = (one.at.path.as_str(), one.rule.as_str());
        format!("{path}: {rule}{}", left_out.unwrap_or_default())
    });
    let mut text = told.collect::<Vec<_>>().join(". ");
    if objections.len() > MOST {
        text += &format!(". And {} more", objections.len() - MOST);
    }
    text
}

/// `POD-CIDR-MISSING` as the API wants reasons: `PodCidrMissing`.
fn camel(code: &str) -> String {
    code.split('-')
        .flat_map(|word| {
            let mut letters = word.chars();
            let first = letters.next().map(|letter| letter.to_ascii_uppercase());
            let rest: Vec<char> = letters.map(|letter| letter.to_ascii_lowercase()).collect();
            first.into_iter().chain(rest)
        })
        .collect()
}

/// What an object shows.
#[derive(Debug, Clone, Default)]
struct Shown {
    conditions: Vec<Value>,
    version: String,
    uid: String,
}

/// Conditions to be written to one object.
#[derive(Debug, Clone, PartialEq)]
pub struct Show {
    /// The object.
    pub id: Id,
    /// Its `uid`, by which an Event finds it.
    pub uid: String,
    /// The `resourceVersion` that these were made for.
    pub version: String,
    /// All of its conditions, others' included.
    pub conditions: Vec<Value>,
    /// Those of ours that turned.
    pub turned: Vec<Condition>,
}

/// What came of a [`Show`].
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// It changed meanwhile, or it is gone: what it is now is on its way.
    Conflict,
    /// Why not.
    Failed,
    /// The object as it is now.
    Written(Box<Value>),
}

/// The conditions of all objects: those that they show, those that they should, and what is to be written.
#[derive(Debug, Default)]
pub struct Board {
    shown: BTreeMap<Id, Shown>,
    wanted: BTreeMap<Id, Vec<Condition>>,
    due: BTreeSet<Id>,
    busy: BTreeSet<Id>,
    /// Kinds whose definition has no conditions: the API drops them.
    without: BTreeSet<Kind>,
    retry: Option<Duration>,
}

/// Until what failed is tried again.
const RETRY: Duration = Duration::from_secs(5);

impl Board {
    /// An object as it is now.
    pub fn seen(&mut self, kind: Kind, name: &str, object: &Value) {
        let id = (kind, name.to_owned());
        let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default();
        let conditions = object["status"]["conditions"].as_array();
        let shown = Shown {
            conditions: conditions.cloned().unwrap_or_default(),
            version: text("resourceVersion").to_owned(),
            uid: text("uid").to_owned(),
        };
        self.shown.insert(id.clone(), shown);
        self.due.insert(id);
    }

    /// An object is not there any more.
    pub fn gone(&mut self, kind: Kind, name: &str) {
        let id = (kind, name.to_owned());
        self.shown.remove(&id);
        self.wanted.remove(&id);
    }

    /// What the objects should show from now on.
    pub fn want(&mut self, wanted: BTreeMap<Id, Vec<Condition>>) {
        let changed = wanted
            .iter()
            .filter(|(id, new)| self.wanted.get(*id) != Some(*new));
        self.due.extend(changed.map(|(id, _)| id.clone()));
        self.wanted = wanted;
    }

    /// Whose conditions to write next; `time` is now, as the API writes it. What is given out has to be [reported](Self::done).
    pub fn next(&mut self, now: Duration, time: &str) -> Option<Show> {
        if self.retry.is_some_and(|at| at <= now) {
            self.retry = None;
            self.due.extend(self.wanted.keys().cloned());
        }
        let mut waiting = Vec::new();
        let mut found = None;
        while let Some(id) = self.due.pop_first() {
            if self.busy.contains(&id) {
                waiting.push(id);
                continue;
            }
            if let Some(show) = self.judged(&id, time) {
                self.busy.insert(id);
                found = Some(show);
                break;
            }
        }
        self.due.extend(waiting);
        found
    }

    fn judged(&self, id: &Id, time: &str) -> Option<Show> {
        let (shown, wanted) = (self.shown.get(id)?, self.wanted.get(id)?);
        let is_all_shown = wanted.iter().all(|one| one.is_shown(&shown.conditions));
        if is_all_shown || self.without.contains(&id.0) {
            return None;
        }
        let mut conditions = shown.conditions.clone();
        let mut turned = Vec::new();
        for condition in wanted {
            let at = conditions
                .iter()
                .position(|one| one["type"] == condition.kind);
            let former = at.map(|at| conditions[at].clone());
            let same_status = former
                .as_ref()
                .is_some_and(|former| former["status"] == status(condition.is_true));
            let is_same = same_status
                && former
                    .as_ref()
                    .is_some_and(|former| former["reason"] == *condition.reason);
            // Nobody needs to be told that something is well that never was otherwise.
            let is_first_word = former.is_none() && condition.is_true;
            if !is_same && !is_first_word {
                turned.push(condition.clone());
            }
            let since = former.filter(|_| same_status);
            let since =
                since.and_then(|former| former["lastTransitionTime"].as_str().map(str::to_owned));
            let new = json!({
                "type": condition.kind, "status": status(condition.is_true), "reason": condition.reason,
                "message": condition.message, "lastTransitionTime": since.as_deref().unwrap_or(time),
            });
            match at {
                Some(at) => conditions[at] = new,
                None => conditions.push(new),
            }
        }
        Some(Show {
            id: id.clone(),
            uid: shown.uid.clone(),
            version: shown.version.clone(),
            conditions,
            turned,
        })
    }

    /// What came of a command.
    pub fn done(&mut self, show: &Show, outcome: Outcome, now: Duration) {
        self.busy.remove(&show.id);
        let (kind, name) = &show.id;
        match outcome {
            Outcome::Written(object) => {
                if object["status"]["conditions"]
                    .as_array()
                    .is_none_or(Vec::is_empty)
                {
                    self.without.insert(*kind);
                }
                self.seen(*kind, name, &object);
            }
            Outcome::Conflict => {}
            Outcome::Failed => {
                self.retry.get_or_insert(now + RETRY);
            }
        }
    }

    /// Whoever led did not hear what came of this; the object's own word counts.
    pub fn dropped(&mut self, show: &Show) {
        self.busy.remove(&show.id);
        self.due.insert(show.id.clone());
    }

    /// When something that failed is tried again.
    #[must_use]
    pub fn deadline(&self) -> Option<Duration> {
        self.retry
    }

    /// Whether an object shows everything that it should, or its kind shows nothing.
    #[must_use]
    pub fn is_told(&self, id: &Id) -> bool {
        let (Some(shown), Some(wanted)) = (self.shown.get(id), self.wanted.get(id)) else {
            return true;
        };
        let is_shown = wanted.iter().all(|one| one.is_shown(&shown.conditions));
        is_shown || self.without.contains(&id.0)
    }

    /// The `uid` of an object; empty of one that is not there.
    #[must_use]
    pub fn uid(&self, id: &Id) -> &str {
        self.shown.get(id).map_or("", |shown| shown.uid.as_str())
    }

    /// Whether an object shows a condition of a type.
    #[must_use]
    pub fn shows(&self, id: &Id, kind: &str) -> bool {
        let shown = self.shown.get(id);
        shown.is_some_and(|shown| shown.conditions.iter().any(|one| one["type"] == kind))
    }

    /// Whether the API keeps conditions of a kind.
    #[must_use]
    pub fn is_kept(&self, kind: Kind) -> bool {
        !self.without.contains(&kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: &str = "2026-01-01T00:00:00Z";
    const LATER: &str = "2026-01-01T00:01:00Z";

    fn cluster(name: &str) -> Value {
        json!({"metadata": {"name": name, "uid": name, "resourceVersion": "1"},
               "spec": {"clusterLinkOptions": {"networkType": "p2p", "ipFamily": "ipv4"}}})
    }

    fn node(name: &str, ip: &str) -> Value {
        json!({"metadata": {"name": name, "uid": name, "resourceVersion": "1"},
               "spec": {"clusterName": "a", "nodeName": name, "ip": ip, "interfaceName": "eth0", "podCIDRs": ["10.0.0.0/24"]}})
    }

    struct Fleet {
        inventory: Inventory,
        board: Board,
        api: BTreeMap<Id, Value>,
        is_pruning: bool,
    }

    impl Fleet {
        fn put(&mut self, kind: Kind, name: &str, object: Value) {
            self.inventory.set(kind, name, &object);
            self.board.seen(kind, name, &object);
            self.api.insert((kind, name.to_owned()), object);
        }

        /// Writes everything that is to be written; the objects and what turned.
        fn step(&mut self, time: &str) -> Vec<String> {
            self.inventory.plan();
            let writer = Writer::new(Mode::Auto, 1 << 20);
            self.board
                .want(wanted(&self.inventory, &writer, Mode::Auto));
            let mut written = Vec::new();
            while let Some(show) = self.board.next(Duration::ZERO, time) {
                let object = self.api.get_mut(&show.id).expect("an object");
                if !self.is_pruning {
                    object["status"]["conditions"] = show.conditions.clone().into();
                }
                let object = object.clone();
                let turned: Vec<&str> = show.turned.iter().map(|one| one.reason.as_str()).collect();
                written.push(format!("{} {}", show.id.1, turned.join(" ")));
                self.board
                    .done(&show, Outcome::Written(Box::new(object)), Duration::ZERO);
            }
            written
        }
    }

    fn fleet() -> Fleet {
        let mut fleet = Fleet {
            inventory: Inventory::default(),
            board: Board::default(),
            api: BTreeMap::new(),
            is_pruning: false,
        };
        fleet.put(Kind::Cluster, "a", cluster("a"));
        fleet.put(Kind::ClusterNode, "n1", node("n1", "100.64.0.1"));
        fleet.put(Kind::ClusterNode, "n2", node("n2", "100.64.0.2"));
        fleet
    }

    #[test]
    fn conditions_are_written_once_and_turns_are_told() {
        let mut fleet = fleet();
        let first = fleet.step(TIME);
        assert_eq!(first.len(), 3, "{first:?}");
        assert!(fleet.step(LATER).is_empty());
        // Somebody's slip: the object says so itself, and no other does.
        let id = (Kind::ClusterNode, "n1".to_owned());
        let mut bad = fleet.api[&id].clone();
        bad["spec"]["ip"] = json!(7);
        fleet.put(Kind::ClusterNode, "n1", bad);
        assert_eq!(fleet.step(LATER), ["n1 Malformed"]);
        let shown = &fleet.api[&id]["status"]["conditions"][0];
        assert_eq!(
            (
                shown["status"].as_str(),
                shown["lastTransitionTime"].as_str()
            ),
            (Some("False"), Some(LATER))
        );
        assert!(
            shown["message"]
                .as_str()
                .is_some_and(|text| text.ends_with("it counts as it was before")),
            "{shown}"
        );
        assert!(fleet.step(LATER).is_empty());
        let mut good = fleet.api[&id].clone();
        good["spec"]["ip"] = json!("100.64.0.1");
        fleet.put(Kind::ClusterNode, "n1", good);
        assert_eq!(fleet.step(LATER), ["n1 Planned"]);
    }

    #[test]
    fn an_api_that_drops_conditions_is_asked_once_per_kind() {
        let mut fleet = fleet();
        fleet.is_pruning = true;
        assert_eq!(fleet.step(TIME).len(), 2);
        assert!(!fleet.board.is_kept(Kind::Cluster));
        assert!(fleet.step(TIME).is_empty());
    }

    #[test]
    fn conditions_of_others_stay() {
        let mut fleet = fleet();
        let mut object = node("n1", "100.64.0.1");
        object["status"] = json!({"conditions": [{"type": "Tunnelled", "status": "True"}]});
        fleet.put(Kind::ClusterNode, "n1", object);
        fleet.step(TIME);
        let shown = &fleet.api[&(Kind::ClusterNode, "n1".to_owned())]["status"]["conditions"];
        assert_eq!(shown[0]["type"], "Tunnelled");
        assert_eq!(shown[1]["type"], PLANNED);
    }

    #[test]
    fn a_reason_is_one_word() {
        assert_eq!(camel("POD-CIDR-MISSING"), "PodCidrMissing");
    }
}
