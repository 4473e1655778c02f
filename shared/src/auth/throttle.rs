//! How many tokens that turn out to be forged are looked at. A signature costs a thousand times the rest of a request: without
//! a limit, whoever sends forged tokens fast enough takes the processor from everybody else.

use std::time::Duration;

use crate::domain::Timestamp;

/// So many forged tokens at once cost nobody anything: a client that is misconfigured, a test.
const BURST: u32 = 100;
/// After that, one in this time.
const PERIOD: Duration = Duration::from_millis(50);

/// A limit on forged tokens, as the generic cell rate algorithm has it (ITU-T I.371): one number, no queue.
#[derive(Clone, Copy, Debug, Default)]
pub struct Throttle {
    /// When all that were seen would have come, had they come evenly.
    even: Option<Timestamp>,
}

impl Throttle {
    /// How long a token that is not known yet has to wait `now` before it is looked at. Nothing, unless too many before it
    /// were forged.
    pub fn wait(&self, now: Timestamp) -> Duration {
        let ahead = self.even.map_or(Duration::ZERO, |even| even.since(now));
        ahead.saturating_sub(PERIOD * BURST).min(PERIOD)
    }

    /// A token was forged.
    pub fn forged(&mut self, now: Timestamp) {
        let begin = self.even.map_or(now, |even| even.max(now));
        // Those that were let in together may all be forged; more than that is not held against those that come later.
        self.even = Some(begin.plus(PERIOD).min(now.plus(PERIOD * (BURST + 1))));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_free_and_then_they_come_evenly() {
        let (mut throttle, mut now) = (Throttle::default(), Timestamp(1_700_000_000_000_000));
        for number in 0..BURST {
            assert_eq!(throttle.wait(now), Duration::ZERO, "{number}");
            throttle.forged(now);
        }
        throttle.forged(now);
        let begin = now;
        for _ in 0..100 {
            let wait = throttle.wait(now);
            assert!(wait > Duration::ZERO && wait <= PERIOD, "{wait:?}");
            now = now.plus(wait);
            assert_eq!(throttle.wait(now), Duration::ZERO);
            throttle.forged(now);
        }
        assert_eq!(now.since(begin), PERIOD * 100);
        now = now.plus(PERIOD * BURST * 2);
        for _ in 0..BURST {
            assert_eq!(throttle.wait(now), Duration::ZERO, "it recovers");
            throttle.forged(now);
        }
    }

    #[test]
    fn a_clock_that_is_set_back_holds_nobody_up_for_long() {
        let mut throttle = Throttle::default();
        throttle.forged(Timestamp(1_700_000_000_000_000));
        let back = Timestamp(1_600_000_000_000_000);
        assert!(throttle.wait(back) <= PERIOD);
        throttle.forged(back);
        assert!(throttle.wait(back.plus(PERIOD)).is_zero());
    }
}
