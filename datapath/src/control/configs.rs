//! Which NodeConfigs have to be written and which deleted.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::Hash as _;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize as _;
use serde_json::{Map, Value};
use siphasher::sip128::{Hasher128 as _, SipHasher13};

use super::inventory::Touched;
use crate::api::NodeConfigSpec;
use crate::plan::Planner;

/// Whether NodeConfigs are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Mode {
    /// Those that fit into the API's store.
    #[default]
    Auto,
    /// None, and none is deleted either.
    Off,
    /// All, and the API may refuse them.
    On,
}

/// What is to become of a NodeConfig that the plan does not decide about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// It is to be without rows.
    Bare,
    /// It is to be gone.
    Gone,
}

/// What is to be done with one NodeConfig.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// It is to be gone.
    Delete {
        /// Its name.
        name: String,
    },
    /// It is to hold this.
    Put {
        /// Its name.
        name: String,
        /// Its rows.
        spec: Box<NodeConfigSpec>,
        /// Whether there is none as far as anybody knows.
        is_new: bool,
    },
}

impl Command {
    /// The NodeConfig's name.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Delete { name } | Self::Put { name, .. } => name,
        }
    }
}

/// Why a NodeConfig is not what is planned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// The API does not take it.
    Refused(String),
    /// It would not fit into the API's store: so many bytes of JSON.
    TooLarge(usize),
}

/// What a spec is, whoever wrote it in whatever order of fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Print(u128);

impl Print {
    fn of(json: &[u8]) -> Self {
        let mut hasher = SipHasher13::new();
        json.hash(&mut hasher);
        Self(hasher.finish128().as_u128())
    }
}

/// The NodeConfigs of a fleet: what the API has of each, what is planned, and what is to be done.
///
/// Memory is a few words for each of them: rows are made when their turn comes.
#[derive(Debug)]
pub struct Writer {
    mode: Mode,
    /// The most bytes of JSON that are written with [`Mode::Auto`].
    limit: usize,
    /// What the API has; nothing where it cannot be read.
    held: BTreeMap<String, Option<Print>>,
    due: BTreeSet<Arc<str>>,
    /// What the plan does not decide about, whatever the mode.
    orders: BTreeMap<String, Order>,
    /// What is being written.
    busy: BTreeMap<String, Option<Print>>,
    troubles: BTreeMap<String, Trouble>,
    /// When what failed is tried again, and how often it failed.
    retries: BTreeMap<String, (Duration, u32)>,
}

/// The longest that anybody waits before something that failed is tried again.
const LONGEST: Duration = Duration::from_secs(60);

impl Writer {
    /// Knows of no NodeConfig; `limit` is in bytes of JSON.
    #[must_use]
    pub fn new(mode: Mode, limit: usize) -> Self {
        Self {
            mode,
            limit,
            held: BTreeMap::new(),
            due: BTreeSet::new(),
            orders: BTreeMap::new(),
            busy: BTreeMap::new(),
            troubles: BTreeMap::new(),
            retries: BTreeMap::new(),
        }
    }

    /// The API has this NodeConfig. Its rows, where they can be read: they lend their MACs.
    pub fn held(&mut self, name: &str, object: &Value) -> Option<NodeConfigSpec> {
        let spec = object.get("spec").filter(|spec| !spec.is_null());
        let spec = spec.and_then(|spec| NodeConfigSpec::deserialize(spec).ok());
        let print = spec.as_ref().map(|spec| Print::of(&written(spec)));
        if self.held.insert(name.to_owned(), print) != Some(print) {
            self.due.insert(name.into());
        }
        spec
    }

    /// The API has this NodeConfig no more.
    pub fn gone(&mut self, name: &str) {
        if self.held.remove(name).is_some() {
            self.due.insert(name.into());
        }
    }

    /// The names that a list of all lacks.
    #[must_use]
    pub fn missing_in(&self, listed: &BTreeSet<&str>) -> Vec<String> {
        let held = self.held.keys();
        held.filter(|name| !listed.contains(name.as_str()))
            .cloned()
            .collect()
    }

    /// Somebody's rows were planned anew.
    pub fn touch(&mut self, touched: &Touched, planner: &Planner) {
        if touched.is_all {
            self.due.extend(planner.nodes().map(Arc::from));
            self.due
                .extend(self.held.keys().map(|name| Arc::from(name.as_str())));
        } else {
            self.due.extend(touched.nodes.iter().cloned());
        }
    }

    /// Has something become of a NodeConfig, whatever is planned; none where the plan decides again.
    pub fn order(&mut self, name: &str, order: Option<Order>) {
        match order {
            Some(order) => drop(self.orders.insert(name.to_owned(), order)),
            None => drop(self.orders.remove(name)),
        }
        self.due.insert(name.into());
    }

    /// What to do next, of whatever is due. `is_kept` says of which nodes nobody knows what is planned: theirs stay as they are.
    ///
    /// What is given out has to be [reported](Self::done).
    pub fn next(
        &mut self,
        planner: &Planner,
        now: Duration,
        is_kept: impl Fn(&str) -> bool,
    ) -> Option<Command> {
        if self.mode == Mode::Off {
            self.due.retain(|name| self.orders.contains_key(&**name));
            self.retries
                .retain(|name, _| self.orders.contains_key(name));
        }
        let again: Vec<String> = self
            .retries
            .iter()
            .filter(|(_, (at, _))| *at <= now)
            .map(|(name, _)| name.clone())
            .collect();
        for name in again {
            if let Some((at, _)) = self.retries.get_mut(&name) {
                // Not twice for one failure.
                *at = Duration::MAX;
            }
            self.due.insert(name.into());
        }
        let mut waiting = Vec::new();
        let mut found = None;
        while let Some(name) = self.due.pop_first() {
            if self.busy.contains_key(&*name) {
                waiting.push(name);
                continue;
            }
            found = self.judged(planner, &name, &is_kept);
            if found.is_some() {
                break;
            }
        }
        self.due.extend(waiting);
        found
    }

    fn judged(
        &mut self,
        planner: &Planner,
        name: &str,
        is_kept: impl Fn(&str) -> bool,
    ) -> Option<Command> {
        let order = self.orders.get(name).copied();
        let spec = match order {
            Some(Order::Bare) => Some(NodeConfigSpec::default()),
            Some(Order::Gone) => None,
            None => planner.config(name),
        };
        let Some(spec) = spec else {
            if order.is_some() || !is_kept(name) {
                self.forget(name);
                if self.held.contains_key(name) {
                    self.busy.insert(name.to_owned(), None);
                    return Some(Command::Delete {
                        name: name.to_owned(),
                    });
                }
            }
            return None;
        };
        let json = written(&spec);
        let print = Print::of(&json);
        if self.held.get(name) == Some(&Some(print)) {
            self.forget(name);
            return None;
        }
        if self.mode == Mode::Auto && json.len() > self.limit {
            // What its node has stays: an agent that lost its rows would be worse off than one with old ones.
            self.retries.remove(name);
            let trouble = Trouble::TooLarge(json.len());
            self.troubles.insert(name.to_owned(), trouble);
            return None;
        }
        self.busy.insert(name.to_owned(), Some(print));
        Some(Command::Put {
            name: name.to_owned(),
            spec: Box::new(spec),
            is_new: !self.held.contains_key(name),
        })
    }

    fn forget(&mut self, name: &str) {
        self.troubles.remove(name);
        self.retries.remove(name);
    }

    /// What came of a command.
    pub fn done(&mut self, command: &Command, outcome: Result<(), String>, now: Duration) {
        let name = command.name();
        let print = self.busy.remove(name);
        match (outcome, print) {
            (Ok(()), Some(Some(print))) => {
                self.held.insert(name.to_owned(), Some(print));
                self.forget(name);
            }
            (Ok(()), _) => {
                self.held.remove(name);
                self.forget(name);
            }
            (Err(why), _) => {
                let failed = self.retries.get(name).map_or(0, |(_, failed)| *failed);
                let wait = Duration::from_secs(1 << failed.min(6)).min(LONGEST);
                self.retries
                    .insert(name.to_owned(), (now + wait, failed.saturating_add(1)));
                self.troubles.insert(name.to_owned(), Trouble::Refused(why));
            }
        }
    }

    /// Somebody else was faster; what there is now is on its way here.
    pub fn overtaken(&mut self, command: &Command, now: Duration) {
        let name = command.name();
        self.busy.remove(name);
        let failed = self.retries.get(name).map_or(0, |(_, failed)| *failed);
        let at = now + Duration::from_secs(1);
        self.retries.insert(name.to_owned(), (at, failed));
    }

    /// Whoever led did not hear what came of this; the API's own word counts.
    pub fn dropped(&mut self, command: &Command) {
        let name = command.name();
        self.busy.remove(name);
        self.due.insert(name.into());
    }

    /// When something that failed is tried again.
    #[must_use]
    pub fn deadline(&self) -> Option<Duration> {
        let times = self.retries.values().map(|(at, _)| *at);
        times.min().filter(|at| *at != Duration::MAX)
    }

    /// Whether there is something to judge.
    #[must_use]
    pub fn is_due(&self) -> bool {
        !self.due.is_empty()
    }

    /// Why the NodeConfig of a node is not what is planned.
    #[must_use]
    pub fn trouble(&self, name: &str) -> Option<&Trouble> {
        self.troubles.get(name)
    }

    /// How many are too large, and how many were refused.
    #[must_use]
    pub fn troubles(&self) -> (usize, usize) {
        let is_large = |trouble: &&Trouble| matches!(trouble, Trouble::TooLarge(_));
        let large = self.troubles.values().filter(is_large).count();
        (large, self.troubles.len() - large)
    }

    /// How many the API has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// Whether the API has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }
}

/// The JSON of rows, always in one order of fields.
fn written(spec: &NodeConfigSpec) -> Vec<u8> {
    // Rows are text and numbers: nothing in them cannot be written.
    serde_json::to_vec(spec).unwrap_or_default()
}

/// The `spec` of a merge patch that replaces all lists: an empty one is left out in JSON, and what a patch leaves out stays.
#[must_use]
pub fn patch(spec: &NodeConfigSpec) -> Value {
    let empty = NodeConfigSpec::LISTS.iter();
    let mut patch: Map<String, Value> = empty
        .map(|list| ((*list).to_owned(), Value::Null))
        .collect();
    if let Ok(Value::Object(lists)) = serde_json::to_value(spec) {
        patch.extend(lists);
    }
    patch.into()
}

/// What a fleet's NodeConfigs have to be, where each is either as planned or not: the names to delete and those to put, sorted.
pub fn differences<'a>(
    planner: &'a Planner,
    held: impl IntoIterator<Item = &'a str>,
    is_current: impl Fn(&str) -> bool,
) -> (Vec<&'a str>, Vec<&'a str>) {
    let held = held.into_iter();
    let gone = held.filter(|name| planner.view(name).is_none()).collect();
    let put = planner.nodes().filter(|name| !is_current(name)).collect();
    (gone, put)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::control::inventory::{Inventory, Kind};

    fn inventory() -> Inventory {
        let mut inventory = Inventory::default();
        for (at, name) in ["a", "b"].iter().enumerate() {
            let cluster = json!({"metadata": {"name": name}, "spec": {"clusterLinkOptions": {"networkType": "p2p", "ipFamily": "ipv4"}}});
            inventory.set(Kind::Cluster, name, &cluster);
            let node = json!({"metadata": {"name": format!("{name}-n1")}, "spec": {
                "clusterName": name, "nodeName": "n1", "ip": format!("100.64.0.{}", at + 1), "interfaceName": "eth0",
                "podCIDRs": [format!("10.{at}.0.0/24")]}});
            inventory.set(Kind::ClusterNode, &format!("{name}-n1"), &node);
        }
        inventory
    }

    /// An API that takes everything, and what it has.
    fn serve(
        writer: &mut Writer,
        planner: &Planner,
        api: &mut BTreeMap<String, Value>,
    ) -> Vec<String> {
        let mut did = Vec::new();
        while let Some(command) = writer.next(planner, Duration::ZERO, |_| false) {
            let (name, verb) = (
                command.name().to_owned(),
                match &command {
                    Command::Delete { name } => {
                        api.remove(name);
                        "delete"
                    }
                    Command::Put { name, spec, is_new } => {
                        api.insert(
                            name.clone(),
                            json!({"metadata": {"name": name}, "spec": spec}),
                        );
                        if *is_new { "create" } else { "change" }
                    }
                },
            );
            writer.done(&command, Ok(()), Duration::ZERO);
            did.push(format!("{verb} {name}"));
        }
        did
    }

    #[test]
    fn only_what_differs_is_written_and_a_second_step_writes_nothing() {
        let mut inventory = inventory();
        let mut writer = Writer::new(Mode::Auto, 1 << 20);
        let mut api = BTreeMap::new();
        let stray = json!({"metadata": {"name": "gone-n1"}, "spec": {}});
        api.insert("gone-n1".to_owned(), stray.clone());
        writer.held("gone-n1", &stray);
        writer.touch(&inventory.plan(), &inventory.planner().clone());
        let planner = inventory.planner().clone();
        let did = serve(&mut writer, &planner, &mut api);
        assert_eq!(did, ["create a-n1", "create b-n1", "delete gone-n1"]);
        for (name, object) in &api {
            writer.held(name, object);
        }
        writer.touch(
            &Touched {
                is_all: true,
                nodes: BTreeSet::new(),
            },
            &planner,
        );
        assert!(serve(&mut writer, &planner, &mut api).is_empty());
        // Another manager that knows nothing but the API has nothing to do either.
        let mut other = Writer::new(Mode::Auto, 1 << 20);
        for (name, object) in &api {
            let spec = other.held(name, object);
            inventory.lend(name, spec.as_ref());
        }
        other.touch(&inventory.plan(), inventory.planner());
        assert!(serve(&mut other, inventory.planner(), &mut api).is_empty());
        // What somebody spoils is mended, and nothing else.
        for spoilt in [
            json!({"metadata": {}, "spec": {"routes": 7}}),
            json!({"metadata": {}}),
            json!({"metadata": {}, "spec": {}}),
        ] {
            writer.held("a-n1", &spoilt);
            assert_eq!(serve(&mut writer, &planner, &mut api), ["change a-n1"]);
        }
    }

    #[test]
    fn an_order_counts_whatever_is_planned_and_written() {
        for mode in [Mode::Auto, Mode::Off] {
            let mut inventory = inventory();
            inventory.plan();
            let planner = inventory.planner().clone();
            let mut writer = Writer::new(mode, 10);
            let mut api = BTreeMap::new();
            let rows = json!({"metadata": {}, "spec": {"routes": [{"cidr": "10.0.0.0/8", "gw": "1.1.1.1", "dev": "vx-bridge"}]}});
            for name in ["a-n1", "b-n1"] {
                writer.held(name, &rows);
                api.insert(name.to_owned(), rows.clone());
            }
            writer.order("a-n1", Some(Order::Bare));
            writer.order("a-n2", Some(Order::Bare));
            let did = serve(&mut writer, &planner, &mut api);
            assert_eq!(did, ["change a-n1", "create a-n2"], "{mode:?}");
            assert_eq!(api["a-n1"]["spec"], json!({}));
            writer.order("a-n1", Some(Order::Gone));
            assert_eq!(serve(&mut writer, &planner, &mut api), ["delete a-n1"]);
            writer.order("a-n1", None);
            assert!(serve(&mut writer, &planner, &mut api).is_empty());
        }
    }

    #[test]
    fn one_that_does_not_fit_stays_as_it_is_and_is_told() {
        let mut inventory = inventory();
        let touched = inventory.plan();
        let planner = inventory.planner().clone();
        let mut api = BTreeMap::new();
        let mut writer = Writer::new(Mode::Auto, 10);
        writer.touch(&touched, &planner);
        assert!(serve(&mut writer, &planner, &mut api).is_empty());
        assert!(matches!(writer.trouble("a-n1"), Some(Trouble::TooLarge(bytes)) if *bytes > 10));
        assert_eq!(writer.troubles(), (2, 0));
        let mut writer = Writer::new(Mode::On, 10);
        writer.touch(&touched, &planner);
        assert_eq!(serve(&mut writer, &planner, &mut api).len(), 2);
        let mut writer = Writer::new(Mode::Off, 1 << 20);
        writer.touch(&touched, &planner);
        writer.held("gone-n1", &json!({"spec": {}}));
        assert!(serve(&mut writer, &planner, &mut api).is_empty());
    }

    #[test]
    fn a_refusal_is_tried_again_later_and_harms_no_other() {
        let mut inventory = inventory();
        let mut writer = Writer::new(Mode::Auto, 1 << 20);
        writer.touch(&inventory.plan(), inventory.planner());
        let planner = inventory.planner().clone();
        let mut now = Duration::ZERO;
        let mut waits = Vec::new();
        for _ in 0..8 {
            while let Some(command) = writer.next(&planner, now, |_| false) {
                let outcome = if command.name() == "a-n1" {
                    Err("no".to_owned())
                } else {
                    Ok(())
                };
                writer.done(&command, outcome, now);
            }
            assert_eq!(
                writer.trouble("a-n1"),
                Some(&Trouble::Refused("no".to_owned()))
            );
            assert_eq!(writer.trouble("b-n1"), None);
            let at = writer.deadline().expect("another attempt");
            waits.push((at - now).as_secs());
            now = at;
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
    }

    #[test]
    fn what_nobody_can_plan_is_not_deleted() {
        let mut writer = Writer::new(Mode::Auto, 1 << 20);
        let planner = Planner::default();
        writer.held("a-n1", &json!({"spec": {}}));
        assert_eq!(
            writer.next(&planner, Duration::ZERO, |name| name == "a-n1"),
            None
        );
        writer.held("b-n1", &json!({"spec": {}}));
        assert!(matches!(
            writer.next(&planner, Duration::ZERO, |name| name == "a-n1"),
            Some(Command::Delete { .. })
        ));
    }

    #[test]
    fn a_patch_empties_the_lists_that_are_empty() {
        let patch = patch(&NodeConfigSpec::default());
        let lists = json!({
            "devices": null, "routes": null, "iptables": null, "fdbs": null, "arps": null, "gateways": null, "takeover": null,
            "multipath": null,
        });
        assert_eq!(patch, lists);
    }
}
