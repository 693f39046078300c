//! Clusters that lie, stall, flood and imitate: the program judges the healthy cluster beside them, within bounded time
//! and memory, and hands on nothing of theirs raw.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod connection;
mod control_plane;
mod credentials;
mod fake;
mod floaters;
mod identity;
mod life;
mod lists;
mod readers;
mod testimony;
mod trial;

use trial::Behaviour;

const TABLES: &[(&str, &[Behaviour])] = &[
    ("connection", connection::TABLE),
    ("identity", identity::TABLE),
    ("lists", lists::TABLE),
    ("life", life::TABLE),
    ("testimony", testimony::TABLE),
    ("control plane", control_plane::TABLE),
    ("credentials", credentials::TABLE),
];

#[test]
fn the_tables_hold_many_behaviours_each_once() {
    let mut names: Vec<&str> = TABLES
        .iter()
        .flat_map(|(_, table)| table.iter().map(|row| row.0))
        .collect();
    names.sort_unstable();
    let all = names.len();
    names.dedup();
    assert_eq!(names.len(), all, "a name is there twice");
    assert!(all >= 120, "{all}");
}

macro_rules! suites {
    ($($name:ident)*) => {
        $(
            #[test]
            #[ignore = "netns: needs vxlan, nft"]
            fn $name() {
                trial::run($name::TABLE);
            }
        )*
    };
}

suites! { connection identity lists life testimony control_plane credentials }
