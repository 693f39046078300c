//! Packet filters: which rule decides about a packet where it meets a hook.
//!
//! A test holds, does not hold, or cannot be told: the source port that a sender will choose, a limit, an expression that was not
//! understood. What cannot be told is doubt, and goes on as if it did not hold. In the end a packet is stopped only where no doubtful
//! rule could have let it pass, and what could have stopped it is told beside the walk ([`Doubt`]).

use std::collections::HashMap;
use std::net::IpAddr;

use super::Packet;
use crate::filter::{
    Base, Chain, ChainKind, Clause, Decider, Filters, Hook, Load, Policy, Rule, TableFamily, Test,
    Translation, Verdict,
};

mod value;

use value::{Holds, Value};

/// As deep as chains may call each other (`NFT_JUMP_STACK_SIZE`).
const DEPTH: u8 = 16;
/// So many rules are looked at for one packet at one hook; beyond, nothing can be told.
const BUDGET: u32 = 20_000;
/// Where connection tracking looks at a packet (`NF_IP_PRI_CONNTRACK`).
const CONNTRACK: i32 = -200;

/// The chains of one node, ready to be asked.
#[derive(Debug)]
pub(super) struct Compiled {
    chains: Vec<Chain>,
    /// The base chains in the order in which packets meet them.
    bases: Vec<usize>,
    by_name: HashMap<(TableFamily, String, String), usize>,
}

/// What a packet is to connection tracking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Connection {
    /// It begins one.
    New,
    /// It answers a packet that passed here.
    Answer,
    /// It belongs to none and begins none.
    Invalid,
    /// A rule has taken it out.
    Untracked,
}

/// A packet where it meets a hook.
#[derive(Debug, Clone)]
pub(super) struct Seen<'a> {
    pub(super) packet: Packet,
    /// Name and index of the link that it came in by.
    pub(super) iif: Option<(&'a str, u32)>,
    pub(super) oif: Option<(&'a str, u32)>,
    pub(super) connection: Connection,
    /// Whether it answers another, whatever connection tracking knows.
    pub(super) is_answer: bool,
    /// None for 0, which packets begin with.
    pub(super) mark: Option<Value>,
    /// Whether source and destination are the node's own.
    pub(super) is_local: (bool, bool),
}

impl<'a> Seen<'a> {
    pub(super) fn new(packet: Packet, connection: Connection, is_answer: bool) -> Self {
        Self {
            packet,
            iif: None,
            oif: None,
            connection,
            is_answer,
            mark: None,
            is_local: (false, false),
        }
    }

    /// The same with other addresses.
    pub(super) fn of(self, packet: Packet) -> Self {
        Self { packet, ..self }
    }
}

/// A rule that may or may not stop a packet.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Suspect {
    pub(super) by: Decider,
    /// How many packets of a million it stops, where that is left to chance alone.
    pub(super) per_million: Option<u32>,
}

/// What a hook does with a packet.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Ruling {
    Passes,
    Dropped(Decider),
    Refused(Decider),
}

/// Which of a hook's chains are met, by their priority: translations of the datapath's own come between.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// Those with a lower one than this.
    Before(i32),
    /// The others.
    After(i32),
}

impl Turn {
    fn has(self, priority: i32) -> bool {
        match self {
            Self::Before(limit) => priority < limit,
            Self::After(limit) => priority >= limit,
        }
    }
}

impl Compiled {
    /// None where there is nothing to meet.
    pub(super) fn new(filters: &Filters) -> Option<Box<Self>> {
        if filters.is_empty() {
            return None;
        }
        let chains = filters.chains.clone();
        let priority = |at: &usize| chains[*at].base.as_ref().map(|base| base.priority);
        let mut bases: Vec<usize> = (0..chains.len())
            .filter(|at| chains[*at].base.is_some())
            .collect();
        bases.sort_by_key(priority);
        let by_name = chains.iter().enumerate().map(|(at, chain)| {
            let name = (chain.family, chain.table.clone(), chain.name.clone());
            (name, at)
        });
        Some(Box::new(Self {
            by_name: by_name.collect(),
            bases,
            chains,
        }))
    }

    /// What the chains that filter do. Marks and untracking stay with the packet.
    pub(super) fn rule(
        &self,
        hook: Hook,
        turn: Turn,
        seen: &mut Seen<'_>,
        suspects: &mut Vec<Suspect>,
    ) -> Ruling {
        for (chain, base) in self.met(hook, turn, seen) {
            if base.kind == ChainKind::Nat {
                continue;
            }
            // Nothing is known of a connection before it was looked at.
            let known = seen.connection;
            let is_early = base.priority < CONNTRACK;
            if hook == Hook::Ingress || is_early && matches!(hook, Hook::Prerouting | Hook::Output)
            {
                seen.connection = Connection::Invalid;
            }
            let mut run = Run::new(self, seen, hook);
            let flow = run.base(chain, base);
            let doubts = run.doubts;
            if seen.connection != Connection::Untracked {
                seen.connection = known;
            }
            let may_pass = doubts.iter().any(|doubt| doubt.passes);
            match flow {
                Flow::Dropped(by) if may_pass => suspects.push(Suspect {
                    by,
                    per_million: None,
                }),
                Flow::Refused(by) if may_pass => suspects.push(Suspect {
                    by,
                    per_million: None,
                }),
                Flow::Dropped(by) => return Ruling::Dropped(by),
                Flow::Refused(by) => return Ruling::Refused(by),
                Flow::Through | Flow::Accepted | Flow::Translated(..) => {}
            }
            suspects.extend(
                doubts
                    .into_iter()
                    .filter(|doubt| doubt.stops)
                    .map(|doubt| Suspect {
                        by: doubt.by,
                        per_million: doubt.per_million,
                    }),
            );
        }
        Ruling::Passes
    }

    /// The translation of a connection's first packet; the first chain that has one decides.
    pub(super) fn translation(
        &self,
        hook: Hook,
        seen: &mut Seen<'_>,
    ) -> Option<(Decider, Translation)> {
        for (chain, base) in self.met(hook, Turn::After(i32::MIN), seen) {
            if base.kind != ChainKind::Nat {
                continue;
            }
            let mut run = Run::new(self, seen, hook);
            let flow = run.base(chain, base);
            // What may have been translated otherwise is not told as translated.
            let is_sure = run.doubts.is_empty();
            if let Flow::Translated(by, translation) = flow {
                return is_sure.then_some((by, translation));
            }
        }
        None
    }

    fn met<'c>(
        &'c self,
        hook: Hook,
        turn: Turn,
        seen: &Seen<'_>,
    ) -> impl Iterator<Item = (&'c Chain, &'c Base)> + use<'c> {
        let family = match seen.packet.dst {
            IpAddr::V4(_) => TableFamily::Ip,
            IpAddr::V6(_) => TableFamily::Ip6,
        };
        let device = match hook {
            Hook::Egress => seen.oif,
            _ => seen.iif,
        };
        let device = device.map(|(name, _)| name.to_owned());
        self.bases
            .iter()
            .map(|&at| &self.chains[at])
            .filter(move |chain| {
                chain.family == family
                    || chain.family == TableFamily::Inet
                    || chain.family == TableFamily::Netdev
            })
            .filter_map(|chain| Some((chain, chain.base.as_ref()?)))
            .filter(move |(_, base)| base.hook == hook && turn.has(base.priority))
            .filter(move |(_, base)| {
                base.devices.is_empty()
                    || device
                        .as_ref()
                        .is_some_and(|device| base.devices.contains(device))
            })
    }
}

/// A rule that may have decided.
struct Doubt {
    by: Decider,
    /// It may have stopped the packet.
    stops: bool,
    /// It may have let it pass.
    passes: bool,
    per_million: Option<u32>,
}

/// How a chain ends.
enum Flow {
    /// The caller goes on.
    Through,
    Accepted,
    Dropped(Decider),
    Refused(Decider),
    Translated(Decider, Translation),
}

impl Flow {
    fn called_by(self, rule: &Rule) -> Self {
        match self {
            Self::Dropped(by) => Self::Dropped(by.called_by(rule)),
            Self::Refused(by) => Self::Refused(by.called_by(rule)),
            Self::Translated(by, translation) => Self::Translated(by.called_by(rule), translation),
            other @ (Self::Through | Self::Accepted) => other,
        }
    }
}

/// What a rule says, when it is reached and its tests hold.
enum Said<'r> {
    Verdict(&'r Verdict),
    Translation(Translation),
    /// Something that was not understood.
    Anything,
}

/// One packet in the chains of one base chain.
struct Run<'c, 's, 'a> {
    compiled: &'c Compiled,
    seen: &'s mut Seen<'a>,
    hook: Hook,
    doubts: Vec<Doubt>,
    budget: u32,
}

impl<'c, 's, 'a> Run<'c, 's, 'a> {
    fn new(compiled: &'c Compiled, seen: &'s mut Seen<'a>, hook: Hook) -> Self {
        Self {
            compiled,
            seen,
            hook,
            doubts: Vec::new(),
            budget: BUDGET,
        }
    }

    fn base(&mut self, chain: &'c Chain, base: &Base) -> Flow {
        match self.chain(chain, 0) {
            Flow::Through if base.policy == Policy::Drop => {
                Flow::Dropped(Decider::policy(chain, self.hook))
            }
            flow => flow,
        }
    }

    fn chain(&mut self, chain: &'c Chain, depth: u8) -> Flow {
        // Whether the packet is certain to have come so far in this chain.
        let mut is_here = true;
        for rule in &chain.rules {
            self.budget = self.budget.saturating_sub(1);
            if depth >= DEPTH || self.budget == 0 {
                self.doubt_all(Decider::rule(chain, rule, self.hook));
                return Flow::Through;
            }
            let Some((said, holds)) = self.hear(rule) else {
                continue;
            };
            let is_sure = is_here && holds == Holds::Yes;
            match said {
                Said::Anything => self.doubt_all(Decider::rule(chain, rule, self.hook)),
                Said::Verdict(Verdict::Return) if is_sure => return Flow::Through,
                Said::Verdict(Verdict::Return) => is_here = false,
                Said::Verdict(Verdict::Queue) => {
                    self.doubt_all(Decider::rule(chain, rule, self.hook));
                    if is_sure {
                        return Flow::Accepted;
                    }
                }
                Said::Verdict(Verdict::Jump(name) | Verdict::Goto(name)) => {
                    let is_goto = matches!(said, Said::Verdict(Verdict::Goto(_)));
                    let flow = self.call(chain, name, depth, is_sure).called_by(rule);
                    match flow {
                        Flow::Through if is_goto && is_sure => return Flow::Through,
                        Flow::Through => {}
                        flow if is_sure => return flow,
                        flow => self.doubt(flow, Decider::rule(chain, rule, self.hook), None),
                    }
                }
                Said::Verdict(verdict) => {
                    let by = Decider::rule(chain, rule, self.hook);
                    let flow = match verdict {
                        Verdict::Drop => Flow::Dropped(by.clone()),
                        Verdict::Reject => Flow::Refused(by.clone()),
                        _ => Flow::Accepted,
                    };
                    if is_sure {
                        return flow;
                    }
                    self.doubt(flow, by, holds.per_million().filter(|_| is_here));
                }
                Said::Translation(translation) => {
                    let by = Decider::rule(chain, rule, self.hook);
                    let flow = Flow::Translated(by.clone(), translation);
                    if is_sure {
                        return flow;
                    }
                    self.doubt(flow, by, None);
                }
            }
        }
        if chain.is_cut {
            let last = chain.rules.last();
            let by = last.map_or_else(
                || Decider::policy(chain, self.hook),
                |rule| Decider::rule(chain, rule, self.hook),
            );
            self.doubt_all(by);
        }
        Flow::Through
    }

    fn call(&mut self, from: &Chain, name: &str, depth: u8, is_sure: bool) -> Flow {
        let key = (from.family, from.table.clone(), name.to_owned());
        let Some(&at) = self.compiled.by_name.get(&key) else {
            // It exists, or the kernel would not have the jump: it was not told.
            let by = Decider::policy(from, self.hook);
            self.doubt_all(by);
            return Flow::Through;
        };
        let mark = self.seen.mark.clone();
        let flow = self.chain(&self.compiled.chains[at], depth + 1);
        if !is_sure && self.seen.mark != mark {
            self.seen.mark = Some(Value::unknown(4));
        }
        flow
    }

    /// What a rule says; none where its tests do not hold or it says nothing.
    fn hear<'r>(&mut self, rule: &'r Rule) -> Option<(Said<'r>, Holds)> {
        let mut holds = Holds::Yes;
        for clause in &rule.clauses {
            match clause {
                Clause::Test(test) => {
                    holds = holds.and(self.test(test));
                    if holds == Holds::No {
                        return None;
                    }
                }
                Clause::Dispatch { of, arms } => {
                    let found = value::arm(&self.values(of), arms);
                    match found {
                        Some(Some(verdict)) => return Some((Said::Verdict(verdict), holds)),
                        Some(None) => return None,
                        None => return Some((Said::Anything, Holds::Maybe(None))),
                    }
                }
                Clause::Verdict(verdict) => return Some((Said::Verdict(verdict), holds)),
                Clause::Mark(load) => {
                    let mark = load.as_ref().map(|load| value::of(load, self.seen));
                    let mark = mark.filter(|_| holds == Holds::Yes);
                    self.seen.mark = Some(mark.unwrap_or_else(|| Value::unknown(4)));
                }
                Clause::Untrack if holds == Holds::Yes => {
                    self.seen.connection = Connection::Untracked;
                }
                Clause::Untrack => {}
                Clause::Translate(translation) => {
                    return Some((Said::Translation(*translation), holds));
                }
                Clause::Unknown(what) if may_decide(what) => {
                    return Some((Said::Anything, Holds::Maybe(None)));
                }
                Clause::Unknown(_) => holds = holds.and(Holds::Maybe(None)),
            }
        }
        None
    }

    fn test(&self, test: &Test) -> Holds {
        value::test(&self.values(&test.of), &test.of, &test.is)
    }

    fn values(&self, of: &[Load]) -> Vec<Value> {
        of.iter().map(|load| value::of(load, self.seen)).collect()
    }

    fn doubt(&mut self, flow: Flow, rule: Decider, per_million: Option<u32>) {
        let (by, stops, passes) = match flow {
            Flow::Through => return,
            Flow::Accepted => (rule, false, true),
            Flow::Dropped(by) | Flow::Refused(by) => (by, true, false),
            Flow::Translated(by, _) => (by, false, true),
        };
        self.doubts.push(Doubt {
            by,
            stops,
            passes,
            per_million,
        });
    }

    fn doubt_all(&mut self, by: Decider) {
        self.doubts.push(Doubt {
            by,
            stops: true,
            passes: true,
            per_million: None,
        });
    }
}

/// Whether what was not understood may end a rule by itself; the others hold or do not.
fn may_decide(what: &str) -> bool {
    let first = what.split(' ').next().unwrap_or_default();
    matches!(first, "target" | "fwd" | "synproxy" | "tproxy")
}

#[cfg(test)]
mod tests;
