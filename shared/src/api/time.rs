//! Instants as text: RFC 3339, UTC.

use chrono::{DateTime, SecondsFormat, Utc};

use crate::domain::Timestamp;

/// An instant as the API shows it: microseconds, `+00:00`.
pub fn rfc3339(at: Timestamp) -> String {
    utc(DateTime::from_timestamp_micros(at.0), false, SecondsFormat::Micros)
}

/// An instant in nanoseconds since the epoch, as the logs show it: nanoseconds, `Z`, as Docker writes them.
pub fn rfc3339_nanos(nanos: i64) -> String {
    utc(Some(DateTime::from_timestamp_nanos(nanos)), true, SecondsFormat::Nanos)
}

/// Reads RFC 3339, with any offset and precision.
pub fn parse_rfc3339(text: &str) -> Option<Timestamp> {
    DateTime::parse_from_rfc3339(text).ok().map(|at| Timestamp(at.timestamp_micros()))
}

fn utc(at: Option<DateTime<Utc>>, z: bool, format: SecondsFormat) -> String {
    // Years beyond the calendar's end cannot be stored; if one is met, its nearest neighbour is shown.
    at.unwrap_or(DateTime::<Utc>::MAX_UTC).to_rfc3339_opts(format, z)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_are_written_and_read() {
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
