//! Patterns for names: `*` stands for any text, `?` for one byte (a character of ASCII), `[ab]`, `[a-c]` and `[!a]` for one of a set or of none,
//! `{a,b}` for one of several texts, everything else for itself.
//!
//! ```
//! use orchestrator::glob::Pattern;
//! let pattern = Pattern::from("prod-*");
//! assert_eq!(pattern.check(), Ok(()));
//! assert!(pattern.matches("prod-east") && !pattern.matches("stage-east"));
//! ```

use std::fmt;

use globset::{GlobBuilder, GlobMatcher};
use serde::{Deserialize, Serialize};

/// A pattern, compiled once. A text that is no pattern matches nothing, and [`Pattern::check`] says why.
#[derive(Clone, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub struct Pattern {
    text: String,
    compiled: Result<GlobMatcher, String>,
}

impl Pattern {
    /// The pattern of one name, whatever signs are in it.
    #[must_use]
    pub fn exactly(name: &str) -> Self {
        Self::from(globset::escape(name))
    }

    /// Why the text is no pattern, for a person.
    ///
    /// # Errors
    /// The rule that it breaks.
    pub fn check(&self) -> Result<(), String> {
        match &self.compiled {
            Ok(_) => Ok(()),
            Err(rule) => Err(format!("{:?} is no pattern: {rule}", self.text)),
        }
    }

    /// Whether the whole of a name matches.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        self.compiled
            .as_ref()
            .is_ok_and(|matcher| matcher.is_match(name))
    }

    /// The pattern as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl From<Pattern> for String {
    fn from(pattern: Pattern) -> Self {
        pattern.text
    }
}

impl From<String> for Pattern {
    fn from(text: String) -> Self {
        // A name is no path: a star stands for slashes, too, of which names of contexts have many.
        let compiled = GlobBuilder::new(&text)
            .literal_separator(false)
            .build()
            .map(|glob| glob.compile_matcher())
            .map_err(|error| error.kind().to_string());
        Self { text, compiled }
    }
}

impl From<&str> for Pattern {
    fn from(text: &str) -> Self {
        Self::from(text.to_owned())
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.text)
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Pattern {}

/// Whether a name matches one of the patterns; no pattern at all lets everything through.
#[must_use]
pub fn any(patterns: &[Pattern], name: &str) -> bool {
    patterns.is_empty() || patterns.iter().any(|pattern| pattern.matches(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, name: &str) -> bool {
        Pattern::from(pattern).matches(name)
    }

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
            (
                "arn:*:cluster/east",
                "arn:aws:eks:eu-west-1:123:cluster/east",
            ),
            ("c1/*", "c1/n1"),
            ("**", "a/b"),
            ("{east,west}-?", "west-1"),
        ] {
            assert!(matches(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in [
            ("", "east"),
            ("east?", "east"),
            ("e*x", "east"),
            ("EAST", "east"),
            (".*", "east"),
            ("e.st", "east"),
        ] {
            assert!(!matches(pattern, text), "{pattern} {text}");
        }
        assert!(any(&[], "east"));
        assert!(!any(&["west".into()], "east"));
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
            assert_eq!(Pattern::from(pattern).check(), Ok(()), "{pattern}");
        }
        for pattern in ["c[", "c[]", "[!]", "x[3-1]", "{a"] {
            let why = Pattern::from(pattern).check().expect_err(pattern);
            assert!(why.contains(pattern), "{why}");
        }
    }

    /// A pattern from outside takes time in proportion to the name, however it is made.
    #[test]
    fn a_pattern_that_is_made_to_be_slow_is_not() {
        let pattern = Pattern::from("a*".repeat(200) + "b");
        assert!(!pattern.matches(&"a".repeat(10_000)));
    }
}
