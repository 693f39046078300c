//! Moments as the Kubernetes API writes them (feature `kube`).

use k8s_openapi::jiff::Timestamp;

/// Seconds since 1970.
#[must_use]
pub fn seconds() -> i64 {
    Timestamp::now().as_second()
}

/// A moment as RFC 3339; the beginning of 1970 where it is out of any calendar's range.
#[must_use]
pub fn text(seconds: i64) -> String {
    Timestamp::from_second(seconds)
        .unwrap_or_default()
        .to_string()
}

/// Now, to the second.
#[must_use]
pub fn now() -> String {
    text(seconds())
}

/// Seconds since 1970 of a moment in RFC 3339; none of any other text.
#[must_use]
pub fn read(text: &str) -> Option<i64> {
    let moment: Timestamp = text.parse().ok()?;
    Some(moment.as_second())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        assert_eq!(text(1_798_761_600), "2027-01-01T00:00:00Z");
        assert_eq!(read("2027-01-01T01:00:00.25+01:00"), Some(1_798_761_600));
        for text in ["", "tomorrow", "2027-01-01", "2027-13-01T00:00:00Z"] {
            assert_eq!(read(text), None, "{text}");
        }
        assert_eq!(text(i64::MAX), "1970-01-01T00:00:00Z");
    }
}
