//! The writer of one SQLite file: many components' writes in one transaction.
//!
//! Obligations:
//! - A write is answered after the commit that holds it, and each write has its own outcome: one that fails (a broken
//!   constraint, a missing table) leaves the others as they are. SQLite undoes a failed statement by itself.
//! - A transaction takes what is waiting and never waits for more, so that a lone write is as fast as without it and
//!   many share one `fsync`.
//! - When a statement ends the whole transaction (`OR ROLLBACK`, a full disk), or the commit finds a constraint
//!   broken, nothing of the transaction has happened: each write is then done again in a transaction of its own.
//! - Who else writes to the file in this process gets its turn: [`WriteTurns`] serves in the order in which they come,
//!   where the lock alone would go to whoever has just committed. Nobody waits for another process while it is its turn.
//! - While another process holds the lock, each write waits its own 5 s and is then told that the database is locked.
//!   Without shared turns the other writer is another process, and the lock is left alone for a moment after each
//!   commit, so that a process that polls finds it free.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode};
use tokio::sync::{MutexGuard, oneshot};

use super::connection::Last;
use super::read::collect;
use super::statement::{self, BUSY_TIMEOUT, io, is_busy};
use crate::bindings::sqlite::sqlite::{Error, QueryResult, Value};
use crate::settings::WriteTurns;

/// Writes in one transaction, so that the first of them does not wait for ever.
const BATCH: usize = 512;
/// Between two looks whether another process has let go of the lock.
const LOCK_POLL: Duration = Duration::from_millis(1);
/// The pause after a commit in which another process, which polls, finds the lock free.
const COMMIT_PAUSE: Duration = Duration::from_millis(2);

/// One write.
pub(super) struct Job {
    sql: String,
    parameters: Vec<Value>,
    last_rowid: i64,
    queued: Instant,
    answer: oneshot::Sender<Result<Written, Error>>,
}

/// What a write came to.
pub(super) struct Written {
    pub result: QueryResult,
    pub last: Last,
}

impl Job {
    pub(super) fn new(
        sql: String,
        parameters: Vec<Value>,
        last_rowid: i64,
        answer: oneshot::Sender<Result<Written, Error>>,
    ) -> Self {
        Self { sql, parameters, last_rowid, queued: Instant::now(), answer }
    }

    fn answer(self, outcome: Result<Written, Error>) {
        // A component that was stopped does not listen any more; its write has happened all the same.
        _ = self.answer.send(outcome);
    }

    fn run(&self, native: &Connection) -> Result<Written, Error> {
        statement::set_last_insert_rowid(native, self.last_rowid);
        let mut prepared = native.prepare_cached(&self.sql).map_err(|error| io(&error))?;
        let result = collect(&mut prepared, &self.parameters)?;
        Ok(Written { result, last: Last { rowid: native.last_insert_rowid(), changes: native.changes() } })
    }
}

/// The way to a file's writer. Its thread ends with it.
pub(super) struct Writer(Sender<Job>);

impl Writer {
    pub(super) fn new(path: PathBuf, turns: Option<WriteTurns>) -> Self {
        let (to, jobs) = channel();
        let work = Work { turns };
        let spawned = thread::Builder::new().name("sqlite-writer".to_owned()).spawn(move || work.run(&path, &jobs));
        if let Err(error) = spawned {
            // The receiver is gone with the closure: every write is answered as interrupted.
            tracing::error!(%error, "no thread for writes to SQLite");
        }
        Self(to)
    }

    pub(super) fn send(&self, job: Job) {
        // If the thread is gone the job is dropped, and with it its answer: the caller notices.
        _ = self.0.send(job);
    }
}

/// What the writer's thread does.
struct Work {
    /// The turns that other writers of this process share, if there are any.
    turns: Option<WriteTurns>,
}

impl Work {
    fn run(&self, path: &Path, jobs: &Receiver<Job>) {
        let mut native = None;
        while let Ok(first) = jobs.recv() {
            let mut batch = vec![first];
            batch.extend(jobs.try_iter().take(BATCH - 1));
            let connection = match native.take().map_or_else(|| statement::open(path), Ok) {
                Ok(connection) => connection,
                Err(error) => {
                    answer_all(batch, &io(&error));
                    continue;
                }
            };
            self.write(&connection, batch, Some(jobs));
            native = Some(connection);
            if self.turns.is_none() {
                thread::sleep(COMMIT_PAUSE);
            }
        }
    }

    /// Does a batch and answers every job of it. While the lock is waited for, more jobs join from the queue.
    fn write(&self, native: &Connection, mut batch: Vec<Job>, queue: Option<&Receiver<Job>>) {
        let Some(turn) = self.begin(native, &mut batch, queue) else { return };
        let mut outcomes = Vec::with_capacity(batch.len());
        for job in &batch {
            outcomes.push(job.run(native));
            if native.is_autocommit() {
                drop(turn);
                // The statement took the transaction, and all before it, with itself.
                return if batch.len() > 1 { self.write_singly(native, batch) } else { answer_each(batch, outcomes) };
            }
        }
        let committed = run_plain(native, "COMMIT");
        if committed.is_err() {
            roll_back(native);
        }
        drop(turn);
        let Err(error) = committed else {
            return answer_each(batch, outcomes);
        };
        if batch.len() > 1 && error.sqlite_error_code() == Some(ErrorCode::ConstraintViolation) {
            return self.write_singly(native, batch);
        }
        answer_all(batch, &io(&error));
    }

    fn write_singly(&self, native: &Connection, batch: Vec<Job>) {
        for job in batch {
            self.write(native, vec![job], None);
        }
    }

    /// Begins a transaction for the jobs of the batch, which lasts as long as the turn. Those that have waited long
    /// enough for the lock leave the batch with the error; if none is left, or there is another error, there is no
    /// transaction.
    fn begin(
        &self,
        native: &Connection,
        batch: &mut Vec<Job>,
        queue: Option<&Receiver<Job>>,
    ) -> Option<Option<MutexGuard<'_, ()>>> {
        loop {
            let turn = self.turns.as_deref().map(tokio::sync::Mutex::blocking_lock);
            if let Some(queue) = queue {
                batch.extend(queue.try_iter().take(BATCH.saturating_sub(batch.len())));
            }
            // The lock is polled here, and not by SQLite, so that each job has its own deadline.
            let begun = native.busy_timeout(Duration::ZERO).and_then(|()| run_plain(native, "BEGIN IMMEDIATE"));
            let begun = begun.and_then(|()| native.busy_timeout(BUSY_TIMEOUT));
            let Err(error) = begun else { return Some(turn) };
            if !is_busy(&error) {
                roll_back(native);
                answer_all(std::mem::take(batch), &io(&error));
                return None;
            }
            drop(turn);
            thread::sleep(LOCK_POLL);
            let late = |job: &mut Job| job.queued.elapsed() >= BUSY_TIMEOUT;
            answer_all(batch.extract_if(.., late).collect(), &io(&error));
            if batch.is_empty() {
                return None;
            }
        }
    }
}

fn run_plain(native: &Connection, sql: &str) -> rusqlite::Result<()> {
    native.prepare_cached(sql)?.execute([]).map(drop)
}

fn roll_back(native: &Connection) {
    if !native.is_autocommit()
        && let Err(error) = native.execute_batch("ROLLBACK")
    {
        tracing::error!(%error, "a transaction of SQLite could not be rolled back");
    }
}

fn answer_each(batch: Vec<Job>, outcomes: Vec<Result<Written, Error>>) {
    batch.into_iter().zip(outcomes).for_each(|(job, outcome)| job.answer(outcome));
}

fn answer_all(batch: Vec<Job>, error: &Error) {
    batch.into_iter().for_each(|job| job.answer(Err(error.clone())));
}
