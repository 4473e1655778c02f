//! Counts the requests that run in one instance, and its open requests and answers.
//!
//! Both are counted apart, because what is open for long mostly waits. A request that runs holds one of the few places
//! for those that run at the same time, and gives it up when it has taken [`Limits::place`](crate::Limits::place); it
//! stays open until the last byte of its answer has left, or its client has.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Waker;

use futures::task::AtomicWaker;

/// The counts of one instance.
#[derive(Default)]
pub(crate) struct Occupancy {
    running: AtomicUsize,
    open: AtomicUsize,
    /// The instance's task: it looks again whether it takes requests.
    worker: AtomicWaker,
}

impl Occupancy {
    /// Requests that hold a place.
    pub(crate) fn running(&self) -> usize {
        self.running.load(Ordering::Acquire)
    }

    /// Requests without an answer, and answers that have not ended.
    pub(crate) fn open(&self) -> usize {
        self.open.load(Ordering::Acquire)
    }

    /// Has `waker` called whenever something ends.
    pub(crate) fn watch(&self, waker: &Waker) {
        self.worker.register(waker);
    }
}

/// A request that runs.
pub(crate) struct Running(Arc<Occupancy>);

impl Running {
    pub(crate) fn new(occupancy: &Arc<Occupancy>) -> Self {
        occupancy.running.fetch_add(1, Ordering::AcqRel);
        Self(occupancy.clone())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::AcqRel);
        self.0.worker.wake();
    }
}

/// A request, or its answer, that is open.
pub(crate) struct Open(Arc<Occupancy>);

impl Open {
    pub(crate) fn new(occupancy: &Arc<Occupancy>) -> Self {
        occupancy.open.fetch_add(1, Ordering::AcqRel);
        Self(occupancy.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::AcqRel);
        self.0.worker.wake();
    }
}
