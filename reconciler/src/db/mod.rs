//! The native adapters of the database port, over sqlx: one for SQLite, one for PostgreSQL, one type that is either.
//!
//! [`NativeDatabase`] is concrete, so that its futures are `Send` and can be spawned.

mod changes;
mod migrate;
mod postgres;
mod sqlite;

pub use changes::Changes;
pub use migrate::migrate;

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use renga_shared::sql::uri::DatabaseUri;
use renga_shared::sql::{Database, DatabaseError, Dialect, Row, Value};

pub use postgres::PostgresDatabase;
pub use sqlite::{SqliteDatabase, WriteTurns};

use crate::crash::crash_point;

/// An open database of either kind.
#[derive(Clone, Debug)]
pub enum NativeDatabase {
    /// A SQLite file.
    Sqlite(SqliteDatabase),
    /// A PostgreSQL database.
    Postgres(PostgresDatabase),
    /// A substitute, which the simulation rules over.
    Substitute(Arc<dyn Substitute>),
}

/// A database that decides when a statement is answered, and what fails.
#[async_trait]
pub trait Substitute: fmt::Debug + Send + Sync {
    /// Which SQL it speaks.
    fn dialect(&self) -> Dialect;

    /// Runs one statement: see [`Database::query`].
    async fn query(&self, sql: &str, parameters: Vec<Value>) -> Result<Vec<Row>, DatabaseError>;

    /// Returns when something may have changed: see [`Changes::next`].
    async fn changed(&self);
}

impl NativeDatabase {
    /// Makes a pool of connections. None is opened yet: a database that is away is met by the first statement.
    pub fn open(uri: &DatabaseUri) -> Result<Self, DatabaseError> {
        Self::open_in_turn(uri, None)
    }

    /// The same, with the turns of the other writers to the SQLite file that this process has, if there are any.
    pub fn open_in_turn(uri: &DatabaseUri, turns: Option<WriteTurns>) -> Result<Self, DatabaseError> {
        match uri {
            DatabaseUri::Sqlite(path) => Ok(Self::Sqlite(SqliteDatabase::open(path, turns))),
            DatabaseUri::Postgres(uri) => PostgresDatabase::open(uri).map(Self::Postgres),
        }
    }

    /// Closes every connection, once what runs on them has ended.
    pub async fn close(&self) {
        match self {
            Self::Sqlite(database) => database.close().await,
            Self::Postgres(database) => database.pool().close().await,
            Self::Substitute(_) => {}
        }
    }
}

impl Database for NativeDatabase {
    fn dialect(&self) -> Dialect {
        match self {
            Self::Sqlite(_) => Dialect::Sqlite,
            Self::Postgres(_) => Dialect::Postgres,
            Self::Substitute(database) => database.dialect(),
        }
    }

    async fn query(&self, sql: &str, parameters: Vec<Value>) -> Result<Vec<Row>, DatabaseError> {
        let writes = !reads(sql);
        if writes {
            crash_point!("before_write");
        }
        let answer = match self {
            Self::Sqlite(database) => database.query(sql, parameters).await,
            Self::Postgres(database) => database.query(sql, parameters).await,
            Self::Substitute(database) => database.query(sql, parameters).await,
        };
        if writes {
            crash_point!("after_write");
        }
        answer
    }
}

/// Whether a statement of ours only reads.
fn reads(sql: &str) -> bool {
    sql.starts_with("SELECT")
}

/// Sorts what sqlx reports.
fn sort(error: &sqlx::Error) -> DatabaseError {
    match error {
        sqlx::Error::Database(told) => match told.try_downcast_ref::<sqlx::postgres::PgDatabaseError>() {
            Some(postgres) => DatabaseError::from_sqlstate(postgres.code(), postgres.message()),
            None => DatabaseError::from_sqlite(told.message()),
        },
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed
        | sqlx::Error::Protocol(_) => DatabaseError::Unavailable(error.to_string()),
        other => DatabaseError::Unexpected(other.to_string()),
    }
}
