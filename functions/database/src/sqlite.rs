//! SQLite through Spin.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use renga_shared::sql::{DatabaseError, Row, Value};
use spin_sdk::sqlite::{Connection, Error, RowResult, Value as SpinValue};

/// How long a connection is kept. It goes on with its file when another is put in that one's place, as when a backup is
/// restored: what is opened next finds the other.
const LIFETIME: Duration = Duration::from_secs(1);

/// One connection of an instance, opened when it is needed and shared by its requests.
pub struct SpinSqlite {
    label: &'static str,
    connection: RefCell<Option<(Instant, Rc<Connection>)>>,
}

impl SpinSqlite {
    pub(super) const fn new(label: &'static str) -> Self {
        Self { label, connection: RefCell::new(None) }
    }

    pub(super) async fn query(&self, sql: &str, parameters: Vec<Value>) -> Result<Vec<Row>, DatabaseError> {
        let connection = self.connection().await?;
        let parameters = parameters.into_iter().map(parameter);
        let answer = connection.execute(sql, parameters).await.map_err(|error| sort(&error))?;
        let rows = answer.collect().await.map_err(|error| sort(&error))?;
        Ok(rows.into_iter().map(row).collect())
    }

    /// Gives up the connection, on which something is stuck.
    pub(super) fn forget(&self) {
        *self.connection.borrow_mut() = None;
    }

    async fn connection(&self) -> Result<Rc<Connection>, DatabaseError> {
        if let Some((since, connection)) = &*self.connection.borrow()
            && since.elapsed() < LIFETIME
        {
            return Ok(Rc::clone(connection));
        }
        let opened = Rc::new(Connection::open(self.label).await.map_err(|error| sort(&error))?);
        // Two requests may open one each; either serves both.
        *self.connection.borrow_mut() = Some((Instant::now(), Rc::clone(&opened)));
        Ok(opened)
    }
}

fn parameter(value: Value) -> SpinValue {
    match value {
        Value::Null => SpinValue::Null,
        Value::Integer(integer) => SpinValue::Integer(integer),
        Value::Text(text) => SpinValue::Text(text),
        Value::Blob(bytes) => SpinValue::Blob(bytes),
    }
}

fn row(row: RowResult) -> Row {
    let value = |value| match value {
        SpinValue::Null => Value::Null,
        SpinValue::Integer(integer) => Value::Integer(integer),
        // No column of ours is a real; if somebody made one, its text says more than a cast would.
        SpinValue::Real(real) => Value::Text(real.to_string()),
        SpinValue::Text(text) => Value::Text(text),
        SpinValue::Blob(bytes) => Value::Blob(bytes),
    };
    Row::new(row.values.into_iter().map(value).collect())
}

fn sort(error: &Error) -> DatabaseError {
    match error {
        Error::NoSuchDatabase | Error::AccessDenied | Error::InvalidConnection => {
            DatabaseError::Unavailable(error.to_string())
        }
        Error::DatabaseFull => DatabaseError::Full(error.to_string()),
        Error::Io(message) => DatabaseError::from_sqlite(message),
    }
}
