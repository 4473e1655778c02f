//! How much time is spent on signatures that turn out to be forged. One costs as much as the rest of a request, or several
//! times as much: without a limit, whoever sends forged tokens fast enough takes the processor from everybody else. A limit
//! that is too low makes those wait whose good tokens are new, since nobody can tell them from forged ones.
//!
//! Each instance of a component keeps a limit of its own, since they share no memory, and a host may have dozens: what all of
//! them allow together is what the processor must bear. It is time that is counted, as it passes on the wall: one algorithm
//! takes several times as long as another, and on a machine that is busy anyway everything takes longer, so that less is done.

use std::time::Duration;

use crate::domain::Timestamp;

/// So much at once costs nobody anything: a client that is misconfigured, a test.
const BURST: Duration = Duration::from_millis(10);
/// After that, one part in so many of an instance's time.
const SHARE: u32 = 50;
/// What one token counts at most: more than any takes, unless the clock was set.
const MOST: Duration = Duration::from_millis(5);

/// A limit on forged tokens, as the generic cell rate algorithm has it (ITU-T I.371): one number, no queue.
#[derive(Clone, Copy, Debug, Default)]
pub struct Throttle {
    /// When all that was spent would have been spent, had it been spent evenly.
    even: Option<Timestamp>,
}

impl Throttle {
    /// How long a token that is not known yet has to wait `now` before it is looked at. Nothing, unless too much was spent on
    /// forged ones.
    pub fn wait(&self, now: Timestamp) -> Duration {
        let ahead = self.even.map_or(Duration::ZERO, |even| even.since(now));
        ahead.saturating_sub(BURST * SHARE).min(MOST * SHARE)
    }

    /// A token was forged, and it took so long to find that out.
    pub fn forged(&mut self, now: Timestamp, took: Duration) {
        let begin = self.even.map_or(now, |even| even.max(now));
        // Those that were let in together may all be forged; more than that is not held against those that come later.
        self.even = Some(begin.plus(took.min(MOST) * SHARE).min(now.plus((BURST + MOST) * SHARE)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Timestamp = Timestamp(1_700_000_000_000_000);
    const TOOK: Duration = Duration::from_millis(1);

    #[test]
    fn a_burst_is_free_and_then_they_take_their_share() {
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
    fn what_takes_longer_is_looked_at_less() {
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
    fn a_clock_that_is_set_holds_nobody_up_for_long() {
        let mut throttle = Throttle::default();
        throttle.forged(START, Duration::from_secs(100_000));
        assert!(throttle.wait(START).is_zero());
        let back = Timestamp(1_600_000_000_000_000);
        assert!(throttle.wait(back) <= MOST * SHARE);
        throttle.forged(back, TOOK);
        assert!(throttle.wait(back.plus(MOST * SHARE)).is_zero());
    }
}
