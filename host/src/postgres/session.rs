//! One connection of a component to PostgreSQL, and its statements.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use deadpool_postgres::Object;
use futures::TryStreamExt;
use tokio::sync::{mpsc, oneshot};
use tokio_postgres::error::{DbError as ServerError, SqlState};
use tokio_postgres::{RowStream, Statement};

use super::pool::{failed, with_sources};
use super::values::{self, Parameter};
use crate::bindings::postgres::postgres::{Column, DbError, DbValue, Error, ParameterValue, QueryError, RowSet};
use crate::rows::{CHUNK_BYTES, CHUNK_ROWS, CHUNKS, End, MAX_RESULT_BYTES, Rows};

/// A result up to here goes over in one piece.
const ROWS_AT_ONCE: usize = 1_000;
const BYTES_AT_ONCE: usize = 256 << 10;

/// A pooled connection, for as long as a component holds it. Clones are the same connection.
#[derive(Clone)]
#[expect(unreachable_pub, reason = "the generated bindings re-export it")]
pub struct Session(Arc<Inner>);

struct Inner {
    /// There until it is given back.
    client: Option<Object>,
    /// A statement may have changed settings, temporary tables, locks or the transaction: nobody else may get it.
    changed: AtomicBool,
    /// Statements whose end nobody has seen. One that was given up still runs on the server, and whoever gets the
    /// connection would wait behind it.
    running: AtomicUsize,
}

impl Drop for Inner {
    fn drop(&mut self) {
        if (self.changed.load(Ordering::Relaxed) || self.running.load(Ordering::Relaxed) > 0)
            && let Some(client) = self.client.take()
        {
            // Taken from the pool: the connection closes when it is dropped here.
            drop(Object::take(client));
        }
    }
}

/// A result for `query-async`.
pub(super) struct Outcome {
    pub columns: Vec<Column>,
    pub rows: Rows<Vec<DbValue>>,
    pub end: End<Error>,
}

/// Rows that have been read so far.
struct Reading {
    session: Session,
    stream: Pin<Box<RowStream>>,
    columns: Vec<Column>,
    rows: Vec<Vec<DbValue>>,
    bytes: usize,
}

impl Session {
    pub(super) fn new(client: Object) -> Self {
        Self(Arc::new(Inner { client: Some(client), changed: AtomicBool::new(false), running: AtomicUsize::new(0) }))
    }

    pub(super) async fn execute(&self, sql: &str, parameters: &[ParameterValue]) -> Result<u64, Error> {
        let mut reading = self.start(sql, parameters).await?;
        while reading.next().await? {
            // Rows of a statement that is executed, not queried, interest nobody.
            reading.rows.clear();
        }
        Ok(reading.stream.rows_affected().unwrap_or(0))
    }

    pub(super) async fn query(&self, sql: &str, parameters: &[ParameterValue]) -> Result<RowSet, Error> {
        let mut reading = self.start(sql, parameters).await?;
        while reading.next().await? {
            if reading.bytes > MAX_RESULT_BYTES {
                let text = format!("query result exceeds limit of {MAX_RESULT_BYTES} bytes");
                return Err(Error::QueryFailed(QueryError::Text(text)));
            }
        }
        Ok(RowSet { columns: reading.columns, rows: reading.rows })
    }

    pub(super) async fn query_streamed(&self, sql: &str, parameters: &[ParameterValue]) -> Result<Outcome, Error> {
        let mut reading = self.start(sql, parameters).await?;
        loop {
            match reading.next().await {
                Ok(true) if reading.rows.len() < ROWS_AT_ONCE && reading.bytes < BYTES_AT_ONCE => {}
                Ok(true) => return Ok(Self::stream(reading)),
                Ok(false) => {
                    return Ok(Outcome {
                        columns: reading.columns,
                        rows: Rows::all(reading.rows),
                        end: End::Known(Ok(())),
                    });
                }
                Err(error) => {
                    // As under Spin, what goes wrong after the query has begun is in the future.
                    let end = End::Known(Err(error));
                    return Ok(Outcome { columns: reading.columns, rows: Rows::all(reading.rows), end });
                }
            }
        }
    }

    fn stream(mut reading: Reading) -> Outcome {
        let columns = std::mem::take(&mut reading.columns);
        let (rows_to, rows) = mpsc::channel(CHUNKS);
        let (end_to, end) = oneshot::channel();
        // It keeps the connection, which is given back after the last row even if the component has dropped it by then.
        tokio::spawn(async move {
            let result = loop {
                if reading.rows.len() >= CHUNK_ROWS || reading.bytes >= CHUNK_BYTES {
                    reading.bytes = 0;
                    if rows_to.send(std::mem::take(&mut reading.rows)).await.is_err() {
                        // The component wants no more rows.
                        break Ok(());
                    }
                }
                match reading.next().await {
                    Ok(true) => {}
                    Ok(false) => break Ok(()),
                    Err(error) => break Err(error),
                }
            };
            if !reading.rows.is_empty() {
                _ = rows_to.send(reading.rows).await;
            }
            drop(rows_to);
            _ = end_to.send(result);
        });
        Outcome { columns, rows: Rows::chunks(rows), end: End::Later(end) }
    }

    fn client(&self) -> Result<&Object, Error> {
        self.0.client.as_ref().ok_or_else(|| failed("the connection is closed".to_owned()))
    }

    /// Sends a statement to the server.
    async fn start(&self, sql: &str, parameters: &[ParameterValue]) -> Result<Reading, Error> {
        let parameters: Vec<Parameter> = parameters.iter().map(Parameter::new).collect::<Result<_, _>>()?;
        let client = self.client()?;
        if may_change_session(sql) {
            self.0.changed.store(true, Ordering::Relaxed);
        }
        self.0.running.fetch_add(1, Ordering::Relaxed);
        match Self::send_prepared(client, sql, &parameters).await {
            Ok(stream) => Ok(Reading {
                session: self.clone(),
                stream: Box::pin(stream),
                columns: Vec::new(),
                rows: Vec::new(),
                bytes: 0,
            }),
            Err(error) => {
                self.ended();
                Err(query_failed(&error))
            }
        }
    }

    /// A statement has ended, with or without an error.
    fn ended(&self) {
        self.0.running.fetch_sub(1, Ordering::Relaxed);
    }

    async fn send_prepared(
        client: &Object,
        sql: &str,
        parameters: &[Parameter<'_>],
    ) -> Result<RowStream, tokio_postgres::Error> {
        let statement = client.prepare_cached(sql).await?;
        match send(client, &statement, parameters).await {
            Err(error) if is_stale(&error) => {
                // The schema changed since the statement was prepared. Nothing has run yet.
                client.statement_cache.remove(sql, &[]);
                let statement = client.prepare_cached(sql).await?;
                send(client, &statement, parameters).await
            }
            other => other,
        }
    }
}

async fn send(
    client: &Object,
    statement: &Statement,
    parameters: &[Parameter<'_>],
) -> Result<RowStream, tokio_postgres::Error> {
    client.query_raw(statement, parameters).await
}

impl Reading {
    /// Reads one more row. `false` after the last.
    async fn next(&mut self) -> Result<bool, Error> {
        let row = match self.stream.try_next().await {
            Ok(Some(row)) => row,
            Ok(None) => {
                self.session.ended();
                return Ok(false);
            }
            Err(error) => {
                self.session.ended();
                return Err(query_failed(&error));
            }
        };
        if self.columns.is_empty() {
            self.columns = values::columns(&row);
        }
        let (row, bytes) = values::convert(&row)?;
        self.rows.push(row);
        self.bytes += bytes;
        Ok(true)
    }
}

/// Whether a statement may leave something behind in its session. Unsure is yes: that costs a new connection.
fn may_change_session(sql: &str) -> bool {
    let word = sql.trim_start().split(|c: char| !c.is_ascii_alphabetic()).next().unwrap_or_default();
    let plain = ["SELECT", "INSERT", "UPDATE", "DELETE", "WITH", "VALUES"];
    if !plain.iter().any(|known| word.eq_ignore_ascii_case(known)) {
        return true;
    }
    let has = |needle: &[u8]| sql.as_bytes().windows(needle.len()).any(|part| part.eq_ignore_ascii_case(needle));
    has(b"set_config") || has(b"pg_advisory_lock") || has(b"pg_try_advisory_lock") || has(b" into temp")
}

/// Whether a prepared statement has to be prepared again.
fn is_stale(error: &tokio_postgres::Error) -> bool {
    match error.code() {
        Some(&SqlState::INVALID_SQL_STATEMENT_NAME) => true,
        Some(&SqlState::FEATURE_NOT_SUPPORTED) => {
            error.as_db_error().is_some_and(|error| error.message().contains("cached plan"))
        }
        _ => false,
    }
}

fn query_failed(error: &tokio_postgres::Error) -> Error {
    let Some(server) = error.as_db_error() else {
        let text = with_sources(error);
        return if error.is_closed() || is_io(error) {
            failed(text)
        } else {
            Error::QueryFailed(QueryError::Text(text))
        };
    };
    // Class 57P: the server is stopping, starting or has ended this connection.
    if server.code().code().starts_with("57P") {
        return failed(server.message().to_owned());
    }
    Error::QueryFailed(QueryError::DbError(DbError {
        as_text: with_sources(error),
        severity: server.severity().to_owned(),
        code: server.code().code().to_owned(),
        message: server.message().to_owned(),
        detail: server.detail().map(ToOwned::to_owned),
        extras: extras(server),
    }))
}

fn is_io(error: &tokio_postgres::Error) -> bool {
    use std::error::Error as _;

    error.source().is_some_and(|source| source.is::<std::io::Error>())
}

fn extras(error: &ServerError) -> Vec<(String, String)> {
    [
        ("column", error.column()),
        ("constraint", error.constraint()),
        ("routine", error.routine()),
        ("hint", error.hint()),
        ("table", error.table()),
        ("datatype", error.datatype()),
        ("schema", error.schema()),
        ("file", error.file()),
        ("where_", error.where_()),
    ]
    .into_iter()
    .filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned())))
    .chain(error.line().map(|line| ("line".to_owned(), line.to_string())))
    .collect()
}
