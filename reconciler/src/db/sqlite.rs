//! SQLite over sqlx.
//!
//! One connection writes; the others read, which in WAL mode nobody blocks. Writes that wait for it go together in one
//! transaction: they share a flush to disk, and take once the lock that the API waits for meanwhile.
//!
//! **Turns.** SQLite's own way to wait for a lock is to sleep, up to a tenth of a second at a time, and whoever has
//! just committed is there first when it is free. So writers in one process share a [`WriteTurns`], which serves them
//! in the order in which they come. Without shared turns the other writer is another process, which is not in that
//! queue: the lock is polled, and left alone for a moment after each commit, so that a process that polls finds it
//! free. A writer cannot know whether another one waits.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use renga_shared::sql::{Database, DatabaseError, Dialect, Row, Value};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqlitePoolOptions, SqliteRow, SqliteSynchronous};
use sqlx::{AssertSqlSafe, Connection as _, Row as _, SqlitePool, TypeInfo as _, ValueRef as _};
use tokio::sync::{mpsc, oneshot};

use super::{reads, sort};

/// How long a statement waits for a lock that another process holds.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Between two looks whether another process has let go of the lock.
const LOCK_POLL: Duration = Duration::from_millis(1);
/// The pause after a commit in which another process, which polls, finds the lock free.
const COMMIT_PAUSE: Duration = Duration::from_millis(2);
/// How long a statement waits for a connection.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);
const READERS: u32 = 3;
/// How long a file is taken for the same without a look.
const SAME_FILE_FOR: Duration = Duration::from_millis(20);
/// Writes in one transaction, so that neither the first of them nor the API, whose turn is next, waits for long.
const BATCH: usize = 32;

/// The turns of those who write to one file in this process.
pub type WriteTurns = Arc<tokio::sync::Mutex<()>>;

/// A SQLite file. When another is found in its place (it was restored, or deleted and made anew), what is open of the old
/// one is given up: the API opens the new one too.
#[derive(Clone, Debug)]
pub struct SqliteDatabase {
    path: PathBuf,
    turns: Option<WriteTurns>,
    current: Arc<Mutex<Current>>,
}

/// What is open, and of which file.
#[derive(Debug)]
struct Current {
    file: Option<FileId>,
    /// When the file was last looked at.
    looked: Option<Instant>,
    pools: Pools,
}

/// Connections to one file.
#[derive(Clone, Debug)]
pub(super) struct Pools {
    writer: SqlitePool,
    writes: mpsc::UnboundedSender<Write>,
    pub(super) readers: SqlitePool,
    /// Tells these pools from those of the file before.
    pub(super) generation: u64,
}

/// Device, inode, and when it was made: an inode is soon given to another file.
type FileId = (u64, u64, Option<SystemTime>);

impl SqliteDatabase {
    /// A pool for the file at `path`. The file is made when the schema is migrated, not here.
    pub(super) fn open(path: &str, turns: Option<WriteTurns>) -> Self {
        let path = PathBuf::from(path);
        // What is there is found by the first statement.
        let current = Current { file: None, looked: None, pools: Pools::of(&path, turns.as_ref(), 0) };
        Self { path, turns, current: Arc::new(Mutex::new(current)) }
    }

    /// Connections to the file that is there now.
    pub(super) async fn pools(&self) -> Pools {
        let first = {
            let mut current = self.lock();
            if current.looked.is_some_and(|looked| looked.elapsed() < SAME_FILE_FOR) {
                return current.pools.clone();
            }
            // The others go on with what is open.
            current.looked.replace(Instant::now()).is_none()
        };
        // On another thread: a network's file system may keep it waiting.
        let file = tokio::fs::metadata(&self.path).await.ok().as_ref().map(file_id);
        let mut current = self.lock();
        if file != current.file && !first {
            // Dropped, the old ones close when what runs on them has ended.
            current.pools = Pools::of(&self.path, self.turns.as_ref(), current.pools.generation + 1);
        }
        current.file = file;
        current.pools.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How a connection to the file is made.
    pub(super) fn options(&self) -> SqliteConnectOptions {
        options(&self.path)
    }

    /// The write-ahead log beside the file. Every commit in WAL mode writes to it.
    pub(super) fn log(&self) -> PathBuf {
        let mut log = self.path.as_os_str().to_owned();
        log.push("-wal");
        log.into()
    }

    pub(super) async fn close(&self) {
        let pools = self.pools().await;
        pools.readers.close().await;
        pools.writer.close().await;
    }
}

impl Pools {
    fn of(path: &Path, turns: Option<&WriteTurns>, generation: u64) -> Self {
        let pool = |connections| SqlitePoolOptions::new().max_connections(connections).acquire_timeout(ACQUIRE_TIMEOUT);
        // Only what comes after the connection is made is polled here: making it may have to wait for who opens the log.
        let polled = pool(1).after_connect(|connection, _| {
            Box::pin(async move { sqlx::query("PRAGMA busy_timeout = 0").execute(connection).await.map(drop) })
        });
        let writer = polled.connect_lazy_with(options(path));
        let (writes, jobs) = mpsc::unbounded_channel();
        // Ends with these pools.
        tokio::spawn(write(Writer { pool: writer.clone(), turns: turns.cloned() }, jobs));
        Self { writer, writes, readers: pool(READERS).connect_lazy_with(options(path)), generation }
    }
}

fn file_id(file: &Metadata) -> FileId {
    (file.dev(), file.ino(), file.created().ok())
}

/// How every connection to the file at `path` is made. WAL mode is the migration's to set: it lasts.
pub(super) fn options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new().filename(path).busy_timeout(BUSY_TIMEOUT).synchronous(SqliteSynchronous::Full)
}

impl Database for SqliteDatabase {
    fn dialect(&self) -> Dialect {
        Dialect::Sqlite
    }

    async fn query(&self, sql: &str, parameters: Vec<Value>) -> Result<Vec<Row>, DatabaseError> {
        let pools = self.pools().await;
        if reads(sql) {
            let mut connection = pools.readers.acquire().await.map_err(|error| sort(&error))?;
            return run(&mut connection, sql, parameters).await;
        }
        let (answer, answered) = oneshot::channel();
        let write = Write { sql: sql.to_owned(), parameters, answer };
        // Either is gone only when the runtime ends.
        let stopped = || DatabaseError::Unavailable("the process is stopping".into());
        pools.writes.send(write).map_err(|_| stopped())?;
        answered.await.map_err(|_| stopped())?
    }
}

/// A write that waits for its turn.
#[derive(Debug)]
struct Write {
    sql: String,
    parameters: Vec<Value>,
    answer: oneshot::Sender<Result<Vec<Row>, DatabaseError>>,
}

/// Does writes in the order in which they come, those that have come by then together.
async fn write(writer: Writer, mut jobs: mpsc::UnboundedReceiver<Write>) {
    let mut batch = Vec::new();
    while jobs.recv_many(&mut batch, BATCH).await > 0 {
        let mut answers = Vec::with_capacity(batch.len());
        let mut statements = Vec::with_capacity(batch.len());
        for Write { sql, parameters, answer } in batch.drain(..) {
            answers.push(answer);
            statements.push((sql, parameters));
        }
        let outcomes = match writer.commit(statements).await {
            Ok(outcomes) => outcomes,
            Err(error) => answers.iter().map(|_| Err(error.clone())).collect(),
        };
        for (answer, outcome) in answers.into_iter().zip(outcomes) {
            // Whoever was cut off meanwhile does not listen any more; the write has happened all the same.
            let _ = answer.send(outcome);
        }
        writer.leave().await;
    }
}

/// The connection that writes.
struct Writer {
    pool: SqlitePool,
    /// The turns that other writers of this process share, if there are any.
    turns: Option<WriteTurns>,
}

impl Writer {
    /// Does the statements in one transaction. A statement that fails undoes itself and leaves the others; an error of
    /// the whole means that nothing of it may have happened.
    async fn commit(
        &self,
        statements: Vec<(String, Vec<Value>)>,
    ) -> Result<Vec<Result<Vec<Row>, DatabaseError>>, DatabaseError> {
        let mut connection = self.pool.acquire().await.map_err(|error| sort(&error))?;
        let begin = Instant::now();
        let (turn, mut transaction) = loop {
            let turn = match &self.turns {
                Some(turns) => Some(turns.lock().await),
                None => None,
            };
            match connection.begin_with("BEGIN IMMEDIATE").await {
                Ok(transaction) => break (turn, transaction),
                Err(error) if is_busy(&error) && begin.elapsed() < BUSY_TIMEOUT => {}
                Err(error) => return Err(sort(&error)),
            }
            drop(turn);
            tokio::time::sleep(LOCK_POLL).await;
        };
        let mut outcomes = Vec::with_capacity(statements.len());
        for (sql, parameters) in statements {
            outcomes.push(run(&mut transaction, &sql, parameters).await);
        }
        transaction.commit().await.map_err(|error| sort(&error))?;
        drop(turn);
        Ok(outcomes)
    }

    /// Leaves the lock to another process, which may wait for it, where no turns are shared in this one.
    async fn leave(&self) {
        if self.turns.is_none() {
            tokio::time::sleep(COMMIT_PAUSE).await;
        }
    }
}

/// Whether SQLite says that another process holds the lock.
fn is_busy(error: &sqlx::Error) -> bool {
    // The primary result code is the low byte: <https://sqlite.org/rescode.html>.
    const BUSY: i32 = 5;
    let code = error.as_database_error().and_then(|told| told.code()?.parse::<i32>().ok());
    code.is_some_and(|code| code & 0xff == BUSY)
}

async fn run(connection: &mut SqliteConnection, sql: &str, parameters: Vec<Value>) -> Result<Vec<Row>, DatabaseError> {
    let mut query = sqlx::query(AssertSqlSafe(sql));
    for parameter in parameters {
        query = match parameter {
            Value::Null => query.bind(None::<String>),
            Value::Integer(integer) => query.bind(integer),
            Value::Text(text) => query.bind(text),
            Value::Blob(bytes) => query.bind(bytes),
        };
    }
    let rows = query.fetch_all(connection).await.map_err(|error| sort(&error))?;
    rows.iter().map(read).collect()
}

fn read(row: &SqliteRow) -> Result<Row, DatabaseError> {
    let column = |index| -> Result<Value, sqlx::Error> {
        let raw = row.try_get_raw(index)?;
        Ok(match raw.type_info().name() {
            _ if raw.is_null() => Value::Null,
            "INTEGER" => Value::Integer(row.try_get_unchecked(index)?),
            "BLOB" => Value::Blob(row.try_get_unchecked(index)?),
            _ => Value::Text(row.try_get_unchecked(index)?),
        })
    };
    let values: Result<_, _> = (0..row.len()).map(column).collect();
    values.map(Row::new).map_err(|error| sort(&error))
}
