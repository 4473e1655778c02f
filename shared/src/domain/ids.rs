//! Identifiers and timestamps. Both are made from arguments: the caller passes the current time and the random bytes.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A point in time: microseconds since the Unix epoch, UTC.
///
/// Microseconds, because both databases store them and the API shows them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// Returns the time `duration` after the epoch; saturates.
    pub fn from_epoch(duration: Duration) -> Self {
        Self(i64::try_from(duration.as_micros()).unwrap_or(i64::MAX))
    }

    /// Returns this time plus `duration`; saturates.
    pub fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)))
    }

    /// Returns this time minus `duration`; saturates.
    pub fn minus(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)))
    }

    /// Returns the time since `earlier`; zero if `earlier` is later, as after a clock was set back.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

/// Returns a UUID of version 7 (RFC 9562, section 5.7) that sorts by `now`, to a quarter of a microsecond.
///
/// The twelve bits after the version hold the fraction of the millisecond (method 3 of the RFC). Lists therefore sort
/// by id alone. `random` supplies the other 62 bits.
pub fn uuid_at(now: Timestamp, random: [u8; 8]) -> Uuid {
    let micros = u64::try_from(now.0).unwrap_or(0);
    let fraction = u16::try_from((micros % 1_000) * 4_096 / 1_000).unwrap_or(0);
    let mut tail = [0; 10];
    tail[..2].copy_from_slice(&fraction.to_be_bytes());
    tail[2..].copy_from_slice(&random);
    uuid::Builder::from_unix_timestamp_millis(micros / 1_000, &tail).into_uuid()
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl $name {
            /// Returns a new id for an object created at `now`.
            pub fn new(now: Timestamp, random: [u8; 8]) -> Self {
                Self(uuid_at(now, random))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.as_hyphenated().fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Uuid::parse_str(text).map(Self)
            }
        }
    };
}

id! {
    /// The id of a context.
    ContextId
}
id! {
    /// The id of an execution. The name of its object in the engine is derived from it.
    ExecutionId
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_sort_by_age_within_a_millisecond() {
        let earlier = ExecutionId::new(Timestamp(1_700_000_000_000_001), [0xff; 8]);
        let later = ExecutionId::new(Timestamp(1_700_000_000_000_002), [0; 8]);
        assert!(earlier < later);
        assert!(earlier.to_string() < later.to_string());
        assert_eq!(earlier.0.get_version_num(), 7);
    }

    #[test]
    fn durations_are_not_negative_after_a_clock_was_set_back() {
        assert_eq!(Timestamp(1).since(Timestamp(5)), Duration::ZERO);
        assert_eq!(Timestamp(i64::MAX).plus(Duration::from_secs(1)), Timestamp(i64::MAX));
    }
}
