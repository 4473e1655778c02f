//! A fake engine that runs nothing but behaves like a real one. Its objects change state by the given clock, do what
//! their scripts say (`script.rs`), fail on request, and can be lost.
//!
//! The engine's state ([`FakeWorld`]) is separate from the adapters ([`FakeEngine`]) that use it, so that it outlives a
//! reconciler: a test drops one reconciler, and the next finds the same objects. As `fake://` it lives as long as the
//! process. With a manual clock its calls determine everything in it. An idle object costs nothing: it has no task and
//! no timer.

mod engine;
mod script;
mod state;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use renga_shared::domain::{ExecutionId, Timestamp};
use renga_shared::placement::Capacity;
use renga_shared::sql::logs::LogStream;

pub use self::engine::FakeEngine;
use self::script::End;
use self::state::State;
use super::{EngineError, EngineSettings, LogEntry, ObjectState};
use crate::clock::Clock;
use crate::random::Random;

/// A call to the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Operation {
    /// [`Engine::probe`](super::Engine::probe)
    Probe,
    /// [`Engine::prepare`](super::Engine::prepare)
    Prepare,
    /// [`Engine::create`](super::Engine::create)
    Create,
    /// [`Engine::start`](super::Engine::start)
    Start,
    /// [`Engine::inspect`](super::Engine::inspect)
    Inspect,
    /// [`Engine::stop`](super::Engine::stop)
    Stop,
    /// [`Engine::remove`](super::Engine::remove)
    Remove,
    /// [`Engine::list`](super::Engine::list)
    List,
    /// [`Engine::logs`](super::Engine::logs), for each entry
    Logs,
    /// [`Engine::events`](super::Engine::events), for each event
    Events,
}

/// An injected fault of one call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The call does nothing and fails.
    Fails(EngineError),
    /// The call is done, but its answer is lost.
    AnswerLost,
    /// The call is done only in part, and fails with this error.
    Halfway(EngineError),
    /// The call does nothing and gets no answer.
    Hangs,
}

/// The state of a fake engine: its objects and its injected faults.
#[derive(Clone)]
pub struct FakeWorld {
    clock: Arc<dyn Clock>,
    state: Arc<Mutex<State>>,
}

impl FakeWorld {
    /// Returns an engine without objects, in the time of `clock`.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        let world = Self { clock, state: Arc::default() };
        world.set_capacity(Capacity::NotReported);
        world
    }

    /// Returns a deployment's adapter for this engine.
    pub fn engine(&self, settings: &EngineSettings) -> FakeEngine {
        FakeEngine::new(self.clone(), settings.clone())
    }

    /// Injects a fault into the next call of this kind, after the faults that were injected earlier.
    pub fn fail_next(&self, operation: Operation, fault: Fault) {
        self.lock().faults.next.entry(operation).or_default().push_back(fault);
    }

    /// Injects a random fault into one call in `one_in`, or into none if `one_in` is 0.
    pub fn fail_randomly(&self, one_in: u64, random: Random) {
        self.lock().faults.random = (one_in > 0).then_some((one_in, random));
    }

    /// Delays each call of this kind.
    pub fn delay(&self, operation: Operation, by: Duration) {
        self.lock().faults.delays.insert(operation, by);
    }

    /// Removes all injected faults and delays.
    pub fn forget_faults(&self) {
        self.lock().faults = state::Faults::default();
    }

    /// The capacity that the engine tells of. Without it, it tells of none.
    pub fn set_capacity(&self, capacity: Capacity) {
        self.lock().capacity = capacity;
    }

    /// Makes the engine unreachable or reachable again. Its objects run on meanwhile.
    pub fn set_down(&self, down: bool) {
        self.lock().set_down(down);
    }

    /// Removes an object as if from outside. Returns `false` if there is none.
    pub fn lose(&self, execution: ExecutionId) -> bool {
        let mut state = self.settled();
        let object = state.object_of(execution);
        object.is_some_and(|object| state.remove(&object))
    }

    /// Ends a running object now with this exit code. Returns `false` if it does not run.
    pub fn end(&self, execution: ExecutionId, code: i64) -> bool {
        let now = self.clock.now();
        let mut state = self.settled();
        let object = state.object_of(execution);
        object.is_some_and(|object| state.end(&object, End::Code(code), now))
    }

    /// Writes output of a running object now. Returns `false` if it does not run.
    pub fn write(&self, execution: ExecutionId, stream: LogStream, bytes: impl Into<Bytes>) -> bool {
        let now = self.clock.now();
        let mut state = self.settled();
        let object = state.object_of(execution);
        object.is_some_and(|object| state.write(&object, stream, bytes.into(), now))
    }

    /// Returns the number of starts of each execution, including executions whose objects are gone.
    pub fn starts(&self) -> BTreeMap<ExecutionId, u32> {
        self.lock().starts.clone()
    }

    /// Returns the number of starts of this execution.
    pub fn starts_of(&self, execution: ExecutionId) -> u32 {
        self.lock().starts.get(&execution).copied().unwrap_or_default()
    }

    /// Returns the state of an execution's object and all its output so far, or `None` if there is no object.
    pub fn object(&self, execution: ExecutionId) -> Option<(ObjectState, Vec<LogEntry>)> {
        let now = self.clock.now();
        let state = self.settled();
        let found = state.get(&state.object_of(execution)?)?;
        Some((found.state.clone(), found.entries[..found.written(now)].to_vec()))
    }

    /// Returns the executions that have an object.
    pub fn objects(&self) -> Vec<ExecutionId> {
        self.settled().executions()
    }

    /// Returns the time when the next object ends by itself.
    pub fn next_end(&self) -> Option<Timestamp> {
        self.settled().next_end()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Locks the state after all due changes are made.
    fn settled(&self) -> MutexGuard<'_, State> {
        let now = self.clock.now();
        let mut state = self.lock();
        state.settle(now);
        state
    }
}
