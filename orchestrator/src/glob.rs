//! Patterns for names: `*` stands for any text, `?` for one character, `[ab]`, `[a-c]` and `[!a]` for one character of a set or of none,
//! everything else for itself.

/// One sign of a pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Sign {
    /// Any text.
    Star,
    /// One character, any.
    Any,
    /// This character.
    Itself(char),
    /// One character within one of the ranges, or within none of them.
    Set {
        negated: bool,
        ranges: Vec<(char, char)>,
    },
}

impl Sign {
    /// Whether it stands for this one character.
    fn takes(&self, c: char) -> bool {
        match self {
            Self::Star => false,
            Self::Any => true,
            Self::Itself(own) => *own == c,
            Self::Set { negated, ranges } => {
                ranges
                    .iter()
                    .any(|(first, last)| (*first..=*last).contains(&c))
                    != *negated
            }
        }
    }
}

/// Why a text is no pattern, for a person.
///
/// # Errors
/// The rule that it breaks.
pub fn check(pattern: &str) -> Result<(), String> {
    parse(pattern).map(|_| ())
}

fn parse(pattern: &str) -> Result<Vec<Sign>, String> {
    let broken = |rule: &str| Err(format!("{pattern:?} is no pattern: {rule}"));
    let mut signs = Vec::new();
    let mut rest = pattern.chars().peekable();
    while let Some(sign) = rest.next() {
        signs.push(match sign {
            '*' => Sign::Star,
            '?' => Sign::Any,
            '[' => {
                let negated = rest.next_if(|&c| c == '!' || c == '^').is_some();
                let mut ranges = Vec::new();
                loop {
                    let Some(first) = rest.next() else {
                        return broken("a [ is not closed");
                    };
                    // As everywhere, a bracket that comes first is one of the set.
                    if first == ']' && !ranges.is_empty() {
                        break;
                    }
                    let mut ahead = rest.clone();
                    let last = match (ahead.next(), ahead.next()) {
                        (Some('-'), Some(last)) if last != ']' => {
                            rest = ahead;
                            last
                        }
                        _ => first,
                    };
                    if first > last {
                        return broken(&format!("the range {first}-{last} is empty"));
                    }
                    ranges.push((first, last));
                }
                Sign::Set { negated, ranges }
            }
            other => Sign::Itself(other),
        });
    }
    Ok(signs)
}

/// Whether the whole of `text` matches `pattern`; what is no pattern ([`check`]) matches nothing.
///
/// Linear in the product of both lengths at worst; never recursive, so that a pattern from outside cannot exhaust the stack.
#[must_use]
pub fn matches(pattern: &str, text: &str) -> bool {
    let Ok(pattern) = parse(pattern) else {
        return false;
    };
    let text: Vec<char> = text.chars().collect();
    let (mut at, mut read) = (0, 0);
    // Where to resume when the text after the last star turns out not to match.
    let mut star: Option<(usize, usize)> = None;
    while read < text.len() {
        match pattern.get(at) {
            Some(Sign::Star) => {
                star = Some((at, read));
                at += 1;
            }
            Some(sign) if sign.takes(text[read]) => {
                at += 1;
                read += 1;
            }
            _ => {
                let Some((star_at, taken)) = star else {
                    return false;
                };
                star = Some((star_at, taken + 1));
                at = star_at + 1;
                read = taken + 1;
            }
        }
    }
    pattern[at..].iter().all(|sign| *sign == Sign::Star)
}

/// Whether `text` matches one of the patterns; no pattern at all lets everything through.
#[must_use]
pub fn any(patterns: &[String], text: &str) -> bool {
    patterns.is_empty() || patterns.iter().any(|pattern| matches(pattern, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_and_question_marks() {
        for (pattern, text) in [
            ("*", ""),
            ("*", "east"),
            ("ea*", "east"),
            ("*st", "east"),
            ("e?s?", "east"),
            ("*a*t", "east-west-bat"),
            ("east", "east"),
        ] {
            assert!(matches(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in [
            ("", "east"),
            ("east?", "east"),
            ("e*x", "east"),
            ("EAST", "east"),
        ] {
            assert!(!matches(pattern, text), "{pattern} {text}");
        }
        assert!(any(&[], "east"));
        assert!(!any(&["west".to_owned()], "east"));
    }

    #[test]
    fn sets_and_ranges() {
        for (pattern, text) in [
            ("c[12]", "c1"),
            ("c[0-9][a-c]", "c7b"),
            ("[!a]1", "b1"),
            ("[^a]1", "b1"),
            ("c[]x]", "c]"),
            ("c[a-]", "c-"),
            ("*-[!0-4]", "east-7"),
            ("[*]", "*"),
        ] {
            assert!(matches(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in [
            ("c[12]", "c3"),
            ("c[12]", "c12"),
            ("c[12]", "c[12]"),
            ("[!a-c]1", "b1"),
            ("[*]", "x"),
            ("c[1", "c1"),
            ("c[1", "c[1"),
        ] {
            assert!(!matches(pattern, text), "{pattern} {text}");
        }
    }

    #[test]
    fn what_is_no_pattern_is_told() {
        for pattern in ["", "*", "c[1-3]*", "[]]", "a]"] {
            assert_eq!(check(pattern), Ok(()), "{pattern}");
        }
        for pattern in ["c[", "c[]", "[!]", "x[3-1]"] {
            let why = check(pattern).expect_err(pattern);
            assert!(why.contains(pattern), "{why}");
        }
    }
}
