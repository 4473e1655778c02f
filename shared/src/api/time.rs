//! Timestamps as strings: RFC 3339, UTC.

use chrono::{DateTime, SecondsFormat, Utc};

use crate::domain::Timestamp;

/// Formats a timestamp as the API shows it: microseconds, `+00:00`.
pub fn rfc3339(at: Timestamp) -> String {
    utc(DateTime::from_timestamp_micros(at.0), false, SecondsFormat::Micros)
}

/// Formats nanoseconds since the epoch as in the logs: nanoseconds, `Z`, as Docker writes them.
pub fn rfc3339_nanos(nanos: i64) -> String {
    utc(Some(DateTime::from_timestamp_nanos(nanos)), true, SecondsFormat::Nanos)
}

/// Parses RFC 3339 with any offset and precision. Digits beyond microseconds are dropped.
pub fn parse_rfc3339(text: &str) -> Option<Timestamp> {
    DateTime::parse_from_rfc3339(text).ok().map(|at| Timestamp(at.timestamp_micros()))
}

fn utc(at: Option<DateTime<Utc>>, z: bool, format: SecondsFormat) -> String {
    // The calendar ends before `i64` does. A timestamp beyond the end is shown as the last one.
    at.unwrap_or(DateTime::<Utc>::MAX_UTC).to_rfc3339_opts(format, z)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_are_formatted_and_parsed() {
        assert_eq!(rfc3339(Timestamp(1_500_000_000_000_001)), "2017-07-14T02:40:00.000001+00:00");
        assert_eq!(rfc3339(Timestamp(0)), "1970-01-01T00:00:00.000000+00:00");
        assert_eq!(rfc3339_nanos(1_500_000_000_000_000_001), "2017-07-14T02:40:00.000000001Z");
        for text in
            ["2017-07-14T02:40:00.000001+00:00", "2017-07-14T04:40:00.000001+02:00", "2017-07-14T02:40:00.000001Z"]
        {
            assert_eq!(parse_rfc3339(text), Some(Timestamp(1_500_000_000_000_001)), "{text}");
        }
        for bad in ["", "yesterday", "2017-07-14", "2017-07-14T02:40:00", "2017-13-14T02:40:00Z"] {
            assert_eq!(parse_rfc3339(bad), None, "{bad:?}");
        }
        rfc3339(Timestamp(i64::MAX));
        rfc3339(Timestamp(i64::MIN));
    }
}
