//! Which parts of the datapath stand still.

use std::collections::BTreeSet;

use tokio::sync::watch;

/// The places whose controllers, elector and agents are stopped.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Frozen {
    /// The whole lab.
    pub(crate) all: bool,
    /// `CLUSTER` or `CLUSTER/NODE`, as somebody asked for.
    pub(crate) places: BTreeSet<String>,
    /// `CLUSTER/NODE`, because of an injected fault.
    pub(crate) faults: BTreeSet<String>,
}

impl Frozen {
    /// Whether nothing stands still.
    pub(crate) fn is_none(&self) -> bool {
        !self.all && self.places.is_empty() && self.faults.is_empty()
    }

    /// Whether a node's agent stands still.
    pub(crate) fn node(&self, cluster: &str, node: &str) -> bool {
        let place = format!("{cluster}/{node}");
        self.cluster(cluster) || self.places.contains(&place) || self.faults.contains(&place)
    }

    /// Whether a cluster's elector stands still.
    pub(crate) fn cluster(&self, cluster: &str) -> bool {
        self.all || self.places.contains(cluster)
    }

    /// What stands still, for people.
    pub(crate) fn described(&self) -> Vec<String> {
        let everything = self.all.then(|| "all".to_owned());
        everything
            .into_iter()
            .chain(self.places.union(&self.faults).cloned())
            .collect()
    }
}

/// The switch, and everybody who heeds it.
#[derive(Debug)]
pub(crate) struct Freezer(watch::Sender<Frozen>);

impl Default for Freezer {
    fn default() -> Self {
        Self(watch::Sender::new(Frozen::default()))
    }
}

impl Freezer {
    pub(crate) fn change(&self, change: impl FnOnce(&mut Frozen)) {
        self.0.send_modify(change);
    }

    pub(crate) fn now(&self) -> Frozen {
        self.0.borrow().clone()
    }

    pub(crate) fn node(&self, cluster: &str, node: &str) -> bool {
        self.0.borrow().node(cluster, node)
    }

    pub(crate) fn cluster(&self, cluster: &str) -> bool {
        self.0.borrow().cluster(cluster)
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<Frozen> {
        self.0.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_covers_what_is_below_it() {
        let freezer = Freezer::default();
        freezer.change(|frozen| {
            frozen.places.insert("east".into());
            frozen.faults.insert("west/n1".into());
        });
        assert!(freezer.node("east", "n9") && freezer.cluster("east"));
        assert!(freezer.node("west", "n1"));
        assert!(!freezer.node("west", "n2") && !freezer.cluster("west"));
        assert_eq!(freezer.now().described(), ["east", "west/n1"]);
        freezer.change(|frozen| frozen.all = true);
        assert!(freezer.cluster("west"));
    }
}
