//! PostgreSQL through Spin. The host pools the connections behind a handle: 64 for all instances of a component.
//!
//! A connection runs one statement after the other, so each statement has one for itself: a slow one holds up no
//! other. The instance keeps one at hand, as long as nothing runs on it, and gives back the others as soon as they are
//! done, so that no instance holds what another needs.
//!
//! Nothing here waits for ever: not for a connection, a lock, or a server that is gone without a word.

use std::cell::RefCell;
use std::pin::pin;
use std::time::Duration;

use futures::future::{Either, select};
use renga_shared::sql::{DatabaseError, Row, Value};
use spin_sdk::pg::{Connection, DbValue, Error, ParameterValue, PgError, QueryError};

/// What the driver is told of time, in seconds, where the configuration says nothing: for a connection to be made, and until
/// a server that does not acknowledge anything counts as gone.
const PATIENCE: [(&str, &str); 5] = [
    ("connect_timeout", "5"),
    ("tcp_user_timeout", "10"),
    ("keepalives_idle", "10"),
    ("keepalives_interval", "5"),
    // How long a statement may take, waiting for locks included. A `SET` would be one more statement on each
    // connection, and leave it in a state that the host would have to undo before anybody else gets it.
    ("options", "-c%20statement_timeout%3D10s"),
];

/// How often is looked whether the connection at hand is free again, while another is being opened. A request of an
/// instance cannot wake another one.
const LOOK: Duration = Duration::from_millis(5);

/// The connections of an instance.
pub struct SpinPostgres {
    address: String,
    /// The one at hand.
    idle: RefCell<Option<Connection>>,
}

impl SpinPostgres {
    pub(super) fn new(address: &str) -> Self {
        Self { address: with_patience(address), idle: RefCell::default() }
    }

    pub(super) async fn query(&self, sql: &str, parameters: Vec<Value>) -> Result<Vec<Row>, DatabaseError> {
        let connection = self.take().await?;
        let rows = run(&connection, sql, parameters).await;
        // One that may be broken is of no more use. Neither is one whose statement was given up: it is dropped with it.
        if !matches!(rows, Err(DatabaseError::Unavailable(_))) {
            self.give_back(connection);
        }
        rows
    }

    /// The connection at hand, or else a new one, whichever can be had first: where the host's connections are all in
    /// use, it may be long until one is given back.
    async fn take(&self) -> Result<Connection, DatabaseError> {
        if let Some(connection) = self.idle.take() {
            return Ok(connection);
        }
        let mut opening = pin!(Connection::open(self.address.clone()));
        loop {
            match select(opening.as_mut(), pin!(spin_sdk::time::sleep(LOOK))).await {
                Either::Left((opened, _)) => return opened.map_err(|error| sort(&error)),
                Either::Right(_) => {
                    if let Some(connection) = self.idle.take() {
                        return Ok(connection);
                    }
                }
            }
        }
    }

    fn give_back(&self, connection: Connection) {
        self.idle.borrow_mut().get_or_insert(connection);
    }
}

async fn run(connection: &Connection, sql: &str, parameters: Vec<Value>) -> Result<Vec<Row>, DatabaseError> {
    let parameters: Vec<ParameterValue> = parameters.into_iter().map(parameter).collect();
    let answer = connection.query(sql, parameters).await.map_err(|error| sort(&error))?;
    let (_, rows, finished) = answer.into_inner();
    let rows = rows.collect().await;
    finished.await.map_err(|error| sort(&Error::PgError(error)))?;
    rows.into_iter().map(row).collect()
}

fn with_patience(uri: &str) -> String {
    let given = uri.split_once('?').map_or("", |(_, parameters)| parameters);
    let mut address = uri.to_owned();
    for (name, value) in PATIENCE {
        if !given.split('&').any(|parameter| parameter.starts_with(&format!("{name}="))) {
            address.push(if address.contains('?') { '&' } else { '?' });
            address.push_str(&format!("{name}={value}"));
        }
    }
    address
}

fn parameter(value: Value) -> ParameterValue {
    match value {
        Value::Null => ParameterValue::DbNull,
        Value::Integer(integer) => ParameterValue::Int64(integer),
        Value::Text(text) => ParameterValue::Str(text),
        Value::Blob(bytes) => ParameterValue::Binary(bytes),
    }
}

fn row(columns: Vec<DbValue>) -> Result<Row, DatabaseError> {
    let value = |value| match value {
        DbValue::DbNull => Ok(Value::Null),
        DbValue::Int64(integer) => Ok(Value::Integer(integer)),
        DbValue::Int32(integer) => Ok(Value::Integer(integer.into())),
        DbValue::Str(text) => Ok(Value::Text(text)),
        DbValue::Binary(bytes) => Ok(Value::Blob(bytes)),
        _ => Err(DatabaseError::Unexpected("a column has a type that no statement asks for".into())),
    };
    columns.into_iter().map(value).collect::<Result<_, _>>().map(Row::new)
}

fn sort(error: &Error) -> DatabaseError {
    match error {
        Error::PgError(PgError::ConnectionFailed(message)) => DatabaseError::Unavailable(message.clone()),
        Error::PgError(PgError::QueryFailed(QueryError::DbError(error))) => {
            DatabaseError::from_sqlstate(&error.code, &error.message)
        }
        // Without an SQLSTATE it is the connection that failed, not the statement.
        Error::PgError(PgError::QueryFailed(QueryError::Text(message)) | PgError::Other(message)) => {
            DatabaseError::Unavailable(message.clone())
        }
        other => DatabaseError::Unexpected(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::with_patience;

    #[test]
    fn what_the_configuration_says_stays() {
        let ours = "connect_timeout=5&tcp_user_timeout=10&keepalives_idle=10&keepalives_interval=5\
                    &options=-c%20statement_timeout%3D10s";
        assert_eq!(with_patience("postgresql://u@h/d"), format!("postgresql://u@h/d?{ours}"));
        assert_eq!(
            with_patience("postgresql://u@h/d?sslmode=require&connect_timeout=60"),
            "postgresql://u@h/d?sslmode=require&connect_timeout=60&tcp_user_timeout=10&keepalives_idle=10\
             &keepalives_interval=5&options=-c%20statement_timeout%3D10s"
        );
    }
}
