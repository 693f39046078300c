//! `Warning` headers of an API server (RFC 7234, section 5.5): said once each, safe to print, and not without end.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use http::HeaderMap;

use super::words;

/// The code of what a Kubernetes API server warns of; others are of caches between.
const CODE: &str = "299";
/// How many different ones are told of a cluster.
const MOST: usize = 10;

/// Who is told what a server warns of.
#[derive(Clone)]
pub(crate) struct Warnings(Arc<Told>);

struct Told {
    tell: Box<dyn Fn(String) + Send + Sync>,
    seen: Mutex<BTreeSet<String>>,
}

impl Warnings {
    pub(crate) fn new(tell: impl Fn(String) + Send + Sync + 'static) -> Self {
        Self(Arc::new(Told {
            tell: Box::new(tell),
            seen: Mutex::default(),
        }))
    }

    /// Nobody is told.
    pub(super) fn unheard() -> Self {
        Self::new(drop)
    }

    /// Takes in the head of an answer.
    pub(super) fn hear(&self, headers: &HeaderMap) {
        for value in headers.get_all(http::header::WARNING) {
            // A header may hold bytes of any encoding; what is no UTF-8 is replaced like what a terminal obeys.
            let text = String::from_utf8_lossy(value.as_bytes());
            for warning in texts(&text) {
                self.tell(words(&warning));
            }
        }
    }

    fn tell(&self, warning: String) {
        let told = &self.0;
        let mut seen = told.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if warning.is_empty() || seen.len() > MOST || !seen.insert(warning.clone()) {
            return;
        }
        let is_last = seen.len() > MOST;
        drop(seen);
        (told.tell)(if is_last {
            "its API server has further warnings, which are not shown".to_owned()
        } else {
            format!("its API server warns: {warning}")
        });
    }
}

/// The texts of a header's values, each `299 agent "text" "date"`, separated by commas. What is otherwise is skipped to the
/// next comma outside of a text.
fn texts(header: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = header.trim_start();
    while !rest.is_empty() {
        let mut head = rest.splitn(3, ' ');
        let (code, _agent, after) = (head.next(), head.next(), head.next());
        let mut parsed = after.and_then(quoted);
        if let Some((text, after)) = parsed.take_if(|_| code == Some(CODE)) {
            found.push(text);
            rest = after;
        }
        // To the next value: a date may follow in quotes, which hold a comma.
        let mut is_quoted = false;
        let end = rest.find(|c: char| {
            is_quoted ^= c == '"';
            c == ',' && !is_quoted
        });
        rest = end.map_or("", |end| rest[end + 1..].trim_start());
    }
    found
}

/// A quoted text and what follows it.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut chars = text.strip_prefix('"')?.char_indices();
    let mut out = String::new();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((out, &text[at + 2..])),
            '\\' => out.push(chars.next()?.1),
            c => out.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use proptest::prelude::*;

    #[test]
    fn values_are_read_as_servers_write_them() {
        for (header, expected) in [
            ("299 - \"a\"", vec!["a"]),
            ("299 - \"say \\\"a\\\", \\\\ b\"", vec!["say \"a\", \\ b"]),
            (
                "299 - \"a, b\" \"Sat, 25 Aug 2012 23:34:45 GMT\", 299 host \"c\"",
                vec!["a, b", "c"],
            ),
            ("110 - \"Response is stale\", 299 - \"a\"", vec!["a"]),
            ("299 - \"no end", vec![]),
            ("299 -", vec![]),
            ("", vec![]),
            (",,,", vec![]),
        ] {
            assert_eq!(texts(header), expected, "{header}");
        }
    }

    #[test]
    fn each_is_told_once_and_ten_at_most() {
        let told: Arc<Mutex<Vec<String>>> = Arc::default();
        let heard = Arc::clone(&told);
        let warnings = Warnings::new(move |text| heard.lock().expect("no panic").push(text));
        for round in 0..2 {
            for number in 0..20 {
                let mut headers = HeaderMap::new();
                let value = format!("299 - \"\u{9b}31m {}\"", number.min(number + round));
                let value = HeaderValue::from_bytes(value.as_bytes()).expect("bytes");
                headers.append(http::header::WARNING, value);
                warnings.hear(&headers);
            }
        }
        let told = told.lock().expect("no panic");
        assert_eq!(told.len(), 11, "{told:?}");
        assert_eq!(told[0], "its API server warns: \u{fffd}31m 0");
        assert!(told[10].contains("further"), "{told:?}");
    }

    proptest! {
        #[test]
        fn no_header_is_too_much(header in "[ -~]{0,80}|(299 [a-]{0,2} ?\"?[\\\\\", a]{0,9}\"?,? ?){0,4}") {
            let all: usize = texts(&header).iter().map(String::len).sum();
            prop_assert!(all <= header.len());
        }
    }
}
