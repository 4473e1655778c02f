//! SQLite over sqlx.
//!
//! One connection writes, so that this process never waits for itself in SQLite's busy handler; the others read, which
//! in WAL mode nobody blocks. Writes that wait for it go together in one transaction: they share a flush to disk, and take
//! once the lock that the API waits for meanwhile.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use renga_shared::sql::{Database, DatabaseError, Dialect, Row, Value};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqlitePoolOptions, SqliteRow, SqliteSynchronous};
use sqlx::{AssertSqlSafe, Connection as _, Row as _, SqlitePool, TypeInfo as _, ValueRef as _};
use tokio::sync::{mpsc, oneshot};

use super::{reads, sort};

/// How long a statement waits for a lock that another process holds.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a statement waits for a connection.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);
const READERS: u32 = 3;
/// Writes in one transaction, so that the first of them does not wait for long.
const BATCH: usize = 128;

/// A SQLite file. When another is found in its place (it was restored, or deleted and made anew), what is open of the old
/// one is given up: the API opens the new one too.
#[derive(Clone, Debug)]
pub struct SqliteDatabase {
    path: PathBuf,
    current: Arc<Mutex<Current>>,
}

/// What is open, and of which file.
#[derive(Debug)]
struct Current {
    file: Option<FileId>,
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
    pub(super) fn open(path: &str) -> Self {
        let path = PathBuf::from(path);
        let current = Current { file: file_id(&path), pools: Pools::of(&path, 0) };
        Self { path, current: Arc::new(Mutex::new(current)) }
    }

    /// Connections to the file that is there now.
    pub(super) fn pools(&self) -> Pools {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let file = file_id(&self.path);
        if file != current.file {
            // Dropped, the old ones close when what runs on them has ended.
            let pools = Pools::of(&self.path, current.pools.generation + 1);
            *current = Current { file, pools };
        }
        current.pools.clone()
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
        let pools = self.pools();
        pools.readers.close().await;
        pools.writer.close().await;
    }
}

impl Pools {
    fn of(path: &Path, generation: u64) -> Self {
        let pool = |connections| {
            SqlitePoolOptions::new()
                .max_connections(connections)
                .acquire_timeout(ACQUIRE_TIMEOUT)
                .connect_lazy_with(options(path))
        };
        let writer = pool(1);
        let (writes, jobs) = mpsc::unbounded_channel();
        // Ends with these pools.
        tokio::spawn(write(writer.clone(), jobs));
        Self { writer, writes, readers: pool(READERS), generation }
    }
}

fn file_id(path: &Path) -> Option<FileId> {
    let file = std::fs::metadata(path).ok()?;
    Some((file.dev(), file.ino(), file.created().ok()))
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
        let pools = self.pools();
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
async fn write(pool: SqlitePool, mut jobs: mpsc::UnboundedReceiver<Write>) {
    let mut batch = Vec::new();
    while jobs.recv_many(&mut batch, BATCH).await > 0 {
        let mut answers = Vec::with_capacity(batch.len());
        let mut statements = Vec::with_capacity(batch.len());
        for Write { sql, parameters, answer } in batch.drain(..) {
            answers.push(answer);
            statements.push((sql, parameters));
        }
        let outcomes = match commit(&pool, statements).await {
            Ok(outcomes) => outcomes,
            Err(error) => answers.iter().map(|_| Err(error.clone())).collect(),
        };
        for (answer, outcome) in answers.into_iter().zip(outcomes) {
            // Whoever was cut off meanwhile does not listen any more; the write has happened all the same.
            let _ = answer.send(outcome);
        }
    }
}

/// Does the statements in one transaction. A statement that fails undoes itself and leaves the others; an error of the whole
/// means that nothing of it may have happened.
async fn commit(
    pool: &SqlitePool,
    mut statements: Vec<(String, Vec<Value>)>,
) -> Result<Vec<Result<Vec<Row>, DatabaseError>>, DatabaseError> {
    let mut connection = pool.acquire().await.map_err(|error| sort(&error))?;
    if let [(sql, parameters)] = &mut *statements {
        return Ok(vec![run(&mut connection, sql, std::mem::take(parameters)).await]);
    }
    let begun = connection.begin_with("BEGIN IMMEDIATE").await;
    let mut transaction = begun.map_err(|error| sort(&error))?;
    let mut outcomes = Vec::with_capacity(statements.len());
    for (sql, parameters) in statements {
        outcomes.push(run(&mut transaction, &sql, parameters).await);
    }
    transaction.commit().await.map_err(|error| sort(&error))?;
    Ok(outcomes)
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
