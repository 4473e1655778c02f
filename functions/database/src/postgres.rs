//! PostgreSQL through Spin. The host pools the connections behind a handle.
//!
//! Nothing here waits for ever: not for a connection, a lock, or a server that is gone without a word.

use std::cell::RefCell;
use std::rc::Rc;

use renga_shared::sql::{DatabaseError, Row, Value};
use spin_sdk::pg::{Connection, DbValue, Error, ParameterValue, PgError, QueryError};

/// What the driver is told of time, in seconds, where the configuration says nothing: for a connection to be made, and until
/// a server that does not acknowledge anything counts as gone.
const PATIENCE: [(&str, u32); 4] =
    [("connect_timeout", 5), ("tcp_user_timeout", 10), ("keepalives_idle", 10), ("keepalives_interval", 5)];
/// How long a statement may take, waiting for locks included.
const STATEMENT_TIMEOUT: &str = "SET statement_timeout = '10s'";

/// One handle of an instance, opened when it is first needed and shared by its requests.
pub struct SpinPostgres {
    address: String,
    connection: RefCell<Option<Rc<Connection>>>,
}

impl SpinPostgres {
    pub(super) fn new(address: &str) -> Self {
        Self { address: with_patience(address), connection: RefCell::new(None) }
    }

    pub(super) async fn query(&self, sql: &str, parameters: Vec<Value>) -> Result<Vec<Row>, DatabaseError> {
        let connection = self.connection().await?;
        let parameters: Vec<ParameterValue> = parameters.into_iter().map(parameter).collect();
        let answer = self.ran(connection.query(sql, parameters).await)?;
        let (_, rows, finished) = answer.into_inner();
        let rows = rows.collect().await;
        self.ran(finished.await.map_err(Error::PgError))?;
        rows.into_iter().map(row).collect()
    }

    /// Gives up the connection, on which something is stuck.
    pub(super) fn forget(&self) {
        *self.connection.borrow_mut() = None;
    }

    async fn connection(&self) -> Result<Rc<Connection>, DatabaseError> {
        if let Some(connection) = &*self.connection.borrow() {
            return Ok(Rc::clone(connection));
        }
        let opened = Rc::new(self.ran(Connection::open(self.address.clone()).await)?);
        self.ran(opened.execute(STATEMENT_TIMEOUT, Vec::<ParameterValue>::new()).await)?;
        // Two requests may open one each; either serves both.
        *self.connection.borrow_mut() = Some(Rc::clone(&opened));
        Ok(opened)
    }

    /// Sorts an error, and drops a handle that may be broken.
    fn ran<T>(&self, result: Result<T, Error>) -> Result<T, DatabaseError> {
        result.map_err(|error| {
            let error = sort(&error);
            if matches!(error, DatabaseError::Unavailable(_)) {
                *self.connection.borrow_mut() = None;
            }
            error
        })
    }
}

fn with_patience(uri: &str) -> String {
    let given = uri.split_once('?').map_or("", |(_, parameters)| parameters);
    let mut address = uri.to_owned();
    for (name, seconds) in PATIENCE {
        if !given.split('&').any(|parameter| parameter.starts_with(&format!("{name}="))) {
            address.push(if address.contains('?') { '&' } else { '?' });
            address.push_str(&format!("{name}={seconds}"));
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
        let ours = "connect_timeout=5&tcp_user_timeout=10&keepalives_idle=10&keepalives_interval=5";
        assert_eq!(with_patience("postgresql://u@h/d"), format!("postgresql://u@h/d?{ours}"));
        assert_eq!(
            with_patience("postgresql://u@h/d?sslmode=require&connect_timeout=60"),
            "postgresql://u@h/d?sslmode=require&connect_timeout=60&tcp_user_timeout=10&keepalives_idle=10\
             &keepalives_interval=5"
        );
    }
}
