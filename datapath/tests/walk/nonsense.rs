//! Tables that make no sense: whatever they hold, a walk over them ends, and soon.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use datapath::state::NodeState;
use datapath::walk::{self, End, Packet};
use serde_json::Value;

use super::chance::Chance;
use super::fleet::{self, NODES, node, tables};

/// Places of one kind in a table: `/links/3/master`.
type Places = BTreeMap<(String, &'static str), Vec<String>>;

fn places(value: &Value, path: &str, found: &mut Places) {
    let field = path.rsplit('/').find(|part| part.parse::<usize>().is_err());
    let mut note = |kind| {
        let key = (field.unwrap_or_default().to_owned(), kind);
        found.entry(key).or_default().push(path.to_owned());
    };
    match value {
        Value::Array(rows) => {
            for (at, row) in rows.iter().enumerate() {
                places(row, &format!("{path}/{at}"), found);
            }
        }
        Value::Object(fields) => {
            for (name, field) in fields {
                places(field, &format!("{path}/{name}"), found);
            }
        }
        Value::Bool(_) => note("bool"),
        Value::Number(_) => note("number"),
        // A name may stand where there is none, and the other way round.
        Value::String(_) | Value::Null => note("text"),
    }
}

/// Exchanges values for others of the same field, or of any field that holds the name of a link.
fn garbled(state: &NodeState, chance: &mut Chance) -> NodeState {
    let mut value = serde_json::to_value(state).expect("plain data");
    let mut found = Places::new();
    places(&value, "", &mut found);
    let mut kinds: Vec<Vec<String>> = found.clone().into_values().collect();
    let links = ["name", "link", "master", "lower", "out", "input"];
    let of_links = found.iter().filter(|(key, _)| links.contains(&&*key.0));
    kinds.push(of_links.flat_map(|(_, places)| places.clone()).collect());
    for _ in 0..chance.below(30) {
        let places = chance.pick(&kinds);
        let (from, to) = (chance.pick(places), chance.pick(places));
        let taken = value.pointer(from).cloned().expect("a place");
        let mut changed = value.clone();
        *changed.pointer_mut(to).expect("a place") = taken;
        if serde_json::from_value::<NodeState>(changed.clone()).is_ok() {
            value = changed;
        }
    }
    serde_json::from_value(value).expect("still tables")
}

#[test]
fn a_walk_over_nonsense_ends_soon() {
    let mut stops = BTreeSet::new();
    for seed in 0..60 {
        let mut chance = Chance::new(seed);
        let tables = tables();
        let garbled: BTreeMap<String, NodeState> = tables
            .into_iter()
            .map(|(name, state)| (name, garbled(&state, &mut chance)))
            .collect();
        for world in [fleet::wired(garbled.clone()), fleet::trusted(garbled)] {
            for from in NODES {
                for to in NODES {
                    for (src, dst) in [
                        (node(from.name).pod(5), node(to.name).pod(7)),
                        (node(from.name).pod6(5), node(to.name).pod6(7)),
                    ] {
                        let start = Instant::now();
                        let packet = Packet::udp(src, dst, 8889);
                        let (asked, _) = walk::round_trip(&world, from.name, Some("pod"), packet);
                        let took = start.elapsed();
                        assert!(
                            took < Duration::from_secs(2),
                            "seed {seed}: {took:?}\n{asked}"
                        );
                        if let End::Stopped { stop, .. } = asked.end {
                            let text = format!("{stop:?}");
                            stops.extend(text.split(' ').next().map(str::to_owned));
                        }
                    }
                }
            }
        }
    }
    // It was nonsense of many kinds.
    assert!(stops.len() >= 10, "{stops:?}");
}
