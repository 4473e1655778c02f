//! The state of a fake engine, and its changes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use renga_shared::api::PortBody;
use renga_shared::domain::{ExecutionId, Timestamp};
use renga_shared::placement::Capacity;
use renga_shared::sql::logs::LogStream;
use tokio::sync::{Notify, mpsc};

use super::script::{End, Script};
use super::{Fault, Operation};
use crate::engine::{EngineError, EngineEvent, Exit, LogEntry, ObjectState};
use crate::random::Random;

/// The first published port, and the number of ports.
const FIRST_PORT: u64 = 30_000;
const PORTS: u64 = 30_000;

/// A fake object.
#[derive(Debug)]
pub(super) struct FakeObject {
    pub(super) execution: ExecutionId,
    pub(super) deployment: String,
    pub(super) created: Timestamp,
    pub(super) state: ObjectState,
    pub(super) ports: Vec<PortBody>,
    /// The script, or the step that does not exist.
    pub(super) script: Result<Script, String>,
    /// The output so far and, in order, the output to come.
    pub(super) entries: Vec<LogEntry>,
    /// Notified of every change.
    pub(super) changed: Arc<Notify>,
}

impl FakeObject {
    /// Returns the number of entries written until `now`.
    pub(super) fn written(&self, now: Timestamp) -> usize {
        self.entries.partition_point(|entry| entry.nanos < nanos(now).saturating_add(1_000))
    }
}

/// The injected faults and delays.
#[derive(Debug, Default)]
pub(super) struct Faults {
    pub(super) next: BTreeMap<Operation, VecDeque<Fault>>,
    pub(super) random: Option<(u64, Random)>,
    pub(super) delays: BTreeMap<Operation, Duration>,
}

impl Faults {
    /// Returns the fault of the present call, if any, and consumes it.
    pub(super) fn take(&mut self, operation: Operation) -> Option<Fault> {
        if let Some(fault) = self.next.get_mut(&operation).and_then(VecDeque::pop_front) {
            return Some(fault);
        }
        let (one_in, random) = self.random.as_ref()?;
        let number = random.number();
        if !number.is_multiple_of(*one_in) {
            return None;
        }
        let why = renga_shared::domain::Why::new("EngineError", "The engine could not do it: as it was told.");
        Some(match number / one_in % 3 {
            0 => Fault::Fails(EngineError::Retry(why)),
            1 => Fault::Fails(EngineError::Down("it went away, as it was told".into())),
            _ => Fault::AnswerLost,
        })
    }
}

/// The state of a fake engine.
#[derive(Debug, Default)]
pub(super) struct State {
    objects: BTreeMap<String, FakeObject>,
    names: BTreeMap<ExecutionId, String>,
    /// The objects that will end by themselves, ordered by time.
    ends: BTreeSet<(Timestamp, String)>,
    listeners: Vec<(String, mpsc::UnboundedSender<EngineEvent>)>,
    made: u64,
    published: u64,
    pub(super) pulled: BTreeSet<String>,
    pub(super) starts: BTreeMap<ExecutionId, u32>,
    pub(super) faults: Faults,
    pub(super) down: bool,
    /// The capacity that it tells of.
    pub(super) capacity: Capacity,
}

impl State {
    pub(super) fn get(&self, object: &str) -> Option<&FakeObject> {
        self.objects.get(object)
    }

    pub(super) fn object_of(&self, execution: ExecutionId) -> Option<String> {
        self.names.get(&execution).cloned()
    }

    pub(super) fn all(&self) -> impl Iterator<Item = (&String, &FakeObject)> {
        self.objects.iter()
    }

    pub(super) fn executions(&self) -> Vec<ExecutionId> {
        self.names.keys().copied().collect()
    }

    pub(super) fn next_end(&self) -> Option<Timestamp> {
        self.ends.first().map(|(at, _)| *at)
    }

    /// Ends all objects whose end is due.
    pub(super) fn settle(&mut self, now: Timestamp) {
        while self.ends.first().is_some_and(|(at, _)| *at <= now) {
            let Some((at, object)) = self.ends.pop_first() else { return };
            let end = self.objects.get(&object).and_then(|found| found.script.as_ref().ok()?.end);
            if let Some((_, end)) = end {
                self.end(&object, end, at);
            }
        }
    }

    pub(super) fn create(
        &mut self,
        execution: ExecutionId,
        deployment: &str,
        script: Result<Script, String>,
        ports: Vec<PortBody>,
        now: Timestamp,
    ) -> String {
        self.made += 1;
        let object = format!("fake-{:08}", self.made);
        let made = FakeObject {
            execution,
            deployment: deployment.to_owned(),
            created: now,
            state: ObjectState::Created,
            ports,
            script,
            entries: Vec::new(),
            changed: Arc::default(),
        };
        self.objects.insert(object.clone(), made);
        self.names.insert(execution, object.clone());
        self.tell(&object);
        object
    }

    /// Starts an object that was never started.
    pub(super) fn start(&mut self, object: &str, now: Timestamp) {
        let Some(found) = self.objects.get_mut(object) else { return };
        let Ok(script) = &found.script else { return };
        let mut last = i64::MIN;
        found.entries = script
            .writes
            .iter()
            .map(|write| {
                // Simultaneous entries get different times, as with a real engine.
                last = nanos(now.plus(write.after)).max(last.saturating_add(1));
                LogEntry { stream: write.stream, nanos: last, bytes: write.bytes.clone() }
            })
            .collect();
        if let Some((after, _)) = script.end {
            self.ends.insert((now.plus(after), object.to_owned()));
        }
        found.state = ObjectState::Running { started: now };
        for port in &mut found.ports {
            port.exposed = (FIRST_PORT + self.published % PORTS).to_string();
            self.published += 1;
        }
        *self.starts.entry(found.execution).or_default() += 1;
        self.tell(object);
    }

    /// Ends a running object. Returns `false` if it does not run.
    pub(super) fn end(&mut self, object: &str, end: End, at: Timestamp) -> bool {
        let Some(found) = self.objects.get_mut(object) else { return false };
        let ObjectState::Running { started } = found.state else { return false };
        let (code, out_of_memory) = match end {
            End::Code(code) => (code, false),
            End::OutOfMemory => (137, true),
        };
        let written = found.written(at);
        found.entries.truncate(written);
        found.state =
            ObjectState::Exited(Exit { code, out_of_memory, started: Some(started), finished: at, error: None });
        self.forget_end(object);
        self.tell(object);
        true
    }

    pub(super) fn write(&mut self, object: &str, stream: LogStream, bytes: Bytes, now: Timestamp) -> bool {
        let Some(found) = self.objects.get_mut(object) else { return false };
        if !matches!(found.state, ObjectState::Running { .. }) {
            return false;
        }
        let written = found.written(now);
        let last = written.checked_sub(1).map_or(i64::MIN, |last| found.entries[last].nanos);
        let entry = LogEntry { stream, nanos: nanos(now).max(last.saturating_add(1)), bytes };
        found.entries.insert(written, entry);
        found.changed.notify_waiters();
        true
    }

    pub(super) fn remove(&mut self, object: &str) -> bool {
        if !self.objects.contains_key(object) {
            return false;
        }
        self.forget_end(object);
        self.tell(object);
        if let Some(gone) = self.objects.remove(object) {
            self.names.remove(&gone.execution);
        }
        true
    }

    pub(super) fn set_down(&mut self, down: bool) {
        self.down = down;
        if down {
            self.listeners.clear();
            for object in self.objects.values() {
                object.changed.notify_waiters();
            }
        }
    }

    pub(super) fn listen(&mut self, deployment: &str) -> mpsc::UnboundedReceiver<EngineEvent> {
        let (tell, told) = mpsc::unbounded_channel();
        self.listeners.push((deployment.to_owned(), tell));
        told
    }

    fn forget_end(&mut self, object: &str) {
        let end = self.objects.get(object).and_then(|found| match (&found.state, &found.script) {
            (
                ObjectState::Running { started } | ObjectState::Exited(Exit { started: Some(started), .. }),
                Ok(script),
            ) => script.end.map(|(after, _)| started.plus(after)),
            _ => None,
        });
        if let Some(at) = end {
            self.ends.remove(&(at, object.to_owned()));
        }
    }

    /// Notifies all subscribers of a change of an object.
    fn tell(&mut self, object: &str) {
        let Some(found) = self.objects.get(object) else { return };
        found.changed.notify_waiters();
        let event = EngineEvent::Changed(found.execution);
        self.listeners.retain(|(deployment, tell)| *deployment != found.deployment || tell.send(event).is_ok());
    }
}

/// Converts a time to nanoseconds since the Unix epoch.
pub(super) fn nanos(at: Timestamp) -> i64 {
    at.0.saturating_mul(1_000)
}
