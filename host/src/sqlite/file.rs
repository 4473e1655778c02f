//! One SQLite file: what is open of it, and the pooled connections that reads run on.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use super::statement::{self, BUSY_TIMEOUT};
use super::writer::Writer;
use crate::settings::WriteTurns;

/// Native connections that wait for their next read.
const IDLE_READERS: usize = 16;
/// Steps of SQLite's machine between two looks at the budget.
const STEPS: i32 = 500;
/// The budget of a read in place, in units of [`STEPS`]: some 20,000 steps, which take about half a millisecond.
const STEPS_IN_PLACE: u32 = 40;

/// A configured file. What is open of it is given up when another file is found in its place.
pub(super) struct Database {
    path: PathBuf,
    turns: Option<WriteTurns>,
    current: Mutex<Option<(FileId, Arc<Open>)>>,
}

/// Device and inode: a file that was deleted and made anew has the same name and another id.
type FileId = (u64, u64);

impl Database {
    pub(super) fn new(path: PathBuf, turns: Option<WriteTurns>) -> Self {
        Self { path, turns, current: Mutex::default() }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn check(&self) -> Result<(), String> {
        if let Some(folder) = self.path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            std::fs::create_dir_all(folder).map_err(|error| error.to_string())?;
        }
        statement::open(&self.path).map_err(|error| error.to_string())?;
        Ok(())
    }

    /// What is open of the file that is there now. As under Spin nothing is opened before the first statement.
    pub(super) fn open(&self) -> Arc<Open> {
        let mut current = lock(&self.current);
        let id = std::fs::metadata(&self.path).ok().map(|file| (file.dev(), file.ino()));
        match (&*current, id) {
            (Some((known, open)), Some(id)) if *known == id => return open.clone(),
            _ => {}
        }
        let open = Arc::new(Open {
            path: self.path.clone(),
            turns: self.turns.clone(),
            idle: Mutex::default(),
            writer: OnceLock::new(),
        });
        // A file that is not there yet is made by the first statement; until then nothing is worth keeping.
        *current = id.map(|id| (id, open.clone()));
        open
    }
}

/// What is open of one file.
pub(super) struct Open {
    path: PathBuf,
    turns: Option<WriteTurns>,
    idle: Mutex<Vec<Reader>>,
    writer: OnceLock<Writer>,
}

impl Open {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// A connection to read with; [`Open::give_back`] takes it for the next read.
    pub(super) fn reader(&self) -> rusqlite::Result<Reader> {
        if let Some(reader) = lock(&self.idle).pop() {
            return Ok(reader);
        }
        let native = statement::open(&self.path)?;
        let budget = Arc::new(AtomicU32::new(u32::MAX));
        let left = budget.clone();
        native.progress_handler(
            STEPS,
            Some(move || {
                let units = left.load(Ordering::Relaxed);
                left.store(units.saturating_sub(1), Ordering::Relaxed);
                units == 0
            }),
        )?;
        Ok(Reader { native, budget })
    }

    pub(super) fn give_back(&self, reader: Reader) {
        let mut idle = lock(&self.idle);
        if idle.len() < IDLE_READERS {
            idle.push(reader);
        }
    }

    pub(super) fn writer(&self) -> &Writer {
        self.writer.get_or_init(|| Writer::new(self.path.clone(), self.turns.clone()))
    }
}

/// A pooled connection. Its steps are counted against a budget, so that a read in place ends.
pub(super) struct Reader {
    pub native: rusqlite::Connection,
    budget: Arc<AtomicU32>,
}

/// How much a read may do.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Effort {
    /// Little, and no waiting for locks.
    InPlace,
    Unbounded,
}

impl Reader {
    /// Sets what the next statement may do, and what `last_insert_rowid()` is to it.
    pub(super) fn prepare_for(&self, effort: Effort, last_rowid: i64) -> rusqlite::Result<()> {
        let (units, wait) = match effort {
            Effort::InPlace => (STEPS_IN_PLACE, Duration::ZERO),
            Effort::Unbounded => (u32::MAX, BUSY_TIMEOUT),
        };
        self.budget.store(units, Ordering::Relaxed);
        statement::set_last_insert_rowid(&self.native, last_rowid);
        self.native.busy_timeout(wait)
    }
}

/// A poisoned lock guards nothing that a panic could have left half done here.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
