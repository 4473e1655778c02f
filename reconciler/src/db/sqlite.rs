//! SQLite over sqlx.
//!
//! One connection writes, so that this process never waits for itself in SQLite's busy handler; the others read, which
//! in WAL mode nobody blocks.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use renga_shared::sql::{Database, DatabaseError, Dialect, Row, Value};
use sqlx::sqlite::{SqliteConnectOptions, SqlitePoolOptions, SqliteRow, SqliteSynchronous};
use sqlx::{AssertSqlSafe, Row as _, SqlitePool, TypeInfo as _, ValueRef as _};

use super::{reads, sort};

/// How long a statement waits for a lock that another process holds.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a statement waits for a connection.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);
const READERS: u32 = 3;

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
    pub(super) writer: SqlitePool,
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

    /// When the write-ahead log beside the file was written to, if there is one. Every commit in WAL mode writes to it.
    pub(super) fn log_written(&self) -> Option<SystemTime> {
        let mut log = self.path.as_os_str().to_owned();
        log.push("-wal");
        std::fs::metadata(log).ok()?.modified().ok()
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
        Self { writer: pool(1), readers: pool(READERS), generation }
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
        let mut query = sqlx::query(AssertSqlSafe(sql));
        for parameter in parameters {
            query = match parameter {
                Value::Null => query.bind(None::<String>),
                Value::Integer(integer) => query.bind(integer),
                Value::Text(text) => query.bind(text),
                Value::Blob(bytes) => query.bind(bytes),
            };
        }
        let pools = self.pools();
        let pool = if reads(sql) { pools.readers } else { pools.writer };
        let rows = query.fetch_all(&pool).await.map_err(|error| sort(&error))?;
        rows.iter().map(read).collect()
    }
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
