//! The wait before a retry.

use std::time::Duration;

const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(60);

/// Returns the wait after the `attempts`th failure: one second, doubled each time up to a minute, with "equal jitter":
/// half of it is fixed, `random` decides the rest, so that calls that failed together are not retried together.
pub fn after(attempts: i64, random: u64) -> Duration {
    let doublings = u32::try_from(attempts.clamp(1, 16) - 1).unwrap_or(0);
    let whole = FIRST.saturating_mul(1 << doublings).min(LONGEST);
    let half = whole / 2;
    let spread = u64::try_from(half.as_micros()).unwrap_or(u64::MAX).max(1);
    half + Duration::from_micros(random % spread)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_limit_and_are_never_zero() {
        for random in [0, 1, u64::MAX] {
            assert!(after(1, random) >= FIRST / 2 && after(1, random) <= FIRST);
            assert!(after(3, random) >= FIRST * 2 && after(3, random) <= FIRST * 4);
            assert!(after(i64::MAX, random) >= LONGEST / 2 && after(i64::MAX, random) <= LONGEST);
        }
    }
}
