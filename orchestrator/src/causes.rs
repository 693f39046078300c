//! The catalogue of cause codes: what each means, what proves it, and what an operator does about it.

mod catalogue;

pub use catalogue::CATALOGUE;

/// What there is to know about a cause code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cause {
    /// The code, upper case.
    pub code: &'static str,
    /// The cause in a few words.
    pub title: &'static str,
    /// What it does to packets, and where they are lost.
    pub meaning: &'static str,
    /// What has to be seen before the code is given; a failing probe alone is never enough.
    pub proof: &'static str,
    /// What an operator does.
    pub fix: &'static str,
    /// Whether this version looks for it; of the others it knows the name, and may say that it cannot exclude them.
    pub found: bool,
}

/// The entry of a code, whatever its case.
#[must_use]
pub fn find(code: &str) -> Option<&'static Cause> {
    CATALOGUE
        .iter()
        .find(|cause| cause.code.eq_ignore_ascii_case(code))
}

/// How specific a code is: a lower number names a row, a higher one a guess from packets.
#[must_use]
pub fn rank(code: &str) -> u8 {
    match code {
        "GATEWAY-DOWN" | "NODE-DOWN" => 0,
        "DEV-DELETED" | "FORWARD-OFF" | "TUNNEL-DEV-DOWN" => 1,
        "INTENT-STALE" => 6,
        "AGENT-SICK"
        | "FORWARD-POLICY-DROP"
        | "L4-SELECTIVE-DROP"
        | "LOSS-GRAY"
        | "RETURN-ROUTE-MISSING"
        | "TUNNEL-UDP-BLOCKED-HOST"
        | "TUNNEL-UDP-BLOCKED-ONEWAY"
        | "UNDERLAY-ARP-POISON"
        | "V6-FORWARD-OFF"
        | "V6-ROUTE-MISSING" => 5,
        "WRONG-IDENTITY" => 4,
        "ADDRESS-MISSING" | "INNER-MTU-TOO-BIG" | "NAT-MISSING" => 3,
        _ => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_catalogue_is_sorted_and_complete() {
        assert!(CATALOGUE.is_sorted_by(|a, b| a.code < b.code));
        for cause in CATALOGUE {
            for text in [cause.title, cause.meaning, cause.proof, cause.fix] {
                assert!(!text.is_empty(), "{}", cause.code);
            }
            assert_eq!(find(&cause.code.to_lowercase()), Some(cause));
        }
        assert_eq!(find("FDB"), None);
    }
}
