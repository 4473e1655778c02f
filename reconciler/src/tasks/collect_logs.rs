//! Stores what executions write, as they write it.
//!
//! Obligations: in order, every byte once, whatever is restarted; at least every quarter of a second or 64 KiB; capped:
//! the first and the last half of the limit are kept. An execution's end is recorded only after its logs are stored, so
//! that who follows them knows when to stop.
//!
//! A collector that goes on after another asks again for the last moment of what is stored, and leaves out what it finds
//! there: an engine may give the entries of two streams slightly out of order, so the time alone does not tell.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use futures::future::{BoxFuture, OptionFuture};
use renga_shared::domain::{EngineName, ExecutionId};
use renga_shared::sql::DatabaseError;
use renga_shared::sql::logs::{self, Chunk, Frame, LogStream, Size};
use tokio::task::JoinHandle;

use super::Context;
use crate::backoff;
use crate::engine::{EngineError, LogEntry};
use crate::engines::Served;

/// What is written at least this often.
const FLUSH_AFTER: Duration = Duration::from_millis(250);
/// What is written at once.
const FLUSH_BYTES: usize = 64 * 1024;
/// How long an ended object may keep its logs to itself before its end is recorded without them.
const DRAIN_PATIENCE: Duration = Duration::from_secs(60);
/// A collector that fails after so long has failed for the first time.
const HEALTHY_AFTER: Duration = Duration::from_secs(60);
/// How far two entries may be out of order.
const OVERLAP_NANOS: i64 = 20_000_000;
/// How often a failed write is tried before the collector leaves it to its successor.
const WRITE_TRIES: u32 = 5;

/// What stops a collector before the end of the logs.
#[derive(Debug, thiserror::Error)]
pub enum CollectError {
    /// The database did not take them.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// The engine did not give them.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// The collectors of this process, at most one for each execution.
#[derive(Clone, Debug, Default)]
pub struct Collectors(Arc<Mutex<HashMap<ExecutionId, Collector>>>);

/// A collector, at work or done. Dropped, it stops.
#[derive(Debug)]
struct Collector {
    /// Where the logs come from.
    engine: EngineName,
    /// Tells whether everything is stored.
    task: JoinHandle<bool>,
    /// How often collectors of this execution have failed in a row.
    failures: Arc<AtomicI64>,
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Collectors {
    /// Sees that a collector is at work. When it ends, the execution is looked at: it has ended, or is to be collected
    /// anew.
    pub fn ensure(&self, context: &Context, served: &Served, id: ExecutionId, object: String) {
        let engine = served.name.clone();
        let mut collectors = self.lock();
        let failures = match collectors.get(&id) {
            Some(collector) if !collector.task.is_finished() => return,
            Some(collector) => Arc::clone(&collector.failures),
            None => Arc::default(),
        };
        let (context, served, failed) = (context.clone(), served.clone(), Arc::clone(&failures));
        let task = tokio::spawn(async move {
            let began = context.now();
            match collect(&context, &served, id, &object).await {
                Ok(whole) => {
                    context.nudge(id);
                    whole
                }
                Err(error) => {
                    tracing::debug!(execution = %id, %error, "the logs of {id} are not collected for now: {error}");
                    // Who was at work for a while begins anew.
                    if context.now().since(began) > HEALTHY_AFTER {
                        failed.store(0, Ordering::Release);
                    }
                    let failures = failed.fetch_add(1, Ordering::AcqRel) + 1;
                    context.nudge_after(backoff::after(failures, context.random.number()), id);
                    false
                }
            }
        });
        // The one before is done: stopping it changes nothing.
        collectors.insert(id, Collector { engine, task, failures });
    }

    /// Ends the collector of an execution, if there is one, and waits until it is gone.
    pub async fn abort(&self, id: ExecutionId) {
        if let Some(mut collector) = self.take(id) {
            collector.task.abort();
            // Aborted or done: either is the end of it.
            let _ = (&mut collector.task).await;
        }
    }

    /// The executions that are collected from an engine, or were until their collectors ended.
    pub fn of(&self, engine: &EngineName) -> Vec<ExecutionId> {
        self.lock().iter().filter(|(_, collector)| collector.engine == *engine).map(|(id, _)| *id).collect()
    }

    /// Ends the collectors of executions that this reconciler no longer looks after.
    pub fn forget(&self, ids: impl IntoIterator<Item = ExecutionId>) {
        let mut collectors = self.lock();
        for id in ids {
            collectors.remove(&id);
        }
    }

    /// Ends all collectors.
    pub fn abort_all(&self) {
        self.lock().clear();
    }

    fn take(&self, id: ExecutionId) -> Option<Collector> {
        self.lock().remove(&id)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<ExecutionId, Collector>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Stores the rest of the logs of an object that has ended, or is gone. `false`: it is not all of them, since the engine
/// keeps the rest to itself.
pub async fn drain(context: &Context, served: &Served, id: ExecutionId, object: String) -> Result<bool, CollectError> {
    let patience = context.clock.sleep(DRAIN_PATIENCE);
    let rest = async {
        // The collector ends with the object. What it left, if it failed, is collected here.
        if let Some(mut collector) = context.collectors.take(id)
            && matches!((&mut collector.task).await, Ok(true))
        {
            return Ok(true);
        }
        collect(context, served, id, &object).await
    };
    tokio::select! {
        biased;
        collected = rest => collected,
        () = patience => Ok(false),
    }
}

/// Collects from where the stored logs end until the object has ended. `false`: these logs are no longer this
/// reconciler's to store, or are wanted by nobody.
async fn collect(context: &Context, served: &Served, id: ExecutionId, object: &str) -> Result<bool, CollectError> {
    served.available().map_err(|why| EngineError::Down(why.message))?;
    let mut store = Store::resume(context, id).await?;
    let mut entries = served.engine.logs(object, store.since);
    let mut flush: Option<BoxFuture<'static, ()>> = None;
    loop {
        let entry = tokio::select! {
            biased;
            Some(()) = OptionFuture::from(flush.as_mut()) => None,
            entry = entries.next() => Some(entry),
        };
        match entry {
            None => {
                flush = None;
                if !store.flush().await? {
                    return Ok(false);
                }
            }
            Some(None) => return Ok(store.flush().await?),
            Some(Some(Err(error))) => {
                store.flush().await?;
                served.heard(Err(error))?;
            }
            Some(Some(Ok(entry))) => {
                let full = store.add(&entry);
                if full {
                    flush = None;
                    if !store.flush().await? {
                        return Ok(false);
                    }
                } else if flush.is_none() && store.waits() {
                    flush = Some(context.clock.sleep(FLUSH_AFTER));
                }
            }
        }
    }
}

/// What tells a frame from others.
type Key = (i64, bool, Vec<u8>);

fn key(frame: Frame<'_>) -> Key {
    (frame.nanos, frame.stream == LogStream::Stdout, frame.bytes.to_vec())
}

/// The stored logs of one execution, and what is to be stored next.
struct Store<'a> {
    context: &'a Context,
    id: ExecutionId,
    /// The chunk that is being filled.
    next: Chunk,
    /// From when on to ask the engine.
    since: i64,
    /// What is stored from then on, and how often: left out when the engine gives it again.
    stored: HashMap<Key, usize>,
    /// The chunks after the first half, which may be cut.
    tail: VecDeque<Size>,
    tail_bytes: i64,
    head_bytes: i64,
    /// The last chunk of the first half.
    head_end: i64,
}

impl<'a> Store<'a> {
    async fn resume(context: &'a Context, id: ExecutionId) -> Result<Self, DatabaseError> {
        let empty = Chunk { sequence: 1, start: 0, length: 0, last_nanos: 0, frames: Vec::new() };
        let mut store = Self {
            context,
            id,
            next: empty,
            since: 0,
            stored: HashMap::new(),
            tail: VecDeque::new(),
            tail_bytes: 0,
            head_bytes: 0,
            head_end: 0,
        };
        for size in logs::sizes(&context.db, id).await? {
            store.count(size);
        }
        let mut before = i64::MAX;
        while let Some(chunk) = logs::before(&context.db, id, before, 1).await?.pop() {
            if before == i64::MAX {
                store.next.sequence = chunk.sequence + 1;
                store.next.start = chunk.start + chunk.length;
                store.next.last_nanos = chunk.last_nanos;
                store.since = chunk.last_nanos - OVERLAP_NANOS;
            }
            for frame in Frame::decode(&chunk.frames).filter(|frame| frame.nanos >= store.since) {
                *store.stored.entry(key(frame)).or_default() += 1;
            }
            if chunk.last_nanos < store.since {
                break;
            }
            before = chunk.sequence;
        }
        Ok(store)
    }

    fn waits(&self) -> bool {
        self.next.length > 0
    }

    /// Takes an entry, unless it is stored already. Returns whether it is time to write.
    fn add(&mut self, entry: &LogEntry) -> bool {
        let frame = Frame { stream: entry.stream, nanos: entry.nanos, bytes: &entry.bytes };
        if !self.stored.is_empty()
            && let Some(times) = self.stored.get_mut(&key(frame))
            && *times > 0
        {
            *times -= 1;
            return false;
        }
        frame.encode(&mut self.next.frames);
        self.next.length += i64::try_from(entry.bytes.len()).unwrap_or(i64::MAX);
        self.next.last_nanos = self.next.last_nanos.max(entry.nanos);
        self.next.frames.len() >= FLUSH_BYTES
    }

    /// Writes what waits. `false`: these logs are somebody else's now, or wanted by nobody.
    async fn flush(&mut self) -> Result<bool, DatabaseError> {
        if self.next.frames.is_empty() {
            return Ok(true);
        }
        let mut tries = 0;
        loop {
            tries += 1;
            match logs::append(&self.context.db, &self.context.id, self.id, self.next.clone()).await {
                Ok(true) => break,
                Ok(false) if tries > 1 => {
                    // An earlier try may have been carried out and its answer lost.
                    let last = logs::before(&self.context.db, self.id, i64::MAX, 1).await?.pop();
                    if last.as_ref() == Some(&self.next) {
                        break;
                    }
                    return Ok(false);
                }
                Ok(false) => return Ok(false),
                Err(DatabaseError::Unavailable(_)) if tries < WRITE_TRIES => {
                    self.context.clock.sleep(Duration::from_millis(200) * tries).await;
                }
                Err(error) => return Err(error),
            }
        }
        self.context.metrics.logged(self.next.length);
        let Chunk { sequence, length, last_nanos, .. } = self.next;
        self.count(Size { sequence, length, last_nanos });
        self.next = Chunk {
            sequence: self.next.sequence + 1,
            start: self.next.start + self.next.length,
            length: 0,
            last_nanos: self.next.last_nanos,
            frames: Vec::new(),
        };
        self.cut().await?;
        Ok(true)
    }

    /// Counts a chunk that is stored.
    fn count(&mut self, size: Size) {
        if self.head_bytes < self.context.settings.log_limit / 2 {
            self.head_bytes += size.length;
            self.head_end = size.sequence;
        } else {
            self.tail.push_back(size);
            self.tail_bytes += size.length;
        }
    }

    /// Cuts out of the middle what is more than the limit, except for the last moment, by which a successor knows what it
    /// need not store again.
    async fn cut(&mut self) -> Result<(), DatabaseError> {
        let mut last = None;
        while self.head_bytes + self.tail_bytes > self.context.settings.log_limit
            && let Some(cut) = self.tail.pop_front_if(|size| size.last_nanos < self.next.last_nanos - OVERLAP_NANOS)
        {
            self.tail_bytes -= cut.length;
            last = Some(cut.sequence);
        }
        match last {
            Some(last) => logs::cut(&self.context.db, &self.context.id, self.id, self.head_end, last).await,
            None => Ok(()),
        }
    }
}
