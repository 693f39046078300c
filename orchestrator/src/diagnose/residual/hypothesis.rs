//! What could explain pairs that fail, and how it weighs.

use datapath::code::Code;
use datapath::state::Family;
use floater::wire::Layer;

use super::super::join::Joined;
use super::super::pairs::Fate;
use crate::evidence::NodeRef;

/// The family in which something fails; none where it fails in all.
pub(super) type Only = Option<Family>;

/// Which pairs of a layer, by their direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Reach {
    /// All of the fleet.
    All,
    /// To any node of a cluster, from inside as well.
    AnyOf(usize),
    /// To any node of a cluster from another cluster.
    IntoCluster(usize),
    /// From any node of a cluster to another cluster.
    OutOfCluster(usize),
    /// To a node.
    To(NodeRef),
    /// From a node.
    From(NodeRef),
    /// From one cluster to another.
    Towards(usize, usize),
}

/// What could explain a pair.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Hypothesis {
    /// Somebody else answers for the node.
    Impostor(NodeRef, Layer),
    /// What one cluster asks of another is answered by somebody else, and what others ask of it is not.
    Strangers(usize, usize, Layer),
    /// The walk says where it stops, and by which row.
    Walk(Option<NodeRef>, Code, String),
    /// The node is off the underlay.
    Off(NodeRef, Only),
    /// No node of the cluster is reached by any other, inside of it or outside.
    Segment(usize, Only),
    /// No node of the cluster is reached from outside.
    Dark(usize, Only),
    /// The node is not reached from outside of its cluster.
    Abroad(NodeRef, Only),
    /// Two clusters do not reach each other on the underlay.
    Apart(usize, usize, Only),
    /// The tables of this node would tell.
    Unread(NodeRef),
    /// The node drops what comes in by this tunnel.
    TunnelEnd(NodeRef, &'static str),
    /// The underlay drops this tunnel's packets between two nodes.
    Tunnel(NodeRef, NodeRef, &'static str),
    /// The node does not forward between its pods and the underlay.
    Forwarding(NodeRef, Only),
    /// The underlay between two nodes.
    Between(NodeRef, NodeRef, Only),
    /// What is asked in this direction fails, and the answers to others pass.
    Directed(Reach, Layer, Only),
    /// The pair itself.
    Pair(NodeRef, NodeRef, Layer, Family),
}

impl Hypothesis {
    pub(super) fn family(&mut self) -> Option<&mut Only> {
        match self {
            Self::Off(_, only)
            | Self::Segment(_, only)
            | Self::Dark(_, only)
            | Self::Abroad(_, only)
            | Self::Apart(_, _, only)
            | Self::Forwarding(_, only)
            | Self::Between(_, _, only)
            | Self::Directed(_, _, only) => Some(only),
            Self::Impostor(..)
            | Self::Strangers(..)
            | Self::Walk(..)
            | Self::Unread(_)
            | Self::TunnelEnd(..)
            | Self::Tunnel(..)
            | Self::Pair(..) => None,
        }
    }

    pub(super) fn only(&self) -> Only {
        self.clone().family().and_then(|only| *only)
    }

    pub(super) fn in_all_families(&self) -> Self {
        let mut whole = self.clone();
        if let Some(only) = whole.family() {
            *only = None;
        }
        whole
    }
}

/// How a pair fails; causes of one kind do not explain another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// Connections fail, echoes pass.
    Connections,
    /// Nothing passes.
    All,
    /// Large packets fail, small ones pass.
    Large,
    /// Some packets are lost.
    Some,
}

impl Class {
    pub(super) const ORDER: [Self; 4] = [Self::All, Self::Connections, Self::Large, Self::Some];

    pub(super) fn fate(self) -> Fate {
        match self {
            Self::Connections => Fate::Half,
            Self::All => Fate::Lost,
            Self::Large => Fate::Large,
            Self::Some => Fate::Lossy,
        }
    }

    /// What a pair that a hypothesis predicts to fail says against it, where it does not: the logarithm of how seldom that is wrong.
    pub(super) fn against(self, joined: &Joined<'_, '_>) -> f64 {
        let Some(pair) = joined.pair else {
            return 0.0;
        };
        match (self, &pair.fate) {
            (Self::All, Fate::Passes | Fate::Half | Fate::Large | Fate::Lossy) => DECIDED,
            (Self::Connections, Fate::Passes | Fate::Large | Fate::Lossy) if pair.connects() => {
                DECIDED
            }
            (Self::Large, Fate::Passes | Fate::Half | Fate::Lossy) if pair.takes_large() => DECIDED,
            // A path that loses half lets all of five packets pass once in thirty times.
            (Self::Some, Fate::Passes) => 3.5,
            _ => 0.0,
        }
    }
}

/// The logarithm of the odds at which a decided pair is judged rightly: an error in 10⁹.
pub(super) const DECIDED: f64 = 20.7;
/// What is added where more than packets speaks for it: a row that a walk stops at, a proof of identity that is wrong.
pub(super) const PROVED: f64 = 10.0;
/// What is added where a node is silent in other ways, too: enough to decide between equals.
pub(super) const HINT: f64 = 1.0;
/// Beyond so many causes that only packets tell, no more are told apart.
pub(super) const MOST: usize = 100;

/// Which of two hypotheses that predict the same is the likelier, lower first: a cause that lies in one object before one that needs
/// several, what is closer to the packets that fail before what is farther.
pub(super) fn rank(hypothesis: &Hypothesis) -> u8 {
    match hypothesis {
        Hypothesis::Impostor(..) => 0,
        Hypothesis::Strangers(..) => 1,
        Hypothesis::Walk(..) => 2,
        Hypothesis::Off(..) => 3,
        Hypothesis::Segment(..) => 4,
        Hypothesis::Dark(..) => 5,
        Hypothesis::Abroad(..) => 6,
        Hypothesis::Unread(_) => 7,
        Hypothesis::TunnelEnd(..) => 8,
        Hypothesis::Forwarding(..) => 9,
        Hypothesis::Apart(..) => 10,
        Hypothesis::Tunnel(..) => 11,
        Hypothesis::Between(..) => 12,
        Hypothesis::Directed(Reach::To(_), ..) => 13,
        Hypothesis::Directed(Reach::From(_), ..) => 14,
        Hypothesis::Directed(Reach::AnyOf(_), ..) => 15,
        Hypothesis::Directed(Reach::IntoCluster(_), ..) => 16,
        Hypothesis::Directed(Reach::OutOfCluster(_), ..) => 17,
        Hypothesis::Directed(Reach::Towards(..), ..) => 18,
        Hypothesis::Directed(Reach::All, ..) => 19,
        Hypothesis::Pair(..) => 20,
    }
}

/// Whether it names two ends alike.
pub(super) fn is_between(hypothesis: &Hypothesis) -> bool {
    matches!(
        hypothesis,
        Hypothesis::Apart(..)
            | Hypothesis::Between(..)
            | Hypothesis::Tunnel(..)
            | Hypothesis::Pair(..)
    )
}
