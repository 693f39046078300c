//! Rules in words near to those of nft(8).

use std::fmt::{self, Write as _};
use std::net::IpAddr;

use super::{
    Asks, Chain, Clause, Decider, Field, Hook, Load, Octets, Order, Policy, Relation, Rule, Step,
    Test, Translation, Verdict,
};

/// So many ranges of a set are written.
const SHOWN: usize = 4;

impl Rule {
    /// What it asks of a packet.
    #[must_use]
    pub fn asks(&self) -> Asks {
        let mut asks = Asks::default();
        let loads = self.clauses.iter().flat_map(|clause| match clause {
            Clause::Test(test) => test.of.as_slice(),
            Clause::Dispatch { of, .. } => of.as_slice(),
            _ => &[],
        });
        for load in loads {
            match load.field {
                Field::L4proto | Field::Transport(..) => asks.transport = true,
                Field::Network(9, 1) => asks.transport = true,
                // Source and destination of RFC 791 and RFC 8200.
                Field::Network(at, length) if at >= 12 || (at >= 8 && length >= 4) => {
                    asks.address = true;
                }
                Field::CtState | Field::CtDirection | Field::CtStatus => asks.connection = true,
                Field::Iif | Field::Iifname | Field::Oif | Field::Oifname => asks.link = true,
                _ => {}
            }
        }
        asks
    }
}

impl Decider {
    /// One of the rules of a chain.
    #[must_use]
    pub fn rule(chain: &Chain, rule: &Rule, hook: Hook) -> Self {
        Self {
            family: chain.family,
            table: chain.table.clone(),
            chain: chain.name.clone(),
            handle: Some(rule.handle),
            hook,
            text: rule.to_string(),
            asks: rule.asks(),
        }
    }

    /// The policy of a base chain.
    #[must_use]
    pub fn policy(chain: &Chain, hook: Hook) -> Self {
        Self {
            family: chain.family,
            table: chain.table.clone(),
            chain: chain.name.clone(),
            handle: None,
            hook,
            text: "policy drop".to_owned(),
            asks: Asks::default(),
        }
    }

    /// The same where a rule of another chain led to it.
    #[must_use]
    pub fn called_by(self, rule: &Rule) -> Self {
        let (own, caller) = (self.asks, rule.asks());
        Self {
            text: format!("{rule} > {}", self.text),
            asks: Asks {
                transport: own.transport | caller.transport,
                address: own.address | caller.address,
                connection: own.connection | caller.connection,
                link: own.link | caller.link,
            },
            ..self
        }
    }

    /// The words of nft(8) that make it let packets pass.
    #[must_use]
    pub fn removal(&self) -> Vec<String> {
        let place = [self.family.word(), &self.table, &self.chain];
        let place = place.map(str::to_owned);
        match self.handle {
            Some(handle) => ["nft".to_owned(), "delete".to_owned(), "rule".to_owned()]
                .into_iter()
                .chain(place)
                .chain(["handle".to_owned(), handle.to_string()])
                .collect(),
            None => ["nft".to_owned(), "chain".to_owned()]
                .into_iter()
                .chain(place)
                .chain(["{ policy accept ; }".to_owned()])
                .collect(),
        }
    }
}

/// Its name among all rules of a node: `ip filter FORWARD handle 7`, `inet fw forward policy`.
impl fmt::Display for Decider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.family.word(), self.table, self.chain)?;
        match self.handle {
            Some(handle) => write!(f, " handle {handle}"),
            None => f.write_str(" policy"),
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The header's length and protocol are asked for before a port is: nft(8) does not write that either.
        let has_port = self.clauses.iter().any(|clause| {
            matches!(clause, Clause::Test(Test { of, .. }) if of.iter().any(|load| matches!(load.field, Field::Transport(..))))
        });
        let mut protocol = None;
        let mut first = true;
        for clause in &self.clauses {
            if let Clause::Test(test) = clause
                && let Some(number) = protocol_of(test)
                && has_port
            {
                protocol = Some(number);
                continue;
            }
            if !std::mem::take(&mut first) {
                f.write_char(' ')?;
            }
            clause.write(f, protocol)?;
        }
        Ok(())
    }
}

/// The protocol that a test asks for, where it asks for one alone.
fn protocol_of(test: &Test) -> Option<u8> {
    let [load] = test.of.as_slice() else {
        return None;
    };
    let is_protocol =
        matches!(load.field, Field::L4proto | Field::Network(9, 1)) && load.then.is_empty();
    match &test.is {
        Relation::Compare(Order::Eq, Octets(value)) if is_protocol => value.first().copied(),
        _ => None,
    }
}

fn protocol_word(number: u8) -> String {
    match number {
        1 => "icmp".to_owned(),
        6 => "tcp".to_owned(),
        17 => "udp".to_owned(),
        58 => "ipv6-icmp".to_owned(),
        other => other.to_string(),
    }
}

impl Clause {
    fn write(&self, f: &mut fmt::Formatter<'_>, protocol: Option<u8>) -> fmt::Result {
        match self {
            Self::Test(test) => test.write(f, protocol),
            Self::Dispatch { of, arms } => {
                write_fields(f, of, protocol)?;
                write!(f, " vmap {} elements", arms.len())
            }
            Self::Verdict(verdict) => write!(f, "{verdict}"),
            Self::Mark(_) => f.write_str("meta mark set"),
            Self::Untrack => f.write_str("notrack"),
            Self::Translate(translation) => write!(f, "{translation}"),
            Self::Unknown(what) => write!(f, "({what}?)"),
        }
    }
}

impl Test {
    fn write(&self, f: &mut fmt::Formatter<'_>, protocol: Option<u8>) -> fmt::Result {
        // A mask of leading ones is the length of a prefix.
        if let [load] = self.of.as_slice()
            && let [Step::Bits { mask, xor }] = load.then.as_slice()
            && xor.0.iter().all(|octet| *octet == 0)
            && let Relation::Compare(order @ (Order::Eq | Order::Ne), value) = &self.is
            && let Some(ip) = address_of(&load.field, value)
        {
            let length: u32 = mask.0.iter().map(|octet| octet.count_ones()).sum();
            write_fields(f, &self.of, protocol)?;
            let not = if *order == Order::Ne { "!= " } else { "" };
            return write!(f, " {not}{ip}/{length}");
        }
        write_fields(f, &self.of, protocol)?;
        // A mask of states is compared with nothing.
        if let [load] = self.of.as_slice()
            && load.field == Field::CtState
            && let Relation::Compare(order @ (Order::Eq | Order::Ne), value) = &self.is
        {
            let not = if *order == Order::Eq { "!= " } else { "" };
            return write!(f, " {not}{}", state_words(load, value));
        }
        let one = |octets: &Octets| match self.of.as_slice() {
            [load] => value_words(load, octets),
            _ => octets.to_string(),
        };
        match &self.is {
            Relation::Compare(order, value) => {
                let word = match order {
                    Order::Eq => " ",
                    Order::Ne => " != ",
                    Order::Lt => " < ",
                    Order::Le => " <= ",
                    Order::Gt => " > ",
                    Order::Ge => " >= ",
                };
                write!(f, "{word}{}", one(value))
            }
            Relation::Within { low, high, not } => {
                let not = if *not { "!= " } else { "" };
                write!(f, " {not}{}-{}", one(low), one(high))
            }
            Relation::In { set, ranges, not } => {
                let not = if *not { "!= " } else { "" };
                let known = ranges.as_deref().unwrap_or_default();
                if known.is_empty() || !set.starts_with("__set") {
                    return write!(f, " {not}@{set}");
                }
                write!(f, " {not}{{")?;
                for (low, high) in known.iter().take(SHOWN) {
                    match low == high {
                        true => write!(f, " {}", one(low))?,
                        false => write!(f, " {}-{}", one(low), one(high))?,
                    }
                }
                f.write_str(if known.len() > SHOWN { " … }" } else { " }" })
            }
        }
    }
}

fn write_fields(f: &mut fmt::Formatter<'_>, of: &[Load], protocol: Option<u8>) -> fmt::Result {
    for (at, load) in of.iter().enumerate() {
        if at > 0 {
            f.write_str(" . ")?;
        }
        let protocol = protocol.map_or_else(|| "th".to_owned(), protocol_word);
        match &load.field {
            Field::Iifname => f.write_str("iifname"),
            Field::Oifname => f.write_str("oifname"),
            Field::Iif => f.write_str("iif"),
            Field::Oif => f.write_str("oif"),
            Field::Nfproto => f.write_str("meta nfproto"),
            Field::L4proto => f.write_str("meta l4proto"),
            Field::Protocol => f.write_str("meta protocol"),
            Field::Mark => f.write_str("meta mark"),
            Field::Network(9, 1) => f.write_str("ip protocol"),
            Field::Network(12, 4) => f.write_str("ip saddr"),
            Field::Network(16, 4) => f.write_str("ip daddr"),
            Field::Network(8, 16) => f.write_str("ip6 saddr"),
            Field::Network(24, 16) => f.write_str("ip6 daddr"),
            Field::Transport(0, 1) => write!(f, "{protocol} type"),
            Field::Transport(0, 2) => write!(f, "{protocol} sport"),
            Field::Transport(2, 2) => write!(f, "{protocol} dport"),
            Field::Network(at, length) => write!(f, "@nh,{},{}", at * 8, length * 8),
            Field::Transport(at, length) => write!(f, "@th,{},{}", at * 8, length * 8),
            Field::CtState => f.write_str("ct state"),
            Field::CtDirection => f.write_str("ct direction"),
            Field::CtStatus => f.write_str("ct status"),
            Field::FibDaddrType => f.write_str("fib daddr type"),
            Field::FibSaddrType => f.write_str("fib saddr type"),
            Field::Random(0, _) => f.write_str("meta random"),
            Field::Random(modulus, _) => write!(f, "numgen random mod {modulus}"),
            Field::Other(name, _) => f.write_str(name),
        }?;
        if load.field == Field::CtState {
            continue;
        }
        for step in &load.then {
            if let Step::Bits { mask, .. } = step
                && address_of(&load.field, mask).is_none()
            {
                write!(f, " & 0x{mask}")?;
            }
        }
    }
    Ok(())
}

fn address_of(field: &Field, value: &Octets) -> Option<IpAddr> {
    match (field, value.0.as_slice()) {
        (Field::Network(12 | 16, 4), value) => {
            let octets: [u8; 4] = value.try_into().ok()?;
            Some(octets.into())
        }
        (Field::Network(8 | 24, 16), value) => {
            let octets: [u8; 16] = value.try_into().ok()?;
            Some(octets.into())
        }
        _ => None,
    }
}

fn value_words(load: &Load, octets: &Octets) -> String {
    if let Some(ip) = address_of(&load.field, octets) {
        return ip.to_string();
    }
    match (&load.field, octets.0.as_slice()) {
        (Field::Iifname | Field::Oifname, name) => {
            let end = name.iter().position(|octet| *octet == 0);
            let text = String::from_utf8_lossy(&name[..end.unwrap_or(name.len())]).into_owned();
            // What ends without a zero is the beginning of a name.
            let star = if end.is_none() && name.len() < 16 {
                "*"
            } else {
                ""
            };
            format!("\"{text}{star}\"")
        }
        (Field::L4proto | Field::Network(9, 1), [number]) => protocol_word(*number),
        (Field::Transport(0 | 2, 2), [high, low]) => u16::from_be_bytes([*high, *low]).to_string(),
        (Field::Transport(0, 1) | Field::Nfproto, [number]) => number.to_string(),
        (Field::CtDirection, [0]) => "original".to_owned(),
        (Field::CtDirection, [1]) => "reply".to_owned(),
        _ => format!("0x{octets}"),
    }
}

/// `ct state` compares a mask of states with nothing.
fn state_words(load: &Load, value: &Octets) -> String {
    let bits = match load.then.as_slice() {
        [Step::Bits { mask, .. }] => mask,
        _ => value,
    };
    let bits = bits.0.first().copied().unwrap_or_default();
    let names = [
        (1, "invalid"),
        (2, "established"),
        (4, "related"),
        (8, "new"),
        (64, "untracked"),
    ];
    let named: Vec<&str> = names
        .into_iter()
        .filter(|(bit, _)| bits & bit != 0)
        .map(|(_, name)| name)
        .collect();
    named.join(",")
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Accept => f.write_str("accept"),
            Self::Drop => f.write_str("drop"),
            Self::Reject => f.write_str("reject"),
            Self::Jump(chain) => write!(f, "jump {chain}"),
            Self::Goto(chain) => write!(f, "goto {chain}"),
            Self::Return => f.write_str("return"),
            Self::Queue => f.write_str("queue"),
        }
    }
}

impl fmt::Display for Translation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Masquerade => f.write_str("masquerade"),
            Self::Source(Some(ip)) => write!(f, "snat to {ip}"),
            Self::Source(None) => f.write_str("snat"),
            Self::Destination(Some(ip)) => write!(f, "dnat to {ip}"),
            Self::Destination(None) => f.write_str("dnat"),
            Self::Redirect => f.write_str("redirect"),
        }
    }
}

impl Policy {
    /// The word of nft(8).
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Accept => "accept",
            Self::Drop => "drop",
        }
    }
}
