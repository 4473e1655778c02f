//! PostgreSQL over sqlx.

use std::str::FromStr;
use std::time::Duration;

use renga_shared::sql::{Database, DatabaseError, Dialect, Row, Value};
use sqlx::encode::{Encode, IsNull};
use sqlx::error::BoxDynError;
use sqlx::postgres::types::Oid;
use sqlx::postgres::{PgArgumentBuffer, PgConnectOptions, PgPoolOptions, PgRow, PgTypeInfo};
use sqlx::{AssertSqlSafe, PgPool, Postgres, Row as _, Type, TypeInfo as _, ValueRef as _};

use super::sort;

/// How long a statement waits for a connection, new or free.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a statement waits for its answer. Without a bound a server that the network has swallowed would be waited for
/// until TCP gives up, a quarter of an hour later.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
const CONNECTIONS: u32 = 8;

/// A PostgreSQL database.
#[derive(Clone, Debug)]
pub struct PostgresDatabase {
    pool: PgPool,
}

impl PostgresDatabase {
    pub(super) fn open(uri: &str) -> Result<Self, DatabaseError> {
        let options = PgConnectOptions::from_str(uri)
            .map_err(|_| DatabaseError::Unavailable("the PostgreSQL URI cannot be read".into()))?
            .application_name("renga-reconciler");
        let pool = PgPoolOptions::new()
            .max_connections(CONNECTIONS)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .connect_lazy_with(options);
        Ok(Self { pool })
    }

    pub(super) fn pool(&self) -> &PgPool {
        &self.pool
    }
}

impl Database for PostgresDatabase {
    fn dialect(&self) -> Dialect {
        Dialect::Postgres
    }

    async fn query(&self, sql: &str, parameters: Vec<Value>) -> Result<Vec<Row>, DatabaseError> {
        let query = parameters
            .into_iter()
            .fold(sqlx::query(AssertSqlSafe(sql)), |query, parameter| query.bind(Untyped(parameter)));
        let mut connection = self.pool.acquire().await.map_err(|error| sort(&error))?;
        match tokio::time::timeout(ANSWER_TIMEOUT, query.fetch_all(&mut *connection)).await {
            Ok(rows) => rows.map_err(|error| sort(&error))?.iter().map(read).collect(),
            Err(_) => {
                // Nobody waits for its answer any more, so that no other statement may get this connection.
                drop(connection.detach());
                Err(DatabaseError::Unavailable(format!("no answer within {} s", ANSWER_TIMEOUT.as_secs())))
            }
        }
    }
}

/// A parameter whose type the server takes from the cast around it. A statement is prepared once and used with NULLs
/// and values alike, so that the types of its first parameters must not stick to it.
struct Untyped(Value);

impl Type<Postgres> for Untyped {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(Oid(0))
    }

    fn compatible(_: &PgTypeInfo) -> bool {
        true
    }
}

impl Encode<'_, Postgres> for Untyped {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        match &self.0 {
            Value::Null => Ok(IsNull::Yes),
            Value::Integer(integer) => Encode::<Postgres>::encode(*integer, buffer),
            Value::Text(text) => Encode::<Postgres>::encode(text.as_str(), buffer),
            Value::Blob(bytes) => Encode::<Postgres>::encode(bytes.as_slice(), buffer),
        }
    }
}

fn read(row: &PgRow) -> Result<Row, DatabaseError> {
    let column = |index| -> Result<Value, sqlx::Error> {
        let raw = row.try_get_raw(index)?;
        let kind = raw.type_info();
        Ok(match kind.name() {
            _ if raw.is_null() => Value::Null,
            "INT8" => Value::Integer(row.try_get_unchecked(index)?),
            "INT4" => Value::Integer(row.try_get_unchecked::<i32, _>(index)?.into()),
            "BYTEA" => Value::Blob(row.try_get_unchecked(index)?),
            _ => Value::Text(row.try_get_unchecked(index)?),
        })
    };
    let values: Result<_, _> = (0..row.len()).map(column).collect();
    values.map(Row::new).map_err(|error| sort(&error))
}
