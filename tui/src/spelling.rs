//! What somebody probably meant by a word that does not exist.

use std::cmp::Reverse;

/// The words that are most like another: those that share one of its parts, then those that need the fewest changes.
pub fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>, most: usize) -> Vec<&'a str> {
    let split = |word: &'_ str| -> Vec<String> {
        let parts = word.split(['-', '_']).filter(|part| part.len() > 1);
        parts.map(str::to_owned).collect()
    };
    let parts = split(word);
    let mut known: Vec<&str> = known.collect();
    known.sort_by_key(|other| {
        let shared = split(other)
            .iter()
            .filter(|part| parts.contains(part))
            .count();
        (Reverse(shared), distance(word, other))
    });
    known.truncate(most);
    known
}

/// How many letters have to be put in, left out or changed.
fn distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    // A word of any length comes from outside, and none that is known is this long.
    for (at, letter) in from.chars().take(64).enumerate() {
        let mut diagonal = row[0];
        row[0] = at + 1;
        for (column, other) in to.iter().enumerate() {
            let changed = diagonal + usize::from(letter != *other);
            diagonal = row[column + 1];
            row[column + 1] = changed.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_understood() {
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
        let known = [
            "FDB-MISSING",
            "GATEWAY-DOWN",
            "LATENCY",
            "ROUTE-MISSING",
            "TOKEN",
        ];
        for (word, meant) in [
            ("FDB-MISING", "FDB-MISSING"),
            ("GATEWAYDOWN", "GATEWAY-DOWN"),
            ("MISSING-ROUTE", "ROUTE-MISSING"),
        ] {
            assert_eq!(nearest(word, known.into_iter(), 1), [meant], "{word}");
        }
    }
}
