//! Hears that somebody else wrote: PostgreSQL's `NOTIFY`; SQLite's `data_version`, asked when its log was written to.
//!
//! A hint only. What it misses, the next full pass finds.

use std::time::{Duration, SystemTime};

use sqlx::postgres::PgListener;
use sqlx::sqlite::SqliteConnection;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::{NativeDatabase, PostgresDatabase, SqliteDatabase};

/// The channel that the schema's triggers notify.
const CHANNEL: &str = "renga_executions";
/// How often SQLite's log is looked at, and how late a change is heard of at most.
const SQLITE_PERIOD: Duration = Duration::from_millis(20);
/// How long SQLite itself is asked after a write to its log: the commit is seen later than the write, and the next write, within
/// a tick of the kernel, may not show in the log's time of change.
const FRESH: Duration = Duration::from_millis(100);
/// How long after a notice from PostgreSQL to look once more: of those who commit at the same time, one alone notifies.
const BESIDE: Duration = Duration::from_millis(50);
/// How long to wait before listening again when the database went away.
const RECONNECT: Duration = Duration::from_secs(1);

/// Waits for changes of one database.
#[derive(Debug)]
pub struct Changes {
    database: NativeDatabase,
    /// Nothing is asked sooner. Kept here, since who waits for [`Changes::next`] often gives up for something else.
    not_before: Instant,
    watched: Option<Watched>,
    listener: Option<PgListener>,
    /// When those must have committed who did not notify since another just did.
    beside_until: Option<Instant>,
}

/// A connection to a SQLite file; `PRAGMA data_version` is the connection's own.
#[derive(Debug)]
struct Watched {
    connection: sqlx::pool::PoolConnection<sqlx::Sqlite>,
    generation: u64,
    version: Option<i64>,
    /// When the write-ahead log was last written to.
    written: Option<SystemTime>,
    /// Until it was asked at this time or later, SQLite is asked although the log was not written to again.
    settles_at: Option<Instant>,
}

impl Changes {
    /// Hears changes of `database` from the first [`Changes::next`] on.
    pub fn of(database: NativeDatabase) -> Self {
        Self { database, not_before: Instant::now(), watched: None, listener: None, beside_until: None }
    }

    /// Returns when something may have changed: after a write of another connection, or when hearing was interrupted.
    /// May be dropped and called again.
    pub async fn next(&mut self) {
        loop {
            if Instant::now() < self.not_before {
                sleep_until(self.not_before).await;
            }
            let heard = match self.database.clone() {
                NativeDatabase::Sqlite(database) => self.version_changed(&database).await,
                NativeDatabase::Postgres(database) => self.notified(&database).await,
                NativeDatabase::Substitute(database) => return database.changed().await,
            };
            match heard {
                Ok(true) => return,
                Ok(false) => {}
                Err(_) => {
                    (self.watched, self.listener) = (None, None);
                    self.not_before = Instant::now() + RECONNECT;
                    return;
                }
            }
        }
    }

    async fn version_changed(&mut self, database: &SqliteDatabase) -> Result<bool, sqlx::Error> {
        self.not_before = Instant::now() + SQLITE_PERIOD;
        let pools = database.pools();
        if self.watched.as_ref().is_none_or(|watched| watched.generation != pools.generation) {
            let connection = pools.readers.acquire().await?;
            self.watched = Some(Watched {
                connection,
                generation: pools.generation,
                version: None,
                written: None,
                settles_at: Some(self.not_before),
            });
        }
        let Some(watched) = &mut self.watched else { return Ok(false) };
        // Asking SQLite wakes the connection's own thread; in an idle process that would be most of what happens.
        let (written, now) = (database.log_written(), Instant::now());
        if written != watched.written {
            (watched.written, watched.settles_at) = (written, Some(now + FRESH));
        } else if written.is_some() && watched.settles_at.is_none() {
            return Ok(false);
        }
        let connection: &mut SqliteConnection = &mut watched.connection;
        let version: i64 = sqlx::query_scalar("PRAGMA data_version").fetch_one(connection).await?;
        watched.settles_at = watched.settles_at.filter(|at| now < *at);
        Ok(watched.version.replace(version) != Some(version))
    }

    async fn notified(&mut self, database: &PostgresDatabase) -> Result<bool, sqlx::Error> {
        let Some(listener) = &mut self.listener else {
            let mut listener = PgListener::connect_with(database.pool()).await?;
            // Its own way to connect again forgets who is told, if it is dropped meanwhile.
            listener.eager_reconnect(false);
            listener.listen(CHANNEL).await?;
            self.listener = Some(listener);
            // What was written before is found by a look.
            return Ok(true);
        };
        let heard = match self.beside_until {
            Some(at) => match timeout_at(at, listener.try_recv()).await {
                Ok(heard) => heard?,
                Err(_) => {
                    self.beside_until = None;
                    return Ok(true);
                }
            },
            None => listener.try_recv().await?,
        };
        match heard {
            // One look serves every notice that has come.
            Some(_) => while listener.next_buffered().is_some() {},
            None => self.listener = None,
        }
        self.beside_until = Some(Instant::now() + BESIDE);
        Ok(true)
    }
}
