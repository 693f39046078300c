//! The sets that rules look packets up in.

use std::collections::{BTreeMap, BTreeSet};

use super::super::super::message::{Attributes, attributes, read_text};
use super::super::super::socket::Netlink;
use super::super::{SUBSYSTEM, header};
use super::{decode, family_of, number};
use crate::error::Error;
use crate::filter::{MOST_ELEMENTS, Octets, TableFamily, Verdict};

const NFT_MSG_GETSET: u16 = SUBSYSTEM << 8 | 10;
const NFT_MSG_GETSETELEM: u16 = SUBSYSTEM << 8 | 13;
const NFTA_SET_TABLE: u16 = 1;
const NFTA_SET_NAME: u16 = 2;
const NFTA_SET_FLAGS: u16 = 3;
const NFTA_SET_KEY_LEN: u16 = 5;
const NFT_SET_INTERVAL: u32 = 4;
const NFT_SET_CONCAT: u32 = 0x80;
const NFTA_SET_ELEM_LIST_ELEMENTS: u16 = 3;
const NFTA_SET_ELEM_KEY: u16 = 1;
const NFTA_SET_ELEM_DATA: u16 = 2;
const NFTA_SET_ELEM_FLAGS: u16 = 3;
const NFTA_SET_ELEM_KEY_END: u16 = 10;
const NFT_SET_ELEM_INTERVAL_END: u32 = 1;
const NFT_SET_ELEM_CATCHALL: u32 = 2;
/// So many sets of a namespace are read; rules that look into others cannot be told to hold.
const MOST_SETS: usize = 256;

/// Family, table and name.
pub(super) type SetName = (TableFamily, String, String);
/// Sets by name.
pub(super) type Sets = BTreeMap<SetName, Set>;

/// A set or map.
#[derive(Debug, Clone, Default)]
pub(super) struct Set {
    /// Of its keys, octets.
    pub(super) key: usize,
    /// Its elements, with what a map of verdicts says; none where they are too many.
    pub(super) elements: Option<Vec<(Octets, Octets, Option<Verdict>)>>,
}

/// An element before the ends of intervals are joined to their beginnings.
struct Element {
    key: Octets,
    key_end: Option<Octets>,
    is_end: bool,
    verdict: Option<Verdict>,
}

pub(super) fn observe(socket: &mut Netlink, wanted: &BTreeSet<SetName>) -> Result<Sets, Error> {
    let mut found = Sets::new();
    if wanted.is_empty() {
        return Ok(found);
    }
    let dump = socket.dump("packet filters", NFT_MSG_GETSET, &header(0, 0), &[])?;
    let described: Vec<(SetName, u32, usize)> = dump
        .messages()
        .filter_map(|(_, payload)| described(payload))
        .filter(|(name, _, _)| wanted.contains(name))
        .take(MOST_SETS)
        .collect();
    for (name, flags, key) in described {
        let elements = elements(socket, &name)?;
        let is_interval = flags & NFT_SET_INTERVAL != 0 && flags & NFT_SET_CONCAT == 0;
        let elements = elements.filter(|all| all.len() <= 2 * MOST_ELEMENTS);
        let elements = elements.map(|all| {
            if is_interval {
                joined(all)
            } else {
                single(all)
            }
        });
        found.insert(name, Set { key, elements });
    }
    Ok(found)
}

fn described(payload: &[u8]) -> Option<(SetName, u32, usize)> {
    let (mut table, mut name, mut flags, mut key) = (None, None, 0, 0);
    for (kind, value) in attributes(payload.get(4..)?) {
        match kind {
            NFTA_SET_TABLE => table = read_text(value),
            NFTA_SET_NAME => name = read_text(value),
            NFTA_SET_FLAGS => flags = number(value)?,
            NFTA_SET_KEY_LEN => key = usize::try_from(number(value)?).ok()?,
            _ => {}
        }
    }
    Some(((family_of(payload)?, table?, name?), flags, key))
}

/// The elements of a set; none where one of them is not understood.
fn elements(socket: &mut Netlink, name: &SetName) -> Result<Option<Vec<Element>>, Error> {
    let (family, table, set) = name;
    let mut families = TableFamily::ALL.into_iter();
    let number = families.find(|(_, known)| known == family);
    let header = header(number.map_or(0, |(number, _)| number), 0);
    let mut filter = Vec::new();
    Attributes::new(&mut filter).text(1, table).text(2, set);
    let dump = socket.dump("packet filters", NFT_MSG_GETSETELEM, &header, &filter)?;
    let mut all = Some(Vec::new());
    for (_, payload) in dump.messages() {
        let parts = attributes(payload.get(4..).unwrap_or_default());
        let lists = parts.filter(|(kind, _)| *kind == NFTA_SET_ELEM_LIST_ELEMENTS);
        for (_, one) in lists.flat_map(|(_, list)| attributes(list)) {
            match (read_element(one), &mut all) {
                (Some(element), Some(all)) => all.push(element),
                _ => all = None,
            }
        }
    }
    Ok(all)
}

fn read_element(described: &[u8]) -> Option<Element> {
    let (mut key, mut key_end, mut flags, mut verdict) = (None, None, 0, None);
    for (kind, value) in attributes(described) {
        match kind {
            NFTA_SET_ELEM_KEY => key = decode::data(value),
            NFTA_SET_ELEM_KEY_END => key_end = decode::data(value),
            NFTA_SET_ELEM_FLAGS => flags = number(value)?,
            NFTA_SET_ELEM_DATA => verdict = decode::verdict(value),
            _ => {}
        }
    }
    if flags & NFT_SET_ELEM_CATCHALL != 0 {
        return None;
    }
    Some(Element {
        key: key?,
        key_end,
        is_end: flags & NFT_SET_ELEM_INTERVAL_END != 0,
        verdict,
    })
}

fn single(elements: Vec<Element>) -> Vec<(Octets, Octets, Option<Verdict>)> {
    let each = elements.into_iter();
    each.map(|one| {
        let end = one.key_end.unwrap_or_else(|| one.key.clone());
        (one.key, end, one.verdict)
    })
    .collect()
}

/// Beginnings and ends, which lie beyond the last that belongs to an interval.
fn joined(mut elements: Vec<Element>) -> Vec<(Octets, Octets, Option<Verdict>)> {
    elements.sort_by(|a, b| (&a.key, !a.is_end).cmp(&(&b.key, !b.is_end)));
    let mut ranges = Vec::new();
    let mut open: Option<(Octets, Option<Verdict>)> = None;
    for element in elements {
        if let Some((low, verdict)) = open.take() {
            ranges.push((low, before(&element.key), verdict));
        }
        if !element.is_end {
            open = Some((element.key, element.verdict));
        }
    }
    if let Some((low, verdict)) = open {
        let high = Octets(vec![0xff; low.0.len()]);
        ranges.push((low, high, verdict));
    }
    ranges
}

/// The number before.
fn before(key: &Octets) -> Octets {
    let mut octets = key.0.clone();
    for octet in octets.iter_mut().rev() {
        let (less, borrows) = octet.overflowing_sub(1);
        *octet = less;
        if !borrows {
            break;
        }
    }
    Octets(octets)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn element(key: u8, is_end: bool) -> Element {
        Element {
            key: Octets(vec![key, 0]),
            key_end: None,
            is_end,
            verdict: None,
        }
    }

    #[test]
    fn an_interval_ends_before_its_end() {
        // As the kernel gives them: from the highest down, with an end of everything before the first.
        let given = vec![
            element(9, false),
            element(7, true),
            element(3, false),
            element(0, true),
        ];
        let ranges: Vec<(Vec<u8>, Vec<u8>)> = joined(given)
            .into_iter()
            .map(|(low, high, _)| (low.0, high.0))
            .collect();
        let expected = [(vec![3, 0], vec![6, 255]), (vec![9, 0], vec![255, 255])];
        assert_eq!(ranges, expected);
    }

    #[test]
    fn intervals_that_touch_are_two() {
        let given = vec![
            element(3, false),
            element(5, true),
            element(5, false),
            element(8, true),
        ];
        assert_eq!(joined(given).len(), 2);
    }
}
