//! Time as an argument: the system's clock in production, a manual clock in tests and simulation.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use renga_shared::domain::Timestamp;
use tokio::sync::oneshot;

/// A source of time.
pub trait Clock: Send + Sync + 'static {
    /// Returns the present time.
    fn now(&self) -> Timestamp;

    /// Completes when `duration` has passed.
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()>;
}

/// The machine's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods, reason = "the one place of this program where the machine's clock is read")]
    fn now(&self) -> Timestamp {
        let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        Timestamp::from_epoch(since_epoch.unwrap_or_default())
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(duration))
    }
}

/// A clock that stands still until it is advanced.
#[derive(Clone, Debug)]
pub struct ManualClock(Arc<Mutex<Manual>>);

#[derive(Debug)]
struct Manual {
    now: Timestamp,
    sleepers: BinaryHeap<Sleeper>,
    asked: u64,
}

#[derive(Debug)]
struct Sleeper {
    until: Reverse<(Timestamp, u64)>,
    wake: oneshot::Sender<()>,
}

impl PartialEq for Sleeper {
    fn eq(&self, other: &Self) -> bool {
        self.until == other.until
    }
}
impl Eq for Sleeper {}
impl PartialOrd for Sleeper {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Sleeper {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.until.cmp(&other.until)
    }
}

impl ManualClock {
    /// Returns a clock that stands at `now`.
    pub fn new(now: Timestamp) -> Self {
        Self(Arc::new(Mutex::new(Manual { now, sleepers: BinaryHeap::new(), asked: 0 })))
    }

    /// Returns the time when the next sleeper is due to wake.
    pub fn next_wake(&self) -> Option<Timestamp> {
        let mut clock = self.lock();
        while clock.sleepers.peek().is_some_and(|sleeper| sleeper.wake.is_closed()) {
            clock.sleepers.pop();
        }
        clock.sleepers.peek().map(|sleeper| sleeper.until.0.0)
    }

    /// Advances the clock by `duration` and wakes, in order, all sleepers whose time has come.
    pub fn advance(&self, duration: Duration) {
        let mut clock = self.lock();
        clock.now = clock.now.plus(duration);
        while clock.sleepers.peek().is_some_and(|sleeper| sleeper.until.0.0 <= clock.now) {
            if let Some(sleeper) = clock.sleepers.pop() {
                // The sleeping future may have been dropped.
                let _ = sleeper.wake.send(());
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Manual> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        self.lock().now
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        let mut clock = self.lock();
        if duration.is_zero() {
            return Box::pin(std::future::ready(()));
        }
        clock.asked += 1;
        let until = Reverse((clock.now.plus(duration), clock.asked));
        let (wake, woken) = oneshot::channel();
        clock.sleepers.push(Sleeper { until, wake });
        Box::pin(async move {
            if woken.await.is_err() {
                // The clock was dropped, so no sleeper ever wakes.
                std::future::pending::<()>().await;
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn sleepers_wake_when_the_clock_is_moved_past_them() {
        let clock = ManualClock::new(Timestamp(0));
        let sleep = clock.sleep(Duration::from_secs(2));
        clock.advance(Duration::from_secs(1));
        let mut sleep = tokio_test_pending(sleep).await;
        clock.advance(Duration::from_secs(1));
        (&mut sleep).await;
        assert_eq!(clock.now(), Timestamp(2_000_000));
    }

    async fn tokio_test_pending(mut future: BoxFuture<'static, ()>) -> BoxFuture<'static, ()> {
        assert!(futures::poll!(&mut future).is_pending());
        future
    }
}
