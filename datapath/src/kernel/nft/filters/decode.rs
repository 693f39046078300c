//! The expressions of a rule: registers that are loaded, changed and compared, as clauses.
//!
//! A rule's expressions work on registers of the kernel. Here a register holds which field of a packet was loaded and what was done to
//! it, so that a comparison says what it compares. What is not understood loads a field of its own name.

use std::net::IpAddr;

use super::super::super::message::{attributes, read_ip, read_text, read_u64};
use super::sets::Set;
use super::{number, xtables};
use crate::filter::{
    Clause, Field, Load, Octets, Order, Relation, Step, Test, Translation, Verdict,
};

const NFTA_EXPR_NAME: u16 = 1;
const NFTA_EXPR_DATA: u16 = 2;
const NFTA_DATA_VALUE: u16 = 1;
const NFTA_DATA_VERDICT: u16 = 2;
const NFTA_LOOKUP_SET: u16 = 1;
/// `NFT_REG32_00`.
const FIRST_WORD: u32 = 8;
/// Words of four octets.
const WORDS: usize = 16;

/// What a register holds.
#[derive(Clone)]
enum Held {
    Field(Load, usize),
    Value(Octets),
}

/// Finds a set of the rule's table.
pub(super) type Find<'f> = dyn Fn(&str) -> Option<&'f Set> + 'f;

/// Each expression's name and attributes.
fn expressions(list: &[u8]) -> impl Iterator<Item = (String, &[u8])> {
    attributes(list).filter_map(|(_, expression)| {
        let (mut name, mut data) = (None, &[][..]);
        for (kind, value) in attributes(expression) {
            match kind {
                NFTA_EXPR_NAME => name = read_text(value),
                NFTA_EXPR_DATA => data = value,
                _ => {}
            }
        }
        Some((name?, data))
    })
}

/// The names of the sets that a rule looks into.
pub(super) fn sets(list: &[u8]) -> Vec<String> {
    expressions(list)
        .filter(|(name, _)| name == "lookup")
        .filter_map(|(_, data)| read_text(find(data, NFTA_LOOKUP_SET)?))
        .collect()
}

/// What a rule does, and how many packets its counter has seen.
pub(super) fn clauses(list: &[u8], find_set: &Find<'_>) -> (Vec<Clause>, Option<u64>) {
    let mut rule = Decoder {
        registers: vec![None; WORDS],
        clauses: Vec::new(),
        packets: None,
    };
    for (name, data) in expressions(list) {
        if rule.add(&name, data, find_set).is_none() {
            rule.clauses.push(Clause::Unknown(name));
        }
    }
    (rule.clauses, rule.packets)
}

fn find(data: &[u8], wanted: u16) -> Option<&[u8]> {
    Some(attributes(data).find(|(kind, _)| *kind == wanted)?.1)
}

fn find_number(data: &[u8], wanted: u16) -> Option<u32> {
    number(find(data, wanted)?)
}

/// The octets of `NFTA_DATA_VALUE`.
pub(super) fn data(nest: &[u8]) -> Option<Octets> {
    find(nest, NFTA_DATA_VALUE).map(|octets| Octets(octets.to_vec()))
}

/// The verdict of `NFTA_DATA_VERDICT`.
pub(super) fn verdict(nest: &[u8]) -> Option<Verdict> {
    let verdict = find(nest, NFTA_DATA_VERDICT)?;
    let chain = || read_text(find(verdict, 2)?);
    // The low half is netfilter's, negative numbers are nf_tables' own.
    Some(match find_number(verdict, 1)?.cast_signed() {
        0 => Verdict::Drop,
        1 => Verdict::Accept,
        -3 => Verdict::Jump(chain()?),
        -4 => Verdict::Goto(chain()?),
        -5 => Verdict::Return,
        code if code & 0xff == 3 => Verdict::Queue,
        _ => return None,
    })
}

struct Decoder {
    registers: Vec<Option<Held>>,
    clauses: Vec<Clause>,
    packets: Option<u64>,
}

/// The place of a register among the words.
fn word(register: u32) -> Option<usize> {
    let at = match register {
        1..=4 => (register - 1) * 4,
        _ => register.checked_sub(FIRST_WORD)?,
    };
    usize::try_from(at).ok().filter(|at| *at < WORDS)
}

fn other(name: &str, length: u16) -> Field {
    Field::Other(name.to_owned(), length)
}

impl Decoder {
    /// Takes one expression in; none where it is not understood.
    fn add(&mut self, name: &str, data: &[u8], find_set: &Find<'_>) -> Option<()> {
        match name {
            "meta" => self.meta(data),
            "payload" => self.payload(data),
            "ct" => self.ct(data),
            "fib" => self.fib(data),
            "numgen" => {
                let offset = find_number(data, 4).unwrap_or(0);
                let field = Field::Random(find_number(data, 2)?, offset);
                self.load(data, field, 4)
            }
            "bitwise" => self.bitwise(data),
            "byteorder" => self.byteorder(data),
            "cmp" => self.cmp(data),
            "range" => self.range(data),
            "lookup" => self.lookup(data, find_set),
            "immediate" => self.immediate(data),
            "nat" => self.nat(data),
            "masq" => self.push(Clause::Translate(Translation::Masquerade)),
            "redir" => self.push(Clause::Translate(Translation::Redirect)),
            "reject" => self.push(Clause::Verdict(Verdict::Reject)),
            "queue" => self.push(Clause::Verdict(Verdict::Queue)),
            "notrack" => self.push(Clause::Untrack),
            "counter" => {
                let packets = find(data, 2).and_then(read_u64).map(u64::from_be);
                self.packets = packets.or(self.packets);
                Some(())
            }
            // They look on.
            "log" | "dup" | "flow_offload" | "last" => Some(()),
            "match" => self.extend(xtables::test(data)),
            "target" => self.extend(xtables::target(data)),
            // What writes to a packet decides nothing; what reads one loads something.
            "exthdr" | "rt" | "socket" | "hash" | "osf" | "tunnel" | "xfrm" | "inner" => {
                match find(data, 1).and_then(number).and_then(word) {
                    Some(_) => self.load(data, other(name, 16), 16),
                    None => Some(()),
                }
            }
            _ => None,
        }
    }

    fn push(&mut self, clause: Clause) -> Option<()> {
        self.clauses.push(clause);
        Some(())
    }

    fn extend(&mut self, clauses: Vec<Clause>) -> Option<()> {
        self.clauses.extend(clauses);
        Some(())
    }

    /// Loads a field into the register of attribute 1.
    fn load(&mut self, data: &[u8], field: Field, length: usize) -> Option<()> {
        self.hold(find_number(data, 1)?, Held::Field(field.into(), length))
    }

    fn hold(&mut self, register: u32, held: Held) -> Option<()> {
        *self.registers.get_mut(word(register)?)? = Some(held);
        Some(())
    }

    fn held(&self, register: u32) -> Option<&Held> {
        self.registers.get(word(register)?)?.as_ref()
    }

    fn field(&self, register: u32) -> Option<Load> {
        match self.held(register)? {
            Held::Field(load, _) => Some(load.clone()),
            Held::Value(_) => None,
        }
    }

    fn meta(&mut self, data: &[u8]) -> Option<()> {
        let key = find_number(data, 2)?;
        if let Some(register) = find_number(data, 3) {
            return match key {
                3 => {
                    let mark = match self.held(register) {
                        Some(Held::Field(load, _)) => Some(load.clone()),
                        Some(Held::Value(value)) => Some(constant(value)),
                        None => None,
                    };
                    self.push(Clause::Mark(mark))
                }
                // Tracing, priority: nothing that decides here.
                _ => Some(()),
            };
        }
        let (field, length) = match key {
            1 => (Field::Protocol, 2),
            3 => (Field::Mark, 4),
            4 => (Field::Iif, 4),
            5 => (Field::Oif, 4),
            6 => (Field::Iifname, 16),
            7 => (Field::Oifname, 16),
            15 => (Field::Nfproto, 1),
            16 => (Field::L4proto, 1),
            24 => (Field::Random(0, 0), 4),
            _ => (other(&format!("meta {key}"), 16), 16),
        };
        self.load(data, field, length)
    }

    fn payload(&mut self, data: &[u8]) -> Option<()> {
        // With a source register it writes.
        if find(data, 5).is_some() {
            return Some(());
        }
        let [base, offset, length] = [2, 3, 4].map(|at| find_number(data, at));
        let (base, offset) = (base?, u16::try_from(offset?).ok()?);
        let length = u16::try_from(length?).ok()?;
        let field = match base {
            1 => Field::Network(offset, length),
            2 => Field::Transport(offset, length),
            _ => other(&format!("@{base},{offset},{length}"), length),
        };
        self.load(data, field, usize::from(length))
    }

    fn ct(&mut self, data: &[u8]) -> Option<()> {
        // With a source register it writes.
        if find(data, 4).is_some() {
            return Some(());
        }
        let key = find_number(data, 2)?;
        let (field, length) = match key {
            0 => (Field::CtState, 4),
            1 => (Field::CtDirection, 1),
            2 => (Field::CtStatus, 4),
            _ => (other(&format!("ct {key}"), 16), 16),
        };
        self.load(data, field, length)
    }

    fn fib(&mut self, data: &[u8]) -> Option<()> {
        let (result, flags) = (find_number(data, 2)?, find_number(data, 3)?);
        // NFT_FIB_RESULT_ADDRTYPE, of NFTA_FIB_F_SADDR or NFTA_FIB_F_DADDR alone.
        let field = match (result, flags) {
            (3, 1) => Field::FibSaddrType,
            (3, 2) => Field::FibDaddrType,
            _ => other(&format!("fib {result},{flags}"), 16),
        };
        self.load(data, field, 4)
    }

    fn bitwise(&mut self, data: &[u8]) -> Option<()> {
        let (from, to) = (find_number(data, 1)?, find_number(data, 2)?);
        let held = self.held(from)?.clone();
        let is_mask = find_number(data, 6).unwrap_or(0) == 0;
        let step = (|| {
            let mask = self::data(find(data, 4)?)?;
            let xor = self::data(find(data, 5)?)?;
            is_mask.then_some(Step::Bits { mask, xor })
        })();
        let held = match (held, step) {
            (Held::Field(mut load, length), Some(step)) => {
                load.then.push(step);
                Held::Field(load, length)
            }
            (Held::Field(_, length), None) => {
                let octets = u16::try_from(length).unwrap_or(16);
                Held::Field(other("bits", octets).into(), length)
            }
            (Held::Value(_), _) => Held::Field(other("bits", 16).into(), 16),
        };
        self.hold(to, held)
    }

    fn byteorder(&mut self, data: &[u8]) -> Option<()> {
        let (from, to) = (find_number(data, 1)?, find_number(data, 2)?);
        let size = u8::try_from(find_number(data, 5)?).ok()?;
        match self.held(from)?.clone() {
            Held::Field(mut load, length) => {
                load.then.push(Step::Swap(size));
                self.hold(to, Held::Field(load, length))
            }
            Held::Value(_) => None,
        }
    }

    fn cmp(&mut self, data: &[u8]) -> Option<()> {
        let load = self.field(find_number(data, 1)?)?;
        let order = match find_number(data, 2)? {
            0 => Order::Eq,
            1 => Order::Ne,
            2 => Order::Lt,
            3 => Order::Le,
            4 => Order::Gt,
            5 => Order::Ge,
            _ => return None,
        };
        let value = self::data(find(data, 3)?)?;
        self.push(Clause::Test(Test {
            of: vec![load],
            is: Relation::Compare(order, value),
        }))
    }

    fn range(&mut self, data: &[u8]) -> Option<()> {
        let load = self.field(find_number(data, 1)?)?;
        let is = Relation::Within {
            low: self::data(find(data, 3)?)?,
            high: self::data(find(data, 4)?)?,
            not: find_number(data, 2)? == 1,
        };
        self.push(Clause::Test(Test { of: vec![load], is }))
    }

    fn lookup(&mut self, data: &[u8], find_set: &Find<'_>) -> Option<()> {
        let name = read_text(find(data, NFTA_LOOKUP_SET)?)?;
        let set = find_set(&name);
        let register = find_number(data, 2)?;
        let of = self.key(register, set.map_or(0, |set| set.key))?;
        let not = find_number(data, 5).unwrap_or(0) & 1 != 0;
        match find_number(data, 3) {
            None => {
                let ranges = set.and_then(|set| set.elements.as_ref());
                let ranges = ranges.map(|all| {
                    let each = all.iter();
                    each.map(|(low, high, _)| (low.clone(), high.clone()))
                        .collect()
                });
                let set = name;
                let is = Relation::In { set, ranges, not };
                self.push(Clause::Test(Test { of, is }))
            }
            // Of verdicts.
            Some(0) => {
                let elements = set?.elements.as_ref()?;
                let arms: Option<Vec<_>> = elements
                    .iter()
                    .map(|(low, high, verdict)| Some((low.clone(), high.clone(), verdict.clone()?)))
                    .collect();
                let arms = arms?;
                self.push(Clause::Dispatch { of, arms })
            }
            // A value that depends on the packet; where there is none the rule ends.
            Some(register) => {
                self.push(Clause::Unknown(format!("map {name}")))?;
                self.hold(register, Held::Field(other("map", 16).into(), 16))
            }
        }
    }

    /// The fields of a key that begins in a register.
    fn key(&self, register: u32, length: usize) -> Option<Vec<Load>> {
        let mut at = word(register)?;
        let end = at + length.div_ceil(4).max(1);
        let mut of = Vec::new();
        while at < end {
            let Held::Field(load, length) = self.registers.get(at)?.as_ref()? else {
                return None;
            };
            of.push(load.clone());
            at += length.div_ceil(4).max(1);
        }
        Some(of)
    }

    fn immediate(&mut self, data: &[u8]) -> Option<()> {
        let nest = find(data, 2)?;
        match find_number(data, 1)? {
            0 => {
                let verdict = verdict(nest)?;
                self.push(Clause::Verdict(verdict))
            }
            register => self.hold(register, Held::Value(self::data(nest)?)),
        }
    }

    fn nat(&mut self, data: &[u8]) -> Option<()> {
        let to = find_number(data, 3).and_then(|register| match self.held(register)? {
            Held::Value(value) => read_ip(&value.0),
            Held::Field(..) => None,
        });
        // A range gives more than one, and so does a mapping of whole prefixes.
        let last = find_number(data, 4).and_then(|register| match self.held(register)? {
            Held::Value(value) => read_ip(&value.0),
            Held::Field(..) => None,
        });
        let to: Option<IpAddr> = to.filter(|to| last.is_none_or(|last| last == *to));
        self.push(Clause::Translate(match find_number(data, 1)? {
            0 => Translation::Source(to),
            _ => Translation::Destination(to),
        }))
    }
}

/// A mark that is always the same: no bit of the old one, and these.
fn constant(value: &Octets) -> Load {
    Load {
        field: Field::Mark,
        then: vec![Step::Bits {
            mask: Octets(vec![0; value.0.len()]),
            xor: value.clone(),
        }],
    }
}
