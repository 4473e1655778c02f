//! `spin:sqlite`: SQLite files for components, as Spin provides them.
//!
//! What holds as under Spin: a component opens databases by label and only those of its manifest; connections set no
//! pragmas and wait up to 5 s for a lock; files may not be attached; the text of an error of SQLite arrives as
//! `io(text)`; `execute-async` says the errors of a statement in its future. What is done otherwise underneath:
//!
//! - Reads run on pooled connections with cached statements. A read is first tried in place with a bounded number of
//!   steps and without waiting for locks; what is not done then starts again on a blocking thread. So the usual read
//!   of a few rows costs microseconds and no change of threads, and none holds up a worker.
//! - `INSERT`, `UPDATE` and `DELETE` go to one writer per file, which puts what is waiting into one transaction (see
//!   [`writer`]): one `fsync` for all, and no component waits for another's lock. A write is answered after its commit.
//! - Any other statement (`PRAGMA`, `BEGIN`, `CREATE`, `ATTACH`, `VACUUM`, ...) may give a connection a state of its
//!   own. From the first of them on, the component's connection has a native one for itself.
//! - `changes()` and `last_insert_rowid()` are kept for each of the components' connections. As functions in SQL they
//!   would speak of a shared connection: `last_insert_rowid()` is set right before each statement, statements with
//!   `changes()` or `total_changes()` are refused on a connection without a native one.

mod connection;
mod file;
mod read;
mod statement;
mod writer;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use wasmtime::component::{Accessor, FutureReader, HasData, Resource, ResourceTable, StreamReader};

use crate::bindings::sqlite::sqlite::{
    Error, Host, HostConnection, HostConnectionWithStore, QueryResult, RowResult, Value,
};
use crate::settings::WriteTurns;
#[expect(unreachable_pub, reason = "the generated bindings re-export it")]
pub use connection::Connection;
use connection::interrupted;
use file::Database;
use read::Outcome;

/// Connections that one instance may hold at a time, as in Spin.
const MAX_CONNECTIONS: usize = 256;

/// The SQLite files of the host, by label.
#[derive(Default)]
pub(crate) struct Databases(BTreeMap<String, Database>);

impl Databases {
    pub(crate) fn new(files: BTreeMap<String, PathBuf>, mut turns: BTreeMap<String, WriteTurns>) -> Self {
        let database = |(label, path)| {
            let turns = turns.remove(&label);
            (label, Database::new(path, turns))
        };
        Self(files.into_iter().map(database).collect())
    }

    /// Makes the file's folder and tries to open the file, so that a wrong path is said at the start.
    pub(crate) fn check(&self, label: &str) -> Option<Result<(), (PathBuf, String)>> {
        let database = self.0.get(label)?;
        Some(database.check().map_err(|reason| (database.path().to_owned(), reason)))
    }
}

/// What one instance of a component has of SQLite.
pub(crate) struct Sqlite {
    databases: Arc<Databases>,
    allowed: Arc<BTreeSet<String>>,
    connections: ResourceTable,
}

impl Sqlite {
    pub(crate) fn new(databases: Arc<Databases>, allowed: Arc<BTreeSet<String>>) -> Self {
        let mut connections = ResourceTable::new();
        connections.set_max_capacity(MAX_CONNECTIONS);
        Self { databases, allowed, connections }
    }

    fn open_database(&mut self, label: &str) -> Result<Resource<Connection>, Error> {
        if !self.allowed.contains(label) {
            return Err(Error::AccessDenied);
        }
        let connection = Connection::to(self.databases.0.get(label).ok_or(Error::NoSuchDatabase)?);
        self.connections.push(connection).map_err(|_| Error::Io("too many connections opened".to_owned()))
    }

    fn get(&self, connection: &Resource<Connection>) -> wasmtime::Result<Connection> {
        Ok(self.connections.get(connection)?.clone())
    }
}

impl HasData for Sqlite {
    type Data<'a> = &'a mut Sqlite;
}

impl Host for Sqlite {}

impl HostConnection for Sqlite {
    async fn open(&mut self, label: String) -> wasmtime::Result<Result<Resource<Connection>, Error>> {
        Ok(self.open_database(&label))
    }

    async fn execute(
        &mut self,
        connection: Resource<Connection>,
        statement: String,
        parameters: Vec<Value>,
    ) -> wasmtime::Result<Result<QueryResult, Error>> {
        Ok(self.get(&connection)?.execute(statement, parameters).await)
    }

    async fn last_insert_rowid(&mut self, connection: Resource<Connection>) -> wasmtime::Result<i64> {
        Ok(self.get(&connection)?.last().rowid)
    }

    async fn changes(&mut self, connection: Resource<Connection>) -> wasmtime::Result<u64> {
        Ok(self.get(&connection)?.last().changes)
    }

    async fn drop(&mut self, connection: Resource<Connection>) -> wasmtime::Result<()> {
        self.connections.delete(connection)?;
        Ok(())
    }
}

type Streamed = (Vec<String>, StreamReader<RowResult>, FutureReader<Result<(), Error>>);

impl<T: Send> HostConnectionWithStore<T> for Sqlite {
    async fn open_async(
        accessor: &Accessor<T, Self>,
        label: String,
    ) -> wasmtime::Result<Result<Resource<Connection>, Error>> {
        Ok(accessor.with(|mut access| access.get().open_database(&label)))
    }

    async fn execute_async(
        accessor: &Accessor<T, Self>,
        connection: Resource<Connection>,
        statement: String,
        parameters: Vec<Value>,
    ) -> wasmtime::Result<Result<Streamed, Error>> {
        let connection = accessor.with(|mut access| access.get().get(&connection))?;
        let Outcome { columns, rows, end } = connection.execute_streamed(statement, parameters).await;
        let (rows, end) = accessor.with(|mut access| -> wasmtime::Result<_> {
            Ok((StreamReader::new(&mut access, rows)?, FutureReader::new(&mut access, end.wait(interrupted))?))
        })?;
        Ok(Ok((columns, rows, end)))
    }

    async fn last_insert_rowid_async(
        accessor: &Accessor<T, Self>,
        connection: Resource<Connection>,
    ) -> wasmtime::Result<i64> {
        accessor.with(|mut access| Ok(access.get().get(&connection)?.last().rowid))
    }

    async fn changes_async(accessor: &Accessor<T, Self>, connection: Resource<Connection>) -> wasmtime::Result<u64> {
        accessor.with(|mut access| Ok(access.get().get(&connection)?.last().changes))
    }
}
