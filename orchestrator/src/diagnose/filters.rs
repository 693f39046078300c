//! Pairs whose packets a rule of a packet filter stops, changes or loses: one finding for each rule.
//!
//! A rule is accused only where packets of a probed pair fail the way the walk says that they must. What the walk says of pairs that
//! nobody probed adds to the finding and makes none.

use std::collections::BTreeMap;

use datapath::code::Code;
use datapath::element::{ElementKind, Fix};
use datapath::filter::{Decider, Hook};
use datapath::printable::Printable;
use datapath::walk::Stop;
use floater::wire::Layer;

use super::findings::{affected, finding, packets};
use super::join::Joined;
use super::pairs::Fate;
use super::scope::Scope;
use super::walks::{Walked, Walks};
use crate::evidence::NodeRef;
use crate::report::{Element, Evidence, EvidenceKind, Finding};

/// So many nodes whose filters could not be read are named.
const NAMED: usize = 3;

/// The findings, and a sentence about filters that could not be read where pairs fail for no known reason. Pairs that are explained
/// are marked.
pub(super) fn findings(
    scope: &Scope<'_>,
    walks: &Walks<'_>,
    joined: &mut [Joined<'_, '_>],
    unjudged: &mut Vec<String>,
) -> Vec<Finding> {
    let mut by_rule: BTreeMap<(NodeRef, Decider), Vec<usize>> = BTreeMap::new();
    for (at, one) in joined.iter().enumerate() {
        if one.suffers()
            && !one.is_explained()
            && !(one.fate() == Fate::Lost && matches!(one.walked, Some(Walked::Loses { .. })))
            && let Some((node, by)) = one.filter()
        {
            by_rule.entry((node, by.clone())).or_default().push(at);
        }
    }
    let mut found = Vec::new();
    for ((at, by), pairs) in by_rule {
        let is_seen = scope.what.tables_only || pairs.iter().any(|&at| joined[at].pair.is_some());
        if !is_seen {
            // Nobody's packets were lost to it.
            pairs
                .iter()
                .for_each(|&at| joined[at].walked = Some(Walked::Unknown));
            continue;
        }
        pairs.iter().for_each(|&at| joined[at].is_filtered = true);
        let suffering: Vec<&Joined<'_, '_>> = pairs.iter().map(|&at| &joined[at]).collect();
        let rule = Accused {
            scope,
            walks,
            at,
            by: &by,
            suffering: &suffering,
        };
        found.push(rule.finding());
    }
    unjudged.extend(unread(scope, joined));
    found
}

/// A rule with the pairs that suffer from it.
struct Accused<'a> {
    scope: &'a Scope<'a>,
    walks: &'a Walks<'a>,
    at: NodeRef,
    by: &'a Decider,
    suffering: &'a [&'a Joined<'a, 'a>],
}

impl Accused<'_> {
    fn finding(&self) -> Finding {
        let (scope, by) = (self.scope, self.by);
        let place = scope.place(self.at);
        let (cluster, node) = (
            &scope.cluster(self.at.cluster).name,
            &scope.node(self.at).name,
        );
        let code = self.code();
        let element = Element {
            cluster: Some(cluster.as_str().into()),
            node: Some(node.as_str().into()),
            kind: ElementKind::Filter,
            name: by.to_string().into(),
        };
        let mut evidence = packets(scope, self.suffering);
        evidence.push(Evidence {
            kind: EvidenceKind::Table,
            source: place.as_str().into(),
            text: format!("hook {}, {by}: {}", by.hook.word(), by.text).into(),
        });
        finding(
            code,
            element,
            self.summary(code, &place),
            evidence,
            self.ambiguous(code),
            affected(self.suffering),
            Fix::at(cluster, node, by.removal()),
        )
    }

    fn stops(&self) -> impl Iterator<Item = (&Stop, bool)> {
        let each = self.suffering.iter();
        each.filter_map(|joined| match &joined.walked {
            Some(Walked::Stops {
                stop: Some(stop),
                answer,
                ..
            }) => Some((stop, *answer)),
            _ => None,
        })
    }

    fn code(&self) -> Code {
        let by = self.by;
        let mut stops = self.stops();
        let Some(first) = stops.next() else {
            return Code::LossGray;
        };
        match first.0 {
            Stop::Refused { .. } => return Code::Reject,
            Stop::Translated { .. } => return Code::SnatUnwanted,
            _ => {}
        }
        let carries =
            |(stop, _): (&Stop, bool)| matches!(stop, Stop::Filtered { carries: true, .. });
        if self.stops().any(carries) {
            let is_towards_one = by.asks.address
                || matches!(by.hook, Hook::Output | Hook::Postrouting | Hook::Egress);
            return if is_towards_one {
                Code::TunnelUdpBlockedOneway
            } else {
                Code::TunnelUdpBlockedHost
            };
        }
        if by.asks.connection && self.stops().all(|(_, answer)| answer) {
            return Code::TunnelReplyBlocked;
        }
        if self.is_about_a_pod() {
            return Code::PodPolicy;
        }
        let is_selective = self
            .suffering
            .iter()
            .all(|joined| joined.fate() == Fate::Half);
        let is_of_hosts = self
            .suffering
            .iter()
            .all(|joined| joined.key.layer == Layer::Host);
        if by.asks.transport || (is_selective && by.handle.is_some()) || is_of_hosts {
            return Code::L4SelectiveDrop;
        }
        Code::ForwardPolicyDrop
    }

    /// Whether the rule names the link or the address of a pod of its node.
    fn is_about_a_pod(&self) -> bool {
        let (by, facts) = (self.by, self.scope.node(self.at));
        let names = |word: &str| {
            let mut rest = by.text.split(word).skip(1);
            // 10.1.0.2 is not named by 10.1.0.20, nor by a prefix.
            rest.any(|next| {
                !next.starts_with(|next: char| next.is_ascii_alphanumeric() || next == '/')
            })
        };
        let is_of_one = |ip: &std::net::IpAddr| {
            let length = if ip.is_ipv4() { 32 } else { 128 };
            names(&ip.to_string()) || by.text.contains(&format!("{ip}/{length}"))
        };
        by.asks.address && facts.pod_ips.iter().any(is_of_one)
            || by.asks.link
                && self
                    .walks
                    .pod_links(self.at)
                    .any(|link| names(&format!("\"{link}\"")))
    }

    fn summary(&self, code: Code, place: &str) -> String {
        let by = self.by;
        let what = match code {
            Code::LossGray => "drops at random some of the packets that cross it",
            Code::PodPolicy => "drops packets of one of its pods",
            Code::Reject => "refuses packets",
            Code::SnatUnwanted => "exchanges an address of packets, whose answers do not come back",
            Code::TunnelReplyBlocked => "drops the answers to what was asked",
            Code::TunnelUdpBlockedHost => "drops the tunnels' packets that come in",
            Code::TunnelUdpBlockedOneway => "drops the tunnels' packets in one direction",
            Code::L4SelectiveDrop => "drops packets by what they carry",
            _ => "drops packets that the node should forward",
        };
        format!("{place}: {by} {what}: {}", by.text)
    }

    fn ambiguous(&self, code: Code) -> Vec<Printable> {
        match code {
            // A drop towards one peer is that peer's missing answer.
            Code::TunnelUdpBlockedOneway => vec![Code::TunnelReplyBlocked.word().into()],
            _ => Vec::new(),
        }
    }
}

/// Filters that nobody could look at, where pairs fail for no known reason.
fn unread(scope: &Scope<'_>, joined: &[Joined<'_, '_>]) -> Option<String> {
    let is_open = |joined: &Joined<'_, '_>| joined.suffers() && !joined.is_explained();
    if !joined.iter().any(is_open) {
        return None;
    }
    let unread: Vec<(NodeRef, &String)> = scope
        .all_nodes()
        .into_iter()
        .filter_map(|at| Some((at, scope.node(at).filters_unread.as_ref()?)))
        .collect();
    let (_, why) = unread.first()?;
    let named: Vec<String> = unread
        .iter()
        .take(NAMED)
        .map(|(at, _)| scope.place(*at))
        .collect();
    let more = unread.len() - named.len();
    let more = if more > 0 {
        format!(" and {more} more nodes")
    } else {
        String::new()
    };
    Some(format!(
        "packets are lost, and whether packet filters of {}{more} drop them is not known: {}",
        named.join(", "),
        Printable::new(why)
    ))
}
