//! An engine that runs nothing, but behaves: its objects move through their states by the clock that it is given, do
//! what their scripts say (`script.rs`), fail on request, and can be lost.
//!
//! The world is apart from the engines that look at it, so that it outlives a reconciler: a test drops one, and the next
//! finds the same objects. As `fake://` it lives with the process. With a clock that is moved by hand everything in it is
//! determined by what is asked of it. An object costs nothing while nothing happens to it: no task, no timer.

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

/// What an engine can be asked.
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

/// How a call goes wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing is done.
    Fails(EngineError),
    /// It is done, but the answer is lost.
    AnswerLost,
    /// It is done, but not all that belongs to it: this is the answer.
    Halfway(EngineError),
    /// Nothing is done and there is no answer.
    Hangs,
}

/// A world of objects.
#[derive(Clone)]
pub struct FakeWorld {
    clock: Arc<dyn Clock>,
    state: Arc<Mutex<State>>,
}

impl FakeWorld {
    /// An empty world in the time of `clock`.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        let world = Self { clock, state: Arc::default() };
        world.set_capacity(Capacity::NotReported);
        world
    }

    /// A deployment's look at this world.
    pub fn engine(&self, settings: &EngineSettings) -> FakeEngine {
        FakeEngine::new(self.clone(), settings.clone())
    }

    /// Has the next call of this kind that meets no earlier fault go wrong.
    pub fn fail_next(&self, operation: Operation, fault: Fault) {
        self.lock().faults.next.entry(operation).or_default().push_back(fault);
    }

    /// Has one call in `one_in` go wrong, in some way; none for 0.
    pub fn fail_randomly(&self, one_in: u64, random: Random) {
        self.lock().faults.random = (one_in > 0).then_some((one_in, random));
    }

    /// Has calls of this kind take so long.
    pub fn delay(&self, operation: Operation, by: Duration) {
        self.lock().faults.delays.insert(operation, by);
    }

    /// Nothing goes wrong any more, as far as it was told to by these.
    pub fn forget_faults(&self) {
        self.lock().faults = state::Faults::default();
    }

    /// The capacity that the engine tells of. Without it, it tells of none.
    pub fn set_capacity(&self, capacity: Capacity) {
        self.lock().capacity = capacity;
    }

    /// Whether the engine is away. What runs there goes on.
    pub fn set_down(&self, down: bool) {
        self.lock().set_down(down);
    }

    /// Removes an object behind everybody's back. `false`: there is none.
    pub fn lose(&self, execution: ExecutionId) -> bool {
        let mut state = self.settled();
        let object = state.object_of(execution);
        object.is_some_and(|object| state.remove(&object))
    }

    /// Has an object that runs end now with this code. `false`: it does not run.
    pub fn end(&self, execution: ExecutionId, code: i64) -> bool {
        let now = self.clock.now();
        let mut state = self.settled();
        let object = state.object_of(execution);
        object.is_some_and(|object| state.end(&object, End::Code(code), now))
    }

    /// Has an object that runs write something now. `false`: it does not run.
    pub fn write(&self, execution: ExecutionId, stream: LogStream, bytes: impl Into<Bytes>) -> bool {
        let now = self.clock.now();
        let mut state = self.settled();
        let object = state.object_of(execution);
        object.is_some_and(|object| state.write(&object, stream, bytes.into(), now))
    }

    /// How often each execution was started, also of those whose objects are gone.
    pub fn starts(&self) -> BTreeMap<ExecutionId, u32> {
        self.lock().starts.clone()
    }

    /// How often this execution was started.
    pub fn starts_of(&self, execution: ExecutionId) -> u32 {
        self.lock().starts.get(&execution).copied().unwrap_or_default()
    }

    /// What the object of an execution does, and all that it has written. `None`: there is none.
    pub fn object(&self, execution: ExecutionId) -> Option<(ObjectState, Vec<LogEntry>)> {
        let now = self.clock.now();
        let state = self.settled();
        let found = state.get(&state.object_of(execution)?)?;
        Some((found.state.clone(), found.entries[..found.written(now)].to_vec()))
    }

    /// The executions that have an object.
    pub fn objects(&self) -> Vec<ExecutionId> {
        self.settled().executions()
    }

    /// When an object will next end by itself.
    pub fn next_end(&self) -> Option<Timestamp> {
        self.settled().next_end()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state in which everything that was due has happened.
    fn settled(&self) -> MutexGuard<'_, State> {
        let now = self.clock.now();
        let mut state = self.lock();
        state.settle(now);
        state
    }
}
