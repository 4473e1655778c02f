//! The adapters of the database port in a component: Spin's sqlite and Spin's PostgreSQL.
//!
//! A crate of its own, so that the contract tests run the very code that the API runs.

mod postgres;
mod sqlite;

use std::pin::pin;
use std::time::Duration;

use futures::future::{Either, select};
use renga_shared::sql::uri::DatabaseUri;
use renga_shared::sql::{Database, DatabaseError, Dialect, Row, Value};

/// The label of the SQLite database in `spin.toml`.
const LABEL: &str = "default";

/// How long a statement may take, whatever it waits for: more than either adapter's own bounds, which say more.
const PATIENCE: Duration = Duration::from_secs(15);

/// A database as a component reaches it.
pub enum SpinDatabase {
    /// The SQLite file that the host calls `default`.
    Sqlite(sqlite::SpinSqlite),
    /// The PostgreSQL server of the configuration.
    Postgres(postgres::SpinPostgres),
}

impl SpinDatabase {
    /// The database that the configuration names. Nothing is opened yet. Which file a SQLite URI means is the host's
    /// to say.
    pub fn new(uri: &DatabaseUri) -> Self {
        match uri {
            DatabaseUri::Sqlite(_) => Self::Sqlite(sqlite::SpinSqlite::new(LABEL)),
            DatabaseUri::Postgres(uri) => Self::Postgres(postgres::SpinPostgres::new(uri)),
        }
    }
}

impl Database for SpinDatabase {
    fn dialect(&self) -> Dialect {
        match self {
            Self::Sqlite(_) => Dialect::Sqlite,
            Self::Postgres(_) => Dialect::Postgres,
        }
    }

    async fn query(&self, sql: &str, parameters: Vec<Value>) -> Result<Vec<Row>, DatabaseError> {
        let answer = async {
            match self {
                Self::Sqlite(database) => database.query(sql, parameters).await,
                Self::Postgres(database) => database.query(sql, parameters).await,
            }
        };
        match select(pin!(answer), pin!(spin_sdk::time::sleep(PATIENCE))).await {
            Either::Left((answer, _)) => answer,
            Either::Right(_) => {
                // A statement on PostgreSQL has a connection of its own, which was dropped with it.
                if let Self::Sqlite(database) = self {
                    database.forget();
                }
                Err(DatabaseError::Unavailable(format!("no answer within {} s", PATIENCE.as_secs())))
            }
        }
    }
}
