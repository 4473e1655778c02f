//! One statement on one native connection: its kind, its parameters, its rows.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, ErrorCode, Row, Statement};

use crate::bindings::sqlite::sqlite::{Error, RowResult, Value};

/// How long a connection waits for a lock, as in Spin.
pub(super) const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Statements that a native connection keeps prepared.
const CACHED_STATEMENTS: usize = 128;

/// What a statement does, as far as its first word tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// It reads, or (`WITH`) may read: a prepared statement knows.
    Read,
    /// It writes rows.
    Write,
    /// It may change the connection's own state, or the schema.
    Other,
}

impl Kind {
    pub(super) fn of(sql: &str) -> Self {
        let rest = skip_comments(sql);
        let end = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
        let is = |words: &[&str]| words.iter().any(|word| rest[..end].eq_ignore_ascii_case(word));
        if is(&["SELECT", "VALUES", "WITH"]) {
            Self::Read
        } else if is(&["INSERT", "UPDATE", "DELETE", "REPLACE"]) {
            Self::Write
        } else {
            Self::Other
        }
    }
}

fn skip_comments(mut sql: &str) -> &str {
    loop {
        sql = sql.trim_start();
        sql = if let Some(comment) = sql.strip_prefix("--") {
            comment.split_once('\n').map_or("", |(_, rest)| rest)
        } else if let Some(comment) = sql.strip_prefix("/*") {
            comment.split_once("*/").map_or("", |(_, rest)| rest)
        } else {
            return sql;
        }
    }
}

/// Whether a statement asks, in SQL, for counts that belong to a native connection.
pub(super) fn asks_for_counts(sql: &str) -> bool {
    // Most statements have no such word: look before making a copy in lower case.
    sql.as_bytes().windows(8).any(|word| word.eq_ignore_ascii_case(b"changes("))
}

/// Opens a native connection as Spin does: no pragmas, and files cannot be attached. Unlike Spin, a file that is not
/// there is made for its owner alone, and so are those beside it, which get its mode.
pub(super) fn open(path: &Path) -> rusqlite::Result<Connection> {
    use rusqlite::hooks::{AuthAction, AuthContext, Authorization};

    // A file that is there keeps its mode. Any other error SQLite meets as well, and tells it.
    _ = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let connection = Connection::open(path)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.set_prepared_statement_cache_capacity(CACHED_STATEMENTS);
    connection.authorizer(Some(|context: AuthContext<'_>| match context.action {
        AuthAction::Attach { filename } if !matches!(filename, "" | ":memory:") => Authorization::Deny,
        _ => Authorization::Allow,
    }))?;
    Ok(connection)
}

pub(super) fn io(error: &rusqlite::Error) -> Error {
    Error::Io(error.to_string())
}

/// Whether SQLite says that somebody else holds a lock.
pub(super) fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}

/// Whether a statement ended because its budget was used up.
pub(super) fn is_interrupted(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(ErrorCode::OperationInterrupted)
}

/// Sets what `last_insert_rowid()` answers, in SQL and natively, until the next `INSERT`: the connection is shared, the
/// number is not.
pub(super) fn set_last_insert_rowid(connection: &Connection, rowid: i64) {
    #[allow(unsafe_code, reason = "rusqlite has no safe form of it; the handle is valid as long as the borrow")]
    // SAFETY: `handle` is the open connection that `connection` owns, and no other thread can use it meanwhile, since
    // `Connection` is not `Sync`.
    unsafe {
        rusqlite::ffi::sqlite3_set_last_insert_rowid(connection.handle(), rowid);
    }
}

/// Runs a statement and gives each row to `each`, until that says stop. Returns the names of the columns.
pub(super) fn run<E: From<rusqlite::Error>>(
    statement: &mut Statement<'_>,
    parameters: &[Value],
    mut each: impl FnMut(&[String], RowResult) -> Result<(), E>,
) -> Result<Vec<String>, E> {
    let mut columns = names(statement);
    let mut rows = statement.query(rusqlite::params_from_iter(parameters.iter().map(Parameter)))?;
    let mut first = true;
    while let Some(row) = rows.next()? {
        if std::mem::take(&mut first) && row.as_ref().column_count() != columns.len() {
            // The schema changed since the statement was prepared, and SQLite prepared it again.
            columns = names(row.as_ref());
        }
        let row = convert(row, columns.len())?;
        each(&columns, row)?;
    }
    Ok(columns)
}

fn names(statement: &Statement<'_>) -> Vec<String> {
    statement.column_names().into_iter().map(ToOwned::to_owned).collect()
}

fn convert(row: &Row<'_>, columns: usize) -> rusqlite::Result<RowResult> {
    let values = (0..columns)
        .map(|column| {
            Ok(match row.get_ref(column)? {
                ValueRef::Null => Value::Null,
                ValueRef::Integer(number) => Value::Integer(number),
                ValueRef::Real(number) => Value::Real(number),
                ValueRef::Text(text) => {
                    let text = std::str::from_utf8(text).map_err(|error| rusqlite::Error::Utf8Error(column, error))?;
                    Value::Text(text.to_owned())
                }
                ValueRef::Blob(bytes) => Value::Blob(bytes.to_vec()),
            })
        })
        .collect::<rusqlite::Result<_>>()?;
    Ok(RowResult { values })
}

/// Roughly what a row takes in memory.
pub(super) fn row_bytes(row: &RowResult) -> usize {
    let of = |value: &Value| match value {
        Value::Text(text) => text.len(),
        Value::Blob(bytes) => bytes.len(),
        Value::Integer(_) | Value::Real(_) | Value::Null => 0,
    };
    row.values.iter().map(|value| size_of::<Value>() + of(value)).sum()
}

/// A component's value, bound without a copy.
struct Parameter<'a>(&'a Value);

impl rusqlite::ToSql for Parameter<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self.0 {
            Value::Null => ValueRef::Null,
            Value::Integer(number) => ValueRef::Integer(*number),
            Value::Real(number) => ValueRef::Real(*number),
            Value::Text(text) => ValueRef::Text(text.as_bytes()),
            Value::Blob(bytes) => ValueRef::Blob(bytes),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_word_tells_the_kind() {
        for (sql, kind) in [
            ("select 1", Kind::Read),
            ("  VALUES(1)", Kind::Read),
            ("-- why\n/* and how */ WITH a AS (SELECT 1) SELECT * FROM a", Kind::Read),
            ("Insert INTO t VALUES (1)", Kind::Write),
            ("REPLACE INTO t VALUES (1)", Kind::Write),
            ("PRAGMA journal_mode", Kind::Other),
            ("BEGIN", Kind::Other),
            ("inserted", Kind::Other),
            ("", Kind::Other),
            ("-- nothing", Kind::Other),
        ] {
            assert_eq!(Kind::of(sql), kind, "{sql:?}");
        }
    }

    #[test]
    fn counts_in_sql_are_noticed() {
        assert!(asks_for_counts("SELECT Changes()"));
        assert!(asks_for_counts("SELECT total_changes()"));
        assert!(!asks_for_counts("SELECT changes FROM t"));
    }
}
