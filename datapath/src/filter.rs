//! The packet filters of a network namespace: what the rules of nftables match, decide and translate.
//!
//! A rule is a list of [`Clause`]s, which the kernel goes through until one does not hold or decides. A test compares octets, as the
//! kernel does: some field of a packet, its bits masked, against octets of the rule. So everything that nftables can compare is kept as
//! it is, and whoever walks a packet through the rules needs to know the octets of its fields and nothing of how a rule was written.
//! What could not be understood is a clause of its own ([`Clause::Unknown`]): it may hold or not.

use std::fmt;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

mod words;

/// So many rules of a namespace are kept; those beyond are missing from chains that say so ([`Chain::is_cut`]).
pub const MOST_RULES: usize = 2_000;
/// So many elements of a set are kept; a larger one cannot be told from any other.
pub const MOST_ELEMENTS: usize = 1_000;

/// All chains of a namespace that packets may meet.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Filters {
    /// In the order in which the kernel has them.
    pub chains: Vec<Chain>,
}

impl Filters {
    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.chains.is_empty()
    }

    /// The number of rules in all chains.
    #[must_use]
    pub fn rules(&self) -> usize {
        self.chains.iter().map(|chain| chain.rules.len()).sum()
    }
}

/// No name of a table, chain, set or link is longer (`NFT_NAME_MAXLEN`).
const LONGEST_NAME: usize = 255;
/// So many steps of a rule are looked at.
const MOST_CLAUSES: usize = 64;

impl Filters {
    /// The same within the bounds that whoever reads them from a kernel keeps to: what somebody else says of a node may be anything.
    /// Chains whose names no kernel allows are left out, rules beyond [`MOST_RULES`] cut off, long ones not understood.
    #[must_use]
    pub fn bounded(mut self) -> Self {
        self.chains.retain(|chain| {
            let devices = chain.base.iter().flat_map(|base| &base.devices);
            let mut names = [&chain.table, &chain.name].into_iter().chain(devices);
            names.all(|name| name.len() <= LONGEST_NAME)
        });
        self.chains.truncate(MOST_RULES);
        let mut room = MOST_RULES;
        for chain in &mut self.chains {
            chain.is_cut |= chain.rules.len() > room;
            chain.rules.truncate(room);
            room -= chain.rules.len();
            for rule in &mut chain.rules {
                if rule.clauses.len() > MOST_CLAUSES || !rule.clauses.iter().all(Clause::is_bounded)
                {
                    rule.clauses = vec![Clause::Unknown("target".to_owned())];
                }
            }
        }
        self
    }
}

impl Clause {
    fn is_bounded(&self) -> bool {
        let are_few = |of: &[Load]| of.len() <= 16 && of.iter().all(|load| load.then.len() <= 16);
        match self {
            Self::Test(test) => {
                let is = match &test.is {
                    Relation::Compare(..) | Relation::Within { .. } => true,
                    Relation::In { set, ranges, .. } => {
                        let few = |ranges: &Vec<_>| ranges.len() <= 2 * MOST_ELEMENTS;
                        set.len() <= LONGEST_NAME && ranges.as_ref().is_none_or(few)
                    }
                };
                is && are_few(&test.of)
            }
            Self::Dispatch { of, arms } => are_few(of) && arms.len() <= 2 * MOST_ELEMENTS,
            Self::Verdict(Verdict::Jump(name) | Verdict::Goto(name)) | Self::Unknown(name) => {
                name.len() <= LONGEST_NAME
            }
            Self::Mark(load) => load.as_ref().is_none_or(|load| load.then.len() <= 16),
            Self::Verdict(_) | Self::Untrack | Self::Translate(_) => true,
        }
    }
}

/// The family of a table: whose packets it sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TableFamily {
    /// `NFPROTO_ARP`.
    Arp,
    /// `NFPROTO_BRIDGE`.
    Bridge,
    /// `NFPROTO_INET`: IPv4 and IPv6.
    Inet,
    /// `NFPROTO_IPV4`.
    Ip,
    /// `NFPROTO_IPV6`.
    Ip6,
    /// `NFPROTO_NETDEV`: one device.
    Netdev,
}

impl TableFamily {
    /// All families with the kernel's numbers.
    pub const ALL: [(u8, Self); 6] = [
        (1, Self::Inet),
        (2, Self::Ip),
        (3, Self::Arp),
        (5, Self::Netdev),
        (7, Self::Bridge),
        (10, Self::Ip6),
    ];

    /// The word of nft(8).
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Arp => "arp",
            Self::Bridge => "bridge",
            Self::Inet => "inet",
            Self::Ip => "ip",
            Self::Ip6 => "ip6",
            Self::Netdev => "netdev",
        }
    }
}

/// Where a packet meets a base chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Hook {
    /// `NF_INET_PRE_ROUTING`: it came in.
    Prerouting,
    /// `NF_INET_LOCAL_IN`: it is for this node.
    Input,
    /// `NF_INET_FORWARD`: it goes on to another.
    Forward,
    /// `NF_INET_LOCAL_OUT`: this node made it.
    Output,
    /// `NF_INET_POST_ROUTING`: it goes out.
    Postrouting,
    /// `NF_NETDEV_INGRESS`, `NF_INET_INGRESS`: it came in by a device.
    Ingress,
    /// `NF_NETDEV_EGRESS`: it goes out by a device.
    Egress,
}

impl Hook {
    /// The word of nft(8).
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Prerouting => "prerouting",
            Self::Input => "input",
            Self::Forward => "forward",
            Self::Output => "output",
            Self::Postrouting => "postrouting",
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }
}

/// What a base chain is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ChainKind {
    /// `filter`.
    Filter,
    /// `nat`: met by the first packet of a connection alone.
    Nat,
    /// `route`: a packet whose mark or address it changes is routed anew.
    Route,
}

/// How a base chain is hooked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Base {
    /// What it is for.
    pub kind: ChainKind,
    /// Where.
    pub hook: Hook,
    /// Lower comes first.
    pub priority: i32,
    /// What becomes of a packet that no rule decides about.
    pub policy: Policy,
    /// The devices of an ingress or egress hook; empty for any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<String>,
}

/// What a base chain does in the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Policy {
    /// `NF_ACCEPT`.
    Accept,
    /// `NF_DROP`.
    Drop,
}

/// A list of rules.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chain {
    /// Its table's family.
    pub family: TableFamily,
    /// Its table's name.
    pub table: String,
    /// Its name.
    pub name: String,
    /// How it is hooked; none of a chain that others jump to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<Base>,
    /// Its rules, in order.
    #[serde(default)]
    pub rules: Vec<Rule>,
    /// Whether it has more rules than are told here.
    #[serde(default, skip_serializing_if = "is_false")]
    pub is_cut: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
fn is_false(value: &bool) -> bool {
    !value
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// `NFTA_RULE_HANDLE`, by which it can be deleted.
    pub handle: u64,
    /// What it does, in order.
    pub clauses: Vec<Clause>,
    /// Packets that its counter has seen; none where it has no counter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packets: Option<u64>,
}

/// One step of a rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Clause {
    /// Goes on if it holds.
    Test(Test),
    /// Decides by the element that the fields are found in; goes on where they are in none.
    Dispatch {
        /// The fields, one after another.
        of: Vec<Load>,
        /// What is decided, by range of octets, both ends included.
        arms: Vec<(Octets, Octets, Verdict)>,
    },
    /// Decides.
    Verdict(Verdict),
    /// Gives the packet this mark; another that cannot be told where there is none.
    Mark(Option<Load>),
    /// Takes the packet out of connection tracking.
    Untrack,
    /// Changes an address.
    Translate(Translation),
    /// Cannot be understood: it may hold, and it may decide.
    Unknown(String),
}

/// What a rule decides.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// The hook's next base chain is met.
    Accept,
    /// The packet is gone.
    Drop,
    /// The packet is gone, and its sender is told.
    Reject,
    /// Another chain is met, and then the next rule.
    Jump(String),
    /// Another chain is met, and then the rule after the last jump.
    Goto(String),
    /// The rule after the last jump is next; the policy in a base chain.
    Return,
    /// A program decides.
    Queue,
}

/// What a rule does to a packet's addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Translation {
    /// The source becomes the address of the link that the packet leaves by.
    Masquerade,
    /// The source becomes this one; none where it cannot be told which.
    Source(Option<std::net::IpAddr>),
    /// The destination becomes this one; none where it cannot be told which.
    Destination(Option<std::net::IpAddr>),
    /// The destination becomes an address of this node.
    Redirect,
}

/// A comparison.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Test {
    /// The fields, one after another.
    pub of: Vec<Load>,
    /// With what, and how.
    pub is: Relation,
}

/// A field of a packet, as it is compared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Load {
    /// Which.
    pub field: Field,
    /// What is done to its octets, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub then: Vec<Step>,
}

impl From<Field> for Load {
    fn from(field: Field) -> Self {
        Self {
            field,
            then: Vec::new(),
        }
    }
}

/// What is done to the octets of a field.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// `(octets & mask) ^ xor`.
    Bits {
        /// What is kept.
        mask: Octets,
        /// What is turned.
        xor: Octets,
    },
    /// Each group of so many octets the other way round.
    Swap(u8),
}

/// How octets are compared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Relation {
    /// As many octets as there are here, as a number of the network's order.
    Compare(Order, Octets),
    /// Between two, both included.
    Within {
        /// The lower.
        low: Octets,
        /// The higher.
        high: Octets,
        /// Whether it holds outside of it.
        #[serde(default)]
        not: bool,
    },
    /// In a set of ranges, both ends included.
    In {
        /// The set's name, for a person.
        set: String,
        /// Its ranges; none where they are not known.
        ranges: Option<Vec<(Octets, Octets)>>,
        /// Whether it holds outside of it.
        #[serde(default)]
        not: bool,
    },
}

/// `enum nft_cmp_ops`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Order {
    /// Equal.
    Eq,
    /// Different.
    Ne,
    /// Less.
    Lt,
    /// Not greater.
    Le,
    /// Greater.
    Gt,
    /// Not less.
    Ge,
}

/// What a rule can look at.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Field {
    /// The name of the link that the packet came in by; 16 octets.
    Iifname,
    /// The name of the link that it goes out by; 16 octets.
    Oifname,
    /// The index of the link that it came in by; four octets of the host's order.
    Iif,
    /// The index of the link that it goes out by; four octets of the host's order.
    Oif,
    /// `NFPROTO_IPV4` or `NFPROTO_IPV6`; one octet.
    Nfproto,
    /// The protocol above IP; one octet.
    L4proto,
    /// The ethertype; two octets of the network's order.
    Protocol,
    /// `skb->mark`; four octets of the host's order.
    Mark,
    /// Octets of the IP header.
    Network(u16, u16),
    /// Octets of the header above it.
    Transport(u16, u16),
    /// The bits of the connection's state; four octets of the host's order.
    CtState,
    /// Whether the packet goes as the first of its connection (0) or answers it (1); one octet.
    CtDirection,
    /// A bit of the connection's status (`enum ip_conntrack_status`); four octets of the host's order.
    CtStatus,
    /// Of what kind the destination is to this node (`RTN_LOCAL`, …); four octets of the host's order.
    FibDaddrType,
    /// Of what kind the source is to this node.
    FibSaddrType,
    /// A random number below this one, with an offset; four octets of the network's order here. 0 stands for 2³².
    Random(u32, u32),
    /// Another, with its length.
    Other(String, u16),
}

/// A string of octets; written as hexadecimal digits.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Octets(pub Vec<u8>);

impl fmt::Debug for Octets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Octets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|octet| write!(f, "{octet:02x}"))
    }
}

impl Serialize for Octets {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Octets {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        let digit = |octet: u8| {
            (octet as char)
                .to_digit(16)
                .and_then(|digit| u8::try_from(digit).ok())
        };
        let pairs = text.as_bytes().chunks(2);
        let octets: Option<Vec<u8>> = pairs
            .map(|pair| match pair {
                [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
                _ => None,
            })
            .collect();
        // A register of nftables holds no more, nor do several together.
        octets
            .filter(|octets| octets.len() <= 64)
            .map(Self)
            .ok_or_else(|| D::Error::custom("no octets"))
    }
}

/// The rule or policy that decided about a packet.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Decider {
    /// Its table's family.
    pub family: TableFamily,
    /// Its table.
    pub table: String,
    /// Its chain.
    pub chain: String,
    /// Its handle; none of a chain's policy.
    pub handle: Option<u64>,
    /// Where the packet met it.
    pub hook: Hook,
    /// The rule in words near to those of nft(8).
    pub text: String,
    /// What the rule asks of a packet before it decides.
    pub asks: Asks,
}

/// What a rule asks of a packet, as far as it says for what the rule was made.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Asks {
    /// The protocol or port.
    pub transport: bool,
    /// The source or destination address.
    pub address: bool,
    /// The connection's state or direction.
    pub connection: bool,
    /// The link that the packet came in or goes out by.
    pub link: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(clauses: Vec<Clause>) -> Rule {
        Rule {
            handle: 1,
            clauses,
            packets: Some(2),
        }
    }

    fn chain(table: &str, rules: Vec<Rule>) -> Chain {
        Chain {
            family: TableFamily::Inet,
            table: table.to_owned(),
            name: "c".to_owned(),
            base: None,
            rules,
            is_cut: false,
        }
    }

    #[test]
    fn what_others_say_is_cut_to_what_a_kernel_can_have() {
        let drop = || rule(vec![Clause::Verdict(Verdict::Drop)]);
        let long = "x".repeat(LONGEST_NAME + 1);
        let told = Filters {
            chains: vec![
                chain(&long, vec![drop()]),
                chain("a", vec![rule(vec![Clause::Untrack; MOST_CLAUSES + 1])]),
                chain(
                    "b",
                    vec![rule(vec![Clause::Verdict(Verdict::Jump(long.clone()))])],
                ),
                chain("c", vec![drop(); MOST_RULES]),
            ],
        };
        let bounded = told.bounded();
        let tables: Vec<&str> = bounded
            .chains
            .iter()
            .map(|chain| chain.table.as_str())
            .collect();
        assert_eq!(tables, ["a", "b", "c"]);
        assert_eq!(bounded.rules(), MOST_RULES);
        assert_eq!(
            bounded
                .chains
                .iter()
                .map(|chain| chain.is_cut)
                .collect::<Vec<_>>(),
            [false, false, true]
        );
        for chain in &bounded.chains[..2] {
            assert!(matches!(chain.rules[0].clauses[..], [Clause::Unknown(_)]));
        }
        assert_eq!(bounded.clone().bounded(), bounded);
    }

    #[test]
    fn rules_are_written_and_read_back() {
        let told = Filters {
            chains: vec![chain(
                "t",
                vec![rule(vec![
                    Clause::Test(Test {
                        of: vec![Field::Network(12, 4).into(), Field::Transport(2, 2).into()],
                        is: Relation::In {
                            set: "s".to_owned(),
                            ranges: Some(vec![(Octets(vec![0, 255]), Octets(vec![1, 0]))]),
                            not: true,
                        },
                    }),
                    Clause::Mark(None),
                    Clause::Translate(Translation::Source(None)),
                ])],
            )],
        };
        let json = serde_json::to_string(&told).expect("json");
        assert!(json.contains("\"00ff\""), "{json}");
        assert_eq!(
            serde_json::from_str::<Filters>(&json).expect("as written"),
            told
        );
        for wrong in ["\"0\"", "\"0g\"", &format!("\"{}\"", "00".repeat(65))] {
            assert!(serde_json::from_str::<Octets>(wrong).is_err(), "{wrong}");
        }
    }
}
