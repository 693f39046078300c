//! Text from outside, made safe to print at the moment it comes in.
//!
//! Names, reasons, rows, plugin output and replayed reports are written by strangers. A terminal obeys escape sequences, a
//! reader is fooled by characters that reverse the order of a line, a table is spoilt by a word of a megabyte. What has
//! become [`Printable`] can do none of that, so whoever prints it need not think of it.

use std::borrow::Cow;
use std::fmt;
use std::ops::Deref;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The greatest number of characters of a [`Printable`] that is made by [`Printable::new`].
pub const LONGEST: usize = 512;

/// What stands for each character that is not printed.
const REPLACEMENT: char = char::REPLACEMENT_CHARACTER;

/// One line of text without control characters (C0, C1), without characters that change direction or are invisible, and of
/// bounded length. Deserializing makes it so, too.
///
/// ```
/// use datapath::printable::Printable;
///
/// assert_eq!(Printable::new("n1\u{1b}[31m\u{202e}").as_str(), "n1\u{fffd}[31m\u{fffd}");
/// assert_eq!(Printable::new("two\nlines").as_str(), "two lines");
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Printable(Box<str>);

impl Printable {
    /// At most [`LONGEST`] characters of it.
    #[must_use]
    pub fn new(raw: &str) -> Self {
        Self::bounded(raw, LONGEST)
    }

    /// At most `longest` characters of it; the last is an ellipsis where it was longer.
    #[must_use]
    pub fn bounded(raw: &str, longest: usize) -> Self {
        Self(printable(raw, longest).into())
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// `raw` as one safe line of at most `longest` characters, borrowed where it already is one.
#[must_use]
pub fn printable(raw: &str, longest: usize) -> Cow<'_, str> {
    // A character has at least one byte, so that a short text needs no counting.
    let fits = raw.len() <= longest || raw.chars().nth(longest).is_none();
    if fits
        && !raw
            .chars()
            .any(|c| is_dangerous(c) || c.is_whitespace() && c != ' ')
    {
        return Cow::Borrowed(raw);
    }
    let safe = |c: char| match c {
        '\n' | '\t' | '\r' => ' ',
        c if is_dangerous(c) => REPLACEMENT,
        c if c.is_whitespace() => ' ',
        c => c,
    };
    if fits {
        return Cow::Owned(raw.chars().map(safe).collect());
    }
    let mut text: String = raw
        .chars()
        .take(longest.saturating_sub(1))
        .map(safe)
        .collect();
    text.push('…');
    Cow::Owned(text)
}

/// Whether a character may do something to a terminal or a reader other than being seen: control characters, those of
/// direction and of no width (Unicode's Cf, its variation selectors and tags), line and paragraph separators, what no
/// standard gives a meaning.
#[must_use]
pub const fn is_dangerous(c: char) -> bool {
    matches!(
        c,
        '\0'..='\u{1f}'
            | '\u{7f}'..='\u{9f}'
            | '\u{ad}'
            | '\u{34f}'
            | '\u{600}'..='\u{605}'
            | '\u{61c}'
            | '\u{6dd}'
            | '\u{70f}'
            | '\u{115f}'
            | '\u{1160}'
            | '\u{17b4}'
            | '\u{17b5}'
            | '\u{180b}'..='\u{180f}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{3164}'
            | '\u{fe00}'..='\u{fe0f}'
            | '\u{feff}'
            | '\u{ffa0}'
            | '\u{fff0}'..='\u{fffb}'
            | '\u{110bd}'
            | '\u{1bca0}'..='\u{1bca3}'
            | '\u{1d173}'..='\u{1d17a}'
            | '\u{e0000}'..='\u{10ffff}'
            | '\u{e000}'..='\u{f8ff}'
    )
}

/// Whether it is a name that Kubernetes gives to an object: an RFC 1123 subdomain, at most 253 characters.
#[must_use]
pub fn is_object_name(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_dns_label)
}

/// Whether it is an RFC 1123 label: 1 to 63 lower-case letters, digits and hyphens, with no hyphen at either end.
#[must_use]
pub fn is_dns_label(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    !text.is_empty()
        && text.len() <= 63
        && text.bytes().all(|byte| inner(byte) || byte == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

impl Deref for Printable {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for Printable {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Printable {
    fn from(raw: &str) -> Self {
        Self::new(raw)
    }
}

impl From<String> for Printable {
    fn from(raw: String) -> Self {
        match printable(&raw, LONGEST) {
            Cow::Borrowed(_) => Self(raw.into_boxed_str()),
            Cow::Owned(safe) => Self(safe.into()),
        }
    }
}

impl From<Printable> for String {
    fn from(text: Printable) -> Self {
        text.0.into()
    }
}

impl PartialEq<str> for Printable {
    fn eq(&self, other: &str) -> bool {
        *self.0 == *other
    }
}

impl PartialEq<&str> for Printable {
    fn eq(&self, other: &&str) -> bool {
        *self.0 == **other
    }
}

impl fmt::Display for Printable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl Serialize for Printable {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Printable {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self::from(String::deserialize(deserializer)?))
    }
}

/// Why a file could not be read or written, in the system's words without its number.
#[must_use]
pub fn io_reason(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => "no such file or directory".to_owned(),
        kind => kind.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_harmless_stays_as_it_is() {
        for text in ["", "n1", "größer → 東京", "a b"] {
            assert_eq!(Printable::new(text).as_str(), text);
        }
    }

    #[test]
    fn nothing_a_terminal_obeys_comes_through() {
        let raw = "\u{1b}]0;pwned\u{7}\u{1b}[2J\r\n\u{9b}31m\u{202e}gnp.exe\u{200b}";
        assert_eq!(
            Printable::new(raw).as_str(),
            "\u{fffd}]0;pwned\u{fffd}\u{fffd}[2J  \u{fffd}31m\u{fffd}gnp.exe\u{fffd}"
        );
        let json: Printable = serde_json::from_str(r#""a\u001b[31m""#).expect("a string");
        assert_eq!(json.as_str(), "a\u{fffd}[31m");
    }

    #[test]
    fn names_are_those_of_the_api_server() {
        for good in ["n1", "ip-10-0-0-1.eu-west-1.compute.internal", "a"] {
            assert!(is_object_name(good), "{good}");
        }
        for bad in [
            "",
            "N1",
            "n1:",
            "-a",
            "a-",
            "a..b",
            "a b",
            "n1\n",
            &"a".repeat(64),
        ] {
            assert!(!is_object_name(bad), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn printable_text_is_safe_bounded_and_stays_so(raw in "\\PC{0,40}|(?s).{0,60}", longest in 1_usize..50) {
            let once = printable(&raw, longest).into_owned();
            prop_assert!(once.chars().count() <= longest);
            prop_assert!(!once.chars().any(is_dangerous));
            prop_assert_eq!(printable(&once, longest).into_owned(), once);
        }
    }
}
