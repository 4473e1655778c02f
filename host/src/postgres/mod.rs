//! `spin:postgres`: PostgreSQL for components, as Spin provides it.
//!
//! What holds as under Spin: a component reaches only addresses of its `allowed_outbound_hosts`, over TCP; connections
//! come from a pool per component and address of 64; `query-async` says the errors of a statement at once and later
//! ones in its future; the columns of a result without rows are empty. What is done otherwise underneath:
//!
//! - Statements are prepared once for each pooled connection.
//! - Spin resets every connection before its next use, at the cost of a round trip. Here a connection whose session a
//!   statement may have changed (anything but plain reads and writes) is closed instead, and the others go on as they are.
//! - A server that is down is an error after 5 s at most, and a lost connection is `connection-failed`: the component
//!   opens another.

mod pool;
mod session;
mod values;

use wasmtime::component::{Accessor, FutureReader, HasData, Resource, ResourceTable, StreamReader};

use crate::bindings::postgres::postgres::{
    Column, DbValue, Error, Host, HostConnection, HostConnectionBuilder, HostConnectionBuilderWithStore,
    HostConnectionWithStore, ParameterValue, RowSet,
};
pub(crate) use pool::Pools;
#[expect(unreachable_pub, reason = "the generated bindings re-export it")]
pub use session::Session as Connection;

/// Connections and builders that one instance may hold at a time, as in Spin.
const MAX_RESOURCES: usize = 256;

/// An address, and what a component wants beside it.
#[derive(Clone)]
#[expect(unreachable_pub, reason = "the generated bindings re-export it")]
pub struct ConnectionBuilder {
    address: String,
    root: Option<String>,
}

/// What one instance of a component has of PostgreSQL.
pub(crate) struct Postgres {
    pools: Pools,
    resources: ResourceTable,
}

impl Postgres {
    pub(crate) fn new(pools: Pools) -> Self {
        let mut resources = ResourceTable::new();
        resources.set_max_capacity(MAX_RESOURCES);
        Self { pools, resources }
    }

    fn push(&mut self, session: Connection) -> Result<Resource<Connection>, Error> {
        self.resources.push(session).map_err(|_| Error::ConnectionFailed("too many connections".to_owned()))
    }

    async fn open_from(&mut self, builder: ConnectionBuilder) -> Result<Resource<Connection>, Error> {
        let session = self.pools.session(&builder.address, builder.root.as_deref()).await?;
        self.push(session)
    }

    fn get(&self, connection: &Resource<Connection>) -> wasmtime::Result<Connection> {
        Ok(self.resources.get(connection)?.clone())
    }
}

impl HasData for Postgres {
    type Data<'a> = &'a mut Postgres;
}

impl Host for Postgres {}

impl HostConnectionBuilder for Postgres {
    async fn new(&mut self, address: String) -> wasmtime::Result<Resource<ConnectionBuilder>> {
        Ok(self.resources.push(ConnectionBuilder { address, root: None })?)
    }

    async fn set_ca_root(
        &mut self,
        builder: Resource<ConnectionBuilder>,
        certificate: String,
    ) -> wasmtime::Result<Result<(), Error>> {
        if let Err(error) = pool::check_root(&certificate) {
            return Ok(Err(error));
        }
        self.resources.get_mut(&builder)?.root = Some(certificate);
        Ok(Ok(()))
    }

    async fn build(
        &mut self,
        builder: Resource<ConnectionBuilder>,
    ) -> wasmtime::Result<Result<Resource<Connection>, Error>> {
        let builder = self.resources.get(&builder)?.clone();
        Ok(self.open_from(builder).await)
    }

    async fn drop(&mut self, builder: Resource<ConnectionBuilder>) -> wasmtime::Result<()> {
        self.resources.delete(builder)?;
        Ok(())
    }
}

impl HostConnection for Postgres {
    async fn open(&mut self, address: String) -> wasmtime::Result<Result<Resource<Connection>, Error>> {
        Ok(self.open_from(ConnectionBuilder { address, root: None }).await)
    }

    async fn query(
        &mut self,
        connection: Resource<Connection>,
        statement: String,
        parameters: Vec<ParameterValue>,
    ) -> wasmtime::Result<Result<RowSet, Error>> {
        Ok(self.get(&connection)?.query(&statement, &parameters).await)
    }

    async fn execute(
        &mut self,
        connection: Resource<Connection>,
        statement: String,
        parameters: Vec<ParameterValue>,
    ) -> wasmtime::Result<Result<u64, Error>> {
        Ok(self.get(&connection)?.execute(&statement, &parameters).await)
    }

    async fn drop(&mut self, connection: Resource<Connection>) -> wasmtime::Result<()> {
        self.resources.delete(connection)?;
        Ok(())
    }
}

/// What a component is told of a query whose end nobody saw.
fn interrupted() -> Error {
    Error::Other("the query was interrupted".to_owned())
}

async fn open_async<T: Send>(
    accessor: &Accessor<T, Postgres>,
    builder: ConnectionBuilder,
) -> Result<Resource<Connection>, Error> {
    let pools = accessor.with(|mut access| access.get().pools.clone());
    let session = pools.session(&builder.address, builder.root.as_deref()).await?;
    accessor.with(|mut access| access.get().push(session))
}

impl<T: Send> HostConnectionBuilderWithStore<T> for Postgres {
    async fn build_async(
        accessor: &Accessor<T, Self>,
        builder: Resource<ConnectionBuilder>,
    ) -> wasmtime::Result<Result<Resource<Connection>, Error>> {
        let builder = accessor.with(|mut access| access.get().resources.get(&builder).cloned())?;
        Ok(open_async(accessor, builder).await)
    }
}

type Streamed = (Vec<Column>, StreamReader<Vec<DbValue>>, FutureReader<Result<(), Error>>);

impl<T: Send> HostConnectionWithStore<T> for Postgres {
    async fn open_async(
        accessor: &Accessor<T, Self>,
        address: String,
    ) -> wasmtime::Result<Result<Resource<Connection>, Error>> {
        Ok(open_async(accessor, ConnectionBuilder { address, root: None }).await)
    }

    async fn query_async(
        accessor: &Accessor<T, Self>,
        connection: Resource<Connection>,
        statement: String,
        parameters: Vec<ParameterValue>,
    ) -> wasmtime::Result<Result<Streamed, Error>> {
        let connection = accessor.with(|mut access| access.get().get(&connection))?;
        let outcome = match connection.query_streamed(&statement, &parameters).await {
            Ok(outcome) => outcome,
            Err(error) => return Ok(Err(error)),
        };
        let (rows, end) = accessor.with(|mut access| -> wasmtime::Result<_> {
            let rows = StreamReader::new(&mut access, outcome.rows)?;
            Ok((rows, FutureReader::new(&mut access, outcome.end.wait(interrupted))?))
        })?;
        Ok(Ok((outcome.columns, rows, end)))
    }

    async fn execute_async(
        accessor: &Accessor<T, Self>,
        connection: Resource<Connection>,
        statement: String,
        parameters: Vec<ParameterValue>,
    ) -> wasmtime::Result<Result<u64, Error>> {
        let connection = accessor.with(|mut access| access.get().get(&connection))?;
        Ok(connection.execute(&statement, &parameters).await)
    }
}
