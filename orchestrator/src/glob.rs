//! Patterns for names: `*` stands for any text, `?` for one character, everything else for itself.

/// Whether the whole of `text` matches `pattern`.
///
/// Linear in the product of both lengths at worst; never recursive, so that a pattern from outside cannot exhaust the stack.
#[must_use]
pub fn matches(pattern: &str, text: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let text: Vec<char> = text.chars().collect();
    let (mut at, mut read) = (0, 0);
    // Where to resume when the text after the last star turns out not to match.
    let mut star: Option<(usize, usize)> = None;
    while read < text.len() {
        match pattern.get(at) {
            Some('*') => {
                star = Some((at, read));
                at += 1;
            }
            Some(&sign) if sign == '?' || sign == text[read] => {
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
    pattern[at..].iter().all(|&sign| sign == '*')
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
}
