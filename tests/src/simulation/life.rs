//! The life of a simulated process. Whatever it does to the world passes here, and here it is delayed, frozen or killed.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use renga_reconciler::clock::{Clock, ManualClock};
use renga_shared::domain::Timestamp;

use super::dice::Dice;

/// A process's life.
#[derive(Clone, Debug)]
pub(super) struct Life {
    clock: ManualClock,
    dice: Dice,
    inner: Arc<Mutex<Inner>>,
    deeds: Arc<Deeds>,
}

/// What a process does to the world.
#[derive(Clone, Copy, Debug)]
pub(super) enum Deed {
    Statement,
    Call,
}

/// Counts what all processes do: twice, before and after.
#[derive(Debug, Default)]
pub(super) struct Deeds {
    statements: AtomicU64,
    calls: AtomicU64,
}

impl Deeds {
    fn count(&self, deed: Deed) -> &AtomicU64 {
        match deed {
            Deed::Statement => &self.statements,
            Deed::Call => &self.calls,
        }
    }

    pub(super) fn of(&self, deed: Deed) -> u64 {
        self.count(deed).load(Ordering::Relaxed)
    }

    pub(super) fn all(&self) -> u64 {
        self.of(Deed::Statement) + self.of(Deed::Call)
    }
}

#[derive(Debug, Default)]
struct Inner {
    dead: bool,
    /// How many more passages it lives.
    left: Option<u64>,
    frozen_until: Timestamp,
    /// Whether calls take time, now and then more than a lease.
    slow: bool,
}

impl Life {
    pub(super) fn new(clock: ManualClock, dice: Dice, slow: bool, deeds: Arc<Deeds>) -> Self {
        let inner = Inner { slow, ..Inner::default() };
        Self { clock, dice, inner: Arc::new(Mutex::new(inner)), deeds }
    }

    /// Goes on, sooner or later. Never, if the process is dead: then nothing that it would have done next is done.
    pub(super) async fn pass(&self, deed: Deed) {
        loop {
            match self.delay() {
                Some(Duration::ZERO) => break,
                Some(delay) => self.clock.sleep(delay).await,
                None => std::future::pending().await,
            }
        }
        for _ in 0..self.dice.below(3) {
            tokio::task::yield_now().await;
        }
        if self.lock().dead {
            std::future::pending::<()>().await;
        }
        self.deeds.count(deed).fetch_add(1, Ordering::Relaxed);
    }

    /// `None`: for ever.
    fn delay(&self) -> Option<Duration> {
        let mut inner = self.lock();
        let now = self.clock.now();
        if inner.frozen_until > now {
            return Some(inner.frozen_until.since(now));
        }
        if let Some(left) = inner.left {
            inner.dead |= left == 0;
            inner.left = Some(left.saturating_sub(1));
        }
        if inner.dead {
            return None;
        }
        if inner.slow && self.dice.one_in(30) {
            drop(inner);
            let most = if self.dice.one_in(20) { 25_000 } else { 300 };
            return Some(Duration::from_millis(1 + self.dice.below(most)));
        }
        Some(Duration::ZERO)
    }

    /// Kills the process after so many passages, as `kill -9` would.
    pub(super) fn kill_after(&self, passages: u64) {
        self.lock().left = Some(passages);
    }

    pub(super) fn is_dead(&self) -> bool {
        self.lock().dead
    }

    /// Stops the process until then, as `SIGSTOP` would.
    pub(super) fn freeze(&self, until: Timestamp) {
        self.lock().frozen_until = until;
    }

    /// From here on it lives undisturbed, unless it is dead.
    pub(super) fn calm_down(&self) {
        let mut inner = self.lock();
        *inner = Inner { dead: inner.dead, ..Inner::default() };
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
