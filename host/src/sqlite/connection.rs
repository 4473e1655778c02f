//! A component's connection: which statement runs where, and the counts that belong to it.

use std::sync::{Arc, Mutex, OnceLock};

use tokio::sync::oneshot;

use super::file::{Database, Open, lock};
use super::read::{InPlace, Outcome, Read, collect};
use super::statement::{self, Kind, io};
use super::writer::Job;
use crate::bindings::sqlite::sqlite::{Error, QueryResult, Value};

/// The counts of a component's connection.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Last {
    pub rowid: i64,
    pub changes: u64,
}

/// A component's connection. Clones are the same connection.
#[derive(Clone)]
#[expect(unreachable_pub, reason = "the generated bindings re-export it")]
pub struct Connection {
    file: Arc<Open>,
    /// A native connection for this one alone, from the first statement on that may change a connection's state.
    own: Arc<OnceLock<Arc<Mutex<rusqlite::Connection>>>>,
    last: Arc<Mutex<Last>>,
}

/// How far a statement got without a thread of its own.
enum Started {
    Done(Result<QueryResult, Error>),
    Long(Read),
}

impl Connection {
    pub(super) fn to(database: &Database) -> Self {
        Self { file: database.open(), own: Arc::default(), last: Arc::default() }
    }

    /// The counts of the last statement that changed something.
    pub(super) fn last(&self) -> Last {
        *lock(&self.last)
    }

    pub(super) async fn execute(&self, sql: String, parameters: Vec<Value>) -> Result<QueryResult, Error> {
        match self.start(sql, parameters).await {
            Started::Done(result) => result,
            Started::Long(read) => read.collect().await,
        }
    }

    pub(super) async fn execute_streamed(&self, sql: String, parameters: Vec<Value>) -> Outcome {
        match self.start(sql, parameters).await {
            Started::Done(result) => Outcome::complete(result),
            Started::Long(read) => read.stream().await,
        }
    }

    async fn start(&self, sql: String, parameters: Vec<Value>) -> Started {
        if let Some(own) = self.own.get() {
            return Started::Done(self.run_alone(own.clone(), sql, parameters).await);
        }
        let kind = Kind::of(&sql);
        if kind != Kind::Other && statement::asks_for_counts(&sql) {
            return Started::Done(Err(Error::Io(
                "changes() and total_changes() are not provided in SQL: use RETURNING, or the connection's `changes`"
                    .to_owned(),
            )));
        }
        match kind {
            Kind::Read => {
                let read = Read { file: self.file.clone(), last_rowid: self.last().rowid, sql, parameters };
                match read.in_place() {
                    InPlace::Done(result) => Started::Done(result),
                    InPlace::Long(read) => Started::Long(read),
                    InPlace::Writes(Read { sql, parameters, .. }) => Started::Done(self.write(sql, parameters).await),
                }
            }
            Kind::Write => Started::Done(self.write(sql, parameters).await),
            Kind::Other => match self.own_connection() {
                Ok(own) => Started::Done(self.run_alone(own, sql, parameters).await),
                Err(error) => Started::Done(Err(io(&error))),
            },
        }
    }

    async fn write(&self, sql: String, parameters: Vec<Value>) -> Result<QueryResult, Error> {
        let (answer, written) = oneshot::channel();
        self.file.writer().send(Job::new(sql, parameters, self.last().rowid, answer));
        let written = written.await.unwrap_or_else(|_| Err(interrupted()))?;
        *lock(&self.last) = written.last;
        Ok(written.result)
    }

    fn own_connection(&self) -> rusqlite::Result<Arc<Mutex<rusqlite::Connection>>> {
        if let Some(own) = self.own.get() {
            return Ok(own.clone());
        }
        let native = statement::open(self.file.path())?;
        statement::set_last_insert_rowid(&native, self.last().rowid);
        Ok(self.own.get_or_init(|| Arc::new(Mutex::new(native))).clone())
    }

    async fn run_alone(
        &self,
        own: Arc<Mutex<rusqlite::Connection>>,
        sql: String,
        parameters: Vec<Value>,
    ) -> Result<QueryResult, Error> {
        let last = self.last.clone();
        blocking(move || {
            let native = lock(&own);
            let result = native
                .prepare_cached(&sql)
                .map_err(|error| io(&error))
                .and_then(|mut prepared| collect(&mut prepared, &parameters));
            *lock(&last) = Last { rowid: native.last_insert_rowid(), changes: native.changes() };
            result
        })
        .await
    }
}

/// Does on another thread what may take its time.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|_| Err(interrupted()))
}

/// What a component is told of a statement whose end nobody saw.
pub(super) fn interrupted() -> Error {
    Error::Io("the statement was interrupted".to_owned())
}
