//! Direct access to the database, without the project's own code: for the yardsticks, for bulk inserts, and for reading
//! times.

use std::time::Duration;

use anyhow::Result;
use renga_shared::sql::uri::DatabaseUri;
use sqlx::postgres::{PgPool, PgPoolOptions};
use sqlx::sqlite::{SqliteConnectOptions, SqlitePool, SqlitePoolOptions, SqliteSynchronous};

/// A pool of connections.
#[derive(Clone)]
pub(crate) enum Database {
    /// A SQLite file.
    Sqlite {
        /// The connections for reads.
        read: SqlitePool,
        /// The one connection for writes. SQLite has one writer, so other writers queue here instead of in SQLite's
        /// busy loop.
        write: SqlitePool,
    },
    /// A PostgreSQL database.
    Postgres(PgPool),
}

impl Database {
    /// Connects to the database of `SQLALCHEMY_DATABASE_URI`. The schema must exist.
    pub(crate) async fn open(uri: &str) -> Result<Self> {
        Ok(match DatabaseUri::parse(uri)? {
            DatabaseUri::Sqlite(path) => {
                let options = SqliteConnectOptions::new()
                    .filename(path)
                    .busy_timeout(Duration::from_secs(10))
                    .synchronous(SqliteSynchronous::Full);
                Self::Sqlite {
                    read: SqlitePoolOptions::new().max_connections(4).connect_with(options.clone()).await?,
                    write: SqlitePoolOptions::new().max_connections(1).connect_with(options).await?,
                }
            }
            DatabaseUri::Postgres(uri) => Self::Postgres(PgPoolOptions::new().max_connections(16).connect(&uri).await?),
        })
    }

    /// Returns the time from the creation of each execution to its start by its engine, in milliseconds.
    pub(crate) async fn pick_ups(&self) -> Result<Vec<f64>> {
        const SQLITE: &str = "SELECT (started_at - created_at) / 1000.0 FROM executions WHERE started_at IS NOT NULL";
        const POSTGRES: &str = "SELECT (extract(epoch FROM started_at - created_at) * 1000)::float8 \
             FROM executions WHERE started_at IS NOT NULL";
        Ok(match self {
            Self::Sqlite { read, .. } => sqlx::query_scalar(SQLITE).fetch_all(read).await?,
            Self::Postgres(pool) => sqlx::query_scalar(POSTGRES).fetch_all(pool).await?,
        })
    }

    /// Returns the number of executions in this phase.
    pub(crate) async fn in_phase(&self, phase: &str) -> Result<i64> {
        Ok(match self {
            Self::Sqlite { read, .. } => {
                sqlx::query_scalar("SELECT count(*) FROM executions WHERE phase = ?")
                    .bind(phase)
                    .fetch_one(read)
                    .await?
            }
            Self::Postgres(pool) => {
                sqlx::query_scalar("SELECT count(*) FROM executions WHERE phase = $1")
                    .bind(phase)
                    .fetch_one(pool)
                    .await?
            }
        })
    }

    /// Returns the number of executions that have not started yet.
    pub(crate) async fn waiting(&self) -> Result<i64> {
        let mut waiting = 0;
        for phase in ["pending", "scheduled", "starting"] {
            waiting += self.in_phase(phase).await?;
        }
        Ok(waiting)
    }
}
