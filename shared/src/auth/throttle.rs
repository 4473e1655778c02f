//! A rate limit on the time spent on forged signatures. One costs as much as the rest of a request, or several times as
//! much: without a limit, a client that sends forged tokens fast enough takes the processor from all others. If the
//! limit is too low, new valid tokens have to wait, because a check is needed to tell them from forged ones.
//!
//! Each instance of a component has its own limit, because instances share no memory, and a host may have dozens: the
//! processor must bear the sum of all limits. The limit counts wall time, because one algorithm takes several times as
//! long as another. On a busy machine each check takes longer, so fewer are allowed.

use std::time::Duration;

use crate::domain::Timestamp;

/// The time that may be spent at once without a wait, for a misconfigured client or a test.
const BURST: Duration = Duration::from_millis(10);
/// After the burst, an instance may spend one part in `SHARE` of its time.
const SHARE: u32 = 50;
/// The maximum that one token counts. A check takes less, unless the clock was set.
const MOST: Duration = Duration::from_millis(5);

/// A rate limit on forged tokens: GCRA, the generic cell rate algorithm (ITU-T I.371). It needs one number and no
/// queue.
#[derive(Clone, Copy, Debug, Default)]
pub struct Throttle {
    /// The theoretical arrival time of GCRA.
    even: Option<Timestamp>,
}

impl Throttle {
    /// Returns how long a token that is not in the cache has to wait at `now` before it is checked. Zero, unless too
    /// much time was spent on forged tokens.
    pub fn wait(&self, now: Timestamp) -> Duration {
        let ahead = self.even.map_or(Duration::ZERO, |even| even.since(now));
        ahead.saturating_sub(BURST * SHARE).min(MOST * SHARE)
    }

    /// Records that a forged token took this long to be rejected.
    pub fn forged(&mut self, now: Timestamp, took: Duration) {
        let begin = self.even.map_or(now, |even| even.max(now));
        // Tokens that were admitted together may all be forged. The cap keeps later tokens from waiting for more than
        // that.
        self.even = Some(begin.plus(took.min(MOST) * SHARE).min(now.plus((BURST + MOST) * SHARE)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Timestamp = Timestamp(1_700_000_000_000_000);
    const TOOK: Duration = Duration::from_millis(1);

    #[test]
    fn a_burst_is_free_and_then_the_rate_is_limited() {
        let (mut throttle, mut now) = (Throttle::default(), START);
        for number in 0..10 {
            assert_eq!(throttle.wait(now), Duration::ZERO, "{number}");
            throttle.forged(now, TOOK);
        }
        throttle.forged(now, TOOK);
        let begin = now;
        for _ in 0..100 {
            let wait = throttle.wait(now);
            assert!(wait > Duration::ZERO && wait <= TOOK * SHARE, "{wait:?}");
            now = now.plus(wait);
            assert_eq!(throttle.wait(now), Duration::ZERO);
            throttle.forged(now, TOOK);
        }
        assert_eq!(now.since(begin), TOOK * SHARE * 100);
        now = now.plus(BURST * SHARE * 2);
        for _ in 0..10 {
            assert_eq!(throttle.wait(now), Duration::ZERO, "it recovers");
            throttle.forged(now, TOOK);
        }
    }

    #[test]
    fn slower_checks_are_allowed_less_often() {
        let mut throttle = Throttle::default();
        let mut looked_at = 0;
        while throttle.wait(START).is_zero() {
            throttle.forged(START, TOOK * 4);
            looked_at += 1;
        }
        assert_eq!(looked_at, 3);
        assert_eq!(throttle.wait(START), TOOK * 2 * SHARE);
    }

    #[test]
    fn a_clock_that_is_set_causes_only_a_short_wait() {
        let mut throttle = Throttle::default();
        throttle.forged(START, Duration::from_secs(100_000));
        assert!(throttle.wait(START).is_zero());
        let back = Timestamp(1_600_000_000_000_000);
        assert!(throttle.wait(back) <= MOST * SHARE);
        throttle.forged(back, TOOK);
        assert!(throttle.wait(back.plus(MOST * SHARE)).is_zero());
    }
}
