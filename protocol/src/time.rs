//! Times of the wire: Unix milliseconds, and their ISO 8601 form.

/// `unix_ms` as ISO 8601 in UTC with milliseconds, e.g. `2026-01-31T12:00:00.000Z`. A time that no
/// calendar holds is clamped to the nearest one it does.
pub fn iso8601(unix_ms: u64) -> String {
    let ms = i64::try_from(unix_ms).unwrap_or(i64::MAX);
    let timestamp = jiff::Timestamp::from_millisecond(ms).unwrap_or(jiff::Timestamp::MAX);
    format!("{timestamp:.3}")
}

/// Unix milliseconds of an ISO 8601 time; `None` if it is none, or before 1970.
pub fn parse_iso8601(text: &str) -> Option<u64> {
    let timestamp: jiff::Timestamp = text.parse().ok()?;
    u64::try_from(timestamp.as_millisecond()).ok()
}

/// A calendar month of UTC, for what is counted by the month.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Month {
    /// Months since January of the year 0.
    pub number: u16,
    /// When it ends, in Unix milliseconds.
    pub end_ms: u64,
    /// When it began, in Unix milliseconds.
    pub start_ms: u64,
}

impl Month {
    /// The month of a time.
    pub fn of(unix_ms: u64) -> Self {
        let ms = i64::try_from(unix_ms).unwrap_or(i64::MAX);
        let timestamp = jiff::Timestamp::from_millisecond(ms).unwrap_or(jiff::Timestamp::MAX);
        let first = timestamp.to_zoned_datetime(jiff::tz::TimeZone::UTC).date().first_of_month();
        let number = u16::try_from(i32::from(first.year()) * 12 + i32::from(first.month()) - 1);
        let next = first.checked_add(jiff::Span::new().months(1)).unwrap_or(jiff::civil::Date::MAX);
        let ms_of = |date: jiff::civil::Date| {
            let start = date.to_zoned_datetime(jiff::tz::TimeZone::UTC).ok()?;
            u64::try_from(start.timestamp().as_millisecond()).ok()
        };
        let start_ms = ms_of(first).unwrap_or_default();
        let end_ms = ms_of(next).unwrap_or(u64::MAX);
        Self { number: number.unwrap_or_default(), end_ms, start_ms }
    }
}

impl std::fmt::Display for Month {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:04}-{:02}", self.number / 12, self.number % 12 + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn months_are_those_of_the_calendar() {
        let end = parse_iso8601("2027-01-01T00:00:00Z").unwrap();
        for (text, name) in
            [("2026-12-01T00:00:00Z", "2026-12"), ("2026-12-31T23:59:59.999Z", "2026-12")]
        {
            let month = Month::of(parse_iso8601(text).unwrap());
            assert_eq!((month.to_string().as_str(), month.end_ms), (name, end));
        }
        assert_eq!(Month::of(end).to_string(), "2027-01");
        assert!(Month::of(end) > Month::of(end - 1));
        assert_eq!(parse_iso8601("yesterday"), None);
    }

    #[test]
    fn writes_what_javascript_writes() {
        assert_eq!(iso8601(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(iso8601(1_767_225_600_120), "2026-01-01T00:00:00.120Z");
        assert!(iso8601(u64::MAX).starts_with("9999-"));
    }
}
