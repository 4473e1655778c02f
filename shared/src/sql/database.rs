//! The port to a database, which four thin adapters implement: Spin's sqlite and postgres in the components, sqlx's
//! in the reconciler.
//!
//! Obligations of an adapter: a statement is durable when [`Database::query`] returns; a parameter is passed as the
//! type that it has here; a statement that changes rows changes them once or, on an error other than
//! [`DatabaseError::Unavailable`], not at all (a connection that breaks leaves that open). It waits for a locked
//! SQLite file, up to a bound, and never for ever.

use std::fmt;
use std::str::FromStr;

use crate::auth::SealedToken;
use crate::domain::{ContextId, ExecutionId, Timestamp};

/// Which SQL a database speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// SQLite 3.38 or later.
    Sqlite,
    /// PostgreSQL 13 or later.
    Postgres,
}

/// A parameter or a column. Ids, instants and JSON travel as text and integers; the statements cast them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// SQL's NULL.
    Null,
    /// A 64-bit integer; an instant in microseconds.
    Integer(i64),
    /// A text; an id or JSON.
    Text(String),
    /// Bytes.
    Blob(Vec<u8>),
}

impl From<i64> for Value {
    fn from(value: i64) -> Self {
        Self::Integer(value)
    }
}

impl From<&str> for Value {
    fn from(value: &str) -> Self {
        Self::Text(value.to_owned())
    }
}

impl From<String> for Value {
    fn from(value: String) -> Self {
        Self::Text(value)
    }
}

impl From<&SealedToken> for Value {
    fn from(value: &SealedToken) -> Self {
        Self::Blob(value.as_bytes().to_vec())
    }
}

impl From<Timestamp> for Value {
    fn from(value: Timestamp) -> Self {
        Self::Integer(value.0)
    }
}

impl From<ContextId> for Value {
    fn from(value: ContextId) -> Self {
        Self::Text(value.to_string())
    }
}

impl From<ExecutionId> for Value {
    fn from(value: ExecutionId) -> Self {
        Self::Text(value.to_string())
    }
}

impl<T: Into<Self>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

/// One row of an answer, taken apart from left to right.
#[derive(Clone, Debug)]
pub struct Row(std::vec::IntoIter<Value>);

impl Row {
    /// A row of these columns.
    pub fn new(values: Vec<Value>) -> Self {
        Self(values.into_iter())
    }

    /// The next column, whatever it is.
    pub fn value(&mut self) -> Result<Value, DatabaseError> {
        self.0.next().ok_or_else(|| DatabaseError::Unexpected("a row has fewer columns than were asked for".into()))
    }

    /// The next column, a text that is not NULL.
    pub fn text(&mut self) -> Result<String, DatabaseError> {
        required(self.optional_text()?)
    }

    /// The next column, a text or NULL.
    pub fn optional_text(&mut self) -> Result<Option<String>, DatabaseError> {
        match self.value()? {
            Value::Null => Ok(None),
            Value::Text(text) => Ok(Some(text)),
            other => Err(unfit("text", &other)),
        }
    }

    /// The next column, an integer that is not NULL.
    pub fn integer(&mut self) -> Result<i64, DatabaseError> {
        required(self.optional_integer()?)
    }

    /// The next column, an integer or NULL.
    pub fn optional_integer(&mut self) -> Result<Option<i64>, DatabaseError> {
        match self.value()? {
            Value::Null => Ok(None),
            Value::Integer(integer) => Ok(Some(integer)),
            other => Err(unfit("integer", &other)),
        }
    }

    /// The next column, an instant that is not NULL.
    pub fn timestamp(&mut self) -> Result<Timestamp, DatabaseError> {
        self.integer().map(Timestamp)
    }

    /// The next column, an instant or NULL.
    pub fn optional_timestamp(&mut self) -> Result<Option<Timestamp>, DatabaseError> {
        Ok(self.optional_integer()?.map(Timestamp))
    }

    /// The next column, bytes that are not NULL.
    pub fn blob(&mut self) -> Result<Vec<u8>, DatabaseError> {
        required(self.optional_blob()?)
    }

    /// The next column, bytes or NULL.
    pub fn optional_blob(&mut self) -> Result<Option<Vec<u8>>, DatabaseError> {
        match self.value()? {
            Value::Null => Ok(None),
            Value::Blob(bytes) => Ok(Some(bytes)),
            other => Err(unfit("bytes", &other)),
        }
    }

    /// The next column, a text that is one of our own types.
    pub fn parsed<T: FromStr>(&mut self) -> Result<T, DatabaseError>
    where
        T::Err: fmt::Display,
    {
        self.text()?.parse().map_err(|error: T::Err| DatabaseError::Unexpected(error.to_string()))
    }
}

fn required<T>(value: Option<T>) -> Result<T, DatabaseError> {
    value.ok_or_else(|| DatabaseError::Unexpected("a column is NULL that never should be".into()))
}

fn unfit(expected: &str, found: &Value) -> DatabaseError {
    let found = match found {
        Value::Null => "NULL",
        Value::Integer(_) => "an integer",
        Value::Text(_) => "a text",
        Value::Blob(_) => "bytes",
    };
    DatabaseError::Unexpected(format!("a column holds {found}, not {expected}"))
}

/// What can go wrong with a database, by what the caller does about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DatabaseError {
    /// It does not answer, or is locked: try again later. The text is for operators.
    #[error("the database does not answer: {0}")]
    Unavailable(String),
    /// Tables or columns are missing: it was never migrated, or by an older version.
    #[error("the database's schema is missing or older than this program: {0}")]
    Schema(String),
    /// It has no room, or may not be written to.
    #[error("the database cannot be written: {0}")]
    Full(String),
    /// Another row has what must be unique: somebody else was faster.
    #[error("another row has it already: {0}")]
    Conflict(String),
    /// Anything else: a mistake of ours, or of somebody who changed rows by hand.
    #[error("unexpected answer of the database: {0}")]
    Unexpected(String),
}

impl DatabaseError {
    /// Sorts an error of SQLite by its text, which is all that Spin's interface passes on.
    /// Texts: <https://sqlite.org/rescode.html>.
    pub fn from_sqlite(message: &str) -> Self {
        let text = message.to_ascii_lowercase();
        let has = |parts: &[&str]| parts.iter().any(|part| text.contains(part));
        let message = message.to_owned();
        if has(&["no such table", "no such column", "has no column named"]) {
            Self::Schema(message)
        } else if has(&["disk is full", "readonly database", "read-only"]) {
            Self::Full(message)
        } else if has(&["unique constraint failed"]) {
            Self::Conflict(message)
        } else if has(&[
            "locked",
            "busy",
            "unable to open",
            "disk i/o error",
            "interrupted",
            "timed out",
            "not a database",
            "is malformed",
        ]) {
            Self::Unavailable(message)
        } else {
            Self::Unexpected(message)
        }
    }

    /// Sorts an error of PostgreSQL by its SQLSTATE.
    /// Codes: <https://www.postgresql.org/docs/current/errcodes-appendix.html>.
    pub fn from_sqlstate(code: &str, message: &str) -> Self {
        let message = format!("{message} (SQLSTATE {code})");
        match code {
            // undefined_table, undefined_column, undefined_function, invalid_schema_name
            "42P01" | "42703" | "42883" | "3F000" => Self::Schema(message),
            // disk_full, read_only_sql_transaction
            "53100" | "25006" => Self::Full(message),
            // unique_violation
            "23505" => Self::Conflict(message),
            // insufficient_privilege
            "42501" => Self::Unavailable(message),
            // connection exceptions, authorization, no such database, transaction rollback, insufficient resources,
            // object not in prerequisite state (lock_not_available), operator intervention (query_canceled), system
            // error, internal error
            _ if ["08", "28", "3D", "40", "53", "55", "57", "58", "XX"].iter().any(|class| code.starts_with(class)) => {
                Self::Unavailable(message)
            }
            _ => Self::Unexpected(message),
        }
    }
}

/// A database that answers one statement at a time.
///
/// Futures carry no `Send` bound: the components have one thread. The reconciler names its concrete type.
#[allow(async_fn_in_trait, reason = "used generically; spawned only where types are concrete")]
pub trait Database {
    /// Which SQL it speaks.
    fn dialect(&self) -> Dialect;

    /// Runs one statement and returns its rows: those of a `SELECT`, or what `RETURNING` names.
    async fn query(&self, sql: &str, parameters: Vec<Value>) -> Result<Vec<Row>, DatabaseError>;
}

impl<D: Database> Database for &D {
    fn dialect(&self) -> Dialect {
        (**self).dialect()
    }

    async fn query(&self, sql: &str, parameters: Vec<Value>) -> Result<Vec<Row>, DatabaseError> {
        (**self).query(sql, parameters).await
    }
}
