//! Reads: tried in place, and where that is not enough on a blocking thread.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use super::connection::blocking;
use super::file::{Effort, Open, Reader};
use super::statement::{self, io};
use crate::bindings::sqlite::sqlite::{Error, QueryResult, RowResult, Value};
use crate::rows::{CHUNK_BYTES, CHUNK_ROWS, CHUNKS, End, MAX_RESULT_BYTES, Rows};

/// Rows and bytes that a read in place may have.
const ROWS_IN_PLACE: usize = 1_000;
const BYTES_IN_PLACE: usize = 256 << 10;

/// A read that is to be done.
pub(super) struct Read {
    pub file: Arc<Open>,
    pub last_rowid: i64,
    pub sql: String,
    pub parameters: Vec<Value>,
}

/// What a read in place came to.
pub(super) enum InPlace {
    Done(Result<QueryResult, Error>),
    /// It has to wait, or is long.
    Long(Read),
    /// It writes after all: `WITH ... INSERT`.
    Writes(Read),
}

/// A result for `execute-async`.
pub(super) struct Outcome {
    pub columns: Vec<String>,
    pub rows: Rows<RowResult>,
    pub end: End<Error>,
}

/// Why a read ended early.
enum Stop {
    Sqlite(rusqlite::Error),
    TooMuch,
}

impl From<rusqlite::Error> for Stop {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl Read {
    /// Reads here and now, within the bounds of a read in place.
    pub(super) fn in_place(self) -> InPlace {
        enum Tried {
            Done(QueryResult),
            Long,
            Writes,
        }
        let tried = self.on_reader(Effort::InPlace, |reader| {
            let mut prepared = reader.native.prepare_cached(&self.sql)?;
            if !prepared.readonly() {
                return Ok(Tried::Writes);
            }
            let (mut rows, mut bytes) = (Vec::new(), 0);
            let columns = statement::run(&mut prepared, &self.parameters, |_, row| {
                bytes += statement::row_bytes(&row);
                rows.push(row);
                if rows.len() > ROWS_IN_PLACE || bytes > BYTES_IN_PLACE { Err(Stop::TooMuch) } else { Ok(()) }
            });
            match columns {
                Ok(columns) => Ok(Tried::Done(QueryResult { columns, rows })),
                Err(Stop::TooMuch) => Ok(Tried::Long),
                Err(Stop::Sqlite(error)) => Err(error),
            }
        });
        match tried {
            Ok(Tried::Done(result)) => InPlace::Done(Ok(result)),
            Ok(Tried::Long) => InPlace::Long(self),
            Ok(Tried::Writes) => InPlace::Writes(self),
            Err(error) if statement::is_interrupted(&error) || statement::is_busy(&error) => InPlace::Long(self),
            Err(error) => InPlace::Done(Err(io(&error))),
        }
    }

    /// Reads everything on a thread where that may take its time.
    pub(super) async fn collect(self) -> Result<QueryResult, Error> {
        blocking(move || {
            self.on_reader(Effort::Unbounded, |reader| {
                let mut prepared = reader.native.prepare_cached(&self.sql)?;
                Ok(collect(&mut prepared, &self.parameters))
            })
            .unwrap_or_else(|error| Err(io(&error)))
        })
        .await
    }

    /// The same, handed over in chunks as they are read.
    pub(super) async fn stream(self) -> Outcome {
        let (columns_to, columns) = oneshot::channel();
        let (rows_to, rows) = mpsc::channel(CHUNKS);
        let (end_to, end) = oneshot::channel();
        tokio::task::spawn_blocking(move || {
            let result = self.on_reader(Effort::Unbounded, |reader| {
                let mut prepared = reader.native.prepare_cached(&self.sql)?;
                send_rows(&mut prepared, &self.parameters, columns_to, &rows_to)
            });
            drop(rows_to);
            // Nobody listens any more when the component has dropped the future.
            _ = end_to.send(result.map_err(|error| io(&error)));
        });
        let columns = columns.await.unwrap_or_default();
        Outcome { columns, rows: Rows::chunks(rows), end: End::Later(end) }
    }

    fn on_reader<T>(&self, effort: Effort, work: impl FnOnce(&Reader) -> rusqlite::Result<T>) -> rusqlite::Result<T> {
        let reader = self.file.reader()?;
        let result = reader.prepare_for(effort, self.last_rowid).and_then(|()| work(&reader));
        self.file.give_back(reader);
        result
    }
}

impl Outcome {
    pub(super) fn complete(result: Result<QueryResult, Error>) -> Self {
        match result {
            Ok(QueryResult { columns, rows }) => Self { columns, rows: Rows::all(rows), end: End::Known(Ok(())) },
            // As Spin does it: the error of a statement is in the future, not in the result.
            Err(error) => Self { columns: Vec::new(), rows: Rows::all(Vec::new()), end: End::Known(Err(error)) },
        }
    }
}

/// Sends the rows of a long read in chunks, until the component stops listening.
fn send_rows(
    prepared: &mut rusqlite::Statement<'_>,
    parameters: &[Value],
    columns_to: oneshot::Sender<Vec<String>>,
    rows_to: &mpsc::Sender<Vec<RowResult>>,
) -> rusqlite::Result<()> {
    let mut columns_to = Some(columns_to);
    let (mut chunk, mut bytes) = (Vec::new(), 0);
    let columns = statement::run(prepared, parameters, |columns, row| {
        if let Some(to) = columns_to.take() {
            _ = to.send(columns.to_vec());
        }
        bytes += statement::row_bytes(&row);
        chunk.push(row);
        if chunk.len() >= CHUNK_ROWS || bytes >= CHUNK_BYTES {
            bytes = 0;
            rows_to.blocking_send(std::mem::take(&mut chunk)).map_err(|_| Stop::TooMuch)?;
        }
        Ok(())
    });
    match columns {
        Ok(columns) => {
            if let Some(to) = columns_to {
                _ = to.send(columns);
            }
            if !chunk.is_empty() {
                _ = rows_to.blocking_send(chunk);
            }
            Ok(())
        }
        // The component wants no more rows.
        Err(Stop::TooMuch) => Ok(()),
        Err(Stop::Sqlite(error)) => Err(error),
    }
}

/// All rows of a statement, up to the size that Spin allows.
pub(super) fn collect(prepared: &mut rusqlite::Statement<'_>, parameters: &[Value]) -> Result<QueryResult, Error> {
    let (mut rows, mut bytes) = (Vec::new(), 0);
    let columns = statement::run(prepared, parameters, |_, row| {
        bytes += statement::row_bytes(&row);
        rows.push(row);
        if bytes > MAX_RESULT_BYTES { Err(Stop::TooMuch) } else { Ok(()) }
    });
    match columns {
        Ok(columns) => Ok(QueryResult { columns, rows }),
        Err(Stop::TooMuch) => Err(Error::Io(format!("query result exceeds limit of {MAX_RESULT_BYTES} bytes"))),
        Err(Stop::Sqlite(error)) => Err(io(&error)),
    }
}
