//! Hears that somebody else wrote: PostgreSQL's `NOTIFY`; SQLite's `data_version`, asked when the system tells that its log is
//! written to.
//!
//! A hint only. What it misses, the next full pass finds.

use std::path::Path;
use std::time::Duration;

use futures::{FutureExt as _, StreamExt as _};
use inotify::{EventStream, Inotify, WatchMask};
use sqlx::ConnectOptions as _;
use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolOptions};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::{NativeDatabase, PostgresDatabase, SqliteDatabase};

/// The channel that the schema's triggers notify.
const CHANNEL: &str = "renga_executions";
/// How often SQLite is asked while its log is written to: a commit is seen some milliseconds after its write.
const SQLITE_PERIOD: Duration = Duration::from_millis(4);
/// How long it is asked after the last write.
const FRESH: Duration = Duration::from_millis(100);
/// How often it is asked where the system does not tell of writes.
const UNTOLD_PERIOD: Duration = Duration::from_millis(20);
/// How often to look whether the file is still the same one.
const SAME_FILE_PERIOD: Duration = Duration::from_secs(1);
/// How long after a notice from PostgreSQL to look once more: of those who commit at the same time, one alone notifies.
const BESIDE: Duration = Duration::from_millis(50);
/// How long a listener may take to be connected.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long to wait before listening again when the database went away.
const RECONNECT: Duration = Duration::from_secs(1);

/// Waits for changes of one database.
#[derive(Debug)]
pub struct Changes {
    database: NativeDatabase,
    /// Nothing is asked sooner. Kept here, since who waits for [`Changes::next`] often gives up for something else.
    not_before: Instant,
    watched: Option<Watched>,
    watching: Connecting<(SqliteConnection, i64)>,
    listener: Option<PgListener>,
    listening: Connecting<PgListener>,
    /// When those must have committed who did not notify since another just did.
    beside_until: Option<Instant>,
}

/// What connects in a task of its own. The driver drops its wait for [`Changes::next`] whenever something else happens,
/// which under load is always sooner than a connection is made; the task goes on.
#[derive(Debug)]
struct Connecting<T>(JoinSet<Result<T, sqlx::Error>>);

impl<T: Send + 'static> Connecting<T> {
    /// What `connect` makes, or a call before this one. May be dropped and called again.
    async fn made_by(
        &mut self,
        connect: impl Future<Output = Result<T, sqlx::Error>> + Send + 'static,
    ) -> Result<T, sqlx::Error> {
        if self.0.is_empty() {
            self.0.spawn(connect);
        }
        // A task that panicked is made anew by the next call.
        self.0.join_next().await.and_then(Result::ok).unwrap_or(Err(sqlx::Error::WorkerCrashed))
    }
}

/// A connection to a SQLite file; `PRAGMA data_version` is the connection's own.
#[derive(Debug)]
struct Watched {
    connection: SqliteConnection,
    generation: u64,
    version: Option<i64>,
    log: LogWrites,
}

/// Hears of writes to a write-ahead log.
#[derive(Debug)]
struct LogWrites {
    /// `None`: the system does not tell.
    told: Option<EventStream<[u8; 1024]>>,
    /// A write may not have been seen as a commit until then.
    settles_at: Instant,
}

impl LogWrites {
    /// Of the log at `path`, which is there.
    fn of(path: &Path) -> Self {
        let watch = || -> std::io::Result<_> {
            let inotify = Inotify::init()?;
            inotify.watches().add(path, WatchMask::MODIFY)?;
            inotify.into_event_stream([0; 1024])
        };
        let told = watch().inspect_err(|error| {
            tracing::warn!(%error, "writes to {} are asked for, since the system does not tell: {error}", path.display());
        });
        Self { told: told.ok(), settles_at: Instant::now() + FRESH }
    }

    /// Returns when it was written to lately. May be dropped and called again.
    async fn recent(&mut self) {
        let Some(told) = &mut self.told else { return };
        let mut heard = Instant::now() >= self.settles_at;
        if heard {
            told.next().await;
        }
        // What was heard until here is answered by one look.
        while let Some(Some(Ok(_))) = told.next().now_or_never() {
            heard = true;
        }
        if heard {
            self.settles_at = Instant::now() + FRESH;
        }
    }
}

impl Changes {
    /// Hears changes of `database` from the first [`Changes::next`] on.
    pub fn of(database: NativeDatabase) -> Self {
        Self {
            database,
            not_before: Instant::now(),
            watched: None,
            watching: Connecting(JoinSet::new()),
            listener: None,
            listening: Connecting(JoinSet::new()),
            beside_until: None,
        }
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
        let pools = database.pools().await;
        let watched = match &mut self.watched {
            Some(watched) if watched.generation == pools.generation => watched,
            other => {
                let (connection, version) = self.watching.made_by(look(database.options())).await?;
                let log = LogWrites::of(&database.log());
                *other = Some(Watched { connection, generation: pools.generation, version: Some(version), log });
                return Ok(true);
            }
        };
        if timeout(SAME_FILE_PERIOD, watched.log.recent()).await.is_err() {
            return Ok(false);
        }
        self.not_before = Instant::now() + if watched.log.told.is_some() { SQLITE_PERIOD } else { UNTOLD_PERIOD };
        let version = Some(version(&mut watched.connection).await?);
        Ok(std::mem::replace(&mut watched.version, version) != version)
    }

    async fn notified(&mut self, database: &PostgresDatabase) -> Result<bool, sqlx::Error> {
        let Some(listener) = &mut self.listener else {
            let options = (*database.pool().connect_options()).clone();
            self.listener = Some(self.listening.made_by(listen(options)).await?);
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

/// A listener with a connection of its own: those that statements use may all be in use.
async fn listen(options: PgConnectOptions) -> Result<PgListener, sqlx::Error> {
    let connect = async {
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .max_lifetime(None)
            .idle_timeout(None)
            .acquire_timeout(CONNECT_TIMEOUT)
            .connect_lazy_with(options);
        let mut listener = PgListener::connect_with(&pool).await?;
        // Its own way to connect again forgets who is told, if it is dropped meanwhile.
        listener.eager_reconnect(false);
        listener.listen(CHANNEL).await?;
        Ok(listener)
    };
    timeout(CONNECT_TIMEOUT, connect).await.unwrap_or(Err(sqlx::Error::PoolTimedOut))
}

/// A connection to a SQLite file, likewise its own, and the version that it finds. The first look at a file makes its
/// log.
async fn look(options: SqliteConnectOptions) -> Result<(SqliteConnection, i64), sqlx::Error> {
    let mut connection = options.connect().await?;
    let version = version(&mut connection).await?;
    Ok((connection, version))
}

async fn version(connection: &mut SqliteConnection) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar("PRAGMA data_version").fetch_one(connection).await
}
