//! Times of the wire: Unix milliseconds, and their ISO 8601 form.

/// `unix_ms` as ISO 8601 in UTC with milliseconds, e.g. `2026-01-31T12:00:00.000Z`. A time that no
/// calendar holds is clamped to the nearest one it does.
pub fn iso8601(unix_ms: u64) -> String {
    let ms = i64::try_from(unix_ms).unwrap_or(i64::MAX);
    let timestamp = jiff::Timestamp::from_millisecond(ms).unwrap_or(jiff::Timestamp::MAX);
    format!("{timestamp:.3}")
}

#[cfg(test)]
mod tests {
    #[test]
    fn writes_what_javascript_writes() {
        assert_eq!(super::iso8601(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(super::iso8601(1_767_225_600_120), "2026-01-01T00:00:00.120Z");
        assert!(super::iso8601(u64::MAX).starts_with("9999-"));
    }
}
